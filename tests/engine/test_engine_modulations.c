/* tests/engine/test_engine_modulations.c - modulations that are kept while pictures are sampled: the same
 * bytes as without, for every sampler, guidance, kind of net and size of the table, on the
 * processor and on the emulated GPU; and never more work. */
#include "base/mem.h"
#include "base/rng.h"
#include "engine/model/dit.h"
#include "engine/diffusion/sampler.h"
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 8, CLASSES = 3, ONE = SIDE * SIDE * 3, DEPTH = 2, MANY = 7, STEPS = 5, SETS = 3 };
static const ds_dit_config config = {.channels = 3,
                                     .side = SIDE,
                                     .patch = 4,
                                     .width = 40,
                                     .depth = DEPTH,
                                     .heads = 2,
                                     .mlp_ratio = 3,
                                     .classes = 4,
                                     .learn_sigma = 1,
                                     .freq_dim = 32,
                                     .pixel = 1,
                                     .train_steps = 1000,
                                     .beta_start = 1e-4,
                                     .beta_end = 2e-2};

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_model *model;
    ds_adapter *set[SETS];
} world;

static const struct {
    const char *kind;
    enum ds_precision precision;
    int threads;
} devices[] = {{"cpu", DS_PRECISION_F32, 2},
               {"cpu", DS_PRECISION_BF16, 2},
               {"cuda", DS_PRECISION_F32, 1},
               {"cuda", DS_PRECISION_BF16, 1}};
enum { DEVICES = sizeof devices / sizeof *devices };

/* All layers, those of the conditioning too; no low rank; a ReLU. */
static const ds_method_spec specs[SETS] = {
    {.method = DS_METHOD_AFFINER, .rank = 3, .targets = 1023, .classes = CLASSES, .seed = 1},
    {.method = DS_METHOD_AFFINER, .targets = 1023, .classes = CLASSES, .seed = 2},
    {.method = DS_METHOD_AFFINER,
     .rank = 2,
     .targets = 1023,
     .classes = CLASSES,
     .seed = 3,
     .phi_relu = 1}};

static void stir(float *x, size_t n, uint32_t stream, float by) {
    for (size_t i = 0; i < n; i++)
        x[i] +=
            ((float)ds_rng_u32(7, DS_STREAM_TEST, stream, 0, (uint32_t)i) * 0x1p-32f - 0.5f) * by;
}

static world world_new(int device) {
    world w;
    ds_error err = {0};
    ds_device_options o = {.kind = devices[device].kind,
                           .precision = devices[device].precision,
                           .threads = devices[device].threads};
    ds_test_emulated_gpu();
    ck_assert_msg(!ds_device_open(&w.dev, &o, &err), "%s", err.message);
    ck_assert_int_eq(ds_dit_base_new(&w.base, &config, 7, NULL), 0);
    stir(w.base->data, w.base->table.total, 0, 0.3f); /* a fresh one has zero modulations */
    ck_assert_int_eq(ds_model_new(&w.model, w.dev, w.base, NULL), 0);
    for (int i = 0; i < SETS; i++) {
        ck_assert_int_eq(ds_adapter_new(&w.set[i], w.base, &specs[i], NULL), 0);
        stir(w.set[i]->data, w.set[i]->table.total, 1 + (uint32_t)i, 0.2f);
    }
    return w;
}

static void world_free(world *w) {
    for (int i = 0; i < SETS; i++)
        ds_adapter_free(w->set[i]);
    ds_model_free(w->model);
    ds_base_free(w->base);
    ds_device_close(w->dev);
}

/* ---------------------------------------------------------------- what a device is asked for */

static struct {
    const struct ds_ops *real;
    struct ds_ops spying;
    void (*upload)(ds_device *, void *, const void *, size_t);
    size_t rows, uploads; /* of conditioning computed; of copies to the device */
} spy;

static void spy_timestep(ds_device *dev, float *out, const float *t, int B, int dim, float period,
                         int shift) {
    spy.rows += (size_t)B;
    spy.real->timestep_embedding(dev, out, t, B, dim, period, shift);
}

static void spy_upload(ds_device *dev, void *dst, const void *src, size_t bytes) {
    spy.uploads++;
    spy.upload(dev, dst, src, bytes);
}

