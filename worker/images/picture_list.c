#include "worker/images/picture_list.h"
#include "base/mem.h"
#include "worker/images/scan_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { FILES_MAX = 10000000, DEPTH_MAX = 64 };

typedef struct {
    const char *endings; /* each between spaces */
    int any_case, deep, hidden, folders, follow, resolve;
} rule;

#define PYTORCH_ENDINGS " bmp jpg jpeg pgm png ppm tif tiff webp "

/* folders: one whose name has such an ending is listed; follow: links to folders are entered;
 * resolve: sorted by where links lead. */
static const rule rules[DS_FID_MODE_COUNT] = {
    [DS_FID_PYTORCH_FID] = {PYTORCH_ENDINGS, .hidden = 1, .folders = 1},
    [DS_FID_TORCH_FIDELITY] = {" png jpg jpeg ", .any_case = 1, .hidden = 1, .resolve = 1},
    [DS_FID_CLEAN] = {PYTORCH_ENDINGS "npy JPEG JPG PNG ", .deep = 1, .folders = 1, .follow = 1},
    [DS_FID_BUNDLED] = {NULL},
};

/* What people take for a picture, whatever the tool says. */
static const char usual[] =
    PYTORCH_ENDINGS "gif avif heic heif jxl jp2 pbm pnm jfif jpe apng dib ico tga qoi npy ";

const char *ds_picture_list_endings(enum ds_fid_mode mode) { return rules[mode].endings; }

typedef struct {
    ds_picture_list *list;
    const rule *rule;
    const char *root; /* resolved */
    int deep;
    char path[DS_DATA_PATH_MAX];
    struct {
        dev_t dev;
        ino_t ino;
    } above[DEPTH_MAX];
    ds_error *err;
} walk;

/* Is `end` one of the words? */
static int is_word(const char *words, const char *end, int any_case) {
    size_t n = strlen(end);
    for (const char *p = words; n && (p = strchr(p, ' ')) && p[1]; p++)
        if (p[1 + n] == ' ' && !(any_case ? strncasecmp(p + 1, end, n) : strncmp(p + 1, end, n)))
            return 1;
    return 0;
}

/* What follows the last dot.  own: not where only dots are before it (os.path.splitext). */
static const char *ending(const char *name, int own) {
    const char *dot = strrchr(name, '.');
    return !dot || (own && strspn(name, ".") > (size_t)(dot - name)) ? "" : dot + 1;
}

static int counts(const rule *r, const char *name) {
    if (name[0] == '.' && !r->hidden)
        return 0;
    return is_word(r->endings, ending(name, r->any_case), r->any_case);
}

/* clean-fid opens these with numpy.load. */
static int is_numpy(const char *path) { return strstr(path, ".npy") != NULL; }

static int add(walk *w, int is_link) {
    ds_picture_list *l = w->list;
    if (l->count == FILES_MAX)
        return ds_fail(w->err, DS_ELIMIT,
                       "'%.300s' holds more than %d pictures, the limit: measure a part of them",
                       w->root, FILES_MAX);
    if (l->count == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 256;
        l->paths = ds_xrealloc(l->paths, (size_t)l->cap * sizeof *l->paths);
        l->keys = ds_xrealloc(l->keys, (size_t)l->cap * sizeof *l->keys);
    }
    char *whole = ds_xasprintf("%s/%s", w->root, w->path), real[PATH_MAX];
    if (w->rule->resolve && is_link && realpath(whole, real)) {
        free(whole);
        whole = ds_xstrdup(real);
    }
    l->paths[l->count] = ds_xstrdup(w->path);
    l->keys[l->count++] = whole;
    if (ds_picture_list_endings(DS_FID_CLEAN) == w->rule->endings && is_numpy(w->path))
        ds_rejected_add(&l->unread, w->path, "NumPy array");
    return 0;
}

static int walk_folder(walk *w, int fd, size_t length, int depth);

static int enter(walk *w, int parent, const char *name, size_t length, int depth) {
    struct stat st;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        int rc = ds_fail_errno(w->err, "cannot list folder '%.200s/%.200s'", w->root, w->path);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    for (int i = 0; i < depth; i++)
        if (w->above[i].dev == st.st_dev && w->above[i].ino == st.st_ino) {
            close(fd);
            return ds_fail(w->err, DS_EINVAL,
                           "'%.200s/%.200s' leads back to a folder above it: its pictures would be "
                           "counted again and again",
                           w->root, w->path);
        }
    if (depth == DEPTH_MAX) {
        close(fd);
        return ds_fail(w->err, DS_ELIMIT,
                       "'%.300s' has folders nested deeper than %d, the limit: give one below it",
                       w->root, DEPTH_MAX);
    }
    w->above[depth].dev = st.st_dev;
    w->above[depth].ino = st.st_ino;
    return walk_folder(w, fd, length, depth + 1);
}

