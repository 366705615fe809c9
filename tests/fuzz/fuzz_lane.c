/* Fuzz the native lane as a caller and a server would: arbitrary bytes from both, in pieces, with ends and resets
 * between them.
 *
 * An input is a list of steps: one byte that says who acts, one byte of length, the bytes. What must hold whatever they
 * say:
 *   - every request that reaches the server is one that was learned: GET or POST of /books (nobody smuggles another
 *     one), where no field is "x-kind: a", which another rule applies to;
 *   - the rule's change was made to it: its head has no field "x-gone", and one "x-new" of ours (a rule changes header
 *     fields; trailer fields are no part of the head, RFC 9110 6.5.1, and stay);
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

#include "../../nodeproxy/native/call.h"
#include "../../nodeproxy/native/finish.h"
#include "../../nodeproxy/native/lane.h"
#include "words.h"

static int url_ok, messages, changed, in_trailers;
static char seen[4096];
static size_t seen_size, name_size;

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

static int name_end(llhttp_t *p) {
    (void)p;
    name_size = seen_size;
    if (!in_trailers && seen_size == 6 && strncasecmp(seen, "x-gone", 6) == 0)
        broken("a field that the rule removes reached the server");
    return 0;
}

static int field_end(llhttp_t *p) {
    (void)p;
    if (in_trailers) return seen_size = 0;
    size_t size = seen_size - name_size;
    while (size && (seen[name_size + size - 1] == ' ' || seen[name_size + size - 1] == '\t')) size--;
    if (name_size == 6 && size == 1 && strncasecmp(seen, "x-kind", 6) == 0 && seen[6] == 'a')
        broken("a request to which another rule applies reached the server");
    if (name_size == 5 && size == 1 && strncasecmp(seen, "x-new", 5) == 0 && seen[5] == '1') changed = 1;
    seen_size = 0;
    return 0;
}

static int head_end(llhttp_t *p) {
    if ((p->method != HTTP_GET && p->method != HTTP_POST) || !url_ok)
        broken("a request that was not learned reached the server");
    if (!changed) broken("a field that the rule sets did not reach the server");
    changed = 0;
    in_trailers = 1;
    messages++;
    return 0;
}

static int begins(llhttp_t *p) {
    (void)p;
    changed = in_trailers = 0;
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

/* Records of what was refused, and of what is over, are whole. */
static void walk(buffer *records, size_t size, size_t text_size_at) {
    while (held(records)) {
        uint32_t text;
        if (held(records) < size) broken("a part of a record");
        memcpy(&text, first(records) + text_size_at, sizeof text);
        if (held(records) < size + text || text == 0) broken("a record of another size than it says");
        em_buffer_take(records, (uint32_t)size + text);
    }
}

static void clear_ups(lane *l, int *away) {
    for (uint32_t i = 0; i < l->up_count; i++) {
        *away = 1;
        em_buffer_free(&l->ups[i].data);
        em_buffer_free(&l->ups[i].rest);
    }
    l->up_count = 0;
    l->gone_count = 0;
    walk(&l->refusals, sizeof(refusal), offsetof(refusal, text_size));
    walk(&l->log, sizeof(done), offsetof(done, text_size));
}

static field text_field(const char *line, uint32_t name_size_, uint32_t value_size) {
    const uint8_t *at = (const uint8_t *)line;
    return (field){at, name_size_ + 2 + value_size, name_size_, at + name_size_ + 2, value_size, PLAIN};
}

/* One section, which a request without x-kind or with another one than "a" belongs to; and a change of both messages.
 */
