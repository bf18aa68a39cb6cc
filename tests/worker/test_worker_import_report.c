/* tests/worker/test_worker_import_report.c - an import says what it understood: which file and model were
 * taken, which fields were used, what was assumed; and it refuses what it cannot follow.
 * Sources: tests/golden/dit-parity and vae-names, rearranged. */
#include "engine/files/weights.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/convert/export.h"
#include "worker/convert/import.h"

#include <dirent.h>
#include <math.h>
#include <unistd.h>

#define GOLDEN "tests/golden/dit-parity/"
#define INDEX "diffusion_pytorch_model.safetensors.index.json"

static char *digest_of_data(const char *file) { /* of the numbers alone */
    char *bytes, *hex = ds_xmalloc(DS_HEX_SIZE);
    size_t n;
    uint64_t header;
    must(ds_fs_read(file, 1 << 24, &bytes, &n, &(ds_error){0}), &(ds_error){0});
    memcpy(&header, bytes, 8);
    ds_digest(bytes + 8 + header, n - 8 - header, hex);
    free(bytes);
    return hex;
}

/* Imports; NULL and the code where it is refused, else the digest of the numbers.  report may be
 * NULL. */
static char *import(const char *source, int heads, const char *weights, ds_import_report *report,
                    ds_error *err) {
    char *out = in_tmp("imported"), *hex = NULL;
    ds_import_options o = {
        .source = source, .out_dir = out, .heads = heads, .weights = weights, .report = report};
    ds_import_result r;
    *err = (ds_error){0};
    if (!ds_import_base(&o, &r, err)) {
        hex = digest_of_data(r.file);
        ds_import_result_release(&r);
    }
    free(out);
    return hex;
}

static void copy_into(const char *dir, const char *from, const char *name) {
    char *to = ds_xasprintf("%s/%s", dir, name);
    must(ds_fs_copy(from, to, &(ds_error){0}), &(ds_error){0});
    free(to);
}

static void write_text(const char *dir, const char *name, const char *text) {
    char *to = ds_xasprintf("%s/%s", dir, name);
    must(ds_fs_write(to, text, strlen(text), &(ds_error){0}), &(ds_error){0});
    free(to);
}

static const json_t *list(const ds_import_report *r, const char *name) {
    return json_object_get(ds_import_report_json(r), name);
}

/* Does a list have an item whose `key` is `is`? */
static const json_t *item(const ds_import_report *r, const char *name, const char *key,
                          const char *is) {
    size_t i;
    json_t *v;
    json_array_foreach(list(r, name), i, v)
        if (!strcmp(ds_json_string(v, key, ""), is))
            return v;
    return NULL;
}

/* ---------------------------------------------------------------- folders and their variants */

static char *read_all(const char *path, size_t *n) {
    char *text;
    must(ds_fs_read(path, 1 << 20, &text, n, &(ds_error){0}), &(ds_error){0});
    return text;
}

/* The shards of the golden folder under other names, with their index. */
static void sharded(const char *dir, const char *shard, const char *index) {
    size_t n;
    char *text = read_all(GOLDEN "diffusers/transformer/" INDEX, &n);
    json_t *doc = json_loadb(text, n, 0, NULL), *map = json_object_get(doc, "weight_map"), *v;
    const char *key;
    free(text);
    json_object_foreach(map, key, v) {
        int k = json_string_value(v)[strlen("diffusion_pytorch_model-0000")] - '0';
        char name[128];
        snprintf(name, sizeof name, shard, k);
        json_object_set_new(map, key, json_string(name));
    }
    for (int k = 1; k <= 3; k++) {
        char name[128], from[256];
        snprintf(name, sizeof name, shard, k);
        snprintf(from, sizeof from,
                 GOLDEN "diffusers/transformer/diffusion_pytorch_model-0000%d-of-00003.safetensors",
                 k);
        copy_into(dir, from, name);
    }
    text = json_dumps(doc, 0);
    write_text(dir, index, text);
    free(text);
    json_decref(doc);
}

