/* worker/convert/export_internal.h - what the files of the export share. */
#ifndef DS_WORKER_CONVERT_EXPORT_INTERNAL_H
#define DS_WORKER_CONVERT_EXPORT_INTERNAL_H

#include "base/mem.h"
#include "engine/model/adapter.h"
#include "engine/files/safetensors.h"
#include "worker/convert/export.h"

enum { DS_EXPORT_ROWS = 1000 }; /* classes that facebookresearch/DiT and diffusers count on */

typedef struct {
    const ds_export_options *o;
    ds_base *base;
    ds_adapter *adapter; /* NULL: the base alone */
    char *raw;           /* the adapter's uncompressed bytes */
    size_t raw_bytes;
    ds_st *base_file, *vae_file; /* for their metadata; vae_file NULL without one */
    char dir[4096];              /* where it is written */
    const char *license;         /* "" = not stated */
    json_t *names;               /* of the base's classes, or NULL */
    ds_facts out;                /* of the written model */
    int classes;                 /* of the task (or the base): named rows */
    char *exact;                 /* sentence on what the layout cannot carry, or NULL */
    ds_export_note *note;
    void *user;
    /* last folded tensor */
    int entry;
    float *values;
} ds_exporter;

/* One tensor of an output file: `rows` rows from row0 of a folded entry of the base's table. */
typedef struct {
    char name[128];
    int entry, ndim;
    int64_t shape[4];
    size_t row0, rows;
} ds_export_tensor;

typedef struct {
    ds_export_tensor *items;
    size_t count;
} ds_export_list;

/* export_model.c: entry i of the base's table as the merged model has it; until the next call. */
const float *ds_export_values(ds_exporter *x, int entry);
void ds_export_list_own(const ds_exporter *x, ds_export_list *list);
void ds_export_list_diffusers(const ds_exporter *x, ds_export_list *list);
/* Streams the list into dir/name; meta: key, value, ..., NULL. */
int ds_export_write(ds_exporter *x, const ds_export_list *list, const char *name,
                    const char *const *meta, ds_error *err);
/* export.c: DS_ECANCELED of an export that was asked to stop (worker/job/stop.h). */
int ds_export_stopped(ds_error *err);

/* export_pt.c: a PyTorch checkpoint of the tensors of dir/from, an OrderedDict. */
int ds_export_pt(const ds_exporter *x, const char *from, const char *name, ds_error *err);

/* export_card.c */
int ds_export_configs(ds_exporter *x, ds_error *err); /* diffusers: JSON files, VAE */
int ds_export_card(ds_exporter *x, ds_error *err);    /* README.md */
int ds_export_peft(ds_exporter *x, ds_error *err);    /* export_peft.c */

static inline void ds_export_path(const ds_exporter *x, const char *name, char out[4352]) {
    snprintf(out, 4352, "%s/%s", x->dir, name);
}

#endif
