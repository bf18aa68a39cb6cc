#include "worker/convert/import_feature_net.h"
#include "base/fs.h"
#include "base/mem.h"
#include "engine/metrics/fid_net.h"
#include "engine/files/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSORS_MAX = 512 };

typedef struct {
    const ds_weights_tensor *from;
    size_t count;
} wanted;

typedef struct {
    ds_weights *src;
    ds_st_writer *writer;
    wanted list[TENSORS_MAX];
    int count, rounded; /* rounded: a type of tensors that have fewer digits than F32 */
} network_import;

static int want(network_import *im, const char *name, int ndim, const int64_t *shape,
                ds_error *err) {
    wanted *w = &im->list[im->count];
    DS_ASSERT(im->count < TENSORS_MAX);
    ds_error why = {0};
    int rc = ds_weights_need(im->src, name, ndim, shape, &w->from, &why);
    if (rc)
        return ds_fail(err, rc == DS_EINTEGRITY ? DS_EINVAL : rc,
                       "'%.200s' is not the network of FID (pt_inception-2015-12-05-6726825d.pth): "
                       "%s",
                       ds_weights_path(im->src), why.message);
    w->count = w->from->count;
    if (w->from->dtype == DS_ST_F16 || w->from->dtype == DS_ST_BF16)
        im->rounded = (int)w->from->dtype;
    im->count++;
    ds_st_writer_add(im->writer, name, DS_ST_F32, ndim, shape, NULL);
    return 0;
}

/* Tensors that the network does not need, AuxLogits for one. */
static void say_rest(const network_import *im) {
    size_t rest = ds_weights_count(im->src) - (size_t)im->count;
    for (size_t i = 0; rest && i < ds_weights_count(im->src); i++) {
        const ds_weights_tensor *t = ds_weights_at(im->src, i);
        int used = 0;
        for (int k = 0; k < im->count; k++)
            used |= im->list[k].from == t;
        if (used)
            continue;
        char text[200];
        snprintf(text, sizeof text, "%zu tensors, as '%.100s'", rest, t->name);
        ds_import_report_ignored(ds_weights_report(im->src), text, "no part of the network of FID");
        return;
    }
}

/* Every tensor of the network, in file order. */
static int want_all(network_import *im, ds_error *err) {
    static const char *const bn[] = {"weight", "bias", "running_mean", "running_var"};
    char unit[64], name[96];
    int64_t shape[4], fc[2] = {DS_INCEPTION_LOGITS, DS_INCEPTION_POOL};
    const ds_weights_tensor *t = ds_weights_find(im->src, "fc.weight");
    if (t && t->ndim == 2 && t->shape[0] == 1000)
        return ds_fail(err, DS_EINVAL,
                       "'%.200s' is torchvision's Inception with 1000 classes, FID is defined with "
                       "the 1008 of pt_inception-2015-12-05-6726825d.pth",
                       ds_weights_path(im->src));
    int rc = 0;
    for (int i = 0; !rc && ds_inception_part_unit(DS_INCEPTION_FID, i, unit); i++) {
        ds_inception_unit_shape(DS_INCEPTION_FID, i, shape);
        snprintf(name, sizeof name, "%s.conv.weight", unit);
        rc = want(im, name, 4, shape, err);
        for (int k = 0; !rc && k < 4; k++) {
            snprintf(name, sizeof name, "%s.bn.%s", unit, bn[k]);
            rc = want(im, name, 1, shape, err);
        }
    }
    rc = rc ? rc : want(im, "fc.weight", 2, fc, err);
    rc = rc ? rc : want(im, "fc.bias", 1, fc, err);
    if (!rc)
        say_rest(im);
    if (!rc && im->rounded)
        ds_import_report_assumed(
            ds_weights_report(im->src), "weights",
            json_string(ds_st_dtype_name((enum ds_st_dtype)im->rounded)),
            "rounded: distances are a little different from those of the network in F32");
    return rc;
}

static int copy_numbers(network_import *im, float *to, ds_error *err) {
    for (int i = 0; i < im->count; i++) {
        const wanted *w = &im->list[i];
        int rc = ds_weights_read_f32(im->src, w->from, to, err);
        if (rc)
            return rc;
        for (size_t k = 0; k < w->count; k++)
            if (!isfinite(to[k]))
                return ds_fail(err, DS_EINTEGRITY,
                               "'%.200s': tensor '%.80s' has a number that is not finite",
                               ds_weights_path(im->src), w->from->name);
        to += w->count;
    }
    return 0;
}

