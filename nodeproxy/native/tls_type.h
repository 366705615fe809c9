/* TLS as Python objects: contexts, and one connection until the fast path takes it. */
#ifndef EDGEMESH_TLS_TYPE_H
#define EDGEMESH_TLS_TYPE_H

#include "tls.h"

/* Hand the connection over, once. NULL with an exception. */
secured *em_secured_of(PyObject *o);
int em_add_tls_types(PyObject *module);
#endif
