/* Bodies of HTTP/1.1, and heads as llhttp reads them. Bytes to send on are put into lane.work. */
#ifndef EDGEMESH_BODY_H
#define EDGEMESH_BODY_H

#include "caller.h"

void em_message_begin(llhttp_t *parser, bool request);
/* Feed a parser. `ended`: the message is complete. Return how many bytes were taken, -1 for a fault. */
int64_t em_message_feed(struct lane *l, caller *c, llhttp_t *parser, const uint8_t *data, size_t size, bool *ended);
/* Feed bytes of a body, likewise. `s`: the server of a response; NULL for a request. `why`: the reason of a fault. */
int64_t em_body_feed(struct lane *l, caller *c, server *s, const uint8_t *data, size_t size, bool *ended,
                     const char **why);
bool em_framed(struct lane *l, const void *data, size_t size, bool chunked);   /* false: no memory */
bool em_add_end(struct lane *l, caller *c);   /* end of a chunked body, with the trailers that may be forwarded */
#endif
