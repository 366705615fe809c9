/* The outer program of a bundle: a static ELF with the real program behind it, as one zstd frame of all files and an index of their names,
 * sizes and BLAKE2b digests (each start waits for it, and no other sound digest is as quick on CPUs that help with none). It lays them
 * out once, checks every byte of them at every start, and executes the program with the bundle's own loader.
 *
 * It runs as root, so: it uses only a directory that is its own (owner, mode 0700, no symbolic link) below ones that nobody else can rename
 * things in; files are opened relative to that directory, never through links; what differs from the index in any way, or lies there
 * without being in it, is laid out anew beside and exchanged; what is somebody else's is neither used nor touched. It takes nothing from
 * the environment but EDGEMESH_UNPACK, where to lay out first. What it holds is trusted: whoever can change this file needs no launcher.
 * It is not to be setuid, and ends when it is.
 *
 * Nothing is synced to disk: what a power cut tore differs from the index at the next start. Each program that runs holds a shared lock on
 * its tree (a descriptor that it inherits), so that whoever lays out can remove what nobody uses any more: other versions' trees, and what
 * a killed start left half done.
 *
 * At the end of the file: frame, index, struct trailer. An index entry: uint32 size of the name, uint32 mode, uint64 size, 32 bytes of
 * digest, name. Numbers are little-endian, as all families that there are bundles for.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <blake2.h>
#include <zstd.h>

#include "environment.h"

#define MAGIC "edgemsh1"
#define MOST_NAME 1024u
#define MOST_BASE 2048u /* of the path of a directory to lay out in: with the longest name behind it, it is still shorter than PATH_MAX */
#define WINDOW 23       /* bits: build/in-root/pack.py */
#define DIGITS "0123456789abcdef"
#define MOST_NAMES 8 /* of a tree, where others have taken the first ones */

struct trailer {
    uint64_t frame_size, index_size;
    uint8_t digest[32]; /* of the index: names the directory */
    char magic[8];
};

struct entry {
    uint32_t name_size, mode;
    uint64_t size;
    uint8_t digest[32];
};

static const uint8_t *image, *frame, *files;
static struct trailer trailer;
static char why_not[2048]; /* for each directory that was tried */

static _Noreturn void die(const char *what, const char *about) {
    fprintf(stderr, "edgemesh: %s%s%s\n", what, about ? ": " : "", about ? about : "");
    _exit(126);
}

static void not_here(const char *base, const char *reason) {
    size_t used = strlen(why_not);
    snprintf(why_not + used, sizeof why_not - used, "\n  %.200s: %s", base, reason);
}

/* No word of a path that leads elsewhere, or to where another word leads. */
static bool is_plain(const char *name) {
    for (const char *at = name;; at++) {
        size_t size = strcspn(at, "/");
        if (size == 0 || (size == 1 && at[0] == '.') || (size == 2 && at[0] == '.' && at[1] == '.')) return false;
        at += size;
        if (*at == 0) return true;
    }
}

/* One entry and its name. `at` moves on; NULL at the end. */
static const char *next(const uint8_t **at, struct entry *entry) {
    static char name[MOST_NAME + 1];
    const uint8_t *end = files + trailer.index_size;
    if (*at == end) return NULL;
    if ((size_t)(end - *at) < sizeof *entry) die("this file is damaged", "its index ends early");
    memcpy(entry, *at, sizeof *entry);
    *at += sizeof *entry;
    if (entry->name_size == 0 || entry->name_size > MOST_NAME || entry->name_size > (size_t)(end - *at)) die("this file is damaged", "a name in its index");
    memcpy(name, *at, entry->name_size);
    name[entry->name_size] = 0;
    *at += entry->name_size;
    if (strlen(name) != entry->name_size || !is_plain(name)) die("this file is damaged", "a name in its index");
    if (entry->mode != 0600 && entry->mode != 0700) die("this file is damaged", "a mode in its index");
    return name;
}

