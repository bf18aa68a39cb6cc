/* worker/kinds/bars.c - the new version beside each bar, on the same pictures. */
#include "worker/kinds/bars.h"
#include "base/mem.h"
#include "base/zio.h"
#include "contract/job.h"
#include "engine/metrics/fd.h"
#include "engine/metrics/kid.h"
#include "worker/measure/classes.h"
#include "worker/measure/plan.h"
#include "worker/job/stop.h"
#include "worker/measure/task_features.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ADAPTER_MAX = 1 << 30 };

/* ---------------------------------------------------------------- the rule */

int ds_bar_groups(int64_t n) { return n >= 128 ? 16 : n >= DS_BAR_PICTURES_MIN ? 8 : 0; }

enum ds_bar_verdict ds_bar_judge(double fd_bar, double fd_now, double std_error,
                                 const ds_spec_gate *rule) {
    if (!isfinite(fd_bar) || isnan(std_error))
        return DS_BAR_NONE;
    double difference = fd_now - fd_bar;
    /* written so that a distance that is not a number is refused */
    int within = fd_now <= fd_bar * (1 + rule->worse_margin),
        noise = difference < rule->worse_sigmas * std_error;
    return within || noise ? DS_BAR_PASSED : DS_BAR_REFUSED;
}

int ds_bar_judge_classes(const ds_share_pair *p, const ds_spec_gate *rule) {
    double lost = p->bar - p->now;
    return isfinite(lost) && !isnan(p->std_error) && lost > rule->class_margin &&
           lost >= rule->class_sigmas * p->std_error;
}

/* ---------------------------------------------------------------- one comparison */

typedef struct {
    ds_tools *tools;
    const ds_spec *spec;
    const ds_adapter *adapter;
    ds_evaluated sets;
    ds_fd_parts now;  /* of the new version on all its classes; groups 0: not yet */
    uint8_t *now_hit; /* (sets.n) the same of votes; NULL: not yet */
    ds_bars *out;
} comparing;

/* What is compared of the new version's pictures, and how the bar is to make its own. */
typedef struct {
    int *labels;       /* (n) of the bar's; DS_LABEL_SKIPPED: a class that it has not */
    int n, whole;      /* compared; all of them */
    float *now, *real; /* borrowed when whole */
    int64_t real_n;
    int *now_classes,
        *real_classes; /* the new version's number of the class of each; borrowed too */
} shared;

