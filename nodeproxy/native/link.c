/* Links: see link.h. What is read in one round of events is answered in as few writes as possible: links with something
 * to send are due, and are flushed when the round is over. Python is told once a turn, however much happened. */
#include "link.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "call.h"
#include "lane.h"

#define DOOR_KEY 256u
#define READS 4                 /* per event, before others have their turn */
#define RECORD 16384u           /* bytes of one TLS record */
#define AT_ONCE (128u << 10)    /* bytes sent to one peer before others have their turn */

void em_link_due(lane *l, link_ *k) {
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
    em_watch(l, &k->side, 0);
    tell(l, k);
}

static const side_kind link_kind;

link_ *em_lane_link(lane *l, uint64_t id, int fd, secured *tls, h2 *h, const visitor *calls, uint64_t stall,
                    link_ **handle) {
    link_ *k = calloc(1, sizeof *k);
    if (k == NULL) return NULL;
    k->side.kind = &link_kind;
    k->side.fd = fd;
    k->id = id;
    k->h = h;
    k->tls = tls;
    k->stall = stall;
    l->now = em_micros_now();
    k->heard = k->idle_since = relay_clock(l);
    if (!em_enter(l, &k->side)) {
        free(k);
        return NULL;
    }
    h->owner = k;
    h->visitor = calls;
    h->lane = l;
    k->handle = handle;
    *handle = k;
    k->next = l->first_link;
    if (k->next != NULL) k->next->previous = k;
    l->first_link = k;
    l->links++;
    em_link_due(l, k);
    return k;
}

void em_link_drop(lane *l, link_ *k, bool bye) {
    l->link_leaves(l, k);
    em_h2_abandon(k->h);
    em_callers_leave(l, k);
    k->h->visitor = NULL;
    k->h->owner = NULL;
    if (k->tls != NULL) {
        if (bye && !k->ended) em_secured_bye(k->tls);
        em_secured_free(k->tls);
    }
    if (k->next != NULL) k->next->previous = k->previous;
    if (k->previous != NULL) k->previous->next = k->next;
    else l->first_link = k->next;
    if (k->is_due) {
        link_ **at = &l->due;
        while (*at != NULL && *at != k) at = &(*at)->next_due;
        if (*at == k) *at = k->next_due;
    }
    em_targets_unlink(l, k);
    for (uint32_t i = 0; i < k->doors; i++) {
        em_plan_free(l, k->door[i].plan);
        free(k->door[i].key);
    }
    *k->handle = NULL;
    l->links--;
    em_bury(l, &k->side);
}

/* ---- doors: see link.h ---- */

static uint32_t door_key(uint8_t *key, const uint8_t *what, size_t what_size, const uint8_t *whom, size_t whom_size) {
    const uint8_t *last = whom + whom_size;
    while (last > whom && last[-1] != ',') last--;
    while (last < whom + whom_size && (*last == ' ' || *last == '\t')) last++;
    size_t last_size = (size_t)(whom + whom_size - last);
    if (what_size + last_size + 1 > DOOR_KEY) return 0;
    memcpy(key, what, what_size);
    key[what_size] = 0;   /* a separator: neither part can contain it */
    if (last_size) memcpy(key + what_size + 1, last, last_size);
    return (uint32_t)(what_size + last_size + 1);
}

const door *em_door_find(const link_ *k, const uint8_t *what, size_t what_size, const uint8_t *whom, size_t whom_size) {
    uint8_t key[DOOR_KEY];
    uint32_t size = door_key(key, what, what_size, whom, whom_size);
    uint64_t hash = em_hash_of(0, key, size);
    for (uint32_t i = 0; size && i < k->doors; i++)
        if (k->door[i].hash == hash && k->door[i].size == size && memcmp(k->door[i].key, key, size) == 0)
            return &k->door[i];
    return NULL;
}

bool em_door_learn(lane *l, link_ *k, const uint8_t *what, size_t what_size, const uint8_t *whom, size_t whom_size,
                   plan *p, uint64_t guest) {
    uint8_t key[DOOR_KEY];
    uint32_t size = door_key(key, what, what_size, whom, whom_size);
    if (size == 0) return true;
    door *d = (door *)em_door_find(k, what, what_size, whom, whom_size);
    if (d == NULL) {
        uint8_t *copy = malloc(size);
        if (copy == NULL) return false;
        memcpy(copy, key, size);
        if (k->doors < DOORS) {
            d = &k->door[k->doors++];
        } else {
            d = &k->door[k->next_door++ % DOORS];
            free(d->key);
            em_plan_free(l, d->plan);
        }
        *d = (door){em_hash_of(0, key, size), p, guest, size, copy};
    } else {
        em_plan_free(l, d->plan);
        d->plan = p;
        d->guest = guest;
    }
    p->users++;
    return true;
}

/* Read. Returns the same as em_secured_read. */
static ssize_t read_some(link_ *k, uint8_t *to, size_t size) {
    if (k->tls != NULL) return em_secured_read(k->tls, to, size);
    ssize_t got = recv(k->side.fd, to, size, MSG_DONTWAIT);
    if (got >= 0) return got == 0 ? SECURED_END : got;
    return errno == EAGAIN || errno == EINTR ? SECURED_AGAIN : SECURED_BROKEN;
}

