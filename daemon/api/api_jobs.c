/* daemon/api/api_jobs.c - /v1/jobs, /v1/samples, /v1/verify. */
#include "base/fs.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/suggest.h"
#include "contract/options.h"
#include "daemon/api/api.h"
#include "daemon/core/models.h"
#include "daemon/jobs/defaults.h"
#include "daemon/jobs/workers.h"
#include "daemon/jobs/tail.h"
#include "registry/rows/adapters.h"
#include "registry/rows/bases.h"
#include "registry/rows/tasks.h"
#include "registry/jobs/jobs.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_PART (4 << 20)
#define STREAM_PART (64 << 10)

static const char *or_null(const char *s) { return s && *s ? s : NULL; }

static void on_row(void *ctx, json_t *row) { ds_api_overlay(ctx, row); }

int ds_api_job_list(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    ds_page page;
    ds_rows rows = {.each = on_row, .ctx = d};
    ds_job_filter f = {.state = or_null(ds_request_query(rq, "state")),
                       .kind = or_null(ds_request_query(rq, "kind")),
                       .dataset = or_null(ds_request_query(rq, "dataset"))};
    if (f.state && ds_job_state_parse(f.state) < 0)
        return ds_fail(err, DS_EINVAL,
                       "there is no job state '%.40s': there are queued, running, done, rejected, "
                       "failed and cancelled",
                       f.state);
    if (f.kind && ds_job_kind_parse(f.kind) < 0)
        return ds_fail(err, DS_EINVAL,
                       "there is no job kind '%.40s': there are scan, train, sample, verify and "
                       "import",
                       f.kind);
    int rc = ds_api_page(rq, &page, err);
    page.rows = &rows;
    if (!rc)
        rc = ds_api_dataset_known(d, f.dataset, err);
    if (!rc)
        rc = ds_job_list(d->registry, page, &f, NULL, err);
    return ds_api_reply_rows(rq, &rows, rc);
}

int ds_api_reply_job(ds_request *rq, ds_daemon *d, int status, int64_t id, ds_error *err) {
    json_t *doc = NULL;
    int rc = ds_job_get(d->registry, id, &doc, err);
    if (rc)
        return rc;
    ds_api_overlay(d, doc);
    return ds_reply_json(rq, status, doc);
}

int ds_api_job_get(ds_request *rq, void *ctx, ds_error *err) {
    int64_t id;
    int rc = ds_api_id(rq, 0, &id, err);
    return rc ? rc : ds_api_reply_job(rq, ctx, 200, id, err);
}

int ds_api_job_cancel(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int64_t id;
    int running = 0;
    int rc = ds_api_id(rq, 0, &id, err);
    if (!rc)
        rc = ds_job_cancel(d->registry, id, &running, err);
    if (rc)
        return rc;
    if (running)
        ds_workers_cancel(d->workers, id);
    return ds_api_reply_job(rq, d, 202, id, err);
}

int ds_api_job_metrics(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int64_t id;
    ds_job job;
    json_t *list = NULL;
    int rc = ds_api_id(rq, 0, &id, err);
    if (!rc)
        rc = ds_job_read(d->registry, id, &job, err);
    const char *key = ds_request_query(rq, "key");
    if (!rc)
        rc = ds_job_metrics(d->registry, id, key, &list, err);
    if (!rc && key && !json_array_size(list) && job.state != DS_JOB_QUEUED &&
        job.state != DS_JOB_RUNNING) { /* one under way may have it later */
        json_decref(list);
        rc = ds_fail(err, DS_ENOTFOUND, "job %lld has no metric '%.60s'", (long long)id, key);
    }
    return rc ? rc : ds_reply_json(rq, 200, json_pack("{so sn}", "items", list, "next"));
}

/* ---- files of a job directory ---- */

/* Opens DIR/name; *fd = -1 when it is not there (yet, or any more). */
static int open_job_file(ds_daemon *d, int64_t id, const char *name, int *fd, struct stat *st,
                         ds_error *err) {
    char dir[PATH_MAX], path[PATH_MAX];
    ds_job job;
    int rc = ds_job_read(d->registry, id, &job, err);
    if (rc)
        return rc;
    ds_job_dir(d, id, dir);
    ds_fs_join(path, sizeof path, dir, name);
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0)
        return errno == ENOENT ? 0 : ds_fail_errno(err, "cannot open '%s'", path);
    if (fstat(*fd, st) || !S_ISREG(st->st_mode)) {
        close(*fd);
        *fd = -1;
    }
    return 0;
}

