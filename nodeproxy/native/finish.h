/* How a call ends well: it is counted and logged, and both connections become idle. */
#ifndef EDGEMESH_FINISH_H
#define EDGEMESH_FINISH_H

#include "caller.h"

/* A finished request, for the log. Its request line, "\n" and its Host follow. */
typedef struct done {
    uint64_t caller, guest, target, micros, bytes_in, bytes_out;
    uint32_t status, text_size;
} done;

void em_finish(struct lane *l, caller *c);   /* finish if all of it is sent; otherwise this is called again */
void em_come_again(struct lane *l,
                   caller *c);   /* what is here of it already, or has ended, is looked at in the next round */
uint64_t em_patience(const struct lane *l, const caller *c);  /* how long it may pause in its request */
uint32_t em_line_of(const uint8_t *data, size_t size);        /* size of a head's first line */
uint32_t em_host_of(const uint8_t *data, size_t size, const uint8_t **host);
#endif
