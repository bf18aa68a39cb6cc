/* worker/images/probe_pictures.h - a few real pictures, to see what a base does with them.
 *
 * Those of a folder, spread evenly over its picture files in the order of their paths; or the ones
 * that come with the program (models/probe), in groups: a base that has seen digits only is at home
 * among digits.  Decoded in a sandboxed child, centre crop, resized (engine/metrics/resize.h).  A
 * file that cannot be decoded costs only itself: the next one is taken.
 *
 * Ownership: open/close.  Thread: one.  Errors: DS_ENOTFOUND (no such folder, nothing bundled),
 * DS_EINVAL (no usable picture), DS_EPERM, DS_EFAILED (no child can be started).
 */
#ifndef DS_WORKER_IMAGES_PROBE_PICTURES_H
#define DS_WORKER_IMAGES_PROBE_PICTURES_H

#include "base/error.h"

#include <stdint.h>

enum { DS_PROBE_GROUPS_MAX = 8, DS_PROBE_OWN = 8, DS_PROBE_BUNDLED = 4 };

typedef struct {
    char name[64]; /* "photos"; "" of a folder that was given */
    int n;
    uint8_t *rgb; /* (n, side, side, 3) */
} ds_probe_group;

typedef struct {
    int side, count;
    ds_probe_group groups[DS_PROBE_GROUPS_MAX];
} ds_probe_pictures;

/* folder NULL or "": the bundled ones; photographs_only then leaves out the other groups (latent
 * bases: VAEs and what works on their latents know photographs). */
int ds_probe_pictures_open(ds_probe_pictures *p, const char *folder, int side, int photographs_only,
                           ds_error *err);
void ds_probe_pictures_close(ds_probe_pictures *p);

#endif
