/* tests/engine/test_engine_sampler.c - sampling against numbers made here: the coefficients of each step,
 * what the noise is named by, what guides, how pictures come from numbers; progress, room, and what
 * is refused. */
#include "base/mem.h"
#include "engine/diffusion/diffusion.h"
#include "engine/diffusion/sampler.h"
#include "tests/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 1, DEPTH = 1, PLANE = 64, MOST = 4 * PLANE };
#include "tests/fixtures/engine_small.h"

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_model *model;
    ds_adapter *fresh, *other; /* the base itself; stirred */
} world;

static world open_world(int channels, int guided, int learned) {
    const ds_device_options f32 = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    const ds_method_spec spec = {
        .method = DS_METHOD_AFFINER, .rank = 2, .targets = DS_TARGET_Q, .classes = CLASSES};
    ds_dit_config c = config;
    world w;
    c.channels = channels;
    c.guidance_channels = guided;
    c.learn_sigma = learned;
    c.pixel = channels == 3;
    ck_assert_int_eq(ds_device_open(&w.dev, &f32, NULL), 0);
    ck_assert_int_eq(ds_dit_base_new(&w.base, &c, 3, NULL), 0);
    ds_rng_normal(w.base->data, w.base->table.total, 5, DS_STREAM_TEST, 1, 0);
    for (size_t i = 0; i < w.base->table.total; i++)
        w.base->data[i] *= 0.15f;
    ck_assert_int_eq(ds_model_new(&w.model, w.dev, w.base, NULL), 0);
    ck_assert_int_eq(ds_adapter_new(&w.fresh, w.base, &spec, NULL), 0);
    ck_assert_int_eq(ds_adapter_new(&w.other, w.base, &spec, NULL), 0);
    float *x = ds_xmalloc(w.other->table.total * sizeof *x);
    ds_rng_normal(x, w.other->table.total, 6, DS_STREAM_TEST, 2, 0);
    for (size_t i = 0; i < w.other->table.total; i++)
        w.other->data[i] += 0.2f * x[i];
    free(x);
    return w;
}

static void close_world(world *w) {
    ds_adapter_free(w->fresh);
    ds_adapter_free(w->other);
    ds_model_free(w->model);
    ds_base_free(w->base);
    ds_device_close(w->dev);
}

static ds_net *net_of(const world *w, const ds_adapter *a, int batch) {
    ds_net *net;
    ck_assert_int_eq(ds_net_new(&net, w->model, DS_NET_INFER, &a, a != NULL, batch, NULL), 0);
    return net;
}

/* ---------------------------------------------------------------- what the device is asked for */

static struct {
    ds_step p;
    int noise, twin, null, base, B;
    size_t px, outpx;
} steps[64];
static uint32_t drawn[64]; /* the step that each lot of noise is named by */
static uint64_t drawn_index[64];
static int step_count, draw_count;
static const struct ds_ops *real;
static struct ds_ops watched;

static int embeddings, embedded; /* of timesteps, each time for so many rows as are kept; rows */
static void watch_embedding(ds_device *dev, float *out, const float *t, int B, int dim,
                            float period, int shift) {
    embeddings++;
    embedded += B;
    real->timestep_embedding(dev, out, t, B, dim, period, shift);
}

static void watch_step(ds_device *dev, float *x, float *twin, float *x0_prev, const float *out,
                       const float *null, const float *base, const float *noise, const ds_step *s,
                       int B, size_t px, size_t outpx) {
    steps[step_count].p = *s;
    steps[step_count].noise = noise != NULL;
    steps[step_count].twin = twin != NULL;
    steps[step_count].null = null != NULL;
    steps[step_count].base = base != NULL;
    steps[step_count].B = B;
    steps[step_count].px = px;
    steps[step_count++].outpx = outpx;
    real->sampler_step(dev, x, twin, x0_prev, out, null, base, noise, s, B, px, outpx);
}

static void watch_normal(ds_device *dev, float *out, uint64_t seed, uint32_t stream,
                         const uint32_t *step, const uint64_t *index, int B, size_t n) {
    ck_assert(seed == 3 && stream == DS_STREAM_SAMPLE);
    drawn[draw_count] = step[B - 1];
    drawn_index[draw_count++] = index[B - 1];
    real->normal(dev, out, seed, stream, step, index, B, n);
}

static void watch(ds_device *dev) {
    real = dev->ops;
    watched = *real;
    watched.sampler_step = watch_step;
    watched.normal = watch_normal;
    watched.timestep_embedding = watch_embedding;
    dev->ops = &watched;
    step_count = draw_count = embeddings = embedded = 0;
}

