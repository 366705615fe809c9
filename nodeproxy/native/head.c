/* One message head: whether it is plain enough for the fast path, and how it is written for the next hop.
 *
 * Plain heads are a subset of what nodeproxy/codec/http1.py and codec/fields.py admit. They are sent on as Python would
 * send them: the fields as they came, with new framing. Every other head is odd, and is handed to Python. llhttp
 * (strict) has to agree with each head, see call.c.
 */
#include "head.h"

#include <string.h>

/* RFC 9110 section 5.6.2: characters of a token, in lower case; 0 for others. */
static const uint8_t TOKEN[256] = {
    ['!'] = '!', ['#'] = '#', ['$'] = '$', ['%'] = '%', ['&'] = '&', ['\''] = '\'', ['*'] = '*', ['+'] = '+',
    ['-'] = '-', ['.'] = '.', ['0'] = '0', ['1'] = '1', ['2'] = '2', ['3'] = '3', ['4'] = '4', ['5'] = '5',
    ['6'] = '6', ['7'] = '7', ['8'] = '8', ['9'] = '9', ['A'] = 'a', ['B'] = 'b', ['C'] = 'c', ['D'] = 'd',
    ['E'] = 'e', ['F'] = 'f', ['G'] = 'g', ['H'] = 'h', ['I'] = 'i', ['J'] = 'j', ['K'] = 'k', ['L'] = 'l',
    ['M'] = 'm', ['N'] = 'n', ['O'] = 'o', ['P'] = 'p', ['Q'] = 'q', ['R'] = 'r', ['S'] = 's', ['T'] = 't',
    ['U'] = 'u', ['V'] = 'v', ['W'] = 'w', ['X'] = 'x', ['Y'] = 'y', ['Z'] = 'z', ['^'] = '^', ['_'] = '_',
    ['`'] = '`', ['a'] = 'a', ['b'] = 'b', ['c'] = 'c', ['d'] = 'd', ['e'] = 'e', ['f'] = 'f', ['g'] = 'g',
    ['h'] = 'h', ['i'] = 'i', ['j'] = 'j', ['k'] = 'k', ['l'] = 'l', ['m'] = 'm', ['n'] = 'n', ['o'] = 'o',
    ['p'] = 'p', ['q'] = 'q', ['r'] = 'r', ['s'] = 's', ['t'] = 't', ['u'] = 'u', ['v'] = 'v', ['w'] = 'w',
    ['x'] = 'x', ['y'] = 'y', ['z'] = 'z', ['|'] = '|', ['~'] = '~',
};

bool em_of_value(uint8_t c) { return c == '\t' || (c >= 32 && c != 127); }
bool em_of_token(uint8_t c) { return TOKEN[c] != 0; }

/* message.py _PLAIN: no escape, and no segment that begins with a dot. */
static bool of_path(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("-._~!$&'()*+,=:@/", c) != NULL);
}
/* message.py _QUERY */
static bool of_query(uint8_t c) { return c == 0x21 || c == 0x22 || (c >= 0x24 && c <= 0x7e); }
/* codec/fields.py is_authority, without brackets */
static bool of_host(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
           c == '_';
}

bool em_same_word(const uint8_t *a, size_t size, const char *word) {
    for (size_t i = 0; i < size; i++) {
        uint8_t c = a[i];
        if (c >= 'A' && c <= 'Z') c = (uint8_t)(c + 32);
        if (word[i] == 0 || c != (uint8_t)word[i]) return false;
    }
    return word[size] == 0;
}

bool em_same_name(const field *f, const uint8_t *name, size_t size) {
    if (f->name_size != size) return false;
    for (size_t i = 0; i < size; i++)
        if (TOKEN[f->line[i]] != name[i]) return false;
    return true;
}

static const uint8_t *head_end(const uint8_t *data, size_t size) {
    return size < 4 ? NULL : memmem(data, size, "\r\n\r\n", 4);
}

