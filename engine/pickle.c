/* engine/pickle.c - the stack machine of pickle without its functions. */
#include "engine/pickle.h"
#include "base/mem.h"

#include <stdlib.h>

enum {
    STACK_MAX = 2 * DS_PICKLE_NODES_MAX,
    MEMO_MAX = 2 * DS_PICKLE_NODES_MAX,
    TEXT_MAX = 1 << 20
};
#define NUMBERS_MAX ((uint64_t)1 << 60) /* elements of a storage: products stay in 64 bits */

struct ds_pickle {
    ds_pickle_node *nodes;
    uint32_t count, cap, root;
    uint64_t items;
};

/* ---------------------------------------------------------------- what may be named */

enum role {
    ROLE_TENSOR,    /* (storage, offset, size, stride, ...) */
    ROLE_PARAMETER, /* (tensor, ...): the tensor itself */
    ROLE_DICT,      /* () or ([[key, value], ...],) */
    ROLE_SIZE,      /* (tuple,): the tuple itself */
    ROLE_STORAGE,   /* never called: names the type of a storage */
    ROLE_OPAQUE     /* may be made and filled; nothing is kept */
};

static const struct {
    const char *module, *name;
    enum role role;
    enum ds_st_dtype dtype; /* ROLE_STORAGE */
} globals[] = {
    {"torch._utils", "_rebuild_tensor_v2", ROLE_TENSOR, 0},
    {"torch._utils", "_rebuild_parameter", ROLE_PARAMETER, 0},
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
    /* What training programs put beside the weights. */
    {"argparse", "Namespace", ROLE_OPAQUE, 0},
    {"torch", "device", ROLE_OPAQUE, 0},
    {"torch", "float32", ROLE_OPAQUE, 0},
    {"torch", "float16", ROLE_OPAQUE, 0},
    {"torch", "bfloat16", ROLE_OPAQUE, 0},
    {"torch", "float64", ROLE_OPAQUE, 0},
};
enum { GLOBALS = sizeof globals / sizeof globals[0] };

