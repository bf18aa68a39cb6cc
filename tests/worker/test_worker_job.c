/* tests/worker/test_worker_job.c - whole jobs as real processes: results, interruption, full disks. */
#include "contract/job.h"
#include "engine/files/safetensors.h"
#include "tests/fixtures/worker_fixture.h"

#include <dirent.h>
#include <math.h>
#include <sys/file.h>

enum { KILLS = SANITIZED ? 2 : 12 };

static char *undisturbed; /* directory of a finished job "blobs" */

static void undisturbed_digest(char out[DS_HEX_SIZE]) {
    json_t *r = read_json(undisturbed, "result.json");
    snprintf(out, DS_HEX_SIZE, "%s", text_at(r, "adapter", "sha256"));
    json_decref(r);
}

static void expect_same_adapter(const char *dir) {
    char want[DS_HEX_SIZE], got[DS_HEX_SIZE],
        *path = ds_xasprintf("%s/adapter.safetensors.zst", dir);
    undisturbed_digest(want);
    unpacked_digest(path, got);
    ck_assert_str_eq(got, want);
    json_t *r = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(r, "adapter", "sha256"), want);
    ck_assert_str_eq(text_at(r, "status", NULL), "ok");
    json_decref(r);
    free(path);
}

/* Every line is JSON with a time and a type; counts the type. */
static int events_of(const char *dir, const char *type, json_t **last) {
    char *path = ds_xasprintf("%s/events.ndjson", dir), *text, *line, *end;
    size_t n;
    int count = 0;
    ds_error err;
    must(ds_fs_read(path, 1 << 24, &text, &n, &err), &err);
    for (line = text; (end = strchr(line, '\n')); line = end + 1) {
        json_t *doc;
        if (end == line)
            continue;
        ck_assert_msg(!ds_json_parse("event", line, (size_t)(end - line), &doc, &err), "%s: %.*s",
                      err.message, (int)(end - line), line);
        ck_assert(json_is_integer(json_object_get(doc, "t")));
        if (!strcmp(text_at(doc, "type", NULL), type)) {
            count++;
            if (last) {
                json_decref(*last);
                *last = json_incref(doc);
            }
        }
        json_decref(doc);
    }
    ck_assert_msg(!*line, "the last line is torn: %s", line);
    free(text);
    free(path);
    return count;
}

START_TEST(result_is_complete) {
    json_t *r = read_json(undisturbed, "result.json");
    char *path = ds_xasprintf("%s/adapter.safetensors.zst", undisturbed), sha[DS_HEX_SIZE];
    ck_assert_str_eq(text_at(r, "schema", NULL), "diffscaler.train/1");
    ck_assert_str_eq(text_at(r, "gate", "verdict"), "passed");
    file_digest(path, sha);
    ck_assert_str_eq(text_at(r, "adapter", "stored_sha256"), sha);
    unpacked_digest(path, sha);
    ck_assert_str_eq(text_at(r, "adapter", "sha256"), sha);
    struct stat st;
    ck_assert(!stat(path, &st));
    ck_assert_int_eq(
        json_integer_value(json_object_get(json_object_get(r, "adapter"), "stored_bytes")),
        st.st_size);
    ck_assert_int_eq(json_integer_value(json_object_get(r, "images")), 2 * PER_CLASS);
    ck_assert_int_eq(json_integer_value(json_object_get(r, "classes")), 2);
    expect_learned(r);
    evaluation_of(r, "base", "kid");
    ck_assert(json_number_value(json_object_get(r, "train_seconds")) > 0);
    ck_assert(json_number_value(json_object_get(r, "images_per_second")) > 0);
    static const char *const files[] = {"grid.png", "samples.png", "reference.safetensors.zst"};
    for (int i = 0; i < 3; i++) {
        char *f = ds_xasprintf("%s/%s", undisturbed, files[i]);
        ck_assert_msg(ds_fs_exists(f), "%s is missing", files[i]);
        free(f);
    }
    const json_t *loss = json_object_get(r, "loss");
    double first = ds_json_number(loss, "first", NAN), last = ds_json_number(loss, "last", NAN);
    ck_assert_msg(first > 0 && last > 0 && last != first, "loss %g -> %g", first, last);
    ck_assert_int_eq(events_of(undisturbed, "checkpoint", NULL), STEPS / 10);
    ck_assert_int_eq(events_of(undisturbed, "metric", NULL), 1 + STEPS / 20);
    ck_assert_int_eq(events_of(undisturbed, "done", NULL), 1);
    ck_assert_int_ge(events_of(undisturbed, "progress", NULL), 3);
    ck_assert_int_eq(events_of(undisturbed, "error", NULL), 0);
    char *events = ds_xasprintf("%s/events.ndjson", undisturbed), *text;
    size_t n;
    ck_assert(!ds_fs_read(events, 1 << 24, &text, &n, NULL));
    ck_assert_ptr_nonnull(strstr(text, "\"unit\":\"parts of the distance\""));
    free(text);
    free(events);
    json_decref(r);
    free(path);
}
END_TEST

