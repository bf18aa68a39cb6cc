/* cli/commands/cmd_evaluate.c - evaluate: FID and its relatives of a folder of pictures.
 *
 * The work is done by `diffscaler-worker evaluate` beside this program, which takes this process
 * over, so its progress, output and exit status are the command's.  The daemon is asked only for
 * what a name stands for: a dataset's folder, a feature network's file; with paths alone none is
 * needed.
 */
#include "base/fs.h"
#include "base/mem.h"
#include "cli/client.h"
#include "cli/start.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const double WITHIN = 24 * 3600;

static int set_path(char out[PATH_MAX], const char *path, ds_error *err) {
    int n = snprintf(out, PATH_MAX, "%s", path);
    return n < PATH_MAX ? 0 : ds_fail(err, DS_EINVAL, "the path '%.100s...' is too long", path);
}

/* What a thing of the daemon is called -> where it lies. */
static int path_of_name(ds_cli *c, const char *route, const char *name, char out[PATH_MAX],
                        ds_error *err) {
    ds_buf path = {0};
    json_t *doc = NULL;
    ds_buf_addf(&path, "%s/", route);
    ds_url_segment(&path, name);
    int rc = ds_client_call(c->http, "GET", path.data, NULL, &doc, err);
    ds_buf_release(&path);
    if (!rc)
        rc = set_path(out, ds_json_string(doc, "path", ""), err);
    json_decref(doc);
    return rc;
}

/* A name that was mistyped is more likely than a daemon that was meant to run. */
static int needs_daemon(int rc, const char *given, const char *what, ds_error *err) {
    return rc != DS_EUNREACHABLE
               ? rc
               : ds_error_prefix(err,
                                 "'%s' is no file or folder here; as %s name it needs the daemon",
                                 given, what);
}

/* A path that is there, else the name of a dataset. */
static int find_against(ds_cli *c, const char *given, char out[PATH_MAX], ds_error *err) {
    if (!access(given, F_OK))
        return set_path(out, given, err);
    if (strchr(given, '/') || ds_fs_ends_with(given, ".npz") || ds_fs_ends_with(given, ".zst"))
        return ds_fail(err, DS_ENOTFOUND, "cannot find '%s'", given);
    int rc = path_of_name(c, "/v1/datasets", given, out, err);
    if (rc == DS_ENOTFOUND)
        return ds_fail(err, rc, "'%s' is no file or folder here, and no dataset has that name",
                       given);
    return needs_daemon(rc, given, "a dataset's", err);
}

/* The newest network of FID that was added; *out stays "" when there is none, or no daemon. */
static int newest_net(ds_cli *c, char out[PATH_MAX], ds_error *err) {
    json_t *doc = NULL;
    const json_t *net;
    size_t i;
    ds_error local = {0};
    int rc = ds_client_call(c->http, "GET", "/v1/feature_nets?limit=1000", NULL, &doc, &local);
    if (rc == DS_EUNREACHABLE || rc == DS_EPERM || rc == DS_ENOTFOUND)
        return 0;
    if (rc)
        return ds_fail(err, rc, "%s", local.message);
    const json_t *items = json_object_get(doc, "items");
    json_array_foreach((json_t *)(uintptr_t)items, i, net) {
        if (!strcmp(ds_json_string(net, "kind", ""), "inception-fid")) {
            rc = set_path(out, ds_json_string(net, "path", ""), err);
            break;
        }
    }
    json_decref(doc);
    return rc;
}

/* The default network with its mode, where a person chose one; *out stays "" otherwise. */
static int default_net(ds_cli *c, char out[PATH_MAX], char mode[32], ds_error *err) {
    json_t *net = NULL;
    int rc = 0;
    if (ds_client_call(c->http, "GET", "/v1/default-feature-net", NULL, &net, NULL))
        return 0; /* no daemon, or no network */
    const char *word = ds_json_string(net, "mode", "");
    if (!ds_json_bool(net, "bundled", 1) && strcmp(word, "bundled")) {
        rc = set_path(out, ds_json_string(net, "path", ""), err);
        snprintf(mode, 32, "%s", word);
    }
    json_decref(net);
    return rc;
}

