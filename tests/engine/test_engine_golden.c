/* tests/engine/test_engine_golden.c - the whole model against PyTorch (float64): output, loss, every
 * gradient, parameters after 10 AdamW steps; for the Affiner (side out, side in, ReLU) and
 * for methods full and bitfit. Made by tools/golden_dit.py. */
#include "base/mem.h"
#include "engine/model/dit.h"
#include "engine/diffusion/diffusion.h"
#include "engine/diffusion/flow.h"
#include "engine/diffusion/sampler.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { B = 4, C = 3, S = 8, PX = C * S * S };

static const ds_dit_config config = {.channels = C,
                                     .side = S,
                                     .patch = 2,
                                     .width = 24,
                                     .depth = 2,
                                     .heads = 3,
                                     .mlp_ratio = 4,
                                     .classes = 5,
                                     .learn_sigma = 1,
                                     .freq_dim = 32,
                                     .train_steps = 1000,
                                     .beta_start = 1e-4,
                                     .beta_end = 2e-2};
static ds_st *golden;

static float *need(const char *prefix, const char *name, size_t count) {
    char key[160];
    snprintf(key, sizeof key, "%s%s", prefix, name);
    const ds_st_tensor *t = ds_st_find(golden, key);
    ck_assert_msg(t && t->count == count, "golden tensor %s of %zu values is missing", key, count);
    float *x = ds_xmalloc(count * sizeof *x);
    ck_assert_int_eq(ds_st_read_f32(golden, t, x, NULL), 0);
    return x;
}

static ds_base *base_of_golden(void) {
    ds_base *b;
    ck_assert_int_eq(ds_dit_base_new(&b, &config, 1, NULL), 0);
    for (int i = 0; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i];
        float *x = need("base.", p->name, p->count);
        memcpy(b->data + p->offset, x, p->count * sizeof *x);
        free(x);
    }
    return b;
}

/* Largest difference, relative to the largest value of the tensor (a tensor's values are sums of
 * the same products, so its scale is the scale of the rounding), or to `top` if that is not 0. */
static double difference(const float *got, const float *want, size_t n, double top) {
    double worst = 0;
    for (size_t i = 0; i < n; i++)
        worst = fmax(worst, isfinite(got[i]) ? fabs((double)got[i] - want[i]) : INFINITY);
    for (size_t i = 0; i < n && top == 0; i++)
        top = fmax(top, fabs(want[i]));
    return worst / top;
}

/* The bias of the keys adds the same to all scores of a query, so its gradient is zero but for
 * rounding (which Adam would scale up to whole steps): it is compared on the scale of the other
 * biases, and not after the steps.  A scalar s has no scale of its own either: it gets that of all
 * s. */
static double scale_of(const ds_params *table, const ds_param *p, const char *prefix) {
    double top = 0;
    int key_bias = strstr(p->name, "attn.k.b") || strstr(p->name, "qkv.bias");
    for (int i = 0; i < table->count; i++) {
        const ds_param *q = &table->items[i];
        if (!(p->kind == q->kind && (key_bias || p->kind == DS_PARAM_S || p == q)))
            continue;
        float *x = need(prefix, q->name, q->count);
        for (size_t j = 0; j < q->count; j++)
            top = fmax(top, fabs(x[j]));
        free(x);
    }
    return fmax(top, 1e-12);
}

static void check_table(const char *variant, const char *what, const ds_params *table, float *got,
                        double tolerance) {
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%s.%s.", variant, what);
    int after = !strcmp(what, "after");
    for (int i = 0; i < table->count; i++) {
        const ds_param *p = &table->items[i];
        if (after && strstr(p->name, "attn.k.b"))
            continue;
        float *want = need(prefix, p->name, p->count);
        if (after && strstr(p->name, "qkv.bias"))
            memcpy(got + p->offset + 24, want + 24, 24 * sizeof *want); /* the keys' third */
        double d = difference(got + p->offset, want, p->count, scale_of(table, p, prefix));
        ck_assert_msg(d <= tolerance, "%s%s: relative difference %.3g, tolerance %.3g", prefix,
                      p->name, d, tolerance);
        free(want);
    }
}

