#include "cli/bars.h"
#include "base/json.h"
#include "cli/format.h"
#include "contract/job.h"

#include <math.h>
#include <string.h>

static int is(const json_t *o, const char *key, const char *word) {
    return !strcmp(ds_json_string(o, key, ""), word);
}

/* The base is a bar of every version and mostly passed by far: then it is no news. */
static int worth_telling(const json_t *bar) {
    return json_is_object(bar) && (!is(bar, "role", "base") || !is(bar, "verdict", "passed"));
}

int ds_any_bar(const json_t *items) {
    size_t i;
    const json_t *a;
    json_array_foreach((json_t *)(uintptr_t)items, i, a) {
        if (worth_telling(json_object_get(a, "bar")))
            return 1;
    }
    return 0;
}

const char *ds_bar_words(ds_buf *out, const json_t *a) {
    const json_t *bar = json_object_get(a, "bar");
    if (!worth_telling(bar))
        return NULL;
    ds_buf_addf(out, "%s%s", ds_json_string(bar, "ref", "?"), /* first: a narrow column cuts */
                is(bar, "verdict", "passed") ? ""
                : is(a, "self", "forced")    ? ", forced"
                                             : ", worse");
    return out->data;
}

const char *ds_fmt_change(char out[DS_TEXT], double delta) {
    double percent = 100 * delta;
    if (isfinite(percent))
        snprintf(out, DS_TEXT, "%+.*f %%", fabs(percent) < 10 ? 1 : 0, percent);
    else
        snprintf(out, DS_TEXT, "-");
    return out;
}

static const char *share(char out[DS_TEXT], const json_t *o, const char *key) {
    double v = ds_json_real(o, key);
    snprintf(out, DS_TEXT, isfinite(v) ? "%.3f" : "-", v);
    return out;
}

const char *ds_class_words(ds_buf *out, const json_t *a) {
    char x[DS_TEXT], y[DS_TEXT], z[DS_TEXT];
    if (isfinite(ds_json_real(a, "class_accuracy")))
        ds_buf_addf(out, "%s (real pictures %s, chance %s)", share(x, a, "class_accuracy"),
                    share(y, a, "class_real"), share(z, a, "class_chance"));
    else if (ds_json_int(a, "classes", 0) > 1)
        ds_buf_addf(out, "not measured");
    return out->data;
}

const char *ds_fmt_classes(char out[DS_TEXT], const json_t *a) {
    char x[DS_TEXT], y[DS_TEXT];
    int known = isfinite(ds_json_real(a, "class_accuracy"));
    snprintf(out, DS_TEXT, "%.20s%s%.20s", share(x, a, "class_accuracy"), known ? " of " : "",
             known ? share(y, a, "class_real") : "");
    return out;
}

double ds_measured(const json_t *adapter, const char *subject, const char *metric,
                   const char *key) {
    size_t i;
    const json_t *e;
    json_array_foreach(json_object_get(adapter, "evaluations"), i, e) {
        if (is(e, "subject", subject) && is(e, "metric", metric))
            return ds_json_real(e, key);
    }
    return NAN;
}

int ds_any_class(const json_t *items) {
    size_t i;
    const json_t *a;
    json_array_foreach((json_t *)(uintptr_t)items, i, a) {
        if (isfinite(ds_json_real(a, "class_accuracy")))
            return 1;
    }
    return 0;
}

