/* tests/registry/test_registry_list.c - lists of a large registry: right rows, right index.  Times are
 * printed, not judged. */
#include "base/log.h"
#include "registry/core/db.h"
#include "tests/fixtures/registry_fixture.h"

#include <math.h>

#define N 100000

/* N datasets with a version, an adapter and an alias each, as N trainings would have left them. */
static const char fill[] =
    "BEGIN;"
    "CREATE TEMP TABLE n AS WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE"
    " i < 100000) SELECT i, lower(printf('%016x%048x', i * 40503 % 16777216 * 65537, i)) AS digest"
    " FROM c;"
    "INSERT INTO blobs(digest, raw_bytes, stored_bytes, stored_sha256, media_type, created_at)"
    " SELECT digest, 1000, 500, digest, 'x', i FROM n;"
    "INSERT INTO datasets(name, source_path, state, scan_done) SELECT 'set' || i, '/data/' || i,"
    " 'ready', 1 FROM n;"
    "INSERT INTO dataset_versions(id, dataset_id, version, tree_digest, manifest_digest, images, "
    "bytes,"
    " class_count, classes, created_at) SELECT i, i, 1, digest, digest, 10, 100, 1, '[]', i FROM n;"
    "UPDATE datasets SET version_id = id;"
    "INSERT INTO adapters(name, dataset_id, last_version, created_at) SELECT 'set' || i, i, 1, i "
    "FROM n;"
    "INSERT INTO adapter_versions(adapter_id, version, status, digest, dataset_version_id, base_id,"
    " generation, method, parameters, fd, config, created_at) SELECT i, 1,"
    " CASE WHEN i % 1000 = 0 THEN 'rejected' ELSE 'published' END, digest, i, 1, 1, 'affiner', 5,"
    " i * 7919 % 100000 / 100.0, '{}', i FROM n;"
    "INSERT INTO aliases(adapter_id, alias, version_id, updated_at) SELECT i, 'latest', i, i FROM n"
    " WHERE i % 1000 <> 0;"
    "COMMIT";

/* More statements in the middle of their rows than are kept prepared: each goes on where it was. */
START_TEST(statements_in_use_stay) {
    enum { OPEN = DB_CACHE + 50 };
    ds_registry *r = fx_open(fx_dir("open"));
    static sqlite3_stmt *open[OPEN];
    ds_error err;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < OPEN; i++) {
            char sql[80];
            snprintf(sql, sizeof sql, "SELECT %d UNION ALL SELECT ?1", i);
            open[i] = db_query(r, &err, sql, "i", (int64_t)-i);
            ck_assert_int_eq(db_step(r, open[i], &err), 1);
        }
        for (int i = 0; i < OPEN; i++) {
            ck_assert_int_eq(sqlite3_column_int(open[i], 0), i);
            ck_assert_int_eq(db_step(r, open[i], &err), 1);
            ck_assert_int_eq(sqlite3_column_int(open[i], 0), -i);
            ck_assert_int_eq(db_step(r, open[i], &err), 0);
        }
    }
    ds_registry_close(r);
}
END_TEST

/* The plan of the last listing must be: walk the narrow index, then look rows up. */
static void check_plan(ds_registry *r, const char *begins, const char *index) {
    int seen = 0;
    for (int i = 0; i < DB_CACHE; i++) {
        const char *sql = r->cache[i].sql;
        if (!sql || strncmp(sql, begins, strlen(begins)) != 0)
            continue;
        char *explain = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", sql);
        sqlite3_stmt *q;
        ck_assert_int_eq(sqlite3_prepare_v2(r->db, explain, -1, &q, NULL), SQLITE_OK);
        int found = 0;
        while (sqlite3_step(q) == SQLITE_ROW) {
            const char *detail = (const char *)sqlite3_column_text(q, 3);
            ck_assert_msg(strncmp(detail, "SCAN", 4) != 0, "full scan: %s in %s", detail, sql);
            found |= strstr(detail, index) != NULL;
        }
        ck_assert_msg(found, "'%s' is not used by %s", index, sql);
        sqlite3_finalize(q);
        sqlite3_free(explain);
        seen++;
    }
    ck_assert_int_gt(seen, 0);
}

static double timed(ds_registry *r, const char *what, ds_page page, const ds_adapter_filter *f,
                    int want, json_t **out) {
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        double t = ds_monotonic();
        MUST(ds_adapter_list(r, page, f, out, err));
        t = ds_monotonic() - t;
        best = t < best ? t : best;
        if (i < 2)
            json_decref(*out);
    }
    printf("registry_list: %-28s %4zu of %d adapters in %6.2f ms\n", what,
           json_array_size(json_object_get(*out, "items")), N, best * 1e3);
    ck_assert_int_eq((int)json_array_size(json_object_get(*out, "items")), want);
    return best;
}

static const json_t *item(const json_t *page, size_t i) {
    return json_array_get(json_object_get(page, "items"), i);
}

