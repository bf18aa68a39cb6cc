/* tests/fuzz/fuzz_npz.c - libFuzzer target: the reader of .npz statistics on hostile bytes.
 *
 *     make fuzz FUZZ=npz FUZZ_SECONDS=600
 *
 * The first byte chooses what the others are: the whole file, or one member of a zip that is
 * otherwise well (a zip's checksums would keep the fuzzer away from the .npy parser).
 * Invariant: what is accepted has finite numbers, a symmetric matrix and sizes within the limits.
 */
#include "base/mem.h"
#include "engine/metrics/features.h"
#include "engine/metrics/npz.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zip.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char path[] = "/dev/shm/fuzz-npz.tmp";

static const char mu[] = "\x93NUMPY\x01\x00\x36\x00"
                         "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"
                         "\0\0\0\0\0\0\0\0";

static void write_file(const uint8_t *data, size_t n) {
    FILE *f = fopen(path, "wb");
    DS_ASSERT(f && fwrite(data, 1, n, f) == n);
    fclose(f);
}

static void write_member(const char *name, const uint8_t *data, size_t n) {
    int why;
    unlink(path);
    zip_t *zip = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, &why);
    DS_ASSERT(zip);
    if (strcmp(name, "mu.npy"))
        zip_file_add(zip, "mu.npy", zip_source_buffer(zip, mu, sizeof mu - 2, 0), 0);
    zip_int64_t at = zip_file_add(zip, name, zip_source_buffer(zip, data, n, 0), 0);
    zip_set_file_compression(zip, (zip_uint64_t)at, ZIP_CM_STORE, 0);
    DS_ASSERT(!zip_close(zip));
}

static void check(const double *mean, const double *cov, int dim) {
    DS_ASSERT(dim >= 1 && dim <= DS_FEATURE_DIM_MAX);
    for (int i = 0; i < dim; i++) {
        DS_ASSERT(isfinite(mean[i]) && cov[(size_t)i * (size_t)dim + (size_t)i] >= 0);
        for (int j = 0; j < dim; j++)
            DS_ASSERT(isfinite(cov[(size_t)i * (size_t)dim + (size_t)j]));
    }
}

/* A few pictures, when they are small. */
static void check_pictures(void) {
    ds_npz_pictures *p;
    ds_error err;
    if (ds_npz_pictures_open(path, &p, &err)) {
        DS_ASSERT(*err.message);
        return;
    }
    int64_t count = ds_npz_pictures_count(p);
    size_t size = (size_t)ds_npz_pictures_width(p) * (size_t)ds_npz_pictures_height(p) * 3;
    DS_ASSERT(count >= 1 && count <= DS_FEATURE_ROWS_MAX && size >= 3);
    uint8_t *rgb = size < 1 << 20 ? malloc(size) : NULL;
    for (int i = 0; rgb && i < count && i < 4 && !ds_npz_pictures_next(p, rgb, &err); i++)
        ;
    free(rgb);
    ds_npz_pictures_close(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const char *const members[] = {"sigma.npy", "mu.npy", "diffscaler.npy", "mu_s.npy"};
    ds_npz_stats s;
    ds_error err;
    if (n < 1)
        return 0;
    if (data[0] & 4)
        write_file(data + 1, n - 1);
    else
        write_member(data[0] & 8 ? "arr_0.npy" : members[data[0] & 3], data + 1, n - 1);
    check_pictures();
    if (!ds_npz_read_stats(path, &s, &err)) {
        check(s.mu, s.sigma, s.dim);
        if (s.mu_s)
            check(s.mu_s, s.sigma_s, s.dim_s);
        ds_npz_stats_release(&s);
    } else
        DS_ASSERT(!s.mu && *err.message);
    return 0;
}
