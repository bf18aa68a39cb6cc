/* tests/registry/test_registry_check.c - what must be true of rows is looked for: each rule with a row that
 * breaks it; and files that were compared with their digest (registry/store/verified.h). */
#include "base/digest.h"
#include "base/mem.h"
#include "registry/check.h"
#include "registry/store/verified.h"
#include "tests/fixtures/registry_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>

/* %.. are not needed: d (id 1) is published as d@v1, e (id 2) too; a scan runs. */
static const struct {
    const char *sql, *says;
} broken[] = {
    {"DELETE FROM job_attempts WHERE ended_at IS NULL", "a running job has no open attempt: job 5"},
    {"UPDATE job_attempts SET ended_at = NULL WHERE job_id = 1",
     "a job that is not running has an open attempt: job 1"},
    {"UPDATE job_attempts SET attempt = 7 WHERE ended_at IS NULL",
     "a running job has no open attempt: job 5"},
    {"UPDATE jobs SET finished_at = NULL WHERE id = 1",
     "a finished job has no time of its end: job 1"},
    {"UPDATE jobs SET finished_at = 5 WHERE state = 'running'",
     "a finished job has no time of its end: job 5"},
    {"UPDATE jobs SET adapter_version_id = NULL WHERE id = 2",
     "a finished train job has no adapter version: job 2"},
    {"UPDATE gates SET verdict = 'refused' WHERE job_id = 2",
     "a job's adapter version has the other status: job 2"},
    {"UPDATE jobs SET adapter_version_id = 2 WHERE id = 2",
     "a job's adapter version has the other status: job 2"},
    {"UPDATE aliases SET version_id = 2, generation = 2 WHERE adapter_id = 1",
     "an alias points to a version of another name: latest"},
    {"UPDATE adapter_versions SET deleted_at = 5 WHERE id = 1",
     "an alias points to a version of another name: latest"},
    {"DELETE FROM alias_history WHERE adapter_id = 1", "an alias moved without history: latest"},
    {"UPDATE alias_history SET generation = 9 WHERE adapter_id = 1",
     "an alias moved without history: latest"},
    {"UPDATE adapters SET last_version = 7 WHERE id = 1",
     "a version number is beyond the last one given out: d"},
    {"UPDATE blobs SET state = 'gone' WHERE digest = (SELECT digest FROM adapter_versions WHERE"
     " id = 1)",
     "an adapter that is not deleted refers to a blob that is not present"},
    {"INSERT INTO gate_self(gate_id, verdict) SELECT id, 'refused' FROM gates WHERE job_id = 2",
     "a version was published although its own bars refused it: job 2"},
    {"INSERT INTO base_tasks(base_id, reference_digest, job_id, created_at) SELECT 1, digest, 2, 1"
     " FROM adapter_versions WHERE id = 1; UPDATE blobs SET state = 'gone'",
     "the record of a base refers to a blob that is not present: 1"},
    {"INSERT INTO base_tasks(base_id, job_id, created_at) VALUES (1, 2, 1)",
     "a base has a record without a probe: 1"},
    {"UPDATE datasets SET base_id = 1 WHERE id = 1; UPDATE bases SET removed_at = 5",
     "a base in use has been removed: d"},
    {"UPDATE datasets SET feature_net_id = 1 WHERE id = 1; UPDATE feature_nets SET removed_at = 5",
     "a feature network in use has been removed: d"},
    {"INSERT INTO meta VALUES ('default_feature_net', '1'); UPDATE feature_nets SET removed_at = 5",
     "a feature network in use has been removed: the default"},
    {"UPDATE datasets SET version_id = 2 WHERE id = 1",
     "a dataset's content belongs to another dataset: d"},
    {"UPDATE counters SET value = value + 1 WHERE key = 'datasets'",
     "a count that is kept is not what is counted: datasets"},
    {"UPDATE counters SET value = value + 1 WHERE key = 'adapters'",
     "a count that is kept is not what is counted: adapters"},
    {"UPDATE counters SET value = value + 1 WHERE key = 'blobs'",
     "a count that is kept is not what is counted: blobs"},
    {"UPDATE counters SET value = value + 1 WHERE key = 'blob_bytes'",
     "a count that is kept is not what is counted: blob_bytes"},
    {"UPDATE counters SET value = value + 1 WHERE key = 'base.1'",
     "a count that is kept is not what is counted: base.1"},
    {"UPDATE counters SET value = value + 1 WHERE key GLOB 'net.*'",
     "a count that is kept is not what is counted: net." NET_SHA},
    {"UPDATE counters SET value = value + 1 WHERE key = 'jobs.done'",
     "a count that is kept is not what is counted: jobs.done"},
    {"UPDATE counters SET value = value - 1 WHERE key = 'jobs.running'",
     "a count that is kept is not what is counted: jobs.running"},
    {"INSERT INTO meta VALUES ('pruning', '1'); DELETE FROM events WHERE subject = 'job:1'",
     "a change of a job has no event: job 1"},
    {"PRAGMA foreign_keys = OFF; UPDATE jobs SET dataset_id = 77 WHERE id = 1",
     "a row of table jobs refers to a missing row of datasets"},
};
enum { BROKEN = sizeof broken / sizeof *broken };

