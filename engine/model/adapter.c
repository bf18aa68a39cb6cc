/* engine/model/adapter.c - tables of the methods, and the adapter file. */
#include "engine/model/adapter.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "engine/files/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ADAPTER_MAX_BYTES = 1 << 30, RANK_MAX = 64, CLASSES_MAX = 100000 };
static const char schema_stem[] = "diffscaler.adapter/";

#define TARGETS_AT(W, value, word, parts, targets, help) [value] = targets,
static const unsigned preset_targets[] = {DS_PRESETS(TARGETS_AT, )};

const char *ds_method_name(enum ds_method m) { return ds_preset_table[m].name; }
unsigned ds_method_parts(enum ds_method m) { return ds_preset_table[m].parts; }
unsigned ds_method_targets(enum ds_method m) { return preset_targets[m]; }

int ds_method_from_name(const char *name, enum ds_method *out, ds_error *err) {
    const ds_preset *p = ds_preset_find(name);
    if (!p)
        return ds_fail(err, DS_EINVAL, "unknown method '%.40s': use one of %s", name,
                       DS_WORDS(DS_METHODS));
    *out = (enum ds_method)(p - ds_preset_table);
    return 0;
}

static int schema_of(enum ds_method m) { return ds_preset_schema(&ds_preset_table[m]); }

/* Entry name of segment g of a linear layer: the fused qkv is stored as q, k and v. */
static void segment_name(char out[80], const ds_layer_shape *lin, int g, const char *part) {
    if (lin->segs == 3) {
        int stem = (int)strlen(lin->name) - 3; /* without "qkv" */
        snprintf(out, 80, "%.*s%c.%s", stem, lin->name, "qkv"[g], part);
    } else
        snprintf(out, 80, "%s.%s", lin->name, part);
}

static unsigned segment_target(const ds_layer_shape *lin, int g) {
    return lin->segs == 3 ? (unsigned)(DS_TARGET_Q << g) : lin->targets;
}

static void add_part(ds_params *t, const ds_layer_shape *lin, int index, const ds_method_spec *spec,
                     enum ds_param_kind kind, const char *part, int rows, int cols, int shared) {
    for (int g = 0; g < (shared ? 1 : lin->segs); g++) {
        char name[80];
        segment_name(name, lin, g, part);
        int frozen =
            shared ? !(spec->targets & lin->targets) : !(spec->targets & segment_target(lin, g));
        if (kind == DS_PARAM_V && spec->freeze_v)
            frozen = 1;
        int shape[2] = {rows, cols};
        ds_params_add(t, name, kind, cols ? 2 : 1, shape, frozen, index);
    }
}

static void add_affiner(ds_params *t, const ds_layer_shape *lin, int index,
                        const ds_method_spec *spec) {
    if (!(lin->targets & spec->targets))
        return;
    unsigned parts = ds_method_parts(spec->method);
    int seg = lin->m / lin->segs, r = spec->rank, in = spec->side_in;
    if (parts & DS_PART_SCALE)
        add_part(t, lin, index, spec, DS_PARAM_A, "a", in ? lin->n : seg, 0, in);
    if (parts & DS_PART_SHIFT)
        add_part(t, lin, index, spec, DS_PARAM_B, "b", in ? lin->n : seg, 0, in);
    if (!(parts & DS_PART_LOWRANK) || r == 0)
        return;
    add_part(t, lin, index, spec, DS_PARAM_S, "s", 1, 0, 0);
    add_part(t, lin, index, spec, DS_PARAM_U, "U", seg, r, 0);
    add_part(t, lin, index, spec, DS_PARAM_V, "V", r, lin->n, 0);
}

/* Entries that take the place of the base's own, by their names. */
static void add_replaced(ds_params *t, const ds_param *p) {
    ds_params_add(t, p->name, p->kind, p->ndim, p->shape, 0, p->linear);
}

