/* engine/files/import_report.h - what an import understood of a file of another program, for people
 * and for the registry: which model of several was taken, which fields of configurations were used,
 * what was assumed, what was left out.
 *
 * One report goes through all readers of an import; each writes what it decided where it decides.
 * The document is in docs/jobs.md ("import", key "report").  Every item is also one line of text,
 * in the order in which they were written (ds_import_report_lines).
 *
 * Ownership: new/free by the caller; what is handed over is copied, a json_t is taken over.  NULL
 * for the report is fine everywhere: nothing is kept.  Thread: one.
 */
#ifndef DS_ENGINE_FILES_IMPORT_REPORT_H
#define DS_ENGINE_FILES_IMPORT_REPORT_H

#include "base/json.h"

typedef struct ds_import_report ds_import_report;

ds_import_report *ds_import_report_new(void);
void ds_import_report_free(ds_import_report *r); /* NULL is fine */

/* Which weights were taken.  part: "weights" (of the model itself) or "vae_weights"; taken: key in
 * the file, "" = the file's only one; how: "only one", "averaged preferred", "asked for". */
void ds_import_report_weights(ds_import_report *r, const char *part, const char *taken,
                              const char *how);
/* The file of a folder that they lie in; count: how many in all, the first one is named. */
void ds_import_report_file(ds_import_report *r, const char *part, const char *file, size_t count);
/* Another model that the same file holds. */
void ds_import_report_other(ds_import_report *r, const char *part, const char *key, size_t tensors);

/* A field of a configuration: use is "used", or why it changes nothing ("harmless"). */
void ds_import_report_field(ds_import_report *r, const char *file, const char *field,
                            const json_t *value, const char *use);

/* What the file does not say; value is taken over. */
void ds_import_report_assumed(ds_import_report *r, const char *what, json_t *value,
                              const char *why);

/* An assumption that turned out to be about nothing goes again, with its line. */
void ds_import_report_not_assumed(ds_import_report *r, const char *what);

/* Tensors (or other values) that are no part of the model. */
void ds_import_report_ignored(ds_import_report *r, const char *tensors, const char *why);

/* Any other finding: a member `key` of the document (taken over, replaces an earlier one) and its
 * line.  warning: the line is one. */
void ds_import_report_set(ds_import_report *r, const char *key, json_t *value, int warning,
                          const char *line);

/* The document: a borrowed reference. */
json_t *ds_import_report_json(const ds_import_report *r);

/* The lines, first one first.  warning: a person should look at it. */
typedef void (*ds_import_line)(void *user, int warning, const char *text);
void ds_import_report_lines(const ds_import_report *r, ds_import_line line, void *user);

#endif
