/* Events: the events that each descriptor waits for, the order of turns, and the release of dead sides after a round.
 *
 * Each side handles its own events by callbacks: this file knows no other part.
 */
#ifndef EDGEMESH_LOOP_H
#define EDGEMESH_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#define CROWDS 1024u   /* scheduling shares: one for each workload that calls; more workloads than shares share them */

struct lane;
struct side;

typedef struct side_kind {
    void (*event)(struct lane *l, struct side *s, uint32_t events);
    void (*again)(struct lane *l, struct side *s);    /* its turn after em_again; NULL where em_again is never called */
    uint32_t (*crowd)(const struct side *s);          /* scheduling share of its events, below CROWDS */
    void (*release)(struct lane *l, struct side *s);  /* nothing refers to it any more: free it */
    uint32_t events;                                  /* events it waits for from the beginning, beside EPOLLIN */
    bool is_long;                                     /* an event may take long: the clock is read after each */
} side_kind;

/* One event source: the first member of the structure to which it belongs. */
typedef struct side {
    const side_kind *kind;
    struct side *next_dead;
    struct side *next_again;
    int fd;                  /* -1: a stream, which has no events of its own */
    uint32_t events;         /* events it waits for */
    bool gone;               /* it has left, and is freed when the round is over */
    bool absent;             /* it is not in the epoll set for now */
    bool is_again;           /* work is left that no event will report */
} side;

uint64_t em_micros_now(void);
bool em_enter(struct lane *l, side *s);                       /* false: errno gives the reason */
void em_watch(struct lane *l, side *s, uint32_t events);
void em_unwatch(struct lane *l, side *s);                     /* also for errors, until em_watch */
void em_bury(struct lane *l, side *s);                        /* it leaves, and is released when the round is over */
void em_again(struct lane *l, side *s);                       /* in the next round, whatever the kernel reports */
void em_sweep(struct lane *l);                                /* release the sides that have left */
/* One round. Return whether there is more to do. `budget`: microseconds. `wait`: milliseconds without events. */
bool em_round(struct lane *l, uint64_t budget, int wait);

/* A share for one descriptor. */
static inline uint32_t crowd_of_one(const side *s) { return CROWDS / 2 + (uint32_t)s->fd % (CROWDS / 2); }
#endif
