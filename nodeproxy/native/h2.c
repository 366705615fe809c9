/* HTTP/2 connections: see h2.h. All callbacks of nghttp2 are in this file. */
#include "h2.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"
#include "head.h"

#define TABLE 4096u /* bytes for header compression; the peer could fill a larger table in our memory */

/* RFC 7541 section 7.1.3: secrets that could be guessed through compression never enter the table. */
bool em_is_secret(const uint8_t *name, size_t size) {
    return em_same_word(name, size, "authorization") || em_same_word(name, size, "proxy-authorization") ||
           em_same_word(name, size, "cookie") || em_same_word(name, size, "set-cookie");
}

bool em_h2_event_add(h2 *h, uint32_t what, int32_t id, uint32_t code, bool ended, const void *data, size_t size) {
    h2_event e = {what, id, code, ended, (uint32_t)size};
    uint32_t before = held(&h->events);
    if (!buffer_add(&h->events, &e, sizeof e) || !buffer_add(&h->events, data, size)) {
        buffer_cut(&h->events, before);
        h->no_memory = true;
    }
    return !h->no_memory;
}

static void tell(h2 *h, uint32_t what, int32_t id, uint32_t code, bool ended) {
    em_h2_event_add(h, what, id, code, ended, NULL, 0);
}

bool em_h2_blame(h2 *h) {
    if (h->client) return true;
    bool of_all = h->of == &h->own || em_bucket_spend(&h->of->resets, 1, h->now);
    return em_bucket_spend(&h->own.resets, 1, h->now) && of_all;
}

/* ---- streams ---- */

static stream *stream_new(h2 *h, int32_t id, void *call) {
    stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        h->no_memory = true;
        return NULL;
    }
    s->h2 = h;
    s->id = id;
    s->call = call;
    s->window = FIRST_WINDOW;
    s->next = h->first;
    if (s->next != NULL) s->next->previous = s;
    h->first = s;
    h->streams++;
    if (call == NULL) h->pythons++;
    return s;
}

/* Count a stream as work of the fast path. A tunnel is Python's work, which waits for it: it has a visitor of its own.
 */
static void count(h2 *h, stream *s, bool on) {
    if (h->client || s->counted == on || s->visitor != NULL) return;
    s->counted = on;
    if (on) h->of->streams++;
    else h->of->streams--;
}

static void stream_free(h2 *h, stream *s) {
    if (s->counted) h->of->streams--;
    if (s->next != NULL) s->next->previous = s->previous;
    if (s->previous != NULL) s->previous->next = s->next;
    else h->first = s->next;
    h->streams--;
    if (s->call == NULL) h->pythons--;
    h->growth += s->window - FIRST_WINDOW;
    em_buffer_free(&s->fields);
    em_buffer_free(&s->head);
    em_buffer_free(&s->out);
    em_buffer_free(&s->trailers);
    free(s);
}

static const visitor *visitor_of(const h2 *h, const stream *s) { return s->visitor != NULL ? s->visitor : h->visitor; }

stream *em_h2_stream(h2 *h, int32_t id) { return nghttp2_session_get_stream_user_data(h->session, id); }

void em_h2_from_python(h2 *h, stream *s, void *call) {
    if (s->call == NULL) h->pythons--;
    s->call = call;
    count(h, s, true);
}

void em_h2_to_python(h2 *h, stream *s) {
    if (s->call != NULL) h->pythons++;
    s->call = NULL;
    s->visitor = NULL;
    count(h, s, false);
}

/* ---- what the peer sends ---- */

static int began_fields(nghttp2_session *session, const nghttp2_frame *frame, void *owner) {
    h2 *h = owner;
    if (frame->hd.type != NGHTTP2_HEADERS) return 0;
    stream *s;
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        s = stream_new(h, frame->hd.stream_id, NULL);
        if (s == NULL) return NGHTTP2_ERR_CALLBACK_FAILURE;
        if (s->id > h->peers_last) h->peers_last = s->id;
        nghttp2_session_set_stream_user_data(session, s->id, s);
    } else {
        s = em_h2_stream(h, frame->hd.stream_id);
        if (s == NULL) return 0;
    }
    em_buffer_free(&s->fields);
    s->list_size = 0;
    return 0;
}

