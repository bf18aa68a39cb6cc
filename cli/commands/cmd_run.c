/* cli/commands/cmd_run.c - verify and sample: a job is made, followed, and its outcome brought
 * back. */
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "contract/job.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/pictures.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int ds_post_and_follow(ds_cli *c, const char *path, const json_t *body, json_t **job,
                       ds_error *err) {
    json_t *queued = NULL;
    int rc = ds_client_call(c->http, "POST", path, body, &queued, err);
    if (rc) {
        if (c->arg_count && strcmp(c->args[0], "base"))
            ds_suggest_name(c, c->args[0], 1, err);
        return rc;
    }
    int64_t id = ds_json_int(queued, "id", 0);
    const json_t *notes = json_object_get(queued, "notes"), *note;
    size_t i;
    json_array_foreach((json_t *)(uintptr_t)notes, i, note)
        if (json_is_string(note))
            ds_say(c, "note: %s", json_string_value(note));
    json_decref(queued);
    if (id < 1)
        return ds_fail(err, DS_EFAILED, "the answer to POST %s names no job", path);
    double timeout = ds_opt_number(c, "timeout", 0);
    return ds_follow_job(c, id, timeout > 0 ? c->started + timeout : 0, job, err);
}

/* "base:emoji-dit recorded: FD 12.3 of 512 samples, 6 classes" */
static void recorded(ds_cli *c, const json_t *task) {
    char fd[DS_TEXT], n[DS_TEXT];
    const char *note = ds_json_string(task, "note", "");
    if (!json_is_object(task))
        return;
    ds_buf b = {0};
    ds_buf_addf(
        &b, "%s %s: FD %s of %s samples, %lld classes%s%s", ds_json_string(task, "ref", "base"),
        ds_json_bool(task, "recorded", 1) ? "recorded" : "was recorded meanwhile",
        ds_fmt_number(fd, ds_json_real(task, "fd")), ds_fmt_count(n, ds_json_int(task, "n", -1)),
        (long long)ds_json_int(task, "classes", 0), *note ? "; " : "", note);
    ds_put_clean(c, c->out, b.data);
    fputc('\n', c->out);
    ds_buf_release(&b);
}

static void verify_summary(ds_cli *c, const json_t *result) {
    const json_t *gate = json_object_get(result, "gate");
    const char *reason = ds_json_string(gate, "reason", "");
    const char *verdict = ds_json_string(gate, "verdict", "-");
    ds_style style = ds_style_of_state(verdict);
    size_t n = json_array_size(json_object_get(gate, "tasks"));
    ds_print_gate(c, gate, 0);
    recorded(c, json_object_get(result, "base_task"));
    fprintf(c->out, "%s%s%s: %zu task%s checked", ds_style_on(c, style), verdict,
            ds_style_off(c, style), n, n == 1 ? "" : "s");
    fprintf(c->out, "%s", *reason ? "; " : "");
    ds_put_clean(c, c->out, reason);
    fputc('\n', c->out);
}

int ds_cmd_verify(ds_cli *c, ds_error *err) {
    if (c->arg_count && ds_opt_given(c, "all"))
        return ds_fail(err, DS_EINVAL, "option --all and REF '%s' exclude each other", c->args[0]);
    json_t *body = json_object(), *job = NULL;
    int alone = c->arg_count && !strcmp(c->args[0], "base"); /* as in sample base */
    json_object_set_new(body, "ref",
                        c->arg_count && !alone ? json_string(c->args[0]) : json_null());
    if (alone)
        json_object_set_new(body, "base_task", json_true());
    json_object_set_new(body, "full", json_boolean(ds_opt_given(c, "full")));
    if (ds_opt_given(c, "base"))
        json_object_set_new(body, "base", json_string(ds_opt_text(c, "base", "")));
    int rc = ds_post_and_follow(c, "/v1/verify", body, &job, err);
    json_decref(body);
    if (rc)
        return rc;
    const json_t *gate = json_object_get(json_object_get(job, "result"), "gate");
    rc = ds_job_verdict(job, err);
    if (c->json)
        ds_print_json(c, "job", job, 1);
    else if (c->quiet)
        fprintf(c->out, "%s\n", ds_json_string(gate, "verdict", ""));
    else if (json_is_object(gate))
        verify_summary(c, json_object_get(job, "result"));
    json_decref(job);
    return rc;
}

