/* daemon/jobs/slot.c - see slot.h. */
#include "daemon/jobs/slot.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "daemon/core/damage.h"
#include "daemon/jobs/folders.h"
#include "registry/store/blobs.h"
#include "registry/rows/datasets.h"

#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CANCEL_SECONDS 15.0
#define STOP_SECONDS 20.0
#define KILL_SECONDS 3.0 /* what SIGKILL does not end by then hangs in the kernel */
#define POLL_MOST 2.0
#define SPEC_MAX (16 << 20)
#define MANIFEST_MAX ((size_t)2 << 30)

static void settle(ds_slot *s);

static void set_error(ds_slot *s, const char *code, const char *message) {
    snprintf(s->error_code, sizeof s->error_code, "%s", code);
    snprintf(s->error_message, sizeof s->error_message, "%s", message);
    size_t n = strlen(s->error_message);
    if (n + 1 < sizeof s->error_message)
        return;
    while (n && ((unsigned char)s->error_message[n - 1] & 0xc0) == 0x80)
        n--; /* cut before a character, not inside */
    s->error_message[n ? n - 1 : 0] = 0;
}

/* ---- the end ---- */

static void release(ds_slot *s) {
    ds_tail_release(&s->tail);
    json_decref(s->progress);
    json_decref(s->spec.spec);
    json_decref(s->mark);
    ds_finish_release(&s->finish);
    *s = (ds_slot){.d = s->d, .kinds = s->kinds, .on_abandoned = s->on_abandoned, .ctx = s->ctx};
    s->d->trim_at = ds_monotonic() + 2; /* manifests can be large: give the memory back */
    ds_daemon_poke(s->d);
}

static void count(ds_slot *s) {
    ds_counters *n = &s->d->n;
    n->job_count[s->job.kind]++;
    n->job_seconds[s->job.kind] += ds_monotonic() - s->started;
    switch (s->outcome) {
    case DS_OUTCOME_FAIL:
        if (s->exit_signal)
            n->restarts_crash += (uint64_t)s->retry;
        else
            n->restarts_exit += (uint64_t)s->retry;
        break;
    case DS_OUTCOME_POSTPONE: n->restarts_temporary++; break;
    case DS_OUTCOME_REQUEUE: n->restarts_stopped++; break;
    case DS_OUTCOME_PUBLISH: n->gate_refusals += (uint64_t)s->finish.refused; break;
    case DS_OUTCOME_CANCEL: break;
    }
}

/* It ended as the one before it, and has no row any more. */
static int forgotten(const ds_slot *s) {
    ds_job job;
    return ds_job_read(s->d->registry, s->job.id, &job, NULL) == DS_ENOTFOUND;
}

static int commit_failure(ds_slot *s, ds_error *err) {
    ds_job_failure f = {.exit_code = s->exit_signal ? -1 : s->exit_code,
                        .exit_signal = s->exit_signal ? s->exit_signal : -1,
                        .code = *s->error_code ? s->error_code : NULL,
                        .message = *s->error_message ? s->error_message : NULL,
                        .retry = s->retry};
    if (s->outcome == DS_OUTCOME_POSTPONE) {
        int long_time = s->job.postponed + 1 >= DS_JOB_WAITS_LONG;
        if (s->job.postponed + 1 == DS_JOB_WAITS_LONG)
            ds_log(DS_LOG_WARN, "job %lld (%s %s) could not run %d times in a row: %s",
                   (long long)s->job.id, ds_job_kind_name(s->job.kind), s->job.name,
                   DS_JOB_WAITS_LONG, *s->error_message ? s->error_message : "no reason given");
        return ds_job_postpone(s->d->registry, s->job.id,
                               long_time ? DS_JOB_POSTPONE_LONG_MS : DS_JOB_POSTPONE_MS, &f, err);
    }
    int retried = 0;
    int rc = ds_job_fail(s->d->registry, s->job.id, &f, &retried, err);
    if (!rc)
        s->retry = retried;
    return rc;
}

static void say_failure(const ds_slot *s) {
    /* a folder that is away is no news at every scan */
    ds_log(forgotten(s) ? DS_LOG_DEBUG : DS_LOG_WARN, "job %lld (%s %s) %s: %s",
           (long long)s->job.id, ds_job_kind_name(s->job.kind), s->job.name,
           s->retry ? "failed and is tried again" : "failed",
           *s->error_message ? s->error_message : "the worker gave no reason");
}

