/* Fuzz calls from stream to stream: arbitrary HTTP/2 of a caller on one connection, and of a server (or another node)
 * on the other.
 *
 * An input is a byte that says what the other connection leads to (even: the server itself; odd: its node), then steps
 * as in fuzz_lane.c. What must hold whatever they say:
 *   - what reaches the server is HTTP/2 that nghttp2 takes, and a request that was learned; what reaches the caller is
 * frames;
 *   - no stream holds more than its windows; sanitizers are silent, and nothing is left when the connections are
 * dropped. Streams that go to Python stay there unanswered.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../nodeproxy/native/cross.h"
#include "../../nodeproxy/native/lane.h"
#include "../../nodeproxy/native/link.h"
#include "words.h"

static int messages;

static void broken(const char *what) {
    fprintf(stderr, "property broken: %s\n", what);
    abort();
}

static int one_name(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                    const uint8_t *value, size_t value_size, uint8_t flags, void *user) {
    (void)session, (void)flags, (void)user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    if (name_size == 5 && memcmp(name, ":path", 5) == 0) {
        const uint8_t *mark = memchr(value, '?', value_size);
        size_t path = mark ? (size_t)(mark - value) : value_size;
        if (path != 6 || memcmp(value, "/books", 6) != 0) broken("a request that was not learned");
        messages++;
    }
    if (name_size == 7 && memcmp(name, ":method", 7) == 0 && !(value_size == 3 && memcmp(value, "GET", 3) == 0) &&
        !(value_size == 4 && memcmp(value, "POST", 4) == 0))
        broken("a method that was not learned");
    if (name_size == 17 && memcmp(name, "x-edgemesh-reason", 17) == 0) broken("somebody else's words as ours");
    return 0;
}

static int wrong_frame(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user) {
    (void)session, (void)user;
    fprintf(stderr, "frame of type %d: %s\n", frame->hd.type, nghttp2_strerror(error));
    broken("what reached the server is not what HTTP/2 allows");
    return 0;
}

/* What reaches the caller, frame by frame. */
typedef struct { uint8_t head[9]; uint32_t here, skip; } frames;

static void walk(frames *f, const uint8_t *data, size_t size) {
    for (size_t at = 0; at < size;) {
        if (f->skip) {
            uint32_t step = f->skip < size - at ? f->skip : (uint32_t)(size - at);
            f->skip -= step;
            at += step;
            continue;
        }
        f->head[f->here++] = data[at++];
        if (f->here < 9) continue;
        f->here = 0;
        f->skip = (uint32_t)f->head[0] << 16 | (uint32_t)f->head[1] << 8 | f->head[2];
        if (f->skip > 16384 || f->head[3] > NGHTTP2_CONTINUATION) broken("what reached the caller is no HTTP/2");
    }
}

static void python(lane *l, h2 *a, h2 *b) {
    for (uint32_t i = 0; i < l->up_count; i++) {
        em_buffer_free(&l->ups[i].data);
        em_buffer_free(&l->ups[i].rest);
    }
    l->up_count = l->gone_count = 0;
    l->links_told = false;
    em_buffer_free(&a->events);
    em_buffer_free(&b->events);
}

static void bounded(const h2 *h, uint32_t most) {
    for (const stream *s = h->first; s != NULL; s = s->next)
        if (held(&s->out) > most) broken("a stream holds more than its windows");
}

