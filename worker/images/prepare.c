/* worker/images/prepare.c - manifest -> decoded, resized, cached (contract in prepare.h).
 *
 * Threads: the caller's thread starts one thread per decoder child, waits and reports progress.
 * Shared between them: `next` and `done` (atomic), the outcome of each item (written by the one
 * thread that took it), and the first error (mutex).
 */
#include "worker/images/prepare.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "worker/images/prepare_internal.h"
#include "worker/decode/sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define MANIFEST_MAX ((size_t)4 << 30)
#define CHILDREN_MAX 64

typedef struct {
    char *path, *class_name;
    int64_t size;
    char sha256[DS_HEX_SIZE];
    int32_t label;
    int ok;
    char *reason; /* malloc'ed when it was decoded and !ok */
} item;

typedef struct {
    const ds_prepare_options *o;
    char digest[DS_HEX_SIZE]; /* of the manifest */
    item *items;
    int64_t count, cap;
    const char **classes; /* sorted, unique; point into items */
    int class_count;
    ds_source *source;
    ds_images_file file;
    atomic_llong next, done;
    atomic_int stop;
    int running; /* threads; under lock */
    pthread_mutex_t lock;
    pthread_cond_t finished;
    ds_error error; /* the first; under lock */
} prepare;

static int parse_line(item *it, const char *line, size_t n, int64_t number, ds_error *err) {
    char name[64];
    snprintf(name, sizeof name, "manifest line %lld", (long long)number);
    json_t *doc;
    const char *path, *sha256, *class_name;
    *it = (item){0};
    int rc = ds_json_parse(name, line, n, &doc, err);
    if (rc)
        return rc;
    if (ds_json_need_string(doc, "path", &path, err) ||
        ds_json_need_int(doc, "size", &it->size, err) ||
        ds_json_need_string(doc, "sha256", &sha256, err) ||
        ds_json_need_string(doc, "class", &class_name, err)) {
        rc = ds_error_prefix(err, "%s", name);
    } else if (!ds_path_beneath(path) || !ds_digest_valid(sha256) || it->size < 1 ||
               it->size > DS_FILE_MAX || ds_name_problem(class_name)) {
        rc = ds_fail(err, DS_EINVAL, "%s: not an entry that a scan writes: scan the data set again",
                     name);
    } else {
        it->path = ds_xstrdup(path);
        it->class_name = ds_xstrdup(class_name);
        memcpy(it->sha256, sha256, DS_HEX_SIZE);
    }
    json_decref(doc);
    return rc;
}

static int parse_manifest(prepare *p, const char *text, size_t n, ds_error *err) {
    const char *end = text + n;
    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (!stop)
            return ds_fail(err, DS_EINVAL,
                           "'%s' is cut off, no newline at its end: scan the data set again",
                           p->o->manifest);
        if (p->count == p->cap) {
            p->cap = p->cap ? p->cap * 2 : 256;
            p->items = ds_xrealloc(p->items, (size_t)p->cap * sizeof *p->items);
        }
        if (p->count >= INT_MAX)
            return ds_fail(err, DS_EINVAL, "'%s' lists too many images", p->o->manifest);
        int rc = parse_line(&p->items[p->count], text, (size_t)(stop - text), p->count + 1, err);
        if (rc)
            return rc;
        p->count++;
        text = stop + 1;
    }
    return p->count ? 0 : ds_fail(err, DS_EINVAL, "'%s' lists no image", p->o->manifest);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void assign_labels(prepare *p) {
    p->classes = ds_xmalloc((size_t)p->count * sizeof *p->classes);
    for (int64_t i = 0; i < p->count; i++)
        p->classes[i] = p->items[i].class_name;
    qsort(p->classes, (size_t)p->count, sizeof *p->classes, by_name);
    for (int64_t i = 0; i < p->count; i++)
        if (i == 0 || strcmp(p->classes[i], p->classes[p->class_count - 1]))
            p->classes[p->class_count++] = p->classes[i];
    for (int64_t i = 0; i < p->count; i++) {
        const char **found = bsearch(&p->items[i].class_name, p->classes, (size_t)p->class_count,
                                     sizeof *p->classes, by_name);
        p->items[i].label = (int32_t)(found - p->classes);
    }
}

static void fail_all(prepare *p, const ds_error *err) {
    pthread_mutex_lock(&p->lock);
    if (!p->error.code)
        p->error = *err;
    pthread_mutex_unlock(&p->lock);
    atomic_store(&p->stop, 1);
}

