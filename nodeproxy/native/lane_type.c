/* nodeproxy.native._lane.Lane: the fast path as Python sees it. Descriptors, bytes and numbers are passed; Python's
 * objects stay in the *_type.c files. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "lane_type.h"

#include "caller_type.h"
#include "flow_type.h"
#include "lane_object.h"
#include "link_type.h"
#include "pool.h"
#include "relay_type.h"
#include "tunnel_type.h"

static PyObject *lane_new_object(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args;
    (void)kwargs;
    LaneObject *self = (LaneObject *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->l.epoll = self->l.outer = -1;
    self->owner = pthread_self();
    self->later = PyList_New(0);
    if (self->later == NULL || !em_lane_open(&self->l)) {
        if (!PyErr_Occurred()) PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int lane_init(LaneObject *self, PyObject *args, PyObject *kwargs) {
    PyObject *bounds;
    static char *names[] = {"bounds", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!", names, &PyTuple_Type, &bounds)) return -1;
    if (PyTuple_GET_SIZE(bounds) > MOST_BOUNDS) {
        PyErr_Format(PyExc_ValueError, "more than %d bounds", MOST_BOUNDS);
        return -1;
    }
    lane_of(self)->bounds = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(bounds); i++) {
        double bound = PyFloat_AsDouble(PyTuple_GET_ITEM(bounds, i));
        if (PyErr_Occurred()) return -1;
        lane_of(self)->bound[lane_of(self)->bounds++] = micros(bound);
    }
    return 0;
}

static void lane_dealloc(LaneObject *self) {
    em_lane_close(&self->l);
    for (Py_ssize_t i = 0; i < self->row_count; i++) free(self->rows[i]);
    free(self->rows);
    Py_XDECREF(self->later);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *lane_limit(LaneObject *self, PyObject *args, PyObject *kwargs) {
    unsigned head_bytes, header_count, path_bytes, buffer_bytes, rest_per_target;
    double keepalive, response, idle, rest;
    static char *names[] = {"head_bytes",        "header_count",     "path_bytes",   "buffer_bytes", "rest_per_target",
                            "keepalive_timeout", "response_timeout", "idle_timeout", "rest_timeout", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$IIIIIdddd", names, &head_bytes, &header_count, &path_bytes,
                                     &buffer_bytes, &rest_per_target, &keepalive, &response, &idle, &rest))
        return NULL;
    lane_of(self)->set = (settings){{head_bytes, header_count, path_bytes},
                                    buffer_bytes,
                                    rest_per_target,
                                    micros(keepalive),
                                    micros(response),
                                    micros(idle),
                                    micros(rest)};
    Py_RETURN_NONE;
}

static PyObject *lane_fileno(LaneObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(lane_of(self)->outer);
}

static PyObject *lane_lend_object(LaneObject *self, PyObject *args) {
    unsigned long long id;
    int fd;
    PyObject *target_;
    if (!PyArg_ParseTuple(args, "KiO!", &id, &fd, &em_TargetType, &target_)) return NULL;
    lane_of(self)->now = em_micros_now();
    if (!em_lane_lend(lane_of(self), id, fd, ((TargetObject *)target_)->target))
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *lane_reclaim_object(LaneObject *self, PyObject *target_) {
    if (Py_TYPE(target_) != &em_TargetType) return PyErr_Format(PyExc_TypeError, "a Target");
    return PyLong_FromUnsignedLongLong(em_lane_reclaim(lane_of(self), ((TargetObject *)target_)->target));
}

/* Close idle servers of a target: its endpoint or its caller has changed. */
static PyObject *lane_clear(LaneObject *self, PyObject *target_) {
    if (Py_TYPE(target_) != &em_TargetType) return PyErr_Format(PyExc_TypeError, "a Target");
    target *t = ((TargetObject *)target_)->target;
    while (t->resting != NULL) em_server_close(lane_of(self), t->resting);
    Py_RETURN_NONE;
}

/* Free what was put off during a turn. False with an exception. */
static bool turned(LaneObject *self) {
    self->turning = false;
    return PyList_GET_SIZE(self->later) == 0 ||
           PyList_SetSlice(self->later, 0, PyList_GET_SIZE(self->later), NULL) == 0;
}

