#include "cli/pictures.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/png_write.h"
#include "contract/job.h"
#include "cli/npz_write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_MAX = 64 << 20, NAME_KEPT = 100 };

struct ds_pictures {
    char target[PATH_MAX], tmp[PATH_MAX]; /* target without a '/' at its end */
    int folder, force;
    ds_npz_writer *npz;
    ds_picture_fn *fn; /* instead of both */
    void *ud;
    /* the stream so far */
    ds_buf head;     /* 8 bytes of length, the header, the labels */
    size_t head_end; /* how long `head` gets; 0: not known yet */
    json_t *classes; /* names of labels, or NULL */
    const int32_t *labels;
    int64_t count, done;
    int width, height;
    uint8_t *picture;
    size_t one, have; /* bytes of a picture; of the one that is arriving */
};

static int is_folder(const char *path) {
    struct stat st;
    return !lstat(path, &st) && S_ISDIR(st.st_mode);
}

int ds_pictures_folder(const char *target) {
    return ds_fs_ends_with(target, "/") || is_folder(target);
}

/* "00012-seven.png", "00012.png": what an earlier sample wrote, and so may be replaced. */
static int is_ours(const char *name) {
    size_t digits = strspn(name, "0123456789");
    return digits >= 5 && (name[digits] == '-' || name[digits] == '.') &&
           ds_fs_ends_with(name, ".png");
}

static int only_ours(const char *path, char other[NAME_MAX + 1]) {
    DIR *dir = opendir(path);
    int all = dir != NULL;
    snprintf(other, NAME_MAX + 1, "?");
    for (struct dirent *e; all && (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || is_ours(e->d_name))
            continue;
        all = 0;
        snprintf(other, NAME_MAX + 1, "%s", e->d_name);
    }
    if (dir)
        closedir(dir);
    return all;
}

int ds_pictures_check(const char *target, int force, ds_error *err) {
    char other[NAME_MAX + 1];
    if (!ds_pictures_folder(target))
        return ds_png_output_check(target, force, err);
    int rc = ds_fs_output_dir_check(target, force, err);
    if (!rc && force && is_folder(target) && !only_ours(target, other))
        rc = ds_fail(err, DS_ECONFLICT,
                     "'%s' holds more than samples ('%.80s'): --force does not replace it; give "
                     "another name",
                     target, other);
    return rc;
}

int ds_pictures_open(ds_pictures **out, const char *target, int force, ds_error *err) {
    int rc = ds_pictures_check(target, force, err);
    if (rc)
        return rc;
    ds_pictures *p = ds_xcalloc(1, sizeof *p);
    p->folder = ds_pictures_folder(target);
    p->force = force;
    size_t n = strlen(target);
    while (n > 1 && target[n - 1] == '/')
        n--;
    snprintf(p->target, sizeof p->target, "%.*s", (int)n, target);
    int fits = snprintf(p->tmp, sizeof p->tmp, "%s.XXXXXX", p->target) < PATH_MAX - 300;
    if (!fits)
        rc = ds_fail(err, DS_EINVAL, "cannot write '%.80s...': the name is too long", target);
    else if (p->folder && !mkdtemp(p->tmp))
        rc = ds_fail_errno(err, "cannot write '%s'", target);
    else if (p->folder && chmod(p->tmp, 0755))
        rc = ds_fail_errno(err, "cannot write '%s'", target);
    if (rc) {
        *p->tmp = 0; /* nothing is there */
        ds_pictures_abort(p);
    } else
        *out = p;
    return rc;
}

void ds_pictures_open_fn(ds_pictures **out, ds_picture_fn *fn, void *ud) {
    ds_pictures *p = ds_xcalloc(1, sizeof *p);
    p->fn = fn;
    p->ud = ud;
    *out = p;
}

static int foreign(ds_error *err) {
    return ds_fail(err, DS_EINTEGRITY, "what was sent is no file of samples");
}

