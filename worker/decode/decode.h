/* worker/decode/decode.h - bytes of a picture file -> 8-bit RGB.
 *
 * Purpose: JPEG (grey, YCbCr, RGB, CMYK, YCCK; baseline, progressive, arithmetic), PNG (1 to 16
 * bit, palette, grey, tRNS, alpha, interlaced), WebP, PNM (P1 to P6).  Always the full size: no
 * scaled DCT, so the picture is the defined one.  Colour profiles and gamma are ignored.  CMYK:
 * r = k' - k' * (255 - c') / 255 with the inks inverted, as Adobe and Pillow do, with and without
 * Adobe's marker.
 *
 * What else a file becomes depends on the use:
 *
 *             DS_DECODE_TRAIN                            DS_DECODE_PILLOW
 *   for       training, its references, the bundled      the modes of `evaluate` that are named
 *             mode of `evaluate`                         after a tool
 *   is        what a person sees                         Image.open(f).convert("RGB") of Pillow 13
 *   EXIF      orientation applied                        ignored
 *   alpha     over white: (c * a + 255 * (255 - a)       dropped, the colours under it stay
 *             + 127) / 255 after reduction to 8 bits
 *   16 bit    scaled and rounded                         grey is cut off at 255, colour keeps its
 *                                                        high byte
 *   moving    APNG: its default picture; WebP: refused   the first frame
 *   damage    refused                                    as Pillow: pixels, or DS_DECODE_BROKEN
 *
 * These functions parse hostile bytes: outside tests they run only in the restricted child
 * (worker/decode/sandbox.h).  Nothing is allocated for pixels before width * height was checked.
 * Ownership: *rgb is malloc'ed.  Thread: any.  Errors: 0, or -1 with info->verdict and a reason
 * that a user can read.
 */
#ifndef DS_WORKER_DECODE_DECODE_H
#define DS_WORKER_DECODE_DECODE_H

#include "worker/decode/files.h"

#include <stddef.h>
#include <stdint.h>

/* Part of DS_PREPARE_ID, which published adapters carry: does not change any more.  What changed
 * since is told apart by ds_decode_id(). */
#define DS_DECODE_ID "rgb8-white-exif-1"
#define DS_DECODE_MAX_PIXELS (INT64_C(1) << 26)

enum ds_decode_use { DS_DECODE_TRAIN, DS_DECODE_PILLOW };

/* "train-2" or "pillow-13": changes when any pixel of any format may change.  At most 31 bytes. */
const char *ds_decode_id(enum ds_decode_use use);

enum ds_image_format { DS_IMAGE_UNKNOWN, DS_IMAGE_JPEG, DS_IMAGE_PNG, DS_IMAGE_WEBP, DS_IMAGE_PNM };

/* Why there are no pixels. */
enum ds_decode_verdict {
    DS_DECODED,
    DS_DECODE_BROKEN,      /* damaged; in DS_DECODE_PILLOW: the tool itself fails on this file */
    DS_DECODE_UNSUPPORTED, /* a kind of file that is not read here; the tool may */
    DS_DECODE_TOO_LARGE,   /* beyond a limit of ours; the tool may take it */
    DS_DECODE_GAVE_UP      /* the decoder crashed or had no memory */
};

/* What a picture has that another program might have shown otherwise: bits of info->notes. */
enum ds_decode_note {
    DS_NOTE_ALPHA = 1 << 0,       /* an alpha channel, or a transparent colour or palette entry */
    DS_NOTE_ORIENTATION = 1 << 1, /* EXIF orientation other than 1 */
    DS_NOTE_DEEP = 1 << 2,        /* more than 8 bits a sample */
    DS_NOTE_CMYK = 1 << 3,        /* four inks */
    DS_NOTE_ANIMATED = 1 << 4,    /* more than one picture in it */
    DS_NOTE_DAMAGED = 1 << 5,     /* damage that was passed over */
    DS_NOTE_COUNT = 6
};

/* "have transparency: dropped", as it follows the number of pictures.  note: one bit. */
const char *ds_decode_note_text(enum ds_decode_use use, unsigned note);

typedef struct {
    enum ds_image_format format;
    int width, height; /* as ds_decode_rgb returns it: orientation applied where it is */
    int orientation;   /* 1..8, already applied to what ds_decode_rgb returns (DS_DECODE_TRAIN) */
    unsigned notes;    /* of enum ds_decode_note; all of them only after ds_decode_rgb */
    enum ds_decode_verdict verdict;
} ds_image_info;

/* Format and dimensions for training, and whether the container is whole (a cut-off file is found
 * here).  Dimensions are reported whatever their size: the caller applies its limits. */
int ds_decode_header(const uint8_t *data, size_t size, ds_image_info *info,
                     char reason[DS_REASON_SIZE]);

/* The whole picture, (height, width, 3).  More than max_pixels: refused before allocation. */
int ds_decode_rgb(enum ds_decode_use use, const uint8_t *data, size_t size, int64_t max_pixels,
                  ds_image_info *info, uint8_t **rgb, char reason[DS_REASON_SIZE]);

#endif
