/* Objects that belong to a lane and die while it is in a turn: see lane_object.h. */
#include "lane_object.h"

void em_finalize_of_lane(PyObject *dead) {
    LaneObject *self = ((OfLane *)dead)->lane;
    if (self == NULL || !self->turning) return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (PyList_Append(self->later, dead) < 0) Py_INCREF(dead);   /* then it is never freed, which harms nothing */
    PyErr_Restore(type, value, traceback);
}
