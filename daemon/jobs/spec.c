/* daemon/jobs/spec.c - see spec.h. */
#include "daemon/jobs/spec.h"

#include "base/fs.h"
#include "base/json.h"
#include "contract/options.h"
#include "daemon/core/models.h"
#include "daemon/folders/watch.h"
#include "daemon/jobs/defaults.h"
#include "daemon/folders/look.h"
#include "registry/rows/adapters.h"
#include "registry/rows/bars.h"
#include "registry/rows/base_tasks.h"
#include "registry/rows/bases.h"
#include "registry/rows/datasets.h"
#include "registry/rows/feature_nets.h"
#include "registry/rows/tasks.h"

#include <stdio.h>
#include <string.h>

static void set_path(json_t *spec, const char *key, const char *dir, const char *name) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, dir, name);
    json_object_set_new(spec, key, json_string(path));
}

/* {name,path,sha256} of a registry object that has more; a network's mode, where it has one. */
static json_t *model_of(const json_t *o) {
    json_t *m = json_object();
    static const char *const keys[] = {"name", "path", "sha256", "mode"};
    for (int i = 0; i < 4; i++)
        json_object_set(m, keys[i], json_object_get(o, keys[i]));
    return m;
}

static json_t *new_spec(const ds_job *job) {
    return json_pack("{ss ss sI}", "schema", DS_SCHEMA_JOB, "kind", ds_job_kind_name(job->kind),
                     "job", (json_int_t)job->id);
}

/* *velocity (or NULL): does it predict one? */
static int add_base(ds_daemon *d, int64_t base_id, json_t *spec, int *velocity, ds_error *err) {
    json_t *base = NULL;
    int rc = ds_base_get(d->registry, base_id, &base, err);
    if (rc)
        return rc;
    json_t *model = model_of(base), *vae = json_object_get(base, "vae");
    if (json_is_object(vae))
        json_object_set(model, "vae", vae);
    json_object_set_new(spec, "base", model);
    if (velocity)
        *velocity = ds_base_velocity(base);
    rc = ds_models_complete(base, err);
    json_decref(base);
    return rc;
}

/* What a training is measured with. */
static int add_net(ds_daemon *d, const ds_job *job, json_t *spec, ds_error *err) {
    json_t *net = NULL;
    int rc = ds_feature_net_of_job(d->registry, job->id, &net, err);
    if (!rc)
        json_object_set_new(spec, "feature_net", model_of(net));
    json_decref(net);
    return rc;
}

/* Task 0: null while nothing is recorded, which asks the worker to do so. */
static int add_base_task(ds_daemon *d, int64_t base_id, json_t *spec, ds_error *err) {
    json_t *task = NULL;
    int rc = ds_base_task_get(d->registry, base_id, &task, err);
    if (!rc && d->o.base_probe_only && json_is_null(task))
        json_object_set_new(spec, "base_probe_only", json_true());
    if (!rc)
        json_object_set_new(spec, "base_task", task);
    return rc;
}

static int scan_spec(ds_daemon *d, const ds_job *job, json_t *spec, ds_error *err) {
    json_t *ds = NULL;
    char dir[PATH_MAX], name[64];
    const char *why;
    int64_t since;
    int rc = ds_dataset_get_id(d->registry, job->dataset_id, &ds, err);
    if (!rc) /* the row may be another program's */
        rc = ds_look_at_place(ds_json_string(ds, "path", "/"), d->o.state, err);
    if (!rc && ds_watch_reach(d->watch, job->dataset_id, &why, &since) == DS_REACH_REFUSED)
        rc = ds_fail(err, DS_EINVAL, "%s", why);
    if (rc) {
        json_decref(ds);
        return rc;
    }
    ds_fs_join(dir, sizeof dir, d->o.state, "cache/hashes");
    snprintf(name, sizeof name, "%lld", (long long)job->dataset_id);
    json_object_set(spec, "dataset", json_object_get(ds, "name"));
    json_object_set(spec, "root", json_object_get(ds, "path"));
    set_path(spec, "hash_cache", dir, name);
    json_object_set_new(spec, "min_side", json_integer(8));
    json_object_set_new(spec, "max_pixels", json_integer(67108864));
    json_object_set_new(spec, "max_classes", json_integer(10000));
    json_object_set_new(spec, "max_files", json_integer(10000000));
    json_decref(ds);
    static const char *const members[] = {"device", NULL};
    return ds_options_plain(spec, members, err);
}

