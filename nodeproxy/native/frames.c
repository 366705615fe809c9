/* Frames of a peer before nghttp2 sees them: see frames.h. */
#include "frames.h"

#include <stdio.h>
#include <string.h>

#define LARGEST 65536u           /* bytes of an encoded name or value that nghttp2 takes (NGHTTP2_HD_MAX_NV) */
#define MOST_PIECES 8u            /* CONTINUATION frames that nghttp2 takes; before 1.61 it did not count them */
#define BLOCK_PIECE 16384        /* bytes of one frame of a field block */

static const char *const KIND[] = {"empty DATA",   "HEADERS", "PRIORITY", "RST_STREAM",    "SETTINGS",
                                   "PUSH_PROMISE", "PING",    "GOAWAY",   "WINDOW_UPDATE", "CONTINUATION"};

static void earn(bucket *b, double amount) {
    if (b->left < b->burst) b->left += amount;
}

bool em_bucket_spend(bucket *b, double cost, double now) {
    b->left -= cost;
    if (b->left >= 0) return true;
    double more = b->left + (now - b->at) * b->rate;
    b->left = more < b->burst - cost ? more : b->burst - cost;
    b->at = now;
    return b->left >= 0;
}

void em_h2_violates(h2 *h, const char *words) {
    if (h->over) return;
    h->over = true;
    snprintf(h->violation, sizeof h->violation, "%s", words);
}

void em_h2_abuse(h2 *h, const char *words) {
    if (h->over) return;
    nghttp2_session_terminate_session(h->session, NGHTTP2_ENHANCE_YOUR_CALM);
    em_h2_violates(h, words);
}

/* Count every frame by its header before nghttp2 sees it, also those that it ignores in silence. False: take nothing
 * more of this peer. */
static bool count_frame(h2 *h, const uint8_t *of, uint8_t padding) {
    uint32_t size = (uint32_t)of[0] << 16 | (uint32_t)of[1] << 8 | of[2];
    uint8_t kind = of[3], flags = of[4];
    char words[120];
    if (!h->greeted && !h->settled && (kind != NGHTTP2_SETTINGS || flags & NGHTTP2_FLAG_ACK)) {
        nghttp2_session_terminate_session(h->session, NGHTTP2_PROTOCOL_ERROR);
        em_h2_violates(h, "the first frame is not SETTINGS (RFC 9113 section 3.4)");
        return false;
    }
    h->settled = true;
    if (kind == NGHTTP2_PUSH_PROMISE) {   /* nghttp2 would allow it until the peer has read our SETTINGS */
        nghttp2_session_terminate_session(h->session, NGHTTP2_PROTOCOL_ERROR);
        em_h2_violates(h, "PUSH_PROMISE, which we do not take (RFC 9113 section 8.4)");
        return false;
    }
    if (kind == NGHTTP2_HEADERS || kind == NGHTTP2_CONTINUATION) {
        h->block = (kind == NGHTTP2_HEADERS ? 0 : h->block) + size + 9;   /* an empty frame has a cost, too */
        if (kind == NGHTTP2_HEADERS) earn(&h->control, 2);
        if (h->block <= 2 * (uint64_t)h->bounds.head_bytes) return true;
        snprintf(words, sizeof words, "a field block of %u bytes, %u allowed", h->block, h->bounds.head_bytes);
    } else if (kind == NGHTTP2_DATA &&
               (flags & NGHTTP2_FLAG_END_STREAM || size > (flags & NGHTTP2_FLAG_PADDED ? padding + 1u : 0u))) {
        earn(&h->control, 2);
        return true;
    } else {
        if (em_bucket_spend(&h->control, kind == NGHTTP2_SETTINGS ? 10 : 1, h->now)) return true;
        snprintf(words, sizeof words, "too many frames that carry nothing, the last one %s",
                 kind < 10 ? KIND[kind] : "an unknown one");
    }
    em_h2_abuse(h, words);
    return false;
}

/* RFC 7541 section 5.1. */
static bool read_number(const uint8_t **at, const uint8_t *end, unsigned bits, uint32_t *out) {
    if (*at >= end) return false;
    uint32_t most = (1u << bits) - 1;
    *out = *(*at)++ & most;
    if (*out < most) return true;
    for (unsigned shift = 0; *at < end && shift <= 21; shift += 7) {
        uint8_t byte = *(*at)++;
        *out += (uint32_t)(byte & 127) << shift;
        if (!(byte & 128)) return true;
    }
    return false;
}

