/* tests/daemon/test_daemon_helper.c - the processes that ask file systems: what they answer, and what
 * becomes of questions when one hangs, is killed, or is not wanted any more. */
#include "daemon/folders/helper.h"
#include "tests/fixtures/daemon_rig.h"

#include <dlfcn.h>
#include <sys/inotify.h>

/* The table of mounts of this process and of what it is linked with; "" = the kernel's. */
static char mounts[400];
FILE *fopen(const char *path, const char *mode) {
    FILE *(*real)(const char *, const char *);
    *(void **)&real = dlsym(RTLD_NEXT, "fopen");
    return real(*mounts && !strcmp(path, "/proc/self/mountinfo") ? mounts : path, mode);
}

static uv_loop_t loop;
static ds_helpers *helpers;
static char root[300], state[320], hang[320];

typedef struct {
    int answers, late, last, order;
    int32_t code, place, full;
    uint64_t dev, ino;
    char text[600], records[8000]; /* "d /path\n" of each watch */
} got;
static int answered; /* of all */

static void on_answer(void *ctx, const ds_answer *a) {
    got *g = ctx;
    g->answers++;
    g->last = a->last;
    g->code = a->code;
    g->place = a->place;
    g->full = a->full;
    g->dev = a->dev;
    g->ino = a->ino;
    if (a->last)
        g->order = ++answered;
    snprintf(g->text, sizeof g->text, "%.*s", (int)a->size, a->text);
    size_t have = strlen(g->records);
    for (uint32_t at = 0; a->place == DS_ROOT_OK && !a->code && at + 5 < a->size;) {
        const char *path = a->text + at + 5;
        if (a->text[at + 4] != 'd' && a->text[at + 4] != 'a')
            break;
        have += (size_t)snprintf(g->records + have, sizeof g->records - have, "%c %s\n",
                                 a->text[at + 4], path);
        at += 5 + (uint32_t)strlen(path) + 1;
    }
}

static void on_late(void *ctx) { ((got *)ctx)->late++; }

static void open_helpers(int inotify) {
    uv_loop_init(&loop);
    helpers = ds_helpers_open(&loop, "/proc/self/exe", state, inotify);
}

static void setup(void) {
    static int n;
    setenv(DS_HELPER_ENV, "0.5", 1);
    snprintf(root, sizeof root, "%s/helper%d-%d", ds_test_tmpdir(), (int)getpid(), n++);
    snprintf(state, sizeof state, "%s/state", root);
    snprintf(hang, sizeof hang, "%s.hang", root);
    setenv(DS_HELPER_HANG, hang, 1);
    ck_assert(mkdir(root, 0755) == 0 && mkdir(state, 0755) == 0);
    answered = 0;
}

static void shut(void) {
    ds_helpers_close(helpers);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}

static ds_ask *ask(int op, const char *word, int flag, const char *path, got *g) {
    ds_question q = {.op = (uint32_t)op, .flag = (uint32_t)flag, .room = 100};
    ds_ask_to to = {.answer = on_answer, .late = on_late, .ctx = g};
    snprintf(q.word, sizeof q.word, "%s", word);
    snprintf(q.path, sizeof q.path, "%s", path);
    return ds_helpers_ask(helpers, &q, &to);
}

static void spin(int ms) {
    for (double end = ds_monotonic() + ms / 1000.0; ds_monotonic() < end; usleep(2000)) {
        uv_run(&loop, UV_RUN_NOWAIT);
        ds_helpers_tick(helpers);
    }
}

static void spin_until(const int *counter, int value) {
    for (int i = 0; i < 2500 && *counter < value; i++)
        spin(2);
    ck_assert_int_ge(*counter, value);
}

static got answer(int op, const char *word, int flag, const char *path) {
    got g = {0};
    ask(op, word, flag, path, &g);
    spin_until(&g.last, 1);
    return g;
}

static const char *in_root(const char *name) {
    static char path[4][900];
    static int k;
    k = (k + 1) % 4;
    snprintf(path[k], sizeof path[k], "%s/%s", root, name);
    return path[k];
}

