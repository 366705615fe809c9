/* Idle servers: see pool.h. */
#include "pool.h"

#include <stdlib.h>
#include <sys/epoll.h>

#include "lane.h"

void em_server_unrest(server *s) {
    target *t = s->target;
    if (s->next != NULL) s->next->previous = s->previous;
    if (s->previous != NULL) s->previous->next = s->next;
    else t->resting = s->next;
    s->next = s->previous = NULL;
    t->rests--;
}

void em_server_bury(lane *l, server *s) {
    if (s->caller == NULL && (s->previous != NULL || s->target->resting == s)) em_server_unrest(s);
    em_buffer_free(&s->in);
    em_buffer_free(&s->out);
    em_buffer_free(&s->chunks.trailers);
    em_target_free(l, s->target);
    l->servers--;
    em_bury(l, &s->side);
}

void em_server_release(lane *l, side *s) {
    (void)l;
    free(s);
}

/* Reserve a place to report the end of each server, when it is lent. */
static bool gone_room(lane *l) {
    if (l->gone_count + l->servers < l->gone_size) return true;
    uint32_t size = l->gone_size ? l->gone_size * 2 : 64;
    uint64_t *grown = realloc(l->gone, size * sizeof *grown);
    if (grown == NULL) return false;
    l->gone = grown;
    l->gone_size = size;
    return true;
}

void em_server_close(lane *l, server *s) {
    l->gone[l->gone_count++] = s->id;   /* gone_room has reserved the place */
    em_server_bury(l, s);
}

/* An idle server has closed, or sends unasked bytes. */
static void rest_event(lane *l, side *s, uint32_t events) {
    (void)events;
    em_server_close(l, (server *)s);
}

static uint32_t rest_crowd(const side *s) {
    (void)s;
    return 0;
}

static const side_kind resting = {.event = rest_event, .crowd = rest_crowd, .release = em_server_release};

void em_server_rest(lane *l, server *s) {
    target *t = s->target;
    s->side.kind = &resting;
    s->since = relay_clock(l);
    s->used = true;
    s->next = t->resting;
    s->previous = NULL;
    if (s->next != NULL) s->next->previous = s;
    t->resting = s;
    t->rests++;
    em_watch(l, &s->side, EPOLLIN);
    if (t->rests > l->set.rest_per_target) {
        server *oldest = s;
        while (oldest->next != NULL) oldest = oldest->next;
        em_server_close(l, oldest);
    }
}

bool em_lane_lend(lane *l, uint64_t id, int fd, target *t) {
    server *s = gone_room(l) ? calloc(1, sizeof *s) : NULL;
    if (s == NULL) return false;
    s->side.kind = &resting;
    s->side.fd = fd;
    s->id = id;
    s->target = t;
    if (!em_enter(l, &s->side)) {
        free(s);
        return false;
    }
    t->users++;
    l->servers++;
    s->used = true;
    em_server_rest(l, s);
    return true;
}

uint64_t em_lane_reclaim(lane *l, target *t) {
    server *s = t->resting;
    if (s == NULL) return 0;
    uint64_t id = s->id;
    em_server_bury(l, s);
    return id;
}

void em_pool_tick(lane *l) {
    for (target *t = l->first_target, *next; t != NULL; t = next) {
        next = t->next;
        t->users++;
        for (server *s = t->resting, *after; s != NULL; s = after) {
            after = s->next;
            if (relay_clock(l) > s->since + l->set.rest_timeout) em_server_close(l, s);
        }
        em_target_free(l, t);
    }
}
