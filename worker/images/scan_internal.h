/* worker/images/scan_internal.h - the list of candidates that the walk hands to the scan. */
#ifndef DS_WORKER_IMAGES_SCAN_INTERNAL_H
#define DS_WORKER_IMAGES_SCAN_INTERNAL_H

#include "worker/images/scan.h"

typedef struct {
    char *path;     /* relative, printable */
    struct stat st; /* of the name itself (lstat); a link's target is only looked at when opened */
} ds_candidate;

typedef struct {
    ds_candidate *items; /* sorted by path bytes */
    int64_t count, cap;
    int64_t ignored;
} ds_candidate_list;

#define DS_WALK_DEPTH 32

/* Everything below root_fd that could be a picture; what cannot be is rejected or ignored. */
int ds_walk(int root_fd, int64_t max_files, ds_candidate_list *out, ds_rejected_list *rejected,
            ds_progress_fn progress, void *user, ds_error *err);
void ds_candidates_release(ds_candidate_list *list);

#endif
