/* The journey of one call: a request's head is judged and sent on, bodies pass both ways, and both connections come to rest again.
 *
 * A caller is AT_REST between two requests, ASKED once its request is under way, ANSWERED once the response has begun. Whatever is not plain goes up while that is still possible: a request until it is ASKED, a response until it is
 * ANSWERED. From then on both messages are the lane's, and a fault breaks the call off.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lane.h"

void fail(lane *l, caller *c, const char *flag, const char *detail) { go_up(l, c, UP_FAILED, flag, detail); }

/* ---- sending ---- */

/* Send what was built, keep what does not fit. False: the other end is gone. */
static bool pass_on(lane *l, side *s, void *owner, buffer *waiting, const uint8_t *data, size_t size) {
    if (held(waiting) == 0) {
        while (size) {
            ssize_t sent = send(s->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent < 0) {
                if (errno == EINTR) continue;
                if (errno == EAGAIN || errno == EWOULDBLOCK) break;
                return false;
            }
            data += sent;
            size -= (size_t)sent;
        }
    }
    if (size) {
        if (!buffer_add(waiting, data, size)) {
            l->no_memory = true;
            return false;
        }
        watch(l, s, owner, s->events | EPOLLOUT);
    }
    return true;
}

/* Send what waits. False: the other end is gone. */
static bool send_waiting(lane *l, side *s, void *owner, buffer *waiting) {
    while (held(waiting)) {
        ssize_t sent = send(s->fd, first(waiting), held(waiting), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
            return false;
        }
        buffer_take(waiting, (uint32_t)sent);
    }
    watch(l, s, owner, s->events & ~(uint32_t)EPOLLOUT);
    return true;
}

void to_caller(lane *l, caller *c) {
    uint32_t size = held(&l->work);
    if (c->front != NULL) {
        front_send(l, c);
        return;
    }
    c->bytes_out += size;
    if (c->back != NULL) {   /* more of it may be here: a head and its body go out together */
        if (!buffer_add(&c->out, first(&l->work), size)) l->no_memory = true;
        l->work.begin = l->work.end = 0;
        if (!c->is_due) {
            c->is_due = true;
            c->next_due = l->due_callers;
            l->due_callers = c;
        }
        return;
    }
    bool ok = size == 0 || pass_on(l, &c->side, c, &c->out, first(&l->work), size);
    l->work.begin = l->work.end = 0;
    if (!ok || l->no_memory) {
        fail(l, c, "client-gone", "");
        return;
    }
    if (held(&c->out) > l->set.buffer_bytes && c->server != NULL) watch(l, &c->server->side, c->server, c->server->side.events & ~(uint32_t)EPOLLIN);
}

void to_server(lane *l, caller *c) {
    server *s = c->server;
    if (s == NULL) {
        back_send(l, c);
        return;
    }
    uint32_t size = held(&l->work);
    bool ok = size == 0 || s->broken || pass_on(l, &s->side, s, &s->out, first(&l->work), size);
    l->work.begin = l->work.end = 0;
    if (l->no_memory) {
        fail(l, c, "internal", "no memory");
        return;
    }
    if (!ok) s->broken = true;     /* it may have answered before: what it said is still to be read */
    if (held(&s->out) > l->set.buffer_bytes) watch(l, &c->side, c, c->side.events & ~(uint32_t)EPOLLIN);
}

/* ---- llhttp: it says where bodies end, and has to agree with head.c ---- */

static int stop_at_end(llhttp_t *parser) {
    (void)parser;
    return HPE_PAUSED;
}

static int head_complete(llhttp_t *parser) {
    caller *c = parser->data;
    return parser->type == HTTP_RESPONSE && c->head_only ? 1 : 0;
}

bool framed(lane *l, const void *data, size_t size, bool chunked) {
    if (!chunked) return buffer_add(&l->work, data, size);
    char line[24];
    int written = snprintf(line, sizeof line, "%zx\r\n", size);
    return buffer_add(&l->work, line, (size_t)written) && buffer_add(&l->work, data, size) && buffer_add(&l->work, "\r\n", 2);
}

