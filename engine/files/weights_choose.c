/* engine/files/weights_choose.c - which of the models in a file is meant, and its tensors under
 * plain names.
 *
 * A model is found by a tensor that every model of its kind has (a mark); what stands before that
 * name is the model's key.  Averaged weights (EMA, SWA) are recognised by their key, by
 * `n_averaged` beside them, or by their form: names without dots as LitEma writes them (CompVis),
 * or a list in the order of another model's parameters (diffusers EMAModel, torch_ema).
 */
#include "base/mem.h"
#include "engine/files/weights_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

enum { MODELS_MAX = 64, NAME_SIZE = 1024, SHOWN = 4 };

enum form { NAMED, DOTLESS, LISTED };

typedef struct {
    char *prefix; /* before its names in the file, "" or ending with '.' (DOTLESS: as it is) */
    size_t len;
    uint32_t nest;
    enum form form;
    char joint;         /* DOTLESS: what stands for the dots, 0 = nothing */
    int averaged, like; /* like: the NAMED model that has the names of a DOTLESS or LISTED one */
    size_t tensors;
    const ds_weights_item *first; /* the tensor of its mark; LISTED: the first */
} model;

typedef struct {
    ds_weights *w;
    const char *const *marks;
    model list[MODELS_MAX];
    int count;
    int *owner; /* of each of w's items, once all NAMED and DOTLESS ones are found */
} models;

/* ---------------------------------------------------------------- names */

/* What wrappers of PyTorch put between the parts of a name: DataParallel, torch.compile,
 * activation checkpointing, FSDP, DeepSpeed; and the dicts of a module that was pickled whole. */
static int is_wrapper(const char *part, size_t n) {
    static const char *const known[] = {"module",
                                        "_orig_mod",
                                        "_checkpoint_wrapped_module",
                                        "_fsdp_wrapped_module",
                                        "_fpw_module",
                                        "_modules",
                                        "_forward_module",
                                        "_dynamo_module",
                                        "_parameters",
                                        "_buffers",
                                        "_fsdp_module"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i]) == n && !strncmp(known[i], part, n))
            return 1;
    return 0;
}

/* name without its wrappers. */
static void strip(const char *name, char out[NAME_SIZE]) {
    size_t k = 0;
    while (*name) {
        size_t n = strcspn(name, ".");
        if (!is_wrapper(name, n) && k + n + 2 < NAME_SIZE) {
            if (k)
                out[k++] = '.';
            memcpy(out + k, name, n);
            k += n;
        }
        name += n + (name[n] == '.');
    }
    out[k] = 0;
}

/* Does name, without wrappers, end with mark?  *root = bytes before it. */
static int ends_with_mark(const char *name, const char *mark, size_t *root) {
    size_t n = strlen(name), m = strlen(mark);
    *root = 0;
    while (m) {
        if (!n)
            return 0;
        size_t a = n, b = m;
        while (a && name[a - 1] != '.')
            a--;
        while (b && mark[b - 1] != '.')
            b--;
        if (!is_wrapper(name + a, n - a)) {
            if (n - a != m - b || memcmp(name + a, mark + b, n - a))
                return 0;
            m = b ? b - 1 : 0;
            *root = a;
        }
        n = a ? a - 1 : 0;
    }
    return 1;
}

/* word in a part of a key, where a word begins and ends: "model_ema", "EMAModel", "ema2". */
static int has_word(const char *part, size_t n, const char *word) {
    size_t m = strlen(word);
    for (size_t i = 0; i + m <= n; i++) {
        size_t k = 0;
        while (k < m && tolower((unsigned char)part[i + k]) == word[k])
            k++;
        if (k < m)
            continue;
        int begins = !i || !isalpha((unsigned char)part[i - 1]) ||
                     (islower((unsigned char)part[i - 1]) && isupper((unsigned char)part[i]));
        const char *rest = part + i + m;
        size_t left = n - i - m;
        int ends = !left || !islower((unsigned char)*rest) || !strncasecmp(rest, "model", 5) ||
                   !strncasecmp(rest, "net", 3);
        if (begins && ends)
            return 1;
    }
    return 0;
}

