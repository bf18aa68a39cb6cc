/* daemon/api/api_datasets.c - /v1/datasets. */
#include "base/json.h"
#include "base/limits.h"
#include "contract/options.h"
#include "daemon/api/api.h"
#include "daemon/core/damage.h"
#include "daemon/folders/reach.h"
#include "daemon/jobs/workers.h"
#include "daemon/jobs/defaults.h"
#include "daemon/folders/look.h"
#include "registry/rows/adapters.h"
#include "registry/rows/bases.h"
#include "registry/rows/datasets.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void note(json_t *notes, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(json_t *notes, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    json_t *text = json_vsprintf(fmt, ap);
    va_end(ap);
    if (text) /* not UTF-8: a name from a path */
        json_array_append_new(notes, text);
}

/* Does this base (NULL: the default one) predict a velocity?  -1: there is no such base. */
static int velocity_known(const ds_daemon *d, const char *ref) {
    json_t *base = NULL;
    int64_t id;
    ds_error none;
    int known = !ds_base_resolve(d->registry, ref, &id, &none) &&
                !ds_base_get(d->registry, id, &base, &none),
        is = known ? ds_base_velocity(base) : -1;
    json_decref(base);
    return is;
}

static int velocity_of(const ds_daemon *d, const char *ref) { return velocity_known(d, ref) > 0; }

/* What a person should know of a dataset, in words: "notes" of docs/api.md. */
static void add_notes(const ds_daemon *daemon, json_t *d) {
    json_t *notes = json_array(), *reach = ds_reach_json(daemon, ds_json_int(d, "id", 0)),
           *v = json_object_get(d, "version");
    const char *name = ds_json_string(d, "name", ""),
               *why = ds_name_reserved(DS_NAMED_DATASET, name);
    int64_t images = ds_json_int(v, "images", 0);
    json_object_set_new(d, "reach", reach);
    if (json_is_object(reach))
        note(notes, "its folder is %s: %s", ds_json_string(reach, "state", ""),
             ds_json_string(reach, "why", ""));
    if (why)
        note(notes,
             "nothing new may be called '%s', because %s; this one stays usable: write %s@latest, "
             "or add its folder again with another --name",
             name, why, name);
    if (images && images < DS_IMAGES_FOR_FD)
        note(notes, "%lld image cannot be measured: a distance needs %d, KID %d", (long long)images,
             DS_IMAGES_FOR_FD, DS_IMAGES_FOR_KID);
    else if (images && images < DS_IMAGES_FOR_KID)
        note(notes, "%lld images are too few for KID, which needs %d; FD is measured",
             (long long)images, DS_IMAGES_FOR_KID);
    if (daemon->o.workers == 0)
        note(notes, "no training begins: diffscalerd runs with --workers 0");
    if (ds_json_bool(d, "paused", 0))
        note(notes, "paused: no scan and no training begins until dsctl resume %s", name);
    json_t *options = json_object_get(d, "options");
    int64_t n = ds_json_int(options, "n", DS_SAMPLES_FOR_INTERVAL);
    if (n < DS_SAMPLES_FOR_INTERVAL)
        note(notes, "with n = %lld samples FD has no interval, which needs %d", (long long)n,
             DS_SAMPLES_FOR_INTERVAL);
    int velocity = json_is_number(json_object_get(options, "vb_weight")) &&
                   velocity_of(daemon, ds_json_string(d, "base", NULL));
    json_t *idle = ds_options_without_effect(ds_json_string(d, "method", NULL), options, velocity);
    json_array_extend(notes, idle);
    json_decref(idle);
    json_object_set_new(d, "notes", notes);
}

/* A sampler that the base cannot use is refused before anything is trained.  What is left out stays
 * as it was: base, options.  Where there is no base yet, it is told when something is trained. */
static int check_sampler(ds_daemon *d, const json_t *body, const json_t *was, ds_error *err) {
    const json_t *options = json_object_get(body, "options");
    if (!json_is_object(options))
        options = json_object_get(was, "options");
    const char *base = ds_json_string(body, "base", ds_json_string(was, "base", NULL)),
               *sampler = ds_json_string(options, "sampler", NULL);
    int velocity = sampler ? velocity_known(d, base) : -1;
    return velocity >= 0 ? ds_sampler_word_check(sampler, velocity, err) : 0;
}

static int get_dataset(ds_daemon *d, const char *name, json_t **out, ds_error *err) {
    int rc = ds_dataset_get(d->registry, name, out, err);
    if (!rc)
        add_notes(d, *out);
    return rc;
}

