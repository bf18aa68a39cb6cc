/* engine/model/model.c - see model.h. */
#include "engine/model/model.h"
#include "base/mem.h"

#include <stdlib.h>

size_t ds_model_bytes(const ds_device *dev, const ds_base *base) {
    return dev->host_memory ? 0 : base->table.total * sizeof(float);
}

int ds_model_new(ds_model **out, ds_device *dev, const ds_base *base, ds_error *err) {
    ds_model *m = ds_xcalloc(1, sizeof *m);
    size_t bytes = ds_model_bytes(dev, base);
    m->dev = dev;
    m->base = base;
    *out = m;
    if (!bytes)
        return 0;
    m->data = dev->alloc(dev, bytes);
    if (!m->data) {
        free(m);
        return ds_device_no_room(dev, bytes, err, "the base");
    }
    for (int i = 0; i < base->table.count; i++) {
        const ds_param *p = &base->table.items[i];
        float *room = ds_base_held(base, i) ? NULL : ds_xmalloc(p->count * sizeof *room);
        dev->upload(dev, m->data + p->offset, ds_base_values(base, i, room),
                    p->count * sizeof(float));
        free(room);
    }
    return 0;
}

void ds_model_free(ds_model *m) {
    if (!m)
        return;
    m->dev->free(m->dev, m->data);
    free(m);
}

const float *ds_model_tensor(const ds_model *m, int entry) {
    return m->data ? m->data + m->base->table.items[entry].offset : ds_base_held(m->base, entry);
}

const float *ds_model_unpack(ds_device *dev, const ds_base *base, int entry, float *room) {
    const uint16_t *half = ds_base_bf16(base, entry);
    const ds_act *act = half ? ds_act_of_bf16(dev, half) : NULL;
    if (ds_base_held(base, entry) || !act)
        return ds_base_values(base, entry, room);
    dev->ops->act_to_f32(dev, room, act, base->table.items[entry].count); /* by all its threads */
    return room;
}
