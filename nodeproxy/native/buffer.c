/* Bytes that wait to be sent or to be read. An empty buffer owns no memory, so an idle connection costs none. */
#include <stdlib.h>
#include <string.h>

#include "lane.h"

#define LEAST 4096u
#define MOST (64u << 20)    /* a caller of these functions bounds itself long before */

bool buffer_room(buffer *b, size_t more) {
    uint32_t have = held(b);
    if (more > MOST || have + more > MOST) return false;
    if (b->end + more <= b->size) return true;
    if (have + more <= b->size) {
        memmove(b->at, b->at + b->begin, have);
    } else {
        size_t size = b->size ? b->size : LEAST;
        while (size < have + more) size *= 2;
        uint8_t *grown = malloc(size);
        if (grown == NULL) return false;
        if (have) memcpy(grown, b->at + b->begin, have);
        free(b->at);
        b->at = grown;
        b->size = (uint32_t)size;
    }
    b->begin = 0;
    b->end = have;
    return true;
}

bool buffer_add(buffer *b, const void *data, size_t size) {
    if (size == 0) return true;
    if (!buffer_room(b, size)) return false;
    memcpy(b->at + b->end, data, size);
    b->end += (uint32_t)size;
    return true;
}

void buffer_take(buffer *b, uint32_t size) {
    b->begin += size;
    if (b->begin == b->end) buffer_free(b);
}

void buffer_free(buffer *b) {
    free(b->at);
    memset(b, 0, sizeof *b);
}
