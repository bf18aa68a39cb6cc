/* daemon/api/metrics.c - Prometheus text format.  Names: app prefix, base units; digests are never
 * labels, job ids only while a job runs, dataset names are (bounded to the newest 200 adapters). */
#include "base/json.h"
#include "daemon/api/api.h"
#include "daemon/folders/watch.h"
#include "daemon/jobs/workers.h"
#include "registry/rows/adapters.h"
#include "registry/jobs/jobs.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static void head(ds_buf *b, const char *name, const char *type, const char *help) {
    ds_buf_addf(b, "# HELP diffscaler_%s %s\n# TYPE diffscaler_%s %s\n", name, help, name, type);
}

static void one(ds_buf *b, const char *name, const char *type, const char *help, double value) {
    head(b, name, type, help);
    ds_buf_addf(b, "diffscaler_%s %.17g\n", name, value);
}

static void registry_metrics(ds_daemon *d, ds_buf *b) {
    json_t *c = NULL;
    if (ds_registry_counts(d->registry, &c, NULL))
        return;
    const json_t *jobs = json_object_get(c, "jobs"), *blobs = json_object_get(c, "blobs");
    head(b, "jobs", "gauge", "Jobs by state.");
    for (int s = 0; s < DS_JOB_STATE_COUNT; s++) {
        const char *name = ds_job_state_name((enum ds_job_state)s);
        ds_buf_addf(b, "diffscaler_jobs{state=\"%s\"} %lld\n", name,
                    (long long)ds_json_int(jobs, name, 0));
    }
    one(b, "datasets", "gauge", "Datasets that are not removed.",
        (double)ds_json_int(c, "datasets", 0));
    one(b, "adapters", "gauge", "Published adapter versions.",
        (double)ds_json_int(c, "adapters", 0));
    one(b, "blobs", "gauge", "Blobs in the store.", (double)ds_json_int(blobs, "count", 0));
    one(b, "blob_bytes", "gauge", "Bytes of blobs, as stored.",
        (double)ds_json_int(blobs, "bytes", 0));
    one(b, "events_total", "counter", "Events recorded in the registry.",
        (double)ds_json_int(c, "event_seq", 0));
    json_decref(c);
}

#define NEWEST 200 /* versions whose names have a series */

/* Names are [A-Za-z0-9._-], and preprocessings are words of the worker's, so no escaping is needed
 * in labels.  Values of different networks are not comparable: they are different series. */
static void fd_line(void *ctx, const ds_adapter_figures *f) {
    if (!isnan(f->fd))
        ds_buf_addf(ctx, "diffscaler_eval_fd{task=\"%s\",net=\"%.12s\",preprocess=\"%s\"} %.17g\n",
                    f->name, f->net, f->preprocess, f->fd);
}

/* One network's eye for classes is not another's either. */
static void class_line(void *ctx, const ds_adapter_figures *f) {
    if (!isnan(f->class_accuracy))
        ds_buf_addf(
            ctx,
            "diffscaler_eval_class_accuracy{task=\"%s\",net=\"%.12s\",preprocess=\"%s\"} %.17g\n",
            f->name, f->net, f->preprocess, f->class_accuracy);
}

typedef struct {
    ds_buf *fd, change;
} bars;

static void bar_line(ds_buf *b, const char *metric, const ds_adapter_figures *f, double value) {
    if (!isnan(value))
        ds_buf_addf(b, "diffscaler_%s{task=\"%s\",role=\"%s\",bar=\"%s\",verdict=\"%s\"} %.17g\n",
                    metric, f->name, f->role, f->bar, f->self, value);
}

static void bar_lines(void *ctx, const ds_adapter_figures *f) {
    bars *b = ctx;
    bar_line(b->fd, "adapter_bar_fd", f, f->fd_bar);
    bar_line(&b->change, "adapter_bar_change", f, f->delta);
}

/* What each task's newest version has, and what it was measured against, published or not: the bar
 * that decided. */
static void adapter_metrics(ds_daemon *d, ds_buf *b) {
    bars two = {.fd = b};
    head(b, "eval_fd", "gauge", "Frechet distance of each task's newest published adapter.");
    ds_adapter_each_newest(d->registry, NEWEST, 1, fd_line, b, NULL);
    head(b, "eval_class_accuracy", "gauge",
         "Share of each task's newest published adapter's samples that show their class.");
    ds_adapter_each_newest(d->registry, NEWEST, 1, class_line, b, NULL);
    head(b, "adapter_bar_fd", "gauge",
         "Frechet distance of what the newest version was measured against, on the same "
         "reference.");
    ds_adapter_each_newest(d->registry, NEWEST, 0, bar_lines, &two, NULL);
    head(b, "adapter_bar_change", "gauge",
         "Share by which the newest version is worse (above 0) or better than that.");
    if (two.change.data)
        ds_buf_add(b, two.change.data, two.change.len);
    ds_buf_release(&two.change);
}

