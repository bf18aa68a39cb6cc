#include "registry/core/place.h"
#include "base/fs.h"
#include "registry/core/handle_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static const char *const names[PLACE_FILES] = {"registry.db", "registry.db-wal", "registry.db-shm",
                                               "lock"};

static int look(const ds_registry *r, int i, struct place *out) {
    char path[PATH_MAX];
    struct stat st;
    ds_fs_join(path, sizeof path, r->dir, names[i]);
    if (lstat(path, &st))
        return -1;
    *out = (struct place){st.st_dev, st.st_ino};
    return 0;
}

void place_remember(ds_registry *r) {
    for (int i = 0; i < PLACE_FILES; i++)
        if (look(r, i, &r->place[i]))
            r->place[i] = (struct place){0};
}

/* Links are how some people keep their state elsewhere: sqlite asks about the file behind them. */
static int moved(ds_registry *r) {
    int yes = 0;
    return sqlite3_file_control(r->db, "main", SQLITE_FCNTL_HAS_MOVED, &yes) == SQLITE_OK && yes;
}

int ds_registry_broken(const ds_registry *r, ds_error *err) {
    return r->broken.code ? ds_fail(err, r->broken.code, "%s", r->broken.message) : 0;
}

int ds_registry_in_place(ds_registry *r, ds_error *err) {
    for (int i = 0; i < PLACE_FILES && !r->broken.code; i++) {
        struct place now = {0};
        if (!r->place[i].ino)
            continue;
        int gone = look(r, i, &now);
        if (gone && errno != ENOENT && errno != ENOTDIR)
            continue; /* not known: a later look says it */
        if (gone || now.dev != r->place[i].dev || now.ino != r->place[i].ino ||
            (i == 0 && moved(r)))
            ds_fail(&r->broken, DS_EINTEGRITY,
                    "'%s/%s' was %s while it was in use: what was written since is in the "
                    "file that is gone; put the folder back as it was, or restore a copy from "
                    "backups/, and start the daemon again",
                    r->dir, names[i], gone ? "removed" : "replaced");
    }
    return ds_registry_broken(r, err);
}

/* Was it a quota?  SQLite keeps the system's error of a statement, but not of a commit, where it
 * writes the log: that file is asked itself. */
static int of_quota(ds_registry *r) {
    sqlite3_file *log = NULL;
    int last = 0, now = sqlite3_system_errno(r->db);
    if (now == EDQUOT || now == EIO) /* the file's own may be of an earlier write */
        return now == EDQUOT;
    return sqlite3_file_control(r->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log) == SQLITE_OK &&
           log && log->pMethods &&
           log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &last) == SQLITE_OK &&
           last == EDQUOT;
}

void place_note_error(ds_registry *r) {
    int code = sqlite3_extended_errcode(r->db);
    if (r->broken.code)
        return;
    switch (code) {
    case SQLITE_IOERR_FSYNC:
    case SQLITE_IOERR_DIR_FSYNC:
    case SQLITE_IOERR_WRITE:
    case SQLITE_IOERR_TRUNCATE:
    case SQLITE_IOERR_READ:
    case SQLITE_IOERR_FSTAT:
    case SQLITE_IOERR_CORRUPTFS:
        if (code == SQLITE_IOERR_WRITE && of_quota(r))
            return; /* a full disk by another name */
        ds_fail(&r->broken, DS_EIO,
                "the disk of registry '%s/registry.db' failed (%s, %d): nothing more is written; "
                "look at the disk, then start the daemon again",
                r->dir, sqlite3_errmsg(r->db), code);
        return;
    default: break;
    }
    if ((code & 0xff) == SQLITE_CORRUPT || (code & 0xff) == SQLITE_NOTADB)
        ds_fail(&r->broken, DS_EINTEGRITY,
                "registry '%s/registry.db' is damaged (%s): nothing more is written; restore a "
                "copy from backups/, or try: sqlite3 FILE .recover",
                r->dir, sqlite3_errmsg(r->db));
}
