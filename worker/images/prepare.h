/* worker/images/prepare.h - manifest -> all pictures of a dataset at the model's side, ready to
 * train on.
 *
 * Purpose: decode in sandboxed children, centre crop, resize (engine/metrics/resize.h), keep the
 * result in one file of cache_dir whose name is a digest of (manifest, side, DS_PREPARE_ID, decode
 * id).  A second opening maps that file.  A damaged or cut-off cache file is noticed by its SHA-256
 * and rebuilt.
 *
 * Every source file is checked against size and SHA-256 of the manifest when it is read; one that
 * changed fails the whole call with DS_ECONFLICT, because the result would not be what the
 * manifest says.  One that cannot be decoded costs only itself (`rejected`).
 *
 * Ownership: open/close; all pointers live as long as the ds_images.  Thread: read from any.
 * Errors: DS_EINVAL (no usable image, bad manifest), DS_ECONFLICT, DS_ENOTFOUND, DS_ENOSPC,
 * DS_ECANCELED.
 */
#ifndef DS_WORKER_IMAGES_PREPARE_H
#define DS_WORKER_IMAGES_PREPARE_H

#include "engine/metrics/resize.h"
#include "worker/decode/decode.h"
#include "worker/images/source.h"

#define DS_PREPARE_ID "crop-center/" DS_RESIZE_ID "/" DS_DECODE_ID

typedef struct {
    ds_source *source;    /* borrowed; NULL: the folder .. */
    const char *root;     /* .. of this path */
    int no_links;         /* 1: no part of it may be a link */
    const char *manifest; /* path of manifest.ndjson */
    const char *cache_dir;
    const char *program; /* as in ds_sandbox_options */
    int side;
    int channels; /* 3 */
    int children; /* decoders at once; 0: 2 */
} ds_prepare_options;

typedef struct {
    int n, side, channels, class_count;
    const uint8_t *pixels;    /* (n, side, side, channels), in manifest order */
    const int32_t *labels;    /* (n) class ids */
    const uint32_t *lines;    /* (n) line of the manifest, from 0 */
    const char **class_names; /* (class_count) sorted by bytes */
    char digest[DS_HEX_SIZE]; /* SHA-256 of labels and pixels, little-endian */
    char manifest_digest[DS_HEX_SIZE];
    ds_rejected_list rejected; /* at decoding */
    int from_cache;            /* 0: decoded now */
    int cache_was_damaged;     /* worth a warning event */
    struct ds_images_map *map; /* private */
} ds_images;

int ds_prepare_open(ds_images **out, const ds_prepare_options *options, ds_progress *progress,
                    void *user, ds_error *err);
void ds_images_close(ds_images *images); /* NULL is fine */

#endif
