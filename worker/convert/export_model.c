/* worker/convert/export_model.c - the merged model: folding, names, files tensor by tensor. */
#include "base/fs.h"
#include "base/json.h"
#include "engine/names/dit_layouts.h"
#include "worker/convert/export_internal.h"
#include "worker/job/stop.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---------------------------------------------------------------- folding */

static const float *adapter_part(const ds_exporter *x, const char *name) {
    const ds_param *p = x->adapter ? ds_params_find(&x->adapter->table, name) : NULL;
    return p ? x->adapter->data + p->offset : NULL;
}

static int adapter_of(const ds_exporter *x, int linear, ds_affiner *ad) {
    ds_adapter_slot slot;
    if (!x->adapter || linear < 0 ||
        !ds_adapter_find(&x->adapter->table, linear, x->adapter->spec.rank, &slot))
        return 0;
    *ad = ds_adapter_view(&x->adapter->spec, &x->base->layers[linear], &slot, x->adapter->data);
    return 1;
}

/* W (m,n) in place: diag(a) W + s U V, or W diag(a) + s U V. */
static void fold_matrix(float *W, const ds_affiner *ad) {
    size_t n = (size_t)ad->n, r = (size_t)ad->r;
    int per = ad->m / ad->segs;
    for (int i = 0; i < ad->m; i++) {
        float *w = W + (size_t)i * n;
        for (size_t j = 0; j < n; j++)
            w[j] *= !ad->a ? 1 : ad->side_in ? ad->a[j] : ad->a[i];
        float s = r ? ad->s[i / per] : 0;
        for (size_t k = 0; s != 0 && k < r; k++) {
            float u = s * ad->U[(size_t)i * r + k];
            const float *v = ad->V + ((size_t)(i / per) * r + k) * n;
            for (size_t j = 0; j < n; j++)
                w[j] += u * v[j];
        }
    }
}

/* bias + b, or bias + W b with the frozen W. */
static void fold_bias(float *bias, const ds_exporter *x, const ds_layer_shape *lin,
                      const ds_affiner *ad) {
    if (!ad->b)
        return;
    if (!ad->side_in) {
        for (int i = 0; i < ad->m; i++)
            bias[i] += ad->b[i];
        return;
    }
    size_t n = (size_t)ad->n;
    float *room = ds_xmalloc((size_t)ad->m * n * sizeof *room);
    const float *W = ds_base_values(x->base, lin->weight, room);
    for (int i = 0; i < ad->m; i++) {
        double sum = bias[i];
        for (size_t j = 0; j < n; j++)
            sum += (double)W[(size_t)i * n + j] * ad->b[j];
        bias[i] = (float)sum;
    }
    free(room);
}

/* Named rows, filler, null row: (out.classes + 1, D). */
static float *class_table(const ds_exporter *x) {
    size_t D = (size_t)x->base->row_width, rows = (size_t)x->out.classes + 1;
    const ds_param *p = &x->base->table.items[x->base->classes_entry];
    const float *old = adapter_part(x, p->name), *own = adapter_part(x, "y_embedder.rows");
    if (!old)
        old = ds_base_held(x->base, x->base->classes_entry);
    if (!own)
        own = old;
    float *table = ds_xmalloc(rows * D * sizeof *table);
    for (size_t i = 0; i < rows; i++) {
        int named = i < (size_t)x->classes;
        memcpy(table + i * D,
               (named ? own : old) + (named ? i : (size_t)x->base->facts.classes) * D,
               D * sizeof *table);
    }
    return table;
}

const float *ds_export_values(ds_exporter *x, int entry) {
    const ds_param *p = &x->base->table.items[entry];
    ds_affiner ad;
    if (x->values && x->entry == entry)
        return x->values;
    free(x->values);
    x->entry = entry;
    if (p->kind == DS_PARAM_TABLE)
        return x->values = class_table(x);
    x->values = ds_xmalloc(p->count * sizeof *x->values);
    const float *replaced = adapter_part(x, p->name);
    const float *from = replaced ? replaced : ds_base_values(x->base, entry, x->values);
    if (from != x->values)
        memcpy(x->values, from, p->count * sizeof *x->values);
    if (adapter_of(x, p->linear, &ad)) {
        if (p->kind == DS_PARAM_WEIGHT)
            fold_matrix(x->values, &ad);
        else
            fold_bias(x->values, x, &x->base->layers[p->linear], &ad);
    }
    return x->values;
}

/* ---------------------------------------------------------------- names */

