/* kernels/cpu/unit.inl - all ops of one unit, in one translation unit; see cpu.h.
 * The includer sets the target and UNIT_AVX512, UNIT_BF16, UNIT_NAME, UNIT_CLASS. */
#include "kernels/cpu/cpu.h"

#include "base/rng.h"

#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DS_OP(op, args) static void ds_cpu_##op args;
#include "kernels/ops.def"
#undef DS_OP

#include "kernels/cpu/simd.h"

#include "kernels/cpu/gemm.inl"
#include "kernels/cpu/pack.inl"
#include "kernels/cpu/linear.inl"
#include "kernels/cpu/affiner.inl"
#include "kernels/cpu/attention.inl"
#include "kernels/cpu/norm.inl"
#include "kernels/cpu/element.inl"
#include "kernels/cpu/diffusion.inl"
#include "kernels/cpu/feature.inl"
#include "kernels/cpu/autoencoder.inl"

static const struct ds_ops unit_ops = {
#define DS_OP(op, args) .op = ds_cpu_##op,
#include "kernels/ops.def"
#undef DS_OP
};

const ds_cpu_unit UNIT_NAME = {UNIT_CLASS, &unit_ops, NR, NATIVE, UNIT_BF16};
