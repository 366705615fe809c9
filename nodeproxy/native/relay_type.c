/* nodeproxy.native._lane.Relayed: two connections while the fast path passes bytes between them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "relay_type.h"

#include "records.h"
#include "relay.h"
#include "tunnel_type.h"

typedef struct { PyObject_HEAD LaneObject *lane; relay *relay; } RelayedObject;

static void relayed_dealloc(RelayedObject *self) {
    if (put_off(self)) return;
    if (self->relay != NULL) em_relay_drop(&self->lane->l, self->relay);
    Py_XDECREF(self->lane);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *relayed_counts(RelayedObject *self, void *closure) {
    (void)closure;
    const relay *r = self->relay;
    if (r == NULL) Py_RETURN_NONE;
    return Py_BuildValue("KK", (unsigned long long)r->half[RIGHT].passed, (unsigned long long)r->half[LEFT].passed);
}

static PyObject *relayed_drop(RelayedObject *self, PyObject *unused) {
    (void)unused;
    PyObject *counts = relayed_counts(self, NULL);
    if (self->relay != NULL && counts != NULL) em_relay_drop(lane_of(self->lane), self->relay);
    return counts;
}

static PyMethodDef relayed_methods[] = {
    {"drop", (PyCFunction)relayed_drop, METH_NOARGS,
     "drop(): it is out at once; return its counts, or None when it was over"},
    {0},
};

static PyGetSetDef relayed_getset[] = {
    {"counts", (getter)relayed_counts, NULL, "bytes left to right and right to left; None: it is over", NULL},
    {0},
};

static PyTypeObject RelayedType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Relayed",
    .tp_basicsize = sizeof(RelayedObject),
    .tp_dealloc = (destructor)relayed_dealloc,
    .tp_finalize = em_finalize_of_lane,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Two connections while the lane passes bytes between them.",
    .tp_methods = relayed_methods,
    .tp_getset = relayed_getset,
};

PyObject *em_lane_relay_object(LaneObject *self, PyObject *args) {
    unsigned long long id;
    int fd[2];
    char *data[2];
    Py_ssize_t size[2];
    double idle;
    if (!PyArg_ParseTuple(args, "Kiiy#y#d", &id, &fd[LEFT], &fd[RIGHT], &data[LEFT], &size[LEFT], &data[RIGHT],
                          &size[RIGHT], &idle))
        return NULL;
    buffer given[2];
    for (int i = LEFT; i <= RIGHT; i++) {
        if (size[i] > (Py_ssize_t)(16u << 20))
            return PyErr_Format(PyExc_ValueError, "%zd bytes were read before", size[i]);
        given[i] = (buffer){(uint8_t *)data[i], 0, (uint32_t)size[i], (uint32_t)size[i]};   /* read only */
    }
    RelayedObject *made = PyObject_New(RelayedObject, &RelayedType);
    if (made == NULL) return NULL;
    made->lane = (LaneObject *)Py_NewRef(self);
    made->relay = NULL;
    if (!em_lane_relay(lane_of(self), id, fd, given, micros(idle), &made->relay)) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(made);
        return NULL;
    }
    return (PyObject *)made;
}

PyObject *em_lane_relayed(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = lane_of(self);
    PyObject *list = PyList_New(l->relayed_count);
    for (uint32_t i = 0; list != NULL && i < l->relayed_count; i++) {
        const relayed *r = &l->relayed[i];
        PyObject *one = RECORD_OF(em_PassedType, number(r->id), PyLong_FromLong(r->what), number(r->left_to_right),
                                  number(r->right_to_left), PyLong_FromLong(r->error));
        if (one == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, one);
    }
    if (list != NULL) l->relayed_count = 0;
    return list;
}

PyObject *em_lane_moved(LaneObject *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    for (relay *r = lane_of(self)->first_relay; list != NULL && r != NULL; r = r->next) {
        if (!r->moved) continue;
        r->moved = false;
        PyObject *one = Py_BuildValue("KKK", (unsigned long long)r->id, (unsigned long long)r->half[RIGHT].passed,
                                      (unsigned long long)r->half[LEFT].passed);
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
    }
    if (list != NULL && !em_tunnels_moved(self, list)) Py_CLEAR(list);
    return list;
}

int em_add_relay_type(PyObject *module) { return PyModule_AddType(module, &RelayedType); }
