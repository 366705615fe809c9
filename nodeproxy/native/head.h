/* One message head of HTTP/1.1: whether it is plain enough for the fast path, and how it is written for the next hop.
 */
#ifndef EDGEMESH_HEAD_H
#define EDGEMESH_HEAD_H

#include "buffer.h"

#define MOST_FIELDS 256u   /* of one head, whatever the limits say */
#define DECIMAL 24u        /* bytes that are enough for any number */

/* What a field means to the fast path. ENDS_HERE: it is for this hop only. */
enum { PLAIN, HOST, LENGTH, CHUNKING, CONNECTION, FORWARDED_FOR, FORWARDED_PROTO, TRACE, TRAILERS_OK, ENDS_HERE };

typedef struct field {
    const uint8_t *line;     /* the field as it came, name first */
    uint32_t line_size;      /* without its CRLF, which follows */
    uint32_t name_size;
    const uint8_t *value;    /* without surrounding white space */
    uint32_t value_size;
    uint8_t kind;
} field;

#define MOST_CHANGES 32u   /* fields that a rule leaves out of a message, and as many that it adds */

/* What a rule does to the fields of a message: those with these names are left out, others are written behind the rest.
 */
typedef struct change {
    _Atomic uint32_t users;  /* plans, and a Python object, which may be freed in another thread */
    uint32_t dropped, added;
    field drop[MOST_CHANGES];   /* names, in lower case */
    field add[MOST_CHANGES];
    uint8_t text[];          /* what these point to */
} change;

typedef struct head {
    const uint8_t *method, *target, *host, *reason;
    uint32_t method_size, target_size, host_size, reason_size;
    uint32_t path_size;      /* path of the target, without its query */
    uint32_t fields;
    int64_t length;          /* Content-Length; -1: none */
    int status;
    bool chunked;            /* Transfer-Encoding: chunked */
    bool close;              /* Connection: close */
    bool has_proto;          /* X-Forwarded-Proto is present */
    bool traced;             /* traceparent is present */
    bool trailers_ok;        /* TE: trailers */
    const change *change;    /* which is written with it; NULL: none */
    field field[MOST_FIELDS];
} head;

typedef struct head_limits { uint32_t head_bytes, header_count, path_bytes; } head_limits;

/* HEAD_PART: the head is incomplete, and may become plain. HEAD_ODD: it is not plain. Otherwise: its size with the
 * empty line. */
enum { HEAD_PART = 0, HEAD_ODD = -1 };
int64_t em_read_request(const uint8_t *data, size_t size, const head_limits *limits, head *out);
int64_t em_read_response(const uint8_t *data, size_t size, const head_limits *limits, head *out);

void em_change(head *h, const change *g);   /* have the head written with this change; NULL: with none */

/* Each returns false for lack of memory. `shown`: the caller's address for X-Forwarded-For. */
bool em_write_request(buffer *out, const head *h, const uint8_t *shown, size_t shown_size);
bool em_write_forwarded_for(buffer *out, const head *h, const uint8_t *shown, size_t shown_size);
bool em_write_response(buffer *out, const head *h, int64_t length, bool chunked, bool close);

size_t em_decimal(char *to, uint64_t number);                         /* write the digits, and return how many */
bool em_trailer_travels(const uint8_t *name, size_t size);            /* RFC 9110 section 6.5.1 */
bool em_same_word(const uint8_t *a, size_t size, const char *word);   /* compare without regard to ASCII case */
bool em_same_name(const field *f, const uint8_t *name, size_t size);  /* `name`: in lower case */
bool em_of_token(uint8_t c);                                          /* RFC 9110 section 5.6.2 */
bool em_of_value(uint8_t c);                                          /* RFC 9110 section 5.5 */
#endif