static void add(ds_export_list *list, const ds_exporter *x, const char *name, int entry,
                size_t row0, size_t rows) {
    const ds_param *p = &x->base->table.items[entry];
    list->items = ds_xrealloc(list->items, (list->count + 1) * sizeof *list->items);
    ds_export_tensor *t = &list->items[list->count++];
    *t = (ds_export_tensor){.entry = entry, .ndim = p->ndim, .row0 = row0, .rows = rows};
    snprintf(t->name, sizeof t->name, "%s", name);
    for (int d = 0; d < p->ndim; d++)
        t->shape[d] = p->shape[d];
    if (p->kind == DS_PARAM_TABLE)
        t->shape[0] = x->out.classes + 1;
    if (rows)
        t->shape[0] = (int64_t)rows;
    else
        t->rows = (size_t)t->shape[0];
}

void ds_export_list_own(const ds_exporter *x, ds_export_list *list) {
    for (int i = 0; i < x->base->table.count; i++)
        add(list, x, x->base->table.items[i].name, i, 0, 0);
}

typedef struct {
    const ds_exporter *x;
    ds_export_list *list;
} listing;

static void add_diffusers(void *user, const char *name, int entry, size_t row0, size_t rows) {
    const listing *l = user;
    add(l->list, l->x, name, entry, row0, rows);
}

void ds_export_list_diffusers(const ds_exporter *x, ds_export_list *list) {
    listing l = {x, list};
    ds_layout_tensors(x->base, add_diffusers, &l);
}

/* ---------------------------------------------------------------- file */

static size_t tensor_count(const ds_export_tensor *t) {
    size_t n = 1;
    for (int d = 0; d < t->ndim; d++)
        n *= (size_t)t->shape[d];
    return n;
}

static int stored_bf16(const ds_exporter *x, const ds_export_tensor *t) {
    return x->o->bf16 && x->base->table.items[t->entry].kind == DS_PARAM_WEIGHT;
}

static char *header(const ds_exporter *x, const ds_export_list *list, const char *const *meta) {
    json_t *doc = json_object(), *m = json_object();
    size_t at = 0;
    for (; meta && meta[0]; meta += 2)
        json_object_set_new(m, meta[0], json_string(meta[1]));
    json_object_set_new(doc, "__metadata__", m);
    for (size_t i = 0; i < list->count; i++) {
        const ds_export_tensor *t = &list->items[i];
        json_t *shape = json_array();
        size_t bytes = tensor_count(t) * (stored_bf16(x, t) ? 2 : 4);
        for (int d = 0; d < t->ndim; d++)
            json_array_append_new(shape, json_integer(t->shape[d]));
        json_object_set_new(doc, t->name,
                            json_pack("{s:s, s:o, s:[I,I]}", "dtype",
                                      stored_bf16(x, t) ? "BF16" : "F32", "shape", shape,
                                      "data_offsets", (json_int_t)at, (json_int_t)(at + bytes)));
        at += bytes;
    }
    char *text = json_dumps(doc, JSON_COMPACT);
    json_decref(doc);
    DS_ASSERT(text);
    return text;
}

static int put(FILE *f, const void *p, size_t n, const char *path, ds_error *err) {
    return fwrite(p, 1, n, f) == n ? 0 : ds_fail_errno(err, "cannot write '%s'", path);
}

static int put_tensor(ds_exporter *x, const ds_export_tensor *t, FILE *f, const char *path,
                      ds_error *err) {
    size_t n = tensor_count(t), row = n / t->rows;
    if (ds_stop_asked())
        return ds_export_stopped(err);
    const float *from = ds_export_values(x, t->entry) + t->row0 * row;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(from[i]))
            return ds_fail(err, DS_EINTEGRITY, "tensor '%s' holds a value that is not finite",
                           t->name);
    if (!stored_bf16(x, t))
        return put(f, from, n * sizeof *from, path, err);
    uint16_t *half = ds_xmalloc(n * sizeof *half);
    for (size_t i = 0; i < n; i++)
        half[i] = ds_bf16_from_f32(from[i]);
    int rc = put(f, half, n * sizeof *half, path, err);
    free(half);
    return rc;
}

int ds_export_write(ds_exporter *x, const ds_export_list *list, const char *name,
                    const char *const *meta, ds_error *err) {
    char path[4352];
    ds_export_path(x, name, path);
    FILE *f = fopen(path, "wbe");
    if (!f)
        return ds_fail_errno(err, "cannot write '%s'", path);
    char *text = header(x, list, meta);
    size_t n = strlen(text), pad = (8 - n % 8) % 8;
    uint64_t length = n + pad; /* little-endian host: engine/files/safetensors.c */
    int rc = put(f, &length, 8, path, err);
    if (!rc)
        rc = put(f, text, n, path, err);
    if (!rc)
        rc = put(f, "        ", pad, path, err);
    free(text);
    for (size_t i = 0; !rc && i < list->count; i++)
        rc = put_tensor(x, &list->items[i], f, path, err);
    if (!rc && (fflush(f) || fsync(fileno(f))))
        rc = ds_fail_errno(err, "cannot write '%s'", path);
    if (fclose(f) && !rc)
        rc = ds_fail_errno(err, "cannot write '%s'", path);
    return rc;
}
