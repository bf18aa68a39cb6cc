/* engine/files/safetensors.h - strict reader and deterministic writer of safetensors files.
 *
 * A file is: 8 bytes little-endian length N, N bytes of JSON header, then the data section.
 *     {"__metadata__": {string: string, ...},
 *      "name": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, ...}
 * Source: the format's description in huggingface/safetensors.  The reader refuses what the format
 * forbids or leaves open: duplicate keys, unknown types or members, wrong or overflowing sizes,
 * overlaps, holes, bytes that no tensor owns, more than DS_ST_TENSORS_MAX tensors, control
 * characters in names, a header above DS_ST_HEADER_MAX.  After a successful open every tensor lies
 * inside the buffer.
 *
 * Ownership: a ds_st owns its names, metadata and (unless opened with ds_st_open_memory) the bytes;
 * pointers handed out live until ds_st_free.  Tensor data is *not* aligned: copy it (memcpy,
 * ds_st_read_f32) before use as numbers.
 * Thread: an open ds_st is read-only and may be shared.
 * Errors: DS_EINTEGRITY naming file and tensor for anything wrong inside; DS_ELIMIT; as ds_fs_read.
 * Host byte order must be little-endian (checked at compile time).
 */
#ifndef DS_ENGINE_FILES_SAFETENSORS_H
#define DS_ENGINE_FILES_SAFETENSORS_H

#include "base/digest.h"
#include "base/half.h"
#include "base/error.h"
#include "base/mem.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DS_ST_HEADER_MAX ((size_t)16 << 20)
#define DS_ST_TENSORS_MAX 100000
#define DS_ST_DIMS_MAX 8

/* name, bytes.  From U16 on: carried, never read; files may hold them beside what is wanted.
 * OTHER: named by the file and not known here, so that its size is not known either. */
/* clang-format off */
#define DS_ST_DTYPE_MAP(X)                                                                         \
    X(F64, 8) X(F32, 4) X(F16, 2) X(BF16, 2)                                                       \
    X(I64, 8) X(I32, 4) X(I16, 2) X(I8, 1) X(U8, 1) X(BOOL, 1)                                     \
    X(U16, 2) X(U32, 4) X(U64, 8) X(C64, 8) X(C128, 16) X(F8_E4M3, 1) X(F8_E5M2, 1) X(OTHER, 0)
/* clang-format on */

enum ds_st_dtype {
#define X(name, bytes) DS_ST_##name,
    DS_ST_DTYPE_MAP(X)
#undef X
        DS_ST_DTYPE_COUNT
};

typedef struct {
    const char *name;
    enum ds_st_dtype dtype;
    int ndim;                      /* 0 = scalar */
    int64_t shape[DS_ST_DIMS_MAX]; /* each >= 0 */
    size_t count;                  /* elements = product of shape */
    const void *data;              /* not aligned */
    size_t bytes;
    const char *type; /* dtype as the file spells it */
} ds_st_tensor;

typedef struct ds_st ds_st;

const char *ds_st_dtype_name(enum ds_st_dtype dtype);
size_t ds_st_dtype_size(enum ds_st_dtype dtype);

/* ---- reading.  `name` is used in messages only. */

/* Bytes stay the caller's and must outlive the ds_st. */
int ds_st_open_memory(const char *name, const void *data, size_t n, ds_st **out, ds_error *err);
/* Takes malloc'ed bytes, also when it fails. */
int ds_st_open_owned(const char *name, void *data, size_t n, ds_st **out, ds_error *err);

/* A plain file of at most `max` bytes.  use_mmap: map it instead of reading; only for files that
 * nobody writes or truncates while they are open (blobs are immutable), else SIGBUS. */
int ds_st_open_file(const char *path, size_t max, int use_mmap, ds_st **out, ds_error *err);

/* A file in one zstd frame, at most `max` bytes unpacked.  want: SHA-256 (hex) that the unpacked
 * bytes must have, or NULL.  got: their digest is written here, or NULL. */
int ds_st_open_zst(const char *path, size_t max, const char *want, char got[DS_HEX_SIZE],
                   ds_st **out, ds_error *err);

void ds_st_free(ds_st *st); /* NULL is fine */

/* Of a mapped file: this tensor's pages no longer count as this process's memory; they are read
 * again if it is looked at again.  NULL is fine. */
void ds_st_drop(const ds_st *st, const ds_st_tensor *t);

const char *ds_st_file_name(const ds_st *st);
size_t ds_st_count(const ds_st *st);
const ds_st_tensor *ds_st_at(const ds_st *st, size_t i);           /* in the order of the data */
const ds_st_tensor *ds_st_find(const ds_st *st, const char *name); /* NULL = absent */

const char *ds_st_meta(const ds_st *st, const char *key); /* NULL = absent */
size_t ds_st_meta_count(const ds_st *st);
const char *ds_st_meta_key(const ds_st *st, size_t i); /* sorted by bytes */

/* dst[0..count) from F64 (rounded), F32, F16 or BF16; other types are an error. */
int ds_st_read_f32(const ds_st *st, const ds_st_tensor *t, float *dst, ds_error *err);

/* A shape as text: "[3,4]".  Sizes are borrowed; ndim < 0 stands for any shape. */
typedef struct {
    int ndim;
    const int64_t *size;
} ds_st_shape;
void ds_st_shape_text(char *out, size_t bytes, ds_st_shape shape);
/* 0 if a tensor of the file has the expected shape, else `code` with both shapes. */
int ds_st_shape_check(const char *file, const char *tensor, ds_st_shape is, ds_st_shape expected,
                      int code, ds_error *err);

/* Find a tensor that must be there with exactly this shape; need: ndim < 0 accepts any shape. */
int ds_st_need(const ds_st *st, const char *name, int ndim, const int64_t *shape,
               const ds_st_tensor **out, ds_error *err);
int ds_st_need_f32(const ds_st *st, const char *name, int ndim, const int64_t *shape, float *dst,
                   ds_error *err);

/* ---- writing */

typedef struct ds_st_writer ds_st_writer;

ds_st_writer *ds_st_writer_new(void);
void ds_st_writer_free(ds_st_writer *w); /* NULL is fine */

/* Tensors are written in the order added.  data is borrowed until finish. */
void ds_st_writer_add(ds_st_writer *w, const char *name, enum ds_st_dtype dtype, int ndim,
                      const int64_t *shape, const void *data);
/* The same from f32 numbers stored as F32, BF16 or F16 (nearest even); copied at once. */
void ds_st_writer_add_f32(ds_st_writer *w, const char *name, enum ds_st_dtype store, int ndim,
                          const int64_t *shape, const float *data);
void ds_st_writer_meta(ds_st_writer *w, const char *key, const char *value); /* both copied */

/* The file as malloc'ed bytes.  Deterministic: metadata sorted by key, header padded with spaces to
 * a multiple of 8.  DS_EINVAL: a name twice, text that is not UTF-8, too many tensors, header too
 * large.  The writer stays valid and is freed by the caller. */
int ds_st_writer_finish(ds_st_writer *w, char **out, size_t *n, ds_error *err);

/* What stands before the data: 8 bytes of length and the header; and how many bytes of data follow.
 * For files that are written piece by piece (engine/files/st_stream.h); tensors may be added with
 * data NULL. */
int ds_st_writer_header(ds_st_writer *w, ds_buf *out, size_t *data_bytes, ds_error *err);

#endif
