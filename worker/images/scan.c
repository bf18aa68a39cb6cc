/* worker/images/scan.c - candidates -> facts -> classes -> manifest (contract in scan.h). */
#include "worker/images/scan.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "contract/job.h"
#include "worker/images/hash_cache.h"
#include "worker/decode/sandbox.h"
#include "worker/images/source.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A usable picture.  path points into the candidates. */
typedef struct {
    const char *path;
    char *label; /* owned; NULL: the source has none for it */
    int64_t size;
    char sha256[DS_HEX_SIZE];
} picture;

typedef struct {
    ds_scan_options o;
    ds_scan_result *r;
    ds_source *source;
    ds_hash_cache *cache;
    ds_sandbox *sandbox; /* started for the first file that the cache does not know */
    picture *pictures;
    int64_t count;
    ds_error *err;
} scan;

__attribute__((format(printf, 2, 3))) static void warn(ds_scan_result *r, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r->warnings = ds_xrealloc(r->warnings, (size_t)(r->warning_count + 1) * sizeof *r->warnings);
    r->warnings[r->warning_count++] = ds_name_escape(text);
}

/* Hash and header of an opened file.  Returns negative only when the job cannot go on. */
static int examine(scan *s, const char *path, int fd, const struct stat *st, ds_file_facts *facts) {
    ds_sandbox_options so = {.program = s->o.program};
    if (!s->sandbox) {
        int rc = ds_sandbox_open(&s->sandbox, &so, s->err);
        if (rc)
            return rc;
    }
    int64_t read_at = ds_hash_cache_now();
    facts->ok = 0;
    if (ds_read_hashed(fd, ds_sandbox_input(s->sandbox), (size_t)st->st_size, facts->sha256,
                       facts->reason))
        return ds_machine_fails(path, s->err);
    ds_sandbox_reply reply;
    int rc = ds_sandbox_run(s->sandbox, DS_SANDBOX_HEADER, DS_DECODE_TRAIN, (size_t)st->st_size, 0,
                            0, &reply, s->err);
    if (rc)
        return ds_error_prefix(s->err, "'%s'", path);
    facts->ok = reply.ok;
    facts->info = reply.info;
    snprintf(facts->reason, sizeof facts->reason, "%s", reply.reason);
    s->r->hashed++;
    ds_hash_cache_put(s->cache, st, facts, read_at);
    return 0;
}

/* What is known of the candidate, from the cache or from the file; *size is the picture's. */
static int find_facts(scan *s, const ds_candidate *c, ds_file_facts *facts, int64_t *size) {
    struct stat st = c->st;
    int known = S_ISREG(st.st_mode) && ds_hash_cache_find(s->cache, &st, facts), rc = 0;
    if (!known) {
        facts->ok = 0;
        int fd = s->source->ops->open(s->source, c->path, &st, facts->reason);
        if (fd < 0)
            return ds_machine_fails(c->path, s->err);
        known = ds_hash_cache_find(s->cache, &st, facts); /* through a link */
        if (!known && st.st_size == 0)
            snprintf(facts->reason, sizeof facts->reason, "empty file");
        else if (!known && st.st_size > DS_FILE_MAX)
            snprintf(facts->reason, sizeof facts->reason, "file larger than %u MiB",
                     DS_FILE_MAX >> 20);
        else if (!known)
            rc = examine(s, c->path, fd, &st, facts);
        close(fd);
    }
    s->r->cached += known;
    *size = (int64_t)st.st_size;
    return rc;
}

static int within_limits(scan *s, ds_file_facts *facts) {
    int w = facts->info.width, h = facts->info.height;
    if (!facts->ok)
        return 0;
    if (w < s->o.min_side || h < s->o.min_side) {
        snprintf(facts->reason, sizeof facts->reason,
                 "too small: %d x %d pixels, the shorter side must be at least %d", w, h,
                 s->o.min_side);
        return 0;
    }
    if ((int64_t)w * h > s->o.max_pixels) {
        snprintf(facts->reason, sizeof facts->reason,
                 "too large: %d x %d pixels, the limit is %lld pixels", w, h,
                 (long long)s->o.max_pixels);
        return 0;
    }
    return 1;
}

static void note_size(ds_scan_result *r, int w, int h) {
    int first = r->images == 0;
    r->min_width = first || w < r->min_width ? w : r->min_width;
    r->max_width = w > r->max_width ? w : r->max_width;
    r->min_height = first || h < r->min_height ? h : r->min_height;
    r->max_height = h > r->max_height ? h : r->max_height;
}

/* Its class, where it is one to be trained on; 0: it is left out. */
static int belongs(scan *s, const ds_candidate *c, char **label) {
    char reason[DS_REASON_SIZE];
    *label = NULL;
    if (s->source->ops->label(s->source, c->path, label, reason)) {
        ds_rejected_add(&s->r->rejected, c->path, "%s", reason);
        return 0;
    }
    const char *part = s->source->ops->split(s->source, c->path);
    if (part)
        ds_rejected_add(&s->r->rejected, c->path, "of the part '%s', which is not trained on",
                        part);
    return !part;
}

