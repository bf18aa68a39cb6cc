/* kernels/cuda/linear.cu - linear layers: products of cuBLASLt with their epilogues.
 *
 * y = x W^T + bias reads W (m,n) as it lies, transposed; dx = dy W reads the same copy straight.
 * Bias, GELU and its slope are epilogues of the product, in f32 before the one rounding to bf16.
 * The library takes a bias of the type of its result only, so for bf16 results it is rounded first
 * (m numbers; an error of 2^-8 of the bias at most).  Where the library has no such epilogue (a
 * width that is no multiple of eight) the product goes to scratch in f32, some rows at a time, and
 * finish() does the same arithmetic: both ways give the same bits, but for the library's own tanh.
 */
#include "kernels/cuda/cuda.h"

enum { BLOCK = 256 };

static unsigned cover(size_t n) { return (unsigned)ds_ceil_div(n, BLOCK); }

template <class To, class From> __global__ void to_type(To *out, const From *x, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = ds_store<To>(ds_float(x[i]));
}

/* out (rows,n) (=) epilogue(sum), and aux (=) sum + bias for the GELU.  One thread a number; the
 * bias is rounded as the library's would be. */
template <class D>
__global__ void finish(D *out, const float *sum, const float *bias, D *aux, ds_lib_epilogue what,
                       int n, size_t count) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count)
        return;
    float x = sum[i];
    if (what == DS_LIB_DGELU) {
        out[i] = ds_store<D>(x * ds_gelu_slope(ds_float(aux[i])));
        return;
    }
    if (bias)
        x += ds_float(ds_store<D>(bias[i % (size_t)n]));
    if (what == DS_LIB_BIAS_GELU) {
        if (aux)
            aux[i] = ds_store<D>(x);
        x = ds_gelu(x);
    }
    out[i] = ds_store<D>(x);
}

/* One product: out (rows, n) = x (rows, k) times the weight, with an epilogue. */
struct layer_product {
    const ds_weight *w;
    int back; /* 0: x W^T, n = w->m;  1: dy W, n = w->n */
    int rows;
    const ds_act *x;
    ds_lib_type d;
    ds_lib_epilogue epilogue;
    const float *bias; /* f32, or NULL */
    void *aux;         /* of the type of the result */
};

static int width_of(const layer_product *p) { return p->back ? p->w->n : p->w->m; }

static ds_gemm gemm_of(const layer_product *p) {
    ds_gemm g = {};
    g.m = p->rows;
    g.n = width_of(p);
    g.k = p->back ? p->w->m : p->w->n;
    g.tb = !p->back;
    g.lda = g.k;
    g.ldb = p->w->n;
    g.ldd = g.n;
    g.ab = p->w->f32 ? DS_LIB_F32 : DS_LIB_BF16;
    g.d = p->d;
    g.epilogue = p->epilogue;
    g.aux = p->aux;
    return g;
}

template <class D>
static void finish_rows(ds_cuda *c, const layer_product *p, void *out, const float *sum, int first,
                        int rows) {
    size_t n = (size_t)width_of(p), skip = (size_t)first * n, count = (size_t)rows * n;
    D *aux = (D *)p->aux;
    ds_cuda_launch(c, finish<D>, cover(count), BLOCK, 0, (D *)out + skip, sum, p->bias,
                   aux ? aux + skip : aux, p->epilogue, (int)n, count);
}

/* The epilogue by our own kernel, some rows at a time, in eights: how a row lies in memory decides
 * with which algorithm it is multiplied, so that a row's sums do not depend on how many there are.
 * wide: a weight that stays f32 on a bf16 device multiplies its input in f32. */
static void product_in_parts(ds_cuda *c, const layer_product *p, void *out, int wide) {
    const size_t room = (size_t)64 << 20;
    ds_gemm g = gemm_of(p);
    size_t n = (size_t)g.n, k = (size_t)g.k, row = (n + (wide ? k : 0)) * sizeof(float);
    int most = room / row >= 8 ? (int)(room / row / 8 * 8) : 8, all = (p->rows + 7) / 8 * 8;
    most = most < all ? most : all;
    float *sum = (float *)ds_cuda_scratch(c, (size_t)most * row), *x = sum + (size_t)most * n;
    g.d = DS_LIB_F32;
    g.epilogue = DS_LIB_NONE;
    g.aux = NULL;
    g.exact = wide;
    for (int first = 0; first < p->rows; first += most) {
        int rows = p->rows - first < most ? p->rows - first : most;
        size_t skip = (size_t)first * k, size = g.ab == DS_LIB_F32 ? 4 : 2;
        const void *a = (const char *)p->x + skip * size;
        if (wide) {
            ds_cuda_launch(c, to_type<float, ds_bf16>, cover((size_t)rows * k), BLOCK, 0, x,
                           ds_ptr<ds_bf16>(p->x) + skip, (size_t)rows * k);
            a = x;
        }
        g.m = rows;
        ds_lib_gemm(c, &g, sum, a, p->w->w);
        if (p->d == DS_LIB_BF16)
            finish_rows<ds_bf16>(c, p, out, sum, first, rows);
        else
            finish_rows<float>(c, p, out, sum, first, rows);
    }
}

