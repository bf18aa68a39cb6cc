/* engine/model/base_model.c - reading and writing the base. */
#include "engine/model/base_model.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/files/safetensors.h"

#include <stdlib.h>
#include <string.h>

enum { BASE_MAX_GIB = 16 };

/* ---------------------------------------------------------------- architecture */

/* Weight and bias of each layer, and the class table, among the tensors. */
static void find_entries(ds_base *b) {
    b->classes_entry = -1;
    for (int e = 0; e < b->table.count; e++) {
        const ds_param *p = &b->table.items[e];
        if (p->kind == DS_PARAM_TABLE) {
            b->classes_entry = e;
            b->row_width = p->shape[1];
        }
        if (p->linear < 0)
            continue;
        if (p->kind == DS_PARAM_WEIGHT)
            b->layers[p->linear].weight = e;
        else if (p->kind == DS_PARAM_BIAS)
            b->layers[p->linear].bias = e;
    }
    DS_ASSERT(b->classes_entry >= 0);
}

static ds_base *base_of(const ds_arch *arch, const void *config) {
    ds_base *b = ds_xcalloc(1, sizeof *b);
    b->arch = arch;
    b->config = ds_xmalloc(arch->config_size);
    memcpy(b->config, config, arch->config_size);
    if (arch->complete)
        arch->complete(b->config);
    arch->facts(b->config, &b->facts);
    arch->tensors(&b->table, b->config);
    b->layer_count = arch->layer_count(b->config);
    b->layers = ds_xcalloc((size_t)b->layer_count, sizeof *b->layers);
    for (int i = 0; i < b->layer_count; i++)
        b->layers[i] = arch->layer(b->config, i);
    find_entries(b);
    return b;
}

int ds_base_new(ds_base **out, const ds_arch *arch, const void *config, uint64_t seed,
                ds_error *err) {
    int rc = arch->check(config, err);
    if (rc)
        return rc;
    ds_base *b = *out = base_of(arch, config);
    b->data = ds_xaligned(b->table.total * sizeof *b->data);
    arch->init(b->data, &b->table, b->config, seed);
    return 0;
}

int ds_base_new_blocks(ds_base **out, const ds_base *like, int blocks, uint64_t seed,
                       ds_error *err) {
    void *config = ds_xmalloc(like->arch->config_size);
    memcpy(config, like->config, like->arch->config_size);
    like->arch->set_blocks(config, blocks);
    int rc = ds_base_new(out, like->arch, config, seed, err);
    free(config);
    return rc;
}

/* Files of the first architecture do not name it: they were there before there were others. */
json_t *ds_base_config(const ds_base *b) {
    json_t *doc = b->arch->write(b->config);
    if (b->arch != ds_arch_first())
        json_object_set_new(doc, "arch", json_string(b->arch->name));
    return doc;
}

int ds_base_alike(const ds_base *a, const ds_base *b) {
    json_t *x = ds_base_config(a), *y = ds_base_config(b);
    json_object_del(x, "classes");
    json_object_del(y, "classes");
    int alike = json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return alike;
}

double ds_base_workspace(const ds_base *b, const ds_device *dev, int rows) {
    return b->arch->workspace(b->config, dev, rows);
}
double ds_base_block_flop(const ds_base *b, int full) {
    return b->arch->block_flop(b->config, full);
}
double ds_base_pass_flop(const ds_base *b) {
    return b->arch->pass_flop(b->config, (double)b->table.total);
}

/* The configuration in a file, and whose it is; free(*config). */
static int read_config(const ds_arch **arch, void **config, const char *file, const char *text,
                       ds_error *err) {
    json_t *doc;
    int rc = ds_json_parse(file, text, strlen(text), &doc, err);
    if (rc)
        return rc;
    const char *name = ds_json_string(doc, "arch", ds_arch_first()->name);
    const ds_arch *found = ds_arch_find(name);
    if (!found)
        rc = ds_fail(err, DS_EINVAL, "its architecture '%.40s' is none of this program's", name);
    void *c = found ? ds_xcalloc(1, found->config_size) : NULL;
    if (!rc)
        rc = found->read(c, doc, err);
    if (!rc)
        rc = found->check(c, err);
    json_decref(doc);
    *arch = found;
    *config = c;
    return rc ? ds_error_prefix(err, "base '%s'", file) : 0;
}

