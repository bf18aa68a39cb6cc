/* tests/mirror.cc - C++ for one reason: a wrapper for every op is made from its signature. */
extern "C" {
#include "base/mem.h"
#include "tests/mirror.h"
}

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

namespace {

enum { MAX_RANGES = 512, MAX_SETS = 16 };

struct range {
    char *host;
    size_t bytes;
    char *there;      /* NULL until an op names it; host: memory of the device's own */
    int fresh, dirty; /* copied there for this op; written by it */
};

struct mirror {
    ds_device *real;
    range ranges[MAX_RANGES];
    int count, held;
    ds_affiner sets[MAX_SETS]; /* as the op sees them */
    ds_affiner_grad grad;
};

void mirror_close(ds_device *dev);

mirror *of(ds_device *dev) { return static_cast<mirror *>(dev->impl); }

/* The same place on the device. */
void *translate(mirror *m, const void *p, int written) {
    if (!p)
        return NULL;
    const char *at = static_cast<const char *>(p);
    range *r = NULL;
    for (int i = m->count - 1; i >= 0; i--) { /* at its end: an array of no elements */
        range *q = &m->ranges[i];
        if (at >= q->host && at <= q->host + q->bytes)
            r = q;
        if (r == q && at < q->host + q->bytes)
            break;
    }
    if (!r) {
        fprintf(stderr, "a test gives an op the array %p, which it did not show to the mirror\n",
                p);
        abort();
    }
    if (r->there == r->host)
        return const_cast<void *>(p);
    if (!r->there)
        r->there = static_cast<char *>(m->real->alloc(m->real, r->bytes));
    DS_ASSERT(r->there != NULL);
    if (!r->fresh)
        m->real->upload(m->real, r->there, r->host, r->bytes);
    r->fresh = 1;
    r->dirty |= written;
    return r->there + (at - r->host);
}

/* After an op: results to the host. */
void back(mirror *m) {
    if (m->held)
        return;
    for (int i = 0; i < m->count; i++) {
        range *r = &m->ranges[i];
        if (r->dirty)
            m->real->download(m->real, r->host, r->there, r->bytes);
        r->fresh = r->dirty = 0;
    }
}

/* ---------------------------------------------------------------- arguments by type */

template <class T> T there(mirror *, T x) { return x; } /* sizes, weights, the host's arrays */
float *there(mirror *m, float *p) { return static_cast<float *>(translate(m, p, 1)); }
ds_act *there(mirror *m, ds_act *p) { return static_cast<ds_act *>(translate(m, p, 1)); }
double *there(mirror *m, double *p) { return static_cast<double *>(translate(m, p, 1)); }
const double *there(mirror *m, const double *p) {
    return static_cast<double *>(translate(m, p, 0));
}
const float *there(mirror *m, const float *p) { return static_cast<float *>(translate(m, p, 0)); }
const ds_act *there(mirror *m, const ds_act *p) {
    return static_cast<ds_act *>(translate(m, p, 0));
}
const int *there(mirror *m, const int *p) { return static_cast<int *>(translate(m, p, 0)); }

void set_there(mirror *m, int i, const ds_affiner *ad) {
    DS_ASSERT(i < MAX_SETS);
    m->sets[i] = *ad;
    m->sets[i].a = there(m, ad->a);
    m->sets[i].b = there(m, ad->b);
    m->sets[i].s = there(m, ad->s);
    m->sets[i].U = there(m, ad->U);
    m->sets[i].V = there(m, ad->V);
}

const ds_affiner *there(mirror *m, const ds_affiner *ad) {
    if (!ad)
        return NULL;
    set_there(m, 0, ad);
    return m->sets;
}

const ds_affiner_grad *there(mirror *m, const ds_affiner_grad *g) {
    m->grad.da = there(m, g->da);
    m->grad.db = there(m, g->db);
    m->grad.ds = there(m, g->ds);
    m->grad.dU = there(m, g->dU);
    m->grad.dV = there(m, g->dV);
    return &m->grad;
}

template <auto Op> struct wrap;
template <class... A, void (*ds_ops::*Op)(ds_device *, A...)> struct wrap<Op> {
    static void call(ds_device *dev, A... a) {
        mirror *m = of(dev);
        (m->real->ops->*Op)(m->real, there(m, a)...);
        back(m);
    }
};

/* The one op with an array of adapters: as many as `task` names. */
void rows_forward(ds_device *dev, ds_act *y, float *yf, const ds_act *x, const float *bias,
                  const ds_affiner *sets, const int *task, int B, int T) {
    mirror *m = of(dev);
    for (int b = 0; b < B; b++)
        set_there(m, task[b], &sets[task[b]]);
    m->real->ops->affiner_rows_forward(m->real, there(m, y), there(m, yf), there(m, x),
                                       there(m, bias), m->sets, task, B, T);
    back(m);
}

/* ---------------------------------------------------------------- the device */

void *mirror_alloc(ds_device *dev, size_t bytes) {
    void *p = of(dev)->real->alloc(of(dev)->real, bytes);
    if (p) {
        ds_mirror_add(dev, p, bytes);
        of(dev)->ranges[of(dev)->count - 1].there = static_cast<char *>(p);
    }
    return p;
}

void mirror_free(ds_device *dev, void *p) {
    if (p) {
        ds_mirror_remove(dev, p);
        of(dev)->real->free(of(dev)->real, p);
    }
}

void mirror_upload(ds_device *dev, void *dst, const void *src_host, size_t bytes) {
    of(dev)->real->upload(of(dev)->real, dst, src_host, bytes);
}
void mirror_download(ds_device *dev, void *dst_host, const void *src, size_t bytes) {
    of(dev)->real->download(of(dev)->real, dst_host, src, bytes);
}
void mirror_sync(ds_device *dev) { of(dev)->real->sync(of(dev)->real); }
ds_weight *mirror_weight_new(ds_device *dev, int m, int n, int f32, int grad) {
    return of(dev)->real->weight_new(of(dev)->real, m, n, f32, grad);
}
void mirror_weight_free(ds_device *dev, ds_weight *w) {
    of(dev)->real->weight_free(of(dev)->real, w);
}
int mirror_weights_new(ds_device *dev, int m, int n, int count, ds_weight **each, ds_weight **all) {
    return of(dev)->real->weights_new(of(dev)->real, m, n, count, each, all);
}
size_t mirror_weight_bytes(ds_device *dev, int m, int n, int f32, int grad) {
    return of(dev)->real->weight_bytes(of(dev)->real, m, n, f32, grad);
}
size_t mirror_workspace_bytes(ds_device *dev) {
    return of(dev)->real->workspace_bytes(of(dev)->real);
}

void forget_range(mirror *m, int i) {
    range *r = &m->ranges[i];
    if (r->there && r->there != r->host)
        m->real->free(m->real, r->there);
    *r = m->ranges[--m->count];
}

void mirror_close(ds_device *dev) {
    mirror *m = of(dev);
    while (m->count)
        forget_range(m, m->count - 1);
    ds_device_close(m->real);
    free(m);
    free(dev);
}

} // namespace

