/* Events, time, and what goes up. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "lane.h"
#include "link.h"
#include "tunnel.h"

#define EVENTS 256
#define SHARE 16            /* events of one crowd in a round, while others wait */
#define ENTRIES 8192u

uint64_t micros_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

bool lane_open(lane *l) {
    l->entry_mask = ENTRIES - 1;
    l->entries = calloc(ENTRIES, sizeof *l->entries);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->outer = epoll_create1(EPOLL_CLOEXEC);
    l->generation = 1;
    l->now = micros_now();
    lane_callbacks(l);
    struct epoll_event e = {.events = EPOLLIN};
    return l->entries != NULL && l->epoll >= 0 && l->outer >= 0 && epoll_ctl(l->outer, EPOLL_CTL_ADD, l->epoll, &e) == 0;
}

static void sweep_dead(lane *l);

/* Everything that was carried has been dropped by Python before. */
void lane_close(lane *l) {
    sweep_dead(l);
    relay_pipes_close(l);
    free(l->relayed);
    for (uint32_t i = 0; l->entries != NULL && i < ENTRIES; i++) free(l->entries[i]);
    free(l->entries);
    for (uint32_t i = 0; i < l->up_count; i++) {
        buffer_free(&l->ups[i].data);
        buffer_free(&l->ups[i].rest);
    }
    free(l->ups);
    free(l->gone);
    buffer_free(&l->work);
    buffer_free(&l->text);
    buffer_free(&l->names);
    buffer_free(&l->whom);
    buffer_free(&l->log);
    buffer_free(&l->refusals);
    for (uint32_t i = 0; i < l->denial_count; i++) free(l->denials[i].answer);
    free(l->denials);
    if (l->outer >= 0) close(l->outer);
    if (l->epoll >= 0) close(l->epoll);
}

void watch(lane *l, side *s, void *owner, uint32_t events) {
    if (s->events == events || s->gone) return;
    if (s->fd < 0) {   /* a stream, which has no events */
        s->events = events;
        return;
    }
    struct epoll_event e = {.events = events, .data.ptr = owner};
    epoll_ctl(l->epoll, s->absent ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, s->fd, &e);
    s->absent = false;
    s->events = events;
}

bool enter(lane *l, side *s, void *owner) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = owner};
    s->events = EPOLLIN;
    return epoll_ctl(l->epoll, EPOLL_CTL_ADD, s->fd, &e) == 0;
}

void leave(lane *l, side *s) {
    if (!s->absent) epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
    s->gone = true;
}

/* ---- servers ---- */

bool lane_lend(lane *l, uint64_t id, int fd, target *t) {
    server *s = calloc(1, sizeof *s);
    if (s == NULL) return false;
    s->side.kind = SERVER;
    s->side.fd = fd;
    s->id = id;
    s->target = t;
    if (!enter(l, &s->side, s)) {
        free(s);
        return false;
    }
    t->users++;
    l->servers++;
    s->used = true;
    server_rest(l, s);
    return true;
}

void server_unrest(server *s) {
    target *t = s->target;
    if (s->next != NULL) s->next->previous = s->previous;
    if (s->previous != NULL) s->previous->next = s->next;
    else t->resting = s->next;
    s->next = s->previous = NULL;
    t->rests--;
}

void server_rest(lane *l, server *s) {
    target *t = s->target;
    s->since = l->now;
    s->used = true;
    s->next = t->resting;
    s->previous = NULL;
    if (s->next != NULL) s->next->previous = s;
    t->resting = s;
    t->rests++;
    watch(l, &s->side, s, EPOLLIN);
    if (t->rests > l->set.rest_per_target) {
        server *oldest = s;
        while (oldest->next != NULL) oldest = oldest->next;
        server_close(l, oldest);
    }
}

static void bury_server(lane *l, server *s) {
    if (s->caller == NULL && (s->previous != NULL || s->target->resting == s)) server_unrest(s);
    leave(l, &s->side);
    buffer_free(&s->in);
    buffer_free(&s->out);
    target_free(l, s->target);
    l->servers--;
    s->next = l->dead_servers;
    l->dead_servers = s;
}

void server_close(lane *l, server *s) {
    if (l->gone_count == l->gone_size) {
        uint32_t size = l->gone_size ? l->gone_size * 2 : 64;
        uint64_t *grown = realloc(l->gone, size * sizeof *grown);
        if (grown == NULL) {
            l->no_memory = true;   /* Python closes it when the lane ends */
            bury_server(l, s);
            return;
        }
        l->gone = grown;
        l->gone_size = size;
    }
    l->gone[l->gone_count++] = s->id;
    bury_server(l, s);
}