static void near(double is, double want, const char *what, int at) {
    ck_assert_msg(fabs(is - want) <= 2e-7 * fabs(want) + 1e-12, "%s of step %d is %.12g, not %.12g",
                  what, at, is, want);
}

static double half_log_snr(double bar) { return log(sqrt(bar) / sqrt(1 - bar)); }

/* Cumulative products of 1 - beta, betas in equal steps. */
static void bars(double bar[1000]) {
    double product = 1;
    for (int t = 0; t < 1000; t++)
        bar[t] = product *= 1 - (1e-4 + (2e-2 - 1e-4) * t / 999);
}

enum { STEPS = 4 };
static const int times[STEPS] = {0, 333, 666, 999};

static void check_step(const ds_step *p, int k, const double *all) {
    double bar = all[times[k]], prev = k ? all[times[k - 1]] : 1, beta = 1 - bar / prev;
    double prev0 = k > 1 ? prev : all[times[0]], bar0 = k ? bar : all[times[1]];
    near(p->a, sqrt(bar), "a", k);
    near(p->b, sqrt(1 - bar), "b", k);
    near(p->a_prev, sqrt(prev), "a_prev", k);
    near(p->b_prev, sqrt(1 - prev), "b_prev", k);
    near(p->mean_x0, beta * sqrt(prev) / (1 - bar), "mean_x0", k);
    near(p->mean_xt, (1 - prev) * sqrt(1 - beta) / (1 - bar), "mean_xt", k);
    near(p->log_beta, log(beta), "log_beta", k);
    near(p->log_variance, log((1 - bar0 / prev0) * (1 - prev0) / (1 - bar0)), "log_variance", k);
    if (p->kind != DS_STEP_DPMPP2M || !k) {
        ck_assert(p->ratio == 0 && p->gain == 0 && p->c_now == 0 && p->c_before == 0);
        return;
    }
    double h = half_log_snr(prev) - half_log_snr(bar);
    double before = k < STEPS - 1 ? half_log_snr(bar) - half_log_snr(all[times[k + 1]]) : INFINITY;
    near(p->ratio, sqrt((1 - prev) / (1 - bar)), "ratio", k);
    near(p->gain, sqrt(prev) * (1 - exp(-h)), "gain", k);
    near(p->c_now, 1 + h / before / 2, "c_now", k);
    near(p->c_before, -h / before / 2, "c_before", k);
}

/* None, by the null row, by the base, by both with a weight each. */
static const ds_guidance guides[] = {{1, 1}, {1, 1.5}, {1.5, 1.5}, {1.5, 2.5}};
enum { GUIDES = sizeof guides / sizeof *guides };

/* Each sampler with each guidance, on pixels with learned variance and on latents without. */
START_TEST(coefficients_of_each_step) {
    int latent = _i / 12, sampler = _i % 12 / GUIDES, g = _i % GUIDES, null = g == 1 || g == 3;
    world w = open_world(latent ? 4 : 3, latent ? 3 : 0, !latent);
    ds_net *net = net_of(&w, w.other, 4), *base = net_of(&w, NULL, 4);
    const ds_sample_options o = {
        .sampler = (enum ds_sampler)sampler, .steps = STEPS, .guide = guides[g], .seed = 3};
    const ds_sample_request q[2] = {{.index = 11, .label = 1}, {.index = 22, .label = 0}};
    double all[1000];
    bars(all);
    watch(w.dev);
    ck_assert_int_eq(ds_sample(NULL, NULL, net, base, &o, q, 2, NULL, NULL, NULL), 0);
    w.dev->ops = real;
    ck_assert_int_eq(step_count, STEPS);
    for (int i = 0; i < STEPS; i++) {
        const ds_step *p = &steps[i].p;
        int k = STEPS - 1 - i;
        ck_assert_int_eq(p->kind, sampler); /* in the order of enum ds_step_kind */
        ck_assert_int_eq(steps[i].null, null);
        ck_assert_int_eq(steps[i].base, g >= 2);
        ck_assert_int_eq(p->pixel, !latent);
        ck_assert_int_eq(p->learned, !latent);
        ck_assert_int_eq(p->last, k == 0);
        ck_assert_uint_eq(p->limit, 3 * PLANE); /* all colours, or three of four planes */
        ck_assert(p->domain == (float)guides[g].domain && p->classes == (float)guides[g].classes);
        ck_assert_int_eq(steps[i].twin, null);
        ck_assert_int_eq(steps[i].noise, sampler == DS_SAMPLER_DDPM && k > 0);
        ck_assert_int_eq(steps[i].B, 2);
        ck_assert_uint_eq(steps[i].px, (latent ? 4 : 3) * PLANE);
        ck_assert_uint_eq(steps[i].outpx, (latent ? 4 : 6) * PLANE);
        check_step(p, k, all);
    }
    /* the first noise has a name of its own, twice for both halves; then each step its time's */
    int first = null ? 2 : 1;
    ck_assert_int_eq(draw_count, first + (sampler == DS_SAMPLER_DDPM ? STEPS - 1 : 0));
    for (int i = 0; i < draw_count; i++) {
        ck_assert_uint_eq(drawn[i],
                          i < first ? 0xffffffffu : (uint32_t)times[STEPS - 1 - i + first]);
        ck_assert_uint_eq(drawn_index[i], 22);
    }
    ds_net_free(net);
    ds_net_free(base);
    close_world(&w);
}
END_TEST

