/* One HTTP/2 connection as a Python object; the fast path, which may own its socket, holds the same object. */
#ifndef EDGEMESH_H2_TYPE_H
#define EDGEMESH_H2_TYPE_H

#include "h2.h"

typedef struct { PyObject_HEAD h2_owner owner; } OwnerObject;
typedef struct { PyObject_HEAD h2 h; OwnerObject *owner; } H2Object;
extern PyTypeObject em_H2Type, em_OwnerType;
int em_add_h2_type(PyObject *module);
#endif