static int commit_progress(const ds_slot *s, ds_error *err) {
    return ds_job_progress(s->d->registry, s->job.id, *s->stage ? s->stage : NULL, s->progress,
                           err);
}

static int commit_end(ds_slot *s, ds_error *err) {
    ds_registry *r = s->d->registry;
    switch (s->outcome) {
    case DS_OUTCOME_PUBLISH: break;
    case DS_OUTCOME_FAIL:
    case DS_OUTCOME_POSTPONE: return commit_failure(s, err);
    case DS_OUTCOME_REQUEUE:
        return ds_job_requeue(r, s->job.id,
                              s->pause
                                  ? "its dataset is paused; the work goes on when it is resumed"
                                  : "the daemon stops; the work goes on at its next start",
                              err);
    case DS_OUTCOME_CANCEL:
        return ds_job_cancelled(r, s->job.id, s->exit_signal ? -1 : s->exit_code,
                                s->exit_signal ? s->exit_signal : -1, err);
    }
    return 0;
}

/* With what its worker said last, so that the disk is waited for once. */
static int commit(ds_slot *s, ds_error *err) {
    if (s->outcome == DS_OUTCOME_PUBLISH)
        return ds_finish_commit(&s->finish, s->d->registry, err);
    int rc = ds_registry_begin(s->d->registry, err);
    if (rc)
        return rc;
    if (s->revision != s->committed)
        rc = commit_progress(s, err);
    if (!rc)
        rc = commit_end(s, err);
    rc = ds_registry_end(s->d->registry, rc, err);
    if (!rc && s->outcome == DS_OUTCOME_FAIL)
        say_failure(s);
    return rc;
}

static int temporary(int code) {
    return code == DS_EBUSY || code == DS_ENOSPC || code == DS_EIO || code == DS_EPERM;
}

/* A job that ended without a result is not run again; a scan that failed as the one before has not
 * even a row. */
static void tidy(const ds_slot *s) {
    ds_job job;
    ds_error err;
    int rc = ds_job_read(s->d->registry, s->job.id, &job, &err);
    if (rc == DS_ENOTFOUND) {
        if (ds_fs_remove(s->dir, &err))
            ds_log(DS_LOG_WARN, "cannot tidy '%s': %s", s->dir, err.message);
    } else if (!rc && (job.state == DS_JOB_FAILED || job.state == DS_JOB_CANCELLED))
        ds_finish_scrap(s->job.kind, s->dir);
}

/* One transaction makes the end true.  While the disk is full it cannot: the slot stays and tries
 * again, and if the daemon dies meanwhile the job is found without a process and runs again. */
static void settle(ds_slot *s) {
    ds_error err;
    s->phase = DS_SLOT_SETTLING;
    int rc = commit(s, &err);
    if (rc && temporary(rc) && !s->d->stopping) {
        if (!s->settle_at)
            ds_log(DS_LOG_WARN, "cannot record the end of job %lld yet: %s", (long long)s->job.id,
                   err.message);
        s->settle_at = ds_monotonic() + 1;
        return;
    }
    if (rc && s->outcome == DS_OUTCOME_PUBLISH && rc != DS_ECONFLICT) {
        s->outcome = DS_OUTCOME_FAIL;
        s->retry = 0;
        set_error(s, ds_error_name(rc), err.message);
        settle(s);
        return;
    }
    if (rc)
        ds_log(DS_LOG_WARN, "cannot record the end of job %lld: %s", (long long)s->job.id,
               err.message);
    else {
        if (s->outcome == DS_OUTCOME_PUBLISH) {
            const char *class = ds_json_string(s->finish.result, "device_class", "");
            if (*class)
                snprintf(s->d->device_class, sizeof s->d->device_class, "%s", class);
            ds_log(s->finish.unchanged ? DS_LOG_DEBUG : DS_LOG_INFO,
                   "job %lld (%s %s) is done%s%s%s", (long long)s->job.id,
                   ds_job_kind_name(s->job.kind), s->job.name, *s->finish.ref ? ": " : "",
                   s->finish.ref, s->finish.refused ? " refused by the gate" : "");
            ds_finish_clean(&s->finish);
        } else
            tidy(s);
        count(s);
    }
    release(s);
}