START_TEST(names_and_batches) {
    static const char *const samplers[] = {"ddpm", "ddim", "dpmpp2m"}, *const guidances[] = {
                                                                           "none", "cfg", "domain"};
    for (int i = 0; i < 3; i++) {
        ck_assert_str_eq(ds_sampler_name((enum ds_sampler)i), samplers[i]);
        ck_assert_str_eq(ds_guidance_name((enum ds_guidance_mode)i), guidances[i]);
        ds_sample_options o = {.guide = ds_guidance_of((enum ds_guidance_mode)i, 2)};
        int twice = i == DS_GUIDANCE_CFG; /* both halves in one pass */
        ck_assert(o.guide.domain == (i == DS_GUIDANCE_DOMAIN ? 2 : 1));
        ck_assert(o.guide.classes == (i == DS_GUIDANCE_NONE ? 1 : 2));
        ck_assert_int_eq(ds_sample_batch(&o, 8), twice ? 4 : 8);
        ck_assert_int_eq(ds_sample_batch(&o, 3), twice ? 1 : 3);
        ck_assert_int_eq(ds_sample_batch(&o, 1), 1);
        o.guide = ds_guidance_of((enum ds_guidance_mode)i, 1);
        ck_assert_int_eq(ds_sample_batch(&o, 8), 8);
    }
    static const ds_guidance off = {0, 0}, no_base = {1, 0}, both = {0, 1};
    static const int with_class[GUIDES] = {1, 2, 2, 3}, without[GUIDES] = {1, 1, 2, 2};
    for (int i = 0; i < GUIDES; i++) {
        ck_assert_int_eq(ds_guidance_passes(guides[i], 1), with_class[i]);
        ck_assert_int_eq(ds_guidance_passes(guides[i], 0), without[i]);
        ck_assert_int_eq(ds_guidance_needs_base(guides[i]), i >= 2);
    }
    ck_assert_int_eq(ds_guidance_passes(off, 1), 2);
    ck_assert_int_eq(ds_guidance_passes(no_base, 1), 2);
    ck_assert_int_eq(ds_guidance_passes(both, 1), 3);
}
END_TEST

/* ---------------------------------------------------------------- what guides */

typedef struct {
    float x[MOST];
} picture;

/* One picture of an adapter (NULL: of the base), in as many DDIM steps as given. */
static picture draw(const world *w, const ds_adapter *a, int label, enum ds_guidance_mode mode,
                    double guidance, int count) {
    picture p = {0};
    ds_net *net = net_of(w, a, 2), *base = net_of(w, NULL, 1);
    const ds_sample_options o = {.sampler = DS_SAMPLER_DDIM,
                                 .steps = count,
                                 .guide = ds_guidance_of(mode, guidance),
                                 .seed = 3};
    const ds_sample_request q = {.index = 5, .label = label, .base = !a};
    ds_error err;
    ck_assert_msg(!ds_sample(NULL, p.x, net, base, &o, &q, 1, NULL, NULL, &err), "%s", err.message);
    ds_net_free(net);
    ds_net_free(base);
    return p;
}

static int same(picture a, picture b, size_t n) { return !memcmp(a.x, b.x, n * sizeof *a.x); }

