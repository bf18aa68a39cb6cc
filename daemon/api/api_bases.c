/* daemon/api/api_bases.c - /v1/bases, /v1/default-base, and imports of both kinds of models. */
#include "base/fs.h"
#include "base/json.h"
#include "base/limits.h"
#include "contract/options.h"
#include "daemon/api/api.h"
#include "daemon/core/models.h"
#include "daemon/care/gc.h"
#include "registry/rows/base_tasks.h"
#include "registry/rows/bases.h"
#include "registry/jobs/jobs.h"
#include "registry/core/names.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LICENSE_MAX 200
#define WEIGHTS_MAX 200

int ds_api_usable_base(ds_daemon *d, const char *ref, int64_t *id, json_t **out, ds_error *err) {
    json_t *base = NULL;
    int rc = ds_base_resolve(d->registry, ref, id, err);
    if (!rc)
        rc = ds_base_get(d->registry, *id, &base, err);
    if (!rc)
        rc = ds_models_complete(base, err);
    if (rc || !out)
        json_decref(base);
    else
        *out = base;
    return rc;
}

/* ---- reading ---- */

int ds_api_base_list(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    ds_page page;
    json_t *doc = NULL;
    int rc = ds_api_page(rq, &page, err);
    if (!rc)
        rc = ds_base_list(d->registry, page, &doc, err);
    return rc ? rc : ds_reply_json(rq, 200, doc);
}

static int reply_base(ds_request *rq, ds_daemon *d, const char *ref, ds_error *err) {
    int64_t id = 0;
    json_t *doc = NULL;
    int rc = ds_base_resolve(d->registry, ref, &id, err);
    if (!rc)
        rc = ds_base_get(d->registry, id, &doc, err);
    if (!rc)
        rc = ds_base_usage(d->registry, doc, err);
    if (!rc)
        rc = ds_base_task_show(d->registry, doc, err);
    if (rc) {
        json_decref(doc);
        return rc;
    }
    return ds_reply_json(rq, 200, doc);
}

int ds_api_base_get(ds_request *rq, void *ctx, ds_error *err) {
    return reply_base(rq, ctx, ds_request_param(rq, 0), err);
}

int ds_api_default_base_get(ds_request *rq, void *ctx, ds_error *err) {
    return reply_base(rq, ctx, NULL, err);
}

/* ---- importing ---- */

enum { SOURCE, VAE, PROBE }; /* looks */

/* The canonical path of something that can be read; *out NULL for an absent member. */
static int source_path(ds_request *rq, ds_daemon *d, int slot, const json_t *body, const char *key,
                       int file, char **out, ds_error *err) {
    const json_t *v = json_object_get(body, key);
    const char *path = json_string_value(v);
    char real[PATH_MAX];
    *out = NULL;
    if (!v || json_is_null(v))
        return slot == SOURCE ? ds_fail(err, DS_EINVAL, "'%s' is missing: a file or folder", key)
                              : 0;
    if (!path || path[0] != '/')
        return ds_fail(err, DS_EINVAL, "'%s' must be an absolute path", key);
    int rc = ds_api_look(rq, d, slot, slot == PROBE ? DS_ASK_PICTURES : DS_ASK_SOURCE, key, path,
                         file, real, err);
    if (!rc)
        *out = ds_xstrdup(real);
    return rc;
}

/* Controls in a text that is shown and stored. */
static int plain_text(const json_t *body, const char *key, size_t most, ds_error *err) {
    const json_t *v = json_object_get(body, key);
    const char *s = json_string_value(v);
    if (!v || json_is_null(v))
        return 0;
    if (!s || strlen(s) > most)
        return ds_fail(err, DS_EINVAL, "'%s' must be a text of at most %zu bytes", key, most);
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return ds_fail(err, DS_EINVAL, "'%s' has a control character (0x%02x)", key,
                           (unsigned char)*s);
    return 0;
}

/* "DiT-XL-2-256x256.pt" -> "DiT-XL-2-256x256" */
static void name_of(const char *path, char out[DS_NAME_SIZE]) {
    static const char *const ends[] = {".zst", ".safetensors", ".pth", ".pt", ".bin", ".ckpt"};
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(copy), m = strlen(ends[i]);
        if (n > m + 1 && !strcasecmp(copy + n - m, ends[i]) && copy[n - m - 1] != '/')
            copy[n - m] = 0;
    }
    ds_name_from_path(copy, out);
}

/* Words like "NC" and "non-commercial" in a licence; "DiT-XL" in a source. */
static int non_commercial(const char *source, const char *license) {
    if (strcasestr(license, "non-commercial") || strcasestr(license, "noncommercial"))
        return 1;
    for (const char *p = license; (p = strstr(p, "NC")); p += 2)
        if ((p == license || !isalpha((unsigned char)p[-1])) && !isalpha((unsigned char)p[2]))
            return 1;
    const char *slash = strrchr(source, '/');
    return !*license && strcasestr(slash ? slash : source, "dit-xl") != NULL;
}

static const char note_stated[] =
    "its licence is non-commercial: adapters trained on it may not be used commercially either";
static const char note_guessed[] =
    "it looks like the DiT-XL/2 weights of facebookresearch/DiT, whose licence is CC-BY-NC 4.0: "
    "non-commercial use only (record it with --license 'CC-BY-NC 4.0')";

