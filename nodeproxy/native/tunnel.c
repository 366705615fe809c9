/* Opaque bytes between a socket and a CONNECT stream of a link, as nodeproxy/protocols/relay.py passes them: half-close
 * is kept (END_STREAM becomes a shutdown, and the end of the socket becomes END_STREAM), a reset is never an end, time
 * and memory are bounded.
 *
 * Ownership. Python has decided, dialled and answered. It owns the socket, the link and the stream's Channel, and its
 * task waits. From em_lane_tunnel on, only the fast path reads and writes the socket and the bytes of the stream, until
 * it reports the end or is told to drop the tunnel. A stream that is still open then goes back to Python, which resets
 * it.
 *
 * Bounds. Bytes from the stream wait here until the socket takes them, and only then may the peer send more: so no more
 * than the stream's window waits. Bytes from the socket wait in the stream; the socket is read again when half of
 * buffer_bytes is left there. After the end in both directions the stream is over for HTTP/2, but the socket may be
 * slow: the tunnel goes on without the stream, and without the link.
 */
#include "tunnel.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "lane.h"

#define AT_ONCE (128u << 10)    /* bytes that one event may move before others have their turn */
#define URGENCY 3               /* RFC 9218 section 4.1: the default of every stream */

static const visitor tunnel_visitor;

/* ---- the end of a tunnel ---- */

uint64_t em_tunnel_sent(const tunnel *t) {
    uint64_t waits = t->stream != NULL ? held(&t->stream->out) : 0, all = t->before + t->to_stream;
    return all > waits + t->before ? all - waits - t->before : 0;
}

static void bury_tunnel(lane *l, tunnel *t) {
    stream *s = t->stream;
    if (t->link != NULL) {
        h2 *h = t->link->h;
        if (t->owed) em_h2_taken(h, NULL, t->owed);
        if (s != NULL) {
            if (!s->heard_end) em_h2_give_back(h, s->id, t->owed + s->untold, 0);
            s->untold = 0;
            em_h2_to_python(h, s);
        }
        em_link_due(l, t->link);
    }
    em_buffer_free(&t->waiting);
    if (t->is_due) {
        tunnel **at = &l->due_tunnels;
        while (*at != t) at = &(*at)->next_due;
        *at = t->next_due;
    }
    if (t->next != NULL) t->next->previous = t->previous;
    if (t->previous != NULL) t->previous->next = t->next;
    else l->first_tunnel = t->next;
    *t->handle = NULL;
    l->tunnels--;
    em_bury(l, &t->side);
}

static void tunnel_release(lane *l, side *s) {
    (void)l;
    free(s);
}

void em_tunnel_drop(lane *l, tunnel *t) { bury_tunnel(l, t); }

static void over(lane *l, tunnel *t, int what, int error) {
    uint64_t out = em_tunnel_sent(t);
    em_relay_tell(l, (relayed){t->id, t->left ? out : t->to_socket, t->left ? t->to_socket : out, what, error});
    bury_tunnel(l, t);
}

static void broken(lane *l, tunnel *t, int error) { over(l, t, t->left ? LEFT_BROKEN : RIGHT_BROKEN, error); }

/* ---- moving bytes. Each function returns false when the tunnel is over. ---- */

