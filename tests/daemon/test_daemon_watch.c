/* tests/daemon/test_daemon_watch.c - folder watches, the tail of events.ndjson, the table of options, the
 * first look at a folder: parts of the daemon on a loop of the test's own. */
#include "daemon/jobs/defaults.h"
#include "daemon/folders/look.h"
#include "daemon/folders/watch.h"
#include "daemon/jobs/tail.h"
#include "tests/fixtures/daemon_rig.h"
#include "tests/fixtures/daemon_spin.h"

static int changes[4], armed[4];
static char root[300];

static int changed_rc, reached, told_rc;
static enum ds_reach reach;
static char reach_text[600];
static int on_changed(void *ctx, int64_t id) {
    (void)ctx;
    changes[id] += !changed_rc;
    return changed_rc;
}
static int on_reach(void *ctx, int64_t id, enum ds_reach is, const char *text) {
    (void)ctx, (void)id;
    reached += !told_rc;
    reach = is;
    snprintf(reach_text, sizeof reach_text, "%s", text);
    return told_rc;
}
static void on_armed(void *ctx, int64_t id) { (void)ctx, armed[id]++; }

static void setup(void) {
    static int n;
    setenv(DS_HELPER_ENV, "1", 1);
    memset(changes, 0, sizeof changes);
    memset(armed, 0, sizeof armed);
    snprintf(root, sizeof root, "%s/watch%d-%d", ds_test_tmpdir(), (int)getpid(), n++);
    ck_assert_int_eq(mkdir(root, 0755), 0);
    changed_rc = reached = told_rc = 0;
    reach = DS_REACH_UNKNOWN;
    uv_loop_init(&loop);
    ds_watch_options o = {.settle_ms = 100,
                          .max_dirs = 100,
                          .self = "/proc/self/exe",
                          .state = "/nonexistent/state",
                          .changed = on_changed,
                          .armed = on_armed,
                          .reach = on_reach};
    watch = ds_watch_open(&loop, &o);
}