/* In the order of DS_PARTS. */
void ds_adapter_table(ds_params *t, const ds_base *base, const ds_method_spec *spec) {
    const unsigned parts = ds_method_parts(spec->method), targets = ds_method_targets(spec->method);
    /* a shift and a bias are the same twice */
    DS_ASSERT(!(parts & DS_PART_BIASES) || !(parts & (DS_PART_SHIFT | DS_PART_BASE)));
    DS_ASSERT(!(parts & DS_PART_GAMMA));
    for (int i = 0; (parts & DS_PART_BASE) && i < base->table.count; i++)
        if (base->table.items[i].kind != DS_PARAM_FIXED)
            add_replaced(t, &base->table.items[i]);
    for (int i = 0; i < base->layer_count; i++)
        add_affiner(t, &base->layers[i], i, spec);
    if ((parts & DS_PART_ROWS) && spec->classes > 0)
        ds_params_add(t, "y_embedder.rows", DS_PARAM_ROWS, 2,
                      (int[]){spec->classes, base->row_width}, 0, -1);
    for (int i = 0; (parts & DS_PART_BIASES) && i < base->layer_count; i++)
        if (base->layers[i].targets & targets)
            add_replaced(t, &base->table.items[base->layers[i].bias]);
}

const ds_param *ds_adapter_bias(const ds_params *t, int linear) {
    for (int i = 0; i < t->count; i++)
        if (t->items[i].linear == linear && t->items[i].kind == DS_PARAM_BIAS)
            return &t->items[i];
    return NULL;
}

int ds_adapter_find(const ds_params *t, int linear, int rank, ds_adapter_slot *out) {
    static const enum ds_param_kind kinds[] = {DS_PARAM_A, DS_PARAM_B, DS_PARAM_S, DS_PARAM_U,
                                               DS_PARAM_V};
    static const unsigned parts[] = {DS_PART_SCALE, DS_PART_SHIFT, DS_PART_LOWRANK, DS_PART_LOWRANK,
                                     DS_PART_LOWRANK};
    size_t *where[] = {&out->a, &out->b, &out->s, &out->U, &out->V};
    *out = (ds_adapter_slot){0};
    for (int k = 0; k < (rank ? 5 : 2); k++) {
        int seen = 0;
        for (int i = 0; i < t->count; i++)
            if (t->items[i].linear == linear && t->items[i].kind == kinds[k]) {
                if (!seen)
                    *where[k] = t->items[i].offset;
                if (kinds[k] != DS_PARAM_V && seen < 3) /* V: also by freeze_v */
                    out->frozen[seen] = t->items[i].frozen;
                seen++;
                out->parts |= parts[k];
            }
    }
    return out->parts != 0;
}

size_t ds_adapter_rows(const ds_params *t) {
    for (int i = 0; i < t->count; i++)
        if (t->items[i].kind == DS_PARAM_ROWS)
            return t->items[i].offset;
    return SIZE_MAX;
}

ds_affiner ds_adapter_view(const ds_method_spec *spec, const ds_layer_shape *lin,
                           const ds_adapter_slot *slot, const float *p) {
    ds_affiner v = {.m = lin->m,
                    .n = lin->n,
                    .segs = lin->segs,
                    .side_in = spec->side_in,
                    .phi_relu = spec->phi_relu,
                    .a = slot->parts & DS_PART_SCALE ? p + slot->a : NULL,
                    .b = slot->parts & DS_PART_SHIFT ? p + slot->b : NULL};
    if (slot->parts & DS_PART_LOWRANK) {
        v.r = spec->rank;
        v.s = p + slot->s;
        v.U = p + slot->U;
        v.V = p + slot->V;
    }
    return v;
}

