/* engine/vae/vae.c - configuration, the list of layers, loading (contract in vae.h). */
#include "base/json.h"
#include "base/mem.h"
#include "engine/vae/vae_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX_GIB = 4, CHANNELS_MAX = 4096, LAYERS_MAX = 15 };

/* ---------------------------------------------------------------- configuration */

static int check_config(const ds_vae_config *c, const char *file, ds_error *err) {
    const struct {
        const char *name;
        int value, most;
    } fields[] = {{"in_channels", c->in_channels, 64},
                  {"out_channels", c->out_channels, 64},
                  {"latent_channels", c->latent_channels, 64},
                  {"layers_per_block", c->layers, LAYERS_MAX},
                  {"norm_num_groups", c->groups, CHANNELS_MAX},
                  {"block_out_channels (their number)", c->blocks, DS_VAE_BLOCKS_MAX}};
    for (int i = 0; i < 6; i++)
        if (fields[i].value < 1 || fields[i].value > fields[i].most)
            return ds_fail(err, DS_EINVAL, "VAE '%.200s': %s is %d, must be 1 to %d", file,
                           fields[i].name, fields[i].value, fields[i].most);
    for (int i = 0; i < c->blocks; i++)
        if (c->channels[i] < 1 || c->channels[i] > CHANNELS_MAX || c->channels[i] % c->groups)
            return ds_fail(err, DS_EINVAL,
                           "VAE '%.200s': block_out_channels[%d] is %d, must be 1 to %d and a "
                           "multiple of %d groups",
                           file, i, c->channels[i], CHANNELS_MAX, c->groups);
    if (!(c->scaling_factor > 0 && c->scaling_factor <= 1000))
        return ds_fail(err, DS_EINVAL, "VAE '%.200s': scaling_factor is %g, must be above 0", file,
                       c->scaling_factor);
    return 0;
}

int ds_vae_config_parse(ds_vae_config *c, const char *file, const char *text, ds_error *err) {
    json_t *doc, *v;
    size_t i;
    int rc = ds_json_parse(file, text, strlen(text), &doc, err);
    if (rc)
        return rc;
    *c = (ds_vae_config){0};
    const struct {
        const char *name;
        int *to;
    } fields[] = {{"in_channels", &c->in_channels},
                  {"out_channels", &c->out_channels},
                  {"latent_channels", &c->latent_channels},
                  {"layers_per_block", &c->layers},
                  {"norm_num_groups", &c->groups}};
    for (int k = 0; k < 5; k++) {
        int64_t n = ds_json_int(doc, fields[k].name, 0);
        *fields[k].to = n < 0 || n > 1 << 20 ? -1 : (int)n;
    }
    json_t *list = json_object_get(doc, "block_out_channels");
    c->blocks = json_array_size(list) > DS_VAE_BLOCKS_MAX ? -1 : (int)json_array_size(list);
    json_array_foreach(list, i, v) {
        json_int_t n = json_integer_value(v);
        if (i < DS_VAE_BLOCKS_MAX)
            c->channels[i] = n < 0 || n > 1 << 20 ? -1 : (int)n;
    }
    c->scaling_factor = ds_json_number(doc, "scaling_factor", 0.18215);
    json_decref(doc);
    return check_config(c, file, err);
}

/* ---------------------------------------------------------------- the layers */

static ds_vae_step *add(ds_vae_list *l, enum ds_vae_kind kind, int in, int out, int kernel) {
    DS_ASSERT(l->count < VAE_STEPS_MAX);
    ds_vae_step *s = &l->steps[l->count++];
    *s = (ds_vae_step){.kind = kind, .in = in, .out = out, .kernel = kernel};
    return s;
}

#define NAMED(step, ...)                                                                           \
    do {                                                                                           \
        ds_vae_step *s_ = (step);                                                                  \
        snprintf(s_->name, sizeof s_->name, __VA_ARGS__);                                          \
    } while (0)