/* An f32 result through the GELU, in place. */
static void product_in_place(ds_cuda *c, const layer_product *p, float *out) {
    ds_gemm g = gemm_of(p);
    g.epilogue = DS_LIB_NONE;
    g.aux = NULL;
    ds_lib_gemm(c, &g, out, p->x, p->w->w);
    finish_rows<float>(c, p, out, out, 0, p->rows);
}

/* The bias in bf16, as the library takes it for bf16 results: count numbers. */
static const void *rounded_bias(ds_cuda *c, const float *bias, size_t count) {
    ds_bf16 *rounded = (ds_bf16 *)ds_cuda_scratch(c, count * sizeof *rounded);
    ds_cuda_launch(c, to_type<ds_bf16, float>, cover(count), BLOCK, 0, rounded, bias, count);
    return rounded;
}

static void multiply(ds_device *dev, const layer_product *p, void *out);

/* Equal runs of rows by a weight each: in one call, where each lies as the first does (how it lies
 * decides with which algorithm it is multiplied), or one after the other. */
static void multiply_runs(ds_device *dev, const layer_product *p, void *out) {
    ds_cuda *c = ds_cuda_of(dev);
    const int runs = p->w->runs, rows = p->rows / runs;
    const size_t n = (size_t)p->w->m, k = (size_t)p->w->n;
    DS_ASSERT(p->rows % runs == 0 && !p->back);
    const size_t of_w = p->w->f32 ? 4 : 2, of_d = p->d == DS_LIB_F32 ? 4 : 2;
    const bool alike = n * k * of_w % 16 == 0 && (size_t)rows * k * of_w % 16 == 0 &&
                       (size_t)rows * n * of_d % 16 == 0 && n * of_d % 16 == 0;
    layer_product one = *p;
    one.rows = rows;
    ds_gemm g = gemm_of(&one);
    g.runs = runs;
    if (alike && !p->aux && !(p->d == DS_LIB_F32 && p->epilogue == DS_LIB_BIAS_GELU)) {
        g.bias = p->bias && p->d == DS_LIB_BF16 ? rounded_bias(c, p->bias, (size_t)runs * n)
                                                : (const void *)p->bias;
        if (ds_lib_gemm(c, &g, out, p->x, p->w->w) == 0)
            return;
    }
    ds_weight w = *p->w;
    w.runs = 1;
    one.w = &w;
    for (int i = 0; i < runs; i++) {
        size_t at = (size_t)i * (size_t)rows;
        w.w = (char *)p->w->w + (size_t)i * n * k * of_w;
        one.x = ds_act_at(dev, p->x, at * k);
        one.bias = p->bias ? p->bias + (size_t)i * n : NULL;
        one.aux = p->aux ? (char *)p->aux + at * n * of_d : NULL;
        multiply(dev, &one, (char *)out + at * n * of_d);
    }
}

static void multiply(ds_device *dev, const layer_product *p, void *out) {
    ds_cuda *c = ds_cuda_of(dev);
    if (p->rows <= 0)
        return;
    if (p->w->runs > 1) {
        multiply_runs(dev, p, out);
        return;
    }
    int wide = p->w->f32 && dev->act_size == 2;
    int gelu = p->epilogue == DS_LIB_BIAS_GELU || p->epilogue == DS_LIB_DGELU;
    if (gelu && p->d == DS_LIB_F32) {
        product_in_place(c, p, (float *)out);
        return;
    }
    ds_gemm g = gemm_of(p);
    g.bias = p->bias;
    if (p->bias && p->d == DS_LIB_BF16 && !wide)
        g.bias = rounded_bias(c, p->bias, (size_t)g.n);
    if (wide || ds_lib_gemm(c, &g, out, p->x, p->w->w))
        product_in_parts(c, p, out, wide);
}

