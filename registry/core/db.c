#include "registry/core/db.h"
#include "registry/core/names.h"
#include "registry/core/place.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int db_fail_handle(sqlite3 *db, ds_error *err, const char *path, const char *doing) {
    int ext = sqlite3_extended_errcode(db);
    const char *why = sqlite3_errmsg(db);
    switch (ext & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ds_fail(err, DS_EBUSY,
                       "cannot %s: another program holds the lock of '%s'; try again", doing, path);
    case SQLITE_READONLY:
    case SQLITE_PERM:
        return ds_fail(err, DS_EPERM, "cannot %s: registry '%s' is read-only; make it writable",
                       doing, path);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return ds_fail(err, DS_EINTEGRITY,
                       "cannot %s: registry '%s' is damaged (%s); stop the daemon, move the file "
                       "away and restore a copy from backups/, or try: sqlite3 FILE .recover",
                       doing, path, why);
    case SQLITE_FULL:
        return ds_fail(err, DS_ENOSPC, "cannot %s: no space left for registry '%s'", doing, path);
    case SQLITE_IOERR:
        return ds_fail(err, DS_EIO, "cannot %s: registry '%s': %s (%d)", doing, path, why, ext);
    case SQLITE_CANTOPEN: return ds_fail(err, DS_EIO, "cannot %s: '%s': %s", doing, path, why);
    case SQLITE_CONSTRAINT:
        return ds_fail(err, DS_ECONFLICT, "cannot %s: registry rule: %s", doing, why);
    case SQLITE_NOMEM: return ds_fail(err, DS_ENOMEM, "cannot %s: not enough memory", doing);
    default: return ds_fail(err, DS_EFAILED, "cannot %s: registry: %s (%d)", doing, why, ext);
    }
}

int db_fail(ds_registry *r, ds_error *err, const char *doing) {
    int code = sqlite3_errcode(r->db) & 0xff;
    r->lock_seen |= code == SQLITE_BUSY || code == SQLITE_LOCKED;
    const char *path = sqlite3_db_filename(r->db, "main");
    place_note_error(r);
    return db_fail_handle(r->db, err, path ? path : "", doing);
}

/* FNV-1a; a statement has eight places from here on, and takes one that is not in use. */
static unsigned slot_of(const char *sql) {
    unsigned h = 2166136261u;
    for (; *sql; sql++)
        h = (h ^ (unsigned char)*sql) * 16777619u;
    return (h ^ (h >> 16)) & (DB_CACHE - 1);
}

/* SQLite goes on with less where it gets no memory, in a few places silently. */
static sqlite3_mem_methods plain;

static void *lead_malloc(int n) {
    void *p = plain.xMalloc(n);
    if (!p && n > 0)
        ds_out_of_memory((size_t)n);
    return p;
}

static void *lead_realloc(void *old, int n) {
    void *p = plain.xRealloc(old, n);
    if (!p && n > 0)
        ds_out_of_memory((size_t)n);
    return p;
}

__attribute__((constructor)) static void lead_memory(void) {
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &plain) != SQLITE_OK)
        return; /* somebody has started SQLite before: it reports SQLITE_NOMEM itself */
    sqlite3_mem_methods lead = plain;
    lead.xMalloc = lead_malloc;
    lead.xRealloc = lead_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &lead);
}

/* A row's reader may ask the registry while the list that it reads is in the middle of its rows, so
 * any number of statements can be in use: one without a place joins a list. */
static struct db_cached *place_of(ds_registry *r, const char *sql) {
    unsigned at = slot_of(sql);
    struct db_cached *idle = NULL, *c;
    for (unsigned probe = 0; probe < 8; probe++) {
        c = &r->cache[(at + probe) & (DB_CACHE - 1)];
        if (!c->sql || !strcmp(c->sql, sql))
            return c;
        if (!sqlite3_stmt_busy(c->st))
            idle = c;
    }
    for (c = r->more; c; c = c->next)
        if (!strcmp(c->sql, sql))
            return c;
    return idle;
}

static sqlite3_stmt *prepared(ds_registry *r, ds_error *err, const char *sql) {
    struct db_cached *c = place_of(r, sql);
    if (c && c->sql && !strcmp(c->sql, sql)) {
        DS_ASSERT(!sqlite3_stmt_busy(c->st)); /* a reader forgot db_reset, or recursion */
        return c->st;
    }
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v3(r->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL) != SQLITE_OK) {
        db_fail(r, err, "prepare a statement");
        return NULL;
    }
    if (!c) {
        c = ds_xcalloc(1, sizeof *c);
        c->next = r->more;
        r->more = c;
    }
    sqlite3_finalize(c->st); /* NULL is fine */
    free(c->sql);
    c->sql = ds_xstrdup(sql);
    c->st = st;
    return st;
}

