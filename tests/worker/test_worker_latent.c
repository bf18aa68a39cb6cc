/* tests/worker/test_worker_latent.c - a latent base with its VAE through whole jobs: encoded once,
 * trained, killed and resumed, decoded, measured, verified. */
#include "tests/fixtures/worker_fixture.h"

#include "engine/files/safetensors.h"

#include <dirent.h>

#define VAE "tests/golden/vae.safetensors" /* random, 4 channels, 4 pixels a latent */
enum { LATENT = 8, PICTURE = 32, RECORD = 128 + 2 * 4 * LATENT * LATENT * 4 };

static char *undisturbed;

static void make_latent_base(void) {
    ds_dit_config cfg = {.channels = 4,
                         .side = LATENT,
                         .patch = 2,
                         .width = 32,
                         .depth = 2,
                         .heads = 2,
                         .mlp_ratio = 4,
                         .classes = 4,
                         .learn_sigma = 1,
                         .freq_dim = 256,
                         .norm2_eps_e6 = 1,
                         .latent_scale = 0.18215,
                         .train_steps = 1000,
                         .beta_start = 1e-4,
                         .beta_end = 0.02};
    ds_base *b;
    ds_error err;
    must(ds_dit_base_new(&b, &cfg, 3, &err), &err);
    for (int i = 0; i < b->table.count;
         i++) { /* not the zeros of a fresh model: it says something */
        const ds_param *p = &b->table.items[i];
        for (size_t k = 0; k < p->count && strcmp(p->name, "pos_embed"); k++)
            b->data[p->offset + k] += 0.05f * ds_rng_uniform(4, DS_STREAM_TEST, (uint32_t)i, k, 0);
    }
    const char *const meta[] = {"diffscaler.name", "micro-latent", NULL};
    char *path = in_tmp("base.safetensors");
    must(ds_base_save(b, path, 0, meta, &err), &err);
    ds_base_free(b);
    free(path);
}

/* A copy, so that tests may damage it. */
static char *copy_vae(const char *name) {
    char *path = in_tmp(name), *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_read(VAE, 1 << 24, &bytes, &n, &err), &err);
    must(ds_fs_write(path, bytes, n, &err), &err);
    free(bytes);
    return path;
}

static json_t *with_vae(json_t *spec) {
    char *path = in_tmp("vae.safetensors"), sha[DS_HEX_SIZE];
    file_digest(VAE, sha);
    json_object_set_new(json_object_get(spec, "base"), "vae", file_json(NULL, path, sha));
    free(path);
    return spec;
}

static json_t *latent_spec(const char *dataset) { return with_vae(train_spec(dataset)); }

static void add_task(json_t *spec, json_t *task) {
    json_array_append_new(json_object_get(spec, "old_tasks"), task);
}

/* The only file of latents in a cache folder. */
static char *latents_file(const char *cache) {
    char *dir = in_tmp(cache), *found = NULL;
    DIR *d = opendir(dir);
    ck_assert(d != NULL);
    for (struct dirent *e; (e = readdir(d));)
        if (!strncmp(e->d_name, "latents-", 8)) {
            ck_assert(!found);
            found = ds_xasprintf("%s/%s", dir, e->d_name);
        }
    closedir(d);
    free(dir);
    ck_assert(found != NULL);
    return found;
}

static off_t size_of(const char *path) {
    struct stat st;
    ck_assert(!stat(path, &st));
    return st.st_size;
}

static void use_cache(json_t *spec, const char *name) {
    char *dir = in_tmp(name);
    json_object_set_new(spec, "cache_dir", json_string(dir));
    free(dir);
}

static void same_adapter(const char *dir) {
    json_t *a = read_json(undisturbed, "result.json"), *b = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(a, "adapter", "sha256"), text_at(b, "adapter", "sha256"));
    ck_assert_str_eq(text_at(a, "probe", "sha256"), text_at(b, "probe", "sha256"));
    json_decref(a);
    json_decref(b);
}

