/* Opaque bytes between two sockets, as nodeproxy/relay.py passes them: half-close is kept, a reset is never an end, time and memory are
 * bounded.
 *
 * Each end of a relay holds what waits to be sent to it: one read at most, because the other end is read again only when nothing waits.
 * Bytes are copied through the lane's scratch buffer. Where they come faster than that, they pass through a pipe instead, which the
 * kernel fills and empties without a copy. A pipe is borrowed for one event, and stays only while bytes wait in it: so a relay at rest
 * owns neither a pipe nor a buffer. splice(2) knows no MSG_NOSIGNAL: Python ignores SIGPIPE.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lane.h"

#define AT_ONCE (256u << 10)  /* bytes that one event may move, before others have their turn */
#define PIPES 64u             /* of the whole lane, two descriptors each; who gets none copies */
#define FAST_FROM SCRATCH      /* bytes of one event; below, a copy is cheaper than a pipe */

static half *other(half *e) { return e == &e->relay->half[LEFT] ? &e->relay->half[RIGHT] : &e->relay->half[LEFT]; }

static uint32_t waits(const half *e) { return held(&e->waiting) + e->piped; }

/* ---- pipes ---- */

static bool borrow_pipe(lane *l, half *e) {
    if (e->pipe[0] >= 0) return true;
    if (l->spare_pipes > 0) {
        memcpy(e->pipe, l->spare_pipe[--l->spare_pipes], sizeof e->pipe);
        return true;
    }
    if (l->pipes >= PIPES || pipe2(e->pipe, O_NONBLOCK | O_CLOEXEC) != 0) {
        e->pipe[0] = e->pipe[1] = -1;
        return false;
    }
    l->pipes++;
    return true;
}

/* An empty one is kept for whoever comes next. */
static void return_pipe(lane *l, half *e) {
    if (e->pipe[0] < 0) return;
    if (e->piped == 0 && l->spare_pipes < SPARE_PIPES) {
        memcpy(l->spare_pipe[l->spare_pipes++], e->pipe, sizeof e->pipe);
    } else {
        close(e->pipe[0]);
        close(e->pipe[1]);
        l->pipes--;
    }
    e->pipe[0] = e->pipe[1] = -1;
    e->piped = 0;
}

void relay_pipes_close(lane *l) {
    while (l->spare_pipes > 0) {
        l->spare_pipes--;
        close(l->spare_pipe[l->spare_pipes][0]);
        close(l->spare_pipe[l->spare_pipes][1]);
        l->pipes--;
    }
}

/* ---- the end of a relay ---- */

static void bury_relay(lane *l, relay *r) {
    for (half *e = r->half; e <= &r->half[RIGHT]; e++) {
        leave(l, &e->side);
        buffer_free(&e->waiting);
        return_pipe(l, e);
    }
    if (r->next != NULL) r->next->previous = r->previous;
    if (r->previous != NULL) r->previous->next = r->next;
    else l->first_relay = r->next;
    *r->handle = NULL;
    l->relays--;
    r->next = l->dead_relays;
    l->dead_relays = r;
}

void relay_tell(lane *l, relayed how) {
    if (l->relayed_count == l->relayed_size) {
        uint32_t size = l->relayed_size ? l->relayed_size * 2 : 64;
        relayed *grown = realloc(l->relayed, size * sizeof *grown);
        if (grown == NULL) abort();   /* a relay that nobody hears of again would be worse */
        l->relayed = grown;
        l->relayed_size = size;
    }
    l->relayed[l->relayed_count++] = how;
}

static void over(lane *l, relay *r, int what, int error) {
    relay_tell(l, (relayed){r->id, r->half[RIGHT].passed, r->half[LEFT].passed, what, error});
    bury_relay(l, r);
}

static void broken(lane *l, half *e, int error) { over(l, e->relay, e == &e->relay->half[LEFT] ? LEFT_BROKEN : RIGHT_BROKEN, error); }

void relay_drop(lane *l, relay *r) { bury_relay(l, r); }

/* ---- moving bytes. Each function answers false when the relay is over. ---- */

static void moved(lane *l, half *to, size_t size) {
    to->passed += size;
    to->relay->since = relay_clock(l);
    to->relay->moved = true;
}

