/* cli/commands/cmd_add.c - add-dataset: register, wait a moment for the scan, optionally follow the
 * training.
 *
 * The command returns within a second: the daemon has committed the row before it answers, so all
 * that follows is comfort.
 */
#include "base/log.h"
#include "base/mem.h"
#include "contract/job.h"
#include "cli/bars.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/start.h"
#include "contract/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const double SCAN_PATIENCE = 0.7, JOB_PATIENCE = 0.15, SCAN_POLL = 0.03;

/* "q,k" -> ["q","k"] */
static json_t *split_commas(const char *s) {
    json_t *list = json_array();
    for (;; s++) {
        size_t n = strcspn(s, ",");
        json_array_append_new(list, json_stringn(s, n));
        s += n;
        if (!*s)
            return list;
    }
}

/* What an option that is given says in the request. */
static json_t *value_of(const ds_cli *c, const ds_option *o) {
    switch (o->type) {
    case DS_OPTION_BOOL: return json_boolean(strcmp(o->otherwise, "true") != 0);
    case DS_OPTION_INT:
    case DS_OPTION_SEED: return json_integer((json_int_t)ds_opt_number(c, o->flag, 0));
    case DS_OPTION_NUM: return json_real(ds_opt_number(c, o->flag, 0));
    case DS_OPTION_LIST: return split_commas(ds_opt_text(c, o->flag, ""));
    case DS_OPTION_ENUM:
    case DS_OPTION_DEVICE: return json_string(ds_opt_text(c, o->flag, ""));
    }
    return NULL;
}

/* The options of a training (contract/options.def) that are given. */
static json_t *given_options(const ds_cli *c) {
    json_t *options = json_object();
    for (const ds_option *o = ds_option_table; o->name; o++)
        if (ds_opt_given(c, o->flag))
            json_object_set_new(options, o->name, value_of(c, o));
    return options;
}

static int make_request(ds_cli *c, json_t **request, ds_error *err) {
    const char *dir = c->args[0];
    struct stat st;
    if (stat(dir, &st))
        return ds_fail_errno(err, "cannot add '%s'", dir);
    if (!S_ISDIR(st.st_mode))
        return ds_fail(err, DS_EINVAL,
                       "cannot add '%s': it is a file; give the folder that holds "
                       "the images",
                       dir);
    char *full = realpath(dir, NULL);
    if (!full)
        return ds_fail_errno(err, "cannot add '%s'", dir);
    json_t *r = json_object();
    json_t *path = json_string(full);
    free(full);
    if (!path) { /* jansson refuses text that is not UTF-8 */
        json_decref(r);
        return ds_fail(err, DS_EINVAL, "cannot add '%s': its path is not UTF-8; rename it", dir);
    }
    json_object_set_new(r, "path", path);
    if (ds_opt_given(c, "name"))
        json_object_set_new(r, "name", json_string(ds_opt_text(c, "name", "")));
    if (ds_opt_given(c, "base"))
        json_object_set_new(r, "base", json_string(ds_opt_text(c, "base", "")));
    if (ds_opt_given(c, "feature-net"))
        json_object_set_new(r, "feature_net", json_string(ds_opt_text(c, "feature-net", "")));
    if (ds_opt_given(c, "method"))
        json_object_set_new(r, "method", json_string(ds_opt_text(c, "method", "")));
    json_t *options = given_options(c);
    if (json_object_size(options))
        json_object_set(r, "options", options);
    json_decref(options);
    if (ds_opt_given(c, "no-watch"))
        json_object_set_new(r, "watch", json_false());
    if (ds_opt_given(c, "publish-worse"))
        json_object_set_new(r, "publish_worse", json_true());
    *request = r;
    return 0;
}

static const char *scan_state(const json_t *d) {
    return ds_json_string(json_object_get(d, "scan"), "state", "");
}

