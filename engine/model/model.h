/* engine/model/model.h - a base on a device, and the ways in which a net may hold adapters.
 *
 * ds_model: the base's tensors on a device, shared by nets: a copy, or on a device whose memory is
 * the host's the base's own, so that its weights lie in memory once.
 *
 * Ownership: new/free; base and device are borrowed.  Read-only after new.  Errors: DS_ENOMEM with
 * both numbers. */
#ifndef DS_ENGINE_MODEL_MODEL_H
#define DS_ENGINE_MODEL_MODEL_H

#include "engine/model/base_model.h"
#include "kernels/device.h"

struct ds_vae;

typedef struct {
    ds_device *dev;
    const ds_base *base;
    struct ds_vae *vae; /* makes pictures of a latent base's samples (engine/vae/vae.h); NULL: none.
                           Set by the owner of the model, borrowed */
    float *data; /* device copy of all tensors, in the order of base->table; NULL: host memory */
} ds_model;

int ds_model_new(ds_model **out, ds_device *dev, const ds_base *base, ds_error *err);
void ds_model_free(ds_model *m);                                  /* NULL is fine */
size_t ds_model_bytes(const ds_device *dev, const ds_base *base); /* beside the base's own */

/* Entry of the base's table in f32, in the device's memory; NULL: the base holds it in 16 bits. */
const float *ds_model_tensor(const ds_model *m, int entry);

/* The same on a device that uses the base in place: where it lies, or unpacked into room (its count
 * of floats) by the device; on a device with memory of its own in host memory. */
const float *ds_model_unpack(ds_device *dev, const ds_base *base, int entry, float *room);

/* How a net applies adapters (net.h). */
enum ds_net_kind { DS_NET_INFER, DS_NET_STACKED, DS_NET_FOLDED, DS_NET_TRAIN };

/* Has each sample of a batch a set of its own? */
static inline int ds_net_kind_several(enum ds_net_kind kind) {
    return kind == DS_NET_STACKED || kind == DS_NET_FOLDED;
}

#endif