static int no_file(int64_t id, const char *name, ds_error *err) {
    return ds_fail(err, DS_ENOTFOUND,
                   "job %lld has no file '%s': not written yet, or tidied away after its end",
                   (long long)id, name);
}

int ds_api_job_file(ds_request *rq, void *ctx, ds_error *err) {
    static const struct {
        const char *name, *type;
    } known[] = {{DS_FILE_GRID, "image/png"},
                 {DS_FILE_SHEET, "image/png"},
                 {DS_FILE_SAMPLES, "application/octet-stream"},
                 {DS_FILE_SPEC, "application/json"},
                 {DS_FILE_RESULT, "application/json"},
                 {DS_FILE_EVENTS, "application/x-ndjson"},
                 {DS_FILE_LOG, "text/plain; charset=utf-8"}};
    const char *name = ds_request_param(rq, 1), *type = NULL;
    int64_t id;
    int fd = -1;
    struct stat st;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0)
            type = known[i].type;
    int rc = ds_api_id(rq, 0, &id, err);
    if (!rc && !type)
        return ds_fail(
            err, DS_ENOTFOUND,
            "jobs have no file '%.60s' to be asked for (docs/jobs.md has those that they have)",
            name);
    if (!rc)
        rc = open_job_file(ctx, id, name, &fd, &st, err);
    if (!rc && fd < 0)
        rc = no_file(id, name, err);
    return rc ? rc : ds_reply_fd(rq, type, fd, 0, st.st_size);
}

/* ---- streams of one job ---- */

typedef struct {
    ds_daemon *d;
    int64_t job, line, since, offset;
    int follow, sse;
    char path[PATH_MAX];
    ds_tail tail;
    ds_buf *out; /* during fill */
} job_stream;

static void job_stream_release(void *state) {
    job_stream *s = state;
    ds_tail_release(&s->tail);
    free(s);
}

static int job_is_over(job_stream *s) {
    ds_job job;
    if (ds_job_read(s->d->registry, s->job, &job, NULL))
        return 1;
    return job.state != DS_JOB_RUNNING && job.state != DS_JOB_QUEUED;
}

static void emit_line(void *ctx, const char *line, size_t n) {
    job_stream *s = ctx;
    s->line++;
    if (s->line <= s->since || line[0] != '{')
        return;
    const char *sep = n > 2 ? "," : "";
    if (s->sse)
        ds_buf_addf(s->out, "id: %lld\ndata: {\"seq\":%lld%s%.*s\n\n", (long long)s->line,
                    (long long)s->line, sep, (int)n - 1, line + 1);
    else
        ds_buf_addf(s->out, "{\"seq\":%lld%s%.*s\n", (long long)s->line, sep, (int)n - 1, line + 1);
}

static int events_fill(void *state, ds_buf *out) {
    job_stream *s = state;
    s->out = out;
    for (;;) {
        int over = job_is_over(s); /* asked before reading: nothing is written after the end */
        int64_t n = ds_tail_lines(&s->tail, s->path, STREAM_PART, emit_line, s);
        if (out->len)
            return 0;
        if (n < STREAM_PART)
            return !s->follow || over;
    }
}

