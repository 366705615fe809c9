/* Calls with an HTTP/2 stream at one end, or both. */
#ifndef EDGEMESH_CROSS_H
#define EDGEMESH_CROSS_H

#include "call.h"
#include "h2.h"

extern const stream_ends em_stream_ends;   /* for the lane */
extern const visitor em_link_visitor;      /* for links */
#endif
