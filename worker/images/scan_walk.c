/* worker/images/scan_walk.c - lists a folder that may hold links, pipes, odd names. */
#include "worker/images/scan_internal.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

typedef struct {
    ds_candidate_list *list;
    ds_rejected_list *rejected;
    int64_t max_files;
    ds_progress *progress;
    void *user;
    ds_error *err;
} walk;

/* Companions of picture collections, which nobody expects to be pictures. */
static int is_companion(const char *name) {
    static const char *const extensions[] = {"txt", "csv",  "tsv", "json", "jsonl", "ndjson",
                                             "md",  "html", "xml", "yaml", "yml"};
    static const char *const whole[] = {"Thumbs.db", "desktop.ini", "SHA256SUMS", "MD5SUMS",
                                        "checksums"};
    static const char *const words[] = {"license", "licence",   "copying", "copyright", "readme",
                                        "notice",  "changelog", "authors", "credits"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof extensions / sizeof *extensions; i++)
        if (!strcasecmp(dot + 1, extensions[i]))
            return 1;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (!strcasecmp(name, whole[i]))
            return 1;
    for (size_t i = 0; !dot && i < sizeof words / sizeof *words; i++)
        if (!strncasecmp(name, words[i], strlen(words[i])))
            return 1;
    return 0;
}

static int add_candidate(walk *w, const char *path, const struct stat *st) {
    ds_candidate_list *l = w->list;
    if (l->count >= w->max_files)
        return ds_fail(w->err, DS_EINVAL,
                       "the folder holds more than %lld files, the limit (max_files): make several "
                       "data sets of it",
                       (long long)w->max_files);
    if (l->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 256;
        l->items = ds_xrealloc(l->items, (size_t)l->cap * sizeof *l->items);
    }
    l->items[l->count++] = (ds_candidate){ds_xstrdup(path), *st};
    if (l->count % 4096 == 0 && ds_progress_say(w->progress, w->user, l->count, 0))
        return ds_fail(w->err, DS_ECANCELED, "the scan was cancelled");
    return 0;
}

static int walk_folder(walk *w, int fd, char *path, size_t length, int depth);

/* Opens a sub-folder and walks it; takes nothing over. */
static int enter(walk *w, int parent_fd, const char *name, char *path, size_t length, int depth) {
    if (depth >= DS_WALK_DEPTH) {
        ds_rejected_add(w->rejected, path, "folders nested deeper than %d", DS_WALK_DEPTH);
        return 0;
    }
    int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        int rc = ds_machine_fails(path, w->err);
        if (!rc)
            ds_rejected_add(w->rejected, path, "folder cannot be read: %s", strerror(errno));
        return rc;
    }
    return walk_folder(w, fd, path, length, depth);
}

static int visit(walk *w, int fd, const char *name, char *path, size_t length, int depth) {
    if (name[0] == '.') { /* hidden, "." and ".." */
        w->list->ignored += strcmp(name, ".") && strcmp(name, "..");
        return 0;
    }
    size_t n = strlen(name), total = length + (length > 0) + n;
    if (total >= DS_DATA_PATH_MAX) {
        ds_rejected_add(w->rejected, name, "path longer than %d bytes", DS_DATA_PATH_MAX - 1);
        return 0;
    }
    if (length)
        path[length] = '/';
    memcpy(path + total - n, name, n + 1);
    struct stat st;
    const char *problem = ds_name_problem(name);
    if (problem)
        ds_rejected_add(w->rejected, path, "%s", problem);
    else if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW)) {
        int rc = ds_machine_fails(path, w->err);
        if (!rc)
            ds_rejected_add(w->rejected, path, "cannot be read: %s", strerror(errno));
        return rc;
    } else if (S_ISDIR(st.st_mode))
        return enter(w, fd, name, path, total, depth);
    else if (is_companion(name))
        w->list->ignored++;
    else if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode))
        ds_rejected_add(w->rejected, path, "not a regular file");
    else
        return add_candidate(w, path, &st);
    return 0;
}

/* Takes fd over.  path holds `length` bytes and room for DS_DATA_PATH_MAX. */
static int walk_folder(walk *w, int fd, char *path, size_t length, int depth) {
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return ds_fail_errno(w->err, "cannot list folder '%s'", path);
    }
    int rc = 0;
    for (;;) {
        errno = 0;
        struct dirent *d = readdir(dir);
        if (!d)
            break;
        rc = visit(w, dirfd(dir), d->d_name, path, length, depth + 1);
        path[length] = 0;
        if (rc)
            break;
    }
    if (!rc && errno)
        rc = ds_fail_errno(w->err, "cannot list folder '%s'", path);
    closedir(dir);
    return rc;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const ds_candidate *)a)->path, ((const ds_candidate *)b)->path);
}

int ds_walk(int root_fd, int64_t max_files, ds_candidate_list *out, ds_rejected_list *rejected,
            ds_progress *progress, void *user, ds_error *err) {
    char path[DS_DATA_PATH_MAX] = "";
    walk w = {out, rejected, max_files, progress, user, err};
    int fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ds_fail_errno(err, "cannot list the folder");
    int rc = walk_folder(&w, fd, path, 0, 0);
    if (!rc && out->count)
        qsort(out->items, (size_t)out->count, sizeof *out->items, by_path);
    return rc;
}

void ds_candidates_release(ds_candidate_list *list) {
    for (int64_t i = 0; i < list->count; i++)
        free(list->items[i].path);
    free(list->items);
    *list = (ds_candidate_list){0};
}