static void job_metrics(const ds_counters *n, ds_buf *b) {
    head(b, "job_duration_seconds", "summary", "Time of finished attempts by kind.");
    for (int k = 0; k < DS_JOB_KIND_COUNT; k++) {
        const char *kind = ds_job_kind_name((enum ds_job_kind)k);
        ds_buf_addf(b,
                    "diffscaler_job_duration_seconds_sum{kind=\"%s\"} %.6f\n"
                    "diffscaler_job_duration_seconds_count{kind=\"%s\"} %llu\n",
                    kind, n->job_seconds[k], kind, (unsigned long long)n->job_count[k]);
    }
    head(b, "worker_restarts_total", "counter", "Attempts that are made again, by reason.");
    ds_buf_addf(b,
                "diffscaler_worker_restarts_total{reason=\"crash\"} %llu\n"
                "diffscaler_worker_restarts_total{reason=\"failed\"} %llu\n"
                "diffscaler_worker_restarts_total{reason=\"temporary\"} %llu\n"
                "diffscaler_worker_restarts_total{reason=\"stopped\"} %llu\n",
                (unsigned long long)n->restarts_crash, (unsigned long long)n->restarts_exit,
                (unsigned long long)n->restarts_temporary, (unsigned long long)n->restarts_stopped);
    one(b, "train_steps_total", "counter", "Optimisation steps seen.", (double)n->train_steps);
    one(b, "eval_regressions_total", "counter", "Adapters refused by the gate.",
        (double)n->gate_refusals);
}

/* Of each training that runs: two at the same time are two series.  Bounded by --workers. */
static void loss_metrics(ds_daemon *d, ds_buf *b) {
    ds_running running[80];
    int n = ds_workers_running(d->workers, running, 80), any = 0;
    for (int i = 0; i < n; i++) {
        double loss = ds_json_number(running[i].progress, "loss", NAN);
        if (running[i].kind != DS_JOB_TRAIN || isnan(loss))
            continue;
        if (!any++)
            head(b, "train_loss", "gauge", "Newest loss of each training that runs.");
        ds_buf_addf(b, "diffscaler_train_loss{job=\"%lld\",task=\"%s\"} %.17g\n",
                    (long long)running[i].job, running[i].name, loss);
    }
}

static void process_metrics(ds_daemon *d, ds_buf *b) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double cpu = (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
                 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    long pages = 0, total = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%ld %ld", &total, &pages) != 2)
            pages = 0;
        fclose(f);
    }
    int fds = -3; /* ".", "..", and the descriptor of the listing */
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir))
        fds++;
    if (dir)
        closedir(dir);
    const struct {
        const char *name, *type, *help;
        double value;
    } own[] = {
        /* names and texts of the client libraries of Prometheus */
        {"cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu},
        {"resident_memory_bytes", "gauge", "Resident memory size in bytes.",
         (double)pages * (double)sysconf(_SC_PAGESIZE)},
        {"open_fds", "gauge", "Number of open file descriptors.", fds},
        {"start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.",
         (double)d->started_ms / 1000.0}};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        ds_buf_addf(b, "# HELP process_%s %s\n# TYPE process_%s %s\nprocess_%s %.17g\n",
                    own[i].name, own[i].help, own[i].name, own[i].type, own[i].name, own[i].value);
}

void ds_metrics_write(ds_daemon *d, ds_buf *b) {
    const ds_counters *n = &d->n;
    head(b, "build_info", "gauge", "Version of the daemon.");
    ds_buf_addf(b, "diffscaler_build_info{version=\"%s\",schema=\"%d\"} 1\n", DS_VERSION,
                ds_registry_schema(d->registry));
    registry_metrics(d, b);
    job_metrics(n, b);
    loss_metrics(d, b);
    adapter_metrics(d, b);
    one(b, "http_requests_total", "counter", "Requests answered.",
        (double)(ds_http_requests(d->http) + ds_http_requests(d->tcp)));
    one(b, "http_connections", "gauge", "Open connections.",
        ds_http_connections(d->http) + ds_http_connections(d->tcp));
    one(b, "inotify_overflows_total", "counter", "Times the kernel dropped folder events.",
        (double)ds_watch_overflows(d->watch));
    one(b, "watched_directories", "gauge", "Directories under watch.", ds_watch_dirs(d->watch));
    one(b, "reconciles_total", "counter", "Times work was derived from the registry.",
        (double)n->reconciles);
    one(b, "work_seconds_max", "gauge", "Longest turn of deriving and starting work.",
        n->work_seconds_max);
    one(b, "loop_lag_seconds", "gauge", "Delay of the last tick of the loop.", n->loop_lag_seconds);
    one(b, "loop_lag_seconds_max", "gauge", "Longest delay of a tick.", n->loop_lag_max_seconds);
    process_metrics(d, b);
}
