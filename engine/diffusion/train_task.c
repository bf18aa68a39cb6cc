/* engine/diffusion/train_task.c - one set: its order of pictures, what is drawn, AdamW and EMA. */
#include "engine/diffusion/train_task.h"
#include "base/mem.h"
#include "engine/diffusion/flow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int ds_train_heldout(int images, int asked) { return asked < images / 10 ? asked : images / 10; }

int ds_train_split(uint32_t *order, int images, int asked, uint64_t seed) {
    ds_rng_permutation(order, (uint32_t)images, seed, DS_STREAM_SPLIT, 0);
    return ds_train_heldout(images, asked);
}

static void split(ds_train_task *t) {
    uint32_t n = (uint32_t)t->images.n, held;
    t->train = ds_xmalloc(n * sizeof *t->train);
    held = (uint32_t)ds_train_split(t->train, t->images.n, t->opt.heldout, t->opt.seed);
    t->n_train = n - held;
    t->n_held = held ? held : (n < 64 ? n : 64);
    t->held = t->train + (held ? t->n_train : 0);
    t->order = ds_xmalloc(t->n_train * sizeof *t->order);
    t->epoch = -1;
}

/* Arrays of a parameter's state: p, g, m, v, ema and, where something is frozen, its rate. */
static int arrays(const ds_params *table) {
    return ds_params_trained(table) != table->total ? 6 : 5;
}

/* Sums over the arrays read whole vectors. */
static size_t padded(const ds_params *table) { return (table->total + 16) * sizeof(float); }

size_t ds_train_task_bytes(const ds_params *table) { return (size_t)arrays(table) * padded(table); }

static void start_values(ds_train_task *t, const ds_adapter *start) {
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

int ds_train_task_init(ds_train_task *t, const ds_model *model, const ds_adapter *start,
                       const ds_train_options *opt, const ds_image_set *images, ds_error *err) {
    *t = (ds_train_task){.base = model->base,
                         .dev = model->dev,
                         .spec = start->spec,
                         .opt = *opt,
                         .images = *images};
    ds_adapter_table(&t->table, model->base, &t->spec);
    ds_train_course_begin(&t->course, opt);
    split(t);
    float **flat[] = {&t->p, &t->g, &t->m, &t->v, &t->ema, &t->lr_mul};
    for (int i = 0; i < arrays(&t->table); i++)
        if (!(*flat[i] = t->dev->alloc(t->dev, padded(&t->table))))
            return ds_fail(err, DS_ENOMEM, "no room for the optimiser state (%zu MiB)",
                           ds_train_task_bytes(&t->table) >> 20);
    start_values(t, start);
    return 0;
}

void ds_train_task_release(ds_train_task *t) {
    float *flat[] = {t->p, t->g, t->m, t->v, t->ema, t->lr_mul};
    for (int i = 0; i < 6; i++)
        if (flat[i])
            t->dev->free(t->dev, flat[i]);
    ds_params_release(&t->table);
    free(t->train);
    free(t->order);
}

/* ---------------------------------------------------------------- what is drawn */

/* Image of position pos in the endless stream of shuffled epochs. */
static uint32_t stream_image(ds_train_task *t, int64_t pos) {
    int64_t epoch = pos / t->n_train;
    if (epoch != t->epoch) {
        ds_rng_permutation(t->order, t->n_train, t->opt.seed, DS_STREAM_SHUFFLE, (uint32_t)epoch);
        t->epoch = epoch;
    }
    return t->train[t->order[pos % t->n_train]];
}

/* uint8 HWC to f32 CHW in [-1,1] */
static void load_image(const ds_train_task *t, float *dst, uint32_t image, int flip) {
    const int S = t->images.side, C = t->images.channels;
    const uint8_t *src = t->images.pixels + (size_t)image * (size_t)(S * S * C);
    for (int c = 0; c < C; c++)
        for (int y = 0; y < S; y++)
            for (int x = 0; x < S; x++)
                dst[(c * S + y) * S + x] =
                    (float)src[(y * S + (flip ? S - 1 - x : x)) * C + c] / 127.5f - 1.0f;
}

/* A latent drawn from the image's posterior; the held-out loss draws the same ones each time. */
static void load_latent(const ds_train_task *t, float *dst, const ds_draw *d) {
    const size_t n = (size_t)t->images.channels * (size_t)t->images.side * (size_t)t->images.side;
    const float *mean = t->images.latents[d->flip][d->image], *logvar = mean + n;
    uint32_t step = d->stream == DS_STREAM_HELDOUT ? UINT32_MAX : d->noise_step;
    ds_rng_normal(dst, n, t->opt.seed, DS_STREAM_LATENT, step, d->noise_sample);
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)((mean[i] + exp(0.5 * logvar[i]) * dst[i]) * t->images.latent_scale);
}