static const struct {
    const char *shard, *index;
} variants[] = {
    {"diffusion_pytorch_model.fp16-0000%d-of-00003.safetensors",
     "diffusion_pytorch_model.safetensors.index.fp16.json"},
    {"diffusion_pytorch_model-0000%d-of-00003.fp16.safetensors",
     "diffusion_pytorch_model.safetensors.fp16.index.json"},
    {"diffusion_pytorch_model-0000%d-of-00003.fp16.safetensors",
     "diffusion_pytorch_model.fp16.safetensors.index.json"},
    {"diffusion_pytorch_model-0000%d-of-00003.safetensors", INDEX},
};

START_TEST(variants_with_their_index) {
    ds_error err;
    char *dir = ds_xasprintf("%s/variant-%d", ds_test_tmpdir(), _i),
         *want = import(GOLDEN "diffusers", 0, NULL, NULL, &err);
    must(ds_fs_mkdirs(dir, &err), &err);
    sharded(dir, variants[_i].shard, variants[_i].index);
    copy_into(dir, GOLDEN "diffusers/transformer/config.json", "config.json");
    char *index = ds_xasprintf("%s/%s", dir, variants[_i].index), name[128];
    for (int file = 0; file < 2; file++) { /* the folder, the index in it */
        ds_import_report *report = ds_import_report_new();
        char *got = import(file ? index : dir, 0, NULL, report, &err);
        ck_assert_msg(got != NULL, "%s: %s", index, err.message);
        ck_assert_str_eq(got, want);
        const json_t *w = list(report, "weights");
        if (!file)
            ck_assert_int_eq(ds_json_int(w, "files", 0), 3);
        ds_import_report_free(report);
        free(got);
    }
    snprintf(name, sizeof name, variants[_i].shard, 2);
    char *shard = ds_xasprintf("%s/%s", dir, name);
    ck_assert_ptr_null(import(shard, 0, NULL, NULL, &err)); /* says what to give instead */
    ck_assert_int_eq(err.code, DS_EINVAL);
    ck_assert_msg(strstr(err.message, variants[_i].index) != NULL, "%s", err.message);
    free(shard);
    free(index);
    free(want);
    free(dir);
}
END_TEST

/* A plain file is taken before a variant; one whose name says that it is averaged is never passed
 * over. */
START_TEST(files_of_one_folder) {
    static const struct {
        const char *beside, *says;
    } cases[] = {{"diffusion_pytorch_model.fp16.bin", NULL},
                 {"diffusion_pytorch_model.non_ema.safetensors", NULL},
                 {"diffusion_pytorch_model.ema.safetensors", "averaged weights"},
                 {"custom_checkpoint_0.pkl", NULL},                   /* of accelerate; said */
                 {"diffusion_pytorch_model_1.bin", "several models"}, /* likewise */
                 {"model_ema.pt", "averaged weights"}};
    ds_error err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *dir = ds_xasprintf("%s/files-%zu", ds_test_tmpdir(), i);
        must(ds_fs_mkdirs(dir, &err), &err);
        copy_into(dir, GOLDEN "diffusers-bin/transformer/diffusion_pytorch_model.bin",
                  "diffusion_pytorch_model.bin");
        copy_into(dir, GOLDEN "diffusers-bin/transformer/config.json", "config.json");
        write_text(dir, cases[i].beside, "nothing of use");
        ds_import_report *report = ds_import_report_new();
        char *got = import(dir, 0, NULL, report, &err);
        ck_assert(!got || item(report, "ignored", "tensors", cases[i].beside));
        ds_import_report_free(report);
        ck_assert_msg(!got == !!cases[i].says, "%s: %s", cases[i].beside, err.message);
        if (!got)
            ck_assert_msg(strstr(err.message, cases[i].says) &&
                              strstr(err.message, cases[i].beside),
                          "%s", err.message);
        free(got);
        free(dir);
    }
}
END_TEST

