/* worker/evaluate_cmd.c - `diffscaler-worker evaluate`: how far a folder of pictures is from
 * another one, from statistics, or from an adapter's reference - by itself, without a daemon.
 *
 * Pictures are decoded in sandboxes while the network works (worker/picture_stream.h); the metrics
 * keep sums, not features (engine/fid_suite.h).  Every number is printed with the digest of the
 * network, the preprocessing, how many pictures, and the seed. */
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/fid_suite.h"
#include "kernels/cpu/team.h"
#include "worker/device.h"
#include "worker/feature_net.h"
#include "worker/import_feature_net.h"
#include "worker/memory.h"
#include "worker/picture_stream.h"
#include "worker/reference.h"
#include "worker/stop.h"
#include "worker/worker.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BATCH = DS_INCEPTION_BATCH_MAX,
    KID_SUBSETS = 100,
    KID_SUBSET_SIZE = 1000,
    BAR = 28,
    LISTED = 3
};

#define BUNDLED_NET "inception-v3-mixed6c.safetensors.zst"

typedef struct {
    const char *folder, *against, *net, *save, *device;
    enum ds_fid_mode mode;
    enum ds_precision precision;
    int mode_given, want, want_given, json, quiet, threads;
    int64_t n;
    uint64_t seed;
} options;

/* What is known of one side. */
typedef struct {
    const char *path;
    ds_fid_suite *suite;        /* NULL for a statistics file */
    ds_npz_stats stats;         /* when FID or sFID is wanted */
    int64_t n, rejected;        /* n = -1: not known (foreign statistics) */
    char pictures[DS_HEX_SIZE]; /* digest of a folder's pictures */
    double seconds;
} side;

typedef struct {
    options o;
    ds_device *dev;
    int batch; /* of the network on this device, at most BATCH */
    ds_fid_net *net;
    char digest[DS_HEX_SIZE];
    side fake, real;
    json_t *rows;
} evaluation;

static const struct {
    const char *word, *name;
    int want;
} metric_names[] = {{"fid", "FID", DS_FID_WANT_FID},
                    {"kid", "KID", DS_FID_WANT_KID},
                    {"is", "IS", DS_FID_WANT_IS},
                    {"pr", "precision and recall", DS_FID_WANT_PR},
                    {"sfid", "sFID", DS_FID_WANT_SFID}};
enum { METRICS = sizeof metric_names / sizeof *metric_names };

static const char usage[] =
    "usage: diffscaler-worker evaluate FOLDER --against FOLDER|STATS.npz|REFERENCE [options]\n"
    "       diffscaler-worker evaluate FOLDER --save-stats FILE.npz [options]\n"
    "\n"
    "Measure the pictures below FOLDER against others, or against statistics of pytorch-fid or "
    "ADM,\n"
    "or against the reference of an adapter (reference.safetensors.zst).\n"
    "\n"
    "  --feature-net FILE  FID's network: pt_inception-2015-12-05-6726825d.pth, or that imported\n"
    "                      (default: the bundled network, whose distance is not FID)\n"
    "  --mode MODE         pytorch-fid (default with --feature-net), torch-fidelity (what ADM and "
    "DiT\n"
    "                      publish), clean (clean-fid), bundled\n"
    "  --metrics LIST      of fid,kid,is,pr,sfid (default: fid and kid, or fid for statistics)\n"
    "  --n N               take N pictures of FOLDER, chosen by the seed (default: all)\n"
    "  --seed S            of every random choice (default 0)\n"
    "  --save-stats F.npz  also save FOLDER's statistics, which pytorch-fid can read\n"
    "  --device KIND       auto, cpu, cuda or cuda:N (default: auto, a GPU where there is one)\n"
    "  --precision TYPE    of the network on a GPU: f32 (default), or tf32, as pytorch-fid has it\n"
    "                      there: faster, and FID within 0.1 %\n"
    "  --threads N         (default: as many as this process may use)\n"
    "  --json              print one JSON document;   --quiet  no progress\n"
    "\n"
    "examples:\n"
    "  diffscaler-worker evaluate samples --against photos\n"
    "  diffscaler-worker evaluate samples --against VIRTUAL_imagenet256_labeled.npz \\\n"
    "      --feature-net pt_inception-2015-12-05-6726825d.pth --mode torch-fidelity \\\n"
    "      --metrics fid,sfid,is\n";

