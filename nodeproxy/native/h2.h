/* One HTTP/2 connection (RFC 9113), either role: nghttp2's state machine, the bounds on a peer that it lacks, and whose each stream is.
 *
 * No sockets here: bytes come in by h2_feed and go out from `out`. A stream is Python's, which is told of it by events, until `visitor`
 * takes it. Python's machine of the same meaning is nodeproxy/http/h2_machine.py; nodeproxy/http/h2_native.py stands between.
 */
#ifndef EDGEMESH_H2_H
#define EDGEMESH_H2_H

#include <nghttp2/nghttp2.h>

#include "lane.h"

#define FIRST_WINDOW 65535      /* RFC 9113 section 6.9.2 */
#define MOST_TRAILERS 100      /* h2_bounds.py header_count */
#define PUMPED 32768u           /* bytes of frames that are made ahead of their sending; less than what stops Python's senders */

typedef struct { double left, burst, rate, at; } bucket;

typedef struct h2_bounds {
    uint32_t max_streams, head_bytes, frame_size, connection_window, stream_window, queue_bytes;
    double control_burst, control_rate, reset_burst, reset_rate;
} h2_bounds;

/* Fields as they are kept: for each a pair of sizes, the name, the value. */
typedef struct { uint32_t name_size, value_size; } field_sizes;

typedef struct stream {
    struct h2 *h2;
    struct stream *next, *previous;      /* open ones */
    int32_t id;
    void *call;                          /* of the visitor; NULL: Python's */
    const struct visitor *visitor;       /* its own one; NULL: that of the connection */
    buffer fields, head;                 /* of the head or the trailers that arrive; the head that a visitor took */
    uint32_t list_size;                  /* as RFC 9113 section 6.5.2 counts */
    buffer out, trailers;                /* to be sent; fields */
    uint32_t held, window, untold;       /* bytes that were not taken; what they may be; taken, not given back */
    bool heard_head, heard_end, out_end, sent_head, sent_end, providing, waiting, dropped, drop_later, reset_by_peer, head_only;   /* head_only: nothing follows what `fields` holds */
} stream;

/* What the peer did. See h2_machine.Listener. */
enum { H2_REQUESTED, H2_RESPONDED, H2_TRAILED, H2_ARRIVED, H2_ENDED, H2_RESET, H2_WINDOW, H2_GREETED, H2_ANSWERED, H2_LEFT };
typedef struct { uint32_t what; int32_t stream; uint32_t code, ended, size; } h2_event;   /* `size` bytes follow: fields, data, a mark */

/* Who takes streams instead of Python. */
typedef struct visitor {
    bool (*requested)(struct h2 *h, stream *s);               /* true: it is taken; `s->fields` is the head */
    void (*responded)(struct h2 *h, stream *s);
    void (*trailed)(struct h2 *h, stream *s);
    void (*came)(struct h2 *h, stream *s, const uint8_t *data, size_t size);
    void (*ended)(struct h2 *h, stream *s);
    void (*closed)(struct h2 *h, stream *s, uint32_t code, bool by_peer);   /* it is gone after this, whatever the reason */
    void (*sent)(struct h2 *h, stream *s);                    /* some of `out` went on its way */
} visitor;

typedef struct h2 {
    nghttp2_session *session;
    bool client, greeted, over;          /* over: a violation; nothing is fed any more */
    h2_bounds bounds;
    bucket control, resets;
    double now;
    buffer out, events;
    stream *first;
    uint32_t streams, pythons;           /* open; of these, Python's */
    uint32_t growth, held;               /* left for streams to grow by; bytes that arrived and were not taken */
    int32_t last_taken;                  /* of the peer's streams, once we sent GOAWAY; -1 */
    int32_t peers_last;                  /* highest of the peer's streams */
    char violation[160];
    uint8_t frame[10];                   /* the header of the frame that comes, and how long its padding is */
    uint32_t frame_size, skip, block;    /* bytes of it that are here; of its payload to come; of the field block so far */
    const visitor *visitor;
    void *owner;                         /* its link, while it has one */
    struct lane *lane;
    bool settled, no_memory;             /* settled: the first frame was SETTINGS */
} h2;

bool h2_open(h2 *h, bool client, const h2_bounds *bounds, double now);
void h2_close(h2 *h);                                         /* after h2_abandon, where there is a visitor */
void h2_abandon(h2 *h);                                       /* streams of the visitor are told as closed, and are nobody's */
void h2_feed(h2 *h, const uint8_t *data, size_t size, double now);   /* then look at `over` */
void h2_pump(h2 *h, uint32_t most);                           /* make frames of what waits, up to about so many bytes */
int32_t h2_request(h2 *h, const nghttp2_nv *fields, size_t count, bool end, void *call);    /* -1: no memory */
bool h2_head(h2 *h, int32_t id, const nghttp2_nv *fields, size_t count, bool end);
bool h2_trailers(h2 *h, stream *s, const nghttp2_nv *fields, size_t count);
bool h2_data(h2 *h, stream *s, const uint8_t *data, size_t size, bool end);
void h2_drop(h2 *h, int32_t id, uint32_t code);
void h2_taken(h2 *h, stream *s, uint32_t size);               /* bytes of it were taken: the peer may send as many. NULL: it is gone */
void h2_give_back(h2 *h, int32_t id, uint32_t size, uint32_t growth);   /* of the connection: 0 */
void h2_from_python(h2 *h, stream *s, void *call);
void h2_to_python(h2 *h, stream *s);                          /* the visitor's becomes Python's; it is told nothing by this */
int32_t h2_go_away(h2 *h);
void h2_ping(h2 *h, const uint8_t mark[8]);
void h2_abuse(h2 *h, const char *words);
bool h2_blame(h2 *h);                                         /* false: too often */
stream *h2_stream(h2 *h, int32_t id);
uint32_t h2_room(const h2 *h);                                /* streams that may be opened now */
bool h2_event_add(h2 *h, uint32_t what, int32_t id, uint32_t code, bool ended, const void *data, size_t size);
static inline void earn_control(h2 *h, double amount) { if (h->control.left < h->control.burst) h->control.left += amount; }
static inline void earn_reset(h2 *h) { if (h->resets.left < h->resets.burst) h->resets.left += 1; }
bool is_secret(const uint8_t *name, size_t size);
#endif