static ds_lib_type act_type(ds_device *dev) {
    return dev->act_size == 2 ? DS_LIB_BF16 : DS_LIB_F32;
}

static layer_product forward_of(const ds_act *x, const ds_weight *w, const float *bias, int rows,
                                ds_lib_type d) {
    layer_product p = {};
    p.w = w;
    p.rows = rows;
    p.x = x;
    p.d = d;
    p.bias = bias;
    p.epilogue = bias ? DS_LIB_BIAS : DS_LIB_NONE;
    return p;
}

static layer_product backward_of(const ds_act *dy, const ds_weight *w, int rows, ds_lib_type d) {
    layer_product p = forward_of(dy, w, NULL, rows, d);
    p.back = 1;
    return p;
}

void ds_cuda_linear_forward(ds_device *dev, ds_act *y, const ds_act *x, const ds_weight *w,
                            const float *bias, int rows) {
    ds_cuda_begin(dev);
    layer_product p = forward_of(x, w, bias, rows, act_type(dev));
    multiply(dev, &p, y);
}

void ds_cuda_linear_f32_forward(ds_device *dev, float *y, const ds_act *x, const ds_weight *w,
                                const float *bias, int rows) {
    ds_cuda_begin(dev);
    layer_product p = forward_of(x, w, bias, rows, DS_LIB_F32);
    multiply(dev, &p, y);
}

void ds_cuda_linear_gelu_forward(ds_device *dev, ds_act *pre, ds_act *y, const ds_act *x,
                                 const ds_weight *w, const float *bias, int rows) {
    ds_cuda_begin(dev);
    layer_product p = forward_of(x, w, bias, rows, act_type(dev));
    p.epilogue = DS_LIB_BIAS_GELU;
    p.aux = pre;
    multiply(dev, &p, y);
}

/* Room for an output that nobody keeps, but that a pending sum still reads after this op; the next
 * op that takes it has launched that sum first (ds_cuda_begin). */
static ds_act *branch_room(ds_cuda *c, size_t bytes) {
    if (bytes <= c->branch_bytes)
        return (ds_act *)c->branch;
    if (c->recording)
        ds_cuda_fatal("memory of a branch", "it grew while a graph was recorded (a bug)");
    ds_lib_free(c, c->branch);
    c->branch_bytes = 0;
    c->branch = ds_lib_alloc(c, bytes);
    if (!c->branch)
        ds_cuda_no_room(c, "the output of a layer", bytes);
    c->branch_bytes = bytes;
    c->generation++;
    return (ds_act *)c->branch;
}

/* Is this the sum that waits, further on?  Then both are one: all that is between them, a product,
 * reads and writes nothing of the sum's. */
static bool continues(ds_device *dev, const ds_act *y, const float *res_out, const float *res_in,
                      const float *gate, int gate_stride, int T, int D) {
    const ds_cuda_pending *p = &ds_cuda_of(dev)->pending;
    const size_t n = (size_t)p->B * (size_t)p->T * (size_t)p->D;
    return p->waiting == DS_CUDA_GATE_FORWARD && p->T == T && p->D == D &&
           p->stride == gate_stride && ds_act_at(dev, p->y, n) == y && p->res_out + n == res_out &&
           p->res_in + n == res_in && p->gate + (size_t)p->B * (size_t)gate_stride == gate;
}

void ds_cuda_linear_residual_forward(ds_device *dev, ds_act *y, float *res_out, const float *res_in,
                                     const float *gate, int gate_stride, const ds_act *x,
                                     const ds_weight *w, const float *bias, int B, int T) {
    ds_cuda *c = ds_cuda_of(dev);
    if (y && continues(dev, y, res_out, res_in, gate, gate_stride, T, w->m)) {
        layer_product part = forward_of(x, w, bias, B * T, act_type(dev));
        multiply(dev, &part, y);
        c->pending.B += B;
        return;
    }
    ds_cuda_begin(dev);
    if (!y)
        y = branch_room(c, (size_t)B * (size_t)T * (size_t)w->m * dev->act_size);
    layer_product p = forward_of(x, w, bias, B * T, act_type(dev));
    multiply(dev, &p, y);
    ds_cuda_gate_later(dev, res_out, res_in, gate, gate_stride, y, B, T, w->m);
}

