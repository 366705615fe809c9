/* Callers as Python objects. */
#ifndef EDGEMESH_CALLER_TYPE_H
#define EDGEMESH_CALLER_TYPE_H

#include "lane_object.h"

int em_add_caller_type(PyObject *module);

/* Methods of Lane. */
PyObject *em_lane_carry_object(LaneObject *self, PyObject *args);
PyObject *em_lane_ups(LaneObject *self, PyObject *unused);
PyObject *em_lane_calls(LaneObject *self, PyObject *unused);
PyObject *em_lane_cut(LaneObject *self, PyObject *args);
PyObject *em_lane_refusals(LaneObject *self, PyObject *unused);
PyObject *em_lane_log(LaneObject *self, PyObject *unused);
#endif
