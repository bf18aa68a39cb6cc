/* tests/worker/test_worker_export.c - the way back: what is exported gives the output of the adapter
 * folded into its base, through this program's own readers; what cannot be held is refused; the
 * card says what it must.  With DS_PARITY_OUT=DIR the exports and what they must give are left
 * there for tools/parity/export.py. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "engine/model/dit.h"
#include "engine/diffusion/sampler.h"
#include "engine/files/weights.h"
#include "tests/harness.h"
#include "worker/convert/export.h"
#include "worker/convert/import.h"
#include "worker/job/stop.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIDE = 8, CHANNELS = 4, CLASSES = 3, B = 4, ONE = SIDE * SIDE * CHANNELS, STEPS = 20 };

#define VAE "tests/golden/vae.safetensors"

static ds_dit_config shape(int diffusers) {
    return (ds_dit_config){.channels = CHANNELS,
                           .side = SIDE,
                           .patch = 2,
                           .width = 32,
                           .depth = 3,
                           .heads = 2,
                           .mlp_ratio = 4,
                           .classes = 5,
                           .learn_sigma = 1,
                           .freq_dim = 256,
                           .time_shift = diffusers,
                           .guidance_channels = diffusers ? 0 : 3,
                           .norm2_eps_e6 = diffusers ? 10 : 1,
                           .train_steps = 1000,
                           .beta_start = 1e-4,
                           .beta_end = 2e-2,
                           .latent_scale = 0.18215};
}

typedef struct {
    char *base, *adapter, *dir;
    ds_base *b;
    ds_adapter *a;
} world;

static void randomise(float *x, size_t n, uint32_t stream, double scale) {
    ds_rng_normal(x, n, 5, DS_STREAM_TEST, stream, 0);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(x[i] * scale);
}

static void make_base(world *w, int diffusers) {
    ds_dit_config c = shape(diffusers);
    ds_base *b;
    const char *const meta[] = {"diffscaler.name",
                                "random-dit",
                                "diffscaler.license",
                                "cc-by-nc-4.0",
                                "diffscaler.source_format",
                                "PyTorch zip",
                                NULL};
    ck_assert_int_eq(ds_dit_base_new(&b, &c, 3, NULL), 0);
    for (int i = 1; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i];
        randomise(b->data + p->offset, p->count, (uint32_t)i,
                  p->ndim > 1 ? 1.0 / sqrt((double)p->count / p->shape[0]) : 0.1);
    }
    w->base = ds_xasprintf("%s/base.safetensors", w->dir);
    ck_assert_int_eq(ds_base_save(b, w->base, 0, meta, NULL), 0);
    ds_base_free(b);
    ck_assert_int_eq(ds_base_open(&w->b, w->base, NULL, NULL), 0);
}

static int trained_in; /* guidance */
static json_t *card_facts(void) {
    json_t *f = json_pack(
        "{s:s, s:i, s:{s:s, s:s, s:i}, s:{s:i, s:i, s:f, s:i}, s:{s:s, s:s}, s:s, "
        "s:[{s:s, s:s, s:f, s:i, s:i, s:i}], s:{s:s, s:i, s:f, s:s}}",
        "name", "birds", "steps", 900, "dataset", "name", "bird-photos", "tree_digest", "feedbeef",
        "images", 123, "train", "steps", 1200, "batch", 64, "lr", 0.001, "seed", 17, "feature_net",
        "name", "inception-v3", "sha256", "0123abcd", "resize", "pil-bicubic-1", "metrics",
        "subject", "adapter", "metric", "fd", "value", 12.5, "n_real", 1024, "n_fake", 512, "seed",
        7, "sample", "sampler", "dpmpp2m", "steps", 20, "guidance", 1.5, "guidance_mode", "cfg");
    if (trained_in) {
        json_object_set_new(json_object_get(f, "train"), "trained_guidance", json_real(1.75));
        json_object_set_new(json_object_get(f, "sample"), "guidance_mode", json_string("none"));
        json_object_set_new(json_object_get(f, "sample"), "guidance_low", json_real(0.5));
    }
    return f;
}