static lane *the_lane;   /* llhttp's callbacks get a caller only */

static int body(llhttp_t *parser, const char *data, size_t size) {
    caller *c = parser->data;
    bool chunked = parser->type == HTTP_REQUEST ? c->chunk_request : c->chunk_response;
    return framed(the_lane, data, size, chunked) ? 0 : -1;
}

/* Trailers come as fields after the body: head.c has read those of the head. */
static bool in_trailers(const llhttp_t *parser) { return (parser->flags & F_TRAILING) != 0; }

static int trailer_piece(llhttp_t *parser, const char *data, size_t size) {
    caller *c = parser->data;
    if (!in_trailers(parser)) return 0;
    return held(&c->trailers) + size <= 8192 && buffer_add(&c->trailers, data, size) ? 0 : -1;
}

static int trailer_name_end(llhttp_t *parser) {
    caller *c = parser->data;
    return !in_trailers(parser) || buffer_add(&c->trailers, ": ", 2) ? 0 : -1;
}

static int trailer_end(llhttp_t *parser) {
    caller *c = parser->data;
    return !in_trailers(parser) || buffer_add(&c->trailers, "\r\n", 2) ? 0 : -1;
}

/* The end of a chunked body, with the trailers that travel on. */
bool add_end(lane *l, caller *c) {
    bool ok = buffer_add(&l->work, "0\r\n", 3);
    if (held(&c->trailers)) {
        const uint8_t *p = first(&c->trailers), *end = p + held(&c->trailers);
        while (ok && p < end) {
            const uint8_t *line_end = memmem(p, (size_t)(end - p), "\r\n", 2);
            const uint8_t *colon = memchr(p, ':', (size_t)(end - p));
            if (line_end == NULL || colon == NULL || colon > line_end) break;
            if (trailer_travels(p, (size_t)(colon - p))) ok = buffer_add(&l->work, p, (size_t)(line_end + 2 - p));
            p = line_end + 2;
        }
        buffer_free(&c->trailers);
    }
    return ok && buffer_add(&l->work, "\r\n", 2);
}

/* Feed a parser. `ended`: the message is complete. Answers how much was taken, -1 for a fault. */
static int64_t feed(lane *l, caller *c, llhttp_t *parser, const uint8_t *data, size_t size, bool *ended) {
    *ended = false;
    parser->data = c;
    the_lane = l;
    llhttp_errno_t error = llhttp_execute(parser, (const char *)data, size);
    if (error == HPE_OK) return (int64_t)size;
    if (error == HPE_PAUSED) {
        *ended = true;
        return (const uint8_t *)llhttp_get_error_pos(parser) - data;
    }
    return -1;
}

void lane_callbacks(lane *l) {
    for (llhttp_settings_t *s = &l->asks;; s = &l->answers) {
        llhttp_settings_init(s);
        s->on_headers_complete = head_complete;
        s->on_body = body;
        s->on_message_complete = stop_at_end;
        s->on_header_field = s->on_header_value = trailer_piece;
        s->on_header_field_complete = trailer_name_end;
        s->on_header_value_complete = trailer_end;
        if (s == &l->answers) break;
    }
}

/* What is here already, or has ended, is looked at in the next round: who sends a hundred requests at a time does not stop the others. */
void come_again(lane *l, caller *c) {
    if (c->is_again || c->from != NULL || !(held(&c->in) || c->ended || c->recalled || c->plan->generation != l->generation)) return;
    c->is_again = true;
    c->again = l->again;
    l->again = c;
}

void deadline(lane *l, caller *c, uint64_t after, const char *flag) {
    c->deadline = l->now + after;
    c->late = flag;
}

/* ---- a request ---- */

static bool is_one_of(const head *h, const char *const *words) {
    for (; *words; words++)
        if (strlen(*words) == h->method_size && memcmp(*words, h->method, h->method_size) == 0) return true;
    return false;
}

static const char *const NO_BODY[] = {"GET", "HEAD", "OPTIONS", "TRACE", "DELETE", NULL};       /* message.py */
static const char *const IDEMPOTENT[] = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", NULL};