/* EMAModel.save_pretrained: transformer_ema beside transformer. */
START_TEST(folder_of_averaged_weights) {
    ds_error err;
    char *dir = in_tmp("trained"), *raw = ds_xasprintf("%s/transformer", dir),
         *ema = ds_xasprintf("%s_ema", raw),
         *want[2] = {import(GOLDEN "diffusers-bin", 0, NULL, NULL, &err),
                     import(GOLDEN "diffusers-fp16", 0, NULL, NULL, &err)};
    must(ds_fs_mkdirs(raw, &err), &err);
    must(ds_fs_mkdirs(ema, &err), &err);
    copy_into(raw, GOLDEN "diffusers-bin/transformer/diffusion_pytorch_model.bin",
              "diffusion_pytorch_model.bin");
    copy_into(raw, GOLDEN "diffusers-bin/transformer/config.json", "config.json");
    copy_into(ema, GOLDEN "diffusers-fp16/transformer/diffusion_pytorch_model.fp16.safetensors",
              "diffusion_pytorch_model.safetensors");
    copy_into(ema, GOLDEN "diffusers-fp16/transformer/config.json", "config.json");
    static const char *const which[] = {"model", NULL, "ema"};
    for (int i = 0; i < 3; i++) {
        ds_import_report *report = ds_import_report_new();
        char *got = import(dir, 0, which[i], report, &err);
        ck_assert_msg(got != NULL, "%s", err.message);
        ck_assert_str_eq(got, want[i > 0]);
        ck_assert(!item(report, "ignored", "tensors", "transformer/") == !i);
        ds_import_report_free(report);
        free(got);
    }
    ck_assert_ptr_null(import(dir, 0, "typo", NULL, &err));
    ck_assert_msg(strstr(err.message, "none called 'typo'") != NULL, "%s", err.message);
    free(want[0]);
    free(want[1]);
    free(ema);
    free(raw);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- what is said */

START_TEST(report_of_a_checkpoint) {
    ds_error err;
    ds_import_report *report = ds_import_report_new();
    char *got = import(GOLDEN "facebook/model.pt", 2, NULL, report, &err);
    ck_assert_msg(got != NULL, "%s", err.message);
    const json_t *w = list(report, "weights");
    ck_assert_str_eq(ds_json_string(w, "taken", ""), "ema");
    ck_assert_str_eq(ds_json_string(w, "how", ""), "averaged preferred");
    ck_assert_str_eq(ds_json_string(json_array_get(json_object_get(w, "others"), 0), "key", ""),
                     "model");
    ck_assert_ptr_nonnull(item(report, "assumed", "what", "noise schedule"));
    ck_assert_ptr_nonnull(item(report, "assumed", "what", "classes"));
    ds_import_report_free(report);
    free(got);
    report = ds_import_report_new(); /* a folder that says everything: nothing is assumed */
    got = import(GOLDEN "diffusers", 0, NULL, report, &err);
    ck_assert_uint_eq(json_array_size(list(report, "assumed")), 1); /* it comes without its VAE */
    ck_assert_ptr_nonnull(item(report, "assumed", "what", "latent_scale"));
    ck_assert_str_eq(ds_json_string(item(report, "fields", "field", "beta_end"), "use", ""),
                     "used");
    ck_assert_str_eq(ds_json_string(item(report, "fields", "field", "clip_sample"), "use", ""),
                     "harmless");
    ds_import_report_free(report);
    free(got);
}
END_TEST

/* The scale of a VAE: of the config.json beside the file, or assumed and said. */
START_TEST(scale_of_the_vae) {
    ds_error err;
    char *dir = in_tmp("vae-alone"), *out = in_tmp("vae-out"),
         *config = ds_xasprintf("%s/config.json", dir), *file = ds_xasprintf("%s/vae.ckpt", dir),
         *text, *scaled;
    size_t n;
    must(ds_fs_mkdirs(dir, &err), &err);
    copy_into(dir, "tests/golden/vae-names/ldm/model.ckpt", "vae.ckpt");
    must(ds_fs_read("tests/golden/vae-names/ldm/config.json", 1 << 16, &text, &n, &err), &err);
    char *brace = strchr(text, '{');
    scaled = ds_xasprintf("{\"scaling_factor\": 0.13025, %s", brace + 1);
    static const char *const says[] = {NULL, "scaling_factor", NULL, "shift_factor"};
    for (int i = 0; i < 4;
         i++) { /* with a scale, without one, of something else, of another kind */
        char *other = ds_xasprintf("{\"shift_factor\": 0.5, %s", brace + 1);
        const char *doc = i == 0 ? scaled : i == 1 ? text : i == 2 ? "{\"lr\": 1}" : other;
        must(ds_fs_write(config, doc, strlen(doc), &err), &err);
        ds_import_report *report = ds_import_report_new();
        ds_import_options o = {
            .source = GOLDEN "diffusers", .vae = file, .out_dir = out, .report = report};
        ds_import_result r;
        int rc = ds_import_base(&o, &r, &err);
        ck_assert_msg(!rc == (i < 2), "%d: %s", i, err.message); /* 2: 32 groups do not fit */
        if (!rc) {
            double want = i ? 0.18215 : 0.13025;
            ck_assert(fabs(ds_json_number(r.config, "latent_scale", 0) - want) < 1e-9);
            ds_import_result_release(&r);
        }
        ck_assert(!item(report, "assumed", "what", "scaling_factor") == (i == 0 || i == 3));
        if (i == 3)
            ck_assert_msg(strstr(err.message, says[i]) != NULL, "%s", err.message);
        if (i == 2)
            ck_assert_ptr_nonnull(item(report, "ignored", "tensors", "config.json"));
        ds_import_report_free(report);
        free(other);
    }
    free(scaled);
    free(text);
    free(file);
    free(config);
    free(out);
    free(dir);
}
END_TEST

/* A model whose tensors are all of a type that is not read is that model all the same. */
START_TEST(models_of_eight_bits) {
    static const char *const marks[] = {"x_embedder.proj.weight", "pos_embed.proj.weight",
                                        "encoder.conv_in.weight"};
    static const char zeros[12] = {0};
    ds_error err;
    char *path = in_tmp("eight.safetensors"), *out = in_tmp("eight-out");
    for (int i = 0; i < 3; i++) {
        ds_st_writer *w = ds_st_writer_new();
        char *bytes;
        size_t n;
        ds_st_writer_add(w, marks[i], DS_ST_F8_E4M3, 4, (int64_t[]){1, 3, 2, 2}, zeros);
        ds_st_writer_add(w, "blocks.0.attn.qkv.bias", DS_ST_F8_E4M3, 1, (int64_t[]){1}, zeros);
        must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
        must(ds_fs_write(path, bytes, n, &err), &err);
        ds_import_options o = {.source = i < 2 ? path : GOLDEN "diffusers",
                               .vae = i < 2 ? NULL : path,
                               .out_dir = out};
        ds_import_result r;
        ck_assert_int_eq(ds_import_base(&o, &r, &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, "F8_E4M3") && strstr(err.message, marks[i]), "%s",
                      err.message);
        ds_st_writer_free(w);
        free(bytes);
    }
    free(out);
    free(path);
}
END_TEST

/* Names of PEFT inside a model, and a model without blocks: what is said is what is there. */
START_TEST(adapters_inside_a_model) {
    static const struct {
        const char *name, *says;
    } cases[] = {{"blocks.0.attn.qkv.base_layer.weight", "merge_and_unload"},
                 {"blocks.0.attn.q.weight", "no tensor 'blocks.0.attn.qkv.bias'"}};
    static const float zeros[16] = {0};
    ds_error err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = in_tmp("peft.safetensors"), *bytes;
        size_t n;
        ds_st_writer *w = ds_st_writer_new();
        ds_st_writer_add(w, "x_embedder.proj.weight", DS_ST_F32, 4, (int64_t[]){1, 3, 2, 2}, zeros);
        ds_st_writer_add(w, cases[i].name, DS_ST_F32, 1, (int64_t[]){1}, zeros);
        must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
        must(ds_fs_write(path, bytes, n, &err), &err);
        ck_assert_ptr_null(import(path, 2, NULL, NULL, &err));
        ck_assert_int_eq(err.code, DS_EINVAL);
        ck_assert_msg(strstr(err.message, cases[i].says) != NULL, "%s", err.message);
        ds_st_writer_free(w);
        free(bytes);
        free(path);
    }
}
END_TEST

