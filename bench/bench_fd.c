/* bench/bench_fd.c - seconds of a Frechet distance and its interval, without pictures or a device.
 *
 *     build/release/bench/bench_fd DIM N_REAL N_FAKE [GROUPS [THREADS [REPEATS]]]
 *
 * Features: mixed normals with a spectrum that falls like 1/i, cut below, as a network's pooled
 * activations are.  Says the distance, its interval, the median and least seconds, and the memory
 * that is planned for it. */
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "bench/times.h"
#include "engine/metrics/fd.h"
#include "engine/metrics/linalg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { REPEATS_MAX = 99 };

static float *features(size_t n, size_t dim, uint32_t step, float gain) {
    float *z = ds_xmalloc(dim * sizeof *z), *x = ds_xmalloc(n * dim * sizeof *x);
    for (size_t i = 0; i < n; i++) {
        ds_rng_normal(z, dim, 3, DS_STREAM_TEST, step, (uint32_t)i * 65536);
        for (size_t j = 0; j < dim; j++)
            z[j] *= gain / sqrtf(1 + (float)j);
        for (size_t j = 0; j < dim; j++) {
            float v = z[j] + 0.5f * z[(7 * j + 3) % dim] + 0.3f * z[(j * j + 11) % dim] + 0.2f;
            x[i * dim + j] = v > 0 ? v : 0;
        }
    }
    free(z);
    return x;
}

static long argument(int argc, char **argv, int i, long otherwise) {
    return i < argc ? strtol(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
    long dim = argument(argc, argv, 1, 2048), n_real = argument(argc, argv, 2, 1024),
         n_fake = argument(argc, argv, 3, 2000), groups = argument(argc, argv, 4, 8),
         threads = argument(argc, argv, 5, 1), repeats = argument(argc, argv, 6, 1);
    if (dim < 2 || dim > DS_FEATURE_DIM_MAX || n_real < 2 || n_fake < 2 || n_real > 1000000 ||
        n_fake > 1000000 || repeats < 1 || repeats > REPEATS_MAX) {
        fputs("usage: bench_fd DIM N_REAL N_FAKE [GROUPS [THREADS [REPEATS]]]\n", stderr);
        return 2;
    }
    ds_device dev = {.threads = (int)threads};
    ds_linalg_use(&dev);
    ds_feature_set a = {.x = features((size_t)n_real, (size_t)dim, 1, 1),
                        .n = n_real,
                        .dim = (int)dim,
                        .net = "random",
                        .resize = "none"},
                   b = a;
    b.x = features((size_t)n_fake, (size_t)dim, 2, 1.1F);
    b.n = n_fake;
    double seconds[REPEATS_MAX];
    ds_fd_result r = {0};
    for (long i = 0; i < repeats; i++) {
        ds_error err;
        double begin = ds_monotonic();
        if (ds_fd_compare(&a, &b, (int)groups, 7, NULL, NULL, &r, &err)) {
            fprintf(stderr, "error: %s\n", err.message);
            return 1;
        }
        seconds[i] = ds_monotonic() - begin;
    }
    double median = ds_median(seconds, (int)repeats);
    printf("dim %ld, %ld and %ld pictures, %ld groups, %ld threads: FD %.15g, std_error %.10g; "
           "median %.2f s, least %.2f s; %zu MiB\n",
           dim, n_real, n_fake, groups, threads, r.fd, r.std_error, median, seconds[0],
           ds_fd_bytes((int)dim, n_real, n_fake, (int)groups) >> 20);
    free((float *)(uintptr_t)a.x);
    free((float *)(uintptr_t)b.x);
    return 0;
}
