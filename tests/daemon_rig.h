/* tests/daemon_rig.h - a real daemon process on a private state folder, and a worker that obeys.
 *
 * The test program is all three: called as `diffscalerd ...` it is the daemon, called by the script
 * RIG/worker it is a fake diffscaler-worker that follows docs/jobs.md, else it is the test.  What
 * the worker does is read from RIG/fake/<kind> at each start, so a test changes it at any time:
 *   ok             (also when the file is absent) a proper result
 *   exit N         an error event, exit N            crash          SIGKILL to itself
 *   quiet N        a line on stderr, exit N          saved N        the same after a checkpoint
 *   hang           until SIGTERM, then exit 143      stubborn       ignores SIGTERM
 *   torn           proper result after a torn line   liar           exit 0 without a result
 *   flip           adapter with a flipped bit        refuse         exit 8 with a verdict
 *   slow MS        proper result after MS            worse          (train) FD 20 instead of 5
 *   mortal         dies of SIGTERM itself            mixed          exit 8 with a result of exit 0
 *   latent, elsewhere (import)  a base that needs a VAE; a result that names another file
 *   odd            (train) a result without measurements
 *   wordy N        more than a page on stderr, its last line without an end, exit N
 *   busy           progress in two stages, ten metrics and a warning at once, then as ok
 *   sulky          until SIGTERM, then exit 5        deaf           hears SIGTERM when asked again;
 *                                                  DIR/deaf is there once it does
 *   family         stubborn, and so is a child of its; DIR/child holds its number
 */
#ifndef DS_TESTS_DAEMON_RIG_H
#define DS_TESTS_DAEMON_RIG_H

#include "base/digest.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/zio.h"
#include "daemon/child.h"
#include "daemon/daemon.h"
#include "tests/harness.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define RIG_UNUSED __attribute__((unused))

typedef struct {
    char dir[200], state[256], socket[256];
    pid_t pid;
    int unprivileged; /* start the daemon as nobody (only if this is root) */
} rig;

/* ---- the fake worker ---- */

static volatile sig_atomic_t rig_terminated;
static void rig_on_term(int sig) { (void)sig, rig_terminated = 1; }

static void rig_event(const char *dir, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void rig_event(const char *dir, const char *fmt, ...) {
    char path[PATH_MAX];
    ds_buf b = {0};
    va_list ap;
    va_start(ap, fmt);
    char text[1024];
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ds_buf_addf(&b, "%s", text);
    ds_fs_join(path, sizeof path, dir, "events.ndjson");
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0640);
    if (fd >= 0 && write(fd, b.data, b.len) != (ssize_t)b.len)
        _exit(75);
    close(fd);
    ds_buf_release(&b);
}

static int rig_quit(const char *dir, int code, const char *name, const char *message) {
    rig_event(dir, "{\"t\":1,\"type\":\"error\",\"code\":\"%s\",\"message\":\"%s\"}\n", name,
              message);
    fprintf(stderr, "%s\n", message);
    return code;
}

static char **rig_files;
static size_t rig_file_count;
static int rig_collect(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)ftw;
    if (flag == FTW_F) {
        rig_files = ds_xrealloc(rig_files, (rig_file_count + 1) * sizeof *rig_files);
        rig_files[rig_file_count++] = ds_xstrdup(path);
    }
    return 0;
}
static int rig_by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int rig_scan(const char *dir, const json_t *spec) {
    const char *root = ds_json_string(spec, "root", "");
    char path[PATH_MAX], sha[DS_HEX_SIZE];
    ds_buf m = {0};
    int64_t bytes = 0;
    nftw(root, rig_collect, 16, FTW_PHYS);
    if (rig_file_count)
        qsort(rig_files, rig_file_count, sizeof *rig_files, rig_by_name);
    for (size_t i = 0; i < rig_file_count; i++) {
        struct stat st;
        if (stat(rig_files[i], &st) || ds_digest_file(rig_files[i], sha, NULL))
            continue;
        bytes += st.st_size;
        ds_buf_addf(&m, "{\"path\":\"%s\",\"size\":%lld,\"sha256\":\"%s\",\"class\":\"all\"}\n",
                    rig_files[i] + strlen(root) + 1, (long long)st.st_size, sha);
    }
    if (!m.len)
        return rig_quit(dir, 2, "DS_EINVAL", "the folder has no usable image");
    ds_fs_join(path, sizeof path, dir, "manifest.ndjson");
    ds_fs_write(path, m.data, m.len, NULL);
    ds_digest(m.data, m.len, sha);
    ds_buf_release(&m);
    json_t *r = json_pack("{ss ss ss sI sI s[{ss sI}] s[] si s{sisi} s{sisi} sf si si}", "schema",
                          "diffscaler.scan/1", "tree_digest", sha, "manifest", "manifest.ndjson",
                          "images", (json_int_t)rig_file_count, "bytes", (json_int_t)bytes,
                          "classes", "name", "all", "images", (json_int_t)rig_file_count,
                          "rejected", "rejected_count", 0, "width", "min", 32, "max", 32, "height",
                          "min", 32, "max", 32, "seconds", 0.1, "hashed", 1, "cached", 0);
    ds_fs_join(path, sizeof path, dir, "result.json");
    return ds_json_write_file(path, r, NULL) ? 1 : 0;
}

