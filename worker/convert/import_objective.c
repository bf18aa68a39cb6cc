/* worker/convert/import_objective.c - what is said of a base and what is measured, compared. */
#include "worker/convert/import_objective.h"
#include "base/fs.h"
#include "base/mem.h"
#include "engine/model/base_model.h"
#include "engine/files/foreign_config.h"
#include "engine/vae/vae.h"
#include "worker/job/device.h"
#include "worker/job/memory.h"
#include "worker/measure/plan.h"
#include "worker/images/probe_pictures.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BATCH = 8, SCHEDULER_MAX = 1 << 20 };

/* In networks of fewer pixels a side a few pictures say little: what cannot be told of these is
 * assumed, and that is said. */
enum { SIDE_MIN = 16 };

#define ONLY_EPS "only eps models can be used by this version"

/* ---------------------------------------------------------------- what is said */

/* Words for what a network predicts, of public programs: SiT, REPA, LDM, ADM, diffusers. */
static const struct {
    const char *word, *means; /* NULL: eps */
} said_words[] = {{"eps", NULL},
                  {"epsilon", NULL},
                  {"noise", NULL},
                  {"pred_noise", NULL},
                  {"predict_noise", NULL},
                  {"noise_prediction", NULL},
                  {"pred_eps", NULL},
                  {"pred_epsilon", NULL},
                  {"eps_prediction", NULL},
                  {"epsilon_prediction", NULL},
                  {"velocity", "velocity"},
                  {"v", "velocity"},
                  {"v_prediction", "velocity"},
                  {"pred_v", "velocity"},
                  {"v_pred", "velocity"},
                  {"vpred", "velocity"},
                  {"velocity_prediction", "velocity"},
                  {"flow_matching", "velocity"},
                  {"rectified_flow", "velocity"},
                  {"flow", "velocity"},
                  {"flow_prediction", "velocity"},
                  {"score", "the score"},
                  {"x0", "the clean picture (x0)"},
                  {"x", "the clean picture (x0)"},
                  {"sample", "the clean picture (x0)"},
                  {"pred_x0", "the clean picture (x0)"},
                  {"x_start", "the clean picture (x0)"},
                  {"pred_x_start", "the clean picture (x0)"},
                  {"xstart", "the clean picture (x0)"},
                  {"start_x", "the clean picture (x0)"}};

/* Keys of settings that say it.  strict: another word than those is refused. */
static const struct {
    const char *key;
    int strict;
} said_keys[] = {{"prediction", 1},       {"prediction_type", 1}, {"pred_type", 1},
                 {"parameterization", 1}, {"objective", 0},       {"model_mean_type", 0}};

/* The same word: '-' for '_', any case, with the name of an enumeration in front or without. */
static int is_word(const char *said, const char *word) {
    const char *dot = strrchr(said, '.');
    size_t n = strlen(word);
    said = dot ? dot + 1 : said;
    for (size_t i = 0; i < n; i++)
        if (tolower((unsigned char)(said[i] == '-' ? '_' : said[i])) != word[i])
            return 0;
    return !said[n];
}

static int refuse_said(const ds_import_options *o, const ds_objective_claim *claim,
                       const char *what, ds_error *err) {
    return ds_fail(err, DS_EINVAL,
                   "'%.160s' predicts %s: %.150s; " ONLY_EPS " (if that is wrong: --objective eps)",
                   o->source, what, claim->where);
}

static void note_where(ds_objective_claim *claim, const char *place, const char *key,
                       const json_t *v) {
    char *value = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(claim->where, sizeof claim->where, "%.40s.%.40s is %.60s", place, key,
             value ? value : "?");
    free(value);
}