static PyObject *lane_turn_object(LaneObject *self, PyObject *args) {
    unsigned budget;
    if (!PyArg_ParseTuple(args, "I", &budget)) return NULL;
    int more;
    lane *l = lane_of(self);
    self->turning = true;
    Py_BEGIN_ALLOW_THREADS
    more = em_lane_turn(l, budget);
    Py_END_ALLOW_THREADS
    if (!turned(self)) return NULL;
    return PyLong_FromLong(more);
}

static PyObject *lane_stay_object(LaneObject *self, PyObject *args) {
    unsigned longest, quiet, slice;
    int others, told;
    if (!PyArg_ParseTuple(args, "IIIi", &longest, &quiet, &slice, &others)) return NULL;
    lane *l = lane_of(self);
    self->turning = true;
    Py_BEGIN_ALLOW_THREADS
    told = em_lane_stay(l, longest, quiet, slice, others);
    Py_END_ALLOW_THREADS
    if (!turned(self)) return NULL;
    return PyLong_FromLong(told);
}

static PyObject *lane_tick_object(LaneObject *self, PyObject *args) {
    double now = -1;
    if (!PyArg_ParseTuple(args, "|d", &now)) return NULL;
    if (now >= 0) lane_of(self)->skew = micros(now) - em_micros_now();
    em_lane_tick(lane_of(self));
    Py_RETURN_NONE;
}

static PyObject *lane_forget(LaneObject *self, PyObject *unused) {
    (void)unused;
    em_lane_forget(lane_of(self));
    Py_RETURN_NONE;
}

static PyObject *lane_gone(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = lane_of(self);
    PyObject *list = PyList_New(l->gone_count);
    for (uint32_t i = 0; list != NULL && i < l->gone_count; i++)
        PyList_SET_ITEM(list, i, PyLong_FromUnsignedLongLong(l->gone[i]));
    l->gone_count = 0;
    return list;
}

static PyObject *lane_get_logging(LaneObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(lane_of(self)->logging);
}

static int lane_set_logging(LaneObject *self, PyObject *value, void *closure) {
    (void)closure;
    int yes = value == NULL ? -1 : PyObject_IsTrue(value);
    if (yes < 0) return -1;
    lane_of(self)->logging = yes;
    return 0;
}

static PyObject *lane_stats(LaneObject *self, void *closure) {
    (void)closure;
    lane *l = lane_of(self);
    return Py_BuildValue("{sIsIsIsIsIsIsKsKsK}", "callers", l->callers, "calls", l->calls, "servers", l->servers,
                         "relays", l->relays, "tunnels", l->tunnels, "links", l->links, "served",
                         (unsigned long long)l->served, "missed", (unsigned long long)l->missed, "lost",
                         (unsigned long long)l->lost);
}

static PyObject *lane_get_pending(LaneObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(em_lane_pending(lane_of(self)));
}

static PyObject *lane_under_way(LaneObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(lane_of(self)->calls);
}