static void add_middle(ds_vae_list *l, const char *half, int channels) {
    NAMED(add(l, VAE_RESNET, channels, channels, 3), "%s.mid_block.resnets.0", half);
    NAMED(add(l, VAE_ATTENTION, channels, channels, 1), "%s.mid_block.attentions.0", half);
    NAMED(add(l, VAE_RESNET, channels, channels, 3), "%s.mid_block.resnets.1", half);
}

static void add_encoder(ds_vae_list *l, const ds_vae_config *c) {
    int at = c->channels[0], z = 2 * c->latent_channels;
    NAMED(add(l, VAE_CONV, c->in_channels, at, 3), "encoder.conv_in");
    for (int i = 0; i < c->blocks; i++) {
        for (int j = 0; j < c->layers; j++, at = c->channels[i])
            NAMED(add(l, VAE_RESNET, at, c->channels[i], 3), "encoder.down_blocks.%d.resnets.%d", i,
                  j);
        if (i + 1 < c->blocks)
            NAMED(add(l, VAE_DOWN, at, at, 3), "encoder.down_blocks.%d.downsamplers.0.conv", i);
    }
    add_middle(l, "encoder", at);
    NAMED(add(l, VAE_OUT, at, z, 3), "encoder");
    NAMED(add(l, VAE_CONV, z, z, 1), "quant_conv");
}

static void add_decoder(ds_vae_list *l, const ds_vae_config *c) {
    int at = c->channels[c->blocks - 1], z = c->latent_channels;
    NAMED(add(l, VAE_CONV, z, z, 1), "post_quant_conv");
    NAMED(add(l, VAE_CONV, z, at, 3), "decoder.conv_in");
    add_middle(l, "decoder", at);
    for (int i = 0; i < c->blocks; i++) {
        int to = c->channels[c->blocks - 1 - i];
        for (int j = 0; j <= c->layers; j++, at = to)
            NAMED(add(l, VAE_RESNET, at, to, 3), "decoder.up_blocks.%d.resnets.%d", i, j);
        if (i + 1 < c->blocks)
            NAMED(add(l, VAE_UP, at, at, 3), "decoder.up_blocks.%d.upsamplers.0.conv", i);
    }
    NAMED(add(l, VAE_OUT, at, c->out_channels, 3), "decoder");
}

void ds_vae_make_list(ds_vae_list *l, const ds_vae_config *c, int decoder) {
    l->count = 0;
    if (decoder)
        add_decoder(l, c);
    else
        add_encoder(l, c);
}

/* The tensors of a layer: suffix of the name, where they go, sizes as "in" or "out" of the layer.
 */
typedef struct {
    const char *suffix;
    int norm; /* 1: norm[which], else conv[which] */
    int which, from_out, kernel, linear;
} piece;

/* The pieces of a step into p; returns how many. */
static int pieces_of(const ds_vae_step *s, piece p[6]) {
    static const piece resnet[] = {{"norm1", 1, 0, 0, 0, 0},
                                   {"conv1", 0, 0, 0, 3, 0},
                                   {"norm2", 1, 1, 1, 0, 0},
                                   {"conv2", 0, 1, 1, 3, 0},
                                   {"conv_shortcut", 0, 2, 0, 1, 0}};
    static const piece attention[] = {{"group_norm", 1, 0, 0, 0, 0},
                                      {"to_q", 0, 0, 0, 1, 1},
                                      {"to_k", 0, 1, 0, 1, 1},
                                      {"to_v", 0, 2, 0, 1, 1},
                                      {"to_out.0", 0, 3, 0, 1, 1}};
    static const piece ending[] = {{"conv_norm_out", 1, 0, 0, 0, 0}, {"conv_out", 0, 0, 0, 3, 0}};
    switch (s->kind) {
    case VAE_RESNET: memcpy(p, resnet, sizeof resnet); return s->in == s->out ? 4 : 5;
    case VAE_ATTENTION: memcpy(p, attention, sizeof attention); return 5;
    case VAE_OUT: memcpy(p, ending, sizeof ending); return 2;
    case VAE_CONV:
    case VAE_DOWN:
    case VAE_UP: p[0] = (piece){"", 0, 0, 0, s->kernel, 0}; return 1;
    }
    return 0;
}