/* The noise schedule that the settings say is the one that is used. */
START_TEST(schedule_of_the_settings) {
    ds_error err;
    char *path = in_tmp("schedule.safetensors"), *out = in_tmp("schedule-out"), *bytes;
    size_t n;
    ds_weights *from;
    static const char *const marks[] = {"x_embedder.proj.weight", NULL};
    must(ds_weights_open(&from, GOLDEN "facebook/model.pt", NULL, &err), &err);
    must(ds_weights_choose(from, marks, &err), &err);
    ds_st_writer *w = ds_st_writer_new();
    float *x[256] = {0};
    for (size_t i = 0; i < ds_weights_count(from); i++) {
        const ds_weights_tensor *t = ds_weights_at(from, i);
        x[i] = ds_xmalloc(t->count * sizeof(float));
        must(ds_weights_read_f32(from, t, x[i], &err), &err);
        ds_st_writer_add(w, t->name, DS_ST_F32, t->ndim, t->shape, x[i]);
    }
    ds_st_writer_meta(w, "args",
                      "{\"diffusion\": {\"beta_end\": 0.012}, "
                      "\"diffusion_steps\": 500}");
    must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
    must(ds_fs_write(path, bytes, n, &err), &err);
    ds_import_report *report = ds_import_report_new();
    ds_import_options o = {
        .source = path, .out_dir = out, .heads = 2, .objective = "eps", .report = report};
    ds_import_result r;
    must(ds_import_base(&o, &r, &err), &err);
    ck_assert_double_eq_tol(ds_json_number(r.config, "beta_end", 0), 0.012, 1e-9);
    ck_assert_double_eq_tol(ds_json_number(r.config, "beta_start", 0), 1e-4, 1e-9);
    ck_assert_int_eq(ds_json_int(r.config, "train_steps", 0), 500);
    ck_assert_str_eq(ds_json_string(item(report, "assumed", "what", "noise schedule"), "why", ""),
                     "the file does not say all of it");
    ds_import_result_release(&r);
    ds_import_report_free(report);
    ds_st_writer_free(w);
    for (size_t i = 0; i < ds_weights_count(from); i++)
        free(x[i]);
    ds_weights_close(from);
    free(bytes);
    free(out);
    free(path);
}
END_TEST

