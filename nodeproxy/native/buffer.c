/* Bytes that wait to be sent or to be read. An empty buffer owns no memory, so an idle connection costs none. */
#include <stdlib.h>
#include <string.h>

#include "lane.h"

#define LEAST 4096u
#define MOST (64u << 20)    /* a caller of these functions bounds itself long before */
#ifdef __SANITIZE_ADDRESS__
#define KEPT 0u             /* what is used after its end shall be seen */
#else
#define KEPT 64u
#endif

/* Blocks of the least size that nobody uses: each request takes and leaves some, and malloc is slow with blocks of that size. */
static _Thread_local void *spare[KEPT + 1];
static _Thread_local uint32_t spares;

static uint8_t *block_new(size_t size) { return size == LEAST && spares > 0 ? spare[--spares] : malloc(size); }

static void block_free(void *at, uint32_t size) {
    if (size == LEAST && spares + 1 <= KEPT) spare[spares++] = at;
    else free(at);
}

bool buffer_room(buffer *b, size_t more) {
    uint32_t have = held(b);
    if (more > MOST || have + more > MOST) return false;
    if (b->end + more <= b->size) return true;
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
    return true;
}

void buffer_take(buffer *b, uint32_t size) {
    b->begin += size;
    if (b->begin == b->end) buffer_free(b);
}

void buffer_free(buffer *b) {
    if (b->at != NULL) block_free(b->at, b->size);
    memset(b, 0, sizeof *b);
}