START_TEST(what_guides) {
    const enum ds_guidance_mode none = DS_GUIDANCE_NONE, cfg = DS_GUIDANCE_CFG,
                                domain = DS_GUIDANCE_DOMAIN;
    const size_t all = 3 * PLANE;
    world w = open_world(3, 0, 1);
    picture null = draw(&w, w.other, -1, none, 1, 2), one = draw(&w, w.other, 1, none, 1, 2),
            base = draw(&w, NULL, -1, none, 1, 2);
    ck_assert(!same(null, one, all) && !same(null, base, all));
    ck_assert(!same(one, draw(&w, w.other, 2, none, 1, 2), all)); /* labels are different rows */
    ck_assert(!same(base, draw(&w, NULL, 1, none, 1, 2), all));
    /* w = 1 is no guidance, w = 0 the guide alone: the adapter's null class, or the base's */
    ck_assert(same(one, draw(&w, w.other, 1, cfg, 1, 2), all));
    ck_assert(same(one, draw(&w, w.other, 1, domain, 1, 2), all));
    ck_assert(same(one, draw(&w, w.other, 1, none, 3, 2), all));
    ck_assert(same(null, draw(&w, w.other, 1, cfg, 0, 2), all));
    ck_assert(same(base, draw(&w, w.other, 1, domain, 0, 2), all));
    /* what guides itself stays as it is */
    ck_assert(same(null, draw(&w, w.other, -1, cfg, 3, 2), all));
    ck_assert(same(base, draw(&w, w.fresh, -1, domain, 3, 2), all));
    ck_assert(!same(one, draw(&w, w.other, 1, cfg, 3, 2), all));
    close_world(&w);
    /* of latents three planes are guided, the fourth is as without */
    w = open_world(4, 3, 1);
    null = draw(&w, w.other, -1, none, 1, 1);
    one = draw(&w, w.other, 1, none, 1, 1);
    picture guided = draw(&w, w.other, 1, cfg, 0, 1);
    ck_assert(same(guided, null, all) && !same(guided, one, all));
    ck_assert(!memcmp(guided.x + all, one.x + all, PLANE * sizeof(float)));
    ck_assert(memcmp(guided.x + all, null.x + all, PLANE * sizeof(float)));
    close_world(&w);
}
END_TEST

/* What the device was asked for before weights were two: the one that guides, its weight. */
static void step_by_hand(ds_device *dev, float *x, float *twin, float *x0_prev, const float *out,
                         const float *null, const float *base, const float *noise, const ds_step *s,
                         int B, size_t px, size_t outpx) {
    float *guided = ds_xmalloc((size_t)B * outpx * sizeof *guided);
    memcpy(guided, out, (size_t)B * outpx * sizeof *guided);
    const float *guide = null ? null : base, weight = null ? s->classes : s->domain;
    for (size_t i = 0; guide && i < (size_t)B * outpx; i++)
        if (i % outpx < s->limit && null && base)
            guided[i] =
                (base[i] + s->domain * (null[i] - base[i])) + s->classes * (out[i] - null[i]);
        else if (i % outpx < s->limit)
            guided[i] = guide[i] + weight * (guided[i] - guide[i]);
    step_count++;
    real->sampler_step(dev, x, twin, x0_prev, guided, NULL, NULL, noise, s, B, px, outpx);
    free(guided);
}

enum { MIXED = 7 };

/* Classes and none of them, in turn and side by side. */
static void mixed(ds_sample_request q[MIXED]) {
    static const int classes[MIXED] = {1, -1, 2, 0, -1, -1, 1};
    for (int i = 0; i < MIXED; i++)
        q[i] = (ds_sample_request){.index = 40 + (uint64_t)i, .label = classes[i]};
}

/* Bytes are those of the outputs mixed by hand, the same in any batch and alone; and a step takes as
 * many rows of the models as are said. */
START_TEST(guided_bytes) {
    static float raw[MIXED * MOST], hand[MIXED * MOST], some[MIXED * MOST];
    static const int batches[] = {1, 2, 3, 5, 8, 14, 16};
    const int latent = _i / 3, sampler = _i % 3, channels = latent ? 4 : 3;
    const size_t one = (size_t)channels * PLANE;
    world w = open_world(channels, latent ? 3 : 0, !latent);
    ds_sample_request q[MIXED];
    mixed(q);
    for (int g = 0; g < GUIDES; g++) {
        ds_sample_options o = {.sampler = (enum ds_sampler)sampler,
                               .steps = STEPS,
                               .guide = guides[g],
                               .seed = 3,
                               .table_rows = -1};
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
            ds_net *net = net_of(&w, w.other, batches[b]), *base = net_of(&w, NULL, batches[b]);
            float *to = b ? some : raw;
            int rows = 0;
            for (int i = 0; i < MIXED; i++)
                rows += STEPS * ds_guidance_passes(o.guide, q[i].label >= 0);
            watch(w.dev);
            ck_assert_int_eq(ds_sample(NULL, to, net, base, &o, q, MIXED, NULL, NULL, NULL), 0);
            ck_assert_int_eq(embedded, rows);
            ck_assert(!memcmp(raw, to, MIXED * one * sizeof *raw));
            watched.sampler_step = step_by_hand;
            ck_assert_int_eq(ds_sample(NULL, hand, net, base, &o, q, MIXED, NULL, NULL, NULL), 0);
            ck_assert(!memcmp(raw, hand, MIXED * one * sizeof *raw));
            w.dev->ops = real;
            for (size_t i = 0; i < MIXED; i++) {
                ck_assert_int_eq(ds_sample(NULL, some, net, base, &o, q + i, 1, NULL, NULL, NULL),
                                 0);
                ck_assert(!memcmp(raw + i * one, some, one * sizeof *raw));
            }
            ds_net_free(net);
            ds_net_free(base);
        }
    }
    close_world(&w);
}
END_TEST

