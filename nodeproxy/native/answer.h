/* Responses of servers over HTTP/1.1: the head is judged, and the whole response is sent on. An unusual response is
 * handed to Python. */
#ifndef EDGEMESH_ANSWER_H
#define EDGEMESH_ANSWER_H

#include "caller.h"

extern const side_kind em_answering;                     /* side of a server that a call uses */
void em_request_ended(struct lane *l, caller *c);   /* hand over a response that has waited for the request's end */
#endif
