/* Stands between a process and its disk, by LD_PRELOAD: the N-th call of a kind on a path fails as told.

   pfmap_fail("write", 28, "/out/", 3) has the third write from now to anything whose path contains /out/ fail
   with errno 28, and all after it, or that one alone with "write once"; pfmap_hits() says how many calls matched.
   pfmap_shift(seconds) moves the clock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char kind[16], part[512];
static int failure, from_call, once;
static atomic_int calls;
static time_t shift;

void pfmap_fail(const char *call, int number, const char *path, int nth) {
    kind[0] = 0;
    strncpy(part, path, sizeof part - 1);
    failure = number, from_call = nth, calls = 0;
    char *end = strstr(strncpy(kind, call, sizeof kind - 1), " once");
    if ((once = !!end)) *end = 0;
}
int pfmap_hits(void) { return calls; }
void pfmap_shift(long seconds) { shift = seconds; }

static int fails(const char *call, const char *path) {
    if (!kind[0] || strcmp(call, kind) || !path || !strstr(path, part)) return 0;
    int call_number = ++calls;
    if (call_number < from_call || (once && call_number > from_call)) return 0;
    errno = failure;
    return 1;
}

static int fails_at(const char *call, int fd) {
    char name[64], path[4096];
    if (!kind[0] || strcmp(call, kind)) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(name, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return fails(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define THROUGH(type, name, call, fd, arguments, ...) \
    type name(__VA_ARGS__) { return fails_at(call, fd) ? -1 : REAL(name) arguments; }

THROUGH(ssize_t, read, "read", fd, (fd, data, size), int fd, void *data, size_t size)
THROUGH(ssize_t, pread, "read", fd, (fd, data, size, at), int fd, void *data, size_t size, off_t at)
THROUGH(ssize_t, pread64, "read", fd, (fd, data, size, at), int fd, void *data, size_t size, off64_t at)
THROUGH(ssize_t, write, "write", fd, (fd, data, size), int fd, const void *data, size_t size)
THROUGH(ssize_t, pwrite, "write", fd, (fd, data, size, at), int fd, const void *data, size_t size, off_t at)
THROUGH(ssize_t, pwrite64, "write", fd, (fd, data, size, at), int fd, const void *data, size_t size, off64_t at)
THROUGH(ssize_t, writev, "write", fd, (fd, parts, count), int fd, const struct iovec *parts, int count)
THROUGH(int, fsync, "fsync", fd, (fd), int fd)
THROUGH(int, fdatasync, "fsync", fd, (fd), int fd)

size_t fread(void *data, size_t size, size_t count, FILE *file) {
    return fails_at("read", fileno(file)) ? 0 : REAL(fread)(data, size, count, file);
}
size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
    return fails_at("write", fileno(file)) ? 0 : REAL(fwrite)(data, size, count, file);
}

/* What NFS could not write it says at the end: the file is closed, and not whole. */
int close(int fd) {
    struct stat about;
    int bad = kind[0] == 'c' && !fstat(fd, &about) && S_ISREG(about.st_mode) && fails_at("close", fd), done = REAL(close)(fd);
    if (bad) errno = failure;
    return bad ? -1 : done;
}
int fclose(FILE *file) {
    int bad = fails_at("close", fileno(file)), done = REAL(fclose)(file);
    if (bad) errno = failure;
    return bad ? EOF : done;
}

int rename(const char *old, const char *new) { return fails("rename", old) ? -1 : REAL(rename)(old, new); }
int renameat(int a, const char *old, int b, const char *new) {
    return fails("rename", old) ? -1 : REAL(renameat)(a, old, b, new);
}
int mkdir(const char *path, mode_t mode) { return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode); }
int unlink(const char *path) { return fails("unlink", path) ? -1 : REAL(unlink)(path); }

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        return fails("open", path) ? -1 : REAL(name)(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)
FILE *fopen(const char *path, const char *mode) { return fails("open", path) ? NULL : REAL(fopen)(path, mode); }
FILE *fopen64(const char *path, const char *mode) { return fails("open", path) ? NULL : REAL(fopen64)(path, mode); }

int clock_gettime(clockid_t which, struct timespec *now) {
    int done = REAL(clock_gettime)(which, now);
    if (which == CLOCK_REALTIME) now->tv_sec += shift;
    return done;
}
time_t time(time_t *at) {
    time_t now = REAL(time)(NULL) + shift;
    if (at) *at = now;
    return now;
}
