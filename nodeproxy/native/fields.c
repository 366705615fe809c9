/* Fields of an HTTP/2 stream, written as a head of HTTP/1.1 for head.c to read: see fields.h. */
#include "fields.h"

#include <string.h>

#include "head.h"

static bool is_name(const uint8_t *name, size_t size, const char *word) {
    return strlen(word) == size && memcmp(name, word, size) == 0;
}

/* The reason phrase that codec/http2.py writes for a response without one. */
static const char *reason_of(int status) {
    static const struct { int status; const char *reason;
    } known[] = {{200, "OK"},
                 {201, "Created"},
                 {202, "Accepted"},
                 {203, "Non-Authoritative Information"},
                 {204, "No Content"},
                 {205, "Reset Content"},
                 {206, "Partial Content"},
                 {207, "Multi-Status"},
                 {208, "Already Reported"},
                 {226, "IM Used"},
                 {300, "Multiple Choices"},
                 {301, "Moved Permanently"},
                 {302, "Found"},
                 {303, "See Other"},
                 {304, "Not Modified"},
                 {305, "Use Proxy"},
                 {307, "Temporary Redirect"},
                 {308, "Permanent Redirect"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {402, "Payment Required"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {406, "Not Acceptable"},
                 {407, "Proxy Authentication Required"},
                 {408, "Request Timeout"},
                 {409, "Conflict"},
                 {410, "Gone"},
                 {411, "Length Required"},
                 {412, "Precondition Failed"},
                 {413, "Content Too Large"},
                 {415, "Unsupported Media Type"},
                 {416, "Range Not Satisfiable"},
                 {417, "Expectation Failed"},
                 {418, "I'm a Teapot"},
                 {421, "Misdirected Request"},
                 {422, "Unprocessable Content"},
                 {423, "Locked"},
                 {424, "Failed Dependency"},
                 {425, "Too Early"},
                 {426, "Upgrade Required"},
                 {428, "Precondition Required"},
                 {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"},
                 {451, "Unavailable For Legal Reasons"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {502, "Bad Gateway"},
                 {503, "Service Unavailable"},
                 {504, "Gateway Timeout"},
                 {505, "HTTP Version Not Supported"},
                 {507, "Insufficient Storage"},
                 {508, "Loop Detected"},
                 {510, "Not Extended"},
                 {511, "Network Authentication Required"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status) return known[i].reason;
    return NULL;   /* Python knows more of them, or newer ones */
}

/* ---- fields of a stream, as text ---- */

static bool next_pair(const uint8_t **at, const uint8_t *end, pair *out) {
    field_sizes sizes;
    if (*at >= end) return false;
    memcpy(&sizes, *at, sizeof sizes);
    *out = (pair){*at + sizeof sizes, *at + sizeof sizes + sizes.name_size, sizes.name_size, sizes.value_size};
    *at = out->value + sizes.value_size;
    return true;
}

static bool add_line(buffer *out, const pair *p) {
    return buffer_add(out, p->name, p->name_size) && buffer_add(out, ": ", 2) &&
           buffer_add(out, p->value, p->value_size) && buffer_add(out, "\r\n", 2);
}

/* Reads like codec/http2.py request_head. */
bool em_request_text(buffer *out, const stream *s, bool ended, bool local, asked *a) {
    memset(a, 0, sizeof *a);
    const uint8_t *at = first(&s->fields), *end = at + held(&s->fields);
    pair p;
    bool length = false, cookie = false;
    while (next_pair(&at, end, &p)) {
        if (p.name_size == 0) return false;
        a->size += p.name_size + p.value_size;
        if (p.name[0] == ':') {
            if (is_name(p.name, p.name_size, ":method")) a->method = p;
            else if (is_name(p.name, p.name_size, ":path")) a->path = p;
            else if (is_name(p.name, p.name_size, ":authority")) a->authority = p;
        } else if (is_name(p.name, p.name_size, DESTINATION)) {
            if (a->destination.name != NULL) return false;
            a->destination = p;   /* head.c leaves it out of the forwarded head */
        } else if (is_name(p.name, p.name_size, "x-forwarded-for")) {
            if (a->forwarded_for.name != NULL) return false;
            a->forwarded_for = p;
        } else if (is_name(p.name, p.name_size, "host")) {
            return false;
        } else if (is_name(p.name, p.name_size, "cookie")) {
            if (cookie) return false;   /* Python joins several Cookie fields */
            cookie = true;
        } else if (is_name(p.name, p.name_size, "content-length")) {
            length = true;
        }
    }
    if (a->method.name == NULL || a->path.name == NULL || a->authority.name == NULL ||
        (!local && a->destination.name == NULL))
        return false;
    buffer_clear(out);
    bool ok = buffer_add(out, a->method.value, a->method.value_size) && buffer_add(out, " ", 1);
    ok = ok && buffer_add(out, a->path.value, a->path.value_size) && add_word(out, " HTTP/1.1\r\nhost: ");
    ok = ok && buffer_add(out, a->authority.value, a->authority.value_size) && buffer_add(out, "\r\n", 2);
    at = first(&s->fields);
    while (ok && next_pair(&at, end, &p))
        if (p.name[0] != ':') ok = add_line(out, &p);
    if (!ended && !length) ok = ok && add_word(out, "transfer-encoding: chunked\r\n");
    return ok && buffer_add(out, "\r\n", 2);
}

/* Reads like codec/http2.py response_head, and writes like codec/http1.py. */
bool em_response_text(buffer *out, const stream *s, bool ended, bool head_only, bool own, bool any) {
    const uint8_t *at = first(&s->fields), *end = at + held(&s->fields);
    pair p;
    if (!next_pair(&at, end, &p) || !is_name(p.name, p.name_size, ":status") || p.value_size != 3) return false;
    int status = (p.value[0] - '0') * 100 + (p.value[1] - '0') * 10 + p.value[2] - '0';
    const char *reason = reason_of(status);
    if (reason == NULL && !any) return false;
    if (reason == NULL) reason = "";
    buffer_clear(out);
    bool ok = add_word(out, "HTTP/1.1 ") && buffer_add(out, p.value, 3) && add_word(out, " ") &&
              add_word(out, reason) && add_word(out, "\r\n");
    bool length = false;
    while (ok && next_pair(&at, end, &p)) {
        if (own && p.name_size >= 11 && em_same_word(p.name, 11, "x-edgemesh-")) return false;
        length = length || is_name(p.name, p.name_size, "content-length");
        ok = p.name_size > 0 && p.name[0] != ':' && add_line(out, &p);
    }
    bool no_body = head_only || status == 204 || status == 304;
    if (!no_body && !length)
        ok = ok && add_word(out, ended ? "content-length: 0\r\n" : "transfer-encoding: chunked\r\n");
    return ok && buffer_add(out, "\r\n", 2);
}

/* At most as many as h2/limits.py too_large allows. */
bool em_trailers_text(buffer *out, const stream *s) {
    const uint8_t *at = first(&s->fields), *end = at + held(&s->fields);
    pair p;
    uint32_t count = 0;
    if (s->list_size > s->h2->bounds.head_bytes) return false;
    while (next_pair(&at, end, &p))
        if (p.name_size == 0 || ++count > MOST_TRAILERS || !add_line(out, &p)) return false;
    return true;
}
