/* Links: see link.h. What is read in one round of events is answered in as few writes as it takes: links that have something to send
 * are due, and flushed when the round is over. What Python is to know of is told once a turn, whatever happened.
 */
#include "link.h"
#include "tunnel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define DOOR_KEY 256u
#define READS 4                 /* of one event, before others have their turn */
#define RECORD 16384u           /* bytes of one TLS record */
#define AT_ONCE (128u << 10)    /* bytes that are sent to one peer before others have their turn */

void link_due(lane *l, link_ *k) {
    if (k->is_due) return;
    k->is_due = true;
    k->next_due = l->due;
    l->due = k;
}

static void tell(lane *l, link_ *k) {
    k->told = true;
    l->links_told = true;
}

static void ends(lane *l, link_ *k, const char *why) {
    if (k->ended) return;
    k->ended = true;
    snprintf(k->why, sizeof k->why, "%s", why);
    watch(l, &k->side, k, 0);
    tell(l, k);
}

link_ *lane_link(lane *l, uint64_t id, int fd, secured *tls, h2 *h, uint64_t stall, link_ **handle) {
    link_ *k = calloc(1, sizeof *k);
    if (k == NULL) return NULL;
    k->side.kind = LINKED;
    k->side.fd = fd;
    k->id = id;
    k->h = h;
    k->tls = tls;
    k->stall = stall;
    l->now = micros_now();
    k->heard = k->idle_since = relay_clock(l);
    if (!enter(l, &k->side, k)) {
        free(k);
        return NULL;
    }
    h->owner = k;
    h->visitor = &link_visitor;
    h->lane = l;
    k->handle = handle;
    *handle = k;
    k->next = l->first_link;
    if (k->next != NULL) k->next->previous = k;
    l->first_link = k;
    l->links++;
    link_due(l, k);
    return k;
}

void link_drop(lane *l, link_ *k, bool bye) {
    static link_ nobody;
    tunnels_leave(l, k);
    h2_abandon(k->h);
    for (caller *c = l->first_caller; c != NULL; c = c->next)
        if (c->from == k) c->from = &nobody;   /* it has its answer, and its request is still on its way to the server */
    k->h->visitor = NULL;
    k->h->owner = NULL;
    if (k->tls != NULL) {
        if (bye && !k->ended) secured_bye(k->tls);
        secured_free(k->tls);
    }
    leave(l, &k->side);
    if (k->next != NULL) k->next->previous = k->previous;
    if (k->previous != NULL) k->previous->next = k->next;
    else l->first_link = k->next;
    if (k->is_due) {
        link_ **at = &l->due;
        while (*at != NULL && *at != k) at = &(*at)->next_due;
        if (*at == k) *at = k->next_due;
    }
    for (target *t = l->first_target; t != NULL; t = t->next) target_unlink(t, k);
    for (uint32_t i = 0; i < k->doors; i++) {
        plan_free(l, k->door[i].plan);
        free(k->door[i].key);
    }
    *k->handle = NULL;
    l->links--;
    k->next = l->dead_links;
    l->dead_links = k;
}

/* ---- doors ---- */

static uint32_t door_key(uint8_t *key, const uint8_t *what, size_t what_size, const uint8_t *whom, size_t whom_size) {
    const uint8_t *last = whom + whom_size;
    while (last > whom && last[-1] != ',') last--;
    while (last < whom + whom_size && (*last == ' ' || *last == '\t')) last++;
    size_t last_size = (size_t)(whom + whom_size - last);
    if (what_size + last_size + 1 > DOOR_KEY) return 0;
    memcpy(key, what, what_size);
    key[what_size] = 0;   /* neither can hold it */
    if (last_size) memcpy(key + what_size + 1, last, last_size);
    return (uint32_t)(what_size + last_size + 1);
}

const door *door_find(const link_ *k, const uint8_t *what, size_t what_size, const uint8_t *whom, size_t whom_size) {
    uint8_t key[DOOR_KEY];
    uint32_t size = door_key(key, what, what_size, whom, whom_size);
    uint64_t hash = hash_of(0, key, size);
    for (uint32_t i = 0; size && i < k->doors; i++)
        if (k->door[i].hash == hash && k->door[i].size == size && memcmp(k->door[i].key, key, size) == 0) return &k->door[i];
    return NULL;
}

bool door_learn(lane *l, link_ *k, const uint8_t *what, size_t what_size, const uint8_t *whom, size_t whom_size, plan *p, uint64_t guest) {
    uint8_t key[DOOR_KEY];
    uint32_t size = door_key(key, what, what_size, whom, whom_size);
    if (size == 0) return true;
    door *d = (door *)door_find(k, what, what_size, whom, whom_size);
    if (d == NULL) {
        uint8_t *copy = malloc(size);
        if (copy == NULL) return false;
        memcpy(copy, key, size);
        if (k->doors < DOORS) {
            d = &k->door[k->doors++];
        } else {
            d = &k->door[k->next_door++ % DOORS];
            free(d->key);
            plan_free(l, d->plan);
        }
        *d = (door){hash_of(0, key, size), p, guest, size, copy};
    } else {
        plan_free(l, d->plan);
        d->plan = p;
        d->guest = guest;
    }
    p->users++;
    return true;
}

