/* worker/sample_job.c - job kind "sample": pictures of one adapter, or of the base. */
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/safetensors.h"
#include "worker/grid.h"
#include "worker/job.h"
#include "worker/serve.h"
#include "worker/tools.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CELL = 96 };

typedef struct {
    const ds_job *job;
    const ds_spec *spec;
    ds_tools tools;
    ds_adapter *adapter;
    int *labels;
    uint8_t *pixels;
    float *raw;
    size_t one; /* elements of a picture */
} sample_job;

static int class_by_name(const sample_job *s, int *label, ds_error *err) {
    const char *name = s->spec->class_name;
    char *end;
    if (!s->adapter && !s->tools.base->cfg.classes)
        return ds_fail(err, DS_EINVAL, "the base has no classes");
    if (!s->adapter) { /* classes of the base are numbers */
        long v = strtol(name, &end, 10);
        if (end == name || *end || v < 0 || v >= s->tools.base->cfg.classes)
            return ds_fail(err, DS_EINVAL, "the base has classes 0 to %d, not '%.60s'",
                           s->tools.base->cfg.classes - 1, name);
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

static int on_sample(void *user, double done, double total) {
    const sample_job *s = user;
    ds_events_progress(s->job->events, done, total, "pictures", NAN, NAN);
    return 0;
}

static int write_images(const sample_job *s, const char *digest, ds_error *err) {
    int side = s->tools.picture_side;
    int64_t shape[4] = {s->spec->n, side, side, 3};
    char *bytes = NULL, *path = ds_job_path(s->job, "samples.safetensors");
    size_t n;
    ds_st_writer *w = ds_st_writer_new();
    ds_st_writer_meta(w, "digest", digest);
    ds_st_writer_add(w, "images", DS_ST_U8, 4, shape, s->pixels);
    ds_st_writer_add(w, "labels", DS_ST_I32, 1, shape, s->labels);
    int rc = ds_st_writer_finish(w, &bytes, &n, err);
    if (!rc)
        rc = ds_fs_write(path, bytes, n, err);
    ds_st_writer_free(w);
    free(bytes);
    free(path);
    return rc;
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
                       "%d pictures of %dx%d are too many for one sheet: %d is the most", n, side,
                       side, (1 << 25) / ((side + 4) * (side + 4)));
    return 0;
}

static int write_grid(const sample_job *s, ds_error *err) {
    int columns, rows, scale, rc = plan_grid(s, &columns, &rows, &scale, err);
    if (rc)
        return rc;
    ds_grid *g = ds_grid_new(rows, columns, s->tools.picture_side, scale, 4, 255);
    for (int i = 0; i < s->spec->n; i++)
        ds_grid_put(g, i / columns, i % columns, s->pixels + (size_t)i * s->one);
    char *path = ds_job_path(s->job, "grid.png");
    rc = ds_grid_write(g, path, err);
    ds_grid_free(g);
    free(path);
    return rc;
}

static int run(sample_job *s, ds_error *err) {
    const ds_spec *spec = s->spec;
    const ds_dit_config *c = &s->tools.base->cfg;
    char digest[DS_HEX_SIZE];
    double begin = ds_monotonic();
    if (c->pixel && c->channels != 3)
        return ds_fail(err, DS_EINVAL, "base '%s' makes %d channels, which cannot be shown",
                       spec->base.name, c->channels);
    int columns, rows, scale, rc = plan_grid(s, &columns, &rows, &scale, err);
    if (!rc)
        rc = choose_labels(s, err);
    if (rc)
        return rc;
    s->one = (size_t)s->tools.picture_side * (size_t)s->tools.picture_side * 3;
    size_t count = (size_t)c->channels * (size_t)c->side * (size_t)c->side * (size_t)spec->n;
    s->pixels = ds_xmalloc(s->one * (size_t)spec->n);
    s->raw = ds_xmalloc(count * sizeof *s->raw);
    ds_serve *serve = NULL;
    rc = ds_tools_decoder(&s->tools, err);
    if (!rc)
        rc = ds_serve_new(&serve, s->tools.model, s->adapter, &spec->sample, err);
    if (!rc)
        rc = ds_serve_run(serve, spec->seed, s->labels, spec->n, s->pixels, s->raw, on_sample, s,
                          err);
    ds_serve_free(serve);
    if (rc)
        return rc;
    ds_digest(s->raw, count * sizeof *s->raw, digest);
    if ((rc = write_images(s, digest, err)) || (rc = write_grid(s, err)))
        return rc;
    return ds_job_finish(s->job,
                         json_pack("{s:s, s:s, s:s, s:i, s:f, s:s, s:s}", "schema",
                                   "diffscaler.sample/1", "grid", "grid.png", "images",
                                   "samples.safetensors", "n", spec->n, "seconds",
                                   ds_monotonic() - begin, "digest", digest, "device_class",
                                   s->tools.dev->device_class),
                         err);
}

int ds_job_sample(const ds_job *job, ds_error *err) {
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
    free(s.labels);
    free(s.pixels);
    free(s.raw);
    ds_tools_close(&s.tools);
    return rc;
}
