/* engine/files/weights_torch.c - PyTorch checkpoints: the zip format and the one before it
 * (2016-2020).
 *
 * Zip (torch/serialization.py _save): PREFIX/data.pkl is the pickle, PREFIX/data/KEY the bytes of
 * storage KEY, usually stored without compression, PREFIX/byteorder says "little". Before
 * (_legacy_save): pickles one after another: magic number, protocol 1001, system, object, list of
 * storage keys; then for each key its number of elements (8 bytes) and its bytes.
 */
#include "base/mem.h"
#include "engine/files/pickle.h"
#include "engine/files/weights_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum {
    ENTRIES_MAX = 200000,
    RATIO_MAX = 100,
    KEYS_SHOWN = 6,
    PATH_SIZE = 1024,
    DEPTH_MAX = 64,
    CONFIG_MAX = 1 << 16,
    STEPS_MAX = 4 * DS_PICKLE_NODES_MAX
};
#define SLACK ((uint64_t)16 << 20) /* small archives may compress better than RATIO_MAX */

static const char way_out[] =
    "python3 -c \"import torch; torch.save(torch.load('IN', weights_only=True), 'OUT.pt')\"";

/* ---------------------------------------------------------------- walking over the object */

/* Where a storage lies: of a zip's entry (at 0) or of the file. */
typedef struct {
    int64_t entry;
    uint64_t at;
} place;

typedef int (*locate_fn)(void *user, const ds_pickle *p, const ds_pickle_storage *s, place *out,
                         ds_error *err);

typedef struct {
    ds_weights *w;
    int part;
    const ds_pickle *p;
    locate_fn locate;
    void *user;
    uint8_t *open; /* by node: we are inside it (a pickle may contain itself) */
    uint32_t steps;
    int depth, in_module; /* in_module: names of a module that was pickled whole */
    int unnamed;          /* below a key that is no text: only counted */
    char path[PATH_SIZE];
    size_t nest;
    char odd[160]; /* an object that is no tensor, for the message when there is none */
    ds_error *err;
} walker;

static int walk(walker *k, uint32_t node, size_t len);

/* Why a tensor or an object cannot be read, or NULL; malloc'ed. */
static char *why_not(const walker *k, const ds_pickle_node *v) {
    char name[170];
    if (v->kind == DS_PICKLE_OPAQUE) {
        ds_pickle_class(k->p, v, name, sizeof name);
        return ds_xasprintf("what the Python function or class '%s' makes, and nothing in a file "
                            "is run here",
                            name);
    }
    const ds_pickle_tensor *t = v->tensor;
    if (t->dtype == DS_ST_OTHER) {
        ds_pickle_class(k->p, ds_pickle_at(k->p, t->type), name, sizeof name);
        return ds_xasprintf(
            "%s%s", ds_pickle_at(k->p, t->type)->kind == DS_PICKLE_TEXT ? "" : "of type ", name);
    }
    int is_float = t->dtype == DS_ST_F32 || t->dtype == DS_ST_F16 || t->dtype == DS_ST_BF16 ||
                   t->dtype == DS_ST_F64;
    return t->negative && !is_float ? ds_xstrdup("negative integers") : NULL;
}

static int add_value(walker *k, const ds_pickle_node *v, size_t len, int listed) {
    char *what = why_not(k, v);
    ds_weights_item item = {.part = k->part, .nest = (uint32_t)k->nest, .listed = listed};
    const int64_t *stride = NULL;
    int rc = 0;
    if (k->unnamed) {
        k->w->skipped++;
        if (v->kind == DS_PICKLE_TENSOR && ds_weights_is_averaged(k->path, len)) {
            uint64_t count = 1;
            for (int i = 0; i < v->tensor->ndim; i++)
                count *= (uint64_t)v->tensor->shape[i];
            k->w->averaged_skipped += count;
            size_t n = len - (len && k->path[len - 1] == '.');
            snprintf(k->w->averaged_name, sizeof k->w->averaged_name, "%.*s", (int)n, k->path);
        }
        free(what);
        return 0;
    }
    item.what = what;
    if (v->kind == DS_PICKLE_TENSOR) {
        const ds_pickle_tensor *t = v->tensor;
        const ds_pickle_storage *s = ds_pickle_at(k->p, t->storage)->storage;
        place where = {0};
        if (!what && !(rc = k->locate(k->user, k->p, s, &where, k->err))) {
            item.entry = where.entry;
            item.at = where.at + t->offset * ds_st_dtype_size(t->dtype);
            stride = t->stride;
        }
        item.negative = t->negative;
        item.t.dtype = t->dtype;
        item.t.ndim = t->ndim;
        memcpy(item.t.shape, t->shape, sizeof item.t.shape);
    } else {
        item.object = 1;
        item.t.dtype = DS_ST_OTHER;
    }
    rc = rc ? rc : ds_weights_add(k->w, k->path, len, &item, stride, k->err);
    free(what);
    return rc;
}

