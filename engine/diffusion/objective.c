/* engine/diffusion/objective.c - the loss under every hypothesis of what a network predicts. */
#include "engine/diffusion/objective.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/diffusion/diffusion.h"
#include "engine/diffusion/flow.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *words;
} predictions[DS_PREDICTIONS] = {{"eps", "noise (eps)"},
                                 {"data-noise", "velocity (data - noise)"},
                                 {"noise-data", "velocity (noise - data)"},
                                 {"x0", "the clean picture (x0)"}},
  paths[DS_PATHS] = {{"ddpm", "DDPM schedule"},
                     {"linear", "linear path"},
                     {"gvp", "gvp path"},
                     {"cosine", "cosine schedule"}};

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

/* Takes `end` off text (n bytes); 0: it does not end so. */
static int takes(char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    if (n <= m || strcmp(text + n - m, end))
        return 0;
    text[n - m] = 0;
    return 1;
}

int ds_objective_from_name(const char *name, enum ds_prediction *out, ds_flow *flow,
                           ds_error *err) {
    char word[40];
    snprintf(word, sizeof word, "%s", name);
    int many = takes(word, "-1000"), gvp = takes(word, "-gvp");
    *flow = (ds_flow){.path = DS_FLOW_NONE};
    if (ds_prediction_from_name(word, out, err) ||
        ((many || gvp) && (*out == DS_PREDICT_EPS || *out == DS_PREDICT_X0)))
        return ds_fail(err, DS_EINVAL,
                       "unknown objective '%.40s': use eps, data-noise, noise-data (each with "
                       "-gvp, -1000 or -gvp-1000 behind it where that is so) or x0",
                       name);
    if (*out != DS_PREDICT_EPS && *out != DS_PREDICT_X0)
        *flow = (ds_flow){.path = gvp ? DS_FLOW_GVP : DS_FLOW_LINEAR,
                          .to_data = *out == DS_PREDICT_DATA_NOISE,
                          .scale = many ? 1000 : 1,
                          .shift = 1};
    return 0;
}

void ds_objective_words(const ds_flow *flow, char *out, size_t size) {
    if (flow->path == DS_FLOW_NONE)
        snprintf(out, size, "%s", ds_prediction_words(DS_PREDICT_EPS));
    else
        snprintf(out, size, "%s, %s, time 0 to %g, %g is %s",
                 ds_prediction_words(flow->to_data ? DS_PREDICT_DATA_NOISE : DS_PREDICT_NOISE_DATA),
                 ds_noise_path_words(flow->path == DS_FLOW_GVP ? DS_PATH_GVP : DS_PATH_LINEAR),
                 flow->scale, flow->scale, flow->to_data ? "data" : "noise");
}

/* ---------------------------------------------------------------- what is tried */

/* Noise to data, s / a, and the weight of the picture's error beside the answer's: those under
 * which bases of known objective were told apart best (tools/parity/objective_bases.py). */
static const double ratios[] = {0.35, 0.7, 2.5, 5, 10};
static const double HALF_PI = 1.57079632679489661923;
enum { LEVELS = sizeof ratios / sizeof ratios[0], SEED = 9 };
static const double picture_weight = 0.4;

/* At the MUCH last of them a picture is almost noise, which any trained network sees: a velocity on
 * the linear path has it whole, one on gvp pi / 2 a of it, 0.3 and 0.16, cosine a of it.  What is
 * in the middle tells them apart where the losses are near each other. */
enum { MUCH = 2 };
static const double share_border = 0.6, clock_margin = 1.5;

