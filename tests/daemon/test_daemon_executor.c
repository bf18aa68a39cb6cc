/* tests/daemon/test_daemon_executor.c - a slot and the workers with an executor that is none: no process runs,
 * and each answer that the contract of daemon/jobs/executor.h allows is given on purpose. */
#include "daemon/care/prune.h"
#include "daemon/jobs/local.h"
#include "daemon/jobs/slot.h"
#include "daemon/jobs/workers.h"
#include "tests/fixtures/registry_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

/* Seconds that the clock is ahead: waits of the daemon end at once. */
static int ahead;

int clock_gettime(clockid_t id, struct timespec *t) {
    int rc = (int)syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_MONOTONIC)
        t->tv_sec += ahead;
    return rc;
}

/* ---- the executor ---- */

static struct {
    ds_executor ops;
    int start_code;        /* what start gives; 0: it runs */
    const char *says;      /* .. and its words */
    int dies;              /* its end comes with the next turn of the loop ... */
    int exit_code, signal; /* ... and is this */
    ds_launch launch;
    uv_timer_t end;
    char runs[DS_IDENTITY_SIZE]; /* what poll knows; "" = nothing */
    int starts, stops, kills, strays, forgotten;
} fake;

static void on_end(uv_timer_t *t) {
    (void)t;
    *fake.runs = 0;
    fake.launch.on_exit(fake.launch.ctx, fake.exit_code, fake.signal);
}

static int fake_start(ds_executor *x, const ds_launch *l, ds_process *out, ds_error *err) {
    ck_assert_ptr_eq(x, &fake.ops);
    fake.starts++;
    if (fake.start_code)
        return ds_fail(err, fake.start_code, "%s", fake.says ? fake.says : "the cluster says no");
    snprintf(out->identity, sizeof out->identity, "fake:%d", fake.starts);
    snprintf(fake.runs, sizeof fake.runs, "%s", out->identity);
    fake.launch = *l;
    if (fake.dies)
        uv_timer_start(&fake.end, on_end, 0, 0);
    return 0;
}

static void fake_signal(ds_executor *x, const char *identity, enum ds_exec_signal what) {
    (void)x;
    if (strcmp(identity, fake.runs) != 0)
        fake.strays++;
    else if (what == DS_EXEC_KILL)
        fake.kills++;
    else
        fake.stops++;
}

static enum ds_exec_state fake_poll(ds_executor *x, const char *identity) {
    (void)x;
    return strcmp(identity, fake.runs) ? DS_EXEC_GONE : DS_EXEC_RUNS;
}

static void fake_forget(ds_executor *x, const char *identity) {
    (void)x;
    ck_assert_str_eq(identity, fake.runs);
    fake.forgotten++;
}

/* ---- a daemon that has nothing but jobs ---- */

static ds_daemon d;
static char state[PATH_MAX];
static int abandoned;

static void no_work(uv_timer_t *t) { (void)t; }

static void on_abandoned(void *ctx, const ds_job *job, const ds_process *process) {
    ck_assert_ptr_eq(ctx, &abandoned);
    ck_assert(job->id > 0);
    ck_assert_str_eq(process->identity, fake.runs);
    abandoned++;
}

static void setup(void) {
    char jobs[PATH_MAX];
    snprintf(state, sizeof state, "%s", fx_dir("state"));
    d = (ds_daemon){.registry = fx_open(state), .on_work = no_work, .executor = &fake.ops};
    memcpy(d.o.state, state, sizeof state);
    ds_fs_join(jobs, sizeof jobs, state, "jobs");
    MUST(ds_fs_mkdirs(jobs, err));
    memset(&fake, 0, sizeof fake);
    fake.ops = (ds_executor){fake_start, fake_signal, fake_poll, fake_forget};
    abandoned = 0;
    ck_assert(!uv_loop_init(&d.loop) && !uv_timer_init(&d.loop, &d.work) &&
              !uv_timer_init(&d.loop, &fake.end));
}

