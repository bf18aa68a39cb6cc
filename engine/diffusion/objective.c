/* engine/diffusion/objective.c - the loss under every hypothesis of what a network predicts. */
#include "engine/diffusion/objective.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/diffusion/diffusion.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *words;
} predictions[DS_PREDICTIONS] = {{"eps", "noise (eps)"},
                                 {"data-noise", "velocity (data - noise)"},
                                 {"noise-data", "velocity (noise - data)"},
                                 {"x0", "the clean picture (x0)"}},
  paths[DS_PATHS] = {{"ddpm", "DDPM schedule"}, {"linear", "linear path"}};

const char *ds_prediction_name(enum ds_prediction p) { return predictions[p].name; }
const char *ds_prediction_words(enum ds_prediction p) { return predictions[p].words; }
const char *ds_noise_path_name(enum ds_noise_path p) { return paths[p].name; }
const char *ds_noise_path_words(enum ds_noise_path p) { return paths[p].words; }

int ds_prediction_from_name(const char *name, enum ds_prediction *out, ds_error *err) {
    for (int i = 0; i < DS_PREDICTIONS; i++)
        if (!strcmp(name, predictions[i].name)) {
            *out = (enum ds_prediction)i;
            return 0;
        }
    return ds_fail(err, DS_EINVAL,
                   "unknown objective '%.40s': use eps, data-noise, noise-data or x0", name);
}

/* ---------------------------------------------------------------- what is tried */

/* Noise to data, s / a, and the weight of the picture's error beside the answer's: those under
 * which bases of known objective were told apart best (tools/parity/objective_bases.py). */
static const double ratios[] = {0.35, 0.7, 2.5, 5, 10};
enum { LEVELS = sizeof ratios / sizeof ratios[0], SEED = 9 };
static const double picture_weight = 0.4;

/* The ways in which a time is told. */
static const struct {
    enum ds_noise_path path;
    const char *words;
    int data; /* linear: what grows with t is the data, else the noise */
    double times;
} clocks[] = {{DS_PATH_DDPM, "t of 0..T-1", 0, 0},
              {DS_PATH_LINEAR, "t, 1 is data", 1, 1},
              {DS_PATH_LINEAR, "t, 1 is noise", 0, 1},
              {DS_PATH_LINEAR, "1000 t, 1 is data", 1, 1000},
              {DS_PATH_LINEAR, "1000 t, 1 is noise", 0, 1000}};
enum { CLOCKS = sizeof clocks / sizeof clocks[0] };

int64_t ds_objective_passes(int n) { return (int64_t)CLOCKS * LEVELS * n; }

typedef struct {
    double a, s; /* x_t = a x + s e */
    float t;     /* what the network is told */
} mix;

/* The timestep whose ratio of noise to data is nearest. */
static mix mix_of(const ds_schedule *schedule, int clock, double ratio) {
    if (clocks[clock].path == DS_PATH_LINEAR) {
        double s = ratio / (1 + ratio);
        return (mix){1 - s, s, (float)((clocks[clock].data ? 1 - s : s) * clocks[clock].times)};
    }
    int best = 0;
    double nearest = INFINITY;
    for (int i = 0; i < schedule->steps; i++) {
        double bar = schedule->alpha_bar[i], off = fabs(log(sqrt((1 - bar) / bar) / ratio));
        if (off < nearest)
            nearest = off, best = i;
    }
    double bar = schedule->alpha_bar[best];
    return (mix){sqrt(bar), sqrt(1 - bar), (float)schedule->t[best]};
}

/* What the hypothesis says the answer is: x x + e e; an answer that is off by d makes a picture
 * that is off by `picture` d: x = (x_t - s e) / a, x_t + s v (linear), a x_t + s v (DDPM). */
typedef struct {
    double x, e, picture;
} target;

