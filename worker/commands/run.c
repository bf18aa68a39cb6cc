/* worker/commands/run.c - `diffscaler-worker run DIR`: a job from lock to exit status. */
#include "base/fs.h"
#include "base/log.h"
#include "contract/args.h"
#include "worker/job/device.h"
#include "worker/job/job.h"
#include "worker/kinds/kinds.h"
#include "worker/job/stop.h"
#include "worker/commands/worker.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DIR_MAX = 3500, LOCK_WAIT_MS = 2000, LOCK_STEP_MS = 20 };

/* Only these leave the process (docs/jobs.md). */
static int exit_status(int code) {
    switch (code) {
    case 0: return DS_EXIT_DONE;
    case DS_EINVAL:
    case DS_ENOTFOUND:
    case DS_ECONFLICT: /* the data are not what the spec says */
    case DS_ELIMIT: return DS_EXIT_BAD;
    case DS_EPERM: return DS_EXIT_PERMISSION;
    case DS_EREFUSED: return DS_EXIT_REFUSED;
    case DS_EINTEGRITY: return DS_EXIT_INTEGRITY;
    case DS_ENEWER: return DS_EXIT_NEWER;
    case DS_ECANCELED: return ds_stop_status();
    default: return ds_job_is_temporary(code) ? DS_EXIT_AGAIN : DS_EXIT_FAILED;
    }
}

/* One worker per directory.  The lock is the kernel's: it ends with the process, however that
 * ends, and with its copies of the descriptor: a decoder that was just being spawned when its
 * parent was killed has one until its exec, so a holder gets LOCK_WAIT_MS to go.  The descriptor
 * stays open until the process ends. */
static int take_lock(const char *dir, ds_error *err) {
    char path[DIR_MAX + 16];
    ds_fs_join(path, sizeof path, dir, DS_FILE_LOCK);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    for (int waited = 0;; waited += LOCK_STEP_MS) {
        if (!flock(fd, LOCK_EX | LOCK_NB))
            return 0;
        if (errno != EWOULDBLOCK || waited >= LOCK_WAIT_MS)
            break;
        usleep(LOCK_STEP_MS * 1000);
    }
    int busy = errno == EWOULDBLOCK, rc = ds_fail_errno(err, "cannot lock '%s'", path);
    close(fd);
    return busy ? ds_fail(err, DS_EBUSY, "another worker runs the job in '%s'", dir) : rc;
}

/* What is no job directory gets no file from us, not even a lock. */
static int check_directory(const char *dir, ds_error *err) {
    char path[DIR_MAX + 16];
    struct stat st;
    if (stat(dir, &st) || !S_ISDIR(st.st_mode))
        return ds_fail(err, DS_ENOTFOUND, "there is no job directory '%s'", dir);
    ds_fs_join(path, sizeof path, dir, DS_FILE_SPEC);
    return lstat(path, &st) && errno == ENOENT
               ? ds_fail(err, DS_ENOTFOUND, "'%s' is no job directory: it has no " DS_FILE_SPEC,
                         dir)
               : 0;
}

/* What ds_fs_write had not finished when an earlier run ended.  Safe, as we hold the lock. */
static void remove_leftovers(const char *dir, const char *sub) {
    char path[DIR_MAX + 300];
    snprintf(path, sizeof path, "%s%s", dir, sub);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n < 5 || strcmp(e->d_name + n - 4, ".tmp"))
            continue;
        unlinkat(dirfd(d), e->d_name, 0);
    }
    if (d)
        closedir(d);
}

/* 1: an earlier run of this spec has trained and written its result; *code = what it returned.
 * Other kinds are done again: they are quick, and what they look at may have changed. */
static int finished(const ds_work *job, int *code, ds_error *err) {
    char *path = ds_job_path(job, DS_FILE_RESULT);
    json_t *doc = NULL;
    int done = job->spec->kind == DS_JOB_TRAIN && ds_fs_exists(path) &&
               !ds_json_read_file(path, (size_t)1 << 30, &doc, NULL) &&
               !strcmp(ds_json_string(doc, "spec", ""), job->spec->digest) &&
               json_is_object(json_object_get(doc, "adapter"));
    const json_t *gate = json_object_get(doc, "gate");
    *code = 0;
    if (done && !strcmp(ds_json_string(gate, "verdict", ""), "refused"))
        *code = ds_fail(err, DS_EREFUSED, "refused by the gate: %.450s",
                        ds_json_string(gate, "reason", ""));
    if (!done)
        ds_fs_remove(path, NULL); /* must not be taken for ours */
    json_decref(doc);
    free(path);
    return done;
}

