/* worker/convert/export_peft.c - the adapter as low-rank factors and vectors, named after
 * diffusers' modules.
 *
 *   MODULE.lora_A.weight (r,n) = V     MODULE.lora_B.weight (m,r) = s U
 *   MODULE.affiner_a, .affiner_b       scale and shift of the output (side in: of the input)
 *   y = a (W x) + bias + b + B phi(A x)        side in: y = W (a x + b) + bias + B phi(A x)
 *
 * q, k and v are layers of their own, as in diffusers.  adapter_config.json says what it is; its
 * peft_type is no type of the PEFT library, so that nobody loads half of it by mistake. */
#include "base/fs.h"
#include "base/json.h"
#include "engine/names/dit_layouts.h"
#include "worker/convert/export_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    ds_st_writer *w;
    const ds_exporter *x;
    json_t *modules;
} peft;

static void put(peft *p, const char *module, const char *part, int rows, int cols,
                const float *values) {
    char name[192];
    int64_t shape[2] = {rows, cols};
    snprintf(name, sizeof name, "base_model.model.%s.%s", module, part);
    ds_st_writer_add_f32(p->w, name, p->x->o->bf16 && cols ? DS_ST_BF16 : DS_ST_F32, cols ? 2 : 1,
                         shape, values);
}

static void put_segment(peft *p, const ds_affiner *ad, int g, const char *module) {
    size_t n = (size_t)ad->n, r = (size_t)ad->r, rows = (size_t)(ad->m / ad->segs);
    size_t at = ad->side_in ? 0 : (size_t)g * rows, count = ad->side_in ? n : rows;
    json_array_append_new(p->modules, json_string(module));
    if (ad->a)
        put(p, module, "affiner_a", (int)count, 0, ad->a + at);
    if (ad->b)
        put(p, module, "affiner_b", (int)count, 0, ad->b + at);
    if (!r)
        return;
    float *B = ds_xmalloc(rows * r * sizeof *B);
    for (size_t i = 0; i < rows * r; i++)
        B[i] = ad->s[g] * ad->U[(size_t)g * rows * r + i];
    put(p, module, "lora_A.weight", ad->r, ad->n, ad->V + (size_t)g * r * n);
    put(p, module, "lora_B.weight", (int)rows, ad->r, B);
    free(B);
}

static void put_layer(peft *p, int linear) {
    const ds_adapter *a = p->x->adapter;
    const ds_layer_shape *l = &p->x->base->layers[linear];
    ds_adapter_slot slot;
    const int copies = ds_layout_copies(p->x->base, linear);
    if (!ds_adapter_find(&a->table, linear, a->spec.rank, &slot))
        return;
    ds_affiner ad = ds_adapter_view(&a->spec, l, &slot, a->data);
    for (int block = 0; block < copies; block++)
        for (int g = 0; g < l->segs; g++) {
            unsigned target = l->segs == 3 ? (unsigned)(DS_TARGET_Q << g) : l->targets;
            char module[96];
            ds_layout_module(p->x->base, linear, g, block, module);
            if (a->spec.targets & target)
                put_segment(p, &ad, g, module);
        }
}

static json_t *config(const peft *p) {
    const ds_adapter *a = p->x->adapter;
    json_t *classes = json_array();
    for (int i = 0; i < a->spec.classes; i++)
        json_array_append_new(classes, json_string(a->class_names[i]));
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:i, s:i, s:s, s:s, s:O, s:o, s:i, s:s}", "peft_type",
        "DIFFSCALER_AFFINER", "note",
        "not a type of the PEFT library, which cannot load it: LoRA factors plus scale and shift",
        "base_model_name_or_path", p->x->base->name, "base_sha256", p->x->base->sha256, "r",
        a->spec.rank, "lora_alpha", a->spec.rank, "side", a->spec.side_in ? "in" : "out", "phi",
        a->spec.phi_relu ? "relu" : "identity", "target_modules", p->modules, "classes", classes,
        "null_row", p->x->base->facts.classes, "formula",
        a->spec.side_in ? "y = W (a * x + b) + bias + B phi(A x)"
                        : "y = a * (W x) + bias + b + B phi(A x)");
}

static int write_files(const peft *p, ds_error *err) {
    char path[4352], *bytes = NULL;
    size_t n;
    json_t *doc = config(p);
    ds_export_path(p->x, "adapter_config.json", path);
    int rc = ds_json_write_file(path, doc, err);
    json_decref(doc);
    if (!rc)
        rc = ds_st_writer_finish(p->w, &bytes, &n, err);
    ds_export_path(p->x, "adapter_model.safetensors", path);
    if (!rc)
        rc = ds_fs_write(path, bytes, n, err);
    free(bytes);
    return rc;
}

int ds_export_peft(ds_exporter *x, ds_error *err) {
    const ds_adapter *a = x->adapter;
    peft p = {.w = ds_st_writer_new(), .x = x, .modules = json_array()};
    ds_st_writer_meta(p.w, "format", "pt");
    for (int i = 0; i < x->base->layer_count; i++)
        put_layer(&p, i);
    size_t rows = ds_adapter_rows(&a->table);
    if (rows != SIZE_MAX)
        put(&p, "class_embedder", "rows", a->spec.classes, x->base->row_width, a->data + rows);
    int rc = write_files(&p, err);
    json_decref(p.modules);
    ds_st_writer_free(p.w);
    return rc;
}
