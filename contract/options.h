/* contract/options.h - the options of a training as a table, and the words and ranges in it.
 *
 * The rows stand in contract/options.def, which says what is made from them.  Here is what rows
 * share with each other and with other commands (dsctl sample, diffscaler-worker plan), so that
 * nothing is accepted at one place and refused at the next.
 *
 * Constants only.  Thread: any.
 */
#ifndef DS_CONTRACT_OPTIONS_H
#define DS_CONTRACT_OPTIONS_H

#include "contract/methods.h"

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* Ranges, "least, most". */
#define DS_RANGE_RANK 1, 64
#define DS_RANGE_STEPS 1, 1e8
#define DS_RANGE_BATCH 1, 65536
#define DS_RANGE_LR 1e-9, 1
#define DS_RANGE_WARMUP 0, 1e6
#define DS_RANGE_WEIGHT_DECAY 0, 1
#define DS_RANGE_EMA 0, 0.999999
#define DS_RANGE_LABEL_DROPOUT 0, 1
#define DS_RANGE_SEED 0, 9e15 /* whole numbers that a double holds */
#define DS_RANGE_FOCUS 0, 10
#define DS_RANGE_FOCUS_MEAN -10, 10
#define DS_RANGE_SAMPLE_STEPS 1, 1000
#define DS_RANGE_GUIDANCE 0, 100
#define DS_RANGE_GUIDANCE_LOW 0, 1
#define DS_RANGE_TRAINED_GUIDANCE 0, 10
#define DS_RANGE_NEIGHBOURS 0, 50
#define DS_RANGE_PROBE_N 1, 64
#define DS_RANGE_THREADS 0, 1024 /* 0: as many as it may use */

/* Words, in the order in which a person sees them: W(value, word).  The values are those of
 * engine/model/adapter.h, engine/model/arch.h, engine/diffusion/sampler.h, worker/job/spec.h and
 * kernels/device.h; who wants the words only does not need them. */
#define DS_METHODS(W) DS_PRESETS(DS_PRESET_WORD, W) /* contract/methods.h */
#define DS_PRESET_WORD(W, value, word, ...) W(value, word)
#define DS_SIDES(W) W(0, "out") W(1, "in")
#define DS_PHIS(W) W(0, "identity") W(1, "relu")
#define DS_TARGETS(W)                                                                              \
    W(DS_TARGET_Q, "q")                                                                            \
    W(DS_TARGET_K, "k")                                                                            \
    W(DS_TARGET_V, "v")                                                                            \
    W(DS_TARGET_PROJ, "proj")                                                                      \
    W(DS_TARGET_FC1, "fc1")                                                                        \
    W(DS_TARGET_FC2, "fc2")                                                                        \
    W(DS_TARGET_ADALN, "adaln")                                                                    \
    W(DS_TARGET_FINAL, "final")
#define DS_SAMPLERS(W)                                                                             \
    W(DS_SAMPLER_DPMPP2M, "dpmpp2m")                                                               \
    W(DS_SAMPLER_DDIM, "ddim")                                                                     \
    W(DS_SAMPLER_DDPM, "ddpm")                                                                     \
    W(DS_SAMPLER_EULER, "euler")                                                                   \
    W(DS_SAMPLER_HEUN, "heun")                                                                     \
    W(DS_SAMPLER_SDE, "sde")
/* .. those of a base that predicts noise, and a velocity. */
#define DS_SAMPLERS_NOISE "dpmpp2m|ddim|ddpm"
#define DS_SAMPLERS_VELOCITY "dpmpp2m|euler|heun|sde"
/* What an imported base predicts (engine/diffusion/objective.h). */
#define DS_OBJECTIVES                                                                              \
    "eps|data-noise|noise-data|data-noise-gvp|noise-data-gvp|data-noise-1000|noise-data-1000|"     \
    "data-noise-gvp-1000|noise-data-gvp-1000|x0"
#define DS_GUIDANCES(W)                                                                            \
    W(DS_GUIDANCE_CFG, "cfg") W(DS_GUIDANCE_DOMAIN, "domain") W(DS_GUIDANCE_NONE, "none")
#define DS_VERIFIES(W) W(DS_VERIFY_AUTO, "auto") W(DS_VERIFY_FULL, "full")
#define DS_PRECISIONS(W)                                                                           \
    W(DS_PRECISION_BF16, "bf16") W(DS_PRECISION_F32, "f32") W(DS_PRECISION_TF32, "tf32")

/* Guidance of a training where no option says one.  0: guidance and guidance_mode, 1:
 * guidance_domain and guidance_class; their defaults stand in options.def. */
#define DS_GUIDANCE_BY_WEIGHTS 0

/* Of a training with patience or max_time: the step from which its rate falls if nothing lets it
 * fall before (engine/diffusion/train_options.h). */
#define DS_FALL_BEGINS(steps) ((steps) - (steps) / 5)

/* "a|b|c" of such a list, as a constant. */
#define DS_BAR_WORD(value, word) "|" word
#define DS_WORDS(list) (&(list(DS_BAR_WORD))[1])
/* [value] = "word", for an array of names. */
#define DS_WORD_AT(value, word) [value] = word,

/* Members of a struct with a section's values: SECTION is one of options.def's macros.
 *     #define TRAIN(...) DS_OPTION_MEMBER(__VA_ARGS__)
 *     #include "contract/options.def" */
#define DS_OPTION_C_INT int
#define DS_OPTION_C_SEED uint64_t
#define DS_OPTION_C_NUM double
#define DS_OPTION_C_BOOL int
#define DS_OPTION_C_ENUM int
#define DS_OPTION_C_LIST unsigned
#define DS_OPTION_C_DEVICE const char *
#define DS_OPTION_MEMBER(name, flag, key, member, type, ...) DS_OPTION_C_##type member;

enum ds_option_type {
    DS_OPTION_INT,
    DS_OPTION_SEED,
    DS_OPTION_NUM,
    DS_OPTION_BOOL,
    DS_OPTION_ENUM,
    DS_OPTION_LIST,
    DS_OPTION_DEVICE /* a word of base/limits.h */
};

/* A row of options.def. */
typedef struct {
    const char *name, *flag;   /* in "options" of the API; of dsctl add-dataset */
    const char *section, *key; /* in spec.json */
    enum ds_option_type type;
    double least, most;    /* INT, SEED, NUM */
    const char *words;     /* ENUM, LIST: "a|b|c" */
    const char *otherwise; /* the default as text; NULL: computed, or left out of the spec */
    const char *by;        /* how it is computed, in words; NULL: it is not */
    const char *absent;    /* what a spec without the key means; NULL: it must be there */
    const char *metavar, *help;
} ds_option;

extern const ds_option ds_option_table[]; /* ends with name NULL */
extern const size_t ds_option_count;

const ds_option *ds_option_find(const char *name); /* NULL: there is none */

/* DS_EINVAL, with name, value and range, where a number is none that the option takes. */
int ds_option_check(const char *name, double value, ds_error *err);

/* Is the sampler one of a base that predicts a velocity, or noise?  DS_EINVAL names those that
 * are. */
int ds_sampler_word_check(const char *sampler, int velocity, ds_error *err);

/* Is the word of n bytes one of "a|b|c"? */
int ds_word_in(const char *words, const char *word, size_t n);

#endif