/* The scan that the POST asked for: the daemon says "queued" for as long as one is owed. */
static int scan_over(const json_t *d) {
    const char *s = scan_state(d);
    return !strcmp(s, DS_WORD_DONE) || !strcmp(s, DS_WORD_FAILED);
}

static int get_dataset(ds_cli *c, const char *name, json_t **d, ds_error *err) {
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/datasets/");
    ds_url_segment(&path, name);
    int rc = ds_client_call(c->http, "GET", path.data, NULL, d, err);
    ds_buf_release(&path);
    return rc;
}

/* What only the answer to the request says, and not a later look at the dataset. */
static void keep_answer(const json_t *was, json_t *now) {
    static const char *const keys[] = {"changes", "trained_anew"};
    json_t *notes = json_object_get(was, "notes"), *have = json_object_get(now, "notes"), *a, *b;
    size_t i, k;
    for (i = 0; i < sizeof keys / sizeof *keys; i++)
        json_object_set(now, keys[i], json_object_get(was, keys[i]));
    json_array_foreach(notes, i, a) {
        int known = 0;
        json_array_foreach(have, k, b)
            known |= json_equal(a, b);
        if (!known)
            json_array_append(have, a);
    }
}

/* Replaces *d until its scan is over or `deadline` (0: none) passes; a lost daemon is no error here
 * unless we wait without end. */
static int wait_scan(ds_cli *c, json_t **d, double deadline, ds_error *err) {
    char *name = ds_xstrdup(ds_json_string(*d, "name", ""));
    double pause = SCAN_POLL;
    int rc = 0;
    while (!rc && !scan_over(*d) && !(deadline > 0 && ds_monotonic() > deadline)) {
        json_t *now = NULL;
        if ((rc = ds_cli_sleep(pause, err)) || (rc = get_dataset(c, name, &now, err)))
            break;
        keep_answer(*d, now);
        json_decref(*d);
        *d = now;
        pause = fmin(0.3, ds_monotonic() - c->started > 2 ? pause * 1.5 : SCAN_POLL);
    }
    free(name);
    return rc;
}

static int64_t version_of(const json_t *d) {
    return ds_json_int(json_object_get(d, "version"), "version", 0);
}

/* The newest training of the dataset's version (0: of any); 0: none (yet).  Those up to `old` count
 * only while they run.  *state needs 16 bytes. */
static int64_t training_job(ds_cli *c, const json_t *d, int64_t version, int64_t old, char *state) {
    ds_buf path = {0};
    json_t *answer = NULL, *job;
    int64_t id = 0;
    size_t i;
    ds_buf_addf(&path, "/v1/jobs?kind=train&limit=5");
    ds_url_query(&path, "dataset", ds_json_string(d, "name", ""));
    ds_client_call(c->http, "GET", path.data, NULL, &answer, NULL);
    ds_buf_release(&path);
    json_array_foreach(json_object_get(answer, "items"), i, job) {
        if (version && ds_json_int(job, "dataset_version", 0) != version)
            continue;
        if (ds_json_int(job, "id", 0) > old || !ds_job_finished(job)) {
            id = ds_json_int(job, "id", 0);
            snprintf(state, 16, "%s", ds_json_string(job, "state", ""));
        }
        break;
    }
    json_decref(answer);
    return id;
}

/* Is there still a training to come that is published whatever it is?  *d is brought up to date. */
static int wish_waits(ds_cli *c, json_t **d) {
    json_t *now = NULL;
    if (!get_dataset(c, ds_json_string(*d, "name", ""), &now, NULL)) {
        keep_answer(*d, now);
        json_decref(*d);
        *d = now;
    }
    return ds_json_bool(*d, "publish_worse", 0);
}

/* A training of this version that is under way or over.  A failed or cancelled one is about to get
 * a successor (adding again asks for it), so it counts only when none comes; and so is one that was
 * over before a worse version was asked for (old, else 0), unless there was nothing to force. */
