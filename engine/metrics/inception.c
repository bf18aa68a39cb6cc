#include "engine/metrics/inception.h"
#include "base/log.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define BN_EPS 1e-3
#define NODES_MAX 160

/* ---------------------------------------------------------------- the network as a table
 * A block reads map X and writes its branches side by side into map Y; then Y becomes X.  T0 and T1
 * hold what is between the convolutions of one branch.  `at` is the first channel of a branch in Y.
 * Order of the branches and paddings: torchvision InceptionA to InceptionE. */
enum kind { BLOCK, CONV, MAX_POOL, AVG_POOL, TAP };

/* What is taken out of the network, and where. */
enum tap { TAP_5D = 1, TAP_6C, TAP_SPATIAL, TAP_POOL };
enum map { X, Y, T0, T1, MAPS };

typedef struct {
    enum kind kind;
    const char *name; /* of the block, or of the convolution inside its block */
    enum map in, out;
    int at;       /* first channel in out */
    int channels; /* BLOCK: of the whole output; CONV: of this branch; TAP: which */
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

#define INCEPTION_D(name, input)                                                                   \
    {BLOCK, name, X, Y, 0, 512 + (input), 0, 0, 0, 0, 0},                                          \
        {CONV, "branch3x3_1", X, T0, 0, 192, 1, 1, 1, 0, 0},                                       \
        {CONV, "branch3x3_2", T0, Y, 0, 320, 3, 3, 2, 0, 0},                                       \
        {CONV, "branch7x7x3_1", X, T0, 0, 192, 1, 1, 1, 0, 0},                                     \
        {CONV, "branch7x7x3_2", T0, T1, 0, 192, 1, 7, 1, 0, 3},                                    \
        {CONV, "branch7x7x3_3", T1, T0, 0, 192, 7, 1, 1, 3, 0},                                    \
        {CONV, "branch7x7x3_4", T0, Y, 320, 192, 3, 3, 2, 0, 0}, {                                 \
        MAX_POOL, "", X, Y, 512, 0, 3, 3, 2, 0, 0                                                  \
    }

#define INCEPTION_E(name, pool)                                                                    \
    {BLOCK, name, X, Y, 0, 2048, 0, 0, 0, 0, 0}, {CONV, "branch1x1", X, Y, 0, 320, 1, 1, 1, 0, 0}, \
        {CONV, "branch3x3_1", X, T0, 0, 384, 1, 1, 1, 0, 0},                                       \
        {CONV, "branch3x3_2a", T0, Y, 320, 384, 1, 3, 1, 0, 1},                                    \
        {CONV, "branch3x3_2b", T0, Y, 704, 384, 3, 1, 1, 1, 0},                                    \
        {CONV, "branch3x3dbl_1", X, T0, 0, 448, 1, 1, 1, 0, 0},                                    \
        {CONV, "branch3x3dbl_2", T0, T1, 0, 384, 3, 3, 1, 1, 1},                                   \
        {CONV, "branch3x3dbl_3a", T1, Y, 1088, 384, 1, 3, 1, 0, 1},                                \
        {CONV, "branch3x3dbl_3b", T1, Y, 1472, 384, 3, 1, 1, 1, 0},                                \
        {pool, "", X, T0, 0, 0, 3, 3, 1, 1, 1}, {                                                  \
        CONV, "branch_pool", T0, Y, 1856, 192, 1, 1, 1, 0, 0                                       \
    }

#define TAP_HERE(tap)                                                                              \
    { TAP, "", Y, Y, 0, tap, 0, 0, 0, 0, 0 }

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
    TAP_HERE(TAP_5D),                         /* (288) */
    INCEPTION_B("Mixed_6a", DS_INCEPTION_5D), /* (17,17,768) */
    INCEPTION_C("Mixed_6b", 128),             /* (17,17,768) */
    INCEPTION_C("Mixed_6c", 160),             /* (17,17,768) */
    TAP_HERE(TAP_6C),                         /* (768): the trunk ends here */
    INCEPTION_C("Mixed_6d", 160),             /* (17,17,768) */
    TAP_HERE(TAP_SPATIAL),                    /* (17,17,7) of branch1x1 */
    INCEPTION_C("Mixed_6e", 192),             /* (17,17,768) */
    INCEPTION_D("Mixed_7a", DS_INCEPTION_6C), /* (8,8,1280) */
    INCEPTION_E("Mixed_7b", AVG_POOL),        /* (8,8,2048) */
    INCEPTION_E("Mixed_7c", MAX_POOL),        /* (8,8,2048) */
    TAP_HERE(TAP_POOL),                       /* (2048) */
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
    enum tap tap;   /* TAP */
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
    if (n->kind == TAP) {
        s.tap = (enum tap)n->channels;
        return s;
    }
    int c = n->kind == CONV ? n->channels : in.c;
    extent out = {out_size(in.h, n->kh, n->stride, n->ph), out_size(in.w, n->kw, n->stride, n->pw),
                  n->out == Y ? block_channels : c};
    DS_ASSERT(n->at + c <= out.c);
    at[n->out] = out;
    s.out_stride = out.c;
    return s;
}

