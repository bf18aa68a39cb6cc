/* tests/daemon/test_daemon_errors.c - what a person is told when the daemon cannot do something: folders it
 * may not read or watch, a state it may not write, requests that mean nothing. */
#include "tests/fixtures/daemon_rig.h"
#include "tests/fixtures/daemon_spin.h"

#include "daemon/folders/look.h"
#include "daemon/folders/watch.h"

#include <sys/resource.h>

static rig r;

static void start(const char *name) {
    rig_open(&r, name);
    rig_start(&r, NULL);
}

static void stop(void) { ck_assert_int_eq(rig_stop(&r, SIGTERM), 0); }

/* The file under the rig's folder. */
static const char *at(const char *name) {
    static char path[4][500];
    static int turn;
    char *out = path[turn++ % 4];
    snprintf(out, 500, "%s/%s", r.dir, name);
    return out;
}

/* ---- places ---- */

START_TEST(places_of_folders) {
    static const struct {
        const char *real, *state, *says; /* NULL: accepted */
    } places[] = {{"/", "/s", "folder '/' is the whole file system"},
                  {"/s", "/s", "lies in the state folder '/s'"},
                  {"/s/x", "/s", "lies in the state folder '/s'"},
                  {"/s/x", "/s/", "lies in the state folder"},
                  {"/sx", "/s", NULL},
                  {"/a", "/a/s", "holds the state folder '/a/s'"},
                  {"/a/s2", "/a/s", NULL},
                  {"/b", "/a/s", NULL}};
    ds_error err;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int rc = ds_look_at_place(places[i].real, places[i].state, &err);
        ck_assert_msg(rc == (places[i].says ? (int)DS_EINVAL : 0), "%zu: %d", i, rc);
        ck_assert_msg(!rc || strstr(err.message, places[i].says), "%s", err.message);
    }
}
END_TEST

static void as_nobody(const char *test) {
    if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
        ds_test_skip(test, "cannot become another user here");
}

static void refuses(int rc, const ds_error *err, int code, const char *says) {
    ck_assert_msg(rc == code && strstr(err->message, says), "%d: %s", rc, err->message);
}

