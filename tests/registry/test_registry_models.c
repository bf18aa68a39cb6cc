/* tests/registry/test_registry_models.c - what names a base or a network, and what is told of one. */
#include "registry/core/db.h"
#include "registry/rows/feature_nets.h"
#include "registry/core/migrate.h"
#include "tests/fixtures/registry_fixture.h"

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
    ck_assert(json_is_null(json_object_get(o, "feature_net")));
    json_decref(o);
    MUST(ds_base_get(r, 1, &o, err));
    const json_t *net = json_object_get(o, "feature_net");
    ck_assert_str_eq(fx_string(net, "name"), "inception");
    ck_assert_str_eq(fx_string(net, "path"), "/nets/inception");
    ck_assert_str_eq(fx_string(net, "sha256"), NET_SHA);
    ck_assert(fx_int(net, "id") == 1 && fx_int(o, "id") == 1);
    ck_assert(json_is_true(json_object_get(o, "default")) &&
              json_is_false(json_object_get(o, "removed")));
    json_decref(o);
    FAILS(DS_ECONFLICT, "base 'emoji-dit' is in use: it is the default base; choose another one",
          ds_base_remove(r, 1, NULL, err));
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

/* A default without a mode, as an earlier program left it, is measured in the usual mode. */
START_TEST(choices_and_defaults) {
    ds_registry *r = fx_open(fx_dir("choices"));
    ds_feature_choice c = {.follow = 1};
    int64_t id;
    json_t *o = NULL;
    ds_model_facts f = {.name = "fid", .path = "/fid", .sha256 = FID_SHA, .kind = "inception-fid"};
    MUST(ds_feature_net_register(r, &f, &id, err));
    FAILS(DS_EINVAL, "which network? give its name", ds_feature_net_choose(r, &c, err));
    ck_assert_int_eq(fx_count(r, "feature_net.default"), 0);
    c = (ds_feature_choice){.id = 99, .mode = "clean"};
    FAILS(DS_ENOTFOUND, "feature network 99 does not exist", ds_feature_net_choose(r, &c, err));
    MUST(ds_feature_net_default(r, &o, err)); /* nothing of it is left */
    ck_assert_str_eq(fx_string(o, "name"), "inception");
    ck_assert(json_is_true(json_object_get(o, "bundled")));
    json_decref(o);
    char sql[120];
    snprintf(sql, sizeof sql, "INSERT INTO meta(key, value) VALUES ('default_feature_net', '%lld')",
             (long long)id);
    ck_assert_int_eq(fx_foreign(r, sql), SQLITE_OK);
    MUST(ds_feature_net_default(r, &o, err));
    ck_assert_str_eq(fx_string(o, "name"), "fid");
    ck_assert_str_eq(fx_string(o, "mode"), "pytorch-fid");
    ck_assert(json_is_false(json_object_get(o, "bundled")));
    json_decref(o);
    FAILS(DS_ENOTFOUND, "job 99 does not exist", ds_feature_net_of_job(r, 99, &o, err));
    FAILS(DS_ENOTFOUND, "does not exist", ds_feature_net_get(r, "none", &o, err));
    FAILS(DS_ENOTFOUND, "base 99 does not exist", ds_base_activate(r, 99, err));
    FAILS(DS_ENOTFOUND, "base 99 does not exist", ds_base_choose(r, 99, err));
    ck_assert(!ds_base_chosen(r) && fx_count(r, "base.default") == 0);
    MUST(ds_base_resolve(r, NULL, &id, err));
    ck_assert_int_eq(id, 1);
    char words[300];
    memset(words, 'x', sizeof words);
    words[200] = 0;
    FAILS(DS_EINVAL, "is too long a name", ds_feature_choice_resolve(r, words, &c, err));
    words[199] = 0;
    ds_error e;
    ck_assert(ds_feature_choice_resolve(r, words, &c, &e) && !strstr(e.message, "too long a name"));
    /* without any network */
    ck_assert_int_eq(
        fx_foreign(r, "DELETE FROM meta WHERE key = 'default_feature_net'; UPDATE bases SET"
                      " feature_net_id = NULL"),
        SQLITE_OK);
    FAILS(DS_ENOTFOUND, "there is no feature network: start the daemon with --feature-net",
          ds_feature_net_default(r, &o, err));
    MUST(ds_feature_net_of_base(r, 1, &o, err));
    ck_assert(json_is_null(o));
    json_decref(o);
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    ds_job j = fx_claim(r, DS_JOB_TRAIN);
    FAILS(DS_ENOTFOUND, "there is no feature network", ds_feature_net_of_job(r, j.id, &o, err));
    ck_assert_int_eq(fx_foreign(r, "DELETE FROM meta WHERE key = 'active_base'"), SQLITE_OK);
    FAILS(DS_ENOTFOUND, "no base is active; register one first", ds_base_get(r, 0, &o, err));
    ds_registry_close(r);
}
END_TEST

