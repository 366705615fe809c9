/* Idle servers: connections to endpoints that Python lent and that no call uses now. */
#ifndef EDGEMESH_POOL_H
#define EDGEMESH_POOL_H

#include "chunks.h"
#include "flow.h"
#include "llhttp/llhttp.h"
#include "loop.h"

typedef struct server {
    side side;
    uint64_t id;
    target *target;
    struct server *next, *previous;      /* list of idle servers */
    struct caller *caller;               /* the caller it serves; NULL when idle */
    uint64_t since;                      /* when it became idle, by relay_clock */
    llhttp_t parser;
    chunks chunks;                       /* of its response */
    buffer in, out;
    bool used;                           /* it has sent a response before */
    bool broken;                         /* no more is sent to it */
    bool reset;                          /* it was reset: an incomplete response stays incomplete */
} server;

bool em_lane_lend(struct lane *l, uint64_t id, int fd, target *t);   /* false: errno gives the reason */
uint64_t em_lane_reclaim(struct lane *l, target *t);   /* an idle server goes back to Python; 0: none is idle */
void em_server_rest(struct lane *l, server *s);
void em_server_unrest(server *s);                                    /* a call takes it */
void em_server_close(struct lane *l, server *s);                     /* Python may close it */
void em_server_bury(struct lane *l, server *s);                      /* it leaves the fast path, to Python */
void em_server_release(struct lane *l, side *s);
void em_pool_tick(struct lane *l);
#endif
