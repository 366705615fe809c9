/* The native lane: HTTP calls between sockets of this node, replayed from decisions that Python made.
 *
 * Who owns what. Python owns every descriptor, and lends it: a caller's connection between two requests (lane_carry), a server's
 * connection at rest (lane_lend). The lane alone reads and writes a lent descriptor, until it is told up or dropped. What the lane
 * does not know for certain it hands up with its bytes untouched: a request before any of it was sent, a response before any of it
 * was answered. So every rule of HTTP that is not plain, and every error that a caller is told, is Python's.
 *
 * One epoll descriptor, no threads, no Python objects. Files: buffer.c bytes; head.c one message head; flow.c decisions; call.c the
 * journey of one call; cross.c and link.c HTTP/2; relay.c and tunnel.c opaque bytes; loop.c events, time and what goes up; module.c the door to Python.
 */
#ifndef EDGEMESH_LANE_H
#define EDGEMESH_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "llhttp/llhttp.h"

#define SCRATCH 65536u     /* read at once */
#define SPARE_PIPES 8u     /* that are kept for the next relay that needs one */
#define MOST_FIELDS 256u   /* of one head, whatever the limits say */
#define CLASSES 6          /* of status: 1xx to 5xx, and 0 for none */
#define MOST_BOUNDS 24     /* buckets of durations */
#define CROWDS 1024u       /* shares of the lane: one for each workload that calls; more of them share */

/* ---- buffer.c: bytes that wait. An empty one owns no memory. ---- */
typedef struct { uint8_t *at; uint32_t begin, end, size; } buffer;
static inline uint32_t held(const buffer *b) { return b->end - b->begin; }
static inline const uint8_t *first(const buffer *b) { return b->at + b->begin; }
bool buffer_room(buffer *b, size_t more);                    /* false: no memory */
static inline bool buffer_add(buffer *b, const void *data, size_t size) {
    if (size == 0) return true;
    if (size > b->size - b->end && !buffer_room(b, size)) return false;
    memcpy(b->at + b->end, data, size);
    b->end += (uint32_t)size;
    return true;
}
static inline bool add_word(buffer *b, const char *word) { return buffer_add(b, word, strlen(word)); }
void buffer_take(buffer *b, uint32_t size);
void buffer_free(buffer *b);

/* ---- head.c: message heads ---- */
typedef struct { const uint8_t *line; uint32_t line_size, name_size; const uint8_t *value; uint32_t value_size; uint8_t kind; } field;
enum { PLAIN, HOST, LENGTH, CHUNKING, CONNECTION, FORWARDED_FOR, FORWARDED_PROTO, TRACE, TRAILERS_OK, ENDS_HERE };
typedef struct {
    const uint8_t *method, *target, *host, *reason;
    uint32_t method_size, target_size, path_size, host_size, reason_size, fields;
    int64_t length;          /* Content-Length; -1: none */
    int status, minor;
    bool chunked, close, has_proto, traced, trailers_ok;   /* trailers_ok: TE: trailers */
    field field[MOST_FIELDS];
} head;
typedef struct { uint32_t head_bytes, header_count, path_bytes; } head_limits;
enum { HEAD_PART = 0, HEAD_ODD = -1 };                        /* else: its size with the empty line */
int64_t read_request(const uint8_t *data, size_t size, const head_limits *limits, head *out);
int64_t read_response(const uint8_t *data, size_t size, const head_limits *limits, head *out);
bool write_request(buffer *out, const head *h, const uint8_t *shown, size_t shown_size);
bool write_forwarded_for(buffer *out, const head *h, const uint8_t *shown, size_t shown_size);
bool write_response(buffer *out, const head *h, int64_t length, bool chunked, bool close);
#define DECIMAL 24u
size_t decimal(char *to, uint64_t number);                         /* writes its digits, answers how many */
bool trailer_travels(const uint8_t *name, size_t size);
bool same_word(const uint8_t *a, size_t size, const char *word);   /* ASCII case is ignored */

