/* engine/files/st_stream.h - a safetensors file written tensor by tensor, named by its content.
 *
 * The tensors are declared in a ds_st_writer (data NULL); their bytes are put in the same order.
 * Until the end the file is DIR/.import-XXXXXX.tmp; then it is synced and becomes
 * DIR/<sha256>.safetensors, or is dropped when that file is there already with the same size.
 *
 * Ownership: open, then finish or abort.  Thread: one.  Errors: DS_EINVAL (ds_st_writer_header),
 * as ds_fs_write (DS_ENOSPC, ...).
 */
#ifndef DS_ENGINE_FILES_ST_STREAM_H
#define DS_ENGINE_FILES_ST_STREAM_H

#include "engine/files/safetensors.h"

typedef struct ds_st_stream ds_st_stream;

/* Makes dir when it is not there, and asks for the room before anything is written. */
int ds_st_stream_open(ds_st_stream **out, ds_st_writer *w, const char *dir, ds_error *err);
int ds_st_stream_put(ds_st_stream *s, const void *data, size_t n, ds_error *err);

/* All declared bytes must have been put.  path: malloc'ed; fresh: 0 when it was there already.
 * Releases s, also when it fails. */
int ds_st_stream_finish(ds_st_stream *s, char sha256[DS_HEX_SIZE], char **path, int64_t *bytes,
                        int *fresh, ds_error *err);
void ds_st_stream_abort(ds_st_stream *s); /* NULL is fine */

#endif
