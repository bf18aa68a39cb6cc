/* engine/files/pickle_calls.c - what a pickle names and would call: tensors and dicts are made, all
 * else becomes an opaque value. */
#include "base/mem.h"
#include "engine/files/pickle_internal.h"

#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- what may be named */

enum role {
    ROLE_TENSOR,    /* (storage, offset, size, stride, ...) */
    ROLE_TENSOR_3,  /* the same with a dtype behind: of an untyped storage */
    ROLE_PARAMETER, /* (tensor, ...): the tensor itself */
    ROLE_FROM_TYPE, /* (function, class, arguments, attributes) */
    ROLE_CLASS,     /* of plain tensors, for ROLE_FROM_TYPE; also a value of its own */
    ROLE_DICT,      /* () or ([[key, value], ...],) */
    ROLE_SIZE,      /* (tuple,): the tuple itself */
    ROLE_STORAGE,   /* never called: names the type of a storage */
    ROLE_DTYPE      /* never called: names the type of a tensor in an untyped storage */
};

static const struct {
    const char *module, *name;
    enum role role;
    enum ds_st_dtype dtype; /* ROLE_STORAGE, ROLE_DTYPE */
} globals[] = {
    {"torch._utils", "_rebuild_tensor_v2", ROLE_TENSOR, 0},
    {"torch._utils", "_rebuild_tensor", ROLE_TENSOR, 0}, /* before 0.4 */
    {"torch._utils", "_rebuild_tensor_v3", ROLE_TENSOR_3, 0},
    {"torch._utils", "_rebuild_parameter", ROLE_PARAMETER, 0},
    {"torch._utils", "_rebuild_parameter_with_state", ROLE_PARAMETER, 0},
    {"torch._tensor", "_rebuild_from_type_v2", ROLE_FROM_TYPE, 0},
    {"torch", "Tensor", ROLE_CLASS, 0},
    {"torch.nn.parameter", "Parameter", ROLE_CLASS, 0},
    {"torch.nn.parameter", "Buffer", ROLE_CLASS, 0},
    {"collections", "OrderedDict", ROLE_DICT, 0},
    {"torch", "Size", ROLE_SIZE, 0},
    {"torch", "FloatStorage", ROLE_STORAGE, DS_ST_F32},
    {"torch", "HalfStorage", ROLE_STORAGE, DS_ST_F16},
    {"torch", "BFloat16Storage", ROLE_STORAGE, DS_ST_BF16},
    {"torch", "DoubleStorage", ROLE_STORAGE, DS_ST_F64},
    {"torch", "LongStorage", ROLE_STORAGE, DS_ST_I64},
    {"torch", "IntStorage", ROLE_STORAGE, DS_ST_I32},
    {"torch", "ShortStorage", ROLE_STORAGE, DS_ST_I16},
    {"torch", "CharStorage", ROLE_STORAGE, DS_ST_I8},
    {"torch", "ByteStorage", ROLE_STORAGE, DS_ST_U8},
    {"torch", "BoolStorage", ROLE_STORAGE, DS_ST_BOOL},
    {"torch", "ComplexFloatStorage", ROLE_STORAGE, DS_ST_C64},
    {"torch", "ComplexDoubleStorage", ROLE_STORAGE, DS_ST_C128},
    {"torch", "QInt8Storage", ROLE_STORAGE, DS_ST_I8}, /* the size matters; no tensor is made */
    {"torch", "QUInt8Storage", ROLE_STORAGE, DS_ST_U8},
    {"torch", "QInt32Storage", ROLE_STORAGE, DS_ST_I32},
    {"torch", "QUInt4x2Storage", ROLE_STORAGE, DS_ST_U8},
    {"torch", "QUInt2x4Storage", ROLE_STORAGE, DS_ST_U8},
    {"torch", "UntypedStorage", ROLE_STORAGE, DS_ST_U8},
    {"torch.storage", "UntypedStorage", ROLE_STORAGE, DS_ST_U8},
    {"torch", "float32", ROLE_DTYPE, DS_ST_F32},
    {"torch", "float16", ROLE_DTYPE, DS_ST_F16},
    {"torch", "bfloat16", ROLE_DTYPE, DS_ST_BF16},
    {"torch", "float64", ROLE_DTYPE, DS_ST_F64},
    {"torch", "uint16", ROLE_DTYPE, DS_ST_U16},
    {"torch", "uint32", ROLE_DTYPE, DS_ST_U32},
    {"torch", "uint64", ROLE_DTYPE, DS_ST_U64},
    {"torch", "float8_e4m3fn", ROLE_DTYPE, DS_ST_F8_E4M3},
    {"torch", "float8_e5m2", ROLE_DTYPE, DS_ST_F8_E5M2},
};
enum { GLOBALS = sizeof globals / sizeof globals[0] };