static int64_t await_job(ds_cli *c, json_t **d, double patience, int64_t old, char *state) {
    double end = ds_monotonic() + patience;
    int asked = ds_opt_given(c, "publish-worse");
    for (;;) {
        int64_t id = training_job(c, *d, version_of(*d), old, state);
        int s = ds_job_state_parse(state);
        int settled = id && s != DS_JOB_FAILED && s != DS_JOB_CANCELLED;
        if (settled || ds_monotonic() > end || ds_cli_sleep(SCAN_POLL, NULL))
            return id;
        if (asked && !id && !wish_waits(c, d))
            return training_job(c, *d, version_of(*d), old, state); /* it may be over already */
    }
}

/* What became of --publish-worse. */
static void tell_wish(ds_cli *c, json_t **d, int64_t job) {
    if (!ds_opt_given(c, "publish-worse") || c->quiet || c->json)
        return;
    int waits = !job && (!scan_over(*d) || wish_waits(c, d));
    const char *name = ds_json_string(*d, "name", "");
    if (job)
        ds_say(c, "--publish-worse: job %lld is published even if it is worse; this counts once",
               (long long)job);
    else if (waits)
        ds_say(c,
               "--publish-worse: the next version of %s is published even if it is worse; this "
               "counts once",
               name);
    else
        ds_say(
            c,
            "--publish-worse: nothing to force: %s needs no training, and its newest version was "
            "not refused for being worse",
            name);
}

static int unchanged(const json_t *d) {
    return ds_json_bool(json_object_get(d, "scan"), "unchanged", 0);
}

static int scan_error(const json_t *d, ds_error *err) {
    const json_t *e = json_object_get(d, "error");
    int code = ds_error_from_name(ds_json_string(e, "code", "DS_EINVAL"));
    return ds_fail(
        err, code, "cannot use dataset '%s': %s", ds_json_string(d, "name", ""),
        ds_json_string(e, "message", json_is_string(e) ? json_string_value(e) : "its scan failed"));
}

static void say_counts(ds_cli *c, const json_t *d, ds_buf *out) {
    const json_t *v = json_object_get(d, "version");
    char images[DS_TEXT], classes[DS_TEXT], rejected[DS_TEXT];
    int64_t k = ds_json_int(v, "classes", 0), bad = ds_json_int(v, "rejected", 0);
    (void)c;
    int64_t n = ds_json_int(v, "images", 0);
    ds_buf_addf(out, "%s image%s in %s class%s (v%lld)", ds_fmt_count(images, n), n == 1 ? "" : "s",
                ds_fmt_count(classes, k), k == 1 ? "" : "es", (long long)version_of(d));
    if (bad)
        ds_buf_addf(out, ", %s file%s left out (dsctl show-dataset %s --rejected)",
                    ds_fmt_count(rejected, bad), bad == 1 ? "" : "s",
                    ds_json_string(d, "name", ""));
}

static void add_value(ds_buf *b, const json_t *v, int is_default) {
    if (!v || json_is_null(v)) {
        ds_buf_addf(b, "the default");
        return;
    }
    if (json_is_string(v))
        ds_buf_addf(b, "%s", json_string_value(v));
    else if (json_is_number(v))
        ds_buf_addf(b, "%.10g", json_number_value(v));
    else {
        char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
        ds_buf_addf(b, "%s", text ? text : "?");
        free(text);
    }
    if (is_default)
        ds_buf_addf(b, " (default)");
}

/* "rank 8 (default) -> 4, steps 900 -> 400" */
static void add_changes(ds_buf *b, const json_t *changes) {
    size_t i;
    const json_t *c;
    json_array_foreach((json_t *)(uintptr_t)changes, i, c) {
        ds_buf_addf(b, "%s%s ", i ? ", " : "", ds_json_string(c, "option", "?"));
        add_value(b, json_object_get(c, "from"), ds_json_bool(c, "from_default", 0));
        ds_buf_addf(b, " -> ");
        add_value(b, json_object_get(c, "to"), ds_json_bool(c, "to_default", 0));
    }
}

