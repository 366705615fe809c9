/* Fuzz tunnels, as a peer would: arbitrary HTTP/2 from it, arbitrary bytes and ends from the sockets on our side.
 *
 * An input is a byte that says which end we are, then steps as in fuzz_link.c. Even: the peer opens streams, and each
 * is answered and lent with a socket of its own. Odd: we open one, and lend it when its answer came. What must hold
 * whatever they say:
 *   - what waits for a socket is no more than a window; each tunnel that is over is told once, with as many bytes as
 * its socket got;
 *   - sanitizers are silent, and nothing is left when the connection is dropped.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../nodeproxy/native/cross.h"
#include "../../nodeproxy/native/lane.h"
#include "../../nodeproxy/native/tunnel.h"
#include "words.h"

#define MOST 4

static int messages;   /* tunnels that ended well */

static void broken(const char *what) {
    fprintf(stderr, "property broken: %s\n", what);
    abort();
}

typedef struct { int32_t stream; int ours, its; tunnel *tunnel; bool used, told, left; uint64_t heard, counted; } way;

static way ways[MOST];

static void lend(lane *l, link_ *k, int32_t stream, uint64_t choice) {
    for (int i = 0; i < MOST; i++) {
        way *w = &ways[i];
        if (w->used) continue;
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair)) abort();
        int size = 4096;
        setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        *w = (way){.stream = stream, .ours = pair[0], .its = pair[1], .left = choice & 1};
        tunnel_begin begin = {.window = FIRST_WINDOW, .idle = 300000000, .left = choice & 1};
        if (choice & 2) begin.of_socket = (buffer){(uint8_t *)"hello", 0, 5, 5};
        if (em_lane_tunnel(l, (uint64_t)i, k, stream, pair[0], &begin, &w->tunnel)) {
            w->used = true;
        } else {
            close(pair[0]);
            close(pair[1]);
        }
        return;
    }
}

/* As h2/connection.py and fastpath/path.py would. */
static void python(lane *l, h2 *h, link_ *k, uint64_t choice) {
    for (uint32_t i = 0; i < l->relayed_count; i++) {
        const relayed *r = &l->relayed[i];
        if (r->id >= MOST) broken("told of no tunnel");
        way *w = &ways[r->id];
        if (!w->used || w->told || w->tunnel != NULL) broken("told of no tunnel, or twice");
        w->told = true;
        w->counted = w->left ? r->right_to_left : r->left_to_right;
        if (r->what == RELAY_DONE) messages++;
        else if (k != NULL) em_h2_drop(h, w->stream, NGHTTP2_CONNECT_ERROR);
    }
    l->relayed_count = 0;
    buffer told = h->events;
    memset(&h->events, 0, sizeof h->events);
    for (uint32_t at = told.begin; at < told.end;) {
        h2_event e;
        memcpy(&e, told.at + at, sizeof e);
        at += (uint32_t)sizeof e + e.size;
        if (k == NULL) continue;
        if (e.what == H2_REQUESTED) {
            nghttp2_nv status = {(uint8_t *)":status", (uint8_t *)"200", 7, 3, NGHTTP2_NV_FLAG_NONE};
            if (em_h2_head(h, e.stream, &status, 1, false)) lend(l, k, e.stream, choice);
        } else if (e.what == H2_RESPONDED && em_h2_stream(h, e.stream) != NULL &&
                   em_h2_stream(h, e.stream)->heard_head) {
            lend(l, k, e.stream, choice);
        } else if (e.what == H2_ARRIVED) {
            em_h2_give_back(h, 0, e.code, 0);
        }
    }
    em_buffer_free(&told);
    l->links_told = false;
    if (k != NULL) em_link_due(l, k);
}

