/* worker/convert/import_objective.h - an import finds out what its base predicts, and says how.
 *
 * In this order: what the person said (--objective); this program's own file, which `pretrain`
 * made; what the file says of itself (settings of its training beside the weights, diffusers'
 * scheduler); and always, where it can be done, the measurement (engine/diffusion/objective.h) on a
 * few real pictures, through the VAE where the base works on latents.  What is said and what is
 * measured must agree.  Where nothing is said, the measurement must be clear.  What is neither
 * noise of DDPM's schedule nor the velocity of a flow (ds_flow) is refused.
 *
 * The finding is the member "objective" of the report (docs/jobs.md); of a flow the file's
 * configuration has it too (docs/formats.md).
 *
 * Thread: the main one.  Errors: DS_EINVAL a model that cannot be used, or not to be told, with the
 * numbers and the way out; DS_ENOMEM not enough memory now; as the readers of files and pictures.
 */
#ifndef DS_WORKER_CONVERT_IMPORT_OBJECTIVE_H
#define DS_WORKER_CONVERT_IMPORT_OBJECTIVE_H

#include "engine/names/dit_names.h"
#include "engine/diffusion/objective.h"
#include "worker/convert/import.h"

/* Who says what a base predicts. */
enum ds_said_by {
    DS_SAID_BY_NOBODY,
    DS_SAID_BY_PERSON,
    DS_SAID_BY_PRETRAIN,
    DS_SAID_BY_SETTINGS,  /* of the training program, in the checkpoint */
    DS_SAID_BY_SCHEDULER, /* diffusers' scheduler_config.json */
    DS_SAID_BY_TENSORS,   /* REPA's projectors */
    DS_SAID_BY_CONFIG     /* this program's, of a flow that was imported before */
};

typedef struct {
    enum ds_said_by by;
    char where[160]; /* "args.prediction = \"velocity\"" */
    int against;     /* by a person: the file says something else, which `where` has */
    ds_flow flow;    /* what it is then; nobody: that of eps */
    /* Settings name a velocity, but not all of it; the rest of `flow` is what their program has
     * without a word, and a clear measurement is taken for it: */
    int path_open, clock_open; /* clock: direction and scale */
    int way_unknown;           /* .. and which program it was is not known either */
} ds_objective_claim;

/* worker/convert/import_said.c.  Before anything is converted: what is said.  DS_EINVAL where that
 * cannot be used. */
int ds_import_objective_said(ds_objective_claim *claim, const ds_import_options *o,
                             const ds_weights *w, const ds_dit_names *d, ds_error *err);

/* Of the files that were written (r): measures, compares, reports.  *flow: what it is. */
int ds_import_objective_find(const ds_objective_claim *claim, const ds_import_options *o,
                             const ds_import_result *r, ds_flow *flow, ds_error *err);

#define DS_ONLY_USABLE                                                                             \
    "only models that predict noise with DDPM's schedule, or a velocity on the linear or gvp "     \
    "path, "                                                                                       \
    "can be used by this version"

#endif