/* An adapter with every value away from its start, as it is read back from its file. */
static void make_adapter(world *w, const ds_method_spec *spec, int asleep) {
    ds_adapter *a;
    char *bytes;
    size_t n;
    ck_assert_int_eq(ds_adapter_new(&a, w->b, spec, NULL), 0);
    for (int i = 0; i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        float *x = a->data + p->offset, *noise = ds_xmalloc(p->count * sizeof *noise);
        randomise(noise, p->count, 100 + (uint32_t)i, 0.2);
        for (size_t j = 0; j < p->count && !p->frozen && p->kind != DS_PARAM_V; j++)
            x[j] += asleep && p->kind == DS_PARAM_S ? 0 : noise[j];
        free(noise);
    }
    a->class_names = ds_xcalloc(CLASSES + 1, sizeof *a->class_names);
    for (int i = 0; i < CLASSES; i++)
        a->class_names[i] = ds_xasprintf("class %d", i);
    json_t *facts = card_facts();
    ck_assert_int_eq(ds_adapter_encode(a, w->b, facts, &bytes, &n, NULL), 0);
    json_decref(facts);
    w->adapter = ds_xasprintf("%s/adapter.safetensors.zst", w->dir);
    ck_assert_int_eq(ds_zio_write_file(w->adapter, bytes, n, 3, NULL), 0);
    free(bytes);
    ds_adapter_free(a);
    ck_assert_int_eq(ds_adapter_open(&w->a, w->b, w->adapter, NULL, NULL), 0);
}

static const ds_method_spec methods[] = {
    {.method = DS_METHOD_AFFINER, .rank = 4, .targets = 1023, .classes = CLASSES, .seed = 9},
    {.method = DS_METHOD_AFFINER,
     .rank = 4,
     .side_in = 1,
     .targets = DS_TARGET_DEFAULT,
     .classes = CLASSES,
     .seed = 9},
    {.method = DS_METHOD_AFFINER,
     .rank = 3,
     .freeze_v = 1,
     .targets = DS_TARGET_Q | DS_TARGET_V | DS_TARGET_FC1,
     .classes = CLASSES,
     .seed = 9},
    {.method = DS_METHOD_EMBEDDING, .classes = CLASSES, .seed = 9},
    {.method = DS_METHOD_FULL, .classes = CLASSES, .seed = 9},
    {.method = DS_METHOD_BITFIT, .classes = CLASSES, .seed = 9}};
enum { METHODS = sizeof methods / sizeof methods[0] };

static world open_world(int diffusers, const ds_method_spec *spec, int asleep) {
    world w = {0};
    const char *keep = getenv("DS_PARITY_OUT");
    if (keep)
        w.dir = ds_xasprintf("%s/%s-%d", keep, diffusers ? "diffusers" : "facebook",
                             (int)(spec - methods));
    else
        w.dir = ds_xasprintf("%s/w", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_remove(w.dir, NULL), 0);
    ck_assert_int_eq(ds_fs_mkdirs(w.dir, NULL), 0);
    make_base(&w, diffusers);
    make_adapter(&w, spec, asleep);
    return w;
}

static void close_world(world *w) {
    ds_adapter_free(w->a);
    ds_base_free(w->b);
    free(w->base);
    free(w->adapter);
    free(w->dir);
}

static char notes[4096];
static void on_note(void *user, const char *line) {
    (void)user;
    snprintf(notes + strlen(notes), sizeof notes - strlen(notes), "%s\n", line);
}

static char *in(const world *w, const char *name) { return ds_xasprintf("%s/%s", w->dir, name); }

static char *export_with(const world *w, enum ds_export_format format, int merge, const char *vae,
                         const char *name) {
    char *out = in(w, name);
    ds_export_options o = {.base = w->base,
                           .adapter = w->adapter,
                           .vae = vae,
                           .out_dir = out,
                           .format = format,
                           .merge = merge,
                           .measure = 1};
    ds_error err;
    notes[0] = 0;
    ck_assert_msg(!ds_export(&o, on_note, NULL, &err), "%s", err.message);
    return out;
}