/* What is named in a refusal: some, and that there are more. */
START_TEST(many_that_need_it) {
    ds_registry *r = fx_open(fx_dir("many"));
    ds_model_facts f = {.name = "fid", .path = "/fid", .sha256 = FID_SHA, .kind = "inception-fid"};
    int64_t id, seq;
    int created;
    ds_feature_choice c;
    MUST(ds_feature_net_register(r, &f, &id, err));
    MUST(ds_feature_choice_resolve(r, "fid", &c, err));
    for (int i = 1; i <= 6; i++) {
        char name[8];
        snprintf(name, sizeof name, "d%d", i);
        ds_dataset_new d = {.name = name, .path = "/a", .watch = -1, .net = &c};
        MUST(ds_dataset_add(r, &d, &id, &created, &seq, err));
        if (i == 5)
            FAILS(DS_ECONFLICT, "or remove-dataset): d1, d2, d3, d4, d5",
                  ds_feature_net_remove(r, "fid", NULL, err));
    }
    ds_error e;
    ck_assert_int_eq(ds_feature_net_remove(r, "fid", NULL, &e), DS_ECONFLICT);
    ck_assert_ptr_nonnull(strstr(e.message, "in use: 6 datasets are measured"));
    ck_assert_str_eq(strstr(e.message, "): "), "): d1, d2, d3, d4, d5, ...");
    ds_registry_close(r);
}
END_TEST

/* Results that do not belong to the job, or cannot be taken. */
START_TEST(imports_that_are_none) {
    ds_registry *r = fx_open(fx_dir("none"));
    int64_t id;
    json_t *spec = fx_json("{\"what\":\"base\",\"name\":\"asked\",\"source\":\"/s\"}"),
           *result = fx_json("{\"what\":\"base\",\"name\":\"found\",\"sha256\":\"" A_SHA
                             "\",\"config\":{\"pixel\":0},\"vae\":{\"sha256\":\"short\"}}");
    MUST(ds_job_add(r, DS_JOB_SAMPLE, "", NULL, 1, &id, err));
    MUST(ds_job_claim(r, id, err));
    ds_import i = {.job = id, .spec = spec, .result = result, .path = "/f"};
    FAILS(DS_EINVAL, "is not an import", ds_import_finish(r, &i, err));
    MUST(ds_job_add(r, DS_JOB_IMPORT, "x", spec, 3, &id, err));
    i.job = id;
    FAILS(DS_ECONFLICT, "not running", ds_import_finish(r, &i, err));
    MUST(ds_job_claim(r, id, err));
    i.vae_path = "/v";
    FAILS(DS_EINVAL, "VAE: 'short' is not a sha256 digest", ds_import_finish(r, &i, err));
    FAILS(DS_ENOTFOUND, "does not exist", ds_base_resolve(r, "found", &id, err));
    ck_assert_int_eq(fx_count(r, "base.added"), 1); /* the fixture's */
    i.vae_path = NULL;
    MUST(ds_import_finish(r, &i, err));
    MUST(ds_base_resolve(r, "found", &id,
                         err)); /* its own name, as it is another one than asked for */
    json_t *o = NULL;
    MUST(ds_base_get(r, id, &o, err));
    ck_assert(json_is_null(json_object_get(o, "vae")) &&
              json_is_null(json_object_get(o, "license")));
    ck_assert(json_is_null(json_object_get(o, "parameters")) &&
              json_is_null(json_object_get(o, "source_format")));
    ck_assert_str_eq(fx_string(o, "path"), "/f");
    json_decref(o);
    FAILS(DS_EINVAL, "base: 'x' is not a sha256 digest",
          ds_base_put(r, "y", "/y", "x", NULL, 0, &id, err));
    FAILS(DS_EINVAL, "feature network: '' is not a sha256",
          ds_feature_net_put(r, "y", "/y", NULL, &id, err));
    json_decref(spec);
    json_decref(result);
    ds_registry_close(r);
}
END_TEST