static void finish_work(uv_work_t *work) {
    ds_slot *s = work->data;
    s->work_rc = ds_finish_collect(&s->finish, &s->work_err);
}

static void finish_done(uv_work_t *work, int status) {
    (void)status;
    ds_slot *s = work->data;
    s->outcome = DS_OUTCOME_PUBLISH;
    if (s->work_rc) {
        s->outcome = temporary(s->work_rc) ? DS_OUTCOME_POSTPONE : DS_OUTCOME_FAIL;
        s->retry = 1; /* the result was lost or damaged on its way: the work can be done again */
        set_error(s, ds_error_name(s->work_rc), s->work_err.message);
    }
    settle(s);
}

static void collect(ds_slot *s) {
    s->phase = DS_SLOT_FINISHING;
    s->finish = (ds_finish){.kind = s->job.kind,
                            .job = s->job.id,
                            .refused = s->exit_code == DS_EXIT_REFUSED,
                            .store = ds_registry_store(s->d->registry)};
    snprintf(s->finish.dir, sizeof s->finish.dir, "%s", s->dir);
    s->work.data = s;
    uv_queue_work(&s->d->loop, &s->work, finish_work, finish_done);
}

/* ---- what the worker says ---- */

static void take_progress(ds_slot *s, const json_t *e) {
    static const char *const keys[] = {
        "done", "total", "unit", "rate", "eta_seconds", "loss", "images_per_second"};
    json_t *p = json_object();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *v = json_object_get(e, keys[i]);
        if (v && (json_is_number(v) || (json_is_string(v) && json_string_length(v) < 32)))
            json_object_set(p, keys[i], v);
    }
    json_decref(s->progress);
    s->progress = p;
    if (s->job.kind == DS_JOB_TRAIN && strcmp(s->stage, DS_WORD_TRAIN) == 0) {
        int64_t done = ds_json_int(e, "done", 0);
        if (done > s->last_done && s->last_done)
            s->d->n.train_steps += (uint64_t)(done - s->last_done);
        s->last_done = done;
    }
}

static void take_line(void *ctx, const char *line, size_t n) {
    ds_slot *s = ctx;
    json_t *e = NULL;
    if (ds_json_parse("event", line, n, &e, NULL) || !json_is_object(e)) {
        json_decref(e);
        return;
    }
    const char *type = ds_json_string(e, "type", ""), *stage = ds_json_string(e, "stage", NULL);
    if (stage && strcmp(stage, s->stage) != 0) {
        snprintf(s->stage, sizeof s->stage, "%s", stage);
        json_decref(s->progress);
        s->progress = NULL;
        s->last_done = 0;
    }
    if (strcmp(type, "progress") == 0)
        take_progress(s, e);
    else if (strcmp(type, "checkpoint") == 0)
        s->checkpoints++;
    else if (strcmp(type, "error") == 0)
        set_error(s, ds_json_string(e, "code", "DS_EFAILED"), ds_json_string(e, "message", ""));
    else if (strcmp(type, "warning") == 0)
        ds_log(DS_LOG_WARN, "job %lld: %s", (long long)s->job.id, ds_json_string(e, "message", ""));
    else if (strcmp(type, "metric") == 0 && s->metrics_left) {
        const char *key = ds_json_string(e, "key", NULL);
        double value = ds_json_number(e, "value", NAN);
        s->metrics_left--;
        if (key && strlen(key) < 64)
            ds_job_metric(s->d->registry, s->job.id, key, ds_json_int(e, "step", 0), value, NULL);
    }
    s->revision++;
    json_decref(e);
}

static int64_t log_size(const ds_slot *s) {
    char path[PATH_MAX];
    struct stat st;
    ds_fs_join(path, sizeof path, s->dir, DS_FILE_LOG);
    return stat(path, &st) ? 0 : st.st_size;
}

static void terminate(ds_slot *s);

/* A worker that hangs would hold its slot for ever.  What counts is time in which it could have
 * said something: not while it is stopped, and of a longer pause of this process or of the machine
 * one POLL_MOST. */