/* The file as a stranger sees it. */
START_TEST(adapter_opens_with_python) {
    if (system("python3 -c 1 2>/dev/null") || system("zstd --version >/dev/null 2>&1")) {
        ds_test_skip("adapter_opens_with_python", "no python3 or no zstd");
        return;
    }
    char *cmd = ds_xasprintf(
        "zstd -dcq '%s/adapter.safetensors.zst' | python3 -c '\n"
        "import sys, json, struct\n"
        "b = sys.stdin.buffer.read()\n"
        "n = struct.unpack(\"<Q\", b[:8])[0]\n"
        "h = json.loads(b[8:8+n])\n"
        "m = json.loads(h.pop(\"__metadata__\")[\"diffscaler\"])\n"
        "size = {\"F32\": 4, \"BF16\": 2}\n"
        "end = 0\n"
        "for name, t in h.items():\n"
        "    c = 1\n"
        "    for d in t[\"shape\"]: c *= d\n"
        "    lo, hi = t[\"data_offsets\"]\n"
        "    assert hi - lo == c * size[t[\"dtype\"]], name\n"
        "    end = max(end, hi)\n"
        "assert 8 + n + end == len(b)\n"
        "assert m[\"classes\"] == [\"cool\", \"warm\"], m[\"classes\"]\n"
        "assert m[\"dataset\"][\"class_images\"] == [%d, %d]\n"
        "assert h[\"y_embedder.rows\"][\"shape\"] == [2, 32]\n"
        "assert \"blocks.0.attn.q.U\" in h\n"
        "for k in (\"base method seed steps engine rng metrics feature_net resize sample dataset "
        "\"\n"
        "          \"first_row null_row train device_class\").split(): assert k in m, k\n"
        "t = b[8:8+n].decode()\n"
        "assert \"/tmp\" not in t and \"second\" not in t, t\n"
        "'",
        undisturbed, PER_CLASS, PER_CLASS);
    ck_assert_int_eq(system(cmd), 0);
    free(cmd);
}
END_TEST

/* Two threads instead of one: the same bytes.  And then there is nothing left to do. */
START_TEST(threads_change_nothing_and_finished_is_not_redone) {
    json_t *spec = train_spec("blobs");
    json_object_set_new(json_object_get(spec, "device"), "threads", json_integer(2));
    char *dir = make_job("again", spec), *path = ds_xasprintf("%s/adapter.safetensors.zst", dir);
    struct stat a, b;
    run_expect(dir, 0);
    ck_assert(!stat(path, &a));
    run_expect(dir, 0);
    ck_assert(!stat(path, &b));
    ck_assert(a.st_ino == b.st_ino);
    expect_same_adapter(dir);
    free(path);
    free(dir);
}
END_TEST

static int count_events(const char *dir, const char *type) {
    char *path = ds_xasprintf("%s/events.ndjson", dir), *text,
         *mark = ds_xasprintf("\"type\":\"%s\"", type);
    size_t n;
    int count = 0;
    if (!ds_fs_read(path, 1 << 24, &text, &n, NULL)) {
        for (char *at = text; (at = strstr(at, mark)); at++)
            count++;
        free(text);
    }
    free(path);
    free(mark);
    return count;
}

/* Let it write one more checkpoint, then a random moment; or a random moment from the start. */
static void random_moment(const char *dir, int i) {
    int before = count_events(dir, "checkpoint");
    uint32_t r = ds_rng_u32(3, DS_STREAM_TEST, (uint32_t)i, 0, 0);
    for (int k = 0; i % 2 && k < 20000 && count_events(dir, "checkpoint") == before; k++) {
        if (count_events(dir, "done"))
            return;
        usleep(1000);
    }
    usleep(i % 2 ? r % 30000 : r % 1000000);
}

