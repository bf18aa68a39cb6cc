/* cli/options.c - reads argv by the tables of options: the same tables that --help prints. */
#include "cli/cli.h"
#include "base/limits.h"
#include "base/log.h"
#include "contract/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int ds_parse_duration(const char *s, double *seconds, ds_error *err) {
    char *end;
    errno = 0;
    double v = strtod(s, &end);
    if (end == s || errno || !isfinite(v) || v < 0)
        return ds_fail(err, DS_EINVAL, "'%s' is not a duration such as 90, 90s, 10m, 2h or 3d", s);
    double unit = 1;
    if (*end) {
        unit = *end == 's' ? 1 : *end == 'm' ? 60 : *end == 'h' ? 3600 : *end == 'd' ? 86400 : 0;
        if (unit == 0 || end[1])
            return ds_fail(err, DS_EINVAL, "'%s' is not a duration such as 90, 90s, 10m, 2h or 3d",
                           s);
    }
    *seconds = v * unit;
    return 0;
}

/* A date alone is local midnight; with a time it is RFC 3339 UTC ("...Z"). */
int ds_parse_when(const char *s, double *ms, ds_error *err) {
    int64_t at;
    double ago;
    enum ds_time_form form = ds_time_read(s, &at);
    if (form == DS_TIME_DAY) {
        time_t day = (time_t)(at / 1000);
        struct tm tm;
        gmtime_r(&day, &tm);
        tm.tm_isdst = -1;
        *ms = 1000.0 * (double)mktime(&tm);
    } else if (form == DS_TIME_UTC)
        *ms = (double)at;
    else if (form == DS_TIME_NONE && !ds_parse_duration(s, &ago, NULL))
        *ms = (double)ds_now_ms() - 1000.0 * ago;
    else
        return ds_fail(err, DS_EINVAL,
                       "'%s' is neither a date (2026-01-31, 2026-01-31T08:00:00Z) nor a time ago "
                       "(2h, 3d)",
                       s);
    return 0;
}

static int choice_has(const char *choices, const char *s) {
    return ds_word_in(choices, s, strlen(s));
}

/* Words between commas; an empty one is none of the choices. */
static int check_list(const ds_opt *o, const char *s, ds_error *err) {
    for (;; s++) {
        size_t n = strcspn(s, ",");
        if (!ds_word_in(o->choices, s, n))
            return ds_fail(err, DS_EINVAL, "'%.*s' is not one of %s", (int)n, s, o->choices);
        s += n;
        if (!*s)
            return 0;
    }
}

static int parse_number(const ds_opt *o, const char *s, double *v, ds_error *err) {
    char *end = (char *)(uintptr_t)s;
    errno = 0;
    /* strtod takes "0x1p3", " 8" and "infinity" as well */
    if (strspn(s, o->type == DS_OPT_INT ? "+-0123456789" : "+-.0123456789eE") != strlen(s))
        end = NULL;
    else if (o->type == DS_OPT_INT)
        *v = (double)strtoll(s, &end, 10);
    else
        *v = strtod(s, &end);
    if (!end || end == s || *end || errno || !isfinite(*v))
        return ds_fail(err, DS_EINVAL, "'%s' is not %s", s,
                       o->type == DS_OPT_INT ? "a whole number" : "a number");
    if (*v < o->min || *v > o->max)
        return ds_fail(err, DS_EINVAL, "%s is not between %.12g and %.12g", s, o->min, o->max);
    return 0;
}