static void watch_silence(ds_slot *s, int heard) {
    double now = ds_monotonic(), passed = fmin(now - s->polled_at, POLL_MOST);
    s->polled_at = now;
    if (heard)
        s->quiet = 0;
    else if (s->quiet < 1 ||
             s->d->executor->poll(s->d->executor, s->process.identity) != DS_EXEC_HALTED)
        s->quiet += passed;
    if (!s->d->o.stall_seconds || s->term_at > 0 || s->quiet < s->d->o.stall_seconds)
        return;
    s->stalled = 1;
    ds_log(DS_LOG_WARN, "job %lld said nothing for %d s: its worker is ended", (long long)s->job.id,
           s->d->o.stall_seconds);
    terminate(s);
}

static void hear(ds_slot *s) {
    s->metrics_left = 8;
    int64_t log = log_size(s), news = ds_tail_lines(&s->tail, s->events, 1 << 20, take_line, s);
    if (news || log != s->log_size)
        ds_daemon_wake(s->d);
    watch_silence(s, news || log != s->log_size);
    s->log_size = log;
}

static void note_progress(ds_slot *s) {
    double now = ds_monotonic();
    if (s->revision != s->committed && now - s->committed_at >= 1) {
        ds_error err;
        if (commit_progress(s, &err))
            ds_log(DS_LOG_DEBUG, "cannot record progress of job %lld: %s", (long long)s->job.id,
                   err.message);
        s->committed = s->revision;
        s->committed_at = now;
    }
}

void ds_slot_poll(ds_slot *s) {
    if (s->phase != DS_SLOT_RUNNING)
        return;
    hear(s);
    note_progress(s);
    if (++s->polls % 16 == 0)
        ds_tail_bound_log(s->dir);
}

/* The last line of worker.log, when no event said why. */
static void error_from_log(ds_slot *s) {
    char path[PATH_MAX], text[1024];
    ds_fs_join(path, sizeof path, s->dir, DS_FILE_LOG);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return;
    ssize_t n = 0;
    if (fstat(fd, &st) == 0) {
        off_t from = st.st_size > (off_t)sizeof text - 1 ? st.st_size - (off_t)sizeof text + 1 : 0;
        n = pread(fd, text, sizeof text - 1, from);
    }
    close(fd);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        n--;
    if (n <= 0)
        return;
    text[n] = 0;
    char *line = strrchr(text, '\n');
    json_t *check = json_string(line ? line + 1 : text); /* only UTF-8 may reach the registry */
    if (check)
        set_error(s, s->exit_code == DS_EXIT_AGAIN ? "DS_EBUSY" : "DS_EFAILED",
                  json_string_value(check));
    json_decref(check);
}

/* Not the job's fault, or at least it gets on: a GPU that failed after a new checkpoint. */
static int to_be_postponed(const ds_slot *s) {
    return s->exit_code == DS_EXIT_AGAIN || s->exit_code == DS_EXIT_STOPPED ||
           s->exit_signal == SIGTERM || (s->exit_code == DS_EXIT_GPU && s->checkpoints);
}

static void stalled(ds_slot *s) {
    char text[160];
    s->outcome = DS_OUTCOME_FAIL;
    s->retry = 1;
    snprintf(text, sizeof text,
             "the worker said nothing for %d s and was ended (see dsctl logs %lld; the limit is "
             "diffscalerd --stall)",
             s->d->o.stall_seconds, (long long)s->job.id);
    set_error(s, "DS_ETIMEOUT", text);
}

/* Exit codes: contract/job.h. */
static void on_exit_cb(void *ctx, int exit_code, int signal) {
    ds_slot *s = ctx;
    hear(s);
    s->process = (ds_process){0};
    s->exit_code = exit_code;
    s->exit_signal = signal;
    if (exit_code == DS_EXIT_DONE || exit_code == DS_EXIT_REFUSED) {
        note_progress(s);
        collect(s);
        return;
    }
    if (s->cancel || exit_code == DS_EXIT_CANCELLED)
        s->outcome = DS_OUTCOME_CANCEL;
    else if (s->stop || s->pause)
        s->outcome = DS_OUTCOME_REQUEUE;
    else if (s->stalled)
        stalled(s);
    else if (to_be_postponed(s))
        s->outcome = DS_OUTCOME_POSTPONE;
    else {
        s->outcome = DS_OUTCOME_FAIL;
        s->retry = ds_exit_may_retry(exit_code);
    }
    if (!*s->error_message && !signal)
        error_from_log(s);
    settle(s);
}

/* ---- the beginning ---- */