/* Start values of one entry.  The random ones are named by the entry's position in the table. */
static void init_entry(float *x, const ds_param *p, int index, const ds_base *base, uint64_t seed) {
    double std = 0;
    switch (p->kind) {
    case DS_PARAM_A:
        for (size_t i = 0; i < p->count; i++)
            x[i] = 1.0f;
        return;
    case DS_PARAM_B:
    case DS_PARAM_S: memset(x, 0, p->count * sizeof *x); return;
    case DS_PARAM_ROWS: { /* every new row is the base's unconditional row */
        const size_t D = (size_t)base->row_width;
        const float *null =
            ds_base_held(base, base->classes_entry) + (size_t)base->facts.classes * D;
        for (size_t r = 0; r < (size_t)p->shape[0]; r++)
            memcpy(x + r * D, null, D * sizeof *x);
        return;
    }
    case DS_PARAM_U:
    case DS_PARAM_V: std = sqrt(2.0 / p->shape[1]); break; /* Kaiming normal, fan-in, gain sqrt 2 */
    case DS_PARAM_WEIGHT:
    case DS_PARAM_BIAS:
    case DS_PARAM_TABLE:
    case DS_PARAM_FIXED: {
        const ds_param *t = ds_params_find(&base->table, p->name);
        const float *from = ds_base_values(base, (int)(t - base->table.items), x);
        if (from != x)
            memcpy(x, from, p->count * sizeof *x);
        return;
    }
    }
    ds_rng_normal(x, p->count, seed, DS_STREAM_INIT, (uint32_t)index, 0);
    for (size_t i = 0; i < p->count; i++)
        x[i] = (float)(x[i] * std);
}

static int check_spec(const ds_base *base, const ds_method_spec *s, ds_error *err) {
    (void)base;
    if (s->rank < 0 || s->rank > RANK_MAX)
        return ds_fail(err, DS_EINVAL, "rank is %d, must be 0 to %d", s->rank, RANK_MAX);
    if (s->classes < 0 || s->classes > CLASSES_MAX)
        return ds_fail(err, DS_ELIMIT, "%d classes, limit %d", s->classes, CLASSES_MAX);
    if ((ds_method_parts(s->method) & DS_PARTS_AFFINER) && !(s->targets & DS_TARGET_EVERY))
        return ds_fail(err, DS_EINVAL, "method %s has no targets", ds_method_name(s->method));
    if (s->side_in && (s->targets & 7) && (s->targets & 7) != 7)
        return ds_fail(err, DS_EINVAL,
                       "side 'in' scales the shared input of q, k and v: target all three or none");
    return 0;
}

/* What is kept with the adapter. */
static ds_method_spec settled(ds_method_spec s) {
    const ds_preset *p = &ds_preset_table[s.method];
    if (!ds_preset_keeps(p, "rank"))
        s.rank = 0;
    if (!ds_preset_keeps(p, "phi"))
        s.phi_relu = 0;
    if (!ds_preset_keeps(p, "freeze_v"))
        s.freeze_v = 0;
    if (!ds_preset_keeps(p, "side"))
        s.side_in = 0;
    if (!ds_preset_keeps(p, "targets"))
        s.targets = ds_method_targets(s.method);
    return s;
}

int ds_adapter_new(ds_adapter **out, const ds_base *base, const ds_method_spec *spec,
                   ds_error *err) {
    const ds_method_spec used = settled(*spec);
    int rc = check_spec(base, &used, err);
    if (rc)
        return rc;
    ds_adapter *a = ds_xcalloc(1, sizeof *a);
    a->spec = used;
    ds_adapter_table(&a->table, base, &a->spec);
    a->data = ds_xaligned(a->table.total * sizeof *a->data);
    for (int i = 0; i < a->table.count; i++)
        init_entry(a->data + a->table.items[i].offset, &a->table.items[i], i, base, spec->seed);
    *out = a;
    return 0;
}

void ds_adapter_free(ds_adapter *a) {
    if (!a)
        return;
    for (int i = 0; a->class_names && i < a->spec.classes; i++)
        free(a->class_names[i]);
    free(a->class_names);
    json_decref(a->meta);
    ds_params_release(&a->table);
    free(a->data);
    free(a);
}

