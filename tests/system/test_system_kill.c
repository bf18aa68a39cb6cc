/* tests/system/test_system_kill.c - kill -9 of daemon, worker or both, and SIGTERM, at random moments of a
 * job: nothing acknowledged is lost, nothing is running without a process, the adapter is the same.
 */
#include "tests/fixtures/system_rig.h"

#include "registry/registry.h"
#include "registry/store/blobs.h"

#include <pthread.h>
#include <sqlite3.h>

enum {
    LANES = 2, /* state folders that are tormented at the same time */
    KILLS = SYS_SLOW ? 16 : 100,
    KILLS_PER_JOB = 10,
    TERMS = SYS_SLOW ? 4 : 16,
    ACKS_MAX = 400,
    SEED = 20240611
};

enum { STAGES = 6 };
static const char *const stages[STAGES] = {"prepare", "train",   "evaluate",
                                           "verify",  "package", "other"};

static char undisturbed[DS_HEX_SIZE]; /* the adapter of a job that nobody touched */
static double usual_seconds;          /* how long that took, waits of the machine included */

/* ---------------------------------------------------------------- one tormented state folder */

typedef struct {
    rig r;
    int number, kills, jobs, spent; /* spent: random numbers used */
    int acks, acked[ACKS_MAX];
    char *broken; /* a folder that is accepted and then has no usable image: a cheap dataset */
    int ack_at_ms[2];
    double pause_ms;
    int met[STAGES]; /* kills by the stage that the training was in */
} lane;

static uint32_t below(lane *l, uint32_t bound) {
    return ds_rng_below(bound, SEED, DS_STREAM_TEST, (uint32_t)l->number, (uint64_t)l->spent++, 0);
}

/* The pause adapts until about eight kills meet every part of a job, whatever else the machine
 * does. */
static uint32_t some_ms(lane *l) { return below(l, (uint32_t)l->pause_ms + 1); }

static void adapt(lane *l, int kills) {
    l->pause_ms *= kills < 6 ? 0.7 : kills >= KILLS_PER_JOB ? 1.3 : 1;
    l->pause_ms = l->pause_ms < 100 ? 100 : l->pause_ms;
}

static void add_main(const rig *r) {
    char *tiles = folder("tiles"), body[1024];
    snprintf(
        body, sizeof body,
        "{\"path\":\"%s\",\"name\":\"tiles\",\"options\":{\"steps\":%d,\"batch\":8,\"lr\":0.005,"
        "\"checkpoint_every\":20,\"heldout_every\":50,\"n\":%s,\"rank\":4,\"threads\":1}}",
        tiles, SYS_SLOW ? 200 : 600, QUICK_N);
    ck_assert_int_eq(call(r, "POST", "/v1/datasets", body, NULL), 201);
    free(tiles);
}

/* Datasets added at two moments before the kill, the second one right at it; only an answer counts.
 */
static void *post_datasets(void *arg) {
    lane *l = arg;
    for (int i = 0; i < 2 && l->acks < ACKS_MAX; i++) {
        char body[600];
        usleep((useconds_t)l->ack_at_ms[i] * 1000);
        snprintf(body, sizeof body, "{\"path\":\"%s\",\"name\":\"ack-%d\",\"watch\":false}",
                 l->broken, l->acks);
        l->acked[l->acks] = call(&l->r, "POST", "/v1/datasets", body, NULL) == 201;
        l->acks++;
    }
    return NULL;
}

static void check_acknowledged(lane *l) {
    json_t *doc = NULL, *d;
    size_t i;
    char name[32];
    int found[ACKS_MAX] = {0}, tiles = 0;
    ck_assert_int_eq(call(&l->r, "GET", "/v1/datasets?limit=1000", NULL, &doc), 200);
    json_array_foreach(json_object_get(doc, "items"), i, d) {
        const char *s = ds_json_string(d, "name", "");
        tiles |= !strcmp(s, "tiles");
        if (!strncmp(s, "ack-", 4))
            found[strtol(s + 4, NULL, 10)] = 1;
    }
    json_decref(doc);
    ck_assert_msg(tiles, "the dataset 'tiles' is lost");
    for (int k = 0; k < l->acks; k++) {
        snprintf(name, sizeof name, "ack-%d", k);
        ck_assert_msg(!l->acked[k] || found[k], "dataset '%s' was acknowledged and is lost", name);
    }
}