/* kill -9 at random moments, then to the end: the same bytes. */
START_TEST(killed_job_resumes) {
    char *dir = make_job("killed", train_spec("blobs"));
    int kills = 0, resumed = 0;
    for (int i = 0; i < KILLS; i++) {
        pid_t pid = start_job(dir, NULL, NULL);
        random_moment(dir, i);
        kill(pid, SIGKILL);
        int status = wait_job(pid);
        kills += status == 1000 + SIGKILL;
        ck_assert_msg(status == 0 || status == 1000 + SIGKILL, "status %d", status);
        if (status == 0 || i % 4 == 3) { /* it was faster, or far enough: another one */
            run_expect(dir, 0);
            expect_same_adapter(dir);
            resumed += count_events(dir, "resumed");
            ds_error err;
            must(ds_fs_remove(dir, &err), &err);
            free(dir);
            dir = make_job("killed", train_spec("blobs"));
        }
    }
    run_expect(dir, 0);
    resumed += count_events(dir, "resumed");
    ck_assert_int_ge(kills, 1);
    ck_assert_int_ge(resumed, 1);
    expect_same_adapter(dir);
    free(dir);
}
END_TEST

static json_t *long_spec(int steps) {
    json_t *s = train_spec("blobs"), *t = json_object_get(s, "train");
    json_object_set_new(t, "steps", json_integer(steps));
    json_object_set_new(t, "checkpoint_every", json_integer(1000000));
    return s;
}

/* Wait until the job says that it trains. */
static void wait_training(const char *dir) {
    char *path = ds_xasprintf("%s/events.ndjson", dir), *text;
    size_t n;
    for (int i = 0; i < 6000; i++, usleep(10000)) {
        if (ds_fs_read(path, 1 << 24, &text, &n, NULL))
            continue;
        int there = strstr(text, "\"stage\":\"train\",\"done\"") != NULL;
        free(text);
        if (there)
            break;
    }
    free(path);
}

static int only_checkpoint(const char *dir) {
    char *path = ds_xasprintf("%s/checkpoints", dir);
    DIR *d = opendir(path);
    int step = 0, s;
    for (struct dirent *e; d && (e = readdir(d));)
        if (strstr(e->d_name, ".safetensors") && sscanf(e->d_name, "step-%d", &s) == 1 && s > step)
            step = s;
    if (d)
        closedir(d);
    free(path);
    return step;
}

START_TEST(sigterm_saves_and_resumes) {
    char *dir = make_job("term", long_spec(100000000));
    pid_t pid = start_job(dir, NULL, NULL);
    wait_training(dir);
    double begin = ds_monotonic();
    kill(pid, SIGTERM);
    ck_assert_int_eq(wait_job(pid), 143);
    ck_assert_msg(ds_monotonic() - begin < 5, "took %.1f s", ds_monotonic() - begin);
    int step = only_checkpoint(dir);
    ck_assert_int_gt(step, 0);
    pid = start_job(dir, NULL, NULL); /* and goes on from there */
    wait_training(dir);
    json_t *last = NULL;
    while (events_of(dir, "resumed", &last) < 1)
        usleep(10000);
    ck_assert_int_eq(json_integer_value(json_object_get(last, "step")), step);
    char *cancel = ds_xasprintf("%s/cancel", dir);
    ds_error err;
    must(ds_fs_write(cancel, "", 0, &err), &err);
    kill(pid, SIGTERM);
    ck_assert_int_eq(wait_job(pid), 130);
    ck_assert_int_eq(run_job(dir), 130); /* stays cancelled */
    json_decref(last);
    free(cancel);
    free(dir);
}
END_TEST