static target target_of(enum ds_prediction p, enum ds_noise_path path, const mix *m) {
    double x = path == DS_PATH_LINEAR ? 1 : m->s, e = path == DS_PATH_LINEAR ? 1 : m->a;
    switch (p) {
    case DS_PREDICT_EPS: return (target){0, 1, m->s / m->a};
    case DS_PREDICT_DATA_NOISE: return (target){x, -e, m->s};
    case DS_PREDICT_NOISE_DATA: return (target){-x, e, m->s};
    case DS_PREDICT_X0: return (target){1, 0, 1};
    case DS_PREDICTIONS: break;
    }
    DS_ASSERT(0);
    return (target){0};
}

/* ---------------------------------------------------------------- the loss */

typedef struct {
    const float *x, *e;
    float *noisy, *said;
    size_t count; /* of each of them */
    int n;
    ds_denoiser *denoiser;
    void *user;
    ds_progress *step;
    void *step_user;
    int64_t done;
} trial;

/* Bounded, so that what is not finite is only a very bad answer. */
static double log_of(double off, double all) {
    return log(isfinite(off) ? fmin(fmax(off / fmax(all, 1e-30), 1e-9), 1e9) : 1e9);
}

/* Logs of the two relative errors of each prediction at one ratio, added to sum. */
static int try_level(trial *t, int clock, const mix *m, double sum[DS_PREDICTIONS][2],
                     ds_error *err) {
    for (size_t i = 0; i < t->count; i++)
        t->noisy[i] = (float)(m->a * t->x[i] + m->s * t->e[i]);
    int rc = t->denoiser(t->user, t->said, t->noisy, m->t, t->n, err);
    for (int p = 0; !rc && p < DS_PREDICTIONS; p++) {
        target k = target_of((enum ds_prediction)p, clocks[clock].path, m);
        double off = 0, all = 0, pictures = 0;
        for (size_t i = 0; i < t->count; i++) {
            double x = t->x[i], want = k.x * x + k.e * t->e[i], d = t->said[i] - want;
            off += d * d;
            all += want * want;
            pictures += x * x;
        }
        sum[p][0] += log_of(off, all);
        sum[p][1] += log_of(k.picture * k.picture * off, pictures);
    }
    t->done += t->n;
    if (!rc && ds_progress_say(t->step, t->step_user, t->done, ds_objective_passes(t->n)))
        rc = ds_fail(err, DS_ECANCELED, "finding the objective was cancelled");
    return rc;
}

static int by_loss(const void *a, const void *b) {
    const ds_objective_row *x = a, *y = b;
    return x->loss != y->loss               ? (x->loss > y->loss) - (x->loss < y->loss)
           : x->prediction != y->prediction ? (int)x->prediction - (int)y->prediction
                                            : (int)x->path - (int)y->path;
}

static void judge(ds_objective *o) {
    qsort(o->rows, (size_t)DS_OBJECTIVE_ROWS, sizeof o->rows[0], by_loss);
    const ds_objective_row *best = &o->rows[0];
    o->rival = best->prediction == DS_PREDICT_X0 && o->rows[1].prediction == DS_PREDICT_X0 ? 2 : 1;
    o->margin = o->rows[o->rival].loss / best->loss;
    o->clear = o->margin >= DS_OBJECTIVE_MARGIN && best->answer <= DS_OBJECTIVE_ANSWER;
}

static int try_all(trial *t, const ds_schedule *schedule, ds_objective *out, ds_error *err) {
    int rc = 0;
    for (int p = 0; p < DS_OBJECTIVE_ROWS; p++)
        out->rows[p] = (ds_objective_row){.prediction = (enum ds_prediction)(p % DS_PREDICTIONS),
                                          .path = (enum ds_noise_path)(p / DS_PREDICTIONS),
                                          .time = "",
                                          .loss = INFINITY};
    for (int c = 0; !rc && c < CLOCKS; c++) {
        double sum[DS_PREDICTIONS][2] = {0};
        for (int l = 0; !rc && l < LEVELS; l++) {
            mix m = mix_of(schedule, c, ratios[l]);
            rc = try_level(t, c, &m, sum, err);
        }
        for (int p = 0; p < DS_PREDICTIONS; p++) {
            ds_objective_row *row = &out->rows[(int)clocks[c].path * DS_PREDICTIONS + p];
            double loss =
                exp(((1 - picture_weight) * sum[p][0] + picture_weight * sum[p][1]) / LEVELS);
            if (loss >= row->loss)
                continue;
            row->loss = loss;
            row->answer = exp(sum[p][0] / LEVELS);
            row->picture = exp(sum[p][1] / LEVELS);
            row->time = clocks[c].words;
        }
    }
    if (!rc)
        judge(out);
    return rc;
}

