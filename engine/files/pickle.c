/* engine/files/pickle.c - the stack machine of pickle without its functions. */
#include "base/mem.h"
#include "engine/files/pickle_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    STACK_MAX = 2 * DS_PICKLE_NODES_MAX,
    MEMO_MAX = 2 * DS_PICKLE_NODES_MAX,
    TEXT_MAX = 64 << 20 /* not copied: as large as a pickle may be */
};

/* Opcodes that exist but are not read, for the message. */
static const struct {
    uint8_t code;
    const char *name;
} refused[] = {{'P', "PERSID"}, {0x82, "EXT1"},        {0x83, "EXT2"},
               {0x84, "EXT4"},  {0x97, "NEXT_BUFFER"}, {0x98, "READONLY_BUFFER"}};

/* ---------------------------------------------------------------- the machine */

int ds_pm_damaged(machine *m, const char *what) {
    return ds_fail(m->err, DS_EINTEGRITY, "'%.200s' has a damaged pickle: %s at byte %zu", m->name,
                   what, m->at);
}

int ds_pm_too_large(machine *m, const char *what) {
    return ds_fail(m->err, DS_ELIMIT, "'%.200s' has a pickle with too many %s", m->name, what);
}

void ds_pm_printable(char *out, size_t size, const uint8_t *s, size_t n) {
    size_t k = 0;
    for (; k < n && k + 1 < size; k++)
        out[k] = s[k] >= 0x20 && s[k] < 0x7f && s[k] != '\'' ? (char)s[k] : '?';
    out[k] = 0;
}

int ds_pm_push(machine *m, uint32_t node) {
    if (m->depth == STACK_MAX)
        return ds_pm_too_large(m, "values on its stack");
    if (m->depth == m->stack_cap) {
        m->stack_cap = m->stack_cap ? 2 * m->stack_cap : 256;
        m->stack = ds_xrealloc(m->stack, m->stack_cap * sizeof *m->stack);
    }
    m->stack[m->depth++] = node;
    return 0;
}

/* Pops down to a mark only through pop_mark, so what lies below a mark is safe. */
int ds_pm_pop(machine *m, uint32_t *node) {
    *node = 0;
    size_t floor = m->mark_count ? m->marks[m->mark_count - 1] : 0;
    if (m->depth <= floor)
        return ds_pm_damaged(m, "its stack is empty");
    *node = m->stack[--m->depth];
    return 0;
}

static int push_mark(machine *m) {
    if (m->mark_count == STACK_MAX)
        return ds_pm_too_large(m, "marks");
    if (m->mark_count == m->mark_cap) {
        m->mark_cap = m->mark_cap ? 2 * m->mark_cap : 64;
        m->marks = ds_xrealloc(m->marks, m->mark_cap * sizeof *m->marks);
    }
    m->marks[m->mark_count++] = m->depth;
    return 0;
}

/* The values above the last mark: they stay valid until the next push. */
int ds_pm_pop_mark(machine *m, uint32_t **values, size_t *count) {
    *values = NULL;
    *count = 0;
    if (!m->mark_count)
        return ds_pm_damaged(m, "a mark is missing");
    size_t at = m->marks[--m->mark_count];
    *values = m->stack ? m->stack + at : NULL; /* nothing was pushed yet */
    *count = m->depth - at;
    m->depth = at;
    return 0;
}

int ds_pm_new_node(machine *m, enum ds_pickle_kind kind, ds_pickle_node **out, uint32_t *index) {
    ds_pickle *p = m->p;
    *out = NULL;
    *index = 0;
    if (p->count == DS_PICKLE_NODES_MAX)
        return ds_pm_too_large(m, "values");
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
    int rc = ds_pm_new_node(m, value.kind, &node, &index);
    if (rc)
        return rc;
    *node = value;
    return ds_pm_push(m, index);
}

int ds_pm_push_int(machine *m, enum ds_pickle_kind kind, int64_t i) {
    return push_new(m, (ds_pickle_node){.kind = kind, .i = i});
}

int ds_pm_add_item(machine *m, ds_pickle_node *node, uint32_t item) {
    if (++m->p->items > DS_PICKLE_ITEMS_MAX)
        return ds_pm_too_large(m, "members");
    if (node->count == node->cap) {
        node->cap = node->cap ? 2 * node->cap : 4;
        node->items = ds_xrealloc(node->items, node->cap * sizeof *node->items);
    }
    node->items[node->count++] = item;
    return 0;
}