static int reply_dataset(ds_request *rq, ds_daemon *d, int status, const char *name, int64_t seq,
                         ds_error *err) {
    json_t *doc = NULL;
    int rc = get_dataset(d, name, &doc, err);
    if (rc)
        return rc;
    if (seq)
        json_object_set_new(doc, "scan_seq", json_integer(seq));
    return ds_reply_json(rq, status, doc);
}

static int check_types(const json_t *body, ds_error *err) {
    static const char *const strings[] = {"name", "method", "base", "feature_net"};
    for (int i = 0; i < 4; i++) {
        const json_t *v = json_object_get(body, strings[i]);
        if (v && !json_is_string(v) && !json_is_null(v))
            return ds_fail(err, DS_EINVAL, "'%s' must be a text", strings[i]);
    }
    static const char *const flags[] = {"watch", "publish_worse"};
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(body, flags[i]);
        if (v && !json_is_boolean(v) && !json_is_null(v))
            return ds_fail(err, DS_EINVAL, "'%s' must be true or false", flags[i]);
    }
    return 0;
}

/* A name may be new, or this dataset's since before some names were reserved. */
static int check_name(ds_daemon *d, const char *name, const char *path, int given, ds_error *err) {
    const char *why = ds_name_reserved(DS_NAMED_DATASET, name);
    json_t *known = NULL;
    int rc = ds_name_check("dataset", name, err);
    if (rc || !why)
        return rc;
    int same = !ds_dataset_get(d->registry, name, &known, NULL) &&
               !strcmp(ds_json_string(known, "path", ""), path);
    json_decref(known);
    if (same)
        return 0;
    return given ? ds_fail(err, DS_EINVAL,
                           "a dataset cannot be called '%s': %s; choose another name", name, why)
                 : ds_fail(err, DS_EINVAL,
                           "a dataset cannot be called '%s', as its folder is: %s; give it a name "
                           "with --name",
                           name, why);
}

/* The name given, or that of the folder when it is known, or one made from its path. */
static int choose_name(ds_daemon *d, const char *given, const char *path, char name[DS_NAME_SIZE],
                       json_t *notes, ds_error *err) {
    if (given) {
        int rc = check_name(d, given, path, 1, err);
        if (!rc)
            memcpy(name, given, strlen(given) + 1);
        return rc;
    }
    ds_error none;
    int rc = ds_dataset_by_path(d->registry, path, name, &none);
    if (rc == DS_ENOTFOUND) {
        const char *folder = strrchr(path, '/') + 1;
        ds_name_from_path(path, name);
        rc = check_name(d, name, path, 0, err);
        if (!rc && strcmp(name, folder) != 0)
            note(notes,
                 "it is called '%s', because the folder's name, '%s', has characters that names "
                 "cannot have, or too many of them; --name gives another",
                 name, folder);
        return rc;
    }
    return rc ? ds_fail(err, rc, "%s", none.message) : 0;
}

/* A name that a list gives twice is a slip, and the other one that was meant is missing.  Rows from
 * before are read all the same. */
static int check_twice(const json_t *options, ds_error *err) {
    const char *key;
    json_t *list, *item;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)options, key, list) {
        json_array_foreach(list, i, item) {
            for (size_t k = 0; k < i; k++)
                if (json_equal(json_array_get(list, k), item))
                    return ds_fail(err, DS_EINVAL, "option '%s' names '%s' twice", key,
                                   json_string_value(item));
        }
    }
    return 0;
}

/* Everything that can be checked without the disk comes before everything that cannot. */
static int check_add(ds_request *rq, ds_daemon *d, const json_t *body, char real[PATH_MAX],
                     ds_error *err) {
    const char *path, *name = ds_json_string(body, "name", NULL);
    int rc = ds_json_need_string(body, "path", &path, err);
    if (!rc)
        rc = check_types(body, err);
    if (!rc)
        rc = ds_options_check(ds_json_string(body, "method", NULL),
                              json_object_get(body, "options"), err);
    if (!rc)
        rc = check_twice(json_object_get(body, "options"), err);
    if (!rc && name)
        rc = ds_name_check("dataset", name, err);
    if (!rc)
        rc = ds_api_look(rq, d, 0, DS_ASK_LOOK, "", path, 0, real, err);
    return rc ? rc : ds_look_at_place(real, d->o.state, err);
}

/* One member that is a word or null: {"option":"base","from":null,"to":"xl"}. */
static void add_change(json_t *list, const char *key, const json_t *was, const json_t *is) {
    json_t *a = json_object_get(was, key), *b = json_object_get(is, key);
    if (!json_equal(a, b))
        json_array_append_new(list, json_pack("{ss sO? sO? sb sb}", "option", key, "from", a, "to",
                                              b, "from_default", json_is_null(a), "to_default",
                                              json_is_null(b)));
}