/* Opcodes that exist but are not read, for the message. */
static const struct {
    uint8_t code;
    const char *name;
} refused[] = {{'i', "INST"},         {'o', "OBJ"},
               {'P', "PERSID"},       {0x82, "EXT1"},
               {0x83, "EXT2"},        {0x84, "EXT4"},
               {0x92, "NEWOBJ_EX"},   {0x96, "BYTEARRAY8"},
               {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"},
               {0x8f, "EMPTY_SET"},   {0x91, "FROZENSET"},
               {'I', "INT"},          {'L', "LONG"},
               {'S', "STRING"},       {'V', "UNICODE"},
               {'F', "FLOAT"},        {'g', "GET"},
               {'p', "PUT"},          {0x8b, "LONG4"}};

/* ---------------------------------------------------------------- the machine */

typedef struct {
    ds_pickle *p;
    const char *name;
    const uint8_t *data;
    size_t n, at;
    uint32_t *stack; /* nodes */
    size_t depth, stack_cap;
    size_t *marks; /* depths */
    size_t mark_count, mark_cap;
    uint32_t *memo; /* node + 1; 0 = empty */
    size_t memo_cap, memo_next;
    ds_error *err;
} machine;

static int damaged(machine *m, const char *what) {
    return ds_fail(m->err, DS_EINTEGRITY, "'%.200s' has a damaged pickle: %s at byte %zu", m->name,
                   what, m->at);
}

static int too_large(machine *m, const char *what) {
    return ds_fail(m->err, DS_ELIMIT, "'%.200s' has a pickle with too many %s", m->name, what);
}

static void printable(char *out, size_t size, const uint8_t *s, size_t n) {
    size_t k = 0;
    for (; k < n && k + 1 < size; k++)
        out[k] = s[k] >= 0x20 && s[k] < 0x7f && s[k] != '\'' ? (char)s[k] : '?';
    out[k] = 0;
}

static int push(machine *m, uint32_t node) {
    if (m->depth == STACK_MAX)
        return too_large(m, "values on its stack");
    if (m->depth == m->stack_cap) {
        m->stack_cap = m->stack_cap ? 2 * m->stack_cap : 256;
        m->stack = ds_xrealloc(m->stack, m->stack_cap * sizeof *m->stack);
    }
    m->stack[m->depth++] = node;
    return 0;
}

/* Pops down to a mark only through pop_mark, so what lies below a mark is safe. */
static int pop(machine *m, uint32_t *node) {
    *node = 0;
    size_t floor = m->mark_count ? m->marks[m->mark_count - 1] : 0;
    if (m->depth <= floor)
        return damaged(m, "its stack is empty");
    *node = m->stack[--m->depth];
    return 0;
}

static int push_mark(machine *m) {
    if (m->mark_count == STACK_MAX)
        return too_large(m, "marks");
    if (m->mark_count == m->mark_cap) {
        m->mark_cap = m->mark_cap ? 2 * m->mark_cap : 64;
        m->marks = ds_xrealloc(m->marks, m->mark_cap * sizeof *m->marks);
    }
    m->marks[m->mark_count++] = m->depth;
    return 0;
}

/* The values above the last mark: they stay valid until the next push. */
static int pop_mark(machine *m, uint32_t **values, size_t *count) {
    *values = NULL;
    *count = 0;
    if (!m->mark_count)
        return damaged(m, "a mark is missing");
    size_t at = m->marks[--m->mark_count];
    *values = m->stack ? m->stack + at : NULL; /* nothing was pushed yet */
    *count = m->depth - at;
    m->depth = at;
    return 0;
}

static int new_node(machine *m, enum ds_pickle_kind kind, ds_pickle_node **out, uint32_t *index) {
    ds_pickle *p = m->p;
    *out = NULL;
    *index = 0;
    if (p->count == DS_PICKLE_NODES_MAX)
        return too_large(m, "values");
    if (p->count == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 256;
        p->nodes = ds_xrealloc(p->nodes, p->cap * sizeof *p->nodes);
    }
    *index = p->count++;
    *out = &p->nodes[*index];
    **out = (ds_pickle_node){.kind = kind};
    return 0;
}

static int push_new(machine *m, ds_pickle_node value) {
    ds_pickle_node *node;
    uint32_t index;
    int rc = new_node(m, value.kind, &node, &index);
    if (rc)
        return rc;
    *node = value;
    return push(m, index);
}

static int push_int(machine *m, enum ds_pickle_kind kind, int64_t i) {
    return push_new(m, (ds_pickle_node){.kind = kind, .i = i});
}

static int add_item(machine *m, ds_pickle_node *node, uint32_t item) {
    if (++m->p->items > DS_PICKLE_ITEMS_MAX)
        return too_large(m, "members");
    if (node->count == node->cap) {
        node->cap = node->cap ? 2 * node->cap : 4;
        node->items = ds_xrealloc(node->items, node->cap * sizeof *node->items);
    }
    node->items[node->count++] = item;
    return 0;
}

static ds_pickle_node *at(machine *m, uint32_t node) { return &m->p->nodes[node]; }

/* ---------------------------------------------------------------- operands */

static int take(machine *m, size_t n, const uint8_t **out) {
    *out = NULL;
    if (n > m->n - m->at)
        return damaged(m, "it is cut off");
    *out = m->data + m->at;
    m->at += n;
    return 0;
}

static int take_number(machine *m, size_t bytes, uint64_t *out) {
    const uint8_t *b;
    int rc = take(m, bytes, &b);
    *out = 0;
    for (size_t i = 0; !rc && i < bytes; i++)
        *out |= (uint64_t)b[i] << (8 * i);
    return rc;
}

static int take_line(machine *m, const uint8_t **s, size_t *n) {
    *s = NULL;
    *n = 0;
    const uint8_t *end = memchr(m->data + m->at, '\n', m->n - m->at);
    if (!end)
        return damaged(m, "a name has no end");
    *s = m->data + m->at;
    *n = (size_t)(end - *s);
    m->at += *n + 1;
    return 0;
}

static int op_text(machine *m, size_t length_bytes) {
    uint64_t n;
    const uint8_t *s = NULL;
    int rc = take_number(m, length_bytes, &n);
    if (!rc && n > TEXT_MAX)
        return too_large(m, "bytes in one text");
    if (!rc)
        rc = take(m, (size_t)n, &s);
    return rc ? rc
              : push_new(m, (ds_pickle_node){.kind = DS_PICKLE_TEXT,
                                             .count = (uint32_t)n,
                                             .text = (const char *)s});
}

static int op_int(machine *m, size_t bytes, int is_signed) {
    uint64_t v;
    int rc = take_number(m, bytes, &v);
    return rc ? rc
              : push_int(m, DS_PICKLE_INT, is_signed ? (int64_t)(int32_t)(uint32_t)v : (int64_t)v);
}

/* LONG1: a length, then that many bytes of two's complement.  Larger than 64 bits: opaque. */
static int op_long1(machine *m) {
    uint64_t n, v;
    int rc = take_number(m, 1, &n);
    const uint8_t *skip;
    if (!rc && n > 8) {
        rc = take(m, (size_t)n, &skip);
        return rc ? rc : push_int(m, DS_PICKLE_OPAQUE, 0);
    }
    if (!rc)
        rc = take_number(m, (size_t)n, &v);
    if (rc)
        return rc;
    if (n && n < 8 && v >> (8 * n - 1))
        v |= UINT64_MAX << (8 * n);
    int64_t i;
    memcpy(&i, &v, sizeof i);
    return push_int(m, DS_PICKLE_INT, i);
}

static int op_float(machine *m) { /* big-endian */
    const uint8_t *b;
    int rc = take(m, 8, &b);
    if (rc)
        return rc;
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | b[i];
    double f;
    memcpy(&f, &v, sizeof f);
    return push_new(m, (ds_pickle_node){.kind = DS_PICKLE_FLOAT, .f = f});
}

/* ---------------------------------------------------------------- memo */

static int memo_put(machine *m, uint64_t index) {
    size_t floor = m->mark_count ? m->marks[m->mark_count - 1] : 0;
    if (m->depth <= floor)
        return damaged(m, "nothing to remember");
    if (index >= MEMO_MAX || index >= m->n) /* picklers count up, an opcode each */
        return too_large(m, "memo entries");
    if (index >= m->memo_cap) {
        size_t cap = m->memo_cap ? m->memo_cap : 256;
        while (cap <= index)
            cap *= 2;
        m->memo = ds_xrealloc(m->memo, cap * sizeof *m->memo);
        memset(m->memo + m->memo_cap, 0, (cap - m->memo_cap) * sizeof *m->memo);
        m->memo_cap = cap;
    }
    m->memo[index] = m->stack[m->depth - 1] + 1;
    if (index >= m->memo_next)
        m->memo_next = (size_t)index + 1;
    return 0;
}

static int op_put(machine *m, size_t bytes) {
    uint64_t index;
    int rc = take_number(m, bytes, &index);
    return rc ? rc : memo_put(m, index);
}

static int op_get(machine *m, size_t bytes) {
    uint64_t index;
    int rc = take_number(m, bytes, &index);
    if (rc)
        return rc;
    if (index >= m->memo_cap || !m->memo[index])
        return damaged(m, "it recalls what it never stored");
    return push(m, m->memo[index] - 1);
}

/* ---------------------------------------------------------------- globals and calls */

static int push_global(machine *m, const uint8_t *module, size_t nm, const uint8_t *name,
                       size_t nn) {
    for (int i = 0; i < GLOBALS; i++)
        if (strlen(globals[i].module) == nm && !memcmp(globals[i].module, module, nm) &&
            strlen(globals[i].name) == nn && !memcmp(globals[i].name, name, nn))
            return push_int(m, DS_PICKLE_GLOBAL, i);
    char a[80], b[80];
    printable(a, sizeof a, module, nm);
    printable(b, sizeof b, name, nn);
    if (nm >= 9 && !memcmp(module, "__torch__", 9))
        return ds_fail(
            m->err, DS_EINVAL,
            "'%.160s' is a TorchScript program (it names %s.%s), not a file of weights: save the "
            "state_dict of the loaded module instead",
            m->name, a, b);
    return ds_fail(m->err, DS_EINVAL,
                   "'%.160s' asks for the Python function or class '%s.%s', and nothing in a file "
                   "is run here: "
                   "save only the tensors (the state_dict, best as safetensors) and give that file",
                   m->name, a, b);
}

static int op_global(machine *m) {
    const uint8_t *module, *name;
    size_t nm, nn;
    int rc = take_line(m, &module, &nm);
    rc = rc ? rc : take_line(m, &name, &nn);
    return rc ? rc : push_global(m, module, nm, name, nn);
}

static int op_stack_global(machine *m) {
    uint32_t name, module;
    int rc = pop(m, &name);
    rc = rc ? rc : pop(m, &module);
    if (rc)
        return rc;
    const ds_pickle_node *a = at(m, module), *b = at(m, name);
    if (a->kind != DS_PICKLE_TEXT || b->kind != DS_PICKLE_TEXT)
        return damaged(m, "the name of a global is not text");
    return push_global(m, (const uint8_t *)a->text, a->count, (const uint8_t *)b->text, b->count);
}

/* ('storage', type, key, location, elements[, view]) as the format of torch.save has it. */
static int op_persistent(machine *m) {
    uint32_t id, index;
    ds_pickle_node *node;
    int rc = pop(m, &id);
    if (rc)
        return rc;
    const ds_pickle_node *t = at(m, id);
    if (t->kind != DS_PICKLE_TUPLE || t->count < 5 || t->count > 6 ||
        !ds_pickle_is_text(at(m, t->items[0]), "storage"))
        return damaged(m, "it refers to something that is no storage");
    const ds_pickle_node *type = at(m, t->items[1]), *key = at(m, t->items[2]),
                         *count = at(m, t->items[4]);
    if (type->kind != DS_PICKLE_GLOBAL || globals[type->i].role != ROLE_STORAGE)
        return damaged(m, "the type of a storage is unknown");
    if (key->kind != DS_PICKLE_TEXT || !key->count || key->count > 64)
        return damaged(m, "the name of a storage is unusable");
    if (count->kind != DS_PICKLE_INT || count->i < 0 || (uint64_t)count->i > NUMBERS_MAX)
        return damaged(m, "the size of a storage is impossible");
    if (t->count == 6 && at(m, t->items[5])->kind != DS_PICKLE_NONE)
        return ds_fail(m->err, DS_EINVAL,
                       "'%.200s' has a view of a storage, which only old PyTorch wrote: load and "
                       "save it again with "
                       "PyTorch 1.6 or newer",
                       m->name);
    ds_pickle_storage s = {
        .dtype = globals[type->i].dtype, .key = t->items[2], .count = (uint64_t)count->i};
    if ((rc = new_node(m, DS_PICKLE_STORAGE, &node, &index)))
        return rc;
    node->storage = ds_xmalloc(sizeof s);
    *node->storage = s;
    return push(m, index);
}

/* A tuple of sizes, each >= 0. */
static int read_sizes(machine *m, uint32_t node, int *count, int64_t *out) {
    const ds_pickle_node *t = at(m, node);
    if (t->kind != DS_PICKLE_TUPLE || t->count > DS_ST_DIMS_MAX)
        return damaged(m, "the shape of a tensor is unusable");
    *count = (int)t->count;
    for (uint32_t i = 0; i < t->count; i++) {
        const ds_pickle_node *v = at(m, t->items[i]);
        if (v->kind != DS_PICKLE_INT || v->i < 0)
            return damaged(m, "the shape of a tensor is unusable");
        out[i] = v->i;
    }
    return 0;
}

/* Does every element lie in the storage, and are there no more of them than it has? */
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
    return last < storage && count <= storage;
}

