/* engine/metrics/npz_internal.h - a member of an .npz file: zip, header, bytes in order. */
#ifndef DS_ENGINE_METRICS_NPZ_INTERNAL_H
#define DS_ENGINE_METRICS_NPZ_INTERNAL_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>
#include <zip.h>

enum { NPY_DIMS_MAX = 8 };

typedef struct {
    char type[16]; /* "<f8", as written */
    char kind;     /* 'f', 'u', 'S' ...; 0: a type of another form */
    int width;     /* bytes of a number; 0: a type of another form */
    int big;       /* most significant byte first */
    int fortran, ndim;
    int64_t shape[NPY_DIMS_MAX];
} npy_header;

typedef struct {
    const char *path, *member; /* for messages */
    zip_t *zip;
    zip_file_t *file;
    ds_error *err;
} npz_reader;

/* The file; after a failure too, close. */
int ds_npz_open(npz_reader *r, const char *path, ds_error *err);
void ds_npz_close(npz_reader *r);

int ds_npz_open_member(npz_reader *r, const char *name); /* 1 = there is none */
void ds_npz_close_member(npz_reader *r);
int ds_npz_read_header(const npz_reader *r, npy_header *h);
int ds_npz_take(const npz_reader *r, void *to, size_t n); /* exactly n bytes */
int ds_npz_at_end(const npz_reader *r);

/* DS_EINTEGRITY: "'file': member 'x' what". */
int ds_npz_bad(const npz_reader *r, const char *what);

#endif
