/* worker/commands/evaluate_cmd.c - `diffscaler-worker evaluate`: how far pictures are from others,
 * from statistics, or from an adapter's reference - by itself, without a daemon.
 *
 * Pictures are decoded in sandboxes while the network works (worker/images/picture_stream.h); the
 * metrics keep sums, not features (engine/metrics/fid_suite.h).  Every number is printed with the
 * digest of the network, the preprocessing, how many pictures, and the seed.  The parts:
 * evaluate_cmd.h. */
#include "worker/commands/evaluate_cmd.h"
#include "base/fs.h"
#include "worker/job/device.h"
#include "worker/convert/import_feature_net.h"
#include "worker/job/stop.h"
#include "worker/commands/worker.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUNDLED_NET "inception-v3-mixed6c.safetensors.zst"

static int bundled_net(char out[PATH_MAX], ds_error *err) {
    static const char *const places[] = {"../../models", "../share/diffscaler/models", "models"};
    char self[PATH_MAX] = "", path[PATH_MAX + 128];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash = n > 0 ? strrchr(self, '/') : NULL;
    if (slash)
        *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s/%s/%s", self, places[i], BUNDLED_NET);
        if (realpath(path, out))
            return 0;
    }
    return ds_fail(err, DS_ENOTFOUND, "cannot find the bundled network %s: give --feature-net FILE",
                   BUNDLED_NET);
}

/* A checkpoint is converted in memory; an imported file is taken as it is. */
static int open_whole_net(ds_ev_run *e, ds_error *err) {
    char *bytes;
    size_t n;
    int rc =
        ds_feature_net_canonical(&(ds_import_options){.source = e->o.net}, &bytes, &n, NULL, err);
    if (rc)
        return ds_error_prefix(err, "cannot use the feature network");
    rc = ds_fid_net_open_bytes(e->dev, e->o.mode, e->o.net, bytes, n, e->batch, &e->net, err);
    free(bytes);
    return rc;
}

static int open_net(ds_ev_run *e, ds_error *err) {
    ds_device_options o = {.kind = e->o.device ? e->o.device : "auto",
                           .precision = e->o.precision,
                           .threads = e->o.threads};
    char path[PATH_MAX];
    int rc = ds_worker_device_open(&e->dev, &o, err);
    e->batch = rc ? 0 : ds_inception_batch(e->dev);
    if (!rc && e->o.mode != DS_FID_BUNDLED)
        rc = open_whole_net(e, err);
    else if (!rc) {
        if (e->o.net)
            snprintf(path, sizeof path, "%s", e->o.net);
        else
            rc = bundled_net(path, err);
        rc = rc ? rc : ds_fid_net_open(e->dev, e->o.mode, path, e->batch, &e->net, err);
    }
    if (!rc)
        snprintf(e->digest, sizeof e->digest, "%s", ds_fid_net_digest(e->net));
    return rc;
}

/* Errors of a metric are in its row; *err is what ended the work. */
static int evaluate(ds_ev_run *e, ds_error *err) {
    int rc = ds_ev_sides_look(e, err);
    rc = rc ? rc : open_net(e, err);
    rc = rc ? rc : ds_ev_sides_match(e, err);
    if (!rc && e->o.against)
        rc = ds_ev_read(e, &e->real, "reference", err);
    rc = rc ? rc : ds_ev_read(e, &e->fake, "pictures", err);
    ds_fid_net_close(e->net); /* room for the matrices */
    e->net = NULL;
    if (rc)
        return rc;
    ds_stop_defer(0); /* what is left may leave at any moment */
    if (e->o.save)    /* a full disk does not cost the numbers */
        rc = ds_npz_write_stats(e->o.save, &e->fake.stats, e->o.force, err);
    ds_ev_measure(e);
    ds_error local = {0};
    int printed = ds_ev_print(e, &local);
    for (int k = 0; !rc && k < DS_EV_METRICS; k++)
        if (e->lost[k].code)
            rc = ds_fail(err, DS_EFAILED, "%s: not measured: %s",
                         ds_ev_metric_name(e, &ds_ev_metrics[k]), e->lost[k].message);
    return rc || !printed ? rc : ds_fail(err, printed, "%s", local.message);
}

int ds_worker_evaluate(int argc, char **argv) {
    ds_ev_run e = {.rows = json_array(), .notes = json_array()};
    ds_error err = {0};
    int rc = ds_ev_parse(&e.o, argc, argv, &err);
    if (rc == 1)
        rc = ds_fs_flush(stdout, "standard output", &err);
    else {
        rc = rc ? rc : ds_stop_install(NULL, 0, &err);
        ds_stop_defer(1); /* the message says how far it came */
        rc = rc ? rc : evaluate(&e, &err);
    }
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    ds_ev_side_release(&e.fake);
    ds_ev_side_release(&e.real);
    for (int c = 0; c < e.class_count; c++)
        free(e.class_names[c]);
    free(e.class_names);
    ds_worker_device_close(e.dev);
    json_decref(e.rows);
    json_decref(e.notes);
    return rc ? ds_error_exit(rc) : 0;
}
