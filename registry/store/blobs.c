#include "registry/store/blobs.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "registry/core/db.h"

#include <stdlib.h>
#include <string.h>

int ds_blob_add(ds_registry *r, const ds_blob *b, const char *media_type, ds_error *err) {
    char path[PATH_MAX];
    int rc = ds_store_path(r->store, b->sha256, path, err);
    if (rc || (rc = db_begin(r, err)))
        return rc;
    if (!ds_fs_exists(path)) /* swept, or never put: the caller must put it (again) */
        rc = ds_fail(err, DS_EINTEGRITY, "blob %s has no file in the store", b->sha256);
    else
        rc =
            db_run(r, err,
                   "INSERT INTO blobs(digest, raw_bytes, stored_bytes, stored_sha256, media_type,"
                   " created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (digest) DO UPDATE SET"
                   " raw_bytes = ?2, stored_bytes = ?3, stored_sha256 = ?4, state = 'present',"
                   " created_at = ?6, verified_at = NULL",
                   "siissi", b->sha256, b->raw_bytes, b->stored_bytes, b->stored_sha256, media_type,
                   ds_now_ms());
    return db_end(r, rc, err);
}

int ds_blob_get(ds_registry *r, const char *sha256, ds_blob *out, ds_error *err) {
    if (!ds_digest_valid(sha256))
        return ds_fail(err, DS_EINVAL, "'%.80s' is not a sha256 digest (64 lower-case hex digits)",
                       sha256 ? sha256 : "");
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT digest, stored_sha256, raw_bytes, stored_bytes FROM blobs"
                               " WHERE digest = ?1 AND state = 'present'",
                               "s", sha256);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "blob %s does not exist", sha256);
    db_text(out->sha256, sizeof out->sha256, q, 0);
    db_text(out->stored_sha256, sizeof out->stored_sha256, q, 1);
    out->raw_bytes = sqlite3_column_int64(q, 2);
    out->stored_bytes = sqlite3_column_int64(q, 3);
    db_reset(q);
    return 0;
}

int ds_blob_check(ds_registry *r, const char *sha256, ds_error *err) {
    ds_blob row, file;
    int rc = ds_blob_get(r, sha256, &row, err);
    if (!rc)
        rc = ds_store_verify(r->store, sha256, &file, err);
    else
        return rc;
    if (rc == DS_ENOTFOUND || rc == DS_ELIMIT) /* the row says it is there, and how large */
        return ds_fail(err, DS_EINTEGRITY,
                       "blob %s is damaged: its file is missing or has another size", sha256);
    if (!rc && strcmp(row.stored_sha256, file.stored_sha256) != 0)
        rc = ds_fail(err, DS_EINTEGRITY, "blob %s is damaged: its file has sha256 %s, expected %s",
                     sha256, file.stored_sha256, row.stored_sha256);
    return rc;
}

int ds_blob_lease(ds_registry *r, const char *sha256, int64_t job, int64_t until_ms,
                  ds_error *err) {
    if (!ds_digest_valid(sha256))
        return ds_fail(err, DS_EINVAL, "'%.80s' is not a sha256 digest", sha256 ? sha256 : "");
    return db_run(r, err,
                  "INSERT INTO blob_leases(digest, job_id, expires_at) VALUES (?1, ?2, ?3)"
                  " ON CONFLICT (digest, job_id) DO UPDATE SET expires_at = ?3",
                  "sii", sha256, job, until_ms);
}

/* Each {"path","sha256"} of a document whose path is that of the blob in the store. */
static int lease_in(ds_registry *r, int64_t job, const json_t *doc, ds_error *err) {
    char path[PATH_MAX];
    const char *key, *sha = ds_json_string(doc, "sha256", NULL);
    json_t *v;
    size_t i;
    int rc = 0;
    if (ds_digest_valid(sha) && !ds_store_path(r->store, sha, path, NULL) &&
        !strcmp(path, ds_json_string(doc, "path", "")))
        rc = ds_blob_lease(r, sha, job, INT64_MAX, err);
    json_object_foreach((json_t *)(uintptr_t)doc, key, v)
        if (!rc)
            rc = lease_in(r, job, v, err);
    json_array_foreach(doc, i, v)
        if (!rc)
            rc = lease_in(r, job, v, err);
    return rc;
}

int ds_blob_lease_spec(ds_registry *r, int64_t job, const json_t *spec, ds_error *err) {
    int rc = db_begin(r, err);
    if (rc)
        return rc;
    rc = db_run(r, err, "DELETE FROM blob_leases WHERE job_id = ?1", "i", job);
    if (!rc)
        rc = lease_in(r, job, spec, err);
    return db_end(r, rc, err);
}

