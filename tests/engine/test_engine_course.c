/* tests/engine/test_engine_course.c - a run with patience or max_time against numbers made by hand: its
 * rates, the look and the second at which they begin to fall, its end; resume across them, byte for byte. */
#include "tests/fixtures/engine_trainer.h"

static ds_train_options may_end(int steps, int patience, double max_time) {
    ds_train_options o = plain;
    o.steps = steps;
    o.patience = patience;
    o.max_time = max_time;
    o.cosine = 1;
    o.heldout_every = 4;
    return o;
}

static void expect_course(const ds_trainer *t, int from, int last, const char *ended) {
    const ds_train_course *c = ds_trainer_course(t);
    ck_assert_msg(c->from == from && c->last == last, "it falls from %d to %d, must from %d to %d",
                  c->from, c->last, from, last);
    ck_assert_pstr_eq(c->ended, ended);
}

/* Steps up to `done`, each at the rate that is next in want, as a share of 0.01. */
static void expect_rates(ds_trainer *t, int done, const double *want) {
    for (int i = 0; ds_trainer_done(t) < done; i++) {
        int at = ds_trainer_done(t);
        double is = step(t).lr;
        ck_assert_msg(fabs(is - 0.01 * want[i]) <= 1e-12, "step %d: rate %.15g, must be %.15g", at,
                      is, 0.01 * want[i]);
    }
}

/* ---------------------------------------------------------------- the rate */

/* Nothing ends it: warm-up over 4, whole over 12, and 0.5 (1 + cos(k pi / 4)) over the last fifth. */
START_TEST(a_run_that_nothing_ends) {
    static const double want[20] = {0.25, 0.5,
                                    0.75, 1,
                                    1,    1,
                                    1,    1,
                                    1,    1,
                                    1,    1,
                                    1,    1,
                                    1,    1,
                                    1,    0.853553390593274,
                                    0.5,  0.146446609406726};
    ds_train_options o = may_end(20, _i == 0, _i == 1 ? 1e6 : 0);
    o.warmup = 4;
    ds_trainer *t = trainer(&o);
    expect_course(t, 16, 20, NULL);
    expect_rates(t, 20, want);
    expect_course(t, 16, 20, NULL);
    ds_trainer_free(t);
}
END_TEST

/* A fifth of 4 steps is none: the rate never falls.  Of 5 it is one, which has the whole rate. */
START_TEST(a_run_of_few_steps) {
    static const double want[] = {1, 1, 1, 1, 1};
    for (int steps = 1; steps <= 5; steps++) {
        ds_train_options o = may_end(steps, 1, 0);
        ds_trainer *t = trainer(&o);
        expect_course(t, steps < 5 ? steps : 4, steps, NULL);
        expect_rates(t, steps, want);
        ds_trainer_free(t);
    }
}
END_TEST

/* ---------------------------------------------------------------- patience */

/* The best loss is of step 8; at 12 and 16 it is higher, which is 2 looks without a gain, although 16
 * is better than 12. */
