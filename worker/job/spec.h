/* worker/job/spec.h - spec.json of a job directory, checked in full before any work starts.
 *
 * All inputs of a job stand in its spec (docs/jobs.md).  A key that is not known is an error that
 * names it: a misspelt option must not be ignored for an hour.  Every number has a range.
 *
 * Ownership: ds_spec_read/ds_spec_parse give a ds_spec that owns everything; strings point into
 * its document.  Read-only afterwards, any thread.  Errors: DS_EINVAL naming "spec.json: a.b.c".
 */
#ifndef DS_WORKER_JOB_SPEC_H
#define DS_WORKER_JOB_SPEC_H

#include "base/digest.h"
#include "base/json.h"
#include "contract/job.h"
#include "contract/options.h"
#include "engine/model/adapter.h"
#include "engine/metrics/fid_net.h"
#include "engine/diffusion/sampler.h"
#include "engine/diffusion/trainer.h"

#define DS_SPEC_MAX ((size_t)64 << 20) /* bytes of spec.json */
#define DS_SPEC_TASKS_MAX 100000
#define DS_SPEC_PROBES_MAX 1000   /* of one task */
#define DS_SPEC_IMAGES_MAX 100000 /* evaluate.n, sample n */
#define DS_SPEC_BARS_MAX 8

#define DS_VALUE(value, word) value,
enum ds_verify { DS_VERIFIES(DS_VALUE) };
#undef DS_VALUE

typedef struct {
    const char *name; /* "" where the file has none */
    const char *path; /* absolute; NULL: there is no such file (null in the spec) */
    const char *sha256;
} ds_spec_file;

/* A feature network: the file and how pictures are prepared for it. */
typedef struct {
    const char *name, *path, *sha256;
    enum ds_fid_mode mode; /* "mode"; bundled where the spec says none */
} ds_spec_net;

/* Members as in contract/options.def, here and below; kind: as worker/job/device.h says. */
typedef struct {
#define DEVICE(...) DS_OPTION_MEMBER(__VA_ARGS__)
#include "contract/options.def"
    double memory_limit; /* bytes this job may take; 0 = what the machine has free */
} ds_spec_device;

typedef struct {
    const char *name;
    int version;
    const char *root, *manifest, *tree_digest;
} ds_spec_dataset;

/* Guidance is `guidance` in a mode of engine/diffusion/sampler.h, or with mode DS_GUIDANCE_WEIGHTS
 * `domain` and `classes`. */
typedef struct {
#define SAMPLE(...) DS_OPTION_MEMBER(__VA_ARGS__)
#include "contract/options.def"
} ds_spec_sample;
enum { DS_GUIDANCE_WEIGHTS = DS_GUIDANCE_DOMAIN + 1, DS_GUIDANCE_TEXT = 96 };

typedef struct {
#define EVALUATE(...) DS_OPTION_MEMBER(__VA_ARGS__)
#include "contract/options.def"
} ds_spec_evaluate;

/* sha256 NULL: nothing recorded. */
typedef struct {
    const char *device_class, *sha256;
#define PROBE(...) DS_OPTION_MEMBER(__VA_ARGS__)
#include "contract/options.def"
} ds_spec_probe;

/* A task whose adapter must go on as it was; the base's own classes are one without an adapter. */
typedef struct {
    const char *name, *ref;
    ds_spec_file adapter, reference; /* digests of the uncompressed bytes */
    ds_spec_probe probe;             /* that of publication */
    ds_spec_probe *probes;           /* of all device classes that are known */
    int probe_count;
    ds_spec_sample sample;
    ds_spec_evaluate evaluate;
    double fd, kid; /* NaN: not recorded */
    const char *base_sha256, *feature_net_sha256;
    ds_spec_file feature_net; /* that its reference was made with; path NULL: not here any more;
                                 sha256 NULL: not said, only that of the job can be */
} ds_spec_task;

/* A published version that the new one is compared with. */
enum ds_bar_role { DS_BAR_LATEST, DS_BAR_BEST, DS_BAR_BASE };
typedef struct {
    enum ds_bar_role role; /* "latest" or "best" */
    const char *ref;
    ds_spec_file adapter; /* digest of the uncompressed bytes */
    ds_spec_file base;    /* that it was made on; path NULL: not here any more */
    ds_spec_file vae;     /* of that base; sha256 NULL: it has none */
    ds_spec_sample sample;
    double fd, kid;                               /* as published; NaN: not known */
    const char *feature_net_sha256, *tree_digest; /* of those; NULL: not said */
} ds_spec_bar;

