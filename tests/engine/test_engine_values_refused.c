/* tests/engine/test_engine_values_refused.c - what a training refuses: options, pictures, losses, checkpoints of another run. */
#include "tests/fixtures/engine_trainer.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/diffusion/diffusion.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- what is refused */

static const struct {
    ds_train_options o;
    const char *words;
} bad_options[] = {
    {{.steps = 0, .batch = 1, .lr = 1}, "steps is 0, must be 1 to 100000000"},
    {{.steps = 1, .batch = 0, .lr = 1}, "batch is 0, must be 1 to 65536"},
    {{.steps = 1, .batch = 65537, .lr = 1}, "batch is 65537, must be 1 to 65536"},
    {{.steps = 1, .batch = 4, .micro_batch = 3, .lr = 1}, "multiple of micro_batch 3"},
    {{.steps = 1, .batch = 4, .micro_batch = -2, .lr = 1}, "micro_batch is -2, must be 1 to 65536"},
    {{.steps = 1, .batch = 1, .lr = 0}, "lr is 0, must be 1e-09 to 1"},
    {{.steps = 1, .batch = 1, .lr = 1.5}, "lr is 1.5, must be 1e-09 to 1"},
    {{.steps = 1, .batch = 1, .lr = NAN}, "lr is nan, must be 1e-09 to 1"},
    {{.steps = 1, .batch = 1, .lr = 1, .warmup = -1}, "warmup is -1, must be 0 to 1000000"},
    {{.steps = 1, .batch = 1, .lr = 1, .clip = -1}, "clip is -1, must be 0 to 1000000"},
    {{.steps = 1, .batch = 1, .lr = 1, .ema = 1}, "ema is 1, must be 0 to 0.999999"},
    {{.steps = 1, .batch = 1, .lr = 1, .ema = -0.1}, "ema is -0.1, must be 0 to 0.999999"},
    {{.steps = 1, .batch = 1, .lr = 1, .weight_decay = -1}, "weight_decay is -1, must be 0 to 1"},
    {{.steps = 1, .batch = 1, .lr = 1, .label_dropout = 1.1},
     "label_dropout is 1.1, must be 0 to 1"},
    {{.steps = 1, .batch = 1, .lr = 1, .label_dropout = -0.1},
     "label_dropout is -0.1, must be 0 to 1"},
    {{.steps = 1, .batch = 1, .lr = 1, .vb_weight = 1001}, "vb_weight is 1001, must be 0 to 1000"},
    {{.steps = 1, .batch = 1, .lr = 1, .focus = -1}, "focus is -1, must be 0 to 10"},
    {{.steps = 1, .batch = 1, .lr = 1, .focus_mean = 11}, "focus_mean is 11, must be -10 to 10"},
    {{.steps = 1, .batch = 1, .lr = 1, .patience = -1}, "patience is -1, must be 0 to 1000000"},
    {{.steps = 1, .batch = 1, .lr = 1, .max_time = -1}, "max_time is -1, must be 0 to 1000000000"},
    {{.steps = 1, .batch = 1, .lr = 1, .max_time = NAN},
     "max_time is nan, must be 0 to 1000000000"},
    {{.steps = 1, .batch = 1, .lr = 1, .patience = 1},
     "with patience the learning rate falls at the end, and without cosine it must not"},
    {{.steps = 1, .batch = 1, .lr = 1, .max_time = 1}, "with max_time the learning rate falls"},
    {{.steps = 1, .batch = 1, .lr = 1, .heldout = -1}, "heldout is -1, must be 0 to 65536"},
    {{.steps = 1, .batch = 1, .lr = 1, .recompute = 2}, "recompute is 2"},
    {{.steps = 1, .batch = 1, .lr = 1, .recompute = -1}, "recompute is -1"},
};

static void expect_refused(const ds_method_spec *spec, const ds_train_options *o,
                           const ds_image_set *set, const char *words) {
    ds_trainer *t;
    ds_error err;
    ck_assert_msg(ds_trainer_new(&t, model, spec, o, set, &err) == DS_EINVAL, "%s", words);
    ck_assert_msg(strstr(err.message, words) != NULL, "'%s' has no '%s'", err.message, words);
}

START_TEST(options_out_of_range_are_refused) {
    expect_refused(&affiner, &bad_options[_i].o, &images, bad_options[_i].words);
}
END_TEST

