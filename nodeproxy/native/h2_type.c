/* nodeproxy.native._lane.H2: one HTTP/2 connection as Python sees it. Numbers, bytes and lists of pairs are passed. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "h2_type.h"

#include "frames.h"

static PyObject *answer(H2Object *self, bool ok) {
    if (!ok || self->h.no_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* ---- owners of connections ---- */

static PyObject *owner_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"most", "burst", "rate", "now", NULL};
    h2_owner o = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Iddd", names, &o.most, &o.resets.burst, &o.resets.rate,
                                     &o.resets.at))
        return NULL;
    o.resets.left = o.resets.burst;
    OwnerObject *self = (OwnerObject *)type->tp_alloc(type, 0);
    if (self != NULL) self->owner = o;
    return (PyObject *)self;
}

static PyObject *owner_spend(OwnerObject *self, PyObject *now) {
    double at = PyFloat_AsDouble(now);
    if (PyErr_Occurred()) return NULL;
    return PyBool_FromLong(em_bucket_spend(&self->owner.resets, 1, at));
}

static PyObject *owner_earn(OwnerObject *self, PyObject *unused) {
    (void)unused;
    bucket *b = &self->owner.resets;
    if (b->left < b->burst) b->left += 1;
    Py_RETURN_NONE;
}

static PyObject *owner_debt(OwnerObject *self, PyObject *now) {
    double at = PyFloat_AsDouble(now);
    if (PyErr_Occurred()) return NULL;
    const bucket *b = &self->owner.resets;
    double left = b->left + (at - b->at) * b->rate;
    return PyFloat_FromDouble(b->left < 0 && left < 0 ? -left / b->rate : 0);
}

static PyObject *owner_begin(OwnerObject *self, PyObject *unused) {
    (void)unused;
    if (self->owner.streams >= self->owner.most) Py_RETURN_FALSE;
    self->owner.streams++;
    Py_RETURN_TRUE;
}

static PyObject *owner_end(OwnerObject *self, PyObject *unused) {
    (void)unused;
    if (self->owner.streams > 0) self->owner.streams--;
    Py_RETURN_NONE;
}

static PyObject *owner_streams(OwnerObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(self->owner.streams);
}
static PyObject *owner_most(OwnerObject *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(self->owner.most);
}
static int owner_set_most(OwnerObject *self, PyObject *value, void *closure) {
    (void)closure;
    unsigned long most = value == NULL ? 0 : PyLong_AsUnsignedLong(value);
    if (PyErr_Occurred()) return -1;
    self->owner.most = (uint32_t)most;
    return 0;
}

static PyMethodDef owner_methods[] = {
    {"spend", (PyCFunction)owner_spend, METH_O,
     "spend(now) -> bool: a peer of his had us work for nothing; false: too often"},
    {"earn", (PyCFunction)owner_earn, METH_NOARGS, "earn(): a stream was served to its end"},
    {"debt", (PyCFunction)owner_debt, METH_O,
     "debt(now) -> float: seconds until he may have us work for nothing again"},
    {"begin", (PyCFunction)owner_begin, METH_NOARGS,
     "begin() -> bool: a stream is worked for; false: there are too many"},
    {"end", (PyCFunction)owner_end, METH_NOARGS, "end(): no more"},
    {0},
};
static PyGetSetDef owner_getset[] = {
    {"streams", (getter)owner_streams, NULL, "that are worked for now", NULL},
    {"most", (getter)owner_most, (setter)owner_set_most, "streams at once", NULL},
    {0},
};

PyTypeObject em_OwnerType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.Owner",
    .tp_basicsize = sizeof(OwnerObject),
    .tp_new = owner_new,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Of whom HTTP/2 connections are: see nodeproxy/h2/owner.py.",
    .tp_methods = owner_methods,
    .tp_getset = owner_getset,
};