static int log_fill(void *state, ds_buf *out) {
    job_stream *s = state;
    int over = job_is_over(s);
    char buf[16384];
    struct stat st;
    int fd = open(s->path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0;
    if (fd >= 0) {
        if (fstat(fd, &st) == 0 && st.st_size < s->offset)
            s->offset = 0; /* the log was shortened */
        n = pread(fd, buf, sizeof buf, s->offset);
        close(fd);
    }
    if (n > 0) {
        ds_buf_add(out, buf, (size_t)n);
        s->offset += n;
        return 0;
    }
    return over;
}

static job_stream *new_stream(ds_daemon *d, int64_t id, const char *name) {
    char dir[PATH_MAX];
    job_stream *s = ds_xcalloc(1, sizeof *s);
    s->d = d;
    s->job = id;
    ds_job_dir(d, id, dir);
    ds_fs_join(s->path, sizeof s->path, dir, name);
    ds_tail_init(&s->tail, s->path, 0);
    return s;
}

int ds_api_job_events(ds_request *rq, void *ctx, ds_error *err) {
    int64_t id, since;
    ds_job job;
    int rc = ds_api_id(rq, 0, &id, err);
    if (!rc)
        rc = ds_request_int(rq, "since", 0, INT64_MAX, 0, &since, err);
    if (!rc)
        rc = ds_job_read(((ds_daemon *)ctx)->registry, id, &job, err);
    if (rc)
        return rc;
    const char *last = ds_request_header(rq, "Last-Event-ID");
    if (last && *last) {
        char *end;
        errno = 0;
        since = strtoll(last, &end, 10);
        if (errno || end == last || *end || since < 0)
            return ds_fail(err, DS_EINVAL, "Last-Event-ID must be the number of a line");
    }
    job_stream *s = new_stream(ctx, id, DS_FILE_EVENTS);
    s->since = since;
    s->follow = ds_request_flag(rq, "follow");
    s->sse = ds_request_accepts(rq, "text/event-stream");
    ds_stream_source src = {events_fill, job_stream_release, s, s->sse ? ": heartbeat\n\n" : NULL};
    return ds_reply_stream(rq, s->sse ? "text/event-stream" : "application/x-ndjson", &src);
}

int ds_api_job_log(ds_request *rq, void *ctx, ds_error *err) {
    int64_t id, offset;
    int fd = -1;
    struct stat st = {0};
    static const char type[] = "text/plain; charset=utf-8";
    int rc = ds_api_id(rq, 0, &id, err);
    if (!rc)
        rc = ds_request_int(rq, "offset", 0, INT64_MAX, 0, &offset, err);
    if (!rc)
        rc = open_job_file(ctx, id, DS_FILE_LOG, &fd, &st, err);
    if (rc)
        return rc;
    if (ds_request_flag(rq, "follow")) {
        if (fd >= 0)
            close(fd);
        job_stream *s = new_stream(ctx, id, DS_FILE_LOG);
        s->offset = offset;
        ds_stream_source src = {log_fill, job_stream_release, s, NULL};
        return ds_reply_stream(rq, type, &src);
    }
    if (offset > st.st_size)
        offset = 0; /* the log was shortened: begin again */
    int64_t n = st.st_size - offset > LOG_PART ? LOG_PART : st.st_size - offset;
    ds_reply_header(rq, "X-Next-Offset", "%lld", (long long)(offset + n));
    if (n > 0)
        return ds_reply_fd(rq, type, fd, offset, n);
    if (fd >= 0)
        close(fd);
    return ds_reply_text(rq, 200, type, "");
}

/* ---- samples and verifications ---- */

typedef struct {
    const char *key;
    char type; /* i(nteger), n(umber), s(tring), b(oolean) */
    double least, most;
    const char *values; /* of s: "a|b"; NULL = any short text */
} field;

static int check_field(const field *f, const json_t *v, ds_error *err) {
    int number = f->type == 'i' ? json_is_integer(v) : json_is_number(v);
    double x = json_number_value(v);
    switch (f->type) {
    case 'i':
    case 'n':
        if (!number || !(x >= f->least && x <= f->most))
            return ds_fail(err, DS_EINVAL, "'%s' must be a %snumber from %g to %g", f->key,
                           f->type == 'i' ? "whole " : "", f->least, f->most);
        return 0;
    case 'b':
        return json_is_boolean(v) ? 0
                                  : ds_fail(err, DS_EINVAL, "'%s' must be true or false", f->key);
    default:
        if (!json_is_string(v) || json_string_length(v) > 256)
            return ds_fail(err, DS_EINVAL, "'%s' must be a text", f->key);
        if (f->values && !ds_word_in(f->values, json_string_value(v), json_string_length(v)))
            return ds_fail(err, DS_EINVAL, "'%s' must be one of %s", f->key, f->values);
        return 0;
    }
}

static int check_body(const json_t *body, const field *fields, size_t count, ds_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)body, key, value) {
        const field *f = NULL;
        for (size_t i = 0; i < count; i++)
            if (strcmp(fields[i].key, key) == 0)
                f = &fields[i];
        DS_ASSERT(f); /* the table of routes has the same names (tests) */
        if (!json_is_null(value) && check_field(f, value, err))
            return DS_EINVAL;
    }
    return 0;
}

/* "a, b, c and 7 more" */
static void list_classes(const json_t *classes, char out[300]) {
    enum { SHOWN = 8 };
    size_t n = json_array_size(classes), at = 0, i = 0;
    out[0] = 0;
    for (; i < n && i < SHOWN && at < 200; i++)
        at += (size_t)snprintf(out + at, 300 - at, "%s%.40s", i ? ", " : "",
                               ds_json_string(json_array_get(classes, i), "name", "?"));
    if (i < n)
        snprintf(out + at, 300 - at, " and %zu more (dsctl show-adapter REF --json)", n - i);
}

