#include "worker/tools.h"
#include "base/zio.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void note(char finding[512], const ds_error *e) { snprintf(finding, 512, "%s", e->message); }

static int is_damage(int code) {
    return code == DS_EINTEGRITY || code == DS_EINVAL || code == DS_ELIMIT;
}

static int open_base(ds_tools *t, int tolerate, ds_error *err) {
    const ds_spec_file *f = &t->job->spec->base;
    ds_error e;
    int rc = ds_base_open(&t->base, f->path, f->sha256, &e);
    if (rc && tolerate && is_damage(rc)) {
        note(t->base_finding, &e);
        if (ds_base_open(&t->base, f->path, NULL, NULL))
            t->base = NULL;
        else /* so that the adapters of the registered base can be tried on this one */
            snprintf(t->base->sha256, sizeof t->base->sha256, "%s", f->sha256);
        rc = 0;
    }
    if (rc)
        return ds_fail(err, rc, "%s", e.message);
    return t->base ? ds_model_new(&t->model, t->dev, t->base, err) : 0;
}

/* The digest alone, which is quick; the network is loaded when it is needed. */
static int check_features(ds_tools *t, int tolerate, ds_error *err) {
    const ds_spec_file *f = &t->job->spec->feature_net;
    ds_error e;
    char *bytes, sha[DS_HEX_SIZE];
    size_t n;
    int rc = ds_zio_read_file(f->path, DS_FEATURE_NET_MAX, &bytes, &n, &e);
    if (!rc) {
        ds_digest(bytes, n, sha);
        free(bytes);
        if (strcmp(sha, f->sha256))
            rc = ds_fail(&e, DS_EINTEGRITY,
                         "feature network '%s' has changed: its sha256 is %s, the registered one "
                         "is %s",
                         f->path, sha, f->sha256);
    } else if (is_damage(rc))
        ds_error_prefix(&e, "the feature network is damaged");
    if (rc && tolerate && is_damage(rc)) {
        note(t->features_finding, &e);
        return 0;
    }
    return rc ? ds_fail(err, rc, "%s", e.message) : 0;
}

int ds_tools_open(ds_tools *t, const ds_job *job, int tolerate, ds_error *err) {
    const ds_spec *s = job->spec;
    *t = (ds_tools){.job = job};
    ds_device_options o = {
        .kind = s->device.kind, .precision = s->device.precision, .threads = s->device.threads};
    int rc = ds_device_open(&t->dev, &o, err);
    if (!rc)
        rc = open_base(t, tolerate, err);
    if (!rc && s->feature_net.path)
        rc = check_features(t, tolerate, err);
    if (rc)
        ds_tools_close(t);
    return rc;
}

int ds_tools_features(ds_tools *t, ds_error *err) {
    const ds_spec_file *f = &t->job->spec->feature_net;
    if (t->features)
        return 0;
    if (!t->features_finding[0])
        return ds_features_open(t->dev, f->path, f->sha256, &t->features, err);
    char *bytes, sha[DS_HEX_SIZE]; /* another file than the registered one: whatever it is now */
    size_t n;
    int rc = ds_zio_read_file(f->path, DS_FEATURE_NET_MAX, &bytes, &n, err);
    if (rc)
        return rc;
    ds_digest(bytes, n, sha);
    free(bytes);
    return ds_features_open(t->dev, f->path, sha, &t->features, err);
}

void ds_tools_drop_features(ds_tools *t) {
    ds_features_close(t->features);
    t->features = NULL;
}

void ds_tools_close(ds_tools *t) {
    ds_tools_drop_features(t);
    ds_model_free(t->model);
    ds_base_free(t->base);
    ds_device_close(t->dev);
    *t = (ds_tools){0};
}