static int none(ds_bar *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int none(ds_bar *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(b->reason, sizeof b->reason, fmt, ap);
    va_end(ap);
    b->verdict = DS_BAR_NONE;
    return 0;
}

static int on_distance(void *user, double done, double total) {
    const comparing *c = user;
    ds_events_progress(c->tools->job->events, done, total, "parts of the distance", NAN, NAN);
    return ds_stop_asked();
}

static int on_sample(void *user, double done, double total) {
    const comparing *c = user;
    ds_events_progress(c->tools->job->events, done / 2, total / 2, "pictures", NAN, NAN);
    return ds_stop_asked();
}

static ds_feature_set set_of(const comparing *c, const float *x, int64_t n) {
    ds_feature_set set = ds_reference_set(&c->sets.real);
    set.x = x;
    set.n = n;
    return set;
}

/* "classes 0.81 -> 0.62, margin 0.05, z -6.2" */
static void class_words(char out[DS_BAR_REASON], const ds_share_pair *p, const ds_spec_gate *rule) {
    out[0] = 0;
    if (isfinite(p->difference))
        snprintf(out, DS_BAR_REASON, "classes %.3f -> %.3f, margin %.3g, z %.1f", p->bar, p->now,
                 rule->class_margin, p->z);
}

static void add_percent(char reason[DS_BAR_REASON], double fd_bar, double fd_now) {
    size_t n = strlen(reason);
    double percent = 100 * (fd_now / fd_bar - 1);
    if (fd_bar > 0 && isfinite(percent))
        snprintf(reason + n, DS_BAR_REASON - n, "FD %.2f -> %.2f (%+.*f %%)", fd_bar, fd_now,
                 fabs(percent) < 10 ? 1 : 0, percent);
    else
        snprintf(reason + n, DS_BAR_REASON - n, "FD %.2f -> %.2f", fd_bar, fd_now);
}

/* Verdict and reason from two sets of distances; b->reason may hold a remark already. */
static void judge(const comparing *c, ds_bar *b, const ds_fd_parts *now, const ds_fd_parts *bar) {
    const ds_spec_gate *rule = &c->spec->gate;
    ds_fd_pair p = ds_fd_pair_of(now, bar);
    char remark[DS_BAR_REASON], classes[DS_BAR_REASON];
    memcpy(remark, b->reason, sizeof remark);
    class_words(classes, &b->class_pair, rule);
    b->reason[0] = 0;
    b->fd_now = now->fd[0];
    b->fd_bar = bar->fd[0];
    b->delta = b->fd_bar > 0 ? b->fd_now / b->fd_bar - 1 : NAN;
    b->std_error = p.std_error;
    b->z = p.z;
    b->verdict = ds_bar_judge(b->fd_bar, b->fd_now, p.std_error, rule);
    add_percent(b->reason, b->fd_bar, b->fd_now);
    size_t n = strlen(b->reason);
    snprintf(b->reason + n, DS_BAR_REASON - n, ", margin %.3g %%, z %.1f%s%.200s%s%s",
             100 * rule->worse_margin, b->z, classes[0] ? "; " : "", classes, remark[0] ? "; " : "",
             remark);
    if (b->verdict == DS_BAR_PASSED && ds_bar_judge_classes(&b->class_pair, rule)) {
        memcpy(remark, b->reason, sizeof remark);
        snprintf(b->reason, DS_BAR_REASON, DS_BAR_BY_CLASSES "; %.400s", remark);
        b->verdict = DS_BAR_REFUSED;
    }
}

static int add_kid(const comparing *c, ds_bar *b, const ds_feature_set *real,
                   const ds_feature_set *now, const ds_feature_set *bar, ds_error *err) {
    const ds_spec_evaluate *e = &c->spec->evaluate;
    ds_kid_result k;
    int rc = ds_kid_compare(real, now, e->kid_subsets, e->kid_subset_size, e->seed, &k, err);
    if (rc)
        return rc;
    b->kid_now = k.kid;
    rc = ds_kid_compare(real, bar, e->kid_subsets, e->kid_subset_size, e->seed, &k, err);
    b->kid_bar = rc ? NAN : k.kid;
    return rc;
}

/* Votes of the shared real pictures about one side's samples. */
static int hits_of(const comparing *c, const shared *s, const float *x, uint8_t *hit,
                   ds_error *err) {
    ds_classes_input in = {.real = set_of(c, s->real, s->real_n),
                           .samples = set_of(c, x, s->n),
                           .real_labels = s->real_classes,
                           .labels = s->now_classes,
                           .k = c->spec->evaluate.neighbours,
                           .progress = on_distance,
                           .user = (void *)(uintptr_t)c};
    return ds_classes_hits(&in, hit, err);
}

/* Samples of the base have no class of the set. */
static int compare_classes(comparing *c, ds_bar *b, const shared *s, const float *x,
                           ds_error *err) {
    if (b->role == DS_BAR_BASE ||
        !ds_classes_fit(c->spec->evaluate.neighbours, b->classes, s->real_n))
        return 0;
    uint8_t *now = s->whole ? c->now_hit : NULL, *bar = ds_xmalloc((size_t)s->n);
    int rc = 0;
    if (!now) {
        now = ds_xmalloc((size_t)s->n);
        rc = hits_of(c, s, s->now, now, err);
    }
    if (!rc)
        rc = hits_of(c, s, x, bar, err);
    if (!rc)
        b->class_pair = ds_share_pair_of(now, bar, s->n);
    if (s->whole && !rc)
        c->now_hit = now;
    else
        free(now);
    free(bar);
    return rc;
}

/* x (s->n, dim): the bar's features of the pictures that are shared. */
static int compare(comparing *c, ds_bar *b, const shared *s, const float *x, ds_error *err) {
    ds_feature_set real = set_of(c, s->real, s->real_n), now = set_of(c, s->now, s->n),
                   bar = set_of(c, x, s->n);
    uint64_t seed = c->spec->evaluate.seed;
    int groups = ds_bar_groups(s->n), rc = 0;
    ds_fd_parts parts = c->now, old;
    if (!s->whole || !parts.groups)
        rc = ds_fd_parts_of(&real, &now, groups, seed, on_distance, c, &parts, err);
    if (!rc && s->whole)
        c->now = parts;
    if (!rc)
        rc = ds_fd_parts_of(&real, &bar, groups, seed, on_distance, c, &old, err);
    if (!rc)
        rc = add_kid(c, b, &real, &now, &bar, err);
    if (!rc)
        rc = compare_classes(c, b, s, x, err);
    if (!rc)
        judge(c, b, &parts, &old);
    return rc;
}

/* ---------------------------------------------------------------- shared classes */

static int class_of(const ds_adapter *a, const char *name) {
    for (int i = 0; i < a->spec.classes; i++)
        if (!strcmp(a->class_names[i], name))
            return i;
    return DS_LABEL_SKIPPED;
}

static void shared_release(shared *s) {
    free(s->labels);
    if (!s->whole) {
        free(s->now);
        free(s->real);
        free(s->now_classes);
        free(s->real_classes);
    }
}

/* The rows of x whose label maps to a class, and their labels. */
static float *rows_of(const float *x, const int *labels, int64_t n, int dim, const int *map,
                      int64_t *kept, int **kept_labels) {
    size_t one = (size_t)dim;
    float *out = ds_xmalloc(((size_t)n * one + 1) * sizeof *out);
    *kept_labels = ds_xmalloc((size_t)n * sizeof **kept_labels);
    *kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (map[labels[i]] != DS_LABEL_SKIPPED) {
            (*kept_labels)[*kept] = labels[i];
            memcpy(out + (size_t)(*kept)++ * one, x + (size_t)i * one, one * sizeof *out);
        }
    return out;
}

/* Everything: the base has no classes of the dataset. */
static shared all_of(const comparing *c) {
    return (shared){.n = c->sets.n,
                    .whole = 1,
                    .now = c->sets.task,
                    .real = c->sets.real.x,
                    .real_n = c->sets.real.n,
                    .now_classes = c->sets.labels,
                    .real_classes = c->sets.real_labels};
}

static shared shared_with(const comparing *c, const ds_adapter *bar, ds_bar *b) {
    const ds_evaluated *e = &c->sets;
    int classes = c->adapter->spec.classes, *map = ds_xmalloc((size_t)classes * sizeof *map);
    shared s = all_of(c);
    for (int i = 0; i < classes; i++) {
        map[i] = class_of(bar, c->adapter->class_names[i]);
        b->classes += map[i] != DS_LABEL_SKIPPED;
    }
    s.labels = ds_xmalloc((size_t)e->n * sizeof *s.labels);
    for (int i = 0; i < e->n; i++)
        s.labels[i] = map[e->labels[i]];
    if (b->classes < classes) {
        int64_t kept;
        s.whole = 0;
        s.now = rows_of(e->task, e->labels, e->n, e->real.dim, map, &kept, &s.now_classes);
        s.n = (int)kept;
        s.real = rows_of(e->real.x, e->real_labels, e->real.n, e->real.dim, map, &s.real_n,
                         &s.real_classes);
    }
    free(map);
    return s;
}

/* Why these are too few, or "". */
static int too_few(const shared *s, ds_bar *b) {
    b->n = s->n;
    if (!ds_bar_groups(s->n))
        none(b, "%d samples%s are too few for an interval, which needs %d", s->n,
             s->whole ? "" : " of shared classes", DS_BAR_PICTURES_MIN);
    else if (s->real_n < DS_BAR_REAL_MIN)
        none(b, "%lld pictures%s in the reference are too few for a comparison, which needs %d",
             (long long)s->real_n, s->whole ? "" : " of shared classes", DS_BAR_REAL_MIN);
    return b->verdict == DS_BAR_NONE && b->reason[0];
}

/* ---------------------------------------------------------------- a version */

/* What makes the bar's pictures. */
typedef struct {
    ds_base *base;   /* another one than the job's; NULL: the job's */
    ds_model *model; /* that serves it */
    ds_adapter *adapter;
} bar_model;

static void bar_close(bar_model *m) {
    ds_adapter_free(m->adapter);
    if (m->base) {
        ds_model_free(m->model);
        ds_base_free(m->base);
    }
}

/* 1: another base may stand beside the job's. */
static int fits(const comparing *c, const ds_base *base) {
    const ds_tools *t = c->tools;
    double need = (double)ds_model_bytes(t->dev, base) +
                  2.0 * (double)ds_net_weight_bytes(t->dev, base, DS_NET_INFER) +
                  2.0 * (double)ds_net_bytes(base, t->dev, DS_NET_INFER, DS_SERVE_BATCH),
           limit = t->dev->total_bytes ? (double)t->dev->total_bytes(t->dev)
                                       : ds_plan_limit(c->spec->device.memory_limit);
    return !limit || need <= limit;
}

static int same_vae(const comparing *c, const ds_spec_bar *v) {
    const char *own = c->tools->base->facts.pixel ? NULL : c->spec->vae.sha256;
    return !own || !v->vae.sha256 ? !own && !v->vae.sha256 : !strcmp(own, v->vae.sha256);
}

/* The base that the bar was made on, which is not the job's.  b->reason: it cannot be used. */
static int open_other_base(comparing *c, const ds_spec_bar *v, ds_bar *b, bar_model *m,
                           ds_error *err) {
    const ds_facts *own = &c->tools->base->facts, *its;
    ds_error e;
    if (!v->base.path)
        return none(b, "its base '%s' is not here any more", v->base.name);
    if (!same_vae(c, v))
        return none(b, "its base '%s' has another VAE than '%s'", v->base.name, c->spec->base.name);
    int rc = ds_base_open(&m->base, v->base.path, v->base.sha256, &e);
    if (rc) {
        m->base = NULL;
        ds_events_warning(c->tools->job->events, "%s is no bar: %s", b->ref, e.message);
        return none(b, "its base '%s' cannot be used: %.300s", v->base.name, e.message);
    }
    its = &m->base->facts;
    if (its->side != own->side || its->channels != own->channels || its->pixel != own->pixel)
        return none(b, "its base '%s' makes %dx%dx%d, '%s' %dx%dx%d", v->base.name, its->channels,
                    its->side, its->side, c->spec->base.name, own->channels, own->side, own->side);
    if (!fits(c, m->base))
        return none(b, "its base '%s' does not fit into memory beside '%s'", v->base.name,
                    c->spec->base.name);
    rc = ds_model_new(&m->model, c->tools->dev, m->base, err);
    if (!rc)
        m->model->vae = c->tools->decoder;
    return rc;
}

/* Loudly: a bar that is lost by damage lets a worse version through. */
static int damaged(const comparing *c, ds_bar *b, const ds_error *e) {
    ds_events_warning(c->tools->job->events, "%s is no bar, its adapter cannot be used: %s", b->ref,
                      e->message);
    return none(b, "its adapter cannot be used: %.400s", e->message);
}

static int open_adapter(const comparing *c, const ds_spec_bar *v, ds_bar *b, bar_model *m,
                        ds_error *err) {
    const ds_base *base = m->base ? m->base : c->tools->base;
    char *bytes, sha[DS_HEX_SIZE];
    size_t n;
    ds_error e;
    int rc = ds_zio_read_file(v->adapter.path, ADAPTER_MAX, &bytes, &n, &e);
    if (rc)
        return ds_job_is_temporary(rc) ? ds_fail(err, rc, "%s", e.message) : damaged(c, b, &e);
    ds_digest(bytes, n, sha);
    if (strcmp(sha, v->adapter.sha256))
        rc = ds_fail(&e, DS_EINTEGRITY, "'%s' is damaged: its sha256 is %s, the registered one %s",
                     v->adapter.path, sha, v->adapter.sha256);
    else
        rc = ds_adapter_decode(&m->adapter, base, v->adapter.path, bytes, n, &e);
    free(bytes);
    if (rc) {
        m->adapter = NULL;
        return rc == DS_ENEWER ? ds_fail(err, rc, "%s", e.message) : damaged(c, b, &e);
    }
    b->classes_bar = m->adapter->spec.classes;
    if (!m->adapter->class_names)
        return none(b, "its file does not name its classes");
    return 0;
}

/* Settings that differ are meant: each version as it is served. */
static void remark_settings(const comparing *c, const ds_spec_bar *v, ds_bar *b) {
    json_t *own = ds_spec_sample_json(&c->spec->sample), *its = ds_spec_sample_json(&v->sample);
    char own_guide[DS_GUIDANCE_TEXT], its_guide[DS_GUIDANCE_TEXT];
    ds_spec_guidance_text(&c->spec->sample, own_guide);
    ds_spec_guidance_text(&v->sample, its_guide);
    if (!json_equal(own, its))
        snprintf(b->reason, sizeof b->reason,
                 "each with its own sampler settings: %s, %d steps, %s; before %s, %d steps, %s",
                 ds_sampler_name(c->spec->sample.sampler), c->spec->sample.steps, own_guide,
                 ds_sampler_name(v->sample.sampler), v->sample.steps, its_guide);
    json_decref(own);
    json_decref(its);
}

static int measure_version(comparing *c, const ds_spec_bar *v, ds_bar *b, const bar_model *m,
                           const shared *s, ds_error *err) {
    ds_task_samples samples = {.tools = c->tools,
                               .model = m->base ? m->model : c->tools->model,
                               .adapter = m->adapter,
                               .sample = &v->sample,
                               .labels = s->labels,
                               .n = c->sets.n,
                               .seed = c->spec->evaluate.seed,
                               .progress = on_sample,
                               .user = c};
    float *x = ds_xmalloc((size_t)s->n * (size_t)c->sets.real.dim * sizeof *x);
    ds_error e = {0};
    int rc = ds_task_features(&samples, x, &e);
    if (rc == DS_ENOMEM && m->base) /* there may never be room for two */
        none(b, "its base '%s' does not fit into memory: %.300s", v->base.name, e.message), rc = 0;
    else if (rc)
        ds_fail(err, rc, "%s", e.message);
    else {
        remark_settings(c, v, b);
        rc = compare(c, b, s, x, err);
    }
    free(x);
    return rc;
}

static int with_version(comparing *c, const ds_spec_bar *v, ds_bar *b, ds_error *err) {
    bar_model m = {0};
    int rc = 0;
    if (strcmp(v->base.sha256, c->tools->base->sha256))
        rc = open_other_base(c, v, b, &m, err);
    if (!rc && !b->reason[0])
        rc = open_adapter(c, v, b, &m, err);
    if (!rc && !b->reason[0]) {
        shared s = shared_with(c, m.adapter, b);
        if (!b->classes)
            none(b, "no class of '%s' is one of its own", c->spec->dataset.name);
        else if (!too_few(&s, b))
            rc = measure_version(c, v, b, &m, &s, err);
        shared_release(&s);
    }
    bar_close(&m);
    return rc ? ds_error_prefix(err, "comparing with %s", b->ref) : 0;
}

static int with_base(comparing *c, ds_bar *b, ds_error *err) {
    shared s = all_of(c);
    b->classes = b->classes_new;
    b->classes_bar = c->tools->base->facts.classes;
    return too_few(&s, b) ? 0 : compare(c, b, &s, c->sets.base, err);
}

/* ---------------------------------------------------------------- all of them */

static ds_bar *next_bar(comparing *c, enum ds_bar_role role, char *ref) {
    ds_bar *b = &c->out->bars[c->out->count++];
    *b = (ds_bar){.role = role,
                  .ref = ref,
                  .verdict = DS_BAR_NONE,
                  .classes_new = c->adapter->spec.classes,
                  .fd_bar = NAN,
                  .fd_now = NAN,
                  .delta = NAN,
                  .std_error = NAN,
                  .z = NAN,
                  .kid_bar = NAN,
                  .kid_now = NAN,
                  .class_pair = {NAN, NAN, NAN, NAN, NAN}};
    return b;
}

static int run_all(comparing *c, ds_error *err) {
    const ds_spec *s = c->spec;
    int rc = 0;
    for (int i = 0; !rc && i < s->bar_count; i++)
        rc = with_version(c, &s->bars[i], next_bar(c, s->bars[i].role, ds_xstrdup(s->bars[i].ref)),
                          err);
    if (!rc)
        rc = with_base(c, next_bar(c, DS_BAR_BASE, ds_xasprintf("base:%s", s->base.name)), err);
    return rc;
}

/* The first that refuses is the one that users look at: @latest before the best before the base. */
static void conclude(comparing *c) {
    ds_bars *o = c->out;
    for (int i = 0; i < o->count; i++) {
        const ds_bar *b = &o->bars[i];
        if (b->verdict != DS_BAR_REFUSED)
            continue;
        if (!o->refused++)
            snprintf(o->reason, sizeof o->reason, "%s@v%d is worse than %s: %.300s", c->spec->name,
                     c->spec->version, b->ref, b->reason);
    }
    o->forced = o->refused && c->spec->publish_worse;
    if (o->forced)
        ds_events_warning(c->tools->job->events, "published all the same, as asked: %s", o->reason);
}

/* "digits@v2 with digits@v1, base:emoji-dit" */
static void say_stage(const comparing *c) {
    char list[400] = "";
    for (int i = 0; i < c->spec->bar_count; i++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%.60s, ", c->spec->bars[i].ref);
    }
    ds_events_stage(c->tools->job->events, "verify",
                    "%s@v%d is compared with %sbase:%s on %d samples", c->spec->name,
                    c->spec->version, list, c->spec->base.name, c->spec->evaluate.n);
}

int ds_bars_run(ds_tools *tools, const ds_images *images, const ds_adapter *adapter, ds_bars *out,
                ds_error *err) {
    comparing c = {.tools = tools, .spec = tools->job->spec, .adapter = adapter, .out = out};
    *out = (ds_bars){.done = 1,
                     .n = c.spec->evaluate.n,
                     .margin = c.spec->gate.worse_margin,
                     .class_margin = c.spec->gate.class_margin};
    say_stage(&c);
    int rc = ds_evaluate_sets(tools, images, adapter, &c.sets, err);
    if (!rc)
        rc = run_all(&c, err);
    out->fd = c.now.groups ? c.now.fd[0] : NAN;
    if (!rc)
        conclude(&c);
    ds_evaluated_release(&c.sets);
    free(c.now_hit);
    if (rc)
        ds_bars_release(out);
    return rc;
}

void ds_bars_release(ds_bars *b) {
    for (int i = 0; i < b->count; i++)
        free(b->bars[i].ref);
    *b = (ds_bars){0};
}

int ds_bars_refuse(const ds_bars *b) { return b->refused && !b->forced; }

/* Members are there where classes were compared: those of earlier results have none. */
static void add_class_pair(json_t *o, const ds_bar *b, double margin) {
    const ds_share_pair *p = &b->class_pair;
    if (!isfinite(p->difference))
        return;
    json_object_set_new(o, "class_bar", ds_json_real(p->bar));
    json_object_set_new(o, "class_now", ds_json_real(p->now));
    json_object_set_new(o, "class_error", ds_json_real(p->std_error));
    json_object_set_new(o, "class_z", ds_json_real(p->z));
    json_object_set_new(o, "class_margin", ds_json_real(margin));
}

static json_t *bar_json(const ds_bar *b, double margin, double class_margin) {
    static const char *const roles[] = {"latest", "best", "base"}, *const verdicts[] = {
                                                                       "passed", "refused", "none"};
    json_t *o = json_pack("{s:s, s:s, s:s, s:s}", "role", roles[b->role], "ref", b->ref, "verdict",
                          verdicts[b->verdict], "reason", b->reason);
    const struct {
        const char *key;
        double value;
    } reals[] = {{"fd_bar", b->fd_bar},
                 {"fd_now", b->fd_now},
                 {"delta", b->delta},
                 {"std_error", b->std_error},
                 {"z", b->z},
                 {"margin", margin},
                 {"kid_bar", b->kid_bar},
                 {"kid_now", b->kid_now}};
    const struct {
        const char *key;
        int value;
    } counts[] = {{"n", b->n},
                  {"classes", b->classes},
                  {"classes_new", b->classes_new},
                  {"classes_bar", b->classes_bar}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        json_object_set_new(o, reals[i].key, ds_json_real(reals[i].value));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(o, counts[i].key, json_integer(counts[i].value));
    add_class_pair(o, b, class_margin);
    return o;
}

json_t *ds_bars_json(const ds_bars *b) {
    json_t *list = json_array();
    for (int i = 0; i < b->count; i++)
        json_array_append_new(list, bar_json(&b->bars[i], b->margin, b->class_margin));
    json_t *o = json_pack("{s:s, s:i, s:o}", "verdict",
                          b->forced    ? "forced"
                          : b->refused ? "refused"
                                       : "passed",
                          "n", b->n, "bars", list);
    json_object_set_new(o, "fd", ds_json_real(b->fd));
    return o;
}