static int bind(sqlite3_stmt *st, const char *types, va_list ap) {
    int rc = SQLITE_OK;
    for (int i = 1; *types && rc == SQLITE_OK; types++, i++) {
        if (*types == 'i' || *types == 'I') {
            int64_t v = va_arg(ap, int64_t);
            if (*types == 'I' && v == 0)
                rc = sqlite3_bind_null(st, i);
            else
                rc = sqlite3_bind_int64(st, i, v);
        } else if (*types == 'd') {
            rc = sqlite3_bind_double(st, i, va_arg(ap, double)); /* NAN binds as NULL */
        } else {
            DS_ASSERT(*types == 's');
            const char *s = va_arg(ap, const char *);
            rc = sqlite3_bind_text(st, i, s, -1, SQLITE_TRANSIENT);
        }
    }
    return rc;
}

static sqlite3_stmt *query_v(ds_registry *r, ds_error *err, const char *sql, const char *types,
                             va_list ap) {
    sqlite3_stmt *st = prepared(r, err, sql);
    if (!st)
        return NULL;
    DS_ASSERT(sqlite3_bind_parameter_count(st) == (int)strlen(types));
    if (bind(st, types, ap) != SQLITE_OK) { /* a text above SQLite's limit, no memory */
        db_fail(r, err, "use the registry");
        sqlite3_clear_bindings(st);
        return NULL;
    }
    return st;
}

sqlite3_stmt *db_query(ds_registry *r, ds_error *err, const char *sql, const char *types, ...) {
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = query_v(r, err, sql, types, ap);
    va_end(ap);
    return st;
}

int db_step(ds_registry *r, sqlite3_stmt *q, ds_error *err) {
    if (!q)
        return err && err->code ? err->code : DS_EFAILED;
    int rc = sqlite3_step(q);
    if (rc == SQLITE_ROW)
        return 1;
    int code = rc == SQLITE_DONE ? 0 : db_fail(r, err, "use the registry");
    db_reset(q);
    return code;
}

void db_reset(sqlite3_stmt *q) {
    if (q) {
        sqlite3_reset(q);
        sqlite3_clear_bindings(q);
    }
}

int db_run(ds_registry *r, ds_error *err, const char *sql, const char *types, ...) {
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = query_v(r, err, sql, types, ap);
    va_end(ap);
    if (st && r->broken.code && !sqlite3_stmt_readonly(st)) { /* a ROLLBACK is none that writes */
        sqlite3_clear_bindings(st);
        return ds_registry_broken(r, err);
    }
    int rc = db_step(r, st, err);
    if (rc > 0)
        db_reset(st);
    return rc < 0 ? rc : 0;
}

int64_t db_changes(ds_registry *r) { return sqlite3_changes64(r->db); }
int64_t db_rowid(ds_registry *r) { return sqlite3_last_insert_rowid(r->db); }

int db_int(ds_registry *r, int64_t *out, ds_error *err, const char *sql, const char *types, ...) {
    va_list ap;
    va_start(ap, types);
    sqlite3_stmt *st = query_v(r, err, sql, types, ap);
    va_end(ap);
    int rc = db_step(r, st, err);
    if (rc <= 0)
        return rc < 0 ? rc : DS_ENOTFOUND;
    int null = sqlite3_column_type(st, 0) == SQLITE_NULL;
    *out = sqlite3_column_int64(st, 0);
    db_reset(st);
    return null ? DS_ENOTFOUND : 0;
}

/* SQLite itself rolls back on some errors (disk full, I/O), hence the look at autocommit. */
static void rollback(ds_registry *r) {
    if (!sqlite3_get_autocommit(r->db))
        db_run(r, NULL, "ROLLBACK", "");
}

int db_begin(ds_registry *r, ds_error *err) {
    if (r->tx_depth > 0) {
        r->tx_depth++;
        return 0;
    }
    if (r->broken.code)
        return ds_registry_broken(r, err);
    r->tx_depth = 1;
    r->tx_failed = 0;
    int rc = db_run(r, err, "BEGIN IMMEDIATE", "");
    if (rc) {
        r->tx_depth = 0;
        rollback(r); /* interrupted at its end, it has begun all the same */
    }
    return rc;
}

int64_t db_last_event(ds_registry *r) {
    int64_t seq = 0;
    int rc = db_int(r, &seq, NULL, "SELECT seq FROM sqlite_sequence WHERE name = 'events'", "");
    return rc ? 0 : seq;
}

int db_end(ds_registry *r, int rc, ds_error *err) {
    DS_ASSERT(r->tx_depth > 0);
    if (rc)
        r->tx_failed = rc;
    if (--r->tx_depth > 0)
        return rc;
    if (!rc && r->tx_failed) /* a nested part failed and its caller went on */
        rc = ds_fail(err, DS_EFAILED, "cannot commit: a part of the transaction failed");
    if (!rc)
        rc = db_run(r, err, "COMMIT", "");
    if (rc) {
        rollback(r);
        return rc;
    }
    rc = ds_registry_in_place(r, err); /* before anybody is told that it is kept */
    if (rc)
        return rc;
    if (r->on_events) {
        int64_t seq = db_last_event(r);
        if (seq > r->told_seq) {
            r->told_seq = seq;
            r->on_events(r->on_events_ctx, seq);
        }
    }
    return 0;
}