static void spy_on(ds_device *dev) {
    spy.real = dev->ops;
    spy.spying = *dev->ops;
    spy.spying.timestep_embedding = spy_timestep;
    spy.upload = dev->upload;
    dev->ops = &spy.spying;
    dev->upload = spy_upload;
}

static void spy_off(ds_device *dev) {
    dev->ops = spy.real;
    dev->upload = spy.upload;
}

/* ---------------------------------------------------------------- sampling */

enum net { FOLDED, RELU, BASE, TASKS, APART, NETS };

/* Labels in turn and, of the last one, none: the null class. */
static void requests(ds_sample_request q[MANY], enum net kind) {
    for (int i = 0; i < MANY; i++) {
        int task = kind >= TASKS ? i % (SETS + 1) : 0, base = kind == BASE || task == SETS;
        q[i] = (ds_sample_request){.index = (uint64_t)i,
                                   .task = task,
                                   .base = base,
                                   .label = i == MANY - 1 ? -1 : i % 2 + base};
    }
}

static ds_net *net_of(const world *w, enum net kind, int batch) {
    const ds_adapter *list[SETS] = {w->set[0], w->set[1], w->set[2]};
    const ds_adapter *one = kind == RELU ? w->set[2] : w->set[0];
    ds_net *net;
    int rc = kind >= TASKS
                 ? ds_net_new(&net, w->model, kind == TASKS ? DS_NET_STACKED : DS_NET_FOLDED, list,
                              SETS, batch, NULL)
                 : ds_net_new(&net, w->model, DS_NET_INFER, &one, kind != BASE, batch, NULL);
    ck_assert_int_eq(rc, 0);
    return net;
}

typedef struct {
    float raw[MANY * ONE];
    size_t rows, uploads;
} made;

static made sample(ds_net *net, ds_net *base, const ds_sample_options *o,
                   const ds_sample_request *q, int n) {
    static made m;
    ds_error err = {0};
    memset(&m, 0, sizeof m);
    spy.rows = spy.uploads = 0;
    ck_assert_msg(!ds_sample(NULL, m.raw, net, base, o, q, n, NULL, NULL, &err), "%s", err.message);
    m.rows = spy.rows;
    m.uploads = spy.uploads;
    return m;
}

/* Each of the three samplers with each guidance, batches of 1, 2 (of 4 rows with cfg) and 7; table
 * of all, of a few and of so few rows that one to three steps fit, or none. */
static void compare(world *w, enum net kind, int sampler, int mode, int batch) {
    static const ds_guidance guides[] = {{1, 1}, {1, 1.5}, {1.5, 1.5}, {1.5, 2}};
    static const int limits[] = {0, 2, 5, 1, 3, 8, 17, 1000};
    const int cuda = w->dev->replay != NULL;
    ds_net *net = net_of(w, kind, batch), *base = net_of(w, BASE, batch);
    ds_sample_request q[MANY];
    int n = cuda ? 5 : MANY;
    ds_sample_options o = {.sampler = (enum ds_sampler)sampler,
                           .steps = STEPS,
                           .guide = guides[mode],
                           .seed = 9,
                           .table_rows = -1};
    requests(q, kind);
    made plain = sample(net, base, &o, q, n);
    for (size_t i = 0; i < (cuda ? 2 : sizeof limits / sizeof *limits); i++) {
        o.table_rows = limits[i];
        made kept = sample(net, base, &o, q, n);
        ck_assert_msg(!memcmp(plain.raw, kept.raw, sizeof plain.raw),
                      "net %d, sampler %d, guidance %d, batch %d: a table of %d rows changes bytes",
                      (int)kind, sampler, mode, batch, limits[i]);
        ck_assert_msg(cuda || kept.rows <= plain.rows, /* a replayed pass is not seen */
                      "net %d, guidance %d, batch %d, table of %d: %zu rows, %zu without",
                      (int)kind, mode, batch, limits[i], kept.rows, plain.rows);
    }
    ds_net_free(net);
    ds_net_free(base);
}

