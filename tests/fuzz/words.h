/* Pieces that mean something to what is fuzzed. */
#ifndef EDGEMESH_WORDS_H
#define EDGEMESH_WORDS_H
typedef struct { const char *text; size_t size; } word;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* With MEMORY, one allocation of the lane fails of those between these two: see driver.h. */
#ifdef MEMORY
void memory_fails(void);
void memory_is_back(void);
#else
static inline void memory_fails(void) {}
static inline void memory_is_back(void) {}
#endif
#endif