void db_text(char *out, size_t size, sqlite3_stmt *q, int col) {
    const char *s = (const char *)sqlite3_column_text(q, col);
    int n = snprintf(out, size, "%s", s ? s : "");
    if (n < 0 || (size_t)n >= size)
        out[0] = 0;
}

json_t *js_string(const char *s) {
    json_t *v = json_string(s);
    if (v)
        return v;
    char *copy = ds_xstrdup(s);
    for (char *p = copy; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    v = json_string(copy);
    free(copy);
    return v;
}

void js_text(json_t *o, const char *key, sqlite3_stmt *q, int col) {
    const char *s = (const char *)sqlite3_column_text(q, col);
    json_object_set_new_nocheck(o, key, s ? js_string(s) : json_null());
}

void js_int(json_t *o, const char *key, sqlite3_stmt *q, int col) {
    int null = sqlite3_column_type(q, col) == SQLITE_NULL;
    json_object_set_new_nocheck(o, key,
                                null ? json_null() : json_integer(sqlite3_column_int64(q, col)));
}

void js_num(json_t *o, const char *key, sqlite3_stmt *q, int col) {
    int null = sqlite3_column_type(q, col) == SQLITE_NULL;
    double v = sqlite3_column_double(q, col);
    json_object_set_new_nocheck(o, key, null || !isfinite(v) ? json_null() : json_real(v));
}

void js_time(json_t *o, const char *key, sqlite3_stmt *q, int col) {
    char text[32];
    if (sqlite3_column_type(q, col) == SQLITE_NULL) {
        json_object_set_new_nocheck(o, key, json_null());
        return;
    }
    ds_time_rfc3339(text, sqlite3_column_int64(q, col));
    json_object_set_new_nocheck(o, key, json_string(text));
}

void js_doc(json_t *o, const char *key, sqlite3_stmt *q, int col) {
    const char *s = (const char *)sqlite3_column_text(q, col);
    json_t *v = NULL;
    if (s && ds_json_parse(key, s, (size_t)sqlite3_column_bytes(q, col), &v, NULL))
        v = NULL; /* another program wrote it; unreadable is unknown */
    json_object_set_new_nocheck(o, key, v ? v : json_null());
}

void js_error(json_t *o, const char *key, sqlite3_stmt *q, int code_col) {
    if (sqlite3_column_type(q, code_col) == SQLITE_NULL) {
        json_object_set_new_nocheck(o, key, json_null());
        return;
    }
    json_t *e = json_object();
    js_text(e, "code", q, code_col);
    js_text(e, "message", q, code_col + 1);
    json_object_set_new_nocheck(o, key, e);
}

int page_limit(ds_page p) {
    int n = p.limit <= 0 ? DS_LIST_DEFAULT : p.limit > DS_LIST_MAX ? DS_LIST_MAX : p.limit;
    return n;
}

int page_cursor(ds_page p, int64_t *out, ds_error *err) {
    *out = INT64_MAX;
    if (!p.cursor || !*p.cursor)
        return 0;
    char *end;
    long long v = strtoll(p.cursor, &end, 10);
    if (*end || v <= 0 || strlen(p.cursor) > 18)
        return ds_fail(err, DS_EINVAL, "cursor '%.32s' is not one that a list gave", p.cursor);
    *out = v;
    return 0;
}

static void add_row(ds_rows *text, json_t *items, int number, json_t *row) {
    if (!text) {
        json_array_append_new(items, row);
        return;
    }
    if (text->each)
        text->each(text->ctx, row);
    ds_buf_add(&text->text, ",", number > 0);
    ds_json_add(&text->text, row);
    json_decref(row);
}

static json_t *end_rows(ds_rows *text, json_t *items, json_t *next) {
    if (!text)
        return json_pack("{s:o,s:o}", "items", items, "next", next);
    ds_buf_addf(&text->text, "],\"next\":");
    ds_json_add(&text->text, next);
    ds_buf_add(&text->text, "}", 1);
    json_decref(next);
    return NULL;
}

int page_collect(ds_registry *r, sqlite3_stmt *q, ds_page page, int key_col,
                 json_t *(*row)(sqlite3_stmt *q), json_t **out, ds_error *err) {
    int limit = page_limit(page), n = 0, rc;
    json_t *items = page.rows ? NULL : json_array(), *next = json_null();
    char key[DS_NAME_SIZE] = "";
    if (page.rows)
        ds_buf_addf(&page.rows->text, "{\"items\":[");
    while ((rc = db_step(r, q, err)) > 0) {
        if (n == limit) {
            next = js_string(key);
            db_reset(q);
            rc = 0;
            break;
        }
        add_row(page.rows, items, n++, row(q));
        db_text(key, sizeof key, q, key_col);
    }
    json_t *o = end_rows(page.rows, items, next);
    if (rc) {
        json_decref(o);
        return rc;
    }
    if (o)
        *out = o;
    return 0;
}