/* A member of a dict or list whose name ends the path, of `len` bytes. */
static int member(walker *k, uint32_t node, size_t len, int listed) {
    const ds_pickle_node *v = ds_pickle_at(k->p, node);
    if (v->kind == DS_PICKLE_TENSOR)
        return add_value(k, v, len, listed);
    if (v->kind != DS_PICKLE_DICT && v->kind != DS_PICKLE_LIST && v->kind != DS_PICKLE_TUPLE &&
        v->kind != DS_PICKLE_OPAQUE)
        return 0;
    size_t nest = k->nest, before = k->w->count;
    if (v->kind == DS_PICKLE_OPAQUE && !k->odd[0])
        ds_pickle_class(k->p, v, k->odd, sizeof k->odd);
    if (len + 2 > PATH_SIZE)
        return 0;
    k->path[len] = '.';
    k->nest = k->in_module ? nest : len + 1;
    int rc = walk(k, node, len + 1);
    k->nest = nest;
    if (!rc && v->kind == DS_PICKLE_OPAQUE && k->w->count == before && !listed && !k->unnamed)
        rc = add_value(k, v, len, 0);
    return rc;
}

static int walk_dict(walker *k, const ds_pickle_node *dict, size_t len) {
    int rc = 0, unnamed = k->unnamed;
    for (uint32_t i = 0; !rc && i + 1 < dict->count; i += 2) {
        const ds_pickle_node *key = ds_pickle_at(k->p, dict->items[i]);
        int text = key->kind == DS_PICKLE_TEXT && key->count && len + key->count + 2 < PATH_SIZE &&
                   !memchr(key->text, 0, key->count);
        if (text)
            memcpy(k->path + len, key->text, key->count);
        k->unnamed = unnamed || !text;
        rc = member(k, dict->items[i + 1], len + (text ? key->count : 0), 0);
        k->unnamed = unnamed;
    }
    return rc;
}

static int walk_list(walker *k, const ds_pickle_node *list, size_t len) {
    int rc = 0;
    for (uint32_t i = 0; !rc && i < list->count; i++) {
        if (len + 12 > PATH_SIZE)
            return 0;
        int n = snprintf(k->path + len, 12, "%u", i);
        rc = member(k, list->items[i], len + (size_t)n, 1);
    }
    return rc;
}

/* An object's attributes are the dicts it is filled with: its state, alone or as (state, slots). */
static int walk_object(walker *k, const ds_pickle_node *v, size_t len) {
    int rc = 0, in_module = k->in_module;
    for (uint32_t i = 1; !rc && i < v->count; i++) {
        const ds_pickle_node *state = ds_pickle_at(k->p, v->items[i]);
        if (state->kind == DS_PICKLE_DICT && ds_pickle_get(k->p, state, "_modules"))
            k->in_module = 1;
        if (state->kind == DS_PICKLE_DICT)
            rc = walk_dict(k, state, len);
        for (uint32_t j = 0; state->kind == DS_PICKLE_TUPLE && i > 1 && !rc && j < state->count;
             j++)
            if (ds_pickle_at(k->p, state->items[j])->kind == DS_PICKLE_DICT)
                rc = walk_dict(k, ds_pickle_at(k->p, state->items[j]), len);
    }
    k->in_module = in_module;
    return rc;
}

/* Everything inside a node whose own path has len bytes, with the '.'. */
static int walk(walker *k, uint32_t node, size_t len) {
    const ds_pickle_node *v = ds_pickle_at(k->p, node);
    if (k->open[node] || k->depth == DEPTH_MAX)
        return 0;
    if (++k->steps > STEPS_MAX)
        return ds_fail(k->err, DS_ELIMIT, "'%.200s' has too many values inside each other",
                       k->w->path);
    k->open[node] = 1;
    k->depth++;
    int rc = v->kind == DS_PICKLE_DICT     ? walk_dict(k, v, len)
             : v->kind == DS_PICKLE_OPAQUE ? walk_object(k, v, len)
                                           : walk_list(k, v, len);
    k->depth--;
    k->open[node] = 0;
    return rc;
}