static void rig_blob(const char *dir, const char *file, const char *text, int flip, json_t *into) {
    char path[PATH_MAX], sha[DS_HEX_SIZE], stored[DS_HEX_SIZE];
    struct stat st;
    ds_fs_join(path, sizeof path, dir, file);
    ds_zio_write_file(path, text, strlen(text), 3, NULL);
    ds_digest(text, strlen(text), sha);
    ds_digest_file(path, stored, NULL);
    stat(path, &st);
    if (flip) {
        int fd = open(path, O_RDWR);
        char c;
        if (pread(fd, &c, 1, st.st_size / 2) == 1) {
            c ^= 4;
            if (pwrite(fd, &c, 1, st.st_size / 2) != 1)
                _exit(75);
        }
        close(fd);
    }
    json_object_set_new(into, "file", json_string(file));
    json_object_set_new(into, "sha256", json_string(sha));
    json_object_set_new(into, "raw_bytes", json_integer((json_int_t)strlen(text)));
    json_object_set_new(into, "stored_bytes", json_integer(st.st_size));
    json_object_set_new(into, "stored_sha256", json_string(stored));
}

static json_t *rig_probe(const char *of) {
    char sha[DS_HEX_SIZE];
    ds_digest(of, strlen(of), sha);
    return json_pack("{ss ss si si}", "device_class", "cpu-test-f32", "sha256", sha, "n", 4, "seed",
                     11);
}

/* Task 0, when the spec says that it is not recorded yet. */
static void rig_base_task(const char *dir, const json_t *spec, json_t *result) {
    const json_t *net = json_object_get(spec, "feature_net");
    if (!json_is_null(json_object_get(spec, "base_task")))
        return;
    json_t *reference = json_pack("{si}", "n", 256);
    rig_blob(dir, "base_reference.safetensors.zst", "statistics of the base", 0, reference);
    json_object_set_new(result, "base_task",
                        json_pack("{so so sf sf si s{si} s{si si} sO si ss}", "probe",
                                  rig_probe("base"), "reference", reference, "fd", 7.5, "kid", 0.01,
                                  "n", 256, "sample", "steps", 20, "evaluate", "n", 256, "seed", 7,
                                  "feature_net", json_is_object(net) ? net : json_null(), "classes",
                                  6, "note", ""));
}

/* The bars of the spec, for a version with this FD; *bad = how many refused it. */
static json_t *rig_self(const json_t *spec, double fd, int *bad) {
    json_t *list = json_array(), *bar;
    size_t i;
    *bad = 0;
    json_array_foreach(json_object_get(spec, "bars"), i, bar) {
        double its = ds_json_number(bar, "fd", 1e9);
        int refused = fd > 1.1 * its;
        *bad += refused;
        json_array_append_new(
            list, json_pack("{ss ss ss sf sf sf si ss}", "role", ds_json_string(bar, "role", "?"),
                            "ref", ds_json_string(bar, "ref", "?"), "verdict",
                            refused ? "refused" : "passed", "fd_bar", its, "fd_now", fd, "delta",
                            fd / its - 1, "n", 512, "reason", "as the test says"));
    }
    char base[100];
    snprintf(base, sizeof base, "base:%s",
             ds_json_string(json_object_get(spec, "base"), "name", "?"));
    json_array_append_new(list, json_pack("{ss ss ss ss}", "role", "base", "ref", base, "verdict",
                                          "none", "reason", "the test does not say"));
    int forced = *bad && ds_json_bool(spec, "publish_worse", 0);
    return json_pack("{ss sf si so}", "verdict",
                     forced ? "forced"
                     : *bad ? "refused"
                            : "passed",
                     "fd", fd, "n", 512, "bars", list);
}

static json_t *rig_gate(const json_t *spec, int refused) {
    json_t *tasks = json_array(), *t;
    size_t i;
    if (json_is_object(json_object_get(spec, "base_task")))
        json_array_append_new(
            tasks,
            json_pack("{ss ss si sb ss sf sf}", "name", "base", "ref",
                      ds_json_string(json_object_get(spec, "base_task"), "ref", "?"), "level", 1,
                      "unchanged", 1, "verdict", "passed", "fd_recorded", 7.5, "fd_now", 7.5));
    json_array_foreach(json_object_get(spec, "old_tasks"), i, t) json_array_append_new(
        tasks, json_pack("{ss ss si sb ss ss sf sf}", "name", ds_json_string(t, "name", "?"), "ref",
                         ds_json_string(t, "ref", "?"), "level", 1, "unchanged", !refused,
                         "verdict", refused ? "refused" : "passed", "reason",
                         refused ? "probe differs" : "probe is the same", "fd_recorded", 1.0,
                         "fd_now", 1.0));
    return json_pack("{ss ss so sf so}", "verdict", refused ? "refused" : "passed", "reason",
                     refused ? "an old task changed" : "all old tasks are unchanged", "worst_task",
                     refused ? json_string("flags") : json_null(), "delta", refused ? 0.5 : 0.0,
                     "tasks", tasks);
}