/* Body bytes of the request, until it ends or there are no more. Answers how many were taken, -1 when the call is over. */
static int64_t request_body(lane *l, caller *c, const uint8_t *data, size_t size) {
    bool ended;
    int64_t taken = feed(l, c, &c->parser, data, size, &ended);
    if (taken < 0) {
        fail(l, c, "bad-request", "the body breaks HTTP/1.1");
        return -1;
    }
    c->bytes_in += (uint64_t)taken;
    if (ended) {
        c->request_done = true;
        if (c->chunk_request && !add_end(l, c)) l->no_memory = true;
    }
    to_server(l, c);
    return c->side.gone ? -1 : taken;
}

/* Sixteen random bytes in hexadecimal (W3C Trace Context section 3.2.2.3). False: there is no chance to be had. */
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

/* A request that Python has refused before is refused again, in the same words. Each refusal is told. False: nothing was done. */
static bool deny(lane *l, caller *c, const entry *e, const target *t, const uint8_t *data, size_t head_size, bool head_only) {
    const denial *d = &l->denials[e->denial];
    const uint8_t *line_end = memchr(data, '\r', head_size);
    uint32_t size = head_only ? d->head_size : d->size;
    refusal r = {c->id, t->serial, head_size, size, e->denial, (uint32_t)(line_end - data), ""};
    if (!new_id(l, r.id)) return false;
    l->work.begin = l->work.end = 0;
    if (!buffer_add(&l->work, d->answer, size) || !buffer_add(&l->refusals, &r, sizeof r) || !buffer_add(&l->refusals, data, r.text_size)) {
        l->no_memory = true;
        return false;
    }
    memcpy(l->work.at + d->id_at, r.id, ID_SIZE);
    c->total_in += head_size;
    c->total_out += size;
    l->served++;
    to_caller(l, c);
    if (c->side.gone) return true;
    deadline(l, c, l->set.keepalive_timeout, "");
    return true;
}

/* A whole head is at `data`. Answers how many bytes were taken, 0 when it went up. */
int64_t begin_call(lane *l, caller *c, const uint8_t *data, size_t size, const head *h, int64_t head_size) {
    plan *p = c->plan;
    bool has_body = h->chunked || h->length > 0;
    if (c->recalled || p->generation != l->generation || (has_body && is_one_of(h, NO_BODY))) return 0;
    const seat *at = choose(p);
    entry *e = at == NULL ? NULL : entry_find(l, p, at, h);
    target *t = at == NULL ? NULL : at->target;
    if (e != NULL && e->denial != NO_DENIAL) {
        if (c->front != NULL) return 0;   /* Python says no there */
        /* The caller's own trace id would be that of the refusal: Python reads it. */
        bool plain = !has_body && !h->close && !h->traced;
        if (!plain || !deny(l, c, e, t, data, (size_t)head_size, is_one_of(h, (const char *const[]){"HEAD", NULL}))) return 0;
        chosen(l, p, t);
        c->denied = true;
        return head_size;
    }
    server *s = e == NULL ? NULL : t->resting;
    bool through = e != NULL && s == NULL && back_ready(t);   /* its node is asked, or the server itself, over a stream */
    if (s == NULL && !through) {
        l->missed++;
        return 0;
    }
    llhttp_init(&c->parser, HTTP_REQUEST, &l->asks);
    c->head_only = is_one_of(h, (const char *const[]){"HEAD", NULL});
    c->chunk_request = h->chunked && !through;
    l->work.begin = l->work.end = 0;
    if (!through && !write_request(&l->work, h, p->shown, p->shown_size)) return 0;
    uint32_t written = held(&l->work);
    bool ended;
    int64_t taken = feed(l, c, &c->parser, data, (size_t)head_size, &ended);
    if (taken != head_size || ended == has_body || held(&l->work) != written) return 0;
    if (has_body && size > (size_t)head_size) {
        int64_t more = feed(l, c, &c->parser, data + head_size, size - (size_t)head_size, &ended);
        if (more < 0 || (ended && c->chunk_request && !add_end(l, c))) {
            buffer_free(&c->trailers);
            return 0;
        }
        taken += more;
    }

    c->has_body = has_body;
    if (through && !back_open(l, c, t, h)) {
        buffer_free(&c->trailers);
        return 0;
    }
    /* From here on it is under way. */
    chosen(l, p, t);
    if (s != NULL) {
        server_unrest(s);
        s->caller = c;
        c->server = s;
    }
    c->target = t;
    t->users++;
    c->row = e->row;
    t->in_flight++;
    l->calls++;
    c->state = ASKED;
    c->began = l->now;
    c->bytes_in = c->from != NULL ? c->from_size : (uint64_t)taken;
    c->bytes_out = 0;
    c->status = 0;
    c->idempotent = is_one_of(h, IDEMPOTENT);
    c->request_done = ended;
    c->response_done = false;
    c->close = h->close;
    if (!buffer_add(&c->asked, data, (size_t)head_size)) l->no_memory = true;
    if (s != NULL || has_body) to_server(l, c);
    if (c->side.gone) return taken;
    if (c->request_done) deadline(l, c, l->set.response_timeout, "response-timeout");
    else deadline(l, c, l->set.idle_timeout, "idle");
    return taken;
}

