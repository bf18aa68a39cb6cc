/* registry/registry.c - opening a state folder, and what concerns it as a whole. */
#include "registry/registry.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "registry/rows/bases.h"
#include "registry/core/db.h"
#include "registry/core/events.h"
#include "registry/rows/feature_nets.h"
#include "registry/jobs/jobs.h"
#include "registry/core/migrate.h"
#include "registry/core/place.h"
#include "registry/store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATIENCE_MS 5000
#define LARGE (64 << 20) /* bytes of a file that takes too long to read in full at a start */

/* The pid inside is only for messages, and to see that an owner is gone. */
static long lock_owner(int fd) {
    char text[32];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    return strtol(text, NULL, 10);
}

/* flock dies with the process, whatever kills it; but a child that it had forked and that has not
 * called exec yet still shares the lock for some milliseconds. */
static int take_lock(ds_registry *r, ds_error *err) {
    char path[PATH_MAX], text[32] = "";
    ds_fs_join(path, sizeof path, r->dir, "lock");
    r->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (r->lock_fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    for (int tries = 0; flock(r->lock_fd, LOCK_EX | LOCK_NB); tries++) {
        if (errno != EWOULDBLOCK)
            return ds_fail_errno(err, "cannot lock '%s'", path);
        long owner = lock_owner(r->lock_fd);
        if (tries < 200 && owner > 0 && kill((pid_t)owner, 0) && errno == ESRCH) {
            usleep(10000);
            continue;
        }
        return ds_fail(
            err, DS_ECONFLICT,
            "state folder '%s' is in use by process %ld; stop that one or choose another "
            "folder",
            r->dir, owner);
    }
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(r->lock_fd, 0) || ds_fs_pwrite_all(r->lock_fd, text, (size_t)n, 0))
        return ds_fail_errno(err, "cannot write '%s'", path);
    return 0;
}

