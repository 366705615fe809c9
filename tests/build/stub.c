/* Two programs for test_launcher.py, static, so that they run in an empty root and no variable of the environment changes them.
 *
 * As `jump ROOT UID CLOSED FSIZE VARIABLES NAME=VALUE... PROGRAM WORD...`: go to ROOT, be UID (CLOSED 1: close the three standard
 * descriptors; FSIZE: RLIMIT_FSIZE, 0 for none), and execute PROGRAM with just these variables.
 * As anything else it stands for the bundle's loader: it says how it was started, to standard output and the file $OUT, and with the last
 * word `hold` it stays until its standard input ends. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static int jump(int argc, char **argv) {
    if (argc < 7) return 99;
    int variables = atoi(argv[5]);
    if (chroot(argv[1]) != 0 || chdir("/") != 0) return 99;
    struct rlimit most = {(rlim_t)atol(argv[4]), (rlim_t)atol(argv[4])};
    if (most.rlim_cur != 0 && setrlimit(RLIMIT_FSIZE, &most) != 0) return 99;
    uid_t user = (uid_t)atoi(argv[2]);
    if (user != 0 && (setresgid(user, user, user) != 0 || setresuid(user, user, user) != 0)) return 99;
    if (argv[3][0] == '1')
        for (int fd = 0; fd <= 2; fd++) close(fd);
    char **words = argv + 6 + variables;
    char **given = calloc((size_t)variables + 1, sizeof *given);
    if (given == NULL) return 99;
    memcpy(given, argv + 6, (size_t)variables * sizeof *given);
    execve(words[0], words, given);
    perror(words[0]);
    return 98;
}

static void tell(FILE *out, int argc, char **argv) {
    struct stat st;
    mode_t mask = umask(0);
#ifdef EVIL
    fprintf(out, "evil\n");
#endif
    for (int i = 0; i < argc; i++) fprintf(out, "word %s\n", argv[i]);
    for (char **one = environ; *one != NULL; one++) fprintf(out, "variable %s\n", *one);
    for (int fd = 0; fd < 256; fd++)
        if (fd != fileno(out) && fstat(fd, &st) == 0)
            fprintf(out, "descriptor %d %s\n", fd, S_ISDIR(st.st_mode) ? "directory" : S_ISCHR(st.st_mode) ? "device" : "other");
    fprintf(out, "user %u\numask %04o\n", geteuid(), (unsigned)mask);
    fflush(out);
    umask(mask);
}

int main(int argc, char **argv) {
    char byte;
    const char *name = strrchr(argv[0], '/');
    if (strcmp(name != NULL ? name + 1 : argv[0], "jump") == 0) return jump(argc, argv);
    tell(stdout, argc, argv);
    if (getenv("OUT") != NULL) {
        FILE *out = fopen(getenv("OUT"), "we");
        if (out == NULL) return 97;
        tell(out, argc, argv);
        fclose(out);
    }
    if (strcmp(argv[argc - 1], "hold") == 0)
        while (read(0, &byte, 1) > 0) {}
    return 0;
}
