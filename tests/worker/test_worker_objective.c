/* tests/worker/test_worker_objective.c - an import knows what its base predicts: by what the file says of
 * itself, by measuring, by both; what is no eps model, or cannot be told, is refused and leaves
 * nothing.  Bases: tests/golden/objective, trained by tools/parity/objective_bases.py. */
#include "engine/model/base_model.h"
#include "engine/files/weights.h"
#include "tests/engine_files/weights_files.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/convert/import.h"
#include "worker/images/probe_pictures.h"

#define GOLDEN "tests/golden/objective/"
/* What the program before this one made of eps.pt. */
#define EPS_DIGEST "e1bc200af29b31bf0e279c797ca86cd1423a2143026339413c9000b4e0ca3838"

typedef struct {
    int rc;
    ds_error err;
    ds_import_result r;
    ds_import_report *report;
    char *dir;
} outcome;

static outcome try(const char *folder, ds_import_options o) {
    outcome t = {.report = ds_import_report_new(), .dir = in_tmp(folder)};
    o.out_dir = t.dir;
    o.heads = o.heads ? o.heads : 4;
    o.report = t.report;
    t.rc = ds_import_base(&o, &t.r, &t.err);
    return t;
}

static const json_t *objective(const outcome *t) {
    const json_t *o = json_object_get(ds_import_report_json(t->report), "objective");
    ck_assert_ptr_nonnull(o);
    return o;
}

static void end(outcome *t) {
    if (!t->rc)
        ds_import_result_release(&t->r);
    ds_import_report_free(t->report);
    free(t->dir);
}

static void expect_refused(outcome *t, const char *a, const char *b) {
    ck_assert_msg(t->rc == DS_EINVAL && strstr(t->err.message, a) && strstr(t->err.message, b),
                  "%d %s", t->rc, t->rc ? t->err.message : "imported");
    ck_assert_int_eq(files_in(t->dir), 0);
    end(t);
}

/* ---------------------------------------------------------------- files */

static void copy_storage(ds_buf *pickle, zip_maker *z, ds_weights *w, size_t i) {
    const ds_weights_tensor *t = ds_weights_at(w, i);
    char key[24], entry[48];
    ds_error err;
    snprintf(key, sizeof key, "%zu", i);
    snprintf(entry, sizeof entry, "c/data/%zu", i);
    pk_tensor_spec spec = {.type = t->dtype == DS_ST_F16 ? "HalfStorage" : "FloatStorage",
                           .key = key,
                           .elements = (int64_t)t->count,
                           .ndim = t->ndim};
    int64_t stride = 1;
    for (int d = t->ndim - 1; d >= 0; d--) {
        spec.shape[d] = t->shape[d];
        spec.stride[d] = stride;
        stride *= t->shape[d];
    }
    pk_text(pickle, t->name);
    pk_tensor(pickle, &spec, 0);
    void *data = ds_xmalloc(t->bytes + 1);
    must(ds_weights_read(w, t, data, &err), &err);
    zm_add(z, entry, data, t->bytes);
    free(data);
}

/* {"model": the tensors of `from`, "args": argparse.Namespace(key=value, ...)}; pairs end with NULL. */
static char *checkpoint(const char *name, const char *from, const char *const *args) {
    ds_buf p = {0};
    zip_maker z = {0};
    ds_weights *w;
    ds_error err;
    must(ds_weights_open(&w, from, NULL, &err), &err);
    ds_buf_add(&p, "\x80\x02}", 3);
    pk_text(&p, "model");
    ds_buf_add(&p, "}(", 2);
    for (size_t i = 0; i < ds_weights_count(w); i++)
        copy_storage(&p, &z, w, i);
    ds_buf_add(&p, "us", 2);
    pk_text(&p, "args");
    pk_global(&p, "argparse", "Namespace");
    ds_buf_add(&p, ")\x81}(", 4);
    for (; args[0]; args += 2) {
        pk_text(&p, args[0]);
        pk_text(&p, args[1]);
    }
    ds_buf_add(&p, "ubs.", 4);
    zm_add(&z, "c/data.pkl", p.data, p.len);
    ds_buf file = zm_done(&z);
    char *path = in_tmp(name);
    must(ds_fs_write(path, file.data, file.len, &err), &err);
    ds_buf_release(&file);
    ds_buf_release(&p);
    ds_weights_close(w);
    return path;
}

