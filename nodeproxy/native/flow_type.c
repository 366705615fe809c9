/* nodeproxy.native._lane.Target, Plan and Program: decisions, as Python makes and sees them. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "flow_type.h"

#include "records.h"

typedef struct { PyObject_HEAD program *program; } ProgramObject;
typedef struct { PyObject_HEAD looks *looks; } LooksObject;
typedef struct { PyObject_HEAD change *change; } ChangeObject;

static void target_dealloc(TargetObject *self) {
    if (put_off(self)) return;
    if (self->target != NULL) em_target_free(&self->lane->l, self->target);
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

PyTypeObject em_TargetType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Target",
    .tp_basicsize = sizeof(TargetObject),
    .tp_dealloc = (destructor)target_dealloc,
    .tp_finalize = em_finalize_of_lane,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "One endpoint for one caller.",
    .tp_getset = target_getset,
};

static void plan_dealloc(PlanObject *self) {
    if (put_off(self)) return;
    if (self->plan != NULL) em_plan_free(&self->lane->l, self->plan);
    Py_XDECREF(self->lane);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static section *section_at(PlanObject *self, unsigned number) {
    if (number < self->plan->sections) return &self->plan->section[number];
    PyErr_Format(PyExc_ValueError, "no section %u", number);
    return NULL;
}

static PyObject *plan_refill(PlanObject *self, PyObject *args) {
    const char *data;
    Py_ssize_t size;
    unsigned number = 0;
    if (!PyArg_ParseTuple(args, "y#|I", &data, &size, &number)) return NULL;
    section *n = section_at(self, number);
    if (n == NULL) return NULL;
    for (Py_ssize_t i = 0; i < size; i++)
        if ((uint8_t)data[i] >= n->count) return PyErr_Format(PyExc_ValueError, "turn %zd is of no group", i);
    uint8_t *copy = malloc((size_t)size + 1);
    if (copy == NULL) return PyErr_NoMemory();
    memcpy(copy, data, (size_t)size);
    free(n->turns);
    n->turns = copy;
    n->turn_count = (uint32_t)size;
    n->turn = 0;
    Py_RETURN_NONE;
}

static PyObject *plan_take(PlanObject *self, PyObject *args) {
    unsigned number = 0;
    if (!PyArg_ParseTuple(args, "|I", &number)) return NULL;
    section *n = section_at(self, number);
    if (n == NULL) return NULL;
    return PyLong_FromLong(n->turn < n->turn_count ? n->turns[n->turn++] : -1);
}

static PyObject *plan_rest(PlanObject *self, PyObject *args) {
    unsigned number = 0;
    if (!PyArg_ParseTuple(args, "|I", &number)) return NULL;
    section *n = section_at(self, number);
    if (n == NULL) return NULL;
    PyObject *left = PyBytes_FromStringAndSize(n->turns == NULL ? NULL : (const char *)n->turns + n->turn,
                                               (Py_ssize_t)(n->turn_count - n->turn));
    if (left != NULL) n->turn = n->turn_count;
    return left;
}

static PyObject *plan_serial(PlanObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLongLong(self->plan->serial);
}

static PyObject *plan_turns(PlanObject *self, PyObject *args) {
    unsigned number = 0;
    if (!PyArg_ParseTuple(args, "|I", &number)) return NULL;
    section *n = section_at(self, number);
    if (n == NULL) return NULL;
    return PyLong_FromUnsignedLong(n->turn_count - n->turn);
}

static PyMethodDef plan_methods[] = {
    {"take", (PyCFunction)plan_take, METH_VARARGS,
     "take(section=0) -> int: the group whose turn is next, -1 when none is left"},
    {"refill", (PyCFunction)plan_refill, METH_VARARGS,
     "refill(turns: bytes, section=0): the groups whose turns are next"},
    {"rest", (PyCFunction)plan_rest, METH_VARARGS, "rest(section=0) -> bytes: take all turns that are left"},
    {"turns", (PyCFunction)plan_turns, METH_VARARGS, "turns(section=0) -> int: how many are left"},
    {0},
};

static PyGetSetDef plan_getset[] = {{"serial", (getter)plan_serial, NULL, "what `dry` names it by", NULL}, {0}};

PyTypeObject em_PlanType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Plan",
    .tp_basicsize = sizeof(PlanObject),
    .tp_dealloc = (destructor)plan_dealloc,
    .tp_finalize = em_finalize_of_lane,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "Where the requests of one caller to one destination may go.",
    .tp_methods = plan_methods,
    .tp_getset = plan_getset,
};

static void program_dealloc(ProgramObject *self) {
    if (self->program != NULL) em_program_free(self->program);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *program_new_object(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    const char *classes, *next, *alike;
    Py_ssize_t classes_size, next_size, alike_size;
    unsigned width;
    if (!PyArg_ParseTuple(args, "Iy#y#y#", &width, &classes, &classes_size, &next, &next_size, &alike, &alike_size))
        return NULL;
    Py_ssize_t states = alike_size / 2;
    if (classes_size != 256 || width == 0 || width > 256 || states == 0 || states > 65535 || alike_size != 2 * states ||
        next_size != 2 * states * (Py_ssize_t)width)
        return PyErr_Format(PyExc_ValueError, "tables of other sizes than they say");
    ProgramObject *self = (ProgramObject *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->program = em_program_new((uint32_t)states, width, (const uint8_t *)classes, (const uint8_t *)next,
                                   (const uint8_t *)alike);
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
    .tp_doc = "Program(width, classes, next, alike): which paths are alike (policy.automaton), 16-bit numbers in the "
              "machine's order.",
};

static void looks_dealloc(LooksObject *self) {
    if (self->looks != NULL) em_looks_free(self->looks);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Copy bytes into the memory behind `to`, and return where they are. */