/* An answer that can only go up has waited for this. */
void request_ended(lane *l, caller *c) {
    server *s = c->server;
    if (s == NULL) return;
    if (held(&s->in)) response_head(l, c, s, first(&s->in), held(&s->in));
    if (!c->side.gone && c->server == s) watch(l, &s->side, s, s->side.events | EPOLLIN);
}

/* What is here of the caller: the next request, or more of this one's body. Answers how many bytes were taken. */
static int64_t caller_bytes(lane *l, caller *c, const uint8_t *data, size_t size) {
    if (c->state >= ASKED) {
        if (c->request_done) return 0;
        if (back_waits(c) > l->set.buffer_bytes) return 0;
        int64_t taken = request_body(l, c, data, size);
        if (taken < 0) return (int64_t)size;
        if (!c->request_done) {
            deadline(l, c, l->set.idle_timeout, "idle");
        } else if (c->response_done) {
            finish(l, c);
        } else if (c->state == ASKED) {
            deadline(l, c, l->set.response_timeout, "response-timeout");
            request_ended(l, c);
        }
        return taken;
    }
    if (held(&c->out)) return 0;   /* a refusal that it has not read yet: first that */
    static head h;   /* large; one loop, and nothing here calls itself */
    int64_t head_size = read_request(data, size, &l->set.head, &h);
    /* One that is not whole is seldom, and what is slow about it is not our work: Python has its deadline. */
    int64_t taken = head_size <= 0 ? 0 : begin_call(l, c, data, size, &h, head_size);
    c->held_back = taken == 0;   /* it goes up, with all that is here of it */
    return taken;
}

/* Take what was kept, and what is new, as far as it goes now; keep the rest. */
static void caller_take(lane *l, caller *c, const uint8_t *data, size_t size) {
    if (held(&c->in)) {
        if (!buffer_add(&c->in, data, size)) {
            fail(l, c, "internal", "no memory");
            return;
        }
        int64_t taken = caller_bytes(l, c, first(&c->in), held(&c->in));
        if (c->side.gone) return;
        if (taken) buffer_take(&c->in, (uint32_t)taken);
    } else {
        int64_t taken = caller_bytes(l, c, data, size);
        if (c->side.gone) return;
        if ((size_t)taken < size && !buffer_add(&c->in, data + taken, size - (size_t)taken)) {
            fail(l, c, "internal", "no memory");
            return;
        }
    }
    if (c->held_back) {
        c->held_back = false;
        go_up(l, c, UP_REQUEST, "", "");
    } else if (c->denied) {
        c->denied = false;
        come_again(l, c);
    }
}

