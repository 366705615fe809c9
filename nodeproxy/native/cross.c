/* Calls with an HTTP/2 stream at one end, or both: to or from another node, to a server that speaks HTTP/2 (gRPC), or
 * from a caller that speaks it.
 *
 * call.c has the course of a call. This file has the differences where an end is a stream. A head is written in the
 * form of HTTP/1.1 and read again by the same strict reader (head.c), so a head that is unusual in either form is
 * handed to Python. A body has no framing of ours. Its bytes wait in the stream, and are credited to the peer when the
 * other end has taken them.
 *
 * From stream to stream (`front` has the request, `back` the response) both directions run at the same time. Each holds
 * no more than the window that we gave its sender: a window opens again when the other connection has made frames of
 * the bytes. An unusual response can be handed to Python at any time, even when the request is half sent: Python gets
 * both streams as they are.
 *
 * A plan says where requests go, as for every caller. A caller's connection has one plan (link.h: `local`). Callers
 * that speak HTTP/2 have targets of their own, since a server that declares no protocol is spoken to in its caller's. A
 * target leads to an idle server (HTTP/1.1), to the server's own connections (HTTP/2, named ""), or to its node.
 */
#include "cross.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "answer.h"
#include "body.h"
#include "fields.h"
#include "finish.h"
#include "lane.h"
#include "link.h"
#include "send.h"

#define KEPT 16384u              /* bytes of a body that could be sent again */

/* ---- a head, as fields of a stream ---- */

static nghttp2_nv one_field(const void *name, size_t name_size, const void *value, size_t value_size) {
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, name_size, value_size,
                        em_is_secret(name, name_size) ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE};
}

/* Make the fields that are sent on. Their names are in lower case; `names` holds them until they are sent. */
static bool plain_fields(lane *l, const head *h, bool request, nghttp2_nv *nva, size_t *count) {
    size_t size = 0;
    for (uint32_t i = 0; i < h->fields; i++) size += h->field[i].name_size;
    buffer_clear(&l->names);
    if (!em_buffer_room(&l->names, size + 1)) return false;
    for (uint32_t i = 0; i < h->fields; i++) {
        const field *f = &h->field[i];
        if (f->kind != PLAIN && !(request && (f->kind == FORWARDED_PROTO || f->kind == TRACE || f->kind == LENGTH)))
            continue;
        uint8_t *name = l->names.at + l->names.end;
        for (uint32_t j = 0; j < f->name_size; j++) {
            uint8_t c = f->line[j];
            name[j] = c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c;
        }
        l->names.end += f->name_size;
        nva[(*count)++] = one_field(name, f->name_size, f->value, f->value_size);
    }
    return true;
}

/* Behind the fields that came. */
static void added_fields(const head *h, nghttp2_nv *nva, size_t *count) {
    for (uint32_t i = 0; h->change != NULL && i < h->change->added; i++) {
        const field *f = &h->change->add[i];
        nva[(*count)++] = one_field(f->line, f->name_size, f->value, f->value_size);
    }
}

static bool send_trailers(h2 *h, stream *s, buffer *lines) {
    nghttp2_nv nva[MOST_TRAILERS];
    size_t count = 0;
    uint8_t *p = lines->at + lines->begin, *end = p + held(lines);
    while (p < end && count < MOST_TRAILERS) {
        uint8_t *line_end = memmem(p, (size_t)(end - p), "\r\n", 2);
        uint8_t *colon = memchr(p, ':', (size_t)(end - p));
        if (line_end == NULL || colon == NULL || colon > line_end) break;
        for (uint8_t *c = p; c < colon; c++)
            if (*c >= 'A' && *c <= 'Z') *c = (uint8_t)(*c + 32);
        uint8_t *value = colon + 1, *last = line_end;
        while (value < last && (*value == ' ' || *value == '\t')) value++;
        while (last > value && (last[-1] == ' ' || last[-1] == '\t')) last--;
        if (em_trailer_travels(p, (size_t)(colon - p)))
            nva[count++] = one_field(p, (size_t)(colon - p), value, (size_t)(last - value));
        p = line_end + 2;
    }
    bool ok = count ? em_h2_trailers(h, s, nva, count) : em_h2_data(h, s, NULL, 0, true);
    em_buffer_free(lines);
    return ok;
}