static void says(got g, int code, int place, const char *text) {
    ck_assert_msg(g.code == code && g.place == place && strstr(g.text, text),
                  "code %d, place %d, '%s' for '%s'", g.code, g.place, g.text, text);
    ck_assert_int_eq(g.answers, 1);
}

START_TEST(what_roots_answer) {
    char name[300], to[400];
    struct stat st;
    open_helpers(-1);
    ck_assert(mkdir(in_root("pics"), 0755) == 0 && !stat(in_root("pics"), &st));
    got g = answer(DS_ASK_ROOT, "", 0, in_root("pics"));
    says(g, 0, DS_ROOT_OK, "");
    ck_assert(g.dev == st.st_dev && g.ino == st.st_ino);
    says(answer(DS_ASK_ROOT, "", 0, in_root("pics//")), 0, DS_ROOT_OK, "");
    says(answer(DS_ASK_WATCH, "", 0, in_root("pics")), 0, DS_ROOT_OK, ""); /* nothing to watch by */
    says(answer(DS_ASK_ROOT, "", 0, in_root("none")), 0, DS_ROOT_MISSING, "does not exist");
    rig_write(in_root("file"), "x");
    says(answer(DS_ASK_ROOT, "", 0, in_root("file")), 0, DS_ROOT_MISSING, "there is a file in its");
    says(answer(DS_ASK_ROOT, "", 0, in_root("file/x")), 0, DS_ROOT_MISSING, "there is a file in");
    ck_assert(symlink("pics", in_root("link")) == 0 && symlink("nothing", in_root("bad")) == 0);
    snprintf(to, sizeof to, "%s", in_root("pics"));
    g = answer(DS_ASK_ROOT, "", 0, in_root("link"));
    says(g, 0, DS_ROOT_LINK, to);
    ck_assert_str_eq(g.text, to);
    ck_assert(mkdir(in_root("pics/sub"), 0755) == 0);
    snprintf(to, sizeof to, "%s", in_root("pics/sub"));
    g = answer(DS_ASK_ROOT, "", 0, in_root("link/sub")); /* on the way to it */
    ck_assert_str_eq(g.text, to);
    ck_assert_int_eq(g.place, DS_ROOT_LINK);
    says(answer(DS_ASK_ROOT, "", 0, in_root("bad")), 0, DS_ROOT_LINK, "nowhere");
    memset(name, 'n', 256);
    name[256] = 0;
    says(answer(DS_ASK_ROOT, "", 0, in_root(name)), 0, DS_ROOT_MISSING, "is too long");
    name[255] = 0;
    says(answer(DS_ASK_ROOT, "", 0, in_root(name)), 0, DS_ROOT_MISSING, "does not exist");
    says(answer(DS_ASK_ROOT, "", 0, state), 0, DS_ROOT_REFUSED, "is, or lies in, the state folder");
    ck_assert(mkdir(in_root("state/in"), 0755) == 0);
    says(answer(DS_ASK_ROOT, "", 0, in_root("state/in")), 0, DS_ROOT_REFUSED, "is, or lies in,");
    says(answer(DS_ASK_ROOT, "", 0, root), 0, DS_ROOT_REFUSED, "the folder holds the state folder");
    says(answer(DS_ASK_ROOT, "", 0, "/"), 0, DS_ROOT_REFUSED, "holds the state folder");
    shut();
}
END_TEST

