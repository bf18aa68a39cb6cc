/* tests/cli/test_cli_programs.c - programs that dsctl starts, and what its doctor says of them, of the
 * model files and of the machine.
 *
 * The test program has fopen and statvfs of its own: files of /proc that the doctor reads come from
 * a folder of the test, and there is as much room as the test says. */
#include "base/digest.h"
#include "base/fs.h"
#include "base/zio.h"
#include "cli/start.h"
#include "tests/fixtures/cli_fake.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>

static const char *machine; /* a folder instead of /proc; NULL: the real one */
static int64_t room_mib = -1;

FILE *fopen(const char *path, const char *mode) {
    FILE *(*real)(const char *, const char *);
    char other[400];
    *(void **)&real = dlsym(RTLD_NEXT, "fopen");
    if (!machine ||
        (strcmp(path, "/proc/cpuinfo") && strncmp(path, "/proc/sys/fs/inotify/", 21) != 0))
        return real(path, mode);
    snprintf(other, sizeof other, "%s/%s", machine, strrchr(path, '/') + 1);
    return real(other, mode);
}

int statvfs(const char *path, struct statvfs *out) {
    int (*real)(const char *, struct statvfs *);
    *(void **)&real = dlsym(RTLD_NEXT, "statvfs");
    int rc = real(path, out);
    if (!rc && room_mib >= 0) {
        out->f_frsize = 1 << 20;
        out->f_bavail = (fsblkcnt_t)room_mib;
    }
    return rc;
}

static const char *put(const char *name, const char *text) {
    static char path[400];
    snprintf(path, sizeof path, "%s/%s", ds_test_tmpdir(), name);
    ck_assert_int_eq(ds_fs_write(path, text, strlen(text), NULL), 0);
    ck_assert_int_eq(chmod(path, 0700), 0);
    return path;
}

static void find_programs_in(const char *dir) {
    char *path = ds_xasprintf("%s:%s", dir, getenv("PATH"));
    setenv("PATH", path, 1);
    free(path);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What it prints on both streams, its status, and no end of it: asked, and killed if it is deaf. */
START_TEST(a_program_is_run) {
    char *out = NULL, script[400];
    int status = 0;
    ds_error err = {0};
    ds_cli_interrupted = 0;
    snprintf(script, sizeof script, "%s", put("p", "#!/bin/sh\necho one; echo two >&2; exit 7\n"));
    char *argv[] = {script, NULL};
    ck_assert_int_eq(ds_run_program(argv, 20, &out, &status, &err), 0);
    ck_assert_str_eq(out, "one\ntwo\n");
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    free(out);
    char *nobody[] = {(char *)(uintptr_t) "/none/such", NULL};
    ck_assert_int_eq(ds_run_program(nobody, 20, &out, &status, &err), 0);
    ck_assert_str_eq(out, "cannot run '/none/such': No such file or directory\n");
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 127);
    free(out);
    int typed[2]; /* what a person types is not for it */
    ck_assert(!pipe(typed) && write(typed[1], "typed\n", 6) == 6 && dup2(typed[0], 0) == 0);
    put("p", "#!/bin/sh\nread x || echo no input; head -c 200000 /dev/zero | tr '\\0' x\n");
    ck_assert_int_eq(ds_run_program(argv, 20, &out, &status, &err), 0);
    ck_assert_int_eq(strncmp(out, "no input\nxxx", 12), 0);
    ck_assert(strlen(out) >= 65536 && strlen(out) < 65536 + 4096);
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0); /* all of it was taken */
    free(out);
    for (int deaf = 0; deaf < 2; deaf++) {
        put("p", deaf ? "#!/bin/sh\ntrap '' TERM\necho begun\nwhile :; do sleep 0.1; done\n"
                      : "#!/bin/sh\necho begun\nexec sleep 60\n");
        double begun = now();
        ck_assert_int_eq(ds_run_program(argv, 2, &out, &status, &err), DS_ETIMEOUT);
        double took = now() - begun;
        ck_has(err.message, "/p' did not end within 2 s");
        ck_assert_str_eq(out, "begun\n");
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == (deaf ? SIGKILL : SIGTERM));
        ck_assert(deaf ? took > 7 : took < 7);
        ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1); /* it was waited for */
        free(out);
    }
    signal(SIGTERM, SIG_DFL); /* its child may not have come as far as to do so itself */
    ds_cli_interrupted = 1;   /* Ctrl-C ends it as well */
    ck_assert_int_eq(ds_run_program(argv, 60, &out, &status, &err), DS_ETIMEOUT);
    free(out);
}
END_TEST