/* ---------------------------------------------------------------- options */

static int parse_count(const char *option, const char *text, double most, int64_t *out,
                       ds_error *err) {
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (errno || end == text || *end || !(v >= 0 && v <= most) || v != floor(v))
        return ds_fail(err, DS_EINVAL,
                       "option '--%s' takes a whole number from 0 to %.0f, not '%s'", option, most,
                       text);
    *out = (int64_t)v;
    return 0;
}

static int parse_metrics(options *o, const char *text, ds_error *err) {
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ","), i = 0;
        while (i < METRICS &&
               (strlen(metric_names[i].word) != n || strncmp(p, metric_names[i].word, n)))
            i++;
        if (i == METRICS)
            return ds_fail(err, DS_EINVAL, "no metric '%.*s'; there are fid, kid, is, pr and sfid",
                           (int)n, p);
        o->want |= metric_names[i].want;
        p += n + (p[n] == ',');
    }
    o->want_given = 1;
    return o->want ? 0 : ds_fail(err, DS_EINVAL, "option '--metrics' names none");
}

enum {
    AGAINST = 1,
    NET,
    MODE,
    METRIC,
    COUNT,
    SEED,
    SAVE,
    THREADS,
    JSON,
    QUIET,
    DEVICE,
    PRECISION,
    HELP
};

static int parse_precision(options *o, const char *name, ds_error *err) {
    int rc = ds_precision_from_name(name, &o->precision, err);
    if (!rc && o->precision == DS_PRECISION_BF16)
        rc = ds_fail(err, DS_EINVAL, "features are not computed in bf16: use f32 or tf32");
    return rc;
}

static int set_option(options *o, int c, const char *v, ds_error *err) {
    int64_t number = 0;
    int rc = 0;
    switch (c) {
    case AGAINST: o->against = v; break;
    case NET: o->net = v; break;
    case SAVE: o->save = v; break;
    case JSON: o->json = 1; break;
    case QUIET: o->quiet = 1; break;
    case METRIC: rc = parse_metrics(o, v, err); break;
    case COUNT: rc = parse_count("n", v, DS_FEATURE_ROWS_MAX, &o->n, err); break;
    case MODE:
        rc = ds_fid_mode_find(v, &o->mode, err);
        o->mode_given = 1;
        break;
    case SEED:
        rc = parse_count("seed", v, 9e15, &number, err);
        o->seed = (uint64_t)number;
        break;
    case THREADS:
        rc = parse_count("threads", v, 256, &number, err);
        o->threads = (int)number;
        break;
    case PRECISION: rc = parse_precision(o, v, err); break;
    case DEVICE:
        o->device = v;
        rc = ds_device_kind_check(v, err);
        break;
    default: rc = ds_fail(err, DS_EINVAL, "wrong option; see diffscaler-worker evaluate --help");
    }
    return rc;
}

