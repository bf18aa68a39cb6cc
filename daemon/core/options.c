/* daemon/core/options.c - see options.h. */
#include "daemon/core/options.h"
#include "base/json.h"
#include "daemon/http/tcp.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage[] =
    "Usage: diffscalerd [OPTION]...\n"
    "The Diffscaler daemon: watches dataset folders, trains adapters, serves the API on a socket.\n"
    "It stays in the foreground; a service manager or '&' puts it elsewhere.\n"
    "\n"
    "  --state DIR         state folder (env DIFFSCALER_STATE; default\n"
    "                      $XDG_STATE_HOME/diffscaler or ~/.local/state/diffscaler)\n"
    "  --socket PATH       unix socket (env DIFFSCALER_SOCKET; default STATE/socket)\n"
    "  --workers N         trainings at the same time (env DIFFSCALER_WORKERS; default 1)\n"
    "  --base FILE         base model, safetensors (env DIFFSCALER_BASE; default: that "
    "of the state, at first the bundled one)\n"
    "  --feature-net FILE  feature network for FD and KID (env DIFFSCALER_FEATURE_NET)\n"
    "  --worker-path FILE  diffscaler-worker (env DIFFSCALER_WORKER; default: beside this "
    "program)\n"
    "  --listen HOST:PORT  also listen on TCP, for who has the token; no encryption: use it on "
    "the\n"
    "                      loopback, or behind a proxy with TLS (default: off)\n"
    "  --token-file FILE   the token, 16 to 512 characters, readable by its owner alone\n"
    "  --nice N            niceness of workers, 0 to 19 (default 10)\n"
    "  --settle SECONDS    quiet time of a folder before it is scanned (default 5)\n"
    "  --rescan SECONDS    every folder is looked at this often at least (default 600, 0 = never)\n"
    "  --base-task HOW     what is recorded of a base's own classes: full (256 pictures and a "
    "probe;\n"
    "                      the default) or probe (four pictures)\n"
    "  --keep-jobs DAYS    ended jobs that nothing refers to are kept for so long (default 90)\n"
    "  --keep-folders DAYS log, samples and result of ended jobs (default 30)\n"
    "  --keep-events DAYS  events; those of publications and gates stay (default 365); 0, here "
    "and\n"
    "                      above, is for ever\n"
    "  --stall SECONDS     a worker that runs and says nothing for so long is ended and tried "
    "again\n"
    "                      (default 3600, 0 = never; at most 604800)\n"
    "  --idle SECONDS      a client that is silent for so long is cut off (default 30)\n"
    "  --log-level LEVEL   debug, info, warn or error (env DIFFSCALER_LOG; default info)\n"
    "  --fsck HOW          check the state folder while no daemon runs, and exit: quick, full or\n"
    "                      repair (what loses nothing); prints JSON; dsctl fsck is for people\n"
    "  --check-config      print the settings, check the files they name, and exit\n"
    "  --version, --help\n"
    "\n"
    "Examples:\n"
    "  diffscalerd &                                   then: dsctl add-dataset ./photos --wait\n"
    "  diffscalerd --state /tmp/try --log-level debug  a private state folder\n"
    "  curl --unix-socket /tmp/try/socket http://d/v1/status\n"
    "\n"
    "SIGTERM or SIGINT stops it: workers write a checkpoint and go on at the next start.\n"
    "Exit: 0 stopped, 1 failed, 2 usage, 3 no such file, 4 another daemon has the state folder,\n"
    "6 no permission, 9 registry damaged, 10 registry newer than this program.\n";

static int number(const char *what, const char *text, double least, double most, double *out,
                  ds_error *err) {
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    /* strtod takes "0x10" and " 8" as well */
    if (errno || end == text || *end || !(v >= least && v <= most) ||
        strspn(text, "+-.0123456789eE") != strlen(text))
        return ds_fail(err, DS_EINVAL, "%s '%s': a number from %g to %g is needed", what, text,
                       least, most);
    *out = v;
    return 0;
}

static int whole(const char *what, const char *text, double least, double most, int *out,
                 ds_error *err) {
    double v;
    int rc = number(what, text, least, most, &v, err);
    if (!rc && v != (int)v)
        return ds_fail(err, DS_EINVAL, "%s '%s': a whole number is needed", what, text);
    if (!rc)
        *out = (int)v;
    return rc;
}

