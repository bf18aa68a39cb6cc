/* kernels/cpu/feature.inl - convolution, pools and means of the feature network: f32, NHWC.
 * A convolution is a product over rows = output pixels; a block of rows is gathered (im2col) into
 * the thread's scratch just before its tiles, and a 1x1 convolution reads the picture in place. */

INLINE int out_height(const ds_conv *g) {
    return (g->height + 2 * g->pad_h - g->kernel_h) / g->stride + 1;
}
INLINE int out_width(const ds_conv *g) {
    return (g->width + 2 * g->pad_w - g->kernel_w) / g->stride + 1;
}

typedef struct {
    const float *x;
    const ds_conv *geo;
    int oh, ow;
} conv_source;

INLINE void copy_floats(float *to, const float *from, int n) {
    for (int j = 0; j < n; j += VL)
        vstore_n(to + j, vload_n(from + j, n - j), n - j);
}
INLINE void zero_floats(float *to, int n) {
    for (int j = 0; j < n; j += VL)
        vstore_n(to + j, vzero(), n - j);
}

/* One output pixel's row: kernel_h runs of kernel_w * in_channels neighbours, zero outside. */
static void gather_pixel(float *to, const conv_source *src, int b, int oy, int ox) {
    const ds_conv *g = src->geo;
    int C = g->in_channels, x0 = ox * g->stride - g->pad_w, run = g->kernel_w * C;
    int left = x0 < 0 ? imin(-x0, g->kernel_w) : 0;
    int right = x0 + g->kernel_w > g->width ? imin(x0 + g->kernel_w - g->width, g->kernel_w) : 0;
    int inside = g->kernel_w - left - right;
    for (int ky = 0; ky < g->kernel_h; ky++, to += run) {
        int y = oy * g->stride + ky - g->pad_h;
        if (y < 0 || y >= g->height || inside <= 0) {
            zero_floats(to, run);
            continue;
        }
        size_t at =
            (((size_t)b * (size_t)g->height + (size_t)y) * (size_t)g->width + (size_t)(x0 + left)) *
            (size_t)C;
        zero_floats(to, left * C);
        copy_floats(to + left * C, src->x + at, inside * C);
        zero_floats(to + (left + inside) * C, right * C);
    }
}

static void fetch_pixels(const void *ctx, void *to, int row0, int row1) {
    const conv_source *src = ctx;
    size_t depth = (size_t)(src->geo->kernel_h * src->geo->kernel_w * src->geo->in_channels);
    int ox = row0 % src->ow, oy = row0 / src->ow % src->oh, b = row0 / src->ow / src->oh;
    float *out = to;
    for (int row = row0; row < row1; row++, out += depth) {
        gather_pixel(out, src, b, oy, ox);
        if (++ox == src->ow) {
            ox = 0;
            if (++oy == src->oh)
                oy = 0, b++;
        }
    }
}

static void epi_conv(const epilogue *e, const float *tile, int row, int nr, int col, int nc) {
    FOR_TILE(vstore_n(e->yf + at, e->relu ? vmax(u, vzero()) : u, n);)
}

static void ds_cpu_conv_forward(ds_device *dev, float *y, int y_stride, const float *x,
                                const ds_weight *w, const float *bias, int relu,
                                const ds_conv *geo) {
    conv_source src = {x, geo, out_height(geo), out_width(geo)};
    int depth = geo->kernel_h * geo->kernel_w * geo->in_channels;
    DS_ASSERT(w->m == geo->out_channels && w->n == depth && !w->pairs);
    epilogue e = {.fn = epi_conv, .bias = bias, .yf = y, .ld = (size_t)y_stride, .relu = relu};
    product_job job = {.g = {.a = (const char *)x,
                             .rs = (ptrdiff_t)depth * 4,
                             .ks = 4,
                             .b = w->fw,
                             .rows = geo->batch * src.oh * src.ow,
                             .cols = w->m,
                             .steps = depth,
                             .epi = &e},
                       .fetch_ctx = &src};
    int in_place =
        geo->kernel_h == 1 && geo->kernel_w == 1 && geo->stride == 1 && !geo->pad_h && !geo->pad_w;
    if (!in_place)
        job.fetch = fetch_pixels;
    product_run(ds_cpu_of(dev), &job);
}

/* ---------------------------------------------------------------- pools */

typedef struct {
    float *y;
    int y_stride;
    const float *x;
    int average;
    const ds_conv *geo;
    int oh, ow;
} pool_job;

static void pool_pixel(const pool_job *job, float *out, int b, int oy, int ox) {
    const ds_conv *g = job->geo;
    int C = g->in_channels, y0 = oy * g->stride - g->pad_h, x0 = ox * g->stride - g->pad_w;
    int ya = y0 < 0 ? 0 : y0, yb = imin(y0 + g->kernel_h, g->height);
    int xa = x0 < 0 ? 0 : x0, xb = imin(x0 + g->kernel_w, g->width);
    int cells = (yb - ya) * (xb - xa);
    const float *base = job->x + (size_t)b * (size_t)g->height * (size_t)g->width * (size_t)C;
    for (int c = 0; c < C; c += VL) {
        int n = C - c;
        vf acc = job->average ? vzero() : vset(-INFINITY);
        for (int y = ya; y < yb; y++)
            for (int x = xa; x < xb; x++) {
                vf in =
                    vload_n(base + ((size_t)y * (size_t)g->width + (size_t)x) * (size_t)C + c, n);
                if (job->average)
                    acc = acc + in;
                else
                    acc = vmax(acc, in);
            }
        if (job->average)
            acc = acc / vset((float)cells);
        vstore_n(out + c, acc, n);
    }
}

static void pool_task(void *ctx, int task, int thread) {
    (void)thread;
    const pool_job *job = ctx;
    int b = task / job->oh, oy = task % job->oh;
    for (int ox = 0; ox < job->ow; ox++)
        pool_pixel(job,
                   job->y + ((size_t)task * (size_t)job->ow + (size_t)ox) * (size_t)job->y_stride,
                   b, oy, ox);
}

static void ds_cpu_pool_forward(ds_device *dev, float *y, int y_stride, const float *x, int average,
                                const ds_conv *geo) {
    pool_job job = {y, y_stride, x, average, geo, out_height(geo), out_width(geo)};
    ds_team_run(ds_cpu_of(dev)->team, pool_task, &job, geo->batch * job.oh);
}

typedef struct {
    float *out;
    const float *x;
    int pixels, C;
} mean_job;

static void mean_task(void *ctx, int b, int thread) {
    (void)thread;
    const mean_job *job = ctx;
    size_t C = (size_t)job->C;
    const float *x = job->x + (size_t)b * (size_t)job->pixels * C;
    for (int c = 0; c < job->C; c += VL) {
        vdw sum = {0};
        for (int i = 0; i < job->pixels; i++)
            sum += WIDEN(vload_n(x + (size_t)i * C + c, job->C - c));
        for (int k = 0; k < imin(VL, job->C - c); k++)
            job->out[(size_t)b * C + (size_t)(c + k)] = (float)(sum[k] / job->pixels);
    }
}

static void ds_cpu_spatial_mean(ds_device *dev, float *out, const float *x, int B, int pixels,
                                int C) {
    mean_job job = {out, x, pixels, C};
    ds_team_run(ds_cpu_of(dev)->team, mean_task, &job, B);
}
