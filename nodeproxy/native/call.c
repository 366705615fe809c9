/* One call: a request's head is judged and sent on, bodies pass in both directions, and both connections become idle
 * again.
 *
 * A caller is AT_REST between two requests, ASKED once its request is in progress, ANSWERED once the response has
 * begun. An unusual message is handed to Python while that is still possible: a request until it is ASKED, a response
 * until it is ANSWERED. From then on both messages stay in the fast path, and a fault breaks the call off.
 */
#include "call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "answer.h"
#include "body.h"
#include "finish.h"
#include "lane.h"
#include "send.h"

/* ---- a request ---- */

static bool is_one_of(const head *h, const char *const *words) {
    for (; *words; words++)
        if (strlen(*words) == h->method_size && memcmp(*words, h->method, h->method_size) == 0) return true;
    return false;
}

static const char *const NO_BODY[] = {"GET", "HEAD", "OPTIONS", "TRACE", "DELETE", NULL};       /* message.py */
static const char *const IDEMPOTENT[] = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", NULL};

/* Pass body bytes of the request on, until it ends or there are no more. Return how many were taken, -1 when the call
 * is over. */
static int64_t request_body(lane *l, caller *c, const uint8_t *data, size_t size) {
    bool ended;
    const char *why;
    l->work.begin = l->work.end = 0;
    int64_t taken = em_body_feed(l, c, NULL, data, size, &ended, &why);
    if (taken < 0) {
        l->work.begin = l->work.end = 0;
        em_fail(l, c, "bad-request", why);
        return -1;
    }
    /* Only body bytes extend the deadline: chunk extensions are dropped and keep nothing alive. */
    if (!ended && held(&l->work)) em_deadline(l, c, em_patience(l, c), "idle");
    if (ended) {
        c->request_done = true;
        if (c->chunk_request && !em_add_end(l, c)) l->no_memory = true;
    }
    em_to_server(l, c);
    return c->side.gone ? -1 : taken;
}

/* Write sixteen random bytes in hexadecimal (W3C Trace Context section 3.2.2.3). False: no random bytes available. */
static bool new_id(lane *l, char *id) {
    if (l->chance_left < 16) {
        if (getrandom(l->chance, sizeof l->chance, 0) != (ssize_t)sizeof l->chance) return false;
        l->chance_left = sizeof l->chance;
    }
    l->chance_left -= 16;
    for (uint32_t i = 0; i < 16; i++) {
        uint8_t byte = l->chance[l->chance_left + i];
        id[2 * i] = "0123456789abcdef"[byte >> 4];
        id[2 * i + 1] = "0123456789abcdef"[byte & 15];
    }
    return true;
}

/* Refuse a request that Python has refused before, with the same response. Each refusal is reported. False: nothing was
 * done. */
static bool deny(lane *l, caller *c, const entry *e, const target *t, const uint8_t *data, size_t head_size,
                 bool head_only) {
    const denial *d = &l->denials[e->number];
    const uint8_t *host;
    uint32_t line = em_line_of(data, head_size), host_size = em_host_of(data, head_size, &host);
    uint32_t size = head_only ? d->head_size : d->size;
    uint32_t before = held(&l->refusals);
    refusal r = {c->id, t->serial, head_size, size, e->number, line + 1 + host_size, ""};
    if (!new_id(l, r.id)) return false;
    l->work.begin = l->work.end = 0;
    if (!buffer_add(&l->work, d->answer, size) || !buffer_add(&l->refusals, &r, sizeof r) ||
        !buffer_add(&l->refusals, data, line) || !buffer_add(&l->refusals, "\n", 1) ||
        !buffer_add(&l->refusals, host, host_size)) {
        buffer_cut(&l->refusals, before);
        return false;
    }
    memcpy(l->work.at + d->id_at, r.id, ID_SIZE);
    if (d->id_again && !head_only) memcpy(l->work.at + d->id_again, r.id, ID_SIZE);
    c->total_in += head_size;
    c->total_out += size;
    l->served++;
    em_to_caller(l, c);
    if (c->side.gone) return true;
    em_deadline(l, c, l->set.keepalive_timeout, "");
    return true;
}