START_TEST(what_looks_answer) {
    open_helpers(-1);
    ck_assert(mkdir(in_root("pics"), 0755) == 0 && mkdir(in_root("empty"), 0755) == 0);
    rig_write(in_root("pics/a.png"), "x");
    rig_write(in_root("file"), "x");
    ck_assert(symlink("pics", in_root("link")) == 0 && symlink(state, in_root("inside")) == 0);
    got g = answer(DS_ASK_LOOK, "", 0, in_root("link"));
    says(g, 0, DS_ROOT_OK, "");
    ck_assert_str_eq(g.text, in_root("pics"));
    says(answer(DS_ASK_LOOK, "", 0, in_root("empty")), DS_EINVAL, DS_ROOT_OK, "is empty");
    says(answer(DS_ASK_LOOK, "", 0, in_root("none")), DS_ENOTFOUND, DS_ROOT_OK, "does not exist");
    rig_write(in_root("state/a.png"), "x");
    says(answer(DS_ASK_LOOK, "", 0, in_root("inside")), DS_EINVAL, DS_ROOT_OK, "lies in the state");
    says(answer(DS_ASK_LOOK, "", 0, root), DS_EINVAL, DS_ROOT_OK, "holds the state folder");
    g = answer(DS_ASK_SOURCE, "vae", 0, in_root("link"));
    says(g, 0, DS_ROOT_OK, in_root("pics"));
    says(answer(DS_ASK_SOURCE, "vae", 1, in_root("pics")), DS_EINVAL, DS_ROOT_OK, "'vae' is");
    says(answer(DS_ASK_SOURCE, "vae", 1, in_root("file")), 0, DS_ROOT_OK, in_root("file"));
    says(answer(DS_ASK_PICTURES, "probe", 0, in_root("pics")), 0, DS_ROOT_OK, in_root("pics"));
    says(answer(DS_ASK_PICTURES, "probe", 0, in_root("empty")), DS_EINVAL, DS_ROOT_OK,
         "no picture");
    says(answer(77, "", 0, in_root("pics")), DS_EFAILED, DS_ROOT_OK, "something unknown");
    shut();
}
END_TEST

/* The root, all below it that is a folder and has a name to see, and the way to it. */
START_TEST(what_is_watched) {
    static const char *const folders[] = {"pics",   "pics/a",       "pics/a/b",
                                          "pics/c", "pics/.hidden", "other"};
    char want[400];
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    open_helpers(fd);
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        ck_assert(mkdir(in_root(folders[i]), 0755) == 0);
    rig_write(in_root("pics/file"), "x");
    ck_assert(symlink(in_root("other"), in_root("pics/link")) == 0);
    got g = answer(DS_ASK_WATCH, "", 0, in_root("pics/"));
    ck_assert(g.place == DS_ROOT_OK && !g.full);
    static const char *const watched[] = {"d %s/pics\n", "d %s/pics/a\n", "d %s/pics/a/b\n",
                                          "d %s/pics/c\n", "a %s\n"};
    for (int i = 0; i < 5; i++) {
        snprintf(want, sizeof want, watched[i], root); /* NOLINT: the lines above */
        ck_assert_msg(strstr(g.records, want), "'%s' is not in:\n%s", want, g.records);
    }
    ck_assert(!strstr(g.records, "hidden") && !strstr(g.records, "link") &&
              !strstr(g.records, "file") && !strstr(g.records, "other"));
    g = answer(DS_ASK_WATCH, "sub", 0, in_root("pics")); /* the way to it is watched already */
    ck_assert(!strstr(g.records, "a /") && strstr(g.records, "/pics/a/b\n"));
    for (uint32_t room = 0; room < 6; room++) { /* so many folders, and it is said */
        ds_question q = {.op = DS_ASK_WATCH, .room = room};
        got few = {0};
        ds_ask_to to = {.answer = on_answer, .ctx = &few};
        snprintf(q.path, sizeof q.path, "%s", in_root("pics"));
        ds_helpers_ask(helpers, &q, &to);
        spin_until(&few.last, 1);
        unsigned n = 0;
        for (const char *p = few.records; *p; p += strcspn(p, "\n") + 1)
            n += *p == 'd';
        ck_assert_uint_eq(n, room < 4 ? room : 4);
        ck_assert_int_eq(few.full, room < 4 ? 2 : 0);
    }
    shut();
    close(fd);
}
END_TEST

static void hang_at(const char *prefix) { rig_write(hang, prefix); }
static void go_on(void) { ck_assert_int_eq(unlink(hang), 0); }