/* The one definition of "needed"; ?1 = now, ?2 = now - grace. */
#define NOT_NEEDED(digest)                                                                         \
    " NOT EXISTS (SELECT 1 FROM adapter_versions av WHERE av.digest = " digest                     \
    "  AND (av.deleted_at IS NULL OR av.deleted_at > ?2))"                                         \
    " AND NOT EXISTS (SELECT 1 FROM adapter_versions av WHERE av.reference_digest = " digest       \
    "  AND (av.deleted_at IS NULL OR av.deleted_at > ?2))"                                         \
    " AND NOT EXISTS (SELECT 1 FROM base_tasks bt WHERE bt.reference_digest = " digest ")"         \
    " AND NOT EXISTS (SELECT 1 FROM dataset_versions dv WHERE dv.manifest_digest = " digest ")"    \
    " AND NOT EXISTS (SELECT 1 FROM blob_leases bl WHERE bl.digest = " digest                      \
    "  AND bl.expires_at > ?1)"

#define TAKE_AT_ONCE 64 /* in one transaction: a rename each */

struct gone {
    char sha256[DS_HEX_SIZE];
    int64_t bytes;
    int taken; /* its file is aside, or was not there */
};
struct ds_blob_sweep {
    ds_registry *r;
    ds_store *store;
    ds_sweep out;
    int64_t now, grace;
    int dry_run;
    struct gone *list; /* rows marked for removal, then files of which some have no row */
    size_t n, cap, rows;
    size_t taken, discarded; /* how far take and files are */
    int rc;                  /* of the files ... */
    ds_error why;            /* ... and its reason */
};
typedef struct ds_blob_sweep sweeping;

static void push(sweeping *s, const char *sha256, int64_t bytes) {
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->list = ds_xrealloc(s->list, s->cap * sizeof *s->list);
    }
    s->list[s->n] = (struct gone){.bytes = bytes};
    memcpy(s->list[s->n++].sha256, sha256, DS_HEX_SIZE);
}

/* From here on ds_blob_add must bring the row back. */
static int mark(sweeping *s, ds_error *err) {
    sqlite3_stmt *q = db_query(s->r, err,
                               s->dry_run ? "SELECT digest, stored_bytes FROM blobs"
                                            " WHERE (state = 'deleting' OR (state = 'present'"
                                            " AND created_at <= ?2)) AND" NOT_NEEDED("blobs.digest")
                                          : "UPDATE blobs SET state = 'deleting'"
                                            " WHERE (state = 'deleting' OR (state = 'present'"
                                            " AND created_at <= ?2)) AND" NOT_NEEDED(
                                                "blobs.digest") " RETURNING digest, stored_bytes",
                               "ii", s->now, s->now - s->grace);
    int rc;
    while ((rc = db_step(s->r, q, err)) > 0)
        push(s, (const char *)sqlite3_column_text(q, 0), sqlite3_column_int64(q, 1));
    return rc;
}

int ds_blobs_sweep_begin(ds_registry *r, int64_t grace_ms, int dry_run, ds_blob_sweep **out,
                         ds_error *err) {
    sweeping *s = ds_xcalloc(1, sizeof *s);
    s->r = r;
    s->store = r->store;
    s->now = ds_now_ms();
    s->grace = grace_ms;
    s->dry_run = dry_run;
    int rc = dry_run ? 0 : db_begin(r, err);
    if (!rc) {
        rc = mark(s, err);
        rc = dry_run ? rc : db_end(r, rc, err);
    }
    s->rows = s->n;
    if (rc) {
        free(s->list);
        free(s);
        return rc;
    }
    *out = s;
    return 0;
}

/* Whether it has a row is asked when it is taken. */
static int look_at_file(void *ctx, const char *sha256, int64_t age, int64_t bytes) {
    (void)age;
    push(ctx, sha256, bytes);
    return 0;
}

void ds_blobs_sweep_look(ds_blob_sweep *s) {
    s->rc = ds_store_each(s->store, look_at_file, s, &s->why);
}

/* 1: nothing refers to it, and its row, if there is one, is marked. */
static int unneeded(sweeping *s, const char *sha256, int has_row, ds_error *err) {
    int64_t yes = 0;
    int rc = db_int(
        s->r, &yes, err,
        "SELECT 1 WHERE" NOT_NEEDED(
            "?3") " AND CASE WHEN ?4 THEN EXISTS (SELECT 1 FROM blobs"
                  " WHERE digest = ?3 AND state = 'deleting') ELSE NOT EXISTS (SELECT 1 FROM blobs"
                  " WHERE digest = ?3 AND state <> 'gone') END",
        "iisi", s->now, s->now - s->grace, sha256, (int64_t)has_row);
    return rc == DS_ENOTFOUND ? 0 : rc ? rc : 1;
}

/* Its file is aside: no row, or one that says so while deleted versions still name it. */
static int forget(sweeping *s, const char *sha256, ds_error *err) {
    int rc = db_run(s->r, err,
                    "UPDATE blobs SET state = 'gone' WHERE digest = ?1 AND state = 'deleting' AND"
                    " EXISTS (SELECT 1 FROM"
                    " adapter_versions av WHERE av.digest = ?1 OR av.reference_digest = ?1)",
                    "s", sha256);
    if (!rc)
        rc = db_run(s->r, err, "DELETE FROM blobs WHERE digest = ?1 AND state = 'deleting'", "s",
                    sha256);
    return rc;
}

