/* cli/complete.c - completion scripts for bash, zsh and fish, from the table of commands.
 *
 * Names that only the daemon knows are asked for with the listing commands and --quiet; without a
 * daemon there is simply nothing to complete.
 */
#include "cli/cli.h"

#include <string.h>

/* The command that lists what an argument can be, or NULL. */
static const char *lister(ds_arg_kind kind) {
    switch (kind) {
    case DS_ARG_DATASET: return "dsctl list-datasets --quiet 2>/dev/null";
    case DS_ARG_BASE: return "dsctl list-bases --quiet 2>/dev/null";
    case DS_ARG_NET: return "dsctl list-feature-nets --quiet 2>/dev/null";
    case DS_ARG_REF: return "dsctl list-adapters --quiet 2>/dev/null";
    case DS_ARG_JOB: return "dsctl list-jobs --quiet 2>/dev/null";
    default: return NULL;
    }
}

static void put_words(FILE *f, const char *choices) {
    for (; *choices; choices++)
        fputc(*choices == '|' ? ' ' : *choices, f);
}

static void put_commands(FILE *f) {
    for (const ds_command *k = ds_commands; k->name; k++)
        fprintf(f, "%s%s", k == ds_commands ? "" : " ", k->name);
}

/* The first word of a list is completed as a choice is. */
static int has_words(const ds_opt *o) {
    return o->choices && (o->type == DS_OPT_CHOICE || o->type == DS_OPT_LIST);
}

static void bash_values(FILE *f, const char *scope, const ds_opt *table) {
    for (const ds_opt *o = table; o && o->name; o++) {
        if (o->type == DS_OPT_FLAG)
            continue;
        fprintf(f, "        '%s --%s'", scope, o->name);
        if (o->letter)
            fprintf(f, "|'%s -%c'", scope, o->letter);
        fprintf(f, ") ");
        if (has_words(o)) {
            fprintf(f, "words='");
            put_words(f, o->choices);
            fprintf(f, "' ;;\n");
        } else if (!strcmp(o->name, "dataset")) {
            fprintf(f, "words=$(%s) ;;\n", lister(DS_ARG_DATASET));
        } else if (!strcmp(o->name, "base")) {
            fprintf(f, "words=$(%s) ;;\n", lister(DS_ARG_BASE));
        } else if (!strcmp(o->name, "feature-net")) { /* a name, or for evaluate a file */
            fprintf(f, "words=\"$(%s) bundled\"%s ;;\n", lister(DS_ARG_NET),
                    o->type == DS_OPT_FILE ? "; files=1" : "");
        } else {
            fprintf(f, "%s ;;\n", o->type == DS_OPT_FILE ? "files=1" : "return");
        }
    }
}

static void bash_options(FILE *f, const ds_opt *table) {
    for (const ds_opt *o = table; o && o->name; o++)
        fprintf(f, " --%s", o->name);
}

static void bash_arguments(FILE *f) {
    for (const ds_command *k = ds_commands; k->name; k++) {
        fprintf(f, "        %s) opts='", k->name);
        bash_options(f, k->options);
        fprintf(f, "'");
        if (k->kind == DS_ARG_DIR || k->kind == DS_ARG_FILE)
            fprintf(f, "; files=1");
        else if (k->kind == DS_ARG_SHELL)
            fprintf(f, "; words='bash zsh fish'");
        else if (k->kind == DS_ARG_COMMAND)
            fprintf(f, "; words=$commands");
        else if (lister(k->kind))
            fprintf(f, "; words=$(%s)%s", lister(k->kind),
                    strstr(k->args, "base") ? "' base'" : "");
        fprintf(f, " ;;\n");
    }
}

void ds_complete_bash(FILE *f) {
    fprintf(f, "# bash completion for dsctl; made by 'dsctl completion bash'\n"
               "_dsctl() {\n"
               "    local commands='");
    put_commands(f);
    fprintf(
        f,
        "'\n"
        "    local line=${COMP_LINE:0:COMP_POINT} cur prev cmd='' words='' opts='' files='' i\n"
        "    cur=${line##*[[:space:]]}\n" /* bash splits words at @ and : */
        "    line=${line%%\"$cur\"}\n"
        "    local -a before=()\n"
        "    read -r -a before <<< \"$line\"\n"
        "    prev=${before[${#before[@]}-1]}\n"
        "    for ((i = 1; i < ${#before[@]}; i++)); do\n"
        "        if [[ \" $commands \" == *\" ${before[i]} \"* ]]; then cmd=${before[i]}; break; "
        "fi\n"
        "    done\n"
        "    case \"$cmd $prev\" in\n");
    for (const ds_command *k = ds_commands; k->name; k++)
        bash_values(f, k->name, k->options);
    fprintf(f, "        *) case \"$cmd\" in\n        '') words=$commands ;;\n");
    bash_arguments(f);
    fprintf(f, "        esac ;;\n    esac\n"
               "    case \"$prev\" in\n"
               "        --socket|--state) words=''; files=1 ;;\n"
               "        --color) words='auto always never' ;;\n"
               "    esac\n"
               "    COMPREPLY=()\n"
               "    if [[ $cur == -* ]]; then words=\"$opts");
    bash_options(f, ds_global_options);
    fprintf(f, "\"; files=''; fi\n"
               "    if [[ -n $files ]]; then\n"
               "        compopt -o filenames 2>/dev/null\n"
               "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
               "        return\n"
               "    fi\n"
               "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
               "    local known=${cur%%\"${cur##*[@:]}\"}\n"
               "    COMPREPLY=(\"${COMPREPLY[@]#\"$known\"}\")\n"
               "}\n"
               "complete -F _dsctl dsctl\n");
}

