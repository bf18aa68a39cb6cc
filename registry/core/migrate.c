#include "registry/core/migrate.h"
#include "base/digest.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "registry/core/db.h"

#include <limits.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int pragma_int(sqlite3 *db, const char *path, const char *sql, int *out, ds_error *err) {
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        *out = sqlite3_column_int(st, 0);
        rc = SQLITE_OK;
    }
    if (rc != SQLITE_OK)
        rc = db_fail_handle(db, err, path, "open the registry");
    sqlite3_finalize(st);
    return rc;
}

static int exec(sqlite3 *db, const char *path, const char *sql, ds_error *err) {
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    return db_fail_handle(db, err, path, "migrate the registry");
}

int ds_migrate_backup(sqlite3 *db, const char *to, ds_error *err) {
    if (ds_fs_exists(to))
        return ds_fail(err, DS_ECONFLICT, "cannot back up to '%s': it exists", to);
    char *tmp = ds_xasprintf("%s.tmp", to);
    unlink(tmp);
    sqlite3_stmt *st = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(db, "VACUUM INTO ?1", -1, &st, NULL) != SQLITE_OK ||
        sqlite3_bind_text(st, 1, tmp, -1, SQLITE_STATIC) != SQLITE_OK ||
        sqlite3_step(st) != SQLITE_DONE)
        rc = db_fail_handle(db, err, tmp, "back up the registry");
    sqlite3_finalize(st);
    int fd = rc ? -1 : open(tmp, O_RDONLY | O_CLOEXEC);
    if (!rc && (fd < 0 || fsync(fd)))
        rc = ds_fail_errno(err, "cannot sync '%s'", tmp);
    if (fd >= 0)
        close(fd);
    if (!rc)
        rc = ds_fs_rename(tmp, to, err);
    if (rc)
        unlink(tmp);
    free(tmp);
    return rc;
}

static int record(sqlite3 *db, const char *path, const struct ds_migration *m, const char *backup,
                  ds_error *err) {
    char sha[DS_HEX_SIZE];
    ds_digest(m->sql, strlen(m->sql), sha);
    sqlite3_stmt *st = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(
            db,
            "INSERT INTO migrations(version, name, sha256, applied_at, program, backup)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            -1, &st, NULL) != SQLITE_OK)
        return db_fail_handle(db, err, path, "migrate the registry");
    sqlite3_bind_int(st, 1, m->number);
    sqlite3_bind_text(st, 2, m->name, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 3, sha, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 4, ds_now_ms());
    sqlite3_bind_text(st, 5, DS_VERSION, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 6, backup, -1, SQLITE_STATIC);
    if (sqlite3_step(st) != SQLITE_DONE)
        rc = db_fail_handle(db, err, path, "migrate the registry");
    sqlite3_finalize(st);
    return rc;
}

/* A rebuilt table must still have every row that others refer to. */
static int check_references(sqlite3 *db, const char *path, ds_error *err) {
    sqlite3_stmt *st = NULL;
    int rc = 0;
    if (sqlite3_prepare_v2(db, "PRAGMA foreign_key_check", -1, &st, NULL) != SQLITE_OK)
        return db_fail_handle(db, err, path, "migrate the registry");
    int step = sqlite3_step(st);
    if (step == SQLITE_ROW)
        rc = ds_fail(err, DS_EINTEGRITY,
                     "registry '%s': a row of table %s refers to a missing row of %s; nothing was "
                     "changed",
                     path, (const char *)sqlite3_column_text(st, 0),
                     (const char *)sqlite3_column_text(st, 2));
    else if (step != SQLITE_DONE)
        rc = db_fail_handle(db, err, path, "migrate the registry");
    sqlite3_finalize(st);
    return rc;
}

/* One migration, its record and the new user_version: all or nothing. */
static int apply(sqlite3 *db, const char *path, const struct ds_migration *m, const char *backup,
                 ds_error *err) {
    char version[128];
    snprintf(version, sizeof version, "PRAGMA user_version = %d; PRAGMA application_id = %d",
             m->number, DS_APPLICATION_ID);
    int rc = exec(db, path, "BEGIN EXCLUSIVE", err);
    if (rc)
        return rc;
    if (!(rc = exec(db, path, m->sql, err)) && !(rc = check_references(db, path, err)) &&
        !(rc = record(db, path, m, backup, err)) && !(rc = exec(db, path, version, err)))
        rc = exec(db, path, "COMMIT", err);
    if (rc) {
        if (!sqlite3_get_autocommit(db))
            sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
        return ds_error_prefix(err, "migration %d (%s)", m->number, m->name);
    }
    return 0;
}

int ds_migrate_check(sqlite3 *db, const char *path, int count, int *have, ds_error *err) {
    int app = 0, tables = 0, rc;
    /* Both are in the header: a newer file's schema, which may not parse, is not read. */
    if ((rc = pragma_int(db, path, "PRAGMA application_id", &app, err)) ||
        (rc = pragma_int(db, path, "PRAGMA user_version", have, err)))
        return rc;
    if (app == DS_APPLICATION_ID && *have > count)
        return ds_fail(
            err, DS_ENEWER,
            "registry '%s' has schema %d, this program knows up to %d; use a newer program "
            "or restore a copy from backups/",
            path, *have, count);
    if ((rc = pragma_int(db, path, "SELECT count(*) FROM sqlite_schema", &tables, err)))
        return rc;
    if (tables > 0 && app != DS_APPLICATION_ID)
        return ds_fail(
            err, DS_EINTEGRITY,
            "'%s' is not a registry of this program (application id %#x); move it away or "
            "choose another state folder",
            path, (unsigned)app);
    if (*have < 0 || (tables > 0) != (*have > 0))
        return ds_fail(err, DS_EINTEGRITY,
                       "registry '%s' has %d tables but schema %d; restore a copy from backups/",
                       path, tables, *have);
    return 0;
}

int ds_migrate(sqlite3 *db, const char *path, const char *backup_dir,
               const struct ds_migration *list, int count, int *version, ds_error *err) {
    int have = 0, rc = ds_migrate_check(db, path, count, &have, err);
    if (rc)
        return rc;
    char backup[PATH_MAX] = "";
    if (have > 0 && have < count) {
        char name[64];
        snprintf(name, sizeof name, "registry-v%d-%lld.db", have, (long long)ds_now_ms());
        ds_fs_join(backup, sizeof backup, backup_dir, name);
        if ((rc = ds_fs_mkdirs(backup_dir, err)) || (rc = ds_migrate_backup(db, backup, err)))
            return rc;
    }
    /* Tables are rebuilt with foreign keys off (sqlite.org/lang_altertable.html, 12 steps): with
     * them on, dropping the old table would take what refers to it along.  No-op in a transaction,
     * so it is set here. */
    int keys = 0;
    if (have < count && ((rc = pragma_int(db, path, "PRAGMA foreign_keys", &keys, err)) ||
                         (rc = exec(db, path, "PRAGMA foreign_keys=OFF", err))))
        return rc;
    for (int i = have; !rc && i < count; i++) {
        DS_ASSERT(list[i].number == i + 1);
        rc = apply(db, path, &list[i], backup[0] ? backup : NULL, err);
    }
    if (rc)
        sqlite3_exec(db, "PRAGMA legacy_alter_table=OFF", NULL, NULL, NULL);
    if (keys && sqlite3_exec(db, "PRAGMA foreign_keys=ON", NULL, NULL, NULL) != SQLITE_OK && !rc)
        rc = db_fail_handle(db, err, path, "migrate the registry");
    if (!rc)
        *version = count;
    return rc;
}
