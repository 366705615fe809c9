/* Fuzz each parser of the native lane by itself. What it reads lies in a heap block of exactly its size, so
 * AddressSanitizer sees a read past the end, be it of one byte.
 *
 * An input is a byte that says which parser (PARSERS), a byte that says how its bytes are cut in two, and the bytes.
 * What must hold whatever they are:
 *   - what is read depends on the bytes alone, not on what lies behind them: the same bytes are read again with others
 * behind them;
 *   - what was found lies within them; sanitizers are silent.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../nodeproxy/native/body.h"
#include "../../nodeproxy/native/cross.h"
#include "../../nodeproxy/native/fields.h"
#include "../../nodeproxy/native/lane.h"
#include "../../nodeproxy/native/link.h"
#include "../../nodeproxy/native/relay.h"
#include "words.h"

#define FOUND 65536

static int messages;   /* inputs that a parser took */
static const head_limits LIMITS = {4096, 20, 512};

static void broken(const char *what) {
    fprintf(stderr, "property broken: %s\n", what);
    abort();
}

/* What a parser found, to be compared. */
typedef struct { uint8_t text[FOUND]; size_t size; } found;

static void note_bytes(found *f, const void *data, size_t size) {
    if (size > sizeof f->text - f->size) size = sizeof f->text - f->size;
    if (size) memcpy(f->text + f->size, data, size);
    f->size += size;
}

static void note_number(found *f, int64_t number) { note_bytes(f, &number, sizeof number); }

static void note_buffer(found *f, buffer *b) {
    note_number(f, held(b));
    note_bytes(f, first(b), held(b));
    em_buffer_free(b);
}

static void within(const uint8_t *data, size_t size, const uint8_t *at, size_t length) {
    if (length && (at < data || at + length > data + size)) broken("what was found lies outside of what was read");
}

/* ---- heads and bodies of HTTP/1.1 ---- */

static void parse_request(found *f, const uint8_t *data, size_t size, size_t cut) {
    head *h = malloc(sizeof *h);
    int64_t taken = em_read_request(data, size, &LIMITS, h);
    (void)cut;
    note_number(f, taken);
    if (taken > 0) {
        buffer out = {0};
        within(data, size, h->target, h->target_size);
        within(data, size, h->host, h->host_size);
        for (uint32_t i = 0; i < h->fields; i++) within(data, size, h->field[i].line, h->field[i].line_size + 2u);
        if (em_write_request(&out, h, (const uint8_t *)"10.0.0.1", 8)) note_buffer(f, &out);
        messages++;
    }
    free(h);
}

static void parse_response(found *f, const uint8_t *data, size_t size, size_t cut) {
    head *h = malloc(sizeof *h);
    int64_t taken = em_read_response(data, size, &LIMITS, h);
    (void)cut;
    note_number(f, taken);
    if (taken > 0) {
        buffer out = {0};
        within(data, size, h->reason, h->reason_size);
        for (uint32_t i = 0; i < h->fields; i++) within(data, size, h->field[i].line, h->field[i].line_size + 2u);
        if (em_write_response(&out, h, h->length, h->chunked, h->close)) note_buffer(f, &out);
        messages++;
    }
    free(h);
}

/* A chunked body in two pieces, and the trailers of its end as a caller's connection gets them. */
static void parse_chunks(found *f, const uint8_t *data, size_t size, size_t cut) {
    chunks k = {0};
    buffer out = {0};
    bool ended = false;
    em_chunks_begin(&k, true, cut & 1);
    uint8_t *first_piece = malloc(cut);
    if (cut) memcpy(first_piece, data, cut);
    int64_t taken = em_chunks_read(&k, first_piece, cut, &out, &ended);
    free(first_piece);
    if (taken == (int64_t)cut && !ended) taken = em_chunks_read(&k, data + cut, size - cut, &out, &ended);
    note_number(f, taken);
    note_number(f, ended);
    note_buffer(f, &out);
    if (taken < 0) note_bytes(f, k.why, strlen(k.why));
    if (ended) {
        lane *l = calloc(1, sizeof *l);
        caller *c = calloc(1, sizeof *c);
        c->trailers = k.trailers;
        memset(&k.trailers, 0, sizeof k.trailers);
        if (!em_add_end(l, c)) broken("no memory");
        note_buffer(f, &l->work);
        free(c);
        free(l);
        messages++;
    }
    em_buffer_free(&k.trailers);
}

/* ---- text of fields ---- */

static void parse_names(found *f, const uint8_t *data, size_t size, size_t cut) {
    note_number(f, em_trailer_travels(data, size));
    note_number(f, em_is_secret(data, size));
    note_number(f, em_same_word(data, size, "transfer-encoding"));
    note_number(f, (int64_t)em_hash_of(0, data, size));
    (void)cut;
}