static int make_tensor(machine *m, const ds_pickle_node *args) {
    int strides;
    if (args->count < 4 || at(m, args->items[0])->kind != DS_PICKLE_STORAGE ||
        at(m, args->items[1])->kind != DS_PICKLE_INT || at(m, args->items[1])->i < 0)
        return damaged(m, "a tensor has no storage");
    ds_pickle_tensor t = {.storage = args->items[0], .offset = (uint64_t)at(m, args->items[1])->i};
    int rc = read_sizes(m, args->items[2], &t.ndim, t.shape);
    rc = rc ? rc : read_sizes(m, args->items[3], &strides, t.stride);
    if (rc)
        return rc;
    if (strides != t.ndim || !tensor_fits(&t, at(m, t.storage)->storage->count))
        return damaged(m, "a tensor lies outside its storage");
    ds_pickle_node *node;
    uint32_t index;
    if ((rc = new_node(m, DS_PICKLE_TENSOR, &node, &index)))
        return rc;
    node->tensor = ds_xmalloc(sizeof t);
    *node->tensor = t;
    return push(m, index);
}

/* OrderedDict([[key, value], ...]), as Python 2 pickled it. */
static int make_dict(machine *m, const ds_pickle_node *args) {
    uint32_t list = args->count ? args->items[0] : 0;
    int given = args->count > 0;
    if (args->count > 1 || (given && at(m, list)->kind != DS_PICKLE_LIST))
        return damaged(m, "an OrderedDict is made of something else than a list");
    ds_pickle_node *node;
    uint32_t index;
    int rc = new_node(m, DS_PICKLE_DICT, &node, &index);
    for (uint32_t i = 0; !rc && given && i < at(m, list)->count; i++) {
        const ds_pickle_node *pair = at(m, at(m, list)->items[i]);
        if ((pair->kind != DS_PICKLE_LIST && pair->kind != DS_PICKLE_TUPLE) || pair->count != 2)
            return damaged(m, "an OrderedDict is made of something else than pairs");
        rc = add_item(m, at(m, index), pair->items[0]);
        rc = rc ? rc : add_item(m, at(m, index), pair->items[1]);
    }
    return rc ? rc : push(m, index);
}