typedef struct {
    const char *name;
    ds_method_spec spec;
} ds_variant;
static const ds_variant variants[] = {
    {"out", {.method = DS_METHOD_AFFINER, .rank = 4, .targets = 1023, .classes = 3}},
    {"in", {.method = DS_METHOD_AFFINER, .rank = 4, .side_in = 1, .targets = 1023, .classes = 3}},
    {"relu",
     {.method = DS_METHOD_AFFINER, .rank = 4, .phi_relu = 1, .targets = 1023, .classes = 3}},
    {"full", {.method = DS_METHOD_FULL, .classes = 3}},
    {"bitfit", {.method = DS_METHOD_BITFIT, .classes = 3}},
};
enum { VARIANTS = sizeof variants / sizeof variants[0], SAMPLER_RUNS = 13 };

/* The device's copy of n numbers, or room for them; x is freed. */
static float *to_device(ds_device *dev, float *x, size_t n) {
    float *p = dev->alloc(dev, n * sizeof *p);
    ck_assert_ptr_nonnull(p);
    if (x)
        dev->upload(dev, p, x, n * sizeof *p);
    free(x);
    return p;
}

static float *from_device(ds_device *dev, const float *p, size_t n) {
    float *x = ds_xmalloc(n * sizeof *x);
    dev->download(dev, x, p, n * sizeof *x);
    return x;
}

/* n numbers on the device are those of the golden tensor, within `tolerance` of the largest. */
static void check_tensor(ds_device *dev, const char *name, const char *part, const float *p,
                         size_t n, double tolerance) {
    float *want = need(name, part, n), *got = from_device(dev, p, n);
    double d = difference(got, want, n, 0);
    ck_assert_msg(d <= tolerance, "%s, %s%s: relative difference %.3g, tolerance %.3g",
                  dev->device_class, name, part, d, tolerance);
    free(want);
    free(got);
}

enum { RUN_X0, RUN_NOISE, RUN_XT, RUN_COEF, RUN_OUT, RUN_DOUT, RUN_MSE, RUN_VB, RUN_ARRAYS };

/* One forward, loss and backward on the fixed batch of the golden file. */
static void run(ds_device *dev, ds_net *net, float *const a[RUN_ARRAYS]) {
    const ds_facts facts = ds_dit_facts(&config);
    const int t[B] = {0, 37, 500, 999}, row[B] = {0, -1, 2, 0};
    ds_net_sample cond[B];
    float coef[8 * B];
    ds_schedule s;
    ds_schedule_init(&s, &facts);
    for (int i = 0; i < B; i++) {
        cond[i] = (ds_net_sample){
            .t = (float)t[i], .row = row[i], .base_row = row[i] < 0 ? config.classes : -1};
        ds_schedule_loss_coef(&s, t[i], 1.0f / B, coef + 8 * i);
    }
    dev->upload(dev, a[RUN_COEF], coef, sizeof coef);
    ds_net_forward(net, a[RUN_OUT], &(ds_net_input){.x = a[RUN_XT], .samples = cond}, B);
    dev->ops->diffusion_loss(dev, a[RUN_MSE], a[RUN_VB], a[RUN_DOUT], a[RUN_OUT], a[RUN_X0],
                             a[RUN_NOISE], a[RUN_XT], a[RUN_COEF], 1, 1.0f, B, C, S * S);
    ds_net_backward(net, a[RUN_DOUT], B);
    ds_schedule_release(&s);
}