/* ---------------------------------------------------------------- classes */

/* The golden checkpoint has 3 classes and the row for none. */
START_TEST(tables_without_a_row_for_none) {
    static const struct {
        const char *config, *says;
    } cases[] = {{"{\"num_heads\": 2}", NULL},
                 {"{\"num_heads\": 2, \"num_classes\": CLASSES}", NULL},
                 {"{\"num_heads\": 2, \"num_classes\": ROWS}", "no row for 'no class'"},
                 {"{\"num_heads\": 2, \"class_dropout_prob\": 0.0}", "no row for 'no class'"},
                 {"{\"num_heads\": 2, \"num_classes\": 77}", "another num_classes"},
                 {"{\"num_heads\": 2, \"depth\": 9}", "another depth"},
                 {"{\"num_heads\": 2, \"rope\": true}", "'rope' is not known"},
                 {"{\"learning_rate\": 2}", "--heads"}};
    ds_error err;
    char *dir = in_tmp("rows"), *file = ds_xasprintf("%s/model.pt", dir);
    must(ds_fs_mkdirs(dir, &err), &err);
    copy_into(dir, GOLDEN "facebook/model.pt", "model.pt");
    ds_weights *w;
    static const char *const marks[] = {"x_embedder.proj.weight", NULL};
    must(ds_weights_open(&w, file, NULL, &err), &err);
    must(ds_weights_choose(w, marks, &err), &err);
    int rows = (int)ds_weights_find(w, "y_embedder.embedding_table.weight")->shape[0];
    ds_weights_close(w);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *c = cases[i].config, *at = strstr(c, "CLASSES"), *all = strstr(c, "ROWS");
        char *text = at    ? ds_xasprintf("%.*s%d}", (int)(at - c), c, rows - 1)
                     : all ? ds_xasprintf("%.*s%d}", (int)(all - c), c, rows)
                           : ds_xstrdup(c);
        write_text(dir, "config.json", text);
        char *got = import(file, 0, NULL, NULL, &err);
        ck_assert_msg(!got == !!cases[i].says, "%s: %s", text, err.message);
        if (!got)
            ck_assert_msg(err.code == DS_EINVAL && strstr(err.message, cases[i].says), "%s: %s",
                          text, err.message);
        free(got);
        free(text);
    }
    free(file);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- our own exports */

