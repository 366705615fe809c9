/* The Python object that holds the lane; every other object that belongs to a lane keeps it alive.
 *
 * Threads. A lane belongs to the thread that made it: only that thread calls its methods and those of its objects.
 * During a turn that thread works without the GIL (`turning`), and the garbage collector may find one of these objects
 * dead in another thread. The collector must not touch the lane's data there. Such an object is put off, and its owner
 * frees it when the turn is over.
 */
#ifndef EDGEMESH_LANE_OBJECT_H
#define EDGEMESH_LANE_OBJECT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdlib.h>

#include "lane.h"

typedef struct {
    PyObject_HEAD
    lane l;
    row **rows;              /* counts, by their number */
    Py_ssize_t row_count;
    pthread_t owner;
    bool turning;
    PyObject *later;         /* list of objects that were put off */
} LaneObject;

/* Return the lane, for a method. With AddressSanitizer, check that this is its owner's thread and that no turn is in
 * progress. */
static inline lane *lane_of(LaneObject *self) {
#ifdef __SANITIZE_ADDRESS__
    if (self->turning || !pthread_equal(self->owner, pthread_self())) {
        fprintf(stderr, "the lane is used by another thread\n");
        abort();
    }
#endif
    return &self->l;
}

/* First members of each object that belongs to a lane. */
typedef struct { PyObject_HEAD LaneObject *lane; } OfLane;

/* Its tp_finalize: an object that may not be freed now lives on. Its tp_dealloc begins with `put_off`. */
void em_finalize_of_lane(PyObject *dead);
static inline bool put_off(void *dead) { return PyObject_CallFinalizerFromDealloc(dead) < 0; }

static inline uint64_t micros(double seconds) { return seconds <= 0 ? 0 : (uint64_t)(seconds * 1e6); }

static inline PyObject *bytes_of(const buffer *b) {
    return PyBytes_FromStringAndSize(held(b) ? (const char *)first(b) : "", held(b));
}
#endif