static int log_has(const char *dir, const char *file, const char *what) {
    char *path = ds_xasprintf("%s/%s", dir, file), *text;
    size_t n;
    int has = 0;
    if (!ds_fs_read(path, 1 << 24, &text, &n, NULL)) {
        has = strstr(text, what) != NULL;
        free(text);
    }
    free(path);
    return has;
}

START_TEST(result_is_complete) {
    json_t *r = read_json(undisturbed, "result.json");
    expect_learned(r);
    ck_assert(log_has(undisturbed, "events.ndjson", "\"stage\":\"encode\""));
    ck_assert(
        log_has(undisturbed, "events.ndjson", "32x32 images to 4x8x8 latents, both ways round"));
    char *path = ds_xasprintf("%s/adapter.safetensors.zst", undisturbed), sha[DS_HEX_SIZE], *bytes;
    size_t n;
    ds_error err;
    must(ds_zio_read_file(path, 1 << 26, &bytes, &n, &err), &err);
    file_digest(VAE, sha);
    ds_st *st;
    must(ds_st_open_owned("adapter", bytes, n, &st, &err), &err);
    ck_assert(strstr(ds_st_meta(st, "diffscaler"), sha) != NULL);
    ds_st_free(st);
    free(path);
    path = ds_xasprintf("%s/grid.png", undisturbed);
    ck_assert(ds_fs_exists(path));
    /* every picture and its mirror image, some of them the same */
    char *latents = latents_file("cache");
    off_t records = (size_of(latents) - 4096) / RECORD;
    ck_assert_int_eq((size_of(latents) - 4096) % RECORD, 0);
    ck_assert_msg(records > 2 * PER_CLASS && records <= 4 * PER_CLASS, "%ld records",
                  (long)records);
    free(latents);
    free(path);
    json_decref(r);
}
END_TEST

