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

uint64_t hash_of(uint64_t seed, const uint8_t *p, size_t size) {
    uint64_t h = seed ^ 0x9E3779B97F4A7C15ull ^ size, v;
    for (; size >= 8; p += 8, size -= 8) {
        memcpy(&v, p, 8);
        h = mix(h ^ v, 0xA0761D6478BD642Full);
    }
    v = 0;
    memcpy(&v, p, size);
    return mix(h ^ v, 0xE7037ED1A0B428DBull);
}

/* Walk a path. The table has an arrow for every state and class, so this ends where the path does. */
static uint16_t alike(const program *g, const uint8_t *path, size_t size) {
    uint32_t state = 0;
    for (size_t i = 0; i < size; i++) state = g->next[state * g->width + g->classes[path[i]]];
    return g->alike[state];
}

static size_t write_key(uint8_t *key, const plan *p, const seat *s, const uint8_t *method, size_t method_size, const uint8_t *path,
                        size_t path_size, const uint8_t *host, size_t host_size) {
    memcpy(key, &p->serial, 8);
    memcpy(key + 8, &s->target->serial, 8);
    size_t at = 16;
    /* None of the three can hold a space: see head.c. */
    memcpy(key + at, method, method_size);
    at += method_size;
    key[at++] = ' ';
    memcpy(key + at, host, host_size);
    at += host_size;
    key[at++] = ' ';
    if (s->program != NULL) {
        uint16_t number = alike(s->program, path, path_size);
        memcpy(key + at, &number, sizeof number);
        return at + sizeof number;
    }
    memcpy(key + at, path, path_size);
    return at + path_size;
}

#define KEY_MOST 1024u      /* longer requests are decided by Python each time */

static bool too_long(const seat *s, size_t method_size, size_t path_size, size_t host_size) {
    return method_size + (s->program != NULL ? 2 : path_size) + host_size + 32 > KEY_MOST;
}

entry *entry_find(lane *l, const plan *p, const seat *s, const head *h) {
    uint8_t key[KEY_MOST];
    if (too_long(s, h->method_size, h->path_size, h->host_size)) return NULL;
    size_t size = write_key(key, p, s, h->method, h->method_size, h->target, h->path_size, h->host, h->host_size);
    uint64_t hash = hash_of(0, key, size);
    entry *e = l->entries[hash & l->entry_mask];
    if (e == NULL || e->hash != hash || e->size != size || e->generation != l->generation || memcmp(e->key, key, size) != 0) return NULL;
    return e;
}

bool entry_learn(lane *l, const plan *p, const seat *s, row *r, uint32_t number, const uint8_t *method, size_t method_size, const uint8_t *path,
                 size_t path_size, const uint8_t *host, size_t host_size) {
    uint8_t key[KEY_MOST];
    if (too_long(s, method_size, path_size, host_size)) return true;
    size_t size = write_key(key, p, s, method, method_size, path, path_size, host, host_size);
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
const seat *choose(const plan *p) {
    if (p->groups == 0) return NULL;
    const group *g = &p->group[0];
    if (p->groups > 1) {
        if (p->turn >= p->turn_count) return NULL;
        g = &p->group[p->turns[p->turn]];
    }
    const seat *best = NULL;
    for (uint32_t i = 0; i < g->count; i++) {
        const seat *s = &g->seats[i];
        if (best == NULL || s->target->in_flight < best->target->in_flight ||
            (s->target->in_flight == best->target->in_flight && s->target->chosen < best->target->chosen))
            best = s;
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
        plan_free(l, p);
        return NULL;
    }
    memcpy(p->shown, shown, shown_size);
    p->shown_size = (uint32_t)shown_size;
    p->groups = groups;
    p->serial = ++l->serial;
    p->generation = l->generation;
    return p;
}

void plan_free(lane *l, plan *p) {
    if (--p->users) return;
    for (uint32_t i = 0; p->group != NULL && i < p->groups; i++) {
        for (uint32_t j = 0; j < p->group[i].count; j++) {
            target_free(l, p->group[i].seats[j].target);
            if (p->group[i].seats[j].program != NULL) program_free(p->group[i].seats[j].program);
        }
        free(p->group[i].seats);
    }
    free(p->group);
    free(p->turns);
    free(p->shown);
    free(p);
}

program *program_new(uint32_t states, uint32_t width, const uint8_t *classes, const uint8_t *next, const uint8_t *alike_) {
    program *g = calloc(1, sizeof *g);
    if (g == NULL) return NULL;
    size_t arrows = (size_t)states * width;
    g->users = 1;
    g->states = states;
    g->width = width;
    g->next = malloc(arrows * sizeof *g->next);
    g->alike = malloc(states * sizeof *g->alike);
    bool ok = g->next != NULL && g->alike != NULL;
    if (ok) {
        memcpy(g->classes, classes, sizeof g->classes);
        memcpy(g->next, next, arrows * sizeof *g->next);
        memcpy(g->alike, alike_, states * sizeof *g->alike);
        for (size_t i = 0; i < arrows; i++) ok = ok && g->next[i] < states;
        for (size_t i = 0; i < sizeof g->classes; i++) ok = ok && g->classes[i] < width;
    }
    if (!ok) {
        program_free(g);
        return NULL;
    }
    return g;
}

void program_free(program *g) {
    if (--g->users) return;
    free(g->next);
    free(g->alike);
    free(g);
}

const seat *seat_of(const plan *p, const target *t) {
    for (uint32_t i = 0; i < p->groups; i++)
        for (uint32_t j = 0; j < p->group[i].count; j++)
            if (p->group[i].seats[j].target == t) return &p->group[i].seats[j];
    return NULL;
}

/* Which of them is next is said where a stream is opened: see cross.c. */
void target_link(target *t, struct link_ *k) {
    if (t->link == k) return;
    target_unlink(t, k);
    for (uint32_t i = 0; t->link != NULL && i < MORE_LINKS; i++)
        if (t->more[i] == NULL) {
            t->more[i] = t->link;
            break;
        }
    t->link = k;
}

void target_unlink(target *t, const struct link_ *k) {
    if (k == NULL || t->link == k) t->link = NULL;
    for (uint32_t i = 0; i < MORE_LINKS; i++)
        if (k == NULL || t->more[i] == k) t->more[i] = NULL;
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