START_TEST(patience_ends_it) {
    static const double losses[] = {1, 0.5, 0.7, 0.6},
                        flat[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                        fall[] = {1, 0.853553390593274, 0.5, 0.146446609406726};
    ds_train_options o = may_end(100, 2, 0);
    ds_trainer *t = trainer(&o);
    for (int k = 0; k < 4; k++) {
        expect_course(t, 80, 100, NULL);
        expect_rates(t, 4 * (k + 1), flat);
        ck_assert_int_eq(ds_trainer_look(t, losses[k]), k == 3);
    }
    expect_course(t, 16, 20, "patience");
    ck_assert_int_eq(ds_trainer_course(t)->waited, 2);
    expect_rates(t, 20, fall);
    ck_assert_int_eq(ds_trainer_look(t, 0.1), 0); /* that is over */
    expect_course(t, 16, 20, "patience");
    for (int i = 0; i < 3; i++) /* who goes on changes nothing */
        ck_assert(step(t).lr == 0);
    ds_trainer_free(t);
}
END_TEST

/* A gain begins the count anew; in the last fifth it falls anyway, and no look shortens it. */
START_TEST(gains_and_the_last_fifth) {
    static const double losses[] = {5, 6, 4, 6, 3, 6, 2, 6};
    ds_train_options o = may_end(40, 2, 0);
    ds_trainer *t = trainer(&o);
    for (int k = 0; k < 8; k++) {
        for (int i = 0; i < 4; i++)
            step(t);
        ck_assert_int_eq(ds_trainer_look(t, losses[k]), 0);
        expect_course(t, 32, 40, NULL);
    }
    ck_assert_int_eq(ds_trainer_look(t, 9), 0); /* step 32: the second look without a gain */
    ck_assert_int_eq(ds_trainer_look(t, 9), 0);
    expect_course(t, 32, 40, NULL);
    ds_trainer_free(t);
}
END_TEST

/* Step 2, a quarter of which is none: one step more.  Without patience a look says nothing. */
START_TEST(the_first_looks) {
    static const double one[] = {1};
    ds_train_options o = may_end(100, 1, 0);
    ds_trainer *t = trainer(&o);
    step(t);
    ck_assert_int_eq(ds_trainer_look(t, 1), 0); /* the first one is the best one */
    step(t);
    ck_assert_int_eq(ds_trainer_look(t, 2), 1);
    expect_course(t, 2, 3, "patience");
    expect_rates(t, 3, one);
    ds_trainer_free(t);
    o = may_end(100, 0, 1000);
    t = trainer(&o);
    for (int k = 0; k < 3; k++) {
        step(t);
        ck_assert_int_eq(ds_trainer_look(t, k), 0);
    }
    expect_course(t, 80, 100, NULL);
    ds_trainer_free(t);
    o = may_end(4, 1, 0); /* it falls, and ends where it would have ended */
    t = trainer(&o);
    for (int k = 0; k < 3; k++)
        step(t);
    ck_assert(!ds_trainer_look(t, 1) && ds_trainer_look(t, 1));
    expect_course(t, 3, 4, NULL);
    ds_trainer_free(t);
}
END_TEST

/* Cut short in the warm-up: both shares count.  0.9, then 1.0 * 0.5. */
START_TEST(it_falls_in_the_warm_up) {
    static const double ramp[] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}, fall[] = {0.9, 0.5};
    ds_train_options o = may_end(100, 1, 0);
    o.warmup = 10;
    ds_trainer *t = trainer(&o);
    expect_rates(t, 8, ramp);
    ds_trainer_look(t, 1);
    ck_assert_int_eq(ds_trainer_look(t, 1), 1);
    expect_course(t, 8, 10, "patience");
    expect_rates(t, 10, fall);
    ds_trainer_free(t);
}
END_TEST

/* ---------------------------------------------------------------- time */