static int visit(walk *w, int fd, const char *name, size_t length, int depth) {
    size_t n = strlen(name), total = length + (length > 0) + n;
    struct stat st;
    if (!strcmp(name, ".") || !strcmp(name, ".."))
        return 0;
    if (total >= sizeof w->path)
        return ds_fail(w->err, DS_ELIMIT, "'%.300s' has a path longer than %zu bytes", w->root,
                       sizeof w->path - 1);
    if (length)
        w->path[length] = '/';
    memcpy(w->path + total - n, name, n + 1);
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW))
        return errno == ENOENT
                   ? 0
                   : ds_fail_errno(w->err, "cannot look at '%.200s/%.200s'", w->root, w->path);
    int is_link = S_ISLNK(st.st_mode), rc = 0;
    int leads = !is_link || !fstatat(fd, name, &st, 0); /* a link that leads nowhere is listed */
    int folder = leads && S_ISDIR(st.st_mode);
    if (counts(w->rule, name) && (!folder || w->rule->folders))
        rc = add(w, is_link);
    else if (!folder && is_word(usual, ending(name, 0), 1))
        ds_rejected_add(&w->list->others, w->path, "%s",
                        name[0] == '.' && !w->rule->hidden ? "hidden" : "its ending");
    if (rc || !folder)
        return rc;
    int hidden = name[0] == '.' && !w->rule->hidden;
    if (hidden || (is_link && !w->rule->follow) || !w->deep) {
        if (!hidden)
            *(is_link ? &w->list->links : &w->list->folders) += 1;
        return 0;
    }
    return enter(w, fd, name, total, depth);
}

/* Takes fd over; path holds `length` bytes. */
static int walk_folder(walk *w, int fd, size_t length, int depth) {
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return ds_fail_errno(w->err, "cannot list folder '%.300s'", w->root);
    }
    int rc = 0;
    struct dirent *d;
    while (errno = 0, !rc && (d = readdir(dir)))
        rc = visit(w, dirfd(dir), d->d_name, length, depth);
    w->path[length] = 0;
    if (!rc && errno)
        rc = ds_fail_errno(w->err, "cannot list folder '%.200s/%.200s'", w->root, w->path);
    closedir(dir);
    return rc;
}

/* ---------------------------------------------------------------- order */

typedef struct {
    char *path, *key;
} pair;

static int by_key(const void *a, const void *b) {
    const pair *x = a, *y = b;
    int order = strcmp(x->key, y->key);
    return order ? order : strcmp(x->path, y->path);
}

static void sort(ds_picture_list *l) {
    pair *all = ds_xmalloc((size_t)(l->count + 1) * sizeof *all);
    for (int64_t i = 0; i < l->count; i++)
        all[i] = (pair){l->paths[i], l->keys[i]};
    if (l->count)
        qsort(all, (size_t)l->count, sizeof *all, by_key);
    for (int64_t i = 0; i < l->count; i++) {
        l->paths[i] = all[i].path;
        l->keys[i] = all[i].key;
    }
    free(all);
}

/* ---------------------------------------------------------------- all */

static int walk_all(ds_picture_list *out, int fd, ds_error *err) {
    ds_candidate_list files = {0};
    int rc = ds_walk(fd, FILES_MAX, &files, &out->walked, NULL, NULL, err);
    out->paths = ds_xmalloc((size_t)(files.count + 1) * sizeof *out->paths);
    for (int64_t i = 0; i < files.count; i++) {
        struct stat st;
        ds_candidate *f = &files.items[i];
        if (S_ISLNK(f->st.st_mode) && !fstatat(fd, f->path, &st, 0) && S_ISDIR(st.st_mode)) {
            ds_rejected_add(&out->walked, f->path, "link to a folder is not followed");
            continue;
        }
        out->paths[out->count++] = f->path;
        f->path = NULL;
    }
    ds_candidates_release(&files);
    return rc;
}

int ds_picture_list_make(ds_picture_list *out, const char *folder, enum ds_fid_mode mode,
                         int recursive, ds_error *err) {
    *out = (ds_picture_list){0};
    char root[PATH_MAX];
    struct stat st;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;
    if (fd < 0 || fstat(fd, &st) || !realpath(folder, root)) {
        rc = ds_fail_errno(err, "cannot open folder '%.300s'", folder);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    if (mode == DS_FID_BUNDLED) {
        rc = walk_all(out, fd, err);
        close(fd);
        return rc;
    }
    walk w = {.list = out, .rule = &rules[mode], .root = root, .err = err};
    w.deep = w.rule->deep || recursive;
    w.above[0].dev = st.st_dev;
    w.above[0].ino = st.st_ino;
    rc = walk_folder(&w, fd, 0, 1);
    if (!rc)
        sort(out);
    else if (err) { /* names below a folder may hold anything */
        char *shown = ds_name_escape(err->message);
        snprintf(err->message, sizeof err->message, "%s", shown);
        free(shown);
    }
    ds_rejected_sort(&out->others);
    ds_rejected_sort(&out->unread);
    return rc;
}

int64_t ds_picture_list_unread(const ds_picture_list *l, int64_t n) {
    int64_t count = 0;
    for (int64_t i = 0; l->unread.count && i < n && i < l->count; i++)
        count += is_numpy(l->paths[i]);
    return count;
}

void ds_picture_list_release(ds_picture_list *l) {
    for (int64_t i = 0; i < l->count; i++) {
        free(l->paths[i]);
        if (l->keys)
            free(l->keys[i]);
    }
    free(l->paths);
    free(l->keys);
    ds_rejected_release(&l->unread);
    ds_rejected_release(&l->others);
    ds_rejected_release(&l->walked);
    *l = (ds_picture_list){0};
}