static void quiet(void *user, const char *line) { (void)user, (void)line; }

START_TEST(exports_come_back) {
    static const char *const files[] = {"", "/model.pt", "/model.safetensors"};
    ds_error err;
    char *bases = in_tmp("bases"), *out = in_tmp("exported"), *lone = in_tmp("lone.pt");
    ds_import_options o = {.source = GOLDEN "facebook-old/model.pth", .heads = 3, .out_dir = bases};
    ds_import_result r, back;
    must(ds_import_base(&o, &r, &err), &err);
    ds_export_options e = {.base = r.file, .out_dir = out, .format = DS_EXPORT_DIT};
    must(ds_export(&e, quiet, NULL, &err), &err);
    for (int i = 0; i < 4; i++) {
        char *source = i < 3 ? ds_xasprintf("%s%s", out, files[i]) : ds_xstrdup(lone);
        if (i == 3) { /* away from its folder */
            char *pt = ds_xasprintf("%s/model.pt", out);
            must(ds_fs_copy(pt, lone, &err), &err);
            free(pt);
        }
        ds_import_options again = {.source = source, .out_dir = bases};
        ck_assert_msg(!ds_import_base(&again, &back, &err), "%s: %s", source, err.message);
        ck_assert_int_eq(ds_json_int(back.config, "heads", 0), 3);
        json_object_del(back.config, "classes"); /* an export has a thousand */
        json_t *want = json_deep_copy(r.config);
        json_object_del(want, "classes");
        ck_assert(json_equal(back.config, want));
        json_decref(want);
        ds_import_result_release(&back);
        free(source);
    }
    ds_import_result_release(&r);
    free(lone);
    free(out);
    free(bases);
}
END_TEST

/* ---------------------------------------------------------------- as a job */

START_TEST(job_keeps_the_report) {
    char full[PATH_MAX], *out = in_tmp("job-out");
    ck_assert_ptr_nonnull(realpath(GOLDEN "facebook/model.pt", full));
    json_t *s = json_pack("{s:s, s:s, s:i, s:s, s:s, s:n, s:s, s:s, s:s, s:i, s:s}", "schema",
                          "diffscaler.job/1", "kind", "import", "job", 5, "what", "base", "source",
                          full, "vae", "name", "x", "license", "", "out_dir", out, "heads", 2,
                          "weights", "model");
    char *dir = make_job("job-report", s);
    run_expect(dir, 0);
    json_t *r = read_json(dir, "result.json");
    const json_t *w = json_object_get(json_object_get(r, "report"), "weights");
    ck_assert_str_eq(ds_json_string(w, "taken", ""), "model");
    ck_assert_str_eq(ds_json_string(w, "how", ""), "asked for");
    size_t n;
    char *log = ds_xasprintf("%s/events.ndjson", dir), *text = read_all(log, &n);
    ck_assert_ptr_nonnull(strstr(text, "\"note\""));
    ck_assert_ptr_nonnull(strstr(text, "taken from 'model' (asked for)"));
    ck_assert_ptr_nonnull(strstr(text, "assumed: noise schedule"));
    /* what was not measured is a warning */
    ck_assert_ptr_nonnull(
        strstr(text, "\"type\":\"warning\",\"message\":\"objective: not measured"));
    free(text);
    free(log);
    json_decref(r);
    free(dir);
    free(out);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, variants_with_their_index, 0,
                        (int)(sizeof variants / sizeof variants[0]));
    tcase_add_test(tc, files_of_one_folder);
    tcase_add_test(tc, folder_of_averaged_weights);
    tcase_add_test(tc, report_of_a_checkpoint);
    tcase_add_test(tc, scale_of_the_vae);
    tcase_add_test(tc, models_of_eight_bits);
    tcase_add_test(tc, adapters_inside_a_model);
    tcase_add_test(tc, schedule_of_the_settings);
    tcase_add_test(tc, tables_without_a_row_for_none);
    tcase_add_test(tc, exports_come_back);
    tcase_add_test(tc, job_keeps_the_report);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_import_report", register_cases);
}
