/* tests/engine/test_engine_memory.c - what saves memory changes no number: recomputed activations give the
 * gradients bit for bit, a base held in 16 bits the same nets as an unpacked one, and what is
 * planned is what is taken. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/diffusion/sampler.h"
#include "engine/diffusion/trainer.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 12, DEPTH = 4 };
#include "tests/fixtures/engine_small.h"

static const ds_method_spec methods[] = {
    {.method = DS_METHOD_AFFINER, .rank = 4, .targets = 1023, .classes = CLASSES, .seed = 9},
    {.method = DS_METHOD_AFFINER,
     .rank = 4,
     .side_in = 1,
     .targets = 1023,
     .classes = CLASSES,
     .seed = 9},
    {.method = DS_METHOD_AFFINER,
     .rank = 4,
     .phi_relu = 1,
     .targets = 1023,
     .classes = CLASSES,
     .seed = 9},
    {.method = DS_METHOD_EMBEDDING, .classes = CLASSES, .seed = 9},
    {.method = DS_METHOD_FULL, .classes = CLASSES, .seed = 9}};
enum { METHODS = sizeof methods / sizeof methods[0] };

/* The base in a file: F32, or matrices in BF16. */
static char *base_file(int bf16) {
    ds_base *b = base_without_zeros();
    char *path = ds_xasprintf("%s/base-%d.safetensors", ds_test_tmpdir(), bf16);
    const char *const meta[] = {"diffscaler.name", "a base", NULL};
    ck_assert_int_eq(ds_base_save(b, path, bf16, meta, NULL), 0);
    ds_base_free(b);
    return path;
}

static void make_images(void) {
    for (int i = 0; i < IMAGES * ONE; i++)
        pixels[i] = (uint8_t)ds_rng_u32(1, DS_STREAM_TEST, 0, (uint64_t)i, 0);
    label_images();
}

typedef struct {
    float *p, *g; /* after three steps */
    double heldout;
} outcome;

/* Three steps, two micro-batches each.  The first has s = 0; the later ones use every branch. */
static outcome train(const ds_base *base, const ds_method_spec *spec, enum ds_precision precision,
                     int recompute) {
    ds_device_options o = {.kind = "cpu", .precision = precision, .threads = 2};
    ds_train_options t = {.steps = 8,
                          .batch = 6,
                          .micro_batch = 3,
                          .lr = 1e-2,
                          .clip = 1,
                          .ema = 0.9,
                          .label_dropout = 0.2,
                          .vb_weight = 1,
                          .heldout = 1,
                          .recompute = recompute,
                          .seed = 4};
    ds_device *dev;
    ds_model *model;
    ds_trainer *tr;
    ds_train_report r;
    ds_error err;
    outcome out;
    ck_assert_int_eq(ds_device_open(&dev, &o, NULL), 0);
    ck_assert_int_eq(ds_model_new(&model, dev, base, NULL), 0);
    ck_assert_msg(!ds_trainer_new(&tr, model, spec, &t, &images, &err), "%s", err.message);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(ds_trainer_step(tr, &r, &err), 0);
    ck_assert_int_eq(ds_trainer_heldout(tr, &out.heldout, &err), 0);
    out.p = ds_trainer_copy(tr, 0);
    out.g = ds_trainer_copy(tr, 1);
    ds_trainer_free(tr);
    ds_model_free(model);
    ds_device_close(dev);
    return out;
}

static void same(const outcome *a, const outcome *b, const ds_base *base,
                 const ds_method_spec *spec) {
    ds_params table = {0};
    ds_adapter_table(&table, base, spec);
    for (int i = 0; i < table.count; i++) {
        const ds_param *p = &table.items[i];
        ck_assert_msg(!memcmp(a->g + p->offset, b->g + p->offset, p->count * 4), "gradient of %s",
                      p->name);
        ck_assert_msg(!memcmp(a->p + p->offset, b->p + p->offset, p->count * 4), "value of %s",
                      p->name);
    }
    ck_assert_int_eq(memcmp(&a->heldout, &b->heldout, sizeof a->heldout), 0);
    ds_params_release(&table);
}

static void release(outcome *o) {
    free(o->p);
    free(o->g);
}

START_TEST(recomputed_gradients_are_the_same_bits) {
    const ds_method_spec *spec = &methods[_i % METHODS];
    enum ds_precision precision = _i < METHODS ? DS_PRECISION_F32 : DS_PRECISION_BF16;
    ds_base *base;
    char *path = base_file(0);
    make_images();
    ck_assert_int_eq(ds_base_open(&base, path, NULL, NULL), 0);
    outcome want = train(base, spec, precision, 0);
    for (int r = 1; r <= DEPTH; r++) {
        outcome got = train(base, spec, precision, r);
        same(&want, &got, base, spec);
        release(&got);
    }
    release(&want);
    ds_base_free(base);
    free(path);
}
END_TEST

