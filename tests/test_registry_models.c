/* tests/test_registry_models.c - what names a base or a network, and what is told of one. */
#include "registry/feature_nets.h"
#include "registry/migrate.h"
#include "tests/registry_fixture.h"

#define A_SHA "aaaaaaaa11111111111111111111111111111111111111111111111111111111"
#define B_SHA "aaaaaaaa22222222222222222222222222222222222222222222222222222222"
#define FID_SHA "dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44dd44"

START_TEST(references_to_bases) {
    ds_registry *r = fx_open(fx_dir("refs"));
    int64_t one, two, id = 0;
    MUST(ds_base_put(r, "one", "/1", A_SHA, NULL, 0, &one, err));
    MUST(ds_base_put(r, "two", "/2", B_SHA, NULL, 0, &two, err));
    static const char *const first[] = {"one", "ONE", "sha256:aaaaaaaa1", "sha256:" A_SHA, A_SHA};
    for (int i = 0; i < 5; i++) {
        MUST(ds_base_resolve(r, first[i], &id, err));
        ck_assert_msg(id == one, "%s", first[i]);
    }
    FAILS(DS_EINVAL, "give more digits", ds_base_resolve(r, "sha256:aaaaaaaa", &id, err));
    FAILS(DS_EINVAL, "8 to 64", ds_base_resolve(r, "sha256:aaaaaaa", &id, err));
    FAILS(DS_EINVAL, "8 to 64", ds_base_resolve(r, "sha256:AAAAAAAA1", &id, err));
    FAILS(DS_ENOTFOUND, "'three' does not exist", ds_base_resolve(r, "three", &id, err));
    FAILS(DS_ENOTFOUND, "does not exist", ds_base_resolve(r, "sha256:bbbbbbbb", &id, err));
    MUST(ds_base_resolve(r, NULL, &id, err));
    ck_assert_int_eq(id, 1);
    MUST(ds_base_resolve(r, "default", &id, err));
    ck_assert_int_eq(id, 1);
    ck_assert_int_eq(fx_foreign(r, "DELETE FROM meta WHERE key = 'active_base'"), SQLITE_OK);
    FAILS(DS_ENOTFOUND, "no default base yet", ds_base_resolve(r, NULL, &id, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(names_that_are_taken_or_cannot_be) {
    ds_registry *r = fx_open(fx_dir("names"));
    int64_t id;
    MUST(ds_base_put(r, "one", "/1", A_SHA, NULL, 0, &id, err));
    static const char *const never[] = {"default", "DEFAULT", "bundled", "Bundled", A_SHA};
    for (int i = 0; i < 5; i++) {
        FAILS(DS_EINVAL, "can be called", ds_base_name_free(r, never[i], B_SHA, err));
        FAILS(DS_EINVAL, "can be called", ds_feature_net_name_free(r, never[i], B_SHA, err));
    }
    FAILS(DS_ECONFLICT, "is already sha256:" A_SHA, ds_base_name_free(r, "One", B_SHA, err));
    MUST(ds_base_name_free(r, "one", A_SHA, err)); /* the same */
    MUST(ds_base_name_free(r, "other", B_SHA, err));
    MUST(ds_feature_net_name_free(r, "one", B_SHA, err));
    FAILS(DS_ECONFLICT, "is already", ds_feature_net_name_free(r, "inception", B_SHA, err));
    FAILS(DS_EINVAL, "a b", ds_base_name_free(r, "a b", B_SHA, err));
    ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET removed_at = 1 WHERE name = 'one'"),
                     SQLITE_OK);
    MUST(ds_base_name_free(r, "one", B_SHA, err)); /* it is free again */
    ds_registry_close(r);
}
END_TEST

START_TEST(what_is_told_of_a_base) {
    ds_registry *r = fx_open(fx_dir("told"));
    int64_t id;
    json_t *o = NULL;
    MUST(ds_base_put(r, "one", "/1", A_SHA, NULL, 0, &id, err));
    MUST(ds_base_get(r, id, &o, err));
    ck_assert_str_eq(fx_string(o, "name"), "one");
    ck_assert_str_eq(fx_string(o, "path"), "/1");
    ck_assert_str_eq(fx_string(o, "sha256"), A_SHA);
    ck_assert_int_eq((int)strlen(fx_string(o, "created_at")), 24);
    ck_assert_int_eq((int)json_array_size(json_object_get(o, "missing")), 0);
    json_decref(o);
    FAILS(DS_ENOTFOUND, "99", ds_base_get(r, 99, &o, err));
    ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET config = '{\"pixel\":0}' WHERE name = 'one'"),
                     SQLITE_OK);
    MUST(ds_base_get(r, id, &o, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(o, "missing")), 1); /* its VAE */
    ck_assert(json_is_true(json_object_get(o, "latent")));
    json_decref(o);
    ck_assert_int_eq(fx_foreign(r, "UPDATE bases SET vae_path = '/v', vae_sha256 = '" B_SHA
                                   "' WHERE name = 'one'"),
                     SQLITE_OK);
    MUST(ds_base_get(r, id, &o, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(o, "missing")), 0);
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

static int import(ds_registry *r, const char *result, const char *name, ds_error *e) {
    json_t *spec = fx_json("{\"what\":\"base\",\"name\":\"%s\",\"source\":\"/src/x.pt\"}", name),
           *doc = fx_json("%s", result);
    int64_t id;
    MUST(ds_job_add(r, DS_JOB_IMPORT, "x", spec, 3, &id, err));
    MUST(ds_job_claim(r, id, err));
    ds_import i = {.job = id, .spec = spec, .result = doc, .path = "/bases/x"};
    int rc = ds_import_finish(r, &i, e);
    if (rc)
        ck_assert_int_eq(fx_foreign(r, "UPDATE jobs SET state = 'failed', finished_at = 1 WHERE"
                                       " state = 'running'"),
                         SQLITE_OK);
    json_decref(spec);
    json_decref(doc);
    return rc;
}

START_TEST(results_of_imports) {
    ds_registry *r = fx_open(fx_dir("imports"));
    static const char good[] =
        "{\"what\":\"base\",\"name\":\"mine\",\"sha256\":\"" A_SHA "\",\"config\":{\"side\":32},"
        "\"license\":\"mit\",\"parameters\":77,\"bytes\":99,\"source_format\":\"zip\"}";
    FAILS(
        DS_EINVAL, "it is about 'feature_net', the job about 'base'",
        import(r, "{\"what\":\"feature_net\",\"name\":\"n\",\"sha256\":\"" A_SHA "\"}", "n", err));
    FAILS(DS_EINVAL, "it is about 'vae'",
          import(r, "{\"what\":\"vae\",\"name\":\"n\",\"sha256\":\"" A_SHA "\"}", "n", err));
    FAILS(DS_EINVAL, "'config' is missing",
          import(r, "{\"what\":\"base\",\"name\":\"n\",\"sha256\":\"" A_SHA "\"}", "n", err));
    FAILS(DS_EINVAL, "sha256",
          import(r, "{\"what\":\"base\",\"name\":\"n\",\"config\":{}}", "n", err));
    FAILS(DS_EINVAL, "name", import(r, "{\"what\":\"base\",\"sha256\":\"" A_SHA "\"}", "n", err));
    MUST(import(r, good, "MINE", err));
    int64_t id;
    json_t *o = NULL;
    MUST(ds_base_resolve(r, "mine", &id, err));
    MUST(ds_base_get(r, id, &o, err));
    ck_assert_str_eq(fx_string(o, "name"), "MINE"); /* as the person wrote it */
    ck_assert_str_eq(fx_string(o, "license"), "mit");
    ck_assert_str_eq(fx_string(o, "source"), "/src/x.pt");
    ck_assert(fx_int(o, "parameters") == 77 && fx_int(o, "bytes") == 99);
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

START_TEST(networks_that_are_gone) {
    ds_registry *r = fx_open(fx_dir("gone"));
    ds_feature_choice c;
    int64_t id;
    json_t *o = NULL;
    ds_model_facts f = {.name = "fid", .path = "/fid", .sha256 = FID_SHA, .kind = "inception-fid"};
    MUST(ds_feature_net_register(r, &f, &id, err));
    MUST(ds_feature_choice_resolve(r, "fid", &c, err));
    ck_assert_int_eq(fx_foreign(r, "UPDATE feature_nets SET removed_at = 1 WHERE name = 'fid'"),
                     SQLITE_OK);
    FAILS(DS_ENOTFOUND, "fid", ds_feature_choice_resolve(r, "fid", &c, err));
    FAILS(DS_ENOTFOUND, "was removed", ds_feature_choice_resolve(r, "sha256:dd44dd44", &c, err));
    MUST(ds_feature_net_of_base(r, 0, &o, err));
    ck_assert_str_eq(fx_string(o, "mode"), "bundled");
    ck_assert_str_eq(fx_string(o, "name"), "inception");
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

START_TEST(cursors_and_counts) {
    ds_registry *r = fx_open(fx_dir("cursors"));
    static const char *const bad[] = {"0", "-1", "x", "1x", "99999999999999999999"};
    json_t *o = NULL;
    for (int i = 0; i < 5; i++)
        FAILS(DS_EINVAL, "cursor", ds_base_list(r, (ds_page){.cursor = bad[i]}, &o, err));
    fx_add(r, "one", "/1");
    fx_add(r, "two", "/2");
    MUST(ds_dataset_list(r, (ds_page){.limit = 1}, 0, &o, err));
    ck_assert_int_eq((int)json_array_size(json_object_get(o, "items")), 1);
    char next[40];
    snprintf(next, sizeof next, "%s", fx_string(o, "next"));
    json_decref(o);
    MUST(ds_dataset_list(r, (ds_page){.limit = 1, .cursor = next}, 0, &o, err));
    ck_assert_str_eq(fx_string(json_array_get(json_object_get(o, "items"), 0), "name"), "two");
    json_decref(o);
    MUST(ds_registry_counts(r, &o, err));
    ck_assert_str_eq(fx_string(json_object_get(o, "default_feature_net"), "name"), "inception");
    ck_assert_str_eq(fx_string(json_object_get(o, "base"), "name"), "emoji-dit");
    ck_assert_int_eq(fx_int(o, "datasets"), 2);
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

/* The journal of migrations names the text of each; a number that cannot be is damage. */
START_TEST(schema_numbers) {
    char dir[PATH_MAX], path[PATH_MAX], sha[DS_HEX_SIZE];
    snprintf(dir, sizeof dir, "%s", fx_dir("numbers"));
    ds_registry *r = fx_open(dir);
    sqlite3 *db;
    sqlite3_stmt *q;
    ds_fs_join(path, sizeof path, dir, "registry.db");
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(
        sqlite3_prepare_v2(db, "SELECT version, sha256 FROM migrations ORDER BY 1", -1, &q, NULL),
        SQLITE_OK);
    for (int i = 0; i < ds_migration_count; i++) {
        ck_assert_int_eq(sqlite3_step(q), SQLITE_ROW);
        ds_digest(ds_migrations[i].sql, strlen(ds_migrations[i].sql), sha);
        ck_assert_str_eq((const char *)sqlite3_column_text(q, 1), sha);
    }
    sqlite3_finalize(q);
    ds_registry_close(r);
    static const char *const wrong[] = {"PRAGMA user_version = -1", "PRAGMA user_version = 0"};
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(sqlite3_exec(db, wrong[i], NULL, NULL, NULL), SQLITE_OK);
        FAILS(DS_EINTEGRITY, "schema", ds_registry_open(dir, &r, err));
    }
    sqlite3_close(db);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, references_to_bases);
    tcase_add_test(tc, names_that_are_taken_or_cannot_be);
    tcase_add_test(tc, what_is_told_of_a_base);
    tcase_add_test(tc, results_of_imports);
    tcase_add_test(tc, networks_that_are_gone);
    tcase_add_test(tc, cursors_and_counts);
    tcase_add_test(tc, schema_numbers);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_models", cases);
}
