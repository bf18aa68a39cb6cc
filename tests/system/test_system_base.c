/* tests/system/test_system_base.c - a base that a person brings, through the real programs: from a file
 * with the names of facebookresearch/DiT to adapters on it, beside those on the default base; and a
 * latent one with its VAE.  Random weights: what is proven is the way, not the pictures, and what
 * they predict must be said.
 */
#include "engine/model/dit.h"
#include "tests/fixtures/system_rig.h"

#include "engine/model/base_model.h"
#include "engine/files/safetensors.h"

#define VAE "tests/golden/vae.safetensors" /* random, 4 channels, 4 pixels a latent */

/* A DiT as other programs write it: the tensors under "model.", no metadata. */
static char *write_dit(const char *name, int channels, int side, int patch, uint64_t seed) {
    ds_dit_config cfg = {.channels = channels,
                         .side = side,
                         .patch = patch,
                         .width = 32,
                         .depth = 2,
                         .heads = 2,
                         .mlp_ratio = 4,
                         .classes = 4,
                         .learn_sigma = 1,
                         .freq_dim = 256,
                         .pixel = channels == 3,
                         .train_steps = 1000,
                         .beta_start = 1e-4,
                         .beta_end = 0.02,
                         .latent_scale = channels == 3 ? 0 : 0.18215};
    ds_base *b;
    ds_error err;
    must(ds_dit_base_new(&b, &cfg, seed, &err), &err);
    ds_st_writer *w = ds_st_writer_new();
    for (int i = 0; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i];
        char *full = ds_xasprintf("model.%s", p->name);
        int64_t shape[4];
        float *x = b->data + p->offset;
        for (int d = 0; d < p->ndim; d++)
            shape[d] = p->shape[d];
        for (size_t k = 0; k < p->count && p->kind != DS_PARAM_FIXED; k++)
            x[k] += 0.02f * ds_rng_uniform(seed, DS_STREAM_TEST, (uint32_t)i, k, 0);
        ds_st_writer_add(w, full, DS_ST_F32, p->ndim, shape, x);
        free(full);
    }
    char *bytes, *path = in_tmp(name);
    size_t n;
    must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
    spit(path, bytes, n);
    ds_st_writer_free(w);
    ds_base_free(b);
    free(bytes);
    return path;
}

/* sha256 of a base that the daemon knows. */
static void base_digest(const rig *r, const char *name, char out[DS_HEX_SIZE]) {
    EXPECT(r, 0, "show-base", name, "--json");
    json_t *b = said_json();
    snprintf(out, DS_HEX_SIZE, "%s", ds_json_string(b, "sha256", ""));
    json_decref(b);
}

static void expect_base(const rig *r, const char *ref, const char *sha) {
    EXPECT(r, 0, "show-adapter", ref, "--json");
    json_t *a = said_json();
    ck_assert_str_eq(ds_json_string(json_object_get(a, "base"), "sha256", ""), sha);
    json_decref(a);
}

START_TEST(two_bases_beside_each_other) {
    rig r;
    char own[DS_HEX_SIZE], tiny[DS_HEX_SIZE];
    char *file = write_dit("tiny.safetensors", 3, 16, 4, 5), *blobs = folder("blobs"),
         *stripes = folder("stripes"), *png = in_tmp("grid.png");
    rig_open(&r, "two");
    rig_start(&r);
    EXPECT(&r, 0, "add-dataset", blobs, "--wait", QUICK); /* on the default */
    EXPECT(&r, 0, "add-base", file, "--heads", "2", "--license", "MIT", "--objective", "eps",
           "--wait");
    EXPECT_SAID("added tiny");
    EXPECT(&r, 0, "list-bases", "-q");
    EXPECT_SAID("tiny\nbase\n");
    base_digest(&r, "tiny", tiny);
    base_digest(&r, "default", own);
    /* the file is what its name says */
    EXPECT_SHELL(&r, "cd %s/bases && echo '%s  %s.safetensors' | sha256sum -c", r.state, tiny,
                 tiny);
    EXPECT(&r, 0, "sample", "base", "--base", "tiny", "-n", "2", "--steps", "2", "-f", "-o", png);
    EXPECT(&r, 0, "add-dataset", stripes, "--base", "tiny", "--wait", QUICK);
    EXPECT_SAID("stripes@v1");
    expect_base(&r, "stripes@v1", tiny);
    /* an adapter on the other base: refused, with both digests */
    EXPECT(&r, 4, "sample", "stripes", "--base", "default", "-f", "-o", png);
    EXPECT_SAID(tiny);
    EXPECT_SAID(own);
    EXPECT(&r, 0, "sample", "stripes", "-n", "2", "--steps", "2", "-f", "-o", png);
    /* one dataset on both: the second version proves that stripes is unchanged, not the first */
    EXPECT(&r, 0, "add-dataset", blobs, "--base", "tiny", "--wait", QUICK);
    EXPECT_SAID("blobs@v2");
    EXPECT_SAID("2 of 2 old tasks unchanged"); /* its own classes, stripes@v1 */
    expect_base(&r, "blobs@v2", tiny);
    expect_base(&r, "blobs@v1", own);
    EXPECT(&r, 0, "verify", "--all", "--base", "tiny");
    EXPECT_SAID("passed: 3 tasks checked"); /* its own classes, stripes@v1, blobs@v2 */
    EXPECT(&r, 0, "verify", "--all");
    EXPECT_SAID("passed: 2 tasks checked"); /* its own classes, blobs@v1 */
    EXPECT(&r, 4, "remove-base", "tiny");
    EXPECT_SAID("in use");
    rig_close(&r);
    rig_start(&r);
    EXPECT(&r, 0, "verify", "stripes");
    EXPECT_SAID("passed");
    rig_close(&r);
    free(file);
    free(blobs);
    free(stripes);
    free(png);
}
END_TEST