START_TEST(a_base_held_in_16_bits_trains_to_the_same_bits) {
    const ds_method_spec *spec = &methods[_i % METHODS];
    enum ds_precision precision = _i < METHODS ? DS_PRECISION_F32 : DS_PRECISION_BF16;
    ds_base *unpacked, *held;
    char *path = base_file(1);
    make_images();
    ck_assert_int_eq(ds_base_open(&unpacked, path, NULL, NULL), 0);
    ck_assert_int_eq(ds_base_open_within(&held, path, NULL, 0, NULL), 0);
    ck_assert(unpacked->data && !held->data);
    ck_assert_str_eq(unpacked->name, "a base");
    ck_assert_str_eq(held->name, "a base");
    ck_assert_uint_lt(ds_base_bytes(held), ds_base_bytes(unpacked) * 6 / 10);
    outcome a = train(unpacked, spec, precision, 0), b = train(held, spec, precision, 2);
    same(&a, &b, held, spec);
    release(&a);
    release(&b);
    ds_base_free(unpacked);
    ds_base_free(held);
    free(path);
}
END_TEST

static void sample(const ds_base *base, float *raw) {
    ds_device_options o = {.kind = "cpu", .precision = DS_PRECISION_BF16, .threads = 2};
    ds_sample_options so = {.sampler = DS_SAMPLER_DDIM, .steps = 4, .guide = {1, 2}, .seed = 2};
    ds_sample_request q[3] = {{.index = 0, .label = 1, .base = 1},
                              {.index = 1, .label = 3, .base = 1},
                              {.index = 2, .label = -1, .base = 1}};
    ds_device *dev;
    ds_model *model;
    ds_net *net;
    ck_assert_int_eq(ds_device_open(&dev, &o, NULL), 0);
    ck_assert_int_eq(ds_model_new(&model, dev, base, NULL), 0);
    ck_assert_int_eq(ds_net_new(&net, model, DS_NET_INFER, NULL, 0, 6, NULL), 0);
    ck_assert_int_eq(ds_sample(NULL, raw, net, NULL, &so, q, 3, NULL, NULL, NULL), 0);
    ds_net_free(net);
    ds_model_free(model);
    ds_device_close(dev);
}

START_TEST(a_base_held_in_16_bits_samples_the_same_bits) {
    static float a[3 * ONE], b[3 * ONE];
    ds_base *unpacked, *held;
    char *path = base_file(1), *again = ds_xasprintf("%s.again", path), *x, *y;
    size_t n, m;
    ck_assert_int_eq(ds_base_open(&unpacked, path, NULL, NULL), 0);
    ck_assert_int_eq(ds_base_open_within(&held, path, NULL, 0, NULL), 0);
    sample(unpacked, a);
    sample(held, b);
    ck_assert_int_eq(memcmp(a, b, sizeof a), 0);
    const char *const meta[] = {"diffscaler.name", "a base", NULL};
    ck_assert_int_eq(ds_base_save(held, again, 1, meta, NULL), 0); /* and is written again whole */
    ck_assert_int_eq(ds_fs_read(path, 1 << 24, &x, &n, NULL), 0);
    ck_assert_int_eq(ds_fs_read(again, 1 << 24, &y, &m, NULL), 0);
    ck_assert(n == m && !memcmp(x, y, n));
    free(x);
    free(y);
    free(again);
    free(path);
    ds_base_free(unpacked);
    ds_base_free(held);
}
END_TEST

START_TEST(a_file_of_f32_is_used_where_it_lies) {
    ds_base *b;
    char *path = base_file(0);
    ck_assert_int_eq(ds_base_open_within(&b, path, NULL, 0, NULL), 0);
    ck_assert(b->data && b->file);
    ck_assert_uint_eq(ds_base_bytes(b), b->table.total * 4);
    ds_base_free(b);
    free(path);
}
END_TEST

START_TEST(the_plan_shrinks_with_recomputation) {
    ds_device_options o = {.kind = "cpu", .precision = DS_PRECISION_BF16, .threads = 1};
    ds_device *dev;
    ds_base *b = base_without_zeros();
    ck_assert_int_eq(ds_device_open(&dev, &o, NULL), 0);
    size_t before = ds_net_train_bytes(b, dev, 8, 0), none = before;
    ck_assert_uint_eq(none, ds_net_bytes(b, dev, DS_NET_TRAIN, 8));
    ck_assert_uint_eq(none, ds_net_blocks_bytes(b, DEPTH, dev, 8));
    ck_assert_uint_lt(ds_net_blocks_bytes(b, DEPTH - 1, dev, 8), none);
    for (int r = 1; r <= DEPTH; r++) {
        size_t now = ds_net_train_bytes(b, dev, 8, r);
        ck_assert(r == 1 ? now == before : now < before); /* one block has nothing to share with */
        before = now;
    }
    ds_base_free(b);
    ds_device_close(dev);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, recomputed_gradients_are_the_same_bits, 0, 2 * METHODS);
    tcase_add_loop_test(tc, a_base_held_in_16_bits_trains_to_the_same_bits, 0, 2 * METHODS);
    tcase_add_test(tc, a_base_held_in_16_bits_samples_the_same_bits);
    tcase_add_test(tc, a_file_of_f32_is_used_where_it_lies);
    tcase_add_test(tc, the_plan_shrinks_with_recomputation);
    tcase_set_timeout(tc, 120);
}

int main(void) { return ds_test_main("engine_memory", register_cases); }