/* Add all of the field, or nothing. */
static bool add_field(buffer *out, const uint8_t *name, size_t name_size, const uint8_t *value, size_t value_size) {
    field_sizes sizes = {(uint32_t)name_size, (uint32_t)value_size};
    uint32_t before = held(out);
    if (buffer_add(out, &sizes, sizeof sizes) && buffer_add(out, name, name_size) && buffer_add(out, value, value_size))
        return true;
    buffer_cut(out, before);
    return false;
}

static int one_field(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t value_size, uint8_t flags, void *owner) {
    (void)session, (void)flags;
    h2 *h = owner;
    stream *s = frame->hd.type == NGHTTP2_HEADERS ? em_h2_stream(h, frame->hd.stream_id) : NULL;
    if (s == NULL || h->over) return 0;
    if (h->cut && (h->client || s->heard_head))
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;   /* a response, or trailers: malformed */
    uint64_t size = (uint64_t)s->list_size + name_size + value_size + 32;
    if (size > 2 * (uint64_t)h->bounds.head_bytes) {
        char words[120];
        snprintf(words, sizeof words, "a field block of more than %u bytes, %u allowed", 2 * h->bounds.head_bytes,
                 h->bounds.head_bytes);
        em_h2_abuse(h, words);
        return 0;
    }
    s->list_size = (uint32_t)size;
    if (add_field(&s->fields, name, name_size, value, value_size)) return 0;
    h->no_memory = true;
    return NGHTTP2_ERR_CALLBACK_FAILURE;   /* a message without one of its fields is another message */
}

/* A field that nghttp2 finds wrong makes its message malformed (RFC 9113 section 8.2.1). nghttp2 would only drop the
 * field. */
static int wrong_field(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                       const uint8_t *value, size_t value_size, uint8_t flags, void *owner) {
    (void)session, (void)frame, (void)name, (void)name_size, (void)value, (void)value_size, (void)flags, (void)owner;
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static bool is_interim(const stream *s) {
    field_sizes sizes;
    if (held(&s->fields) < sizeof sizes) return false;
    memcpy(&sizes, first(&s->fields), sizeof sizes);
    const uint8_t *name = first(&s->fields) + sizeof sizes;
    return sizes.name_size == 7 && memcmp(name, ":status", 7) == 0 && sizes.value_size == 3 && name[7] == '1';
}

static void fields_came(h2 *h, const nghttp2_frame *frame, stream *s) {
    bool ended = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (s->dropped) return;
    s->head_only = ended;
    if (!s->heard_head) {
        if (!h->client) {
            s->heard_head = true;
            if (!h->cut && h->visitor != NULL && h->visitor->requested(h, s)) {
                s->head = s->fields;
                memset(&s->fields, 0, sizeof s->fields);
            } else
                em_h2_event_add(h, H2_REQUESTED, s->id, h->cut ? H2_CUT : 0, ended,
                                held(&s->fields) ? first(&s->fields) : NULL, held(&s->fields));
        } else {
            s->heard_head = !is_interim(s);
            if (s->call != NULL) visitor_of(h, s)->responded(h, s);
            else
                em_h2_event_add(h, H2_RESPONDED, s->id, 0, ended, held(&s->fields) ? first(&s->fields) : NULL,
                                held(&s->fields));
        }
    } else if (s->call != NULL) {
        visitor_of(h, s)->trailed(h, s);
    } else {
        em_h2_event_add(h, H2_TRAILED, s->id, 0, ended, held(&s->fields) ? first(&s->fields) : NULL, held(&s->fields));
    }
    em_buffer_free(&s->fields);
}

static int frame_came(nghttp2_session *session, const nghttp2_frame *frame, void *owner) {
    (void)session;
    h2 *h = owner;
    if (h->over) return 0;
    stream *s = frame->hd.stream_id ? em_h2_stream(h, frame->hd.stream_id) : NULL;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if (s != NULL) fields_came(h, frame, s);
        break;
    case NGHTTP2_SETTINGS:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK) break;
        h->greeted = true;
        tell(h, H2_GREETED, 0, 0, false);
        break;
    case NGHTTP2_RST_STREAM:
        if (s != NULL) s->reset_by_peer = true;   /* reported when it closes */
        break;
    case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK)
            em_h2_event_add(h, H2_ANSWERED, 0, 0, false, frame->ping.opaque_data, 8);
        break;
    case NGHTTP2_GOAWAY:
        tell(h, H2_LEFT, frame->goaway.last_stream_id, frame->goaway.error_code, false);
        break;
    case NGHTTP2_WINDOW_UPDATE:
        if (frame->hd.stream_id == 0 ? h->pythons > 0 : s != NULL && s->call == NULL)
            tell(h, H2_WINDOW, frame->hd.stream_id, 0, false);
        break;
    default: break;
    }
    bool ends = frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA;
    if (ends && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        s = em_h2_stream(h, frame->hd.stream_id);
        if (s != NULL && !s->heard_end) {
            s->heard_end = true;
            if (s->dropped) return 0;
            if (s->call != NULL) visitor_of(h, s)->ended(h, s);
            else tell(h, H2_ENDED, s->id, 0, true);
        }
    }
    return 0;
}

