/* engine/model/base_model.c - reading and writing the base. */
#include "engine/model/base_model.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/files/safetensors.h"

#include <stdlib.h>
#include <string.h>

enum { BASE_MAX_GIB = 16 };

/* Configuration fields as the file spells them: one list for reading and writing. */
/* clang-format off */
#define CONFIG_FIELDS(X)                                                                           \
    X(channels) X(side) X(patch) X(width) X(depth) X(heads) X(mlp_ratio) X(classes) X(learn_sigma) \
    X(freq_dim) X(time_shift) X(guidance_channels) X(pixel) X(train_steps)
/* clang-format on */

int ds_dit_config_from_json(ds_dit_config *c, const char *file, const char *text, ds_error *err) {
    json_t *doc;
    int rc = ds_json_parse(file, text, strlen(text), &doc, err);
    if (rc)
        return rc;
    *c = (ds_dit_config){0};
    int64_t v = 0;
#define X(field)                                                                                   \
    if (!rc && !(rc = ds_json_need_int(doc, #field, &v, err)))                                     \
        c->field = v < -1 || v > 100000000 ? -1 : (int)v;
    CONFIG_FIELDS(X)
#undef X
    /* Properties that came later: what files without them mean. */
    c->norm2_eps_e6 = (int)ds_json_int(doc, "norm2_eps_e6", 1);
    c->latent_scale = ds_json_number(doc, "latent_scale", c->pixel ? 0 : 0.18215);
    if (!rc)
        rc = ds_json_need_number(doc, "beta_start", &c->beta_start, err);
    if (!rc)
        rc = ds_json_need_number(doc, "beta_end", &c->beta_end, err);
    json_decref(doc);
    if (!rc)
        rc = ds_dit_check(c, err);
    return rc ? ds_error_prefix(err, "base '%s'", file) : 0;
}

json_t *ds_dit_config_to_json(const ds_dit_config *c) {
    json_t *doc = json_object();
#define X(field) json_object_set_new(doc, #field, json_integer(c->field));
    CONFIG_FIELDS(X)
#undef X
    json_object_set_new(doc, "beta_start", json_real(c->beta_start));
    json_object_set_new(doc, "norm2_eps_e6", json_integer(c->norm2_eps_e6));
    json_object_set_new(doc, "beta_end", json_real(c->beta_end));
    json_object_set_new(doc, "latent_scale", json_real(c->latent_scale));
    return doc;
}

static ds_base *base_of(const ds_dit_config *cfg) {
    ds_base *b = ds_xcalloc(1, sizeof *b);
    b->cfg = *cfg;
    if (!b->cfg.norm2_eps_e6)
        b->cfg.norm2_eps_e6 = 1;
    ds_dit_tensors(&b->table, cfg);
    b->layers = ds_dit_layers(cfg, &b->table);
    b->layer_count = ds_lin_count(cfg);
    return b;
}

int ds_base_new(ds_base **out, const ds_dit_config *cfg, uint64_t seed, ds_error *err) {
    int rc = ds_dit_check(cfg, err);
    if (rc)
        return rc;
    *out = base_of(cfg);
    (*out)->data = ds_xaligned((*out)->table.total * sizeof *(*out)->data);
    ds_dit_init((*out)->data, &(*out)->table, cfg, seed);
    return 0;
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
    ds_dit_config cfg;
    if (!config)
        rc = ds_fail(err, DS_EINVAL, "'%s' is not a base: its metadata has no 'diffscaler.config'",
                     path);
    else
        rc = ds_dit_config_from_json(&cfg, path, config, err);
    ds_base *b = rc ? NULL : base_of(&cfg);
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
    json_t *doc = ds_dit_config_to_json(&base->cfg);
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
    free(b);
}