/* ---------------------------------------------------------------- tensors in memory */

struct ds_base_tensor {
    const ds_st_tensor *t;
    const float *f32; /* in place, or unpacked; NULL: a matrix in 16 bits */
    float *own;       /* what f32 was unpacked into, or NULL */
};

const float *ds_base_held(const ds_base *b, int i) {
    return b->data ? b->data + b->table.items[i].offset : b->held[i].f32;
}

const float *ds_base_values(const ds_base *b, int i, float *room) {
    const float *x = ds_base_held(b, i);
    if (x)
        return x;
    DS_ASSERT(!ds_st_read_f32(b->file, b->held[i].t, room, NULL)); /* its type is checked */
    return room;
}

const uint16_t *ds_base_bf16(const ds_base *b, int i) {
    const ds_st_tensor *t = b->data ? NULL : b->held[i].t;
    return t && t->dtype == DS_ST_BF16 && (uintptr_t)t->data % sizeof(uint16_t) == 0 ? t->data
                                                                                     : NULL;
}

size_t ds_base_bytes(const ds_base *b) {
    size_t bytes = 0;
    for (int i = 0; i < b->table.count; i++)
        bytes += b->data || b->held[i].own ? b->table.items[i].count * sizeof(float)
                                           : b->held[i].t->bytes;
    return bytes;
}

static int in_place(const ds_st_tensor *t) {
    return t->dtype == DS_ST_F32 && (uintptr_t)t->data % sizeof(float) == 0;
}

/* The whole file is the flat array of the table: F32, in its order. */
static float *whole_array(const ds_base *b) {
    const char *first = b->held[0].t->data;
    for (int i = 0; i < b->table.count; i++)
        if (!in_place(b->held[i].t) ||
            (const char *)b->held[i].t->data != first + b->table.items[i].offset * sizeof(float))
            return NULL;
    return (float *)(uintptr_t)first; /* the file's bytes are the base's own */
}

/* Everything but matrices is small and wanted in f32. */
static void hold(ds_base *b, struct ds_base_tensor *h) {
    for (int i = 0; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i];
        if (in_place(h[i].t))
            h[i].f32 = h[i].t->data;
        else if (p->kind != DS_PARAM_WEIGHT) {
            h[i].f32 = h[i].own = ds_xmalloc(p->count * sizeof(float));
            DS_ASSERT(!ds_st_read_f32(b->file, h[i].t, h[i].own, NULL));
        }
    }
}

/* Takes st. */
static void place_tensors(ds_base *b, struct ds_base_tensor *h, ds_st *st, size_t unpacked) {
    b->held = h;
    b->file = st;
    b->data = whole_array(b);
    if (!b->data && b->table.total <= unpacked / sizeof(float)) {
        float *data = ds_xaligned(b->table.total * sizeof *data);
        for (int i = 0; i < b->table.count; i++)
            DS_ASSERT(!ds_st_read_f32(st, h[i].t, data + b->table.items[i].offset, NULL));
        ds_st_free(st);
        b->file = NULL;
        b->data = data;
    }
    if (b->data) {
        free(h);
        b->held = NULL;
    } else
        hold(b, h);
}

static int find_tensors(const ds_base *b, const ds_st *st, struct ds_base_tensor *h,
                        ds_error *err) {
    for (int i = 0; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i];
        int64_t shape[4];
        for (int d = 0; d < p->ndim; d++)
            shape[d] = p->shape[d];
        int rc = ds_st_need(st, p->name, p->ndim, shape, &h[i].t, err);
        if (rc)
            return rc;
        if (h[i].t->dtype > DS_ST_BF16)
            return ds_fail(err, DS_EINTEGRITY, "base '%s': tensor '%s' is of type %s, not a number",
                           ds_st_file_name(st), p->name, ds_st_dtype_name(h[i].t->dtype));
    }
    if (ds_st_count(st) != (size_t)b->table.count)
        return ds_fail(err, DS_EINTEGRITY, "base '%s' has %zu tensors; its configuration needs %d",
                       ds_st_file_name(st), ds_st_count(st), b->table.count);
    return 0;
}

