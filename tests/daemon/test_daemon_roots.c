/* tests/daemon/test_daemon_roots.c - roots that may not be watched, or cannot be: what is said of them, whether
 * a job may begin, and that it is told again until somebody has written it down. */
#include "daemon/folders/watch.h"
#include "tests/fixtures/daemon_rig.h"

#include <sys/resource.h>

static uv_loop_t loop;
static ds_watch *watch;
static char root[300], state[310], said[600];
static int changed, armed, told, told_rc;
static enum ds_reach reach;

static int on_changed(void *ctx, int64_t id) {
    (void)ctx, (void)id;
    changed++;
    return 0;
}
static int on_reach(void *ctx, int64_t id, enum ds_reach is, const char *text) {
    (void)ctx;
    ck_assert_int_eq(id, 1);
    told++;
    reach = is;
    snprintf(said, sizeof said, "%s", text);
    return told_rc;
}
static void on_armed(void *ctx, int64_t id) { (void)ctx, (void)id, armed++; }

static void open_watch(void) {
    ds_watch_options o = {.settle_ms = 100,
                          .max_dirs = 100,
                          .self = "/proc/self/exe",
                          .state = state,
                          .changed = on_changed,
                          .armed = on_armed,
                          .reach = on_reach};
    watch = ds_watch_open(&loop, &o);
}

static void setup(void) {
    static int n;
    setenv(DS_HELPER_ENV, "1", 1);
    changed = armed = told = told_rc = 0;
    reach = DS_REACH_UNKNOWN;
    snprintf(root, sizeof root, "%s/roots%d-%d", ds_test_tmpdir(), (int)getpid(), n++);
    snprintf(state, sizeof state, "%s/state", root);
    ck_assert(!mkdir(root, 0755) && !mkdir(state, 0755));
    uv_loop_init(&loop);
}

static void teardown(void) {
    ds_watch_close(watch);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}

static void spin(int ms) {
    for (double end = ds_monotonic() + ms / 1000.0; ds_monotonic() < end; usleep(10000)) {
        uv_run(&loop, UV_RUN_NOWAIT);
        ds_watch_tick(watch);
    }
}

static void spin_until(const int *counter, int value) {
    for (int i = 0; i < 400 && *counter < value; i++)
        spin(10);
    ck_assert_int_ge(*counter, value);
}

static const char *at(const char *name) {
    static char path[2][500];
    static int turn;
    char *out = path[turn++ % 2];
    snprintf(out, 500, "%s/%s", root, name);
    return out;
}

/* The state folder itself, a folder in it, and one that holds it: refused with the words for it,
 * and a job may begin, which fails with them; elsewhere all is well. */
START_TEST(in_the_way_of_the_state) {
    static const struct {
        const char *path, *says;
    } roots[] = {{"state", "the state folder '"},
                 {"state/in", "the state folder '"},
                 {"", "the folder holds the state folder '"}};
    const char *text;
    int64_t since;
    open_watch();
    ck_assert_int_eq(mkdir(at("state/in"), 0755), 0);
    ds_watch_add(watch, 1, at(roots[_i].path), 1);
    ck_assert_int_eq(ds_watch_gate(watch, 1), DS_GATE_WAIT);
    spin_until(&told, 1);
    ck_assert_int_eq(reach, DS_REACH_REFUSED);
    ck_assert_str_eq(ds_reach_name(reach), "refused");
    ck_assert_msg(strstr(said, roots[_i].says) && strstr(said, state), "%s", said);
    ck_assert_int_eq(ds_watch_reach(watch, 1, &text, &since), DS_REACH_REFUSED);
    ck_assert_str_eq(text, said);
    ck_assert_int_gt(since, 0);
    ck_assert_int_eq(ds_watch_gate(watch, 1), DS_GATE_OPEN);
    ck_assert_uint_eq(ds_watch_dirs(watch), 0);
    ds_watch_remove(watch, 1);
    ck_assert_int_eq(ds_watch_reach(watch, 1, &text, &since), DS_REACH_UNKNOWN);
    ck_assert(!*text && !since);
}
END_TEST

/* What could not be written down is told again, and no job begins before. */
START_TEST(told_until_it_is_kept) {
    open_watch();
    told_rc = 1;
    ds_watch_add(watch, 1, at("none"), 1);
    spin_until(&told, 3);
    ck_assert_int_eq(reach, DS_REACH_MISSING);
    ck_assert_int_eq(ds_watch_gate(watch, 1), DS_GATE_WAIT);
    told_rc = 0;
    int before = told;
    spin_until(&told, before + 1);
    spin(200);
    ck_assert_int_eq(told, before + 1);
    ck_assert_int_ne(ds_watch_gate(watch, 1), DS_GATE_SHUT);
    ck_assert_int_eq(mkdir(at("none"), 0755), 0); /* it comes back by itself */
    spin_until(&told, before + 2);
    ck_assert(reach == DS_REACH_OK && !*said);
    spin_until(&armed, 1);
}
END_TEST

/* Slashes at the end of a root make no other one. */
START_TEST(slashes_at_the_end) {
    open_watch();
    ck_assert_int_eq(mkdir(at("set"), 0755), 0);
    ds_watch_add(watch, 1, at("set///"), 1);
    spin_until(&armed, 1);
    rig_write(at("set/a.png"), "x");
    spin_until(&changed, 1);
    ck_assert_uint_eq(ds_watch_dirs(watch), 1);
    ds_watch_add(watch, 1, at("set"), 1); /* it is known: nothing begins anew */
    spin(200);
    ck_assert_int_eq(armed, 1);
    ck_assert_int_eq(rename(at("set"), at("moved")), 0);
    spin_until(&told, 1);
    ck_assert_int_eq(reach, DS_REACH_MISSING);
}
END_TEST

/* The kernel gives no instance of inotify: folders are there all the same, and nobody hears of
 * changes, which is said. */
START_TEST(nothing_is_watched) {
    struct rlimit limit, none;
    getrlimit(RLIMIT_NOFILE, &limit);
    none = limit;
    none.rlim_cur = 0;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    open_watch();
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_msg(strstr(ds_watch_note(watch), "folders are not watched (Too many open files)") &&
                      strstr(ds_watch_note(watch), "periodic rescan"),
                  "%s", ds_watch_note(watch));
    ck_assert_int_eq(mkdir(at("set"), 0755), 0);
    ds_watch_add(watch, 1, at("set"), 1);
    spin_until(&armed, 1);
    ck_assert_int_eq(ds_watch_gate(watch, 1), DS_GATE_OPEN);
    ck_assert_uint_eq(ds_watch_dirs(watch), 0);
    rig_write(at("set/a.png"), "x");
    spin(300);
    ck_assert_int_eq(changed, 0);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, in_the_way_of_the_state, 0, 3);
    tcase_add_test(tc, told_until_it_is_kept);
    tcase_add_test(tc, slashes_at_the_end);
    tcase_add_test(tc, nothing_is_watched);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_roots", cases);
}