/* Send `work`, and the end with the trailers, to a stream. False: the call is over, for lack of memory. */
static bool send_on(lane *l, caller *c, stream *s, bool end) {
    bool ok = true, trailers = end && held(&c->trailers) > 0;
    if (held(&l->work) || (end && !trailers && !s->out_end))
        ok = em_h2_data(s->h2, s, first(&l->work), held(&l->work), end && !trailers);
    l->work.begin = l->work.end = 0;
    if (ok && trailers) ok = send_trailers(s->h2, s, &c->trailers);
    if (s->h2->owner != NULL) em_link_due(l, s->h2->owner);
    if (!ok) em_fail(l, c, "internal", "no memory");
    return ok;
}

/* ---- a request goes to a stream ---- */

/* Bodies wait in their streams; a request adds only its head to the queue. The bound is half of that at which h2.c ends
 * a connection whose peer does not read. */
static bool takes_one(const link_ *k) {
    return k != NULL && !k->ended && !k->h->over && held(&k->h->out) < 2 * k->h->bounds.queue_bytes &&
           em_h2_room(k->h) > 0;
}

/* Put the link with room first: back_open opens a stream on `link`. */
static bool back_ready(target *t) {
    if (takes_one(t->link)) return true;
    for (uint32_t i = 0; i < MORE_LINKS; i++) {
        if (!takes_one(t->more[i])) continue;
        link_ *full = t->link;
        t->link = t->more[i];
        t->more[i] = full;
        return true;
    }
    return false;
}

static uint32_t back_waits(const caller *c) { return held(&c->back->out); }
static uint32_t front_waits(const caller *c) { return c->front != NULL ? held(&c->front->out) : held(&c->out); }
static uint32_t *owes(caller *c, const stream *s) { return c->front == s ? &c->front_owes : &c->back_owes; }

static bool back_open(lane *l, caller *c, target *t, const head *h) {
    nghttp2_nv nva[MOST_FIELDS + MOST_CHANGES + 8];
    size_t count = 0;
    nva[count++] = one_field(":method", 7, h->method, h->method_size);
    nva[count++] = one_field(":scheme", 7, "http", 4);
    nva[count++] = one_field(":path", 5, h->target, h->target_size);
    nva[count++] = one_field(":authority", 10, h->host, h->host_size);
    if (!plain_fields(l, h, true, nva, &count)) return false;
    if (!h->has_proto) nva[count++] = one_field("x-forwarded-proto", 17, "http", 4);
    added_fields(h, nva, &count);
    buffer_clear(&l->whom);   /* `text` may hold the head itself */
    if (!em_write_forwarded_for(&l->whom, h, c->plan->shown, c->plan->shown_size)) return false;
    nva[count++] = one_field("x-forwarded-for", 15, first(&l->whom), held(&l->whom));
    if (h->trailers_ok) nva[count++] = one_field("te", 2, "trailers", 8);
    if (t->name_size) nva[count++] = one_field(DESTINATION, sizeof DESTINATION - 1, t->name, t->name_size);
    int32_t id = em_h2_request(t->link->h, nva, count, !c->has_body, c);
    if (id < 0) return false;
    c->back = em_h2_stream(t->link->h, id);
    em_link_due(l, t->link);
    return true;
}

static void back_send(lane *l, caller *c) {
    stream *s = c->back;
    if (s == NULL) {   /* the stream was reset, and the error response is on its way to the caller */
        l->work.begin = l->work.end = 0;
        em_buffer_free(&c->trailers);
        return;
    }
    if (!send_on(l, c, s, c->request_done)) return;
    if (held(&s->out) > l->set.buffer_bytes) em_watch(l, &c->side, c->side.events & ~(uint32_t)EPOLLIN);
}

