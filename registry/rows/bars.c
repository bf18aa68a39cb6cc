#include "registry/rows/bars.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/rows/refs.h"
#include "registry/rows/bars_internal.h"
#include "registry/rows/tasks.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#define MAX_BARS 16

/* Choosing them ------------------------------------------------------------------------------- */

/* What must be equal for two distances to be of one reference. */
struct reference {
    char tree[DS_HEX_SIZE], net[DS_HEX_SIZE], mode[64];
    int64_t n, seed; /* -1: any */
};

static void reference_of(struct reference *f, const char *tree, const json_t *config, int any_n) {
    const json_t *net = json_object_get(config, "feature_net"),
                 *evaluate = json_object_get(config, "evaluate");
    snprintf(f->tree, sizeof f->tree, "%s", tree ? tree : "");
    snprintf(f->net, sizeof f->net, "%s", ds_json_string(net, "sha256", ""));
    snprintf(f->mode, sizeof f->mode, "%s", ds_json_string(net, "mode", "bundled"));
    f->n = any_n ? -1 : ds_json_int(evaluate, "n", 0);
    f->seed = any_n ? -1 : ds_json_int(evaluate, "seed", 0);
}

static int same_reference(const struct reference *want, const struct reference *have) {
    return !strcmp(want->tree, have->tree) && !strcmp(want->net, have->net) &&
           !strcmp(want->mode, have->mode) && (want->n < 0 || want->n == have->n) &&
           (want->seed < 0 || want->seed == have->seed);
}

/* ?2 = 0: @latest, else the version with this id. */
#define BAR_SELECT                                                                                 \
    "SELECT av.id, a.name || '@v' || av.version, av.digest, av.fd, av.kid, av.config,"             \
    " v.tree_digest, s.name, s.sha256, s.path, s.removed_at IS NULL, s.vae_path, s.vae_sha256"     \
    " FROM adapters a JOIN adapter_versions av ON av.adapter_id = a.id"                            \
    " JOIN bases s ON s.id = av.base_id"                                                           \
    " LEFT JOIN dataset_versions v ON v.id = av.dataset_version_id"                                \
    " LEFT JOIN aliases l ON l.version_id = av.id AND l.adapter_id = a.id AND l.alias = 'latest'"  \
    " WHERE a.name = ?1 AND av.status = 'published' AND av.deleted_at IS NULL"                     \
    " AND CASE ?2 WHEN 0 THEN l.version_id IS NOT NULL ELSE av.id = ?2 END"

/* What is known of each version's distance (id, fd) on the pictures of a version (reference): its
 * own, and what it had as a bar of another one.  The latter may be on the classes that both have;
 * the share by which it differs holds for the whole.  Without it a bar would be forgotten whenever
 * the pictures change, and a row of small losses, or one force, would pass. */
#define MEASURED                                                                                   \
    "WITH own(id, fd) AS (SELECT av.id, av.fd FROM adapters a JOIN adapter_versions av"            \
    " ON av.adapter_id = a.id WHERE a.name = ?1 AND av.fd IS NOT NULL),"                           \
    " measured(id, fd, reference) AS (SELECT id, fd, id FROM own UNION ALL"                        \
    " SELECT b.adapter_version_id, w.fd * b.fd_bar / b.fd_now, w.id FROM own w"                    \
    " JOIN adapter_versions x ON x.id = w.id JOIN gates g ON g.job_id = x.job_id"                  \
    " JOIN gate_bars b ON b.gate_id = g.id WHERE b.adapter_version_id IS NOT NULL"                 \
    " AND b.verdict <> 'none' AND b.fd_bar > 0 AND b.fd_now > 0)"
