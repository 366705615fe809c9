/* HTTP/2 connections (h2.h) on a descriptor that the fast path reads and writes until Python closes it: over TLS
 * (tls.h) to another node, or plain, with a workload of this node.
 *
 * A stream that another node opens names its caller and its destination (doors). All streams of a workload's own
 * connection have one caller and one destination, those of the connection: such a link is `local`. It has one door,
 * which no field of a request can choose.
 */
#ifndef EDGEMESH_LINK_H
#define EDGEMESH_LINK_H

#include "flow.h"
#include "h2.h"
#include "loop.h"
#include "tls.h"

typedef struct door {   /* the destination that a peer asks for, the caller it asks for, and the plan for both */
    uint64_t hash;
    plan *plan;
    uint64_t guest;
    uint32_t size;
    uint8_t *key;
} door;
#define DOORS 64u

typedef struct link_ {
    side side;
    door door[DOORS];
    uint32_t doors, next_door;
    uint64_t id;
    h2 *h;                               /* belongs to Python, and outlives the link */
    secured *tls;                        /* NULL: plain bytes, for tests */
    struct link_ **handle;               /* set to NULL when the link has left the fast path */
    struct link_ *next, *previous;
    struct link_ *next_due;
    bool local;                          /* the other end is a workload: nothing it says about itself is trusted */
    bool is_due;                         /* there may be bytes to send or to read */
    bool told;                           /* Python has to look at it */
    bool ended;                          /* nothing more comes */
    bool blocked;                        /* the peer takes no bytes now */
    uint32_t tell_below;                 /* Python waits until less than this is queued; 0: it does not wait */
    bool tell_idle;                      /* Python waits until no stream is left */
    bool idle;
    char why[120];                       /* reason of the end; "": in order */
    uint64_t heard, idle_since, blocked_since;   /* by relay_clock */
    uint64_t stall;
    uint64_t total_in, total_out;        /* of calls over this link that went well */
} link_;

/* `calls`: takes the streams instead of Python. `stall`: microseconds for which the peer may take no bytes. NULL: errno
 * gives the reason. */
link_ *em_lane_link(struct lane *l, uint64_t id, int fd, secured *tls, h2 *h, const visitor *calls, uint64_t stall,
                    link_ **handle);
void em_link_drop(struct lane *l, link_ *k, bool bye);        /* at once; remaining streams of the fast path break */
void em_link_feed(struct lane *l, link_ *k, const uint8_t *data, size_t size);
void em_link_due(struct lane *l, link_ *k);                   /* look at it in this turn, or in the next */
void em_links_flush(struct lane *l, uint64_t end);   /* links that are due afterwards have more to send or to read */
void em_links_tick(struct lane *l);
/* `whom`: X-Forwarded-For; its last element counts. */
bool em_door_learn(struct lane *l, link_ *k, const uint8_t *what, size_t what_size, const uint8_t *whom,
                   size_t whom_size, plan *p, uint64_t guest);
const door *em_door_find(const link_ *k, const uint8_t *what, size_t what_size, const uint8_t *whom, size_t whom_size);
#endif
