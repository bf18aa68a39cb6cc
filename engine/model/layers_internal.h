/* engine/model/layers_internal.h - what layers.c and layers_run.c share. */
#ifndef DS_ENGINE_MODEL_LAYERS_INTERNAL_H
#define DS_ENGINE_MODEL_LAYERS_INTERNAL_H

#include "engine/model/layers.h"

/* The frozen matrix of a layer in f32; valid until the next call. */
const float *ds_layers_matrix(ds_layers *s, const ds_layer *l);

#endif
