#include "engine/inception.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define BN_EPS 1e-3
#define NODES_MAX 96

/* ---------------------------------------------------------------- the network as a table
 * A block reads map X and writes its branches side by side into map Y; then Y becomes X.  T0 and T1
 * hold what is between the convolutions of one branch.  `at` is the first channel of a branch in Y.
 * Order of the branches and paddings: torchvision InceptionA, InceptionB, InceptionC. */
enum kind { BLOCK, CONV, MAX_POOL, AVG_POOL, TAP };
enum map { X, Y, T0, T1, MAPS };

typedef struct {
    enum kind kind;
    const char *name; /* of the block, or of the convolution inside its block */
    enum map in, out;
    int at;       /* first channel in out */
    int channels; /* BLOCK: of the whole output; CONV: of this branch */
    int kh, kw, stride, ph, pw;
} node;

#define STEM(name, channels, k, stride, pad)                                                       \
    {BLOCK, name, X, Y, 0, channels, 0, 0, 0, 0, 0}, {                                             \
        CONV, "", X, Y, 0, channels, k, k, stride, pad, pad                                        \
    }
#define STEM_POOL(name, channels)                                                                  \
    {BLOCK, name, X, Y, 0, channels, 0, 0, 0, 0, 0}, { MAX_POOL, name, X, Y, 0, 0, 3, 3, 2, 0, 0 }

#define INCEPTION_A(name, pool)                                                                    \
    {BLOCK, name, X, Y, 0, 224 + (pool), 0, 0, 0, 0, 0},                                           \
        {CONV, "branch1x1", X, Y, 0, 64, 1, 1, 1, 0, 0},                                           \
        {CONV, "branch5x5_1", X, T0, 0, 48, 1, 1, 1, 0, 0},                                        \
        {CONV, "branch5x5_2", T0, Y, 64, 64, 5, 5, 1, 2, 2},                                       \
        {CONV, "branch3x3dbl_1", X, T0, 0, 64, 1, 1, 1, 0, 0},                                     \
        {CONV, "branch3x3dbl_2", T0, T1, 0, 96, 3, 3, 1, 1, 1},                                    \
        {CONV, "branch3x3dbl_3", T1, Y, 128, 96, 3, 3, 1, 1, 1},                                   \
        {AVG_POOL, "", X, T0, 0, 0, 3, 3, 1, 1, 1}, {                                              \
        CONV, "branch_pool", T0, Y, 224, pool, 1, 1, 1, 0, 0                                       \
    }

#define INCEPTION_B(name, input)                                                                   \
    {BLOCK, name, X, Y, 0, 480 + (input), 0, 0, 0, 0, 0},                                          \
        {CONV, "branch3x3", X, Y, 0, 384, 3, 3, 2, 0, 0},                                          \
        {CONV, "branch3x3dbl_1", X, T0, 0, 64, 1, 1, 1, 0, 0},                                     \
        {CONV, "branch3x3dbl_2", T0, T1, 0, 96, 3, 3, 1, 1, 1},                                    \
        {CONV, "branch3x3dbl_3", T1, Y, 384, 96, 3, 3, 2, 0, 0}, {                                 \
        MAX_POOL, "", X, Y, 480, 0, 3, 3, 2, 0, 0                                                  \
    }

#define INCEPTION_C(name, c)                                                                       \
    {BLOCK, name, X, Y, 0, 768, 0, 0, 0, 0, 0}, {CONV, "branch1x1", X, Y, 0, 192, 1, 1, 1, 0, 0},  \
        {CONV, "branch7x7_1", X, T0, 0, c, 1, 1, 1, 0, 0},                                         \
        {CONV, "branch7x7_2", T0, T1, 0, c, 1, 7, 1, 0, 3},                                        \
        {CONV, "branch7x7_3", T1, Y, 192, 192, 7, 1, 1, 3, 0},                                     \
        {CONV, "branch7x7dbl_1", X, T0, 0, c, 1, 1, 1, 0, 0},                                      \
        {CONV, "branch7x7dbl_2", T0, T1, 0, c, 7, 1, 1, 3, 0},                                     \
        {CONV, "branch7x7dbl_3", T1, T0, 0, c, 1, 7, 1, 0, 3},                                     \
        {CONV, "branch7x7dbl_4", T0, T1, 0, c, 7, 1, 1, 3, 0},                                     \
        {CONV, "branch7x7dbl_5", T1, Y, 384, 192, 1, 7, 1, 0, 3},                                  \
        {AVG_POOL, "", X, T0, 0, 0, 3, 3, 1, 1, 1}, {                                              \
        CONV, "branch_pool", T0, Y, 576, 192, 1, 1, 1, 0, 0                                        \
    }