static char *export(const world *w, enum ds_export_format format, int merge, const char *name) {
    return export_with(w, format, merge, NULL, name);
}

/* ---------------------------------------------------------------- outputs */

static const ds_device_options f32 = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 2};

/* Noise predictions of classes 0..2 and no class; row: of the adapter, else of the base. */
static void predict(const ds_base *b, const ds_adapter *a, float *x, float *out) {
    ds_device *dev;
    ds_model *model;
    ds_net *net;
    ds_net_sample cond[B];
    ck_assert_int_eq(ds_device_open(&dev, &f32, NULL), 0);
    ck_assert_int_eq(ds_model_new(&model, dev, b, NULL), 0);
    ck_assert_int_eq(ds_net_new(&net, model, DS_NET_INFER, &a, a != NULL, B, NULL), 0);
    for (int i = 0; i < B; i++) {
        int named = i < CLASSES;
        ds_rng_normal(x + i * ONE, ONE, 8, DS_STREAM_SAMPLE, 0, (uint64_t)i);
        cond[i] = (ds_net_sample){.t = (float)(37 + 250 * i),
                                  .row = named && a ? i : -1,
                                  .base_row = named && a ? -1
                                              : named    ? i
                                                         : b->facts.classes};
    }
    ds_net_forward(net, out, &(ds_net_input){.x = x, .samples = cond}, B);
    ds_net_free(net);
    ds_model_free(model);
    ds_device_close(dev);
}

static double relative(const float *a, const float *b, size_t n) {
    double worst = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)a[i] - b[i]));
        most = fmax(most, fabs((double)a[i]));
    }
    ck_assert(most > 0.1);
    return worst / most;
}

/* Each output is some 600 products of f32 rounded otherwise: 2^-24 times a few hundred. */
static const double CLOSE = 2e-5;

static void same_output(const world *w, const ds_base *got) {
    static float x[B * ONE], want[2 * B * ONE], have[2 * B * ONE];
    predict(w->b, w->a, x, want);
    predict(got, NULL, x, have);
    double d = relative(want, have, 2 * B * ONE);
    ck_assert_msg(d <= CLOSE, "differs by %g", d);
}

START_TEST(a_merged_base_is_the_adapter_folded) {
    world w = open_world(_i % 2, &methods[_i / 2], 0);
    ds_base *b;
    ds_error err;
    char *out = export(&w, DS_EXPORT_SAFETENSORS, 1, "merged"),
         *file = ds_xasprintf("%s/model.safetensors", out);
    ck_assert_msg(!ds_base_open(&b, file, NULL, &err), "%s", err.message);
    ck_assert_str_eq(notes, "");
    ck_assert_str_eq(b->name, "random-dit-birds");
    ck_assert_int_eq(b->facts.classes, CLASSES);
    ck_assert_int_eq(ds_dit_config_of(b)->norm2_eps_e6, ds_dit_config_of(w.b)->norm2_eps_e6);
    ck_assert_int_eq(ds_dit_config_of(b)->time_shift, ds_dit_config_of(w.b)->time_shift);
    same_output(&w, b);
    ds_base_free(b);
    free(file);
    free(out);
    close_world(&w);
}
END_TEST

/* Through the import of other programs' files, with the properties that those have. */
static void import_and_compare(const world *w, const char *src) {
    ds_import_result r;
    ds_base *b;
    ds_error err;
    char *dir = in(w, "imported");
    ck_assert_int_eq(ds_fs_mkdirs(dir, NULL), 0);
    ds_import_options o = {.source = src, .name = "back", .out_dir = dir, .heads = 2};
    ck_assert_msg(!ds_import_base(&o, &r, &err), "%s", err.message);
    ck_assert_msg(!ds_base_open(&b, r.file, NULL, &err), "%s", err.message);
    ck_assert_int_eq(b->facts.classes, 1000);
    ck_assert_int_eq(ds_dit_config_of(b)->time_shift, ds_dit_config_of(w->b)->time_shift);
    ck_assert_int_eq(ds_dit_config_of(b)->norm2_eps_e6, ds_dit_config_of(w->b)->norm2_eps_e6);
    same_output(w, b);
    ds_base_free(b);
    ds_import_result_release(&r);
    ck_assert_int_eq(ds_fs_remove(dir, NULL), 0);
    free(dir);
}

