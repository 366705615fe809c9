/* One HTTP/2 connection (RFC 9113), in either role: nghttp2's state machine, added bounds on a peer, and the owner of
 * each stream.
 *
 * No sockets here: bytes come in by em_h2_feed and go out from `out`. A stream belongs to Python, which gets its
 * events, until `visitor` takes it. Python's equivalent machine is nodeproxy/h2/machine.py;
 * nodeproxy/h2/native_machine.py gives this one the same interface.
 */
#ifndef EDGEMESH_H2_H
#define EDGEMESH_H2_H

#include <nghttp2/nghttp2.h>

#include "buffer.h"

#define FIRST_WINDOW 65535      /* RFC 9113 section 6.9.2 */
#define MOST_TRAILERS 100      /* h2/limits.py header_count */
#define PUMPED 32768u   /* bytes of frames that are made ahead; less than the limit at which Python's senders wait */

typedef struct { double left, burst, rate, at; } bucket;

/* The owner of connections, a workload or a peer: what outlives each connection, and what all of them have together. */
typedef struct h2_owner {
    bucket resets;
    uint32_t streams, most;   /* streams of peers in progress, in the fast path and in Python, which counts its own */
} h2_owner;

typedef struct h2_bounds {
    uint32_t max_streams, head_bytes, frame_size, connection_window, stream_window, queue_bytes;
    double control_burst, control_rate, reset_burst, reset_rate;
} h2_bounds;

/* Layout of stored fields: for each a pair of sizes, the name, the value. */
typedef struct { uint32_t name_size, value_size; } field_sizes;

typedef struct stream {
    struct h2 *h2;
    struct stream *next, *previous;      /* list of open streams */
    int32_t id;
    void *call;                          /* the visitor's call; NULL: the stream is Python's */
    const struct visitor *visitor;       /* visitor of this stream; NULL: that of the connection */
    buffer fields, head;                 /* arriving head or trailers; the head that a visitor took */
    uint32_t list_size;                  /* as RFC 9113 section 6.5.2 counts */
    buffer out, trailers;                /* bytes to send; trailer fields to send */
    uint32_t held, window, untold;   /* bytes not taken; most they may be; bytes taken but not credited */
    bool counted;                        /* the owner counts it as a stream of the fast path */
    bool heard_head;                     /* the peer's head is complete, and not an interim one */
    bool heard_end;                      /* the peer's END_STREAM came */
    bool head_only;                      /* the message ends with `fields` */
    bool sent_head;                      /* our head is on its way */
    bool out_end;                        /* nothing is added to `out` any more */
    bool sent_end;                       /* our END_STREAM is on its way */
    bool providing;                      /* nghttp2 has a data provider for `out` */
    bool waiting;                        /* the provider found no bytes, and is resumed when there are some */
    bool dropped;                        /* we have reset it: further events are dropped */
    bool drop_later;                     /* reset it once the queued bytes are sent */
    bool reset_by_peer;                  /* reported when the stream closes */
} stream;

/* What the peer did: see Listener of h2/machine.py. */
enum {
    H2_REQUESTED,
    H2_RESPONDED,
    H2_TRAILED,
    H2_ARRIVED,
    H2_ENDED,
    H2_RESET,
    H2_WINDOW,
    H2_GREETED,
    H2_ANSWERED,
    H2_LEFT,
};

/* Codes of H2_REQUESTED: the body, or a part of it, was taken before; a field was too large and is missing. */
enum { H2_TAKEN = 1, H2_CUT = 2 };

typedef struct {
    uint32_t what;
    int32_t stream;
    uint32_t code, ended;
    uint32_t size;                       /* so many bytes follow: fields, data, a mark */
} h2_event;

/* Takes streams instead of Python. */
typedef struct visitor {
    bool (*requested)(struct h2 *h, stream *s);               /* true: it takes the stream; `s->fields` is the head */
    void (*responded)(struct h2 *h, stream *s);
    void (*trailed)(struct h2 *h, stream *s);
    void (*came)(struct h2 *h, stream *s, const uint8_t *data, size_t size);
    void (*ended)(struct h2 *h, stream *s);
    void (*closed)(struct h2 *h, stream *s, uint32_t code, bool by_peer);   /* the stream is gone after this */
    void (*sent)(struct h2 *h, stream *s);                    /* some of `out` was sent */
} visitor;

