/* Calls of which one end is a stream of HTTP/2, or both: to another node or from there, to a server that is asked in HTTP/2 (gRPC) or from
 * a caller that speaks it.
 *
 * call.c tells the journey. Here is what is different where an end of it is a stream: a head crosses by being written in the form of
 * HTTP/1.1 and read again by the same strict reader (head.c), so whatever is not plain in either form is Python's; a body has no framing
 * of ours; its bytes wait in the stream, and are given back to the peer when whoever gets them has taken them.
 *
 * From stream to stream (`front` asks, `back` answers) both directions run at the same time, and each holds no more than the window that
 * we gave its sender: a window opens again when the other connection has taken the bytes into frames. What is odd about an answer can go
 * up at any time, though the request be half sent: both streams are Python's from there on, as they stand.
 *
 * Where requests go is a plan's word, as for every caller. A caller's connection has one plan (link.h: `local`), and those who ask in
 * HTTP/2 have targets of their own, since a server that declares nothing is asked as its caller speaks. A target leads to a server at
 * rest (HTTP/1.1), to the server's own connections (HTTP/2, named ""), or to its node.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "link.h"

#define DESTINATION "x-edgemesh-destination"
#define KEPT 16384u              /* bytes of a body that could be asked again */

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

/* A request, as h2_message.py request_head reads it. False: it is not plain. `local`: it says for itself to whom it goes, and is not believed. */
static bool request_text(buffer *out, const stream *s, bool ended, bool local, asked *a) {
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
            a->destination = p;   /* head.c leaves it out of what goes on */
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
    if (a->method.name == NULL || a->path.name == NULL || a->authority.name == NULL || (!local && a->destination.name == NULL)) return false;
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

/* As many as h2_bounds.py too_large allows. */
static bool trailers_text(buffer *out, const stream *s) {
    const uint8_t *at = first(&s->fields), *end = at + held(&s->fields);
    pair p;
    uint32_t count = 0;
    if (s->list_size > s->h2->bounds.head_bytes) return false;
    while (next_pair(&at, end, &p))
        if (++count > MOST_TRAILERS || !add_line(out, &p)) return false;
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
        if (f->kind != PLAIN && !(request && (f->kind == FORWARDED_PROTO || f->kind == TRACE || f->kind == LENGTH))) continue;
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

/* Bodies wait in their streams; what a request adds to what is queued is its head. Half of what h2.c takes for a peer that does not read. */
static bool takes_one(const link_ *k) {
    return k != NULL && !k->ended && !k->h->over && held(&k->h->out) < 2 * k->h->bounds.queue_bytes && h2_room(k->h) > 0;
}

/* The one that has room is put first: it is `link` that back_open opens a stream on. */
bool back_ready(target *t) {
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

uint32_t back_waits(const caller *c) {
    if (c->server != NULL) return held(&c->server->out);
    return c->back != NULL ? held(&c->back->out) : 0;
}

static uint32_t front_waits(const caller *c) { return c->front != NULL ? held(&c->front->out) : held(&c->out); }
static uint32_t *owes(caller *c, const stream *s) { return c->front == s ? &c->front_owes : &c->back_owes; }

bool back_open(lane *l, caller *c, target *t, const head *h) {
    static nghttp2_nv nva[MOST_FIELDS + 8];
    size_t count = 0;
    nva[count++] = one_field(":method", 7, h->method, h->method_size);
    nva[count++] = one_field(":scheme", 7, "http", 4);
    nva[count++] = one_field(":path", 5, h->target, h->target_size);
    nva[count++] = one_field(":authority", 10, h->host, h->host_size);
    if (!plain_fields(l, h, true, nva, &count)) return false;
    if (!h->has_proto) nva[count++] = one_field("x-forwarded-proto", 17, "http", 4);
    l->whom.begin = l->whom.end = 0;   /* `text` may hold the head itself */
    if (!write_forwarded_for(&l->whom, h, c->plan->shown, c->plan->shown_size)) return false;
    nva[count++] = one_field("x-forwarded-for", 15, first(&l->whom), held(&l->whom));
    if (h->trailers_ok) nva[count++] = one_field("te", 2, "trailers", 8);
    if (t->name_size) nva[count++] = one_field(DESTINATION, sizeof DESTINATION - 1, t->name, t->name_size);
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
        buffer_free(&c->trailers);
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
    /* RFC 9113 section 8.1: the rest is not needed. A server that is asked over a stream says so itself. */
    if (c->response_done && !c->request_done && c->back == NULL) h2_drop(s->h2, s->id, NGHTTP2_NO_ERROR);
    if (held(&s->out) > l->set.buffer_bytes && c->server != NULL) watch(l, &c->server->side, c->server, c->server->side.events & ~(uint32_t)EPOLLIN);
}

/* ---- ends ---- */

static void let_go(caller *c, stream *s) {
    uint32_t *owed = owes(c, s);
    if (*owed) h2_taken(s->h2, s, *owed);
    *owed = 0;
    if (s->untold && !s->heard_end) h2_give_back(s->h2, s->id, s->untold, 0);   /* Python counts from here */
    s->untold = 0;
    h2_to_python(s->h2, s);
}

/* The response is whole and the caller's connection ends: nobody needs the rest of the request. */
void back_give_up(caller *c) {
    stream *s = c->back;
    let_go(c, s);
    c->back = NULL;
    h2_drop(s->h2, s->id, NGHTTP2_CANCEL);
    if (s->h2->owner != NULL) link_due(s->h2->lane, s->h2->owner);
}

static void read_on(lane *l, caller *c, stream *s) {
    uint32_t *owed = owes(c, s);
    if (s == NULL || *owed == 0) return;
    h2_taken(s->h2, s, *owed);
    *owed = 0;
    if (s->h2->owner != NULL) link_due(l, s->h2->owner);
}

void streams_read_on(lane *l, caller *c) { read_on(l, c, c->front != NULL ? c->front : c->back); }

/* Its streams are Python's from here on, or nobody's. */
void streams_up(caller *c, up *u, int what) {
    stream *s = c->back;
    u->asked_all = c->request_done;
    if (s != NULL) {
        let_go(c, s);
        c->back = NULL;
        if (what == UP_RESPONSE) {
            u->back_link = ((link_ *)s->h2->owner)->id;
            u->back = s->id;
        } else {
            h2_drop(s->h2, s->id, NGHTTP2_CANCEL);
        }
        if (s->h2->owner != NULL && s->h2->lane != NULL) link_due(s->h2->lane, s->h2->owner);
    }
    s = c->front;
    if (c->from != NULL) u->link = c->from->id;
    if (s == NULL) return;
    let_go(c, s);
    c->front = NULL;
    u->stream = s->id;
    link_due(s->h2->lane, c->from);
    if (what == UP_FAILED && c->state == ANSWERED) {
        h2_drop(s->h2, s->id, NGHTTP2_CANCEL);   /* a part must not pass for the whole */
    } else if (what != UP_FAILED) {   /* it is asked, or answered, by Python */
        h2_event_add(s->h2, H2_REQUESTED, s->id, 0, s->heard_end, first(&s->head), held(&s->head));
        uint32_t size = what == UP_REQUEST ? held(&c->kept) : 0;
        if (size) {   /* its window was given back, and is so again when Python has taken it */
            s->held += size;
            s->h2->held += size;
            h2_event_add(s->h2, H2_ARRIVED, s->id, size, false, first(&c->kept), size);
        }
        if (s->heard_end) h2_event_add(s->h2, H2_ENDED, s->id, 0, true, NULL, 0);
    }
}

/* As streams.py says it. */
static const char *reset_words(uint32_t code) {
#define SAID(number) ": the peer reset the stream (error code " #number ")"
    static const char *const said[] = {SAID(0), SAID(1), SAID(2), SAID(3), SAID(4), SAID(5), SAID(6), SAID(7), SAID(8), SAID(9), SAID(10), SAID(11), SAID(12), SAID(13)};
#undef SAID
    return code < sizeof said / sizeof *said ? said[code] : ": the peer reset the stream";
}

static void back_lost(lane *l, caller *c, uint32_t code, bool by_peer) {
    bool again = c->front != NULL && !c->unkept;   /* what went on of its body can be asked again */
    if (c->response_done) {
        if (!c->request_done && c->front != NULL) {   /* RFC 9113 section 8.1, as the server said */
            h2_drop(c->front->h2, c->front->id, NGHTTP2_NO_ERROR);
            link_due(l, c->from);
        } else if (!c->request_done) {
            c->close = true;
        }
        finish(l, c);
    } else if (c->state == ASKED && ((code == NGHTTP2_REFUSED_STREAM && (again || !c->has_body)) || (c->idempotent && !c->has_body))) {
        /* RFC 9113 section 8.7: nothing was done with it; or RFC 9110 section 9.2.2. Python asks once more. */
        go_up(l, c, UP_REQUEST, "", "");
    } else {
        fail(l, c, "upstream-broken", by_peer ? reset_words(code) : ": its connection broke");
    }
}

/* ---- what a link tells ---- */

static bool requested(h2 *h, stream *s) {
    lane *l = h->lane;
    link_ *k = h->owner;
    if (k == NULL || k->ended || h->last_taken >= 0 || k->doors == 0) return false;
    if (h->streams > h->bounds.max_streams || s->list_size > l->set.head.head_bytes) return false;   /* Python says no there */
    bool ended = s->head_only;   /* the head is all */
    static head head_;
    asked a;
    if (!request_text(&l->text, s, ended, k->local, &a)) return false;
    const door *d = k->local ? door_find(k, (const uint8_t *)"", 0, (const uint8_t *)"", 0)
                             : door_find(k, a.destination.value, a.destination.value_size, a.forwarded_for.value, a.forwarded_for.value_size);
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
    bool can_go_up = c->request_done || c->front != NULL;
    if (!s->heard_head && !can_go_up) return;   /* an interim response; the body is on its way whatever it says */
    bool from_node = !((const link_ *)h->owner)->local;
    bool plain = s->heard_head && response_text(&l->text, s, ended, c->head_only, can_go_up && from_node);
    int64_t size = plain ? read_response(first(&l->text), held(&l->text), &l->set.head, &head_) : HEAD_ODD;
    if (size != (int64_t)held(&l->text)) {
        if (!can_go_up) {
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
    c->chunk_response = !no_body && head_.chunked && c->front == NULL;
    l->work.begin = l->work.end = 0;
    if (c->front != NULL) {
        if (!front_head(l, c, &head_, ended || no_body || head_.length == 0)) {
            fail(l, c, "internal", "no memory");
            return;
        }
    } else if (!write_response(&l->work, &head_, head_.status == 204 ? -1 : head_.length, head_.status != 204 && head_.chunked, c->close)) {
        fail(l, c, "internal", "no memory");
        return;
    }
    buffer_free(&c->kept);
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
    if (c->front == s) c->unkept = true;
    if (!trailers_text(&c->trailers, s)) fail(h->lane, c, c->front == s ? "bad-request" : "upstream-broken", "trailers that are too large");
}

static void keep(lane *l, caller *c, const uint8_t *data, size_t size) {
    if (c->unkept) return;
    c->unkept = held(&c->kept) + size > KEPT;
    if (c->unkept) buffer_free(&c->kept);
    else if (!buffer_add(&c->kept, data, size)) l->no_memory = true;
}

static void came(h2 *h, stream *s, const uint8_t *data, size_t size) {
    lane *l = h->lane;
    caller *c = s->call;
    bool request = c->front == s;
    l->work.begin = l->work.end = 0;
    *owes(c, s) += (uint32_t)size;
    deadline(l, c, l->set.idle_timeout, "idle");
    if (!framed(l, data, size, request ? c->chunk_request : c->chunk_response)) {
        fail(l, c, "internal", "no memory");
        return;
    }
    if (request) {
        c->bytes_in += size;
        if (c->back != NULL && c->state == ASKED) keep(l, c, data, size);
        to_server(l, c);
        if (!c->side.gone && back_waits(c) <= l->set.buffer_bytes) read_on(l, c, s);
    } else {
        to_caller(l, c);
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
    lane *l = h->lane;
    caller *c = s->call;
    uint32_t *owed = owes(c, s);
    if (*owed) h2_taken(h, NULL, *owed);
    *owed = 0;
    if (c->front == s) {
        c->front = NULL;
        bool gave_up = by_peer && c->back != NULL && !c->request_done;
        if (c->response_done && s->sent_end && !gave_up) finish(l, c);
        else fail(l, c, "client-gone", "");
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
        if (!c->ended) watch(l, &c->side, c, c->side.events | EPOLLIN);
        come_again(l, c);
    }
    server *v = c->server;
    if (c->front == s && v != NULL && !c->response_done) watch(l, &v->side, v, v->side.events | EPOLLIN);
    if (c->front == s && c->back != NULL) read_on(l, c, c->back);
    if (c->front == s && c->state == ANSWERED) deadline(l, c, l->set.idle_timeout, "idle");
}

const visitor link_visitor = {requested, responded, trailed, came, ended, closed, sent};
