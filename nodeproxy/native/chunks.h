/* A chunked body (RFC 9112 section 7.1). */
#ifndef EDGEMESH_CHUNKS_H
#define EDGEMESH_CHUNKS_H

#include "buffer.h"

typedef struct chunks {
    bool chunked;       /* false: this body has another framing */
    bool of_server;     /* a server's body: known deviations of servers are accepted */
    uint8_t state;
    uint32_t line;      /* bytes of the current line, or of the trailer section, so far */
    uint32_t digits;    /* digits of the chunk size, so far */
    uint64_t left;      /* bytes left in the chunk */
    buffer trailers;    /* lines as they arrive */
    const char *why;    /* reason of a fault */
} chunks;

void em_chunks_begin(chunks *k, bool chunked, bool of_server);
/* The body's bytes go to `out`. Return how many bytes were taken, -1 for a fault; `ended`: the body is complete. */
int64_t em_chunks_read(chunks *k, const uint8_t *data, size_t size, buffer *out, bool *ended);
#endif
