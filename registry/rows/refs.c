#include "registry/rows/refs.h"
#include "base/log.h"
#include "registry/core/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REF_SELECT                                                                                 \
    "SELECT av.id, av.version, av.base_id, a.name, av.status, b.digest, b.stored_sha256,"          \
    " b.raw_bytes, b.stored_bytes FROM adapter_versions av"                                        \
    " JOIN adapters a ON a.id = av.adapter_id JOIN blobs b ON b.digest = av.digest"                \
    " WHERE av.deleted_at IS NULL AND "

static int ref_from_query(ds_registry *r, sqlite3_stmt *q, ds_adapter_ref *out, ds_error *err) {
    int rc = db_step(r, q, err);
    if (rc <= 0)
        return rc < 0 ? rc : DS_ENOTFOUND;
    memset(out, 0, sizeof *out);
    out->id = sqlite3_column_int64(q, 0);
    out->version = sqlite3_column_int64(q, 1);
    out->base_id = sqlite3_column_int64(q, 2);
    db_text(out->name, sizeof out->name, q, 3);
    out->published = !strcmp((const char *)sqlite3_column_text(q, 4), "published");
    db_text(out->blob.sha256, sizeof out->blob.sha256, q, 5);
    db_text(out->blob.stored_sha256, sizeof out->blob.stored_sha256, q, 6);
    out->blob.raw_bytes = sqlite3_column_int64(q, 7);
    out->blob.stored_bytes = sqlite3_column_int64(q, 8);
    snprintf(out->ref, sizeof out->ref, "%s@v%lld", out->name, (long long)out->version);
    db_reset(q);
    return 0;
}

static int by_digest(ds_registry *r, const char *prefix, ds_adapter_ref *out, ds_error *err) {
    size_t n = strlen(prefix);
    int64_t hits = 0;
    if (n < 8 || n > 64 || strspn(prefix, "0123456789abcdef") != n)
        return ds_fail(err, DS_EINVAL,
                       "reference 'sha256:%.70s' needs 8 to 64 lower-case hex digits", prefix);
    /* 'g' comes after 'f': the range of all digests with this prefix. */
    int rc = db_int(r, &hits, err,
                    "SELECT count(DISTINCT digest) FROM adapter_versions WHERE digest >= ?1"
                    " AND digest < ?1 || 'g' AND deleted_at IS NULL",
                    "s", prefix);
    if (rc)
        return rc;
    if (hits > 1)
        return ds_fail(err, DS_ECONFLICT,
                       "reference 'sha256:%s' fits %lld adapters; give more digits", prefix,
                       (long long)hits);
    rc = ref_from_query(r,
                        db_query(r, err,
                                 REF_SELECT "av.digest >= ?1 AND av.digest < ?1 || 'g'"
                                            " ORDER BY av.status, av.id DESC LIMIT 1",
                                 "s", prefix),
                        out, err);
    return rc == DS_ENOTFOUND
               ? ds_fail(err, DS_ENOTFOUND, "no adapter has a digest beginning with '%s'", prefix)
               : rc;
}

#define NEWEST                                                                                     \
    "SELECT coalesce(max(av.version), 0) FROM adapter_versions av JOIN adapters a ON"              \
    " a.id = av.adapter_id WHERE a.name = ?1 AND av.deleted_at IS NULL"

/* What to say when there is no such alias: does the name exist, and what has it? */
static int no_alias(ds_registry *r, const char *name, const char *alias, ds_error *err) {
    int64_t last = 0, newest = 0, passed = 0;
    int rc = db_int(r, &last, err, "SELECT last_version FROM adapters WHERE name = ?1", "s", name);
    if (rc == DS_ENOTFOUND || (!rc && last == 0))
        return ds_fail(err, DS_ENOTFOUND, "adapter '%s' does not exist", name);
    if (!rc)
        rc = db_int(r, &newest, err, NEWEST, "s", name);
    if (!rc)
        rc = db_int(r, &passed, err, NEWEST " AND av.status = 'published'", "s", name);
    if (rc)
        return rc;
    if (!newest)
        return ds_fail(err, DS_ENOTFOUND, "all versions of adapter '%s' were removed", name);
    if (passed && !strcmp(alias, "latest"))
        return ds_fail(err, DS_ENOTFOUND,
                       "adapter '%s' has no alias 'latest' since its version was removed; its "
                       "newest is v%lld: dsctl set-alias %s latest v%lld",
                       name, (long long)passed, name, (long long)passed);
    last = newest;
    if (!strcmp(alias, "latest"))
        return ds_fail(err, DS_ENOTFOUND,
                       "adapter '%s' has no version that passed the gate; its newest is '%s@v%lld'",
                       name, name, (long long)last);
    return ds_fail(err, DS_ENOTFOUND, "adapter '%s' has no alias '%s'", name, alias);
}

int ds_adapter_resolve(ds_registry *r, const char *ref, ds_adapter_ref *out, ds_error *err) {
    char name[DS_NAME_SIZE];
    if (!strncmp(ref, "sha256:", 7))
        return by_digest(r, ref + 7, out, err);
    const char *at = strchr(ref, '@'), *alias = at ? at + 1 : "latest";
    size_t n = at ? (size_t)(at - ref) : strlen(ref);
    if (n >= sizeof name)
        return ds_fail(err, DS_EINVAL, "reference '%.80s...' has too long a name", ref);
    memcpy(name, ref, n);
    name[n] = 0;
    int rc = ds_name_check("adapter", name, err);
    if (rc)
        return rc;
    size_t digits = strspn(alias + (*alias != 0), "0123456789");
    if (*alias == 'v' && digits > 0 && digits < 10 && !alias[1 + digits]) {
        int64_t version = strtoll(alias + 1, NULL, 10);
        rc = ref_from_query(
            r, db_query(r, err, REF_SELECT "a.name = ?1 AND av.version = ?2", "si", name, version),
            out, err);
        return rc == DS_ENOTFOUND ? ds_fail(err, DS_ENOTFOUND, "adapter '%s@v%lld' does not exist",
                                            name, (long long)version)
                                  : rc;
    }
    if ((rc = ds_alias_check(alias, err)))
        return rc;
    rc = ref_from_query(r,
                        db_query(r, err,
                                 REF_SELECT
                                 "av.id = (SELECT l.version_id FROM aliases l JOIN adapters"
                                 " x ON x.id = l.adapter_id WHERE x.name = ?1"
                                 " AND l.alias = ?2)",
                                 "ss", name, alias),
                        out, err);
    return rc == DS_ENOTFOUND ? no_alias(r, name, alias, err) : rc;
}

int ds_adapter_check_base(ds_registry *r, const ds_adapter_ref *a, int64_t base_id, ds_error *err) {
    if (a->base_id == base_id)
        return 0;
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT x.name, x.sha256, y.name, y.sha256 FROM bases x, bases y"
                               " WHERE x.id = ?1 AND y.id = ?2",
                               "ii", a->base_id, base_id);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "base %lld does not exist", (long long)base_id);
    rc = ds_fail(err, DS_ECONFLICT,
                 "adapter '%s' belongs to base '%s' (sha256:%s), not to base '%s' (sha256:%s)",
                 a->ref, (const char *)sqlite3_column_text(q, 0),
                 (const char *)sqlite3_column_text(q, 1), (const char *)sqlite3_column_text(q, 2),
                 (const char *)sqlite3_column_text(q, 3));
    db_reset(q);
    return rc;
}
