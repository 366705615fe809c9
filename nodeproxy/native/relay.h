/* Opaque bytes between two sockets. */
#ifndef EDGEMESH_RELAY_H
#define EDGEMESH_RELAY_H

#include "buffer.h"
#include "loop.h"

enum { LEFT, RIGHT };                                         /* the caller's end; the server's end */
enum { RELAY_DONE, LEFT_BROKEN, RIGHT_BROKEN, RELAY_IDLE };   /* how a relay ended; tunnel.h has more */

/* One end, and the bytes that wait to go there. */
typedef struct half {
    side side;
    struct relay *relay;
    buffer waiting;                      /* to be sent to this end */
    int pipe[2];                         /* likewise, where bytes come fast; -1: none */
    uint32_t piped;                      /* bytes in the pipe */
    uint64_t passed;                     /* bytes that were sent to it */
    bool ended;                          /* it sends no more */
    bool told;                           /* it was told that the other end sends no more */
    bool fast;                           /* bytes for it come fast: use a pipe */
    bool never_fast;                     /* a pipe cannot be used for it */
} half;

typedef struct relay {
    half half[2];
    uint64_t id;
    struct relay **handle;               /* set to NULL when the relay has left the fast path */
    struct relay *next, *previous;
    uint64_t since, idle, noted;         /* when bytes moved last, by relay_clock; see em_gone_quiet */
    uint32_t heard;
    bool moved;                          /* bytes moved since Python asked */
} relay;

/* A relay or a tunnel that is over. */
typedef struct relayed { uint64_t id, left_to_right, right_to_left; int what, error; } relayed;

/* first_bytes[LEFT] was read from `left` before. `idle`: microseconds. False: errno gives the reason. */
bool em_lane_relay(struct lane *l, uint64_t id, const int fd[2], const buffer first_bytes[2], uint64_t idle,
                   relay **handle);
void em_relay_drop(struct lane *l, relay *r);                 /* at once */
void em_relays_tick(struct lane *l);
void em_relay_pipes_close(struct lane *l);

/* Tunnels use these, too. */
bool em_relay_room(struct lane *l);   /* call before one begins. False: no memory, in errno */
void em_relay_tell(struct lane *l, relayed how);              /* report the end */
uint32_t em_segments_in(int fd);
bool em_gone_quiet(uint64_t now, uint64_t *since, uint64_t idle, uint64_t *noted, uint32_t *heard,
                   uint32_t (*count)(void *), void *of);
#endif
