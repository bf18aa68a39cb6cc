#include "worker/measure/feature_cache.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/zio.h"
#include "engine/files/safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static char *path_of(const char *dir, const char *key) {
    char sha[DS_HEX_SIZE];
    ds_digest(key, strlen(key), sha);
    return ds_xasprintf("%s/features-%s.safetensors.zst", dir, sha);
}

static int read_into(const ds_st *st, const char *key, ds_cached_features *f) {
    const ds_st_tensor *px;
    const char *k = ds_st_meta(st, "key"), *sample = ds_st_meta(st, "sample_digest");
    int64_t shape[2] = {f->n, f->dim}, bytes[1] = {(int64_t)f->pixel_bytes};
    if (!k || strcmp(k, key) || !sample || strlen(sample) >= sizeof f->sample_digest ||
        ds_st_need_f32(st, "features", 2, shape, f->x, NULL) ||
        ds_st_need(st, "pixels", 1, bytes, &px, NULL) || px->dtype != DS_ST_U8)
        return -1;
    for (int64_t i = 0; i < f->n * f->dim; i++)
        if (!isfinite(f->x[i]))
            return -1;
    if (f->pixel_bytes)
        memcpy(f->pixels, px->data, f->pixel_bytes);
    memcpy(f->sample_digest, sample, strlen(sample) + 1);
    return 1;
}

int ds_feature_cache_load(const char *dir, const char *key, ds_cached_features *f) {
    char *path = path_of(dir, key);
    size_t most = (size_t)f->n * (size_t)f->dim * 4 + f->pixel_bytes + (1 << 20);
    ds_st *st = NULL;
    int found = 0;
    if (ds_fs_exists(path))
        found = ds_st_open_zst(path, most, NULL, NULL, &st, NULL) ? -1 : read_into(st, key, f);
    ds_st_free(st);
    free(path);
    return found;
}

int ds_feature_cache_save(const char *dir, const char *key, const ds_cached_features *f,
                          ds_error *err) {
    int rc = ds_fs_mkdirs(dir, err);
    if (rc)
        return rc;
    int64_t shape[2] = {f->n, f->dim}, bytes[1] = {(int64_t)f->pixel_bytes};
    char *data = NULL, *path = path_of(dir, key);
    size_t n;
    ds_st_writer *w = ds_st_writer_new();
    ds_st_writer_meta(w, "key", key);
    ds_st_writer_meta(w, "sample_digest", f->sample_digest);
    ds_st_writer_add(w, "features", DS_ST_F32, 2, shape, f->x);
    ds_st_writer_add(w, "pixels", DS_ST_U8, 1, bytes, f->pixels);
    rc = ds_st_writer_finish(w, &data, &n, err);
    if (!rc)
        rc = ds_zio_write_file(path, data, n, 3, err);
    ds_st_writer_free(w);
    free(data);
    free(path);
    return rc;
}
