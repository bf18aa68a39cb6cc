/* engine/vae/vae_internal.h - what vae.c (the layers as a list, loading) and vae_run.c (running it)
 * share.
 */
#ifndef DS_ENGINE_VAE_VAE_INTERNAL_H
#define DS_ENGINE_VAE_VAE_INTERNAL_H

#include "engine/vae/vae.h"

enum ds_vae_kind {
    VAE_CONV,      /* conv[0] */
    VAE_RESNET,    /* norm[0] SiLU conv[0] norm[1] SiLU conv[1], plus x or conv[2](x) */
    VAE_ATTENTION, /* norm[0], q k v out = conv[0..3], plus x */
    VAE_DOWN,      /* conv[0], stride 2, zeros right and below */
    VAE_UP,        /* each pixel twice in both directions, conv[0] */
    VAE_OUT        /* norm[0] SiLU conv[0] */
};

typedef struct {
    ds_weight *w;
    float *bias; /* device */
    int in, out, kernel;
} ds_vae_conv;

typedef struct {
    float *gamma, *beta; /* device; one allocation at gamma */
    int channels;
} ds_vae_norm;

typedef struct {
    enum ds_vae_kind kind;
    char name[64]; /* prefix of its tensors' names */
    int in, out, kernel;
    ds_vae_norm norm[2];
    ds_vae_conv conv[4];
} ds_vae_step;

enum { VAE_STEPS_MAX = 160 }; /* 8 blocks of at most 16 resnets and a resampler, and the ends */

typedef struct {
    ds_vae_step steps[VAE_STEPS_MAX];
    int count;
} ds_vae_list;

/* Three maps of layers in turn; rows framed for a convolution; its result where that is added. */
enum { VAE_MAPS = 3, VAE_FRAME = VAE_MAPS, VAE_STRIP, VAE_BUFFERS };

struct ds_vae {
    ds_device *dev;
    ds_vae_config cfg;
    char sha256[DS_HEX_SIZE];
    ds_vae_list *list[2]; /* encoder, decoder; NULL: not wanted */
    float *buffer[VAE_BUFFERS];
    size_t have[VAE_BUFFERS]; /* floats */
    float *affine;            /* device: scale, shift of the normalisation in use */
    int affine_channels;
    size_t frame_floats; /* room for the rows of a strip; tests make it small */
};

/* The layers without weights. */
void ds_vae_make_list(ds_vae_list *list, const ds_vae_config *c, int decoder);

enum { VAE_FRAME_FLOATS = 2 << 20 };

/* Floats that each buffer needs for a picture of that size. */
void ds_vae_need(size_t need[VAE_BUFFERS], const ds_vae_list *list, int decoder,
                 size_t frame_floats, int height, int width);

#endif