/* ---- flow.c: decisions ---- */
typedef struct row {            /* counts for one pair of workloads, seen from one side */
    uint64_t answered[CLASSES], bucket[MOST_BOUNDS + 1], micros, bytes_in, bytes_out;
} row;
typedef struct denial {         /* an answer that says no; the id of each refusal is put in at id_at */
    uint8_t *answer;
    uint32_t size, head_size, id_at;
} denial;
enum { ID_SIZE = 32 };
typedef struct entry {
    uint64_t hash;
    uint32_t generation, size;
    struct row *row;            /* of what is allowed */
    uint32_t denial;            /* number of the answer, NO_DENIAL for what is allowed */
    uint8_t key[];
} entry;
#define NO_DENIAL UINT32_MAX
#define MORE_LINKS 15
typedef struct target {         /* one endpoint for one caller: servers at rest, and what is under way */
    struct target *next, *previous;      /* all */
    struct server *resting;     /* the one used last first */
    uint64_t serial;            /* never used again, unlike an address */
    uint64_t chosen;            /* when: of those that are equally busy, the one chosen longest ago is next */
    struct link_ *link;         /* to its node, where it is on another one; to itself, where it is asked in HTTP/2 */
    struct link_ *more[MORE_LINKS];      /* others to the same, where one has no room for all streams */
    uint8_t name[64];           /* how that node knows it: address and port; empty: the link leads to the server itself */
    uint32_t name_size;
    uint32_t in_flight, rests, users;
} target;
typedef struct program {        /* which paths are alike for the rules: policy/automaton.py */
    uint32_t users, states, width;
    uint8_t classes[256];
    uint16_t *next;             /* state * width + class */
    uint16_t *alike;            /* by state: the same number for states that the same patterns fit */
} program;
typedef struct seat { target *target; program *program; } seat;     /* program NULL: each path is another */
typedef struct group { seat *seats; uint32_t count; } group;        /* the endpoints of one backend */
typedef struct plan {           /* where the requests of one caller to one destination may go */
    uint64_t serial;
    uint32_t generation, groups, users, crowd;
    group *group;
    uint8_t *turns;             /* groups in the order of a round; empty: the first */
    uint32_t turn_count, turn;
    uint8_t *shown;             /* the caller's address as X-Forwarded-For says it */
    uint32_t shown_size;
} plan;

/* ---- call.c and loop.c ---- */
typedef struct { uint8_t kind; bool gone, absent; int fd; uint32_t events; } side;   /* absent: not in the epoll set for now */
enum { CALLER, SERVER, RELAYED, LINKED, TUNNELLED, OTHERS };    /* the last: what Python waits for, see lane_stay */
enum { AT_REST, ASKED, ANSWERED };                   /* of a caller */

typedef struct server {
    side side;
    uint64_t id;
    target *target;
    struct server *next, *previous;      /* at rest */
    struct caller *caller;               /* whom it answers; NULL at rest */
    uint64_t since;
    llhttp_t parser;
    buffer in, out;
    bool used, broken;
} server;

typedef struct caller {
    side side;
    uint64_t id;
    struct caller **handle;              /* set to NULL when it has left the lane */
    plan *plan;
    struct caller *next, *previous;      /* all */
    struct caller *again;                /* bytes are here that no event will tell of */
    struct caller *next_due;
    bool is_again, is_due;               /* due: `out` is to be sent when what its link has read is all told */
    uint8_t state;
    server *server;
    target *target;                      /* of the request under way */
    struct stream *front, *back;         /* it is a stream itself; it is answered by one; both. See cross.c */
    struct link_ *from;                  /* whose stream it is */
    uint32_t from_size;                  /* of its fields, as they count in the log */
    struct caller *own;                  /* what `handle` is, for a stream */
    uint64_t guest;                      /* as whom Python knows the caller of a stream */
    uint32_t front_owes, back_owes;      /* bytes of a stream that were not passed on yet */
    row *row;
    llhttp_t parser;
    buffer in, out, asked, trailers;     /* asked: the head as it came, until the response begins */
    buffer kept;                         /* a small body that went on from stream to stream, likewise: it may have to be asked again */
    uint64_t since, deadline, began;     /* microseconds */
    uint64_t bytes_in, bytes_out;        /* of the request under way */
    uint64_t total_in, total_out;
    const char *late;                    /* the flag of running into the deadline; "": just the end */
    int status;
    bool head_only, idempotent, has_body, request_done, response_done, chunk_request, chunk_response, close, ended, held_back, recalled, denied, unkept;
} caller;   /* unkept: more went on than `kept` holds */

enum { UP_REQUEST, UP_END, UP_FAILED, UP_RESPONSE };
typedef struct up {
    uint64_t caller, server, target;     /* server 0: none */
    uint64_t began;                      /* 0: no request was under way */
    int what;
    const char *flag, *detail;
    bool begun;
    int status;
    uint64_t guest, link;                /* of a stream: who calls; of which connection it is */
    int32_t stream, back;                /* back: which answers, of the connection back_link; 0: none */
    uint64_t back_link;
    bool asked_all;                      /* the whole request went there */
    uint64_t total_in, total_out, bytes_in, bytes_out;
    buffer data, rest;                   /* of the caller; of the server */
} up;

