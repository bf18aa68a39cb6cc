/* worker/commands/evaluate_cmd.h - parts of `diffscaler-worker evaluate`, in the order in which
 * they run:
 *
 *   evaluate_options.c  the words of the command line
 *   evaluate_sides.c    what each side is, which metrics it can give: everything that can be
 *                       refused before the first picture is read
 *   evaluate_read.c     pictures through the network, statistics, references
 *   evaluate_classes.c  which class a picture is of, and what its neighbours say
 *   evaluate_metrics.c  the numbers
 *   evaluate_print.c    notes, progress, results
 *   evaluate_cmd.c      the command, which calls them
 *
 * Two sides are compared: `fake`, the FOLDER of the command line, and `real`, what --against names.
 * A side is a folder, an .npz file (statistics, pictures or both), or an adapter's reference.
 * A metric that cannot be had loses only itself: it has a row without a value and with the reason.
 * Thread: the main one.
 */
#ifndef DS_WORKER_COMMANDS_EVALUATE_CMD_H
#define DS_WORKER_COMMANDS_EVALUATE_CMD_H

#include "engine/metrics/fid_suite.h"
#include "worker/images/picture_list.h"
#include "worker/images/picture_stream.h"
#include "worker/measure/classes.h"
#include "worker/measure/reference.h"

#include <jansson.h>

enum { DS_EV_BATCH = DS_INCEPTION_BATCH_MAX, DS_EV_METRICS = 6 };

/* Class accuracy: neighbours that vote; pictures of a side, whose features are all kept. */
enum { DS_EV_CLASS_K = 5, DS_EV_CLASS_ROWS = 5000 };

/* The decode id of pictures that need no decoder. */
#define DS_EV_AS_STORED "rgb8-as-stored"

typedef struct {
    const char *folder, *against, *net, *save, *device;
    enum ds_fid_mode mode;
    enum ds_precision precision;
    int mode_given, want, want_given, json, quiet, threads, recursive, skip_broken, force;
    int64_t n;
    uint64_t seed;
} ds_ev_options;

enum ds_ev_kind { DS_EV_NONE, DS_EV_FOLDER, DS_EV_NPZ, DS_EV_REFERENCE };

typedef struct {
    const char *path;
    enum ds_ev_kind kind;
    ds_picture_list list; /* of a folder */
    ds_npz_contents npz;
    ds_reference reference;
    int from_pictures, from_stats; /* which metrics come from where: DS_FID_WANT_* */
    int64_t available, asked;      /* pictures; asked: at most so many are taken */
    ds_fid_suite *suite;           /* when something comes from pictures */
    ds_npz_stats stats;            /* when FID or sFID is wanted */
    int64_t n, left_out;           /* pictures measured, files left out */
    ds_rejected_list dropped;      /* those files */
    char pictures[DS_HEX_SIZE];    /* digest of the pictures */
    char decode[32];               /* how files became pixels; "" unknown */
    double seconds;
    float *x;     /* (rows, dim) features of pictures of shared classes, when those are measured */
    int *classes; /* (rows) */
    int64_t rows, rows_cap;
} ds_ev_side;

typedef struct {
    ds_ev_options o;
    ds_device *dev;
    int batch; /* of the network on this device, at most DS_EV_BATCH */
    ds_fid_net *net;
    char digest[DS_HEX_SIZE];
    ds_ev_side fake, real;
    char **class_names; /* (class_count) sub-folders that both sides have; sorted by bytes */
    int class_count;
    json_t *rows, *notes;
    ds_error lost[DS_EV_METRICS]; /* code 0: it can be had */
} ds_ev_run;

/* One entry for each metric. */
typedef struct {
    const char *word, *name;                 /* in the document; for people */
    const char *bundled_word, *bundled_name; /* of the bundled network, where they are others */
    int want, both;                          /* both: needs both sides */
    int64_t least;                           /* pictures of a side */
    int (*add)(ds_ev_run *e, ds_error *err);
} ds_ev_metric;
extern const ds_ev_metric ds_ev_metrics[DS_EV_METRICS];

/* What its number is called in this mode: "FID" is said of FID's network alone. */
const char *ds_ev_metric_name(const ds_ev_run *e, const ds_ev_metric *m);

/* 1: help was asked for, and printed. */
int ds_ev_parse(ds_ev_options *o, int argc, char **argv, ds_error *err);

/* Every path, option and count; no picture is read.  Leaves in o.want what can be measured. */
int ds_ev_sides_look(ds_ev_run *e, ds_error *err);
/* What must fit this network. */
int ds_ev_sides_match(ds_ev_run *e, ds_error *err);
void ds_ev_side_release(ds_ev_side *s);

int ds_ev_read(ds_ev_run *e, ds_ev_side *s, const char *what, ds_error *err);

/* The classes of the two sides, once their files are listed.  DS_EINVAL: why there are none. */
int ds_ev_classes_find(ds_ev_run *e, ds_error *err);
/* 1: there are pictures enough of them, as far as names tell. */
int ds_ev_classes_fit(const ds_ev_run *e);
/* Keep the features of a picture, if it is of a shared class. */
void ds_ev_classes_add(const ds_ev_run *e, ds_ev_side *s, const char *path, const float *x);
int ds_ev_classes_measure(const ds_ev_run *e, ds_classes *out, ds_error *err);
void ds_ev_classes_describe(const ds_ev_run *e, const ds_classes *c, json_t *row);

/* Classes are measured where there are some, without having been asked for: that they cannot be had
 * is then a note, and nothing is lost. */
int ds_ev_unasked(const ds_ev_run *e, const ds_ev_metric *m);

/* All that are wanted; those that fail are in `lost`. */
void ds_ev_measure(ds_ev_run *e);

/* One line on stderr (unless --quiet) and in the document.  The caller escapes paths in it. */
void ds_ev_note(ds_ev_run *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "5,000". */
const char *ds_ev_count(char out[32], int64_t n);

typedef struct {
    const char *what;
    int show, tty, tenth;
    double started, drawn;
} ds_ev_meter;
void ds_ev_meter_start(ds_ev_meter *m, const ds_ev_options *o, const char *what);
void ds_ev_meter_update(ds_ev_meter *m, int64_t done, int64_t total);
void ds_ev_say_computing(const ds_ev_run *e, const char *what);

int ds_ev_print(const ds_ev_run *e, ds_error *err);

/* "pytorch-fid": the tool that the mode is named after, or NULL. */
const char *ds_ev_tool(enum ds_fid_mode mode);
enum ds_decode_use ds_ev_use(enum ds_fid_mode mode);

#endif
