/* tests/daemon/test_daemon_bases.c - bases and feature networks through the API: import, choice, refusal
 * of the wrong base, removal; gc; jobs that only wait. */
#include "tests/fixtures/daemon_rig.h"

#include <sqlite3.h>
#include <sys/time.h>

static rig r;
static char photos[400], source[400];

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "bases%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    rig_images(&r, "photos", 3, photos);
    snprintf(source, sizeof source, "%s/DiT-XL-2-256x256.pt", r.dir);
    rig_write(source, "weights");
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

/* Posts an import and waits for its end; the job. */
static json_t *import(const char *path, const char *more, const char *state) {
    char body[1000], url[64];
    snprintf(body, sizeof body, "{\"source\":\"%s\"%s}", source, more);
    json_t *doc = rig_want(&r, 202, "POST", path, body);
    snprintf(url, sizeof url, "/v1/jobs/%lld", (long long)ds_json_int(doc, "id", 0));
    for (int i = 0; i < 1000; i++, usleep(10000)) {
        json_t *job = rig_want(&r, 200, "GET", url, NULL);
        if (strcmp(ds_json_string(job, "state", ""), state) == 0) {
            json_object_set(job, "note", json_object_get(doc, "note"));
            json_decref(doc);
            return job;
        }
        json_decref(job);
    }
    rig_dump_log(&r);
    ck_abort_msg("import is not %s", state);
    return NULL;
}

/* How many jobs are to record a base's own samples, or do so. */
static int recording(void) {
    static const char *const states[] = {"queued", "running"};
    char url[64];
    int n = 0;
    for (int i = 0; i < 2; i++) {
        snprintf(url, sizeof url, "/v1/jobs?kind=verify&state=%s", states[i]);
        json_t *list = rig_want(&r, 200, "GET", url, NULL);
        n += (int)json_array_size(json_object_get(list, "items"));
        json_decref(list);
    }
    return n;
}

/* Imported, and recorded if that is wanted of it. */
static void imported(const char *path, const char *more) {
    json_decref(import(path, more, "done"));
    for (int i = 0; i < 500 && recording(); i++)
        usleep(10000);
    ck_assert_int_eq(recording(), 0);
}

/* A new base is recorded by a job of its own, once; one that lacks its VAE when that has come. */
START_TEST(recorded_after_import) {
    char more[600], path[64];
    rig_start(&r, NULL);
    rig_fake(&r, "import", "latent");
    imported("/v1/bases", "");
    json_t *b = rig_want(&r, 200, "GET", "/v1/bases/DiT-XL-2-256x256", NULL), *spec;
    ck_assert(json_is_null(json_object_get(b, "task")));
    json_decref(b);
    snprintf(more, sizeof more, ",\"vae\":\"%s\"", source);
    for (int k = 0; k < 2; k++)
        imported("/v1/bases", more);
    b = rig_want(&r, 200, "GET", "/v1/bases/DiT-XL-2-256x256", NULL);
    ck_assert_int_eq(ds_json_int(json_object_get(b, "task"), "classes", 0), 6);
    json_t *list = rig_want(&r, 200, "GET", "/v1/jobs?kind=verify", NULL);
    ck_assert_int_eq((int)json_array_size(json_object_get(list, "items")), 1);
    const json_t *job = json_array_get(json_object_get(list, "items"), 0);
    ck_assert_str_eq(ds_json_string(job, "base", ""), "DiT-XL-2-256x256");
    snprintf(path, sizeof path, "/v1/jobs/%lld/files/spec.json",
             (long long)ds_json_int(job, "id", 0));
    spec = rig_want(&r, 200, "GET", path, NULL);
    ck_assert(json_is_null(json_object_get(spec, "base_task")));
    ck_assert_int_eq((int)json_array_size(json_object_get(spec, "old_tasks")), 0);
    ck_assert_str_eq(ds_json_string(json_object_get(spec, "base"), "sha256", ""),
                     ds_json_string(b, "sha256", "?"));
    json_decref(spec);
    json_decref(list);
    json_decref(b);
}
END_TEST

