/* Decisions that Python made, found again; and which endpoint is next.
 *
 * An entry says that one caller may send requests like this one to one endpoint. Its key is everything that the decision looked at.
 * A new snapshot makes every entry and plan stale in one step: the generation changes. The table is bounded; a newcomer takes the
 * place of whoever is there, so nobody can fill it.
 */
#include <stdlib.h>
#include <string.h>

#include "lane.h"

static uint64_t mix(uint64_t a, uint64_t b) {
    __uint128_t m = (__uint128_t)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint64_t hash_of(uint64_t seed, const uint8_t *p, size_t size) {
    uint64_t h = seed ^ 0x9E3779B97F4A7C15ull ^ size, v;
    for (; size >= 8; p += 8, size -= 8) {
        memcpy(&v, p, 8);
        h = mix(h ^ v, 0xA0761D6478BD642Full);
    }
    v = 0;
    memcpy(&v, p, size);
    return mix(h ^ v, 0xE7037ED1A0B428DBull);
}

static size_t write_key(uint8_t *key, const plan *p, const target *t, const uint8_t *method, size_t method_size, const uint8_t *path,
                        size_t path_size, const uint8_t *host, size_t host_size) {
    memcpy(key, &p->serial, 8);
    memcpy(key + 8, &t->serial, 8);
    size_t at = 16;
    /* None of the three can hold a space: see head.c. */
    memcpy(key + at, method, method_size);
    at += method_size;
    key[at++] = ' ';
    memcpy(key + at, host, host_size);
    at += host_size;
    key[at++] = ' ';
    memcpy(key + at, path, path_size);
    return at + path_size;
}

#define KEY_MOST 1024u      /* longer requests are decided by Python each time */

static bool too_long(size_t method_size, size_t path_size, size_t host_size) { return method_size + path_size + host_size + 32 > KEY_MOST; }

entry *entry_find(lane *l, const plan *p, const target *t, const head *h) {
    uint8_t key[KEY_MOST];
    if (too_long(h->method_size, h->path_size, h->host_size)) return NULL;
    size_t size = write_key(key, p, t, h->method, h->method_size, h->target, h->path_size, h->host, h->host_size);
    uint64_t hash = hash_of(0, key, size);
    entry *e = l->entries[hash & l->entry_mask];
    if (e == NULL || e->hash != hash || e->size != size || e->generation != l->generation || memcmp(e->key, key, size) != 0) return NULL;
    return e;
}

bool entry_learn(lane *l, const plan *p, const target *t, row *r, uint32_t number, const uint8_t *method, size_t method_size, const uint8_t *path,
                 size_t path_size, const uint8_t *host, size_t host_size) {
    uint8_t key[KEY_MOST];
    if (too_long(method_size, path_size, host_size)) return true;
    size_t size = write_key(key, p, t, method, method_size, path, path_size, host, host_size);
    entry *e = malloc(sizeof *e + size);
    if (e == NULL) return false;
    e->hash = hash_of(0, key, size);
    e->generation = l->generation;
    e->size = (uint32_t)size;
    e->row = r;
    e->denial = number;
    memcpy(e->key, key, size);
    free(l->entries[e->hash & l->entry_mask]);
    l->entries[e->hash & l->entry_mask] = e;
    return true;
}

bool denial_new(lane *l, const uint8_t *answer, size_t size, uint32_t head_size, uint32_t id_at) {
    if (l->denial_count == l->denial_size) {
        uint32_t more = l->denial_size ? l->denial_size * 2 : 16;
        denial *grown = realloc(l->denials, more * sizeof *grown);
        if (grown == NULL) return false;
        l->denials = grown;
        l->denial_size = more;
    }
    uint8_t *copy = malloc(size + 1);
    if (copy == NULL) return false;
    memcpy(copy, answer, size);
    l->denials[l->denial_count++] = (denial){copy, (uint32_t)size, head_size, id_at};
    return true;
}

/* Whose turn it is, and of his endpoints the one with the least under way; among equals the next. NULL: Python has to say. */
target *choose(const plan *p) {
    if (p->groups == 0) return NULL;
    const group *g = &p->group[0];
    if (p->groups > 1) {
        if (p->turn >= p->turn_count) return NULL;
        g = &p->group[p->turns[p->turn]];
    }
    target *best = NULL;
    for (uint32_t i = 0; i < g->count; i++) {
        target *t = g->targets[i];
        if (best == NULL || t->in_flight < best->in_flight || (t->in_flight == best->in_flight && t->chosen < best->chosen)) best = t;
    }
    return best;
}

void chosen(lane *l, plan *p, target *t) {
    if (p->groups > 1) p->turn++;
    t->chosen = ++l->serial;
}

plan *plan_new(lane *l, const uint8_t *shown, size_t shown_size, uint32_t groups) {
    plan *p = calloc(1, sizeof *p);
    if (p == NULL) return NULL;
    p->shown = malloc(shown_size + 1);
    p->group = calloc(groups + 1u, sizeof *p->group);
    p->users = 1;
    if (p->shown == NULL || p->group == NULL) {
        plan_free(p);
        return NULL;
    }
    memcpy(p->shown, shown, shown_size);
    p->shown_size = (uint32_t)shown_size;
    p->groups = groups;
    p->serial = ++l->serial;
    p->generation = l->generation;
    return p;
}

void plan_free(plan *p) {
    if (--p->users) return;
    for (uint32_t i = 0; p->group != NULL && i < p->groups; i++) free(p->group[i].targets);
    free(p->group);
    free(p->turns);
    free(p->shown);
    free(p);
}

target *target_new(lane *l) {
    target *t = calloc(1, sizeof *t);
    if (t == NULL) return NULL;
    t->serial = ++l->serial;
    t->users = 1;
    t->next = l->first_target;
    if (t->next != NULL) t->next->previous = t;
    l->first_target = t;
    return t;
}

void target_free(lane *l, target *t) {
    if (--t->users) return;
    if (t->next != NULL) t->next->previous = t->previous;
    if (t->previous != NULL) t->previous->next = t->next;
    else l->first_target = t->next;
    free(t);
}
