/* kernels/cuda/attention/attention.cu - attention of the token stream: who computes it. */
#include "kernels/cuda/attention/attention.h"

static ds_heads heads_of(int B, int T, int D, int H, const void *qkv, const void *x,
                         const void *y) {
    DS_ASSERT(H > 0 && D % H == 0);
    int hd = D / H;
    if (hd > DS_ATTENTION_WIDEST)
        ds_cuda_fatal("attention", "heads wider than 512 are not for the GPU: run on the CPU");
    uintptr_t all = (uintptr_t)qkv | (uintptr_t)x | (uintptr_t)y;
    double scale = 1 / sqrt((double)hd);
    return ds_heads{
        B, T, D, H, hd, all % 16 == 0, (float)scale, (float)(scale * 1.4426950408889634)};
}

static void own_forward(ds_cuda *c, float *out, float *lse, const float *qkv, const ds_heads &a) {
    ds_attention_plain_forward(c, out, lse, qkv, a);
}

static void own_forward(ds_cuda *c, ds_bf16 *out, float *lse, const ds_bf16 *qkv,
                        const ds_heads &a) {
    if (ds_attention_tiled(a.hd, c->sm))
        ds_attention_flash_forward(c, out, lse, qkv, a);
    else
        ds_attention_plain_forward(c, out, lse, qkv, a);
}

static void own_backward(ds_cuda *c, float *dqkv, const float *dout, const float *out,
                         const float *lse, const float *qkv, const ds_heads &a) {
    ds_attention_plain_backward(c, dqkv, dout, out, lse, qkv, a);
}

static void own_backward(ds_cuda *c, ds_bf16 *dqkv, const ds_bf16 *dout, const ds_bf16 *out,
                         const float *lse, const ds_bf16 *qkv, const ds_heads &a) {
    if (ds_attention_tiled(a.hd, c->sm))
        ds_attention_flash_backward(c, dqkv, dout, out, lse, qkv, a);
    else
        ds_attention_plain_backward(c, dqkv, dout, out, lse, qkv, a);
}

void ds_cuda_attention_forward(ds_device *dev, ds_act *out, float *lse, const ds_act *qkv, int B,
                               int T, int D, int H) {
    ds_cuda *c = ds_cuda_begin(dev);
    if (B == 0 || T == 0)
        return;
    if (dev->act_size == 2 && ds_lib_attention_forward(c, out, lse, qkv, B, T, D, H) == 0)
        return;
    ds_heads a = heads_of(B, T, D, H, qkv, out, NULL);
    ds_cuda_by_act(dev, [&](auto zero) {
        using X = decltype(zero);
        own_forward(c, ds_ptr<X>(out), lse, ds_ptr<X>(qkv), a);
    });
}

void ds_cuda_attention_backward(ds_device *dev, ds_act *dqkv, const ds_act *dout, const ds_act *out,
                                const float *lse, const ds_act *qkv, int B, int T, int D, int H) {
    ds_cuda *c = ds_cuda_begin(dev);
    if (B == 0 || T == 0)
        return;
    if (dev->act_size == 2 &&
        ds_lib_attention_backward(c, dqkv, dout, out, lse, qkv, B, T, D, H) == 0)
        return;
    ds_heads a = heads_of(B, T, D, H, qkv, dout, out);
    a.aligned = a.aligned && (uintptr_t)dqkv % 16 == 0;
    ds_cuda_by_act(dev, [&](auto zero) {
        using X = decltype(zero);
        own_backward(c, ds_ptr<X>(dqkv), ds_ptr<X>(dout), ds_ptr<X>(out), lse, ds_ptr<X>(qkv), a);
    });
}
