/* tests/emu/lib_emu.cc - kernels/cuda/lib/lib.h over host memory: plain loops instead of NVIDIA's
 * libraries.  As particular as they are about epilogues (multiples of eight only), so that both
 * ways of a caller run. */
#include "kernels/cuda/cuda.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>

/* How much memory the device has: 8 GiB, or as the file that DS_EMU_MEMORY names says each time:
 * bytes in all, and bytes that others have. */
static std::map<void *, size_t> live;
static size_t live_bytes;
static const size_t WORKSPACE = (size_t)32 << 20; /* that of a product library, taken at opening */

static void memory(size_t *all, size_t *others) {
    unsigned long long total = 8ull << 30, busy = 0;
    const char *path = getenv("DS_EMU_MEMORY");
    FILE *f = path ? fopen(path, "re") : NULL;
    if (f) {
        if (fscanf(f, "%llu %llu", &total, &busy) != 2)
            abort();
        fclose(f);
    }
    *all = total;
    *others = busy;
}

static size_t room_left() {
    size_t all, others;
    memory(&all, &others);
    size_t used = others + live_bytes + WORKSPACE;
    return used < all ? all - used : 0;
}

int ds_lib_open(ds_cuda *c, int ordinal, ds_error *err) {
    if (ordinal > 0)
        return ds_fail(err, DS_ENOTFOUND, "there is no emulated device %d: use cuda:0", ordinal);
    c->sm = 90;
    c->sms = 4;
    snprintf(c->gpu, sizeof c->gpu, "emulation");
    return 0;
}

void ds_lib_close(ds_cuda *) {}

void *ds_lib_alloc(ds_cuda *, size_t bytes) {
    ds_emu_host("an allocation");
    void *p = bytes <= room_left() ? ds_emu_alloc(bytes) : NULL;
    if (!p)
        return NULL;
    live[p] = bytes;
    live_bytes += bytes;
    ds_emu_now([=] { memset(p, 0xff, bytes); }); /* NaN: a GPU's memory is not zeroed either */
    return p;
}

void ds_lib_free(ds_cuda *, void *p) {
    ds_emu_host("freeing memory");
    auto it = live.find(p);
    if (it != live.end()) {
        live_bytes -= it->second;
        live.erase(it);
    }
    ds_emu_free(p);
}

void ds_lib_upload(ds_cuda *, void *dst, const void *src, size_t bytes) {
    ds_emu_host("an upload");
    ds_emu_now([=] { memcpy(dst, src, bytes); });
}

void ds_lib_download(ds_cuda *, void *dst, const void *src, size_t bytes) {
    ds_emu_host("a download");
    ds_emu_now([=] { memcpy(dst, src, bytes); });
}

/* The copy is made when it is asked for, as the stream would: what follows does not show in it. */
static unsigned char *fetches[2];

void ds_lib_fetch(ds_cuda *, int slot, const void *src, size_t bytes) {
    ds_emu_host("a download");
    if (!fetches[slot])
        fetches[slot] = (unsigned char *)calloc(1, DS_FETCH_BYTES);
    ds_emu_now([=] { memcpy(fetches[slot], src, bytes); });
}

void ds_lib_fetched(ds_cuda *, int slot, void *dst, size_t bytes) {
    memcpy(dst, fetches[slot], bytes);
    memset(fetches[slot], 0xff, bytes); /* taken once */
}

void ds_lib_sync(ds_cuda *) { ds_emu_host("waiting for the device"); }
size_t ds_lib_free_bytes(ds_cuda *) { return room_left(); }

size_t ds_lib_total_bytes(ds_cuda *) {
    size_t all, others;
    memory(&all, &others);
    return all;
}

size_t ds_lib_workspace_bytes(ds_cuda *) { return WORKSPACE; }

int ds_lib_record_begin(ds_cuda *) {
    ds_emu_record_begin();
    return 0;
}

void *ds_lib_record_end(ds_cuda *) { return ds_emu_record_end(); }
void ds_lib_graph_launch(ds_cuda *, void *graph) { ds_emu_graph_launch(graph); }
void ds_lib_graph_free(ds_cuda *, void *graph) { ds_emu_graph_free(graph); }

static float load(const void *p, ds_lib_type type, size_t i) {
    return type == DS_LIB_BF16 ? ds_float(((const ds_bf16 *)p)[i]) : ((const float *)p)[i];
}

static void store(void *p, ds_lib_type type, size_t i, float x) {
    if (type == DS_LIB_BF16)
        ((ds_bf16 *)p)[i] = ds_round_bf16(x);
    else
        ((float *)p)[i] = x;
}

static float epilogue(const ds_gemm *g, float x, size_t row, size_t col) {
    size_t at = row * (size_t)g->n + col;
    if (g->epilogue == DS_LIB_DGELU)
        return x * ds_gelu_slope(load(g->aux, g->d, at));
    if (g->epilogue != DS_LIB_NONE && g->bias)
        x += load(g->bias, g->d, col);
    if (g->epilogue == DS_LIB_BIAS_GELU) {
        if (g->aux)
            store(g->aux, g->d, at, x);
        return ds_gelu(x);
    }
    return g->epilogue == DS_LIB_BIAS_RELU && x < 0 ? 0 : x;
}

static int particular(const ds_gemm *g, const void *d) {
    return g->epilogue != DS_LIB_NONE &&
           (g->n % 8 || g->k % 8 || g->lda % 8 || g->ldb % 8 || g->ldd % 8 || (uintptr_t)d % 16 ||
            (g->aux && (uintptr_t)g->aux % 16) || (uintptr_t)g->bias % 16);
}

