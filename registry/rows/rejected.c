/* registry/rows/rejected.c - see rejected.h. */
#include "registry/rows/rejected.h"
#include "base/json.h"
#include "registry/core/db.h"

#include <stdlib.h>
#include <string.h>

int rejected_check(const json_t *list, ds_error *err) {
    size_t i;
    json_t *e;
    if (!json_is_array(list))
        return ds_fail(err, DS_EINVAL, "result: 'rejected' is missing or not a list");
    if (json_array_size(list) > REJECTED_MAX)
        return ds_fail(err, DS_ELIMIT, "result: %zu rejected files, limit %d",
                       json_array_size(list), REJECTED_MAX);
    json_array_foreach(list, i, e) {
        if (!json_is_string(json_object_get(e, "path")) ||
            !json_is_string(json_object_get(e, "reason")))
            return ds_fail(err, DS_EINVAL, "result: entry %zu of 'rejected' is malformed", i);
    }
    return 0;
}

static int is_decode(const json_t *entry) {
    return !strcmp(ds_json_string(entry, "stage", ""), "decode");
}

/* Copies the entries of `from` that belong to the stage to the end of `to`, while there is room. */
static void take(json_t *to, size_t *room, const json_t *from, int decode, int mark) {
    size_t i;
    json_t *e;
    json_array_foreach(from, i, e) {
        if (!mark && is_decode(e) != decode)
            continue;
        size_t n = json_string_length(json_object_get(e, "path")) +
                   json_string_length(json_object_get(e, "reason"));
        if (json_array_size(to) >= REJECTED_MAX || n > *room)
            return;
        *room -= n;
        json_t *copy = json_pack("{s:O, s:O}", "path", json_object_get(e, "path"), "reason",
                                 json_object_get(e, "reason"));
        if (!copy) /* another program wrote it */
            continue;
        if (decode)
            json_object_set_new(copy, "stage", json_string("decode"));
        json_array_append_new(to, copy);
    }
}

static int64_t decode_entries(const json_t *list) {
    size_t i;
    json_t *e;
    int64_t n = 0;
    json_array_foreach(list, i, e) {
        n += is_decode(e);
    }
    return n;
}

static int read_row(ds_registry *r, int64_t version_id, json_t **list, int64_t *count,
                    ds_error *err) {
    sqlite3_stmt *q =
        db_query(r, err, "SELECT rejected, rejected_count FROM dataset_versions WHERE id = ?1", "i",
                 version_id);
    json_t *row = json_object();
    int rc = db_step(r, q, err);
    if (rc > 0) {
        js_doc(row, "list", q, 0);
        *count = sqlite3_column_int64(q, 1);
        db_reset(q);
        *list = json_incref(json_object_get(row, "list"));
    }
    json_decref(row);
    return rc > 0 ? 0 : rc < 0 ? rc : ds_fail(err, DS_ENOTFOUND, "no such dataset version");
}

int rejected_put(ds_registry *r, int64_t version_id, enum rejected_stage stage, const json_t *list,
                 int64_t count, ds_error *err) {
    json_t *old = NULL, *all = json_array();
    int64_t before = 0;
    int rc = read_row(r, version_id, &old, &before, err);
    if (rc) {
        json_decref(all);
        return rc;
    }
    int64_t decoded = decode_entries(old);
    int scan = stage == REJECTED_SCAN;
    size_t room = REJECTED_TEXT;
    take(all, &room, scan ? list : old, 0, scan);
    take(all, &room, scan ? old : list, 1, !scan);
    int64_t total = count + (scan ? decoded : before - decoded);
    if (total == before && json_equal(all, old)) { /* as each rescan finds them: nothing to write */
        json_decref(all);
        json_decref(old);
        return 0;
    }
    char *text = ds_json_canonical(all);
    rc = db_run(r, err,
                "UPDATE dataset_versions SET rejected = ?2, rejected_count = ?3 WHERE id = ?1",
                "isi", version_id, text, total);
    free(text);
    json_decref(all);
    json_decref(old);
    return rc;
}