/* The next request may be here already. */
void caller_next(lane *l, caller *c) {
    c->state = AT_REST;
    if (c->recalled || c->plan->generation != l->generation) {
        go_up(l, c, UP_REQUEST, "", "");
        return;
    }
    deadline(l, c, l->set.keepalive_timeout, "");
    if (held(&c->out)) return;   /* refusals that it does not read: first those */
    if (held(&c->in)) {
        caller_take(l, c, NULL, 0);
        if (c->side.gone) return;
    }
    if (c->ended && c->state < ASKED) {
        if (held(&c->in)) go_up(l, c, UP_REQUEST, "", "");
        else go_up(l, c, UP_END, "", "");
        return;
    }
    if (!c->ended && held(&c->in) <= l->set.buffer_bytes) watch(l, &c->side, c, c->side.events | EPOLLIN);
}

void caller_readable(lane *l, caller *c) {
    ssize_t got = recv(c->side.fd, l->scratch, SCRATCH, MSG_DONTWAIT);
    if (got < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return;
        if (c->state >= ASKED) fail(l, c, "client-gone", strerror(errno));
        else go_up(l, c, UP_FAILED, "client-gone", strerror(errno));
        return;
    }
    if (got == 0) {
        c->ended = true;
        watch(l, &c->side, c, c->side.events & ~(uint32_t)EPOLLIN);
        if (c->state < ASKED) {
            if (held(&c->out)) return;   /* once that is sent, see come_again */
            if (held(&c->in)) go_up(l, c, UP_REQUEST, "", "");   /* Python finds out what a part of a head means */
            else go_up(l, c, UP_END, "", "");
        } else if (!c->request_done) {
            fail(l, c, "client-gone", "the connection ended in the middle of a body");
        }
        return;
    }
    caller_take(l, c, l->scratch, (size_t)got);
    if (!c->side.gone && held(&c->in) > l->set.buffer_bytes) watch(l, &c->side, c, c->side.events & ~(uint32_t)EPOLLIN);
}

void caller_writable(lane *l, caller *c) {
    if (!send_waiting(l, &c->side, c, &c->out)) {
        fail(l, c, "client-gone", "");
        return;
    }
    if (c->state == ANSWERED) deadline(l, c, l->set.idle_timeout, "idle");
    else if (c->state == AT_REST && held(&c->out) == 0) come_again(l, c);
    server *s = c->server;
    if (!c->response_done && held(&c->out) <= l->set.buffer_bytes / 2) {
        if (s != NULL) watch(l, &s->side, s, s->side.events | EPOLLIN);
        else streams_read_on(l, c);
    }
    if (c->response_done && (c->request_done || c->close)) finish(l, c);
}

void callers_flush(lane *l) {
    while (l->due_callers != NULL) {
        caller *c = l->due_callers;
        l->due_callers = c->next_due;
        c->is_due = false;
        if (c->side.gone) continue;
        caller_writable(l, c);
        if (!c->side.gone && held(&c->out)) watch(l, &c->side, c, c->side.events | EPOLLOUT);
    }
}

/* ---- a response ---- */

/* The response's body, and its end. `data` is what follows what was read before. */
static void response_body(lane *l, caller *c, server *s, const uint8_t *data, size_t size) {
    bool ended;
    int64_t taken = feed(l, c, &s->parser, data, size, &ended);
    if (taken < 0) {
        fail(l, c, "upstream-broken", "the body of the response breaks HTTP/1.1");
        return;
    }
    if (ended) {
        c->response_done = true;
        if ((size_t)taken < size) s->broken = true;   /* it sent what nobody asked for: nothing more from there */
        if (c->chunk_response && !add_end(l, c)) l->no_memory = true;
    }
    to_caller(l, c);
    if (c->side.gone) return;
    deadline(l, c, l->set.idle_timeout, "idle");
    if (c->response_done && (c->request_done || c->close)) finish(l, c);
}

/* The response goes up, with what is here of it. Only a whole request can: while that is on its way, such an answer waits. */
static void response_up(lane *l, caller *c, server *s, const uint8_t *data, size_t size) {
    l->work.begin = l->work.end = 0;
    if (data == l->scratch && !buffer_add(&s->in, data, size)) fail(l, c, "internal", "no memory");
    else if (c->request_done) go_up(l, c, UP_RESPONSE, "", "");
    else watch(l, &s->side, s, s->side.events & ~(uint32_t)EPOLLIN);
}

