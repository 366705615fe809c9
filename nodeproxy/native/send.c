/* Writes to the connections of a call: see send.h. */
#include "send.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "lane.h"

/* The last bytes of a connection go out with its end, in one segment (see finish). Otherwise a caller that has its
 * response would close before us, and keep its port for a minute, where the server itself would have closed first. */
static int last_or_not(const caller *c) {
    return (c->close || c->last) && c->response_done && c->request_done && c->back == NULL ? MSG_MORE : 0;
}

/* Send built bytes, and keep those that do not fit. False: the other end is gone. */
static bool pass_on(lane *l, side *s, buffer *waiting, const uint8_t *data, size_t size, int more) {
    if (held(waiting) == 0) {
        while (size) {
            ssize_t sent = send(s->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT | more);
            if (sent < 0) {
                if (errno == EINTR) continue;
                if (errno == EAGAIN || errno == EWOULDBLOCK) break;
                return false;
            }
            data += sent;
            size -= (size_t)sent;
        }
    }
    if (size) {
        if (!buffer_add(waiting, data, size)) {
            l->no_memory = true;
            return false;
        }
        em_watch(l, s, s->events | EPOLLOUT);
    }
    return true;
}

/* Send what waits. False: the other end is gone. */
static bool send_waiting(lane *l, side *s, buffer *waiting, int more) {
    while (held(waiting)) {
        ssize_t sent = send(s->fd, first(waiting), held(waiting), MSG_NOSIGNAL | MSG_DONTWAIT | more);
        if (sent < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
            return false;
        }
        em_buffer_take(waiting, (uint32_t)sent);
    }
    em_watch(l, s, s->events & ~(uint32_t)EPOLLOUT);
    return true;
}

/* Return whether something of this call was lost for lack of memory. The flag is cleared, so that no other call pays
 * for it. */
static bool lost(lane *l) {
    bool was = l->no_memory;
    l->no_memory = false;
    return was;
}

static void fail_for_memory(lane *l, caller *c) {
    l->work.begin = l->work.end = 0;
    em_fail(l, c, "internal", "no memory");
}

void em_to_caller(lane *l, caller *c) {
    uint32_t size = held(&l->work);
    if (lost(l)) {
        fail_for_memory(l, c);
        return;
    }
    if (c->front != NULL) {
        l->ends->answer(l, c);
        return;
    }
    c->bytes_out += size;
    if (c->back != NULL) {   /* more of it may be here: a head and its body are sent together */
        if (!buffer_add(&c->out, first(&l->work), size)) {
            fail_for_memory(l, c);
            return;
        }
        l->work.begin = l->work.end = 0;
        if (!c->is_due) {
            c->is_due = true;
            c->next_due = l->due_callers;
            l->due_callers = c;
        }
        return;
    }
    bool ok = size == 0 || pass_on(l, &c->side, &c->out, first(&l->work), size, last_or_not(c));
    l->work.begin = l->work.end = 0;
    if (!ok) {
        if (lost(l)) fail_for_memory(l, c);
        else em_fail(l, c, "client-gone", "");
        return;
    }
    if (held(&c->out) > l->set.buffer_bytes && c->server != NULL)
        em_watch(l, &c->server->side, c->server->side.events & ~(uint32_t)EPOLLIN);
}

/* A write failed. That clears the error, and a read would report an end (EPIPE: the server had ended its sending
 * before). */
void em_server_takes_no_more(server *s) {
    s->reset = s->reset || errno != EPIPE;
    s->broken = true;
}

void em_to_server(lane *l, caller *c) {
    server *s = c->server;
    if (lost(l)) {
        fail_for_memory(l, c);
        return;
    }
    if (s == NULL) {
        l->ends->ask(l, c);
        return;
    }
    uint32_t size = held(&l->work);
    bool ok = size == 0 || s->broken || pass_on(l, &s->side, &s->out, first(&l->work), size, 0);
    l->work.begin = l->work.end = 0;
    if (lost(l)) {
        fail_for_memory(l, c);
        return;
    }
    if (!ok) em_server_takes_no_more(s);     /* it may have sent a response before, which is still to be read */
    if (s->broken && c->front != NULL) l->ends->unneeded(l, c);
    if (held(&s->out) > l->set.buffer_bytes) em_watch(l, &c->side, c->side.events & ~(uint32_t)EPOLLIN);
}

uint32_t em_back_waits(const lane *l, const caller *c) {
    if (c->server != NULL) return held(&c->server->out);
    return c->back != NULL ? l->ends->waits(c) : 0;
}

bool em_caller_send(lane *l, caller *c) { return send_waiting(l, &c->side, &c->out, last_or_not(c)); }
bool em_server_send(lane *l, server *s) { return send_waiting(l, &s->side, &s->out, 0); }
