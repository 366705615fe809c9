/* Responses of servers: see answer.h. */
#include "answer.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "body.h"
#include "finish.h"
#include "lane.h"
#include "send.h"

/* Pass on the response's body, and its end. `data` follows what was read before. */
static void response_body(lane *l, caller *c, server *s, const uint8_t *data, size_t size) {
    bool ended;
    const char *why;
    int64_t taken = em_body_feed(l, c, s, data, size, &ended, &why);
    if (taken < 0) {
        l->work.begin = l->work.end = 0;
        em_fail(l, c, "upstream-broken", why);
        return;
    }
    bool moved = held(&l->work) > 0;
    if (ended) {
        c->response_done = true;
        if ((size_t)taken < size) s->broken = true;   /* it sent unasked bytes: do not use it again */
        if (c->chunk_response && !em_add_end(l, c)) l->no_memory = true;
    }
    em_to_caller(l, c);
    if (c->side.gone) return;
    if (moved || ended) em_deadline(l, c, l->set.idle_timeout, "idle");
    if (c->response_done && (c->request_done || c->close)) em_finish(l, c);
}

/* Hand the response to Python, with the bytes that are here. That needs a whole request: while the request is on its
 * way, such a response waits. */
static void response_up(lane *l, caller *c, server *s, const uint8_t *data, size_t size) {
    l->work.begin = l->work.end = 0;
    if (data == l->scratch && !buffer_add(&s->in, data, size)) em_fail(l, c, "internal", "no memory");
    else if (c->request_done) em_go_up(l, c, UP_RESPONSE, "", "");
    else em_watch(l, &s->side, s->side.events & ~(uint32_t)EPOLLIN);
}

static void response_head(lane *l, caller *c, server *s, const uint8_t *data, size_t size) {
    head h;
    int64_t head_size = em_read_response(data, size, &l->set.head, &h);
    if (head_size == HEAD_PART) {
        if (data == l->scratch && !buffer_add(&s->in, data, size)) em_fail(l, c, "internal", "no memory");
        return;
    }
    if (head_size == HEAD_ODD) {
        response_up(l, c, s, data, size);
        return;
    }
    em_change(&h, c->answers);
    bool no_body = c->head_only || h.status == 204 || h.status == 304;
    bool until_close = !no_body && !h.chunked && h.length < 0;
    bool early = !c->request_done && (s->broken || h.close || until_close);   /* it takes no more of the body */
    em_message_begin(&s->parser, false);
    em_chunks_begin(&s->chunks, !no_body && h.chunked, true);
    c->chunk_response = !no_body && (h.chunked || until_close) && c->front == NULL;
    l->work.begin = l->work.end = 0;
    bool ended;
    bool ok = c->front != NULL || em_write_response(&l->work, &h, h.status == 204 ? -1 : h.length,
                                                    h.status != 204 && (h.chunked || until_close), c->close || early);
    uint32_t written = held(&l->work);
    ok = ok && em_message_feed(l, c, &s->parser, data, (size_t)head_size, &ended) == head_size &&
         held(&l->work) == written;
    ok = ok && ended == (no_body || (!h.chunked && h.length == 0));
    int64_t taken = head_size;
    if (ok && !ended && size > (size_t)head_size) {
        const char *why;
        int64_t more = em_body_feed(l, c, s, data + head_size, size - (size_t)head_size, &ended, &why);
        ok = more >= 0 && (!ended || !c->chunk_response || em_add_end(l, c));
        taken += more;
    }
    if (!ok) {
        em_buffer_free(&c->trailers);
        response_up(l, c, s, data, size);
        return;
    }
    if (c->front != NULL && !l->ends->head(l, c, &h, ended && held(&l->work) == 0 && held(&c->trailers) == 0)) {
        em_fail(l, c, "internal", "no memory");
        return;
    }
    c->state = ANSWERED;
    c->status = h.status;
    c->close = c->close || early;
    c->response_done = ended;
    s->broken = s->broken || h.close || until_close || (ended && (size_t)taken < size);
    if (data != l->scratch) em_buffer_free(&s->in);
    em_deadline(l, c, l->set.idle_timeout, "idle");
    em_to_caller(l, c);
    if (!c->side.gone && c->response_done && (c->request_done || c->close)) em_finish(l, c);
}

/* Name the most common ways in which a connection breaks. */
static const char *broke(int error) {
    switch (error) {
    case ECONNRESET: return "reset the connection";
    case ETIMEDOUT: return ": the connection broke: connection timed out";
    case EHOSTUNREACH: return ": the connection broke: no route to host";
    default: return ": the connection broke";
    }
}

