/* tests/picture_files.h - encoders for tests: pictures of any format, in memory and on disk. */
#ifndef DS_TESTS_PICTURE_FILES_H
#define DS_TESTS_PICTURE_FILES_H

#include "base/fs.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>
#include <webp/encode.h>

static inline void png_append(png_structp png, png_bytep p, size_t n) {
    ds_buf_add(png_get_io_ptr(png), p, n);
}

static inline void png_no_flush(png_structp png) { (void)png; }

typedef struct {
    int w, h, type, depth, interlaced;
    const uint8_t *rows; /* packed as PNG stores them */
    size_t row_bytes;
    const png_color *palette;
    int palette_count;
    const uint8_t *palette_alpha; /* may be NULL */
    const png_color_16 *transparent;
} png_spec;

static inline ds_buf make_png(const png_spec *s) {
    ds_buf b = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    if (setjmp(png_jmpbuf(png)))
        abort();
    png_set_write_fn(png, &b, png_append, png_no_flush);
    png_set_IHDR(png, info, (png_uint_32)s->w, (png_uint_32)s->h, s->depth, s->type,
                 s->interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (s->palette)
        png_set_PLTE(png, info, s->palette, s->palette_count);
    if (s->palette_alpha || s->transparent)
        png_set_tRNS(png, info, s->palette_alpha, s->palette_alpha ? s->palette_count : 0,
                     s->transparent);
    png_write_info(png, info);
    png_bytep *rows = ds_xmalloc((size_t)s->h * sizeof *rows);
    for (int y = 0; y < s->h; y++)
        rows[y] = (png_bytep)(uintptr_t)(s->rows + (size_t)y * s->row_bytes);
    png_set_interlace_handling(png);
    png_write_image(png, rows);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    free(rows);
    return b;
}

static inline ds_buf make_rgb_png(int w, int h, const uint8_t *rgb) {
    png_spec s = {.w = w,
                  .h = h,
                  .type = PNG_COLOR_TYPE_RGB,
                  .depth = 8,
                  .rows = rgb,
                  .row_bytes = (size_t)w * 3};
    return make_png(&s);
}

/* Any picture of that size: a slope whose start is `seed`. */
static inline uint8_t *make_slope(int w, int h, int seed) {
    uint8_t *p = ds_xmalloc((size_t)w * (size_t)h * 3);
    for (int i = 0; i < w * h; i++) {
        p[i * 3] = (uint8_t)(seed + i % w * 5);
        p[i * 3 + 1] = (uint8_t)(seed * 7 + i / w * 3);
        p[i * 3 + 2] = (uint8_t)(seed * 31);
    }
    return p;
}

static inline ds_buf make_slope_png(int w, int h, int seed) {
    uint8_t *p = make_slope(w, h, seed);
    ds_buf b = make_rgb_png(w, h, p);
    free(p);
    return b;
}

typedef struct {
    int w, h, components;
    J_COLOR_SPACE in, stored;
    int adobe, progressive, arithmetic;
    const uint8_t *rows;
} jpeg_spec;

static inline ds_buf make_jpeg(const jpeg_spec *s) {
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr errors;
    unsigned char *data = NULL;
    unsigned long n = 0;
    c.err = jpeg_std_error(&errors);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &data, &n);
    c.image_width = (JDIMENSION)s->w;
    c.image_height = (JDIMENSION)s->h;
    c.input_components = s->components;
    c.in_color_space = s->in;
    jpeg_set_defaults(&c);
    jpeg_set_colorspace(&c, s->stored);
    jpeg_set_quality(&c, 100, TRUE);
    for (int i = 0; i < c.num_components; i++)
        c.comp_info[i].h_samp_factor = c.comp_info[i].v_samp_factor = 1;
    c.write_Adobe_marker = (boolean)s->adobe;
    c.arith_code = (boolean)s->arithmetic;
    if (s->progressive)
        jpeg_simple_progression(&c);
    jpeg_start_compress(&c, TRUE);
    for (int y = 0; y < s->h; y++) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(s->rows + (size_t)y * (size_t)(s->w * s->components));
        jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    ds_buf b = {0};
    ds_buf_add(&b, data, n);
    free(data);
    return b;
}

static inline ds_buf make_webp(int w, int h, const uint8_t *rgba) {
    uint8_t *data = NULL;
    size_t n = WebPEncodeLosslessRGBA(rgba, w, h, w * 4, &data);
    ds_buf b = {0};
    ds_buf_add(&b, data, n);
    WebPFree(data);
    return b;
}

/* Writes and releases. */
static inline void put_file(const char *dir, const char *name, ds_buf b) {
    char path[4096], *slash;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    slash = strrchr(path, '/');
    *slash = 0;
    if (ds_fs_mkdirs(path, NULL))
        abort();
    *slash = '/';
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(b.data ? b.data : "", 1, b.len, f) != b.len || fclose(f))
        abort();
    ds_buf_release(&b);
}

static inline void put_text(const char *dir, const char *name, const char *text) {
    ds_buf b = {0};
    ds_buf_add(&b, text, strlen(text));
    put_file(dir, name, b);
}

#endif
