/* engine/metrics/fid_suite.h - the standard metrics, from a stream of features.
 *
 * One ds_fid_suite per set of pictures takes rows as they come and keeps what the wanted metrics
 * need; two of them, or one and a statistics file, give the numbers.  FID and sFID keep mean and
 * scatter only; the Inception Score keeps its splits' sums; KID keeps at most DS_KID_ROWS_MAX rows,
 * precision and recall at most pr_rows: chosen beforehand by the seed, so memory does not grow with
 * the number of pictures.
 *
 *   FID, sFID  engine/metrics/fd.h, on the 2048-d pool and on the 2023 spatial numbers
 *   KID        engine/metrics/kid.h
 *   IS         exp(mean_x KL(p(y|x) || p(y))) over each of `splits` random parts of nearly equal
 *              size; mean and standard deviation (divisor `splits`) over them.  p = softmax of the
 *              logits without bias.  Salimans et al. 2016; sums of p and of p log p in double:
 *              mean KL = mean sum_y p log p - sum_y q log q, q the mean p
 *   precision  share of generated pictures inside the real manifold: within the distance of some
 *              real picture to its k-th nearest real neighbour (k = 3); recall the other way round.
 *              Kynkaanniemi et al. 2019.  Distances from |x|^2 + |y|^2 - 2 x.y in double
 *
 * Which row belongs to which split, or is kept, depends on its position `index` of `total` and the
 * seed alone (DS_STREAM_KID, steps DS_FID_STEP_*), not on the order of arrival; rows that never
 * come (files that cannot be decoded) only make a part smaller.
 *
 * Ownership: new/free.  Thread: one at a time.  Errors: DS_EINVAL (too few rows, other networks or
 * preprocessing, metric not kept), DS_EFAILED (not finite), DS_ELIMIT.
 */
#ifndef DS_ENGINE_METRICS_FID_SUITE_H
#define DS_ENGINE_METRICS_FID_SUITE_H

#include "engine/metrics/fd.h"
#include "engine/metrics/fid_net.h"
#include "engine/metrics/kid.h"
#include "engine/metrics/npz.h"

enum {
    DS_FID_WANT_FID = 1,
    DS_FID_WANT_KID = 2,
    DS_FID_WANT_IS = 4,
    DS_FID_WANT_PR = 8,
    DS_FID_WANT_SFID = 16,
    DS_FID_WANT_CLASS = 32 /* nothing is kept for it here: it is its caller's */
};

enum { DS_FID_STEP_IS = 0x7ffffff0, DS_FID_STEP_KID, DS_FID_STEP_PR }; /* steps of DS_STREAM_KID */

#define DS_FID_SPLITS 10
#define DS_FID_PR_K 3
#define DS_FID_PR_ROWS_MAX 50000

typedef struct {
    int want; /* DS_FID_WANT_* */
    int dim;  /* of the features */
    int64_t total;
    uint64_t seed;
    int splits;  /* of the Inception Score; 0: DS_FID_SPLITS */
    int pr_rows; /* kept for precision and recall; 0: 10,000 */
    char net[DS_HEX_SIZE], preprocess[32];
} ds_fid_options;

typedef struct ds_fid_suite ds_fid_suite;

ds_fid_suite *ds_fid_suite_new(const ds_fid_options *o);
void ds_fid_suite_free(ds_fid_suite *s);            /* NULL is fine */
size_t ds_fid_suite_bytes(const ds_fid_options *o); /* memory, for planning */

/* One picture.  spatial and logits are read only when wanted.  Not finite: DS_EFAILED. */
int ds_fid_suite_add(ds_fid_suite *s, int64_t index, const float *features, const float *spatial,
                     const float *logits, ds_error *err);
int64_t ds_fid_suite_count(const ds_fid_suite *s);

/* Statistics of what was added, for ds_npz_write_stats (needs FID) or comparison: those of FID, of
 * sFID, or both, as wanted.  Frees the sums: once, and no rows are added afterwards. */
int ds_fid_suite_stats(ds_fid_suite *s, ds_npz_stats *out, ds_error *err);

/* Inception Score of one set. */
typedef struct {
    double mean, std;
    int splits;
    int64_t n;
} ds_is_result;
int ds_fid_suite_is(const ds_fid_suite *s, ds_is_result *out, ds_error *err);

/* KID between two sets' kept rows. */
int ds_fid_suite_kid(const ds_fid_suite *real, const ds_fid_suite *fake, int subsets,
                     int subset_size, uint64_t seed, ds_kid_result *out, ds_error *err);

typedef struct {
    double precision, recall;
    int k;
    int64_t n_real, n_fake; /* used */
} ds_pr_result;
int ds_fid_suite_pr(const ds_fid_suite *real, const ds_fid_suite *fake, ds_pr_result *out,
                    ds_error *err);

/* The same from plain rows (n,dim). */
int ds_precision_recall(const float *real, int64_t n_real, const float *fake, int64_t n_fake,
                        int dim, int k, ds_pr_result *out, ds_error *err);

#endif