static PyMethodDef lane_methods[] = {
    {"limit", (PyCFunction)(void (*)(void))lane_limit, METH_VARARGS | METH_KEYWORDS,
     "limit(*, ...): bounds, in bytes and seconds"},
    {"fileno", (PyCFunction)lane_fileno, METH_NOARGS, "fileno(): readable when there is something to do"},
    {"target", (PyCFunction)em_lane_target, METH_NOARGS, "target() -> Target"},
    {"plan", (PyCFunction)em_lane_plan, METH_VARARGS, "plan(shown, groups, crowd=0[, changes, counts, ruled]) -> Plan"},
    {"dry", (PyCFunction)em_lane_dry, METH_NOARGS, "dry() -> list: serials of plans that have few turns left"},
    {"rule", (PyCFunction)em_lane_rule, METH_VARARGS,
     "rule(plan, section, head): to such a request the rule of this section applies"},
    {"learn", (PyCFunction)em_lane_learn, METH_VARARGS,
     "learn(plan, target, row, method, path, host, head=None): such a request may go there"},
    {"denial", (PyCFunction)em_lane_denial, METH_VARARGS,
     "denial(answer, head_size, id_at, id_again=0) -> int: an answer that says no"},
    {"refuse", (PyCFunction)em_lane_refuse, METH_VARARGS,
     "refuse(plan, target, denial, method, path, host, head=None): such a request is refused"},
    {"refusals", (PyCFunction)em_lane_refusals, METH_NOARGS, "refusals() -> list: requests that were refused"},
    {"carry", (PyCFunction)em_lane_carry_object, METH_VARARGS,
     "carry(id, fd, plan, data) -> Carried: lend a caller's connection"},
    {"relay", (PyCFunction)em_lane_relay_object, METH_VARARGS,
     "relay(id, left, right, read of left, read of right, idle seconds) -> Relayed"},
    {"tunnel", (PyCFunction)em_lane_tunnel_object, METH_VARARGS,
     "tunnel(id, linked, stream, socket, left, read of the stream, owed, window, untold, read of the socket, idle "
     "seconds) -> Tunnelled"},
    {"lend", (PyCFunction)lane_lend_object, METH_VARARGS, "lend(id, fd, target): lend a server's connection at rest"},
    {"reclaim", (PyCFunction)lane_reclaim_object, METH_O,
     "reclaim(target) -> int: a server that rests goes back; 0: none rests"},
    {"clear", (PyCFunction)lane_clear, METH_O, "clear(target): close what rests for it"},
    {"turn", (PyCFunction)lane_turn_object, METH_VARARGS,
     "turn(microseconds) -> int: work. 0: nothing is left; SILENT: something is that no event tells of"},
    {"stay", (PyCFunction)lane_stay_object, METH_VARARGS,
     "stay(microseconds, quiet, slice, others) -> int: work and wait until the descriptor `others` is readable; QUIET, "
     "CALL, or neither"},
    {"tick", (PyCFunction)lane_tick_object, METH_VARARGS,
     "tick([now]): look at the clock, once a second; `now`: by the one that times relays"},
    {"forget", (PyCFunction)lane_forget, METH_NOARGS, "forget(): all plans and what was learned are stale"},
    {"ups", (PyCFunction)em_lane_ups, METH_NOARGS, "ups() -> list: callers that have left"},
    {"link", (PyCFunction)em_lane_link_object, METH_VARARGS,
     "link(id, fd, tls or None, h2, stall seconds, local) -> Linked: an HTTP/2 connection; `local`: to a workload"},
    {"links", (PyCFunction)em_lane_links, METH_NOARGS, "links() -> list: links of which Python is to know something"},
    {"relayed", (PyCFunction)em_lane_relayed, METH_NOARGS,
     "relayed() -> list: relays and tunnels that are over, and why"},
    {"moved", (PyCFunction)em_lane_moved, METH_NOARGS,
     "moved() -> list: relays and tunnels that moved bytes since the last time, and their counts"},
    {"gone", (PyCFunction)lane_gone, METH_NOARGS, "gone() -> list: servers that may be closed"},
    {"log", (PyCFunction)em_lane_log, METH_NOARGS, "log() -> list: requests that are over, while `logging`"},
    {"counts", (PyCFunction)em_lane_counts, METH_NOARGS, "counts() -> list: what was counted since the last time"},
    {"calls", (PyCFunction)em_lane_calls, METH_NOARGS,
     "calls() -> list of (id, target, head, guest): what is under way"},
    {"cut", (PyCFunction)em_lane_cut, METH_VARARGS, "cut(id): end the call of a stream"},
    {"route", (PyCFunction)em_lane_route, METH_VARARGS,
     "route(target, linked, name): the link to its node, and how that node knows it"},
    {"door", (PyCFunction)em_lane_door, METH_VARARGS,
     "door(linked, what, whom, plan, guest): what a peer asks for is decided by this plan"},
    {0},
};

static PyGetSetDef lane_getset[] = {
    {"logging", (getter)lane_get_logging, (setter)lane_set_logging, "keep a record of each request for `log`", NULL},
    {"stats", (getter)lane_stats, NULL, "how many of what there are", NULL},
    {"pending", (getter)lane_get_pending, NULL, "is there anything in `ups`, `gone`, `relayed`, `dry` or `log`", NULL},
    {"under_way", (getter)lane_under_way, NULL, "how many calls are under way", NULL},
    {0},
};

static PyTypeObject LaneType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Lane",
    .tp_basicsize = sizeof(LaneObject),
    .tp_new = lane_new_object,
    .tp_init = (initproc)lane_init,
    .tp_dealloc = (destructor)lane_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Lane(bounds): `bounds` of durations, in seconds.",
    .tp_methods = lane_methods,
    .tp_getset = lane_getset,
};

int em_add_lane_type(PyObject *module) { return PyModule_AddType(module, &LaneType); }
