/* tests/worker_measure/test_worker_course.c - whole jobs whose training ends before all of its steps: by the
 * held-out loss, across interruptions, and by the clock; what they record, and what all others do not; and
 * one that guidance is trained into. */
#include "tests/fixtures/worker_fixture.h"

#include <math.h>

enum { PERIOD = 5, MANY = 100000000 };

/* With so large a rate the loss goes up and down, and soon two looks are no gain. */
static json_t *course_spec(int patience, double max_time) {
    json_t *s = train_spec("blobs"), *t = json_object_get(s, "train");
    json_object_set_new(t, "steps", json_integer(max_time > 0 ? MANY : 400));
    json_object_set_new(t, "cosine", json_true());
    json_object_set_new(t, "lr", json_real(max_time > 0 ? 1e-9 : 0.2));
    json_object_set_new(t, "ema", json_real(0.5));
    json_object_set_new(t, "heldout_every", json_integer(max_time > 0 ? MANY : PERIOD));
    json_object_set_new(t, "checkpoint_every", json_integer(max_time > 0 ? MANY : 3));
    if (patience)
        json_object_set_new(t, "patience", json_integer(patience));
    if (max_time > 0)
        json_object_set_new(t, "max_time", json_real(max_time));
    json_object_set_new(s, "evaluate",
                        json_pack("{s:i, s:i, s:i, s:i}", "n", 4, "seed", 7, "kid_subsets", 2,
                                  "kid_subset_size", 2));
    return s;
}

/* The events of a job, a list. */
static json_t *events_of(const char *dir) {
    char *path = ds_xasprintf("%s/events.ndjson", dir), *text, *end;
    size_t n;
    json_t *list = json_array(), *doc;
    ds_error err;
    must(ds_fs_read(path, 1 << 24, &text, &n, &err), &err);
    for (char *line = text; (end = strchr(line, '\n')); line = end + 1)
        if (end > line && !ds_json_parse("event", line, (size_t)(end - line), &doc, NULL))
            json_array_append_new(list, doc);
    free(text);
    free(path);
    return list;
}

/* The last event of a type, in a stage or any; NULL: there is none. */
static const json_t *last_of(const json_t *events, const char *type, const char *stage) {
    for (size_t i = json_array_size(events); i-- > 0;) {
        const json_t *e = json_array_get(events, i);
        if (!strcmp(text_at(e, "type", NULL), type) &&
            (!stage || !strcmp(text_at(e, "stage", NULL), stage)))
            return e;
    }
    return NULL;
}

static int whole(const json_t *o, const char *key) { return (int)ds_json_int(o, key, -1); }

/* Result, metadata and progress agree about where it ended; returns the step. */
static int expect_ended(const char *dir, const char *why, int asked) {
    json_t *r = read_json(dir, "result.json"), *meta = metadata_of(dir), *events = events_of(dir);
    const json_t *progress = last_of(events, "progress", "train"),
                 *ending = last_of(events, "ending", NULL);
    int steps = whole(r, "steps");
    ck_assert_int_gt(steps, 0);
    ck_assert_int_lt(steps, asked);
    ck_assert_str_eq(text_at(r, "ended", NULL), why);
    ck_assert_int_eq(whole(meta, "steps"), steps);
    ck_assert_str_eq(text_at(meta, "ended", NULL), why);
    ck_assert_int_eq(whole(json_object_get(meta, "train"), "steps"), asked);
    ck_assert(json_object_get(json_object_get(meta, "train"), "heldout_every"));
    ck_assert_int_eq(whole(progress, "done"), steps);
    ck_assert_int_eq(whole(progress, "total"), steps);
    ck_assert_str_eq(text_at(ending, "why", NULL), why);
    ck_assert_int_eq(whole(ending, "last"), steps);
    double rate = ds_json_number(r, "images_per_second", 0), /* as after the last step, rounded */
        told = ds_json_number(progress, "images_per_second", 0);
    ck_assert_msg(rate > 0 && fabs(rate - told) < 1e-5 * rate, "%.9g images/s, %.9g", rate, told);
    json_decref(r), json_decref(meta), json_decref(events);
    return steps;
}

