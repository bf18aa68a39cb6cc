/* tests/gpu/flat_st.h - a set of tensors without the file format: see flat_st.c. */
#ifndef DS_TESTS_GPU_FLAT_ST_H
#define DS_TESTS_GPU_FLAT_ST_H

#include "engine/files/safetensors.h"

/* An empty set; ds_st_free frees it.  add takes data (malloc'ed) and copies name and shape. */
ds_st *ds_flat_new(void);
void ds_flat_add(ds_st *st, const char *name, int ndim, const int64_t *shape, float *data);

#endif