static void learn(lane *l, const plan *p, const seat *s, row *r, uint32_t number, const char *method,
                  const char *path) {
    head h;
    em_asked(&h, (const uint8_t *)method, strlen(method), (const uint8_t *)path, strlen(path), (const uint8_t *)"store",
             5);
    if (!em_entry_learn(l, p, s, r, number, &h)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static lane *l;
    static row r;
    if (size == 0) return 0;
    if (l == NULL) {
        l = calloc(1, sizeof *l);
        if (!em_lane_open(l)) abort();
        l->set = (settings){{4096, 20, 512}, 16384, 4, 75000000, 300000000, 300000000, 30000000};
    }
    bool node = data[0] & 1;
    target *t = em_target_new(l);
    plan *p = em_plan_new(l, (const uint8_t *)"10.0.0.1", 8, 1);
    p->group[0].seats = calloc(1, sizeof(seat));
    p->group[0].seats[0].target = t;
    t->users++;
    p->group[0].count = 1;
    const seat *at_seat = &p->group[0].seats[0];
    learn(l, p, at_seat, &r, NO_DENIAL, "GET", "/books");
    learn(l, p, at_seat, &r, NO_DENIAL, "POST", "/books");

    int callers[2], servers[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, callers) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, servers))
        abort();
    h2 a, b;
    h2_bounds bounds = {8, 4096, 16384, 65536, 65536, 65536, 100, 50, 20, 10};
    if (!em_h2_open(&a, false, &bounds, 0) || !em_h2_open(&b, true, &bounds, 0)) abort();
    link_ *front = NULL, *back = NULL;
    if (!em_lane_link(l, 8, callers[0], NULL, &a, &em_link_visitor, 30000000, &front) ||
        !em_lane_link(l, 9, servers[0], NULL, &b, &em_link_visitor, 30000000, &back))
        abort();
    front->local = true;
    back->local = !node;
    if (node) memcpy(t->name, "10.0.0.2:80;h2", t->name_size = 14);
    em_target_link(t, back);
    if (!em_door_learn(l, front, (const uint8_t *)"", 0, (const uint8_t *)"", 0, p, 77)) abort();
    nghttp2_session_callbacks *calls;
    nghttp2_session *server;
    nghttp2_session_callbacks_new(&calls);
    nghttp2_session_callbacks_set_on_header_callback(calls, one_name);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(calls, wrong_frame);
    nghttp2_session_server_new(&server, calls, NULL);
    nghttp2_session_callbacks_del(calls);
    const uint8_t *unsent;
    for (int i = 0; i < 128; i++)
        nghttp2_submit_settings(server, NGHTTP2_FLAG_NONE, NULL, 0);   /* whatever the input says, it is acknowledged */
    while (nghttp2_session_mem_send(server, &unsent) > 0) {}
    frames heard = {{0}, 0, 0};
    memory_fails();
    for (size_t at = 1; at + 2 <= size;) {
        uint8_t who = data[at], count = data[at + 1];
        at += 2;
        size_t here = count < size - at ? count : size - at;
        switch (who % 8) {
        case 0: case 1: case 2: (void)!send(callers[1], data + at, here, MSG_NOSIGNAL); break;
        case 3: case 4: case 5: (void)!send(servers[1], data + at, here, MSG_NOSIGNAL); break;
        case 6: shutdown(who & 8 ? servers[1] : callers[1], SHUT_WR); break;
        case 7:
            if (who & 8) em_h2_go_away(&a);
            else if (who & 16) em_h2_go_away(&b);
            else if (who & 32 && back != NULL) em_link_drop(l, back, false);
            else if (who & 128) l->generation++;
            em_lane_tick(l);
            break;
        }
        at += here;
        if (!(who & 64)) {
            while (em_lane_turn(l, 1000)) {}
            uint8_t got[65536];
            ssize_t some;
            while ((some = recv(servers[1], got, sizeof got, MSG_DONTWAIT)) > 0)
                if (server != NULL && nghttp2_session_mem_recv(server, got, (size_t)some) < 0)
                    broken("what reached the server is no HTTP/2");
            while ((some = recv(callers[1], got, sizeof got, MSG_DONTWAIT)) > 0) walk(&heard, got, (size_t)some);
            bounded(&a, 2 * 65536);
            bounded(&b, 2 * 65536);
        }
        python(l, &a, &b);
    }
    em_link_drop(l, front, false);
    if (back != NULL) em_link_drop(l, back, false);
    while (em_lane_turn(l, 1000)) {}
    python(l, &a, &b);
    em_h2_close(&a);
    em_h2_close(&b);
    while (em_lane_turn(l, 1000)) {}
    nghttp2_session_del(server);
    for (int i = 0; i < 2; i++) {
        close(callers[i]);
        close(servers[i]);
    }
    memory_is_back();
    if (l->callers || l->calls || l->links || l->servers || t->in_flight || p->users != 1) broken("something is left");
    if (l->no_memory) broken("no memory");
    em_plan_free(l, p);
    em_target_free(l, t);
    if (++l->generation == 0) l->generation = 1;
    return 0;
}

#define WORD(text) {text, sizeof text - 1}
static const word WORDS[] = {
    WORD("\0\0\0\4\1\0\0\0\0"),
    WORD("\0\0\0\4\0\0\0\0\0"),
    WORD("\0\0\4\3\0\0\0\0\1\0\0\0\10"),
    WORD("\0\0\4\3\0\0\0\0\1\0\0\0\7"),
    WORD("\0\0\4\3\0\0\0\0\1\0\0\0\0"),
    WORD("\0\0\4\10\0\0\0\0\0\0\0\377\377"),
    WORD("\0\0\4\10\0\0\0\0\1\0\0\0\1"),
    WORD("\0\0\6\4\0\0\0\0\0\0\4\0\0\0\0"),
    WORD("\0\0\6\4\0\0\0\0\0\0\3\0\0\0\1"),
    WORD("\0\0\10\6\0\0\0\0\0abcdefgh"),
    WORD("\0\0\3\0\0\0\0\0\1abc"),
    WORD("\0\0\3\0\1\0\0\0\1abc"),
    WORD("\0\0\0\0\1\0\0\0\1"),
    WORD("\0\0\3\0\0\0\0\0\3abc"),
    WORD("\0\0\1\1\5\0\0\0\1\210"),
    WORD("\0\0\1\1\4\0\0\0\1\210"),
    WORD("\0\0\1\1\5\0\0\0\3\210"),
    WORD("\0\0\10\7\0\0\0\0\0\0\0\0\1\0\0\0\0"),
    WORD("\210"),
    WORD("\204"),
    WORD("\0\4POST"),
    WORD("\0\6cookie\1a"),
    WORD("\0\2te\10trailers"),
    WORD("\0\0\2\1\4\0\0\0\1\0\0"),
    WORD("\0\16content-length\0013"),
    WORD("\0\7:status\003103"),
    WORD("\0\13grpc-status\0010"),
    WORD("\0\21x-edgemesh-reason\1x"),
    WORD("\27\0"),
    WORD("\47\0"),
    WORD("\247\0"),
    WORD("\17\0"),
};
#include "driver.h"
