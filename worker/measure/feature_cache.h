/* worker/measure/feature_cache.h - features that many jobs need are computed once.
 *
 * One file per key in a cache folder, named by the key's digest.  The key is text that says all
 * that the features depend on.  Anything wrong with a file makes it a miss: it is only a cache.
 * Thread: any; two processes that save one key write the same bytes.
 */
#ifndef DS_WORKER_MEASURE_FEATURE_CACHE_H
#define DS_WORKER_MEASURE_FEATURE_CACHE_H

#include "base/digest.h"

#include <stddef.h>
#include <stdint.h>

typedef struct {
    float *x;        /* (n, dim) */
    int64_t n;       /* set before load */
    int dim;         /* set before load */
    uint8_t *pixels; /* some of the pictures, to be shown; pixel_bytes may be 0 */
    size_t pixel_bytes;
    char sample_digest[DS_HEX_SIZE]; /* of all the pictures; may be "" */
} ds_cached_features;

/* Fill x, pixels (allocated by the caller) and sample_digest.  1 = found; 0 = not there;
 * -1 = there but damaged or of other sizes. */
int ds_feature_cache_load(const char *dir, const char *key, ds_cached_features *f);
int ds_feature_cache_save(const char *dir, const char *key, const ds_cached_features *f,
                          ds_error *err);

#endif