static const uint8_t *kept(uint8_t **to, const char *data, Py_ssize_t size) {
    uint8_t *at = *to;
    memcpy(at, data, (size_t)size);
    *to += size;
    return at;
}

static PyObject *looks_new_object(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *all;
    if (!PyArg_ParseTuple(args, "O!", &PyTuple_Type, &all)) return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(all), size = 0, values = 0;
    if (count > (Py_ssize_t)MOST_LOOKS) return PyErr_Format(PyExc_ValueError, "more than %u looks", MOST_LOOKS);
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *name;
        Py_ssize_t name_size;
        int parameter;
        PyObject *of;
        if (!PyTuple_Check(PyTuple_GET_ITEM(all, i)))
            return PyErr_Format(PyExc_TypeError, "a look is (name, parameter, values)");
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(all, i), "y#pO!", &name, &name_size, &parameter, &PyTuple_Type, &of))
            return NULL;
        size += name_size;
        values += PyTuple_GET_SIZE(of);
        for (Py_ssize_t j = 0; j < PyTuple_GET_SIZE(of); j++) {
            if (!PyBytes_Check(PyTuple_GET_ITEM(of, j))) return PyErr_Format(PyExc_TypeError, "values are bytes");
            size += PyBytes_GET_SIZE(PyTuple_GET_ITEM(of, j));
        }
    }
    if (size > 65536 || values > 4096) return PyErr_Format(PyExc_ValueError, "more values than a key can tell apart");
    LooksObject *self = (LooksObject *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    looks *g = self->looks = em_looks_new((uint32_t)values, (size_t)size);
    if (g == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    uint8_t *text_end = g->text;
    span *value = g->values;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *one = PyTuple_GET_ITEM(all, i), *name = PyTuple_GET_ITEM(one, 0), *of = PyTuple_GET_ITEM(one, 2);
        look *k = &g->look[g->count++];
        Py_ssize_t name_size = PyBytes_GET_SIZE(name);
        k->name = (span){kept(&text_end, PyBytes_AS_STRING(name), name_size), (uint32_t)name_size};
        k->parameter = PyObject_IsTrue(PyTuple_GET_ITEM(one, 1)) == 1;
        k->values = value;
        k->count = (uint32_t)PyTuple_GET_SIZE(of);
        for (uint32_t j = 0; j < k->count; j++) {
            PyObject *bytes = PyTuple_GET_ITEM(of, j);
            Py_ssize_t of_size = PyBytes_GET_SIZE(bytes);
            *value++ = (span){kept(&text_end, PyBytes_AS_STRING(bytes), of_size), (uint32_t)of_size};
        }
    }
    return (PyObject *)self;
}

