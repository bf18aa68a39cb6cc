/* engine/model/arch.h - an architecture: what the engine asks of a kind of network.
 *
 * A base has an arch and a configuration of it, which only the arch reads.  What everybody may know
 * of a base, whatever its kind, are its facts.  An arch names its layers and applies them; packing,
 * adapters and folding are layers.h's, which knows no arch.  dit is the one of this program;
 * docs/changing.md says how another is added.
 *
 * Thread: an arch is constant; ds_arch_register is called before any base is opened. */
#ifndef DS_ENGINE_MODEL_ARCH_H
#define DS_ENGINE_MODEL_ARCH_H

#include "base/error.h"
#include "base/json.h"
#include "engine/model/params.h"
#include "kernels/device.h"

/* ---------------------------------------------------------------- layers */

/* Adapter targets, as bits and as the names of spec.json ("q", "k", "v", "proj", ...). */
enum {
    DS_TARGET_Q = 1,
    DS_TARGET_K = 2,
    DS_TARGET_V = 4,
    DS_TARGET_PROJ = 8,
    DS_TARGET_FC1 = 16,
    DS_TARGET_FC2 = 32,
    DS_TARGET_ADALN = 64,  /* modulations: of the blocks and of the final layer */
    DS_TARGET_FINAL = 128, /* the last layer */
    DS_TARGET_PATCH = 256, /* the first one, of pictures */
    DS_TARGET_TIME = 512,  /* embedding of timesteps */
    DS_TARGET_DEFAULT = 255,
    DS_TARGET_EVERY = 1023
};
const char *ds_target_name(unsigned bit);
unsigned ds_target_bit(const char *name); /* 0: no such target */

enum ds_layer_kind { DS_LAYER_LINEAR };

/* A layer that an adapter can have: y = W x + bias, W (m,n), of `segs` equal output segments. */
typedef struct {
    enum ds_layer_kind kind;
    char name[64]; /* "blocks.0.attn.qkv" */
    int m, n, segs;
    unsigned targets; /* bit of each segment's target; qkv has three */
    int weight, bias; /* entries in the base's parameter table */
} ds_layer_shape;

/* ---------------------------------------------------------------- facts */

/* A network that predicts a velocity (flow matching, Ma et al. 2024, SiT) along a path between data
 * x and noise e: at the noise level u, 0 data and 1 noise, x_u = a x + s e.  What it says is
 * dx_u/du, or where it points to the data, the negative of that; the time that it is told is
 * u scale, or (1 - u) scale: 1 is where the velocity points.  engine/diffusion/flow.h computes it.
 */
enum ds_flow_path {
    DS_FLOW_NONE,   /* no velocity: it says the noise of DDPM's schedule */
    DS_FLOW_LINEAR, /* a = 1 - u, s = u */
    DS_FLOW_GVP,    /* a = cos(pi u / 2), s = sin(pi u / 2) */
    DS_FLOW_PATHS
};
typedef struct {
    enum ds_flow_path path;
    int to_data;  /* 1: SiT; 0: REPA, minRF */
    double scale; /* of the time: 1, 1000 */
    double shift; /* of the noise levels that are trained and sampled, towards noise; 1: none */
} ds_flow;

typedef struct {
    int channels, side;    /* a picture, or what a VAE makes of it, is (channels, side, side) .. */
    int out_channels;      /* .. and what the network says of it (out_channels, side, side) */
    int classes;           /* base classes; the unconditional ("null") row is row `classes` */
    int learn_sigma;       /* 1: it says [eps | v], 2*channels */
    int guidance_channels; /* guidance acts on the first so many channels; 0 = all */
    int pixel;             /* 1: pixel space in [-1,1]: x0 is clipped while sampling */
    int train_steps;       /* T of the noise schedule, 1000; 0 of a flow */
    double beta_start, beta_end;
    ds_flow flow;
    double latent_scale; /* latents are the VAE's times this, 0.18215; 0: pixels */
    int blocks;          /* equal parts whose activations can be computed again (net.h) */
} ds_facts;

