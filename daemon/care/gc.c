/* daemon/care/gc.c - see gc.h.  How the worker names and lays out its caches:
 * worker/images/prepare_cache.c, worker/measure/feature_cache.c, worker/images/latents.h. */
#include "daemon/care/gc.h"

#include "base/age.h"
#include "base/digest.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/zio.h"
#include "daemon/core/models.h"
#include "registry/rows/bases.h"
#include "registry/store/blobs.h"
#include "registry/jobs/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define META_MAX (256u << 20)     /* of an image cache: classes and rejected files */
#define TASK_FEATURES_DAYS 30     /* samples of a version, until they are drawn again */
#define FEATURES_MAX (512u << 20) /* of a feature cache, unpacked */

typedef struct {
    char *path;
    int64_t bytes;
    ds_gc_part *part;
} doomed;

struct ds_gc {
    ds_daemon *d;
    json_t *facts;
    json_t *images; /* digests of prepared images that stay: their features stay too */
    int64_t grace_ms;
    int dry_run;
    ds_blob_sweep *sweep;
    doomed *list; /* files that go */
    size_t count, room;
    int looked; /* the folders have been read */
    ds_gc_result out;
};
typedef struct ds_gc gc;

static int in_set(const json_t *set, const char *key) { return json_object_get(set, key) != NULL; }

/* It goes, if it is old enough. */
static void doom(gc *g, const char *path, const struct stat *st, ds_gc_part *part) {
    if (ds_age_ms(st->st_mtim) < g->grace_ms) {
        part->young++;
        return;
    }
    if (g->count == g->room) {
        g->room = g->room ? 2 * g->room : 64;
        g->list = ds_xrealloc(g->list, g->room * sizeof *g->list);
    }
    g->list[g->count++] = (doomed){ds_xstrdup(path), st->st_size, part};
}

/* Calls `used` for each regular file of a folder that begins and ends so: is it of use? */
static void each(gc *g, const char *folder, const char *begin, const char *end,
                 int (*used)(gc *g, const char *path, const char *name), ds_gc_part *part) {
    char dir[PATH_MAX], path[PATH_MAX];
    ds_fs_join(dir, sizeof dir, g->d->o.state, folder);
    DIR *list = opendir(dir);
    if (!list)
        return;
    for (struct dirent *e; (e = readdir(list));) {
        struct stat st;
        size_t n = strlen(e->d_name), m = strlen(end);
        if (strncmp(e->d_name, begin, strlen(begin)) || n < m ||
            strcmp(e->d_name + n - m, end) != 0)
            continue;
        ds_fs_join(path, sizeof path, dir, e->d_name);
        if (!lstat(path, &st) && S_ISREG(st.st_mode) && !used(g, path, e->d_name))
            doom(g, path, &st, part);
    }
    closedir(list);
}

/* ---- caches ---- */

typedef struct { /* as worker/images/prepare_cache.c writes it */
    char magic[8];
    uint64_t n, side, channels, meta_size, file_size;
    char key[64], rest[64], payload[64], header[64];
} images_header;

/* The metadata object at the end of an image cache; NULL when it cannot be made out. */
static json_t *images_meta(const char *path, images_header *h) {
    struct stat st;
    json_t *doc = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return NULL;
    if (!fstat(fd, &st) && read(fd, h, sizeof *h) == (ssize_t)sizeof *h &&
        !memcmp(h->magic, "DSIMG001", 8) && h->file_size == (uint64_t)st.st_size &&
        h->meta_size > 1 && h->meta_size <= META_MAX && h->meta_size < h->file_size) {
        char *text = ds_xmalloc(h->meta_size);
        if (pread(fd, text, h->meta_size, (off_t)(h->file_size - h->meta_size)) ==
                (ssize_t)h->meta_size &&
            ds_json_parse("image cache", text, h->meta_size, &doc, NULL))
            doc = NULL;
        free(text);
    }
    close(fd);
    return doc;
}

/* A file that cannot be made out is damaged or of another program version: nobody can use it, but
 * nobody is in its way either. */
