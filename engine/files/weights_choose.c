/* engine/files/weights_choose.c - which of the models in a file is meant, and its tensors under
 * plain names; weights_models.c finds them. */
#include "base/mem.h"
#include "engine/files/weights_models.h"

#include <stdio.h>
#include <stdlib.h>

enum { SHOWN = 4 };

/* ---------------------------------------------------------------- choosing */

/* Its key for people: without the '.' at the end. */
static void key_of(const ds_weights_model *m, char out[DS_WEIGHTS_NAME_SIZE]) {
    size_t n = m->len;
    while (n && m->prefix[n - 1] == '.')
        n--;
    snprintf(out, DS_WEIGHTS_NAME_SIZE, "%.*s", (int)n, m->prefix);
    if (!n)
        snprintf(out, DS_WEIGHTS_NAME_SIZE, "(top level)");
}

static int ambiguous(const ds_weights_models *k, const int *in, int count, const char *why,
                     ds_error *err) {
    char keys[300] = "", key[DS_WEIGHTS_NAME_SIZE];
    size_t len = 0;
    for (int i = 0; i < count && i < SHOWN && len + 80 < sizeof keys; i++) {
        key_of(&k->list[in[i]], key);
        len += (size_t)snprintf(keys + len, sizeof keys - len, "%s'%.60s'", i ? ", " : "", key);
    }
    return ds_fail(err, DS_EINVAL, "'%.120s' holds %d model%s%s: %s%s; %s", k->w->path, count,
                   count == 1 ? "" : "s", why, keys, count > SHOWN ? ", ..." : "",
                   strcmp(k->w->part ? k->w->part : "", "vae_weights")
                       ? "say which with --weights KEY"
                       : "give a file that has one");
}

static int same_place(const ds_weights_item *a, const ds_weights_item *b) {
    return a->part == b->part && a->entry == b->entry && a->at == b->at && a->nest && b->nest;
}

/* Is one the other under a second name: do all tensors lie at the same places?  One alone proves
 * nothing, as models that are trained together may share what is frozen. */
static int same_model(const ds_weights_models *k, int i, int j) {
    const ds_weights_model *a = &k->list[i], *b = &k->list[j];
    size_t n, m;
    if (!same_place(a->first, b->first))
        return 0;
    if (a->form != b->form || a->form == DS_WEIGHTS_DOTLESS)
        return 1;
    const ds_weights_item **x = ds_weights_members(k, i, a->form == DS_WEIGHTS_LISTED ? a : NULL, 1,
                                                   &n),
                          **y = ds_weights_members(k, j, b->form == DS_WEIGHTS_LISTED ? b : NULL, 1,
                                                   &m);
    int same = n == m;
    for (size_t t = 0; same && t < n; t++)
        same = same_place(x[t], y[t]) && ds_weights_same_shape(x[t], y[t]);
    free(x);
    free(y);
    return same;
}

/* Those of the asked kind (1 averaged, 0 raw), each once. */
static int of_kind(const ds_weights_models *k, int averaged, int out[DS_WEIGHTS_MODELS_MAX]) {
    int n = 0;
    for (int i = 0; i < k->count; i++) {
        int again = k->list[i].averaged != averaged;
        for (int j = 0; !again && j < n; j++)
            again = same_model(k, out[j], i);
        if (!again)
            out[n++] = i;
    }
    return n;
}

static int find_key(const ds_weights_models *k, const char *which) {
    char key[DS_WEIGHTS_NAME_SIZE];
    size_t n = strlen(which);
    for (int i = 0; i < k->count; i++) {
        key_of(&k->list[i], key);
        if (!strcmp(key, which) || !strcmp(k->list[i].prefix, which) ||
            (n && k->list[i].len == n + 1 && !strncmp(k->list[i].prefix, which, n)))
            return i;
    }
    return -1;
}

/* Averaged weights in a form that is not known, about as many numbers as a model that is: nobody
 * would want the other one in their place without knowing. */