#define TAP_HERE(name)                                                                             \
    { TAP, name, Y, Y, 0, 0, 0, 0, 0, 0, 0 }

static const node network[] = {
    /* output (height, width, channels) */
    STEM("Conv2d_1a_3x3", 32, 3, 2, 0),       /* (149,149,32) */
    STEM("Conv2d_2a_3x3", 32, 3, 1, 0),       /* (147,147,32) */
    STEM("Conv2d_2b_3x3", 64, 3, 1, 1),       /* (147,147,64) */
    STEM_POOL("maxpool1", 64),                /* (73,73,64) */
    STEM("Conv2d_3b_1x1", 80, 1, 1, 0),       /* (73,73,80) */
    STEM("Conv2d_4a_3x3", 192, 3, 1, 0),      /* (71,71,192) */
    STEM_POOL("maxpool2", 192),               /* (35,35,192) */
    INCEPTION_A("Mixed_5b", 32),              /* (35,35,256) */
    INCEPTION_A("Mixed_5c", 64),              /* (35,35,288) */
    INCEPTION_A("Mixed_5d", 64),              /* (35,35,288) */
    TAP_HERE("Mixed_5d"),                     /* (288) */
    INCEPTION_B("Mixed_6a", DS_INCEPTION_5D), /* (17,17,768) */
    INCEPTION_C("Mixed_6b", 128),             /* (17,17,768) */
    INCEPTION_C("Mixed_6c", 160),             /* (17,17,768) */
    TAP_HERE("Mixed_6c"),                     /* (768) */
};
#define NODES ((int)(sizeof network / sizeof *network))

/* ---------------------------------------------------------------- planning
 * One walk through the table resolves block outputs, buffers and geometry; everything else (memory,
 * loading, running) is a loop over the steps it gives. */
typedef struct {
    enum kind kind;
    char name[48];  /* of the unit: tensor names are <name>.conv.weight, <name>.bn.* */
    int in, out;    /* buffers */
    size_t offset;  /* of the output: first channel */
    int out_stride; /* channels of the output map */
    ds_conv geo;    /* of one image */
    ds_weight *w;   /* CONV */
    float *bias;    /* CONV, device memory */
} step;

typedef struct {
    step steps[NODES_MAX];
    int count;
    size_t need[MAPS]; /* floats of one image, per buffer */
} plan;

typedef struct {
    int h, w, c;
} extent;

static int out_size(int size, int kernel, int stride, int pad) {
    return (size + 2 * pad - kernel) / stride + 1;
}

static void widen(size_t *need, extent e) {
    size_t n = (size_t)e.h * (size_t)e.w * (size_t)e.c;
    *need = n > *need ? n : *need;
}

/* The step of one table row; at[] are the extents of the maps, buffer[] where they are. */
static step plan_step(const node *n, const char *block, extent at[MAPS], const int buffer[MAPS],
                      int block_channels) {
    extent in = at[n->in];
    step s = {.kind = n->kind, .in = buffer[n->in], .out = buffer[n->out], .offset = (size_t)n->at};
    snprintf(s.name, sizeof s.name, n->kind == CONV && n->name[0] ? "%s.%s" : "%s", block, n->name);
    s.geo = (ds_conv){1, in.h, in.w, in.c, n->channels, n->kh, n->kw, n->stride, n->ph, n->pw};
    if (n->kind == TAP)
        return s;
    int c = n->kind == CONV ? n->channels : in.c;
    extent out = {out_size(in.h, n->kh, n->stride, n->ph), out_size(in.w, n->kw, n->stride, n->pw),
                  n->out == Y ? block_channels : c};
    DS_ASSERT(n->at + c <= out.c);
    at[n->out] = out;
    s.out_stride = out.c;
    return s;
}

static void make_plan(plan *p) {
    extent at[MAPS] = {[Y] = {DS_INCEPTION_SIDE, DS_INCEPTION_SIDE, 3}};
    int buffer[MAPS] = {0, 1, 2, 3}, channels = 0;
    const char *block = "";
    *p = (plan){0};
    DS_ASSERT(NODES <= NODES_MAX);
    for (int i = 0; i < NODES; i++) {
        const node *n = &network[i];
        if (n->kind == BLOCK) { /* the last output is the next input */
            int b = buffer[X];
            buffer[X] = buffer[Y];
            buffer[Y] = b;
            at[X] = at[Y];
            block = n->name;
            channels = n->channels;
            continue;
        }
        step s = plan_step(n, block, at, buffer, channels);
        widen(&p->need[s.in], at[n->in]);
        widen(&p->need[s.out], at[n->out]);
        p->steps[p->count++] = s;
    }
}