START_TEST(from_file_to_base) {
    rig_start(&r, NULL);
    json_t *job = import("/v1/bases", "", "done"), *b;
    ck_assert_str_eq(ds_json_string(job, "name", ""), "DiT-XL-2-256x256");
    ck_assert(strstr(ds_json_string(job, "note", ""), "non-commercial") != NULL);
    json_decref(job);
    b = rig_want(&r, 200, "GET", "/v1/bases/DiT-XL-2-256x256", NULL);
    const char *file = ds_json_string(b, "path", "");
    char have[DS_HEX_SIZE];
    ck_assert_int_eq(strncmp(file, r.state, strlen(r.state)), 0);
    ck_assert_int_eq(ds_digest_file(file, have, NULL), 0);
    ck_assert_str_eq(have, ds_json_string(b, "sha256", ""));
    ck_assert_str_eq(ds_json_string(b, "source", ""), source);
    ck_assert(json_is_false(json_object_get(b, "default")));
    json_decref(b);
    /* the licence decides, where it is stated */
    job = import("/v1/bases", ",\"license\":\"CC-BY-NC 4.0\"", "done");
    ck_assert(strstr(ds_json_string(job, "note", ""), "its licence is non-commercial") != NULL);
    json_decref(job);
    job = import("/v1/bases", ",\"license\":\"MIT, SYNC allowed\"", "done");
    ck_assert(json_is_null(json_object_get(job, "note")));
    json_decref(job);
    b = rig_want(&r, 200, "GET", "/v1/bases", NULL);
    ck_assert_int_eq((int)json_array_size(json_object_get(b, "items")), 2);
    json_decref(b);
    imported("/v1/feature_nets", ",\"name\":\"fid\"");
    b = rig_want(&r, 200, "GET", "/v1/feature_nets/fid", NULL);
    ck_assert_str_eq(ds_json_string(b, "kind", ""), "inception-fid");
    ck_assert(strstr(ds_json_string(b, "path", ""), "/feature_nets/") != NULL);
    json_decref(b);
    /* known again after a restart, and still not the default */
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_start(&r, NULL);
    b = rig_want(&r, 200, "GET", "/v1/default-base", NULL);
    ck_assert_str_eq(ds_json_string(b, "name", ""), "emoji");
    json_decref(b);
}
END_TEST

/* The newest import has failed for good; its pauses are skipped. */
static void wait_failed(void) {
    char state[16] = "";
    for (int i = 0; i < 500 && strcmp(state, "failed") != 0; i++, usleep(20000)) {
        rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
        rig_job(&r, "import", NULL, state);
    }
    ck_assert_str_eq(state, "failed");
}

/* Every path that reads a document survives one that is none. */
static void no_documents(void) {
    static const char *const paths[] = {"/v1/datasets", "/v1/bases",   "/v1/feature_nets",
                                        "/v1/gc",       "/v1/samples", "/v1/verify"};
    static const char *const bodies[] = {"xxxxxxxxx", "[]", "{\"path\":\"/a\",\"path\":\"/b\"}",
                                         "{\"source\":", "7"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        for (size_t k = 0; k < sizeof paths / sizeof *paths; k++)
            json_decref(rig_want(&r, 400, "POST", paths[k], bodies[i]));
        json_decref(rig_want(&r, 400, "PUT", "/v1/default-base", bodies[i]));
    }
}

/* What the worker is told of the objective. */
START_TEST(choices_reach_the_worker) {
    char more[600], path[PATH_MAX];
    json_t *spec;
    rig_start(&r, NULL);
    snprintf(more, sizeof more, ",\"name\":\"a\",\"objective\":\"eps\",\"probe\":\"%s\"", photos);
    for (int i = 0; i < 2; i++) {
        json_t *job = import("/v1/bases", i ? ",\"name\":\"a\"" : more, "done");
        snprintf(path, sizeof path, "%s/jobs/%lld/spec.json", r.state,
                 (long long)ds_json_int(job, "id", 0));
        ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &spec, NULL), 0);
        ck_assert_str_eq(ds_json_string(spec, "objective", ""), i ? "" : "eps");
        ck_assert(i || strstr(ds_json_string(spec, "probe", ""), "photos"));
        ck_assert(!i == (json_object_get(spec, "probe") != NULL));
        json_decref(spec);
        json_decref(job);
    }
}
END_TEST