/* 1: help was asked for. */
static int parse(options *o, int argc, char **argv, ds_error *err) {
    static const struct option list[] = {{"against", 1, 0, AGAINST}, {"feature-net", 1, 0, NET},
                                         {"mode", 1, 0, MODE},       {"metrics", 1, 0, METRIC},
                                         {"n", 1, 0, COUNT},         {"seed", 1, 0, SEED},
                                         {"save-stats", 1, 0, SAVE}, {"threads", 1, 0, THREADS},
                                         {"json", 0, 0, JSON},       {"quiet", 0, 0, QUIET},
                                         {"device", 1, 0, DEVICE},   {"precision", 1, 0, PRECISION},
                                         {"help", 0, 0, HELP},       {0, 0, 0, 0}};
    int c, rc = 0;
    optind = 1;
    opterr = 0;
    while (!rc && (c = getopt_long(argc, argv, "h", list, NULL)) != -1)
        if (c == HELP || c == 'h')
            return 1;
        else if (c == '?')
            rc = ds_fail(err, DS_EINVAL,
                         "option '%s' is not known or has no value; see diffscaler-worker evaluate "
                         "--help",
                         argv[optind - 1]);
        else
            rc = set_option(o, c, optarg, err);
    if (rc)
        return rc;
    if (argc - optind != 1)
        return ds_fail(err, DS_EINVAL, "%s; see diffscaler-worker evaluate --help",
                       argc == optind ? "which folder?" : "one folder at a time");
    o->folder = argv[optind];
    if (!o->against && !o->save)
        return ds_fail(err, DS_EINVAL,
                       "against what?  give --against FOLDER, STATS.npz or REFERENCE, or "
                       "--save-stats FILE.npz");
    return 0;
}