static int level_of(const char *text, enum ds_log_level *out, ds_error *err) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++)
        if (strcasecmp(text, names[i]) == 0) {
            *out = (enum ds_log_level)i;
            return 0;
        }
    return ds_fail(err, DS_EINVAL, "--log-level '%s': use debug, info, warn or error", text);
}

/* An absolute path, without asking whether it exists. */
static int absolute(char out[PATH_MAX], const char *path, ds_error *err) {
    char cwd[PATH_MAX] = "";
    if (path[0] != '/' && !getcwd(cwd, sizeof cwd))
        return ds_fail_errno(err, "cannot find the current folder");
    int n = path[0] == '/' ? snprintf(out, PATH_MAX, "%s", path)
                           : snprintf(out, PATH_MAX, "%s/%s", cwd, path);
    if (!*path || n < 0 || n >= PATH_MAX - 256)
        return ds_fail(err, DS_EINVAL, "path '%.60s' is empty or too long", path);
    if (!ds_json_is_text(out)) /* jobs are told about it in JSON */
        return ds_fail(err, DS_EINVAL, "path '%.200s' is not UTF-8: use another, or rename it",
                       out);
    while (n > 1 && out[n - 1] == '/')
        out[--n] = 0;
    return 0;
}

static int default_state(char out[PATH_MAX], ds_error *err) {
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char path[PATH_MAX];
    int n;
    if (xdg && xdg[0] == '/')
        n = snprintf(path, sizeof path, "%s/diffscaler", xdg);
    else if (home && home[0] == '/')
        n = snprintf(path, sizeof path, "%s/.local/state/diffscaler", home);
    else
        return ds_fail(err, DS_EINVAL,
                       "no state folder: give --state DIR (neither HOME nor "
                       "XDG_STATE_HOME is set)");
    if (n >= PATH_MAX)
        return ds_fail(err, DS_EINVAL, "HOME is too long: give --state DIR");
    return absolute(out, path, err);
}

/* The first of DIR/../../models, DIR/../share/diffscaler/models, DIR/models that has the file. */
static void bundled(char out[PATH_MAX], const char *self, const char *name) {
    static const char *const places[] = {"../../models", "../share/diffscaler/models", "models"};
    const char *slash = strrchr(self, '/');
    int dir = slash ? (int)(slash - self) : 0;
    out[0] = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char path[PATH_MAX + 128];
        snprintf(path, sizeof path, "%.*s/%s/%s", dir, self, places[i], name);
        if (realpath(path, out))
            return;
        out[0] = 0;
    }
}

static void set_defaults(ds_options *o) {
    *o = (ds_options){.workers = 1,
                      .nice = 10,
                      .settle_ms = 5000,
                      .rescan_seconds = 600,
                      .stall_seconds = 3600,
                      .idle_seconds = 30,
                      .keep_jobs_days = 90,
                      .keep_folders_days = 30,
                      .keep_events_days = 365,
                      .log_level = DS_LOG_INFO};
    ssize_t n = readlink("/proc/self/exe", o->self, sizeof o->self - 1);
    o->self[n > 0 ? n : 0] = 0;
}

enum { /* in the order of the table of options */
       STATE = 256,
       SOCKET,
       WORKERS,
       BASE,
       NET,
       WORKER,
       LISTEN,
       TOKEN,
       NICE,
       SETTLE,
       RESCAN,
       BASE_TASK,
       KEEP_JOBS,
       KEEP_FOLDERS,
       KEEP_EVENTS,
       STALL,
       IDLE,
       LEVEL,
       FSCK,
       CHECK,
       VERSION,
       HELP
};

