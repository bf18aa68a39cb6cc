/* cli/dsctl.c - one run of dsctl: options, environment, dispatch, exit status. */
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/client.h"
#include "cli/format.h"

#include <errno.h>
#include <langinfo.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

volatile sig_atomic_t ds_cli_interrupted;

int ds_cli_sleep(double seconds, ds_error *err) {
    double end = ds_monotonic() + seconds;
    while (!ds_cli_interrupted) {
        double rest = end - ds_monotonic();
        if (rest <= 0)
            return 0;
        rest = rest < 0.1 ? rest : 0.1; /* a signal between test and sleep costs this at most */
        struct timespec ts = {0, (long)(rest * 1e9)};
        nanosleep(&ts, NULL);
    }
    return ds_fail(err, DS_ECANCELED, "interrupted");
}

static const char *env(const char *name) {
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

static int set_path(char out[PATH_MAX], const char *what, ds_error *err, const char *a,
                    const char *b) {
    int n = snprintf(out, PATH_MAX, "%s%s", a, b);
    return n < PATH_MAX ? 0 : ds_fail(err, DS_EINVAL, "the path of the %s is too long", what);
}

/* Made absolute without asking whether it exists: a daemon that we start has another folder. */
static int set_absolute(char out[PATH_MAX], const char *what, const char *given, ds_error *err) {
    char cwd[PATH_MAX - 1];
    if (given[0] == '/')
        return set_path(out, what, err, given, "");
    if (!getcwd(cwd, sizeof cwd))
        return ds_fail_errno(err, "cannot find the current folder");
    int n = snprintf(out, PATH_MAX, "%s/%s", cwd, given);
    return n < PATH_MAX ? 0 : ds_fail(err, DS_EINVAL, "the path of the %s is too long", what);
}

/* docs/api.md: --state, DIFFSCALER_STATE, $XDG_STATE_HOME/diffscaler, ~/.local/state/diffscaler.
 * Without a word from the user, a system-wide daemon is found when there is no socket of one's own.
 */
static int find_state(ds_cli *c, ds_error *err) {
    const char *given = ds_opt_text(c, "state", env("DIFFSCALER_STATE"));
    int rc;
    if (given)
        return set_absolute(c->state, "state folder", given, err);
    if (env("XDG_STATE_HOME"))
        rc = set_path(c->state, "state folder", err, env("XDG_STATE_HOME"), "/diffscaler");
    else
        rc = set_path(c->state, "state folder", err, env("HOME") ? env("HOME") : "",
                      "/.local/state/diffscaler");
    struct stat st;
    char own[PATH_MAX];
    if (!rc && !set_path(own, "socket", NULL, c->state, "/socket") && stat(own, &st) &&
        !stat("/var/lib/diffscaler/socket", &st))
        rc = set_path(c->state, "state folder", err, "/var/lib/diffscaler", "");
    return rc;
}

static int find_socket(ds_cli *c, ds_error *err) {
    const char *given = ds_opt_text(c, "socket", env("DIFFSCALER_SOCKET"));
    return given ? set_absolute(c->socket, "socket", given, err)
                 : set_path(c->socket, "socket", err, c->state, "/socket");
}

static void find_terminal(ds_cli *c) {
    struct winsize ws;
    int fd = fileno(c->out);
    const char *term = env("TERM"), *when = ds_opt_text(c, "color", "auto");
    c->out_tty = fd >= 0 && isatty(fd);
    c->err_tty = fileno(c->err) >= 0 && isatty(fileno(c->err)) && (!term || strcmp(term, "dumb"));
    if (!ioctl(c->out_tty ? fd : fileno(c->err), TIOCGWINSZ, &ws))
        c->width = ws.ws_col;
    c->utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
    c->color = !strcmp(when, "always") || (strcmp(when, "never") && c->out_tty &&
                                           !env("NO_COLOR") && (!term || strcmp(term, "dumb")));
}

static int run_command(ds_cli *c, ds_error *err) {
    int rc = find_state(c, err);
    if (!rc)
        rc = find_socket(c, err);
    if (rc)
        return rc;
    c->http = ds_client_new(c->socket, c->state);
    rc = c->command->run(c, err);
    ds_client_free(c->http);
    return rc;
}

/* --help, --version and --dump-... need neither a command nor its arguments. */
static int run_informative(ds_cli *c) {
    if (ds_opt_given(c, "version") && !c->command) {
        fprintf(c->out, "dsctl %s\n", DS_VERSION);
        return 1;
    }
    if (!ds_opt_given(c, "help"))
        return 0;
    if (c->command)
        ds_help_command(c->out, c->command);
    else
        ds_help_overview(c->out);
    return 1;
}

static int check_arguments(const ds_cli *c, ds_error *err) {
    if (!c->command)
        return ds_fail(err, DS_EINVAL, "no command given; 'dsctl help' lists them");
    if (c->arg_count < c->command->min_args)
        return ds_fail(err, DS_EINVAL, "%s needs %s; usage: dsctl %s %s", c->command->name,
                       c->command->args, c->command->name, c->command->args);
    return 0;
}

int ds_cli_run(int argc, char **argv, FILE *out, FILE *err_stream) {
    ds_cli *c = ds_xcalloc(1, sizeof *c);
    ds_error err = {0};
    c->out = out;
    c->err = err_stream;
    c->started = ds_monotonic();
    if (argc == 2 && !strcmp(argv[1], "--dump-commands")) {
        ds_man_dump(out);
        free(c);
        return fflush(out) ? 1 : 0;
    }
    if (argc == 2 && !strcmp(argv[1], "--dump-options")) {
        ds_options_dump(out);
        free(c);
        return fflush(out) ? 1 : 0;
    }
    const ds_command *page = NULL; /* for packaging/man/build.sh, as the one above */
    if (argc == 3 && !strcmp(argv[1], "--dump-command") && (page = ds_command_find(argv[2]))) {
        ds_man_page(out, page);
        free(c);
        return fflush(out) ? 1 : 0;
    }
    int rc = ds_cli_parse(c, argc, argv, &err);
    find_terminal(c);
    if (!rc) {
        c->json = ds_opt_given(c, "json");
        c->quiet = ds_opt_given(c, "quiet");
        if (!run_informative(c) && !(rc = check_arguments(c, &err)))
            rc = run_command(c, &err);
    }
    ds_error lost;
    if (ds_fs_flush(out, "standard output", &lost))
        rc = rc ? rc : ds_fail(&err, DS_EIO, "%s", lost.message); /* whatever the cause, exit 1 */
    if (rc) {
        fputs("dsctl: ", err_stream);
        ds_put_clean(c, err_stream, err.message);
        fputc('\n', err_stream);
    }
    free(c);
    return rc ? ds_error_exit(rc) : 0;
}