/* Find the names that codec/fields.py acts on. False where a field makes the head odd. */
static bool kind_of(const uint8_t *name, size_t size, bool request, uint8_t *kind) {
    *kind = PLAIN;
    switch (size) {
    case 2:
        if (!em_same_word(name, size, "te")) break;
        if (!request) return false;
        *kind = TRAILERS_OK;
        break;
    case 4: if (request && em_same_word(name, size, "host")) *kind = HOST; break;
    case 6: if (request && em_same_word(name, size, "expect")) return false; break;
    case 7: if (em_same_word(name, size, "upgrade")) return false; break;
    case 10:
        if (em_same_word(name, size, "connection")) *kind = CONNECTION;
        else if (em_same_word(name, size, "keep-alive")) *kind = ENDS_HERE;
        break;
    case 11: if (request && em_same_word(name, size, "traceparent")) *kind = TRACE; break;
    case 14: if (em_same_word(name, size, "content-length")) *kind = LENGTH; break;
    case 15: if (request && em_same_word(name, size, "x-forwarded-for")) *kind = FORWARDED_FOR; break;
    case 16: if (em_same_word(name, size, "proxy-connection")) *kind = ENDS_HERE; break;
    case 17:
        if (em_same_word(name, size, "transfer-encoding")) *kind = CHUNKING;
        else if (request && em_same_word(name, size, "x-forwarded-proto")) *kind = FORWARDED_PROTO;
        break;
    default: break;
    }
    if (*kind == PLAIN && size >= 11 && em_same_word(name, 11, "x-edgemesh-")) *kind = ENDS_HERE;
    return true;
}

/* Read the fields between two pointers, each line with its CRLF. */
static bool read_fields(const uint8_t *p, const uint8_t *end, bool request, uint32_t most, head *out) {
    while (p < end) {
        if (out->fields == most) return false;
        field *f = &out->field[out->fields++];
        f->line = p;
        while (TOKEN[*p]) p++;
        f->name_size = (uint32_t)(p - f->line);
        if (f->name_size == 0 || *p != ':') return false;
        p++;
        const uint8_t *value = p;
        while (em_of_value(*p)) p++;
        if (p[0] != '\r' || p[1] != '\n') return false;
        f->line_size = (uint32_t)(p - f->line);
        const uint8_t *last = p;
        while (value < last && (*value == ' ' || *value == '\t')) value++;
        while (last > value && (last[-1] == ' ' || last[-1] == '\t')) last--;
        f->value = value;
        f->value_size = (uint32_t)(last - value);
        p += 2;
        if (!kind_of(f->line, f->name_size, request, &f->kind)) return false;
        switch (f->kind) {
        case HOST:
            if (out->host != NULL || f->value_size == 0) return false;
            out->host = f->value;
            out->host_size = f->value_size;
            break;
        case LENGTH:
            if (out->length >= 0 || f->value_size == 0 || f->value_size > 18) return false;
            out->length = 0;
            for (uint32_t i = 0; i < f->value_size; i++) {
                if (f->value[i] < '0' || f->value[i] > '9') return false;
                out->length = out->length * 10 + (f->value[i] - '0');
            }
            break;
        case CHUNKING:
            if (out->chunked || !em_same_word(f->value, f->value_size, "chunked")) return false;
            out->chunked = true;
            break;
        case CONNECTION:
            if (em_same_word(f->value, f->value_size, "close")) out->close = true;
            else if (!em_same_word(f->value, f->value_size, "keep-alive")) return false;
            break;
        case FORWARDED_PROTO:
            out->has_proto = true;
            break;
        case TRACE:
            out->traced = true;
            break;
        case TRAILERS_OK:
            if (out->trailers_ok || !em_same_word(f->value, f->value_size, "trailers")) return false;
            out->trailers_ok = true;
            break;
        default: break;
        }
    }
    return !(out->chunked && out->length >= 0);
}

static void forget(head *out) {
    memset(out, 0, offsetof(head, field));
    out->length = -1;
}