static bool is_later(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

static void moved(lane *l, tunnel *t) {
    t->since = relay_clock(l);
    t->moved = true;
}

/* The first bytes of `waiting` were sent. */
static void taken(lane *l, tunnel *t, uint32_t size) {
    uint32_t own = held(&t->waiting) - t->owed, given = size > own ? size - own : 0;
    em_buffer_take(&t->waiting, size);
    if (given == 0 || t->link == NULL) return;
    t->owed -= given;
    em_h2_taken(t->link->h, t->stream, given);
    em_link_due(l, t->link);
}

static void watch_socket(lane *l, tunnel *t) {
    bool reads = t->stream != NULL && !t->socket_ended && held(&t->stream->out) <= l->set.buffer_bytes / 2;
    uint32_t events = (reads ? (uint32_t)(EPOLLIN | EPOLLRDHUP) : 0u) | (held(&t->waiting) ? (uint32_t)EPOLLOUT : 0u);
    if (events || !t->side.absent) em_watch(l, &t->side, events);
}

static bool to_socket(lane *l, tunnel *t) {
    while (held(&t->waiting)) {
        int more = t->stream_ended && !t->told ? MSG_MORE : 0;   /* the end goes with them, in one segment */
        ssize_t went = send(t->side.fd, first(&t->waiting), held(&t->waiting), MSG_NOSIGNAL | MSG_DONTWAIT | more);
        if (went < 0) {
            if (errno == EINTR) continue;
            if (is_later(errno)) break;
            broken(l, t, errno);
            return false;
        }
        moved(l, t);
        t->to_socket += (uint64_t)went;
        taken(l, t, (uint32_t)went);
    }
    if (t->stream_ended && !t->told && held(&t->waiting) == 0) {
        if (shutdown(t->side.fd, SHUT_WR) != 0) {
            broken(l, t, errno);
            return false;
        }
        t->told = true;
    }
    if (t->told && t->stream == NULL) {
        over(l, t, RELAY_DONE, 0);
        return false;
    }
    return true;
}

/* `ends`: the end follows the bytes that are here, and goes out with them. */
static bool from_socket(lane *l, tunnel *t, bool ends) {
    stream *s = t->stream;
    size_t total = 0;
    bool ok = true;
    while (ok && s != NULL && !t->socket_ended && total < AT_ONCE && held(&s->out) <= l->set.buffer_bytes / 2) {
        uint32_t most = l->set.buffer_bytes < SCRATCH ? l->set.buffer_bytes : SCRATCH;
        ssize_t got = recv(t->side.fd, scratch_room(l), most, MSG_DONTWAIT);
        if (got < 0) {
            if (errno == EINTR) continue;
            if (is_later(errno)) break;
            broken(l, t, errno);
            return false;
        }
        scratch_holds(l, (size_t)got);
        t->socket_ended = got == 0;
        if (held(&s->out) == 0) t->pushed = relay_clock(l);
        ok = em_h2_data(t->link->h, s, l->scratch, (size_t)got, got == 0);
        t->to_stream += (uint64_t)got;
        total += (size_t)got;
        if ((size_t)got < most && !ends) break;   /* a short read has taken everything */
    }
    if (!ok) {
        broken(l, t, ENOMEM);
        return false;
    }
    if (t->link != NULL) em_link_due(l, t->link);
    return true;
}

static void tunnel_event(lane *l, side *s, uint32_t events) {
    tunnel *t = (tunnel *)s;
    uint32_t asked = t->side.events;
    bool failed = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if ((asked & EPOLLOUT) && ((events & EPOLLOUT) || failed) && !to_socket(l, t)) return;
    if ((asked & EPOLLIN) && ((events & EPOLLIN) || failed) && !from_socket(l, t, (events & EPOLLRDHUP) != 0)) return;
    if (failed && !(asked & (EPOLLIN | EPOLLOUT))) {   /* as in relay.c */
        int error = 0;
        socklen_t size = sizeof error;
        if (getsockopt(t->side.fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error) {
            broken(l, t, error);
            return;
        }
        em_unwatch(l, &t->side);
    }
    watch_socket(l, t);
}

static const side_kind tunnel_kind = {
    .event = tunnel_event, .crowd = crowd_of_one, .release = tunnel_release, .events = EPOLLRDHUP, .is_long = true,
};

/* ---- events of the link ---- */

static void due(lane *l, tunnel *t) {
    if (t->is_due) return;
    t->is_due = true;
    t->next_due = l->due_tunnels;
    l->due_tunnels = t;
}

void em_tunnels_flush(lane *l) {
    while (l->due_tunnels != NULL) {
        tunnel *t = l->due_tunnels;
        l->due_tunnels = t->next_due;
        t->is_due = false;
        if (to_socket(l, t)) watch_socket(l, t);
    }
}

static bool not_asked(h2 *h, stream *s) {
    (void)h, (void)s;
    return false;
}

/* Ignored: no head follows the one that opened the stream, and trailers mean nothing in a tunnel. */
static void unheard(h2 *h, stream *s) { (void)h, (void)s; }

/* Bytes that are read from the link in one round go to the socket in one piece, if they are few. */
static void came(h2 *h, stream *s, const uint8_t *data, size_t size) {
    tunnel *t = s->call;
    if (!buffer_add(&t->waiting, data, size)) {
        broken(h->lane, t, ENOMEM);
        return;
    }
    t->owed += (uint32_t)size;
    due(h->lane, t);
}

static void ended(h2 *h, stream *s) {
    tunnel *t = s->call;
    t->stream_ended = true;
    due(h->lane, t);
}

static void closed(h2 *h, stream *s, uint32_t code, bool by_peer) {
    tunnel *t = s->call;
    bool whole = s->heard_end && s->sent_end;
    /* As in Channel.reset: some peers (ztunnel) close a tunnel in this way, after our own end. */
    bool mild = by_peer && s->sent_end && (code == NGHTTP2_NO_ERROR || code == NGHTTP2_CANCEL);
    t->to_stream = em_tunnel_sent(t);
    t->before = 0;
    t->stream = NULL;
    if (whole || mild) {
        t->stream_ended = true;
        due(h->lane, t);
        em_link_due(h->lane, t->link);
    } else {
        over(h->lane, t, by_peer ? STREAM_RESET : STREAM_WRONG, (int)code);
    }
}

static void sent(h2 *h, stream *s) {
    tunnel *t = s->call;
    moved(h->lane, t);
    t->pushed = t->since;
    watch_socket(h->lane, t);
}

static const visitor tunnel_visitor = {not_asked, unheard, unheard, came, ended, closed, sent};

void em_tunnels_leave(lane *l, link_ *k) {
    for (tunnel *t = l->first_tunnel, *next; t != NULL; t = next) {
        next = t->next;
        if (t->link != k) continue;
        if (t->stream != NULL) {
            t->stream->dropped = true;
            over(l, t, STREAM_LOST, 0);
        } else {
            t->link = NULL;
        }
    }
}

/* ---- begin, and time ---- */

bool em_lane_tunnel(lane *l, uint64_t id, link_ *k, int32_t number, int fd, const tunnel_begin *begin,
                    tunnel **handle) {
    stream *s = k == NULL || k->ended ? NULL : em_h2_stream(k->h, number);
    if (s == NULL || s->call != NULL || s->dropped || s->out_end) {
        errno = ENOENT;
        return false;
    }
    tunnel *t = em_relay_room(l) ? calloc(1, sizeof *t) : NULL;
    if (t == NULL) return false;
    t->side.kind = &tunnel_kind;
    t->side.fd = fd;
    if (!buffer_add(&t->waiting, first(&begin->of_stream), held(&begin->of_stream)) || !em_enter(l, &t->side)) {
        int error = errno;
        em_buffer_free(&t->waiting);
        free(t);
        errno = error;
        return false;
    }
    t->id = id;
    t->link = k;
    t->stream = s;
    t->owed = begin->owed;
    t->before = held(&s->out);
    t->idle = begin->idle;
    t->left = begin->left;
    t->stream_ended = s->heard_end;
    s->window = begin->window;
    s->untold = begin->untold;
    s->visitor = &tunnel_visitor;
    em_h2_from_python(k->h, s, t);
    /* Streams take turns: otherwise the stream that was opened first would go first as long as it has bytes (RFC 9218
     * section 4.2). */
    nghttp2_extpri turns = {.urgency = URGENCY, .inc = 1};
    if (!k->h->client) nghttp2_session_change_extpri_stream_priority(k->h->session, number, &turns, 1);
    t->next = l->first_tunnel;
    if (t->next != NULL) t->next->previous = t;
    l->first_tunnel = t;
    l->tunnels++;
    t->handle = handle;
    *handle = t;
    l->now = em_micros_now();
    t->since = t->pushed = relay_clock(l);
    t->to_stream = held(&begin->of_socket);
    if (t->to_stream && !em_h2_data(k->h, s, first(&begin->of_socket), held(&begin->of_socket), false)) {
        broken(l, t, ENOMEM);
        return true;
    }
    em_link_due(l, k);
    if (to_socket(l, t)) watch_socket(l, t);
    return true;
}

static uint32_t heard_by(void *of) {
    return em_segments_in(((tunnel *)of)->side.fd);
}

void em_tunnels_tick(lane *l) {
    uint64_t now = relay_clock(l);
    for (tunnel *t = l->first_tunnel, *next; t != NULL; t = next) {
        next = t->next;
        if (t->stream == NULL || held(&t->stream->out) == 0) t->pushed = now;
        if (em_gone_quiet(now, &t->since, t->idle, &t->noted, &t->heard, heard_by, t)) over(l, t, RELAY_IDLE, 0);
        else if (now > t->pushed && now - t->pushed > t->link->stall) over(l, t, STREAM_SHUT, 0);
    }
}