/* By quality; of equals the one that is @latest, then the newest. */
#define BEST_SELECT                                                                                \
    MEASURED                                                                                       \
    " SELECT m.id, x.config, v.tree_digest FROM measured m"                                        \
    " JOIN adapter_versions av ON av.id = m.id JOIN adapter_versions x ON x.id = m.reference"      \
    " LEFT JOIN dataset_versions v ON v.id = x.dataset_version_id"                                 \
    " LEFT JOIN aliases l ON l.version_id = m.id AND l.alias = 'latest'"                           \
    " WHERE av.status = 'published' AND av.deleted_at IS NULL"                                     \
    " ORDER BY m.fd, l.version_id IS NULL, av.version DESC"

static int config_of(sqlite3_stmt *q, int col, json_t **config, ds_error *err) {
    return ds_json_parse("config", (const char *)sqlite3_column_text(q, col),
                         (size_t)sqlite3_column_bytes(q, col), config, err);
}

/* The frozen model that a bar was made on; its file may be gone, or be that of a removed base. */
static json_t *base_of(sqlite3_stmt *q) {
    const char *path = (const char *)sqlite3_column_text(q, 9),
               *vae = (const char *)sqlite3_column_text(q, 11);
    json_t *o = json_object(), *v = json_null();
    js_text(o, "name", q, 7);
    js_text(o, "path", q, 9);
    js_text(o, "sha256", q, 8);
    if (!sqlite3_column_int(q, 10) || access(path, R_OK))
        json_object_set_new(o, "path", json_null());
    if (vae && !access(vae, R_OK)) {
        v = json_object();
        js_text(v, "path", q, 11);
        js_text(v, "sha256", q, 12);
    }
    json_object_set_new(o, "vae", v);
    return o;
}

static int bar_of(ds_registry *r, sqlite3_stmt *q, const char *role, const json_t *config,
                  json_t **out, ds_error *err) {
    json_t *o = json_object(), *sample = json_object_get(config, "sample"),
           *sha = json_object_get(json_object_get(config, "feature_net"), "sha256");
    json_object_set_new(o, "role", json_string(role));
    js_text(o, "ref", q, 1);
    json_object_set_new(o, "base", base_of(q));
    json_object_set(o, "sample", sample ? sample : json_null());
    js_num(o, "fd", q, 3);
    js_num(o, "kid", q, 4);
    json_object_set(o, "feature_net_sha256", sha ? sha : json_null());
    js_text(o, "tree_digest", q, 6);
    int rc = task_blob(r, o, "adapter", (const char *)sqlite3_column_text(q, 2), err);
    if (rc)
        json_decref(o);
    else
        *out = o;
    return rc;
}

/* One version as a bar, with the reference that its own numbers are of; DS_ENOTFOUND without it. */
static int find_version(ds_registry *r, const char *name, int64_t id, const char *role,
                        json_t **bar, struct reference *ref, ds_error *err) {
    json_t *config = NULL;
    sqlite3_stmt *q = db_query(r, err, BAR_SELECT, "si", name, id);
    int rc = db_step(r, q, err);
    if (rc <= 0)
        return rc < 0 ? rc : DS_ENOTFOUND;
    rc = config_of(q, 5, &config, err);
    if (!rc)
        rc = bar_of(r, q, role, config, bar, err);
    if (ref)
        reference_of(ref, (const char *)sqlite3_column_text(q, 6), config, 1);
    json_decref(config);
    db_reset(q);
    return rc;
}

/* The first in order of quality that was measured on this reference; *bar stays NULL when none
 * was. */
static int find_best(ds_registry *r, const char *name, const struct reference *want, json_t **bar,
                     ds_error *err) {
    sqlite3_stmt *q = db_query(r, err, BEST_SELECT, "s", name);
    int64_t id = 0;
    int rc = 0;
    while (!id && (rc = db_step(r, q, err)) > 0) {
        json_t *config = NULL;
        struct reference have;
        if ((rc = config_of(q, 1, &config, err)))
            break;
        reference_of(&have, (const char *)sqlite3_column_text(q, 2), config, 0);
        if (same_reference(want, &have))
            id = sqlite3_column_int64(q, 0);
        json_decref(config);
    }
    db_reset(q);
    if (rc < 0)
        return rc;
    return id ? find_version(r, name, id, "best", bar, NULL, err) : 0;
}

