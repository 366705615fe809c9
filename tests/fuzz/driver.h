/* What gcc lacks of libFuzzer: mutate the corpus by WORDS, say how often something got through. `messages` counts that.
 */
#ifndef LIBFUZZER
#include <stdbool.h>
#ifndef REACHED
#define REACHED "requests reached the server"
#endif
static uint64_t state = 88172645463325252ull;
static uint32_t chance(uint32_t below) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below ? (uint32_t)(state % below) : 0;
}

static size_t mutate(uint8_t *data, size_t size, size_t most, uint8_t **corpus, size_t *sizes, size_t files) {
    for (uint32_t times = 1 + chance(4); times--;) {
        size_t at = chance((uint32_t)size + 1);
        switch (chance(7)) {
        case 0: if (at < size) data[at] = (uint8_t)chance(256); break;
        case 1: if (at < size) data[at] ^= (uint8_t)(1u << chance(8)); break;
        case 2:
            if (at < size) {
                size_t n = 1 + chance((uint32_t)(size - at));
                memmove(data + at, data + at + n, size - at - n);
                size -= n;
            }
            break;
        case 3: case 4: {
            const word *w = &WORDS[chance(sizeof WORDS / sizeof *WORDS)];
            if (size + w->size <= most) {
                memmove(data + at + w->size, data + at, size - at);
                memcpy(data + at, w->text, w->size);
                size += w->size;
            }
            break;
        }
        case 5: {
            size_t which = chance((uint32_t)files), from = chance((uint32_t)sizes[which] + 1),
                   n = chance((uint32_t)(sizes[which] - from) + 1);
            if (size + n <= most) {
                memmove(data + at + n, data + at, size - at);
                memcpy(data + at, corpus[which] + from, n);
                size += n;
            }
            break;
        }
        case 6: if (at + 1 < size) data[at + 1] = (uint8_t)(data[at + 1] + 1 - 2 * chance(2)); break;
        }
    }
    return size;
}

#ifdef MEMORY
/* Of the lane alone: the linker has it call these (--wrap), and no library. */
static long allocations, failing;
static bool armed;
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *at, size_t size);
static bool refused(void) { return armed && ++allocations == failing; }
void *__wrap_malloc(size_t size) { return refused() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { return refused() ? NULL : __real_calloc(count, size); }
void *__wrap_realloc(void *at, size_t size) { return refused() ? NULL : __real_realloc(at, size); }
void memory_fails(void) { armed = true; }
void memory_is_back(void) { armed = false; }

/* Each input of the corpus as often as the lane allocates something meanwhile, and each time another of these fails. */
static long without_memory(uint8_t **corpus, const size_t *sizes, size_t files) {
    long runs = 0;
    for (size_t i = 0; i < files; i++)
        for (failing = 1;; failing++, runs++) {
            allocations = 0;
            LLVMFuzzerTestOneInput(corpus[i], sizes[i]);
            if (allocations < failing) break;
        }
    return runs;
}
#endif

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: fuzz COUNT SEED FILE...\n"), 2;
    long count = strtol(argv[1], NULL, 10);
    state ^= strtoull(argv[2], NULL, 10) * 0x9E3779B97F4A7C15ull;
    size_t files = (size_t)argc - 3;
    uint8_t **corpus = calloc(files, sizeof *corpus);
    size_t *sizes = calloc(files, sizeof *sizes);
    for (size_t i = 0; i < files; i++) {
        FILE *f = fopen(argv[i + 3], "rb");
        if (f == NULL) return perror(argv[i + 3]), 2;
        corpus[i] = malloc(65536);
        sizes[i] = fread(corpus[i], 1, 65536, f);
        fclose(f);
        for (size_t size = 0; size <= sizes[i]; size++)
            LLVMFuzzerTestOneInput(corpus[i], size);   /* each beginning of it, and all of it */
    }
#ifdef MEMORY
    count = without_memory(corpus, sizes, files);
    printf("%ld allocations failed; ", count);
    count = 0;
#endif
    uint8_t *data = malloc(16384);
    for (long i = 0; i < count; i++) {
        size_t which = chance((uint32_t)files), size = sizes[which] < 8192 ? sizes[which] : 8192;
        memcpy(data, corpus[which], size);
        size = mutate(data, size, 16384, corpus, sizes, files);
        LLVMFuzzerTestOneInput(data, size);
    }
    for (size_t i = 0; i < files; i++) free(corpus[i]);
    free(corpus);
    free(sizes);
    free(data);
    printf("%ld inputs, %d " REACHED "\n", count, messages);
    return 0;
}
#endif
