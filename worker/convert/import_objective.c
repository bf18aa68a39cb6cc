/* worker/convert/import_objective.c - what is said of a base and what is measured, compared. */
#include "worker/convert/import_objective.h"
#include "base/fs.h"
#include "base/mem.h"
#include "engine/model/base_model.h"
#include "engine/vae/vae.h"
#include "worker/job/device.h"
#include "worker/job/memory.h"
#include "worker/measure/plan.h"
#include "worker/images/probe_pictures.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 8 };

/* In networks of fewer pixels a side a few pictures say little: what cannot be told of these is
 * assumed, and that is said. */
enum { SIDE_MIN = 16 };

/* ---------------------------------------------------------------- the measurement */

typedef struct {
    const ds_import_options *o;
    const ds_import_result *r;
    ds_device *dev;
    ds_base *base;
    ds_model *model;
    ds_net *net;
    ds_net_denoiser denoiser;
    ds_vae *vae;
    ds_probe_pictures pictures;
    ds_objective found[DS_PROBE_GROUPS_MAX]; /* of each group */
    int group;                               /* the one that decides */
    int64_t done, total;
} measure;

static int open_base(measure *m, ds_error *err) {
    ds_device_options device = m->o->device;
    if (!device.kind)
        device.kind = "cpu";
    int rc = ds_worker_device_open(&m->dev, &device, err);
    rc = rc ? rc : ds_base_open(&m->base, m->r->file, m->r->sha256, err);
    return rc ? rc : ds_model_new(&m->model, m->dev, m->base, err);
}

/* Bytes beside the base, which is open: the encoder goes before the net comes. */
static double needed(const measure *m, const ds_vae_config *vae, int side) {
    const ds_facts *c = &m->base->facts;
    double net = (double)ds_net_weight_bytes(m->dev, m->base, DS_NET_INFER) +
                 (double)ds_net_bytes(m->base, m->dev, DS_NET_INFER, BATCH) +
                 (double)ds_net_denoiser_bytes(c, BATCH);
    double encoder = vae ? (double)ds_vae_bytes(m->dev, vae, DS_VAE_ENCODER, side, side) : 0;
    return fmax(net, encoder);
}

/* On a device with memory of its own its room is asked for as it is taken. */
static int check_memory(const measure *m, const ds_vae_config *vae, int side, ds_error *err) {
    double need = ds_memory_now() + needed(m, vae, side), limit = ds_plan_limit(m->o->memory_limit),
           most = ds_plan_most(m->o->memory_limit);
    if (!m->dev->host_memory || limit <= 0 || need <= limit)
        return 0;
    return ds_fail(err, need > most ? DS_EINVAL : DS_ENOMEM,
                   "finding out what the base predicts takes %.0f MiB, there are %.0f MiB%s; "
                   "--objective eps does without",
                   need / (1 << 20), limit / (1 << 20), need > most ? "" : " now");
}

static int open_vae(measure *m, ds_error *err) {
    if (m->base->facts.pixel)
        return 0;
    return ds_vae_open(&m->vae, m->dev, m->r->vae_file, m->r->vae_sha256, DS_VAE_ENCODER, err);
}

/* 8-bit pictures as the base is trained on them: (n,C,S,S), -1..1. */
static void to_pixels(float *x, const uint8_t *rgb, int n, const ds_facts *c) {
    size_t plane = (size_t)c->side * (size_t)c->side;
    for (int i = 0; i < n; i++, rgb += 3 * plane)
        for (size_t p = 0; p < plane; p++) {
            const uint8_t *v = rgb + 3 * p;
            for (int k = 0; k < c->channels; k++) {
                float grey = 0.299f * v[0] + 0.587f * v[1] + 0.114f * v[2];
                *(x + ((size_t)i * (size_t)c->channels + (size_t)k) * plane + p) =
                    (c->channels == 3 ? v[k] : grey) / 127.5f - 1;
            }
        }
}