static void list_keys(const ds_pickle *p, const ds_pickle_node *dict, char *out, size_t size) {
    size_t len = 0;
    *out = 0;
    for (uint32_t i = 0;
         dict->kind == DS_PICKLE_DICT && i < dict->count && i < 2 * KEYS_SHOWN && len + 24 < size;
         i += 2) {
        const ds_pickle_node *k = ds_pickle_at(p, dict->items[i]);
        char text[20] = "?";
        for (uint32_t c = 0; k->kind == DS_PICKLE_TEXT && c < k->count && c < sizeof text - 1;
             c++) {
            text[c] = k->text[c] >= 0x20 && k->text[c] < 0x7f ? k->text[c] : '?';
            text[c + 1] = 0;
        }
        len += (size_t)snprintf(out + len, size - len, "%s'%s'", i ? ", " : "", text);
    }
}

static int no_tensor(const walker *k) {
    char keys[160];
    if (k->odd[0])
        return ds_fail(k->err, DS_EINVAL,
                       "'%.120s' holds no tensors, but what the Python function or class '%s' "
                       "makes, and nothing in a file is run here: save only the tensors (the "
                       "state_dict, best as safetensors) and give that file",
                       k->w->path, k->odd);
    list_keys(k->p, ds_pickle_at(k->p, ds_pickle_root(k->p)), keys, sizeof keys);
    return ds_fail(k->err, DS_EINVAL,
                   "'%.160s' holds no model that can be found: expected a state_dict, or a dict "
                   "with 'ema', 'state_dict' or 'model'%s%s",
                   k->w->path, *keys ? "; it has " : "", keys);
}

static int add_model(ds_weights *w, int part, const ds_pickle *p, locate_fn locate, void *user,
                     ds_error *err) {
    walker k = {.w = w, .part = part, .p = p, .locate = locate, .user = user, .err = err};
    uint32_t root = ds_pickle_root(p);
    const ds_pickle_node *top = ds_pickle_at(p, root);
    k.open = ds_xcalloc(ds_pickle_count(p), 1);
    if (top->kind == DS_PICKLE_OPAQUE)
        ds_pickle_class(p, top, k.odd, sizeof k.odd);
    int rc = 0;
    if (top->kind == DS_PICKLE_DICT || top->kind == DS_PICKLE_OPAQUE ||
        top->kind == DS_PICKLE_LIST || top->kind == DS_PICKLE_TUPLE)
        rc = walk(&k, root, 0);
    free(k.open);
    size_t tensors = 0;
    for (size_t i = 0; i < w->count; i++)
        tensors += !w->items[i].object;
    rc = rc ? rc : tensors ? 0 : no_tensor(&k);
    if (!rc && !w->args)
        w->args = ds_weights_read_args(p);
    return rc;
}

/* ---------------------------------------------------------------- zip */

static int zip_problem(const char *path, zip_error_t *e, ds_error *err) {
    int rc = ds_fail(err, zip_error_code_zip(e) == ZIP_ER_MEMORY ? DS_ENOMEM : DS_EINTEGRITY,
                     "'%.200s' is a damaged zip: %s", path, zip_error_strerror(e));
    zip_error_fini(e);
    return rc;
}

static int open_archive(ds_weights_part *part, ds_error *err) {
    int code;
    part->zip = zip_open(part->path, ZIP_RDONLY | ZIP_CHECKCONS, &code);
    if (part->zip)
        return 0;
    zip_error_t e;
    zip_error_init_with_code(&e, code);
    return zip_problem(part->path, &e, err);
}