/* Weights that never learned anything, as another program has them; scale 0: as a DiT begins. */
static char *untrained(const char *name, int side, float scale) {
    ds_dit_config c = {.channels = 3,
                       .side = side,
                       .patch = 4,
                       .width = 48,
                       .depth = 2,
                       .heads = 4,
                       .mlp_ratio = 4,
                       .classes = 3,
                       .learn_sigma = 1,
                       .freq_dim = 256,
                       .pixel = 1,
                       .train_steps = 1000,
                       .beta_start = 1e-4,
                       .beta_end = 0.02};
    ds_base *b;
    ds_error err;
    ds_st_writer *w = ds_st_writer_new();
    must(ds_dit_base_new(&b, &c, 5, &err), &err);
    for (int i = 0; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i];
        float *x = b->data + p->offset;
        int64_t shape[4];
        for (int d = 0; d < p->ndim; d++)
            shape[d] = p->shape[d];
        if (scale > 0 && p->kind != DS_PARAM_FIXED) {
            ds_rng_normal(x, p->count, 7, DS_STREAM_TEST, (uint32_t)i, 0);
            for (size_t k = 0; k < p->count; k++)
                x[k] *= scale;
        }
        ds_st_writer_add_f32(w, p->name, DS_ST_F32, p->ndim, shape, x);
    }
    char *path = in_tmp(name), *bytes;
    size_t n;
    must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
    must(ds_fs_write(path, bytes, n, &err), &err);
    free(bytes);
    ds_st_writer_free(w);
    ds_base_free(b);
    return path;
}

/* ---------------------------------------------------------------- measured */

START_TEST(eps_is_measured) {
    outcome t = try("eps", (ds_import_options){.source = GOLDEN "eps.pt"});
    ck_assert_msg(!t.rc, "%s", t.err.message);
    const json_t *o = objective(&t), *m = json_object_get(o, "measured"), *row;
    size_t i;
    ck_assert_str_eq(text_at(o, "prediction", NULL), "eps");
    ck_assert_str_eq(text_at(o, "path", NULL), "ddpm");
    ck_assert_str_eq(text_at(o, "how", NULL), "measured");
    ck_assert_str_eq(text_at(m, "probe", NULL), "bundled");
    ck_assert_uint_eq(json_array_size(json_object_get(m, "groups")), 4);
    ck_assert(ds_json_bool(m, "clear", 0) && ds_json_number(m, "margin", 0) >= 2);
    ck_assert_uint_eq(json_array_size(json_object_get(m, "table")), 8);
    double least = ds_json_number(json_array_get(json_object_get(m, "table"), 0), "loss", 9);
    json_array_foreach(json_object_get(m, "table"), i, row) {
        ck_assert(!i || ds_json_number(row, "loss", 0) >= 2 * least);
    }
    /* the file is what it was before anything was measured */
    ck_assert_str_eq(t.r.sha256, EPS_DIGEST);
    end(&t);
    ds_import_options same = {.source = GOLDEN "eps.pt", .probe = "examples/digits"};
    t = try("eps", same);
    ck_assert_msg(!t.rc, "%s", t.err.message);
    ck_assert_str_eq(text_at(json_object_get(objective(&t), "measured"), "probe", NULL),
                     "examples/digits");
    end(&t);
}
END_TEST

/* Finding out is refused before it begins where it does not fit: for good, as a limit stays. */
START_TEST(finding_out_takes_memory) {
    outcome t = try("eps", (ds_import_options){.source = GOLDEN "eps.pt", .memory_limit = 1 << 20});
    ck_assert_int_ne(t.rc, 0);
    ck_assert_msg(strstr(t.err.message, "finding out what the base predicts takes ") &&
                      strstr(t.err.message, "--objective eps does without"),
                  "%s", t.err.message);
    end(&t);
    t = try("eps", (ds_import_options){
                       .source = GOLDEN "eps.pt", .memory_limit = 1 << 20, .objective = "eps"});
    ck_assert_msg(!t.rc, "%s", t.err.message);
    end(&t);
}
END_TEST

