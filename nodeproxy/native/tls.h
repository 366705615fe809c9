/* TLS 1.3 between nodes, on a descriptor that somebody else owns: OpenSSL, set as nodeproxy/tls.py sets it. No Python objects. */
#ifndef EDGEMESH_TLS_H
#define EDGEMESH_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct { const char *at; size_t size; } text;

/* What a connection is made of. NULL: `why` says what cannot be read. `roots` empty: nobody is proved. `alpn`: as on the wire. */
SSL_CTX *tls_context(bool server, text chain, text key, text roots, const uint8_t *alpn, size_t alpn_size, bool proves, char *why, size_t why_size);

typedef struct secured secured;
secured *secured_new(SSL_CTX *made_of, bool server, int fd, const uint8_t *held, size_t held_size);   /* `held` was read before */
void secured_free(secured *s);
enum { SECURED_DONE, SECURED_READS, SECURED_WRITES, SECURED_FAILED, SECURED_UNTRUSTED };
int secured_handshake(secured *s);
SSL *secured_ssl(const secured *s);

enum { SECURED_END = 0, SECURED_AGAIN = -1, SECURED_BROKEN = -2 };
ssize_t secured_read(secured *s, uint8_t *to, size_t size);   /* SECURED_END: the peer has said that it ends */
ssize_t secured_write(secured *s, const uint8_t *data, size_t size);
const char *secured_why(const secured *s);                    /* in words, after a failure */
bool secured_pending(const secured *s);                       /* bytes are here that no event tells of */
void secured_bye(secured *s);                                 /* say the end, if that needs no wait */
#endif
