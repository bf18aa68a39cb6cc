/* engine/files/weights.h - named tensors in the files that other programs write: one interface.
 *
 *   x.safetensors            F64 F32 F16 BF16 and integers
 *   x.safetensors.index.json (or .bin.index.json): the shards beside it
 *   x.pt x.pth x.bin x.ckpt  PyTorch: the zip format (since 1.6) and the one before it
 *   folder                   of diffusers: SUB/ in it, or the folder itself, with config.json and
 *                            diffusion_pytorch_model.*, or the only weight file there
 *
 * Opening reads headers only; tensors are read one by one with pread or from the zip's entry, so
 * memory stays at one tensor, and a file that shrinks meanwhile is an error, not a signal.  Pickles
 * are read by engine/files/pickle.h, which executes nothing.  A file may hold several models, and
 * more: all tensors are listed, those in dicts with the keys before their names ("ema.x"), until
 * ds_weights_choose keeps one model.
 *
 * Limits: DS_WEIGHTS_* below, for what is needed; tensors lie inside their storage;
 * a zip whose entries overlap, or unpack to more than 100 times the file, is refused.
 *
 * Ownership: open/close; pointers handed out live until close.  Thread: one at a time.
 * Errors: DS_ENOTFOUND, DS_EPERM, DS_EIO; DS_EINVAL not a weight file, or one that needs code to be
 * read, with the way out; DS_EINTEGRITY damaged or hostile; DS_ELIMIT.
 */
#ifndef DS_ENGINE_FILES_WEIGHTS_H
#define DS_ENGINE_FILES_WEIGHTS_H

#include "base/json.h"
#include "base/progress.h"
#include "engine/files/import_report.h"
#include "engine/files/safetensors.h"

#define DS_WEIGHTS_PICKLE_MAX ((size_t)64 << 20)   /* bytes of a pickle */
#define DS_WEIGHTS_TENSOR_MAX ((uint64_t)8 << 30)  /* bytes of one tensor */
#define DS_WEIGHTS_TOTAL_MAX ((uint64_t)128 << 30) /* of all tensors */
#define DS_WEIGHTS_SHARDS_MAX 1000

typedef struct {
    const char *name;
    enum ds_st_dtype dtype;
    int ndim;
    int64_t shape[DS_ST_DIMS_MAX];
    size_t count; /* elements */
    size_t bytes; /* count * size of dtype */
} ds_weights_tensor;

typedef struct ds_weights ds_weights;

/* sub: the subfolder of a folder that is looked into first ("transformer", "vae"), or NULL. */
int ds_weights_open(ds_weights **out, const char *path, const char *sub, ds_error *err);
void ds_weights_close(ds_weights *w); /* NULL is fine */

/* The source is a file, not a folder: what lies beside it need not belong to it. */
int ds_weights_is_file(const ds_weights *w);
ds_import_report *ds_weights_report(const ds_weights *w); /* of ds_weights_want, or NULL */

/* Before a model is chosen: which of several is wanted ("ema", "model", its key; NULL or "": the
 * averaged one where there is one), and where to say what was taken, under which name of the
 * report.  report and part live as long as w. */
void ds_weights_want(ds_weights *w, const char *which, const char *part, ds_import_report *report);

/* Keep one model: its tensors of floating-point numbers, under their names without what stands
 * before the whole model and without the wrappers of PyTorch inside (module, _orig_mod, ...).
 * marks: names, ended by NULL, one of which every model of the kind that is looked for has; a file
 * without any stays as it is.  Later calls do nothing.  DS_EINVAL names the models when it is open
 * which one is meant. */
int ds_weights_choose(ds_weights *w, const char *const *marks, ds_error *err);

size_t ds_weights_count(const ds_weights *w);
const ds_weights_tensor *ds_weights_at(const ds_weights *w, size_t i); /* sorted by name */
const ds_weights_tensor *ds_weights_find(const ds_weights *w, const char *name); /* NULL = absent */

const char *ds_weights_path(const ds_weights *w);     /* as given, for messages */
const char *ds_weights_dir(const ds_weights *w);      /* folder that the weight files lie in */
const char *ds_weights_format(const ds_weights *w);   /* "safetensors", "PyTorch zip", ... */
const char *ds_weights_wrapper(const ds_weights *w);  /* keys of the dicts around the model */
const json_t *ds_weights_config(const ds_weights *w); /* config.json beside the weights, or NULL */
/* Settings of the training program beside the weights, of all documents that a checkpoint or the
 * metadata of a safetensors file have (`args`, `config`, `hyper_parameters`, ...: weights_args.c),
 * and what stands there alone: plain values, nested dicts as objects, objects without attributes by
 * their value or class; NULL = none. */
const json_t *ds_weights_args(const ds_weights *w);
const char *ds_weights_meta(const ds_weights *w,
                            const char *key);        /* of a single safetensors file; of a zip
                                                        "diffscaler.config" */
uint64_t ds_weights_file_bytes(const ds_weights *w); /* of all weight files */

/* Digest of the weight file; of several: of the lines "<sha256>  <name>\n", sorted by name.  step
 * is told bytes. */
int ds_weights_digest(const ds_weights *w, char out[DS_HEX_SIZE], ds_progress *step, void *user,
                      ds_error *err);

/* DS_ECONFLICT when a file is not as it was when it was opened. */
int ds_weights_unchanged(const ds_weights *w, ds_error *err);

/* dst[0..bytes): the tensor's own numbers, row-major, little-endian. */
int ds_weights_read(ds_weights *w, const ds_weights_tensor *t, void *dst, ds_error *err);
/* dst[0..count) as f32; F64 is rounded; integers are an error. */
int ds_weights_read_f32(ds_weights *w, const ds_weights_tensor *t, float *dst, ds_error *err);
/* The same as bf16 (nearest even). */
int ds_weights_read_bf16(ds_weights *w, const ds_weights_tensor *t, uint16_t *dst, ds_error *err);

/* DS_EINVAL when it is there in a type or form that is not read; absent: 0. */
int ds_weights_readable(const ds_weights *w, const char *name, ds_error *err);

/* A tensor that must be there with exactly this shape (ndim < 0: any). */
int ds_weights_need(const ds_weights *w, const char *name, int ndim, const int64_t *shape,
                    const ds_weights_tensor **out, ds_error *err);

#endif
