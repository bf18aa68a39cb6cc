/* engine/diffusion/sampler.c - DDPM, DDIM and DPM-Solver++(2M) with guidance. */
#include "engine/diffusion/sampler.h"
#include "base/mem.h"
#include "base/rng.h"
#include "contract/options.h"
#include "engine/diffusion/diffusion.h"
#include "engine/model/net.h"
#include "engine/diffusion/sampler_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const sampler_names[] = {DS_SAMPLERS(DS_WORD_AT)};
static const char *const guidance_names[] = {DS_GUIDANCES(DS_WORD_AT)};

const char *ds_sampler_name(enum ds_sampler s) { return sampler_names[s]; }
const char *ds_guidance_name(enum ds_guidance g) { return guidance_names[g]; }

static int guided(const ds_sample_options *o) {
    return o->mode != DS_GUIDANCE_NONE && o->guidance != 1.0;
}

int ds_sample_batch(const ds_sample_options *o, int net_batch) {
    int n = guided(o) && o->mode == DS_GUIDANCE_CFG ? net_batch / 2 : net_batch;
    return n > 0 ? n : 1;
}

/* One pass over a batch of B images; device buffers of that size. */
typedef struct {
    ds_net *net, *base;
    const ds_facts *c;
    const ds_sample_options *o;
    ds_schedule s;
    size_t px, outpx;       /* elements of an image, of a model output */
    float *x, *out;         /* device: (2B,C,S,S) twice the images for cfg, (2B,outC,S,S) */
    float *x0_prev, *noise; /* device: (B,C,S,S) */
    uint32_t *noise_step;   /* B, for the op that makes noise */
    uint64_t *noise_index;
    float *host;                     /* (B,C,S,S) */
    ds_net_sample *samples;          /* 2B */
    ds_window *window, *base_window; /* modulations of net and base, or NULL */
    int B, both; /* both: conditional and unconditional in one pass, x holds the images twice */
} ds_run;

/* What requests ask for, and what guides them: the null class of the adapter or of the base.  The
 * timestep is set in every step. */
static void samples_of(const ds_facts *c, ds_net_sample *samples, ds_net_sample *guide,
                       const ds_sample_request *q, int n) {
    for (int i = 0; i < n; i++) {
        ds_net_sample s = {.row = -1, .base_row = c->classes, .task = q[i].base ? -1 : q[i].task};
        guide[i] = s;
        if (q[i].label >= 0 && q[i].base)
            s.base_row = q[i].label;
        else if (q[i].label >= 0)
            s.row = q[i].label, s.base_row = -1;
        samples[i] = s;
    }
}

static void pass(ds_run *r, ds_net *net, ds_window *w, int first, int n, int k) {
    float *out = r->out + (size_t)first * r->outpx;
    if (!ds_window_forward(w, out, r->x, first, n, k)) {
        for (int i = first; i < first + n; i++)
            r->samples[i].t = (float)r->s.t[k];
        ds_net_forward(net, out, &(ds_net_input){.x = r->x, .samples = r->samples + first}, n);
    }
}

/* Model output in step k for the images in r->x: out, and behind it that of the guide. */
static void predict(ds_run *r, int k) {
    const int g = guided(r->o), cfg = r->o->mode == DS_GUIDANCE_CFG;
    pass(r, r->net, r->window, 0, r->both ? 2 * r->B : r->B, k);
    if (g && !r->both)
        pass(r, cfg ? r->net : r->base, cfg ? r->window : r->base_window, r->B, r->B, k);
}

/* The numbers are those of ds_rng_normal. */
static void noise(ds_run *r, const ds_sample_request *q, uint32_t step, float *dst) {
    ds_device *dev = ds_net_device(r->net);
    for (int i = 0; i < r->B; i++) {
        r->noise_step[i] = step;
        r->noise_index[i] = q[i].index;
    }
    dev->ops->normal(dev, dst, r->o->seed, DS_STREAM_SAMPLE, r->noise_step, r->noise_index, r->B,
                     r->px);
}

static double lambda_of(double alpha_bar) { return 0.5 * log(alpha_bar / (1 - alpha_bar)); }

/* From step k to k-1 (or to the clean image): x_t = (sigma_t/sigma_s) x_s - alpha_t (e^-h - 1) D,
 * with D extrapolated from the last two x0; the last step is first order. */
static void dpmpp2m_coefficients(ds_step *p, const ds_schedule *s, int k) {
    if (k == 0)
        return;
    double from = s->alpha_bar[k], to = s->alpha_bar[k - 1];
    double h = lambda_of(to) - lambda_of(from);
    p->ratio = sqrt((1 - to) / (1 - from));
    p->gain = -sqrt(to) * expm1(-h);
    p->c_now = 1;
    if (k < s->steps - 1) {
        double before = lambda_of(from) - lambda_of(s->alpha_bar[k + 1]), q = before / h;
        p->c_now = 1 + 1 / (2 * q);
        p->c_before = -1 / (2 * q);
    }
}

_Static_assert((int)DS_SAMPLER_DDPM == DS_STEP_DDPM && (int)DS_SAMPLER_DDIM == DS_STEP_DDIM &&
                   (int)DS_SAMPLER_DPMPP2M == DS_STEP_DPMPP2M,
               "a sampler is the kind of its steps");