/* Above the level guidance is as without one, below there is neither a null row nor the base: by
 * what the device is asked for, and in rows of the models; in any batch the same bytes. */
START_TEST(guidance_rests_below_a_level) {
    static float raw[MIXED * MOST], some[MIXED * MOST], plain[MIXED * MOST], full[MIXED * MOST];
    static const int batches[] = {1, 3, 8, 14};
    double bar[1000], level[STEPS], share = -1;
    world w = open_world(3, 0, 1);
    ds_sample_request q[MIXED];
    const size_t bytes = MIXED * 3 * PLANE * sizeof *raw;
    bars(bar);
    mixed(q);
    for (int k = 0; k < STEPS; k++)
        level[k] = sqrt(1 - bar[times[k]]) / (sqrt(bar[times[k]]) + sqrt(1 - bar[times[k]]));
    for (int g = 1; g < GUIDES; g++)
        for (int above = 0; above <= STEPS; above++) { /* so many steps are guided */
            ds_sample_options o = {.sampler = DS_SAMPLER_DPMPP2M,
                                   .steps = STEPS,
                                   .guide = guides[g],
                                   .seed = 3,
                                   .table_rows = -1};
            o.guide_low = above ? level[STEPS - above] - 1e-6 : 1;
            ck_assert(!ds_guidance_share(o.guide_low, &w.base->facts, STEPS, &share, NULL));
            ck_assert(share == above / (double)STEPS);
            for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
                ds_net *net = net_of(&w, w.other, batches[b]), *base = net_of(&w, NULL, batches[b]);
                int rows = 0;
                for (int i = 0; i < MIXED; i++)
                    rows += STEPS - above + above * ds_guidance_passes(o.guide, q[i].label >= 0);
                watch(w.dev);
                ck_assert_int_eq(
                    ds_sample(NULL, b ? some : raw, net, base, &o, q, MIXED, NULL, NULL, NULL), 0);
                ck_assert_int_eq(embedded, rows);
                for (int i = 0; i < step_count; i++) {
                    int on = steps[i].p.b / (steps[i].p.a + steps[i].p.b) >= o.guide_low;
                    ck_assert(steps[i].base == (on && g >= 2) && (on || !steps[i].null));
                }
                ck_assert(!b || !memcmp(raw, some, bytes));
                w.dev->ops = real;
                ds_sample_options f = o, p = o;
                f.guide_low = 0;
                p.guide = guides[0];
                ck_assert(!ds_sample(NULL, full, net, base, &f, q, MIXED, NULL, NULL, NULL));
                ck_assert(!ds_sample(NULL, plain, net, base, &p, q, MIXED, NULL, NULL, NULL));
                ck_assert_int_eq(!memcmp(raw, full, bytes), above == STEPS);
                ck_assert_int_eq(!memcmp(raw, plain, bytes), above == 0);
                ds_net_free(net);
                ds_net_free(base);
            }
        }
    ds_error err;
    static const double odd[] = {-0.1, 1.1, NAN};
    for (int i = 0; i < 3; i++) {
        ds_sample_options o = {
            .sampler = DS_SAMPLER_DDIM, .steps = 1, .guide = {1, 1}, .guide_low = odd[i]};
        ds_net *net = net_of(&w, w.other, 1);
        ck_assert_int_eq(ds_sample(NULL, some, net, NULL, &o, q, 1, NULL, NULL, &err), DS_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.message, "a noise level of 0 to 1"));
        ds_net_free(net);
    }
    close_world(&w);
}
END_TEST

/* One step of DDIM is linear in the output, so pictures mix as outputs do: u + w_d (n - u) + w_c (c -
 * n), of each picture with its own class, and n = c without one. */
