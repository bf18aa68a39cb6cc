/* base/log.h - one line per event on stderr; and clocks.
 *
 * Only daemon/, worker/ and cli/ log; engine/, registry/ and kernels/ return errors or call a
 * progress function.  Lines are logfmt: ts=... level=... comp=... msg="...".  Under journald
 * (JOURNAL_STREAM matches stderr) the time is left out and the <N> priority prefix is used.
 */
#ifndef DS_BASE_LOG_H
#define DS_BASE_LOG_H

#include <stdint.h>

enum ds_log_level { DS_LOG_DEBUG, DS_LOG_INFO, DS_LOG_WARN, DS_LOG_ERROR };

void ds_log_init(const char *component, enum ds_log_level least);
void ds_log(enum ds_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

int64_t ds_now_ms(void);        /* wall clock, ms since 1970 UTC */
double ds_monotonic(void);      /* seconds, for durations */
double ds_processor_time(void); /* seconds, of all threads of this process */

void ds_time_rfc3339(char out[32], int64_t ms); /* "2026-01-02T03:04:05.678Z" */
/* Reads such a time: with any fraction of a second or none (what is finer than ms is cut off), or a
 * day alone.  What it was: */
enum ds_time_form {
    DS_TIME_NONE, /* neither (or NULL); *ms is left alone */
    DS_TIME_DAY,  /* "2026-01-02": *ms is midnight UTC */
    DS_TIME_UTC,
    DS_TIME_BARE /* without its Z, taken as UTC */
};
enum ds_time_form ds_time_read(const char *text, int64_t *ms);

#endif
