/* nodeproxy.native._lane: the lane as Python sees it. Descriptors, bytes and numbers pass; Python's objects stay here. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "h2_type.h"
#include "lane.h"
#include "module.h"
#include "tls_type.h"
#include "tunnel.h"

typedef struct { PyObject_HEAD LaneObject *lane; caller *caller; } CarriedObject;
typedef struct { PyObject_HEAD LaneObject *lane; relay *relay; } RelayedObject;

typedef struct { PyObject_HEAD program *program; } ProgramObject;

static PyTypeObject CarriedType, RelayedType, ProgramType;

static uint64_t micros(double seconds) { return seconds <= 0 ? 0 : (uint64_t)(seconds * 1e6); }

static PyObject *bytes_of(const buffer *b) { return PyBytes_FromStringAndSize(held(b) ? (const char *)first(b) : "", held(b)); }

/* ---- targets and plans ---- */

static void target_dealloc(TargetObject *self) {
    if (self->target != NULL) target_free(&self->lane->l, self->target);
    Py_XDECREF(self->lane);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *target_serial(TargetObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(self->target->serial);
}

static PyObject *target_resting(TargetObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(self->target->rests);
}

static PyObject *target_in_flight(TargetObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(self->target->in_flight);
}

static PyObject *target_linked(TargetObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(self->target->link != NULL);
}

static PyGetSetDef target_getset[] = {
    {"linked", (getter)target_linked, NULL, "is there a connection to its node", NULL},
    {"serial", (getter)target_serial, NULL, "what `calls` and `log` name it by", NULL},
    {"resting", (getter)target_resting, NULL, "how many servers rest", NULL},
    {"in_flight", (getter)target_in_flight, NULL, "how many calls are under way", NULL},
    {0},
};

PyTypeObject TargetType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Target",
    .tp_basicsize = sizeof(TargetObject),
    .tp_dealloc = (destructor)target_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "One endpoint for one caller.",
    .tp_getset = target_getset,
};

static void plan_dealloc(PlanObject *self) {
    if (self->plan != NULL) plan_free(&self->lane->l, self->plan);
    Py_XDECREF(self->lane);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *plan_refill(PlanObject *self, PyObject *turns) {
    char *data;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(turns, &data, &size) < 0) return NULL;
    for (Py_ssize_t i = 0; i < size; i++)
        if ((uint8_t)data[i] >= self->plan->groups) return PyErr_Format(PyExc_ValueError, "turn %zd is of no group", i);
    uint8_t *copy = malloc((size_t)size + 1);
    if (copy == NULL) return PyErr_NoMemory();
    memcpy(copy, data, (size_t)size);
    free(self->plan->turns);
    self->plan->turns = copy;
    self->plan->turn_count = (uint32_t)size;
    self->plan->turn = 0;
    Py_RETURN_NONE;
}

static PyObject *plan_take(PlanObject *self, PyObject *unused) {
    (void)unused;
    plan *p = self->plan;
    return PyLong_FromLong(p->turn < p->turn_count ? p->turns[p->turn++] : -1);
}

static PyObject *plan_turns(PlanObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(self->plan->turn_count - self->plan->turn);
}

static PyMethodDef plan_methods[] = {
    {"take", (PyCFunction)plan_take, METH_NOARGS, "take() -> int: the group whose turn is next, -1 when none is left"},
    {"refill", (PyCFunction)plan_refill, METH_O, "refill(turns: bytes): the groups whose turns are next"},
    {0},
};
static PyGetSetDef plan_getset[] = {{"turns", (getter)plan_turns, NULL, "how many turns are left", NULL}, {0}};

PyTypeObject PlanType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Plan",
    .tp_basicsize = sizeof(PlanObject),
    .tp_dealloc = (destructor)plan_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Where the requests of one caller to one destination may go.",
    .tp_methods = plan_methods,
    .tp_getset = plan_getset,
};

