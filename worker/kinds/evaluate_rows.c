/* worker/kinds/evaluate_rows.c - numbers to rows of result.json and of the adapter's metadata. */
#include "worker/kinds/evaluate_rows.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *ds_evaluation_row(const ds_evaluation_value *v, const ds_tools *tools) {
    json_t *o = json_pack("{s:s, s:s}", "subject", v->subject, "metric", v->metric);
    json_object_set_new(o, "value", ds_json_real(v->value));
    json_object_set_new(o, "ci_low", ds_json_real(v->lo));
    json_object_set_new(o, "ci_high", ds_json_real(v->hi));
    json_object_set_new(o, "n_real", v->n_real < 0 ? json_null() : json_integer(v->n_real));
    json_object_set_new(o, "n_fake", v->n_fake < 0 ? json_null() : json_integer(v->n_fake));
    json_object_set_new(o, "seed", json_integer((json_int_t)v->seed));
    json_object_set_new(o, "feature_net", json_string(tools->job->spec->feature_net.sha256));
    json_object_set_new(o, "resize",
                        json_string(ds_fid_mode_preprocess(tools->job->spec->feature_net.mode)));
    json_object_set_new(o, "sample_digest",
                        v->sample_digest ? json_string(v->sample_digest) : json_null());
    return o;
}

static void add_rows(json_t *rows, const char *subject, const ds_measure *m, const ds_tools *t) {
    ds_evaluation_value fd = {.subject = subject,
                              .metric = "fd",
                              .value = m->fd.fd,
                              .lo = m->fd.lo,
                              .hi = m->fd.hi,
                              .n_real = m->fd.n_real,
                              .n_fake = m->fd.n_fake,
                              .seed = m->fd.seed,
                              .sample_digest = m->sample_digest};
    ds_evaluation_value kid = {.subject = subject,
                               .metric = "kid",
                               .value = m->kid.kid,
                               .lo = m->kid.lo,
                               .hi = m->kid.hi,
                               .n_real = m->kid.n_real,
                               .n_fake = m->kid.n_fake,
                               .seed = m->kid.seed,
                               .sample_digest = m->sample_digest};
    json_array_append_new(rows, ds_evaluation_row(&fd, t));
    if (m->kid.subsets) /* not defined for fewer than 4 pictures */
        json_array_append_new(rows, ds_evaluation_row(&kid, t));
}

static void add_share(json_t *rows, const char *subject, const ds_share *s, int64_t n_real,
                      const ds_evaluation_numbers *e) {
    ds_evaluation_value v = {.subject = subject,
                             .metric = "class_accuracy",
                             .value = s->share,
                             .lo = s->lo,
                             .hi = s->hi,
                             .n_real = n_real,
                             .n_fake = strncmp(subject, "real", 4) ? s->n : -1,
                             .seed = e->tools->job->spec->evaluate.seed,
                             .sample_digest = e->task->sample_digest};
    if (v.n_fake < 0)
        v.sample_digest = NULL;
    json_array_append_new(rows, ds_evaluation_row(&v, e->tools));
}

/* One class: "adapter/7", "real/7". */
static void add_class(json_t *rows, const ds_class *c, const ds_evaluation_numbers *e) {
    const char *name = e->images->class_names[c->label];
    char *adapter = ds_xasprintf("adapter/%s", name), *real = ds_xasprintf("real/%s", name);
    ds_evaluation_value fd = {.subject = adapter,
                              .metric = "fd",
                              .value = c->fd,
                              .lo = NAN,
                              .hi = NAN,
                              .n_real = c->real.n,
                              .n_fake = c->samples.n,
                              .seed = e->tools->job->spec->evaluate.seed,
                              .sample_digest = e->task->sample_digest};
    add_share(rows, adapter, &c->samples, e->n_real, e);
    add_share(rows, real, &c->real, c->real.n, e);
    json_array_append_new(rows, ds_evaluation_row(&fd, e->tools));
    free(adapter);
    free(real);
}

/* Nothing where classes are not measured. */
static void add_classes(json_t *rows, const ds_evaluation_numbers *e) {
    const ds_classes *c = e->classes;
    if (!c->samples.n)
        return;
    ds_evaluation_value chance = {.subject = "chance",
                                  .metric = "class_accuracy",
                                  .value = c->chance,
                                  .lo = NAN,
                                  .hi = NAN,
                                  .n_real = e->n_real,
                                  .n_fake = -1,
                                  .seed = e->tools->job->spec->evaluate.seed};
    add_share(rows, "adapter", &c->samples, e->n_real, e);
    add_share(rows, "real", &c->real, e->n_real, e);
    json_array_append_new(rows, ds_evaluation_row(&chance, e->tools));
    for (int i = 0; i < c->count; i++)
        add_class(rows, &c->each[i], e);
}

/* The interval is that of chance, around the share: it holds the chance unless single pictures are
 * remembered. */
static void add_memorised(json_t *rows, const ds_evaluation_numbers *e) {
    const ds_memorised *m = e->memorised;
    ds_evaluation_value v = {.subject = "adapter",
                             .metric = "memorised",
                             .value = m->share,
                             .lo = fmax(0, m->share - 1.96 * m->std_error),
                             .hi = fmin(1, m->share + 1.96 * m->std_error),
                             .n_real = m->trained + m->held,
                             .n_fake = m->n,
                             .seed = e->tools->job->spec->evaluate.seed,
                             .sample_digest = e->task->sample_digest};
    if (!m->n)
        return;
    json_array_append_new(rows, ds_evaluation_row(&v, e->tools));
    v.subject = "chance";
    v.value = m->chance;
    v.lo = v.hi = NAN;
    v.n_real = m->trained;
    v.n_fake = -1;
    v.sample_digest = NULL;
    json_array_append_new(rows, ds_evaluation_row(&v, e->tools));
}

json_t *ds_evaluation_rows(const ds_evaluation_numbers *e) {
    json_t *rows = json_array();
    add_rows(rows, "base", e->base, e->tools);
    add_rows(rows, "adapter", e->task, e->tools);
    add_classes(rows, e);
    add_memorised(rows, e);
    return rows;
}

/* Six digits: the adapter's bytes must not hang on the last bits of an eigenvalue. */
static json_t *rounded(double x) {
    char text[40];
    snprintf(text, sizeof text, "%.6g", x);
    return ds_json_real(strtod(text, NULL));
}

/* Those of single classes stay with the registry: a file should not grow with them. */
json_t *ds_evaluation_metrics(const json_t *rows) {
    json_t *list = json_array(), *row;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)rows, i, row) {
        if (strchr(ds_json_string(row, "subject", ""), '/'))
            continue;
        json_t *o = json_object();
        static const char *const keys[] = {"subject", "metric", "n_real", "n_fake", "seed"};
        for (int k = 0; k < 5; k++)
            json_object_set(o, keys[k], json_object_get(row, keys[k]));
        json_object_set_new(o, "value", rounded(json_number_value(json_object_get(row, "value"))));
        json_array_append_new(list, o);
    }
    return list;
}

json_t *ds_evaluation_counts(const ds_images *images) {
    int64_t *n = ds_xcalloc((size_t)images->class_count, sizeof *n);
    json_t *list = json_array();
    for (int i = 0; i < images->n; i++)
        n[images->labels[i]]++;
    for (int c = 0; c < images->class_count; c++)
        json_array_append_new(list, json_integer(n[c]));
    free(n);
    return list;
}
