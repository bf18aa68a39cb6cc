/* worker/commands/evaluate_read.c - a side of `evaluate` becomes rows and statistics. */
#include "base/log.h"
#include "base/mem.h"
#include "worker/commands/evaluate_cmd.h"
#include "worker/job/memory.h"
#include "worker/job/stop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LISTED = 3, NAMED = 100 };

/* ---------------------------------------------------------------- memory */

/* Most main memory that will be held at once: the network with its ring of pictures (on a GPU the
 * ring alone), or the matrices of a distance (the covariances of both sides, twice with sFID; a
 * factor, a product, and two of LAPACK's workspace); and what the metrics keep. */
static double needed(const ds_ev_run *e, int64_t total) {
    ds_fid_options so = {.want = e->o.want, .dim = ds_fid_mode_dim(e->o.mode), .total = total};
    enum ds_inception_part part =
        e->o.mode == DS_FID_BUNDLED ? DS_INCEPTION_TRUNK : DS_INCEPTION_FID;
    double d = so.dim, matrix = d * d * sizeof(double);
    double net = 3.0 * e->batch * DS_INCEPTION_PIXELS * sizeof(float);
    if (e->dev->host_memory)
        net += (double)ds_inception_part_bytes(e->dev, part, e->batch);
    double distance = e->o.against ? 8 * matrix : 0;
    return 2 * (double)ds_fid_suite_bytes(&so) + (net > distance ? net : distance);
}

static int check_memory(const ds_ev_run *e, int64_t total, ds_error *err) {
    double free_bytes = ds_memory_available() + ds_memory_now(), need = needed(e, total);
    if (free_bytes > 0 && need > free_bytes)
        return ds_fail(err, DS_ENOMEM,
                       "not enough memory: this needs %.0f MiB, %.0f MiB are free; fewer --metrics "
                       "need less",
                       need / (1 << 20), free_bytes / (1 << 20));
    return 0;
}

/* ---------------------------------------------------------------- pictures */

static ds_fid_suite *new_suite(const ds_ev_run *e, int want, int64_t total) {
    ds_fid_options o = {
        .want = want, .dim = ds_fid_mode_dim(e->o.mode), .total = total, .seed = e->o.seed};
    snprintf(o.net, sizeof o.net, "%s", e->digest);
    snprintf(o.preprocess, sizeof o.preprocess, "%s", ds_fid_mode_preprocess(e->o.mode));
    return ds_fid_suite_new(&o);
}

/* A tool ends on a file that it cannot read; so do we, when all such files have a name. */
static int ends_on_broken(const ds_ev_run *e) { return ds_ev_tool(e->o.mode) && !e->o.skip_broken; }

/* Through the network, batch by batch; when it is clear that there will be no number the rest is
 * only decoded. */
static int run_stream(ds_ev_run *e, ds_ev_side *s, ds_picture_stream *stream, const char *what,
                      ds_error *err) {
    static float features[DS_EV_BATCH * DS_INCEPTION_POOL];
    static float spatial[DS_EV_BATCH * DS_INCEPTION_SPATIAL];
    static float logits[DS_EV_BATCH * DS_INCEPTION_LOGITS];
    const float *images[DS_EV_BATCH];
    int64_t at[DS_EV_BATCH], total = ds_picture_stream_total(stream);
    int dim = ds_fid_mode_dim(e->o.mode), count = 0, rc = 0, want = s->from_pictures;
    float *sp = want & DS_FID_WANT_SFID ? spatial : NULL,
          *lo = want & DS_FID_WANT_IS ? logits : NULL;
    ds_ev_meter m;
    ds_ev_meter_start(&m, &e->o, what);
    while (!(rc = ds_picture_stream_next(stream, images, at, &count, err)) && count) {
        if (!ends_on_broken(e) || !ds_picture_stream_left_out(stream)) {
            ds_fid_net_run(e->net, images, count, features, sp, lo);
            for (int i = 0; i < count && want & DS_FID_WANT_CLASS; i++)
                ds_ev_classes_add(e, s, ds_picture_stream_path(stream, at[i]),
                                  features + (size_t)i * (size_t)dim);
            for (int i = 0; !rc && i < count; i++)
                rc = ds_fid_suite_add(s->suite, at[i], features + (size_t)i * (size_t)dim,
                                      spatial + (size_t)i * DS_INCEPTION_SPATIAL,
                                      logits + (size_t)i * DS_INCEPTION_LOGITS, err);
        }
        if (!rc && ds_stop_asked())
            rc = ds_fail(err, DS_ECANCELED, "interrupted after %lld of %lld pictures",
                         (long long)ds_picture_stream_done(stream), (long long)total);
        if (rc)
            return rc;
        ds_ev_meter_update(&m, ds_picture_stream_done(stream), total);
    }
    s->seconds = ds_monotonic() - m.started;
    return rc;
}