static void same_tensors(const char *a, const char *b) {
    ds_weights *x, *y;
    ds_error err;
    ck_assert_msg(!ds_weights_open(&x, a, NULL, &err), "%s", err.message);
    ck_assert_msg(!ds_weights_open(&y, b, NULL, &err), "%s", err.message);
    ck_assert_uint_eq(ds_weights_count(x), ds_weights_count(y));
    for (size_t i = 0; i < ds_weights_count(x); i++) {
        const ds_weights_tensor *s = ds_weights_at(x, i), *t = ds_weights_at(y, i);
        ck_assert_str_eq(s->name, t->name);
        ck_assert(s->dtype == t->dtype && s->ndim == t->ndim && s->bytes == t->bytes);
        for (int d = 0; d < s->ndim; d++)
            ck_assert_int_eq(s->shape[d], t->shape[d]);
        char *p = ds_xmalloc(s->bytes), *q = ds_xmalloc(s->bytes);
        ck_assert_int_eq(ds_weights_read(x, s, p, NULL), 0);
        ck_assert_int_eq(ds_weights_read(y, t, q, NULL), 0);
        ck_assert_msg(!memcmp(p, q, s->bytes), "%s", s->name);
        free(p);
        free(q);
    }
    ds_weights_close(x);
    ds_weights_close(y);
}

START_TEST(facebook_layout_comes_back) {
    world w = open_world(0, &methods[_i], 0);
    char *out = export(&w, DS_EXPORT_DIT, 0, "dit"),
         *st = ds_xasprintf("%s/model.safetensors", out), *pt = ds_xasprintf("%s/model.pt", out);
    ck_assert_str_eq(notes, "");
    same_tensors(st, pt);
    import_and_compare(&w, st);
    import_and_compare(&w, pt);
    free(st);
    free(pt);
    free(out);
    close_world(&w);
}
END_TEST

START_TEST(diffusers_layout_comes_back) {
    world w = open_world(1, &methods[_i], 0);
    char *out = export(&w, DS_EXPORT_DIFFUSERS, 0, "diffusers");
    ck_assert_str_eq(notes, "");
    import_and_compare(&w, out);
    free(out);
    close_world(&w);
}
END_TEST

/* ---------------------------------------------------------------- what is said and refused */

START_TEST(other_properties_are_said_with_their_effect) {
    world w = open_world(0, &methods[0], 0);
    char *out = export(&w, DS_EXPORT_DIFFUSERS, 0, "diffusers"), *text,
         *card = ds_xasprintf("%s/README.md", out);
    size_t n;
    ck_assert(!strncmp(notes, "diffusers cannot represent this base exactly: it spaces", 55));
    ck_assert_ptr_nonnull(strstr(notes, "by 1/127, the base by 1/128"));
    ck_assert_ptr_null(strstr(notes, "LayerNorm")); /* config.json says eps */
    double percent = strtod(strstr(notes, "differs by ") + 11, NULL);
    ck_assert_msg(percent > 0.01 && percent < 100, "%g", percent);
    ck_assert_int_eq(ds_fs_read(card, 1 << 20, &text, &n, NULL), 0);
    ck_assert_ptr_nonnull(strstr(text, "Not the same output"));
    free(text);
    free(card);
    free(out);
    close_world(&w);
    w = open_world(1, &methods[0], 0);
    out = export(&w, DS_EXPORT_DIT, 0, "dit");
    ck_assert(!strncmp(notes, "facebookresearch/DiT cannot represent this base", 47));
    ck_assert_ptr_nonnull(strstr(notes, "by 1/128, the base by 1/127"));
    ck_assert_ptr_nonnull(strstr(notes, "eps 1e-6, the base's 10e-6"));
    free(out);
    close_world(&w);
}
END_TEST