static int any_word(const char *part, size_t n, const char *const *words) {
    for (; *words; words++)
        if (has_word(part, n, *words))
            return 1;
    return 0;
}

/* The part nearest to the names decides: "ema.online_model" is the raw model of ema-pytorch, and
 * the averages of Adam are no model. */
int ds_weights_is_averaged(const char *key, size_t n) {
    static const char *const raw[] = {"online",  "raw",    "student", "live", "backup",
                                      "non_ema", "nonema", "no_ema",  NULL};
    static const char *const averaged[] = {"ema",     "ewma", "shadow", "swa", "averaged",
                                           "average", "avg",  "polyak", NULL};
    while (n) {
        if (key[n - 1] == '.')
            n--;
        size_t at = n;
        while (at && key[at - 1] != '.')
            at--;
        if (any_word(key + at, n - at, raw) || has_word(key + at, n - at, "exp_avg"))
            return 0;
        if (any_word(key + at, n - at, averaged))
            return 1;
        n = at;
    }
    return 0;
}

/* Optimizers keep numbers under the names of the parameters that are no parameters. */
static int is_optimizer(const char *key, size_t n) {
    static const char *const words[] = {"exp_avg", "optimizer", "optim", "momentum",
                                        "grad",    "grads",     NULL};
    return any_word(key, n, words);
}

/* ---------------------------------------------------------------- finding models */

static int find_prefix(const models *k, const char *prefix, size_t n) {
    for (int i = 0; i < k->count; i++)
        if (k->list[i].form == NAMED && k->list[i].len == n &&
            !strncmp(k->list[i].prefix, prefix, n))
            return i;
    return -1;
}

static void add_model(models *k, const char *prefix, size_t n, enum form form, int like,
                      const ds_weights_item *first) {
    if (k->count == MODELS_MAX)
        return;
    k->list[k->count++] = (model){.prefix = ds_xasprintf("%.*s", (int)n, prefix),
                                  .len = n,
                                  .nest = first->nest,
                                  .form = form,
                                  .like = like,
                                  .averaged = ds_weights_is_averaged(prefix, n),
                                  .first = first};
}

/* Bytes of key without the wrapper that it ends with, n where it ends with none. */
static size_t without_wrapper(const char *key, size_t n) {
    size_t at = n ? n - 1 : 0;
    while (at && key[at - 1] != '.')
        at--;
    return n && is_wrapper(key + at, n - 1 - at) ? at : n;
}

/* AveragedModel of torch.optim.swa_utils: its counter stands beside "module.", and more wrappers
 * are inside of that when the model had some. */
static int has_counter(const models *k, const model *m) {
    char name[NAME_SIZE];
    for (size_t n = m->len, next;; n = next) {
        snprintf(name, sizeof name, "%.*sn_averaged", (int)n, m->prefix);
        if (ds_weights_find(k->w, name))
            return 1;
        if ((next = without_wrapper(m->prefix, n)) == n)
            return 0;
    }
}

/* Wrappers at the end of a prefix belong to the names ("_modules." stands before some of them
 * only), unless the shorter prefix is another model's. */
static void trim_wrappers(models *k, model *m) {
    size_t n = m->len, next;
    while ((next = without_wrapper(m->prefix, n)) < n && next >= m->nest)
        n = next;
    if (n < m->len && find_prefix(k, m->prefix, n) < 0) {
        m->prefix[n] = 0;
        m->len = n;
    }
}