static ds_step coefficients(const ds_run *r, int k) {
    const ds_schedule *s = &r->s;
    const size_t plane = (size_t)r->c->side * (size_t)r->c->side;
    size_t channels = (size_t)(r->c->guidance_channels ? r->c->guidance_channels : r->c->channels);
    ds_step p = {.kind = (enum ds_step_kind)r->o->sampler,
                 .guided = guided(r->o),
                 .pixel = r->c->pixel,
                 .learned = r->c->learn_sigma,
                 .last = k == 0,
                 .limit = channels * plane,
                 .guidance = (float)r->o->guidance,
                 .a = (float)sqrt(s->alpha_bar[k]),
                 .b = (float)sqrt(1 - s->alpha_bar[k]),
                 .a_prev = (float)sqrt(s->alpha_bar_prev[k]),
                 .b_prev = (float)sqrt(1 - s->alpha_bar_prev[k]),
                 .mean_x0 = s->mean_x0[k],
                 .mean_xt = s->mean_xt[k],
                 .log_variance = s->posterior_log_variance[k],
                 .log_beta = s->log_beta[k]};
    if (p.kind == DS_STEP_DPMPP2M)
        dpmpp2m_coefficients(&p, s, k);
    return p;
}

/* From step k to k-1 on the device. */
static void step(ds_run *r, const ds_sample_request *q, int k) {
    ds_device *dev = ds_net_device(r->net);
    const size_t n = (size_t)r->B;
    const ds_step p = coefficients(r, k);
    const int draws = p.kind == DS_STEP_DDPM && !p.last;
    if (draws)
        noise(r, q, (uint32_t)r->s.t[k], r->noise);
    dev->ops->sampler_step(dev, r->x, r->both ? r->x + n * r->px : NULL, r->x0_prev, r->out,
                           r->out + n * r->outpx, draws ? r->noise : NULL, &p, r->B, r->px,
                           r->outpx);
}

static int run_batch(ds_run *r, const ds_sample_request *q, double done, double total,
                     ds_progress *progress, void *ctx, ds_error *err) {
    ds_device *dev = ds_net_device(r->net);
    r->both = guided(r->o) && r->o->mode == DS_GUIDANCE_CFG && 2 * r->B <= ds_net_batch(r->net);
    noise(r, q, 0xffffffffu, r->x);
    if (r->both)
        noise(r, q, 0xffffffffu, r->x + (size_t)r->B * r->px);
    samples_of(r->c, r->samples, r->samples + r->B, q, r->B);
    const int cfg = guided(r->o) && r->o->mode == DS_GUIDANCE_CFG;
    ds_window_batch(r->window, r->samples, 0, cfg ? 2 * r->B : r->B);
    ds_window_batch(r->base_window, r->samples, r->B, r->B);
    for (int k = r->s.steps - 1; k >= 0; k--) {
        predict(r, k);
        step(r, q, k);
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
    ds_device *dev = ds_net_device(r->net);
    size_t n = (size_t)batch;
    r->px = ds_facts_in(r->c);
    r->outpx = ds_facts_out(r->c);
    r->x = dev->alloc(dev, 2 * n * r->px * sizeof(float));
    r->out = dev->alloc(dev, 2 * n * r->outpx * sizeof(float));
    r->x0_prev = dev->alloc(dev, n * r->px * sizeof(float));
    r->noise = dev->alloc(dev, n * r->px * sizeof(float));
    if (!r->x || !r->out || !r->x0_prev || !r->noise)
        return ds_fail(err, DS_ENOMEM, "no room to sample %d images at a time", batch);
    r->host = ds_xmalloc(n * r->px * sizeof(float));
    r->samples = ds_xmalloc(2 * n * sizeof *r->samples);
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
    const int g = guided(r->o), cfg = g && r->o->mode == DS_GUIDANCE_CFG, limit = r->o->table_rows;
    int rows = ds_window_rows(ds_net_base(r->net), ds_net_device(r->net));
    ds_net_sample *all = ds_xmalloc(2 * (size_t)n * sizeof *all);
    samples_of(r->c, all, all + n, q, n);
    if (limit)
        rows = limit < rows ? limit : rows;
    r->window = ds_window_new(r->net, &r->s, all, cfg ? 2 * n : n, 2 * batch, rows);
    if (g && !cfg)
        r->base_window = ds_window_new(r->base, &r->s, all + n, n, 2 * batch, rows);
    free(all);
}

static void run_close(ds_run *r) {
    ds_device *dev = ds_net_device(r->net);
    float *device[] = {r->x, r->out, r->x0_prev, r->noise};
    ds_window_free(r->window);
    ds_window_free(r->base_window);
    ds_device_forget(dev, r->net); /* what was recorded over these buffers */
    if (r->base)
        ds_device_forget(dev, r->base);
    for (int i = 0; i < 4; i++)
        dev->free(dev, device[i]);
    free(r->host);
    free(r->samples);
    free(r->noise_step);
    free(r->noise_index);
    ds_schedule_release(&r->s);
}

static int check(const ds_net *net, const ds_net *base, const ds_sample_options *o,
                 const ds_sample_request *q, int n, ds_error *err) {
    if (!(o->guidance >= 0 && o->guidance <= 100))
        return ds_fail(err, DS_EINVAL, "guidance is %g, must be 0 to 100", o->guidance);
    if (guided(o) && o->mode == DS_GUIDANCE_DOMAIN && !base)
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
    ds_run r = {.net = net, .base = base, .c = &ds_net_base(net)->facts, .o = opt};
    int batch = ds_sample_batch(opt, ds_net_batch(net)),
        rc = check(net, base, opt, requests, n, err);
    if (base && batch > ds_net_batch(base))
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