START_TEST(the_card_says_where_it_comes_from) {
    static const char *const words[] = {"license: cc-by-nc-4.0",
                                        "# birds on random-dit",
                                        "bird-photos",
                                        "123 images in 3 classes",
                                        "feedbeef",
                                        "affiner, rank 4, side out, phi identity",
                                        "900 steps of 64 images, learning rate 0.001, seed 17",
                                        "| adapter | fd | 12.5 | 1024 | 512 | 7 |",
                                        "inception-v3",
                                        "0123abcd",
                                        "pil-bicubic-1",
                                        "dpmpp2m, 20 steps, guidance 1.5",
                                        "2. class 2",
                                        "PyTorch zip"};
    static const enum ds_export_format formats[] = {DS_EXPORT_SAFETENSORS, DS_EXPORT_DIT,
                                                    DS_EXPORT_DIFFUSERS, DS_EXPORT_PEFT};
    trained_in = _i >= 4;
    world w = open_world(0, &methods[0], 0);
    char *out = export(&w, formats[_i % 4], 0, "out"), *card = ds_xasprintf("%s/README.md", out),
         *text;
    size_t n;
    ck_assert_int_eq(ds_fs_read(card, 1 << 20, &text, &n, NULL), 0);
    ck_assert_int_eq(strstr(text, "20 steps, no guidance; guidance 1.75 is trained in\n") != NULL,
                     trained_in);
    for (size_t i = trained_in ? 12 : 0; i < sizeof words / sizeof words[0]; i++)
        ck_assert_msg(strstr(text, words[i]) != NULL, "'%s' is not in\n%s", words[i], text);
    ck_assert_ptr_nonnull(strstr(text, w.b->sha256));
    ck_assert_ptr_nonnull(strstr(text, w.a->sha256));
    free(text);
    free(card);
    free(out);
    close_world(&w);
}
END_TEST

/* Options that the method does not take are not spoken of. */
START_TEST(the_card_says_what_the_method_takes) {
    world w = open_world(0, &methods[5], 0);
    char *out = export(&w, DS_EXPORT_DIT, 0, "out"), *card = ds_xasprintf("%s/README.md", out),
         *text, says[80];
    size_t n;
    ck_assert_int_eq(ds_fs_read(card, 1 << 20, &text, &n, NULL), 0);
    snprintf(says, sizeof says, "- bitfit, %zu trained parameters\n",
             ds_params_trained(&w.a->table));
    ck_assert_msg(strstr(text, says) != NULL, "'%s' is not in\n%s", says, text);
    free(text);
    free(card);
    free(out);
    close_world(&w);
}
END_TEST

static void refused(const world *w, enum ds_export_format format, int code, const char *words) {
    char *out = in(w, "refused");
    ds_export_options o = {
        .base = w->base, .adapter = w->adapter, .out_dir = out, .format = format};
    ds_error err = {0};
    ck_assert_int_eq(ds_export(&o, on_note, NULL, &err), code);
    ck_assert_msg(strstr(err.message, words) != NULL, "%s", err.message);
    ck_assert_int_eq(ds_fs_exists(out), 0);
    free(out);
}

START_TEST(a_relu_branch_cannot_be_folded) {
    ds_method_spec relu = methods[0];
    relu.phi_relu = 1;
    world w = open_world(0, &relu, 0);
    refused(&w, DS_EXPORT_DIT, DS_EINVAL, "use safetensors or peft-like");
    refused(&w, DS_EXPORT_DIFFUSERS, DS_EINVAL, "use safetensors or peft-like");
    free(export(&w, DS_EXPORT_SAFETENSORS, 0, "a"));
    free(export(&w, DS_EXPORT_PEFT, 0, "b"));
    close_world(&w);
    w = open_world(0, &relu, 1); /* every s is 0: nothing to fold */
    free(export(&w, DS_EXPORT_DIT, 0, "c"));
    close_world(&w);
}
END_TEST

/* What replaces tensors of the base has no factors: the layouts that hold whole tensors take it. */
START_TEST(what_replaces_has_no_factors) {
    static const char *const says[] = {
        "method full has no factors: it replaces tensors of the base; "
        "use safetensors, dit or diffusers",
        "method bitfit has no factors: it replaces tensors of the base; "
        "use safetensors, dit or diffusers"};
    world w = open_world(0, &methods[4 + _i], 0);
    refused(&w, DS_EXPORT_PEFT, DS_EINVAL, says[_i]);
    free(export(&w, DS_EXPORT_SAFETENSORS, 0, "alone"));
    close_world(&w);
}
END_TEST