static void rule(lane *l, plan *p) {
    static const uint8_t one = 1;
    if (!em_plan_divide(p, &one, 1)) abort();
    change *g = em_change_new(0);
    g->drop[g->dropped++] = text_field("x-gone", 6, 0);
    g->drop[g->dropped++] = text_field("x-new", 5, 0);
    g->add[g->added++] = text_field("x-new: 1\r\n", 5, 1);
    g->users++;
    p->group[0].asks = p->group[0].answers = g;
    looks *k = em_looks_new(1, 0);
    k->values[0] = (span){(const uint8_t *)"a", 1};
    k->look[k->count++] = (look){{(const uint8_t *)"x-kind", 6}, k->values, 1, false};
    k->look[k->count++] = (look){{(const uint8_t *)"v", 1}, NULL, 0, true};
    p->looks = k;
    p->ruled = true;
    static const char *const ASKED[] = {"GET /books HTTP/1.1\r\nhost: store\r\n\r\n",
                                        "POST /books HTTP/1.1\r\nhost: store\r\n\r\n",
                                        "GET /admin HTTP/1.1\r\nhost: store\r\n\r\n",
                                        "GET /books?v=1 HTTP/1.1\r\nhost: store\r\nx-kind: b\r\n\r\n"};
    for (size_t i = 0; i < sizeof ASKED / sizeof *ASKED; i++) {
        head h;
        if (em_read_request((const uint8_t *)ASKED[i], strlen(ASKED[i]), &l->set.head, &h) <= 0) abort();
        if (!em_entry_learn(l, p, NULL, NULL, 0, &h)) abort();
    }
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
    static plan *p;
    static target *t;
    static row r;
    if (l == NULL) {
        l = calloc(1, sizeof *l);
        if (!em_lane_open(l)) abort();
        l->set = (settings){{4096, 20, 512}, 16384, 4, 75000000, 300000000, 300000000, 30000000};
        l->logging = true;
        t = em_target_new(l);
        p = em_plan_new(l, (const uint8_t *)"10.0.0.1", 8, 1);
        p->group[0].seats = calloc(1, sizeof(seat));
        p->group[0].seats[0].target = t;
        t->users++;
        p->group[0].count = 1;
        const seat *at = &p->group[0].seats[0];
        learn(l, p, at, &r, NO_DENIAL, "GET", "/books");
        learn(l, p, at, &r, NO_DENIAL, "POST", "/books");
        static const char NO[] =
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nx-id: 00000000000000000000000000000000\r\n\r\nno";
        em_denial_new(l, (const uint8_t *)NO, sizeof NO - 1, sizeof NO - 3, 49, 0);
        learn(l, p, at, NULL, 0, "GET", "/admin");
        rule(l, p);
    }
    llhttp_settings_t reads;
    llhttp_settings_init(&reads);
    reads.on_message_begin = begins;
    reads.on_url = keep;
    reads.on_url_complete = url_end;
    reads.on_header_field = keep;
    reads.on_header_field_complete = name_end;
    reads.on_header_value = keep;
    reads.on_header_value_complete = field_end;
    reads.on_headers_complete = head_end;
    llhttp_t parser;
    llhttp_init(&parser, HTTP_REQUEST, &reads);
    seen_size = 0;

    int callers[2], servers[2], away = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, callers) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, servers))
        abort();
    caller *c = NULL;
    uint32_t before = l->callers;
    if (!em_lane_lend(l, 1, servers[0], t) || !em_lane_carry(l, 1, callers[0], p, NULL, 0, &c)) abort();
    memory_fails();
    for (size_t at = 0; at + 2 <= size && !away;) {
        uint8_t who = data[at], count = data[at + 1];
        at += 2;
        size_t here = count < size - at ? count : size - at;
        switch (who % 8) {
        case 0: case 1: case 2: (void)!send(callers[1], data + at, here, MSG_NOSIGNAL); break;
        case 3: case 4: case 5: (void)!send(servers[1], data + at, here, MSG_NOSIGNAL); break;
        case 6: shutdown(who & 8 ? servers[1] : callers[1], SHUT_WR); break;
        case 7:
            if (who & 8 && c) em_lane_recall(l, c);
            else if (who & 16) em_lane_tick(l);
            break;
        }
        at += here;
        if (!(who & 64)) {
            while (em_lane_turn(l, 1000)) {}
            drain(servers[1], &parser);
            drain(callers[1], NULL);
        }
        clear_ups(l, &away);
    }
    close(callers[1]);
    while (em_lane_turn(l, 1000)) {}
    drain(servers[1], &parser);
    close(servers[1]);
    while (em_lane_turn(l, 1000)) {}
    clear_ups(l, &away);
    if (c) {
        up left;
        em_lane_drop(l, c, &left);
        em_buffer_free(&left.data);
        em_buffer_free(&left.rest);
    }
    while (t->resting) em_server_close(l, t->resting);
    while (em_lane_turn(l, 1000)) {}
    clear_ups(l, &away);
    close(callers[0]);
    close(servers[0]);
    memory_is_back();
    if (l->callers != before || l->calls || t->in_flight || l->servers || t->users != 2 || p->users != 1)
        broken("something is left");
    if (l->no_memory) broken("no memory");
    return 0;
}

#define WORD(text) {text, sizeof text - 1}
static const word WORDS[] = {WORD("\r\n"),
                             WORD("\r\n\r\n"),
                             WORD("\n"),
                             WORD("GET /books HTTP/1.1\r\n"),
                             WORD("host: store\r\n"),
                             WORD("POST "),
                             WORD("HEAD "),
                             WORD("content-length: 3\r\n"),
                             WORD("transfer-encoding: chunked\r\n"),
                             WORD("0\r\n\r\n"),
                             WORD("3\r\nabc\r\n"),
                             WORD("HTTP/1.1 200 OK\r\n"),
                             WORD("connection: close\r\n"),
                             WORD(": "),
                             WORD(" "),
                             WORD("\0"),
                             WORD("/admin"),
                             WORD("%2f"),
                             WORD(".."),
                             WORD("HTTP/1.1 304 X\r\n"),
                             WORD("HTTP/1.1 100 C\r\n\r\n"),
                             WORD("content-length: 99999999999999999999\r\n"),
                             WORD("x-forwarded-for: 1\r\n"),
                             WORD("\t"),
                             WORD("x-kind: a\r\n"),
                             WORD("x-kind: b\r\n"),
                             WORD("X-Gone: 1\r\n"),
                             WORD("x-new: 2\r\n"),
                             WORD("?v=1"),
                             WORD("&"),
                             WORD("ffffffffffffffff\r\n")};
#include "driver.h"