/* RFC 7541 section 5.2. A string that is too large is replaced by one of the largest size that nghttp2 takes: either
 * empties the table, and is not in it (section 4.4). */
static bool copy_string(h2 *h, buffer *out, const uint8_t **at, const uint8_t *end) {
    const uint8_t *begin = *at;
    uint32_t size;
    if (!read_number(at, end, 7, &size) || size > (size_t)(end - *at)) return false;
    *at += size;
    if (size <= LARGEST) return buffer_add(out, begin, (size_t)(*at - begin));
    h->cut = true;
    static const uint8_t length[] = {127, 0x81, 0xff, 0x03};   /* LARGEST, without Huffman code */
    if (!buffer_add(out, length, sizeof length) || !em_buffer_room(out, LARGEST)) return false;
    memset(out->at + out->end, 'x', LARGEST);
    out->end += LARGEST;
    return true;
}

/* Copy a field block, with replacements for strings that are too large; `cut` says whether there were any. False: it is
 * no field block, or there is no memory. */
static bool copy_block(h2 *h, buffer *out, const uint8_t *at, const uint8_t *end) {
    while (at < end) {   /* RFC 7541 section 6 */
        const uint8_t *begin = at;
        uint32_t index;
        uint8_t kind = *at;
        unsigned bits = kind & 128 ? 7 : kind & 64 ? 6 : kind & 32 ? 5 : 4;
        if (!read_number(&at, end, bits, &index) || !buffer_add(out, begin, (size_t)(at - begin))) return false;
        if (kind & 128 || (kind & 224) == 32) continue;
        if ((index == 0 && !copy_string(h, out, &at, end)) || !copy_string(h, out, &at, end)) return false;
    }
    return true;
}

static void receive(h2 *h, const uint8_t *data, size_t size) {
    if (size == 0 || h->over) return;
    ssize_t took = nghttp2_session_mem_recv(h->session, data, size);
    if (took >= 0 || h->over) return;
    if (took == NGHTTP2_ERR_FLOODED) em_h2_abuse(h, "more frames that must be answered than it reads answers");
    else if (took == NGHTTP2_ERR_BAD_CLIENT_MAGIC) em_h2_violates(h, "the preface is wrong (RFC 9113 section 3.4)");
    else em_h2_violates(h, nghttp2_strerror((int)took));
    nghttp2_session_terminate_session(h->session, NGHTTP2_PROTOCOL_ERROR);
}