static void file(const char *name) {
    char path[500];
    snprintf(path, sizeof path, "%s/%s", root, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    ck_assert(fd >= 0);
    ck_assert_int_eq(write(fd, "x", 1), 1);
    close(fd);
}

static void folder(const char *name) {
    char path[500];
    snprintf(path, sizeof path, "%s/%s", root, name);
    ck_assert_int_eq(mkdir(path, 0755), 0);
}

START_TEST(settles_once) {
    ds_watch_add(watch, 1, root, 1);
    spin_until(&armed[1], 1);
    ck_assert_int_eq(armed[1], 1);
    ck_assert_int_eq(changes[1], 0);
    for (int i = 0; i < 8; i++) { /* a copy that takes 0.4 s, with pauses below the settle time */
        char name[32];
        snprintf(name, sizeof name, "%d.png", i);
        file(name);
        spin(50);
        ck_assert_int_eq(changes[1], 0);
    }
    spin(220);
    ck_assert_int_eq(changes[1], 1);
    spin(220);
    ck_assert_int_eq(changes[1], 1);
}
END_TEST

START_TEST(never_quiet_is_reported_too) {
    ds_watch_add(watch, 1, root, 1);
    spin_until(&armed[1], 1);
    for (int i = 0; i < 30 && !changes[1]; i++) {
        file("log.png");
        spin(50);
    }
    ck_assert_int_ge(changes[1], 1);
}
END_TEST

START_TEST(new_and_moved_folders) {
    folder("a");
    ds_watch_add(watch, 1, root, 1);
    spin_until(&armed[1], 1);
    folder("b");
    folder("b/c");
    spin(260);
    ck_assert_int_eq(changes[1], 1);
    ck_assert_uint_eq(ds_watch_dirs(watch), 4);
    file("b/c/deep.png");
    spin(260);
    ck_assert_int_eq(changes[1], 2);
    char from[500], to[500];
    snprintf(from, sizeof from, "%s/b", root);
    snprintf(to, sizeof to, "%s.elsewhere", root);
    ck_assert_int_eq(rename(from, to), 0);
    spin(260);
    ck_assert_int_eq(changes[1], 3);
    ck_assert_uint_eq(ds_watch_dirs(watch), 2);
    /* the folder itself goes and comes back */
    snprintf(from, sizeof from, "%s.aside", root);
    ck_assert_int_eq(rename(root, from), 0);
    ds_fs_remove(from, NULL);
    spin(260);
    ck_assert_int_eq(changes[1], 4);
    ck_assert_int_eq(mkdir(root, 0755), 0);
    spin(260);
    ck_assert_int_eq(changes[1], 5);
    file("back.png");
    spin(260);
    ck_assert_int_eq(changes[1], 6);
}
END_TEST

static void move(const char *from, const char *to) { ck_assert_int_eq(rename(from, to), 0); }

/* Another folder in its place: that one is watched, at once, and the old one is not. */
START_TEST(swapped_root) {
    char old[400], new[400], path[500];
    snprintf(old, sizeof old, "%s.old", root);
    snprintf(new, sizeof new, "%s.new", root);
    ck_assert_int_eq(mkdir(new, 0755), 0);
    folder("inside");
    ds_watch_add(watch, 1, root, 1);
    spin_until(&armed[1], 1);
    move(root, old);
    move(new, root);
    spin_until(&changes[1], 1);
    spin(300);
    ck_assert_int_eq(changes[1], 1);
    ck_assert_uint_eq(ds_watch_dirs(watch), 1);
    file("x.png");
    spin_until(&changes[1], 2);
    snprintf(path, sizeof path, "%s/stray.png", old);
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    close(fd);
    snprintf(path, sizeof path, "%s/inside/stray.png", old);
    fd = open(path, O_WRONLY | O_CREAT, 0644);
    close(fd);
    spin(300);
    ck_assert_int_eq(changes[1], 2);
    ck_assert_int_eq(renameat2(AT_FDCWD, root, AT_FDCWD, old, RENAME_EXCHANGE), 0);
    spin_until(&changes[1], 3);
    ck_assert_uint_eq(ds_watch_dirs(watch), 2);
}
END_TEST

/* A folder above it moves: what was there is not it any more, and comes back as itself. */
START_TEST(moved_parents) {
    char up[400], away[400], deep[400], path[500];
    snprintf(up, sizeof up, "%s/up", root);
    snprintf(away, sizeof away, "%s/away", root);
    snprintf(deep, sizeof deep, "%s/up/on/top", root);
    folder("up"), folder("up/on"), folder("up/on/top");
    ds_watch_add(watch, 1, deep, 1);
    spin_until(&armed[1], 1);
    move(up, away);
    spin_until(&reached, 1);
    ck_assert_int_eq(reach, DS_REACH_MISSING);
    spin_until(&changes[1], 1);
    ck_assert_uint_eq(ds_watch_dirs(watch), 0);
    snprintf(path, sizeof path, "%s/on/top/unseen.png", away);
    close(open(path, O_WRONLY | O_CREAT, 0644));
    spin(300);
    ck_assert_int_eq(changes[1], 1);
    move(away, up);
    spin_until(&reached, 2);
    ck_assert_int_eq(reach, DS_REACH_OK);
    spin_until(&changes[1], 2);
    file("up/on/top/y.png");
    spin_until(&changes[1], 3);
    /* and once more, now that the folders above were found anew */
    snprintf(path, sizeof path, "%s/up/elsewhere", root);
    snprintf(deep, sizeof deep, "%s/up/on", root);
    move(deep, path);
    spin_until(&reached, 3);
    folder("up/on"), folder("up/on/top");
    spin_until(&reached, 4);
    ck_assert_int_eq(reach, DS_REACH_OK);
}
END_TEST

/* A link in its place, or on the way to it, is not followed; what cannot be written down is said
 * again. */
START_TEST(link_in_its_place) {
    char old[400], up[400], sub[410];
    snprintf(old, sizeof old, "%s.real", root);
    snprintf(up, sizeof up, "%s.up", root);
    snprintf(sub, sizeof sub, "%s/sub", up);
    ck_assert(mkdir(up, 0755) == 0 && mkdir(sub, 0755) == 0);
    ds_watch_add(watch, 1, root, 1);
    ds_watch_add(watch, 2, sub, 1);
    spin_until(&armed[1], 1);
    spin_until(&armed[2], 1);
    told_rc = 1;
    move(root, old);
    ck_assert_int_eq(symlink(old, root), 0);
    spin(300);
    ck_assert_int_eq(reached, 0);
    told_rc = 0;
    spin_until(&reached, 1);
    ck_assert_int_eq(reach, DS_REACH_LINK);
    ck_assert_str_eq(reach_text, old);
    ck_assert_int_eq(ds_watch_gate(watch, 1), DS_GATE_OPEN); /* the scan says it */
    ck_assert_uint_eq(ds_watch_dirs(watch), 1);
    ck_assert_int_eq(unlink(root), 0);
    move(old, root);
    spin_until(&reached, 2);
    ck_assert_int_eq(reach, DS_REACH_OK);
    move(up, old);
    ck_assert_int_eq(symlink(old, up), 0);
    spin_until(&reached, 3);
    ck_assert_int_eq(reach, DS_REACH_LINK);
}
END_TEST

/* A change that could not be written down is reported again. */
START_TEST(change_is_kept) {
    ds_watch_add(watch, 1, root, 1);
    spin_until(&armed[1], 1);
    changed_rc = 1;
    file("a.png");
    spin(300);
    changed_rc = 0;
    spin_until(&changes[1], 1);
}
END_TEST

/* The processes that this one has started. */
static int children(pid_t out[16]) {
    char path[64];
    int n = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    for (int pid; f && n < 16 && fscanf(f, "%d", &pid) == 1;)
        out[n++] = pid;
    if (f)
        fclose(f);
    return n;
}

/* A file system that does not answer, as a helper that is stopped sees it: its dataset is marked, one
 * of another mount goes on, and all is well when it answers. */
START_TEST(unreachable) {
    pid_t pids[16];
    char other[] = "/var/tmp/ds-watch-XXXXXX";
    struct stat here, there;
    ck_assert(mkdtemp(other) && stat(other, &there) == 0 && stat(root, &here) == 0);
    ds_watch_add(watch, 1, root, 1);
    spin_until(&armed[1], 1);
    int n = children(pids);
    ck_assert_int_eq(n, 1);
    kill(pids[0], SIGSTOP);
    folder("new");
    spin_until(&reached, 1);
    ck_assert_int_eq(reach, DS_REACH_UNREACHABLE);
    ck_assert_int_eq(ds_watch_gate(watch, 1), DS_GATE_SHUT);
    ck_assert_uint_eq(ds_helpers_stuck(ds_watch_helpers(watch)), 1);
    ds_watch_add(watch, 2, other, 1);
    spin_until(&armed[2], 1);
    ck_assert_int_eq(ds_watch_gate(watch, 2), DS_GATE_OPEN);
    char path[64];
    snprintf(path, sizeof path, "%s/x.png", other);
    close(open(path, O_WRONLY | O_CREAT, 0644));
    spin_until(&changes[2], 1);
    kill(pids[0], SIGCONT);
    spin_until(&reached, 2);
    ck_assert_int_eq(reach, DS_REACH_OK);
    ck_assert_uint_eq(ds_helpers_stuck(ds_watch_helpers(watch)), 0);
    spin(300);
    int seen = changes[1];
    file("new/x.png"); /* in the folder that was made while nobody could look */
    spin_until(&changes[1], seen + 1);
    /* one that dies is replaced */
    n = children(pids);
    for (int i = 0; i < n; i++)
        kill(pids[i], SIGKILL);
    folder("newer");
    spin_until(&changes[1], seen + 2);
    spin(300);
    seen = changes[1];
    file("newer/x.png");
    spin_until(&changes[1], seen + 1);
    ds_fs_remove(other, NULL);
}
END_TEST

START_TEST(shared_folder) {
    folder("sub");
    char sub[400];
    snprintf(sub, sizeof sub, "%s/sub", root);
    ds_watch_add(watch, 1, root, 1);
    ds_watch_add(watch, 2, sub, 1);
    spin_until(&armed[2], 1);
    file("sub/x.png");
    spin(260);
    ck_assert_int_eq(changes[1], 1);
    ck_assert_int_eq(changes[2], 1);
    ds_watch_remove(watch, 1);
    file("sub/y.png");
    spin(260);
    ck_assert_int_eq(changes[1], 1);
    ck_assert_int_eq(changes[2], 2);
}
END_TEST

START_TEST(limit_is_said) {
    char name[32];
    for (int i = 0; i < 120; i++) {
        snprintf(name, sizeof name, "d%d", i);
        folder(name);
    }
    ds_watch_add(watch, 1, root, 1);
    spin_until(&armed[1], 1);
    ck_assert_int_eq(armed[1], 1);
    ck_assert_uint_eq(ds_watch_dirs(watch), 100);
    ck_assert(strstr(ds_watch_note(watch), "100"));
}
END_TEST

/* More events than the kernel keeps while the loop is busy: told once, everything is looked at. */
START_TEST(overflow) {
    long limit = 16384;
    FILE *f = fopen("/proc/sys/fs/inotify/max_queued_events", "r");
    if (f && fscanf(f, "%ld", &limit) != 1)
        limit = 16384;
    if (f)
        fclose(f);
    if (limit > 100000) {
        ds_test_skip("overflow", "fs.inotify.max_queued_events is very large here");
        return;
    }
    char other[400], path[500];
    snprintf(other, sizeof other, "%s.other", root);
    ck_assert_int_eq(mkdir(other, 0755), 0);
    ds_watch_add(watch, 1, root, 1);
    ds_watch_add(watch, 2, other, 1);
    spin_until(&armed[2], 1);
    snprintf(path, sizeof path, "%s/same.png", root);
    snprintf(other, sizeof other, "%s/same2.png", root);
    file("same.png");
    for (long i = 0; i < limit / 2 + 100; i++) /* two events each */
        ck_assert_int_eq(i % 2 ? rename(other, path) : rename(path, other), 0);
    folder("late"); /* its event is among the lost */
    spin(400);
    ck_assert_uint_eq(ds_watch_overflows(watch), 1);
    ck_assert_int_eq(changes[1], 1);
    ck_assert_int_eq(changes[2], 1); /* any folder may have lost events */
    ck_assert_uint_eq(ds_watch_dirs(watch), 3);
    file("late/x.png");
    spin(260);
    ck_assert_int_eq(changes[1], 2);
}
END_TEST

/* ---- tail ---- */

static char lines[4096];
static void keep(void *ctx, const char *line, size_t n) {
    (void)ctx;
    size_t have = strlen(lines);
    snprintf(lines + have, sizeof lines - have, "[%.*s]", (int)n, line);
}

static void append(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT, 0644);
    ck_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

START_TEST(tail_lines) {
    char path[400];
    ds_tail t;
    snprintf(path, sizeof path, "%s/events.ndjson", root);
    lines[0] = 0;
    ds_tail_init(&t, path, 1);
    ck_assert_int_eq(ds_tail_lines(&t, path, 1 << 20, keep, NULL), 0);
    append(path, "one\ntw");
    ds_tail_lines(&t, path, 1 << 20, keep, NULL);
    ck_assert_str_eq(lines, "[one]");
    append(path, "o\n\nthree");
    ds_tail_lines(&t, path, 1 << 20, keep, NULL);
    ck_assert_str_eq(lines, "[one][two]");
    ds_tail_release(&t);
    /* a new worker after a torn line: what it writes on that line is not believed */
    ds_tail_init(&t, path, 1);
    append(path, "{four}\nfive\n");
    ds_tail_lines(&t, path, 1 << 20, keep, NULL);
    ck_assert_str_eq(lines, "[one][two][five]");
    char *huge = ds_xmalloc(DS_TAIL_LINE_MAX * 3);
    memset(huge, 'x', DS_TAIL_LINE_MAX * 3 - 1);
    huge[DS_TAIL_LINE_MAX * 3 - 1] = 0;
    append(path, huge);
    append(path, "\nsix\n");
    free(huge);
    ds_tail_lines(&t, path, 1 << 20, keep, NULL);
    ck_assert_str_eq(lines, "[one][two][five][six]");
    ds_tail_release(&t);
    snprintf(path, sizeof path, "%s/pipe", root); /* nothing that a worker writes */
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ds_tail_init(&t, path, 0);
    int before = open("/dev/null", O_RDONLY), after;
    close(before);
    ck_assert_int_eq(ds_tail_lines(&t, path, 1 << 20, keep, NULL), 0);
    after = open("/dev/null", O_RDONLY);
    close(after);
    ck_assert_int_eq(after, before); /* it is not kept open either */
    ds_tail_release(&t);
}
END_TEST

/* ---- options ---- */

START_TEST(options_table) {
    ds_error err;
    ds_dataset_facts facts = {.images = 500, .classes = 10};
    json_t *spec = json_object(),
           *given = json_pack("{si si sb si}", "steps", 42, "lr", 1, "flip", 1, "batch", 16);
    ck_assert_msg(ds_options_apply(spec, "embedding", given, &facts, &err) == 0, "%s", err.message);
    const json_t *train = json_object_get(spec, "train");
    ck_assert_str_eq(ds_json_string(json_object_get(spec, "method"), "name", ""), "embedding");
    ck_assert_int_eq(ds_json_int(train, "steps", 0), 42);
    ck_assert_int_eq(ds_json_int(train, "warmup", 0), 4);
    ck_assert_int_eq(ds_json_int(train, "micro_batch", 0), 16);
    ck_assert(json_is_real(json_object_get(train, "lr")));
    ck_assert(json_is_true(json_object_get(train, "flip")));
    ck_assert_double_eq(ds_json_number(train, "label_dropout", -1), 0.1);
    static const char *const sections[] = {"method", "train", "sample", "evaluate",
                                           "probe",  "gate",  "device"};
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        ck_assert(json_is_object(json_object_get(spec, sections[i])));
    json_decref(given);
    json_decref(spec);
    facts = (ds_dataset_facts){.images = 5, .classes = 1};
    spec = json_object();
    ck_assert_int_eq(ds_options_apply(spec, NULL, NULL, &facts, &err), 0);
    train = json_object_get(spec, "train");
    ck_assert_double_eq(ds_json_number(train, "label_dropout", -1), 0.0); /* one class */
    ck_assert_int_eq(ds_json_int(json_object_get(spec, "evaluate"), "kid_subset_size", 0), 5);
    json_decref(spec);
    static const char *const bad[] = {"{\"rank\":0}",      "{\"rank\":1.5}",
                                      "{\"lr\":-1}",       "{\"flip\":1}",
                                      "{\"side\":\"up\"}", "{\"targets\":[\"z\"]}",
                                      "{\"targets\":[]}",  "{\"targets\":\"q\"}",
                                      "{\"no\":1}",        "{\"batch\":4,\"micro_batch\":8}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        given = json_loads(bad[i], 0, NULL);
        spec = json_object();
        ck_assert_msg(ds_options_apply(spec, NULL, given, &facts, &err) == DS_EINVAL, "%s", bad[i]);
        json_decref(spec);
        json_decref(given);
    }
}
END_TEST

START_TEST(look) {
    char real[PATH_MAX], link[400];
    ds_error err;
    ck_assert_int_eq(ds_look_at_folder(root, real, &err), DS_EINVAL);
    file("notes.txt");
    ck_assert_int_eq(ds_look_at_folder(root, real, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "no image"));
    folder("sub");
    file("sub/.hidden.png");
    ck_assert_int_eq(ds_look_at_folder(root, real, &err), DS_EINVAL);
    char path[400];
    snprintf(path, sizeof path, "%s/sub/no-extension", root);
    append(path, "\x89PNG\r\n");
    ck_assert_int_eq(ds_look_at_folder(root, real, &err), 0);
    snprintf(link, sizeof link, "%s.link", root);
    ck_assert_int_eq(symlink(root, link), 0);
    ck_assert_int_eq(ds_look_at_folder(link, real, &err), 0);
    ck_assert_str_eq(real, root);
    ck_assert_int_eq(ds_look_at_folder("/proc/self/exe", real, &err), DS_EINVAL);
    ck_assert_int_eq(ds_look_at_folder("/proc/self/exe/x", real, &err), DS_EINVAL);
}
END_TEST

static void only(const char *name, const void *bytes, size_t n) {
    char path[400];
    ds_fs_remove(root, NULL);
    ck_assert_int_eq(mkdir(root, 0755), 0);
    snprintf(path, sizeof path, "%s/%s", root, name);
    ck_assert_int_eq(ds_fs_write(path, bytes, n, NULL), 0);
}

/* By its ending or by its first bytes. */
START_TEST(what_looks_like_an_image) {
    static const char *const endings[] = {".jpg", ".jpeg", ".png", ".webp", ".pnm",
                                          ".ppm", ".pgm",  ".pbm", ".PNG"};
    static const struct {
        const char *bytes;
        size_t n;
        int is;
    } first[] = {{"\xff\xd8\xff\xe0", 4, 1},
                 {"\xff\xd8\xfe\xe0", 4, 0},
                 {"\xff\xd9\xff\xe0", 4, 0},
                 {"\xfe\xd8\xff\xe0", 4, 0},
                 {"\x89PNG", 4, 1},
                 {"\x89PN", 3, 0},
                 {"\x89PNK", 4, 0},
                 {"RIFF1234WEBP", 12, 1},
                 {"RIFF1234WEBQ", 12, 0},
                 {"RIFG1234WEBP", 12, 0},
                 {"RIFF1234WEB", 11, 0},
                 {"P1\n8", 4, 1},
                 {"P6 8", 4, 1},
                 {"P6#8", 4, 1},
                 {"P7 8", 4, 0},
                 {"P0 8", 4, 0},
                 {"P68 ", 4, 0},
                 {"Q6 8", 4, 0}};
    char name[40], real[PATH_MAX];
    ds_error err;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        snprintf(name, sizeof name, "x%s", endings[i]);
        only(name, "?", 1);
        ck_assert_msg(ds_look_at_folder(root, real, &err) == 0, "%s", endings[i]);
    }
    static const char *const others[] = {"x.gif", "png", "x.png.txt", "x."};
    for (int i = 0; i < 4; i++) {
        only(others[i], "????????????", 12);
        ck_assert_int_eq(ds_look_at_folder(root, real, &err), DS_EINVAL);
        ck_assert(strstr(err.message, "no image among its 1 files") != NULL);
    }
    for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
        only("x", first[i].bytes, first[i].n);
        ck_assert_msg((ds_look_at_folder(root, real, &err) == 0) == first[i].is, "%zu", i);
    }
}
END_TEST