/* ---------------------------------------------------------------- naming and calling */

/* One of the list, else a class by its name: naming calls nothing. */
static int push_global(machine *m, const uint8_t *module, size_t nm, const uint8_t *name,
                       size_t nn) {
    for (int i = 0; i < GLOBALS; i++)
        if (strlen(globals[i].module) == nm && !memcmp(globals[i].module, module, nm) &&
            strlen(globals[i].name) == nn && !memcmp(globals[i].name, name, nn))
            return ds_pm_push_int(m, DS_PICKLE_GLOBAL, i);
    if (nm >= 9 && !memcmp(module, "__torch__", 9)) {
        char a[80], b[80];
        ds_pm_printable(a, sizeof a, module, nm);
        ds_pm_printable(b, sizeof b, name, nn);
        return ds_fail(
            m->err, DS_EINVAL,
            "'%.160s' is a TorchScript program (it names %s.%s), not a file of weights: save the "
            "state_dict of the loaded module instead",
            m->name, a, b);
    }
    const ds_pickle_node texts[2] = {
        {.kind = DS_PICKLE_TEXT, .count = (uint32_t)nm, .text = (const char *)module},
        {.kind = DS_PICKLE_TEXT, .count = (uint32_t)nn, .text = (const char *)name}};
    uint32_t index, part[2] = {0};
    ds_pickle_node *node;
    int rc = 0;
    for (int i = 0; !rc && i < 2; i++)
        if (!(rc = ds_pm_new_node(m, DS_PICKLE_TEXT, &node, &part[i])))
            *node = texts[i];
    rc = rc ? rc : ds_pm_new_node(m, DS_PICKLE_CLASS, &node, &index);
    for (int i = 0; !rc && i < 2; i++)
        rc = ds_pm_add_item(m, ds_pm_at(m, index), part[i]);
    return rc ? rc : ds_pm_push(m, index);
}

int ds_pm_global(machine *m) {
    const uint8_t *module, *name;
    size_t nm, nn;
    int rc = ds_pm_take_line(m, &module, &nm);
    rc = rc ? rc : ds_pm_take_line(m, &name, &nn);
    return rc ? rc : push_global(m, module, nm, name, nn);
}

int ds_pm_stack_global(machine *m) {
    uint32_t name, module;
    int rc = ds_pm_pop(m, &name);
    rc = rc ? rc : ds_pm_pop(m, &module);
    if (rc)
        return rc;
    const ds_pickle_node *a = ds_pm_at(m, module), *b = ds_pm_at(m, name);
    if (a->kind != DS_PICKLE_TEXT || b->kind != DS_PICKLE_TEXT)
        return ds_pm_damaged(m, "the name of a global is not text");
    return push_global(m, (const uint8_t *)a->text, a->count, (const uint8_t *)b->text, b->count);
}