static PyObject *h2_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"client",
                            "max_streams",
                            "head_bytes",
                            "frame_size",
                            "connection_window",
                            "stream_window",
                            "queue_bytes",
                            "control_burst",
                            "control_rate",
                            "reset_burst",
                            "reset_rate",
                            "now",
                            "owner",
                            NULL};
    int client;
    h2_bounds b;
    double now;
    OwnerObject *owner = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "pIIIIIIddddd|O!", names, &client, &b.max_streams, &b.head_bytes,
                                     &b.frame_size, &b.connection_window, &b.stream_window, &b.queue_bytes,
                                     &b.control_burst, &b.control_rate, &b.reset_burst, &b.reset_rate, &now,
                                     &em_OwnerType, &owner))
        return NULL;
    H2Object *self = (H2Object *)type->tp_alloc(type, 0);
    if (self != NULL && !em_h2_open(&self->h, client, &b, now)) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    if (self != NULL && owner != NULL) {
        Py_INCREF(owner);
        self->owner = owner;
        self->h.of = &owner->owner;
    }
    return (PyObject *)self;
}

static void h2_dealloc(H2Object *self) {
    em_h2_close(&self->h);
    Py_XDECREF(self->owner);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* ---- fields ---- */

static PyObject *fields_of(const uint8_t *p, size_t size) {
    PyObject *list = PyList_New(0);
    for (const uint8_t *end = p + size; list != NULL && p < end;) {
        field_sizes sizes;
        memcpy(&sizes, p, sizeof sizes);
        p += sizeof sizes;
        PyObject *pair = Py_BuildValue("(y#y#)", p, (Py_ssize_t)sizes.name_size, p + sizes.name_size,
                                       (Py_ssize_t)sizes.value_size);
        if (pair == NULL || PyList_Append(list, pair) < 0) Py_CLEAR(list);
        Py_XDECREF(pair);
        p += sizes.name_size + sizes.value_size;
    }
    return list;
}

/* Borrow the bytes of `fields`, a list of pairs, which must outlive the result. NULL with an exception. */
static nghttp2_nv *read_fields(PyObject *fields, size_t *count) {
    if (!PyList_Check(fields)) {
        PyErr_SetString(PyExc_TypeError, "fields are a list of pairs");
        return NULL;
    }
    *count = (size_t)PyList_GET_SIZE(fields);
    nghttp2_nv *nva = malloc((*count + 1) * sizeof *nva);
    if (nva == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    for (size_t i = 0; i < *count; i++) {
        PyObject *pair = PyList_GET_ITEM(fields, (Py_ssize_t)i);
        char *name, *value;
        Py_ssize_t name_size, value_size;
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 ||
            PyBytes_AsStringAndSize(PyTuple_GET_ITEM(pair, 0), &name, &name_size) < 0 ||
            PyBytes_AsStringAndSize(PyTuple_GET_ITEM(pair, 1), &value, &value_size) < 0) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a field is a pair of bytes");
            free(nva);
            return NULL;
        }
        uint8_t flags = em_is_secret((uint8_t *)name, (size_t)name_size) ? NGHTTP2_NV_FLAG_NO_INDEX
                                                                         : NGHTTP2_NV_FLAG_NONE;
        nva[i] = (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, (size_t)name_size, (size_t)value_size, flags};
    }
    return nva;
}

/* ---- bytes ---- */

static PyObject *h2_feed_method(H2Object *self, PyObject *args) {
    Py_buffer data;
    double now;
    if (!PyArg_ParseTuple(args, "y*d", &data, &now)) return NULL;
    em_h2_feed(&self->h, data.buf, (size_t)data.len, now);
    PyBuffer_Release(&data);
    return answer(self, true);
}

