/* worker/images/scan.c - candidates -> facts -> classes -> manifest (contract in scan.h). */
#include "worker/images/scan.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "contract/job.h"
#include "worker/images/hash_cache.h"
#include "worker/images/metadata_csv.h"
#include "worker/decode/sandbox.h"
#include "worker/images/scan_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A usable picture.  path and label point into the candidates and the table. */
typedef struct {
    const char *path, *label; /* label NULL: from the path */
    int64_t size;
    char sha256[DS_HEX_SIZE];
} picture;

typedef struct {
    ds_scan_options o;
    ds_scan_result *r;
    int root_fd;
    ds_hash_cache *cache;
    ds_sandbox *sandbox; /* started for the first file that the cache does not know */
    ds_csv_table table;
    int has_table;
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
        return 0;
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
        int fd = ds_open_beneath(s->root_fd, c->path, &st, facts->reason);
        if (fd < 0)
            return 0;
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

static int take(scan *s, const ds_candidate *c) {
    ds_csv_row *row = s->has_table ? ds_csv_find(&s->table, c->path) : NULL;
    if (s->has_table && !row) {
        ds_rejected_add(&s->r->rejected, c->path, "not listed in metadata.csv");
        return 0;
    }
    if (row)
        row->used = 1;
    ds_file_facts facts = {0};
    int64_t size = 0;
    int rc = find_facts(s, c, &facts, &size);
    if (rc)
        return rc;
    if (!within_limits(s, &facts)) {
        ds_rejected_add(&s->r->rejected, c->path, "%s", facts.reason);
        return 0;
    }
    note_size(s->r, facts.info.width, facts.info.height);
    picture *p = &s->pictures[s->count++];
    p->path = c->path;
    p->label = row ? row->label : NULL;
    p->size = size;
    memcpy(p->sha256, facts.sha256, DS_HEX_SIZE);
    s->r->images++;
    s->r->bytes += size;
    return 0;
}

static void reject_unmatched_rows(scan *s) {
    for (int64_t i = 0; i < s->table.count; i++) {
        const ds_csv_row *row = &s->table.rows[i];
        if (row->used)
            continue;
        struct stat st;
        char reason[DS_REASON_SIZE];
        int fd = ds_open_beneath(s->root_fd, row->path, &st, reason);
        if (fd >= 0) {
            close(fd);
            snprintf(reason, sizeof reason, "hidden or a companion file");
        }
        ds_rejected_add(&s->r->rejected, row->path, "%s (metadata.csv line %lld)", reason,
                        (long long)row->line);
    }
}

static int read_table(scan *s) {
    struct stat st;
    char reason[DS_REASON_SIZE];
    if (faccessat(s->root_fd, "metadata.csv", F_OK, AT_SYMLINK_NOFOLLOW) && errno == ENOENT)
        return 0;
    int fd = ds_open_beneath(s->root_fd, "metadata.csv", &st, reason);
    if (fd < 0)
        return ds_fail(s->err, DS_EINVAL, "cannot use 'metadata.csv': %s", reason);
    if ((uint64_t)st.st_size > DS_CSV_MAX) {
        close(fd);
        return ds_fail(s->err, DS_EINVAL, "'metadata.csv' is larger than %zu MiB, the limit",
                       DS_CSV_MAX >> 20);
    }
    uint8_t *text = ds_xmalloc((size_t)st.st_size + 1);
    char sha256[DS_HEX_SIZE];
    int rc = ds_read_hashed(fd, text, (size_t)st.st_size, sha256, reason)
                 ? ds_fail(s->err, DS_EINVAL, "cannot use 'metadata.csv': %s", reason)
                 : ds_csv_parse(&s->table, "metadata.csv", (char *)text, (size_t)st.st_size,
                                s->o.max_files, &s->r->rejected, s->err);
    free(text);
    close(fd);
    s->has_table = !rc;
    return rc;
}

/* Class of a picture without table: its first-level folder, NULL when it lies in the root. */
static char *folder_of(const char *path) {
    const char *slash = strchr(path, '/');
    return slash ? ds_xasprintf("%.*s", (int)(slash - path), path) : NULL;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Pictures beside class folders have no class. */
static void drop_root_pictures(scan *s) {
    int64_t in_folders = 0, kept = 0;
    for (int64_t i = 0; i < s->count; i++)
        in_folders += strchr(s->pictures[i].path, '/') != NULL;
    if (s->has_table || in_folders == 0)
        return;
    for (int64_t i = 0; i < s->count; i++) {
        const picture *p = &s->pictures[i];
        if (strchr(p->path, '/')) {
            s->pictures[kept++] = *p;
            continue;
        }
        ds_rejected_add(&s->r->rejected, p->path, "not in a class folder, and other pictures are");
        s->r->bytes -= p->size;
        s->r->images--;
    }
    s->count = kept;
}

/* Names of all pictures' classes, malloc'ed. */
static char **class_names(const scan *s) {
    char **names = ds_xmalloc((size_t)(s->count + 1) * sizeof *names);
    for (int64_t i = 0; i < s->count; i++) {
        const picture *p = &s->pictures[i];
        names[i] = p->label ? ds_xstrdup(p->label) : folder_of(p->path);
        if (!names[i])
            names[i] = ds_xstrdup(s->o.dataset);
    }
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

static void write_manifest(scan *s, char *const *names) {
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
static int count_classes(scan *s, char **names) {
    ds_scan_result *r = s->r;
    int64_t lonely = 0;
    const char *first_lonely = NULL;
    qsort(names, (size_t)s->count, sizeof *names, by_name);
    int64_t n = 0;
    for (int64_t i = 0; i < s->count; i++)
        n += i == 0 || strcmp(names[i], names[i - 1]);
    if (n > s->o.max_classes)
        return ds_fail(
            s->err, DS_EINVAL,
            "the folder has %lld classes, the limit is %lld (one sub-folder is one class)",
            (long long)n, (long long)s->o.max_classes);
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
    drop_root_pictures(s);
    ds_rejected_sort(&r->rejected);
    if (r->rejected.count > r->rejected.listed)
        warn(r, "%lld files are left out, the list names %lld of them",
             (long long)r->rejected.count, (long long)r->rejected.listed);
    if (s->count == 0 && r->rejected.count == 0)
        return ds_fail(s->err, DS_EINVAL,
                       "folder '%s' has no usable image: there are no picture files", s->o.root);
    if (s->count == 0)
        return ds_fail(
            s->err, DS_EINVAL,
            "folder '%.200s' has no usable image: %lld rejected, the first '%.80s': %.100s",
            s->o.root, (long long)r->rejected.count, r->rejected.items[0].path,
            r->rejected.items[0].reason);
    char **names = class_names(s);
    write_manifest(s, names);
    int rc = count_classes(s, names);
    for (int64_t i = 0; i < s->count; i++)
        free(names[i]);
    free(names);
    return rc;
}

static int run(scan *s, ds_candidate_list *list, ds_progress_fn progress, void *user) {
    int rc = read_table(s);
    if (!rc)
        rc = ds_walk(s->root_fd, s->o.max_files, list, &s->r->rejected, progress, user, s->err);
    if (rc)
        return rc;
    s->r->ignored = list->ignored;
    s->pictures = ds_xmalloc((size_t)(list->count + 1) * sizeof *s->pictures);
    for (int64_t i = 0; i < list->count; i++) {
        if (progress && i % 64 == 0 && progress(user, i, list->count))
            return ds_fail(s->err, DS_ECANCELED, "the scan was cancelled");
        rc = take(s, &list->items[i]);
        if (rc)
            return rc;
    }
    if (progress)
        progress(user, list->count, list->count);
    reject_unmatched_rows(s);
    return summarise(s);
}

int ds_scan(const ds_scan_options *options, ds_scan_result *out, ds_progress_fn progress,
            void *user, ds_error *err) {
    double start = ds_monotonic();
    *out = (ds_scan_result){0};
    scan s = {.o = *options, .r = out, .err = err};
    DS_ASSERT(s.o.root && s.o.dataset);
    s.o.min_side = s.o.min_side > 0 ? s.o.min_side : 8;
    if (s.o.max_pixels <= 0 || s.o.max_pixels > DS_DECODE_MAX_PIXELS)
        s.o.max_pixels = DS_DECODE_MAX_PIXELS;
    s.o.max_classes = s.o.max_classes > 0 ? s.o.max_classes : 10000;
    s.o.max_files = s.o.max_files > 0 ? s.o.max_files : 10000000;
    int damaged, rc = ds_open_folder(s.o.root, !s.o.no_links, &s.root_fd, err);
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
    ds_csv_release(&s.table);
    free(s.pictures);
    close(s.root_fd);
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
