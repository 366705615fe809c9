/* Relays as Python objects. */
#ifndef EDGEMESH_RELAY_TYPE_H
#define EDGEMESH_RELAY_TYPE_H

#include "lane_object.h"

int em_add_relay_type(PyObject *module);

/* Methods of Lane. */
PyObject *em_lane_relay_object(LaneObject *self, PyObject *args);
PyObject *em_lane_relayed(LaneObject *self, PyObject *unused);
PyObject *em_lane_moved(LaneObject *self, PyObject *unused);
#endif
