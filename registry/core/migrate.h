/* registry/core/migrate.h - numbered SQL, embedded in the program, applied one transaction each.
 *
 * PRAGMA user_version is the number of the last migration in the file.  Shipped migrations never
 * change; going back to an older program means restoring the backup that was made before the
 * upgrade.
 */
#ifndef DS_REGISTRY_CORE_MIGRATE_H
#define DS_REGISTRY_CORE_MIGRATE_H

#include "base/error.h"

#include <sqlite3.h>

struct ds_migration {
    int number; /* 1, 2, 3, ... without gaps */
    const char *name;
    const char *sql;
};

extern const struct ds_migration ds_migrations[]; /* made by migrations/embed.sh */
extern const int ds_migration_count;

#define DS_APPLICATION_ID 0x44534352 /* "DSCR" in the file's header */

/* Only look: *have = the number in the file; errors as ds_migrate. */
int ds_migrate_check(sqlite3 *db, const char *path, int count, int *have, ds_error *err);

/* Bring `db` (file `path`) to the last of the list.  DS_ENEWER if the file is beyond it;
 * DS_EINTEGRITY if it is another program's file or damaged.  A file with data is copied to
 * backup_dir/registry-v<N>-<ms>.db first.  *version = the number reached. */
int ds_migrate(sqlite3 *db, const char *path, const char *backup_dir,
               const struct ds_migration *list, int count, int *version, ds_error *err);

/* VACUUM INTO and sync; the copy is whole or absent. */
int ds_migrate_backup(sqlite3 *db, const char *to, ds_error *err);

#endif
