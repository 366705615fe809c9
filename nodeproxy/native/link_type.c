/* nodeproxy.native._lane.Linked: an HTTP/2 connection to another node, or of a workload, while the fast path has it. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "link_type.h"

#include <string.h>

#include "cross.h"
#include "flow_type.h"
#include "h2_type.h"
#include "link.h"
#include "tls_type.h"

typedef struct { PyObject_HEAD LaneObject *lane; H2Object *h2; link_ *link; } LinkedObject;

static void drop(LinkedObject *self, lane *l, bool bye) {
    if (self->link != NULL) em_link_drop(l, self->link, bye);
    Py_CLEAR(self->h2);
}

static void linked_dealloc(LinkedObject *self) {
    if (put_off(self)) return;
    drop(self, &self->lane->l, false);
    Py_XDECREF(self->lane);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *linked_due(LinkedObject *self, PyObject *unused) {
    (void)unused;
    if (self->link != NULL) em_link_due(lane_of(self->lane), self->link);
    Py_RETURN_NONE;
}

static PyObject *linked_close(LinkedObject *self, PyObject *bye) {
    drop(self, lane_of(self->lane), PyObject_IsTrue(bye) == 1);
    Py_RETURN_NONE;
}

static PyObject *linked_feed(LinkedObject *self, PyObject *data) {
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(data, &bytes, &size) < 0) return NULL;
    if (self->link != NULL) em_link_feed(lane_of(self->lane), self->link, (const uint8_t *)bytes, (size_t)size);
    Py_RETURN_NONE;
}

static PyObject *linked_when_below(LinkedObject *self, PyObject *size) {
    unsigned long below = PyLong_AsUnsignedLong(size);
    if (PyErr_Occurred()) return NULL;
    if (self->link != NULL) self->link->tell_below = (uint32_t)below;
    return linked_due(self, NULL);
}

static PyObject *linked_when_idle(LinkedObject *self, PyObject *unused) {
    (void)unused;
    if (self->link != NULL) self->link->tell_idle = true;
    return linked_due(self, NULL);
}

static PyObject *get_ended(LinkedObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(self->link == NULL || self->link->ended);
}
static PyObject *get_why(LinkedObject *self, void *closure) {
    (void)closure;
    return PyUnicode_FromString(self->link == NULL ? "" : self->link->why);
}
static PyObject *get_heard(LinkedObject *self, void *closure) {
    (void)closure;
    return PyFloat_FromDouble(self->link == NULL ? 0 : (double)self->link->heard / 1e6);
}
static PyObject *get_idle_since(LinkedObject *self, void *closure) {
    (void)closure;
    return PyFloat_FromDouble(self->link == NULL ? 0 : (double)self->link->idle_since / 1e6);
}

static PyObject *get_totals(LinkedObject *self, void *closure) {
    (void)closure;
    const link_ *k = self->link;
    return Py_BuildValue("KK", k == NULL ? 0ULL : (unsigned long long)k->total_in,
                         k == NULL ? 0ULL : (unsigned long long)k->total_out);
}

static PyMethodDef methods[] = {
    {"feed", (PyCFunction)linked_feed, METH_O, "feed(data): what was read from it before"},
    {"due", (PyCFunction)linked_due, METH_NOARGS, "due(): something was queued; it goes out in the next turn"},
    {"close", (PyCFunction)linked_close, METH_O,
     "close(bye): it is out of the lane; `bye`: say so to the peer, if that needs no wait"},
    {"when_below", (PyCFunction)linked_when_below, METH_O, "when_below(size): tell when less is queued"},
    {"when_idle", (PyCFunction)linked_when_idle, METH_NOARGS, "when_idle(): tell when no stream is left"},
    {0},
};
static PyGetSetDef getset[] = {
    {"ended", (getter)get_ended, NULL, "nothing more comes", NULL},
    {"why", (getter)get_why, NULL, "it ended; empty: in order", NULL},
    {"heard", (getter)get_heard, NULL, "when anything came last, by the clock of `tick`", NULL},
    {"totals", (getter)get_totals, NULL, "bytes in and out of calls that came over it and went well", NULL},
    {"idle_since", (getter)get_idle_since, NULL, "when its last stream ended", NULL},
    {0},
};

static PyTypeObject LinkedType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Linked",
    .tp_basicsize = sizeof(LinkedObject),
    .tp_dealloc = (destructor)linked_dealloc,
    .tp_finalize = em_finalize_of_lane,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "An HTTP/2 connection while the lane has it.",
    .tp_methods = methods,
    .tp_getset = getset,
};

link_ *em_link_of(PyObject *linked) { return Py_TYPE(linked) == &LinkedType ? ((LinkedObject *)linked)->link : NULL; }

PyObject *em_lane_link_object(LaneObject *self, PyObject *args) {
    unsigned long long id;
    int fd;
    PyObject *tls, *h2_;
    double stall;
    int local;
    if (!PyArg_ParseTuple(args, "KiOO!dp", &id, &fd, &tls, &em_H2Type, &h2_, &stall, &local)) return NULL;
    if (((H2Object *)h2_)->h.owner != NULL) return PyErr_Format(PyExc_ValueError, "it has its socket already");
    secured *s = NULL;
    if (tls != Py_None && (s = em_secured_of(tls)) == NULL) return NULL;
    LinkedObject *made = PyObject_New(LinkedObject, &LinkedType);
    if (made == NULL) {
        if (s != NULL) em_secured_free(s);
        return NULL;
    }
    made->lane = (LaneObject *)Py_NewRef(self);
    made->h2 = NULL;
    made->link = NULL;
    if (em_lane_link(lane_of(self), id, fd, s, &((H2Object *)h2_)->h, &em_link_visitor, (uint64_t)(stall * 1e6),
                     &made->link) == NULL) {
        PyErr_SetFromErrno(PyExc_OSError);
        if (s != NULL) em_secured_free(s);
        Py_DECREF(made);
        return NULL;
    }
    made->link->local = local;
    made->h2 = (H2Object *)Py_NewRef(h2_);
    return (PyObject *)made;
}

PyObject *em_lane_links(LaneObject *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    lane_of(self)->links_told = false;
    for (link_ *k = lane_of(self)->first_link; list != NULL && k != NULL; k = k->next) {
        if (!k->told) continue;
        k->told = false;
        PyObject *id = PyLong_FromUnsignedLongLong(k->id);
        if (id == NULL || PyList_Append(list, id) < 0) Py_CLEAR(list);
        Py_XDECREF(id);
    }
    return list;
}

PyObject *em_lane_route(LaneObject *self, PyObject *args) {
    PyObject *target_, *linked;
    const char *name;
    Py_ssize_t size;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!O!y#", &em_TargetType, &target_, &LinkedType, &linked, &name, &size)) return NULL;
    target *t = ((TargetObject *)target_)->target;
    if (size > (Py_ssize_t)sizeof t->name) return PyErr_Format(PyExc_ValueError, "a name of %zd bytes", size);
    memcpy(t->name, name, (size_t)size);
    t->name_size = (uint32_t)size;
    if (((LinkedObject *)linked)->link != NULL) em_target_link(t, ((LinkedObject *)linked)->link);
    Py_RETURN_NONE;
}

PyObject *em_lane_door(LaneObject *self, PyObject *args) {
    PyObject *linked, *plan_;
    const char *what, *whom;
    Py_ssize_t what_size, whom_size;
    unsigned long long guest;
    if (!PyArg_ParseTuple(args, "O!y#y#O!K", &LinkedType, &linked, &what, &what_size, &whom, &whom_size, &em_PlanType,
                          &plan_, &guest))
        return NULL;
    link_ *k = ((LinkedObject *)linked)->link;
    if (k != NULL && !em_door_learn(lane_of(self), k, (const uint8_t *)what, (size_t)what_size, (const uint8_t *)whom,
                                    (size_t)whom_size, ((PlanObject *)plan_)->plan, guest))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

int em_add_link_type(PyObject *module) { return PyModule_AddType(module, &LinkedType); }