static int rig_train(const char *dir, const json_t *spec, const char *how) {
    char text[200], path[PATH_MAX];
    double fd = strcmp(how, "worse") == 0 ? 20 : 5;
    int refused = strcmp(how, "refuse") == 0, bad = 0;
    const json_t *ds = json_object_get(spec, "dataset");
    json_t *self = rig_self(spec, fd, &bad), *gate;
    bad = bad && !ds_json_bool(spec, "publish_worse", 0);
    gate = rig_gate(spec, refused);
    json_object_set_new(gate, "self", self);
    if (bad) {
        json_object_set_new(gate, "verdict", json_string("refused"));
        json_object_set_new(gate, "reason", json_string("worse: FD 5.00 -> 20.00"));
        refused = 1;
    }
    int odd = strcmp(how, "odd") == 0;
    snprintf(text, sizeof text, "adapter of %s %s seed %lld", ds_json_string(spec, "name", "?"),
             ds_json_string(ds, "tree_digest", "?"),
             (long long)ds_json_int(json_object_get(spec, "train"), "seed", 0));
    json_t *adapter = json_pack("{si}", "parameters", 10), *reference = json_pack("{si}", "n", 512);
    rig_blob(dir, "adapter.safetensors.zst", text, strcmp(how, "flip") == 0, adapter);
    rig_blob(dir, "reference.safetensors.zst", "statistics", 0, reference);
    char zero[DS_HEX_SIZE];
    ds_digest("probe", 5, zero);
    const char *net = ds_json_string(json_object_get(spec, "feature_net"), "sha256", zero);
    json_t *r = json_pack(
        "{ss ss so so s{ss ss si si} so so sI si si sf sf ss si s{sf sf} ss ss}", "schema",
        "diffscaler.train/1", "status", refused ? "rejected" : "ok", "adapter", adapter,
        "reference", reference, "probe", "device_class", "cpu-test-f32", "sha256", zero, "n", 4,
        "seed", 11, "evaluations", json_array(), "gate", gate, "images",
        (json_int_t)ds_json_int(ds, "images", 3), "classes", 1, "steps", 100, "train_seconds", 0.1,
        "images_per_second", 100.0, "device_class", "cpu-test-f32", "resumed_from_step", 0, "loss",
        "first", 1.0, "last", 0.5, "grid", "grid.png", "samples", "samples.png");
    if (!r)
        return rig_quit(dir, 1, "DS_EFAILED", "json_pack");
    json_t *evals = json_object_get(r, "evaluations");
    static const char *const subjects[] = {"base", "adapter"};
    for (int i = 0; i < 2; i++)
        json_array_append_new(evals, json_pack("{ss ss sf sn sn si si si ss ss ss}", "subject",
                                               subjects[i], "metric", "fd", "value", i ? fd : 50.0,
                                               "ci_low", "ci_high", "n_real", 3, "n_fake", 512,
                                               "seed", 7, "feature_net", net, "resize",
                                               "pil-bicubic-1", "sample_digest", zero));
    if (odd)
        json_object_del(r, "evaluations");
    rig_base_task(dir, spec, r);
    ds_fs_join(path, sizeof path, dir, "grid.png");
    ds_fs_write(path, "\x89PNG fake", 9, NULL);
    ds_fs_join(path, sizeof path, dir, "result.json");
    return ds_json_write_file(path, r, NULL) ? 1 : refused ? 8 : 0;
}

static int rig_other(const char *dir, const json_t *spec, const char *kind, const char *how) {
    char path[PATH_MAX], zero[DS_HEX_SIZE];
    int refused = strcmp(how, "refuse") == 0;
    ds_digest("x", 1, zero);
    json_t *r =
        strcmp(kind, "sample") == 0
            ? json_pack("{ss ss ss sI sf ss}", "schema", "diffscaler.sample/1", "grid", "grid.png",
                        "images", "samples.safetensors", "n", (json_int_t)ds_json_int(spec, "n", 0),
                        "seconds", 0.1, "digest", zero)
            : json_pack("{ss so}", "schema", "diffscaler.verify/1", "gate",
                        rig_gate(spec, refused));
    if (strcmp(kind, "verify") == 0)
        rig_base_task(dir, spec, r);
    ds_fs_join(path, sizeof path, dir, "grid.png");
    ds_fs_write(path, "\x89PNG fake", 9, NULL);
    ds_fs_join(path, sizeof path, dir, "result.json");
    return ds_json_write_file(path, r, NULL) ? 1 : refused ? 8 : 0;
}