static void find_named(models *k) {
    for (size_t i = 0; i < k->w->count; i++) {
        const ds_weights_item *it = &k->w->items[i];
        size_t root;
        for (int m = 0; k->marks[m]; m++)
            if (ends_with_mark(it->t.name, k->marks[m], &root) && !is_optimizer(it->t.name, root) &&
                find_prefix(k, it->t.name, root) < 0)
                add_model(k, it->t.name, root, NAMED, -1, it);
    }
    for (int i = 0; i < k->count; i++)
        k->list[i].averaged |= has_counter(k, &k->list[i]);
    for (int i = 0; i < k->count; i++)
        trim_wrappers(k, &k->list[i]);
}

/* Bytes of a DOTLESS prefix that are the name of its container. */
static size_t container(const model *m) {
    size_t n = m->len;
    while (n && m->prefix[n - 1] != '.')
        n--;
    return n;
}

/* The NAMED model that an item belongs to: the longest prefix at the same depth of dicts. */
static int owner_of(const models *k, const ds_weights_item *it) {
    int best = -1;
    if (k->owner && it >= k->w->items && it < k->w->items + k->w->count)
        return k->owner[it - k->w->items];
    for (int i = 0; i < k->count; i++) {
        const model *m = &k->list[i];
        if (m->form == NAMED && m->nest == it->nest && !strncmp(m->prefix, it->t.name, m->len) &&
            (best < 0 || m->len > k->list[best].len))
            best = i;
    }
    for (int i = 0; best >= 0 && i < k->count; i++) {
        const model *m = &k->list[i];
        size_t n = container(m) > k->list[best].len ? container(m) : m->len;
        if (m->form == DOTLESS && n > k->list[best].len && !strncmp(m->prefix, it->t.name, n))
            return -1;
    }
    return best;
}

/* A buffer's name may have no dots: they are left out (LitEma) or replaced. */
static const char joints[] = {0, '_', '-', '/', ':'};

static void without_dots(const char *name, char joint, char out[NAME_SIZE]) {
    size_t n = 0;
    for (; *name && n + 1 < NAME_SIZE; name++)
        if (*name != '.' || joint)
            out[n++] = *name == '.' ? joint : *name;
    out[n] = 0;
}

static int same_shape(const ds_weights_item *a, const ds_weights_item *b) {
    int same = a->t.ndim == b->t.ndim;
    for (int i = 0; same && i < a->t.ndim; i++)
        same = a->t.shape[i] == b->t.shape[i];
    return same;
}

/* Its counterpart in a DOTLESS model, or NULL. */
static const ds_weights_item *dotless_twin(const models *k, const model *m,
                                           const ds_weights_item *it) {
    char flat[NAME_SIZE], name[2 * NAME_SIZE];
    without_dots(it->t.name + k->list[m->like].len, m->joint, flat);
    snprintf(name, sizeof name, "%s%s", m->prefix, flat);
    const ds_weights_item *twin = (const ds_weights_item *)ds_weights_find(k->w, name);
    return twin && same_shape(twin, it) ? twin : NULL;
}

static void find_dotless(models *k) {
    int named = k->count;
    for (size_t c = 0; c < (size_t)named * sizeof joints; c++) {
        int r = (int)(c / sizeof joints);
        char flat[NAME_SIZE], joint = joints[c % sizeof joints];
        without_dots(k->list[r].first->t.name + k->list[r].len, joint, flat);
        for (size_t i = 0; i < k->w->count; i++) {
            const char *name = k->w->items[i].t.name;
            size_t n = strlen(name), m = strlen(flat);
            if (n <= m || strcmp(name + n - m, flat) || !ds_weights_is_averaged(name, n - m) ||
                k->count == MODELS_MAX)
                continue;
            add_model(k, name, n - m, DOTLESS, r, &k->w->items[i]);
            k->list[k->count - 1].joint = joint;
        }
    }
}

/* Tensors that are not trained, so that no average of theirs is kept. */
static int is_constant(const char *name) {
    static const char *const ends[] = {"pos_embed", "running_mean", "running_var",
                                       "num_batches_tracked"};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        size_t n = strlen(name), m = strlen(ends[i]);
        if (n >= m && !strcmp(name + n - m, ends[i]))
            return 1;
    }
    return 0;
}