/* Stopped by SIGTERM in the middle of the training of the same spec: same bytes. */
START_TEST(sigterm_keeps_the_digest) {
    char *dir = make_job("term2", train_spec("blobs"));
    int status, stops = 0;
    for (int i = 0; i < 40; i++) {
        pid_t pid = start_job(dir, NULL, NULL);
        usleep(60000 * (useconds_t)(i + 1));
        kill(pid, SIGTERM);
        status = wait_job(pid); /* 1000 + SIGTERM: before it had its handlers */
        ck_assert_msg(status == 0 || status == 143 || status == 1000 + SIGTERM, "status %d",
                      status);
        stops += status == 143;
        if (!status)
            break;
    }
    run_expect(dir, 0);
    ck_assert_int_gt(stops, 0);
    expect_same_adapter(dir);
    free(dir);
}
END_TEST

START_TEST(damaged_checkpoint_is_passed_over) {
    char *dir = make_job("damaged", train_spec("blobs")), *path;
    ds_error err;
    run_expect(dir, 0);
    static const char *const later[] = {"result.json", "stage", "adapter.safetensors.zst"};
    for (int i = 0; i < 3; i++) {
        path = ds_xasprintf("%s/%s", dir, later[i]);
        must(ds_fs_remove(path, &err), &err);
        free(path);
    }
    path = ds_xasprintf("%s/checkpoints/step-%08d.safetensors", dir, STEPS);
    int fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    char byte;
    ck_assert(pread(fd, &byte, 1, 5000) == 1);
    byte = (char)(byte ^ 4);
    ck_assert(pwrite(fd, &byte, 1, 5000) == 1);
    close(fd);
    free(path);
    run_expect(dir, 0);
    json_t *last = NULL;
    ck_assert_int_eq(events_of(dir, "warning", &last), 1);
    ck_assert_ptr_nonnull(strstr(text_at(last, "message", NULL), "is damaged"));
    json_decref(last);
    last = NULL;
    ck_assert_int_eq(events_of(dir, "resumed", &last), 1);
    ck_assert_int_eq(json_integer_value(json_object_get(last, "step")), STEPS - 10);
    json_decref(last);
    expect_same_adapter(dir);
    free(dir);
}
END_TEST

/* The disk is full from the k-th write on; after room was made, the same bytes. */
START_TEST(full_disk_is_temporary) {
    static const int at[] = {1, 2, 5, 9, 14, 17, 19, 20, 21};
    char *dir = make_job("full", train_spec("blobs"));
    int refusals = 0;
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        char k[16];
        snprintf(k, sizeof k, "%d", at[i]);
        setenv("DS_TEST_ENOSPC", k, 1);
        pid_t pid = start_job(dir, NULL, NULL);
        unsetenv("DS_TEST_ENOSPC");
        int status = wait_job(pid);
        if (status == 0)
            break;
        if (status != 75)
            show_log(dir);
        ck_assert_int_eq(status, 75);
        refusals++;
        json_t *last = NULL;
        ck_assert_int_eq(events_of(dir, "error", &last), refusals);
        ck_assert_str_eq(text_at(last, "code", NULL), "DS_ENOSPC");
        json_decref(last);
    }
    ck_assert_int_ge(refusals, 3);
    run_expect(dir, 0);
    expect_same_adapter(dir);
    free(dir);
}
END_TEST

START_TEST(second_worker_is_refused) {
    char *dir = make_job("locked", train_spec("blobs")), *path = ds_xasprintf("%s/lock", dir),
         *text;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    size_t n;
    ck_assert(fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB));
    run_expect(dir, 75);
    free(path);
    path = ds_xasprintf("%s/worker.log", dir);
    ck_assert(!ds_fs_read(path, 1 << 20, &text, &n, NULL));
    ck_assert_ptr_nonnull(strstr(text, "another worker runs the job"));
    close(fd);
    free(text);
    free(path);
    free(dir);
}
END_TEST

/* The worker stops when the process that started it is gone. */
START_TEST(orphan_stops) {
    char *dir = make_job("orphan", long_spec(100000000)), *path;
    int io[2], status;
    ck_assert(!pipe(io));
    pid_t middle = fork(), worker = 0;
    if (middle == 0) {
        char me[16];
        snprintf(me, sizeof me, "%d", (int)getpid());
        worker = start_job(dir, "--parent", me);
        if (write(io[1], &worker, sizeof worker) != sizeof worker)
            _exit(1);
        pause();
    }
    ck_assert(read(io[0], &worker, sizeof worker) == sizeof worker);
    wait_training(dir);
    kill(middle, SIGKILL);
    waitpid(middle, &status, 0);
    path = ds_xasprintf("%s/lock", dir);
    int fd = open(path, O_RDWR | O_CLOEXEC), got = -1;
    for (int i = 0; i < 1000 && (got = flock(fd, LOCK_EX | LOCK_NB)); i++)
        usleep(10000);
    ck_assert_msg(!got, "the worker still holds its lock 10 s after its parent died");
    ck_assert_int_gt(only_checkpoint(dir), 0);
    close(fd);
    close(io[0]);
    close(io[1]);
    /* a parent that is not ours */
    ck_assert_int_eq(wait_job(start_job(dir, "--parent", "1")), 143);
    free(path);
    free(dir);
}
END_TEST