static int train_spec(ds_daemon *d, const ds_job *job, const char *dir, ds_built_spec *out,
                      ds_error *err) {
    json_t *v = NULL, *tasks = NULL, *spec = out->spec;
    int rc = ds_dataset_version_get(d->registry, job->dataset_version_id, &v, err);
    if (rc)
        return rc;
    const char *name = ds_json_string(v, "name", job->name), *sha = NULL;
    int64_t version = 0;
    int velocity = 0;
    rc = ds_json_need_string(v, "manifest_sha256", &sha, err);
    if (!rc)
        rc = ds_adapter_next_version(d->registry, name, &version, err);
    if (!rc)
        rc = add_base(d, job->base_id, spec, &velocity, err);
    if (!rc)
        rc = add_net(d, job, spec, err);
    if (!rc)
        rc = ds_old_tasks(d->registry, job->base_id, name, NULL, &tasks, err);
    if (!rc)
        rc = add_base_task(d, job->base_id, spec, err);
    if (!rc) {
        snprintf(out->manifest_sha256, sizeof out->manifest_sha256, "%s", sha);
        json_object_set_new(spec, "name", json_string(name));
        json_object_set_new(spec, "version", json_integer(version));
        json_t *ds = json_object();
        static const char *const keys[] = {"name", "version", "root", "tree_digest"};
        for (size_t i = 0; i < 4; i++)
            json_object_set(ds, keys[i], json_object_get(v, keys[i]));
        set_path(ds, "manifest", dir, DS_FILE_MANIFEST);
        json_object_set_new(spec, "dataset", ds);
        json_object_set(spec, "old_tasks", tasks);
        json_object_set(spec, "publish_worse", json_object_get(v, "publish_worse"));
        set_path(spec, "cache_dir", d->o.state, "cache");
        char base_cache[PATH_MAX];
        ds_fs_join(base_cache, sizeof base_cache, d->o.state, "cache/base");
        json_object_set_new(spec, "base_reference", json_pack("{ss}", "cache", base_cache));
        json_t *classes = json_object_get(v, "classes");
        ds_dataset_facts facts = {.images = ds_json_int(v, "images", 0),
                                  .velocity = velocity,
                                  .classes = json_is_array(classes)
                                                 ? (int64_t)json_array_size(classes)
                                                 : ds_json_int(v, "classes", 1)};
        rc = ds_options_apply(spec, ds_json_string(v, "method", DS_METHOD_OTHERWISE),
                              json_object_get(v, "options"), &facts, err);
    }
    if (!rc) /* the default base may be another one than when the option was given */
        rc = ds_sampler_word_check(
            ds_json_string(json_object_get(spec, "sample"), "sampler", "dpmpp2m"), velocity, err);
    json_decref(tasks);
    json_decref(v);
    return rc;
}

static int only_task(ds_daemon *d, int64_t base_id, const char *ref, json_t **task, ds_error *err) {
    json_t *list = NULL;
    int rc = ds_old_tasks(d->registry, base_id, NULL, ref, &list, err);
    if (rc)
        return rc;
    *task = json_incref(json_array_get(list, 0));
    json_decref(list);
    return *task ? 0 : ds_fail(err, DS_ENOTFOUND, "adapter '%s' does not exist any more", ref);
}