static void read_self(char *path, size_t size) {
    /* Not by its name: that may lead to another file by now. Without /proc the program behind us could not find itself either. */
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    ssize_t got = readlink("/proc/self/exe", path, size - 1);
    if (got <= 0 && access("/proc/self", F_OK) != 0) die("there is no /proc here, and it needs one", NULL);
    path[got > 0 ? got : 0] = 0;
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) die("cannot read itself", strerror(errno));
    if (st.st_size < (off_t)sizeof trailer) die("this file is damaged", "it is too short");
    size_t whole = (size_t)st.st_size;
    image = mmap(NULL, whole, PROT_READ, MAP_PRIVATE, fd, 0);
    if (image == MAP_FAILED) die("cannot read itself", strerror(errno));
    close(fd);
    memcpy(&trailer, image + whole - sizeof trailer, sizeof trailer);
    size_t before = whole - sizeof trailer;
    if (memcmp(trailer.magic, MAGIC, sizeof trailer.magic) != 0 || trailer.index_size > before || trailer.frame_size > before - trailer.index_size)
        die("this file is damaged", "its end is missing: was it copied whole?");
    files = image + before - trailer.index_size;
    frame = files - trailer.frame_size;
    uint8_t digest[32];
    blake2b(digest, files, NULL, sizeof digest, trailer.index_size, 0);
    if (memcmp(digest, trailer.digest, sizeof digest) != 0) die("this file is damaged", "its index was altered");
    struct entry entry;
    for (const uint8_t *at = files; next(&at, &entry) != NULL;) {} /* so that nothing is begun for a file that cannot be ended */
}

/* Ours alone: whoever else could write here would run what they like, with our rights. */
static bool is_own(int folder) {
    struct stat st;
    return fstat(folder, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 0077) == 0;
}

static int open_own(int base, const char *name) {
    int folder = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0 || is_own(folder)) return folder;
    close(folder);
    errno = EPERM;
    return -1;
}

/* Files below, without following links; -1 where something cannot be read, and where a directory is empty: none of ours is. */
static long count(int folder) {
    long found = 0;
    DIR *dir = fdopendir(folder);
    if (dir == NULL) return close(folder), -1;
    for (struct dirent *one; found >= 0 && (one = readdir(dir)) != NULL;) {
        if (strcmp(one->d_name, ".") == 0 || strcmp(one->d_name, "..") == 0) continue;
        int inner = openat(folder, one->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner < 0) {
            found++;
            continue;
        }
        long more = count(inner);
        found = more <= 0 ? -1 : found + more;
    }
    closedir(dir);
    return found;
}

/* A file of the tree, by directories that are each ours alone, and none of them a link. What is no file must not make us wait. */
static int open_file(int tree, const char *name) {
    char part[MOST_NAME + 1];
    int folder = tree;
    for (const char *slash; folder >= 0 && (slash = strchr(name, '/')) != NULL; name = slash + 1) {
        memcpy(part, name, (size_t)(slash - name));
        part[slash - name] = 0;
        int inner = open_own(folder, part);
        if (folder != tree) close(folder);
        folder = inner;
    }
    if (folder < 0) return -1;
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (folder != tree) close(folder);
    return fd;
}

static bool file_is(int tree, const char *name, const struct entry *entry) {
    int fd = open_file(tree, name);
    struct stat st;
    bool good = false;
    if (fd < 0) return false;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == entry->size && st.st_uid == geteuid() && (st.st_mode & 07777) == entry->mode) {
        static uint8_t block[1 << 18];
        blake2b_state sum;
        uint8_t digest[32];
        blake2b_init(&sum, sizeof digest);
        ssize_t got;
        while ((got = read(fd, block, sizeof block)) > 0) blake2b_update(&sum, block, (size_t)got);
        blake2b_final(&sum, digest, sizeof digest);
        good = got == 0 && memcmp(digest, entry->digest, sizeof digest) == 0;
    }
    close(fd);
    return good;
}

static bool is_whole(int tree) {
    struct entry entry;
    const uint8_t *at = files;
    long known = 0;
    for (const char *name; (name = next(&at, &entry)) != NULL; known++)
        if (!file_is(tree, name, &entry)) return false;
    int again = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return again >= 0 && count(again) == known;
}

