/* worker/kinds/bars.h - a new version against what stands in its name: the gate protects a task
 * from itself.
 *
 * The bars are the published versions that the spec names ("latest", and "best": so that quality
 * does not sink by one margin a version) and, last, the base.  Each is sampled from the same noise,
 * with the same labels, as many pictures, against this job's reference, in this job's feature
 * network, whatever it was measured with once; each with the sampler settings that it is served
 * with.  Both lose the same pictures in each part of the jackknife.  A new version is refused when
 *     fd_now > fd_bar (1 + worse_margin)   and   (fd_now - fd_bar) / std_error >= worse_sigmas
 * where std_error is of the paired difference (docs/math.md says how good that is).
 * Where samples have classes that the spec has measured (worker/measure/classes.h), also when
 *     class_now < class_bar - class_margin   and   (class_bar - class_now) / error >= class_sigmas
 * with the shares that show their class, by votes of the same real pictures.
 *
 * Classes that came or went are left out of both sides, of the reference too.  What cannot be
 * compared is no bar, and says why: another side or VAE, a base that is gone, a damaged file, too
 * few pictures.  None of that fails the job; a damaged file is a warning as well.
 *
 * Cost: N samples of each bar the first time (worker/measure/task_features.h), a distance for each
 * group. Ownership: ds_bars_run fills, ds_bars_release frees.  Thread: the main one.
 * Errors: what keeps it from a verdict (memory, a full disk).
 */
#ifndef DS_WORKER_KINDS_BARS_H
#define DS_WORKER_KINDS_BARS_H

#include "engine/metrics/votes.h"
#include "worker/kinds/evaluate.h"

#define DS_BAR_REASON 512
#define DS_BAR_PICTURES_MIN 32 /* samples of shared classes: 8 groups of 4 */
#define DS_BAR_REAL_MIN 16     /* pictures of shared classes in the reference */

enum ds_bar_verdict { DS_BAR_PASSED, DS_BAR_REFUSED, DS_BAR_NONE };

typedef struct {
    enum ds_bar_role role;
    char *ref;
    enum ds_bar_verdict verdict;
    double fd_bar, fd_now, delta, std_error, z, kid_bar, kid_now; /* NaN: not measured */
    ds_share_pair class_pair;                                     /* .. its members as well */
    int n, classes, classes_new, classes_bar; /* samples and classes compared; of each */
    char reason[DS_BAR_REASON];
} ds_bar;

typedef struct {
    int done; /* 0: not asked, as in a job that verifies only */
    ds_bar bars[DS_SPEC_BARS_MAX + 1];
    int count, refused; /* bars that refuse */
    int forced;         /* .. and are overruled */
    int n;              /* samples that were measured, and their FD */
    double fd, margin, class_margin;
    char reason[DS_BAR_REASON]; /* "" unless refused: both names, both numbers */
} ds_bars;

int ds_bars_run(ds_tools *tools, const ds_images *images, const ds_adapter *adapter, ds_bars *out,
                ds_error *err);
void ds_bars_release(ds_bars *b);
int ds_bars_refuse(const ds_bars *b);   /* is the new version to be rejected? */
json_t *ds_bars_json(const ds_bars *b); /* "gate.self" of result.json */

/* The rule alone.  A new distance that is not a number is refused; a bar's, or an error of the
 * difference, that is not one is no bar. */
enum ds_bar_verdict ds_bar_judge(double fd_bar, double fd_now, double std_error,
                                 const ds_spec_gate *rule);

/* The same of classes: a share that is not a number, or an error that is none, refuses nothing. */
int ds_bar_judge_classes(const ds_share_pair *p, const ds_spec_gate *rule);

/* Groups of the jackknife for n pictures; 0: too few for an interval. */
int ds_bar_groups(int64_t n);

#endif
