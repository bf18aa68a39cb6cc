/* base/zio.h - one zstd frame per file, with content size and checksum, bounded on reading.
 *
 * The identity of a compressed object is the SHA-256 of its uncompressed bytes, so recompression
 * does not change it.  Reading refuses frames without a content size, larger than the caller's
 * limit, with a window above 8 MiB (log 23), or with trailing bytes; a flipped bit is
 * DS_EINTEGRITY.
 */
#ifndef DS_BASE_ZIO_H
#define DS_BASE_ZIO_H

#include "base/error.h"

#include <stddef.h>

#define DS_ZIO_WINDOW_LOG 23

/* Compress n bytes (level 3 by default when 0) into malloc'ed memory. */
int ds_zio_compress(const void *data, size_t n, int level, char **out, size_t *out_n,
                    ds_error *err);

/* Decompress one frame of at most max bytes into malloc'ed memory (one extra 0 byte).
 * `name` is used in messages.  DS_EINTEGRITY, DS_ELIMIT. */
int ds_zio_decompress(const char *name, const void *data, size_t n, size_t max, char **out,
                      size_t *out_n, ds_error *err);

/* Ends the program (base/mem.h) when this result of zstd says that there was no memory: it is no
 * damage of what is read. */
void ds_zio_memory(size_t result);

/* The same with files; ds_zio_write_file is atomic (ds_fs_write). */
int ds_zio_write_file(const char *path, const void *data, size_t n, int level, ds_error *err);
int ds_zio_read_file(const char *path, size_t max, char **out, size_t *out_n, ds_error *err);

#endif