/* A whole head is at `data`. Return how many bytes were taken, 0 when the request was handed to Python. */
int64_t em_begin_call(lane *l, caller *c, const uint8_t *data, size_t size, head *h, int64_t head_size) {
    plan *p = c->plan;
    bool has_body = h->chunked || h->length > 0;
    if (c->recalled || p->generation != l->generation || (has_body && is_one_of(h, NO_BODY))) return 0;
    section *n = em_section_of(l, p, h);
    const group *g = n == NULL ? NULL : em_group_of(p, n);
    const seat *at = g == NULL ? NULL : em_choose(l, g);
    entry *e = at == NULL ? NULL : em_entry_find(l, p, at, h);
    target *t = at == NULL ? NULL : at->target;
    if (e != NULL && e->number != NO_DENIAL) {
        if (c->front != NULL) return 0;   /* Python writes these refusals */
        /* The refusal would have the caller's own trace id: Python reads it. */
        bool plain = !has_body && !h->close && !h->traced;
        if (!plain || !deny(l, c, e, t, data, (size_t)head_size, is_one_of(h, (const char *const[]){"HEAD", NULL})))
            return 0;
        em_chosen(l, p, n);
        c->denied = true;
        return head_size;
    }
    server *s = e == NULL ? NULL : t->resting;
    bool through = e != NULL && s == NULL &&
                   l->ends->ready(t);   /* the node, or the server itself, gets the request over a stream */
    if (s == NULL && !through) {
        l->missed++;
        return 0;
    }
    em_message_begin(&c->parser, true);
    c->head_only = is_one_of(h, (const char *const[]){"HEAD", NULL});
    c->chunk_request = h->chunked && !through;
    em_chunks_begin(&c->chunks, h->chunked, false);
    l->work.begin = l->work.end = 0;
    em_change(h, g->asks);
    if (!through && !em_write_request(&l->work, h, p->shown, p->shown_size)) return 0;
    uint32_t written = held(&l->work);
    bool ended;
    int64_t taken = em_message_feed(l, c, &c->parser, data, (size_t)head_size, &ended);
    if (taken != head_size || ended == has_body || held(&l->work) != written) return 0;
    c->bytes_in = c->of_stream ? c->from_size : (uint64_t)head_size;
    if (has_body && size > (size_t)head_size) {
        const char *why;
        int64_t more = em_body_feed(l, c, NULL, data + head_size, size - (size_t)head_size, &ended, &why);
        if (more < 0 || (ended && c->chunk_request && !em_add_end(l, c))) {
            em_buffer_free(&c->trailers);
            return 0;
        }
        taken += more;
    }

    c->has_body = has_body;
    if (!buffer_add(&c->asked, data, (size_t)head_size) || (through && !l->ends->open(l, c, t, h))) {
        em_buffer_free(&c->asked);
        em_buffer_free(&c->trailers);
        return 0;
    }
    /* From here on the request is in progress. */
    em_chosen(l, p, n);
    if (s != NULL) {
        em_server_unrest(s);
        s->side.kind = &em_answering;
        s->caller = c;
        c->server = s;
    }
    c->target = t;
    t->users++;
    c->row = e->row;
    c->answers = g->answers;
    t->in_flight++;
    l->calls++;
    c->state = ASKED;
    c->began = l->now;
    c->bytes_out = 0;
    c->status = 0;
    c->idempotent = is_one_of(h, IDEMPOTENT);
    c->request_done = ended;
    c->response_done = false;
    c->close = h->close;
    if (s != NULL || has_body) em_to_server(l, c);
    if (c->side.gone) return taken;
    if (c->request_done) em_deadline(l, c, l->set.response_timeout, "response-timeout");
    else em_deadline(l, c, l->set.idle_timeout, "idle");
    return taken;
}

