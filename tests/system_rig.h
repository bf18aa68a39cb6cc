/* tests/system_rig.h - the three programs as a user runs them: diffscalerd on a private state
 * folder, its diffscaler-worker, and dsctl; found in the folder that the environment's DS_BUILD
 * names.
 *
 * A micro base (16x16, 2 blocks, trained for a moment) and two folders of 20 pictures come from
 * tests/worker_fixture.h, so an undisturbed job takes a second or two.  Everything lives under
 * ds_test_tmpdir().  Every wait ends: a busy machine gets PATIENCE seconds, then the test fails
 * with the log of the daemon.
 */
#ifndef DS_TESTS_SYSTEM_RIG_H
#define DS_TESTS_SYSTEM_RIG_H

#include "tests/worker_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/un.h>

enum { PATIENCE = 400 }; /* a machine under load is slow, not wrong */

#if defined(__SANITIZE_ADDRESS__)
enum { SYS_SLOW = 1 };
#else
enum { SYS_SLOW = 0 };
#endif

#define NOBODY 65534

typedef struct {
    char dir[160], state[200], socket[220], base[200], net[PATH_MAX], log[200];
    pid_t pid;
    int full_base_task;   /* record the distance of the base's own classes too (slow) */
    int unprivileged;     /* daemon and dsctl as nobody (only if this is root) */
    const char *extra[6]; /* further options of the daemon */
} rig;

/* What the last run of a program said. */
static struct {
    int code; /* exit status, 1000 + signal, -1 when it did not end in time */
    char *out, *err;
    double seconds;
} said;

/* ---------------------------------------------------------------- programs */

static UNUSED const char *program(const char *name) {
    static char paths[4][PATH_MAX];
    static int next;
    char relative[PATH_MAX];
    const char *build = getenv("DS_BUILD");
    char *path = paths[next++ % 4];
    snprintf(relative, sizeof relative, "%s/%s", build && *build ? build : "build/release", name);
    if (!realpath(relative, path)) {
        fprintf(stderr, "no program '%s': run from the repository root with DS_BUILD set\n",
                relative);
        abort();
    }
    return path;
}

static UNUSED int have_program(const char *name) {
    char command[128];
    snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", name);
    return system(command) == 0;
}

static UNUSED char *slurp(const char *path) {
    char *text = NULL;
    size_t n;
    return ds_fs_read(path, 64u << 20, &text, &n, NULL) ? ds_xstrdup("") : text;
}

static UNUSED void spit(const char *path, const void *data, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    DS_ASSERT(fd >= 0 && write(fd, data, n) == (ssize_t)n); /* also outside of a test */
    close(fd);
}

static UNUSED void drop_privileges(const rig *r) {
    if (r->unprivileged && geteuid() == 0 && (setgid(NOBODY) || setuid(NOBODY)))
        _exit(126);
}

static UNUSED void set_environment(const rig *r) {
    static const char *const ours[] = {"DIFFSCALER_WORKERS", "DIFFSCALER_BASE", "DIFFSCALER_LOG",
                                       "DIFFSCALER_FEATURE_NET", "DIFFSCALER_WORKER"};
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        unsetenv(ours[i]);
    setenv("DIFFSCALER_STATE", r->state, 1);
    setenv("DIFFSCALER_SOCKET", r->socket, 1);
    setenv("NO_COLOR", "1", 1);
}

/* Milliseconds until pid ends; its status as in `said`. */
static UNUSED int wait_status(pid_t pid, double seconds) {
    int status;
    for (double end = ds_monotonic() + seconds; ds_monotonic() < end; usleep(2000))
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return -1;
}

