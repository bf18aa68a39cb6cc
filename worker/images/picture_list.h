/* worker/images/picture_list.h - which files of a folder count: as the tool lists them that a mode
 * of `evaluate` is named after.
 *
 *   mode            looks at                     endings                         order
 *   pytorch-fid     the folder itself            bmp jpg jpeg pgm png ppm tif    path
 *                                                tiff webp, small letters only
 *   torch-fidelity  the folder itself            png jpg jpeg, in any case       path behind links
 *   clean           all below it, also behind    those of pytorch-fid, npy, and  path
 *                   links; nothing hidden        JPEG JPG PNG
 *   bundled         all below it (ds_walk)       any                             path
 *
 * Sources: pytorch-fid 0.3.0 fid_score.py (pathlib's glob), torch-fidelity 0.4.0 utils.py
 * (glob_samples_paths), clean-fid 0.1.35 fid.py (glob with recursive=True).  `recursive` makes the
 * first two look below the folder, not behind links to folders (torch-fidelity's
 * --samples-find-deep; pytorch-fid has no such option).  What a tool lists and then fails on - a
 * folder called x.png, a link that leads nowhere - is in the list too.
 *
 * Ownership: make/release; release what failed as well.  Thread: any.  Errors: DS_ENOTFOUND,
 * DS_EPERM, DS_EIO (a folder cannot be listed), DS_EINVAL (a link leads back to a folder above it),
 * DS_ELIMIT (too many files, too deep).
 */
#ifndef DS_WORKER_IMAGES_PICTURE_LIST_H
#define DS_WORKER_IMAGES_PICTURE_LIST_H

#include "engine/metrics/fid_net.h"
#include "worker/decode/files.h"

typedef struct {
    char **paths; /* (count) relative to the folder, in the tool's order */
    char **keys;  /* (count) what they are sorted by; NULL: the paths */
    int64_t count, cap;
    ds_rejected_list unread; /* counted by the tool, and of a kind that is never read here */
    ds_rejected_list others; /* look like pictures and are not counted, with the reason */
    ds_rejected_list walked; /* bundled: what ds_walk says of files that cannot be used */
    int64_t folders;         /* below, not looked into */
    int64_t links;           /* to folders, not followed, however deep the list looks */
} ds_picture_list;

int ds_picture_list_make(ds_picture_list *out, const char *folder, enum ds_fid_mode mode,
                         int recursive, ds_error *err);
void ds_picture_list_release(ds_picture_list *list);
/* How many of the first n are unread. */
int64_t ds_picture_list_unread(const ds_picture_list *list, int64_t n);

/* "bmp, jpg, ...", for messages. */
const char *ds_picture_list_endings(enum ds_fid_mode mode);

#endif