static int by_order(const void *a, const void *b) {
    const ds_weights_item *const *x = a, *const *y = b;
    return (*x)->order < (*y)->order ? -1 : (*x)->order > (*y)->order;
}

/* The items of a NAMED model, or of a list, in the order of the file; malloc'ed. */
static const ds_weights_item **members(const models *k, int index, const model *list, int constants,
                                       size_t *count) {
    const ds_weights_item **out = ds_xcalloc(k->w->count + 1, sizeof *out);
    *count = 0;
    for (size_t i = 0; i < k->w->count; i++) {
        const ds_weights_item *it = &k->w->items[i];
        int in = list ? it->nest == list->len && it->listed &&
                            !strncmp(it->t.name, list->prefix, list->len)
                      : owner_of(k, it) == index && (constants || !is_constant(it->t.name));
        if (in)
            out[(*count)++] = it;
    }
    qsort(out, *count, sizeof *out, by_order);
    return out;
}

/* Do the tensors of a list have the shapes of the model's, one after the other?  constants: with
 * those that are not trained. */
static int list_fits(const models *k, const model *m, int constants) {
    size_t n, count;
    const ds_weights_item **list = members(k, 0, m, 1, &n),
                          **named = members(k, m->like, NULL, constants, &count);
    int fits = n && n == count;
    for (size_t i = 0; fits && i < n; i++)
        fits = same_shape(list[i], named[i]);
    free(list);
    free(named);
    return fits;
}

/* Averaged lists; one that fits no model here gets like = -1. */
static void find_listed(models *k) {
    int named = k->count;
    for (size_t i = 0; i < k->w->count; i++) {
        const ds_weights_item *it = &k->w->items[i];
        size_t n = it->nest;
        if (!it->listed || strcmp(it->t.name + n, "0") || !ds_weights_is_averaged(it->t.name, n))
            continue;
        if (k->count == MODELS_MAX)
            return;
        add_model(k, it->t.name, n, LISTED, -1, it);
        model *m = &k->list[k->count - 1];
        free(members(k, 0, m, 1, &m->tensors));
        size_t most = 0;
        for (int r = 0; r < named && m->like < 0; r++)
            if (k->list[r].form == NAMED) {
                m->like = r;
                size_t n_raw;
                if (!list_fits(k, m, 1) && !list_fits(k, m, 0))
                    m->like = -1;
                free(members(k, r, NULL, 1, &n_raw));
                most = n_raw > most ? n_raw : most;
            }
        if (m->like < 0 && (m->tensors < most / 2 || m->tensors > 2 * most))
            free(k->list[--k->count].prefix); /* of another model than we look for */
    }
}

/* ---------------------------------------------------------------- choosing */

/* Its key for people: without the '.' at the end. */
static void key_of(const model *m, char out[NAME_SIZE]) {
    size_t n = m->len;
    while (n && m->prefix[n - 1] == '.')
        n--;
    snprintf(out, NAME_SIZE, "%.*s", (int)n, m->prefix);
    if (!n)
        snprintf(out, NAME_SIZE, "(top level)");
}

