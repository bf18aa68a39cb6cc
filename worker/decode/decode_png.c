/* worker/decode/decode_png.c - PNG through libpng. */
#include "worker/decode/decode_internal.h"

#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---------------------------------------------------------------- orientation */

#define RAW_PROFILE "Raw profile type exif"
enum { TEXT_MAX = 1 << 20 };

/* The text of a zTXt chunk behind its method byte. */
static int packed_profile(const uint8_t *p, size_t n) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)p, .avail_in = (uInt)n};
    char *text = malloc(TEXT_MAX);
    int turned = 0;
    if (text && inflateInit(&z) == Z_OK) {
        z.next_out = (Bytef *)text;
        z.avail_out = TEXT_MAX;
        if (inflate(&z, Z_FINISH) == Z_STREAM_END)
            turned = ds_exif_raw_profile(text, TEXT_MAX - z.avail_out);
        inflateEnd(&z);
    }
    free(text);
    return turned;
}

/* What ImageMagick wrote before there was a chunk for EXIF: text under a name; 0 when it is not. */
static int raw_profile(const uint8_t *type, const uint8_t *data, size_t n) {
    static const char key[] = RAW_PROFILE;
    size_t start = sizeof key; /* with its zero */
    if (n <= start || memcmp(data, key, sizeof key))
        return 0;
    if (!memcmp(type, "tEXt", 4))
        return ds_exif_raw_profile((const char *)data + start, n - start);
    if (!memcmp(type, "zTXt", 4) && !data[start])
        return packed_profile(data + start + 1, n - start - 1);
    return 0;
}

/* The chunk made for it goes before the text, wherever the two are. */
static void note_orientation(const uint8_t *type, size_t n, int *from_chunk, int *from_text) {
    if (!memcmp(type, "eXIf", 4))
        *from_chunk = ds_exif_orientation(type + 4, n);
    else if (!*from_text)
        *from_text = raw_profile(type, type + 4, n);
}

int ds_png_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason) {
    int has_data = 0, from_chunk = -1, from_text = 0;
    for (size_t at = 8;;) {
        if (n - at < 12 || ds_be32(p + at) > n - at - 12)
            return ds_decode_fail(reason, "truncated: the PNG data ends before its IEND chunk");
        size_t length = ds_be32(p + at);
        const uint8_t *type = p + at + 4;
        if (at == 8) {
            if (memcmp(type, "IHDR", 4) || length != 13)
                return ds_decode_fail(reason, "damaged PNG: does not start with IHDR");
            uint32_t w = ds_be32(type + 4), h = ds_be32(type + 8);
            if (w > INT32_MAX || h > INT32_MAX)
                return ds_decode_fail(reason, "damaged PNG: bad dimensions");
            info->width = (int)w;
            info->height = (int)h;
        }
        has_data |= !memcmp(type, "IDAT", 4);
        note_orientation(type, length, &from_chunk, &from_text);
        if (!memcmp(type, "IEND", 4))
            break;
        at += length + 12;
    }
    int turned = from_chunk >= 0 ? from_chunk : from_text;
    info->orientation = turned ? turned : 1;
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