START_TEST(pictures_mix_as_outputs) {
    static const ds_guidance list[] = {{1, 1},   {1, 2.5}, {2, 2},   {0, 0}, {1.5, 3},
                                       {3, 1.5}, {0, 2},   {0.5, 0}, {2, 1}, {1, 0}};
    static float by[3][MIXED * MOST], got[MIXED * MOST]; /* class, null, base */
    const size_t one = 4 * PLANE;
    world w = open_world(4, 0, 0);
    ds_net *net = net_of(&w, w.other, 8), *base = net_of(&w, NULL, 8);
    ds_sample_options o = {.sampler = DS_SAMPLER_DDIM, .steps = 1, .guide = {1, 1}, .seed = 3};
    ds_sample_request q[MIXED], plain[MIXED];
    mixed(q);
    for (int i = 0; i < MIXED; i++)
        plain[i] = (ds_sample_request){.index = q[i].index, .label = -1};
    ck_assert_int_eq(ds_sample(NULL, by[0], net, NULL, &o, q, MIXED, NULL, NULL, NULL), 0);
    ck_assert_int_eq(ds_sample(NULL, by[1], net, NULL, &o, plain, MIXED, NULL, NULL, NULL), 0);
    ck_assert_int_eq(ds_sample(NULL, by[2], base, NULL, &o, plain, MIXED, NULL, NULL, NULL), 0);
    for (size_t g = 0; g < sizeof list / sizeof *list; g++) {
        o.guide = list[g];
        ck_assert_int_eq(ds_sample(NULL, got, net, base, &o, q, MIXED, NULL, NULL, NULL), 0);
        for (size_t i = 0; i < MIXED * one; i++) {
            double c = by[0][i], n = by[1][i], u = by[2][i];
            double want = u + list[g].domain * (n - u) + list[g].classes * (c - n);
            double room = 1e-5 * (fabs(u) + 3 * fabs(n - u) + 3 * fabs(c - n) + 1);
            /* the last step divides by sqrt(alpha_bar) = 0.006: outputs differ by tens */
            ck_assert_msg(fabs(got[i] - want) <= room,
                          "weights %g and %g, number %zu: %.9g, not %.9g", list[g].domain,
                          list[g].classes, i, (double)got[i], want);
        }
    }
    ds_net_free(net);
    ds_net_free(base);
    close_world(&w);
}
END_TEST

/* ---------------------------------------------------------------- pictures */

static struct {
    double done[64];
    int calls, stop_at;
} told;

static int tell(void *ctx, double done, double total) {
    ck_assert(ctx == &told && total == 5);
    told.done[told.calls++] = done;
    return told.calls == told.stop_at;
}

static const ds_sample_options two_steps = {
    .sampler = DS_SAMPLER_DDIM, .steps = 2, .guide = {1, 1}, .seed = 3};

/* 127.5 x + 128 without its fraction, 0 to 255; planes become colours; in the order of the
 * requests. */
START_TEST(pixels_of_numbers) {
    enum { N = 5 };
    static float raw[N * 4 * PLANE];
    static uint8_t shown[N * 4 * PLANE];
    world w = open_world(4, 3, 0); /* no limit on a latent's numbers */
    ds_net *net = net_of(&w, w.other, 2);
    ds_sample_request q[N];
    int low = 0, high = 0;
    for (int i = 0; i < N; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i, .label = i % 3};
    ck_assert_int_eq(ds_sample(shown, raw, net, NULL, &two_steps, q, N, tell, &told, NULL), 0);
    for (int i = 0; i < N; i++)
        for (int c = 0; c < 4; c++)
            for (int j = 0; j < PLANE; j++) {
                float x = 127.5f * raw[(i * 4 + c) * PLANE + j] + 128.0f;
                int want = x < 0 ? 0 : x >= 255 ? 255 : (int)x;
                ck_assert_int_eq(shown[(i * PLANE + j) * 4 + c], want);
                low += x < 0;
                high += x > 255;
            }
    ck_assert(low > 10 && high > 10);
    /* two, two and one: the share of each batch's steps */
    static const double want[] = {1, 2, 3, 4, 4.5, 5};
    ck_assert_int_eq(told.calls, 6);
    for (int i = 0; i < 6; i++)
        ck_assert(told.done[i] == want[i]);
    /* each the same alone; and the numbers are not asked for, or the pictures */
    for (int i = 0; i < N; i++) {
        float one[4 * PLANE];
        uint8_t seen[4 * PLANE];
        ck_assert_int_eq(ds_sample(NULL, one, net, NULL, &two_steps, &q[i], 1, NULL, NULL, NULL),
                         0);
        ck_assert_int_eq(ds_sample(seen, NULL, net, NULL, &two_steps, &q[i], 1, NULL, NULL, NULL),
                         0);
        ck_assert(!memcmp(one, raw + i * 4 * PLANE, sizeof one));
        ck_assert(!memcmp(seen, shown + i * 4 * PLANE, sizeof seen));
    }
    ds_net_free(net);
    close_world(&w);
}
END_TEST

/* Told to stop, it stops there and says so; what was made before is there, what comes after is
 * not. */
