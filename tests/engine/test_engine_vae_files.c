/* tests/engine/test_engine_vae_files.c - VAEs of other programs: their names, shapes and configurations. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/vae/vae_internal.h"
#include "engine/names/vae_names.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---------------------------------------------------------------- configurations */

#define CONFIG(in, out, latent, channels, layers, groups, more)                                    \
    "{\"in_channels\":" in ",\"out_channels\":" out ",\"latent_channels\":" latent                 \
    ",\"block_out_channels\":[" channels "],\"layers_per_block\":" layers                          \
    ",\"norm_num_groups\":" groups more "}"

static const struct {
    const char *text, *says; /* NULL: is right */
} configs[] = {
    {CONFIG("1", "1", "1", "1", "1", "1", ""), NULL},
    {CONFIG("64", "64", "64", "4096", "15", "4096", ",\"scaling_factor\":1000"), NULL},
    {CONFIG("3", "3", "4", "1,2,3,4,5,6,7,8", "2", "1", ",\"scaling_factor\":0.001"), NULL},
    {CONFIG("0", "3", "4", "8", "2", "4", ""), "in_channels is 0, must be 1 to 64"},
    {CONFIG("65", "3", "4", "8", "2", "4", ""), "in_channels is 65"},
    {CONFIG("4294967297", "3", "4", "8", "2", "4", ""), "in_channels is -1"},
    {CONFIG("3", "0", "4", "8", "2", "4", ""), "out_channels is 0"},
    {CONFIG("3", "65", "4", "8", "2", "4", ""), "out_channels is 65"},
    {CONFIG("3", "3", "0", "8", "2", "4", ""), "latent_channels is 0"},
    {CONFIG("3", "3", "65", "8", "2", "4", ""), "latent_channels is 65"},
    {CONFIG("3", "3", "4", "8", "0", "4", ""), "layers_per_block is 0, must be 1 to 15"},
    {CONFIG("3", "3", "4", "8", "16", "4", ""), "layers_per_block is 16"},
    {CONFIG("3", "3", "4", "8", "2", "0", ""), "norm_num_groups is 0, must be 1 to 4096"},
    {CONFIG("3", "3", "4", "8192", "2", "4097", ""), "norm_num_groups is 4097"},
    {CONFIG("3", "3", "4", "8192", "2", "4096", ""),
     "block_out_channels[0] is 8192, must be 1 to 4096"},
    {CONFIG("3", "3", "4", "8,0", "2", "4", ""), "block_out_channels[1] is 0"},
    {CONFIG("3", "3", "4", "8,-8", "2", "4", ""), "block_out_channels[1] is -1"},
    {CONFIG("3", "3", "4", "8,10", "2", "4", ""),
     "block_out_channels[1] is 10, must be 1 to 4096 and a multiple of 4"},
    {CONFIG("3", "3", "4", "", "2", "4", ""), "(their number) is 0, must be 1 to 8"},
    {CONFIG("3", "3", "4", "8,8,8,8,8,8,8,8,8", "2", "4", ""), "(their number) is -1"},
    {CONFIG("3", "3", "4", "8", "2", "4", ",\"scaling_factor\":0"),
     "scaling_factor is 0, must be above 0"},
    {CONFIG("3", "3", "4", "8", "2", "4", ",\"scaling_factor\":-1"), "scaling_factor is -1"},
    {CONFIG("3", "3", "4", "8", "2", "4", ",\"scaling_factor\":1000.5"),
     "scaling_factor is 1000.5"},
    {"{", "a.json"},
};

START_TEST(bounds_of_configurations) {
    ds_vae_config c;
    ds_error err = {0};
    int rc = ds_vae_config_parse(&c, "a.json", configs[_i].text, &err);
    ck_assert_msg(rc == (configs[_i].says ? DS_EINVAL : 0) ||
                      _i == (int)(sizeof configs / sizeof *configs) - 1,
                  "%s: %d %s", configs[_i].text, rc, err.message);
    ck_assert_msg(!rc == !configs[_i].says, "%s: %d", configs[_i].text, rc);
    if (rc)
        ck_assert_msg(strstr(err.message, configs[_i].says) && strstr(err.message, "a.json"), "%s",
                      err.message);
    else { /* and back */
        json_t *doc = ds_vae_config_to_json(&c);
        char *text = ds_json_canonical(doc);
        ds_vae_config again;
        ck_assert_int_eq(ds_vae_config_parse(&again, "b", text, &err), 0);
        ck_assert(!memcmp(&c, &again, sizeof c));
        free(text);
        json_decref(doc);
    }
}
END_TEST

/* ---------------------------------------------------------------- files of other programs */

/* A small VAE whose numbers are a hole; a tensor of it is left out, of another shape or added. */
typedef struct {
    const char *name;
    int ndim; /* 0: left out */
    int64_t shape[4];
    int old;         /* in the spelling before 0.18 */
    const char *own; /* metadata "diffscaler.vae" */
} vae_edit;