static int canonical(network_import *im, char **bytes, size_t *n, ds_error *err) {
    ds_buf header = {0};
    size_t data;
    ds_st_writer_meta(im->writer, "diffscaler.kind", DS_FID_NET_KIND);
    ds_st_writer_meta(im->writer, "bn_eps", "0.001");
    int rc = want_all(im, err);
    rc = rc ? rc : ds_st_writer_header(im->writer, &header, &data, err);
    if (!rc) {
        DS_ASSERT(header.len % sizeof(float) == 0); /* padded to 8 */
        char *all = ds_xaligned(header.len + data);
        memcpy(all, header.data, header.len);
        rc = copy_numbers(im, (float *)(void *)(all + header.len), err);
        *n = header.len + data;
        *bytes = rc ? NULL : all;
        if (rc)
            free(all);
    }
    ds_buf_release(&header);
    return rc;
}

int ds_feature_net_canonical(const ds_import_options *o, char **bytes, size_t *n, char *format,
                             ds_error *err) {
    const char *src = o->source;
    network_import im = {0};
    ds_error local = {0};
    static const char *const marks[] = {"Conv2d_1a_3x3.conv.weight", NULL};
    int rc = ds_weights_open(&im.src, src, NULL, &local);
    if (!rc) {
        ds_weights_want(im.src, o->weights, "weights", o->report);
        rc = ds_weights_choose(im.src, marks, &local);
        im.writer = ds_st_writer_new();
        rc = rc ? rc : canonical(&im, bytes, n, &local);
        if (!rc && format)
            snprintf(format, 96, "%s", ds_weights_format(im.src));
        ds_st_writer_free(im.writer);
        ds_weights_close(im.src);
    }
    return rc ? ds_fail(err, rc, "%s", local.message) : 0;
}

/* "dir/pt_inception.pth" -> "pt_inception" */
static void name_of(const char *path, char *out, size_t size) {
    const char *slash = strrchr(path, '/'), *base = slash && slash[1] ? slash + 1 : path;
    snprintf(out, size, "%s", base);
    char *dot = strrchr(out, '.');
    if (dot && dot != out)
        *dot = 0;
}

static json_t *config_of(void) {
    json_t *c = json_pack("{s:s, s:i, s:i, s:i, s:s}", "kind", DS_FID_NET_KIND, "features",
                          DS_INCEPTION_POOL, "spatial", DS_INCEPTION_SPATIAL, "logits",
                          DS_INCEPTION_LOGITS, "metric", DS_FID_METRIC_NAME);
    DS_ASSERT(c);
    return c;
}

int ds_import_feature_net(const ds_import_options *o, ds_import_result *out, ds_error *err) {
    const char *src = o->source, *out_dir = o->out_dir;
    char *bytes = NULL, *path = NULL;
    size_t n = 0;
    *out = (ds_import_result){0};
    int rc = ds_feature_net_canonical(o, &bytes, &n, out->source_format, err);
    rc = rc ? rc : ds_digest_file(src, out->source_sha256, err);
    rc = rc ? rc : ds_fs_mkdirs(out_dir, err);
    if (!rc) {
        ds_digest(bytes, n, out->sha256);
        path = ds_xasprintf("%s/%s.safetensors", out_dir, out->sha256);
        if (strlen(path) >= sizeof out->file)
            rc = ds_fail(err, DS_EINVAL, "the path '%.100s...' is too long: give another folder",
                         path);
    }
    if (!rc && !ds_fs_exists(path))
        rc = ds_fs_write(path, bytes, n, err);
    if (!rc) {
        snprintf(out->file, sizeof out->file, "%s", path);
        name_of(src, out->name, sizeof out->name);
        out->config = config_of();
        out->bytes = (int64_t)n;
        ds_st *st;
        if (!(rc = ds_st_open_memory(path, bytes, n, &st, err))) {
            for (size_t i = 0; i < ds_st_count(st); i++)
                out->parameters += (int64_t)ds_st_at(st, i)->count;
            ds_st_free(st);
        }
    }
    free(bytes);
    free(path);
    if (rc) {
        json_decref(out->config);
        *out = (ds_import_result){0};
    }
    return rc;
}