static void teardown(void) {
    uv_close((uv_handle_t *)&d.work, NULL);
    uv_close((uv_handle_t *)&fake.end, NULL);
    uv_run(&d.loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&d.loop), 0);
    ds_registry_close(d.registry);
}

static int64_t add_import(int max_attempts) {
    int64_t id;
    json_t *payload = fx_json("{\"what\":\"base\",\"source\":\"/models/x\",\"name\":\"x\"}");
    MUST(ds_job_add(d.registry, DS_JOB_IMPORT, "x", payload, max_attempts, &id, err));
    json_decref(payload);
    return id;
}

static ds_slot new_slot(void) {
    return (ds_slot){.d = &d,
                     .kinds = DS_KIND_BIT(DS_JOB_IMPORT),
                     .on_abandoned = on_abandoned,
                     .ctx = &abandoned};
}

static ds_job job_row(int64_t id) {
    ds_job j;
    MUST(ds_job_read(d.registry, id, &j, err));
    return j;
}

static void start_in(ds_slot *s, int64_t id) {
    MUST(ds_job_claim(d.registry, id, err));
    ds_job j = job_row(id);
    ds_slot_start(s, &j);
}

static void turn_until(const ds_slot *s, enum ds_slot_phase phase) {
    for (int i = 0; i < 500 && s->phase != phase; i++) {
        uv_run(&d.loop, UV_RUN_NOWAIT);
        usleep(2000);
    }
    ck_assert_int_eq(s->phase, phase);
}

static json_t *error_of(int64_t id) {
    json_t *o = NULL;
    MUST(ds_job_get(d.registry, id, &o, err));
    json_t *e = json_incref(json_object_get(o, "error"));
    json_decref(o);
    return e;
}

/* ---- cases ---- */

/* What may go by itself is waited for; anything else is an attempt. */
START_TEST(start_fails) {
    static const struct {
        int code, postponed, attempts;
    } cases[] = {{DS_EBUSY, 1, 0}, {DS_EFAILED, 0, 1}};
    int64_t id = add_import(3);
    ds_slot s = new_slot();
    fake.start_code = cases[_i].code;
    start_in(&s, id);
    turn_until(&s, DS_SLOT_FREE);
    ds_job j = job_row(id);
    ck_assert_int_eq(j.state, DS_JOB_QUEUED);
    ck_assert_int_eq(j.postponed, cases[_i].postponed);
    ck_assert_int_eq(j.attempts, cases[_i].attempts);
    ck_assert_str_eq(j.process.identity, "");
    json_t *e = error_of(id);
    ck_assert_str_eq(fx_string(e, "message"), "the cluster says no");
    ck_assert_str_eq(fx_string(e, "code"), ds_error_name(cases[_i].code));
    json_decref(e);
    ck_assert(fake.starts == 1 && !fake.stops && !fake.kills && !fake.strays);
}
END_TEST

/* Its end is there before anybody has looked at it. */
START_TEST(dies_at_once) {
    static const struct {
        int exit_code, signal;
        enum ds_job_state state;
    } cases[] = {{-1, 9, DS_JOB_QUEUED}, {DS_EXIT_BAD, 0, DS_JOB_FAILED}};
    int64_t id = add_import(3);
    ds_slot s = new_slot();
    fake.dies = 1;
    fake.exit_code = cases[_i].exit_code;
    fake.signal = cases[_i].signal;
    start_in(&s, id);
    turn_until(&s, DS_SLOT_FREE);
    ds_job j = job_row(id);
    ck_assert_int_eq(j.state, cases[_i].state);
    ck_assert_int_eq(j.attempts, 1);
    ck_assert_str_eq(j.process.identity, ""); /* nothing runs any more */
    ck_assert(fake.starts == 1 && !fake.strays && !fake.forgotten);
}
END_TEST