static void expect_error(const char *name, json_t *spec, int status, const char *part) {
    char *dir = make_job(name, spec);
    json_t *last = NULL;
    run_expect(dir, status);
    ck_assert_int_eq(events_of(dir, "error", &last), 1);
    ck_assert_msg(strstr(text_at(last, "message", NULL), part) != NULL, "'%s' is not in '%s'", part,
                  text_at(last, "message", NULL));
    json_decref(last);
    free(dir);
}

START_TEST(too_little_memory_is_refused_with_figures) {
    json_t *s = train_spec("blobs");
    json_object_set_new(json_object_get(s, "device"), "memory_limit", json_integer(1 << 20));
    expect_error("memory", s, 2, "MiB and only 1 MiB are available");
}
END_TEST

START_TEST(bad_input_has_its_status) {
    json_t *s = train_spec("blobs");
    json_object_set_new(json_object_get(s, "train"), "stepps", json_integer(1));
    expect_error("typo", s, 2, "spec.json: train.stepps is not a known key");
    s = train_spec("blobs");
    json_object_set_new(json_object_get(s, "base"), "sha256",
                        json_string("00000000000000000000000000000000"
                                    "00000000000000000000000000000000"));
    expect_error("base", s, 9, "has changed");
    s = train_spec("blobs");
    json_object_set_new(json_object_get(s, "dataset"), "tree_digest",
                        json_string("00000000000000000000000000000000"
                                    "00000000000000000000000000000000"));
    expect_error("tree", s, 9, "manifest");
    s = train_spec("blobs");
    json_object_set_new(json_object_get(s, "dataset"), "root", json_string("/nonexistent/folder"));
    json_object_set_new(s, "cache_dir", json_string(ds_test_tmpdir())); /* not cached here */
    expect_error("root", s, 2, "/nonexistent/folder");
}
END_TEST

static ds_st *samples_of(const char *dir, int n) {
    char *path = ds_xasprintf("%s/samples.safetensors", dir);
    ds_st *st;
    ds_error err;
    must(ds_st_open_file(path, 1 << 24, 0, &st, &err), &err);
    const ds_st_tensor *images = ds_st_find(st, "images"), *labels = ds_st_find(st, "labels");
    ck_assert(images && images->ndim == 4 && images->shape[0] == n);
    ck_assert(labels && labels->ndim == 1 && labels->shape[0] == n && labels->data < images->data);
    free(path);
    return st;
}

/* More pictures than fit into one portion: each has its own noise, wherever a portion begins; and
 * no sheet is made where none is wanted. */
static void check_portions(json_t *spec) {
    json_t *fewer = json_deep_copy(spec), *r;
    json_object_set_new(spec, "n", json_integer(70));
    json_object_set_new(spec, "sheet", json_false());
    json_object_set_new(fewer, "n", json_integer(66));
    char *dir = make_job("sample-many", spec), *dir2 = make_job("sample-fewer", fewer),
         *grid = ds_xasprintf("%s/grid.png", dir);
    run_expect(dir, 0);
    run_expect(dir2, 0);
    ck_assert(!ds_fs_exists(grid));
    r = read_json(dir, "result.json");
    ck_assert(json_is_null(json_object_get(r, "grid")));
    ds_st *many = samples_of(dir, 70), *few = samples_of(dir2, 66);
    ck_assert_str_eq(ds_st_meta(many, "digest"), text_at(r, "digest", NULL));
    ck_assert_str_eq(ds_st_meta(many, "classes"), "[\"cool\",\"warm\"]");
    const ds_st_tensor *a = ds_st_find(many, "images"), *b = ds_st_find(few, "images");
    size_t one = a->bytes / 70;
    ck_assert_int_eq(memcmp(a->data, b->data, 66 * one), 0);
    const uint8_t *px = a->data; /* same label */
    ck_assert_int_ne(memcmp(px, px + 64 * one, one), 0);
    ds_st_free(many);
    ds_st_free(few);
    json_decref(r);
    free(grid);
    free(dir);
    free(dir2);
}

