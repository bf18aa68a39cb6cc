/* engine/diffusion/sampler_table.h - which modulations are computed, and when, while pictures are
 * sampled.
 *
 * A window keeps the modulations of several steps of the sampler for a set of conditions in a
 * ds_net_table.  Where those of the whole run fit (all steps, all conditions), they are computed
 * once; else those of a batch for as many steps as fit, and again when these are through.  It is
 * never more than the passes would compute themselves.  Where a batch would gain nothing (each
 * sample has a condition of its own, and only one step fits) its passes go on without.
 *
 * Ownership: new/free; net and schedule are borrowed.  Thread: as the net.  Errors: none, a window
 * that cannot be had is NULL, and all functions take that. */
#ifndef DS_ENGINE_DIFFUSION_SAMPLER_TABLE_H
#define DS_ENGINE_DIFFUSION_SAMPLER_TABLE_H

#include "engine/diffusion/diffusion.h"
#include "engine/model/net.h"

typedef struct ds_window ds_window;

/* Rows of modulations that a device is given. */
int ds_window_rows(const ds_base *base, const ds_device *dev);

/* all (n): conditions of the run, without timesteps; batch: samples of a batch, at most; most: rows
 * that may be kept. */
ds_window *ds_window_new(ds_net *net, const ds_schedule *s, const ds_net_sample *all, int n,
                         int batch, int most);
void ds_window_free(ds_window *w);

/* Samples first .. first+n-1 of the next batch have these conditions (samples[first] ...). */
void ds_window_batch(ds_window *w, const ds_net_sample *samples, int first, int n);

/* ds_net_forward of those n samples in step k of the schedule.  0: no, do it without. */
int ds_window_forward(ds_window *w, float *out, const float *x, int first, int n, int k);

#endif
