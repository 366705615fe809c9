/* Calls between a connection of HTTP/1.1 and a stream of HTTP/2, which leads to another node or comes from there.
 *
 * call.c tells the journey. Here is what is different where one end of it is a stream: a head crosses by being written in the other
 * version's form and read again by the same strict reader (head.c), so whatever is not plain in either form is Python's; a body has no
 * framing of ours; its bytes wait in the stream, and are given back to the peer when whoever gets them has taken them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "link.h"

#define DESTINATION "x-edgemesh-destination"

static bool is_name(const uint8_t *name, size_t size, const char *word) { return strlen(word) == size && memcmp(name, word, size) == 0; }

/* http.HTTPStatus: what Python writes for a response that came without a reason. */
static const char *reason_of(int status) {
    static const struct { int status; const char *reason; } known[] = {
        {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {203, "Non-Authoritative Information"}, {204, "No Content"}, {205, "Reset Content"},
        {206, "Partial Content"}, {207, "Multi-Status"}, {208, "Already Reported"}, {226, "IM Used"}, {300, "Multiple Choices"},
        {301, "Moved Permanently"}, {302, "Found"}, {303, "See Other"}, {304, "Not Modified"}, {305, "Use Proxy"}, {307, "Temporary Redirect"},
        {308, "Permanent Redirect"}, {400, "Bad Request"}, {401, "Unauthorized"}, {402, "Payment Required"}, {403, "Forbidden"},
        {404, "Not Found"}, {405, "Method Not Allowed"}, {406, "Not Acceptable"}, {407, "Proxy Authentication Required"},
        {408, "Request Timeout"}, {409, "Conflict"}, {410, "Gone"}, {411, "Length Required"}, {412, "Precondition Failed"},
        {415, "Unsupported Media Type"}, {417, "Expectation Failed"}, {418, "I'm a Teapot"}, {421, "Misdirected Request"}, {423, "Locked"},
        {424, "Failed Dependency"}, {425, "Too Early"}, {426, "Upgrade Required"}, {428, "Precondition Required"}, {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"}, {451, "Unavailable For Legal Reasons"}, {500, "Internal Server Error"},
        {501, "Not Implemented"}, {502, "Bad Gateway"}, {503, "Service Unavailable"}, {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"}, {507, "Insufficient Storage"}, {508, "Loop Detected"}, {510, "Not Extended"},
        {511, "Network Authentication Required"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status) return known[i].reason;
    return NULL;   /* Python knows more of them, or newer ones */
}

/* ---- fields of a stream, as text ---- */

typedef struct { const uint8_t *name, *value; size_t name_size, value_size; } pair;

static bool next_pair(const uint8_t **at, const uint8_t *end, pair *out) {
    field_sizes sizes;
    if (*at >= end) return false;
    memcpy(&sizes, *at, sizeof sizes);
    *out = (pair){*at + sizeof sizes, *at + sizeof sizes + sizes.name_size, sizes.name_size, sizes.value_size};
    *at = out->value + sizes.value_size;
    return true;
}

static bool add_line(buffer *out, const pair *p) {
    return buffer_add(out, p->name, p->name_size) && buffer_add(out, ": ", 2) && buffer_add(out, p->value, p->value_size) && buffer_add(out, "\r\n", 2);
}

typedef struct { pair method, path, authority, destination, forwarded_for; size_t size; } asked;

/* A request, as h2_message.py request_head reads it. False: it is not plain. */
static bool request_text(buffer *out, const stream *s, bool ended, asked *a) {
    memset(a, 0, sizeof *a);
    const uint8_t *at = first(&s->fields), *end = at + held(&s->fields);
    pair p;
    bool length = false, cookie = false;
    while (next_pair(&at, end, &p)) {
        a->size += p.name_size + p.value_size;
        if (p.name_size && p.name[0] == ':') {
            if (is_name(p.name, p.name_size, ":method")) a->method = p;
            else if (is_name(p.name, p.name_size, ":path")) a->path = p;
            else if (is_name(p.name, p.name_size, ":authority")) a->authority = p;
        } else if (is_name(p.name, p.name_size, DESTINATION)) {
            if (a->destination.name != NULL) return false;
            a->destination = p;
        } else if (is_name(p.name, p.name_size, "x-forwarded-for")) {
            if (a->forwarded_for.name != NULL) return false;
            a->forwarded_for = p;
        } else if (is_name(p.name, p.name_size, "host")) {
            return false;
        } else if (is_name(p.name, p.name_size, "cookie")) {
            if (cookie) return false;   /* crumbs are joined there */
            cookie = true;
        } else if (is_name(p.name, p.name_size, "content-length")) {
            length = true;
        }
    }
    if (a->method.name == NULL || a->path.name == NULL || a->authority.name == NULL || a->destination.name == NULL) return false;
    out->begin = out->end = 0;
    bool ok = buffer_add(out, a->method.value, a->method.value_size) && buffer_add(out, " ", 1);
    ok = ok && buffer_add(out, a->path.value, a->path.value_size) && add_word(out, " HTTP/1.1\r\nhost: ");
    ok = ok && buffer_add(out, a->authority.value, a->authority.value_size) && buffer_add(out, "\r\n", 2);
    at = first(&s->fields);
    while (ok && next_pair(&at, end, &p))
        if (p.name[0] != ':') ok = add_line(out, &p);
    if (!ended && !length) ok = ok && add_word(out, "transfer-encoding: chunked\r\n");
    return ok && buffer_add(out, "\r\n", 2);
}

/* A response, as h2_message.py response_head reads it and h1.py writes it. `own`: the other node's own words make it odd. */
static bool response_text(buffer *out, const stream *s, bool ended, bool head_only, bool own) {
    const uint8_t *at = first(&s->fields), *end = at + held(&s->fields);
    pair p;
    if (!next_pair(&at, end, &p) || !is_name(p.name, p.name_size, ":status") || p.value_size != 3) return false;
    int status = (p.value[0] - '0') * 100 + (p.value[1] - '0') * 10 + p.value[2] - '0';
    const char *reason = reason_of(status);
    if (reason == NULL) return false;
    out->begin = out->end = 0;
    bool ok = add_word(out, "HTTP/1.1 ") && buffer_add(out, p.value, 3) && add_word(out, " ") && add_word(out, reason) && add_word(out, "\r\n");
    bool length = false;
    while (ok && next_pair(&at, end, &p)) {
        if (own && p.name_size >= 11 && same_word(p.name, 11, "x-edgemesh-")) return false;
        length = length || is_name(p.name, p.name_size, "content-length");
        ok = p.name[0] != ':' && add_line(out, &p);
    }
    bool no_body = head_only || status == 204 || status == 304;
    if (!no_body && !length) ok = ok && add_word(out, ended ? "content-length: 0\r\n" : "transfer-encoding: chunked\r\n");
    return ok && buffer_add(out, "\r\n", 2);
}

static bool trailers_text(buffer *out, const stream *s) {
    const uint8_t *at = first(&s->fields), *end = at + held(&s->fields);
    pair p;
    while (next_pair(&at, end, &p))
        if (held(out) + p.name_size + p.value_size > 8192 || !add_line(out, &p)) return false;
    return true;
}

/* ---- a head, as fields of a stream ---- */

static nghttp2_nv one_field(const void *name, size_t name_size, const void *value, size_t value_size) {
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, name_size, value_size,
                        is_secret(name, name_size) ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE};
}

/* The fields that travel, their names in lower case, which `names` holds until they are sent. */
static bool plain_fields(lane *l, const head *h, bool request, nghttp2_nv *nva, size_t *count) {
    size_t size = 0;
    for (uint32_t i = 0; i < h->fields; i++) size += h->field[i].name_size;
    l->names.begin = l->names.end = 0;
    if (!buffer_room(&l->names, size + 1)) return false;
    for (uint32_t i = 0; i < h->fields; i++) {
        const field *f = &h->field[i];
        if (f->kind != PLAIN && !(request && (f->kind == FORWARDED_PROTO || f->kind == TRACE))) continue;
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

static bool send_trailers(h2 *h, stream *s, buffer *lines) {
    nghttp2_nv nva[64];
    size_t count = 0;
    uint8_t *p = lines->at + lines->begin, *end = p + held(lines);
    while (p < end && count < 64) {
        uint8_t *line_end = memmem(p, (size_t)(end - p), "\r\n", 2);
        uint8_t *colon = memchr(p, ':', (size_t)(end - p));
        if (line_end == NULL || colon == NULL || colon > line_end) break;
        for (uint8_t *c = p; c < colon; c++)
            if (*c >= 'A' && *c <= 'Z') *c = (uint8_t)(*c + 32);
        uint8_t *value = colon + 1, *last = line_end;
        while (value < last && (*value == ' ' || *value == '\t')) value++;
        while (last > value && (last[-1] == ' ' || last[-1] == '\t')) last--;
        if (trailer_travels(p, (size_t)(colon - p))) nva[count++] = one_field(p, (size_t)(colon - p), value, (size_t)(last - value));
        p = line_end + 2;
    }
    bool ok = count ? h2_trailers(h, s, nva, count) : h2_data(h, s, NULL, 0, true);
    buffer_free(lines);
    return ok;
}

/* `work`, and the end with the trailers, go to a stream. */
static void send_on(lane *l, caller *c, stream *s, bool end) {
    bool ok = true, trailers = end && held(&c->trailers) > 0;
    if (held(&l->work) || (end && !trailers && !s->out_end)) ok = h2_data(s->h2, s, first(&l->work), held(&l->work), end && !trailers);
    l->work.begin = l->work.end = 0;
    if (ok && trailers) ok = send_trailers(s->h2, s, &c->trailers);
    if (!ok) l->no_memory = true;
    if (s->h2->owner != NULL) link_due(l, s->h2->owner);
}

/* ---- a request leaves on a stream ---- */

bool back_ready(const target *t) {
    return t->link != NULL && !t->link->ended && !t->link->h->over && held(&t->link->h->out) < PUMPED && h2_room(t->link->h) > 0;
}

uint32_t back_waits(const caller *c) {
    if (c->server != NULL) return held(&c->server->out);
    return c->back != NULL ? held(&c->back->out) : 0;
}

bool back_open(lane *l, caller *c, target *t, const head *h) {
    static nghttp2_nv nva[MOST_FIELDS + 8];
    size_t count = 0;
    char length[DECIMAL];
    nva[count++] = one_field(":method", 7, h->method, h->method_size);
    nva[count++] = one_field(":scheme", 7, "http", 4);
    nva[count++] = one_field(":path", 5, h->target, h->target_size);
    nva[count++] = one_field(":authority", 10, h->host, h->host_size);
    if (!plain_fields(l, h, true, nva, &count)) return false;
    if (!h->has_proto) nva[count++] = one_field("x-forwarded-proto", 17, "http", 4);
    if (h->length >= 0) nva[count++] = one_field("content-length", 14, length, decimal(length, (uint64_t)h->length));
    l->text.begin = l->text.end = 0;
    if (!write_forwarded_for(&l->text, h, c->plan->shown, c->plan->shown_size)) return false;
    nva[count++] = one_field("x-forwarded-for", 15, first(&l->text), held(&l->text));
    nva[count++] = one_field(DESTINATION, sizeof DESTINATION - 1, t->name, t->name_size);
    int32_t id = h2_request(t->link->h, nva, count, !c->has_body, c);
    if (id < 0) return false;
    c->back = h2_stream(t->link->h, id);
    link_due(l, t->link);
    return true;
}

void back_send(lane *l, caller *c) {
    stream *s = c->back;
    if (s == NULL) {   /* it was reset, and its answer is on its way to the caller */
        l->work.begin = l->work.end = 0;
        return;
    }
    send_on(l, c, s, c->request_done);
    if (held(&s->out) > l->set.buffer_bytes) watch(l, &c->side, c, c->side.events & ~(uint32_t)EPOLLIN);
}

/* ---- a response leaves on a stream ---- */

bool front_head(lane *l, caller *c, const head *h, bool end) {
    static nghttp2_nv nva[MOST_FIELDS + 8];
    size_t count = 0;
    char status[DECIMAL], length[DECIMAL];
    nva[count++] = one_field(":status", 7, status, decimal(status, (uint64_t)h->status));
    if (!plain_fields(l, h, false, nva, &count)) return false;
    if (h->length >= 0 && h->status != 204)
        nva[count++] = one_field("content-length", 14, length, decimal(length, (uint64_t)h->length));
    for (size_t i = 0; i < count; i++) c->bytes_out += nva[i].namelen + nva[i].valuelen;
    link_due(l, c->from);
    return h2_head(c->from->h, c->front->id, nva, count, end);
}

void front_send(lane *l, caller *c) {
    stream *s = c->front;
    c->bytes_out += held(&l->work);
    send_on(l, c, s, c->response_done && !s->out_end);
    if (c->response_done && !c->request_done) h2_drop(s->h2, s->id, NGHTTP2_NO_ERROR);   /* RFC 9113 section 8.1: the rest is not needed */
    if (held(&s->out) > l->set.buffer_bytes && c->server != NULL) watch(l, &c->server->side, c->server, c->server->side.events & ~(uint32_t)EPOLLIN);
}

/* ---- ends ---- */

static void let_go(caller *c, stream *s) {
    if (c->owed) h2_taken(s->h2, s, c->owed);
    c->owed = 0;
    h2_to_python(s->h2, s);
}

/* The response is whole and the caller's connection ends: nobody needs the rest of the request. */
void back_give_up(caller *c) {
    stream *s = c->back;
    c->back = NULL;
    let_go(c, s);
    h2_drop(s->h2, s->id, NGHTTP2_CANCEL);
    if (s->h2->owner != NULL) link_due(s->h2->lane, s->h2->owner);
}

void streams_read_on(lane *l, caller *c) {
    stream *s = c->front != NULL ? c->front : c->back;
    if (s == NULL || c->owed == 0) return;
    h2_taken(s->h2, s, c->owed);
    c->owed = 0;
    if (s->h2->owner != NULL) link_due(l, s->h2->owner);
}

/* Its streams are Python's from here on, or nobody's. */
void streams_up(caller *c, up *u, int what) {
    stream *s = c->back;
    if (s != NULL) {
        c->back = NULL;
        let_go(c, s);
        if (what == UP_RESPONSE) {
            u->link = ((link_ *)s->h2->owner)->id;
            u->stream = s->id;
        } else {
            h2_drop(s->h2, s->id, NGHTTP2_CANCEL);
        }
        if (s->h2->owner != NULL && s->h2->lane != NULL) link_due(s->h2->lane, s->h2->owner);
    }
    s = c->front;
    if (c->from != NULL) u->link = c->from->id;
    if (s == NULL) return;
    c->front = NULL;
    let_go(c, s);
    u->stream = s->id;
    link_due(s->h2->lane, c->from);
    if (what == UP_FAILED && c->state == ANSWERED) {
        h2_drop(s->h2, s->id, NGHTTP2_INTERNAL_ERROR);   /* a part must not pass for the whole */
    } else if (what != UP_FAILED) {   /* it is asked, or answered, by Python */
        h2_event_add(s->h2, H2_REQUESTED, s->id, 0, s->heard_end, first(&s->head), held(&s->head));
        if (s->heard_end) h2_event_add(s->h2, H2_ENDED, s->id, 0, true, NULL, 0);
    }
}

static void back_lost(lane *l, caller *c, uint32_t code) {
    bool whole = c->response_done;
    if (whole) {
        if (!c->request_done) c->close = true;
        finish(l, c);
    } else if (c->state == ASKED && !c->has_body && (code == NGHTTP2_REFUSED_STREAM || (code == NGHTTP2_INTERNAL_ERROR && c->idempotent))) {
        /* RFC 9113 section 8.7: nothing was done with it; or RFC 9110 section 9.2.2. Python asks once more. */
        go_up(l, c, UP_REQUEST, "", "");
    } else {
        fail(l, c, "upstream-broken", "the stream to its node was reset");
    }
}

/* ---- what a link tells ---- */

static bool requested(h2 *h, stream *s) {
    lane *l = h->lane;
    link_ *k = h->owner;
    if (k == NULL || k->ended || h->last_taken >= 0 || k->doors == 0) return false;
    bool ended = s->head_only;   /* the head is all */
    static head head_;
    asked a;
    if (!request_text(&l->text, s, ended, &a)) return false;
    const door *d = door_find(k, a.destination.value, a.destination.value_size, a.forwarded_for.value, a.forwarded_for.value_size);
    if (d == NULL || d->plan->generation != l->generation) return false;
    int64_t size = read_request(first(&l->text), held(&l->text), &l->set.head, &head_);
    if (size != (int64_t)held(&l->text) || (ended && head_.length > 0)) return false;
    caller *c = caller_of_stream(l, s, k, d->plan, d->guest);
    if (c == NULL) return false;
    c->from_size = (uint32_t)a.size;
    h2_from_python(h, s, c);
    if (begin_call(l, c, first(&l->text), held(&l->text), &head_, size) > 0) return true;
    c->front = NULL;
    h2_to_python(h, s);
    stream_caller_over(l, c);
    return false;
}

static void responded(h2 *h, stream *s) {
    lane *l = h->lane;
    caller *c = s->call;
    bool ended = s->head_only;   /* the head is all */
    static head head_;
    if (!s->heard_head && !c->request_done) return;   /* an interim response; the body is on its way whatever it says */
    bool plain = s->heard_head && response_text(&l->text, s, ended, c->head_only, c->request_done);
    int64_t size = plain ? read_response(first(&l->text), held(&l->text), &l->set.head, &head_) : HEAD_ODD;
    if (size != (int64_t)held(&l->text)) {
        if (!c->request_done) {
            fail(l, c, "upstream-broken", "sent a response that is malformed");
            return;
        }
        buffer fields = s->fields;
        memset(&s->fields, 0, sizeof s->fields);
        int32_t id = s->id;
        go_up(l, c, UP_RESPONSE, "", "");
        h2_event_add(h, H2_RESPONDED, id, 0, ended, first(&fields), held(&fields));
        buffer_free(&fields);
        return;
    }
    bool no_body = c->head_only || head_.status == 204 || head_.status == 304;
    c->chunk_response = !no_body && head_.chunked;
    l->work.begin = l->work.end = 0;
    if (!write_response(&l->work, &head_, head_.status == 204 ? -1 : head_.length, head_.status != 204 && head_.chunked, c->close)) {
        fail(l, c, "internal", "no memory");
        return;
    }
    c->state = ANSWERED;
    c->status = head_.status;
    deadline(l, c, l->set.idle_timeout, "idle");
    if (!ended) {   /* else it goes with the end, in one piece */
        to_caller(l, c);
    } else {
        c->response_done = true;
        if (c->chunk_response && !add_end(l, c)) l->no_memory = true;
        to_caller(l, c);
        if (!c->side.gone && c->close && !c->request_done) finish(l, c);
    }
}

static void trailed(h2 *h, stream *s) {
    caller *c = s->call;
    if (!trailers_text(&c->trailers, s)) fail(h->lane, c, c->front == s ? "bad-request" : "upstream-broken", "trailers that are too large");
}

static void came(h2 *h, stream *s, const uint8_t *data, size_t size) {
    lane *l = h->lane;
    caller *c = s->call;
    bool request = c->front == s;
    l->work.begin = l->work.end = 0;
    c->owed += (uint32_t)size;
    deadline(l, c, l->set.idle_timeout, "idle");
    if (!framed(l, data, size, request ? c->chunk_request : c->chunk_response)) {
        fail(l, c, "internal", "no memory");
        return;
    }
    if (request) {
        c->bytes_in += size;
        to_server(l, c);
        if (!c->side.gone && back_waits(c) <= l->set.buffer_bytes) streams_read_on(l, c);
    } else {
        to_caller(l, c);
        if (!c->side.gone && held(&c->out) <= l->set.buffer_bytes) streams_read_on(l, c);
    }
}

static void ended(h2 *h, stream *s) {
    lane *l = h->lane;
    caller *c = s->call;
    l->work.begin = l->work.end = 0;
    if (c->front == s) {
        if (c->request_done) return;
        c->request_done = true;
        if (c->chunk_request && !add_end(l, c)) l->no_memory = true;
        to_server(l, c);
        if (c->side.gone) return;
        if (c->state == ASKED) deadline(l, c, l->set.response_timeout, "response-timeout");
        request_ended(l, c);
    } else if (c->state != ANSWERED) {
        fail(l, c, "upstream-broken", "the stream ended without a response");
    } else if (!c->response_done) {
        c->response_done = true;
        if (c->chunk_response && !add_end(l, c)) l->no_memory = true;
        to_caller(l, c);
        if (!c->side.gone && c->close && !c->request_done) finish(l, c);
    }
}

static void closed(h2 *h, stream *s, uint32_t code, bool by_peer) {
    (void)by_peer;
    lane *l = h->lane;
    caller *c = s->call;
    if (c->owed) h2_taken(h, NULL, c->owed);
    c->owed = 0;
    if (c->front == s) {
        c->front = NULL;
        if (c->response_done && s->sent_end) finish(l, c);
        else fail(l, c, "client-gone", "");
    } else {
        c->back = NULL;
        back_lost(l, c, code);
    }
}

static void sent(h2 *h, stream *s) {
    lane *l = h->lane;
    caller *c = s->call;
    if (held(&s->out) > l->set.buffer_bytes / 2) return;
    if (c->back == s && !c->request_done) {
        if (!c->ended) watch(l, &c->side, c, c->side.events | EPOLLIN);
        come_again(l, c);
    }
    server *v = c->server;
    if (c->front == s && v != NULL && !c->response_done) watch(l, &v->side, v, v->side.events | EPOLLIN);
    if (c->front == s && c->state == ANSWERED) deadline(l, c, l->set.idle_timeout, "idle");
}

const visitor link_visitor = {requested, responded, trailed, came, ended, closed, sent};
