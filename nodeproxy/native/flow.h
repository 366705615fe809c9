/* Decisions that Python made, and the choice of the next endpoint. */
#ifndef EDGEMESH_FLOW_H
#define EDGEMESH_FLOW_H

#include "head.h"

#define CLASSES 6              /* of status: 1xx to 5xx, and 0 for none */
#define MOST_BOUNDS 24         /* buckets of durations */
#define MORE_LINKS 15
#define ID_SIZE 32             /* hexadecimal digits of a refusal's id */
#define NO_DENIAL UINT32_MAX
#define FEW_TURNS 128u         /* are left when Python is asked for more */
#define MOST_DRY 64u           /* plans that ask at the same time */

struct lane;
struct link_;
struct server;

/* Counts for one pair of workloads, seen from one side. */
typedef struct row {
    uint64_t answered[CLASSES], bucket[MOST_BOUNDS + 1], micros, bytes_in, bytes_out;
} row;

/* A response that refuses. The id of each refusal is written at id_at, and in the body at id_again (0: not there). */
typedef struct denial {
    uint8_t *answer;
    uint32_t size, head_size, id_at, id_again;
} denial;

/* One decision: a caller may send requests like this one to one endpoint, or is refused. */
typedef struct entry {
    uint64_t hash;
    uint32_t generation;
    uint32_t size;             /* of the key */
    row *row;                  /* counts of allowed requests */
    uint32_t number;           /* of the denial, NO_DENIAL when allowed; of the section */
    uint8_t key[];
} entry;

/* One endpoint for one caller: its idle server connections, and its calls in progress. */
typedef struct target {
    struct target *next, *previous;      /* list of all targets */
    struct server *resting;              /* idle servers, most recently used first: see pool.c */
    uint64_t serial;                     /* never used again, unlike an address */
    struct link_ *link;                  /* to its node; or to the server itself, where it speaks HTTP/2 */
    struct link_ *more[MORE_LINKS];      /* other links to the same, where one has no room for all streams */
    uint8_t name[64];   /* address and port as that node knows them; empty: the link leads to the server */
    uint32_t name_size;
    uint32_t in_flight;                  /* calls in progress */
    uint32_t rests;                      /* idle servers */
    uint32_t users;
} target;

/* Which paths the rules treat alike: policy/automaton.py. */
typedef struct program {
    _Atomic uint32_t users;              /* plans, and a Python object, which may be freed in another thread */
    uint32_t states, width;
    uint8_t classes[256];
    uint16_t *next;                      /* state * width + class */
    uint16_t *alike;                     /* by state: the same number for states that match the same patterns */
} program;

#define MOST_LOOKS 16u     /* fields and parameters that the rules between two workloads look at */

typedef struct span { const uint8_t *at; uint32_t size; } span;

/* A field, or a parameter of the query, that the rules look at. Requests are alike where its value is the same one of
 * `values`, or none of them; without `values`, where it is the same. */
typedef struct look { span name, *values; uint32_t count; bool parameter; } look;

typedef struct looks {
    _Atomic uint32_t users;              /* as of a program */
    uint32_t count;
    look look[MOST_LOOKS];
    uint8_t *text;                       /* what they point to */
    span *values;
} looks;

/* program NULL: no two paths are alike. looks NULL: only method, Host and path count. */
typedef struct seat { target *target; program *program; looks *looks; } seat;
/* The endpoints of one backend, and what is done to the fields of its requests and responses. */
typedef struct group { seat *seats; uint32_t count; change *asks, *answers; } group;

/* Where requests go to which one rule of a route applies. */
typedef struct section {
    uint32_t first, count;               /* its groups */
    uint8_t *turns;                      /* groups, counted from `first`, in the order of a round; empty: always that */
    uint32_t turn_count, turn;
} section;

/* Where the requests of one caller to one destination may go. */
typedef struct plan {
    uint64_t serial;
    uint32_t generation;                 /* of its snapshot: a plan of an earlier one is stale */
    uint32_t groups, sections, users;
    uint32_t crowd;                      /* scheduling share of the caller */
    group *group;
    section *section;
    bool ruled;                          /* the request says which section: by `program` and `looks`, as in a seat */
    program *program;
    looks *looks;
    uint8_t *shown;                      /* the caller's address as X-Forwarded-For shows it */
    uint32_t shown_size;
} plan;

uint64_t em_hash_of(uint64_t seed, const uint8_t *p, size_t size);

/* NULL: that was not learned. `s` NULL: which section it is, in `number`. */
entry *em_entry_find(struct lane *l, const plan *p, const seat *s, const head *h);
/* `number`: of the denial, or NO_DENIAL; of the section. False: no memory. A request that has no key is not learned. */
bool em_entry_learn(struct lane *l, const plan *p, const seat *s, row *r, uint32_t number, const head *h);
void em_asked(head *out, const uint8_t *method, size_t method_size, const uint8_t *path, size_t path_size,
              const uint8_t *host, size_t host_size);             /* a request without other fields */
/* The number of the new denial is denial_count - 1. False: no memory. */
bool em_denial_new(struct lane *l, const uint8_t *answer, size_t size, uint32_t head_size, uint32_t id_at,
                   uint32_t id_again);

section *em_section_of(struct lane *l, const plan *p, const head *h);   /* NULL: Python has to decide, here and below */
const group *em_group_of(const plan *p, const section *n);        /* the group whose turn it is */
const seat *em_choose(struct lane *l, const group *g);
void em_chosen(struct lane *l, const plan *p, section *n);   /* record it: the next turn begins */
const seat *em_seat_of(const plan *p, const target *t);

program *em_program_new(uint32_t states, uint32_t width, const uint8_t *classes, const uint8_t *next,
                        const uint8_t *alike);
void em_program_free(program *g);                                 /* drop one user */
looks *em_looks_new(uint32_t values, size_t size);                /* room for so many values, and bytes of text */
void em_looks_free(looks *g);                                     /* drop one user */
change *em_change_new(size_t size);
void em_change_free(change *g);                                   /* drop one user */
plan *em_plan_new(struct lane *l, const uint8_t *shown, size_t shown_size, uint32_t groups);
bool em_plan_divide(plan *p, const uint8_t *counts, uint32_t sections);   /* the groups of each section; before use */
void em_plan_free(struct lane *l, plan *p);                       /* drop one user */
target *em_target_new(struct lane *l);
void em_target_free(struct lane *l, target *t);                   /* drop one user */
void em_target_link(target *t, struct link_ *k);                  /* the link leads to this target */
void em_target_unlink(target *t, const struct link_ *k);          /* NULL: all links */
void em_targets_unlink(struct lane *l, const struct link_ *k);    /* from each target */
#endif
