/* worker/decode/decode_jpeg.c - JPEG through libjpeg-turbo; markers and EXIF by hand. */
#include "worker/decode/decode_internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

/* Each scan goes over all pixels again, in a few bytes of the file: the work is bounded here, by
 * what the file says, and not by a clock.  Encoders write 10 or so; djpeg's own checks use 500. */
#define SCANS_MAX 500
#define SCANS_PIXELS (INT64_C(128) * DS_DECODE_MAX_PIXELS)

/* From the byte after a scan's header: the offset of the next marker's 0xff, n if there is none. */
static size_t skip_scan(const uint8_t *p, size_t n, size_t at) {
    while (at + 1 < n) {
        const uint8_t *ff = memchr(p + at, 0xff, n - 1 - at);
        if (!ff)
            return n;
        at = (size_t)(ff - p);
        uint8_t m = p[at + 1];
        if (m == 0xff) /* fill byte */
            at++;
        else if (m == 0 || (m >= 0xd0 && m <= 0xd7))
            at += 2;
        else
            return at;
    }
    return n;
}

static int is_frame(uint8_t m) {
    return m >= 0xc0 && m <= 0xcf && m != 0xc4 && m != 0xc8 && m != 0xcc;
}

/* From the byte after a segment: the offset of the next marker's 0xff, n if there is none.  Stray
 * bytes before it are passed over: libjpeg and all programs on it do the same and get the same
 * picture. */
static size_t next_marker(const uint8_t *p, size_t n, size_t at, ds_image_info *info) {
    for (; at + 1 < n; at++) {
        if (p[at] == 0xff && p[at + 1] != 0 && p[at + 1] != 0xff)
            return at;
        if (p[at] != 0xff || !p[at + 1])
            info->notes |= DS_NOTE_DAMAGED;
    }
    return n;
}

int ds_jpeg_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason) {
    size_t at = 2;
    int scans = 0;
    for (;;) {
        at = next_marker(p, n, at, info);
        if (at + 1 >= n)
            return ds_decode_fail(reason, "truncated: the JPEG data ends before its end marker");
        uint8_t m = p[at + 1];
        at += 2;
        if (m == 0xd9)
            break;
        if (m == 0x01 || (m >= 0xd0 && m <= 0xd8))
            continue;
        if (at + 2 > n || at + ds_be16(p + at) > n)
            return ds_decode_fail(reason, "truncated: a JPEG segment is cut off");
        size_t length = ds_be16(p + at);
        if (length < 2 || (is_frame(m) && length < 8))
            return ds_decode_fail(reason, "damaged JPEG: bad segment length");
        if (is_frame(m) && !info->width) {
            info->height = (int)ds_be16(p + at + 3);
            info->width = (int)ds_be16(p + at + 5);
            info->notes |= length > 7 && p[at + 7] == 4 ? DS_NOTE_CMYK : 0;
        }
        if (m == 0xe1 && info->orientation == 1 && length >= 8 &&
            !memcmp(p + at + 2, "Exif\0\0", 6)) {
            int turned = ds_exif_orientation(p + at + 2, length - 2);
            info->orientation = turned ? turned : 1;
        }
        at += length;
        if (m == 0xda) {
            scans++;
            at = skip_scan(p, n, at);
        }
    }
    if (!info->width || !scans)
        return ds_decode_fail(reason, "damaged JPEG: no picture in it");
    int64_t pixels = (int64_t)info->width * info->height;
    if (pixels <= DS_DECODE_MAX_PIXELS && (scans > SCANS_MAX || scans * pixels > SCANS_PIXELS))
        return ds_decode_fail(reason, "too much work: %d scans of %d x %d pixels", scans,
                              info->width, info->height);
    return 0;
}

typedef struct {
    struct jpeg_error_mgr base; /* first: libjpeg hands back a pointer to it */
    jmp_buf escape;
    char *reason;
} jpeg_errors;

static void on_error(j_common_ptr c) {
    jpeg_errors *e = (jpeg_errors *)c->err;
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    ds_decode_fail(e->reason, "damaged JPEG: %.120s", text);
    longjmp(e->escape, 1);
}

/* Warnings that mean missing or invented pixels reject the picture; others (such as stray bytes
 * between markers) do not change it. */
static void on_message(j_common_ptr c, int level) {
    if (level >= 0)
        return;
    switch (c->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
    case JWRN_NOT_SEQUENTIAL:
    case JWRN_BOGUS_PROGRESSION: on_error(c); break;
    default: break;
    }
}

static void discard_message(j_common_ptr c) { (void)c; }

static void read_rows(struct jpeg_decompress_struct *c, uint8_t *rgb) {
    JSAMPARRAY line = NULL;
    if (c->output_components != 3)
        line = c->mem->alloc_sarray((j_common_ptr)c, JPOOL_IMAGE,
                                    c->output_width * (JDIMENSION)c->output_components, 1);
    while (c->output_scanline < c->output_height) {
        uint8_t *out = rgb + (size_t)c->output_scanline * c->output_width * 3;
        jpeg_read_scanlines(c, line ? line : &out, 1);
        if (c->output_components == 4)
            ds_cmyk_row(out, line[0], (int)c->output_width);
        else if (c->output_components == 1)
            ds_grey_row(out, line[0], (int)c->output_width);
    }
}

int ds_jpeg_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason) {
    struct jpeg_decompress_struct c;
    jpeg_errors errors = {.reason = reason};
    c.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = on_error;
    errors.base.emit_message = on_message;
    errors.base.output_message = discard_message;
    uint8_t *volatile pixels = NULL; /* changes between setjmp and longjmp */
    if (setjmp(errors.escape)) {
        jpeg_destroy_decompress(&c);
        free(pixels);
        return -1;
    }
    jpeg_create_decompress(&c);
    jpeg_mem_src(&c, p, (unsigned long)n);
    jpeg_read_header(&c, TRUE);
    int components = c.num_components;
    if ((int)c.image_width != w || (int)c.image_height != h ||
        (components != 1 && components != 3 && components != 4)) {
        ds_decode_fail(reason, "damaged JPEG: frame of %u x %u with %d components", c.image_width,
                       c.image_height, components);
        longjmp(errors.escape, 1);
    }
    c.out_color_space = components == 1 ? JCS_GRAYSCALE : components == 4 ? JCS_CMYK : JCS_RGB;
    c.dct_method = JDCT_ISLOW; /* the exact one: same pixels with and without SIMD */
    pixels = malloc((size_t)w * (size_t)h * 3);
    if (!pixels) {
        ds_decode_fail(reason, "not enough memory to decode");
        longjmp(errors.escape, 1);
    }
    jpeg_start_decompress(&c);
    read_rows(&c, pixels);
    jpeg_finish_decompress(&c);
    jpeg_destroy_decompress(&c);
    *rgb = pixels;
    return 0;
}