static void remove_all(int parent, const char *name) {
    int folder = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0) {
        unlinkat(parent, name, 0);
        return;
    }
    DIR *dir = fdopendir(folder);
    if (dir == NULL) {
        close(folder);
        return;
    }
    for (struct dirent *one; (one = readdir(dir)) != NULL;)
        if (strcmp(one->d_name, ".") != 0 && strcmp(one->d_name, "..") != 0) remove_all(folder, one->d_name);
    closedir(dir);
    unlinkat(parent, name, AT_REMOVEDIR);
}

/* What nobody uses: of our trees, and of those that we began, each that no living process has locked. */
static void sweep(int base) {
    char prefix[32];
    size_t size = (size_t)snprintf(prefix, sizeof prefix, "edgemesh-%u-", geteuid());
    int again = openat(base, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = again >= 0 ? fdopendir(again) : NULL;
    if (dir == NULL) return;
    for (struct dirent *one; (one = readdir(dir)) != NULL;) {
        if (strncmp(one->d_name, prefix, size) != 0 || strspn(one->d_name + size, DIGITS) != 16) continue;
        const char *rest = one->d_name + size + 16;
        if (rest[0] == '-' && rest[1] > '0' && rest[1] < '0' + MOST_NAMES) rest += 2;
        if (*rest != 0 && strncmp(rest, ".new-", 5) != 0) continue;
        int folder = open_own(base, one->d_name);
        if (folder < 0) continue;
        if (flock(folder, LOCK_EX | LOCK_NB) == 0) remove_all(base, one->d_name);
        close(folder);
    }
    closedir(dir);
}

static int create(int folder, const char *name, uint32_t mode) {
    char path[MOST_NAME + 1];
    snprintf(path, sizeof path, "%s", name);
    for (char *slash = path; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = 0;
        if (mkdirat(folder, path, 0700) != 0 && errno != EEXIST) return -1;
        *slash = '/';
    }
    int fd = openat(folder, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0 && fchmod(fd, mode) != 0) return close(fd), -1;
    return fd;
}

enum laid { LAID, FAILED /* errno says why: no room, or it cannot be written */, DAMAGED };

/* The next file's bytes out of the frame, into `fd`. */
static enum laid unpack(ZSTD_DCtx *context, ZSTD_inBuffer *in, int fd, const struct entry *entry) {
    static uint8_t block[1 << 18];
    blake2b_state sum;
    uint8_t digest[32];
    blake2b_init(&sum, sizeof digest);
    for (uint64_t left = entry->size; left > 0;) {
        ZSTD_outBuffer out = {block, left < sizeof block ? (size_t)left : sizeof block, 0};
        size_t got = ZSTD_decompressStream(context, &out, in);
        if (ZSTD_isError(got) || (out.pos == 0 && in->pos == in->size)) return DAMAGED;
        blake2b_update(&sum, block, out.pos);
        for (size_t written = 0; written < out.pos;) {
            ssize_t put = write(fd, block + written, out.pos - written);
            if (put <= 0) return FAILED;
            written += (size_t)put;
        }
        left -= out.pos;
    }
    blake2b_final(&sum, digest, sizeof digest);
    return memcmp(digest, entry->digest, sizeof digest) == 0 ? LAID : DAMAGED;
}

/* All files into an empty directory. */
static enum laid lay_out(int tree) {
    ZSTD_DCtx *context = ZSTD_createDCtx();
    ZSTD_inBuffer in = {frame, trailer.frame_size, 0};
    struct entry entry;
    const uint8_t *at = files;
    if (context == NULL) die("no memory", NULL);
    ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, WINDOW);
    enum laid laid = LAID;
    for (const char *name; laid == LAID && (name = next(&at, &entry)) != NULL;) {
        int fd = create(tree, name, entry.mode);
        laid = fd >= 0 ? unpack(context, &in, fd, &entry) : FAILED;
        int error = errno;
        if (fd >= 0 && close(fd) != 0 && laid == LAID) laid = FAILED;
        else errno = error;
    }
    ZSTD_freeDCtx(context);
    return laid;
}