static int set_value(const ds_opt *o, ds_value *v, const char *s, ds_error *err) {
    int rc = 0;
    if (v->given && strcmp(v->text, s))
        return ds_fail(err, DS_EINVAL, "option --%s is given twice, as '%s' and as '%s'", o->name,
                       v->text, s);
    v->text = s;
    switch (o->type) {
    case DS_OPT_INT:
    case DS_OPT_NUMBER: rc = parse_number(o, s, &v->number, err); break;
    case DS_OPT_DURATION:
        rc = ds_parse_duration(s, &v->number, err);
        if (!rc && !(v->number >= o->min && v->number <= o->max))
            rc = ds_fail(err, DS_EINVAL, "'%s' is not between %g s and %g s", s, o->min, o->max);
        break;
    case DS_OPT_DEVICE:
        if (!ds_device_word(s))
            rc = ds_fail(err, DS_EINVAL, "'%s' is not one of %s", s, DS_DEVICE_WORDS);
        break;
    case DS_OPT_WHEN: rc = ds_parse_when(s, &v->number, err); break;
    case DS_OPT_CHOICE:
        if (!choice_has(o->choices, s))
            rc = ds_fail(err, DS_EINVAL, "'%s' is not one of %s", s, o->choices);
        break;
    case DS_OPT_LIST: rc = check_list(o, s, err); break;
    default:
        if (!*s)
            rc = ds_fail(err, DS_EINVAL, "the value is empty");
    }
    if (rc)
        return ds_error_prefix(err, "option --%s", o->name);
    v->given = 1;
    return 0;
}

static const ds_opt *find_long(const ds_opt *table, const char *name, size_t n) {
    for (const ds_opt *o = table; o && o->name; o++)
        if (strlen(o->name) == n && !memcmp(o->name, name, n))
            return o;
    return NULL;
}

static const ds_opt *find_letter(const ds_opt *table, char letter) {
    for (const ds_opt *o = table; o && o->name; o++)
        if (o->letter == letter)
            return o;
    return NULL;
}

static int unknown_option(const ds_cli *c, const char *arg, size_t n, ds_error *err) {
    const char *words[2 * DS_CLI_MAX_OPTIONS], *near = NULL;
    size_t count = 0;
    for (const ds_opt *o = c->command ? c->command->options : NULL; o && o->name; o++)
        words[count++] = o->name;
    for (const ds_opt *o = ds_global_options; o->name; o++)
        words[count++] = o->name;
    char name[64];
    if (n > 2 && n < sizeof name) {
        snprintf(name, sizeof name, "%.*s", (int)n - 2, arg + 2);
        near = ds_suggest(name, words, count);
    }
    const char *cmd = c->command ? c->command->name : "dsctl";
    if (near)
        return ds_fail(err, DS_EINVAL, "unknown option '%.*s' of %s; did you mean --%s?", (int)n,
                       arg, cmd, near);
    return ds_fail(err, DS_EINVAL, "unknown option '%.*s' of %s; see dsctl help%s%s", (int)n, arg,
                   cmd, c->command ? " " : "", c->command ? c->command->name : "");
}

/* "list-jobs --state running": after a command that lists things of a status, what is meant is that
 * status, and not the daemon's state folder, as before the command.  A folder is written with a
 * '/' there; what can be neither is refused.  NULL: the global option. */
static int meant_as_status(const ds_cli *c, const ds_opt *o, const char *value,
                           const ds_opt **status, ds_error *err) {
    const ds_opt *own = c->command ? find_long(c->command->options, "status", 6) : NULL;
    *status = NULL;
    if (!own || strcmp(o->name, "state") || strchr(value, '/'))
        return 0;
    if (!choice_has(own->choices, value))
        return ds_fail(err, DS_EINVAL,
                       "option --state: '%s' is not one of %s; the state folder is given before "
                       "the command, or with a '/'",
                       value, own->choices);
    *status = own;
    return 0;
}