static PyTypeObject LooksType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Looks",
    .tp_basicsize = sizeof(LooksObject),
    .tp_new = looks_new_object,
    .tp_dealloc = (destructor)looks_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Looks(((name, parameter, values), ...)): which fields and parameters decisions look at. Requests with "
              "the same one of `values`, or with none of them, are alike; without `values` those with equal ones.",
};

static void change_dealloc(ChangeObject *self) {
    if (self->change != NULL) em_change_free(self->change);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static bool are_fields(PyObject *names, PyObject *fields, Py_ssize_t *size) {
    *size = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        if (!PyBytes_Check(PyTuple_GET_ITEM(names, i))) return false;
        *size += PyBytes_GET_SIZE(PyTuple_GET_ITEM(names, i));
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(fields); i++) {
        PyObject *one = PyTuple_GET_ITEM(fields, i);
        if (!PyTuple_Check(one) || PyTuple_GET_SIZE(one) != 2 || !PyBytes_Check(PyTuple_GET_ITEM(one, 0)) ||
            !PyBytes_Check(PyTuple_GET_ITEM(one, 1)))
            return false;
        *size += PyBytes_GET_SIZE(PyTuple_GET_ITEM(one, 0)) + PyBytes_GET_SIZE(PyTuple_GET_ITEM(one, 1)) + 4;
    }
    return true;
}

static PyObject *change_new_object(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *names, *fields;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "O!O!", &PyTuple_Type, &names, &PyTuple_Type, &fields)) return NULL;
    if (PyTuple_GET_SIZE(names) > (Py_ssize_t)MOST_CHANGES || PyTuple_GET_SIZE(fields) > (Py_ssize_t)MOST_CHANGES)
        return PyErr_Format(PyExc_ValueError, "more than %u fields", MOST_CHANGES);
    if (!are_fields(names, fields, &size)) return PyErr_Format(PyExc_TypeError, "names, and pairs of bytes");
    if (size > 65536) return PyErr_Format(PyExc_ValueError, "fields that are too large");
    ChangeObject *self = (ChangeObject *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    change *g = self->change = em_change_new((size_t)size);
    if (g == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    uint8_t *end = g->text;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        field *f = &g->drop[g->dropped++];
        f->name_size = (uint32_t)PyBytes_GET_SIZE(name);
        f->line = kept(&end, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name));
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(fields); i++) {
        PyObject *name = PyTuple_GET_ITEM(PyTuple_GET_ITEM(fields, i), 0);
        PyObject *value = PyTuple_GET_ITEM(PyTuple_GET_ITEM(fields, i), 1);
        field *f = &g->add[g->added++];
        f->name_size = (uint32_t)PyBytes_GET_SIZE(name);
        f->line = kept(&end, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name));
        kept(&end, ": ", 2);
        f->value_size = (uint32_t)PyBytes_GET_SIZE(value);
        f->value = kept(&end, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value));
        f->line_size = (uint32_t)(end - f->line);
        kept(&end, "\r\n", 2);
    }
    return (PyObject *)self;
}

static PyTypeObject ChangeType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Change",
    .tp_basicsize = sizeof(ChangeObject),
    .tp_new = change_new_object,
    .tp_dealloc = (destructor)change_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Change(names, fields): leave fields of these names out of a message, and write these behind the others. "
              "Names are in lower case.",
};