/* OUT/<sha256>.safetensors with this text; its path in `path`, its digest in `sha`. */
static void rig_model(const char *out, const char *text, char path[PATH_MAX],
                      char sha[DS_HEX_SIZE]) {
    char name[DS_HEX_SIZE + 16];
    ds_digest(text, strlen(text), sha);
    snprintf(name, sizeof name, "%s.safetensors", sha);
    ds_fs_join(path, PATH_MAX, out, name);
    ds_fs_write(path, text, strlen(text), NULL);
}

/* The model's content is its source's name; "latent": needs a VAE. */
static int rig_import(const char *dir, const json_t *spec, const char *how) {
    char text[400], path[PATH_MAX], sha[DS_HEX_SIZE], vae[PATH_MAX], vae_sha[DS_HEX_SIZE];
    const char *out = ds_json_string(spec, "out_dir", "/nonexistent");
    snprintf(text, sizeof text, "model %s", ds_json_string(spec, "source", "?"));
    rig_model(out, text, path, sha);
    int64_t bytes = (int64_t)strlen(text);
    if (strcmp(how, "flip") == 0) {
        text[1] ^= 4;
        ds_fs_write(path, text, (size_t)bytes, NULL);
    }
    if (strcmp(how, "elsewhere") == 0)
        snprintf(path, sizeof path, "/etc/passwd");
    const char *what = ds_json_string(spec, "what", "?");
    json_t *r = json_pack(
        "{ss ss ss ss ss s{si ss} ss ss ss sI sI}", "schema", "diffscaler.import/1", "what", what,
        "name", ds_json_string(spec, "name", "?"), "file", path, "sha256", sha, "config", "pixel",
        strcmp(how, "latent") != 0, "kind", "inception-fid", "source_format", "fake",
        "source_sha256", sha, "license", ds_json_string(spec, "license", ""), "bytes",
        (json_int_t)bytes, "parameters", (json_int_t)1000);
    json_object_set_new(r, "vae", json_null());
    if (ds_json_string(spec, "vae", NULL)) {
        rig_model(out, "vae", vae, vae_sha);
        json_object_set_new(r, "vae", json_pack("{ss ss}", "file", vae, "sha256", vae_sha));
    }
    ds_fs_join(path, sizeof path, dir, "result.json");
    return ds_json_write_file(path, r, NULL) ? 1 : 0;
}

static void rig_wait_term(int seconds) {
    for (int i = 0; i < seconds * 100 && !rig_terminated; i++)
        usleep(10000);
}

/* 25 steps after the 10 that all report, and another stage that counts its own; in one piece, so
 * that the daemon reads all of it at once. */
static void rig_busy(const char *dir) {
    ds_buf b = {0};
    char path[PATH_MAX];
    ds_buf_addf(&b, "{\"type\":\"progress\",\"stage\":\"train\",\"done\":35,\"total\":100,"
                    "\"secret\":1,\"unit\":\"steps\"}\n");
    for (int i = 0; i < 10; i++)
        ds_buf_addf(&b, "{\"type\":\"metric\",\"key\":\"loss\",\"step\":%d,\"value\":%d.5}\n", i,
                    i);
    ds_buf_addf(&b, "{\"type\":\"warning\",\"message\":\"be careful\"}\n"
                    "{\"type\":\"progress\",\"stage\":\"evaluate\",\"done\":7}\n"
                    "{\"type\":\"progress\",\"stage\":\"evaluate\",\"done\":9,\"total\":9}\n");
    ds_fs_join(path, sizeof path, dir, "events.ndjson");
    int fd = open(path, O_WRONLY | O_APPEND);
    if (write(fd, b.data, b.len) != (ssize_t)b.len)
        _exit(75);
    close(fd);
    ds_buf_release(&b);
}

/* It and a child of its ignore SIGTERM for a minute. */
static void rig_family(const char *dir) {
    char path[PATH_MAX], text[24];
    signal(SIGTERM, SIG_IGN);
    pid_t child = fork();
    if (child > 0) {
        ds_fs_join(path, sizeof path, dir, "child");
        snprintf(text, sizeof text, "%d\n", (int)child);
        ds_fs_write(path, text, strlen(text), NULL);
    }
    sleep(60);
    _exit(1);
}

static int rig_wordy(int code) {
    for (int i = 0; i < 100; i++)
        fprintf(stderr, "line %d of many\n", i);
    fprintf(stderr, "fatal: the very end");
    return code;
}

