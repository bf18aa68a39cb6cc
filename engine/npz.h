/* engine/npz.h - statistics of feature sets as NumPy .npz files, in the layout of pytorch-fid and
 * of the ADM evaluator: mu (d), sigma (d,d), and mu_s, sigma_s for sFID.
 *
 * Reading is strict and bounded, because such files are downloaded: only the four members and ours
 * are touched, each must be an .npy of version 1 to 3 with '<f8' or '<f4' numbers (C or Fortran
 * order), of one or two dimensions of at most DS_FEATURE_DIM_MAX, and hold exactly the bytes that
 * its header says; all numbers finite, sigma symmetric with a diagonal that is not negative.  A
 * member is never unpacked further than its header's size, so a compression bomb has no effect.
 * No pickled object is ever read.
 *
 * Our own files have one more member, diffscaler.npy: a byte string of JSON with network digest,
 * preprocessing, n and seed.  Files without it come from elsewhere; then these are unknown.
 *
 * Ownership: the read result is released by the caller.  Thread: any.  Errors: DS_EINTEGRITY naming
 * file and member; DS_ENOTFOUND, DS_EPERM; DS_ELIMIT.
 */
#ifndef DS_ENGINE_NPZ_H
#define DS_ENGINE_NPZ_H

#include "base/digest.h"

#include <stdint.h>

typedef struct {
    double *mu, *sigma; /* (dim), (dim,dim) */
    int dim;
    double *mu_s, *sigma_s; /* (dim_s), (dim_s,dim_s); NULL when the file has none */
    int dim_s;
    int known;             /* the rest is known */
    char net[DS_HEX_SIZE]; /* digest of the feature network */
    char preprocess[32];
    char decode[32]; /* how files became pixels (worker/decode.h) */
    int64_t n;       /* pictures; -1 unknown */
    uint64_t seed;
} ds_npz_stats;

int ds_npz_read_stats(const char *path, ds_npz_stats *out, ds_error *err);
/* Whole or absent.  mu_s NULL: left out.  known must be set. */
int ds_npz_write_stats(const char *path, const ds_npz_stats *s, ds_error *err);
void ds_npz_stats_release(ds_npz_stats *s);

#endif