/* --start where the daemon cannot be started: why, and nobody is left behind. */
START_TEST(a_daemon_that_cannot_be_started) {
    char state[300], line[700], path[400];
    const char *tmp = ds_test_tmpdir();
    cli_result r;
    ds_cli_interrupted = 0;
    unsetenv("DIFFSCALER_SOCKET");
    put("diffscalerd", "#!/bin/sh\necho $$ > \"$0.pid\"\nexec sleep 60\n");
    find_programs_in(tmp);
    put("file", "");
    snprintf(line, sizeof line, "--state %s/file/st add-dataset %s --start", tmp, tmp);
    r = cli_line(NULL, line);
    ck_assert_int_ne(r.exit, 0);
    ck_has(r.err, "cannot make the state folder: ");
    ck_has(r.err, "/file");
    cli_free(&r);
    snprintf(state, sizeof state, "%s/st", tmp);
    snprintf(path, sizeof path, "%s/diffscalerd.log", state);
    ck_assert(!mkdir(state, 0700) && !mkdir(path, 0700));
    snprintf(line, sizeof line, "--state %s add-dataset %s --start", state, tmp);
    r = cli_line(NULL, line);
    ck_assert_int_eq(r.exit, 1);
    ck_has(r.err, "cannot open '");
    ck_has(r.err, "diffscalerd.log': Is a directory");
    snprintf(path, sizeof path, "%s/diffscalerd.pid", tmp);
    ck_assert(!ds_fs_exists(path)); /* nothing was started for either */
    cli_free(&r);
}
END_TEST

/* One that says nothing, and one that a signal ends. */
START_TEST(a_daemon_that_ends_without_a_word) {
    static const struct {
        const char *script, *says;
        int exit;
    } ends[] = {{"exit 0", "ended at once: no message (log: ", 1},
                {"exit 9", "ended at once: no message (log: ", 9},
                {"echo; echo why; echo; echo; exit 4", "ended at once: why (log: ", 4},
                {"kill -9 $$", "ended at once: no message (log: ", 1}};
    char line[700], text[200], log[400];
    const char *tmp = ds_test_tmpdir();
    ds_cli_interrupted = 0;
    unsetenv("DIFFSCALER_SOCKET");
    find_programs_in(tmp);
    snprintf(line, sizeof line, "--state %s/st%d add-dataset %s --start", tmp, _i, tmp);
    snprintf(text, sizeof text, "#!/bin/sh\n%s\n", ends[_i].script);
    put("diffscalerd", text);
    snprintf(log, sizeof log, "%s/st%d", tmp, _i);
    ck_assert_int_eq(mkdir(log, 0700), 0);
    snprintf(log, sizeof log, "st%d/diffscalerd.log", _i);
    put(log, "of an earlier one: "); /* not its reason */
    cli_result r = cli_line(NULL, line);
    ck_assert_msg(r.exit == ends[_i].exit, "exit %d: %s", r.exit, r.err);
    ck_has(r.err, ends[_i].says);
    cli_free(&r);
}
END_TEST

/* doctor --------------------------------------------------------------------------------------- */

#define STATUS(more) "{\"version\":\"" DS_VERSION "\"" more "}"
#define NO_ITEMS "{\"items\":[],\"next\":null}"

static char said[16384];
static int ended;

