#include "base/zio.h"
#include "base/fs.h"
#include "base/mem.h"

#include <stdlib.h>
#include <zstd.h>
#include <zstd_errors.h>

void ds_zio_memory(size_t result) {
    if (ZSTD_getErrorCode(result) == ZSTD_error_memory_allocation)
        ds_out_of_memory(0);
}

int ds_zio_compress(const void *data, size_t n, int level, char **out, size_t *out_n,
                    ds_error *err) {
    ZSTD_CCtx *c = ds_need(ZSTD_createCCtx());
    size_t cap = ZSTD_compressBound(n);
    char *p = ds_xmalloc(cap);
    ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level ? level : 3);
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 1);
    if (level > 19)
        ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, DS_ZIO_WINDOW_LOG);
    size_t r = ZSTD_compress2(c, p, cap, data, n);
    ZSTD_freeCCtx(c);
    ds_zio_memory(r);
    if (ZSTD_isError(r)) {
        free(p);
        return ds_fail(err, DS_EFAILED, "cannot compress: %s", ZSTD_getErrorName(r));
    }
    *out = p;
    *out_n = r;
    return 0;
}

int ds_zio_decompress(const char *name, const void *data, size_t n, size_t max, char **out,
                      size_t *out_n, ds_error *err) {
    unsigned long long size = ZSTD_getFrameContentSize(data, n);
    if (size == ZSTD_CONTENTSIZE_ERROR)
        return ds_fail(err, DS_EINTEGRITY, "'%s' is not a zstd frame", name);
    if (size == ZSTD_CONTENTSIZE_UNKNOWN)
        return ds_fail(err, DS_EINTEGRITY, "'%s' does not state its content size", name);
    if (size > max)
        return ds_fail(err, DS_ELIMIT, "'%s' would unpack to %llu bytes, limit %zu", name, size,
                       max);
    size_t frame = ZSTD_findFrameCompressedSize(data, n);
    if (ZSTD_isError(frame) || frame != n)
        return ds_fail(err, DS_EINTEGRITY, "'%s' is truncated or has bytes after its zstd frame",
                       name);
    /* One-shot decompression needs no window buffer, so the window is bounded by `size` already. */
    ZSTD_DCtx *d = ds_need(ZSTD_createDCtx());
    char *p = ds_xmalloc((size_t)size + 1);
    size_t r = ZSTD_decompressDCtx(d, p, (size_t)size, data, n);
    ZSTD_freeDCtx(d);
    ds_zio_memory(r);
    if (ZSTD_isError(r) || r != size) {
        free(p);
        return ds_fail(err, DS_EINTEGRITY, "'%s' is damaged: %s", name,
                       ZSTD_isError(r) ? ZSTD_getErrorName(r) : "wrong length");
    }
    p[r] = 0;
    *out = p;
    *out_n = r;
    return 0;
}

int ds_zio_write_file(const char *path, const void *data, size_t n, int level, ds_error *err) {
    char *z;
    size_t zn;
    int rc = ds_zio_compress(data, n, level, &z, &zn, err);
    if (rc)
        return rc;
    rc = ds_fs_write(path, z, zn, err);
    free(z);
    return rc;
}

int ds_zio_read_file(const char *path, size_t max, char **out, size_t *out_n, ds_error *err) {
    char *z;
    size_t zn;
    int rc = ds_fs_read(path, max, &z, &zn, err);
    if (rc)
        return rc;
    rc = ds_zio_decompress(path, z, zn, max, out, out_n, err);
    free(z);
    return rc;
}