static int apply(ds_options *o, int what, const char *v, ds_error *err) {
    double d = 0;
    int rc = 0, seconds = 1;
    if (!*v)
        return ds_fail(err, DS_EINVAL, "the value is empty");
    switch (what) {
    case STATE: return absolute(o->state, v, err);
    case SOCKET: return absolute(o->socket, v, err);
    case BASE: o->base_given = 1; return absolute(o->base, v, err);
    case NET: o->feature_net_given = 1; return absolute(o->feature_net, v, err);
    case WORKER: return absolute(o->worker, v, err);
    case LISTEN:
        if (strlen(v) >= sizeof o->listen)
            return ds_fail(err, DS_EINVAL, "--listen '%.40s...' is too long", v);
        snprintf(o->listen, sizeof o->listen, "%s", v);
        return 0;
    case TOKEN: return absolute(o->token_file, v, err);
    case WORKERS: return whole("--workers", v, 0, 64, &o->workers, err);
    case NICE: return whole("--nice", v, 0, 19, &o->nice, err);
    case SETTLE:
        rc = number("--settle", v, 0, 3600, &d, err);
        o->settle_ms = (int)(d * 1000);
        return rc;
    case RESCAN: return whole("--rescan", v, 0, 1e6, &o->rescan_seconds, err);
    case BASE_TASK:
        o->base_probe_only = strcmp(v, "probe") == 0;
        return o->base_probe_only || strcmp(v, "full") == 0
                   ? 0
                   : ds_fail(err, DS_EINVAL, "--base-task '%s': use full or probe", v);
    case KEEP_JOBS: return whole("--keep-jobs", v, 0, 36500, &o->keep_jobs_days, err);
    case KEEP_FOLDERS: return whole("--keep-folders", v, 0, 36500, &o->keep_folders_days, err);
    case KEEP_EVENTS: return whole("--keep-events", v, 0, 36500, &o->keep_events_days, err);
    case STALL: return whole("--stall", v, 0, 604800, &o->stall_seconds, err);
    case IDLE:
        rc = whole("--idle", v, 1, 3600, &seconds, err);
        o->idle_seconds = (unsigned)seconds;
        return rc;
    case FSCK:
        if (strcmp(v, "quick") && strcmp(v, "full") && strcmp(v, "repair"))
            return ds_fail(err, DS_EINVAL, "--fsck '%.40s': use quick, full or repair", v);
        snprintf(o->fsck, sizeof o->fsck, "%s", v);
        return 0;
    case LEVEL: return level_of(v, &o->log_level, err);
    default: return 0;
    }
}

static int from_environment(ds_options *o, ds_error *err) {
    static const struct {
        const char *name;
        int what;
    } vars[] = {{"DIFFSCALER_STATE", STATE},     {"DIFFSCALER_SOCKET", SOCKET},
                {"DIFFSCALER_WORKERS", WORKERS}, {"DIFFSCALER_BASE", BASE},
                {"DIFFSCALER_FEATURE_NET", NET}, {"DIFFSCALER_WORKER", WORKER},
                {"DIFFSCALER_LOG", LEVEL}};
    for (size_t i = 0; i < sizeof vars / sizeof *vars; i++) {
        const char *v = getenv(vars[i].name);
        if (v && *v && apply(o, vars[i].what, v, err))
            return ds_error_prefix(err, "environment variable %s", vars[i].name);
    }
    return 0;
}

static int is_file(const char *option, const char *path, ds_error *err) {
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode)
               ? 0
               : ds_fail(err, DS_EINVAL, "%s is '%.300s', which is no file", option, path);
}

static int finish(ds_options *o, ds_error *err) {
    int rc = *o->state ? 0 : default_state(o->state, err);
    if (rc || *o->fsck) /* which needs nothing but the folder */
        return rc;
    if (!*o->socket && snprintf(o->socket, PATH_MAX, "%s/socket", o->state) >= PATH_MAX)
        return ds_fail(err, DS_EINVAL, "state folder's path is too long");
    if (!*o->worker) {
        const char *slash = strrchr(o->self, '/');
        if (snprintf(o->worker, PATH_MAX, "%.*s/diffscaler-worker",
                     slash ? (int)(slash - o->self) : 0, o->self) >= PATH_MAX)
            return ds_fail(err, DS_EINVAL, "the program's path is too long");
    }
    if (!o->base_given) {
        bundled(o->base, o->self, "motley-flow.safetensors");
        bundled(*o->base ? o->older_base : o->base, o->self, "emoji-dit.safetensors");
    }
    if (!o->feature_net_given)
        bundled(o->feature_net, o->self, "inception-v3-mixed6c.safetensors.zst");
    if (*o->listen && !*o->token_file)
        return ds_fail(err, DS_EINVAL,
                       "--listen needs --token-file FILE: without a token everybody on the network "
                       "could use the daemon");
    if (*o->token_file && !*o->listen)
        return ds_fail(err, DS_EINVAL, "--token-file is of no use without --listen HOST:PORT");
    if (*o->listen) {
        char digest[DS_HEX_SIZE];
        rc = ds_tcp_check(o->listen, err);
        if (!rc)
            rc = ds_token_read(o->token_file, digest, err);
        if (rc)
            return rc;
    }
    if (o->base_given && access(o->base, R_OK))
        return ds_fail_errno(err, "cannot read base model '%s'", o->base);
    if (o->feature_net_given && access(o->feature_net, R_OK))
        return ds_fail_errno(err, "cannot read feature network '%s'", o->feature_net);
    if (access(o->worker, X_OK))
        return ds_fail_errno(err, "cannot run worker '%s' (see --worker-path)", o->worker);
    rc = o->base_given ? is_file("--base", o->base, err) : 0;
    if (!rc && o->feature_net_given)
        rc = is_file("--feature-net", o->feature_net, err);
    return rc ? rc : is_file("--worker-path", o->worker, err);
}

