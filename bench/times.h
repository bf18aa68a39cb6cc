/* bench/times.h - the median of what was timed. */
#ifndef DS_BENCH_TIMES_H
#define DS_BENCH_TIMES_H

#include <stdlib.h>

static inline int ds_rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Puts t (n > 0) in rising order, the least first, and gives its middle. */
static inline double ds_median(double *t, int n) {
    qsort(t, (size_t)n, sizeof *t, ds_rising);
    return t[n / 2];
}

#endif