/* Digest of five samples with these settings, and the passes that are said; classes in turn. */
static char *sampled_with(const char *name, json_t *adapter, json_t *sample, int *passes) {
    json_t *s = json_object();
    set_common(s, "sample");
    json_object_set(s, "adapter", adapter);
    json_object_set_new(s, "sample", sample);
    json_object_update_new(s, json_pack("{s:i, s:i, s:n}", "n", 5, "seed", 1, "class"));
    char *dir = make_job(name, s);
    run_expect(dir, 0);
    json_t *r = read_json(dir, "result.json");
    char *digest = ds_xstrdup(text_at(r, "digest", NULL));
    *passes = (int)json_real_value(json_object_get(r, "passes"));
    json_decref(r);
    free(dir);
    return digest;
}

static json_t *by_weights(double domain, double classes) {
    return json_pack("{s:s, s:i, s:f, s:f}", "sampler", "dpmpp2m", "steps", 4, "guidance_domain",
                     domain, "guidance_class", classes);
}

static json_t *by_mode(const char *mode) {
    json_t *s = sample_json();
    json_object_set_new(s, "guidance_mode", json_string(mode));
    return s;
}

/* The modes are weights, with the same bytes; the base itself takes that of the class alone. */
START_TEST(samples_by_weights) {
    json_t *t = task_of(undisturbed, "blobs"), *a = json_object_get(t, "adapter"),
           *no = json_null();
    static const char *const modes[] = {"none", "cfg", "domain"};
    static const double weights[][2] = {{1, 1}, {1, 1.5}, {1.5, 1.5}};
    char *both, *seen[3];
    int passes, want;
    for (int i = 0; i < 3; i++) {
        char *w;
        seen[i] = sampled_with("by-mode", a, by_mode(modes[i]), &want);
        w = sampled_with("by-weights", a, by_weights(weights[i][0], weights[i][1]), &passes);
        ck_assert_str_eq(w, seen[i]);
        ck_assert_int_eq(passes, i ? 2 : 1);
        ck_assert_int_eq(want, passes);
        free(w);
    }
    json_t *rests = by_mode("domain"); /* DDPM's levels are below 1 */
    json_object_set_new(rests, "guidance_low", json_real(1));
    both = sampled_with("rests", a, rests, &passes);
    ck_assert_int_eq(passes, 1);
    ck_assert_str_eq(both, seen[0]);
    free(both);
    both = sampled_with("by-both", a, by_weights(1.5, 3), &passes);
    ck_assert_int_eq(passes, 3);
    for (int i = 0; i < 3; i++) {
        ck_assert_str_ne(both, seen[i]);
        free(seen[i]);
    }
    free(both);
    char *plain = sampled_with("of-base", no, by_mode("domain"), &passes);
    ck_assert_int_eq(passes, 1);
    both = sampled_with("of-base-both", no, by_weights(2, 3), &passes);
    ck_assert_int_eq(passes, 1); /* without a class there is nothing to be guided by */
    ck_assert_str_eq(plain, both);
    free(plain);
    free(both);
    json_decref(t);
}
END_TEST