START_TEST(a_stop_is_an_error) {
    enum { N = 5 };
    static uint8_t shown[N * ONE], before[N * ONE];
    world w = open_world(3, 0, 1);
    ds_net *net = net_of(&w, w.other, 2);
    ds_sample_request q[N] = {{.index = 0}, {.index = 1}, {.index = 2}, {.index = 3}, {.index = 4}};
    ds_error err;
    for (int at = 1; at <= 4; at++) {
        memset(shown, 7, sizeof shown);
        memset(before, 7, sizeof before);
        told.calls = 0;
        told.stop_at = at;
        ck_assert_int_eq(ds_sample(shown, NULL, net, NULL, &two_steps, q, N, tell, &told, &err),
                         DS_ECANCELED);
        ck_assert_str_eq(err.message, "sampling was stopped");
        ck_assert_int_eq(told.calls, at);
        size_t kept = at > 2 ? 2 * ONE : 0; /* after two steps two pictures are whole */
        ck_assert(!memcmp(shown + kept, before + kept, sizeof shown - kept));
        ck_assert(!kept || memcmp(shown, before, kept));
    }
    ds_net_free(net);
    close_world(&w);
}
END_TEST

/* No batch is larger than what the base's net takes. */
START_TEST(a_small_base_makes_small_batches) {
    world w = open_world(3, 0, 1);
    ds_net *net = net_of(&w, w.other, 4), *small = net_of(&w, NULL, 1),
           *large = net_of(&w, NULL, 9);
    ds_sample_request q[3] = {{.index = 0}, {.index = 1}, {.index = 2}};
    ds_sample_options o = two_steps;
    o.guide = (ds_guidance){2, 2};
    watch(w.dev);
    ck_assert_int_eq(ds_sample(NULL, NULL, net, small, &o, q, 3, NULL, NULL, NULL), 0);
    ck_assert(step_count == 6 && steps[0].B == 1 && steps[5].B == 1);
    step_count = draw_count = 0;
    ck_assert_int_eq(ds_sample(NULL, NULL, net, large, &o, q, 3, NULL, NULL, NULL), 0);
    ck_assert(step_count == 2 && steps[0].B == 3);
    w.dev->ops = real;
    ds_net_free(net);
    ds_net_free(small);
    ds_net_free(large);
    close_world(&w);
}
END_TEST

/* Modulations of all steps at once, of as many as there is room for, or of each step alone. */
START_TEST(modulations_that_are_kept) {
    static const struct {
        int rows, times;
    } tables[] = {{0, 1}, {8, 1}, {1000, 1}, {4, 2}, {6, 2}, {2, 4}, {-1, 4}, {1, 4}};
    world w = open_world(3, 0, 1);
    ds_net *net = net_of(&w, w.other, 2);
    ds_sample_request q[2] = {{.index = 0, .label = 0}, {.index = 1, .label = 1}};
    ds_sample_options o = two_steps;
    o.steps = 4;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        o.table_rows = tables[i].rows;
        watch(w.dev);
        ck_assert_int_eq(ds_sample(NULL, NULL, net, NULL, &o, q, 2, NULL, NULL, NULL), 0);
        w.dev->ops = real;
        ck_assert_msg(embeddings == tables[i].times, "%d rows: %d times", tables[i].rows,
                      embeddings);
    }
    ds_net_free(net);
    close_world(&w);
}
END_TEST

/* ---------------------------------------------------------------- what is refused */