static PyObject *h2_events(H2Object *self, PyObject *unused) {
    (void)unused;
    buffer told = self->h.events;
    memset(&self->h.events, 0, sizeof self->h.events);
    PyObject *list = PyList_New(0);
    for (uint32_t at = told.begin; list != NULL && at < told.end;) {
        h2_event e;
        memcpy(&e, told.at + at, sizeof e);
        at += (uint32_t)sizeof e;
        const uint8_t *data = told.at + at;
        at += e.size;
        bool has_fields = e.what == H2_REQUESTED || e.what == H2_RESPONDED || e.what == H2_TRAILED;
        PyObject *more = has_fields ? fields_of(data, e.size)
                                    : PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)e.size);
        PyObject *one = more == NULL
                            ? NULL
                            : Py_BuildValue("(IiNIO)", e.what, e.stream, more, e.code, e.ended ? Py_True : Py_False);
        if (one == NULL || PyList_Append(list, one) < 0) Py_CLEAR(list);
        Py_XDECREF(one);
    }
    em_buffer_free(&told);
    return list;
}

static PyObject *h2_data_to_send(H2Object *self, PyObject *unused) {
    (void)unused;
    em_h2_pump(&self->h, 4 * self->h.bounds.queue_bytes);
    buffer *out = &self->h.out;
    PyObject *data = PyBytes_FromStringAndSize(held(out) ? (const char *)first(out) : "", held(out));
    if (data != NULL && held(out)) em_buffer_take(out, held(out));
    return data;
}

/* ---- streams ---- */

static PyObject *h2_open_stream(H2Object *self, PyObject *args) {
    PyObject *fields;
    int end;
    size_t count;
    if (!PyArg_ParseTuple(args, "Op", &fields, &end)) return NULL;
    nghttp2_nv *nva = read_fields(fields, &count);
    if (nva == NULL) return NULL;
    int32_t id = em_h2_request(&self->h, nva, count, end, NULL);
    free(nva);
    if (id < 0) return PyErr_NoMemory();
    return PyLong_FromLong(id);
}

static PyObject *h2_send_fields(H2Object *self, PyObject *args) {
    PyObject *fields;
    int id, end;
    size_t count;
    if (!PyArg_ParseTuple(args, "iOp", &id, &fields, &end)) return NULL;
    stream *s = em_h2_stream(&self->h, id);
    if (s == NULL) Py_RETURN_NONE;   /* the stream was reset meanwhile, and its owner will get the event */
    nghttp2_nv *nva = read_fields(fields, &count);
    if (nva == NULL) return NULL;
    bool ok = s->sent_head ? em_h2_trailers(&self->h, s, nva, count) : em_h2_head(&self->h, id, nva, count, end);
    free(nva);
    em_h2_pump(&self->h, 4 * self->h.bounds.queue_bytes);
    return answer(self, ok);
}

static PyObject *h2_send_data(H2Object *self, PyObject *args) {
    int id, end;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "iy*p", &id, &data, &end)) return NULL;
    stream *s = em_h2_stream(&self->h, id);
    bool ok = s == NULL || em_h2_data(&self->h, s, data.buf, (size_t)data.len, end);
    PyBuffer_Release(&data);
    earn_control(&self->h, 4);
    em_h2_pump(&self->h, 4 * self->h.bounds.queue_bytes);
    return answer(self, ok);
}

static PyObject *h2_has(H2Object *self, PyObject *id) {
    long number = PyLong_AsLong(id);
    if (number == -1 && PyErr_Occurred()) return NULL;
    return PyBool_FromLong(em_h2_stream(&self->h, (int32_t)number) != NULL);
}

static PyObject *h2_window(H2Object *self, PyObject *id) {
    long number = PyLong_AsLong(id);
    if (number == -1 && PyErr_Occurred()) return NULL;
    int32_t all = nghttp2_session_get_remote_window_size(self->h.session);
    stream *s = number ? em_h2_stream(&self->h, (int32_t)number) : NULL;
    if (s == NULL) return PyLong_FromLong(number ? 0 : all);
    long own = nghttp2_session_get_stream_remote_window_size(self->h.session, (int32_t)number) - (long)held(&s->out);
    return PyLong_FromLong(own < all ? own : all);
}

