/* cli/commands/cmd_export.c - export: an adapter, or the model it makes, for other programs.
 *
 * The daemon says where base and VAE lie and gives the adapter's file, which is checked against its
 * digest; diffscaler-worker beside this program does the rest (worker/convert/export.h).
 */
#include "base/fs.h"
#include "base/mem.h"
#include "cli/client.h"
#include "cli/start.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const double WITHIN = 24 * 3600; /* a whole model is written in minutes */

static int get(ds_cli *c, const char *what, const char *ref, json_t **out, ds_error *err) {
    ds_buf path = {0};
    ds_buf_addf(&path, "%s", what);
    ds_url_segment(&path, ref);
    int rc = ds_client_call(c->http, "GET", path.data, NULL, out, err);
    ds_buf_release(&path);
    return rc;
}

/* *adapter stays NULL for "base". */
static int ask(ds_cli *c, json_t **adapter, json_t **base, ds_error *err) {
    const char *ref = c->args[0];
    char sha[80];
    if (!strcmp(ref, "base"))
        return get(c, "/v1/bases/", "default", base, err);
    int rc = get(c, "/v1/adapters/", ref, adapter, err);
    if (rc) {
        ds_suggest_name(c, ref, 1, err);
        return rc;
    }
    snprintf(sha, sizeof sha, "sha256:%s",
             ds_json_string(json_object_get(*adapter, "base"), "sha256", ""));
    return get(c, "/v1/bases/", sha, base, err);
}

static int download(ds_cli *c, const json_t *adapter, char path[PATH_MAX], ds_error *err) {
    const char *dir = getenv("TMPDIR");
    snprintf(path, PATH_MAX, "%s/dsctl-export-XXXXXX", dir && *dir ? dir : "/tmp");
    int fd = mkstemp(path);
    if (fd < 0) {
        path[0] = 0;
        return ds_fail_errno(err, "cannot make a temporary file in '%s'", dir ? dir : "/tmp");
    }
    FILE *f = fdopen(fd, "w+");
    ds_need(f);
    int rc = ds_pull_into(c, adapter, f, err);
    if (fclose(f) && !rc)
        rc = ds_fail_errno(err, "cannot write '%s'", path);
    return rc;
}