static void check_variant(const ds_variant *v, const ds_device_options *opt) {
    ds_device *dev;
    ds_base *base = base_of_golden();
    ds_model *model;
    ds_adapter *a;
    ds_net *net;
    ds_error err;
    ck_assert_msg(!ds_device_open(&dev, opt, &err), "%s", err.message);
    ck_assert_int_eq(ds_model_new(&model, dev, base, NULL), 0);
    ck_assert_int_eq(ds_adapter_new(&a, base, &v->spec, NULL), 0);
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%s.start.", v->name);
    size_t n = a->table.total;
    for (int i = 0; i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        if ((ds_method_parts(v->spec.method) & (DS_PART_BASE | DS_PART_BIASES)) &&
            p->kind != DS_PARAM_ROWS)
            continue; /* starts at the base */
        float *x = need(prefix, p->name, p->count);
        memcpy(a->data + p->offset, x, p->count * sizeof *x);
        free(x);
    }
    ck_assert_int_eq(
        ds_net_new(&net, model, DS_NET_TRAIN, (const ds_adapter *const[]){a}, 1, B, NULL), 0);
    float *g = to_device(dev, NULL, n), *m = to_device(dev, NULL, n), *w = to_device(dev, NULL, n),
          *p = to_device(dev, NULL, n), *got;
    float *arrays[RUN_ARRAYS] = {
        [RUN_X0] = to_device(dev, need("", "x0", B * PX), B * PX),
        [RUN_NOISE] = to_device(dev, need("", "noise", B * PX), B * PX),
        [RUN_XT] = to_device(dev, need("", "xt", B * PX), B * PX),
        [RUN_COEF] = to_device(dev, NULL, 8 * B),
        [RUN_OUT] = to_device(dev, NULL, 2 * B * PX),
        [RUN_DOUT] = to_device(dev, NULL, 2 * B * PX),
        [RUN_MSE] = to_device(dev, NULL, B),
        [RUN_VB] = to_device(dev, NULL, B),
    };
    dev->upload(dev, p, a->data, n * 4);
    dev->ops->fill(dev, m, 0, n);
    dev->ops->fill(dev, w, 0, n);
    ds_net_bind(net, p, g);
    for (int step = 1; step <= 10; step++) {
        dev->ops->fill(dev, g, 0, n);
        run(dev, net, arrays);
        if (step == 1) { /* f32 against float64: sums of at most a few hundred products, 2^-24 each,
                            through 2 blocks */
            check_tensor(dev, v->name, ".output", arrays[RUN_OUT], 2 * B * PX, 5e-6);
            check_tensor(dev, v->name, ".mse", arrays[RUN_MSE], B, 5e-6);
            check_tensor(dev, v->name, ".vb", arrays[RUN_VB], B, 2e-5);
            check_table(v->name, "grad", &a->table, got = from_device(dev, g, n), 5e-5);
            free(got);
        }
        dev->ops->adamw(dev, p, m, w, NULL, g, NULL, n, 1e-3f, 0.9f, 0.999f, 1e-8f, 0, 0, NULL, 0,
                        step);
        ds_net_refold(net);
    }
    /* Adam's first steps are lr * sign(g): a gradient near zero can differ by up to 2 lr each step;
     * the tensors here are of order 0.1 to 1 and their gradients were matched above. */
    check_table(v->name, "after", &a->table, got = from_device(dev, p, n), 2e-4);
    free(got);
    float *bufs[] = {g, m, w, p};
    for (int i = 0; i < 4; i++)
        dev->free(dev, bufs[i]);
    for (int i = 0; i < RUN_ARRAYS; i++)
        dev->free(dev, arrays[i]);
    ds_net_free(net);
    ds_adapter_free(a);
    ds_model_free(model);
    ds_base_free(base);
    ds_device_close(dev);
}

START_TEST(ref_matches_pytorch) {
    check_variant(&variants[_i], &(ds_device_options){.kind = "ref"});
}
END_TEST

START_TEST(cpu_f32_matches_pytorch) {
    check_variant(&variants[_i],
                  &(ds_device_options){.kind = "cpu", .precision = DS_PRECISION_F32});
}
END_TEST

/* Emulated (tests/emu/emu.h), or with DS_TEST_DEVICES=cuda a GPU. */
static int has_cuda(void) {
    const char *devices = getenv("DS_TEST_DEVICES");
    return (devices && !strcmp(devices, "cuda")) || !access(ds_test_emulated_gpu(), R_OK);
}

START_TEST(cuda_f32_matches_pytorch) {
    if (has_cuda())
        check_variant(&variants[_i],
                      &(ds_device_options){.kind = "cuda", .precision = DS_PRECISION_F32});
    else
        ds_test_skip("cuda", "there is no CUDA library, nor its emulation");
}
END_TEST

/* Variant "out" as it starts. */
static ds_adapter *adapter_of_golden(const ds_base *base) {
    ds_adapter *a;
    ck_assert_int_eq(ds_adapter_new(&a, base, &variants[0].spec, NULL), 0);
    for (int i = 0; i < a->table.count; i++) {
        float *x = need("out.start.", a->table.items[i].name, a->table.items[i].count);
        memcpy(a->data + a->table.items[i].offset, x, a->table.items[i].count * sizeof *x);
        free(x);
    }
    return a;
}

/* Velocities: output, loss and every gradient of one batch at four levels, as the trainer asks for
 * them. */