static PyObject *h2_give_back_method(H2Object *self, PyObject *args) {
    int id;
    unsigned size, growth;
    if (!PyArg_ParseTuple(args, "iII", &id, &size, &growth)) return NULL;
    if (size <= INT32_MAX && growth <= INT32_MAX && (id == 0 || em_h2_stream(&self->h, id) != NULL)) {
        em_h2_give_back(&self->h, id, size, growth);
        em_h2_pump(&self->h, 4 * self->h.bounds.queue_bytes);
    }
    Py_RETURN_NONE;
}

static PyObject *h2_drop_method(H2Object *self, PyObject *args) {
    int id;
    unsigned code;
    if (!PyArg_ParseTuple(args, "iI", &id, &code)) return NULL;
    em_h2_drop(&self->h, id, code);
    em_h2_pump(&self->h, 4 * self->h.bounds.queue_bytes);
    Py_RETURN_NONE;
}

static PyObject *h2_go_away_method(H2Object *self, PyObject *unused) {
    (void)unused;
    int32_t last = em_h2_go_away(&self->h);
    em_h2_pump(&self->h, 4 * self->h.bounds.queue_bytes);
    return PyLong_FromLong(last);
}

static PyObject *h2_ping_method(H2Object *self, PyObject *mark) {
    char *data;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(mark, &data, &size) < 0) return NULL;
    if (size != 8) return PyErr_Format(PyExc_ValueError, "a mark has 8 bytes");
    em_h2_ping(&self->h, (const uint8_t *)data);
    em_h2_pump(&self->h, 4 * self->h.bounds.queue_bytes);
    Py_RETURN_NONE;
}

static PyObject *h2_blame_method(H2Object *self, PyObject *now) {
    self->h.now = PyFloat_AsDouble(now);
    if (PyErr_Occurred()) return NULL;
    return PyBool_FromLong(em_h2_blame(&self->h));
}

static PyObject *h2_earn_method(H2Object *self, PyObject *unused) {
    (void)unused;
    earn_reset(&self->h);
    Py_RETURN_NONE;
}

static PyObject *h2_abuse_method(H2Object *self, PyObject *words) {
    const char *text = PyUnicode_AsUTF8(words);
    if (text == NULL) return NULL;
    em_h2_abuse(&self->h, text);
    em_h2_pump(&self->h, 4 * self->h.bounds.queue_bytes);
    Py_RETURN_NONE;
}

static PyObject *get_queued(H2Object *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(held(&self->h.out));
}
static PyObject *get_greeted(H2Object *self, void *closure) { (void)closure; return PyBool_FromLong(self->h.greeted); }
static PyObject *get_streams(H2Object *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(self->h.streams);
}
static PyObject *get_lent(H2Object *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(self->h.streams - self->h.pythons);
}
static PyObject *get_room(H2Object *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(em_h2_room(&self->h));
}
static PyObject *get_next_id(H2Object *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(nghttp2_session_get_next_stream_id(self->h.session));
}
static int set_next_id(H2Object *self, PyObject *value, void *closure) {
    (void)closure;
    long id = value == NULL ? -1 : PyLong_AsLong(value);
    if (id < 0) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no stream number");
        return -1;
    }
    if (nghttp2_session_set_next_stream_id(self->h.session, (int32_t)id) == 0) return 0;
    PyErr_SetString(PyExc_ValueError, "numbers only rise");
    return -1;
}
static PyObject *get_frame_size(H2Object *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(
        nghttp2_session_get_remote_settings(self->h.session, NGHTTP2_SETTINGS_MAX_FRAME_SIZE));
}
static PyObject *get_peer_max(H2Object *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(
        nghttp2_session_get_remote_settings(self->h.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS));
}
static PyObject *get_growth(H2Object *self, void *closure) {
    (void)closure;
    return PyLong_FromUnsignedLong(self->h.growth);
}
static int set_growth(H2Object *self, PyObject *value, void *closure) {
    (void)closure;
    unsigned long size = value == NULL ? 0 : PyLong_AsUnsignedLong(value);
    if (PyErr_Occurred()) return -1;
    self->h.growth = (uint32_t)size;
    return 0;
}
static PyObject *get_violation(H2Object *self, void *closure) {
    (void)closure;
    return PyUnicode_DecodeUTF8(self->h.violation, (Py_ssize_t)strlen(self->h.violation), "replace");
}
static PyObject *get_over(H2Object *self, void *closure) { (void)closure; return PyBool_FromLong(self->h.over); }