/* Was there anything to compare with what it was before? */
static int asked_for_options(const ds_cli *c) {
    static const char *const others[] = {"base", "feature-net", "method", "no-watch"};
    int given = 0;
    for (const ds_option *o = ds_option_table; o->name; o++)
        given |= ds_opt_given(c, o->flag);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        given |= ds_opt_given(c, others[i]);
    return given;
}

/* "; rank 8 -> 4; trained anew as digits@v2", or "; options unchanged" */
static void say_changes(ds_cli *c, const json_t *d, ds_buf *b) {
    const json_t *changes = json_object_get(d, "changes");
    const char *anew = ds_json_string(d, "trained_anew", NULL);
    if (!json_is_array(changes))
        return; /* an older daemon */
    if (json_array_size(changes)) {
        ds_buf_addf(b, "; ");
        add_changes(b, changes);
    } else if (asked_for_options(c))
        ds_buf_addf(b, "; options unchanged");
    if (anew)
        ds_buf_addf(b, "; trained anew as %s", anew);
}

/* "added digits: 5,000 images in 10 classes (v1), training queued as job 4" */
static void tell(ds_cli *c, const json_t *d, int64_t job, const char *state) {
    const char *name = ds_json_string(d, "name", "");
    ds_buf b = {0};
    int known = version_of(d) > 0;
    if (!scan_over(d)) {
        ds_buf_addf(&b, "%s%s: scanning%s in the background (dsctl watch)", known ? "" : "added ",
                    name, known ? " again" : "");
        if (known)
            say_changes(c, d, &b);
    } else if (unchanged(d)) {
        ds_buf_addf(&b, "%s: unchanged (v%lld)", name, (long long)version_of(d));
        say_changes(c, d, &b);
        if (job && ds_job_state_parse(state) != DS_JOB_DONE)
            ds_buf_addf(&b, ", training %s (job %lld)", state, (long long)job);
    } else {
        ds_buf_addf(&b, "%s %s: ", version_of(d) > 1 ? "changed" : "added", name);
        say_counts(c, d, &b);
        if (version_of(d) > 1)
            say_changes(c, d, &b);
        if (job)
            ds_buf_addf(&b, ", training %s as job %lld", state, (long long)job);
    }
    ds_put_clean(c, c->out, b.data);
    fputc('\n', c->out);
    fflush(c->out);
    ds_buf_release(&b);
}

static void say_notes(ds_cli *c, const json_t *d) {
    size_t i;
    const json_t *n;
    json_array_foreach(json_object_get(d, "notes"), i, n)
        if (json_is_string(n))
            ds_say(c, "note: %s: %s", ds_json_string(d, "name", ""), json_string_value(n));
}

static int add_no_wait(ds_cli *c, json_t **d, int64_t old, ds_error *err) {
    /* Unreachable or slow from here on: the dataset is registered all the same. */
    int rc = wait_scan(c, d, c->started + SCAN_PATIENCE, NULL);
    char state[16] = "";
    int64_t job = 0;
    if (!rc && scan_over(*d) && strcmp(scan_state(*d), DS_WORD_DONE))
        return scan_error(*d, err);
    if (!rc && scan_over(*d))
        job = await_job(c, d, JOB_PATIENCE, old, state);
    say_notes(c, *d);
    if (c->json)
        ds_print_json(c, "dataset", *d, 0);
    else if (c->quiet)
        fprintf(c->out, "%s\n", ds_json_string(*d, "name", ""));
    else
        tell(c, *d, job, state);
    tell_wish(c, d, job);
    return 0;
}