ds_pickle_node *ds_pm_at(machine *m, uint32_t node) { return &m->p->nodes[node]; }

/* ---------------------------------------------------------------- operands */

static int take(machine *m, size_t n, const uint8_t **out) {
    *out = NULL;
    if (n > m->n - m->at)
        return ds_pm_damaged(m, "it is cut off");
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

int ds_pm_take_line(machine *m, const uint8_t **s, size_t *n) {
    *s = NULL;
    *n = 0;
    const uint8_t *end = memchr(m->data + m->at, '\n', m->n - m->at);
    if (!end)
        return ds_pm_damaged(m, "a name has no end");
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
        return ds_pm_too_large(m, "bytes in one text");
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
              : ds_pm_push_int(m, DS_PICKLE_INT,
                               is_signed ? (int64_t)(int32_t)(uint32_t)v : (int64_t)v);
}

/* LONG1, LONG4: a length, then that many bytes of two's complement.  Beyond 64 bits: opaque. */
static int op_long(machine *m, size_t length_bytes) {
    uint64_t n, v;
    int rc = take_number(m, length_bytes, &n);
    const uint8_t *skip;
    if (!rc && n > 8) {
        rc = take(m, (size_t)n, &skip);
        return rc ? rc : ds_pm_push_int(m, DS_PICKLE_OPAQUE, 0);
    }
    if (!rc)
        rc = take_number(m, (size_t)n, &v);
    if (rc)
        return rc;
    if (n && n < 8 && v >> (8 * n - 1))
        v |= UINT64_MAX << (8 * n);
    int64_t i;
    memcpy(&i, &v, sizeof i);
    return ds_pm_push_int(m, DS_PICKLE_INT, i);
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

/* A number as text on a line of its own: INT ("01" is True), LONG ("5L"), FLOAT; other spellings
 * are opaque. */
static int op_text_number(machine *m, int is_float) {
    const uint8_t *s;
    size_t n;
    char text[40], *end;
    int rc = ds_pm_take_line(m, &s, &n);
    if (rc)
        return rc;
    if (!n || n >= sizeof text)
        return ds_pm_push_int(m, DS_PICKLE_OPAQUE, 0);
    snprintf(text, sizeof text, "%.*s", (int)n, (const char *)s);
    if (!is_float && n == 2 && text[0] == '0')
        return ds_pm_push_int(m, DS_PICKLE_BOOL, text[1] == '1');
    errno = 0;
    double f = is_float ? strtod(text, &end) : 0;
    int64_t i = is_float ? 0 : strtoll(text, &end, 10);
    if (end == text || (*end && strcmp(end, "L")) || (errno && !is_float))
        return ds_pm_push_int(m, DS_PICKLE_OPAQUE, 0);
    return is_float ? push_new(m, (ds_pickle_node){.kind = DS_PICKLE_FLOAT, .f = f})
                    : ds_pm_push_int(m, DS_PICKLE_INT, i);
}

/* STRING ('...' in quotes), UNICODE: what needs no unescaping is text, the rest is opaque. */
static int op_text_line(machine *m, int quoted) {
    const uint8_t *s;
    size_t n;
    int rc = ds_pm_take_line(m, &s, &n);
    if (rc)
        return rc;
    if (quoted && (n < 2 || s[0] != s[n - 1] || (s[0] != '\'' && s[0] != '"')))
        return ds_pm_damaged(m, "a text has no quotes");
    if (memchr(s, '\\', n) || n > TEXT_MAX)
        return ds_pm_push_int(m, DS_PICKLE_OPAQUE, 0);
    return push_new(m, (ds_pickle_node){.kind = DS_PICKLE_TEXT,
                                        .count = (uint32_t)(n - (quoted ? 2 : 0)),
                                        .text = (const char *)s + quoted});
}

/* ---------------------------------------------------------------- memo */

static int memo_put(machine *m, uint64_t index) {
    size_t floor = m->mark_count ? m->marks[m->mark_count - 1] : 0;
    if (m->depth <= floor)
        return ds_pm_damaged(m, "nothing to remember");
    if (index >= MEMO_MAX || index >= m->n) /* picklers count up, an opcode each */
        return ds_pm_too_large(m, "memo entries");
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

/* bytes 0: the number is a line of text. */
static int take_index(machine *m, size_t bytes, uint64_t *index) {
    if (bytes)
        return take_number(m, bytes, index);
    const uint8_t *s;
    size_t n;
    int rc = ds_pm_take_line(m, &s, &n);
    *index = 0;
    for (size_t i = 0; !rc && i < n; i++)
        if (s[i] < '0' || s[i] > '9' || i > 10)
            rc = ds_pm_damaged(m, "a number of its memo is unusable");
        else
            *index = 10 * *index + (uint64_t)(s[i] - '0');
    return rc;
}

static int op_put(machine *m, size_t bytes) {
    uint64_t index;
    int rc = take_index(m, bytes, &index);
    return rc ? rc : memo_put(m, index);
}

static int op_get(machine *m, size_t bytes) {
    uint64_t index;
    int rc = take_index(m, bytes, &index);
    if (rc)
        return rc;
    if (index >= m->memo_cap || !m->memo[index])
        return ds_pm_damaged(m, "it recalls what it never stored");
    return ds_pm_push(m, m->memo[index] - 1);
}

/* ---------------------------------------------------------------- containers */

static int op_tuple(machine *m, const uint32_t *values, size_t count) {
    ds_pickle_node *node;
    uint32_t index;
    int rc = ds_pm_new_node(m, DS_PICKLE_TUPLE, &node, &index);
    for (size_t i = 0; !rc && i < count; i++)
        rc = ds_pm_add_item(m, node, values[i]);
    return rc ? rc : ds_pm_push(m, index);
}

static int op_tuple_n(machine *m, size_t count) {
    uint32_t values[3];
    int rc = 0;
    for (size_t i = count; !rc && i > 0; i--)
        rc = ds_pm_pop(m, &values[i - 1]);
    return rc ? rc : op_tuple(m, values, count);
}

static int op_tuple_mark(machine *m) {
    uint32_t *values;
    size_t count;
    int rc = ds_pm_pop_mark(m, &values, &count);
    return rc ? rc : op_tuple(m, values, count);
}

/* Into the container on top of the stack; an opaque object gets them as one of its own. */
static int fill(machine *m, enum ds_pickle_kind kind, const uint32_t *values, size_t count) {
    uint32_t container, target;
    ds_pickle_node *node;
    int rc = ds_pm_pop(m, &container);
    if (rc)
        return rc;
    enum ds_pickle_kind is = ds_pm_at(m, container)->kind;
    if ((is != kind && is != DS_PICKLE_OPAQUE) || (kind == DS_PICKLE_DICT && count % 2))
        return ds_pm_damaged(m, "it fills something that is no container");
    target = container;
    if (is == DS_PICKLE_OPAQUE && !(rc = ds_pm_new_node(m, kind, &node, &target)))
        rc = ds_pm_add_item(m, ds_pm_at(m, container), target);
    for (size_t i = 0; !rc && i < count; i++)
        rc = ds_pm_add_item(m, ds_pm_at(m, target), values[i]);
    return rc ? rc : ds_pm_push(m, container);
}

static int op_fill(machine *m, enum ds_pickle_kind kind, size_t count) {
    uint32_t values[2];
    int rc = 0;
    for (size_t i = count; !rc && i > 0; i--)
        rc = ds_pm_pop(m, &values[i - 1]);
    return rc ? rc : fill(m, kind, values, count);
}

static int op_fill_mark(machine *m, enum ds_pickle_kind kind) {
    uint32_t *values;
    size_t count;
    int rc = ds_pm_pop_mark(m, &values, &count);
    return rc ? rc : fill(m, kind, values, count);
}

static int op_container_mark(machine *m, enum ds_pickle_kind kind) { /* LIST, DICT: from a mark */
    uint32_t *values, index;
    size_t count;
    ds_pickle_node *node;
    int rc = ds_pm_pop_mark(m, &values, &count);
    if (!rc && kind == DS_PICKLE_DICT && count % 2)
        return ds_pm_damaged(m, "a dict has a key without value");
    rc = rc ? rc : ds_pm_new_node(m, kind, &node, &index);
    for (size_t i = 0; !rc && i < count; i++)
        rc = ds_pm_add_item(m, node, values[i]);
    return rc ? rc : ds_pm_push(m, index);
}

/* ADDITEMS: members of a set, which nobody asks for. */
static int op_add_to_set(machine *m) {
    uint32_t *values;
    size_t count;
    int rc = ds_pm_pop_mark(m, &values, &count);
    if (!rc && (m->depth == 0 || ds_pm_at(m, m->stack[m->depth - 1])->kind != DS_PICKLE_OPAQUE))
        return ds_pm_damaged(m, "it fills something that is no set");
    return rc;
}

static int op_frozen_set(machine *m) {
    uint32_t *values;
    size_t count;
    int rc = ds_pm_pop_mark(m, &values, &count);
    return rc ? rc : ds_pm_push_int(m, DS_PICKLE_OPAQUE, 0);
}

static int op_duplicate(machine *m) {
    uint32_t node;
    int rc = ds_pm_pop(m, &node);
    rc = rc ? rc : ds_pm_push(m, node);
    return rc ? rc : ds_pm_push(m, node);
}

/* ---------------------------------------------------------------- running */

static int op_pop(machine *m, int to_mark) {
    uint32_t node, *values;
    size_t count;
    return to_mark ? ds_pm_pop_mark(m, &values, &count) : ds_pm_pop(m, &node);
}

static int op_protocol(machine *m) {
    uint64_t v;
    int rc = take_number(m, 1, &v);
    if (!rc && v > 5)
        return ds_pm_damaged(m, "its protocol is unknown");
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
    return ds_pm_damaged(m, "an unknown opcode");
}

static int step(machine *m, uint8_t op) {
    switch (op) {
    case 0x80: return op_protocol(m);
    case 0x95: return op_frame(m);
    case '(': return push_mark(m);
    case '0': return op_pop(m, 0);
    case '1': return op_pop(m, 1);
    case 'N': return ds_pm_push_int(m, DS_PICKLE_NONE, 0);
    case 0x88: return ds_pm_push_int(m, DS_PICKLE_BOOL, 1);
    case 0x89: return ds_pm_push_int(m, DS_PICKLE_BOOL, 0);
    case 'J': return op_int(m, 4, 1);
    case 'K': return op_int(m, 1, 0);
    case 'M': return op_int(m, 2, 0);
    case 0x8a: return op_long(m, 1);
    case 0x8b: return op_long(m, 4);
    case 'I':
    case 'L': return op_text_number(m, 0);
    case 'F': return op_text_number(m, 1);
    case 'S': return op_text_line(m, 1);
    case 'V': return op_text_line(m, 0);
    case 'G': return op_float(m);
    case 'X': return op_text(m, 4); /* BINUNICODE */
    case 0x8c: return op_text(m, 1);
    case 0x8d: return op_text(m, 8);
    case 'T': return op_text(m, 4); /* BINSTRING: bytes of Python 2 */
    case 'U': return op_text(m, 1);
    case 'B': return op_text(m, 4); /* BINBYTES */
    case 'C': return op_text(m, 1);
    case 0x8e: return op_text(m, 8); /* BINBYTES8 */
    case 0x96: return op_text(m, 8); /* BYTEARRAY8 */
    case '}': return ds_pm_push_int(m, DS_PICKLE_DICT, 0);
    case ']': return ds_pm_push_int(m, DS_PICKLE_LIST, 0);
    case ')': return ds_pm_push_int(m, DS_PICKLE_TUPLE, 0);
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
    case 'p': return op_put(m, 0);
    case 'g': return op_get(m, 0);
    case '2': return op_duplicate(m);
    case 0x8f: return ds_pm_push_int(m, DS_PICKLE_OPAQUE, 0); /* EMPTY_SET */
    case 0x90: return op_add_to_set(m);
    case 0x91: return op_frozen_set(m);
    case 'c': return ds_pm_global(m);
    case 0x93: return ds_pm_stack_global(m);
    case 'Q': return ds_pm_persistent(m);
    case 'R':
    case 0x81: return ds_pm_call(m, 0);
    case 0x92: return ds_pm_call(m, 1);
    case 'i': return ds_pm_instance(m, 1);
    case 'o': return ds_pm_instance(m, 0);
    case 'b': return ds_pm_build(m);
    default: return refuse(m, op);
    }
}

static int run(machine *m) {
    uint32_t root;
    for (;;) {
        if (m->at >= m->n)
            return ds_pm_damaged(m, "it has no end");
        uint8_t op = m->data[m->at++];
        int rc = op == '.' ? ds_pm_pop(m, &root) : step(m, op);
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
        case DS_PICKLE_DICT:
        case DS_PICKLE_CLASS:
        case DS_PICKLE_OPAQUE: free(p->nodes[i].items); break;
        case DS_PICKLE_STORAGE: free(p->nodes[i].storage); break;
        case DS_PICKLE_TENSOR: free(p->nodes[i].tensor); break;
        case DS_PICKLE_NONE:
        case DS_PICKLE_BOOL:
        case DS_PICKLE_INT:
        case DS_PICKLE_FLOAT:
        case DS_PICKLE_TEXT:
        case DS_PICKLE_GLOBAL: break;
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