/* The file as it was scanned, in the sandbox's input. */
static int load(prepare *p, const item *it, ds_sandbox *s, ds_error *err) {
    struct stat st;
    char reason[DS_REASON_SIZE], sha256[DS_HEX_SIZE];
    int rc = 0, fd = p->source->ops->open(p->source, it->path, &st, reason);
    if (fd < 0 && (rc = ds_machine_fails(it->path, err)))
        return rc;
    if (fd < 0)
        return ds_fail(err, DS_ECONFLICT,
                       "'%s' changed since it was scanned: %s; add the dataset again", it->path,
                       reason);
    if (st.st_size != it->size)
        rc = ds_fail(
            err, DS_ECONFLICT,
            "'%s' changed since it was scanned: %lld bytes, not %lld; add the dataset again",
            it->path, (long long)st.st_size, (long long)it->size);
    else if (ds_read_hashed(fd, ds_sandbox_input(s), (size_t)it->size, sha256, reason))
        rc = ds_machine_fails(it->path, err)
                 ? err->code
                 : ds_fail(err, DS_ECONFLICT,
                           "'%s' changed since it was scanned: %s; add the dataset again", it->path,
                           reason);
    else if (strcmp(sha256, it->sha256))
        rc = ds_fail(err, DS_ECONFLICT,
                     "'%s' changed since it was scanned: other content; add the dataset again",
                     it->path);
    close(fd);
    return rc;
}

static int decode_one(prepare *p, int64_t i, ds_sandbox *s, ds_error *err) {
    item *it = &p->items[i];
    ds_sandbox_reply reply;
    int rc = load(p, it, s, err);
    if (!rc)
        rc = ds_sandbox_run(s, DS_SANDBOX_SQUARE, DS_DECODE_TRAIN, (size_t)it->size, p->o->side,
                            DS_DECODE_MAX_PIXELS, &reply, err);
    if (rc)
        return rc == DS_ECONFLICT ? rc : ds_error_prefix(err, "'%s'", it->path);
    it->ok = reply.ok;
    if (reply.ok)
        memcpy(ds_images_slot(&p->file, i), ds_sandbox_output(s), p->file.image_size);
    else
        it->reason = ds_xstrdup(reply.reason);
    return 0;
}