/* ('storage', type, key, location, elements[, view]) as the format of torch.save has it. */
int ds_pm_persistent(machine *m) {
    uint32_t id, index;
    ds_pickle_node *node;
    int rc = ds_pm_pop(m, &id);
    if (rc)
        return rc;
    const ds_pickle_node *t = ds_pm_at(m, id);
    if (t->kind != DS_PICKLE_TUPLE || t->count < 5 || t->count > 6 ||
        !ds_pickle_is_text(ds_pm_at(m, t->items[0]), "storage"))
        return ds_pm_damaged(m, "it refers to something that is no storage");
    const ds_pickle_node *type = ds_pm_at(m, t->items[1]), *key = ds_pm_at(m, t->items[2]),
                         *count = ds_pm_at(m, t->items[4]);
    int listed = type->kind == DS_PICKLE_GLOBAL && globals[type->i].role == ROLE_STORAGE;
    if (!listed && type->kind != DS_PICKLE_CLASS)
        return ds_pm_damaged(m, "the type of a storage is unknown");
    if (key->kind != DS_PICKLE_TEXT || !key->count || key->count > 64)
        return ds_pm_damaged(m, "the name of a storage is unusable");
    if (count->kind != DS_PICKLE_INT || count->i < 0 || (uint64_t)count->i > NUMBERS_MAX)
        return ds_pm_damaged(m, "the size of a storage is impossible");
    if (t->count == 6 && ds_pm_at(m, t->items[5])->kind != DS_PICKLE_NONE)
        return ds_fail(m->err, DS_EINVAL,
                       "'%.200s' has a view of a storage, which only old PyTorch wrote: load and "
                       "save it again with "
                       "PyTorch 1.6 or newer",
                       m->name);
    ds_pickle_storage s = {.dtype = listed ? globals[type->i].dtype : DS_ST_OTHER,
                           .type = t->items[1],
                           .key = t->items[2],
                           .count = (uint64_t)count->i};
    if ((rc = ds_pm_new_node(m, DS_PICKLE_STORAGE, &node, &index)))
        return rc;
    node->storage = ds_xmalloc(sizeof s);
    *node->storage = s;
    return ds_pm_push(m, index);
}

/* A tuple of sizes, each >= 0. */
static int read_sizes(machine *m, uint32_t node, int *count, int64_t *out) {
    const ds_pickle_node *t = ds_pm_at(m, node);
    if (t->kind != DS_PICKLE_TUPLE)
        return ds_pm_damaged(m, "the shape of a tensor is unusable");
    *count = t->count > DS_ST_DIMS_MAX ? DS_ST_DIMS_MAX + 1 : (int)t->count;
    for (uint32_t i = 0; i < t->count; i++) {
        const ds_pickle_node *v = ds_pm_at(m, t->items[i]);
        if (v->kind != DS_PICKLE_INT || v->i < 0)
            return ds_pm_damaged(m, "the shape of a tensor is unusable");
        if (i < DS_ST_DIMS_MAX)
            out[i] = v->i;
    }
    return 0;
}

/* Does every element lie in the storage?  There may be more of them than it has (expand). */
static int tensor_fits(const ds_pickle_tensor *t, uint64_t storage) {
    uint64_t count = 1, last = t->offset, span;
    for (int i = 0; i < t->ndim; i++)
        if (__builtin_mul_overflow(count, (uint64_t)t->shape[i], &count))
            return 0;
    if (!count)
        return t->offset <= storage;
    for (int i = 0; i < t->ndim; i++)
        if (__builtin_mul_overflow((uint64_t)t->shape[i] - 1, (uint64_t)t->stride[i], &span) ||
            __builtin_add_overflow(last, span, &last))
            return 0;
    return last < storage;
}

/* A text of our own as a node, for ds_pickle_tensor.type. */
static int text_node(machine *m, const char *text, uint32_t *index) {
    ds_pickle_node *node;
    int rc = ds_pm_new_node(m, DS_PICKLE_TEXT, &node, index);
    if (!rc) {
        node->text = text;
        node->count = (uint32_t)strlen(text);
    }
    return rc;
}

