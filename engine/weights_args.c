/* engine/weights_args.c - the settings of a training program that stand in its checkpoint. */
#include "engine/pickle.h"
#include "engine/weights_internal.h"

enum { ARGS_DEPTH = 4, ARGS_VALUES = 5000, ARGS_TEXT = 4096 };

typedef struct {
    const ds_pickle *p;
    int left; /* values: an object may be in many places */
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
    return NULL;
}

static json_t *list_of(reader *r, const ds_pickle_node *list, int depth) {
    json_t *out = json_array();
    for (uint32_t i = 0; i < list->count; i++) {
        json_t *v = value_of(r, list->items[i], depth + 1);
        json_array_append_new(out, v ? v : json_null());
    }
    return out;
}

/* Plain values; NULL for all else, and for what is nested too deeply. */
static json_t *value_of(reader *r, uint32_t node, int depth) {
    const ds_pickle_node *v = ds_pickle_at(r->p, node);
    if (depth > ARGS_DEPTH || --r->left < 0)
        return NULL;
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

json_t *ds_weights_read_args(const ds_pickle *p) {
    static const char *const keys[] = {
        "args", "cfg", "config", "hparams", "hyper_parameters", "hyperparameters"};
    reader r = {p, ARGS_VALUES};
    const ds_pickle_node *root = ds_pickle_at(p, ds_pickle_root(p));
    for (uint32_t i = 0; root->kind == DS_PICKLE_DICT && i + 1 < root->count; i += 2)
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
            if (ds_pickle_is_text(ds_pickle_at(p, root->items[i]), keys[k])) {
                json_t *doc = value_of(&r, root->items[i + 1], 0);
                if (json_is_object(doc) && json_object_size(doc))
                    return doc;
                json_decref(doc);
            }
    return NULL;
}
