/* worker/commands/evaluate_classes.c - class accuracy of a folder of samples against one of real
 * pictures: classes are the first-level sub-folders whose names both have. */
#include "base/mem.h"
#include "worker/commands/evaluate_cmd.h"
#include "worker/measure/classes.h"

#include <stdlib.h>
#include <string.h>

/* Length of the first-level folder's name; 0: the file lies in the folder itself. */
static size_t class_length(const char *path) {
    const char *slash = strchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

static int class_in(const ds_ev_run *e, const char *path) {
    size_t n = class_length(path);
    for (int c = 0; n && c < e->class_count; c++)
        if (strlen(e->class_names[c]) == n && !memcmp(e->class_names[c], path, n))
            return c;
    return -1;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names of a side, sorted; they and the list are the caller's. */
static char **names_of(const ds_ev_side *s, int *count) {
    char **names = ds_xcalloc((size_t)s->list.count + 1, sizeof *names);
    int n = 0;
    for (int64_t i = 0; i < s->list.count; i++) {
        const char *path = s->list.paths[i];
        size_t length = class_length(path);
        if (length && !(n && strlen(names[n - 1]) == length && /* mostly sorted already */
                        !memcmp(names[n - 1], path, length)))
            names[n++] = ds_xasprintf("%.*s", (int)length, path);
    }
    qsort(names, (size_t)n, sizeof *names, by_name);
    *count = n;
    return names;
}

/* The names in both lists, once each. */
static void share_names(ds_ev_run *e) {
    int n, m;
    char **a = names_of(&e->fake, &n), **b = names_of(&e->real, &m);
    e->class_names = ds_xcalloc((size_t)(n < m ? n : m) + 1, sizeof *e->class_names);
    for (int i = 0, j = 0; i < n && j < m;) {
        int order = strcmp(a[i], b[j]), last = e->class_count - 1;
        if (!order && (last < 0 || strcmp(e->class_names[last], a[i])))
            e->class_names[e->class_count++] = ds_xstrdup(a[i]);
        i += order <= 0;
        j += order > 0;
    }
    for (int i = 0; i < n; i++)
        free(a[i]);
    for (int j = 0; j < m; j++)
        free(b[j]);
    free(a);
    free(b);
}

int ds_ev_classes_find(ds_ev_run *e, ds_error *err) {
    const ds_ev_side *const sides[] = {&e->fake, &e->real};
    for (int i = 0; i < 2; i++) {
        if (sides[i]->kind != DS_EV_FOLDER)
            return ds_fail(err, DS_EINVAL, "class accuracy needs two folders; '%.200s' is none",
                           sides[i]->path ? sides[i]->path : "");
        int64_t n = i == 0 && e->o.n && e->o.n < sides[i]->available ? e->o.n : sides[i]->available;
        if (n > DS_EV_CLASS_ROWS)
            return ds_fail(err, DS_EINVAL,
                           "class accuracy is of at most %d pictures a side; '%.200s' has %lld",
                           DS_EV_CLASS_ROWS, sides[i]->path, (long long)n);
    }
    share_names(e);
    return e->class_count > 1
               ? 0
               : ds_fail(err, DS_EINVAL,
                         "class accuracy needs two sub-folders at least that '%.200s' and "
                         "'%.200s' both have; there %s %d",
                         e->fake.path, e->real.path, e->class_count == 1 ? "is" : "are",
                         e->class_count);
}

int ds_ev_classes_fit(const ds_ev_run *e) {
    const ds_ev_side *const sides[] = {&e->fake, &e->real};
    int64_t n[2] = {0};
    for (int i = 0; i < 2; i++)
        for (int64_t k = 0; k < sides[i]->list.count; k++)
            n[i] += class_in(e, sides[i]->list.paths[k]) >= 0;
    return n[0] > DS_EV_CLASS_K && ds_classes_fit(DS_EV_CLASS_K, e->class_count, n[1]);
}

void ds_ev_classes_add(const ds_ev_run *e, ds_ev_side *s, const char *path, const float *x) {
    const size_t dim = (size_t)ds_fid_mode_dim(e->o.mode);
    int class = class_in(e, path);
    if (class < 0)
        return;
    if (s->rows == s->rows_cap) {
        s->rows_cap = s->rows_cap ? 2 * s->rows_cap : 64;
        s->x = ds_xrealloc(s->x, (size_t)s->rows_cap * dim * sizeof *s->x);
        s->classes = ds_xrealloc(s->classes, (size_t)s->rows_cap * sizeof *s->classes);
    }
    memcpy(s->x + (size_t)s->rows * dim, x, dim * sizeof *x);
    s->classes[s->rows++] = class;
}

static json_t *class_json(const ds_ev_run *e, const ds_class *c) {
    json_t *o = json_object();
    char *name = ds_name_escape(e->class_names[c->label]);
    json_object_set_new(o, "class", json_string(name));
    json_object_set_new(o, "value", json_real(c->samples.share));
    json_object_set_new(o, "real", json_real(c->real.share));
    json_object_set_new(o, "fd", json_real(c->fd));
    json_object_set_new(o, "n", json_integer((json_int_t)c->samples.n));
    json_object_set_new(o, "n_reference", json_integer((json_int_t)c->real.n));
    free(name);
    return o;
}

int ds_ev_classes_measure(const ds_ev_run *e, ds_classes *out, ds_error *err) {
    const int dim = ds_fid_mode_dim(e->o.mode);
    ds_classes_input in = {.real = {.x = e->real.x, .n = e->real.rows, .dim = dim},
                           .samples = {.x = e->fake.x, .n = e->fake.rows, .dim = dim},
                           .real_labels = e->real.classes,
                           .labels = e->fake.classes,
                           .classes = e->class_count,
                           .k = DS_EV_CLASS_K,
                           .seed = e->o.seed};
    int rc = ds_classes_measure(out, &in, err);
    if (!rc && !out->samples.n)
        rc = ds_fail(err, DS_EINVAL,
                     "too few pictures for class accuracy: %lld real ones in %d classes that both "
                     "have, need %d a class",
                     (long long)e->real.rows, e->class_count, DS_EV_CLASS_K);
    return rc;
}

void ds_ev_classes_describe(const ds_ev_run *e, const ds_classes *c, json_t *row) {
    json_t *each = json_array();
    for (int i = 0; i < c->count; i++)
        json_array_append_new(each, class_json(e, &c->each[i]));
    json_object_set_new(row, "std_error", json_real(c->samples.std_error));
    json_object_set_new(row, "real", json_real(c->real.share));
    json_object_set_new(row, "chance", json_real(c->chance));
    json_object_set_new(row, "neighbours", json_integer(DS_EV_CLASS_K));
    json_object_set_new(row, "classes", json_integer(e->class_count));
    json_object_set_new(row, "by_class", each);
}