static int take_one(sweeping *s, size_t i, ds_error *err) {
    struct gone *g = &s->list[i];
    int has_row = i < s->rows,
        rc = s->dry_run && has_row ? 1 : unneeded(s, g->sha256, has_row, err);
    if (rc <= 0)
        return rc;
    char path[PATH_MAX]; /* taken with its row a moment ago */
    if (!has_row && (ds_store_path(s->store, g->sha256, path, NULL) || !ds_fs_exists(path)))
        return 0;
    if (s->dry_run)
        rc = ds_store_may_go(s->store, g->sha256, s->grace, &g->taken, err);
    else
        rc = ds_store_take_away(s->store, g->sha256, s->grace, &g->taken, err);
    if (rc)
        return rc;
    if (!g->taken) {
        s->out.kept_young++;
        return s->dry_run || !has_row
                   ? 0
                   : db_run(s->r, err, "UPDATE blobs SET state = 'present' WHERE digest = ?1", "s",
                            g->sha256);
    }
    return s->dry_run || !has_row ? 0 : forget(s, g->sha256, err);
}

int ds_blobs_sweep_take(ds_blob_sweep *s, ds_error *err) {
    size_t from = s->taken, to = s->n - from > TAKE_AT_ONCE ? from + TAKE_AT_ONCE : s->n;
    int rc = s->dry_run || from == to ? 0 : db_begin(s->r, err);
    if (rc || from == to)
        return rc;
    for (size_t i = from; !rc && i < to; i++)
        rc = take_one(s, i, err);
    if (!s->dry_run)
        rc = db_end(s->r, rc, err);
    for (size_t i = from; i < to; i++) {
        if (rc && s->list[i].taken && !s->dry_run)
            ds_store_bring_back(s->store, s->list[i].sha256, NULL);
        s->list[i].taken = rc ? 0 : s->list[i].taken;
        s->out.removed += s->list[i].taken;
        s->out.removed_bytes += s->list[i].taken ? s->list[i].bytes : 0;
    }
    s->taken = to;
    return rc ? rc : (int)(to - from);
}

void ds_blobs_sweep_files(ds_blob_sweep *s) {
    for (; s->discarded < s->taken; s->discarded++) {
        const struct gone *g = &s->list[s->discarded];
        ds_error why;
        int rc = g->taken && !s->dry_run ? ds_store_discard(s->store, g->sha256, &why) : 0;
        if (rc && !s->rc) {
            s->rc = rc;
            s->why = why;
        }
    }
}

int ds_blobs_sweep_end(ds_blob_sweep *s, ds_sweep *out, ds_error *err) {
    int rc = s->dry_run
                 ? 0
                 : db_run(s->r, err, "DELETE FROM blob_leases WHERE expires_at <= ?1", "i", s->now);
    if (!rc && s->rc)
        rc = ds_fail(err, s->rc, "%s", s->why.message);
    *out = s->out;
    free(s->list);
    free(s);
    return rc;
}

int ds_blobs_sweep(ds_registry *r, int64_t grace_ms, int dry_run, ds_sweep *out, ds_error *err) {
    ds_blob_sweep *s = NULL;
    ds_error local;
    memset(out, 0, sizeof *out);
    int rc = ds_blobs_sweep_begin(r, grace_ms, dry_run, &s, err);
    if (rc)
        return rc;
    ds_blobs_sweep_look(s);
    while ((rc = ds_blobs_sweep_take(s, err)) > 0)
        ds_blobs_sweep_files(s);
    int end = ds_blobs_sweep_end(s, out, rc ? &local : err);
    return rc ? rc : end;
}

int ds_blobs_verify(ds_registry *r, void (*fn)(void *, const char *sha256, const char *why),
                    void *ctx, ds_error *err) {
    char last[DS_HEX_SIZE] = "", first[DS_HEX_SIZE] = "";
    int64_t bad = 0;
    for (;;) {
        sqlite3_stmt *q =
            db_query(r, err,
                     "SELECT digest FROM blobs WHERE digest > ?1 AND state = 'present'"
                     " ORDER BY digest LIMIT 1",
                     "s", last);
        int rc = db_step(r, q, err);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        db_text(last, sizeof last, q, 0);
        db_reset(q);
        ds_error why = {0};
        rc = ds_blob_check(r, last, &why);
        if (!rc && (rc = db_run(r, err, "UPDATE blobs SET verified_at = ?2 WHERE digest = ?1", "si",
                                last, ds_now_ms())))
            return rc;
        if (rc) {
            if (bad++ == 0)
                memcpy(first, last, sizeof first);
            if (fn)
                fn(ctx, last, why.message);
        }
    }
    if (bad)
        return ds_fail(err, DS_EINTEGRITY,
                       "%lld blobs are damaged, the first is %s; restore them from a "
                       "copy or remove what refers to them",
                       (long long)bad, first);
    return 0;
}