void ds_print_bars(ds_cli *c, const json_t *gate) {
    json_t *bars = json_object_get(json_object_get(gate, "self"), "bars"), *b;
    size_t i, told = 0;
    int classes = 0;
    json_array_foreach(bars, i, b) {
        told += (size_t)worth_telling(b);
        classes |= isfinite(ds_json_real(b, "class_now"));
    }
    if (!told)
        return;
    ds_table *t =
        ds_table_new(classes ? "BAR|REF|VERDICT|FD BAR>|FD NOW>|CHANGE>|RIGHT BAR>|RIGHT NOW>|WHY~"
                             : "BAR|REF|VERDICT|FD BAR>|FD NOW>|CHANGE>|WHY~");
    json_array_foreach(bars, i, b) {
        char text[DS_TEXT];
        const char *verdict = ds_json_string(b, "verdict", "");
        ds_cell(t, ds_json_string(b, "role", NULL));
        ds_cell(t, ds_json_string(b, "ref", NULL));
        ds_cell_styled(t, ds_style_of_state(verdict),
                       !strcmp(verdict, "none") ? "no bar" : verdict);
        ds_cell(t, ds_fmt_number(text, ds_json_real(b, "fd_bar")));
        ds_cell(t, ds_fmt_number(text, ds_json_real(b, "fd_now")));
        ds_cell(t, ds_fmt_change(text, ds_json_real(b, "delta")));
        if (classes) {
            ds_cell(t, share(text, b, "class_bar"));
            ds_cell(t, share(text, b, "class_now"));
        }
        ds_cell(t, ds_json_string(b, "reason", NULL));
    }
    ds_table_print(t, c, c->out, 2);
    ds_table_free(t);
}

/* Refused by its classes alone.  The numbers do not tell: a distance beyond the margin passes as
 * noise below so many standard errors, which only the job's spec knows. */
static int by_classes(const json_t *bar) {
    return !strncmp(ds_json_string(bar, "reason", ""), DS_BAR_BY_CLASSES,
                    strlen(DS_BAR_BY_CLASSES));
}

void ds_forced_words(ds_buf *out, const char *ref, const json_t *gate) {
    const json_t *self = json_object_get(gate, "self");
    json_t *b;
    size_t i;
    char x[DS_TEXT], y[DS_TEXT];
    if (!is(self, "verdict", "forced"))
        return;
    ds_buf_addf(out, "%s was published by force", ref);
    json_array_foreach(json_object_get(self, "bars"), i, b) {
        if (!is(b, "verdict", "refused"))
            continue;
        if (by_classes(b))
            ds_buf_addf(out, "; right class %s is worse than %s of %s", share(x, b, "class_now"),
                        share(y, b, "class_bar"), ds_json_string(b, "ref", "?"));
        else
            ds_buf_addf(out, "; FD %s is worse than %s of %s",
                        ds_fmt_number(x, ds_json_real(b, "fd_now")),
                        ds_fmt_number(y, ds_json_real(b, "fd_bar")), ds_json_string(b, "ref", "?"));
    }
}

void ds_base_task_words(ds_buf *out, const json_t *task) {
    const json_t *last = json_object_get(task, "last");
    char x[DS_TEXT], y[DS_TEXT], n[DS_TEXT];
    int64_t classes = ds_json_int(task, "classes", 0);
    double fd = ds_json_real(task, "fd"), now = ds_json_real(last, "fd_now");
    if (!json_is_object(task))
        return;
    if (classes > 1)
        ds_buf_addf(out, "the %s old classes ", ds_fmt_count(n, classes));
    else
        ds_buf_addf(out, "the old samples ");
    if (!json_is_object(last)) {
        ds_buf_addf(out, "are recorded");
    } else if (!is(last, "verdict", "passed")) {
        ds_buf_addf(out, "have changed");
    } else if (ds_json_int(last, "level", 0) == 0) {
        ds_buf_addf(out, "could not be compared on this device");
    } else {
        ds_buf_addf(out, "do not degrade%s",
                    ds_json_int(last, "level", 0) == 1 ? ": same samples as recorded" : "");
    }
    if (isfinite(fd) && isfinite(now) && ds_json_int(last, "level", 0) == 2)
        ds_buf_addf(out, " (FD %s -> %s)", ds_fmt_number(x, fd), ds_fmt_number(y, now));
    else if (isfinite(fd))
        ds_buf_addf(out, " (FD %s)", ds_fmt_number(x, fd));
    const char *with = ds_json_string(last, "adapter", NULL);
    if (with)
        ds_buf_addf(out, ", last with %s", with);
    else if (json_is_object(last))
        ds_buf_addf(out, ", last in job %lld", (long long)ds_json_int(last, "job", 0));
}
