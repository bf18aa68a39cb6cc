#include "worker/measure/tools.h"
#include "base/mem.h"
#include "worker/job/device.h"

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

/* Does the file say that it belongs to such a base? */
static int read_vae_config(ds_tools *t, const char *path, ds_error *err) {
    const ds_facts *c = &t->base->facts;
    ds_vae_config v;
    ds_st *st;
    int rc = ds_st_open_file(path, (size_t)4 << 30, 1, &st, err);
    if (rc)
        return rc;
    const char *text = ds_st_meta(st, "diffscaler.vae");
    rc = text ? ds_vae_config_parse(&v, path, text, err)
              : ds_fail(err, DS_EINTEGRITY,
                        "'%s' is not a VAE: its metadata has no 'diffscaler.vae'", path);
    ds_st_free(st);
    if (rc)
        return rc;
    if (v.latent_channels != c->channels || v.in_channels != 3 || v.out_channels != 3)
        return ds_fail(err, DS_EINVAL,
                       "the VAE makes %d channels from %d and pictures of %d, base '%s' needs %d "
                       "from 3 and pictures of 3: add the base again with its own --vae",
                       v.latent_channels, v.in_channels, v.out_channels, t->job->spec->base.name,
                       c->channels);
    t->picture_side = c->side * ds_vae_factor(&v);
    t->latent_scale = c->latent_scale > 0 ? c->latent_scale : v.scaling_factor;
    t->vae_config = v;
    return 0;
}

/* The digest and the configuration; the weights are loaded when they are needed. */
static int check_vae(ds_tools *t, int tolerate, ds_error *err) {
    const ds_spec_file *f = &t->job->spec->vae;
    char sha[DS_HEX_SIZE];
    ds_error e = {0};
    if (!t->base)
        return 0;
    t->picture_side = t->base->facts.side;
    if (t->base->facts.pixel)
        return 0;
    if (!f->path)
        return ds_fail(err, DS_EINVAL,
                       "base '%s' works on latents and has no VAE to make them: add the base again "
                       "with --vae",
                       t->job->spec->base.name);
    t->picture_side = 0;
    t->latent_scale = t->base->facts.latent_scale;
    int rc = ds_digest_file(f->path, sha, &e);
    if (!rc && strcmp(sha, f->sha256))
        rc = ds_fail(&e, DS_EINTEGRITY,
                     "VAE '%s' has changed: its sha256 is %s, the registered one is %s", f->path,
                     sha, f->sha256);
    int changed = rc;
    if (!rc || (tolerate && is_damage(rc)))
        rc = read_vae_config(t, f->path, rc ? NULL : &e);
    if (changed && tolerate && is_damage(changed)) { /* measured with what is there, if possible */
        note(t->vae_finding, &e);
        return 0;
    }
    return rc ? ds_fail(err, rc, "%s", e.message) : 0;
}

void ds_tools_vae_bytes(const ds_tools *t, size_t *encoder, size_t *decoder) {
    const ds_vae_config *v = &t->vae_config;
    int side = t->picture_side;
    *encoder = v->blocks ? ds_vae_bytes(t->dev, v, DS_VAE_ENCODER, side, side) : 0;
    *decoder = v->blocks ? ds_vae_bytes(t->dev, v, DS_VAE_DECODER, side, side) : 0;
}

int ds_tools_decoder(ds_tools *t, ds_error *err) {
    const ds_spec_file *f = &t->job->spec->vae;
    if (!t->base || t->base->facts.pixel || t->decoder)
        return 0;
    int rc = ds_vae_open(&t->decoder, t->dev, f->path, t->vae_finding[0] ? NULL : f->sha256,
                         DS_VAE_DECODER, err);
    if (!rc && t->model)
        t->model->vae = t->decoder;
    return rc;
}

/* The digest alone, which is quick; the network is loaded when it is needed. */
static int check_features(ds_tools *t, int tolerate, ds_error *err) {
    const ds_spec_net *f = &t->job->spec->feature_net;
    ds_error e;
    char sha[DS_HEX_SIZE];
    int rc = ds_feature_net_digest(f->mode, f->path, sha, &e);
    if (!rc && strcmp(sha, f->sha256))
        rc = ds_fail(&e, DS_EINTEGRITY,
                     "feature network '%s' has changed: its sha256 is %s, the registered one is %s",
                     f->path, sha, f->sha256);
    else if (is_damage(rc))
        ds_error_prefix(&e, "the feature network is damaged");
    else if (rc == DS_ENOTFOUND)
        return ds_fail(err, rc,
                       "feature network '%s' is not where it was registered, '%.300s': bring it "
                       "back with dsctl add-feature-net FILE",
                       f->name, f->path);
    if (rc && tolerate && is_damage(rc)) {
        note(t->features_finding, &e);
        return 0;
    }
    return rc ? ds_fail(err, rc, "%s", e.message) : 0;
}