START_TEST(bad_imports) {
    char body[1000];
    rig_start(&r, NULL);
    no_documents();
    rig_says(&r, 400, "POST", "/v1/bases", "{}", "'source' is missing");
    rig_says(&r, 400, "POST", "/v1/bases", "{\"source\":\"x.pt\"}", "absolute");
    rig_says(&r, 404, "POST", "/v1/bases", "{\"source\":\"/none/x.pt\"}",
             "cannot read '/none/x.pt'");
    rig_says(&r, 400, "POST", "/v1/bases", "{\"source\":\"/\",\"color\":1}",
             "'color' is not known");
    rig_says(&r, 400, "POST", "/v1/feature_nets", "{\"source\":\"/\",\"vae\":\"/\"}",
             "'vae' is not known");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"name\":\"a/b\"}", source);
    rig_says(&r, 400, "POST", "/v1/bases", body, "use only");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"license\":\"a\\u001bb\"}", source);
    rig_says(&r, 400, "POST", "/v1/bases", body, "control character");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"heads\":-1}", source);
    rig_says(&r, 400, "POST", "/v1/bases", body, "'heads'");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"weights\":7}", source);
    rig_says(&r, 400, "POST", "/v1/bases", body, "'weights'");
    rig_says(&r, 400, "POST", "/v1/feature_nets", body, "'weights'");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"objective\":\"velocity\"}", source);
    rig_says(&r, 400, "POST", "/v1/bases", body, "must be one of eps|data-noise|noise-data|");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"probe\":\"/none\"}", source);
    rig_says(&r, 404, "POST", "/v1/bases", body, "cannot read '/none'");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"probe\":\"%s\"}", source, source);
    rig_says(&r, 400, "POST", "/v1/bases", body, "'probe' is no folder");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"probe\":\"%s\"}", source, r.state);
    rig_says(&r, 400, "POST", "/v1/bases", body, "has no picture");
    rig_says(&r, 400, "POST", "/v1/feature_nets", "{\"source\":\"/\",\"objective\":\"eps\"}",
             "'objective' is not known");
    /* a file that is not what its name says, and a result about another file */
    rig_fake(&r, "import", "flip");
    snprintf(body, sizeof body, "{\"source\":\"%s\"}", source);
    json_decref(rig_want(&r, 202, "POST", "/v1/bases", body));
    wait_failed();
    json_t *job = rig_want(&r, 200, "GET", "/v1/jobs/1", NULL);
    ck_assert_str_eq(ds_json_string(job, "state", ""), "failed");
    ck_assert_str_eq(ds_json_string(json_object_get(job, "error"), "code", ""), "DS_EINTEGRITY");
    json_decref(job);
    rig_fake(&r, "import", "elsewhere");
    json_decref(rig_want(&r, 202, "POST", "/v1/bases", body));
    wait_failed();
    job = rig_want(&r, 200, "GET", "/v1/jobs/2", NULL);
    ck_assert(strstr(ds_json_string(json_object_get(job, "error"), "message", ""),
                     "names the file '/etc/passwd'") != NULL);
    json_decref(job);
    job = rig_want(&r, 200, "GET", "/v1/bases", NULL);
    ck_assert_int_eq((int)json_array_size(json_object_get(job, "items")), 1);
    json_decref(job);
}
END_TEST

/* kill -9 of the daemon while a worker imports: the next one does it again, once. */
START_TEST(killed_while_importing) {
    char body[600];
    rig_start(&r, NULL);
    rig_fake(&r, "import", "hang");
    snprintf(body, sizeof body, "{\"source\":\"%s\",\"name\":\"big\"}", source);
    json_decref(rig_want(&r, 202, "POST", "/v1/bases", body));
    rig_wait_job(&r, "import", NULL, "|running|", 10000);
    ck_assert_int_eq(rig_stop(&r, SIGKILL), 128 + SIGKILL);
    rig_fake(&r, "import", "ok");
    rig_start(&r, NULL);
    rig_wait_job(&r, "import", NULL, "|done|", 20000);
    json_decref(rig_want(&r, 200, "GET", "/v1/bases/big", NULL));
    int status;
    char *events = rig_text(&r, "GET", "/v1/events?type=base.added", NULL, NULL, &status);
    char *first = strstr(events, "\"big\"");
    ck_assert(first && !strstr(first + 5, "\"big\""));
    free(events);
}
END_TEST