/* All that it finds as lines "STATUS NAME DETAIL | FIX"; status NULL: no daemon. */
static void doctor(const char *status, const char *base) {
    fake_route routes[] = {{.request = "GET /v1/status", .body = status},
                           {.request = "GET /readyz", .body = "ok"},
                           {.request = "GET /v1/bases?limit=1000", .body = NO_ITEMS},
                           {.request = "GET /v1/feature_nets?limit=1000", .body = NO_ITEMS},
                           {.request = base ? base : "none", .body = "{\"name\":\"n\"}"},
                           {.request = NULL}};
    fake_server s;
    size_t i, n = 0;
    json_t *check;
    char line[500];
    fake_start(&s, routes);
    snprintf(line, sizeof line, "--state %s doctor --json", ds_test_tmpdir());
    cli_result r = cli_line(status ? s.socket : "/nonexistent/socket", line);
    ended = r.exit;
    json_t *doc = cli_json(&r, "dsctl.v1/doctor");
    ck_assert_int_eq(json_is_true(json_object_get(doc, "ok")), ended == 0);
    json_array_foreach(json_object_get(doc, "checks"), i, check)
        n +=
            (size_t)snprintf(said + n, n < sizeof said ? sizeof said - n : 0, "%s %s %s | %s\n",
                             ds_json_string(check, "status", ""), ds_json_string(check, "name", ""),
                             ds_json_string(check, "detail", ""), ds_json_string(check, "fix", ""));
    json_decref(doc);
    cli_free(&r);
    fake_stop(&s);
}