enum { NAME_MAX_SIZE = 128 };

static void tensor_name(char name[NAME_MAX_SIZE], const ds_vae_step *s, const piece *p,
                        const char *what) {
    snprintf(name, NAME_MAX_SIZE, "%s%s%s.%s", s->name, p->suffix[0] ? "." : "", p->suffix, what);
}

/* Shape of a piece's weight; returns the number of dimensions. */
static int weight_shape(const ds_vae_step *s, const piece *p, int64_t shape[4]) {
    int in = p->from_out ? s->out : s->in;
    shape[0] = p->norm ? in : s->out;
    shape[1] = in;
    shape[2] = shape[3] = p->kernel;
    return p->norm ? 1 : p->linear ? 2 : 4;
}

void ds_vae_tensors(const ds_vae_config *c, ds_vae_tensor_fn *fn, void *user) {
    ds_vae_list *l = ds_xmalloc(sizeof *l);
    for (int decoder = 0; decoder < 2; decoder++) {
        ds_vae_make_list(l, c, decoder);
        for (int i = 0; i < l->count; i++) {
            piece p[6];
            int n = pieces_of(&l->steps[i], p);
            for (int k = 0; k < n; k++) {
                char name[NAME_MAX_SIZE];
                int64_t shape[4];
                int ndim = weight_shape(&l->steps[i], &p[k], shape);
                tensor_name(name, &l->steps[i], &p[k], "weight");
                fn(user, name, ndim, shape);
                tensor_name(name, &l->steps[i], &p[k], "bias");
                fn(user, name, 1, shape);
            }
        }
    }
    free(l);
}

/* ---------------------------------------------------------------- loading */

static int no_room(ds_error *err) {
    return ds_fail(err, DS_ENOMEM, "not enough device memory for the weights of the VAE");
}

static int finite_all(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return 0;
    return 1;
}

static int read_tensor(const ds_st *st, const char *name, int ndim, const int64_t *shape, float *to,
                       size_t n, ds_error *err) {
    int rc = ds_st_need_f32(st, name, ndim, shape, to, err);
    if (!rc && !finite_all(to, n))
        rc = ds_fail(err, DS_EINTEGRITY, "'%.200s': tensor '%s' has numbers that are not finite",
                     ds_st_file_name(st), name);
    ds_st_drop(st, ds_st_find(st, name)); /* packed, it is needed no longer */
    return rc;
}

static int load_norm(ds_vae *vae, const ds_st *st, ds_vae_step *s, const piece *p, ds_error *err) {
    ds_vae_norm *norm = &s->norm[p->which];
    char name[NAME_MAX_SIZE];
    int64_t shape[4];
    weight_shape(s, p, shape);
    size_t C = (size_t)shape[0];
    float *host = ds_xmalloc(2 * C * sizeof *host);
    tensor_name(name, s, p, "weight");
    int rc = read_tensor(st, name, 1, shape, host, C, err);
    tensor_name(name, s, p, "bias");
    if (!rc)
        rc = read_tensor(st, name, 1, shape, host + C, C, err);
    norm->channels = (int)C;
    if (!rc && !(norm->gamma = vae->dev->alloc(vae->dev, 2 * C * sizeof *host)))
        rc = no_room(err);
    if (!rc) {
        norm->beta = norm->gamma + C;
        vae->dev->upload(vae->dev, norm->gamma, host, 2 * C * sizeof *host);
    }
    free(host);
    return rc;
}

/* (O,I,k,k) -> (O,k,k,I), the order in which a row of pixels lies in memory. */
static void reorder(float *to, const float *from, size_t O, size_t I, size_t cells) {
    for (size_t o = 0; o < O; o++)
        for (size_t i = 0; i < I; i++)
            for (size_t k = 0; k < cells; k++)
                to[(o * cells + k) * I + i] = from[(o * I + i) * cells + k];
}