static void program_dealloc(ProgramObject *self) {
    if (self->program != NULL) program_free(self->program);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *program_new_object(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    const char *classes, *next, *alike;
    Py_ssize_t classes_size, next_size, alike_size;
    unsigned width;
    if (!PyArg_ParseTuple(args, "Iy#y#y#", &width, &classes, &classes_size, &next, &next_size, &alike, &alike_size)) return NULL;
    Py_ssize_t states = alike_size / 2;
    if (classes_size != 256 || width == 0 || width > 256 || states == 0 || states > 65535 || alike_size != 2 * states ||
        next_size != 2 * states * (Py_ssize_t)width)
        return PyErr_Format(PyExc_ValueError, "tables of other sizes than they say");
    ProgramObject *self = (ProgramObject *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->program = program_new((uint32_t)states, width, (const uint8_t *)classes, (const uint8_t *)next, (const uint8_t *)alike);
    if (self->program == NULL) {
        Py_DECREF(self);
        return PyErr_Format(PyExc_ValueError, "an arrow to no state, or a class that is none");
    }
    return (PyObject *)self;
}

static PyTypeObject ProgramType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Program",
    .tp_basicsize = sizeof(ProgramObject),
    .tp_new = program_new_object,
    .tp_dealloc = (destructor)program_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Program(width, classes, next, alike): which paths are alike (policy.automaton), 16-bit numbers in the machine's order.",
};

/* ---- a caller that is carried ---- */

static void carried_dealloc(CarriedObject *self) {
    if (self->caller != NULL) {   /* Python forgot it: nobody would hear what becomes of it */
        up left;
        lane_drop(&self->lane->l, self->caller, &left);
        buffer_free(&left.data);
        buffer_free(&left.rest);
    }
    Py_XDECREF(self->lane);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *up_tuple(const up *u) {
    return Py_BuildValue("KissKKNNOidKKKKKKiiKO", (unsigned long long)u->caller, u->what, u->flag, u->detail, (unsigned long long)u->server,
                         (unsigned long long)u->target, bytes_of(&u->data), bytes_of(&u->rest), u->begun ? Py_True : Py_False, u->status,
                         (double)u->began / 1e6, (unsigned long long)u->bytes_in,
                         (unsigned long long)u->bytes_out, (unsigned long long)u->total_in, (unsigned long long)u->total_out,
                         (unsigned long long)u->guest, (unsigned long long)u->link, (int)u->stream,
                         (int)u->back, (unsigned long long)u->back_link, u->asked_all ? Py_True : Py_False);
}

static PyObject *carried_recall(CarriedObject *self, PyObject *unused) {
    (void)unused;
    if (self->caller != NULL) lane_recall(&self->lane->l, self->caller);
    Py_RETURN_NONE;
}

static PyObject *carried_drop(CarriedObject *self, PyObject *unused) {
    (void)unused;
    if (self->caller == NULL) Py_RETURN_NONE;
    up left;
    lane_drop(&self->lane->l, self->caller, &left);
    PyObject *told = up_tuple(&left);
    buffer_free(&left.data);
    buffer_free(&left.rest);
    return told;
}

static PyObject *carried_here(CarriedObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(self->caller != NULL);
}

static PyMethodDef carried_methods[] = {
    {"recall", (PyCFunction)carried_recall, METH_NOARGS, "recall(): it goes up as soon as no request is under way"},
    {"drop", (PyCFunction)carried_drop, METH_NOARGS, "drop(): it is out at once; answers what was under way, as `ups` does, or None"},
    {0},
};
static PyGetSetDef carried_getset[] = {{"here", (getter)carried_here, NULL, "is it still in the lane", NULL}, {0}};

static PyTypeObject CarriedType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Carried",
    .tp_basicsize = sizeof(CarriedObject),
    .tp_dealloc = (destructor)carried_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "A caller's connection while the lane has it.",
    .tp_methods = carried_methods,
    .tp_getset = carried_getset,
};

/* ---- a relay ---- */

static void relayed_dealloc(RelayedObject *self) {
    if (self->relay != NULL) relay_drop(&self->lane->l, self->relay);
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
    if (self->relay != NULL && counts != NULL) relay_drop(&self->lane->l, self->relay);
    return counts;
}

static PyMethodDef relayed_methods[] = {
    {"drop", (PyCFunction)relayed_drop, METH_NOARGS, "drop(): it is out at once; answers its counts, or None when it was over"},
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
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Two connections while the lane passes bytes between them.",
    .tp_methods = relayed_methods,
    .tp_getset = relayed_getset,
};

/* ---- the lane ---- */

static PyObject *lane_new_object(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args;
    (void)kwargs;
    LaneObject *self = (LaneObject *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->l.epoll = self->l.outer = -1;
    if (!lane_open(&self->l)) {
        Py_DECREF(self);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    self->open = true;
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
    self->l.bounds = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(bounds); i++) {
        double bound = PyFloat_AsDouble(PyTuple_GET_ITEM(bounds, i));
        if (PyErr_Occurred()) return -1;
        self->l.bound[self->l.bounds++] = micros(bound);
    }
    return 0;
}

static void lane_dealloc(LaneObject *self) {
    lane_close(&self->l);
    for (Py_ssize_t i = 0; i < self->row_count; i++) free(self->rows[i]);
    free(self->rows);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *lane_limit(LaneObject *self, PyObject *args, PyObject *kwargs) {
    unsigned head_bytes, header_count, path_bytes, buffer_bytes, rest_per_target;
    double keepalive, response, idle, rest;
    static char *names[] = {"head_bytes", "header_count", "path_bytes", "buffer_bytes", "rest_per_target", "keepalive_timeout", "response_timeout", "idle_timeout", "rest_timeout", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$IIIIIdddd", names, &head_bytes, &header_count, &path_bytes, &buffer_bytes, &rest_per_target,
                                     &keepalive, &response, &idle, &rest))
        return NULL;
    self->l.set = (settings){{head_bytes, header_count, path_bytes}, buffer_bytes, rest_per_target, micros(keepalive), micros(response),
                             micros(idle), micros(rest)};
    Py_RETURN_NONE;
}

static PyObject *lane_fileno(LaneObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(self->l.outer);
}

static PyObject *lane_target(LaneObject *self, PyObject *unused) {
    (void)unused;
    TargetObject *made = PyObject_New(TargetObject, &TargetType);
    if (made == NULL) return NULL;
    made->lane = (LaneObject *)Py_NewRef(self);
    made->target = target_new(&self->l);
    if (made->target == NULL) {
        Py_DECREF(made);
        return PyErr_NoMemory();
    }
    return (PyObject *)made;
}

static PyObject *lane_plan(LaneObject *self, PyObject *args) {
    const char *shown;
    Py_ssize_t shown_size;
    PyObject *groups;
    unsigned crowd = 0;
    if (!PyArg_ParseTuple(args, "y#O!|I", &shown, &shown_size, &PyTuple_Type, &groups, &crowd)) return NULL;
    if (PyTuple_GET_SIZE(groups) > 255) return PyErr_Format(PyExc_ValueError, "more than 255 groups");
    PlanObject *made = PyObject_New(PlanObject, &PlanType);
    if (made == NULL) return NULL;
    made->lane = (LaneObject *)Py_NewRef(self);
    made->plan = plan_new(&self->l, (const uint8_t *)shown, (size_t)shown_size, (uint32_t)PyTuple_GET_SIZE(groups));
    if (made->plan == NULL) {
        Py_DECREF(made);
        return PyErr_NoMemory();
    }
    made->plan->crowd = crowd;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(groups); i++) {
        PyObject *targets = PyTuple_GET_ITEM(groups, i);
        if (!PyTuple_Check(targets)) goto wrong;
        Py_ssize_t count = PyTuple_GET_SIZE(targets);
        group *g = &made->plan->group[i];
        g->seats = calloc((size_t)count + 1, sizeof *g->seats);
        if (g->seats == NULL) goto wrong;
        for (Py_ssize_t j = 0; j < count; j++) {
            PyObject *target_, *program_;
            if (!PyTuple_Check(PyTuple_GET_ITEM(targets, j))) goto wrong;
            if (!PyArg_ParseTuple(PyTuple_GET_ITEM(targets, j), "O!O", &TargetType, &target_, &program_)) {
                Py_DECREF(made);
                return NULL;
            }
            if (program_ != Py_None && Py_TYPE(program_) != &ProgramType) goto wrong;
            g->seats[j].target = ((TargetObject *)target_)->target;
            g->seats[j].target->users++;
            if (program_ != Py_None) {
                g->seats[j].program = ((ProgramObject *)program_)->program;
                g->seats[j].program->users++;
            }
            g->count = (uint32_t)j + 1;
        }
    }
    return (PyObject *)made;
wrong:
    Py_DECREF(made);
    return PyErr_Format(PyExc_TypeError, "groups are tuples of (Target, Program or None)");
}

static row *row_at(LaneObject *self, Py_ssize_t index) {
    if (index < 0 || index > 1 << 20) return NULL;
    if (index >= self->row_count) {
        row **grown = realloc(self->rows, (size_t)(index + 1) * sizeof *grown);
        if (grown == NULL) return NULL;
        for (Py_ssize_t i = self->row_count; i <= index; i++) grown[i] = NULL;
        self->rows = grown;
        self->row_count = index + 1;
    }
    if (self->rows[index] == NULL) self->rows[index] = calloc(1, sizeof(row));
    return self->rows[index];
}

static PyObject *lane_learn(LaneObject *self, PyObject *args) {
    PyObject *plan_, *target_;
    Py_ssize_t index, method_size, path_size, host_size;
    const char *method, *path, *host;
    if (!PyArg_ParseTuple(args, "O!O!ny#y#y#", &PlanType, &plan_, &TargetType, &target_, &index, &method, &method_size, &path, &path_size, &host,
                          &host_size))
        return NULL;
    row *r = row_at(self, index);
    const seat *at = seat_of(((PlanObject *)plan_)->plan, ((TargetObject *)target_)->target);
    if (at == NULL) return PyErr_Format(PyExc_ValueError, "the target is not of this plan");
    if (r == NULL || !entry_learn(&self->l, ((PlanObject *)plan_)->plan, at, r, NO_DENIAL, (const uint8_t *)method,
                                  (size_t)method_size, (const uint8_t *)path, (size_t)path_size, (const uint8_t *)host, (size_t)host_size))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *lane_denial(LaneObject *self, PyObject *args) {
    const char *answer;
    Py_ssize_t size;
    unsigned head_size, id_at;
    if (!PyArg_ParseTuple(args, "y#II", &answer, &size, &head_size, &id_at)) return NULL;
    if (head_size > (size_t)size || id_at + (size_t)ID_SIZE > head_size) return PyErr_Format(PyExc_ValueError, "the id is not in the head");
    if (!denial_new(&self->l, (const uint8_t *)answer, (size_t)size, head_size, id_at)) return PyErr_NoMemory();
    return PyLong_FromUnsignedLong(self->l.denial_count - 1);
}

static PyObject *lane_refuse(LaneObject *self, PyObject *args) {
    PyObject *plan_, *target_;
    unsigned number;
    Py_ssize_t method_size, path_size, host_size;
    const char *method, *path, *host;
    if (!PyArg_ParseTuple(args, "O!O!Iy#y#y#", &PlanType, &plan_, &TargetType, &target_, &number, &method, &method_size, &path, &path_size, &host,
                          &host_size))
        return NULL;
    if (number >= self->l.denial_count) return PyErr_Format(PyExc_ValueError, "no denial %u", number);
    const seat *at = seat_of(((PlanObject *)plan_)->plan, ((TargetObject *)target_)->target);
    if (at == NULL) return PyErr_Format(PyExc_ValueError, "the target is not of this plan");
    if (!entry_learn(&self->l, ((PlanObject *)plan_)->plan, at, NULL, number, (const uint8_t *)method,
                     (size_t)method_size, (const uint8_t *)path, (size_t)path_size, (const uint8_t *)host, (size_t)host_size))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *lane_refusals(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = &self->l;
    PyObject *list = PyList_New(0);
    while (list != NULL && held(&l->refusals)) {
        refusal r;
        memcpy(&r, first(&l->refusals), sizeof r);
        PyObject *one = Py_BuildValue("KKIKKs#y#", (unsigned long long)r.caller, (unsigned long long)r.target, r.denial,
                                      (unsigned long long)r.bytes_in, (unsigned long long)r.bytes_out, r.id, (Py_ssize_t)ID_SIZE,
                                      (const char *)first(&l->refusals) + sizeof r, (Py_ssize_t)r.text_size);
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
        buffer_take(&l->refusals, (uint32_t)(sizeof r) + r.text_size);
    }
    return list;
}

static PyObject *lane_carry_object(LaneObject *self, PyObject *args) {
    unsigned long long id;
    int fd;
    PyObject *plan_;
    const char *data;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "KiO!y#", &id, &fd, &PlanType, &plan_, &data, &size)) return NULL;
    CarriedObject *made = PyObject_New(CarriedObject, &CarriedType);
    if (made == NULL) return NULL;
    made->lane = (LaneObject *)Py_NewRef(self);
    made->caller = NULL;
    if (!lane_carry(&self->l, id, fd, ((PlanObject *)plan_)->plan, (const uint8_t *)data, (size_t)size, &made->caller)) {
        Py_DECREF(made);
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return (PyObject *)made;
}

static PyObject *lane_relay_object(LaneObject *self, PyObject *args) {
    unsigned long long id;
    int fd[2];
    char *data[2];
    Py_ssize_t size[2];
    double idle;
    if (!PyArg_ParseTuple(args, "Kiiy#y#d", &id, &fd[LEFT], &fd[RIGHT], &data[LEFT], &size[LEFT], &data[RIGHT], &size[RIGHT], &idle))
        return NULL;
    buffer given[2];
    for (int i = LEFT; i <= RIGHT; i++) {
        if (size[i] > (Py_ssize_t)(16u << 20)) return PyErr_Format(PyExc_ValueError, "%zd bytes were read before", size[i]);
        given[i] = (buffer){(uint8_t *)data[i], 0, (uint32_t)size[i], (uint32_t)size[i]};   /* read only */
    }
    RelayedObject *made = PyObject_New(RelayedObject, &RelayedType);
    if (made == NULL) return NULL;
    made->lane = (LaneObject *)Py_NewRef(self);
    made->relay = NULL;
    if (!lane_relay(&self->l, id, fd, given, micros(idle), &made->relay)) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(made);
        return NULL;
    }
    return (PyObject *)made;
}

static PyObject *lane_lend_object(LaneObject *self, PyObject *args) {
    unsigned long long id;
    int fd;
    PyObject *target_;
    if (!PyArg_ParseTuple(args, "KiO!", &id, &fd, &TargetType, &target_)) return NULL;
    self->l.now = micros_now();
    if (!lane_lend(&self->l, id, fd, ((TargetObject *)target_)->target)) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *lane_reclaim_object(LaneObject *self, PyObject *target_) {
    if (Py_TYPE(target_) != &TargetType) return PyErr_Format(PyExc_TypeError, "a Target");
    return PyLong_FromUnsignedLongLong(lane_reclaim(&self->l, ((TargetObject *)target_)->target));
}

/* Close what rests for a target: its endpoint or its caller has changed. */
static PyObject *lane_clear(LaneObject *self, PyObject *target_) {
    if (Py_TYPE(target_) != &TargetType) return PyErr_Format(PyExc_TypeError, "a Target");
    target *t = ((TargetObject *)target_)->target;
    while (t->resting != NULL) server_close(&self->l, t->resting);
    Py_RETURN_NONE;
}

static PyObject *lane_turn_object(LaneObject *self, PyObject *args) {
    unsigned budget;
    if (!PyArg_ParseTuple(args, "I", &budget)) return NULL;
    int more;
    Py_BEGIN_ALLOW_THREADS
    more = lane_turn(&self->l, budget);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(more);
}

static PyObject *lane_stay_object(LaneObject *self, PyObject *args) {
    unsigned longest, quiet, slice;
    int others, told;
    if (!PyArg_ParseTuple(args, "IIIi", &longest, &quiet, &slice, &others)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    told = lane_stay(&self->l, longest, quiet, slice, others);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(told);
}

static PyObject *lane_tick_object(LaneObject *self, PyObject *args) {
    double now = -1;
    if (!PyArg_ParseTuple(args, "|d", &now)) return NULL;
    if (now >= 0) self->l.skew = micros(now) - micros_now();
    lane_tick(&self->l);
    Py_RETURN_NONE;
}

static PyObject *lane_forget(LaneObject *self, PyObject *unused) {
    (void)unused;
    self->l.generation++;
    for (target *t = self->l.first_target; t != NULL; t = t->next) target_unlink(t, NULL);
    Py_RETURN_NONE;
}

static PyObject *lane_ups(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = &self->l;
    PyObject *list = PyList_New(l->up_count);
    if (list == NULL) return NULL;
    for (uint32_t i = 0; i < l->up_count; i++) {
        PyObject *one = up_tuple(&l->ups[i]);
        buffer_free(&l->ups[i].data);
        buffer_free(&l->ups[i].rest);
        if (one == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, one);
    }
    l->up_count = 0;
    return list;
}

/* (id, what, bytes left to right, bytes right to left, errno) */
static PyObject *lane_relayed(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = &self->l;
    PyObject *list = PyList_New(l->relayed_count);
    for (uint32_t i = 0; list != NULL && i < l->relayed_count; i++) {
        const relayed *r = &l->relayed[i];
        PyObject *one = Py_BuildValue("KiKKi", (unsigned long long)r->id, r->what, (unsigned long long)r->left_to_right,
                                      (unsigned long long)r->right_to_left, r->error);
        if (one == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, one);
    }
    if (list != NULL) l->relayed_count = 0;
    return list;
}

static PyObject *lane_moved(LaneObject *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    for (relay *r = self->l.first_relay; list != NULL && r != NULL; r = r->next) {
        if (!r->moved) continue;
        r->moved = false;
        PyObject *one = Py_BuildValue("KKK", (unsigned long long)r->id, (unsigned long long)r->half[RIGHT].passed,
                                      (unsigned long long)r->half[LEFT].passed);
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
    }
    if (list != NULL && !tunnels_moved(self, list)) Py_CLEAR(list);
    return list;
}

static PyObject *lane_gone(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = &self->l;
    PyObject *list = PyList_New(l->gone_count);
    for (uint32_t i = 0; list != NULL && i < l->gone_count; i++) PyList_SET_ITEM(list, i, PyLong_FromUnsignedLongLong(l->gone[i]));
    l->gone_count = 0;
    return list;
}

static PyObject *lane_log(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = &self->l;
    PyObject *list = PyList_New(0);
    while (list != NULL && held(&l->log)) {
        done d;
        memcpy(&d, first(&l->log), sizeof d);
        PyObject *one = Py_BuildValue("KKKKKIy#K", (unsigned long long)d.caller, (unsigned long long)d.target, (unsigned long long)d.micros,
                                      (unsigned long long)d.bytes_in, (unsigned long long)d.bytes_out, d.status,
                                      (const char *)first(&l->log) + sizeof d, (Py_ssize_t)d.text_size, (unsigned long long)d.guest);
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
        buffer_take(&l->log, (uint32_t)(sizeof d) + d.text_size);
    }
    return list;
}

/* What was counted since the last time: (row, answered by class, buckets, seconds, bytes in, bytes out). */
static PyObject *lane_counts(LaneObject *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && i < self->row_count; i++) {
        row *r = self->rows[i];
        uint64_t any = 0;
        for (int c = 0; r != NULL && c < CLASSES; c++) any += r->answered[c];
        if (any == 0) continue;
        PyObject *answered = PyTuple_New(CLASSES), *buckets = PyTuple_New(self->l.bounds + 1);
        if (answered != NULL && buckets != NULL) {
            for (int c = 0; c < CLASSES; c++) PyTuple_SET_ITEM(answered, c, PyLong_FromUnsignedLongLong(r->answered[c]));
            for (uint32_t b = 0; b <= self->l.bounds; b++) PyTuple_SET_ITEM(buckets, b, PyLong_FromUnsignedLongLong(r->bucket[b]));
        }
        PyObject *one = Py_BuildValue("nNNdKK", i, answered, buckets, (double)r->micros / 1e6, (unsigned long long)r->bytes_in,
                                      (unsigned long long)r->bytes_out);
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
        memset(r, 0, sizeof *r);
    }
    return list;
}

/* The calls that are under way: (caller, target, the request's head). */
static PyObject *lane_calls(LaneObject *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    for (caller *c = self->l.first_caller; list != NULL && c != NULL; c = c->next) {
        if (c->target == NULL) continue;
        PyObject *one = Py_BuildValue("KKNK", (unsigned long long)c->id, (unsigned long long)c->target->serial, bytes_of(&c->asked),
                                      (unsigned long long)c->guest);
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
    }
    return list;
}

/* End the call of a stream. */
static PyObject *lane_cut(LaneObject *self, PyObject *args) {
    unsigned long long id;
    if (!PyArg_ParseTuple(args, "K", &id)) return NULL;
    for (caller *c = self->l.first_caller; c != NULL; c = c->next) {
        if (c->from == NULL || c->id != id) continue;
        go_up(&self->l, c, UP_FAILED, "cut", "");
        break;
    }
    Py_RETURN_NONE;
}

static PyObject *lane_get_logging(LaneObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(self->l.logging);
}

static int lane_set_logging(LaneObject *self, PyObject *value, void *closure) {
    (void)closure;
    int yes = value == NULL ? -1 : PyObject_IsTrue(value);
    if (yes < 0) return -1;
    self->l.logging = yes;
    return 0;
}

static PyObject *lane_stats(LaneObject *self, void *closure) {
    (void)closure;
    lane *l = &self->l;
    return Py_BuildValue("{sIsIsIsIsIsIsKsK}", "callers", l->callers, "calls", l->calls, "servers", l->servers, "relays", l->relays, "tunnels",
                         l->tunnels, "links", l->links, "served", (unsigned long long)l->served, "missed", (unsigned long long)l->missed);
}

static PyObject *lane_get_pending(LaneObject *self, void *closure) {
    (void)closure;
    return PyBool_FromLong(lane_pending(&self->l));
}

static PyObject *lane_under_way(LaneObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(self->l.calls);
}

static PyMethodDef lane_methods[] = {
    {"limit", (PyCFunction)(void (*)(void))lane_limit, METH_VARARGS | METH_KEYWORDS, "limit(*, ...): bounds, in bytes and seconds"},
    {"fileno", (PyCFunction)lane_fileno, METH_NOARGS, "fileno(): readable when there is something to do"},
    {"target", (PyCFunction)lane_target, METH_NOARGS, "target() -> Target"},
    {"plan", (PyCFunction)lane_plan, METH_VARARGS, "plan(shown, groups, crowd=0) -> Plan"},
    {"learn", (PyCFunction)lane_learn, METH_VARARGS, "learn(plan, target, row, method, path, host): such a request may go there"},
    {"denial", (PyCFunction)lane_denial, METH_VARARGS, "denial(answer, head_size, id_at) -> int: an answer that says no"},
    {"refuse", (PyCFunction)lane_refuse, METH_VARARGS, "refuse(plan, target, denial, method, path, host): such a request is refused"},
    {"refusals", (PyCFunction)lane_refusals, METH_NOARGS, "refusals() -> list: requests that were refused"},
    {"carry", (PyCFunction)lane_carry_object, METH_VARARGS, "carry(id, fd, plan, data) -> Carried: lend a caller's connection"},
    {"relay", (PyCFunction)lane_relay_object, METH_VARARGS, "relay(id, left, right, read of left, read of right, idle seconds) -> Relayed"},
    {"tunnel", (PyCFunction)lane_tunnel_object, METH_VARARGS,
     "tunnel(id, linked, stream, socket, left, read of the stream, owed, window, untold, read of the socket, idle seconds) -> Tunnelled"},
    {"lend", (PyCFunction)lane_lend_object, METH_VARARGS, "lend(id, fd, target): lend a server's connection at rest"},
    {"reclaim", (PyCFunction)lane_reclaim_object, METH_O, "reclaim(target) -> int: a server that rests goes back; 0: none rests"},
    {"clear", (PyCFunction)lane_clear, METH_O, "clear(target): close what rests for it"},
    {"turn", (PyCFunction)lane_turn_object, METH_VARARGS, "turn(microseconds) -> int: work. 0: nothing is left; SILENT: something is that no event tells of"},
    {"stay", (PyCFunction)lane_stay_object, METH_VARARGS,
     "stay(microseconds, quiet, slice, others) -> int: work and wait until the descriptor `others` is readable; QUIET, CALL, or neither"},
    {"tick", (PyCFunction)lane_tick_object, METH_VARARGS, "tick([now]): look at the clock, once a second; `now`: by the one that times relays"},
    {"forget", (PyCFunction)lane_forget, METH_NOARGS, "forget(): all plans and what was learned are stale"},
    {"ups", (PyCFunction)lane_ups, METH_NOARGS, "ups() -> list: callers that have left"},
    {"link", (PyCFunction)lane_link_object, METH_VARARGS, "link(id, fd, tls or None, h2, stall seconds, local) -> Linked: an HTTP/2 connection; `local`: to a workload"},
    {"links", (PyCFunction)lane_links, METH_NOARGS, "links() -> list: links of which Python is to know something"},
    {"relayed", (PyCFunction)lane_relayed, METH_NOARGS, "relayed() -> list: relays and tunnels that are over, and why"},
    {"moved", (PyCFunction)lane_moved, METH_NOARGS, "moved() -> list: relays and tunnels that moved bytes since the last time, and their counts"},
    {"gone", (PyCFunction)lane_gone, METH_NOARGS, "gone() -> list: servers that may be closed"},
    {"log", (PyCFunction)lane_log, METH_NOARGS, "log() -> list: requests that are over, while `logging`"},
    {"counts", (PyCFunction)lane_counts, METH_NOARGS, "counts() -> list: what was counted since the last time"},
    {"calls", (PyCFunction)lane_calls, METH_NOARGS, "calls() -> list of (id, target, head, guest): what is under way"},
    {"cut", (PyCFunction)lane_cut, METH_VARARGS, "cut(id): end the call of a stream"},
    {"route", (PyCFunction)lane_route, METH_VARARGS, "route(target, linked, name): the link to its node, and how that node knows it"},
    {"door", (PyCFunction)lane_door, METH_VARARGS, "door(linked, what, whom, plan, guest): what a peer asks for is decided by this plan"},
    {0},
};
static PyGetSetDef lane_getset[] = {
    {"logging", (getter)lane_get_logging, (setter)lane_set_logging, "keep a record of each request for `log`", NULL},
    {"stats", (getter)lane_stats, NULL, "how many of what there are", NULL},
    {"pending", (getter)lane_get_pending, NULL, "is there anything in `ups`, `gone`, `relayed` or `log`", NULL},
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

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "nodeproxy.native._lane", "The native lane.", -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__lane(void) {
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    static PyTypeObject *const inner[] = {&CarriedType};
    static PyTypeObject *const shown[] = {&LaneType, &TargetType, &PlanType, &RelayedType, &ProgramType};
    bool ok = PyType_Ready(inner[0]) == 0;
    for (size_t i = 0; ok && i < sizeof shown / sizeof *shown; i++) ok = PyModule_AddType(made, shown[i]) == 0;
    ok = ok && add_h2_type(made) == 0 && add_link_type(made) == 0 && add_tunnel_type(made) == 0 && add_tls_types(made) == 0;
    if (!ok) {
        Py_DECREF(made);
        return NULL;
    }
    PyModule_AddIntConstant(made, "REQUEST", UP_REQUEST);
    PyModule_AddIntConstant(made, "END", UP_END);
    PyModule_AddIntConstant(made, "FAILED", UP_FAILED);
    PyModule_AddIntConstant(made, "RESPONSE", UP_RESPONSE);
    PyModule_AddIntConstant(made, "SILENT", TURN_SILENT);
    PyModule_AddIntConstant(made, "QUIET", STAY_QUIET);
    PyModule_AddIntConstant(made, "CALL", STAY_CALL);
    PyModule_AddIntConstant(made, "DONE", RELAY_DONE);
    PyModule_AddIntConstant(made, "LEFT_BROKEN", LEFT_BROKEN);
    PyModule_AddIntConstant(made, "RIGHT_BROKEN", RIGHT_BROKEN);
    PyModule_AddIntConstant(made, "IDLE", RELAY_IDLE);
    PyModule_AddIntConstant(made, "STREAM_RESET", STREAM_RESET);
    PyModule_AddIntConstant(made, "STREAM_WRONG", STREAM_WRONG);
    PyModule_AddIntConstant(made, "STREAM_SHUT", STREAM_SHUT);
    PyModule_AddIntConstant(made, "STREAM_LOST", STREAM_LOST);
    return made;
}