int ds_bars(ds_registry *r, const char *name, const json_t *spec, json_t **out, ds_error *err) {
    struct reference of_latest, of_spec;
    json_t *latest = NULL, *best = NULL, *list;
    int rc = find_version(r, name, 0, "latest", &latest, &of_latest, err);
    if (rc && rc != DS_ENOTFOUND)
        return rc;
    list = json_array();
    if (rc == DS_ENOTFOUND) {
        *out = list;
        return 0;
    }
    json_array_append_new(list, latest);
    reference_of(&of_spec, ds_json_string(json_object_get(spec, "dataset"), "tree_digest", NULL),
                 spec, 0);
    rc = find_best(r, name, &of_spec, &best, err);
    if (!rc && !best)
        rc = find_best(r, name, &of_latest, &best, err);
    if (!rc && best &&
        strcmp(ds_json_string(best, "ref", ""), ds_json_string(latest, "ref", "")) != 0)
        json_array_append(list, best);
    json_decref(best);
    if (rc)
        json_decref(list);
    else
        *out = list;
    return rc;
}

/* Keeping what came out ----------------------------------------------------------------------- */

static const json_t *spec_bar(const json_t *spec, const char *role, const char *ref) {
    size_t i;
    json_t *b;
    json_array_foreach(json_object_get(spec, "bars"), i, b) {
        if (!strcmp(ds_json_string(b, "role", ""), role) &&
            !strcmp(ds_json_string(b, "ref", ""), ref))
            return b;
    }
    return NULL;
}

static int one_of(const char *word, const char *words) {
    char text[40];
    snprintf(text, sizeof text, "|%.30s|", word);
    return *word && strstr(words, text) != NULL;
}

static int check_bar(const json_t *bar, const json_t *spec, size_t i, int *refused, ds_error *err) {
    const char *role = ds_json_string(bar, "role", ""), *ref = ds_json_string(bar, "ref", ""),
               *verdict = ds_json_string(bar, "verdict", "");
    if (!one_of(role, "|latest|best|base|") || !*ref || !one_of(verdict, "|passed|refused|none|"))
        return ds_fail(err, DS_EINVAL, "result: 'gate.self.bars[%zu]' is malformed", i);
    if (!strcmp(role, "base")) {
        const char *name = ds_json_string(json_object_get(spec, "base"), "name", "");
        if (strncmp(ref, "base:", 5) != 0 || strcmp(ref + 5, name) != 0)
            return ds_fail(err, DS_EINVAL,
                           "result: 'gate.self.bars[%zu]' is about %.80s, the job about base:%s", i,
                           ref, name);
    } else if (!spec_bar(spec, role, ref))
        return ds_fail(err, DS_EINVAL, "result: the job has no bar %s %.80s", role, ref);
    *refused += !strcmp(verdict, "refused");
    return 0;
}

/* Each bar of the job, and its base, is judged once: one that is left out lets anything through. */
static int check_answered(const json_t *bars, const char *role, const char *ref, ds_error *err) {
    size_t i;
    int n = 0;
    json_t *b;
    json_array_foreach((json_t *)(uintptr_t)bars, i, b)
        n += !strcmp(ds_json_string(b, "role", ""), role) &&
             !strcmp(ds_json_string(b, "ref", ""), ref);
    return n == 1 ? 0
                  : ds_fail(err, DS_EINVAL, "result: the job's bar %s %.80s is judged %d times",
                            role, ref, n);
}

static int check_all_answered(const json_t *bars, const json_t *spec, ds_error *err) {
    char base[DS_NAME_SIZE + 8];
    size_t i;
    json_t *b;
    snprintf(base, sizeof base, "base:%s",
             ds_json_string(json_object_get(spec, "base"), "name", ""));
    int rc = check_answered(bars, "base", base, err);
    json_array_foreach(json_object_get(spec, "bars"), i, b) {
        if (rc)
            break;
        rc = check_answered(bars, ds_json_string(b, "role", ""), ds_json_string(b, "ref", ""), err);
    }
    return rc;
}

