/* Callers: see caller.h. */
#include "caller.h"

#include <stdlib.h>
#include <string.h>

#include "lane.h"

/* Reserve a place to report the end of each caller, when it is taken. So there is always memory for the report. */
static bool up_room(lane *l) {
    if (l->up_count + l->callers < l->up_size) return true;
    uint32_t size = l->up_size ? l->up_size * 2 : 64;
    up *grown = realloc(l->ups, size * sizeof *grown);
    if (grown == NULL) return false;
    l->ups = grown;
    l->up_size = size;
    return true;
}

caller *em_caller_new(lane *l, const side_kind *kind, int fd, plan *p) {
    caller *c = up_room(l) ? calloc(1, sizeof *c) : NULL;
    if (c == NULL) return NULL;
    c->side.kind = kind;
    c->side.fd = fd;
    c->plan = p;
    c->late = "";
    return c;
}

void em_caller_begin(lane *l, caller *c, caller **handle) {
    c->plan->users++;
    l->callers++;
    c->next = l->first_caller;
    if (c->next != NULL) c->next->previous = c;
    l->first_caller = c;
    c->handle = handle;
    *handle = c;
}

void em_caller_bury(lane *l, caller *c) {
    em_buffer_free(&c->in);
    em_buffer_free(&c->out);
    em_buffer_free(&c->asked);
    em_buffer_free(&c->trailers);
    em_buffer_free(&c->chunks.trailers);
    em_buffer_free(&c->kept);
    if (c->next != NULL) c->next->previous = c->previous;
    if (c->previous != NULL) c->previous->next = c->next;
    else l->first_caller = c->next;
    *c->handle = NULL;
    em_plan_free(l, c->plan);
    l->callers--;
    em_bury(l, &c->side);
}

void em_caller_release(lane *l, side *s) {
    (void)l;
    free(s);
}

/* The callers of a link that is about to go forget it. */
void em_callers_leave(lane *l, const struct link_ *k) {
    for (caller *c = l->first_caller; c != NULL; c = c->next)
        if (c->from == k) c->from = NULL;
}

void em_deadline(lane *l, caller *c, uint64_t after, const char *flag) {
    c->deadline = relay_clock(l) + after;
    c->late = flag;
}

void em_call_over(lane *l, caller *c) {
    c->target->in_flight--;
    l->calls--;
    em_target_free(l, c->target);
    c->target = NULL;
    c->server = NULL;
    em_buffer_free(&c->asked);
}

/* Fill in the report of a caller that leaves, and move its bytes there. */
static void tell(lane *l, caller *c, up *u, int what, const char *flag, const char *detail) {
    if (c->state >= ASKED && what != UP_END && !buffer_add(&c->asked, first(&c->in), held(&c->in)) &&
        what != UP_FAILED) {
        what = UP_FAILED;   /* an incomplete request is not retried */
        flag = "internal";
        detail = "no memory";
    }
    memset(u, 0, sizeof *u);
    u->caller = c->id;
    u->guest = c->guest;
    u->what = what;
    u->flag = flag;
    u->detail = detail;
    u->total_in = c->total_in;
    u->total_out = c->total_out;
    server *s = c->server;
    if (c->state >= ASKED && what != UP_END) {
        u->begun = c->state == ANSWERED;
        u->began = c->began;
        u->status = c->status;
        u->bytes_in = c->bytes_in;
        u->bytes_out = c->bytes_out;
        u->data = c->asked;
        memset(&c->asked, 0, sizeof c->asked);
    } else {
        u->data = c->in;
        memset(&c->in, 0, sizeof c->in);
    }
    if (c->target != NULL) u->target = c->target->serial;
    if (s != NULL) {
        if (what == UP_RESPONSE) {
            u->server = s->id;
            u->rest = s->in;
            memset(&s->in, 0, sizeof s->in);
            em_server_bury(l, s);
        } else {
            em_server_close(l, s);
        }
        s->caller = NULL;
    }
    u->asked_all = c->request_done;
    if (c->of_stream || c->back != NULL) l->ends->up(c, u, what);
    if (c->target != NULL) em_call_over(l, c);
}

void em_go_up(lane *l, caller *c, int what, const char *flag, const char *detail) {
    tell(l, c, &l->ups[l->up_count++], what, flag, detail);   /* up_room has reserved the place */
    em_caller_bury(l, c);
}

void em_fail(lane *l, caller *c, const char *flag, const char *detail) { em_go_up(l, c, UP_FAILED, flag, detail); }

void em_lane_recall(lane *l, caller *c) {
    c->recalled = true;
    if (!c->of_stream && c->state < ASKED && held(&c->out) == 0) em_go_up(l, c, UP_REQUEST, "", "");
}

void em_lane_drop(lane *l, caller *c, up *left) {
    tell(l, c, left, UP_FAILED, "", "");
    em_caller_bury(l, c);
}
