/* cli/commands/cmd_job.c - list, show, read and cancel jobs. */
#include "base/mem.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/list.h"

#include <stdlib.h>
#include <string.h>

static int job_id(const char *text, int64_t *id, ds_error *err) {
    char *end;
    *id = strtoll(text, &end, 10);
    if (end == text || *end || *id < 1)
        return ds_fail(err, DS_EINVAL, "'%s' is not a job number; dsctl list-jobs shows them",
                       text);
    return 0;
}

static void progress_cell(const json_t *job, char *out, size_t size) {
    const json_t *p = json_object_get(job, "progress");
    double done = ds_json_real(p, "done"), total = ds_json_real(p, "total");
    const char *stage = ds_json_string(job, "stage", NULL);
    out[0] = 0;
    if (!ds_job_is(job, DS_JOB_RUNNING))
        return;
    if (total > 0)
        snprintf(out, size, "%.20s %.0f %%", stage ? stage : "", 100 * done / total);
    else
        snprintf(out, size, "%.40s", stage ? stage : "");
}

static void subject_cell(const json_t *job, char *out, size_t size) {
    const char *dataset = ds_json_string(job, "dataset", NULL);
    int64_t version = ds_json_int(job, "dataset_version", 0);
    if (dataset && version)
        snprintf(out, size, "%s v%lld", dataset, (long long)version);
    else
        snprintf(out, size, "%s", dataset ? dataset : ds_json_string(job, "name", ""));
}

static void add_row(ds_table *t, const json_t *job) {
    const char *state = ds_json_string(job, "state", "");
    char text[DS_TEXT], subject[300];
    double from = (double)ds_time_parse(ds_json_string(job, "started_at", NULL)),
           to = (double)ds_time_parse(ds_json_string(job, "finished_at", NULL));
    snprintf(text, sizeof text, "%lld", (long long)ds_json_int(job, "id", 0));
    ds_cell(t, text);
    ds_cell(t, ds_json_string(job, "kind", NULL));
    subject_cell(job, subject, sizeof subject);
    ds_cell(t, subject);
    ds_cell_styled(t, ds_style_of_state(state), state);
    progress_cell(job, text, sizeof text);
    ds_cell(t, text);
    ds_cell(t, ds_fmt_time(text, ds_json_string(job, "created_at", NULL)));
    ds_cell(t, from >= 0 && to >= from ? ds_fmt_duration(text, (to - from) / 1000) : NULL);
    ds_cell(t, ds_json_string(job, "adapter",
                              ds_json_string(json_object_get(job, "error"), "message", NULL)));
}

static void print_jobs(ds_cli *c, const json_t *items) {
    size_t i;
    const json_t *job;
    ds_table *t = ds_table_new("JOB>|KIND|DATASET~|STATE|PROGRESS|QUEUED|TOOK>|OUTCOME~");
    json_array_foreach((json_t *)(uintptr_t)items, i, job)
        add_row(t, job);
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

int ds_cmd_list_jobs(ds_cli *c, ds_error *err) {
    static const ds_list_view view = {
        .kind = "jobs", .id = "id", .none = "no jobs", .table = print_jobs};
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/jobs");
    if (ds_opt_given(c, "status"))
        ds_url_query(&path, "state", ds_opt_text(c, "status", ""));
    if (ds_opt_given(c, "kind"))
        ds_url_query(&path, "kind", ds_opt_text(c, "kind", ""));
    if (ds_opt_given(c, "dataset"))
        ds_url_query(&path, "dataset", ds_opt_text(c, "dataset", ""));
    int rc = ds_list(c, path.data, &view, err);
    ds_buf_release(&path);
    return rc;
}

static int exchange(ds_cli *c, const char *method, const char *rest, json_t **job, ds_error *err) {
    int64_t id;
    int rc = job_id(c->args[0], &id, err);
    if (rc)
        return rc;
    char path[80];
    snprintf(path, sizeof path, "/v1/jobs/%lld%s", (long long)id, rest);
    return ds_client_call(c->http, method, path, NULL, job, err);
}

static void show_times(ds_cli *c, const json_t *job) {
    static const char *const times[][2] = {{"queued", "created_at"},
                                           {"started", "started_at"},
                                           {"finished", "finished_at"},
                                           {"next try", "run_after"}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        char when[DS_TEXT];
        const char *at = ds_json_string(job, times[i][1], NULL);
        int later = i == 3 && !ds_job_is(job, DS_JOB_QUEUED);
        if (at && !later)
            ds_field(c, times[i][0], "%s", ds_fmt_time(when, at));
    }
}

static void show(ds_cli *c, const json_t *job) {
    char subject[300];
    const json_t *error = json_object_get(job, "error"), *result = json_object_get(job, "result");
    ds_field(c, "job", "%lld", (long long)ds_json_int(job, "id", 0));
    ds_field(c, "kind", "%s", ds_json_string(job, "kind", "-"));
    subject_cell(job, subject, sizeof subject);
    int import = !strcmp(ds_json_string(job, "kind", ""), "import");
    ds_field(c, import ? "model" : "dataset", "%s", subject);
    if (import && ds_json_string(result, "sha256", NULL))
        ds_field(c, "digest", "sha256:%s", ds_json_string(result, "sha256", ""));
    ds_field(c, "state", "%s", ds_json_string(job, "state", "-"));
    const json_t *attempts = json_object_get(job, "attempts");
    ds_field(c, "attempts", "%lld of %lld",
             json_is_array(attempts) ? (long long)json_array_size(attempts)
                                     : (long long)ds_json_int(job, "attempts", 0),
             (long long)ds_json_int(job, "max_attempts", 0));
    if (ds_json_string(job, "base", NULL))
        ds_field(c, "base", "%s", ds_json_string(job, "base", ""));
    if (ds_json_int(job, "postponed", 0))
        ds_field(c, "postponed", "%lld times in a row",
                 (long long)ds_json_int(job, "postponed", 0));
    show_times(c, job);
    if (!ds_job_finished(job) && ds_json_string(job, "stage", NULL)) {
        ds_buf text = {0};
        ds_progress_text(json_object_get(job, "progress"), &text);
        ds_field(c, "progress", "%s  %s", ds_json_string(job, "stage", ""),
                 text.data ? text.data : "");
        ds_buf_release(&text);
    }
    if (json_is_object(error))
        ds_field(c, "error", "%s: %s", ds_json_string(error, "code", "-"),
                 ds_json_string(error, "message", "-"));
    if (ds_json_string(job, "adapter", NULL))
        ds_field(c, "adapter", "%s", ds_json_string(job, "adapter", ""));
    const json_t *gate = json_object_get(result, "gate");
    if (json_is_object(gate))
        ds_field(c, "gate", "%s %s", ds_json_string(gate, "verdict", "-"),
                 ds_json_string(gate, "reason", ""));
    ds_print_gate(c, gate, 0);
}

int ds_cmd_show_job(ds_cli *c, ds_error *err) {
    json_t *job = NULL;
    int rc = exchange(c, "GET", "", &job, err);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "job", job, 0);
    else if (c->quiet)
        fprintf(c->out, "%s\n", ds_json_string(job, "state", ""));
    else
        show(c, job);
    json_decref(job);
    return 0;
}

