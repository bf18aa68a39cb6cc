/* tests/emu/lib_dense.cc - kernels/cuda/dense.h over host memory: plain loops instead of cuBLAS and
 * cuSOLVER.  As they do, it leaves the lower triangle alone.
 *
 * Eigenvalues: Householder's reduction to a tridiagonal matrix, then implicit QR steps with
 * Wilkinson's shift (Golub & Van Loan, Matrix Computations, 8.3).
 */
#include "kernels/cuda/dense.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

int ds_lib_dgemm(ds_cuda *, double *d, int m, int n, int k, double alpha, const double *a, int at,
                 const double *b, int bt) {
    ds_emu_submit([=] {
        size_t M = (size_t)m, N = (size_t)n, K = (size_t)k;
        for (size_t i = 0; i < M; i++) {
            for (size_t j = 0; j < N; j++)
                d[i * N + j] = 0;
            for (size_t p = 0; p < K; p++)
                for (size_t j = 0; j < N; j++)
                    d[i * N + j] +=
                        alpha * a[at ? p * M + i : i * K + p] * b[bt ? j * K + p : p * N + j];
        }
    });
    return 0;
}

int ds_lib_dsyrk(ds_cuda *, double *d, const double *x, int rows, int n, int of_rows) {
    ds_emu_submit([=] {
        size_t N = (size_t)n, side = (size_t)(of_rows ? rows : n),
               sum = (size_t)(of_rows ? n : rows);
        for (size_t i = 0; i < side; i++)
            for (size_t j = i; j < side; j++) {
                double s = 0;
                for (size_t p = 0; p < sum; p++)
                    s += of_rows ? x[i * N + p] * x[j * N + p] : x[p * N + i] * x[p * N + j];
                d[i * side + j] = s;
            }
    });
    return 0;
}

namespace {

/* A symmetric matrix on its way to its eigenvalues. */
struct symmetric {
    size_t n;
    double *a; /* (n,n) full */
    double *q; /* (n,n) rows: the columns of the orthogonal matrix so far; NULL: not wanted */
    double *d, *e, *v, *p; /* (n) diagonal, beside it, scratch */

    void reflect(size_t k, double beta) { /* a = H a H, H = I - beta v v^T, v[0..k] = 0 */
        double half = 0;
        for (size_t i = k + 1; i < n; i++) {
            p[i] = 0;
            for (size_t j = k + 1; j < n; j++)
                p[i] += beta * a[i * n + j] * v[j];
            half += beta / 2 * p[i] * v[i];
        }
        for (size_t i = k + 1; i < n; i++)
            p[i] -= half * v[i];
        for (size_t i = k + 1; i < n; i++)
            for (size_t j = k + 1; j < n; j++)
                a[i * n + j] -= v[i] * p[j] + p[i] * v[j];
        if (!q)
            return;
        for (size_t i = 0; i < n; i++)
            p[i] = 0;
        for (size_t j = k + 1; j < n; j++)
            for (size_t i = 0; i < n; i++)
                p[i] += beta * v[j] * q[j * n + i];
        for (size_t j = k + 1; j < n; j++)
            for (size_t i = 0; i < n; i++)
                q[j * n + i] -= v[j] * p[i];
    }

    void reduce() {
        for (size_t k = 0; k + 1 < n; k++) {
            double square = 0, length;
            for (size_t i = k + 1; i < n; i++) {
                v[i] = a[i * n + k];
                square += v[i] * v[i];
            }
            length = v[k + 1] > 0 ? -sqrt(square) : sqrt(square);
            e[k] = length;
            v[k + 1] -= length;
            double norm = square - 2 * length * (v[k + 1] + length) + length * length;
            if (k + 2 < n && norm > 0)
                reflect(k, 2 / norm);
            else
                e[k] = a[(k + 1) * n + k];
        }
        for (size_t i = 0; i < n; i++)
            d[i] = a[i * n + i];
    }

    void turn(size_t k, double c, double s) {
        for (size_t i = 0; q && i < n; i++) {
            double x = q[k * n + i], y = q[(k + 1) * n + i];
            q[k * n + i] = c * x + s * y;
            q[(k + 1) * n + i] = c * y - s * x;
        }
    }

    void step(size_t lo, size_t hi) {
        double gap = (d[hi - 1] - d[hi]) / 2, last = e[hi - 1];
        double shift = d[hi] - last * last / (gap + copysign(hypot(gap, last), gap));
        double x = d[lo] - shift, z = e[lo];
        for (size_t k = lo; k < hi; k++) {
            double r = hypot(x, z), c = r > 0 ? x / r : 1, s = r > 0 ? z / r : 0;
            double a0 = d[k], b = e[k], a1 = d[k + 1];
            if (k > lo)
                e[k - 1] = r;
            d[k] = c * c * a0 + 2 * c * s * b + s * s * a1;
            d[k + 1] = s * s * a0 - 2 * c * s * b + c * c * a1;
            e[k] = c * s * (a1 - a0) + (c * c - s * s) * b;
            turn(k, c, s);
            if (k + 1 < hi) {
                x = e[k];
                z = s * e[k + 1];
                e[k + 1] *= c;
            }
        }
    }

    int zero(size_t i) { return fabs(e[i]) <= DBL_EPSILON / 2 * (fabs(d[i]) + fabs(d[i + 1])); }

    int diagonalise() {
        size_t left = 60 * n;
        for (size_t hi = n - 1; hi > 0;) {
            if (zero(hi - 1)) {
                hi--;
                continue;
            }
            size_t lo = hi - 1;
            while (lo > 0 && !zero(lo - 1))
                lo--;
            if (left-- == 0)
                return 1;
            step(lo, hi);
        }
        return 0;
    }
};

void solve(double *w, double *a, size_t n, int vectors, int *rc) {
    double *room = (double *)calloc(2 * n * n + 4 * n, sizeof *room);
    symmetric s = {n, room, vectors ? room + n * n : NULL, NULL, NULL, NULL, NULL};
    s.d = room + 2 * n * n;
    s.e = s.d + n;
    s.v = s.e + n;
    s.p = s.v + n;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++)
            s.a[i * n + j] = i < j ? a[i * n + j] : a[j * n + i];
        if (vectors)
            s.q[i * n + i] = 1;
    }
    s.reduce();
    *rc = s.diagonalise();
    for (size_t i = 0; i < n; i++) { /* ascending */
        size_t least = 0;
        for (size_t j = 1; j < n; j++)
            if (s.d[j] < s.d[least])
                least = j;
        w[i] = s.d[least];
        s.d[least] = INFINITY;
        for (size_t j = 0; j < n; j++)
            a[i * n + j] = vectors ? s.q[least * n + j] : NAN;
    }
    free(room);
}

} // namespace

int ds_lib_dsyevd(ds_cuda *, double *w, double *a, int n, int vectors) {
    int rc = 1;
    ds_emu_host("eigenvalues");
    ds_emu_now([&] { solve(w, a, (size_t)n, vectors, &rc); });
    return rc;
}