/* Sums over all entries: they must fit side by side into the file, and not unpack to a flood. */
static int check_entries(const ds_weights_part *part, ds_error *err) {
    zip_int64_t n = zip_get_num_entries(part->zip, 0);
    uint64_t packed = 0, unpacked = 0, size = (uint64_t)part->sb.st_size;
    if (n > ENTRIES_MAX)
        return ds_fail(err, DS_ELIMIT, "'%.200s' has %lld entries, limit %d", part->path,
                       (long long)n, ENTRIES_MAX);
    for (zip_int64_t i = 0; i < n; i++) {
        zip_stat_t st;
        if (zip_stat_index(part->zip, (zip_uint64_t)i, 0, &st) || !(st.valid & ZIP_STAT_SIZE) ||
            !(st.valid & ZIP_STAT_COMP_SIZE) || st.size > DS_WEIGHTS_TOTAL_MAX ||
            st.comp_size > size)
            return ds_fail(err, DS_EINTEGRITY,
                           "'%.200s' is a damaged zip: entry %lld has an impossible size",
                           part->path, (long long)i);
        packed += st.comp_size;
        unpacked += st.size;
        if (packed > size)
            return ds_fail(err, DS_EINTEGRITY, "'%.200s' is not a plain zip: its entries overlap",
                           part->path);
        if (unpacked > RATIO_MAX * size + SLACK || unpacked > 4 * DS_WEIGHTS_TOTAL_MAX)
            return ds_fail(err, DS_ELIMIT,
                           "'%.200s' would unpack to more than %d times its %llu bytes, as no file "
                           "of weights does",
                           part->path, RATIO_MAX, (unsigned long long)size);
    }
    return 0;
}

/* The entry, its size known; refuses what needs a password or another method than store and
 * deflate. */
static int stat_entry(const ds_weights_part *part, zip_uint64_t entry, zip_stat_t *st,
                      ds_error *err) {
    if (zip_stat_index(part->zip, entry, 0, st))
        return ds_fail(err, DS_EINTEGRITY, "'%.200s' is a damaged zip", part->path);
    if ((st->valid & ZIP_STAT_ENCRYPTION_METHOD && st->encryption_method != ZIP_EM_NONE) ||
        (st->valid & ZIP_STAT_COMP_METHOD && st->comp_method != ZIP_CM_STORE &&
         st->comp_method != ZIP_CM_DEFLATE))
        return ds_fail(err, DS_EINVAL,
                       "'%.160s': entry '%.80s' is encrypted or packed in a way that PyTorch does "
                       "not use: save the file "
                       "again with PyTorch",
                       part->path, st->name);
    return 0;
}

static int skip_bytes(zip_file_t *f, const zip_stat_t *st, uint64_t n) {
    char buffer[4096];
    if (st->comp_method == ZIP_CM_STORE)
        return zip_fseek(f, (zip_int64_t)n, SEEK_SET);
    while (n) {
        zip_int64_t got = zip_fread(f, buffer, n < sizeof buffer ? n : sizeof buffer);
        if (got <= 0)
            return -1;
        n -= (uint64_t)got;
    }
    return 0;
}

/* Reading an entry to its end also checks its CRC. */
int ds_weights_read_entry(const ds_weights_part *part, int64_t entry, uint64_t at, void *dst,
                          size_t n, ds_error *err) {
    zip_stat_t st;
    int rc = stat_entry(part, (zip_uint64_t)entry, &st, err);
    if (rc)
        return rc;
    if (at > st.size || n > st.size - at)
        return ds_fail(err, DS_EINTEGRITY, "'%.200s': entry '%.80s' is too short", part->path,
                       st.name);
    if (st.comp_method != ZIP_CM_STORE && at > (uint64_t)64 << 20)
        return ds_fail(err, DS_EINVAL,
                       "'%.160s': entry '%.80s' is packed and shared by tensors: save the file "
                       "again with PyTorch",
                       part->path, st.name);
    zip_file_t *f = zip_fopen_index(part->zip, (zip_uint64_t)entry, 0);
    if (!f)
        return ds_fail(err, DS_EINTEGRITY, "'%.160s': cannot open entry '%.80s': %s", part->path,
                       st.name, zip_strerror(part->zip));
    int whole = at == 0 && n == st.size, bad = at > 0 && skip_bytes(f, &st, at);
    for (char *p = dst; !bad && n;) {
        zip_int64_t got = zip_fread(f, p, n < (size_t)1 << 30 ? n : (size_t)1 << 30);
        bad = got <= 0;
        p += bad ? 0 : got;
        n -= bad ? 0 : (size_t)got;
    }
    char extra;
    if (!bad && whole)
        bad = zip_fread(f, &extra, 1) != 0;
    if (bad)
        rc = ds_fail(err, DS_EINTEGRITY, "'%.160s': entry '%.80s' is damaged: %s", part->path,
                     st.name, zip_file_strerror(f));
    zip_fclose(f);
    return rc;
}