/* Of 100 s the rate falls from 80 on, for a quarter of the steps, and at 110 it is over. */
START_TEST(time_ends_it) {
    static const double flat[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, fall[] = {1, 0.5};
    ds_train_options o = may_end(100, 0, 100);
    for (int late = 0; late < 2; late++) {
        ds_trainer *t = trainer(&o);
        ck_assert(ds_trainer_deadline(t) == 80);
        expect_rates(t, 10, flat);
        ck_assert_int_eq(ds_trainer_time(t, 79.9), 0);
        expect_course(t, 80, 100, NULL);
        ck_assert_int_eq(ds_trainer_time(t, 80), 1);
        expect_course(t, 10, 12, "time");
        ck_assert(fabs(ds_trainer_deadline(t) - 110) < 1e-9);
        ck_assert_int_eq(ds_trainer_time(t, 109), 0);
        expect_rates(t, late ? 11 : 12, fall);
        ck_assert_int_eq(ds_trainer_time(t, 111), late);
        expect_course(t, 10, late ? 11 : 12, "time");
        ck_assert(ds_trainer_deadline(t) == INFINITY);
        ds_trainer_free(t);
    }
}
END_TEST

/* A step that takes longer than all of it is the last one. */
START_TEST(time_is_over_at_once) {
    ds_train_options o = may_end(100, 0, 3);
    ds_trainer *t = trainer(&o);
    step(t);
    ck_assert_int_eq(ds_trainer_time(t, 50), 1);
    expect_course(t, 1, 1, "time");
    ck_assert_int_eq(ds_trainer_time(t, 60), 0);
    ds_trainer_free(t);
}
END_TEST

/* What falls already goes on to its end, unless the time is over before. */
START_TEST(patience_and_time) {
    ds_train_options o = may_end(100, 1, 100);
    for (int over = 0; over < 2; over++) {
        ds_trainer *t = trainer(&o);
        for (int i = 0; i < 8; i++)
            step(t);
        ds_trainer_look(t, 1);
        ck_assert_int_eq(ds_trainer_look(t, 1), 1);
        step(t);
        ck_assert_int_eq(ds_trainer_time(t, over ? 110.5 : 90), over);
        expect_course(t, 8, over ? 9 : 10, over ? "time" : "patience");
        ds_trainer_free(t);
    }
    o.patience = 0; /* the last fifth: from 80 s on it need not fall any more */
    o.steps = 10;
    ds_trainer *t = trainer(&o);
    for (int i = 0; i < 8; i++)
        step(t);
    ck_assert_int_eq(ds_trainer_time(t, 90), 0);
    expect_course(t, 8, 10, NULL);
    ds_trainer_free(t);
    ds_train_options never = plain;
    t = trainer(&never);
    ck_assert(ds_trainer_deadline(t) == INFINITY && !ds_trainer_time(t, 1e9) &&
              !ds_trainer_look(t, 1));
    ck_assert_int_eq(ds_trainer_course(t)->last, plain.steps);
    ds_trainer_free(t);
}
END_TEST

/* ---------------------------------------------------------------- resume */

/* As a job does it: a look every other step, where the clock is asked too. */
static void run(ds_trainer *t, int until) {
    while (ds_trainer_done(t) < ds_trainer_course(t)->last && ds_trainer_done(t) < until) {
        step(t);
        if (ds_trainer_done(t) % 2 == 0)
            ds_trainer_look(t, heldout(t));
    }
}

/* A rate at which the pictures, which are noise, are soon learned by heart: the held-out loss rises. */
static ds_train_options by_heart(void) {
    ds_train_options o = may_end(60, 2, 0);
    o.lr = 0.1;
    o.heldout = 5;
    o.heldout_every = 2;
    return o;
}

/* Stopped at every step: before it is decided, there, while it falls, at the end. */
START_TEST(resume_across_the_end_gives_the_same_bytes) {
    char path[PATH_MAX], whole[DS_HEX_SIZE], resumed[DS_HEX_SIZE];
    ds_train_options o = by_heart();
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "course");
    ds_trainer *t = trainer(&o);
    run(t, o.steps);
    result_digest(t, base, whole);
    const ds_train_course c = *ds_trainer_course(t);
    ck_assert_pstr_eq(c.ended, "patience");
    ck_assert_msg(c.from > 4 && c.from % 2 == 0 && c.last == c.from + c.from / 4, "%d, %d", c.from,
                  c.last);
    ck_assert_int_eq(ds_trainer_done(t), c.last);
    ds_trainer_free(t);
    for (int stop = 0; stop <= c.last; stop++) {
        t = trainer(&o);
        run(t, stop);
        ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
        ds_trainer_free(t);
        t = trainer(&o);
        ck_assert_int_eq(ds_trainer_load(t, path, NULL), 0);
        ck_assert_int_eq(ds_trainer_done(t), stop);
        run(t, o.steps);
        expect_course(t, c.from, c.last, "patience");
        ck_assert_int_eq(ds_trainer_done(t), c.last);
        result_digest(t, base, resumed);
        ds_trainer_free(t);
        ck_assert_msg(!strcmp(whole, resumed), "stopped at %d", stop);
    }
}
END_TEST

/* What the clock decided is kept, whatever the clock says after the resume. */
START_TEST(resume_keeps_what_time_decided) {
    char path[PATH_MAX];
    ds_train_options o = may_end(100, 0, 10);
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "time");
    ds_trainer *t = trainer(&o);
    for (int i = 0; i < 8; i++)
        step(t);
    ck_assert_int_eq(ds_trainer_time(t, 9), 1);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ds_trainer_free(t);
    t = trainer(&o);
    ck_assert_int_eq(ds_trainer_load(t, path, NULL), 0);
    expect_course(t, 8, 10, "time");
    ck_assert_int_eq(ds_trainer_time(t, 0), 0);
    expect_course(t, 8, 10, "time");
    ds_trainer_free(t);
}
END_TEST

