/* The fast path as a whole: see lane.h. Only this file knows all its parts. */
#include "lane.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "cross.h"
#include "link.h"
#include "relay.h"
#include "tunnel.h"

#define ENTRIES 8192u

/* What was read in one round is sent on in as few writes as possible. */
static bool flush(lane *l, uint64_t end) {
    em_callers_flush(l);
    em_tunnels_flush(l);
    em_links_flush(l, end);
    em_tunnels_flush(l);
    return l->due != NULL;
}

bool em_lane_open(lane *l) {
    l->flush = flush;
    l->ends = &em_stream_ends;
    l->link_leaves = em_tunnels_leave;
    l->entry_mask = ENTRIES - 1;
    l->entries = calloc(ENTRIES, sizeof *l->entries);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->outer = epoll_create1(EPOLL_CLOEXEC);
    l->generation = 1;
    l->now = em_micros_now();
    struct epoll_event e = {.events = EPOLLIN};
    return l->entries != NULL && l->epoll >= 0 && l->outer >= 0 &&
           epoll_ctl(l->outer, EPOLL_CTL_ADD, l->epoll, &e) == 0;
}

void em_lane_close(lane *l) {
    em_sweep(l);
    em_relay_pipes_close(l);
    free(l->relayed);
    for (uint32_t i = 0; l->entries != NULL && i < ENTRIES; i++) free(l->entries[i]);
    free(l->entries);
    for (uint32_t i = 0; i < l->up_count; i++) {
        em_buffer_free(&l->ups[i].data);
        em_buffer_free(&l->ups[i].rest);
    }
    free(l->ups);
    free(l->gone);
    em_buffer_free(&l->work);
    em_buffer_free(&l->body);
    em_buffer_free(&l->text);
    em_buffer_free(&l->names);
    em_buffer_free(&l->whom);
    em_buffer_free(&l->log);
    em_buffer_free(&l->refusals);
    for (uint32_t i = 0; i < l->denial_count; i++) free(l->denials[i].answer);
    free(l->denials);
    if (l->outer >= 0) close(l->outer);
    if (l->epoll >= 0) close(l->epoll);
}

void em_lane_forget(lane *l) {
    l->generation++;
    em_targets_unlink(l, NULL);
}

bool em_lane_pending(const lane *l) {
    return l->up_count || l->gone_count || l->relayed_count || l->links_told || l->dry_count || held(&l->log) ||
           held(&l->refusals);
}

/* Work is left that no event reports. */
static bool silent(const lane *l) { return l->again != NULL || l->due != NULL; }

int em_lane_turn(lane *l, uint64_t budget) {
    uint64_t end = em_micros_now() + budget;
    l->now = end - budget;
    bool more = true;
    while (more && l->now < end) more = em_round(l, end - l->now, 0);
    return silent(l) ? TURN_SILENT : more ? TURN_MORE : TURN_DONE;
}

/* There is something that Python has to handle at once; the rest of what is pending can wait for a moment. */
static bool urgent(const lane *l) {
    return l->up_count || l->relayed_count || l->links_told || l->dry_count ||
           held(&l->log) + held(&l->refusals) > SCRATCH;
}

static void others_event(lane *l, side *s, uint32_t events) {
    (void)s, (void)events;
    l->called = true;
}

static const side_kind others_kind = {.event = others_event, .crowd = crowd_of_one};

int em_lane_stay(lane *l, uint64_t longest, uint64_t quiet, uint64_t slice, int others) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &l->others};
    l->others = (side){.kind = &others_kind, .fd = others};
    /* Remove our own descriptor from those that Python waits for. Otherwise it would count as Python's work, and the
     * two would wait for each other. */
    epoll_ctl(l->outer, EPOLL_CTL_DEL, l->epoll, NULL);
    l->called = epoll_ctl(l->epoll, EPOLL_CTL_ADD, others, &e) != 0;
    bool here = !l->called, more = true, worked = false;
    uint64_t begun = em_micros_now(), end = begun + longest, last = begun;
    l->now = begun;
    while (!l->called && l->now < end && !urgent(l) && !(l->now > begun + quiet && em_lane_pending(l))) {
        uint64_t wait = last + quiet < end ? last + quiet : end;
        if (!more && l->now >= wait) break;
        more = em_round(l, slice, more ? 0 : (int)((wait - l->now + 999) / 1000));
        if (more) last = l->now;
        worked = worked || more;
    }
    if (here) epoll_ctl(l->epoll, EPOLL_CTL_DEL, others, NULL);
    e.data.ptr = NULL;
    epoll_ctl(l->outer, EPOLL_CTL_ADD, l->epoll, &e);
    if (silent(l) || em_lane_pending(l) || (worked && l->now > begun + quiet))
        return STAY_CALL;   /* the clock has moved since Python read it */
    return worked ? STAY_SERVED : STAY_QUIET;
}

void em_lane_tick(lane *l) {
    l->now = em_micros_now();
    em_callers_tick(l);
    em_pool_tick(l);
    em_relays_tick(l);
    em_tunnels_tick(l);
    em_links_tick(l);
    em_sweep(l);
}
