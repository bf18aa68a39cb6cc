/* engine/files/weights_internal.h - what the readers of the formats share. */
#ifndef DS_ENGINE_FILES_WEIGHTS_INTERNAL_H
#define DS_ENGINE_FILES_WEIGHTS_INTERNAL_H

#include "engine/files/pickle.h"
#include "engine/files/weights.h"

#include <sys/stat.h>
#include <zip.h>

/* A weight file. */
typedef struct {
    char *path;
    int fd;
    struct stat sb; /* when it was opened */
    ds_st *st;      /* safetensors: header only, its data pointers are stale */
    zip_t *zip;     /* PyTorch zip */
} ds_weights_part;

typedef struct {
    ds_weights_tensor t; /* t.name is owned */
    int part;
    int64_t entry;                  /* of the part's zip; -1: in the file itself */
    uint64_t at;                    /* bytes from the start of entry or file */
    int strided;                    /* elements do not follow each other */
    int64_t stride[DS_ST_DIMS_MAX]; /* elements */
    int negative;                   /* the numbers are the stored ones with the other sign */
    uint32_t nest;                  /* bytes of the name that are keys of dicts and lists around */
    int object;                     /* no tensor */
    int listed;                     /* a member of a list: the rest of its name is its place */
    uint32_t order;                 /* of the file */
    char *what; /* owned: "a Python object of ...": it cannot be read; or NULL */
} ds_weights_item;

struct ds_weights {
    char *path, *dir;
    const char *format;
    char wrapper[256];
    json_t *config, *args;
    char *own_config; /* of a checkpoint that we wrote */
    int is_file;      /* the source, not a folder */
    char beside[200]; /* other files of the folder that may hold weights */
    ds_weights_part *parts;
    int part_count;
    ds_weights_item *items; /* sorted by name once open */
    size_t count, cap;
    /* weights_choose.c */
    char *which;              /* owned; what was asked for */
    const char *part;         /* of the report */
    ds_import_report *report; /* borrowed */
    int chosen;
    ds_weights_item *values; /* of the chosen model: what is no tensor of floating-point numbers */
    size_t value_count;
    uint64_t averaged_skipped; /* numbers below a key of averaged weights without names */
    char averaged_name[64];    /* that key */
    size_t odd_names, skipped; /* tensors that could have no name here; those of optimizers */
};

/* Append a tensor (nest, listed, negative and what as in item, what is copied); a name that cannot
 * be one here is counted.  n: bytes of name.  stride NULL = contiguous. */
int ds_weights_add(ds_weights *w, const char *name, size_t n, const ds_weights_item *item,
                   const int64_t *stride, ds_error *err);

/* Is a key, of n bytes, that of averaged weights? */
int ds_weights_is_averaged(const char *key, size_t n);

int ds_weights_sort(ds_weights *w, ds_error *err);

/* weights_args.c: as ds_weights_args; a new reference, or NULL. */
json_t *ds_weights_read_args(const ds_pickle *p);
json_t *ds_weights_meta_args(const ds_st *st); /* .. in the metadata of a safetensors file */

/* weights_torch.c: fill w from a part that begins like a zip or like a pickle. */
int ds_weights_open_zip(ds_weights *w, int part, ds_error *err);
int ds_weights_open_legacy(ds_weights *w, int part, ds_error *err);

/* n bytes at `at` of a zip's entry. */
int ds_weights_read_entry(const ds_weights_part *part, int64_t entry, uint64_t at, void *dst,
                          size_t n, ds_error *err);

int ds_weights_pread(const ds_weights_part *part, uint64_t at, void *dst, size_t n, ds_error *err);

#endif