/* X-Forwarded-For, and the door that it opens with what is asked for. */
static void parse_forwarded(found *f, const uint8_t *data, size_t size, size_t cut) {
    buffer out = {0};
    head *h = calloc(1, sizeof *h);
    h->fields = 2;
    h->field[0] = (field){data, 0, 0, data, (uint32_t)cut, FORWARDED_FOR};
    h->field[1] = (field){data, 0, 0, data + cut, (uint32_t)(size - cut), FORWARDED_FOR};
    if (!em_write_forwarded_for(&out, h, (const uint8_t *)"10.0.0.1", 8)) broken("no memory");
    note_buffer(f, &out);
    free(h);
    lane *l = calloc(1, sizeof *l);
    link_ *k = calloc(1, sizeof *k);
    plan p = {.users = 1};
    if (!em_door_learn(l, k, data, cut, data + cut, size - cut, &p, 1)) broken("no memory");
    note_number(f, em_door_find(k, data, cut, data + cut, size - cut) != NULL);
    note_number(f, k->doors);
    for (uint32_t i = 0; i < k->doors; i++) free(k->door[i].key);
    free(k);
    free(l);
    messages++;
}

/* The fields of a stream, as they are kept: for each a pair of sizes (here one byte each), the name, the value. */
static void parse_fields(found *f, const uint8_t *data, size_t size, size_t cut) {
    h2 of = {.bounds = {.head_bytes = 4096}};
    stream s = {.h2 = &of};
    size_t room = 0;
    for (size_t at = 0; at + 2 <= size;) {
        size_t name = data[at], value = data[at + 1];
        if (at + 2 + name + value > size) break;
        at += 2 + name + value;
        room += sizeof(field_sizes) + name + value;
    }
    uint8_t *text = malloc(room);   /* exactly */
    size_t to = 0;
    for (size_t at = 0; to < room;) {
        field_sizes sizes = {data[at], data[at + 1]};
        memcpy(text + to, &sizes, sizeof sizes);
        memcpy(text + to + sizeof sizes, data + at + 2, sizes.name_size + sizes.value_size);
        at += 2 + sizes.name_size + sizes.value_size;
        to += sizeof sizes + sizes.name_size + sizes.value_size;
    }
    s.fields = (buffer){text, 0, (uint32_t)room, (uint32_t)room};
    s.list_size = (uint32_t)room;
    buffer out = {0};
    asked a;
    bool local = cut & 1, ended = cut & 2;
    head *h = malloc(sizeof *h);
    note_number(f, em_request_text(&out, &s, ended, local, &a));
    note_number(f, held(&out) ? em_read_request(first(&out), held(&out), &LIMITS, h) : 0);
    note_buffer(f, &out);
    bool plain = em_response_text(&out, &s, ended, cut & 4, cut & 8, cut & 16);
    note_number(f, plain);
    int64_t taken = plain ? em_read_response(first(&out), held(&out), &LIMITS, h) : 0;
    note_number(f, taken);
    if (taken > 0) messages++;
    note_buffer(f, &out);
    note_number(f, em_trailers_text(&out, &s));
    note_buffer(f, &out);
    free(h);
    free(text);
}

/* ---- frames of HTTP/2 ---- */

static void parse_frames(found *f, const uint8_t *data, size_t size, size_t cut, bool client) {
    static const h2_bounds bounds = {8, 4096, 16384, 65536, 65536, 65536, 100, 50, 20, 10};
    h2 *h = malloc(sizeof *h);
    if (!em_h2_open(h, client, &bounds, 0)) broken("no memory");
    uint8_t *first_piece = malloc(cut);
    if (cut) memcpy(first_piece, data, cut);
    em_h2_feed(h, first_piece, cut, 0);
    free(first_piece);
    em_h2_feed(h, data + cut, size - cut, 0);
    note_number(f, h->over);
    note_bytes(f, h->violation, strlen(h->violation));
    if (!h->over && h->settled) messages++;
    note_buffer(f, &h->events);
    note_buffer(f, &h->out);
    em_h2_close(h);
    free(h);
}

static void parse_server(found *f, const uint8_t *data, size_t size, size_t cut) {
    parse_frames(f, data, size, cut, false);
}
static void parse_client(found *f, const uint8_t *data, size_t size, size_t cut) {
    parse_frames(f, data, size, cut, true);
}

/* ---- what a link, a tunnel and a relay were handed by Python: bytes that it had read before ---- */

static void open_lane(lane *l) {
    if (!em_lane_open(l)) abort();
    l->set = (settings){LIMITS, 16384, 4, 75000000, 300000000, 300000000, 30000000};
}

