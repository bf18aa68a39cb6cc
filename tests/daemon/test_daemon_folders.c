/* tests/daemon/test_daemon_folders.c - job folders have an owner: a registry that was restored, or is
 * another one, never takes what lies under its numbers. */
#include "tests/fixtures/daemon_rig.h"

#include <dirent.h>

static rig r;
static char photos[400];

static void setup(void) {
    static int n;
    char name[32];
    snprintf(name, sizeof name, "folders%d-%d", (int)getpid(), n++);
    rig_open(&r, name);
    rig_images(&r, "photos", 3, photos);
}

static void teardown(void) {
    if (r.pid)
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}

static void run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *format, ...) {
    char command[2000];
    va_list ap;
    va_start(ap, format);
    vsnprintf(command, sizeof command, format, ap);
    va_end(ap);
    ck_assert_msg(system(command) == 0, "%s", command);
}

/* Adds the folder with a rank. */
static void add(int rank) {
    char body[700];
    snprintf(body, sizeof body, "{\"name\":\"digits\",\"path\":\"%s\",\"options\":{\"rank\":%d}}",
             photos, rank);
    json_decref(rig_want(&r, 201, "POST", "/v1/datasets", body));
}

static json_t *file_of(int64_t job, const char *name) {
    char path[500];
    json_t *doc = NULL;
    snprintf(path, sizeof path, "%s/jobs/%lld/%s", r.state, (long long)job, name);
    ck_assert_msg(ds_json_read_file(path, 1 << 24, &doc, NULL) == 0, "%s", path);
    return doc;
}

static int64_t rank_of(int64_t job) {
    json_t *spec = file_of(job, "spec.json");
    int64_t rank = ds_json_int(json_object_get(spec, "method"), "rank", 0);
    json_decref(spec);
    return rank;
}

static int foreign_events(void) {
    char *text = rig_text(&r, "GET", "/v1/events?type=job.folder_foreign", NULL, NULL, &(int){0});
    int n = 0;
    for (const char *p = text; (p = strstr(p, "moved_to")); p++)
        n++;
    free(text);
    return n;
}

static int is_there(const char *name) {
    char path[500];
    snprintf(path, sizeof path, "%s/%s", r.state, name);
    return ds_fs_exists(path);
}

static void wait_for(const char *name, int there) {
    for (double end = ds_monotonic() + 10; is_there(name) != there;) {
        ck_assert_msg(ds_monotonic() < end, "'%s' is %s", name, there ? "not there" : "there");
        usleep(5000);
    }
}

/* A copy of the registry comes back: jobs 1 and 2 are given out again, and lie there. */
START_TEST(restored_copy) {
    rig_start(&r, NULL);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    run("cp %s/registry.db %s/copy.db", r.state, r.dir);
    rig_fake(&r, "train", "hang");
    rig_start(&r, NULL);
    add(4);
    ck_assert_int_eq(rig_wait_job(&r, "train", "digits", "|running|", 10000), 2);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    ck_assert_int_eq(rank_of(2), 4);
    run("touch %s/jobs/2/cancel", r.state);
    run("cd %s/jobs && mkdir 097 97 98 97.foreign-1 99x 1234567890123456789 123456789012345678 && "
        "touch 097/x 97/x 99x/x 1234567890123456789/x 123456789012345678/x",
        r.state);
    run("cp %s/copy.db %s/registry.db && rm -f %s/registry.db-*", r.dir, r.state, r.state);
    rig_fake(&r, "train", "ok");
    rig_start(&r, NULL);
    ck_assert(is_there("jobs/2.foreign-1/cancel") && !is_there("jobs/2"));
    ck_assert_int_ge(foreign_events(), 3);
    ck_assert(is_there("jobs/97.foreign-2/x") && !is_there("jobs/97")); /* the first that is free */
    ck_assert(is_there("jobs/123456789012345678.foreign-1"));
    ck_assert(is_there("jobs/98"));                              /* nothing in it */
    ck_assert(is_there("jobs/097/x") && is_there("jobs/99x/x")); /* no numbers of jobs */
    ck_assert(is_there("jobs/1234567890123456789/x"));
    add(2);
    ck_assert_int_eq(rig_wait_job(&r, "train", "digits", "|done|cancelled|failed|", 10000), 2);
    char state[16];
    rig_job(&r, "train", "digits", state);
    ck_assert_str_eq(state, "done");
    ck_assert_int_eq(rank_of(2), 2);
}
END_TEST