/* Where the looks that a job reports say that it falls, with patience 2. */
static int falls_at(const json_t *events) {
    double best = INFINITY;
    int waited = 0;
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *e = json_array_get(events, i);
        if (strcmp(text_at(e, "type", NULL), "metric") ||
            strcmp(text_at(e, "key", NULL), "heldout_loss") || !whole(e, "step"))
            continue;
        double loss = ds_json_number(e, "value", NAN);
        waited = loss < best ? 0 : waited + 1;
        best = fmin(best, loss);
        if (waited == 2)
            return whole(e, "step");
    }
    return -1;
}

static char *undisturbed; /* directory of a finished job with patience 2 */

START_TEST(patience_ends_a_job) {
    int steps = expect_ended(undisturbed, "patience", 400);
    json_t *events = events_of(undisturbed), *meta = metadata_of(undisturbed);
    const json_t *ending = last_of(events, "ending", NULL);
    int from = falls_at(events);
    ck_assert_int_ge(from, 3 * PERIOD);
    ck_assert_int_eq(whole(ending, "from"), from);
    ck_assert_int_eq(steps, from + from / 4);
    char *words =
        ds_xasprintf("the held-out loss has not fallen for 2 looks: the rate falls from step %d "
                     "on, the end is step %d",
                     from, steps);
    ck_assert_str_eq(text_at(ending, "message", NULL), words);
    ck_assert_int_eq(whole(last_of(events, "checkpoint", NULL), "step"), steps);
    ck_assert_int_eq(whole(json_object_get(meta, "train"), "patience"), 2);
    ck_assert(!json_object_get(json_object_get(meta, "train"), "max_time"));
    json_decref(events), json_decref(meta);
    free(words);
}
END_TEST

/* Stopped again and again: the same bytes. */
START_TEST(interruptions_change_nothing) {
    char *dir = make_job("patient2", course_spec(2, 0));
    int status = 143, stops = 0;
    for (int i = 0; i < 40 && status; i++) {
        pid_t pid = start_job(dir, NULL, NULL);
        usleep(40000 * (useconds_t)(i + 1));
        kill(pid, SIGTERM);
        status = wait_job(pid); /* 1000 + SIGTERM: before it had its handlers */
        ck_assert_msg(status == 0 || status == 143 || status == 1000 + SIGTERM, "status %d",
                      status);
        stops += status == 143;
    }
    run_expect(dir, 0);
    ck_assert_int_gt(stops, 0);
    json_t *a = read_json(dir, "result.json"), *b = read_json(undisturbed, "result.json");
    ck_assert_str_eq(text_at(a, "adapter", "sha256"), text_at(b, "adapter", "sha256"));
    ck_assert_int_eq(whole(a, "steps"), whole(b, "steps"));
    ck_assert_str_eq(text_at(a, "ended", NULL), "patience");
    json_decref(a), json_decref(b);
    free(dir);
}
END_TEST

/* From the checkpoint before the last one, where the rate falls already. */
START_TEST(it_resumes_while_the_rate_falls) {
    static const char *const later[] = {"result.json", "stage", "adapter.safetensors.zst",
                                        "events.ndjson"};
    json_t *b = read_json(undisturbed, "result.json"), *a;
    char want[DS_HEX_SIZE];
    int steps = whole(b, "steps");
    ds_error err;
    snprintf(want, sizeof want, "%s", text_at(b, "adapter", "sha256"));
    for (int i = 0; i < 5; i++) {
        char *path = i < 4
                         ? ds_xasprintf("%s/%s", undisturbed, later[i])
                         : ds_xasprintf("%s/checkpoints/step-%08d.safetensors", undisturbed, steps);
        must(ds_fs_remove(path, &err), &err);
        free(path);
    }
    run_expect(undisturbed, 0);
    a = read_json(undisturbed, "result.json");
    int from = whole(a, "resumed_from_step");
    ck_assert_msg(from < steps && from + 3 >= steps, "%d of %d", from, steps);
    ck_assert_str_eq(text_at(a, "adapter", "sha256"), want);
    ck_assert_str_eq(text_at(a, "ended", NULL), "patience");
    json_t *events = events_of(undisturbed);
    ck_assert_int_eq(whole(last_of(events, "progress", "train"), "total"), steps);
    json_decref(a), json_decref(b), json_decref(events);
}
END_TEST

