#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int exit_status = 1;

void ds_memory_status(int status) { exit_status = status; }

/* Nothing that may allocate, and no handlers of libraries. */
void ds_out_of_memory(size_t n) {
    char text[80];
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    int never = pages > 0 && size > 0 && n / (size_t)size >= (size_t)pages;
    int len = n ? snprintf(text, sizeof text, "out of memory: cannot get %zu bytes\n", n)
                : snprintf(text, sizeof text, "out of memory\n"); /* a library knows how much */
    ssize_t said = write(STDERR_FILENO, text, (size_t)len);       /* or not: nothing can be done */
    _exit(never || said < -1 ? 1 : exit_status);
}

static void *check(void *p, size_t n) {
    if (!p)
        ds_out_of_memory(n);
    return p;
}

void *ds_need(void *p) { return check(p, 0); }

void *ds_xmalloc(size_t n) { return check(malloc(n ? n : 1), n); }
void *ds_xcalloc(size_t count, size_t n) {
    size_t all;
    if (__builtin_mul_overflow(count, n, &all))
        all = SIZE_MAX;
    return check(calloc(count ? count : 1, n ? n : 1), all);
}
void *ds_xrealloc(void *p, size_t n) { return check(realloc(p, n ? n : 1), n); }

void *ds_xaligned(size_t n) {
    if (n > SIZE_MAX - 64)
        check(NULL, n);
    return check(aligned_alloc(64, (n + 64) / 64 * 64), n);
}

char *ds_xstrdup(const char *s) {
    size_t n = strlen(s) + 1;
    return memcpy(ds_xmalloc(n), s, n);
}

char *ds_xasprintf(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    va_list copy;
    va_copy(copy, ap);
    int n = vsnprintf(NULL, 0, fmt, copy);
    va_end(copy);
    char *s = ds_xmalloc((size_t)(n < 0 ? 0 : n) + 1);
    vsnprintf(s, (size_t)(n < 0 ? 0 : n) + 1, fmt, ap);
    va_end(ap);
    return s;
}

static void reserve(ds_buf *b, size_t extra) {
    if (b->len + extra + 1 <= b->cap)
        return;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < b->len + extra + 1)
        cap *= 2;
    b->data = ds_xrealloc(b->data, cap);
    b->cap = cap;
}

void ds_buf_add(ds_buf *b, const void *p, size_t n) {
    reserve(b, n);
    if (n)
        memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = 0;
}

void ds_buf_addf(ds_buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    va_list copy;
    va_copy(copy, ap);
    int n = vsnprintf(b->data ? b->data + b->len : NULL, b->cap - b->len, fmt, copy);
    va_end(copy);
    if (n > 0 && (size_t)n >= b->cap - b->len) { /* it did not fit */
        reserve(b, (size_t)n);
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    }
    b->len += n > 0 ? (size_t)n : 0;
    va_end(ap);
}

void ds_buf_release(ds_buf *b) {
    free(b->data);
    *b = (ds_buf){0};
}