/* Each case is a process of its own, which may give up its rights. */
START_TEST(what_may_not_be_read) {
    char real[PATH_MAX];
    ds_error err;
    rig_open(&r, "rights");
    static const char *const folders[] = {"closed",       "closed/in", "listed",     "inner",
                                          "inner/closed", "some",      "some/closed"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        ck_assert_int_eq(mkdir(at(folders[i]), 0755), 0);
    rig_write(at("closed/in/a.png"), "\x89PNG");
    rig_write(at("inner/closed/a.png"), "\x89PNG");
    rig_write(at("listed/a.png"), "\x89PNG");
    rig_write(at("some/a.png"), "\x89PNG");
    rig_write(at("model"), "x");
    ck_assert(!chmod(at("closed"), 0700) && !chmod(at("inner/closed"), 0700) &&
              !chmod(at("some/closed"), 0700) && !chmod(at("listed"), 0744) &&
              !chmod(at("model"), 0600));
    as_nobody("what_may_not_be_read");
    if (geteuid() == 0)
        return;
    refuses(ds_look_at_folder(at("closed"), real, &err), &err, DS_EPERM,
            "closed' is not readable for the daemon's user");
    refuses(ds_look_at_folder(at("closed/in"), real, &err), &err, DS_EPERM,
            "cannot look at folder");
    refuses(ds_look_at_folder(at("listed"), real, &err), &err, DS_EPERM, /* names, not files */
            "listed' is not readable for the daemon's user");
    refuses(ds_look_at_folder(at("inner"), real, &err), &err, DS_EPERM,
            "inner' holds folders that the daemon may not read");
    ck_assert_int_eq(ds_look_at_folder(at("some"), real, &err), 0); /* there is enough to begin */
    refuses(ds_look_at_source("source", at("model"), 1, real, &err), &err, DS_EPERM,
            "the daemon cannot read '");
    refuses(ds_look_at_source("source", at("listed"), 0, real, &err), &err, DS_EPERM,
            "the daemon cannot read '");
    refuses(ds_look_at_source("source", at("closed/in/a.png"), 1, real, &err), &err, DS_EPERM,
            "cannot read '");
}
END_TEST

/* Ready is who can also keep what it is asked for. */
START_TEST(a_state_that_cannot_be_written) {
    rig_open(&r, "unready");
    ck_assert_int_eq(mkdir(r.state, 0700), 0);
    if (geteuid() || chown(r.state, 65534, 65534)) {
        ds_test_skip("a_state_that_cannot_be_written", "cannot become another user here");
        return;
    }
    r.unprivileged = 1;
    rig_start(&r, NULL);
    ck_assert_int_eq(chmod(r.state, 0500), 0);
    char words[400];
    snprintf(words, sizeof words, "state folder '%s' is not writable", r.state);
    rig_says(&r, 503, "GET", "/readyz", NULL, words);
    ck_assert_int_eq(chmod(r.state, 0700), 0);
    rig_ready(&r);
    stop();
}
END_TEST

/* ---- events of a job ---- */

START_TEST(a_job_as_server_sent_events) {
    char dir[400], path[100];
    int status;
    start("sse");
    rig_images(&r, "digits", 3, dir);
    rig_add(&r, "digits", dir, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|done|", 10000);
    snprintf(path, sizeof path, "/v1/jobs/%lld/events", (long long)id);
    char *lines = rig_text(&r, "GET", path, NULL, NULL, &status), *p = lines;
    ds_buf want = {0}, later = {0};
    for (int n = 1; *p; n++) { /* the same lines, each with its number before it */
        int length = (int)strcspn(p, "\n");
        ds_buf_addf(&want, "id: %d\ndata: %.*s\n\n", n, length, p);
        if (n > 2)
            ds_buf_addf(&later, "id: %d\ndata: %.*s\n\n", n, length, p);
        p += length + 1;
    }
    ck_assert_ptr_nonnull(later.data);
    char *sse = rig_text(&r, "GET", path, "Accept: text/event-stream\r\n", NULL, &status);
    ck_assert_str_eq(sse, want.data);
    free(sse);
    sse = rig_text(&r, "GET", path, "Accept: text/event-stream\r\nLast-Event-ID: 2\r\n", NULL,
                   &status);
    ck_assert_str_eq(sse, later.data);
    free(sse);
    char more[120]; /* what the reader has seen counts, not what it first asked for */
    snprintf(more, sizeof more, "%s?since=999", path);
    sse = rig_text(&r, "GET", more, "Accept: text/event-stream\r\nLast-Event-ID: 0\r\n", NULL,
                   &status);
    ck_assert_str_eq(sse, want.data);
    free(sse);
    static const char *const bad[] = {"x", "1x", "-1", "99999999999999999999"};
    for (int i = 0; i < 4; i++) {
        snprintf(more, sizeof more, "Last-Event-ID: %s\r\n", bad[i]);
        char *text = rig_text(&r, "GET", path, more, NULL, &status);
        ck_assert_int_eq(status, 400);
        ck_assert(strstr(text, "Last-Event-ID must be the number of a line"));
        free(text);
    }
    char *same = rig_text(&r, "GET", path, "Last-Event-ID: \r\n", NULL, &status);
    ck_assert_str_eq(same, lines);
    free(same);
    char file[400], whole[400]; /* what is no object is counted, and not told */
    int n = 0;
    for (char *q = lines; *q; q++)
        n += *q == '\n';
    snprintf(file, sizeof file, "%s/jobs/%lld/events.ndjson", r.state, (long long)id);
    FILE *f = fopen(file, "ae");
    ck_assert(f && fputs("{}\nno object\n{\"a\":1}\n{\"torn", f) >= 0 && !fclose(f));
    snprintf(whole, sizeof whole, "{\"seq\":%d}\n{\"seq\":%d,\"a\":1}\n", n + 1, n + 3);
    snprintf(more, sizeof more, "%s?since=%d", path, n);
    same = rig_text(&r, "GET", more, NULL, NULL, &status);
    ck_assert_str_eq(same, whole);
    free(same);
    free(lines);
    ds_buf_release(&want);
    ds_buf_release(&later);
    stop();
}
END_TEST

/* ---- requests ---- */

static json_t *notes_of(const char *body) {
    json_t *job = rig_want(&r, 202, "POST", "/v1/samples", body),
           *notes = json_incref(json_object_get(job, "notes"));
    json_decref(job);
    return notes;
}

/* Guidance that changes nothing is told, by the words that say why; what has an effect is not. */
START_TEST(guidance_of_the_base) {
    static const struct {
        const char *body, *notes[2];
    } asks[] = {
        {"{\"ref\":null,\"n\":1,\"guidance_mode\":\"cfg\",\"guidance\":2}",
         {"the base without a class has nothing to be guided by: guidance has no effect"}},
        {"{\"ref\":null,\"n\":1,\"guidance_mode\":\"cfg\",\"guidance\":2,\"class\":\"0\"}", {NULL}},
        {"{\"ref\":null,\"n\":1,\"guidance_mode\":\"domain\",\"guidance\":2}",
         {"the base guided by itself is the base: guidance needs guidance mode cfg and a class"}},
        {"{\"ref\":null,\"n\":1,\"guidance\":2}",
         {"the base guided by itself is the base: guidance needs guidance mode cfg and a class"}},
        {"{\"ref\":null,\"n\":1,\"guidance_mode\":\"none\",\"guidance\":2}",
         {"guidance has no effect with guidance mode none"}},
        {"{\"ref\":null,\"n\":1,\"guidance_domain\":2}",
         {"the base guided by itself is the base: guidance_domain has no effect"}},
        {"{\"ref\":null,\"n\":1,\"guidance_class\":2}",
         {"the base without a class has nothing to be guided by: guidance_class has no effect"}},
        {"{\"ref\":null,\"n\":1,\"guidance_class\":2,\"class\":\"0\"}", {NULL}},
        {"{\"ref\":null,\"n\":1}", {NULL}},
        {"{\"ref\":null,\"n\":1,\"guidance_mode\":\"none\"}", {NULL}},
    };
    start("guide");
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++) {
        json_t *notes = notes_of(asks[i].body);
        size_t n = asks[i].notes[0] != NULL;
        char *text = json_dumps(notes, JSON_ENCODE_ANY);
        ck_assert_msg(json_array_size(notes) == n, "%s: %s", asks[i].body, text);
        if (n)
            ck_assert_str_eq(json_string_value(json_array_get(notes, 0)), asks[i].notes[0]);
        free(text);
        json_decref(notes);
    }
    stop();
}
END_TEST

/* A base that was made without classes has none to ask for; another program may leave it open. */
START_TEST(classes_of_a_base) {
    start("classes");
    rig_sql(&r, "UPDATE bases SET config = '{\"classes\":0}'");
    rig_says(&r, 400, "POST", "/v1/samples", "{\"ref\":null,\"n\":1,\"class\":\"0\"}",
             "base 'emoji' has no classes");
    rig_sql(&r, "UPDATE bases SET config = '{\"classes\":3}'");
    static const char *const bad[] = {"3", "-1", "", "1x", "+1"};
    for (int i = 0; i < 5; i++) {
        char body[100], says[100];
        snprintf(body, sizeof body, "{\"ref\":null,\"n\":1,\"class\":\"%s\"}", bad[i]);
        snprintf(says, sizeof says, "base 'emoji' has classes 0 to 2, not '%s'", bad[i]);
        rig_says(&r, 400, "POST", "/v1/samples", body, says);
    }
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":null,\"n\":1,\"class\":\"2\"}"));
    rig_sql(&r, "UPDATE bases SET config = '{}'");
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{\"ref\":null,\"n\":1,\"class\":\"9\"}"));
    stop();
}
END_TEST