typedef struct refusal {                 /* one that was answered. The request line follows. */
    uint64_t caller, target, bytes_in, bytes_out;
    uint32_t denial, text_size;
    char id[ID_SIZE];
} refusal;

typedef struct done {                    /* a request that is over, for the log. Its request line follows. */
    uint64_t caller, guest, target, micros, bytes_in, bytes_out;
    uint32_t status, text_size;
} done;

/* ---- relay.c: opaque bytes between two sockets ---- */
enum { LEFT, RIGHT };                                /* the caller's; the server's */
enum { RELAY_DONE, LEFT_BROKEN, RIGHT_BROKEN, RELAY_IDLE };   /* tunnel.h has more */
typedef struct half {                /* one end, and what waits to go there */
    side side;
    struct relay *relay;
    buffer waiting;                      /* to be sent to it */
    int pipe[2];                         /* likewise, where bytes come fast; -1: none */
    uint32_t piped;
    uint64_t passed;                     /* bytes that went to it */
    bool ended, told, fast, never_fast;  /* ended: it sends no more; told: that the other one does not */
} half;
typedef struct relay {
    half half[2];
    uint64_t id;
    struct relay **handle;               /* set to NULL when it has left the lane */
    struct relay *next, *previous;
    uint64_t since, idle;                /* when bytes moved last, by relay_clock */
    bool moved;                          /* since Python asked */
} relay;
typedef struct relayed { uint64_t id, left_to_right, right_to_left; int what, error; } relayed;

typedef struct settings {
    head_limits head;
    uint32_t buffer_bytes, rest_per_target;
    uint64_t keepalive_timeout, response_timeout, idle_timeout, rest_timeout;   /* microseconds */
} settings;

typedef struct lane {
    int epoll, outer;                    /* outer: for Python to wait for; `epoll` is in it */
    side others;
    bool called;                         /* by `others` */
    settings set;
    uint64_t now, budget_end;
    uint32_t generation, callers, calls, servers;
    caller *first_caller, *again, *due_callers, *dead_callers;
    server *dead_servers;
    target *first_target;
    uint64_t serial;
    entry **entries;
    uint32_t entry_mask;
    uint64_t bound[MOST_BOUNDS];         /* microseconds */
    uint32_t bounds;
    uint64_t served, missed;
    up *ups;
    uint32_t up_count, up_size;
    uint64_t *gone;                      /* servers that Python may close */
    uint32_t gone_count, gone_size;
    relay *first_relay, *dead_relays;
    relayed *relayed;                    /* relays and tunnels that are over */
    struct tunnel *first_tunnel, *due_tunnels, *dead_tunnels;
    uint32_t tunnels;
    uint32_t relays, relayed_count, relayed_size, pipes, spare_pipes;
    int spare_pipe[SPARE_PIPES][2];
    struct link_ *first_link, *due, *dead_links;
    uint32_t links;
    bool links_told;                     /* Python is to look at some of them */
    uint64_t skew;                       /* from our clock to the one that relays are timed by: a test's may leap */
    bool logging;
    uint8_t share[CROWDS];               /* events that were handled in this round */
    uint32_t next_event;                 /* with which of its events a round begins */
    buffer log;                          /* of `done` */
    buffer refusals;
    denial *denials;
    uint32_t denial_count, denial_size;
    uint8_t chance[1024];                /* for ids */
    uint32_t chance_left;
    buffer work;                         /* what is built to be sent at once */
    buffer text, names, whom;            /* heads that cross from one version of HTTP to the other */
    uint8_t scratch[SCRATCH];
    bool no_memory;
    llhttp_settings_t asks, answers;
} lane;

uint64_t micros_now(void);
uint64_t hash_of(uint64_t seed, const uint8_t *p, size_t size);

entry *entry_find(lane *l, const plan *p, const seat *s, const head *h);
bool entry_learn(lane *l, const plan *p, const seat *s, row *r, uint32_t number, const uint8_t *method, size_t method_size, const uint8_t *path,
                 size_t path_size, const uint8_t *host, size_t host_size);
bool denial_new(lane *l, const uint8_t *answer, size_t size, uint32_t head_size, uint32_t id_at);   /* its number is denial_count - 1 */
const seat *choose(const plan *p);
program *program_new(uint32_t states, uint32_t width, const uint8_t *classes, const uint8_t *next, const uint8_t *alike);
void program_free(program *g);                                /* one user less */
const seat *seat_of(const plan *p, const target *t);
void chosen(lane *l, plan *p, target *t);                     /* it is: the next turn begins */

