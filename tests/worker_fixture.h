/* tests/worker_fixture.h - a tiny base, two tiny datasets and job directories for the tests of the
 * worker.  Jobs run as real processes: the test program itself, started again as "run DIR" or as a
 * decoding child (see fixture_dispatch). */
#ifndef DS_TESTS_WORKER_FIXTURE_H
#define DS_TESTS_WORKER_FIXTURE_H

#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/png_write.h"
#include "base/rng.h"
#include "base/zio.h"
#include "engine/features.h"
#include "engine/inception.h"
#include "engine/safetensors.h"
#include "engine/trainer.h"
#include "tests/harness.h"
#include "worker/sandbox.h"
#include "worker/scan.h"
#include "worker/worker.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUNDLED_NET "models/inception-v3-mixed6c.safetensors.zst"
#define FEATURE_NET fixture_net()
/* Side of the pictures that it reads: one costs a twentieth of what it does at 299. */
static const char *feature_side = "75";
/* Under sanitizers it still takes as long as the bundled one without. */
#if defined(__SANITIZE_ADDRESS__)
enum { SANITIZED = 1, PER_CLASS = 2, EVALUATED = 4 };
#else
enum { SANITIZED = 0, PER_CLASS = 10, EVALUATED = 16 };
#endif
enum { SIDE = 16, STEPS = 60 };

#define UNUSED __attribute__((unused))

/* Call first in main: -1 = go on as a test program, else the exit status. */
static UNUSED int fixture_dispatch(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], DS_SANDBOX_ARG))
        return ds_decode_child_main();
    if (argc > 1 && !strcmp(argv[1], "run"))
        return ds_worker_run(argc - 2, argv + 2);
    return -1;
}

static UNUSED char *in_tmp(const char *name) {
    return ds_xasprintf("%s/%s", ds_test_tmpdir(), name);
}

/* How many a folder has, hidden ones too. */
static UNUSED int files_in(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
    if (d)
        closedir(d);
    return n;
}

static UNUSED void must(int rc, const ds_error *err) {
    if (rc) {
        fprintf(stderr, "fixture: %s\n", err->message);
        abort();
    }
}

/* ---------------------------------------------------------------- base and data */

/* Picture k of a class: which = 0 blobs, 1 stripes; size x size x 3. */
static UNUSED void pattern(uint8_t *px, int size, int which, int c, int k) {
    for (int y = 0; y < size; y++)
        for (int x = 0; x < size; x++) {
            int u = x * 24 / size, v = y * 24 / size, dx = u - 8 - k % 7, dy = v - 6 - k % 5;
            int on = which ? (u + v * (k % 3) + k) / 4 % 2 : dx * dx + dy * dy < 36;
            uint8_t *p = px + (y * size + x) * 3;
            p[0] = (uint8_t)(on ? (c ? 20 : 230) : 240 - 8 * (k % 10));
            p[1] = (uint8_t)(on ? 40 + 10 * (k % 10) : 240);
            p[2] = (uint8_t)(on ? (c ? 220 : 30) : 200);
        }
}