static void prepare_work(uv_work_t *work) {
    ds_slot *s = work->data;
    char path[PATH_MAX], have[DS_HEX_SIZE];
    int rc = ds_fs_mkdirs(s->dir, &s->work_err);
    if (!rc) /* before anything else is in it */
        rc = ds_folder_mark_write(s->dir, s->mark, &s->work_err);
    if (!rc && *s->spec.manifest_sha256) {
        ds_fs_join(path, sizeof path, s->dir, DS_FILE_MANIFEST);
        if (!ds_fs_exists(path) || ds_digest_file(path, have, NULL) ||
            strcmp(have, s->spec.manifest_sha256) != 0) {
            char *data = NULL;
            size_t n = 0;
            rc = ds_store_read(ds_registry_store(s->d->registry), s->spec.manifest_sha256,
                               MANIFEST_MAX, &data, &n, &s->work_err);
            if (!rc)
                rc = ds_fs_write(path, data, n, &s->work_err);
            free(data);
        }
    }
    if (!rc) {
        ds_fs_join(path, sizeof path, s->dir, DS_FILE_SPEC);
        rc = ds_json_write_file(path, s->spec.spec, &s->work_err);
    }
    s->work_rc = rc;
}

static void fail_early(ds_slot *s, int rc, const ds_error *err) {
    s->exit_code = s->exit_signal = -1;
    s->exit_signal = 0;
    s->outcome = temporary(rc) || rc == DS_ENOTFOUND ? DS_OUTCOME_POSTPONE : DS_OUTCOME_FAIL;
    s->retry = rc != DS_EINVAL && rc != DS_EINTEGRITY;
    set_error(s, ds_error_name(rc), err->message);
    settle(s);
}

static void spawn(ds_slot *s) {
    ds_error err;
    ds_launch launch = {.dir = s->dir, .on_exit = on_exit_cb, .ctx = s};
    ds_tail_init(&s->tail, s->events, 1);
    int rc = s->d->executor->start(s->d->executor, &launch, &s->process, &err);
    if (rc) {
        fail_early(s, rc, &err);
        return;
    }
    s->phase = DS_SLOT_RUNNING;
    s->polled_at = ds_monotonic();
    rc = ds_job_process(s->d->registry, s->job.id, &s->process, &err);
    if (rc) /* it runs, and dies with this daemon: the row catches up at its end */
        ds_log(DS_LOG_WARN, "cannot record the process of job %lld: %s", (long long)s->job.id,
               err.message);
    /* folders are scanned every few minutes for years, and somebody keeps this log */
    ds_log(s->job.kind == DS_JOB_SCAN ? DS_LOG_DEBUG : DS_LOG_INFO,
           "job %lld (%s %s) runs as process %lld", (long long)s->job.id,
           ds_job_kind_name(s->job.kind), s->job.name, (long long)s->process.pid);
}

/* The manifest's file is missing or damaged: a scan of the folder puts it again. */
static int manifest_lost(ds_slot *s) {
    ds_error err, why = s->work_err;
    if (!*s->spec.manifest_sha256 || (s->work_rc != DS_ENOTFOUND && s->work_rc != DS_EINTEGRITY) ||
        ds_dataset_rescan(s->d->registry, s->job.name, NULL, &err))
        return 0;
    ds_damage_read(s->d, s->spec.manifest_sha256, "a training could not read it", &err);
    ds_fail(&s->work_err, DS_EBUSY, "the folder is scanned again for its manifest: %.350s",
            why.message);
    return 1;
}

static void prepare_done(uv_work_t *work, int status) {
    (void)status;
    ds_slot *s = work->data;
    json_decref(s->spec.spec);
    s->spec.spec = NULL;
    if (s->cancel || s->stop || s->pause) {
        s->exit_code = -1;
        s->outcome = s->cancel ? DS_OUTCOME_CANCEL : DS_OUTCOME_REQUEUE;
        settle(s);
    } else if (s->work_rc)
        fail_early(s, manifest_lost(s) ? DS_EBUSY : s->work_rc, &s->work_err);
    else
        spawn(s);
}