/* DIR/ and FILE.npz take the pictures one by one, everything else is a sheet. */
static int wants_single(const char *target) {
    return ds_pictures_folder(target) || ds_fs_ends_with(target, ".npz");
}

static json_t *sample_request(const ds_cli *c) {
    json_t *r = json_object();
    int base = !strcmp(c->args[0], "base");
    json_object_set_new(r, "ref", base ? json_null() : json_string(c->args[0]));
    json_object_set_new(r, "n", json_integer((json_int_t)ds_opt_number(c, "n", 16)));
    if (ds_opt_given(c, "base"))
        json_object_set_new(r, "base", json_string(ds_opt_text(c, "base", "")));
    if (ds_opt_given(c, "class"))
        json_object_set_new(r, "class", json_string(ds_opt_text(c, "class", "")));
    if (ds_opt_given(c, "steps"))
        json_object_set_new(r, "steps", json_integer((json_int_t)ds_opt_number(c, "steps", 0)));
    if (ds_opt_given(c, "guidance"))
        json_object_set_new(r, "guidance", json_real(ds_opt_number(c, "guidance", 1)));
    if (ds_opt_given(c, "guidance-mode"))
        json_object_set_new(r, "guidance_mode", json_string(ds_opt_text(c, "guidance-mode", "")));
    if (ds_opt_given(c, "guidance-domain"))
        json_object_set_new(r, "guidance_domain",
                            json_real(ds_opt_number(c, "guidance-domain", 1)));
    if (ds_opt_given(c, "guidance-class"))
        json_object_set_new(r, "guidance_class", json_real(ds_opt_number(c, "guidance-class", 1)));
    if (ds_opt_given(c, "guidance-low"))
        json_object_set_new(r, "guidance_low", json_real(ds_opt_number(c, "guidance-low", 0)));
    if (ds_opt_given(c, "sampler"))
        json_object_set_new(r, "sampler", json_string(ds_opt_text(c, "sampler", "")));
    json_object_set_new(r, "seed", json_integer((json_int_t)ds_opt_number(c, "seed", 1)));
    if (wants_single(ds_opt_text(c, "output", "")))
        json_object_set_new(r, "sheet", json_false());
    return r;
}

static void sample_target(const ds_cli *c, char out[PATH_MAX]) {
    const char *given = ds_opt_text(c, "output", NULL);
    int n = given ? snprintf(out, PATH_MAX, "%s", given)
                  : snprintf(out, PATH_MAX, "%s.png", c->args[0]);
    DS_ASSERT(n >= 0);
    for (char *p = out; !given && *p; p++)
        if (strchr("/@:", *p))
            *p = '-';
}

/* Before anything is drawn: can the picture be written where it is to go? */
static int check_target(const ds_cli *c, const char *target, ds_error *err) {
    if (strcmp(target, "-"))
        return ds_pictures_check(target, ds_opt_given(c, "force"), err);
    return c->json ? ds_fail(err, DS_EINVAL,
                             "-o - writes the picture to standard output, where --json cannot go "
                             "as well: give -o FILE")
                   : 0;
}