/* Text inside '...' of zsh's _arguments or fish: no quotes, brackets or colons that they read. */
static void put_quoted(FILE *f, const char *s, int zsh) {
    for (; *s; s++) {
        if (*s == '\'')
            fputs(zsh ? "'\\''" : "\\'", f);
        else if (zsh && strchr("[]:", *s))
            fprintf(f, "\\%c", *s);
        else
            fputc(*s, f);
    }
}

static void zsh_option(FILE *f, const char *dashes, const char *name, const ds_opt *o) {
    fprintf(f, " \\\n            '%s%s[", dashes, name);
    put_quoted(f, o->help, 1);
    fputc(']', f);
    if (has_words(o)) {
        fprintf(f, ":%s:(", o->metavar);
        put_words(f, o->choices);
        fputc(')', f);
    } else if (o->type != DS_OPT_FLAG) {
        fputc(':', f);
        put_quoted(f, o->metavar, 1);
        fprintf(f, ":%s", o->type == DS_OPT_FILE ? "_files" : "");
    }
    fputc('\'', f);
}

static void zsh_options(FILE *f, const ds_opt *table) {
    for (const ds_opt *o = table; o && o->name; o++) {
        char letter[2] = {o->letter, 0};
        zsh_option(f, "--", o->name, o);
        if (o->letter)
            zsh_option(f, "-", letter, o);
    }
}

static void zsh_argument(FILE *f, const ds_command *k) {
    if (!k->max_args)
        return;
    fprintf(f, " \\\n            '1:");
    put_quoted(f, k->args, 1);
    fputc(':', f);
    if (k->kind == DS_ARG_DIR)
        fprintf(f, "_files -/");
    else if (k->kind == DS_ARG_FILE)
        fprintf(f, "_files");
    else if (k->kind == DS_ARG_SHELL)
        fprintf(f, "(bash zsh fish)");
    else if (k->kind == DS_ARG_COMMAND)
        fprintf(f, "_dsctl_commands");
    else if (lister(k->kind))
        fprintf(f, "{ local -a w; w=(${(f)\"$(%s)\"}%s); compadd -a w }", lister(k->kind),
                strstr(k->args, "base") ? " base" : "");
    fputc('\'', f);
}

void ds_complete_zsh(FILE *f) {
    fprintf(f, "#compdef dsctl\n# zsh completion for dsctl; made by 'dsctl completion zsh'\n"
               "_dsctl_commands() {\n    local -a c\n    c=(\n");
    for (const ds_command *k = ds_commands; k->name; k++) {
        fprintf(f, "        '%s:", k->name);
        put_quoted(f, k->summary, 1);
        fprintf(f, "'\n");
    }
    fprintf(f, "    )\n    _describe command c\n}\n"
               "_dsctl() {\n    local curcontext=$curcontext state line\n"
               "    _arguments -C");
    zsh_options(f, ds_global_options);
    fprintf(f, " \\\n            '1:command:_dsctl_commands' \\\n            '*::argument:->rest'\n"
               "    [[ $state == rest ]] || return 0\n    case $words[1] in\n");
    for (const ds_command *k = ds_commands; k->name; k++) {
        fprintf(f, "    %s)\n        _arguments", k->name);
        zsh_argument(f, k);
        zsh_options(f, k->options);
        zsh_options(f, ds_global_options);
        fprintf(f, " ;;\n");
    }
    fprintf(
        f, "    esac\n}\n"
           "if [[ $funcstack[1] == _dsctl ]]; then _dsctl \"$@\"; else compdef _dsctl dsctl; fi\n");
}

static void fish_options(FILE *f, const char *command, const ds_opt *table) {
    for (const ds_opt *o = table; o && o->name; o++) {
        fprintf(f, "complete -c dsctl");
        if (command)
            fprintf(f, " -n '__fish_seen_subcommand_from %s'", command);
        fprintf(f, " -l %s", o->name);
        if (o->letter)
            fprintf(f, " -s %c", o->letter);
        if (has_words(o)) {
            fprintf(f, " -x -a '");
            put_words(f, o->choices);
            fputc('\'', f);
        } else if (o->type != DS_OPT_FLAG) {
            fprintf(f, o->type == DS_OPT_FILE ? " -r -F" : " -x");
        }
        fprintf(f, " -d '");
        put_quoted(f, o->help, 0);
        fprintf(f, "'\n");
    }
}

void ds_complete_fish(FILE *f) {
    fprintf(f,
            "# fish completion for dsctl; made by 'dsctl completion fish'\ncomplete -c dsctl -f\n");
    fish_options(f, NULL, ds_global_options);
    for (const ds_command *k = ds_commands; k->name; k++) {
        fprintf(f, "complete -c dsctl -n '__fish_use_subcommand' -a %s -d '", k->name);
        put_quoted(f, k->summary, 0);
        fprintf(f, "'\n");
        fish_options(f, k->name, k->options);
        fprintf(f, "%s",
                k->kind == DS_ARG_OTHER ? ""
                                        : "complete -c dsctl -n '__fish_seen_subcommand_from ");
        if (k->kind == DS_ARG_FILE)
            fprintf(f, "%s' -F\n", k->name);
        else if (k->kind == DS_ARG_DIR)
            fprintf(f, "%s' -a '(__fish_complete_directories)'\n", k->name);
        else if (k->kind == DS_ARG_SHELL)
            fprintf(f, "%s' -a 'bash zsh fish'\n", k->name);
        else if (k->kind == DS_ARG_COMMAND) {
            fprintf(f, "%s' -a '", k->name);
            put_commands(f);
            fprintf(f, "'\n");
        } else if (lister(k->kind))
            fprintf(f, "%s' -a '(%s)%s'\n", k->name, lister(k->kind),
                    strstr(k->args, "base") ? " base" : "");
    }
}
