/* engine/diffusion/trainer.c - batches, loss, AdamW, EMA, resume. */
#include "engine/diffusion/trainer.h"
#include "base/json.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/diffusion/diffusion.h"
#include "engine/files/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ds_trainer {
    const ds_model *model;
    ds_device *dev;
    ds_method_spec spec;
    ds_train_options opt;
    ds_image_set images;
    ds_params table;
    ds_net *net;
    ds_schedule schedule;
    int step;  /* done */
    int begun; /* step, or one more: the device works on it */
    int ahead; /* a step below it may begin before it is asked for */
    float *p, *g, *m, *v, *ema,
        *lr_mul;            /* device, table.total each; lr_mul NULL when nothing is frozen */
    uint32_t *train, *held; /* indices of images */
    uint32_t n_train, n_held;
    uint32_t *order; /* permutation of the current epoch */
    int64_t epoch;   /* of `order`, -1 = none */
    /* device, of a micro-batch: what the host gives (prepare_batch), noise, xt (mb,C,S,S), out,
     * dout (mb,outC,S,S) */
    float *image_block, *given, *noise, *xt, *out, *dout;
    /* device: what the host reads of a step, for two steps by turns: the sum of squares of the
     * gradients, and behind it mse and vb (mb each, f32) of every micro-batch */
    double *outcome;
    double *seen; /* the host's copy of one */
    uint32_t *noise_step;
    uint64_t *noise_sample;
    float *host; /* the next micro-batch: mb*(C*S*S + 10) */
    ds_condition *cond;
    int ready_step, ready_first; /* what host holds already, -1 = nothing */
};

static const ds_dit_config *cfg(const ds_trainer *t) { return &t->model->base->cfg; }
static size_t pixels(const ds_dit_config *c) {
    return (size_t)c->channels * (size_t)c->side * (size_t)c->side;
}

static int check(const ds_model *model, const ds_method_spec *spec, ds_train_options *o,
                 const ds_image_set *im, ds_error *err) {
    const ds_dit_config *c = &model->base->cfg;
    if (o->micro_batch == 0)
        o->micro_batch = o->batch;
    if (o->steps < 1 || o->steps > 100000000)
        return ds_fail(err, DS_EINVAL, "steps are %d, must be 1 to 100000000", o->steps);
    if (o->batch < 1 || o->batch > 65536 || o->micro_batch < 1 || o->batch % o->micro_batch)
        return ds_fail(err, DS_EINVAL,
                       "batch %d must be 1 to 65536 and a multiple of micro_batch %d", o->batch,
                       o->micro_batch);
    if (!(o->lr > 0 && o->lr <= 1) || o->warmup < 0 || o->clip < 0 ||
        !(o->ema >= 0 && o->ema < 1) || o->weight_decay < 0 ||
        !(o->label_dropout >= 0 && o->label_dropout <= 1))
        return ds_fail(
            err, DS_EINVAL,
            "a training option is out of range: lr %g warmup %d clip %g ema %g weight_decay %g "
            "label_dropout %g",
            o->lr, o->warmup, o->clip, o->ema, o->weight_decay, o->label_dropout);
    if (o->recompute < 0 || o->recompute > c->depth)
        return ds_fail(err, DS_EINVAL, "recompute is %d, must be 0 to the base's %d blocks",
                       o->recompute, c->depth);
    if (im->n < 1)
        return ds_fail(err, DS_EINVAL, "there is no image to train on");
    if (im->latents[0] ? !(im->latent_scale > 0) || (o->flip && !im->latents[1]) : !im->pixels)
        return ds_fail(err, DS_EINVAL, "%s",
                       im->latents[0] ? "latents need their scale, and with flips the mirrored ones"
                                      : "there are no pixels to train on");
    if (im->side != c->side || im->channels != c->channels)
        return ds_fail(err, DS_EINVAL, "images are %dx%dx%d, the base takes %dx%dx%d", im->side,
                       im->side, im->channels, c->side, c->side, c->channels);
    int rows = spec->classes ? spec->classes : c->classes;
    for (int i = 0; i < im->n; i++)
        if (im->labels[i] < 0 || im->labels[i] >= rows)
            return ds_fail(err, DS_EINVAL, "image %d has class %d of %d", i, im->labels[i], rows);
    return 0;
}

