/* worker/convert/import.h - weights of other programs become canonical files (docs/formats.md,
 * docs/jobs.md "import").
 *
 * What is written lies in out_dir as <sha256>.safetensors: under a temporary name first, synced,
 * renamed; memory stays at about one tensor.  Used by the job kind "import" and by
 * `diffscaler-worker import-base` and `import-feature-net`. Thread: one.  Errors: as
 * ds_weights_open; DS_EINVAL not that kind of model; DS_ECANCELED.
 */
#ifndef DS_WORKER_CONVERT_IMPORT_H
#define DS_WORKER_CONVERT_IMPORT_H

#include "base/digest.h"
#include "base/json.h"
#include "base/progress.h"
#include "engine/files/import_report.h"
#include "kernels/device.h"

#include <limits.h>

typedef struct {
    char name[64];
    char file[PATH_MAX]; /* of the canonical file, absolute if out_dir is */
    char sha256[DS_HEX_SIZE];
    char source_format[96];
    char source_sha256[DS_HEX_SIZE];
    char license[256];
    json_t *config; /* owned */
    int64_t bytes, parameters;
    char vae_file[PATH_MAX], vae_sha256[DS_HEX_SIZE]; /* "" = no VAE */
    int new_file, new_vae_file;                       /* 1: not there before */
} ds_import_result;

void ds_import_result_release(ds_import_result *r); /* leaves the caller's memory zeroed */

/* result.json of an import (docs/jobs.md); what: "base" or "feature_net".  A new reference. */
json_t *ds_import_result_json(const char *what, const ds_import_result *r,
                              const ds_import_report *report);

typedef struct {
    /* Before the first step of a stage: "digest" or "convert", whose steps are bytes, or
     * "objective", of pictures.  A stage may come again. */
    void (*stage)(void *user, const char *stage);
    ds_progress *step;
    void *user;
} ds_import_progress;

static inline void ds_import_stage(const ds_import_progress *p, const char *stage) {
    if (p->stage)
        p->stage(p->user, stage);
}

typedef struct {
    const char *source, *vae; /* vae NULL or "": the source folder's own, if it has one */
    const char *name, *license, *out_dir; /* name NULL or "": from the source */
    int heads;                            /* 0 = find out */
    /* Which of several models in one file: "ema", "model" (the raw one), or its key; NULL or "":
     * the averaged one where there is one.  Of the VAE's file always the latter. */
    const char *weights;
    ds_import_report *report; /* what was understood, also of a file that is refused; NULL: none */
    ds_import_progress progress;
    /* Bases (worker/convert/import_objective.h): what it predicts, "eps"; NULL or "": found out, on
     * the pictures of the folder `probe` (NULL or "": those that come with the program). */
    const char *objective, *probe;
    ds_device_options device; /* kind NULL: the processor */
    double memory_limit;      /* bytes that finding out may take; 0: what is free */
} ds_import_options;

int ds_import_base(const ds_import_options *o, ds_import_result *out, ds_error *err);

/* worker/convert/import_feature_net.c; takes source, out_dir, weights and report; fills name, file,
 * sha256, source_*, config, bytes, parameters. */
int ds_import_feature_net(const ds_import_options *o, ds_import_result *out, ds_error *err);

#endif