START_TEST(images_that_do_not_fit_are_refused) {
    ds_image_set none = images, side = images, gray = images, empty = images, latents = images;
    int wrong[IMAGES] = {0};
    ds_method_spec bare = affiner;
    ds_image_set high = images, low = images;
    none.n = 0;
    expect_refused(&affiner, &plain, &none, "there is no image");
    side.side = SIDE + 1;
    expect_refused(&affiner, &plain, &side, "images are 9x9x3, the base takes 8x8x3");
    gray.channels = 1;
    expect_refused(&affiner, &plain, &gray, "images are 8x8x1");
    empty.pixels = NULL;
    expect_refused(&affiner, &plain, &empty, "there are no pixels");
    latents.latents[0] = (const float *const *)&latents;
    expect_refused(&affiner, &plain, &latents, "latents need their scale");
    wrong[IMAGES - 1] = CLASSES;
    high.labels = wrong;
    expect_refused(&affiner, &plain, &high, "image 69 has class 3 of 3");
    bare.classes = 0; /* the base's own table, of 4 */
    ds_trainer *t = trainer_of(&bare, &plain, &high);
    ds_trainer_free(t);
    wrong[IMAGES - 1] = -1;
    low.labels = wrong;
    expect_refused(&affiner, &plain, &low, "image 69 has class -1");
}
END_TEST

/* A step that gives no number has changed nothing; the same again ends the same. */
START_TEST(a_loss_that_is_no_number_stops_the_run) {
    ds_base *bad = base_without_zeros();
    ds_model *m;
    ds_trainer *t;
    ds_train_report r;
    ds_error err;
    double loss;
    memset(bad->sha256, 'b', 64);
    const ds_param *p = ds_params_find(&bad->table, "final_layer.linear.bias");
    ck_assert_ptr_nonnull(p);
    bad->data[p->offset] = NAN;
    ck_assert_int_eq(ds_model_new(&m, dev, bad, NULL), 0);
    ck_assert_int_eq(ds_trainer_new(&t, m, &affiner, &plain, &images, NULL), 0);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(ds_trainer_step(t, &r, &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, "not finite at step 1") != NULL, "%s", err.message);
        ck_assert_int_eq(ds_trainer_done(t), 0);
    }
    ck_assert_int_eq(ds_trainer_heldout(t, &loss, &err), DS_EFAILED);
    ds_trainer_free(t);
    ds_model_free(m);
    ds_base_free(bad);
}
END_TEST

/* ---------------------------------------------------------------- checkpoints */

static const ds_train_options kept_run = {.steps = 20,
                                          .batch = 4,
                                          .micro_batch = 2,
                                          .lr = 1e-2,
                                          .warmup = 3,
                                          .clip = 1,
                                          .weight_decay = 0.01,
                                          .ema = 0.9,
                                          .label_dropout = 0.1,
                                          .vb_weight = 1,
                                          .focus = 0.5,
                                          .focus_mean = 0.1,
                                          .heldout = 3,
                                          .seed = 4};

/* Another option, method or picture: another run.  The schedule may change where that is asked. */
START_TEST(a_checkpoint_continues_its_own_run_only) {
    char path[PATH_MAX];
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "own");
    ds_trainer *t = trainer(&kept_run);
    step(t);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ck_assert_int_eq(ds_trainer_load(t, path, &err), 0);
    ds_trainer_free(t);
    for (int k = 0; k < 21; k++) {
        ds_train_options o = kept_run;
        ds_method_spec spec = affiner;
        switch (k) {
        case 0: o.batch = 8; break;
        case 1: o.micro_batch = 4; break;
        case 2: o.clip = 2; break;
        case 3: o.weight_decay = 0; break;
        case 4: o.ema = 0.8; break;
        case 5: o.label_dropout = 0.2; break;
        case 6: o.flip = 1; break;
        case 7: o.vb_weight = 0.5; break;
        case 8: o.focus = 0.6; break;
        case 9: o.focus_mean = 0; break;
        case 10: o.heldout = 4; break;
        case 11: o.seed = 5; break;
        case 12: spec.seed = 8; break;
        case 13: spec.phi_relu = 1; break;
        case 14: paint(7, 2); break;
        case 15: o.steps = 21; break;
        case 16: o.lr = 2e-2; break;
        case 17: o.warmup = 4; break;
        case 18: o.cosine = 1; break;
        case 19: /* allowed */
        case 20:
            o.steps = 40;
            o.lr = 1e-3;
            o.warmup = 0;
            o.cosine = 1;
            o.replan = 1;
            o.clip = k == 20 ? 2 : 1; /* that is no part of the schedule */
            break;
        }
        t = trainer_of(&spec, &o, &images);
        int rc = ds_trainer_load(t, path, &err);
        ck_assert_msg(rc == (k == 19 ? 0 : DS_EINTEGRITY), "change %d: %d", k, rc);
        if (rc)
            ck_assert_msg(strstr(err.message, k >= 15 && k <= 18
                                                  ? "belongs to a run of another schedule"
                                                  : "belongs to another run") != NULL,
                          "%d: %s", k, err.message);
        ck_assert_int_eq(ds_trainer_done(t), k == 19);
        ds_trainer_free(t);
        paint(7, 1);
    }
}
END_TEST

