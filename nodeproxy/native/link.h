/* HTTP/2 connections (h2.h) on a descriptor that the lane reads and writes until Python closes it: over TLS (tls.h) to another node, or
 * plain, with a workload of this one.
 *
 * A stream that another node opens says on whose behalf and to whom (doors). A workload's own streams all have one caller and one
 * destination, those of its connection: such a link is `local`, and has one door, which no field of a request can choose.
 */
#ifndef EDGEMESH_LINK_H
#define EDGEMESH_LINK_H

#include "h2.h"
#include "tls.h"

typedef struct door {           /* what a peer asks for, and on whose behalf, and the decisions about that */
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
    h2 *h;                               /* Python's; it outlives this */
    secured *tls;                        /* NULL: plain, for tests */
    struct link_ **handle;               /* set to NULL when it has left the lane */
    struct link_ *next, *previous;
    struct link_ *next_due;
    bool local;                          /* the other end is a workload: nothing that it says is believed */
    bool is_due;                         /* something may be there to be sent, or is here to be read */
    bool told;                           /* Python is to look */
    bool ended;                          /* nothing more comes */
    bool blocked;                        /* the peer takes no bytes now */
    uint32_t tell_below;                 /* Python waits until less than this is queued; 0: it does not */
    bool tell_idle;                      /* it waits until no stream is left */
    bool idle;
    char why[120];                       /* it ended; "": in order */
    uint64_t heard, idle_since, blocked_since;   /* by relay_clock */
    uint64_t stall;
    uint64_t total_in, total_out;        /* of calls that came over it and went well */
} link_;

link_ *lane_link(lane *l, uint64_t id, int fd, secured *tls, h2 *h, uint64_t stall, link_ **handle);   /* NULL: errno says why */
void link_feed(lane *l, link_ *k, const uint8_t *data, size_t size);
void link_event(lane *l, link_ *k, uint32_t events);
void link_due(lane *l, link_ *k);                             /* look at it in this turn, or in the next */
bool links_flush(lane *l, uint64_t end);                      /* true: there is more to do */
void links_tick(lane *l);
/* `whom`: X-Forwarded-For, of which the last element counts. */
bool door_learn(lane *l, link_ *k, const uint8_t *what, size_t what_size, const uint8_t *whom, size_t whom_size, plan *p, uint64_t guest);
const door *door_find(const link_ *k, const uint8_t *what, size_t what_size, const uint8_t *whom, size_t whom_size);
extern const visitor link_visitor;                            /* cross.c */
void link_drop(lane *l, link_ *k, bool bye);                  /* now; streams that are still the lane's are broken */
#endif
