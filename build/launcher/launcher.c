/* The outer program of a bundle: a static ELF with the real program behind it, as one zstd frame of all files and an index of their names,
 * sizes and BLAKE2b digests (each start waits for it, and no other sound digest is as quick on CPUs that help with none). It lays them
 * out once, checks every byte of them at every start, and executes the program with the bundle's own loader.
 *
 * It runs as root, so: it uses only a directory that is its own (owner, mode 0700, no symbolic link) below one that nobody else can rename
 * things in; files are opened relative to that directory, never through links; what differs from the index in any way, or lies there
 * without being in it, is laid out anew beside and exchanged. It takes nothing from the environment but EDGEMESH_UNPACK, where to lay
 * out first. What it holds is trusted: whoever can change this file needs no launcher.
 *
 * At the end of the file: frame, index, struct trailer. An index entry: uint32 size of the name, uint32 mode, uint64 size, 32 bytes of
 * digest, name. Numbers are little-endian, as all families that there are bundles for.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <locale.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <blake2.h>
#include <zstd.h>

#define MAGIC "edgemsh1"
#define MOST_FILES 4096u
#define MOST_NAME 1024u

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

static _Noreturn void die(const char *what, const char *about) {
    fprintf(stderr, "edgemesh: %s%s%s\n", what, about ? ": " : "", about ? about : "");
    _exit(126);
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
    if (name[0] == '/' || strstr(name, "..") || strlen(name) != entry->name_size) die("this file is damaged", "a name in its index");
    return name;
}

static void read_self(char *path, size_t size) {
    ssize_t got = readlink("/proc/self/exe", path, size - 1);
    if (got > 0) path[got] = 0;
    else snprintf(path, size, "%s", (const char *)getauxval(AT_EXECFN)); /* no /proc */
    int fd = open(path, O_RDONLY | O_CLOEXEC);
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
}

/* Files and directories below, without following links; -1 where something cannot be read. */
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
        found = more < 0 ? -1 : found + more;
    }
    closedir(dir);
    return found;
}

/* Ours alone: whoever else could write here would run what they like, with our rights. */
static bool is_own(int folder) {
    struct stat st;
    return fstat(folder, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 0077) == 0;
}

