/* registry/rows/datasets.h - folders of images and their versions.
 *
 *   scanning --scan ok--> ready        ready <--scan ok / scan failed--> failed
 *   scanning --scan failed--> failed   any --remove--> removed --add again--> scanning
 *
 * A version is one content of the folder (tree digest); the same content again is no new version.
 * Scans are asked for by number: scan_wanted counts requests, scan_done is the newest request that
 * a finished scan had seen when it started; work = scan_done < scan_wanted.  `generation` counts
 * what should be trained anew for the same content: changed method or options, or a retry.  Another
 * program may INSERT INTO datasets(name, source_path): defaults and triggers make the rest.
 */
#ifndef DS_REGISTRY_ROWS_DATASETS_H
#define DS_REGISTRY_ROWS_DATASETS_H

#include "registry/rows/feature_nets.h"
#include "registry/core/names.h"
#include "registry/core/handle.h"
#include "registry/store/store.h"

typedef struct {
    const char *name;      /* checked with ds_name_check */
    const char *path;      /* absolute, no control characters, shorter than PATH_MAX */
    const char *method;    /* NULL: "affiner" (new) or as it was (known) */
    const json_t *options; /* object or NULL: {} (new) or as it was (known) */
    int watch;             /* 1, 0, or -1: 1 (new) or as it was (known) */
    int64_t base_id;       /* trained on this base; 0: as it was (new: the default); -1: default */
    const ds_feature_choice *net; /* measured with it; NULL: as it was (new: the default) */
    int publish_worse; /* 1: its next version is published even if its bars refuse it, once */
} ds_dataset_new;

/* New (*created = 1), known with the same path (*created = 0: a scan is asked for, a failed or
 * cancelled training gets another chance, given options and base replace the old), or removed
 * (revived, *created = 1).  With publish_worse content whose newest version only its bars refused
 * is trained again.  DS_ECONFLICT when the name belongs to another path.  *seq = scan number
 * to wait for. */
int ds_dataset_add(ds_registry *r, const ds_dataset_new *d, int64_t *id, int *created, int64_t *seq,
                   ds_error *err);

/* Ask for a scan; *seq (may be NULL) = its number. */
int ds_dataset_rescan(ds_registry *r, const char *name, int64_t *seq, ds_error *err);

/* state -> removed; its queued jobs are cancelled, running ones get control "cancel" (see
 * registry/jobs/jobs.h); adapters stay. */
int ds_dataset_remove(ds_registry *r, const char *name, ds_error *err);

/* paused: no scan and no training of it is started (ds_job_next leaves them out) until it is
 * resumed with 0; what runs is the caller's to stop.  The same again changes nothing. */
int ds_dataset_pause(ds_registry *r, const char *name, int paused, ds_error *err);

int ds_dataset_get(ds_registry *r, const char *name, json_t **out, ds_error *err);
int ds_dataset_get_id(ds_registry *r, int64_t id, json_t **out, ds_error *err);
int ds_dataset_id(ds_registry *r, const char *name, int64_t *id, ds_error *err);

/* Name of the live dataset with this path: DS_ENOTFOUND if none. */
int ds_dataset_by_path(ds_registry *r, const char *path, char name[DS_NAME_SIZE], ds_error *err);

/* By name; removed ones only when asked for; also as text. */
int ds_dataset_list(ds_registry *r, ds_page page, int with_removed, json_t **out, ds_error *err);

/* Folders of live datasets: what to watch, or (watch 0) only to know of.  It is another list when
 * the number that ds_dataset_roots_number gives is another one. */
int ds_dataset_each_root(ds_registry *r,
                         void (*fn)(void *ctx, int64_t id, const char *path, int watch), void *ctx,
                         ds_error *err);
int64_t ds_dataset_roots_number(ds_registry *r);

/* The path of a row that another program inserted, and that no scan has read yet, leads through a
 * link: it becomes `real`, once (*done = 1, event dataset.resolved).  *done = 0: a scan has read
 * it, so a link that is there now is not followed. */
int ds_dataset_resolve(ds_registry *r, int64_t id, const char *real, int *done, ds_error *err);

/* A scan of every live dataset with watch = 1, in one transaction. */
int ds_dataset_rescan_all(ds_registry *r, ds_error *err);

/* {"items":[{path,reason}],"next":null,"count":true number} of the latest version or failed scan.
 */
int ds_dataset_rejected(ds_registry *r, const char *name, json_t **out, ds_error *err);

/* Digest of the manifest of a version (0 = latest): read it with ds_store_read. */
int ds_dataset_manifest(ds_registry *r, const char *name, int64_t version, char sha256[DS_HEX_SIZE],
                        ds_error *err);

/* What a train spec needs of one version row: {name,version,root,tree_digest,manifest_sha256,
 * manifest_path (compressed blob),images,classes:[...],method,options,generation,publish_worse}. */
int ds_dataset_version_get(ds_registry *r, int64_t dataset_version_id, json_t **out, ds_error *err);

#endif