PyObject *em_lane_target(LaneObject *self, PyObject *unused) {
    (void)unused;
    TargetObject *made = PyObject_New(TargetObject, &em_TargetType);
    if (made == NULL) return NULL;
    made->lane = (LaneObject *)Py_NewRef(self);
    made->target = em_target_new(lane_of(self));
    if (made->target == NULL) {
        Py_DECREF(made);
        return PyErr_NoMemory();
    }
    return (PyObject *)made;
}

static bool hold_program(PyObject *object, program **held) {
    if (object == Py_None) return true;
    if (Py_TYPE(object) != &ProgramType) return false;
    *held = ((ProgramObject *)object)->program;
    (*held)->users++;
    return true;
}

static bool hold_looks(PyObject *object, looks **held) {
    if (object == Py_None) return true;
    if (Py_TYPE(object) != &LooksType) return false;
    *held = ((LooksObject *)object)->looks;
    (*held)->users++;
    return true;
}

static bool hold_change(PyObject *object, change **held) {
    if (object == Py_None) return true;
    if (Py_TYPE(object) != &ChangeType) return false;
    *held = ((ChangeObject *)object)->change;
    (*held)->users++;
    return true;
}

static bool fill_group(group *g, PyObject *targets) {
    if (!PyTuple_Check(targets)) return false;
    Py_ssize_t count = PyTuple_GET_SIZE(targets);
    g->seats = calloc((size_t)count + 1, sizeof *g->seats);
    if (g->seats == NULL) return false;
    for (Py_ssize_t j = 0; j < count; j++) {
        PyObject *target_, *program_, *looks_ = Py_None;
        if (!PyTuple_Check(PyTuple_GET_ITEM(targets, j)) ||
            !PyArg_ParseTuple(PyTuple_GET_ITEM(targets, j), "O!O|O", &em_TargetType, &target_, &program_, &looks_))
            return false;
        seat *s = &g->seats[j];
        s->target = ((TargetObject *)target_)->target;
        s->target->users++;
        g->count = (uint32_t)j + 1;
        if (!hold_program(program_, &s->program) || !hold_looks(looks_, &s->looks)) return false;
    }
    return true;
}

/* `ruled`: (Program or None, Looks or None). `counts`: how many groups each section has. */
static bool rule_plan(plan *p, PyObject *ruled, const char *counts, Py_ssize_t sections) {
    Py_ssize_t sum = 0;
    for (Py_ssize_t i = 0; i < sections; i++) sum += (uint8_t)counts[i];
    if (sum != (Py_ssize_t)p->groups || !em_plan_divide(p, (const uint8_t *)counts, (uint32_t)sections)) return false;
    if (ruled == Py_None) return sections == 1;
    if (!PyTuple_Check(ruled) || PyTuple_GET_SIZE(ruled) != 2) return false;
    p->ruled = true;
    return hold_program(PyTuple_GET_ITEM(ruled, 0), &p->program) && hold_looks(PyTuple_GET_ITEM(ruled, 1), &p->looks);
}

