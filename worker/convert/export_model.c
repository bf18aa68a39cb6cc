/* worker/convert/export_model.c - the merged model: folding, names, and files written tensor by
 * tensor. */
#include "base/fs.h"
#include "base/json.h"
#include "worker/convert/export_internal.h"
#include "worker/job/stop.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char table_name[] = "y_embedder.embedding_table.weight";

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
static void fold_bias(float *bias, const ds_exporter *x, const ds_linear *lin,
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
    size_t D = (size_t)x->base->cfg.width, rows = (size_t)x->out.classes + 1;
    const ds_param *p = ds_params_find(&x->base->table, table_name);
    const float *old = adapter_part(x, table_name), *own = adapter_part(x, "y_embedder.rows");
    if (!old)
        old = ds_base_held(x->base, (int)(p - x->base->table.items));
    if (!own)
        own = old;
    float *table = ds_xmalloc(rows * D * sizeof *table);
    for (size_t i = 0; i < rows; i++) {
        int named = i < (size_t)x->classes;
        memcpy(table + i * D, (named ? own : old) + (named ? i : (size_t)x->base->cfg.classes) * D,
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

void ds_export_list_dit(const ds_exporter *x, ds_export_list *list) {
    for (int i = 0; i < x->base->table.count; i++)
        add(list, x, x->base->table.items[i].name, i, 0, 0);
}

/* Source: diffusers scripts/convert_dit_to_diffusers.py. */
void ds_export_module(const ds_base *base, int linear, int g, int block, char out[96]) {
    const ds_dit_config *c = &base->cfg;
    static const char *const in_block[] = {NULL, "attn1.to_out.0", "ff.net.0.proj", "ff.net.2",
                                           "norm1.linear"};
    static const char *const qkv[] = {"attn1.to_q", "attn1.to_k", "attn1.to_v"};
    if (linear == DS_LIN_PATCH)
        snprintf(out, 96, "pos_embed.proj");
    else if (linear == DS_LIN_TIME0 || linear == DS_LIN_TIME2)
        snprintf(out, 96, "transformer_blocks.%d.norm1.emb.timestep_embedder.linear_%d", block,
                 linear == DS_LIN_TIME0 ? 1 : 2);
    else if (linear == ds_lin_final_adaln(c))
        snprintf(out, 96, "proj_out_1");
    else if (linear == ds_lin_final(c))
        snprintf(out, 96, "proj_out_2");
    else {
        int i = (linear - DS_LIN_BLOCKS) / DS_LIN_PER_BLOCK,
            which = (linear - DS_LIN_BLOCKS) % DS_LIN_PER_BLOCK;
        snprintf(out, 96, "transformer_blocks.%d.%s", i,
                 which == DS_LIN_QKV ? qkv[g] : in_block[which]);
    }
}

static void add_layer(ds_export_list *list, const ds_exporter *x, int linear, int block) {
    const ds_linear *l = &x->base->layers[linear];
    size_t rows = (size_t)(l->m / l->segs);
    char module[96], name[128];
    for (int bias = 0; bias < 2; bias++)
        for (int g = 0; g < l->segs; g++) {
            ds_export_module(x->base, linear, g, block, module);
            snprintf(name, sizeof name, "%s.%s", module, bias ? "bias" : "weight");
            add(list, x, name, bias ? l->bias : l->weight, (size_t)g * rows, rows);
        }
}

void ds_export_list_diffusers(const ds_exporter *x, ds_export_list *list) {
    const ds_dit_config *c = &x->base->cfg;
    char name[128];
    add_layer(list, x, DS_LIN_PATCH, 0);
    for (int i = 0; i < c->depth; i++) {
        add_layer(list, x, DS_LIN_TIME0, i); /* the same in every block */
        add_layer(list, x, DS_LIN_TIME2, i);
        snprintf(name, sizeof name,
                 "transformer_blocks.%d.norm1.emb.class_embedder.embedding_table.weight", i);
        add(list, x, name,
            (int)(ds_params_find(&x->base->table, table_name) - x->base->table.items), 0, 0);
        add_layer(list, x, ds_lin_block(i, DS_LIN_ADALN), i);
        for (int which = DS_LIN_QKV; which <= DS_LIN_FC2; which++)
            add_layer(list, x, ds_lin_block(i, which), i);
    }
    add_layer(list, x, ds_lin_final_adaln(c), 0);
    add_layer(list, x, ds_lin_final(c), 0);
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
