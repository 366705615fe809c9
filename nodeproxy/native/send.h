/* Writes to both connections of a call: at once, as far as possible; the rest when there is room. */
#ifndef EDGEMESH_SEND_H
#define EDGEMESH_SEND_H

#include "caller.h"

void em_to_caller(struct lane *l, caller *c);                    /* send `work` to the caller */
void em_to_server(struct lane *l, caller *c);
bool em_caller_send(struct lane *l, caller *c);                  /* send what waits. False: the other end is gone */
bool em_server_send(struct lane *l, server *s);
void em_server_takes_no_more(server *s);                         /* a write to it failed, with this errno */
uint32_t em_back_waits(const struct lane *l, const caller *c);   /* bytes on their way to the server */
#endif