/* The last images of a fixed permutation are held out. */
static void split(ds_trainer *t) {
    uint32_t n = (uint32_t)t->images.n, held = (uint32_t)t->opt.heldout;
    t->train = ds_xmalloc(n * sizeof *t->train);
    ds_rng_permutation(t->train, n, t->opt.seed, DS_STREAM_SPLIT, 0);
    if (held > n / 10)
        held = n / 10;
    t->n_train = n - held;
    t->n_held = held ? held : (n < 64 ? n : 64);
    t->held = t->train + (held ? t->n_train : 0);
    t->order = ds_xmalloc(t->n_train * sizeof *t->order);
    t->epoch = -1;
}

/* The outcome of a step in doubles; two f32 for each image fill one. */
static size_t outcome_size(int batch) { return 1 + (size_t)batch; }

static double *outcome_of(const ds_trainer *t, int step) {
    return t->outcome + (step & 1) * (ptrdiff_t)outcome_size(t->opt.batch);
}

static int allocate(ds_trainer *t, ds_error *err) {
    const ds_dit_config *c = cfg(t);
    size_t n = t->table.total, mb = (size_t)t->opt.micro_batch, px = pixels(c),
           frozen = n - ds_params_trained(&t->table);
    size_t outpx = px * (c->learn_sigma ? 2 : 1);
    float **flat[] = {&t->p, &t->g, &t->m, &t->v, &t->ema, &t->lr_mul};
    for (int i = 0; i < (frozen ? 6 : 5); i++)
        if (!(*flat[i] = t->dev->alloc(t->dev, (n + 16) * sizeof(float))))
            return ds_fail(err, DS_ENOMEM, "no room for the optimiser state (%zu MiB)",
                           n * 20 >> 20);
    t->image_block = t->dev->alloc(t->dev, mb * (3 * px + 2 * outpx + 10) * sizeof(float));
    t->outcome = t->dev->alloc(t->dev, 2 * outcome_size(t->opt.batch) * sizeof(double));
    if (!t->image_block || !t->outcome)
        return ds_fail(err, DS_ENOMEM, "no room for a micro-batch of %zu images", mb);
    float *at = t->image_block;
    t->given = at, at += mb * (px + 10);
    t->noise = at, at += mb * px;
    t->xt = at, at += mb * px;
    t->out = at, at += mb * outpx;
    t->dout = at;
    t->noise_step = ds_xmalloc(mb * sizeof *t->noise_step);
    t->noise_sample = ds_xmalloc(mb * sizeof *t->noise_sample);
    t->host = ds_xmalloc(mb * (px + 10) * sizeof(float));
    t->seen = ds_xmalloc(outcome_size(t->opt.batch) * sizeof(double));
    t->cond = ds_xmalloc(mb * sizeof *t->cond);
    t->ready_step = -1;
    return 0;
}

static void start_values(ds_trainer *t, const ds_adapter *start) {
    const struct ds_ops *k = t->dev->ops;
    size_t n = t->table.total;
    t->dev->upload(t->dev, t->p, start->data, n * sizeof(float));
    t->dev->upload(t->dev, t->ema, start->data, n * sizeof(float));
    float *zero[] = {t->g, t->m, t->v};
    for (int i = 0; i < 3; i++)
        k->fill(t->dev, zero[i], 0.0f, n);
    if (!t->lr_mul)
        return;
    for (int i = 0; i < t->table.count; i++)
        k->fill(t->dev, t->lr_mul + t->table.items[i].offset,
                t->table.items[i].frozen ? 0.0f : 1.0f, t->table.items[i].count);
}

int ds_trainer_new(ds_trainer **out, const ds_model *model, const ds_method_spec *spec,
                   const ds_train_options *opt, const ds_image_set *images, ds_error *err) {
    ds_train_options o = *opt;
    int rc = check(model, spec, &o, images, err);
    if (rc)
        return rc;
    ds_adapter *start;
    if ((rc = ds_adapter_new(&start, model->base, spec, err)))
        return rc;
    ds_trainer *t = ds_xcalloc(1, sizeof *t);
    *t = (ds_trainer){
        .model = model, .dev = model->dev, .spec = start->spec, .opt = o, .images = *images};
    ds_adapter_table(&t->table, model->base, &t->spec);
    ds_schedule_init(&t->schedule, &model->base->cfg);
    split(t);
    if (!(rc = allocate(t, err)) &&
        !(rc = ds_net_new_train(&t->net, model, start, o.micro_batch, o.recompute, err))) {
        start_values(t, start);
        ds_net_bind(t->net, t->p, t->g);
    }
    ds_adapter_free(start);
    if (rc)
        ds_trainer_free(t);
    else
        *out = t;
    return rc;
}