typedef struct {
    const char *want;
    int found, all;
} looking;

static void on_finding(void *ctx, const char *thing, const char *cause) {
    looking *l = ctx;
    ck_assert_str_eq(thing, "registry.db");
    l->all++;
    l->found += strstr(cause, l->want) != NULL;
}

static ds_registry *make(const char *name) {
    char dir[32];
    snprintf(dir, sizeof dir, "%s%d", name, (int)getpid());
    ds_registry *r = fx_open(fx_dir(dir));
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    fx_add(r, "e", "/b");
    fx_scan(r, "two");
    fx_train(r, 1, "two", NULL);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    ck_assert_int_eq(fx_claim(r, DS_JOB_SCAN).id, 5);
    return r;
}

static int check(ds_registry *r, const char *want, int quick, int *all) {
    char path[PATH_MAX];
    sqlite3 *db;
    looking l = {.want = want};
    ds_fs_join(path, sizeof path, ds_registry_dir(r), "registry.db");
    ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    int n = ds_check_rows(db, quick, on_finding, &l);
    sqlite3_close(db);
    ck_assert_int_eq(n, l.all);
    *all = l.all;
    return l.found;
}

START_TEST(each_rule_is_looked_at) {
    int all;
    ds_registry *r = make("rule");
    ck_assert_int_eq(check(r, "", 0, &all), 0);
    ck_assert_int_eq(fx_foreign(r, broken[_i].sql), SQLITE_OK);
    ck_assert_msg(check(r, broken[_i].says, 0, &all) == 1, "'%s' is not said", broken[_i].says);
    ck_assert_int_eq(check(r, broken[_i].says, 1, &all), 1);
    FAILS(DS_EINTEGRITY, "registry: ", ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

/* Of many findings of one kind five are told; what is not meant is not found. */
START_TEST(few_of_each_and_nothing_else) {
    int all;
    ds_registry *r = make("few");
    for (int i = 0; i < 9; i++)
        ck_assert_int_eq(fx_foreign(r, "INSERT INTO jobs(kind, state, name, created_at, started_at,"
                                       " finished_at) VALUES ('sample', 'done', '', 1, 1, NULL)"),
                         SQLITE_OK);
    ck_assert_int_eq(check(r, "has no time of its end", 0, &all), DS_CHECK_EACH);
    ds_registry_close(r);
    r = make("none");
    ck_assert_int_eq(fx_foreign(r, "UPDATE feature_nets SET removed_at = 5; INSERT INTO meta VALUES"
                                   " ('events_pruned_before', '99999999999999'), ('pruning', '1');"
                                   "DELETE FROM events WHERE subject = 'job:1'; DELETE FROM meta"
                                   " WHERE key = 'pruning'"),
                     SQLITE_OK);
    ck_assert_int_eq(
        fx_foreign(r, "INSERT INTO evaluations(at, job_id, adapter_version_id, subject, metric,"
                      " value, feature_net) SELECT at, job_id, adapter_version_id, subject, 'x', 1,"
                      " feature_net FROM evaluations WHERE feature_net IS NOT NULL"),
        SQLITE_OK); /* measured twice by one network: it counts once */
    ck_assert_int_eq(check(r, "", 0, &all), 0);
    ds_registry_close(r);
}
END_TEST

static void only_pages(void *ctx, const char *thing, const char *cause) {
    (void)thing;
    *(int *)ctx += 1;
    ck_assert_msg(!strncmp(cause, "damaged: ", 9) || !strncmp(cause, "its pages", 9), "%s", cause);
}

static void no_table(void *ctx, const char *thing, const char *cause) {
    (void)thing;
    *(int *)ctx += strstr(cause, ": no such table: ") != NULL;
}

/* Damaged pages are all that is said of them; a rule that cannot be asked is a finding. */
START_TEST(what_cannot_be_read) {
    char file[PATH_MAX], noise[4000];
    sqlite3 *db;
    int n = 0;
    ds_registry *r = make("pages");
    ds_fs_join(file, sizeof file, ds_registry_dir(r), "registry.db");
    ds_registry_close(r);
    memset(noise, 'x', sizeof noise);
    int fd = open(file, O_RDWR);
    for (int page = 3; page < 40; page += 4) /* of 4096 bytes */
        ck_assert(pwrite(fd, noise, sizeof noise, 4096 * page + 50) == sizeof noise);
    close(fd);
    ck_assert_int_eq(sqlite3_open_v2(file, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    ck_assert_int_gt(ds_check_rows(db, 0, only_pages, &n), 0);
    ck_assert_int_gt(n, 0);
    sqlite3_close(db);
    ck_assert_int_eq(sqlite3_open(":memory:", &db), SQLITE_OK);
    n = 0;
    ck_assert_int_eq(ds_check_rows(db, 0, no_table, &n), 17); /* the rules */
    ck_assert_int_eq(n, 17);
    sqlite3_close(db);
}
END_TEST

/* ---- verified ---- */

static char sha[DS_HEX_SIZE], path[PATH_MAX];

static int make_file(size_t n) {
    char *data = ds_xmalloc(n);
    for (size_t i = 0; i < n; i++)
        data[i] = (char)(i * 7 + i / 251);
    ds_digest(data, n, sha);
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "verified");
    MUST(ds_fs_write(path, data, n, err));
    free(data);
    int fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    return fd;
}

START_TEST(a_file_is_known_by_all_that_tells_it) {
    ds_verified *v = ds_verified_new();
    struct stat st = {.st_dev = 1, .st_ino = 2, .st_size = 3};
    char other[DS_HEX_SIZE], near[DS_HEX_SIZE];
    ds_digest("x", 1, sha);
    snprintf(other, sizeof other, "%s", sha);
    snprintf(near, sizeof near, "%s", sha);
    near[63] = near[63] == '0' ? '1' : '0'; /* the same slot */
    st.st_mtim = (struct timespec){10, 11};
    st.st_ctim = (struct timespec){12, 13};
    ck_assert_int_eq(ds_verified_get(v, sha, &st), DS_VERDICT_UNKNOWN);
    ds_verified_put(v, sha, &st, DS_VERDICT_GOOD);
    ck_assert_int_eq(ds_verified_get(v, other, &st), DS_VERDICT_GOOD);
    ck_assert_int_eq(ds_verified_get(v, near, &st), DS_VERDICT_UNKNOWN);
    struct stat changed[7] = {st, st, st, st, st, st, st};
    changed[0].st_dev++;
    changed[1].st_ino++;
    changed[2].st_size++;
    changed[3].st_mtim.tv_sec++;
    changed[4].st_mtim.tv_nsec++;
    changed[5].st_ctim.tv_sec++;
    changed[6].st_ctim.tv_nsec++;
    for (int i = 0; i < 7; i++)
        ck_assert_msg(ds_verified_get(v, sha, &changed[i]) == DS_VERDICT_UNKNOWN, "change %d", i);
    ds_verified_put(v, sha, &st, DS_VERDICT_TOLD);
    ck_assert_int_eq(ds_verified_get(v, sha, &st), DS_VERDICT_TOLD);
    ds_verified_put(v, near, &st, DS_VERDICT_GOOD); /* takes its place */
    ck_assert_int_eq(ds_verified_get(v, near, &st), DS_VERDICT_GOOD);
    ck_assert_int_eq(ds_verified_get(v, sha, &st), DS_VERDICT_UNKNOWN);
    ds_verified_free(v);
    ds_verified_free(NULL);
}
END_TEST

START_TEST(a_file_is_hashed_as_a_whole) {
    ds_verified *v = ds_verified_new();
    struct stat st;
    char wrong[DS_HEX_SIZE], want[80];
    int fd = make_file(300000); /* more than is read at once */
    ck_assert_int_eq(lseek(fd, 5, SEEK_SET), 5);
    MUST(ds_verified_hash(v, sha, fd, err));
    ck_assert_int_eq(lseek(fd, 0, SEEK_CUR), 5);
    ck_assert(!fstat(fd, &st));
    ck_assert_int_eq(ds_verified_get(v, sha, &st), DS_VERDICT_GOOD);
    ds_digest("y", 1, wrong);
    snprintf(want, sizeof want, "expected %.60s", wrong);
    FAILS(DS_EINTEGRITY, want, ds_verified_hash(v, wrong, fd, err));
    ck_assert_int_eq(ds_verified_get(v, wrong, &st), DS_VERDICT_DAMAGED);
    ck_assert_int_eq(pwrite(fd, "?", 1, 299999), 1);
    snprintf(want, sizeof want, "expected %.60s", sha);
    FAILS(DS_EINTEGRITY, want, ds_verified_hash(v, sha, fd, err));
    close(fd);
    int dir = open(ds_test_tmpdir(), O_RDONLY); /* cannot be read: no verdict about it */
    ck_assert(!fstat(dir, &st));
    FAILS(DS_EIO, "cannot read a stored file", ds_verified_hash(v, sha, dir, err));
    ck_assert_int_eq(ds_verified_get(v, sha, &st), DS_VERDICT_UNKNOWN);
    close(dir);
    FAILS(DS_EIO, "cannot read a stored file", ds_verified_hash(v, sha, -1, err));
    ds_verified_free(v);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, each_rule_is_looked_at, 0, BROKEN);
    tcase_add_test(tc, few_of_each_and_nothing_else);
    tcase_add_test(tc, what_cannot_be_read);
    tcase_add_test(tc, a_file_is_known_by_all_that_tells_it);
    tcase_add_test(tc, a_file_is_hashed_as_a_whole);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_check", cases);
}