static int unmatched(const ds_weights_models *k, int raw, ds_error *err) {
    double own = 0, other = (double)k->w->averaged_skipped;
    const char *name = other > 0 ? k->w->averaged_name : "";
    for (size_t i = 0; i < k->w->count; i++) {
        const ds_weights_item *it = &k->w->items[i];
        const char *dot = strrchr(it->t.name, '.');
        int owner = ds_weights_owner_of(k, it);
        if (owner == raw)
            own += (double)it->t.count;
        else if (owner < 0 &&
                 (ds_weights_is_averaged(it->t.name, dot ? (size_t)(dot - it->t.name) : 0) ||
                  ds_weights_is_averaged(it->t.name, strlen(it->t.name)))) {
            other += (double)it->t.count;
            name = it->t.name;
        }
    }
    size_t objects = 0, tensors = 0; /* of NumPy, say */
    for (size_t i = 0; i < k->w->value_count; i++)
        if (ds_weights_is_averaged(k->w->values[i].t.name, k->w->values[i].nest)) {
            objects++;
            name = k->w->values[i].t.name;
        }
    for (size_t i = 0; i < k->w->count; i++)
        tensors += ds_weights_owner_of(k, &k->w->items[i]) == raw;
    int like = own > 0 && other >= 0.5 * own && other <= 2 * own;
    if (!like && (!objects || objects < tensors / 2))
        return 0;
    char key[DS_WEIGHTS_NAME_SIZE];
    key_of(&k->list[raw], key);
    return ds_fail(err, DS_EINVAL,
                   "'%.120s' holds '%.60s' and averaged weights in a form that is not known, as "
                   "'%.80s'; --weights model takes the former",
                   k->w->path, key, name);
}

static int pick(const ds_weights_models *k, const char *which, int *chosen, const char **how,
                ds_error *err) {
    int averaged[DS_WEIGHTS_MODELS_MAX], raw[DS_WEIGHTS_MODELS_MAX];
    int na = of_kind(k, 1, averaged), nr = of_kind(k, 0, raw);
    int asked = which && *which;
    *how = asked ? "asked for" : na + nr == 1 ? "only one" : "averaged preferred";
    *chosen = asked ? find_key(k, which) : -1;
    if (*chosen < 0 && asked && strcmp(which, "ema") && strcmp(which, "model")) {
        int all[DS_WEIGHTS_MODELS_MAX];
        for (int i = 0; i < k->count; i++)
            all[i] = i;
        char why[80];
        snprintf(why, sizeof why, ", none called '%.40s'", which);
        return ambiguous(k, all, k->count, why, err);
    }
    int want_raw = asked ? !strcmp(which, "model") : !na;
    if (*chosen < 0) {
        int n = want_raw ? nr : na;
        if (!n)
            return ds_fail(err, DS_EINVAL, "'%.200s' holds no %s weights (--weights %s)",
                           k->w->path, want_raw ? "raw" : "averaged", want_raw ? "model" : "ema");
        if (n > 1)
            return ambiguous(k, want_raw ? raw : averaged, n,
                             want_raw ? "" : " with averaged weights", err);
        *chosen = want_raw ? raw[0] : averaged[0];
    }
    const ds_weights_model *m = &k->list[*chosen];
    if (!asked && !na)
        return unmatched(k, *chosen, err);
    if (m->form == DS_WEIGHTS_LISTED && m->like < 0) {
        char key[DS_WEIGHTS_NAME_SIZE];
        key_of(m, key);
        return ds_fail(err, DS_EINVAL,
                       "'%.120s': the averaged weights '%.60s' are a list of %zu tensors without "
                       "names that fits no model beside it%s; --weights model takes the raw ones",
                       k->w->path, key, m->tensors, nr ? "" : ": there is none");
    }
    return 0;
}

/* ---------------------------------------------------------------- narrowing */

static int is_float(const ds_weights_item *it) {
    return !it->what && (it->t.dtype == DS_ST_F32 || it->t.dtype == DS_ST_F16 ||
                         it->t.dtype == DS_ST_BF16 || it->t.dtype == DS_ST_F64);
}

