/* tests/kernels/test_kernels_dense.c - double precision that a device lends (ds_dense in kernels/device.h)
 * against plain loops; on the emulated CUDA device, and by `make gpu-check` on a GPU.
 *
 * Tolerances: a sum of k products in double is known to (k + 1) eps of the sum of their sizes,
 * wherever it is computed; a backward stable decomposition of a (n,n) matrix to a small multiple of
 * n eps of its norm. */
#include "base/mem.h"
#include "base/rng.h"
#include "kernels/device.h"
#include "tests/harness.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ds_device *open_cuda(void) {
    ds_device *dev = NULL;
    ds_error err = {0};
    ds_device_options o = {.kind = "cuda", .precision = DS_PRECISION_F32};
    ds_test_emulated_gpu();
    ck_assert_msg(!ds_device_open_cuda(&dev, &o, &err), "%s", err.message);
    unsetenv("DIFFSCALER_CUDA_LIBRARY");
    ck_assert_msg(dev->dense != NULL, "the device has no double precision");
    return dev;
}

static double *normals(size_t n, uint32_t step) {
    float *x = ds_xmalloc(n * sizeof *x);
    double *out = ds_xmalloc(n * sizeof *out);
    ds_rng_normal(x, n, 3, DS_STREAM_TEST, step, 0);
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * (1 + 1e-9); /* more digits than a float has */
    free(x);
    return out;
}

/* got is alpha times the sum over p of a[p * sa] b[p * sb]. */
static void check_sum(double got, double alpha, int k, const double *a, size_t sa, const double *b,
                      size_t sb, const char *what) {
    double sum = 0, size = 0;
    for (size_t p = 0; p < (size_t)k; p++) {
        sum += a[p * sa] * b[p * sb];
        size += fabs(a[p * sa] * b[p * sb]);
    }
    /* both sides have rounded their sums, and the factor */
    double least = (2 * k + 4) * DBL_EPSILON * fabs(alpha) * size;
    ck_assert_msg(fabs(got - alpha * sum) <= least, "%s: %.17g, not %.17g", what, got, alpha * sum);
}

static const struct {
    int m, n, k;
} shapes[] = {{1, 1, 1}, {5, 3, 7}, {33, 65, 17}, {64, 16, 128}, {130, 40, 70}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

START_TEST(products) {
    size_t m = (size_t)shapes[_i].m, n = (size_t)shapes[_i].n, k = (size_t)shapes[_i].k;
    ds_device *dev = open_cuda();
    double *a = normals(m * k, 1), *b = normals(k * n, 2), *c = ds_xmalloc(m * n * sizeof *c),
           *again = ds_xmalloc(m * n * sizeof *c);
    for (int way = 0; way < 4; way++) { /* the same numbers are read as either layout */
        size_t at = way & 1, bt = (size_t)way >> 1;
        ck_assert_int_eq(
            dev->dense->product(dev, c, (int)m, (int)n, (int)k, 1.5, a, (int)at, b, (int)bt), 0);
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++)
                check_sum(c[i * n + j], 1.5, (int)k, a + (at ? i : i * k), at ? m : 1,
                          b + (bt ? j * k : j), bt ? 1 : n, "a product");
        ck_assert_int_eq(
            dev->dense->product(dev, again, (int)m, (int)n, (int)k, 1.5, a, (int)at, b, (int)bt),
            0);
        ck_assert_msg(!memcmp(c, again, m * n * sizeof *c), "two times are two results");
    }
    free(a), free(b), free(c), free(again);
    ds_device_close(dev);
}
END_TEST

START_TEST(grams) {
    size_t rows = (size_t)shapes[_i].m, n = (size_t)shapes[_i].k;
    ds_device *dev = open_cuda();
    double *x = normals(rows * n, 3), *c = ds_xmalloc((rows * rows + n * n) * sizeof *c);
    for (int of_rows = 0; of_rows < 2; of_rows++) {
        size_t side = of_rows ? rows : n, one = of_rows ? n : 1;
        ck_assert_int_eq(dev->dense->gram(dev, c, x, (int)rows, (int)n, of_rows), 0);
        for (size_t i = 0; i < side; i++)
            for (size_t j = i; j < side; j++)
                check_sum(c[i * side + j], 1, (int)(of_rows ? n : rows), x + i * one,
                          of_rows ? 1 : n, x + j * one, of_rows ? 1 : n, "a square");
    }
    free(x), free(c);
    ds_device_close(dev);
}
END_TEST

/* a (n,n) of the upper triangle; what is below is not to be read.  kind 0: random; 1: of rank 3;
 * 2: diagonal. */
static double *symmetric(size_t n, int kind) {
    double *r = normals(n * n, 4), *a = ds_xcalloc(n * n, sizeof *a);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            for (size_t p = 0; kind == 1 && p < 3 && p < n; p++)
                a[i * n + j] += r[p * n + i] * r[p * n + j];
            if (kind != 1)
                a[i * n + j] = kind == 0 ? r[i * n + j] : i == j ? (double)(i % 5) - 1.5 : 0;
            if (i > j)
                a[i * n + j] = NAN;
        }
    free(r);
    return a;
}

static double at(const double *a, size_t n, size_t i, size_t j) {
    return i < j ? a[i * n + j] : a[j * n + i];
}

/* Every vector is one of its value, they are orthonormal, and the same values come without them. */
static void check_eigen(ds_device *dev, size_t n, int kind) {
    double *a = symmetric(n, kind), *v = ds_xmalloc(n * n * sizeof *v), norm = 0;
    double *w = ds_xmalloc(2 * n * sizeof *w), *alone = w + n;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            norm += at(a, n, i, j) * at(a, n, i, j);
    double least = 10 * (double)n * DBL_EPSILON * sqrt(norm);
    memcpy(v, a, n * n * sizeof *v);
    ck_assert_int_eq(dev->dense->eigen(dev, w, v, (int)n, 1), 0);
    for (size_t r = 0; r < n; r++) {
        ck_assert(r == 0 || w[r] >= w[r - 1]);
        for (size_t i = 0; i < n; i++) {
            double image = 0, dot = 0;
            for (size_t j = 0; j < n; j++) {
                image += at(a, n, i, j) * v[r * n + j];
                dot += v[r * n + j] * v[i * n + j];
            }
            ck_assert_msg(fabs(image - w[r] * v[r * n + i]) <= least, "n %zu, vector %zu", n, r);
            ck_assert_msg(fabs(dot - (i == r)) <= 10 * (double)n * DBL_EPSILON, "vectors %zu, %zu",
                          r, i);
        }
    }
    memcpy(v, a, n * n * sizeof *v);
    ck_assert_int_eq(dev->dense->eigen(dev, alone, v, (int)n, 0), 0);
    for (size_t r = 0; r < n; r++)
        ck_assert_msg(fabs(alone[r] - w[r]) <= least, "n %zu, value %zu", n, r);
    free(a), free(v), free(w);
}

START_TEST(eigenvalues) {
    static const size_t sizes[] = {1, 2, 3, 17, 64, 100};
    ds_device *dev = open_cuda();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_eigen(dev, sizes[i], _i);
    ds_device_close(dev);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, products, 0, SHAPES);
    tcase_add_loop_test(tc, grams, 0, SHAPES);
    tcase_add_loop_test(tc, eigenvalues, 0, 3);
}

int main(void) { return ds_test_main("kernels_dense", register_cases); }