/* The words of the worker's --objective; what can be added it decides. */
static int check_objective(const char *word, ds_error *err) {
    if (!*word || ds_word_in(DS_OBJECTIVES, word, strlen(word)))
        return 0;
    return ds_fail(err, DS_EINVAL, "'objective' must be one of %s", DS_OBJECTIVES);
}

static int check_import(const json_t *body, ds_error *err) {
    int rc = plain_text(body, "name", 64, err);
    if (!rc)
        rc = plain_text(body, "license", LICENSE_MAX, err);
    if (!rc)
        rc = plain_text(body, "weights", WEIGHTS_MAX, err);
    const json_t *heads = json_object_get(body, "heads");
    static const double range[] = {DS_RANGE_HEADS};
    double n = json_number_value(heads);
    if (!rc && heads && !json_is_null(heads) && /* 0: not given */
        !(json_is_integer(heads) && (n == 0 || (n >= range[0] && n <= range[1]))))
        rc = ds_fail(err, DS_EINVAL, "'heads' must be a whole number from %g to %g", range[0],
                     range[1]);
    if (!rc)
        rc = plain_text(body, "objective", 20, err);
    return rc ? rc : check_objective(ds_json_string(body, "objective", ""), err);
}

static int check_model_name(int net, const char *name, int given, ds_error *err) {
    const char *what = net ? "feature network" : "base",
               *why = ds_name_reserved(net ? DS_NAMED_FEATURE_NET : DS_NAMED_BASE, name);
    int rc = ds_name_check(what, name, err);
    if (!rc && why)
        rc = ds_fail(err, DS_EINVAL, "a %s cannot be called '%s'%s: %s; %s", what, name,
                     given ? "" : ", as its file is", why,
                     given ? "choose another name" : "give it a name with --name");
    return rc;
}

static int import_add(ds_request *rq, ds_daemon *d, int net, ds_error *err) {
    json_t *body = NULL, *doc = NULL;
    char *source = NULL, *vae = NULL, *probe = NULL, name[DS_NAME_SIZE];
    int64_t id = 0;
    int rc = ds_request_json(rq, &body, err);
    if (!rc)
        rc = check_import(body, err);
    if (!rc)
        rc = source_path(rq, d, SOURCE, body, "source", net, &source, err);
    if (!rc)
        rc = source_path(rq, d, VAE, body, "vae", 0, &vae, err);
    if (!rc)
        rc = source_path(rq, d, PROBE, body, "probe", 0, &probe, err);
    const char *given = ds_json_string(body, "name", NULL),
               *license = ds_json_string(body, "license", "");
    if (!rc && given)
        snprintf(name, sizeof name, "%s", given);
    else if (!rc)
        name_of(source, name);
    if (!rc)
        rc = check_model_name(net, name, given != NULL, err);
    if (!rc) /* before the work; whose a name is, its end decides by digest */
        rc = ds_model_import_free(d->registry, net, name, source, err);
    if (!rc) {
        json_t *payload =
            json_pack("{ss ss ss? ss ss sI ss ss ss?}", "what", net ? "feature_net" : "base",
                      "source", source, "vae", vae, "name", name, "license", license, "heads",
                      (json_int_t)ds_json_int(body, "heads", 0), "weights",
                      ds_json_string(body, "weights", ""), "objective",
                      ds_json_string(body, "objective", ""), "probe", probe);
        rc = payload ? ds_job_add(d->registry, DS_JOB_IMPORT, name, payload, 3, &id, err)
                     : ds_fail(err, DS_EINVAL, "the path is not UTF-8: rename the file");
        json_decref(payload);
    }
    if (!rc)
        rc = ds_job_get(d->registry, id, &doc, err);
    if (!rc && !net)
        json_object_set_new(doc, "note",
                            !non_commercial(source, license) ? json_null()
                            : *license                       ? json_string(note_stated)
                                                             : json_string(note_guessed));
    free(source);
    free(vae);
    free(probe);
    return rc ? rc : ds_reply_json(rq, 202, doc);
}

int ds_api_base_add(ds_request *rq, void *ctx, ds_error *err) {
    return import_add(rq, ctx, 0, err);
}

int ds_api_feature_net_add(ds_request *rq, void *ctx, ds_error *err) {
    return import_add(rq, ctx, 1, err);
}

/* ---- changing ---- */

int ds_api_default_base_set(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *body = NULL;
    const char *ref;
    int64_t id = 0;
    int rc = ds_request_json(rq, &body, err);
    if (!rc)
        rc = ds_json_need_string(body, "base", &ref, err);
    if (!rc)
        rc = ds_api_usable_base(d, ref, &id, NULL, err);
    if (!rc)
        rc = ds_base_choose(d->registry, id, err);
    if (rc)
        return rc;
    ds_daemon_poke(d);
    return reply_base(rq, d, NULL, err);
}

int ds_api_base_remove(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *base = NULL;
    int64_t id = 0;
    int rc = ds_base_resolve(d->registry, ds_request_param(rq, 0), &id, err);
    if (!rc)
        rc = ds_base_remove(d->registry, id, &base, err);
    if (rc)
        return rc;
    ds_gc_remove_model(d, 0, ds_json_string(base, "path", NULL));
    ds_gc_remove_model(d, 0, ds_json_string(json_object_get(base, "vae"), "path", NULL));
    json_object_set_new(base, "removed", json_true());
    return ds_reply_json(rq, 200, base);
}