/* A tensor of this type and rank, its data at [at, at + bytes) after the header. */
static int tensor(const json_t *header, const char *name, const char *type, size_t rank,
                  int64_t *dims, int64_t *at, int64_t *bytes) {
    const json_t *t = json_object_get(header, name), *shape = json_object_get(t, "shape"),
                 *place = json_object_get(t, "data_offsets");
    if (strcmp(ds_json_string(t, "dtype", ""), type) || json_array_size(shape) != rank)
        return 0;
    for (size_t i = 0; i < rank; i++)
        dims[i] = json_integer_value(json_array_get(shape, i));
    *at = json_integer_value(json_array_get(place, 0));
    *bytes = json_integer_value(json_array_get(place, 1)) - *at;
    return 1;
}

/* The header is there: what follows is known, or it is none of ours. */
static int read_header(ds_pictures *p, size_t length, ds_error *err) {
    json_t *doc = json_loadb(p->head.data + 8, length, JSON_REJECT_DUPLICATES, NULL);
    int64_t n = 0, d[4] = {0}, at, bytes, first, size;
    const char *names = ds_json_string(json_object_get(doc, "__metadata__"), "classes", NULL);
    int ok = tensor(doc, "labels", "I32", 1, &n, &at, &bytes) &&
             tensor(doc, "images", "U8", 4, d, &first, &size) && at == 0 && n > 0 && n <= 1 << 24 &&
             bytes == 4 * n && first == bytes && d[0] == n && d[1] > 0 && d[1] <= 1 << 14 &&
             d[2] > 0 && d[2] <= 1 << 14 && d[3] == 3 && size == n * d[1] * d[2] * 3;
    p->classes = ok && names ? json_loads(names, JSON_REJECT_DUPLICATES, NULL) : NULL;
    json_decref(doc);
    if (!ok)
        return foreign(err);
    p->count = n;
    p->height = (int)d[1];
    p->width = (int)d[2];
    p->one = (size_t)(d[1] * d[2] * 3);
    p->head_end = 8 + length + (size_t)bytes;
    p->picture = ds_xmalloc(p->one);
    return p->folder || p->fn
               ? 0
               : ds_npz_writer_open(&p->npz, p->target, p->force, n, p->height, p->width, err);
}

static void file_name(const ds_pictures *p, char *out, size_t size) {
    int32_t label;
    memcpy(&label, (const char *)p->labels + p->done * 4, sizeof label); /* may be unaligned */
    const char *name =
        label < 0 ? NULL : json_string_value(json_array_get(p->classes, (size_t)label));
    char number[16];
    snprintf(number, sizeof number, "%d", (int)label);
    if (label >= 0 && !name)
        name = number; /* classes of a base are numbers */
    int at = snprintf(out, size, "%05lld%s%.*s.png", (long long)p->done, name ? "-" : "", NAME_KEPT,
                      name ? name : "");
    for (char *c = out; c < out + at; c++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", *c))
            *c = '_';
}

static int picture_done(ds_pictures *p, ds_error *err) {
    char name[NAME_KEPT + 40], path[PATH_MAX], *png = NULL;
    size_t n = 0;
    if (p->fn)
        return p->fn(p->ud, p->done, p->picture, p->width, p->height, err);
    if (!p->folder)
        return ds_npz_writer_put(p->npz, p->picture, p->one, err);
    file_name(p, name, sizeof name);
    ds_fs_join(path, sizeof path, p->tmp, name);
    int rc = ds_png_encode(p->picture, p->width, p->height, &png, &n, err);
    if (rc)
        return rc;
    /* no sync of each: the folder gets its name when all of them are there */
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0 || ds_fs_test_full() || ds_fs_write_all(fd, png, n))
        rc = ds_fail_errno(err, "cannot write '%s'", path);
    if (fd >= 0 && close(fd) && !rc)
        rc = ds_fail_errno(err, "cannot write '%s'", path);
    free(png);
    return rc;
}

/* Up to `want` bytes of the head; the rest stays. */
static void fill_head(ds_pictures *p, const char **data, size_t *n, size_t want) {
    size_t k = want - p->head.len;
    k = k < *n ? k : *n;
    ds_buf_add(&p->head, *data, k);
    *data += k;
    *n -= k;
}