/* ---- a response goes to a stream ---- */

static bool front_head(lane *l, caller *c, const head *h, bool end) {
    nghttp2_nv nva[MOST_FIELDS + MOST_CHANGES + 8];
    size_t count = 0;
    char status[DECIMAL], length[DECIMAL];
    nva[count++] = one_field(":status", 7, status, em_decimal(status, (uint64_t)h->status));
    if (!plain_fields(l, h, false, nva, &count)) return false;
    added_fields(h, nva, &count);
    if (h->length >= 0 && h->status != 204)
        nva[count++] = one_field("content-length", 14, length, em_decimal(length, (uint64_t)h->length));
    for (size_t i = 0; i < count; i++) c->bytes_out += nva[i].namelen + nva[i].valuelen;
    em_link_due(l, c->from);
    return em_h2_head(c->from->h, c->front->id, nva, count, end);
}

/* RFC 9113 section 8.1: the rest of the request is not needed, where the response is complete and the server takes no
 * more. A server that is reached over a stream says so itself. */
static void front_unneeded(lane *l, caller *c) {
    stream *s = c->front;
    if (s == NULL || c->server == NULL || !c->server->broken || !c->response_done || c->request_done) return;
    em_h2_drop(s->h2, s->id, NGHTTP2_NO_ERROR);
    em_link_due(l, c->from);
}

static void front_send(lane *l, caller *c) {
    stream *s = c->front;
    c->bytes_out += held(&l->work);
    if (!send_on(l, c, s, c->response_done && !s->out_end)) return;
    front_unneeded(l, c);
    if (held(&s->out) > l->set.buffer_bytes && c->server != NULL)
        em_watch(l, &c->server->side, c->server->side.events & ~(uint32_t)EPOLLIN);
}

/* ---- ends ---- */

static void let_go(caller *c, stream *s) {
    uint32_t *owed = owes(c, s);
    if (*owed) em_h2_taken(s->h2, s, *owed);
    *owed = 0;
    if (s->untold && !s->heard_end) em_h2_give_back(s->h2, s->id, s->untold, 0);   /* Python counts from here */
    s->untold = 0;
    em_h2_to_python(s->h2, s);
}

/* The response is complete and the caller's connection ends: nothing needs the rest of the request. */
static void back_give_up(caller *c) {
    stream *s = c->back;
    let_go(c, s);
    c->back = NULL;
    em_h2_drop(s->h2, s->id, NGHTTP2_CANCEL);
    if (s->h2->owner != NULL) em_link_due(s->h2->lane, s->h2->owner);
}

static void read_on(lane *l, caller *c, stream *s) {
    uint32_t *owed = owes(c, s);
    if (s == NULL || *owed == 0) return;
    em_h2_taken(s->h2, s, *owed);
    *owed = 0;
    if (s->h2->owner != NULL) em_link_due(l, s->h2->owner);
}

static void streams_read_on(lane *l, caller *c) { read_on(l, c, c->front != NULL ? c->front : c->back); }

/* Hand its streams to Python, or drop them. */
static void streams_up(caller *c, up *u, int what) {
    stream *s = c->back;
    if (s != NULL) {
        let_go(c, s);
        c->back = NULL;
        if (what == UP_RESPONSE) {
            u->back_link = ((link_ *)s->h2->owner)->id;
            u->back = s->id;
        } else {
            em_h2_drop(s->h2, s->id, NGHTTP2_CANCEL);
        }
        if (s->h2->owner != NULL && s->h2->lane != NULL) em_link_due(s->h2->lane, s->h2->owner);
    }
    s = c->front;
    if (c->from != NULL) u->link = c->from->id;
    if (s == NULL) return;
    let_go(c, s);
    c->front = NULL;
    u->stream = s->id;
    em_link_due(s->h2->lane, c->from);
    if (what == UP_FAILED && c->state == ANSWERED) {
        em_h2_drop(s->h2, s->id, NGHTTP2_CANCEL);   /* a part must not pass for the whole */
    } else if (what != UP_FAILED) {   /* Python sends the request or the response */
        em_h2_event_add(s->h2, H2_REQUESTED, s->id, what == UP_RESPONSE ? H2_TAKEN : 0, s->heard_end, first(&s->head),
                        held(&s->head));
        uint32_t size = what == UP_REQUEST ? held(&c->kept) : 0;
        if (size) {   /* its window was credited; Python will credit it again when it has taken the bytes */
            s->held += size;
            s->h2->held += size;
            em_h2_event_add(s->h2, H2_ARRIVED, s->id, size, false, first(&c->kept), size);
        }
        if (s->heard_end) em_h2_event_add(s->h2, H2_ENDED, s->id, 0, true, NULL, 0);
    }
}

