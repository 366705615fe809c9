/* nodeproxy.native._lane.Tunnelled: a stream and a socket while the fast path passes bytes between them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "tunnel_type.h"

#include "link_type.h"
#include "tunnel.h"

typedef struct { PyObject_HEAD LaneObject *lane; tunnel *tunnel; } TunnelledObject;

static void tunnelled_dealloc(TunnelledObject *self) {
    if (put_off(self)) return;
    if (self->tunnel != NULL) em_tunnel_drop(&self->lane->l, self->tunnel);
    Py_XDECREF(self->lane);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *counts_of(const tunnel *t) {
    unsigned long long out = em_tunnel_sent(t), in = t->to_socket;
    return Py_BuildValue("KK", t->left ? out : in, t->left ? in : out);
}

static PyObject *tunnelled_counts(TunnelledObject *self, void *closure) {
    (void)closure;
    if (self->tunnel == NULL) Py_RETURN_NONE;
    return counts_of(self->tunnel);
}

static PyObject *tunnelled_drop(TunnelledObject *self, PyObject *unused) {
    (void)unused;
    PyObject *counts = tunnelled_counts(self, NULL);
    if (self->tunnel != NULL && counts != NULL) em_tunnel_drop(lane_of(self->lane), self->tunnel);
    return counts;
}

static PyMethodDef methods[] = {
    {"drop", (PyCFunction)tunnelled_drop, METH_NOARGS,
     "drop(): it is out at once; return its counts, or None when it was over"},
    {0},
};
static PyGetSetDef getset[] = {
    {"counts", (getter)tunnelled_counts, NULL, "bytes left to right and right to left; None: it is over", NULL},
    {0},
};

static PyTypeObject TunnelledType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Tunnelled",
    .tp_basicsize = sizeof(TunnelledObject),
    .tp_dealloc = (destructor)tunnelled_dealloc,
    .tp_finalize = em_finalize_of_lane,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "A stream and a socket while the lane passes bytes between them.",
    .tp_methods = methods,
    .tp_getset = getset,
};

PyObject *em_lane_tunnel_object(LaneObject *self, PyObject *args) {
    unsigned long long id;
    PyObject *linked;
    int number, fd, left;
    char *data[2];
    Py_ssize_t size[2];
    tunnel_begin begin = {0};
    double idle;
    if (!PyArg_ParseTuple(args, "KOiipy#IIIy#d", &id, &linked, &number, &fd, &left, &data[0], &size[0], &begin.owed,
                          &begin.window, &begin.untold, &data[1], &size[1], &idle))
        return NULL;
    buffer *given[2] = {&begin.of_stream, &begin.of_socket};
    for (int i = 0; i < 2; i++) {
        if (size[i] > (Py_ssize_t)(16u << 20))
            return PyErr_Format(PyExc_ValueError, "%zd bytes were read before", size[i]);
        *given[i] = (buffer){(uint8_t *)data[i], 0, (uint32_t)size[i], (uint32_t)size[i]};   /* read only */
    }
    if (begin.owed > held(&begin.of_stream)) return PyErr_Format(PyExc_ValueError, "more is owed than there is");
    begin.left = left;
    begin.idle = idle <= 0 ? 0 : (uint64_t)(idle * 1e6);
    TunnelledObject *made = PyObject_New(TunnelledObject, &TunnelledType);
    if (made == NULL) return NULL;
    made->lane = (LaneObject *)Py_NewRef(self);
    made->tunnel = NULL;
    if (!em_lane_tunnel(lane_of(self), id, em_link_of(linked), number, fd, &begin, &made->tunnel)) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(made);
        return NULL;
    }
    return (PyObject *)made;
}

bool em_tunnels_moved(LaneObject *self, PyObject *list) {
    for (tunnel *t = lane_of(self)->first_tunnel; t != NULL; t = t->next) {
        if (!t->moved) continue;
        t->moved = false;
        PyObject *counts = counts_of(t);
        PyObject *one = counts == NULL ? NULL
                                       : Py_BuildValue("KOO", (unsigned long long)t->id, PyTuple_GET_ITEM(counts, 0),
                                                       PyTuple_GET_ITEM(counts, 1));
        bool ok = one != NULL && PyList_Append(list, one) == 0;
        Py_XDECREF(counts);
        Py_XDECREF(one);
        if (!ok) return false;
    }
    return true;
}

int em_add_tunnel_type(PyObject *module) { return PyModule_AddType(module, &TunnelledType); }