uint64_t lane_reclaim(lane *l, target *t) {
    server *s = t->resting;
    if (s == NULL) return 0;
    uint64_t id = s->id;
    bury_server(l, s);
    return id;
}

/* ---- callers ---- */

bool lane_carry(lane *l, uint64_t id, int fd, plan *p, const uint8_t *data, size_t size, caller **handle) {
    caller *c = calloc(1, sizeof *c);
    if (c == NULL) return false;
    c->side.kind = CALLER;
    c->side.fd = fd;
    c->id = id;
    c->plan = p;
    if (!buffer_add(&c->in, data, size) || !enter(l, &c->side, c)) {
        buffer_free(&c->in);
        free(c);
        return false;
    }
    p->users++;
    l->callers++;
    c->next = l->first_caller;
    if (c->next != NULL) c->next->previous = c;
    l->first_caller = c;
    c->handle = handle;
    *handle = c;
    l->now = micros_now();
    c->since = l->now;
    c->deadline = l->now + l->set.keepalive_timeout;
    c->late = "";
    if (size) {
        c->is_again = true;
        c->again = l->again;
        l->again = c;
    }
    return true;
}

/* What is told of a caller that leaves, and where its bytes go. */
static void tell(lane *l, caller *c, up *u, int what, const char *flag, const char *detail) {
    memset(u, 0, sizeof *u);
    u->caller = c->id;
    u->guest = c->guest;
    u->what = what;
    u->flag = flag;
    u->detail = detail;
    u->total_in = c->total_in;
    u->total_out = c->total_out;
    server *s = c->server;
    if (c->state >= ASKED && what != UP_END) {
        u->begun = c->state == ANSWERED;
        u->began = c->began;
        u->status = c->status;
        u->bytes_in = c->bytes_in;
        u->bytes_out = c->bytes_out;
        u->data = c->asked;
        memset(&c->asked, 0, sizeof c->asked);
        if (held(&c->in) && !buffer_add(&u->data, first(&c->in), held(&c->in))) l->no_memory = true;
    } else {
        u->data = c->in;
        memset(&c->in, 0, sizeof c->in);
    }
    if (c->target != NULL) u->target = c->target->serial;
    if (s != NULL) {
        if (what == UP_RESPONSE) {
            u->server = s->id;
            u->rest = s->in;
            memset(&s->in, 0, sizeof s->in);
            bury_server(l, s);
        } else {
            server_close(l, s);
        }
        s->caller = NULL;
    }
    streams_up(c, u, what);
    if (c->target != NULL) call_over(l, c);
}

static void bury_caller(lane *l, caller *c) {
    if (c->side.fd >= 0) leave(l, &c->side);
    c->side.gone = true;
    buffer_free(&c->in);
    buffer_free(&c->out);
    buffer_free(&c->asked);
    buffer_free(&c->trailers);
    buffer_free(&c->kept);
    if (c->next != NULL) c->next->previous = c->previous;
    if (c->previous != NULL) c->previous->next = c->next;
    else l->first_caller = c->next;
    *c->handle = NULL;
    plan_free(l, c->plan);
    l->callers--;
    c->next = l->dead_callers;
    l->dead_callers = c;
}

static up *next_up(lane *l) {
    if (l->up_count == l->up_size) {
        uint32_t size = l->up_size ? l->up_size * 2 : 64;
        up *grown = realloc(l->ups, size * sizeof *grown);
        if (grown == NULL) abort();   /* a caller that nobody hears of again would be worse */
        l->ups = grown;
        l->up_size = size;
    }
    return &l->ups[l->up_count++];
}

void go_up(lane *l, caller *c, int what, const char *flag, const char *detail) {
    tell(l, c, next_up(l), what, flag, detail);
    bury_caller(l, c);
}

/* The call of a stream went well, and a stream is one call. */
void stream_caller_over(lane *l, caller *c) {
    c->from->total_in += c->total_in;
    c->from->total_out += c->total_out;
    bury_caller(l, c);
}

/* The caller of a stream, until its call is over. */
caller *caller_of_stream(lane *l, struct stream *s, struct link_ *k, plan *p, uint64_t guest) {
    caller *c = calloc(1, sizeof *c);
    if (c == NULL) return NULL;
    c->side.kind = CALLER;
    c->side.fd = -1;
    c->id = ++l->serial;
    c->guest = guest;
    c->front = s;
    c->from = k;
    c->plan = p;
    p->users++;
    l->callers++;
    c->next = l->first_caller;
    if (c->next != NULL) c->next->previous = c;
    l->first_caller = c;
    c->handle = &c->own;
    c->own = c;
    c->since = l->now;
    c->deadline = UINT64_MAX;
    c->late = "";
    return c;
}

