/* worker/convert/import_feature_net.h - the network of published FID values -> canonical bytes.
 *
 * Source: pt_inception-2015-12-05-6726825d.pth, or the same tensors in any file of
 * engine/files/weights.h.  Canonical: a safetensors file of F32 tensors in the order of the
 * network, with metadata diffscaler.kind = "inception-fid" and nothing else that depends on the
 * source; so the same weights have the same digest whatever file they came in.  num_batches_tracked
 * and AuxLogits are left out.
 *
 * ds_import_feature_net (worker/convert/import.h) writes them to a file.
 * Ownership: the caller frees the bytes.  Thread: any.  Errors: as ds_weights_open; DS_EINVAL: not
 * this network (torchvision's has 1000 classes); DS_EINTEGRITY: a number is not finite.
 */
#ifndef DS_WORKER_CONVERT_IMPORT_FEATURE_NET_H
#define DS_WORKER_CONVERT_IMPORT_FEATURE_NET_H

#include "worker/convert/import.h"

#include <stddef.h>

/* Takes source, weights and report of the options.  format: of the source, 96 bytes, or NULL. */
int ds_feature_net_canonical(const ds_import_options *o, char **bytes, size_t *n, char *format,
                             ds_error *err);

#endif