void response_head(lane *l, caller *c, server *s, const uint8_t *data, size_t size) {
    static head h;
    int64_t head_size = read_response(data, size, &l->set.head, &h);
    if (head_size == HEAD_PART) {
        if (data == l->scratch && !buffer_add(&s->in, data, size)) fail(l, c, "internal", "no memory");
        return;
    }
    if (head_size == HEAD_ODD) {
        response_up(l, c, s, data, size);
        return;
    }
    bool no_body = c->head_only || h.status == 204 || h.status == 304;
    bool until_close = !no_body && !h.chunked && h.length < 0;
    bool early = !c->request_done && (s->broken || h.close || until_close);   /* it takes no more of the body */
    llhttp_init(&s->parser, HTTP_RESPONSE, &l->answers);
    c->chunk_response = !no_body && (h.chunked || until_close) && c->front == NULL;
    l->work.begin = l->work.end = 0;
    bool ended;
    bool ok = c->front != NULL ||
              write_response(&l->work, &h, h.status == 204 ? -1 : h.length, h.status != 204 && (h.chunked || until_close), c->close || early);
    uint32_t written = held(&l->work);
    ok = ok && feed(l, c, &s->parser, data, (size_t)head_size, &ended) == head_size && held(&l->work) == written;
    ok = ok && ended == (no_body || (!h.chunked && h.length == 0));
    int64_t taken = head_size;
    if (ok && !ended && size > (size_t)head_size) {
        int64_t more = feed(l, c, &s->parser, data + head_size, size - (size_t)head_size, &ended);
        ok = more >= 0 && (!ended || !c->chunk_response || add_end(l, c));
        taken += more;
    }
    if (!ok) {
        buffer_free(&c->trailers);
        response_up(l, c, s, data, size);
        return;
    }
    if (c->front != NULL && !front_head(l, c, &h, ended && held(&l->work) == 0 && held(&c->trailers) == 0)) {
        fail(l, c, "internal", "no memory");
        return;
    }
    c->state = ANSWERED;
    c->status = h.status;
    c->close = c->close || early;
    c->response_done = ended;
    s->broken = s->broken || h.close || until_close || (ended && (size_t)taken < size);
    if (data != l->scratch) buffer_free(&s->in);
    deadline(l, c, l->set.idle_timeout, "idle");
    to_caller(l, c);
    if (!c->side.gone && c->response_done && (c->request_done || c->close)) finish(l, c);
}

static void server_ended(lane *l, caller *c, server *s) {
    if (c->state == ANSWERED && !c->response_done) {
        bool until_close = llhttp_message_needs_eof(&s->parser) != 0;
        if (until_close) {
            l->work.begin = l->work.end = 0;
            c->response_done = true;
            if (c->chunk_response && !add_end(l, c)) l->no_memory = true;
            to_caller(l, c);
            if (!c->side.gone && (c->request_done || c->close)) finish(l, c);
            return;
        }
        fail(l, c, "upstream-broken", "the connection ended in the middle of a body");
    } else if (c->state == ASKED && c->idempotent && !c->has_body && s->used && held(&s->in) == 0) {
        /* RFC 9110 section 9.2.2: it may have closed an idle connection just as we used it. Python asks once more. */
        go_up(l, c, UP_REQUEST, "", "");
    } else if (c->state == ASKED) {
        fail(l, c, "upstream-broken", held(&s->in) ? "the connection ended in the middle of a response" : "closed the connection before it answered");
    } else {
        s->broken = true;
        watch(l, &s->side, s, s->side.events & ~(uint32_t)EPOLLIN);
        fail(l, c, "upstream-broken", "closed the connection");
    }
}

