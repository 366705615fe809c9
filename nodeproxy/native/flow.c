/* Lookup of decisions that Python made, and the choice of the next endpoint.
 *
 * An entry says that one caller may send requests like this one to one endpoint. Its key is everything that the
 * decision looked at. A new snapshot makes every entry and plan stale in one step: the generation changes. The table is
 * bounded; a new entry replaces the one in its place, so no caller can fill it.
 */
#include "flow.h"

#include <stdlib.h>
#include <string.h>

#include "lane.h"

static uint64_t mix(uint64_t a, uint64_t b) {
    __uint128_t m = (__uint128_t)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

uint64_t em_hash_of(uint64_t seed, const uint8_t *p, size_t size) {
    uint64_t h = seed ^ 0x9E3779B97F4A7C15ull ^ size, v;
    for (; size >= 8; p += 8, size -= 8) {
        memcpy(&v, p, 8);
        h = mix(h ^ v, 0xA0761D6478BD642Full);
    }
    v = 0;
    memcpy(&v, p, size);
    return mix(h ^ v, 0xE7037ED1A0B428DBull);
}

/* Walk a path. The table has a transition for every state and class, so the walk ends at the end of the path. */
static uint16_t alike(const program *g, const uint8_t *path, size_t size) {
    uint32_t state = 0;
    for (size_t i = 0; i < size; i++) state = g->next[state * g->width + g->classes[path[i]]];
    return g->alike[state];
}

#define KEY_MOST 1024u      /* longer requests are decided by Python each time */

/* Find the value of a field. False where Python has to look: there are several, or it is not sent on as it came. */
static bool field_value(const head *h, const look *k, span *value) {
    if (k->name.size == 4 && memcmp(k->name.at, "host", 4) == 0) {
        *value = (span){h->host, h->host_size};
        return true;
    }
    for (uint32_t i = 0; i < h->fields; i++) {
        const field *f = &h->field[i];
        if (!em_same_name(f, k->name.at, k->name.size)) continue;
        if (value->at != NULL || (f->kind != PLAIN && f->kind != TRACE)) return false;
        *value = (span){f->value, f->value_size};
    }
    return true;
}

/* Find the first value of a parameter, as policy/match.py does. False where Python has to look: there are escapes. */
static bool parameter_value(const head *h, const look *k, span *value) {
    const uint8_t *at = h->target + h->path_size, *end = h->target + h->target_size;
    if (memchr(at, '%', (size_t)(end - at)) != NULL || memchr(at, '+', (size_t)(end - at)) != NULL) return false;
    while (at < end) {
        at++;   /* the "?" or "&" before it */
        const uint8_t *stop = memchr(at, '&', (size_t)(end - at));
        if (stop == NULL) stop = end;
        const uint8_t *is = memchr(at, '=', (size_t)(stop - at));
        const uint8_t *name_end = is == NULL ? stop : is;
        if (stop > at && (size_t)(name_end - at) == k->name.size && memcmp(at, k->name.at, k->name.size) == 0) {
            *value = is == NULL ? (span){stop, 0} : (span){is + 1, (uint32_t)(stop - is - 1)};
            return true;
        }
        at = stop;
    }
    return true;
}

static uint8_t lower(uint8_t c) { return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 32) : c; }

/* RFC 9110 section 4.2.3: a Host in any case. */
static bool equal(const span *a, const span *b, bool any_case) {
    if (a->size != b->size) return false;
    if (!any_case) return a->size == 0 || memcmp(a->at, b->at, a->size) == 0;
    for (uint32_t i = 0; i < a->size; i++)
        if (lower(a->at[i]) != lower(b->at[i])) return false;
    return true;
}

/* Append what the rules see of fields and parameters. Its length follows from the looks. Return the new size, 0 where
 * Python has to look. */
static size_t write_looks(uint8_t *key, size_t at, const looks *g, const head *h) {
    for (uint32_t i = 0; i < g->count; i++) {
        const look *k = &g->look[i];
        span value = {NULL, 0};
        if (!(k->parameter ? parameter_value(h, k, &value) : field_value(h, k, &value))) return 0;
        if (at + 3 > KEY_MOST) return 0;
        uint16_t mark = value.at == NULL ? 0 : 1;   /* absent; none of the values; then the number of a value */
        bool any_case = !k->parameter && k->name.size == 4 && memcmp(k->name.at, "host", 4) == 0;
        for (uint32_t j = 0; mark == 1 && j < k->count; j++)
            if (equal(&value, &k->values[j], any_case)) mark = (uint16_t)(j + 2);
        if (k->count == 0 && mark == 1) {
            if (value.size > KEY_MOST || at + 5 + value.size > KEY_MOST) return 0;
            key[at++] = 1;
            memcpy(key + at, &value.size, 4);
            memcpy(key + at + 4, value.at, value.size);
            at += 4 + value.size;
        } else {
            key[at++] = 0;
            memcpy(key + at, &mark, 2);
            at += 2;
        }
    }
    return at;
}

