/* tests/long/preload_fault.c - LD_PRELOAD: one call of a kind goes wrong.
 *
 *   FAULT=KIND:N:COUNTS   the Nth call (from 1; 0: none) since main began
 *     KIND  memory  malloc, calloc, realloc, aligned_alloc give NULL
 *           eio     write, pwrite, fsync, fdatasync, rename, ftruncate on regular files give EIO
 *           short   write, pwrite on regular files write a part
 *     COUNTS  file to which the number of calls is written when the program ends in order ("": none)
 *   FAULT_PROGRAM=NAME    only in the program of that name (argv[0]'s last part); its children are spared
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind { NONE, MEMORY, EIO_CALLS, SHORT };
static enum kind kind;
static atomic_long calls;
static long at;
static int on;
static char counts[4096];

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t count, size_t n);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

/* 1: this is the call. */
static int now(enum kind k) { return on && kind == k && atomic_fetch_add(&calls, 1) + 1 == at; }

static void *none(void) {
    errno = ENOMEM;
    return NULL;
}
void *malloc(size_t n) { return now(MEMORY) ? none() : __libc_malloc(n); }
void *calloc(size_t count, size_t n) { return now(MEMORY) ? none() : __libc_calloc(count, n); }
void *realloc(void *p, size_t n) { return now(MEMORY) ? none() : __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { return now(MEMORY) ? none() : __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) {
    *p = now(MEMORY) ? NULL : __libc_memalign(a, n);
    return *p ? 0 : ENOMEM;
}

static int regular(int fd) {
    struct stat st;
    int e = errno, yes = on && kind != MEMORY && !fstat(fd, &st) && S_ISREG(st.st_mode);
    errno = e;
    return yes;
}
static int failed(void) {
    errno = EIO;
    return -1;
}
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *p, size_t n) {
    if (regular(fd) && now(EIO_CALLS))
        return failed();
    return REAL(write)(fd, p, n > 1 && regular(fd) && now(SHORT) ? n / 2 : n);
}
ssize_t pwrite(int fd, const void *p, size_t n, off_t to) {
    if (regular(fd) && now(EIO_CALLS))
        return failed();
    return REAL(pwrite)(fd, p, n > 1 && regular(fd) && now(SHORT) ? n / 2 : n, to);
}
ssize_t pwrite64(int fd, const void *p, size_t n, off_t to) { return pwrite(fd, p, n, to); }
int fsync(int fd) { return regular(fd) && now(EIO_CALLS) ? failed() : REAL(fsync)(fd); }
int fdatasync(int fd) { return regular(fd) && now(EIO_CALLS) ? failed() : REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t n) {
    return regular(fd) && now(EIO_CALLS) ? failed() : REAL(ftruncate)(fd, n);
}
int ftruncate64(int fd, off_t n) { return ftruncate(fd, n); }
int rename(const char *a, const char *b) { return now(EIO_CALLS) ? failed() : REAL(rename)(a, b); }

static void start(const char *argv0) {
    const char *text = getenv("FAULT"), *only = getenv("FAULT_PROGRAM"),
               *slash = strrchr(argv0, '/');
    char name[16] = "";
    if (!text || (only && strcmp(only, slash ? slash + 1 : argv0)) ||
        sscanf(text, "%15[a-z]:%ld:%4095s", name, &at, counts) < 2)
        return;
    kind = !strcmp(name, "memory") ? MEMORY : !strcmp(name, "eio") ? EIO_CALLS : SHORT;
    REAL(write), REAL(pwrite), REAL(fsync), REAL(rename); /* dlsym may take memory */
    unsetenv("FAULT");
    on = 1;
}

__attribute__((destructor)) static void end(void) {
    if (!on || !*counts)
        return;
    on = 0;
    FILE *f = fopen(counts, "w");
    if (f) {
        fprintf(f, "%ld\n", (long)calls);
        fclose(f);
    }
}

void _exit(int status) {
    end();
    REAL(_exit)(status);
    __builtin_unreachable();
}

static int (*real_main)(int, char **, char **);
static int our_main(int argc, char **argv, char **env) {
    start(argv[0]);
    return real_main(argc, argv, env);
}
int __libc_start_main(int (*m)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *stack_end);
int __libc_start_main(int (*m)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *stack_end) {
    real_main = m;
    return REAL(__libc_start_main)(our_main, argc, argv, init, fini, rtld_fini, stack_end);
}
