/* tests/gpu/gpu_steps.c - the same short run on any device, for comparing devices and processes.
 *
 *   gpu_steps train DEVICE f32|tf32|bf16 tiny|small STEPS FILE
 *   gpu_steps sample DEVICE f32|tf32|bf16 tiny|small STEPS FILE
 *
 * train writes a line "step loss mse vb grad_norm" for each step and then the bytes of the trained
 * parameters; two processes must write the same file (cmp), two devices nearly the same losses
 * (bench/gpu/report.py).  sample makes 6 images in a batch, each alone, and the first three in
 * another order; it fails where a byte depends on that, and writes the images. */
#include "base/mem.h"
#include "base/rng.h"
#include "engine/model/dit.h"
#include "engine/diffusion/sampler.h"
#include "engine/diffusion/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLASSES = 7, IMAGES = 96, MADE = 6 };

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_model *model;
    uint8_t *pixels;
    int labels[IMAGES];
    int batch;
} world;

static _Noreturn void fail(const char *why) {
    fprintf(stderr, "gpu_steps: %s\n", why);
    exit(1);
}

static void must(int rc, const ds_error *err) {
    if (rc)
        fail(err->message);
}

/* small: the demo's base.  Its adaLN layers start at zero and would hide the blocks: every number
 * gets a little noise. */
static world world_new(const char *kind, const char *precision, int small) {
    world w = {.batch = small ? 64 : 4};
    ds_error err = {0};
    ds_device_options o = {.kind = kind};
    o.precision = !strcmp(precision, "bf16")   ? DS_PRECISION_BF16
                  : !strcmp(precision, "tf32") ? DS_PRECISION_TF32
                                               : DS_PRECISION_F32;
    ds_dit_config c = {.channels = 3,
                       .side = small ? 32 : 8,
                       .patch = small ? 4 : 2,
                       .width = small ? 192 : 32,
                       .depth = small ? 6 : 2,
                       .heads = small ? 3 : 2,
                       .mlp_ratio = 4,
                       .classes = 10,
                       .learn_sigma = 1,
                       .freq_dim = small ? 256 : 64,
                       .pixel = 1,
                       .train_steps = 1000,
                       .beta_start = 1e-4,
                       .beta_end = 2e-2};
    must(ds_device_open(&w.dev, &o, &err), &err);
    must(ds_dit_base_new(&w.base, &c, 7, &err), &err);
    for (size_t i = 0; i < w.base->table.total; i += 4) {
        uint32_t r[4];
        ds_rng_block(r, 5, DS_STREAM_TEST, 0, 0, (uint32_t)(i / 4));
        for (size_t k = 0; k < 4 && i + k < w.base->table.total; k++)
            w.base->data[i + k] += ((float)r[k] * 0x1p-32f - 0.5f) * 0.05f;
    }
    must(ds_model_new(&w.model, w.dev, w.base, &err), &err);
    size_t one = (size_t)(c.side * c.side * c.channels);
    w.pixels = ds_xmalloc(IMAGES * one);
    for (size_t i = 0; i < IMAGES; i++) {
        w.labels[i] = (int)(i % CLASSES);
        for (size_t j = 0; j < one; j++) /* a colour of the class, and noise */
            w.pixels[i * one + j] =
                (uint8_t)((i % CLASSES) * 25 + j % 3 * 20 +
                          ds_rng_u32(1, DS_STREAM_TEST, 0, i, (uint32_t)j) % 64);
    }
    return w;
}

static const ds_method_spec spec = {
    .method = DS_METHOD_AFFINER, .rank = 8, .targets = 1023, .classes = CLASSES, .seed = 1};

