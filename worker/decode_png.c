/* worker/decode_png.c - PNG through libpng. */
#include "worker/decode_internal.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

static uint32_t get32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

int ds_png_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason) {
    int has_data = 0;
    for (size_t at = 8;;) {
        if (n - at < 12 || get32(p + at) > n - at - 12)
            return ds_decode_fail(reason, "truncated: the PNG data ends before its IEND chunk");
        size_t length = get32(p + at);
        const uint8_t *type = p + at + 4;
        if (at == 8) {
            if (memcmp(type, "IHDR", 4) || length != 13)
                return ds_decode_fail(reason, "damaged PNG: does not start with IHDR");
            uint32_t w = get32(type + 4), h = get32(type + 8);
            if (w > INT32_MAX || h > INT32_MAX)
                return ds_decode_fail(reason, "damaged PNG: bad dimensions");
            info->width = (int)w;
            info->height = (int)h;
        }
        has_data |= !memcmp(type, "IDAT", 4);
        if (!memcmp(type, "IEND", 4))
            break;
        at += length + 12;
    }
    return has_data ? 0 : ds_decode_fail(reason, "damaged PNG: no picture in it");
}

typedef struct {
    const uint8_t *p, *end;
    char *reason;
} png_source;

static void read_bytes(png_structp png, png_bytep out, size_t n) {
    png_source *s = png_get_io_ptr(png);
    if ((size_t)(s->end - s->p) < n)
        png_error(png, "unexpected end of data");
    memcpy(out, s->p, n);
    s->p += n;
}

static void on_error(png_structp png, png_const_charp message) {
    png_source *s = png_get_error_ptr(png);
    ds_decode_fail(s->reason, "damaged PNG: %.120s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) { (void)png, (void)message; }

/* Whatever is stored becomes 8-bit RGB, with alpha where there is any; returns the channels. */
static int set_transforms(png_structp png, png_infop info) {
    png_set_expand(png); /* palette -> RGB, 1/2/4-bit grey -> 8, tRNS -> alpha */
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return png_get_channels(png, info);
}

int ds_png_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason) {
    png_source source = {p, p + n, reason};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    uint8_t *volatile pixels = NULL;
    png_bytep *volatile rows = NULL;
    if (!info) {
        png_destroy_read_struct(&png, NULL, NULL);
        return ds_decode_fail(reason, "not enough memory to decode");
    }
    if (setjmp(png_jmpbuf(png))) {
        png_destroy_read_struct(&png, &info, NULL);
        free(pixels);
        free(rows);
        return -1;
    }
    png_set_read_fn(png, &source, read_bytes);
    png_set_user_limits(png, (png_uint_32)w, (png_uint_32)h);
    png_set_chunk_malloc_max(png, 8 << 20); /* unpacked text and profiles */
    png_read_info(png, info);
    int channels = set_transforms(png, info);
    size_t row = png_get_rowbytes(png, info);
    if ((channels != 3 && channels != 4) || row != (size_t)w * (size_t)channels ||
        png_get_image_height(png, info) != (png_uint_32)h)
        png_error(png, "unexpected layout");
    pixels = malloc(row * (size_t)h);
    rows = malloc((size_t)h * sizeof *rows);
    if (!pixels || !rows)
        png_error(png, "not enough memory");
    for (int y = 0; y < h; y++)
        rows[y] = pixels + (size_t)y * row;
    png_read_image(png, (png_bytepp)rows);
    png_read_end(png, NULL);
    png_destroy_read_struct(&png, &info, NULL);
    free(rows);
    if (channels == 4)
        ds_over_white(pixels, (size_t)w * (size_t)h);
    *rgb = pixels;
    return 0;
}
