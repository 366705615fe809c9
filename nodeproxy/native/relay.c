/* Opaque bytes between two sockets, as nodeproxy/protocols/relay.py passes them: half-close is kept, a reset is never
 * an end, time and memory are bounded.
 *
 * Each end of a relay holds the bytes that wait to be sent to it. That is one read at most, because the other end is
 * read again only when nothing waits. Bytes are copied through the lane's scratch buffer. Where they come faster than
 * that, they pass through a pipe instead, which the kernel fills and empties without a copy. A pipe is borrowed for one
 * event, and is kept only while bytes wait in it: so an idle relay owns neither a pipe nor a buffer. splice(2) has no
 * MSG_NOSIGNAL: Python ignores SIGPIPE.
 */
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lane.h"

#define AT_ONCE (256u << 10)  /* bytes that one event may move before others have their turn */
#define PIPES 64u             /* of all relays, two descriptors each; a relay without a pipe copies */
#define FAST_FROM SCRATCH      /* bytes of one event; below that a copy is cheaper than a pipe */

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

/* Return a pipe. An empty one is kept for the next relay. */
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

void em_relay_pipes_close(lane *l) {
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
        em_bury(l, &e->side);
        em_buffer_free(&e->waiting);
        return_pipe(l, e);
    }
    if (r->next != NULL) r->next->previous = r->previous;
    if (r->previous != NULL) r->previous->next = r->next;
    else l->first_relay = r->next;
    *r->handle = NULL;
    l->relays--;
}

/* Both ends leave together, the right one after the left one. */
static void half_release(lane *l, side *s) {
    half *e = (half *)s;
    (void)l;
    if (e == &e->relay->half[LEFT]) free(e->relay);
}

/* Reserve a place to report the end of each relay and tunnel, when it begins. */
bool em_relay_room(lane *l) {
    if (l->relayed_count + l->relays + l->tunnels < l->relayed_size) return true;
    uint32_t size = l->relayed_size ? l->relayed_size * 2 : 64;
    relayed *grown = realloc(l->relayed, size * sizeof *grown);
    if (grown == NULL) return false;
    l->relayed = grown;
    l->relayed_size = size;
    return true;
}

void em_relay_tell(lane *l, relayed how) { l->relayed[l->relayed_count++] = how; }

static void over(lane *l, relay *r, int what, int error) {
    em_relay_tell(l, (relayed){r->id, r->half[RIGHT].passed, r->half[LEFT].passed, what, error});
    bury_relay(l, r);
}

static void broken(lane *l, half *e, int error) {
    over(l, e->relay, e == &e->relay->half[LEFT] ? LEFT_BROKEN : RIGHT_BROKEN, error);
}

void em_relay_drop(lane *l, relay *r) { bury_relay(l, r); }

/* ---- moving bytes. Each function returns false when the relay is over. ---- */

static void moved(lane *l, half *to, size_t size) {
    to->passed += size;
    to->relay->since = relay_clock(l);
    to->relay->moved = true;
}

