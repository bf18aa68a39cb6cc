/* tests/limits_walk.h - values on both sides of what each option of contract/options.def allows, for
 * all who read them: dsctl and daemon (test_daemon_limits.c), worker (test_worker_spec.c). */
#ifndef DS_TESTS_LIMITS_WALK_H
#define DS_TESTS_LIMITS_WALK_H

#include "base/limits.h"
#include "contract/options.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static inline int is_number(const ds_option *o) {
    return o->type == DS_OPTION_INT || o->type == DS_OPTION_SEED || o->type == DS_OPTION_NUM;
}

/* Value k of an option as JSON text, with *good: is it allowed?  0: there are no more.
 * Of a number both ends with their neighbours on both sides; of words each of them, and what is
 * none of them; of a list also an empty one. */
static inline int limit_number(const ds_option *o, int k, char out[80], int *good) {
    double end = k < 3 ? o->least : o->most,
           step = o->type != DS_OPTION_NUM ? 1 : fmax(fabs(end) * 1e-6, 1e-15),
           v = end + (k % 3 - 1) * step;
    *good = v >= o->least && v <= o->most;
    snprintf(out, 80, o->type != DS_OPTION_NUM ? "%.0f" : "%.17g", v);
    if (k == 6) { /* between two whole numbers */
        *good = o->type == DS_OPTION_NUM;
        snprintf(out, 80, "%.17g", o->least + 0.5);
    }
    return k < 7;
}

static inline int limit_word(const char *words, int k, char out[80], int *good) {
    const char *const none[] = {"", "auto|full", "autox", "outx"};
    size_t n;
    for (n = strcspn(words, "|"); k > 0 && words[n]; k--) {
        words += n + 1;
        n = strcspn(words, "|");
    }
    *good = k == 0;
    if (k == 0)
        return snprintf(out, 80, "\"%.*s\"", (int)n, words), 1;
    if (k == 1) /* one letter less */
        return snprintf(out, 80, "\"%.*s\"", n > 1 ? (int)n - 1 : 0, words), 1;
    if (k < 6)
        return snprintf(out, 80, "\"%s\"", none[k - 2]), 1;
    snprintf(out, 80, "1");
    return k == 6;
}

static inline int limit_value(const ds_option *o, int k, char out[80], int *good) {
    static const struct {
        const char *word;
        int good;
    } devices[] = {{"auto", 1},      {"cpu", 1},       {"ref", 1},   {"cuda", 1}, {"cuda:0", 1},
                   {"cuda:1023", 1}, {"cuda:1024", 0}, {"cuda:", 0}, {"gpu", 0},  {"", 0}};
    char word[80];
    switch (o->type) {
    case DS_OPTION_INT:
    case DS_OPTION_SEED:
    case DS_OPTION_NUM: return limit_number(o, k, out, good);
    case DS_OPTION_BOOL:
        *good = k < 2;
        snprintf(out, 80, "%s", k == 0 ? "true" : k == 1 ? "false" : "1");
        return k < 3;
    case DS_OPTION_ENUM: return limit_word(o->words, k, out, good);
    case DS_OPTION_LIST:
        if (k == 0) /* none */
            word[0] = *good = 0;
        else if (!limit_word(o->words, k - 1, word, good))
            return 0;
        snprintf(out, 80, "[%.70s]", word);
        return 1;
    case DS_OPTION_DEVICE:
        if (k >= (int)(sizeof devices / sizeof *devices))
            return 0;
        *good = devices[k].good;
        snprintf(out, 80, "\"%s\"", devices[k].word);
        return 1;
    }
    return 0;
}

#endif