static ds_trainer *trainer_of(const world *w, int steps) {
    ds_trainer *t;
    ds_error err = {0};
    ds_image_set set = {.pixels = w->pixels,
                        .labels = w->labels,
                        .n = IMAGES,
                        .side = w->base->facts.side,
                        .channels = 3,
                        .classes = CLASSES};
    ds_train_options o = {.steps = steps,
                          .batch = w->batch,
                          .lr = 1e-3,
                          .warmup = 5,
                          .label_dropout = 0.1,
                          .vb_weight = 1,
                          .ema = 0.99,
                          .clip = 1,
                          .flip = 1,
                          .seed = 3};
    must(ds_trainer_new(&t, w->model, &spec, &o, &set, &err), &err);
    return t;
}

static void train(const world *w, int steps, FILE *out) {
    ds_trainer *t = trainer_of(w, steps);
    ds_error err = {0};
    for (int i = 0; i < steps; i++) {
        ds_train_report r;
        must(ds_trainer_step(t, &r, &err), &err);
        fprintf(out, "%d %.9g %.9g %.9g %.9g\n", r.step, r.loss, r.mse, r.vb, r.grad_norm);
    }
    ds_adapter *a;
    must(ds_trainer_result(t, &a, &err), &err);
    fprintf(out, "parameters\n");
    fwrite(a->data, sizeof *a->data, a->table.total, out);
    ds_adapter_free(a);
    ds_trainer_free(t);
}

/* A few steps of training first, so that the adapter does something. */
static void sample(const world *w, int steps, FILE *out) {
    size_t one = (size_t)(w->base->facts.side * w->base->facts.side * 3);
    static const int order[3] = {2, 0, 1};
    ds_trainer *t = trainer_of(w, 3);
    ds_error err = {0};
    ds_adapter *a;
    ds_net *net;
    ds_train_report r;
    for (int i = 0; i < 3; i++)
        must(ds_trainer_step(t, &r, &err), &err);
    must(ds_trainer_result(t, &a, &err), &err);
    ds_trainer_free(t);
    must(
        ds_net_new(&net, w->model, DS_NET_INFER, (const ds_adapter *const[]){a}, 1, 2 * MADE, &err),
        &err);
    ds_sample_options so = {
        .sampler = DS_SAMPLER_DDPM, .steps = steps, .guide = {1, 1.5}, .seed = 11};
    ds_sample_request q[MADE], some[3];
    float *all = ds_xmalloc(MADE * one * sizeof *all), *part = ds_xmalloc(3 * one * sizeof *part);
    for (int i = 0; i < MADE; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i, .label = i % CLASSES};
    for (int i = 0; i < 3; i++)
        some[i] = q[order[i]];
    must(ds_sample(NULL, all, net, NULL, &so, q, MADE, NULL, NULL, &err), &err);
    for (int i = 0; i < MADE; i++) {
        must(ds_sample(NULL, part, net, NULL, &so, q + i, 1, NULL, NULL, &err), &err);
        if (memcmp(part, all + (size_t)i * one, one * sizeof *part))
            fail("an image is another one when it is made alone");
    }
    must(ds_sample(NULL, part, net, NULL, &so, some, 3, NULL, NULL, &err), &err);
    for (int i = 0; i < 3; i++)
        if (memcmp(part + (size_t)i * one, all + (size_t)order[i] * one, one * sizeof *part))
            fail("an image depends on its neighbours");
    fwrite(all, sizeof *all, MADE * one, out);
    free(all);
    free(part);
    ds_net_free(net);
    ds_adapter_free(a);
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: gpu_steps train|sample DEVICE f32|tf32|bf16 tiny|small STEPS "
                        "FILE\n");
        return 2;
    }
    FILE *out = fopen(argv[6], "wb");
    int steps = (int)strtol(argv[5], NULL, 10);
    if (!out || steps < 1)
        fail("the file cannot be written, or there are no steps");
    world w = world_new(argv[2], argv[3], !strcmp(argv[4], "small"));
    (!strcmp(argv[1], "train") ? train : sample)(&w, steps, out);
    int bad = fclose(out);
    printf("gpu_steps: %s on %s, %d steps\n", argv[1], w.dev->device_class, steps);
    ds_model_free(w.model);
    ds_base_free(w.base);
    ds_device_close(w.dev);
    free(w.pixels);
    return bad != 0;
}