/* The same latents, not encoded again; the precision of the device does not ask for others. */
START_TEST(second_run_uses_the_cache) {
    char *latents = latents_file("cache"), *dir = make_job("second", latent_spec("blobs"));
    struct stat before, after;
    ck_assert(!stat(latents, &before));
    run_expect(dir, 0);
    same_adapter(dir);
    if (!SANITIZED) {
        json_t *spec = latent_spec("blobs");
        json_object_set_new(json_object_get(spec, "device"), "precision", json_string("bf16"));
        char *bf16 = make_job("bf16", spec);
        run_expect(bf16, 0);
        free(bf16);
    }
    ck_assert(!stat(latents, &after));
    ck_assert_int_eq(before.st_size, after.st_size);
    ck_assert(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
              before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    free(latents);
    free(dir);
}
END_TEST

/* kill -9 once its events say these words; its status, 0 when it was faster. */
static int kill_after(const char *dir, const char *words) {
    char *path = ds_xasprintf("%s/events.ndjson", dir);
    off_t before = ds_fs_exists(path) ? size_of(path) : 0;
    pid_t pid = start_job(dir, NULL, NULL);
    int said = 0;
    for (int i = 0; i < 30000 && !said; i++, usleep(1000)) {
        char *text;
        size_t n;
        if (ds_fs_read(path, 1 << 24, &text, &n, NULL))
            continue;
        said = n > (size_t)before && strstr(text + before, words) != NULL;
        free(text);
    }
    free(path);
    kill(pid, SIGKILL);
    int status = wait_job(pid);
    ck_assert_msg(said, "it did not say %s, status %d", words, status);
    ck_assert_msg(status == 0 || status == 1000 + SIGKILL, "status %d", status);
    return status;
}

/* kill -9 while it encodes and while it trains, and at any moment; then to the end. */
START_TEST(killed_job_resumes) {
    json_t *spec = latent_spec("blobs");
    use_cache(spec, "killed-cache");
    char *dir = make_job("killed", spec);
    int kills = kill_after(dir, "\"stage\":\"encode\"") != 0;
    if (kills)
        kills += kill_after(dir, "\"type\":\"checkpoint\"") != 0;
    for (int i = 0; i < (SANITIZED ? 4 : 8); i++) {
        pid_t pid = start_job(dir, NULL, NULL);
        usleep(ds_rng_u32(5, DS_STREAM_TEST, (uint32_t)i, 0, 0) % (SANITIZED ? 800000 : 400000));
        kill(pid, SIGKILL);
        int status = wait_job(pid);
        kills += status == 1000 + SIGKILL;
        ck_assert_msg(status == 0 || status == 1000 + SIGKILL, "status %d", status);
    }
    ck_assert_int_ge(kills, 1);
    run_expect(dir, 0);
    same_adapter(dir);
    free(dir);
}
END_TEST

/* A torn record at the end, and a flipped bit in the middle: encoded again, said, and the same. */
START_TEST(damaged_latents_are_made_again) {
    json_t *spec = latent_spec("blobs");
    char *old = latents_file("cache"), *dir, *bytes, *to;
    size_t n;
    ds_error err;
    must(ds_fs_read(old, 1 << 26, &bytes, &n, &err), &err);
    bytes[4096 + 3 * RECORD + 500] ^= 4;
    use_cache(spec, "damaged-cache");
    to = in_tmp("damaged-cache");
    must(ds_fs_mkdirs(to, &err), &err);
    free(to);
    to = ds_xasprintf("%s/damaged-cache/%s", ds_test_tmpdir(), strrchr(old, '/') + 1);
    must(ds_fs_write(to, bytes, n - 77, &err), &err);
    dir = make_job("damaged", spec);
    run_expect(dir, 0);
    same_adapter(dir);
    ck_assert(log_has(dir, "events.ndjson", "1 cached latents were damaged"));
    ck_assert_int_eq(size_of(to), (off_t)n + RECORD); /* torn: replaced; damaged: added */
    free(bytes);
    free(old);
    free(to);
    free(dir);
}
END_TEST

static void expect_refusal(const char *name, json_t *spec, int status, const char *why) {
    char *dir = make_job(name, spec);
    run_expect(dir, status);
    ck_assert_msg(log_has(dir, "events.ndjson", why), "'%s' was not said", why);
    free(dir);
}

START_TEST(base_without_vae_is_refused) {
    expect_refusal("no-vae", train_spec("blobs"), 2,
                   "base 'micro' works on latents and has no VAE to make them: add the base again "
                   "with --vae");
    json_t *spec = latent_spec("blobs"),
           *vae = json_object_get(json_object_get(spec, "base"), "vae");
    char *path = copy_vae("other-vae.safetensors"), *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_read(path, 1 << 24, &bytes, &n, &err), &err);
    bytes[n - 5] ^= 1;
    must(ds_fs_write(path, bytes, n, &err), &err);
    json_object_set_new(vae, "path", json_string(path));
    expect_refusal("changed-vae", spec, 9, "has changed: its sha256 is");
    spec = latent_spec("blobs");
    json_object_set_new(json_object_get(json_object_get(spec, "base"), "vae"), "sha", json_true());
    expect_refusal("typo", spec, 2, "base.vae.sha is not a known key");
    free(bytes);
    free(path);
}
END_TEST