static void check_flow_loss(const char *path, const ds_flow *flow, const char *kind) {
    static const double levels[B] = {0.05, 0.375, 0.5, 0.96};
    const int row[B] = {0, -1, 2, 0};
    ds_net_sample cond[B];
    float coef[8 * B] = {0}, *xt = ds_xmalloc(B * PX * sizeof *xt), *x0 = need("", "x0", B * PX),
                   *e = need("", "noise", B * PX);
    for (int i = 0; i < B; i++) {
        const ds_flow_point p = ds_flow_at(flow->path, levels[i]);
        cond[i] = (ds_net_sample){.t = ds_flow_time(flow, levels[i]),
                                  .row = row[i],
                                  .base_row = row[i] < 0 ? config.classes : -1};
        coef[8 * i] = (float)(ds_flow_sign(flow) * p.da);
        coef[8 * i + 1] = (float)(ds_flow_sign(flow) * p.ds);
        coef[8 * i + 7] = 1.0f / B;
        for (int j = i * PX; j < (i + 1) * PX; j++)
            xt[j] = (float)(p.a * x0[j] + p.s * e[j]);
    }
    ds_device *dev;
    ds_base *base = base_of_golden();
    ds_model *model;
    ds_adapter *a = NULL;
    ds_net *net;
    const ds_device_options f32 = {.kind = kind, .precision = DS_PRECISION_F32};
    ck_assert_int_eq(ds_device_open(&dev, &f32, NULL), 0);
    ck_assert_int_eq(ds_model_new(&model, dev, base, NULL), 0);
    a = adapter_of_golden(base);
    ck_assert_int_eq(
        ds_net_new(&net, model, DS_NET_TRAIN, (const ds_adapter *const[]){a}, 1, B, NULL), 0);
    size_t n = a->table.total;
    float *p = to_device(dev, NULL, n), *g = to_device(dev, NULL, n),
          *x = to_device(dev, xt, B * PX), *dx0 = to_device(dev, x0, B * PX),
          *de = to_device(dev, e, B * PX), *k = to_device(dev, NULL, 8 * B),
          *out = to_device(dev, NULL, 2 * B * PX), *dout = to_device(dev, NULL, 2 * B * PX),
          *mse = to_device(dev, NULL, B), *got;
    dev->upload(dev, p, a->data, n * sizeof *p);
    dev->upload(dev, k, coef, sizeof coef);
    dev->ops->fill(dev, g, 0, n);
    ds_net_bind(net, p, g);
    ds_net_forward(net, out, &(ds_net_input){.x = x, .samples = cond}, B);
    dev->ops->flow_loss(dev, mse, dout, out, dx0, de, k, B, PX, 2 * PX);
    ds_net_backward(net, dout, B);
    char name[64], table[64];
    snprintf(name, sizeof name, "flow.loss.%s.", path);
    snprintf(table, sizeof table, "flow.loss.%s", path);
    check_tensor(dev, name, "output", out, 2 * B * PX, 5e-6);
    check_tensor(dev, name, "mse", mse, B, 5e-6);
    check_table(table, "grad", &a->table, got = from_device(dev, g, n), 5e-5);
    free(got);
    float *bufs[] = {p, g, x, dx0, de, k, out, dout, mse};
    for (int i = 0; i < 9; i++)
        dev->free(dev, bufs[i]);
    ds_net_free(net);
    ds_adapter_free(a);
    ds_model_free(model);
    ds_base_free(base);
    ds_device_close(dev);
}

static const char *const kinds[] = {"ref", "cpu", "cuda"};

START_TEST(velocities_match_pytorch) {
    if (_i == 2 && !has_cuda()) {
        ds_test_skip("cuda", "there is no CUDA library, nor its emulation");
        return;
    }
    check_flow_loss("linear", &(ds_flow){DS_FLOW_LINEAR, 0, 1000, 1}, kinds[_i]);
    check_flow_loss("gvp", &(ds_flow){DS_FLOW_GVP, 1, 1000, 1}, kinds[_i]);
}
END_TEST

/* A few steps of each sampler and each guidance; the random numbers are the project's own, made
 * again in Python. */
