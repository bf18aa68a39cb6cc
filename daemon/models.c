/* daemon/models.c - which base and feature network this daemon works with.
 *
 * Both are known by digest (of the uncompressed bytes).  Hashing them costs some 100 ms, so the
 * digest is kept with size, mtime and inode in STATE/cache/models.json: a cache, safe to delete;
 * the worker checks the digest itself before it trusts the file.
 */
#include "daemon/daemon.h"

#include "base/digest.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/zio.h"
#include "registry/bases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MODEL_MAX ((size_t)2 << 30)

static int has_suffix(const char *s, const char *suffix) {
    size_t n = strlen(s), m = strlen(suffix);
    return n > m && strcmp(s + n - m, suffix) == 0;
}

static int digest_of(const char *path, char sha[DS_HEX_SIZE], ds_error *err) {
    if (!has_suffix(path, ".zst"))
        return ds_digest_file(path, sha, err);
    char *data;
    size_t n;
    int rc = ds_zio_read_file(path, MODEL_MAX, &data, &n, err);
    if (rc)
        return rc;
    ds_digest(data, n, sha);
    free(data);
    return 0;
}

static int cached_digest(ds_daemon *d, const char *path, char sha[DS_HEX_SIZE], ds_error *err) {
    struct stat st;
    char file[PATH_MAX];
    if (stat(path, &st))
        return ds_fail_errno(err, "cannot read model '%s'", path);
    ds_fs_join(file, sizeof file, d->o.state, "cache/models.json");
    json_t *cache = NULL;
    if (ds_json_read_file(file, 1 << 20, &cache, NULL) || !json_is_object(cache)) {
        json_decref(cache);
        cache = json_object();
    }
    int64_t mtime = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    const json_t *known = json_object_get(cache, path);
    const char *digest = ds_json_string(known, "sha256", "");
    int rc = 0;
    if (ds_digest_valid(digest) && ds_json_int(known, "size", -1) == st.st_size &&
        ds_json_int(known, "mtime_ns", -1) == mtime &&
        ds_json_int(known, "inode", -1) == (int64_t)st.st_ino)
        memcpy(sha, digest, DS_HEX_SIZE);
    else {
        rc = digest_of(path, sha, err);
        json_t *entry =
            rc ? NULL
               : json_pack("{ss sI sI sI}", "sha256", sha, "size", (json_int_t)st.st_size,
                           "mtime_ns", (json_int_t)mtime, "inode", (json_int_t)st.st_ino);
        if (entry && json_object_set_new(cache, path, entry) == 0)
            ds_json_write_file(file, cache, NULL); /* only a cache: without it we hash again */
    }
    json_decref(cache);
    return rc ? ds_error_prefix(err, "cannot use model '%s'", path) : 0;
}

/* "/x/emoji-dit.safetensors" -> "emoji-dit" */
static void model_name(const char *path, char out[64]) {
    const char *slash = strrchr(path, '/');
    snprintf(out, 64, "%s", slash ? slash + 1 : path);
    char *dot = strstr(out, ".safetensors");
    if (dot && dot != out)
        *dot = 0;
}

int ds_models_register(ds_daemon *d, ds_error *err) {
    char sha[DS_HEX_SIZE], name[64];
    int64_t net = 0, base = 0;
    int rc = 0;
    if (*d->o.feature_net) {
        rc = cached_digest(d, d->o.feature_net, sha, err);
        model_name(d->o.feature_net, name);
        if (!rc)
            rc = ds_feature_net_put(d->registry, name, d->o.feature_net, sha, &net, err);
    } else
        ds_log(DS_LOG_WARN, "no feature network found: datasets wait until the daemon is started "
                            "with --feature-net FILE");
    if (!rc && *d->o.base) {
        rc = cached_digest(d, d->o.base, sha, err);
        model_name(d->o.base, name);
        if (!rc)
            rc = ds_base_put(d->registry, name, d->o.base, sha, NULL, net, &base, err);
        if (!rc)
            rc = ds_base_activate(d->registry, base, err);
    } else if (!rc)
        ds_log(DS_LOG_WARN,
               "no base model found: datasets wait until the daemon is started with --base FILE");
    return rc;
}
