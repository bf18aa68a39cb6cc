/* engine/diffusion/sampler.c - DDPM, DDIM and DPM-Solver++(2M) with guidance. */
#include "engine/diffusion/sampler.h"
#include "base/mem.h"
#include "base/rng.h"
#include "contract/options.h"
#include "engine/diffusion/diffusion.h"
#include "engine/diffusion/flow.h"
#include "engine/model/net.h"
#include "engine/diffusion/sampler_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const sampler_names[] = {DS_SAMPLERS(DS_WORD_AT)};
static const char *const guidance_names[] = {DS_GUIDANCES(DS_WORD_AT)};

const char *ds_sampler_name(enum ds_sampler s) { return sampler_names[s]; }
const char *ds_guidance_name(enum ds_guidance_mode m) { return guidance_names[m]; }

ds_guidance ds_guidance_of(enum ds_guidance_mode m, double w) {
    return (ds_guidance){.domain = m == DS_GUIDANCE_DOMAIN ? w : 1,
                         .classes = m == DS_GUIDANCE_NONE ? 1 : w};
}

int ds_guidance_needs_base(ds_guidance g) { return g.domain != 1; }
static int needs_null(ds_guidance g) { return g.classes != g.domain; }

int ds_guidance_passes(ds_guidance g, int has_class) {
    return 1 + ds_guidance_needs_base(g) + (has_class && needs_null(g));
}

/* s/(a + s) of step k: how much of x is noise, on every path. */
static double noise_level(const ds_schedule *s, const ds_facts *c, int k) {
    if (c->flow.path == DS_FLOW_NONE) {
        double a = sqrt(s->alpha_bar[k]), noise = sqrt(1 - s->alpha_bar[k]);
        return noise / (a + noise);
    }
    const ds_flow_point p = ds_flow_at(c->flow.path, s->level[k]);
    return p.s / (p.a + p.s);
}

int ds_guidance_share(double low, const ds_facts *c, int steps, double *share, ds_error *err) {
    ds_schedule s;
    int rc = ds_schedule_respace(&s, c, steps, err), guided = 0;
    if (rc)
        return rc;
    for (int k = 0; k < s.steps; k++)
        guided += noise_level(&s, c, k) >= low;
    *share = (double)guided / s.steps;
    ds_schedule_release(&s);
    return 0;
}

int ds_sample_batch(const ds_sample_options *o, int net_batch) {
    int n = needs_null(o->guide) ? net_batch / 2 : net_batch;
    return n > 0 ? n : 1;
}

/* A net, and what it is asked in every step. */
typedef struct {
    ds_net *net;
    ds_window *window; /* its modulations, or NULL */
    ds_net_sample *samples;
    float *out; /* device: its answers, in the order of the samples */
} ds_side;

/* One pass over a batch of B images; device buffers of that size. */
typedef struct {
    const ds_facts *c;
    const ds_sample_options *o;
    ds_schedule s;
    size_t px, outpx; /* elements of an image, of a model output */
    ds_side own;      /* 2B: the conditions, then the null rows that guide */
    ds_side base;     /* B; net NULL: it does not guide */
    float *x;         /* device: (2B,C,S,S): the images, then again those that have a null row */
    float *x0_prev, *noise; /* device: (B,C,S,S) */
    uint32_t *noise_step;   /* B, for the op that makes noise */
    uint64_t *noise_index;
    float *host;     /* (B,C,S,S) */
    int B, N, twice; /* N: null rows; twice: own's in one pass, x holds their images twice */
    int rests;       /* guidance, in the step at hand and in those after it */
} ds_run;

static int has_null(const ds_run *r, const ds_sample_request *q) {
    return needs_null(r->o->guide) && q->label >= 0;
}

/* What requests ask for.  The timestep is set in every step. */
static void samples_of(const ds_facts *c, ds_net_sample *samples, const ds_sample_request *q,
                       int n) {
    for (int i = 0; i < n; i++) {
        ds_net_sample s = {.row = -1, .base_row = c->classes, .task = q[i].base ? -1 : q[i].task};
        if (q[i].label >= 0 && q[i].base)
            s.base_row = q[i].label;
        else if (q[i].label >= 0)
            s.row = q[i].label, s.base_row = -1;
        samples[i] = s;
    }
}

/* The null class of the adapter, for those that it guides; their number. */
static int nulls_of(const ds_run *r, ds_net_sample *samples, const ds_sample_request *q, int n) {
    int count = 0;
    for (int i = 0; i < n; i++) {
        ds_sample_request null = q[i];
        null.label = -1;
        if (has_null(r, &q[i]))
            samples_of(r->c, &samples[count++], &null, 1);
    }
    return count;
}