static void parse_fed(found *f, const uint8_t *data, size_t size, size_t cut) {
    static const h2_bounds bounds = {8, 4096, 16384, 65536, 65536, 65536, 100, 50, 20, 10};
    lane *l = calloc(1, sizeof *l);
    open_lane(l);
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair)) abort();
    h2 *h = malloc(sizeof *h);
    link_ *k = NULL;
    if (!em_h2_open(h, false, &bounds, 0) || !em_lane_link(l, 1, pair[0], NULL, h, &em_link_visitor, 30000000, &k))
        broken("no memory");
    em_link_feed(l, k, data, size);
    while (em_lane_turn(l, 1000)) {}
    note_number(f, h->over);
    note_buffer(f, &h->events);
    em_link_drop(l, k, false);
    em_h2_close(h);
    free(h);
    em_lane_close(l);
    free(l);
    close(pair[0]);
    close(pair[1]);
    (void)cut;
    messages++;
}

static void parse_relayed(found *f, const uint8_t *data, size_t size, size_t cut) {
    lane *l = calloc(1, sizeof *l);
    open_lane(l);
    int left[2], right[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, left) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, right))
        abort();
    const int ends[2] = {left[0], right[0]};
    uint32_t all = (uint32_t)size;
    const buffer before[2] = {{(uint8_t *)data, 0, (uint32_t)cut, all}, {(uint8_t *)data, (uint32_t)cut, all, all}};
    relay *r = NULL;
    if (!em_lane_relay(l, 1, ends, before, 300000000, &r)) broken("no memory");
    while (em_lane_turn(l, 1000)) {}
    uint8_t *got = malloc(size + 1);
    ssize_t there = recv(right[1], got, size + 1, MSG_DONTWAIT), back = recv(left[1], got, size + 1, MSG_DONTWAIT);
    note_number(f, there);
    note_number(f, back);
    free(got);
    if (r != NULL) em_relay_drop(l, r);
    em_lane_close(l);
    free(l);
    for (int i = 0; i < 2; i++) {
        close(left[i]);
        close(right[i]);
    }
    messages++;
}

static void (*const PARSERS[])(found *, const uint8_t *, size_t, size_t) = {
    parse_request, parse_response, parse_chunks, parse_names, parse_forwarded,
    parse_fields,  parse_server,   parse_client, parse_fed,   parse_relayed,
};
enum { COUNT = sizeof PARSERS / sizeof *PARSERS };

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_size) {
    static found alone, followed;
    if (input_size < 2) return 0;
    void (*parse)(found *, const uint8_t *, size_t, size_t) = PARSERS[input[0] % COUNT];
    const uint8_t *data = input + 2;
    size_t size = input_size - 2, cut = size ? input[1] % (size + 1) : 0;
    uint8_t *exact = malloc(size);
    if (size) memcpy(exact, data, size);
    alone.size = 0;
    parse(&alone, exact, size, cut);
    free(exact);
    /* The same bytes, and behind them what would make some of them whole. */
    static const char BEHIND[] = "\r\n\r\n HTTP/1.1\r\nhost: store\r\n\r\n";
    uint8_t *longer = malloc(size + sizeof BEHIND);
    if (size) memcpy(longer, data, size);
    memcpy(longer + size, BEHIND, sizeof BEHIND);
    followed.size = 0;
    parse(&followed, longer, size, cut);
    free(longer);
    if (alone.size != followed.size || memcmp(alone.text, followed.text, alone.size) != 0)
        broken("what follows the bytes was read");
    return 0;
}

#define WORD(text) {text, sizeof text - 1}
static const word WORDS[] = {
    WORD("\r\n"),
    WORD("\r\n\r\n"),
    WORD("\r"),
    WORD("\n"),
    WORD(" HTTP/1.1\r\n"),
    WORD("GET / HTTP/1.1\r\n"),
    WORD("host: store\r\n"),
    WORD("POST "),
    WORD("content-length: 3\r\n"),
    WORD("transfer-encoding: chunked\r\n"),
    WORD("0\r\n\r\n"),
    WORD("3\r\nabc\r\n"),
    WORD("HTTP/1.1 200 OK\r\n"),
    WORD("HTTP/1.1 "),
    WORD("connection: close\r\n"),
    WORD(": "),
    WORD(","),
    WORD(" "),
    WORD("\t"),
    WORD("\0"),
    WORD("/"),
    WORD("?"),
    WORD("x-forwarded-for: 1\r\n"),
    WORD("\7\3:status200"),
    WORD("\7\3:methodGET"),
    WORD("\5\1:path/"),
    WORD("\12\5:authoritystore"),
    WORD("\0\0\0\4\0\0\0\0\0"),
    WORD("\0\0\1\1\5\0\0\0\1\210"),
    WORD("\0\0\1\1\1\0\0\0\1\210"),
    WORD("\0\0\1\11\4\0\0\0\1\204"),
    WORD("\0\0\3\0\1\0\0\0\1abc"),
    WORD("\0\0\10\6\0\0\0\0\0abcdefgh"),
    WORD("\177\201\377\3"),
    WORD("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
};
#define REACHED "inputs were taken for what they pass for"
#include "driver.h"
