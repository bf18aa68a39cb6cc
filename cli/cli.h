/* cli/cli.h - dsctl: one call of the program, the table of commands, and what commands share.
 *
 * dsctl is a client of the HTTP API (docs/api.md) and of nothing else: it never opens the registry.
 * ds_cli_run is the whole program with its streams as arguments, so tests run it in-process.  Data
 * goes to `out`, messages and progress to `err`.  Commands return 0 or a DS_E code with a message;
 * the exit status follows from the code (base/error.h).  One thread.
 */
#ifndef DS_CLI_CLI_H
#define DS_CLI_CLI_H

#include "base/error.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/suggest.h"

#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>

typedef struct ds_client ds_client;
typedef struct ds_cli ds_cli;

typedef enum {
    DS_OPT_FLAG,     /* no value */
    DS_OPT_STRING,   /* any text */
    DS_OPT_FILE,     /* a path, completed as a file */
    DS_OPT_INT,      /* min <= value <= max */
    DS_OPT_NUMBER,   /* min <= value <= max */
    DS_OPT_DURATION, /* "90", "90s", "10m", "2h", "3d": seconds, min <= value <= max */
    DS_OPT_WHEN,     /* a duration ago, "2026-01-31" or RFC 3339: ms since 1970 */
    DS_OPT_DEVICE,   /* a word of base/limits.h: auto, cpu, cuda, cuda:N, ref */
    DS_OPT_CHOICE,   /* one of `choices`, separated by | */
    DS_OPT_LIST      /* some of `choices`, separated by commas */
} ds_opt_type;

typedef struct {
    const char *name; /* without the two dashes; NULL ends a table */
    char letter;      /* 0: none */
    ds_opt_type type;
    const char *metavar; /* how the value is called in --help; NULL for flags */
    const char *help;    /* one line, no capital, no full stop */
    const char *choices;
    double min, max;
} ds_opt;

/* What an argument is: chooses its completion, nothing else. */
typedef enum {
    DS_ARG_OTHER,
    DS_ARG_DIR,
    DS_ARG_FILE, /* a file or a folder */
    DS_ARG_DATASET,
    DS_ARG_BASE,
    DS_ARG_NET,
    DS_ARG_REF,
    DS_ARG_JOB,
    DS_ARG_SHELL,
    DS_ARG_COMMAND
} ds_arg_kind;

/* One row of the table that parsing, --help, the man page and the completions are made from. */
typedef struct {
    const char *name;
    int (*run)(ds_cli *c, ds_error *err);
    const char *args; /* "DIR", "[REF]", "" */
    int min_args, max_args;
    ds_arg_kind kind; /* of the first argument */
    const char *summary;
    const char *text;      /* one paragraph */
    const ds_opt *options; /* NULL: none of its own */
    const char *examples;  /* lines "command # what it does" */
} ds_command;

extern const ds_command ds_commands[]; /* ends with name NULL */
extern const ds_opt ds_global_options[];

enum { DS_CLI_MAX_OPTIONS = 64, DS_CLI_MAX_ARGS = 4 };

typedef struct {
    int given;
    const char *text;
    double number; /* INT, NUMBER, DURATION (seconds), WHEN (ms) */
} ds_value;

struct ds_cli {
    FILE *out, *err;
    int out_tty, err_tty, color, utf8, json, quiet;
    int width;      /* columns of the terminal; 0: not a terminal, no limit */
    double started; /* ds_monotonic() when the program began */
    char socket[PATH_MAX], state[PATH_MAX];
    ds_client *http;
    const ds_command *command; /* NULL while only global options are known */
    ds_value global[DS_CLI_MAX_OPTIONS], own[DS_CLI_MAX_OPTIONS];
    const char *args[DS_CLI_MAX_ARGS];
    int arg_count;
};

/* The program: parses argv, runs a command, returns the exit status. */
int ds_cli_run(int argc, char **argv, FILE *out, FILE *err);

/* Set by the handler of SIGINT and SIGTERM (main.c); everything that waits looks at it. */
extern volatile sig_atomic_t ds_cli_interrupted;
/* Sleeps, or returns DS_ECANCELED early when interrupted. */
int ds_cli_sleep(double seconds, ds_error *err);

/* options.c */
int ds_cli_parse(ds_cli *c, int argc, char **argv, ds_error *err);
int ds_opt_given(const ds_cli *c, const char *name); /* the command's options, then the global */
const char *ds_opt_text(const ds_cli *c, const char *name, const char *otherwise);
double ds_opt_number(const ds_cli *c, const char *name, double otherwise);
/* Parses "90", "10m", ... (seconds) and dates (ms); DS_EINVAL without naming an option. */
int ds_parse_duration(const char *s, double *seconds, ds_error *err);
int ds_parse_when(const char *s, double *ms, ds_error *err);

/* help.c, complete.c: everything printed from the table */
const ds_command *ds_command_find(const char *name);
void ds_help_command(FILE *f, const ds_command *cmd);
void ds_help_overview(FILE *f);
/* scdoc: the page dsctl-COMMAND(1) */
void ds_man_page(FILE *f, const ds_command *k);
void ds_man_dump(FILE *f);     /* scdoc: the sections that the table and base/error.h decide */
void ds_options_dump(FILE *f); /* Markdown: the table of docs/api.md */
void ds_complete_bash(FILE *f);
void ds_complete_zsh(FILE *f);
void ds_complete_fish(FILE *f);

/* suggest.c: appends "; did you mean 'x'?" to a DS_ENOTFOUND about a dataset or an adapter
 * reference. */
void ds_suggest_name(ds_cli *c, const char *given, int adapters, ds_error *err);

/* output.c: what commands print.  All text that came from the daemon passes through ds_put_clean
 * on its way to a human, so that no name can carry control sequences. */
void ds_say(ds_cli *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3))); /* a message line on err unless --quiet */
/* One document: {"schema":"dsctl.v1/<kind>", ...members of obj}.  `line`: compact, flushed. */
void ds_print_json(ds_cli *c, const char *kind, const json_t *obj, int line);
/* {"schema":..., "items":[...], "next":...} */
void ds_print_json_list(ds_cli *c, const char *kind, json_t *items, const char *next);

/* cmd_pull.c: the file of the adapter `a` (/v1/adapters/REF) into f, checked against its digests.
 */
int ds_pull_into(ds_cli *c, const json_t *a, FILE *f, ds_error *err);

/* The commands (commands/cmd_*.c). */
#define COMMAND(name, function, ...) int function(ds_cli *c, ds_error *err);
#include "cli/commands.def"

#endif
