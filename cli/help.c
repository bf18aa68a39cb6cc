/* cli/help.c - --help and the scdoc part of the man page, from the table of commands. */
#include "base/limits.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "contract/options.h"

#include <string.h>

static void option_left(const ds_opt *o, char *out, size_t size) {
    char letter[8] = "    ";
    if (o->letter)
        snprintf(letter, sizeof letter, "-%c, ", o->letter);
    snprintf(out, size, "%s--%s%s%s", letter, o->name, o->metavar ? " " : "",
             o->metavar ? o->metavar : "");
}

static void help_options(FILE *f, const char *title, const ds_opt *table) {
    if (!table || !table->name)
        return;
    fprintf(f, "\n%s\n", title);
    for (const ds_opt *o = table; o->name; o++) {
        char left[80];
        option_left(o, left, sizeof left);
        fprintf(f, "  %-26s %s", left, o->help);
        if (o->choices)
            fprintf(f, ": %s", o->choices);
        fputc('\n', f);
    }
}

/* Text broken at spaces before column 80. */
static void wrap(FILE *f, const char *text) {
    for (size_t at = 0; *text;) {
        size_t n = strcspn(text, " ");
        if (at && at + 1 + n > 80) {
            fputc('\n', f);
            at = 0;
        }
        at += (size_t)fprintf(f, "%s%.*s", at ? " " : "", (int)n, text);
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', f);
}

void ds_help_command(FILE *f, const ds_command *cmd) {
    fprintf(f, "usage: dsctl %s%s%s%s\n\n", cmd->name, *cmd->args ? " " : "", cmd->args,
            cmd->options ? " [options]" : "");
    wrap(f, cmd->text);
    help_options(f, "Options", cmd->options);
    help_options(f, "Options of every command", ds_global_options);
    fprintf(f, "\nExamples\n");
    for (const char *p = cmd->examples; *p; p += strcspn(p, "\n") + 1)
        fprintf(f, "  %.*s\n", (int)strcspn(p, "\n"), p);
}

void ds_help_overview(FILE *f) {
    fprintf(f, "usage: dsctl [options] COMMAND [arguments]\n\n"
               "Teaches one frozen diffusion model new image sets, one small adapter each.\n\n"
               "Commands\n");
    for (const ds_command *k = ds_commands; k->name; k++)
        fprintf(f, "  %-17s %s\n", k->name, k->summary);
    help_options(f, "Options", ds_global_options);
    fprintf(f,
            "\nREF names an adapter: digits (its latest), digits@v2, digits@prod, sha256:<hex>.\n"
            "'dsctl help COMMAND' has options and examples; dsctl(1) has the exit codes.\n");
}

/* scdoc gives meaning to _ and *, and to # and - at the start of a line. */
static void scdoc_text(FILE *f, const char *s, size_t n) {
    for (size_t i = 0; i < n && s[i]; i++) {
        if (strchr("_*\\#~`", s[i]))
            fputc('\\', f);
        fputc(s[i], f);
    }
}

static void scdoc_options(FILE *f, const ds_opt *table) {
    for (const ds_opt *o = table; o && o->name; o++) {
        if (o->letter)
            fprintf(f, "*-%c*, ", o->letter);
        fprintf(f, "*--%s*", o->name);
        if (o->metavar)
            fprintf(f, " _%s_", o->metavar);
        fprintf(f, "\n\t");
        scdoc_text(f, o->help, strlen(o->help));
        if (o->choices) {
            fprintf(f, ": ");
            scdoc_text(f, o->choices, strlen(o->choices));
        }
        fprintf(f, "\n\n");
    }
}

static void scdoc_examples(FILE *f, const char *p) {
    for (; *p; p += strcspn(p, "\n") + 1) {
        size_t n = strcspn(p, "\n");
        fprintf(f, "\t%.*s\n", (int)n, p);
    }
}

static void man_command(FILE *f, const ds_command *k) {
    fprintf(f, "## %s%s%s\n\n", k->name, *k->args ? " " : "", k->args);
    scdoc_text(f, k->text, strlen(k->text));
    fprintf(f, "\n\n");
    scdoc_options(f, k->options);
    fprintf(f, "```\n");
    scdoc_examples(f, k->examples);
    fprintf(f, "```\n\n");
}

void ds_man_dump(FILE *f) {
    fprintf(f, "# OPTIONS OF EVERY COMMAND\n\n");
    scdoc_options(f, ds_global_options);
    fprintf(f, "# COMMANDS\n\n");
    for (const ds_command *k = ds_commands; k->name; k++)
        man_command(f, k);
    fprintf(f, "# EXIT STATUS\n\n*0*\n\tsuccess\n\n");
    /* Several errors share a status; the first name in base/error.h stands for it. */
    unsigned char seen[256] = {0};
#define X(code, value, http, exit_code, title)                                                     \
    if (!seen[exit_code]) {                                                                        \
        seen[exit_code] = 1;                                                                       \
        fprintf(f, "*%d*\n\t%s\n\n", exit_code, title);                                            \
    }
    DS_ERROR_MAP(X)
#undef X
}

/* What a cell of Markdown may hold. */
static void put_cell(FILE *f, const char *s) {
    for (; *s; s++)
        fprintf(f, *s == '|' ? "\\|" : "%c", *s);
}

static void put_allowed(FILE *f, const ds_option *o) {
    switch (o->type) {
    case DS_OPTION_INT:
    case DS_OPTION_SEED:
    case DS_OPTION_NUM:
        fprintf(f, "%s%.12g to %.12g", o->type == DS_OPTION_NUM ? "" : "whole, ", o->least,
                o->most);
        break;
    case DS_OPTION_BOOL: fprintf(f, "true or false"); break;
    case DS_OPTION_LIST: fprintf(f, "list of "); /* fall through */
    case DS_OPTION_ENUM: put_cell(f, o->words); break;
    case DS_OPTION_DEVICE: fprintf(f, DS_DEVICE_WORDS); break;
    }
}

static void put_method(FILE *f, const ds_preset *p) {
    int any = 0;
    fprintf(f, "| `%s` | %s |", p->name, p->help);
    for (const ds_option *o = ds_option_table; o->name; o++)
        if (!strcmp(o->section, "method") && ds_preset_takes(p, o->name))
            fprintf(f, "%s `%s`", any++ ? "," : "", o->name);
    fprintf(f, "%s |\n", any ? "" : " none of section `method`");
}

/* The options, and below them the methods. */
void ds_options_dump(FILE *f) {
    fprintf(f, "| option | dsctl add-dataset | spec.json | allowed | default "
               "| what the option of dsctl does |\n"
               "|---|---|---|---|---|---|\n");
    for (const ds_option *o = ds_option_table; o->name; o++) {
        fprintf(f, "| `%s` | `--%s%s%s` | `%s.%s` | ", o->name, o->flag, o->metavar ? " " : "",
                o->metavar ? o->metavar : "", o->section, o->key);
        put_allowed(f, o);
        fprintf(f, " | %s | ", o->otherwise ? o->otherwise : o->by ? o->by : o->absent);
        put_cell(f, o->help);
        fprintf(f, " |\n");
    }
    fprintf(f, "\n| method | trains | options that have an effect |\n|---|---|---|\n");
    for (const ds_preset *p = ds_preset_table; p->name; p++)
        put_method(f, p);
}

void ds_man_page(FILE *f, const ds_command *k) {
    fprintf(f, "dsctl-%s(1)\n\n# NAME\n\ndsctl-%s - ", k->name, k->name);
    scdoc_text(f, k->summary, strlen(k->summary));
    fprintf(f, "\n\n# SYNOPSIS\n\n*dsctl %s*", k->name);
    if (*k->args) {
        fputc(' ', f);
        scdoc_text(f, k->args, strlen(k->args));
    }
    fprintf(f, "%s\n\n# DESCRIPTION\n\n", k->options ? " [_options_]" : "");
    scdoc_text(f, k->text, strlen(k->text));
    fprintf(f, "\n\n");
    if (k->options) {
        fprintf(f, "# OPTIONS\n\n");
        scdoc_options(f, k->options);
    }
    fprintf(f, "# OPTIONS OF EVERY COMMAND\n\n");
    scdoc_options(f, ds_global_options);
    fprintf(f, "# EXAMPLES\n\n```\n");
    scdoc_examples(f, k->examples);
    fprintf(f, "```\n\n# SEE ALSO\n\n*dsctl*(1), which has the references and exit codes, "
               "*diffscalerd*(8)\n");
}
