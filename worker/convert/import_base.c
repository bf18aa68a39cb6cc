/* worker/convert/import_base.c - a DiT and its VAE in any known format become canonical files. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/model/base_model.h"
#include "engine/names/dit_names.h"
#include "engine/files/st_stream.h"
#include "engine/names/vae_names.h"
#include "worker/convert/import.h"
#include "worker/convert/import_objective.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { CLASSES_MAX = 100000, INDEX_MAX = 16 << 20 };

/* ---------------------------------------------------------------- progress */

static int digest(const ds_weights *w, const ds_import_progress *p, char out[DS_HEX_SIZE],
                  ds_error *err) {
    ds_import_stage(p, "digest");
    return ds_weights_digest(w, out, p->step, p->user, err);
}

static int said_stop(const ds_import_progress *p, uint64_t done, uint64_t total, ds_error *err) {
    return ds_progress_say(p->step, p->user, (int64_t)done, (int64_t)total)
               ? ds_fail(err, DS_ECANCELED, "the import was cancelled")
               : 0;
}

/* ---------------------------------------------------------------- values */

/* A weight that is not a number makes every output one; better said now. */
static int all_finite(const void *data, enum ds_st_dtype dtype, size_t count) {
    const float *x = data;
    const uint16_t *h = data;
    uint32_t bad = 0;
    for (size_t i = 0; dtype == DS_ST_F32 && i < count; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        bad |= (u & 0x7f800000u) == 0x7f800000u;
    }
    for (size_t i = 0; dtype == DS_ST_BF16 && i < count; i++)
        bad |= (h[i] & 0x7f80u) == 0x7f80u;
    return !bad;
}

static int put_checked(ds_st_stream *out, const char *path, const char *name,
                       enum ds_st_dtype dtype, const void *data, size_t count, ds_error *err) {
    if (!all_finite(data, dtype, count))
        return ds_fail(err, DS_EINTEGRITY,
                       "'%.200s': tensor '%.120s' has values that are not finite", path, name);
    return ds_st_stream_put(out, data, count * ds_st_dtype_size(dtype), err);
}

static void set_json(ds_st_writer *w, const char *key, json_t *doc) {
    char *text = ds_json_canonical(doc);
    ds_st_writer_meta(w, key, text);
    free(text);
}

/* ---------------------------------------------------------------- names and classes */

/* "./DiT-XL-2-256x256.pt" -> "dit-xl-2-256x256": lower case, digits, '-', '.', '_'. */
static void name_of(const char *given, const char *source, char out[64]) {
    const char *from = given && *given ? given : source;
    size_t n = strlen(from), k = 0;
    while (from == source && n > 1 && from[n - 1] == '/')
        n--;
    if (from == source) {
        size_t start = n;
        while (start && from[start - 1] != '/')
            start--;
        from += start;
        n -= start;
        static const char *const endings[] = {".safetensors", ".pt",   ".pth",
                                              ".bin",         ".ckpt", ".index.json"};
        for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
            size_t m = strlen(endings[i]);
            if (n > m && !strncmp(from + n - m, endings[i], m))
                n -= m;
        }
    }
    for (size_t i = 0; i < n && k < 63; i++) {
        char c = from[i] >= 'A' && from[i] <= 'Z' ? (char)(from[i] + 32) : from[i];
        int ok = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                 (k && (c == '-' || c == '_' || c == '.'));
        if (ok)
            out[k++] = c;
        else if (k && out[k - 1] != '-')
            out[k++] = '-';
    }
    out[k] = 0;
    if (!k)
        snprintf(out, 64, "base");
}

/* Names of the classes from a diffusers folder's model_index.json (id2label), or NULL: a list with
 * one name for each class. */
static json_t *class_names(const ds_weights *w, int classes) {
    char *path = ds_xasprintf("%s/../model_index.json", ds_weights_dir(w));
    json_t *doc = NULL, *list = NULL;
    if (classes <= CLASSES_MAX && ds_fs_exists(path) &&
        !ds_json_read_file(path, INDEX_MAX, &doc, NULL)) {
        const json_t *labels = json_object_get(doc, "id2label");
        list = json_is_object(labels) ? json_array() : NULL;
        for (int i = 0; list && i < classes; i++) {
            char key[16];
            snprintf(key, sizeof key, "%d", i);
            json_t *label = json_object_get(labels, key);
            if (!json_is_string(label)) {
                json_decref(list);
                list = NULL;
            } else
                json_array_append(list, label);
        }
    }
    json_decref(doc);
    free(path);
    return list;
}

