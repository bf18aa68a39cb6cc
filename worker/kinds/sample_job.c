/* worker/kinds/sample_job.c - job kind "sample": pictures of one adapter, or of the base. */
#include "base/log.h"
#include "base/mem.h"
#include "worker/images/grid.h"
#include "worker/kinds/kinds.h"
#include "worker/kinds/sample_file.h"
#include "worker/measure/serve.h"
#include "worker/measure/tools.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CELL = 96 };

typedef struct {
    const ds_work *job;
    const ds_spec *spec;
    ds_tools tools;
    ds_adapter *adapter;
    int *labels;
    ds_sample_file *file;
    ds_grid *grid; /* NULL: no sheet */
    int columns;
    double before; /* pictures of earlier portions */
} sample_job;

static int class_by_name(const sample_job *s, int *label, ds_error *err) {
    const char *name = s->spec->class_name;
    char *end;
    if (!s->adapter && !s->tools.base->facts.classes)
        return ds_fail(err, DS_EINVAL, "the base has no classes");
    if (!s->adapter) { /* classes of the base are numbers */
        long v = strtol(name, &end, 10);
        if (end == name || *end || v < 0 || v >= s->tools.base->facts.classes)
            return ds_fail(err, DS_EINVAL, "the base has classes 0 to %d, not '%.60s'",
                           s->tools.base->facts.classes - 1, name);
        *label = (int)v;
        return 0;
    }
    for (int i = 0; i < s->adapter->spec.classes; i++)
        if (!strcmp(s->adapter->class_names[i], name)) {
            *label = i;
            return 0;
        }
    char known[300] = "";
    size_t at = 0;
    int i = 0;
    for (; i < s->adapter->spec.classes && i < 8 && at < 200; i++)
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%.40s", i ? ", " : "",
                               s->adapter->class_names[i]);
    if (i < s->adapter->spec.classes)
        snprintf(known + at, sizeof known - at, " and %d more", s->adapter->spec.classes - i);
    return ds_fail(err, DS_EINVAL, "the adapter has no class '%.60s': it has %s", name, known);
}

/* One class, or all in turn; the base without a class is unconditional. */
static int choose_labels(sample_job *s, ds_error *err) {
    int one = -1, n = s->spec->n, classes = s->adapter ? s->adapter->spec.classes : 0;
    if (s->spec->class_name) {
        int rc = class_by_name(s, &one, err);
        if (rc)
            return rc;
    }
    s->labels = ds_xcalloc((size_t)n, sizeof *s->labels);
    for (int i = 0; i < n; i++)
        s->labels[i] = one >= 0 || !classes ? one : i % classes;
    return 0;
}

/* Names of all labels, for who wants to name files after them; NULL: labels are numbers. */
static char *label_names(const sample_job *s) {
    if (!s->adapter)
        return NULL;
    json_t *list = json_array();
    for (int i = 0; i < s->adapter->spec.classes; i++)
        json_array_append_new(list, json_string(s->adapter->class_names[i]));
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
}

static int on_sample(void *user, double done, double total) {
    const sample_job *s = user;
    (void)total; /* of a portion */
    ds_events_progress(s->job->events, s->before + done, s->spec->n, "pictures", NAN, NAN);
    return 0;
}

/* Columns, rows and scale of the sheet; asked before anything is drawn as well. */
static int plan_grid(const sample_job *s, int *columns, int *rows, int *scale, ds_error *err) {
    int n = s->spec->n, side = s->tools.picture_side;
    *columns = s->spec->columns ? s->spec->columns : ds_grid_columns(n);
    if (*columns > n)
        *columns = n;
    *rows = (n + *columns - 1) / *columns;
    *scale = side < CELL ? CELL / side : 1;
    while (*scale > 1 && (int64_t)*rows * *columns * side * side * *scale * *scale > 1 << 25)
        --*scale;
    if ((int64_t)*rows * *columns * (side + 4) * (side + 4) > 1 << 25)
        return ds_fail(err, DS_EINVAL,
                       "%d pictures of %dx%d are too many for one sheet: %d is the most; dsctl "
                       "sample -o DIR/ writes single pictures",
                       n, side, side, (1 << 25) / ((side + 4) * (side + 4)));
    return 0;
}