/* The same words as in protocols/http/http2.py. */
static const char *reset_words(uint32_t code) {
#define SAID(number) ": the peer reset the stream (error code " #number ")"
    static const char *const said[] = {SAID(0), SAID(1), SAID(2), SAID(3),  SAID(4),  SAID(5),  SAID(6),
                                       SAID(7), SAID(8), SAID(9), SAID(10), SAID(11), SAID(12), SAID(13)};
#undef SAID
    return code < sizeof said / sizeof *said ? said[code] : ": the peer reset the stream";
}

static void back_lost(lane *l, caller *c, uint32_t code, bool by_peer) {
    bool again = c->front != NULL && !c->unkept;   /* the body bytes that were sent on can be sent again */
    if (c->response_done) {
        if (!c->request_done && c->front != NULL) {   /* RFC 9113 section 8.1, as the server said */
            em_h2_drop(c->front->h2, c->front->id, NGHTTP2_NO_ERROR);
            em_link_due(l, c->from);
        } else if (!c->request_done) {
            c->close = true;
        }
        em_finish(l, c);
    } else if (c->state == ASKED &&
               ((code == NGHTTP2_REFUSED_STREAM && (again || !c->has_body)) || (c->idempotent && !c->has_body))) {
        /* RFC 9113 section 8.7: the peer did nothing with the request; or RFC 9110 section 9.2.2. Python retries once.
         */
        em_go_up(l, c, UP_REQUEST, "", "");
    } else {
        em_fail(l, c, "upstream-broken", by_peer ? reset_words(code) : ": its connection broke");
    }
}

/* The call of a stream went well; a stream carries one call. */
static void stream_over(lane *l, caller *c) {
    if (c->from != NULL) {
        c->from->total_in += c->total_in;
        c->from->total_out += c->total_out;
    }
    em_caller_bury(l, c);
}

/* A stream has no events of its own: its connection has them. */
static const side_kind streaming = {.release = em_caller_release};

/* Make the caller of a stream, which lives until its call is over. NULL: no memory. */
static caller *caller_of_stream(lane *l, stream *s, link_ *k, plan *p, uint64_t guest) {
    caller *c = em_caller_new(l, &streaming, -1, p);
    if (c == NULL) return NULL;
    c->of_stream = true;
    c->id = ++l->serial;
    c->guest = guest;
    c->front = s;
    c->from = k;
    c->deadline = UINT64_MAX;
    em_caller_begin(l, c, &c->own);
    return c;
}

/* ---- events of a link ---- */