/* What is compared.  The first EARLY of them are enough where eps is clear. */
static const struct {
    enum ds_prediction prediction;
    enum ds_noise_path path;
} hypotheses[] = {{DS_PREDICT_EPS, DS_PATH_DDPM},          {DS_PREDICT_DATA_NOISE, DS_PATH_DDPM},
                  {DS_PREDICT_NOISE_DATA, DS_PATH_DDPM},   {DS_PREDICT_X0, DS_PATH_DDPM},
                  {DS_PREDICT_EPS, DS_PATH_LINEAR},        {DS_PREDICT_DATA_NOISE, DS_PATH_LINEAR},
                  {DS_PREDICT_NOISE_DATA, DS_PATH_LINEAR}, {DS_PREDICT_X0, DS_PATH_LINEAR},
                  {DS_PREDICT_DATA_NOISE, DS_PATH_GVP},    {DS_PREDICT_NOISE_DATA, DS_PATH_GVP},
                  {DS_PREDICT_NOISE_DATA, DS_PATH_COSINE}};
enum { EARLY = 8, EARLY_CLOCKS = 5 };
_Static_assert(sizeof hypotheses / sizeof hypotheses[0] == DS_OBJECTIVE_ROWS, "a row each");

/* The ways in which a time is told. */
static const struct {
    enum ds_noise_path path;
    const char *words;
    int data; /* what grows with t is the data, else the noise */
    double times;
} clocks[] = {{DS_PATH_DDPM, "t of 0..T-1", 0, 0},
              {DS_PATH_LINEAR, "t, 1 is data", 1, 1},
              {DS_PATH_LINEAR, "t, 1 is noise", 0, 1},
              {DS_PATH_LINEAR, "1000 t, 1 is data", 1, 1000},
              {DS_PATH_LINEAR, "1000 t, 1 is noise", 0, 1000},
              {DS_PATH_GVP, "t, 1 is data", 1, 1},
              {DS_PATH_GVP, "t, 1 is noise", 0, 1},
              {DS_PATH_GVP, "1000 t, 1 is data", 1, 1000},
              {DS_PATH_GVP, "1000 t, 1 is noise", 0, 1000}};
enum { CLOCKS = sizeof clocks / sizeof clocks[0] };

/* Is the path of a hypothesis tried with this clock?  A schedule of DDPM's counts its noise. */
static int with_clock(enum ds_noise_path path, int clock) {
    return path == DS_PATH_COSINE
               ? clocks[clock].path == DS_PATH_GVP && !clocks[clock].data && clocks[clock].times > 1
               : clocks[clock].path == path;
}

int ds_objective_flow(const ds_objective_row *row, ds_flow *out, const char **why) {
    static const enum ds_flow_path flows[DS_PATHS] = {
        [DS_PATH_LINEAR] = DS_FLOW_LINEAR, [DS_PATH_GVP] = DS_FLOW_GVP};
    const int to_data = row->prediction == DS_PREDICT_DATA_NOISE;
    *out = (ds_flow){.path = DS_FLOW_NONE};
    *why = "supported is noise with DDPM's schedule, or a velocity on the linear or gvp path";
    if (row->prediction == DS_PREDICT_EPS && row->path == DS_PATH_DDPM)
        return 1;
    if (row->prediction == DS_PREDICT_EPS || row->prediction == DS_PREDICT_X0 ||
        flows[row->path] == DS_FLOW_NONE)
        return 0;
    *why = "its time runs against its velocity: supported is a time that is 1 where the velocity "
           "points";
    if (row->data != to_data)
        return 0;
    *out = (ds_flow){.path = flows[row->path], .to_data = to_data, .scale = row->scale, .shift = 1};
    return 1;
}

int64_t ds_objective_passes(int n) { return (int64_t)CLOCKS * LEVELS * n; }

typedef struct {
    double a, s; /* x_t = a x + s e */
    float t;     /* what the network is told */
} mix;

