/* What gcc lacks of libFuzzer: mutate the corpus by WORDS, say how often something got through. `messages` counts that. */
#ifndef LIBFUZZER
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
        case 2: if (at < size) { size_t n = 1 + chance((uint32_t)(size - at)); memmove(data + at, data + at + n, size - at - n); size -= n; } break;
        case 3: case 4: {
            const word *w = &WORDS[chance(sizeof WORDS / sizeof *WORDS)];
            if (size + w->size <= most) { memmove(data + at + w->size, data + at, size - at); memcpy(data + at, w->text, w->size); size += w->size; }
            break;
        }
        case 5: {
            size_t which = chance((uint32_t)files), from = chance((uint32_t)sizes[which] + 1), n = chance((uint32_t)(sizes[which] - from) + 1);
            if (size + n <= most) { memmove(data + at + n, data + at, size - at); memcpy(data + at, corpus[which] + from, n); size += n; }
            break;
        }
        case 6: if (at + 1 < size) data[at + 1] = (uint8_t)(data[at + 1] + 1 - 2 * chance(2)); break;
        }
    }
    return size;
}

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
        LLVMFuzzerTestOneInput(corpus[i], sizes[i]);
    }
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