/* Takes the option at argv[*i] and its value; *i moves past both. */
static int take_option(ds_cli *c, int argc, char **argv, int *i, ds_error *err) {
    const char *arg = argv[*i], *value = NULL;
    int is_long = arg[1] == '-';
    size_t n = is_long ? strcspn(arg, "=") : 2;
    const ds_opt *own = c->command ? c->command->options : NULL;
    const ds_opt *o = is_long ? find_long(own, arg + 2, n - 2) : find_letter(own, arg[1]);
    ds_value *values = c->own;
    const ds_opt *table = own;
    if (!o) {
        table = ds_global_options;
        values = c->global;
        o = is_long ? find_long(table, arg + 2, n - 2) : find_letter(table, arg[1]);
    }
    if (!o)
        return unknown_option(c, arg, n, err);
    ds_value *v = &values[o - table];
    (*i)++;
    if (o->type == DS_OPT_FLAG) {
        if (arg[n])
            return ds_fail(err, DS_EINVAL, "option --%s takes no value", o->name);
        v->given = 1;
        return 0;
    }
    if (arg[n])
        value = arg + n + (is_long ? 1 : 0);
    else if (*i < argc)
        value = argv[(*i)++];
    else
        return ds_fail(err, DS_EINVAL, "option --%s needs a value %s", o->name, o->metavar);
    const ds_opt *status = NULL;
    if (table == ds_global_options && meant_as_status(c, o, value, &status, err))
        return err->code;
    return status ? set_value(status, &c->own[status - own], value, err)
                  : set_value(o, v, value, err);
}

static int find_command(ds_cli *c, const char *name, ds_error *err) {
    c->command = ds_command_find(name);
    if (c->command)
        return 0;
    const char *words[64];
    size_t count = 0;
    for (const ds_command *k = ds_commands; k->name && count < 64; k++)
        words[count++] = k->name;
    const char *near = ds_suggest(name, words, count);
    if (near)
        return ds_fail(err, DS_EINVAL, "'%s' is not a command; did you mean '%s'?", name, near);
    return ds_fail(err, DS_EINVAL, "'%s' is not a command; 'dsctl help' lists them", name);
}

/* A name is part of a URL: an empty one, or one with a '/', would ask for something else. */
static int check_argument(const ds_cli *c, const char *arg, ds_error *err) {
    ds_arg_kind kind = c->command->kind;
    int name =
        kind == DS_ARG_DATASET || kind == DS_ARG_BASE || kind == DS_ARG_NET || kind == DS_ARG_REF;
    if (!*arg)
        return ds_fail(err, DS_EINVAL, "an argument is empty; usage: dsctl %s %s", c->command->name,
                       c->command->args);
    if (name && strchr(arg, '/'))
        return ds_fail(err, DS_EINVAL, "'%s' is a path; a name is needed here, usage: dsctl %s %s",
                       arg, c->command->name, c->command->args);
    return 0;
}

int ds_cli_parse(ds_cli *c, int argc, char **argv, ds_error *err) {
    int only_args = 0;
    for (int i = 1, rc; i < argc;) {
        const char *arg = argv[i];
        if (!only_args && !strcmp(arg, "--")) {
            only_args = 1;
            i++;
        } else if (!only_args && arg[0] == '-' && arg[1]) {
            if ((rc = take_option(c, argc, argv, &i, err)))
                return rc;
        } else if (!c->command) {
            if ((rc = find_command(c, argv[i++], err)))
                return rc;
        } else if (c->arg_count >= c->command->max_args) {
            return ds_fail(err, DS_EINVAL, "unexpected argument '%s'; usage: dsctl %s %s", arg,
                           c->command->name, c->command->args);
        } else {
            if ((rc = check_argument(c, arg, err)))
                return rc;
            c->args[c->arg_count++] = argv[i++];
        }
    }
    return 0;
}

static const ds_opt *value_of(const ds_cli *c, const char *name, const ds_value **v) {
    const ds_opt *own = c->command ? c->command->options : NULL;
    const ds_opt *o = find_long(own, name, strlen(name));
    if (o) {
        *v = &c->own[o - own];
        return o;
    }
    o = find_long(ds_global_options, name, strlen(name));
    DS_ASSERT(o);
    *v = &c->global[o - ds_global_options];
    return o;
}

int ds_opt_given(const ds_cli *c, const char *name) {
    const ds_value *v;
    value_of(c, name, &v);
    return v->given;
}

const char *ds_opt_text(const ds_cli *c, const char *name, const char *otherwise) {
    const ds_value *v;
    value_of(c, name, &v);
    return v->given ? v->text : otherwise;
}

double ds_opt_number(const ds_cli *c, const char *name, double otherwise) {
    const ds_value *v;
    value_of(c, name, &v);
    return v->given ? v->number : otherwise;
}
