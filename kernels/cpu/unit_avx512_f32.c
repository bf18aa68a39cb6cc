/* kernels/cpu/unit_avx512_f32.c - the ops compiled for AVX512, activations in f32. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma")
#define UNIT_AVX512 1
#define UNIT_BF16 0
#define UNIT_NAME ds_cpu_unit_avx512_f32
#define UNIT_CLASS "cpu-avx512-f32"
#include "kernels/cpu/unit.inl"
#else
typedef int ds_cpu_unit_avx512_f32_empty;
#endif