void server_readable(lane *l, server *s) {
    caller *c = s->caller;
    if (c == NULL) {   /* at rest: it has closed, or says what nobody asked */
        server_close(l, s);
        return;
    }
    if (c->response_done) {
        s->broken = true;
        watch(l, &s->side, s, 0);
        return;
    }
    ssize_t got = recv(s->side.fd, l->scratch, SCRATCH, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (got <= 0) {
        server_ended(l, c, s);
        return;
    }
    if (c->state == ANSWERED) {
        l->work.begin = l->work.end = 0;
        response_body(l, c, s, l->scratch, (size_t)got);
    } else if (held(&s->in)) {
        if (!buffer_add(&s->in, l->scratch, (size_t)got)) fail(l, c, "internal", "no memory");
        else response_head(l, c, s, first(&s->in), held(&s->in));
    } else {
        response_head(l, c, s, l->scratch, (size_t)got);
    }
}

void server_writable(lane *l, server *s) {
    caller *c = s->caller;
    if (!send_waiting(l, &s->side, s, &s->out)) {
        s->broken = true;
        buffer_free(&s->out);
        watch(l, &s->side, s, (s->side.events & ~(uint32_t)EPOLLOUT) | EPOLLIN);
    }
    if (c == NULL || c->request_done || held(&s->out) > l->set.buffer_bytes / 2) return;
    if (c->front != NULL) {
        streams_read_on(l, c);
        return;
    }
    if (!c->ended) watch(l, &c->side, c, c->side.events | EPOLLIN);
    if (held(&c->in)) caller_take(l, c, NULL, 0);
}

/* ---- the end of a call ---- */

static void count(lane *l, caller *c) {
    row *r = c->row;
    uint64_t took = l->now - c->began;
    uint32_t i = 0;
    while (i < l->bounds && took > l->bound[i]) i++;
    r->bucket[i]++;
    int class = c->status / 100;
    r->answered[class >= 1 && class <= 5 ? class : 0]++;
    r->micros += took;
    r->bytes_in += c->bytes_in;
    r->bytes_out += c->bytes_out;
    l->served++;
}

static void log_done(lane *l, const caller *c) {
    const uint8_t *line = first(&c->asked);
    const uint8_t *end = memchr(line, '\r', held(&c->asked));
    done d = {c->id, c->guest, c->target->serial, l->now - c->began, c->bytes_in, c->bytes_out, (uint32_t)c->status,
              end == NULL ? 0 : (uint32_t)(end - line)};
    if (!buffer_add(&l->log, &d, sizeof d) || !buffer_add(&l->log, line, d.text_size)) l->no_memory = true;
}

/* Nothing is under way any more. */
void call_over(lane *l, caller *c) {
    c->target->in_flight--;
    l->calls--;
    target_free(l, c->target);
    c->target = NULL;
    c->server = NULL;
    buffer_free(&c->asked);
}

void finish(lane *l, caller *c) {
    if (c->from != NULL ? c->front != NULL : held(&c->out) != 0) return;   /* once it is all sent */
    if (c->back != NULL) {
        if (c->request_done) return;   /* it closes by itself, and then this is called again */
        back_give_up(c);
    }
    server *s = c->server;
    count(l, c);
    if (l->logging) log_done(l, c);
    c->total_in += c->bytes_in;
    c->total_out += c->bytes_out;
    call_over(l, c);
    if (s != NULL) {
        s->caller = NULL;
        if (s->broken || held(&s->out) || !c->request_done) server_close(l, s);
        else server_rest(l, s);
    }
    if (c->from != NULL) {
        stream_caller_over(l, c);
        return;
    }
    if (c->close) {
        go_up(l, c, UP_END, c->request_done ? "" : "linger", "");
        return;
    }
    c->state = AT_REST;
    deadline(l, c, l->set.keepalive_timeout, "");
    come_again(l, c);
}

/* What was kept of a body goes on, when its server takes more. */
void caller_more(lane *l, caller *c) {
    if (c->state < ASKED || c->request_done) return;
    if (!c->ended) watch(l, &c->side, c, c->side.events | EPOLLIN);
    if (held(&c->in)) caller_take(l, c, NULL, 0);
}

void caller_late(lane *l, caller *c) {
    if (c->state == AT_REST) go_up(l, c, UP_END, "", "");
    else fail(l, c, c->late, "");
}