START_TEST(what_is_there_stays) {
    world w = open_world(0, &methods[4], 0);
    char *out = in(&w, "there"), *file = in(&w, "there/x");
    ds_export_options o = {
        .base = w.base, .adapter = w.adapter, .out_dir = out, .format = DS_EXPORT_DIT};
    ds_error err;
    ck_assert_int_eq(ds_fs_mkdirs(out, NULL), 0);
    ck_assert_int_eq(ds_fs_write(file, "x", 1, NULL), 0);
    ck_assert_int_eq(ds_export(&o, on_note, NULL, &err), DS_ECONFLICT);
    ck_assert_int_eq(ds_fs_exists(file), 1);
    ck_assert_int_eq(unlink(file), 0);
    ck_assert_int_eq(ds_export(&o, on_note, NULL, &err), 0); /* an empty folder will do */
    refused(&w, DS_EXPORT_PEFT, DS_EINVAL, "method full has no factors");
    free(out);
    free(file);
    close_world(&w);
}
END_TEST

/* What killed exports left goes with the next one of the same folder; what may be at work stays. */
START_TEST(leftovers_go) {
    static const struct {
        const char *name;
        int stays;
    } dirs[] = {{"model.part-999999999", 0},
                {"model.part-1", 1},
                {"model.part-12x", 1},
                {"model.part-", 1},
                {"models.part-999999999", 1}};
    world w = open_world(0, &methods[0], 0);
    char own[64];
    snprintf(own, sizeof own, "model.part-%ld", (long)getpid());
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs + 1; i++) {
        char *dir = in(&w, i < 5 ? dirs[i].name : own), *file = ds_xasprintf("%s/left", dir);
        ck_assert_int_eq(ds_fs_mkdirs(dir, NULL), 0);
        ck_assert_int_eq(ds_fs_write(file, "x", 1, NULL), 0);
        free(dir);
        free(file);
    }
    char *out = export(&w, DS_EXPORT_SAFETENSORS, 0, "model/"), *strange = in(&w, "model/left");
    ck_assert(!ds_fs_exists(strange));
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        char *dir = in(&w, dirs[i].name);
        ck_assert_msg(ds_fs_exists(dir) == dirs[i].stays, "%s", dirs[i].name);
        free(dir);
    }
    free(strange);
    free(out);
    close_world(&w);
}
END_TEST

/* Asked to stop, it leaves nothing: neither the folder nor a part of it. */
START_TEST(a_stopped_export_leaves_nothing) {
    world w = open_world(0, &methods[0], 0);
    char *out = in(&w, "stopped"), part[4400];
    pid_t pid = fork();
    if (!pid) {
        ds_export_options o = {.base = w.base,
                               .adapter = w.adapter,
                               .out_dir = out,
                               .format = (enum ds_export_format)_i};
        ds_error err = {0};
        if (ds_stop_install(NULL, 0, &err))
            _exit(9);
        ds_stop_defer(1);
        raise(SIGTERM);
        _exit(ds_export(&o, on_note, NULL, &err) == DS_ECANCELED ? 0 : 1);
    }
    int status;
    ck_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    snprintf(part, sizeof part, "%s.part-%ld", out, (long)pid);
    ck_assert(!ds_fs_exists(out) && !ds_fs_exists(part));
    free(out);
    close_world(&w);
}
END_TEST

