/* worker/images/metadata_csv.h - file_name,label tables (RFC 4180: quotes, BOM, CRLF).
 *
 * The header row must name the columns file_name and label; other columns are ignored.  Rows that
 * cannot be used (bad path, empty or unprintable label, two labels for one file) become rejected
 * entries; a table that is not CSV is DS_EINVAL with its line.  Ownership: the caller releases.
 * Thread: any.
 */
#ifndef DS_WORKER_IMAGES_METADATA_CSV_H
#define DS_WORKER_IMAGES_METADATA_CSV_H

#include "worker/decode/files.h"

typedef struct {
    char *path, *label;
    int64_t line;
    int used; /* for the scanner: a file of this name was found */
} ds_csv_row;

typedef struct {
    ds_csv_row *rows; /* sorted by path bytes, paths are unique */
    int64_t count, cap;
} ds_csv_table;

#define DS_CSV_MAX ((size_t)256 << 20)
#define DS_LABEL_MAX 255

int ds_csv_parse(ds_csv_table *out, const char *name, const char *text, size_t n, int64_t max_rows,
                 ds_rejected_list *rejected, ds_error *err);
ds_csv_row *ds_csv_find(const ds_csv_table *t, const char *path);
void ds_csv_release(ds_csv_table *t);

#endif