static int rig_worker(const char *dir) {
    unsetenv("DS_TEST_ENOSPC"); /* meant for the daemon */
    char path[PATH_MAX], how[64] = "ok", file[300];
    json_t *spec = NULL;
    signal(SIGTERM, rig_on_term);
    /* never two workers on one directory */
    ds_fs_join(path, sizeof path, dir, "lock");
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB)) {
        rig_event(dir, "{\"type\":\"two workers\"}\n");
        return rig_quit(dir, 75, "DS_EBUSY", "another worker has this job directory");
    }
    ds_fs_join(path, sizeof path, dir, "spec.json");
    if (ds_json_read_file(path, 1 << 24, &spec, NULL))
        return rig_quit(dir, 2, "DS_EINVAL", "bad spec");
    const char *kind = ds_json_string(spec, "kind", "?");
    snprintf(file, sizeof file, "%s/fake/%s", getenv("RIG"), kind);
    FILE *f = fopen(file, "r");
    if (f && fgets(how, sizeof how, f))
        how[strcspn(how, "\n")] = 0;
    if (f)
        fclose(f);
    rig_event(dir, "{\"t\":1,\"type\":\"stage\",\"stage\":\"%s\"}\n", kind);
    rig_event(dir,
              "{\"t\":2,\"type\":\"progress\",\"stage\":\"%s\",\"done\":10,\"total\":100,"
              "\"unit\":\"steps\",\"rate\":5.5,\"eta_seconds\":3,\"loss\":0.25}\n",
              kind);
    fprintf(stderr, "fake worker: %s %s\n", kind, how);
    if (strncmp(how, "exit ", 5) == 0)
        return rig_quit(dir, (int)strtol(how + 5, NULL, 10), "DS_EIO", "told to fail");
    if (strncmp(how, "saved ", 6) == 0)
        rig_event(dir, "{\"t\":3,\"type\":\"checkpoint\",\"step\":4}\n");
    if (strncmp(how, "saved ", 6) == 0 || strncmp(how, "quiet ", 6) == 0) {
        fprintf(stderr, "fatal: the end\n");
        return (int)strtol(how + 6, NULL, 10);
    }
    if (strncmp(how, "wordy ", 6) == 0)
        return rig_wordy((int)strtol(how + 6, NULL, 10));
    if (strcmp(how, "busy") == 0)
        rig_busy(dir);
    if (strcmp(how, "family") == 0)
        rig_family(dir);
    if (strcmp(how, "crash") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(how, "liar") == 0)
        return 0;
    if (strcmp(how, "torn") == 0)
        rig_event(dir, "{\"t\":3,\"type\":\"progress\",\"done\":");
    if (strcmp(how, "stubborn") == 0)
        for (int i = 0; i < 600; i++)
            usleep(100000);
    if (strcmp(how, "mortal") == 0)
        signal(SIGTERM, SIG_DFL);
    if (strcmp(how, "hang") == 0 || strcmp(how, "mortal") == 0)
        rig_wait_term(60);
    if (strcmp(how, "sulky") == 0 || strcmp(how, "deaf") == 0)
        rig_wait_term(60);
    if (strcmp(how, "sulky") == 0)
        return 5;
    if (strcmp(how, "deaf") == 0) { /* the end of a daemon can be told more than once */
        for (double end = ds_monotonic() + 1.2; ds_monotonic() < end;)
            usleep(10000); /* which a signal cuts short */
        rig_terminated = 0;
        ds_fs_join(path, sizeof path, dir, "deaf");
        ds_fs_write(path, "", 0, NULL);
        rig_wait_term(60);
    }
    if (strncmp(how, "slow ", 5) == 0)
        for (int i = (int)strtol(how + 5, NULL, 10) / 10; i > 0 && !rig_terminated; i--)
            usleep(10000);
    if (rig_terminated) {
        ds_fs_join(path, sizeof path, dir, "cancel");
        rig_event(dir, "{\"t\":4,\"type\":\"checkpoint\",\"step\":10}\n");
        return ds_fs_exists(path) ? 130 : 143;
    }
    int rc = strcmp(kind, "scan") == 0     ? rig_scan(dir, spec)
             : strcmp(kind, "train") == 0  ? rig_train(dir, spec, how)
             : strcmp(kind, "import") == 0 ? rig_import(dir, spec, how)
                                           : rig_other(dir, spec, kind, how);
    rig_event(dir, "{\"t\":5,\"type\":\"done\"}\n");
    return strcmp(how, "mixed") == 0 ? 8 : rc;
}

/* First thing in main(): the other two lives of this program.  The test itself prefers a file
 * system in memory: what is tested is killed processes, not power cuts, and a busy disk takes its
 * time. */