/* The word default: no base of its own any more, whatever the default is later; a name that has
 * been reserved since is this set's, and no other's. */
START_TEST(choices_of_a_dataset) {
    char dir[400], other[400], body[1000];
    start("choices");
    rig_images(&r, "digits", 3, dir);
    rig_images(&r, "other", 3, other);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"d\",\"base\":\"emoji\"}", dir);
    json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
    ck_assert_int_eq(rig_number(&r, "SELECT base_id IS NOT NULL FROM datasets"), 1);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"d\"}", dir);
    json_decref(rig_want(&r, 200, "POST", "/v1/datasets", body)); /* says nothing of it */
    ck_assert_int_eq(rig_number(&r, "SELECT base_id IS NOT NULL FROM datasets"), 1);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"d\",\"base\":\"default\"}", dir);
    json_decref(rig_want(&r, 200, "POST", "/v1/datasets", body));
    ck_assert_int_eq(rig_number(&r, "SELECT base_id IS NULL FROM datasets"), 1);
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"base\"}", dir);
    rig_says(&r, 400, "POST", "/v1/datasets", body, "a dataset cannot be called 'base'");
    rig_sql(&r, "UPDATE datasets SET name = 'base' WHERE name = 'd'");
    json_decref(rig_want(&r, 200, "POST", "/v1/datasets", body));
    snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"base\"}", other);
    rig_says(&r, 400, "POST", "/v1/datasets", body, "a dataset cannot be called 'base'");
    stop();
}
END_TEST

