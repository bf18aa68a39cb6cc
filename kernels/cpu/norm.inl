/* kernels/cpu/norm.inl - adaLN and gates.  Forward by blocks of rows, backward by samples (a
 * sample's sums over its tokens run in the order of the tokens). */

enum { NORM_ROWS = 32 };

typedef struct {
    act_t *out;
    float *mean, *rstd, *dx, *dshift, *dscale, *res_out;
    const float *x, *shift, *scale, *mean_in, *rstd_in, *gate, *res_in, *dx1;
    const act_t *dout, *y;
    act_t *dy;
    float *dgate;
    float eps;
    int stride, dstride, B, T, D;
} norm_job;

static void adaln_task(void *ctx, int task, int thread) {
    (void)thread;
    const norm_job *job = ctx;
    int D = job->D, rows = job->B * job->T, t1 = imin((task + 1) * NORM_ROWS, rows);
    for (int t = task * NORM_ROWS; t < t1; t++) {
        const float *row = job->x + (size_t)t * (size_t)D;
        size_t cond = (size_t)(t / job->T) * (size_t)job->stride;
        vf sum = vzero(), square = vzero();
        for (int j = 0; j < D; j += VL)
            sum = sum + vload_n(row + j, D - j);
        float mean = vsum(sum) / (float)D;
        for (int j = 0; j < D; j += VL) {
            int n = D - j;
            vf d = vload_n(row + j, n) - vset(mean);
            if (n < VL) { /* lanes beyond the row do not count */
                float lane[VL];
                vstore(lane, d);
                d = vload_n(lane, n);
            }
            square = vfma(d, d, square);
        }
        float rstd = 1 / sqrtf(vsum(square) / (float)D + job->eps);
        for (int j = 0; j < D; j += VL) {
            int n = D - j;
            vf norm = (vload_n(row + j, n) - vset(mean)) * vset(rstd);
            vf scale = vload_n(job->scale + cond + j, n) + vset(1.0f);
            ast_n(job->out + (size_t)t * (size_t)D + j,
                  vfma(norm, scale, vload_n(job->shift + cond + j, n)), n);
        }
        if (job->mean)
            job->mean[t] = mean;
        if (job->rstd)
            job->rstd[t] = rstd;
    }
}

static void ds_cpu_adaln_forward(ds_device *dev, ds_act *out, float *mean, float *rstd,
                                 const float *x, const float *shift, const float *scale, int stride,
                                 float eps, int B, int T, int D) {
    norm_job job = {.out = acts(out),
                    .mean = mean,
                    .rstd = rstd,
                    .x = x,
                    .shift = shift,
                    .scale = scale,
                    .stride = stride,
                    .eps = eps,
                    .B = B,
                    .T = T,
                    .D = D};
    ds_team_run(ds_cpu_of(dev)->team, adaln_task, &job, ceil_div(B * T, NORM_ROWS));
}

/* With q = dout (1 + scale):  dx += rstd (q - mean(q) - norm mean(q norm)). */
static void adaln_back_row(const norm_job *job, size_t t, const float *scale, float *dshift,
                           float *dscale) {
    int D = job->D;
    const float *row = job->x + t * (size_t)D;
    const act_t *g = job->dout + t * (size_t)D;
    float *dx = job->dx + t * (size_t)D;
    vf mean = vset(job->mean_in[t]), rstd = vset(job->rstd_in[t]), sum_q = vzero(),
       sum_qn = vzero();
    for (int j = 0; j < D; j += VL) {
        int n = D - j;
        vf gj = ald_n(g + j, n), norm = (vload_n(row + j, n) - mean) * rstd;
        vf q = gj * (vload_n(scale + j, n) + vset(1.0f)); /* zero beyond the row, as g is */
        sum_q = sum_q + q;
        sum_qn = vfma(q, norm, sum_qn);
        vstore_n(dshift + j, vload_n(dshift + j, n) + gj, n);
        vstore_n(dscale + j, vfma(gj, norm, vload_n(dscale + j, n)), n);
    }
    vf q_mean = vset(vsum(sum_q) / (float)D), qn_mean = vset(vsum(sum_qn) / (float)D);
    for (int j = 0; j < D; j += VL) {
        int n = D - j;
        vf norm = (vload_n(row + j, n) - mean) * rstd;
        vf q = ald_n(g + j, n) * (vload_n(scale + j, n) + vset(1.0f));
        vf d = vfnma(norm, qn_mean, q - q_mean);
        vstore_n(dx + j, vfma(rstd, d, vload_n(dx + j, n)), n);
    }
}

