/* cli/format.h - for human eyes: sizes, numbers, times, unicode width, tables, colour, bars.
 *
 * Everything here writes short text into the caller's buffer or to a stream; nothing fails.
 * Tables own copies of their cells.  Widths are terminal columns: combining marks count 0, East
 * Asian wide characters and emoji 2.
 */
#ifndef DS_CLI_FORMAT_H
#define DS_CLI_FORMAT_H

#include "cli/cli.h"

enum { DS_TEXT = 64 }; /* room for any of the short texts below */

const char *ds_fmt_bytes(char out[DS_TEXT], double bytes); /* "1.2 MB"; "-" when negative */
const char *ds_fmt_count(char out[DS_TEXT], int64_t n);    /* "5,000"; "-" when negative */
const char *ds_fmt_method(char out[DS_TEXT], const json_t *adapter); /* "affiner, rank 8" */
const char *ds_fmt_number(char out[DS_TEXT], double v);         /* 3 significant digits; "-": NaN */
const char *ds_fmt_seconds(char out[DS_TEXT], double seconds);  /* "0:33", "1:02:03" */
const char *ds_fmt_duration(char out[DS_TEXT], double seconds); /* "0.4 s", "59 s", "3 min 5 s" */
/* Local short form: "14:03:05" today, "Nov 23 14:03" this year, else "2025-11-23". */
const char *ds_fmt_time(char out[DS_TEXT], const char *rfc3339);
int64_t ds_time_parse(const char *rfc3339); /* ms since 1970; -1 when it is not RFC 3339 UTC */
double ds_json_real(const json_t *obj, const char *key); /* NAN when absent or not a number */

/* Number of columns of UTF-8 text; bytes that are not UTF-8 count one each. */
int ds_width(const char *s);
/* Copy without control characters (replaced by '?') into out, at most `columns` wide (0: no limit;
 * cut with an ellipsis). */
void ds_clean(const ds_cli *c, ds_buf *out, const char *s, int columns);
void ds_put_clean(const ds_cli *c, FILE *f, const char *s);

typedef enum { DS_PLAIN, DS_BOLD, DS_DIM, DS_RED, DS_GREEN, DS_YELLOW, DS_BLUE } ds_style;
/* The escape sequence, or "" when colour is off; ds_style_off likewise. */
const char *ds_style_on(const ds_cli *c, ds_style s);
const char *ds_style_off(const ds_cli *c, ds_style s);
ds_style ds_style_of_state(const char *state); /* published, running, failed, ... */

/* Table: spec "NAME|IMAGES>|PATH~": > right-aligned, ~ may be shortened to fit the terminal. */
typedef struct ds_table ds_table;
ds_table *ds_table_new(const char *spec);
void ds_cell(ds_table *t, const char *text); /* next cell; NULL or "" shows "-" */
void ds_cell_styled(ds_table *t, ds_style style, const char *text);
void ds_table_print(ds_table *t, const ds_cli *c, FILE *f, int indent); /* header and rows */
void ds_table_free(ds_table *t);

/* "label      text" with the label in a column of its own. */
void ds_field(const ds_cli *c, const char *label, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A bar of `columns` cells for a fraction in [0,1]. */
void ds_bar(const ds_cli *c, ds_buf *out, double fraction, int columns);

/* "fid tf1-bilinear/128/1": what the distances of an adapter (or row of the report) were made with;
 * NULL where nothing is known.  Those of different networks stand side by side only with it. */
const char *ds_fmt_net(char out[DS_TEXT], const json_t *a);
int ds_several_nets(const json_t *items);

/* The field "class names": the first of a list of {name, images}, with their images, and how many
 * more there are.  Nothing for an empty or absent list. */
void ds_show_classes(ds_cli *c, const json_t *classes);

/* The newest training of a dataset failed, whatever its state is ("ready" tells of its scan). */
int ds_training_failed(const json_t *dataset);
/* "digits: its newest training failed (job 4): why; what to do", or nothing. */
void ds_training_words(ds_buf *out, const json_t *dataset);

#endif