static int run_kind(const ds_work *job, ds_error *err) {
    int code;
    if (finished(job, &code, err))
        return code;
    switch (job->spec->kind) {
    case DS_JOB_SCAN: return ds_job_scan(job, err);
    case DS_JOB_TRAIN: return ds_job_train(job, err);
    case DS_JOB_SAMPLE: return ds_job_sample(job, err);
    case DS_JOB_VERIFY: return ds_job_verify(job, err);
    case DS_JOB_IMPORT: return ds_job_import(job, err);
    case DS_JOB_KIND_COUNT: break;
    }
    return ds_fail(err, DS_EINVAL, "unknown kind of job");
}

static int run_locked(const char *dir, long parent, const char *device, ds_error *err) {
    ds_events *events;
    ds_spec *spec = NULL;
    int rc = ds_stop_install(dir, parent, err);
    if (!rc)
        rc = ds_events_open(&events, dir, err);
    if (rc)
        return rc;
    remove_leftovers(dir, "");
    remove_leftovers(dir, "/" DS_DIR_CHECKPOINTS);
    remove_leftovers(dir, "/" DS_DIR_STAGE);
    char path[DIR_MAX + 16];
    ds_fs_join(path, sizeof path, dir, DS_FILE_SPEC);
    if (ds_stop_status() == DS_EXIT_CANCELLED)
        rc = ds_fail(err, DS_ECANCELED, "the job is cancelled");
    if (!rc)
        rc = ds_spec_read(path, &spec, err);
    if (!rc)
        rc =
            run_kind(&(ds_work){.dir = dir, .spec = spec, .events = events, .device = device}, err);
    if (!rc)
        ds_events_done(events);
    else if (rc != DS_ECANCELED)
        ds_events_error(events, err);
    ds_spec_free(spec);
    ds_events_close(events);
    return rc;
}

typedef struct {
    const char *dir, *device;
    int parent;
} run_args;

/* 0: go on; -1: help was printed; else the exit status. */
static int parse(int argc, char **argv, run_args *r) {
    const ds_arg rows[] = {
        {"DIR", .type = DS_ARG_STRING, .target = &r->dir, .missing = "which job directory?"},
        {"--parent", .metavar = "PID", .type = DS_ARG_INT, .target = &r->parent,
         DS_ARG_RANGE(1, INT_MAX),
         .help = "stop, with a checkpoint, when this process (the parent) ends"},
        {"--device", .metavar = "KIND", .type = DS_ARG_DEVICE, .target = &r->device,
         .help = "auto, cpu, cuda or cuda:N, whatever the spec says"},
        {NULL}};
    const ds_args a = {
        .command = "diffscaler-worker run",
        .usage = "DIR [--parent PID] [--device KIND]",
        .about = "Do the job that DIR/spec.json describes (docs/jobs.md): events.ndjson tells how\n"
                 "far it is, result.json is written last.  Run it again to go on after an\n"
                 "interruption.",
        .after =
            "exit status: 0 done, 1 failed, 2 bad spec or data, 6 permission, 8 refused by the\n"
            "  gate, 9 integrity, 10 a file of a newer program, 70 the GPU failed, 75 try again\n"
            "  later, 130 cancelled (DIR/cancel exists), 143 stopped by SIGTERM\n"
            "\n"
            "example:\n"
            "  diffscaler-worker run ./jobs/12 && cat ./jobs/12/result.json",
        .rows = rows};
    ds_error err;
    int rc = ds_args_parse(&a, argc, argv, &err);
    if (!rc && strlen(r->dir) >= DIR_MAX)
        rc = ds_fail(&err, DS_EINVAL,
                     "the path of the job directory has more than %d bytes: use a shorter one",
                     DIR_MAX - 1);
    return rc == 1 ? -1 : rc ? ds_args_refuse(&a, &err) : 0;
}

int ds_worker_run(int argc, char **argv) {
    run_args a = {0};
    ds_error err = {0};
    int rc = parse(argc, argv, &a);
    if (rc)
        return rc < 0 ? 0 : rc;
    ds_log_init("worker", DS_LOG_INFO);
    ds_memory_status(DS_EXIT_AGAIN);
    rc = check_directory(a.dir, &err);
    if (!rc)
        rc = take_lock(a.dir, &err);
    if (!rc)
        rc = run_locked(a.dir, a.parent, a.device, &err);
    if (rc)
        fprintf(stderr, "%s\n", err.message);
    return exit_status(rc);
}
