/* cli/client.h - HTTP/1.1 to diffscalerd over its unix socket (libcurl), one connection kept open.
 *
 * Answers with status >= 400 become error values: the "exit" member of problem+json decides the
 * code (docs/api.md), else the status.  An unreachable daemon is DS_EUNREACHABLE with a message
 * that says how to start one; a socket that we may not open is DS_EPERM; an interrupted wait is
 * DS_ECANCELED.  One thread.  Bodies of answers are limited (DS_CLIENT_MAX_BODY), streams are not.
 */
#ifndef DS_CLI_CLIENT_H
#define DS_CLI_CLIENT_H

#include "base/error.h"
#include "base/json.h"
#include "base/mem.h"

#include <stdint.h>
#include <stdio.h>

#define DS_CLIENT_MAX_BODY (64u << 20)

typedef struct ds_client ds_client;

/* `state` is only used in messages. */
ds_client *ds_client_new(const char *socket, const char *state);
void ds_client_free(ds_client *h);

/* Paths are built in a ds_buf: literal text, then escaped segments and query members. */
void ds_url_segment(ds_buf *b, const char *s);
void ds_url_query(ds_buf *b, const char *key, const char *value);
void ds_url_query_int(ds_buf *b, const char *key, int64_t value);

/* One JSON exchange; body and answer may be NULL.  *answer is a new reference to an object. */
int ds_client_call(ds_client *h, const char *method, const char *path, const json_t *body,
                   json_t **answer, ds_error *err);
/* The same with one more request header ("If-Match: 3"). */
int ds_client_call_with(ds_client *h, const char *method, const char *path, const char *header,
                        const json_t *body, json_t **answer, ds_error *err);

/* GET of plain text into `out` (appended); *next_offset from X-Next-Offset or -1; may be NULL. */
int ds_client_text(ds_client *h, const char *path, ds_buf *out, int64_t *next_offset,
                   ds_error *err);

/* GET of lines: fn gets each line (0-terminated, no newline; empty ones are left out) as it
 * arrives and ends the stream early by returning non-zero (then the result is 0).  A stream that
 * the daemon cuts off is at its end: readers have cursors. */
typedef int ds_client_line_fn(void *ud, const char *line, size_t n);
int ds_client_lines(ds_client *h, const char *path, const char *accept, ds_client_line_fn *fn,
                    void *ud, ds_error *err);

/* GET into a file; digest gets the hex digits of X-Diffscaler-Digest or "".  An answer that ends
 * early is DS_EINTEGRITY. `progress` may be NULL. */
typedef void ds_client_progress_fn(void *ud, int64_t done, int64_t total);
int ds_client_download(ds_client *h, const char *path, FILE *f, char digest[65],
                       ds_client_progress_fn *progress, void *ud, ds_error *err);

/* The same, piece by piece: the sink takes each, and stops the rest by returning non-zero; then
 * the result is DS_ECANCELED and the sink knows why. */
typedef int ds_client_sink_fn(void *ud, const void *data, size_t n);
int ds_client_stream(ds_client *h, const char *path, ds_client_sink_fn *sink, void *sink_ud,
                     ds_client_progress_fn *progress, void *ud, ds_error *err);

#endif