/* No look and no checkpoint is near: the clock alone ends it. */
START_TEST(time_ends_a_job) {
    static const double limits[] = {0.8, 1e-6};
    char *dir = make_job(_i ? "at-once" : "timed", course_spec(0, limits[_i]));
    run_expect(dir, 0);
    int steps = expect_ended(dir, "time", MANY);
    json_t *r = read_json(dir, "result.json"), *meta = metadata_of(dir), *events = events_of(dir);
    double seconds = ds_json_number(r, "train_seconds", 0);
    ck_assert_msg(seconds > limits[_i] * 0.8 && seconds < limits[_i] * 1.1 + 5, "%g s", seconds);
    ck_assert(ds_json_number(json_object_get(meta, "train"), "max_time", 0) == limits[_i]);
    const json_t *plan = json_object_get(r, "plan");
    ck_assert(ds_json_number(plan, "train_seconds", 0) == limits[_i]);
    if (_i) /* a step takes longer */
        ck_assert_int_eq(steps, 1);
    ck_assert(strstr(text_at(last_of(events, "ending", NULL), "message", NULL),
                     _i ? "max_time of 1e-06 s is over: the end is this step, 1"
                        : "max_time of 0.8 s is "));
    ck_assert_int_eq(whole(last_of(events, "checkpoint", NULL), "step"), steps);
    json_decref(r), json_decref(meta), json_decref(events);
    free(dir);
}
END_TEST

/* Without the two, and with 0, the adapter is the same, and says nothing of them. */
START_TEST(a_job_without_them) {
    char digests[2][DS_HEX_SIZE];
    for (int i = 0; i < 2; i++) {
        json_t *spec = course_spec(0, 0), *train = json_object_get(spec, "train");
        json_object_set_new(train, "steps", json_integer(12));
        if (i) {
            json_object_set_new(train, "patience", json_integer(0));
            json_object_set_new(train, "max_time", json_real(0));
            json_object_set_new(train, "trained_guidance", json_real(0));
            json_object_set_new(train, "trained_guidance_low", json_real(0.5));
        }
        char *dir = make_job(i ? "zero" : "none", spec);
        run_expect(dir, 0);
        json_t *r = read_json(dir, "result.json"), *meta = metadata_of(dir),
               *events = events_of(dir), *t = json_object_get(meta, "train");
        ck_assert_int_eq(whole(r, "steps"), 12);
        ck_assert(!json_object_get(r, "ended") && !json_object_get(meta, "ended"));
        ck_assert(!json_object_get(t, "patience") && !json_object_get(t, "max_time"));
        ck_assert(!json_object_get(t, "heldout_every") && !last_of(events, "ending", NULL));
        ck_assert(!json_object_get(t, "trained_guidance"));
        ck_assert(!json_object_get(t, "trained_guidance_low"));
        snprintf(digests[i], DS_HEX_SIZE, "%s", text_at(r, "adapter", "sha256"));
        json_decref(r), json_decref(meta), json_decref(events);
        free(dir);
    }
    ck_assert_str_eq(digests[0], digests[1]);
}
END_TEST

/* The adapter says what was trained into it, and how it is sampled. */
START_TEST(a_job_with_trained_guidance) {
    json_t *spec = course_spec(0, 0), *train = json_object_get(spec, "train");
    json_object_set_new(train, "steps", json_integer(12));
    json_object_set_new(train, "trained_guidance", json_real(1.75));
    json_object_set_new(train, "trained_guidance_low", json_real(0.25));
    char *dir = make_job("guided", spec);
    run_expect(dir, 0);
    json_t *meta = metadata_of(dir), *t = json_object_get(meta, "train");
    ck_assert(ds_json_number(t, "trained_guidance", 0) == 1.75);
    ck_assert(ds_json_number(t, "trained_guidance_low", 0) == 0.25);
    json_decref(meta);
    verify_and_sample(dir, "guided");
    free(dir);
}
END_TEST

static void cases(TCase *tc) {
    feature_side = "171";
    fixture_make();
    undisturbed = make_job("patient", course_spec(2, 0));
    if (run_job(undisturbed)) {
        show_log(undisturbed);
        exit(1);
    }
    tcase_add_test(tc, patience_ends_a_job);
    tcase_add_test(tc, interruptions_change_nothing);
    tcase_add_loop_test(tc, time_ends_a_job, 0, 2);
    tcase_add_test(tc, a_job_without_them);
    tcase_add_test(tc, a_job_with_trained_guidance);
    tcase_add_test(tc, it_resumes_while_the_rate_falls); /* last: it takes the job apart */
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker course", cases);
}