/* What cannot be looked at to its end is the scan's question; links are told. */
START_TEST(a_look_is_short) {
    char path[600], real[PATH_MAX];
    ds_error err;
    snprintf(path, sizeof path, "%s/a/b/c/d", root);
    ck_assert_int_eq(ds_fs_mkdirs(path, NULL), 0); /* four deep, and nothing in it */
    ck_assert_int_eq(ds_look_at_folder(root, real, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "no image among its 0 files") != NULL);
    snprintf(path, sizeof path, "%s/a/b/c/d/e", root);
    ck_assert_int_eq(ds_fs_mkdirs(path, NULL), 0); /* five: not looked into */
    ck_assert_int_eq(ds_look_at_folder(root, real, &err), 0);
    ck_assert_int_eq(ds_fs_remove(path, NULL), 0);
    for (int links = 1; links < 3; links++) {
        snprintf(path, sizeof path, "%s/to%d", root, links);
        ck_assert_int_eq(symlink("/tmp", path), 0);
        ck_assert_int_eq(ds_look_at_folder(root, real, &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, links == 1 ? "1 link to folders, which is not followed"
                                                     : "2 links to folders, which are not") != NULL,
                      "%s", err.message);
    }
    snprintf(path, sizeof path, "%s/z.png", root);
    ck_assert_int_eq(symlink("/nowhere", path), 0); /* a link that is called so is the scan's */
    ck_assert_int_eq(ds_look_at_folder(root, real, &err), 0);
    only("x", "?", 1);
    for (int i = 1; i < 257; i++) { /* 256 files without an ending are read, one more is enough */
        snprintf(path, sizeof path, "%s/%d", root, i);
        if (i == 256)
            ck_assert_int_eq(ds_look_at_folder(root, real, &err), DS_EINVAL);
        close(open(path, O_WRONLY | O_CREAT, 0644));
    }
    ck_assert_int_eq(ds_look_at_folder(root, real, &err), 0);
    ck_assert_int_eq(ds_look_at_folder("relative", real, &err), DS_EINVAL);
    char *longest = ds_xmalloc(PATH_MAX);
    memset(longest, 'x', PATH_MAX);
    longest[0] = '/';
    longest[PATH_MAX - 256] = 0;
    ck_assert_int_eq(ds_look_at_folder(longest, real, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "too long") != NULL);
    free(longest);
    ck_assert_int_eq(ds_look_at_folder("/nowhere/at/all", real, &err), DS_ENOTFOUND);
}
END_TEST

