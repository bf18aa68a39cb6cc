/* tests/limits_walk.h - each number and word that an option of a training takes at several places:
 * dsctl's option, the daemon's member, the place in spec.json.  Two programs walk this one list
 * (test_daemon_limits.c: dsctl and daemon; test_worker_spec.c: the worker). */
#ifndef DS_TESTS_LIMITS_WALK_H
#define DS_TESTS_LIMITS_WALK_H

#include "base/limits.h"

#include <math.h>
#include <stdio.h>

typedef struct {
    const char *option;        /* of dsctl add-dataset; NULL: it has none */
    const char *member;        /* of "options" in POST /v1/datasets */
    const char *section, *key; /* of spec.json */
    int whole;
    double least, most;
} limit_case;

static const limit_case limit_cases[] = {
    {"rank", "rank", "method", "rank", 1, DS_RANGE_RANK},
    {"steps", "steps", "train", "steps", 1, DS_RANGE_STEPS},
    {"batch", "batch", "train", "batch", 1, DS_RANGE_BATCH},
    {NULL, "micro_batch", "train", "micro_batch", 1, DS_RANGE_BATCH},
    {"lr", "lr", "train", "lr", 0, DS_RANGE_LR},
    {NULL, "warmup", "train", "warmup", 1, DS_RANGE_WARMUP},
    {NULL, "clip", "train", "clip", 0, DS_RANGE_CLIP},
    {NULL, "weight_decay", "train", "weight_decay", 0, DS_RANGE_WEIGHT_DECAY},
    {NULL, "ema", "train", "ema", 0, DS_RANGE_EMA},
    {NULL, "label_dropout", "train", "label_dropout", 0, DS_RANGE_LABEL_DROPOUT},
    {"seed", "seed", "train", "seed", 1, DS_RANGE_SEED},
    {NULL, "vb_weight", "train", "vb_weight", 0, DS_RANGE_VB_WEIGHT},
    {NULL, "focus", "train", "focus", 0, DS_RANGE_FOCUS},
    {NULL, "focus_mean", "train", "focus_mean", 0, DS_RANGE_FOCUS_MEAN},
    {NULL, "checkpoint_every", "train", "checkpoint_every", 1, DS_RANGE_STEPS},
    {NULL, "heldout_every", "train", "heldout_every", 1, DS_RANGE_STEPS},
    {NULL, "heldout", "train", "heldout", 1, DS_RANGE_HELDOUT},
    {NULL, "sample_steps", "sample", "steps", 1, DS_RANGE_SAMPLE_STEPS},
    {"guidance", "guidance", "sample", "guidance", 0, DS_RANGE_GUIDANCE},
    {"n", "n", "evaluate", "n", 1, DS_RANGE_N},
    {NULL, "eval_seed", "evaluate", "seed", 1, DS_RANGE_SEED},
    {NULL, "kid_subsets", "evaluate", "kid_subsets", 1, DS_RANGE_KID_SUBSETS},
    {NULL, "kid_subset_size", "evaluate", "kid_subset_size", 1, DS_RANGE_KID_SUBSET_SIZE},
    {NULL, "probe_n", "probe", "n", 1, DS_RANGE_PROBE_N},
    {NULL, "probe_seed", "probe", "seed", 1, DS_RANGE_SEED},
    {NULL, "fd_tolerance", "gate", "fd_tolerance", 0, DS_RANGE_FD_TOLERANCE},
    {NULL, "kid_tolerance_sigmas", "gate", "kid_tolerance_sigmas", 0, DS_RANGE_KID_SIGMAS},
    {"worse-margin", "worse_margin", "gate", "worse_margin", 0, DS_RANGE_WORSE_MARGIN},
    {"worse-sigmas", "worse_sigmas", "gate", "worse_sigmas", 0, DS_RANGE_WORSE_SIGMAS},
    {"threads", "threads", "device", "threads", 1, DS_RANGE_THREADS},
};
enum { LIMIT_CASES = sizeof limit_cases / sizeof *limit_cases };

/* Both ends and their neighbours on both sides: value k of 6 as text, and whether it is allowed. */
static inline int limit_value(const limit_case *c, int k, char out[64]) {
    double end = k < 3 ? c->least : c->most, step = c->whole ? 1 : fmax(fabs(end) * 1e-6, 1e-15);
    double v = end + (k % 3 - 1) * step;
    if (c->whole)
        snprintf(out, 64, "%.0f", v);
    else
        snprintf(out, 64, "%.17g", v);
    return v >= c->least && v <= c->most;
}

/* Words: where they stand, those that are allowed, one that is not. */
typedef struct {
    const char *option, *member, *section, *key, *good, *bad;
} word_case;

static const word_case word_cases[] = {
    {"side", "side", "method", "side", "out|in", "up"},
    {"phi", "phi", "method", "phi", "identity|relu", "gelu"},
    {"sampler", "sampler", "sample", "sampler", "dpmpp2m|ddim|ddpm", "euler"},
    {"guidance-mode", "guidance_mode", "sample", "guidance_mode", "cfg|domain|none", "cgf"},
    {"verify", "verify", "gate", "verify", "auto|full", "never"},
    {"precision", "precision", "device", "precision", "bf16|f32|tf32", "f16"},
    {"device", "device", "device", "kind", "auto|cpu|ref|cuda|cuda:0|cuda:1023", "cuda:1024"},
    {"device", "device", "device", "kind", "auto", "cuda:"},
    {"device", "device", "device", "kind", "auto", "gpu"},
};
enum { WORD_CASES = sizeof word_cases / sizeof *word_cases };

#endif