static void check_sampler(int which, const char *kind) {
    static const struct {
        const char *key;
        enum ds_sampler sampler;
        ds_guidance guide;
        int pixel, steps;
        ds_flow flow;
    } runs[SAMPLER_RUNS] = {
        {"sample.ddpm.cfg.0", DS_SAMPLER_DDPM, {1, 1.7}, 0, 60, {0}},
        {"sample.ddim.domain.0", DS_SAMPLER_DDIM, {1.7, 1.7}, 0, 6, {0}},
        {"sample.dpmpp2m.none.0", DS_SAMPLER_DPMPP2M, {1, 1}, 0, 6, {0}},
        {"sample.dpmpp2m.cfg.1", DS_SAMPLER_DPMPP2M, {1, 1.7}, 1, 6, {0}},
        {"sample.ddim.both.0", DS_SAMPLER_DDIM, {1.4, 2}, 0, 6, {0}},
        {"sample.dpmpp2m.both.1", DS_SAMPLER_DPMPP2M, {1.4, 2}, 1, 6, {0}},
        {"flow.euler.linear.1", DS_SAMPLER_EULER, {1, 1}, 0, 6, {DS_FLOW_LINEAR, 1, 1, 1}},
        {"flow.heun.gvp.1", DS_SAMPLER_HEUN, {1, 1.7}, 0, 5, {DS_FLOW_GVP, 1, 1, 1}},
        {"flow.sde.linear.0", DS_SAMPLER_SDE, {1.7, 1.7}, 0, 8, {DS_FLOW_LINEAR, 0, 1000, 1}},
        {"flow.sde.gvp.1", DS_SAMPLER_SDE, {1, 1}, 1, 8, {DS_FLOW_GVP, 1, 1, 1}},
        {"flow.dpmpp2m.linear.0", DS_SAMPLER_DPMPP2M, {1, 1}, 0, 6, {DS_FLOW_LINEAR, 0, 1, 1}},
        {"flow.dpmpp2m.gvp.1", DS_SAMPLER_DPMPP2M, {1, 1.7}, 1, 6, {DS_FLOW_GVP, 1, 1000, 1}},
        {"flow.heun.linear.0", DS_SAMPLER_HEUN, {1, 1}, 1, 5, {DS_FLOW_LINEAR, 0, 1000, 1}}};
    ds_device *dev;
    ds_base *base = base_of_golden();
    ds_model *model;
    ds_adapter *a;
    ds_net *net, *plain;
    ds_error err;
    base->facts.pixel = runs[which].pixel;
    base->facts.flow = runs[which].flow;
    ck_assert_int_eq(
        ds_device_open(&dev, &(ds_device_options){.kind = kind, .precision = DS_PRECISION_F32},
                       NULL),
        0);
    ck_assert_int_eq(ds_model_new(&model, dev, base, NULL), 0);
    a = adapter_of_golden(base);
    ck_assert_int_eq(
        ds_net_new(&net, model, DS_NET_INFER, (const ds_adapter *const[]){a}, 1, 2, NULL), 0);
    ck_assert_int_eq(ds_net_new(&plain, model, DS_NET_INFER, NULL, 0, 1, NULL), 0);
    ds_sample_options so = {.sampler = runs[which].sampler,
                            .steps = runs[which].steps,
                            .guide = runs[which].guide,
                            .seed = (1ull << 33) + 5};
    ds_sample_request q = {.index = 7, .label = 1};
    float got[PX], *want = need("", runs[which].key, PX);
    ck_assert_msg(!ds_sample(NULL, got, net, plain, &so, &q, 1, NULL, NULL, &err), "%s",
                  err.message);
    double d = difference(got, want, PX,
                          0); /* six passes, each amplified by the guidance and 1/sqrt(alpha_bar) */
    ck_assert_msg(d < 1e-4, "%s: relative difference %.3g", runs[which].key, d);
    free(want);
    ds_net_free(net);
    ds_net_free(plain);
    ds_adapter_free(a);
    ds_model_free(model);
    ds_base_free(base);
    ds_device_close(dev);
}

START_TEST(samplers_match_pytorch) { check_sampler(_i, "cpu"); }
END_TEST

START_TEST(samplers_match_pytorch_cuda) {
    if (has_cuda())
        check_sampler(_i, "cuda");
    else
        ds_test_skip("cuda", "there is no CUDA library, nor its emulation");
}
END_TEST

static void cases(TCase *tc) {
    ds_error err;
    if (ds_st_open_file("tests/golden/dit.safetensors", 1 << 24, 0, &golden, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    tcase_add_loop_test(tc, ref_matches_pytorch, 0, VARIANTS);
    tcase_add_loop_test(tc, cpu_f32_matches_pytorch, 0, VARIANTS);
    tcase_add_loop_test(tc, cuda_f32_matches_pytorch, 0, VARIANTS);
    tcase_add_loop_test(tc, velocities_match_pytorch, 0, 3);
    tcase_add_loop_test(tc, samplers_match_pytorch, 0, SAMPLER_RUNS);
    tcase_add_loop_test(tc, samplers_match_pytorch_cuda, 0, SAMPLER_RUNS);
}

int main(void) { return ds_test_main("engine golden", cases); }