static void make_plan(plan *p, enum ds_inception_part part, int side) {
    extent at[MAPS] = {[Y] = {side, side, 3}};
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
        if (part == DS_INCEPTION_TRUNK && s.tap == TAP_6C)
            break;
    }
}

static const step *unit_at(const plan *p, int i) {
    for (int k = 0; k < p->count; k++)
        if (p->steps[k].kind == CONV && i-- == 0)
            return &p->steps[k];
    return NULL;
}

const char *ds_inception_part_unit(enum ds_inception_part part, int i, char name[64]) {
    plan p;
    make_plan(&p, part, DS_INCEPTION_SIDE);
    const step *s = unit_at(&p, i);
    if (!s)
        return NULL;
    snprintf(name, 64, "%s", s->name);
    return name;
}

const char *ds_inception_unit(int i, char name[64]) {
    return ds_inception_part_unit(DS_INCEPTION_TRUNK, i, name);
}

void ds_inception_unit_shape(enum ds_inception_part part, int i, int64_t shape[4]) {
    plan p;
    make_plan(&p, part, DS_INCEPTION_SIDE);
    const step *s = unit_at(&p, i);
    DS_ASSERT(s);
    shape[0] = s->geo.out_channels;
    shape[1] = s->geo.in_channels;
    shape[2] = s->geo.kernel_h;
    shape[3] = s->geo.kernel_w;
}

/* ---------------------------------------------------------------- life */

struct ds_inception {
    ds_device *dev;
    enum ds_inception_part part;
    int batch_max, side;
    plan plan;
    float *maps[MAPS]; /* device: batch_max images each */
    float *means;      /* device: (batch_max, 288), (batch_max, 768), (batch_max, 2048) */
    ds_weight *fc;     /* whole network: (1008, 2048) */
    float *scores;     /* device: (batch_max, 1008) */
    float *fc_bias;    /* host */
    float *cut;     /* whole network, device: (batch_max, 17, 17, CUT), first channels of 6d .. */
    float *spatial; /* .. and host */
};

enum { SPATIAL_PIXELS = 17 * 17, CUT = 8 };
enum { MEANS = DS_INCEPTION_5D + DS_INCEPTION_6C + DS_INCEPTION_POOL };

int ds_inception_batch(const ds_device *dev) {
    return dev->host_memory ? 8 : DS_INCEPTION_BATCH_MAX;
}

static int fan_in(const ds_conv *g) { return g->kernel_h * g->kernel_w * g->in_channels; }

