/* nodeproxy.native._lane.TlsContext and Secured: handshakes, and the contents of the peer's certificates.
 * nodeproxy/fastpath/tls.py judges them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#include "tls_type.h"

#include "records.h"

typedef struct { PyObject_HEAD SSL_CTX *made; bool server; } ContextObject;
typedef struct { PyObject_HEAD secured *s; } SecuredObject;
static PyTypeObject SecuredType;

static PyObject *context_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    int server, proves;
    text chain, key, roots;
    const char *alpn;
    Py_ssize_t chain_size, key_size, roots_size, alpn_size;
    if (!PyArg_ParseTuple(args, "py#y#y#y#p", &server, &chain.at, &chain_size, &key.at, &key_size, &roots.at,
                          &roots_size, &alpn, &alpn_size, &proves))
        return NULL;
    chain.size = (size_t)chain_size;
    key.size = (size_t)key_size;
    roots.size = (size_t)roots_size;
    char why[160];
    SSL_CTX *made = em_tls_context(server, chain, key, roots, (const uint8_t *)alpn, (size_t)alpn_size, proves, why,
                                   sizeof why);
    if (made == NULL) return PyErr_Format(PyExc_ValueError, "%s", why);
    ContextObject *self = (ContextObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        SSL_CTX_free(made);
        return NULL;
    }
    self->made = made;
    self->server = server;
    return (PyObject *)self;
}

static void context_dealloc(ContextObject *self) {
    SSL_CTX_free(self->made);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *context_secure(ContextObject *self, PyObject *args) {
    int fd;
    const char *held;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "iy#", &fd, &held, &size)) return NULL;
    SecuredObject *made = PyObject_New(SecuredObject, &SecuredType);
    if (made == NULL) return NULL;
    made->s = em_secured_new(self->made, self->server, fd, (const uint8_t *)held, (size_t)size);
    if (made->s == NULL) {
        Py_DECREF(made);
        return PyErr_NoMemory();
    }
    return (PyObject *)made;
}

static PyMethodDef context_methods[] = {
    {"secure", (PyCFunction)context_secure, METH_VARARGS,
     "secure(fd, held) -> Secured; `held` was read from fd before"},
    {0},
};

static PyTypeObject ContextType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.TlsContext",
    .tp_basicsize = sizeof(ContextObject),
    .tp_new = context_new,
    .tp_dealloc = (destructor)context_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "TlsContext(server, chain, key, roots, alpn, proves)",
    .tp_methods = context_methods,
};

/* ---- one connection ---- */

static void secured_dealloc(SecuredObject *self) {
    if (self->s != NULL) em_secured_free(self->s);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static secured *here(SecuredObject *self) {
    if (self->s == NULL) PyErr_SetString(PyExc_ValueError, "the lane has it");
    return self->s;
}

secured *em_secured_of(PyObject *o) {
    if (Py_TYPE(o) != &SecuredType) {
        PyErr_SetString(PyExc_TypeError, "a Secured");
        return NULL;
    }
    secured *s = here((SecuredObject *)o);
    ((SecuredObject *)o)->s = NULL;
    return s;
}

static PyObject *do_handshake(SecuredObject *self, PyObject *unused) {
    (void)unused;
    secured *s = here(self);
    return s == NULL ? NULL : PyLong_FromLong(em_secured_handshake(s));
}

static PyObject *do_read(SecuredObject *self, PyObject *args) {
    int size;
    secured *s = here(self);
    if (s == NULL || !PyArg_ParseTuple(args, "i", &size)) return NULL;
    if (size < 1 || size > 1 << 20) return PyErr_Format(PyExc_ValueError, "%d bytes", size);
    PyObject *data = PyBytes_FromStringAndSize(NULL, size);
    if (data == NULL) return NULL;
    ssize_t got = em_secured_read(s, (uint8_t *)PyBytes_AS_STRING(data), (size_t)size);
    if (got >= 0) {
        _PyBytes_Resize(&data, got);
        return data;
    }
    Py_DECREF(data);
    if (got == SECURED_AGAIN) Py_RETURN_NONE;
    return PyErr_Format(PyExc_ConnectionError, "%s", em_secured_why(s));
}

static PyObject *do_write(SecuredObject *self, PyObject *args) {
    const char *data;
    Py_ssize_t size;
    secured *s = here(self);
    if (s == NULL || !PyArg_ParseTuple(args, "y#", &data, &size)) return NULL;
    ssize_t sent = em_secured_write(s, (const uint8_t *)data, (size_t)size);
    if (sent == SECURED_BROKEN) return PyErr_Format(PyExc_ConnectionError, "%s", em_secured_why(s));
    return PyLong_FromSsize_t(sent == SECURED_AGAIN ? 0 : sent);
}

static PyObject *do_new_keys(SecuredObject *self, PyObject *unused) {
    (void)unused;
    secured *s = here(self);
    return s == NULL ? NULL : PyBool_FromLong(SSL_key_update(em_secured_ssl(s), SSL_KEY_UPDATE_REQUESTED) == 1);
}

static PyObject *do_bye(SecuredObject *self, PyObject *unused) {
    (void)unused;
    secured *s = here(self);
    if (s == NULL) return NULL;
    em_secured_bye(s);
    Py_RETURN_NONE;
}

/* ---- certificates ---- */

static PyObject *uris_of(X509 *one) {
    PyObject *list = PyList_New(0);
    GENERAL_NAMES *names = X509_get_ext_d2i(one, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; list != NULL && names != NULL && i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI) continue;
        const ASN1_STRING *said = name->d.uniformResourceIdentifier;
        PyObject *uri = PyUnicode_DecodeUTF8((const char *)ASN1_STRING_get0_data(said), ASN1_STRING_length(said), NULL);
        if (uri == NULL || PyList_Append(list, uri) < 0) Py_CLEAR(list);
        Py_XDECREF(uri);
    }
    GENERAL_NAMES_free(names);
    return list;
}

