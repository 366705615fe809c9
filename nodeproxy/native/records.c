/* Struct sequences: see records.h. Their fields are described here and typed in _lane.pyi; a test compares the two. */
#include "records.h"

#include <stdbool.h>

PyTypeObject em_GivenType, em_PassedType, em_RefusalType, em_ServedType, em_CountedType, em_UnderWayType, em_FactsType;

static PyStructSequence_Field given[] = {
    {"caller", "number of the connection"},
    {"what", "REQUEST, END, FAILED or RESPONSE"},
    {"flag", "of a failure, or empty"},
    {"detail", "of a failure, in words"},
    {"server", "number of the server that is given back; 0: none"},
    {"target", "serial of the target of the request under way; 0: none"},
    {"data", "bytes of the caller"},
    {"rest", "bytes of the server"},
    {"begun", "the response has begun"},
    {"status", "of the response"},
    {"began", "CLOCK_MONOTONIC, seconds; 0: no request was under way"},
    {"bytes_in", "of the request under way"},
    {"bytes_out", "of the response under way"},
    {"total_in", "of all requests before"},
    {"total_out", "of all responses before"},
    {"guest", "of a stream: who calls; 0: it is a connection"},
    {"link", "of a stream: its connection"},
    {"stream", "of a stream: its number"},
    {"back", "number of the stream that was asked; 0: none"},
    {"back_link", "of which connection"},
    {"asked_all", "the whole request was sent there"},
    {0},
};
static PyStructSequence_Field passed[] = {
    {"number", "of the relay or tunnel"},
    {"what", "DONE, LEFT_BROKEN, RIGHT_BROKEN, IDLE or STREAM_..."},
    {"left_to_right", "bytes"},
    {"right_to_left", "bytes"},
    {"error", "errno of the socket that broke, or the code with which the stream was reset"},
    {0},
};
static PyStructSequence_Field refusal[] = {
    {"caller", "number of the connection"},
    {"target", "serial of the target"},
    {"denial", "number of the answer"},
    {"bytes_in", "of the request"},
    {"bytes_out", "of the answer"},
    {"id", "of this refusal"},
    {"line", "the request line, and after LF the Host"},
    {0},
};
static PyStructSequence_Field served[] = {
    {"caller", "number of the connection"},
    {"target", "serial of the target"},
    {"micros", "microseconds that it took"},
    {"bytes_in", "of the request"},
    {"bytes_out", "of the response"},
    {"status", "of the response"},
    {"line", "the request line, and after LF the Host"},
    {"guest", "of a stream: who calls; 0: it is a connection"},
    {0},
};
static PyStructSequence_Field counted[] = {
    {"row", "number of the pair of workloads"},
    {"answered", "requests, by the first digit of the status"},
    {"buckets", "requests, by duration"},
    {"seconds", "durations, in all"},
    {"bytes_in", "of requests"},
    {"bytes_out", "of responses"},
    {0},
};
static PyStructSequence_Field under_way[] = {
    {"caller", "number of the connection"},
    {"target", "serial of the target"},
    {"head", "of the request"},
    {"guest", "of a stream: who calls; 0: it is a connection"},
    {0},
};
static PyStructSequence_Field facts[] = {
    {"uris", "of the subject's alternative names"},
    {"units", "of the subject: OU"},
    {"names", "of the subject: CN"},
    {"not_before", "seconds since 1970"},
    {"not_after", "seconds since 1970"},
    {"serial", "hexadecimal"},
    {0},
};

static const struct { PyTypeObject *type; PyStructSequence_Desc desc;
} RECORDS[] = {
#define RECORD(type, name, doc, fields)                                                                                \
    {&(type), {"nodeproxy.native._lane." name, doc, fields, sizeof(fields) / sizeof *(fields) - 1}}
    RECORD(em_GivenType, "Given", "What came back of a caller that has left the lane.", given),
    RECORD(em_PassedType, "Passed", "How a relay or a tunnel ended.", passed),
    RECORD(em_RefusalType, "Refusal", "A request that was refused.", refusal),
    RECORD(em_ServedType, "Served", "A request that is over.", served),
    RECORD(em_CountedType, "Counted", "What was counted for one pair of workloads since the last time.", counted),
    RECORD(em_UnderWayType, "UnderWay", "A call that is under way.", under_way),
    RECORD(em_FactsType, "Facts", "What a verified certificate says.", facts),
#undef RECORD
};

PyObject *em_record(PyTypeObject *type, PyObject *const *items, Py_ssize_t count) {
    PyObject *made = PyStructSequence_New(type);
    bool ok = made != NULL;
    for (Py_ssize_t i = 0; i < count; i++) ok = ok && items[i] != NULL;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (ok) PyStructSequence_SetItem(made, i, items[i]);
        else Py_XDECREF(items[i]);
    }
    if (!ok) Py_CLEAR(made);
    return made;
}

int em_add_records(PyObject *module) {
    for (size_t i = 0; i < sizeof RECORDS / sizeof *RECORDS; i++) {
        PyStructSequence_Desc desc = RECORDS[i].desc;
        if (PyStructSequence_InitType2(RECORDS[i].type, &desc) < 0 || PyModule_AddType(module, RECORDS[i].type) < 0)
            return -1;
    }
    return 0;
}
