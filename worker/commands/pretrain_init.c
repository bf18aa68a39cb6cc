/* worker/commands/pretrain_init.c - the weights of a base for another set of classes. */
#include "worker/commands/pretrain_init.h"
#include "base/json.h"
#include "engine/files/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* Row of a class name in the old base; the unconditional row (the last) when it has none. */
static int row_of(const json_t *names, const char *name, int classes) {
    for (int i = 0; i < classes; i++) {
        const char *s = json_string_value(json_array_get(names, (size_t)i));
        if (s && !strcmp(s, name))
            return i;
    }
    return classes;
}

static void copy_rows(ds_base *base, const ds_base *old, const json_t *names,
                      const ds_images *images) {
    size_t width = (size_t)base->row_width, row = width * sizeof(float);
    float *to = base->data + base->table.items[base->classes_entry].offset;
    const float *from = ds_base_held(old, old->classes_entry); /* no matrix */
    int kept = 0;
    for (int i = 0; i < base->facts.classes; i++) {
        int r = row_of(names, images->class_names[i], old->facts.classes);
        kept += r < old->facts.classes;
        memcpy(to + (size_t)i * width, from + (size_t)r * width, row);
    }
    memcpy(to + (size_t)base->facts.classes * width, from + (size_t)old->facts.classes * width,
           row);
    printf("starting from %s: %d of %d classes known\n", old->name, kept, base->facts.classes);
}

int ds_pretrain_init(ds_base *base, const char *path, const ds_images *images, ds_error *err) {
    ds_base *old;
    ds_st *st;
    json_t *names = NULL;
    int rc = ds_base_open(&old, path, NULL, err);
    if (rc)
        return rc;
    if (!ds_base_alike(base, old)) {
        ds_base_free(old);
        return ds_fail(
            err, DS_EINVAL,
            "base '%s' has another shape than the options ask for: give the same --side, "
            "--patch, --width, --depth and --heads",
            path);
    }
    if (!(rc = ds_st_open_file(path, (size_t)1 << 40, 1, &st, err))) {
        const char *text = ds_st_meta(st, "diffscaler.classes");
        names = json_loads(text ? text : "[]", 0, NULL);
        for (int i = 0; i < base->table.count; i++) {
            const ds_param *p = &base->table.items[i];
            if (i == base->classes_entry)
                continue;
            float *to = base->data + p->offset;
            const float *from = ds_base_values(
                old, (int)(ds_params_find(&old->table, p->name) - old->table.items), to);
            if (from != to)
                memcpy(to, from, p->count * sizeof(float));
        }
        copy_rows(base, old, names, images);
        json_decref(names);
        ds_st_free(st);
    }
    ds_base_free(old);
    return rc;
}
