/* One HTTP/2 connection as a Python object; the lane, which may come to own its socket, holds the same one. */
#ifndef EDGEMESH_H2_TYPE_H
#define EDGEMESH_H2_TYPE_H

#include "h2.h"

typedef struct { PyObject_HEAD h2 h; } H2Object;
extern PyTypeObject H2Type;
int add_h2_type(PyObject *module);
#endif