START_TEST(requests_that_are_refused) {
    world w = open_world(3, 0, 1);
    const ds_adapter *list[] = {w.other, w.fresh};
    ds_net *net = net_of(&w, w.other, 2), *base = net_of(&w, NULL, 2), *several;
    ck_assert_int_eq(ds_net_new(&several, w.model, DS_NET_FOLDED, list, 2, 2, NULL), 0);
    static const struct {
        ds_sample_request q;
        ds_guidance guide;
        int steps, several, base; /* base: there is one */
        const char *says;         /* NULL: is right */
    } cases[] = {
        {{.label = 2}, {1, 1}, 1, 0, 0, NULL},
        {{.label = 3}, {1, 1}, 1, 0, 0, "class 3 does not exist: there are 3"},
        {{.label = -1}, {1, 1}, 1, 0, 0, NULL},
        {{.label = 3, .base = 1}, {1, 1}, 1, 1, 0, NULL},
        {{.label = 4, .base = 1}, {1, 1}, 1, 1, 0, "class 4 does not exist: there are 4"},
        {{.label = 2, .task = 1}, {1, 1}, 1, 1, 0, NULL},
        {{.label = 3, .task = 1}, {1, 1}, 1, 1, 0, "class 3"},
        {{.label = 0, .task = 9}, {1, 1}, 1, 0, 0, NULL}, /* it has one only */
        {{.label = 0}, {1, 0}, 1, 0, 0, NULL},
        {{.label = 0}, {1, 100}, 1, 0, 0, NULL},
        {{.label = 0}, {100, 0}, 1, 0, 1, NULL},
        {{.label = 0}, {1, -0.01}, 1, 0, 0, "guidance is -0.01, must be 0 to 100"},
        {{.label = 0}, {-0.01, 1}, 1, 0, 1, "guidance is -0.01, must be 0 to 100"},
        {{.label = 0}, {1, 100.5}, 1, 0, 0, "guidance is 100.5"},
        {{.label = 0}, {100.5, 1}, 1, 0, 1, "guidance is 100.5"},
        {{.label = 0}, {1, NAN}, 1, 0, 0, "guidance is "},
        {{.label = 0}, {NAN, 1}, 1, 0, 1, "guidance is "},
        {{.label = 0}, {2, 2}, 1, 0, 1, NULL},
        {{.label = 0}, {2, 2}, 1, 0, 0, "domain guidance needs the base"},
        {{.label = -1}, {2, 1}, 1, 0, 0, "domain guidance needs the base"},
        {{.label = 0}, {1, 2}, 1, 0, 0, NULL},
        {{.label = 0}, {1, 1}, 0, 0, 0, "sampling steps are 0, must be 1 to 1000"},
        {{.label = 0}, {1, 1}, 1001, 0, 0, "sampling steps are 1001"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_sample_options o = {
            .sampler = DS_SAMPLER_DDIM, .steps = cases[i].steps, .guide = cases[i].guide};
        ds_sample_request q[2] = {{.label = 0}, cases[i].q}; /* the last one counts too */
        ds_error err = {0};
        int rc = ds_sample(NULL, NULL, cases[i].several ? several : net,
                           cases[i].base ? base : NULL, &o, q, 2, NULL, NULL, &err);
        ck_assert_msg(rc == (cases[i].says ? DS_EINVAL : 0), "case %zu: %d %s", i, rc, err.message);
        if (rc)
            ck_assert_msg(strstr(err.message, cases[i].says) != NULL, "case %zu: %s", i,
                          err.message);
    }
    ds_net_free(net);
    ds_net_free(base);
    ds_net_free(several);
    close_world(&w);
}
END_TEST

/* The n-th allocation finds no room. */
static void *(*alloc)(ds_device *dev, size_t bytes);
static int alloc_fails;

static void *failing_alloc(ds_device *dev, size_t bytes) {
    return --alloc_fails ? alloc(dev, bytes) : NULL;
}

START_TEST(no_room_is_said) {
    world w = open_world(3, 0, 1);
    ds_net *net = net_of(&w, w.other, 2);
    ds_sample_request q = {.label = 1};
    float raw[ONE], want[ONE];
    ds_error err;
    ck_assert_int_eq(ds_sample(NULL, want, net, NULL, &two_steps, &q, 1, NULL, NULL, NULL), 0);
    alloc = w.dev->alloc;
    w.dev->alloc = failing_alloc;
    for (int n = 1; n <= 4; n++) { /* x, out, x0_prev, noise */
        alloc_fails = n;
        raw[0] = 99;
        ck_assert_msg(ds_sample(NULL, raw, net, NULL, &two_steps, &q, 1, NULL, NULL, &err) ==
                          DS_ENOMEM,
                      "the allocation %d", n);
        ck_assert_str_eq(err.message, "no room to sample 2 images at a time");
        ck_assert(raw[0] == 99);
    }
    alloc_fails = 5; /* the table of modulations: it goes on without */
    ck_assert_int_eq(ds_sample(NULL, raw, net, NULL, &two_steps, &q, 1, NULL, NULL, &err), 0);
    ck_assert(!memcmp(raw, want, sizeof raw));
    w.dev->alloc = alloc;
    ds_net_free(net);
    close_world(&w);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, coefficients_of_each_step, 0, 24);
    tcase_add_test(tc, names_and_batches);
    tcase_add_test(tc, what_guides);
    tcase_add_loop_test(tc, guided_bytes, 0, 6);
    tcase_add_test(tc, guidance_rests_below_a_level);
    tcase_add_test(tc, pictures_mix_as_outputs);
    tcase_add_test(tc, pixels_of_numbers);
    tcase_add_test(tc, a_stop_is_an_error);
    tcase_add_test(tc, a_small_base_makes_small_batches);
    tcase_add_test(tc, modulations_that_are_kept);
    tcase_add_test(tc, requests_that_are_refused);
    tcase_add_test(tc, no_room_is_said);
}

int main(void) { return ds_test_main("engine sampler", cases); }
