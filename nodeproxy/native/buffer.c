/* Bytes that wait to be sent or to be read. An empty buffer owns no memory, so an idle connection costs none. */
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

#ifndef LEAST               /* tests/fuzz makes buffers grow at almost every step */
#define LEAST 4096u
#endif
#define MOST (64u << 20)    /* callers of these functions set lower bounds themselves */
#ifdef __SANITIZE_ADDRESS__
#define KEPT 0u             /* none, so that a use after free is found */
#else
#define KEPT 64u
#endif

/* Unused blocks of the least size: each request takes and returns some, and malloc is slow with blocks of that size. */
static _Thread_local void *spare[KEPT + 1];
static _Thread_local uint32_t spares;

static uint8_t *block_new(size_t size) { return size == LEAST && spares > 0 ? spare[--spares] : malloc(size); }

static void block_free(void *at, uint32_t size) {
    if (size == LEAST && spares + 1 <= KEPT) spare[spares++] = at;
    else free(at);
}

bool em_buffer_room(buffer *b, size_t more) {
    uint32_t have = held(b);
    if (more > MOST || have + more > MOST) return false;
    if (b->end + more <= b->size) {
        SHOW(b->at + b->end, more);
        return true;
    }
    SHOW(b->at, b->at != NULL ? b->size : 0);
    if (have + more <= b->size) {
        memmove(b->at, b->at + b->begin, have);
    } else {
        size_t size = b->size ? b->size : LEAST;
        while (size < have + more) size *= 2;
        uint8_t *grown = block_new(size);
        if (grown == NULL) return false;
        if (have) memcpy(grown, b->at + b->begin, have);
        if (b->at != NULL) block_free(b->at, b->size);
        b->at = grown;
        b->size = (uint32_t)size;
    }
    b->begin = 0;
    b->end = have;
    HIDE(b->at + have + more, b->size - have - more);
    return true;
}

void em_buffer_take(buffer *b, uint32_t size) {
    b->begin += size;
    if (b->begin == b->end) em_buffer_free(b);
}

void em_buffer_free(buffer *b) {
    if (b->at != NULL) {
        SHOW(b->at, b->size);
        block_free(b->at, b->size);
    }
    memset(b, 0, sizeof *b);
}