/* What adding it again changed.  `was` NULL: it is new, or was removed. */
static json_t *changes_of(ds_daemon *d, const json_t *was, const json_t *is) {
    if (!was)
        return json_array();
    const json_t *v = json_object_get(is, "version");
    ds_dataset_facts facts = {.images = ds_json_int(v, "images", 0),
                              .classes = ds_json_int(v, "classes", 1),
                              .velocity = velocity_of(d, ds_json_string(is, "base", NULL))};
    json_t *list = ds_options_changes(
        ds_json_string(was, "method", DS_METHOD_OTHERWISE), json_object_get(was, "options"),
        ds_json_string(is, "method", DS_METHOD_OTHERWISE), json_object_get(is, "options"), &facts);
    add_change(list, "base", was, is);
    add_change(list, "feature_net", was, is);
    add_change(list, "watch", was, is);
    return list;
}

/* The dataset as it is now, with what a person who added it should know besides. */
static int reply_added(ds_request *rq, ds_daemon *d, const ds_dataset_new *new, int created,
                       int64_t seq, const json_t *was, const json_t *notes, ds_error *err) {
    json_t *doc = NULL;
    int64_t next = 0;
    int rc = get_dataset(d, new->name, &doc, err);
    if (!rc)
        rc = ds_adapter_next_version(d->registry, new->name, &next, err);
    if (rc) {
        json_decref(doc);
        return rc;
    }
    json_t *changes = changes_of(d, created ? NULL : was, doc);
    int anew =
        !created && (ds_json_int(was, "generation", 0) != ds_json_int(doc, "generation", 0) ||
                     !json_equal(json_object_get(was, "base"), json_object_get(doc, "base")));
    json_array_extend(json_object_get(doc, "notes"), (json_t *)(uintptr_t)notes);
    if (d->o.workers == 0)
        note(json_object_get(doc, "notes"),
             "nothing is trained: diffscalerd was started with --workers 0");
    json_object_set_new(doc, "scan_seq", json_integer(seq));
    json_object_set_new(doc, "changes", changes);
    json_object_set_new(
        doc, "trained_anew",
        anew ? json_sprintf("%s@v%lld", ds_json_string(doc, "name", new->name), (long long)next)
             : json_null());
    return ds_reply_json(rq, created ? 201 : 200, doc);
}

/* The dataset before it is added again; NULL where nothing of it stays: new, or removed. */
static json_t *known_as(ds_daemon *d, const char *name) {
    json_t *was = NULL;
    if (ds_dataset_get(d->registry, name, &was, NULL))
        return NULL;
    if (strcmp(ds_json_string(was, "state", ""), "removed") != 0)
        return was;
    json_decref(was);
    return NULL;
}

static int add(ds_request *rq, ds_daemon *d, const json_t *body, const char *real, json_t *notes,
               ds_error *err) {
    char name[DS_NAME_SIZE];
    const char *base = ds_json_string(body, "base", NULL),
               *net = ds_json_string(body, "feature_net", NULL);
    int64_t base_id = 0, id, seq = 0;
    int created = 0;
    ds_feature_choice choice;
    int rc = choose_name(d, ds_json_string(body, "name", NULL), real, name, notes, err);
    if (!rc && net)
        rc = ds_feature_choice_resolve(d->registry, net, &choice, err);
    if (!rc && base)
        rc = ds_api_usable_base(d, base, &base_id, NULL, err);
    if (!rc && base && strcmp(base, "default") == 0)
        base_id = -1; /* follows the default, whatever that will be */
    if (rc)
        return rc;
    const json_t *watch = json_object_get(body, "watch"),
                 *options = json_object_get(body, "options");
    ds_dataset_new new = {.name = name,
                          .path = real,
                          .method = ds_json_string(body, "method", NULL),
                          .options = json_is_object(options) ? options : NULL,
                          .watch = json_is_boolean(watch) ? json_is_true(watch) : -1,
                          .base_id = base_id,
                          .net = net ? &choice : NULL,
                          .publish_worse = ds_json_bool(body, "publish_worse", 0)};
    json_t *was = known_as(d, name);
    rc = check_sampler(d, body, was, err);
    if (!rc)
        rc = ds_dataset_add(d->registry, &new, &id, &created, &seq, err);
    if (!rc) {
        ds_daemon_poke(d); /* a known dataset has no event that would wake the reconciler */
        rc = reply_added(rq, d, &new, created, seq, was, notes, err);
    }
    json_decref(was);
    return rc;
}