static int load_conv(ds_vae *vae, const ds_st *st, ds_vae_step *s, const piece *p, ds_error *err) {
    ds_device *dev = vae->dev;
    ds_vae_conv *conv = &s->conv[p->which];
    char name[NAME_MAX_SIZE];
    int64_t shape[4];
    int ndim = weight_shape(s, p, shape);
    size_t O = (size_t)shape[0], I = (size_t)shape[1], cells = (size_t)(p->kernel * p->kernel),
           n = O * I * cells;
    float *raw = ds_xmalloc((n + O) * sizeof *raw), *ordered = ds_xmalloc(n * sizeof *ordered),
          *device_w = NULL;
    tensor_name(name, s, p, "weight");
    int rc = read_tensor(st, name, ndim, shape, raw, n, err);
    tensor_name(name, s, p, "bias");
    if (!rc)
        rc = read_tensor(st, name, 1, shape, raw + n, O, err);
    conv->in = (int)I;
    conv->out = (int)O;
    conv->kernel = p->kernel;
    if (!rc) {
        conv->w = dev->weight_new(dev, (int)O, (int)(I * cells), 1, 0);
        conv->bias = dev->alloc(dev, O * sizeof *raw);
        device_w = dev->alloc(dev, n * sizeof *raw);
        if (!conv->w || !conv->bias || !device_w)
            rc = no_room(err);
    }
    if (!rc) {
        reorder(ordered, raw, O, I, cells);
        dev->upload(dev, conv->bias, raw + n, O * sizeof *raw);
        dev->upload(dev, device_w, ordered, n * sizeof *raw);
        dev->ops->weight_pack(dev, conv->w, device_w, NULL);
        dev->sync(dev);
    }
    if (device_w)
        dev->free(dev, device_w);
    free(raw);
    free(ordered);
    return rc;
}

static int load_list(ds_vae *vae, const ds_st *st, ds_vae_list *l, ds_error *err) {
    for (int i = 0; i < l->count; i++) {
        piece p[6];
        int n = pieces_of(&l->steps[i], p);
        for (int k = 0; k < n; k++) {
            ds_vae_step *s = &l->steps[i];
            int rc =
                p[k].norm ? load_norm(vae, st, s, &p[k], err) : load_conv(vae, st, s, &p[k], err);
            if (rc)
                return rc;
        }
    }
    return 0;
}

static void count_tensor(void *user, const char *name, int ndim, const int64_t *shape) {
    (void)name, (void)ndim, (void)shape;
    ++*(size_t *)user;
}

int ds_vae_new(ds_vae **out, ds_device *dev, const ds_st *st, int parts, ds_error *err) {
    const char *config = ds_st_meta(st, "diffscaler.vae");
    ds_vae_config cfg;
    size_t tensors = 0;
    if (!config)
        return ds_fail(err, DS_EINTEGRITY,
                       "'%.200s' is not a VAE: its metadata has no 'diffscaler.vae'",
                       ds_st_file_name(st));
    int rc = ds_vae_config_parse(&cfg, ds_st_file_name(st), config, err);
    if (rc)
        return rc;
    ds_vae_tensors(&cfg, count_tensor, &tensors);
    if (ds_st_count(st) != tensors)
        return ds_fail(err, DS_EINTEGRITY,
                       "VAE '%.200s' has %zu tensors; its configuration needs %zu",
                       ds_st_file_name(st), ds_st_count(st), tensors);
    ds_vae *vae = ds_xcalloc(1, sizeof *vae);
    *vae = (ds_vae){.dev = dev, .cfg = cfg, .frame_floats = VAE_FRAME_FLOATS};
    for (int i = 0; i < cfg.blocks; i++)
        if (cfg.channels[i] > vae->affine_channels)
            vae->affine_channels = cfg.channels[i];
    if (!(vae->affine = dev->alloc(dev, 2 * (size_t)vae->affine_channels * sizeof(float))))
        rc = no_room(err);
    for (int h = 0; h < 2 && !rc; h++) {
        if (!(parts & (h ? DS_VAE_DECODER : DS_VAE_ENCODER)))
            continue;
        vae->list[h] = ds_xcalloc(1, sizeof *vae->list[h]);
        ds_vae_make_list(vae->list[h], &cfg, h);
        rc = load_list(vae, st, vae->list[h], err);
    }
    if (rc)
        ds_vae_free(vae);
    else
        *out = vae;
    return rc;
}

