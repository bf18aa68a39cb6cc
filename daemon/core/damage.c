/* daemon/core/damage.c - see damage.h. */
#include "daemon/core/damage.h"

#include "base/json.h"
#include "base/log.h"
#include "registry/core/events.h"
#include "registry/store/blobs.h"
#include "registry/store/verified.h"

#include <stdio.h>
#include <string.h>

int ds_damage_found(ds_daemon *d, const ds_blob *b, const struct stat *st, const char *why,
                    ds_error *err) {
    char subject[DS_HEX_SIZE + 8];
    ds_error e;
    if (ds_verified_get(d->verified, b->stored_sha256, st) != DS_VERDICT_TOLD) {
        snprintf(subject, sizeof subject, "blob:%s", b->sha256);
        json_t *p = json_pack("{s:s, s:s}", "digest", b->sha256, "why", why);
        ds_log(DS_LOG_ERROR, "blob %s is damaged: %s", b->sha256, why);
        if (ds_event_add(d->registry, "blob.damaged", subject, p, &e))
            ds_log(DS_LOG_WARN, "cannot record a damaged blob: %s", e.message);
        json_decref(p);
        ds_verified_put(d->verified, b->stored_sha256, st, DS_VERDICT_TOLD);
    }
    return ds_fail(err, DS_EINTEGRITY,
                   "blob %.12s is damaged (%s) and not handed out: 'dsctl fsck' says what needs it "
                   "and what to do",
                   b->sha256, why);
}

int ds_damage_read(ds_daemon *d, const char *sha256, const char *why, ds_error *err) {
    ds_blob b;
    int rc = ds_blob_get(d->registry, sha256, &b, err);
    return rc ? rc : ds_damage_found(d, &b, &(struct stat){0}, why, err);
}

/* What a job is given to read: damage that shows without reading is said at once; the worker, which
 * reads everything, refuses what is not what it was. */
void ds_damage_look(ds_daemon *d, const json_t *spec) {
    char path[PATH_MAX];
    const char *key, *sha = ds_json_string(spec, "sha256", NULL);
    struct stat st = {0};
    json_t *v;
    size_t i;
    ds_blob b;
    ds_error err;
    if (ds_digest_valid(sha) && !ds_store_path(ds_registry_store(d->registry), sha, path, NULL) &&
        !strcmp(path, ds_json_string(spec, "path", "")) &&
        !ds_blob_get(d->registry, sha, &b, NULL)) {
        if (lstat(path, &st))
            ds_damage_found(d, &b, &(struct stat){0}, "its file is missing", &err);
        else if (st.st_size != b.stored_bytes)
            ds_damage_found(d, &b, &st, "its file has another size", &err);
    }
    json_object_foreach((json_t *)(uintptr_t)spec, key, v)
        ds_damage_look(d, v);
    json_array_foreach(spec, i, v)
        ds_damage_look(d, v);
}