static ssize_t write_some(link_ *k, const uint8_t *data, size_t size) {
    if (k->tls != NULL) return em_secured_write(k->tls, data, size);
    ssize_t sent = send(k->side.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return sent;
    return errno == EAGAIN || errno == EINTR ? SECURED_AGAIN : SECURED_BROKEN;
}

/* Feed bytes that were read before the fast path had the connection. */
void em_link_feed(lane *l, link_ *k, const uint8_t *data, size_t size) {
    l->now = em_micros_now();
    k->heard = relay_clock(l);
    em_h2_feed(k->h, data, size, (double)k->heard / 1e6);
    em_callers_flush(l);
    em_link_due(l, k);
    if (k->h->over || held(&k->h->events)) tell(l, k);
}

static void read_link(lane *l, link_ *k) {
    for (int i = 0; i < READS && !k->ended; i++) {
        ssize_t got = read_some(k, scratch_room(l), k->tls != NULL ? RECORD : SCRATCH);
        if (got > 0) scratch_holds(l, (size_t)got);
        if (got == SECURED_AGAIN) return;
        if (got == SECURED_END) {
            ends(l, k, "");
            return;
        }
        if (got < 0) {
            ends(l, k, k->tls != NULL ? em_secured_why(k->tls) : strerror(errno));
            return;
        }
        k->heard = relay_clock(l);
        em_h2_feed(k->h, l->scratch, (size_t)got, (double)k->heard / 1e6);
        em_callers_flush(l);
        em_link_due(l, k);
        if (k->h->over || held(&k->h->events)) tell(l, k);
        if (k->h->over) {
            em_watch(l, &k->side, k->side.events & ~(uint32_t)EPOLLIN);
            return;
        }
        if (k->side.gone || (size_t)got < 1024) return;   /* hardly more is here: an event reports it */
    }
}

static void link_event(lane *l, side *s, uint32_t events) {
    link_ *k = (link_ *)s;
    if (events & EPOLLOUT) {
        k->blocked = false;
        em_link_due(l, k);
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        if (k->side.events & EPOLLIN) read_link(l, k);
        else if (events & (EPOLLERR | EPOLLHUP)) ends(l, k, "the connection was reset");
    }
}

/* Return the scheduling share of the caller's workload; a link with several callers has its own. */
static uint32_t link_crowd(const side *s) {
    const link_ *k = (const link_ *)s;
    return k->local && k->doors ? k->door[0].plan->crowd % (CROWDS / 2) : crowd_of_one(s);
}

static void link_release(lane *l, side *s) {
    (void)l;
    free(s);
}

static const side_kind link_kind = {
    .event = link_event, .crowd = link_crowd, .release = link_release, .is_long = true,
};

/* Send. False: there is more to send, and the peer would take it. */
static bool flush_link(lane *l, link_ *k) {
    buffer *out = &k->h->out;
    uint32_t sent_now = 0;
    while (!k->blocked) {
        em_h2_pump(k->h, PUMPED);
        if (held(out) == 0) break;
        if (k->ended && k->why[0]) {
            em_buffer_free(out);
            break;
        }
        if (sent_now >= AT_ONCE) return false;
        ssize_t sent = write_some(k, first(out), held(out) < RECORD ? held(out) : RECORD);
        if (sent == SECURED_AGAIN) {
            k->blocked = true;
            k->blocked_since = relay_clock(l);
            em_watch(l, &k->side, k->side.events | EPOLLOUT);
        } else if (sent < 0) {
            ends(l, k, k->tls != NULL ? em_secured_why(k->tls) : strerror(errno));
            return true;
        } else {
            sent_now += (uint32_t)sent;
            em_buffer_take(out, (uint32_t)sent);
        }
    }
    if (!k->blocked && k->side.events & EPOLLOUT) em_watch(l, &k->side, k->side.events & ~(uint32_t)EPOLLOUT);
    if (k->tell_below && held(out) < k->tell_below) {
        k->tell_below = 0;
        tell(l, k);
    }
    if (held(&k->h->events) || k->h->no_memory) tell(l, k);
    if (k->h->streams == 0) {
        if (!k->idle) k->idle_since = relay_clock(l);
        if (k->tell_idle) tell(l, k);
        k->tell_idle = false;
    }
    k->idle = k->h->streams == 0;
    return true;
}

void em_links_flush(lane *l, uint64_t end) {
    link_ *k = l->due, *again = NULL;
    l->due = NULL;
    while (k != NULL) {
        link_ *next = k->next_due;
        k->next_due = NULL;   /* `is_due` stays set until all is done: what is read here is also sent here */
        if (l->now < end && k->tls != NULL && !k->ended && k->side.events & EPOLLIN && em_secured_pending(k->tls)) {
            read_link(l, k);   /* no event reports bytes that OpenSSL holds */
        }
        bool flushed = flush_link(l, k);
        if (!flushed || (k->tls != NULL && !k->ended && k->side.events & EPOLLIN && em_secured_pending(k->tls))) {
            k->next_due = again;
            again = k;
        } else {
            k->is_due = false;
        }
        k = next;
    }
    while (again != NULL) {
        link_ *next = again->next_due;
        again->next_due = l->due;
        l->due = again;
        again = next;
    }
}

void em_links_tick(lane *l) {
    for (link_ *k = l->first_link; k != NULL; k = k->next) {
        if (!k->blocked || k->ended || relay_clock(l) - k->blocked_since < k->stall) continue;
        char why[80];
        snprintf(why, sizeof why, "it took no bytes for %llu s", (unsigned long long)(k->stall / 1000000));
        ends(l, k, why);
    }
}
