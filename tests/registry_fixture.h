/* tests/registry_fixture.h - a registry with a base, and the results that workers would have
 * written.
 *
 * For tests/test_registry_*.c.  Every helper aborts the test on failure.
 */
#ifndef DS_TESTS_REGISTRY_FIXTURE_H
#define DS_TESTS_REGISTRY_FIXTURE_H

#include "base/fs.h"
#include "registry/adapters.h"
#include "registry/aliases.h"
#include "registry/bases.h"
#include "registry/blobs.h"
#include "registry/datasets.h"
#include "registry/evaluations.h"
#include "registry/events.h"
#include "registry/imports.h"
#include "registry/jobs.h"
#include "registry/reconcile.h"
#include "registry/results.h"
#include "tests/harness.h"

#include <limits.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FX static __attribute__((unused))
#define MUST(call)                                                                                 \
    do {                                                                                           \
        ds_error e_ = {0};                                                                         \
        ds_error *err = &e_;                                                                       \
        int rc_ = (call);                                                                          \
        if (rc_)                                                                                   \
            ck_abort_msg("%s: %s: %s", #call, ds_error_name(rc_), e_.message);                     \
    } while (0)
/* The call fails with `code` and a message that holds `text`. */
#define FAILS(code_, text, call)                                                                   \
    do {                                                                                           \
        ds_error e_ = {0};                                                                         \
        ds_error *err = &e_;                                                                       \
        int rc_ = (call);                                                                          \
        ck_assert_msg(rc_ == (code_), "%s: got %s (%s)", #call, ds_error_name(rc_), e_.message);   \
        ck_assert_msg(strstr(e_.message, text) != NULL, "message '%s' lacks '%s'", e_.message,     \
                      text);                                                                       \
    } while (0)

#define BASE_SHA "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0"
#define NET_SHA "fefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefe"

/* First thing in main: hundreds of synced commits belong on a RAM disk where there is one (killing
 * a process loses nothing that reached the kernel, on any file system). */
FX void fx_fast_tmp(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!getenv("TMPDIR") && ds_fs_free_bytes("/dev/shm") > ((int64_t)512 << 20) &&
        !access("/dev/shm", W_OK))
        setenv("TMPDIR", "/dev/shm", 1);
}

/* What another program would do: SQL on a connection of its own. */
FX int fx_foreign(ds_registry *r, const char *sql) {
    char path[PATH_MAX];
    sqlite3 *db;
    ds_fs_join(path, sizeof path, ds_registry_dir(r), "registry.db");
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    sqlite3_close(db);
    return rc;
}

/* A fresh state folder of the test program. */
FX const char *fx_dir(const char *name) {
    static char path[PATH_MAX];
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), name);
    MUST(ds_fs_remove(path, err));
    return path;
}

FX ds_registry *fx_open(const char *dir) {
    ds_registry *r = NULL;
    int64_t net = 0, base = 0;
    MUST(ds_registry_open(dir, &r, err));
    MUST(ds_feature_net_put(r, "inception", "/nets/inception", NET_SHA, &net, err));
    MUST(ds_base_put(r, "emoji-dit", "/bases/emoji", BASE_SHA, NULL, net, &base, err));
    MUST(ds_base_activate(r, base, err));
    return r;
}