/* How many jobs are `running` while their process is not; none may stay so. */
static int running_without_process(const rig *r) {
    json_t *doc = NULL, *job;
    size_t i;
    int zombies = 0;
    if (call(r, "GET", "/v1/jobs?state=running&limit=1000", NULL, &doc) != 200)
        return 1;
    json_array_foreach(json_object_get(doc, "items"), i, job) {
        char dir[64];
        snprintf(dir, sizeof dir, "jobs/%lld", (long long)ds_json_int(job, "id", 0));
        char state = process_state((pid_t)ds_json_int(job, "pid", 0), dir);
        zombies += !state || state == 'Z';
    }
    json_decref(doc);
    return zombies;
}

static void check_no_zombies(const rig *r) {
    /* an end is recorded some milliseconds after the process has gone, a start before it is there
     */
    for (double end = ds_monotonic() + 30; ds_monotonic() < end; usleep(20000))
        if (!running_without_process(r))
            return;
    show_daemon_log(r);
    ck_abort_msg("a job stays 'running' without a live process");
}

static void check_registry(const rig *r) {
    ds_registry *reg;
    ds_error err;
    must(ds_registry_open(r->state, &reg, &err), &err);
    int rc = ds_registry_check(reg, &err);
    if (!rc)
        rc = ds_blobs_verify(reg, NULL, NULL, &err);
    ds_registry_close(reg);
    ck_assert_msg(!rc, "%s", err.message);
}

static int is_done(const rig *r) {
    json_t *job = newest_job(r, "train", "tiles");
    const char *state = ds_json_string(job, "state", "");
    int done = !strcmp(state, "done");
    ck_assert_msg(strcmp(state, "failed") && strcmp(state, "rejected") &&
                      strcmp(state, "cancelled"),
                  "the training is %s: %s", state,
                  ds_json_string(json_object_get(job, "error"), "message", ""));
    json_decref(job);
    return done;
}

static void expect_same_adapter(const rig *r) {
    char sha[DS_HEX_SIZE];
    json_decref(wait_state(r, "train", "tiles", "|done|failed|rejected|cancelled|"));
    ck_assert(is_done(r));
    adapter_digest(r, "tiles@v1", sha);
    ck_assert_msg(!strcmp(sha, undisturbed), "the adapter is %.12s, undisturbed it is %.12s", sha,
                  undisturbed);
}

/* ---------------------------------------------------------------- kill -9 */

static void reap(lane *l) {
    ck_assert_int_eq(waitpid(l->r.pid, NULL, 0), l->r.pid);
    l->r.pid = 0;
}

static void kill_daemon(lane *l) {
    kill(l->r.pid, SIGKILL);
    reap(l);
    if (below(l, 2)) /* half of the time the next daemon finds a worker that is still alive */
        ck_assert_msg(wait_no_worker(&l->r, 60), "the worker outlives its daemon by a minute");
}

static void kill_both(lane *l) {
    kill(l->r.pid, SIGSTOP); /* so that it cannot record the end of its worker */
    for (pid_t w; (w = find_worker(&l->r));) {
        kill(w, SIGKILL);
        for (int i = 0; i < 2000 && process_state(w, NULL) && process_state(w, NULL) != 'Z'; i++)
            usleep(1000);
        if (process_state(w, NULL) == 'Z')
            break; /* its stopped parent cannot reap it */
    }
    kill(l->r.pid, SIGKILL);
    reap(l);
}

/* Only the worker: that is a failed attempt, tried again after 5 s; 1 if there was one. */
static int kill_worker(lane *l) {
    pid_t w = 0;
    json_t *job = newest_job(&l->r, "train", "tiles");
    if (!strcmp(ds_json_string(job, "state", ""), "running"))
        w = (pid_t)ds_json_int(job, "pid", 0);
    json_decref(job);
    if (w <= 0 || kill(w, SIGKILL))
        return 0;
    check_no_zombies(&l->r);
    job = wait_state(&l->r, "train", "tiles", "|running|done|failed|");
    ck_assert_str_ne(ds_json_string(job, "state", ""), "failed");
    json_decref(job);
    return 1;
}

static void pause_before_kill(lane *l, pthread_t *poster) {
    uint32_t ms = some_ms(l);
    l->ack_at_ms[0] = (int)below(l, ms + 1);
    l->ack_at_ms[1] = (int)ms - l->ack_at_ms[0];
    ck_assert_int_eq(pthread_create(poster, NULL, post_datasets, l), 0);
    usleep(ms * 1000);
}