/* What the written file says of itself: path NULL: it predicts noise. */
static void expect_flow(const outcome *t, const char *path, int to_data, double scale) {
    ds_base *b;
    ds_error err;
    const json_t *c = t->r.config;
    ck_assert_msg(!ds_base_open(&b, t->r.file, t->r.sha256, &err), "%s", err.message);
    const ds_flow *f = &b->facts.flow;
    ck_assert_int_eq(f->path, !path                     ? DS_FLOW_NONE
                              : !strcmp(path, "linear") ? DS_FLOW_LINEAR
                                                        : DS_FLOW_GVP);
    ck_assert_int_eq(b->facts.train_steps, path ? 0 : 1000);
    ck_assert_str_eq(ds_json_string(c, "flow", "none"), path ? path : "none");
    if (path) {
        ck_assert(f->to_data == to_data && f->scale == scale && f->shift == 1);
        ck_assert(ds_json_int(c, "flow_to_data", -1) == to_data &&
                  ds_json_number(c, "flow_scale", -1) == scale);
        ck_assert_str_eq(text_at(objective(t), "path", NULL), path);
        ck_assert(ds_json_number(objective(t), "time_scale", -1) == scale);
    }
    ck_assert_str_eq(text_at(objective(t), "prediction", NULL), !path     ? "eps"
                                                                : to_data ? "data-noise"
                                                                          : "noise-data");
    ds_base_free(b);
}

/* Trained ones that say nothing: direction, path and clock are found, and only one file stays. */
START_TEST(velocities_are_found) {
    static const struct {
        const char *file, *path;
        int to_data;
        double scale;
    } cases[] = {{"velocity.pt", "linear", 1, 1},
                 {"gvp.pt", "gvp", 1, 1},
                 {"flow-1000.pt", "linear", 0, 1000}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *from = ds_xasprintf(GOLDEN "%s", cases[i].file);
        outcome t = try("found", (ds_import_options){.source = from});
        ck_assert_msg(!t.rc, "%s: %s", cases[i].file, t.err.message);
        ck_assert_str_eq(text_at(objective(&t), "how", NULL), "measured");
        expect_flow(&t, cases[i].path, cases[i].to_data, cases[i].scale);
        ck_assert_int_eq(files_in(t.dir), 1);
        const json_t *item, *report = ds_import_report_json(t.report);
        size_t k;
        json_array_foreach(json_object_get(report, "assumed"), k, item) {
            ck_assert_str_ne(text_at(item, "what", NULL), "noise schedule");
        }
        /* what was imported once says it, and is believed and measured */
        ds_import_options again = {.source = t.r.file};
        outcome copy = try("copy", again);
        ck_assert_msg(!copy.rc, "%s", copy.err.message);
        ck_assert_str_eq(text_at(objective(&copy), "how", NULL), "config");
        expect_flow(&copy, cases[i].path, cases[i].to_data, cases[i].scale);
        end(&copy);
        must(ds_fs_remove(t.r.file, &t.err), &t.err);
        end(&t);
        free(from);
    }
}
END_TEST

