/* tests/worker/test_worker_import.c - DiTs and VAEs of other programs become canonical files: same
 * numbers, same digest each time, whole or absent; what is no DiT is refused with the reason.
 * Sources: tests/golden/dit-parity, vae-names. */
#include "engine/model/base_model.h"
#include "engine/names/dit_names.h"
#include "engine/vae/vae.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/convert/import.h"

#include <math.h>

#define GOLDEN "tests/golden/dit-parity/"
#define VAES "tests/golden/"

static const struct {
    const char *source, *format, *name;
    int heads, classes_named;
} bases[] = {
    {GOLDEN "facebook/model.pt", "facebook DiT, PyTorch zip, ema", "model", 2, 0},
    {GOLDEN "facebook-old/model.pth", "facebook DiT, PyTorch pickle", "model", 3, 0},
    {GOLDEN "facebook-bf16/model.bin", "facebook DiT, PyTorch zip, state_dict", "model", 5, 0},
    {GOLDEN "diffusers", "diffusers DiT, safetensors shards", "diffusers", 0, 5},
    {GOLDEN "diffusers-bin/", "diffusers DiT, PyTorch zip", "diffusers-bin", 0, 3},
    {GOLDEN "diffusers-fp16", "diffusers DiT, safetensors", "diffusers-fp16", 0, 1}};
enum { BASES = sizeof bases / sizeof bases[0] };

/* The canonical file has the source's numbers. */
static void check_numbers(const char *source, int heads, const ds_import_result *r) {
    ds_error err;
    ds_weights *w;
    ds_dit_names *d;
    ds_base *b;
    must(ds_weights_open(&w, source, "transformer", &err), &err);
    must(ds_dit_names_open(&d, w, heads, &err), &err);
    must(ds_base_open(&b, r->file, r->sha256, &err), &err);
    ck_assert_str_eq(b->name, r->name);
    ck_assert_int_eq(ds_dit_config_of(b)->norm2_eps_e6, ds_dit_names_config(d)->norm2_eps_e6);
    ck_assert_int_eq(ds_dit_config_of(b)->time_shift, ds_dit_names_config(d)->time_shift);
    for (int i = 0; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i];
        float *want = ds_xmalloc(p->count * sizeof *want),
              *room = ds_xmalloc(p->count * sizeof *room);
        must(ds_dit_names_read_f32(d, i, want, &err), &err);
        ck_assert_msg(!memcmp(ds_base_values(b, i, room), want, p->count * sizeof *want), "%s: %s",
                      source, p->name);
        free(want);
        free(room);
    }
    ds_base_free(b);
    ds_dit_names_free(d);
    ds_weights_close(w);
}