/* .. or the means of their latents, scaled. */
static int to_latents(measure *m, float *x, const ds_probe_group *g, ds_error *err) {
    const ds_facts *c = &m->base->facts;
    int side = m->pictures.side, rc = 0;
    size_t one = (size_t)c->channels * (size_t)c->side * (size_t)c->side,
           bytes = 3 * (size_t)side * (size_t)side;
    float *logvar = ds_xmalloc(one * sizeof *logvar);
    for (int i = 0; !rc && i < g->n; i++) {
        float *to = x + (size_t)i * one;
        rc = ds_vae_encode_u8(m->vae, g->rgb + (size_t)i * bytes, side, side, to, logvar, err);
        for (size_t k = 0; !rc && k < one; k++)
            to[k] *= (float)c->latent_scale;
    }
    free(logvar);
    return rc;
}

static int on_step(void *user, double done, double total) {
    measure *m = user;
    (void)total;
    const ds_import_progress *p = &m->o->progress;
    return p->step ? p->step(p->user, (double)m->done + done, (double)m->total) : 0;
}

static int measure_groups(measure *m, float *const *x, ds_error *err) {
    int rc = 0;
    ds_import_stage(&m->o->progress, "objective");
    for (int g = 0; g < m->pictures.count; g++)
        m->total += ds_objective_passes(m->pictures.groups[g].n);
    for (int g = 0; !rc && g < m->pictures.count; g++) {
        int n = m->pictures.groups[g].n;
        rc = ds_objective_measure(&m->found[g], &m->base->facts, ds_net_denoise, &m->denoiser, x[g],
                                  n, on_step, m, err);
        m->done += ds_objective_passes(n);
        if (m->found[g].rows[0].answer < m->found[m->group].rows[0].answer)
            m->group = g; /* where it is most at home */
    }
    return rc;
}

static int run_measure(measure *m, ds_error *err) {
    float *x[DS_PROBE_GROUPS_MAX] = {0};
    int rc = open_base(m, err);
    rc = rc ? rc : open_vae(m, err);
    if (rc)
        return rc;
    const ds_facts *c = &m->base->facts;
    const ds_vae_config *v = m->vae ? ds_vae_cfg(m->vae) : NULL;
    int side = c->side * (v ? ds_vae_factor(v) : 1);
    rc = check_memory(m, v, side, err);
    rc = rc ? rc : ds_probe_pictures_open(&m->pictures, m->o->probe, side, !c->pixel, err);
    for (int g = 0; !rc && g < m->pictures.count; g++) {
        const ds_probe_group *from = &m->pictures.groups[g];
        x[g] = ds_xmalloc((size_t)from->n * (size_t)c->channels * (size_t)c->side *
                          (size_t)c->side * sizeof(float));
        if (c->pixel)
            to_pixels(x[g], from->rgb, from->n, c);
        else
            rc = to_latents(m, x[g], from, err);
    }
    ds_vae_free(m->vae);
    m->vae = NULL;
    rc = rc ? rc : ds_net_new(&m->net, m->model, DS_NET_INFER, NULL, 0, BATCH, err);
    rc = rc ? rc : ds_net_denoiser_init(&m->denoiser, m->model, m->net, BATCH, err);
    rc = rc ? rc : measure_groups(m, x, err);
    for (int g = 0; g < m->pictures.count; g++)
        free(x[g]);
    return rc;
}

static void close_measure(measure *m) {
    ds_net_denoiser_release(&m->denoiser);
    ds_net_free(m->net);
    ds_vae_free(m->vae);
    ds_model_free(m->model);
    ds_base_free(m->base);
    ds_probe_pictures_close(&m->pictures);
    ds_worker_device_close(m->dev);
}

/* ---------------------------------------------------------------- the finding */

static json_t *number(double x) { return json_real(round(x * 1e5) / 1e5); }

static json_t *table_json(const ds_objective *f) {
    json_t *table = json_array();
    for (int i = 0; i < f->count; i++) {
        const ds_objective_row *r = &f->rows[i];
        json_t *row =
            json_pack("{s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:b}", "prediction",
                      ds_prediction_name(r->prediction), "path", ds_noise_path_name(r->path),
                      "time", r->time, "loss", number(r->loss), "answer", number(r->answer),
                      "picture", number(r->picture), "share", number(r->share), "out", r->out);
        DS_ASSERT(row);
        json_array_append_new(table, row);
    }
    return table;
}