static void put_frame(buffer *out, uint32_t size, uint8_t kind, uint8_t flags, const uint8_t number[4]) {
    uint8_t of[9] = {(uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size, kind, flags};
    memcpy(of + 5, number, 4);
    buffer_add(out, of, sizeof of);
}

/* Join the fragments of the block in `frames`. False: they are not a HEADERS frame with its CONTINUATIONs. */
static bool join_fragments(buffer *out, const uint8_t *at, const uint8_t *end) {
    for (bool is_first = true; at < end; is_first = false) {
        uint32_t size = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 8 | at[2];
        uint8_t kind = at[3], flags = is_first ? at[4] : 0;
        const uint8_t *payload = at + 9, *after = payload + size;
        at = after;
        if (kind != (is_first ? NGHTTP2_HEADERS : NGHTTP2_CONTINUATION)) return false;
        uint32_t before = (flags & NGHTTP2_FLAG_PADDED ? 1u : 0u) + (flags & NGHTTP2_FLAG_PRIORITY ? 5u : 0u);
        uint32_t padding = flags & NGHTTP2_FLAG_PADDED && size ? payload[0] : 0;
        if (size < before + padding || !buffer_add(out, payload + before, size - before - padding)) return false;
    }
    return true;
}

/* A field block of several frames is complete. nghttp2 ends the connection for a string larger than it takes. So such a
 * string is left out: only its stream gets an error (431, RFC 6585 section 5), and other calls live on. */
static void give_block(h2 *h) {
    buffer frames = h->gathered, joined = {0}, copied = {0}, out = {0};
    memset(&h->gathered, 0, sizeof h->gathered);
    h->gathering = h->cut = false;
    const uint8_t *came = first(&frames);
    bool ok = join_fragments(&joined, came, came + held(&frames)) &&
              (held(&joined) == 0 || copy_block(h, &copied, first(&joined), first(&joined) + held(&joined)));
    if (!ok || !h->cut) {
        h->cut = false;
        receive(h, came, held(&frames));
    } else {
        const uint8_t *at = first(&copied), *end = at + held(&copied);
        uint8_t kind = NGHTTP2_HEADERS, flags = came[4] & NGHTTP2_FLAG_END_STREAM;
        while (at < end) {
            uint32_t size = end - at < BLOCK_PIECE ? (uint32_t)(end - at) : BLOCK_PIECE;
            put_frame(&out, size, kind, (uint8_t)(flags | (at + size == end ? NGHTTP2_FLAG_END_HEADERS : 0)), came + 5);
            if (!buffer_add(&out, at, size)) h->no_memory = true;
            at += size;
            kind = NGHTTP2_CONTINUATION;
            flags = 0;
        }
        if (!h->no_memory) receive(h, first(&out), held(&out));
        h->cut = false;
    }
    em_buffer_free(&frames);
    em_buffer_free(&joined);
    em_buffer_free(&copied);
    em_buffer_free(&out);
}

/* Count the frames in `data`, and pass them to nghttp2: as they come, but a field block of several frames at once
 * (give_block). A part of a frame header waits until the header is complete. */
void em_h2_take_in(h2 *h, const uint8_t *data, size_t size) {
    size_t at = 0, from = 0,
           head_at = 0; /* nghttp2 has what is before `from`; where the header that comes begins, if it is in `data` */
    bool carried = h->frame_size > 0;       /* its beginning came before */
    while (at < size && !h->over && !h->no_memory) {
        if (h->skip) {
            uint32_t step = h->skip < size - at ? h->skip : (uint32_t)(size - at);
            if (h->gathering && !buffer_add(&h->gathered, data + at, step)) h->no_memory = true;
            h->skip -= step;
            at += step;
            if (h->gathering) from = at;
            if (h->gathering && h->skip == 0 && h->block_ends) give_block(h);
            continue;
        }
        if (h->frame_size == 0) head_at = at;
        h->frame[h->frame_size++] = data[at++];
        bool padded = h->frame_size >= 9 && h->frame[3] == NGHTTP2_DATA && h->frame[4] & NGHTTP2_FLAG_PADDED &&
                      (h->frame[0] | h->frame[1] | h->frame[2]);
        if (h->frame_size < 9u + padded) continue;
        uint8_t kind = h->frame[3], flags = h->frame[4];
        uint32_t frame_size = h->frame_size;
        h->skip = ((uint32_t)h->frame[0] << 16 | (uint32_t)h->frame[1] << 8 | h->frame[2]) - padded;
        h->frame_size = 0;
        if (!carried) receive(h, data + from, head_at - from);
        from = carried ? at : head_at;
        if (!count_frame(h, h->frame, h->frame[9])) return;
        if (h->gathering &&
            (kind != NGHTTP2_CONTINUATION || ++h->pieces > MOST_PIECES)) {   /* that is wrong, and nghttp2 says so */
            receive(h, first(&h->gathered), held(&h->gathered));
            em_buffer_free(&h->gathered);
            h->gathering = false;
        }
        if (h->gathering || (kind == NGHTTP2_HEADERS && !(flags & NGHTTP2_FLAG_END_HEADERS))) {
            if (!h->gathering) h->pieces = 0;
            h->gathering = true;
            h->block_ends = (flags & NGHTTP2_FLAG_END_HEADERS) != 0;
            if (!buffer_add(&h->gathered, h->frame, 9)) h->no_memory = true;
            from = at;
            if (h->skip == 0 && h->block_ends) give_block(h);
        } else if (carried) {
            receive(h, h->frame, frame_size);
        }
        carried = false;
    }
    if (h->no_memory || h->over) return;
    if (h->frame_size == 0) receive(h, data + from, size - from);
    else if (!carried) receive(h, data + from, head_at - from);
}
