/* The fast path as a Python type. */
#ifndef EDGEMESH_LANE_TYPE_H
#define EDGEMESH_LANE_TYPE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

int em_add_lane_type(PyObject *module);
#endif