typedef struct h2 {
    nghttp2_session *session;
    bool client;                         /* our role */
    bool greeted;                        /* the peer's SETTINGS came */
    bool settled;                        /* the first frame was SETTINGS */
    bool over;                           /* after a violation; nothing is fed any more */
    bool no_memory;                      /* something was lost for lack of memory: the connection is over, too */
    h2_bounds bounds;
    bucket control;
    h2_owner own, *of;                   /* its own budget, and the shared one, or the same */
    double now;
    buffer out, events;
    stream *first;
    uint32_t streams, pythons;           /* open streams; those of Python */
    uint32_t growth, held;   /* bytes by which streams may still grow; bytes that arrived and were not taken */
    int32_t last_taken;                  /* last stream of the peer that is served, once we sent GOAWAY; else -1 */
    int32_t peers_last;                  /* highest stream number of the peer */
    char violation[160];
    uint8_t frame[10];                   /* header of the arriving frame, and its padding length */
    uint32_t frame_size;                 /* header bytes that have arrived */
    uint32_t skip;                       /* payload bytes still to come */
    uint32_t block;                      /* bytes of the field block so far */
    const visitor *visitor;
    void *owner;                         /* its link, while it has one */
    struct lane *lane;
    buffer gathered;                     /* frames of an unfinished field block */
    uint32_t pieces;                     /* number of CONTINUATION frames in it */
    bool gathering;                      /* frames are kept in `gathered` */
    bool block_ends;                     /* the arriving frame is the last one of the block */
    bool cut;                            /* something was left out of the block that nghttp2 sees now */
} h2;

bool em_h2_open(h2 *h, bool client, const h2_bounds *bounds, double now);
void em_h2_close(h2 *h);                                         /* after em_h2_abandon, if there is a visitor */
void em_h2_abandon(h2 *h);   /* close the visitor's streams, and leave them without owner */
void em_h2_feed(h2 *h, const uint8_t *data, size_t size, double now);   /* then check `over` */
void em_h2_pump(h2 *h, uint32_t most);   /* make frames of queued bytes, about so many bytes at most */
int32_t em_h2_request(h2 *h, const nghttp2_nv *fields, size_t count, bool end, void *call);   /* -1: no memory */
bool em_h2_head(h2 *h, int32_t id, const nghttp2_nv *fields, size_t count, bool end);
bool em_h2_trailers(h2 *h, stream *s, const nghttp2_nv *fields, size_t count);
bool em_h2_data(h2 *h, stream *s, const uint8_t *data, size_t size, bool end);
void em_h2_drop(h2 *h, int32_t id, uint32_t code);
/* Credit the peer with bytes of the stream that were taken. `s` NULL: the stream is gone. */
void em_h2_taken(h2 *h, stream *s, uint32_t size);
void em_h2_give_back(h2 *h, int32_t id, uint32_t size, uint32_t growth);   /* id 0: of the connection */
void em_h2_from_python(h2 *h, stream *s, void *call);
void em_h2_to_python(h2 *h, stream *s);   /* give the visitor's stream to Python, without an event */
int32_t em_h2_go_away(h2 *h);
void em_h2_ping(h2 *h, const uint8_t mark[8]);
bool em_h2_blame(h2 *h);                                         /* false: too often */
stream *em_h2_stream(h2 *h, int32_t id);
uint32_t em_h2_room(const h2 *h);                                /* streams that may be opened now */
bool em_h2_event_add(h2 *h, uint32_t what, int32_t id, uint32_t code, bool ended, const void *data, size_t size);
static inline void earn_control(h2 *h, double amount) {
    if (h->control.left < h->control.burst) h->control.left += amount;
}
static inline void earn_reset(h2 *h) {
    if (h->own.resets.left < h->own.resets.burst) h->own.resets.left += 1;
    if (h->of != &h->own && h->of->resets.left < h->of->resets.burst) h->of->resets.left += 1;
}
static inline bool h2_owner_full(const h2 *h) { return h->of->streams >= h->of->most; }
bool em_is_secret(const uint8_t *name, size_t size);
#endif
