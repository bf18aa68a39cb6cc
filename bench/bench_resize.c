/* bench/bench_resize.c - how long a picture takes to become what the feature network reads.
 *
 *     build/release/bench/bench_resize [SIDE]
 *
 * Pictures of SIDE x SIDE (64) to 299 x 299 on one thread, in every mode of
 * engine/metrics/fid_net.h: the median of processor time for one of them. */
#include "base/log.h"
#include "base/mem.h"
#include "bench/times.h"
#include "engine/metrics/fid_net.h"
#include "engine/metrics/inception.h"

#include <stdio.h>

enum { TIMES = 15, PICTURES = 20, SIDE_MAX = 4096 };

static double one_mode(enum ds_fid_mode mode, float *out, const uint8_t *in, int side) {
    double t[TIMES];
    for (int i = 0; i < TIMES; i++) {
        double begin = ds_processor_time();
        for (int k = 0; k < PICTURES; k++)
            ds_fid_preprocess(mode, DS_INCEPTION_SIDE, out, in, side, side);
        t[i] = (ds_processor_time() - begin) * 1e3 / PICTURES;
    }
    return ds_median(t, TIMES);
}

int main(int argc, char **argv) {
    int side = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 64;
    if (side < 1 || side > SIDE_MAX) {
        fputs("usage: bench_resize [SIDE]\n", stderr);
        return 2;
    }
    size_t bytes = (size_t)side * (size_t)side * 3;
    uint8_t *in = ds_xmalloc(bytes);
    float *out = ds_xmalloc(DS_INCEPTION_PIXELS * sizeof *out);
    for (size_t i = 0; i < bytes; i++)
        in[i] = (uint8_t)(i * 2654435761u >> 24);
    for (int mode = 0; mode < DS_FID_MODE_COUNT; mode++)
        printf("%-15s %.3f ms\n", ds_fid_mode_name((enum ds_fid_mode)mode),
               one_mode((enum ds_fid_mode)mode, out, in, side));
    free(in);
    free(out);
    return 0;
}
