/* worker/decode.c - which format, limits, orientation (contract in decode.h). */
#include "worker/decode_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int ds_decode_fail(char *reason, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(reason, DS_REASON_SIZE, fmt, ap);
    va_end(ap);
    return -1;
}

void ds_over_white(uint8_t *p, size_t n) {
    uint8_t *o = p;
    for (size_t i = 0; i < n; i++, p += 4, o += 3) {
        unsigned a = p[3];
        for (int c = 0; c < 3; c++)
            o[c] = (uint8_t)((p[c] * a + 255 * (255 - a) + 127) / 255);
    }
}

const char *ds_decode_id(enum ds_decode_use use) {
    return use == DS_DECODE_PILLOW ? "pillow-13" : "train-2";
}

const char *ds_decode_note_text(enum ds_decode_use use, unsigned note) {
    static const char *const texts[DS_NOTE_COUNT][2] = {
        {"have transparency: laid over white", "have transparency: dropped"},
        {"are turned by EXIF: turned", "are turned by EXIF: left as stored"},
        {"have more than 8 bits a sample: scaled",
         "have more than 8 bits a sample: grey cut off at 255, colour keeps its high byte"},
        {"are CMYK: converted without a profile", "are CMYK: converted without a profile"},
        {"are animated: the default picture", "are animated: the first frame"},
        {"are damaged: passed over", "are damaged: passed over"},
    };
    DS_ASSERT(note && !(note & (note - 1)) && note < 1u << DS_NOTE_COUNT);
    return texts[__builtin_ctz(note)][use == DS_DECODE_PILLOW];
}

typedef struct {
    enum ds_image_format format;
    int (*header)(const uint8_t *, size_t, ds_image_info *, char *);
    int (*pixels)(const uint8_t *, size_t, int, int, uint8_t **, char *);
} format_entry;

static const format_entry formats[] = {
    {DS_IMAGE_JPEG, ds_jpeg_header, ds_jpeg_pixels},
    {DS_IMAGE_PNG, ds_png_header, ds_png_pixels},
    {DS_IMAGE_WEBP, ds_webp_header, ds_webp_pixels},
    {DS_IMAGE_PNM, ds_pnm_header, ds_pnm_pixels},
};

static enum ds_image_format sniff(const uint8_t *p, size_t n) {
    if (n >= 3 && !memcmp(p, "\xff\xd8\xff", 3))
        return DS_IMAGE_JPEG;
    if (n >= 8 && !memcmp(p, "\x89PNG\r\n\x1a\n", 8))
        return DS_IMAGE_PNG;
    if (n >= 12 && !memcmp(p, "RIFF", 4) && !memcmp(p + 8, "WEBP", 4))
        return DS_IMAGE_WEBP;
    if (n >= 3 && p[0] == 'P' && p[1] >= '1' && p[1] <= '6' && strchr(" \t\r\n#", p[2]) && p[2])
        return DS_IMAGE_PNM;
    return DS_IMAGE_UNKNOWN;
}

/* Pictures that people will try get their name in the reason. */
static const char *foreign_name(const uint8_t *p, size_t n) {
    if (n >= 6 && (!memcmp(p, "GIF87a", 6) || !memcmp(p, "GIF89a", 6)))
        return "GIF";
    if (n >= 4 && (!memcmp(p, "II*\0", 4) || !memcmp(p, "MM\0*", 4)))
        return "TIFF";
    if (n >= 10 && !memcmp(p, "BM", 2) && !memcmp(p + 6, "\0\0\0\0", 4))
        return "BMP";
    if (n >= 12 && !memcmp(p + 4, "ftyp", 4))
        return "HEIF or AVIF";
    if (n >= 12 && !memcmp(p, "\0\0\0\x0cJXL ", 8))
        return "JPEG XL";
    return NULL;
}

static const format_entry *find_format(const uint8_t *p, size_t n, char *reason) {
    enum ds_image_format format = sniff(p, n);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].format == format)
            return &formats[i];
    const char *name = foreign_name(p, n);
    if (n == 0)
        ds_decode_fail(reason, "empty file");
    else if (name)
        ds_decode_fail(reason, "unknown file type (%s is not supported)", name);
    else
        ds_decode_fail(reason, "unknown file type");
    return NULL;
}