START_TEST(a_person_says_it) {
    static const struct {
        const char *word, *path;
        int to_data;
        double scale;
    } cases[] = {{"data-noise", "linear", 1, 1},
                 {"noise-data-1000", "linear", 0, 1000},
                 {"data-noise-gvp", "gvp", 1, 1},
                 {"noise-data-gvp-1000", "gvp", 0, 1000}};
    char *random = untrained("given.safetensors", 16, 0.1f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ds_import_options o = {.source = random, .objective = cases[i].word};
        outcome t = try("given", o);
        ck_assert_msg(!t.rc, "%s", t.err.message);
        ck_assert_str_eq(text_at(objective(&t), "how", NULL), "given");
        expect_flow(&t, cases[i].path, cases[i].to_data, cases[i].scale);
        ck_assert_int_eq(ds_json_int(t.r.config, "learn_sigma", 0), 1);
        end(&t);
    }
    free(random);
    outcome t =
        try("velocity", (ds_import_options){.source = GOLDEN "velocity.pt", .objective = "x0"});
    expect_refused(&t, "x0", "cannot be added");
    t = try("velocity", (ds_import_options){.source = GOLDEN "velocity.pt", .objective = "e"});
    expect_refused(&t, "unknown objective 'e'", "data-noise");
    /* a person knows better */
    t = try("velocity", (ds_import_options){.source = GOLDEN "velocity.pt", .objective = "eps"});
    ck_assert_msg(!t.rc, "%s", t.err.message);
    ck_assert_str_eq(text_at(objective(&t), "how", NULL), "given");
    ck_assert(json_is_null(json_object_get(objective(&t), "measured")));
    expect_flow(&t, NULL, 0, 0);
    ck_assert_int_eq(files_in(t.dir), 1);
    end(&t);
    /* what was there before stays when another digest comes, or the same is refused */
    ds_import_options again = {.source = GOLDEN "velocity.pt"};
    t = try("velocity", again);
    ck_assert_msg(!t.rc, "%s", t.err.message);
    ck_assert_int_eq(files_in(t.dir), 2);
    end(&t);
    t = try("velocity", (ds_import_options){.source = GOLDEN "velocity.pt", .objective = "x0"});
    ck_assert_int_eq(t.rc, DS_EINVAL);
    ck_assert_int_eq(files_in(t.dir), 2);
    end(&t);
}
END_TEST

START_TEST(random_weights_are_refused) {
    static const float scales[] = {0, 0.02f, 0.1f, 0.5f};
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++) {
        char *path = untrained("random.safetensors", 16, scales[i]);
        outcome t = try("random", (ds_import_options){.source = path});
        ck_assert_ptr_nonnull(strstr(t.err.message, "| on gvp | cosine: eps "));
        expect_refused(&t, "it cannot be told", "as --objective eps");
        t = try("random-given", (ds_import_options){.source = path, .objective = "eps"});
        ck_assert_msg(!t.rc, "%s", t.err.message);
        end(&t);
        free(path);
    }
    /* of few pixels: assumed, and said so */
    char *path = untrained("small.safetensors", 8, 0.05f);
    outcome t = try("small", (ds_import_options){.source = path});
    ck_assert_msg(!t.rc, "%s", t.err.message);
    ck_assert_str_eq(text_at(objective(&t), "how", NULL), "assumed");
    ck_assert(!ds_json_bool(json_object_get(objective(&t), "measured"), "clear", 1));
    end(&t);
    free(path);
    /* answers beyond the numbers: a very bad answer, and a report all the same */
    path = untrained("huge.safetensors", 8, 3e37f);
    t = try("huge", (ds_import_options){.source = path});
    const json_t *table = json_object_get(json_object_get(objective(&t), "measured"), "table");
    ck_assert_uint_eq(json_array_size(table), 11);
    ck_assert(ds_json_number(json_array_get(table, 0), "loss", 0) > 1e5);
    end(&t);
    free(path);
}
END_TEST

/* ---------------------------------------------------------------- said */