int ds_cmd_cancel_job(ds_cli *c, ds_error *err) {
    json_t *job = NULL;
    int rc = exchange(c, "POST", "/cancel", &job, err);
    if (rc)
        return rc;
    if (c->json)
        ds_print_json(c, "job", job, 0);
    else
        ds_say(c, "job %s is being cancelled", c->args[0]);
    json_decref(job);
    return 0;
}

/* Logs go through line by line; tabs stay, other control characters do not reach a terminal. */
static void put_log(ds_cli *c, const ds_buf *text) {
    if (!c->out_tty) {
        fwrite(text->data, 1, text->len, c->out);
        return;
    }
    for (const char *p = text->data, *end = p + text->len; p < end;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = nl ? (size_t)(nl - p) : (size_t)(end - p);
        char *line = ds_xasprintf("%.*s", (int)n, p);
        for (char *q = line; *q; q++)
            if (*q == '\t')
                *q = ' ';
        ds_put_clean(c, c->out, line);
        free(line);
        if (nl)
            fputc('\n', c->out);
        p += n + 1;
    }
}

/* Prints what is new and moves *offset; 0 bytes is fine. */
static int read_log(ds_cli *c, int64_t id, int64_t *offset, size_t *got, ds_error *err) {
    char path[80];
    ds_buf text = {0};
    int64_t next = -1;
    snprintf(path, sizeof path, "/v1/jobs/%lld/log?offset=%lld", (long long)id, (long long)*offset);
    int rc = ds_client_text(c->http, path, &text, &next, err);
    *got = text.len;
    if (!rc && text.len)
        put_log(c, &text);
    fflush(c->out);
    if (!rc && ferror(c->out))
        rc = ds_fail(err, DS_EIO, "cannot write to standard output");
    *offset = next >= 0 ? next : *offset + (int64_t)text.len;
    ds_buf_release(&text);
    return rc;
}

int ds_cmd_logs(ds_cli *c, ds_error *err) {
    int64_t id, offset = 0;
    int rc = job_id(c->args[0], &id, err), over = 0;
    size_t got = 0;
    while (!rc) {
        json_t *job = NULL;
        /* The state first: what is written before the end is then read before we stop. */
        if (ds_opt_given(c, "follow")) {
            rc = exchange(c, "GET", "", &job, err);
            over = !rc && ds_job_finished(job);
            json_decref(job);
        }
        if (!rc)
            rc = read_log(c, id, &offset, &got, err);
        if (rc || (!got && (over || !ds_opt_given(c, "follow"))))
            break;
        if (!got)
            rc = ds_cli_sleep(0.3, err);
    }
    return rc;
}
