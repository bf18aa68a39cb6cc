/* daemon/folders/look.c - see look.h. */
#include "daemon/folders/look.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_ENTRIES 4096
#define MAX_DEPTH 4
#define MAX_SECONDS 0.03
#define MAX_OPENED 256 /* files whose first bytes are read */

typedef struct {
    int entries, opened, files, image, given_up, unreadable;
    int linked; /* links to folders, which are not followed */
    double until;
} look;

static int image_extension(const char *name) {
    static const char *const known[] = {".jpg", ".jpeg", ".png", ".webp",
                                        ".pnm", ".ppm",  ".pgm", ".pbm"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof known / sizeof *known; i++)
        if (strcasecmp(dot, known[i]) == 0)
            return 1;
    return 0;
}

static int image_magic(const char *path) {
    unsigned char b[12] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, b, sizeof b);
    close(fd);
    if (n < 4)
        return 0;
    return (b[0] == 0xff && b[1] == 0xd8 && b[2] == 0xff) || memcmp(b, "\x89PNG", 4) == 0 ||
           (n >= 12 && memcmp(b, "RIFF", 4) == 0 && memcmp(b + 8, "WEBP", 4) == 0) ||
           (b[0] == 'P' && b[1] >= '1' && b[1] <= '6' && strchr(" \t\r\n#", b[2]));
}

static void look_into(look *l, const char *path, int depth) {
    DIR *dir = opendir(path);
    if (!dir) {
        l->unreadable++;
        return;
    }
    struct dirent *d;
    while (!l->image && !l->given_up && (d = readdir(dir))) {
        if (d->d_name[0] == '.')
            continue;
        if (++l->entries > MAX_ENTRIES || ds_monotonic() > l->until) {
            l->given_up = 1;
            break;
        }
        char child[PATH_MAX];
        struct stat st;
        if (snprintf(child, sizeof child, "%s/%s", path, d->d_name) >= (int)sizeof child ||
            lstat(child, &st))
            continue;
        if (S_ISDIR(st.st_mode)) {
            if (depth < MAX_DEPTH)
                look_into(l, child, depth + 1);
            else
                l->given_up = 1;
        } else if (S_ISREG(st.st_mode)) {
            l->files++;
            if (image_extension(d->d_name))
                l->image = 1;
            else if (l->opened++ >= MAX_OPENED)
                l->given_up = 1;
            else
                l->image = image_magic(child);
        } else if (S_ISLNK(st.st_mode) && image_extension(d->d_name)) {
            l->image = 1; /* where it leads is the scan's question */
        } else if (S_ISLNK(st.st_mode)) {
            l->linked += !stat(child, &st) && S_ISDIR(st.st_mode);
        }
    }
    closedir(dir);
}

int ds_look_at_folder(const char *path, char real[PATH_MAX], ds_error *err) {
    if (path[0] != '/')
        return ds_fail(err, DS_EINVAL,
                       "path '%s' is relative: give the absolute path of the folder", path);
    if (strlen(path) >= PATH_MAX - 256)
        return ds_fail(err, DS_EINVAL, "path is too long (%zu bytes)", strlen(path));
    if (!realpath(path, real)) {
        if (errno == ENOENT)
            return ds_fail(err, DS_ENOTFOUND, "folder '%s' does not exist", path);
        if (errno == ENOTDIR)
            return ds_fail(err, DS_EINVAL, "'%s' leads through a file, not a folder", path);
        return ds_fail_errno(err, "cannot look at folder '%s'", path);
    }
    struct stat st;
    if (stat(real, &st))
        return ds_fail_errno(err, "cannot look at folder '%s'", path);
    if (!S_ISDIR(st.st_mode))
        return ds_fail(err, DS_EINVAL, "'%s' is a file: give the folder that holds the images",
                       path);
    /* Root may read anything, so ask by opening and not by the mode bits. */
    int fd = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || faccessat(fd, ".", X_OK, AT_EACCESS)) {
        int rc = ds_fail_errno(err, "folder '%s' is not readable for the daemon's user", path);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    close(fd);
    look l = {.until = ds_monotonic() + MAX_SECONDS};
    look_into(&l, real, 0);
    if (l.image || l.given_up)
        return 0;
    if (l.unreadable)
        return ds_fail(err, DS_EPERM, "folder '%s' holds folders that the daemon may not read",
                       path);
    if (!l.entries)
        return ds_fail(err, DS_EINVAL, "folder '%s' is empty: put images into it first", path);
    if (l.linked)
        return ds_fail(err, DS_EINVAL,
                       "folder '%s' has no image of its own, and %d link%s to folders, which "
                       "%s not followed: make a copy without links, cp -rL '%s' COPY, and add that",
                       path, l.linked, l.linked == 1 ? "" : "s", l.linked == 1 ? "is" : "are",
                       path);
    return ds_fail(err, DS_EINVAL,
                   "folder '%s' has no image among its %d files: JPEG, PNG, WebP and PNM are known",
                   path, l.files);
}

