/* engine/model/params.c - the table of names. */
#include "engine/model/params.h"
#include "base/error.h"
#include "base/half.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ds_params_add(ds_params *p, const char *name, enum ds_param_kind kind, int ndim,
                  const int *shape, int frozen, int linear) {
    p->items = ds_xrealloc(p->items, (size_t)(p->count + 1) * sizeof *p->items);
    ds_param *e = &p->items[p->count];
    *e = (ds_param){.kind = kind,
                    .ndim = ndim,
                    .offset = p->total,
                    .count = 1,
                    .frozen = frozen,
                    .linear = linear};
    int n = snprintf(e->name, sizeof e->name, "%s", name);
    DS_ASSERT(n > 0 && (size_t)n < sizeof e->name && ndim <= 4);
    for (int i = 0; i < ndim; i++) {
        e->shape[i] = shape[i];
        e->count *= (size_t)shape[i];
    }
    p->total += e->count;
    return p->count++;
}

const ds_param *ds_params_find(const ds_params *p, const char *name) {
    for (int i = 0; i < p->count; i++)
        if (!strcmp(p->items[i].name, name))
            return &p->items[i];
    return NULL;
}

size_t ds_params_trained(const ds_params *p) {
    size_t n = 0;
    for (int i = 0; i < p->count; i++)
        n += p->items[i].frozen ? 0 : p->items[i].count;
    return n;
}

void ds_params_release(ds_params *p) {
    free(p->items);
    *p = (ds_params){0};
}

int ds_param_stored_bf16(const ds_param *e) {
    return e->kind == DS_PARAM_U || e->kind == DS_PARAM_V || e->kind == DS_PARAM_WEIGHT;
}

void ds_params_round(const ds_params *p, float *data) {
    for (int i = 0; i < p->count; i++)
        if (!p->items[i].frozen && ds_param_stored_bf16(&p->items[i]))
            for (size_t j = 0; j < p->items[i].count; j++)
                data[p->items[i].offset + j] = ds_bf16_round(data[p->items[i].offset + j]);
}