START_TEST(sample_job) {
    json_t *s = json_object(), *t = task_of(undisturbed, "blobs"), *r;
    set_common(s, "sample");
    json_object_set(s, "adapter", json_object_get(t, "adapter"));
    json_object_set_new(s, "sample", sample_json());
    json_object_set_new(s, "n", json_integer(5));
    json_object_set_new(s, "seed", json_integer(1));
    json_object_set_new(s, "class", json_null());
    json_object_set_new(s, "columns", json_integer(0));
    json_t *other = json_deep_copy(s), *none = json_deep_copy(s), *bad = json_deep_copy(s),
           *many = json_deep_copy(s);
    char *dir = make_job("sample", s);
    run_expect(dir, 0);
    r = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(r, "schema", NULL), "diffscaler.sample/1");
    ck_assert(ds_digest_valid(text_at(r, "digest", NULL)));
    char *grid = ds_xasprintf("%s/grid.png", dir);
    ck_assert(ds_fs_exists(grid));
    json_object_set_new(other, "class", json_string("warm"));
    char *dir2 = make_job("sample-warm", other);
    run_expect(dir2, 0);
    json_t *r2 = read_json(dir2, "result.json");
    ck_assert_str_ne(text_at(r, "digest", NULL), text_at(r2, "digest", NULL));
    json_object_set_new(none, "adapter", json_null());
    char *dir3 = make_job("sample-base", none);
    run_expect(dir3, 0);
    json_object_set_new(bad, "class", json_string("green"));
    expect_error("sample-green", bad, 2, "no class 'green'");
    check_portions(many);
    json_decref(t);
    json_decref(r);
    json_decref(r2);
    free(grid);
    free(dir);
    free(dir2);
    free(dir3);
}
END_TEST

START_TEST(scan_job) {
    char *root = in_tmp("blobs");
    json_t *s = json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:i, s:i, s:i, s:i}", "schema",
                          "diffscaler.job/1", "kind", "scan", "job", 3, "dataset", "blobs", "root",
                          root, "hash_cache", "", "min_side", 8, "max_pixels", 67108864,
                          "max_classes", 10000, "max_files", 10000000);
    char *dir = make_job("scan", s), *manifest = ds_xasprintf("%s/manifest.ndjson", dir),
         sha[DS_HEX_SIZE];
    run_expect(dir, 0);
    json_t *r = read_json(dir, "result.json");
    file_digest(manifest, sha);
    ck_assert_str_eq(text_at(r, "tree_digest", NULL), sha);
    ck_assert_int_eq(json_integer_value(json_object_get(r, "images")), 2 * PER_CLASS);
    json_decref(r);
    free(manifest);
    free(root);
    free(dir);
}
END_TEST

/* Each status that run may have is in its help. */
START_TEST(help_names_every_status) {
    static char word[] = "--help";
    char *file = in_tmp("help"), *text, *args[] = {word, NULL};
    size_t n;
    pid_t child = fork();
    if (!child)
        _exit(!freopen(file, "w", stdout) || ds_worker_run(1, args) || fflush(stdout));
    int status = -1;
    ck_assert(waitpid(child, &status, 0) == child && status == 0);
    ck_assert_int_eq(ds_fs_read(file, 1 << 16, &text, &n, NULL), 0);
    const char *p = strstr(text, "exit status:");
    ck_assert_ptr_nonnull(p);
#define X(name, code, meaning)                                                                     \
    while (p && strtol(p, NULL, 10) != (code)) /* in their order */                                \
        p = strpbrk(p + 1 + strspn(p + 1, "0123456789"), "0123456789");                            \
    ck_assert_msg(p != NULL, "no %d in: %s", code, text);
    DS_WORKER_EXITS(X)
#undef X
    free(text);
    free(file);
}
END_TEST

static void register_cases(TCase *tc) {
    fixture_make();
    undisturbed = make_job("undisturbed", train_spec("blobs"));
    if (run_job(undisturbed)) {
        show_log(undisturbed);
        exit(1);
    }
    tcase_add_test(tc, result_is_complete);
    tcase_add_test(tc, adapter_opens_with_python);
    tcase_add_test(tc, killed_job_resumes);
    tcase_add_test(tc, sigterm_saves_and_resumes);
    tcase_add_test(tc, second_worker_is_refused);
    tcase_add_test(tc, orphan_stops);
    tcase_add_test(tc, too_little_memory_is_refused_with_figures);
    tcase_add_test(tc, bad_input_has_its_status);
    tcase_add_test(tc, sample_job);
    tcase_add_test(tc, samples_by_weights);
    tcase_add_test(tc, scan_job);
    tcase_add_test(tc, help_names_every_status);
    if (SANITIZED) /* the same code with other timing; each of these evaluates several times */
        return;
    tcase_add_test(tc, threads_change_nothing_and_finished_is_not_redone);
    tcase_add_test(tc, sigterm_keeps_the_digest);
    tcase_add_test(tc, damaged_checkpoint_is_passed_over);
    tcase_add_test(tc, full_disk_is_temporary);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_job", register_cases);
}
