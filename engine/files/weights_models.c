/* engine/files/weights_models.c - finds the models in a file, and which tensors are theirs.
 *
 * A model is found by a tensor that every model of its kind has (a mark); what stands before that
 * name is the model's key.  Averaged weights (EMA, SWA) are recognised by their key, by
 * `n_averaged` beside them, or by their form: names without dots as LitEma writes them (CompVis),
 * or a list in the order of another model's parameters (diffusers EMAModel, torch_ema).
 */
#include "base/mem.h"
#include "engine/files/weights_models.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

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
void ds_weights_strip(const char *name, char out[DS_WEIGHTS_NAME_SIZE]) {
    size_t k = 0;
    while (*name) {
        size_t n = strcspn(name, ".");
        if (!is_wrapper(name, n) && k + n + 2 < DS_WEIGHTS_NAME_SIZE) {
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

/* ---------------------------------------------------------------- finding ds_weights_models */

static int find_prefix(const ds_weights_models *k, const char *prefix, size_t n) {
    for (int i = 0; i < k->count; i++)
        if (k->list[i].form == DS_WEIGHTS_NAMED && k->list[i].len == n &&
            !strncmp(k->list[i].prefix, prefix, n))
            return i;
    return -1;
}

static void add_model(ds_weights_models *k, const char *prefix, size_t n, enum ds_weights_form form,
                      int like, const ds_weights_item *first) {
    if (k->count == DS_WEIGHTS_MODELS_MAX)
        return;
    k->list[k->count++] = (ds_weights_model){.prefix = ds_xasprintf("%.*s", (int)n, prefix),
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
static int has_counter(const ds_weights_models *k, const ds_weights_model *m) {
    char name[DS_WEIGHTS_NAME_SIZE];
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
static void trim_wrappers(ds_weights_models *k, ds_weights_model *m) {
    size_t n = m->len, next;
    while ((next = without_wrapper(m->prefix, n)) < n && next >= m->nest)
        n = next;
    if (n < m->len && find_prefix(k, m->prefix, n) < 0) {
        m->prefix[n] = 0;
        m->len = n;
    }
}

void ds_weights_find_named(ds_weights_models *k) {
    for (size_t i = 0; i < k->w->count; i++) {
        const ds_weights_item *it = &k->w->items[i];
        size_t root;
        for (int m = 0; k->marks[m]; m++)
            if (ends_with_mark(it->t.name, k->marks[m], &root) && !is_optimizer(it->t.name, root) &&
                find_prefix(k, it->t.name, root) < 0)
                add_model(k, it->t.name, root, DS_WEIGHTS_NAMED, -1, it);
    }
    for (int i = 0; i < k->count; i++)
        k->list[i].averaged |= has_counter(k, &k->list[i]);
    for (int i = 0; i < k->count; i++)
        trim_wrappers(k, &k->list[i]);
}

/* Bytes of a DS_WEIGHTS_DOTLESS prefix that are the name of its container. */
static size_t container(const ds_weights_model *m) {
    size_t n = m->len;
    while (n && m->prefix[n - 1] != '.')
        n--;
    return n;
}

/* The longest prefix at the same depth of dicts. */
int ds_weights_owner_of(const ds_weights_models *k, const ds_weights_item *it) {
    int best = -1;
    if (k->owner && it >= k->w->items && it < k->w->items + k->w->count)
        return k->owner[it - k->w->items];
    for (int i = 0; i < k->count; i++) {
        const ds_weights_model *m = &k->list[i];
        if (m->form == DS_WEIGHTS_NAMED && m->nest == it->nest &&
            !strncmp(m->prefix, it->t.name, m->len) && (best < 0 || m->len > k->list[best].len))
            best = i;
    }
    for (int i = 0; best >= 0 && i < k->count; i++) {
        const ds_weights_model *m = &k->list[i];
        size_t n = container(m) > k->list[best].len ? container(m) : m->len;
        if (m->form == DS_WEIGHTS_DOTLESS && n > k->list[best].len &&
            !strncmp(m->prefix, it->t.name, n))
            return -1;
    }
    return best;
}

/* A buffer's name may have no dots: they are left out (LitEma) or replaced. */
static const char joints[] = {0, '_', '-', '/', ':'};

static void without_dots(const char *name, char joint, char out[DS_WEIGHTS_NAME_SIZE]) {
    size_t n = 0;
    for (; *name && n + 1 < DS_WEIGHTS_NAME_SIZE; name++)
        if (*name != '.' || joint)
            out[n++] = *name == '.' ? joint : *name;
    out[n] = 0;
}

int ds_weights_same_shape(const ds_weights_item *a, const ds_weights_item *b) {
    int same = a->t.ndim == b->t.ndim;
    for (int i = 0; same && i < a->t.ndim; i++)
        same = a->t.shape[i] == b->t.shape[i];
    return same;
}

/* Its counterpart in a DS_WEIGHTS_DOTLESS model, or NULL. */
const ds_weights_item *ds_weights_dotless_twin(const ds_weights_models *k,
                                               const ds_weights_model *m,
                                               const ds_weights_item *it) {
    char flat[DS_WEIGHTS_NAME_SIZE], name[2 * DS_WEIGHTS_NAME_SIZE];
    without_dots(it->t.name + k->list[m->like].len, m->joint, flat);
    snprintf(name, sizeof name, "%s%s", m->prefix, flat);
    const ds_weights_item *twin = (const ds_weights_item *)ds_weights_find(k->w, name);
    return twin && ds_weights_same_shape(twin, it) ? twin : NULL;
}

void ds_weights_find_dotless(ds_weights_models *k) {
    int named = k->count;
    for (size_t c = 0; c < (size_t)named * sizeof joints; c++) {
        int r = (int)(c / sizeof joints);
        char flat[DS_WEIGHTS_NAME_SIZE], joint = joints[c % sizeof joints];
        without_dots(k->list[r].first->t.name + k->list[r].len, joint, flat);
        for (size_t i = 0; i < k->w->count; i++) {
            const char *name = k->w->items[i].t.name;
            size_t n = strlen(name), m = strlen(flat);
            if (n <= m || strcmp(name + n - m, flat) || !ds_weights_is_averaged(name, n - m) ||
                k->count == DS_WEIGHTS_MODELS_MAX)
                continue;
            add_model(k, name, n - m, DS_WEIGHTS_DOTLESS, r, &k->w->items[i]);
            k->list[k->count - 1].joint = joint;
        }
    }
}

/* Tensors that are not trained, so that no average of theirs is kept. */
int ds_weights_is_constant(const char *name) {
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

/* The items of a DS_WEIGHTS_NAMED model, or of a list, in the order of the file; malloc'ed. */
const ds_weights_item **ds_weights_members(const ds_weights_models *k, int index,
                                           const ds_weights_model *list, int constants,
                                           size_t *count) {
    const ds_weights_item **out = ds_xcalloc(k->w->count + 1, sizeof *out);
    *count = 0;
    for (size_t i = 0; i < k->w->count; i++) {
        const ds_weights_item *it = &k->w->items[i];
        int in = list ? it->nest == list->len && it->listed &&
                            !strncmp(it->t.name, list->prefix, list->len)
                      : ds_weights_owner_of(k, it) == index &&
                            (constants || !ds_weights_is_constant(it->t.name));
        if (in)
            out[(*count)++] = it;
    }
    qsort(out, *count, sizeof *out, by_order);
    return out;
}

/* Do the tensors of a list have the shapes of the model's, one after the other?  constants: with
 * those that are not trained. */
int ds_weights_list_fits(const ds_weights_models *k, const ds_weights_model *m, int constants) {
    size_t n, count;
    const ds_weights_item **list = ds_weights_members(k, 0, m, 1, &n),
                          **named = ds_weights_members(k, m->like, NULL, constants, &count);
    int fits = n && n == count;
    for (size_t i = 0; fits && i < n; i++)
        fits = ds_weights_same_shape(list[i], named[i]);
    free(list);
    free(named);
    return fits;
}

/* Averaged lists; one that fits no model here gets like = -1. */
void ds_weights_find_listed(ds_weights_models *k) {
    int named = k->count;
    for (size_t i = 0; i < k->w->count; i++) {
        const ds_weights_item *it = &k->w->items[i];
        size_t n = it->nest;
        if (!it->listed || strcmp(it->t.name + n, "0") || !ds_weights_is_averaged(it->t.name, n))
            continue;
        if (k->count == DS_WEIGHTS_MODELS_MAX)
            return;
        add_model(k, it->t.name, n, DS_WEIGHTS_LISTED, -1, it);
        ds_weights_model *m = &k->list[k->count - 1];
        free(ds_weights_members(k, 0, m, 1, &m->tensors));
        size_t most = 0;
        for (int r = 0; r < named && m->like < 0; r++)
            if (k->list[r].form == DS_WEIGHTS_NAMED) {
                m->like = r;
                size_t n_raw;
                if (!ds_weights_list_fits(k, m, 1) && !ds_weights_list_fits(k, m, 0))
                    m->like = -1;
                free(ds_weights_members(k, r, NULL, 1, &n_raw));
                most = n_raw > most ? n_raw : most;
            }
        if (m->like < 0 && (m->tensors < most / 2 || m->tensors > 2 * most))
            free(k->list[--k->count].prefix); /* of another model than we look for */
    }
}