static int op_call(machine *m, int is_class) {
    uint32_t a, f;
    int rc = pop(m, &a);
    rc = rc ? rc : pop(m, &f);
    if (rc)
        return rc;
    const ds_pickle_node *args = at(m, a), *fn = at(m, f);
    if (args->kind != DS_PICKLE_TUPLE || fn->kind != DS_PICKLE_GLOBAL)
        return damaged(m, "it calls something that is no function");
    switch (globals[fn->i].role) {
    case ROLE_OPAQUE: return push_int(m, DS_PICKLE_OPAQUE, 0);
    case ROLE_DICT: return make_dict(m, args);
    case ROLE_TENSOR:
        if (!is_class)
            return make_tensor(m, args);
        break;
    case ROLE_PARAMETER:
        if (!is_class && args->count && at(m, args->items[0])->kind == DS_PICKLE_TENSOR)
            return push(m, args->items[0]);
        break;
    case ROLE_SIZE:
        if (!is_class && args->count == 1 && at(m, args->items[0])->kind == DS_PICKLE_TUPLE)
            return push(m, args->items[0]);
        break;
    case ROLE_STORAGE: break;
    }
    return damaged(m, "it calls something with unusable arguments");
}

/* obj.__setstate__(state): attributes of dicts (_metadata) and of opaque objects; not kept. */
static int op_build(machine *m) {
    uint32_t state, object;
    int rc = pop(m, &state);
    rc = rc ? rc : pop(m, &object);
    if (rc)
        return rc;
    enum ds_pickle_kind kind = at(m, object)->kind;
    if (kind != DS_PICKLE_DICT && kind != DS_PICKLE_OPAQUE)
        return damaged(m, "it gives attributes to a plain value");
    return push(m, object);
}

