/* contract/args.h - reads a command line by a table, and prints the same table as --help.
 *
 * A command states its rows: each option (or argument in a place) with its type, where its value
 * goes, and a line of help.  A row may be one of contract/options.def: then range, words and help
 * are those of all other programs.  What a target holds before parsing is the default that --help
 * shows.
 *
 * Understood: "--name VALUE", "--name=VALUE", "-o VALUE"; what follows "--" is no option.  The same
 * option twice must have the same value: nothing is overruled in silence.
 * Ownership: values point into argv.  Thread: one.  Errors: DS_EINVAL.
 */
#ifndef DS_CONTRACT_ARGS_H
#define DS_CONTRACT_ARGS_H

#include "base/error.h"

#include <stdint.h>

enum { DS_ARGS_MAX = 48 };

enum ds_arg_type {
    DS_ARG_FLAG,   /* int: becomes 1 */
    DS_ARG_UNFLAG, /* int: becomes 0 */
    DS_ARG_STRING, /* const char *: any bytes, not empty */
    DS_ARG_TEXT,   /* const char *: UTF-8, may be empty */
    DS_ARG_WORD,   /* const char *: one of the words */
    DS_ARG_DEVICE, /* const char *: a word of base/limits.h */
    DS_ARG_INT,    /* int */
    DS_ARG_INT64,  /* int64_t */
    DS_ARG_SEED,   /* uint64_t */
    DS_ARG_NUM,    /* double */
    DS_ARG_OWN,    /* anything: `take` reads it */
    DS_ARG_REST    /* ds_arg_rest: all arguments in this place and after it */
};

typedef struct {
    const char **items; /* room for argc */
    int count, most;    /* most 0: any number */
} ds_arg_rest;

typedef struct {
    const char *name;    /* "--batch", "-o"; without a dash: an argument in this place */
    const char *also;    /* another name of an option, or NULL */
    const char *metavar; /* how --help calls the value; NULL: as the option of options.def */
    enum ds_arg_type type;
    void *target;
    const char *option;  /* name of a row of options.def, for what is not stated here; or NULL */
    double least, most;  /* of a number; both 0: those of the option */
    const char *words;   /* "a|b|c"; NULL: those of the option */
    const char *help;    /* NULL: that of the option */
    const char *shown;   /* the default in --help; NULL: what the target holds; "": none */
    const char *missing; /* said when it is not given; NULL: it may be left out */
    int *given;          /* becomes 1 when it is given; or NULL */
    int (*take)(void *target, const char *text, ds_error *err);
} ds_arg;

typedef struct {
    const char *command; /* "diffscaler-worker plan" */
    const char *usage;   /* what follows it, a line for each way to call it */
    const char *about;   /* paragraphs above the options */
    const char *after;   /* paragraphs below them, or NULL */
    const char *extra;   /* said of an argument too many, or NULL */
    const ds_arg *rows;  /* ends with name NULL */
} ds_args;

/* DS_ARG_RANGE(DS_RANGE_BATCH) in a row. */
#define DS_ARG_RANGE(...) DS_ARG_RANGE_(__VA_ARGS__)
#define DS_ARG_RANGE_(least_, most_) .least = least_, .most = most_

/* 0: go on; 1: help was asked for, and printed on stdout; else DS_EINVAL. */
int ds_args_parse(const ds_args *a, int argc, char **argv, ds_error *err);

/* "error: ..." on stderr, and how the command is called; the exit status for err. */
int ds_args_refuse(const ds_args *a, const ds_error *err);

#endif