plan *plan_new(lane *l, const uint8_t *shown, size_t shown_size, uint32_t groups);
void plan_free(lane *l, plan *p);                                      /* one user less */
target *target_new(lane *l);
void target_free(lane *l, target *t);                         /* one user less */

bool lane_open(lane *l);
void lane_close(lane *l);
void lane_callbacks(lane *l);
enum { TURN_DONE, TURN_MORE, TURN_SILENT };                   /* nothing is left; perhaps something is; something is that no event tells of */
int lane_turn(lane *l, uint64_t budget);
/* While Python would sleep anyway: work and wait here, in one place. Ends after `longest` (microseconds), when nothing has come for
 * `quiet`, when the descriptor `others` tells that Python has work, which is looked at after each slice, or when the lane has something
 * for Python: of that, what can wait does for `quiet`. */
enum { STAY_QUIET, STAY_SERVED, STAY_CALL };   /* nothing came; something did; Python is to look: at what is left, or at its clock */
int lane_stay(lane *l, uint64_t longest, uint64_t quiet, uint64_t slice, int others);
bool lane_pending(const lane *l);                             /* there is something for Python */
void lane_tick(lane *l);
caller *caller_of_stream(lane *l, struct stream *s, struct link_ *k, plan *p, uint64_t guest);
bool lane_carry(lane *l, uint64_t id, int fd, plan *p, const uint8_t *data, size_t size, caller **handle);
bool lane_lend(lane *l, uint64_t id, int fd, target *t);
uint64_t lane_reclaim(lane *l, target *t);                    /* a server that rests goes back; 0: none rests */
void lane_recall(lane *l, caller *c);                         /* up it goes, as soon as no request is under way */
void lane_drop(lane *l, caller *c, up *left);                 /* now, whatever is under way */

void caller_readable(lane *l, caller *c);
void caller_writable(lane *l, caller *c);
void server_readable(lane *l, server *s);
void server_writable(lane *l, server *s);
void caller_late(lane *l, caller *c);
void callers_flush(lane *l);                                  /* those who are due */
void caller_next(lane *l, caller *c);
void caller_more(lane *l, caller *c);                         /* what was kept of its body goes on */
int64_t begin_call(lane *l, caller *c, const uint8_t *data, size_t size, const head *h, int64_t head_size);
void finish(lane *l, caller *c);
void request_ended(lane *l, caller *c);
void call_over(lane *l, caller *c);
void stream_caller_over(lane *l, caller *c);
void fail(lane *l, caller *c, const char *flag, const char *detail);
bool add_end(lane *l, caller *c);                             /* of a chunked body */
bool framed(lane *l, const void *data, size_t size, bool chunked);   /* puts it into `work` */
void to_caller(lane *l, caller *c);                           /* `work` goes there */
void to_server(lane *l, caller *c);
void response_head(lane *l, caller *c, server *s, const uint8_t *data, size_t size);
void deadline(lane *l, caller *c, uint64_t after, const char *flag);
void come_again(lane *l, caller *c);

/* ---- cross.c: the end of a call that is a stream ---- */
bool back_ready(target *t);
void target_link(target *t, struct link_ *k);                 /* it is one of those that lead there */
void target_unlink(target *t, const struct link_ *k);         /* NULL: all */
bool back_open(lane *l, caller *c, target *t, const head *h); /* false: nothing was done */
uint32_t back_waits(const caller *c);                         /* bytes on their way to whoever answers */
void back_send(lane *l, caller *c);
void back_give_up(caller *c);
bool front_head(lane *l, caller *c, const head *h, bool end);
void front_send(lane *l, caller *c);
void streams_up(caller *c, up *u, int what);                  /* its streams leave with it, or are reset */
void streams_read_on(lane *l, caller *c);                     /* what was owed is given back */
void go_up(lane *l, caller *c, int what, const char *flag, const char *detail);
void watch(lane *l, side *s, void *owner, uint32_t events);
void server_close(lane *l, server *s);
void server_rest(lane *l, server *s);
void server_unrest(server *s);
bool enter(lane *l, side *s, void *owner);
void leave(lane *l, side *s);

/* What was read of `left` before is first_bytes[LEFT]. False: errno says why. */
bool lane_relay(lane *l, uint64_t id, const int fd[2], const buffer first_bytes[2], uint64_t idle, relay **handle);
void relay_drop(lane *l, relay *r);                           /* now */
void relay_event(lane *l, half *e, uint32_t events);
void relays_tick(lane *l);
void relay_tell(lane *l, relayed how);                        /* it is over */
void relay_pipes_close(lane *l);
static inline uint64_t relay_clock(const lane *l) { return l->now + l->skew; }
#endif