static json_t *measured_json(const measure *m) {
    const ds_objective *f = &m->found[m->group];
    json_t *groups = json_array();
    for (int g = 0; g < m->pictures.count; g++)
        json_array_append_new(
            groups, json_pack("{s:s, s:i, s:s, s:s, s:o}", "name", m->pictures.groups[g].name,
                              "pictures", m->pictures.groups[g].n, "prediction",
                              ds_prediction_name(m->found[g].rows[0].prediction), "path",
                              ds_noise_path_name(m->found[g].rows[0].path), "loss",
                              number(m->found[g].rows[0].loss)));
    int own = m->o->probe && *m->o->probe;
    return json_pack("{s:o, s:o, s:s, s:o, s:b, s:o}", "probe",
                     ds_json_text(own ? m->o->probe : "bundled"), "groups", groups, "group",
                     m->pictures.groups[m->group].name, "margin", number(f->margin), "clear",
                     f->clear, "table", table_json(f));
}

/* "eps 0.981 | 0.995, ...": TABLE_OF; the last two only where they are tried. */
static void table_text(const ds_objective *f, char *out, size_t size) {
    size_t at = 0;
    for (int p = 0; p < DS_PREDICTIONS && at < size; p++) {
        double loss[DS_PATHS] = {0};
        for (int i = 0; i < f->count; i++)
            if ((int)f->rows[i].prediction == p)
                loss[f->rows[i].path] = f->rows[i].loss;
        int n = snprintf(out + at, size - at, "%s%s %.3g | %.3g", p ? ", " : "",
                         ds_prediction_name((enum ds_prediction)p), loss[DS_PATH_DDPM],
                         loss[DS_PATH_LINEAR]);
        at += n > 0 ? (size_t)n : 0;
        for (int path = DS_PATH_GVP; path <= DS_PATH_COSINE && loss[path] > 0 && at < size;
             path++) {
            n = snprintf(out + at, size - at, " | %.3g", loss[path]);
            at += n > 0 ? (size_t)n : 0;
        }
    }
}
#define TABLE_OF "losses with DDPM's schedule | on the linear path | on gvp | cosine"

static void row_text(const ds_objective_row *r, char *out, size_t size) {
    snprintf(out, size, "%s, %s", ds_prediction_words(r->prediction), ds_noise_path_words(r->path));
}

/* "eps", "velocity (data - noise), linear path, time 0 to 1, 1 is data" */
static void flow_text(const ds_flow *flow, char out[100]) {
    if (flow->path == DS_FLOW_NONE)
        snprintf(out, 100, "%s", ds_prediction_name(DS_PREDICT_EPS));
    else
        ds_objective_words(flow, out, 100);
}

typedef struct {
    const ds_import_options *o;
    const ds_objective_claim *claim;
    const ds_flow *flow; /* what it is */
    const measure *m;    /* NULL: it was not measured, because of .. */
    const char *why_not;
} finding;

/* how: "given", "pretrain", "args", ..., "measured", "assumed". */
static void report(const finding *f, const char *how, int warning, const char *line) {
    const ds_flow *flow = f->flow;
    const enum ds_prediction p = flow->path == DS_FLOW_NONE ? DS_PREDICT_EPS
                                 : flow->to_data            ? DS_PREDICT_DATA_NOISE
                                                            : DS_PREDICT_NOISE_DATA;
    const enum ds_noise_path path = flow->path == DS_FLOW_NONE     ? DS_PATH_DDPM
                                    : flow->path == DS_FLOW_LINEAR ? DS_PATH_LINEAR
                                                                   : DS_PATH_GVP;
    json_t *doc =
        json_pack("{s:s, s:s, s:o, s:s, s:o, s:o, s:o}", "prediction", ds_prediction_name(p),
                  "path", ds_noise_path_name(path), "time_scale",
                  flow->path == DS_FLOW_NONE ? json_null() : json_real(flow->scale), "how", how,
                  "said", *f->claim->where ? ds_json_text(f->claim->where) : json_null(),
                  "measured", f->m ? measured_json(f->m) : json_null(), "not_measured",
                  f->why_not ? ds_json_text(f->why_not) : json_null());
    ds_import_report_set(f->o->report, "objective", doc, warning, line);
}

