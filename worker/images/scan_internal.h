/* worker/images/scan_internal.h - the walk through a folder. */
#ifndef DS_WORKER_IMAGES_SCAN_INTERNAL_H
#define DS_WORKER_IMAGES_SCAN_INTERNAL_H

#include "worker/images/source.h"

#define DS_WALK_DEPTH 32

/* Everything below root_fd that could be a picture; what cannot be is rejected or ignored. */
int ds_walk(int root_fd, int64_t max_files, ds_candidate_list *out, ds_rejected_list *rejected,
            ds_progress *progress, void *user, ds_error *err);

#endif