/* ---------------------------------------------------------------- containers */

static int op_tuple(machine *m, const uint32_t *values, size_t count) {
    ds_pickle_node *node;
    uint32_t index;
    int rc = new_node(m, DS_PICKLE_TUPLE, &node, &index);
    for (size_t i = 0; !rc && i < count; i++)
        rc = add_item(m, node, values[i]);
    return rc ? rc : push(m, index);
}

static int op_tuple_n(machine *m, size_t count) {
    uint32_t values[3];
    int rc = 0;
    for (size_t i = count; !rc && i > 0; i--)
        rc = pop(m, &values[i - 1]);
    return rc ? rc : op_tuple(m, values, count);
}

static int op_tuple_mark(machine *m) {
    uint32_t *values;
    size_t count;
    int rc = pop_mark(m, &values, &count);
    return rc ? rc : op_tuple(m, values, count);
}

/* Into the container on top of the stack; opaque objects forget it. */
static int fill(machine *m, enum ds_pickle_kind kind, const uint32_t *values, size_t count) {
    uint32_t container;
    int rc = pop(m, &container);
    if (rc)
        return rc;
    enum ds_pickle_kind is = at(m, container)->kind;
    if ((is != kind && is != DS_PICKLE_OPAQUE) || (kind == DS_PICKLE_DICT && count % 2))
        return damaged(m, "it fills something that is no container");
    for (size_t i = 0; !rc && is == kind && i < count; i++)
        rc = add_item(m, at(m, container), values[i]);
    return rc ? rc : push(m, container);
}