static int images_used(gc *g, const char *path, const char *name) {
    (void)name;
    images_header h;
    json_t *meta = images_meta(path, &h);
    const char *manifest = ds_json_string(meta, "manifest", NULL);
    int used = !manifest || in_set(json_object_get(g->facts, "manifests"), manifest);
    if (meta && used) {
        char digest[65];
        memcpy(digest, h.payload, 64);
        digest[64] = 0;
        json_object_set_new(g->images, digest, json_true());
    }
    json_decref(meta);
    return used;
}

/* The value of "word=" in the key of a feature cache, or "". */
static void key_value(const char *key, const char *word, char out[65]) {
    const char *p = strstr(key, word);
    size_t n = p ? strcspn(p + strlen(word), " ") : 0;
    out[0] = 0;
    if (n == 64) {
        memcpy(out, p + strlen(word), 64);
        out[64] = 0;
    }
}

/* "key" of the metadata of a feature cache, "" when it cannot be read; free it. */
static char *features_key(const char *path) {
    char *data = NULL, *key = NULL;
    size_t n = 0;
    uint64_t size = 0;
    json_t *doc = NULL;
    if (ds_zio_read_file(path, FEATURES_MAX, &data, &n, NULL))
        return ds_xstrdup("");
    for (int i = 7; n > 8 && i >= 0; i--)
        size = size << 8 | (unsigned char)data[i];
    if (size > 1 && size <= n - 8 && !ds_json_parse("features", data + 8, size, &doc, NULL))
        key = ds_xstrdup(ds_json_string(json_object_get(doc, "__metadata__"), "key", ""));
    json_decref(doc);
    free(data);
    return key ? key : ds_xstrdup("");
}

/* The features of a version's samples name its numbers, which no row knows: they are kept for the
 * versions to come, and go by age.  They are drawn again where they are needed. */
static int task_features_old(const char *key, const char *path) {
    struct stat st;
    return !strncmp(key, "task/", 5) && !stat(path, &st) &&
           ds_age_ms(st.st_mtim) > INT64_C(86400000) * TASK_FEATURES_DAYS;
}

static int features_used(gc *g, const char *path, const char *name) {
    (void)name;
    char images[65], base[65], *key = features_key(path);
    key_value(key, "images=", images);
    key_value(key, "base=", base);
    int old = task_features_old(key, path);
    free(key);
    return !old && (!*images || in_set(g->images, images)) &&
           (!*base || in_set(json_object_get(g->facts, "bases"), base));
}

/* Latents are kept by picture, for all datasets; they are of no use without their VAE. */
static int latents_used(gc *g, const char *path, const char *name) {
    (void)name;
    char head[144], vae[65];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : read(fd, head, sizeof head);
    if (fd >= 0)
        close(fd);
    if (n != (ssize_t)sizeof head || memcmp(head, "DSLAT001", 8))
        return 1;
    memcpy(vae, head + 80, 64);
    vae[64] = 0;
    return !ds_digest_valid(vae) || in_set(json_object_get(g->facts, "vaes"), vae);
}

/* hashes/<dataset id> */
static int hashes_used(gc *g, const char *path, const char *name) {
    (void)path;
    return strspn(name, "0123456789") != strlen(name) ||
           in_set(json_object_get(g->facts, "datasets"), name);
}

/* ---- models ---- */

static int model_used(gc *g, const char *path, const char *name) {
    (void)name;
    return ds_model_file_known(g->d->registry, path);
}

/* These ask the registry. */
static void choose_models(gc *g) {
    ds_gc_result *out = &g->out;
    out->importing = ds_json_bool(g->facts, "importing", 0);
    if (!out->importing) {
        each(g, "bases", "", "", model_used, &out->models);
        each(g, "feature_nets", "", "", model_used, &out->models);
    }
}