/* ---------------------------------------------------------------- the VAE */

typedef struct {
    ds_weights *w;
    const ds_vae_config *c;
    ds_st_writer *writer;
    ds_st_stream *out; /* NULL: declare, else write */
    const ds_import_progress *progress;
    uint64_t done;
    int64_t parameters;
    int rc;
    ds_error *err;
} vae_copy;

static enum ds_st_dtype kept_dtype(const ds_weights_tensor *t) {
    return t->dtype == DS_ST_BF16 ? DS_ST_BF16 : DS_ST_F32;
}

static void copy_vae_tensor(void *user, const char *name, int ndim, const int64_t *shape) {
    vae_copy *k = user;
    const ds_weights_tensor *t;
    if (k->rc || (k->rc = ds_vae_names_find(k->w, k->c, name, ndim, shape, &t, k->err)))
        return;
    enum ds_st_dtype dtype = kept_dtype(t);
    if (!k->out) {
        ds_st_writer_add(k->writer, name, dtype, ndim, shape, NULL);
        k->parameters += (int64_t)t->count;
        return;
    }
    void *data = ds_xmalloc(t->count * ds_st_dtype_size(dtype));
    k->rc = dtype == DS_ST_BF16 ? ds_weights_read_bf16(k->w, t, data, k->err)
                                : ds_weights_read_f32(k->w, t, data, k->err);
    if (!k->rc)
        k->rc = put_checked(k->out, ds_weights_path(k->w), name, dtype, data, t->count, k->err);
    free(data);
    k->done += t->bytes;
    if (!k->rc)
        k->rc = said_stop(k->progress, k->done, ds_weights_file_bytes(k->w), k->err);
}

static int write_vae(ds_weights *w, const ds_vae_config *c, const char *spelling,
                     const ds_import_options *o, ds_import_result *r, ds_error *err) {
    char sha[DS_HEX_SIZE], *path = NULL;
    int64_t bytes;
    int rc = digest(w, &o->progress, sha, err);
    if (rc)
        return rc;
    ds_import_stage(&o->progress, "convert");
    vae_copy k = {
        .w = w, .c = c, .writer = ds_st_writer_new(), .progress = &o->progress, .err = err};
    json_t *config = ds_vae_config_to_json(c);
    set_json(k.writer, "diffscaler.vae", config);
    json_decref(config);
    char *format = ds_xasprintf("VAE of %s, %s", spelling, ds_weights_format(w));
    ds_st_writer_meta(k.writer, "diffscaler.kind", "vae");
    ds_st_writer_meta(k.writer, "diffscaler.source_format", format);
    ds_st_writer_meta(k.writer, "diffscaler.source_sha256", sha);
    free(format);
    ds_vae_tensors(c, copy_vae_tensor, &k);
    rc = k.rc ? k.rc : ds_st_stream_open(&k.out, k.writer, o->out_dir, err);
    if (!rc) {
        ds_vae_tensors(c, copy_vae_tensor, &k);
        rc = k.rc ? k.rc : ds_weights_unchanged(w, err);
        if (rc)
            ds_st_stream_abort(k.out);
        else
            rc = ds_st_stream_finish(k.out, r->vae_sha256, &path, &bytes, &r->new_vae_file, err);
    }
    if (!rc)
        snprintf(r->vae_file, sizeof r->vae_file, "%s", path);
    free(path);
    ds_st_writer_free(k.writer);
    return rc;
}

/* The VAE that was given, or the source folder's own; *scale stays when there is none. */
static int import_vae(const ds_import_options *o, int channels, double *scale, ds_import_result *r,
                      ds_error *err) {
    char *own = ds_xasprintf("%s/vae", o->source);
    const char *path = o->vae && *o->vae ? o->vae : ds_fs_exists(own) ? own : NULL, *spelling;
    ds_weights *w = NULL;
    ds_vae_config c;
    int rc = path ? ds_weights_open(&w, path, "vae", err) : 0;
    if (!rc && path) {
        ds_weights_want(w, NULL, "vae_weights", o->report);
        rc = ds_vae_names_open(w, &c, &spelling, err);
    }
    if (!rc && path && c.latent_channels != channels)
        rc = ds_fail(
            err, DS_EINVAL,
            "the VAE '%.160s' has %d latent channels, the base takes %d: another VAE is needed",
            path, c.latent_channels, channels);
    if (!rc && path) {
        *scale = c.scaling_factor;
        rc = write_vae(w, &c, spelling, o, r, err);
    }
    ds_weights_close(w);
    free(own);
    return rc;
}