static const char *how_said(const ds_objective_claim *claim) {
    static const char *const words[] = {"assumed",   "given",   "pretrain", "args",
                                        "scheduler", "tensors", "config"};
    return words[claim->by];
}

/* Without a clear measurement the direction must be known. */
static int need_direction(const ds_objective_claim *claim, const char *why, ds_error *err) {
    if (!claim->way_unknown)
        return 0;
    return ds_fail(err, DS_EINVAL,
                   "%s, which does not say in which direction (%.160s): give --objective "
                   "data-noise (SiT) or noise-data (REPA), with -gvp where the path is that",
                   claim->where, why);
}

/* Without a measurement: what is said, or assumed. */
static int report_unmeasured(const finding *f, ds_error *err) {
    char line[500], what[100];
    int said = f->claim->by != DS_SAID_BY_NOBODY, rc = need_direction(f->claim, f->why_not, err);
    if (rc)
        return rc;
    if (f->o->probe && *f->o->probe) {
        snprintf(line, sizeof line, "not measured: %s", f->why_not);
        ds_import_report_ignored(f->o->report, "--probe", line);
    }
    flow_text(f->flow, what);
    if (said)
        snprintf(line, sizeof line, "objective: %s (%s; not measured: %s)", what, f->claim->where,
                 f->why_not);
    else
        snprintf(line, sizeof line, "objective: not measured: %s; eps is assumed", f->why_not);
    report(f, how_said(f->claim), !said || f->claim->against, line);
    return 0;
}

static int refuse_measured(const ds_objective_claim *claim, const measure *m, const char *why,
                           ds_error *err) {
    const ds_objective *f = &m->found[m->group];
    char table[240], best[80];
    table_text(f, table, sizeof table);
    row_text(&f->rows[0], best, sizeof best);
    if (f->clear && claim->by == DS_SAID_BY_NOBODY)
        return ds_fail(err, DS_EINVAL,
                       "this base predicts %s (loss %.3g, the next %.3g): %s; " TABLE_OF ": %s",
                       best, f->rows[0].loss, f->rows[f->rival].loss, why, table);
    if (f->clear)
        return ds_fail(err, DS_EINVAL,
                       "%s, but its losses say it predicts %s%s%s%s: %s; --objective if what is "
                       "said is right",
                       claim->where, best, *why ? " (" : "", why, *why ? ")" : "", table);
    return ds_fail(err, DS_EINVAL,
                   "it cannot be told what this base predicts; " TABLE_OF
                   ": %s; the least must be %g times below the next, and the error of its answer, "
                   "%.2f, at most %g (none has 1): give --probe DIR with pictures like those it "
                   "was trained on, or --objective if it is known, as --objective eps",
                   table, DS_OBJECTIVE_MARGIN, f->rows[0].answer, DS_OBJECTIVE_ANSWER);
}

/* Is what was found what is said? */
static int agrees(const ds_objective_claim *claim, const ds_flow *found) {
    const ds_flow *said = &claim->flow;
    if (claim->by == DS_SAID_BY_NOBODY)
        return 1;
    if (said->path == DS_FLOW_NONE || found->path == DS_FLOW_NONE)
        return said->path == found->path;
    return (said->path == found->path || claim->path_open) &&
           (claim->clock_open || (said->to_data == found->to_data && said->scale == found->scale));
}

/* A velocity whose direction, clock or path is not said: the best of the rows that it leaves, where
 * it is as far below the others of them as a clear one must be. */