static int is_folder(const char *path) {
    struct stat st;
    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* A reference says what it was made with. */
static int mode_of_reference(options *o, ds_error *err) {
    ds_reference r;
    int rc = ds_reference_read(&r, o->against, NULL, err);
    if (rc)
        return rc;
    rc = ds_feature_net_mode_of(r.resize, &o->mode, err);
    ds_reference_release(&r);
    return rc ? ds_error_prefix(err, "'%.200s'", o->against) : 0;
}

/* Mode and metrics that were not given; what cannot be together is refused before any work. */
static int settle(options *o, ds_error *err) {
    int stats = o->against && ds_fs_ends_with(o->against, ".npz") && !is_folder(o->against);
    int reference = o->against && ds_fs_ends_with(o->against, ".zst");
    if (!o->mode_given)
        o->mode = o->net && !ds_fs_ends_with(o->net, ".zst") ? DS_FID_PYTORCH_FID : DS_FID_BUNDLED;
    int rc = reference && !o->mode_given ? mode_of_reference(o, err) : 0;
    if (rc)
        return rc;
    int whole = o->mode != DS_FID_BUNDLED;
    if (whole && !o->net)
        return ds_fail(err, DS_EINVAL,
                       "mode '%s' needs FID's network: give --feature-net "
                       "pt_inception-2015-12-05-6726825d.pth (from the releases of pytorch-fid, "
                       "Apache-2.0)",
                       ds_fid_mode_name(o->mode));
    if (reference && o->want & DS_FID_WANT_SFID)
        return ds_fail(err, DS_EINVAL, "'%s' has no features for sFID: give a folder to --against",
                       o->against);
    if (!o->want_given)
        o->want = DS_FID_WANT_FID | (o->against && !stats ? DS_FID_WANT_KID : 0);
    if (o->save)
        o->want |= DS_FID_WANT_FID;
    if (!whole && o->want & (DS_FID_WANT_IS | DS_FID_WANT_SFID))
        return ds_fail(err, DS_EINVAL,
                       "the bundled network ends before the layers of %s: give --feature-net",
                       o->want & DS_FID_WANT_IS ? "the Inception Score" : "sFID");
    if ((stats || !o->against) && o->want & (DS_FID_WANT_KID | DS_FID_WANT_PR))
        return ds_fail(err, DS_EINVAL,
                       "%s needs the pictures of both sides, statistics are not enough: give a "
                       "folder to --against",
                       o->want & DS_FID_WANT_KID ? "KID" : "precision and recall");
    return 0;
}

/* ---------------------------------------------------------------- network */

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
static int open_whole_net(evaluation *e, ds_error *err) {
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

static int open_net(evaluation *e, ds_error *err) {
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

/* ---------------------------------------------------------------- progress */

typedef struct {
    const char *what;
    int show, tty, tenth;
    double started, drawn;
} meter;

static void meter_start(meter *m, const options *o, const char *what) {
    *m = (meter){.what = what, .show = !o->quiet, .tty = isatty(STDERR_FILENO), .tenth = -1};
    m->started = ds_monotonic();
}

static void meter_update(meter *m, int64_t done, int64_t total) {
    double now = ds_monotonic(), took = now - m->started, rate = took > 0 ? (double)done / took : 0;
    int tenth = (int)(10 * done / total), last = done == total;
    if (!m->show || (m->tty ? now - m->drawn < 0.1 && !last : tenth <= m->tenth))
        return;
    if (m->tty) {
        char bar[BAR + 1];
        int full = (int)(BAR * done / total);
        for (int i = 0; i < BAR; i++)
            bar[i] = i < full ? '#' : '.';
        bar[BAR] = 0;
        fprintf(stderr, "\r%-10s [%s] %3d %%  %lld/%lld  %.1f pictures/s", m->what, bar,
                (int)(100 * done / total), (long long)done, (long long)total, rate);
        if (rate > 0 && !last)
            fprintf(stderr, "  %.0f s left", (double)(total - done) / rate);
        fputs(last ? "\033[K\n" : "\033[K", stderr);
    } else
        fprintf(stderr, "%s: %lld of %lld pictures, %.1f/s\n", m->what, (long long)done,
                (long long)total, rate);
    fflush(stderr);
    m->tenth = tenth;
    m->drawn = now;
}

/* ---------------------------------------------------------------- memory */

/* Most main memory that will be held at once: the network with its ring of pictures (on a GPU the
 * ring alone), or the matrices of a distance (the covariances of both sides, twice with sFID; a
 * factor, a product, and two of LAPACK's workspace); and what the metrics keep. */
static double needed(const evaluation *e, int64_t total) {
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

static int check_memory(const evaluation *e, int64_t total, ds_error *err) {
    double free_bytes = ds_memory_available() + ds_memory_now(), need = needed(e, total);
    if (free_bytes > 0 && need > free_bytes)
        return ds_fail(err, DS_ENOMEM,
                       "not enough memory: this needs %.0f MiB, %.0f MiB are free; fewer --metrics "
                       "need less",
                       need / (1 << 20), free_bytes / (1 << 20));
    return 0;
}

/* ---------------------------------------------------------------- one side */

static ds_fid_options suite_options(const evaluation *e, int want, int64_t total) {
    ds_fid_options o = {
        .want = want, .dim = ds_fid_mode_dim(e->o.mode), .total = total, .seed = e->o.seed};
    snprintf(o.net, sizeof o.net, "%s", e->digest);
    snprintf(o.preprocess, sizeof o.preprocess, "%s", ds_fid_mode_preprocess(e->o.mode));
    return o;
}

/* Through the network, batch by batch. */
static int run_stream(evaluation *e, side *s, int want, ds_picture_stream *stream, const char *what,
                      ds_error *err) {
    static float features[BATCH * DS_INCEPTION_POOL], spatial[BATCH * DS_INCEPTION_SPATIAL];
    static float logits[BATCH * DS_INCEPTION_LOGITS];
    const float *images[BATCH];
    int64_t at[BATCH], total = ds_picture_stream_total(stream);
    int dim = ds_fid_mode_dim(e->o.mode), count = 0, rc = 0;
    float *sp = want & DS_FID_WANT_SFID ? spatial : NULL,
          *lo = want & DS_FID_WANT_IS ? logits : NULL;
    meter m;
    meter_start(&m, &e->o, what);
    while (!(rc = ds_picture_stream_next(stream, images, at, &count, err)) && count) {
        ds_fid_net_run(e->net, images, count, features, sp, lo);
        for (int i = 0; !rc && i < count; i++)
            rc = ds_fid_suite_add(s->suite, at[i], features + (size_t)i * (size_t)dim,
                                  spatial + (size_t)i * DS_INCEPTION_SPATIAL,
                                  logits + (size_t)i * DS_INCEPTION_LOGITS, err);
        if (!rc && ds_stop_asked())
            rc = ds_fail(err, DS_ECANCELED, "interrupted after %lld of %lld pictures",
                         (long long)ds_picture_stream_done(stream), (long long)total);
        if (rc)
            return rc;
        meter_update(&m, ds_picture_stream_done(stream), total);
    }
    s->seconds = ds_monotonic() - m.started;
    return rc;
}

static void report_rejected(const options *o, const side *s, const ds_rejected_list *list) {
    if (!list->count || o->quiet)
        return;
    fprintf(stderr, "%lld file%s of '%s' left out:", (long long)list->count,
            list->count == 1 ? "" : "s", s->path);
    for (int64_t i = 0; i < list->listed && i < LISTED; i++)
        fprintf(stderr, "%s '%s' (%s)", i ? "," : "", list->items[i].path, list->items[i].reason);
    fputs(list->count > LISTED ? ", ...\n" : "\n", stderr);
}

/* At most 8 beside a network that the processor runs; a GPU waits for them, and leaves them all
 * the processors. */
static int decoders_for(const evaluation *e) {
    int n = e->dev->threads, most = 8;
    if (!e->dev->host_memory) {
        n = e->o.threads ? e->o.threads : ds_team_default_threads();
        most = DS_PICTURE_DECODERS_MAX;
    }
    return n < 1 ? 1 : n < most ? n : most;
}

static int read_folder(evaluation *e, side *s, int want, int64_t n, const char *what,
                       ds_error *err) {
    ds_picture_stream *stream;
    ds_picture_options po = {.folder = s->path,
                             .mode = e->o.mode,
                             .n = n,
                             .seed = e->o.seed,
                             .batch = e->batch,
                             .decoders = decoders_for(e)};
    int rc = ds_picture_stream_open(&stream, &po, err);
    if (rc)
        return rc;
    ds_fid_options so = suite_options(e, want, ds_picture_stream_total(stream));
    rc = check_memory(e, so.total, err);
    if (!rc) {
        s->suite = ds_fid_suite_new(&so);
        rc = run_stream(e, s, want, stream, what, err);
    }
    if (!rc) {
        ds_rejected_list *rejected =
            (ds_rejected_list *)(uintptr_t)ds_picture_stream_rejected(stream);
        ds_rejected_sort(rejected);
        ds_picture_stream_digest(stream, s->pictures);
        report_rejected(&e->o, s, rejected);
        s->rejected = rejected->count;
        s->n = ds_fid_suite_count(s->suite);
        if (s->n < 2)
            rc = ds_fail(err, DS_EINVAL, "'%.300s' has %lld usable pictures, need at least 2",
                         s->path, (long long)s->n);
    }
    ds_picture_stream_close(stream);
    if (!rc && want & DS_FID_WANT_FID) {
        rc = ds_fid_suite_stats(s->suite, &s->stats, err);
        snprintf(s->stats.decode, sizeof s->stats.decode, "%s", DS_DECODE_ID);
    }
    return rc;
}

/* Foreign statistics do not say what made them; ours must be of this network and preprocessing. */
static int read_stats(evaluation *e, side *s, ds_error *err) {
    int rc = ds_npz_read_stats(s->path, &s->stats, err), dim = ds_fid_mode_dim(e->o.mode);
    if (rc)
        return rc;
    const ds_npz_stats *t = &s->stats;
    s->n = t->n;
    if (t->dim != dim)
        return ds_fail(err, DS_EINVAL, "'%.200s' is of %d features, mode '%s' has %d%s", s->path,
                       t->dim, ds_fid_mode_name(e->o.mode), dim,
                       t->dim == DS_INCEPTION_POOL ? ": give --feature-net" : "");
    if (t->known && strcmp(t->net, e->digest))
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' was made with network %.12s..., this is %.12s...: the two cannot "
                       "be compared",
                       s->path, t->net, e->digest);
    if (t->known && strcmp(t->preprocess, ds_fid_mode_preprocess(e->o.mode)))
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' was made with preprocessing '%s', mode '%s' is '%s': the two "
                       "cannot be compared",
                       s->path, t->preprocess, ds_fid_mode_name(e->o.mode),
                       ds_fid_mode_preprocess(e->o.mode));
    if (e->o.want & DS_FID_WANT_SFID && (!t->mu_s || t->dim_s != DS_INCEPTION_SPATIAL))
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' has no statistics for sFID (mu_s, sigma_s of %d numbers)", s->path,
                       DS_INCEPTION_SPATIAL);
    if (!t->known && !e->o.quiet)
        fprintf(
            stderr,
            "note: '%s' does not say its network and preprocessing; it is taken to be made with "
            "the same network in mode %s\n",
            s->path, ds_fid_mode_name(e->o.mode));
    return 0;
}

/* The features that an adapter keeps of its dataset. */
static int read_reference(evaluation *e, side *s, ds_error *err) {
    ds_reference r;
    int rc = ds_reference_read(&r, s->path, NULL, err);
    if (rc)
        return rc;
    if (strcmp(r.net, e->digest) || strcmp(r.resize, ds_fid_mode_preprocess(e->o.mode)) ||
        r.dim != ds_fid_mode_dim(e->o.mode))
        rc = ds_fail(err, DS_EINVAL,
                     "'%.200s' was made with network %.12s... and '%s', this is %.12s... and '%s'",
                     s->path, r.net, r.resize, e->digest, ds_fid_mode_preprocess(e->o.mode));
    if (!rc) {
        ds_fid_options so = suite_options(e, e->o.want & ~DS_FID_WANT_IS, r.n);
        s->suite = ds_fid_suite_new(&so);
        s->n = r.n;
        snprintf(s->pictures, sizeof s->pictures, "%s", r.tree_digest);
    }
    for (int64_t i = 0; !rc && i < r.n; i++)
        rc = ds_fid_suite_add(s->suite, i, r.x + (size_t)i * (size_t)r.dim, NULL, NULL, err);
    if (!rc && e->o.want & DS_FID_WANT_FID)
        rc = ds_fid_suite_stats(s->suite, &s->stats, err);
    ds_reference_release(&r);
    return rc;
}

static int read_against(evaluation *e, ds_error *err) {
    if (is_folder(e->real.path))
        return read_folder(e, &e->real, e->o.want & ~DS_FID_WANT_IS, 0, "reference", err);
    if (ds_fs_ends_with(e->real.path, ".npz"))
        return read_stats(e, &e->real, err);
    if (ds_fs_ends_with(e->real.path, ".zst"))
        return read_reference(e, &e->real, err);
    if (access(e->real.path, F_OK))
        return ds_fail(err, DS_ENOTFOUND, "cannot find '%.300s'", e->real.path);
    return ds_fail(err, DS_EINVAL,
                   "'%.300s' is no folder, no .npz of statistics and no reference (.zst)",
                   e->real.path);
}

/* ---------------------------------------------------------------- numbers */

/* One row of the result, with what the number depends on. */
static json_t *add_row(evaluation *e, const char *metric, const char *name, double value, int64_t n,
                       int64_t n_real) {
    json_t *r = json_pack("{s:s, s:s, s:f, s:I, s:s, s:s, s:s, s:I}", "metric", metric, "name",
                          name, "value", value, "n", (json_int_t)n, "feature_net", e->digest,
                          "preprocess", ds_fid_mode_preprocess(e->o.mode), "decode", DS_DECODE_ID,
                          "seed", (json_int_t)e->o.seed);
    DS_ASSERT(r);
    json_object_set_new(r, "device_class", json_string(e->dev->device_class));
    if (n_real)
        json_object_set_new(r, "n_reference",
                            n_real > 0 ? json_integer((json_int_t)n_real) : json_null());
    json_array_append_new(e->rows, r);
    return r;
}

static int add_fid(evaluation *e, ds_error *err) {
    const ds_npz_stats *a = &e->real.stats, *b = &e->fake.stats;
    double fd;
    int rc = ds_frechet(a->mu, a->sigma, b->mu, b->sigma, a->dim, &fd, err);
    if (!rc)
        add_row(e, e->o.mode == DS_FID_BUNDLED ? "fd768" : "fid",
                e->o.mode == DS_FID_BUNDLED ? DS_FEATURE_METRIC_NAME : "FID", fd, e->fake.n,
                e->real.n);
    return rc;
}

static int add_sfid(evaluation *e, ds_error *err) {
    const ds_npz_stats *a = &e->real.stats, *b = &e->fake.stats;
    double fd;
    int rc = ds_frechet(a->mu_s, a->sigma_s, b->mu_s, b->sigma_s, a->dim_s, &fd, err);
    if (!rc)
        add_row(e, "sfid", "sFID", fd, e->fake.n, e->real.n);
    return rc;
}

static int add_kid(evaluation *e, ds_error *err) {
    ds_kid_result k;
    int rc = ds_fid_suite_kid(e->real.suite, e->fake.suite, KID_SUBSETS, KID_SUBSET_SIZE, e->o.seed,
                              &k, err);
    if (rc)
        return rc;
    json_t *r = add_row(e, e->o.mode == DS_FID_BUNDLED ? "kd768" : "kid",
                        e->o.mode == DS_FID_BUNDLED ? "KID on the same 768 features" : "KID", k.kid,
                        k.n_fake, k.n_real);
    json_object_set_new(r, "std_error", json_real(k.std_error));
    json_object_set_new(r, "subset_mean", json_real(k.subset_mean));
    json_object_set_new(r, "subsets", json_integer(k.subsets));
    json_object_set_new(r, "subset_size", json_integer(k.subset_size));
    return 0;
}

static int add_is(evaluation *e, ds_error *err) {
    ds_is_result is;
    int rc = ds_fid_suite_is(e->fake.suite, &is, err);
    if (rc)
        return rc;
    json_t *r = add_row(e, "is", "Inception Score", is.mean, is.n, 0);
    json_object_set_new(r, "std", json_real(is.std));
    json_object_set_new(r, "splits", json_integer(is.splits));
    return 0;
}

static int add_pr(evaluation *e, ds_error *err) {
    ds_pr_result pr;
    int rc = ds_fid_suite_pr(e->real.suite, e->fake.suite, &pr, err);
    if (rc)
        return rc;
    json_object_set_new(add_row(e, "precision", "precision", pr.precision, pr.n_fake, pr.n_real),
                        "k", json_integer(pr.k));
    json_object_set_new(add_row(e, "recall", "recall", pr.recall, pr.n_fake, pr.n_real), "k",
                        json_integer(pr.k));
    return 0;
}

/* Matrices take seconds, and there is no telling how far they are; a signal leaves at once. */
static void say_computing(const evaluation *e, const char *what) {
    if (e->o.quiet)
        return;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s%s%s\033[K", *what ? "computing " : "", what, *what ? " ..." : "");
    else if (*what)
        fprintf(stderr, "computing %s ...\n", what);
    fflush(stderr);
}

static int add_all(evaluation *e, ds_error *err) {
    static int (*const add[METRICS])(evaluation *, ds_error *) = {add_fid, add_kid, add_is, add_pr,
                                                                  add_sfid};
    static const int order[METRICS] = {0, 4, 1, 2, 3};
    int rc = 0;
    for (int i = 0; !rc && i < METRICS; i++) {
        int k = order[i], want = metric_names[k].want;
        int distance = want & (DS_FID_WANT_FID | DS_FID_WANT_SFID);
        if (!(e->o.want & want) || (distance && !e->o.against))
            continue;
        say_computing(e, want == DS_FID_WANT_FID && e->o.mode == DS_FID_BUNDLED
                             ? DS_FEATURE_METRIC_NAME
                             : metric_names[k].name);
        rc = add[k](e, err);
    }
    say_computing(e, "");
    return rc;
}

/* ---------------------------------------------------------------- output */

static void print_row(const json_t *r, int width) {
    const json_t *error = json_object_get(r, "std_error"), *std = json_object_get(r, "std");
    const json_t *real = json_object_get(r, "n_reference");
    printf("%-*s  %.6g", width, ds_json_string(r, "name", ""), ds_json_number(r, "value", 0));
    if (error || std)
        printf(" +- %.2g", json_number_value(error ? error : std));
    printf("   n %lld", (long long)ds_json_int(r, "n", 0));
    if (json_is_integer(real))
        printf("  reference %lld", (long long)json_integer_value(real));
    else if (real)
        printf("  reference ?");
    printf("  network %.12s  preprocess %s  device %s  seed %lld\n",
           ds_json_string(r, "feature_net", ""), ds_json_string(r, "preprocess", ""),
           ds_json_string(r, "device_class", ""), (long long)ds_json_int(r, "seed", 0));
}

static json_t *side_json(const side *s) {
    json_t *o = json_object();
    json_object_set_new(o, "path", json_string(s->path));
    json_object_set_new(o, "n", s->n >= 0 ? json_integer((json_int_t)s->n) : json_null());
    if (*s->pictures)
        json_object_set_new(o, "pictures_sha256", json_string(s->pictures));
    if (s->seconds > 0) {
        json_object_set_new(o, "left_out", json_integer((json_int_t)s->rejected));
        json_object_set_new(o, "seconds", json_real(s->seconds));
        json_object_set_new(o, "pictures_per_second", json_real((double)s->n / s->seconds));
    }
    return o;
}

static void print_result(const evaluation *e) {
    size_t i;
    json_t *r;
    if (!e->o.json) {
        int width = 0, n;
        json_array_foreach(e->rows, i, r) {
            n = (int)strlen(ds_json_string(r, "name", ""));
            width = n > width ? n : width;
        }
        json_array_foreach(e->rows, i, r) print_row(r, width);
        return;
    }
    json_t *doc = json_object();
    json_object_set_new(doc, "schema", json_string("diffscaler.evaluation/1"));
    json_object_set_new(doc, "mode", json_string(ds_fid_mode_name(e->o.mode)));
    json_object_set_new(doc, "engine", json_string(DS_VERSION));
    json_object_set_new(doc, "device_class", json_string(e->dev->device_class));
    json_object_set_new(doc, "folder", side_json(&e->fake));
    json_object_set_new(doc, "against", e->o.against ? side_json(&e->real) : json_null());
    json_object_set(doc, "metrics", e->rows);
    char *text = json_dumps(doc, JSON_INDENT(2));
    DS_ASSERT(text);
    puts(text);
    free(text);
    json_decref(doc);
}

static int evaluate(evaluation *e, ds_error *err) {
    int rc = open_net(e, err);
    e->fake.path = e->o.folder;
    e->real.path = e->o.against;
    if (!rc && e->o.against)
        rc = read_against(e, err);
    if (!rc)
        rc = read_folder(e, &e->fake, e->o.want, e->o.n, "pictures", err);
    ds_fid_net_close(e->net); /* room for the matrices */
    e->net = NULL;
    if (!rc)
        ds_stop_defer(0); /* what is left may leave at any moment */
    if (!rc && e->o.save)
        rc = ds_npz_write_stats(e->o.save, &e->fake.stats, 1, err);
    return rc ? rc : add_all(e, err);
}

int ds_worker_evaluate(int argc, char **argv) {
    evaluation e = {.rows = json_array()};
    ds_error err = {0};
    int rc = parse(&e.o, argc + 1, argv - 1, &err); /* getopt passes over the command's name */
    if (rc == 1) {
        fputs(usage, stdout);
        json_decref(e.rows);
        return 0;
    }
    rc = rc ? rc : ds_stop_install(NULL, 0, &err);
    ds_stop_defer(1); /* the message says how far it came */
    rc = rc ? rc : settle(&e.o, &err);
    rc = rc ? rc : evaluate(&e, &err);
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    else
        print_result(&e);
    ds_fid_suite_free(e.fake.suite);
    ds_fid_suite_free(e.real.suite);
    ds_npz_stats_release(&e.fake.stats);
    ds_npz_stats_release(&e.real.stats);
    ds_worker_device_close(e.dev);
    json_decref(e.rows);
    return rc ? ds_error_exit(rc) : 0;
}
