/* base/mem.h - process-lifetime memory: allocation that does not fail.
 *
 * Host memory that runs out is an exhausted process: it logs and aborts, and the job resumes from
 * its last checkpoint.  Sizes that come from outside must be checked against a limit before they
 * get here. Device memory is different: ds_device.alloc may return NULL.
 */
#ifndef DS_BASE_MEM_H
#define DS_BASE_MEM_H

#include <stddef.h>

void *ds_xmalloc(size_t n);               /* never NULL; n = 0 gives a unique pointer */
void *ds_xcalloc(size_t count, size_t n); /* zeroed; overflow checked */
void *ds_xrealloc(void *p, size_t n);
void *ds_xaligned(size_t n); /* 64-byte aligned, not initialised; free() releases it */
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