/* Restart, sometimes killed again before it is ready. */
static void start_again(lane *l) {
    while (l->kills < KILLS / LANES && below(l, 6) == 0) {
        rig_spawn(&l->r);
        usleep(below(l, 60) * 1000);
        kill(l->r.pid, SIGKILL);
        reap(l);
        l->kills++;
    }
    rig_start(&l->r);
}

static void note_stage(lane *l) {
    char dir[300], path[320], *last = NULL;
    int in = STAGES - 1;
    if (train_dir(&l->r, dir)) {
        snprintf(path, sizeof path, "%s/events.ndjson", dir);
        char *events = slurp(path);
        for (char *p = events; (p = strstr(p, "\"stage\":\"")); p++)
            last = p + 9;
        for (int i = 0; last && i < STAGES; i++)
            if (!strncmp(last, stages[i], strlen(stages[i])))
                in = i;
        free(events);
    }
    l->met[in]++;
}

/* The last kill of a job: when its result is there and the daemon takes it over. */
static void kill_at_publication(lane *l) {
    char dir[300], path[320];
    double end = ds_monotonic() + PATIENCE;
    while (!train_dir(&l->r, dir) && ds_monotonic() < end)
        usleep(5000);
    snprintf(path, sizeof path, "%s/result.json", dir);
    while (!ds_fs_exists(path) && !is_done(&l->r) && ds_monotonic() < end)
        usleep(500);
    usleep(below(l, 20000));
    note_stage(l);
    kill_daemon(l);
    check_registry(&l->r);
    rig_start(&l->r);
    l->kills++;
}

static void torment_job(lane *l) {
    char name[32];
    int worker_kills = 0, k = 0;
    snprintf(name, sizeof name, "lane-%d-job-%d", l->number, l->jobs++);
    rig_open(&l->r, name);
    l->acks = 0;
    rig_start(&l->r);
    add_main(&l->r);
    for (; k < KILLS_PER_JOB && l->kills < KILLS / LANES && !is_done(&l->r); k++) {
        pthread_t poster;
        pause_before_kill(l, &poster);
        uint32_t who = below(l, 10);
        if (who == 0 && !worker_kills && kill_worker(l)) {
            worker_kills++;
            pthread_join(poster, NULL);
        } else {
            if (who % 2)
                kill_daemon(l);
            else
                kill_both(l);
            pthread_join(poster, NULL);
            note_stage(l);
            if (below(l, 4) == 0)
                check_registry(&l->r);
            start_again(l);
        }
        l->kills++;
        check_acknowledged(l);
        check_no_zombies(&l->r);
    }
    adapt(l, k);
    kill_at_publication(l);
    expect_same_adapter(&l->r);
    check_acknowledged(l);
    check_no_zombies(&l->r);
    rig_close(&l->r);
    ck_assert_msg(!find_worker(&l->r), "a worker is left after the daemon has stopped");
    check_registry(&l->r);
}

static void *torment(void *arg) {
    lane *l = arg;
    l->pause_ms = 400;
    while (l->kills < KILLS / LANES)
        torment_job(l);
    return NULL;
}

/* ---------------------------------------------------------------- the tests */

static char *broken_folder(void) {
    char *dir = in_tmp("broken"), *file = in_tmp("broken/a.png");
    ds_error err;
    must(ds_fs_mkdirs(dir, &err), &err);
    spit(file, "not a picture", 13);
    free(file);
    return dir;
}

/* What the others are compared with. */
static void measure_undisturbed(const char *name) {
    rig r;
    rig_open(&r, name);
    rig_start(&r);
    double begin = ds_monotonic();
    add_main(&r);
    json_t *job = wait_state(&r, "train", "tiles", "|done|failed|rejected|cancelled|");
    ck_assert_msg(!strcmp(ds_json_string(job, "state", ""), "done"), "undisturbed: %s",
                  ds_json_string(json_object_get(job, "error"), "message", ""));
    json_decref(job);
    usual_seconds = ds_monotonic() - begin;
    adapter_digest(&r, "tiles@v1", undisturbed);
    rig_close(&r);
}

