/* worker/images/source_folder.c - the source `folder`: a tree of files below one descriptor.
 *
 * The root is opened once; everything below it is opened relative to that descriptor and never
 * leaves it (ds_open_beneath).
 */
#include "base/mem.h"
#include "worker/images/metadata_csv.h"
#include "worker/images/scan_internal.h"
#include "worker/images/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    ds_source base; /* first */
    int fd;
    ds_csv_table table;
    int has_table;
} folder;

static int read_table(folder *f, const ds_source_walk *walk, ds_error *err) {
    struct stat st;
    char reason[DS_REASON_SIZE];
    if (faccessat(f->fd, "metadata.csv", F_OK, AT_SYMLINK_NOFOLLOW) && errno == ENOENT)
        return 0;
    int fd = ds_open_beneath(f->fd, "metadata.csv", &st, reason);
    if (fd < 0)
        return ds_machine_fails("metadata.csv", err)
                   ? err->code
                   : ds_fail(err, DS_EINVAL, "cannot use 'metadata.csv': %s", reason);
    if ((uint64_t)st.st_size > DS_CSV_MAX) {
        close(fd);
        return ds_fail(
            err, DS_EINVAL,
            "'metadata.csv' is larger than %zu MiB, the limit: make several data sets of it",
            DS_CSV_MAX >> 20);
    }
    uint8_t *text = ds_xmalloc((size_t)st.st_size + 1);
    char sha256[DS_HEX_SIZE];
    int rc = ds_read_hashed(fd, text, (size_t)st.st_size, sha256, reason)
                 ? ds_machine_fails("metadata.csv", err)
                       ? err->code
                       : ds_fail(err, DS_EINVAL, "cannot use 'metadata.csv': %s", reason)
                 : ds_csv_parse(&f->table, "metadata.csv", (char *)text, (size_t)st.st_size,
                                walk->max_files, walk->rejected, err);
    free(text);
    close(fd);
    f->has_table = !rc;
    return rc;
}

static int list(ds_source *s, const ds_source_walk *walk, ds_candidate_list *out, ds_error *err) {
    folder *f = (folder *)s;
    int rc = read_table(f, walk, err);
    return rc ? rc
              : ds_walk(f->fd, walk->max_files, out, walk->rejected, walk->progress, walk->user,
                        err);
}

static int open_file(ds_source *s, const char *path, struct stat *st, char reason[DS_REASON_SIZE]) {
    return ds_open_beneath(((folder *)s)->fd, path, st, reason);
}

static int label(ds_source *s, const char *path, char **out, char reason[DS_REASON_SIZE]) {
    folder *f = (folder *)s;
    const char *slash = strchr(path, '/');
    *out = NULL;
    if (!f->has_table) {
        *out = slash ? ds_xasprintf("%.*s", (int)(slash - path), path) : NULL;
        return 0;
    }
    ds_csv_row *row = ds_csv_find(&f->table, path);
    if (!row) {
        snprintf(reason, DS_REASON_SIZE, "not listed in metadata.csv");
        return -1;
    }
    row->used = 1;
    *out = ds_xstrdup(row->label);
    return 0;
}

static const char *split(ds_source *s, const char *path) {
    (void)s, (void)path;
    return NULL;
}

/* Rows of the table for which there is no candidate. */
static void unused(ds_source *s, ds_rejected_list *rejected) {
    folder *f = (folder *)s;
    for (int64_t i = 0; i < f->table.count; i++) {
        const ds_csv_row *row = &f->table.rows[i];
        if (row->used)
            continue;
        struct stat st;
        char reason[DS_REASON_SIZE];
        int fd = ds_open_beneath(f->fd, row->path, &st, reason);
        if (fd >= 0) {
            close(fd);
            snprintf(reason, sizeof reason, "hidden or a companion file");
        }
        ds_rejected_add(rejected, row->path, "%s (metadata.csv line %lld)", reason,
                        (long long)row->line);
    }
}

static void close_folder(ds_source *s) {
    folder *f = (folder *)s;
    ds_csv_release(&f->table);
    close(f->fd);
    free(f);
}

static const ds_source_ops folder_ops = {.list = list,
                                         .open = open_file,
                                         .label = label,
                                         .split = split,
                                         .unused = unused,
                                         .close = close_folder};

int ds_source_folder_open(ds_source **out, const char *root, int links, ds_error *err) {
    int fd, rc = ds_open_folder(root, links, &fd, err);
    if (rc)
        return rc;
    folder *f = ds_xcalloc(1, sizeof *f);
    f->base = (ds_source){.ops = &folder_ops,
                          .kind = "folder",
                          .name = root,
                          .classes_are = "one sub-folder is one class",
                          .no_label = "not in a class folder, and other pictures are"};
    f->fd = fd;
    *out = &f->base;
    return 0;
}

void ds_source_close(ds_source *s) {
    if (s)
        s->ops->close(s);
}
