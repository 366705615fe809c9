/* The environment that edgemesh starts with, whichever form it has: launcher.c and static.c include this. */
#ifndef EDGEMESH_ENVIRONMENT_H
#define EDGEMESH_ENVIRONMENT_H

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the box tells its own loader, C library and Python is not for the bundle's: its libraries are others, and PYTHONINSPECT would end
 * every command with a traceback. */
static void clean_environment(void) {
    static const char *const theirs[] = {"GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", "EDGEMESH_UNPACK", NULL};
    char name[256];
    for (char **one = environ; one != NULL && *one != NULL;) {
        size_t size = strcspn(*one, "=");
        if ((strncmp(*one, "LD_", 3) == 0 || strncmp(*one, "PYTHON", 6) == 0) && size < sizeof name && (*one)[size] == '=') {
            memcpy(name, *one, size);
            name[size] = 0;
            if (unsetenv(name) == 0) {
                one = environ;
                continue;
            }
        }
        one++;
    }
    for (size_t i = 0; theirs[i] != NULL; i++) unsetenv(theirs[i]);
}

static void settle_environment(void) {
    clean_environment();
    setenv("LC_ALL", "C", 1); /* any other is a file that the box may lack, which would end the program; with it Python speaks UTF-8 */
    setenv("CRYPTOGRAPHY_OPENSSL_NO_LEGACY", "1", 1);
}

#endif