static UNUSED int run_argv(const rig *r, char *const argv[]) {
    char out[256], err[256];
    static int serial;
    snprintf(out, sizeof out, "%s/run-%d-%d.out", ds_test_tmpdir(), (int)getpid(), serial);
    snprintf(err, sizeof err, "%s/run-%d-%d.err", ds_test_tmpdir(), (int)getpid(), serial++);
    double begin = ds_monotonic();
    pid_t pid = fork();
    if (pid == 0) {
        int a = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600),
            b = open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600), null = open("/dev/null", O_RDONLY);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (a < 0 || b < 0 || dup2(null, 0) < 0 || dup2(a, 1) < 0 || dup2(b, 2) < 0)
            _exit(99);
        set_environment(r);
        drop_privileges(r);
        execvp(argv[0], argv);
        _exit(99);
    }
    said.code = wait_status(pid, PATIENCE);
    said.seconds = ds_monotonic() - begin;
    if (said.code < 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    free(said.out);
    free(said.err);
    said.out = slurp(out);
    said.err = slurp(err);
    unlink(out);
    unlink(err);
    return said.code;
}

/* dsctl with these arguments, the last one NULL; its exit status (texts are in `said`). */
static UNUSED int dsctl(const rig *r, ...) {
    char *argv[48] = {(char *)(uintptr_t)program("dsctl")};
    int n = 1;
    va_list ap;
    va_start(ap, r);
    while ((argv[n] = va_arg(ap, char *)))
        DS_ASSERT(++n < 47);
    va_end(ap);
    return run_argv(r, argv);
}