static bool is_later(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

/* Send as much as goes. */
static bool send_on(lane *l, half *to, const uint8_t *data, size_t size, size_t *sent) {
    *sent = 0;
    while (*sent < size) {
        ssize_t went = send(to->side.fd, data + *sent, size - *sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (went < 0) {
            if (errno == EINTR) continue;
            if (is_later(errno)) break;
            broken(l, to, errno);
            return false;
        }
        *sent += (size_t)went;
        moved(l, to, (size_t)went);
    }
    return true;
}

/* What waits, as far as it goes. What is in the buffer came before what is in the pipe. */
static bool send_what_waits(lane *l, half *to) {
    if (held(&to->waiting)) {
        size_t sent;
        if (!send_on(l, to, first(&to->waiting), held(&to->waiting), &sent)) return false;
        buffer_take(&to->waiting, (uint32_t)sent);
        if (held(&to->waiting)) return true;
    }
    while (to->piped) {
        ssize_t went = splice(to->pipe[0], NULL, to->side.fd, NULL, to->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (went < 0) {
            if (errno == EINTR) continue;
            if (is_later(errno)) break;
            broken(l, to, errno);
            return false;
        }
        to->piped -= (uint32_t)went;
        moved(l, to, (size_t)went);
    }
    return true;
}

static size_t most(const lane *l) { return l->set.buffer_bytes < SCRATCH ? l->set.buffer_bytes : SCRATCH; }

/* One read, and what goes of it at once. `got`: its size; 0: nothing came, or the end. */
static bool one_read(lane *l, half *from, half *to, size_t *got) {
    bool piped = to->fast && borrow_pipe(l, to);
    ssize_t read;
    *got = 0;
    do {
        if (piped) read = splice(from->side.fd, NULL, to->pipe[1], NULL, most(l), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        else read = recv(from->side.fd, l->scratch, most(l), MSG_DONTWAIT);
    } while (read < 0 && errno == EINTR);
    if (read < 0) {
        if (is_later(errno)) return true;
        if (piped && errno == EINVAL) {   /* a kind of socket that cannot */
            to->fast = false;
            to->never_fast = true;
            return true;
        }
        broken(l, from, errno);
        return false;
    }
    if (read == 0) {
        from->ended = true;
        return true;
    }
    *got = (size_t)read;
    if (piped) {
        to->piped = (uint32_t)read;
        return send_what_waits(l, to);
    }
    if (*got == most(l) && !to->never_fast) to->fast = true;   /* there is more than one read's worth */
    size_t sent;
    if (!send_on(l, to, l->scratch, *got, &sent)) return false;
    if (sent < *got && !buffer_add(&to->waiting, l->scratch + sent, *got - sent)) {
        broken(l, to, ENOMEM);
        return false;
    }
    return true;
}

/* Everything that goes from one end to the other now. */
static bool pass(lane *l, half *from, half *to) {
    if (!send_what_waits(l, to)) return false;
    size_t total = 0;
    while (!waits(to) && !from->ended && total < AT_ONCE) {
        size_t got;
        if (!one_read(l, from, to, &got)) return false;
        total += got;
        if (got == 0 && total < FAST_FROM) to->fast = false;
        if (got == 0 || (!to->fast && got < most(l))) break;   /* less than was asked for is all there is */
    }
    if (!to->piped) return_pipe(l, to);
    if (from->ended && !waits(to) && !to->told) {
        if (shutdown(to->side.fd, SHUT_WR) != 0) {
            broken(l, to, errno);
            return false;
        }
        to->told = true;
    }
    return true;
}

/* Read an end only when what was read before is gone. */
static void watch_end(lane *l, half *e) {
    uint32_t events = (e->ended || waits(other(e)) ? 0u : (uint32_t)EPOLLIN) | (waits(e) ? (uint32_t)EPOLLOUT : 0u);
    if (events || !e->side.absent) watch(l, &e->side, e, events);
}

static void settle(lane *l, relay *r) {
    if (r->half[LEFT].told && r->half[RIGHT].told) {
        over(l, r, RELAY_DONE, 0);
        return;
    }
    watch_end(l, &r->half[LEFT]);
    watch_end(l, &r->half[RIGHT]);
}

void relay_event(lane *l, half *e, uint32_t events) {
    uint32_t asked = e->side.events;
    bool failed = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if ((asked & EPOLLIN) && ((events & EPOLLIN) || failed) && !pass(l, e, other(e))) return;
    if ((asked & EPOLLOUT) && ((events & EPOLLOUT) || failed) && !pass(l, other(e), e)) return;
    if (failed && !(asked & (EPOLLIN | EPOLLOUT))) {
        /* Nobody waits for it, and it would say this again and again: a reset ends the relay, the end of both directions is no news. */
        int error = 0;
        socklen_t size = sizeof error;
        if (getsockopt(e->side.fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error) {
            broken(l, e, error);
            return;
        }
        epoll_ctl(l->epoll, EPOLL_CTL_DEL, e->side.fd, NULL);
        e->side.absent = true;
        e->side.events = 0;
    }
    settle(l, e->relay);
}

/* ---- begin, and time ---- */

bool lane_relay(lane *l, uint64_t id, const int fd[2], const buffer first_bytes[2], uint64_t idle, relay **handle) {
    relay *r = calloc(1, sizeof *r);
    if (r == NULL) return false;
    r->id = id;
    r->idle = idle;
    for (int i = LEFT; i <= RIGHT; i++) {
        half *e = &r->half[i];
        e->relay = r;
        e->side.kind = RELAYED;
        e->side.fd = fd[i];
        e->pipe[0] = e->pipe[1] = -1;
        const buffer *given = &first_bytes[1 - i];   /* what was read from one end is for the other */
        if (!buffer_add(&e->waiting, first(given), held(given)) || !enter(l, &e->side, e)) {
            int error = errno;
            if (i == RIGHT) leave(l, &r->half[LEFT].side);
            buffer_free(&r->half[LEFT].waiting);
            buffer_free(&r->half[RIGHT].waiting);
            free(r);
            errno = error;
            return false;
        }
    }
    l->relays++;
    r->next = l->first_relay;
    if (r->next != NULL) r->next->previous = r;
    l->first_relay = r;
    r->handle = handle;
    *handle = r;
    l->now = micros_now();
    r->since = relay_clock(l);
    if (send_what_waits(l, &r->half[LEFT]) && send_what_waits(l, &r->half[RIGHT])) settle(l, r);
    return true;
}

void relays_tick(lane *l) {
    uint64_t now = relay_clock(l);
    for (relay *r = l->first_relay, *next; r != NULL; r = next) {
        next = r->next;
        if (now > r->since && now - r->since > r->idle) over(l, r, RELAY_IDLE, 0);
    }
}
