/* base/json.h - bounded, strict reading of JSON on top of jansson.
 *
 * Text is read with duplicate keys rejected and a size limit; a getter reports which key of which
 * document is missing or of the wrong type.  Ownership as jansson: ds_json_parse returns a new
 * reference, the getters return borrowed pointers.
 */
#ifndef DS_BASE_JSON_H
#define DS_BASE_JSON_H

#include "base/error.h"
#include "base/mem.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* `name` is used in messages.  DS_EINVAL with line and column. */
int ds_json_parse(const char *name, const char *text, size_t n, json_t **out, ds_error *err);
int ds_json_read_file(const char *path, size_t max, json_t **out, ds_error *err);
int ds_json_write_file(const char *path, const json_t *doc,
                       ds_error *err); /* atomic, sorted keys, indented */

/* Required members: 0 or DS_EINVAL naming "what.key".  Optional ones give the
 * default when the member is absent or of another type. */
int ds_json_need_string(const json_t *obj, const char *key, const char **out, ds_error *err);
int ds_json_need_int(const json_t *obj, const char *key, int64_t *out, ds_error *err);
int ds_json_need_number(const json_t *obj, const char *key, double *out, ds_error *err);
int ds_json_need_object(const json_t *obj, const char *key, json_t **out, ds_error *err);
const char *ds_json_string(const json_t *obj, const char *key, const char *otherwise);
int64_t ds_json_int(const json_t *obj, const char *key, int64_t otherwise);
double ds_json_number(const json_t *obj, const char *key, double otherwise);
int ds_json_bool(const json_t *obj, const char *key, int otherwise);

/* Appends doc as json_dumps(doc, JSON_COMPACT) would write it, several times as fast. */
void ds_json_add(ds_buf *b, const json_t *doc);

/* Canonical one-line text (sorted keys, compact), malloc'ed; for digests. */
char *ds_json_canonical(const json_t *doc);

/* 1: UTF-8, so that a document can hold it. */
int ds_json_is_text(const char *s);
/* Makes UTF-8 of foreign text that may be cut anywhere, in place: a character that is not whole at
 * the end goes, every other byte that belongs to none becomes '?'. */
void ds_json_mend_text(char *s);
/* A JSON text of s, mended so; never NULL. */
json_t *ds_json_text(const char *s);

#endif
