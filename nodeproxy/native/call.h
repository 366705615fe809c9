/* One call from request to response, and its caller. */
#ifndef EDGEMESH_CALL_H
#define EDGEMESH_CALL_H

#include "caller.h"

/* A request that was refused here. The request line, "\n" and its Host follow. */
typedef struct refusal {
    uint64_t caller, target, bytes_in, bytes_out;
    uint32_t denial, text_size;
    char id[ID_SIZE];
} refusal;

/* `data`: bytes that were read before. False: errno gives the reason. */
bool em_lane_carry(struct lane *l, uint64_t id, int fd, plan *p, const uint8_t *data, size_t size, caller **handle);
void em_callers_flush(struct lane *l);                        /* all callers that are due */
void em_callers_tick(struct lane *l);

/* A whole head is at `data`. Return how many bytes were taken, 0 when the request is handed to Python. */
int64_t em_begin_call(struct lane *l, caller *c, const uint8_t *data, size_t size, head *h, int64_t head_size);
#endif