/* ---------------------------------------------------------------- the file */

static const struct {
    unsigned bit;
    const char *word;
} part_words[] = {
#define WORD(bit, word) {bit, word},
    DS_PARTS(WORD)
#undef WORD
};
enum { PARTS = sizeof part_words / sizeof part_words[0] };

static json_t *parts_to_json(unsigned parts) {
    json_t *list = json_array();
    for (int i = 0; i < PARTS; i++)
        if (parts & part_words[i].bit)
            json_array_append_new(list, json_string(part_words[i].word));
    return list;
}

static json_t *method_to_json(const ds_method_spec *s) {
    json_t *targets = json_array();
    for (unsigned bit = 1; bit <= DS_TARGET_TIME; bit <<= 1)
        if (s->targets & bit)
            json_array_append_new(targets, json_string(ds_target_name(bit)));
    json_t *doc =
        json_pack("{s:s, s:i, s:s, s:s, s:b, s:o, s:I, s:i}", "name", ds_method_name(s->method),
                  "rank", s->rank, "side", s->side_in ? "in" : "out", "phi",
                  s->phi_relu ? "relu" : "identity", "freeze_v", s->freeze_v, "targets", targets,
                  "init_seed", (json_int_t)s->seed, "rng", DS_RNG_VERSION);
    if (schema_of(s->method) > 1)
        json_object_set_new(doc, "parts", parts_to_json(ds_method_parts(s->method)));
    return doc;
}

/* The schema of a file: the one place that reads it. */
static int schema_from_json(const json_t *doc, const char *file, int *schema, ds_error *err) {
    const char *text = ds_json_string(doc, "schema", "");
    size_t stem = sizeof schema_stem - 1;
    char *end = NULL;
    int ours = !strncmp(text, schema_stem, stem) && text[stem] > '0' && text[stem] <= '9';
    long n = ours ? strtol(text + stem, &end, 10) : 0; /* which takes " +1" and "01", too */
    if (n < 1 || *end)
        return ds_fail(err, DS_EINVAL,
                       "'%s' is not an adapter: its schema is '%.40s', not %s1 to %d", file, text,
                       schema_stem, DS_ADAPTER_SCHEMA_NEWEST);
    if (n > DS_ADAPTER_SCHEMA_NEWEST)
        return ds_fail(err, DS_ENEWER,
                       "adapter '%s' has schema %.40s, this program reads %s1 to %d; use a program "
                       "at least as new as the one that made it",
                       file, text, schema_stem, DS_ADAPTER_SCHEMA_NEWEST);
    *schema = (int)n;
    return 0;
}

/* The method by its name, which in a file of schema 2 may be one of a newer program, or of one in
 * which it has other parts. */
static int find_method(const json_t *m, int schema, enum ds_method *out, ds_error *err) {
    const char *name;
    int rc = ds_json_need_string(m, "name", &name, err);
    if (rc)
        return rc;
    rc = ds_method_from_name(name, out, err);
    if (schema == 1)
        return rc || schema_of(*out) == 1
                   ? rc
                   : ds_fail(err, DS_EINVAL, "schema %s1 has no method '%s'", schema_stem, name);
    json_t *parts = rc ? NULL : parts_to_json(ds_method_parts(*out));
    if (rc || !json_equal(parts, json_object_get(m, "parts")))
        rc = ds_fail(err, DS_ENEWER,
                     "its method '%.40s' is not one of this program's (%s), or has other parts "
                     "there; use a program at least as new as the one that made it",
                     name, DS_WORDS(DS_METHODS));
    json_decref(parts);
    return rc;
}

