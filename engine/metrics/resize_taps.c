#include "engine/metrics/resize_taps.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

ds_taps ds_taps_new(int in, int out) {
    double scale = (double)in / out, widen = scale < 1.0 ? 1.0 : scale;
    double support = 2.0 * widen, inverse = 1.0 / widen;
    ds_taps t = {.width = (int)ceil(support) * 2 + 1};
    t.first = ds_xcalloc((size_t)out, sizeof *t.first);
    t.count = ds_xcalloc((size_t)out, sizeof *t.count);
    t.weight = ds_xcalloc((size_t)out * (size_t)t.width, sizeof *t.weight);
    for (int i = 0; i < out; i++) {
        double centre = (i + 0.5) * scale, sum = 0.0;
        int lo = (int)(centre - support + 0.5), hi = (int)(centre + support + 0.5);
        lo = lo < 0 ? 0 : lo;
        hi = hi > in ? in : hi;
        double *w = t.weight + (size_t)i * (size_t)t.width;
        for (int k = 0; k < hi - lo; k++)
            sum += w[k] = cubic((k + lo - centre + 0.5) * inverse);
        for (int k = 0; k < hi - lo; k++)
            w[k] = sum != 0.0 ? w[k] / sum : w[k];
        t.first[i] = lo;
        t.count[i] = hi - lo;
    }
    return t;
}

void ds_taps_free(ds_taps *t) {
    free(t->first);
    free(t->count);
    free(t->weight);
}
