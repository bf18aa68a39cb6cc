/* engine/files/pickle.h - a reader of the pickles in PyTorch checkpoints, which executes nothing.
 *
 * A pickle is a program for a stack machine that may call any function of Python.  This reader
 * knows of the functions only those in the list of globals in pickle.c (tensors, parameters,
 * OrderedDict, storages).  What any other would make is an "opaque" value: which class it names,
 * and the plain values it would be made and filled with, are kept; whoever needs its value refuses
 * it by that name.  Source: pickletools.py of CPython, torch/serialization.py, torch/_utils.py.
 *
 * The result is a tree of nodes, addressed by number; lists may contain themselves (the format
 * allows it), so whoever walks it bounds depth and visits.
 *
 * Limits: DS_PICKLE_NODES_MAX values, DS_PICKLE_ITEMS_MAX members, sizes inside the buffer.
 * Ownership: text points into the caller's buffer, which must outlive the pickle.  Thread:
 * read-only after ds_pickle_read.  Errors: DS_EINVAL not read here, by name; DS_EINTEGRITY
 * damaged; DS_ELIMIT.
 */
#ifndef DS_ENGINE_FILES_PICKLE_H
#define DS_ENGINE_FILES_PICKLE_H

#include "engine/files/safetensors.h"

#define DS_PICKLE_NODES_MAX 2000000
#define DS_PICKLE_ITEMS_MAX 8000000

enum ds_pickle_kind {
    DS_PICKLE_NONE,
    DS_PICKLE_BOOL,    /* i */
    DS_PICKLE_INT,     /* i */
    DS_PICKLE_FLOAT,   /* f */
    DS_PICKLE_TEXT,    /* text, count bytes; bytes objects too */
    DS_PICKLE_TUPLE,   /* items[0..count) */
    DS_PICKLE_LIST,    /* items[0..count) */
    DS_PICKLE_DICT,    /* items[0..count): key, value, key, value; a key may be there twice */
    DS_PICKLE_GLOBAL,  /* i: number in the list of pickle.c */
    DS_PICKLE_CLASS,   /* items[0..2): module and name of another one, as text */
    DS_PICKLE_STORAGE, /* storage */
    DS_PICKLE_TENSOR,  /* tensor */
    DS_PICKLE_OPAQUE   /* items: none, or its class, then arguments, states, members */
};

typedef struct {
    enum ds_st_dtype dtype;
    uint32_t type;  /* node of its type, DS_PICKLE_GLOBAL or DS_PICKLE_CLASS */
    uint32_t key;   /* node of its name, DS_PICKLE_TEXT */
    uint64_t count; /* elements, at most 2^60 */
} ds_pickle_storage;

typedef struct {
    uint32_t storage;       /* node */
    enum ds_st_dtype dtype; /* DS_ST_OTHER: cannot be read, `type` says why */
    uint32_t type;          /* node: of its type (as of a storage), or a text */
    int negative;           /* the numbers are the stored ones with the other sign */
    uint64_t offset;        /* elements */
    int ndim;
    int64_t shape[DS_ST_DIMS_MAX], stride[DS_ST_DIMS_MAX];
} ds_pickle_tensor;

typedef struct {
    enum ds_pickle_kind kind;
    uint32_t count, cap;
    union {
        int64_t i;
        double f;
        const char *text; /* not ended by 0 */
        uint32_t *items;
        ds_pickle_storage *storage;
        ds_pickle_tensor *tensor; /* lies inside its storage, checked */
    };
} ds_pickle_node;

typedef struct ds_pickle ds_pickle;

/* One pickle at data; *used (may be NULL) = bytes up to and with its STOP. */
int ds_pickle_read(ds_pickle **out, const char *name, const void *data, size_t n, size_t *used,
                   ds_error *err);
void ds_pickle_free(ds_pickle *p); /* NULL is fine */

uint32_t ds_pickle_root(const ds_pickle *p);
uint32_t ds_pickle_count(const ds_pickle *p); /* nodes */
const ds_pickle_node *ds_pickle_at(const ds_pickle *p, uint32_t node);
/* Value of a text key in a dict, or NULL. */
const ds_pickle_node *ds_pickle_get(const ds_pickle *p, const ds_pickle_node *dict,
                                    const char *key);
/* "module.name" of a class or of an opaque value's class; the text of a text.  Printable, may be
 * cut. */
void ds_pickle_class(const ds_pickle *p, const ds_pickle_node *node, char *out, size_t size);
int ds_pickle_is_text(const ds_pickle_node *node, const char *text);

#endif
