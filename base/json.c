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

/* Characters that JSON does not take as they are; what jansson holds is UTF-8. */
static void add_escaped(ds_buf *b, unsigned char c) {
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *at = strchr(plain, c);
    if (c && at)
        ds_buf_addf(b, "\\%c", letters[at - plain]);
    else
        ds_buf_addf(b, "\\u%04X", c);
}

static void add_text(ds_buf *b, const char *s, size_t n) {
    size_t from = 0;
    ds_buf_add(b, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        ds_buf_add(b, s + from, i - from);
        add_escaped(b, c);
        from = i + 1;
    }
    ds_buf_add(b, s + from, n - from);
    ds_buf_add(b, "\"", 1);
}

static void add_integer(ds_buf *b, json_int_t value) {
    char text[24], *p = text + sizeof text;
    unsigned long long v = value < 0 ? 0 - (unsigned long long)value : (unsigned long long)value;
    do
        *--p = (char)('0' + v % 10);
    while (v /= 10);
    if (value < 0)
        *--p = '-';
    ds_buf_add(b, p, (size_t)(text + sizeof text - p));
}

static void add_number(ds_buf *b, const json_t *value) {
    char text[64];
    size_t n = json_dumpb(value, text, sizeof text, JSON_ENCODE_ANY);
    DS_ASSERT(n && n <= sizeof text);
    ds_buf_add(b, text, n);
}

static void add_object(ds_buf *b, json_t *o) {
    const char *between = "{";
    for (void *at = json_object_iter(o); at; at = json_object_iter_next(o, at)) {
        ds_buf_add(b, between, 1);
        between = ",";
        add_text(b, json_object_iter_key(at), json_object_iter_key_len(at));
        ds_buf_add(b, ":", 1);
        ds_json_add(b, json_object_iter_value(at));
    }
    ds_buf_add(b, *between == '{' ? "{}" : "}", *between == '{' ? 2 : 1);
}

static void add_array(ds_buf *b, const json_t *a) {
    size_t n = json_array_size(a);
    ds_buf_add(b, "[", 1);
    for (size_t i = 0; i < n; i++) {
        ds_buf_add(b, ",", i > 0);
        ds_json_add(b, json_array_get(a, i));
    }
    ds_buf_add(b, "]", 1);
}

void ds_json_add(ds_buf *b, const json_t *doc) {
    switch (json_typeof(doc)) {
    case JSON_OBJECT: add_object(b, (json_t *)(uintptr_t)doc); break;
    case JSON_ARRAY: add_array(b, doc); break;
    case JSON_STRING: add_text(b, json_string_value(doc), json_string_length(doc)); break;
    case JSON_INTEGER: add_integer(b, json_integer_value(doc)); break;
    case JSON_REAL: add_number(b, doc); break;
    case JSON_TRUE: ds_buf_add(b, "true", 4); break;
    case JSON_FALSE: ds_buf_add(b, "false", 5); break;
    case JSON_NULL: ds_buf_add(b, "null", 4); break;
    }
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

/* Bytes of a character that begins with c; 0: none does. */
static size_t character_size(unsigned char c) {
    return c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
}

void ds_json_mend_text(char *s) {
    while (*s) {
        char one[5] = {*s};
        size_t size = character_size((unsigned char)*s), n = 1;
        for (; n < size && ((unsigned char)s[n] & 0xc0) == 0x80; n++)
            one[n] = s[n];
        if (n < size && !s[n]) {
            *s = 0;
            return;
        }
        if (n != size || !ds_json_is_text(one)) {
            *s = '?';
            n = 1;
        }
        s += n;
    }
}

json_t *ds_json_text(const char *s) {
    json_t *v = json_string(s);
    if (v)
        return v;
    char *mended = ds_xstrdup(s);
    ds_json_mend_text(mended);
    v = json_string(mended);
    free(mended);
    DS_ASSERT(v);
    return v;
}
