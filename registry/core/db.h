/* registry/core/db.h - the one connection: cached statements, transactions, rows to JSON.
 *
 * Internal to registry/.  Thread: the registry's.
 */
/*-
 * Reading:  sqlite3_stmt *q = db_query(r, err, SQL, "si", name, id);
 *           while ((rc = db_step(r, q, err)) > 0)
 *               ... sqlite3_column_*(q, n) ...
 *           rc is 0 when there are no more rows, < 0 after an error; both reset the statement.
 *           db_reset(q) to leave earlier.
 *
 * Binding:  i  int64_t
 *           I  int64_t, 0 becomes NULL
 *           d  double, NAN becomes NULL
 *           s  string, or NULL
 *
 * Writing:  if ((rc = db_begin(r, err)))
 *               return rc;
 *           rc = ...;
 *           return db_end(r, rc, err);
 *           Transactions nest by counting.  The outermost commits, or rolls back when any part
 *           failed.
 */
#ifndef DS_REGISTRY_CORE_DB_H
#define DS_REGISTRY_CORE_DB_H

#include "registry/core/handle_internal.h"

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

/* Number of the newest event; 0 = none. */
int64_t db_last_event(ds_registry *r);

/* Copy a text column; "" for NULL, and for one that does not fit (the schema bounds sizes). */
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
 * when there is none); page_collect turns at most as many rows of q into objects, and closes the
 * list with the cursor, which is the column key_col of the last one, if there are more. */
int page_limit(ds_page p);
int page_cursor(ds_page p, int64_t *out, ds_error *err);
int page_collect(ds_registry *r, sqlite3_stmt *q, ds_page page, int key_col,
                 json_t *(*row)(sqlite3_stmt *q), json_t **out, ds_error *err);

#endif