static int data_came(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t size,
                     void *owner) {
    (void)session, (void)flags;
    h2 *h = owner;
    stream *s = em_h2_stream(h, id);
    if (s == NULL || s->dropped || h->over) return 0;
    h->held += (uint32_t)size;
    s->held += (uint32_t)size;
    if (s->call != NULL) visitor_of(h, s)->came(h, s, data, size);
    else em_h2_event_add(h, H2_ARRIVED, id, (uint32_t)size, false, data, size);
    return 0;
}

static int stream_closed(nghttp2_session *session, int32_t id, uint32_t code, void *owner) {
    h2 *h = owner;
    stream *s = em_h2_stream(h, id);
    if (s == NULL) return 0;
    nghttp2_session_set_stream_user_data(session, id, NULL);
    bool whole = s->heard_end && s->sent_end;
    if (s->call != NULL) {
        if (!whole && !s->dropped && !em_h2_blame(h))
            em_h2_abuse(h, "too many resets of streams");
        visitor_of(h, s)->closed(h, s, whole ? 0 : code, s->reset_by_peer);
    } else if (!whole && !s->dropped) {
        tell(h, H2_RESET, id, code, s->reset_by_peer);
    }
    if (whole && s->call != NULL) earn_reset(h);
    stream_free(h, s);
    return 0;
}

static int frame_went(nghttp2_session *session, const nghttp2_frame *frame, void *owner) {
    (void)session;
    h2 *h = owner;
    if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR) {
        char words[160];
        snprintf(words, sizeof words, "%.*s", (int)frame->goaway.opaque_data_len,
                 (const char *)frame->goaway.opaque_data);
        em_h2_violates(h, words[0] ? words : nghttp2_http2_strerror(frame->goaway.error_code));
    } else if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
               (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
        stream *s = em_h2_stream(h, frame->hd.stream_id);
        if (s == NULL) return 0;
        s->sent_end = true;
        if (s->drop_later) nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_NO_ERROR);
    }
    return 0;
}

/* ---- what we send ---- */

static bool submit_trailers(h2 *h, stream *s) {
    nghttp2_nv nva[MOST_TRAILERS];
    size_t count = 0;
    const uint8_t *p = first(&s->trailers), *end = p + held(&s->trailers);
    while (p < end && count < MOST_TRAILERS) {
        field_sizes sizes;
        memcpy(&sizes, p, sizeof sizes);
        p += sizeof sizes;
        nva[count++] = (nghttp2_nv){(uint8_t *)p, (uint8_t *)p + sizes.name_size, sizes.name_size, sizes.value_size,
                                    em_is_secret(p, sizes.name_size) ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE};
        p += sizes.name_size + sizes.value_size;
    }
    bool ok = nghttp2_submit_trailer(h->session, s->id, nva, count) == 0;
    em_buffer_free(&s->trailers);
    return ok;
}

