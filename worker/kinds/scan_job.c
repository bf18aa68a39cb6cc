/* worker/kinds/scan_job.c - job kind "scan": a folder in, manifest.ndjson and its digest out. */
#include "base/fs.h"
#include "base/limits.h"
#include "worker/kinds/kinds.h"
#include "worker/images/scan.h"

#include <math.h>
#include <stdlib.h>

static int on_scan(void *user, double done, double total) {
    const ds_work *job = user;
    ds_events_progress(job->events, (double)done, (double)total, "files", NAN, NAN);
    return 0;
}

int ds_job_scan(const ds_work *job, ds_error *err) {
    const ds_spec_scan *s = &job->spec->scan;
    ds_scan_options o = {.root = s->root,
                         .no_links = 1,
                         .dataset = s->dataset,
                         .hash_cache = s->hash_cache,
                         .min_side = s->min_side,
                         .max_pixels = s->max_pixels,
                         .max_classes = s->max_classes,
                         .max_files = s->max_files};
    ds_scan_result r = {0};
    ds_events_stage(job->events, "scan", "%s", s->root);
    int rc = ds_scan(&o, &r, on_scan, (void *)(uintptr_t)job, err);
    for (int i = 0; i < r.warning_count; i++)
        ds_events_warning(job->events, "%s", r.warnings[i]);
    if (!rc && r.images < DS_IMAGES_FOR_FD) /* it would be trained for nothing */
        rc = ds_fail(err, DS_EINVAL,
                     "folder '%.200s' has %lld usable image, and what it becomes cannot be "
                     "measured: a distance needs %d at least, KID %d%s",
                     s->root, (long long)r.images, DS_IMAGES_FOR_FD, DS_IMAGES_FOR_KID,
                     r.rejected.count ? " (others were rejected)" : "");
    char *path = ds_job_path(job, DS_FILE_MANIFEST);
    if (!rc)
        rc = ds_fs_write(path, r.manifest, r.manifest_size, err);
    if (!rc)
        rc = ds_job_finish(job, ds_scan_result_json(&r), err);
    free(path);
    ds_scan_release(&r);
    return rc;
}
