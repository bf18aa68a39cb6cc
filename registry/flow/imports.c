#include "registry/flow/imports.h"
#include "base/json.h"
#include "base/log.h"
#include "registry/rows/base_tasks.h"
#include "registry/rows/bases.h"
#include "registry/core/db.h"
#include "registry/jobs/jobs_internal.h"

#include <string.h>
#include <strings.h>

static const char *text_or_null(const json_t *o, const char *key) {
    const char *s = ds_json_string(o, key, "");
    return *s ? s : NULL;
}

static int read_facts(const ds_import *i, ds_model_facts *f, int *net, ds_error *err) {
    const char *what;
    int rc = ds_json_need_string(i->result, "what", &what, err);
    if (!rc)
        rc = ds_json_need_string(i->result, "name", &f->name, err);
    if (!rc)
        rc = ds_json_need_string(i->result, "sha256", &f->sha256, err);
    if (rc)
        return rc;
    *net = !strcmp(what, "feature_net");
    if ((!*net && strcmp(what, "base")) || strcmp(what, ds_json_string(i->spec, "what", "")))
        return ds_fail(err, DS_EINVAL, "import result: it is about '%.40s', the job about '%.40s'",
                       what, ds_json_string(i->spec, "what", ""));
    json_t *config = json_object_get(i->result, "config");
    f->config = json_is_object(config) ? config : NULL;
    if (!*net && !f->config)
        return ds_fail(err, DS_EINVAL, "import result: 'config' is missing");
    const char *asked = ds_json_string(i->spec, "name", "");
    if (!strcasecmp(asked, f->name))
        f->name = asked; /* as the person wrote it */
    f->path = i->path;
    f->report = json_object_get(i->result, "report");
    f->report = json_is_object(f->report) ? f->report : NULL;
    f->kind = *net ? ds_json_string(f->config, "kind", "inception-fid") : NULL;
    f->source = text_or_null(i->spec, "source");
    f->source_format = text_or_null(i->result, "source_format");
    f->source_sha256 = text_or_null(i->result, "source_sha256");
    f->license = text_or_null(i->result, "license");
    f->parameters = ds_json_int(i->result, "parameters", 0);
    f->bytes = ds_json_int(i->result, "bytes", 0);
    if (i->vae_path) {
        f->vae_path = i->vae_path;
        f->vae_sha256 = ds_json_string(json_object_get(i->result, "vae"), "sha256", "");
    }
    return 0;
}

/* The job is running, so a name that was taken meanwhile ends it; DS_ECONFLICT would mean that the
 * job is over. */
static int check_name(ds_registry *r, const ds_model_facts *f, int net, ds_error *err) {
    ds_error why = {0};
    int rc = net ? ds_feature_net_name_free(r, f->name, f->sha256, &why)
                 : ds_base_name_free(r, f->name, f->sha256, &why);
    if (rc)
        return ds_fail(err, rc == DS_ECONFLICT ? DS_EINVAL : rc, "%s", why.message);
    return 0;
}

/* before: the base that it takes the place of, 0 none. */
static int register_base(ds_registry *r, ds_model_facts *f, int64_t before, ds_error *err) {
    int64_t id = 0, active = 0;
    int rc = db_int(r, &active, err,
                    "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'active_base'", "");
    if (rc && rc != DS_ENOTFOUND)
        return rc;
    int first = rc == DS_ENOTFOUND || (before && before == active);
    rc = db_int(r, &f->feature_net, err,
                "SELECT coalesce((SELECT feature_net_id FROM bases WHERE sha256 = ?2),"
                " (SELECT feature_net_id FROM bases WHERE id = ?1),"
                " (SELECT max(id) FROM feature_nets WHERE removed_at IS NULL AND kind <>"
                " 'inception-fid'))", /* that of FID is measured with only when it is chosen */
                "is", before ? before : active, f->sha256);
    if (rc && rc != DS_ENOTFOUND)
        return rc;
    rc = ds_base_register(r, f, &id, err);
    if (!rc && first)
        rc = ds_base_activate(r, id, err);
    json_t *base = NULL;
    if (!rc)
        rc = ds_base_get(r, id, &base, err);
    if (!rc)
        rc = base_task_queue(r, base, err); /* its own samples: task 0 */
    json_decref(base);
    return rc;
}

int ds_import_finish(ds_registry *r, const ds_import *i, ds_error *err) {
    ds_model_facts f = {0};
    ds_job j;
    int net = 0;
    int64_t id = 0, before = 0;
    int rc = read_facts(i, &f, &net, err);
    if (rc || (rc = job_read_running(r, i->job, &j, err)))
        return rc;
    if (j.kind != DS_JOB_IMPORT)
        return ds_fail(err, DS_EINVAL, "job %lld is not an import", (long long)i->job);
    if ((rc = db_begin(r, err)))
        return rc;
    rc = net ? 0 : base_give_way(r, &f, &before, err);
    rc = rc ? rc : check_name(r, &f, net, err);
    if (!rc)
        rc = net ? ds_feature_net_register(r, &f, &id, err) : register_base(r, &f, before, err);
    job_end end = {.state = DS_JOB_DONE, .exit_code = 0, .exit_signal = -1, .result = i->result};
    if (!rc)
        rc = job_finish(r, &j, &end, err);
    r->settled_seq = -1; /* a base that lacked its VAE may have it now */
    return db_end(r, rc, err);
}