static void rig_main(int argc, char **argv) {
    ds_child_trampoline(argc, argv);
    if (argc > 1 && strcmp(argv[1], "diffscalerd") == 0)
        exit(ds_daemon_main(argc - 1, argv + 1));
    if (argc > 3 && strcmp(argv[1], "fake-worker") == 0)
        _exit(rig_worker(argv[3]));
    struct statvfs fs;
    if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0 && statvfs("/dev/shm", &fs) == 0 &&
        !(fs.f_flag & ST_NOEXEC) && fs.f_bavail * fs.f_bsize > 256u << 20)
        setenv("TMPDIR", "/dev/shm", 1);
}

/* ---- files ---- */

static RIG_UNUSED void rig_write(const char *path, const char *text) {
    ds_error err;
    ck_assert_msg(ds_fs_write(path, text, strlen(text), &err) == 0, "%s", err.message);
    chmod(path, 0644);
}

static RIG_UNUSED void rig_fake(const rig *r, const char *kind, const char *how) {
    char path[400];
    snprintf(path, sizeof path, "%s/fake/%s", r->dir, kind);
    rig_write(path, how);
}

/* A folder RIG/name with n files that look like images; its path in out. */
static RIG_UNUSED void rig_images(const rig *r, const char *name, int n, char out[400]) {
    char path[500], text[64];
    snprintf(out, 400, "%s/%s", r->dir, name);
    ck_assert(mkdir(out, 0755) == 0 || errno == EEXIST);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%05d.png", out, i);
        snprintf(text, sizeof text, "\x89PNG %s %d", name, i);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        ck_assert(fd >= 0 && write(fd, text, strlen(text)) > 0);
        close(fd);
    }
}

/* ---- the daemon ---- */

static RIG_UNUSED void rig_open(rig *r, const char *name) {
    char self[PATH_MAX], path[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert(n > 0);
    self[n] = 0;
    memset(r, 0, sizeof *r);
    snprintf(r->dir, sizeof r->dir, "%s/%s", ds_test_tmpdir(), name);
    snprintf(r->state, sizeof r->state, "%s/state", r->dir);
    snprintf(r->socket, sizeof r->socket, "%s/state/socket", r->dir);
    ck_assert_int_eq(mkdir(r->dir, 0755), 0);
    chmod(ds_test_tmpdir(), 0755); /* for a daemon without privileges */
    snprintf(path, sizeof path, "%s/fake", r->dir);
    ck_assert_int_eq(mkdir(path, 0755), 0);
    snprintf(path, sizeof path, "%s/emoji.safetensors", r->dir);
    rig_write(path, "base");
    snprintf(path, sizeof path, "%s/net.safetensors", r->dir);
    rig_write(path, "net");
    ds_buf b = {0};
    ds_buf_addf(&b, "#!/bin/sh\nRIG=%s exec %s fake-worker \"$@\"\n", r->dir, self);
    snprintf(path, sizeof path, "%s/worker", r->dir);
    rig_write(path, b.data);
    chmod(path, 0755);
    ds_buf_release(&b);
}

/* Start without waiting; options end with NULL.  stderr goes to RIG/daemon.log (appended). */
static RIG_UNUSED void rig_spawn(rig *r, const char *const *options) {
    char base[400], net[400], worker[400], log[400];
    snprintf(base, sizeof base, "%s/emoji.safetensors", r->dir);
    snprintf(net, sizeof net, "%s/net.safetensors", r->dir);
    snprintf(worker, sizeof worker, "%s/worker", r->dir);
    snprintf(log, sizeof log, "%s/daemon.log", r->dir);
    const char *args[40] = {
        "test", "diffscalerd",   "--state", r->state,   "--base", base,     "--feature-net",
        net,    "--worker-path", worker,    "--settle", "0.3",    "--nice", "0"};
    int n = options && *options && !strcmp(*options, "--nice") ? 12 : 14;
    for (; options && *options; options++)
        args[n++] = *options;
    args[n] = NULL;
    r->pid = fork();
    ck_assert(r->pid >= 0);
    if (r->pid == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
        dup2(fd, 2);
        dup2(fd, 1);
        if (r->unprivileged && geteuid() == 0 && (setgid(65534) || setuid(65534)))
            _exit(126);
        execv("/proc/self/exe", (char **)(uintptr_t)args);
        _exit(127);
    }
}

static RIG_UNUSED int rig_wait_exit(rig *r, int ms) {
    int status;
    for (int i = 0; i < ms / 5; i++) {
        if (waitpid(r->pid, &status, WNOHANG) == r->pid) {
            r->pid = 0;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        usleep(5000);
    }
    return -1;
}

static RIG_UNUSED int rig_connect(const rig *r) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof addr.sun_path, "%.107s", r->socket);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Send bytes, read until the server closes; malloc'ed answer, "" when there is none. */
static RIG_UNUSED char *rig_exchange(int fd, const char *p, size_t n, int half_close) {
    ds_buf b = {0};
    char buf[8192];
    while (n) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0)
            break;
        p += k;
        n -= (size_t)k;
    }
    if (half_close)
        shutdown(fd, SHUT_WR);
    for (ssize_t k; (k = recv(fd, buf, sizeof buf, 0)) > 0;)
        ds_buf_add(&b, buf, (size_t)k);
    close(fd);
    return b.data ? b.data : ds_xstrdup("");
}

