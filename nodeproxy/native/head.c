/* One message head: is it plain enough to be sent on here, and how it is written for the next hop.
 *
 * What is read as plain is a part of what nodeproxy/http/h1.py and fields.py admit, and is sent on as they would send it: the fields
 * as they came, framing said anew. Everything else is odd, and goes up. llhttp (strict) has to agree with each head, see call.c.
 */
#include <stdio.h>
#include <string.h>

#include "lane.h"

/* RFC 9110 section 5.6.2: characters of a token, in lower case; 0 for others. */
static const uint8_t *token_table(void) {
    static uint8_t table[256];
    static bool made;
    if (!made) {
        for (int c = '0'; c <= '9'; c++) table[c] = (uint8_t)c;
        for (int c = 'a'; c <= 'z'; c++) table[c] = table[c - 32] = (uint8_t)c;
        for (const char *c = "!#$%&'*+-.^_`|~"; *c; c++) table[(uint8_t)*c] = (uint8_t)*c;
        made = true;
    }
    return table;
}

static bool of_value(uint8_t c) { return c == '\t' || (c >= 32 && c != 127); }

/* message.py _PLAIN: no escape, no segment that begins with a dot. */
static bool of_path(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("-._~!$&'()*+,=:@/", c) != NULL);
}
/* message.py _QUERY */
static bool of_query(uint8_t c) { return c == 0x21 || c == 0x22 || (c >= 0x24 && c <= 0x7e); }
/* fields.py is_authority, without brackets */
static bool of_host(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

bool same_word(const uint8_t *a, size_t size, const char *word) {
    for (size_t i = 0; i < size; i++) {
        uint8_t c = a[i];
        if (c >= 'A' && c <= 'Z') c = (uint8_t)(c + 32);
        if (word[i] == 0 || c != (uint8_t)word[i]) return false;
    }
    return word[size] == 0;
}

static const uint8_t *head_end(const uint8_t *data, size_t size) {
    return size < 4 ? NULL : memmem(data, size, "\r\n\r\n", 4);
}

/* The names that fields.py acts on. NULL where a field makes the head odd. */
static bool kind_of(const uint8_t *name, size_t size, bool request, uint8_t *kind) {
    *kind = PLAIN;
    switch (size) {
    case 2:
        if (!same_word(name, size, "te")) break;
        if (!request) return false;
        *kind = TRAILERS_OK;
        break;
    case 4: if (request && same_word(name, size, "host")) *kind = HOST; break;
    case 6: if (request && same_word(name, size, "expect")) return false; break;
    case 7: if (same_word(name, size, "upgrade")) return false; break;
    case 10:
        if (same_word(name, size, "connection")) *kind = CONNECTION;
        else if (same_word(name, size, "keep-alive")) *kind = ENDS_HERE;
        break;
    case 11: if (request && same_word(name, size, "traceparent")) *kind = TRACE; break;
    case 14: if (same_word(name, size, "content-length")) *kind = LENGTH; break;
    case 15: if (request && same_word(name, size, "x-forwarded-for")) *kind = FORWARDED_FOR; break;
    case 16: if (same_word(name, size, "proxy-connection")) *kind = ENDS_HERE; break;
    case 17:
        if (same_word(name, size, "transfer-encoding")) *kind = CHUNKING;
        else if (request && same_word(name, size, "x-forwarded-proto")) *kind = FORWARDED_PROTO;
        break;
    default: break;
    }
    if (*kind == PLAIN && size >= 11 && same_word(name, 11, "x-edgemesh-")) *kind = ENDS_HERE;
    return true;
}

/* The fields between two pointers, each line with its CRLF. */
static bool read_fields(const uint8_t *p, const uint8_t *end, bool request, uint32_t most, head *out) {
    const uint8_t *token = token_table();
    while (p < end) {
        if (out->fields == most) return false;
        field *f = &out->field[out->fields++];
        f->line = p;
        while (token[*p]) p++;
        f->name_size = (uint32_t)(p - f->line);
        if (f->name_size == 0 || *p != ':') return false;
        p++;
        const uint8_t *value = p;
        while (of_value(*p)) p++;
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
            if (out->chunked || !same_word(f->value, f->value_size, "chunked")) return false;
            out->chunked = true;
            break;
        case CONNECTION:
            if (same_word(f->value, f->value_size, "close")) out->close = true;
            else if (!same_word(f->value, f->value_size, "keep-alive")) return false;
            break;
        case FORWARDED_PROTO:
            out->has_proto = true;
            break;
        case TRACE:
            out->traced = true;
            break;
        case TRAILERS_OK:
            if (out->trailers_ok || !same_word(f->value, f->value_size, "trailers")) return false;
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

int64_t read_request(const uint8_t *data, size_t size, const head_limits *limits, head *out) {
    const uint8_t *token = token_table();
    const uint8_t *end = head_end(data, size > limits->head_bytes ? limits->head_bytes : size);
    if (end == NULL) return size >= limits->head_bytes || (size && !token[data[0]]) ? HEAD_ODD : HEAD_PART;
    forget(out);
    const uint8_t *p = data;
    out->method = p;
    while (token[*p]) p++;
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
    if (memcmp(p, " HTTP/1.1\r\n", 11) != 0) return HEAD_ODD;
    out->minor = 1;
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

int64_t read_response(const uint8_t *data, size_t size, const head_limits *limits, head *out) {
    const uint8_t *end = head_end(data, size > limits->head_bytes ? limits->head_bytes : size);
    if (end == NULL) {
        if (size >= limits->head_bytes || memcmp(data, "HTTP/", size < 5 ? size : 5) != 0) return HEAD_ODD;
        /* Some servers end lines with LF alone: a head like that would never be whole here. */
        for (const uint8_t *p = data; (p = memchr(p, '\n', size - (size_t)(p - data))) != NULL; p++)
            if (p[-1] != '\r') return HEAD_ODD;
        return HEAD_PART;
    }
    if (end - data < 13) return HEAD_ODD;
    forget(out);
    if (memcmp(data, "HTTP/1.1 ", 9) != 0) return HEAD_ODD;
    out->minor = 1;
    for (int i = 9; i < 12; i++) {
        if (data[i] < '0' || data[i] > '9') return HEAD_ODD;
        out->status = out->status * 10 + (data[i] - '0');
    }
    if (out->status < 200 || data[12] != ' ') return HEAD_ODD;
    const uint8_t *p = data + 13;
    out->reason = p;
    while (of_value(*p)) p++;
    out->reason_size = (uint32_t)(p - out->reason);
    if (p[0] != '\r' || p[1] != '\n') return HEAD_ODD;
    if (!read_fields(p + 2, end + 2, false, MOST_FIELDS, out)) return HEAD_ODD;
    return end + 4 - data;
}

/* Who calls, behind those who called before: exchange.py. */
bool write_forwarded_for(buffer *out, const head *h, const uint8_t *shown, size_t shown_size) {
    bool ok = true, any = false, told = false;
    for (uint32_t i = 0; ok && i < h->fields; i++) {
        const field *f = &h->field[i];
        if (f->kind != FORWARDED_FOR) continue;
        if (any) ok = add_word(out, ", ");
        ok = ok && buffer_add(out, f->value, f->value_size);
        any = any || f->value_size > 0;
        const uint8_t *last = f->value + f->value_size;   /* the last element of the list: who sent it on before us */
        while (last > f->value && last[-1] != ',') last--;
        while (last < f->value + f->value_size && (*last == ' ' || *last == '\t')) last++;
        told = (size_t)(f->value + f->value_size - last) == shown_size && memcmp(last, shown, shown_size) == 0;
    }
    if (told) return ok;
    if (any) ok = ok && add_word(out, ", ");
    return ok && buffer_add(out, shown, shown_size);
}

size_t decimal(char *to, uint64_t number) {
    char digits[DECIMAL];
    size_t count = 0;
    do digits[count++] = (char)('0' + number % 10);
    while ((number /= 10) > 0);
    for (size_t i = 0; i < count; i++) to[i] = digits[count - 1 - i];
    return count;
}

static bool add_length(buffer *out, int64_t length) {
    char text[DECIMAL];
    return add_word(out, "content-length: ") && buffer_add(out, text, decimal(text, (uint64_t)length)) && add_word(out, "\r\n");
}

/* As h1.py write_request. */
bool write_request(buffer *out, const head *h, const uint8_t *shown, size_t shown_size) {
    bool ok = buffer_room(out, 4096);
    ok = ok && buffer_add(out, h->method, h->method_size) && add_word(out, " ") && buffer_add(out, h->target, h->target_size);
    ok = ok && add_word(out, " HTTP/1.1\r\nhost: ") && buffer_add(out, h->host, h->host_size) && add_word(out, "\r\n");
    for (uint32_t i = 0; ok && i < h->fields; i++) {
        const field *f = &h->field[i];
        if (f->kind == PLAIN || f->kind == FORWARDED_PROTO || f->kind == TRACE) ok = buffer_add(out, f->line, f->line_size + 2u);
    }
    if (!h->has_proto) ok = ok && add_word(out, "x-forwarded-proto: http\r\n");
    ok = ok && add_word(out, "x-forwarded-for: ") && write_forwarded_for(out, h, shown, shown_size) && add_word(out, "\r\n");
    if (h->chunked) {
        ok = ok && add_word(out, "transfer-encoding: chunked\r\n");
    } else if (h->length >= 0) {
        ok = ok && add_length(out, h->length);
    }
    if (h->trailers_ok) ok = ok && add_word(out, "connection: te\r\nte: trailers\r\n");
    return ok && add_word(out, "\r\n");
}

/* As h1.py write_response. `length` -1: nothing is said of it. */
bool write_response(buffer *out, const head *h, int64_t length, bool chunked, bool close) {
    char text[DECIMAL];
    bool ok = buffer_room(out, 4096) && add_word(out, "HTTP/1.1 ") && buffer_add(out, text, decimal(text, (uint64_t)h->status)) && add_word(out, " ");
    ok = ok && buffer_add(out, h->reason, h->reason_size);
    ok = ok && add_word(out, "\r\n");
    for (uint32_t i = 0; ok && i < h->fields; i++) {
        const field *f = &h->field[i];
        if (f->kind == PLAIN) ok = buffer_add(out, f->line, f->line_size + 2u);
    }
    if (chunked) {
        ok = ok && add_word(out, "transfer-encoding: chunked\r\n");
    } else if (length >= 0) {
        ok = ok && add_length(out, length);
    }
    if (close) ok = ok && add_word(out, "connection: close\r\n");
    return ok && add_word(out, "\r\n");
}

/* message.py travels_in_trailer */
bool trailer_travels(const uint8_t *name, size_t size) {
    static const char *const never[] = {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "content-length",
                                        "host", "authorization", "x-forwarded-for", "x-forwarded-proto", "expect", "trailer"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++)
        if (same_word(name, size, never[i])) return false;
    return size < 11 || !same_word(name, 11, "x-edgemesh-");
}