START_TEST(a_vae_makes_it_a_pipeline) {
    static const char *const files[] = {
        "vae/config.json", "model_index.json", "scheduler/scheduler_config.json",
        "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"};
    world w = open_world(1, &methods[0], 0);
    char *out = export_with(&w, DS_EXPORT_DIFFUSERS, 0, VAE, "pipeline"), want[DS_HEX_SIZE],
         got[DS_HEX_SIZE], *copy = ds_xasprintf("%s/vae/diffusion_pytorch_model.safetensors", out);
    ck_assert_int_eq(ds_digest_file(VAE, want, NULL), 0);
    ck_assert_int_eq(ds_digest_file(copy, got, NULL), 0);
    ck_assert_str_eq(got, want);
    for (int i = 0; i < 5; i++) {
        char *path = ds_xasprintf("%s/%s", out, files[i]);
        json_t *doc = NULL;
        ck_assert_msg(ds_fs_exists(path), "%s", path);
        if (i == 1) {
            ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &doc, NULL), 0);
            ck_assert_str_eq(ds_json_string(json_object_get(doc, "id2label"), "2", ""), "class 2");
            json_decref(doc);
        }
        free(path);
    }
    free(copy);
    free(out);
    close_world(&w);
}
END_TEST

START_TEST(the_adapter_alone_is_its_own_bytes) {
    world w = open_world(0, &methods[1], 0);
    char *out = export(&w, DS_EXPORT_SAFETENSORS, 0, "alone"),
         *file = ds_xasprintf("%s/adapter.safetensors", out), sha[DS_HEX_SIZE];
    ck_assert_int_eq(ds_digest_file(file, sha, NULL), 0);
    ck_assert_str_eq(sha, w.a->sha256);
    free(file);
    free(out);
    close_world(&w);
}
END_TEST

/* W' of blocks.1.attn.q again from the peft-like file: a W + B A. */
START_TEST(factors_give_the_merged_weight) {
    enum { D = 32, R = 4 };
    static float W[3 * D * D], merged[3 * D * D], a[D], A[R * D], U[D * R];
    world w = open_world(0, &methods[0], 0);
    char *peft = export(&w, DS_EXPORT_PEFT, 0, "peft"),
         *file = ds_xasprintf("%s/adapter_model.safetensors", peft),
         *dit = export(&w, DS_EXPORT_DIT, 0, "dit"), *model = ds_xasprintf("%s/model.pt", dit);
    const char *q = "base_model.model.transformer_blocks.1.attn1.to_q.";
    const struct {
        const char *part;
        int ndim;
        int64_t shape[2];
        float *to;
    } parts[] = {{"affiner_a", 1, {D, 0}, a},
                 {"lora_A.weight", 2, {R, D}, A},
                 {"lora_B.weight", 2, {D, R}, U}};
    ds_st *st;
    ds_weights *m;
    ck_assert_int_eq(ds_st_open_file(file, 1 << 24, 0, &st, NULL), 0);
    for (int i = 0; i < 3; i++) {
        char *name = ds_xasprintf("%s%s", q, parts[i].part);
        ck_assert_int_eq(ds_st_need_f32(st, name, parts[i].ndim, parts[i].shape, parts[i].to, NULL),
                         0);
        free(name);
    }
    const ds_param *p = ds_params_find(&w.b->table, "blocks.1.attn.qkv.weight");
    memcpy(W, w.b->data + p->offset, sizeof W);
    ck_assert_int_eq(ds_weights_open(&m, model, NULL, NULL), 0);
    ck_assert_int_eq(ds_weights_read_f32(m, ds_weights_find(m, p->name), merged, NULL), 0);
    for (int i = 0; i < D; i++)
        for (int j = 0; j < D; j++) {
            double want = (double)a[i] * W[i * D + j];
            for (int r = 0; r < R; r++)
                want += (double)U[i * R + r] * A[r * D + j];
            ck_assert_double_eq_tol(merged[i * D + j], want, 1e-6);
        }
    ds_weights_close(m);
    ds_st_free(st);
    free(peft);
    free(file);
    free(dit);
    free(model);
    close_world(&w);
}
END_TEST

/* ---------------------------------------------------------------- for tools/parity/export.py */

