/* daemon/care/fsck.c - see fsck.h: rows, blobs, models and folders; caches are in fsck_caches.c. */
#include "daemon/care/fsck.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/zio.h"
#include "contract/job.h"
#include "daemon/care/fsck_internal.h"
#include "registry/store/blobs.h"
#include "registry/check.h"
#include "registry/core/migrate.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LISTED 100
#define MODEL_MAX ((size_t)8 << 30) /* unpacked */

void fsck_tell(fsck *k, int damage, const char *repaired, const char *way_out, const char *thing,
               const char *cause) {
    ds_fsck_result *f = k->out;
    f->damage += damage && !repaired;
    if (json_array_size(f->findings) >= LISTED) {
        f->more++;
        return;
    }
    json_t *o = json_object();
    json_object_set_new(o, "thing", fsck_text(thing));
    json_object_set_new(o, "cause", fsck_text(cause));
    json_object_set_new(o, "way_out", fsck_text(way_out));
    json_object_set_new(o, "damage", json_boolean(damage));
    json_object_set_new(o, "repaired", repaired ? fsck_text(repaired) : json_null());
    json_array_append_new(f->findings, o);
}

json_t *fsck_text(const char *s) {
    json_t *v = json_string(s);
    return v ? v : json_string("(a name that is not UTF-8)");
}

/* ---- rows ---- */

static void row_finding(void *ctx, const char *thing, const char *cause) {
    fsck_tell(ctx, 1, NULL,
              "stop the daemon, restore a copy from backups/, or try: sqlite3 registry.db .recover",
              thing, cause);
}