static int begin(sample_job *s, ds_error *err) {
    const ds_facts *c = &s->tools.base->facts;
    int columns, rows, scale, rc = 0;
    if (c->pixel && c->channels != 3)
        return ds_fail(err, DS_EINVAL, "base '%s' makes %d channels, which cannot be shown",
                       s->spec->base.name, c->channels);
    if (s->spec->sheet) {
        if ((rc = plan_grid(s, &columns, &rows, &scale, err)))
            return rc;
        s->columns = columns;
        s->grid = ds_grid_new(rows, columns, s->tools.picture_side, scale, 4, 255);
    }
    if ((rc = choose_labels(s, err)))
        return rc;
    char *path = ds_job_path(s->job, DS_FILE_SAMPLES), *names = label_names(s);
    rc = ds_sample_file_open(&s->file, path, s->spec->n, s->tools.picture_side, s->labels, names,
                             err);
    free(names);
    free(path);
    return rc;
}

/* Portion by portion: memory does not grow with the number of pictures. */
static int draw(sample_job *s, ds_serve *serve, char digest[DS_HEX_SIZE], ds_error *err) {
    const ds_facts *c = &s->tools.base->facts;
    int n = s->spec->n, most = n < DS_SERVE_BATCH ? n : DS_SERVE_BATCH, rc = 0;
    size_t one = (size_t)s->tools.picture_side * (size_t)s->tools.picture_side * 3,
           raw = (size_t)c->channels * (size_t)c->side * (size_t)c->side;
    uint8_t *pixels = ds_xmalloc((size_t)most * one);
    float *x = ds_xmalloc((size_t)most * raw * sizeof *x);
    ds_sha256 *h = ds_sha256_new();
    for (int first = 0; !rc && first < n; first += most) {
        int B = n - first < most ? n - first : most;
        s->before = first;
        ds_serve_request q = {.seed = s->spec->seed,
                              .first = first,
                              .n = B,
                              .labels = s->labels + first,
                              .pixels = pixels,
                              .raw = x,
                              .progress = on_sample,
                              .user = s};
        rc = ds_serve_run(serve, &q, err);
        if (!rc)
            rc = ds_sample_file_put(s->file, pixels, (size_t)B * one, err);
        if (!rc)
            ds_sha256_add(h, x, (size_t)B * raw * sizeof *x);
        for (int i = 0; !rc && s->grid && i < B; i++)
            ds_grid_put(s->grid, (first + i) / s->columns, (first + i) % s->columns,
                        pixels + (size_t)i * one);
    }
    ds_sha256_hex(h, digest);
    ds_sha256_free(h);
    free(pixels);
    free(x);
    return rc;
}

static int run(sample_job *s, ds_error *err) {
    char digest[DS_HEX_SIZE];
    double started = ds_monotonic();
    int rc = begin(s, err);
    ds_serve *serve = NULL;
    if (!rc)
        rc = ds_tools_decoder(&s->tools, err);
    if (!rc)
        rc = ds_serve_new(&serve, s->tools.model, s->adapter, &s->spec->sample, err);
    if (!rc)
        rc = draw(s, serve, digest, err);
    ds_serve_free(serve);
    if (rc)
        return rc;
    rc = ds_sample_file_finish(s->file, digest, err);
    s->file = NULL;
    if (!rc && s->grid) {
        char *path = ds_job_path(s->job, DS_FILE_GRID);
        rc = ds_grid_write(s->grid, path, err);
        free(path);
    }
    if (rc)
        return rc;
    double passes = 0;
    rc = ds_spec_passes(&s->spec->sample, &s->tools.base->facts, !s->adapter, s->labels[0] >= 0,
                        &passes, err); /* all have a class, or none */
    if (rc)
        return rc;
    return ds_job_finish(s->job,
                         json_pack("{s:s, s:s?, s:s, s:i, s:f, s:f, s:s, s:s}", "schema",
                                   DS_SCHEMA_SAMPLE, "grid", s->grid ? DS_FILE_GRID : NULL,
                                   "images", DS_FILE_SAMPLES, "n", s->spec->n, "seconds",
                                   ds_monotonic() - started, "passes", passes, "digest", digest,
                                   "device_class", s->tools.dev->device_class),
                         err);
}

int ds_job_sample(const ds_work *job, ds_error *err) {
    sample_job s = {.job = job, .spec = job->spec};
    const ds_spec_file *f = &job->spec->adapter;
    int rc = ds_tools_open(&s.tools, job, 0, err);
    if (rc)
        return rc;
    ds_events_stage(job->events, "sample", "%d pictures on %s", job->spec->n,
                    s.tools.dev->device_class);
    if (f->path)
        rc = ds_adapter_open(&s.adapter, s.tools.base, f->path, f->sha256, err);
    if (!rc)
        rc = run(&s, err);
    ds_adapter_free(s.adapter);
    ds_sample_file_abort(s.file);
    ds_grid_free(s.grid);
    free(s.labels);
    ds_tools_close(&s.tools);
    return rc;
}