static int take(scan *s, const ds_candidate *c) {
    char *label;
    ds_file_facts facts = {0};
    int64_t size = 0;
    int rc = 0, used = belongs(s, c, &label);
    if (used && !(rc = find_facts(s, c, &facts, &size)) && !within_limits(s, &facts)) {
        ds_rejected_add(&s->r->rejected, c->path, "%s", facts.reason);
        used = 0;
    }
    if (rc || !used) {
        free(label);
        return rc;
    }
    note_size(s->r, facts.info.width, facts.info.height);
    picture *p = &s->pictures[s->count++];
    p->path = c->path;
    p->label = label;
    p->size = size;
    memcpy(p->sha256, facts.sha256, DS_HEX_SIZE);
    s->r->images++;
    s->r->bytes += size;
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Pictures without a class beside others that have one. */
static void drop_unlabelled(scan *s) {
    int64_t labelled = 0, kept = 0;
    for (int64_t i = 0; i < s->count; i++)
        labelled += s->pictures[i].label != NULL;
    if (labelled == 0)
        return;
    for (int64_t i = 0; i < s->count; i++) {
        const picture *p = &s->pictures[i];
        if (p->label) {
            s->pictures[kept++] = *p;
            continue;
        }
        ds_rejected_add(&s->r->rejected, p->path, "%s", s->source->no_label);
        s->r->bytes -= p->size;
        s->r->images--;
    }
    s->count = kept;
}

/* Names of all pictures' classes, borrowed; the array is malloc'ed. */
static const char **class_names(const scan *s) {
    const char **names = ds_xmalloc((size_t)(s->count + 1) * sizeof *names);
    for (int64_t i = 0; i < s->count; i++)
        names[i] = s->pictures[i].label ? s->pictures[i].label : s->o.dataset;
    return names;
}

static void json_text(ds_buf *b, const char *s) {
    ds_buf_add(b, "\"", 1);
    for (; *s; s++) { /* control characters were rejected before */
        if (*s == '"' || *s == '\\')
            ds_buf_add(b, "\\", 1);
        ds_buf_add(b, s, 1);
    }
    ds_buf_add(b, "\"", 1);
}

static void write_manifest(scan *s, const char *const *names) {
    ds_buf b = {0};
    for (int64_t i = 0; i < s->count; i++) {
        const picture *p = &s->pictures[i];
        ds_buf_addf(&b, "{\"path\":");
        json_text(&b, p->path);
        ds_buf_addf(&b, ",\"size\":%lld,\"sha256\":\"%s\",\"class\":", (long long)p->size,
                    p->sha256);
        json_text(&b, names[i]);
        ds_buf_addf(&b, "}\n");
    }
    s->r->manifest = b.data;
    s->r->manifest_size = b.len;
    ds_digest(b.data, b.len, s->r->tree_digest);
}

/* names: one per picture; sorted here. */
static int count_classes(scan *s, const char **names) {
    ds_scan_result *r = s->r;
    int64_t lonely = 0;
    const char *first_lonely = NULL;
    qsort(names, (size_t)s->count, sizeof *names, by_name);
    int64_t n = 0;
    for (int64_t i = 0; i < s->count; i++)
        n += i == 0 || strcmp(names[i], names[i - 1]);
    if (n > s->o.max_classes)
        return ds_fail(s->err, DS_EINVAL, "the %s has %lld classes, the limit is %lld (%s)",
                       s->source->kind, (long long)n, (long long)s->o.max_classes,
                       s->source->classes_are);
    r->classes = ds_xcalloc((size_t)n, sizeof *r->classes);
    for (int64_t i = 0; i < s->count; i++) {
        if (i == 0 || strcmp(names[i], names[i - 1]))
            r->classes[r->class_count++].name = ds_xstrdup(names[i]);
        r->classes[r->class_count - 1].images++;
    }
    for (int64_t i = 0; i < n; i++) {
        if (r->classes[i].images == 1 && !lonely++)
            first_lonely = r->classes[i].name;
    }
    if (r->images < DS_IMAGES_FOR_KID)
        warn(r, "%lld image%s: FD needs %d at least, KID %d", (long long)r->images,
             r->images == 1 ? "" : "s", DS_IMAGES_FOR_FD, DS_IMAGES_FOR_KID);
    if (lonely)
        warn(r, "%lld of %lld class%s one image only, the first is '%s'", (long long)lonely,
             (long long)n, n == 1 ? " has" : "es have", first_lonely);
    return 0;
}

static int summarise(scan *s) {
    ds_scan_result *r = s->r;
    drop_unlabelled(s);
    ds_rejected_sort(&r->rejected);
    if (r->rejected.count > r->rejected.listed)
        warn(r, "%lld files are left out, the list names %lld of them",
             (long long)r->rejected.count, (long long)r->rejected.listed);
    if (s->count == 0 && r->rejected.count == 0)
        return ds_fail(s->err, DS_EINVAL, "%s '%s' has no usable image: there are no picture files",
                       s->source->kind, s->source->name);
    if (s->count == 0)
        return ds_fail(s->err, DS_EINVAL,
                       "%s '%.200s' has no usable image: %lld rejected, the first '%.80s': %.100s",
                       s->source->kind, s->source->name, (long long)r->rejected.count,
                       r->rejected.items[0].path, r->rejected.items[0].reason);
    const char **names = class_names(s);
    write_manifest(s, names);
    int rc = count_classes(s, names);
    free(names);
    return rc;
}

static int run(scan *s, ds_candidate_list *list, ds_progress *progress, void *user) {
    ds_source_walk walk = {s->o.max_files, &s->r->rejected, progress, user};
    int rc = s->source->ops->list(s->source, &walk, list, s->err);
    if (rc)
        return rc;
    s->r->ignored = list->ignored;
    s->pictures = ds_xmalloc((size_t)(list->count + 1) * sizeof *s->pictures);
    for (int64_t i = 0; i < list->count; i++) {
        if (i % 64 == 0 && ds_progress_say(progress, user, i, list->count))
            return ds_fail(s->err, DS_ECANCELED, "the scan was cancelled");
        rc = take(s, &list->items[i]);
        if (rc)
            return rc;
    }
    ds_progress_say(progress, user, list->count, list->count);
    s->source->ops->unused(s->source, &s->r->rejected);
    return summarise(s);
}

int ds_scan(const ds_scan_options *options, ds_scan_result *out, ds_progress *progress, void *user,
            ds_error *err) {
    double start = ds_monotonic();
    *out = (ds_scan_result){0};
    scan s = {.o = *options, .r = out, .err = err};
    DS_ASSERT((s.o.root || s.o.source) && s.o.dataset);
    s.o.min_side = s.o.min_side > 0 ? s.o.min_side : 8;
    if (s.o.max_pixels <= 0 || s.o.max_pixels > DS_DECODE_MAX_PIXELS)
        s.o.max_pixels = DS_DECODE_MAX_PIXELS;
    s.o.max_classes = s.o.max_classes > 0 ? s.o.max_classes : 10000;
    s.o.max_files = s.o.max_files > 0 ? s.o.max_files : 10000000;
    s.source = s.o.source;
    int damaged, rc = s.source ? 0 : ds_source_folder_open(&s.source, s.o.root, !s.o.no_links, err);
    if (rc)
        return rc;
    s.cache = ds_hash_cache_open(s.o.hash_cache, &damaged);
    if (damaged)
        warn(out, "the hash cache '%s' was damaged and is made anew", s.o.hash_cache);
    ds_candidate_list list = {0};
    rc = run(&s, &list, progress, user);
    ds_error cache_error;
    if (ds_hash_cache_save(s.cache, &cache_error)) /* the next scan is slower, nothing else */
        warn(out, "the hash cache was not saved: %s", cache_error.message);
    ds_hash_cache_close(s.cache);
    ds_sandbox_close(s.sandbox);
    ds_candidates_release(&list);
    for (int64_t i = 0; i < s.count; i++)
        free(s.pictures[i].label);
    free(s.pictures);
    if (!s.o.source)
        ds_source_close(s.source);
    out->seconds = ds_monotonic() - start;
    return rc;
}

void ds_scan_release(ds_scan_result *r) {
    for (int64_t i = 0; i < r->class_count; i++)
        free(r->classes[i].name);
    for (int i = 0; i < r->warning_count; i++)
        free(r->warnings[i]);
    free(r->classes);
    free(r->warnings);
    free(r->manifest);
    ds_rejected_release(&r->rejected);
    *r = (ds_scan_result){0};
}

json_t *ds_scan_result_json(const ds_scan_result *r) {
    json_t *classes = json_array(), *rejected = json_array(), *warnings = json_array();
    for (int64_t i = 0; i < r->class_count; i++)
        json_array_append_new(classes, json_pack("{s:s, s:I}", "name", r->classes[i].name, "images",
                                                 (json_int_t)r->classes[i].images));
    for (int64_t i = 0; i < r->rejected.listed; i++)
        json_array_append_new(rejected, json_pack("{s:s, s:s}", "path", r->rejected.items[i].path,
                                                  "reason", r->rejected.items[i].reason));
    for (int i = 0; i < r->warning_count; i++)
        json_array_append_new(warnings, json_string(r->warnings[i]));
    return json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:o, s:o, s:I, s:{s:i, s:i}, s:{s:i, s:i}, s:f, "
        "s:I, s:I, s:I, s:o}",
        "schema", DS_SCHEMA_SCAN, "tree_digest", r->tree_digest, "manifest", DS_FILE_MANIFEST,
        "images", (json_int_t)r->images, "bytes", (json_int_t)r->bytes, "classes", classes,
        "rejected", rejected, "rejected_count", (json_int_t)r->rejected.count, "width", "min",
        r->min_width, "max", r->max_width, "height", "min", r->min_height, "max", r->max_height,
        "seconds", r->seconds, "hashed", (json_int_t)r->hashed, "cached", (json_int_t)r->cached,
        "ignored", (json_int_t)r->ignored, "warnings", warnings);
}
