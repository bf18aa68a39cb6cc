/* tests/daemon/test_daemon_feature_nets.c - a feature network through the API: what specs name, the
 * default, datasets of their own, removal, names that are taken; gc off the loop. */
#include "tests/fixtures/daemon_rig.h"

#include <sys/time.h>

static rig r;
static char photos[400], more[400], source[400];

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "nets%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    rig_images(&r, "photos", 3, photos);
    rig_images(&r, "more", 4, more);
    snprintf(source, sizeof source, "%s/pt_inception.pth", r.dir);
    rig_write(source, "weights");
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

/* Imports the source as a network called `name` and waits for it. */
static void import_net(const char *name) {
    char body[1000], url[64];
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"name\":\"%s\"}", source, name);
    json_t *doc = rig_want(&r, 202, "POST", "/v1/feature_nets", body);
    snprintf(url, sizeof url, "/v1/jobs/%lld", (long long)ds_json_int(doc, "id", 0));
    json_decref(doc);
    for (int i = 0; i < 1000; i++, usleep(10000)) {
        json_t *job = rig_want(&r, 200, "GET", url, NULL);
        int done = !strcmp(ds_json_string(job, "state", ""), "done");
        json_decref(job);
        if (done)
            return;
    }
    rig_dump_log(&r);
    ck_abort_msg("the import is not done");
}

/* spec.json of the newest training. */
static json_t *train_spec(void) {
    char state[16], path[500];
    int64_t id = rig_job(&r, "train", NULL, state);
    json_t *spec = NULL;
    snprintf(path, sizeof path, "%s/jobs/%lld/spec.json", r.state, (long long)id);
    ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &spec, NULL), 0);
    return spec;
}

static void expect_net(const json_t *net, const char *name, const char *mode) {
    ck_assert_str_eq(ds_json_string(net, "name", "?"), name);
    ck_assert_str_eq(ds_json_string(net, "mode", "?"), mode);
    ck_assert(ds_digest_valid(ds_json_string(net, "sha256", "")));
    ck_assert(ds_json_string(net, "path", "")[0] == '/');
}

static void add_with(const char *path, const char *name, const char *net, int status) {
    char body[1000];
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"%s\",\"feature_net\":\"%s\"}", path,
             name, net);
    json_decref(rig_want(&r, status, "POST", "/v1/datasets", body));
}

START_TEST(specs_name_the_network) {
    rig_start(&r, NULL);
    import_net("fid");
    /* an import alone changes nothing */
    rig_add(&r, "photos", photos, 201);
    rig_wait_adapter(&r, "photos", 1, 10000);
    json_t *spec = train_spec(), *doc, *tasks;
    expect_net(json_object_get(spec, "feature_net"), "net", "bundled");
    json_decref(spec);
    doc = rig_want(&r, 200, "PUT", "/v1/default-feature-net",
                   "{\"feature_net\":\"fid:torch-fidelity\"}");
    expect_net(doc, "fid", "torch-fidelity");
    ck_assert(json_is_false(json_object_get(doc, "bundled")));
    json_decref(doc);
    /* remembered; the next training is measured with it, and the old task keeps its own */
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_start(&r, NULL);
    rig_add(&r, "more", more, 201);
    rig_wait_adapter(&r, "more", 1, 10000);
    spec = train_spec();
    expect_net(json_object_get(spec, "feature_net"), "fid", "torch-fidelity");
    tasks = json_object_get(spec, "old_tasks");
    ck_assert_int_eq((int)json_array_size(tasks), 1);
    ck_assert_str_eq(
        ds_json_string(json_object_get(json_array_get(tasks, 0), "feature_net"), "name", ""),
        "net");
    ck_assert(ds_json_string(json_object_get(json_array_get(tasks, 0), "feature_net"), "path",
                             NULL) != NULL);
    json_decref(spec);
    doc = rig_want(&r, 200, "GET", "/v1/status", NULL);
    ck_assert_str_eq(ds_json_string(json_object_get(doc, "default_feature_net"), "name", ""),
                     "fid");
    json_decref(doc);
    /* a dataset of its own; the adapters say what measured them */
    add_with(photos, "photos", "fid:clean", 200);
    rig_wait_adapter(&r, "photos", 2, 10000);
    spec = train_spec();
    expect_net(json_object_get(spec, "feature_net"), "fid", "clean");
    json_decref(spec);
    doc = rig_want(&r, 200, "GET", "/v1/adapters/photos@v2", NULL);
    ck_assert_str_eq(ds_json_string(json_object_get(doc, "feature_net"), "name", ""), "fid");
    json_decref(doc);
    doc = rig_want(&r, 200, "GET", "/v1/adapters/photos@v1", NULL);
    ck_assert_str_eq(ds_json_string(json_object_get(doc, "feature_net"), "name", ""), "net");
    json_decref(doc);
    int status;
    char *text = rig_text(&r, "GET", "/metrics", NULL, NULL, &status);
    ck_assert(strstr(text, "eval_fd{task=\"photos\",net=\"") != NULL);
    free(text);
}
END_TEST