/* The null class of the base. */
static void bases_of(const ds_facts *c, ds_net_sample *samples, int n) {
    for (int i = 0; i < n; i++)
        samples[i] = (ds_net_sample){.row = -1, .base_row = c->classes, .task = -1};
}

static void pass(ds_run *r, const ds_side *d, int first, int n, int k) {
    float *out = d->out + (size_t)first * r->outpx;
    if (n && !ds_window_forward(d->window, out, r->x, first, n, k)) {
        for (int i = first; i < first + n; i++)
            d->samples[i].t = r->s.time[k];
        ds_net_forward(d->net, out, &(ds_net_input){.x = r->x, .samples = d->samples + first}, n);
    }
}

/* Model outputs in step k for the images in r->x.  Noise levels fall from step to step: once
 * guidance rests, the images of null rows are not kept any more. */
static void predict(ds_run *r, int k) {
    r->rests = noise_level(&r->s, r->c, k) < r->o->guide_low;
    if (r->rests) {
        pass(r, &r->own, 0, r->B, k);
        return;
    }
    pass(r, &r->own, 0, r->twice ? r->B + r->N : r->B, k);
    if (!r->twice)
        pass(r, &r->own, r->B, r->N, k);
    if (r->base.net)
        pass(r, &r->base, 0, r->B, k);
}

/* The numbers are those of ds_rng_normal.  nulls: for those with a null row only. */
static void noise(ds_run *r, const ds_sample_request *q, uint32_t step, int nulls, float *dst) {
    ds_device *dev = ds_net_device(r->own.net);
    int n = 0;
    for (int i = 0; i < r->B; i++)
        if (!nulls || has_null(r, &q[i])) {
            r->noise_step[n] = step;
            r->noise_index[n++] = q[i].index;
        }
    if (n)
        dev->ops->normal(dev, dst, r->o->seed, DS_STREAM_SAMPLE, r->noise_step, r->noise_index, n,
                         r->px);
}

static int is_flow(const ds_run *r) { return r->c->flow.path != DS_FLOW_NONE; }

int ds_sampler_check(enum ds_sampler s, const ds_facts *c, ds_error *err) {
    return ds_sampler_word_check(ds_sampler_name(s), c->flow.path != DS_FLOW_NONE, err);
}

/* log a/s of step k.  A flow's level 1 has -infinity: the formulas are of first order there. */
static double lambda_of(const ds_run *r, int k) {
    if (!is_flow(r))
        return 0.5 * log(r->s.alpha_bar[k] / (1 - r->s.alpha_bar[k]));
    const ds_flow_point p = ds_flow_at(r->c->flow.path, r->s.level[k]);
    return log(p.a / p.s);
}

/* From step k to k-1 (or to the clean image): x_t = (s_t/s_s) x_s - a_t (e^-h - 1) D, with D
 * extrapolated from the last two x0; the last step is first order.  ratio: s_t/s_s; a: a_t. */
static void dpmpp2m_coefficients(ds_step *p, const ds_run *r, int k, double ratio, double a) {
    double h = lambda_of(r, k - 1) - lambda_of(r, k);
    p->ratio = ratio;
    p->gain = -a * expm1(-h);
    p->c_now = 1;
    if (k < r->s.steps - 1) {
        double q = (lambda_of(r, k) - lambda_of(r, k + 1)) / h;
        p->c_now = 1 + 1 / (2 * q);
        p->c_before = -1 / (2 * q);
    }
}

static void noise_coefficients(ds_step *p, const ds_run *r, int k) {
    const ds_schedule *s = &r->s;
    p->kind = r->o->sampler == DS_SAMPLER_DDPM   ? DS_STEP_DDPM
              : r->o->sampler == DS_SAMPLER_DDIM ? DS_STEP_DDIM
                                                 : DS_STEP_DPMPP2M;
    p->learned = r->c->learn_sigma;
    p->a = (float)sqrt(s->alpha_bar[k]);
    p->b = (float)sqrt(1 - s->alpha_bar[k]);
    p->a_prev = (float)sqrt(s->alpha_bar_prev[k]);
    p->b_prev = (float)sqrt(1 - s->alpha_bar_prev[k]);
    p->mean_x0 = s->mean_x0[k];
    p->mean_xt = s->mean_xt[k];
    p->log_variance = s->posterior_log_variance[k];
    p->log_beta = s->log_beta[k];
    if (p->kind == DS_STEP_DPMPP2M && !p->last)
        dpmpp2m_coefficients(p, r, k, sqrt((1 - s->alpha_bar[k - 1]) / (1 - s->alpha_bar[k])),
                             sqrt(s->alpha_bar[k - 1]));
}