static PyMethodDef methods[] = {
    {"feed", (PyCFunction)h2_feed_method, METH_VARARGS,
     "feed(data, now): what the peer sent; look at `over` and `events` then"},
    {"events", (PyCFunction)h2_events, METH_NOARGS, "events() -> list of (what, stream, fields or bytes, code, ended)"},
    {"data_to_send", (PyCFunction)h2_data_to_send, METH_NOARGS, "data_to_send() -> bytes"},
    {"open", (PyCFunction)h2_open_stream, METH_VARARGS, "open(fields, end) -> int: a new stream"},
    {"send_fields", (PyCFunction)h2_send_fields, METH_VARARGS, "send_fields(stream, fields, end): a head, or trailers"},
    {"send_data", (PyCFunction)h2_send_data, METH_VARARGS, "send_data(stream, data, end)"},
    {"has", (PyCFunction)h2_has, METH_O, "has(stream) -> bool: is it open, one way or both"},
    {"window", (PyCFunction)h2_window, METH_O,
     "window(stream) -> int: bytes that the peer takes now; of the connection: 0"},
    {"give_back", (PyCFunction)h2_give_back_method, METH_VARARGS,
     "give_back(stream, size, growth): bytes were taken; of the connection: 0"},
    {"drop", (PyCFunction)h2_drop_method, METH_VARARGS, "drop(stream, code): reset it, if it is not over"},
    {"go_away", (PyCFunction)h2_go_away_method, METH_NOARGS,
     "go_away() -> int: the last stream of the peer that is still taken"},
    {"ping", (PyCFunction)h2_ping_method, METH_O, "ping(mark)"},
    {"blame", (PyCFunction)h2_blame_method, METH_O,
     "blame(now) -> bool: the peer made us work for nothing; false: too often"},
    {"earn", (PyCFunction)h2_earn_method, METH_NOARGS, "earn(): a stream was served to its end"},
    {"abuse", (PyCFunction)h2_abuse_method, METH_O, "abuse(words): end it for that"},
    {0},
};
static PyGetSetDef getset[] = {
    {"queued", (getter)get_queued, NULL, "bytes that wait to be sent", NULL},
    {"greeted", (getter)get_greeted, NULL, "the peer's SETTINGS came", NULL},
    {"streams", (getter)get_streams, NULL, "how many are open", NULL},
    {"lent", (getter)get_lent, NULL, "how many of them are not Python's", NULL},
    {"room", (getter)get_room, NULL, "how many more may be opened", NULL},
    {"next_id", (getter)get_next_id, (setter)set_next_id, "of the next stream that we open", NULL},
    {"frame_size", (getter)get_frame_size, NULL, "of the peer", NULL},
    {"peer_max_streams", (getter)get_peer_max, NULL, "of the peer", NULL},
    {"growth", (getter)get_growth, (setter)set_growth, "left for streams to grow by", NULL},
    {"over", (getter)get_over, NULL, "the peer broke HTTP/2", NULL},
    {"violation", (getter)get_violation, NULL, "what the peer did wrong", NULL},
    {0},
};

PyTypeObject em_H2Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nodeproxy.native._lane.H2",
    .tp_basicsize = sizeof(H2Object),
    .tp_new = h2_new,
    .tp_dealloc = (destructor)h2_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "One HTTP/2 connection, without its socket.",
    .tp_methods = methods,
    .tp_getset = getset,
};

int em_add_h2_type(PyObject *module) {
    return PyModule_AddType(module, &em_OwnerType) == 0 && PyModule_AddType(module, &em_H2Type) == 0 ? 0 : -1;
}