/* Train the base in full, so that what is adapted, measured and damaged means something. */
static UNUSED void train_base(ds_base *b, uint64_t seed) {
    enum { N = 80, BYTES = SIDE * SIDE * 3 };
    static uint8_t px[N * BYTES];
    static int labels[N];
    for (int i = 0; i < N; i++) {
        labels[i] = i % 4;
        pattern(px + i * BYTES, SIDE, i / 2 % 2, i % 2, 17 + i / 4);
    }
    ds_image_set set = {
        .pixels = px, .labels = labels, .n = N, .side = SIDE, .channels = 3, .classes = 4};
    ds_train_options o = {.steps = 250,
                          .batch = 16,
                          .lr = 0.004,
                          .warmup = 10,
                          .clip = 1,
                          .ema = 0.95,
                          .label_dropout = 0.2,
                          .vb_weight = 0.001,
                          .seed = seed};
    ds_method_spec full = {.method = DS_METHOD_FULL};
    ds_device_options cpu = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    ds_device *dev;
    ds_model *model;
    ds_trainer *t;
    ds_adapter *result;
    ds_train_report report;
    ds_error err;
    must(ds_device_open(&dev, &cpu, &err), &err);
    must(ds_model_new(&model, dev, b, &err), &err);
    must(ds_trainer_new(&t, model, &full, &o, &set, &err), &err);
    for (int i = 0; i < o.steps; i++)
        must(ds_trainer_step(t, &report, &err), &err);
    must(ds_trainer_result(t, &result, &err), &err);
    for (int i = 0; i < result->table.count; i++) {
        const ds_param *from = &result->table.items[i], *to = ds_params_find(&b->table, from->name);
        memcpy(b->data + to->offset, result->data + from->offset, from->count * sizeof(float));
    }
    ds_adapter_free(result);
    ds_trainer_free(t);
    ds_model_free(model);
    ds_device_close(dev);
}

/* The shape of all bases here. */
static UNUSED ds_dit_config base_config(int side, int depth) {
    return (ds_dit_config){.channels = 3,
                           .side = side,
                           .patch = 4,
                           .width = 32,
                           .depth = depth,
                           .heads = 2,
                           .mlp_ratio = 4,
                           .classes = 4,
                           .learn_sigma = 1,
                           .freq_dim = 256,
                           .pixel = 1,
                           .train_steps = 1000,
                           .beta_start = 1e-4,
                           .beta_end = 0.02};
}

/* A base of random numbers, not trained. */
static UNUSED void make_plain_base(const char *path, int side, uint64_t seed) {
    ds_dit_config cfg = base_config(side, 1);
    ds_base *b;
    ds_error err;
    must(ds_base_new(&b, &cfg, seed, &err), &err);
    must(ds_base_save(b, path, 0, NULL, &err), &err);
    ds_base_free(b);
}

static UNUSED void make_base(const char *path, uint64_t seed) {
    ds_dit_config cfg = base_config(SIDE, 2);
    ds_base *b;
    ds_error err;
    must(ds_base_new(&b, &cfg, seed, &err), &err);
    train_base(b, seed);
    const char *const meta[] = {"diffscaler.name", "micro", NULL};
    must(ds_base_save(b, path, 0, meta, &err), &err);
    ds_base_free(b);
}

static UNUSED void make_images(const char *root, int which) {
    ds_error err;
    for (int c = 0; c < 2; c++) {
        char *dir = ds_xasprintf("%s/%s", root, c ? "cool" : "warm");
        must(ds_fs_mkdirs(dir, &err), &err);
        for (int k = 0; k < PER_CLASS; k++) {
            uint8_t px[24 * 24 * 3];
            pattern(px, 24, which, c, k);
            char *path = ds_xasprintf("%s/%02d.png", dir, k);
            must(ds_png_write(path, px, 24, 24, &err), &err);
            free(path);
        }
        free(dir);
    }
}

/* Scan root into manifest; the digest. */
static UNUSED void make_manifest(const char *root, const char *manifest, char digest[DS_HEX_SIZE]) {
    ds_scan_options o = {.root = root, .dataset = "x"};
    ds_scan_result r = {0};
    ds_error err;
    must(ds_scan(&o, &r, NULL, NULL, &err), &err);
    must(ds_fs_write(manifest, r.manifest, r.manifest_size, &err), &err);
    memcpy(digest, r.tree_digest, DS_HEX_SIZE);
    ds_scan_release(&r);
}

static UNUSED void file_digest(const char *path, char out[DS_HEX_SIZE]) {
    ds_error err;
    must(ds_digest_file(path, out, &err), &err);
}