void ds_trainer_free(ds_trainer *t) {
    if (!t)
        return;
    ds_net_free(t->net);
    float *flat[] = {t->p, t->g, t->m, t->v, t->ema, t->lr_mul, t->image_block};
    for (int i = 0; i < 7; i++)
        t->dev->free(t->dev, flat[i]);
    t->dev->free(t->dev, t->outcome);
    ds_schedule_release(&t->schedule);
    ds_params_release(&t->table);
    free(t->train);
    free(t->order);
    free(t->noise_step);
    free(t->noise_sample);
    free(t->host);
    free(t->seen);
    free(t->cond);
    free(t);
}

ds_trainer_plan ds_trainer_plan_of(ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                                   const ds_train_options *opt) {
    const ds_dit_config *c = &base->cfg;
    ds_params table = {0};
    ds_adapter_table(&table, base, spec);
    double mb = opt->micro_batch ? opt->micro_batch : opt->batch, px = (double)pixels(c),
           out = px * (c->learn_sigma ? 2 : 1), n = (double)table.total;
    int frozen = ds_params_trained(&table) != table.total;
    ds_params_release(&table);
    return (ds_trainer_plan){.weights = (double)ds_net_weight_bytes(dev, base, DS_NET_TRAIN),
                             .state = n * (frozen ? 24 : 20),
                             .activations =
                                 (double)ds_net_train_bytes(c, dev, (int)mb, opt->recompute),
                             .batch = mb * (4 * px + 2 * out + 20) * sizeof(float) +
                                      3 * (double)outcome_size(opt->batch) * sizeof(double)};
}

/* ---------------------------------------------------------------- batches */

/* Image of position pos in the endless stream of shuffled epochs. */
static uint32_t stream_image(ds_trainer *t, int64_t pos) {
    int64_t epoch = pos / t->n_train;
    if (epoch != t->epoch) {
        ds_rng_permutation(t->order, t->n_train, t->opt.seed, DS_STREAM_SHUFFLE, (uint32_t)epoch);
        t->epoch = epoch;
    }
    return t->train[t->order[pos % t->n_train]];
}

/* uint8 HWC to f32 CHW in [-1,1] */
static void load_image(const ds_trainer *t, float *dst, uint32_t image, int flip) {
    const int S = t->images.side, C = t->images.channels;
    const uint8_t *src = t->images.pixels + (size_t)image * (size_t)(S * S * C);
    for (int c = 0; c < C; c++)
        for (int y = 0; y < S; y++)
            for (int x = 0; x < S; x++)
                dst[(c * S + y) * S + x] =
                    (float)src[(y * S + (flip ? S - 1 - x : x)) * C + c] / 127.5f - 1.0f;
}

typedef struct {
    uint32_t image;
    int flip, t, drop; /* timestep; label dropped */
    uint32_t stream, noise_step;
    uint64_t noise_sample;
} ds_draw;

/* A latent drawn from the image's posterior; the held-out loss draws the same ones each time. */
static void load_latent(const ds_trainer *t, float *dst, const ds_draw *d) {
    const size_t n = pixels(cfg(t));
    const float *mean = t->images.latents[d->flip][d->image], *logvar = mean + n;
    uint32_t step = d->stream == DS_STREAM_HELDOUT ? UINT32_MAX : d->noise_step;
    ds_rng_normal(dst, n, t->opt.seed, DS_STREAM_LATENT, step, d->noise_sample);
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)((mean[i] + exp(0.5 * logvar[i]) * dst[i]) * t->images.latent_scale);
}

/* A micro-batch in host memory: x0, conditions, coefficients, in one piece: x0 (mb,C,S,S), coef
 * (mb,8), ca, cb (mb).  weight = share in the mean loss. */