/* With x = a x0 + s e at level u and its velocity a' x0 + s' e, a step by d = u' - u < 0 is
 *   euler  (a + d a') x0 + (s + d s') e
 *   sde    the same + d (w/2) e/s + sqrt(-w d) noise, w = s: the score is -e/s.  Its last step is
 *          euler's: with the score, but no noise after it, it would leave a part of -e
 *   heun   euler, then half of d times the velocity there, from the middle of before and after. */
static void flow_coefficients(ds_step *p, const ds_run *r, int k) {
    const ds_flow *flow = &r->c->flow;
    const double u = r->s.level[k], d = (k ? r->s.level[k - 1] : 0) - u;
    const ds_flow_point at = ds_flow_at(flow->path, u);
    const double det = at.a * at.ds - at.s * at.da;
    const int sde = r->o->sampler == DS_SAMPLER_SDE && !p->last;
    p->velocity = 1;
    p->a = (float)at.a;
    p->b = (float)at.s;
    p->x0_x = (float)(at.ds / det);
    p->x0_v = (float)(-ds_flow_sign(flow) * at.s / det);
    p->kind = r->o->sampler == DS_SAMPLER_DPMPP2M ? DS_STEP_DPMPP2M : DS_STEP_DDIM;
    p->a_prev = (float)(at.a + d * at.da);
    p->b_prev = (float)(at.s + d * at.ds + (sde ? d / 2 : 0));
    p->spread = sde ? (float)sqrt(-at.s * d) : 0;
    p->keep = r->o->sampler == DS_SAMPLER_HEUN && !p->last;
    if (p->kind == DS_STEP_DPMPP2M && !p->last) {
        const ds_flow_point to = ds_flow_at(flow->path, r->s.level[k - 1]);
        dpmpp2m_coefficients(p, r, k, to.s / at.s, to.a);
    }
}

/* The second half of a step of heun to level k. */
static void heun_coefficients(ds_step *p, const ds_run *r, int k) {
    const ds_flow_point at = ds_flow_at(r->c->flow.path, r->s.level[k]);
    const double half = (r->s.level[k] - r->s.level[k + 1]) / 2;
    flow_coefficients(p, r, k);
    p->kind = DS_STEP_HEUN;
    p->keep = 0;
    p->a_prev = (float)(half * at.da);
    p->b_prev = (float)(half * at.ds);
}

static ds_step coefficients(const ds_run *r, int k, int second) {
    const size_t plane = (size_t)r->c->side * (size_t)r->c->side;
    size_t channels = (size_t)(r->c->guidance_channels ? r->c->guidance_channels : r->c->channels);
    ds_step p = {.pixel = r->c->pixel,
                 .last = k == 0,
                 .limit = channels * plane,
                 .domain = (float)r->o->guide.domain,
                 .classes = (float)r->o->guide.classes};
    if (second)
        heun_coefficients(&p, r, k);
    else if (is_flow(r))
        flow_coefficients(&p, r, k);
    else
        noise_coefficients(&p, r, k);
    return p;
}

/* The op for images first .. first+n-1, whose null rows are those from `null` on, or none. */
static void step_some(ds_run *r, const ds_step *p, int draws, int first, int n, int null) {
    ds_device *dev = ds_net_device(r->own.net);
    const size_t at = (size_t)first, behind = (size_t)(r->B + null);
    dev->ops->sampler_step(dev, r->x + at * r->px,
                           null >= 0 && r->twice ? r->x + behind * r->px : NULL,
                           r->x0_prev + at * r->px, r->own.out + at * r->outpx,
                           null >= 0 ? r->own.out + behind * r->outpx : NULL,
                           r->base.net && !r->rests ? r->base.out + at * r->outpx : NULL,
                           draws ? r->noise + at * r->px : NULL, p, n, r->px, r->outpx);
}

static int guided_by_null(const ds_run *r, const ds_sample_request *q) {
    return !r->rests && has_null(r, q);
}

/* From step k to k-1 on the device, or the second half of the step to k: one call for neighbours
 * that all have a null row, or none. */
static void step(ds_run *r, const ds_sample_request *q, int k, int second) {
    const ds_step p = coefficients(r, k, second);
    const int draws = (p.kind == DS_STEP_DDPM && !p.last) || p.spread > 0;
    if (draws)
        noise(r, q, (uint32_t)(is_flow(r) ? k : r->s.t[k]), 0, r->noise);
    for (int first = 0, end, null = 0; first < r->B; first = end) {
        const int guided = guided_by_null(r, &q[first]);
        for (end = first + 1; end < r->B && guided_by_null(r, &q[end]) == guided;)
            end++;
        step_some(r, &p, draws, first, end - first, guided ? null : -1);
        null += guided ? end - first : 0;
    }
}