/* fd_tolerance is relative, kid_tolerance_sigmas in standard errors; worse_margin and worse_sigmas
 * are those of a new version against its bars: relative, and in standard errors of the paired
 * difference (measured: docs/math.md); class_margin and class_sigmas the same of the share of
 * samples that show their class, the margin as a share of all samples. */
typedef struct {
#define GATE(...) DS_OPTION_MEMBER(__VA_ARGS__)
#include "contract/options.def"
} ds_spec_gate;

typedef struct {
    int dropout_given; /* label_dropout stood in the spec */
    ds_train_options o;
} ds_spec_train;

typedef struct {
    const char *dataset, *root, *hash_cache;
    int min_side;
    int64_t max_pixels, max_classes, max_files;
} ds_spec_scan;

typedef struct {
    int feature_net; /* what: 0 base, 1 feature_net */
    const char *source, *vae, *name, *license,
        *out_dir; /* vae NULL, name and license "": not given */
    int heads;
    const char *weights;           /* NULL: the averaged ones, where there are some */
    const char *objective, *probe; /* NULL: found out; on the bundled pictures */
} ds_spec_import;

typedef struct {
    enum ds_job_kind kind;
    int64_t job;
    ds_spec_device device;
    ds_spec_scan scan;         /* kind scan */
    ds_spec_import import;     /* kind import */
    const char *name;          /* train: of the task */
    int version;               /* train */
    ds_spec_file base;         /* all but scan */
    ds_spec_file vae;          /* of a latent base; path NULL: none */
    ds_spec_net feature_net;   /* train, verify; path NULL: verify without one */
    ds_spec_dataset dataset;   /* train */
    const char *cache_dir;     /* train, verify */
    const char *base_cache;    /* train: base_reference.cache */
    ds_method_spec method;     /* train; classes is not known yet */
    ds_spec_train train;       /* train */
    ds_spec_sample sample;     /* train, sample */
    ds_spec_evaluate evaluate; /* train */
    ds_spec_probe probe;       /* train: n and seed only */
    ds_spec_task *tasks;       /* train, verify */
    int task_count;
    ds_spec_task base_task;             /* train, verify: the base's own classes, if .. */
    int base_task_known;                /* .. they are recorded */
    int base_task_asked;                /* the spec has "base_task": null asks for recording it */
    int base_probe_only;                /* .. its probe alone */
    ds_spec_bar bars[DS_SPEC_BARS_MAX]; /* train */
    int bar_count;
    int publish_worse; /* train: a refusal by a bar is overruled, for this version */
    ds_spec_gate gate;
    ds_spec_file adapter;     /* sample; path NULL: the base itself */
    int n, columns;           /* sample */
    int sheet;                /* sample; 0: grid.png is not made, so n may be large */
    uint64_t seed;            /* sample */
    const char *class_name;   /* sample; NULL = all classes in turn */
    char digest[DS_HEX_SIZE]; /* of the canonical document without "job" and "device": names the
                                 work, so that results of another spec are not taken for its */
    json_t *doc;
} ds_spec;

int ds_spec_read(const char *path, ds_spec **out, ds_error *err);
int ds_spec_parse(const char *name, const char *text, size_t n, ds_spec **out, ds_error *err);
void ds_spec_free(ds_spec *spec); /* NULL is fine */

/* The spec's objects again, as they are written into results. */
/* own_base: of pictures of the base itself, whose domain nothing is moved away from. */
ds_guidance ds_spec_guidance(const ds_spec_sample *s, int own_base);
/* Passes through a model in a step of a picture (of heun not the last one, which takes half), the
 * mean of all steps. */
int ds_spec_passes(const ds_spec_sample *s, const ds_facts *c, int own_base, int has_class,
                   double *passes, ds_error *err);
/* "guidance 1.5 domain", "guidance 1.5 domain, 3 class" */
void ds_spec_guidance_text(const ds_spec_sample *s, char out[DS_GUIDANCE_TEXT]);
/* In the form that the spec had. */
json_t *ds_spec_sample_json(const ds_spec_sample *s);
json_t *ds_spec_evaluate_json(const ds_spec_evaluate *e);

#endif
