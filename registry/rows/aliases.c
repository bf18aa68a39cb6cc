#include "registry/rows/aliases.h"
#include "base/log.h"
#include "registry/core/events.h"
#include "registry/core/db.h"
#include "registry/core/names.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Version row that may be pointed to. */
static int target(ds_registry *r, const char *name, int64_t version, int64_t *adapter, int64_t *row,
                  ds_error *err) {
    sqlite3_stmt *q =
        db_query(r, err,
                 "SELECT a.id, av.id, av.status FROM adapters a JOIN adapter_versions av"
                 " ON av.adapter_id = a.id WHERE a.name = ?1 AND av.version = ?2"
                 " AND av.deleted_at IS NULL",
                 "si", name, version);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return ds_fail(err, DS_ENOTFOUND, "adapter '%.80s@v%lld' does not exist", name,
                       (long long)version);
    *adapter = sqlite3_column_int64(q, 0);
    *row = sqlite3_column_int64(q, 1);
    int rejected = strcmp((const char *)sqlite3_column_text(q, 2), "published") != 0;
    db_reset(q);
    if (rejected)
        return ds_fail(err, DS_EREFUSED,
                       "adapter '%s@v%lld' was rejected by the gate; an alias cannot point to it",
                       name, (long long)version);
    return 0;
}

static json_t *alias_object(sqlite3_stmt *q) {
    json_t *o = json_object();
    js_text(o, "name", q, 0);
    js_text(o, "alias", q, 1);
    js_int(o, "version", q, 2);
    js_int(o, "generation", q, 3);
    js_time(o, "updated_at", q, 4);
    return o;
}

#define ALIAS_SELECT                                                                               \
    "SELECT a.name, l.alias, av.version, l.generation, l.updated_at FROM aliases l"                \
    " JOIN adapters a ON a.id = l.adapter_id JOIN adapter_versions av ON av.id = l.version_id"

static int generation_of(ds_registry *r, int64_t adapter, const char *alias, int64_t *out,
                         ds_error *err) {
    return db_int(r, out, err,
                  "SELECT generation FROM aliases WHERE adapter_id = ?1 AND alias = ?2", "is",
                  adapter, alias);
}

/* Optimistic concurrency: `want` is what the caller saw, -1 = whatever it is. */
static int check_unmoved(const char *name, const char *alias, int64_t want, int64_t have,
                         ds_error *err) {
    return want < 0 || want == have
               ? 0
               : ds_fail(err, DS_ECONFLICT,
                         "alias '%s@%s' has generation %lld, not %lld: somebody moved it; look "
                         "again",
                         name, alias, (long long)have, (long long)want);
}

static int set(ds_registry *r, const char *name, const char *alias, int64_t version,
               int64_t if_generation, const char *reason, ds_error *err) {
    int64_t adapter = 0, row = 0, have = 0;
    int rc = target(r, name, version, &adapter, &row, err);
    if (rc)
        return rc;
    rc = generation_of(r, adapter, alias, &have, err);
    if (rc && rc != DS_ENOTFOUND)
        return rc;
    int64_t last = 0; /* also of an alias that was removed: a number is never given twice */
    rc = db_int(r, &last, err,
                "SELECT coalesce(max(generation), 0) FROM alias_history WHERE adapter_id = ?1"
                " AND alias = ?2",
                "is", adapter, alias);
    if (rc)
        return rc;
    if ((rc = check_unmoved(name, alias, if_generation, have, err)))
        return rc;
    rc = db_run(r, err,
                "INSERT INTO aliases(adapter_id, alias, version_id, reason, updated_at, generation)"
                " VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (adapter_id, alias) DO UPDATE SET"
                " version_id = ?3, generation = ?6, reason = ?4, updated_at = ?5",
                "isisii", adapter, alias, row, reason ? reason : "", ds_now_ms(), last + 1);
    if (rc)
        return rc;
    char subject[2 * DS_NAME_SIZE + 16];
    snprintf(subject, sizeof subject, "alias:%s@%s", name, alias);
    return ds_event_put(r, "alias.set", subject,
                        json_pack("{s:s,s:s,s:I,s:I}", "name", name, "alias", alias, "version",
                                  (json_int_t)version, "generation", (json_int_t)last + 1),
                        err);
}

int ds_alias_set(ds_registry *r, const char *name, const char *alias, int64_t version,
                 int64_t if_generation, const char *reason, json_t **out, ds_error *err) {
    int rc = ds_name_check("adapter", name, err);
    if (rc || (rc = ds_alias_check(alias, err)) || (rc = db_begin(r, err)))
        return rc;
    rc = set(r, name, alias, version, if_generation, reason, err);
    if (!rc && out) {
        sqlite3_stmt *q =
            db_query(r, err, ALIAS_SELECT " WHERE a.name = ?1 AND l.alias = ?2", "ss", name, alias);
        rc = db_step(r, q, err);
        if (rc == 0) /* by a trigger that is none of ours */
            rc = ds_fail(err, DS_EFAILED, "alias '%s' of '%s' was not kept", alias, name);
        else if (rc > 0) {
            *out = alias_object(q);
            db_reset(q);
            rc = 0;
        }
    }
    return db_end(r, rc, err);
}

static int known_adapter(ds_registry *r, const char *name, int64_t *id, ds_error *err) {
    int rc = db_int(r, id, err, "SELECT id FROM adapters WHERE name = ?1", "s", name);
    return rc == DS_ENOTFOUND ? ds_fail(err, DS_ENOTFOUND, "adapter '%.80s' does not exist", name)
                              : rc;
}