static size_t sets(const char *query) {
    char path[100];
    snprintf(path, sizeof path, "/v1/datasets%s", query);
    json_t *doc = rig_want(&r, 200, "GET", path, NULL);
    size_t n = json_array_size(json_object_get(doc, "items"));
    json_decref(doc);
    return n;
}

/* A parameter that is a yes or a no has the words of both, and alone it is a yes. */
START_TEST(words_of_a_flag) {
    static const char *const yes[] = {"?removed",      "?removed=",    "?removed=1",
                                      "?removed=true", "?removed=yes", "?limit=5&removed"},
                             *const no[] = {"", "?removed=0", "?removed=false", "?removed=no",
                                            "?limit=5"},
                             *const bad[] = {"?removed=2", "?removed=TRUE", "?removed=on",
                                             "?removed=10"};
    char dir[400];
    start("flags");
    rig_images(&r, "digits", 3, dir);
    rig_add(&r, "digits", dir, 201);
    json_decref(rig_want(&r, 200, "DELETE", "/v1/datasets/digits", NULL));
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        ck_assert_msg(sets(yes[i]) == 1, "%s", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        ck_assert_msg(sets(no[i]) == 0, "%s", no[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[100];
        snprintf(path, sizeof path, "/v1/datasets%s", bad[i]);
        rig_says(&r, 400, "GET", path, NULL, "must be 1 or 0");
    }
    stop();
}
END_TEST

/* ---- roots: what is said of them, and whether a job may begin ---- */

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

static void open_roots(void) {
    static int n;
    setenv(DS_HELPER_ENV, "1", 1);
    changed = armed = told = told_rc = 0;
    reach = DS_REACH_UNKNOWN;
    snprintf(root, sizeof root, "%s/roots%d-%d", ds_test_tmpdir(), (int)getpid(), n++);
    snprintf(state, sizeof state, "%s/state", root);
    ck_assert(!mkdir(root, 0755) && !mkdir(state, 0755));
    uv_loop_init(&loop);
}

static const char *under(const char *name) {
    static char path[2][500];
    static int turn;
    char *out = path[turn++ % 2];
    snprintf(out, 500, "%s/%s", root, name);
    return out;
}

/* The state folder itself, a folder in it, and one that holds it: refused with the words for it,
 * and a job may begin, which fails with them; elsewhere all is well. */
START_TEST(in_the_way_of_the_state) {
    open_roots();
    static const struct {
        const char *path, *says;
    } roots[] = {{"state", "the state folder '"},
                 {"state/in", "the state folder '"},
                 {"", "the folder holds the state folder '"}};
    const char *text;
    int64_t since;
    open_watch();
    ck_assert_int_eq(mkdir(under("state/in"), 0755), 0);
    ds_watch_add(watch, 1, under(roots[_i].path), 1);
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
    close_watch();
}
END_TEST

/* What could not be written down is told again, and no job begins before. */
START_TEST(told_until_it_is_kept) {
    open_roots();
    open_watch();
    told_rc = 1;
    ds_watch_add(watch, 1, under("none"), 1);
    spin_until(&told, 3);
    ck_assert_int_eq(reach, DS_REACH_MISSING);
    ck_assert_int_eq(ds_watch_gate(watch, 1), DS_GATE_WAIT);
    told_rc = 0;
    int before = told;
    spin_until(&told, before + 1);
    spin(200);
    ck_assert_int_eq(told, before + 1);
    ck_assert_int_ne(ds_watch_gate(watch, 1), DS_GATE_SHUT);
    ck_assert_int_eq(mkdir(under("none"), 0755), 0); /* it comes back by itself */
    spin_until(&told, before + 2);
    ck_assert(reach == DS_REACH_OK && !*said);
    spin_until(&armed, 1);
    close_watch();
}
END_TEST

/* Slashes at the end of a root make no other one. */
START_TEST(slashes_at_the_end) {
    open_roots();
    open_watch();
    ck_assert_int_eq(mkdir(under("set"), 0755), 0);
    ds_watch_add(watch, 1, under("set///"), 1);
    spin_until(&armed, 1);
    rig_write(under("set/a.png"), "x");
    spin_until(&changed, 1);
    ck_assert_uint_eq(ds_watch_dirs(watch), 1);
    ds_watch_add(watch, 1, under("set"), 1); /* it is known: nothing begins anew */
    spin(200);
    ck_assert_int_eq(armed, 1);
    ck_assert_int_eq(rename(under("set"), under("moved")), 0);
    spin_until(&told, 1);
    ck_assert_int_eq(reach, DS_REACH_MISSING);
    close_watch();
}
END_TEST

/* The kernel gives no instance of inotify: folders are there all the same, and nobody hears of
 * changes, which is said. */
START_TEST(nothing_is_watched) {
    open_roots();
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
    ck_assert_int_eq(mkdir(under("set"), 0755), 0);
    ds_watch_add(watch, 1, under("set"), 1);
    spin_until(&armed, 1);
    ck_assert_int_eq(ds_watch_gate(watch, 1), DS_GATE_OPEN);
    ck_assert_uint_eq(ds_watch_dirs(watch), 0);
    rig_write(under("set/a.png"), "x");
    spin(300);
    ck_assert_int_eq(changed, 0);
    close_watch();
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, places_of_folders);
    tcase_add_test(tc, what_may_not_be_read);
    tcase_add_test(tc, a_state_that_cannot_be_written);
    tcase_add_test(tc, a_job_as_server_sent_events);
    tcase_add_test(tc, guidance_of_the_base);
    tcase_add_test(tc, classes_of_a_base);
    tcase_add_test(tc, choices_of_a_dataset);
    tcase_add_test(tc, words_of_a_flag);
    tcase_add_loop_test(tc, in_the_way_of_the_state, 0, 3);
    tcase_add_test(tc, told_until_it_is_kept);
    tcase_add_test(tc, slashes_at_the_end);
    tcase_add_test(tc, nothing_is_watched);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_errors", cases);
}