static void prepare_batch(ds_trainer *t, const ds_draw *draw, int mb, float weight) {
    const ds_dit_config *c = cfg(t);
    const size_t px = pixels(c);
    float *coef = t->host + (size_t)mb * px, *ca = coef + 8 * (size_t)mb, *cb = ca + mb;
    for (int i = 0; i < mb; i++) {
        const ds_draw *d = &draw[i];
        int label = t->images.labels[d->image];
        if (t->images.latents[0])
            load_latent(t, t->host + (size_t)i * px, d);
        else
            load_image(t, t->host + (size_t)i * px, d->image, d->flip);
        t->cond[i] = (ds_condition){.t = (float)d->t, .row = -1, .base_row = c->classes, .task = 0};
        if (!d->drop && t->spec.classes)
            t->cond[i].row = label, t->cond[i].base_row = -1;
        else if (!d->drop)
            t->cond[i].base_row = label;
        ca[i] = (float)sqrt(t->schedule.alpha_bar[d->t]);
        cb[i] = (float)sqrt(1 - t->schedule.alpha_bar[d->t]);
        ds_schedule_loss_coef(&t->schedule, d->t, weight, coef + 8 * i);
        t->noise_step[i] = d->noise_step;
        t->noise_sample[i] = d->noise_sample;
    }
}

/* mse and vb of the micro-batch that starts at sample `first`, in an outcome. */
static float *losses_at(double *outcome, int first) {
    return (float *)(outcome + 1) + 2 * (size_t)first;
}

/* To the device: noise, x_t, model output and losses.  The host's copy is free afterwards. */
static void run_batch(ds_trainer *t, uint32_t stream, float *mse, int mb, float *dout) {
    const struct ds_ops *k = t->dev->ops;
    const ds_dit_config *c = cfg(t);
    const size_t px = pixels(c), n = (size_t)mb;
    const float *x0 = t->given, *coef = x0 + n * px, *ca = coef + 8 * n, *cb = ca + n;
    t->dev->upload(t->dev, t->given, t->host, n * (px + 10) * sizeof(float));
    k->normal(t->dev, t->noise, t->opt.seed, stream, t->noise_step, t->noise_sample, mb, px);
    k->axpby(t->dev, t->xt, ca, x0, cb, t->noise, mb, px);
    ds_net_forward(t->net, t->out, t->xt, t->cond, mb);
    k->diffusion_loss(t->dev, mse, mse + mb, dout, t->out, x0, t->noise, t->xt, coef,
                      c->learn_sigma, (float)t->opt.vb_weight, mb, c->channels,
                      (size_t)c->side * (size_t)c->side);
}

/* Adds the losses of the micro-batch at `first`, which `seen` holds. */
static void add_losses(ds_trainer *t, int first, int mb, double *mse, double *vb) {
    const float *losses = losses_at(t->seen, first);
    for (int i = 0; i < mb; i++) {
        *mse += losses[i];
        *vb += losses[mb + i];
    }
}

/* Sample i of step (from 0).  Timesteps are stratified over the batch: unbiased, with less
 * variance. */
static ds_draw draw_train(ds_trainer *t, int step, int i) {
    const ds_train_options *o = &t->opt;
    uint32_t s = (uint32_t)step;
    uint64_t id = (uint64_t)i;
    ds_draw d = {.image = stream_image(t, (int64_t)step * o->batch + i),
                 .stream = DS_STREAM_NOISE,
                 .noise_step = s,
                 .noise_sample = id};
    double u = ((double)i + ds_rng_uniform(o->seed, DS_STREAM_TIMESTEP, s, id, 0)) / o->batch;
    int T = cfg(t)->train_steps;
    if (o->focus > 0)
        u = 1 / (1 + exp(-o->focus_mean - o->focus * log(u / (1 - u))));
    d.t = (int)(u * T) < T ? (int)(u * T) : T - 1;
    d.drop = o->label_dropout > 0 &&
             ds_rng_uniform(o->seed, DS_STREAM_DROPOUT, s, id, 0) < o->label_dropout;
    d.flip = o->flip && (ds_rng_u32(o->seed, DS_STREAM_FLIP, s, id, 0) & 1);
    return d;
}

static double learning_rate(const ds_train_options *o, int step) {
    double lr = o->lr;
    if (step < o->warmup)
        return lr * (step + 1) / o->warmup;
    if (o->cosine)
        lr *= 0.5 * (1 + cos(3.14159265358979323846 * (step - o->warmup) / (o->steps - o->warmup)));
    return lr;
}