START_TEST(settings_are_believed_and_checked) {
    static const struct {
        const char *from, *args[8], *says, *too; /* says NULL: imported */
    } cases[] = {
        /* SiT's; its measured twin of another direction or path is refused */
        {"velocity.pt", {"prediction", "velocity", "path_type", "Linear"}, NULL, "args"},
        {"gvp.pt", {"prediction", "velocity", "path_type", "GVP"}, NULL, "args"},
        {"gvp.pt", {"prediction", "velocity"}, NULL, "args"},
        {"velocity.pt",
         {"prediction", "velocity", "path_type", "GVP"},
         "args.path_type is \"GVP\", args.prediction is \"velocity\", but its losses say",
         "velocity (data - noise), linear path: eps "},
        {"velocity.pt",
         {"prediction", "velocity", "path_type", "VP"},
         "along a path that is not known",
         "args.path_type is \"VP\""},
        {"eps.pt",
         {"model", "SiT-B/2", "prediction", "v"},
         "args.prediction is \"v\", but its losses say",
         "noise (eps), DDPM schedule"},
        {"eps.pt",
         {"prediction", "velocity", "path_type", "Linear"},
         "args.prediction is \"velocity\", but its losses say",
         "noise (eps), DDPM schedule"},
        {"eps.pt",
         {"prediction", "noise", "path_type", "Linear"},
         "along a flow's path",
         "args.path_type is \"Linear\", args.prediction is \"noise\""},
        {"eps.pt",
         {"prediction", "noise", "objective", "flow"},
         "says two things",
         "args.objective is \"flow\""},
        {"eps.pt", {"parameterization", "x0"}, "the clean picture", "args.parameterization"},
        {"eps.pt", {"prediction", "score"}, "the score", "args.prediction"},
        {"eps.pt", {"prediction", "quux"}, "not known", "quux"},
        {"eps.pt", {"noise_schedule", "cosine"}, "noise_schedule is", "cosine"},
        {"eps.pt", {"objective", "pred_v"}, "predicts velocity", "args.objective"},
        {"eps.pt", {"prediction_type", "v-prediction"}, "predicts velocity", "v-prediction"},
        {"eps.pt", {"model_mean_type", "Mean.START_X"}, "the clean picture", "Mean.START_X"},
        {"velocity.pt",
         {"prediction", "noise"},
         "args.prediction is \"noise\", but its losses say",
         "velocity (data - noise), linear path"},
        {"eps.pt", {"prediction", "noise", "image_size", "16"}, NULL, "args"},
        {"eps.pt", {"model", "DiT-B/2", "noise_schedule", "linear"}, NULL, "measured"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *from = ds_xasprintf(GOLDEN "%s", cases[i].from),
             *path = checkpoint("args.pt", from, cases[i].args);
        outcome t = try("said", (ds_import_options){.source = path});
        if (cases[i].says)
            expect_refused(&t, cases[i].says, cases[i].too);
        else {
            ck_assert_msg(!t.rc, "%zu: %s", i, t.err.message);
            ck_assert_str_eq(text_at(objective(&t), "how", NULL), cases[i].too);
            ck_assert(ds_json_bool(json_object_get(objective(&t), "measured"), "clear", 0));
            expect_flow(&t,
                        *cases[i].from == 'g'   ? "gvp"
                        : *cases[i].from == 'v' ? "linear"
                                                : NULL,
                        1, 1);
            must(ds_fs_remove(t.r.file, &t.err), &t.err);
            end(&t);
        }
        free(from);
        free(path);
    }
}
END_TEST

/* Settings of networks that never learned anything, so that nothing is measured: SiT's and REPA's
 * train in opposite directions, and are known by how they write. */
START_TEST(settings_alone) {
    static const struct {
        const char *args[10], *path; /* path NULL: refused */
        int to_data;
    } cases[] = {
        {{"prediction", "velocity", "path_type", "Linear"}, "linear", 1},
        {{"prediction", "velocity", "path_type", "GVP"}, "gvp", 1},
        {{"prediction", "v", "path_type", "linear", "enc_type", "dinov2-vit-b"}, "linear", 0},
        {{"prediction", "v", "path_type", "cosine", "proj_coeff", "0.5"}, "gvp", 0},
        {{"prediction", "velocity"}, NULL, 0},
        {{"prediction", "v", "path_type", "linear"}, NULL, 0}};
    char *random = untrained("alone.safetensors", 16, 0.1f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = checkpoint("alone.pt", random, cases[i].args);
        outcome t = try("alone", (ds_import_options){.source = path});
        if (!cases[i].path)
            expect_refused(&t, "does not say in which direction", "--objective data-noise");
        else {
            ck_assert_msg(!t.rc, "%zu: %s", i, t.err.message);
            expect_flow(&t, cases[i].path, cases[i].to_data, 1);
            must(ds_fs_remove(t.r.file, &t.err), &t.err);
            end(&t);
        }
        free(path);
    }
    free(random);
}
END_TEST

/* A golden base as safetensors, with tensors of these names besides, ends with NULL; against: its
 * last layer says the opposite; args: its settings. */
static char *changed(const char *from, const char *const *extra, int against, const char *args) {
    static const float some[6] = {1, 2, 3, 4, 5, 6};
    static const int64_t six[] = {6};
    char *path = in_tmp("changed.safetensors"), *bytes;
    float *kept[128];
    size_t size;
    ds_st_writer *w = ds_st_writer_new();
    ds_weights *r;
    ds_error err;
    must(ds_weights_open(&r, from, NULL, &err), &err);
    size_t count = ds_weights_count(r);
    ck_assert_uint_lt(count, 128);
    for (size_t i = 0; i < count; i++) {
        const ds_weights_tensor *t = ds_weights_at(r, i);
        kept[i] = ds_xmalloc(t->count * sizeof(float));
        must(ds_weights_read_f32(r, t, kept[i], &err), &err);
        for (size_t k = 0; against && k < t->count && strstr(t->name, "final_layer.linear"); k++)
            kept[i][k] = -kept[i][k];
        ds_st_writer_add_f32(w, t->name, DS_ST_F32, t->ndim, t->shape, kept[i]);
    }
    for (; *extra; extra++)
        ds_st_writer_add_f32(w, *extra, DS_ST_F32, 1, six, some);
    if (args)
        ds_st_writer_meta(w, "args", args);
    must(ds_st_writer_finish(w, &bytes, &size, &err), &err);
    must(ds_fs_write(path, bytes, size, &err), &err);
    ds_st_writer_free(w);
    free(bytes);
    for (size_t i = 0; i < count; i++)
        free(kept[i]);
    ds_weights_close(r);
    return path;
}

/* REPA's networks have projectors that only its training needs.  They are known, left out, and say
 * that it is a velocity where nothing else does. */
START_TEST(projectors_are_left_out) {
    static const char *const others[] = {NULL, "projectors.0.weight", "projectors.0.0.gamma",
                                         "projectors.x.0.bias"};
    for (size_t k = 0; k < sizeof others / sizeof others[0]; k++) {
        const char *const extra[] = {"projectors.0.0.weight",
                                     "projectors.0.0.bias",
                                     "projectors.0.4.weight",
                                     "projectors.12.2.bias",
                                     others[k],
                                     NULL};
        char *path = changed(GOLDEN "flow-1000.pt", extra, 0, NULL);
        outcome t = try("repa", (ds_import_options){.source = path});
        if (k)
            expect_refused(&t, "is not known", others[k]);
        else {
            ck_assert_msg(!t.rc, "%s", t.err.message);
            ck_assert_str_eq(text_at(objective(&t), "how", NULL), "tensors");
            ck_assert_ptr_nonnull(strstr(text_at(objective(&t), "said", NULL), "REPA"));
            expect_flow(&t, "linear", 0, 1000);
            const json_t *left = json_object_get(ds_import_report_json(t.report), "ignored");
            ck_assert_str_eq(text_at(json_array_get(left, 0), "tensors", NULL), "projectors.*");
            must(ds_fs_remove(t.r.file, &t.err), &t.err);
            end(&t);
        }
        free(path);
    }
}
END_TEST

/* What is clear and cannot be used is named: a velocity against its time. */
START_TEST(a_time_against_its_velocity) {
    static const char *const none[] = {NULL};
    static const struct {
        const char *args, *says;
    } cases[] = {
        {NULL, "this base predicts velocity (noise - data), linear path"},
        {"{\"prediction\": \"noise\"}",
         "but its losses say it predicts velocity (noise - data), linear path (its time runs"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = changed(GOLDEN "velocity.pt", none, 1, cases[i].args);
        outcome t = try("against", (ds_import_options){.source = path});
        expect_refused(&t, cases[i].says, "its time runs against its velocity");
        free(path);
    }
}
END_TEST

static void is_text(void *user, int warning, const char *line) {
    (void)user, (void)warning;
    ck_assert_msg(ds_json_is_text(line) && !strchr(line, '?'), "%s", line);
}

/* A person is believed, but what the file says against it is said. */
START_TEST(a_person_against_the_file) {
    static const char *const args[] = {"prediction", "velocity", NULL};
    char *path = checkpoint("against.pt", GOLDEN "velocity.pt", args);
    outcome t = try("against", (ds_import_options){.source = path, .objective = "eps"});
    ck_assert_msg(!t.rc, "%s", t.err.message);
    const char *said = text_at(objective(&t), "said", NULL);
    ck_assert_msg(strstr(said, "--objective eps") && strstr(said, "args.prediction is"), "%s",
                  said);
    end(&t);
    free(path);
}
END_TEST

/* What is quoted of a setting is cut between characters: a report and its lines stay text. */
START_TEST(settings_of_many_bytes) {
    char value[128], license[301];
    for (size_t i = 0; i < 300; i += 2)
        memcpy(license + i, "\xc3\xa9", 3);
    for (int lead = 0; lead < 4; lead++) {
        int n = snprintf(value, sizeof value, "%.*s", lead, "aaaa");
        for (int i = 0; i < 39; i++)
            n += snprintf(value + n, sizeof value - (size_t)n, "\xc3\xa9");
        snprintf(value + n, sizeof value - (size_t)n, ".epsilon");
        for (int given = 0; given < 2; given++) { /* then of two settings, which disagree */
            const char *const args[] = {"prediction", value, given ? "path_type" : NULL, "Linear",
                                        NULL};
            char *path = checkpoint("many.pt", GOLDEN "eps.pt", args);
            outcome t = try("many", (ds_import_options){.source = path,
                                                        .license = license + 2 * lead,
                                                        .objective = given ? "data-noise" : NULL});
            ck_assert_msg(!t.rc, "%s", t.err.message);
            const char *said = text_at(objective(&t), "said", NULL);
            ck_assert_msg(strstr(said, "args.prediction is \"") && strstr(said, "\xc3\xa9"), "%s",
                          said);
            ds_import_report_lines(t.report, is_text, NULL);
            ck_assert(ds_json_is_text(t.r.license) && strlen(t.r.license) == 254);
            json_t *result = ds_import_result_json("base", &t.r, t.report);
            ck_assert_ptr_nonnull(result);
            json_decref(result);
            end(&t);
            free(path);
        }
    }
}
END_TEST

START_TEST(own_files_and_schedulers_say_it) {
    char *own = in_tmp("own.safetensors");
    make_base(own, 3);
    outcome t = try("heads", (ds_import_options){.source = own}); /* 4 */
    expect_refused(&t, "has 2 heads, not 4", "");
    t = try("own", (ds_import_options){.source = own, .heads = 2, .probe = "examples/flags"});
    const json_t *left = json_object_get(ds_import_report_json(t.report), "ignored");
    ck_assert_str_eq(ds_json_string(json_array_get(left, 0), "tensors", ""), "--probe");
    end(&t);
    t = try("own", (ds_import_options){.source = own, .heads = 2, .probe = "examples/nowhere"});
    ck_assert_int_eq(t.rc, DS_ENOTFOUND);
    end(&t);
    t = try("own", (ds_import_options){.source = own, .heads = 2});
    ck_assert_msg(!t.rc, "%s", t.err.message);
    ck_assert_str_eq(text_at(objective(&t), "how", NULL), "pretrain");
    /* what was imported once is measured: it came from elsewhere */
    ds_import_options first = {.source = GOLDEN "eps.pt"};
    outcome e = try("own", first);
    ck_assert_msg(!e.rc, "%s", e.err.message);
    ds_import_options again = {.source = e.r.file};
    outcome copy = try("own", again);
    ck_assert_msg(!copy.rc, "%s", copy.err.message);
    ck_assert_str_eq(text_at(objective(&copy), "how", NULL), "measured");
    end(&copy);
    end(&e);
    end(&t);
    /* random weights; diffusers' scheduler beside them says epsilon, and no picture contradicts */
    ds_import_options diffusers = {.source = "tests/golden/dit-parity/diffusers-bin"};
    t = try("diffusers", diffusers);
    if (t.rc && strstr(t.err.message, "heads")) { /* its config.json has another number */
        end(&t);
        ds_import_result r;
        ds_error err;
        diffusers.out_dir = in_tmp("diffusers");
        diffusers.report = ds_import_report_new();
        ck_assert_msg(!ds_import_base(&diffusers, &r, &err), "%s", err.message);
        const json_t *o = json_object_get(ds_import_report_json(diffusers.report), "objective");
        ck_assert_str_eq(text_at(o, "how", NULL), "scheduler");
        ck_assert_ptr_nonnull(strstr(text_at(o, "said", NULL), "epsilon"));
        ds_import_result_release(&r);
        ds_import_report_free(diffusers.report);
        free((char *)(uintptr_t)diffusers.out_dir);
    } else
        ck_abort_msg("%s", t.err.message);
    free(own);
}
END_TEST

START_TEST(latents_need_their_vae) {
    ds_import_options o = {.source = "tests/golden/dit-parity/facebook/model.pt"};
    ds_import_result r;
    ds_error err;
    o.heads = 2;
    o.out_dir = in_tmp("latent");
    o.report = ds_import_report_new();
    ck_assert_msg(!ds_import_base(&o, &r, &err), "%s", err.message);
    const json_t *said = json_object_get(ds_import_report_json(o.report), "objective");
    ck_assert_str_eq(text_at(said, "how", NULL), "assumed");
    ck_assert_ptr_nonnull(strstr(text_at(said, "not_measured", NULL), "no VAE"));
    ds_import_result_release(&r);
    /* .. and are measured with it */
    o.vae = "tests/golden/vae-names/old";
    ck_assert_msg(!ds_import_base(&o, &r, &err), "%s", err.message);
    said = json_object_get(ds_import_report_json(o.report), "objective");
    const json_t *m = json_object_get(said, "measured");
    ck_assert_uint_eq(json_array_size(json_object_get(m, "table")), 11);
    ck_assert_str_eq(text_at(m, "group", NULL), "photos");
    ds_import_result_release(&r);
    ds_import_report_free(o.report);
    free((char *)(uintptr_t)o.out_dir);
}
END_TEST

/* ---------------------------------------------------------------- pictures */

START_TEST(pictures_are_few_and_spread) {
    ds_probe_pictures p;
    ds_error err;
    must(ds_probe_pictures_open(&p, NULL, 24, 0, &err), &err);
    ck_assert_int_eq(p.count, 4);
    for (int g = 0; g < p.count; g++)
        ck_assert_msg(p.groups[g].n == DS_PROBE_BUNDLED && *p.groups[g].name, "group %d", g);
    ds_probe_pictures_close(&p);
    must(ds_probe_pictures_open(&p, NULL, 24, 1, &err), &err);
    ck_assert(p.count == 1 && !strcmp(p.groups[0].name, "photos"));
    ds_probe_pictures_close(&p);
    must(ds_probe_pictures_open(&p, "examples/digits", 16, 0, &err), &err);
    ck_assert_int_eq(p.groups[0].n, DS_PROBE_OWN);
    for (int i = 1; i < DS_PROBE_OWN; i++)
        ck_assert(memcmp(p.groups[0].rgb, p.groups[0].rgb + i * 768, 768));
    ds_probe_pictures_close(&p);
    /* broken files cost themselves */
    char *dir = in_tmp("probe");
    must(ds_fs_mkdirs(dir, &err), &err);
    ck_assert_int_eq(ds_probe_pictures_open(&p, dir, 16, 0, &err), DS_EINVAL);
    for (int i = 0; i < 3; i++) {
        char *path = ds_xasprintf("%s/%d.png", dir, i);
        must(ds_fs_write(path, "no picture", 10, &err), &err);
        free(path);
    }
    ck_assert_int_eq(ds_probe_pictures_open(&p, dir, 16, 0, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "no picture that can be used"));
    ck_assert_int_eq(ds_probe_pictures_open(&p, "/nonexistent", 16, 0, &err), DS_ENOTFOUND);
    free(dir);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, eps_is_measured);
    tcase_add_test(tc, finding_out_takes_memory);
    tcase_add_test(tc, velocities_are_found);
    tcase_add_test(tc, a_person_says_it);
    tcase_add_test(tc, random_weights_are_refused);
    tcase_add_test(tc, settings_are_believed_and_checked);
    tcase_add_test(tc, settings_alone);
    tcase_add_test(tc, projectors_are_left_out);
    tcase_add_test(tc, a_time_against_its_velocity);
    tcase_add_test(tc, a_person_against_the_file);
    tcase_add_test(tc, settings_of_many_bytes);
    tcase_add_test(tc, own_files_and_schedulers_say_it);
    tcase_add_test(tc, latents_need_their_vae);
    tcase_add_test(tc, pictures_are_few_and_spread);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_objective", register_cases);
}
