/* kernels/cpu/unit_avx2_f32.c - the ops compiled for AVX2, activations in f32. */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define UNIT_AVX512 0
#define UNIT_BF16 0
#define UNIT_NAME ds_cpu_unit_avx2_f32
#define UNIT_CLASS "cpu-avx2-f32"
#include "kernels/cpu/unit.inl"
#else
typedef int ds_cpu_unit_avx2_f32_empty;
#endif