/* Numbers of a picture, and of what the network says of it. */
static inline size_t ds_facts_in(const ds_facts *f) {
    return (size_t)f->channels * (size_t)f->side * (size_t)f->side;
}
static inline size_t ds_facts_out(const ds_facts *f) {
    return (size_t)f->out_channels * (size_t)f->side * (size_t)f->side;
}

/* ---------------------------------------------------------------- architecture */

struct ds_net;
struct ds_net_table;

/* A size that a person may choose for a new base: an int in the configuration. */
typedef struct {
    const char *option; /* "--width" */
    size_t offset;
    double low, high;
    const char *help;
} ds_arch_size;

/* What the buffers of a net depend on. */
typedef struct {
    size_t act; /* bytes of an activation */
    int batch, train, recompute;
} ds_net_size;

/* And those of a table of modulations (net.h): kept for `rows`, made for `chunk` of them at a time.
 */
typedef struct {
    const ds_device *dev;
    int rows, chunk, batch;
} ds_net_table_size;

typedef struct ds_arch {
    const char *name; /* in files */
    size_t config_size;

    /* Configuration.  read: from the JSON that write makes; the result is then completed (what may
     * be left out) and checked. */
    int (*read)(void *config, const json_t *doc, ds_error *err);
    json_t *(*write)(const void *config); /* new reference */
    void (*complete)(void *config);       /* NULL: nothing can be left out */
    int (*check)(const void *config, ds_error *err);
    void (*facts)(const void *config, ds_facts *out);
    char *(*words)(const void *config); /* its sizes, for a person; malloc'ed */
    void (*set_classes)(void *config, int classes);
    void (*set_flow)(void *config, const ds_flow *flow); /* NULL: it has none */
    void (*set_blocks)(void *config, int blocks);

    /* New bases: where a person starts from, what can be chosen (option NULL ends the list), and
     * shapes that have a name. */
    void (*fresh)(void *config);
    const ds_arch_size *sizes;
    int (*named)(void *config, const char *name, ds_error *err);

    /* Tensors, in the order of a file, of which one is the class table (DS_PARAM_TABLE), with a row
     * for each class and one for none; the layers among them; and their values before training. */
    void (*tensors)(ds_params *table, const void *config);
    int (*layer_count)(const void *config);
    ds_layer_shape (*layer)(const void *config, int i); /* without weight and bias */
    void (*init)(float *data, const ds_params *table, const void *config, uint64_t seed);

    /* Nets.  acts: the arch's description of a net's buffers, acts_size bytes on the host.  plan
     * lays them out in block and returns their bytes, a multiple of 64; block NULL: it only counts.
     * forward, backward: net_internal.h; t: table of the batch, or NULL. */
    size_t (*acts_size)(const void *config);
    size_t (*plan)(void *acts, const void *config, const ds_net_size *size, char *block);
    void (*forward)(struct ds_net *net, float *out, const float *x, const struct ds_net_table *t,
                    int B);
    void (*backward)(struct ds_net *net, const float *dout, int B);

    /* Modulations made ahead, for tables; all NULL: it has none. */
    size_t (*table_row_bytes)(const void *config);
    size_t table_acts_size;
    size_t (*table_plan)(void *acts, const void *config, const ds_net_table_size *size,
                         char *block);
    void (*table_fill)(struct ds_net_table *t, int first, int count); /* from what was given */

    /* Plans: scratch of the kernels for `rows` pictures at a time, at most; FLOP of the products of
     * one picture, in a training step of one block and in a forward pass of `parameters` numbers.
     */
    double (*workspace)(const void *config, const ds_device *dev, int rows);
    double (*block_flop)(const void *config, int full);
    double (*pass_flop)(const void *config, double parameters);
} ds_arch;

/* The architectures of this program: the first is the one of files that name none, and of new
 * bases. */
extern const ds_arch ds_dit_arch; /* dit_arch.c */

const ds_arch *ds_arch_find(const char *name); /* NULL: there is none of that name */
static inline const ds_arch *ds_arch_first(void) { return &ds_dit_arch; }
/* One more (tests); it must live as long as the program. */
void ds_arch_register(const ds_arch *arch);

#endif
