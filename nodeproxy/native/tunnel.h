/* A tunnel between nodes: a CONNECT stream of a link and a socket of this node, while the lane passes bytes between them. */
#ifndef EDGEMESH_TUNNEL_H
#define EDGEMESH_TUNNEL_H

#include "link.h"

/* How one ended, beside what ends a relay: the stream was reset by its peer, or because its peer broke HTTP/2 on it; the peer opened no
 * window for too long; the link has gone. Of the first two `error` is the code. */
enum { STREAM_RESET = RELAY_IDLE + 1, STREAM_WRONG, STREAM_SHUT, STREAM_LOST };

typedef struct tunnel {
    side side;                           /* the socket */
    uint64_t id;
    link_ *link;                         /* NULL: it is gone, and all that came on the stream came before */
    stream *stream;                      /* NULL: it is over, both ways, and the rest of what came is on its way to the socket */
    struct tunnel **handle;              /* set to NULL when it has left the lane */
    struct tunnel *next, *previous;
    struct tunnel *next_due;             /* who have something for their socket */
    buffer waiting;                      /* for the socket */
    uint32_t owed;                       /* of that, the last so many bytes: the peer was not given them back */
    uint64_t to_socket, to_stream;       /* bytes that were sent, that were put into the stream */
    uint32_t before;                     /* bytes that were in the stream before us */
    uint64_t since, idle;                /* when bytes moved last, by relay_clock */
    uint64_t pushed;                     /* when nothing waited for the peer's window, or some of it went */
    bool left;                           /* the socket is the caller's */
    bool moved;                          /* since Python asked */
    bool is_due;
    bool socket_ended, stream_ended;     /* it sends no more */
    bool told;                           /* the socket knows that the stream sends no more */
} tunnel;

typedef struct tunnel_begin {            /* what Python did before */
    buffer of_stream, of_socket;         /* what it read of them */
    uint32_t owed;                       /* of the stream's, the last so many bytes: not given back */
    uint32_t window, untold;             /* the stream's, as http/h2_channel.py has them */
    uint64_t idle;
    bool left;
} tunnel_begin;

/* False: errno says why. ENOENT: there is no such stream, or it is not Python's. */
bool lane_tunnel(lane *l, uint64_t id, link_ *k, int32_t number, int fd, const tunnel_begin *begin, tunnel **handle);
void tunnel_drop(lane *l, tunnel *t);                         /* now; the stream is Python's again */
uint64_t tunnel_sent(const tunnel *t);                        /* bytes that left on the stream */
void tunnel_event(lane *l, tunnel *t, uint32_t events);
void tunnels_flush(lane *l);                                  /* to the sockets, what was read of the links in this round */
void tunnels_leave(lane *l, link_ *k);                        /* the link is about to go */
void tunnels_tick(lane *l);
#endif