/* The base that a sample or verification is about: the adapter's, the one asked for, the default.
 * An adapter on another base is refused, naming both. */
static int base_of(ds_daemon *d, const json_t *payload, int64_t *base_id, ds_error *err) {
    const char *ref = ds_json_string(payload, "ref", NULL),
               *base = ds_json_string(payload, "base", NULL);
    ds_adapter_ref a;
    int rc = base || !ref ? ds_base_resolve(d->registry, base, base_id, err) : 0;
    if (rc || !ref)
        return rc;
    rc = ds_adapter_resolve(d->registry, ref, &a, err);
    if (!rc && base)
        rc = ds_adapter_check_base(d->registry, &a, *base_id, err);
    if (!rc)
        *base_id = a.base_id;
    return rc;
}

/* payload: {"ref":"digits@v1"|null,"base":digest,"n":16,...} as checked by the API. */
static int sample_spec(ds_daemon *d, const ds_job *job, json_t *spec, ds_error *err) {
    json_t *payload = NULL, *task = NULL;
    int rc = ds_job_payload(d->registry, job->id, &payload, err);
    if (rc)
        return rc;
    const char *ref = ds_json_string(payload, "ref", NULL);
    int64_t base_id = 0;
    rc = base_of(d, payload, &base_id, err);
    if (!rc && ref)
        rc = only_task(d, base_id, ref, &task, err);
    if (!rc)
        rc = add_base(d, base_id, spec, NULL, err);
    if (!rc) {
        json_object_set_new(spec, "adapter",
                            task ? json_incref(json_object_get(task, "adapter")) : json_null());
        /* the settings that the adapter was evaluated with, unless told otherwise */
        if (json_is_object(json_object_get(task, "sample")))
            json_object_set_new(spec, "sample", json_deep_copy(json_object_get(task, "sample")));
        static const char *const members[] = {"sample", "device", NULL};
        rc = ds_options_plain(spec, members, err);
    }
    static const char *const over[] = {
#define SAMPLE(name, flag, key, ...) #key,
#include "contract/options.def"
        NULL};
    json_t *sample = json_object_get(spec, "sample");
    for (int i = 0; !rc && over[i]; i++) {
        json_t *v = json_object_get(payload, over[i]);
        if (v && !json_is_null(v) && strncmp(over[i], "guidance", 8)) /* those together, below */
            json_object_set(sample, over[i], v);
    }
    if (!rc)
        rc = ds_guidance_take(sample, payload, !ref, err);
    json_t *class = json_object_get(payload, "class");
    json_object_set_new(spec, "n", json_integer(ds_json_int(payload, "n", 16)));
    json_object_set_new(spec, "seed", json_integer(ds_json_int(payload, "seed", 1)));
    json_object_set_new(spec, "columns", json_integer(ds_json_int(payload, "columns", 0)));
    json_object_set_new(spec, "class", class ? json_incref(class) : json_null());
    if (!ds_json_bool(payload, "sheet", 1))
        json_object_set_new(spec, "sheet", json_false());
    json_decref(payload);
    json_decref(task);
    return rc;
}

static int verify_spec(ds_daemon *d, const ds_job *job, json_t *spec, ds_error *err) {
    json_t *payload = NULL, *tasks = NULL, *net = NULL;
    int rc = ds_job_payload(d->registry, job->id, &payload, err);
    if (rc)
        return rc;
    const char *ref = ds_json_string(payload, "ref", NULL);
    int64_t base_id = 0;
    rc = base_of(d, payload, &base_id, err);
    if (!rc)
        rc = add_base(d, base_id, spec, NULL, err);
    if (!rc && ds_json_bool(payload, "base_task", 0)) /* to be recorded, nothing else */
        tasks = json_array();
    else if (!rc)
        rc = ds_old_tasks(d->registry, base_id, NULL, ref, &tasks, err);
    if (!rc)
        rc = add_base_task(d, base_id, spec, err);
    /* every task names its own network; that of the base is looked at besides */
    if (!rc)
        rc = ds_feature_net_of_base(d->registry, base_id, &net, err);
    if (!rc) {
        json_object_set_new(spec, "feature_net", json_is_object(net) ? model_of(net) : json_null());
        json_object_set(spec, "old_tasks", tasks);
        set_path(spec, "cache_dir", d->o.state, "cache");
        static const char *const members[] = {"gate", "device", NULL};
        rc = ds_options_plain(spec, members, err);
        if (ds_json_bool(payload, "full", 0))
            json_object_set_new(json_object_get(spec, "gate"), "verify", json_string("full"));
    }
    json_decref(net);
    json_decref(tasks);
    json_decref(payload);
    return rc;
}

