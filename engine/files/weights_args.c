/* engine/files/weights_args.c - the settings of a training program that stand in its checkpoint. */
#include "base/mem.h"
#include "engine/files/foreign_config.h"
#include "engine/files/pickle.h"
#include "engine/files/safetensors.h"
#include "engine/files/weights_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    ARGS_DEPTH = DS_FOREIGN_DEPTH,
    ARGS_VALUES = 100000,
    ARGS_LIST = 64, /* members of a list: names of files may be many */
    ARGS_TEXT = 4096,
    ARGS_JSON = 1 << 20
};

typedef struct {
    const ds_pickle *p;
    int left;      /* values: an object may be in many places */
    uint8_t *open; /* by node: we are inside it */
} reader;

static json_t *value_of(reader *r, uint32_t node, int depth);

static json_t *dict_of(reader *r, const ds_pickle_node *dict, int depth) {
    json_t *out = json_object();
    for (uint32_t i = 0; i + 1 < dict->count; i += 2) {
        const ds_pickle_node *key = ds_pickle_at(r->p, dict->items[i]);
        json_t *v = key->kind == DS_PICKLE_TEXT && key->count <= ARGS_TEXT
                        ? value_of(r, dict->items[i + 1], depth + 1)
                        : NULL;
        if (v)
            json_object_setn_new(out, key->text, key->count, v);
    }
    return out;
}

/* ---------------------------------------------------------------- objects */

static const ds_pickle_node *item(const reader *r, const ds_pickle_node *v, uint32_t i) {
    return v && i < v->count ? ds_pickle_at(r->p, v->items[i]) : NULL;
}

static int is_kind(const ds_pickle_node *v, enum ds_pickle_kind kind) {
    return v && v->kind == kind;
}

/* What an object was to be made of: member i of its arguments, or NULL. */
static const ds_pickle_node *argument(const reader *r, const ds_pickle_node *v, uint32_t i) {
    const ds_pickle_node *args = item(r, v, 1);
    return is_kind(args, DS_PICKLE_TUPLE) ? item(r, args, i) : NULL;
}

/* Bytes, as Python 3 puts them into protocol 2: _codecs.encode(text, "latin1"). */
static size_t bytes_of(const reader *r, const ds_pickle_node *v, uint8_t *out, size_t size) {
    char class[80];
    const ds_pickle_node *text = v;
    if (is_kind(v, DS_PICKLE_OPAQUE)) {
        ds_pickle_class(r->p, v, class, sizeof class);
        text = strcmp(class, "_codecs.encode") ? NULL : argument(r, v, 0);
    }
    if (!is_kind(text, DS_PICKLE_TEXT))
        return 0;
    size_t n = 0;
    for (uint32_t i = 0; i < text->count && n < size; i++) {
        uint8_t c = (uint8_t)text->text[i];
        if (text != v && (c & 0xe0) == 0xc0 && i + 1 < text->count)
            c = (uint8_t)((c & 3) << 6 | ((uint8_t)text->text[++i] & 0x3f));
        out[n++] = c;
    }
    return n;
}

/* numpy.core.multiarray.scalar(dtype("f8", False, True), bytes); NULL where it is none. */
static json_t *numpy_scalar(const reader *r, const ds_pickle_node *v) {
    const ds_pickle_node *dtype = argument(r, v, 0), *type = argument(r, dtype, 0);
    const ds_pickle_node *order = item(r, item(r, dtype, 2), 1);
    uint8_t b[8];
    double wide;
    float single;
    int64_t x = 0;
    if (!is_kind(dtype, DS_PICKLE_OPAQUE) || !is_kind(type, DS_PICKLE_TEXT) || type->count != 2 ||
        ds_pickle_is_text(order, ">"))
        return NULL;
    size_t n = (size_t)(type->text[1] - '0');
    if (n < 1 || n > 8 || bytes_of(r, argument(r, v, 1), b, sizeof b) != n)
        return NULL;
    for (size_t i = n; i--;)
        x = (int64_t)((uint64_t)x << 8 | b[i]);
    memcpy(&wide, &x, 8);
    memcpy(&single, &x, 4);
    switch (type->text[0]) {
    case 'b': return json_boolean(x != 0);
    case 'u': return json_integer(x);
    case 'i': return json_integer((int64_t)((uint64_t)x << (64 - 8 * n)) >> (64 - 8 * n));
    case 'f': return n == 8 ? json_real(wide) : n == 4 ? json_real((double)single) : NULL;
    default: return NULL;
    }
}