static ssize_t next_bytes(nghttp2_session *session, int32_t id, uint8_t *to, size_t most, uint32_t *flags,
                          nghttp2_data_source *source, void *owner) {
    (void)session, (void)id;
    h2 *h = owner;
    stream *s = source->ptr;
    size_t size = held(&s->out) < most ? held(&s->out) : most;
    if (size == 0 && !s->out_end) {
        s->waiting = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (size) {
        memcpy(to, first(&s->out), size);
        em_buffer_take(&s->out, (uint32_t)size);
    }
    if (held(&s->out) == 0 && s->out_end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (held(&s->trailers)) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (!submit_trailers(h, s)) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
    }
    if (size && s->call != NULL) {
        earn_control(h, 4);   /* so that the peer may report what it has taken; Python's streams earn it in h2_type.c */
        if (visitor_of(h, s)->sent != NULL) visitor_of(h, s)->sent(h, s);
    }
    return (ssize_t)size;
}

void em_h2_pump(h2 *h, uint32_t most) {
    if (h->no_memory) em_h2_violates(h, "no memory");
    while (held(&h->out) < most && !h->no_memory) {   /* after a lost frame nothing goes out */
        const uint8_t *data;
        ssize_t size = nghttp2_session_mem_send(h->session, &data);
        if (size < 0) em_h2_violates(h, nghttp2_strerror((int)size));
        if (size <= 0) return;
        if (!buffer_add(&h->out, data, (size_t)size)) {
            h->no_memory = true;
            em_h2_violates(h, "no memory");
        }
    }
}

/* Credit the peer with bytes that were received, are not held and were not credited: bytes that were taken, padding,
 * and bytes for streams that are gone. */
static void tell_window(h2 *h, bool now) {
    int64_t owed = (int64_t)nghttp2_session_get_effective_recv_data_length(h->session) - (int64_t)h->held;
    if (owed > 0 && (now || owed * 4 >= h->bounds.connection_window))
        nghttp2_submit_window_update(h->session, NGHTTP2_FLAG_NONE, 0, (int32_t)owed);
}

void em_h2_feed(h2 *h, const uint8_t *data, size_t size, double now) {
    h->now = now;
    if (h->over) return;
    em_h2_take_in(h, data, size);
    if (h->no_memory) em_h2_abuse(h, "no memory");
    tell_window(h, false);
    em_h2_pump(h, h->owner == NULL ? 5 * h->bounds.queue_bytes : PUMPED);
    if (held(&h->out) >= 4 * h->bounds.queue_bytes && !h->over) {
        char words[120];
        snprintf(words, sizeof words, "it does not read: %u bytes wait, and it sends what must be answered",
                 held(&h->out));
        em_h2_abuse(h, words);
        em_h2_pump(h, h->owner == NULL ? 5 * h->bounds.queue_bytes : PUMPED);
    }
}

int32_t em_h2_request(h2 *h, const nghttp2_nv *fields, size_t count, bool end, void *call) {
    stream *s = stream_new(h, 0, call);
    if (s == NULL) return -1;
    int32_t id = nghttp2_submit_headers(h->session, end ? NGHTTP2_FLAG_END_STREAM : NGHTTP2_FLAG_NONE, -1, NULL, fields,
                                        count, s);
    const uint8_t *data;
    ssize_t size = 1;
    /* nghttp2 does not know the stream until its request is sent. */
    while (id >= 0 && size > 0 && nghttp2_session_find_stream(h->session, id) == NULL)
        if ((size = nghttp2_session_mem_send(h->session, &data)) > 0 && !buffer_add(&h->out, data, (size_t)size))
            h->no_memory = true;
    if (id < 0 || size <= 0) {
        stream_free(h, s);
        return -1;
    }
    s->id = id;
    s->sent_head = true;
    s->out_end = s->sent_end = end;
    return id;
}

bool em_h2_head(h2 *h, int32_t id, const nghttp2_nv *fields, size_t count, bool end) {
    stream *s = em_h2_stream(h, id);
    if (s == NULL) return false;
    s->sent_head = s->sent_head || count == 0 || fields[0].valuelen == 0 ||
                   fields[0].value[0] != '1';   /* the first one is :status */
    s->out_end = s->out_end || end;
    return nghttp2_submit_headers(h->session, end ? NGHTTP2_FLAG_END_STREAM : NGHTTP2_FLAG_NONE, id, NULL, fields,
                                  count, NULL) == 0;
}

static bool provide(h2 *h, stream *s) {
    if (!s->providing) {
        nghttp2_data_provider source = {.source.ptr = s, .read_callback = next_bytes};
        s->providing = true;
        return nghttp2_submit_data(h->session, NGHTTP2_FLAG_END_STREAM, s->id, &source) == 0;
    }
    if (s->waiting) {
        s->waiting = false;
        return nghttp2_session_resume_data(h->session, s->id) == 0;
    }
    return true;
}

bool em_h2_data(h2 *h, stream *s, const uint8_t *data, size_t size, bool end) {
    if (!buffer_add(&s->out, data, size)) return false;
    s->out_end = s->out_end || end;
    return provide(h, s);
}

bool em_h2_trailers(h2 *h, stream *s, const nghttp2_nv *fields, size_t count) {
    if (!s->providing) {
        s->out_end = true;
        return nghttp2_submit_trailer(h->session, s->id, fields, count) == 0;
    }
    for (size_t i = 0; i < count; i++) {
        const nghttp2_nv *f = &fields[i];
        if (!add_field(&s->trailers, f->name, f->namelen, f->value, f->valuelen)) return false;
    }
    s->out_end = true;
    return provide(h, s);
}

void em_h2_drop(h2 *h, int32_t id, uint32_t code) {
    stream *s = em_h2_stream(h, id);
    if (s == NULL || s->dropped) return;
    s->dropped = true;
    s->drop_later = code == NGHTTP2_NO_ERROR && s->out_end &&
                    !s->sent_end;   /* a reset would overtake the queued bytes */
    if (s->drop_later) return;
    nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, id, code);
}