int64_t em_read_request(const uint8_t *data, size_t size, const head_limits *limits, head *out) {
    const uint8_t *end = head_end(data, size > limits->head_bytes ? limits->head_bytes : size);
    if (end == NULL) return size >= limits->head_bytes || (size && !TOKEN[data[0]]) ? HEAD_ODD : HEAD_PART;
    forget(out);
    const uint8_t *p = data;
    out->method = p;
    while (TOKEN[*p]) p++;
    out->method_size = (uint32_t)(p - data);
    if (out->method_size == 0 || out->method_size > 16 || *p++ != ' ') return HEAD_ODD;
    if (out->method_size == 7 && memcmp(data, "CONNECT", 7) == 0) return HEAD_ODD;
    out->target = p;
    if (*p != '/') return HEAD_ODD;
    while (of_path(*p)) {
        if (*p == '/' && p[1] == '.') return HEAD_ODD;
        p++;
    }
    out->path_size = (uint32_t)(p - out->target);
    if (out->path_size > limits->path_bytes) return HEAD_ODD;
    if (*p == '?') {
        p++;
        while (of_query(*p)) p++;
    }
    out->target_size = (uint32_t)(p - out->target);
    if (end + 4 - p < 11 || memcmp(p, " HTTP/1.1\r\n", 11) != 0) return HEAD_ODD;
    uint32_t most = limits->header_count < MOST_FIELDS ? limits->header_count : MOST_FIELDS;
    if (!read_fields(p + 11, end + 2, true, most, out) || out->host == NULL) return HEAD_ODD;
    const uint8_t *colon = memchr(out->host, ':', out->host_size);
    size_t name_size = colon ? (size_t)(colon - out->host) : out->host_size;
    if (name_size == 0 || (colon && out->host_size - name_size > 6)) return HEAD_ODD;
    for (size_t i = 0; i < out->host_size; i++) {
        uint8_t c = out->host[i];
        if (i < name_size ? !of_host(c) : i > name_size && (c < '0' || c > '9')) return HEAD_ODD;
    }
    return end + 4 - data;
}

int64_t em_read_response(const uint8_t *data, size_t size, const head_limits *limits, head *out) {
    const uint8_t *end = head_end(data, size > limits->head_bytes ? limits->head_bytes : size);
    if (end == NULL) {
        if (size >= limits->head_bytes || memcmp(data, "HTTP/", size < 5 ? size : 5) != 0) return HEAD_ODD;
        /* Some servers end lines with a bare LF: such a head would never be complete here. */
        for (const uint8_t *p = data; (p = memchr(p, '\n', size - (size_t)(p - data))) != NULL; p++)
            if (p[-1] != '\r') return HEAD_ODD;
        return HEAD_PART;
    }
    if (end - data < 13) return HEAD_ODD;
    forget(out);
    if (memcmp(data, "HTTP/1.1 ", 9) != 0) return HEAD_ODD;
    for (int i = 9; i < 12; i++) {
        if (data[i] < '0' || data[i] > '9') return HEAD_ODD;
        out->status = out->status * 10 + (data[i] - '0');
    }
    if (out->status < 200 || data[12] != ' ') return HEAD_ODD;
    const uint8_t *p = data + 13;
    out->reason = p;
    while (em_of_value(*p)) p++;
    out->reason_size = (uint32_t)(p - out->reason);
    if (p[0] != '\r' || p[1] != '\n') return HEAD_ODD;
    if (!read_fields(p + 2, end + 2, false, MOST_FIELDS, out)) return HEAD_ODD;
    return end + 4 - data;
}

/* Append the caller to the addresses of the callers before it, as protocols/http/call.py does. */
bool em_write_forwarded_for(buffer *out, const head *h, const uint8_t *shown, size_t shown_size) {
    bool ok = true, any = false, told = false;
    for (uint32_t i = 0; ok && i < h->fields; i++) {
        const field *f = &h->field[i];
        if (f->kind != FORWARDED_FOR) continue;
        if (any) ok = add_word(out, ", ");
        ok = ok && buffer_add(out, f->value, f->value_size);
        any = any || f->value_size > 0;
        const uint8_t *last = f->value + f->value_size;   /* the last element of the list: the previous hop */
        while (last > f->value && last[-1] != ',') last--;
        while (last < f->value + f->value_size && (*last == ' ' || *last == '\t')) last++;
        told = (size_t)(f->value + f->value_size - last) == shown_size && memcmp(last, shown, shown_size) == 0;
    }
    if (told) return ok;
    if (any) ok = ok && add_word(out, ", ");
    return ok && buffer_add(out, shown, shown_size);
}

size_t em_decimal(char *to, uint64_t number) {
    char digits[DECIMAL];
    size_t count = 0;
    do digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    for (size_t i = 0; i < count; i++) to[i] = digits[count - 1 - i];
    return count;
}

