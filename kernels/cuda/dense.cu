/* kernels/cuda/dense.cu - double precision for statistics: host matrices go to the GPU, the result
 * comes back.
 *
 * Bytes moved: the operands and the result, once each (2,048 x 2,048 is 32 MiB, against 17 GFLOP of
 * a product and more of a decomposition).  What lies there lies there for the call only: such calls
 * are a few an evaluation, and the memory is worth more than the time.
 */
#include "kernels/cuda/dense.h"

namespace {

/* Memory of one call; what was got is given back at its end. */
struct room {
    ds_cuda *c;
    void *got[4] = {};
    int count = 0, failed = 0;

    explicit room(ds_device *dev) : c(ds_cuda_begin(dev)) {}
    room(const room &) = delete;
    ~room() {
        for (int i = 0; i < count; i++)
            ds_lib_free(c, got[i]);
    }
    double *doubles(size_t n) {
        void *p = failed ? NULL : ds_lib_alloc(c, n * sizeof(double));
        if (p)
            got[count++] = p;
        failed |= !p;
        return static_cast<double *>(p);
    }
};

size_t area(int m, int n) { return (size_t)m * (size_t)n; }

void send(ds_cuda *c, double *to, const double *from, size_t n) {
    ds_lib_upload(c, to, from, n * sizeof *to);
}

void fetch(ds_cuda *c, double *to, const double *from, size_t n) {
    ds_lib_download(c, to, from, n * sizeof *to);
}

int product(ds_device *dev, double *c, int m, int n, int k, double alpha, const double *a, int at,
            const double *b, int bt) {
    room r(dev);
    double *x = r.doubles(area(m, k)), *y = r.doubles(area(k, n)), *z = r.doubles(area(m, n));
    if (r.failed)
        return 1;
    send(r.c, x, a, area(m, k));
    send(r.c, y, b, area(k, n));
    if (ds_lib_dgemm(r.c, z, m, n, k, alpha, x, at, y, bt))
        return 1;
    fetch(r.c, c, z, area(m, n));
    return 0;
}

int gram(ds_device *dev, double *c, const double *x, int rows, int n, int of_rows) {
    room r(dev);
    int side = of_rows ? rows : n;
    double *from = r.doubles(area(rows, n)), *to = r.doubles(area(side, side));
    if (r.failed)
        return 1;
    send(r.c, from, x, area(rows, n));
    if (ds_lib_dsyrk(r.c, to, from, rows, n, of_rows))
        return 1;
    fetch(r.c, c, to, area(side, side));
    return 0;
}

/* The result is fetched only when there is one, so that a refusal leaves a and w as they were. */
int eigen(ds_device *dev, double *w, double *a, int n, int vectors) {
    room r(dev);
    double *there = r.doubles(area(n, n)), *values = r.doubles((size_t)n);
    if (r.failed)
        return 1;
    send(r.c, there, a, area(n, n));
    if (ds_lib_dsyevd(r.c, values, there, n, vectors))
        return 1;
    fetch(r.c, w, values, (size_t)n);
    if (vectors)
        fetch(r.c, a, there, area(n, n));
    return 0;
}

} // namespace

const ds_dense ds_cuda_dense = {product, gram, eigen};
