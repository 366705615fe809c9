/* Events: see loop.h. */
#include "loop.h"

#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "lane.h"

#define EVENTS 256
#define SHARE 16            /* events of one share in a round, while others wait */

uint64_t em_micros_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

bool em_enter(lane *l, side *s) {
    s->events = EPOLLIN | s->kind->events;
    struct epoll_event e = {.events = s->events, .data.ptr = s};
    return epoll_ctl(l->epoll, EPOLL_CTL_ADD, s->fd, &e) == 0;
}

void em_watch(lane *l, side *s, uint32_t events) {
    if (s->events == events || s->gone) return;
    if (s->fd < 0) {   /* a stream, which has no events */
        s->events = events;
        return;
    }
    struct epoll_event e = {.events = events, .data.ptr = s};
    epoll_ctl(l->epoll, s->absent ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, s->fd, &e);
    s->absent = false;
    s->events = events;
}

void em_unwatch(lane *l, side *s) {
    epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
    s->absent = true;
    s->events = 0;
}

void em_bury(lane *l, side *s) {
    if (s->fd >= 0 && !s->absent) epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
    s->gone = true;
    s->next_dead = l->dead;
    l->dead = s;
}

void em_again(lane *l, side *s) {
    if (s->is_again) return;
    s->is_again = true;
    s->next_again = l->again;
    l->again = s;
}

void em_sweep(lane *l) {
    while (l->dead != NULL) {
        side *s = l->dead;
        l->dead = s->next_dead;
        if (s->is_again) {
            side **at = &l->again;
            while (*at != s) at = &(*at)->next_again;
            *at = s->next_again;
        }
        s->kind->release(l, s);
    }
}

/* Handle one round of events. Where several shares have events, each gets a part of the round, and its further events
 * come again. So a flood in one share does not delay the others for longer than its part. When the time is up the next
 * round begins with the remaining events: the kernel takes turns only among more events than it can report at once. */
static void handle_round(lane *l, const struct epoll_event *events, int count, uint64_t end) {
    bool several = false;
    const side *one = events[0].data.ptr;
    uint32_t only = one->kind->crowd(one);
    for (int i = 1; i < count && !several; i++) {
        one = events[i].data.ptr;
        several = one->kind->crowd(one) != only;
    }
    if (several) memset(l->share, 0, sizeof l->share);
    uint32_t first_of_all = l->next_event;
    l->next_event = 0;
    for (int i = 0; i < count; i++) {
        const struct epoll_event *event = &events[(first_of_all + (uint32_t)i) % (uint32_t)count];
        side *s = event->data.ptr;
        if (s->gone) continue;
        if (several) {
            uint8_t *share = &l->share[s->kind->crowd(s)];
            if (*share >= SHARE) continue;
            ++*share;
        }
        bool is_long = s->kind->is_long;
        s->kind->event(l, s, event->events);
        if ((i & 7) == 7 || is_long) {
            l->now = em_micros_now();
            if (l->now >= end) {
                l->next_event = (first_of_all + (uint32_t)i + 1) % (uint32_t)count;
                return;
            }
        }
    }
}

/* Handle sides whose next bytes are here already: pipelined requests are served in the order of arrival. */
static void again_round(lane *l, bool others) {
    side *s = l->again;
    l->again = NULL;
    for (int i = 0; s != NULL && !(others && i == SHARE); i++) {
        side *next = s->next_again;
        s->is_again = false;
        s->next_again = NULL;
        if (!s->gone) s->kind->again(l, s);
        s = next;
    }
    if (s == NULL) return;
    side *last = s;   /* sides that have waited come before those that come back now */
    while (last->next_again != NULL) last = last->next_again;
    last->next_again = l->again;
    l->again = s;
}

bool em_round(lane *l, uint64_t budget, int wait) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(l->epoll, events, EVENTS, wait);
    if (count < 0) count = 0;
    l->now = em_micros_now();
    uint64_t end = l->now + budget;
    if (count > 0) handle_round(l, events, count, end);
    again_round(l, count > 0);
    bool more = l->flush(l, end);
    em_sweep(l);
    l->now = em_micros_now();
    return count > 0 || l->again != NULL || more;
}
