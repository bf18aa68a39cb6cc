/* engine/files/foreign_config.h - configurations of other programs: every field is used, is known
 * to change nothing here, or is refused by name.
 *
 * One table for each kind (foreign_config.c): a row for each field, with the type that is read
 * where it is used, or the values at which it changes nothing.  Who uses the fields reads them
 * himself, after this check.
 * Sources: the constructors of diffusers 0.42 (DiTTransformer2DModel, Transformer2DModel,
 * AutoencoderKL, the schedulers with betas and FlowMatchEulerDiscreteScheduler);
 * facebookresearch/DiT train.py and models.py.
 *
 * Thread: any.  Errors: DS_EINVAL with the field and the way out.
 */
#ifndef DS_ENGINE_FILES_FOREIGN_CONFIG_H
#define DS_ENGINE_FILES_FOREIGN_CONFIG_H

#include "engine/files/import_report.h"

enum ds_foreign {
    DS_FOREIGN_DIT,       /* config.json of a diffusers DiT */
    DS_FOREIGN_FACEBOOK,  /* config.json beside a DiT of the facebook layout: its constructor's
                             arguments */
    DS_FOREIGN_SCHEDULER, /* scheduler_config.json, of a schedule with betas .. */
    DS_FOREIGN_FLOW,      /* .. and of a flow */
    DS_FOREIGN_PIPELINE,  /* model_index.json */
    DS_FOREIGN_VAE,       /* config.json of an AutoencoderKL */
    DS_FOREIGN_ARGS       /* settings in a checkpoint: fields that are not known are said, in one
                             line, and not refused: every training program has its own */
};

/* A file of Python's json module: as JSON, but Infinity and NaN are numbers there (schedulers of
 * diffusers write them); they are read as null.  As ds_json_read_file. */
int ds_foreign_read(const char *path, size_t max, json_t **out, ds_error *err);

/* file: for messages and the report. */
int ds_foreign_check(enum ds_foreign what, const char *file, const json_t *doc,
                     ds_import_report *report, ds_error *err);

/* Objects around a setting: deeper ones are not read. */
#define DS_FOREIGN_DEPTH 12

/* A member of settings that were put together: the name of a number that they do not agree on. */
#define DS_FOREIGN_CONFLICT "(conflict)"

/* Is it a field of DS_FOREIGN_ARGS that says something about the model? */
enum ds_foreign_kind { DS_FOREIGN_NO, DS_FOREIGN_OTHER, DS_FOREIGN_NUMBER };
enum ds_foreign_kind ds_foreign_decides(const char *field);

/* The field in settings, those around first; NULL = absent or null everywhere.  depth: 0. */
const json_t *ds_foreign_find(const json_t *doc, const char *field, int depth);

/* Does doc have a field of this kind that is not every config's ("_...")? */
int ds_foreign_is(enum ds_foreign what, const json_t *doc);

/* Does a number of doc say the same; absent and null: 1. */
int ds_foreign_agrees(const json_t *doc, const char *field, double is);

#endif
