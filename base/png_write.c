/* base/png_write.c - PNG through libpng into memory, then one atomic write. */
#include "base/png_write.h"
#include "base/fs.h"
#include "base/mem.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void append(png_structp png, png_bytep p, size_t n) {
    ds_buf_add(png_get_io_ptr(png), p, n);
}

static void flush(png_structp png) { (void)png; }

int ds_png_encode(const uint8_t *rgb, int w, int h, char **out, size_t *size, ds_error *err) {
    DS_ASSERT(w > 0 && h > 0);
    ds_buf buf = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info || setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        ds_buf_release(&buf);
        return ds_fail(err, DS_ENOMEM, "cannot encode a PNG of %d x %d", w, h);
    }
    png_set_write_fn(png, &buf, append, flush);
    png_set_IHDR(png, info, (png_uint_32)w, (png_uint_32)h, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int y = 0; y < h; y++)
        png_write_row(png, rgb + (size_t)y * (size_t)w * 3);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    *out = buf.data;
    *size = buf.len;
    return 0;
}

int ds_png_output_check(const char *path, int force, ds_error *err) {
    static const char *const others[] = {".jpg", ".jpeg", ".jpe",  ".webp", ".gif",
                                         ".bmp", ".tif",  ".tiff", ".ppm",  ".avif",
                                         ".svg", ".jxl",  ".heic", ".heif", ".pdf"};
    const char *end = strrchr(path, '.');
    for (size_t i = 0; end && i < sizeof others / sizeof *others; i++)
        if (!strcasecmp(end, others[i]))
            return ds_fail(err, DS_EINVAL,
                           "'%.200s': pictures are written as PNG: give a name that ends with .png",
                           path);
    return ds_fs_output_check(path, force, err);
}

int ds_png_write(const char *path, const uint8_t *rgb, int w, int h, ds_error *err) {
    char *data;
    size_t size;
    int rc = ds_png_encode(rgb, w, h, &data, &size, err);
    if (rc)
        return rc;
    rc = ds_fs_write(path, data, size, err);
    free(data);
    return rc;
}