const char *ds_inception_unit(int i, char name[64]) {
    plan p;
    make_plan(&p);
    for (int k = 0; k < p.count; k++)
        if (p.steps[k].kind == CONV && i-- == 0) {
            snprintf(name, 64, "%s", p.steps[k].name);
            return name;
        }
    return NULL;
}

/* ---------------------------------------------------------------- life */

struct ds_inception {
    ds_device *dev;
    int batch_max;
    plan plan;
    float *maps[MAPS]; /* device: batch_max images each */
    float *pooled;     /* device: (batch_max, 768) */
};

static int fan_in(const ds_conv *g) { return g->kernel_h * g->kernel_w * g->in_channels; }

size_t ds_inception_bytes(ds_device *dev, int batch_max) {
    plan p;
    make_plan(&p);
    size_t floats = DS_INCEPTION_6C, weights = 0;
    for (int m = 0; m < MAPS; m++)
        floats += p.need[m];
    for (int i = 0; i < p.count; i++)
        if (p.steps[i].kind == CONV) {
            const ds_conv *g = &p.steps[i].geo;
            weights += dev->weight_bytes(dev, g->out_channels, fan_in(g), 1, 0) +
                       sizeof(float) * (size_t)g->out_channels;
        }
    return floats * sizeof(float) * (size_t)batch_max + weights;
}

static int load_vector(const ds_st *st, const step *s, const char *what, float *out,
                       ds_error *err) {
    char name[80];
    snprintf(name, sizeof name, "%s.bn.%s", s->name, what);
    int64_t shape[1] = {s->geo.out_channels};
    return ds_st_need_f32(st, name, 1, shape, out, err);
}

/* W (O,I,kh,kw) and the normalisation -> folded (O,kh,kw,I) and bias (O).  Sums in double. */
static int fold(const ds_st *st, const step *s, float *raw, float *folded, float *bias, float *bn,
                ds_error *err) {
    const ds_conv *g = &s->geo;
    int O = g->out_channels, I = g->in_channels, K = g->kernel_h * g->kernel_w;
    float *gamma = bn, *beta = bn + O, *mean = bn + 2 * O, *var = bn + 3 * O;
    char name[80];
    snprintf(name, sizeof name, "%s.conv.weight", s->name);
    int64_t shape[4] = {O, I, g->kernel_h, g->kernel_w};
    int rc = ds_st_need_f32(st, name, 4, shape, raw, err);
    rc = rc ? rc : load_vector(st, s, "weight", gamma, err);
    rc = rc ? rc : load_vector(st, s, "bias", beta, err);
    rc = rc ? rc : load_vector(st, s, "running_mean", mean, err);
    rc = rc ? rc : load_vector(st, s, "running_var", var, err);
    if (rc)
        return rc;
    int finite = 1;
    for (int o = 0; o < O; o++) {
        double scale = gamma[o] / sqrt((double)var[o] + BN_EPS);
        bias[o] = (float)(beta[o] - mean[o] * scale);
        finite &= isfinite(bias[o]) && var[o] >= 0;
        for (int i = 0; i < I; i++)
            for (int k = 0; k < K; k++) {
                float v = (float)(raw[((size_t)o * (size_t)I + (size_t)i) * (size_t)K + (size_t)k] *
                                  scale);
                folded[((size_t)o * (size_t)K + (size_t)k) * (size_t)I + (size_t)i] = v;
                finite &= isfinite(v) != 0;
            }
    }
    if (!finite)
        return ds_fail(err, DS_EINTEGRITY, "'%.200s': unit '%s' has numbers that are not finite",
                       ds_st_file_name(st), s->name);
    return 0;
}

static int no_memory(ds_device *dev, int batch_max, ds_error *err) {
    return ds_fail(err, DS_ENOMEM,
                   "not enough device memory for the feature network: it needs %zu MiB",
                   ds_inception_bytes(dev, batch_max) >> 20);
}