int ds_options_parse(int argc, char **argv, ds_options *o, ds_error *err) {
    static const struct option known[] = {{"state", required_argument, NULL, STATE},
                                          {"socket", required_argument, NULL, SOCKET},
                                          {"workers", required_argument, NULL, WORKERS},
                                          {"base", required_argument, NULL, BASE},
                                          {"feature-net", required_argument, NULL, NET},
                                          {"worker-path", required_argument, NULL, WORKER},
                                          {"listen", required_argument, NULL, LISTEN},
                                          {"token-file", required_argument, NULL, TOKEN},
                                          {"nice", required_argument, NULL, NICE},
                                          {"settle", required_argument, NULL, SETTLE},
                                          {"rescan", required_argument, NULL, RESCAN},
                                          {"base-task", required_argument, NULL, BASE_TASK},
                                          {"keep-jobs", required_argument, NULL, KEEP_JOBS},
                                          {"keep-folders", required_argument, NULL, KEEP_FOLDERS},
                                          {"keep-events", required_argument, NULL, KEEP_EVENTS},
                                          {"stall", required_argument, NULL, STALL},
                                          {"idle", required_argument, NULL, IDLE},
                                          {"log-level", required_argument, NULL, LEVEL},
                                          {"fsck", required_argument, NULL, FSCK},
                                          {"check-config", no_argument, NULL, CHECK},
                                          {"version", no_argument, NULL, VERSION},
                                          {"help", no_argument, NULL, HELP},
                                          {NULL, 0, NULL, 0}};
    const char *given[HELP - STATE + 1] = {NULL};
    set_defaults(o);
    int rc = from_environment(o, err);
    opterr = 0;
    for (int c; !rc && (c = getopt_long(argc, argv, "h", known, NULL)) != -1;) {
        if (c == HELP || c == 'h') {
            fputs(usage, stdout);
            return 1;
        }
        if (c == VERSION) {
            printf("diffscalerd %s\n", DS_VERSION);
            return 1;
        }
        if (c == '?' || c == ':')
            return ds_fail(err, DS_EINVAL,
                           "option '%s' is not known or lacks its value: see --help",
                           argv[optind - 1]);
        if (c == CHECK) {
            o->check_config = 1;
            continue;
        }
        int k = c - STATE;
        if (given[k] && strcmp(given[k], optarg))
            return ds_fail(err, DS_EINVAL,
                           "option --%s is given twice, as '%.100s' and as '%.100s'", known[k].name,
                           given[k], optarg);
        given[k] = optarg;
        rc = apply(o, c, optarg, err);
        if (rc && !*optarg)
            ds_error_prefix(err, "option --%s", known[k].name);
    }
    if (!rc && optind < argc)
        return ds_fail(err, DS_EINVAL, "'%s' is one argument too many: see --help", argv[optind]);
    return rc ? rc : finish(o, err);
}

void ds_options_print(const ds_options *o) {
    printf("state = %s\nsocket = %s\nworker = %s\nbase = %s\nfeature-net = %s\n", o->state,
           o->socket, o->worker, *o->base ? o->base : "(none found: datasets wait)",
           *o->feature_net ? o->feature_net : "(none found: datasets wait)");
    if (*o->listen)
        printf("listen = %s\ntoken-file = %s\n", o->listen, o->token_file);
    printf("workers = %d\nnice = %d\nsettle = %g\nrescan = %d\nbase-task = %s\nstall = %d\n"
           "idle = %u\n",
           o->workers, o->nice, o->settle_ms / 1000.0, o->rescan_seconds,
           o->base_probe_only ? "probe" : "full", o->stall_seconds, o->idle_seconds);
    printf("keep-jobs = %d\nkeep-folders = %d\nkeep-events = %d\n", o->keep_jobs_days,
           o->keep_folders_days, o->keep_events_days);
}