/* payload: {"what","source","vae","name","license","heads","weights","objective","probe"} as
 * checked by the API. */
static int import_spec(ds_daemon *d, const ds_job *job, json_t *spec, ds_error *err) {
    json_t *payload = NULL;
    char dir[PATH_MAX];
    int rc = ds_job_payload(d->registry, job->id, &payload, err);
    if (rc)
        return rc;
    static const char *const keys[] = {"what", "source", "vae", "name", "license"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *v = json_object_get(payload, keys[i]);
        json_object_set(spec, keys[i], v ? v : json_null());
    }
    if (ds_json_int(payload, "heads", 0) > 0)
        json_object_set(spec, "heads", json_object_get(payload, "heads"));
    static const char *const choices[] = {"weights", "objective", "probe"};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (*ds_json_string(payload, choices[i], ""))
            json_object_set(spec, choices[i], json_object_get(payload, choices[i]));
    ds_models_dir(d, strcmp(ds_json_string(payload, "what", ""), "base") != 0, dir);
    json_object_set_new(spec, "out_dir", json_string(dir));
    json_decref(payload);
    return ds_fs_mkdirs(dir, err);
}

/* An interrupted training goes on with the choices it began with.  What it is compared with, like
 * the old tasks, and whether it is published even if it is worse, are asked anew: neither changes
 * what is trained. */
static void keep_choices(json_t *spec, const json_t *earlier) {
    static const char *const keys[] = {"version",  "method", "train", "sample",
                                       "evaluate", "probe",  "gate",  "device"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *v = json_object_get(earlier, keys[i]);
        if (v)
            json_object_set(spec, keys[i], v);
    }
}

/* Last: which version is the best depends on what this one is measured with. */
static int add_bars(ds_daemon *d, json_t *spec, ds_error *err) {
    json_t *bars = NULL;
    int rc = ds_bars(d->registry, ds_json_string(spec, "name", ""), spec, &bars, err);
    if (!rc)
        json_object_set_new(spec, "bars", bars);
    return rc;
}

int ds_spec_build(ds_daemon *d, const ds_job *job, const char *dir, const json_t *earlier,
                  ds_built_spec *out, ds_error *err) {
    *out = (ds_built_spec){.spec = new_spec(job)};
    int rc = DS_EINVAL;
    switch (job->kind) {
    case DS_JOB_SCAN: rc = scan_spec(d, job, out->spec, err); break;
    case DS_JOB_TRAIN:
        rc = train_spec(d, job, dir, out, err);
        if (!rc && earlier)
            keep_choices(out->spec, earlier);
        if (!rc)
            rc = add_bars(d, out->spec, err);
        break;
    case DS_JOB_SAMPLE: rc = sample_spec(d, job, out->spec, err); break;
    case DS_JOB_VERIFY: rc = verify_spec(d, job, out->spec, err); break;
    case DS_JOB_IMPORT: rc = import_spec(d, job, out->spec, err); break;
    case DS_JOB_KIND_COUNT: break;
    }
    if (rc) {
        json_decref(out->spec);
        out->spec = NULL;
    }
    return rc;
}
