/* tests/kernels/test_kernels_tf32.c - what TF32 does to the feature network's ops on a CUDA device.
 *
 * Operands of a convolution are rounded to nearest by our own kernels, whatever the library does
 * with the bits below (the emulated one cuts them off).  The numbers here have all those bits set,
 * so one that is cut is off by 2^-10 of itself, and a sum of positive products with it; a result
 * may be off by 2^-11, its own rounding. */
#include "tests/fixtures/kernels_ladder.h"

static ds_device *open_cuda(enum ds_precision precision) {
    ds_device *dev = NULL;
    ds_error err = {0};
    ds_device_options opt = {.kind = "cuda", .precision = precision};
    if (only_cuda())
        ck_assert_msg(!ds_device_open_cuda(&dev, &opt, &err), "%s", err.message);
    else
        dev = open_emulated(&opt);
    return dev ? ds_mirror(dev) : NULL;
}

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static float nearest(float x) { return from_bits((bits_of(x) + 0x1000u) & ~0x1fffu); }

/* Positive, in [1/4, 1), all bits below TF32 set. */
static float *long_numbers(size_t n, uint32_t seed) {
    float *x = ds_xmalloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        uint32_t u = (uint32_t)(i + 1) * 2654435761u + seed * 40503u;
        x[i] = from_bits(bits_of(0.25f * (1 + (float)(u >> 8) * 0x1p-24f * 3)) | 0x1fffu);
    }
    return x;
}

typedef struct {
    const char *name;
    ds_conv geo;
} case_of;

static const case_of cases[] = {
    {"a product", {3, 5, 4, 16, 24, 1, 1, 1, 0, 0}},
    {"the library's", {3, 9, 8, 16, 20, 3, 3, 1, 1, 1}},
    {"patches", {2, 8, 7, 12, 8, 1, 7, 1, 0, 3}},
    {"a picture", {3, 11, 13, 3, 8, 3, 3, 2, 0, 0}},
    {"a picture by patches", {2, 6, 9, 3, 8, 1, 3, 1, 0, 1}},
};
enum { CASES = sizeof cases / sizeof *cases, GAP = 4 };

typedef struct {
    ds_conv geo;
    int depth, oh, ow;
    size_t values, weights, out;
    float *x, *W, *bias, *y;
    double *want; /* exact sums of what is multiplied */
} conv_case;

/* Sums in double over what the device multiplies; a picture comes with all its bits. */
static void exact_sums(conv_case *c, int rounded) {
    const ds_conv *g = &c->geo;
    const size_t m = (size_t)g->out_channels;
    for (size_t i = 0; i < c->out; i++) {
        size_t o = i % m, pixel = i / m;
        int ox = (int)(pixel % (size_t)c->ow), oy = (int)(pixel / (size_t)c->ow) % c->oh;
        int b = (int)(pixel / (size_t)c->ow / (size_t)c->oh);
        double sum = c->bias[o];
        for (int k = 0; k < c->depth; k++) {
            int channel = k % g->in_channels, cell = k / g->in_channels;
            int row = oy * g->stride + cell / g->kernel_w - g->pad_h;
            int col = ox * g->stride + cell % g->kernel_w - g->pad_w;
            if (row < 0 || row >= g->height || col < 0 || col >= g->width)
                continue;
            float x = c->x[((size_t)(b * g->height + row) * (size_t)g->width + (size_t)col) *
                               (size_t)g->in_channels +
                           (size_t)channel];
            float w = c->W[o * (size_t)c->depth + (size_t)k];
            sum += rounded ? (double)nearest(x) * nearest(w) : (double)x * w;
        }
        c->want[i] = sum;
    }
}

