/* kernels/backends.h - prototypes of every op for every backend, made from ops.def.
 * A forgotten implementation is a link error, a wrong signature a compile error. */
#ifndef DS_KERNELS_BACKENDS_H
#define DS_KERNELS_BACKENDS_H

#include "kernels/device.h"

#define DS_OP(op, args) void ds_ref_##op args;
#include "kernels/ops.def"
#undef DS_OP
#define DS_OP(op, args) void ds_cpu_##op args;
#include "kernels/ops.def"
#undef DS_OP

#endif
