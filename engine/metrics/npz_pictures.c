/* engine/metrics/npz_pictures.c - the pictures in an .npz file, one after the other. */
#include "base/mem.h"
#include "engine/metrics/features.h"
#include "engine/metrics/npz.h"
#include "engine/metrics/npz_internal.h"

#include <stdlib.h>
#include <string.h>

enum { SIDE_MAX = 65535 };

struct ds_npz_pictures {
    npz_reader r;
    char *path;
    int64_t count, given;
    int width, height;
};

/* Is there such a member? */
static int has(npz_reader *r, const char *name) { return zip_name_locate(r->zip, name, 0) >= 0; }

/* Opens arr_0 and reads its header; 1 = there is none. */
static int open_pictures(npz_reader *r, npy_header *h) {
    int rc = ds_npz_open_member(r, "arr_0.npy");
    rc = rc ? rc : ds_npz_read_header(r, h);
    if (rc)
        return rc;
    if (h->kind != 'u' || h->width != 1)
        return ds_fail(r->err, DS_EINVAL,
                       "'%.200s': member '%s' has numbers of type '%s', which is not supported: "
                       "pictures are uint8 of 0 to 255",
                       r->path, r->member, h->type);
    if (h->ndim != 4 || h->shape[3] != 3 || h->fortran)
        return ds_fail(r->err, DS_EINVAL,
                       "'%.200s': member '%s' has a shape that is not supported: pictures are (N, "
                       "height, width, 3) in C order",
                       r->path, r->member);
    for (int i = 1; i < 3; i++)
        if (h->shape[i] < 1 || h->shape[i] > SIDE_MAX)
            return ds_fail(r->err, DS_EINVAL,
                           "'%.200s': member '%s' has pictures of %lld x %lld, want 1 to %d a side",
                           r->path, r->member, (long long)h->shape[2], (long long)h->shape[1],
                           SIDE_MAX);
    if (h->shape[0] > DS_FEATURE_ROWS_MAX)
        return ds_fail(r->err, DS_ELIMIT, "'%.200s': %lld pictures, at most %d are taken", r->path,
                       (long long)h->shape[0], DS_FEATURE_ROWS_MAX);
    return h->shape[0] ? 0
                       : ds_fail(r->err, DS_EINVAL, "'%.200s': member '%s' has no picture", r->path,
                                 r->member);
}

int ds_npz_look(const char *path, ds_npz_contents *out, ds_error *err) {
    npz_reader r;
    npy_header h = {0};
    *out = (ds_npz_contents){0};
    int rc = ds_npz_open(&r, path, err);
    if (!rc) {
        out->stats = has(&r, "mu.npy") && has(&r, "sigma.npy");
        out->spatial = has(&r, "mu_s.npy") && has(&r, "sigma_s.npy");
        rc = open_pictures(&r, &h);
        if (!rc) {
            out->pictures = h.shape[0];
            out->height = (int)h.shape[1];
            out->width = (int)h.shape[2];
        }
        rc = rc == 1 ? 0 : rc;
    }
    ds_npz_close(&r);
    if (!rc && !out->stats && !out->pictures)
        rc = ds_fail(err, DS_EINVAL,
                     "'%.200s' has neither statistics (mu and sigma) nor pictures (arr_0)", path);
    return rc;
}

int ds_npz_pictures_open(const char *path, ds_npz_pictures **out, ds_error *err) {
    ds_npz_pictures *p = ds_xcalloc(1, sizeof *p);
    npy_header h = {0};
    p->path = ds_xstrdup(path);
    int rc = ds_npz_open(&p->r, p->path, err);
    rc = rc ? rc : open_pictures(&p->r, &h);
    if (rc == 1)
        rc = ds_fail(err, DS_EINVAL, "'%.200s' has no pictures (arr_0)", path);
    if (rc) {
        ds_npz_pictures_close(p);
        return rc;
    }
    p->count = h.shape[0];
    p->height = (int)h.shape[1];
    p->width = (int)h.shape[2];
    *out = p;
    return 0;
}

void ds_npz_pictures_close(ds_npz_pictures *p) {
    if (!p)
        return;
    ds_npz_close(&p->r);
    free(p->path);
    free(p);
}

int64_t ds_npz_pictures_count(const ds_npz_pictures *p) { return p->count; }
int ds_npz_pictures_width(const ds_npz_pictures *p) { return p->width; }
int ds_npz_pictures_height(const ds_npz_pictures *p) { return p->height; }

int ds_npz_pictures_next(ds_npz_pictures *p, uint8_t *rgb, ds_error *err) {
    DS_ASSERT(p->given < p->count);
    p->r.err = err;
    int rc = ds_npz_take(&p->r, rgb, (size_t)p->height * (size_t)p->width * 3);
    if (!rc && ++p->given == p->count)
        rc = ds_npz_at_end(&p->r);
    return rc;
}