/* The worker's lines: warnings are passed on, the error becomes ours. */
static int outcome(ds_cli *c, char *text, int status, json_t *warnings, ds_error *err) {
    char why[400] = "";
    for (char *line = text, *next; line && *line; line = next) {
        if ((next = strchr(line, '\n')))
            *next++ = 0;
        if (!strncmp(line, "warning: ", 9)) {
            json_t *w = json_string(line + 9);
            if (w)
                json_array_append_new(warnings, w);
            ds_say(c, "%s", line);
        } else if (!strncmp(line, "error: ", 7))
            snprintf(why, sizeof why, "%s", line + 7);
        else
            snprintf(why, sizeof why, "%s", line);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    int code = WIFEXITED(status) ? ds_error_from_exit(WEXITSTATUS(status)) : DS_EFAILED;
    return ds_fail(err, code ? code : DS_EFAILED, "cannot export '%s': %s", c->args[0],
                   *why ? why : "the worker was killed");
}

static int run_worker(ds_cli *c, const char *adapter, const json_t *base, const char *dir,
                      json_t *warnings, ds_error *err) {
    char program[PATH_MAX], *argv[24], *text = NULL;
    int n = 0, status = 0;
    const char *vae = ds_json_string(json_object_get(base, "vae"), "path", NULL),
               *license = ds_json_string(base, "license", NULL);
    if (ds_find_worker(program, err))
        return err->code;
#define ARG(text) argv[n++] = (char *)(uintptr_t)(text) /* execv's argv is not const */
    ARG(program), ARG("export"), ARG("--base"), ARG(ds_json_string(base, "path", ""));
    ARG("--format"), ARG(ds_opt_text(c, "format", "")), ARG("-o"), ARG(dir);
    ARG("--dtype"), ARG(ds_opt_text(c, "dtype", "f32"));
    if (adapter)
        ARG("--adapter"), ARG(adapter);
    if (vae)
        ARG("--vae"), ARG(vae);
    if (license && *license)
        ARG("--license"), ARG(license);
    if (ds_opt_given(c, "merge"))
        ARG("--merge");
    if (ds_opt_given(c, "no-pt"))
        ARG("--no-pt");
    if (ds_opt_given(c, "force"))
        ARG("--force");
#undef ARG
    argv[n] = NULL;
    int rc = ds_run_program(argv, WITHIN, &text, &status, err);
    if (!rc)
        rc = outcome(c, text, status, warnings, err);
    free(text);
    return rc;
}

static void default_dir(const ds_cli *c, const json_t *adapter, const json_t *base,
                        char out[PATH_MAX]) {
    if (adapter)
        snprintf(out, PATH_MAX, "%s-v%lld-%s", ds_json_string(adapter, "name", "adapter"),
                 (long long)ds_json_int(adapter, "version", 0), ds_opt_text(c, "format", ""));
    else
        snprintf(out, PATH_MAX, "%s-%s", ds_json_string(base, "name", "base"),
                 ds_opt_text(c, "format", ""));
    for (char *p = out; *p; p++) /* a name is not a path */
        if (*p == '/')
            *p = '_';
}

/* What needs neither daemon nor worker. */
static int check_options(const ds_cli *c, ds_error *err) {
    const char *format = ds_opt_text(c, "format", ""), *out = ds_opt_text(c, "output", NULL);
    int file = !strcmp(format, "safetensors"), merge = ds_opt_given(c, "merge");
    if (!*format)
        return ds_fail(err, DS_EINVAL, "give --format safetensors, dit, diffusers or peft-like");
    if (ds_opt_given(c, "no-pt") && strcmp(format, "dit"))
        return ds_fail(err, DS_EINVAL, "option --no-pt is for --format dit: no other has model.pt");
    if (merge && !strcmp(format, "peft-like"))
        return ds_fail(err, DS_EINVAL,
                       "option --merge cannot be with --format peft-like, the adapter alone");
    if (file && !merge && !strcmp(ds_opt_text(c, "dtype", "f32"), "bf16"))
        return ds_fail(err, DS_EINVAL,
                       "option --dtype bf16 needs --merge here: the adapter alone is written as it "
                       "is");
    if (out && !strcmp(out, "-"))
        return ds_fail(err, DS_EINVAL, "-o takes a folder, which standard output is not");
    return out ? ds_fs_output_dir_check(out, ds_opt_given(c, "force"), err) : 0;
}

int ds_cmd_export(ds_cli *c, ds_error *err) {
    json_t *adapter = NULL, *base = NULL, *warnings = json_array();
    char path[PATH_MAX] = "", dir[PATH_MAX];
    int given = ds_opt_given(c, "output"), rc = check_options(c, err);
    if (!rc)
        rc = ask(c, &adapter, &base, err);
    if (!rc && given)
        snprintf(dir, sizeof dir, "%s", ds_opt_text(c, "output", ""));
    else if (!rc) {
        default_dir(c, adapter, base, dir);
        rc = ds_fs_output_dir_check(dir, ds_opt_given(c, "force"), err);
    }
    if (!rc && adapter)
        rc = download(c, adapter, path, err);
    if (!rc)
        rc = run_worker(c, adapter ? path : NULL, base, dir, warnings, err);
    if (*path)
        unlink(path);
    if (!rc && c->json) {
        json_t *doc =
            json_pack("{s:s, s:s, s:s, s:O}", "ref", ds_json_string(adapter, "ref", "base"),
                      "format", ds_opt_text(c, "format", ""), "dir", dir, "warnings", warnings);
        ds_print_json(c, "export", doc, 0);
        json_decref(doc);
    } else if (!rc && c->quiet)
        fprintf(c->out, "%s\n", dir);
    else if (!rc)
        ds_say(c, "%s exported to %s", ds_json_string(adapter, "ref", "the base"), dir);
    json_decref(warnings);
    json_decref(adapter);
    json_decref(base);
    return rc;
}
