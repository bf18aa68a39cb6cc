/* registry/rows/models_internal.h - what bases and feature networks have in common.  Thread: the
 * registry's. */
#ifndef DS_REGISTRY_ROWS_MODELS_INTERNAL_H
#define DS_REGISTRY_ROWS_MODELS_INTERNAL_H

#include "registry/core/db.h"

/* Subquery: id of the default base. */
#define MODELS_ACTIVE "(SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'active_base')"

/* Find by name or digest ("sha256:<8..64 digits>", 64 digits).  by_name, by_digest: ids of what is
 * meant, the best first; ?1 = text. */
int model_find(ds_registry *r, const char *what, const char *ref, const char *by_name,
               const char *by_digest, int64_t *id, ds_error *err);

/* Event `type` about "<what>:<name>". */
int model_event(ds_registry *r, const char *type, const char *what, const char *name,
                const char *sha256, ds_error *err);

/* What uses a model, one question after the other: sql gives a number and a name; ?1 = id.  The
 * first that uses it is told in words ("3 datasets ...: digits, ..."), out "" when nothing does. */
struct model_use {
    const char *what, *sql;
    int plain; /* only the words, without number and name */
};
int model_needed_by(ds_registry *r, int64_t id, const struct model_use *uses, size_t count,
                    char out[400], ds_error *err);

#endif