/* One member of the settings: does it say what is predicted? */
static int read_setting(ds_objective_claim *claim, const ds_import_options *o, const char *place,
                        const char *key, const json_t *v, ds_error *err) {
    const char *word = json_string_value(v);
    for (size_t k = 0; word && k < sizeof said_keys / sizeof said_keys[0]; k++) {
        if (strcasecmp(key, said_keys[k].key))
            continue;
        for (size_t i = 0; i < sizeof said_words / sizeof said_words[0]; i++) {
            if (!is_word(word, said_words[i].word))
                continue;
            claim->by = DS_SAID_BY_SETTINGS;
            note_where(claim, place, key, v);
            return said_words[i].means ? refuse_said(o, claim, said_words[i].means, err) : 0;
        }
        if (said_keys[k].strict) {
            note_where(claim, place, key, v);
            return refuse_said(o, claim, "something that is not known", err);
        }
    }
    if (!word || (strcasecmp(key, "path_type") && strcasecmp(key, "path-type")))
        return 0;
    char before[sizeof claim->where];
    snprintf(before, sizeof before, "%s", claim->where);
    note_where(claim, place, key, v);
    if (*before) {
        size_t n = strlen(claim->where);
        snprintf(claim->where + n, sizeof claim->where - n, ", %.80s", before);
    }
    return refuse_said(o, claim, "along a flow's path, not with DDPM's schedule", err);
}

/* A prediction is looked for before a path, so that both can be named. */
static int read_settings(ds_objective_claim *claim, const ds_import_options *o, const char *place,
                         const json_t *doc, int depth, ds_error *err) {
    const char *key;
    json_t *v;
    int rc = 0;
    json_object_foreach((json_t *)(uintptr_t)doc, key, v) {
        if (rc)
            break;
        if (json_is_object(v) && depth < DS_FOREIGN_DEPTH)
            rc = read_settings(claim, o, key, v, depth + 1, err);
        else
            rc = read_setting(claim, o, place, key, v, err);
    }
    return rc;
}

/* diffusers: the scheduler beside the model.  What is not eps there is refused where it is read. */
static int read_scheduler(ds_objective_claim *claim, const ds_import_options *o,
                          const ds_weights *w, ds_error *err) {
    char *path = ds_xasprintf("%s/../scheduler/scheduler_config.json", ds_weights_dir(w));
    json_t *doc = NULL;
    int rc = ds_fs_exists(path) ? ds_json_read_file(path, SCHEDULER_MAX, &doc, err) : 0;
    if (!rc && doc) {
        const char *word = ds_json_string(doc, "prediction_type", "epsilon");
        claim->by = DS_SAID_BY_SCHEDULER;
        snprintf(claim->where, sizeof claim->where,
                 "scheduler_config.json: prediction_type is %s%s", word,
                 json_object_get(doc, "prediction_type") ? "" : " (diffusers' default)");
        if (strcmp(word, "epsilon"))
            rc = refuse_said(o, claim, word, err);
    }
    json_decref(doc);
    free(path);
    return rc;
}

/* A person is believed against the file, but not in silence. */
static void note_against(ds_objective_claim *claim, const ds_import_options *o,
                         const ds_weights *w) {
    ds_objective_claim file = {0};
    ds_error ignored;
    if (ds_weights_args(w) && read_settings(&file, o, "args", ds_weights_args(w), 0, &ignored)) {
        size_t n = strlen(claim->where);
        snprintf(claim->where + n, sizeof claim->where - n, ", although %.100s", file.where);
        claim->against = 1;
    }
}

