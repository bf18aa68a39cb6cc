/* tests/registry/test_registry_bases.c - bases and feature networks: the upgrade that brought them, names,
 * imports, a base per dataset, removal; probes of other devices; jobs that only wait. */
#include "base/mem.h"
#include "registry/jobs/cleanup.h"
#include "registry/core/db.h"
#include "registry/core/migrate.h"
#include "tests/fixtures/registry_fixture.h"

#define XL_SHA "aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11"
#define VAE_SHA "cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33cc33"

static void db_path(const char *dir, char path[PATH_MAX]) {
    ds_fs_join(path, PATH_MAX, dir, "registry.db");
}

static int64_t number(sqlite3 *db, const char *sql) {
    sqlite3_stmt *q;
    ck_assert_msg(sqlite3_prepare_v2(db, sql, -1, &q, NULL) == SQLITE_OK, "%s: %s", sql,
                  sqlite3_errmsg(db));
    ck_assert_int_eq(sqlite3_step(q), SQLITE_ROW);
    int64_t v = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    return v;
}

/* A file as schema 1 left it, opened raw. */
static sqlite3 *old_file(const char *dir) {
    char path[PATH_MAX], *sql;
    size_t n;
    sqlite3 *db;
    MUST(ds_fs_read("tests/golden/registry-v1.sql", 1 << 20, &sql, &n, err));
    MUST(ds_fs_mkdirs(dir, err));
    db_path(dir, path);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    free(sql);
    return db;
}

static int no_golden(const char *test) {
    if (ds_fs_exists("tests/golden/registry-v1.sql"))
        return 0;
    ds_test_skip(test, "not run from the repository's root");
    return 1;
}

#define COUNT(type) "SELECT count(*) FROM sqlite_schema WHERE type = '" type "'"