/* The timestep whose ratio of noise to data is nearest. */
static mix mix_of(const ds_schedule *schedule, int clock, double ratio) {
    if (clocks[clock].path != DS_PATH_DDPM) {
        enum ds_flow_path path = clocks[clock].path == DS_PATH_GVP ? DS_FLOW_GVP : DS_FLOW_LINEAR;
        double u = path == DS_FLOW_GVP ? atan(ratio) / HALF_PI : ratio / (1 + ratio);
        ds_flow_point p = ds_flow_at(path, u);
        ds_flow told = {path, clocks[clock].data, clocks[clock].times, 1};
        return (mix){p.a, p.s, ds_flow_time(&told, u)};
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
 * that is off by `picture` d: x = (x_t - s e) / a, x_t + s v (linear), a x_t + s v (DDPM, cosine),
 * a x_t + s v 2 / pi (gvp). */
typedef struct {
    double x, e, picture;
} target;

static target target_of(enum ds_prediction p, enum ds_noise_path path, const mix *m) {
    double times = path == DS_PATH_GVP ? HALF_PI : 1, x = path == DS_PATH_LINEAR ? 1 : times * m->s,
           e = path == DS_PATH_LINEAR ? 1 : times * m->a;
    switch (p) {
    case DS_PREDICT_EPS: return (target){0, 1, m->s / m->a};
    case DS_PREDICT_DATA_NOISE: return (target){x, -e, m->s / times};
    case DS_PREDICT_NOISE_DATA: return (target){-x, e, m->s / times};
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

/* Of each hypothesis of a clock: the logs of the two relative errors, summed over the ratios, and
 * the noise in its answer, of the share that it should have in sign. */
typedef struct {
    double answer, picture, share;
} sums;

/* Adds those at one ratio. */
static int try_level(trial *t, int clock, const mix *m, int much, sums sum[DS_OBJECTIVE_ROWS],
                     ds_error *err) {
    for (size_t i = 0; i < t->count; i++)
        t->noisy[i] = (float)(m->a * t->x[i] + m->s * t->e[i]);
    int rc = t->denoiser(t->user, t->said, t->noisy, m->t, t->n, err);
    for (int h = 0; !rc && h < DS_OBJECTIVE_ROWS; h++) {
        if (!with_clock(hypotheses[h].path, clock))
            continue;
        target k = target_of(hypotheses[h].prediction, hypotheses[h].path, m);
        double off = 0, all = 0, pictures = 0, noise = 0, seen = 0;
        for (size_t i = 0; i < t->count; i++) {
            double x = t->x[i], want = k.x * x + k.e * t->e[i], d = t->said[i] - want;
            off += d * d;
            all += want * want;
            pictures += x * x;
            noise += (double)t->e[i] * t->e[i];
            seen += (double)t->e[i] * t->said[i];
        }
        sum[h].answer += log_of(off, all);
        sum[h].picture += log_of(k.picture * k.picture * off, pictures);
        if (much && isfinite(seen))
            sum[h].share += (k.e < 0 ? -1 : 1) * seen / noise / MUCH;
    }
    t->done += t->n;
    if (!rc && ds_progress_say(t->step, t->step_user, t->done, ds_objective_passes(t->n)))
        rc = ds_fail(err, DS_ECANCELED, "finding the objective was cancelled");
    return rc;
}

static int by_loss(const void *a, const void *b) {
    const ds_objective_row *x = a, *y = b;
    return x->out != y->out                 ? x->out - y->out
           : x->loss != y->loss             ? (x->loss > y->loss) - (x->loss < y->loss)
           : x->prediction != y->prediction ? (int)x->prediction - (int)y->prediction
                                            : (int)x->path - (int)y->path;
}

static int on_flow(const ds_objective_row *r) {
    return r->path != DS_PATH_DDPM &&
           (r->prediction == DS_PREDICT_DATA_NOISE || r->prediction == DS_PREDICT_NOISE_DATA);
}

/* Of a velocity the linear path and the others: told the time in the same way one of both has the
 * share of noise that it must not have; told it in another way a loss must be further away. */
static void rule_out(ds_objective *o) {
    ds_objective_row *best = &o->rows[0];
    const int linear = best->path == DS_PATH_LINEAR, right = (best->share > share_border) == linear;
    for (int i = 1; on_flow(best) && i < o->count; i++) {
        ds_objective_row *r = &o->rows[i];
        if (!on_flow(r) || r->prediction != best->prediction ||
            (r->path == DS_PATH_LINEAR) == linear)
            continue;
        if (r->data != best->data || r->scale != best->scale)
            r->out = right && r->loss >= clock_margin * best->loss;
        else if (right)
            r->out = 1;
        else
            best->out = 1;
    }
}

static void judge(ds_objective *o) {
    qsort(o->rows, (size_t)o->count, sizeof o->rows[0], by_loss);
    rule_out(o);
    qsort(o->rows, (size_t)o->count, sizeof o->rows[0], by_loss);
    const ds_objective_row *best = &o->rows[0];
    o->rival = best->prediction == DS_PREDICT_X0 && o->rows[1].prediction == DS_PREDICT_X0 ? 2 : 1;
    o->margin = o->rows[o->rival].loss / best->loss;
    o->clear = o->margin >= DS_OBJECTIVE_MARGIN && best->answer <= DS_OBJECTIVE_ANSWER;
}

static int try_clock(trial *t, const ds_schedule *schedule, int clock,
                     ds_objective_row rows[DS_OBJECTIVE_ROWS], ds_error *err) {
    sums sum[DS_OBJECTIVE_ROWS] = {{0}};
    int rc = 0;
    for (int l = 0; !rc && l < LEVELS; l++) {
        mix m = mix_of(schedule, clock, ratios[l]);
        rc = try_level(t, clock, &m, l >= LEVELS - MUCH, sum, err);
    }
    for (int h = 0; !rc && h < DS_OBJECTIVE_ROWS; h++) {
        double loss =
            exp(((1 - picture_weight) * sum[h].answer + picture_weight * sum[h].picture) / LEVELS);
        if (with_clock(hypotheses[h].path, clock) && loss < rows[h].loss)
            rows[h] = (ds_objective_row){.prediction = hypotheses[h].prediction,
                                         .path = hypotheses[h].path,
                                         .time = clocks[clock].words,
                                         .data = clocks[clock].data,
                                         .scale = clocks[clock].times,
                                         .loss = loss,
                                         .answer = exp(sum[h].answer / LEVELS),
                                         .picture = exp(sum[h].picture / LEVELS),
                                         .share = sum[h].share};
    }
    return rc;
}

static int try_all(trial *t, const ds_schedule *schedule, ds_objective *out, ds_error *err) {
    ds_objective_row rows[DS_OBJECTIVE_ROWS];
    int rc = 0;
    for (int h = 0; h < DS_OBJECTIVE_ROWS; h++)
        rows[h] = (ds_objective_row){.loss = INFINITY};
    for (int c = 0; !rc && c < CLOCKS; c++) {
        rc = try_clock(t, schedule, c, rows, err);
        if (rc || (c != EARLY_CLOCKS - 1 && c != CLOCKS - 1))
            continue;
        out->count = c < EARLY_CLOCKS ? EARLY : DS_OBJECTIVE_ROWS;
        memcpy(out->rows, rows, sizeof rows);
        judge(out);
        const ds_objective_row *best = &out->rows[0];
        if (out->clear && best->prediction == DS_PREDICT_EPS && best->path == DS_PATH_DDPM)
            break;
    }
    return rc;
}

/* DDPM's published schedule, for a base whose configuration says a flow. */
static ds_facts with_schedule(const ds_facts *c) {
    ds_facts f = *c;
    if (f.flow.path != DS_FLOW_NONE)
        f.train_steps = 1000, f.beta_start = 1e-4, f.beta_end = 2e-2;
    f.flow.path = DS_FLOW_NONE;
    return f;
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
    const ds_facts ddpm = with_schedule(c);
    ds_schedule_init(&schedule, &ddpm);
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