void lane_recall(lane *l, caller *c) {
    c->recalled = true;
    if (c->from == NULL && c->state < ASKED && held(&c->out) == 0) go_up(l, c, UP_REQUEST, "", "");
}

void lane_drop(lane *l, caller *c, up *left) {
    tell(l, c, left, UP_FAILED, "", "");
    bury_caller(l, c);
}

/* ---- a turn ---- */

static void handle(lane *l, void *owner, uint32_t events) {
    side *s = owner;
    if (s->gone) return;
    if (s->kind == OTHERS) {
        l->called = true;
    } else if (s->kind == RELAYED) {
        relay_event(l, owner, events);
    } else if (s->kind == LINKED) {
        link_event(l, owner, events);
    } else if (s->kind == TUNNELLED) {
        tunnel_event(l, owner, events);
    } else if (s->kind == CALLER) {
        caller *c = owner;
        if (events & EPOLLOUT) caller_writable(l, c);
        if (s->gone) return;
        if (events & EPOLLIN) caller_readable(l, c);
        else if (events & (EPOLLERR | EPOLLHUP)) {
            if (s->events & EPOLLIN) caller_readable(l, c);
            else if (!(events & EPOLLOUT)) go_up(l, c, UP_FAILED, "client-gone", "the connection was reset");
        }
    } else {
        server *v = owner;
        if (events & EPOLLOUT) server_writable(l, v);
        if (s->gone) return;
        if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
            if ((s->events & EPOLLIN) || v->caller == NULL) server_readable(l, v);
            else if (!(s->events & EPOLLOUT)) {   /* nobody wants to read it now, and it would say this again and again */
                v->broken = true;
                epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
                s->absent = true;
                s->events = 0;
            }
        }
    }
}

/* Whose work an event is: that of the workload behind whose door the caller is; a relay, a link or a tunnel has a share of its own. */
static uint32_t crowd_of(const side *s) {
    const link_ *k = (const link_ *)s;
    if (s->kind == LINKED && k->local && k->doors) return k->door[0].plan->crowd % (CROWDS / 2);
    if (s->kind >= RELAYED) return CROWDS / 2 + (uint32_t)s->fd % (CROWDS / 2);
    const caller *c = s->kind == CALLER ? (const caller *)s : ((const server *)s)->caller;
    return c == NULL ? 0 : c->plan->crowd % (CROWDS / 2);
}

/* One round of events. Where several are at work each gets a share of the round, and what is beyond it comes again: so one that floods
 * does not make the others wait for more than its share. When the time is up the next round begins with those who are left: the kernel
 * takes turns only among more than it can tell at once. */
static void handle_round(lane *l, const struct epoll_event *events, int count, uint64_t end) {
    bool several = false;
    uint32_t only = crowd_of(events[0].data.ptr);
    for (int i = 1; i < count && !several; i++) several = crowd_of(events[i].data.ptr) != only;
    if (several) memset(l->share, 0, sizeof l->share);
    uint32_t first_of_all = l->next_event;
    l->next_event = 0;
    for (int i = 0; i < count; i++) {
        const struct epoll_event *event = &events[(first_of_all + (uint32_t)i) % (uint32_t)count];
        side *s = event->data.ptr;
        if (s->gone) continue;
        if (several) {
            uint8_t *share = &l->share[crowd_of(s)];
            if (*share >= SHARE) continue;
            ++*share;
        }
        bool long_one = s->kind == RELAYED || s->kind == LINKED || s->kind == TUNNELLED;
        handle(l, s, event->events);
        if ((i & 7) == 7 || long_one) {
            l->now = micros_now();
            if (l->now >= end) {
                l->next_event = (first_of_all + (uint32_t)i + 1) % (uint32_t)count;
                return;
            }
        }
    }
}

static void sweep_dead(lane *l) {
    while (l->dead_callers != NULL) {
        caller *c = l->dead_callers;
        l->dead_callers = c->next;
        if (c->is_again) {
            caller **at = &l->again;
            while (*at != c) at = &(*at)->again;
            *at = c->again;
        }
        free(c);
    }
    while (l->dead_servers != NULL) {
        server *s = l->dead_servers;
        l->dead_servers = s->next;
        free(s);
    }
    while (l->dead_relays != NULL) {
        relay *r = l->dead_relays;
        l->dead_relays = r->next;
        free(r);
    }
    while (l->dead_tunnels != NULL) {
        tunnel *t = l->dead_tunnels;
        l->dead_tunnels = t->next;
        free(t);
    }
    while (l->dead_links != NULL) {
        link_ *k = l->dead_links;
        l->dead_links = k->next;
        free(k);
    }
}

