/* How a call ends well: see finish.h. */
#include "finish.h"

#include <string.h>
#include <sys/socket.h>

#include "lane.h"

#define PATIENCE 5000000u       /* microseconds */

/* Return the size of what the log shows of a head: its request line, and after "\n" its Host. A plain head has exactly
 * one Host (head.c). */
uint32_t em_line_of(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, '\r', size);
    return end == NULL ? 0 : (uint32_t)(end - data);
}

uint32_t em_host_of(const uint8_t *data, size_t size, const uint8_t **host) {
    const uint8_t *end = data + size, *p = memchr(data, '\n', size);
    while (p != NULL && ++p < end && *p != '\r') {
        const uint8_t *stop = memchr(p, '\r', (size_t)(end - p));
        if (stop == NULL) break;
        if (stop - p > 5 && p[4] == ':' && em_same_word(p, 4, "host")) {
            for (p += 5; p < stop && (*p == ' ' || *p == '\t'); p++) {}
            while (stop > p && (stop[-1] == ' ' || stop[-1] == '\t')) stop--;
            *host = p;
            return (uint32_t)(stop - p);
        }
        p = memchr(stop, '\n', (size_t)(end - stop));
    }
    *host = end;
    return 0;
}

static void count(lane *l, caller *c) {
    row *r = c->row;
    uint64_t took = l->now - c->began;
    uint32_t i = 0;
    while (i < l->bounds && took > l->bound[i]) i++;
    r->bucket[i]++;
    int class = c->status / 100;
    r->answered[class >= 1 && class <= 5 ? class : 0]++;
    r->micros += took;
    r->bytes_in += c->bytes_in;
    r->bytes_out += c->bytes_out;
    l->served++;
}

static void log_done(lane *l, const caller *c) {
    const uint8_t *asked = first(&c->asked), *host;
    uint32_t line = em_line_of(asked, held(&c->asked)), host_size = em_host_of(asked, held(&c->asked), &host);
    done d = {c->id,       c->guest,     c->target->serial,   l->now - c->began,
              c->bytes_in, c->bytes_out, (uint32_t)c->status, line + 1 + host_size};
    uint32_t before = held(&l->log);
    if (buffer_add(&l->log, &d, sizeof d) && buffer_add(&l->log, asked, line) && buffer_add(&l->log, "\n", 1) &&
        buffer_add(&l->log, host, host_size))
        return;
    buffer_cut(&l->log, before);   /* an incomplete record is removed */
    l->lost++;
}

/* Return how long a caller may pause in its request: a short time if it has its response and knows that its connection
 * ends (protocols/http/upload.py). */
uint64_t em_patience(const lane *l, const caller *c) {
    return c->last && c->response_done && l->set.idle_timeout > PATIENCE ? PATIENCE : l->set.idle_timeout;
}

/* Look at what is here, or has ended, in the next round: a caller that pipelines a hundred requests must not stop the
 * others. */
void em_come_again(lane *l, caller *c) {
    if (c->of_stream) return;
    if (held(&c->in) || c->ended || c->recalled || c->plan->generation != l->generation) em_again(l, &c->side);
}

void em_finish(lane *l, caller *c) {
    if (c->target == NULL)
        return;   /* the call is over: a write was due, and another one has sent the rest meanwhile */
    if (c->of_stream ? c->front != NULL : held(&c->out) != 0) return;   /* wait until all is sent */
    if (c->back != NULL) {
        if (c->request_done) return;   /* the caller closes by itself, and then this is called again */
        l->ends->give_up(c);
    }
    server *s = c->server;
    if (s != NULL && held(&s->out) && !s->broken && c->request_done)
        return;   /* the end of the request is on its way: see server_writable */
    count(l, c);
    if (l->logging) log_done(l, c);
    c->total_in += c->bytes_in;
    c->total_out += c->bytes_out;
    em_call_over(l, c);
    if (s != NULL) {
        s->caller = NULL;
        if (s->broken || held(&s->out) || !c->request_done) em_server_close(l, s);
        else em_server_rest(l, s);
    }
    if (c->of_stream) {
        l->ends->over(l, c);
        return;
    }
    if (c->close || c->last) {
        if (c->request_done) shutdown(c->side.fd, SHUT_WR);   /* otherwise Python does it, a while later */
        em_go_up(l, c, UP_END, c->request_done ? "" : "linger", "");
        return;
    }
    c->state = AT_REST;
    em_deadline(l, c, l->set.keepalive_timeout, "");
    em_come_again(l, c);
}