/* Answers as secured_read. */
static ssize_t read_some(link_ *k, uint8_t *to, size_t size) {
    if (k->tls != NULL) return secured_read(k->tls, to, size);
    ssize_t got = recv(k->side.fd, to, size, MSG_DONTWAIT);
    if (got >= 0) return got == 0 ? SECURED_END : got;
    return errno == EAGAIN || errno == EINTR ? SECURED_AGAIN : SECURED_BROKEN;
}

static ssize_t write_some(link_ *k, const uint8_t *data, size_t size) {
    if (k->tls != NULL) return secured_write(k->tls, data, size);
    ssize_t sent = send(k->side.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return sent;
    return errno == EAGAIN || errno == EINTR ? SECURED_AGAIN : SECURED_BROKEN;
}

/* What was read from it before it was the lane's. */
void link_feed(lane *l, link_ *k, const uint8_t *data, size_t size) {
    l->now = micros_now();
    k->heard = relay_clock(l);
    h2_feed(k->h, data, size, (double)k->heard / 1e6);
    callers_flush(l);
    link_due(l, k);
    if (k->h->over || held(&k->h->events)) tell(l, k);
}

static void read_link(lane *l, link_ *k) {
    for (int i = 0; i < READS && !k->ended; i++) {
        ssize_t got = read_some(k, l->scratch, k->tls != NULL ? RECORD : SCRATCH);
        if (got == SECURED_AGAIN) return;
        if (got == SECURED_END) {
            ends(l, k, "");
            return;
        }
        if (got < 0) {
            ends(l, k, k->tls != NULL ? secured_why(k->tls) : strerror(errno));
            return;
        }
        k->heard = relay_clock(l);
        h2_feed(k->h, l->scratch, (size_t)got, (double)k->heard / 1e6);
        callers_flush(l);
        link_due(l, k);
        if (k->h->over || held(&k->h->events)) tell(l, k);
        if (k->h->over) {
            watch(l, &k->side, k, k->side.events & ~(uint32_t)EPOLLIN);
            return;
        }
        if (k->side.gone || (size_t)got < 1024) return;   /* hardly more than that is here: an event tells of it */
    }
}

void link_event(lane *l, link_ *k, uint32_t events) {
    if (events & EPOLLOUT) {
        k->blocked = false;
        link_due(l, k);
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        if (k->side.events & EPOLLIN) read_link(l, k);
        else if (events & (EPOLLERR | EPOLLHUP)) ends(l, k, "the connection was reset");
    }
}

/* False: there is more to send, and the peer would take it. */
static bool flush_link(lane *l, link_ *k) {
    buffer *out = &k->h->out;
    uint32_t sent_now = 0;
    while (!k->blocked) {
        h2_pump(k->h, PUMPED);
        if (held(out) == 0) break;
        if (k->ended && k->why[0]) {
            buffer_free(out);
            break;
        }
        if (sent_now >= AT_ONCE) return false;
        ssize_t sent = write_some(k, first(out), held(out) < RECORD ? held(out) : RECORD);
        if (sent == SECURED_AGAIN) {
            k->blocked = true;
            k->blocked_since = relay_clock(l);
            watch(l, &k->side, k, k->side.events | EPOLLOUT);
        } else if (sent < 0) {
            ends(l, k, k->tls != NULL ? secured_why(k->tls) : strerror(errno));
            return true;
        } else {
            sent_now += (uint32_t)sent;
            buffer_take(out, (uint32_t)sent);
        }
    }
    if (!k->blocked && k->side.events & EPOLLOUT) watch(l, &k->side, k, k->side.events & ~(uint32_t)EPOLLOUT);
    if (k->tell_below && held(out) < k->tell_below) {
        k->tell_below = 0;
        tell(l, k);
    }
    if (held(&k->h->events)) tell(l, k);
    if (k->h->streams == 0) {
        if (!k->idle) k->idle_since = relay_clock(l);
        if (k->tell_idle) tell(l, k);
        k->tell_idle = false;
    }
    k->idle = k->h->streams == 0;
    return true;
}

bool links_flush(lane *l, uint64_t end) {
    callers_flush(l);
    tunnels_flush(l);
    link_ *k = l->due;
    l->due = NULL;
    link_ *again = NULL;
    while (k != NULL) {
        link_ *next = k->next_due;
        k->next_due = NULL;   /* `is_due` until all is done: what is read here is sent here */
        if (l->now < end && k->tls != NULL && !k->ended && k->side.events & EPOLLIN && secured_pending(k->tls)) {
            read_link(l, k);   /* no event tells of what OpenSSL holds */
        }
        bool flushed = flush_link(l, k);
        if (!flushed || (k->tls != NULL && !k->ended && k->side.events & EPOLLIN && secured_pending(k->tls))) {
            k->next_due = again;
            again = k;
        } else {
            k->is_due = false;
        }
        k = next;
    }
    tunnels_flush(l);
    bool more = again != NULL || l->due != NULL;
    while (again != NULL) {
        link_ *next = again->next_due;
        again->next_due = l->due;
        l->due = again;
        again = next;
    }
    return more;
}

void links_tick(lane *l) {
    for (link_ *k = l->first_link; k != NULL; k = k->next) {
        if (!k->blocked || k->ended || relay_clock(l) - k->blocked_since < k->stall) continue;
        char why[80];
        snprintf(why, sizeof why, "it took no bytes for %llu s", (unsigned long long)(k->stall / 1000000));
        ends(l, k, why);
    }
}