static int open_registry(fsck *k, ds_error *err) {
    char path[PATH_MAX];
    int version = 0;
    ds_fs_join(path, sizeof path, k->o->state, "registry.db");
    if (!ds_fs_exists(path))
        return ds_fail(err, DS_ENOTFOUND, "state folder '%s' has no registry.db", k->o->state);
    if (sqlite3_open_v2(path, &k->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL))
        return ds_fail(err, DS_EIO, "cannot open '%s': %s", path, sqlite3_errmsg(k->db));
    sqlite3_busy_timeout(k->db, 5000);
    sqlite3_db_config(k->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    int rc = ds_migrate_check(k->db, path, ds_migration_count, &version, err);
    if (rc && rc != DS_EINTEGRITY)
        return rc;
    if (rc) {
        row_finding(k, "registry.db", err ? err->message : "it cannot be read");
    } else if (version == 0) {
        fsck_tell(k, 0, NULL, "start the daemon, which goes on with it", "registry.db",
                  "it has no tables yet: its first start was cut short");
    } else if (version < ds_migration_count) {
        fsck_tell(k, 0, NULL, "start the daemon once, which brings it up to date", "registry.db",
                  "it is of an earlier program: rows are not looked at");
    } else {
        ds_check_rows(k->db, k->o->quick, row_finding, k);
        k->readable = 1;
    }
    return 0;
}

/* ---- blobs ---- */

/* Who needs it, for people: "digits@v1, dataset digits v2"; "" nobody. */
static void needed_by(fsck *k, const char *sha, char *out, size_t size) {
    static const char sql[] =
        "SELECT a.name || '@v' || av.version FROM adapter_versions av JOIN adapters a"
        " ON a.id = av.adapter_id WHERE av.deleted_at IS NULL AND (av.digest = ?1 OR"
        " av.reference_digest = ?1) UNION ALL SELECT 'dataset ' || d.name || ' v' || v.version"
        " FROM dataset_versions v JOIN datasets d ON d.id = v.dataset_id WHERE"
        " v.manifest_digest = ?1 UNION ALL SELECT 'base ' || b.name FROM base_tasks t JOIN bases b"
        " ON b.id = t.base_id WHERE t.reference_digest = ?1 LIMIT 3";
    sqlite3_stmt *q = NULL;
    size_t n = 0;
    *out = 0;
    if (sqlite3_prepare_v2(k->db, sql, -1, &q, NULL) != SQLITE_OK)
        return;
    sqlite3_bind_text(q, 1, sha, -1, SQLITE_STATIC);
    while (sqlite3_step(q) == SQLITE_ROW && n < size)
        n += (size_t)snprintf(out + n, size - n, "%s%s", n ? ", " : "",
                              (const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
}

/* The content of `path` is this blob: it is put, and its row is owed. */
static int put_from(fsck *k, const char *sha, const char *media_type, const char *path) {
    ds_fsck_result *f = k->out;
    ds_blob b;
    struct stat st;
    if (lstat(path, &st) || !S_ISREG(st.st_mode))
        return 0;
    enum ds_store_input input = ds_fs_ends_with(path, ".ndjson") ? DS_STORE_RAW : DS_STORE_ZSTD;
    ds_store_hold(k->o->store, sha);
    if (ds_store_put_file(k->o->store, path, input, sha, &b, NULL)) {
        ds_store_drop(k->o->store, sha);
        return 0;
    }
    f->puts = ds_xrealloc(f->puts, (f->put_count + 1) * sizeof *f->puts);
    f->puts[f->put_count].blob = b;
    snprintf(f->puts[f->put_count].media_type, sizeof f->puts->media_type, "%s", media_type);
    f->put_count++;
    return 1;
}

/* Where a copy may be: what was moved away, and the folders of jobs that made it. */
static const char *put_from_copy(fsck *k, const char *sha, const char *media_type) {
    static const char *const names[] = {DS_FILE_ADAPTER, DS_FILE_REFERENCE, DS_FILE_BASE_REFERENCE,
                                        DS_FILE_MANIFEST};
    static char from[PATH_MAX + 40];
    char path[PATH_MAX], jobs[PATH_MAX];
    for (int i = 0; i < 10; i++) {
        snprintf(path, sizeof path, "%.3900s/quarantine/%s.%d.zst", k->o->state, sha, i);
        if (put_from(k, sha, media_type, path)) {
            snprintf(from, sizeof from, "put anew from %s", path);
            return from;
        }
    }
    ds_fs_join(jobs, sizeof jobs, k->o->state, "jobs");
    DIR *d = opendir(jobs);
    const char *found = NULL;
    for (struct dirent *e; !found && d && (e = readdir(d));)
        for (size_t i = 0; !found && *e->d_name != '.' && i < sizeof names / sizeof *names; i++) {
            snprintf(path, sizeof path, "%.3700s/%.255s/%s", jobs, e->d_name, names[i]);
            if (put_from(k, sha, media_type, path)) {
                snprintf(from, sizeof from, "put anew from %s", path);
                found = from;
            }
        }
    if (d)
        closedir(d);
    return found;
}

static const char *quarantine(fsck *k, const char *sha, const char *path) {
    static char done[PATH_MAX + 40];
    char dir[PATH_MAX], to[PATH_MAX];
    struct stat st;
    ds_fs_join(dir, sizeof dir, k->o->state, "quarantine");
    if (ds_fs_mkdirs(dir, NULL))
        return NULL;
    for (int i = 0; i < 10; i++) {
        snprintf(to, sizeof to, "%.3900s/%s.%d.zst", dir, sha, i);
        if (lstat(to, &st) && !ds_fs_rename(path, to, NULL)) {
            snprintf(done, sizeof done, "moved to %s", to);
            return done;
        }
    }
    return NULL;
}

static void bad_blob(fsck *k, const char *sha, const char *media_type, const char *path,
                     const char *cause, int content_good) {
    char thing[400], needs[300], why[600];
    const char *repaired = NULL, *moved = NULL;
    needed_by(k, sha, needs, sizeof needs);
    snprintf(thing, sizeof thing, "blob %s%s%s", sha, *needs ? " of " : "", needs);
    snprintf(why, sizeof why, "%.500s", cause);
    if (k->o->repair && content_good && put_from(k, sha, media_type, path))
        repaired = "its content is good: put anew";
    else if (k->o->repair) {
        moved = ds_fs_exists(path) ? quarantine(k, sha, path) : NULL;
        repaired = put_from_copy(k, sha, media_type);
        if (!repaired && moved)
            snprintf(why, sizeof why, "%.250s (%.300s)", cause, moved);
    }
    fsck_tell(k, 1, repaired,
              content_good || k->o->repair
                  ? "restore its file from a copy of blobs/; an adapter can "
                    "be trained again, a manifest comes with a rescan"
                  : "dsctl fsck --repair looks for a copy; else restore "
                    "its file from a copy of blobs/, or train again",
              thing, why);
}

static void check_blob(fsck *k, sqlite3_stmt *q) {
    const char *sha = (const char *)sqlite3_column_text(q, 0),
               *stored = (const char *)sqlite3_column_text(q, 1),
               *type = (const char *)sqlite3_column_text(q, 3);
    int64_t bytes = sqlite3_column_int64(q, 2);
    char path[PATH_MAX], cause[400];
    struct stat st;
    ds_blob file;
    ds_error why;
    if (!sha || !stored || !type || ds_store_path(k->o->store, sha, path, NULL))
        return; /* such a row is a finding of the rows */
    k->out->blobs++;
    if (lstat(path, &st)) {
        bad_blob(k, sha, type, path, "its file is missing", 0);
        return;
    }
    k->out->bytes += st.st_size;
    int size_good = st.st_size == bytes;
    snprintf(cause, sizeof cause, "its file has %lld bytes, not %lld", (long long)st.st_size,
             (long long)bytes);
    if (k->o->quick) {
        if (!size_good)
            bad_blob(k, sha, type, path, cause, 0);
        return;
    }
    int rc = ds_store_verify(k->o->store, sha, &file, &why);
    if (rc)
        bad_blob(k, sha, type, path, size_good ? why.message : cause, 0);
    else if (!size_good || strcmp(file.stored_sha256, stored) != 0)
        bad_blob(k, sha, type, path,
                 "its file is not the one that was stored, though it unpacks to the same", 1);
}

static int count_file(void *ctx, const char *sha, int64_t age, int64_t bytes) {
    fsck *k = ctx;
    (void)age;
    sqlite3_bind_text(k->known, 1, sha, -1, SQLITE_TRANSIENT);
    int found = sqlite3_step(k->known) == SQLITE_ROW;
    sqlite3_reset(k->known);
    k->lone += !found;
    k->lone_bytes += found ? 0 : bytes;
    return 0;
}

static void check_store(fsck *k) {
    sqlite3_stmt *q = NULL;
    char cause[200];
    ds_error err;
    if (sqlite3_prepare_v2(k->db,
                           "SELECT digest, stored_sha256, stored_bytes, media_type FROM blobs"
                           " WHERE state = 'present' ORDER BY digest",
                           -1, &q, NULL) == SQLITE_OK)
        while (sqlite3_step(q) == SQLITE_ROW)
            check_blob(k, q);
    sqlite3_finalize(q);
    if (sqlite3_prepare_v2(k->db, "SELECT 1 FROM blobs WHERE digest = ?1 AND state <> 'gone'", -1,
                           &k->known, NULL) != SQLITE_OK)
        return;
    if (ds_store_each(k->o->store, count_file, k, &err))
        fsck_tell(k, 1, NULL, "look at the disk and the rights of the folder", "blobs",
                  err.message);
    sqlite3_finalize(k->known);
    snprintf(cause, sizeof cause, "%lld files of %lld bytes that no row names", (long long)k->lone,
             (long long)k->lone_bytes);
    if (k->lone)
        fsck_tell(k, 0, NULL, "dsctl gc removes them", "blobs", cause);
}

/* ---- models ---- */

static int model_digest(const char *path, char sha[DS_HEX_SIZE], ds_error *err) {
    char *data = NULL;
    size_t n = 0;
    if (!ds_fs_ends_with(path, ".zst"))
        return ds_digest_file(path, sha, err);
    int rc = ds_zio_read_file(path, MODEL_MAX, &data, &n, err);
    if (!rc)
        ds_digest(data, n, sha);
    free(data);
    return rc;
}

static void check_model(fsck *k, const char *what, const char *path, const char *sha,
                        const char *way_out) {
    char have[DS_HEX_SIZE];
    ds_error err;
    struct stat st;
    k->out->models++;
    if (stat(path, &st))
        fsck_tell(k, 1, NULL, way_out, what, "its file is missing");
    else if (k->o->quick)
        return;
    else if (model_digest(path, have, &err))
        fsck_tell(k, 1, NULL, way_out, what, err.message);
    else if (strcmp(have, sha) != 0)
        fsck_tell(k, 1, NULL, way_out, what, "its file has another digest");
}

static void check_models(fsck *k) {
    static const struct {
        const char *what, *sql, *way_out;
    } kinds[] = {
        {"base", "SELECT name, path, sha256 FROM bases WHERE removed_at IS NULL",
         "bring it back with dsctl add-base SOURCE; of the bundled one, install the program again"},
        {"VAE of base",
         "SELECT name, vae_path, vae_sha256 FROM bases WHERE removed_at IS NULL AND vae_path IS NOT"
         " NULL AND vae_sha256 IS NOT NULL",
         "bring it back with dsctl add-base SOURCE --vae VAE"},
        {"feature network", "SELECT name, path, sha256 FROM feature_nets WHERE removed_at IS NULL",
         "bring it back with dsctl add-feature-net FILE; of the bundled one, install the program "
         "again"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        sqlite3_stmt *q = NULL;
        char what[200];
        if (sqlite3_prepare_v2(k->db, kinds[i].sql, -1, &q, NULL) == SQLITE_OK)
            while (sqlite3_step(q) == SQLITE_ROW) {
                snprintf(what, sizeof what, "%s %.100s", kinds[i].what,
                         (const char *)sqlite3_column_text(q, 0));
                check_model(k, what, (const char *)sqlite3_column_text(q, 1),
                            (const char *)sqlite3_column_text(q, 2), kinds[i].way_out);
            }
        sqlite3_finalize(q);
    }
}

/* ---- job folders ---- */

static void check_folders(fsck *k) {
    char path[PATH_MAX], thing[320];
    sqlite3_stmt *q = NULL;
    ds_fs_join(path, sizeof path, k->o->state, "jobs");
    DIR *d = opendir(path);
    if (!d || sqlite3_prepare_v2(k->db, "SELECT 1 FROM jobs WHERE id = ?1", -1, &q, NULL)) {
        if (d)
            closedir(d);
        return;
    }
    for (struct dirent *e; (e = readdir(d));) {
        int number = strspn(e->d_name, "0123456789") == strlen(e->d_name);
        if (*e->d_name == '.')
            continue;
        k->out->folders++;
        snprintf(thing, sizeof thing, "jobs/%s", e->d_name);
        sqlite3_bind_int64(q, 1, number ? strtoll(e->d_name, NULL, 10) : 0);
        int known = sqlite3_step(q) == SQLITE_ROW;
        sqlite3_reset(q);
        if (strstr(e->d_name, ".foreign-"))
            fsck_tell(k, 0, NULL, "look into it, and remove it when nothing in it is wanted", thing,
                      "a folder of another registry, moved aside");
        else if (!known)
            fsck_tell(k, 0, NULL, "look into it, and remove it when nothing in it is wanted", thing,
                      number ? "a folder of a job that this registry does not have"
                             : "no job has such a folder");
    }
    sqlite3_finalize(q);
    closedir(d);
}

/* ---- the whole ---- */

int ds_fsck_run(const ds_fsck_options *o, ds_fsck_result *out, ds_error *err) {
    fsck k = {.o = o, .out = out};
    *out = (ds_fsck_result){.findings = json_array()};
    int rc = open_registry(&k, err);
    if (!rc && k.readable) {
        check_store(&k);
        check_models(&k);
        check_folders(&k);
    }
    if (!rc)
        fsck_caches(&k);
    sqlite3_close(k.db);
    return rc;
}

int ds_fsck_rows(ds_registry *r, ds_fsck_result *f, ds_error *err) {
    int rc = 0;
    for (size_t i = 0; !rc && i < f->put_count; i++)
        rc = ds_blob_add(r, &f->puts[i].blob, f->puts[i].media_type, err);
    return rc;
}

json_t *ds_fsck_json(const ds_fsck_result *f, int quick, int repair) {
    return json_pack("{sb sb sI sO sI s{sI sI sI sI sI}}", "quick", quick, "repair", repair,
                     "damage", (json_int_t)f->damage, "findings", f->findings, "more",
                     (json_int_t)f->more, "checked", "blobs", (json_int_t)f->blobs, "bytes",
                     (json_int_t)f->bytes, "models", (json_int_t)f->models, "folders",
                     (json_int_t)f->folders, "caches", (json_int_t)f->caches);
}

void ds_fsck_release(ds_fsck_result *f, ds_store *store) {
    for (size_t i = 0; i < f->put_count; i++)
        ds_store_drop(store, f->puts[i].blob.sha256);
    free(f->puts);
    json_decref(f->findings);
    *f = (ds_fsck_result){0};
}