/* Under auto a GPU that is full or busy now is waited for (DS_ENOMEM, DS_EBUSY): the processor
 * would take a hundred times as long, and what was done so far is of use on the GPU only.  Where
 * there is none, or none that can be used, the processor does the job. */
static int open_device(ds_tools *t, ds_error *err) {
    const ds_spec_device *d = &t->job->spec->device;
    ds_device_options o = {
        .kind = ds_job_device(t->job), .precision = d->precision, .threads = d->threads};
    if (strcmp(o.kind, "auto"))
        return ds_worker_device_open(&t->dev, &o, err);
    o.kind = "cuda";
    int rc = ds_worker_device_open(&t->dev, &o, err);
    if (!rc || rc == DS_ENOMEM || rc == DS_EBUSY)
        return rc;
    o.kind = "auto";
    return ds_worker_device_open(&t->dev, &o, err);
}

int ds_tools_open(ds_tools *t, const ds_work *job, int tolerate, ds_error *err) {
    const ds_spec *s = job->spec;
    *t = (ds_tools){.job = job};
    int rc = open_device(t, err);
    if (!rc)
        rc = open_base(t, tolerate, err);
    if (!rc)
        rc = check_vae(t, tolerate, err);
    if (!rc && s->feature_net.path)
        rc = check_features(t, tolerate, err);
    if (rc)
        ds_tools_close(t);
    return rc;
}

int ds_tools_features(ds_tools *t, ds_error *err) {
    const ds_spec_net *f = &t->job->spec->feature_net;
    char sha[DS_HEX_SIZE];
    if (t->features)
        return 0;
    if (!f->path)
        return ds_fail(err, DS_ENOTFOUND, "the job names no feature network");
    ds_tools_drop_features(t);
    snprintf(sha, sizeof sha, "%s", f->sha256);
    /* With a finding it is another file than the registered one: whatever it is now. */
    int rc = t->features_finding[0] ? ds_feature_net_digest(f->mode, f->path, sha, err) : 0;
    return rc ? rc : ds_feature_net_open(t->dev, f->mode, f->path, sha, &t->features, err);
}

int ds_tools_same_features(const ds_tools *t, const ds_spec_task *task, const ds_reference *ref) {
    const ds_spec_net *f = &t->job->spec->feature_net;
    return f->path && !strcmp(task->feature_net_sha256, f->sha256) &&
           (!ref->x || !strcmp(ref->resize, ds_fid_mode_preprocess(f->mode)));
}

int ds_tools_features_of(ds_tools *t, const ds_spec_task *task, const ds_reference *ref,
                         ds_feature_net **out, ds_error *err) {
    const ds_spec_file *f = &task->feature_net;
    const char *name = f->name && *f->name ? f->name : "?";
    enum ds_fid_mode mode;
    int rc;
    if (ds_tools_same_features(t, task, ref)) {
        rc = ds_tools_features(t, err);
        *out = t->features;
        return rc;
    }
    if ((rc = ds_feature_net_mode_of(ref->resize, &mode, err)))
        return rc;
    *out = t->other;
    if (t->other && !strcmp(ds_feature_net_sha256(t->other), task->feature_net_sha256) &&
        !strcmp(ds_feature_net_preprocess(t->other), ref->resize))
        return 0;
    ds_tools_drop_features(t);
    rc = f->path
             ? ds_feature_net_open(t->dev, mode, f->path, task->feature_net_sha256, &t->other, err)
             : DS_ENOTFOUND;
    *out = t->other;
    if (rc == DS_ENOTFOUND)
        return ds_fail(err, rc,
                       "it was measured with feature network '%s' (sha256:%s, %s), which is not "
                       "here any more: bring it back with dsctl add-feature-net FILE --name %s",
                       name, task->feature_net_sha256, ds_fid_mode_name(mode), name);
    return rc ? ds_error_prefix(err, "feature network '%s', which it was measured with", name) : 0;
}

void ds_tools_drop_features(ds_tools *t) {
    ds_feature_net_close(t->features);
    ds_feature_net_close(t->other);
    t->features = t->other = NULL;
}

void ds_tools_close(ds_tools *t) {
    ds_tools_drop_features(t);
    ds_model_free(t->model);
    ds_vae_free(t->decoder);
    ds_base_free(t->base);
    ds_worker_device_close(t->dev);
    *t = (ds_tools){0};
}
