/* nodeproxy.native._lane: its types and its constants. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "caller.h"
#include "caller_type.h"
#include "flow_type.h"
#include "h2_type.h"
#include "lane_type.h"
#include "link_type.h"
#include "records.h"
#include "relay_type.h"
#include "tls_type.h"
#include "tunnel.h"
#include "tunnel_type.h"

/* Constants of the interface to Python, which takes their values from here. */
static const struct {
    const char *name;
    long value;
} NUMBERS[] = {
    /* how a caller left: caller.h */
    {"REQUEST", UP_REQUEST},
    {"END", UP_END},
    {"FAILED", UP_FAILED},
    {"RESPONSE", UP_RESPONSE},
    /* what a turn has left to do: lane.h */
    {"SILENT", TURN_SILENT},
    {"QUIET", STAY_QUIET},
    {"CALL", STAY_CALL},
    /* how a relay or a tunnel ended: relay.h, tunnel.h */
    {"DONE", RELAY_DONE},
    {"LEFT_BROKEN", LEFT_BROKEN},
    {"RIGHT_BROKEN", RIGHT_BROKEN},
    {"IDLE", RELAY_IDLE},
    {"STREAM_RESET", STREAM_RESET},
    {"STREAM_WRONG", STREAM_WRONG},
    {"STREAM_SHUT", STREAM_SHUT},
    {"STREAM_LOST", STREAM_LOST},
    /* what the peer of an HTTP/2 connection did: h2.h */
    {"H2_REQUESTED", H2_REQUESTED},
    {"H2_RESPONDED", H2_RESPONDED},
    {"H2_TRAILED", H2_TRAILED},
    {"H2_ARRIVED", H2_ARRIVED},
    {"H2_ENDED", H2_ENDED},
    {"H2_RESET", H2_RESET},
    {"H2_WINDOW", H2_WINDOW},
    {"H2_GREETED", H2_GREETED},
    {"H2_ANSWERED", H2_ANSWERED},
    {"H2_LEFT", H2_LEFT},
    {"H2_TAKEN", H2_TAKEN},
    {"H2_CUT", H2_CUT},
    /* state of a TLS handshake: tls.h */
    {"SECURED_DONE", SECURED_DONE},
    {"SECURED_READS", SECURED_READS},
    {"SECURED_WRITES", SECURED_WRITES},
    {"SECURED_FAILED", SECURED_FAILED},
    {"SECURED_UNTRUSTED", SECURED_UNTRUSTED},
    {"ID_SIZE", ID_SIZE},   /* of a refusal's id: flow.h */
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "nodeproxy.native._lane", .m_doc = "The native lane.", .m_size = -1,
};

PyMODINIT_FUNC PyInit__lane(void) {
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    bool ok = em_add_records(made) == 0 && em_add_lane_type(made) == 0 && em_add_flow_types(made) == 0 &&
              em_add_caller_type(made) == 0 && em_add_relay_type(made) == 0 && em_add_h2_type(made) == 0 &&
              em_add_link_type(made) == 0 && em_add_tunnel_type(made) == 0 && em_add_tls_types(made) == 0;
    for (size_t i = 0; ok && i < sizeof NUMBERS / sizeof *NUMBERS; i++)
        ok = PyModule_AddIntConstant(made, NUMBERS[i].name, NUMBERS[i].value) == 0;
    if (!ok) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