/* Put there while the daemon runs, under the next number: seen when the job starts. */
START_TEST(a_folder_of_another_registry) {
    rig_start(&r, NULL);
    for (int i = 1; i <= 2; i++)
        run("mkdir %s/jobs/%d && echo '{\"schema\":\"diffscaler.owner/1\",\"instance\":\"x\"}'"
            " >%s/jobs/%d/owner.json && touch %s/jobs/%d/cancel",
            r.state, i, r.state, i, r.state, i);
    add(2);
    ck_assert_int_eq(rig_wait_job(&r, "train", "digits", "|done|cancelled|failed|", 10000), 2);
    ck_assert(is_there("jobs/1.foreign-1") && is_there("jobs/2.foreign-1"));
    ck_assert_int_eq(foreign_events(), 2);
    json_t *mark = file_of(2, "owner.json");
    ck_assert_str_eq(ds_json_string(mark, "kind", ""), "train");
    ck_assert_int_eq((int)strlen(ds_json_string(mark, "instance", "")), 32);
    ck_assert_int_eq((int)strlen(ds_json_string(mark, "tree_digest", "")), 64);
    json_decref(mark);
}
END_TEST

/* What a program without marks left: goes on with the choices that it began with, unless it is not
 * about this job.  0: as it was; 1: older than the job; 2: of another content. */
START_TEST(a_folder_without_a_mark) {
    rig_fake(&r, "train", "hang");
    rig_start(&r, NULL);
    add(4);
    rig_wait_job(&r, "train", "digits", "|running|", 10000);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
    json_t *spec = file_of(2, "spec.json");
    char path[500];
    json_object_set_new(json_object_get(spec, "train"), "seed", json_integer(77));
    if (_i == 2)
        json_object_set_new(json_object_get(spec, "dataset"), "tree_digest", json_string("other"));
    snprintf(path, sizeof path, "%s/jobs/2/spec.json", r.state);
    ck_assert_int_eq(ds_json_write_file(path, spec, NULL), 0);
    json_decref(spec);
    run("rm %s/jobs/2/owner.json", r.state);
    if (_i == 1)
        run("touch -d '1 hour ago' %s", path);
    rig_fake(&r, "train", "ok");
    rig_start(&r, NULL);
    rig_wait_job(&r, "train", "digits", "|done|", 10000);
    spec = file_of(2, "spec.json");
    int64_t seed = ds_json_int(json_object_get(spec, "train"), "seed", 0);
    json_decref(spec);
    ck_assert_msg((seed == 77) == (_i == 0), "seed %lld", (long long)seed);
    ck_assert_int_eq(foreign_events(), _i != 0);
    ck_assert(is_there("jobs/2/owner.json"));
}
END_TEST

/* ---- what is left of what ended ---- */

static int entries(const char *folder) {
    char path[500];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", r.state, folder);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return d ? n : -1;
}

static int64_t scans_done(const char *name) {
    char path[100];
    snprintf(path, sizeof path, "/v1/datasets/%s", name);
    json_t *doc = rig_want(&r, 200, "GET", path, NULL);
    int64_t n = ds_json_int(json_object_get(doc, "scan"), "done", 0);
    json_decref(doc);
    return n;
}

static void rescan(const char *name) {
    char path[100];
    snprintf(path, sizeof path, "/v1/datasets/%s/rescan", name);
    json_t *doc = rig_want(&r, 202, "POST", path, NULL);
    int64_t seq = ds_json_int(doc, "scan_seq", 0);
    json_decref(doc);
    for (int i = 0; i < 1000 && scans_done(name) < seq; i++)
        usleep(10000);
    ck_assert_int_ge(scans_done(name), seq);
}

static int64_t event_seq(void) {
    json_t *doc = rig_want(&r, 200, "GET", "/v1/status", NULL);
    int64_t seq = ds_json_int(doc, "event_seq", 0);
    json_decref(doc);
    return seq;
}

/* Nor does the same failure again, for which the folder goes away and comes back. */
START_TEST(rescans_leave_nothing) {
    rig_start(&r, NULL);
    add(4);
    rig_wait_adapter(&r, "digits", 1, 10000);
    int folders = entries("jobs");
    int64_t seq = event_seq();
    for (int i = 0; i < 8; i++)
        rescan("digits");
    ck_assert_int_eq(event_seq(), seq);
    ck_assert_int_eq(entries("jobs"), folders);
    rig_fake(&r, "scan", "exit 2");
    rescan("digits");
    ck_assert_int_gt(event_seq(), seq);
    seq = event_seq();
    folders = entries("jobs");
    for (int i = 0; i < 4; i++)
        rescan("digits");
    ck_assert_int_eq(event_seq(), seq);
    ck_assert_int_eq(entries("jobs"), folders);
    json_t *doc = rig_want(&r, 200, "GET", "/v1/jobs?kind=scan", NULL);
    ck_assert_int_eq((int)json_array_size(json_object_get(doc, "items")), 2);
    json_decref(doc);
}
END_TEST