/* These read whole files. */
static void choose_caches(gc *g) {
    ds_gc_part *out = &g->out.caches;
    each(g, "cache", "images-", ".bin", images_used, out);
    each(g, "cache", "latents-", ".bin", latents_used, out);
    each(g, "cache", "features-", ".zst", features_used, out);
    each(g, "cache/base", "features-", ".zst", features_used, out);
    each(g, "cache/hashes", "", "", hashes_used, out);
}

static void release(gc *g) {
    for (size_t i = 0; i < g->count; i++)
        free(g->list[i].path);
    free(g->list);
    json_decref(g->facts);
    json_decref(g->images);
    free(g);
}

int ds_gc_begin(ds_daemon *d, int64_t grace_ms, int dry_run, ds_gc **out, ds_error *err) {
    gc *g = ds_xcalloc(1, sizeof *g);
    g->d = d;
    g->images = json_object();
    g->grace_ms = grace_ms;
    g->dry_run = dry_run;
    int rc = ds_cleanup_facts(d->registry, &g->facts, err);
    if (!rc)
        rc = ds_blobs_sweep_begin(d->registry, grace_ms, dry_run, &g->sweep, err);
    if (rc) {
        release(g);
        return rc;
    }
    choose_models(g);
    *out = g;
    return 0;
}

static void remove_chosen(gc *g) {
    for (size_t i = 0; i < g->count; i++) {
        const doomed *f = &g->list[i];
        if (!g->dry_run && unlink(f->path) && errno != ENOENT) {
            ds_log(DS_LOG_WARN, "cannot remove '%s': %s", f->path, strerror(errno));
            continue;
        }
        f->part->files++;
        f->part->bytes += f->bytes;
    }
}

void ds_gc_files(ds_gc *g) {
    if (g->looked) {
        ds_blobs_sweep_files(g->sweep);
        return;
    }
    g->looked = 1;
    ds_blobs_sweep_look(g->sweep);
    choose_caches(g);
    remove_chosen(g);
}

void ds_gc_caches(ds_daemon *d, json_t *facts, int64_t grace_ms, int dry_run, ds_gc_part *out) {
    gc *g = ds_xcalloc(1, sizeof *g);
    *g = (gc){.d = d,
              .facts = json_incref(facts),
              .images = json_object(),
              .grace_ms = grace_ms,
              .dry_run = dry_run};
    choose_caches(g);
    remove_chosen(g);
    *out = g->out.caches;
    release(g);
}

int ds_gc_next(ds_gc *g, ds_error *err) { return ds_blobs_sweep_take(g->sweep, err); }

int ds_gc_end(ds_gc *g, ds_gc_result *out, ds_error *err) {
    ds_sweep sweep = {0};
    int rc = ds_blobs_sweep_end(g->sweep, &sweep, err);
    *out = g->out;
    out->blobs = (ds_gc_part){sweep.removed, sweep.removed_bytes, sweep.kept_young};
    release(g);
    return rc;
}

/* ---- one file ---- */

typedef struct {
    uv_work_t work;
    ds_daemon *d;
    char path[PATH_MAX];
} removal;

static void remove_work(uv_work_t *work) {
    const removal *m = work->data;
    if (unlink(m->path) && errno != ENOENT)
        ds_log(DS_LOG_WARN, "cannot remove '%s': %s", m->path, strerror(errno));
}

static void remove_done(uv_work_t *work, int status) {
    removal *m = work->data;
    (void)status;
    m->d->removing--;
    if (!m->d->stopping)
        ds_daemon_poke(m->d);
    free(m);
}

void ds_gc_remove_model(ds_daemon *d, int nets, const char *path) {
    char dir[PATH_MAX];
    ds_models_dir(d, nets, dir);
    size_t n = strlen(dir);
    if (!path || strncmp(path, dir, n) || path[n] != '/' || strchr(path + n + 1, '/') ||
        ds_model_file_known(d->registry, path))
        return;
    removal *m = ds_xcalloc(1, sizeof *m);
    m->d = d;
    m->work.data = m;
    snprintf(m->path, sizeof m->path, "%s", path);
    d->removing++;
    uv_queue_work(&d->loop, &m->work, remove_work, remove_done);
}