static bool is_later(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

/* Send as much as possible. */
static bool send_on(lane *l, half *to, const uint8_t *data, size_t size, int more, size_t *sent) {
    *sent = 0;
    while (*sent < size) {
        ssize_t went = send(to->side.fd, data + *sent, size - *sent, MSG_NOSIGNAL | MSG_DONTWAIT | more);
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

/* Send what waits, as far as possible. The bytes in the buffer came before those in the pipe. */
static bool send_what_waits(lane *l, half *to) {
    if (held(&to->waiting)) {
        size_t sent;
        if (!send_on(l, to, first(&to->waiting), held(&to->waiting), 0, &sent)) return false;
        em_buffer_take(&to->waiting, (uint32_t)sent);
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

/* Bytes that were held back to go out with an end are sent now, since no end comes. Otherwise the reset that follows
 * would discard them. Setting TCP_NODELAY pushes them, also where it was set before. */
static void push(const half *to) {
    int on = 1;
    setsockopt(to->side.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static size_t most(const lane *l) { return l->set.buffer_bytes < SCRATCH ? l->set.buffer_bytes : SCRATCH; }

/* Read once, and send as much as possible at once. `got`: size of the read; 0: nothing came, or the end. `ends`: the
 * end follows the bytes that are here. */
static bool one_read(lane *l, half *from, half *to, bool ends, size_t *got) {
    bool piped = to->fast && borrow_pipe(l, to);
    ssize_t read;
    *got = 0;
    do {
        if (piped) read = splice(from->side.fd, NULL, to->pipe[1], NULL, most(l), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        else read = recv(from->side.fd, scratch_room(l), most(l), MSG_DONTWAIT);
    } while (read < 0 && errno == EINTR);
    if (read < 0) {
        if (is_later(errno)) return true;
        if (piped && errno == EINVAL) {   /* this kind of socket cannot use a pipe */
            to->fast = false;
            to->never_fast = true;
            return true;
        }
        int error = errno;
        if (ends) push(to);
        broken(l, from, error);
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
    scratch_holds(l, *got);
    if (*got == most(l) && !to->never_fast) to->fast = true;   /* more than one read of bytes is there */
    size_t sent;
    if (!send_on(l, to, l->scratch, *got, ends ? MSG_MORE : 0, &sent)) return false;
    if (sent < *got && !buffer_add(&to->waiting, l->scratch + sent, *got - sent)) {
        broken(l, to, ENOMEM);
        return false;
    }
    return true;
}

/* Pass everything that can go from one end to the other now. `ends`: up to the end, which goes out with the last bytes,
 * in one segment. So the program that closed first at one end of the relay is also seen to close first at the other. */
static bool pass(lane *l, half *from, half *to, bool ends) {
    if (!send_what_waits(l, to)) return false;
    size_t total = 0;
    while (!waits(to) && !from->ended && total < AT_ONCE) {
        size_t got;
        if (!one_read(l, from, to, ends, &got)) return false;
        total += got;
        if (got == 0 && total < FAST_FROM) to->fast = false;
        if (got == 0 || (!to->fast && !ends && got < most(l))) break;   /* a short read has taken everything */
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

/* Read an end only when the earlier bytes are gone. */
static void watch_end(lane *l, half *e) {
    uint32_t events = (e->ended || waits(other(e)) ? 0u : (uint32_t)(EPOLLIN | EPOLLRDHUP)) |
                      (waits(e) ? (uint32_t)EPOLLOUT : 0u);
    if (events || !e->side.absent) em_watch(l, &e->side, events);
}

static void settle(lane *l, relay *r) {
    if (r->half[LEFT].told && r->half[RIGHT].told) {
        over(l, r, RELAY_DONE, 0);
        return;
    }
    watch_end(l, &r->half[LEFT]);
    watch_end(l, &r->half[RIGHT]);
}

static void half_event(lane *l, side *s, uint32_t events) {
    half *e = (half *)s;
    uint32_t asked = e->side.events;
    bool failed = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if ((asked & EPOLLIN) && ((events & EPOLLIN) || failed) && !pass(l, e, other(e), (events & EPOLLRDHUP) != 0))
        return;
    if ((asked & EPOLLOUT) && ((events & EPOLLOUT) || failed) && !pass(l, other(e), e, false)) return;
    if (failed && !(asked & (EPOLLIN | EPOLLOUT))) {
        /* Nothing reads or writes it now, and the event would repeat for ever: a reset ends the relay; the end of both
         * directions is no news. */
        int error = 0;
        socklen_t size = sizeof error;
        if (getsockopt(e->side.fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error) {
            broken(l, e, error);
            return;
        }
        em_unwatch(l, &e->side);
    }
    settle(l, e->relay);
}

static const side_kind half_kind = {
    .event = half_event, .crowd = crowd_of_one, .release = half_release, .events = EPOLLRDHUP, .is_long = true,
};

/* ---- begin, and time ---- */

bool em_lane_relay(lane *l, uint64_t id, const int fd[2], const buffer first_bytes[2], uint64_t idle, relay **handle) {
    relay *r = em_relay_room(l) ? calloc(1, sizeof *r) : NULL;
    if (r == NULL) return false;
    r->id = id;
    r->idle = idle;
    for (int i = LEFT; i <= RIGHT; i++) {
        half *e = &r->half[i];
        e->relay = r;
        e->side.kind = &half_kind;
        e->side.fd = fd[i];
        e->pipe[0] = e->pipe[1] = -1;
        const buffer *given = &first_bytes[1 - i];   /* bytes read from one end are for the other */
        if (!buffer_add(&e->waiting, first(given), held(given)) || !em_enter(l, &e->side)) {
            int error = errno;
            if (i == RIGHT) em_unwatch(l, &r->half[LEFT].side);
            em_buffer_free(&r->half[LEFT].waiting);
            em_buffer_free(&r->half[RIGHT].waiting);
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
    l->now = em_micros_now();
    r->since = relay_clock(l);
    if (send_what_waits(l, &r->half[LEFT]) && send_what_waits(l, &r->half[RIGHT])) settle(l, r);
    return true;
}

/* Count the segments that came in so far, including keepalives, which carry no bytes: struct tcp_info of linux/tcp.h,
 * tcpi_segs_in (Linux 4.2). */
enum { SEGS_IN = 140 };
uint32_t em_segments_in(int fd) {
    unsigned char info[256];
    socklen_t size = sizeof info;
    uint32_t count = 0;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) == 0 && size >= SEGS_IN + sizeof count)
        memcpy(&count, info + SEGS_IN, sizeof count);
    return count;
}

/* Return whether no bytes have moved for longer than `idle`, since `since`. A peer that sends TCP keepalives counts as
 * alive: incoming segments are counted soon after the connection became quiet (`noted` is the `since` of that count),
 * and again at the end. */
bool em_gone_quiet(uint64_t now, uint64_t *since, uint64_t idle, uint64_t *noted, uint32_t *heard,
                   uint32_t (*count)(void *), void *of) {
    if (now <= *since) return false;
    uint64_t quiet = now - *since, soon = idle / 8 < 60000000 ? idle / 8 : 60000000;
    if (quiet > idle) {
        if (*noted != *since || count(of) == *heard) return true;
        *since = now;
    } else if (quiet > soon && *noted != *since) {
        *heard = count(of);
        *noted = *since;
    }
    return false;
}

static uint32_t heard_by(void *of) {
    relay *r = of;
    return em_segments_in(r->half[LEFT].side.fd) + em_segments_in(r->half[RIGHT].side.fd);
}

void em_relays_tick(lane *l) {
    uint64_t now = relay_clock(l);
    for (relay *r = l->first_relay, *next; r != NULL; r = next) {
        next = r->next;
        if (em_gone_quiet(now, &r->since, r->idle, &r->noted, &r->heard, heard_by, r)) over(l, r, RELAY_IDLE, 0);
    }
}
