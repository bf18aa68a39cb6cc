/* engine/diffusion/trainer.c - steps: the room of a batch, the passes, loss, and the device a step
 * ahead. */
#include "engine/diffusion/trainer.h"
#include "base/mem.h"
#include "engine/diffusion/diffusion.h"
#include "engine/diffusion/flow.h"
#include "engine/diffusion/train_guidance.h"
#include "engine/diffusion/train_task.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ds_trainer {
    const ds_model *model;
    ds_device *dev;
    ds_net *net;
    ds_schedule schedule;
    ds_train_task task;
    ds_train_guidance guidance;
    int begun; /* steps, as many as are done or one more: the device works on it */
    int ahead; /* a step below it may begin before it is asked for */
    /* device, of a micro-batch: what the host gives (prepare_batch), noise, xt (mb,C,S,S), out,
     * dout (mb,outC,S,S) */
    float *image_block, *given, *noise, *xt, *out, *dout;
    /* device: what the host reads of a step, for two steps by turns: the sum of squares of the
     * gradients, and behind it mse and vb (mb each, f32) of every micro-batch */
    double *outcome;
    double *seen; /* the host's copy of one */
    uint32_t *noise_step;
    uint64_t *noise_sample;
    float *host; /* the next micro-batch: given_floats */
    ds_net_sample *samples;
    int ready_step, ready_first; /* what host holds already, -1 = nothing */
};

static const ds_facts *facts(const ds_trainer *t) { return &t->model->base->facts; }

/* Those that the trainer itself uses; their ranges stand in contract/options.def. */
int ds_train_options_check(const ds_train_options *o, ds_error *err) {
    const int micro_batch = o->micro_batch ? o->micro_batch : o->batch;
    const struct {
        const char *name;
        double value;
    } used[] = {{"steps", o->steps},
                {"batch", o->batch},
                {"micro_batch", micro_batch},
                {"lr", o->lr},
                {"warmup", o->warmup},
                {"clip", o->clip},
                {"weight_decay", o->weight_decay},
                {"ema", o->ema},
                {"label_dropout", o->label_dropout},
                {"vb_weight", o->vb_weight},
                {"focus", o->focus},
                {"focus_mean", o->focus_mean},
                {"trained_guidance", o->trained_guidance},
                {"trained_guidance_low", o->trained_guidance_low},
                {"patience", o->patience},
                {"max_time", o->max_time},
                {"heldout", o->heldout}};
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof used / sizeof used[0]; i++)
        rc = ds_option_check(used[i].name, used[i].value, err);
    if (!rc && o->batch % micro_batch)
        rc = ds_fail(err, DS_EINVAL,
                     "batch %d is not a multiple of micro_batch %d: choose one that divides it",
                     o->batch, micro_batch);
    if (!rc && ds_train_open_ended(o) && !o->cosine)
        rc = ds_fail(err, DS_EINVAL,
                     "with %s the learning rate falls at the end, and without cosine it must not: "
                     "choose one of them",
                     o->patience > 0 ? "patience" : "max_time");
    return rc;
}