static int op_fill(machine *m, enum ds_pickle_kind kind, size_t count) {
    uint32_t values[2];
    int rc = 0;
    for (size_t i = count; !rc && i > 0; i--)
        rc = pop(m, &values[i - 1]);
    return rc ? rc : fill(m, kind, values, count);
}

static int op_fill_mark(machine *m, enum ds_pickle_kind kind) {
    uint32_t *values;
    size_t count;
    int rc = pop_mark(m, &values, &count);
    return rc ? rc : fill(m, kind, values, count);
}

static int op_container_mark(machine *m, enum ds_pickle_kind kind) { /* LIST, DICT: from a mark */
    uint32_t *values, index;
    size_t count;
    ds_pickle_node *node;
    int rc = pop_mark(m, &values, &count);
    if (!rc && kind == DS_PICKLE_DICT && count % 2)
        return damaged(m, "a dict has a key without value");
    rc = rc ? rc : new_node(m, kind, &node, &index);
    for (size_t i = 0; !rc && i < count; i++)
        rc = add_item(m, node, values[i]);
    return rc ? rc : push(m, index);
}

/* ---------------------------------------------------------------- running */

static int op_pop(machine *m, int to_mark) {
    uint32_t node, *values;
    size_t count;
    return to_mark ? pop_mark(m, &values, &count) : pop(m, &node);
}

static int op_protocol(machine *m) {
    uint64_t v;
    int rc = take_number(m, 1, &v);
    if (!rc && v > 5)
        return damaged(m, "its protocol is unknown");
    return rc;
}

static int op_frame(machine *m) { /* a hint for buffering; what it holds follows as usual */
    uint64_t v;
    return take_number(m, 8, &v);
}

static int refuse(machine *m, uint8_t op) {
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (refused[i].code == op)
            return ds_fail(m->err, DS_EINVAL,
                           "'%.200s' has the pickle opcode %s, which files of weights do not need: "
                           "save only the "
                           "tensors (the state_dict, best as safetensors) and give that file",
                           m->name, refused[i].name);
    m->at--;
    return damaged(m, "an unknown opcode");
}