static void *decoder(void *arg) {
    prepare *p = arg;
    ds_error err = {0};
    ds_sandbox *s = NULL;
    ds_sandbox_options so = {.program = p->o->program};
    int rc = ds_sandbox_open(&s, &so, &err);
    while (!rc && !atomic_load(&p->stop)) {
        int64_t i = atomic_fetch_add(&p->next, 1);
        if (i >= p->count)
            break;
        rc = decode_one(p, i, s, &err);
        atomic_fetch_add(&p->done, 1);
    }
    if (rc)
        fail_all(p, &err);
    ds_sandbox_close(s);
    pthread_mutex_lock(&p->lock);
    p->running--;
    pthread_cond_signal(&p->finished);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void wait_for(prepare *p, ds_progress *progress, void *user) {
    pthread_mutex_lock(&p->lock);
    while (p->running > 0) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += 100000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_clockwait(&p->finished, &p->lock, CLOCK_MONOTONIC, &until);
        pthread_mutex_unlock(&p->lock);
        if (ds_progress_say(progress, user, atomic_load(&p->done), p->count)) {
            ds_error cancelled;
            ds_fail(&cancelled, DS_ECANCELED, "preparing images was cancelled");
            fail_all(p, &cancelled);
        }
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
}

static int decode_all(prepare *p, ds_progress *progress, void *user, ds_error *err) {
    pthread_t threads[CHILDREN_MAX];
    int want = p->o->children > 0 ? p->o->children : 2, started = 0;
    want = want > CHILDREN_MAX ? CHILDREN_MAX : want;
    want = (int64_t)want > p->count ? (int)p->count : want;
    int rc = p->source ? 0 : ds_source_folder_open(&p->source, p->o->root, !p->o->no_links, err);
    if (rc)
        return rc;
    p->running = want;
    for (; started < want; started++)
        if (pthread_create(&threads[started], NULL, decoder, p))
            break;
    if (started < want) {
        pthread_mutex_lock(&p->lock);
        p->running -= want - started;
        pthread_mutex_unlock(&p->lock);
    }
    wait_for(p, progress, user);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (!started)
        return ds_fail(err, DS_ENOMEM, "cannot start a thread to decode images");
    return p->error.code ? ds_fail(err, p->error.code, "%s", p->error.message) : 0;
}

static json_t *make_meta(const prepare *p, const ds_rejected_list *rejected) {
    json_t *classes = json_array(), *list = json_array();
    for (int i = 0; i < p->class_count; i++)
        json_array_append_new(classes, json_string(p->classes[i]));
    for (int64_t i = 0; i < rejected->listed; i++)
        json_array_append_new(list, json_pack("{s:s, s:s}", "path", rejected->items[i].path,
                                              "reason", rejected->items[i].reason));
    return json_pack("{s:o, s:o, s:I, s:s, s:s}", "classes", classes, "rejected", list,
                     "rejected_count", (json_int_t)rejected->count, "manifest", p->digest,
                     "prepare", DS_PREPARE_ID);
}

/* Close the gaps that rejected pictures left, then write. */
static int finish(prepare *p, const char *key, ds_error *err) {
    int32_t *labels = ds_xmalloc((size_t)p->count * sizeof *labels);
    uint32_t *lines = ds_xmalloc((size_t)p->count * sizeof *lines);
    ds_rejected_list rejected = {0};
    int n = 0;
    for (int64_t i = 0; i < p->count; i++) {
        const item *it = &p->items[i];
        if (!it->ok) {
            ds_rejected_add(&rejected, it->path, "%s", it->reason);
            continue;
        }
        if (n < i)
            memcpy(ds_images_slot(&p->file, n), ds_images_slot(&p->file, i), p->file.image_size);
        labels[n] = it->label;
        lines[n++] = (uint32_t)i;
    }
    int rc;
    if (n == 0) {
        rc = ds_fail(err, DS_EINVAL, "no image of '%s' can be decoded, the first '%s': %s",
                     p->source->name, rejected.items[0].path, rejected.items[0].reason);
    } else {
        json_t *meta = make_meta(p, &rejected);
        rc = ds_images_finish(&p->file, key, n, p->o->side, p->o->channels, labels, lines, meta,
                              err);
        json_decref(meta);
    }
    ds_rejected_release(&rejected);
    free(labels);
    free(lines);
    return rc;
}

/* Temporary files of processes that were killed: nobody holds their lock any more. */
static void remove_leftovers(const char *dir_path) {
    DIR *dir = opendir(dir_path);
    if (!dir)
        return;
    for (struct dirent *d; (d = readdir(dir));) {
        size_t n = strlen(d->d_name);
        if (strncmp(d->d_name, "images-", 7) || n < 4 || strcmp(d->d_name + n - 4, ".tmp"))
            continue;
        int fd = openat(dirfd(dir), d->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (!flock(fd, LOCK_EX | LOCK_NB))
            unlinkat(dirfd(dir), d->d_name, 0);
        close(fd);
    }
    closedir(dir);
}

static int build(const ds_prepare_options *o, prepare *p, const char *path, const char *key,
                 ds_progress *progress, void *user, ds_error *err) {
    size_t image_size = (size_t)o->side * (size_t)o->side * (size_t)o->channels;
    assign_labels(p);
    remove_leftovers(o->cache_dir);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->finished, NULL);
    int rc = ds_images_create(&p->file, path, p->count, image_size, err);
    if (!rc)
        rc = decode_all(p, progress, user, err);
    if (!rc)
        rc = finish(p, key, err);
    ds_images_abandon(&p->file);
    if (!o->source)
        ds_source_close(p->source);
    pthread_cond_destroy(&p->finished);
    pthread_mutex_destroy(&p->lock);
    return rc;
}

static void make_key(char key[DS_HEX_SIZE], const char *digest, const ds_prepare_options *o) {
    char *text = ds_xasprintf("%s %d %d %s %s", digest, o->side, o->channels, DS_PREPARE_ID,
                              ds_decode_id(DS_DECODE_TRAIN));
    ds_digest(text, strlen(text), key);
    free(text);
}

static int open_or_build(ds_images **out, const ds_prepare_options *o, const char *text, size_t n,
                         ds_progress *progress, void *user, ds_error *err) {
    prepare p = {.o = o, .source = o->source, .file = {.fd = -1}};
    char key[DS_HEX_SIZE], path[PATH_MAX];
    ds_error why = {0};
    ds_digest(text, n, p.digest);
    make_key(key, p.digest, o);
    int len = snprintf(path, sizeof path, "%s/images-%.32s.bin", o->cache_dir, key);
    if (len < 0 || (size_t)len >= sizeof path)
        return ds_fail(
            err, DS_EINVAL,
            "cache folder '%.100s...': path too long: use a state folder with a shorter one",
            o->cache_dir);
    if (!ds_images_open(out, path, key, &why)) {
        (*out)->from_cache = 1;
        return 0;
    }
    int rc = parse_manifest(&p, text, n, err);
    if (!rc)
        rc = build(o, &p, path, key, progress, user, err);
    for (int64_t i = 0; i < p.count; i++) {
        free(p.items[i].path);
        free(p.items[i].class_name);
        free(p.items[i].reason);
    }
    free(p.items);
    free(p.classes);
    if (!rc)
        rc = ds_images_open(out, path, key, err);
    if (!rc)
        (*out)->cache_was_damaged = why.code == DS_EINTEGRITY;
    return rc;
}

int ds_prepare_open(ds_images **out, const ds_prepare_options *o, ds_progress *progress, void *user,
                    ds_error *err) {
    *out = NULL;
    if (o->channels != 3)
        return ds_fail(err, DS_EINVAL, "images are prepared with 3 channels, not %d", o->channels);
    if (o->side < 1 || o->side > DS_SANDBOX_MAX_SIDE)
        return ds_fail(err, DS_EINVAL, "images are prepared with a side of 1 to %d, not %d",
                       DS_SANDBOX_MAX_SIDE, o->side);
    char *text;
    size_t n;
    int rc = ds_fs_read(o->manifest, MANIFEST_MAX, &text, &n, err);
    if (rc)
        return rc;
    rc = ds_fs_mkdirs(o->cache_dir, err);
    if (!rc)
        rc = open_or_build(out, o, text, n, progress, user, err);
    free(text);
    return rc;
}
