/* tests/base/test_base_age.c - ages of files while the clock is set forth and back; times as text. */
#include "base/age.h"
#include "base/log.h"

#include "tests/harness.h"

#define T INT64_C(1800000000000) /* a time of day */
#define DAY INT64_C(86400000)

static ds_ages a;

static void begin(void) {
    a = (ds_ages){0};
    ds_ages_look(&a, T, 5000);
    ds_ages_look(&a, T + 10000, 15000);
}

START_TEST(without_steps) {
    begin();
    ck_assert_int_eq(ds_ages_of(&a, T + 4000), 6000);
    ck_assert_int_eq(ds_ages_of(&a, T - DAY), DAY + 10000); /* older than the process */
    ck_assert_int_eq(ds_ages_of(&a, T + 10001), 0);         /* the future has no age */
    for (int i = 1; i <= 1000; i++)                         /* slewed by 1 ms a second */
        ds_ages_look(&a, T + 10000 + i * 1001, 15000 + i * 1000);
    ck_assert_int_eq(a.count, 1);
}
END_TEST

START_TEST(set_forth) {
    begin();
    ds_ages_look(&a, T + 2 * DAY + 11000, 16000);
    ck_assert_int_eq(ds_ages_of(&a, T + 4000), 7000);           /* made before the step */
    ck_assert_int_eq(ds_ages_of(&a, T + 10500), 500);           /* between the two looks */
    ck_assert_int_eq(ds_ages_of(&a, T + 2 * DAY + 10900), 100); /* after it */
    ck_assert_int_eq(ds_ages_of(&a, T + DAY), DAY + 11000);     /* never lived through */
    ck_assert_int_eq(ds_ages_of(&a, T - DAY), 3 * DAY + 11000); /* older than the process */
}
END_TEST

/* Looks far apart: what lies between two of them counts on both sides of a step; a date some ms
 * before a stretch is of it; a step is one from a second on, either way. */
START_TEST(edges_of_a_stretch) {
    a = (ds_ages){0};
    ds_ages_look(&a, T, 5000);
    ds_ages_look(&a, T + 2 * DAY + 30000, 35000);
    ck_assert_int_eq(a.count, 2);
    ck_assert_int_eq(ds_ages_of(&a, T + 20000), 10000);           /* before the step, if it was */
    ck_assert_int_eq(ds_ages_of(&a, T + 2 * DAY + 10000), 20000); /* or after it */
    ck_assert_int_eq(ds_ages_of(&a, T - 5), 30005);
    ck_assert_int_eq(ds_ages_of(&a, T - 1000), 31000);
    ck_assert_int_eq(ds_ages_of(&a, T - 1001), 2 * DAY + 31001); /* older than the process */
    for (int sign = -1; sign <= 1; sign += 2) {
        a = (ds_ages){0};
        ds_ages_look(&a, T, 5000);
        ds_ages_look(&a, T + 10000 + sign * 999, 15000);
        ck_assert_int_eq(a.count, 1);
        ds_ages_look(&a, T + 20000 + sign * 1999, 25000);
        ck_assert_int_eq(a.count, 2);
    }
}
END_TEST

START_TEST(set_back_and_forth) {
    begin();
    ds_ages_look(&a, T - 2 * DAY + 11000, 16000);
    ck_assert_int_eq(ds_ages_of(&a, T + 4000), 7000); /* dated in the future by now */
    ds_ages_look(&a, T - 2 * DAY + 20000, 25000);
    ds_ages_look(&a, T + 21000, 26000);
    ck_assert_int_eq(ds_ages_of(&a, T - 2 * DAY + 19000), 2000); /* made two days ago, it says */
    ck_assert_int_eq(ds_ages_of(&a, T + 4000), 17000);
    ck_assert_int_eq(ds_ages_of(&a, T + 20900), 100);
}
END_TEST