/* {"conj": True, "neg": True} behind the other arguments: bits that change the numbers. */
static int read_bits(machine *m, const ds_pickle_node *args, uint32_t at_arg, ds_pickle_tensor *t) {
    if (args->count <= at_arg || ds_pm_at(m, args->items[at_arg])->kind == DS_PICKLE_NONE)
        return 0;
    const ds_pickle_node *bits = ds_pm_at(m, args->items[at_arg]);
    int odd = bits->kind != DS_PICKLE_DICT;
    for (uint32_t i = 0; !odd && i + 1 < bits->count; i += 2) {
        const ds_pickle_node *k = ds_pm_at(m, bits->items[i]), *v = ds_pm_at(m, bits->items[i + 1]);
        int set = v->kind != DS_PICKLE_BOOL || v->i;
        if (ds_pickle_is_text(k, "neg"))
            t->negative = set;
        else
            odd |= set;
    }
    t->dtype = odd ? DS_ST_OTHER : t->dtype;
    return odd ? text_node(m, "conjugate, or of a property that is not known", &t->type) : 0;
}

/* The type of a tensor in an untyped storage, and how many of it that has. */
static void retype(machine *m, uint32_t dtype, ds_pickle_tensor *t, uint64_t *elements) {
    const ds_pickle_node *n = ds_pm_at(m, dtype);
    t->type = dtype;
    t->dtype = n->kind == DS_PICKLE_GLOBAL && globals[n->i].role == ROLE_DTYPE ? globals[n->i].dtype
                                                                               : DS_ST_OTHER;
    if (t->dtype != DS_ST_OTHER)
        *elements = *elements * ds_st_dtype_size(ds_pm_at(m, t->storage)->storage->dtype) /
                    ds_st_dtype_size(t->dtype);
}

static int new_tensor(machine *m, const ds_pickle_node *args, enum role role, ds_pickle_tensor *t) {
    int strides;
    if (args->count < 4 || ds_pm_at(m, args->items[0])->kind != DS_PICKLE_STORAGE ||
        ds_pm_at(m, args->items[1])->kind != DS_PICKLE_INT || ds_pm_at(m, args->items[1])->i < 0)
        return ds_pm_damaged(m, "a tensor has no storage");
    const ds_pickle_storage *s = ds_pm_at(m, args->items[0])->storage;
    *t = (ds_pickle_tensor){.storage = args->items[0],
                            .dtype = s->dtype,
                            .type = s->type,
                            .offset = (uint64_t)ds_pm_at(m, args->items[1])->i};
    uint64_t elements = s->count;
    int rc = read_sizes(m, args->items[2], &t->ndim, t->shape);
    rc = rc ? rc : read_sizes(m, args->items[3], &strides, t->stride);
    if (rc)
        return rc;
    if (role == ROLE_TENSOR_3 && args->count > 6)
        retype(m, args->items[6], t, &elements);
    if (strides != t->ndim)
        return ds_pm_damaged(m, "the shape of a tensor is unusable");
    if (t->ndim > DS_ST_DIMS_MAX) {
        t->ndim = 0;
        t->dtype = DS_ST_OTHER;
        rc = text_node(m, "a tensor of too many dimensions", &t->type);
    }
    if (t->dtype != DS_ST_OTHER && !tensor_fits(t, elements))
        return ds_pm_damaged(m, "a tensor lies outside its storage");
    return rc ? rc : read_bits(m, args, role == ROLE_TENSOR_3 ? 7 : 6, t);
}

/* args: node of the tuple. */
static int make_tensor(machine *m, uint32_t args, enum role role) {
    ds_pickle_tensor t;
    ds_pickle_node *node;
    uint32_t index;
    const ds_pickle_node copy = *ds_pm_at(m, args); /* the list of nodes grows below */
    int rc = new_tensor(m, &copy, role, &t);
    rc = rc ? rc : ds_pm_new_node(m, DS_PICKLE_TENSOR, &node, &index);
    if (rc)
        return rc;
    node->tensor = ds_xmalloc(sizeof t);
    *node->tensor = t;
    return ds_pm_push(m, index);
}

