/* Tunnels as Python objects. */
#ifndef EDGEMESH_TUNNEL_TYPE_H
#define EDGEMESH_TUNNEL_TYPE_H

#include "lane_object.h"

bool em_tunnels_moved(LaneObject *self, PyObject *list);           /* false with an exception */
int em_add_tunnel_type(PyObject *module);

/* A method of Lane. */
PyObject *em_lane_tunnel_object(LaneObject *self, PyObject *args);
#endif