/* Counters and the like that stand among the tensors of a model. */
static int is_bookkeeping(const char *name) {
    static const char *const known[] = {"n_averaged",  "initted",           "step",   "decay",
                                        "num_updates", "optimization_step", "n_steps"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(name, known[i]))
            return 1;
    return 0;
}

typedef struct {
    ds_weights_item *items, *values;
    size_t count, value_count;
} narrowed;

static void take(narrowed *to, const ds_weights_item *it, const char *raw_name) {
    char name[DS_WEIGHTS_NAME_SIZE];
    ds_weights_strip(raw_name, name);
    ds_weights_item copy = *it;
    copy.t.name = ds_xstrdup(name);
    copy.what = it->what ? ds_xstrdup(it->what) : NULL;
    if (is_float(it) && !is_bookkeeping(name))
        to->items[to->count++] = copy;
    else
        to->values[to->value_count++] = copy;
}

/* What is not trained is not averaged either: it is the raw model's. */
static void take_constant(const ds_weights_models *k, const ds_weights_model *m,
                          const ds_weights_item *it, narrowed *to) {
    const char *name = it->t.name + k->list[m->like].len;
    char key[DS_WEIGHTS_NAME_SIZE];
    key_of(&k->list[m->like], key);
    take(to, it, name);
    ds_import_report_assumed(k->w->report, name, json_string(key),
                             "the averaged weights have none, as it is not trained");
}

static int by_item_name(const void *a, const void *b) {
    return strcmp(((const ds_weights_item *)a)->t.name, ((const ds_weights_item *)b)->t.name);
}

static int lacks(const ds_weights_models *k, const ds_weights_model *m, const char *name,
                 ds_error *err) {
    char key[DS_WEIGHTS_NAME_SIZE];
    key_of(m, key);
    return ds_fail(err, DS_EINVAL,
                   "'%.120s': the averaged weights '%.60s' have none for '%.80s'; --weights model "
                   "takes the raw ones%s",
                   k->w->path, key, name,
                   m->form == DS_WEIGHTS_NAMED ? ", --weights ema these as they are" : "");
}

/* Taken, or there and of a type that is not read: that is said where it is needed. */
static int has_taken(const narrowed *to, size_t sorted, const char *name) {
    ds_weights_item key = {.t.name = name};
    if (bsearch(&key, to->items, sorted, sizeof key, by_item_name))
        return 1;
    for (size_t i = 0; i < to->value_count; i++)
        if (!strcmp(to->values[i].t.name, name))
            return 1;
    return 0;
}

/* A model under its own names, and constants of the one raw model where it has none.  What else it
 * lacks of that one a person must want: without its last blocks a model is a smaller one. */
static int take_named(const ds_weights_models *k, int index, narrowed *to, ds_error *err) {
    ds_weights_model m = k->list[index];
    int raw[DS_WEIGHTS_MODELS_MAX], rc = 0;
    size_t n;
    const ds_weights_item **own = ds_weights_members(k, index, NULL, 1, &n);
    for (size_t i = 0; i < n; i++)
        take(to, own[i], own[i]->t.name + m.len);
    free(own);
    if (!m.averaged || of_kind(k, 0, raw) != 1)
        return 0;
    m.like = raw[0];
    size_t taken = to->count;
    qsort(to->items, taken, sizeof *to->items, by_item_name);
    own = ds_weights_members(k, m.like, NULL, 1, &n);
    for (size_t i = 0; !rc && i < n; i++) {
        char name[DS_WEIGHTS_NAME_SIZE];
        ds_weights_strip(own[i]->t.name + k->list[m.like].len, name);
        if (!is_float(own[i]) || is_bookkeeping(name) || has_taken(to, taken, name))
            continue;
        if (ds_weights_is_constant(name))
            take_constant(k, &m, own[i], to);
        else if (!k->w->which || !*k->w->which)
            rc = lacks(k, &k->list[index], name, err);
    }
    free(own);
    return rc;
}

