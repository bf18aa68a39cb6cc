/* worker/kinds/gate.h - the proof that the old tasks are what they were (DESIGN 5).
 *
 * For each old task, in this order:
 *   integrity   base, feature network, adapter and reference are the registered bytes
 *   level 1     the probe, fixed-seed samples through the path that serves the task, has the
 *               recorded digest (same device class): unchanged, proven.  On a class that nothing is
 *               recorded of it is made and reported, so that the registry can record it when level
 *               2 passes, and level 1 is possible from then on
 *   level 2     otherwise, or with verify=full: FD and KID against the stored reference features
 *               at the recorded N, seed and sampler settings
 *
 * A file that cannot be read for want of memory is no finding: the job ends, to be run again.
 * An integrity finding is a refusal whatever is measured; the amount is measured all the same where
 * the damaged thing can still be used, so that the verdict says what it would have cost.
 * Level 2 refuses when
 *     fd_now  > fd (1 + fd_tolerance) + 2 std_error(fd_now)        or
 *     kid_now > kid + kid_tolerance_sigmas std_error(kid_now)
 * One-sided: a task that became better is not refused.  The same bits on the same device class give
 * the same FD and KID, so A/A never refuses; two standard errors cover the rounding of another one.
 *
 * The base's own classes are task 0 (worker/kinds/base_task.h): verified like any other where they
 * are recorded, without an adapter.  A record without a reference (a large base) is the probe
 * alone: on a class of devices that it says nothing of, the base's digest is all the proof there
 * is.
 *
 * A new version is compared with what stands in its name as well (worker/kinds/bars.h).
 *
 * Ownership: ds_gate_run fills a ds_gate, ds_gate_release frees it.  Thread: the main one.
 * Errors: only what keeps the gate from coming to a verdict (memory, a full disk).
 */
#ifndef DS_WORKER_KINDS_GATE_H
#define DS_WORKER_KINDS_GATE_H

#include "worker/kinds/bars.h"
#include "worker/measure/tools.h"

#define DS_GATE_REASON 1024

typedef struct {
    const ds_spec_task *task;
    int level; /* the highest that was done; 0 = none could be */
    int unchanged, refused;
    char reason[DS_GATE_REASON];          /* "" when passed */
    double fd_now, fd_lo, fd_hi, kid_now; /* NaN: not measured */
    double delta;                         /* fd_now / fd - 1; NaN: not measured */
    char probe_now[DS_HEX_SIZE];          /* "": not made */
    const ds_spec_probe *probe; /* what it was made by and compared with; NULL: not made */
    const char *probe_class;    /* where it was made */
} ds_gate_task;

typedef struct {
    ds_gate_task *tasks;
    int count, refused; /* tasks refused */
    int worst;          /* index of the refused task with the largest delta; -1 = none refused */
    char reason[DS_GATE_REASON];
    ds_bars self; /* of a new version */
} ds_gate;

/* Only the integrity checks, before any work: how many things are not as
 * registered (what ds_tools_open found counts once).  Each is written as a warning event. */
int ds_gate_preflight(const ds_tools *tools);

/* DS_ENEWER if an old task's or a bar's adapter is of a newer program: before anything is trained,
 * since no verdict could follow. */
int ds_gate_check_newer(const ds_spec *s, ds_error *err);

int ds_gate_run(ds_tools *tools, ds_gate *out, ds_error *err);
/* And the new version, after ds_evaluate. */
int ds_gate_new_version(ds_tools *tools, const ds_images *images, const ds_adapter *adapter,
                        ds_gate *g, ds_error *err);
/* Is the verdict "refused", by an old task or by a bar? */
int ds_gate_refuses(const ds_gate *g);
void ds_gate_release(ds_gate *g);
json_t *ds_gate_json(const ds_gate *g); /* the object "gate" of result.json */

/* The rule of level 2 alone: 1 = refused, with the reason ("FD 12.31 -> 48.90 (+297 %), tolerance
 * 2 %").  fd or kid NaN: that one is not judged; both NaN is refused. */
typedef struct {
    double fd, fd_now, fd_error, kid, kid_now, kid_error; /* errors: NaN counts as 0 */
} ds_gate_figures;
int ds_gate_judge(const ds_gate_figures *f, const ds_spec_gate *rule, char reason[DS_GATE_REASON]);

#endif