/* The one entry called PREFIX/data.pkl (or data.pkl): its index, and PREFIX/ as *prefix bytes of
 * its name. */
static int find_pickle(const ds_weights_part *part, zip_uint64_t *index, size_t *prefix,
                       ds_error *err) {
    static const char tail[] = "data.pkl";
    int found = 0;
    for (zip_int64_t i = 0, n = zip_get_num_entries(part->zip, 0); i < n; i++) {
        const char *name = zip_get_name(part->zip, (zip_uint64_t)i, ZIP_FL_ENC_RAW);
        size_t len = name ? strlen(name) : 0, rest = sizeof tail - 1;
        if (len < rest || strcmp(name + len - rest, tail) ||
            (len > rest && name[len - rest - 1] != '/'))
            continue;
        if (found++)
            return ds_fail(err, DS_EINTEGRITY, "'%.200s' has several entries 'data.pkl'",
                           part->path);
        *index = (zip_uint64_t)i;
        *prefix = len - rest;
    }
    return found
               ? 0
               : ds_fail(err, DS_EINVAL,
                         "'%.200s' is a zip but no PyTorch checkpoint: it has no entry 'data.pkl'",
                         part->path);
}

typedef struct {
    const ds_weights_part *part;
    char *prefix;
} zip_place;

static int locate_entry(void *user, const ds_pickle *p, const ds_pickle_storage *s, place *out,
                        ds_error *err) {
    const zip_place *z = user;
    const ds_pickle_node *key = ds_pickle_at(p, s->key);
    if (memchr(key->text, 0, key->count))
        return ds_fail(err, DS_EINTEGRITY, "'%.200s' has a storage with an unusable name",
                       z->part->path);
    char *name = ds_xasprintf("%sdata/%.*s", z->prefix, (int)key->count, key->text);
    zip_int64_t entry = zip_name_locate(z->part->zip, name, ZIP_FL_ENC_RAW);
    zip_stat_t st;
    int rc = entry < 0
                 ? ds_fail(err, DS_EINTEGRITY, "'%.160s' lacks the data of a tensor: entry '%.80s'",
                           z->part->path, name)
                 : stat_entry(z->part, (zip_uint64_t)entry, &st, err);
    if (!rc && s->dtype != DS_ST_OTHER && st.size != s->count * ds_st_dtype_size(s->dtype))
        rc = ds_fail(err, DS_EINTEGRITY,
                     "'%.160s': entry '%.60s' has %llu bytes, its tensors need %llu", z->part->path,
                     name, (unsigned long long)st.size,
                     (unsigned long long)(s->count * ds_st_dtype_size(s->dtype)));
    *out = (place){.entry = entry};
    free(name);
    return rc;
}

static int check_byteorder(const ds_weights_part *part, const char *prefix, ds_error *err) {
    char *name = ds_xasprintf("%sbyteorder", prefix), text[8] = "";
    zip_int64_t entry = zip_name_locate(part->zip, name, ZIP_FL_ENC_RAW);
    free(name);
    zip_stat_t st;
    if (entry < 0) /* older writers */
        return 0;
    int rc = stat_entry(part, (zip_uint64_t)entry, &st, err);
    if (!rc && st.size == 6)
        rc = ds_weights_read_entry(part, entry, 0, text, 6, err);
    if (!rc && strcmp(text, "little"))
        rc = ds_fail(err, DS_EINVAL,
                     "'%.160s' was written on a big-endian machine: save it on another one: %s",
                     part->path, way_out);
    return rc;
}

/* What our export put beside the pickle (worker/convert/export_pt.c). */
static int read_own_config(ds_weights *w, const ds_weights_part *part, const char *prefix,
                           ds_error *err) {
    char *name = ds_xasprintf("%sextra/diffscaler.config", prefix);
    zip_int64_t entry = zip_name_locate(part->zip, name, ZIP_FL_ENC_RAW);
    free(name);
    zip_stat_t st;
    if (entry < 0)
        return 0;
    int rc = stat_entry(part, (zip_uint64_t)entry, &st, err);
    if (rc || st.size > CONFIG_MAX)
        return rc;
    char *text = ds_xcalloc(1, (size_t)st.size + 1);
    if ((rc = ds_weights_read_entry(part, entry, 0, text, (size_t)st.size, err)))
        free(text);
    else
        w->own_config = text;
    return rc;
}