/* Nothing of it waits for the device: the norm that clips stays there. */
static void optimise(ds_trainer *t, int step) {
    const struct ds_ops *k = t->dev->ops;
    const ds_train_options *o = &t->opt;
    double decay = (1.0 + step) / (10.0 + step), *squares = outcome_of(t, step);
    k->sum_squares(t->dev, squares, t->g, t->table.total);
    if (decay > o->ema)
        decay = o->ema;
    k->adamw(t->dev, t->p, t->m, t->v, t->ema, t->g, t->lr_mul, t->table.total,
             (float)learning_rate(o, step), 0.9f, 0.999f, 1e-8f, (float)o->weight_decay, o->clip,
             squares, (float)decay, step + 1);
}

/* Gradients of frozen entries must not count in the norm: they are cleared. */
static void clear_frozen(ds_trainer *t) {
    for (int i = 0; t->lr_mul && i < t->table.count; i++)
        if (t->table.items[i].frozen)
            t->dev->ops->fill(t->dev, t->g + t->table.items[i].offset, 0.0f,
                              t->table.items[i].count);
}

/* The micro-batch of step that starts at sample `first`, unless host holds it already. */
static void prepare_train(ds_trainer *t, int step, int first) {
    const int mb = t->opt.micro_batch;
    if (t->ready_step == step && t->ready_first == first)
        return;
    ds_draw *draw = ds_xmalloc((size_t)mb * sizeof *draw);
    for (int i = 0; i < mb; i++)
        draw[i] = draw_train(t, step, first + i);
    prepare_batch(t, draw, mb, 1.0f / (float)t->opt.batch);
    free(draw);
    t->ready_step = step;
    t->ready_first = first;
}

/* While a device with memory of its own computes, the host makes the batch that follows. */
static void prepare_next(ds_trainer *t, int step, int first) {
    if (t->dev->host_memory)
        return;
    if (first + t->opt.micro_batch < t->opt.batch)
        prepare_train(t, step, first + t->opt.micro_batch);
    else if (step + 1 < t->opt.steps)
        prepare_train(t, step + 1, 0);
}

/* Asks the device for all of a step. */
static void begin_step(ds_trainer *t, int step) {
    const int mb = t->opt.micro_batch;
    t->dev->ops->fill(t->dev, t->g, 0.0f, t->table.total);
    for (int first = 0; first < t->opt.batch; first += mb) {
        prepare_train(t, step, first);
        run_batch(t, DS_STREAM_NOISE, losses_at(outcome_of(t, step), first), mb, t->dout);
        ds_net_backward(t->net, t->dout, mb);
        if (first + mb < t->opt.batch)
            prepare_next(t, step, first);
    }
    clear_frozen(t);
    optimise(t, step);
    ds_net_refold(t->net);
    if (t->dev->fetch)
        t->dev->fetch(t->dev, step & 1, outcome_of(t, step),
                      outcome_size(t->opt.batch) * sizeof(double));
    t->begun = step + 1;
    prepare_next(t, step, t->opt.batch - mb);
}

/* Reads what the device made of the oldest step; waits for it. */
static int take_outcome(ds_trainer *t, ds_train_report *r, ds_error *err) {
    const int mb = t->opt.micro_batch;
    const size_t bytes = outcome_size(t->opt.batch) * sizeof(double);
    if (t->dev->fetched)
        t->dev->fetched(t->dev, t->step & 1, t->seen, bytes);
    else
        t->dev->download(t->dev, t->seen, outcome_of(t, t->step), bytes);
    for (int first = 0; first < t->opt.batch; first += mb)
        add_losses(t, first, mb, &r->mse, &r->vb);
    r->mse /= t->opt.batch;
    r->vb /= t->opt.batch;
    r->loss = r->mse + t->opt.vb_weight * r->vb;
    r->grad_norm = sqrt(t->seen[0]);
    r->lr = learning_rate(&t->opt, t->step);
    if (!isfinite(r->loss) || !isfinite(r->grad_norm))
        return ds_fail(err, DS_EINVAL, /* the same numbers again would end the same */
                       "the %s is not finite at step %d: use a smaller learning rate than %g",
                       isfinite(r->loss) ? "gradient" : "loss", t->step + 1, t->opt.lr);
    return 0;
}

int ds_trainer_step(ds_trainer *t, ds_train_report *r, ds_error *err) {
    *r = (ds_train_report){0};
    if (t->begun == t->step)
        begin_step(t, t->step);
    if (t->dev->fetch && t->begun == t->step + 1 && t->begun < t->ahead && t->begun < t->opt.steps)
        begin_step(t, t->begun);
    int rc = take_outcome(t, r, err);
    if (rc) { /* made again, should the caller try again */
        t->ready_step = -1;
        t->begun = t->step;
    } else
        r->step = ++t->step;
    return rc;
}