PyObject *em_lane_plan(LaneObject *self, PyObject *args) {
    const char *shown, *counts = "";
    Py_ssize_t shown_size, sections = 0;
    PyObject *groups, *changes = NULL, *ruled = Py_None;
    unsigned crowd = 0;
    if (!PyArg_ParseTuple(args, "y#O!|IO!y#O", &shown, &shown_size, &PyTuple_Type, &groups, &crowd, &PyTuple_Type,
                          &changes, &counts, &sections, &ruled))
        return NULL;
    if (PyTuple_GET_SIZE(groups) > 255) return PyErr_Format(PyExc_ValueError, "more than 255 groups");
    PlanObject *made = PyObject_New(PlanObject, &em_PlanType);
    if (made == NULL) return NULL;
    made->lane = (LaneObject *)Py_NewRef(self);
    made->plan = em_plan_new(lane_of(self), (const uint8_t *)shown, (size_t)shown_size,
                             (uint32_t)PyTuple_GET_SIZE(groups));
    if (made->plan == NULL) {
        Py_DECREF(made);
        return PyErr_NoMemory();
    }
    made->plan->crowd = crowd;
    bool ok = changes == NULL || PyTuple_GET_SIZE(changes) == PyTuple_GET_SIZE(groups);
    for (Py_ssize_t i = 0; ok && i < PyTuple_GET_SIZE(groups); i++) {
        group *g = &made->plan->group[i];
        ok = fill_group(g, PyTuple_GET_ITEM(groups, i));
        if (!ok || changes == NULL) continue;
        PyObject *one = PyTuple_GET_ITEM(changes, i);
        ok = PyTuple_Check(one) && PyTuple_GET_SIZE(one) == 2 && hold_change(PyTuple_GET_ITEM(one, 0), &g->asks) &&
             hold_change(PyTuple_GET_ITEM(one, 1), &g->answers);
    }
    if (ok && changes != NULL) ok = rule_plan(made->plan, ruled, counts, sections);
    if (ok) return (PyObject *)made;
    Py_DECREF(made);
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_TypeError)) return NULL;
    PyErr_Clear();
    return PyErr_Format(PyExc_TypeError, "groups are tuples of (Target, Program or None, Looks or None)");
}

/* Return the plans that have few turns left, once. */
PyObject *em_lane_dry(LaneObject *self, PyObject *unused) {
    (void)unused;
    lane *l = lane_of(self);
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < l->dry_count; i++) {
        PyObject *serial = PyLong_FromUnsignedLongLong(l->dry[i]);
        if (serial == NULL || PyList_Append(list, serial) < 0) Py_CLEAR(list);
        Py_XDECREF(serial);
    }
    if (list != NULL) l->dry_count = 0;
    return list;
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

/* Read a request that Python describes: by its parts, or as a whole head in `text`. False: it has no key. */
static bool read_asked(LaneObject *self, head *h, const char *text_, Py_ssize_t size) {
    return em_read_request((const uint8_t *)text_, (size_t)size, &lane_of(self)->set.head, h) == (int64_t)size;
}

