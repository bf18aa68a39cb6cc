/* engine/vae/vae.h - the autoencoder of latent bases (AutoencoderKL, Rombach et al. 2022): encode a
 * picture to the mean and log variance of its latents, decode latents to a picture.
 *
 * File: safetensors with the names of diffusers (`encoder.down_blocks.0.resnets.0.norm1.weight`,
 * attention as to_q, to_k, to_v, to_out.0) in F32, F16 or BF16; __metadata__["diffscaler.vae"] is
 * the configuration as JSON: in_channels, out_channels, latent_channels, block_out_channels,
 * layers_per_block, norm_num_groups, scaling_factor.  Identity = SHA-256 of the file's bytes.
 *
 * Always in f32, also on a bf16 device (docs/decisions.md).  A picture goes through layer by layer
 * in strips of rows whose buffers are bounded; a group normalisation takes its statistics over the
 * whole layer first.  So nothing is approximated: the bytes of the result do not depend on the
 * height of a strip nor on the number of threads.
 *
 * Memory: the weights of the parts asked for, and three maps of the largest layer (256 px of
 * sd-vae-ft-ema: see docs/speed.md); ds_vae_bytes says how much.  Maps are allocated at the first
 * picture and grow with its size.
 *
 * Ownership: a ds_vae belongs to its device and is freed before it.  Thread: as the device.
 * Units: pictures NHWC f32 in [-1,1] (decoded ones not clamped) or 8 bit; latents CHW f32, not
 * scaled (the diffusion's latents are scaling_factor times these).
 * Errors: DS_EINTEGRITY (digest, missing or misshapen tensors), DS_EINVAL (configuration, sizes),
 * DS_ENOMEM with figures, as ds_fs_read.
 * Source: facts in diffusers' AutoencoderKL: downsamplers pad right and below only, eps 1e-6, one
 * resnet more in up blocks, attention with one head in the middle, log variance in [-30, 20].
 */
#ifndef DS_ENGINE_VAE_VAE_H
#define DS_ENGINE_VAE_VAE_H

#include "engine/model/net.h"
#include "engine/files/safetensors.h"

#define DS_VAE_BLOCKS_MAX 8
#define DS_VAE_SIDE_MAX 4096 /* of a picture */

typedef struct {
    int in_channels, out_channels, latent_channels;
    int blocks, channels[DS_VAE_BLOCKS_MAX]; /* block_out_channels */
    int layers;                              /* layers_per_block */
    int groups;                              /* norm_num_groups */
    double scaling_factor;
} ds_vae_config;

enum { DS_VAE_ENCODER = 1, DS_VAE_DECODER = 2 };

typedef struct ds_vae ds_vae;

/* The configuration of metadata text, checked; `file` is used in messages. */
int ds_vae_config_parse(ds_vae_config *c, const char *file, const char *json, ds_error *err);

/* parts: DS_VAE_ENCODER | DS_VAE_DECODER; only these weights are kept. */
int ds_vae_open(ds_vae **out, ds_device *dev, const char *path, const char *want, int parts,
                ds_error *err);
int ds_vae_new(ds_vae **out, ds_device *dev, const ds_st *st, int parts, ds_error *err);
void ds_vae_free(ds_vae *vae); /* NULL is fine */

const ds_vae_config *ds_vae_cfg(const ds_vae *vae);
const char *ds_vae_sha256(const ds_vae *vae); /* "" after ds_vae_new */

/* Pixels of a side per latent: 2^(blocks-1), 8 for Stable Diffusion. */
static inline int ds_vae_factor(const ds_vae_config *c) { return 1 << (c->blocks - 1); }

/* The tensors that such a file has, in order: calls fn for each (import, tests). */
typedef void ds_vae_tensor_fn(void *user, const char *name, int ndim, const int64_t *shape);
void ds_vae_tensors(const ds_vae_config *c, ds_vae_tensor_fn *fn, void *user);

/* Device memory for pictures of that size, weights included (planning). */
size_t ds_vae_bytes(ds_device *dev, const ds_vae_config *c, int parts, int height, int width);

/* image (height, width, in_channels), sides multiples of the factor; mean, logvar
 * (latent_channels, height/f, width/f).  Host memory. */
int ds_vae_encode(ds_vae *vae, const float *image, int height, int width, float *mean,
                  float *logvar, ds_error *err);
int ds_vae_encode_u8(ds_vae *vae, const uint8_t *rgb, int height, int width, float *mean,
                     float *logvar, ds_error *err); /* x / 127.5 - 1 */

/* z (latent_channels, h, w) -> image (h f, w f, out_channels); the 8-bit form is
 * clamp(127.5 x + 128), truncated, as DiT's sample_ddp.py. */
int ds_vae_decode(ds_vae *vae, const float *z, int h, int w, float *image, ds_error *err);
int ds_vae_decode_u8(ds_vae *vae, const float *z, int h, int w, uint8_t *rgb, ds_error *err);

/* Side and channels of the pictures that a model makes. */
static inline int ds_picture_side(const ds_model *m) {
    return m->base->facts.side * (m->vae ? ds_vae_factor(ds_vae_cfg(m->vae)) : 1);
}
static inline int ds_picture_channels(const ds_model *m) {
    return m->vae ? ds_vae_cfg(m->vae)->out_channels : m->base->facts.channels;
}
static inline size_t ds_picture_bytes(const ds_model *m) {
    size_t side = (size_t)ds_picture_side(m);
    return side * side * (size_t)ds_picture_channels(m);
}

#endif
