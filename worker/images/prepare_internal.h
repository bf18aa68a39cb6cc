/* worker/images/prepare_internal.h - the cache file of prepared images.
 *
 * All little-endian.  Header (DS_IMAGES_HEADER bytes, zero padded): "DSIMG001", u64 n, side,
 * channels, meta size, file size; 32 bytes key; SHA-256 of the rest (lines and meta); SHA-256 of
 * labels and pixels (= ds_images.digest); SHA-256 of all header bytes before it.
 * Then pixels (n, side, side, channels), labels i32 (n), lines u32 (n), meta (JSON: classes,
 * manifest, rejected, rejected_count).  No padding: pixels start at a page, the integers are
 * copied out.
 */
#ifndef DS_WORKER_IMAGES_PREPARE_INTERNAL_H
#define DS_WORKER_IMAGES_PREPARE_INTERNAL_H

#include "worker/images/prepare.h"

#include <jansson.h>

#define DS_IMAGES_HEADER 4096

/* A file being built: room for `slots` images, mapped. */
typedef struct {
    char *path, *tmp;
    int fd;
    int64_t slots;
    size_t image_size, map_size;
    uint8_t *map; /* header and slots */
} ds_images_file;

/* DS_ENOSPC when the room cannot be had (it is allocated at once, so no fault comes later). */
int ds_images_create(ds_images_file *f, const char *path, int64_t slots, size_t image_size,
                     ds_error *err);
uint8_t *ds_images_slot(ds_images_file *f, int64_t i);
/* The first n slots are the images; writes the rest, syncs, renames. */
int ds_images_finish(ds_images_file *f, const char key[DS_HEX_SIZE], int n, int side, int channels,
                     const int32_t *labels, const uint32_t *lines, const json_t *meta,
                     ds_error *err);
void ds_images_abandon(ds_images_file *f); /* also after finish: releases what is left */

/* DS_ENOTFOUND when there is no such file, DS_EINTEGRITY when it cannot be used. */
int ds_images_open(ds_images **out, const char *path, const char key[DS_HEX_SIZE], ds_error *err);

#endif
