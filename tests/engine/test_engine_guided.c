/* tests/engine/test_engine_guided.c - guidance that is trained in: what the loss is formed of and the
 * gradient that comes of it against DogFit's target made by hand, weights that change no bit, resume
 * byte for byte, and what it takes of memory. */
#include "base/fs.h"
#include "engine/diffusion/diffusion.h"
#include "engine/diffusion/flow.h"
#include "tests/harness.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 40, DEPTH = 1, BATCH = 8, MICRO = 4 };
#include "tests/fixtures/engine_small.h"
enum { PLANE = SIDE * SIDE, OUT = 2 * ONE };

/* What the base predicts: a velocity with and without the second half of its output, or noise; the
 * last two guide on two of three channels. */
static const struct {
    ds_flow flow;
    int learn_sigma, guided;
} worlds[] = {{{DS_FLOW_LINEAR, 0, 1000, 3}, 0, 3},
              {{DS_FLOW_GVP, 1, 1, 1}, 1, 3},
              {{.path = DS_FLOW_NONE}, 1, 3},
              {{DS_FLOW_LINEAR, 0, 1000, 3}, 0, 2},
              {{.path = DS_FLOW_NONE}, 1, 2}};
enum { WORLDS = sizeof worlds / sizeof worlds[0] };

static const ds_method_spec affiner = {
    .method = DS_METHOD_AFFINER, .rank = 2, .targets = DS_TARGET_DEFAULT, .classes = CLASSES};
static const ds_train_options guided = {.steps = 40,
                                        .batch = BATCH,
                                        .micro_batch = MICRO,
                                        .lr = 1e-2,
                                        .clip = 1,
                                        .ema = 0.5,
                                        .vb_weight = 1,
                                        .label_dropout = 0.3,
                                        .trained_guidance = 2.5,
                                        .trained_guidance_low = 0.5,
                                        .seed = 5,
                                        .heldout = 3};

static ds_device *dev;
static ds_base *base;
static ds_model *model;

static void open_world(int which) {
    const ds_device_options f32 = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 2};
    ds_dit_config c = config;
    if (worlds[which].flow.path != DS_FLOW_NONE)
        ds_dit_arch.set_flow(&c, &worlds[which].flow);
    c.learn_sigma = worlds[which].learn_sigma;
    c.guidance_channels = worlds[which].guided == 3 ? 0 : worlds[which].guided;
    label_images();
    for (int i = 0; i < IMAGES * ONE; i++)
        pixels[i] = (uint8_t)(ds_rng_u32(1, DS_STREAM_TEST, 0, (uint64_t)i, 0) % 64 +
                              60 * (uint32_t)labels[i / ONE]);
    ck_assert_int_eq(ds_device_open(&dev, &f32, NULL), 0);
    ck_assert_int_eq(ds_dit_base_new(&base, &c, 3, NULL), 0);
    ds_rng_normal(base->data, base->table.total, 5, DS_STREAM_TEST, 1, 0);
    for (size_t i = 0; i < base->table.total; i++)
        base->data[i] *= 0.15f;
    ck_assert_int_eq(ds_model_new(&model, dev, base, NULL), 0);
}

static void close_world(void) {
    ds_model_free(model);
    ds_base_free(base);
    ds_device_close(dev);
}

static ds_trainer *trainer(const ds_train_options *o) {
    ds_trainer *t;
    ds_error err;
    ck_assert_msg(!ds_trainer_new(&t, model, &affiner, o, &images, &err), "%s", err.message);
    return t;
}

static void steps(ds_trainer *t, int n) {
    ds_train_report r;
    for (int i = 0; i < n; i++)
        ck_assert_int_eq(ds_trainer_step(t, &r, NULL), 0);
}

static double heldout(ds_trainer *t) {
    double loss;
    ck_assert_int_eq(ds_trainer_heldout(t, &loss, NULL), 0);
    return loss;
}

/* ---------------------------------------------------------------- what the loss is formed of */

/* Of the micro-batch at hand: x_t, noise levels, the set's answers v and the base's u, and which samples
 * have one of the base. */
static const struct ds_ops *real;
static struct ds_ops watched;
static float xt[MICRO * ONE], v[MICRO * OUT], u[MICRO * OUT];
static double level[MICRO];
static int with_base[MICRO], rows, outpx, guided_px, below, above;
static const ds_train_options *asked;