/* The one that hangs is told once and answered in the end; others are answered meanwhile. */
START_TEST(one_that_hangs) {
    got a = {0}, b = {0}, c = {0};
    setenv(DS_HELPER_ENV, "2", 1); /* b has to be answered in it */
    open_helpers(-1);
    ck_assert(mkdir(in_root("hangs"), 0755) == 0 && mkdir(in_root("goes"), 0755) == 0);
    hang_at(in_root("hangs"));
    double began = ds_monotonic();
    ask(DS_ASK_ROOT, "", 0, in_root("hangs"), &a);
    ask(DS_ASK_ROOT, "", 0, in_root("goes"), &b); /* waits behind it until it is set aside */
    spin_until(&a.late, 1);
    ck_assert_double_ge(ds_monotonic() - began, 2);
    ck_assert_uint_eq(ds_helpers_stuck(helpers), 1);
    spin_until(&b.last, 1);
    ck_assert(b.place == DS_ROOT_OK && !a.answers);
    ask(DS_ASK_WATCH, "", 0, in_root("goes"), &c); /* walks have a helper of their own */
    spin_until(&c.last, 1);
    spin(2500);
    ck_assert(a.late == 1 && !a.answers && !b.late);
    go_on();
    spin_until(&a.last, 1);
    ck_assert(a.place == DS_ROOT_OK && a.late == 1 && a.answers == 1);
    ck_assert_uint_eq(ds_helpers_stuck(helpers), 0);
    says(answer(DS_ASK_ROOT, "", 0, in_root("none")), 0, DS_ROOT_MISSING, "does not exist");
    shut();
}
END_TEST

/* A walk that hangs keeps no short question waiting, and one mount none of another: they are answered
 * before anything is late. */
START_TEST(lanes_of_their_own) {
    got walk = {0}, root_of = {0}, elsewhere = {0};
    setenv(DS_HELPER_ENV, "10", 1); /* two more helpers have to start in it */
    open_helpers(-1);
    ck_assert(mkdir(in_root("hangs"), 0755) == 0 && mkdir(in_root("goes"), 0755) == 0);
    hang_at(in_root("hangs"));
    ask(DS_ASK_WATCH, "", 0, in_root("hangs"), &walk);
    ask(DS_ASK_ROOT, "", 0, in_root("goes"), &root_of);
    ask(DS_ASK_WATCH, "", 0, "/proc/sys", &elsewhere);
    for (int i = 0; i < 5500 && !(root_of.last && elsewhere.last) && !walk.late; i++)
        spin(2);
    ck_assert(root_of.last && elsewhere.last && !walk.late);
    go_on();
    spin_until(&walk.last, 1);
    shut();
}
END_TEST

/* A mount point is written with octal escapes: a space, a tab, a backslash. */
START_TEST(mounts_with_odd_names) {
    static const char *const names[] = {"a b", "a\tb", "a\\b"}, *const said[] = {"040", "011",
                                                                                 "134"};
    setenv(DS_HELPER_ENV, "10", 1);
    snprintf(mounts, sizeof mounts, "%s/mounts", root);
    for (int i = 0; i < 3; i++) {
        char text[700];
        got slow = {0}, quick = {0};
        snprintf(text, sizeof text,
                 "22 1 0:21 / / rw - ext4 /dev/x rw\n23 22 0:22 / %s/a\\%sb rw - fuse x rw\n", root,
                 said[i]);
        rig_write(mounts, text);
        open_helpers(-1);
        ck_assert_int_eq(mkdir(in_root(names[i]), 0755), 0);
        hang_at(in_root(names[i]));
        ask(DS_ASK_ROOT, "", 0, in_root(names[i]), &slow);
        ask(DS_ASK_ROOT, "", 0, in_root("none"), &quick); /* of the mount above: it goes on */
        for (int k = 0; k < 4500 && !quick.last && !slow.late; k++)
            spin(2);
        ck_assert_msg(quick.last && !slow.last && !slow.late, "\\%s", said[i]);
        go_on();
        spin_until(&slow.last, 1);
        shut();
    }
    *mounts = 0;
}
END_TEST

/* Three helpers of a mount may hang; what waits beyond them is told as well, and answered when they
 * go on; an ask that was forgotten is not answered. */
