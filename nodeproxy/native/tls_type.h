/* TLS as Python objects: what connections are made of, and one connection until the lane takes it. */
#ifndef EDGEMESH_TLS_TYPE_H
#define EDGEMESH_TLS_TYPE_H

#include "tls.h"

/* Hands it over, once. NULL with an exception. */
secured *secured_of(PyObject *o);
int add_tls_types(PyObject *module);
#endif
