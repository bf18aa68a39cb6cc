/* engine/vae/vae_run.c - a picture through the list of layers, in strips of rows (contract in
 * vae.h).
 *
 * The same walk measures: with no vae it only notes what each buffer needs.
 *
 * A convolution of 3 x 3 takes its rows through the frame: normalised, SiLU, doubled, with a column
 * of zeros left and right and, at the edges of the picture, a row of zeros above and below.  Only
 * the frame and, where the result is added to what is there, the strip are extra memory. */
#include "base/mem.h"
#include "engine/vae/vae_internal.h"

#include <stdlib.h>
#include <string.h>

enum { STRIP_ROWS_MIN = 4 };

typedef struct {
    ds_vae *vae; /* NULL: measure */
    size_t need[VAE_BUFFERS], frame_floats;
    int height, width, channels; /* of the current map */
    int at;                      /* buffer of the current map */
} walk;

static float *buffer(walk *w, int b, size_t floats) {
    if (floats > w->need[b])
        w->need[b] = floats;
    if (!w->vae)
        return NULL;
    DS_ASSERT(floats <= w->vae->have[b]);
    return w->vae->buffer[b];
}

static size_t area(int height, int width, int channels) {
    return (size_t)height * (size_t)width * (size_t)channels;
}

/* ---------------------------------------------------------------- one convolution */

typedef struct {
    const ds_vae_conv *conv;
    const ds_vae_norm *norm; /* then SiLU; NULL: none */
    int in, out, kernel;     /* channels */
    int zoom, stride;        /* one of them may be 2 */
    int from, to;            /* buffers */
    int height, width;       /* of what it reads */
    int add;                 /* += */
} layer;

/* Output rows [r0, r1) of a 3 x 3 convolution. */
typedef struct {
    int first, last; /* input rows, doubled if zoom is 2, inside the picture */
    int above, below, left, pitch, rows;
} window;

static window window_of(const layer *l, int r0, int r1) {
    int high = l->height * l->zoom, down = l->stride == 2;
    int first = down ? 2 * r0 : r0 - 1, last = down ? 2 * r1 + 1 : r1 + 1;
    window v = {.first = first < 0 ? 0 : first, .last = last > high ? high : last};
    v.above = v.first - first;
    v.below = last - v.last;
    v.left = !down;
    v.pitch = l->width * l->zoom + 1 + v.left;
    v.rows = last - first;
    return v;
}

/* Fill the frame; where its first row is. */
static const float *fill_frame(walk *w, const layer *l, const window *v) {
    int source0 = v->first / l->zoom, source1 = (v->last + l->zoom - 1) / l->zoom;
    int skip = v->first - source0 * l->zoom, rows = (source1 - source0) * l->zoom;
    size_t line = (size_t)v->pitch * (size_t)l->in;
    float *frame = buffer(w, VAE_FRAME, (size_t)(v->above + rows + v->below) * line);
    const float *x = buffer(w, l->from, area(l->height, l->width, l->in));
    if (!w->vae)
        return NULL;
    ds_device *dev = w->vae->dev;
    float *scale = l->norm ? w->vae->affine : NULL,
          *shift = l->norm ? scale + w->vae->affine_channels : NULL;
    dev->ops->frame_forward(dev, frame + (size_t)v->above * line,
                            x + area(source0, l->width, l->in), scale, shift, l->norm != NULL,
                            l->zoom, source1 - source0, l->width, l->in, v->left, 1);
    if (v->above)
        dev->ops->fill(dev, frame, 0, (size_t)v->above * line);
    if (v->below) /* over what the doubling wrote beyond the last row, if anything */
        dev->ops->fill(dev, frame + (size_t)(v->above + v->last - source0 * l->zoom) * line, 0,
                       (size_t)v->below * line);
    return frame + (size_t)skip * line;
}