static void drain(way *w) {
    uint8_t data[65536];
    ssize_t got;
    while ((got = recv(w->its, data, sizeof data, MSG_DONTWAIT)) > 0) w->heard += (uint64_t)got;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static lane *l;
    if (size == 0) return 0;
    if (l == NULL) {
        l = calloc(1, sizeof *l);
        if (!em_lane_open(l)) abort();
        l->set = (settings){{4096, 20, 512}, 16384, 4, 75000000, 300000000, 300000000, 30000000};
    }
    bool calls = data[0] & 1;
    int peers[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, peers)) abort();
    h2 h;
    h2_bounds bounds = {8, 4096, 16384, 65536, 65536, 65536, 100, 50, 20, 10};
    if (!em_h2_open(&h, calls, &bounds, 0)) abort();
    link_ *k = NULL;
    if (!em_lane_link(l, 9, peers[0], NULL, &h, &em_link_visitor, 30000000, &k)) abort();
    if (calls) {
        nghttp2_nv asked[] = {{(uint8_t *)":method", (uint8_t *)"CONNECT", 7, 7, 0},
                              {(uint8_t *)":authority", (uint8_t *)"10.0.0.2:80", 10, 11, 0}};
        if (em_h2_request(&h, asked, 2, false, NULL) < 0) abort();
    }
    memory_fails();
    for (size_t at = 1; at + 2 <= size;) {
        uint8_t who = data[at], count = data[at + 1];
        at += 2;
        size_t here = count < size - at ? count : size - at;
        way *w = &ways[(who >> 4) & (MOST - 1)];
        switch (who % 8) {
        case 0: case 1: case 2: (void)!send(peers[1], data + at, here, MSG_NOSIGNAL); break;
        case 3: case 4: if (w->used) (void)!send(w->its, data + at, here, MSG_NOSIGNAL); break;
        case 5: if (w->used) drain(w); break;
        case 6:
            if (who & 8) shutdown(peers[1], SHUT_WR);
            else if (w->used) shutdown(w->its, who & 128 ? SHUT_RDWR : SHUT_WR);
            break;
        case 7:
            if (who & 8) em_h2_go_away(&h);
            else if (w->used && w->tunnel != NULL && who & 128) em_tunnel_drop(l, w->tunnel);
            em_lane_tick(l);
            break;
        }
        at += here;
        if (!(who & 64)) {
            while (em_lane_turn(l, 1000)) {}
            uint8_t scrap[65536];
            while (recv(peers[1], scrap, sizeof scrap, MSG_DONTWAIT) > 0) {}
            for (tunnel *t = l->first_tunnel; t != NULL; t = t->next)
                if (held(&t->waiting) > 65536 || t->owed > held(&t->waiting)) broken("more waits than a window");
        }
        python(l, &h, k, who >> 3);
    }
    if (data[0] & 2)
        for (int i = 0; i < MOST; i++)
            if (ways[i].used && ways[i].tunnel != NULL) em_tunnel_drop(l, ways[i].tunnel);
    em_link_drop(l, k, false);
    python(l, &h, NULL, 0);
    for (int i = 0; i < MOST; i++) {   /* those whose stream was over go on without the link */
        if (!ways[i].used) continue;
        for (int turns = 0; turns < 100 && ways[i].tunnel != NULL; turns++) {
            drain(&ways[i]);
            while (em_lane_turn(l, 1000)) {}
        }
        if (ways[i].tunnel != NULL) broken("a tunnel without a link does not end");
    }
    python(l, &h, NULL, 0);
    em_h2_close(&h);
    while (em_lane_turn(l, 1000)) {}
    close(peers[0]);
    close(peers[1]);
    for (int i = 0; i < MOST; i++) {
        if (!ways[i].used) continue;
        drain(&ways[i]);
        if (ways[i].told && ways[i].heard != ways[i].counted) broken("the count is not what the socket got");
        close(ways[i].ours);
        close(ways[i].its);
    }
    memory_is_back();
    memset(ways, 0, sizeof ways);
    if (l->links || l->tunnels || l->first_tunnel || l->due_tunnels || l->relayed_count) broken("something is left");
    if (l->no_memory) broken("no memory");
    return 0;
}

#define WORD(text) {text, sizeof text - 1}
static const word WORDS[] = {
    WORD("\0\0\0\4\1\0\0\0\0"),
    WORD("\0\0\0\4\0\0\0\0\0"),
    WORD("\0\0\4\3\0\0\0\0\1\0\0\0\10"),
    WORD("\0\0\4\3\0\0\0\0\1\0\0\0\0"),
    WORD("\0\0\4\10\0\0\0\0\0\0\0\377\377"),
    WORD("\0\0\4\10\0\0\0\0\1\0\0\0\1"),
    WORD("\0\0\10\6\0\0\0\0\0abcdefgh"),
    WORD("\0\0\3\0\0\0\0\0\1abc"),
    WORD("\0\0\3\0\1\0\0\0\1abc"),
    WORD("\0\0\0\0\1\0\0\0\1"),
    WORD("\0\0\1\1\4\0\0\0\1\210"),
    WORD("\0\0\1\1\5\0\0\0\1\210"),
    WORD("\0\0\10\7\0\0\0\0\0\0\0\0\1\0\0\0\0"),
    WORD("\0\0\3\0\0\0\0\0\3abc"),
    WORD("\0\0\0\0\1\0\0\0\3"),
    WORD("\0\0\6\4\0\0\0\0\0\0\4\0\0\0\0"),
    WORD("\0\0\4\0\10\0\0\0\1\3abc"),
    WORD("\0\7CONNECT"),
    WORD("\1\0130.0.0.2:80"),
    WORD("\0\0\4\1\5\0\0\0\1\0\1x\0"),
};
#define REACHED "tunnels ended well"
#include "driver.h"