void ds_slot_start(ds_slot *s, const ds_job *claimed) {
    DS_ASSERT(s->phase == DS_SLOT_FREE);
    s->job = *claimed;
    s->started = ds_monotonic();
    s->tail.fd = -1;
    ds_job_dir(s->d, s->job.id, s->dir);
    ds_fs_join(s->events, sizeof s->events, s->dir, DS_FILE_EVENTS);
    s->phase = DS_SLOT_PREPARING;
    if (claimed->cancel) {
        s->exit_code = -1;
        s->outcome = DS_OUTCOME_CANCEL;
        settle(s);
        return;
    }
    char path[PATH_MAX];
    json_t *earlier = NULL;
    ds_error err;
    s->mark = ds_folder_mark(s->d, &s->job);
    int rc = ds_folder_claim(s->d, s->dir, s->mark, &err);
    if (rc) {
        fail_early(s, rc, &err);
        return;
    }
    ds_fs_join(path, sizeof path, s->dir, DS_FILE_SPEC);
    if (ds_fs_exists(path) && ds_json_read_file(path, SPEC_MAX, &earlier, NULL))
        earlier = NULL;
    rc = ds_spec_build(s->d, &s->job, s->dir, earlier, &s->spec, &err);
    json_decref(earlier);
    if (!rc) /* nothing that it reads may be swept, even if a person removes it meanwhile */
        rc = ds_blob_lease_spec(s->d->registry, s->job.id, s->spec.spec, &err);
    if (!rc)
        ds_damage_look(s->d, s->spec.spec);
    if (rc) {
        fail_early(s, rc, &err);
        return;
    }
    s->work.data = s;
    uv_queue_work(&s->d->loop, &s->work, prepare_work, prepare_done);
}

/* ---- asked to stop ---- */

static void tell(const ds_slot *s, enum ds_exec_signal what) {
    s->d->executor->signal(s->d->executor, s->process.identity, what);
}

static void terminate(ds_slot *s) {
    if (s->phase != DS_SLOT_RUNNING || s->term_at > 0)
        return;
    s->term_at = ds_monotonic();
    tell(s, DS_EXEC_STOP);
}

void ds_slot_cancel(ds_slot *s) {
    if (s->cancel || (s->phase != DS_SLOT_RUNNING && s->phase != DS_SLOT_PREPARING))
        return;
    s->cancel = 1;
    char path[PATH_MAX];
    ds_error err;
    ds_fs_join(path, sizeof path, s->dir, DS_FILE_CANCEL);
    if (s->phase == DS_SLOT_RUNNING && ds_fs_write(path, "", 0, &err))
        ds_log(DS_LOG_WARN, "%s", err.message); /* SIGTERM alone stops it as well */
    terminate(s);
}

void ds_slot_pause(ds_slot *s) {
    s->pause = 1;
    terminate(s);
}

void ds_slot_stop(ds_slot *s, int hurry) {
    s->stop = s->phase != DS_SLOT_FREE;
    terminate(s);
    if (hurry && s->phase == DS_SLOT_RUNNING) {
        s->killed = 1;
        tell(s, DS_EXEC_KILL);
    }
}

/* Not even SIGKILL ends a process whose call hangs in a file system.  Its row stays running, so
 * that nobody starts the job again while it is there; the slot takes other work. */
static void abandon(ds_slot *s) {
    ds_log(DS_LOG_WARN, "job %lld: process %lld cannot be ended, as its file system hangs",
           (long long)s->job.id, (long long)s->process.pid);
    s->d->executor->forget(s->d->executor, s->process.identity);
    s->on_abandoned(s->ctx, &s->job, &s->process);
    release(s);
}

void ds_slot_tick(ds_slot *s) {
    double now = ds_monotonic();
    double limit = s->stop || s->pause ? STOP_SECONDS : CANCEL_SECONDS;
    if (s->phase == DS_SLOT_RUNNING && s->term_at > 0 && !s->killed && now - s->term_at > limit) {
        ds_log(DS_LOG_WARN, "job %lld did not stop within %.0f s: killed", (long long)s->job.id,
               limit);
        s->killed = 1;
        tell(s, DS_EXEC_KILL);
    }
    if (s->phase == DS_SLOT_RUNNING && s->killed && !s->killed_at)
        s->killed_at = now;
    if (s->phase == DS_SLOT_SETTLING && now >= s->settle_at)
        settle(s);
    else if (s->phase == DS_SLOT_RUNNING && s->killed && now - s->killed_at > KILL_SECONDS)
        abandon(s);
}