/* What the pictures had that another program might have shown otherwise. */
static void say_special(ds_ev_run *e, const ds_ev_side *s, const ds_picture_stream *stream) {
    const char *tool = ds_ev_tool(e->o.mode), *first;
    char n[32], all[32], *shown = ds_name_escape(s->path), *name;
    for (unsigned bit = 1; bit < 1u << DS_NOTE_COUNT; bit <<= 1) {
        int64_t count = ds_picture_stream_noted(stream, bit, &first);
        if (!count)
            continue;
        name = ds_name_escape(first);
        ds_ev_note(e, "%s of %s pictures of '%.200s' %s%s%s ('%.200s'%s)", ds_ev_count(n, count),
                   ds_ev_count(all, s->n), shown, ds_decode_note_text(ds_ev_use(e->o.mode), bit),
                   tool ? ", as in " : "", tool ? tool : "", name, count > 1 ? ", ..." : "");
        free(name);
    }
    int64_t odd = ds_picture_stream_other_sizes(stream, &first);
    if (odd && (e->o.mode == DS_FID_PYTORCH_FID || e->o.mode == DS_FID_TORCH_FIDELITY)) {
        name = ds_name_escape(first);
        ds_ev_note(e,
                   "pictures of '%.200s' differ in size ('%.200s'): %s takes such a folder with "
                   "--batch-size 1 only",
                   shown, name, tool);
        free(name);
    }
    free(shown);
}

static void say_left_out(ds_ev_run *e, const ds_ev_side *s) {
    char text[900], n[32], *shown = ds_name_escape(s->path);
    int at = snprintf(text, sizeof text,
                      "%s file%s of '%.200s' left out:", ds_ev_count(n, s->dropped.count),
                      s->dropped.count == 1 ? "" : "s", shown);
    for (int64_t i = 0; i < s->dropped.listed && i < LISTED; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, "%s '%.100s' (%.100s)", i ? "," : "",
                       s->dropped.items[i].path, s->dropped.items[i].reason);
    ds_ev_note(e, "%s%s", text, s->dropped.count > LISTED ? ", ..." : "");
    free(shown);
}

/* All names, then one error: 1 where the tool fails too, 2 where it only is not supported here. */
static int fail_on_broken(const ds_ev_run *e, const ds_ev_side *s, int64_t broken, ds_error *err) {
    const ds_rejected_list *l = &s->dropped;
    for (int64_t i = 0; i < l->listed && i < NAMED; i++)
        fprintf(stderr, "'%s': %s\n", l->items[i].path, l->items[i].reason);
    if (l->count > NAMED)
        fprintf(stderr, "... and %lld more\n", (long long)(l->count - NAMED));
    const char *tool = ds_ev_tool(e->o.mode);
    if (broken)
        return ds_fail(err, DS_EFAILED,
                       "%lld of %lld files of '%.200s' cannot be read, and %s fails on %s: mend or "
                       "remove them, or leave them out with --skip-broken",
                       (long long)l->count, (long long)s->available, s->path, tool,
                       broken == l->count ? "them too" : "some of them too");
    return ds_fail(err, DS_EINVAL,
                   "%lld of %lld files of '%.200s' are counted by %s and not supported here: "
                   "convert them to PNG, or leave them out with --skip-broken",
                   (long long)l->count, (long long)s->available, s->path, tool);
}

static void keep_dropped(ds_ev_side *s, const ds_rejected_list *from) {
    for (int64_t i = 0; i < from->listed; i++)
        ds_rejected_add(&s->dropped, from->items[i].path, "%s", from->items[i].reason);
    s->dropped.count += from->count - from->listed;
}

