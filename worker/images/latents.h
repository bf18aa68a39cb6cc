/* worker/images/latents.h - what a VAE says of a dataset's pictures, computed once.
 *
 * Purpose: posterior mean and log variance of every prepared picture, and of its mirror image when
 * training flips, for a latent base.  Encoding takes long (docs/speed.md), so results are kept by
 * content: one append-only file in cache_dir per VAE, size and kernel set, whose records are named
 * by the SHA-256 of the picture's pixels.  A new version of a dataset, or another dataset with the
 * same pictures, encodes only what is new; a process killed at any moment loses at most the picture
 * it was at.  Every record that is used is checked against its own SHA-256 and computed again if it
 * is damaged.
 *
 * File latents-<key>.bin, little-endian: header (4096 bytes): "DSLAT001", 64 hex digits of the key,
 * u64 floats of a record, 64 digits of the VAE; then records, each a multiple of 64 bytes: 64 hex
 * digits of the pixels, 64 of (those and the numbers), mean and log variance (channels, side, side)
 * f32 each. One process writes at a time (flock); the others wait.
 *
 * Ownership: open/close; all pointers live as long as the ds_latents (the file is mapped).
 * Thread: one.  Errors: DS_ECANCELED (progress), DS_ENOSPC, DS_ENOMEM, DS_EINTEGRITY (the VAE).
 */
#ifndef DS_WORKER_IMAGES_LATENTS_H
#define DS_WORKER_IMAGES_LATENTS_H

#include "engine/vae/vae.h"
#include "worker/images/prepare.h"

typedef struct {
    const ds_images *images; /* at side * factor of the VAE */
    ds_device *dev;
    const char *vae_path, *vae_sha256;
    const char *cache_dir;
    int channels, side; /* of the latents */
    int mirrored;       /* also of the mirror images */
} ds_latents_options;

typedef struct {
    int n;
    const float *const *of[2]; /* (n) mean, logvar of picture i; [1]: mirrored, or NULL */
    char digest[DS_HEX_SIZE];  /* of all records in use, in order */
    int64_t encoded;           /* computed now; the rest was there */
    int64_t damaged;           /* of these because a record was not what it had been */
    struct ds_latents_map *map;
} ds_latents;

/* progress is called with pictures done of all that are missing (mirror images count). */
int ds_latents_open(ds_latents **out, const ds_latents_options *o, ds_progress *progress,
                    void *user, ds_error *err);
void ds_latents_close(ds_latents *l); /* NULL is fine */

#endif
