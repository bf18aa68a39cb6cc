/* worker/convert/export.h - the way back: an adapter, or the model that it makes of its base, in
 * the layouts of other programs.
 *
 *   dit          facebookresearch/DiT names: model.safetensors and model.pt (torch.load), with the
 *                configuration in the metadata and in an extra file, for add-base
 *   diffusers    a folder for DiTTransformer2DModel / DiTPipeline.from_pretrained
 *   safetensors  the adapter file unpacked, byte for byte; with merge a base for add-base
 *   peft-like    the adapter as LoRA factors and scale and shift vectors (not readable by PEFT)
 *
 * Merged layouts fold the adapter: W' = diag(a) W + s U V (side in: W diag(a) + s U V) and the bias
 * likewise, in f32.  A branch with phi = ReLU cannot be folded: DS_EINVAL that offers the others.
 * The class table of dit and diffusers has the task's classes first, then copies of the null row up
 * to 1000, then the null row: both programs take row 1000 for "no class".  With more classes the
 * null row follows them.  A merged base has the task's classes and the null row.
 *
 * out_dir is whole or absent: it is written under another name beside it and renamed; whether it
 * can be is asked before anything is read.  Memory: the
 * base as it lies in memory, and one tensor.  Thread: one.  Errors: DS_ECONFLICT (out_dir is not
 * empty), DS_EINVAL (not representable), as ds_base_open, ds_adapter_open, ds_fs_write.
 */
#ifndef DS_WORKER_CONVERT_EXPORT_H
#define DS_WORKER_CONVERT_EXPORT_H

#include "base/error.h"

enum ds_export_format { DS_EXPORT_SAFETENSORS, DS_EXPORT_DIT, DS_EXPORT_DIFFUSERS, DS_EXPORT_PEFT };

typedef struct {
    const char *base;    /* canonical base file */
    const char *adapter; /* adapter.safetensors.zst, "-" = standard input, NULL = the base alone */
    const char *vae;     /* canonical VAE file, or NULL */
    const char *out_dir;
    const char *license; /* of the base, as the user stated it; NULL: what the base's file says */
    enum ds_export_format format;
    int merge;   /* safetensors: a base instead of the adapter */
    int bf16;    /* matrices in BF16, else F32 */
    int no_pt;   /* dit: model.safetensors alone */
    int force;   /* a folder that an export wrote is replaced */
    int measure; /* how much does what the layout cannot carry change the output? */
} ds_export_options;

int ds_export_format_from_name(const char *name, enum ds_export_format *out, ds_error *err);

/* note (not NULL) is told, one line each, what the user must know. */
typedef void ds_export_note(void *user, const char *line);
int ds_export(const ds_export_options *o, ds_export_note *note, void *user, ds_error *err);

#endif