static int method_from_json(const json_t *m, int schema, ds_method_spec *s, ds_error *err) {
    int rc = find_method(m, schema, &s->method, err);
    if (rc)
        return rc;
    if (ds_json_int(m, "rng", 0) != DS_RNG_VERSION)
        return ds_fail(err, DS_EINVAL, "its random numbers are version %lld, this program knows %d",
                       (long long)ds_json_int(m, "rng", 0), DS_RNG_VERSION);
    int64_t rank = ds_json_int(m, "rank", 0);
    s->rank = rank < 0 || rank > RANK_MAX ? -1 : (int)rank;
    s->side_in = !strcmp(ds_json_string(m, "side", "out"), "in");
    s->phi_relu = !strcmp(ds_json_string(m, "phi", "identity"), "relu");
    s->freeze_v = ds_json_bool(m, "freeze_v", 0);
    s->seed = (uint64_t)ds_json_int(m, "init_seed", 0);
    size_t i;
    json_t *t;
    json_array_foreach(json_object_get(m, "targets"), i, t)
        s->targets |= ds_target_bit(json_is_string(t) ? json_string_value(t) : "");
    return 0;
}

int ds_adapter_encode(const ds_adapter *a, const ds_base *base, json_t *meta, char **out, size_t *n,
                      ds_error *err) {
    json_t *doc = meta ? json_deep_copy(meta) : json_object(), *classes = json_array();
    for (int i = 0; i < a->spec.classes; i++)
        json_array_append_new(classes, json_string(a->class_names ? a->class_names[i] : ""));
    json_object_set_new(doc, "schema",
                        json_sprintf("%s%d", schema_stem, schema_of(a->spec.method)));
    json_object_set_new(doc, "base",
                        json_pack("{s:s, s:s}", "name", base->name, "sha256", base->sha256));
    json_object_set_new(doc, "method", method_to_json(&a->spec));
    json_object_set_new(doc, "classes", classes);
    json_object_set_new(doc, "null_row", json_integer(base->facts.classes));
    json_object_set_new(doc, "first_row", json_integer(base->facts.classes + 1));
    char *text = ds_json_canonical(doc);
    json_decref(doc);
    ds_st_writer *w = ds_st_writer_new();
    ds_st_writer_meta(w, "format", "pt");
    ds_st_writer_meta(w, "diffscaler", text);
    for (int i = 0; i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        if (p->frozen)
            continue;
        int64_t shape[4];
        for (int d = 0; d < p->ndim; d++)
            shape[d] = p->shape[d];
        ds_st_writer_add_f32(w, p->name, ds_param_stored_bf16(p) ? DS_ST_BF16 : DS_ST_F32, p->ndim,
                             shape, a->data + p->offset);
    }
    int rc = ds_st_writer_finish(w, out, n, err);
    ds_st_writer_free(w);
    free(text);
    return rc;
}

static int read_classes(ds_adapter *a, const json_t *doc) {
    const json_t *list = json_object_get(doc, "classes");
    a->class_names = ds_xcalloc((size_t)a->spec.classes + 1, sizeof *a->class_names);
    for (int i = 0; i < a->spec.classes; i++) {
        const char *s = json_string_value(json_array_get(list, (size_t)i));
        a->class_names[i] = ds_xstrdup(s ? s : "");
    }
    return 0;
}

static int read_values(ds_adapter *a, const ds_st *st, ds_error *err) {
    size_t stored = 0;
    for (int i = 0; i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        if (p->frozen)
            continue;
        int64_t shape[4];
        for (int d = 0; d < p->ndim; d++)
            shape[d] = p->shape[d];
        int rc = ds_st_need_f32(st, p->name, p->ndim, shape, a->data + p->offset, err);
        if (rc)
            return rc;
        for (size_t j = 0; j < p->count; j++)
            if (!isfinite(a->data[p->offset + j]))
                return ds_fail(err, DS_EINTEGRITY,
                               "adapter '%s': tensor '%s' holds a value that is not finite",
                               ds_st_file_name(st), p->name);
        stored++;
    }
    if (stored != ds_st_count(st))
        return ds_fail(err, DS_EINTEGRITY, "adapter '%s' has %zu tensors; its method needs %zu",
                       ds_st_file_name(st), ds_st_count(st), stored);
    return 0;
}

