/* contract/args.c - see args.h. */
#include "contract/args.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/suggest.h"
#include "contract/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const ds_args *a;
    const char *seen[DS_ARGS_MAX]; /* the value of each row, "" of a flag */
    ds_error *err;
} state;

/* A row with what options.def says of it filled in. */
static ds_arg row_of(const ds_arg *from) {
    ds_arg r = *from;
    const ds_option *o = from->option ? ds_option_find(from->option) : NULL;
    DS_ASSERT(!from->option || o);
    if (!o)
        return r;
    if (r.least == 0 && r.most == 0) {
        r.least = o->least;
        r.most = o->most;
    }
    r.words = r.words ? r.words : o->words;
    r.help = r.help ? r.help : o->help;
    r.metavar = r.metavar ? r.metavar : o->metavar;
    return r;
}

static int is_option(const ds_arg *r) { return r->name[0] == '-'; }
static int is_flag(const ds_arg *r) { return r->type == DS_ARG_FLAG || r->type == DS_ARG_UNFLAG; }

/* ---------------------------------------------------------------- values */

/* "a, b or c" of "a|b|c". */
static void list_words(char *out, size_t size, const char *words) {
    size_t n = 0;
    out[0] = 0;
    for (const char *p = words; *p && n < size;) {
        size_t m = strcspn(p, "|");
        const char *joint = p == words ? "" : strchr(p, '|') ? ", " : " or ";
        n += (size_t)snprintf(out + n, size - n, "%s%.*s", joint, (int)m, p);
        p += m + (p[m] == '|');
    }
}

static int take_number(const ds_arg *r, const char *text, ds_error *err) {
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    int whole = r->type != DS_ARG_NUM;
    /* strtod takes "0x10", " 8" and "infinity" as well */
    int is = end != text && !*end && !errno && strspn(text, "+-.0123456789eE") == strlen(text);
    if (!is || !(v >= r->least && v <= r->most) || (whole && v != floor(v)))
        return ds_fail(err, DS_EINVAL, "%s takes a %snumber from %.12g to %.12g, not '%.60s'",
                       r->name, is && whole && v != floor(v) ? "whole " : "", r->least, r->most,
                       text);
    switch (r->type) {
    case DS_ARG_INT: *(int *)r->target = (int)v; break;
    case DS_ARG_INT64: *(int64_t *)r->target = (int64_t)v; break;
    case DS_ARG_SEED: *(uint64_t *)r->target = (uint64_t)v; break;
    default: *(double *)r->target = v;
    }
    return 0;
}

static int take_text(const ds_arg *r, const char *text, ds_error *err) {
    char words[200];
    if (r->type == DS_ARG_STRING && !*text)
        return ds_fail(err, DS_EINVAL, "%s needs a value, not an empty one", r->name);
    if (r->type == DS_ARG_TEXT && !ds_json_is_text(text))
        return ds_fail(err, DS_EINVAL, "%s takes a text in UTF-8", r->name);
    if (r->type == DS_ARG_DEVICE && !ds_device_word(text))
        return ds_fail(err, DS_EINVAL, "%s is '%.40s', must be " DS_DEVICE_WORDS, r->name, text);
    if (r->type == DS_ARG_WORD && !ds_word_in(r->words, text, strlen(text))) {
        list_words(words, sizeof words, r->words);
        return ds_fail(err, DS_EINVAL, "%s is '%.40s', must be %s", r->name, text, words);
    }
    *(const char **)r->target = text;
    return 0;
}

static int take(state *s, size_t k, const char *text) {
    ds_arg r = row_of(&s->a->rows[k]);
    int rc = 0;
    if (s->seen[k] && strcmp(s->seen[k], text))
        return ds_fail(s->err, DS_EINVAL, "%s is given twice, as '%.60s' and as '%.60s'", r.name,
                       s->seen[k], text);
    s->seen[k] = text;
    if (r.given)
        *r.given = 1;
    switch (r.type) {
    case DS_ARG_FLAG:
    case DS_ARG_UNFLAG: *(int *)r.target = r.type == DS_ARG_FLAG; break;
    case DS_ARG_STRING:
    case DS_ARG_TEXT:
    case DS_ARG_WORD:
    case DS_ARG_DEVICE: rc = take_text(&r, text, s->err); break;
    case DS_ARG_INT:
    case DS_ARG_INT64:
    case DS_ARG_SEED:
    case DS_ARG_NUM: rc = take_number(&r, text, s->err); break;
    case DS_ARG_OWN: rc = r.take(r.target, text, s->err); break;
    case DS_ARG_REST: break;
    }
    return rc;
}