static int put_head(ds_pictures *p, const char **data, size_t *n, ds_error *err) {
    uint64_t length = 0;
    if (p->head.len < 8)
        fill_head(p, data, n, 8);
    if (p->head.len < 8)
        return 0;
    for (int i = 8; i-- > 0;)
        length = length << 8 | (unsigned char)p->head.data[i];
    if (length < 2 || length > HEADER_MAX)
        return foreign(err);
    if (!p->head_end) {
        fill_head(p, data, n, 8 + (size_t)length);
        int rc = p->head.len < 8 + length ? 0 : read_header(p, (size_t)length, err);
        if (rc || !p->head_end)
            return rc;
    }
    fill_head(p, data, n, p->head_end);
    if (p->head.len == p->head_end)
        p->labels = (const void *)(p->head.data + 8 + length);
    return 0;
}

int ds_pictures_put(ds_pictures *p, const void *bytes, size_t n, ds_error *err) {
    const char *data = bytes;
    int rc = 0;
    if (!p->labels && (rc = put_head(p, &data, &n, err)))
        return rc;
    while (n && !rc) {
        if (p->done == p->count)
            return foreign(err);
        size_t k = p->one - p->have < n ? p->one - p->have : n;
        memcpy(p->picture + p->have, data, k);
        data += k;
        n -= k;
        if ((p->have += k) < p->one)
            break;
        rc = picture_done(p, err);
        p->have = 0;
        p->done++;
    }
    return rc;
}

/* The folder gets its name.  What stood there (empty, or replaced by force) goes first. */
static int put_in_place(ds_pictures *p, ds_error *err) {
    int fd = open(p->tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    if (fd < 0 || syncfs(fd))
        rc = ds_fail_errno(err, "cannot write '%s'", p->target);
    if (fd >= 0)
        close(fd);
    if (!rc)
        rc = ds_pictures_check(p->target, p->force, err);
    if (!rc && is_folder(p->target))
        rc = ds_fs_remove(p->target, err);
    return rc ? rc : ds_fs_rename(p->tmp, p->target, err);
}

int ds_pictures_finish(ds_pictures *p, int64_t *count, ds_error *err) {
    int rc = !p->labels || p->done < p->count
                 ? ds_fail(err, DS_EINTEGRITY, "the file of samples ended after %lld of %lld",
                           (long long)p->done, (long long)p->count)
                 : 0;
    *count = p->done;
    if (!rc && p->folder && !(rc = put_in_place(p, err)))
        *p->tmp = 0;
    else if (!rc && p->npz) {
        rc = ds_npz_writer_finish(p->npz, err);
        p->npz = NULL;
    }
    ds_pictures_abort(p);
    return rc;
}

void ds_pictures_abort(ds_pictures *p) {
    if (!p)
        return;
    if (p->folder && *p->tmp)
        ds_fs_remove(p->tmp, NULL);
    ds_npz_writer_abort(p->npz);
    json_decref(p->classes);
    ds_buf_release(&p->head);
    free(p->picture);
    free(p);
}

typedef struct {
    ds_pictures *p;
    ds_error *err;
    int rc;
} fetching;

static int on_piece(void *ud, const void *data, size_t n) {
    fetching *f = ud;
    return f->rc = ds_pictures_put(f->p, data, n, f->err);
}

int ds_pictures_fetch(ds_pictures *p, ds_client *h, int64_t job, ds_client_progress_fn *progress,
                      void *ud, int64_t *count, ds_error *err) {
    fetching f = {.p = p, .err = err};
    ds_error answer;
    char path[80];
    snprintf(path, sizeof path, "/v1/jobs/%lld/files/" DS_FILE_SAMPLES, (long long)job);
    int rc = ds_client_stream(h, path, on_piece, &f, progress, ud, &answer);
    if (f.rc)
        rc = f.rc; /* why it stopped stands in err already */
    else if (rc)
        *err = answer;
    if (!rc)
        return ds_pictures_finish(p, count, err);
    ds_pictures_abort(p);
    return rc;
}