static void outcome_adapter(ds_cli *c, const char *ref) {
    ds_buf path = {0};
    json_t *a = NULL;
    char x[DS_TEXT], y[DS_TEXT], z[DS_TEXT];
    ds_buf_addf(&path, "/v1/adapters/");
    ds_url_segment(&path, ref);
    if (!ds_client_call(c->http, "GET", path.data, NULL, &a, NULL)) {
        double base = ds_json_real(a, "fd_base"), fd = ds_json_real(a, "fd");
        ds_field(c, "FD", "%s (base %s%s%s)", ds_fmt_number(x, fd), ds_fmt_number(y, base),
                 base > 0 && isfinite(fd) ? ", ratio " : "",
                 base > 0 && isfinite(fd) ? ds_fmt_number(z, fd / base) : "");
        ds_field(c, "KID", "%s", ds_fmt_number(x, ds_json_real(a, "kid")));
        ds_buf shown = {0};
        if (isfinite(ds_json_real(a, "class_accuracy")))
            ds_field(c, "right class", "%s", ds_class_words(&shown, a));
        ds_buf_release(&shown);
        ds_field(c, "size", "%s (%s unpacked), %s parameters",
                 ds_fmt_bytes(x, ds_json_number(a, "stored_bytes", -1)),
                 ds_fmt_bytes(y, ds_json_number(a, "raw_bytes", -1)),
                 ds_fmt_count(z, ds_json_int(a, "parameters", -1)));
        ds_field(c, "training", "%s steps in %s, %.0f images/s",
                 ds_fmt_count(x, ds_json_int(a, "steps", -1)),
                 ds_fmt_duration(y, ds_json_real(a, "train_seconds")),
                 ds_json_number(a, "images_per_second", 0));
    }
    json_decref(a);
    ds_buf_release(&path);
}

/* What a finished training means to the person who waited for it. */
static int outcome(ds_cli *c, const json_t *job, ds_error *err) {
    const char *ref = ds_json_string(job, "adapter", NULL);
    int rc = ds_job_verdict(job, err);
    if (c->json) {
        ds_print_json(c, "job", job, 1);
    } else if (c->quiet) {
        if (ref)
            fprintf(c->out, "%s\n", ref);
    } else if (ref) {
        const json_t *gate = json_object_get(json_object_get(job, "result"), "gate");
        const char *word = rc == DS_EREFUSED ? "rejected" : "published";
        ds_style style = ds_style_of_state(word);
        ds_buf forced = {0};
        fprintf(c->out, "%s%s%s ", ds_style_on(c, style), word, ds_style_off(c, style));
        ds_put_clean(c, c->out, ref);
        fputc('\n', c->out);
        outcome_adapter(c, ref);
        ds_print_gate(c, gate, 1);
        if (!rc)
            ds_forced_words(&forced, ref, gate);
        if (forced.len)
            ds_say(c, "%s; the next version is measured against the best one again", forced.data);
        ds_buf_release(&forced);
    }
    return rc;
}

static int no_job(ds_cli *c, const json_t *d, ds_error *err) {
    const char *ref = ds_json_string(d, "adapter", NULL);
    if (!ref)
        return ds_fail(err, DS_ETIMEOUT,
                       "no training was queued for '%s'; is there a base and a feature network? "
                       "see dsctl doctor",
                       ds_json_string(d, "name", ""));
    if (c->json)
        ds_print_json(c, "dataset", d, 1);
    else if (c->quiet)
        fprintf(c->out, "%s\n", ref);
    else
        ds_say(c, "nothing to do: %s is published", ref);
    return 0;
}

/* Follows a training to its end and tells it; *again: it was refused, and began before a worse
 * version was asked for, so that another one comes. */
static int follow_one(ds_cli *c, json_t **d, int64_t id, double deadline, int *again,
                      ds_error *err) {
    json_t *job = NULL;
    int rc = ds_follow_job(c, id, deadline, &job, err);
    if (!rc)
        rc = outcome(c, job, err);
    json_decref(job);
    *again = rc == DS_EREFUSED && ds_opt_given(c, "publish-worse") && wish_waits(c, d);
    return rc;
}