START_TEST(choice_and_refusal) {
    char body[900], path[500];
    rig_start(&r, NULL);
    imported("/v1/bases", ",\"name\":\"big\"");
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    json_t *big = rig_want(&r, 200, "GET", "/v1/bases/big", NULL),
           *own = rig_want(&r, 200, "GET", "/v1/default-base", NULL);
    char big_sha[DS_HEX_SIZE], own_sha[DS_HEX_SIZE];
    snprintf(big_sha, sizeof big_sha, "%s", ds_json_string(big, "sha256", ""));
    snprintf(own_sha, sizeof own_sha, "%s", ds_json_string(own, "sha256", ""));
    json_decref(big);
    json_decref(own);
    /* an adapter on another base: both digests in the message */
    snprintf(body, sizeof body, "{\"ref\":\"digits\",\"base\":\"big\"}");
    rig_says(&r, 409, "POST", "/v1/samples", body, big_sha);
    rig_says(&r, 409, "POST", "/v1/samples", body, own_sha);
    rig_says(&r, 409, "POST", "/v1/verify", body, own_sha);
    rig_says(&r, 404, "POST", "/v1/samples", "{\"ref\":null,\"base\":\"none\"}", "base 'none'");
    /* the base itself, and the adapter on its own base by digest */
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":null,\"base\":\"big\"}"));
    int64_t job = rig_wait_job(&r, "sample", NULL, "|done|", 10000);
    snprintf(path, sizeof path, "%s/jobs/%lld/spec.json", r.state, (long long)job);
    json_t *spec = NULL;
    ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &spec, NULL), 0);
    ck_assert_str_eq(ds_json_string(json_object_get(spec, "base"), "sha256", ""), big_sha);
    json_decref(spec);
    snprintf(body, sizeof body, "{\"ref\":\"digits\",\"base\":\"sha256:%.12s\"}", own_sha);
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", body));
    /* a dataset that chose its base; then the default for the others */
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"digits\",\"base\":\"none\"}", photos);
    rig_says(&r, 404, "POST", "/v1/datasets", body, "base 'none'");
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"digits\",\"base\":\"big\"}", photos);
    json_decref(rig_want(&r, 200, "POST", "/v1/datasets", body));
    rig_wait_adapter(&r, "digits", 2, 10000);
    json_t *a = rig_want(&r, 200, "GET", "/v1/adapters/digits@v2", NULL);
    ck_assert_str_eq(ds_json_string(json_object_get(a, "base"), "sha256", ""), big_sha);
    json_decref(a);
    a = rig_want(&r, 200, "GET", "/v1/datasets/digits", NULL);
    ck_assert_str_eq(ds_json_string(a, "base", ""), "big");
    json_decref(a);
    rig_says(&r, 409, "DELETE", "/v1/bases/big", NULL, "in use");
    json_decref(rig_want(&r, 200, "PUT", "/v1/default-base", "{\"base\":\"big\"}"));
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    rig_start(&r, NULL); /* --base is given, but a person chose */
    a = rig_want(&r, 200, "GET", "/v1/status", NULL);
    ck_assert_str_eq(ds_json_string(json_object_get(a, "base"), "name", ""), "big");
    json_decref(a);
}
END_TEST

