/* kernels/cpu/unit_avx512_bf16.c - the ops compiled for AVX512, activations in bf16. */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma")
#define UNIT_AVX512 1
#define UNIT_BF16 1
#define UNIT_NAME ds_cpu_unit_avx512_bf16
#define UNIT_CLASS "cpu-avx512-bf16"
#include "kernels/cpu/unit.inl"
#else
typedef int ds_cpu_unit_avx512_bf16_empty;
#endif