static void adaln_back_task(void *ctx, int b, int thread) {
    (void)thread;
    const norm_job *job = ctx;
    float *dshift = job->dshift + (size_t)b * (size_t)job->dstride;
    float *dscale = job->dscale + (size_t)b * (size_t)job->dstride;
    memset(dshift, 0, (size_t)job->D * sizeof *dshift);
    memset(dscale, 0, (size_t)job->D * sizeof *dscale);
    for (int t = b * job->T; t < (b + 1) * job->T; t++)
        adaln_back_row(job, (size_t)t, job->scale + (size_t)b * (size_t)job->stride, dshift,
                       dscale);
}

static void ds_cpu_adaln_backward(ds_device *dev, float *dx, float *dshift, float *dscale,
                                  int dstride, const ds_act *dout, const float *x,
                                  const float *mean, const float *rstd, const float *scale,
                                  int stride, int B, int T, int D) {
    norm_job job = {.dx = dx,
                    .dshift = dshift,
                    .dscale = dscale,
                    .dstride = dstride,
                    .dout = cacts(dout),
                    .x = x,
                    .mean_in = mean,
                    .rstd_in = rstd,
                    .scale = scale,
                    .stride = stride,
                    .B = B,
                    .T = T,
                    .D = D};
    ds_team_run(ds_cpu_of(dev)->team, adaln_back_task, &job, B);
}

static void gate_task(void *ctx, int task, int thread) {
    (void)thread;
    const norm_job *job = ctx;
    int D = job->D, rows = job->B * job->T, t1 = imin((task + 1) * NORM_ROWS, rows);
    for (int t = task * NORM_ROWS; t < t1; t++) {
        const float *gate = job->gate + (size_t)(t / job->T) * (size_t)job->stride;
        for (int j = 0; j < D; j += VL) {
            int n = D - j;
            size_t at = (size_t)t * (size_t)D + (size_t)j;
            vstore_n(
                job->res_out + at,
                vfma(vload_n(gate + j, n), ald_n(job->y + at, n), vload_n(job->res_in + at, n)), n);
        }
    }
}

static void ds_cpu_gate_forward(ds_device *dev, float *res_out, const float *res_in,
                                const float *gate, int gate_stride, const ds_act *y, int B, int T,
                                int D) {
    norm_job job = {.res_out = res_out,
                    .res_in = res_in,
                    .gate = gate,
                    .stride = gate_stride,
                    .y = cacts(y),
                    .B = B,
                    .T = T,
                    .D = D};
    ds_team_run(ds_cpu_of(dev)->team, gate_task, &job, ceil_div(B * T, NORM_ROWS));
}

static void gate_back_task(void *ctx, int b, int thread) {
    (void)thread;
    const norm_job *job = ctx;
    int D = job->D;
    const float *gate = job->gate + (size_t)b * (size_t)job->stride;
    float *dgate = job->dgate + (size_t)b * (size_t)job->dstride;
    memset(dgate, 0, (size_t)D * sizeof *dgate);
    for (int t = b * job->T; t < (b + 1) * job->T; t++)
        for (int j = 0; j < D; j += VL) {
            int n = D - j;
            size_t at = (size_t)t * (size_t)D + (size_t)j;
            vf d = vload_n(job->dx1 + at, n);
            vstore_n(dgate + j, vfma(d, ald_n(job->y + at, n), vload_n(dgate + j, n)), n);
            ast_n(job->dy + at, d * vload_n(gate + j, n), n);
        }
}

static void ds_cpu_gate_backward(ds_device *dev, ds_act *dy, float *dgate, int dstride,
                                 const float *dx1, const ds_act *y, const float *gate, int stride,
                                 int B, int T, int D) {
    norm_job job = {.dy = acts(dy),
                    .dgate = dgate,
                    .dstride = dstride,
                    .dx1 = dx1,
                    .y = cacts(y),
                    .gate = gate,
                    .stride = stride,
                    .B = B,
                    .T = T,
                    .D = D};
    ds_team_run(ds_cpu_of(dev)->team, gate_back_task, &job, B);
}