void em_h2_give_back(h2 *h, int32_t id, uint32_t size, uint32_t growth) {
    if (id == 0) {
        h->held -= size;
        tell_window(h, true);
        return;
    }
    stream *s = em_h2_stream(h, id);
    if (s == NULL) return;
    s->held -= size;
    int64_t owed = (int64_t)nghttp2_session_get_stream_effective_recv_data_length(h->session, id) - (int64_t)s->held +
                   growth;
    if (owed > 0 && owed <= INT32_MAX) nghttp2_submit_window_update(h->session, NGHTTP2_FLAG_NONE, id, (int32_t)owed);
}

void em_h2_taken(h2 *h, stream *s, uint32_t size) {
    h->held -= size;
    tell_window(h, false);
    if (s == NULL || s->heard_end) return;
    s->untold += size;
    if (s->untold * 2 < s->window) return;
    uint32_t growth = s->window;
    if (s->window + growth > h->bounds.stream_window) growth = h->bounds.stream_window - s->window;
    if (growth > h->growth) growth = h->growth;
    h->growth -= growth;
    s->window += growth;
    em_h2_give_back(h, s->id, s->untold, growth);
    s->untold = 0;
}

int32_t em_h2_go_away(h2 *h) {
    h->last_taken = h->peers_last;
    nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE, h->peers_last, NGHTTP2_NO_ERROR, NULL, 0);
    return h->last_taken;
}

void em_h2_ping(h2 *h, const uint8_t mark[8]) { nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, mark); }