/* Write what a decision looked at. `s` NULL: which section it is. 0: the request has no key, and Python decides. */
static size_t write_key(uint8_t *key, const plan *p, const seat *s, const head *h) {
    const program *g = s == NULL ? p->program : s->program;
    const looks *k = s == NULL ? p->looks : s->looks;
    size_t host_size = s == NULL ? 0 : h->host_size;   /* a route that looks at Host has a look for it */
    if ((size_t)h->method_size + (g != NULL ? 2 : h->path_size) + host_size + 32 > KEY_MOST) return 0;
    uint64_t whose = s == NULL ? 0 : s->target->serial;   /* no target has the serial 0 */
    memcpy(key, &p->serial, 8);
    memcpy(key + 8, &whose, 8);
    size_t at = 16;
    /* None of the three can contain a space: see head.c. */
    memcpy(key + at, h->method, h->method_size);
    at += h->method_size;
    key[at++] = ' ';
    if (host_size) memcpy(key + at, h->host, host_size);
    at += host_size;
    key[at++] = ' ';
    if (k != NULL) {
        at = write_looks(key, at, k, h);
        if (at == 0 || at + (g != NULL ? 2 : h->path_size) > KEY_MOST) return 0;
    }
    if (g != NULL) {
        uint16_t number = alike(g, h->target, h->path_size);
        memcpy(key + at, &number, sizeof number);
        return at + sizeof number;
    }
    memcpy(key + at, h->target, h->path_size);
    return at + h->path_size;
}

entry *em_entry_find(lane *l, const plan *p, const seat *s, const head *h) {
    uint8_t key[KEY_MOST];
    size_t size = write_key(key, p, s, h);
    if (size == 0) return NULL;
    uint64_t hash = em_hash_of(0, key, size);
    entry *e = l->entries[hash & l->entry_mask];
    if (e == NULL || e->hash != hash || e->size != size || e->generation != l->generation ||
        memcmp(e->key, key, size) != 0)
        return NULL;
    return e;
}

bool em_entry_learn(lane *l, const plan *p, const seat *s, row *r, uint32_t number, const head *h) {
    uint8_t key[KEY_MOST];
    size_t size = write_key(key, p, s, h);
    if (size == 0) return true;
    entry *e = malloc(sizeof *e + size);
    if (e == NULL) return false;
    e->hash = em_hash_of(0, key, size);
    e->generation = l->generation;
    e->size = (uint32_t)size;
    e->row = r;
    e->number = number;
    memcpy(e->key, key, size);
    free(l->entries[e->hash & l->entry_mask]);
    l->entries[e->hash & l->entry_mask] = e;
    return true;
}

void em_asked(head *out, const uint8_t *method, size_t method_size, const uint8_t *path, size_t path_size,
              const uint8_t *host, size_t host_size) {
    memset(out, 0, offsetof(head, field));
    out->method = method;
    out->method_size = (uint32_t)method_size;
    out->target = path;
    out->target_size = out->path_size = (uint32_t)path_size;
    out->host = host;
    out->host_size = (uint32_t)host_size;
}

bool em_denial_new(lane *l, const uint8_t *answer, size_t size, uint32_t head_size, uint32_t id_at, uint32_t id_again) {
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
    l->denials[l->denial_count++] = (denial){copy, (uint32_t)size, head_size, id_at, id_again};
    return true;
}

section *em_section_of(lane *l, const plan *p, const head *h) {
    if (!p->ruled) return p->section;
    const entry *e = em_entry_find(l, p, NULL, h);
    return e == NULL || e->number >= p->sections ? NULL : &p->section[e->number];
}

const group *em_group_of(const plan *p, const section *n) {
    if (n->count == 0) return NULL;
    if (n->count == 1) return &p->group[n->first];
    return n->turn < n->turn_count ? &p->group[n->first + n->turns[n->turn]] : NULL;
}

