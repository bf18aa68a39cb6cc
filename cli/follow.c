#include "cli/follow.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/bars.h"
#include "cli/client.h"
#include "cli/format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double POLL_TTY = 0.2, POLL_PLAIN = 0.25;

typedef struct {
    ds_cli *c;
    ds_progress bar;
    int64_t id, last_seq;
    int any_event, looked;
    char said_state[16];
} follower;

int ds_job_finished(const json_t *job) {
    return ds_job_state_over(ds_job_state_parse(ds_json_string(job, "state", "")));
}

int ds_job_is(const json_t *job, enum ds_job_state state) {
    return !strcmp(ds_json_string(job, "state", ""), ds_job_state_name(state));
}

int ds_error_from_name(const char *name) {
#define X(code, value, http, exit_code, title)                                                     \
    if (!strcmp(name, #code))                                                                      \
        return code;
    DS_ERROR_MAP(X)
#undef X
    return DS_EFAILED;
}

static const char worse_hint[] =
    "; what is published stays, so nothing needs to be done to keep it; add-dataset DIR "
    "--publish-worse publishes a worse version all the same, once";

int ds_job_verdict(const json_t *job, ds_error *err) {
    const json_t *error = json_object_get(job, "error"), *result = json_object_get(job, "result");
    const json_t *gate = json_object_get(result, "gate");
    const char *message = ds_json_string(error, "message", NULL);
    long long id = ds_json_int(job, "id", 0);
    if (ds_job_is(job, DS_JOB_DONE))
        return 0;
    if (ds_job_is(job, DS_JOB_REJECTED)) {
        const json_t *self = json_object_get(gate, "self");
        int worse = !strcmp(ds_json_string(self, "verdict", ""), "refused");
        return ds_fail(err, DS_EREFUSED, "job %lld was refused by the gate: %s%s", id,
                       ds_json_string(gate, "reason", message ? message : "no reason recorded"),
                       worse ? worse_hint : "");
    }
    if (ds_job_is(job, DS_JOB_CANCELLED))
        return ds_fail(err, DS_ECANCELED, "job %lld was cancelled", id);
    int code = ds_error_from_name(ds_json_string(error, "code", ""));
    return ds_fail(err, code, "job %lld failed: %s; its log: dsctl logs %lld", id,
                   message ? message : "no reason recorded", id);
}

static int on_event(void *ud, const char *line, size_t n) {
    follower *f = ud;
    json_t *e = json_loadb(line, n, 0, NULL);
    int64_t seq = ds_json_int(e, "seq", f->last_seq + 1);
    if (!json_is_object(e) || seq <= f->last_seq) {
        json_decref(e);
        return 0;
    }
    f->last_seq = seq;
    f->any_event = 1;
    const char *type = ds_json_string(e, "type", ""), *stage = ds_json_string(e, "stage", NULL);
    if (f->c->json) {
        json_object_set_new(e, "job", json_integer(f->id));
        ds_print_json(f->c, "job-event", e, 1);
    } else if (!strcmp(type, "stage") && stage) {
        ds_progress_stage(&f->bar, stage);
    } else if (!strcmp(type, "progress") && stage) {
        ds_progress_update(&f->bar, stage, e);
    } else if (!strcmp(type, "warning")) {
        ds_progress_clear(&f->bar);
        ds_say(f->c, "warning: %s", ds_json_string(e, "message", ""));
    } else if (!strcmp(type, "ending")) {
        ds_progress_clear(&f->bar);
        ds_say(f->c, "%s", ds_json_string(e, "message", ""));
    } else if (!strcmp(type, "resumed")) {
        ds_progress_clear(&f->bar);
        ds_say(f->c, "resumed at step %lld", (long long)ds_json_int(e, "step", 0));
    }
    json_decref(e);
    return 0;
}

/* While it waits in the queue there are no events: say once what it waits for. */
static void say_state(follower *f, const json_t *job) {
    const char *state = ds_json_string(job, "state", "");
    if (!strcmp(state, f->said_state) || f->c->json)
        return;
    snprintf(f->said_state, sizeof f->said_state, "%s", state);
    const char *message = ds_json_string(json_object_get(job, "error"), "message", NULL);
    if (!ds_job_is(job, DS_JOB_QUEUED))
        return;
    ds_progress_clear(&f->bar);
    if (ds_json_int(job, "attempts", 0) > 0 && message)
        ds_say(f->c, "job %lld will be tried again: %s", (long long)f->id, message);
    else
        ds_say(f->c, "job %lld is queued", (long long)f->id);
}

/* One look: job first and events after it, so a finished job has shown all of its events. */
static int poll_once(follower *f, json_t **job, ds_error *err) {
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/jobs/%lld", (long long)f->id);
    int rc = ds_client_call(f->c->http, "GET", path.data, NULL, job, err);
    if (!rc) {
        if (!f->looked && ds_job_finished(*job))
            goto done; /* long over: its progress is history */
        f->looked = 1;
        say_state(f, *job);
        ds_buf_addf(&path, "/events?since=%lld", (long long)f->last_seq);
        /* Progress is a comfort: when it cannot be read the job's state still decides. */
        if (ds_client_lines(f->c->http, path.data, "application/x-ndjson", on_event, f, NULL) ==
            DS_ECANCELED)
            rc = ds_fail(err, DS_ECANCELED, "interrupted");
        const char *stage = ds_json_string(*job, "stage", NULL);
        if (!f->any_event && stage && !f->c->json)
            ds_progress_update(&f->bar, stage, json_object_get(*job, "progress"));
    }
done:
    if (rc && *job) {
        json_decref(*job);
        *job = NULL;
    }
    ds_buf_release(&path);
    return rc;
}

static int detached(follower *f, ds_error *err) {
    return ds_fail(err, DS_ECANCELED,
                   "interrupted; job %lld goes on (dsctl show-job %lld, dsctl cancel-job %lld)",
                   (long long)f->id, (long long)f->id, (long long)f->id);
}

int ds_follow_job(ds_cli *c, int64_t id, double deadline, json_t **job, ds_error *err) {
    follower f = {.c = c, .id = id};
    double lost_since = 0;
    int rc;
    ds_progress_start(&f.bar, c);
    for (;;) {
        *job = NULL;
        rc = poll_once(&f, job, err);
        double now = ds_monotonic();
        if (!rc) {
            lost_since = 0;
            if (ds_job_finished(*job))
                break;
            json_decref(*job);
            *job = NULL;
        } else if (rc == DS_EUNREACHABLE &&
                   (!lost_since || now - lost_since < DS_FOLLOW_PATIENCE)) {
            if (!lost_since) {
                ds_progress_clear(&f.bar);
                ds_say(c, "diffscalerd is not reachable; waiting for it");
                lost_since = now;
            }
        } else {
            rc = rc == DS_ECANCELED ? detached(&f, err) : rc;
            break;
        }
        if (deadline > 0 && now >= deadline) {
            rc = ds_fail(err, DS_ETIMEOUT, "timed out; job %lld goes on (dsctl show-job %lld)",
                         (long long)id, (long long)id);
            break;
        }
        if (ds_cli_sleep(c->err_tty ? POLL_TTY : POLL_PLAIN, NULL)) {
            rc = detached(&f, err);
            break;
        }
    }
    if (rc)
        ds_progress_clear(&f.bar);
    else
        ds_progress_finish(&f.bar);
    return rc;
}

static int is_same(const json_t *task) {
    return ds_json_bool(task, "unchanged", 0) && ds_json_int(task, "level", 0) == 1 &&
           !strcmp(ds_json_string(task, "verdict", ""), "passed");
}

static void add_task(ds_table *t, const json_t *task) {
    char text[DS_TEXT];
    const char *verdict = ds_json_string(task, "verdict", "");
    int same = ds_json_bool(task, "unchanged", 0);
    int64_t level = ds_json_int(task, "level", 0);
    ds_cell(t, ds_json_string(task, "ref", ds_json_string(task, "name", NULL)));
    ds_cell_styled(t, ds_style_of_state(verdict),
                   same && !strcmp(verdict, "passed") ? "unchanged" : verdict);
    snprintf(text, sizeof text, "%lld", (long long)level);
    ds_cell(t, level ? text : NULL);
    ds_cell(t, ds_fmt_number(text, ds_json_real(task, "fd_recorded")));
    ds_cell(t, ds_fmt_number(text, ds_json_real(task, "fd_now")));
    const char *reason = ds_json_string(task, "reason", "");
    ds_cell(t, *reason ? reason : same && level == 1 ? "same probe digest" : NULL);
}

void ds_print_gate(ds_cli *c, const json_t *gate, int brief) {
    json_t *tasks = json_object_get(gate, "tasks"), *task;
    size_t i, same = 0, n = json_array_size(tasks);
    ds_print_bars(c, gate);
    json_array_foreach(tasks, i, task)
        same += (size_t)(brief && is_same(task));
    if (n > same) {
        ds_table *t = ds_table_new("OLD TASK|VERDICT|LEVEL>|FD RECORDED>|FD NOW>|WHY~");
        json_array_foreach(tasks, i, task) {
            if (!brief || !is_same(task))
                add_task(t, task);
        }
        ds_table_print(t, c, c->out, 2);
        ds_table_free(t);
    }
    if (same)
        fprintf(c->out, "  %zu of %zu old task%s unchanged: same probe digest%s\n", same, n,
                n == 1 ? "" : "s", same == 1 ? "" : "s");
}