static int narrowed(const ds_objective_claim *claim, const ds_objective *f, ds_flow *flow) {
    const ds_objective_row *best = NULL;
    const char *why;
    if (claim->flow.path == DS_FLOW_NONE || !claim->clock_open)
        return 0;
    for (int i = 0; i < f->count; i++) {
        const ds_objective_row *r = &f->rows[i];
        const int velocity = r->prediction == DS_PREDICT_DATA_NOISE ||
                             r->prediction == DS_PREDICT_NOISE_DATA,
                  path =
                      (r->path == DS_PATH_LINEAR && claim->flow.path == DS_FLOW_LINEAR) ||
                      (r->path == DS_PATH_GVP && claim->flow.path == DS_FLOW_GVP) ||
                      ((r->path == DS_PATH_LINEAR || r->path == DS_PATH_GVP) && claim->path_open);
        if (!velocity || !path || r->out)
            continue;
        if (best)
            return r->loss >= DS_OBJECTIVE_MARGIN * best->loss &&
                   best->answer <= DS_OBJECTIVE_ANSWER && ds_objective_flow(best, flow, &why);
        best = r;
    }
    return 0;
}

static int judge(const ds_objective_claim *claim, const ds_import_options *o, const measure *m,
                 ds_flow *flow, ds_error *err) {
    const ds_objective *f = &m->found[m->group];
    const ds_objective_row *best = &f->rows[0], *next = &f->rows[f->rival];
    const int said = claim->by != DS_SAID_BY_NOBODY, small = m->base->facts.side < SIDE_MIN;
    const finding found = {o, claim, flow, m, NULL};
    char line[600], rival[80], table[240], what[100];
    const char *why = "";
    const int usable = ds_objective_flow(best, flow, &why);
    row_text(next, rival, sizeof rival);
    table_text(f, table, sizeof table);
    if (f->clear && usable && agrees(claim, flow)) {
        flow_text(flow, what);
        snprintf(line, sizeof line,
                 "objective: %s (%s%smeasured%s%s: loss %.3g; the nearest rival, %s, %.3g)", what,
                 claim->where, said ? "; " : "", *m->pictures.groups[m->group].name ? " on " : "",
                 m->pictures.groups[m->group].name, best->loss, rival, next->loss);
        report(&found, said ? how_said(claim) : "measured", 0, line);
        return 0;
    }
    if (f->clear || (!said && !small))
        return refuse_measured(claim, m, usable ? "" : why, err);
    *flow = claim->flow;
    int rc = narrowed(claim, f, flow) ? 0 : need_direction(claim, "nor do its losses", err);
    if (rc)
        return rc;
    flow_text(flow, what);
    snprintf(line, sizeof line, "objective: %s (%s; what was measured does not tell: %s)", what,
             said ? claim->where : "assumed: a network of few pixels", table);
    report(&found, how_said(claim), 1, line);
    return 0;
}

int ds_import_objective_find(const ds_objective_claim *claim, const ds_import_options *o,
                             const ds_import_result *r, ds_flow *flow, ds_error *err) {
    int pixel = ds_json_int(r->config, "pixel", 1) != 0;
    int64_t channels = ds_json_int(r->config, "channels", 3);
    const char *why = claim->by == DS_SAID_BY_PERSON     ? "it was given"
                      : claim->by == DS_SAID_BY_PRETRAIN ? "this program made it"
                      : !pixel && !*r->vae_file          ? "no VAE; it is when the VAE is added"
                      : pixel && channels != 1 && channels != 3
                          ? "its pictures are neither grey nor in colour"
                          : NULL;
    *flow = claim->flow;
    if (why)
        return report_unmeasured(&(finding){o, claim, flow, NULL, why}, err);
    measure m = {.o = o, .r = r};
    ds_error e = {0};
    int rc = run_measure(&m, &e);
    if (!rc) {
        rc = judge(claim, o, &m, flow, &e);
        if (claim->flow.path != DS_FLOW_NONE) /* is no part of what is predicted */
            flow->shift = claim->flow.shift;
    } else if (claim->by != DS_SAID_BY_NOBODY && rc != DS_ECANCELED) { /* what is said is enough */
        char message[sizeof e.message];
        memcpy(message, e.message, sizeof message);
        rc = report_unmeasured(&(finding){o, claim, flow, NULL, message}, &e);
    }
    close_measure(&m);
    return rc ? ds_fail(err, rc, "%s", e.message) : 0;
}
