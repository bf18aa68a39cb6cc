/* engine/files/weights_models.h - the models of a file, for those who choose among them.
 *
 * Thread: one.  All of it borrows the items of the ds_weights.
 */
#ifndef DS_ENGINE_FILES_WEIGHTS_MODELS_H
#define DS_ENGINE_FILES_WEIGHTS_MODELS_H

#include "engine/files/weights_internal.h"

enum { DS_WEIGHTS_MODELS_MAX = 64, DS_WEIGHTS_NAME_SIZE = 1024 };

/* How the tensors of a model are called: by their names, by their names without dots, or by their
 * place in a list. */
enum ds_weights_form { DS_WEIGHTS_NAMED, DS_WEIGHTS_DOTLESS, DS_WEIGHTS_LISTED };

typedef struct {
    char *prefix; /* owned; before its names in the file: "", or it ends with '.' unless DOTLESS */
    size_t len;
    uint32_t nest;
    enum ds_weights_form form;
    char joint;         /* DOTLESS: what stands for the dots, 0 = nothing */
    int averaged, like; /* like: the NAMED model that has the names of a DOTLESS or LISTED one */
    size_t tensors;
    const ds_weights_item *first; /* the tensor of its mark; LISTED: the first */
} ds_weights_model;

typedef struct {
    ds_weights *w;
    const char *const *marks;
    ds_weights_model list[DS_WEIGHTS_MODELS_MAX];
    int count;
    int *owner; /* of each of w's items, once all NAMED and DOTLESS ones are found */
} ds_weights_models;

/* In this order; the owners are noted before the lists are looked for. */
void ds_weights_find_named(ds_weights_models *k);
void ds_weights_find_dotless(ds_weights_models *k);
void ds_weights_find_listed(ds_weights_models *k);

/* The NAMED model that an item belongs to: the longest prefix at the same depth of dicts; -1. */
int ds_weights_owner_of(const ds_weights_models *k, const ds_weights_item *it);
/* The items of the NAMED model `index`, or of `list`, in the order of the file; malloc'ed.
 * constants: also what is not trained. */
const ds_weights_item **ds_weights_members(const ds_weights_models *k, int index,
                                           const ds_weights_model *list, int constants,
                                           size_t *count);
/* Do the tensors of a list have the shapes of those of the model that it is like? */
int ds_weights_list_fits(const ds_weights_models *k, const ds_weights_model *m, int constants);
/* The counterpart of `it` in a DOTLESS model, or NULL. */
const ds_weights_item *ds_weights_dotless_twin(const ds_weights_models *k,
                                               const ds_weights_model *m,
                                               const ds_weights_item *it);

/* name without its wrappers ("module.", "_orig_mod."). */
void ds_weights_strip(const char *name, char out[DS_WEIGHTS_NAME_SIZE]);
/* Is it a tensor that is not trained, so that no average of it is kept? */
int ds_weights_is_constant(const char *name);
int ds_weights_same_shape(const ds_weights_item *a, const ds_weights_item *b);

#endif
