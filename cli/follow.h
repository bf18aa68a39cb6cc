/* cli/follow.h - waiting for a job: progress lines or a bar, and its terminal state.
 *
 * The state comes from GET /v1/jobs/{id} and progress from the job's events, both polled with a
 * cursor, so a daemon that is restarted in between (for up to DS_FOLLOW_PATIENCE seconds) only
 * interrupts the display.
 */
#ifndef DS_CLI_FOLLOW_H
#define DS_CLI_FOLLOW_H

#include "cli/cli.h"
#include "contract/job.h"

#define DS_FOLLOW_PATIENCE 30.0

/* One progress display; on a terminal one line redrawn in place, else one line per 10 % or 30 s.
 * Writes to c->err; silent with --quiet and --json. */
typedef struct {
    ds_cli *c;
    char stage[32];
    double stage_started, last_line;
    int last_tenth, drawn, bytes; /* bytes: that is what done and total count */
    int64_t done, total;
    double rate;
} ds_progress;

void ds_progress_start(ds_progress *p, ds_cli *c);
void ds_progress_stage(ds_progress *p, const char *stage);
/* members as docs/jobs.md "progress": done,total,unit,rate,eta_seconds,loss,images_per_second */
void ds_progress_update(ds_progress *p, const char *stage, const json_t *progress);
void ds_progress_clear(ds_progress *p);  /* before another message */
void ds_progress_finish(ds_progress *p); /* closes the running stage */

/* "360/800 steps  13.2 steps/s  845 images/s  loss 0.310  0:33 left" */
void ds_progress_text(const json_t *progress, ds_buf *out);

/* The same for a line of so many columns: percent and time left first and always, then as many of
 * the other fields as fit, and a bar of up to `widest` cells where there is room for one. */
void ds_progress_numbers(const ds_cli *c, const json_t *progress, int columns, int widest,
                         ds_buf *out);

/* Wait until the job ends or `deadline` (ds_monotonic; 0: none) passes (DS_ETIMEOUT).  *job is a
 * new reference to the finished job.  Ctrl-C: DS_ECANCELED with a message that the job goes on. */
int ds_follow_job(ds_cli *c, int64_t id, double deadline, json_t **job, ds_error *err);

/* POST that makes a job, its notes told, then as ds_follow_job with the option --timeout. */
int ds_post_and_follow(ds_cli *c, const char *path, const json_t *body, json_t **job,
                       ds_error *err);

/* Not done: the error that a finished job's state and error member mean, else 0. */
int ds_job_verdict(const json_t *job, ds_error *err);
/* "DS_EIO" -> DS_EIO; DS_EFAILED for names that are not known. */
int ds_error_from_name(const char *name);
int ds_job_finished(const json_t *job);
int ds_job_is(const json_t *job, enum ds_job_state state);

/* The tables of a gate object (docs/jobs.md), indented: its bars, the old tasks.  brief: tasks with
 * the same probe digest are one line with their number. */
void ds_print_gate(ds_cli *c, const json_t *gate, int brief);

#endif