static UNUSED void unpacked_digest(const char *path, char out[DS_HEX_SIZE]) {
    char *bytes;
    size_t n;
    ds_error err;
    must(ds_zio_read_file(path, (size_t)1 << 30, &bytes, &n, &err), &err);
    ds_digest(bytes, n, out);
    free(bytes);
}

/* The bundled feature network, stating that it reads small pictures; under the bundled name. */
static UNUSED void make_small_net(const char *path) {
    ds_st *st;
    ds_st_writer *w = ds_st_writer_new();
    char *bytes;
    size_t n;
    ds_error err;
    must(ds_st_open_zst(BUNDLED_NET, DS_FEATURE_NET_MAX, NULL, NULL, &st, &err), &err);
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        ds_st_writer_add(w, t->name, t->dtype, t->ndim, t->shape, t->data);
    }
    for (size_t i = 0; i < ds_st_meta_count(st); i++)
        ds_st_writer_meta(w, ds_st_meta_key(st, i), ds_st_meta(st, ds_st_meta_key(st, i)));
    ds_st_writer_meta(w, DS_INCEPTION_SIDE_KEY, feature_side);
    must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
    must(ds_zio_write_file(path, bytes, n, 1, &err), &err);
    free(bytes);
    ds_st_writer_free(w);
    ds_st_free(st);
}

/* Its absolute path; made when it is first asked for. */
static UNUSED const char *fixture_net(void) {
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/inception-v3-mixed6c.safetensors.zst", ds_test_tmpdir());
    if (!ds_fs_exists(path))
        make_small_net(path);
    return path;
}

/* Everything that jobs share: base.safetensors, blobs/, stripes/ and their manifests. */
static UNUSED void fixture_make(void) {
    static const char *const sets[] = {"blobs", "stripes"};
    char *base = in_tmp("base.safetensors");
    fixture_net();
    make_base(base, 1);
    for (int i = 0; i < 2; i++) {
        char *root = in_tmp(sets[i]), *manifest = ds_xasprintf("%s.ndjson", root), sha[DS_HEX_SIZE];
        make_images(root, i);
        make_manifest(root, manifest, sha);
        free(root);
        free(manifest);
    }
    free(base);
}

/* ---------------------------------------------------------------- specs */

static UNUSED json_t *file_json(const char *name, const char *path, const char *sha) {
    json_t *o = json_pack("{s:s, s:s}", "path", path, "sha256", sha);
    if (name)
        json_object_set_new(o, "name", json_string(name));
    return o;
}

static UNUSED json_t *sample_json(void) {
    return json_pack("{s:s, s:i, s:f, s:s}", "sampler", "dpmpp2m", "steps", 4, "guidance", 1.5,
                     "guidance_mode", "cfg");
}

static UNUSED json_t *evaluate_json(void) {
    return json_pack("{s:i, s:i, s:i, s:i}", "n", EVALUATED, "seed", 7, "kid_subsets", 10,
                     "kid_subset_size", 8);
}

static UNUSED json_t *gate_json(const char *verify) {
    return json_pack("{s:s, s:f, s:f}", "verify", verify, "fd_tolerance", 0.02,
                     "kid_tolerance_sigmas", 3.0);
}

static UNUSED void set_common(json_t *s, const char *kind) {
    const char *net = fixture_net();
    char *base = in_tmp("base.safetensors"), sha[DS_HEX_SIZE];
    json_object_set_new(s, "schema", json_string("diffscaler.job/1"));
    json_object_set_new(s, "kind", json_string(kind));
    json_object_set_new(s, "job", json_integer(1));
    json_object_set_new(
        s, "device", json_pack("{s:s, s:s, s:i}", "kind", "cpu", "precision", "f32", "threads", 1));
    file_digest(base, sha);
    json_object_set_new(s, "base", file_json("micro", base, sha));
    if (strcmp(kind, "sample")) {
        unpacked_digest(net, sha);
        json_object_set_new(s, "feature_net", file_json("inception", net, sha));
        char *cache = in_tmp("cache");
        json_object_set_new(s, "cache_dir", json_string(cache));
        free(cache);
    }
    free(base);
}