int bars_check(const json_t *gate, const json_t *spec, int *refused, ds_error *err) {
    const json_t *self = json_object_get(gate, "self");
    json_t *bars = json_object_get(self, "bars"), *bar;
    const char *verdict = ds_json_string(self, "verdict", "");
    size_t i;
    int bad = 0, rc = 0;
    *refused = 0;
    if (!self || json_is_null(self)) {
        if (!json_object_get(spec, "bars")) /* a job of an earlier version, or a verification */
            return 0;
        return ds_fail(err, DS_EINVAL, "result: the job has bars, 'gate.self' is missing");
    }
    if (!spec)
        return ds_fail(err, DS_EINVAL, "result: a verification has no 'gate.self'");
    if (!one_of(verdict, "|passed|refused|forced|") || !json_is_array(bars) ||
        json_array_size(bars) > MAX_BARS)
        return ds_fail(err, DS_EINVAL, "result: 'gate.self' is malformed");
    json_array_foreach(bars, i, bar) {
        if ((rc = check_bar(bar, spec, i, &bad, err)))
            return rc;
    }
    if ((rc = check_all_answered(bars, spec, err)))
        return rc;
    if (!strcmp(verdict, "passed") != (bad == 0))
        return ds_fail(err, DS_EINVAL, "result: 'gate.self.verdict' is %s, and %d bars refused",
                       verdict, bad);
    if (!strcmp(verdict, "forced") && !ds_json_bool(spec, "publish_worse", 0))
        return ds_fail(err, DS_EINVAL, "result: 'gate.self.verdict' is forced, which nobody asked");
    *refused = !strcmp(verdict, "refused");
    return 0;
}

static int insert_bar(ds_registry *r, int64_t gate, int64_t at, const json_t *b, ds_error *err) {
    ds_adapter_ref a = {0};
    const char *ref = ds_json_string(b, "ref", "");
    if (strcmp(ds_json_string(b, "role", ""), "base") != 0) {
        int rc = ds_adapter_resolve(r, ref, &a, err);
        if (rc && rc != DS_ENOTFOUND) /* deleted meanwhile: its name stays */
            return rc;
    }
    return db_run(
        r, err,
        "INSERT INTO gate_bars(gate_id, position, role, ref, adapter_version_id, verdict, fd_bar,"
        " fd_now, delta, std_error, z, margin, kid_bar, kid_now, n, classes, classes_new,"
        " classes_bar, reason, class_bar, class_now, class_error, class_z, class_margin) VALUES"
        " (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19,"
        " ?20, ?21, ?22, ?23, ?24)",
        "iissIsddddddddIIIIsddddd", gate, at, ds_json_string(b, "role", ""), ref, a.id,
        ds_json_string(b, "verdict", ""), ds_json_number(b, "fd_bar", NAN),
        ds_json_number(b, "fd_now", NAN), ds_json_number(b, "delta", NAN),
        ds_json_number(b, "std_error", NAN), ds_json_number(b, "z", NAN),
        ds_json_number(b, "margin", NAN), ds_json_number(b, "kid_bar", NAN),
        ds_json_number(b, "kid_now", NAN), ds_json_int(b, "n", 0), ds_json_int(b, "classes", 0),
        ds_json_int(b, "classes_new", 0), ds_json_int(b, "classes_bar", 0),
        ds_json_string(b, "reason", ""), ds_json_number(b, "class_bar", NAN),
        ds_json_number(b, "class_now", NAN), ds_json_number(b, "class_error", NAN),
        ds_json_number(b, "class_z", NAN), ds_json_number(b, "class_margin", NAN));
}

