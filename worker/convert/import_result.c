/* worker/convert/import_result.c - what an import made, as JSON. */
#include "worker/convert/import.h"
#include "contract/job.h"

static json_t *text_or_null(const char *s) { return *s ? ds_json_text(s) : json_null(); }

json_t *ds_import_result_json(const char *what, const ds_import_result *r,
                              const ds_import_report *report) {
    json_t *vae = *r->vae_file ? json_pack("{s:o, s:s}", "file", ds_json_text(r->vae_file),
                                           "sha256", r->vae_sha256)
                               : json_null();
    return json_pack("{s:s, s:s, s:o, s:o, s:s, s:O?, s:o, s:o, s:o, s:o, s:I, s:I, s:O?}",
                     "schema", DS_SCHEMA_IMPORT, "what", what, "name", ds_json_text(r->name),
                     "file", ds_json_text(r->file), "sha256", r->sha256, "config", r->config,
                     "source_format", ds_json_text(r->source_format), "source_sha256",
                     text_or_null(r->source_sha256), "license", ds_json_text(r->license), "vae",
                     vae, "bytes", (json_int_t)r->bytes, "parameters", (json_int_t)r->parameters,
                     "report", ds_import_report_json(report));
}

void ds_import_result_release(ds_import_result *r) {
    json_decref(r->config);
    *r = (ds_import_result){0};
}