FX json_t *fx_json(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
FX json_t *fx_json(const char *fmt, ...) {
    char text[8192];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ck_assert_int_lt(n, (int)sizeof text);
    json_error_t je;
    json_t *o = json_loads(text, 0, &je);
    ck_assert_msg(o != NULL, "fixture JSON: %s in %s", je.text, text);
    return o;
}

FX const char *fx_string(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_string(v) ? json_string_value(v) : NULL;
}
FX int64_t fx_int(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}

FX int64_t fx_add(ds_registry *r, const char *name, const char *path) {
    ds_dataset_new d = {.name = name, .path = path, .watch = -1};
    int64_t id = 0, seq = 0;
    int created = 0;
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
    return id;
}

/* Reconcile, take the next job, which must be of this kind, and claim it. */
FX ds_job fx_claim(ds_registry *r, enum ds_job_kind kind) {
    ds_job j;
    MUST(ds_reconcile(r, NULL, err));
    MUST(ds_job_next(r, DS_KIND_BIT(kind), INT64_MAX, &j, NULL, err));
    MUST(ds_job_claim(r, j.id, err));
    return j;
}

/* 0 or the error of ds_scan_finish; `content` stands for the images. */
FX int fx_scan_finish(ds_registry *r, int64_t job, const char *content, int *changed,
                      ds_error *err) {
    ds_blob b;
    char line[512];
    snprintf(line, sizeof line,
             "{\"path\":\"0/%s.png\",\"size\":1,\"sha256\":\"%s\",\"class\":\"0\"}\n", content,
             NET_SHA);
    int rc = ds_store_put_bytes(ds_registry_store(r), line, strlen(line), &b, err);
    if (rc)
        return rc;
    json_t *result = fx_json(
        "{\"schema\":\"diffscaler.scan/1\",\"tree_digest\":\"%s\",\"images\":3,\"bytes\":30,"
        "\"classes\":[{\"name\":\"0\",\"images\":3}],\"rejected\":[{\"path\":\"x.png\","
        "\"reason\":\"truncated\"}],\"rejected_count\":1,\"width\":{\"min\":8,\"max\":9}}",
        b.sha256);
    rc = ds_scan_finish(r, job, result, &b, changed, err);
    json_decref(result);
    return rc;
}

FX int64_t fx_scan(ds_registry *r, const char *content) {
    int changed = 0;
    ds_job j = fx_claim(r, DS_JOB_SCAN);
    MUST(fx_scan_finish(r, j.id, content, &changed, err));
    return j.id;
}

/* Spec and result of a training job; the caller frees both. */
FX void fx_training(ds_registry *r, const ds_job *j, int passed, const ds_blob *adapter,
                    const ds_blob *reference, json_t **spec, json_t **result) {
    json_t *v = NULL;
    int64_t version = 0;
    MUST(ds_dataset_version_get(r, j->dataset_version_id, &v, err));
    MUST(ds_adapter_next_version(r, j->name, &version, err));
    *spec =
        fx_json("{\"schema\":\"diffscaler.job/1\",\"kind\":\"train\",\"name\":\"%s\","
                "\"version\":%lld,\"base\":{\"name\":\"emoji-dit\",\"sha256\":\"" BASE_SHA "\"},"
                "\"feature_net\":{\"sha256\":\"" NET_SHA "\"},\"dataset\":{\"tree_digest\":\"%s\"},"
                "\"method\":{\"name\":\"affiner\",\"rank\":8},\"train\":{\"steps\":80,\"seed\":1},"
                "\"sample\":{\"steps\":20},\"evaluate\":{\"n\":64},\"old_tasks\":[],"
                "\"gate\":{\"verify\":\"auto\",\"fd_tolerance\":0.02}}",
                j->name, (long long)version, fx_string(v, "tree_digest"));
    json_decref(v);
    *result = fx_json(
        "{\"schema\":\"diffscaler.train/1\",\"status\":\"%s\",\"adapter\":{\"sha256\":\"%s\","
        "\"parameters\":1234},\"reference\":{\"sha256\":\"%s\",\"n\":64},"
        "\"probe\":{\"device_class\":\"cpu-test\",\"sha256\":\"%s\",\"n\":4,\"seed\":11},"
        "\"evaluations\":[{\"subject\":\"base\",\"metric\":\"fd\",\"value\":90.5,\"n_fake\":64},"
        "{\"subject\":\"adapter\",\"metric\":\"fd\",\"value\":12.25,\"n_real\":60,\"n_fake\":64,"
        "\"seed\":7,\"feature_net\":\"" NET_SHA "\",\"resize\":\"pil-bicubic-1\"},"
        "{\"subject\":\"adapter\",\"metric\":\"kid\",\"value\":0.01,\"ci_low\":0.0,\"ci_high\":0."
        "02}],"
        "\"gate\":{\"verdict\":\"%s\",\"reason\":\"%s\",\"worst_task\":%s,\"delta\":%s,"
        "\"tasks\":[{\"name\":\"old\",\"ref\":\"old@v1\",\"level\":1,\"unchanged\":%s,"
        "\"verdict\":\"%s\",\"fd_recorded\":12.3,\"fd_now\":12.3,\"probe_recorded\":\"p\"}]},"
        "\"images\":3,\"classes\":1,\"steps\":80,\"train_seconds\":6.5,\"images_per_second\":800.0,"
        "\"device_class\":\"cpu-test\"}",
        passed ? "ok" : "rejected", adapter->sha256, reference->sha256, adapter->sha256,
        passed ? "passed" : "refused", passed ? "" : "old fell by 3.0", passed ? "null" : "\"old\"",
        passed ? "0.0" : "3.0", passed ? "true" : "false", passed ? "passed" : "refused");
}

FX int fx_publish(ds_registry *r, const ds_job *j, int passed, const char *content, char *ref,
                  ds_error *err) {
    char name[DS_HEX_SIZE + 16], text[256];
    ds_blob a, f;
    snprintf(text, sizeof text, "adapter %s", content);
    int rc = ds_store_put_bytes(ds_registry_store(r), text, strlen(text), &a, err);
    snprintf(text, sizeof text, "reference %s", content);
    if (!rc)
        rc = ds_store_put_bytes(ds_registry_store(r), text, strlen(text), &f, err);
    if (rc)
        return rc;
    json_t *spec, *result;
    fx_training(r, j, passed, &a, &f, &spec, &result);
    ds_publication p = {
        .job = j->id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    rc = ds_publish(r, &p, ref ? ref : name, err);
    json_decref(spec);
    json_decref(result);
    return rc;
}

/* The end of a running verification on the fixture's base. */
FX int fx_verify_finish(ds_registry *r, int64_t job, const json_t *result, ds_error *err) {
    json_t *spec = fx_json("{\"base\":{\"name\":\"emoji-dit\",\"sha256\":\"" BASE_SHA "\"}}");
    ds_verification v = {.job = job, .spec = spec, .result = result};
    int rc = ds_verify_finish(r, &v, err);
    json_decref(spec);
    return rc;
}

/* Claim the next training and publish it. */
FX ds_job fx_train(ds_registry *r, int passed, const char *content, char *ref) {
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    MUST(fx_publish(r, &j, passed, content, ref, err));
    return j;
}

FX int64_t fx_count(ds_registry *r, const char *type) {
    json_t *list = NULL;
    MUST(ds_events_list(r, 0, type, 1000, &list, err));
    int64_t n = (int64_t)json_array_size(list);
    json_decref(list);
    return n;
}

#endif
