/* The Python object that holds the lane; every other object that belongs to a lane keeps it alive. */
#ifndef EDGEMESH_MODULE_H
#define EDGEMESH_MODULE_H

#include "lane.h"

typedef struct { PyObject_HEAD struct LaneObject_ *lane; target *target; } TargetObject;
typedef struct { PyObject_HEAD struct LaneObject_ *lane; plan *plan; } PlanObject;
typedef struct LaneObject_ { PyObject_HEAD lane l; row **rows; Py_ssize_t row_count; bool open; } LaneObject;
PyObject *lane_link_object(LaneObject *self, PyObject *args);   /* link_type.c */
PyObject *lane_route(LaneObject *self, PyObject *args);
PyObject *lane_door(LaneObject *self, PyObject *args);
PyObject *lane_links(LaneObject *self, PyObject *unused);
struct link_ *link_of(PyObject *linked);                        /* NULL: it is no Linked, or out of the lane */
PyObject *lane_tunnel_object(LaneObject *self, PyObject *args); /* tunnel_type.c */
bool tunnels_moved(LaneObject *self, PyObject *list);           /* false with an exception */
extern PyTypeObject TargetType, PlanType;
int add_link_type(PyObject *module);
int add_tunnel_type(PyObject *module);
#endif
