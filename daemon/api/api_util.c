/* daemon/api/api_util.c - what several handlers need. */
#include "base/json.h"
#include "daemon/api/api.h"
#include "daemon/folders/watch.h"
#include "daemon/jobs/workers.h"
#include "registry/rows/datasets.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ds_api_page(ds_request *rq, ds_page *page, ds_error *err) {
    int64_t limit;
    int rc = ds_request_int(rq, "limit", 1, DS_LIST_MAX, DS_LIST_DEFAULT, &limit, err);
    const char *cursor = ds_request_query(rq, "cursor");
    *page = (ds_page){.limit = (int)limit, .cursor = cursor && *cursor ? cursor : NULL};
    return rc;
}

int ds_api_reply_rows(ds_request *rq, ds_rows *rows, int rc) {
    if (rc) {
        ds_buf_release(&rows->text);
        return rc;
    }
    ds_buf_add(&rows->text, "\n", 1);
    return ds_reply_take(rq, 200, "application/json", rows->text.data, rows->text.len);
}

int ds_api_dataset_known(ds_daemon *d, const char *name, ds_error *err) {
    int64_t id;
    return name ? ds_dataset_id(d->registry, name, &id, err) : 0;
}

int ds_api_time(const char *what, const char *text, int64_t *ms, ds_error *err) {
    *ms = 0;
    if (!text || !*text)
        return 0;
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (!errno && !*end && number >= 0 && strspn(text, "0123456789") == strlen(text)) {
        *ms = number;
        return 0;
    }
    if (ds_time_read(text, ms) == DS_TIME_NONE)
        return ds_fail(err, DS_EINVAL,
                       "'%s' is '%.60s': give a time as 2026-01-02T03:04:05Z or 2026-01-02", what,
                       text);
    return 0;
}

int ds_api_id(ds_request *rq, int param, int64_t *id, ds_error *err) {
    const char *text = ds_request_param(rq, param);
    char *end;
    errno = 0;
    *id = strtoll(text, &end, 10);
    if (errno || *end || *id <= 0 || strspn(text, "0123456789") != strlen(text))
        return ds_fail(err, DS_EINVAL, "job '%.60s': a job is named by its number", text);
    return 0;
}

/* ---- looks ---- */

typedef struct {
    ds_request *rq;
    ds_ask *ask;
    int done, code;
    char *text; /* the path, or what is wrong */
} looked;

typedef struct {
    looked of[3];
} looks;

static void on_look(void *ctx, const ds_answer *a) {
    looked *l = ctx;
    if (!a->last)
        return;
    l->ask = NULL;
    l->done = 1;
    l->code = a->code;
    l->text = ds_xstrdup(a->size ? a->text : "");
    ds_request_go_on(l->rq);
}

static void on_look_late(void *ctx) {
    looked *l = ctx;
    ds_ask_forget(l->ask);
    l->ask = NULL;
    l->done = 1;
    l->code = DS_ETIMEOUT;
    ds_request_go_on(l->rq);
}

static void release_looks(void *state) {
    looks *all = state;
    for (int i = 0; i < 3; i++) {
        ds_ask_forget(all->of[i].ask);
        free(all->of[i].text);
    }
}

int ds_api_look(ds_request *rq, ds_daemon *d, int slot, enum ds_ask_op op, const char *word,
                const char *path, int flag, char real[PATH_MAX], ds_error *err) {
    looks *all = ds_request_state(rq, sizeof *all, release_looks);
    looked *l = &all->of[slot];
    if (l->done && l->code == DS_ETIMEOUT)
        return ds_fail(err, DS_ETIMEOUT,
                       "the file system of '%.300s' does not answer: see to it, and try again",
                       path);
    if (l->done && l->code)
        return ds_fail(err, l->code, "%s", l->text);
    if (l->done) {
        snprintf(real, PATH_MAX, "%s", l->text);
        return 0;
    }
    if (l->ask) /* another look, or a lock, has called again */
        return DS_HTTP_WAIT;
    ds_question q = {.op = op, .flag = (uint32_t)flag};
    if (strlen(path) >= sizeof q.path)
        return ds_fail(err, DS_EINVAL, "path is too long (%zu bytes)", strlen(path));
    snprintf(q.word, sizeof q.word, "%s", word);
    snprintf(q.path, sizeof q.path, "%s", path);
    l->rq = rq;
    ds_ask_to to = {on_look, on_look_late, l};
    l->ask = ds_helpers_ask(ds_watch_helpers(d->watch), &q, &to);
    return l->done ? ds_api_look(rq, d, slot, op, word, path, flag, real, err) : DS_HTTP_WAIT;
}

void ds_api_overlay(ds_daemon *d, json_t *job) {
    ds_running running[80];
    int n = ds_workers_running(d->workers, running, 80);
    int64_t id = ds_json_int(job, "id", 0);
    for (int i = 0; i < n; i++) {
        if (running[i].job != id ||
            ds_job_state_parse(ds_json_string(job, "state", NULL)) != DS_JOB_RUNNING)
            continue;
        if (*running[i].stage)
            json_object_set_new(job, "stage", json_string(running[i].stage));
        if (running[i].progress)
            json_object_set_new(job, "progress", json_deep_copy(running[i].progress));
        if (running[i].pid)
            json_object_set_new(job, "pid", json_integer(running[i].pid));
    }
}