int ds_import_objective_said(ds_objective_claim *claim, const ds_import_options *o,
                             const ds_weights *w, const ds_dit_names *d, ds_error *err) {
    *claim = (ds_objective_claim){0};
    if (o->objective && *o->objective) {
        enum ds_prediction p;
        int rc = ds_prediction_from_name(o->objective, &p, err);
        claim->by = DS_SAID_BY_PERSON;
        snprintf(claim->where, sizeof claim->where, "--objective %s", o->objective);
        note_against(claim, o, w);
        return rc || p == DS_PREDICT_EPS
                   ? rc
                   : ds_fail(err, DS_EINVAL, "a base that predicts %s cannot be added: " ONLY_EPS,
                             ds_prediction_words(p));
    }
    /* pretrain's own file: a configuration, and no other program's format that it came from */
    if (ds_weights_meta(w, "diffscaler.config") &&
        !ds_weights_meta(w, "diffscaler.source_format")) {
        claim->by = DS_SAID_BY_PRETRAIN;
        snprintf(claim->where, sizeof claim->where,
                 "its metadata: diffscaler.config and no source of another program");
        return 0;
    }
    int rc = ds_weights_args(w) ? read_settings(claim, o, "args", ds_weights_args(w), 0, err) : 0;
    if (!rc && claim->by == DS_SAID_BY_NOBODY && !strncmp(ds_dit_names_layout(d), "diffusers", 9))
        rc = read_scheduler(claim, o, w, err);
    return rc;
}

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
    for (int i = 0; i < DS_OBJECTIVE_ROWS; i++)
        json_array_append_new(table, json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "prediction",
                                               ds_prediction_name(f->rows[i].prediction), "path",
                                               ds_noise_path_name(f->rows[i].path), "time",
                                               f->rows[i].time, "loss", number(f->rows[i].loss),
                                               "answer", number(f->rows[i].answer), "picture",
                                               number(f->rows[i].picture)));
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
    json_t *probe = own ? json_string(m->o->probe) : json_string("bundled");
    return json_pack("{s:o, s:o, s:s, s:o, s:b, s:o}", "probe", probe ? probe : json_string("?"),
                     "groups", groups, "group", m->pictures.groups[m->group].name, "margin",
                     number(f->margin), "clear", f->clear, "table", table_json(f));
}

/* "eps 0.981 | 0.995, ...": losses with DDPM's schedule | on the linear path. */
static void table_text(const ds_objective *f, char *out, size_t size) {
    size_t at = 0;
    for (int p = 0; p < DS_PREDICTIONS && at < size; p++) {
        double loss[DS_PATHS] = {0};
        for (int i = 0; i < DS_OBJECTIVE_ROWS; i++)
            if ((int)f->rows[i].prediction == p)
                loss[f->rows[i].path] = f->rows[i].loss;
        int n = snprintf(out + at, size - at, "%s%s %.3g | %.3g", p ? ", " : "",
                         ds_prediction_name((enum ds_prediction)p), loss[DS_PATH_DDPM],
                         loss[DS_PATH_LINEAR]);
        at += n > 0 ? (size_t)n : 0;
    }
}

static void row_text(const ds_objective_row *r, char *out, size_t size) {
    snprintf(out, size, "%s, %s", ds_prediction_words(r->prediction), ds_noise_path_words(r->path));
}

/* how: "given", "pretrain", "args", "scheduler", "measured", "assumed". */
static void report(const ds_import_options *o, const char *how, const ds_objective_claim *claim,
                   const measure *m, const char *why_not, int warning, const char *line) {
    json_t *doc =
        json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "prediction", "eps", "path", "ddpm", "how", how,
                  "said", *claim->where ? json_string(claim->where) : json_null(), "measured",
                  m ? measured_json(m) : json_null(), "not_measured",
                  why_not ? json_string(why_not) : json_null());
    DS_ASSERT(doc);
    ds_import_report_set(o->report, "objective", doc, warning, line);
}

static const char *how_said(const ds_objective_claim *claim) {
    static const char *const words[] = {"assumed", "given", "pretrain", "args", "scheduler"};
    return words[claim->by];
}

/* Without a measurement: what is said, or assumed. */
static void report_unmeasured(const ds_objective_claim *claim, const ds_import_options *o,
                              const char *why_not) {
    char line[400];
    int said = claim->by != DS_SAID_BY_NOBODY;
    if (said)
        snprintf(line, sizeof line, "objective: eps (%s; not measured: %s)", claim->where, why_not);
    else
        snprintf(line, sizeof line, "objective: not measured: %s; eps is assumed", why_not);
    report(o, how_said(claim), claim, NULL, why_not, !said || claim->against, line);
}