static int load_unit(ds_device *dev, const ds_st *st, step *s, int batch_max, ds_error *err) {
    size_t O = (size_t)s->geo.out_channels, n = (size_t)fan_in(&s->geo);
    float *scratch = ds_xmalloc((2 * O * n + 5 * O) * sizeof *scratch);
    float *raw = scratch, *folded = raw + O * n, *bias = folded + O * n, *bn = bias + O;
    int rc = fold(st, s, raw, folded, bias, bn, err);
    float *device_w = NULL;
    if (!rc) {
        s->w = dev->weight_new(dev, (int)O, (int)n, 1, 0);
        s->bias = dev->alloc(dev, O * sizeof *s->bias);
        device_w = dev->alloc(dev, O * n * sizeof *device_w);
        if (!s->w || !s->bias || !device_w)
            rc = no_memory(dev, batch_max, err);
    }
    if (!rc) {
        dev->upload(dev, s->bias, bias, O * sizeof *bias);
        dev->upload(dev, device_w, folded, O * n * sizeof *folded);
        dev->ops->weight_pack(dev, s->w, device_w, NULL);
        dev->sync(dev);
    }
    if (device_w)
        dev->free(dev, device_w);
    free(scratch);
    return rc;
}

int ds_inception_new(ds_device *dev, const ds_st *st, int batch_max, ds_inception **out,
                     ds_error *err) {
    DS_ASSERT(batch_max >= 1 && batch_max <= DS_INCEPTION_BATCH_MAX);
    ds_inception *net = ds_xcalloc(1, sizeof *net);
    net->dev = dev;
    net->batch_max = batch_max;
    make_plan(&net->plan);
    int rc = 0;
    for (int m = 0; !rc && m < MAPS; m++) {
        net->maps[m] =
            dev->alloc(dev, net->plan.need[m] * (size_t)batch_max * sizeof *net->maps[m]);
        if (!net->maps[m])
            rc = no_memory(dev, batch_max, err);
    }
    net->pooled = dev->alloc(dev, DS_INCEPTION_6C * (size_t)batch_max * sizeof *net->pooled);
    if (!rc && !net->pooled)
        rc = no_memory(dev, batch_max, err);
    for (int i = 0; !rc && i < net->plan.count; i++)
        if (net->plan.steps[i].kind == CONV)
            rc = load_unit(dev, st, &net->plan.steps[i], batch_max, err);
    if (rc) {
        ds_inception_free(net);
        return rc;
    }
    *out = net;
    return 0;
}

void ds_inception_free(ds_inception *net) {
    if (!net)
        return;
    ds_device *dev = net->dev;
    for (int i = 0; i < net->plan.count; i++) {
        step *s = &net->plan.steps[i];
        dev->weight_free(dev, s->w);
        if (s->bias)
            dev->free(dev, s->bias);
    }
    for (int m = 0; m < MAPS; m++)
        if (net->maps[m])
            dev->free(dev, net->maps[m]);
    if (net->pooled)
        dev->free(dev, net->pooled);
    free(net);
}

/* ---------------------------------------------------------------- running */

static void run_tap(ds_inception *net, const step *s, int B, float *host) {
    if (!host)
        return;
    ds_device *dev = net->dev;
    int C = s->geo.in_channels;
    dev->ops->spatial_mean(dev, net->pooled, net->maps[s->in], B, s->geo.height * s->geo.width, C);
    dev->download(dev, host, net->pooled, (size_t)B * (size_t)C * sizeof *host);
}

void ds_inception_forward(ds_inception *net, const float *images, int B, float *mixed_5d,
                          float *mixed_6c) {
    DS_ASSERT(B >= 1 && B <= net->batch_max);
    ds_device *dev = net->dev;
    const plan *p = &net->plan;
    size_t pixels = (size_t)DS_INCEPTION_SIDE * DS_INCEPTION_SIDE;
    dev->upload(dev, net->maps[p->steps[0].in], images, (size_t)B * pixels * 3 * sizeof *images);
    for (int i = 0; i < p->count; i++) {
        const step *s = &p->steps[i];
        ds_conv geo = s->geo;
        geo.batch = B;
        float *in = net->maps[s->in], *out = net->maps[s->out] + s->offset;
        switch (s->kind) {
        case CONV:
            dev->ops->conv_forward(dev, out, s->out_stride, in, s->w, s->bias, 1, &geo);
            break;
        case MAX_POOL:
        case AVG_POOL:
            dev->ops->pool_forward(dev, out, s->out_stride, in, s->kind == AVG_POOL, &geo);
            break;
        case TAP:
            run_tap(net, s, B, geo.in_channels == DS_INCEPTION_5D ? mixed_5d : mixed_6c);
            break;
        case BLOCK: DS_ASSERT(!"a block is not a step");
        }
    }
}