static void expect_default(const rig *r, const char *name) {
    EXPECT(r, 0, "show-base", "default", "--json");
    json_t *b = said_json();
    ck_assert_str_eq(ds_json_string(b, "name", ""), name);
    json_decref(b);
}

/* Started without --base, a state keeps the default that it has, while its file is there: another
 * one would train every dataset anew. */
START_TEST(default_without_the_option) {
    rig r;
    char *file = write_dit("mine.safetensors", 3, 16, 4, 5);
    rig_open(&r, "keeps");
    snprintf(r.base, sizeof r.base, "%s", file);
    rig_start(&r);
    expect_default(&r, "mine");
    rig_close(&r);
    r.base[0] = 0;
    rig_start(&r);
    expect_default(&r, "mine");
    EXPECT(&r, 0, "list-bases", "-q"); /* the one that came with the programs is beside it */
    EXPECT_SAID("motley-flow");
    rig_close(&r);
    ck_assert_int_eq(unlink(file), 0);
    rig_start(&r);
    expect_default(&r, "motley-flow");
    rig_close(&r);
    free(file);
}
END_TEST

START_TEST(latent_base_with_its_vae) {
    rig r;
    char *file = write_dit("DiT-XL-2-tiny.safetensors", 4, 8, 2, 6), *blobs = folder("blobs"),
         *png = in_tmp("latent.png");
    if (!ds_fs_exists(VAE)) {
        ds_test_skip("latent_base_with_its_vae", "not run from the repository's root");
        return;
    }
    rig_open(&r, "latent");
    rig_start(&r);
    EXPECT(&r, 0, "add-base", file, "--heads", "2", "--name", "xl", "--wait");
    EXPECT_SAID("CC-BY-NC 4.0"); /* it looks like those weights: said when it is added */
    EXPECT_SAID("no VAE");
    EXPECT(&r, 2, "add-dataset", blobs, "--base", "xl");
    EXPECT_SAID("--vae ./sd-vae-ft-ema");
    shell(&r, "%s doctor", program("dsctl"));
    EXPECT_SAID("base 'xl' works on latents and has no VAE");
    EXPECT(&r, 2, "add-base", file, "--heads", "2", "--name", "xl", "--vae", VAE, "--wait");
    EXPECT_SAID("supported is noise"); /* random weights: nothing that could be told */
    EXPECT(&r, 0, "add-base", file, "--heads", "2", "--name", "xl", "--vae", VAE, "--objective",
           "eps", "--wait");
    EXPECT(&r, 0, "set-default-base", "xl");
    EXPECT(&r, 0, "sample", "base", "-n", "2", "--steps", "2", "-f", "-o", png);
    EXPECT(&r, 0, "add-dataset", blobs, "--wait", QUICK);
    EXPECT_SAID("blobs@v1");
    EXPECT(&r, 0, "verify", "blobs");
    EXPECT(&r, 0, "sample", "blobs", "-n", "2", "--steps", "2", "-f", "-o", png);
    EXPECT(&r, 0, "gc", "--json"); /* nothing of what was just made goes */
    EXPECT(&r, 0, "verify", "blobs");
    rig_close(&r);
    free(file);
    free(blobs);
    free(png);
}
END_TEST

START_TEST(files_that_are_no_base) {
    rig r;
    char *text = in_tmp("text.pt");
    spit(text, "not a checkpoint at all, just text", 34);
    rig_open(&r, "nobase");
    rig_start(&r);
    int code = dsctl(&r, "add-base", text, "--wait", (char *)NULL);
    ck_assert_msg(code == 2 || code == 9, "exit %d: %s", code, said.err);
    EXPECT_SAID("text.pt");
    EXPECT(&r, 0, "list-bases", "-q");
    ck_assert_str_eq(said.out, "base\n");
    EXPECT_SHELL(&r, "test -z \"$(ls %s/bases)\"", r.state);
    rig_close(&r);
    free(text);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_unchecked_fixture(tc, system_fixture, NULL);
    tcase_set_timeout(tc, 900);
    tcase_add_test(tc, files_that_are_no_base);
    if (SYS_SLOW) {
        ds_test_skip("system-base", "trainings on imported bases: each takes minutes here");
        return;
    }
    tcase_add_test(tc, two_bases_beside_each_other);
    tcase_add_test(tc, default_without_the_option);
    tcase_add_test(tc, latent_base_with_its_vae);
}

int main(int argc, char **argv) { return system_main(argc, argv, "system_base", cases); }