/* y (=) or (+=) conv(x) for rows that lie in memory; y has `floats` numbers. */
static void convolve(walk *w, const layer *l, float *y, const float *x, const ds_conv *geo,
                     size_t floats) {
    float *strip = l->add ? buffer(w, VAE_STRIP, floats) : NULL;
    if (!w->vae)
        return;
    ds_device *dev = w->vae->dev;
    dev->ops->conv_forward(dev, l->add ? strip : y, l->out, x, l->conv->w, l->conv->bias, 0, geo);
    if (l->add)
        dev->ops->add(dev, y, strip, floats);
}

static int strip_rows(const walk *w, const layer *l) {
    int rows = (int)(w->frame_floats / area(1, l->width * l->zoom + 2, l->in)) / l->stride;
    return rows < STRIP_ROWS_MIN ? STRIP_ROWS_MIN : rows;
}

static void run_layer(walk *w, const layer *l) {
    int out_h = l->height * l->zoom / l->stride, out_w = l->width * l->zoom / l->stride;
    int step = strip_rows(w, l);
    float *y = buffer(w, l->to, area(out_h, out_w, l->out));
    if (w->vae && l->norm)
        w->vae->dev->ops->group_norm_affine(w->vae->dev, w->vae->affine,
                                            w->vae->affine + w->vae->affine_channels,
                                            buffer(w, l->from, 0), l->norm->gamma, l->norm->beta,
                                            w->vae->cfg.groups, 1e-6f, l->height * l->width, l->in);
    for (int r0 = 0; r0 < out_h; r0 += step) {
        int r1 = r0 + step < out_h ? r0 + step : out_h;
        size_t skip = area(r0, out_w, l->out), floats = area(r1 - r0, out_w, l->out);
        float *to = y ? y + skip : NULL;
        if (l->kernel == 1) {
            const float *x = buffer(w, l->from, area(l->height, l->width, l->in));
            ds_conv geo = {1, r1 - r0, l->width, l->in, l->out, 1, 1, 1, 0, 0};
            convolve(w, l, to, x ? x + area(r0, l->width, l->in) : NULL, &geo, floats);
            continue;
        }
        window v = window_of(l, r0, r1);
        ds_conv geo = {1, v.rows, v.pitch, l->in, l->out, 3, 3, l->stride, 0, 0};
        convolve(w, l, to, fill_frame(w, l, &v), &geo, floats);
    }
}

/* ---------------------------------------------------------------- the kinds of layers */

static int other(int map, int step) { return (map + step) % VAE_MAPS; }

static layer layer_of(const walk *w, const ds_vae_conv *conv, int in, int out, int kernel) {
    return (layer){.conv = conv,
                   .in = in,
                   .out = out,
                   .kernel = kernel,
                   .zoom = 1,
                   .stride = 1,
                   .from = w->at,
                   .to = other(w->at, 1),
                   .height = w->height,
                   .width = w->width};
}

static void run_single(walk *w, const ds_vae_step *s) {
    layer l = layer_of(w, &s->conv[0], s->in, s->out, s->kernel);
    l.norm = s->kind == VAE_OUT ? &s->norm[0] : NULL;
    l.zoom = s->kind == VAE_UP ? 2 : 1;
    l.stride = s->kind == VAE_DOWN ? 2 : 1;
    run_layer(w, &l);
    w->at = l.to;
    w->height = w->height * l.zoom / l.stride;
    w->width = w->width * l.zoom / l.stride;
}

static void run_resnet(walk *w, const ds_vae_step *s) {
    int to = w->at, hidden = other(w->at, 1);
    layer first = layer_of(w, &s->conv[0], s->in, s->out, 3),
          second = layer_of(w, &s->conv[1], s->out, s->out, 3);
    first.norm = &s->norm[0];
    run_layer(w, &first);
    if (s->in != s->out) {
        layer shortcut = layer_of(w, &s->conv[2], s->in, s->out, 1);
        shortcut.to = to = other(w->at, 2);
        run_layer(w, &shortcut);
    }
    second.norm = &s->norm[1];
    second.from = hidden;
    second.to = to;
    second.add = 1;
    run_layer(w, &second);
    w->at = to;
}