static int header_of(const format_entry *f, const uint8_t *data, size_t size, ds_image_info *info,
                     char *reason) {
    *info = (ds_image_info){.format = f->format, .orientation = 1};
    if (f->header(data, size, info, reason))
        return -1;
    if (info->width < 1 || info->height < 1)
        return ds_decode_fail(reason, "damaged: a side of zero pixels");
    return 0;
}

int ds_decode_header(const uint8_t *data, size_t size, ds_image_info *info,
                     char reason[DS_REASON_SIZE]) {
    *info = (ds_image_info){.orientation = 1, .verdict = DS_DECODE_BROKEN};
    const format_entry *f = find_format(data, size, reason);
    if (!f || header_of(f, data, size, info, reason)) {
        info->verdict = DS_DECODE_BROKEN;
        return -1;
    }
    if (info->orientation >= 5) {
        int w = info->width;
        info->width = info->height;
        info->height = w;
    }
    return 0;
}

/* EXIF orientation o: pixels (h, w) as stored -> as shown. */
static uint8_t *orient(uint8_t *in, int w, int h, int o) {
    int out_w = o >= 5 ? h : w, out_h = o >= 5 ? w : h;
    uint8_t *out = malloc((size_t)w * (size_t)h * 3);
    if (!out)
        return NULL;
    for (int y = 0; y < out_h; y++) {
        for (int x = 0; x < out_w; x++) {
            int u = o >= 5 ? y : x, v = o >= 5 ? x : y;
            int mirror_u = o == 2 || o == 3 || o == 7 || o == 8;
            int mirror_v = o == 3 || o == 4 || o == 6 || o == 7;
            u = mirror_u ? w - 1 - u : u;
            v = mirror_v ? h - 1 - v : v;
            memcpy(out + ((size_t)y * (size_t)out_w + (size_t)x) * 3,
                   in + ((size_t)v * (size_t)w + (size_t)u) * 3, 3);
        }
    }
    free(in);
    return out;
}

static int decode_rgb(const uint8_t *data, size_t size, int64_t max_pixels, ds_image_info *info,
                  uint8_t **rgb, char reason[DS_REASON_SIZE]) {
    *rgb = NULL;
    *info = (ds_image_info){.orientation = 1, .verdict = DS_DECODE_BROKEN};
    const format_entry *f = find_format(data, size, reason);
    if (!f || header_of(f, data, size, info, reason))
        return -1;
    int w = info->width, h = info->height;
    if (max_pixels > DS_DECODE_MAX_PIXELS)
        max_pixels = DS_DECODE_MAX_PIXELS;
    if ((int64_t)w * h > max_pixels)
        return info->verdict = DS_DECODE_TOO_LARGE,
               ds_decode_fail(reason, "too large: %d x %d pixels, the limit is %lld pixels", w, h,
                              (long long)max_pixels);
    if (f->pixels(data, size, w, h, rgb, reason))
        return -1;
    if (info->orientation > 1) {
        uint8_t *turned = orient(*rgb, w, h, info->orientation);
        if (!turned) {
            free(*rgb);
            *rgb = NULL;
            return ds_decode_fail(reason, "not enough memory to decode");
        }
        *rgb = turned;
    }
    if (info->orientation >= 5) {
        info->width = h;
        info->height = w;
    }
    return 0;
}

int ds_decode_rgb(enum ds_decode_use use, const uint8_t *data, size_t size, int64_t max_pixels,
                  ds_image_info *info, uint8_t **rgb, char reason[DS_REASON_SIZE]) {
    (void)use;
    if (decode_rgb(data, size, max_pixels, info, rgb, reason)) {
        info->verdict = info->verdict == DS_DECODED ? DS_DECODE_BROKEN : info->verdict;
        return -1;
    }
    info->verdict = DS_DECODED;
    return 0;
}