static int check(const ds_model *model, const ds_method_spec *spec, ds_train_options *o,
                 const ds_image_set *im, ds_error *err) {
    const ds_facts *c = &model->base->facts;
    if (o->micro_batch == 0)
        o->micro_batch = o->batch;
    int rc = ds_train_options_check(o, err);
    if (rc)
        return rc;
    if (o->recompute < 0 || o->recompute > c->blocks)
        return ds_fail(err, DS_EINVAL, "recompute is %d, must be 0 to the base's %d blocks",
                       o->recompute, c->blocks);
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

/* The outcome of a step in doubles; two f32 for each image fill one. */
static size_t outcome_size(int batch) { return 1 + (size_t)batch; }

static double *outcome_of(const ds_trainer *t, int step) {
    return t->outcome + (step & 1) * (ptrdiff_t)outcome_size(t->task.opt.batch);
}

/* Floats of a micro-batch on the device, of which the host gives the first part. */
static size_t given_floats(const ds_facts *c, const ds_train_options *o, size_t mb) {
    return mb * (ds_facts_in(c) + 10 + ds_train_guidance_floats(c, o));
}
static size_t batch_floats(const ds_facts *c, const ds_train_options *o, size_t mb) {
    size_t px = ds_facts_in(c), outpx = ds_facts_out(c);
    return given_floats(c, o, mb) + mb * (2 * px + 2 * outpx);
}

static int allocate(ds_trainer *t, ds_error *err) {
    const ds_facts *c = facts(t);
    const ds_train_options *o = &t->task.opt;
    const int batch = o->batch;
    size_t mb = (size_t)o->micro_batch, px = ds_facts_in(c);
    size_t outpx = ds_facts_out(c);
    t->image_block = t->dev->alloc(t->dev, batch_floats(c, o, mb) * sizeof(float));
    t->outcome = t->dev->alloc(t->dev, 2 * outcome_size(batch) * sizeof(double));
    if (!t->image_block || !t->outcome)
        return ds_fail(err, DS_ENOMEM,
                       "no room for a micro-batch of %zu images: choose a smaller micro_batch", mb);
    float *at = t->image_block;
    t->given = at, at += given_floats(c, o, mb);
    t->noise = at, at += mb * px;
    t->xt = at, at += mb * px;
    t->out = at, at += mb * outpx;
    t->dout = at;
    t->noise_step = ds_xmalloc(mb * sizeof *t->noise_step);
    t->noise_sample = ds_xmalloc(mb * sizeof *t->noise_sample);
    t->host = ds_xmalloc(given_floats(c, o, mb) * sizeof(float));
    t->seen = ds_xmalloc(outcome_size(batch) * sizeof(double));
    t->samples = ds_xmalloc(mb * sizeof *t->samples);
    t->ready_step = -1;
    return 0;
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
    *t = (ds_trainer){.model = model, .dev = model->dev};
    ds_schedule_init(&t->schedule, &model->base->facts);
    if (!(rc = ds_train_task_init(&t->task, model, start, &o, images, err)) &&
        !(rc = allocate(t, err)) && !(rc = ds_train_guidance_open(&t->guidance, model, &o, err)) &&
        !(rc = ds_net_new_train(&t->net, model, start, o.micro_batch, o.recompute, err)))
        ds_net_bind(t->net, t->task.p, t->task.g);
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
    ds_train_guidance_release(&t->guidance);
    ds_train_task_release(&t->task);
    t->dev->free(t->dev, t->image_block);
    t->dev->free(t->dev, t->outcome);
    ds_schedule_release(&t->schedule);
    free(t->noise_step);
    free(t->noise_sample);
    free(t->host);
    free(t->seen);
    free(t->samples);
    free(t);
}

ds_trainer_plan ds_trainer_plan_of(ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                                   const ds_train_options *opt) {
    const ds_facts *c = &base->facts;
    const int mb = opt->micro_batch ? opt->micro_batch : opt->batch;
    ds_params table = {0};
    ds_adapter_table(&table, base, spec);
    size_t state = ds_train_task_bytes(&table);
    ds_params_release(&table);
    size_t floats = batch_floats(c, opt, (size_t)mb) + given_floats(c, opt, (size_t)mb),
           outcomes = 3 * outcome_size(opt->batch);
    double weights, activations;
    ds_train_guidance_bytes(dev, base, opt, &weights, &activations);
    return (ds_trainer_plan){
        .weights = weights + (double)ds_net_weight_bytes(dev, base, DS_NET_TRAIN),
        .state = (double)state,
        .activations = activations + (double)ds_net_train_bytes(base, dev, mb, opt->recompute),
        .batch = (double)(floats * sizeof(float) + outcomes * sizeof(double))};
}

/* ---------------------------------------------------------------- batches */

/* How the picture of a draw is mixed with noise, what the network is told, and the coefficients of
 * its loss. */
static void mix(const ds_trainer *t, const ds_draw *d, float weight, float *time, float *ca,
                float *cb, float coef[8]) {
    const ds_flow *flow = &facts(t)->flow;
    if (flow->path == DS_FLOW_NONE) {
        const int i = (int)d->t;
        *time = t->schedule.time[i];
        *ca = (float)sqrt(t->schedule.alpha_bar[i]);
        *cb = (float)sqrt(1 - t->schedule.alpha_bar[i]);
        ds_schedule_loss_coef(&t->schedule, i, weight, coef);
        return;
    }
    const ds_flow_point p = ds_flow_at(flow->path, d->t);
    *time = ds_flow_time(flow, d->t);
    *ca = (float)p.a;
    *cb = (float)p.s;
    memset(coef, 0, 8 * sizeof *coef);
    coef[0] = (float)(ds_flow_sign(flow) * p.da);
    coef[1] = (float)(ds_flow_sign(flow) * p.ds);
    coef[7] = weight;
}

/* A micro-batch in host memory: x0, conditions, coefficients, in one piece: x0 (mb,C,S,S), coef
 * (mb,8), ca, cb (mb); where guidance is trained in, its shares (mb,outC each).  weight = share in
 * the mean loss. */
static void prepare_batch(ds_trainer *t, const ds_draw *draw, int mb, float weight) {
    const ds_facts *c = facts(t);
    const size_t px = ds_facts_in(c);
    float *coef = t->host + (size_t)mb * px, *ca = coef + 8 * (size_t)mb, *cb = ca + mb;
    float *own = cb + mb, *base = own + (size_t)mb * (size_t)c->out_channels;
    for (int i = 0; i < mb; i++) {
        const ds_draw *d = &draw[i];
        int label = t->task.images.labels[d->image];
        ds_train_task_picture(&t->task, t->host + (size_t)i * px, d);
        t->samples[i] = (ds_net_sample){.row = -1, .base_row = c->classes, .task = 0};
        if (!d->drop && t->task.spec.classes)
            t->samples[i].row = label, t->samples[i].base_row = -1;
        else if (!d->drop)
            t->samples[i].base_row = label;
        mix(t, d, weight, &t->samples[i].t, &ca[i], &cb[i], coef + 8 * i);
        if (t->guidance.base)
            ds_train_guidance_shares(&t->task.opt, c, (double)cb[i] / ((double)ca[i] + cb[i]),
                                     own + i * c->out_channels, base + i * c->out_channels);
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
    const ds_facts *c = facts(t);
    const size_t px = ds_facts_in(c), n = (size_t)mb;
    const float *x0 = t->given, *coef = x0 + n * px, *ca = coef + 8 * n, *cb = ca + n;
    const float *own = cb + n, *base = own + n * (size_t)c->out_channels;
    t->dev->upload(t->dev, t->given, t->host, given_floats(c, &t->task.opt, n) * sizeof(float));
    k->normal(t->dev, t->noise, t->task.opt.seed, stream, t->noise_step, t->noise_sample, mb, px);
    k->axpby(t->dev, t->xt, ca, x0, cb, t->noise, mb, px);
    ds_net_forward(t->net, t->out, &(ds_net_input){.x = t->xt, .samples = t->samples}, mb);
    if (t->guidance.base)
        ds_train_guidance_take(&t->guidance, t->out, t->xt, t->samples, own, base,
                               t->host + (own - t->given), mb);
    const size_t plane = (size_t)c->side * (size_t)c->side;
    if (c->flow.path != DS_FLOW_NONE) {
        k->fill(t->dev, mse + mb, 0.0f, n);
        k->flow_loss(t->dev, mse, dout, t->out, x0, t->noise, coef, mb, px, ds_facts_out(c));
    } else
        k->diffusion_loss(t->dev, mse, mse + mb, dout, t->out, x0, t->noise, t->xt, coef,
                          c->learn_sigma, (float)t->task.opt.vb_weight, mb, c->channels, plane);
}

/* Adds the losses of the micro-batch at `first`, which `seen` holds. */
static void add_losses(ds_trainer *t, int first, int mb, double *mse, double *vb) {
    const float *losses = losses_at(t->seen, first);
    for (int i = 0; i < mb; i++) {
        *mse += losses[i];
        *vb += losses[mb + i];
    }
}

/* The micro-batch of step that starts at sample `first`, unless host holds it already. */
static void prepare_train(ds_trainer *t, int step, int first) {
    const int mb = t->task.opt.micro_batch;
    if (t->ready_step == step && t->ready_first == first)
        return;
    ds_draw *draw = ds_xmalloc((size_t)mb * sizeof *draw);
    for (int i = 0; i < mb; i++)
        draw[i] = ds_train_task_draw(&t->task, step, first + i);
    prepare_batch(t, draw, mb, 1.0f / (float)t->task.opt.batch);
    free(draw);
    t->ready_step = step;
    t->ready_first = first;
}

/* While a device with memory of its own computes, the host makes the batch that follows. */
static void prepare_next(ds_trainer *t, int step, int first) {
    if (t->dev->host_memory)
        return;
    if (first + t->task.opt.micro_batch < t->task.opt.batch)
        prepare_train(t, step, first + t->task.opt.micro_batch);
    else if (step + 1 < t->task.course.last)
        prepare_train(t, step + 1, 0);
}

/* Asks the device for all of a step. */
static void begin_step(ds_trainer *t, int step) {
    const int mb = t->task.opt.micro_batch;
    t->dev->ops->fill(t->dev, t->task.g, 0.0f, t->task.table.total);
    for (int first = 0; first < t->task.opt.batch; first += mb) {
        prepare_train(t, step, first);
        run_batch(t, DS_STREAM_NOISE, losses_at(outcome_of(t, step), first), mb, t->dout);
        ds_net_backward(t->net, t->dout, mb);
        if (first + mb < t->task.opt.batch)
            prepare_next(t, step, first);
    }
    ds_train_task_optimise(&t->task, step, outcome_of(t, step));
    ds_net_refold(t->net);
    if (t->dev->fetch)
        t->dev->fetch(t->dev, step & 1, outcome_of(t, step),
                      outcome_size(t->task.opt.batch) * sizeof(double));
    t->begun = step + 1;
    prepare_next(t, step, t->task.opt.batch - mb);
}

/* Reads what the device made of the oldest step; waits for it. */
static int take_outcome(ds_trainer *t, ds_train_report *r, ds_error *err) {
    const int mb = t->task.opt.micro_batch;
    const size_t bytes = outcome_size(t->task.opt.batch) * sizeof(double);
    if (t->dev->fetched)
        t->dev->fetched(t->dev, t->task.step & 1, t->seen, bytes);
    else
        t->dev->download(t->dev, t->seen, outcome_of(t, t->task.step), bytes);
    for (int first = 0; first < t->task.opt.batch; first += mb)
        add_losses(t, first, mb, &r->mse, &r->vb);
    r->mse /= t->task.opt.batch;
    r->vb /= t->task.opt.batch;
    r->loss = r->mse + t->task.opt.vb_weight * r->vb;
    r->grad_norm = sqrt(t->seen[0]);
    r->lr = ds_train_task_rate(&t->task, t->task.step);
    if (!isfinite(r->loss) || !isfinite(r->grad_norm))
        return ds_fail(err, DS_EINVAL, /* the same numbers again would end the same */
                       "the %s is not finite at step %d: use a smaller learning rate than %g",
                       isfinite(r->loss) ? "gradient" : "loss", t->task.step + 1, t->task.opt.lr);
    return 0;
}

int ds_trainer_step(ds_trainer *t, ds_train_report *r, ds_error *err) {
    *r = (ds_train_report){0};
    if (t->begun == t->task.step)
        begin_step(t, t->task.step);
    if (t->dev->fetch && t->begun == t->task.step + 1 && t->begun < t->ahead &&
        t->begun < t->task.course.last)
        begin_step(t, t->begun);
    int rc = take_outcome(t, r, err);
    if (rc) { /* made again, should the caller try again */
        t->ready_step = -1;
        t->begun = t->task.step;
    } else
        r->step = ++t->task.step;
    return rc;
}

void ds_trainer_ahead(ds_trainer *t, int until) { t->ahead = until; }
int ds_trainer_busy(const ds_trainer *t) { return t->begun > t->task.step; }

int ds_trainer_moved(const ds_trainer *t) { return t->task.moved; }

int ds_trainer_done(const ds_trainer *t) { return t->task.step; }

const ds_train_course *ds_trainer_course(const ds_trainer *t) { return &t->task.course; }

int ds_trainer_look(ds_trainer *t, double heldout) {
    DS_ASSERT(!ds_trainer_busy(t)); /* what has begun has its rate */
    return ds_train_course_look(&t->task.course, &t->task.opt, t->task.step, heldout);
}

int ds_trainer_time(ds_trainer *t, double seconds) {
    DS_ASSERT(!ds_trainer_busy(t));
    return ds_train_course_time(&t->task.course, &t->task.opt, t->task.step, seconds);
}

double ds_trainer_deadline(const ds_trainer *t) {
    return ds_train_course_deadline(&t->task.course, &t->task.opt, t->task.step);
}

int ds_trainer_heldout(ds_trainer *t, double *loss, ds_error *err) {
    const int mb = t->task.opt.micro_batch;
    double mse = 0, vb = 0;
    ds_draw *draw = ds_xmalloc((size_t)mb * sizeof *draw);
    DS_ASSERT(!ds_trainer_busy(t));
    t->ready_step = -1; /* its place in host memory is used here */
    ds_net_bind(t->net, t->task.ema, t->task.g);
    for (uint32_t first = 0; first < t->task.n_held; first += (uint32_t)mb) {
        int count = (int)(t->task.n_held - first) < mb ? (int)(t->task.n_held - first) : mb;
        for (int i = 0; i < count; i++)
            draw[i] = ds_train_task_draw_heldout(&t->task, first + (uint32_t)i);
        prepare_batch(t, draw, count, 0.0f);
        run_batch(t, DS_STREAM_HELDOUT, losses_at(t->outcome, 0), count, NULL);
        t->dev->download(t->dev, t->seen, t->outcome, outcome_size(count) * sizeof(double));
        add_losses(t, 0, count, &mse, &vb);
    }
    free(draw);
    ds_net_bind(t->net, t->task.p, t->task.g);
    *loss = (mse + t->task.opt.vb_weight * vb) / t->task.n_held;
    return isfinite(*loss) ? 0 : ds_fail(err, DS_EFAILED, "the held-out loss is not finite");
}

float *ds_trainer_copy(ds_trainer *t, int gradients) {
    float *x = ds_xmalloc(t->task.table.total * sizeof *x);
    DS_ASSERT(!ds_trainer_busy(t));
    t->dev->download(t->dev, x, gradients ? t->task.g : t->task.p, t->task.table.total * sizeof *x);
    return x;
}

int ds_trainer_result(ds_trainer *t, ds_adapter **out, ds_error *err) {
    DS_ASSERT(!ds_trainer_busy(t));
    int rc = ds_adapter_new(out, t->model->base, &t->task.spec, err);
    if (rc)
        return rc;
    float *ema = ds_xmalloc((t->task.table.total + 1) * sizeof *ema);
    t->dev->download(t->dev, ema, t->task.ema, t->task.table.total * sizeof *ema);
    for (int i = 0; i < t->task.table.count;
         i++) { /* frozen entries keep the bits of their seeded start */
        const ds_param *p = &t->task.table.items[i];
        if (!p->frozen)
            memcpy((*out)->data + p->offset, ema + p->offset, p->count * sizeof *ema);
    }
    free(ema);
    ds_params_round(&t->task.table, (*out)->data);
    return 0;
}

/* ---------------------------------------------------------------- checkpoints */

int ds_trainer_save(ds_trainer *t, const char *path, ds_error *err) {
    DS_ASSERT(!ds_trainer_busy(t));
    return ds_train_task_save(&t->task, path, err);
}

int ds_trainer_load(ds_trainer *t, const char *path, ds_error *err) {
    int rc = ds_train_task_load(&t->task, path, err);
    if (rc)
        return rc;
    t->begun = t->task.step;
    ds_net_refold(t->net);
    return 0;
}
