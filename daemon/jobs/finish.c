/* daemon/jobs/finish.c - see finish.h. */
#include "daemon/jobs/finish.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/flow/imports.h"
#include "registry/flow/reconcile.h"
#include "registry/flow/results.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define RESULT_MAX (64 << 20)
#define SPEC_MAX (16 << 20)

/* A file name that a result may use: in the job directory itself, nothing hidden. */
static int plain_name(const char *name, ds_error *err) {
    if (!*name || *name == '.' || strchr(name, '/') || strlen(name) > 100)
        return ds_fail(err, DS_EINVAL,
                       "result.json names the file '%.100s': it must be a plain name", name);
    return 0;
}

static int need_schema(const json_t *result, const char *schema, ds_error *err) {
    const char *is;
    int rc = ds_json_need_string(result, "schema", &is, err);
    if (!rc && strcmp(is, schema) != 0)
        return ds_fail(err, DS_EINVAL, "result.json has schema '%.60s', not '%s'", is, schema);
    return rc;
}

/* Into the store, and held there: the row can have to wait, and no sweep may come between. */
static int put(ds_finish *f, const char *path, enum ds_store_input input, const char *sha,
               ds_blob *out, ds_error *err) {
    DS_ASSERT(f->held_count < (int)(sizeof f->held / sizeof *f->held));
    ds_store_hold(f->store, sha);
    memcpy(f->held[f->held_count++], sha, DS_HEX_SIZE);
    return ds_store_put_file(f->store, path, input, sha, out, err);
}

/* The file of doc[key]: {"file","sha256"[,"stored_bytes","stored_sha256"]} into the store. */
static int put_file(ds_finish *f, const json_t *doc, const char *key, ds_blob *out, ds_error *err) {
    json_t *o;
    const char *file, *sha;
    char path[PATH_MAX], stored[DS_HEX_SIZE];
    struct stat st;
    int rc = ds_json_need_object(doc, key, &o, err);
    if (!rc)
        rc = ds_json_need_string(o, "file", &file, err);
    if (!rc)
        rc = ds_json_need_string(o, "sha256", &sha, err);
    if (!rc)
        rc = plain_name(file, err);
    if (rc)
        return rc;
    if (!ds_digest_valid(sha))
        return ds_fail(err, DS_EINVAL, "result.json: '%s.sha256' is not a digest", key);
    ds_fs_join(path, sizeof path, f->dir, file);
    if (lstat(path, &st))
        return ds_fail_errno(err, "cannot find '%s'", path);
    int64_t want = ds_json_int(o, "stored_bytes", st.st_size);
    if (!S_ISREG(st.st_mode) || st.st_size != want)
        return ds_fail(err, DS_EINTEGRITY, "'%s' has %lld bytes, result.json says %lld", path,
                       (long long)st.st_size, (long long)want);
    const char *stored_sha = ds_json_string(o, "stored_sha256", NULL);
    if (stored_sha) {
        rc = ds_digest_file(path, stored, err);
        if (!rc && strcmp(stored, stored_sha) != 0)
            return ds_fail(err, DS_EINTEGRITY, "'%s' has not the digest that result.json says",
                           path);
    }
    size_t n = strlen(file);
    int zstd = n > 4 && strcmp(file + n - 4, ".zst") == 0;
    if (!rc)
        rc = put(f, path, zstd ? DS_STORE_ZSTD : DS_STORE_RAW, sha, out, err);
    if (!rc && ds_json_int(o, "raw_bytes", out->raw_bytes) != out->raw_bytes)
        return ds_fail(err, DS_EINTEGRITY, "'%s' unpacks to %lld bytes, result.json says otherwise",
                       path, (long long)out->raw_bytes);
    return rc;
}

static int collect_scan(ds_finish *f, ds_error *err) {
    const char *manifest, *digest;
    char path[PATH_MAX];
    int rc = need_schema(f->result, DS_SCHEMA_SCAN, err);
    if (!rc)
        rc = ds_json_need_string(f->result, "manifest", &manifest, err);
    if (!rc)
        rc = ds_json_need_string(f->result, "tree_digest", &digest, err);
    if (!rc)
        rc = plain_name(manifest, err);
    if (rc)
        return rc;
    if (!ds_digest_valid(digest))
        return ds_fail(err, DS_EINVAL, "result.json: 'tree_digest' is not a digest");
    ds_fs_join(path, sizeof path, f->dir, manifest);
    return put(f, path, DS_STORE_RAW, digest, &f->blob, err);
}