/* An object without attributes: the text that alone it is made of (an Enum's value, a path), else
 * its class, with a number that it is made of.  So that a setting is never as if it were not there.
 */
static json_t *named_object(const reader *r, const ds_pickle_node *v) {
    char class[170], text[200];
    const ds_pickle_node *first = argument(r, v, 0), *args = item(r, v, 1);
    ds_pickle_class(r->p, v, class, sizeof class);
    const char *last = strrchr(class, '.');
    json_t *number = last && !strcmp(last, ".scalar") ? numpy_scalar(r, v) : NULL;
    if (number)
        return number;
    int one = first && args->count == 1;
    if (one && first->kind == DS_PICKLE_TEXT && first->count <= ARGS_TEXT)
        return json_stringn(first->text, first->count);
    if (one && first->kind == DS_PICKLE_INT)
        snprintf(text, sizeof text, "%s(%lld)", class, (long long)first->i);
    else
        snprintf(text, sizeof text, "%s", class);
    return json_string(text);
}

/* The attributes of an object; OmegaConf keeps its members in `_content`, a value in `_val`. */
static json_t *object_of(reader *r, const ds_pickle_node *v, int depth) {
    for (uint32_t i = 1; i < v->count; i++) {
        const ds_pickle_node *state = ds_pickle_at(r->p, v->items[i]);
        if (state->kind != DS_PICKLE_DICT)
            continue;
        for (uint32_t k = 0; k + 1 < state->count; k += 2) {
            const ds_pickle_node *key = ds_pickle_at(r->p, state->items[k]);
            if (ds_pickle_is_text(key, "_content") || ds_pickle_is_text(key, "_val"))
                return value_of(r, state->items[k + 1], depth);
        }
        return dict_of(r, state, depth);
    }
    return named_object(r, v);
}

static json_t *list_of(reader *r, const ds_pickle_node *list, int depth) {
    json_t *out = json_array();
    for (uint32_t i = 0; i < list->count && i < ARGS_LIST; i++) {
        json_t *v = value_of(r, list->items[i], depth + 1);
        json_array_append_new(out, v ? v : json_null());
    }
    return out;
}

static json_t *value_at(reader *r, const ds_pickle_node *v, int depth) {
    switch (v->kind) {
    case DS_PICKLE_NONE: return json_null();
    case DS_PICKLE_BOOL: return json_boolean(v->i != 0);
    case DS_PICKLE_INT: return json_integer(v->i);
    case DS_PICKLE_FLOAT: return json_real(v->f); /* NULL where it is not finite */
    case DS_PICKLE_TEXT: return v->count <= ARGS_TEXT ? json_stringn(v->text, v->count) : NULL;
    case DS_PICKLE_DICT: return dict_of(r, v, depth);
    case DS_PICKLE_TUPLE:
    case DS_PICKLE_LIST: return list_of(r, v, depth);
    case DS_PICKLE_OPAQUE: return object_of(r, v, depth);
    default: return NULL;
    }
}

/* Plain values, and objects by their attributes or name; NULL for all else, and for what is nested
 * too deeply. */
static json_t *value_of(reader *r, uint32_t node, int depth) {
    if (depth > ARGS_DEPTH || r->open[node] || --r->left < 0)
        return NULL;
    r->open[node] = 1;
    json_t *v = value_at(r, ds_pickle_at(r->p, node), depth);
    r->open[node] = 0;
    return v;
}

/* ---------------------------------------------------------------- where they stand */

/* object: only as an object; dicts of that name are an optimizer's state. */
static const struct {
    const char *key;
    int object;
} documents[] = {{"args", 0},
                 {"cfg", 0},
                 {"config", 0},
                 {"conf", 0},
                 {"hparams", 0},
                 {"hyper_parameters", 0},
                 {"options", 0},
                 {"opts", 0},
                 {"hyperparameters", 0},
                 {"settings", 0},
                 {"train_args", 0},
                 {"training_args", 0},
                 {"model_args", 0},
                 {"diffusion_args", 0},
                 {"train_config", 0},
                 {"training_config", 0},
                 {"model_config", 0},
                 {"diffusion_config", 0},
                 {"model_kwargs", 0},
                 {"opt", 1}};