/* The log stays for who wants to know why, the checkpoint is of no use to anybody.  0: failed for
 * good, 1: cancelled. */
START_TEST(no_checkpoint_of_a_job_that_ended) {
    rig_fake(&r, "train", "hang");
    rig_start(&r, NULL);
    add(4);
    rig_wait_job(&r, "train", "digits", "|running|", 10000);
    wait_for("jobs/2/worker.log", 1); /* a job whose folder is still being made has no log yet */
    run("mkdir -p %s/jobs/2/checkpoints && echo x >%s/jobs/2/checkpoints/a", r.state, r.state);
    if (_i)
        json_decref(rig_want(&r, 202, "POST", "/v1/jobs/2/cancel", NULL));
    else {
        rig_fake(&r, "train", "quiet 2");
        ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
        ck_assert(is_there("jobs/2/checkpoints/a")); /* it only waits for the next start */
        rig_start(&r, NULL);
    }
    rig_wait_job(&r, "train", "digits", "|failed|cancelled|", 10000);
    wait_for("jobs/2/manifest.ndjson", 0);
    ck_assert(is_there("jobs/2/worker.log") && is_there("jobs/2/spec.json"));
    ck_assert(!is_there("jobs/2/checkpoints") && !is_there("jobs/2/manifest.ndjson"));
}
END_TEST

/* Killed while they wrote: gone after the next start, but for what somebody holds or has just made. */
START_TEST(left_overs_go_at_a_start) {
    char path[500];
    rig_start(&r, NULL);
    ck_assert_int_eq(rig_stop(&r, SIGKILL), 128 + SIGKILL);
    run("cd %s && touch -d '1 minute ago' cache/hashes/1.abcdef.tmp cache/f.abcdef.tmp bases/b.tmp"
        " cache/held.tmp cache/hashes/1 && touch cache/new.tmp blobs/tmp/put-abcdef",
        r.state);
    snprintf(path, sizeof path, "%s/cache/held.tmp", r.state);
    int fd = open(path, O_RDWR);
    ck_assert(fd >= 0 && !flock(fd, LOCK_EX));
    rig_start(&r, NULL);
    ck_assert(!is_there("cache/hashes/1.abcdef.tmp") && !is_there("cache/f.abcdef.tmp"));
    ck_assert(!is_there("bases/b.tmp") && !is_there("blobs/tmp/put-abcdef"));
    ck_assert(is_there("cache/held.tmp") && is_there("cache/new.tmp"));
    ck_assert(is_there("cache/hashes/1"));
    close(fd);
}
END_TEST

static int64_t sum;
static int add_size(const char *path, const struct stat *st, int flag, struct FTW *at) {
    (void)path, (void)at;
    sum += flag == FTW_F ? st->st_size : 0;
    return 0;
}

/* Of the files of jobs and caches. */
static int64_t bytes_there(void) {
    char path[400];
    sum = 0;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", r.state, i ? "cache" : "jobs");
        ck_assert_int_eq(nftw(path, add_size, 16, FTW_PHYS), 0);
    }
    return sum;
}

