#include "worker/images/probe_pictures.h"
#include "base/fs.h"
#include "base/mem.h"
#include "worker/decode/sandbox.h"
#include "worker/images/scan_internal.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILES_MAX = 1000000 };

static const char *const bundled[] = {"photos", "digits", "drawings", "emoji"};
enum { BUNDLED = sizeof bundled / sizeof bundled[0] };

static int find_bundled(char out[PATH_MAX], ds_error *err) {
    static const char *const places[] = {"../../models", "../share/diffscaler/models", "models",
                                         "../../../models" /* programs of tests */};
    char self[PATH_MAX] = "", path[PATH_MAX + 128];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash = n > 0 ? strrchr(self, '/') : NULL;
    if (slash)
        *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s/%s/probe", self, places[i]);
        if (realpath(path, out))
            return 0;
    }
    return ds_fail(err, DS_ENOTFOUND,
                   "cannot find the pictures that come with the program (models/probe): give "
                   "--probe DIR");
}

/* 1: decoded into rgb; 0: that file cannot be used; < 0: no child. */
static int decode(ds_sandbox *s, int root, const char *path, int side, uint8_t *rgb,
                  ds_error *err) {
    struct stat st;
    char reason[DS_REASON_SIZE], sha256[DS_HEX_SIZE];
    ds_sandbox_reply reply;
    int fd = ds_open_beneath(root, path, &st, reason);
    if (fd < 0)
        return ds_machine_fails(path, err);
    int sized = st.st_size > 0 && st.st_size <= (off_t)DS_FILE_MAX,
        usable =
            sized && !ds_read_hashed(fd, ds_sandbox_input(s), (size_t)st.st_size, sha256, reason),
        rc = sized && !usable ? ds_machine_fails(path, err) : 0;
    close(fd);
    if (!usable)
        return rc;
    rc = ds_sandbox_run(s, DS_SANDBOX_SQUARE, DS_DECODE_TRAIN, (size_t)st.st_size, side,
                        DS_DECODE_MAX_PIXELS, &reply, err);
    if (rc)
        return ds_error_prefix(err, "'%s'", path);
    if (!reply.ok)
        return 0;
    memcpy(rgb, ds_sandbox_output(s), 3 * (size_t)side * (size_t)side);
    return 1;
}

/* The files of the folder in `most` parts; of each the first picture that can be decoded. */
static int read_group(ds_probe_group *g, ds_sandbox *s, const char *folder, int side, int most,
                      ds_error *err) {
    size_t one = 3 * (size_t)side * (size_t)side;
    ds_candidate_list list = {0};
    ds_rejected_list rejected = {0};
    int root = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return ds_fail_errno(err, "cannot open the folder '%.300s' of probe pictures", folder);
    int rc = ds_walk(root, FILES_MAX, &list, &rejected, NULL, NULL, err);
    g->rgb = ds_xmalloc((size_t)most * one);
    int64_t at = 0;
    for (int part = 0; !rc && part < most; part++) {
        int64_t end = list.count * (part + 1) / most;
        for (int got = 0; !got && at < end; at++) {
            got = decode(s, root, list.items[at].path, side, g->rgb + (size_t)g->n * one, err);
            rc = got < 0 ? got : 0;
            if (rc)
                break;
            g->n += got;
        }
        at = at > end ? at : end;
    }
    if (!rc && !g->n)
        rc = ds_fail(err, DS_EINVAL, "the folder '%.300s' has no picture that can be used", folder);
    ds_candidates_release(&list);
    ds_rejected_release(&rejected);
    close(root);
    return rc;
}

int ds_probe_pictures_open(ds_probe_pictures *p, const char *folder, int side, int photographs_only,
                           ds_error *err) {
    char place[PATH_MAX], path[PATH_MAX + 64];
    ds_sandbox *s = NULL;
    int own = folder && *folder, wanted = own || photographs_only ? 1 : BUNDLED;
    *p = (ds_probe_pictures){.side = side};
    int rc = own ? 0 : find_bundled(place, err);
    rc = rc ? rc : ds_sandbox_open(&s, NULL, err);
    for (int i = 0; !rc && i < wanted; i++) {
        ds_probe_group *g = &p->groups[p->count++];
        if (!own) {
            snprintf(path, sizeof path, "%s/%s", place, bundled[i]);
            snprintf(g->name, sizeof g->name, "%s", bundled[i]);
        }
        rc =
            read_group(g, s, own ? folder : path, side, own ? DS_PROBE_OWN : DS_PROBE_BUNDLED, err);
    }
    ds_sandbox_close(s);
    if (rc)
        ds_probe_pictures_close(p);
    return rc;
}

void ds_probe_pictures_close(ds_probe_pictures *p) {
    for (int i = 0; i < p->count; i++)
        free(p->groups[i].rgb);
    *p = (ds_probe_pictures){0};
}