static bool requested(h2 *h, stream *s) {
    lane *l = h->lane;
    link_ *k = h->owner;
    if (k == NULL || k->ended || h->last_taken >= 0 || k->doors == 0) return false;
    if (h->streams > h->bounds.max_streams || h2_owner_full(h) || s->list_size > l->set.head.head_bytes)
        return false;   /* Python writes these refusals */
    bool ended = s->head_only;   /* the message ends with its head */
    head head_;
    asked a;
    if (!em_request_text(&l->text, s, ended, k->local, &a)) return false;
    const door *d = k->local ? em_door_find(k, (const uint8_t *)"", 0, (const uint8_t *)"", 0)
                             : em_door_find(k, a.destination.value, a.destination.value_size, a.forwarded_for.value,
                                            a.forwarded_for.value_size);
    if (d == NULL || d->plan->generation != l->generation) return false;
    int64_t size = em_read_request(first(&l->text), held(&l->text), &l->set.head, &head_);
    if (size != (int64_t)held(&l->text) || (ended && head_.length > 0)) return false;
    caller *c = caller_of_stream(l, s, k, d->plan, d->guest);
    if (c == NULL) return false;
    c->from_size = (uint32_t)a.size;
    em_h2_from_python(h, s, c);
    if (em_begin_call(l, c, first(&l->text), held(&l->text), &head_, size) > 0) return true;
    c->front = NULL;
    em_h2_to_python(h, s);
    stream_over(l, c);
    return false;
}

static void responded(h2 *h, stream *s) {
    lane *l = h->lane;
    caller *c = s->call;
    bool ended = s->head_only;   /* the message ends with its head */
    head head_;
    bool can_go_up = c->request_done || c->front != NULL;
    if (!s->heard_head && !can_go_up) return;   /* an interim response; the body is sent in any case */
    bool from_node = !((const link_ *)h->owner)->local;
    bool plain = s->heard_head &&
                 em_response_text(&l->text, s, ended, c->head_only, can_go_up && from_node, !can_go_up);
    int64_t size = plain ? em_read_response(first(&l->text), held(&l->text), &l->set.head, &head_) : HEAD_ODD;
    if (size != (int64_t)held(&l->text)) {
        if (!can_go_up) {
            em_fail(l, c, "upstream-broken", "sent a response that is malformed");
            return;
        }
        buffer fields = s->fields;
        memset(&s->fields, 0, sizeof s->fields);
        int32_t id = s->id;
        em_go_up(l, c, UP_RESPONSE, "", "");
        em_h2_event_add(h, H2_RESPONDED, id, 0, ended, first(&fields), held(&fields));
        em_buffer_free(&fields);
        return;
    }
    em_change(&head_, c->answers);
    bool no_body = c->head_only || head_.status == 204 || head_.status == 304;
    c->chunk_response = !no_body && head_.chunked && c->front == NULL;
    l->work.begin = l->work.end = 0;
    if (c->front != NULL) {
        if (!front_head(l, c, &head_, ended || no_body || head_.length == 0)) {
            em_fail(l, c, "internal", "no memory");
            return;
        }
    } else {
        /* The server says whether it takes the rest of the request only when its response is complete (RFC 9113 section
         * 8.1). Then it is too late to announce that the connection ends: so an early response is the last one here, as
         * with Envoy. */
        c->last = c->last || !c->request_done;
        if (!em_write_response(&l->work, &head_, head_.status == 204 ? -1 : head_.length,
                               head_.status != 204 && head_.chunked, c->close || c->last)) {
            em_fail(l, c, "internal", "no memory");
            return;
        }
    }
    em_buffer_free(&c->kept);
    c->state = ANSWERED;
    c->status = head_.status;
    em_deadline(l, c, l->set.idle_timeout, "idle");
    if (!ended) {   /* otherwise it goes out with the end, in one piece */
        em_to_caller(l, c);
    } else {
        c->response_done = true;
        if (c->chunk_response && !em_add_end(l, c)) l->no_memory = true;
        em_deadline(l, c, em_patience(l, c), "idle");
        em_to_caller(l, c);
        if (!c->side.gone && c->close && !c->request_done) em_finish(l, c);
    }
}

static void trailed(h2 *h, stream *s) {
    caller *c = s->call;
    if (c->front == s) c->unkept = true;
    if (!em_trailers_text(&c->trailers, s))
        em_fail(h->lane, c, c->front == s ? "bad-request" : "upstream-broken", "trailers that are too large");
}