/* ---------------------------------------------------------------- the file */

/* Metadata of the checkpoint at path; the file's bytes into *bytes. */
static ds_st *open_checkpoint(const char *path, char **bytes) {
    size_t n;
    ds_st *st;
    ds_error err;
    ck_assert_int_eq(ds_fs_read(path, 1 << 26, bytes, &n, NULL), 0);
    ck_assert_int_eq(ds_st_open_memory("checkpoint", *bytes, n - 64, &st, &err), 0);
    return st;
}

/* Of a run without the two options it is what it was before there were any. */
START_TEST(a_checkpoint_says_it_only_where_it_is_asked) {
    char path[PATH_MAX], *bytes;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "said");
    for (int open = 0; open < 2; open++) {
        ds_train_options o = may_end(20, open ? 3 : 0, open ? 0.5 : 0);
        ds_trainer *t = trainer(&o);
        step(t);
        ds_trainer_look(t, 0.25);
        ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
        ds_trainer_free(t);
        ds_st *st = open_checkpoint(path, &bytes);
        ck_assert_pstr_eq(
            ds_st_meta(st, "schedule"),
            open ? "steps=20 lr=0.01 warmup=0 cosine=1 patience=3 max_time=0.5 heldout_every=4"
                 : "steps=20 lr=0.01 warmup=0 cosine=1");
        ck_assert_pstr_eq(ds_st_meta(st, "course"),
                          open ? "from=16 last=20 waited=0 best=0.25 ended=steps" : NULL);
        ds_st_free(st);
        free(bytes);
    }
}
END_TEST

START_TEST(another_course_is_another_run) {
    char path[PATH_MAX];
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "other");
    ds_train_options mine = may_end(20, 3, 50);
    ds_trainer *t = trainer(&mine);
    step(t);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ds_trainer_free(t);
    for (int k = 0; k < 7; k++) {
        ds_train_options o = mine;
        switch (k) {
        case 0: o.patience = 4; break;
        case 1: o.max_time = 51; break;
        case 2: o.heldout_every = 5; break;
        case 3: o.patience = 0; break;
        case 4:
            o.patience = 0;
            o.max_time = 0;
            break;
        case 5: break;
        case 6: /* and where the clock alone may end it */
            mine.patience = 0;
            t = trainer(&mine);
            step(t);
            ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
            ck_assert_int_eq(ds_trainer_load(t, path, &err), 0);
            ds_trainer_free(t);
            o = mine;
            o.max_time = 51;
            break;
        }
        t = trainer(&o);
        int rc = ds_trainer_load(t, path, &err);
        ck_assert_msg(rc == (k == 5 ? 0 : DS_EINTEGRITY), "change %d: %d", k, rc);
        ds_trainer_free(t);
    }
}
END_TEST

/* The file is whole, and what it says of the course cannot be. */
START_TEST(a_course_that_cannot_be_is_refused) {
    static const char *const said[] = {"from=16 last=20 waited=1 best=0.5 ended=steps",
                                       NULL,
                                       "",
                                       "from=16 last=20",
                                       "from=16 last=21 waited=0 best=0.5 ended=steps",
                                       "from=17 last=16 waited=0 best=0.5 ended=time",
                                       "from=-1 last=16 waited=0 best=0.5 ended=time",
                                       "from=16 last=20 waited=-1 best=0.5 ended=steps"};
    char path[PATH_MAX], sha[DS_HEX_SIZE], *bytes, *made;
    size_t n;
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "course-2");
    ds_train_options o = may_end(20, 3, 0);
    ds_trainer *t = trainer(&o);
    step(t);
    ck_assert_int_eq(ds_trainer_save(t, path, NULL), 0);
    ds_st *st = open_checkpoint(path, &bytes);
    for (size_t k = 0; k < sizeof said / sizeof *said; k++) {
        static const char *const names[] = {"p", "m", "v", "ema"}, *const meta[] = {"step", "run",
                                                                                    "schedule"};
        ds_st_writer *w = ds_st_writer_new();
        for (int i = 0; i < 4; i++) {
            const ds_st_tensor *x = ds_st_find(st, names[i]);
            int64_t shape[1] = {(int64_t)x->count};
            ds_st_writer_add(w, names[i], DS_ST_F32, 1, shape, x->data);
        }
        for (int i = 0; i < 3; i++)
            ds_st_writer_meta(w, meta[i], ds_st_meta(st, meta[i]));
        if (said[k])
            ds_st_writer_meta(w, "course", said[k]);
        ck_assert_int_eq(ds_st_writer_finish(w, &made, &n, NULL), 0);
        ds_st_writer_free(w);
        ds_digest(made, n, sha);
        made = ds_xrealloc(made, n + 64);
        memcpy(made + n, sha, 64);
        ck_assert_int_eq(ds_fs_write(path, made, n + 64, NULL), 0);
        free(made);
        int rc = ds_trainer_load(t, path, &err);
        ck_assert_msg(rc == (k ? DS_EINTEGRITY : 0), "'%s': %d", said[k] ? said[k] : "none", rc);
        if (rc)
            ck_assert_msg(strstr(err.message, "does not say when its run ends") != NULL, "%s",
                          err.message);
    }
    ds_st_free(st);
    free(bytes);
    ds_trainer_free(t);
}
END_TEST