static int ambiguous(const models *k, const int *in, int count, const char *why, ds_error *err) {
    char keys[300] = "", key[NAME_SIZE];
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
static int same_model(const models *k, int i, int j) {
    const model *a = &k->list[i], *b = &k->list[j];
    size_t n, m;
    if (!same_place(a->first, b->first))
        return 0;
    if (a->form != b->form || a->form == DOTLESS)
        return 1;
    const ds_weights_item **x = members(k, i, a->form == LISTED ? a : NULL, 1, &n),
                          **y = members(k, j, b->form == LISTED ? b : NULL, 1, &m);
    int same = n == m;
    for (size_t t = 0; same && t < n; t++)
        same = same_place(x[t], y[t]) && same_shape(x[t], y[t]);
    free(x);
    free(y);
    return same;
}

/* Those of the asked kind (1 averaged, 0 raw), each once. */
static int of_kind(const models *k, int averaged, int out[MODELS_MAX]) {
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

static int find_key(const models *k, const char *which) {
    char key[NAME_SIZE];
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
static int unmatched(const models *k, int raw, ds_error *err) {
    double own = 0, other = (double)k->w->averaged_skipped;
    const char *name = other > 0 ? k->w->averaged_name : "";
    for (size_t i = 0; i < k->w->count; i++) {
        const ds_weights_item *it = &k->w->items[i];
        const char *dot = strrchr(it->t.name, '.');
        int owner = owner_of(k, it);
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
        tensors += owner_of(k, &k->w->items[i]) == raw;
    int like = own > 0 && other >= 0.5 * own && other <= 2 * own;
    if (!like && (!objects || objects < tensors / 2))
        return 0;
    char key[NAME_SIZE];
    key_of(&k->list[raw], key);
    return ds_fail(err, DS_EINVAL,
                   "'%.120s' holds '%.60s' and averaged weights in a form that is not known, as "
                   "'%.80s'; --weights model takes the former",
                   k->w->path, key, name);
}

static int pick(const models *k, const char *which, int *chosen, const char **how, ds_error *err) {
    int averaged[MODELS_MAX], raw[MODELS_MAX];
    int na = of_kind(k, 1, averaged), nr = of_kind(k, 0, raw);
    int asked = which && *which;
    *how = asked ? "asked for" : na + nr == 1 ? "only one" : "averaged preferred";
    *chosen = asked ? find_key(k, which) : -1;
    if (*chosen < 0 && asked && strcmp(which, "ema") && strcmp(which, "model")) {
        int all[MODELS_MAX];
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
    const model *m = &k->list[*chosen];
    if (!asked && !na)
        return unmatched(k, *chosen, err);
    if (m->form == LISTED && m->like < 0) {
        char key[NAME_SIZE];
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
    char name[NAME_SIZE];
    strip(raw_name, name);
    ds_weights_item copy = *it;
    copy.t.name = ds_xstrdup(name);
    copy.what = it->what ? ds_xstrdup(it->what) : NULL;
    if (is_float(it) && !is_bookkeeping(name))
        to->items[to->count++] = copy;
    else
        to->values[to->value_count++] = copy;
}

/* What is not trained is not averaged either: it is the raw model's. */
static void take_constant(const models *k, const model *m, const ds_weights_item *it,
                          narrowed *to) {
    const char *name = it->t.name + k->list[m->like].len;
    char key[NAME_SIZE];
    key_of(&k->list[m->like], key);
    take(to, it, name);
    ds_import_report_assumed(k->w->report, name, json_string(key),
                             "the averaged weights have none, as it is not trained");
}

static int by_item_name(const void *a, const void *b) {
    return strcmp(((const ds_weights_item *)a)->t.name, ((const ds_weights_item *)b)->t.name);
}

static int lacks(const models *k, const model *m, const char *name, ds_error *err) {
    char key[NAME_SIZE];
    key_of(m, key);
    return ds_fail(err, DS_EINVAL,
                   "'%.120s': the averaged weights '%.60s' have none for '%.80s'; --weights model "
                   "takes the raw ones%s",
                   k->w->path, key, name,
                   m->form == NAMED ? ", --weights ema these as they are" : "");
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
static int take_named(const models *k, int index, narrowed *to, ds_error *err) {
    model m = k->list[index];
    int raw[MODELS_MAX], rc = 0;
    size_t n;
    const ds_weights_item **own = members(k, index, NULL, 1, &n);
    for (size_t i = 0; i < n; i++)
        take(to, own[i], own[i]->t.name + m.len);
    free(own);
    if (!m.averaged || of_kind(k, 0, raw) != 1)
        return 0;
    m.like = raw[0];
    size_t taken = to->count;
    qsort(to->items, taken, sizeof *to->items, by_item_name);
    own = members(k, m.like, NULL, 1, &n);
    for (size_t i = 0; !rc && i < n; i++) {
        char name[NAME_SIZE];
        strip(own[i]->t.name + k->list[m.like].len, name);
        if (!is_float(own[i]) || is_bookkeeping(name) || has_taken(to, taken, name))
            continue;
        if (is_constant(name))
            take_constant(k, &m, own[i], to);
        else if (!k->w->which || !*k->w->which)
            rc = lacks(k, &k->list[index], name, err);
    }
    free(own);
    return rc;
}

static int take_model(const models *k, int index, narrowed *to, ds_error *err) {
    const model *m = &k->list[index];
    if (m->form == NAMED)
        return take_named(k, index, to, err);
    int all = m->form == LISTED && list_fits(k, m, 1), rc = 0;
    size_t n, listed = 0, at = 0;
    const ds_weights_item **raw = members(k, m->like, NULL, 1, &n), **list = NULL;
    if (m->form == LISTED)
        list = members(k, 0, m, 1, &listed);
    for (size_t i = 0; !rc && i < n; i++) {
        const char *name = raw[i]->t.name + k->list[m->like].len;
        const ds_weights_item *it = m->form == DOTLESS          ? dotless_twin(k, m, raw[i])
                                    : all || !is_constant(name) ? list[at++]
                                                                : NULL;
        if (it)
            take(to, it, name);
        else if (is_constant(name))
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

static void say_rest(const models *k, const narrowed *to) {
    ds_import_report *r = k->w->report;
    size_t beside = k->w->skipped;
    const char *one = NULL;
    for (size_t i = 0; i < k->w->count; i++)
        if (owner_of(k, &k->w->items[i]) < 0) {
            beside++;
            one = one ? one : k->w->items[i].t.name;
        }
    for (int i = 0; i < k->count; i++) /* lists and names without dots have been said */
        if (k->list[i].form != NAMED)
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

static void say(models *k, int chosen, const char *how) {
    ds_weights *w = k->w;
    char key[NAME_SIZE];
    const model *m = &k->list[chosen];
    for (int i = 0; i < k->count; i++) {
        size_t n = 0;
        for (size_t t = 0; k->list[i].form == NAMED && t < w->count; t++)
            n += owner_of(k, &w->items[t]) == i;
        if (k->list[i].form == NAMED)
            k->list[i].tensors = n;
        else if (k->list[i].form == DOTLESS)
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

static int narrow(models *k, int chosen, const char *how, ds_error *err) {
    ds_weights *w = k->w;
    narrowed to = {.items = ds_xcalloc(w->count + 1, sizeof *to.items),
                   .values = ds_xcalloc(w->count + w->value_count + 1, sizeof *to.values)};
    int named = k->list[chosen].form == NAMED ? chosen : k->list[chosen].like;
    for (size_t i = 0; i < w->value_count; i++)
        if (owner_of(k, &w->values[i]) == named)
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
    const model *m = &k->list[chosen];
    uint32_t nest = m->form == NAMED ? m->nest : (uint32_t)m->len;
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
    models k = {.w = w, .marks = marks};
    int chosen, rc = 0;
    const char *how;
    find_named(&k);
    if (k.count) {
        find_dotless(&k);
        int *owner = ds_xcalloc(w->count + 1, sizeof *owner);
        for (size_t i = 0; i < w->count; i++)
            owner[i] = owner_of(&k, &w->items[i]);
        k.owner = owner;
        find_listed(&k);
        rc = pick(&k, w->which, &chosen, &how, err);
        rc = rc ? rc : narrow(&k, chosen, how, err);
    }
    for (int i = 0; i < k.count; i++)
        free(k.list[i].prefix);
    free(k.owner);
    return rc;
}