typedef struct {
    ds_st_writer *w;
    const vae_edit *e;
    int edited;
} vae_writer;

static void write_tensor(void *user, const char *name, int ndim, const int64_t *shape) {
    static const char *const pieces[][2] = {{".to_q.", ".query."},
                                            {".to_k.", ".key."},
                                            {".to_v.", ".value."},
                                            {".to_out.0.", ".proj_attn."}};
    vae_writer *k = user;
    char text[200];
    snprintf(text, sizeof text, "%s", name);
    for (int i = 0; k->e->old && i < 4; i++) {
        const char *at = strstr(name, pieces[i][0]);
        if (at)
            snprintf(text, sizeof text, "%.*s%s%s", (int)(at - name), name, pieces[i][1],
                     at + strlen(pieces[i][0]));
    }
    int mine = k->e->name && !strcmp(k->e->name, text);
    k->edited |= mine;
    if (!mine)
        ds_st_writer_add(k->w, text, DS_ST_F32, ndim, shape, NULL);
    else if (k->e->ndim)
        ds_st_writer_add(k->w, text, DS_ST_F32, k->e->ndim, k->e->shape, NULL);
}

static const ds_vae_config two_levels = {3, 3, 4, 2, {32, 64}, 1, 32, 0.18215};

/* The folder's model.safetensors; config.json where there is one. */
static void vae_folder(const char *dir, const vae_edit *e, const char *config) {
    vae_writer k = {ds_st_writer_new(), e, !e->name};
    ds_vae_tensors(&two_levels, write_tensor, &k);
    if (!k.edited)
        ds_st_writer_add(k.w, e->name, DS_ST_F32, e->ndim, e->shape, NULL);
    if (e->own)
        ds_st_writer_meta(k.w, "diffscaler.vae", e->own);
    ds_buf header = {0};
    size_t bytes;
    ck_assert_int_eq(ds_st_writer_header(k.w, &header, &bytes, NULL), 0);
    ck_assert(!ds_fs_remove(dir, NULL) && !mkdir(dir, 0700));
    char *path = ds_xasprintf("%s/model.safetensors", dir);
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(header.data, 1, header.len, f) == header.len && !fflush(f));
    ck_assert_int_eq(ftruncate(fileno(f), (off_t)(header.len + bytes)), 0);
    fclose(f);
    free(path);
    path = ds_xasprintf("%s/config.json", dir);
    if (config)
        ck_assert_int_eq(ds_fs_write(path, config, strlen(config), NULL), 0);
    free(path);
    ds_buf_release(&header);
    ds_st_writer_free(k.w);
}

#define OURS CONFIG("3", "3", "4", "32,64", "1", "16", ",\"scaling_factor\":0.5")

#define Q "encoder.mid_block.attentions.0.to_q.weight"

static const struct {
    vae_edit e;
    const char *config, *says; /* says NULL: is right */
    int groups;
    double scale;
} vaes[] = {
    {{0}, NULL, NULL, 32, 0.18215},
    {{.old = 1}, NULL, NULL, 32, 0.18215},
    {{.own = OURS}, NULL, NULL, 16, 0.5},
    {{.own = "{}"}, NULL, "in_channels is 0", 0, 0},
    {{.own = "{}", .old = 1}, NULL, NULL, 32, 0.18215}, /* not one of ours */
    {{0}, OURS, NULL, 16, 0.5},
    {{0},
     CONFIG("3", "3", "4", "32,64", "1", "16", ",\"shift_factor\":0.1"),
     "shift_factor is 0.1",
     0,
     0},
    {{0},
     CONFIG("3", "3", "4", "32,64", "2", "16", ""),
     "no tensor 'encoder.down_blocks.0.resnets.1",
     0,
     0},
    {{0}, CONFIG("3", "3", "4", "32", "1", "16", ""), "", 0, 0},
    {{0},
     CONFIG("4", "3", "4", "32,64", "1", "16", ""),
     "'encoder.conv_in.weight' has shape [32,3,3,3], expected [32,4,3,3]",
     0,
     0},
    {{.name = "encoder.conv_in.weight"}, NULL, "is no VAE (AutoencoderKL): it has no tensor", 0, 0},
    {{.name = Q}, NULL, "no attention in the middle of its encoder", 0, 0},
    {{.name = "decoder.conv_out.bias"}, NULL, "no tensor 'decoder.conv_out.bias'", 0, 0},
    {{.name = Q, .ndim = 4, .shape = {64, 64, 1, 1}},
     NULL,
     NULL,
     32,
     0.18215}, /* as a convolution */
    {{.name = Q, .ndim = 4, .shape = {64, 64, 1, 2}},
     NULL,
     "has shape [64,64,1,2], expected [64,64]",
     0,
     0},
    {{.name = Q, .ndim = 2, .shape = {64, 63}}, NULL, "has shape [64,63], expected [64,64]", 0, 0},
    {{.name = Q, .ndim = 1, .shape = {64}}, NULL, "has shape [64], expected [64,64]", 0, 0},
    {{.name = "encoder.more.weight", .ndim = 1, .shape = {1}},
     NULL,
     "its encoder and decoder have",
     0,
     0},
    {{.name = "decoder.more.weight", .ndim = 1, .shape = {1}},
     NULL,
     "its encoder and decoder have",
     0,
     0},
    {{.name = "loss.weight", .ndim = 1, .shape = {1}},
     NULL,
     NULL,
     32,
     0.18215}, /* beside the networks */
};

