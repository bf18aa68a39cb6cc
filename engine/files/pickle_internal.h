/* engine/files/pickle_internal.h - the stack machine of pickle.c, for pickle_calls.c. */
#ifndef DS_ENGINE_FILES_PICKLE_INTERNAL_H
#define DS_ENGINE_FILES_PICKLE_INTERNAL_H

#include "engine/files/pickle.h"

#define NUMBERS_MAX ((uint64_t)1 << 60) /* elements of a storage: products stay in 64 bits */

struct ds_pickle {
    ds_pickle_node *nodes;
    uint32_t count, cap, root;
    uint64_t items;
};

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

int ds_pm_damaged(machine *m, const char *what);
int ds_pm_too_large(machine *m, const char *what);
void ds_pm_printable(char *out, size_t size, const uint8_t *s, size_t n);
int ds_pm_push(machine *m, uint32_t node);
int ds_pm_pop(machine *m, uint32_t *node);
/* The values above the last mark: they stay valid until the next push. */
int ds_pm_pop_mark(machine *m, uint32_t **values, size_t *count);
int ds_pm_new_node(machine *m, enum ds_pickle_kind kind, ds_pickle_node **out, uint32_t *index);
int ds_pm_push_int(machine *m, enum ds_pickle_kind kind, int64_t i);
int ds_pm_add_item(machine *m, ds_pickle_node *node, uint32_t item);
ds_pickle_node *ds_pm_at(machine *m, uint32_t node); /* until the next new node */
int ds_pm_take_line(machine *m, const uint8_t **s, size_t *n);

/* pickle_calls.c: the opcodes that name and would call something. */
int ds_pm_global(machine *m);
int ds_pm_stack_global(machine *m);
int ds_pm_persistent(machine *m);
int ds_pm_call(machine *m, int extra);
int ds_pm_instance(machine *m, int named);
int ds_pm_build(machine *m);

#endif