/* ---- what is imported ---- */

int ds_look_at_source(const char *key, const char *path, int file, char real[PATH_MAX],
                      ds_error *err) {
    struct stat st;
    if (!realpath(path, real))
        return ds_fail_errno(err, "cannot read '%.300s'", path);
    if (stat(real, &st))
        return ds_fail_errno(err, "cannot look at '%.300s'", real);
    if (!S_ISREG(st.st_mode) && (file || !S_ISDIR(st.st_mode)))
        return ds_fail(err, DS_EINVAL, "'%s' is '%.300s', which is no file%s", key, real,
                       file ? "" : " or folder");
    if (S_ISREG(st.st_mode) && !st.st_size)
        return ds_fail(err, DS_EINVAL, "'%s' is '%.300s', which is empty", key, real);
    if (access(real, S_ISDIR(st.st_mode) ? R_OK | X_OK : R_OK))
        return ds_fail_errno(err, "the daemon cannot read '%.300s'", real);
    return 0;
}

/* By its ending: the worker decodes.  1 also where there is too much to look at. */
static int has_picture(const char *folder, int depth, int *budget) {
    static const char *const ends[] = {".png", ".jpg", ".jpeg", ".webp", ".ppm", ".pgm", ".pnm"};
    DIR *dir = opendir(folder);
    int found = 0;
    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        char path[PATH_MAX];
        const char *dot = strrchr(e->d_name, '.');
        for (size_t i = 0; dot && i < sizeof ends / sizeof *ends; i++)
            found |= !strcasecmp(dot, ends[i]);
        found |= --*budget < 0;
        if (!found && e->d_name[0] != '.' && depth < MAX_DEPTH &&
            (e->d_type == DT_DIR || e->d_type == DT_UNKNOWN) &&
            (size_t)snprintf(path, sizeof path, "%s/%s", folder, e->d_name) < sizeof path)
            found = has_picture(path, depth + 1, budget);
    }
    if (dir)
        closedir(dir);
    return found;
}

int ds_look_for_pictures(const char *key, const char *path, char real[PATH_MAX], ds_error *err) {
    int budget = 10000, rc = ds_look_at_source(key, path, 0, real, err);
    struct stat st;
    if (rc)
        return rc;
    if (stat(real, &st) || !S_ISDIR(st.st_mode))
        return ds_fail(err, DS_EINVAL, "'%s' is no folder: '%.300s'", key, real);
    return has_picture(real, 0, &budget)
               ? 0
               : ds_fail(err, DS_EINVAL, "the folder '%.300s' has no picture (.png, .jpg, ...)",
                         real);
}

/* ---- where it lies ---- */

/* path is dir or lies in it. */
static int within(const char *path, const char *dir) {
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    return !strncmp(path, dir, n) && (path[n] == '/' || !path[n] || n == 1);
}

int ds_look_at_place(const char *real, const char *state, ds_error *err) {
    if (strlen(real) >= PATH_MAX) /* the registry counts characters */
        return ds_fail(err, DS_EINVAL,
                       "the folder's path has %zu bytes, the system's limit is %d: give a folder "
                       "with a shorter one",
                       strlen(real), PATH_MAX - 1);
    if (!strcmp(real, "/"))
        return ds_fail(
            err, DS_EINVAL,
            "folder '/' is the whole file system: give the folder that holds the images");
    if (within(real, state))
        return ds_fail(err, DS_EINVAL,
                       "folder '%.200s' lies in the state folder '%.150s', which is the daemon's "
                       "own: put the images elsewhere",
                       real, state);
    if (within(state, real))
        return ds_fail(err, DS_EINVAL,
                       "folder '%.150s' holds the state folder '%.200s', so each training would "
                       "change it: give a folder that holds the images alone",
                       real, state);
    return 0;
}