/* A directory in which only we, or nobody but owners, can rename what is ours, and the way to it: each step of it is root's or ours.
 * `at` is where it is, without links. In a user namespace root's directories are nobody's, so who owns / may own what lies in it. */
static int open_base(const char *base, char *at) {
    struct statvfs fs;
    struct stat st;
    const char *reason = NULL;
    if (realpath(base, at) == NULL) return not_here(base, strerror(errno)), -1;
    /* To the bundle's loader a colon ends a directory, and a dollar begins a name. */
    if (strlen(at) > MOST_BASE || strpbrk(at, ":;$\n") != NULL) return not_here(base, "such a path cannot be used"), -1;
    int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) return not_here("/", strerror(errno)), -1;
    uid_t system = st.st_uid;
    unsigned depth = 0;
    for (char *part = at + 1; reason == NULL && *part != 0; depth++) {
        char *end = strchrnul(part, '/'), was = *end;
        *end = 0;
        int inner = openat(fd, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner < 0 || fstat(inner, &st) != 0) reason = strerror(errno);
        else if (st.st_uid != 0 && st.st_uid != geteuid() && !(depth == 0 && st.st_uid == system)) reason = "it, or one above it, is somebody else's";
        else if ((st.st_mode & 0022) != 0 && (st.st_mode & S_ISVTX) == 0) reason = "others may write to it, or to one above it, and it is not sticky";
        *end = was;
        close(fd);
        fd = inner;
        part = was ? end + 1 : end;
    }
    int found = reason == NULL ? openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (reason == NULL && (found < 0 || fstatvfs(found, &fs) != 0)) reason = strerror(errno);
    if (reason == NULL && (fs.f_flag & ST_NOEXEC) != 0) reason = "it is mounted noexec";
    if (fd >= 0) close(fd);
    if (reason == NULL) return found;
    not_here(base, reason);
    if (found >= 0) close(found);
    return -1;
}