extern "C" ds_device *ds_mirror(ds_device *real) {
    static ds_ops ops = {
#define DS_OP(op, args) wrap<&ds_ops::op>::call,
#include "kernels/ops.def"
#undef DS_OP
    };
    if (!real || real->host_memory || real->impl == NULL)
        return real;
    ops.affiner_rows_forward = rows_forward;
    mirror *m = static_cast<mirror *>(ds_xcalloc(1, sizeof *m));
    ds_device *dev = static_cast<ds_device *>(ds_xcalloc(1, sizeof *dev));
    *dev = *real;
    m->real = real;
    dev->impl = m;
    dev->ops = &ops;
    dev->alloc = mirror_alloc;
    dev->free = mirror_free;
    dev->upload = mirror_upload;
    dev->download = mirror_download;
    dev->sync = mirror_sync;
    dev->weight_new = mirror_weight_new;
    dev->weight_free = mirror_weight_free;
    dev->weight_bytes = mirror_weight_bytes;
    dev->workspace_bytes = mirror_workspace_bytes;
    dev->weights_new = real->weights_new ? mirror_weights_new : NULL;
    dev->dense = NULL;
    dev->fetch = NULL;
    dev->fetched = NULL;
    dev->free_bytes = NULL;
    dev->total_bytes = NULL;
    dev->replay = NULL;
    dev->segment_end = NULL;
    dev->forget = NULL;
    dev->close = mirror_close;
    return dev;
}

extern "C" void ds_mirror_add(ds_device *dev, const void *host, size_t bytes) {
    if (!dev || dev->close != mirror_close || !host)
        return;
    mirror *m = of(dev);
    DS_ASSERT(m->count < MAX_RANGES);
    range r = {static_cast<char *>(const_cast<void *>(host)), bytes, NULL, 0, 0};
    m->ranges[m->count++] = r;
}

extern "C" void ds_mirror_remove(ds_device *dev, const void *host) {
    if (!dev || dev->close != mirror_close)
        return;
    mirror *m = of(dev);
    for (int i = m->count - 1; i >= 0; i--)
        if (m->ranges[i].host == host) {
            forget_range(m, i);
            return;
        }
}

extern "C" void ds_mirror_clear(ds_device *dev) {
    if (!dev || dev->close != mirror_close)
        return;
    mirror *m = of(dev);
    while (m->count)
        forget_range(m, m->count - 1);
    m->held = 0;
}

extern "C" void ds_mirror_hold(ds_device *dev) {
    if (dev->close == mirror_close)
        of(dev)->held = 1;
}

extern "C" void ds_mirror_release(ds_device *dev) {
    if (dev->close != mirror_close)
        return;
    of(dev)->held = 0;
    back(of(dev));
}
