/* cli/output.c - messages and JSON documents. */
#include "cli/format.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdlib.h>

void ds_say(ds_cli *c, const char *fmt, ...) {
    if (c->quiet)
        return;
    va_list ap;
    va_start(ap, fmt);
    char *text = NULL;
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    ds_need(n < 0 ? NULL : text);
    ds_put_clean(c, c->err, text);
    fputc('\n', c->err);
    fflush(c->err);
    free(text);
}

static void dump(ds_cli *c, json_t *doc, int line) {
    size_t flags = JSON_REAL_PRECISION(15) | (line ? JSON_COMPACT : JSON_INDENT(2));
    char *text = ds_need(json_dumps(doc, flags));
    fprintf(c->out, "%s\n", text);
    free(text);
    if (line)
        fflush(c->out);
}

static json_t *with_schema(const char *kind) {
    char schema[64];
    snprintf(schema, sizeof schema, "dsctl.v1/%s", kind);
    json_t *doc = json_object();
    json_object_set_new(doc, "schema", json_string(schema));
    return doc;
}

void ds_print_json(ds_cli *c, const char *kind, const json_t *obj, int line) {
    json_t *doc = with_schema(kind);
    json_object_update_missing(doc, (json_t *)obj); /* borrows; obj is not changed */
    dump(c, doc, line);
    json_decref(doc);
}

void ds_print_json_list(ds_cli *c, const char *kind, json_t *items, const char *next) {
    json_t *doc = with_schema(kind);
    json_object_set(doc, "items", items);
    json_object_set_new(doc, "next", next ? json_string(next) : json_null());
    dump(c, doc, 0);
    json_decref(doc);
}