START_TEST(bases_keep_their_numbers) {
    char *dir = ds_xasprintf("%s/bases-%d", ds_test_tmpdir(), _i);
    ds_import_options o = {.source = bases[_i].source,
                           .license = "CC-BY-NC 4.0",
                           .out_dir = dir,
                           .heads = bases[_i].heads};
    ds_import_result r, again;
    ds_error err;
    ck_assert_msg(!ds_import_base(&o, &r, &err), "%s", err.message);
    ck_assert_str_eq(r.source_format, bases[_i].format);
    ck_assert_str_eq(r.name, bases[_i].name);
    ck_assert(ds_digest_valid(r.source_sha256) && !*r.vae_file && r.parameters > 1000);
    check_numbers(bases[_i].source, bases[_i].heads, &r);
    must(ds_import_base(&o, &again, &err), &err);
    ck_assert_str_eq(r.sha256, again.sha256);
    ck_assert_int_eq(files_in(dir), 1);
    ds_st *st;
    must(ds_st_open_file(r.file, 1 << 24, 0, &st, &err), &err);
    ck_assert_str_eq(ds_st_meta(st, "diffscaler.license"), "CC-BY-NC 4.0");
    ck_assert_str_eq(ds_st_meta(st, "diffscaler.source_sha256"), r.source_sha256);
    const char *classes = ds_st_meta(st, "diffscaler.classes");
    ck_assert(!classes == !bases[_i].classes_named);
    if (classes)
        ck_assert_int_eq(strncmp(classes, "[\"class 0\"", 10), 0);
    enum ds_st_dtype want = _i == 2 ? DS_ST_BF16 : DS_ST_F32;
    ck_assert_int_eq(ds_st_find(st, "blocks.0.attn.qkv.weight")->dtype, want);
    ds_st_free(st);

    /* a canonical file is a source like any other, and needs no help */
    ds_import_options second = {.source = r.file, .out_dir = dir};
    ds_import_result copy;
    ck_assert_msg(!ds_import_base(&second, &copy, &err), "%s", err.message);
    check_numbers(r.file, 0, &copy);
    ck_assert_str_eq(copy.name, r.name);
    ck_assert(json_equal(copy.config, r.config));
    ck_assert_str_eq(copy.license, "CC-BY-NC 4.0");
    ds_import_result_release(&r);
    ds_import_result_release(&again);
    ds_import_result_release(&copy);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- VAE */

START_TEST(vae_spellings_are_one) {
    static const char *const sources[] = {VAES "vae-names/old", VAES "vae-names/ldm",
                                          VAES "vae-names/ldm/model.ckpt"};
    char *dir = in_tmp("vaes");
    ds_error err;
    ds_st *original, *st[2];
    must(ds_st_open_file(VAES "vae.safetensors", 1 << 24, 0, &original, &err), &err);
    for (int i = 0; i < 2; i++) {
        ds_import_options o = {.source = GOLDEN "diffusers", .vae = sources[i], .out_dir = dir};
        ds_import_result r;
        ck_assert_msg(!ds_import_base(&o, &r, &err), "%s", err.message);
        ck_assert(ds_digest_valid(r.vae_sha256));
        ck_assert(fabs(ds_json_number(r.config, "latent_scale", 0) - 0.18215) < 1e-9);
        must(ds_st_open_file(r.vae_file, 1 << 24, 0, &st[i], &err), &err);
        ck_assert_str_eq(ds_st_meta(st[i], "diffscaler.kind"), "vae");
        const char *from = ds_st_meta(st[i], "diffscaler.source_sha256"),
                   *format = ds_st_meta(st[i], "diffscaler.source_format");
        ck_assert(from && ds_digest_valid(from) && strcmp(from, r.vae_sha256));
        ck_assert_msg(format && !strncmp(format, "VAE of ", 7) && strchr(format, ','), "%s",
                      format);
        ds_device *dev; /* the network builds from it */
        ds_vae *vae;
        must(ds_device_open(&dev, &(ds_device_options){.kind = "ref"}, &err), &err);
        ck_assert_msg(!ds_vae_open(&vae, dev, r.vae_file, r.vae_sha256,
                                   DS_VAE_ENCODER | DS_VAE_DECODER, &err),
                      "%s", err.message);
        ds_vae_free(vae);
        ds_device_close(dev);
        ds_import_result_release(&r);
    }
    ck_assert_uint_eq(ds_st_count(st[0]), ds_st_count(original));
    for (size_t i = 0; i < ds_st_count(original); i++) {
        const ds_st_tensor *t = ds_st_at(original, i), *a = ds_st_find(st[0], t->name),
                           *b = ds_st_find(st[1], t->name);
        ck_assert_msg(a && b && a->count == t->count && a->ndim == t->ndim && b->ndim == t->ndim,
                      "%s", t->name);
        float *x = ds_xmalloc(t->count * 4 + 4), *y = ds_xmalloc(t->count * 4 + 4),
              *z = ds_xmalloc(t->count * 4 + 4);
        must(ds_st_read_f32(original, t, x, &err), &err);
        must(ds_st_read_f32(st[0], a, y, &err), &err);
        must(ds_st_read_f32(st[1], b, z, &err), &err);
        for (size_t k = 0; k < t->count; k++) /* these sources are stored in half precision */
            ck_assert(y[k] == ds_f16_to_f32(ds_f16_from_f32(x[k])) && z[k] == y[k]);
        free(x);
        free(y);
        free(z);
    }
    ds_st_free(original);
    ds_st_free(st[0]);
    ds_st_free(st[1]);
    /* the file in that folder is the same; without its config.json the usual 32 groups are assumed,
     * which do not fit these 8 channels */
    ds_import_options o = {.source = GOLDEN "diffusers", .vae = sources[2], .out_dir = dir};
    ds_import_result r;
    ck_assert_msg(!ds_import_base(&o, &r, &err), "%s", err.message);
    ds_import_result_release(&r);
    char *alone = in_tmp("alone.ckpt");
    must(ds_fs_copy(sources[2], alone, &err), &err);
    o.vae = alone;
    ck_assert_int_ne(ds_import_base(&o, &r, &err), 0);
    free(alone);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- what is no DiT */

/* A copy of a golden DiT as one safetensors file, with one thing changed. */
enum change {
    NOTHING,
    DROP,
    EXTRA,
    RESHAPE,
    NOT_A_NUMBER,
    INFINITE,
    COPY_DIFFERS,
    INTEGER,
    CHANGES
};

static char *changed_file(const char *source, enum change c) {
    ds_error err;
    ds_weights *w;
    must(ds_weights_open(&w, source, "transformer", &err), &err);
    static const char *const marks[] = {"x_embedder.proj.weight", "pos_embed.proj.weight", NULL};
    must(ds_weights_choose(w, marks, &err), &err);
    ds_st_writer *out = ds_st_writer_new();
    float *borrowed = NULL; /* by the writer */
    int facebook = ds_weights_find(w, "pos_embed") != NULL;
    for (size_t i = 0; i < ds_weights_count(w); i++) {
        const ds_weights_tensor *t = ds_weights_at(w, i);
        float *x = ds_xmalloc(t->count * sizeof *x + 4);
        int64_t shape[DS_ST_DIMS_MAX];
        memcpy(shape, t->shape, sizeof shape);
        must(ds_weights_read_f32(w, t, x, &err), &err);
        int bias = strstr(t->name, facebook ? "blocks.1.mlp.fc1.bias"
                                            : "transformer_blocks.1.ff.net.0.proj.bias") != NULL;
        if (bias && (c == NOT_A_NUMBER || c == INFINITE))
            x[3] = c == INFINITE ? INFINITY : NAN;
        if (c == COPY_DIFFERS &&
            strstr(t->name, "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias"))
            x[0] += 1e-3f;
        if (bias && c == RESHAPE)
            shape[0]--;
        if (bias && c == INTEGER)
            ds_st_writer_add(out, t->name, DS_ST_I32, t->ndim, shape, x);
        else if (!(bias && c == DROP))
            ds_st_writer_add_f32(out, t->name, DS_ST_F32, t->ndim, shape, x);
        if (bias && c == INTEGER)
            borrowed = x;
        else
            free(x);
    }
    if (c == EXTRA)
        ds_st_writer_add_f32(out, "blocks.0.cross_attn.proj.bias", DS_ST_F32, 1, (int64_t[]){1},
                             &(float){1});
    char *path = ds_xasprintf("%s/changed-%d.safetensors", ds_test_tmpdir(), c), *bytes;
    size_t n;
    must(ds_st_writer_finish(out, &bytes, &n, &err), &err);
    must(ds_fs_write(path, bytes, n, &err), &err);
    free(bytes);
    free(borrowed);
    ds_st_writer_free(out);
    ds_weights_close(w);
    return path;
}

START_TEST(wrong_models_are_refused) {
    static const char *const says[CHANGES] = {NULL,
                                              "no tensor 'blocks.1.mlp.fc1.bias'",
                                              "'blocks.0.cross_attn.proj.bias' is not known",
                                              "has shape [63], expected [64]",
                                              "finite",
                                              "finite",
                                              NULL,
                                              "type I32"};
    char *dir = in_tmp("refused");
    for (int c = 0; c < CHANGES; c++) {
        char *path = changed_file(GOLDEN "facebook/model.pt", (enum change)c);
        ds_import_options o = {.source = path, .out_dir = dir, .heads = 2};
        ds_import_result r;
        ds_error err = {0};
        int rc = ds_import_base(&o, &r, &err);
        ck_assert_msg(!rc == !says[c], "change %d: %s", c, err.message);
        if (rc)
            ck_assert_msg(strstr(err.message, says[c]) != NULL, "change %d: %s", c, err.message);
        else
            ds_import_result_release(&r);
        free(path);
    }
    ck_assert_int_eq(files_in(dir), 2); /* the two right ones, and nothing half written */
    free(dir);
}
END_TEST

/* A diffusers folder whose config.json or weights say something else. */
START_TEST(wrong_folders_are_refused) {
    static const struct {
        const char *from, *to, *says;
    } edits[] = {
        {"\"num_attention_heads\": 3", "\"num_attention_heads\": 3", NULL},
        {"\"num_attention_heads\": 3", "\"num_attention_heads\": 5", "5 heads of 8"},
        {"\"patch_size\": 2", "\"patch_size\": 4", "patch_size"},
        {"\"num_layers\": 2", "\"num_layers\": 3", "num_layers"},
        {"\"num_embeds_ada_norm\": 5", "\"num_embeds_ada_norm\": 6", "num_embeds_ada_norm"},
        {"gelu-approximate", "geglu", "activation_fn"},
        {"DiTTransformer2DModel", "PixArtTransformer2DModel", "_class_name"},
        {"\"sample_size\": 8", "\"sample_size\": null", "config.json only"}};
    char *text, *dir = in_tmp("folder"), *file = ds_xasprintf("%s/model.safetensors", dir),
                *config = ds_xasprintf("%s/config.json", dir), *out = in_tmp("folder-out");
    size_t n;
    ds_error err;
    must(ds_fs_read(GOLDEN "diffusers/transformer/config.json", 1 << 16, &text, &n, &err), &err);
    must(ds_fs_mkdirs(dir, &err), &err);
    for (size_t i = 0; i <= sizeof edits / sizeof edits[0]; i++) {
        int copies = i == sizeof edits / sizeof edits[0]; /* the last: embedders that differ */
        char *model = changed_file(GOLDEN "diffusers", copies ? COPY_DIFFERS : NOTHING);
        const char *from = copies ? "" : edits[i].from, *to = copies ? "" : edits[i].to,
                   *hit = strstr(text, from);
        ck_assert_ptr_nonnull(hit);
        char *edited = ds_xasprintf("%.*s%s%s", (int)(hit - text), text, to, hit + strlen(from));
        must(ds_fs_write(config, edited, strlen(edited), &err), &err);
        must(ds_fs_copy(model, file, &err), &err);
        ds_import_options o = {.source = dir, .out_dir = out};
        ds_import_result r;
        int rc = ds_import_base(&o, &r, &err);
        const char *says = copies ? "differs from the copy in block 0" : edits[i].says;
        ck_assert_msg(!rc == !says, "edit %zu: %s", i, rc ? err.message : "accepted");
        if (rc)
            ck_assert_msg(strstr(err.message, says) != NULL, "edit %zu: %s", i, err.message);
        else
            ds_import_result_release(&r);
        free(edited);
        free(model);
    }
    free(text);
    free(dir);
    free(file);
    free(config);
    free(out);
}
END_TEST

START_TEST(vae_must_fit) {
    char *dir = in_tmp("fit");
    ds_error err;
    ds_import_result r;
    ds_import_options pixel = {.source = GOLDEN "facebook-old/model.pth",
                               .vae = VAES "vae.safetensors",
                               .out_dir = dir,
                               .heads = 3};
    ck_assert_int_eq(ds_import_base(&pixel, &r, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "takes no VAE"));
    ds_import_options other = {
        .source = GOLDEN "diffusers", .vae = GOLDEN "diffusers", .out_dir = dir};
    ck_assert_int_eq(ds_import_base(&other, &r, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "no VAE"));
    other.vae = "/nonexistent";
    ck_assert_int_eq(ds_import_base(&other, &r, &err), DS_ENOTFOUND);
    other.vae = GOLDEN "facebook/model.pt";
    ck_assert_int_eq(ds_import_base(&other, &r, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "no VAE"));
    other.vae = NULL;
    other.source = VAES "vae.safetensors";
    ck_assert_int_eq(ds_import_base(&other, &r, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "no DiT"));
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- whole or absent */

static const char *stage_now;

static void note_stage(void *user, const char *stage) {
    (void)user;
    stage_now = stage;
}

static int stop_late(void *user, double done, double total) {
    (void)user;
    return !strcmp(stage_now, "convert") && done > total / 2;
}

/* A base of our own kind with so many channels of latents under TMP/name. */
static char *latent_base(const char *name, int channels) {
    ds_dit_config c = {.channels = channels,
                       .side = 8,
                       .patch = 2,
                       .width = 32,
                       .depth = 1,
                       .heads = 2,
                       .mlp_ratio = 4,
                       .classes = 3,
                       .freq_dim = 256,
                       .norm2_eps_e6 = 1,
                       .latent_scale = 0.18215,
                       .train_steps = 1000,
                       .beta_start = 1e-4,
                       .beta_end = 0.02};
    char *path = in_tmp(name);
    ds_base *b;
    ds_error err;
    must(ds_dit_base_new(&b, &c, 1, &err), &err);
    must(ds_base_save(b, path, 0, NULL, &err), &err);
    ds_base_free(b);
    return path;
}

/* The channels of the latents are those of the base; where they are not, nothing is left. */
START_TEST(vae_has_the_channels_of_the_base) {
    char *dir = in_tmp("channels");
    for (int channels = 4; channels <= 8; channels += 4) {
        char *source = latent_base("latent.safetensors", channels);
        ds_import_options o = {.source = source, .vae = VAES "vae-names/old", .out_dir = dir};
        ds_import_result r;
        ds_error err = {0};
        int rc = ds_import_base(&o, &r, &err);
        ck_assert_msg(rc == (channels == 4 ? 0 : DS_EINVAL), "%d %s", rc, err.message);
        if (rc)
            ck_assert_msg(strstr(err.message, "has 4 latent channels, the base takes 8") != NULL,
                          "%s", err.message);
        else
            ds_import_result_release(&r);
        ck_assert_int_eq(files_in(dir), 2);
        free(source);
    }
    free(dir);
}
END_TEST

/* What cannot take its name is an error, and what was written before it goes. */
START_TEST(a_name_that_cannot_be_taken) {
    char *dir = in_tmp("free"), *blocked = in_tmp("blocked");
    ds_import_options o = {
        .source = GOLDEN "diffusers", .vae = VAES "vae-names/old", .out_dir = dir};
    ds_import_result r, none;
    ds_error err;
    must(ds_import_base(&o, &r, &err), &err);
    const char *const digests[] = {r.sha256, r.vae_sha256};
    o.out_dir = blocked;
    for (int i = 0; i < 2; i++) {
        char *taken = ds_xasprintf("%s/%s.safetensors", blocked, digests[i]),
             *in = ds_xasprintf("%s/x", taken);
        must(ds_fs_mkdirs(in, &err), &err);
        ck_assert_msg(ds_import_base(&o, &none, &err) != 0, "file %d", i);
        ck_assert(!none.config && !*none.file);
        ck_assert_int_eq(files_in(blocked), 1); /* what was in the way, nothing else */
        must(ds_fs_remove(taken, &err), &err);
        free(in);
        free(taken);
    }
    for (int k = 1; k < 200; k++) { /* the k-th write of it and all later ones fail */
        char at[16];
        ds_error full;
        must(ds_fs_remove(blocked, &err), &err);
        snprintf(at, sizeof at, "%d", k);
        fflush(NULL);
        setenv("DS_TEST_ENOSPC", at, 1);
        pid_t pid = fork(); /* the count is a process's */
        if (!pid) {
            int rc = ds_import_base(&o, &none, &full);
            _exit(rc == DS_ENOSPC && !files_in(blocked) ? 1 : rc ? 2 : 0);
        }
        unsetenv("DS_TEST_ENOSPC");
        int status = wait_job(pid);
        ck_assert_msg(status < 2, "write %d: %d", k, status);
        if (!status)
            break;
        k += k > 8 ? 9 : 0;
    }
    ck_assert_int_eq(files_in(blocked), 2);
    ds_import_result_release(&r);
    free(dir);
    free(blocked);
}
END_TEST

/* Names are lower case, and what a name cannot have becomes one '-'. */
START_TEST(names_are_made) {
    static const struct {
        const char *given, *want;
    } names[] = {{"Tiny  DiT/2 (EMA)", "tiny-dit-2-ema-"},
                 {"..x", "x"},
                 {"-_a.B_c-", "a.b_c-"},
                 {"\xc3\x84", "base"},
                 {"AZaz09@[`{", "azaz09-"},
                 {"0123456789012345678901234567890123456789012345678901234567890123456789",
                  "012345678901234567890123456789012345678901234567890123456789012"}};
    char *dir = in_tmp("names"), *file = in_tmp("My.Model.V2.pt");
    ds_error err;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ds_import_options o = {
            .source = GOLDEN "diffusers-fp16", .name = names[i].given, .out_dir = dir};
        ds_import_result r;
        must(ds_import_base(&o, &r, &err), &err);
        ck_assert_str_eq(r.name, names[i].want);
        ds_import_result_release(&r);
    }
    must(ds_fs_copy(GOLDEN "facebook/model.pt", file, &err), &err);
    ds_import_options o = {.source = file, .name = "", .out_dir = dir, .heads = 2};
    ds_import_result r;
    must(ds_import_base(&o, &r, &err), &err);
    ck_assert_str_eq(r.name, "my.model.v2");
    ds_import_result_release(&r);
    free(file);
    free(dir);
}
END_TEST

START_TEST(cancelled_or_full_leaves_nothing) {
    char *dir = in_tmp("nothing");
    ds_error err;
    ds_import_result r;
    ds_import_options o = {
        .source = GOLDEN "diffusers", .out_dir = dir, .progress = {note_stage, stop_late, NULL}};
    ck_assert_int_eq(ds_import_base(&o, &r, &err), DS_ECANCELED);
    ck_assert_int_eq(files_in(dir), 0);
    o.progress.step = NULL;
    setenv("DS_TEST_ENOSPC", "3", 1); /* the third write and all later ones */
    ck_assert_int_eq(ds_import_base(&o, &r, &err), DS_ENOSPC);
    unsetenv("DS_TEST_ENOSPC");
    ck_assert_int_eq(files_in(dir), 0);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- as a job */

static json_t *import_spec(const char *source, const char *vae, int heads) {
    char full[PATH_MAX], vae_full[PATH_MAX], *out = in_tmp("job-out");
    ck_assert_ptr_nonnull(realpath(source, full));
    if (vae)
        ck_assert_ptr_nonnull(realpath(vae, vae_full));
    json_t *s = json_pack("{s:s, s:s, s:i, s:s, s:s, s:o, s:s, s:s, s:s, s:i}", "schema",
                          "diffscaler.job/1", "kind", "import", "job", 5, "what", "base", "source",
                          full, "vae", vae ? json_string(vae_full) : json_null(), "name",
                          "Tiny DiT", "license", "ours", "out_dir", out, "heads", heads);
    free(out);
    return s;
}

START_TEST(job_writes_its_result) {
    char *dir = make_job("job-good", import_spec(GOLDEN "diffusers", VAES "vae-names/old", 0)),
         digest[DS_HEX_SIZE];
    run_expect(dir, 0);
    json_t *r = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(r, "schema", NULL), "diffscaler.import/1");
    ck_assert_str_eq(text_at(r, "what", NULL), "base");
    ck_assert_str_eq(text_at(r, "name", NULL), "tiny-dit");
    ck_assert_str_eq(text_at(r, "license", NULL), "ours");
    char *log = ds_xasprintf("%s/events.ndjson", dir), *events;
    size_t n;
    int stages = 0;
    must(ds_fs_read(log, 1 << 20, &events, &n, &(ds_error){0}), &(ds_error){0});
    for (char *at = events; (at = strstr(at, "\"type\":\"stage\"")); at++)
        stages++;
    ck_assert_msg(stages >= 3 && stages <= 5, "%d stages", stages); /* each once, in turn */
    ck_assert(strstr(events, "\"stage\":\"digest\"") && strstr(events, "\"stage\":\"convert\"") &&
              strstr(events, "\"stage\":\"objective\""));
    free(events);
    free(log);
    file_digest(text_at(r, "file", NULL), digest);
    ck_assert_str_eq(digest, text_at(r, "sha256", NULL));
    file_digest(text_at(r, "vae", "file"), digest);
    ck_assert_str_eq(digest, text_at(r, "vae", "sha256"));
    ck_assert_int_eq(ds_json_int(json_object_get(r, "config"), "time_shift", -1), 1);
    json_decref(r);
    free(dir);
}
END_TEST

START_TEST(job_says_why_not) {
    static const struct {
        const char *source;
        int status;
        const char *says;
    } bad[] = {{GOLDEN "facebook/model.pt", 2, "--heads"},
               {"tests/worker/test_worker_import.c", 2, "not a file of weights"},
               {VAES "vae.safetensors", 2, "no DiT"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char name[32], *log, *text;
        size_t n;
        snprintf(name, sizeof name, "job-bad-%zu", i);
        char *dir = make_job(name, import_spec(bad[i].source, NULL, 0));
        run_expect(dir, bad[i].status);
        log = ds_xasprintf("%s/events.ndjson", dir);
        must(ds_fs_read(log, 1 << 20, &text, &n, &(ds_error){0}), &(ds_error){0});
        ck_assert_msg(strstr(text, "\"error\"") && strstr(text, bad[i].says), "%s", text);
        free(text);
        free(log);
        free(dir);
    }
}
END_TEST

/* ---------------------------------------------------------------- as commands */

/* Exit status of a command; what it prints goes to TMP/out and TMP/err. */
static int command(int (*run)(int, char **), const char *const *args, char **out, char **err) {
    char *to = in_tmp("out"), *errors = in_tmp("err");
    size_t n;
    int count = 0;
    while (args[count])
        count++;
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        if (!freopen(to, "w", stdout) || !freopen(errors, "w", stderr))
            _exit(99);
        int rc = run(count, (char **)(uintptr_t)args);
        fflush(NULL);
        _exit(rc);
    }
    int status = wait_job(pid);
    must(ds_fs_read(to, 1 << 20, out, &n, &(ds_error){0}), &(ds_error){0});
    must(ds_fs_read(errors, 1 << 20, err, &n, &(ds_error){0}), &(ds_error){0});
    free(to);
    free(errors);
    return status;
}

static void expect_command(int (*run)(int, char **), const char *const *args, int status,
                           const char *says) {
    char *out, *err;
    int got = command(run, args, &out, &err);
    ck_assert_msg(got == status && strstr(status ? err : out, says), "exit %d: %s%s", got, out,
                  err);
    ck_assert_msg(!status || !*out, "%s", out);
    free(out);
    free(err);
}

START_TEST(import_base_as_a_command) {
    char *dir = in_tmp("command");
    const char *const source = GOLDEN "facebook/model.pt";
    const char *const good[] = {source, "-o",     dir, "--heads",   "2",   "--heads",
                                "2",    "--name", "N", "--license", "MIT", NULL};
    const struct {
        const char *args[8];
        int status;
        const char *says;
    } calls[] = {{{"--help"}, 0, "usage: diffscaler-worker import-base"},
                 {{"x", "-h"}, 0, "usage: diffscaler-worker import-base"},
                 {{NULL}, 2, "which model?"},
                 {{source}, 2, "where to?"},
                 {{source, "-o"}, 2, "-o needs a value DIR"},
                 {{source, source, "-o", dir}, 2, "unexpected argument"},
                 {{source, "-o", dir, "--frob"}, 2, "unexpected argument '--frob'"},
                 {{source, "-o", dir, "--heads", "0"}, 2, "--heads takes a number from 1 to 128"},
                 {{source, "-o", dir, "--heads", "129"}, 2, "--heads takes a number from 1 to 128"},
                 {{source, "-o", dir, "--heads", "2x"}, 2, "--heads takes a number"},
                 {{source, "-o", dir, "--heads", "2", "--heads", "3"}, 2, "'2' and as '3'"},
                 {{source, "-o", dir, "--name", "a", "--name", "b"}, 2, "as 'a' and as 'b'"},
                 {{source, "-o", dir, "--name", "\xff"}, 2, "--name takes a text in UTF-8"},
                 {{source, "-o", dir}, 2, "--heads"},
                 {{"/nonexistent.pt", "-o", dir}, 3, "error: "}};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        expect_command(ds_worker_import_base, calls[i].args, calls[i].status, calls[i].says);
    char *out, *err;
    ck_assert_int_eq(command(ds_worker_import_base, good, &out, &err), 0);
    json_t *doc;
    must(ds_json_parse("out", out, strlen(out), &doc, &(ds_error){0}), &(ds_error){0});
    ck_assert_str_eq(text_at(doc, "name", NULL), "n");
    ck_assert_str_eq(text_at(doc, "license", NULL), "MIT");
    ck_assert(ds_fs_exists(text_at(doc, "file", NULL)));
    ck_assert_msg(strstr(err, "note: ") && strstr(err, "warning: "), "%s", err);
    json_decref(doc);
    free(out);
    free(err);
    free(dir);
}
END_TEST

START_TEST(import_feature_net_as_a_command) {
    const struct {
        const char *args[6];
        int status;
        const char *says;
    } calls[] = {{{"--help"}, 0, "usage: diffscaler-worker import-feature-net"},
                 {{"-h"}, 0, "usage: diffscaler-worker import-feature-net"},
                 {{"file"}, 2, "usage: "},
                 {{"file", "dir", "x"}, 2, "usage: "},
                 {{"file", "dir", "--weights"}, 2, "usage: "},
                 {{"file", "dir", "--frob", "ema"}, 2, "usage: "},
                 {{"file", "dir", "--weights", "ema", "x"}, 2, "usage: "},
                 {{"--file", "dir"}, 2, "usage: "},
                 {{"/nonexistent.pth", "dir"}, 3, "error: "},
                 {{VAES "vae.safetensors", "dir"}, 2, "is not the network of FID"}};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
        expect_command(ds_worker_import_feature_net, calls[i].args, calls[i].status, calls[i].says);
    /* the right name and another shape: another network, not a damaged file */
    static const float x[2] = {0};
    char *path = in_tmp("other-net.safetensors"), *bytes;
    size_t n;
    ds_error err;
    ds_st_writer *w = ds_st_writer_new();
    ds_st_writer_add(w, "Conv2d_1a_3x3.conv.weight", DS_ST_F32, 1, (int64_t[]){2}, x);
    must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
    must(ds_fs_write(path, bytes, n, &err), &err);
    const char *args[6] = {path, "dir"};
    expect_command(ds_worker_import_feature_net, args, 2, "is not the network of FID");
    ds_st_writer_free(w);
    free(bytes);
    free(path);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, bases_keep_their_numbers, 0, BASES);
    tcase_add_test(tc, vae_spellings_are_one);
    tcase_add_test(tc, wrong_models_are_refused);
    tcase_add_test(tc, wrong_folders_are_refused);
    tcase_add_test(tc, vae_must_fit);
    tcase_add_test(tc, cancelled_or_full_leaves_nothing);
    tcase_add_test(tc, vae_has_the_channels_of_the_base);
    tcase_add_test(tc, a_name_that_cannot_be_taken);
    tcase_add_test(tc, names_are_made);
    tcase_add_test(tc, import_base_as_a_command);
    tcase_add_test(tc, import_feature_net_as_a_command);
    tcase_add_test(tc, job_writes_its_result);
    tcase_add_test(tc, job_says_why_not);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_import", register_cases);
}