/* The class that is asked for exists: of an adapter by name, of the base by number. */
static int check_class(ds_daemon *d, const json_t *payload, const ds_adapter_ref *a,
                       const json_t *base, ds_error *err) {
    const char *class = ds_json_string(payload, "class", NULL);
    json_t *adapter = NULL, *list;
    char known[300], *end;
    int rc = 0, found = 0;
    size_t i;
    if (!class)
        return 0;
    if (!a->id) { /* a base that another program registered may not say how many it has */
        int64_t n = ds_json_int(json_object_get(base, "config"), "classes", -1),
                label = strtoll(class, &end, 10);
        if (n == 0)
            return ds_fail(err, DS_EINVAL, "base '%s' has no classes",
                           ds_json_string(base, "name", "?"));
        if (n > 0 && (!*class || strspn(class, "0123456789") != strlen(class) || label >= n))
            return ds_fail(err, DS_EINVAL, "base '%s' has classes 0 to %lld, not '%.60s'",
                           ds_json_string(base, "name", "?"), (long long)n - 1, class);
        return 0;
    }
    if ((rc = ds_adapter_get(d->registry, a->ref, &adapter, err)))
        return rc;
    json_t *classes = json_object_get(adapter, "class_map");
    json_array_foreach(classes, i, list)
        found |= !strcmp(ds_json_string(list, "name", ""), class);
    if (json_array_size(classes) && !found) {
        size_t n = json_array_size(classes);
        const char **names = ds_xcalloc(n, sizeof *names);
        for (i = 0; i < n; i++)
            names[i] = ds_json_string(json_array_get(classes, i), "name", "");
        const char *near = ds_suggest(class, names, n);
        list_classes(classes, known);
        rc = ds_fail(err, DS_EINVAL, "adapter '%s' has no class '%.60s': it has %s%s%.60s%s",
                     a->ref, class, known, near ? "; did you mean '" : "", near ? near : "",
                     near ? "'?" : "");
        free(names);
    }
    json_decref(adapter);
    return rc;
}

static int is_guided(const json_t *payload) {
    const char *key;
    json_t *v;
    int guided = 0;
    json_object_foreach((json_t *)(uintptr_t)payload, key, v)
        guided |= !strncmp(key, "guidance", 8) && !json_is_null(v);
    return guided;
}

/* Guidance that is asked for fits what the adapter was evaluated with. */
static int check_guidance(ds_daemon *d, const json_t *payload, const ds_adapter_ref *a,
                          ds_error *err) {
    json_t *tasks = NULL, *sample = NULL;
    if (!is_guided(payload))
        return 0;
    int rc = a->id ? ds_old_tasks(d->registry, a->base_id, NULL, a->ref, &tasks, err) : 0;
    if (!rc) {
        sample = json_deep_copy(json_object_get(json_array_get(tasks, 0), "sample"));
        if (!json_is_object(sample)) {
            json_decref(sample);
            sample = json_object();
        }
        rc = ds_guidance_take(sample, payload, !a->id, err);
    }
    json_decref(sample);
    json_decref(tasks);
    return rc;
}

static int is_text(const json_t *payload, const char *key, const char *word) {
    return !strcmp(ds_json_string(payload, key, ""), word);
}

/* What was asked for and changes nothing (engine/diffusion/sampler.c, worker/measure/serve.c). */
static json_t *sample_notes(const json_t *payload) {
    json_t *notes = json_array();
    int guided = json_is_number(json_object_get(payload, "guidance")),
        cfg = is_text(payload, "guidance_mode", "cfg"),
        alone = !ds_json_string(payload, "ref", NULL),
        domain = json_is_number(json_object_get(payload, "guidance_domain")),
        class = json_is_number(json_object_get(payload, "guidance_class")),
        low = ds_json_number(payload, "guidance_low", 0) > 0,
        none = is_text(payload, "guidance_mode", "none"),
        unguided = none || ds_json_number(payload, "guidance", 0) == 1 ||
                   (ds_json_number(payload, "guidance_domain", 0) == 1 &&
                    ds_json_number(payload, "guidance_class", 0) == 1);
    if (low && (unguided || (alone && !((cfg || class) && ds_json_string(payload, "class", NULL)))))
        json_array_append_new(notes, json_string("nothing guides: guidance_low has no effect"));
    if (guided && none)
        json_array_append_new(notes, json_string("guidance has no effect with guidance mode none"));
    else if (alone && cfg && !ds_json_string(payload, "class", NULL))
        json_array_append_new(notes, json_string("the base without a class has nothing to be "
                                                 "guided by: guidance has no effect"));
    else if (alone && !cfg && (guided || is_text(payload, "guidance_mode", "domain")))
        json_array_append_new(notes, json_string("the base guided by itself is the base: guidance "
                                                 "needs guidance mode cfg and a class"));
    if (alone && domain)
        json_array_append_new(notes, json_string("the base guided by itself is the base: "
                                                 "guidance_domain has no effect"));
    if (alone && class && !ds_json_string(payload, "class", NULL))
        json_array_append_new(notes, json_string("the base without a class has nothing to be "
                                                 "guided by: guidance_class has no effect"));
    return notes;
}

