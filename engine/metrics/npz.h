/* engine/metrics/npz.h - NumPy's .npz files: statistics of feature sets in the layout of
 * pytorch-fid and of the ADM evaluator (mu (d), sigma (d,d), and mu_s, sigma_s for sFID), and
 * pictures as ADM and DiT write their samples (arr_0, uint8 (N,H,W,3)).  ADM's reference files have
 * both.
 *
 * Reading is strict and bounded, because such files are downloaded: only these members and ours
 * are touched, each must be an .npy of version 1 to 3 and hold exactly the bytes that its header
 * says.  Statistics are f8, f4 or f2 in any order of bytes (C or Fortran order), of at most
 * DS_FEATURE_DIM_MAX a side, finite and at most DS_NPZ_LARGEST, sigma symmetric with a diagonal
 * that is not negative.  Members may be stored or deflated; a member is never unpacked further than
 * its header's size, so a compression bomb has no effect.  No pickled object is ever read.
 *
 * Our own files have one more member, diffscaler.npy: a byte string of JSON with network digest,
 * preprocessing, n and seed.  Files without it come from elsewhere; then these are unknown.
 *
 * Ownership: the read result is released by the caller.  Thread: any, a ds_npz_pictures one at a
 * time.  Errors: DS_EINTEGRITY (damaged) and DS_EINVAL (not supported) naming file and member;
 * DS_ENOTFOUND, DS_EPERM; DS_ELIMIT.
 */
#ifndef DS_ENGINE_METRICS_NPZ_H
#define DS_ENGINE_METRICS_NPZ_H

#include "base/digest.h"

#include <stdint.h>

#define DS_NPZ_LARGEST 1e100 /* squares and products of such numbers are finite */

typedef struct {
    double *mu, *sigma; /* (dim), (dim,dim) */
    int dim;
    double *mu_s, *sigma_s; /* (dim_s), (dim_s,dim_s); NULL when the file has none */
    int dim_s;
    int known;             /* the rest is known */
    char net[DS_HEX_SIZE]; /* digest of the feature network */
    char preprocess[32];
    char decode[32]; /* how files became pixels (worker/decode/decode.h) */
    int64_t n;       /* pictures; -1 unknown */
    uint64_t seed;
} ds_npz_stats;

/* What a file has, from the names and headers of its members alone. */
typedef struct {
    int stats, spatial; /* mu and sigma; mu_s and sigma_s */
    int64_t pictures;   /* 0: none */
    int width, height;
} ds_npz_contents;
int ds_npz_look(const char *path, ds_npz_contents *out, ds_error *err);

int ds_npz_read_stats(const char *path, ds_npz_stats *out, ds_error *err);
/* Whole or absent, by the rule of ds_fs_output_check.  mu_s NULL: left out.  known must be set. */
int ds_npz_write_stats(const char *path, const ds_npz_stats *s, int force, ds_error *err);
void ds_npz_stats_release(ds_npz_stats *s);

/* The pictures of arr_0 one after the other; memory does not depend on their number. */
typedef struct ds_npz_pictures ds_npz_pictures;

int ds_npz_pictures_open(const char *path, ds_npz_pictures **out, ds_error *err);
void ds_npz_pictures_close(ds_npz_pictures *p); /* NULL is fine */
int64_t ds_npz_pictures_count(const ds_npz_pictures *p);
int ds_npz_pictures_width(const ds_npz_pictures *p);
int ds_npz_pictures_height(const ds_npz_pictures *p);
/* The next one, (height,width,3).  After the last one the member's checksum was compared. */
int ds_npz_pictures_next(ds_npz_pictures *p, uint8_t *rgb, ds_error *err);

#endif
