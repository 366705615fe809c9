/* Pieces that mean something to what is fuzzed. */
#ifndef EDGEMESH_WORDS_H
#define EDGEMESH_WORDS_H
typedef struct { const char *text; size_t size; } word;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
#endif
