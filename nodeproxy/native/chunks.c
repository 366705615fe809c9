/* A chunked body (RFC 9112 section 7.1), as nodeproxy/codec/http1.py reads it. Both paths have one grammar and one set
 * of bounds: so the rest of a body is read as its first bytes were, on whichever path. Chunks are framed anew for the
 * next hop, without extensions. */
#include "chunks.h"

#include <string.h>

#include "head.h"

#define CHUNK_LINE 1024u       /* bytes of a line with a chunk size, extensions included */
#define MOST_DIGITS 16u
#define TRAILER_BYTES 8192u    /* of a whole trailer section */

enum { SIZE, BLANK, EXTENSION, SIZE_LF, DATA, DATA_CR, DATA_LF, LINE, NAME, VALUE, LINE_LF, END_LF };

void em_chunks_begin(chunks *k, bool chunked, bool of_server) {
    em_buffer_free(&k->trailers);
    memset(k, 0, sizeof *k);
    k->state = SIZE;
    k->chunked = chunked;
    k->of_server = of_server;
}

static int digit(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Handle the end of a size line: whether it is well formed, and what follows it. */
static bool size_ends(chunks *k, uint8_t c) {
    if (c != '\r' || k->digits == 0) return false;
    k->state = SIZE_LF;
    return true;
}

/* Read one byte of framing. False: it breaks the grammar. */
static bool framing(chunks *k, uint8_t c, bool *ended) {
    switch (k->state) {
    case SIZE:
    case BLANK:
    case EXTENSION:
        if (c != '\r' && ++k->line >= CHUNK_LINE) return false;
        break;
    case LINE:
    case NAME:
    case VALUE:
    case LINE_LF:
        if (++k->line > TRAILER_BYTES + 1) return false; /* one more: the CR of the line that ends the section */
        break;
    default: break;
    }
    switch (k->state) {
    case SIZE:
        if (digit(c) >= 0) {
            if (++k->digits > MOST_DIGITS) return false;
            k->left = k->left << 4 | (uint64_t)digit(c);
            return true;
        }
        if (k->digits && (c == ' ' || c == '\t')) k->state = BLANK;
        else if (k->digits && c == ';') k->state = EXTENSION;
        else return size_ends(k, c);
        return true;
    case BLANK:
        if (c == ' ' || c == '\t') return true;
        if (c == ';') k->state = EXTENSION;
        else return k->of_server && size_ends(k, c);   /* known servers pad it; callers must not */
        return true;
    case EXTENSION: return em_of_value(c) || size_ends(k, c);
    case SIZE_LF:
        k->state = k->left ? DATA : LINE;
        k->line = k->digits = 0;
        return c == '\n';
    case DATA_CR: k->state = DATA_LF; return c == '\r';
    case DATA_LF: k->state = SIZE; return c == '\n';
    case LINE:
        k->state = c == '\r' ? END_LF : NAME;
        return c == '\r' || em_of_token(c);
    case NAME:
        if (c == ':') k->state = VALUE;
        return c == ':' || em_of_token(c);
    case VALUE:
        if (c == '\r') k->state = LINE_LF;
        return c == '\r' || em_of_value(c);
    case LINE_LF: k->state = LINE; return c == '\n';
    default: *ended = c == '\n'; return *ended;
    }
}

static bool in_trailers(const chunks *k) {
    return k->state == LINE || k->state == NAME || k->state == VALUE || k->state == LINE_LF;
}

/* The same words as in codec/http1.py. */
static const char *fault(const chunks *k) {
    if (in_trailers(k) || k->state == END_LF) return "the trailer section is malformed or too large";
    return k->state == DATA_CR || k->state == DATA_LF ? "a chunk is longer than it said"
                                                      : "a chunk begins with no valid size";
}

int64_t em_chunks_read(chunks *k, const uint8_t *data, size_t size, buffer *out, bool *ended) {
    size_t at = 0;
    *ended = false;
    while (at < size && !*ended) {
        if (k->state == DATA) {
            size_t piece = size - at < k->left ? size - at : (size_t)k->left;
            k->why = "no memory";
            if (!buffer_add(out, data + at, piece)) return -1;
            at += piece;
            k->left -= piece;
            if (k->left == 0) k->state = DATA_CR;
            continue;
        }
        bool line = in_trailers(k);
        k->why = fault(k);
        if (!framing(k, data[at], ended)) return -1;
        if (line && k->state != END_LF && !buffer_add(&k->trailers, data + at, 1)) return -1;
        at++;
    }
    return (int64_t)at;
}
