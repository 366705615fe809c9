/* Fuzz the native lane as a caller and a server would: arbitrary bytes from both, in pieces, with ends and resets between them.
 *
 * An input is a list of steps: one byte that says who acts, one byte of length, the bytes. What must hold whatever they say:
 *   - every request that reaches the server is one that was learned: GET or POST of /books (nobody smuggles another one);
 *   - sanitizers are silent, and nothing is left when the lane is closed.
 * With libFuzzer: clang -fsanitize=fuzzer,address ... -DLIBFUZZER. With gcc: the driver below mutates the
 * corpus by itself; a seed says it all again.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../nodeproxy/native/lane.h"
#include "words.h"

static int url_ok, messages;
static char seen[4096];
static size_t seen_size;

static void broken(const char *what) {
    fprintf(stderr, "property broken: %s\n", what);
    abort();
}

/* ---- the server's own reading of what reaches it ---- */

static int keep(llhttp_t *p, const char *at, size_t size) {
    (void)p;
    if (seen_size + size < sizeof seen) {
        memcpy(seen + seen_size, at, size);
        seen_size += size;
    }
    return 0;
}

static int url_end(llhttp_t *p) {
    (void)p;
    const char *mark = memchr(seen, '?', seen_size);
    size_t path = mark ? (size_t)(mark - seen) : seen_size;
    url_ok = path == 6 && memcmp(seen, "/books", 6) == 0;
    seen_size = 0;
    return 0;
}

static int field_end(llhttp_t *p) {
    (void)p;
    seen_size = 0;
    return 0;
}

static int head_end(llhttp_t *p) {
    if ((p->method != HTTP_GET && p->method != HTTP_POST) || !url_ok) broken("a request that was not learned reached the server");
    messages++;
    return 0;
}

static void server_reads(llhttp_t *parser, const uint8_t *data, size_t size) {
    if (llhttp_execute(parser, (const char *)data, size) != HPE_OK) {
        fprintf(stderr, "%s: %.*s\n", llhttp_get_error_reason(parser), (int)size, (const char *)data);
        broken("what reached the server is no HTTP/1.1");
    }
}

/* ---- one input ---- */

static int drain(int fd, llhttp_t *parser) {
    uint8_t data[65536];
    ssize_t got;
    while ((got = recv(fd, data, sizeof data, MSG_DONTWAIT)) > 0)
        if (parser) server_reads(parser, data, (size_t)got);
    return got == 0;
}

static void clear_ups(lane *l, int *away) {
    for (uint32_t i = 0; i < l->up_count; i++) {
        *away = 1;
        buffer_free(&l->ups[i].data);
        buffer_free(&l->ups[i].rest);
    }
    l->up_count = 0;
    l->gone_count = 0;
    buffer_free(&l->refusals);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static lane *l;
    static plan *p;
    static target *t;
    static row r;
    if (l == NULL) {
        l = calloc(1, sizeof *l);
        if (!lane_open(l)) abort();
        l->set = (settings){{4096, 20, 512}, 16384, 4, 75000000, 300000000, 300000000, 30000000};
        t = target_new(l);
        p = plan_new(l, (const uint8_t *)"10.0.0.1", 8, 1);
        p->group[0].seats = calloc(1, sizeof(seat));
        p->group[0].seats[0].target = t;
        t->users++;
        p->group[0].count = 1;
        const seat *at = &p->group[0].seats[0];
        entry_learn(l, p, at, &r, NO_DENIAL, (const uint8_t *)"GET", 3, (const uint8_t *)"/books", 6, (const uint8_t *)"store", 5);
        entry_learn(l, p, at, &r, NO_DENIAL, (const uint8_t *)"POST", 4, (const uint8_t *)"/books", 6, (const uint8_t *)"store", 5);
        static const char NO[] = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nx-id: 00000000000000000000000000000000\r\n\r\nno";
        denial_new(l, (const uint8_t *)NO, sizeof NO - 1, sizeof NO - 3, 49);
        entry_learn(l, p, at, NULL, 0, (const uint8_t *)"GET", 3, (const uint8_t *)"/admin", 6, (const uint8_t *)"store", 5);
    }
    llhttp_settings_t reads;
    llhttp_settings_init(&reads);
    reads.on_url = keep;
    reads.on_url_complete = url_end;
    reads.on_header_value_complete = field_end;
    reads.on_headers_complete = head_end;
    llhttp_t parser;
    llhttp_init(&parser, HTTP_REQUEST, &reads);
    seen_size = 0;

    int callers[2], servers[2], away = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, callers) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, servers)) abort();
    caller *c = NULL;
    uint32_t before = l->callers;
    if (!lane_lend(l, 1, servers[0], t) || !lane_carry(l, 1, callers[0], p, NULL, 0, &c)) abort();
    for (size_t at = 0; at + 2 <= size && !away;) {
        uint8_t who = data[at], count = data[at + 1];
        at += 2;
        size_t here = count < size - at ? count : size - at;
        switch (who % 8) {
        case 0: case 1: case 2: (void)!send(callers[1], data + at, here, MSG_NOSIGNAL); break;
        case 3: case 4: case 5: (void)!send(servers[1], data + at, here, MSG_NOSIGNAL); break;
        case 6: shutdown(who & 8 ? servers[1] : callers[1], SHUT_WR); break;
        case 7:
            if (who & 8 && c) lane_recall(l, c);
            else if (who & 16) lane_tick(l);
            break;
        }
        at += here;
        if (!(who & 64)) {
            while (lane_turn(l, 1000)) {}
            drain(servers[1], &parser);
            drain(callers[1], NULL);
        }
        clear_ups(l, &away);
    }
    close(callers[1]);
    while (lane_turn(l, 1000)) {}
    drain(servers[1], &parser);
    close(servers[1]);
    while (lane_turn(l, 1000)) {}
    clear_ups(l, &away);
    if (c) {
        up left;
        lane_drop(l, c, &left);
        buffer_free(&left.data);
        buffer_free(&left.rest);
    }
    while (t->resting) server_close(l, t->resting);
    while (lane_turn(l, 1000)) {}
    clear_ups(l, &away);
    close(callers[0]);
    close(servers[0]);
    if (l->callers != before || l->calls || t->in_flight || l->servers || t->users != 2 || p->users != 1) broken("something is left");
    if (l->no_memory) broken("no memory");
    return 0;
}

#define WORD(text) {text, sizeof text - 1}
static const word WORDS[] = {WORD("\r\n"), WORD("\r\n\r\n"), WORD("\n"), WORD("GET /books HTTP/1.1\r\n"), WORD("host: store\r\n"), WORD("POST "), WORD("HEAD "), WORD("content-length: 3\r\n"), WORD("transfer-encoding: chunked\r\n"), WORD("0\r\n\r\n"), WORD("3\r\nabc\r\n"), WORD("HTTP/1.1 200 OK\r\n"), WORD("connection: close\r\n"), WORD(": "), WORD(" "), WORD("\0"), WORD("/admin"), WORD("%2f"), WORD(".."), WORD("HTTP/1.1 304 X\r\n"), WORD("HTTP/1.1 100 C\r\n\r\n"), WORD("content-length: 99999999999999999999\r\n"), WORD("x-forwarded-for: 1\r\n"), WORD("\t"), WORD("ffffffffffffffff\r\n")};
#include "driver.h"
