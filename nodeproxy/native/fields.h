/* Fields of an HTTP/2 stream as HTTP/1.1 text. The same strict reader (head.c) then judges the text. A head that is
 * unusual in either form is handed to Python. */
#ifndef EDGEMESH_FIELDS_H
#define EDGEMESH_FIELDS_H

#include "h2.h"

#define DESTINATION "x-edgemesh-destination"

typedef struct { const uint8_t *name, *value; size_t name_size, value_size; } pair;

/* What a request asks for. `size`: of all its fields, as the log counts them. */
typedef struct { pair method, path, authority, destination, forwarded_for; size_t size; } asked;

/* Each returns false where the fields are not plain, or for lack of memory. `ended`: the message ends with the head.
 *
 * `local`: it comes from a workload of this node, whose own x-edgemesh-destination is not trusted.
 */
bool em_request_text(buffer *out, const stream *s, bool ended, bool local, asked *a);
/* `own`: the remote node's own fields make it odd. `any`: a status without a known reason phrase is not odd. */
bool em_response_text(buffer *out, const stream *s, bool ended, bool head_only, bool own, bool any);
bool em_trailers_text(buffer *out, const stream *s);
#endif
