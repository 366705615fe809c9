/* Links as Python objects. */
#ifndef EDGEMESH_LINK_TYPE_H
#define EDGEMESH_LINK_TYPE_H

#include "lane_object.h"

struct link_ *em_link_of(PyObject *linked);   /* NULL: it is no Linked, or has left the fast path */
int em_add_link_type(PyObject *module);

/* Methods of Lane. */
PyObject *em_lane_link_object(LaneObject *self, PyObject *args);
PyObject *em_lane_route(LaneObject *self, PyObject *args);
PyObject *em_lane_door(LaneObject *self, PyObject *args);
PyObject *em_lane_links(LaneObject *self, PyObject *unused);
#endif