/* ---------------------------------------------------------------- words of the command line */

static int unexpected(const state *s, const char *arg, size_t n) {
    const char *words[2 * DS_ARGS_MAX + 1], *near = NULL;
    char name[64];
    size_t count = 0;
    for (const ds_arg *r = s->a->rows; r->name; r++) {
        if (is_option(r))
            words[count++] = r->name;
        if (r->also)
            words[count++] = r->also;
    }
    words[count++] = "--help";
    snprintf(name, sizeof name, "%.*s", (int)n, arg);
    if (arg[0] == '-' && n > 2)
        near = ds_suggest(name, words, count);
    if (near)
        return ds_fail(s->err, DS_EINVAL, "unexpected argument '%.60s'; did you mean %s?", name,
                       near);
    return ds_fail(s->err, DS_EINVAL, "unexpected argument '%.60s'; %s%ssee %s --help", name,
                   arg[0] != '-' && s->a->extra ? s->a->extra : "",
                   arg[0] != '-' && s->a->extra ? "; " : "", s->a->command);
}

/* The option at argv[*i], and its value; *i is moved past both. */
static int take_option(state *s, int argc, char **argv, int *i) {
    const char *arg = argv[(*i)++];
    size_t n = arg[1] == '-' ? strcspn(arg, "=") : strlen(arg);
    for (size_t k = 0; s->a->rows[k].name; k++) {
        const ds_arg r = row_of(&s->a->rows[k]);
        int is = strlen(r.name) == n && !memcmp(r.name, arg, n);
        if (!is && !(r.also && strlen(r.also) == n && !memcmp(r.also, arg, n)))
            continue;
        if (is_flag(&r))
            return arg[n] ? ds_fail(s->err, DS_EINVAL, "%s takes no value", r.name)
                          : take(s, k, "");
        if (arg[n])
            return take(s, k, arg + n + 1);
        if (*i == argc)
            return ds_fail(s->err, DS_EINVAL, "%.*s needs a value %s", (int)n, arg, r.metavar);
        return take(s, k, argv[(*i)++]);
    }
    return unexpected(s, arg, n);
}

static int take_argument(state *s, const char *arg) {
    for (size_t k = 0; s->a->rows[k].name; k++) {
        const ds_arg *r = &s->a->rows[k];
        if (is_option(r))
            continue;
        if (r->type == DS_ARG_REST) {
            ds_arg_rest *rest = r->target;
            if (rest->most && rest->count == rest->most)
                break;
            rest->items[rest->count++] = arg;
            s->seen[k] = "";
            return 0;
        }
        if (!s->seen[k])
            return take(s, k, arg);
    }
    return unexpected(s, arg, strlen(arg));
}

static int check_missing(const state *s) {
    for (size_t k = 0; s->a->rows[k].name; k++)
        if (s->a->rows[k].missing && !s->seen[k]) {
            const char *what = s->a->rows[k].missing;
            return ds_fail(s->err, DS_EINVAL, "%s%s see %s --help", what,
                           what[strlen(what) - 1] == '?' ? " " : ";", s->a->command);
        }
    return 0;
}

/* ---------------------------------------------------------------- help */

/* The default as text; "" where there is none to show. */
static void shown(char out[80], const ds_arg *r) {
    double v = NAN;
    const char *text = r->shown;
    out[0] = 0;
    if (!text && (r->type == DS_ARG_STRING || r->type == DS_ARG_TEXT || r->type == DS_ARG_WORD ||
                  r->type == DS_ARG_DEVICE))
        text = *(const char **)r->target;
    if (!text && r->type == DS_ARG_INT)
        v = *(int *)r->target;
    else if (!text && r->type == DS_ARG_INT64)
        v = (double)*(int64_t *)r->target;
    else if (!text && r->type == DS_ARG_SEED)
        v = (double)*(uint64_t *)r->target;
    else if (!text && r->type == DS_ARG_NUM)
        v = *(double *)r->target;
    if (text && *text)
        snprintf(out, 80, "%s", text);
    else if (v >= r->least && v <= r->most)
        snprintf(out, 80, "%.12g", v);
}