/* Old folders, what no job is there for, checkpoints and left-overs; nothing that is in use. */
START_TEST(prune) {
    static const char *const keys[] = {"jobs",   "events", "folders", "checkpoints",
                                       "caches", "files",  "bytes"};
    rig_start(&r, NULL);
    add(4);
    rig_wait_adapter(&r, "digits", 1, 10000);
    rig_fake(&r, "sample", "hang");
    json_decref(rig_want(&r, 202, "POST", "/v1/samples", "{}"));
    int64_t live = rig_wait_job(&r, "sample", NULL, "|running|", 10000);
    ck_assert_int_eq(live, 3);
    run("cd %s && mkdir -p jobs/1/checkpoints jobs/3/checkpoints jobs/2/checkpoints"
        " jobs/1.foreign-1 jobs/2.foreign-1 jobs/77 && echo 12345 >jobs/2/checkpoints/a && touch -d"
        " '3 days ago' jobs/1.foreign-1 jobs/77 cache/x.aaaaaa.tmp cache/hashes/1 cache/hashes/99 "
        "&& touch cache/y.bbbbbb.tmp && printf 1234567 >cache/x.aaaaaa.tmp && touch -d '3 days ago'"
        " cache/x.aaaaaa.tmp",
        r.state);
    run("cd %s/jobs && mkdir 5.foreign 5.foreig-1 x.foreign-1 1234567890123456789 && touch 6 && "
        "touch -d '3 days ago' 5.foreign 5.foreig-1 x.foreign-1 1234567890123456789 6 && "
        "for i in $(seq 100 199); do mkdir $i.foreign-1 && touch -d '3 days ago' $i.foreign-1; "
        "done",
        r.state); /* more than go at a time */
    rig_sql(&r, "UPDATE jobs SET finished_at = 1000 WHERE id = 1");
    rig_sql(&r, "INSERT INTO events(at, type, subject, payload) VALUES (1000, 'my.own', 'x', '{}'),"
                " (1000, 'my.own', 'y', '{}'), (1000, 'my.own', 'z', '{}')");
    static const char *const bodies[] = {
        "{\"dry_run\":true,\"folders_seconds\":86400,\"jobs_seconds\":86400,"
        "\"events_seconds\":86400}",
        "{\"folders_seconds\":86400,\"jobs_seconds\":86400,\"events_seconds\":86400}",
        "{\"folders_seconds\":86400}"};
    json_t *doc[3];
    const int64_t before = bytes_there();
    for (int i = 0; i < 3; i++) {
        doc[i] = rig_want(&r, 200, "POST", "/v1/prune", bodies[i]);
        ck_assert(json_is_null(json_object_get(doc[i], "error")));
        if (i == 0)
            ck_assert(is_there("jobs/1") && is_there("cache/x.aaaaaa.tmp"));
    }
    for (int k = 0; k < 7; k++) {
        ck_assert_msg(ds_json_int(doc[0], keys[k], -1) == ds_json_int(doc[1], keys[k], -2), "%s",
                      keys[k]);
        ck_assert_msg(ds_json_int(doc[2], keys[k], -1) == 0, "%s", keys[k]);
    }
    ck_assert_int_eq(ds_json_int(doc[1], "jobs", 0), 1);
    ck_assert_int_eq(ds_json_int(doc[1], "events", 0), 3);
    ck_assert_int_eq(rig_number(&r, "SELECT count(*) FROM events WHERE type = 'my.own'"), 0);
    ck_assert_int_eq(ds_json_int(doc[1], "bytes", 0), before - bytes_there());
    ck_assert_int_eq(ds_json_int(doc[1], "folders", 0), 102); /* and jobs/1, jobs/1.foreign-1 */
    ck_assert_int_eq(ds_json_int(doc[1], "checkpoints", 0), 1);
    ck_assert_int_eq(ds_json_int(doc[1], "files", 0), 1);
    ck_assert_int_eq(ds_json_int(doc[1], "caches", 0), 1); /* of a dataset that is not there */
    ck_assert(is_there("cache/hashes/1") && !is_there("cache/hashes/99"));
    ck_assert(!is_there("jobs/1") && !is_there("jobs/1.foreign-1") && is_there("jobs/2.foreign-1"));
    ck_assert(is_there("jobs/2/worker.log") && !is_there("jobs/2/checkpoints"));
    ck_assert(is_there("jobs/5.foreign") && is_there("jobs/5.foreig-1") && is_there("jobs/6") &&
              is_there("jobs/x.foreign-1") && is_there("jobs/1234567890123456789"));
    ck_assert(!is_there("jobs/100.foreign-1") && !is_there("jobs/199.foreign-1"));
    ck_assert(is_there("jobs/3/checkpoints")); /* it runs */
    ck_assert(is_there("jobs/77"));            /* not ours yet: the next start moves it away */
    ck_assert(!is_there("cache/x.aaaaaa.tmp") && is_there("cache/y.bbbbbb.tmp"));
    for (int i = 0; i < 3; i++)
        json_decref(doc[i]);
    static const char *const keys_of_time[] = {"jobs_seconds", "folders_seconds", "events_seconds"};
    for (int i = 0; i < 3; i++) {
        static const char *const bad[] = {"-1", "\"1\"", "1.1e10"};
        char body[60];
        for (int k = 0; k < 3; k++) {
            snprintf(body, sizeof body, "{\"%s\":%s}", keys_of_time[i], bad[k]);
            rig_says(&r, 400, "POST", "/v1/prune", body, "must be a number from 0 to 1e10");
        }
        snprintf(body, sizeof body, "{\"dry_run\":true,\"%s\":1e10}", keys_of_time[i]);
        json_decref(rig_want(&r, 200, "POST", "/v1/prune", body));
    }
    rig_says(&r, 400, "POST", "/v1/prune", "{\"dry_run\":1}", "true or false");
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, restored_copy);
    tcase_add_test(tc, a_folder_of_another_registry);
    tcase_add_loop_test(tc, a_folder_without_a_mark, 0, 3);
    tcase_add_test(tc, rescans_leave_nothing);
    tcase_add_test(tc, left_overs_go_at_a_start);
    tcase_add_test(tc, prune);
    tcase_add_loop_test(tc, no_checkpoint_of_a_job_that_ended, 0, 2);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_folders", cases);
}
