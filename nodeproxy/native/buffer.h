/* Bytes that wait to be sent or to be read. An empty buffer owns no memory, so an idle connection costs none.
 *
 * Unused blocks of the least size are kept for each thread (buffer.c): the thread that frees one uses it again.
 */
#ifndef EDGEMESH_BUFFER_H
#define EDGEMESH_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* With AddressSanitizer, memory without bytes may not be read. So a read past the end of the received bytes is
 * reported, though the block is larger. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define HIDE(at, size) __asan_poison_memory_region(at, size)
#define SHOW(at, size) __asan_unpoison_memory_region(at, size)
#else
#define HIDE(at, size) ((void)(at), (void)(size))
#define SHOW(at, size) ((void)(at), (void)(size))
#endif

typedef struct buffer {
    uint8_t *at;
    uint32_t begin, end;   /* of the bytes it holds */
    uint32_t size;         /* of the block */
} buffer;

static inline uint32_t held(const buffer *b) { return b->end - b->begin; }
static inline const uint8_t *first(const buffer *b) { return b->at + b->begin; }

bool em_buffer_room(buffer *b, size_t more);   /* false: no memory */

static inline bool buffer_add(buffer *b, const void *data, size_t size) {
    if (size == 0) return true;
    if (size > b->size - b->end && !em_buffer_room(b, size)) return false;
    SHOW(b->at + b->end, size);
    memcpy(b->at + b->end, data, size);
    b->end += (uint32_t)size;
    return true;
}

static inline bool add_word(buffer *b, const char *word) { return buffer_add(b, word, strlen(word)); }

/* Drop what was added after the buffer held `size` bytes. */
static inline void buffer_cut(buffer *b, uint32_t size) { b->end = b->begin + size; }

/* Empty the buffer; it keeps its memory. */
static inline void buffer_clear(buffer *b) {
    b->begin = b->end = 0;
    HIDE(b->at, b->size);
}

void em_buffer_take(buffer *b, uint32_t size);   /* drop the first bytes */
void em_buffer_free(buffer *b);
#endif
