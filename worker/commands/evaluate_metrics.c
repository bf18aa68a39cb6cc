/* worker/commands/evaluate_metrics.c - the numbers of `diffscaler-worker evaluate`, a row each. */
#include "worker/commands/evaluate_cmd.h"

#include "kernels/device.h"

#include <math.h>
#include <string.h>

enum { KID_SUBSETS = 100, KID_SUBSET_SIZE = 1000 };

/* Pictures behind a side's share of a metric; -1: the file does not say. */
static int64_t count_of(const ds_ev_side *s, int want) {
    return s->from_stats & want ? s->stats.n : s->n;
}

static const char *decode_of(const ds_ev_side *s, int want) {
    return s->from_stats & want ? s->stats.decode : s->decode;
}

static void set_text(json_t *o, const char *key, const char *text) {
    json_object_set_new(o, key, *text ? json_string(text) : json_null());
}

static void set_count(json_t *o, const char *key, int64_t n) {
    json_object_set_new(o, key, n >= 0 ? json_integer((json_int_t)n) : json_null());
}

const char *ds_ev_metric_name(const ds_ev_run *e, const ds_ev_metric *m) {
    return e->o.mode == DS_FID_BUNDLED && m->bundled_name ? m->bundled_name : m->name;
}

/* Its "metric" in the document, when there is a number. */
static const char *metric_key(const ds_ev_run *e, const ds_ev_metric *m) {
    return e->o.mode == DS_FID_BUNDLED && m->bundled_word ? m->bundled_word : m->word;
}

/* One row of the result, with what the number depends on; NULL when there is no number.  n, n_real:
 * pictures that it was made of (n_real 0: one side alone). */
static json_t *add_row(ds_ev_run *e, int want, const char *metric, const char *name, double value,
                       int64_t n, int64_t n_real, ds_error *err) {
    if (!isfinite(value)) {
        ds_fail(err, DS_EFAILED, "the %s is not finite", name);
        return NULL;
    }
    json_t *r = json_object();
    json_object_set_new(r, "metric", json_string(metric));
    json_object_set_new(r, "name", json_string(name));
    json_object_set_new(r, "value", json_real(value));
    set_count(r, "n", n);
    set_count(r, "n_available", count_of(&e->fake, want));
    json_object_set_new(r, "feature_net", json_string(e->digest));
    json_object_set_new(r, "preprocess", json_string(ds_fid_mode_preprocess(e->o.mode)));
    set_text(r, "decode", decode_of(&e->fake, want));
    json_object_set_new(r, "seed", json_integer((json_int_t)e->o.seed));
    json_object_set_new(r, "device_class", json_string(e->dev->device_class));
    if (n_real) {
        set_count(r, "n_reference", n_real);
        set_text(r, "reference_decode", decode_of(&e->real, want));
    }
    json_array_append_new(e->rows, r);
    return r;
}

/* FID or sFID, of Gaussians that both sides have. */
static int add_distance(ds_ev_run *e, int want, const char *metric, const char *name,
                        ds_error *err) {
    const ds_npz_stats *a = &e->real.stats, *b = &e->fake.stats;
    double fd;
    int spatial = want == DS_FID_WANT_SFID;
    int rc = spatial ? ds_frechet(a->mu_s, a->sigma_s, b->mu_s, b->sigma_s, a->dim_s, &fd, err)
                     : ds_frechet(a->mu, a->sigma, b->mu, b->sigma, a->dim, &fd, err);
    if (!rc && !add_row(e, want, metric, name, fd, count_of(&e->fake, want),
                        count_of(&e->real, want), err))
        rc = DS_EFAILED;
    return rc;
}

static int add_fid(ds_ev_run *e, ds_error *err) {
    const ds_ev_metric *m = &ds_ev_metrics[0];
    return add_distance(e, DS_FID_WANT_FID, metric_key(e, m), ds_ev_metric_name(e, m), err);
}

static int add_sfid(ds_ev_run *e, ds_error *err) {
    return add_distance(e, DS_FID_WANT_SFID, "sfid", "sFID", err);
}