int ds_api_dataset_add(ds_request *rq, void *ctx, ds_error *err) {
    json_t *body = NULL, *notes = json_array();
    char real[PATH_MAX];
    int rc = ds_request_json(rq, &body, err);
    if (!rc)
        rc = check_add(rq, ctx, body, real, err);
    if (!rc)
        rc = add(rq, ctx, body, real, notes, err);
    json_decref(notes);
    return rc;
}

static void on_row(void *ctx, json_t *row) { add_notes(ctx, row); }

int ds_api_dataset_list(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    ds_page page;
    ds_rows rows = {.each = on_row, .ctx = d};
    int rc = ds_api_page(rq, &page, err);
    page.rows = &rows;
    if (!rc)
        rc = ds_dataset_list(d->registry, page, ds_request_flag(rq, "removed"), NULL, err);
    return ds_api_reply_rows(rq, &rows, rc);
}

int ds_api_dataset_get(ds_request *rq, void *ctx, ds_error *err) {
    return reply_dataset(rq, ctx, 200, ds_request_param(rq, 0), 0, err);
}

/* Of a list that is there as a whole: the cursor is how many came before. */
static void keep_page(json_t *doc, size_t from, size_t limit) {
    json_t *all = json_object_get(doc, "items"), *part = json_array();
    size_t n = json_array_size(all), end = limit < n && from < n - limit ? from + limit : n;
    for (size_t i = from; i < end; i++)
        json_array_append(part, json_array_get(all, i));
    json_object_set_new(doc, "items", part);
    if (end < n)
        json_object_set_new(doc, "next", json_sprintf("%zu", end));
}

int ds_api_dataset_rejected(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    json_t *doc = NULL;
    int64_t from = 0, limit;
    const char *cursor = ds_request_query(rq, "cursor");
    int rc = ds_request_int(rq, "limit", 1, DS_LIST_MAX, INT32_MAX, &limit, err); /* or all */
    if (!rc && cursor)
        rc = ds_request_int(rq, "cursor", 0, INT32_MAX, 0, &from, err);
    if (!rc)
        rc = ds_dataset_rejected(d->registry, ds_request_param(rq, 0), &doc, err);
    if (!rc)
        keep_page(doc, (size_t)from, (size_t)limit);
    return rc ? rc : ds_reply_json(rq, 200, doc);
}

int ds_api_dataset_manifest(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int64_t version;
    char sha[DS_HEX_SIZE], *data = NULL;
    size_t n = 0;
    int rc = ds_request_int(rq, "version", 0, INT64_MAX, 0, &version, err);
    if (!rc)
        rc = ds_dataset_manifest(d->registry, ds_request_param(rq, 0), version, sha, err);
    if (rc)
        return rc;
    rc = ds_store_read(ds_registry_store(d->registry), sha, (size_t)1 << 30, &data, &n, err);
    if (rc == DS_ENOTFOUND || rc == DS_EINTEGRITY)
        rc = ds_damage_read(d, sha,
                            rc == DS_ENOTFOUND ? "its file is missing"
                                               : "it is not what"
                                                 " was stored",
                            err);
    if (rc)
        return rc;
    ds_reply_header(rq, "ETag", "\"%s\"", sha);
    return ds_reply_take(rq, 200, "application/x-ndjson", data, n);
}

int ds_api_dataset_rescan(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int64_t seq = 0;
    int rc = ds_dataset_rescan(d->registry, ds_request_param(rq, 0), &seq, err);
    if (rc)
        return rc;
    ds_daemon_poke(d);
    return reply_dataset(rq, d, 202, ds_request_param(rq, 0), seq, err);
}

int ds_api_dataset_remove(ds_request *rq, void *ctx, ds_error *err) {
    ds_daemon *d = ctx;
    int rc = ds_dataset_remove(d->registry, ds_request_param(rq, 0), err);
    if (rc)
        return rc;
    ds_daemon_poke(d); /* its running jobs are stopped there */
    return reply_dataset(rq, d, 200, ds_request_param(rq, 0), 0, err);
}

static int set_paused(ds_request *rq, ds_daemon *d, int paused, ds_error *err) {
    const char *name = ds_request_param(rq, 0);
    int64_t id;
    int rc = ds_dataset_pause(d->registry, name, paused, err);
    if (!rc)
        rc = ds_dataset_id(d->registry, name, &id, err);
    if (rc)
        return rc;
    if (paused)
        ds_workers_pause(d->workers, id);
    ds_daemon_poke(d);
    return reply_dataset(rq, d, 200, name, 0, err);
}

int ds_api_dataset_pause(ds_request *rq, void *ctx, ds_error *err) {
    return set_paused(rq, ctx, 1, err);
}

int ds_api_dataset_resume(ds_request *rq, void *ctx, ds_error *err) {
    return set_paused(rq, ctx, 0, err);
}