/* q, k and v side by side in one map, the normalised picture and the projection in the other. */
static void run_attention(walk *w, const ds_vae_step *s) {
    int T = w->height * w->width, C = s->in;
    size_t n = (size_t)T * (size_t)C;
    float *x = buffer(w, w->at, n), *norm = buffer(w, other(w->at, 1), n),
          *q = buffer(w, other(w->at, 2), 3 * n);
    if (!w->vae)
        return;
    ds_device *dev = w->vae->dev;
    const struct ds_ops *k = dev->ops;
    float *scale = w->vae->affine, *shift = scale + w->vae->affine_channels;
    k->group_norm_affine(dev, scale, shift, x, s->norm[0].gamma, s->norm[0].beta,
                         w->vae->cfg.groups, 1e-6f, T, C);
    k->frame_forward(dev, norm, x, scale, shift, 0, 1, w->height, w->width, C, 0, 0);
    ds_conv geo = {1, w->height, w->width, C, C, 1, 1, 1, 0, 0};
    for (size_t i = 0; i < 3; i++)
        k->conv_forward(dev, q + i * n, C, norm, s->conv[i].w, s->conv[i].bias, 0, &geo);
    k->attention_wide(dev, q, q, q + n, q + 2 * n, T, C);
    k->conv_forward(dev, norm, C, q, s->conv[3].w, s->conv[3].bias, 0, &geo);
    k->add(dev, x, norm, n);
}

static void run_list(walk *w, const ds_vae_list *l) {
    for (int i = 0; i < l->count; i++) {
        const ds_vae_step *s = &l->steps[i];
        switch (s->kind) {
        case VAE_RESNET: run_resnet(w, s); break;
        case VAE_ATTENTION: run_attention(w, s); break;
        case VAE_CONV:
        case VAE_DOWN:
        case VAE_UP:
        case VAE_OUT: run_single(w, s); break;
        }
        w->channels = s->out;
    }
}

void ds_vae_need(size_t need[VAE_BUFFERS], const ds_vae_list *l, int decoder, size_t frame_floats,
                 int height, int width) {
    int downs = 0;
    for (int i = 0; i < l->count; i++)
        downs += l->steps[i].kind == (decoder ? VAE_UP : VAE_DOWN);
    walk w = {.frame_floats = frame_floats,
              .height = decoder ? height >> downs : height,
              .width = decoder ? width >> downs : width};
    buffer(&w, 0, area(w.height, w.width, l->steps[0].in));
    run_list(&w, l);
    memcpy(need, w.need, sizeof w.need);
}

/* ---------------------------------------------------------------- pictures */

static int check(const ds_vae *vae, int half, int height, int width, ds_error *err) {
    int f = ds_vae_factor(&vae->cfg);
    DS_ASSERT(vae->list[half]);
    if (height < f || width < f || height > DS_VAE_SIDE_MAX || width > DS_VAE_SIDE_MAX ||
        height % f || width % f)
        return ds_fail(err, DS_EINVAL,
                       "the VAE takes pictures of %d to %d pixels a side in steps of %d, not %dx%d",
                       f, DS_VAE_SIDE_MAX, f, width, height);
    return 0;
}

static int reserve(ds_vae *vae, int half, int height, int width, ds_error *err) {
    ds_device *dev = vae->dev;
    size_t need[VAE_BUFFERS], total = 0;
    ds_vae_need(need, vae->list[half], half, vae->frame_floats, height, width);
    for (int b = 0; b < VAE_BUFFERS; b++)
        total += need[b];
    for (int b = 0; b < VAE_BUFFERS; b++) {
        if (need[b] <= vae->have[b])
            continue;
        if (vae->buffer[b])
            dev->free(dev, vae->buffer[b]);
        vae->have[b] = 0;
        if (!(vae->buffer[b] = dev->alloc(dev, need[b] * sizeof(float))))
            return ds_fail(err, DS_ENOMEM,
                           "not enough device memory for a %dx%d picture in the VAE: its layers "
                           "need %zu MiB",
                           width, height, total * sizeof(float) >> 20);
        vae->have[b] = need[b];
    }
    return 0;
}