static void watch_axpby(ds_device *d, float *out, const float *ca, const float *x, const float *cb,
                        const float *y, int B, size_t n) {
    const int planes = outpx / PLANE, first = rows - B / planes;
    if (out != x) { /* pictures and noise */
        real->axpby(d, out, ca, x, cb, y, B, n);
        rows = B;
        memcpy(xt, out, (size_t)B * ONE * sizeof *xt);
        for (int i = 0; i < B; i++) {
            with_base[i] = 0;
            level[i] = (double)cb[i] / ((double)ca[i] + (double)cb[i]);
        }
        return;
    }
    ck_assert(n == PLANE && B % planes == 0 && first >= 0);
    memcpy(v + first * outpx, x, (size_t)B * n * sizeof *v);
    memcpy(u + first * outpx, y, (size_t)B * n * sizeof *u);
    for (int i = first; i < rows; i++)
        with_base[i] = 1;
    real->axpby(d, out, ca, x, cb, y, B, n);
}

/* Element i of sample b, whose target is x + e: n is v / W + (1 - 1/W) u where guidance is and v
 * elsewhere, and the gradient is that of (v - t - (w - 1) (v' - u))^2 for w = 2 - 1/W and a v' that is
 * held: DogFit's.  n is rounded from two products, the gradient from that, target and difference. */
static void expect_element(int b, int i, double n, double dout, double x, double e, double factor) {
    const int here = level[b] >= asked->trained_guidance_low && i < guided_px;
    const double W = asked->trained_guidance, w = here ? 2 - 1 / W : 1, ulp = 0x1p-24,
                 own = with_base[b] ? v[b * outpx + i] : n, its = here ? u[b * outpx + i] : 0,
                 want = here ? own / W + (1 - 1 / W) * its : own,
                 slope = factor * (own - (x + e + (w - 1) * (own - its))),
                 size = fmax(1, 1 / W) * (fabs(own) + fabs(its)) + fabs(x) + fabs(e);
    ck_assert_msg(with_base[b] || !here, "level %g has no answer of the base", level[b]);
    ck_assert_msg(fabs(n - want) <= (here ? 3 * ulp * size : 0), "level %g, %d: %.9g, must be %.9g",
                  level[b], i, n, want);
    ck_assert_msg(i >= ONE || fabs(dout - slope) <= 5 * ulp * factor * size,
                  "level %g, %d: gradient %.9g, must be %.9g", level[b], i, dout, slope);
}

static void expect_all(const float *n, const float *dout, const float *x0, const float *noise,
                       const float *coef, int flow, int B) {
    for (int b = 0; dout && b < B; b++) {
        const double by_x = flow ? coef[8 * b] : 0, by_noise = flow ? coef[8 * b + 1] : 1;
        below += level[b] < asked->trained_guidance_low;
        above += level[b] >= asked->trained_guidance_low;
        for (int i = 0; i < outpx; i++) {
            const int at = b * outpx + i, j = b * ONE + i % ONE;
            expect_element(b, i, n[at], dout[at], by_x * x0[j], by_noise * noise[j],
                           2.0 * coef[8 * b + 7] / ONE);
        }
    }
}

/* The base's answers to the micro-batch at hand, each alone, without class. */
static void expect_base(void) {
    ds_net *net;
    float said[OUT];
    const ds_facts *c = &base->facts;
    ds_schedule s;
    ck_assert_int_eq(ds_net_new(&net, model, DS_NET_INFER, NULL, 0, 1, NULL), 0);
    ds_schedule_init(&s, c);
    for (int b = 0; b < rows; b++) {
        ds_net_sample q = {.row = -1, .base_row = c->classes, .task = -1};
        q.t = c->flow.path == DS_FLOW_LINEAR ? ds_flow_time(&c->flow, level[b]) : 0;
        for (int i = 0; c->flow.path == DS_FLOW_NONE && i < s.steps; i++) {
            const double a = sqrt(s.alpha_bar[i]), e = sqrt(1 - s.alpha_bar[i]);
            q.t = fabs(e / (a + e) - level[b]) < 1e-6 ? s.time[i] : q.t;
        }
        if (c->flow.path == DS_FLOW_GVP)
            q.t = ds_flow_time(&c->flow, atan(level[b] / (1 - level[b])) / 1.57079632679489661923);
        if (!with_base[b])
            continue;
        ds_net_forward(net, said, &(ds_net_input){.x = xt + b * ONE, .samples = &q}, 1);
        for (int i = 0; i < outpx; i++) /* the time is known to 1e-6 of it */
            ck_assert_msg(fabsf(said[i] - u[b * outpx + i]) < 2e-3f, "the base says %g, not %g",
                          (double)said[i], (double)u[b * outpx + i]);
    }
    ds_schedule_release(&s);
    ds_net_free(net);
}