/* ---------------------------------------------------------------- a device that is a step ahead */

static char fetched_bytes[2][4096];

static void fetch(ds_device *d, int slot, const void *from, size_t bytes) {
    ck_assert_uint_le(bytes, sizeof fetched_bytes[0]);
    d->download(d, fetched_bytes[slot], from, bytes);
}

static void fetched(ds_device *d, int slot, void *to, size_t bytes) {
    (void)d;
    memcpy(to, fetched_bytes[slot], bytes);
}

/* It begins steps before they are asked for, but none past a look, and none past the end. */
START_TEST(no_step_begins_past_the_end) {
    char plain_digest[DS_HEX_SIZE], ahead[DS_HEX_SIZE];
    ds_train_options o = by_heart();
    ds_trainer *t = trainer(&o);
    run(t, o.steps);
    result_digest(t, base, plain_digest);
    int last = ds_trainer_course(t)->last, busy = 0;
    ds_trainer_free(t);
    dev->fetch = fetch;
    dev->fetched = fetched;
    t = trainer(&o);
    while (ds_trainer_done(t) < ds_trainer_course(t)->last) {
        int done = ds_trainer_done(t), decided = ds_trainer_course(t)->ended != NULL;
        ds_trainer_ahead(t, decided ? 1000000 : done / 2 * 2 + 2);
        step(t);
        busy += ds_trainer_busy(t);
        if (!ds_trainer_busy(t) && ds_trainer_done(t) % 2 == 0 && !decided)
            ds_trainer_look(t, heldout(t));
    }
    ck_assert_int_eq(ds_trainer_done(t), last);
    ck_assert(!ds_trainer_busy(t));
    ck_assert_int_gt(busy, last / 2 - 2);
    result_digest(t, base, ahead);
    ck_assert_str_eq(plain_digest, ahead);
    ds_trainer_free(t);
    dev->fetch = NULL;
    dev->fetched = NULL;
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_checked_fixture(tc, open_world, close_world);
    tcase_add_loop_test(tc, a_run_that_nothing_ends, 0, 2);
    tcase_add_test(tc, a_run_of_few_steps);
    tcase_add_test(tc, patience_ends_it);
    tcase_add_test(tc, gains_and_the_last_fifth);
    tcase_add_test(tc, the_first_looks);
    tcase_add_test(tc, it_falls_in_the_warm_up);
    tcase_add_test(tc, time_ends_it);
    tcase_add_test(tc, time_is_over_at_once);
    tcase_add_test(tc, patience_and_time);
    tcase_add_test(tc, resume_across_the_end_gives_the_same_bytes);
    tcase_add_test(tc, resume_keeps_what_time_decided);
    tcase_add_test(tc, a_checkpoint_says_it_only_where_it_is_asked);
    tcase_add_test(tc, another_course_is_another_run);
    tcase_add_test(tc, a_course_that_cannot_be_is_refused);
    tcase_add_test(tc, no_step_begins_past_the_end);
}

int main(void) { return ds_test_main("engine course", cases); }