static void lists(ds_registry *r) {
    json_t *o;
    timed(r, "newest", (ds_page){0}, NULL, 100, &o);
    ck_assert_str_eq(fx_string(item(o, 0), "ref"), "set100000@v1");
    ck_assert_str_eq(fx_string(o, "next"), "99901");
    json_decref(o);
    timed(r, "page in the middle", (ds_page){.limit = 1000, .cursor = "50000"}, NULL, 1000, &o);
    ck_assert_str_eq(fx_string(item(o, 0), "ref"), "set49999@v1");
    json_decref(o);
    timed(r, "--max-fd 0.5 (rare)", (ds_page){0}, &(ds_adapter_filter){.max_fd = 0.495}, 50, &o);
    for (size_t i = 0; i < 50; i++)
        ck_assert(json_real_value(json_object_get(item(o, i), "fd")) <= 0.495);
    ck_assert(json_is_null(json_object_get(o, "next")));
    json_decref(o);
    timed(r, "--status rejected (rare)", (ds_page){.limit = 1000},
          &(ds_adapter_filter){.status = "rejected", .max_fd = NAN}, 100, &o);
    json_decref(o);
    timed(r, "--since, nothing newer", (ds_page){0},
          &(ds_adapter_filter){.since_ms = N + 1, .max_fd = NAN}, 0, &o);
    json_decref(o);
    check_plan(r, "SELECT av.id, a.name", "INDEX adapter_versions_");
    timed(r, "--dataset", (ds_page){0}, &(ds_adapter_filter){.dataset = "SET777", .max_fd = NAN}, 1,
          &o);
    ck_assert_str_eq(fx_string(item(o, 0), "ref"), "set777@v1");
    json_decref(o);
    json_t *all = json_object(); /* page after page: each exactly once */
    char cursor[32] = "";
    for (int pages = 0; pages < N / 1000 + 1; pages++) {
        MUST(ds_adapter_list(r, (ds_page){.limit = 1000, .cursor = cursor}, NULL, &o, err));
        for (size_t i = 0; i < json_array_size(json_object_get(o, "items")); i++)
            json_object_set_new(all, fx_string(item(o, i), "ref"), json_true());
        const char *next = fx_string(o, "next");
        snprintf(cursor, sizeof cursor, "%s", next ? next : "");
        json_decref(o);
        if (!*cursor)
            break;
    }
    ck_assert_int_eq((int)json_object_size(all), N);
    json_decref(all);
}

static void others(ds_registry *r) {
    json_t *o;
    ds_adapter_ref a;
    int made;
    double t = ds_monotonic();
    MUST(ds_dataset_list(r, (ds_page){0}, 0, &o, err));
    printf("registry_list: 100 datasets in %.2f ms\n", (ds_monotonic() - t) * 1e3);
    ck_assert_str_eq(fx_string(o, "next"), fx_string(item(o, 99), "name"));
    json_decref(o);
    t = ds_monotonic();
    MUST(ds_adapter_resolve(r, "set4711", &a, err));
    char ref[32];
    snprintf(ref, sizeof ref, "sha256:%.20s", a.blob.sha256);
    MUST(ds_adapter_resolve(r, ref, &a, err));
    ck_assert_str_eq(a.ref, "set4711@v1");
    printf("registry_list: two references in %.2f ms\n", (ds_monotonic() - t) * 1e3);
    t = ds_monotonic();
    for (int parts = 0; !ds_reconcile_settled(r); parts++) {
        MUST(ds_reconcile(r, &made, err));
        ck_assert_int_eq(made, 0);
        ck_assert_int_le(parts, N / 500);
    }
    printf("registry_list: first look for work in %.0f ms\n", (ds_monotonic() - t) * 1e3);
    t = ds_monotonic();
    MUST(ds_reconcile(r, &made, err));
    printf("registry_list: next reconcile in %.3f ms\n", (ds_monotonic() - t) * 1e3);
    t = ds_monotonic();
    MUST(ds_registry_counts(r, &o, err));
    printf("registry_list: counts in %.2f ms\n", (ds_monotonic() - t) * 1e3);
    ck_assert_int_eq(fx_int(o, "adapters"), N - N / 1000);
    json_decref(o);
    MUST(ds_evaluation_list(r, (ds_page){0}, &(ds_evaluation_filter){.metric = "fd"}, &o, err));
    json_decref(o);
    MUST(ds_job_list(r, (ds_page){0}, &(ds_job_filter){.state = "queued"}, &o, err));
    json_decref(o);
}

START_TEST(a_hundred_thousand_adapters) {
    const char *dir = fx_dir("large");
    ds_registry *r = fx_open(dir);
    double t = ds_monotonic();
    ck_assert_int_eq(fx_foreign(r, fill), SQLITE_OK);
    printf("registry_list: %d adapters made in %.1f s\n", N, ds_monotonic() - t);
    lists(r);
    others(r);
    ds_registry_close(r);
    t = ds_monotonic();
    MUST(ds_registry_open(dir, &r, err));
    printf("registry_list: opened (every page checked) in %.2f s\n", ds_monotonic() - t);
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, statements_in_use_stay);
    tcase_add_test(tc, a_hundred_thousand_adapters);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_list", cases);
}