static int add_and_wait(ds_cli *c, json_t **d, int64_t old, ds_error *err) {
    double timeout = ds_opt_number(c, "timeout", 0),
           deadline = timeout > 0 ? c->started + timeout : 0;
    char state[16] = "";
    int rc = wait_scan(c, d, deadline, err);
    if (rc == DS_ECANCELED)
        return ds_fail(err, rc, "interrupted; the dataset is registered and will be trained");
    if (rc)
        return rc;
    if (!scan_over(*d))
        return ds_fail(err, DS_ETIMEOUT,
                       "timed out; the dataset is registered and will be trained");
    if (strcmp(scan_state(*d), DS_WORD_DONE))
        return scan_error(*d, err);
    int patient = !ds_json_string(*d, "adapter", NULL) || !unchanged(*d) ||
                  ds_json_bool(*d, "publish_worse", 0);
    int64_t id = await_job(c, d, patient ? 5 : 0.5, old, state);
    say_notes(c, *d);
    if (!c->json && !c->quiet)
        tell(c, *d, id, state);
    tell_wish(c, d, id);
    if (!id)
        return no_job(c, *d, err);
    int again = 0;
    rc = follow_one(c, d, id, deadline, &again, err);
    if (again) {
        ds_say(c, "job %lld began before --publish-worse was given; the next one has it",
               (long long)id);
        int64_t next = await_job(c, d, 5, id, state);
        if (next)
            rc = follow_one(c, d, next, deadline, &again, err);
    }
    return rc;
}

/* A GPU that is asked for by name is there, as far as the worker beside this program can tell; what
 * it does not say (another machine's daemon, no worker here) the job will find out. */
static int check_device(const ds_cli *c, ds_error *err) {
    const char *word = ds_opt_text(c, "device", "");
    char program[PATH_MAX], line[32], *text = NULL;
    int status = 0;
    if (strncmp(word, "cuda", 4) || ds_find_worker(program, NULL))
        return 0;
    char *argv[] = {program, (char *)(uintptr_t) "devices", NULL};
    if (ds_run_program(argv, 10, &text, &status, NULL) || strncmp(text, "cuda:", 5)) {
        free(text);
        return 0;
    }
    snprintf(line, sizeof line, "%s:", strcmp(word, "cuda") ? word : "cuda:0");
    int found = !strncmp(text, line, strlen(line)), rc = 0;
    for (const char *p = text; !found && (p = strchr(p, '\n')); p++)
        found = !strncmp(p + 1, line, strlen(line));
    text[strcspn(text, "\n")] = 0;
    if (!found)
        rc = ds_fail(err, DS_EINVAL, "option --device: there is no '%s' here: %s", word, text);
    free(text);
    return rc;
}

int ds_cmd_add_dataset(ds_cli *c, ds_error *err) {
    json_t *request = NULL, *d = NULL;
    if (ds_opt_given(c, "timeout") && !ds_opt_given(c, "wait"))
        return ds_fail(err, DS_EINVAL, "option --timeout needs --wait");
    int rc = make_request(c, &request, err);
    if (!rc)
        rc = check_device(c, err);
    if (!rc && ds_opt_given(c, "start"))
        rc = ds_start_daemon(c, err);
    if (!rc) {
        c->started = ds_monotonic(); /* the second of patience is for the scan, not for --start */
        rc = ds_client_call(c->http, "POST", "/v1/datasets", request, &d, err);
    }
    char state[16];
    int64_t old = 0; /* trainings from before the request say nothing about it */
    if (!rc && ds_opt_given(c, "publish-worse"))
        old = training_job(c, d, 0, 0, state);
    if (!rc)
        rc = ds_opt_given(c, "wait") ? add_and_wait(c, &d, old, err) : add_no_wait(c, &d, old, err);
    json_decref(request);
    json_decref(d);
    return rc;
}
