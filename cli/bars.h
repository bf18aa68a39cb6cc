/* cli/bars.h - what a version was measured against, and what a base's own samples are, in words. */
#ifndef DS_CLI_BARS_H
#define DS_CLI_BARS_H

#include "base/mem.h"
#include "cli/format.h"

/* Lists get a column for it only when there is something to show: a bar that is an earlier version,
 * or that refused.  "digits@v1", "digits@v1, worse", "digits@v1, forced"; NULL = nothing.
 * a: an adapter, or a row of the report, with "self" and "bar". */
int ds_any_bar(const json_t *items);
const char *ds_bar_words(ds_buf *out, const json_t *a);

/* 27.13 is "+2713 %", NaN "-" */
const char *ds_fmt_change(char out[DS_TEXT], double delta);

/* The table of gate.self.bars, indented; nothing when the base alone was a bar, and it passed. */
void ds_print_bars(ds_cli *c, const json_t *gate);

/* "digits@v2 was published by force; FD 144 is worse than 5.12 of digits@v1"; "" when not. */
void ds_forced_words(ds_buf *out, const char *ref, const json_t *gate);

/* "0.194 (real pictures 0.905, chance 0.100)": the share of an adapter's samples that show their
 * class; "not measured"; NULL where there are no classes to show. */
const char *ds_class_words(ds_buf *out, const json_t *a);
/* The same for a column, "0.194 of 0.905", "-"; and is there anything for one? */
const char *ds_fmt_classes(char out[DS_TEXT], const json_t *a);
int ds_any_class(const json_t *items);

/* Of the whole set: a value of the "evaluations" of an adapter (GET /v1/adapters/REF); NaN. */
double ds_measured(const json_t *adapter, const char *subject, const char *metric, const char *key);

/* "the 6 old classes do not degrade: same samples as recorded (FD 12.3), last with flags@v1".
 * task: that of a base (docs/api.md); NULL or null: "" */
void ds_base_task_words(ds_buf *out, const json_t *task);

#endif