/* Inside a transaction. */
static int remove_one(ds_registry *r, const char *name, const char *alias, int64_t if_generation,
                      ds_error *err) {
    int64_t adapter = 0, have = 0;
    int rc = known_adapter(r, name, &adapter, err);
    if (!rc)
        rc = generation_of(r, adapter, alias, &have, err);
    if (rc == DS_ENOTFOUND && adapter)
        return ds_fail(err, DS_ENOTFOUND, "adapter '%s' has no alias '%s'", name, alias);
    if (rc)
        return rc;
    rc = check_unmoved(name, alias, if_generation, have, err);
    if (!rc)
        rc = db_run(r, err, "DELETE FROM aliases WHERE adapter_id = ?1 AND alias = ?2", "is",
                    adapter, alias);
    char subject[2 * DS_NAME_SIZE + 16];
    snprintf(subject, sizeof subject, "alias:%s@%s", name, alias);
    return rc ? rc
              : ds_event_put(r, "alias.removed", subject,
                             json_pack("{s:s,s:s,s:I}", "name", name, "alias", alias, "generation",
                                       (json_int_t)have),
                             err);
}

int ds_alias_remove(ds_registry *r, const char *name, const char *alias, int64_t if_generation,
                    ds_error *err) {
    int rc = ds_name_check("adapter", name, err);
    if (rc || (rc = ds_alias_check(alias, err)))
        return rc;
    if (!strcasecmp(alias, "latest"))
        return ds_fail(err, DS_ECONFLICT,
                       "'%s' alone means '%s@latest', so that alias stays: move it with set-alias, "
                       "or remove the adapter's versions",
                       name, name);
    if ((rc = db_begin(r, err)))
        return rc;
    return db_end(r, remove_one(r, name, alias, if_generation, err), err);
}

int aliases_drop(ds_registry *r, const char *name, int64_t version_id, ds_error *err) {
    char alias[DS_NAME_SIZE];
    for (;;) {
        sqlite3_stmt *q = db_query(
            r, err, "SELECT alias FROM aliases WHERE version_id = ?1 LIMIT 1", "i", version_id);
        int rc = db_step(r, q, err);
        if (rc <= 0)
            return rc;
        db_text(alias, sizeof alias, q, 0);
        db_reset(q);
        if ((rc = remove_one(r, name, alias, -1, err)))
            return rc;
    }
}

/* The cursor is the last one of the page before, NAME@ALIAS. */
int ds_alias_list_all(ds_registry *r, ds_page page, json_t **out, ds_error *err) {
    int limit = page_limit(page), rc;
    char name[DS_NAME_SIZE] = "";
    const char *at = page.cursor ? strchr(page.cursor, '@') : NULL;
    if (page.cursor && (!at || at - page.cursor >= DS_NAME_SIZE))
        return ds_fail(err, DS_EINVAL, "cursor '%.80s' is none of a list of aliases", page.cursor);
    if (at)
        snprintf(name, sizeof name, "%.*s", (int)(at - page.cursor), page.cursor);
    sqlite3_stmt *q = db_query(r, err,
                               ALIAS_SELECT " WHERE (a.name, l.alias) > (?1, ?2)"
                                            " ORDER BY a.name, l.alias LIMIT ?3",
                               "ssi", name, at ? at + 1 : "", (int64_t)limit + 1);
    json_t *items = json_array(), *next = json_null(), *last;
    while ((rc = db_step(r, q, err)) > 0) {
        if ((int)json_array_size(items) == limit) {
            last = json_array_get(items, (size_t)limit - 1);
            next = json_sprintf("%s@%s", json_string_value(json_object_get(last, "name")),
                                json_string_value(json_object_get(last, "alias")));
            db_reset(q);
            rc = 0;
            break;
        }
        json_array_append_new(items, alias_object(q));
    }
    json_t *o = json_pack("{s:o,s:o}", "items", items, "next", next);
    if (rc) {
        json_decref(o);
        return rc;
    }
    *out = o;
    return 0;
}

int ds_alias_list(ds_registry *r, const char *name, json_t **out, ds_error *err) {
    int64_t adapter;
    int known = known_adapter(r, name, &adapter, err);
    if (known)
        return known;
    sqlite3_stmt *q =
        db_query(r, err, ALIAS_SELECT " WHERE a.name = ?1 ORDER BY l.alias", "s", name);
    json_t *items = json_array();
    int rc;
    while ((rc = db_step(r, q, err)) > 0)
        json_array_append_new(items, alias_object(q));
    if (rc) {
        json_decref(items);
        return rc;
    }
    *out = items;
    return 0;
}

int ds_alias_history(ds_registry *r, const char *name, const char *alias, json_t **out,
                     ds_error *err) {
    sqlite3_stmt *q =
        db_query(r, err,
                 "SELECT h.generation, n.version, o.version, h.reason, h.at FROM alias_history h"
                 " JOIN adapters a ON a.id = h.adapter_id JOIN adapter_versions n ON"
                 " n.id = h.new_version_id LEFT JOIN adapter_versions o ON o.id = h.old_version_id"
                 " WHERE a.name = ?1 AND h.alias = ?2 ORDER BY h.seq DESC LIMIT 1000",
                 "ss", name, alias);
    json_t *items = json_array();
    int rc;
    while ((rc = db_step(r, q, err)) > 0) {
        json_t *o = json_object();
        js_int(o, "generation", q, 0);
        js_int(o, "version", q, 1);
        js_int(o, "old_version", q, 2);
        js_text(o, "reason", q, 3);
        js_time(o, "at", q, 4);
        json_array_append_new(items, o);
    }
    if (rc) {
        json_decref(items);
        return rc;
    }
    *out = items;
    return 0;
}