/* The picture as a whole file or not at all; "-" is the standard output. */
static int fetch_grid(ds_cli *c, int64_t id, const char *target, ds_error *err) {
    char *data = NULL;
    size_t n = 0;
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/jobs/%lld/files/" DS_FILE_GRID, (long long)id);
    FILE *f = open_memstream(&data, &n);
    ds_need(f);
    int rc = ds_client_download(c->http, path.data, f, NULL, NULL, NULL, err);
    fclose(f);
    if (!rc && (n < 8 || memcmp(data, "\x89PNG\r\n\x1a\n", 8)))
        rc = ds_fail(err, DS_EINTEGRITY, "job %lld's grid.png is not a PNG file", (long long)id);
    if (!rc && !strcmp(target, "-"))
        rc = fwrite(data, 1, n, c->out) == n && !fflush(c->out)
                 ? 0
                 : ds_fail(err, DS_EIO, "cannot write to standard output: %s", strerror(errno));
    else if (!rc)
        rc = ds_fs_output_write(target, data, n, ds_opt_given(c, "force"), err);
    free(data);
    ds_buf_release(&path);
    return rc;
}

static void on_fetched(void *ud, int64_t done, int64_t total) {
    if (total < (8 << 20)) /* not worth a line */
        return;
    json_t *o = json_pack("{s:I, s:I, s:s}", "done", (json_int_t)done, "total", (json_int_t)total,
                          "unit", "bytes");
    ds_progress_update(ud, "fetch", o);
    json_decref(o);
}

/* The pictures one by one, as they come; *n of them. */
static int fetch_single(ds_cli *c, int64_t id, const char *target, int64_t *n, ds_error *err) {
    ds_pictures *p;
    ds_progress bar;
    int rc = ds_pictures_open(&p, target, ds_opt_given(c, "force"), err);
    if (rc)
        return rc;
    ds_progress_start(&bar, c);
    rc = ds_pictures_fetch(p, c->http, id, on_fetched, &bar, n, err);
    ds_progress_clear(&bar);
    return rc;
}

/* What cost hours is not lost with a full disk here. */
static int kept(ds_cli *c, int64_t id, ds_error *err) {
    ds_error e = *err;
    return ds_fail(err, e.code,
                   "%s; job %lld keeps the pictures: curl --unix-socket '%s' "
                   "http://d/v1/jobs/%lld/files/" DS_FILE_SAMPLES,
                   e.message, (long long)id, c->socket, (long long)id);
}

static int fetch(ds_cli *c, int64_t id, const char *target, json_t *job, ds_error *err) {
    int64_t n = 0;
    int rc = wants_single(target) ? fetch_single(c, id, target, &n, err)
                                  : fetch_grid(c, id, target, err);
    if (!rc && n)
        json_object_set_new(job, "pictures", json_integer(n));
    return rc && wants_single(target) ? kept(c, id, err) : rc;
}

int ds_cmd_sample(ds_cli *c, ds_error *err) {
    char target[PATH_MAX], took[DS_TEXT];
    sample_target(c, target);
    int rc = check_target(c, target, err);
    if (rc)
        return rc;
    json_t *body = sample_request(c), *job = NULL;
    rc = ds_post_and_follow(c, "/v1/samples", body, &job, err);
    json_decref(body);
    if (!rc && !(rc = ds_job_verdict(job, err)))
        rc = fetch(c, ds_json_int(job, "id", 0), target, job, err);
    const json_t *result = json_object_get(job, "result");
    if (!rc && strcmp(target, "-")) {
        if (c->json) {
            json_object_set_new(job, "file", json_string(target));
            ds_print_json(c, "job", job, 1);
        } else if (c->quiet) {
            fprintf(c->out, "%s\n", target);
        } else {
            long long n = ds_json_int(result, "n", (int64_t)ds_opt_number(c, "n", 16));
            double passes = ds_json_number(result, "passes", 0); /* not of an earlier worker */
            char cost[64] = "";
            if (passes > 0)
                snprintf(cost, sizeof cost, " (%.3g pass%s a step)", passes,
                         passes == 1 ? "" : "es");
            ds_say(c, "%lld image%s of %s in %s%s, written to %s", n, n == 1 ? "" : "s", c->args[0],
                   ds_fmt_duration(took, ds_json_real(result, "seconds")), cost, target);
        }
    }
    json_decref(job);
    return rc;
}
