/* tests/system/test_system_upgrade.c - a state folder that an earlier version made (tests/golden/state,
 * tools/make_state_fixture.sh): the programs of today open it, find nothing to do, keep every
 * digest and prove every old task; a training that was under way ends in the same adapter.
 */
#include "tests/fixtures/system_rig.h"

#include <sqlite3.h>

#define FIXTURES "tests/golden/state/"

/* What VERSION.txt says: "ref digest" a line, and the class of devices that made it. */
typedef struct {
    char ref[16][48], digest[16][DS_HEX_SIZE], class[48];
    int n;
} expected;

static void read_expected(const char *version, expected *x) {
    char path[128], *line, *rest;
    *x = (expected){.n = 0};
    snprintf(path, sizeof path, FIXTURES "%s.txt", version);
    char *text = slurp(path);
    for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *space = strchr(line, ' ');
        if (*line == '#' || !space)
            continue;
        *space = 0;
        if (!strcmp(line, "class"))
            snprintf(x->class, sizeof x->class, "%s", space + 1);
        else {
            ck_assert_int_lt(x->n, 16);
            snprintf(x->ref[x->n], sizeof x->ref[0], "%s", line);
            snprintf(x->digest[x->n++], DS_HEX_SIZE, "%s", space + 1);
        }
    }
    free(text);
    ck_assert_msg(x->n > 1 && x->class[0], "'%s' says nothing", path);
}

static int64_t query(const char *state, const char *sql) {
    char file[256];
    sqlite3 *db;
    sqlite3_stmt *q;
    snprintf(file, sizeof file, "%s/registry.db", state);
    ck_assert_int_eq(sqlite3_open(file, &db), SQLITE_OK);
    ck_assert_msg(sqlite3_prepare_v2(db, sql, -1, &q, NULL) == SQLITE_OK, "%s", sqlite3_errmsg(db));
    int64_t n = sqlite3_step(q) == SQLITE_ROW ? sqlite3_column_int64(q, 0) : -1;
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

/* Unpack the fixture and its pictures beside it; the rows learn where those lie now. */
static void unpack(rig *r, const char *name, const char *archive) {
    rig_open(r, name);
    char *base = realpath("models/emoji-dit.safetensors", NULL);
    ck_assert_ptr_nonnull(base);
    snprintf(r->base, sizeof r->base, "%s", base);
    free(base);
    ck_assert_ptr_nonnull(realpath(BUNDLED_NET, r->net)); /* that its numbers were made with */
    EXPECT_SHELL(r, "zstd -dc " FIXTURES "%s.tar.zst | tar -xf - --no-same-owner -C %s", archive,
                 r->dir);
    EXPECT_SHELL(r,
                 "d=%s/data; mkdir -p $d/flags $d/gone $d/halted && for c in 0 1 2; do mkdir -p "
                 "$d/digits/$c && cp -p examples/digits/$c/00[0-7].png $d/digits/$c/; done && "
                 "cp -p examples/flags/a[a-z]*.png $d/flags/ && cp -r $d/flags $d/wavy && "
                 "cp -p examples/digits/3/00[0-7].png $d/gone/ && cp -r $d/gone/. $d/halted/",
                 r->dir);
    char *sql = ds_xasprintf("UPDATE datasets SET source_path = '%s/data/' || name", r->dir);
    query(r->state, sql);
    free(sql);
}

static void wait_quiet(const rig *r) {
    for (double end = ds_monotonic() + PATIENCE; ds_monotonic() < end; usleep(50000))
        if (!query(r->state, "SELECT (SELECT count(*) FROM jobs WHERE state IN ('queued', "
                             "'running')) + (SELECT count(*) FROM datasets WHERE state <> "
                             "'removed' AND watch AND scan_done < scan_wanted)"))
            return;
    show_daemon_log(r);
    ck_abort_msg("the daemon does not come to rest");
}

static void start_and_settle(rig *r) {
    rig_start(r);
    wait_quiet(r);
    sleep(2); /* what it makes of those scans comes with the next turn */
    wait_quiet(r);
}

static const char others[] = "SELECT count(*) FROM jobs WHERE kind <> 'scan'";

static void expect_digests(const rig *r, const expected *x, int n) {
    for (int i = 0; i < n; i++) {
        char got[DS_HEX_SIZE];
        adapter_digest(r, x->ref[i], got);
        ck_assert_msg(!strcmp(got, x->digest[i]), "%s has digest %.12s, not %.12s", x->ref[i], got,
                      x->digest[i]);
    }
}

/* The result of one more verification; a new reference. */
static json_t *verified(const rig *r) {
    char path[64];
    json_t *doc = NULL;
    EXPECT(r, 0, "verify", "--all");
    json_t *job = newest_job(r, "verify", NULL);
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)ds_json_int(job, "id", 0));
    json_decref(job);
    ck_assert_int_eq(call(r, "GET", path, NULL, &doc), 200);
    json_t *result = json_incref(json_object_get(doc, "result"));
    json_decref(doc);
    return result;
}

/* On the class of devices that made the fixture by the probe, elsewhere by measuring, and from then
 * on by the probe. */