static int is_document(const char *key, size_t n, int object) {
    for (size_t k = 0; k < sizeof documents / sizeof documents[0]; k++)
        if (strlen(documents[k].key) == n && !strncasecmp(documents[k].key, key, n))
            return object || !documents[k].object;
    return 0;
}

/* All that is said is kept: a member that another document has with another value stands below
 * that document's key.  Of a number that is used, no one could say which. */
static void merge(json_t *all, const char *key, json_t *doc) {
    const char *field;
    json_t *v, *other = json_object();
    json_object_foreach(doc, field, v) {
        const json_t *had = json_object_get(all, field);
        if (!had)
            json_object_set(all, field, v);
        else if (!json_equal(had, v)) {
            json_object_set(other, field, v);
            if (ds_foreign_decides(field) == DS_FOREIGN_NUMBER)
                json_object_set_new(all, DS_FOREIGN_CONFLICT, json_string(field));
        }
    }
    if (json_object_size(other))
        json_object_set(all, key, other);
    json_decref(other);
}

static json_t *or_nothing(json_t *all) {
    if (json_object_size(all))
        return all;
    json_decref(all);
    return NULL;
}

json_t *ds_weights_read_args(const ds_pickle *p) {
    reader r = {p, ARGS_VALUES, ds_xcalloc(ds_pickle_count(p), 1)};
    const ds_pickle_node *root = ds_pickle_at(p, ds_pickle_root(p));
    json_t *all = json_object(), *plain = json_object();
    for (uint32_t i = 0; root->kind == DS_PICKLE_DICT && i + 1 < root->count; i += 2) {
        const ds_pickle_node *key = ds_pickle_at(p, root->items[i]),
                             *v = ds_pickle_at(p, root->items[i + 1]);
        char name[64];
        if (key->kind != DS_PICKLE_TEXT || key->count >= sizeof name)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)key->count, key->text);
        int alone = v->kind == DS_PICKLE_TEXT || v->kind == DS_PICKLE_BOOL ||
                    v->kind == DS_PICKLE_INT || v->kind == DS_PICKLE_FLOAT;
        if (alone && ds_foreign_decides(name))
            json_object_set_new(plain, name, value_of(&r, root->items[i + 1], 0));
        if (!is_document(name, strlen(name), v->kind == DS_PICKLE_OPAQUE))
            continue;
        json_t *doc = value_of(&r, root->items[i + 1], 0);
        if (json_is_object(doc))
            merge(all, name, doc);
        json_decref(doc);
    }
    merge(all, "checkpoint", plain);
    if (r.left < 0)
        json_object_set_new(all, "those behind the first 100000 values", json_null());
    free(r.open);
    json_decref(plain);
    return or_nothing(all);
}

/* "modelspec.prediction_type" of SAI's ModelSpec, or a name of our own tables. */
static const char *plain_key(const char *key) {
    return strncmp(key, "modelspec.", 10) ? key : key + 10;
}

json_t *ds_weights_meta_args(const ds_st *st) {
    json_t *all = json_object();
    for (size_t i = 0; i < ds_st_meta_count(st); i++) {
        const char *key = ds_st_meta_key(st, i), *text = ds_st_meta(st, key),
                   *plain = plain_key(key);
        size_t n = strlen(text);
        json_t *doc = is_document(plain, strlen(plain), 1) && n < ARGS_JSON
                          ? json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL)
                          : NULL;
        if (!doc && ds_foreign_decides(plain) && n <= ARGS_TEXT) {
            json_t *v = json_loadb(text, n, JSON_DECODE_ANY, NULL); /* numbers, true, null */
            doc = json_pack("{s:o}", plain, v ? v : json_stringn(text, n));
        }
        if (json_is_object(doc))
            merge(all, key, doc);
        json_decref(doc);
    }
    return or_nothing(all);
}