static conv_case conv_new(const ds_conv *geo, int rounded) {
    conv_case c = {.geo = *geo, .depth = geo->kernel_h * geo->kernel_w * geo->in_channels};
    c.oh = (geo->height + 2 * geo->pad_h - geo->kernel_h) / geo->stride + 1;
    c.ow = (geo->width + 2 * geo->pad_w - geo->kernel_w) / geo->stride + 1;
    c.values = (size_t)(geo->batch * geo->height * geo->width * geo->in_channels);
    c.weights = (size_t)(geo->out_channels * c.depth);
    c.out = (size_t)(geo->batch * c.oh * c.ow * geo->out_channels);
    c.x = long_numbers(c.values, 1);
    c.W = long_numbers(c.weights, 2);
    c.bias = long_numbers((size_t)geo->out_channels, 3);
    for (size_t i = 0; rounded && geo->in_channels > 3 && i < c.values; i++)
        c.x[i] = nearest(c.x[i]); /* a map: made by an op, which has rounded it */
    c.y = ds_xcalloc(c.out / (size_t)geo->out_channels * (size_t)(geo->out_channels + GAP),
                     sizeof *c.y);
    c.want = ds_xcalloc(c.out, sizeof *c.want);
    exact_sums(&c, rounded);
    return c;
}

static void conv_free(conv_case *c) {
    free(c->x);
    free(c->W);
    free(c->bias);
    free(c->y);
    free(c->want);
}

/* Of the first `batch` samples. */
static void convolve(ds_device *dev, conv_case *c, enum ds_weight_kind kind, int batch) {
    ds_conv geo = c->geo;
    geo.batch = batch;
    int m = geo.out_channels;
    ds_mirror_add(dev, c->x, c->values * sizeof *c->x);
    ds_mirror_add(dev, c->W, c->weights * sizeof *c->W);
    ds_mirror_add(dev, c->bias, (size_t)m * sizeof *c->bias);
    ds_mirror_add(dev, c->y, c->out / (size_t)m * (size_t)(m + GAP) * sizeof *c->y);
    ds_weight *w = dev->weight_new(dev, m, c->depth, (int)kind, 0);
    ck_assert_ptr_nonnull(w);
    dev->ops->weight_pack(dev, w, c->W, NULL);
    dev->ops->conv_forward(dev, c->y, m + GAP, c->x, w, c->bias, 1, &geo);
    dev->weight_free(dev, w);
    ds_mirror_clear(dev);
}

static float at(const conv_case *c, size_t i) {
    size_t m = (size_t)c->geo.out_channels;
    return c->y[i / m * (m + GAP) + i % m];
}

/* Sums of positive numbers in f32: each of depth + 1 steps is off by one unit at most, since a
 * tensor core cuts where others round. */
static double of_sums(const conv_case *c, size_t i) {
    return (c->depth + 2) * 2 * EPS32 * fabs(c->want[i]);
}

START_TEST(operands_are_rounded) {
    ds_device *dev = open_cuda(DS_PRECISION_TF32);
    if (!dev) {
        ds_test_skip("operands_are_rounded", "DS_TEST_CUDA=0");
        return;
    }
    ck_assert_ptr_nonnull(strstr(dev->device_class, "-tf32"));
    const case_of *k = &cases[_i];
    conv_case c = conv_new(&k->geo, 1);
    convolve(dev, &c, DS_WEIGHT_TF32, c.geo.batch);
    for (size_t i = 0; i < c.out; i++) {
        double most = of_sums(&c, i) + 0x1p-11 * fabs(c.want[i]);
        ck_assert_msg(fabs(at(&c, i) - c.want[i]) <= most, "%s: [%zu] is %.9g, not %.9g within %g",
                      k->name, i, at(&c, i), c.want[i], most);
        ck_assert_msg(!(bits_of(at(&c, i)) & 0x1fffu), "%s: [%zu] = %.9g is not rounded", k->name,
                      i, at(&c, i));
    }
    conv_case one = conv_new(&k->geo, 1);
    convolve(dev, &one, DS_WEIGHT_TF32, 1);
    for (size_t i = 0; i < c.out / (size_t)c.geo.batch; i++)
        ck_assert_msg(bits_of(at(&c, i)) == bits_of(at(&one, i)), "%s: [%zu] depends on the batch",
                      k->name, i);
    conv_free(&one);
    conv_free(&c);
    ds_device_close(dev);
}
END_TEST

static void check_exact(ds_device *dev, const case_of *k, enum ds_weight_kind kind) {
    conv_case c = conv_new(&k->geo, 0);
    convolve(dev, &c, kind, c.geo.batch);
    for (size_t i = 0; i < c.out; i++)
        ck_assert_msg(fabs(at(&c, i) - c.want[i]) <= of_sums(&c, i),
                      "%s, %s: [%zu] is %.9g, not %.9g", dev->device_class, k->name, i, at(&c, i),
                      c.want[i]);
    conv_free(&c);
}