START_TEST(kill_9_at_random_moments) {
    static lane lanes[LANES];
    pthread_t threads[LANES];
    int kills = 0, jobs = 0, acked = 0;
    double begin = ds_monotonic();
    measure_undisturbed("undisturbed-kill");
    char *broken = broken_folder();
    for (int i = 0; i < LANES; i++) {
        lanes[i].number = i;
        lanes[i].broken = broken;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, torment, &lanes[i]), 0);
    }
    for (int i = 0; i < LANES; i++) {
        pthread_join(threads[i], NULL);
        kills += lanes[i].kills;
        jobs += lanes[i].jobs;
        for (int k = 0; k < lanes[i].acks; k++)
            acked += lanes[i].acked[k];
    }
    ck_assert_int_ge(kills, KILLS / LANES * LANES);
    printf("%d kills in %d jobs (%.1f s undisturbed): nothing lost, no zombie, same adapter; "
           "%.0f s\n",
           kills, jobs, usual_seconds, ds_monotonic() - begin);
    for (int s = 0; s < STAGES; s++)
        printf("  in %s: %d\n", stages[s], lanes[0].met[s] + lanes[1].met[s]);
    ck_assert_int_gt(acked, 0);
    free(broken);
}
END_TEST

/* Rows of jobs that are running, read without a daemon. */
static int64_t running_rows(const rig *r) {
    char file[256];
    sqlite3 *db;
    sqlite3_stmt *q;
    snprintf(file, sizeof file, "%s/registry.db", r->state);
    ck_assert_int_eq(sqlite3_open_v2(file, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_prepare_v2(db, "SELECT count(*) FROM jobs_v1 WHERE state = 'running'",
                                        -1, &q, NULL),
                     SQLITE_OK);
    ck_assert_int_eq(sqlite3_step(q), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(q, 0);
    sqlite3_finalize(q);
    sqlite3_close(db);
    return n;
}

static int64_t resumed_from(const rig *r) {
    char path[64];
    json_t *job = newest_job(r, "train", "tiles"), *full = NULL;
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)ds_json_int(job, "id", 0));
    call(r, "GET", path, NULL, &full);
    int64_t step = ds_json_int(json_object_get(full, "result"), "resumed_from_step", -1);
    json_decref(job);
    json_decref(full);
    ck_assert_int_ge(step, 0);
    return step;
}

START_TEST(sigterm_at_random_moments) {
    static lane l = {.number = 100, .pause_ms = 500};
    int resumed = 0;
    measure_undisturbed("undisturbed-term");
    l.broken = broken_folder();
    while (l.kills < TERMS) {
        char name[32];
        snprintf(name, sizeof name, "term-%d", l.jobs++);
        rig_open(&l.r, name);
        rig_start(&l.r);
        add_main(&l.r);
        int k = 0;
        for (; k < KILLS_PER_JOB && l.kills < TERMS && !is_done(&l.r); k++, l.kills++) {
            usleep(some_ms(&l) * 1000);
            rig_close(&l.r); /* exit 0 */
            ck_assert_msg(!find_worker(&l.r), "a worker is left after an orderly stop");
            ck_assert_msg(!running_rows(&l.r), "a job is 'running' after an orderly stop");
            check_registry(&l.r);
            rig_start(&l.r);
        }
        adapt(&l, k);
        expect_same_adapter(&l.r);
        resumed += resumed_from(&l.r) > 0;
        rig_close(&l.r);
    }
    printf("%d orderly stops in %d jobs, %d of which went on from a checkpoint\n", l.kills, l.jobs,
           resumed);
    ck_assert_msg(resumed > 0, "no job went on from a checkpoint");
    free(l.broken);
}
END_TEST

/* A worker that somebody else asks to stop: a checkpoint, and later it goes on. */
START_TEST(sigterm_to_the_worker) {
    rig r;
    rig_open(&r, "term-worker");
    rig_start(&r);
    measure_undisturbed("undisturbed-worker");
    add_main(&r);
    json_t *job = wait_state(&r, "train", "tiles", "|running|");
    for (double end = ds_monotonic() + 20; !ds_json_int(job, "pid", 0) && ds_monotonic() < end;) {
        json_decref(job);
        job = newest_job(&r, "train", "tiles");
    }
    kill((pid_t)ds_json_int(job, "pid", 0), SIGTERM);
    json_decref(job);
    job = wait_state(&r, "train", "tiles", "|queued|");
    json_decref(job);
    check_no_zombies(&r);
    expect_same_adapter(&r);
    rig_close(&r);
}
END_TEST

static void register_cases(TCase *tc) {
    system_fixture();
    free(make_tiles("tiles", 2, CLASS_IMAGES));
    tcase_add_test(tc, kill_9_at_random_moments);
    tcase_add_test(tc, sigterm_at_random_moments);
    tcase_add_test(tc, sigterm_to_the_worker);
}

int main(int argc, char **argv) { return system_main(argc, argv, "system-kill", register_cases); }