static bool file_is(int folder, const char *name, const struct entry *entry) {
    int fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
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

static bool is_whole(int folder) {
    struct entry entry;
    const uint8_t *at = files;
    long known = 0;
    for (const char *name; (name = next(&at, &entry)) != NULL; known++)
        if (!file_is(folder, name, &entry)) return false;
    int again = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
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

/* All files into an empty directory. False with errno where there is no room, or it cannot be written. */
static bool lay_out(int folder) {
    static uint8_t block[1 << 18];
    ZSTD_DCtx *context = ZSTD_createDCtx();
    ZSTD_inBuffer in = {frame, trailer.frame_size, 0};
    struct entry entry;
    const uint8_t *at = files;
    bool good = context != NULL;
    for (const char *name; good && (name = next(&at, &entry)) != NULL;) {
        int fd = create(folder, name, entry.mode);
        good = fd >= 0;
        for (uint64_t left = entry.size; good && left > 0;) {
            ZSTD_outBuffer out = {block, left < sizeof block ? (size_t)left : sizeof block, 0};
            size_t got = ZSTD_decompressStream(context, &out, &in);
            if (ZSTD_isError(got) || (out.pos == 0 && in.pos == in.size)) die("this file is damaged", "its contents cannot be unpacked");
            for (size_t written = 0; good && written < out.pos;) {
                ssize_t put = write(fd, block + written, out.pos - written);
                good = put > 0;
                written += good ? (size_t)put : 0;
            }
            left -= out.pos;
        }
        if (fd >= 0 && close(fd) != 0) good = false;
    }
    ZSTD_freeDCtx(context);
    return good;
}

/* A directory in which only we, or nobody but owners, can rename what is ours. */
static int open_base(const char *base) {
    struct statvfs fs;
    struct stat st;
    int fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    bool safe = fstat(fd, &st) == 0 && (st.st_uid == 0 || st.st_uid == geteuid()) && ((st.st_mode & 0022) == 0 || (st.st_mode & S_ISVTX));
    if (safe && fstatvfs(fd, &fs) == 0 && (fs.f_flag & ST_NOEXEC) == 0) return fd;
    close(fd);
    return -1;
}

static int open_own(int base, const char *name) {
    int folder = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder >= 0 && is_own(folder)) return folder;
    if (folder >= 0) close(folder);
    return -1;
}

/* The whole tree below `base`, laid out if need be: its path. False: not here. */
static bool place(const char *base, char *path, size_t size) {
    char name[64], fresh[96];
    int at = open_base(base);
    if (at < 0) return false;
    snprintf(name, sizeof name, "edgemesh-%u-%02x%02x%02x%02x%02x%02x%02x%02x", geteuid(), trailer.digest[0], trailer.digest[1], trailer.digest[2],
             trailer.digest[3], trailer.digest[4], trailer.digest[5], trailer.digest[6], trailer.digest[7]);
    int folder = open_own(at, name);
    bool good = folder >= 0 && is_whole(folder);
    if (folder >= 0) close(folder);
    if (!good) {
        snprintf(fresh, sizeof fresh, "%s.new-%d", name, getpid());
        remove_all(at, fresh);
        if (mkdirat(at, fresh, 0700) != 0) return close(at), false;
        folder = open_own(at, fresh);
        good = folder >= 0 && lay_out(folder) && is_whole(folder);
        if (folder >= 0) close(folder);
        if (good && renameat(at, fresh, at, name) != 0) {
            /* Something is there: another start was quicker, or what is there is not whole. What is not ours cannot be exchanged. */
            folder = open_own(at, name);
            if (folder >= 0 && is_whole(folder)) good = true;
            else good = renameat2(at, fresh, at, name, RENAME_EXCHANGE) == 0;
            if (folder >= 0) close(folder);
        }
        remove_all(at, fresh);
        if (good) {
            folder = open_own(at, name);
            good = folder >= 0;
            if (good) close(folder);
        }
    }
    close(at);
    snprintf(path, size, "%s/%s", base, name);
    return good;
}

int main(int argc, char **argv) {
    static char self[4096], path[4096], loader[4200], program[4200];
    static const char *const bases[] = {"/var/cache/edgemesh", "/run", "/dev/shm", "/tmp", NULL};
    read_self(self, sizeof self);
    const char *wished = secure_getenv("EDGEMESH_UNPACK");
    bool found = wished != NULL && wished[0] == '/' && place(wished, path, sizeof path);
    if (geteuid() == 0 && !found) mkdir(bases[0], 0755); /* on disk, where pages can be dropped; else in memory */
    for (size_t i = 0; !found && bases[i] != NULL; i++) found = place(bases[i], path, sizeof path);
    if (!found)
        die("no directory to unpack to: it needs one that is writable, not mounted noexec, and not writable by others without the sticky bit; "
            "tried /var/cache/edgemesh, /run, /dev/shm, /tmp; name another in EDGEMESH_UNPACK", NULL);
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
    setenv("EDGEMESH_EXE", self, 1);
    /* A locale that is not there would end it. This one is a file, which the barest boxes lack; Python takes text for UTF-8 in "C" too. */
    setenv("LC_ALL", newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0) != (locale_t)0 ? "C.UTF-8" : "C", 1);
    setenv("CRYPTOGRAPHY_OPENSSL_NO_LEGACY", "1", 1);
    unsetenv("LD_LIBRARY_PATH");
    unsetenv("LD_PRELOAD");
    unsetenv("EDGEMESH_UNPACK");
    execv(loader, words);
    die(loader, strerror(errno));
}