START_TEST(latent_bases_need_a_vae) {
    char body[900], more[500];
    rig_start(&r, NULL);
    rig_fake(&r, "import", "latent");
    imported("/v1/bases", ",\"name\":\"xl\"");
    json_t *b = rig_want(&r, 200, "GET", "/v1/bases/xl", NULL);
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(b, "missing"), 0)), "vae");
    json_decref(b);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"base\":\"xl\"}", photos);
    rig_says(&r, 400, "POST", "/v1/datasets", body, "has no VAE; add it with: dsctl add-base");
    rig_says(&r, 400, "PUT", "/v1/default-base", "{\"base\":\"xl\"}", "--vae ./sd-vae-ft-ema");
    rig_says(&r, 400, "POST", "/v1/samples", "{\"ref\":null,\"base\":\"xl\"}", "has no VAE");
    snprintf(more, sizeof more, ",\"name\":\"xl\",\"vae\":\"%s\"", source);
    imported("/v1/bases", more);
    json_decref(rig_want(&r, 200, "PUT", "/v1/default-base", "{\"base\":\"xl\"}"));
    json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
    rig_wait_adapter(&r, "photos", 1, 10000);
    char path[500];
    int64_t job = rig_wait_job(&r, "train", "photos", "|done|", 10000);
    snprintf(path, sizeof path, "%s/jobs/%lld/spec.json", r.state, (long long)job);
    json_t *spec = NULL;
    ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &spec, NULL), 0);
    const json_t *vae = json_object_get(json_object_get(spec, "base"), "vae");
    ck_assert(ds_fs_exists(ds_json_string(vae, "path", "/none")));
    ck_assert(ds_digest_valid(ds_json_string(vae, "sha256", "")));
    json_decref(spec);
}
END_TEST

/* Files go on a thread of the pool, soon after the answer. */
static int soon_gone(const char *path) {
    for (int i = 0; i < 1000 && ds_fs_exists(path); i++)
        usleep(5000);
    return !ds_fs_exists(path);
}

START_TEST(removal_deletes_only_what_was_imported) {
    char file[PATH_MAX], other[400], more[500];
    rig_start(&r, NULL);
    snprintf(more, sizeof more, ",\"name\":\"one\",\"vae\":\"%s\"", source);
    imported("/v1/bases", more);
    json_t *b = rig_want(&r, 200, "GET", "/v1/bases/one", NULL);
    snprintf(file, sizeof file, "%s", ds_json_string(b, "path", ""));
    char vae[PATH_MAX];
    snprintf(vae, sizeof vae, "%s", ds_json_string(json_object_get(b, "vae"), "path", ""));
    json_decref(b);
    snprintf(other, sizeof other, "%s/other.pt", r.dir);
    rig_write(other, "weights");
    memcpy(source, other, strlen(other) + 1);
    imported("/v1/bases", ",\"name\":\"two\",\"vae\":\"/etc\""); /* shares the VAE */
    json_decref(rig_want(&r, 200, "DELETE", "/v1/bases/one", NULL));
    ck_assert(soon_gone(file) && ds_fs_exists(vae) && ds_fs_exists(other));
    json_decref(rig_want(&r, 200, "DELETE", "/v1/bases/two", NULL));
    ck_assert(soon_gone(vae));
    rig_says(&r, 404, "GET", "/v1/bases/one", NULL, "does not exist");
    rig_says(&r, 409, "DELETE", "/v1/bases/emoji", NULL, "default");
    /* what no import wrote stays, even when it is forgotten */
    imported("/v1/bases", ",\"name\":\"two\"");
    json_decref(rig_want(&r, 200, "PUT", "/v1/default-base", "{\"base\":\"two\"}"));
    json_decref(rig_want(&r, 200, "DELETE", "/v1/bases/emoji", NULL));
    rig_says(&r, 404, "GET", "/v1/bases/emoji", NULL, "does not exist");
    snprintf(file, sizeof file, "%s/emoji.safetensors", r.dir);
    ck_assert(ds_fs_exists(file));
}
END_TEST