/* Task 0 of the base, when this job recorded it. */
static int collect_base_task(ds_finish *f, ds_error *err) {
    json_t *task = json_object_get(f->result, "base_task");
    if (!json_is_object(json_object_get(task, "reference")))
        return 0;
    f->has_base_reference = 1;
    return put_file(f, task, "reference", &f->base_reference, err);
}

static int collect_train(ds_finish *f, ds_error *err) {
    const char *status;
    int rc = need_schema(f->result, DS_SCHEMA_TRAIN, err);
    if (!rc)
        rc = ds_json_need_string(f->result, "status", &status, err);
    if (rc)
        return rc;
    if ((strcmp(status, "rejected") == 0) != f->refused)
        return ds_fail(err, DS_EINTEGRITY,
                       "worker exited with %d but result.json has status '%.20s'",
                       f->refused ? 8 : 0, status);
    rc = put_file(f, f->result, "adapter", &f->blob, err);
    json_t *reference = json_object_get(f->result, "reference");
    if (!rc && reference && !json_is_null(reference)) {
        f->has_reference = 1;
        rc = put_file(f, f->result, "reference", &f->reference, err);
    }
    return rc ? rc : collect_base_task(f, err);
}

static int collect_verify(ds_finish *f, ds_error *err) {
    int rc = need_schema(f->result, DS_SCHEMA_VERIFY, err);
    return rc ? rc : collect_base_task(f, err);
}

/* An imported model lies in out_dir under the name of its digest; nothing else is looked at, and
 * what is there must be what its name says before a row can refer to it. */
static int check_model(const ds_finish *f, const char *file, const char *sha, int64_t bytes,
                       char out[PATH_MAX], ds_error *err) {
    const char *dir;
    char have[DS_HEX_SIZE], name[DS_HEX_SIZE + 16];
    struct stat st;
    int rc = ds_json_need_string(f->spec, "out_dir", &dir, err);
    if (rc)
        return rc;
    if (!ds_digest_valid(sha))
        return ds_fail(err, DS_EINVAL, "result.json: '%.80s' is not a digest", sha);
    snprintf(name, sizeof name, "%s.safetensors", sha);
    ds_fs_join(out, PATH_MAX, dir, name);
    if (strcmp(file, out) != 0)
        return ds_fail(err, DS_EINVAL, "result.json names the file '%.300s', not '%.300s'", file,
                       out);
    if (lstat(out, &st))
        return ds_fail_errno(err, "cannot find '%s'", out);
    if (!S_ISREG(st.st_mode) || (bytes >= 0 && st.st_size != bytes))
        return ds_fail(err, DS_EINTEGRITY, "'%s' has %lld bytes, result.json says %lld", out,
                       (long long)st.st_size, (long long)bytes);
    rc = ds_digest_file(out, have, err);
    if (!rc && strcmp(have, sha) != 0)
        rc = ds_fail(err, DS_EINTEGRITY, "'%s' has sha256 %s: it is not what was imported", out,
                     have);
    return rc;
}

static int collect_import(ds_finish *f, ds_error *err) {
    const char *file, *sha;
    int rc = need_schema(f->result, DS_SCHEMA_IMPORT, err);
    if (!rc)
        rc = ds_json_need_string(f->result, "file", &file, err);
    if (!rc)
        rc = ds_json_need_string(f->result, "sha256", &sha, err);
    if (!rc)
        rc = check_model(f, file, sha, ds_json_int(f->result, "bytes", -1), f->model, err);
    json_t *vae = json_object_get(f->result, "vae");
    if (rc || !json_is_object(vae))
        return rc;
    rc = ds_json_need_string(vae, "file", &file, err);
    if (!rc)
        rc = ds_json_need_string(vae, "sha256", &sha, err);
    return rc ? rc : check_model(f, file, sha, -1, f->vae, err);
}