static PyObject *learn(LaneObject *self, PlanObject *plan_, TargetObject *target_, row *r, uint32_t number, head *h,
                       const char *text_, Py_ssize_t size) {
    const seat *at = em_seat_of(plan_->plan, target_->target);
    if (at == NULL) return PyErr_Format(PyExc_ValueError, "the target is not of this plan");
    if (at->looks != NULL) {
        if (text_ == NULL) return PyErr_Format(PyExc_ValueError, "the rules look at fields, and there are none");
        if (!read_asked(self, h, text_, size)) Py_RETURN_NONE;
    }
    if (!em_entry_learn(lane_of(self), plan_->plan, at, r, number, h)) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject *em_lane_learn(LaneObject *self, PyObject *args) {
    PyObject *plan_, *target_;
    Py_ssize_t index, method_size, path_size, host_size, text_size = 0;
    const char *method, *path, *host, *text_ = NULL;
    if (!PyArg_ParseTuple(args, "O!O!ny#y#y#|z#", &em_PlanType, &plan_, &em_TargetType, &target_, &index, &method,
                          &method_size, &path, &path_size, &host, &host_size, &text_, &text_size))
        return NULL;
    row *r = row_at(self, index);
    if (r == NULL) return PyErr_NoMemory();
    head h;
    em_asked(&h, (const uint8_t *)method, (size_t)method_size, (const uint8_t *)path, (size_t)path_size,
             (const uint8_t *)host, (size_t)host_size);
    return learn(self, (PlanObject *)plan_, (TargetObject *)target_, r, NO_DENIAL, &h, text_, text_size);
}

PyObject *em_lane_rule(LaneObject *self, PyObject *args) {
    PyObject *plan_;
    unsigned number;
    Py_ssize_t size;
    const char *text_;
    if (!PyArg_ParseTuple(args, "O!Iy#", &em_PlanType, &plan_, &number, &text_, &size)) return NULL;
    plan *p = ((PlanObject *)plan_)->plan;
    if (!p->ruled || number >= p->sections) return PyErr_Format(PyExc_ValueError, "no section %u", number);
    head h;
    if (read_asked(self, &h, text_, size) && !em_entry_learn(lane_of(self), p, NULL, NULL, number, &h))
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject *em_lane_denial(LaneObject *self, PyObject *args) {
    const char *answer;
    Py_ssize_t size;
    unsigned head_size, id_at, id_again = 0;
    if (!PyArg_ParseTuple(args, "y#II|I", &answer, &size, &head_size, &id_at, &id_again)) return NULL;
    if (id_again != 0 && (id_again < head_size || id_again + (size_t)ID_SIZE > (size_t)size))
        return PyErr_Format(PyExc_ValueError, "the id is not in the body");
    if (head_size > (size_t)size || id_at + (size_t)ID_SIZE > head_size)
        return PyErr_Format(PyExc_ValueError, "the id is not in the head");
    if (!em_denial_new(lane_of(self), (const uint8_t *)answer, (size_t)size, head_size, id_at, id_again))
        return PyErr_NoMemory();
    return PyLong_FromUnsignedLong(lane_of(self)->denial_count - 1);
}

PyObject *em_lane_refuse(LaneObject *self, PyObject *args) {
    PyObject *plan_, *target_;
    unsigned number;
    Py_ssize_t method_size, path_size, host_size, text_size = 0;
    const char *method, *path, *host, *text_ = NULL;
    if (!PyArg_ParseTuple(args, "O!O!Iy#y#y#|z#", &em_PlanType, &plan_, &em_TargetType, &target_, &number, &method,
                          &method_size, &path, &path_size, &host, &host_size, &text_, &text_size))
        return NULL;
    if (number >= lane_of(self)->denial_count) return PyErr_Format(PyExc_ValueError, "no denial %u", number);
    head h;
    em_asked(&h, (const uint8_t *)method, (size_t)method_size, (const uint8_t *)path, (size_t)path_size,
             (const uint8_t *)host, (size_t)host_size);
    return learn(self, (PlanObject *)plan_, (TargetObject *)target_, NULL, number, &h, text_, text_size);
}

/* Return the counts since the last time. */
PyObject *em_lane_counts(LaneObject *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; list != NULL && i < self->row_count; i++) {
        row *r = self->rows[i];
        uint64_t any = 0;
        for (int c = 0; r != NULL && c < CLASSES; c++) any += r->answered[c];
        if (any == 0) continue;
        PyObject *answered = PyTuple_New(CLASSES), *buckets = PyTuple_New(lane_of(self)->bounds + 1);
        if (answered != NULL && buckets != NULL) {
            for (int c = 0; c < CLASSES; c++)
                PyTuple_SET_ITEM(answered, c, PyLong_FromUnsignedLongLong(r->answered[c]));
            for (uint32_t b = 0; b <= lane_of(self)->bounds; b++)
                PyTuple_SET_ITEM(buckets, b, PyLong_FromUnsignedLongLong(r->bucket[b]));
        }
        PyObject *one = RECORD_OF(em_CountedType, PyLong_FromSsize_t(i), answered, buckets,
                                  PyFloat_FromDouble((double)r->micros / 1e6), number(r->bytes_in),
                                  number(r->bytes_out));
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
        memset(r, 0, sizeof *r);
    }
    return list;
}

int em_add_flow_types(PyObject *module) {
    if (PyModule_AddType(module, &em_TargetType) < 0 || PyModule_AddType(module, &em_PlanType) < 0) return -1;
    if (PyModule_AddType(module, &LooksType) < 0 || PyModule_AddType(module, &ChangeType) < 0) return -1;
    return PyModule_AddType(module, &ProgramType);
}