/* The tree of that name, if it is ours and whole. Nobody removes it while we hold it. */
static int hold_whole(int base, const char *name) {
    int tree = open_own(base, name);
    if (tree < 0) return -1;
    /* Where there are no locks nothing is removed. A lock that somebody else has: it is being removed. */
    if ((flock(tree, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK) && is_whole(tree)) return tree;
    close(tree);
    return -1;
}

/* Give what was laid out its name. What has the name is another start's, which was quicker, or is not whole. */
static int put_in_place(int base, const char *fresh, int tree, const char *name) {
    struct stat st;
    if (renameat(base, fresh, base, name) == 0) return tree;
    int error = errno, other = hold_whole(base, name);
    if (other < 0) {
        if (fstatat(base, name, &st, AT_SYMLINK_NOFOLLOW) != 0) error = errno;
        else if (st.st_uid != geteuid()) error = EPERM;
        else error = renameat2(base, fresh, base, name, RENAME_EXCHANGE) != 0 ? errno : 0;
    }
    remove_all(base, fresh); /* after the exchange: what was there */
    if (other < 0 && error == 0) return tree;
    close(tree);
    errno = error;
    return other;
}

/* The tree, laid out; -1 with errno: not here. */
static int make_whole(int base, const char *name) {
    char fresh[96];
    uint64_t chance;
    for (int tries = 0;; tries++) {
        /* Not the process's number: two of the same may share a /tmp. */
        if (getrandom(&chance, sizeof chance, 0) != sizeof chance) return -1;
        snprintf(fresh, sizeof fresh, "%s.new-%016" PRIx64, name, chance);
        if (mkdirat(base, fresh, 0700) != 0) return -1;
        int tree = open_own(base, fresh), error = errno;
        if (tree >= 0 && flock(tree, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
            close(tree);
            tree = -1;
            error = ENOENT;
        }
        if (tree >= 0) {
            enum laid laid = lay_out(tree);
            if (laid == LAID) {
                tree = put_in_place(base, fresh, tree, name);
                if (tree >= 0) return tree;
                error = errno;
            } else {
                error = errno;
                close(tree);
                remove_all(base, fresh);
                if (laid == DAMAGED) die("this file is damaged", "its contents cannot be unpacked");
            }
        }
        /* A start that swept came between the directory and its lock, or between one look and the next. */
        if (error == ENOENT && tries < 8) continue;
        errno = error;
        return -1;
    }
}

/* The whole tree below `base`, laid out if need be: its path, and held. */
static int place(const char *base, char *path, size_t size) {
    static char at[PATH_MAX];
    char name[64];
    struct stat st;
    int folder = open_base(base, at);
    if (folder < 0) return -1;
    /* In /tmp anybody may have taken a name, by malice or since root of a user namespace has our number: the next one then. */
    for (int number = 0; number < MOST_NAMES; number++) {
        int size_now = snprintf(name, sizeof name, "edgemesh-%u-%02x%02x%02x%02x%02x%02x%02x%02x", geteuid(), trailer.digest[0], trailer.digest[1],
                                trailer.digest[2], trailer.digest[3], trailer.digest[4], trailer.digest[5], trailer.digest[6], trailer.digest[7]);
        if (number > 0) snprintf(name + size_now, sizeof name - (size_t)size_now, "-%d", number);
        if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || st.st_uid == geteuid()) break;
    }
    int tree = hold_whole(folder, name);
    if (tree < 0) {
        sweep(folder);
        tree = make_whole(folder, name);
        if (tree < 0) not_here(base, strerror(errno));
    }
    close(folder);
    snprintf(path, size, "%s/%s", at[1] == 0 ? "" : at, name);
    return tree;
}

int main(int argc, char **argv) {
    static char self[PATH_MAX], path[PATH_MAX], loader[PATH_MAX + 16], program[PATH_MAX + 16];
    static const char *const bases[] = {"/var/cache/edgemesh", "/run", "/dev/shm", "/tmp", NULL};
    /* Where they are closed, the next files that are opened would be taken for them. */
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) open("/", O_PATH);
    if (getuid() != geteuid() || getgid() != getegid()) die("this file is not made to be setuid or setgid", NULL);
    mode_t usual = umask(0077);
    read_self(self, sizeof self);
    const char *wished = secure_getenv("EDGEMESH_UNPACK");
    int tree = -1;
    if (wished != NULL && *wished != 0) {
        if (wished[0] == '/') tree = place(wished, path, sizeof path);
        else not_here(wished, "EDGEMESH_UNPACK has to begin with /");
    }
    if (geteuid() == 0 && tree < 0) mkdir(bases[0], 0755); /* on disk, where pages can be dropped; else in memory */
    for (size_t i = 0; tree < 0 && bases[i] != NULL; i++) tree = place(bases[i], path, sizeof path);
    if (tree < 0)
        die("no directory to unpack to: it needs one that is writable, not mounted noexec, and that nobody else can change. "
            "Name one in EDGEMESH_UNPACK. Tried",
            why_not);
    /* The program inherits it, out of the way of descriptors that have numbers by convention. */
    if (fcntl(tree, F_DUPFD, 200) < 0) fcntl(tree, F_DUPFD, 3);
    umask(usual);
    snprintf(loader, sizeof loader, "%s/edgemesh", path); /* the name that `ps` shows */
    snprintf(program, sizeof program, "%s/app", path);
    char **words = calloc((size_t)argc + 8, sizeof *words);
    if (words == NULL) die("no memory", NULL);
    size_t n = 0;
    words[n++] = loader;
    words[n++] = (char *)"--library-path";
    words[n++] = path;
    words[n++] = (char *)"--argv0";
    words[n++] = argc > 0 ? argv[0] : self;
    words[n++] = program;
    for (int i = 1; i < argc; i++) words[n++] = argv[i];
    settle_environment();
    setenv("EDGEMESH_EXE", self, 1);
    execv(loader, words);
    die(loader, strerror(errno));
}