int ds_vae_encode(ds_vae *vae, const float *image, int height, int width, float *mean,
                  float *logvar, ds_error *err) {
    int rc = check(vae, 0, height, width, err);
    if (rc || (rc = reserve(vae, 0, height, width, err)))
        return rc;
    const int L = vae->cfg.latent_channels;
    walk w = {.vae = vae, .frame_floats = vae->frame_floats, .height = height, .width = width};
    vae->dev->upload(vae->dev, vae->buffer[0], image,
                     area(height, width, vae->cfg.in_channels) * sizeof *image);
    run_list(&w, vae->list[0]);
    size_t pixels = area(w.height, w.width, 1);
    float *z = ds_xmalloc(pixels * 2 * (size_t)L * sizeof *z);
    vae->dev->download(vae->dev, z, vae->buffer[w.at], pixels * 2 * (size_t)L * sizeof *z);
    for (size_t i = 0; i < pixels; i++)
        for (int c = 0; c < L; c++) {
            float v = z[i * 2 * (size_t)L + (size_t)(L + c)];
            mean[(size_t)c * pixels + i] = z[i * 2 * (size_t)L + (size_t)c];
            logvar[(size_t)c * pixels + i] = v < -30 ? -30 : v > 20 ? 20 : v;
        }
    free(z);
    return 0;
}

int ds_vae_encode_u8(ds_vae *vae, const uint8_t *rgb, int height, int width, float *mean,
                     float *logvar, ds_error *err) {
    int rc = check(vae, 0, height, width, err);
    if (rc)
        return rc;
    size_t n = area(height, width, vae->cfg.in_channels);
    float *image = ds_xmalloc(n * sizeof *image);
    for (size_t i = 0; i < n; i++)
        image[i] = (float)rgb[i] / 127.5f - 1.0f;
    rc = ds_vae_encode(vae, image, height, width, mean, logvar, err);
    free(image);
    return rc;
}

int ds_vae_decode(ds_vae *vae, const float *z, int h, int w, float *image, ds_error *err) {
    const int f = ds_vae_factor(&vae->cfg);
    int rc = h < 1 || w < 1 || h > DS_VAE_SIDE_MAX / f || w > DS_VAE_SIDE_MAX / f
                 ? ds_fail(err, DS_EINVAL, "the VAE takes latents of 1 to %d a side, not %dx%d",
                           DS_VAE_SIDE_MAX / f, w, h)
                 : check(vae, 1, h * f, w * f, err);
    if (rc || (rc = reserve(vae, 1, h * f, w * f, err)))
        return rc;
    const size_t L = (size_t)vae->cfg.latent_channels, pixels = area(h, w, 1);
    float *in = ds_xmalloc(pixels * L * sizeof *in);
    for (size_t c = 0; c < L; c++)
        for (size_t i = 0; i < pixels; i++)
            in[i * L + c] = z[c * pixels + i];
    vae->dev->upload(vae->dev, vae->buffer[0], in, pixels * L * sizeof *in);
    free(in);
    walk k = {.vae = vae, .frame_floats = vae->frame_floats, .height = h, .width = w};
    run_list(&k, vae->list[1]);
    vae->dev->download(vae->dev, image, vae->buffer[k.at],
                       area(k.height, k.width, vae->cfg.out_channels) * sizeof *image);
    return 0;
}

int ds_vae_decode_u8(ds_vae *vae, const float *z, int h, int w, uint8_t *rgb, ds_error *err) {
    const int f = ds_vae_factor(&vae->cfg);
    size_t n = area(h, w, vae->cfg.out_channels) * (size_t)f * (size_t)f;
    float *image = ds_xmalloc((n + 1) * sizeof *image);
    int rc = ds_vae_decode(vae, z, h, w, image, err);
    for (size_t i = 0; !rc && i < n; i++) {
        float v = 127.5f * image[i] + 128.0f;
        rgb[i] = (uint8_t)(!(v > 0) ? 0 : v > 255 ? 255 : v);
    }
    free(image);
    return rc;
}