/* ---------------------------------------------------------------- the base */

static void describe(ds_st_writer *writer, const ds_dit_names *d, const ds_weights *w,
                     const ds_import_result *r) {
    const ds_params *table = ds_dit_names_table(d);
    json_t *names = class_names(w, ds_dit_names_facts(d).classes);
    set_json(writer, "diffscaler.config", r->config);
    const char *own = ds_weights_meta(w, "diffscaler.classes");
    if (own)
        ds_st_writer_meta(writer, "diffscaler.classes", own);
    else if (names)
        set_json(writer, "diffscaler.classes", names);
    json_decref(names);
    const char *const pairs[][2] = {{"diffscaler.name", r->name},
                                    {"diffscaler.license", r->license},
                                    {"diffscaler.source_format", r->source_format},
                                    {"diffscaler.source_sha256", r->source_sha256}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if (*pairs[i][1])
            ds_st_writer_meta(writer, pairs[i][0], pairs[i][1]);
    for (int i = 0; i < table->count; i++) {
        const ds_param *p = &table->items[i];
        int64_t shape[4];
        for (int k = 0; k < p->ndim; k++)
            shape[k] = p->shape[k];
        ds_st_writer_add(writer, p->name, ds_dit_names_dtype(d, i), p->ndim, shape, NULL);
    }
}

static int copy_tensors(const ds_dit_names *d, const ds_weights *w, ds_st_stream *out,
                        const ds_import_progress *p, ds_error *err) {
    const ds_params *table = ds_dit_names_table(d);
    uint64_t done = 0, total = 0;
    size_t largest = 0;
    for (int i = 0; i < table->count; i++) {
        total += table->items[i].count * sizeof(float);
        largest = table->items[i].count > largest ? table->items[i].count : largest;
    }
    void *data = ds_xmalloc(largest * sizeof(float));
    int rc = 0;
    ds_import_stage(p, "convert");
    for (int i = 0; !rc && i < table->count; i++) {
        const ds_param *q = &table->items[i];
        rc = ds_dit_names_read(d, i, data, err);
        rc = rc ? rc
                : put_checked(out, ds_weights_path(w), q->name, ds_dit_names_dtype(d, i), data,
                              q->count, err);
        done += q->count * sizeof(float);
        rc = rc ? rc : said_stop(p, done, total, err);
    }
    free(data);
    return rc;
}

static int write_base(ds_weights *w, const ds_dit_names *d, const ds_import_options *o,
                      ds_import_result *r, ds_error *err) {
    ds_st_writer *writer = ds_st_writer_new();
    ds_st_stream *out = NULL;
    char *path = NULL;
    describe(writer, d, w, r);
    int rc = ds_st_stream_open(&out, writer, o->out_dir, err);
    if (!rc) {
        rc = copy_tensors(d, w, out, &o->progress, err);
        rc = rc ? rc : ds_weights_unchanged(w, err);
        if (rc)
            ds_st_stream_abort(out);
        else
            rc = ds_st_stream_finish(out, r->sha256, &path, &r->bytes, &r->new_file, err);
    }
    if (!rc)
        snprintf(r->file, sizeof r->file, "%s", path);
    r->parameters = (int64_t)ds_dit_names_table(d)->total;
    free(path);
    ds_st_writer_free(writer);
    return rc;
}

static int convert(ds_weights *w, const ds_dit_names *d, const ds_import_options *o,
                   ds_import_result *r, ds_error *err) {
    ds_facts c = ds_dit_names_facts(d);
    const char *wrapper = ds_weights_wrapper(w),
               *license = ds_weights_meta(w, "diffscaler.license");
    name_of(o->name && *o->name ? o->name : ds_weights_meta(w, "diffscaler.name"), o->source,
            r->name);
    snprintf(r->license, sizeof r->license, "%s",
             o->license && *o->license ? o->license
             : license                 ? license
                                       : "");
    snprintf(r->source_format, sizeof r->source_format, "%s, %s%s%s", ds_dit_names_layout(d),
             ds_weights_format(w), *wrapper ? ", " : "", wrapper);
    ds_json_mend_text(r->license); /* both may be cut, and a file holds only text */
    ds_json_mend_text(r->source_format);
    int rc = c.pixel && o->vae && *o->vae
                 ? ds_fail(err, DS_EINVAL,
                           "'%.200s' makes pictures of %d channels, not latents: it takes no VAE",
                           o->source, c.channels)
                 : 0;
    rc = rc ? rc : digest(w, &o->progress, r->source_sha256, err);
    if (!rc && !c.pixel)
        rc = import_vae(o, c.channels, &c.latent_scale, r, err);
    if (rc)
        return rc;
    if (!c.pixel && !*r->vae_file && !ds_weights_meta(w, "diffscaler.config"))
        ds_import_report_assumed(o->report, "latent_scale", json_real(c.latent_scale),
                                 "that of Stable Diffusion's VAE, as none was given");
    r->config = ds_dit_names_json(d, c.latent_scale);
    return write_base(w, d, o, r, err);
}

/* What an import that fails or is refused has written goes again. */
static void remove_new(const ds_import_result *r) {
    if (r->new_file && *r->file)
        ds_fs_remove(r->file, NULL);
    if (r->new_vae_file && *r->vae_file)
        ds_fs_remove(r->vae_file, NULL);
}

/* The measurement found what the file's configuration must say, and does not yet. */
static int write_again(ds_weights *w, ds_dit_names *d, const ds_import_options *o,
                       const ds_flow *flow, ds_import_result *r, ds_error *err) {
    double scale = ds_json_number(r->config, "latent_scale", 0);
    if (r->new_file)
        ds_fs_remove(r->file, NULL);
    ds_dit_names_set_flow(d, flow);
    json_decref(r->config);
    r->config = ds_dit_names_json(d, scale);
    return write_base(w, d, o, r, err);
}

int ds_import_base(const ds_import_options *o, ds_import_result *out, ds_error *err) {
    ds_weights *w;
    ds_dit_names *d = NULL;
    ds_objective_claim claim;
    ds_flow flow;
    *out = (ds_import_result){0};
    struct stat st;
    if (o->probe && *o->probe && (stat(o->probe, &st) || !S_ISDIR(st.st_mode)))
        return ds_fail(err, DS_ENOTFOUND, "there is no folder '%s' of pictures to probe with",
                       o->probe);
    /* EMAModel.save_pretrained puts the averaged ones into a folder beside the others */
    char *averaged = ds_xasprintf("%s/transformer_ema", o->source);
    int ema = ds_fs_exists(averaged) && strcmp(o->weights ? o->weights : "", "model") != 0;
    free(averaged);
    int rc = ds_weights_open(&w, o->source, ema ? "transformer_ema" : "transformer", err);
    if (rc)
        return rc;
    if (ema)
        ds_import_report_ignored(o->report, "transformer/",
                                 "transformer_ema/ beside it has the averaged weights");
    const char *which = o->weights; /* the folder itself, or a model of several in its file */
    if (ema && which && (!strcmp(which, "ema") || !strcmp(which, "transformer_ema")))
        which = NULL;
    ds_weights_want(w, which, "weights", o->report);
    rc = ds_dit_names_open(&d, w, o->heads, err);
    rc = rc ? rc : ds_import_objective_said(&claim, o, w, d, err);
    if (!rc)
        ds_dit_names_set_flow(d, &claim.flow);
    rc = rc ? rc : convert(w, d, o, out, err);
    rc = rc ? rc : ds_import_objective_find(&claim, o, out, &flow, err);
    if (!rc && (flow.path != claim.flow.path || flow.to_data != claim.flow.to_data ||
                flow.scale != claim.flow.scale || flow.shift != claim.flow.shift))
        rc = write_again(w, d, o, &flow, out, err);
    ds_dit_names_free(d);
    ds_weights_close(w);
    if (rc) {
        remove_new(out);
        ds_import_result_release(out);
    }
    return rc;
}
