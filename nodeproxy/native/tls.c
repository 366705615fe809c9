/* TLS: see tls.h. Python decides which identity the peer has, and whether its dates are valid
 * (nodeproxy/tls/spiffe.py). This file verifies the keys of the chain, and passes bytes. Errors are reported in
 * OpenSSL's words; nodeproxy/fastpath/tls.py translates them. */
#include "tls.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define MOST_CHAIN 32768        /* bytes of the peer's certificates */
#define KEY_UPDATES 64          /* in a row that a peer may request, without a byte of ours in between */

struct secured {
    SSL *ssl;
    int fd;
    uint8_t *held;              /* bytes that were read from fd before, for OpenSSL */
    size_t held_at, held_size;
    int updates;
    bool broken;                /* nothing more comes or goes */
    bool said_bye;              /* close_notify was sent */
    bool half;                  /* a write has to be repeated */
    char why[160];
};

/* ---- a BIO over a socket: held bytes come first, and nothing raises SIGPIPE ---- */

static int bio_read(BIO *bio, char *to, int size) {
    secured *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (s->held != NULL) {
        size_t left = s->held_size - s->held_at, step = left < (size_t)size ? left : (size_t)size;
        memcpy(to, s->held + s->held_at, step);
        s->held_at += step;
        if (s->held_at == s->held_size) {
            free(s->held);
            s->held = NULL;
        }
        if (step) return (int)step;
    }
    ssize_t got = recv(s->fd, to, (size_t)size, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_read(bio);
    if (got == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    return (int)got;
}

static int bio_write(BIO *bio, const char *data, int size) {
    secured *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t sent = send(s->fd, data, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) BIO_set_retry_write(bio);
    return (int)sent;
}

static long bio_ctrl(BIO *bio, int what, long number, void *more) {
    (void)number, (void)more;
    if (what == BIO_CTRL_FLUSH) return 1;
    if (what == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    return 0;
}

/* Made once, when the module is loaded; only read afterwards. */
static BIO_METHOD *method;
static int protocols_index = -1;   /* index of the protocols in a context's data */

/* ---- contexts ---- */

static void put_why(char *why, size_t size, const char *otherwise) {
    unsigned long error = ERR_peek_error();
    const char *reason = error ? ERR_reason_error_string(error) : NULL;
    snprintf(why, size, "%s", reason != NULL ? reason : otherwise);
    ERR_clear_error();
}

static int no_passphrase(char *to, int size, int writing, void *more) {
    (void)to, (void)size, (void)writing, (void)more;
    return 0;   /* never ask at a terminal */
}

static bool load_key(SSL_CTX *c, text chain, text key) {
    BIO *bio = BIO_new_mem_buf(chain.at, (int)chain.size);
    X509 *own = bio == NULL ? NULL : PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
    bool ok = own != NULL && SSL_CTX_use_certificate(c, own) == 1;
    X509_free(own);
    while (ok) {
        X509 *next = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
        if (next == NULL) {   /* end of the text */
            unsigned long error = ERR_peek_last_error();
            ok = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
            if (ok) ERR_clear_error();
            break;
        }
        ok = SSL_CTX_add0_chain_cert(c, next) == 1;
        if (!ok) X509_free(next);
    }
    BIO_free(bio);
    bio = ok ? BIO_new_mem_buf(key.at, (int)key.size) : NULL;
    EVP_PKEY *pkey = bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    ok = ok && pkey != NULL && SSL_CTX_use_PrivateKey(c, pkey) == 1 && SSL_CTX_check_private_key(c) == 1;
    EVP_PKEY_free(pkey);
    BIO_free(bio);
    return ok;
}

static bool load_roots(SSL_CTX *c, text roots) {
    X509_STORE *store = SSL_CTX_get_cert_store(c);
    BIO *bio = BIO_new_mem_buf(roots.at, (int)roots.size);
    int count = 0;
    bool ok = bio != NULL;
    while (ok) {
        X509 *root = PEM_read_bio_X509(bio, NULL, no_passphrase, NULL);
        if (root == NULL) {
            unsigned long error = ERR_peek_last_error();
            ok = count > 0 && ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
            if (ok) ERR_clear_error();
            break;
        }
        ok = X509_STORE_add_cert(store, root) == 1;
        X509_free(root);
        count++;
    }
    BIO_free(bio);
    return ok;
}

typedef struct { size_t size; uint8_t wire[64]; } protocols;

static int choose_protocol(SSL *ssl, const uint8_t **out, uint8_t *out_size, const uint8_t *offered,
                           unsigned offered_size, void *ours) {
    (void)ssl;
    const protocols *p = ours;
    /* Our order decides: the first of our protocols that both ends speak. */
    if (SSL_select_next_proto((uint8_t **)out, out_size, p->wire, (unsigned)p->size, offered, offered_size) ==
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_OK;
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static void free_protocols(void *parent, void *data, CRYPTO_EX_DATA *all, int index, long number, void *more) {
    (void)parent, (void)all, (void)index, (void)number, (void)more;
    free(data);
}

bool em_tls_begin(void) {
    method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "edgemesh socket");
    protocols_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_protocols);
    return method != NULL && protocols_index >= 0 && BIO_meth_set_read(method, bio_read) &&
           BIO_meth_set_write(method, bio_write) && BIO_meth_set_ctrl(method, bio_ctrl);
}

static bool set_protocols(SSL_CTX *c, bool server, const uint8_t *alpn, size_t size) {
    if (size == 0) return true;
    if (!server) return SSL_CTX_set_alpn_protos(c, alpn, (unsigned)size) == 0;
    protocols *p = malloc(sizeof *p);
    if (p == NULL || size > sizeof p->wire || SSL_CTX_set_ex_data(c, protocols_index, p) != 1) {
        free(p);
        return false;
    }
    p->size = size;
    memcpy(p->wire, alpn, size);
    SSL_CTX_set_alpn_select_cb(c, choose_protocol, p);
    return true;
}

SSL_CTX *em_tls_context(bool server, text chain, text key, text roots, const uint8_t *alpn, size_t alpn_size,
                        bool proves, char *why, size_t why_size) {
    ERR_clear_error();
    SSL_CTX *c = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());
    bool ok = c != NULL && SSL_CTX_set_min_proto_version(c, TLS1_3_VERSION) == 1 &&
              SSL_CTX_set_max_proto_version(c, TLS1_3_VERSION) == 1;
    if (ok) {
        /* Never resume a session: that would skip the check of a certificate that has expired or was revoked meanwhile.
         */
        SSL_CTX_set_options(c, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
        SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_num_tickets(c, 0);
        SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_read_ahead(c, 1);
        SSL_CTX_set_max_cert_list(c, MOST_CHAIN);
        /* Exactly these flags: see nodeproxy/tls/contexts.py. */
        X509_VERIFY_PARAM *param = SSL_CTX_get0_param(c);
        X509_VERIFY_PARAM_clear_flags(param, X509_VERIFY_PARAM_get_flags(param));
        X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_TRUSTED_FIRST | X509_V_FLAG_NO_CHECK_TIME);
        int mode = roots.size == 0 ? SSL_VERIFY_NONE
                                   : SSL_VERIFY_PEER | (server && proves ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0);
        SSL_CTX_set_verify(c, mode, NULL);
        ok = set_protocols(c, server, alpn, alpn_size);
    }
    if (!ok) put_why(why, why_size, "no memory");
    if (ok && roots.size && !load_roots(c, roots)) {
        put_why(why, why_size, "no certificate in it");
        ok = false;
    }
    if (ok && chain.size && !load_key(c, chain, key)) {
        put_why(why, why_size, "no certificate or key in it");
        ok = false;
    }
    if (ok) return c;
    SSL_CTX_free(c);
    return NULL;
}

/* ---- one connection ---- */

/* A peer that requests new keys again and again causes wasted work. */
static void saw_message(int sent, int version, int kind, const void *data, size_t size, SSL *ssl, void *owner) {
    (void)version, (void)ssl;
    secured *s = owner;
    if (!sent && kind == SSL3_RT_HANDSHAKE && size && *(const uint8_t *)data == SSL3_MT_KEY_UPDATE) s->updates++;
}

secured *em_secured_new(SSL_CTX *made_of, bool server, int fd, const uint8_t *held, size_t held_size) {
    secured *s = calloc(1, sizeof *s);
    BIO *bio = BIO_new(method);
    if (s != NULL) {
        s->fd = fd;
        s->ssl = SSL_new(made_of);
        s->held = held_size ? malloc(held_size) : NULL;
    }
    if (s == NULL || bio == NULL || s->ssl == NULL || (held_size && s->held == NULL)) {
        BIO_free(bio);
        if (s != NULL) em_secured_free(s);
        return NULL;
    }
    if (held_size) memcpy(s->held, held, held_size);
    s->held_size = held_size;
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    SSL_set_bio(s->ssl, bio, bio);
    SSL_set_msg_callback(s->ssl, saw_message);
    SSL_set_msg_callback_arg(s->ssl, s);
    if (server) SSL_set_accept_state(s->ssl);
    else SSL_set_connect_state(s->ssl);
    return s;
}

void em_secured_free(secured *s) {
    SSL_free(s->ssl);
    free(s->held);
    free(s);
}

SSL *em_secured_ssl(const secured *s) { return s->ssl; }
const char *em_secured_why(const secured *s) { return s->why; }
/* No event reports either kind of bytes. */
bool em_secured_pending(const secured *s) { return s->held != NULL || SSL_has_pending(s->ssl) == 1; }

/* Note what went wrong. The oldest error is the cause. */
static void note(secured *s, int got, int problem) {
    int error = errno;
    s->broken = true;
    unsigned long told = ERR_peek_error();
    if (problem == SSL_ERROR_SYSCALL && !told)
        snprintf(s->why, sizeof s->why, "%s",
                 got == 0 || error == 0 ? "unexpected eof while reading" : strerror(error));
    else put_why(s->why, sizeof s->why, "the connection broke");
    ERR_clear_error();
}

int em_secured_handshake(secured *s) {
    ERR_clear_error();
    errno = 0;
    int got = SSL_do_handshake(s->ssl);
    if (got == 1) return SECURED_DONE;
    int problem = SSL_get_error(s->ssl, got);
    if (problem == SSL_ERROR_WANT_READ) return SECURED_READS;
    if (problem == SSL_ERROR_WANT_WRITE) return SECURED_WRITES;
    long verdict = SSL_get_verify_result(s->ssl);
    note(s, got, problem);
    if (verdict == X509_V_OK || strstr(s->why, "certificate verify failed") == NULL) return SECURED_FAILED;
    snprintf(s->why, sizeof s->why, "%s", X509_verify_cert_error_string(verdict));
    return SECURED_UNTRUSTED;
}

ssize_t em_secured_read(secured *s, uint8_t *to, size_t size) {
    if (s->broken) return SECURED_BROKEN;
    ERR_clear_error();
    errno = 0;
    size_t count;
    int got = SSL_read_ex(s->ssl, to, size, &count);
    if (s->updates > KEY_UPDATES) {
        s->broken = true;
        snprintf(s->why, sizeof s->why, "it asked for new keys %d times in a row", s->updates);
        return SECURED_BROKEN;
    }
    if (got == 1) {
        s->updates = 0;
        return (ssize_t)count;
    }
    int problem = SSL_get_error(s->ssl, got);
    if (problem == SSL_ERROR_WANT_READ || problem == SSL_ERROR_WANT_WRITE) return SECURED_AGAIN;
    if (problem == SSL_ERROR_ZERO_RETURN) return SECURED_END;
    note(s, got, problem);
    return SECURED_BROKEN;
}

ssize_t em_secured_write(secured *s, const uint8_t *data, size_t size) {
    if (s->broken) return SECURED_BROKEN;
    ERR_clear_error();
    errno = 0;
    size_t count;
    int got = SSL_write_ex(s->ssl, data, size, &count);
    s->half = false;
    if (got == 1) return (ssize_t)count;
    int problem = SSL_get_error(s->ssl, got);
    s->half = problem == SSL_ERROR_WANT_WRITE;
    if (problem == SSL_ERROR_WANT_READ || problem == SSL_ERROR_WANT_WRITE) return SECURED_AGAIN;
    note(s, got, problem);
    return SECURED_BROKEN;
}

void em_secured_bye(secured *s) {
    if (s->broken || s->half || s->said_bye || !SSL_is_init_finished(s->ssl)) return;
    s->said_bye = true;
    ERR_clear_error();
    SSL_shutdown(s->ssl);
    ERR_clear_error();
}
