/* daemon/jobs/defaults.h - every choice that a job's spec needs and a user may leave out.
 *
 * One table names each option of `POST /v1/datasets {"options":{...}}`: its place in spec.json, its
 * type, its limits, its default.  Options are checked when they arrive and again when the spec is
 * made (rows may come from other programs).  Thread: any.
 */
#ifndef DS_DAEMON_JOBS_DEFAULTS_H
#define DS_DAEMON_JOBS_DEFAULTS_H

#include "base/error.h"

#include <jansson.h>
#include <stdint.h>

/* What the defaults depend on: a dataset version and its base. */
typedef struct {
    int64_t images;  /* accepted images of the dataset version */
    int64_t classes; /* classes of it */
    int velocity;    /* 1: the base predicts a velocity, 0: noise */
} ds_dataset_facts;

/* DS_EINVAL naming the option at fault: unknown (with the nearest known one), of the wrong type,
 * or outside its limits. */
int ds_options_check(const char *method, const json_t *options, ds_error *err);

/* Adds the members method, train, sample, evaluate, probe, gate and device to a spec. */
int ds_options_apply(json_t *spec, const char *method, const json_t *options,
                     const ds_dataset_facts *facts, ds_error *err);

/* What differs between two sets of options, as a training sees them: [{option, from, to,
 * from_default, to_default}], where a default is the value that is taken when nobody says one.  An
 * option that is given now and was not, or the other way round, is listed also where its value
 * stays. */
json_t *ds_options_changes(const char *method_was, const json_t *was, const char *method_is,
                           const json_t *is, const ds_dataset_facts *facts);

/* Texts about options that are given and change nothing ("rank has no effect with method
 * embedding"); options may be NULL.  velocity: as in ds_dataset_facts.  A list of strings. */
json_t *ds_options_without_effect(const char *method, const json_t *options, int velocity);

/* Guidance of the settings of a sample, of which some was asked for: guidance and guidance_mode, or
 * guidance_domain and guidance_class, where what is not asked for is as it was.  own_base: the base
 * is drawn itself.  DS_EINVAL where both forms are asked for, or a part of one means nothing beside
 * the settings' other form. */
int ds_guidance_take(json_t *sample, const json_t *given, int own_base, ds_error *err);

/* The same members with nothing known of a dataset: for sample and verify jobs. */
int ds_options_plain(json_t *spec, const char *const *members, ds_error *err);

#endif
