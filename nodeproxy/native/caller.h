/* A caller: a connection that sends requests, or one stream of such a connection. How it is taken and handed back. */
#ifndef EDGEMESH_CALLER_H
#define EDGEMESH_CALLER_H

#include "pool.h"

struct link_;
struct stream;

enum { AT_REST, ASKED, ANSWERED };       /* between two requests; request in progress; response has begun */

typedef struct caller {
    side side;
    uint64_t id;
    struct caller **handle;              /* set to NULL when the caller has left the fast path */
    plan *plan;
    struct caller *next, *previous;      /* list of all callers */
    struct caller *next_due;
    uint8_t state;
    server *server;                      /* server of the request in progress */
    target *target;                      /* target of the request in progress */
    struct stream *front;                /* stream of the request, if it came on one: see cross.c */
    struct stream *back;                 /* stream of the response, if the server uses one */
    struct link_ *from;                  /* link of the stream `front`; NULL when the link has left */
    uint32_t from_size;                  /* size of the stream's fields, as the log counts them */
    struct caller *own;                  /* for a stream: where `handle` points */
    uint64_t guest;                      /* Python's number of the caller of a stream */
    uint32_t front_owes, back_owes;      /* stream bytes that were not passed on yet */
    row *row;
    const change *answers;               /* what is done to the fields of the response; the plan holds it */
    llhttp_t parser;
    chunks chunks;                       /* of its request */
    buffer in, out;
    buffer asked;                        /* the head as it came, until the response begins */
    buffer kept;   /* a small body between two streams, likewise: Python may send it again */
    buffer trailers;
    uint64_t began;                      /* start of the request in progress */
    uint64_t deadline;                   /* by relay_clock */
    uint64_t bytes_in, bytes_out;        /* of the request in progress */
    uint64_t total_in, total_out;
    const char *late;                    /* flag when the deadline passes; "": only end the connection */
    int status;
    bool of_stream;                      /* the caller is or was a stream: one call is all */
    bool is_due;                         /* `out` is sent once all events of what its link has read are handled */
    bool head_only;                      /* the request is HEAD */
    bool idempotent;                     /* RFC 9110 section 9.2.2 */
    bool has_body;                       /* the request has a body */
    bool request_done;                   /* the request was read to its end */
    bool response_done;                  /* the response was written to its end */
    bool chunk_request;                  /* the request's body is framed in chunks for the server */
    bool chunk_response;                 /* the response's body is framed in chunks for it */
    bool close;                          /* the connection ends with this response */
    bool last;                           /* the response announced that end; the request may go on */
    bool ended;                          /* the caller sends no more */
    bool held_back;                      /* its unread bytes are handed to Python */
    bool recalled;                       /* Python wants it back when no request is in progress */
    bool denied;                         /* its request was refused here */
    bool unkept;                         /* more bytes were sent on than `kept` holds */
} caller;

/* How a caller left the fast path. */
enum { UP_REQUEST, UP_END, UP_FAILED, UP_RESPONSE };

typedef struct up {
    uint64_t caller, server, target;     /* server 0: none */
    uint64_t began;                      /* 0: no request was in progress */
    int what;
    const char *flag, *detail;
    bool begun;                          /* the response has begun */
    int status;
    uint64_t guest, link;                /* of a stream: Python's number of its caller; its connection */
    int32_t stream, back;                /* back: stream of the response, on connection back_link; 0: none */
    uint64_t back_link;
    bool asked_all;                      /* the whole request was sent to the server */
    uint64_t total_in, total_out, bytes_in, bytes_out;
    buffer data, rest;                   /* from the caller; from the server */
} up;

/* What differs where an end of a call is a stream. cross.c implements it; a lane without these has no such calls. */
typedef struct stream_ends {
    bool (*ready)(target *t);                                           /* a stream to it may be opened */
    bool (*open)(struct lane *l, caller *c, target *t, const head *h);  /* opens `back`. False: nothing was done */
    uint32_t (*waits)(const caller *c);                                 /* bytes on their way to `back` */
    void (*ask)(struct lane *l, caller *c);                             /* `work` goes to `back` */
    void (*give_up)(caller *c);                                         /* nothing needs the rest of the request */
    bool (*head)(struct lane *l, caller *c, const head *h, bool end);   /* the response head goes to `front` */
    void (*answer)(struct lane *l, caller *c);                          /* `work` goes to `front` */
    void (*unneeded)(struct lane *l, caller *c);   /* the server takes no more: does `front` end? */
    void (*read_on)(struct lane *l, caller *c);                         /* owed bytes are credited to the peer */
    void (*up)(caller *c, up *u, int what);   /* its streams are handed over with it, or are reset */
    void (*over)(struct lane *l, caller *c);                            /* the call of `front` went well: it leaves */
} stream_ends;

/* NULL: no memory. Call em_caller_begin next. */
caller *em_caller_new(struct lane *l, const side_kind *kind, int fd, plan *p);
void em_caller_begin(struct lane *l, caller *c, caller **handle);
void em_caller_bury(struct lane *l, caller *c);
void em_caller_release(struct lane *l, side *s);
void em_callers_leave(struct lane *l, const struct link_ *k);                    /* the link is about to go */
void em_deadline(struct lane *l, caller *c, uint64_t after, const char *flag);   /* `after`: microseconds */
void em_call_over(struct lane *l, caller *c);   /* no request is in progress any more */
void em_go_up(struct lane *l, caller *c, int what, const char *flag, const char *detail);
void em_fail(struct lane *l, caller *c, const char *flag, const char *detail);
void em_lane_recall(struct lane *l, caller *c);   /* hand it to Python as soon as no request is in progress */
void em_lane_drop(struct lane *l, caller *c, up *left);                          /* at once, whatever is in progress */
#endif
