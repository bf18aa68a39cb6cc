/* registry/db.h - the one connection: cached statements, transactions, rows to JSON.
 *
 * Internal to registry/.  Thread: the registry's.
 *
 * Reading:   sqlite3_stmt *q = db_query(r, err, SQL, "si", name, id);
 *            while ((rc = db_step(r, q, err)) > 0) ... sqlite3_column_*(q, n) ...
 *            (rc: 0 no more rows, < 0 error; both reset the statement; db_reset to leave earlier)
 * Binding letters: i int64_t, I int64_t with 0 as NULL, d double with NAN as NULL, s string or
 * NULL. Writing:   if ((rc = db_begin(r, err))) return rc;  rc = ...;  return db_end(r, rc, err);
 * Transactions nest by counting; the outermost commits, or rolls back when any part failed.
 */
#ifndef DS_REGISTRY_DB_H
#define DS_REGISTRY_DB_H

#include "registry/registry.h"

#include <limits.h>
#include <sqlite3.h>
#include <sys/types.h>

enum { PLACE_FILES = 4 }; /* registry/store/place.c names them */
struct place {
    dev_t dev;
    ino_t ino; /* 0 = not known */
};

#define DB_CACHE 256 /* statements kept prepared; a power of two */

struct ds_registry {
    sqlite3 *db;
    ds_store *store;
    int lock_fd;
    int unread; /* the file is large, and not all of its pages were looked at */
    int schema;
    char dir[PATH_MAX];
    struct db_cached {
        char *sql; /* owned */
        sqlite3_stmt *st;
    } cache[DB_CACHE];
    int tx_depth, tx_failed;
    int64_t data_version; /* as of the last ds_registry_foreign_change */
    int64_t told_seq;     /* newest event that on_events was told of */
    void (*on_events)(void *ctx, int64_t last_seq);
    void *on_events_ctx;
    int lock_seen; /* a call failed because another program has the lock (ds_registry_lock_seen) */
    int64_t settled_seq, settled_data; /* ds_reconcile found nothing to do at these */
    struct place place[PLACE_FILES];   /* of the files, when they were opened */
    ds_error broken;                   /* why nothing is written any more; code 0 = all is well */
};

/* Fill err from the connection's last error; "registry: cannot <doing>: ...". */
int db_fail(ds_registry *r, ds_error *err, const char *doing);
int db_fail_handle(sqlite3 *db, ds_error *err, const char *path, const char *doing);

sqlite3_stmt *db_query(ds_registry *r, ds_error *err, const char *sql, const char *types, ...);
int db_step(ds_registry *r, sqlite3_stmt *q, ds_error *err); /* q NULL: error already in err */
void db_reset(sqlite3_stmt *q);
int db_run(ds_registry *r, ds_error *err, const char *sql, const char *types, ...);
int64_t db_changes(ds_registry *r); /* rows of the last db_run */
int64_t db_rowid(ds_registry *r);

/* One integer: 0 and *out, or DS_ENOTFOUND with no message when there is no row (or it is NULL). */
int db_int(ds_registry *r, int64_t *out, ds_error *err, const char *sql, const char *types, ...);

int db_begin(ds_registry *r, ds_error *err);
int db_end(ds_registry *r, int rc, ds_error *err);

/* Copy a text column, "" for NULL; DS_ASSERTs that it fits (sizes are bounded by the schema). */
void db_text(char *out, size_t size, sqlite3_stmt *q, int col);

/* Members of a JSON object from a column; NULL becomes null. */
void js_text(json_t *o, const char *key, sqlite3_stmt *q, int col);
void js_int(json_t *o, const char *key, sqlite3_stmt *q, int col);
void js_num(json_t *o, const char *key, sqlite3_stmt *q, int col);
void js_time(json_t *o, const char *key, sqlite3_stmt *q, int col);       /* ms -> RFC 3339 */
void js_doc(json_t *o, const char *key, sqlite3_stmt *q, int col);        /* JSON text -> value */
void js_error(json_t *o, const char *key, sqlite3_stmt *q, int code_col); /* {code,message} */

/* A string value even when the bytes are not UTF-8 (those become '?'). */
json_t *js_string(const char *s);

/* Pages, newest first: `limit` of the page; the cursor is the id before which to go on (INT64_MAX
 * when there is none); page_collect turns at most limit rows into objects (row must read its id
 * from column 0) and closes the list with the cursor if there are more. */
int page_limit(ds_page p);
int page_cursor(ds_page p, int64_t *out, ds_error *err);
int page_collect(ds_registry *r, sqlite3_stmt *q, int limit,
                 json_t *(*row)(sqlite3_stmt *q, void *ctx), void *ctx, json_t **out,
                 ds_error *err);

/* Write an event in the present transaction; steals payload (may be NULL). */
int ds_event_put(ds_registry *r, const char *type, const char *subject, json_t *payload,
                 ds_error *err);

#endif