static void expect(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void expect(const char *fmt, ...) {
    char line[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    ck_has(said, line);
}

/* The programs of the installation, each of which a test replaces by a script. */
static void install(const char *daemon, const char *worker) {
    char text[1200];
    const char *tmp = ds_test_tmpdir();
    snprintf(text, sizeof text, "#!/bin/sh\n%s\n", worker);
    put("w", text);
    snprintf(text, sizeof text, "#!/bin/sh\n%s\necho 'worker = %s/w'\n", daemon, tmp);
    put("diffscalerd", text);
    snprintf(text, sizeof text, "%s:/usr/bin:/bin", tmp);
    setenv("PATH", text, 1);
}

#define WORKS "[ \"$1\" = devices ] && echo cpu only || echo w 1.0; echo more"

START_TEST(programs_that_fail) {
    const char *tmp = ds_test_tmpdir();
    install("", WORKS);
    doctor(STATUS(""), NULL);
    expect("ok program %s/diffscalerd | \n", tmp);
    expect("ok worker %s/w: w 1.0 | \n", tmp);
    expect("ok gpu cpu only | \n");
    install("echo \"$*\"; echo two; exit 2", WORKS);
    doctor(STATUS(""), NULL);
    expect("fail program %s/diffscalerd --check-config: --state %s --check-config | see "
           "diffscalerd --help\n",
           tmp, tmp);
    ck_assert_int_eq(ended, 1);
    install("echo dying; kill -9 $$", WORKS);
    doctor(STATUS(""), NULL);
    expect("fail program %s/diffscalerd --check-config: dying | ", tmp);
    expect("fail worker cannot find the program 'diffscaler-worker'"); /* nobody named one */
    ck_has_not(said, " gpu ");
    install("", "echo broken; echo two; exit 3");
    doctor(STATUS(""), NULL);
    expect("fail worker '%s/w --version' fails: broken | install diffscaler-worker beside "
           "diffscalerd, or set DIFFSCALER_WORKER\n",
           tmp);
    expect("warn gpu '%s/w devices' fails: broken | device cpu works without\n", tmp);
    install("", "echo dying; kill -9 $$");
    doctor(STATUS(""), NULL);
    expect("fail worker '%s/w --version' fails: dying | ", tmp);
    expect("warn gpu '%s/w devices' fails: dying | ", tmp);
}
END_TEST

/* A model file is known by its content, unpacked where it is packed. */
START_TEST(model_files) {
    char text[600], hex[DS_HEX_SIZE], route[160], status[400], *packed, path[400];
    size_t n;
    const char *tmp = ds_test_tmpdir();
    snprintf(text, sizeof text, "echo 'base = %s/gone'", tmp);
    install(text, WORKS);
    doctor(STATUS(""), NULL);
    expect("fail base cannot open '%s/gone': No such file or directory | install it again\n", tmp);
    snprintf(text, sizeof text, "echo 'base = %s/b.zst'; echo 'feature-net = (none)'", tmp);
    install(text, WORKS);
    ck_assert_int_eq(ds_zio_compress("content", 7, 3, &packed, &n, NULL), 0);
    snprintf(path, sizeof path, "%s/b.zst", tmp);
    ck_assert_int_eq(ds_fs_write(path, packed, n, NULL), 0);
    free(packed);
    ds_digest("content", 7, hex);
    snprintf(status, sizeof status, STATUS(",\"base\":{\"sha256\":\"%s\"}"), hex);
    doctor(status, NULL);
    expect("ok base '%s', sha256:%.12s..., as the daemon has it | \n", path, hex);
    expect("fail feature net none found | ");
    doctor(NULL, NULL);
    expect("ok base '%s', sha256:%.12s... | \n", path, hex);
    /* the daemon's default is another, which lies elsewhere or beside it, or in a folder there */
    snprintf(route, sizeof route, "GET /v1/bases/%s", hex);
    static const char *const places[] = {"/other/b.zst", "a.zst", "sub/a.zst"};
    for (int i = 0; i < 3; i++) {
        snprintf(status, sizeof status,
                 STATUS(",\"base\":{\"name\":\"old\",\"sha256\":\"abcdefabcdefabcdef\",\"path\":"
                        "\"%s%s%s\"}"),
                 i ? tmp : "", i ? "/" : "", places[i]);
        doctor(status, route);
        if (i == 1)
            expect("note base a newer one comes with this version, '%s', sha256:%.12s...; this "
                   "state keeps 'old', sha256:abcdefabcdef... | dsctl add-dataset DIR --base NAME",
                   path, hex);
        else
            expect("ok base '%s', sha256:%.12s...; the default is another one, "
                   "sha256:abcdefabcdef... | \n",
                   path, hex);
        doctor(status, NULL); /* nobody has registered it */
        expect("warn base '%s' is sha256:%.12s..., the daemon uses sha256:abcdefabcdef... | "
               "restart diffscalerd if the file was replaced on purpose\n",
               path, hex);
    }
}
END_TEST

/* Room in the state folder, the processor and the limits of inotify. */
START_TEST(the_machine) {
    char folder[300];
    const char *tmp = ds_test_tmpdir();
    static const struct {
        int64_t mib;
        const char *says;
    } rooms[] = {
        {0, "fail state only 0 B free in '%s' | make room: jobs wait until there is some\n"},
        {102, "fail state only 107 MB free in '%s' | make room: jobs wait"},
        {103, "warn state 108 MB free in '%s' | make room soon\n"},
        {1023, "warn state 1.1 GB free in '%s' | make room soon\n"},
        {1024, "ok state '%s', 1.1 GB free | \n"}};
    install("", WORKS);
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        room_mib = rooms[i].mib;
        doctor(STATUS(""), NULL);
        char line[400];
        snprintf(line, sizeof line, rooms[i].says, tmp); /* NOLINT: the rows above */
        expect("%s", line);
    }
    room_mib = -1;
    snprintf(folder, sizeof folder, "%s/proc", tmp);
    ck_assert_int_eq(mkdir(folder, 0700), 0);
    machine = folder;
    doctor(STATUS(""), NULL);
    expect(
        " processors, no AVX2 | training works, but many times slower than on a CPU with AVX2\n");
    expect(
        "warn inotify its limits cannot be read | folders are still scanned every few minutes\n");
    put("proc/cpuinfo", "processor\t: 0\nmodel\t: avx2 \nflags\t\t: fpu avx2x avx512bw\n");
    put("proc/max_user_watches", "65535\n");
    put("proc/max_queued_events", "16384\n");
    doctor(STATUS(""), NULL);
    expect(" processors, AVX-512 | \n"); /* the last word of the line counts */
    expect("warn inotify max_user_watches is 65535 | sysctl fs.inotify.max_user_watches=524288 ");
    put("proc/cpuinfo", "flags\t\t: fpu avx2 avx512bw avx512_bf16 x\nflags\t\t: fpu\n");
    put("proc/max_user_watches", "65536\n");
    doctor(STATUS(""), NULL);
    expect(" processors, AVX2, AVX-512, AVX-512-BF16 | \n");
    expect("ok inotify 65536 watches, 16384 queued events | \n");
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, a_program_is_run);
    tcase_add_test(tc, a_daemon_that_cannot_be_started);
    tcase_add_loop_test(tc, a_daemon_that_ends_without_a_word, 0, 4);
    tcase_add_test(tc, programs_that_fail);
    tcase_add_test(tc, model_files);
    tcase_add_test(tc, the_machine);
}

int main(void) { return ds_test_main("cli_programs", cases); }