/* The VAE's on every device, the feature network's on all but those of precision tf32. */
START_TEST(others_are_exact) {
    static const enum ds_precision precisions[] = {DS_PRECISION_TF32, DS_PRECISION_F32,
                                                   DS_PRECISION_BF16};
    for (int p = 0; p < 3; p++) {
        ds_device *dev = open_cuda(precisions[p]);
        if (!dev) {
            ds_test_skip("others_are_exact", "DS_TEST_CUDA=0");
            return;
        }
        check_exact(dev, &cases[_i], DS_WEIGHT_F32);
        if (precisions[p] != DS_PRECISION_TF32)
            check_exact(dev, &cases[_i], DS_WEIGHT_TF32);
        ds_device_close(dev);
    }
}
END_TEST

/* Averages are rounded where convolutions read them so; maxima are what they were. */
START_TEST(averages_are_rounded) {
    enum { C = 8, SIDE = 5, N = SIDE * SIDE * C };
    ds_conv geo = {1, SIDE, SIDE, C, 0, 3, 3, 1, 1, 1};
    for (int tf32 = 0; tf32 < 2; tf32++) {
        ds_device *dev = open_cuda(tf32 ? DS_PRECISION_TF32 : DS_PRECISION_F32);
        if (!dev) {
            ds_test_skip("averages_are_rounded", "DS_TEST_CUDA=0");
            return;
        }
        float *x = long_numbers(N, 4), *mean = ds_xcalloc(N, sizeof *mean),
              *top = ds_xcalloc(N, sizeof *top);
        ds_mirror_add(dev, x, N * sizeof *x);
        ds_mirror_add(dev, mean, N * sizeof *mean);
        ds_mirror_add(dev, top, N * sizeof *top);
        dev->ops->pool_forward(dev, mean, C, x, 1, &geo);
        dev->ops->pool_forward(dev, top, C, x, 0, &geo);
        int low = 0;
        for (int i = 0; i < N; i++) {
            low += (bits_of(mean[i]) & 0x1fffu) != 0;
            ck_assert_uint_eq(bits_of(top[i]) & 0x1fffu, 0x1fffu);
        }
        if (tf32)
            ck_assert_int_eq(low, 0);
        else
            ck_assert_int_gt(low, N / 2);
        ds_mirror_clear(dev);
        free(x);
        free(mean);
        free(top);
        ds_device_close(dev);
    }
}
END_TEST

/* Ties away from zero, over the exponent, and what is no number. */
START_TEST(rounding) {
    ds_device *dev = open_cuda(DS_PRECISION_TF32);
    if (!dev) {
        ds_test_skip("rounding", "DS_TEST_CUDA=0");
        return;
    }
    enum { N = 8 };
    ds_conv geo = {1, 1, 1, N, 0, 1, 1, 1, 0, 0};
    const uint32_t in[N] = {0x3f801000u, 0xbf801000u, 0x3f800fffu, 0x3fffffffu,
                            0x7f800000u, 0x7fffffffu, 0x00000fffu, 0x3f802000u};
    const uint32_t want[N] = {0x3f802000u, 0xbf802000u, 0x3f800000u, 0x40000000u,
                              0x7f800000u, 0,           0,           0x3f802000u};
    float *x = ds_xcalloc(N, sizeof *x), *y = ds_xcalloc(N, sizeof *y);
    for (int i = 0; i < N; i++)
        x[i] = from_bits(in[i]);
    ds_mirror_add(dev, x, N * sizeof *x);
    ds_mirror_add(dev, y, N * sizeof *y);
    dev->ops->pool_forward(dev, y, N, x, 1, &geo);
    for (int i = 0; i < N; i++)
        if (x[i] == x[i])
            ck_assert_msg(bits_of(y[i]) == want[i], "%08x: %08x", in[i], bits_of(y[i]));
        else
            ck_assert(y[i] != y[i]);
    ds_mirror_clear(dev);
    free(x);
    free(y);
    ds_device_close(dev);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, operands_are_rounded, 0, CASES);
    tcase_add_loop_test(tc, others_are_exact, 0, CASES);
    tcase_add_test(tc, averages_are_rounded);
    tcase_add_test(tc, rounding);
}

int main(void) { return ds_test_main("kernels_tf32", register_cases); }
