/* worker/images/source.h - where the pictures of a data set come from.
 *
 * The scan (scan.h) and the preparation (prepare.h) ask a source; what lies behind it they do not
 * know.  A source lists what could be pictures, opens one of them, says its class, and says whether
 * it is to be trained on.  `folder` (source_folder.c) is the one that the programs have.
 *
 * A source is not trusted more than a folder is: pictures are decoded in the sandbox, and the
 * preparation compares each with the size and the SHA-256 that the scan has written down.
 *
 * Thread: open may be called by several threads at a time; everything else by one.
 * Ownership: whoever opened a source closes it.
 */
#ifndef DS_WORKER_IMAGES_SOURCE_H
#define DS_WORKER_IMAGES_SOURCE_H

#include "worker/decode/files.h"

/* Something that could be a picture. */
typedef struct {
    char *path; /* relative, printable; unique in its source */
    /* Its state, by which the hash cache knows it again: st_dev, st_ino, st_size, st_mtim and
     * st_ctim are the same only while the bytes are the same.  Where st_mode is not S_ISREG (a
     * link), that is only known once it is open. */
    struct stat st;
} ds_candidate;

typedef struct {
    ds_candidate *items; /* sorted by path bytes */
    int64_t count, cap;
    int64_t ignored; /* what nobody expects to be a picture; counted only */
} ds_candidate_list;

void ds_candidates_release(ds_candidate_list *list);

typedef struct {
    int64_t max_files;          /* more of them: DS_EINVAL */
    ds_rejected_list *rejected; /* what is left out, with the reason */
    ds_progress *progress;      /* files found so far; total 0 */
    void *user;
} ds_source_walk;

typedef struct ds_source ds_source;

typedef struct {
    /* Before all others but open.  DS_EINVAL, DS_EPERM, DS_ECANCELED. */
    int (*list)(ds_source *s, const ds_source_walk *walk, ds_candidate_list *out, ds_error *err);
    /* A descriptor for reading that stands at the first byte, and its state; or -1, the reason,
     * and errno as ds_open_beneath leaves it. */
    int (*open)(ds_source *s, const char *path, struct stat *st, char reason[DS_REASON_SIZE]);
    /* *label: the class, malloc'ed; NULL: it has none of its own.  -1: it is no picture of the
     * data set, for this reason. */
    int (*label)(ds_source *s, const char *path, char **label, char reason[DS_REASON_SIZE]);
    /* NULL: it is trained on.  Else the name of the part that it belongs to ("test"). */
    const char *(*split)(ds_source *s, const char *path);
    /* After every candidate had its turn: what the source knows of pictures that were none. */
    void (*unused)(ds_source *s, ds_rejected_list *rejected);
    void (*close)(ds_source *s);
} ds_source_ops;

struct ds_source {
    const ds_source_ops *ops;
    const char *kind, *name; /* for messages: "folder", "/data/photos" */
    const char *classes_are; /* what a class is there: "one sub-folder is one class" */
    const char *no_label;    /* why what has no class is left out where others have one */
};

/* links 0: no part of the path may be a link (ds_open_folder).  name is borrowed.
 * Classes come from metadata.csv in the root where there is one, else from the first-level
 * sub-folders.  Nothing is split off. */
int ds_source_folder_open(ds_source **out, const char *root, int links, ds_error *err);
void ds_source_close(ds_source *s); /* NULL is fine */

#endif
