/* contract/options.c - the rows of options.def as a table. */
#include "contract/options.h"

#include <stdio.h>
#include <string.h>

#define RANGE(...) RANGE_(__VA_ARGS__)
#define RANGE_(a, b) .least = a, .most = b
#define WORDS(list) .words = DS_WORDS(list)
#define ANY .words = NULL
#define IS(value) .otherwise = value
#define OFF .otherwise = "false"
#define ON .otherwise = "true"
#define ALL .otherwise = "all"
#define BY(says) .by = says
#define LEFT_OUT(value) .absent = value
#define SINCE(value, default_) default_, .absent = value
#define UNLESS(default_) default_

const ds_option ds_option_table[] = {
#define OPTION(section_, name_, flag_, key_, member_, type_, metavar_, help_, ...)                 \
    {.name = #name_,                                                                               \
     .flag = flag_,                                                                                \
     .section = section_,                                                                          \
     .key = #key_,                                                                                 \
     .type = DS_OPTION_##type_,                                                                    \
     .metavar = metavar_,                                                                          \
     .help = help_,                                                                                \
     __VA_ARGS__},
#include "contract/options.def"
    {.name = NULL}};
const size_t ds_option_count = sizeof ds_option_table / sizeof *ds_option_table - 1;

const ds_option *ds_option_find(const char *name) {
    for (const ds_option *o = ds_option_table; o->name; o++)
        if (strcmp(o->name, name) == 0)
            return o;
    return NULL;
}

int ds_option_check(const char *name, double value, ds_error *err) {
    const ds_option *o = ds_option_find(name);
    DS_ASSERT(o);
    return value >= o->least && value <= o->most
               ? 0
               : ds_fail(err, DS_EINVAL, "%s is %.12g, must be %.12g to %.12g", name, value,
                         o->least, o->most);
}

/* "a|b|c" as "a, b or c" */
static void say_words(const char *words, char *out, size_t size) {
    size_t at = 0;
    for (const char *p = words, *end; *p && at + 1 < size; p = end + (*end == '|')) {
        end = p + strcspn(p, "|");
        at += (size_t)snprintf(out + at, size - at, "%s%.*s",
                               p == words ? ""
                               : *end     ? ", "
                                          : " or ",
                               (int)(end - p), p);
    }
}

int ds_sampler_word_check(const char *sampler, int velocity, ds_error *err) {
    const char *words = velocity ? DS_SAMPLERS_VELOCITY : DS_SAMPLERS_NOISE;
    char said[80] = "";
    if (ds_word_in(words, sampler, strlen(sampler)))
        return 0;
    say_words(words, said, sizeof said);
    return ds_fail(err, DS_EINVAL, "the sampler %.40s is not for a base that predicts %s: use %s",
                   sampler, velocity ? "a velocity" : "noise", said);
}

int ds_word_in(const char *words, const char *word, size_t n) {
    for (const char *p = words; *p;) {
        size_t m = strcspn(p, "|");
        if (m == n && memcmp(p, word, n) == 0)
            return 1;
        p += m + (p[m] == '|');
    }
    return 0;
}