/* Lists in pages: newest first, the cursor ends with the last one. */
START_TEST(pages) {
    ds_registry *r = fx_open(fx_dir("pages"));
    int64_t id;
    MUST(ds_base_put(r, "two", "/2", A_SHA, NULL, 0, &id, err));
    MUST(ds_base_put(r, "three", "/3", B_SHA, NULL, 0, &id, err));
    static const char *const names[] = {"three", "two", "emoji-dit"};
    for (int limit = -1; limit <= 4; limit++) {
        int seen = 0, calls = 0, most = limit < 1 ? 3 : limit;
        char cursor[32] = "";
        do {
            json_t *o = NULL;
            MUST(ds_base_list(r, (ds_page){.limit = limit, .cursor = cursor}, &o, err));
            size_t n = json_array_size(json_object_get(o, "items"));
            ck_assert_int_eq((int)n, 3 - seen < most ? 3 - seen : most);
            for (size_t i = 0; i < n; i++)
                ck_assert_str_eq(fx_string(json_array_get(json_object_get(o, "items"), i), "name"),
                                 names[seen++]);
            ck_assert_int_eq(json_is_null(json_object_get(o, "next")), seen == 3);
            snprintf(cursor, sizeof cursor, "%s", fx_string(o, "next") ? fx_string(o, "next") : "");
            json_decref(o);
            calls++;
        } while (*cursor);
        ck_assert_int_eq(calls, (3 + most - 1) / most);
    }
    ck_assert_int_eq(page_limit((ds_page){0}), DS_LIST_DEFAULT);
    ck_assert_int_eq(page_limit((ds_page){.limit = -5}), DS_LIST_DEFAULT);
    ck_assert_int_eq(page_limit((ds_page){.limit = DS_LIST_MAX}), DS_LIST_MAX);
    ck_assert_int_eq(page_limit((ds_page){.limit = DS_LIST_MAX + 1}), DS_LIST_MAX);
    int64_t at;
    MUST(page_cursor((ds_page){.cursor = "999999999999999999"}, &at, err)); /* 18 digits */
    ck_assert(at == 999999999999999999);
    FAILS(DS_EINVAL, "cursor", page_cursor((ds_page){.cursor = "1000000000000000000"}, &at, err));
    MUST(page_cursor((ds_page){.cursor = ""}, &at, err));
    ck_assert(at == INT64_MAX);
    ds_registry_close(r);
}
END_TEST

/* What a killed process left is gone after an opening, and nothing else. */
START_TEST(leftovers_and_identity) {
    static const char *const files[] = {"registry.db.tmp", "backups/x.db.tmp", "notes.tmp.txt",
                                        "backups/y.db", ".tmp"};
    char dir[PATH_MAX], path[PATH_MAX], one[64], two[64];
    snprintf(dir, sizeof dir, "%s", fx_dir("left"));
    ds_registry *r = fx_open(dir);
    ds_registry_instance(r, one, sizeof one);
    ck_assert(strlen(one) == 32 && strspn(one, "0123456789abcdef") == 32);
    ck_assert_str_eq(strrchr(ds_registry_dir(r), '/'), strrchr(dir, '/'));
    ds_registry_close(r);
    ds_fs_join(path, sizeof path, dir, "backups");
    MUST(ds_fs_mkdirs(path, err));
    for (int i = 0; i < 5; i++) {
        ds_fs_join(path, sizeof path, dir, files[i]);
        FILE *f = fopen(path, "w");
        ck_assert(f && !fclose(f));
    }
    MUST(ds_registry_open(dir, &r, err));
    for (int i = 0; i < 5; i++) {
        ds_fs_join(path, sizeof path, dir, files[i]);
        ck_assert_msg(ds_fs_exists(path) == (i >= 2), "%s", files[i]);
    }
    ds_registry_instance(r, two, sizeof two);
    ck_assert_str_eq(one, two); /* the same for ever */
    ds_registry_close(r);
    r = fx_open(fx_dir("other"));
    ds_registry_instance(r, two, sizeof two);
    ck_assert_str_ne(one, two);
    FAILS(DS_EIO, "cannot back up the registry: '/nonexistent/x.db.tmp'",
          ds_registry_backup(r, "/nonexistent/x.db", err));
    ds_registry_close(r);
    ds_registry_close(NULL);
}
END_TEST

