/* worker/decode.h - bytes of a picture file -> 8-bit RGB.
 *
 * Purpose: JPEG (grey, YCbCr, RGB, CMYK, YCCK; baseline, progressive, arithmetic; EXIF orientation
 * applied), PNG (1 to 16 bit, palette, grey, tRNS, alpha, interlaced), WebP (still), PNM (P1 to
 * P6).  Always the full size: no scaled DCT, so the picture is the defined one.  Alpha is
 * composited over white: (c * a + 255 * (255 - a) + 127) / 255 after reduction to 8 bits.  Colour
 * profiles and gamma are ignored.  CMYK: r = k' - k' * (255 - c') / 255 with Adobe's inverted
 * values.
 *
 * These functions parse hostile bytes: outside tests they run only in the restricted child
 * (worker/sandbox.h).  Nothing is allocated for pixels before width * height was checked.
 * Ownership: *rgb is malloc'ed.  Thread: any.  Errors: 0, or -1 with a reason that a user can
 * read.
 */
#ifndef DS_WORKER_DECODE_H
#define DS_WORKER_DECODE_H

#include "worker/files.h"

#include <stddef.h>
#include <stdint.h>

#define DS_DECODE_ID "rgb8-white-exif-1" /* changes when any pixel of any format may change */
#define DS_DECODE_MAX_PIXELS (INT64_C(1) << 26)

enum ds_image_format { DS_IMAGE_UNKNOWN, DS_IMAGE_JPEG, DS_IMAGE_PNG, DS_IMAGE_WEBP, DS_IMAGE_PNM };

typedef struct {
    enum ds_image_format format;
    int width, height; /* as shown: EXIF orientation applied */
    int orientation;   /* 1..8, already applied to what ds_decode_rgb returns */
} ds_image_info;

/* Format and dimensions, and whether the container is whole (a cut-off file is found here).
 * Dimensions are reported whatever their size: the caller applies its limits. */
int ds_decode_header(const uint8_t *data, size_t size, ds_image_info *info,
                     char reason[DS_REASON_SIZE]);

/* The whole picture, (height, width, 3).  More than max_pixels: refused before allocation. */
int ds_decode_rgb(const uint8_t *data, size_t size, int64_t max_pixels, ds_image_info *info,
                  uint8_t **rgb, char reason[DS_REASON_SIZE]);

#endif