/* A base that is trained for days may go from one machine to another; a job may not. */
START_TEST(a_checkpoint_of_another_device) {
    char path[PATH_MAX];
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "elsewhere");
    ds_trainer *t = trainer(&kept_run);
    step(t);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ck_assert_int_eq(ds_trainer_moved(t), 0);
    ds_trainer_free(t);
    char was[sizeof dev->device_class];
    memcpy(was, dev->device_class, sizeof was);
    snprintf(dev->device_class, sizeof dev->device_class, "another");
    for (int k = 0; k < 3; k++) {
        ds_train_options o = kept_run;
        o.anywhere = k > 0;
        if (k == 2)
            o.clip = 2;
        t = trainer(&o);
        ck_assert_int_eq(ds_trainer_load(t, path, &err), k == 1 ? 0 : DS_EINTEGRITY);
        ck_assert_int_eq(ds_trainer_moved(t), k == 1);
        ck_assert_int_eq(ds_trainer_done(t), k == 1);
        ds_trainer_free(t);
    }
    memcpy(dev->device_class, was, sizeof was);
}
END_TEST

/* The digest is right, and a part is missing or has another length. */
START_TEST(a_checkpoint_has_all_its_parts) {
    static const char *const names[] = {"p", "m", "v", "ema"};
    char path[PATH_MAX], sha[DS_HEX_SIZE], *bytes, *made;
    size_t size, n;
    ds_st *st;
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "parts");
    ds_trainer *t = trainer(&kept_run);
    step(t);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ck_assert_int_eq(ds_fs_read(path, 1 << 26, &bytes, &size, NULL), 0);
    ck_assert_int_eq(ds_st_open_memory("checkpoint", bytes, size - 64, &st, &err), 0);
    for (int part = 0; part < 4; part++)
        for (int how = 0; how < 2; how++) { /* absent, shorter */
            ds_st_writer *w = ds_st_writer_new();
            for (int i = 0; i < 4; i++) {
                const ds_st_tensor *x = ds_st_find(st, names[i]);
                int64_t shape[1] = {(int64_t)x->count - (i == part)};
                if (i != part || how)
                    ds_st_writer_add(w, names[i], DS_ST_F32, 1, shape, x->data);
            }
            static const char *const meta[] = {"step", "run", "schedule"};
            for (int i = 0; i < 3; i++)
                ds_st_writer_meta(w, meta[i], ds_st_meta(st, meta[i]));
            ck_assert_int_eq(ds_st_writer_finish(w, &made, &n, NULL), 0);
            ds_st_writer_free(w);
            ds_digest(made, n, sha);
            made = ds_xrealloc(made, n + 64);
            memcpy(made + n, sha, 64);
            ck_assert_int_eq(ds_fs_write(path, made, n + 64, NULL), 0);
            ck_assert_msg(ds_trainer_load(t, path, &err) == DS_EINTEGRITY, "'%s' %d", names[part],
                          how);
            free(made);
        }
    ds_st_free(st);
    free(bytes);
    ds_trainer_free(t);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_loop_test(tc, options_out_of_range_are_refused, 0,
                        (int)(sizeof bad_options / sizeof *bad_options));
    tcase_add_test(tc, images_that_do_not_fit_are_refused);
    tcase_add_test(tc, a_loss_that_is_no_number_stops_the_run);
    tcase_add_test(tc, a_checkpoint_continues_its_own_run_only);
    tcase_add_test(tc, a_checkpoint_of_another_device);
    tcase_add_test(tc, a_checkpoint_has_all_its_parts);
}

int main(void) { return ds_test_main("engine_values_refused", cases); }