static RIG_UNUSED char *rig_dechunk(char *body) {
    ds_buf b = {0};
    for (char *p = body; p && *p;) {
        size_t n = strtoul(p, &p, 16);
        p = strstr(p, "\r\n");
        if (!p || !n || strlen(p + 2) < n)
            break;
        ds_buf_add(&b, p + 2, n);
        p += 2 + n + 2;
    }
    return b.data ? b.data : ds_xstrdup("");
}

/* One request; *status 0 when the daemon did not answer.  Body text, malloc'ed. */
static RIG_UNUSED char *rig_text(const rig *r, const char *method, const char *path,
                                 const char *headers, const char *body, int *status) {
    *status = 0;
    int fd = rig_connect(r);
    if (fd < 0)
        return ds_xstrdup("");
    ds_buf q = {0};
    ds_buf_addf(&q, "%s %s HTTP/1.1\r\nHost: d\r\nConnection: close\r\n%s", method, path,
                headers ? headers : "");
    ds_buf_addf(&q, "Content-Length: %zu\r\n\r\n%s", body ? strlen(body) : 0, body ? body : "");
    char *text = rig_exchange(fd, q.data, q.len, 0);
    ds_buf_release(&q);
    if (strncmp(text, "HTTP/1.1 ", 9) == 0)
        *status = (int)strtol(text + 9, NULL, 10);
    char *end = strstr(text, "\r\n\r\n");
    char *out = !end                                             ? ds_xstrdup("")
                : strcasestr(text, "Transfer-Encoding: chunked") ? rig_dechunk(end + 4)
                                                                 : ds_xstrdup(end + 4);
    free(text);
    return out;
}

/* As rig_text, the body as JSON (an empty object when it is none). */
static RIG_UNUSED json_t *rig_call(const rig *r, const char *method, const char *path,
                                   const char *body, int *status) {
    int code;
    char *text = rig_text(r, method, path, NULL, body, status ? status : &code);
    json_t *doc = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
    free(text);
    return doc ? doc : json_object();
}

/* A call that is answered with this status; its document. */
static RIG_UNUSED json_t *rig_want(const rig *r, int want, const char *method, const char *path,
                                   const char *body) {
    int status;
    json_t *doc = rig_call(r, method, path, body, &status);
    ck_assert_msg(status == want, "%s %s: %d, not %d: %s", method, path, status, want,
                  ds_json_string(doc, "detail", ""));
    return doc;
}

/* The same, and these words in its detail. */
static RIG_UNUSED void rig_says(const rig *r, int want, const char *method, const char *path,
                                const char *body, const char *words) {
    json_t *doc = rig_want(r, want, method, path, body);
    ck_assert_msg(strstr(ds_json_string(doc, "detail", ""), words) != NULL, "'%s' has no '%s'",
                  ds_json_string(doc, "detail", ""), words);
    json_decref(doc);
}

static RIG_UNUSED void rig_ready(rig *r) {
    for (int i = 0; i < 1000; i++) {
        int status;
        free(rig_text(r, "GET", "/readyz", NULL, NULL, &status));
        if (status == 200)
            return;
        int gone = rig_wait_exit(r, 5);
        ck_assert_msg(gone < 0, "the daemon ended with %d at start (see daemon.log)", gone);
        usleep(5000);
    }
    ck_abort_msg("the daemon is not ready");
}

static RIG_UNUSED void rig_start(rig *r, const char *const *options) {
    rig_spawn(r, options);
    rig_ready(r);
}

static RIG_UNUSED int rig_stop(rig *r, int sig) {
    kill(r->pid, sig);
    return rig_wait_exit(r, 25000);
}

static RIG_UNUSED void rig_dump_log(const rig *r) {
    char path[400], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/daemon.log", r->dir);
    if (ds_fs_read(path, 1 << 20, &text, &n, NULL) == 0) {
        fprintf(stderr, "%s", text);
        free(text);
    }
}

/* What another program may do; tests use it to skip a back-off as well. */
static RIG_UNUSED void rig_sql(const rig *r, const char *statement) {
    char path[400];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/registry.db", r->state);
    ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    char *message = NULL;
    int rc = sqlite3_exec(db, statement, NULL, NULL, &message);
    ck_assert_msg(rc == SQLITE_OK, "%s: %s", statement, message);
    sqlite3_close(db);
}