static int take_model(const ds_weights_models *k, int index, narrowed *to, ds_error *err) {
    const ds_weights_model *m = &k->list[index];
    if (m->form == DS_WEIGHTS_NAMED)
        return take_named(k, index, to, err);
    int all = m->form == DS_WEIGHTS_LISTED && ds_weights_list_fits(k, m, 1), rc = 0;
    size_t n, listed = 0, at = 0;
    const ds_weights_item **raw = ds_weights_members(k, m->like, NULL, 1, &n), **list = NULL;
    if (m->form == DS_WEIGHTS_LISTED)
        list = ds_weights_members(k, 0, m, 1, &listed);
    for (size_t i = 0; !rc && i < n; i++) {
        const char *name = raw[i]->t.name + k->list[m->like].len;
        const ds_weights_item *it = m->form == DS_WEIGHTS_DOTLESS
                                        ? ds_weights_dotless_twin(k, m, raw[i])
                                    : all || !ds_weights_is_constant(name) ? list[at++]
                                                                           : NULL;
        if (it)
            take(to, it, name);
        else if (ds_weights_is_constant(name))
            take_constant(k, m, raw[i], to);
        else if (is_float(raw[i]))
            rc = lacks(k, m, name, err);
    }
    free(raw);
    free(list);
    return rc;
}

static void free_items(ds_weights_item *items, size_t count) {
    for (size_t i = 0; i < count; i++) {
        free((char *)(uintptr_t)items[i].t.name);
        free(items[i].what);
    }
    free(items);
}

static void what_of(const ds_weights_item *it, char out[200]) {
    snprintf(out, 200, "%s%.150s", it->what ? "" : "of type ",
             it->what ? it->what : ds_st_dtype_name(it->t.dtype));
}

static void say_rest(const ds_weights_models *k, const narrowed *to) {
    ds_import_report *r = k->w->report;
    size_t beside = k->w->skipped;
    const char *one = NULL;
    for (size_t i = 0; i < k->w->count; i++)
        if (ds_weights_owner_of(k, &k->w->items[i]) < 0) {
            beside++;
            one = one ? one : k->w->items[i].t.name;
        }
    for (int i = 0; i < k->count; i++) /* lists and names without dots have been said */
        if (k->list[i].form != DS_WEIGHTS_NAMED)
            beside -= beside < k->list[i].tensors ? beside : k->list[i].tensors;
    char text[300];
    if (beside) {
        snprintf(text, sizeof text, "%zu values beside the model, as '%.100s'", beside,
                 one ? one : "optimizer state");
        ds_import_report_ignored(r, text, "no part of the model");
    }
    for (size_t i = 0; i < to->value_count;) { /* those of one kind together */
        size_t n = 1;
        char why[200], more[40] = "";
        what_of(&to->values[i], why);
        for (char next[200]; i + n < to->value_count; n++) {
            what_of(&to->values[i + n], next);
            if (strcmp(next, why) != 0)
                break;
        }
        if (n > 1)
            snprintf(more, sizeof more, " and %zu more", n - 1);
        snprintf(text, sizeof text, "%.100s%s", to->values[i].t.name, more);
        ds_import_report_ignored(r, text, why);
        i += n;
    }
    if (k->w->odd_names) {
        snprintf(text, sizeof text, "%zu tensors", k->w->odd_names);
        ds_import_report_ignored(r, text, "their names are not plain ASCII of at most 256 bytes");
    }
}

