#include "registry/blobs.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "registry/db.h"

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

struct gone {
    char sha256[DS_HEX_SIZE];
    int64_t bytes;
};
struct ds_blob_sweep {
    ds_registry *r;
    ds_store *store;
    ds_sweep out;
    int64_t now, grace;
    int dry_run;
    struct gone *list; /* rows marked for removal, then files without a row */
    size_t n, cap, rows;
    int *removed; /* of the list */
    int rc;       /* of the files ... */
    ds_error why; /* ... and its reason */
    ds_error *err;
};
typedef struct ds_blob_sweep sweeping;

static void push(sweeping *s, const char *sha256, int64_t bytes) {
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->list = ds_xrealloc(s->list, s->cap * sizeof *s->list);
    }
    memcpy(s->list[s->n].sha256, sha256, DS_HEX_SIZE);
    s->list[s->n++].bytes = bytes;
}

/* Marking re-checks need and lease in one statement; from here on ds_blob_add must bring it back.
 */
static int mark(sweeping *s) {
    sqlite3_stmt *q = db_query(s->r, s->err,
                               s->dry_run ? "SELECT digest, stored_bytes FROM blobs"
                                            " WHERE (state = 'deleting' OR (state = 'present'"
                                            " AND created_at <= ?2)) AND" NOT_NEEDED("blobs.digest")
                                          : "UPDATE blobs SET state = 'deleting'"
                                            " WHERE (state = 'deleting' OR (state = 'present'"
                                            " AND created_at <= ?2)) AND" NOT_NEEDED(
                                                "blobs.digest") " RETURNING digest, stored_bytes",
                               "ii", s->now, s->now - s->grace);
    int rc;
    while ((rc = db_step(s->r, q, s->err)) > 0)
        push(s, (const char *)sqlite3_column_text(q, 0), sqlite3_column_int64(q, 1));
    return rc;
}

/* After the file is gone: no row, or a row that says so while others still refer to it. */
static int forget(sweeping *s, const char *sha256, int removed) {
    if (!removed) {
        s->out.kept_young++;
        return db_run(s->r, s->err, "UPDATE blobs SET state = 'present' WHERE digest = ?1", "s",
                      sha256);
    }
    int rc = db_run(s->r, s->err,
                    "UPDATE blobs SET state = 'gone' WHERE digest = ?1 AND state = 'deleting' AND"
                    " EXISTS (SELECT 1 FROM"
                    " adapter_versions av WHERE av.digest = ?1 OR av.reference_digest = ?1)",
                    "s", sha256);
    if (!rc)
        rc = db_run(s->r, s->err, "DELETE FROM blobs WHERE digest = ?1 AND state = 'deleting'", "s",
                    sha256);
    return rc;
}

static int look_at_file(void *ctx, const char *sha256, int64_t age, int64_t bytes) {
    sweeping *s = ctx;
    int64_t known = 0;
    int rc =
        db_int(s->r, &known, s->err,
               "SELECT 1 WHERE EXISTS (SELECT 1 FROM blobs WHERE digest = ?2 AND state <> 'gone')"
               " OR EXISTS (SELECT 1 FROM blob_leases WHERE digest = ?2 AND expires_at > ?1)",
               "is", s->now, sha256);
    if (rc == 0)
        return 0;
    if (rc != DS_ENOTFOUND)
        return rc;
    if (age < s->grace)
        s->out.kept_young++;
    else
        push(s, sha256, bytes);
    return 0;
}

static int list_all(sweeping *s) {
    int rc = s->dry_run ? 0 : db_begin(s->r, s->err);
    if (!rc) {
        rc = mark(s);
        rc = s->dry_run ? rc : db_end(s->r, rc, s->err);
    }
    s->rows = s->n;
    return rc ? rc : ds_store_each(s->store, look_at_file, s, s->err);
}

int ds_blobs_sweep_begin(ds_registry *r, int64_t grace_ms, int dry_run, ds_blob_sweep **out,
                         ds_error *err) {
    ds_error local;
    sweeping *s = ds_xcalloc(1, sizeof *s);
    s->r = r;
    s->store = r->store;
    s->now = ds_now_ms();
    s->grace = grace_ms;
    s->dry_run = dry_run;
    s->err = err ? err : &local;
    s->err->code = 0;
    int rc = list_all(s);
    s->err = NULL; /* the caller's need not live as long as this */
    s->removed = ds_xcalloc(s->n + 1, sizeof *s->removed);
    if (rc) {
        free(s->list);
        free(s->removed);
        free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void ds_blobs_sweep_files(ds_blob_sweep *s) {
    for (size_t i = 0; i < s->n && !s->rc; i++)
        if (s->dry_run)
            s->removed[i] = 1;
        else
            s->rc = ds_store_unlink(s->store, s->list[i].sha256, s->grace, &s->removed[i], &s->why);
}

int ds_blobs_sweep_end(ds_blob_sweep *s, ds_sweep *out, ds_error *err) {
    int rc = s->dry_run || !s->rows ? 0 : db_begin(s->r, err),
        begun = !rc && !s->dry_run && s->rows;
    s->err = err;
    for (size_t i = 0; !rc && i < s->n; i++) {
        if (i < s->rows && !s->dry_run && (!s->rc || s->removed[i]))
            rc = forget(s, s->list[i].sha256, s->removed[i]);
        s->out.removed += s->removed[i];
        s->out.removed_bytes += s->removed[i] ? s->list[i].bytes : 0;
    }
    if (begun)
        rc = db_end(s->r, rc, err);
    if (!rc && !s->dry_run)
        rc = db_run(s->r, err, "DELETE FROM blob_leases WHERE expires_at <= ?1", "i", s->now);
    if (!rc && s->rc)
        rc = ds_fail(err, s->rc, "%s", s->why.message);
    *out = s->out;
    free(s->list);
    free(s->removed);
    free(s);
    return rc;
}

int ds_blobs_sweep(ds_registry *r, int64_t grace_ms, int dry_run, ds_sweep *out, ds_error *err) {
    ds_blob_sweep *s = NULL;
    memset(out, 0, sizeof *out);
    int rc = ds_blobs_sweep_begin(r, grace_ms, dry_run, &s, err);
    if (rc)
        return rc;
    ds_blobs_sweep_files(s);
    return ds_blobs_sweep_end(s, out, err);
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
