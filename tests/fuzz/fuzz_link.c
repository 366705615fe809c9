/* Fuzz what crosses between nodes, as a peer would: arbitrary HTTP/2 from it, arbitrary HTTP/1.1 from the workload on
 * our side.
 *
 * An input is a byte that says which end we are, then steps as in fuzz_lane.c. Even: the peer calls, and our server
 * answers. Odd: our caller asks, and the peer answers. What must hold whatever they say:
 *   - what reaches the server is HTTP/1.1 and a request that was learned; what reaches the caller is HTTP/1.1 as well;
 *   - sanitizers are silent, and nothing is left when the connection is dropped.
 * Streams that go to Python stay there unanswered.
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
static char seen[4096];
static size_t seen_size;

static void broken(const char *what) {
    fprintf(stderr, "property broken: %s\n", what);
    abort();
}

static int keep(llhttp_t *p, const char *at, size_t size) {
    (void)p;
    if (seen_size + size < sizeof seen) {
        memcpy(seen + seen_size, at, size);
        seen_size += size;
    }
    return 0;
}

static int head_end(llhttp_t *p) {
    messages++;
    if (p->type == HTTP_RESPONSE) return 0;
    const char *mark = memchr(seen, '?', seen_size);
    size_t path = mark ? (size_t)(mark - seen) : seen_size;
    if ((p->method != HTTP_GET && p->method != HTTP_POST) || path != 6 || memcmp(seen, "/books", 6) != 0)
        broken("a request that was not learned");
    seen_size = 0;
    return 0;
}

static void drain(int fd, llhttp_t *parser) {
    uint8_t data[65536];
    ssize_t got;
    while ((got = recv(fd, data, sizeof data, MSG_DONTWAIT)) > 0)
        if (parser && llhttp_execute(parser, (const char *)data, (size_t)got) != HPE_OK &&
            llhttp_get_errno(parser) != HPE_PAUSED_UPGRADE) {
            fprintf(stderr, "%s: %.*s\n", llhttp_get_error_reason(parser), (int)got, (const char *)data);
            broken("what reached the workload is no HTTP/1.1");
        }
}

static void python(lane *l, h2 *h, bool *away) {
    for (uint32_t i = 0; i < l->up_count; i++) {
        if (l->ups[i].guest == 0) *away = true;
        em_buffer_free(&l->ups[i].data);
        em_buffer_free(&l->ups[i].rest);
    }
    l->up_count = l->gone_count = 0;
    l->links_told = false;
    em_buffer_free(&l->refusals);
    em_buffer_free(&h->events);
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
    bool calls = data[0] & 1, away = false;
    target *t = em_target_new(l);
    plan *p = em_plan_new(l, (const uint8_t *)"10.0.0.1", 8, 1);
    p->group[0].seats = calloc(1, sizeof(seat));
    p->group[0].seats[0].target = t;
    t->users++;
    p->group[0].count = 1;
    const seat *at_seat = &p->group[0].seats[0];
    learn(l, p, at_seat, &r, NO_DENIAL, "GET", "/books");
    learn(l, p, at_seat, &r, NO_DENIAL, "POST", "/books");

    int peers[2], ours[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, peers) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ours))
        abort();
    h2 h;
    h2_bounds bounds = {8, 4096, 16384, 65536, 32768, 65536, 100, 50, 20, 10};
    if (!em_h2_open(&h, calls, &bounds, 0)) abort();
    link_ *k = NULL;
    caller *c = NULL;
    if (!em_lane_link(l, 9, peers[0], NULL, &h, &em_link_visitor, 30000000, &k)) abort();
    llhttp_settings_t reads;
    llhttp_settings_init(&reads);
    reads.on_url = keep;
    reads.on_headers_complete = head_end;
    llhttp_t parser;
    llhttp_init(&parser, calls ? HTTP_RESPONSE : HTTP_REQUEST, &reads);
    seen_size = 0;
    if (calls) {
        t->link = k;
        memcpy(t->name, "10.0.0.2:80", t->name_size = 11);
        if (!em_lane_carry(l, 1, ours[0], p, NULL, 0, &c)) abort();
    } else {
        if (!em_lane_lend(l, 1, ours[0], t)) abort();
        if (!em_door_learn(l, k, (const uint8_t *)"10.0.0.2:80", 11, (const uint8_t *)"10.0.0.1", 8, p, 77)) abort();
    }
    memory_fails();
    for (size_t at = 1; at + 2 <= size && !away;) {
        uint8_t who = data[at], count = data[at + 1];
        at += 2;
        size_t here = count < size - at ? count : size - at;
        switch (who % 8) {
        case 0: case 1: case 2: (void)!send(peers[1], data + at, here, MSG_NOSIGNAL); break;
        case 3: case 4: case 5: (void)!send(ours[1], data + at, here, MSG_NOSIGNAL); break;
        case 6: shutdown(who & 8 ? peers[1] : ours[1], SHUT_WR); break;
        case 7:
            if (who & 8) em_h2_go_away(&h);
            else if (c && who & 16) em_lane_recall(l, c);
            em_lane_tick(l);
            break;
        }
        at += here;
        if (!(who & 64)) {
            while (em_lane_turn(l, 1000)) {}
            drain(ours[1], &parser);
            drain(peers[1], NULL);
        }
        python(l, &h, &away);
    }
    if (c && !away) {
        up left;
        em_lane_drop(l, c, &left);
        em_buffer_free(&left.data);
        em_buffer_free(&left.rest);
    }
    em_link_drop(l, k, false);
    while (em_lane_turn(l, 1000)) {}
    python(l, &h, &away);
    em_h2_close(&h);
    while (t->resting) em_server_close(l, t->resting);
    while (em_lane_turn(l, 1000)) {}
    python(l, &h, &away);
    for (int i = 0; i < 2; i++) {
        close(peers[i]);
        close(ours[i]);
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
    WORD("\0\0\4\10\0\0\0\0\0\0\0\377\377"),
    WORD("\0\0\4\10\0\0\0\0\1\0\0\0\1"),
    WORD("\0\0\10\6\0\0\0\0\0abcdefgh"),
    WORD("\0\0\3\0\0\0\0\0\1abc"),
    WORD("\0\0\3\0\1\0\0\0\1abc"),
    WORD("\0\0\0\0\1\0\0\0\1"),
    WORD("\0\0\1\1\5\0\0\0\1\210"),
    WORD("\0\0\1\1\4\0\0\0\1\210"),
    WORD("\0\0\1\1\5\0\0\0\3\210"),
    WORD("\0\0\10\7\0\0\0\0\0\0\0\0\1\0\0\0\0"),
    WORD("\210"),
    WORD("\204"),
    WORD("\0\4POST"),
    WORD("GET /books HTTP/1.1\r\nhost: store\r\n\r\n"),
    WORD("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    WORD("transfer-encoding: chunked\r\n"),
    WORD("3\r\nabc\r\n"),
    WORD("0\r\n\r\n"),
    WORD("content-length: 3\r\n"),
    WORD("HTTP/1.1 304 X\r\n"),
    WORD("HTTP/1.1 100 C\r\n\r\n"),
    WORD("\0\6cookie\1a"),
    WORD("\0\2te\10trailers"),
    WORD("\0\0\2\1\4\0\0\0\1\0\0"),
    WORD("\0\16content-length\0013"),
};
#include "driver.h"