static int finish_stream(ds_ev_run *e, ds_ev_side *s, ds_picture_stream *stream, ds_error *err) {
    int64_t broken = ds_picture_stream_broken(stream)->count;
    s->n = ds_fid_suite_count(s->suite);
    ds_picture_stream_digest(stream, s->pictures);
    keep_dropped(s, &s->list.walked);
    keep_dropped(s, ds_picture_stream_rejected(stream));
    ds_rejected_sort(&s->dropped);
    s->left_out = s->dropped.count;
    if (s->dropped.count && ends_on_broken(e))
        return fail_on_broken(e, s, broken, err);
    if (s->dropped.count)
        say_left_out(e, s);
    say_special(e, s, stream);
    if (s->n < 1)
        return ds_fail(err, DS_EINVAL, "'%.300s' has no picture that can be read", s->path);
    return 0;
}

/* At most 8 beside a network that the processor runs; a GPU waits for them, and leaves them all
 * the processors. */
static int decoders_for(const ds_ev_run *e) {
    int n = e->dev->threads, most = 8;
    if (!e->dev->host_memory) {
        n = e->o.threads ? e->o.threads : ds_device_default_threads();
        most = DS_PICTURE_DECODERS_MAX;
    }
    return n < 1 ? 1 : n < most ? n : most;
}

static int read_pictures(ds_ev_run *e, ds_ev_side *s, const char *what, ds_error *err) {
    ds_picture_stream *stream;
    ds_npz_pictures *npz = NULL;
    int tool = ds_ev_tool(e->o.mode) != NULL;
    ds_picture_options po = {.folder = s->path,
                             .mode = e->o.mode,
                             .side = ds_fid_net_side(e->net),
                             .use = ds_ev_use(e->o.mode),
                             .files = (const char *const *)s->list.paths,
                             .file_count = s->list.count,
                             .follow_links = tool,
                             .n = s->asked,
                             .first_n = tool,
                             .seed = e->o.seed,
                             .batch = e->batch,
                             .decoders = decoders_for(e)};
    int rc = s->kind == DS_EV_NPZ ? ds_npz_pictures_open(s->path, &npz, err) : 0;
    po.npz = npz;
    rc = rc ? rc : ds_picture_stream_open(&stream, &po, err);
    if (rc) {
        ds_npz_pictures_close(npz);
        return rc;
    }
    int64_t total = ds_picture_stream_total(stream);
    rc = check_memory(e, total, err);
    if (!rc) {
        s->suite = new_suite(e, s->from_pictures, total);
        rc = run_stream(e, s, stream, what, err);
    }
    rc = rc ? rc : finish_stream(e, s, stream, err);
    ds_picture_stream_close(stream);
    ds_npz_pictures_close(npz);
    return rc;
}

/* The features that an adapter keeps of its dataset. */
static int read_reference(ds_ev_run *e, ds_ev_side *s, ds_error *err) {
    const ds_reference *r = &s->reference;
    int rc = 0;
    s->suite = new_suite(e, s->from_pictures, r->n);
    s->n = r->n;
    snprintf(s->pictures, sizeof s->pictures, "%s", r->tree_digest);
    for (int64_t i = 0; !rc && i < r->n; i++)
        rc = ds_fid_suite_add(s->suite, i, r->x + (size_t)i * (size_t)r->dim, NULL, NULL, err);
    return rc;
}

int ds_ev_read(ds_ev_run *e, ds_ev_side *s, const char *what, ds_error *err) {
    if (!s->from_pictures)
        return 0;
    int rc =
        s->kind == DS_EV_REFERENCE ? read_reference(e, s, err) : read_pictures(e, s, what, err);
    if (rc || !(s->from_pictures & (DS_FID_WANT_FID | DS_FID_WANT_SFID)))
        return rc;
    rc = ds_fid_suite_stats(s->suite, &s->stats, err);
    if (rc)
        return ds_error_prefix(err, "'%.200s'", s->path);
    snprintf(s->stats.decode, sizeof s->stats.decode, "%s", s->decode);
    return rc;
}
