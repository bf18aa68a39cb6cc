/* engine/files/weights.c - finding and opening weight files: one file, shards, a folder.
 *
 * The PyTorch formats are in weights_torch.c, reading of tensors is in weights_read.c. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/files/foreign_config.h"
#include "engine/files/weights_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { NAME_MAX_BYTES = 256, INDEX_MAX = 32 << 20, CONFIG_MAX = 4 << 20 };

/* ---------------------------------------------------------------- the list of tensors */

static int name_ok(const char *name, size_t n) {
    if (!n || n > NAME_MAX_BYTES)
        return 0;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || (unsigned char)name[i] > 0x7e)
            return 0;
    return 1;
}

static char *too_large(void) {
    return ds_xasprintf("larger than %llu GiB", (unsigned long long)(DS_WEIGHTS_TENSOR_MAX >> 30));
}

int ds_weights_add(ds_weights *w, const char *name, size_t n, const ds_weights_item *item,
                   const int64_t *stride, ds_error *err) {
    const char *path = w->parts[item->part].path;
    if (!name_ok(name, n)) {
        w->odd_names++;
        return 0;
    }
    if (w->count == DS_ST_TENSORS_MAX)
        return ds_fail(err, DS_ELIMIT, "'%.200s' has more than %d tensors", path,
                       DS_ST_TENSORS_MAX);
    uint64_t count = 1, bytes;
    for (int i = 0; i < item->t.ndim; i++)
        if (__builtin_mul_overflow(count, (uint64_t)item->t.shape[i], &count))
            count = UINT64_MAX;
    int large = __builtin_mul_overflow(count, (uint64_t)ds_st_dtype_size(item->t.dtype), &bytes) ||
                bytes > DS_WEIGHTS_TENSOR_MAX;
    if (w->count == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 512;
        w->items = ds_xrealloc(w->items, w->cap * sizeof *w->items);
    }
    ds_weights_item *it = &w->items[w->count];
    *it = *item;
    it->order = (uint32_t)w->count++;
    it->t.name = ds_xasprintf("%.*s", (int)n, name);
    it->what = item->what ? ds_xstrdup(item->what) : large ? too_large() : NULL;
    it->t.count = it->what ? 0 : (size_t)count;
    it->t.bytes = it->what ? 0 : (size_t)bytes;
    int64_t expected = 1;
    for (int i = it->t.ndim - 1; stride && count && !it->what && i >= 0; i--) {
        it->stride[i] = stride[i];
        if (it->t.shape[i] > 1 && stride[i] != expected)
            it->strided = 1;
        expected *= it->t.shape[i] ? it->t.shape[i] : 1;
    }
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const ds_weights_item *)a)->t.name, ((const ds_weights_item *)b)->t.name);
}

int ds_weights_sort(ds_weights *w, ds_error *err) {
    qsort(w->items, w->count, sizeof *w->items, by_name);
    for (size_t i = 1; i < w->count; i++)
        if (!by_name(&w->items[i - 1], &w->items[i]))
            return ds_fail(err, DS_EINVAL, "'%.200s' has two tensors that are both called '%s'",
                           w->path, w->items[i].t.name);
    return 0;
}

/* ---------------------------------------------------------------- one file */