START_TEST(bytes_do_not_depend_on_the_table) {
    world w = world_new(_i);
    static const int batches[] = {1, 4, MANY};
    int cuda = !strcmp(devices[_i].kind, "cuda");
    spy_on(w.dev);
    for (int kind = 0; kind < NETS; kind++)
        for (int mode = 0; mode < 4; mode++)
            for (int b = 0; b < 3; b++)
                if (!cuda || ((kind + mode + b) % 3 == 0 && (_i == 2 || kind == TASKS)))
                    compare(&w, (enum net)kind, (kind + mode + b) % 3, mode, batches[b]);
    spy_off(w.dev);
    world_free(&w);
}
END_TEST

/* Where all fits, a timestep and condition is computed once for the run; a step uploads no more
 * than the numbers of its rows. */
START_TEST(each_is_computed_once) {
    world w = world_new(_i);
    ds_sample_request q[MANY];
    ds_net *net = net_of(&w, FOLDED, 4), *base = net_of(&w, BASE, 4);
    ds_sample_options o = {.sampler = DS_SAMPLER_DDIM, .steps = STEPS, .seed = 1};
    requests(q, FOLDED);
    spy_on(w.dev);
    o.guide = (ds_guidance){1, 2}; /* classes 0 and 1 and none; batches of two, in one pass */
    made m = sample(net, base, &o, q, MANY);
    ck_assert_uint_eq(m.rows, STEPS * 3);
    ck_assert_uint_eq(m.uploads, 1 + STEPS * 4);
    o.table_rows = -1;
    m = sample(net, base, &o, q, MANY);
    ck_assert_uint_eq(m.uploads, STEPS * 4);
    if (!w.dev->replay)                                    /* or it is not seen */
        ck_assert_uint_eq(m.rows, STEPS * (2 * MANY - 1)); /* the last has no class: one pass */
    o.table_rows = 0;
    o.guide = (ds_guidance){2, 2}; /* the base has a table of its own: of its null class */
    m = sample(net, base, &o, q, MANY);
    ck_assert_uint_eq(m.rows, STEPS * 3 + STEPS);
    o.guide = (ds_guidance){2, 3}; /* and the adapter's null class is one of the three */
    m = sample(net, base, &o, q, MANY);
    ck_assert_uint_eq(m.rows, STEPS * 3 + STEPS);
    o.guide = (ds_guidance){1, 1}; /* two batches of two and three classes; windows of two steps */
    o.table_rows = 6;
    m = sample(net, base, &o, q, MANY);
    ck_assert_uint_eq(m.rows, STEPS * (2 + 3));
    spy_off(w.dev);
    ds_net_free(net);
    ds_net_free(base);
    world_free(&w);
}
END_TEST

/* No room for a table: pictures are made all the same. */
static size_t largest;
static void *(*real_alloc)(ds_device *, size_t);
static void *little(ds_device *dev, size_t bytes) {
    return bytes > largest ? NULL : real_alloc(dev, bytes);
}

START_TEST(goes_on_without_room) {
    world w = world_new(_i);
    ds_sample_request q[MANY];
    ds_net *net = net_of(&w, FOLDED, 1);
    ds_sample_options o = {
        .sampler = DS_SAMPLER_DDIM, .steps = 30, .guide = {1, 1}, .seed = 1, .table_rows = -1};
    requests(q, FOLDED);
    spy_on(w.dev);
    made plain = sample(net, NULL, &o, q, 1);
    real_alloc = w.dev->alloc;
    o.table_rows = 0;
    for (int without = 1; without >= 0; without--) {
        largest = ds_net_table_bytes(w.base, w.dev, 30, 1) - (size_t)without;
        w.dev->alloc = little;
        made m = sample(net, NULL, &o, q, 1);
        w.dev->alloc = real_alloc;
        ck_assert(!memcmp(plain.raw, m.raw, sizeof m.raw));
        ck_assert_uint_eq(m.uploads, without ? 30 : 31);
    }
    spy_off(w.dev);
    ds_net_free(net);
    world_free(&w);
}
END_TEST

#if defined(__SANITIZE_ADDRESS__)
enum { LAST = 2 }; /* the emulated GPU takes minutes under the address sanitizer */
#else
enum { LAST = DEVICES };
#endif

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, bytes_do_not_depend_on_the_table, 0, LAST);
    tcase_add_loop_test(tc, each_is_computed_once, 0, DEVICES);
    tcase_add_loop_test(tc, goes_on_without_room, 0, LAST);
}

int main(void) { return ds_test_main("engine_modulations", register_cases); }