/* Nothing more comes from the server. `error` 0: it ended its sending; a reset is never an end (RFC 9112 section 8). */
static void server_ended(lane *l, caller *c, server *s, int error) {
    if (error == 0 && s->reset) error = ECONNRESET;
    if (c->state == ANSWERED && !c->response_done) {
        bool until_close = error == 0 && llhttp_message_needs_eof(&s->parser) != 0;
        if (until_close) {
            l->work.begin = l->work.end = 0;
            c->response_done = true;
            if (c->chunk_response && !em_add_end(l, c)) l->no_memory = true;
            em_to_caller(l, c);
            if (!c->side.gone && (c->request_done || c->close)) em_finish(l, c);
            return;
        }
        em_fail(l, c, "upstream-broken", error ? broke(error) : "the connection ended in the middle of a body");
    } else if (c->state == ASKED && c->idempotent && !c->has_body && s->used && held(&s->in) == 0) {
        /* RFC 9110 section 9.2.2: the server may have closed an idle connection just as we used it. Python retries
         * once. */
        em_go_up(l, c, UP_REQUEST, "", "");
    } else if (c->state == ASKED) {
        em_fail(l, c, "upstream-broken",
                error          ? broke(error)
                : held(&s->in) ? "the connection ended in the middle of a response"
                               : "closed the connection before it answered");
    } else {
        s->broken = true;
        em_watch(l, &s->side, s->side.events & ~(uint32_t)EPOLLIN);
        em_fail(l, c, "upstream-broken", "closed the connection");
    }
}

/* Hand over a response that has waited for the end of the request. */
void em_request_ended(lane *l, caller *c) {
    server *s = c->server;
    if (s == NULL) return;
    if (held(&s->in)) response_head(l, c, s, first(&s->in), held(&s->in));
    if (!c->side.gone && c->server == s) em_watch(l, &s->side, s->side.events | EPOLLIN);
}

static void server_readable(lane *l, server *s) {
    caller *c = s->caller;
    if (c == NULL) {   /* idle: it has closed, or sends unasked bytes */
        em_server_close(l, s);
        return;
    }
    if (c->response_done) {
        s->broken = true;
        em_watch(l, &s->side, 0);
        if (c->front != NULL) l->ends->unneeded(l, c);
        return;
    }
    ssize_t got = recv(s->side.fd, scratch_room(l), SCRATCH, MSG_DONTWAIT);
    if (got > 0) scratch_holds(l, (size_t)got);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (got <= 0) {
        server_ended(l, c, s, got < 0 ? errno : 0);
        return;
    }
    if (c->state == ANSWERED) {
        l->work.begin = l->work.end = 0;
        response_body(l, c, s, l->scratch, (size_t)got);
    } else if (held(&s->in)) {
        if (!buffer_add(&s->in, l->scratch, (size_t)got)) em_fail(l, c, "internal", "no memory");
        else response_head(l, c, s, first(&s->in), held(&s->in));
    } else {
        response_head(l, c, s, l->scratch, (size_t)got);
    }
}

static void server_writable(lane *l, server *s) {
    caller *c = s->caller;
    if (!em_server_send(l, s)) {
        em_server_takes_no_more(s);
        em_buffer_free(&s->out);
        em_watch(l, &s->side, (s->side.events & ~(uint32_t)EPOLLOUT) | EPOLLIN);
        if (c != NULL && c->front != NULL) l->ends->unneeded(l, c);
    }
    if (c != NULL && c->request_done && c->response_done && (s->broken || held(&s->out) == 0)) {
        em_finish(l, c);
        return;
    }
    if (c == NULL || c->request_done || held(&s->out) > l->set.buffer_bytes / 2) return;
    if (c->front != NULL) {
        l->ends->read_on(l, c);
        return;
    }
    if (!c->of_stream) c->side.kind->again(l, &c->side);   /* kept bytes of its request go on */
}

static void server_event(lane *l, side *s, uint32_t events) {
    server *v = (server *)s;
    if (events & EPOLLOUT) server_writable(l, v);
    if (s->gone || !(events & (EPOLLIN | EPOLLERR | EPOLLHUP))) return;
    if ((s->events & EPOLLIN) || v->caller == NULL) {
        server_readable(l, v);
    } else if (!(s->events & EPOLLOUT)) {   /* nothing reads it now, and the event would repeat for ever */
        v->broken = true;
        em_unwatch(l, s);
    }
}

static uint32_t server_crowd(const side *s) {
    const caller *c = ((const server *)s)->caller;
    return c == NULL ? 0 : c->plan->crowd % (CROWDS / 2);
}

const side_kind em_answering = {.event = server_event, .crowd = server_crowd, .release = em_server_release};