START_TEST(choices_are_checked) {
    rig_start(&r, NULL);
    import_net("fid");
    rig_says(&r, 404, "PUT", "/v1/default-feature-net", "{\"feature_net\":\"none\"}",
             "list-feature-nets");
    rig_says(&r, 400, "PUT", "/v1/default-feature-net", "{\"feature_net\":\"fid:tf\"}",
             "there are");
    rig_says(&r, 400, "PUT", "/v1/default-feature-net", "{\"feature_net\":\"default\"}",
             "which network");
    rig_says(&r, 400, "PUT", "/v1/default-feature-net", "{}", "feature_net");
    rig_says(&r, 400, "PUT", "/v1/default-feature-net", "{\"base\":\"x\"}", "'base' is not known");
    add_with(photos, "photos", "none", 404);
    add_with(photos, "photos", "fid:x", 400);
    json_t *doc = rig_want(&r, 200, "GET", "/v1/datasets", NULL); /* nothing was added */
    ck_assert_int_eq((int)json_array_size(json_object_get(doc, "items")), 0);
    json_decref(doc);
    /* a name that is taken by another file is refused before the work; the same file is not */
    char body[1000], other[420];
    int64_t jobs = rig_job(&r, "import", NULL, (char[16]){0});
    snprintf(other, sizeof other, "%s.other", source);
    rig_write(other, "other weights");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"name\":\"FID\"}", other);
    rig_says(&r, 409, "POST", "/v1/feature_nets", body, "choose another --name");
    ck_assert_int_eq(rig_job(&r, "import", NULL, (char[16]){0}), jobs);
    import_net("fid");
}
END_TEST

START_TEST(removal) {
    rig_start(&r, NULL);
    import_net("fid");
    json_t *net = rig_want(&r, 200, "GET", "/v1/feature_nets/fid", NULL), *doc;
    const char *path = ds_json_string(net, "path", "/none");
    json_decref(rig_want(&r, 200, "PUT", "/v1/default-feature-net", "{\"feature_net\":\"fid\"}"));
    rig_says(&r, 409, "DELETE", "/v1/feature_nets/fid", NULL, "it is the default");
    json_decref(
        rig_want(&r, 200, "PUT", "/v1/default-feature-net", "{\"feature_net\":\"bundled\"}"));
    add_with(photos, "photos", "fid", 201);
    rig_wait_adapter(&r, "photos", 1, 10000);
    rig_says(&r, 409, "DELETE", "/v1/feature_nets/fid", NULL, "photos");
    json_decref(rig_want(&r, 200, "DELETE", "/v1/datasets/photos", NULL));
    rig_says(&r, 409, "DELETE", "/v1/feature_nets/fid", NULL, "photos@v1");
    rig_says(&r, 409, "DELETE", "/v1/feature_nets/net", NULL, "bases come with it: emoji");
    rig_says(&r, 404, "DELETE", "/v1/feature_nets/none", NULL, "does not exist");
    doc = rig_want(&r, 200, "POST", "/v1/gc", "{\"grace_seconds\":60}");
    ck_assert(json_is_null(json_object_get(doc, "error")));
    json_decref(doc);
    ck_assert(ds_fs_exists(path)); /* an adapter was measured with it */
    rig_sql(&r, "UPDATE adapter_versions SET deleted_at = 1");
    doc = rig_want(&r, 200, "DELETE", "/v1/feature_nets/fid", NULL);
    ck_assert(json_is_true(json_object_get(doc, "removed")));
    json_decref(doc);
    for (int i = 0; i < 500 && ds_fs_exists(path); i++)
        usleep(10000);
    ck_assert(!ds_fs_exists(path));
    ck_assert(ds_fs_exists(source));
    rig_says(&r, 404, "PUT", "/v1/default-feature-net", "{\"feature_net\":\"fid\"}",
             "add-feature-net");
    import_net("fid"); /* and back */
    ck_assert(ds_fs_exists(path));
    json_decref(net);
}
END_TEST

/* While gc removes many files the daemon goes on answering, and a second gc has to wait. */
START_TEST(gc_runs_beside_the_loop) {
    char path[500];
    struct timeval old[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000000}};
    rig_start(&r, NULL);
    for (int i = 0; i < 3000; i++) {
        snprintf(path, sizeof path, "%s/bases/orphan%d.safetensors", r.state, i);
        rig_write(path, "x");
        utimes(path, old);
    }
    pid_t pid = fork();
    if (!pid) {
        int status;
        json_t *doc = rig_call(&r, "POST", "/v1/gc", "{}", &status);
        int64_t n = ds_json_int(json_object_get(doc, "models"), "removed", 0);
        _exit(status == 200 && n == 3000 ? 0 : 1);
    }
    json_t *doc = rig_want(&r, 200, "GET", "/v1/status", NULL);
    json_decref(doc);
    int end;
    ck_assert(waitpid(pid, &end, 0) == pid && WIFEXITED(end));
    ck_assert_int_eq(WEXITSTATUS(end), 0);
    doc = rig_want(&r, 200, "POST", "/v1/gc", "{}"); /* the flags are given back */
    ck_assert_int_eq(ds_json_int(json_object_get(doc, "models"), "removed", -1), 0);
    json_decref(doc);
    import_net("fid");
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, specs_name_the_network);
    tcase_add_test(tc, choices_are_checked);
    tcase_add_test(tc, removal);
    tcase_add_test(tc, gc_runs_beside_the_loop);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_feature_nets", cases);
}