START_TEST(vaes_of_other_programs) {
    char *dir = ds_xasprintf("%s/vae", ds_test_tmpdir());
    ds_weights *w = NULL;
    ds_vae_config c;
    const char *spelling = NULL;
    ds_error err = {0};
    ds_import_report *report = ds_import_report_new();
    vae_folder(dir, &vaes[_i].e, vaes[_i].config);
    int rc = ds_weights_open(&w, dir, NULL, &err);
    if (!rc) {
        ds_weights_want(w, NULL, "vae_weights", report);
        rc = ds_vae_names_open(w, &c, &spelling, &err);
    }
    ck_assert_msg(rc == (vaes[_i].says ? DS_EINVAL : 0), "case %d: %d %s", _i, rc, err.message);
    if (rc)
        ck_assert_msg(strstr(err.message, vaes[_i].says) && strstr(err.message, dir), "case %d: %s",
                      _i, err.message);
    else {
        ck_assert(c.groups == vaes[_i].groups && c.scaling_factor == vaes[_i].scale &&
                  c.blocks == 2 && c.channels[0] == 32 && c.channels[1] == 64 && c.layers == 1 &&
                  c.in_channels == 3 && c.out_channels == 3 && c.latent_channels == 4);
        ck_assert_str_eq(spelling, vaes[_i].e.old ? "diffusers before 0.18" : "diffusers");
        const json_t *doc = ds_import_report_json(report);
        int said = vaes[_i].config || (vaes[_i].e.own && !vaes[_i].e.old);
        ck_assert_int_eq((int)json_array_size(json_object_get(doc, "assumed")), said ? 0 : 2);
        int beside = vaes[_i].e.name && vaes[_i].e.name[0] == 'l';
        ck_assert_int_eq((int)json_array_size(json_object_get(doc, "ignored")), beside);
        const ds_weights_tensor *t;
        ck_assert_int_eq(ds_vae_names_find(w, &c, "encoder.conv_in.weight", 4,
                                           (int64_t[]){32, 3, 3, 3}, &t, NULL),
                         0);
        ck_assert_int_eq(ds_vae_names_find(w, &c, "encoder.conv_in.weight", 4,
                                           (int64_t[]){32, 3, 3, 1}, &t, NULL),
                         DS_EINVAL);
        ck_assert_int_eq(ds_vae_names_find(w, &c, Q, 2, (int64_t[]){64, 64}, &t, NULL), 0);
    }
    ds_weights_close(w);
    ds_import_report_free(report);
    free(dir);
}
END_TEST

/* config.json beside a file need not belong to it, and then that is said. */
START_TEST(configurations_of_others) {
    static const struct {
        const char *config;
        int taken;
    } cases[] = {
        {OURS, 1},
        {"{\"_class_name\":\"DiTTransformer2DModel\",\"in_channels\":3,\"scaling_factor\":0.5}", 0},
        {"{\"depth\":28}", 0}};
    char *dir = ds_xasprintf("%s/beside", ds_test_tmpdir()),
         *file = ds_xasprintf("%s/model.safetensors", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_weights *w;
        ds_vae_config c;
        const char *spelling;
        ds_import_report *report = ds_import_report_new();
        vae_folder(dir, &(vae_edit){0}, cases[i].config);
        ck_assert_int_eq(ds_weights_open(&w, file, NULL, NULL), 0);
        ds_weights_want(w, NULL, "vae_weights", report);
        ck_assert_int_eq(ds_vae_names_open(w, &c, &spelling, NULL), 0);
        ck_assert(c.scaling_factor == (cases[i].taken ? 0.5 : 0.18215) &&
                  c.groups == (cases[i].taken ? 16 : 32));
        const json_t *said =
            json_array_get(json_object_get(ds_import_report_json(report), "ignored"), 0);
        ck_assert_str_eq(ds_json_string(said, "tensors", ""), cases[i].taken ? "" : "config.json");
        ds_weights_close(w);
        ds_import_report_free(report);
    }
    free(file);
    free(dir);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, bounds_of_configurations, 0, sizeof configs / sizeof *configs);
    tcase_add_loop_test(tc, vaes_of_other_programs, 0, sizeof vaes / sizeof *vaes);
    tcase_add_test(tc, configurations_of_others);
}

int main(void) { return ds_test_main("engine_vae_files", register_cases); }
