#include "base/json.h"
#include "base/fs.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Without memory jansson makes NULL of a value and goes on, and a document loses a part. */
__attribute__((constructor)) static void lead_memory(void) {
    json_set_alloc_funcs(ds_xmalloc, free);
}

int ds_json_parse(const char *name, const char *text, size_t n, json_t **out, ds_error *err) {
    json_error_t je;
    json_t *doc = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
    if (!doc)
        return ds_fail(err, DS_EINVAL, "'%s' is not valid JSON: line %d column %d: %s", name,
                       je.line, je.column, je.text);
    *out = doc;
    return 0;
}

int ds_json_read_file(const char *path, size_t max, json_t **out, ds_error *err) {
    char *text;
    size_t n;
    int rc = ds_fs_read(path, max, &text, &n, err);
    if (rc)
        return rc;
    rc = ds_json_parse(path, text, n, out, err);
    free(text);
    return rc;
}

int ds_json_write_file(const char *path, const json_t *doc, ds_error *err) {
    char *text = json_dumps(doc, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    if (!text)
        return ds_fail(err, DS_EFAILED,
                       "cannot write '%s': a number in it is not finite or a text is not UTF-8",
                       path);
    ds_buf b = {0};
    ds_buf_addf(&b, "%s\n", text);
    free(text);
    int rc = ds_fs_write(path, b.data, b.len, err);
    ds_buf_release(&b);
    return rc;
}

static int wrong(const json_t *value, const char *key, const char *type, ds_error *err) {
    return ds_fail(err, DS_EINVAL, value ? "'%s' must be %s" : "'%s' is missing; it must be %s",
                   key, type);
}

int ds_json_need_string(const json_t *obj, const char *key, const char **out, ds_error *err) {
    const json_t *v = json_object_get(obj, key);
    if (!json_is_string(v))
        return wrong(v, key, "a string", err);
    *out = json_string_value(v);
    return 0;
}

int ds_json_need_int(const json_t *obj, const char *key, int64_t *out, ds_error *err) {
    const json_t *v = json_object_get(obj, key);
    if (!json_is_integer(v))
        return wrong(v, key, "an integer", err);
    *out = json_integer_value(v);
    return 0;
}

int ds_json_need_number(const json_t *obj, const char *key, double *out, ds_error *err) {
    const json_t *v = json_object_get(obj, key);
    if (!json_is_number(v))
        return wrong(v, key, "a number", err);
    *out = json_number_value(v);
    return 0;
}

int ds_json_need_object(const json_t *obj, const char *key, json_t **out, ds_error *err) {
    json_t *v = json_object_get(obj, key);
    if (!json_is_object(v))
        return wrong(v, key, "an object", err);
    *out = v;
    return 0;
}

const char *ds_json_string(const json_t *obj, const char *key, const char *otherwise) {
    const json_t *v = json_object_get(obj, key);
    return json_is_string(v) ? json_string_value(v) : otherwise;
}

int64_t ds_json_int(const json_t *obj, const char *key, int64_t otherwise) {
    const json_t *v = json_object_get(obj, key);
    return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

double ds_json_number(const json_t *obj, const char *key, double otherwise) {
    const json_t *v = json_object_get(obj, key);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

int ds_json_bool(const json_t *obj, const char *key, int otherwise) {
    const json_t *v = json_object_get(obj, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

char *ds_json_canonical(const json_t *doc) {
    char *text = json_dumps(doc, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    DS_ASSERT(text);
    return text;
}

int ds_json_is_text(const char *s) {
    json_t *v = json_string(s);
    json_decref(v);
    return v != NULL;
}