void ds_train_task_picture(const ds_train_task *t, float *dst, const ds_draw *d) {
    if (t->images.latents[0])
        load_latent(t, dst, d);
    else
        load_image(t, dst, d->image, d->flip);
}

/* The timestep or level at share u of their law. */
static double noise_of(const ds_train_task *t, double u) {
    const ds_train_options *o = &t->opt;
    const int T = t->base->facts.train_steps;
    const ds_flow *flow = &t->base->facts.flow;
    if (flow->path != DS_FLOW_NONE)
        return ds_flow_level(flow,
                             o->focus > 0 ? ds_flow_logit_normal(o->focus_mean, o->focus, u) : u);
    if (o->focus > 0)
        u = 1 / (1 + exp(-o->focus_mean - o->focus * log(u / (1 - u))));
    return (int)(u * T) < T ? (int)(u * T) : T - 1;
}

ds_draw ds_train_task_draw(ds_train_task *t, int step, int i) {
    const ds_train_options *o = &t->opt;
    uint32_t s = (uint32_t)step;
    uint64_t id = (uint64_t)i;
    ds_draw d = {.image = stream_image(t, (int64_t)step * o->batch + i),
                 .stream = DS_STREAM_NOISE,
                 .noise_step = s,
                 .noise_sample = id};
    double u = ((double)i + ds_rng_uniform(o->seed, DS_STREAM_TIMESTEP, s, id, 0)) / o->batch;
    d.t = noise_of(t, u);
    d.drop = o->label_dropout > 0 &&
             ds_rng_uniform(o->seed, DS_STREAM_DROPOUT, s, id, 0) < o->label_dropout;
    d.flip = o->flip && (ds_rng_u32(o->seed, DS_STREAM_FLIP, s, id, 0) & 1);
    return d;
}

ds_draw ds_train_task_draw_heldout(const ds_train_task *t, uint32_t j) {
    const ds_facts *c = &t->base->facts;
    const double share = (j + 0.5) / t->n_held;
    return (ds_draw){.image = t->held[j],
                     .stream = DS_STREAM_HELDOUT,
                     .noise_sample = j,
                     .t = c->flow.path != DS_FLOW_NONE ? ds_flow_level(&c->flow, share)
                                                       : (int)(share * c->train_steps)};
}

/* ---------------------------------------------------------------- AdamW, EMA */

double ds_train_task_rate(const ds_train_task *t, int step) {
    const ds_train_options *o = &t->opt;
    double lr = o->lr;
    if (ds_train_open_ended(o))
        return ds_train_course_rate(&t->course, o, step);
    if (step < o->warmup)
        return lr * (step + 1) / o->warmup;
    if (o->cosine)
        lr *= 0.5 * (1 + cos(3.14159265358979323846 * (step - o->warmup) / (o->steps - o->warmup)));
    return lr;
}

/* Gradients of frozen entries must not count in the norm: they are cleared. */
static void clear_frozen(ds_train_task *t) {
    for (int i = 0; t->lr_mul && i < t->table.count; i++)
        if (t->table.items[i].frozen)
            t->dev->ops->fill(t->dev, t->g + t->table.items[i].offset, 0.0f,
                              t->table.items[i].count);
}

void ds_train_task_optimise(ds_train_task *t, int step, double *squares) {
    const struct ds_ops *k = t->dev->ops;
    const ds_train_options *o = &t->opt;
    double decay = (1.0 + step) / (10.0 + step);
    clear_frozen(t);
    k->sum_squares(t->dev, squares, t->g, t->table.total);
    if (decay > o->ema)
        decay = o->ema;
    k->adamw(t->dev, t->p, t->m, t->v, t->ema, t->g, t->lr_mul, t->table.total,
             (float)ds_train_task_rate(t, step), 0.9f, 0.999f, 1e-8f, (float)o->weight_decay,
             o->clip, squares, (float)decay, step + 1);
}