int ds_finish_collect(ds_finish *f, ds_error *err) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, f->dir, DS_FILE_SPEC);
    int rc = ds_json_read_file(path, SPEC_MAX, &f->spec, err);
    ds_fs_join(path, sizeof path, f->dir, DS_FILE_RESULT);
    if (!rc)
        rc = ds_json_read_file(path, RESULT_MAX, &f->result, err);
    if (rc)
        return rc;
    switch (f->kind) {
    case DS_JOB_SCAN: return collect_scan(f, err);
    case DS_JOB_TRAIN: return collect_train(f, err);
    case DS_JOB_SAMPLE: return need_schema(f->result, DS_SCHEMA_SAMPLE, err);
    case DS_JOB_VERIFY: return collect_verify(f, err);
    case DS_JOB_IMPORT: return collect_import(f, err);
    case DS_JOB_KIND_COUNT: break;
    }
    return ds_fail(err, DS_EINVAL, "job %lld has an unknown kind", (long long)f->job);
}

int ds_finish_commit(ds_finish *f, ds_registry *r, ds_error *err) {
    int rc = DS_EINVAL, changed = 0;
    ds_error later;
    const ds_blob *base_reference = f->has_base_reference ? &f->base_reference : NULL;
    switch (f->kind) {
    case DS_JOB_SCAN:
        rc = ds_scan_finish(r, f->job, f->result, &f->blob, &changed, err);
        f->unchanged = !changed;
        if (!rc) /* if that fails, the next turn of deriving work tries again and says why */
            (void)ds_reconcile_of_job(r, f->job, &later);
        break;
    case DS_JOB_TRAIN: {
        ds_publication p = {.job = f->job,
                            .spec = f->spec,
                            .result = f->result,
                            .adapter = &f->blob,
                            .reference = f->has_reference ? &f->reference : NULL,
                            .base_reference = base_reference};
        rc = ds_publish(r, &p, f->ref, err);
        break;
    }
    case DS_JOB_SAMPLE: rc = ds_job_done(r, f->job, f->result, err); break;
    case DS_JOB_VERIFY: {
        ds_verification v = {
            .job = f->job, .spec = f->spec, .result = f->result, .base_reference = base_reference};
        rc = ds_verify_finish(r, &v, err);
        break;
    }
    case DS_JOB_IMPORT: {
        ds_import i = {.job = f->job,
                       .spec = f->spec,
                       .result = f->result,
                       .path = f->model,
                       .vae_path = *f->vae ? f->vae : NULL};
        rc = ds_import_finish(r, &i, err);
        break;
    }
    case DS_JOB_KIND_COUNT: break;
    }
    return rc;
}

/* Of a kind of job: what goes at its end. */
static const char *const *scratch_of(enum ds_job_kind kind) {
    static const char *const train[] = {DS_DIR_CHECKPOINTS,
                                        DS_DIR_STAGE,
                                        DS_FILE_ADAPTER,
                                        DS_FILE_REFERENCE,
                                        DS_FILE_BASE_REFERENCE,
                                        DS_FILE_MANIFEST,
                                        NULL};
    static const char *const scan[] = {DS_FILE_MANIFEST, DS_DIR_STAGE, NULL};
    static const char *const other[] = {DS_FILE_BASE_REFERENCE, NULL};
    return kind == DS_JOB_TRAIN ? train : kind == DS_JOB_SCAN ? scan : other;
}

void ds_finish_scrap(enum ds_job_kind kind, const char *dir) {
    ds_error err;
    int rc = 0;
    for (const char *const *names = scratch_of(kind); !rc && *names; names++) {
        char path[PATH_MAX];
        ds_fs_join(path, sizeof path, dir, *names);
        rc = ds_fs_remove(path, &err);
    }
    if (rc)
        ds_log(DS_LOG_WARN, "cannot tidy '%s': %s", dir, err.message);
}

void ds_finish_clean(const ds_finish *f) {
    ds_error err;
    if (f->kind != DS_JOB_SCAN || !f->unchanged)
        ds_finish_scrap(f->kind, f->dir);
    else if (ds_fs_remove(f->dir, &err)) /* periodic rescans must not fill the disk */
        ds_log(DS_LOG_WARN, "cannot tidy '%s': %s", f->dir, err.message);
}

void ds_finish_release(ds_finish *f) {
    while (f->held_count)
        ds_store_drop(f->store, f->held[--f->held_count]);
    json_decref(f->spec);
    json_decref(f->result);
    f->spec = f->result = NULL;
}