uint32_t em_h2_room(const h2 *h) {
    if (h->over || h->last_taken >= 0 || !nghttp2_session_check_request_allowed(h->session)) return 0;
    uint32_t most = nghttp2_session_get_remote_settings(h->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
    if (most > h->bounds.max_streams) most = h->bounds.max_streams;
    return most > h->streams ? most - h->streams : 0;
}

/* ---- begin and end ---- */

static void put_setting(uint8_t *at, uint16_t name, uint32_t value) {
    uint8_t bytes[6] = {(uint8_t)(name >> 8),   (uint8_t)name,         (uint8_t)(value >> 24),
                        (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value};
    memcpy(at, bytes, sizeof bytes);
}

/* Replace nghttp2's first SETTINGS frame by ours, which also says max_streams. If nghttp2 knew of that limit it would
 * end the connection where RFC 9113 section 5.1.2 refuses a stream. */
static bool greet(h2 *h) {
    const nghttp2_settings_entry told[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                           {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, FIRST_WINDOW},
                                           {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, h->bounds.frame_size},
                                           {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, h->bounds.head_bytes},
                                           {NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, TABLE},
                                           {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1}};
    enum { TOLD = sizeof told / sizeof *told };
    if (nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, told, TOLD) != 0) return false;
    const uint8_t *unsaid;
    while (nghttp2_session_mem_send(h->session, &unsaid) > 0) continue;
    uint8_t frame[9 + 6 * (TOLD + 1)] = {0, 0, 6 * (TOLD + 1), NGHTTP2_SETTINGS};
    for (int i = 0; i < TOLD; i++) put_setting(frame + 9 + 6 * i, (uint16_t)told[i].settings_id, told[i].value);
    put_setting(frame + 9 + 6 * TOLD, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, h->bounds.max_streams);
    if (h->client && !buffer_add(&h->out, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN)) return false;
    if (!buffer_add(&h->out, frame, sizeof frame)) return false;
    if (h->bounds.connection_window > FIRST_WINDOW)
        nghttp2_submit_window_update(h->session, NGHTTP2_FLAG_NONE, 0,
                                     (int32_t)(h->bounds.connection_window - FIRST_WINDOW));
    em_h2_pump(h, h->owner == NULL ? 5 * h->bounds.queue_bytes : PUMPED);
    return !h->no_memory;
}

bool em_h2_open(h2 *h, bool client, const h2_bounds *bounds, double now) {
    memset(h, 0, sizeof *h);
    h->client = client;
    h->bounds = *bounds;
    h->now = now;
    h->control = (bucket){bounds->control_burst, bounds->control_burst, bounds->control_rate, now};
    h->own = (h2_owner){{bounds->reset_burst, bounds->reset_burst, bounds->reset_rate, now}, 0, UINT32_MAX};
    h->of = &h->own;
    h->growth = bounds->connection_window / 3;
    h->last_taken = -1;
    h->skip = client ? 0 : NGHTTP2_CLIENT_MAGIC_LEN;
    nghttp2_session_callbacks *calls;
    nghttp2_option *option;
    if (nghttp2_session_callbacks_new(&calls) != 0) return false;
    if (nghttp2_option_new(&option) != 0) {
        nghttp2_session_callbacks_del(calls);
        return false;
    }
    nghttp2_session_callbacks_set_on_begin_headers_callback(calls, began_fields);
    nghttp2_session_callbacks_set_on_header_callback(calls, one_field);
    nghttp2_session_callbacks_set_on_invalid_header_callback(calls, wrong_field);
    nghttp2_session_callbacks_set_on_frame_recv_callback(calls, frame_came);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, data_came);
    nghttp2_session_callbacks_set_on_stream_close_callback(calls, stream_closed);
    nghttp2_session_callbacks_set_on_frame_send_callback(calls, frame_went);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_max_deflate_dynamic_table_size(option, TABLE);
    nghttp2_option_set_max_send_header_block_length(
        option, 4 * (size_t)bounds->head_bytes);   /* accepted heads must be sendable; nghttp2's bound is 64 KiB */
    nghttp2_option_set_peer_max_concurrent_streams(option, bounds->max_streams);
    int made = client ? nghttp2_session_client_new2(&h->session, calls, h, option)
                      : nghttp2_session_server_new2(&h->session, calls, h, option);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(calls);
    return made == 0 && greet(h);
}

void em_h2_abandon(h2 *h) {
    for (stream *s = h->first; s != NULL; s = s->next) {
        if (s->call == NULL) continue;
        visitor_of(h, s)->closed(h, s, NGHTTP2_INTERNAL_ERROR, false);
        em_h2_to_python(h, s);
        s->dropped = true;
    }
}

void em_h2_close(h2 *h) {
    while (h->first != NULL) {   /* nghttp2_session_del reports nothing */
        stream *s = h->first;
        s->call = NULL;
        stream_free(h, s);
    }
    if (h->session != NULL) nghttp2_session_del(h->session);
    em_buffer_free(&h->out);
    em_buffer_free(&h->events);
    em_buffer_free(&h->gathered);
    h->session = NULL;
}
