/* A preloaded library that lets one file operation below a folder fail. `fault_arm` says which, counted from there on
   (of one name, if one is given), and how; `fault_count` how many there were. All others pass untouched. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define KILL -1 /* in place of an error number: SIGKILL before the operation */
#define TORN -2 /* half of what is written reaches the file, then SIGKILL */

static char folder[4096];
static char only[32];
static int count, at, fault;
static char below[65536]; /* by descriptor */

void fault_arm(const char *root, const char *name, int number, int how) {
    strncpy(folder, root, sizeof folder - 1);
    strncpy(only, name, sizeof only - 1);
    count = 0, at = number, fault = how;
}
int fault_count(void) { return count; }

static int is_below(const char *path) { return *folder && path && !strncmp(path, folder, strlen(folder)); }
static int is_known(int fd) { return fd >= 0 && fd < (int)sizeof below && below[fd]; }

/* Whether the operation fails; a kill does not return. */
static int fails(const char *name) {
    if ((*only && strcmp(only, name)) || ++count != at) return 0;
    if (fault == KILL || (fault == TORN && strcmp(name, "write"))) kill(getpid(), SIGKILL);
    if (fault == TORN) return 1;
    errno = fault;
    return 1;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define ON_PATH(name, path) if (is_below(path) && fails(#name)) return -1
#define ON_FILE(name, fd) if (is_known(fd) && fails(#name)) return -1

static int opened(int fd, int known) {
    if (fd >= 0 && fd < (int)sizeof below) below[fd] = known;
    return fd;
}

#define OPEN(name)                                                                                                   \
    int name(const char *path, int flags, ...) {                                                                     \
        REAL(name);                                                                                                  \
        va_list rest;                                                                                                \
        va_start(rest, flags);                                                                                       \
        mode_t mode = va_arg(rest, mode_t);                                                                          \
        va_end(rest);                                                                                                \
        ON_PATH(open, path);                                                                                         \
        return opened(real(path, flags, mode), is_below(path));                                                      \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(close);
    int known = is_known(fd);
    opened(fd, 0);
    int result = real(fd);
    if (known && fails("close")) return -1; /* the kernel has let go of it all the same */
    return result;
}
ssize_t read(int fd, void *to, size_t n) { REAL(read); ON_FILE(read, fd); return real(fd, to, n); }
ssize_t write(int fd, const void *from, size_t n) {
    REAL(write);
    if (is_known(fd) && fails("write")) {
        if (fault != TORN) return -1;
        real(fd, from, n / 2);
        kill(getpid(), SIGKILL);
    }
    return real(fd, from, n);
}
int fsync(int fd) { REAL(fsync); ON_FILE(fsync, fd); return real(fd); }
int flock(int fd, int operation) { REAL(flock); ON_FILE(flock, fd); return real(fd, operation); }
int ftruncate(int fd, off_t n) { REAL(ftruncate); ON_FILE(ftruncate, fd); return real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); ON_FILE(ftruncate, fd); return real(fd, n); }
int fstat(int fd, struct stat *s) { REAL(fstat); ON_FILE(stat, fd); return real(fd, s); }
int fstat64(int fd, struct stat64 *s) { REAL(fstat64); ON_FILE(stat, fd); return real(fd, s); }
int stat(const char *path, struct stat *s) { REAL(stat); ON_PATH(stat, path); return real(path, s); }
int stat64(const char *path, struct stat64 *s) { REAL(stat64); ON_PATH(stat, path); return real(path, s); }
int lstat(const char *path, struct stat *s) { REAL(lstat); ON_PATH(stat, path); return real(path, s); }
int lstat64(const char *path, struct stat64 *s) { REAL(lstat64); ON_PATH(stat, path); return real(path, s); }
int fstatat(int fd, const char *path, struct stat *s, int flags) {
    REAL(fstatat);
    ON_PATH(stat, path);
    return real(fd, path, s, flags);
}
int fstatat64(int fd, const char *path, struct stat64 *s, int flags) {
    REAL(fstatat64);
    ON_PATH(stat, path);
    return real(fd, path, s, flags);
}
DIR *opendir(const char *path) {
    REAL(opendir);
    if (is_below(path) && fails("opendir")) return NULL;
    return real(path);
}
int mkdir(const char *path, mode_t mode) { REAL(mkdir); ON_PATH(mkdir, path); return real(path, mode); }
int unlink(const char *path) { REAL(unlink); ON_PATH(unlink, path); return real(path); }
int rmdir(const char *path) { REAL(rmdir); ON_PATH(rmdir, path); return real(path); }
int rename(const char *from, const char *to) { REAL(rename); ON_PATH(rename, from); return real(from, to); }