static void age(const char *path) {
    struct timeval old[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    ck_assert_msg(utimes(path, old) == 0, "%s", path);
}

/* An image cache as the worker lays it out, of this manifest; its digest of images is `payload`. */
static void image_cache(const char *name, const char *manifest, char payload, char path[400]) {
    char head[48 + 256];
    ds_buf meta = {0}, all = {0};
    uint64_t numbers[5] = {1, 8, 3, 0, 0};
    ds_buf_addf(&meta, "{\"classes\":[],\"manifest\":\"%s\"}", manifest);
    numbers[3] = meta.len;
    numbers[4] = sizeof head + meta.len;
    memset(head, payload, sizeof head);
    memcpy(head, "DSIMG001", 8);
    memcpy(head + 8, numbers, sizeof numbers);
    ds_buf_add(&all, head, sizeof head);
    ds_buf_add(&all, meta.data, meta.len);
    snprintf(path, 400, "%s/cache/images-%s.bin", r.state, name);
    ck_assert_int_eq(ds_fs_write(path, all.data, all.len, NULL), 0);
    ds_buf_release(&meta);
    ds_buf_release(&all);
    age(path);
}

static void feature_cache(const char *folder, const char *name, const char *key, char path[400]) {
    ds_buf b = {0};
    char text[300];
    uint64_t n = (uint64_t)snprintf(text, sizeof text, "{\"__metadata__\":{\"key\":\"%s\"}}", key);
    ds_buf_add(&b, (char *)&n, 8);
    ds_buf_add(&b, text, (size_t)n);
    snprintf(path, 400, "%s/%s/features-%s.safetensors.zst", r.state, folder, name);
    ck_assert_int_eq(ds_zio_write_file(path, b.data, b.len, 3, NULL), 0);
    ds_buf_release(&b);
    age(path);
}

/* A file of latents as the worker begins it. */
static void latents(const char *name, const char *vae, char path[400]) {
    char head[4096] = "DSLAT001";
    memcpy(head + 80, vae, 64);
    snprintf(path, 400, "%s/cache/latents-%s.bin", r.state, name);
    ck_assert_int_eq(ds_fs_write(path, head, sizeof head, NULL), 0);
    age(path);
}

/* One whose head ends too early: nobody knows whose it is. */
static void cut_latents(const char *vae, char path[400]) {
    latents("cut", vae, path);
    ck_assert_int_eq(truncate(path, 143), 0);
    age(path);
}

static int64_t part(const json_t *doc, const char *name, const char *what) {
    return ds_json_int(json_object_get(doc, name), what, -1);
}

START_TEST(gc_takes_only_what_nothing_needs) {
    char used[400], unused[400], base_used[400], base_unused[400], f_used[400], f_unused[400];
    char key[200], strange[400], orphan[400], young[400], hashes[400], tree[DS_HEX_SIZE];
    char l_used[400], l_unused[400], l_cut[400], t_old[400], t_new[400];
    char more[500], sha[DS_HEX_SIZE];
    rig_start(&r, NULL);
    snprintf(more, sizeof more, ",\"name\":\"big\",\"vae\":\"%s\"", source);
    imported("/v1/bases", more);
    rig_add(&r, "digits", photos, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    json_t *d = rig_want(&r, 200, "GET", "/v1/datasets/digits", NULL), *b, *doc;
    snprintf(tree, sizeof tree, "%s",
             ds_json_string(json_object_get(d, "version"), "tree_digest", ""));
    json_decref(d);
    image_cache("used", tree, 'a', used);
    image_cache("unused", "no such manifest", 'b', unused);
    snprintf(key, sizeof key, "reference/1 images=%064d n=5", 0);
    memset(strstr(key, "000"), 'a', 64);
    feature_cache("cache", "used", key, f_used);
    memset(strstr(key, "aaa"), 'b', 64);
    feature_cache("cache", "unused", key, f_unused);
    b = rig_want(&r, 200, "GET", "/v1/default-base", NULL);
    snprintf(sha, sizeof sha, "%s", ds_json_string(b, "sha256", ""));
    snprintf(key, sizeof key, "base/1 base=%.64s x=1", sha);
    feature_cache("cache/base", "used", key, base_used);
    json_decref(b);
    snprintf(key, sizeof key, "base/1 base=%064d x=1", 7);
    feature_cache("cache/base", "unused", key, base_unused);
    snprintf(key, sizeof key, "task/1 base=%.64s x=1", sha); /* of a version's samples */
    feature_cache("cache", "old", key, t_old);
    feature_cache("cache", "new", key, t_new);
    struct timeval hours[2] = {{.tv_sec = time(NULL) - 7200}, {.tv_sec = time(NULL) - 7200}};
    ck_assert_int_eq(utimes(t_new, hours), 0); /* beyond the grace, and of use */
    b = rig_want(&r, 200, "GET", "/v1/bases/big", NULL);
    latents("used", ds_json_string(json_object_get(b, "vae"), "sha256", ""), l_used);
    json_decref(b);
    latents("unused", tree, l_unused); /* the digest of something else */
    cut_latents(tree, l_cut);
    snprintf(strange, sizeof strange, "%s/cache/strange.bin", r.state);
    rig_write(strange, "x");
    age(strange);
    snprintf(hashes, sizeof hashes, "%s/cache/hashes/77", r.state); /* of no dataset */
    rig_write(hashes, "x");
    age(hashes);
    snprintf(orphan, sizeof orphan, "%s/bases/orphan.safetensors", r.state);
    rig_write(orphan, "x");
    age(orphan);
    snprintf(young, sizeof young, "%s/bases/young.safetensors", r.state);
    rig_write(young, "x");
    rig_says(&r, 400, "POST", "/v1/gc", "{\"dry\":true}", "'dry' is not known");
    rig_says(&r, 400, "POST", "/v1/gc", "{\"grace_seconds\":1}", "from 60");
    doc = rig_want(&r, 200, "POST", "/v1/gc", "{\"dry_run\":true}");
    ck_assert_int_eq(part(doc, "caches", "removed"), 6);
    ck_assert_int_eq(part(doc, "models", "removed"), 1);
    ck_assert_int_eq(part(doc, "models", "young"), 1);
    ck_assert(ds_fs_exists(unused) && ds_fs_exists(orphan));
    json_decref(doc);
    doc = rig_want(&r, 200, "POST", "/v1/gc", NULL);
    ck_assert_int_eq(part(doc, "caches", "removed"), 6);
    ck_assert_int_eq(part(doc, "models", "removed"), 1);
    ck_assert_int_gt(part(doc, "caches", "bytes"), 0);
    json_decref(doc);
    ck_assert(ds_fs_exists(used) && ds_fs_exists(f_used) && ds_fs_exists(base_used));
    ck_assert(ds_fs_exists(l_used) && !ds_fs_exists(l_unused) && ds_fs_exists(l_cut));
    ck_assert(ds_fs_exists(t_new) && !ds_fs_exists(t_old));
    ck_assert(ds_fs_exists(strange) && ds_fs_exists(young));
    ck_assert(!ds_fs_exists(unused) && !ds_fs_exists(f_unused) && !ds_fs_exists(base_unused));
    ck_assert(!ds_fs_exists(orphan) && !ds_fs_exists(hashes));
    int status;
    free(rig_text(&r, "GET", "/v1/adapters/digits@v1/file", NULL, NULL, &status));
    ck_assert_int_eq(status, 200);
    b = rig_want(&r, 200, "GET", "/v1/bases/big", NULL);
    ck_assert(ds_fs_exists(ds_json_string(b, "path", "/none")));
    json_decref(b);
    /* once nobody has that content, its cache goes */
    json_decref(rig_want(&r, 200, "DELETE", "/v1/datasets/digits", NULL));
    doc = rig_want(&r, 200, "POST", "/v1/gc", "{}");
    ck_assert(!ds_fs_exists(used) && !ds_fs_exists(f_used) && ds_fs_exists(base_used));
    json_decref(doc);
}
END_TEST

START_TEST(jobs_that_only_wait) {
    rig_start(&r, NULL);
    rig_fake(&r, "scan", "exit 75");
    rig_add(&r, "digits", photos, 201);
    int waits = 0;
    for (int i = 0; i < 1500 && !waits; i++, usleep(10000)) {
        rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
        json_decref(
            rig_want(&r, 202, "POST", "/v1/datasets/digits/rescan", NULL)); /* wakes it at once */
        json_t *s = rig_want(&r, 200, "GET", "/v1/status", NULL),
               *w = json_object_get(s, "waiting");
        if (json_array_size(w)) {
            waits = 1;
            ck_assert_int_ge(ds_json_int(json_array_get(w, 0), "postponed", 0), 10);
            ck_assert_str_eq(
                ds_json_string(json_object_get(json_array_get(w, 0), "error"), "message", ""),
                "told to fail");
        }
        json_decref(s);
    }
    ck_assert(waits);
    int status;
    char *events = rig_text(&r, "GET", "/v1/events?type=job.waiting", NULL, NULL, &status);
    ck_assert(strstr(events, "told to fail") != NULL);
    free(events);
    rig_fake(&r, "scan", "ok");
    rig_sql(&r, "UPDATE jobs SET run_after = 0 WHERE state = 'queued'");
    rig_wait_adapter(&r, "digits", 1, 10000);
    json_t *s = rig_want(&r, 200, "GET", "/v1/status", NULL);
    ck_assert_int_eq((int)json_array_size(json_object_get(s, "waiting")), 0);
    json_decref(s);
}
END_TEST

/* The base's digest is kept with what tells its file: another file is hashed again, whichever sign
 * of it is the only one; a cache that cannot be used costs nothing but time. */
START_TEST(digests_of_models_are_kept) {
    static const struct {
        const char *change, *content; /* in the rig's folder */
    } steps[] = {
        {"true", "base"},
        {"printf BASE >x && touch -r emoji.safetensors x && mv x emoji.safetensors", "BASE"},
        {"printf Base >emoji.safetensors && touch -d '2 days ago' emoji.safetensors", "Base"},
        {"touch -r emoji.safetensors m; printf More- >emoji.safetensors; touch -r m"
         " emoji.safetensors",
         "More-"},
        {"printf '[1]' >state/cache/models.json", "More-"},
        {"sed -i s/sha256/sha/ state/cache/models.json", "More-"},
        {"rm state/cache/models.json", "More-"}};
    char command[700], sha[DS_HEX_SIZE], path[300];
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        snprintf(command, sizeof command, "cd %s && %s", r.dir, steps[i].change);
        ck_assert_int_eq(system(command), 0);
        for (int again = 0; again < 2; again++) { /* made, then used */
            rig_start(&r, NULL);
            json_t *doc = rig_want(&r, 200, "GET", "/v1/status", NULL);
            ds_digest(steps[i].content, strlen(steps[i].content), sha);
            ck_assert_str_eq(ds_json_string(json_object_get(doc, "base"), "sha256", ""), sha);
            json_decref(doc);
            ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
        }
        json_t *cache = NULL;
        snprintf(path, sizeof path, "%s/cache/models.json", r.state);
        ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &cache, NULL), 0);
        snprintf(path, sizeof path, "%s/emoji.safetensors", r.dir);
        ck_assert_str_eq(ds_json_string(json_object_get(cache, path), "sha256", ""), sha);
        json_decref(cache);
    }
    /* it is believed: what it says is not hashed again */
    snprintf(command, sizeof command, "sed -i s/%.8s/00000000/ %s/cache/models.json", sha, r.state);
    ck_assert_int_eq(system(command), 0);
    rig_start(&r, NULL);
    json_t *doc = rig_want(&r, 200, "GET", "/v1/status", NULL);
    ck_assert_int_eq(
        strncmp(ds_json_string(json_object_get(doc, "base"), "sha256", ""), "00000000", 8), 0);
    json_decref(doc);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, digests_of_models_are_kept);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, from_file_to_base);
    tcase_add_test(tc, choices_reach_the_worker);
    tcase_add_test(tc, bad_imports);
    tcase_add_test(tc, killed_while_importing);
    tcase_add_test(tc, choice_and_refusal);
    tcase_add_test(tc, latent_bases_need_a_vae);
    tcase_add_test(tc, recorded_after_import);
    tcase_add_test(tc, removal_deletes_only_what_was_imported);
    tcase_add_test(tc, gc_takes_only_what_nothing_needs);
    tcase_add_test(tc, jobs_that_only_wait);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_bases", cases);
}