int ds_weights_pread(const ds_weights_part *part, uint64_t at, void *dst, size_t n, ds_error *err) {
    char *p = dst;
    while (n) {
        ssize_t got = pread(part->fd, p, n < (size_t)1 << 30 ? n : (size_t)1 << 30, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ds_fail_errno(err, "cannot read '%s'", part->path);
        if (!got)
            return ds_fail(err, DS_EINTEGRITY, "'%.200s' ends before its data do", part->path);
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

static int open_part(ds_weights *w, const char *path, int *index, ds_error *err) {
    if (w->part_count == DS_WEIGHTS_SHARDS_MAX)
        return ds_fail(err, DS_ELIMIT, "'%.200s' has more than %d files", w->path,
                       DS_WEIGHTS_SHARDS_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    w->parts = ds_xrealloc(w->parts, ((size_t)w->part_count + 1) * sizeof *w->parts);
    ds_weights_part *p = &w->parts[w->part_count];
    *p = (ds_weights_part){.path = ds_xstrdup(path), .fd = fd};
    *index = w->part_count++;
    if (fstat(fd, &p->sb))
        return ds_fail_errno(err, "cannot read '%s'", path);
    if (!S_ISREG(p->sb.st_mode))
        return ds_fail(err, DS_EINVAL, "cannot read '%.200s': not a plain file", path);
    return 0;
}

/* only: JSON object name -> file name of an index, or NULL; file: the name this shard has there. */
static int add_safetensors(ds_weights *w, int index, const json_t *only, const char *file,
                           ds_error *err) {
    ds_weights_part *p = &w->parts[index];
    size_t size = (size_t)p->sb.st_size;
    void *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, p->fd, 0);
    if (map == MAP_FAILED)
        return ds_fail_errno(err, "cannot map '%s'", p->path);
    int rc = ds_st_open_memory(p->path, map, size, &p->st, err);
    for (size_t i = 0; !rc && i < ds_st_count(p->st); i++) {
        const ds_st_tensor *t = ds_st_at(p->st, i);
        const char *in = json_string_value(json_object_get(only, t->name));
        if (only && (!in || strcmp(in, file)))
            continue;
        ds_weights_item item = {.part = index,
                                .entry = -1,
                                .at = (uint64_t)((const char *)t->data - (const char *)map),
                                .t = {.dtype = t->dtype, .ndim = t->ndim}};
        memcpy(item.t.shape, t->shape, sizeof item.t.shape);
        if (t->dtype == DS_ST_OTHER)
            item.what = ds_xasprintf("of type %.40s", t->type);
        rc = ds_weights_add(w, t->name, strlen(t->name), &item, NULL, err);
        free(item.what);
    }
    munmap(map, size); /* the header is parsed; data come by pread */
    if (!rc && !w->args)
        w->args = ds_weights_meta_args(p->st);
    return rc;
}

/* torch.distributed.checkpoint writes a folder: pieces in files of its own, and .metadata. */
static int distributed(const char *dir, const char *path, ds_error *err) {
    char *metadata = ds_xasprintf("%s/.metadata", dir);
    int is = ds_fs_exists(metadata);
    free(metadata);
    return is ? ds_fail(err, DS_EINVAL,
                        "'%.160s' is a checkpoint of torch.distributed in pieces, which are not "
                        "read: join them: python3 -m torch.distributed.checkpoint.format_utils "
                        "dcp_to_torch DIR OUT.pt",
                        path)
              : 0;
}

static int unknown_file(const ds_weights_part *p, const uint8_t *head, ds_error *err) {
    if (!memcmp(head, "version http", 12))
        return ds_fail(
            err, DS_EINVAL,
            "'%.200s' is a pointer of Git LFS, not the file itself: fetch it with 'git lfs pull'",
            p->path);
    if (head[0] == '<')
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' is a web page, not a file of weights: download it again", p->path);
    if (head[0] == 0x1f && head[1] == 0x8b)
        return ds_fail(err, DS_EINVAL, "'%.200s' is packed with gzip: unpack it first", p->path);
    return ds_fail(err, DS_EINVAL,
                   "'%.200s' is not a file of weights: expected safetensors or a PyTorch "
                   "checkpoint (.pt, .pth, .bin)",
                   p->path);
}

/* By what the file begins with; names and endings prove nothing. */
static int add_file(ds_weights *w, const char *path, const json_t *only, const char *file,
                    ds_error *err) {
    uint8_t head[16] = {0};
    int index = 0, rc = open_part(w, path, &index, err);
    if (rc)
        return rc;
    ds_weights_part *p = &w->parts[index];
    const char *end = strrchr(path, '/');
    if ((ds_fs_ends_with(path, ".distcp") || (end && !strcmp(end, "/.metadata"))) &&
        (rc = distributed(w->dir, path, err)))
        return rc;
    if (p->sb.st_size < (off_t)sizeof head)
        return ds_fail(err, DS_EINTEGRITY, "'%.200s' is not a file of weights: it has %lld bytes",
                       path, (long long)p->sb.st_size);
    if ((rc = ds_weights_pread(p, 0, head, sizeof head, err)))
        return rc;
    if (!memcmp(head, "PK\3\4", 4)) {
        w->format = "PyTorch zip";
        return ds_weights_open_zip(w, index, err);
    }
    if (head[0] == 0x80 && head[1] >= 2 && head[1] <= 5) {
        w->format = "PyTorch pickle";
        return ds_weights_open_legacy(w, index, err);
    }
    if (head[8] != '{') /* of a safetensors file: 8 bytes of length, then JSON */
        return unknown_file(p, head, err);
    w->format = only ? "safetensors shards" : "safetensors";
    return add_safetensors(w, index, only, file, err);
}

/* ---------------------------------------------------------------- shards */

static int plain_name(const char *s) {
    return *s && *s != '.' && !strchr(s, '/') && strlen(s) < 200;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Distinct file names of a weight_map, sorted; malloc'ed list. */
static int shard_files(const char *path, const json_t *map, const char ***files, size_t *count,
                       ds_error *err) {
    const char *key;
    json_t *v;
    size_t n = 0;
    if (!json_is_object(map) || !json_object_size(map) || json_object_size(map) > DS_ST_TENSORS_MAX)
        return ds_fail(err, DS_EINTEGRITY, "'%.200s' has no usable weight_map", path);
    const char **list = ds_xcalloc(json_object_size(map), sizeof *list);
    json_object_foreach((json_t *)(uintptr_t)map, key, v) {
        const char *file = json_string_value(v);
        if (!file || !plain_name(file)) {
            free(list);
            return ds_fail(err, DS_EINTEGRITY,
                           "'%.200s': the file of tensor '%.120s' is not a plain file name", path,
                           key);
        }
        list[n++] = file;
    }
    qsort(list, n, sizeof *list, by_text);
    *count = 1;
    for (size_t i = 1; i < n; i++)
        if (strcmp(list[i], list[*count - 1]))
            list[(*count)++] = list[i];
    *files = list;
    return 0;
}

static int open_index(ds_weights *w, const char *path, ds_error *err) {
    json_t *doc;
    const char **files = NULL;
    size_t count = 0;
    int rc = ds_json_read_file(path, INDEX_MAX, &doc, err);
    if (rc)
        return rc;
    const json_t *map = json_object_get(doc, "weight_map");
    rc = shard_files(path, map, &files, &count, err);
    for (size_t i = 0; !rc && i < count; i++) {
        char *full = ds_xasprintf("%s/%s", w->dir, files[i]);
        size_t before = w->count;
        rc = add_file(w, full, map, files[i], err);
        if (!rc && w->count == before)
            rc = ds_fail(err, DS_EINTEGRITY,
                         "'%.200s' has none of the tensors that the index promises", full);
        free(full);
    }
    free(files);
    size_t tensors = 0;
    for (size_t i = 0; i < w->count; i++)
        tensors += !w->items[i].object;
    if (!rc && tensors != json_object_size(map))
        rc = ds_fail(err, DS_EINTEGRITY,
                     "'%.200s' promises %zu tensors, its files have %zu of them: some are missing",
                     path, json_object_size(map), tensors);
    json_decref(doc);
    return rc;
}

/* ---------------------------------------------------------------- folders */

static int is_index(const char *name) {
    return strstr(name, ".index.") && ds_fs_ends_with(name, ".json");
}

/* Is name `known` with one part more, a variant: "model.fp16.safetensors", and of an index
 * "model.safetensors.index.fp16.json" as well as the older "model.fp16.safetensors.index.json" and
 * "model.safetensors.fp16.index.json"?  Shards are none. */
static int is_variant(const char *name, const char *known) {
    size_t n = strlen(name), m = strlen(known);
    if (n < m + 2 || strstr(name, "-of-"))
        return 0;
    for (size_t at = 0; at < m; at++) /* the part goes in front of a '.' */
        if (known[at] == '.' && !strncmp(name, known, at) && name[at] == '.' &&
            !strcmp(name + at + (n - m), known + at) && !memchr(name + at + 1, '.', n - m - 1))
            return 1;
    return 0;
}

/* Rank of a file name as the weights of a folder; 0 = none. */
static int rank_of(const char *name) {
    static const char *const known[] = {"diffusion_pytorch_model.safetensors.index.json",
                                        "diffusion_pytorch_model.safetensors",
                                        "model.safetensors.index.json",
                                        "model.safetensors",
                                        "diffusion_pytorch_model.bin.index.json",
                                        "diffusion_pytorch_model.bin",
                                        "pytorch_model.bin.index.json",
                                        "pytorch_model.bin"};
    enum { KNOWN = sizeof known / sizeof known[0] };
    for (int i = 0; i < KNOWN; i++)
        if (!strcmp(name, known[i]))
            return 2 + 2 * KNOWN - i;
    for (int i = 0; i < KNOWN; i++)
        if (is_variant(name, known[i]))
            return 2 + KNOWN - i;
    static const char *const endings[] = {".safetensors", ".pt", ".pth", ".bin", ".ckpt"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
        if (name[0] != '.' && ds_fs_ends_with(name, endings[i]))
            return 1;
    return name[0] != '.' && is_index(name);
}

/* The weight file of a folder: the best known name, else the only candidate.  *out malloc'ed; NULL
 * when the folder has none. */
static int find_in(const char *dir, char **out, ds_error *err) {
    DIR *d = opendir(dir);
    if (!d)
        return ds_fail_errno(err, "cannot open '%s'", dir);
    char best[NAME_MAX + 1] = "", other[NAME_MAX + 1] = "", averaged[NAME_MAX + 1] = "";
    int top = 0, same = 0;
    for (struct dirent *e; (e = readdir(d));) {
        int r = rank_of(e->d_name);
        if (r && !strstr(e->d_name, "-of-") && ds_weights_is_averaged(e->d_name, strlen(e->d_name)))
            snprintf(averaged, sizeof averaged, "%s", e->d_name);
        if (r && r == top) {
            same++;
            snprintf(other, sizeof other, "%s", e->d_name);
        }
        if (r > top) {
            top = r;
            same = 0;
            snprintf(best, sizeof best, "%s", e->d_name);
        }
    }
    closedir(d);
    if (top > 1 && *averaged && strcmp(averaged, best) != 0)
        return ds_fail(err, DS_EINVAL,
                       "'%.160s' has '%.60s' and averaged weights, '%.60s': give the file that is "
                       "meant",
                       dir, best, averaged);
    if (same)
        return ds_fail(
            err, DS_EINVAL,
            "'%.160s' has %d weight files ('%.60s', '%.60s'): give the one that is meant", dir,
            same + 1, best, other);
    *out = top ? ds_xasprintf("%s/%s", dir, best) : NULL;
    return 0;
}

/* "model_1.safetensors" beside "model.safetensors": accelerate numbers the models it was given. */
static int is_numbered(const char *name, const char *file) {
    const char *dot = strrchr(file, '.');
    size_t stem = dot ? (size_t)(dot - file) : strlen(file);
    if (strncmp(name, file, stem) || name[stem] != '_')
        return 0;
    size_t digits = strspn(name + stem + 1, "0123456789");
    return digits && !strcmp(name + stem + 1 + digits, file + stem);
}

/* What else in the folder might be weights: said, as averaged ones may be among it (a program's own
 * states, "custom_checkpoint_0.pkl").  Another model of the same rank is a choice, so refused. */
static int look_beside(ds_weights *w, const char *taken, ds_error *err) {
    static const char *const endings[] = {".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".pkl"};
    enum { NAMES_MAX = 64 };
    const char *file = strrchr(taken, '/') + 1;
    char *names[NAMES_MAX];
    size_t count = 0, len = 0;
    int rc = 0;
    DIR *d = opendir(w->dir);
    if (!d)
        return ds_fail_errno(err, "cannot open '%s'", w->dir);
    for (struct dirent *e; (e = readdir(d)) && count < NAMES_MAX;) {
        int is = 0;
        for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
            is |= ds_fs_ends_with(e->d_name, endings[i]);
        if (is && e->d_name[0] != '.' && strcmp(e->d_name, file) && !strstr(e->d_name, "-of-"))
            names[count++] = ds_xstrdup(e->d_name);
    }
    closedir(d);
    qsort(names, count, sizeof *names, by_text);
    for (size_t i = 0; i < count; i++) {
        if (!rc && is_numbered(names[i], file))
            rc = ds_fail(err, DS_EINVAL,
                         "'%.160s' has several models, '%.60s' and '%.60s': give the file that is "
                         "meant",
                         w->dir, file, names[i]);
        if (len + strlen(names[i]) + 8 < sizeof w->beside)
            len += (size_t)snprintf(w->beside + len, sizeof w->beside - len, "%s%s",
                                    len ? ", " : "", names[i]);
        else if (!strstr(w->beside, ", ..."))
            snprintf(w->beside + len, sizeof w->beside - len, ", ...");
        free(names[i]);
    }
    return rc;
}

static int read_config(ds_weights *w, ds_error *err) {
    char *config = ds_xasprintf("%s/config.json", w->dir);
    int rc = ds_fs_exists(config) ? ds_foreign_read(config, CONFIG_MAX, &w->config, err) : 0;
    free(config);
    return rc;
}

static int open_folder(ds_weights *w, const char *sub, ds_error *err) {
    struct stat sb;
    char *in = ds_xasprintf("%s/%s", w->path, sub ? sub : "."), *file = NULL;
    int rc = 0;
    if (sub && !stat(in, &sb) && S_ISDIR(sb.st_mode)) {
        w->dir = in;
        rc = find_in(in, &file, err);
    } else {
        free(in);
        w->dir = ds_xstrdup(w->path);
        rc = find_in(w->dir, &file, err);
    }
    if (!rc && !file && (rc = distributed(w->dir, w->dir, err)))
        return rc;
    if (!rc && !file)
        rc = ds_fail(
            err, DS_ENOTFOUND,
            "'%.200s' has no weight file: expected diffusion_pytorch_model.safetensors or .bin",
            w->dir);
    rc = rc ? rc : look_beside(w, file, err);
    rc = rc ? rc : read_config(w, err);
    if (!rc)
        rc = is_index(file) ? open_index(w, file, err) : add_file(w, file, NULL, NULL, err);
    free(file);
    return rc;
}

/* Objects that are no tensors go to a list of their own. */
static void split_values(ds_weights *w) {
    size_t kept = 0;
    w->values = ds_xcalloc(w->count + 1, sizeof *w->values);
    for (size_t i = 0; i < w->count; i++)
        if (w->items[i].object)
            w->values[w->value_count++] = w->items[i];
        else
            w->items[kept++] = w->items[i];
    w->count = kept;
}

/* One shard of several has not all tensors; the index knows the others. */
static int shard_alone(const ds_weights *w, ds_error *err) {
    const char *slash = strrchr(w->path, '/'), *name = slash ? slash + 1 : w->path;
    char *file = NULL;
    int rc = 0;
    if (strstr(name, "-of-") && !find_in(w->dir, &file, NULL) && file && is_index(file))
        rc = ds_fail(err, DS_EINVAL,
                     "'%.160s' is one of several shards: give the folder, or '%.160s'", w->path,
                     file);
    free(file);
    return rc;
}

int ds_weights_open(ds_weights **out, const char *path, const char *sub, ds_error *err) {
    struct stat sb;
    if (stat(path, &sb))
        return ds_fail_errno(err, "cannot open '%s'", path);
    ds_weights *w = ds_xcalloc(1, sizeof *w);
    w->path = ds_xstrdup(path);
    w->format = "?";
    int rc;
    if (S_ISDIR(sb.st_mode))
        rc = open_folder(w, sub, err);
    else {
        const char *slash = strrchr(path, '/');
        w->dir = slash ? ds_xasprintf("%.*s", slash == path ? 1 : (int)(slash - path), path)
                       : ds_xstrdup(".");
        w->is_file = 1;
        rc = shard_alone(w, err);
        if (!rc)
            rc = is_index(path) ? open_index(w, path, err) : add_file(w, path, NULL, NULL, err);
        rc = rc ? rc : read_config(w, err);
    }
    if (!rc) {
        split_values(w);
        if (!w->count)
            rc = ds_fail(err, DS_EINVAL, "'%.200s' has no tensors", w->path);
    }
    rc = rc ? rc : ds_weights_sort(w, err);
    if (rc)
        ds_weights_close(w);
    else
        *out = w;
    return rc;
}

void ds_weights_close(ds_weights *w) {
    if (!w)
        return;
    for (int i = 0; i < w->part_count; i++) {
        ds_st_free(w->parts[i].st);
        if (w->parts[i].zip)
            zip_discard(w->parts[i].zip);
        if (w->parts[i].fd >= 0)
            close(w->parts[i].fd);
        free(w->parts[i].path);
    }
    for (size_t i = 0; i < w->count + w->value_count; i++) {
        ds_weights_item *it = i < w->count ? &w->items[i] : &w->values[i - w->count];
        free((char *)(uintptr_t)it->t.name);
        free(it->what);
    }
    free(w->values);
    free(w->which);
    free(w->own_config);
    json_decref(w->config);
    json_decref(w->args);
    free(w->parts);
    free(w->items);
    free(w->path);
    free(w->dir);
    free(w);
}

/* ---------------------------------------------------------------- looking */

size_t ds_weights_count(const ds_weights *w) { return w->count; }

const ds_weights_tensor *ds_weights_at(const ds_weights *w, size_t i) {
    DS_ASSERT(i < w->count);
    return &w->items[i].t;
}

const ds_weights_tensor *ds_weights_find(const ds_weights *w, const char *name) {
    ds_weights_item key = {.t.name = name};
    const ds_weights_item *hit = bsearch(&key, w->items, w->count, sizeof *w->items, by_name);
    return hit ? &hit->t : NULL;
}

const char *ds_weights_path(const ds_weights *w) { return w->path; }
const char *ds_weights_dir(const ds_weights *w) { return w->dir; }
const char *ds_weights_format(const ds_weights *w) { return w->format; }
const char *ds_weights_wrapper(const ds_weights *w) { return w->wrapper; }
const json_t *ds_weights_config(const ds_weights *w) { return w->config; }
int ds_weights_is_file(const ds_weights *w) { return w->is_file; }
ds_import_report *ds_weights_report(const ds_weights *w) { return w->report; }
const json_t *ds_weights_args(const ds_weights *w) { return w->args; }

const char *ds_weights_meta(const ds_weights *w, const char *key) {
    if (w->own_config && !strcmp(key, "diffscaler.config"))
        return w->own_config;
    return w->part_count == 1 && w->parts[0].st ? ds_st_meta(w->parts[0].st, key) : NULL;
}

uint64_t ds_weights_file_bytes(const ds_weights *w) {
    uint64_t sum = 0;
    for (int i = 0; i < w->part_count; i++)
        sum += (uint64_t)w->parts[i].sb.st_size;
    return sum;
}