int bars_insert(ds_registry *r, int64_t gate, const json_t *self, ds_error *err) {
    size_t i;
    json_t *b;
    if (!json_is_object(self))
        return 0;
    int rc =
        db_run(r, err, "INSERT INTO gate_self(gate_id, verdict, fd, n) VALUES (?1, ?2, ?3, ?4)",
               "isdI", gate, ds_json_string(self, "verdict", ""), ds_json_number(self, "fd", NAN),
               ds_json_int(self, "n", 0));
    json_array_foreach(json_object_get(self, "bars"), i, b) {
        if (rc || (rc = insert_bar(r, gate, (int64_t)i, b, err)))
            break;
    }
    return rc;
}

/* Rows to objects ----------------------------------------------------------------------------- */

static json_t *bar_row(sqlite3_stmt *q) {
    static const char *const numbers[] = {"fd_bar", "fd_now", "delta",   "std_error",
                                          "z",      "margin", "kid_bar", "kid_now"};
    static const char *const counts[] = {"n", "classes", "classes_new", "classes_bar"};
    static const char *const of_classes[] = {"class_bar", "class_now", "class_error", "class_z",
                                             "class_margin"};
    json_t *o = json_object();
    js_text(o, "role", q, 0);
    js_text(o, "ref", q, 1);
    js_text(o, "verdict", q, 2);
    for (int i = 0; i < 8; i++)
        js_num(o, numbers[i], q, 3 + i);
    for (int i = 0; i < 4; i++)
        js_int(o, counts[i], q, 11 + i);
    js_text(o, "reason", q, 15);
    for (int i = 0; i < 5; i++)
        js_num(o, of_classes[i], q, 16 + i);
    return o;
}

int bars_object(ds_registry *r, int64_t gate, json_t **out, ds_error *err) {
    sqlite3_stmt *q =
        db_query(r, err, "SELECT verdict, fd, n FROM gate_self WHERE gate_id = ?1", "i", gate);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    if (rc == 0) {
        *out = json_null();
        return 0;
    }
    json_t *o = json_object(), *bars = json_array();
    js_text(o, "verdict", q, 0);
    js_num(o, "fd", q, 1);
    js_int(o, "n", q, 2);
    db_reset(q);
    json_object_set_new(o, "bars", bars);
    q = db_query(r, err,
                 "SELECT role, ref, verdict, fd_bar, fd_now, delta, std_error, z, margin, kid_bar,"
                 " kid_now, n, classes, classes_new, classes_bar, reason, class_bar,"
                 " class_now, class_error, class_z, class_margin FROM gate_bars"
                 " WHERE gate_id = ?1 ORDER BY position",
                 "i", gate);
    while ((rc = db_step(r, q, err)) > 0)
        json_array_append_new(bars, bar_row(q));
    if (rc)
        json_decref(o);
    else
        *out = o;
    return rc;
}

json_t *bars_deciding_row(sqlite3_stmt *q, int col) {
    if (sqlite3_column_type(q, col) == SQLITE_NULL)
        return json_null();
    json_t *o = json_object();
    js_text(o, "role", q, col);
    js_text(o, "ref", q, col + 1);
    js_text(o, "verdict", q, col + 2);
    js_num(o, "fd_bar", q, col + 3);
    js_num(o, "fd_now", q, col + 4);
    js_num(o, "delta", q, col + 5);
    js_num(o, "class_bar", q, col + 6);
    js_num(o, "class_now", q, col + 7);
    return o;
}

int bars_deciding(ds_registry *r, int64_t gate, json_t **out, ds_error *err) {
    /* clang-format off */
    static const char sql[] =
        "SELECT " BARS_COLUMNS("b") " FROM gate_bars b WHERE b.gate_id = ?1"
        " AND b.position = " BARS_DECIDING("?1");
    /* clang-format on */
    sqlite3_stmt *q = db_query(r, err, sql, "i", gate);
    int rc = db_step(r, q, err);
    if (rc < 0)
        return rc;
    *out = json_null();
    if (rc > 0) {
        *out = bars_deciding_row(q, 0);
        db_reset(q);
    }
    return 0;
}
