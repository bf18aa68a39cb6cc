/* registry/flow/results.h - the end of a job that ran to its end: result.json becomes rows.
 *
 * Each function is the one transaction in which a running job reaches a final state; the documents
 * are those of docs/jobs.md and are checked (DS_EINVAL names the member at fault, DS_ELIMIT).  Put
 * the files into the store first (ds_store_put_file with the digest the result names, any thread).
 */
#ifndef DS_REGISTRY_FLOW_RESULTS_H
#define DS_REGISTRY_FLOW_RESULTS_H

#include "registry/core/handle.h"
#include "registry/store/store.h"

/* scan: a new tree digest makes a new dataset version (*changed = 1; a queued training of an older
 * version is cancelled), a known one is "unchanged".  manifest: its blob; its sha256 must be the
 * tree digest. */
int ds_scan_finish(ds_registry *r, int64_t job, const json_t *result, const ds_blob *manifest,
                   int *changed, ds_error *err);

/* train: adapter version (published, or rejected when the gate refused), blobs, evaluations, gate
 * with its tasks and bars, probe, task 0 of the base if it was recorded, @latest (only when
 * passed), job (done or rejected), events; pictures that could not be decoded join the rejected
 * files of the dataset version.  A wish to publish a worse version that the spec has is used up,
 * whatever the verdict. */
typedef struct {
    int64_t job;
    const json_t *spec;            /* spec.json as it was run */
    const json_t *result;          /* result.json */
    const ds_blob *adapter;        /* must be the digest that the result names */
    const ds_blob *reference;      /* reference statistics; NULL only if the result names none */
    const ds_blob *base_reference; /* of base_task, likewise */
} ds_publication;
int ds_publish(ds_registry *r, const ds_publication *p, char ref[DS_HEX_SIZE + 16], ds_error *err);

/* verify: gate rows, task 0 of the base if it was recorded; job done, or rejected when refused. */
typedef struct {
    int64_t job;
    const json_t *spec, *result;
    const ds_blob *base_reference; /* as in ds_publication */
} ds_verification;
int ds_verify_finish(ds_registry *r, const ds_verification *v, ds_error *err);

/* sample and anything else whose result is only kept: running -> done. */
int ds_job_done(ds_registry *r, int64_t job, const json_t *result, ds_error *err);

#endif