/* Handle bytes of the caller: the next request, or more of this one's body. Return how many were taken. */
static int64_t caller_bytes(lane *l, caller *c, const uint8_t *data, size_t size) {
    if (c->state >= ASKED) {
        if (c->request_done) return 0;
        if (em_back_waits(l, c) > l->set.buffer_bytes) return 0;
        int64_t taken = request_body(l, c, data, size);
        if (taken < 0) return (int64_t)size;
        if (!c->request_done) return taken;
        if (c->response_done) {
            em_finish(l, c);
        } else if (c->state == ASKED) {
            em_deadline(l, c, l->set.response_timeout, "response-timeout");
            em_request_ended(l, c);
        }
        return taken;
    }
    if (held(&c->out)) return 0;   /* it has not read a refusal yet: send that first */
    head h;
    int64_t head_size = em_read_request(data, size, &l->set.head, &h);
    /* An incomplete head is rare. A slow one is Python's work, which has the deadline for it. */
    int64_t taken = head_size <= 0 ? 0 : em_begin_call(l, c, data, size, &h, head_size);
    c->held_back = taken == 0;   /* hand it to Python, with all bytes that are here */
    return taken;
}

/* Take the kept and the new bytes, as far as possible now; keep the rest. */
static void caller_take(lane *l, caller *c, const uint8_t *data, size_t size) {
    if (held(&c->in)) {
        if (!buffer_add(&c->in, data, size)) {
            em_fail(l, c, "internal", "no memory");
            return;
        }
        int64_t taken = caller_bytes(l, c, first(&c->in), held(&c->in));
        if (c->side.gone) return;
        if (taken) em_buffer_take(&c->in, (uint32_t)taken);
    } else {
        int64_t taken = caller_bytes(l, c, data, size);
        if (c->side.gone) return;
        if ((size_t)taken < size && !buffer_add(&c->in, data + taken, size - (size_t)taken)) {
            em_fail(l, c, "internal", "no memory");
            return;
        }
    }
    if (c->held_back) {
        c->held_back = false;
        em_go_up(l, c, UP_REQUEST, "", "");
    } else if (c->denied ||
               c->state ==
                   AT_REST) {   /* the response came before its request was complete: the next request follows */
        c->denied = false;
        em_come_again(l, c);
    }
}

/* Begin the next request, if it is here already. */
static void caller_next(lane *l, caller *c) {
    c->state = AT_REST;
    if (held(&c->out))
        return;   /* it does not read its refusals: send them first, even if it then leaves; see caller_writable */
    if (c->recalled || c->plan->generation != l->generation) {
        em_go_up(l, c, UP_REQUEST, "", "");
        return;
    }
    em_deadline(l, c, l->set.keepalive_timeout, "");
    if (held(&c->in)) {
        caller_take(l, c, NULL, 0);
        if (c->side.gone || c->side.is_again) return;   /* another request was refused */
    }
    if (c->ended && c->state < ASKED) {
        if (held(&c->in)) em_go_up(l, c, UP_REQUEST, "", "");
        else em_go_up(l, c, UP_END, "", "");
        return;
    }
    if (!c->ended && held(&c->in) <= l->set.buffer_bytes) em_watch(l, &c->side, c->side.events | EPOLLIN);
}

static void caller_readable(lane *l, caller *c) {
    ssize_t got = recv(c->side.fd, scratch_room(l), SCRATCH, MSG_DONTWAIT);
    if (got > 0) scratch_holds(l, (size_t)got);
    if (got < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return;
        if (c->state >= ASKED) em_fail(l, c, "client-gone", strerror(errno));
        else em_go_up(l, c, UP_FAILED, "client-gone", strerror(errno));
        return;
    }
    if (got == 0) {
        c->ended = true;
        em_watch(l, &c->side, c->side.events & ~(uint32_t)EPOLLIN);
        if (c->state < ASKED) {
            if (held(&c->out)) return;   /* once that is sent, see em_come_again */
            if (held(&c->in)) em_go_up(l, c, UP_REQUEST, "", "");   /* Python handles the part of a head */
            else em_go_up(l, c, UP_END, "", "");
        } else if (!c->request_done) {
            em_fail(l, c, "client-gone", "the connection ended in the middle of a body");
        }
        return;
    }
    caller_take(l, c, l->scratch, (size_t)got);
    if (!c->side.gone && held(&c->in) > l->set.buffer_bytes) em_watch(l, &c->side, c->side.events & ~(uint32_t)EPOLLIN);
}