/* What the exports must give: outputs, and a DDIM run from given noise, of the folded adapter. */
static void leave_expected(const world *w) {
    static float x[B * ONE], out[2 * B * ONE], noise[B * ONE], samples[B * ONE], t[B], labels[B];
    ds_device *dev;
    ds_model *model;
    ds_net *net;
    ds_sample_options o = {.sampler = DS_SAMPLER_DDIM, .steps = STEPS, .guide = {1, 1}, .seed = 6};
    ds_sample_request q[B];
    ds_st_writer *st = ds_st_writer_new();
    char *bytes, *path = in(w, "expected.safetensors");
    size_t n;
    predict(w->b, w->a, x, out);
    for (int i = 0; i < B; i++) {
        t[i] = (float)(37 + 250 * i);
        labels[i] = i < CLASSES ? (float)i : 1000;
        q[i] = (ds_sample_request){.index = (uint64_t)i, .label = i < CLASSES ? i : -1};
        ds_rng_normal(noise + i * ONE, ONE, o.seed, DS_STREAM_SAMPLE, 0xffffffffu, (uint64_t)i);
    }
    ck_assert_int_eq(ds_device_open(&dev, &f32, NULL), 0);
    ck_assert_int_eq(ds_model_new(&model, dev, w->b, NULL), 0);
    ck_assert_int_eq(
        ds_net_new(&net, model, DS_NET_INFER, (const ds_adapter *const *)&w->a, 1, B, NULL), 0);
    ck_assert_int_eq(ds_sample(NULL, samples, net, NULL, &o, q, B, NULL, NULL, NULL), 0);
    const int64_t four[] = {B, CHANNELS, SIDE, SIDE}, eight[] = {B, 2 * CHANNELS, SIDE, SIDE},
                  one[] = {B};
    ds_st_writer_add(st, "x", DS_ST_F32, 4, four, x);
    ds_st_writer_add(st, "out", DS_ST_F32, 4, eight, out);
    ds_st_writer_add(st, "noise", DS_ST_F32, 4, four, noise);
    ds_st_writer_add(st, "samples", DS_ST_F32, 4, four, samples);
    ds_st_writer_add(st, "t", DS_ST_F32, 1, one, t);
    ds_st_writer_add(st, "labels", DS_ST_F32, 1, one, labels);
    ck_assert_int_eq(ds_st_writer_finish(st, &bytes, &n, NULL), 0);
    ck_assert_int_eq(ds_fs_write(path, bytes, n, NULL), 0);
    free(bytes);
    free(path);
    ds_st_writer_free(st);
    ds_net_free(net);
    ds_model_free(model);
    ds_device_close(dev);
}

START_TEST(parity_cases) {
    world w = open_world(_i % 2, &methods[_i / 2], 0);
    leave_expected(&w);
    free(export(&w, _i % 2 ? DS_EXPORT_DIFFUSERS : DS_EXPORT_DIT, 0, "export"));
    if (_i % 2)
        free(export_with(&w, DS_EXPORT_DIFFUSERS, 0, VAE, "pipeline"));
    close_world(&w);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_set_timeout(tc, 120);
    if (getenv("DS_PARITY_OUT")) {
        tcase_add_loop_test(tc, parity_cases, 0, 2 * METHODS);
        return;
    }
    tcase_add_loop_test(tc, a_merged_base_is_the_adapter_folded, 0, 2 * METHODS);
    tcase_add_loop_test(tc, what_replaces_has_no_factors, 0, 2);
    tcase_add_loop_test(tc, facebook_layout_comes_back, 0, METHODS);
    tcase_add_loop_test(tc, diffusers_layout_comes_back, 0, METHODS);
    tcase_add_test(tc, other_properties_are_said_with_their_effect);
    tcase_add_loop_test(tc, the_card_says_where_it_comes_from, 0, 8);
    tcase_add_test(tc, the_card_says_what_the_method_takes);
    tcase_add_test(tc, a_relu_branch_cannot_be_folded);
    tcase_add_test(tc, what_is_there_stays);
    tcase_add_test(tc, leftovers_go);
    tcase_add_loop_test(tc, a_stopped_export_leaves_nothing, 0, DS_EXPORT_PEFT + 1);
    tcase_add_test(tc, a_vae_makes_it_a_pipeline);
    tcase_add_test(tc, the_adapter_alone_is_its_own_bytes);
    tcase_add_test(tc, factors_give_the_merged_weight);
}

int main(void) { return ds_test_main("worker_export", register_cases); }
