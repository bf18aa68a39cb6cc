/* kernels/ref/ref.h - what the files of the reference device share.
 *
 * The reference device is the specification in C of kernels/ops.def: slow, one thread, f32 storage,
 * sums in double, no trick.  Where ops.def offers a cheap route to a value (da from y, the softmax
 * from lse) this device takes the direct one, so that comparing the two tests the route.
 *
 * Activations are float; a weight is a row-major f32 copy of W' (m,n).
 */
#ifndef DS_KERNELS_REF_REF_H
#define DS_KERNELS_REF_REF_H

#include "base/mem.h"
#include "kernels/backends.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct ds_weight {
    int m, n;
    float *w; /* (m,n), owned */
};

static inline float *act_f32(ds_act *p) { return (float *)(void *)p; }
static inline const float *act_f32_const(const ds_act *p) { return (const float *)(const void *)p; }

/* a[0..n) . b[0..n) in double. */
static inline double dot(const float *a, const float *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* Segment of output i of an adapter's layer. */
static inline int affiner_segment(const ds_affiner *ad, int i) { return i / (ad->m / ad->segs); }

/* h (segs*r) (=) phi(V x) of one row x. */
void ds_ref_lowrank_hidden(double *h, const float *x, const ds_affiner *ad);

/* s (U h)_i for output i. */
double ds_ref_lowrank_output(const double *h, const ds_affiner *ad, int i);

/* Shape of an adapter: a broken invariant otherwise. */
void ds_ref_affiner_check(const ds_affiner *ad);

#endif