static int run_batch(ds_run *r, const ds_sample_request *q, double done, double total,
                     ds_progress *progress, void *ctx, ds_error *err) {
    ds_device *dev = ds_net_device(r->own.net);
    samples_of(r->c, r->own.samples, q, r->B);
    r->N = nulls_of(r, r->own.samples + r->B, q, r->B);
    r->twice = r->B + r->N <= ds_net_batch(r->own.net);
    DS_ASSERT(r->twice || r->B == 1);
    noise(r, q, 0xffffffffu, 0, r->x);
    if (r->twice)
        noise(r, q, 0xffffffffu, 1, r->x + (size_t)r->B * r->px);
    ds_window_batch(r->own.window, r->own.samples, 0, r->B + r->N);
    ds_window_batch(r->base.window, r->base.samples, 0, r->B);
    for (int k = r->s.steps - 1; k >= 0; k--) {
        predict(r, k);
        step(r, q, k, 0);
        if (k && r->o->sampler == DS_SAMPLER_HEUN) {
            predict(r, k - 1);
            step(r, q, k - 1, 1);
        }
        double share = (double)(r->s.steps - k) / r->s.steps;
        if (progress && progress(ctx, done + share * r->B, total))
            return ds_fail(err, DS_ECANCELED, "sampling was stopped");
    }
    dev->download(dev, r->host, r->x, (size_t)r->B * r->px * sizeof(float));
    return 0;
}

/* Image i of the batch goes to place[i] of out. */
static void to_pixels(uint8_t *out, const ds_run *r, const int *place) {
    const size_t plane = (size_t)r->c->side * (size_t)r->c->side, C = (size_t)r->c->channels;
    for (size_t i = 0; i < (size_t)r->B; i++)
        for (size_t c = 0; c < C; c++)
            for (size_t j = 0; j < plane; j++) {
                float v = 127.5f * r->host[i * r->px + c * plane + j] + 128.0f;
                out[((size_t)place[i] * plane + j) * C + c] = (uint8_t)(v < 0     ? 0
                                                                        : v > 255 ? 255
                                                                                  : v);
            }
}

static int run_open(ds_run *r, int batch, ds_error *err) {
    ds_device *dev = ds_net_device(r->own.net);
    size_t n = (size_t)batch, own = needs_null(r->o->guide) ? 2 * n : n;
    r->px = ds_facts_in(r->c);
    r->outpx = ds_facts_out(r->c);
    r->x = dev->alloc(dev, own * r->px * sizeof(float));
    r->own.out = dev->alloc(dev, (own + (r->base.net ? n : 0)) * r->outpx * sizeof(float));
    r->x0_prev = dev->alloc(dev, n * r->px * sizeof(float));
    r->noise = dev->alloc(dev, n * r->px * sizeof(float));
    if (!r->x || !r->own.out || !r->x0_prev || !r->noise)
        return ds_fail(err, DS_ENOMEM, "no room to sample %d images at a time", batch);
    r->base.out = r->own.out + own * r->outpx;
    r->host = ds_xmalloc(n * r->px * sizeof(float));
    r->own.samples = ds_xmalloc(own * sizeof *r->own.samples);
    r->base.samples = ds_xmalloc(n * sizeof *r->base.samples);
    bases_of(r->c, r->base.samples, batch);
    r->noise_step = ds_xmalloc(n * sizeof *r->noise_step);
    r->noise_index = ds_xmalloc(n * sizeof *r->noise_index);
    return 0;
}

size_t ds_sample_table_bytes(const ds_base *base, const ds_device *dev, int net_batch) {
    int rows = ds_window_rows(base, dev);
    return rows ? ds_net_table_bytes(base, dev, rows, net_batch) : 0;
}

/* Modulations of all that will be asked for. */
static void open_windows(ds_run *r, int batch, const ds_sample_request *q, int n) {
    ds_net *net = r->own.net;
    int rows = ds_window_rows(ds_net_base(net), ds_net_device(net)), limit = r->o->table_rows;
    ds_net_sample *all = ds_xmalloc(2 * (size_t)n * sizeof *all);
    samples_of(r->c, all, q, n);
    int count = n + nulls_of(r, all + n, q, n);
    if (limit)
        rows = limit < rows ? limit : rows;
    r->own.window = ds_window_new(net, &r->s, all, count, 2 * batch, rows);
    if (r->base.net)
        r->base.window = ds_window_new(r->base.net, &r->s, r->base.samples, 1, batch, rows);
    free(all);
}