/* The metadata object of a file of a schema that this program reads; new reference. */
static int read_document(const ds_st *st, json_t **out, int *schema, ds_error *err) {
    const char *file = ds_st_file_name(st), *text = ds_st_meta(st, "diffscaler");
    if (!text)
        return ds_fail(err, DS_EINVAL, "'%s' is not an adapter: its metadata has no 'diffscaler'",
                       file);
    int rc = ds_json_parse(file, text, strlen(text), out, err);
    if (!rc && (rc = schema_from_json(*out, file, schema, err)))
        json_decref(*out);
    return rc;
}

int ds_adapter_check_newer(const char *name, const void *bytes, size_t n, ds_error *err) {
    json_t *doc;
    ds_st *st;
    enum ds_method m;
    int schema, rc = ds_st_open_memory(name, bytes, n, &st, err);
    if (rc)
        return rc;
    if (!(rc = read_document(st, &doc, &schema, err))) {
        if ((rc = find_method(json_object_get(doc, "method"), schema, &m, err)))
            ds_error_prefix(err, "adapter '%s'", name);
        json_decref(doc);
    }
    ds_st_free(st);
    return rc;
}

/* .. and checked against the base. */
static int read_meta(const ds_st *st, const ds_base *base, json_t **out, ds_method_spec *spec,
                     ds_error *err) {
    const char *file = ds_st_file_name(st), *sha;
    json_t *doc, *part;
    int schema = 0, rc = read_document(st, &doc, &schema, err);
    if (rc)
        return rc;
    if (!(rc = ds_json_need_object(doc, "base", &part, err)))
        rc = ds_json_need_string(part, "sha256", &sha, err);
    if (!rc && strcmp(sha, base->sha256))
        rc = ds_fail(err, DS_EINTEGRITY, "adapter '%s' belongs to base %s, not to base '%s' %s",
                     file, sha, base->name, base->sha256);
    if (!rc && !(rc = ds_json_need_object(doc, "method", &part, err)) &&
        (rc = method_from_json(part, schema, spec, err)))
        ds_error_prefix(err, "adapter '%s'", file);
    spec->classes = (int)json_array_size(json_object_get(doc, "classes"));
    if (rc)
        json_decref(doc);
    else
        *out = doc;
    return rc;
}

int ds_adapter_decode(ds_adapter **out, const ds_base *base, const char *name, const void *bytes,
                      size_t n, ds_error *err) {
    ds_st *st;
    json_t *doc = NULL;
    ds_method_spec spec = {0};
    ds_adapter *a = NULL;
    int rc = ds_st_open_memory(name, bytes, n, &st, err);
    if (rc)
        return rc;
    if (!(rc = read_meta(st, base, &doc, &spec, err)) &&
        !(rc = ds_adapter_new(&a, base, &spec, err))) {
        a->meta = doc;
        read_classes(a, doc);
        rc = read_values(a, st, err);
        ds_digest(bytes, n, a->sha256);
    } else
        json_decref(doc);
    ds_st_free(st);
    if (rc)
        ds_adapter_free(a);
    else
        *out = a;
    return rc;
}

int ds_adapter_open(ds_adapter **out, const ds_base *base, const char *path, const char *want,
                    ds_error *err) {
    char *bytes, sha[DS_HEX_SIZE];
    size_t n;
    int rc = ds_zio_read_file(path, ADAPTER_MAX_BYTES, &bytes, &n, err);
    if (rc)
        return rc;
    ds_digest(bytes, n, sha);
    if (want && strcmp(want, sha))
        rc = ds_fail(err, DS_EINTEGRITY, "adapter '%s' is damaged: its sha256 is %s, must be %s",
                     path, sha, want);
    if (!rc)
        rc = ds_adapter_decode(out, base, path, bytes, n, err);
    free(bytes);
    return rc;
}