/* The row has the text, and people see no number where there is none. */
START_TEST(what_the_row_has) {
    int64_t id = add_import(3);
    json_t *o = NULL;
    ds_slot s = new_slot();
    start_in(&s, id);
    turn_until(&s, DS_SLOT_RUNNING);
    ds_job j = job_row(id);
    ck_assert_str_eq(j.process.identity, "fake:1");
    ck_assert_int_eq(j.process.pid, 0);
    MUST(ds_job_get(d.registry, id, &o, err));
    ck_assert(json_is_null(json_object_get(o, "pid")));
    json_decref(o);
    ds_slot_cancel(&s);
    ck_assert_int_eq(fake.stops, 1);
    fake.exit_code = DS_EXIT_CANCELLED;
    on_end(NULL);
    turn_until(&s, DS_SLOT_FREE);
    ck_assert_int_eq(job_row(id).state, DS_JOB_CANCELLED);
}
END_TEST

/* It takes every signal and stays: the slot is given up, the row is not. */
START_TEST(hangs) {
    int64_t id = add_import(3);
    ds_slot s = new_slot();
    start_in(&s, id);
    turn_until(&s, DS_SLOT_RUNNING);
    ds_slot_stop(&s, 1);
    ck_assert(fake.stops == 1 && fake.kills == 1);
    for (int i = 0; i < 100 && s.phase != DS_SLOT_FREE; i++) {
        ds_slot_tick(&s);
        ck_assert(fake.forgotten == (s.phase == DS_SLOT_FREE));
        usleep(50000);
    }
    ck_assert_int_eq(s.phase, DS_SLOT_FREE);
    ck_assert(fake.forgotten == 1 && abandoned == 1 && !fake.strays);
    ds_job j = job_row(id);
    ck_assert_int_eq(j.state, DS_JOB_RUNNING);
    ck_assert_str_eq(j.process.identity, "fake:1");
}
END_TEST

/* The next daemon: 0, it is there and is asked to stop; 1, the number is another's by now, which is
 * left alone.  Either way the job goes back into the queue once nothing of it runs. */
START_TEST(after_a_restart) {
    int64_t id = add_import(3);
    ds_process p = {"fake:7", 0};
    ds_workers *w = NULL;
    MUST(ds_job_claim(d.registry, id, err));
    MUST(ds_job_process(d.registry, id, &p, err));
    ds_registry_close(d.registry);
    d.registry = fx_open(state);
    ck_assert_int_eq(job_row(id).state, DS_JOB_RUNNING); /* the registry cannot know */
    snprintf(fake.runs, sizeof fake.runs, "%s", _i ? "fake:7 of somebody else" : "fake:7");
    MUST(ds_workers_open(&w, &d, err));
    ck_assert_int_eq(ds_workers_busy(w), 1);
    ck_assert(fake.stops == !_i && fake.strays == _i && !fake.kills);
    if (!_i) {
        uv_run(&d.loop, UV_RUN_ONCE); /* a poll: it is there still */
        ck_assert(ds_workers_busy(w) == 1 && job_row(id).state == DS_JOB_RUNNING);
        *fake.runs = 0;
    }
    for (int i = 0; i < 20 && ds_workers_busy(w); i++)
        uv_run(&d.loop, UV_RUN_ONCE);
    ck_assert_int_eq(ds_workers_busy(w), 0);
    ds_job j = job_row(id);
    ck_assert_int_eq(j.state, DS_JOB_QUEUED);
    ck_assert_int_eq(j.attempts, 0);
    ck_assert_int_eq(fake.starts, 0);
    ds_workers_close(w);
}
END_TEST

/* Words that are longer than their place are cut between two characters. */
START_TEST(words_are_cut_whole) {
    char words[2000] = "x";
    int64_t id = add_import(3);
    ds_slot s = new_slot();
    for (size_t i = (size_t)_i; i + 2 < sizeof words; i += 2)
        memcpy(words + i, "\u00e9", 3);
    fake.start_code = DS_EFAILED;
    fake.says = words;
    start_in(&s, id);
    turn_until(&s, DS_SLOT_FREE);
    json_t *e = error_of(id);
    const char *text = fx_string(e, "message");
    size_t n = strlen(text);
    ck_assert_uint_gt(n, 200);
    ck_assert_mem_eq(text, words, n); /* no '?' of half a character either */
    ck_assert_uint_eq((n - (size_t)_i) % 2, 0);
    json_decref(e);
}
END_TEST