int ds_base_open(ds_base **out, const char *path, const char *want, ds_error *err) {
    return ds_base_open_within(out, path, want, DS_BASE_UNPACKED, err);
}

int ds_base_open_within(ds_base **out, const char *path, const char *want, size_t unpacked,
                        ds_error *err) {
    char *bytes, sha[DS_HEX_SIZE];
    size_t n;
    int rc = ds_fs_read(path, (size_t)BASE_MAX_GIB << 30, &bytes, &n, err);
    if (rc)
        return rc;
    ds_digest(bytes, n, sha);
    if (want && strcmp(want, sha)) {
        free(bytes);
        return ds_fail(err, DS_EINTEGRITY,
                       "base file '%s' has changed: its sha256 is %s, the registered one is %s",
                       path, sha, want);
    }
    ds_st *st;
    if ((rc = ds_st_open_owned(path, bytes, n, &st, err)))
        return rc;
    const char *config = ds_st_meta(st, "diffscaler.config"),
               *name = ds_st_meta(st, "diffscaler.name");
    const ds_arch *arch = NULL;
    void *c = NULL;
    if (!config)
        rc = ds_fail(err, DS_EINVAL, "'%s' is not a base: its metadata has no 'diffscaler.config'",
                     path);
    else
        rc = read_config(&arch, &c, path, config, err);
    ds_base *b = rc ? NULL : base_of(arch, c);
    free(c);
    struct ds_base_tensor *h = b ? ds_xcalloc((size_t)b->table.count, sizeof *h) : NULL;
    if (!rc)
        rc = find_tensors(b, st, h, err);
    if (!rc) {
        snprintf(b->name, sizeof b->name, "%s", name ? name : "base");
        memcpy(b->sha256, sha, sizeof sha);
        place_tensors(b, h, st, unpacked); /* takes the file, and name with it */
        *out = b;
        return 0;
    }
    ds_base_free(b);
    free(h);
    ds_st_free(st);
    return rc;
}

int ds_base_save(const ds_base *base, const char *path, int bf16, const char *const *meta,
                 ds_error *err) {
    ds_st_writer *w = ds_st_writer_new();
    json_t *doc = ds_base_config(base);
    char *config = ds_json_canonical(doc), *bytes = NULL;
    json_decref(doc);
    size_t n = 0;
    ds_st_writer_meta(w, "diffscaler.config", config);
    for (; meta && meta[0]; meta += 2)
        ds_st_writer_meta(w, meta[0], meta[1]);
    for (int i = 0; i < base->table.count; i++) {
        const ds_param *p = &base->table.items[i];
        int64_t shape[4];
        for (int d = 0; d < p->ndim; d++)
            shape[d] = p->shape[d];
        enum ds_st_dtype store = bf16 && p->kind == DS_PARAM_WEIGHT ? DS_ST_BF16 : DS_ST_F32;
        float *room = ds_base_held(base, i) ? NULL : ds_xmalloc(p->count * sizeof *room);
        ds_st_writer_add_f32(w, p->name, store, p->ndim, shape, ds_base_values(base, i, room));
        free(room);
    }
    int rc = ds_st_writer_finish(w, &bytes, &n, err);
    if (!rc)
        rc = ds_fs_write(path, bytes, n, err);
    free(bytes);
    free(config);
    ds_st_writer_free(w);
    return rc;
}

void ds_base_free(ds_base *b) {
    if (!b)
        return;
    for (int i = 0; b->held && i < b->table.count; i++)
        free(b->held[i].own);
    free((void *)(uintptr_t)b->held);
    if (b->file)
        ds_st_free(b->file);
    else
        free(b->data);
    ds_params_release(&b->table);
    free(b->layers);
    free(b->config);
    free(b);
}