static void keep(caller *c, const uint8_t *data, size_t size) {
    if (c->unkept) return;
    c->unkept = held(&c->kept) + size > KEPT;
    if (c->unkept) em_buffer_free(&c->kept);
    else c->unkept = !buffer_add(&c->kept, data, size);
}

static void came(h2 *h, stream *s, const uint8_t *data, size_t size) {
    lane *l = h->lane;
    caller *c = s->call;
    bool request = c->front == s;
    l->work.begin = l->work.end = 0;
    *owes(c, s) += (uint32_t)size;
    em_deadline(l, c, l->set.idle_timeout, "idle");
    if (!em_framed(l, data, size, request ? c->chunk_request : c->chunk_response)) {
        em_fail(l, c, "internal", "no memory");
        return;
    }
    if (request) {
        c->bytes_in += size;
        if (c->back != NULL && c->state == ASKED) keep(c, data, size);
        em_to_server(l, c);
        if (!c->side.gone && em_back_waits(l, c) <= l->set.buffer_bytes) read_on(l, c, s);
    } else {
        em_to_caller(l, c);
        if (!c->side.gone && front_waits(c) <= l->set.buffer_bytes) read_on(l, c, s);
    }
}

static void ended(h2 *h, stream *s) {
    lane *l = h->lane;
    caller *c = s->call;
    l->work.begin = l->work.end = 0;
    if (c->front == s) {
        if (c->request_done) return;
        c->request_done = true;
        if (c->chunk_request && !em_add_end(l, c)) l->no_memory = true;
        em_to_server(l, c);
        if (c->side.gone) return;
        if (c->state == ASKED) em_deadline(l, c, l->set.response_timeout, "response-timeout");
        em_request_ended(l, c);
    } else if (c->state != ANSWERED) {
        em_fail(l, c, "upstream-broken", "the stream ended without a response");
    } else if (!c->response_done) {
        c->response_done = true;
        em_deadline(l, c, em_patience(l, c), "idle");
        if (c->chunk_response && !em_add_end(l, c)) l->no_memory = true;
        em_to_caller(l, c);
        if (!c->side.gone && c->close && !c->request_done) em_finish(l, c);
    }
}

static void closed(h2 *h, stream *s, uint32_t code, bool by_peer) {
    lane *l = h->lane;
    caller *c = s->call;
    uint32_t *owed = owes(c, s);
    if (*owed) em_h2_taken(h, NULL, *owed);
    *owed = 0;
    if (c->front == s) {
        c->front = NULL;
        bool gave_up = by_peer && c->back != NULL && !c->request_done;
        if (c->response_done && s->sent_end && !gave_up) em_finish(l, c);
        else em_fail(l, c, "client-gone", "");
    } else {
        c->back = NULL;
        back_lost(l, c, code, by_peer);
    }
}

static void sent(h2 *h, stream *s) {
    lane *l = h->lane;
    caller *c = s->call;
    if (held(&s->out) > l->set.buffer_bytes / 2) return;
    if (c->back == s && c->front != NULL) {
        read_on(l, c, c->front);
    } else if (c->back == s && !c->request_done) {
        if (!c->ended) em_watch(l, &c->side, c->side.events | EPOLLIN);
        em_come_again(l, c);
    }
    server *v = c->server;
    if (c->front == s && v != NULL && !c->response_done) em_watch(l, &v->side, v->side.events | EPOLLIN);
    if (c->front == s && c->back != NULL) read_on(l, c, c->back);
    if (c->front == s && c->state == ANSWERED) em_deadline(l, c, l->set.idle_timeout, "idle");
}

const visitor em_link_visitor = {requested, responded, trailed, came, ended, closed, sent};

const stream_ends em_stream_ends = {
    .ready = back_ready,
    .open = back_open,
    .waits = back_waits,
    .ask = back_send,
    .give_up = back_give_up,
    .head = front_head,
    .answer = front_send,
    .unneeded = front_unneeded,
    .read_on = streams_read_on,
    .up = streams_up,
    .over = stream_over,
};