static int refuse_measured(const ds_objective_claim *claim, const measure *m, ds_error *err) {
    const ds_objective *f = &m->found[m->group];
    char table[200], best[80];
    table_text(f, table, sizeof table);
    row_text(&f->rows[0], best, sizeof best);
    if (f->clear && claim->by == DS_SAID_BY_NOBODY)
        return ds_fail(err, DS_EINVAL,
                       "this base predicts %s (loss %.3g, the next %.3g): " ONLY_EPS
                       "; losses with DDPM's schedule | on the linear path: %s",
                       best, f->rows[0].loss, f->rows[f->rival].loss, table);
    if (f->clear)
        return ds_fail(err, DS_EINVAL,
                       "%.100s, but its losses say it predicts %s: %s; --objective eps if what is "
                       "said is right",
                       claim->where, best, table);
    return ds_fail(
        err, DS_EINVAL,
        "it cannot be told what this base predicts; losses with DDPM's schedule | on "
        "the linear path: %s; the least must be %g times below the next, and the error "
        "of its answer, %.2f, at most %g (none has 1): give --probe DIR with pictures like "
        "those it was trained on, or --objective eps if it is known to be that",
        table, DS_OBJECTIVE_MARGIN, f->rows[0].answer, DS_OBJECTIVE_ANSWER);
}

static int judge(const ds_objective_claim *claim, const ds_import_options *o, const measure *m,
                 ds_error *err) {
    const ds_objective *f = &m->found[m->group];
    const ds_objective_row *best = &f->rows[0], *next = &f->rows[f->rival];
    int eps = best->prediction == DS_PREDICT_EPS && best->path == DS_PATH_DDPM,
        said = claim->by != DS_SAID_BY_NOBODY, small = m->base->facts.side < SIDE_MIN;
    char line[480], rival[80], table[200];
    row_text(next, rival, sizeof rival);
    table_text(f, table, sizeof table);
    if (f->clear && eps) {
        snprintf(line, sizeof line,
                 "objective: eps (%.120s%smeasured%s%s: loss %.3g; the nearest rival, %s, %.3g)",
                 claim->where, said ? "; " : "", *m->pictures.groups[m->group].name ? " on " : "",
                 m->pictures.groups[m->group].name, best->loss, rival, next->loss);
        report(o, said ? how_said(claim) : "measured", claim, m, NULL, 0, line);
        return 0;
    }
    if (!f->clear && (said || small)) {
        snprintf(line, sizeof line, "objective: eps (%s; what was measured does not tell: %s)",
                 said ? claim->where : "assumed: a network of few pixels", table);
        report(o, how_said(claim), claim, m, NULL, 1, line);
        return 0;
    }
    return refuse_measured(claim, m, err);
}

int ds_import_objective_find(const ds_objective_claim *claim, const ds_import_options *o,
                             const ds_import_result *r, ds_error *err) {
    int pixel = ds_json_int(r->config, "pixel", 1) != 0;
    int64_t channels = ds_json_int(r->config, "channels", 3);
    const char *why = claim->by == DS_SAID_BY_PERSON     ? "it was given"
                      : claim->by == DS_SAID_BY_PRETRAIN ? "this program made it"
                      : !pixel && !*r->vae_file          ? "no VAE; it is when the VAE is added"
                      : pixel && channels != 1 && channels != 3
                          ? "its pictures are neither grey nor in colour"
                          : NULL;
    if (why) {
        report_unmeasured(claim, o, why);
        return 0;
    }
    measure m = {.o = o, .r = r};
    ds_error e = {0};
    int rc = run_measure(&m, &e);
    if (!rc)
        rc = judge(claim, o, &m, &e);
    else if (claim->by != DS_SAID_BY_NOBODY && rc != DS_ECANCELED) {
        report_unmeasured(claim, o, e.message); /* what is said is enough */
        rc = 0;
    }
    close_measure(&m);
    return rc ? ds_fail(err, rc, "%s", e.message) : 0;
}