static PyObject *subject_of(X509 *one, int what) {
    PyObject *list = PyList_New(0);
    X509_NAME *subject = X509_get_subject_name(one);
    for (int i = -1; list != NULL && (i = X509_NAME_get_index_by_NID(subject, what, i)) >= 0;) {
        unsigned char *said = NULL;
        int size = ASN1_STRING_to_UTF8(&said, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, i)));
        PyObject *name = NULL;
        if (size < 0) PyErr_SetString(PyExc_ValueError, "a name that is no text");
        else name = PyUnicode_DecodeUTF8((const char *)said, size, NULL);
        OPENSSL_free(said);
        if (name == NULL || PyList_Append(list, name) < 0) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static bool seconds_of(const ASN1_TIME *when, double *out) {
    struct tm t;
    if (ASN1_TIME_to_tm(when, &t) != 1) {
        PyErr_SetString(PyExc_ValueError, "a date that is none");
        return false;
    }
    *out = (double)timegm(&t);
    return true;
}

static PyObject *serial_of(X509 *one) {
    BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(one), NULL);
    char *hex = number == NULL ? NULL : BN_bn2hex(number);
    PyObject *serial = hex == NULL ? PyErr_NoMemory() : PyUnicode_FromString(hex);
    OPENSSL_free(hex);
    BN_free(number);
    return serial;
}

static PyObject *facts_of(X509 *one) {
    double from, until;
    if (!seconds_of(X509_get0_notBefore(one), &from) || !seconds_of(X509_get0_notAfter(one), &until)) return NULL;
    PyObject *uris = uris_of(one), *units = uris == NULL ? NULL : subject_of(one, NID_organizationalUnitName);
    PyObject *names = units == NULL ? NULL : subject_of(one, NID_commonName),
             *serial = names == NULL ? NULL : serial_of(one);
    return RECORD_OF(em_FactsType, uris, units, names, PyFloat_FromDouble(from), PyFloat_FromDouble(until), serial);
}

static PyObject *do_chain(SecuredObject *self, PyObject *unused) {
    (void)unused;
    secured *s = here(self);
    if (s == NULL) return NULL;
    STACK_OF(X509) *chain = SSL_get0_verified_chain(em_secured_ssl(s));
    bool shown = SSL_get0_peer_certificate(em_secured_ssl(s)) != NULL &&
                 SSL_get_verify_result(em_secured_ssl(s)) == X509_V_OK;
    PyObject *list = PyList_New(0);
    for (int i = 0; list != NULL && shown && chain != NULL && i < sk_X509_num(chain); i++) {
        PyObject *one = facts_of(sk_X509_value(chain, i));
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *get_alpn(SecuredObject *self, void *closure) {
    (void)closure;
    const uint8_t *name;
    unsigned size;
    secured *s = here(self);
    if (s == NULL) return NULL;
    SSL_get0_alpn_selected(em_secured_ssl(s), &name, &size);
    return PyUnicode_DecodeLatin1(size ? (const char *)name : "", size, NULL);
}
static PyObject *get_version(SecuredObject *self, void *closure) {
    (void)closure;
    secured *s = here(self);
    return s == NULL ? NULL : PyUnicode_FromString(SSL_get_version(em_secured_ssl(s)));
}
static PyObject *get_cipher(SecuredObject *self, void *closure) {
    (void)closure;
    secured *s = here(self);
    return s == NULL ? NULL : PyUnicode_FromString(SSL_get_cipher_name(em_secured_ssl(s)));
}
static PyObject *get_why(SecuredObject *self, void *closure) {
    (void)closure;
    secured *s = here(self);
    return s == NULL ? NULL : PyUnicode_DecodeUTF8(em_secured_why(s), (Py_ssize_t)strlen(em_secured_why(s)), "replace");
}

static PyMethodDef secured_methods[] = {
    {"handshake", (PyCFunction)do_handshake, METH_NOARGS, "handshake() -> int: SECURED_..."},
    {"chain", (PyCFunction)do_chain, METH_NOARGS, "chain() -> list: Facts of each verified certificate"},
    {"read", (PyCFunction)do_read, METH_VARARGS, "read(size) -> bytes, empty at the end; None: nothing now"},
    {"write", (PyCFunction)do_write, METH_VARARGS, "write(data) -> int: 0: nothing now"},
    {"new_keys", (PyCFunction)do_new_keys, METH_NOARGS, "new_keys() -> bool: with the next bytes"},
    {"bye", (PyCFunction)do_bye, METH_NOARGS, "bye(): say the end"},
    {0},
};
static PyGetSetDef secured_getset[] = {
    {"alpn", (getter)get_alpn, NULL, "the protocol that was chosen", NULL},
    {"version", (getter)get_version, NULL, "of TLS", NULL},
    {"cipher", (getter)get_cipher, NULL, "of TLS", NULL},
    {"why", (getter)get_why, NULL, "what went wrong, in OpenSSL's words", NULL},
    {0},
};

static PyTypeObject SecuredType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Secured",
    .tp_basicsize = sizeof(SecuredObject),
    .tp_dealloc = (destructor)secured_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "One TLS connection, until the lane takes it.",
    .tp_methods = secured_methods,
    .tp_getset = secured_getset,
};

int em_add_tls_types(PyObject *module) {
    if (!em_tls_begin()) {
        PyErr_NoMemory();
        return -1;
    }
    return PyModule_AddType(module, &ContextType) < 0 ? -1 : PyModule_AddType(module, &SecuredType);
}