int ds_objective_measure(ds_objective *out, const ds_facts *c, ds_denoiser *denoiser, void *user,
                         const float *pictures, int n, ds_progress *step, void *step_user,
                         ds_error *err) {
    size_t one = ds_facts_in(c), all = one * (size_t)n;
    DS_ASSERT(n > 0);
    float *room = ds_xmalloc(3 * all * sizeof *room), *e = room;
    trial t = {.x = pictures,
               .e = e,
               .noisy = room + all,
               .said = room + 2 * all,
               .count = all,
               .n = n,
               .denoiser = denoiser,
               .user = user,
               .step = step,
               .step_user = step_user};
    for (int i = 0; i < n; i++)
        ds_rng_normal(e + (size_t)i * one, one, SEED, DS_STREAM_OBJECTIVE, 0, (uint64_t)i);
    ds_schedule schedule;
    ds_schedule_init(&schedule, c);
    int rc = try_all(&t, &schedule, out, err);
    ds_schedule_release(&schedule);
    free(room);
    return rc;
}

/* ---------------------------------------------------------------- a net as a denoiser */

size_t ds_net_denoiser_bytes(const ds_facts *c, int batch) {
    return (size_t)batch *
           ((ds_facts_in(c) + 2 * ds_facts_out(c)) * sizeof(float) + sizeof(ds_net_sample));
}

int ds_net_denoiser_init(ds_net_denoiser *d, const ds_model *model, ds_net *net, int batch,
                         ds_error *err) {
    const ds_facts *c = &model->base->facts;
    *d = (ds_net_denoiser){.net = net, .dev = model->dev, .c = c, .batch = batch};
    d->x = d->dev->alloc(d->dev, (size_t)batch * ds_facts_in(c) * sizeof(float));
    d->out = d->dev->alloc(d->dev, (size_t)batch * ds_facts_out(c) * sizeof(float));
    if (!d->x || !d->out) {
        ds_net_denoiser_release(d);
        return ds_fail(err, DS_ENOMEM, "not enough memory for %d pictures of %zu bytes", batch,
                       ds_facts_in(c) * sizeof(float));
    }
    d->host = ds_xmalloc((size_t)batch * ds_facts_out(c) * sizeof(float));
    d->samples = ds_xcalloc((size_t)batch, sizeof *d->samples);
    return 0;
}

void ds_net_denoiser_release(ds_net_denoiser *d) {
    if (d->dev) {
        d->dev->free(d->dev, d->x);
        d->dev->free(d->dev, d->out);
    }
    free(d->host);
    free(d->samples);
    *d = (ds_net_denoiser){0};
}

int ds_net_denoise(void *user, float *out, const float *x, float t, int n, ds_error *err) {
    ds_net_denoiser *d = user;
    size_t in = ds_facts_in(d->c), all = ds_facts_out(d->c);
    (void)err;
    for (int at = 0; at < n; at += d->batch) {
        int b = n - at < d->batch ? n - at : d->batch;
        for (int i = 0; i < b; i++)
            d->samples[i] =
                (ds_net_sample){.t = t, .row = -1, .base_row = d->c->classes, .task = -1};
        d->dev->upload(d->dev, d->x, x + (size_t)at * in, (size_t)b * in * sizeof(float));
        ds_net_forward(d->net, d->out, &(ds_net_input){.x = d->x, .samples = d->samples},
                       b); /* (b,outC,S,S) */
        d->dev->download(d->dev, d->host, d->out, (size_t)b * all * sizeof(float));
        for (int i = 0; i < b; i++) /* what a learned variance says is left out */
            memcpy(out + (size_t)(at + i) * in, d->host + (size_t)i * all, in * sizeof(float));
    }
    return 0;
}