size_t ds_inception_part_bytes(ds_device *dev, enum ds_inception_part part, int batch_max) {
    plan p;
    make_plan(&p, part, DS_INCEPTION_SIDE);
    size_t floats = MEANS, weights = 0;
    if (part == DS_INCEPTION_FID) {
        floats += DS_INCEPTION_LOGITS + SPATIAL_PIXELS * CUT;
        weights += dev->weight_bytes(dev, DS_INCEPTION_LOGITS, DS_INCEPTION_POOL, 1, 0);
    }
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

/* One convolution on zeros: once to warm up (a device may choose its way), once for the clock. */
static int time_step(ds_device *dev, const step *s, int batch, double *seconds, ds_error *err) {
    ds_conv g = s->geo;
    size_t oh = (size_t)out_size(g.height, g.kernel_h, g.stride, g.pad_h),
           ow = (size_t)out_size(g.width, g.kernel_w, g.stride, g.pad_w),
           O = (size_t)g.out_channels, fan = (size_t)fan_in(&g), b = (size_t)batch;
    size_t in = b * (size_t)g.height * (size_t)g.width * (size_t)g.in_channels,
           out = b * oh * ow * O, total = in + out + O * fan + O;
    ds_weight *w = dev->weight_new(dev, (int)O, (int)fan, DS_WEIGHT_TF32, 0); /* as load_unit */
    float *x = dev->alloc(dev, total * sizeof *x);
    int rc = w && x ? 0 : ds_device_no_room(dev, total * sizeof *x, err, "trying a convolution");
    g.batch = batch;
    if (!rc) {
        float *y = x + in, *raw = y + out, *bias = raw + O * fan;
        dev->ops->fill(dev, x, 0, total);
        dev->ops->weight_pack(dev, w, raw, NULL);
        dev->ops->conv_forward(dev, y, (int)O, x, w, bias, 1, &g);
        dev->sync(dev);
        double begin = ds_monotonic();
        dev->ops->conv_forward(dev, y, (int)O, x, w, bias, 1, &g);
        dev->sync(dev);
        *seconds += ds_monotonic() - begin;
    }
    if (x)
        dev->free(dev, x);
    dev->weight_free(dev, w);
    return rc;
}

int ds_inception_seconds(ds_device *dev, enum ds_inception_part part, int batch, double *seconds,
                         ds_error *err) {
    plan p;
    make_plan(&p, part, DS_INCEPTION_SIDE);
    *seconds = 0;
    int rc = 0;
    for (int i = 0; !rc && i < p.count; i++)
        if (p.steps[i].kind == CONV)
            rc = time_step(dev, &p.steps[i], batch, seconds, err);
    return rc;
}

size_t ds_inception_bytes(ds_device *dev, int batch_max) {
    return ds_inception_part_bytes(dev, DS_INCEPTION_TRUNK, batch_max);
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

static int no_memory(const ds_inception *net, ds_error *err) {
    return ds_fail(err, DS_ENOMEM,
                   "not enough device memory for the feature network: it needs %zu MiB",
                   ds_inception_part_bytes(net->dev, net->part, net->batch_max) >> 20);
}

/* A packed matrix (m,n) on the device. */
static int put_matrix(ds_inception *net, ds_weight **w, enum ds_weight_kind kind, const float *host,
                      size_t m, size_t n, ds_error *err) {
    ds_device *dev = net->dev;
    *w = dev->weight_new(dev, (int)m, (int)n, (int)kind, 0);
    float *raw = dev->alloc(dev, m * n * sizeof *raw);
    if (!*w || !raw) {
        if (raw)
            dev->free(dev, raw);
        return no_memory(net, err);
    }
    dev->upload(dev, raw, host, m * n * sizeof *raw);
    dev->ops->weight_pack(dev, *w, raw, NULL);
    dev->sync(dev);
    dev->free(dev, raw);
    return 0;
}

static int load_unit(ds_inception *net, const ds_st *st, step *s, ds_error *err) {
    ds_device *dev = net->dev;
    size_t O = (size_t)s->geo.out_channels, n = (size_t)fan_in(&s->geo);
    float *scratch = ds_xmalloc((2 * O * n + 5 * O) * sizeof *scratch);
    float *raw = scratch, *folded = raw + O * n, *bias = folded + O * n, *bn = bias + O;
    int rc = fold(st, s, raw, folded, bias, bn, err);
    rc = rc ? rc : put_matrix(net, &s->w, DS_WEIGHT_TF32, folded, O, n, err);
    if (!rc) {
        s->bias = dev->alloc(dev, O * sizeof *s->bias);
        if (s->bias)
            dev->upload(dev, s->bias, bias, O * sizeof *bias);
        else
            rc = no_memory(net, err);
    }
    free(scratch);
    return rc;
}

static int all_finite(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return 0;
    return 1;
}

static int load_fc(ds_inception *net, const ds_st *st, ds_error *err) {
    int64_t shape[2] = {DS_INCEPTION_LOGITS, DS_INCEPTION_POOL};
    size_t n = (size_t)DS_INCEPTION_LOGITS * DS_INCEPTION_POOL;
    float *w = ds_xmalloc(n * sizeof *w);
    net->fc_bias = ds_xmalloc(DS_INCEPTION_LOGITS * sizeof *net->fc_bias);
    int rc = ds_st_need_f32(st, "fc.weight", 2, shape, w, err);
    rc = rc ? rc : ds_st_need_f32(st, "fc.bias", 1, shape, net->fc_bias, err);
    if (!rc && !(all_finite(w, n) && all_finite(net->fc_bias, DS_INCEPTION_LOGITS)))
        rc = ds_fail(err, DS_EINTEGRITY, "'%.200s': unit 'fc' has numbers that are not finite",
                     ds_st_file_name(st));
    rc = rc ? rc
            : put_matrix(net, &net->fc, DS_WEIGHT_F32, w, DS_INCEPTION_LOGITS, DS_INCEPTION_POOL,
                         err);
    free(w);
    return rc;
}

static int take_memory(ds_inception *net, ds_error *err) {
    ds_device *dev = net->dev;
    size_t B = (size_t)net->batch_max;
    for (int m = 0; m < MAPS; m++)
        if (!(net->maps[m] = dev->alloc(dev, net->plan.need[m] * B * sizeof *net->maps[m])))
            return no_memory(net, err);
    net->means = dev->alloc(dev, MEANS * B * sizeof *net->means);
    if (net->part == DS_INCEPTION_FID) {
        net->scores = dev->alloc(dev, DS_INCEPTION_LOGITS * B * sizeof *net->scores);
        net->cut = dev->alloc(dev, SPATIAL_PIXELS * CUT * B * sizeof *net->cut);
        net->spatial = ds_xmalloc(SPATIAL_PIXELS * CUT * B * sizeof *net->spatial);
        if (!net->scores || !net->cut)
            return no_memory(net, err);
    }
    return net->means ? 0 : no_memory(net, err);
}

/* The whole network is defined for 299 alone: its maps of 17 x 17 are part of what it gives. */
static int read_side(ds_inception *net, const ds_st *st, ds_error *err) {
    const char *text = ds_st_meta(st, DS_INCEPTION_SIDE_KEY);
    char *end = NULL;
    long side = text ? strtol(text, &end, 10) : DS_INCEPTION_SIDE;
    const int least = net->part == DS_INCEPTION_FID ? DS_INCEPTION_SIDE : DS_INCEPTION_SIDE_MIN;
    net->side = (int)side;
    if (text && (*end || side < least || side > DS_INCEPTION_SIDE))
        return ds_fail(err, DS_EINTEGRITY,
                       "'%.200s': metadata " DS_INCEPTION_SIDE_KEY " is '%.40s', a side of %d to "
                       "%d pixels is needed",
                       ds_st_file_name(st), text, least, DS_INCEPTION_SIDE);
    return 0;
}

int ds_inception_side(const ds_inception *net) { return net->side; }

static size_t pixels_of(const ds_inception *net) {
    return (size_t)net->side * (size_t)net->side * 3;
}

int ds_inception_open(ds_device *dev, enum ds_inception_part part, const ds_st *st, int batch_max,
                      ds_inception **out, ds_error *err) {
    DS_ASSERT(batch_max >= 1 && batch_max <= DS_INCEPTION_BATCH_MAX);
    ds_inception *net = ds_xcalloc(1, sizeof *net);
    net->dev = dev;
    net->part = part;
    net->batch_max = batch_max;
    int rc = read_side(net, st, err);
    if (!rc) {
        make_plan(&net->plan, part, net->side);
        rc = take_memory(net, err);
    }
    for (int i = 0; !rc && i < net->plan.count; i++)
        if (net->plan.steps[i].kind == CONV)
            rc = load_unit(net, st, &net->plan.steps[i], err);
    if (!rc && part == DS_INCEPTION_FID)
        rc = load_fc(net, st, err);
    if (rc) {
        ds_inception_free(net);
        return rc;
    }
    *out = net;
    return 0;
}

int ds_inception_new(ds_device *dev, const ds_st *st, int batch_max, ds_inception **out,
                     ds_error *err) {
    return ds_inception_open(dev, DS_INCEPTION_TRUNK, st, batch_max, out, err);
}

void ds_inception_free(ds_inception *net) {
    if (!net)
        return;
    ds_device *dev = net->dev;
    ds_device_forget(dev, net);
    for (int i = 0; i < net->plan.count; i++) {
        step *s = &net->plan.steps[i];
        dev->weight_free(dev, s->w);
        if (s->bias)
            dev->free(dev, s->bias);
    }
    for (int m = 0; m < MAPS; m++)
        if (net->maps[m])
            dev->free(dev, net->maps[m]);
    if (net->means)
        dev->free(dev, net->means);
    if (net->cut)
        dev->free(dev, net->cut);
    if (net->scores)
        dev->free(dev, net->scores);
    dev->weight_free(dev, net->fc);
    free(net->fc_bias);
    free(net->spatial);
    free(net);
}

const float *ds_inception_fc_bias(const ds_inception *net) { return net->fc_bias; }

/* ---------------------------------------------------------------- running */

/* The parts of net->means, each (batch_max, C). */
static float *means_of(const ds_inception *net, enum tap tap) {
    size_t B = (size_t)net->batch_max, skip = 0;
    skip += tap == TAP_6C || tap == TAP_POOL ? DS_INCEPTION_5D * B : 0;
    skip += tap == TAP_POOL ? DS_INCEPTION_6C * B : 0;
    return net->means + skip;
}

/* The first channels of every pixel (B*17*17, 768) -> (B*17*17, CUT): the average of one cell each,
 * of rows of cells of CUT channels. */
static void cut_spatial(ds_inception *net, const step *s, int B) {
    const int cells = s->geo.in_channels / CUT;
    DS_ASSERT(s->geo.height * s->geo.width == SPATIAL_PIXELS && cells * CUT == s->geo.in_channels);
    ds_conv geo = {B * SPATIAL_PIXELS, 1, cells, CUT, 0, 1, 1, cells, 0, 0};
    net->dev->ops->pool_forward(net->dev, net->cut, CUT, net->maps[s->in], 1, &geo);
}

/* A product is a 1 x 1 convolution of 1 x 1 pictures. */
static void run_fc(ds_inception *net, int B) {
    ds_device *dev = net->dev;
    ds_conv geo = {B, 1, 1, DS_INCEPTION_POOL, DS_INCEPTION_LOGITS, 1, 1, 1, 0, 0};
    dev->ops->conv_forward(dev, net->scores, DS_INCEPTION_LOGITS, means_of(net, TAP_POOL), net->fc,
                           NULL, 0, &geo);
}

static void run_tap(ds_inception *net, const step *s, int B, const ds_inception_out *out) {
    const ds_conv *g = &s->geo;
    int wanted = s->tap == TAP_5D   ? out->mixed_5d != NULL
                 : s->tap == TAP_6C ? out->mixed_6c != NULL
                                    : out->pool || out->logits;
    if (s->tap == TAP_SPATIAL && out->spatial)
        cut_spatial(net, s, B);
    if (s->tap == TAP_SPATIAL || !wanted)
        return;
    net->dev->ops->spatial_mean(net->dev, means_of(net, s->tap), net->maps[s->in], B,
                                g->height * g->width, g->in_channels);
    if (s->tap == TAP_POOL && out->logits)
        run_fc(net, B);
}

/* Everything between the upload and the downloads: no op here waits, and arguments depend on B and
 * on which outputs there are, so that a device may record it. */
static void run_steps(ds_inception *net, int B, const ds_inception_out *out) {
    ds_device *dev = net->dev;
    for (int i = 0; i < net->plan.count; i++) {
        const step *s = &net->plan.steps[i];
        ds_conv geo = s->geo;
        geo.batch = B;
        float *in = net->maps[s->in], *to = net->maps[s->out] + s->offset;
        switch (s->kind) {
        case CONV:
            dev->ops->conv_forward(dev, to, s->out_stride, in, s->w, s->bias, 1, &geo);
            break;
        case MAX_POOL:
        case AVG_POOL:
            dev->ops->pool_forward(dev, to, s->out_stride, in, s->kind == AVG_POOL, &geo);
            break;
        case TAP: run_tap(net, s, B, out); break;
        case BLOCK: DS_ASSERT(!"a block is not a step");
        }
    }
}

static void take_means(ds_inception *net, enum tap tap, int B, int C, float *host) {
    if (host)
        net->dev->download(net->dev, host, means_of(net, tap),
                           (size_t)B * (size_t)C * sizeof *host);
}

static void take_spatial(ds_inception *net, int B, float *host) {
    size_t rows = (size_t)B * SPATIAL_PIXELS;
    net->dev->download(net->dev, net->spatial, net->cut, rows * CUT * sizeof *host);
    for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < DS_INCEPTION_SPATIAL_CHANNELS; c++)
            host[i * DS_INCEPTION_SPATIAL_CHANNELS + c] = net->spatial[i * CUT + c];
}

void ds_inception_run(ds_inception *net, const float *const *images, int B,
                      const ds_inception_out *out) {
    DS_ASSERT(B >= 1 && B <= net->batch_max);
    DS_ASSERT(net->part == DS_INCEPTION_FID || (!out->pool && !out->spatial && !out->logits));
    ds_device *dev = net->dev;
    float *first = net->maps[net->plan.steps[0].in];
    for (int b = 0; b < B; b++)
        dev->upload(dev, first + (size_t)b * pixels_of(net), images[b],
                    pixels_of(net) * sizeof **images);
    const int wanted = (out->mixed_5d != NULL) | (out->mixed_6c != NULL) << 1 |
                       (out->pool != NULL) << 2 | (out->spatial != NULL) << 3 |
                       (out->logits != NULL) << 4;
    const ds_segment key = {.owner = net, .kind = wanted, .batch = B, .in = first};
    if (!ds_device_replay(dev, &key)) {
        run_steps(net, B, out);
        ds_device_segment_end(dev);
    }
    take_means(net, TAP_5D, B, DS_INCEPTION_5D, out->mixed_5d);
    take_means(net, TAP_6C, B, DS_INCEPTION_6C, out->mixed_6c);
    take_means(net, TAP_POOL, B, DS_INCEPTION_POOL, out->pool);
    if (out->spatial)
        take_spatial(net, B, out->spatial);
    if (out->logits)
        dev->download(dev, out->logits, net->scores,
                      (size_t)B * DS_INCEPTION_LOGITS * sizeof *out->logits);
}

void ds_inception_forward(ds_inception *net, const float *images, int B, float *mixed_5d,
                          float *mixed_6c) {
    const float *each[DS_INCEPTION_BATCH_MAX];
    DS_ASSERT(B >= 1 && B <= net->batch_max);
    for (int b = 0; b < B; b++)
        each[b] = images + (size_t)b * pixels_of(net);
    ds_inception_out out = {.mixed_5d = mixed_5d, .mixed_6c = mixed_6c};
    ds_inception_run(net, each, B, &out);
}
