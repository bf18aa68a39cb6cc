/* tests/daemon/test_daemon_stall.c - a worker that hangs is ended, also one that does not hear; one that is
 * only stopped is not. */
#include "tests/fixtures/daemon_rig.h"

static rig r;

/* The attempt counts and says why; SIGTERM ends the first worker, SIGKILL the stubborn one. */
START_TEST(a_silent_worker_is_ended) {
    rig_open(&r, "silent");
    char photos[400];
    rig_images(&r, "photos", 3, photos);
    rig_start(&r, (const char *const[]){"--stall", "2", NULL});
    rig_fake(&r, "train", "hang");
    rig_add(&r, "digits", photos, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|running|", 10000);
    double begin = ds_monotonic();
    rig_wait_job(&r, "train", "digits", "|queued|", 20000);
    ck_assert_msg(ds_monotonic() - begin > 1.5, "ended too early");
    rig_fake(&r, "train", "ok");
    char path[64];
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)id);
    json_t *job = rig_want(&r, 200, "GET", path, NULL);
    json_t *error = json_object_get(job, "error");
    ck_assert_int_eq(ds_json_int(job, "attempts", 0), 1);
    ck_assert_str_eq(ds_json_string(error, "code", ""), "DS_ETIMEOUT");
    ck_assert_msg(strstr(ds_json_string(error, "message", ""), "said nothing for 2 s") != NULL,
                  "%s", ds_json_string(error, "message", ""));
    json_decref(job);
    rig_wait_adapter(&r, "digits", 1, 15000);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}
END_TEST

/* Twice the limit in SIGSTOP, then it goes on and is done. */
START_TEST(a_stopped_worker_is_left_alone) {
    rig_open(&r, "stopped");
    char photos[400];
    rig_images(&r, "photos", 3, photos);
    rig_start(&r, (const char *const[]){"--stall", "2", NULL});
    rig_fake(&r, "train", "slow 600");
    rig_add(&r, "digits", photos, 201);
    int64_t id = rig_wait_job(&r, "train", "digits", "|running|", 10000);
    pid_t worker = rig_worker_of(&r, id);
    kill(worker, SIGSTOP);
    usleep(4500000);
    ck_assert_int_eq(rig_worker_of(&r, id), worker);
    kill(worker, SIGCONT);
    rig_wait_adapter(&r, "digits", 1, 15000);
    char path[64];
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)id);
    json_t *job = rig_want(&r, 200, "GET", path, NULL);
    ck_assert_int_eq(ds_json_int(job, "attempts", 0), 1);
    json_decref(job);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}
END_TEST

static int64_t stubborn(const char *name) {
    char dir[400];
    rig_images(&r, name, 2, dir);
    rig_add(&r, name, dir, 201);
    int64_t id = rig_wait_job(&r, "train", name, "|running|", 10000);
    rig_worker_of(&r, id);
    return id;
}

/* SIGTERM is ignored: after 15 s a cancelled one is killed, after 20 s a paused one, and meanwhile the
 * daemon answers. */
START_TEST(workers_that_ignore_the_end) {
    rig_open(&r, "deaf");
    rig_start(&r, (const char *const[]){"--workers", "2", NULL});
    rig_fake(&r, "train", "stubborn");
    int64_t a = stubborn("a"), b = stubborn("b");
    pid_t of_a = rig_worker_of(&r, a), of_b = rig_worker_of(&r, b);
    double began = ds_monotonic();
    char path[500];
    snprintf(path, sizeof path, "/v1/jobs/%lld/cancel", (long long)a);
    json_decref(rig_want(&r, 202, "POST", path, NULL));
    json_decref(rig_want(&r, 200, "POST", "/v1/datasets/b/pause", NULL));
    usleep(1500000);
    ck_assert(rig_worker_of(&r, a) == of_a && rig_worker_of(&r, b) == of_b);
    snprintf(path, sizeof path, "%s/jobs/%lld/cancel", r.state, (long long)a);
    ck_assert(ds_fs_exists(path));
    ck_assert_int_eq(rig_wait_job(&r, "train", "a", "|cancelled|", 4000), a);
    double took = ds_monotonic() - began;
    ck_assert_msg(took > 14 && took < 19, "%g s", took);
    ck_assert(kill(of_a, 0) != 0 && errno == ESRCH && rig_alive(of_b));
    ck_assert_int_eq(rig_wait_job(&r, "train", "b", "|queued|", 4000), b);
    took = ds_monotonic() - began;
    ck_assert_msg(took > 19 && took < 24, "%g s", took);
    ck_assert(!rig_alive(of_b));
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, a_silent_worker_is_ended);
    tcase_add_test(tc, a_stopped_worker_is_left_alone);
    tcase_add_test(tc, workers_that_ignore_the_end);
}

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_stall", cases);
}