static int pragmas(ds_registry *r, ds_error *err) {
    /* mmap_size=0: a foreign truncation must be an error, not a signal (and see registry.h). */
    static const char *const sql = "PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;"
                                   "PRAGMA foreign_keys=ON; PRAGMA recursive_triggers=ON;"
                                   "PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY;"
                                   "PRAGMA cache_size=-4096; PRAGMA journal_size_limit=67108864";
    if (sqlite3_exec(r->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return db_fail(r, err, "open the registry");
    return 0;
}

/* quick_check reads every page, so damage is found now and not in the middle of a training. */
static int check_pages(ds_registry *r, const char *sql, ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, sql, "");
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    const char *s = rc ? (const char *)sqlite3_column_text(q, 0) : "no answer";
    if (!s || strcmp(s, "ok") != 0)
        rc =
            ds_fail(err, DS_EINTEGRITY,
                    "registry '%s/registry.db' is damaged (%.120s); stop the daemon, move the file "
                    "away and restore a copy from backups/, or try: sqlite3 FILE .recover",
                    r->dir, s ? s : "");
    else
        rc = 0;
    db_reset(q);
    return rc;
}

int ds_registry_begin(ds_registry *r, ds_error *err) { return db_begin(r, err); }
int ds_registry_end(ds_registry *r, int rc, ds_error *err) { return db_end(r, rc, err); }

int ds_registry_unread(const ds_registry *r) { return r->unread; }

/* The connection that may be interrupted from now on; NULL: none.  1: it was stopped. */
static int check_publish(ds_registry_check_run *check, sqlite3 *db) {
    pthread_mutex_lock(&check->lock);
    check->db = db;
    int stop = check->stop;
    pthread_mutex_unlock(&check->lock);
    return stop;
}

void ds_registry_check_stop(ds_registry_check_run *check) {
    pthread_mutex_lock(&check->lock);
    check->stop = 1;
    if (check->db)
        sqlite3_interrupt(check->db);
    pthread_mutex_unlock(&check->lock);
}

/* A statement in the middle of its rows: while there is one, sqlite3_interrupt also ends what
 * begins after it, so none comes too early.  (A progress handler is not asked within a table's
 * check, of which one can be most of the file.) */
static int hold_interrupts(sqlite3 *db, sqlite3_stmt **hold) {
    int code = sqlite3_prepare_v2(db, "SELECT 1 UNION ALL SELECT 2", -1, hold, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(*hold);
    return code == SQLITE_ROW ? SQLITE_OK : code;
}

int ds_registry_check_file(const char *dir, ds_registry_check_run *check, ds_error *err) {
    char path[PATH_MAX];
    sqlite3 *db = NULL;
    sqlite3_stmt *q = NULL, *hold = NULL;
    ds_fs_join(path, sizeof path, dir, "registry.db");
    int rc = 0, code = sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
    if (code == SQLITE_OK) {
        sqlite3_busy_timeout(db, PATIENCE_MS);
        code = hold_interrupts(db, &hold);
    }
    if (code == SQLITE_OK && check_publish(check, db))
        code = SQLITE_INTERRUPT;
    if (code == SQLITE_OK)
        code = sqlite3_prepare_v2(db, "PRAGMA quick_check(1)", -1, &q, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(q);
    const char *said = code == SQLITE_ROW ? (const char *)sqlite3_column_text(q, 0) : NULL;
    if (said && strcmp(said, "ok") != 0)
        rc =
            ds_fail(err, DS_EINTEGRITY,
                    "registry '%s' is damaged (%.120s); move the file away and restore a copy from "
                    "backups/, or try: sqlite3 FILE .recover",
                    path, said);
    else if (!said && code != SQLITE_INTERRUPT && db)
        rc = db_fail_handle(db, err, path, "read all of the registry");
    int stopped = check_publish(check, NULL);
    sqlite3_finalize(q);
    sqlite3_finalize(hold);
    sqlite3_close(db);
    return stopped ? 0 : rc;
}

static int first_facts(ds_registry *r, ds_error *err) {
    unsigned char raw[16] = {0};
    char hex[33], now[24];
    int64_t have = 0; /* without the lock, which another program may hold for long */
    if (!db_int(r, &have, NULL, "SELECT count(*) FROM meta WHERE key IN ('instance', 'created')",
                "") &&
        have == 2)
        return 0;
    if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw)
        return ds_fail_errno(err, "cannot get random bytes");
    for (int i = 0; i < 16; i++)
        snprintf(hex + 2 * i, 3, "%02x", raw[i]);
    snprintf(now, sizeof now, "%lld", (long long)ds_now_ms());
    return db_run(r, err,
                  "INSERT OR IGNORE INTO meta(key, value) VALUES ('instance', ?1), ('created', ?2)",
                  "ss", hex, now);
}

static int open_db(ds_registry *r, ds_error *err) {
    char path[PATH_MAX], backups[PATH_MAX];
    ds_fs_join(path, sizeof path, r->dir, "registry.db");
    ds_fs_join(backups, sizeof backups, r->dir, "backups");
    if (ds_fs_exists(path) && access(path, R_OK | W_OK))
        return ds_fail(err, DS_EPERM, "registry '%s' is not writable: %s; check owner and mode",
                       path, strerror(errno));
    if (sqlite3_open_v2(path, &r->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        return r->db ? db_fail_handle(r->db, err, path, "open the registry")
                     : ds_fail(err, DS_ENOMEM, "cannot open '%s': not enough memory", path);
    if (sqlite3_db_readonly(r->db, "main") == 1)
        return ds_fail(err, DS_EPERM, "registry '%s' is read-only; check owner and mode", path);
    ds_registry_patience(r, PATIENCE_MS);
    sqlite3_extended_result_codes(r->db, 1);
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(r->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    /* The version is looked at first: a newer file is neither read further nor written. */
    int have, rc = ds_migrate_check(r->db, path, ds_migration_count, &have, err);
    struct stat st;
    r->unread = !stat(path, &st) && st.st_size > LARGE;
    if (rc || (rc = pragmas(r, err)) ||
        (!r->unread && (rc = check_pages(r, "PRAGMA quick_check(1)", err))))
        return rc;
    if ((rc = ds_migrate(r->db, path, backups, ds_migrations, ds_migration_count, &r->schema, err)))
        return rc;
    if (sqlite3_exec(r->db, "PRAGMA journal_mode=WAL", NULL, NULL, NULL) != SQLITE_OK)
        return db_fail(r, err, "open the registry");
    return first_facts(r, err);
}

/* Temporary names of ds_fs_write and of backups that a killed process left behind. */
static void remove_leftovers(const char *dir) {
    DIR *d = opendir(dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        char path[PATH_MAX];
        if (n > 4 && !strcmp(e->d_name + n - 4, ".tmp") &&
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name) < (int)sizeof path)
            unlink(path);
    }
    closedir(d);
}

static int open_dir(ds_registry *r, const char *state_dir, ds_error *err) {
    int rc = ds_fs_mkdirs(state_dir, err);
    if (rc)
        return rc;
    char *full = realpath(state_dir, NULL);
    if (!full)
        return ds_fail_errno(err, "cannot resolve '%s'", state_dir);
    /* What SQLite takes: some 500 bytes, and it does not say why it cannot open a file. */
    size_t most = (size_t)sqlite3_vfs_find(NULL)->mxPathname - strlen("/registry.db-journal");
    struct stat st;
    if (stat(full, &st) || !S_ISDIR(st.st_mode))
        rc = ds_fail(err, DS_EINVAL, "state folder '%.300s' is not a folder", full);
    else if (strlen(full) > most)
        rc = ds_fail(err, DS_EINVAL,
                     "state folder '%.80s...' has too long a path: %zu bytes, %zu fit", full,
                     strlen(full), most);
    else
        snprintf(r->dir, sizeof r->dir, "%s", full);
    free(full);
    return rc;
}

int ds_registry_open(const char *state_dir, ds_registry **out, ds_error *err) {
    ds_registry *r = ds_xcalloc(1, sizeof *r);
    char backups[PATH_MAX];
    r->lock_fd = -1;
    r->settled_seq = r->settled_data = -1;
    int rc = open_dir(r, state_dir, err);
    if (rc || (rc = take_lock(r, err)) || (rc = open_db(r, err)))
        goto fail;
    ds_fs_join(backups, sizeof backups, r->dir, "backups");
    remove_leftovers(r->dir);
    remove_leftovers(backups);
    if ((rc = ds_store_open(r->dir, &r->store, err)))
        goto fail;
    ds_registry_patience(r, 250);
    rc = ds_jobs_recover(r, NULL, err);
    ds_registry_patience(r, PATIENCE_MS);
    if (rc && !(rc == DS_EBUSY && ds_registry_lock_seen(r)))
        goto fail;
    ds_registry_foreign_change(r);
    place_remember(r);
    r->told_seq = ds_event_last_seq(r);
    *out = r;
    return 0;
fail:
    ds_registry_close(r);
    return rc;
}

void ds_registry_close(ds_registry *r) {
    if (!r)
        return;
    for (int i = 0; i < DB_CACHE; i++) {
        sqlite3_finalize(r->cache[i].st);
        free(r->cache[i].sql);
    }
    for (struct db_cached *c = r->more, *next; c; c = next) {
        next = c->next;
        sqlite3_finalize(c->st);
        free(c->sql);
        free(c);
    }
    ds_store_close(r->store);
    if (r->db && r->broken.code) /* the -wal of that name is not to be written, nor removed */
        sqlite3_db_config(r->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    if (r->db) {
        /* One that a failed call left open is no reason to die here: it goes with the process. */
        if (sqlite3_close_v2(r->db) != SQLITE_OK)
            ds_log(DS_LOG_WARN, "registry '%s' is not closed cleanly", r->dir);
    }
    if (r->lock_fd >= 0)
        close(r->lock_fd);
    free(r);
}

const char *ds_registry_dir(const ds_registry *r) { return r->dir; }
ds_store *ds_registry_store(ds_registry *r) { return r->store; }
int ds_registry_schema(const ds_registry *r) { return r->schema; }

void ds_registry_patience(ds_registry *r, int ms) { sqlite3_busy_timeout(r->db, ms); }

int ds_registry_lock_seen(ds_registry *r) {
    int seen = r->lock_seen;
    r->lock_seen = 0;
    return seen;
}

int ds_registry_locked(ds_registry *r) {
    if (r->tx_depth)
        return 0;
    int seen = r->lock_seen, rc = db_run(r, NULL, "BEGIN IMMEDIATE", "");
    r->lock_seen = seen;
    if (!rc)
        db_run(r, NULL, "ROLLBACK", "");
    return rc == DS_EBUSY;
}

void ds_registry_instance(ds_registry *r, char *out, size_t size) {
    sqlite3_stmt *q = db_query(r, NULL, "SELECT value FROM meta WHERE key = 'instance'", "");
    *out = 0;
    if (db_step(r, q, NULL) > 0) {
        const char *s = (const char *)sqlite3_column_text(q, 0);
        snprintf(out, size, "%s", s ? s : "");
        db_reset(q);
    }
}

int ds_registry_foreign_change(ds_registry *r) {
    int64_t now = 0;
    if (db_int(r, &now, NULL, "PRAGMA data_version", "") || now == r->data_version)
        return 0;
    r->data_version = now;
    return 1;
}

void ds_registry_on_events(ds_registry *r, void (*fn)(void *ctx, int64_t last_seq), void *ctx) {
    r->on_events = fn;
    r->on_events_ctx = ctx;
}

static int count_jobs(ds_registry *r, json_t *jobs, ds_error *err) {
    for (int s = 0; s < DS_JOB_STATE_COUNT; s++)
        json_object_set_new(jobs, ds_job_state_name((enum ds_job_state)s), json_integer(0));
    sqlite3_stmt *q =
        db_query(r, err, "SELECT substr(key, 6), value FROM counters WHERE key GLOB 'jobs.*'", "");
    int rc;
    while ((rc = db_step(r, q, err)) > 0)
        js_int(jobs, (const char *)sqlite3_column_text(q, 0), q, 1);
    return rc;
}

int ds_registry_counts(ds_registry *r, json_t **out, ds_error *err) {
    json_t *o = json_object(), *jobs = json_object(), *blobs = json_object(), *base = NULL;
    json_object_set_new(o, "jobs", jobs);
    json_object_set_new(o, "blobs", blobs);
    sqlite3_stmt *q = db_query(r, err,
                               "SELECT (SELECT value FROM counters WHERE key = 'datasets'),"
                               " (SELECT value FROM counters WHERE key = 'adapters'),"
                               " (SELECT value FROM counters WHERE key = 'blobs'),"
                               " (SELECT value FROM counters WHERE key = 'blob_bytes')",
                               "");
    int rc = db_step(r, q, err);
    if (rc > 0) {
        js_int(o, "datasets", q, 0);
        js_int(o, "adapters", q, 1);
        js_int(blobs, "count", q, 2);
        js_int(blobs, "bytes", q, 3);
        db_reset(q);
        rc = count_jobs(r, jobs, err);
    }
    if (rc) {
        json_decref(o);
        return rc;
    }
    json_t *net = NULL;
    if (!ds_base_get(r, 0, &base, NULL)) {
        net = json_incref(json_object_get(base, "feature_net"));
        json_object_del(base, "feature_net");
        json_object_del(base, "report"); /* long; GET /v1/bases/default has it */
    }
    json_t *chosen = NULL; /* what measures now, where that is not the network of the base */
    if (ds_feature_net_default(r, &chosen, NULL))
        chosen = json_null();
    json_object_set_new(o, "base", base ? base : json_null());
    json_object_set_new(o, "feature_net", net ? net : json_null());
    json_object_set_new(o, "default_feature_net", chosen);
    json_t *waiting = NULL;
    json_object_set_new(o, "waiting", ds_jobs_waiting(r, &waiting, NULL) ? json_array() : waiting);
    json_object_set_new(o, "event_seq", json_integer(ds_event_last_seq(r)));
    json_object_set_new(o, "schema", json_integer(r->schema));
    *out = o;
    return 0;
}

int ds_registry_backup(ds_registry *r, const char *path, ds_error *err) {
    return ds_migrate_backup(r->db, path, err);
}