static void expect_proven(const rig *r, const expected *x) {
    json_t *result = verified(r), *t;
    size_t i;
    int old = 0;
    if (strcmp(ds_json_string(result, "device_class", ""), x->class) != 0) {
        printf("another class of devices than %s: measured first\n", x->class);
        json_decref(result);
        result = verified(r);
    }
    json_array_foreach(json_object_get(json_object_get(result, "gate"), "tasks"), i, t) {
        ck_assert_msg(ds_json_int(t, "level", 0) == 1 && ds_json_bool(t, "unchanged", 0),
                      "%s is not proven: level %d, %s", ds_json_string(t, "ref", "?"),
                      (int)ds_json_int(t, "level", 0), ds_json_string(t, "reason", ""));
        old += strcmp(ds_json_string(t, "name", ""), "base") != 0;
    }
    ck_assert_int_eq(old, 3); /* digits, flags and the removed set, whose adapter stays */
    json_decref(result);
}

START_TEST(e4501ab) {
    rig r;
    expected x;
    read_expected("e4501ab", &x);
    unpack(&r, "old", "e4501ab");
    int64_t before = query(r.state, others),
            versions = query(r.state, "SELECT count(*) FROM adapter_versions");
    ck_assert_int_gt(before, 5);
    start_and_settle(&r);
    ck_assert_int_eq(query(r.state, others), before);
    ck_assert_int_eq(query(r.state, "SELECT count(*) FROM adapter_versions"), versions);
    ck_assert_int_eq(query(r.state, "SELECT max(version) FROM dataset_versions"), 1);
    expect_digests(&r, &x, 4);
    expect_proven(&r, &x);
    rig_close(&r);
    rig_start(&r); /* and again, as what it is now */
    wait_quiet(&r);
    ck_assert_int_eq(query(r.state, "SELECT count(*) FROM adapter_versions"), versions);
    expect_digests(&r, &x, 4);
    EXPECT(&r, 0, "show-adapter", "digits@stable", "--json");
    EXPECT_SAID("digits@v1");
    EXPECT(&r, 0, "report");
    rig_close(&r);
}
END_TEST

/* Started as people start it, without --base: today's program comes with another base, which lies
 * beside the old one and is not the default of this state. */
START_TEST(keeps_its_base) {
    rig r;
    expected x;
    read_expected("e4501ab", &x);
    unpack(&r, "bundled", "e4501ab");
    int64_t before = query(r.state, others),
            versions = query(r.state, "SELECT count(*) FROM adapter_versions");
    r.base[0] = 0;
    for (int i = 0; i < 2; i++) {
        start_and_settle(&r);
        ck_assert_int_eq(query(r.state, others), before);
        ck_assert_int_eq(query(r.state, "SELECT count(*) FROM adapter_versions"), versions);
        expect_digests(&r, &x, 4);
        EXPECT(&r, 0, "list-bases", "--quiet");
        EXPECT_SAID("emoji-dit");
        EXPECT_SAID("motley-flow");
        ck_assert_int_eq(query(r.state, "SELECT name = 'emoji-dit' FROM bases WHERE id = (SELECT "
                                        "value FROM meta WHERE key = 'active_base')"),
                         1);
        if (i)
            break;
        dsctl(&r, "doctor", (char *)NULL);
        EXPECT_SAID("a newer one comes with this version");
        EXPECT_SAID("this state keeps 'emoji-dit'");
        rig_close(&r);
    }
    expect_proven(&r, &x);
    EXPECT(&r, 0, "set-default-base", "motley-flow"); /* once a person says so, all learn it */
    wait_state(&r, "train", "flags", "|running|queued|");
    rig_close(&r);
}
END_TEST

/* Its spec.json has none of the keys that came later; its checkpoint is gone on with. */
START_TEST(e4501ab_in_the_middle) {
    rig r;
    expected x;
    read_expected("e4501ab", &x);
    unpack(&r, "middle", "e4501ab-running");
    rig_start(&r);
    json_t *job = wait_state(&r, "train", "wavy", "|done|failed|rejected|"), *doc = NULL;
    char path[64], got[DS_HEX_SIZE];
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)ds_json_int(job, "id", 0));
    ck_assert_str_eq(ds_json_string(job, "state", ""), "done");
    ck_assert_int_eq(call(&r, "GET", path, NULL, &doc), 200);
    json_t *result = json_object_get(doc, "result");
    if (!strcmp(ds_json_string(result, "device_class", ""), x.class)) {
        ck_assert_int_ge(ds_json_int(result, "resumed_from_step", 0), 100);
        adapter_digest(&r, "wavy@v1", got);
        ck_assert_str_eq(x.ref[4], "wavy@v1");
        ck_assert_str_eq(got, x.digest[4]);
    } else
        printf("another class of devices than %s: begun anew\n", x.class);
    expect_digests(&r, &x, 4);
    json_decref(job);
    json_decref(doc);
    rig_close(&r);
}
END_TEST

static void register_cases(TCase *tc) {
    chmod(ds_test_tmpdir(), 0755);
    tcase_add_test(tc, e4501ab);
    tcase_add_test(tc, keeps_its_base);
    tcase_add_test(tc, e4501ab_in_the_middle);
}

int main(int argc, char **argv) {
    return system_main(argc, argv, "system-upgrade", register_cases);
}