static void run_close(ds_run *r) {
    ds_device *dev = ds_net_device(r->own.net);
    float *device[] = {r->x, r->own.out, r->x0_prev, r->noise};
    ds_window_free(r->own.window);
    ds_window_free(r->base.window);
    ds_device_forget(dev, r->own.net); /* what was recorded over these buffers */
    if (r->base.net)
        ds_device_forget(dev, r->base.net);
    for (int i = 0; i < 4; i++)
        dev->free(dev, device[i]);
    free(r->host);
    free(r->own.samples);
    free(r->base.samples);
    free(r->noise_step);
    free(r->noise_index);
    ds_schedule_release(&r->s);
}

static int check(const ds_net *net, const ds_net *base, const ds_sample_options *o,
                 const ds_sample_request *q, int n, ds_error *err) {
    const double weights[] = {o->guide.domain, o->guide.classes};
    for (int i = 0; i < 2; i++)
        if (!(weights[i] >= 0 && weights[i] <= 100))
            return ds_fail(err, DS_EINVAL, "guidance is %g, must be 0 to 100", weights[i]);
    if (!(o->guide_low >= 0 && o->guide_low <= 1))
        return ds_fail(err, DS_EINVAL, "guidance rests below a noise level of 0 to 1, not %g",
                       o->guide_low);
    int rc = ds_sampler_check(o->sampler, &ds_net_base(net)->facts, err);
    if (rc)
        return rc;
    if (ds_guidance_needs_base(o->guide) && !base)
        return ds_fail(err, DS_EINVAL, "domain guidance needs the base beside the adapter");
    for (int i = 0; i < n; i++) {
        int task = ds_net_several(net) ? q[i].task : 0;
        int rows = q[i].base ? ds_net_base(net)->facts.classes : ds_net_classes(net, task);
        if (q[i].label >= rows)
            return ds_fail(err, DS_EINVAL, "class %d does not exist: there are %d", q[i].label,
                           rows);
    }
    return 0;
}

/* place[i]: which request is sampled as the i-th.  In a folded net those of a task follow each
 * other, since neighbours share its weights; a sample does not depend on them. */
static int *places(const ds_net *net, const ds_sample_request *q, int n) {
    const int folded = ds_net_kind_of(net) == DS_NET_FOLDED, tasks = ds_net_tasks(net);
    int *place = ds_xmalloc(((size_t)n + 1) * sizeof *place), count = 0;
    for (int i = 0; !folded && i < n; i++)
        place[count++] = i;
    for (int set = 0; folded && set <= tasks; set++) /* last: the base */
        for (int i = 0; i < n; i++)
            if ((q[i].base ? tasks : q[i].task) == set)
                place[count++] = i;
    DS_ASSERT(count == n);
    return place;
}

int ds_sample(uint8_t *pixels, float *raw, ds_net *net, ds_net *base, const ds_sample_options *opt,
              const ds_sample_request *requests, int n, ds_progress *progress, void *ctx,
              ds_error *err) {
    ds_run r = {.c = &ds_net_base(net)->facts, .o = opt, .own.net = net};
    int batch = ds_sample_batch(opt, ds_net_batch(net)),
        rc = check(net, base, opt, requests, n, err);
    if (ds_guidance_needs_base(opt->guide))
        r.base.net = base;
    if (r.base.net && batch > ds_net_batch(base))
        batch = ds_net_batch(base);
    if (!rc)
        rc = ds_schedule_respace(&r.s, r.c, opt->steps, err);
    if (!rc)
        rc = run_open(&r, batch, err);
    int *place = places(net, requests, n);
    ds_sample_request *q = ds_xmalloc(((size_t)n + 1) * sizeof *q);
    for (int i = 0; i < n; i++)
        q[i] = requests[place[i]];
    if (!rc)
        open_windows(&r, batch, q, n);
    for (int first = 0; !rc && first < n; first += batch) {
        r.B = n - first < batch ? n - first : batch;
        rc = run_batch(&r, q + first, first, n, progress, ctx, err);
        if (!rc && pixels)
            to_pixels(pixels, &r, place + first);
        for (int i = 0; !rc && raw && i < r.B; i++)
            memcpy(raw + (size_t)place[first + i] * r.px, r.host + (size_t)i * r.px,
                   r.px * sizeof(float));
    }
    free(place);
    free(q);
    run_close(&r);
    return rc;
}
