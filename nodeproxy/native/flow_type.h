/* Endpoints and plans as Python objects. */
#ifndef EDGEMESH_FLOW_TYPE_H
#define EDGEMESH_FLOW_TYPE_H

#include "lane_object.h"

typedef struct { PyObject_HEAD LaneObject *lane; target *target; } TargetObject;
typedef struct { PyObject_HEAD LaneObject *lane; plan *plan; } PlanObject;
extern PyTypeObject em_TargetType, em_PlanType;
int em_add_flow_types(PyObject *module);

/* Methods of Lane. */
PyObject *em_lane_target(LaneObject *self, PyObject *unused);
PyObject *em_lane_plan(LaneObject *self, PyObject *args);
PyObject *em_lane_dry(LaneObject *self, PyObject *unused);
PyObject *em_lane_rule(LaneObject *self, PyObject *args);
PyObject *em_lane_learn(LaneObject *self, PyObject *args);
PyObject *em_lane_denial(LaneObject *self, PyObject *args);
PyObject *em_lane_refuse(LaneObject *self, PyObject *args);
PyObject *em_lane_counts(LaneObject *self, PyObject *unused);
#endif