int ds_weights_open_zip(ds_weights *w, int part, ds_error *err) {
    ds_weights_part *f = &w->parts[part];
    zip_uint64_t index = 0;
    size_t prefix = 0;
    zip_stat_t st;
    int rc = open_archive(f, err);
    rc = rc ? rc : check_entries(f, err);
    rc = rc ? rc : find_pickle(f, &index, &prefix, err);
    rc = rc ? rc : stat_entry(f, index, &st, err);
    if (!rc && st.size > DS_WEIGHTS_PICKLE_MAX)
        rc = ds_fail(err, DS_ELIMIT, "'%.200s': its pickle has %llu bytes, limit %zu", f->path,
                     (unsigned long long)st.size, DS_WEIGHTS_PICKLE_MAX);
    if (rc)
        return rc;
    zip_place user = {
        f, ds_xasprintf("%.*s", (int)prefix, zip_get_name(f->zip, index, ZIP_FL_ENC_RAW))};
    char *bytes = ds_xmalloc((size_t)st.size);
    ds_pickle *p = NULL;
    rc = check_byteorder(f, user.prefix, err);
    rc = rc ? rc : ds_weights_read_entry(f, (int64_t)index, 0, bytes, (size_t)st.size, err);
    rc = rc ? rc : ds_pickle_read(&p, f->path, bytes, (size_t)st.size, NULL, err);
    rc = rc ? rc : add_model(w, part, p, locate_entry, &user, err);
    rc = rc ? rc : read_own_config(w, f, user.prefix, err);
    ds_pickle_free(p);
    free(bytes);
    free(user.prefix);
    return rc;
}

/* ---------------------------------------------------------------- before the zip */

typedef struct {
    const ds_pickle_storage *s;
    const char *key;
    uint32_t key_size;
    uint64_t at; /* of its data in the file; 0 = not seen yet */
} legacy_storage;

typedef struct {
    const char *path;
    legacy_storage *list; /* sorted by key */
    size_t count;
} legacy;

static int by_key(const void *a, const void *b) {
    const legacy_storage *x = a, *y = b;
    uint32_t n = x->key_size < y->key_size ? x->key_size : y->key_size;
    int c = memcmp(x->key, y->key, n);
    return c ? c : x->key_size < y->key_size ? -1 : x->key_size > y->key_size;
}

/* All storages of the object; the same key must mean the same storage. */
static int collect_storages(legacy *l, const ds_pickle *p, ds_error *err) {
    uint32_t n = ds_pickle_count(p);
    for (uint32_t i = 0; i < n; i++)
        l->count += ds_pickle_at(p, i)->kind == DS_PICKLE_STORAGE;
    l->list = ds_xcalloc(l->count + 1, sizeof *l->list);
    size_t k = 0, kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (ds_pickle_at(p, i)->kind == DS_PICKLE_STORAGE) {
            const ds_pickle_storage *s = ds_pickle_at(p, i)->storage;
            const ds_pickle_node *key = ds_pickle_at(p, s->key);
            l->list[k++] = (legacy_storage){.s = s, .key = key->text, .key_size = key->count};
        }
    qsort(l->list, l->count, sizeof *l->list, by_key);
    for (size_t i = 0; i < l->count; i++) {
        const legacy_storage *last = kept ? &l->list[kept - 1] : NULL;
        if (!last || by_key(last, &l->list[i]))
            l->list[kept++] = l->list[i];
        else if (last->s->count != l->list[i].s->count || last->s->dtype != l->list[i].s->dtype)
            return ds_fail(err, DS_EINTEGRITY, "'%.200s' has two storages of one name", l->path);
    }
    l->count = kept;
    return 0;
}