static UNUSED json_t *train_spec(const char *dataset) {
    char *root = in_tmp(dataset), *manifest = ds_xasprintf("%s.ndjson", root), sha[DS_HEX_SIZE],
         *cache = in_tmp("cache/base");
    json_t *s = json_object();
    set_common(s, "train");
    file_digest(manifest, sha);
    json_object_set_new(s, "name", json_string(dataset));
    json_object_set_new(s, "version", json_integer(1));
    json_object_set_new(s, "dataset",
                        json_pack("{s:s, s:i, s:s, s:s, s:s}", "name", dataset, "version", 1,
                                  "root", root, "manifest", manifest, "tree_digest", sha));
    json_object_set_new(s, "method",
                        json_pack("{s:s, s:i, s:s, s:s, s:b, s:[s,s,s,s,s,s,s,s]}", "name",
                                  "affiner", "rank", 4, "side", "out", "phi", "identity",
                                  "freeze_v", 0, "targets", "q", "k", "v", "proj", "fc1", "fc2",
                                  "adaln", "final"));
    json_t *train = json_pack("{s:i, s:i, s:i, s:f, s:i, s:f, s:f, s:f}", "steps", STEPS, "batch",
                              8, "micro_batch", 4, "lr", 0.003, "warmup", 5, "clip", 1.0,
                              "weight_decay", 0.0, "ema", 0.9);
    json_object_update_new(train,
                           json_pack("{s:f, s:b, s:i, s:f, s:i, s:i, s:i}", "label_dropout", 0.1,
                                     "flip", 1, "seed", 1, "vb_weight", 1.0, "checkpoint_every", 10,
                                     "heldout_every", 20, "heldout", 2));
    json_object_set_new(s, "train", train);
    json_object_set_new(s, "sample", sample_json());
    json_object_set_new(s, "evaluate", evaluate_json());
    json_object_set_new(s, "probe", json_pack("{s:i, s:i}", "n", 2, "seed", 11));
    json_object_set_new(s, "base_reference", json_pack("{s:s}", "cache", cache));
    json_object_set_new(s, "old_tasks", json_array());
    json_object_set_new(s, "gate", gate_json("auto"));
    free(root);
    free(manifest);
    free(cache);
    return s;
}

static UNUSED json_t *verify_spec(json_t *tasks, const char *verify) {
    json_t *s = json_object();
    set_common(s, "verify");
    json_object_set_new(s, "old_tasks", tasks);
    json_object_set_new(s, "gate", gate_json(verify));
    return s;
}

/* ---------------------------------------------------------------- jobs */

/* Make TMP/name with this spec (stolen); the directory's path. */
static UNUSED char *make_job(const char *name, json_t *spec) {
    char *dir = in_tmp(name), *path = ds_xasprintf("%s/spec.json", dir);
    ds_error err;
    must(ds_fs_mkdirs(dir, &err), &err);
    must(ds_json_write_file(path, spec, &err), &err);
    json_decref(spec);
    free(path);
    return dir;
}

/* Start "run DIR"; stderr goes to DIR/worker.log.  extra: further arguments. */
static UNUSED pid_t start_job(const char *dir, const char *extra1, const char *extra2) {
    pid_t pid = fork();
    if (pid == 0) {
        char *log = ds_xasprintf("%s/worker.log", dir);
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (fd < 0 || dup2(fd, 2) < 0)
            _exit(99);
        execl("/proc/self/exe", "worker", "run", dir, extra1, extra2, (char *)NULL);
        _exit(99);
    }
    return pid;
}

