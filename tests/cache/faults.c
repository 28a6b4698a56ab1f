/* Loaded before the C library: kills the process before the n-th call that changes the cache's directory (LLEM_FAULT_KILL=n; after
 * LLEM_FAULT_DIR is what counts, with LLEM_FAULT_PATHS=1 only calls that name a path there), or refuses locks as some network file
 * systems do (LLEM_FAULT_NOLOCK=1). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_int calls;

static void count(void) {
    const char *limit = getenv("LLEM_FAULT_KILL");
    if (limit && atomic_fetch_add(&calls, 1) + 1 == atoi(limit)) kill(getpid(), SIGKILL);
}

static void count_file(void) { if (!getenv("LLEM_FAULT_PATHS")) count(); }

static void count_path(const char *path) {
    const char *dir = getenv("LLEM_FAULT_DIR");
    if (dir && path && strncmp(path, dir, strlen(dir)) == 0) count();
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int flock(int fd, int operation);
int flock(int fd, int operation) {
    if (getenv("LLEM_FAULT_NOLOCK")) { errno = EOPNOTSUPP; return -1; }
    return NEXT(flock)(fd, operation);
}

int rename(const char *from, const char *to) { count_path(to); return NEXT(rename)(from, to); }
int mkdir(const char *path, mode_t mode) { count_path(path); return NEXT(mkdir)(path, mode); }
int unlink(const char *path) { count_path(path); return NEXT(unlink)(path); }
int rmdir(const char *path) { count_path(path); return NEXT(rmdir)(path); }
int chmod(const char *path, mode_t mode) { count_path(path); return NEXT(chmod)(path, mode); }
int fsync(int fd) { count_file(); return NEXT(fsync)(fd); }
int fchmod(int fd, mode_t mode) { count_file(); return NEXT(fchmod)(fd, mode); }
int unlinkat(int fd, const char *path, int flags) { count_file(); return NEXT(unlinkat)(fd, path, flags); }

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = va_arg(arguments, mode_t);
    va_end(arguments);
    if (flags & O_CREAT) count_path(path);
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64"))(path, flags, mode);
}