static void say(ds_weights_models *k, int chosen, const char *how) {
    ds_weights *w = k->w;
    char key[DS_WEIGHTS_NAME_SIZE];
    const ds_weights_model *m = &k->list[chosen];
    for (int i = 0; i < k->count; i++) {
        size_t n = 0;
        for (size_t t = 0; k->list[i].form == DS_WEIGHTS_NAMED && t < w->count; t++)
            n += ds_weights_owner_of(k, &w->items[t]) == i;
        if (k->list[i].form == DS_WEIGHTS_NAMED)
            k->list[i].tensors = n;
        else if (k->list[i].form == DS_WEIGHTS_DOTLESS)
            for (size_t t = 0; t < w->count; t++)
                k->list[i].tensors +=
                    !strncmp(w->items[t].t.name, k->list[i].prefix, k->list[i].len);
    }
    key_of(m, key);
    ds_import_report_weights(w->report, w->part, m->len ? key : "", how);
    const char *path = w->parts[0].path;
    size_t n = strlen(w->path);
    if (!w->is_file && !strncmp(path, w->path, n)) {
        while (path[n] == '/')
            n++;
        ds_import_report_file(w->report, w->part, path + n, (size_t)w->part_count);
    }
    if (*w->beside)
        ds_import_report_ignored(w->report, w->beside, "other files of the folder");
    for (int i = 0; i < k->count; i++)
        if (i != chosen) {
            key_of(&k->list[i], key);
            ds_import_report_other(w->report, w->part, key, k->list[i].tensors);
        }
}

static int check_total(const ds_weights *w, const narrowed *to, ds_error *err) {
    uint64_t total = 0;
    for (size_t i = 0; i < to->count; i++)
        total += to->items[i].t.bytes;
    return total > DS_WEIGHTS_TOTAL_MAX
               ? ds_fail(err, DS_ELIMIT, "'%.200s': its model has %llu GiB of tensors, limit %llu",
                         w->path, (unsigned long long)(total >> 30),
                         (unsigned long long)(DS_WEIGHTS_TOTAL_MAX >> 30))
               : 0;
}

static int narrow(ds_weights_models *k, int chosen, const char *how, ds_error *err) {
    ds_weights *w = k->w;
    narrowed to = {.items = ds_xcalloc(w->count + 1, sizeof *to.items),
                   .values = ds_xcalloc(w->count + w->value_count + 1, sizeof *to.values)};
    int named = k->list[chosen].form == DS_WEIGHTS_NAMED ? chosen : k->list[chosen].like;
    for (size_t i = 0; i < w->value_count; i++)
        if (ds_weights_owner_of(k, &w->values[i]) == named)
            take(&to, &w->values[i], w->values[i].t.name + k->list[named].len);
    int rc = take_model(k, chosen, &to, err);
    rc = rc ? rc : check_total(w, &to, err);
    if (rc) {
        free_items(to.items, to.count);
        free_items(to.values, to.value_count);
        return rc;
    }
    say(k, chosen, how);
    say_rest(k, &to);
    const ds_weights_model *m = &k->list[chosen];
    uint32_t nest = m->form == DS_WEIGHTS_NAMED ? m->nest : (uint32_t)m->len;
    snprintf(w->wrapper, sizeof w->wrapper, "%.*s", nest ? (int)nest - 1 : 0, m->prefix);
    free_items(w->items, w->count);
    free_items(w->values, w->value_count);
    w->items = to.items;
    w->count = w->cap = to.count;
    w->values = to.values;
    w->value_count = to.value_count;
    w->chosen = 1;
    return ds_weights_sort(w, err);
}

void ds_weights_want(ds_weights *w, const char *which, const char *part, ds_import_report *report) {
    free(w->which);
    w->which = which ? ds_xstrdup(which) : NULL;
    w->part = part;
    w->report = report;
}

int ds_weights_choose(ds_weights *w, const char *const *marks, ds_error *err) {
    if (w->chosen)
        return 0;
    ds_weights_models k = {.w = w, .marks = marks};
    int chosen, rc = 0;
    const char *how;
    ds_weights_find_named(&k);
    if (k.count) {
        ds_weights_find_dotless(&k);
        int *owner = ds_xcalloc(w->count + 1, sizeof *owner);
        for (size_t i = 0; i < w->count; i++)
            owner[i] = ds_weights_owner_of(&k, &w->items[i]);
        k.owner = owner;
        ds_weights_find_listed(&k);
        rc = pick(&k, w->which, &chosen, &how, err);
        rc = rc ? rc : narrow(&k, chosen, how, err);
    }
    for (int i = 0; i < k.count; i++)
        free(k.list[i].prefix);
    free(k.owner);
    return rc;
}
