/* What the static form has beside Python and its modules: the table of the modules that are linked in, and answers to those who ask for shared libraries.
 *
 * Nothing is ever loaded into it. A static C library would load name services and character sets of the box's own, made for another version
 * of itself; here it finds none, and resolves names by files and DNS, which it has within.
 */
#include <dlfcn.h>
#include <malloc.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <Python.h>

#include "environment.h"

#define MODULE(name, function) extern PyObject *function(void);
#include "modules.h" /* build/in-root/static.py writes it */
#undef MODULE
extern PyObject *PyMarshal_Init(void), *PyInit__imp(void), *PyInit_gc(void), *PyInit__ast(void), *PyInit__tokenize(void), *PyInit__contextvars(void),
    *_PyWarnings_Init(void), *PyInit__string(void);

struct _inittab _PyImport_Inittab[] = {
#define MODULE(name, function) {name, function},
#include "modules.h"
#undef MODULE
    {"marshal", PyMarshal_Init},
    {"_imp", PyInit__imp},
    {"_ast", PyInit__ast},
    {"_tokenize", PyInit__tokenize},
    {"_contextvars", PyInit__contextvars},
    {"_string", PyInit__string},
    {"builtins", NULL},
    {"sys", NULL},
    {"gc", PyInit_gc},
    {"_warnings", _PyWarnings_Init},
    {NULL, NULL},
};

/* ctypes.CDLL(None), or with the name of a C library of the box's, is the program itself, and these are what our Python, and pyroute2.netns, call in it. */
static const struct {
    const char *name;
    void *function;
} functions[] = {
#define FUNCTION(name) {#name, (void *)name}
    FUNCTION(inotify_add_watch), FUNCTION(inotify_init1), FUNCTION(inotify_rm_watch), FUNCTION(madvise),
    FUNCTION(mallopt),           FUNCTION(malloc_trim),   FUNCTION(mount),            FUNCTION(prctl),
    FUNCTION(setns),             FUNCTION(syscall),       FUNCTION(umount2),          FUNCTION(unshare),
};
static char self;
static _Thread_local const char *fault;

void *dlopen(const char *file, int mode) {
    (void)mode;
    const char *name = file == NULL ? NULL : strrchr(file, '/');
    name = name == NULL ? file : name + 1;
    if (name == NULL || strncmp(name, "libc.", 5) == 0) return &self;
    fault = "this program loads no shared libraries";
    return NULL;
}

void *dlsym(void *restrict handle, const char *restrict name) {
    (void)handle;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strcmp(name, functions[i].name) == 0) return functions[i].function;
    fault = "this program has no such function: build/launcher/static.c";
    return NULL;
}

char *dlerror(void) {
    const char *said = fault;
    fault = NULL;
    return (char *)said;
}

int dlclose(void *handle) {
    (void)handle;
    return 0;
}

/* The C library's own. */
void *__libc_dlopen_mode(const char *name, int mode);
void *__libc_dlopen_mode(const char *name, int mode) {
    (void)name, (void)mode;
    return NULL;
}

void *__libc_dlsym(void *map, const char *name);
void *__libc_dlsym(void *map, const char *name) {
    (void)map, (void)name;
    return NULL;
}

void *__libc_dlvsym(void *map, const char *name, const char *version);
void *__libc_dlvsym(void *map, const char *name, const char *version) {
    (void)map, (void)name, (void)version;
    return NULL;
}

int __libc_dlclose(void *map);
int __libc_dlclose(void *map) {
    (void)map;
    return 0;
}

/* Before anything that wants /proc/self/exe and would only say "Aborted". */
static void __attribute__((constructor)) settle(void) {
    static const char told[] = "edgemesh: there is no /proc here, and it needs one: mount -t proc proc /proc\n";
    if (access("/proc/self", F_OK) != 0) {
        ssize_t written = write(STDERR_FILENO, told, sizeof told - 1);
        (void)written;
        _exit(1);
    }
    settle_environment();
}