START_TEST(what_an_import_may_name) {
    char path[400], real[PATH_MAX];
    ds_error err;
    snprintf(path, sizeof path, "%s/model.pt", root);
    ck_assert_int_eq(ds_look_at_source("source", path, 0, real, &err), DS_ENOTFOUND);
    ck_assert_int_eq(ds_fs_write(path, "", 0, NULL), 0);
    ck_assert_int_eq(ds_look_at_source("source", path, 0, real, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "which is empty") != NULL);
    ck_assert_int_eq(ds_fs_write(path, "w", 1, NULL), 0);
    ck_assert_int_eq(ds_look_at_source("source", path, 1, real, &err), 0);
    ck_assert_str_eq(real, path);
    ck_assert_int_eq(ds_look_at_source("source", root, 0, real, &err), 0); /* a folder too */
    ck_assert_int_eq(ds_look_at_source("source", root, 1, real, &err), DS_EINVAL);
    ck_assert_str_eq(strstr(err.message, "which"), "which is no file");
    ck_assert_int_eq(ds_look_at_source("source", "/dev/null", 0, real, &err), DS_EINVAL);
    ck_assert_str_eq(strstr(err.message, "which"), "which is no file or folder");
    /* pictures to measure with: somewhere in it */
    ck_assert_int_eq(ds_look_for_pictures("probe", path, real, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "'probe' is no folder") != NULL);
    ck_assert_int_eq(ds_look_for_pictures("probe", root, real, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "has no picture") != NULL);
    folder("a"), folder("a/.hidden"), folder("a/b");
    file("a/.hidden/x.png");
    ck_assert_int_eq(ds_look_for_pictures("probe", root, real, &err), DS_EINVAL);
    file("a/b/x.JPG");
    ck_assert_int_eq(ds_look_for_pictures("probe", root, real, &err), 0);
    ck_assert_str_eq(real, root);
    ck_assert_int_eq(ds_look_for_pictures("probe", "/nowhere", real, &err), DS_ENOTFOUND);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, close_watch);
    tcase_add_test(tc, what_looks_like_an_image);
    tcase_add_test(tc, a_look_is_short);
    tcase_add_test(tc, what_an_import_may_name);
    tcase_add_test(tc, settles_once);
    tcase_add_test(tc, never_quiet_is_reported_too);
    tcase_add_test(tc, new_and_moved_folders);
    tcase_add_test(tc, swapped_root);
    tcase_add_test(tc, moved_parents);
    tcase_add_test(tc, link_in_its_place);
    tcase_add_test(tc, change_is_kept);
    tcase_add_test(tc, unreachable);
    tcase_add_test(tc, shared_folder);
    tcase_add_test(tc, limit_is_said);
    tcase_add_test(tc, overflow);
    tcase_add_test(tc, tail_lines);
    tcase_add_test(tc, options_table);
    tcase_add_test(tc, look);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_watch", cases);
}