void ds_cuda_linear_backward_input(ds_device *dev, ds_act *dx, const ds_act *dy, const ds_weight *w,
                                   int rows) {
    ds_cuda_begin(dev);
    layer_product p = backward_of(dy, w, rows, act_type(dev));
    multiply(dev, &p, dx);
}

void ds_cuda_linear_f32_backward_input(ds_device *dev, float *dx, const ds_act *dy,
                                       const ds_weight *w, int rows) {
    ds_cuda_begin(dev);
    layer_product p = backward_of(dy, w, rows, DS_LIB_F32);
    multiply(dev, &p, dx);
}

void ds_cuda_linear_gelu_backward_input(ds_device *dev, ds_act *dpre, const ds_act *dy,
                                        const ds_weight *w, const ds_act *pre, int rows) {
    ds_cuda_begin(dev);
    layer_product p = backward_of(dy, w, rows, act_type(dev));
    p.epilogue = DS_LIB_DGELU;
    p.aux = (void *)(uintptr_t)pre; /* read only for this epilogue */
    multiply(dev, &p, dpre);
}

/* ---------------------------------------------------------------- weight gradient */

/* Column sums of dy (rows,m), 256 columns and ROWS rows a block: lane l of a warp has columns
 * 8l..8l+7, warp v rows v, v+8, ..  part (chunks,m) (=) sums of the chunk, the warps' in order. */
enum { COLUMNS = 256, WARPS = 8, ROWS = 256 };

template <bool VEC, class T>
__global__ void column_parts(float *part, const T *dy, int m, int rows) {
    DS_SHARED(float, room); /* (WARPS, COLUMNS) */
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int column = (int)blockIdx.x * COLUMNS + 8 * lane;
    int first = (int)blockIdx.y * ROWS, end = first + ROWS < rows ? first + ROWS : rows;
    float sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
#pragma unroll 4
    for (int t = first + warp; t < end && column < m; t += WARPS) {
        float v[8];
        ds_load8<VEC>(v, dy + (size_t)t * (size_t)m + column, m - column);
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum[i] += v[i];
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        room[warp * COLUMNS + 8 * lane + i] = sum[i];
    __syncthreads();
    int mine = (int)blockIdx.x * COLUMNS + (int)threadIdx.x;
    if (mine >= m)
        return;
    float total = 0;
    for (int v = 0; v < WARPS; v++)
        total += room[v * COLUMNS + (int)threadIdx.x];
    part[(size_t)blockIdx.y * (size_t)m + mine] = total;
}

/* db (m) (+=) the parts, in order. */
__global__ void add_parts(float *db, const float *part, int m, int chunks) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= m)
        return;
    float sum = 0;
    for (int k = 0; k < chunks; k++)
        sum += part[(size_t)k * (size_t)m + i];
    db[i] += sum;
}

static void column_sums(ds_device *dev, float *db, const ds_act *dy, int m, int rows) {
    ds_cuda *c = ds_cuda_of(dev);
    int chunks = ds_ceil_div((size_t)rows, ROWS);
    float *part = (float *)ds_cuda_scratch(c, (size_t)chunks * (size_t)m * sizeof *part);
    dim3 grid((unsigned)ds_ceil_div((size_t)m, COLUMNS), (unsigned)chunks);
    size_t shared = WARPS * COLUMNS * sizeof(float);
    ds_cuda_by_act(dev, [&](auto zero) {
        using T = decltype(zero);
        const T *g = ds_ptr<T>(dy);
        ds_cuda_launch(c, ds_rows_aligned(g, m) ? column_parts<true, T> : column_parts<false, T>,
                       grid, 32 * WARPS, shared, part, g, m, rows);
    });
    ds_cuda_launch(c, add_parts, cover((size_t)m), BLOCK, 0, db, part, m, chunks);
}

void ds_cuda_linear_backward_weight(ds_device *dev, float *dW, float *db, const ds_act *dy,
                                    const ds_act *x, int m, int n, int rows) {
    ds_cuda *c = ds_cuda_begin(dev);
    if (rows <= 0)
        return;
    ds_gemm g = {};
    g.m = m;
    g.n = n;
    g.k = rows;
    g.ta = 1;
    g.lda = m;
    g.ldb = g.ldd = n;
    g.ab = act_type(dev);
    g.d = DS_LIB_F32;
    g.add = 1;
    ds_lib_gemm(c, &g, dW, dy, x);
    if (db)
        column_sums(dev, db, dy, m, rows);
}