static void poll_once(void) {
    ahead++; /* the next poll is due */
    uv_run(&d.loop, UV_RUN_ONCE);
}

/* A worker of the daemon before that does not end when it is asked to is killed after 15 seconds,
 * once. */
START_TEST(a_deaf_worker_of_before) {
    int64_t id = add_import(3);
    ds_process p = {"fake:7", 0};
    ds_workers *w = NULL;
    MUST(ds_job_claim(d.registry, id, err));
    MUST(ds_job_process(d.registry, id, &p, err));
    snprintf(fake.runs, sizeof fake.runs, "fake:7");
    MUST(ds_workers_open(&w, &d, err));
    ahead += 13;
    poll_once();
    ck_assert(fake.stops == 1 && !fake.kills && ds_workers_busy(w) == 1);
    ahead += 3;
    poll_once();
    ck_assert(fake.stops == 1 && fake.kills == 1 && ds_workers_busy(w) == 1);
    ahead += 60;
    poll_once();
    ck_assert(fake.kills == 1 && ds_workers_busy(w) == 1 && !fake.strays);
    ck_assert_int_eq(job_row(id).state, DS_JOB_RUNNING);
    *fake.runs = 0;
    /* while another program holds the lock of the registry nothing can be written: later */
    sqlite3 *other;
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, state, "registry.db");
    ck_assert_int_eq(sqlite3_open(path, &other), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    ds_registry_patience(d.registry, 10);
    poll_once();
    ck_assert(ds_workers_busy(w) == 1 && job_row(id).state == DS_JOB_RUNNING);
    ck_assert_int_eq(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    poll_once();
    ck_assert_int_eq(ds_workers_busy(w), 0);
    ds_job j = job_row(id);
    ck_assert(j.state == DS_JOB_QUEUED && j.attempts == 0);
    ds_workers_close(w);
}
END_TEST

/* One that takes even SIGKILL: its slot is free for others, its job is not until it is gone. */
START_TEST(a_worker_that_is_given_up) {
    int64_t id = add_import(3), other;
    int running = 0;
    ds_workers *w = NULL;
    ds_running list[4];
    MUST(ds_workers_open(&w, &d, err));
    ds_workers_run(w);
    for (int i = 0; i < 500 && !*fake.runs; i++) {
        uv_run(&d.loop, UV_RUN_NOWAIT);
        usleep(2000);
    }
    uv_run(&d.loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(ds_workers_running(w, list, 4), 1);
    ck_assert(list[0].job == id && list[0].kind == DS_JOB_IMPORT && list[0].pid == 0);
    MUST(ds_job_cancel(d.registry, id, &running, err));
    ck_assert_int_eq(running, 1);
    ds_workers_run(w); /* sees it in the registry */
    ck_assert(fake.stops == 1 && !fake.kills);
    ahead += 14;
    ds_workers_tick(w);
    ck_assert_int_eq(fake.kills, 0);
    ahead += 2;
    ds_workers_tick(w);
    ck_assert_int_eq(fake.kills, 1);
    ck_assert_int_eq(fake.forgotten, 0);
    ahead += 4;
    ds_workers_tick(w);
    ck_assert_int_eq(fake.forgotten, 1);
    ck_assert_int_eq(ds_workers_running(w, list, 4), 0);
    ck_assert_int_eq(ds_workers_busy(w), 1); /* it is waited for */
    ck_assert_int_eq(job_row(id).state, DS_JOB_RUNNING);
    ahead += 60;
    poll_once();
    ck_assert_int_eq(fake.kills, 1); /* no signal does more */
    ck_assert_int_eq(ds_workers_busy(w), 1);
    ck_assert_int_eq(job_row(id).state, DS_JOB_RUNNING);
    *fake.runs = 0;
    poll_once();
    ck_assert_int_eq(ds_workers_busy(w), 0);
    ck_assert_int_eq(job_row(id).state, DS_JOB_CANCELLED);
    other = add_import(3); /* after its end nothing starts */
    ds_workers_stop(w, 0);
    ds_workers_run(w);
    ck_assert(fake.starts == 1 && job_row(other).state == DS_JOB_QUEUED);
    ds_workers_close(w);
}
END_TEST

/* While models are removed no import begins, since it might bring one of the same name. */
START_TEST(no_import_while_models_go) {
    int64_t id = add_import(3);
    ds_workers *w = NULL;
    MUST(ds_workers_open(&w, &d, err));
    d.removing = 1;
    ds_workers_run(w);
    ck_assert_int_eq(ds_workers_busy(w), 0);
    ck_assert_int_eq(job_row(id).state, DS_JOB_QUEUED);
    d.removing = 0;
    ds_workers_run(w);
    ck_assert_int_eq(ds_workers_busy(w), 1);
    ck_assert_int_eq(job_row(id).state, DS_JOB_RUNNING);
    fake.dies = 1;
    for (int i = 0; i < 500 && !*fake.runs; i++) {
        uv_run(&d.loop, UV_RUN_NOWAIT);
        usleep(2000);
    }
    for (int i = 0; i < 500 && ds_workers_busy(w); i++) {
        uv_run(&d.loop, UV_RUN_NOWAIT);
        usleep(2000);
    }
    ck_assert_int_eq(ds_workers_busy(w), 0);
    ds_workers_close(w);
}
END_TEST

/* Some minutes after the start, and a day after each time: what nobody needs goes, and is told. */
START_TEST(what_goes_every_day) {
    static const struct {
        unsigned tick;
        int goes; /* -1: there is nothing, of which nothing is said */
    } ticks[] = {{299, 0}, {300, 1}, {301, 0}, {86400, 0}, {86700, 1}, {173100, -1}};
    char path[PATH_MAX], log[PATH_MAX], *text;
    size_t n;
    ds_fs_join(path, sizeof path, state, "backups/half.db.tmp");
    ds_fs_join(log, sizeof log, state, "log");
    char folder[PATH_MAX];
    ds_fs_join(folder, sizeof folder, state, "backups");
    MUST(ds_fs_mkdirs(folder, err));
    for (int i = 0; i < 6; i++) {
        MUST(ds_fs_write(path, "half", 4, err));
        ck_assert_int_eq(utimensat(AT_FDCWD, path, (struct timespec[2]){{1, 0}, {1, 0}}, 0), 0);
        if (ticks[i].goes < 0)
            unlink(path);
        int saved = dup(2), to = open(log, O_RDWR | O_CREAT | O_TRUNC, 0600);
        dup2(to, 2);
        d.ticks = ticks[i].tick;
        ds_prune_tick(&d);
        for (int k = 0; k < 500 && d.tidying; k++) {
            uv_run(&d.loop, UV_RUN_NOWAIT);
            usleep(2000);
        }
        dup2(saved, 2);
        close(saved);
        close(to);
        ck_assert_int_eq(d.tidying, 0);
        ck_assert_int_eq(ds_fs_exists(path), !ticks[i].goes);
        MUST(ds_fs_read(log, 1 << 16, &text, &n, err));
        ck_assert_msg(!strstr(text, "pruned 0 jobs, 0 events, 0 job folders, 0 with checkpoints, 0 "
                                    "caches, 1 left-over files") == (ticks[i].goes < 1),
                      "%u: %s", ticks[i].tick, text);
        ck_assert_int_eq(strstr(text, "pruned") != NULL, ticks[i].goes > 0);
        free(text);
    }
}
END_TEST

/* ---- the executor of this machine ---- */

static void on_local_end(void *ctx, int exit_code, int signal) {
    ck_assert_int_eq(exit_code, -1);
    *(int *)ctx = signal;
}

/* A child that sleeps for a minute; *end: the signal that ended it. */
static ds_executor *start_sleeper(ds_process *p, int *end) {
    char self[PATH_MAX + 8];
    ds_fs_join(self, sizeof self, state, "self");
    MUST(ds_fs_write(self, "#!/bin/sh\nexec sleep 60\n", 24, err));
    ck_assert_int_eq(chmod(self, 0700), 0);
    ds_local_options o = {.self = self, .worker = "worker"};
    ds_executor *x = ds_local_new(&d.loop, &o);
    ds_launch l = {.dir = state, .on_exit = on_local_end, .ctx = end};
    MUST(x->start(x, &l, p, err));
    return x;
}

/* Without a free descriptor nothing can be read from /proc; a child of its own is there all the
 * same, and hears what it is told.  _i: what it is told. */
START_TEST(own_children_without_proc) {
    struct rlimit limit, none;
    int end = 0;
    ds_process p;
    ds_executor *x = start_sleeper(&p, &end);
    getrlimit(RLIMIT_NOFILE, &limit);
    none = limit;
    none.rlim_cur = 0;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
    enum ds_exec_state seen = x->poll(x, p.identity);
    x->signal(x, p.identity, _i ? DS_EXEC_KILL : DS_EXEC_STOP);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    for (int i = 0; i < 500 && !end; i++) {
        uv_run(&d.loop, UV_RUN_NOWAIT);
        usleep(2000);
    }
    kill((pid_t)p.pid, SIGKILL); /* where it has heard nothing */
    ck_assert_int_eq(end, _i ? SIGKILL : SIGTERM);
    ck_assert_int_eq(seen, DS_EXEC_RUNS);
    ck_assert_int_eq(x->poll(x, p.identity), DS_EXEC_GONE);
    uv_run(&d.loop, UV_RUN_NOWAIT);
    ds_local_free(x);
}
END_TEST

/* One that is given up is asked about until it is gone, and then it is nobody's zombie; the end of
 * it is told to nobody. */
START_TEST(a_child_that_is_forgotten) {
    int end = 0, status;
    siginfo_t info;
    ds_process p;
    ds_executor *x = start_sleeper(&p, &end);
    x->forget(x, p.identity);
    uv_run(&d.loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(x->poll(x, p.identity), DS_EXEC_RUNS);
    kill((pid_t)p.pid, SIGSTOP);
    ck_assert(!waitid(P_PID, (id_t)p.pid, &info, WSTOPPED | WNOWAIT));
    ck_assert_int_eq(x->poll(x, p.identity), DS_EXEC_HALTED);
    x->signal(x, p.identity, DS_EXEC_KILL);
    ck_assert(!waitid(P_PID, (id_t)p.pid, &info, WEXITED | WNOWAIT));
    uv_run(&d.loop, UV_RUN_NOWAIT);
    ck_assert_int_eq(x->poll(x, p.identity), DS_EXEC_GONE);
    ck_assert_int_eq(waitpid((pid_t)p.pid, &status, WNOHANG), -1); /* it was waited for */
    ck_assert_int_eq(x->poll(x, p.identity), DS_EXEC_GONE);
    ck_assert_int_eq(end, 0);
    ds_local_free(x);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, a_child_that_is_forgotten);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, start_fails, 0, 2);
    tcase_add_loop_test(tc, dies_at_once, 0, 2);
    tcase_add_test(tc, what_the_row_has);
    tcase_add_test(tc, hangs);
    tcase_add_loop_test(tc, after_a_restart, 0, 2);
    tcase_add_loop_test(tc, own_children_without_proc, 0, 2);
    tcase_add_loop_test(tc, words_are_cut_whole, 0, 2);
    tcase_add_test(tc, a_deaf_worker_of_before);
    tcase_add_test(tc, a_worker_that_is_given_up);
    tcase_add_test(tc, no_import_while_models_go);
    tcase_add_test(tc, what_goes_every_day);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("daemon_executor", cases);
}