/* The lock of another program is seen, and leaves no trace here. */
START_TEST(a_lock_of_others) {
    ds_registry *r = fx_open(fx_dir("lock"));
    char path[PATH_MAX];
    sqlite3 *db;
    int64_t id;
    ds_fs_join(path, sizeof path, ds_registry_dir(r), "registry.db");
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(ds_registry_locked(r), 0);
    ck_assert_int_eq(ds_registry_lock_seen(r), 0);
    ck_assert_int_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    ds_registry_patience(r, 1);
    ck_assert_int_eq(ds_registry_locked(r), 1);
    ck_assert_int_eq(ds_registry_lock_seen(r), 0); /* a look is none */
    FAILS(DS_EBUSY, "another program holds the lock",
          ds_base_put(r, "x", "/x", A_SHA, NULL, 0, &id, err));
    ck_assert_int_eq(ds_registry_lock_seen(r), 1);
    ck_assert_int_eq(ds_registry_lock_seen(r), 0);
    ck_assert_int_eq(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    MUST(ds_base_put(r, "x", "/x", A_SHA, NULL, 0, &id, err));
    ck_assert_int_eq(ds_registry_locked(r), 0);
    sqlite3_close(db);
    ds_registry_close(r);
}
END_TEST

/* A part that failed is no part of what is kept, even where its caller went on. */
START_TEST(nested_transactions) {
    ds_registry *r = fx_open(fx_dir("nested"));
    int64_t id, n;
    MUST(db_begin(r, err));
    MUST(ds_base_put(r, "x", "/x", A_SHA, NULL, 0, &id, err));
    MUST(db_begin(r, err));
    ds_error e = {0};
    ck_assert_int_eq(db_end(r, DS_EINVAL, &e), DS_EINVAL);
    FAILS(DS_EFAILED, "a part of the transaction failed", db_end(r, 0, err));
    FAILS(DS_ENOTFOUND, "does not exist", ds_base_resolve(r, "x", &id, err));
    MUST(db_begin(r, err));
    MUST(db_begin(r, err));
    MUST(ds_base_put(r, "x", "/x", A_SHA, NULL, 0, &id, err));
    MUST(db_end(r, 0, err));
    MUST(db_end(r, 0, err));
    MUST(ds_base_resolve(r, "x", &id, err));
    ck_assert_int_eq(db_int(r, &n, NULL, "SELECT NULL", ""), DS_ENOTFOUND);
    ck_assert_int_eq(db_int(r, &n, NULL, "SELECT 1 WHERE 0", ""), DS_ENOTFOUND);
    ck_assert(!db_int(r, &n, NULL, "SELECT 7", "") && n == 7);
    FAILS(DS_ECONFLICT, "registry rule",
          db_run(r, err, "INSERT INTO meta(key, value) VALUES ('instance', '1')", ""));
    FAILS(DS_EFAILED, "prepare a statement", db_run(r, err, "SELECT nonsense FROM nowhere", ""));
    ds_registry_close(r);
}
END_TEST

/* An empty file with a number that cannot be is no fresh one. */
START_TEST(an_empty_file_with_a_number) {
    static const struct {
        const char *sql;
        int code;
        const char *says;
    } files[] = {{"PRAGMA user_version = -1", DS_EINTEGRITY, "has 0 tables but schema -1"},
                 {"PRAGMA user_version = 1", DS_EINTEGRITY, "has 0 tables but schema 1"},
                 {"CREATE TABLE x(a); PRAGMA application_id = 1146307410", DS_EINTEGRITY,
                  "has 1 tables but schema 0"}};
    for (int i = 0; i < 3; i++) {
        char dir[PATH_MAX], path[PATH_MAX];
        ds_registry *r;
        sqlite3 *db;
        snprintf(dir, sizeof dir, "%s", fx_dir("empty"));
        MUST(ds_fs_mkdirs(dir, err));
        ds_fs_join(path, sizeof path, dir, "registry.db");
        ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
        ck_assert_int_eq(sqlite3_exec(db, files[i].sql, NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
        FAILS(files[i].code, files[i].says, ds_registry_open(dir, &r, err));
    }
    ck_assert_int_eq(DS_APPLICATION_ID, 1146307410);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, choices_and_defaults);
    tcase_add_test(tc, many_that_need_it);
    tcase_add_test(tc, imports_that_are_none);
    tcase_add_test(tc, pages);
    tcase_add_test(tc, leftovers_and_identity);
    tcase_add_test(tc, a_lock_of_others);
    tcase_add_test(tc, nested_transactions);
    tcase_add_test(tc, an_empty_file_with_a_number);
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