static void caller_writable(lane *l, caller *c) {
    if (!em_caller_send(l, c)) {
        em_fail(l, c, "client-gone", "");
        return;
    }
    if (c->state == ANSWERED) em_deadline(l, c, em_patience(l, c), "idle");
    else if (c->state == AT_REST && held(&c->out) == 0) em_come_again(l, c);
    server *s = c->server;
    if (!c->response_done && held(&c->out) <= l->set.buffer_bytes / 2) {
        if (s != NULL) em_watch(l, &s->side, s->side.events | EPOLLIN);
        else l->ends->read_on(l, c);
    }
    if (c->response_done && (c->request_done || c->close)) em_finish(l, c);
}

void em_callers_flush(lane *l) {
    while (l->due_callers != NULL) {
        caller *c = l->due_callers;
        l->due_callers = c->next_due;
        c->is_due = false;
        if (c->side.gone) continue;
        caller_writable(l, c);
        if (!c->side.gone && held(&c->out)) em_watch(l, &c->side, c->side.events | EPOLLOUT);
    }
}

/* Pass kept body bytes on, when the server takes more. */
static void caller_more(lane *l, caller *c) {
    if (c->state < ASKED || c->request_done) return;
    if (!c->ended) em_watch(l, &c->side, c->side.events | EPOLLIN);
    if (held(&c->in)) caller_take(l, c, NULL, 0);
}

static void caller_late(lane *l, caller *c) {
    if (c->state == AT_REST) {
        em_go_up(l, c, UP_END, "", "");
    } else if (c->last && c->response_done && held(&c->out) == 0) {
        c->close = true;
        em_finish(l, c);
    } else {
        em_fail(l, c, c->late, "");
    }
}

/* ---- events, and time ---- */

static void caller_event(lane *l, side *s, uint32_t events) {
    caller *c = (caller *)s;
    if (events & EPOLLOUT) caller_writable(l, c);
    if (s->gone) return;
    if (events & EPOLLIN) {
        caller_readable(l, c);
    } else if (events & (EPOLLERR | EPOLLHUP)) {
        if (s->events & EPOLLIN) caller_readable(l, c);
        else if (!(events & EPOLLOUT)) em_go_up(l, c, UP_FAILED, "client-gone", "the connection was reset");
    }
}

static void caller_again(lane *l, side *s) {
    caller *c = (caller *)s;
    if (c->state < ASKED) caller_next(l, c);
    else caller_more(l, c);
}

static uint32_t caller_crowd(const side *s) { return ((const caller *)s)->plan->crowd % (CROWDS / 2); }

static const side_kind asking = {
    .event = caller_event, .again = caller_again, .crowd = caller_crowd, .release = em_caller_release,
};

bool em_lane_carry(lane *l, uint64_t id, int fd, plan *p, const uint8_t *data, size_t size, caller **handle) {
    caller *c = em_caller_new(l, &asking, fd, p);
    if (c == NULL) return false;
    if (!buffer_add(&c->in, data, size) || !em_enter(l, &c->side)) {
        em_buffer_free(&c->in);
        free(c);
        return false;
    }
    c->id = id;
    em_caller_begin(l, c, handle);
    l->now = em_micros_now();
    em_deadline(l, c, l->set.keepalive_timeout, "");
    if (size) {   /* first those bytes: the socket is read again afterwards, see caller_next */
        em_watch(l, &c->side, 0);
        em_again(l, &c->side);
    }
    return true;
}

void em_callers_tick(lane *l) {
    for (caller *c = l->first_caller, *next; c != NULL; c = next) {
        next = c->next;
        if (relay_clock(l) > c->deadline) caller_late(l, c);
    }
}
