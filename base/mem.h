/* base/mem.h - process-lifetime memory: allocation that does not fail.
 *
 * Host memory that runs out is an exhausted process: it says so on stderr and exits, at once and
 * without a signal, and the job resumes from its last checkpoint.  So do the libraries whose
 * allocations can be led here (jansson, SQLite, OpenSSL): half a document is worse than none.
 * Sizes that come from outside must be checked against a limit before they get here.  Device memory
 * is different: ds_device.alloc may return NULL.
 */
#ifndef DS_BASE_MEM_H
#define DS_BASE_MEM_H

#include <stddef.h>

void *ds_xmalloc(size_t n);               /* never NULL; n = 0 gives a unique pointer */
void *ds_xcalloc(size_t count, size_t n); /* zeroed; overflow checked */
void *ds_xrealloc(void *p, size_t n);
void *ds_xaligned(size_t n); /* 64-byte aligned, not initialised; free() releases it */
void *ds_need(void *p);      /* p of a library's; NULL means that it got no memory */

/* The exit status, 1 unless set: a worker's job may find room later.  A size that the machine does
 * not have in all is always 1. */
void ds_memory_status(int exit_status);
void ds_out_of_memory(size_t n) __attribute__((noreturn));

char *ds_xstrdup(const char *s);
char *ds_xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Growing byte buffer.  Invariant: data is NULL or data[len] == 0. */
typedef struct {
    char *data;
    size_t len, cap;
} ds_buf;

void ds_buf_add(ds_buf *b, const void *p, size_t n);
void ds_buf_addf(ds_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void ds_buf_release(ds_buf *b); /* frees and zeroes */

#endif