/* Text from column `from` on, wrapped before column 80. */
static void print_wrapped(const char *text, int from) {
    enum { WIDTH = 79 };
    int at = from;
    for (const char *p = text; *p;) {
        int n = (int)strcspn(p, " ");
        if (at > from && at + 1 + n > WIDTH) {
            printf("\n%*s", from, "");
            at = from;
        }
        at += printf("%s%.*s", at > from ? " " : "", n, p);
        p += n + (p[n] == ' ');
    }
    putchar('\n');
}

/* "-o, --output DIR". */
static int left_column(char out[80], const ds_arg *r) {
    return snprintf(out, 80, "%s%s%s%s%s", r->name, r->also ? ", " : "", r->also ? r->also : "",
                    is_option(r) && !is_flag(r) ? " " : "",
                    is_option(r) && !is_flag(r) ? r->metavar : "");
}

static void print_row(const ds_arg *r, int width) {
    char left[80], value[80], words[200] = "", text[600];
    shown(value, r);
    if (r->type == DS_ARG_WORD)
        list_words(words, sizeof words, r->words);
    snprintf(text, sizeof text, "%s%s%s%s%s%s", r->help, *words ? ": " : "", words,
             *value ? " (default " : "", value, *value ? ")" : "");
    int n = left_column(left, r);
    printf("  %-*s", width, left);
    if (n > width)
        printf("\n%*s", width + 2, "");
    printf("  ");
    print_wrapped(text, width + 4);
}

static void print_usage(FILE *to, const ds_args *a) {
    const char *before = "usage:";
    for (const char *p = a->usage;; before = "      ") {
        size_t n = strcspn(p, "\n");
        fprintf(to, "%s %s%s%.*s\n", before, a->command, n ? " " : "", (int)n, p);
        if (!p[n])
            return;
        p += n + 1;
    }
}

static void print_help(const ds_args *a) {
    enum { WIDEST = 22 };
    int width = 0;
    char left[80];
    for (const ds_arg *r = a->rows; r->name; r++) {
        ds_arg full = row_of(r);
        int n = full.help ? left_column(left, &full) : 0;
        width = n > width && n <= WIDEST ? n : width;
    }
    print_usage(stdout, a);
    printf("\n%s\n", a->about);
    if (width)
        putchar('\n');
    for (const ds_arg *r = a->rows; r->name; r++) {
        ds_arg full = row_of(r);
        if (full.help)
            print_row(&full, width);
    }
    if (a->after)
        printf("\n%s\n", a->after);
}

/* ---------------------------------------------------------------- all of it */

int ds_args_parse(const ds_args *a, int argc, char **argv, ds_error *err) {
    ds_error local = {0};
    state s = {.a = a, .err = &local};
    int rc = 0, only_arguments = 0;
    for (size_t k = 0; a->rows[k].name; k++)
        DS_ASSERT(k < DS_ARGS_MAX);
    for (int i = 0; !rc && i < argc;) {
        const char *arg = argv[i];
        if (only_arguments || arg[0] != '-' || !arg[1])
            rc = take_argument(&s, argv[i++]);
        else if (!strcmp(arg, "--help") || !strcmp(arg, "-h"))
            return print_help(a), 1;
        else if (!strcmp(arg, "--"))
            only_arguments = 1, i++;
        else
            rc = take_option(&s, argc, argv, &i);
    }
    rc = rc ? rc : check_missing(&s);
    return rc ? ds_fail(err, rc, "%s", local.message) : 0;
}

int ds_args_refuse(const ds_args *a, const ds_error *err) {
    fprintf(stderr, "error: %s\n", err->message);
    print_usage(stderr, a);
    return ds_error_exit(err->code);
}