static int add_kid(ds_ev_run *e, ds_error *err) {
    ds_kid_result k;
    const ds_ev_metric *m = &ds_ev_metrics[2];
    int rc = ds_fid_suite_kid(e->real.suite, e->fake.suite, KID_SUBSETS, KID_SUBSET_SIZE, e->o.seed,
                              &k, err);
    if (rc)
        return rc;
    json_t *r = add_row(e, DS_FID_WANT_KID, metric_key(e, m), ds_ev_metric_name(e, m), k.kid,
                        k.n_fake, k.n_real, err);
    if (!r)
        return DS_EFAILED;
    json_object_set_new(r, "std_error", json_real(k.std_error));
    json_object_set_new(r, "subset_mean", json_real(k.subset_mean));
    json_object_set_new(r, "subsets", json_integer(k.subsets));
    json_object_set_new(r, "subset_size", json_integer(k.subset_size));
    return 0;
}

static int add_is(ds_ev_run *e, ds_error *err) {
    ds_is_result is;
    int rc = ds_fid_suite_is(e->fake.suite, &is, err);
    if (rc)
        return rc;
    json_t *r = add_row(e, DS_FID_WANT_IS, "is", "Inception Score", is.mean, is.n, 0, err);
    if (!r)
        return DS_EFAILED;
    json_object_set_new(r, "std", json_real(is.std));
    json_object_set_new(r, "splits", json_integer(is.splits));
    return 0;
}

static int add_pr(ds_ev_run *e, ds_error *err) {
    ds_pr_result pr;
    int rc = ds_fid_suite_pr(e->real.suite, e->fake.suite, &pr, err);
    if (rc)
        return rc;
    const char *const names[2] = {"precision", "recall"};
    const double values[2] = {pr.precision, pr.recall};
    for (int i = 0; i < 2; i++) {
        json_t *r =
            add_row(e, DS_FID_WANT_PR, names[i], names[i], values[i], pr.n_fake, pr.n_real, err);
        if (!r)
            return DS_EFAILED;
        json_object_set_new(r, "k", json_integer(pr.k));
    }
    return 0;
}

static int add_class(ds_ev_run *e, ds_error *err) {
    ds_classes c;
    int rc = ds_ev_classes_measure(e, &c, err);
    if (rc)
        return rc;
    json_t *r = add_row(e, DS_FID_WANT_CLASS, "class_accuracy", "class accuracy", c.samples.share,
                        e->fake.rows, e->real.rows, err);
    if (r)
        ds_ev_classes_describe(e, &c, r);
    ds_classes_release(&c);
    return r ? 0 : DS_EFAILED;
}

const ds_ev_metric ds_ev_metrics[DS_EV_METRICS] = {
    {"fid", "FID", "fd768", DS_FEATURE_METRIC_NAME, DS_FID_WANT_FID, 1, 2, add_fid},
    {"sfid", "sFID", NULL, NULL, DS_FID_WANT_SFID, 1, 2, add_sfid},
    {"kid", "KID", "kd768", "KID on the same 768 features", DS_FID_WANT_KID, 1, 4, add_kid},
    {"is", "Inception Score", NULL, NULL, DS_FID_WANT_IS, 0, DS_FID_SPLITS, add_is},
    {"pr", "precision and recall", NULL, NULL, DS_FID_WANT_PR, 1, DS_FID_PR_K + 1, add_pr},
    {"class", "class accuracy", NULL, NULL, DS_FID_WANT_CLASS, 1, DS_EV_CLASS_K + 1, add_class}};

int ds_ev_unasked(const ds_ev_run *e, const ds_ev_metric *m) {
    return m->want == DS_FID_WANT_CLASS && !e->o.want_given;
}

void ds_ev_measure(ds_ev_run *e) {
    for (int k = 0; k < DS_EV_METRICS; k++) {
        const ds_ev_metric *m = &ds_ev_metrics[k];
        if (!(e->o.want & m->want) || (m->both && !e->o.against))
            continue;
        ds_ev_say_computing(e, ds_ev_metric_name(e, m));
        if (m->add(e, &e->lost[k]))
            e->o.want &= ~m->want;
    }
    ds_ev_say_computing(e, "");
    for (int k = 0; k < DS_EV_METRICS; k++) {
        if (!e->lost[k].code || !ds_ev_unasked(e, &ds_ev_metrics[k]))
            continue;
        ds_ev_note(e, "%s", e->lost[k].message);
        e->lost[k] = (ds_error){0};
    }
}