/* Exit status; 1000 + signal when killed. */
static UNUSED int wait_job(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        ;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static UNUSED int run_job(const char *dir) { return wait_job(start_job(dir, NULL, NULL)); }

static UNUSED void show_log(const char *dir) {
    char *log = ds_xasprintf("%s/worker.log", dir), *text;
    size_t n;
    if (!ds_fs_read(log, 1 << 20, &text, &n, NULL))
        fprintf(stderr, "--- %s\n%s", log, text);
}

/* Run and require an exit status. */
static UNUSED void run_expect(const char *dir, int want) {
    int got = run_job(dir);
    if (got != want)
        show_log(dir);
    ck_assert_int_eq(got, want);
}

static UNUSED json_t *read_json(const char *dir, const char *file) {
    char *path = ds_xasprintf("%s/%s", dir, file);
    json_t *doc = NULL;
    ds_error err = {0};
    ds_json_read_file(path, 1 << 24, &doc, &err);
    ck_assert_msg(doc != NULL, "%s", err.message);
    free(path);
    return doc;
}

static UNUSED const char *text_at(const json_t *doc, const char *a, const char *b) {
    const json_t *v = json_object_get(doc, a);
    if (b)
        v = json_object_get(v, b);
    ck_assert_msg(json_is_string(v), "%s.%s is not text", a, b ? b : "");
    return json_string_value(v);
}

static UNUSED json_t *evaluation_of(const json_t *result, const char *subject, const char *metric) {
    json_t *row;
    size_t i;
    json_array_foreach(json_object_get(result, "evaluations"), i,
                       row) if (!strcmp(text_at(row, "subject", NULL), subject) &&
                                !strcmp(text_at(row, "metric", NULL), metric)) return row;
    ck_abort_msg("no evaluation %s %s", subject, metric);
    return NULL;
}

/* Both distances are there, and the held-out loss fell. */
static UNUSED void expect_learned(const json_t *r) {
    const char *const subjects[] = {"base", "adapter"};
    for (int i = 0; i < 2; i++)
        ck_assert(json_number_value(json_object_get(evaluation_of(r, subjects[i], "fd"), "value")) >
                  0);
    double start = json_number_value(
               json_object_get(evaluation_of(r, "adapter", "heldout_loss_start"), "value")),
           end = json_number_value(
               json_object_get(evaluation_of(r, "adapter", "heldout_loss"), "value"));
    ck_assert_msg(end > 0 && end < start, "held-out loss %g -> %g", start, end);
}

/* The entry of old_tasks for the finished train job in dir. */
static UNUSED json_t *task_of(const char *dir, const char *name) {
    json_t *spec = read_json(dir, "spec.json"), *res = read_json(dir, "result.json");
    char *adapter = ds_xasprintf("%s/adapter.safetensors.zst", dir),
         *reference = ds_xasprintf("%s/reference.safetensors.zst", dir), *ref;
    ref = ds_xasprintf("%s@v1", name);
    json_t *t = json_pack("{s:s, s:s}", "name", name, "ref", ref);
    json_object_set_new(t, "adapter", file_json(NULL, adapter, text_at(res, "adapter", "sha256")));
    json_object_set_new(t, "reference",
                        file_json(NULL, reference, text_at(res, "reference", "sha256")));
    json_object_set(t, "probe", json_object_get(res, "probe"));
    json_object_set(t, "sample", json_object_get(spec, "sample"));
    json_object_set(t, "evaluate", json_object_get(spec, "evaluate"));
    json_object_set(t, "fd", json_object_get(evaluation_of(res, "adapter", "fd"), "value"));
    json_object_set(t, "kid", json_object_get(evaluation_of(res, "adapter", "kid"), "value"));
    json_object_set_new(t, "base_sha256", json_string(text_at(spec, "base", "sha256")));
    json_object_set_new(t, "feature_net_sha256",
                        json_string(text_at(spec, "feature_net", "sha256")));
    free(adapter);
    free(reference);
    free(ref);
    json_t *copy = json_deep_copy(t);
    json_decref(t);
    json_decref(spec);
    json_decref(res);
    return copy;
}

#endif
