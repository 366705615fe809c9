/* nodeproxy.native._lane.Carried: a caller's connection in the fast path; and what became of requests. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "caller_type.h"

#include "call.h"
#include "finish.h"
#include "flow_type.h"
#include "records.h"

typedef struct { PyObject_HEAD LaneObject *lane; caller *caller; } CarriedObject;

static PyObject *given_of(const up *u) {
    return RECORD_OF(em_GivenType, number(u->caller), PyLong_FromLong(u->what), PyUnicode_FromString(u->flag),
                     PyUnicode_FromString(u->detail), number(u->server), number(u->target), bytes_of(&u->data),
                     bytes_of(&u->rest), PyBool_FromLong(u->begun), PyLong_FromLong(u->status),
                     PyFloat_FromDouble((double)u->began / 1e6), number(u->bytes_in), number(u->bytes_out),
                     number(u->total_in), number(u->total_out), number(u->guest), number(u->link),
                     PyLong_FromLong(u->stream), PyLong_FromLong(u->back), number(u->back_link),
                     PyBool_FromLong(u->asked_all));
}

static void carried_dealloc(CarriedObject *self) {
    if (put_off(self)) return;
    if (self->caller != NULL) {   /* Python dropped it: no task would get the outcome */
        up left;
        em_lane_drop(&self->lane->l, self->caller, &left);
        em_buffer_free(&left.data);
        em_buffer_free(&left.rest);
    }
    Py_XDECREF(self->lane);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *carried_recall(CarriedObject *self, PyObject *unused) {
    (void)unused;
    if (self->caller != NULL) em_lane_recall(lane_of(self->lane), self->caller);
    Py_RETURN_NONE;
}

static PyObject *carried_drop(CarriedObject *self, PyObject *unused) {
    (void)unused;
    if (self->caller == NULL) Py_RETURN_NONE;
    up left;
    em_lane_drop(lane_of(self->lane), self->caller, &left);
    PyObject *told = given_of(&left);
    em_buffer_free(&left.data);
    em_buffer_free(&left.rest);
    return told;
}

static PyObject *carried_here(CarriedObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(self->caller != NULL);
}

static PyMethodDef carried_methods[] = {
    {"recall", (PyCFunction)carried_recall, METH_NOARGS, "recall(): it goes up as soon as no request is under way"},
    {"drop", (PyCFunction)carried_drop, METH_NOARGS,
     "drop(): it is out at once; return what was under way, as `ups` does, or None"},
    {0},
};

static PyGetSetDef carried_getset[] = {{"here", (getter)carried_here, NULL, "is it still in the lane", NULL}, {0}};

static PyTypeObject CarriedType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Carried",
    .tp_basicsize = sizeof(CarriedObject),
    .tp_dealloc = (destructor)carried_dealloc,
    .tp_finalize = em_finalize_of_lane,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "A caller's connection while the lane has it.",
    .tp_methods = carried_methods,
    .tp_getset = carried_getset,
};

PyObject *em_lane_carry_object(LaneObject *self, PyObject *args) {
    unsigned long long id;
    int fd;
    PyObject *plan_;
    const char *data;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "KiO!y#", &id, &fd, &em_PlanType, &plan_, &data, &size)) return NULL;
    CarriedObject *made = PyObject_New(CarriedObject, &CarriedType);
    if (made == NULL) return NULL;
    made->lane = (LaneObject *)Py_NewRef(self);
    made->caller = NULL;
    if (!em_lane_carry(lane_of(self), id, fd, ((PlanObject *)plan_)->plan, (const uint8_t *)data, (size_t)size,
                       &made->caller)) {
        Py_DECREF(made);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)made;
}

PyObject *em_lane_ups(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = lane_of(self);
    PyObject *list = PyList_New(l->up_count);
    if (list == NULL) return NULL;
    for (uint32_t i = 0; i < l->up_count; i++) {
        PyObject *one = given_of(&l->ups[i]);
        em_buffer_free(&l->ups[i].data);
        em_buffer_free(&l->ups[i].rest);
        if (one == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, one);
    }
    l->up_count = 0;
    return list;
}

/* Return the calls in progress. */
PyObject *em_lane_calls(LaneObject *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    for (caller *c = lane_of(self)->first_caller; list != NULL && c != NULL; c = c->next) {
        if (c->target == NULL) continue;
        PyObject *one = RECORD_OF(em_UnderWayType, number(c->id), number(c->target->serial), bytes_of(&c->asked),
                                  number(c->guest));
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

/* End the call of a stream. */
PyObject *em_lane_cut(LaneObject *self, PyObject *args) {
    unsigned long long id;
    if (!PyArg_ParseTuple(args, "K", &id)) return NULL;
    for (caller *c = lane_of(self)->first_caller; c != NULL; c = c->next) {
        if (!c->of_stream || c->id != id) continue;
        em_go_up(lane_of(self), c, UP_FAILED, "cut", "");
        break;
    }
    Py_RETURN_NONE;
}

PyObject *em_lane_refusals(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = lane_of(self);
    PyObject *list = PyList_New(0);
    while (list != NULL && held(&l->refusals)) {
        refusal r;
        memcpy(&r, first(&l->refusals), sizeof r);
        const char *line = (const char *)first(&l->refusals) + sizeof r;
        PyObject *one = RECORD_OF(em_RefusalType, number(r.caller), number(r.target), number(r.denial),
                                  number(r.bytes_in), number(r.bytes_out), PyUnicode_FromStringAndSize(r.id, ID_SIZE),
                                  PyBytes_FromStringAndSize(line, (Py_ssize_t)r.text_size));
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
        em_buffer_take(&l->refusals, (uint32_t)(sizeof r) + r.text_size);
    }
    return list;
}

PyObject *em_lane_log(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = lane_of(self);
    PyObject *list = PyList_New(0);
    while (list != NULL && held(&l->log)) {
        done d;
        memcpy(&d, first(&l->log), sizeof d);
        const char *line = (const char *)first(&l->log) + sizeof d;
        PyObject *one = RECORD_OF(em_ServedType, number(d.caller), number(d.target), number(d.micros),
                                  number(d.bytes_in), number(d.bytes_out), number(d.status),
                                  PyBytes_FromStringAndSize(line, (Py_ssize_t)d.text_size), number(d.guest));
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
        em_buffer_take(&l->log, (uint32_t)(sizeof d) + d.text_size);
    }
    return list;
}

int em_add_caller_type(PyObject *module) { return PyModule_AddType(module, &CarriedType); }