/* Those whose next bytes are here already: what they have pipelined waits in the order of its coming. */
static void again_round(lane *l, bool others) {
    caller *c = l->again;
    l->again = NULL;
    for (int i = 0; c != NULL && !(others && i == SHARE); i++) {
        caller *next = c->again;
        c->is_again = false;
        c->again = NULL;
        if (!c->side.gone && c->state < ASKED) caller_next(l, c);
        else if (!c->side.gone) caller_more(l, c);
        c = next;
    }
    if (c == NULL) return;
    caller *last = c;   /* those who have waited come before those who come back now */
    while (last->again != NULL) last = last->again;
    last->again = l->again;
    l->again = c;
}

bool lane_pending(const lane *l) {
    return l->up_count || l->gone_count || l->relayed_count || l->links_told || held(&l->log) || held(&l->refusals);
}

/* One round, and whether there is more to do. `wait`: milliseconds, while nothing is here. */
static bool one_round(lane *l, uint64_t budget, int wait) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(l->epoll, events, EVENTS, wait);
    if (count < 0) count = 0;
    l->now = micros_now();
    uint64_t end = l->now + budget;
    if (count > 0) handle_round(l, events, count, end);
    again_round(l, count > 0);
    bool to_send = links_flush(l, end);
    sweep_dead(l);
    l->now = micros_now();
    return count > 0 || l->again != NULL || to_send;
}

/* Something is left that no event tells of. */
static bool silent(const lane *l) { return l->again != NULL || l->due != NULL; }

int lane_turn(lane *l, uint64_t budget) {
    uint64_t end = micros_now() + budget;
    l->now = end - budget;
    bool more = true;
    while (more && l->now < end) more = one_round(l, end - l->now, 0);
    return silent(l) ? TURN_SILENT : more ? TURN_MORE : TURN_DONE;
}

/* What Python is to hear of at once; the rest of what is pending can wait for a moment. */
static bool urgent(const lane *l) { return l->up_count || l->relayed_count || l->links_told || held(&l->log) + held(&l->refusals) > SCRATCH; }

int lane_stay(lane *l, uint64_t longest, uint64_t quiet, uint64_t slice, int others) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &l->others};
    l->others = (side){.kind = OTHERS, .fd = others};
    /* We are taken out of what Python waits for: else we would be what it has to do, and the two would wait for each other. */
    epoll_ctl(l->outer, EPOLL_CTL_DEL, l->epoll, NULL);
    l->called = epoll_ctl(l->epoll, EPOLL_CTL_ADD, others, &e) != 0;
    bool here = !l->called, more = true, worked = false;
    uint64_t begun = micros_now(), end = begun + longest, last = begun;
    l->now = begun;
    while (!l->called && l->now < end && !urgent(l) && !(l->now > begun + quiet && lane_pending(l))) {
        uint64_t wait = last + quiet < end ? last + quiet : end;
        if (!more && l->now >= wait) break;
        more = one_round(l, slice, more ? 0 : (int)((wait - l->now + 999) / 1000));
        if (more) last = l->now;
        worked = worked || more;
    }
    if (here) epoll_ctl(l->epoll, EPOLL_CTL_DEL, others, NULL);
    e.data.ptr = NULL;
    epoll_ctl(l->outer, EPOLL_CTL_ADD, l->epoll, &e);
    if (silent(l) || lane_pending(l) || (worked && l->now > begun + quiet)) return STAY_CALL;   /* the clock has moved since Python looked */
    return worked ? STAY_SERVED : STAY_QUIET;
}

void lane_tick(lane *l) {
    l->now = micros_now();
    for (caller *c = l->first_caller, *next; c != NULL; c = next) {
        next = c->next;
        if (l->now > c->deadline) caller_late(l, c);
    }
    for (target *t = l->first_target, *next; t != NULL; t = next) {
        next = t->next;
        t->users++;
        for (server *s = t->resting, *after; s != NULL; s = after) {
            after = s->next;
            if (l->now - s->since > l->set.rest_timeout) server_close(l, s);
        }
        target_free(l, t);
    }
    relays_tick(l);
    tunnels_tick(l);
    links_tick(l);
    sweep_dead(l);
}