static void watch_flow(ds_device *d, float *mse, float *dout, const float *out, const float *x0,
                       const float *noise, const float *coef, int B, size_t px, size_t outn) {
    real->flow_loss(d, mse, dout, out, x0, noise, coef, B, px, outn);
    expect_all(out, dout, x0, noise, coef, 1, B);
    expect_base();
}

static void watch_eps(ds_device *d, float *mse, float *vb, float *dout, const float *out,
                      const float *x0, const float *noise, const float *x, const float *coef,
                      int learned, float vb_weight, int B, int C, size_t n) {
    real->diffusion_loss(d, mse, vb, dout, out, x0, noise, x, coef, learned, vb_weight, B, C, n);
    expect_all(out, dout, x0, noise, coef, 0, B);
    expect_base();
}

static void watch(int world, const ds_train_options *o) {
    asked = o;
    outpx = ONE * (1 + worlds[world].learn_sigma);
    guided_px = worlds[world].guided * PLANE;
    below = above = 0;
    real = dev->ops;
    watched = *real;
    watched.axpby = watch_axpby;
    watched.flow_loss = watch_flow;
    watched.diffusion_loss = watch_eps;
    dev->ops = &watched;
}

START_TEST(the_gradient_is_that_of_dogfit_s_target) {
    static const double weights[] = {1.5, 2.5, 0.5};
    open_world(_i % WORLDS);
    for (int k = 0; k < 3; k++) {
        ds_train_options o = guided;
        o.trained_guidance = weights[k];
        ds_trainer *t = trainer(&o);
        watch(_i % WORLDS, &o);
        steps(t, 4);
        ck_assert_msg(below >= 4 && above >= 4, "%d levels below, %d above", below, above);
        dev->ops = real;
        ds_trainer_free(t);
    }
    close_world();
}
END_TEST

/* ---------------------------------------------------------------- what changes nothing */

static float *after(const ds_train_options *o, int n, double *loss) {
    ds_trainer *t = trainer(o);
    steps(t, n);
    *loss = heldout(t);
    float *p = ds_trainer_copy(t, 0);
    ds_trainer_free(t);
    return p;
}

static size_t bytes_of_set(void) {
    ds_params table = {0};
    ds_adapter_table(&table, base, &affiner);
    size_t n = table.total * sizeof(float);
    ds_params_release(&table);
    return n;
}

/* Weight 1 is no guidance, and neither is one that begins above every level: the same bits as without.
 * Any other weight is seen. */
START_TEST(weights_that_change_no_bit) {
    static const struct {
        double weight, low;
        int same;
    } runs[] = {{1, 0, 1}, {2, 1, 1}, {2, 0.5, 0}, {1.01, 0, 0}};
    open_world(_i);
    ds_train_options o = guided;
    double plain_loss, loss;
    o.trained_guidance = 0;
    float *plain = after(&o, 5, &plain_loss);
    for (int i = 0; i < 4; i++) {
        o.trained_guidance = runs[i].weight;
        o.trained_guidance_low = runs[i].low;
        float *p = after(&o, 5, &loss);
        ck_assert_int_eq(!memcmp(p, plain, bytes_of_set()), runs[i].same);
        ck_assert_int_eq(loss == plain_loss, runs[i].same);
        free(p);
    }
    free(plain);
    close_world();
}
END_TEST