/* A shell command in the environment of the rig. */
static UNUSED int shell(const rig *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static UNUSED int shell(const rig *r, const char *fmt, ...) {
    char command[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    char *argv[] = {"/bin/sh", "-c", command, NULL};
    return run_argv(r, argv);
}

static UNUSED void show_daemon_log(const rig *r) {
    char *text = slurp(r->log);
    size_t n = strlen(text);
    fprintf(stderr, "--- %s\n%s---\n", r->log, n > 6000 ? text + n - 6000 : text);
    free(text);
}

#define EXPECT(r, want, ...)                                                                       \
    do {                                                                                           \
        int got_ = dsctl((r), __VA_ARGS__, (char *)NULL);                                          \
        if (got_ != (want))                                                                        \
            show_daemon_log(r);                                                                    \
        ck_assert_msg(got_ == (want), "dsctl %s: exit %d, not %d\nstdout: %s\nstderr: %s",         \
                      #__VA_ARGS__, got_, (want), said.out, said.err);                             \
    } while (0)

#define EXPECT_SAID(text)                                                                          \
    ck_assert_msg(strstr(said.out, (text)) || strstr(said.err, (text)),                            \
                  "'%s' is not in\nstdout: %s\nstderr: %s", (text), said.out, said.err)

#define EXPECT_SHELL(r, ...)                                                                       \
    do {                                                                                           \
        int got_ = shell((r), __VA_ARGS__);                                                        \
        ck_assert_msg(got_ == 0, "exit %d\nstdout: %s\nstderr: %s", got_, said.out, said.err);     \
    } while (0)

/* What the last command printed, as JSON; a new reference. */
static UNUSED json_t *said_json(void) {
    json_error_t e;
    json_t *doc = json_loads(said.out, JSON_REJECT_DUPLICATES, &e);
    ck_assert_msg(doc != NULL, "not JSON (%s): %s", e.text, said.out);
    return doc;
}

/* ---------------------------------------------------------------- the daemon */

static UNUSED void rig_open(rig *r, const char *name) {
    memset(r, 0, sizeof *r);
    chmod(ds_test_tmpdir(), 0755);
    char dir[160];
    snprintf(dir, sizeof dir, "%s/%s", ds_test_tmpdir(), name);
    snprintf(r->dir, sizeof r->dir, "%s", dir);
    snprintf(r->state, sizeof r->state, "%s/state", dir);
    snprintf(r->socket, sizeof r->socket, "%s/socket", dir);
    snprintf(r->log, sizeof r->log, "%s/daemon.log", dir);
    snprintf(r->base, sizeof r->base, "%s/base.safetensors", ds_test_tmpdir());
    ck_assert_int_eq(mkdir(r->dir, 0755), 0);
    snprintf(r->net, sizeof r->net, "%s", fixture_net());
}

static UNUSED void exec_daemon(const rig *r) {
    const char *args[20] = {program("diffscalerd"),
                            "--base",
                            r->base,
                            "--feature-net",
                            r->net,
                            "--settle",
                            "0.3",
                            "--nice",
                            "0",
                            "--base-task",
                            r->full_base_task ? "full" : "probe"};
    for (int i = 0; i < 6 && r->extra[i]; i++)
        args[11 + i] = r->extra[i];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open(r->log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(99);
    close(fd);
    set_environment(r);
    drop_privileges(r);
    execv(args[0], (char **)(uintptr_t)args);
    _exit(99);
}

static UNUSED void rig_spawn(rig *r) {
    r->pid = fork();
    ck_assert(r->pid >= 0);
    if (r->pid == 0)
        exec_daemon(r);
}

static UNUSED int rig_connect(const rig *r) {
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = PATIENCE};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    DS_ASSERT(strlen(r->socket) < sizeof addr.sun_path);
    memcpy(addr.sun_path, r->socket, strlen(r->socket));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Send bytes and read until the other side closes; malloc'ed. */
static UNUSED char *exchange(int fd, const char *bytes, size_t n) {
    ds_buf b = {0};
    char part[8192];
    for (ssize_t k; n && (k = send(fd, bytes, n, MSG_NOSIGNAL)) > 0; bytes += k)
        n -= (size_t)k;
    for (ssize_t k; (k = recv(fd, part, sizeof part, 0)) > 0;)
        ds_buf_add(&b, part, (size_t)k);
    close(fd);
    return b.data ? b.data : ds_xstrdup("");
}

/* One request; 0 when there is no answer.  *doc (may be NULL): the body as JSON, else NULL. */
static UNUSED int call(const rig *r, const char *method, const char *path, const char *body,
                       json_t **doc) {
    int fd = rig_connect(r);
    if (doc)
        *doc = NULL;
    if (fd < 0)
        return 0;
    ds_buf q = {0};
    ds_buf_addf(&q,
                "%s %s HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                method, path, body ? strlen(body) : 0, body ? body : "");
    char *text = exchange(fd, q.data, q.len), *end = strstr(text, "\r\n\r\n");
    int status = !strncmp(text, "HTTP/1.1 ", 9) ? (int)strtol(text + 9, NULL, 10) : 0;
    if (doc && end)
        *doc = json_loads(end + 4, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    ds_buf_release(&q);
    return status;
}

static UNUSED void rig_ready(rig *r) {
    int status;
    for (double end = ds_monotonic() + PATIENCE; ds_monotonic() < end; usleep(3000)) {
        if (call(r, "GET", "/readyz", NULL, NULL) == 200)
            return;
        if (waitpid(r->pid, &status, WNOHANG) == r->pid) {
            show_daemon_log(r);
            ck_abort_msg("the daemon ended at its start with status %x", status);
        }
    }
    show_daemon_log(r);
    ck_abort_msg("the daemon does not become ready");
}

static UNUSED void rig_start(rig *r) {
    rig_spawn(r);
    rig_ready(r);
}

static UNUSED int rig_stop(rig *r, int signal_number) {
    kill(r->pid, signal_number);
    int code = wait_status(r->pid, 40);
    r->pid = 0;
    return code;
}

static UNUSED void rig_close(rig *r) {
    int code = rig_stop(r, SIGTERM);
    if (code)
        show_daemon_log(r);
    ck_assert_msg(code == 0, "the daemon ended with %d after SIGTERM", code);
}

/* ---------------------------------------------------------------- waiting */

/* The newest job of this kind and dataset (NULL: any), or NULL; a new reference. */
static UNUSED json_t *newest_job(const rig *r, const char *kind, const char *dataset) {
    char path[256];
    json_t *doc = NULL;
    snprintf(path, sizeof path, "/v1/jobs?kind=%s&limit=1%s%s", kind, dataset ? "&dataset=" : "",
             dataset ? dataset : "");
    call(r, "GET", path, NULL, &doc);
    json_t *job = json_incref(json_array_get(json_object_get(doc, "items"), 0));
    json_decref(doc);
    return job;
}

/* Wait until that job is in one of the states ("|done|failed|"); the job. */
static UNUSED json_t *wait_state(const rig *r, const char *kind, const char *dataset,
                                 const char *states) {
    char want[32] = "";
    for (double end = ds_monotonic() + PATIENCE; ds_monotonic() < end; usleep(20000)) {
        json_t *job = newest_job(r, kind, dataset);
        snprintf(want, sizeof want, "|%s|", ds_json_string(job, "state", "nothing"));
        if (strstr(states, want))
            return job;
        json_decref(job);
    }
    show_daemon_log(r);
    ck_abort_msg("%s of '%s' is %s, not %s", kind, dataset ? dataset : "any", want, states);
    return NULL;
}

/* The digest of the adapter `ref`; "" when it is not there. */
static UNUSED void adapter_digest(const rig *r, const char *ref, char out[DS_HEX_SIZE]) {
    char path[200];
    json_t *doc = NULL;
    snprintf(path, sizeof path, "/v1/adapters/%s", ref);
    call(r, "GET", path, NULL, &doc);
    snprintf(out, DS_HEX_SIZE, "%s", ds_json_string(doc, "digest", ""));
    json_decref(doc);
}

/* Where the registry keeps the blob. */
static UNUSED void blob_path(const rig *r, const char *sha, char out[PATH_MAX]) {
    snprintf(out, PATH_MAX, "%s/blobs/sha256/%.2s/%s.zst", r->state, sha, sha);
}

/* The directory of the training, which a person could read as well; 0 if there is none yet. */
static UNUSED int train_dir(const rig *r, char out[300]) {
    for (int id = 1; id < 8; id++) {
        char path[320];
        snprintf(out, 300, "%s/jobs/%d", r->state, id);
        snprintf(path, sizeof path, "%s/spec.json", out);
        char *spec = slurp(path);
        int train = strstr(spec, "\"checkpoint_every\"") != NULL;
        free(spec);
        if (train)
            return 1;
    }
    return 0;
}

/* ---------------------------------------------------------------- processes */

/* A file of /proc, whose size is not known before it is read; its length. */
static UNUSED size_t read_proc(pid_t pid, const char *name, char *out, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, out, size - 1);
    if (fd >= 0)
        close(fd);
    out[n > 0 ? n : 0] = 0;
    return n > 0 ? (size_t)n : 0;
}

/* State letter of a process; 0 when it is gone, or its command line does not contain `text`. */
static UNUSED char process_state(pid_t pid, const char *text) {
    char line[8192], stat[1024];
    size_t n = pid > 0 ? read_proc(pid, "cmdline", line, sizeof line) : 0;
    for (size_t i = 0; i < n; i++)
        line[i] = line[i] ? line[i] : ' ';
    if (pid <= 0 || !read_proc(pid, "stat", stat, sizeof stat))
        return 0;
    char *end = strrchr(stat, ')');
    if (text && !strstr(line, text)) /* a zombie has no command line */
        return 0;
    return end && end[1] ? end[2] : 0;
}

/* A process that works on this rig's state folder, other than the daemon; 0 if there is none. */
static UNUSED pid_t find_worker(const rig *r) {
    char jobs[256];
    snprintf(jobs, sizeof jobs, " run %s/jobs/", r->state);
    DIR *d = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *e; !found && d && (e = readdir(d));) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        if (pid > 1 && pid != r->pid && process_state(pid, jobs))
            found = pid;
    }
    if (d)
        closedir(d);
    return found;
}

static UNUSED int wait_no_worker(const rig *r, double seconds) {
    for (double end = ds_monotonic() + seconds; ds_monotonic() < end; usleep(10000))
        if (!find_worker(r))
            return 1;
    return 0;
}

/* ---------------------------------------------------------------- the program */

/* First thing in main().  A file system in memory is preferred: what is tested here is killed
 * processes and full disks, not power cuts, and a busy disk takes its time. */
static UNUSED int system_main(int argc, char **argv, const char *name,
                              void (*register_cases)(TCase *)) {
    struct statvfs fs;
    (void)argc, (void)argv, (void)fixture_dispatch; /* these tests start the real programs */
    if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0 && statvfs("/dev/shm", &fs) == 0 &&
        fs.f_bavail * fs.f_bsize > 512u << 20)
        setenv("TMPDIR", "/dev/shm", 1);
    return ds_test_main(name, register_cases);
}

static UNUSED char *folder(const char *name) { return in_tmp(name); }

/* Few pictures, because the feature network takes most of the time of these jobs. */
enum { CLASS_IMAGES = SYS_SLOW ? 2 : 4 };

static UNUSED void make_set(const char *root, int which) {
    ds_error err;
    chmod(ds_test_tmpdir(), 0755);
    for (int c = 0; c < 2; c++)
        for (int k = 0; k < CLASS_IMAGES; k++) {
            uint8_t px[24 * 24 * 3];
            char *path = ds_xasprintf("%s/%s", root, c ? "cool" : "warm");
            must(ds_fs_mkdirs(path, &err), &err);
            free(path);
            path = ds_xasprintf("%s/%s/%02d.png", root, c ? "cool" : "warm", k);
            pattern(px, 24, which, c, k);
            must(ds_png_write(path, px, 24, 24, &err), &err);
            free(path);
        }
}

/* The base and two folders of pictures that all tests of a program share. */
static UNUSED void system_fixture(void) {
    static const char *const sets[] = {"blobs", "stripes"};
    char *base = in_tmp("base.safetensors");
    make_base(base, 1);
    chmod(base, 0644);
    chmod(fixture_net(), 0644);
    free(base);
    for (int i = 0; i < 2; i++) {
        char *dir = in_tmp(sets[i]);
        make_set(dir, i);
        free(dir);
    }
}

/* One picture as a PPM file: green tiles, which no base of these tests has seen. */
static UNUSED void write_tile(const char *path, int side, int k) {
    uint8_t px[64 * 64 * 3 + 32];
    int n = snprintf((char *)px, 32, "P6\n%d %d\n255\n", side, side);
    DS_ASSERT(side <= 64);
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            int on = (x * 4 / side + y * 4 / side + k) % 2;
            px[n++] = (uint8_t)(on ? 10 + k % 7 * 5 : 0);
            px[n++] = (uint8_t)(on ? 255 - k % 5 * 9 : 90);
            px[n++] = (uint8_t)(k * 53 & 63);
        }
    spit(path, px, (size_t)n);
}

/* A folder with `classes` sub-folders (0: flat) of n tiles each; its path. */
static UNUSED char *make_tiles(const char *name, int classes, int n) {
    char *dir = in_tmp(name), path[512];
    ds_error err;
    for (int c = 0; c < (classes ? classes : 1); c++) {
        int at = classes ? snprintf(path, sizeof path, "%s/class-%d", dir, c)
                         : snprintf(path, sizeof path, "%s", dir);
        must(ds_fs_mkdirs(path, &err), &err);
        chmod(path, 0755);
        for (int k = 0; k < n; k++) {
            snprintf(path + at, sizeof path - (size_t)at, "/%04d.ppm", k);
            write_tile(path, 24, k * 3 + c);
        }
    }
    chmod(dir, 0755);
    return dir;
}

/* The usual settings of a training in these tests. */
#if defined(__SANITIZE_ADDRESS__)
#define QUICK_N "4"
#else
#define QUICK_N "8"
#endif
#define QUICK                                                                                      \
    "--steps", "60", "--batch", "8", "--lr", "0.005", "--n", QUICK_N, "--rank", "4", "--threads",  \
        "1"

#endif
