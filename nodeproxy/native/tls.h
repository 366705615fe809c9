/* TLS 1.3 between nodes, on a descriptor with another owner: OpenSSL, with the settings of nodeproxy/tls/contexts.py.
 * No Python objects. */
#ifndef EDGEMESH_TLS_H
#define EDGEMESH_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct { const char *at; size_t size; } text;

bool em_tls_begin(void);   /* once, before anything else. False: no memory */

/* Make the context for connections. NULL: `why` says what cannot be read. `roots` empty: the peer proves nothing.
 * `alpn`: in wire format. */
SSL_CTX *em_tls_context(bool server, text chain, text key, text roots, const uint8_t *alpn, size_t alpn_size,
                        bool proves, char *why, size_t why_size);

typedef struct secured secured;
/* `held` was read before. NULL: no memory. */
secured *em_secured_new(SSL_CTX *made_of, bool server, int fd, const uint8_t *held, size_t held_size);
void em_secured_free(secured *s);
enum { SECURED_DONE, SECURED_READS, SECURED_WRITES, SECURED_FAILED, SECURED_UNTRUSTED };
int em_secured_handshake(secured *s);
SSL *em_secured_ssl(const secured *s);

enum { SECURED_END = 0, SECURED_AGAIN = -1, SECURED_BROKEN = -2 };
ssize_t em_secured_read(secured *s, uint8_t *to, size_t size);   /* SECURED_END: the peer has sent close_notify */
ssize_t em_secured_write(secured *s, const uint8_t *data, size_t size);
const char *em_secured_why(const secured *s);                    /* reason of a failure, in words */
bool em_secured_pending(const secured *s);                       /* bytes are here that no event reports */
void em_secured_bye(secured *s);                                 /* send close_notify, if that needs no wait */
#endif
