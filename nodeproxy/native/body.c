/* Bodies: see body.h. llhttp has to agree with head.c about each head. llhttp finds where bodies with a length end;
 * chunks.c reads the others. */
#include "body.h"

#include <stdio.h>
#include <string.h>

#include "lane.h"

static int stop_at_end(llhttp_t *parser) {
    (void)parser;
    return HPE_PAUSED;
}

static int head_complete(llhttp_t *parser) {
    const lane *l = parser->data;
    return parser->type == HTTP_RESPONSE && l->fed->head_only ? 1 : 0;
}

bool em_framed(lane *l, const void *data, size_t size, bool chunked) {
    if (!chunked) return buffer_add(&l->work, data, size);
    char line[24];
    int written = snprintf(line, sizeof line, "%zx\r\n", size);
    return buffer_add(&l->work, line, (size_t)written) && buffer_add(&l->work, data, size) &&
           buffer_add(&l->work, "\r\n", 2);
}

static int body(llhttp_t *parser, const char *data, size_t size) {
    lane *l = parser->data;
    caller *c = l->fed;
    bool request = parser->type == HTTP_REQUEST, chunked = request ? c->chunk_request : c->chunk_response;
    if (request) c->bytes_in += size;   /* without the framing, which differs on each connection */
    return em_framed(l, data, size, chunked) ? 0 : -1;
}

static const llhttp_settings_t CALLBACKS = {
    .on_headers_complete = head_complete, .on_body = body, .on_message_complete = stop_at_end,
};

void em_message_begin(llhttp_t *parser, bool request) {
    llhttp_init(parser, request ? HTTP_REQUEST : HTTP_RESPONSE, &CALLBACKS);
}

bool em_add_end(lane *l, caller *c) {
    bool ok = buffer_add(&l->work, "0\r\n", 3);
    if (held(&c->trailers)) {
        const uint8_t *p = first(&c->trailers), *end = p + held(&c->trailers);
        while (ok && p < end) {
            const uint8_t *line_end = memmem(p, (size_t)(end - p), "\r\n", 2);
            const uint8_t *colon = memchr(p, ':', (size_t)(end - p));
            if (line_end == NULL || colon == NULL || colon > line_end) break;
            if (em_trailer_travels(p, (size_t)(colon - p))) ok = buffer_add(&l->work, p, (size_t)(line_end + 2 - p));
            p = line_end + 2;
        }
        em_buffer_free(&c->trailers);
    }
    return ok && buffer_add(&l->work, "\r\n", 2);
}

int64_t em_message_feed(lane *l, caller *c, llhttp_t *parser, const uint8_t *data, size_t size, bool *ended) {
    *ended = false;
    parser->data = l;
    l->fed = c;
    llhttp_errno_t error = llhttp_execute(parser, (const char *)data, size);
    if (error == HPE_OK) return (int64_t)size;
    if (error == HPE_PAUSED) {
        *ended = true;
        return (const uint8_t *)llhttp_get_error_pos(parser) - data;
    }
    return -1;
}

/* Chunks that arrive together are sent on together. */
int64_t em_body_feed(lane *l, caller *c, server *s, const uint8_t *data, size_t size, bool *ended, const char **why) {
    chunks *k = s == NULL ? &c->chunks : &s->chunks;
    if (!k->chunked) {
        *why = s == NULL ? "the body breaks HTTP/1.1" : "the body of the response breaks HTTP/1.1";
        return em_message_feed(l, c, s == NULL ? &c->parser : &s->parser, data, size, ended);
    }
    bool chunked = s == NULL ? c->chunk_request : c->chunk_response;
    l->body.begin = l->body.end = 0;
    buffer *to = chunked ? &l->body : &l->work;
    uint32_t before = held(to);
    int64_t taken = em_chunks_read(k, data, size, to, ended);
    *why = k->why;
    if (taken >= 0 && s == NULL) c->bytes_in += held(to) - before;
    if (taken >= 0 && held(&l->body) && !em_framed(l, first(&l->body), held(&l->body), true)) return -1;
    if (taken >= 0 && *ended) {
        em_buffer_free(&c->trailers);
        c->trailers = k->trailers;
        k->trailers = (buffer){0};
    }
    return taken;
}
