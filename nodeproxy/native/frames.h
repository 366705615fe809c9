/* Frames of a peer (RFC 9113 section 4), counted before nghttp2 sees them; and field blocks for which nghttp2 would end
 * the connection. */
#ifndef EDGEMESH_FRAMES_H
#define EDGEMESH_FRAMES_H

#include "h2.h"

/* Count the frames in `data`, and pass them to nghttp2. */
void em_h2_take_in(h2 *h, const uint8_t *data, size_t size);
void em_h2_abuse(h2 *h, const char *words);      /* the connection is over: its peer causes wasted work */
bool em_bucket_spend(bucket *b, double cost, double now);   /* false: the bucket holds less than that */
void em_h2_violates(h2 *h, const char *words);   /* the connection is over: its peer broke HTTP/2 */
#endif