START_TEST(resume_gives_the_same_bytes) {
    char path[PATH_MAX];
    double loss;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "checkpoint");
    open_world(_i);
    float *whole = after(&guided, 9, &loss);
    ds_trainer *t = trainer(&guided);
    steps(t, 4);
    heldout(t);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ds_trainer_free(t);
    t = trainer(&guided);
    ck_assert_int_eq(ds_trainer_load(t, path, NULL), 0);
    steps(t, 5);
    float *resumed = ds_trainer_copy(t, 0);
    ck_assert_int_eq(memcmp(whole, resumed, bytes_of_set()), 0);
    free(whole);
    free(resumed);
    ds_trainer_free(t);
    close_world();
}
END_TEST

/* A checkpoint is of one weight and one level. */
START_TEST(other_guidance_is_another_run) {
    static const double others[][2] = {{0, 0.5}, {2, 0.5}, {2.5, 0.25}};
    char path[PATH_MAX];
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "other");
    open_world(0);
    ds_trainer *t = trainer(&guided);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ds_trainer_free(t);
    for (int i = 0; i < 3; i++) {
        ds_train_options o = guided;
        o.trained_guidance = others[i][0];
        o.trained_guidance_low = others[i][1];
        t = trainer(&o);
        ck_assert_int_eq(ds_trainer_load(t, path, &err), DS_EINTEGRITY);
        ds_trainer_free(t);
    }
    close_world();
}
END_TEST

START_TEST(values_that_are_refused) {
    static const struct {
        double weight, low;
        const char *message;
    } wrong[] = {{-1, 0.5, "trained_guidance is -1, must be 0 to 10"},
                 {11, 0.5, "trained_guidance is 11, must be 0 to 10"},
                 {2, 1.5, "trained_guidance_low is 1.5, must be 0 to 1"}};
    open_world(0);
    for (int i = 0; i < 3; i++) {
        ds_trainer *t;
        ds_error err;
        ds_train_options o = guided;
        o.trained_guidance = wrong[i].weight;
        o.trained_guidance_low = wrong[i].low;
        ck_assert_int_eq(ds_trainer_new(&t, model, &affiner, &o, &images, &err), DS_EINVAL);
        ck_assert_str_eq(err.message, wrong[i].message);
    }
    close_world();
}
END_TEST

/* ---------------------------------------------------------------- memory */

static size_t taken;
static void *(*real_alloc)(ds_device *, size_t);
static void *count_alloc(ds_device *d, size_t n) {
    taken += n;
    return real_alloc(d, n);
}

static ds_weight *(*real_weight)(ds_device *, int, int, int, int);
static ds_weight *count_weight(ds_device *d, int m, int n, int f32, int grad) {
    taken += d->weight_bytes(d, m, n, f32, grad);
    return real_weight(d, m, n, f32, grad);
}

static double taken_by(const ds_train_options *o) {
    taken = 0;
    ds_trainer_free(trainer(o));
    return (double)taken;
}

/* What the plan adds for it is what it allocates; the host's part of a batch is counted with it. */
START_TEST(it_is_planned) {
    ds_train_options with = guided, without = guided;
    without.trained_guidance = 0;
    open_world(0);
    real_alloc = dev->alloc;
    real_weight = dev->weight_new;
    dev->alloc = count_alloc;
    dev->weight_new = count_weight;
    const ds_trainer_plan a = ds_trainer_plan_of(dev, base, &affiner, &without),
                          b = ds_trainer_plan_of(dev, base, &affiner, &with);
    const double planned =
                     b.weights - a.weights + b.activations - a.activations + b.batch - a.batch,
                 is = taken_by(&with) - taken_by(&without);
    ck_assert(b.weights > a.weights && b.activations > a.activations && b.state == a.state &&
              b.batch > a.batch);
    ck_assert_msg(planned >= is && planned < 1.05 * is, "planned %.0f bytes, taken %.0f", planned,
                  is);
    dev->alloc = real_alloc;
    close_world();
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, the_gradient_is_that_of_dogfit_s_target, 0, WORLDS);
    tcase_add_loop_test(tc, weights_that_change_no_bit, 0, WORLDS);
    tcase_add_loop_test(tc, resume_gives_the_same_bytes, 0, WORLDS);
    tcase_add_test(tc, other_guidance_is_another_run);
    tcase_add_test(tc, values_that_are_refused);
    tcase_add_test(tc, it_is_planned);
}

int main(void) { return ds_test_main("engine guided", cases); }