/* The job works on what the reference means now, whatever an alias points to later. */
static int add_job(ds_request *rq, ds_daemon *d, enum ds_job_kind kind, json_t *payload,
                   ds_error *err) {
    const char *ref = ds_json_string(payload, "ref", NULL),
               *asked = ds_json_string(payload, "base", NULL);
    ds_adapter_ref a = {.name = ""};
    json_t *base = NULL;
    int64_t id = 0, base_id = 0;
    int rc = ref ? ds_adapter_resolve(d->registry, ref, &a, err) : 0;
    if (!rc && (asked || !ref))
        rc = ds_base_resolve(d->registry, asked, &base_id, err);
    if (!rc && ref && asked)
        rc = ds_adapter_check_base(d->registry, &a, base_id, err);
    if (!rc)
        rc = ds_base_get(d->registry, ref ? a.base_id : base_id, &base, err);
    if (!rc)
        rc = ds_models_complete(base, err);
    if (!rc && kind == DS_JOB_SAMPLE)
        rc = check_class(d, payload, &a, base, err);
    if (!rc && kind == DS_JOB_SAMPLE)
        rc = check_guidance(d, payload, &a, err);
    const char *sampler = ds_json_string(payload, "sampler", NULL);
    if (!rc && sampler)
        rc = ds_sampler_word_check(sampler, ds_base_velocity(base), err);
    if (!rc && ref)
        json_object_set_new(payload, "ref", json_string(a.ref));
    if (!rc) /* also what keeps the base from being removed meanwhile */
        json_object_set(payload, "base", json_object_get(base, "sha256"));
    json_decref(base);
    if (!rc)
        rc = ds_job_add(d->registry, kind, a.name, payload, 3, &id, err);
    json_t *doc = NULL;
    if (!rc)
        rc = ds_job_get(d->registry, id, &doc, err);
    if (!rc) {
        ds_api_overlay(d, doc);
        json_object_set_new(doc, "notes",
                            kind == DS_JOB_SAMPLE ? sample_notes(payload) : json_array());
    }
    json_decref(payload);
    return rc ? rc : ds_reply_json(rq, 202, doc);
}

/* The section "sample" of options.def is what an adapter was evaluated with, unless told. */
static const field sample_fields[] = {
    {"ref", 's', 0, 0, NULL},           {"base", 's', 0, 0, NULL},
    {"n", 'i', DS_RANGE_SAMPLES, NULL}, {"class", 's', 0, 0, NULL},
    {"seed", 'i', DS_RANGE_SEED, NULL}, {"columns", 'i', DS_RANGE_COLUMNS, NULL},
    {"sheet", 'b', 0, 0, NULL},
#define RANGE(...) RANGE_(__VA_ARGS__)
#define RANGE_(a, b) .least = a, .most = b
#define WORDS(list) .values = DS_WORDS(list)
#define OF_INT 'i'
#define OF_NUM 'n'
#define OF_ENUM 's'
#define SAMPLE(name, flag, key_, member, type_, metavar, help, default_, allowed)                  \
    {.key = #key_, .type = OF_##type_, allowed},
#include "contract/options.def"
};

int ds_api_sample_add(ds_request *rq, void *ctx, ds_error *err) {
    json_t *body = NULL;
    int rc = ds_request_json(rq, &body, err);
    if (!rc)
        rc = check_body(body, sample_fields, sizeof sample_fields / sizeof *sample_fields, err);
    return rc ? rc : add_job(rq, ctx, DS_JOB_SAMPLE, json_deep_copy(body), err);
}

int ds_api_verify_add(ds_request *rq, void *ctx, ds_error *err) {
    static const field fields[] = {{"ref", 's', 0, 0, NULL},
                                   {"base", 's', 0, 0, NULL},
                                   {"full", 'b', 0, 0, NULL},
                                   {"base_task", 'b', 0, 0, NULL}};
    json_t *body = NULL;
    int rc = ds_request_json(rq, &body, err);
    if (!rc)
        rc = check_body(body, fields, sizeof fields / sizeof *fields, err);
    if (rc)
        return rc;
    /* without any adapter there is still the base itself: task 0 */
    return add_job(rq, ctx, DS_JOB_VERIFY, json_deep_copy(body), err);
}
