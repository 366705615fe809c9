/* The fast path: calls and bytes between sockets of this node, by decisions that Python made. A `lane` is its whole
 * state.
 *
 * Ownership. Python owns every descriptor, and lends it: a caller's connection between two requests (em_lane_carry), an
 * idle server connection (em_lane_lend). Only the fast path reads and writes a lent descriptor, until it hands it back
 * ("up") or Python drops it. What the fast path does not know for certain it hands to Python with the bytes untouched:
 * a request before any of it was sent, a response before any of it was passed to the caller. So Python has every rule
 * of HTTP for unusual messages, and writes every error that a caller gets.
 *
 * One epoll descriptor, no threads, no Python objects. Each header belongs to the C file of the same name:
 *
 *     lane        the whole: open, turn, stay, tick, close. It knows all the others; each of these knows only those
 *                 below it
 *     tunnel      opaque bytes between a socket and a stream
 *     cross       the ends of a call that are streams
 *     link        HTTP/2 connections
 *     call        one call: its request, and its caller
 *     answer      responses of servers
 *     finish      how a call ends well
 *     send        writes to both connections
 *     body        bodies of HTTP/1.1, and llhttp
 *     caller      callers, and how they leave the fast path
 *     pool        idle servers
 *     relay       opaque bytes between two sockets
 *     flow        decisions, plans, targets
 *     fields      heads of HTTP/2 as text
 *     h2          HTTP/2 of one connection
 *     frames      its frames, before nghttp2 sees them
 *     tls         TLS of one connection
 *     loop        events
 *     chunks      a chunked body
 *     head        one message head
 *     buffer      bytes that wait
 *
 * Below is the state that all of them share, grouped by the file that owns it. lane_type.c is the interface to Python.
 */
#ifndef EDGEMESH_LANE_H
#define EDGEMESH_LANE_H

#include "flow.h"
#include "loop.h"

#define SCRATCH 65536u     /* bytes read at once */
#define SPARE_PIPES 8u     /* pipes kept for the next relays */

struct caller;
struct link_;
struct relay;
struct relayed;
struct stream_ends;
struct tunnel;
struct up;

typedef struct settings {
    head_limits head;
    uint32_t buffer_bytes, rest_per_target;
    uint64_t keepalive_timeout, response_timeout, idle_timeout, rest_timeout;   /* microseconds */
} settings;

typedef struct lane {
    settings set;
    bool no_memory;   /* the bytes built for the current call are incomplete: send.c ends that call */
    uint64_t lost;                       /* records lost for lack of memory */

    /* loop.c */
    int epoll;
    uint64_t now;                        /* microseconds, monotonic; read once a round */
    uint64_t skew;   /* from our clock to Python's, which every deadline uses: a test's clock may jump */
    side *again, *dead;
    uint8_t share[CROWDS];               /* events handled in this round */
    uint32_t next_event;                 /* index of the event with which a round begins */
    bool (*flush)(struct lane *l, uint64_t end);   /* called after each round, until `end`; true: there is more to do */

    /* lane.c */
    int outer;                           /* Python waits for it; `epoll` is in it */
    side others;   /* what Python waits for, while the fast path waits in its place: see em_lane_stay */
    bool called;                         /* `others` has an event */

    /* flow.c */
    uint32_t generation;                 /* of the snapshot */
    uint64_t serial;                     /* the last serial that was given */
    entry **entries;
    uint32_t entry_mask;
    target *first_target;
    uint64_t dry[MOST_DRY];              /* serials of plans that have few turns left */
    uint32_t dry_count;
    denial *denials;
    uint32_t denial_count, denial_size;

    /* pool.c */
    uint32_t servers;
    uint64_t *gone;                      /* servers that Python may close */
    uint32_t gone_count, gone_size;

    /* caller.c */
    uint32_t callers;
    struct caller *first_caller;
    struct up *ups;                      /* callers that have left */
    uint32_t up_count, up_size;
    const struct stream_ends *ends;

    /* call.c, answer.c, send.c, finish.c, body.c */
    uint32_t calls;                      /* in progress */
    uint64_t served, missed;
    struct caller *due_callers;
    struct caller *fed;                  /* caller whose message llhttp reads */
    uint64_t bound[MOST_BOUNDS];         /* of durations, in microseconds */
    uint32_t bounds;
    bool logging;
    buffer log;                          /* records of type `done` */
    buffer refusals;                     /* records of type `refusal` */
    uint8_t chance[1024];                /* random bytes for ids */
    uint32_t chance_left;
    uint64_t dice;                       /* state of `roll` */
    buffer work;                         /* bytes built to be sent at once */
    buffer body;                         /* bytes of chunks, before they are framed anew */

    /* cross.c */
    buffer text, names, whom;            /* heads on their way from one version of HTTP to the other */

    /* relay.c, tunnel.c */
    struct relay *first_relay;
    struct tunnel *first_tunnel, *due_tunnels;
    uint32_t relays, tunnels;
    struct relayed *relayed;             /* relays and tunnels that are over */
    uint32_t relayed_count, relayed_size;
    uint32_t pipes, spare_pipes;
    int spare_pipe[SPARE_PIPES][2];

    /* link.c */
    struct link_ *first_link, *due;
    uint32_t links;
    bool links_told;                     /* Python has to look at some of them */
    void (*link_leaves)(struct lane *l, struct link_ *k);   /* set by tunnel.c */

    uint8_t scratch[SCRATCH];            /* what was read last, by any reader */
} lane;

static inline uint64_t relay_clock(const lane *l) { return l->now + l->skew; }

/* Room to read into. Until the next read all of it may be written. */
static inline uint8_t *scratch_room(lane *l) {
    SHOW(l->scratch, SCRATCH);
    return l->scratch;
}
static inline void scratch_holds(lane *l, size_t size) { HIDE(l->scratch + size, SCRATCH - size); }

bool em_lane_open(lane *l);
void em_lane_close(lane *l);                  /* Python has dropped everything that was carried before */
void em_lane_forget(lane *l);                 /* all plans and everything learned are stale */
void em_lane_tick(lane *l);
bool em_lane_pending(const lane *l);          /* there is something for Python */

/* Nothing is left; something may be left; something is left that no event reports. */
enum { TURN_DONE, TURN_MORE, TURN_SILENT };
int em_lane_turn(lane *l, uint64_t budget);   /* microseconds */

/* Work and wait here while Python would sleep anyway. Return after `longest` (microseconds), when nothing has arrived
 * for `quiet`, when the descriptor `others` shows that Python has work (checked after each slice), or when the fast
 * path has something for Python. Things for Python that can wait are held for `quiet`. */
enum { STAY_QUIET, STAY_SERVED, STAY_CALL };   /* no events; some events; Python has to look at the rest */
int em_lane_stay(lane *l, uint64_t longest, uint64_t quiet, uint64_t slice, int others);
#endif
