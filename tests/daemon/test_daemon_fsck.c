/* tests/daemon/test_daemon_fsck.c - each kind of damage is found, by its name and with a way out, by the
 * running daemon and in a folder without one; what can be mended is. */
#include "tests/fixtures/daemon_rig.h"

static rig r;
static char adapter[DS_HEX_SIZE], blob[500];

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *format, ...) {
    char command[3000];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    ck_assert_msg(system(command) == 0, "%s", command);
}

static void setup(void) {
    static int n;
    char name[32], folder[400];
    snprintf(name, sizeof name, "fsck%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    rig_start(&r, NULL);
    rig_images(&r, "digits", 2, folder);
    rig_add(&r, "digits", folder, 201);
    rig_wait_adapter(&r, "digits", 1, 10000);
    rig_digest(&r, "digits", adapter);
    snprintf(blob, sizeof blob, "%s/blobs/sha256/%.2s/%s.zst", r.state, adapter, adapter);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

/* diffscalerd --fsck HOW: its document and exit code. */
static json_t *offline(const char *how, int *code) {
    char out[400], *text;
    size_t n;
    int status;
    snprintf(out, sizeof out, "%s/fsck.json", r.dir);
    pid_t pid = fork();
    if (!pid) {
        int fd = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        dup2(fd, 1);
        execl("/proc/self/exe", "test", "diffscalerd", "--state", r.state, "--fsck", how, NULL);
        _exit(127);
    }
    ck_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    *code = WEXITSTATUS(status);
    ck_assert_int_eq(ds_fs_read(out, 1 << 20, &text, &n, NULL), 0);
    json_t *doc = json_loads(text, 0, NULL);
    free(text);
    return doc ? doc : json_object();
}

static json_t *check(int online, const char *how, int *code) {
    if (!online)
        return offline(how, code);
    json_t *doc = rig_want(&r, 200, "POST", "/v1/fsck",
                           !strcmp(how, "repair")  ? "{\"repair\":true}"
                           : !strcmp(how, "quick") ? "{\"quick\":true}"
                                                   : "{}");
    *code = ds_json_int(doc, "damage", 0) ? 9 : 0;
    return doc;
}

/* The finding about this thing with this cause; NULL. */
static const json_t *finding(const json_t *doc, const char *thing, const char *cause) {
    size_t i;
    const json_t *f;
    json_array_foreach(json_object_get(doc, "findings"), i, f) {
        if (strstr(ds_json_string(f, "thing", ""), thing) &&
            strstr(ds_json_string(f, "cause", ""), cause))
            return f;
    }
    return NULL;
}

/* S state folder, B the adapter's file, D its digest, R the rig's folder. */
static const struct kind {
    const char *break_it, *thing, *cause;
    int damage, quick; /* also found without reading; 2: by another cause */
    int mended;        /* by --repair */
} kinds[] = {
    {"rm $B", "of digits@v1", "missing", 1, 1, 0},
    {"mkdir $S/quarantine; mv $B $S/quarantine/$D.0.zst", "of digits@v1", "missing", 1, 1, 1},
    {"cp $B $S/jobs/2/adapter.safetensors.zst; printf x >>$B", "of digits@v1", "bytes, not", 1, 1,
     1},
    {"printf '\\001' | dd of=$B bs=1 seek=20 conv=notrunc 2>/dev/null", "of digits@v1", "damaged",
     1, 0, 0},
    {"zstd -q -d $B -o $R/x && zstd -q -f -19 --no-check --content-size $R/x -o $B", "of digits@v1",
     "unpacks to the same", 1, 2, 1},
    {"rm $S/../emoji.safetensors", "base emoji", "missing", 1, 1, 0},
    {"printf BASE >$S/../emoji.safetensors", "base emoji", "another digest", 1, 0, 0},
    {"printf 'DSHASH01%0100d' 7 >$S/cache/hashes/7", "cache/hashes/7", "damaged", 0, 0, 1},
    {"touch -d '2 hours ago' $S/cache/x.abcdef.tmp", "cache/x.abcdef.tmp", "killed", 0, 1, 1},
    {"mkdir $S/jobs/99", "jobs/99", "does not have", 0, 1, 0},
    {"mkdir $S/jobs/1.foreign-1", "jobs/1.foreign-1", "another registry", 0, 1, 0},
    {"sqlite3 $S/registry.db \"PRAGMA foreign_keys=OFF; UPDATE jobs SET base_id = 77\"",
     "registry.db", "refers to a missing row of bases", 1, 1, 0},
    {"sqlite3 $S/registry.db \"UPDATE adapters SET last_version = 7\"", "registry.db",
     "version number is beyond", 1, 1, 0},
    {"sqlite3 $S/registry.db \"UPDATE blobs SET stored_sha256 = digest WHERE digest = '$D'\"",
     "of digits@v1", "unpacks to the same", 1, 0, 1}};
enum { KINDS = sizeof kinds / sizeof *kinds };

START_TEST(each_kind) {
    int online = _i % 2, code;
    const struct kind *k = &kinds[_i / 2];
    json_t *doc = check(1, "full", &code);
    ck_assert_msg(code == 0 && !json_array_size(json_object_get(doc, "findings")), "%s",
                  json_dumps(doc, 0));
    json_decref(doc);
    if (!online)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    run("S=%s; B=%s; D=%s; R=%s; %s", r.state, blob, adapter, r.dir, k->break_it);
    static const char *const hows[] = {"quick", "full", "repair", "full"};
    for (int i = 0; i < 4; i++) {
        doc = check(online, hows[i], &code);
        const json_t *f = finding(doc, k->thing, k->cause);
        char *text = json_dumps(doc, 0);
        int gone = i == 3 && k->mended, hidden = i == 0 && k->quick != 1;
        int moved = i == 3 && !k->mended && strstr(k->break_it, "dd of"); /* into quarantine */
        ck_assert_msg((f == NULL) == (gone || hidden || moved), "%s: %s", hows[i], text);
        ck_assert_msg((code == 9) ==
                          (k->damage && !gone && (!hidden || k->quick) && !(i == 2 && k->mended)),
                      "%s: exit %d: %s", hows[i], code, text);
        ck_assert_msg(!f || (json_is_true(json_object_get(f, "damage")) == k->damage &&
                             *ds_json_string(f, "way_out", "")),
                      "%s", text);
        ck_assert_msg(!f || (ds_json_string(f, "repaired", NULL) != NULL) == (i == 2 && k->mended),
                      "%s: %s", hows[i], text);
        free(text);
        json_decref(doc);
    }
    if (k->mended && k->damage) { /* it is good again, for everybody */
        if (!online)
            rig_start(&r, NULL);
        int status;
        free(rig_text(&r, "GET", "/v1/adapters/digits/file", NULL, NULL, &status));
        ck_assert_int_eq(status, 200);
    }
}
END_TEST

/* Page damage keeps the daemon from starting, so only the folder can be asked. */
START_TEST(a_damaged_page) {
    int code;
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    run("head -c 20000 /dev/urandom | dd of=%s/registry.db bs=1 seek=9000 conv=notrunc 2>/dev/null",
        r.state);
    json_t *doc = offline("full", &code);
    ck_assert_int_eq(code, 9);
    const json_t *f = finding(doc, "registry.db", "damaged");
    ck_assert(f && strstr(ds_json_string(f, "way_out", ""), "backups"));
    json_decref(doc);
    run("rm %s/registry.db*", r.state);
    json_decref(offline("full", &code));
    ck_assert_int_eq(code, 3);
}
END_TEST

/* One that runs is asked; nobody works behind its back. */
START_TEST(not_behind_a_daemon) {
    int code;
    json_decref(offline("full", &code));
    ck_assert_int_eq(code, 4);
    rig_says(&r, 400, "POST", "/v1/fsck", "{\"quick\":true,\"repair\":true}", "nothing to repair");
    rig_says(&r, 400, "POST", "/v1/fsck", "{\"quick\":1}", "true or false");
    rig_says(&r, 400, "POST", "/v1/fsck", "{\"repair\":\"yes\"}", "true or false");
}
END_TEST

static int send_post(const char *path) {
    int fd = rig_connect(&r);
    ck_assert_int_ge(fd, 0);
    ck_assert(dprintf(fd,
                      "POST %s HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
                      "Content-Length: 2\r\n\r\n{}",
                      path) > 0);
    return fd;
}

/* One such work at a time; whoever asked and went away keeps nobody from asking again. */
START_TEST(one_at_a_time) {
    static const char *const others[] = {"/v1/fsck", "/v1/prune", "/v1/gc"};
    int code;
    run("truncate -s 150M %s/cache/hashes/big && printf DSHASH01 | dd of=%s/cache/hashes/big "
        "conv=notrunc 2>/dev/null",
        r.state, r.state);
    for (int i = 0; i < 2; i++) {
        int fd = send_post("/v1/fsck");
        usleep(20000);
        for (int k = 0; k < 3 && !i; k++)
            rig_says(&r, 503, "POST", others[k], "{}", "is under way; wait for it");
        close(fd);
        int status = 503;
        for (int k = 0; k < 500 && status == 503; k++, usleep(10000))
            json_decref(rig_call(&r, "POST", "/v1/fsck", "{\"quick\":true}", &status));
        ck_assert_int_eq(status, 200);
    }
    json_t *doc = check(1, "repair", &code);
    ck_assert(finding(doc, "cache/hashes/big", "damaged") != NULL);
    ck_assert(json_is_null(json_object_get(doc, "error")));
    json_decref(doc);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, one_at_a_time);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, each_kind, 0, 2 * KINDS);
    tcase_add_test(tc, a_damaged_page);
    tcase_add_test(tc, not_behind_a_daemon);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_fsck", cases);
}
