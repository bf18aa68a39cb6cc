/* worker/kinds/gate.c - integrity, probe, measurement, verdict. */
#include "worker/kinds/gate.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/zio.h"
#include "worker/measure/measure.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ADAPTER_MAX = 1 << 30 };

/* ---------------------------------------------------------------- the rule */

static void add(char reason[DS_GATE_REASON], const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
static void add(char reason[DS_GATE_REASON], const char *fmt, ...) {
    size_t n = strlen(reason);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(reason + n, DS_GATE_REASON - n, fmt, ap);
    va_end(ap);
}

static double relative(double before, double now) {
    return before > 0 ? now / before - 1 : now > 0 ? INFINITY : 0;
}

/* "FD 12.31 -> 48.90 (+297 %)" */
static void add_fd(char reason[DS_GATE_REASON], double before, double now) {
    double percent = 100 * relative(before, now);
    if (isfinite(percent))
        add(reason, "FD %.2f -> %.2f (%+.*f %%)", before, now, fabs(percent) < 10 ? 1 : 0, percent);
    else
        add(reason, "FD %.2f -> %.2f", before, now);
}

int ds_gate_judge(const ds_gate_figures *f, const ds_spec_gate *rule, char reason[DS_GATE_REASON]) {
    double noise = isfinite(f->fd_error) ? 2 * f->fd_error : 0,
           sigma = isfinite(f->kid_error) ? f->kid_error : 0;
    int fd = !isnan(f->fd), kid = !isnan(f->kid);
    /* written so that a figure that is not a number is refused */
    int fd_bad = fd && !(f->fd_now <= f->fd * (1 + rule->fd_tolerance) + noise),
        kid_bad = kid && !(f->kid_now <= f->kid + rule->kid_tolerance_sigmas * sigma);
    reason[0] = 0;
    if (!fd && !kid)
        add(reason, "nothing is recorded that it could be compared with");
    if (fd_bad) {
        add_fd(reason, f->fd, f->fd_now);
        add(reason, ", tolerance %.3g %%", 100 * rule->fd_tolerance);
        if (noise > 0)
            add(reason, " and noise %.2f", noise);
    }
    if (kid_bad) {
        add(reason, "%sKID %.5f -> %.5f", fd_bad ? "; " : "", f->kid, f->kid_now);
        if (sigma > 0)
            add(reason, " (%+.1f standard errors), tolerance %.3g", (f->kid_now - f->kid) / sigma,
                rule->kid_tolerance_sigmas);
    }
    return fd_bad || kid_bad || (!fd && !kid);
}

/* ---------------------------------------------------------------- one task */

typedef struct {
    ds_tools *tools;
    const ds_spec_task *task;
    ds_gate_task *out;
    char finding[512];      /* "": all bytes are as registered */
    ds_adapter *adapter;    /* NULL: cannot be used */
    ds_reference reference; /* x NULL: cannot be used */
    ds_feature_net *net;    /* that of the reference, when it could be loaded */
} checking;

/* Of the base itself: there is no adapter. */
static int of_base(const checking *c) { return !c->task->adapter.path; }

static int usable(const checking *c) {
    return of_base(c) ? c->tools->model != NULL : c->adapter != NULL;
}

static void found(checking *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void found(checking *c, const char *fmt, ...) {
    if (c->finding[0])
        return; /* the first one is the cause of the others */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->finding, sizeof c->finding, fmt, ap);
    va_end(ap);
}

/* What cannot be read now (memory, a busy or full disk) is no finding: the code then. */
static int found_unreadable(checking *c, const char *what, int code, const ds_error *e,
                            ds_error *err) {
    if (ds_job_is_temporary(code))
        return ds_fail(err, code, "%s", e->message);
    found(c, "%s: %s", what, e->message);
    return 0;
}

static int check_adapter(checking *c, int decode, ds_error *err) {
    const ds_spec_file *f = &c->task->adapter;
    char *bytes, sha[DS_HEX_SIZE];
    size_t n;
    ds_error e;
    int rc = ds_zio_read_file(f->path, ADAPTER_MAX, &bytes, &n, &e);
    if (rc)
        return found_unreadable(c, "its adapter cannot be read", rc, &e, err);
    ds_digest(bytes, n, sha);
    const int damaged = strcmp(sha, f->sha256) != 0;
    if (damaged)
        found(c, "its adapter file '%s' is damaged: its sha256 is %s, the registered one is %s",
              f->path, sha, f->sha256);
    if (decode && c->tools->base)
        rc = ds_adapter_decode(&c->adapter, c->tools->base, f->path, bytes, n, &e);
    free(bytes);
    if (!rc)
        return 0;
    c->adapter = NULL;
    if (rc == DS_ENEWER && !damaged) /* whole, and nothing that this program could judge */
        return ds_fail(err, rc, "%s", e.message);
    found(c, "its adapter cannot be used: %s", e.message);
    return 0;
}

static int check_reference(checking *c, ds_error *err) {
    const ds_spec_file *f = &c->task->reference;
    ds_error e;
    int rc = f->path ? ds_reference_read(&c->reference, f->path, f->sha256, &e) : 0;
    return rc ? found_unreadable(c, "its reference features are damaged", rc, &e, err) : 0;
}

static int check_integrity(checking *c, ds_error *err) {
    const ds_tools *t = c->tools;
    int rc = 0;
    if (strcmp(c->task->base_sha256, t->job->spec->base.sha256))
        found(c, "it belongs to base %s, not to %s", c->task->base_sha256,
              t->job->spec->base.sha256);
    if (t->base_finding[0])
        found(c, "%s", t->base_finding);
    if (t->vae_finding[0])
        found(c, "%s", t->vae_finding);
    if (!of_base(c))
        rc = check_adapter(c, 1, err);
    if (!rc)
        rc = check_reference(c, err);
    if (t->features_finding[0] && ds_tools_same_features(t, c->task, &c->reference))
        found(c, "%s", t->features_finding);
    return rc;
}

/* What is known of the task's samples on this device class; without, the recipe of publication. */
static const ds_spec_probe *probe_of(const ds_spec_task *t, const char *class) {
    for (int i = 0; i < t->probe_count; i++)
        if (!strcmp(t->probes[i].device_class, class))
            return &t->probes[i];
    return &t->probe;
}

/* 1: the probe was made and equals the recorded one.  On a class of devices that nothing is known
 * of it is made too: when the measurement then passes, the next time has something to compare. */
static int check_probe(checking *c, ds_error *err, int *rc) {
    const ds_spec_probe *p = probe_of(c->task, c->tools->dev->device_class);
    if (!p->sha256 || !usable(c))
        return 0;
    c->out->probe = p;
    c->out->probe_class = c->tools->dev->device_class;
    *rc = ds_probe(c->tools->model, c->adapter, &c->task->sample, p->n, p->seed, c->out->probe_now,
                   err);
    if (*rc)
        return 0;
    if (strcmp(p->device_class, c->tools->dev->device_class))
        return 0;
    c->out->level = 1;
    c->out->unchanged = !strcmp(c->out->probe_now, p->sha256);
    return c->out->unchanged;
}

/* Why level 2 cannot be done; 0: it can.  *rc: nor can anything now. */
static int cannot_measure(checking *c, char why[DS_GATE_REASON], int *rc, ds_error *err) {
    ds_error e = {0};
    const char *text = NULL;
    int code = 0;
    if (!usable(c))
        text = of_base(c) ? "the base cannot be used" : "its adapter cannot be used";
    else if (!c->reference.x)
        text = "it has no usable reference features";
    else if (strcmp(c->task->feature_net_sha256, c->reference.net))
        text = "its reference features are of another feature network than the registry says";
    else if ((code = ds_tools_features_of(c->tools, c->task, &c->reference, &c->net, &e)))
        text = e.message;
    else if ((code = ds_tools_decoder(c->tools, &e)))
        text = "the VAE of the base cannot be used";
    if (ds_job_is_temporary(code))
        *rc = ds_fail(err, code, "%s", e.message);
    snprintf(why, DS_GATE_REASON, "%s", text ? text : "");
    return text != NULL;
}

static int measure(checking *c, double *fd_error, double *kid_error, ds_error *err) {
    ds_gate_task *o = c->out;
    const ds_spec_task *t = c->task;
    ds_measure m = {0};
    ds_measure_input in = {.model = c->tools->model,
                           .adapter = c->adapter,
                           .features = c->net,
                           .reference = &c->reference,
                           .sample = &t->sample,
                           .evaluate = &t->evaluate,
                           .any_net =
                               c->tools->features_finding[0] && c->net == c->tools->features};
    int rc = ds_measure_task(&m, &in, err);
    if (rc)
        return rc;
    o->level = 2;
    o->fd_now = m.fd.fd;
    o->fd_lo = m.fd.lo;
    o->fd_hi = m.fd.hi;
    o->kid_now = m.kid.subsets ? m.kid.kid : NAN;
    o->delta = relative(t->fd, o->fd_now);
    *fd_error = m.fd.std_error;
    *kid_error = m.kid.std_error;
    return 0;
}

/* Verdict of one task from what was found, proven and measured. */
static void conclude(checking *c, int proven, const char *why_not, double fd_error,
                     double kid_error) {
    ds_gate_task *o = c->out;
    const ds_spec_task *t = c->task;
    char judged[DS_GATE_REASON] = "";
    int measured = o->level == 2, worse = 0;
    /* a probe alone, of another class of devices: the base is the registered one */
    int trusted = of_base(c) && !t->reference.path && o->level == 0 && usable(c);
    if (measured) {
        ds_gate_figures f = {.fd = t->fd,
                             .fd_now = o->fd_now,
                             .fd_error = fd_error,
                             .kid = isnan(o->kid_now) ? NAN : t->kid,
                             .kid_now = o->kid_now,
                             .kid_error = kid_error};
        worse = ds_gate_judge(&f, &c->tools->job->spec->gate, judged);
        if (!worse)
            add_fd(judged, t->fd, o->fd_now);
    } else if (*why_not && isfinite(t->fd))
        add(judged, "FD %.2f -> not measurable: %s", t->fd, why_not);
    else if (*why_not)
        add(judged, "%s%s", o->level == 1 && !proven ? "its probe has changed; " : "", why_not);
    o->refused = c->finding[0] || worse || (!proven && !measured && !trusted);
    if (o->refused)
        /* the amount first: findings are long, and messages are cut */
        add(o->reason, "task '%s': %s%s%s", t->name, judged, c->finding[0] ? "; " : "", c->finding);
    else if (*why_not)
        add(o->reason, "%s", judged);
    if (proven && !o->refused && !measured) /* the same bits have the same distance */
        o->fd_now = t->fd, o->kid_now = t->kid, o->delta = 0;
}

static int check_task(ds_tools *tools, const ds_spec_task *task, ds_gate_task *o, ds_error *err) {
    checking c = {.tools = tools, .task = task, .out = o};
    char why_not[DS_GATE_REASON] = "";
    double fd_error = NAN, kid_error = NAN;
    *o = (ds_gate_task){
        .task = task, .fd_now = NAN, .fd_lo = NAN, .fd_hi = NAN, .kid_now = NAN, .delta = NAN};
    int rc = check_integrity(&c, err), proven = rc ? 0 : check_probe(&c, err, &rc);
    if (!rc && (!proven || c.finding[0] || tools->job->spec->gate.verify == DS_VERIFY_FULL) &&
        !cannot_measure(&c, why_not, &rc, err))
        rc = measure(&c, &fd_error, &kid_error, err);
    if (!rc)
        conclude(&c, proven, why_not, fd_error, kid_error);
    ds_adapter_free(c.adapter);
    ds_reference_release(&c.reference);
    return rc ? ds_error_prefix(err, "verifying task '%s'", task->name) : 0;
}

/* ---------------------------------------------------------------- all tasks */

/* The base's own classes come first. */
static const ds_spec_task *task_at(const ds_spec *s, int i) {
    return s->base_task_known && i == 0 ? &s->base_task : &s->tasks[i - s->base_task_known];
}

/* What cannot be read at all is a matter of ds_gate_preflight and of the bars. */
static int check_newer(const ds_spec_file *f, const char *what, const char *name, ds_error *err) {
    char *bytes;
    size_t n;
    int rc = ds_zio_read_file(f->path, ADAPTER_MAX, &bytes, &n, NULL);
    if (rc)
        return 0;
    rc = ds_adapter_check_newer(f->path, bytes, n, err);
    free(bytes);
    return rc == DS_ENEWER ? ds_error_prefix(err, "%s '%s'", what, name) : 0;
}

int ds_gate_check_newer(const ds_spec *s, ds_error *err) {
    int rc = 0;
    for (int i = 0; !rc && i < s->task_count; i++)
        rc = check_newer(&s->tasks[i].adapter, "task", s->tasks[i].name, err);
    for (int i = 0; !rc && i < s->bar_count; i++)
        rc = check_newer(&s->bars[i].adapter, "version", s->bars[i].ref, err);
    return rc;
}

int ds_gate_preflight(const ds_tools *tools) {
    const ds_spec *s = tools->job->spec;
    int findings = 0;
    const char *shared[] = {tools->base_finding, tools->vae_finding, tools->features_finding};
    for (int i = 0; i < 3; i++)
        if (shared[i][0]) {
            findings++;
            ds_events_warning(tools->job->events, "%s", shared[i]);
        }
    for (int i = 0; i < s->task_count + s->base_task_known; i++) {
        checking c = {.task = task_at(s, i)};
        if (strcmp(c.task->base_sha256, s->base.sha256))
            found(&c, "it belongs to base %s, not to %s", c.task->base_sha256, s->base.sha256);
        /* what cannot be read now is read again by ds_gate_run */
        if (of_base(&c) || !check_adapter(&c, 0, NULL))
            (void)check_reference(&c, NULL);
        ds_reference_release(&c.reference);
        if (c.finding[0]) {
            findings++;
            ds_events_warning(tools->job->events, "task '%s': %s", c.task->name, c.finding);
        }
    }
    return findings;
}

static void pick_worst(ds_gate *g) {
    g->worst = -1;
    for (int i = 0; i < g->count; i++) {
        const ds_gate_task *t = &g->tasks[i], *w = g->worst < 0 ? NULL : &g->tasks[g->worst];
        if (!t->refused)
            continue;
        g->refused++;
        if (!w || (isnan(w->delta) && !isnan(t->delta)) || t->delta > w->delta)
            g->worst = i;
    }
    if (g->worst >= 0)
        add(g->reason, "%s", g->tasks[g->worst].reason);
    if (g->refused > 1)
        add(g->reason, " (and %d more)", g->refused - 1);
}

int ds_gate_run(ds_tools *tools, ds_gate *g, ds_error *err) {
    const ds_spec *s = tools->job->spec;
    *g = (ds_gate){.count = s->task_count + s->base_task_known, .worst = -1};
    g->tasks = ds_xcalloc((size_t)g->count + 1, sizeof *g->tasks);
    ds_events_stage(tools->job->events, "verify", "%s%d old task%s, %s",
                    s->base_task_known ? "the base's own classes and " : "", s->task_count,
                    s->task_count == 1 ? "" : "s",
                    s->gate.verify == DS_VERIFY_FULL ? "all measured" : "probes first");
    for (int i = 0; i < g->count; i++) {
        int rc = check_task(tools, task_at(s, i), &g->tasks[i], err);
        if (rc) {
            ds_gate_release(g);
            return rc;
        }
        ds_events_progress(tools->job->events, i + 1, g->count, "tasks", NAN, NAN);
    }
    pick_worst(g);
    return 0;
}

int ds_gate_new_version(ds_tools *tools, const ds_images *images, const ds_adapter *adapter,
                        ds_gate *g, ds_error *err) {
    int rc = ds_bars_run(tools, images, adapter, &g->self, err);
    if (!rc && ds_bars_refuse(&g->self))
        add(g->reason, "%s%s", g->reason[0] ? "; " : "", g->self.reason);
    return rc;
}

int ds_gate_refuses(const ds_gate *g) { return g->refused || ds_bars_refuse(&g->self); }

void ds_gate_release(ds_gate *g) {
    ds_bars_release(&g->self);
    free(g->tasks);
    *g = (ds_gate){.worst = -1};
}

static json_t *task_json(const ds_gate_task *t) {
    const ds_spec_task *s = t->task;
    json_t *o = json_pack("{s:s, s:s, s:i, s:b, s:s, s:s}", "name", s->name, "ref", s->ref, "level",
                          t->level, "unchanged", t->unchanged, "verdict",
                          t->refused ? "refused" : "passed", "reason", t->reason);
    json_object_set_new(o, "fd_recorded", ds_json_real(s->fd));
    json_object_set_new(o, "fd_now", ds_json_real(t->fd_now));
    json_object_set_new(o, "fd_ci_low", ds_json_real(t->fd_lo));
    json_object_set_new(o, "fd_ci_high", ds_json_real(t->fd_hi));
    json_object_set_new(o, "kid_recorded", ds_json_real(s->kid));
    json_object_set_new(o, "kid_now", ds_json_real(t->kid_now));
    json_object_set_new(o, "delta", ds_json_real(t->delta));
    const ds_spec_probe *p = t->probe ? t->probe : &s->probe;
    json_object_set_new(o, "probe_recorded", p->sha256 ? json_string(p->sha256) : json_null());
    json_object_set_new(o, "probe_now", t->probe_now[0] ? json_string(t->probe_now) : json_null());
    if (t->probe_now[0]) {
        json_object_set_new(o, "probe_class", json_string(t->probe_class));
        json_object_set_new(o, "probe_n", json_integer(p->n));
        json_object_set_new(o, "probe_seed", json_integer((json_int_t)p->seed));
    }
    return o;
}

json_t *ds_gate_json(const ds_gate *g) {
    json_t *tasks = json_array();
    for (int i = 0; i < g->count; i++)
        json_array_append_new(tasks, task_json(&g->tasks[i]));
    const ds_gate_task *w = g->worst < 0 ? NULL : &g->tasks[g->worst];
    double delta = 0; /* of the worst task; the largest when nothing is refused */
    for (int i = 0; i < g->count; i++)
        if (g->tasks[i].delta > delta)
            delta = g->tasks[i].delta;
    json_t *o =
        json_pack("{s:s, s:s, s:o, s:o, s:o}", "verdict", ds_gate_refuses(g) ? "refused" : "passed",
                  "reason", g->reason, "worst_task", w ? json_string(w->task->name) : json_null(),
                  "delta", ds_json_real(w ? w->delta : delta), "tasks", tasks);
    if (g->self.done)
        json_object_set_new(o, "self", ds_bars_json(&g->self));
    return o;
}
