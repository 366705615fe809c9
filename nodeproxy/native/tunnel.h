/* A tunnel between nodes: a CONNECT stream of a link and a socket of this node. The fast path passes bytes between
 * them. */
#ifndef EDGEMESH_TUNNEL_H
#define EDGEMESH_TUNNEL_H

#include "link.h"
#include "relay.h"

/* How a tunnel ended, beside the ends of a relay: the peer reset the stream, or broke HTTP/2 on it; the peer opened no
 * window for too long; the link has gone. Of the first two `error` is the code. */
enum { STREAM_RESET = RELAY_IDLE + 1, STREAM_WRONG, STREAM_SHUT, STREAM_LOST };

typedef struct tunnel {
    side side;                           /* the socket */
    uint64_t id;
    link_ *link;                         /* NULL: it is gone, and everything on the stream has arrived */
    stream *stream;   /* NULL: over in both directions; the rest of its bytes is on its way to the socket */
    struct tunnel **handle;              /* set to NULL when the tunnel has left the fast path */
    struct tunnel *next, *previous;
    struct tunnel *next_due;             /* list of tunnels with bytes for their socket */
    buffer waiting;                      /* bytes for the socket */
    uint32_t owed;                       /* the last so many bytes of these: not credited to the peer yet */
    uint64_t to_socket;                  /* bytes that were sent */
    uint64_t to_stream;                  /* bytes that were put into the stream */
    uint32_t before;                     /* bytes that were in the stream before the tunnel */
    uint64_t since, idle, noted;         /* when bytes moved last, by relay_clock; see em_gone_quiet */
    uint32_t heard;
    uint64_t pushed;                     /* when nothing waited for the peer's window, or some of it went */
    bool left;                           /* the socket is the caller's end */
    bool moved;                          /* bytes moved since Python asked */
    bool is_due;
    bool socket_ended;                   /* the socket sends no more */
    bool stream_ended;                   /* the stream sends no more */
    bool told;                           /* the socket was told that the stream sends no more */
} tunnel;

typedef struct tunnel_begin {            /* what Python did before */
    buffer of_stream, of_socket;         /* bytes that it read from each */
    uint32_t owed;                       /* the last so many bytes of the stream's: not credited yet */
    uint32_t window, untold;             /* the stream's, as h2/stream.py counts them */
    uint64_t idle;
    bool left;
} tunnel_begin;

/* False: errno gives the reason. ENOENT: there is no such stream, or it is not Python's. */
bool em_lane_tunnel(struct lane *l, uint64_t id, link_ *k, int32_t number, int fd, const tunnel_begin *begin,
                    tunnel **handle);
void em_tunnel_drop(struct lane *l, tunnel *t);                         /* at once; Python gets the stream back */
uint64_t em_tunnel_sent(const tunnel *t);                        /* bytes that left on the stream */
void em_tunnels_flush(struct lane *l);   /* send to the sockets what was read from the links in this round */
void em_tunnels_leave(struct lane *l, link_ *k);                        /* the link is about to go */
void em_tunnels_tick(struct lane *l);
#endif
