/* tests/system/test_system_speed.c - how long a person waits for add-dataset, and what a folder costs that
 * has not changed.  The figures are printed; the limits are wide, because machines are shared. */
#include "tests/fixtures/system_rig.h"

#include <math.h>

enum { IMAGES = SYS_SLOW ? 1000 : 10000 };
static const double ADD_SECONDS = 5, FILES_PER_SECOND = SYS_SLOW ? 200 : 4000;

/* Images and seconds of a scan as the worker measured them. */
static double seconds_of(const json_t *result, int64_t *hashed) {
    ck_assert_msg(ds_json_int(result, "images", 0) == IMAGES, "the scan failed or lost images");
    *hashed = ds_json_int(result, "hashed", -1);
    return ds_json_number(result, "seconds", NAN);
}

static double first_scan(const rig *r, int64_t *hashed) {
    char path[64];
    json_t *job = wait_state(r, "scan", "big", "|done|failed|"), *full = NULL;
    snprintf(path, sizeof path, "/v1/jobs/%lld", (long long)ds_json_int(job, "id", 0));
    ck_assert_int_eq(call(r, "GET", path, NULL, &full), 200);
    double seconds = seconds_of(json_object_get(full, "result"), hashed);
    json_decref(job);
    json_decref(full);
    return seconds;
}

/* An unchanged rescan leaves no job to look at, so the worker does the first one's once more, with
 * what the daemon's scans know. */
static double scan_again(const rig *r, int64_t *hashed) {
    char spec[400], path[400], command[1000], *dir = in_tmp("again");
    json_t *result = NULL;
    ds_error err;
    must(ds_fs_remove(dir, &err), &err);
    must(ds_fs_mkdirs(dir, &err), &err);
    snprintf(spec, sizeof spec, "%s/jobs/1/spec.json", r->state);
    snprintf(path, sizeof path, "%s/spec.json", dir);
    must(ds_fs_copy(spec, path, &err), &err);
    snprintf(command, sizeof command, "%s/diffscaler-worker run %s 2>/dev/null", getenv("DS_BUILD"),
             dir);
    ck_assert_int_eq(system(command), 0);
    snprintf(path, sizeof path, "%s/result.json", dir);
    must(ds_json_read_file(path, 1 << 24, &result, &err), &err);
    double seconds = seconds_of(result, hashed);
    json_decref(result);
    free(dir);
    return seconds;
}

START_TEST(ten_thousand_images) {
    rig r;
    char path[400], *dir = in_tmp("big");
    ds_error err;
    int64_t hashed;
    must(ds_fs_mkdirs(dir, &err), &err);
    for (int i = 0; i < IMAGES; i++) {
        snprintf(path, sizeof path, "%s/%05d.ppm", dir, i);
        write_tile(path, 16, i);
    }
    sleep(1); /* a file that changed in the moment of its reading is read again next time */
    rig_open(&r, "speed");
    r.extra[0] = "--workers"; /* scans only */
    r.extra[1] = "0";
    rig_start(&r);
    EXPECT(&r, 0, "add-dataset", dir);
    double add = said.seconds, first = first_scan(&r, &hashed);
    ck_assert_int_eq(hashed, IMAGES);
    double best = INFINITY, again = INFINITY;
    for (int i = 0; i < 3; i++) {
        EXPECT(&r, 0, "add-dataset", dir);
        again = fmin(again, said.seconds);
        best = fmin(best, scan_again(&r, &hashed));
        ck_assert_msg(hashed == 0, "%lld files were read again", (long long)hashed);
    }
    EXPECT(&r, 7, "add-dataset", dir, "--wait", "--timeout", "1");
    EXPECT_SAID("timed out");
    printf("%d images: add-dataset returns after %.2f s, again after %.2f s; first scan %.2f s, "
           "unchanged %.3f s = %.0f files/s\n",
           IMAGES, add, again, first, best, IMAGES / best);
    ck_assert_msg(add < ADD_SECONDS, "add-dataset took %.1f s", add);
    ck_assert_msg(IMAGES / best >= FILES_PER_SECOND, "unchanged: %.0f files/s", IMAGES / best);
    rig_close(&r);
    must(ds_fs_remove(dir, &err), &err);
    free(dir);
}
END_TEST

static void register_cases(TCase *tc) {
    system_fixture();
    tcase_add_test(tc, ten_thousand_images);
}

int main(int argc, char **argv) { return system_main(argc, argv, "system-speed", register_cases); }
