/* registry/rows/bars.h - what a new version of a name is measured against before it becomes
 * @latest.
 *
 * The rule is in docs/registry.md; the worker measures (worker/kinds/gate.h) and the registry keeps
 * what came out, next to the gate's rows.  Thread: the registry's.
 */
#ifndef DS_REGISTRY_ROWS_BARS_H
#define DS_REGISTRY_ROWS_BARS_H

#include "registry/core/handle.h"

/* The "bars" of a train spec (docs/jobs.md) whose dataset, feature_net and evaluate are known:
 *   latest   the version that NAME@latest points to
 *   best     the published version with the smallest FD among those measured on the same pictures,
 *            with the same network, N and seed, as itself or as a bar; while these pictures have
 *            none, among those measured on @latest's pictures with @latest's network
 * One entry when both are the same version, none while nothing is published.  A version that was
 * rejected or deleted is no bar. */
int ds_bars(ds_registry *r, const char *name, const json_t *spec, json_t **out, ds_error *err);

#endif