static int step(machine *m, uint8_t op) {
    switch (op) {
    case 0x80: return op_protocol(m);
    case 0x95: return op_frame(m);
    case '(': return push_mark(m);
    case '0': return op_pop(m, 0);
    case '1': return op_pop(m, 1);
    case 'N': return push_int(m, DS_PICKLE_NONE, 0);
    case 0x88: return push_int(m, DS_PICKLE_BOOL, 1);
    case 0x89: return push_int(m, DS_PICKLE_BOOL, 0);
    case 'J': return op_int(m, 4, 1);
    case 'K': return op_int(m, 1, 0);
    case 'M': return op_int(m, 2, 0);
    case 0x8a: return op_long1(m);
    case 'G': return op_float(m);
    case 'X': return op_text(m, 4); /* BINUNICODE */
    case 0x8c: return op_text(m, 1);
    case 0x8d: return op_text(m, 8);
    case 'T': return op_text(m, 4); /* BINSTRING: bytes of Python 2 */
    case 'U': return op_text(m, 1);
    case 'B': return op_text(m, 4); /* BINBYTES */
    case 'C': return op_text(m, 1);
    case '}': return push_int(m, DS_PICKLE_DICT, 0);
    case ']': return push_int(m, DS_PICKLE_LIST, 0);
    case ')': return push_int(m, DS_PICKLE_TUPLE, 0);
    case 'd': return op_container_mark(m, DS_PICKLE_DICT);
    case 'l': return op_container_mark(m, DS_PICKLE_LIST);
    case 't': return op_tuple_mark(m);
    case 0x85: return op_tuple_n(m, 1);
    case 0x86: return op_tuple_n(m, 2);
    case 0x87: return op_tuple_n(m, 3);
    case 's': return op_fill(m, DS_PICKLE_DICT, 2);
    case 'u': return op_fill_mark(m, DS_PICKLE_DICT);
    case 'a': return op_fill(m, DS_PICKLE_LIST, 1);
    case 'e': return op_fill_mark(m, DS_PICKLE_LIST);
    case 'q': return op_put(m, 1);
    case 'r': return op_put(m, 4);
    case 0x94: return memo_put(m, m->memo_next);
    case 'h': return op_get(m, 1);
    case 'j': return op_get(m, 4);
    case 'c': return op_global(m);
    case 0x93: return op_stack_global(m);
    case 'Q': return op_persistent(m);
    case 'R': return op_call(m, 0);
    case 0x81: return op_call(m, 1);
    case 'b': return op_build(m);
    default: return refuse(m, op);
    }
}

static int run(machine *m) {
    uint32_t root;
    for (;;) {
        if (m->at >= m->n)
            return damaged(m, "it has no end");
        uint8_t op = m->data[m->at++];
        int rc = op == '.' ? pop(m, &root) : step(m, op);
        if (rc)
            return rc;
        if (op == '.')
            break;
    }
    m->p->root = root;
    return 0;
}

int ds_pickle_read(ds_pickle **out, const char *name, const void *data, size_t n, size_t *used,
                   ds_error *err) {
    machine m = {.p = ds_xcalloc(1, sizeof *m.p), .name = name, .data = data, .n = n, .err = err};
    int rc = run(&m);
    free(m.stack);
    free(m.marks);
    free(m.memo);
    if (rc) {
        ds_pickle_free(m.p);
        return rc;
    }
    if (used)
        *used = m.at;
    *out = m.p;
    return 0;
}

void ds_pickle_free(ds_pickle *p) {
    if (!p)
        return;
    for (uint32_t i = 0; i < p->count; i++)
        switch (p->nodes[i].kind) {
        case DS_PICKLE_TUPLE:
        case DS_PICKLE_LIST:
        case DS_PICKLE_DICT: free(p->nodes[i].items); break;
        case DS_PICKLE_STORAGE: free(p->nodes[i].storage); break;
        case DS_PICKLE_TENSOR: free(p->nodes[i].tensor); break;
        case DS_PICKLE_NONE:
        case DS_PICKLE_BOOL:
        case DS_PICKLE_INT:
        case DS_PICKLE_FLOAT:
        case DS_PICKLE_TEXT:
        case DS_PICKLE_GLOBAL:
        case DS_PICKLE_OPAQUE: break;
        }
    free(p->nodes);
    free(p);
}

/* ---------------------------------------------------------------- looking */

uint32_t ds_pickle_root(const ds_pickle *p) { return p->root; }
uint32_t ds_pickle_count(const ds_pickle *p) { return p->count; }

const ds_pickle_node *ds_pickle_at(const ds_pickle *p, uint32_t node) {
    DS_ASSERT(node < p->count);
    return &p->nodes[node];
}

int ds_pickle_is_text(const ds_pickle_node *node, const char *text) {
    size_t n = strlen(text);
    return node->kind == DS_PICKLE_TEXT && node->count == n && !memcmp(node->text, text, n);
}

const ds_pickle_node *ds_pickle_get(const ds_pickle *p, const ds_pickle_node *dict,
                                    const char *key) {
    const ds_pickle_node *hit = NULL;
    if (dict->kind == DS_PICKLE_DICT)
        for (uint32_t i = 0; i + 1 < dict->count; i += 2)
            if (ds_pickle_is_text(&p->nodes[dict->items[i]], key))
                hit = &p->nodes[dict->items[i + 1]]; /* the last one wins, as in Python */
    return hit;
}
