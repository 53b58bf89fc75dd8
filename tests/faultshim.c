/* A disk that can be watched and can fail: preloaded into an agent (LD_PRELOAD), it stands between the store and the kernel.

   Of every call that changes a file whose path begins with FAULTSHIM_FILES, and of everything that leaves on a socket, it appends a record to
   FAULTSHIM_LOG: when the call began and ended, and its bytes. From that a test knows what was on the disk when, and what a loss of
   power would have left. What FAULTSHIM_CONTROL says fails. It knows nothing of SQLite or AMQP.

   cc -shared -fPIC -O1 -o faultshim.so faultshim.c -ldl -lpthread */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { SYNC = 1, WRITE = 2, TRUNCATE = 4, UNLINK = 8, SEND = 16 };

/* Shared with the test, which writes it. Calls of the `kinds` fail with `error`, after `skip` more have passed, `times` times (-1: always). */
struct control { int64_t kinds, error, skip, times, failed; };

/* Before the name and the bytes of each record. */
struct record { int64_t begin, end, offset, result; uint32_t kind, name, data, pad; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *files;
static int logged = -1;
static struct control none, *control = &none;

__attribute__((constructor)) static void start(void) {
    const char *log = getenv("FAULTSHIM_LOG"), *said = getenv("FAULTSHIM_CONTROL");
    files = getenv("FAULTSHIM_FILES");
    if (log)
        logged = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (said) {
        int file = (int)syscall(SYS_openat, AT_FDCWD, said, O_RDWR | O_CLOEXEC, 0);
        void *shared = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (shared != MAP_FAILED)
            control = shared;
    }
}

static int64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* The path of a watched file, or "" of a socket; NULL for what is nobody's business. */
static const char *watched(int fd, char *path) {
    char link[32];
    ssize_t size;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, PATH_MAX - 1);
    if (size <= 0 || !files)
        return NULL;
    path[size] = 0;
    if (!strncmp(path, "socket:", 7))
        return "";
    return strncmp(path, files, strlen(files)) ? NULL : path;
}

static int fails(enum kind kind) {
    int yes = 0;
    pthread_mutex_lock(&lock);
    if ((control->kinds & kind) && control->times) {
        if (control->skip > 0) {
            control->skip--;
        } else {
            if (control->times > 0)
                control->times--;
            control->failed++;
            yes = 1;
        }
    }
    pthread_mutex_unlock(&lock);
    if (yes)
        errno = (int)control->error;
    return yes;
}

static void note(enum kind kind, const char *name, int64_t begin, int64_t offset, int64_t result, const void *data, size_t size) {
    int kept = errno;
    struct record record = {begin, now(), offset, result, kind, (uint32_t)strlen(name), (uint32_t)size, 0};
    struct iovec parts[] = {{&record, sizeof record}, {(void *)name, record.name}, {(void *)data, size}};
    pthread_mutex_lock(&lock);
    if (logged >= 0)
        syscall(SYS_writev, logged, parts, 3);
    pthread_mutex_unlock(&lock);
    errno = kept;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static ssize_t written(int fd, const void *data, size_t size, int64_t offset, ssize_t (*put)(int, const void *, size_t, int64_t)) {
    char path[PATH_MAX];
    const char *name = watched(fd, path);
    int64_t begin = now();
    ssize_t result;
    if (!name)
        return put(fd, data, size, offset);
    if (*name && fails(WRITE)) {
        note(WRITE, name, begin, offset, -1, NULL, 0);
        return -1;
    }
    result = put(fd, data, size, offset);
    note(*name ? WRITE : SEND, name, begin, offset, result, data, result > 0 ? (size_t)result : 0);
    return result;
}

static ssize_t plain(int fd, const void *data, size_t size, int64_t offset) { (void)offset; REAL(ssize_t, write, int, const void *, size_t); return real(fd, data, size); }
static ssize_t placed(int fd, const void *data, size_t size, int64_t offset) { REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t); return real(fd, data, size, offset); }

ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, -1, plain); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset, placed); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return written(fd, data, size, offset, placed); }

ssize_t send(int fd, const void *data, size_t size, int flags) {
    REAL(ssize_t, send, int, const void *, size_t, int);
    int64_t begin = now();
    ssize_t result = real(fd, data, size, flags);
    note(SEND, "", begin, -1, result, data, result > 0 ? (size_t)result : 0);
    return result;
}

static void scattered(int64_t begin, const struct iovec *parts, size_t count, ssize_t result) {
    for (size_t place = 0; place < count && result > 0; place++) {
        size_t size = parts[place].iov_len < (size_t)result ? parts[place].iov_len : (size_t)result;
        note(SEND, "", begin, -1, (int64_t)size, parts[place].iov_base, size);
        result -= (ssize_t)size;
    }
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(ssize_t, sendmsg, int, const struct msghdr *, int);
    int64_t begin = now();
    ssize_t result = real(fd, message, flags);
    scattered(begin, message->msg_iov, message->msg_iovlen, result);
    return result;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    char path[PATH_MAX];
    const char *name = watched(fd, path);
    int64_t begin = now();
    ssize_t result = real(fd, parts, count);
    if (name && !*name)
        scattered(begin, parts, (size_t)count, result);
    return result;
}

static int synced(int fd, int (*put)(int)) {
    char path[PATH_MAX];
    const char *name = watched(fd, path);
    int64_t begin = now();
    int result;
    if (!name || !*name)
        return put(fd);
    result = fails(SYNC) ? -1 : put(fd);
    note(SYNC, name, begin, -1, result, NULL, 0);
    return result;
}

static int all(int fd) { REAL(int, fsync, int); return real(fd); }
static int only_data(int fd) { REAL(int, fdatasync, int); return real(fd); }
int fsync(int fd) { return synced(fd, all); }
int fdatasync(int fd) { return synced(fd, only_data); }

static int cut(int fd, off64_t size) {
    REAL(int, ftruncate64, int, off64_t);
    char path[PATH_MAX];
    const char *name = watched(fd, path);
    int64_t begin = now();
    int result;
    if (!name || !*name)
        return real(fd, size);
    result = fails(TRUNCATE) ? -1 : real(fd, size);
    note(TRUNCATE, name, begin, size, result, NULL, 0);
    return result;
}
int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off64_t size) { return cut(fd, size); }

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    int64_t begin = now();
    int result = real(path);
    if (files && !strncmp(path, files, strlen(files)))
        note(UNLINK, path, begin, -1, result, NULL, 0);
    return result;
}
