/* tests/engine_small.h - a DiT that is small enough for tests of the whole engine, and pictures.
 *
 * The test gives IMAGES and DEPTH (enum constants) before it includes this, and fills `pixels`. */
#ifndef DS_TESTS_ENGINE_SMALL_H
#define DS_TESTS_ENGINE_SMALL_H

#include "base/rng.h"
#include "engine/trainer.h"
#include "tests/harness.h"

#include <math.h>

enum { SIDE = 8, CLASSES = 3, ONE = SIDE * SIDE * 3 };
static const ds_dit_config config = {.channels = 3,
                                     .side = SIDE,
                                     .patch = 2,
                                     .width = 32,
                                     .depth = DEPTH,
                                     .heads = 2,
                                     .mlp_ratio = 4,
                                     .classes = 4,
                                     .learn_sigma = 1,
                                     .freq_dim = 64,
                                     .pixel = 1,
                                     .train_steps = 1000,
                                     .beta_start = 1e-4,
                                     .beta_end = 2e-2};
static uint8_t pixels[IMAGES * ONE];
static int labels[IMAGES]; /* label_images */
static const ds_image_set images = {.pixels = pixels,
                                    .labels = labels,
                                    .n = IMAGES,
                                    .side = SIDE,
                                    .channels = 3,
                                    .classes = CLASSES};

static inline void label_images(void) {
    for (int i = 0; i < IMAGES; i++)
        labels[i] = i % CLASSES;
}

/* A base whose every tensor is non-zero (a fresh one has zero modulations and outputs). */
static inline ds_base *base_without_zeros(void) {
    ds_base *b;
    ck_assert_int_eq(ds_base_new(&b, &config, 3, NULL), 0);
    for (int i = 1; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i];
        float *x = b->data + p->offset;
        ds_rng_normal(x, p->count, 5, DS_STREAM_TEST, (uint32_t)i, 0);
        for (size_t j = 0; j < p->count; j++)
            x[j] *= p->ndim > 1 ? 1.0f / sqrtf((float)p->count / (float)p->shape[0]) : 0.1f;
    }
    return b;
}

#endif