static bool add_length(buffer *out, int64_t length) {
    char text[DECIMAL];
    return add_word(out, "content-length: ") && buffer_add(out, text, em_decimal(text, (uint64_t)length)) &&
           add_word(out, "\r\n");
}

/* Changes like message.py set_field, add_field and remove_field. */
void em_change(head *h, const change *g) {
    h->change = g;
    for (uint32_t i = 0; g != NULL && i < h->fields; i++) {
        field *f = &h->field[i];
        for (uint32_t j = 0; f->kind == PLAIN && j < g->dropped; j++)
            if (em_same_name(f, g->drop[j].line, g->drop[j].name_size)) f->kind = ENDS_HERE;
    }
}

static bool add_fields(buffer *out, const change *g) {
    bool ok = true;
    for (uint32_t i = 0; ok && g != NULL && i < g->added; i++)
        ok = buffer_add(out, g->add[i].line, g->add[i].line_size + 2u);
    return ok;
}

/* Writes like codec/http1.py write_request. */
bool em_write_request(buffer *out, const head *h, const uint8_t *shown, size_t shown_size) {
    bool ok = em_buffer_room(out, 4096);
    ok = ok && buffer_add(out, h->method, h->method_size) && add_word(out, " ") &&
         buffer_add(out, h->target, h->target_size);
    ok = ok && add_word(out, " HTTP/1.1\r\nhost: ") && buffer_add(out, h->host, h->host_size) && add_word(out, "\r\n");
    for (uint32_t i = 0; ok && i < h->fields; i++) {
        const field *f = &h->field[i];
        if (f->kind == PLAIN || f->kind == FORWARDED_PROTO || f->kind == TRACE)
            ok = buffer_add(out, f->line, f->line_size + 2u);
    }
    if (!h->has_proto) ok = ok && add_word(out, "x-forwarded-proto: http\r\n");
    ok = ok && add_fields(out, h->change);
    ok = ok && add_word(out, "x-forwarded-for: ") && em_write_forwarded_for(out, h, shown, shown_size) &&
         add_word(out, "\r\n");
    if (h->chunked) {
        ok = ok && add_word(out, "transfer-encoding: chunked\r\n");
    } else if (h->length >= 0) {
        ok = ok && add_length(out, h->length);
    }
    if (h->trailers_ok) ok = ok && add_word(out, "connection: te\r\nte: trailers\r\n");
    return ok && add_word(out, "\r\n");
}

/* Writes like codec/http1.py write_response. `length` -1: no Content-Length. */
bool em_write_response(buffer *out, const head *h, int64_t length, bool chunked, bool close) {
    char text[DECIMAL];
    bool ok = em_buffer_room(out, 4096) && add_word(out, "HTTP/1.1 ") &&
              buffer_add(out, text, em_decimal(text, (uint64_t)h->status)) && add_word(out, " ");
    ok = ok && buffer_add(out, h->reason, h->reason_size);
    ok = ok && add_word(out, "\r\n");
    for (uint32_t i = 0; ok && i < h->fields; i++) {
        const field *f = &h->field[i];
        if (f->kind == PLAIN) ok = buffer_add(out, f->line, f->line_size + 2u);
    }
    ok = ok && add_fields(out, h->change);
    if (chunked) {
        ok = ok && add_word(out, "transfer-encoding: chunked\r\n");
    } else if (length >= 0) {
        ok = ok && add_length(out, length);
    }
    if (close) ok = ok && add_word(out, "connection: close\r\n");
    return ok && add_word(out, "\r\n");
}

/* Decides like message.py travels_in_trailer. */
bool em_trailer_travels(const uint8_t *name, size_t size) {
    static const char *const never[] = {"connection",
                                        "keep-alive",
                                        "proxy-connection",
                                        "te",
                                        "transfer-encoding",
                                        "upgrade",
                                        "content-length",
                                        "host",
                                        "authorization",
                                        "x-forwarded-for",
                                        "x-forwarded-proto",
                                        "expect",
                                        "trailer"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (em_same_word(name, size, never[i])) return false;
    return size < 11 || !em_same_word(name, 11, "x-edgemesh-");
}