START_TEST(many_that_hang) {
    enum { N = 6 };
    got g[N] = {{0}};
    ds_ask *asks[N];
    open_helpers(-1);
    ck_assert(mkdir(in_root("hangs"), 0755) == 0);
    hang_at(in_root("hangs"));
    for (int i = 0; i < N; i++)
        asks[i] = ask(DS_ASK_ROOT, "", 0, in_root("hangs"), &g[i]);
    for (int i = 0; i < N; i++)
        spin_until(&g[i].late, 1);
    ck_assert_uint_eq(ds_helpers_stuck(helpers), 3);
    spin(700);
    ck_assert_uint_eq(ds_helpers_stuck(helpers), 3);
    ds_ask_forget(asks[0]); /* a helper has it */
    ds_ask_forget(asks[4]); /* it waits, in the middle */
    ds_ask_forget(NULL);
    go_on();
    for (int i = 0; i < N; i++)
        if (i != 0 && i != 4)
            spin_until(&g[i].last, 1);
    spin(100);
    for (int i = 0; i < N; i++)
        ck_assert(g[i].answers == (i != 0 && i != 4) && g[i].late == 1);
    ck_assert_int_lt(g[3].order, g[5].order);
    ck_assert_uint_eq(ds_helpers_stuck(helpers), 0);
    /* the last of a queue that is forgotten leaves it good */
    got x = {0}, y = {0}, z = {0};
    hang_at(in_root("hangs"));
    ask(DS_ASK_ROOT, "", 0, in_root("hangs"), &x);
    ds_ask *last = ask(DS_ASK_ROOT, "", 0, in_root("hangs"), &y);
    ds_ask_forget(last);
    ask(DS_ASK_ROOT, "", 0, in_root("hangs"), &z);
    go_on();
    spin_until(&z.last, 1);
    ck_assert(x.last && !y.answers);
    shut();
}
END_TEST

/* The children of this process. Not every kernel tells them. */
static const char children[] = "/proc/thread-self/children";
static pid_t child(void) {
    char text[80] = "";
    FILE *f = fopen(children, "r");
    ck_assert(f != NULL);
    if (!fgets(text, sizeof text, f))
        text[0] = 0;
    fclose(f);
    return (pid_t)strtol(text, NULL, 10);
}

START_TEST(one_that_is_killed) {
    got a = {0}, b = {0};
    if (access(children, R_OK)) {
        ds_test_skip("one_that_is_killed", "this kernel does not tell a process its children");
        return;
    }
    open_helpers(-1);
    hang_at(root);
    ask(DS_ASK_ROOT, "", 0, in_root("x"), &a);
    ask(DS_ASK_ROOT, "", 0, in_root("y"), &b);
    spin(50);
    pid_t pid = child();
    ck_assert_int_gt(pid, 0);
    kill(pid, SIGKILL);
    spin_until(&a.last, 1);
    says(a, DS_EBUSY, DS_ROOT_ERROR, "the helper that looked at it ended");
    go_on();
    spin_until(&b.last, 1);
    says(b, 0, DS_ROOT_MISSING, "does not exist");
    /* closed while one hangs and one waits: no callback, and nothing is left */
    hang_at(root);
    got c = {0}, d = {0};
    ask(DS_ASK_ROOT, "", 0, in_root("x"), &c);
    ask(DS_ASK_ROOT, "", 0, in_root("y"), &d);
    spin(50);
    shut();
    ck_assert(!c.answers && !d.answers && !c.late);
    int status = 0; /* it was killed, though it hangs */
    ck_assert(waitpid(-1, &status, 0) > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ck_assert_int_eq(child(), 0);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, what_roots_answer);
    tcase_add_test(tc, what_looks_answer);
    tcase_add_test(tc, what_is_watched);
    tcase_add_test(tc, one_that_hangs);
    tcase_add_test(tc, lanes_of_their_own);
    tcase_add_test(tc, mounts_with_odd_names);
    tcase_add_test(tc, many_that_hang);
    tcase_add_test(tc, one_that_is_killed);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_helper", cases);
}