/* NAME or NAME:MODE; a digest has a colon of its own. */
static int named_net(ds_cli *c, const char *given, char out[PATH_MAX], char mode[32],
                     ds_error *err) {
    const char *colon = strchr(given + (strncmp(given, "sha256:", 7) ? 0 : 7), ':');
    char *name = ds_xstrdup(given);
    if (colon) {
        name[colon - given] = 0;
        snprintf(mode, 32, "%s", colon + 1);
    }
    int rc = path_of_name(c, "/v1/feature_nets", name, out, err);
    rc = needs_daemon(rc, name, "a network's", err);
    free(name);
    return rc;
}

/* "" = the bundled one.  mode: that of the default network, "" where the worker's own will do. */
static int find_net(ds_cli *c, const char *against, char out[PATH_MAX], char chosen[32],
                    ds_error *err) {
    const char *given = ds_opt_text(c, "feature-net", NULL), *mode = ds_opt_text(c, "mode", "");
    out[0] = chosen[0] = 0;
    if (given && (!access(given, F_OK) || strchr(given, '/')))
        return set_path(out, given, err);
    if (given && strcmp(given, "bundled")) {
        int rc = named_net(c, given, out, chosen, err);
        if (!rc && *chosen && *mode && strcmp(chosen, mode))
            rc = ds_fail(err, DS_EINVAL, "--feature-net %s and --mode %s contradict each other",
                         given, mode);
        return rc;
    }
    if (given || !strcmp(mode, "bundled") || (against && ds_fs_ends_with(against, ".zst")))
        return 0;
    int rc = default_net(c, out, chosen, err);
    return rc || *out ? rc : newest_net(c, out, err);
}

/* In the program itself the worker takes over; where the streams are not the process's own (tests)
 * it runs beside, and its words are copied. */
static int become(ds_cli *c, char *argv[], ds_error *err) {
    if (c->out == stdout) {
        fflush(NULL);
        execv(argv[0], argv);
        return ds_fail_errno(err, "cannot run '%s'", argv[0]);
    }
    char *text = NULL;
    int status = 0, rc = ds_run_program(argv, WITHIN, &text, &status, err);
    if (!rc && text)
        fputs(text, c->out);
    free(text);
    if (rc || (WIFEXITED(status) && !WEXITSTATUS(status)))
        return rc;
    int code = WIFEXITED(status) ? ds_error_from_exit(WEXITSTATUS(status)) : DS_EFAILED;
    return ds_fail(err, code ? code : DS_EFAILED, "the evaluation failed");
}

int ds_cmd_evaluate(ds_cli *c, ds_error *err) {
    static const char *const passed[] = {"mode",       "metrics", "n",         "seed",
                                         "save-stats", "device",  "precision", "threads"};
    static const char *const flags[] = {"recursive", "skip-broken", "force"};
    char program[PATH_MAX], against[PATH_MAX] = "", net[PATH_MAX], mode[32], options[16][32],
                            *argv[32];
    const char *given = ds_opt_text(c, "against", NULL);
    int n = 0, rc = 0;
    if (!given && !ds_opt_given(c, "save-stats"))
        return ds_fail(err, DS_EINVAL,
                       "against what? give --against DATASET, FOLDER or FILE.npz, or "
                       "--save-stats FILE.npz");
    if (given)
        rc = find_against(c, given, against, err);
    rc = rc ? rc : find_net(c, given, net, mode, err);
    rc = rc ? rc : ds_find_worker(program, err);
    if (rc)
        return rc;
#define ARG(text) argv[n++] = (char *)(uintptr_t)(text) /* execv's argv is not const */
    ARG(program), ARG("evaluate");
    if (given)
        ARG("--against"), ARG(against);
    if (*net)
        ARG("--feature-net"), ARG(net);
    if (*mode && !ds_opt_given(c, "mode"))
        ARG("--mode"), ARG(mode);
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
        if (ds_opt_given(c, passed[i])) {
            snprintf(options[i], sizeof options[i], "--%s", passed[i]);
            ARG(options[i]), ARG(ds_opt_text(c, passed[i], ""));
        }
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (ds_opt_given(c, flags[i])) {
            snprintf(options[8 + i], sizeof options[8 + i], "--%s", flags[i]);
            ARG(options[8 + i]);
        }
    if (c->json)
        ARG("--json");
    if (c->quiet)
        ARG("--quiet");
    ARG("--"), ARG(c->args[0]); /* a name may begin with a dash */
#undef ARG
    argv[n] = NULL;
    return become(c, argv, err);
}