/* Mapped, not read: of a third of a gigabyte only the half in use comes into memory. */
int ds_vae_open(ds_vae **out, ds_device *dev, const char *path, const char *want, int parts,
                ds_error *err) {
    char sha[DS_HEX_SIZE];
    ds_st *st;
    int rc = ds_digest_file(path, sha, err);
    if (rc)
        return rc;
    if (want && strcmp(want, sha))
        return ds_fail(err, DS_EINTEGRITY,
                       "VAE file '%s' has changed: its sha256 is %s, the registered one is %s",
                       path, sha, want);
    if ((rc = ds_st_open_file(path, (size_t)FILE_MAX_GIB << 30, 1, &st, err)))
        return rc;
    if (!(rc = ds_vae_new(out, dev, st, parts, err)))
        memcpy((*out)->sha256, sha, sizeof sha);
    ds_st_free(st);
    return rc;
}

void ds_vae_free(ds_vae *vae) {
    if (!vae)
        return;
    ds_device *dev = vae->dev;
    for (int h = 0; h < 2; h++) {
        for (int i = 0; vae->list[h] && i < vae->list[h]->count; i++) {
            ds_vae_step *s = &vae->list[h]->steps[i];
            for (int k = 0; k < 4; k++) {
                dev->weight_free(dev, s->conv[k].w);
                if (s->conv[k].bias)
                    dev->free(dev, s->conv[k].bias);
            }
            for (int k = 0; k < 2; k++)
                if (s->norm[k].gamma)
                    dev->free(dev, s->norm[k].gamma);
        }
        free(vae->list[h]);
    }
    for (int b = 0; b < VAE_BUFFERS; b++)
        if (vae->buffer[b])
            dev->free(dev, vae->buffer[b]);
    if (vae->affine)
        dev->free(dev, vae->affine);
    free(vae);
}

const ds_vae_config *ds_vae_cfg(const ds_vae *vae) { return &vae->cfg; }
const char *ds_vae_sha256(const ds_vae *vae) { return vae->sha256; }

size_t ds_vae_bytes(ds_device *dev, const ds_vae_config *c, int parts, int height, int width) {
    ds_vae_list *l = ds_xcalloc(1, sizeof *l);
    size_t weights = 0, most[VAE_BUFFERS] = {0};
    for (int h = 0; h < 2; h++) {
        if (!(parts & (h ? DS_VAE_DECODER : DS_VAE_ENCODER)))
            continue;
        size_t need[VAE_BUFFERS];
        ds_vae_make_list(l, c, h);
        for (int i = 0; i < l->count; i++) {
            piece p[6];
            int n = pieces_of(&l->steps[i], p);
            for (int k = 0; k < n; k++) {
                int64_t shape[4];
                weight_shape(&l->steps[i], &p[k], shape);
                int depth = (int)shape[1] * p[k].kernel * p[k].kernel;
                weights += (size_t)shape[0] * 2 * sizeof(float);
                if (!p[k].norm)
                    weights += dev->weight_bytes(dev, (int)shape[0], depth, 1, 0);
            }
        }
        ds_vae_need(need, l, h, VAE_FRAME_FLOATS, height, width);
        for (int b = 0; b < VAE_BUFFERS; b++)
            most[b] = need[b] > most[b] ? need[b] : most[b];
    }
    free(l);
    size_t floats = 0;
    for (int b = 0; b < VAE_BUFFERS; b++)
        floats += most[b];
    return weights + floats * sizeof(float);
}