START_TEST(rebuilt_jobs_lose_nothing) {
    if (no_golden("rebuilt_jobs_lose_nothing"))
        return;
    const char *dir = fx_dir("rebuilt");
    sqlite3 *db = old_file(dir);
    int64_t jobs = number(db, "SELECT count(*) FROM jobs"),
            sum = number(db, "SELECT sum(id * length(coalesce(result, 'x'))) FROM jobs"),
            attempts = number(db, "SELECT count(*) FROM job_attempts"),
            triggers = number(db, COUNT("trigger")), indexes = number(db, COUNT("index")),
            views = number(db, COUNT("view"));
    /* what other programs may have: a view of their own, and a sequence beyond the last row */
    ck_assert_int_eq(sqlite3_exec(db,
                                  "CREATE VIEW theirs AS SELECT id, state FROM jobs;"
                                  "UPDATE sqlite_sequence SET seq = 41 WHERE name = 'jobs'",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    ds_registry *r;
    MUST(ds_registry_open(dir, &r, err));
    MUST(ds_registry_check(r, err));
    ck_assert_int_eq(number(r->db, "PRAGMA foreign_keys"), 1);
    ck_assert_int_eq(number(r->db, "PRAGMA legacy_alter_table"), 0);
    ck_assert_int_eq(number(r->db, "SELECT count(*) FROM jobs"), jobs);
    ck_assert_int_eq(number(r->db, "SELECT sum(id * length(coalesce(result, 'x'))) FROM jobs"),
                     sum);
    ck_assert_int_eq(number(r->db, "SELECT count(*) FROM job_attempts"), attempts);
    ck_assert_int_eq(number(r->db, "SELECT count(*) FROM theirs"), jobs);
    ck_assert_int_ge(number(r->db, COUNT("trigger")), triggers + 5); /* of models */
    ck_assert_int_ge(number(r->db, COUNT("index")), indexes + 3);
    ck_assert_int_ge(number(r->db, COUNT("view")), views + 1 + 2);
    ck_assert_int_eq(number(r->db, "SELECT count(*) FROM sqlite_schema WHERE sql LIKE"
                                   " '%REFERENCES jobs_new%' OR name = 'jobs_new'"),
                     0);
    /* the trigger still refuses, the references still hold, the numbers go on */
    ck_assert_int_eq(fx_foreign(r, "UPDATE jobs SET state = 'running' WHERE state = 'done'"),
                     SQLITE_CONSTRAINT);
    ck_assert_int_ne(sqlite3_exec(r->db, "DELETE FROM jobs WHERE id = 1", NULL, NULL, NULL),
                     SQLITE_OK);
    int64_t id = 0;
    MUST(ds_job_add(r, DS_JOB_IMPORT, "x", NULL, 3, &id, err));
    ck_assert_int_eq(id, 42);
    ck_assert_int_eq(fx_foreign(r, "INSERT INTO jobs(kind, created_at) VALUES ('mine', 1)"),
                     SQLITE_CONSTRAINT);
    json_t *b = NULL;
    MUST(ds_base_get(r, 0, &b, err));
    ck_assert_str_eq(fx_string(b, "name"), "emoji-dit");
    ck_assert(json_is_null(json_object_get(b, "vae")));
    json_decref(b);
    ds_registry_close(r);
}
END_TEST

/* A file whose references are broken is left as it is. */
START_TEST(broken_references_stop_the_upgrade) {
    if (no_golden("broken_references_stop_the_upgrade"))
        return;
    const char *dir = fx_dir("dangling");
    sqlite3 *db = old_file(dir);
    ck_assert_int_eq(sqlite3_exec(db,
                                  "INSERT INTO job_metrics(job_id, key, step, at) VALUES"
                                  " (77, 'x', 1, 1)",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    sqlite3_close(db);
    ds_registry *r;
    FAILS(DS_EINTEGRITY, "refers to a missing row of jobs", ds_registry_open(dir, &r, err));
    char path[PATH_MAX];
    db_path(dir, path);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(number(db, "PRAGMA user_version"), 1);
    ck_assert_int_eq(number(db, "SELECT count(*) FROM sqlite_schema WHERE name = 'bases_v1'"), 0);
    sqlite3_close(db);
}
END_TEST

/* An import job whose result says this; claimed, not finished. */
static int64_t import_job(ds_registry *r, const char *what, const char *name, const char *sha,
                          int vae, json_t **spec, json_t **result) {
    int64_t id;
    *spec = fx_json("{\"what\":\"%s\",\"source\":\"/src/%s.pt\",\"out_dir\":\"/o\"}", what, name);
    *result =
        fx_json("{\"schema\":\"diffscaler.import/1\",\"what\":\"%s\",\"name\":\"%s\",\"sha256\":"
                "\"%s\",\"config\":{\"pixel\":0,\"width\":1152},\"source_format\":\"zip\","
                "\"source_sha256\":\"" NET_SHA "\",\"license\":\"CC-BY-NC 4.0\",\"vae\":%s,"
                "\"bytes\":2700,\"parameters\":675}",
                what, name, sha, vae ? "{\"file\":\"/o/v\",\"sha256\":\"" VAE_SHA "\"}" : "null");
    MUST(ds_job_add(r, DS_JOB_IMPORT, name, *spec, 3, &id, err));
    MUST(ds_job_claim(r, id, err));
    return id;
}

static int finish_import(ds_registry *r, const char *what, const char *name, const char *sha,
                         int vae, ds_error *err) {
    json_t *spec, *result;
    ds_import i = {.job = import_job(r, what, name, sha, vae, &spec, &result),
                   .path = "/o/file",
                   .vae_path = vae ? "/o/v" : NULL};
    i.spec = spec;
    i.result = result;
    int rc = ds_import_finish(r, &i, err);
    json_decref(spec);
    json_decref(result);
    return rc;
}

static json_t *base_named(ds_registry *r, const char *ref) {
    int64_t id;
    json_t *b = NULL;
    MUST(ds_base_resolve(r, ref, &id, err));
    MUST(ds_base_get(r, id, &b, err));
    return b;
}

START_TEST(imports) {
    ds_registry *r = fx_open(fx_dir("imports"));
    int64_t before = fx_count(r, "base.added"), id;
    MUST(finish_import(r, "base", "xl", XL_SHA, 0, err));
    json_t *b = base_named(r, "XL"); /* names are compared without case */
    ck_assert_str_eq(fx_string(b, "sha256"), XL_SHA);
    ck_assert_str_eq(fx_string(b, "license"), "CC-BY-NC 4.0");
    ck_assert_str_eq(fx_string(b, "source"), "/src/xl.pt");
    ck_assert_int_eq(fx_int(b, "parameters"), 675);
    ck_assert(json_is_true(json_object_get(b, "latent")));
    ck_assert_int_eq((int)json_array_size(json_object_get(b, "missing")), 1);
    ck_assert(json_is_false(json_object_get(b, "default"))); /* nobody chose it */
    ck_assert_str_eq(fx_string(json_object_get(b, "feature_net"), "sha256"), NET_SHA);
    json_decref(b);
    ck_assert_int_eq(fx_count(r, "base.added"), before + 1);
    ck_assert_int_eq(fx_count(r, "job.done"), 1);
    /* again, with the VAE and another name: the same base */
    MUST(finish_import(r, "base", "xl2", XL_SHA, 1, err));
    b = base_named(r, "xl2");
    ck_assert_int_eq((int)json_array_size(json_object_get(b, "missing")), 0);
    ck_assert_str_eq(fx_string(json_object_get(b, "vae"), "sha256"), VAE_SHA);
    ck_assert_str_eq(fx_string(json_object_get(b, "vae"), "path"), "/o/v");
    json_decref(b);
    FAILS(DS_ENOTFOUND, "base 'xl' does not exist", ds_base_resolve(r, "xl", &id, err));
    ck_assert_int_eq(fx_count(r, "base.added"), before + 1);
    /* a name of another model: nothing changes, and the job can still be failed */
    json_t *spec, *result;
    int64_t job = import_job(r, "base", "xl2", VAE_SHA, 0, &spec, &result);
    ds_import i = {.job = job, .spec = spec, .result = result, .path = "/o/file"};
    FAILS(DS_EINVAL, "already sha256:" XL_SHA, ds_import_finish(r, &i, err));
    json_object_set_new(result, "what", json_string("feature_net"));
    FAILS(DS_EINVAL, "about 'feature_net', the job about 'base'", ds_import_finish(r, &i, err));
    ds_job_failure f = {.exit_code = 2, .exit_signal = -1, .retry = 0};
    MUST(ds_job_fail(r, job, &f, NULL, err));
    json_object_set_new(result, "what", json_string("base"));
    FAILS(DS_ECONFLICT, "not running", ds_import_finish(r, &i, err));
    json_decref(spec);
    json_decref(result);
    /* feature networks */
    MUST(finish_import(r, "feature_net", "fid", VAE_SHA, 0, err));
    MUST(ds_feature_net_get(r, "sha256:cc33cc33", &b, err));
    ck_assert_str_eq(fx_string(b, "kind"), "inception-fid");
    ck_assert(json_is_false(json_object_get(b, "default")));
    json_decref(b);
    MUST(ds_feature_net_list(r, (ds_page){0}, &b, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(b, "items")), 2);
    json_decref(b);
    ck_assert_int_eq(ds_model_file_known(r, "/o/file"), 1);
    ck_assert_int_eq(ds_model_file_known(r, "/o/v"), 1);
    ck_assert_int_eq(ds_model_file_known(r, "/o/other"), 0);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

#define OTHER_SHA "dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44"
#define LAST_SHA "ee55ee55ee55ee55ee55ee55ee55ee55ee55ee55ee55ee55ee55ee55ee55ee55"

/* With its VAE it may turn out what a base predicts, and the file is another one: it takes the place
 * of the first, also as the default, unless that is used or something else. */
START_TEST(a_vae_that_comes_later) {
    ds_registry *r = fx_open(fx_dir("later"));
    int64_t xl, id, created, seq;
    MUST(finish_import(r, "base", "xl", XL_SHA, 0, err));
    MUST(ds_base_resolve(r, "xl", &xl, err));
    MUST(ds_base_activate(r, xl, err));
    FAILS(DS_EINVAL, "already sha256:" XL_SHA, finish_import(r, "base", "xl", OTHER_SHA, 0, err));
    MUST(finish_import(r, "base", "XL", OTHER_SHA, 1, err));
    json_t *b = base_named(r, "xl");
    ck_assert_str_eq(fx_string(b, "sha256"), OTHER_SHA);
    ck_assert_str_eq(fx_string(json_object_get(b, "vae"), "sha256"), VAE_SHA);
    ck_assert(json_is_true(json_object_get(b, "default")));
    ck_assert_str_eq(fx_string(json_object_get(b, "feature_net"), "sha256"), NET_SHA);
    json_decref(b);
    MUST(ds_base_get(r, xl, &b, err));
    ck_assert(json_is_true(json_object_get(b, "removed")));
    json_decref(b);
    ck_assert_int_eq(fx_count(r, "base.removed"), 1);
    /* what has its VAE stays */
    FAILS(DS_EINVAL, "already sha256:" OTHER_SHA, finish_import(r, "base", "xl", XL_SHA, 1, err));
    /* from another source, and with a dataset */
    MUST(finish_import(r, "base", "two", XL_SHA, 0, err));
    MUST(ds_base_resolve(r, "two", &id, err));
    ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET source_sha256 = '" VAE_SHA "'"), SQLITE_OK);
    FAILS(DS_EINVAL, "already sha256:" XL_SHA, finish_import(r, "base", "two", LAST_SHA, 1, err));
    ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET source_sha256 = '" NET_SHA "'"), SQLITE_OK);
    ds_dataset_new d = {.name = "d", .path = "/a", .watch = -1, .base_id = id};
    int made;
    MUST(ds_dataset_add(r, &d, &created, &made, &seq, err));
    FAILS(DS_EINVAL, "already sha256:" XL_SHA, finish_import(r, "base", "two", LAST_SHA, 1, err));
    ck_assert_int_eq(fx_count(r, "base.removed"), 1);
    MUST(ds_dataset_remove(r, "d", err));
    MUST(finish_import(r, "base", "two", LAST_SHA, 1, err));
    ck_assert_int_eq(fx_count(r, "base.removed"), 2);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

/* What an import understood stays with the model until another import says it anew. */
START_TEST(reports_are_kept) {
    ds_registry *r = fx_open(fx_dir("reports"));
    static const char *const says[] = {"eps", "again", NULL};
    json_t *b;
    for (int i = 0; i < 3; i++) { /* the third job is of an earlier worker: no report */
        json_t *spec, *result;
        ds_import m = {.job = import_job(r, "base", "xl", XL_SHA, 0, &spec, &result),
                       .spec = spec,
                       .result = result,
                       .path = "/o/file"};
        if (says[i])
            json_object_set_new(result, "report",
                                fx_json("{\"objective\":{\"how\":\"%s\"}}", says[i]));
        MUST(ds_import_finish(r, &m, err));
        json_decref(spec);
        json_decref(result);
        b = base_named(r, "xl");
        const json_t *o = json_object_get(json_object_get(b, "report"), "objective");
        ck_assert_str_eq(fx_string(o, "how"), says[i] ? says[i] : "again");
        json_decref(b);
    }
    /* long: only of one; and what came with the program has none */
    MUST(ds_base_list(r, (ds_page){0}, &b, err));
    ck_assert_ptr_null(json_object_get(json_array_get(json_object_get(b, "items"), 0), "report"));
    json_decref(b);
    int64_t id;
    MUST(ds_base_put(r, "bundled-one", "/1", VAE_SHA, NULL, 0, &id, err));
    b = base_named(r, "bundled-one");
    ck_assert(json_is_null(json_object_get(b, "report")));
    json_decref(b);
    json_t *spec, *result;
    ds_import net = {.job = import_job(r, "feature_net", "fid", VAE_SHA, 0, &spec, &result),
                     .spec = spec,
                     .result = result,
                     .path = "/o/net"};
    json_object_set_new(result, "report", fx_json("{\"ignored\":[]}"));
    MUST(ds_import_finish(r, &net, err));
    MUST(ds_feature_net_get(r, "fid", &b, err));
    ck_assert(json_is_object(json_object_get(b, "report")));
    json_decref(b);
    json_decref(spec);
    json_decref(result);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(references_to_bases) {
    ds_registry *r = fx_open(fx_dir("refs"));
    int64_t one, two, id;
    MUST(ds_base_put(r, "twin", "/1", XL_SHA, NULL, 0, &one, err));
    MUST(ds_base_put(r, "twin", "/2", VAE_SHA, NULL, 0, &two, err)); /* as bundled files may */
    MUST(ds_base_resolve(r, "twin", &id, err));
    ck_assert_int_eq(id, two);
    MUST(ds_base_choose(r, one, err));
    MUST(ds_base_resolve(r, "twin", &id, err));
    ck_assert_int_eq(id, one);
    MUST(ds_base_resolve(r, NULL, &id, err));
    ck_assert_int_eq(id, one);
    MUST(ds_base_resolve(r, "default", &id, err));
    ck_assert_int_eq(id, one);
    MUST(ds_base_resolve(r, "sha256:cc33cc33", &id, err));
    ck_assert_int_eq(id, two);
    MUST(ds_base_resolve(r, VAE_SHA, &id, err));
    ck_assert_int_eq(id, two);
    FAILS(DS_EINVAL, "8 to 64", ds_base_resolve(r, "sha256:cc33", &id, err));
    FAILS(DS_ENOTFOUND, "does not exist", ds_base_resolve(r, "sha256:ffffffff", &id, err));
    FAILS(DS_EINVAL, "use only", ds_base_resolve(r, "a/b", &id, err));
    FAILS(DS_EINVAL, "no base can be called 'Default'", ds_base_name_free(r, "Default", NULL, err));
    FAILS(DS_ECONFLICT, "choose another --name", ds_base_name_free(r, "EMOJI-dit", XL_SHA, err));
    MUST(ds_base_name_free(r, "emoji-dit", BASE_SHA, err));
    MUST(ds_base_name_free(r, "new", XL_SHA, err));
    ds_registry_close(r);
}
END_TEST

/* Publishes the running training as if made on the base with this digest. */
static void publish_on(ds_registry *r, const ds_job *j, const char *base_sha, const char *content) {
    char ref[DS_HEX_SIZE + 16], text[100];
    ds_blob a, f;
    json_t *spec, *result;
    snprintf(text, sizeof text, "adapter %s", content);
    MUST(ds_store_put_bytes(ds_registry_store(r), text, strlen(text), &a, err));
    snprintf(text, sizeof text, "reference %s", content);
    MUST(ds_store_put_bytes(ds_registry_store(r), text, strlen(text), &f, err));
    fx_training(r, j, 1, &a, &f, &spec, &result);
    json_object_set_new(json_object_get(spec, "base"), "sha256", json_string(base_sha));
    ds_publication p = {
        .job = j->id, .spec = spec, .result = result, .adapter = &a, .reference = &f};
    MUST(ds_publish(r, &p, ref, err));
    json_decref(spec);
    json_decref(result);
}

static void add_on(ds_registry *r, const char *name, int64_t base) {
    ds_dataset_new d = {.name = name, .path = "/a", .watch = -1, .base_id = base};
    int64_t id, seq;
    int created;
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
}

/* Refs of the old tasks of a base, joined with commas. */
static void tasks_of(ds_registry *r, int64_t base, char out[200]) {
    json_t *list = NULL, *t;
    size_t i, n = 0;
    out[0] = 0;
    MUST(ds_old_tasks(r, base, NULL, NULL, &list, err));
    json_array_foreach(list, i, t)
        n += (size_t)snprintf(out + n, 200 - n, "%s%s", n ? "," : "", fx_string(t, "ref"));
    json_decref(list);
}

START_TEST(a_dataset_on_several_bases) {
    ds_registry *r = fx_open(fx_dir("several"));
    char refs[200];
    int64_t xl;
    json_t *d = NULL;
    int made;
    MUST(ds_base_put(r, "xl", "/xl", XL_SHA, NULL, 0, &xl, err));
    add_on(r, "d", 0);
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL); /* d@v1 on the default */
    add_on(r, "e", xl);
    fx_scan(r, "two");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    ck_assert_str_eq(j.name, "e");
    ck_assert_int_eq(j.base_id, xl);
    publish_on(r, &j, XL_SHA, "two");
    tasks_of(r, 1, refs);
    ck_assert_str_eq(refs, "d@v1");
    tasks_of(r, xl, refs);
    ck_assert_str_eq(refs, "e@v1");
    /* d on xl as well: d@v2; on the default d@v1 stays an old task */
    add_on(r, "d", xl);
    fx_scan(r, "one");
    MUST(ds_dataset_get(r, "d", &d, err));
    ck_assert_str_eq(fx_string(d, "base"), "xl");
    json_decref(d);
    j = fx_claim(r, DS_JOB_TRAIN);
    publish_on(r, &j, XL_SHA, "three");
    tasks_of(r, 1, refs);
    ck_assert_str_eq(refs, "d@v1");
    tasks_of(r, xl, refs);
    ck_assert_str_eq(refs, "d@v2,e@v1");
    /* back to the default: it has been there, nothing to do */
    add_on(r, "d", -1);
    fx_scan(r, "one");
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 0);
    /* of several on one base the newest, unless @latest is another one of them */
    add_on(r, "d", xl);
    fx_scan(r, "four");
    j = fx_claim(r, DS_JOB_TRAIN);
    publish_on(r, &j, XL_SHA, "four");
    tasks_of(r, xl, refs);
    ck_assert_str_eq(refs, "d@v3,e@v1");
    MUST(ds_alias_set(r, "d", "latest", 2, -1, "", NULL, err));
    tasks_of(r, xl, refs);
    ck_assert_str_eq(refs, "d@v2,e@v1");
    MUST(ds_alias_set(r, "d", "latest", 1, -1, "", NULL, err));
    tasks_of(r, xl, refs);
    ck_assert_str_eq(refs, "d@v3,e@v1");
    /* an adapter on another base is refused with both digests */
    ds_adapter_ref a;
    MUST(ds_adapter_resolve(r, "d@v1", &a, err));
    MUST(ds_adapter_check_base(r, &a, 1, err));
    FAILS(DS_ECONFLICT, BASE_SHA, ds_adapter_check_base(r, &a, xl, err));
    FAILS(DS_ECONFLICT, XL_SHA, ds_adapter_check_base(r, &a, xl, err));
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(choosing_the_default) {
    ds_registry *r = fx_open(fx_dir("default"));
    int64_t xl;
    int made;
    json_t *b = NULL;
    MUST(ds_base_put(r, "xl", "/xl", XL_SHA, NULL, 0, &xl, err));
    ck_assert_int_eq(ds_base_chosen(r), 0);
    add_on(r, "follows", 0);
    fx_scan(r, "one");
    add_on(r, "stays", 1);
    fx_scan(r, "two");
    MUST(ds_reconcile(r, &made, err)); /* two trainings wait */
    MUST(ds_base_choose(r, xl, err));
    ck_assert_int_eq(ds_base_chosen(r), 1);
    ck_assert_int_eq(fx_count(r, "base.default"), 1);
    ck_assert_int_eq(fx_count(r, "job.cancelled"), 1); /* follows, on the old default */
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 1);
    MUST(ds_base_get(r, 0, &b, err));
    MUST(ds_base_usage(r, b, err));
    ck_assert_str_eq(fx_string(b, "name"), "xl");
    ck_assert_int_eq(fx_int(b, "datasets"), 1);
    json_decref(b);
    /* and back: what was superseded does not stand in the way */
    MUST(ds_base_choose(r, 1, err));
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 1);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(removal) {
    ds_registry *r = fx_open(fx_dir("removal"));
    int64_t xl, id;
    json_t *b = NULL;
    ds_job j;
    MUST(ds_base_put(r, "xl", "/xl", XL_SHA, NULL, 0, &xl, err));
    FAILS(DS_ECONFLICT, "it is the default", ds_base_remove(r, 1, NULL, err));
    add_on(r, "d", xl);
    FAILS(DS_ECONFLICT, "datasets are trained on it", ds_base_remove(r, xl, NULL, err));
    fx_scan(r, "one");
    j = fx_claim(r, DS_JOB_TRAIN);
    MUST(ds_dataset_remove(r, "d", err));
    FAILS(DS_ECONFLICT, "jobs work with it", ds_base_remove(r, xl, NULL, err));
    publish_on(r, &j, XL_SHA, "one");
    FAILS(DS_ECONFLICT, "adapters were made for it", ds_base_remove(r, xl, NULL, err));
    FAILS(DS_ECONFLICT, "d@v1", ds_base_remove(r, xl, NULL, err));
    ck_assert_int_eq(fx_foreign(r, "UPDATE adapter_versions SET deleted_at = 1"), SQLITE_OK);
    ck_assert_int_eq(fx_foreign(r, "DELETE FROM aliases"), SQLITE_OK);
    json_t *payload = json_pack("{ss}", "base", XL_SHA);
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "", payload, 1, &id, err));
    json_decref(payload);
    FAILS(DS_ECONFLICT, "jobs work with it", ds_base_remove(r, xl, NULL, err));
    int running;
    MUST(ds_job_cancel(r, id, &running, err));
    MUST(ds_base_remove(r, xl, &b, err));
    ck_assert_str_eq(fx_string(b, "path"), "/xl");
    json_decref(b);
    ck_assert_int_eq(fx_count(r, "base.removed"), 1);
    FAILS(DS_ENOTFOUND, "does not exist", ds_base_resolve(r, "xl", &id, err));
    FAILS(DS_ENOTFOUND, "does not exist", ds_base_activate(r, xl, err));
    MUST(ds_base_list(r, (ds_page){0}, &b, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(b, "items")), 1);
    json_decref(b);
    ck_assert_int_eq(ds_model_file_known(r, "/xl"), 0);
    MUST(ds_base_put(r, "xl", "/xl", XL_SHA, NULL, 0, &id, err)); /* brought back */
    ck_assert_int_eq(id, xl);
    ck_assert_int_eq(fx_foreign(r, "DELETE FROM bases WHERE name = 'xl'"), SQLITE_CONSTRAINT);
    ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET sha256 = '" VAE_SHA "' WHERE name = 'xl'"),
                     SQLITE_CONSTRAINT);
    ds_registry_close(r);
}
END_TEST

/* A verification of d@v1 with one task as given. */
static void verify(ds_registry *r, const char *task) {
    int64_t id;
    json_t *o =
        fx_json("{\"gate\":{\"verdict\":\"passed\",\"reason\":\"\",\"tasks\":[{\"name\":\"d\","
                "\"ref\":\"d@v1\",\"verdict\":\"passed\",%s}]}}",
                task);
    MUST(ds_job_add(r, DS_JOB_VERIFY, "", NULL, 1, &id, err));
    MUST(ds_job_claim(r, id, err));
    MUST(fx_verify_finish(r, id, o, err));
    json_decref(o);
}

START_TEST(probes_of_other_devices) {
    ds_registry *r = fx_open(fx_dir("probes"));
    json_t *list = NULL;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
#define PROBES "SELECT count(*) FROM probes"
    ck_assert_int_eq(number(r->db, PROBES), 1);
    verify(r, "\"level\":1,\"unchanged\":true,\"probe_now\":\"" XL_SHA "\",\"probe_class\":"
              "\"gpu\",\"probe_n\":4,\"probe_seed\":11");
    verify(r, "\"level\":2,\"unchanged\":false");
    verify(r, "\"level\":2,\"unchanged\":false,\"probe_now\":\"short\",\"probe_class\":\"gpu\"");
    ck_assert_int_eq(number(r->db, PROBES), 1);
    /* a pass of level 2 elsewhere is remembered; what is recorded stays */
    verify(r, "\"level\":2,\"unchanged\":false,\"probe_now\":\"" XL_SHA "\",\"probe_class\":"
              "\"gpu\",\"probe_n\":4,\"probe_seed\":11");
    ck_assert_int_eq(number(r->db, PROBES), 2);
    verify(r, "\"level\":2,\"unchanged\":false,\"probe_now\":\"" VAE_SHA "\",\"probe_class\":"
              "\"gpu\",\"probe_n\":4,\"probe_seed\":11");
    ck_assert_int_eq(number(r->db, PROBES " WHERE sha256 = '" XL_SHA "' AND n = 4 AND seed = 11"
                                          " AND device_class = 'gpu'"),
                     1);
    ck_assert_int_eq(number(r->db, PROBES), 2);
    MUST(ds_old_tasks(r, 1, NULL, NULL, &list, err));
    json_t *task = json_array_get(list, 0);
    ck_assert_int_eq((int)json_array_size(json_object_get(task, "probes")), 2);
    ck_assert_str_eq(fx_string(json_object_get(task, "probe"), "device_class"), "cpu-test");
    ck_assert(json_object_get(task, "id") == NULL); /* not for the worker */
    json_decref(list);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(jobs_that_only_wait) {
    ds_registry *r = fx_open(fx_dir("waiting"));
    json_t *list = NULL;
    ds_job_failure f = {
        .exit_code = 75, .exit_signal = -1, .code = "DS_ENOSPC", .message = "no space left"};
    fx_add(r, "d", "/a");
    MUST(ds_reconcile(r, NULL, err));
    for (int i = 1; i <= 12; i++) {
        ds_job j;
        MUST(ds_job_next(r, DS_KINDS_ALL, INT64_MAX, &j, NULL, err));
        MUST(ds_job_claim(r, j.id, err));
        MUST(ds_job_postpone(r, j.id, 1000, &f, err));
        MUST(ds_jobs_waiting(r, &list, err));
        ck_assert_int_eq((int)json_array_size(list), i >= DS_JOB_WAITS_LONG);
        if (i == 12) {
            json_t *w = json_array_get(list, 0);
            ck_assert_int_eq(fx_int(w, "postponed"), 12);
            ck_assert_str_eq(fx_string(json_object_get(w, "error"), "message"), "no space left");
        }
        json_decref(list);
        ck_assert_int_eq(fx_count(r, "job.waiting"), i >= DS_JOB_WAITS_LONG); /* said once */
    }
    MUST(ds_registry_counts(r, &list, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(list, "waiting")), 1);
    json_decref(list);
    /* a failure of its own begins the count anew */
    ds_job j;
    MUST(ds_job_next(r, DS_KINDS_ALL, INT64_MAX, &j, NULL, err));
    MUST(ds_job_claim(r, j.id, err));
    f.retry = 1;
    MUST(ds_job_fail(r, j.id, &f, NULL, err));
    MUST(ds_jobs_waiting(r, &list, err));
    ck_assert_int_eq((int)json_array_size(list), 0);
    json_decref(list);
    ds_registry_close(r);
}
END_TEST

static int has(const json_t *o, const char *set, const char *key) {
    return json_object_get(json_object_get(o, set), key) != NULL;
}

START_TEST(what_is_still_referred_to) {
    ds_registry *r = fx_open(fx_dir("facts"));
    json_t *o = NULL, *d = NULL;
    char first[DS_HEX_SIZE], second[DS_HEX_SIZE];
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    MUST(ds_dataset_manifest(r, "d", 0, first, err));
    ds_job j = fx_claim(r, DS_JOB_TRAIN); /* works on the first content */
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "two");
    MUST(ds_dataset_manifest(r, "d", 0, second, err));
    MUST(ds_cleanup_facts(r, &o, err));
    ck_assert(has(o, "manifests", first) && has(o, "manifests", second));
    ck_assert(has(o, "bases", BASE_SHA) && has(o, "datasets", "1"));
    json_decref(o);
    MUST(fx_publish(r, &j, 1, "one", NULL, err));
    MUST(ds_cleanup_facts(r, &o, err));
    ck_assert(!has(o, "manifests", first) && has(o, "manifests", second));
    ck_assert(json_is_false(json_object_get(o, "importing")));
    json_decref(o);
    int64_t id;
    MUST(ds_job_add(r, DS_JOB_IMPORT, "x", NULL, 1, &id, err));
    MUST(ds_dataset_remove(r, "d", err));
    MUST(ds_cleanup_facts(r, &o, err));
    ck_assert(!has(o, "manifests", second) && !has(o, "datasets", "1"));
    ck_assert(json_is_true(json_object_get(o, "importing")));
    json_decref(o);
    json_decref(d);
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, rebuilt_jobs_lose_nothing);
    tcase_add_test(tc, broken_references_stop_the_upgrade);
    tcase_add_test(tc, imports);
    tcase_add_test(tc, a_vae_that_comes_later);
    tcase_add_test(tc, reports_are_kept);
    tcase_add_test(tc, references_to_bases);
    tcase_add_test(tc, a_dataset_on_several_bases);
    tcase_add_test(tc, choosing_the_default);
    tcase_add_test(tc, removal);
    tcase_add_test(tc, probes_of_other_devices);
    tcase_add_test(tc, jobs_that_only_wait);
    tcase_add_test(tc, what_is_still_referred_to);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_bases", cases);
}