/* The list of keys gives the order of the data; each is preceded by its number of elements. */
static int place_storages(legacy *l, const ds_pickle *keys, const uint8_t *data, size_t size,
                          size_t at, ds_error *err) {
    const ds_pickle_node *list = ds_pickle_at(keys, ds_pickle_root(keys));
    if (list->kind != DS_PICKLE_LIST)
        return ds_fail(err, DS_EINTEGRITY, "'%.200s' has no list of storages", l->path);
    for (uint32_t i = 0; i < list->count; i++) {
        const ds_pickle_node *k = ds_pickle_at(keys, list->items[i]);
        legacy_storage want = {.key = k->text, .key_size = k->count};
        legacy_storage *s = k->kind == DS_PICKLE_TEXT
                                ? bsearch(&want, l->list, l->count, sizeof want, by_key)
                                : NULL;
        uint64_t count = 0, bytes;
        if (!s || s->at)
            return ds_fail(err, DS_EINTEGRITY,
                           "'%.200s' lists a storage that no tensor has, or twice", l->path);
        if (s->s->dtype == DS_ST_OTHER)
            return ds_fail(err, DS_EINVAL,
                           "'%.160s' has a storage of a type that is not supported, whose size is "
                           "not known: save it again: %s",
                           l->path, way_out);
        if (size - at >= 8)
            memcpy(&count, data + at, 8);
        bytes = s->s->count * ds_st_dtype_size(s->s->dtype);
        if (size - at < 8 || count != s->s->count || bytes > size - at - 8)
            return ds_fail(
                err, DS_EINTEGRITY,
                "'%.200s' is cut off, or a storage has another size than its tensors say", l->path);
        s->at = at + 8;
        at += 8 + (size_t)bytes;
    }
    return 0;
}

static int locate_legacy(void *user, const ds_pickle *p, const ds_pickle_storage *s, place *out,
                         ds_error *err) {
    const legacy *l = user;
    const ds_pickle_node *key = ds_pickle_at(p, s->key);
    legacy_storage want = {.key = key->text, .key_size = key->count};
    const legacy_storage *hit = bsearch(&want, l->list, l->count, sizeof want, by_key);
    if (!hit || !hit->at)
        return ds_fail(err, DS_EINTEGRITY, "'%.200s' lacks the data of a storage", l->path);
    *out = (place){.entry = -1, .at = hit->at};
    return 0;
}

/* One pickle of the sequence. */
static int next_pickle(const char *path, const uint8_t *data, size_t size, size_t *at,
                       ds_pickle **out, ds_error *err) {
    size_t used, n = size - *at < DS_WEIGHTS_PICKLE_MAX ? size - *at : DS_WEIGHTS_PICKLE_MAX;
    int rc = ds_pickle_read(out, path, data + *at, n, &used, err);
    if (!rc)
        *at += used;
    return rc;
}

static int read_legacy(ds_weights *w, int part, const uint8_t *data, size_t size, ds_error *err) {
    enum { PROTOCOL, SYSTEM, OBJECT, KEYS, PICKLES };
    static const char magic[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    const char *path = w->parts[part].path;
    size_t at = sizeof magic - 1;
    if (size < at || memcmp(data, magic, at))
        return ds_fail(
            err, DS_EINVAL,
            "'%.160s' is a Python pickle but no PyTorch checkpoint: save its tensors with %s", path,
            "torch.save or as safetensors");
    ds_pickle *p[PICKLES] = {0};
    legacy l = {.path = path};
    int rc = 0;
    for (int i = 0; !rc && i < PICKLES; i++)
        rc = next_pickle(path, data, size, &at, &p[i], err);
    if (!rc) {
        const ds_pickle_node *little = ds_pickle_get(
            p[SYSTEM], ds_pickle_at(p[SYSTEM], ds_pickle_root(p[SYSTEM])), "little_endian");
        const ds_pickle_node *protocol = ds_pickle_at(p[PROTOCOL], ds_pickle_root(p[PROTOCOL]));
        if (protocol->kind != DS_PICKLE_INT || protocol->i != 1001 || !little ||
            little->kind != DS_PICKLE_BOOL || !little->i)
            rc = ds_fail(err, DS_EINVAL,
                         "'%.120s' is a PyTorch checkpoint of an unknown kind: save it again: %s",
                         path, way_out);
    }
    rc = rc ? rc : collect_storages(&l, p[OBJECT], err);
    rc = rc ? rc : place_storages(&l, p[KEYS], data, size, at, err);
    rc = rc ? rc : add_model(w, part, p[OBJECT], locate_legacy, &l, err);
    for (int i = 0; i < PICKLES; i++)
        ds_pickle_free(p[i]);
    free(l.list);
    return rc;
}

int ds_weights_open_legacy(ds_weights *w, int part, ds_error *err) {
    const ds_weights_part *f = &w->parts[part];
    size_t size = (size_t)f->sb.st_size;
    void *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (map == MAP_FAILED)
        return ds_fail_errno(err, "cannot map '%s'", f->path);
    int rc = read_legacy(w, part, map, size, err);
    munmap(map, size);
    return rc;
}
