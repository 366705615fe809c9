/* What the fast path reports to Python, as tuples with named items: struct sequences. */
#ifndef EDGEMESH_RECORDS_H
#define EDGEMESH_RECORDS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

extern PyTypeObject em_GivenType, em_PassedType, em_RefusalType, em_ServedType, em_CountedType, em_UnderWayType,
    em_FactsType;

/* Make one record. `items` are taken, also on failure; NULL among them means that an exception was raised. */
PyObject *em_record(PyTypeObject *type, PyObject *const *items, Py_ssize_t count);
#define RECORD_OF(type, ...)                                                                                           \
    em_record(&(type), (PyObject *const[]){__VA_ARGS__},                                                               \
              (Py_ssize_t)(sizeof((PyObject *const[]){__VA_ARGS__}) / sizeof(PyObject *)))

static inline PyObject *number(unsigned long long n) { return PyLong_FromUnsignedLongLong(n); }

int em_add_records(PyObject *module);
#endif