void ds_trainer_ahead(ds_trainer *t, int until) { t->ahead = until; }
int ds_trainer_busy(const ds_trainer *t) { return t->begun > t->step; }

int ds_trainer_done(const ds_trainer *t) { return t->step; }

int ds_trainer_heldout(ds_trainer *t, double *loss, ds_error *err) {
    const int mb = t->opt.micro_batch;
    double mse = 0, vb = 0;
    ds_draw *draw = ds_xmalloc((size_t)mb * sizeof *draw);
    DS_ASSERT(!ds_trainer_busy(t));
    t->ready_step = -1; /* its place in host memory is used here */
    ds_net_bind(t->net, t->ema, t->g);
    for (uint32_t first = 0; first < t->n_held; first += (uint32_t)mb) {
        int count = (int)(t->n_held - first) < mb ? (int)(t->n_held - first) : mb;
        for (int i = 0; i < count; i++) {
            uint32_t j = first + (uint32_t)i;
            draw[i] =
                (ds_draw){.image = t->held[j], .stream = DS_STREAM_HELDOUT, .noise_sample = j};
            draw[i].t = (int)((j + 0.5) / t->n_held * cfg(t)->train_steps);
        }
        prepare_batch(t, draw, count, 0.0f);
        run_batch(t, DS_STREAM_HELDOUT, losses_at(t->outcome, 0), count, NULL);
        t->dev->download(t->dev, t->seen, t->outcome, outcome_size(count) * sizeof(double));
        add_losses(t, 0, count, &mse, &vb);
    }
    free(draw);
    ds_net_bind(t->net, t->p, t->g);
    *loss = (mse + t->opt.vb_weight * vb) / t->n_held;
    return isfinite(*loss) ? 0 : ds_fail(err, DS_EFAILED, "the held-out loss is not finite");
}

float *ds_trainer_copy(ds_trainer *t, int gradients) {
    float *x = ds_xmalloc(t->table.total * sizeof *x);
    DS_ASSERT(!ds_trainer_busy(t));
    t->dev->download(t->dev, x, gradients ? t->g : t->p, t->table.total * sizeof *x);
    return x;
}

int ds_trainer_result(ds_trainer *t, ds_adapter **out, ds_error *err) {
    DS_ASSERT(!ds_trainer_busy(t));
    int rc = ds_adapter_new(out, t->model->base, &t->spec, err);
    if (rc)
        return rc;
    float *ema = ds_xmalloc((t->table.total + 1) * sizeof *ema);
    t->dev->download(t->dev, ema, t->ema, t->table.total * sizeof *ema);
    for (int i = 0; i < t->table.count;
         i++) { /* frozen entries keep the bits of their seeded start */
        const ds_param *p = &t->table.items[i];
        if (!p->frozen)
            memcpy((*out)->data + p->offset, ema + p->offset, p->count * sizeof *ema);
    }
    free(ema);
    ds_params_round(&t->table, (*out)->data);
    return 0;
}

/* ---------------------------------------------------------------- checkpoints */

/* The schedule of a run. */
static char *schedule_print(const ds_trainer *t) {
    const ds_train_options *o = &t->opt;
    return ds_xasprintf("steps=%d lr=%.17g warmup=%d cosine=%d", o->steps, o->lr, o->warmup,
                        o->cosine);
}

/* All else that must agree for a checkpoint to continue this run. */
static char *fingerprint(const ds_trainer *t) {
    const ds_train_options *o = &t->opt;
    const ds_method_spec *s = &t->spec;
    ds_buf b = {0};
    ds_buf_addf(&b,
                "base=%s class=%s method=%d rank=%d in=%d relu=%d freeze_v=%d targets=%u "
                "classes=%d init=%llu ",
                t->model->base->sha256, t->dev->device_class, (int)s->method, s->rank, s->side_in,
                s->phi_relu, s->freeze_v, s->targets, s->classes, (unsigned long long)s->seed);
    ds_buf_addf(&b,
                "batch=%d micro=%d clip=%.17g wd=%.17g ema=%.17g dropout=%.17g flip=%d vb=%.17g "
                "focus=%.17g,%.17g heldout=%d seed=%llu images=%d ",
                o->batch, o->micro_batch, o->clip, o->weight_decay, o->ema, o->label_dropout,
                o->flip, o->vb_weight, o->focus, o->focus_mean, o->heldout,
                (unsigned long long)o->seed, t->images.n);
    if (t->images.latents[0]) {
        ds_buf_addf(&b, "latents=%s scale=%.17g", t->images.latents_digest, t->images.latent_scale);
        return b.data;
    }
    char sha[DS_HEX_SIZE];
    size_t one = (size_t)t->images.side * (size_t)t->images.side * (size_t)t->images.channels;
    ds_digest(t->images.pixels, one * (size_t)t->images.n, sha);
    ds_buf_addf(&b, "data=%s", sha);
    return b.data;
}