/* What one value of the registry is. */
static RIG_UNUSED int64_t rig_number(const rig *r, const char *query) {
    char path[400];
    sqlite3 *db;
    sqlite3_stmt *q;
    snprintf(path, sizeof path, "%s/registry.db", r->state);
    ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    ck_assert_msg(sqlite3_prepare_v2(db, query, -1, &q, NULL) == SQLITE_OK, "%s", query);
    ck_assert_int_eq(sqlite3_step(q), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

/* Exists and is no zombie (whoever is process 1 here may reap late). */
static RIG_UNUSED int rig_alive(pid_t pid) {
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    if (!fgets(text, sizeof text, f))
        text[0] = 0;
    fclose(f);
    const char *p = strrchr(text, ')');
    return p && p[1] == ' ' && p[2] != 'Z' && p[2] != 'X';
}

/* ---- what tests wait for ---- */

/* Until the daemon's log has these words. */
static RIG_UNUSED void rig_wait_log(const rig *r, const char *words) {
    char path[400];
    snprintf(path, sizeof path, "%s/daemon.log", r->dir);
    for (int i = 0; i < 1000; i++, usleep(20000)) {
        char *text = NULL;
        size_t n;
        int there = !ds_fs_read(path, 1 << 20, &text, &n, NULL) && strstr(text, words);
        free(text);
        if (there)
            return;
    }
    ck_abort_msg("the log does not say '%s'", words);
}

/* 201 or 200; scan_seq of the answer. */
static RIG_UNUSED int64_t rig_add(const rig *r, const char *name, const char *path, int expect) {
    int status;
    char body[700];
    snprintf(body, sizeof body, "{\"name\":\"%s\",\"path\":\"%s\"}", name, path);
    json_t *doc = rig_call(r, "POST", "/v1/datasets", body, &status);
    ck_assert_msg(status == expect, "add %s: %d %s", name, status,
                  ds_json_string(doc, "detail", ""));
    int64_t seq = ds_json_int(doc, "scan_seq", 0);
    json_decref(doc);
    return seq;
}

/* The newest job of a kind and dataset: its state in `state`, 0 if there is none; id returned. */
static RIG_UNUSED int64_t rig_job(const rig *r, const char *kind, const char *name,
                                  char state[16]) {
    char path[300];
    snprintf(path, sizeof path, "/v1/jobs?kind=%s&limit=1%s%s", kind, name ? "&dataset=" : "",
             name ? name : "");
    json_t *doc = rig_call(r, "GET", path, NULL, NULL);
    json_t *job = json_array_get(json_object_get(doc, "items"), 0);
    int64_t id = ds_json_int(job, "id", 0);
    snprintf(state, 16, "%s", ds_json_string(job, "state", ""));
    json_decref(doc);
    return id;
}

/* Waits are in the time of an idle machine; one under load is slow, not wrong. */
enum { RIG_PATIENCE = 6 };

/* Wait until that job is in one of the states "|done|failed|"; returns its id. */
static RIG_UNUSED int64_t rig_wait_job(const rig *r, const char *kind, const char *name,
                                       const char *states, int ms) {
    char state[16], want[24];
    for (double end = ds_monotonic() + RIG_PATIENCE * ms / 1000.0; ds_monotonic() < end;
         usleep(20000)) {
        int64_t id = rig_job(r, kind, name, state);
        snprintf(want, sizeof want, "|%s|", state);
        if (id && strstr(states, want))
            return id;
    }
    rig_dump_log(r);
    ck_abort_msg("%s of %s is '%s', not one of %s", kind, name ? name : "any", state, states);
    return 0;
}

/* Process of a running job, once its worker has said something. It is claimed first. */
static RIG_UNUSED pid_t rig_worker_of(const rig *r, int64_t id) {
    char path[64];
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)id);
    for (int i = 0; i < 500; i++, usleep(20000)) {
        json_t *job = rig_want(r, 200, "GET", path, NULL);
        pid_t pid = (pid_t)ds_json_int(job, "pid", 0);
        int speaks =
            *ds_json_string(job, "stage", "") && json_is_object(json_object_get(job, "progress"));
        json_decref(job);
        if (pid > 0 && speaks && rig_alive(pid))
            return pid;
    }
    ck_abort_msg("job %lld has no worker", (long long)id);
    return 0;
}

/* Adapter version number of name, waiting for at least `version`. */
static RIG_UNUSED void rig_wait_adapter(const rig *r, const char *name, int64_t version, int ms) {
    char path[200];
    snprintf(path, sizeof path, "/v1/adapters/%s", name);
    for (double end = ds_monotonic() + RIG_PATIENCE * ms / 1000.0; ds_monotonic() < end;
         usleep(20000)) {
        json_t *doc = rig_call(r, "GET", path, NULL, NULL);
        int64_t have = ds_json_int(doc, "version", 0);
        json_decref(doc);
        if (have >= version)
            return;
    }
    rig_dump_log(r);
    ck_abort_msg("adapter %s@v%lld does not appear", name, (long long)version);
}

#endif
