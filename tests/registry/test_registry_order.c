/* tests/registry/test_registry_order.c - what comes first: of jobs that are due, of those that run, of what was
 * measured, tried and recorded.  Rows are put in another order than they are told in. */
#include "base/log.h"
#include "registry/core/db.h"
#include "tests/fixtures/registry_fixture.h"

static ds_registry *r;

static void setup(void) { r = fx_open(fx_dir("order")); }
static void teardown(void) { ds_registry_close(r); }

static void sql(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void sql(const char *fmt, ...) {
    char text[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    ck_assert_msg(fx_foreign(r, text) == SQLITE_OK, "%s", text);
}

static int64_t add_job(enum ds_job_kind kind) {
    int64_t id;
    MUST(ds_job_add(r, kind, "x", NULL, 3, &id, err));
    return id;
}

/* A list's member as one text: "a,b,c". */
static const char *told(const json_t *list, const char *key) {
    static char text[400];
    size_t i, n = 0;
    const json_t *o;
    *text = 0;
    json_array_foreach((json_t *)(uintptr_t)list, i, o) {
        const json_t *v = json_object_get(o, key);
        n += (size_t)(json_is_string(v) ? snprintf(text + n, sizeof text - n, "%s%s", i ? "," : "",
                                                   json_string_value(v))
                                        : snprintf(text + n, sizeof text - n, "%s%lld",
                                                   i ? "," : "", (long long)json_integer_value(v)));
    }
    return text;
}

static const char *numbers(const int64_t *ids, int n) {
    static char text[2][100];
    static int turn;
    char *out = text[turn++ % 2];
    size_t at = 0;
    *out = 0;
    for (int i = 0; i < n; i++)
        at += (size_t)snprintf(out + at, 100 - at, "%s%lld", i ? "," : "", (long long)ids[i]);
    return out;
}

/* Priority, then the order in which they were asked for; of several kinds as of one. */
START_TEST(jobs_that_are_due) {
    int64_t ids[5], want[5], got[5], wait = -1;
    static const enum ds_job_kind kinds[] = {DS_JOB_SAMPLE, DS_JOB_VERIFY, DS_JOB_SAMPLE,
                                             DS_JOB_VERIFY, DS_JOB_SAMPLE};
    static const int priority[] = {5, 7, 7, 5, 5}, order[] = {1, 2, 0, 3, 4};
    ds_job j;
    for (int i = 0; i < 5; i++) {
        ids[i] = add_job(kinds[i]);
        sql("UPDATE jobs SET priority = %d WHERE id = %lld", priority[i], (long long)ids[i]);
    }
    unsigned both = DS_KIND_BIT(DS_JOB_SAMPLE) | DS_KIND_BIT(DS_JOB_VERIFY);
    for (int i = 0; i < 5; i++) {
        want[i] = ids[order[i]];
        MUST(ds_job_next(r, both, ds_now_ms(), &j, &wait, err));
        got[i] = j.id;
        MUST(ds_job_claim(r, j.id, err));
    }
    ck_assert_str_eq(numbers(got, 5), numbers(want, 5));
    FAILS(DS_ENOTFOUND, "", ds_job_next(r, both, ds_now_ms(), &j, &wait, err));
}
END_TEST

/* When the next one is due: the earliest of those that wait, in whatever order they are. */
START_TEST(jobs_that_wait) {
    int64_t wait = -1, now = ds_now_ms(), due = now + 3000;
    ds_job j;
    int64_t a = add_job(DS_JOB_SAMPLE), b = add_job(DS_JOB_SAMPLE), c = add_job(DS_JOB_VERIFY);
    sql("UPDATE jobs SET run_after = %lld WHERE id = %lld", (long long)now + 5000, (long long)a);
    sql("UPDATE jobs SET run_after = %lld WHERE id = %lld", (long long)due, (long long)b);
    sql("UPDATE jobs SET run_after = %lld WHERE id = %lld", (long long)now + 4000, (long long)c);
    ck_assert_int_eq(ds_job_next(r, DS_KIND_BIT(DS_JOB_SAMPLE), now, &j, &wait, NULL),
                     DS_ENOTFOUND);
    ck_assert_int_eq(wait, 3000);
    ck_assert_int_eq(ds_job_next(r, DS_KIND_BIT(DS_JOB_VERIFY), now, &j, &wait, NULL),
                     DS_ENOTFOUND);
    ck_assert_int_eq(wait, 4000);
    ck_assert_int_eq(ds_job_next(r, ~0u, now + 2999, &j, &wait, NULL), DS_ENOTFOUND);
    ck_assert_int_eq(wait, 1);
    MUST(ds_job_next(r, ~0u, due, &j, &wait, err)); /* at that moment it is */
    ck_assert_int_eq(j.id, b);
}
END_TEST

/* Those to be stopped come first, then the oldest; and not more than there is room for. */
START_TEST(jobs_that_run) {
    int64_t ids[4], got[4], want[4];
    ds_job list[3];
    int n = 0, running;
    for (int i = 0; i < 4; i++) {
        ids[i] = add_job(DS_JOB_SAMPLE);
        MUST(ds_job_claim(r, ids[i], err));
    }
    MUST(ds_job_cancel(r, ids[3], &running, err));
    MUST(ds_job_cancel(r, ids[2], &running, err));
    MUST(ds_jobs_running(r, list, 3, &n, err));
    ck_assert_int_eq(n, 4); /* so many are there */
    for (int i = 0; i < 3; i++)
        got[i] = list[i].id;
    want[0] = ids[2], want[1] = ids[3], want[2] = ids[0];
    ck_assert_str_eq(numbers(got, 3), numbers(want, 3));
}
END_TEST

START_TEST(what_a_job_went_through) {
    json_t *o = NULL;
    int64_t id = add_job(DS_JOB_SAMPLE), other = add_job(DS_JOB_SAMPLE);
    static const struct {
        const char *key;
        int step;
    } metrics[] = {{"loss", 20}, {"fd", 7}, {"loss", 3}, {"loss", 100}, {"fd", 5}};
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++)
        MUST(ds_job_metric(r, id, metrics[i].key, metrics[i].step, (double)i, err));
    MUST(ds_job_metric(r, other, "loss", 4, 9, err));
    MUST(ds_job_metric(r, id, "loss", 20, 0.5, err)); /* told again: the later one */
    MUST(ds_job_metrics(r, id, NULL, &o, err));
    ck_assert_str_eq(told(o, "key"), "fd,fd,loss,loss,loss");
    ck_assert_str_eq(told(o, "step"), "5,7,3,20,100");
    ck_assert_double_eq(json_real_value(json_object_get(json_array_get(o, 3), "value")), 0.5);
    json_decref(o);
    MUST(ds_job_metrics(r, id, "loss", &o, err));
    ck_assert_str_eq(told(o, "step"), "3,20,100");
    json_decref(o);
    ds_job_failure f = {.exit_code = 1, .exit_signal = -1, .code = "DS_EIO", .message = "x"};
    for (int i = 0; i < 3; i++) {
        int retried;
        MUST(ds_job_claim(r, id, err));
        MUST(ds_job_fail(r, id, i < 2 ? &(ds_job_failure){.retry = 1, .message = "x"} : &f,
                         &retried, err));
        ck_assert_int_eq(retried, i < 2);
    }
    MUST(ds_job_get(r, id, &o, err));
    ck_assert_str_eq(told(json_object_get(o, "attempt_list"), "attempt"), "1,2,3");
    json_decref(o);
}
END_TEST

/* Jobs that could not run for long are told by their number; a few times are no long time. */
START_TEST(jobs_that_wait_for_long) {
    json_t *o = NULL;
    int64_t ids[4];
    for (int i = 0; i < 4; i++)
        ids[i] = add_job(DS_JOB_SAMPLE);
    static const int more[] = {2, 0, -1, 1};
    for (int i = 3; i >= 0; i--)
        sql("UPDATE jobs SET postponed = %d WHERE id = %lld", DS_JOB_WAITS_LONG + more[i],
            (long long)ids[i]);
    MUST(ds_jobs_waiting(r, &o, err));
    ck_assert_str_eq(told(o, "id"), numbers((int64_t[]){ids[0], ids[1], ids[3]}, 3));
    json_decref(o);
    int running;
    MUST(ds_job_cancel(r, ids[1], &running, err)); /* what is over waits for nothing */
    MUST(ds_jobs_waiting(r, &o, err));
    ck_assert_str_eq(told(o, "id"), numbers((int64_t[]){ids[0], ids[3]}, 2));
    json_decref(o);
}
END_TEST

/* Probes by when they were recorded; a digest that several have means what is published, and of
 * that the newest. */
START_TEST(probes_and_digests) {
    json_t *o = NULL;
    ds_adapter_ref a;
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "same", NULL);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "two");
    fx_train(r, 1, "same", NULL);
    MUST(ds_dataset_rescan(r, "d", NULL, err));
    fx_scan(r, "three");
    fx_train(r, 0, "same", NULL);
    sql("INSERT INTO probes(adapter_version_id, device_class, sha256, n, seed, created_at) VALUES"
        " (1, 'a-late', '" NET_SHA "', 1, 1, 9000000000000),"
        " (1, 'z-early', '" NET_SHA "', 1, 1, 1)");
    MUST(ds_adapter_get(r, "d@v1", &o, err));
    ck_assert_str_eq(told(json_object_get(o, "probes"), "device_class"), "z-early,cpu-test,a-late");
    char ref[80];
    snprintf(ref, sizeof ref, "sha256:%s", fx_string(o, "digest"));
    json_decref(o);
    MUST(ds_adapter_resolve(r, ref, &a, err));
    ck_assert_str_eq(a.ref, "d@v2");
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, jobs_that_are_due);
    tcase_add_test(tc, jobs_that_wait);
    tcase_add_test(tc, jobs_that_run);
    tcase_add_test(tc, what_a_job_went_through);
    tcase_add_test(tc, jobs_that_wait_for_long);
    tcase_add_test(tc, probes_and_digests);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_order", cases);
}