/* Pictures, not latents: 32 pixels a side. */
START_TEST(sample_job) {
    json_t *s = json_object(), *t = task_of(undisturbed, "blobs");
    set_common(s, "sample");
    with_vae(s);
    json_object_set(s, "adapter", json_object_get(t, "adapter"));
    json_object_set_new(s, "sample", sample_json());
    json_object_set_new(s, "n", json_integer(5));
    json_object_set_new(s, "seed", json_integer(1));
    json_object_set_new(s, "class", json_null());
    json_object_set_new(s, "columns", json_integer(0));
    json_t *many = json_deep_copy(s);
    json_object_set_new(many, "n", json_integer(50000));
    char *dir = make_job("sheet", many);
    run_expect(dir, 2); /* too many for one sheet: said before the first one is drawn */
    free(dir);
    dir = make_job("sample", s);
    char *path = ds_xasprintf("%s/samples.safetensors", dir);
    run_expect(dir, 0);
    ds_st *st;
    ds_error err;
    must(ds_st_open_file(path, 1 << 24, 0, &st, &err), &err);
    const ds_st_tensor *images = ds_st_find(st, "images");
    ck_assert(images && images->ndim == 4 && images->shape[0] == 5 && images->shape[1] == PICTURE &&
              images->shape[2] == PICTURE && images->shape[3] == 3);
    const uint8_t *px = images->data;
    int low = 255, high = 0;
    for (size_t i = 0; i < images->bytes; i++) {
        low = px[i] < low ? px[i] : low;
        high = px[i] > high ? px[i] : high;
    }
    ck_assert_int_gt(high - low, 10);
    ds_st_free(st);
    json_decref(t);
    free(path);
    free(dir);
}
END_TEST

static const json_t *first_task(const json_t *result) {
    return json_array_get(json_object_get(json_object_get(result, "gate"), "tasks"), 0);
}

/* The gate proves the task by its probe; measured again it has the same distance. */
START_TEST(old_task_is_verified) {
    for (int full = 0; full < (SANITIZED ? 1 : 2); full++) {
        json_t *tasks = json_array();
        json_array_append_new(tasks, task_of(undisturbed, "blobs"));
        char *dir =
            make_job(full ? "full" : "probe", with_vae(verify_spec(tasks, full ? "full" : "auto")));
        run_expect(dir, 0);
        json_t *r = read_json(dir, "result.json");
        const json_t *t = first_task(r);
        ck_assert(json_is_true(json_object_get(t, "unchanged")));
        ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), full ? 2 : 1);
        ck_assert(json_number_value(json_object_get(t, "fd_now")) ==
                  json_number_value(json_object_get(t, "fd_recorded")));
        json_decref(r);
        free(dir);
    }
}
END_TEST

/* Another VAE under the same name: the probe of the latents is as it was, the pictures are not. */
START_TEST(changed_vae_is_refused_by_the_gate) {
    json_t *spec = latent_spec("stripes");
    char *path = copy_vae("swapped-vae.safetensors"), *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_read(path, 1 << 24, &bytes, &n, &err), &err);
    bytes[n - 5] ^= 1;
    must(ds_fs_write(path, bytes, n, &err), &err);
    json_object_set_new(json_object_get(json_object_get(spec, "base"), "vae"), "path",
                        json_string(path));
    add_task(spec, task_of(undisturbed, "blobs"));
    char *dir = make_job("swapped", spec);
    run_expect(dir, 9);
    json_t *r = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(first_task(r), "verdict", NULL), "refused");
    ck_assert(strstr(text_at(first_task(r), "reason", NULL), "swapped-vae.safetensors") != NULL);
    ck_assert(json_is_null(json_object_get(r, "adapter")));
    json_decref(r);
    free(bytes);
    free(path);
    free(dir);
}
END_TEST

static void register_cases(TCase *tc) {
    fixture_make();
    make_latent_base();
    free(copy_vae("vae.safetensors"));
    undisturbed = make_job("undisturbed", latent_spec("blobs"));
    if (run_job(undisturbed)) {
        show_log(undisturbed);
        exit(1);
    }
    tcase_add_test(tc, result_is_complete);
    tcase_add_test(tc, second_run_uses_the_cache);
    tcase_add_test(tc, damaged_latents_are_made_again);
    tcase_add_test(tc, base_without_vae_is_refused);
    tcase_add_test(tc, sample_job);
    tcase_add_test(tc, old_task_is_verified);
    tcase_add_test(tc, changed_vae_is_refused_by_the_gate);
    tcase_add_test(tc, killed_job_resumes);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_latent", register_cases);
}