/* Return a number by chance (splitmix64). It spreads load and guards nothing. */
static uint64_t roll(lane *l) {
    uint64_t z = l->dice += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Choose the endpoint with the fewest calls in progress; among equals by chance. In turns, a caller that alternates
 * between two requests would send each of them to one endpoint for ever. */
const seat *em_choose(lane *l, const group *g) {
    const seat *best = NULL;
    uint32_t alike = 0;
    for (uint32_t i = 0; i < g->count; i++) {
        const seat *s = &g->seats[i];
        if (best == NULL || s->target->in_flight < best->target->in_flight) {
            best = s;
            alike = 1;
        } else if (s->target->in_flight == best->target->in_flight && roll(l) % ++alike == 0) {
            best = s;
        }
    }
    return best;
}

void em_chosen(lane *l, const plan *p, section *n) {
    if (n->count > 1) {
        n->turn++;
        if (n->turn_count - n->turn == FEW_TURNS && l->dry_count < MOST_DRY) l->dry[l->dry_count++] = p->serial;
    }
}

plan *em_plan_new(lane *l, const uint8_t *shown, size_t shown_size, uint32_t groups) {
    plan *p = calloc(1, sizeof *p);
    if (p == NULL) return NULL;
    p->shown = malloc(shown_size + 1);
    p->group = calloc(groups + 1u, sizeof *p->group);
    p->section = calloc(1, sizeof *p->section);
    p->users = 1;
    if (p->shown == NULL || p->group == NULL || p->section == NULL) {
        em_plan_free(l, p);
        return NULL;
    }
    memcpy(p->shown, shown, shown_size);
    p->shown_size = (uint32_t)shown_size;
    p->groups = groups;
    p->sections = 1;
    p->section->count = groups;
    p->serial = ++l->serial;
    p->generation = l->generation;
    return p;
}

bool em_plan_divide(plan *p, const uint8_t *counts, uint32_t sections) {
    section *made = calloc(sections + 1u, sizeof *made);
    if (made == NULL) return false;
    uint32_t first_group = 0;
    for (uint32_t i = 0; i < sections; i++) {
        made[i].first = first_group;
        made[i].count = counts[i];
        first_group += counts[i];
    }
    free(p->section);
    p->section = made;
    p->sections = sections;
    return true;
}

void em_plan_free(lane *l, plan *p) {
    if (--p->users) return;
    for (uint32_t i = 0; p->group != NULL && i < p->groups; i++) {
        for (uint32_t j = 0; j < p->group[i].count; j++) {
            em_target_free(l, p->group[i].seats[j].target);
            if (p->group[i].seats[j].program != NULL) em_program_free(p->group[i].seats[j].program);
            if (p->group[i].seats[j].looks != NULL) em_looks_free(p->group[i].seats[j].looks);
        }
        free(p->group[i].seats);
        if (p->group[i].asks != NULL) em_change_free(p->group[i].asks);
        if (p->group[i].answers != NULL) em_change_free(p->group[i].answers);
    }
    free(p->group);
    for (uint32_t i = 0; p->section != NULL && i < p->sections; i++) free(p->section[i].turns);
    free(p->section);
    if (p->program != NULL) em_program_free(p->program);
    if (p->looks != NULL) em_looks_free(p->looks);
    free(p->shown);
    free(p);
}

program *em_program_new(uint32_t states, uint32_t width, const uint8_t *classes, const uint8_t *next,
                        const uint8_t *alike_) {
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
        em_program_free(g);
        return NULL;
    }
    return g;
}

void em_program_free(program *g) {
    if (--g->users) return;
    free(g->next);
    free(g->alike);
    free(g);
}

looks *em_looks_new(uint32_t values, size_t size) {
    looks *g = calloc(1, sizeof *g);
    if (g == NULL) return NULL;
    g->users = 1;
    g->text = malloc(size + 1);
    g->values = calloc(values + 1u, sizeof *g->values);
    if (g->text == NULL || g->values == NULL) {
        em_looks_free(g);
        return NULL;
    }
    return g;
}

void em_looks_free(looks *g) {
    if (--g->users) return;
    free(g->text);
    free(g->values);
    free(g);
}

change *em_change_new(size_t size) {
    change *g = calloc(1, sizeof *g + size);
    if (g != NULL) g->users = 1;
    return g;
}

void em_change_free(change *g) {
    if (--g->users == 0) free(g);
}

const seat *em_seat_of(const plan *p, const target *t) {
    for (uint32_t i = 0; i < p->groups; i++)
        for (uint32_t j = 0; j < p->group[i].count; j++)
            if (p->group[i].seats[j].target == t) return &p->group[i].seats[j];
    return NULL;
}

/* cross.c chooses among the links when it opens a stream. */
void em_target_link(target *t, struct link_ *k) {
    if (t->link == k) return;
    em_target_unlink(t, k);
    for (uint32_t i = 0; t->link != NULL && i < MORE_LINKS; i++)
        if (t->more[i] == NULL) {
            t->more[i] = t->link;
            break;
        }
    t->link = k;
}

void em_target_unlink(target *t, const struct link_ *k) {
    if (k == NULL || t->link == k) t->link = NULL;
    for (uint32_t i = 0; i < MORE_LINKS; i++)
        if (k == NULL || t->more[i] == k) t->more[i] = NULL;
}

void em_targets_unlink(lane *l, const struct link_ *k) {
    for (target *t = l->first_target; t != NULL; t = t->next) em_target_unlink(t, k);
}

target *em_target_new(lane *l) {
    target *t = calloc(1, sizeof *t);
    if (t == NULL) return NULL;
    t->serial = ++l->serial;
    t->users = 1;
    t->next = l->first_target;
    if (t->next != NULL) t->next->previous = t;
    l->first_target = t;
    return t;
}

void em_target_free(lane *l, target *t) {
    if (--t->users) return;
    if (t->next != NULL) t->next->previous = t->previous;
    if (t->previous != NULL) t->previous->next = t->next;
    else l->first_target = t->next;
    free(t);
}
