/* worker/decode/decode_internal.h - what each format gives to decode.c. */
#ifndef DS_WORKER_DECODE_DECODE_INTERNAL_H
#define DS_WORKER_DECODE_DECODE_INTERNAL_H

#include "worker/decode/decode.h"

/* ---------------------------------------------------------------- for training */

/* Fill width, height (and orientation, notes) from the container; check that it is whole. */
int ds_jpeg_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason);
int ds_png_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason);
int ds_webp_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason);
int ds_pnm_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason);

/* Pixels as stored (before orientation); w and h are what the header said and were checked. */
int ds_jpeg_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason);
int ds_png_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason);
int ds_webp_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason);
int ds_pnm_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason);

/* Fill reason, return -1. */
int ds_decode_fail(char *reason, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* RGBA over white, in place: the first n * 3 bytes of p become RGB. */
void ds_over_white(uint8_t *p, size_t n);

/* Orientation in an EXIF block, which may begin with "Exif\0\0" (worker/decode/decode_exif.c); 0
 * when it says none, or nonsense. */
int ds_exif_orientation(const uint8_t *p, size_t n);
/* The same in the text of a PNG's "Raw profile type exif": a line of its own, the kind, the size,
 * then hexadecimal digits. */
int ds_exif_raw_profile(const char *text, size_t n);

/* ---------------------------------------------------------------- as Pillow does */

/* One file on its way to pixels.  A decoder reads what Pillow reads, in that order, asks for room
 * as soon as it knows the size, and fails where Pillow raises. */
typedef struct {
    const uint8_t *p;
    size_t n;
    int64_t max_pixels;
    ds_image_info *info;
    char *reason;
    uint8_t *rgb; /* (height, width, 3), malloc'ed by ds_pillow_room */
} ds_pillow;

int ds_jpeg_pillow(ds_pillow *d);
int ds_png_pillow(ds_pillow *d);
int ds_webp_pillow(ds_pillow *d);
int ds_pnm_pillow(ds_pillow *d);

/* Takes the size over and makes d->rgb, all black, as Pillow has it before it is filled. */
int ds_pillow_room(ds_pillow *d, int64_t width, int64_t height);
/* Verdict and reason; returns -1. */
int ds_pillow_fail(ds_pillow *d, enum ds_decode_verdict verdict, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* ---------------------------------------------------------------- JPEG, for both */

/* a * b / 255, rounded as Pillow's MULDIV255. */
static inline unsigned ds_mul255(unsigned a, unsigned b) {
    unsigned t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

/* A row of inverted inks, as Adobe stores them, to RGB. */
static inline void ds_cmyk_row(uint8_t *out, const uint8_t *in, int w) {
    for (int x = 0; x < w; x++, in += 4, out += 3) {
        unsigned k = in[3]; /* what the black ink leaves */
        for (int c = 0; c < 3; c++)
            out[c] = (uint8_t)(k - ds_mul255(255u - in[c], k));
    }
}

static inline void ds_grey_row(uint8_t *out, const uint8_t *in, int w) {
    for (int x = 0; x < w; x++, out += 3)
        out[0] = out[1] = out[2] = in[x];
}

static inline unsigned ds_be16(const uint8_t *p) { return (unsigned)p[0] << 8 | p[1]; }
static inline uint32_t ds_be32(const uint8_t *p) {
    return (uint32_t)ds_be16(p) << 16 | ds_be16(p + 2);
}

#endif