/* The same times of day again and again: the least of the ages that it could be. */
START_TEST(many_steps) {
    begin();
    int64_t boot = 15000;
    for (int i = 0; i < 3 * DS_AGE_STRETCHES; i++) {
        ds_ages_look(&a, T + (i % 2 ? 0 : 2 * DAY), boot += 3000);
        ds_ages_look(&a, T + (i % 2 ? 0 : 2 * DAY) + 2000, boot += 2000);
    }
    ck_assert_int_eq(a.count, DS_AGE_STRETCHES);
    ck_assert_int_eq(ds_ages_of(&a, T + 1500), 500);
    ck_assert_int_eq(ds_ages_of(&a, T + 2 * DAY + 1500), 5500);
}
END_TEST

START_TEST(now_by_the_boot_clock) {
    begin();
    ck_assert_int_eq(ds_ages_now(&a), T + 10000);
    ds_ages_look(&a, T + 3650 * DAY, 16000);
    ck_assert_int_eq(ds_ages_now(&a), T + 11000); /* ten years forth make nothing old */
    ds_ages_look(&a, T - 3650 * DAY, 17000);
    ck_assert_int_eq(ds_ages_now(&a), T - 3650 * DAY); /* nor back */
    a = (ds_ages){0};
    ds_ages_look(&a, 5000, 5000); /* no clock at the start */
    ds_ages_look(&a, T, 6000);
    ck_assert_int_eq(ds_ages_now(&a), T);
}
END_TEST

START_TEST(of_the_machine) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    ck_assert_int_lt(ds_age_ms(now), 60000);
    now.tv_sec -= 100000;
    ck_assert_int_ge(ds_age_ms(now), 100000000);
    now.tv_sec += 200000;
    ck_assert_int_eq(ds_age_ms(now), 0);
}
END_TEST

START_TEST(times_as_text) {
    static const struct {
        const char *text;
        enum ds_time_form form;
        int64_t ms;
    } cases[] = {{"1970-01-02", DS_TIME_DAY, DAY},
                 {"1970-01-02T00:00:01Z", DS_TIME_UTC, DAY + 1000},
                 {"1970-01-02 00:00:01Z", DS_TIME_UTC, DAY + 1000},
                 {"1970-01-02T00:00:01", DS_TIME_BARE, DAY + 1000},
                 {"1970-01-02T00:00:00.25Z", DS_TIME_UTC, DAY + 250},
                 {"1970-01-02T00:00:00.0006789Z", DS_TIME_UTC, DAY},
                 {"1970-01-02T00:00:00.678", DS_TIME_BARE, DAY + 678},
                 {"2024-02-29T23:59:59.999Z", DS_TIME_UTC, INT64_C(1709251199999)},
                 {NULL, DS_TIME_NONE, 0},
                 {"", DS_TIME_NONE, 0},
                 {"yesterday", DS_TIME_NONE, 0},
                 {"2026-13-01", DS_TIME_NONE, 0},
                 {"1970-01-02Z", DS_TIME_NONE, 0},
                 {"1970-01-02T", DS_TIME_NONE, 0},
                 {"1970-01-02T00:00:01Zx", DS_TIME_NONE, 0},
                 {"1970-01-02T00:00:01+01:00", DS_TIME_NONE, 0}};
    char text[32];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t ms = -7;
        enum ds_time_form form = ds_time_read(cases[i].text, &ms);
        ck_assert_msg(form == cases[i].form && ms == (form ? cases[i].ms : -7), "'%s': %d, %lld",
                      cases[i].text ? cases[i].text : "NULL", form, (long long)ms);
    }
    for (int64_t ms = 0; ms < 100 * DAY; ms += 86399123) { /* what is written can be read */
        int64_t back = -1;
        ds_time_rfc3339(text, ms);
        ck_assert_msg(ds_time_read(text, &back) == DS_TIME_UTC && back == ms, "%s", text);
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, times_as_text);
    tcase_add_test(tc, without_steps);
    tcase_add_test(tc, set_forth);
    tcase_add_test(tc, edges_of_a_stretch);
    tcase_add_test(tc, set_back_and_forth);
    tcase_add_test(tc, many_steps);
    tcase_add_test(tc, now_by_the_boot_clock);
    tcase_add_test(tc, of_the_machine);
}

int main(void) { return ds_test_main("base_age", cases); }