static const char *const state_names[] = {"p", "m", "v", "ema"};

int ds_trainer_save(ds_trainer *t, const char *path, ds_error *err) {
    float *state[] = {t->p, t->m, t->v, t->ema}, *host[4];
    int64_t shape[1] = {(int64_t)t->table.total};
    char step[16], *print = fingerprint(t), *plan = schedule_print(t), *bytes = NULL;
    size_t n = 0;
    ds_st_writer *w = ds_st_writer_new();
    DS_ASSERT(!ds_trainer_busy(t));
    for (int i = 0; i < 4; i++) {
        host[i] = ds_xmalloc((t->table.total + 1) * sizeof(float));
        t->dev->download(t->dev, host[i], state[i], t->table.total * sizeof(float));
        ds_st_writer_add(w, state_names[i], DS_ST_F32, 1, shape, host[i]);
    }
    snprintf(step, sizeof step, "%d", t->step);
    ds_st_writer_meta(w, "step", step);
    ds_st_writer_meta(w, "run", print);
    ds_st_writer_meta(w, "schedule", plan);
    int rc = ds_st_writer_finish(w, &bytes, &n, err);
    if (!rc) { /* the digest of the whole file follows it, so that any damage is seen */
        char sha[DS_HEX_SIZE];
        ds_digest(bytes, n, sha);
        bytes = ds_xrealloc(bytes, n + 64);
        memcpy(bytes + n, sha, 64);
        rc = ds_fs_write(path, bytes, n + 64, err);
    }
    for (int i = 0; i < 4; i++)
        free(host[i]);
    ds_st_writer_free(w);
    free(print);
    free(plan);
    free(bytes);
    return rc;
}

static int restore(ds_trainer *t, const ds_st *st, ds_error *err) {
    char *print = fingerprint(t), *plan = schedule_print(t);
    const char *run = ds_st_meta(st, "run"), *step = ds_st_meta(st, "step");
    const char *schedule = ds_st_meta(st, "schedule");
    float *host[4] = {0}, *state[] = {t->p, t->m, t->v, t->ema};
    int64_t shape[1] = {(int64_t)t->table.total};
    int rc = 0;
    if (!run || !step || !schedule || strcmp(run, print) ||
        (!t->opt.replan && strcmp(schedule, plan)))
        rc = ds_fail(err, DS_EINTEGRITY, "checkpoint '%s' belongs to another run",
                     ds_st_file_name(st));
    for (int i = 0; !rc && i < 4; i++) {
        host[i] = ds_xmalloc((t->table.total + 1) * sizeof(float));
        rc = ds_st_need_f32(st, state_names[i], 1, shape, host[i], err);
    }
    for (int i = 0; i < 4; i++) {
        if (!rc)
            t->dev->upload(t->dev, state[i], host[i], t->table.total * sizeof(float));
        free(host[i]);
    }
    if (!rc) {
        t->step = t->begun = (int)strtol(step, NULL, 10);
        ds_net_refold(t->net);
    }
    free(print);
    free(plan);
    return rc;
}

int ds_trainer_load(ds_trainer *t, const char *path, ds_error *err) {
    char *bytes, sha[DS_HEX_SIZE];
    size_t n;
    int rc = ds_fs_read(path, (size_t)64 << 30, &bytes, &n, err);
    if (rc)
        return rc;
    if (n > 64)
        ds_digest(bytes, n - 64, sha);
    if (n <= 64 || memcmp(sha, bytes + n - 64, 64))
        rc = ds_fail(err, DS_EINTEGRITY, "checkpoint '%s' is damaged", path);
    ds_st *st = NULL;
    if (!rc && !(rc = ds_st_open_memory(path, bytes, n - 64, &st, err)))
        rc = restore(t, st, err);
    ds_st_free(st);
    free(bytes);
    return rc;
}