/* What is made by something that is not run: its class and what it was to be made of. */
static int push_opaque(machine *m, uint32_t class, const uint32_t *args, size_t count) {
    ds_pickle_node *node;
    uint32_t index;
    int rc = ds_pm_new_node(m, DS_PICKLE_OPAQUE, &node, &index);
    rc = rc ? rc : ds_pm_add_item(m, ds_pm_at(m, index), class);
    for (size_t i = 0; !rc && i < count; i++)
        rc = ds_pm_add_item(m, ds_pm_at(m, index), args[i]);
    return rc ? rc : ds_pm_push(m, index);
}

/* A tensor with attributes (a buffer): (function, class, arguments, attributes). */
static int from_type(machine *m, uint32_t f, uint32_t a) {
    const ds_pickle_node *args = ds_pm_at(m, a);
    if (args->count == 4) {
        const ds_pickle_node *fn = ds_pm_at(m, args->items[0]),
                             *class = ds_pm_at(m, args->items[1]);
        if (fn->kind == DS_PICKLE_GLOBAL && class->kind == DS_PICKLE_GLOBAL &&
            globals[class->i].role == ROLE_CLASS &&
            ds_pm_at(m, args->items[2])->kind == DS_PICKLE_TUPLE &&
            (globals[fn->i].role == ROLE_TENSOR || globals[fn->i].role == ROLE_TENSOR_3))
            return make_tensor(m, args->items[2], globals[fn->i].role);
    }
    return push_opaque(m, args->count > 1 ? args->items[1] : f, &a, 1);
}

/* OrderedDict([[key, value], ...]), as Python 2 pickled it. */
static int make_dict(machine *m, const ds_pickle_node *args) {
    uint32_t list = args->count ? args->items[0] : 0;
    int given = args->count > 0;
    if (args->count > 1 || (given && ds_pm_at(m, list)->kind != DS_PICKLE_LIST))
        return ds_pm_damaged(m, "an OrderedDict is made of something else than a list");
    ds_pickle_node *node;
    uint32_t index;
    int rc = ds_pm_new_node(m, DS_PICKLE_DICT, &node, &index);
    for (uint32_t i = 0; !rc && given && i < ds_pm_at(m, list)->count; i++) {
        const ds_pickle_node *pair = ds_pm_at(m, ds_pm_at(m, list)->items[i]);
        if ((pair->kind != DS_PICKLE_LIST && pair->kind != DS_PICKLE_TUPLE) || pair->count != 2)
            return ds_pm_damaged(m, "an OrderedDict is made of something else than pairs");
        rc = ds_pm_add_item(m, ds_pm_at(m, index), pair->items[0]);
        rc = rc ? rc : ds_pm_add_item(m, ds_pm_at(m, index), pair->items[1]);
    }
    return rc ? rc : ds_pm_push(m, index);
}

static int call_listed(machine *m, uint32_t f, uint32_t a) {
    const ds_pickle_node *args = ds_pm_at(m, a);
    enum role role = globals[ds_pm_at(m, f)->i].role;
    enum ds_pickle_kind first = args->count ? ds_pm_at(m, args->items[0])->kind : DS_PICKLE_NONE;
    if (first == DS_PICKLE_OPAQUE && role != ROLE_DICT) /* of what is not known */
        return push_opaque(
            m, ds_pm_at(m, args->items[0])->count ? ds_pm_at(m, args->items[0])->items[0] : f, &a,
            1);
    switch (role) {
    case ROLE_DICT: return make_dict(m, args);
    case ROLE_TENSOR:
    case ROLE_TENSOR_3: return make_tensor(m, a, role);
    case ROLE_FROM_TYPE: return from_type(m, f, a);
    case ROLE_CLASS: return push_opaque(m, f, &a, 1);
    case ROLE_PARAMETER:
        if (first == DS_PICKLE_TENSOR)
            return ds_pm_push(m, args->items[0]);
        break;
    case ROLE_SIZE:
        if (args->count == 1 && first == DS_PICKLE_TUPLE)
            return ds_pm_push(m, args->items[0]);
        break;
    case ROLE_STORAGE:
    case ROLE_DTYPE: break;
    }
    return ds_pm_damaged(m, "it calls something with unusable arguments");
}

