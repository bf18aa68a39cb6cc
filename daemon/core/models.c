/* daemon/core/models.c - which base and feature network this daemon works with.
 *
 * Both are known by digest (of the uncompressed bytes).  Hashing them costs some 100 ms, so the
 * digest is kept with size, mtime and inode in STATE/cache/models.json: a cache, safe to delete;
 * the worker checks the digest itself before it trusts the file.
 */
#include "daemon/core/models.h"

#include "base/digest.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/zio.h"
#include "registry/rows/bases.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODEL_MAX ((size_t)2 << 30)
#define HEADER_MAX (16u << 20)

static int digest_of(const char *path, char sha[DS_HEX_SIZE], ds_error *err) {
    if (!ds_fs_ends_with(path, ".zst"))
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

/* What the head of a safetensors file says of it: 8 bytes of length, then JSON.  Only for show, so
 * a file that is none just has nothing to say (the worker looks at it properly). */
static json_t *header_of(const char *path) {
    unsigned char size[8];
    uint64_t n = 0;
    json_t *doc = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    if (read(fd, size, 8) == 8)
        for (int i = 7; i >= 0; i--)
            n = n << 8 | size[i];
    if (n > 1 && n <= HEADER_MAX) {
        char *text = ds_xmalloc((size_t)n);
        if (read(fd, text, (size_t)n) == (ssize_t)n && ds_json_parse("header", text, n, &doc, NULL))
            doc = NULL;
        free(text);
    }
    close(fd);
    return doc;
}

static int64_t count_parameters(const json_t *header) {
    const char *key;
    json_t *tensor, *side;
    size_t i;
    double sum = 0;
    json_object_foreach((json_t *)(uintptr_t)header, key, tensor) {
        double n = 1;
        if (!strcmp(key, "__metadata__"))
            continue;
        json_array_foreach(json_object_get(tensor, "shape"), i, side) {
            n *= (double)json_integer_value(side);
        }
        sum += n;
    }
    return sum > 0 && sum < 1e15 ? (int64_t)sum : 0;
}

/* Adds what the file itself says: configuration, licence, parameters. */
static json_t *facts_of(const char *path, ds_model_facts *f, json_t **config) {
    struct stat st;
    json_t *header = header_of(path), *meta = json_object_get(header, "__metadata__");
    f->bytes = stat(path, &st) ? 0 : (int64_t)st.st_size;
    f->parameters = count_parameters(header);
    f->license = ds_json_string(meta, "diffscaler.license", NULL);
    f->kind = ds_json_string(meta, "diffscaler.kind", NULL);
    const char *text = ds_json_string(meta, "diffscaler.config", NULL);
    if (text && !ds_json_parse("config", text, strlen(text), config, NULL) &&
        json_is_object(*config))
        f->config = *config;
    return header; /* the texts are in it */
}

static int register_net(ds_daemon *d, int64_t *id, ds_error *err) {
    char sha[DS_HEX_SIZE], name[64];
    json_t *config = NULL;
    int rc = cached_digest(d, d->o.feature_net, sha, err);
    if (rc)
        return rc;
    model_name(d->o.feature_net, name);
    ds_model_facts f = {.name = name, .path = d->o.feature_net, .sha256 = sha};
    json_t *header = facts_of(d->o.feature_net, &f, &config);
    rc = ds_feature_net_register(d->registry, &f, id, err);
    json_decref(config);
    json_decref(header);
    return rc;
}

static int register_base(ds_daemon *d, const char *path, int64_t net, int64_t *id, ds_error *err) {
    char sha[DS_HEX_SIZE], name[64];
    json_t *config = NULL;
    int rc = cached_digest(d, path, sha, err);
    if (rc)
        return rc;
    model_name(path, name);
    ds_model_facts f = {.name = name, .path = path, .sha256 = sha, .feature_net = net};
    json_t *header = facts_of(path, &f, &config);
    rc = ds_base_register(d->registry, &f, id, err);
    json_decref(config);
    json_decref(header);
    return rc;
}

/* The base that earlier versions came with, where this state knows it: it may lie elsewhere now. */
static int register_older(ds_daemon *d, int64_t net, ds_error *err) {
    char sha[DS_HEX_SIZE];
    json_t *known = NULL;
    int64_t id = 0;
    if (!*d->o.older_base)
        return 0;
    int rc = cached_digest(d, d->o.older_base, sha, err);
    if (rc)
        return rc;
    if (ds_base_resolve(d->registry, sha, &id, NULL) ||
        ds_base_get(d->registry, id, &known, NULL) || ds_json_bool(known, "removed", 0)) {
        json_decref(known);
        return 0;
    }
    json_decref(known);
    return register_base(d, d->o.older_base, net, &id, err);
}

/* Of a daemon that was started without --base: does the state have a default whose file is there?
 * Another one would train every dataset anew. */
static int has_default(ds_daemon *d, int64_t base) {
    json_t *active = NULL;
    if (d->o.base_given || ds_base_get(d->registry, 0, &active, NULL))
        return 0;
    const char *name = ds_json_string(active, "name", "?"),
               *path = ds_json_string(active, "path", "");
    int other = ds_json_int(active, "id", 0) != base,
        there = !ds_json_bool(active, "removed", 0) && !access(path, R_OK);
    if (other)
        ds_log(there ? DS_LOG_INFO : DS_LOG_WARN,
               there ? "the default base stays '%s', %s"
                     : "the default base '%s' is not there any more (%s): the one that came with "
                       "this version takes its place",
               name, path);
    json_decref(active);
    return there;
}

/* Until a person chooses a default, it is the one that the daemon was started with. */
static int follow_option(ds_daemon *d, int64_t base, ds_error *err) {
    json_t *active = NULL;
    if (!ds_base_chosen(d->registry))
        return has_default(d, base) ? 0 : ds_base_activate(d->registry, base, err);
    int rc = ds_base_get(d->registry, 0, &active, err);
    if (!rc && d->o.base_given && ds_json_int(active, "id", 0) != base)
        ds_log(DS_LOG_INFO, "the default base is '%s', as chosen; --base is registered beside it",
               ds_json_string(active, "name", "?"));
    json_decref(active);
    return rc;
}

int ds_models_register(ds_daemon *d, ds_error *err) {
    int64_t net = 0, base = 0;
    int rc = 0;
    if (*d->o.feature_net)
        rc = register_net(d, &net, err);
    else
        ds_log(DS_LOG_WARN, "no feature network found: datasets wait until the daemon is started "
                            "with --feature-net FILE");
    if (!rc && *d->o.base) {
        rc = register_base(d, d->o.base, net, &base, err);
        if (!rc)
            rc = register_older(d, net, err);
        if (!rc)
            rc = follow_option(d, base, err);
    } else if (!rc)
        ds_log(DS_LOG_WARN, "no base model found: datasets wait until the daemon is started with "
                            "--base FILE or a base is added");
    return rc;
}

void ds_models_dir(const ds_daemon *d, int nets, char out[PATH_MAX]) {
    ds_fs_join(out, PATH_MAX, d->o.state, nets ? "feature_nets" : "bases");
}

int ds_models_complete(const json_t *base, ds_error *err) {
    const char *name = ds_json_string(base, "name", "?");
    if (ds_json_bool(base, "removed", 0))
        return ds_fail(err, DS_EINVAL,
                       "base '%s' (sha256:%s) was removed; dsctl add-base SRC brings it back", name,
                       ds_json_string(base, "sha256", "?"));
    if (!json_array_size(json_object_get(base, "missing")))
        return 0;
    return ds_fail(err, DS_EINVAL,
                   "base '%s' works on latents and has no VAE; add it with: dsctl add-base %s "
                   "--name %s --vae ./sd-vae-ft-ema",
                   name, ds_json_string(base, "source", ds_json_string(base, "path", "SRC")), name);
}