/* rows x k numbers as f32, row after row; across: they lie (k, rows). */
static float *gather(const void *p, ds_lib_type type, int rows, int k, int ld, int across) {
    float *out = (float *)ds_xmalloc((size_t)rows * (size_t)k * sizeof *out);
    for (size_t i = 0; i < (size_t)rows; i++)
        for (size_t j = 0; j < (size_t)k; j++)
            out[i * (size_t)k + j] =
                load(p, type, across ? j * (size_t)ld + i : i * (size_t)ld + j);
    return out;
}

/* In double, eight sums at a time, so that it is vectorised. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx2", "default")))
#endif
static double
dot(const float *a, const float *b, int n) {
    double part[8] = {0}, sum = 0;
    int i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            part[j] += (double)a[i + j] * b[i + j];
    for (; i < n; i++)
        sum += (double)a[i] * b[i];
    for (int j = 0; j < 8; j++)
        sum += part[j];
    return sum;
}

/* TF32 as hardware may have it: bits beyond are cut off. */
static void cut(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        u &= ~0x1fffu;
        memcpy(x + i, &u, sizeof u);
    }
}

static void product(const ds_gemm *g, void *d, const void *a, const void *b, bool tf32) {
    float *x = gather(a, g->ab, g->m, g->k, g->lda, g->ta);
    float *y = gather(b, g->ab, g->n, g->k, g->ldb, !g->tb);
    if (tf32) {
        cut(x, (size_t)g->m * (size_t)g->k);
        cut(y, (size_t)g->n * (size_t)g->k);
    }
    for (size_t i = 0; i < (size_t)g->m; i++)
        for (size_t j = 0; j < (size_t)g->n; j++) {
            size_t at = i * (size_t)g->ldd + j;
            double sum = dot(x + i * (size_t)g->k, y + j * (size_t)g->k, g->k);
            if (g->add)
                sum += load(d, g->d, at);
            store(d, g->d, at, epilogue(g, (float)sum, i, j));
        }
    free(x);
    free(y);
}

int ds_lib_gemm(ds_cuda *c, const ds_gemm *g, void *d, const void *a, const void *b) {
    if (particular(g, d))
        return 1;
    ds_gemm copy = *g;
    bool tf32 = c->tf32 && !g->exact && g->ab == DS_LIB_F32;
    const size_t of_ab = g->ab == DS_LIB_F32 ? 4 : 2, of_d = g->d == DS_LIB_F32 ? 4 : 2;
    ds_emu_submit([=] {
        ds_gemm one = copy;
        for (size_t i = 0; i < (size_t)(copy.runs > 1 ? copy.runs : 1); i++) {
            size_t m = (size_t)copy.m, n = (size_t)copy.n;
            if (copy.bias)
                one.bias = (const char *)copy.bias + i * n * of_d;
            product(&one, (char *)d + i * m * (size_t)copy.ldd * of_d,
                    (const char *)a + i * m * (size_t)copy.lda * of_ab,
                    (const char *)b + i * n * (size_t)copy.ldb * of_ab, tf32);
        }
    });
    return 0;
}

int ds_lib_attention_forward(ds_cuda *, void *, float *, const void *, int, int, int, int) {
    return 1;
}
int ds_lib_attention_backward(ds_cuda *, void *, const void *, const void *, const float *,
                              const void *, int, int, int, int) {
    return 1;
}

static void convolve(float *y, const float *x, const float *w, const ds_conv *g) {
    int side = g->kernel_h, oh = (g->height + 2 * g->pad_h - side) / g->stride + 1;
    int ow = (g->width + 2 * g->pad_w - side) / g->stride + 1, cells = side * side;
    size_t C = (size_t)g->in_channels, outputs = (size_t)g->batch * (size_t)(oh * ow);
    for (size_t i = 0; i < outputs * (size_t)g->out_channels; i++) {
        int channel = (int)(i % (size_t)g->out_channels);
        int at = (int)(i / (size_t)g->out_channels), b = at / (oh * ow);
        double sum = 0;
        for (int cell = 0; cell < cells; cell++) {
            int row = at / ow % oh * g->stride + cell / side - g->pad_h;
            int column = at % ow * g->stride + cell % side - g->pad_w;
            if (row < 0 || row >= g->height || column < 0 || column >= g->width)
                continue;
            const float *p = x + (size_t)((b * g->height + row) * g->width + column) * C;
            sum += dot(p, w + (size_t)(channel * cells + cell) * C, g->in_channels);
        }
        y[i] = (float)sum;
    }
}

static void convolve_tf32(float *y, const float *x, const float *w, const ds_conv *g) {
    size_t cells = (size_t)(g->kernel_h * g->kernel_w) * (size_t)g->in_channels;
    size_t nx = (size_t)g->batch * (size_t)(g->height * g->width) * (size_t)g->in_channels,
           nw = (size_t)g->out_channels * cells;
    float *copy = (float *)ds_xmalloc((nx + nw) * sizeof *copy);
    memcpy(copy, x, nx * sizeof *copy);
    memcpy(copy + nx, w, nw * sizeof *copy);
    cut(copy, nx + nw);
    convolve(y, copy, copy + nx, g);
    free(copy);
}

/* Takes square kernels over multiples of eight channels only, and pictures in TF32. */
int ds_lib_conv(ds_cuda *, float *y, const float *x, const float *w, const ds_conv *g, int tf32) {
    if (g->kernel_h != g->kernel_w || (g->in_channels % 8 && !(tf32 && g->in_channels == 3)))
        return 1;
    ds_conv copy = *g;
    ds_emu_submit([=] { (tf32 ? convolve_tf32 : convolve)(y, x, w, &copy); });
    return 0;
}