/* extra: NEWOBJ_EX has keywords behind the arguments. */
int ds_pm_call(machine *m, int extra) {
    uint32_t a, f, keywords[2];
    int rc = extra ? ds_pm_pop(m, &keywords[1]) : 0;
    rc = rc ? rc : ds_pm_pop(m, &a);
    rc = rc ? rc : ds_pm_pop(m, &f);
    if (rc)
        return rc;
    enum ds_pickle_kind kind = ds_pm_at(m, f)->kind;
    if (ds_pm_at(m, a)->kind != DS_PICKLE_TUPLE ||
        (kind != DS_PICKLE_GLOBAL && kind != DS_PICKLE_CLASS && kind != DS_PICKLE_OPAQUE))
        return ds_pm_damaged(m, "it calls something that is no function");
    keywords[0] = a;
    if (kind == DS_PICKLE_GLOBAL && !extra)
        return call_listed(m, f, a);
    if (kind == DS_PICKLE_OPAQUE && ds_pm_at(m, f)->count)
        f = ds_pm_at(m, f)->items[0];
    return push_opaque(m, f, keywords, extra ? 2 : 1);
}

/* INST: the class on two lines, its arguments from a mark.  OBJ: both from a mark. */
int ds_pm_instance(machine *m, int named) {
    uint32_t *values, class;
    size_t count;
    int rc = named ? ds_pm_global(m) : 0;
    rc = rc || !named ? rc : ds_pm_pop(m, &class);
    rc = rc ? rc : ds_pm_pop_mark(m, &values, &count);
    if (rc)
        return rc;
    if (!named && !count)
        return ds_pm_damaged(m, "an object has no class");
    if (!named)
        class = values[0];
    uint32_t *args = ds_xmalloc((count + 1) * sizeof *args);
    if (count)
        memcpy(args, values, count * sizeof *args);
    rc = push_opaque(m, class, args + !named, count - (size_t)!named);
    free(args);
    return rc;
}

/* obj.__setstate__(state): attributes of dicts (_metadata) and tensors are not kept. */
int ds_pm_build(machine *m) {
    uint32_t state, object;
    int rc = ds_pm_pop(m, &state);
    rc = rc ? rc : ds_pm_pop(m, &object);
    if (rc)
        return rc;
    enum ds_pickle_kind kind = ds_pm_at(m, object)->kind;
    if (kind == DS_PICKLE_OPAQUE)
        rc = ds_pm_add_item(m, ds_pm_at(m, object), state);
    else if (kind != DS_PICKLE_DICT && kind != DS_PICKLE_TENSOR)
        return ds_pm_damaged(m, "it gives attributes to a plain value");
    return rc ? rc : ds_pm_push(m, object);
}

/* ---------------------------------------------------------------- looking */

void ds_pickle_class(const ds_pickle *p, const ds_pickle_node *node, char *out, size_t size) {
    if (node->kind == DS_PICKLE_OPAQUE && node->count)
        node = &p->nodes[node->items[0]];
    char a[80] = "?", b[80] = "";
    if (node->kind == DS_PICKLE_CLASS)
        for (int i = 0; i < 2; i++) {
            const ds_pickle_node *t = &p->nodes[node->items[i]];
            ds_pm_printable(i ? b : a, 80, (const uint8_t *)t->text, t->count);
        }
    else if (node->kind == DS_PICKLE_TEXT)
        ds_pm_printable(a, sizeof a, (const uint8_t *)node->text, node->count);
    else if (node->kind == DS_PICKLE_GLOBAL) {
        snprintf(a, sizeof a, "%s", globals[node->i].module);
        snprintf(b, sizeof b, "%s", globals[node->i].name);
    }
    int named = node->kind == DS_PICKLE_CLASS || node->kind == DS_PICKLE_GLOBAL;
    snprintf(out, size, "%s%s%s", a, named ? "." : "", b);
}
