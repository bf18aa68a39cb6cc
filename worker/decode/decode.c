/* worker/decode/decode.c - which format, limits, orientation (contract in decode.h). */
#include "worker/decode/decode_internal.h"

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
    int (*pillow)(ds_pillow *);
} format_entry;

static const format_entry formats[] = {
    {DS_IMAGE_JPEG, ds_jpeg_header, ds_jpeg_pixels, ds_jpeg_pillow},
    {DS_IMAGE_PNG, ds_png_header, ds_png_pixels, ds_png_pillow},
    {DS_IMAGE_WEBP, ds_webp_header, ds_webp_pixels, ds_webp_pillow},
    {DS_IMAGE_PNM, ds_pnm_header, ds_pnm_pixels, ds_pnm_pillow},
};

static enum ds_image_format sniff(const uint8_t *p, size_t n) {
    if (n >= 3 && !memcmp(p, "\xff\xd8\xff", 3))
        return DS_IMAGE_JPEG;
    if (n >= 8 && !memcmp(p, "\x89PNG\r\n\x1a\n", 8))
        return DS_IMAGE_PNG;
    if (n >= 12 && !memcmp(p, "RIFF", 4) && !memcmp(p + 8, "WEBP", 4))
        return DS_IMAGE_WEBP;
    if (n >= 3 && p[0] == 'P' && p[1] >= '1' && p[1] <= '6' && strchr(" \t\r\n\v\f#", p[2]) && p[2])
        return DS_IMAGE_PNM;
    return DS_IMAGE_UNKNOWN;
}

/* Files that people will try get their name in the reason.  pillow: Pillow 13 reads it, with the
 * libraries that it brings along. */
static const struct {
    int at, n; /* where the bytes are */
    const char *bytes, *name;
    int pillow;
} foreign[] = {
    {0, 6, "GIF87a", "GIF", 1},
    {0, 6, "GIF89a", "GIF", 1},
    {0, 4, "II*\0", "TIFF", 1},
    {0, 4, "MM\0*", "TIFF", 1},
    {0, 4, "II+\0", "TIFF", 1},
    {0, 4, "MM\0+", "TIFF", 1},
    {0, 2, "BM", "BMP", 1},
    {4, 8, "ftypavif", "AVIF", 1},
    {4, 8, "ftypavis", "AVIF", 1},
    {4, 8, "ftypheic", "HEIF", 0},
    {4, 8, "ftypheix", "HEIF", 0},
    {4, 8, "ftypheim", "HEIF", 0},
    {4, 8, "ftypheis", "HEIF", 0},
    {4, 8, "ftyphevc", "HEIF", 0},
    {4, 8, "ftyphevx", "HEIF", 0},
    {4, 8, "ftypmif1", "HEIF or AVIF", 1},
    {4, 8, "ftypmif2", "HEIF", 0},
    {4, 8, "ftypmsf1", "HEIF or AVIF", 1},
    {4, 8, "ftypqt  ", "QuickTime video", 0},
    {4, 8, "ftypcrx ", "Canon raw", 0},
    {4, 4, "ftyp", "MP4 video", 0},
    {0, 12, "\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", 0},
    {0, 2, "\xff\x0a", "JPEG XL", 0},
    {0, 12, "\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000", 1},
    {0, 4, "\xff\x4f\xff\x51", "JPEG 2000", 1},
    {0, 4, "qoif", "QOI", 1},
    {0, 4, "8BPS", "Photoshop", 1},
    {0, 4, "DDS ", "DDS", 1},
    {0, 4, "\0\0\1\0", "ICO", 1},
    {0, 4, "icns", "ICNS", 1},
    {0, 2, "\x01\xda", "SGI", 1},
    {0, 4, "\x28\0\0\0", "BMP without its first header", 1},
    {0, 4, "\x6c\0\0\0", "BMP without its first header", 1},
    {0, 4, "\x7c\0\0\0", "BMP without its first header", 1},
    {0, 2, "\x0a\0", "PCX", 1},
    {0, 2, "\x0a\2", "PCX", 1},
    {0, 2, "\x0a\3", "PCX", 1},
    {0, 2, "\x0a\5", "PCX", 1},
    {0, 4, "\xb1\x68\xde\x3a", "DCX", 1},
    {0, 9, "/* XPM */", "XPM", 1},
    {0, 7, "#define", "XBM", 1},
    {0, 8, "\n#define", "XBM", 1},
    {0, 11, "Image type:", "IM", 1},
    {0, 4, "\x59\xa6\x6a\x95", "Sun raster", 1},
    {0, 4, "DanM", "MSP", 1},
    {0, 4, "LinS", "MSP", 1},
    {0, 6, "SIMPLE", "FITS", 1},
    {0, 4, "BLP1", "BLP", 1},
    {0, 4, "BLP2", "BLP", 1},
    {0, 4, "FTEX", "FTEX", 1},
    {0, 4, "\x80\xe8\0\0", "PIXAR", 1},
    {4, 2, "\x11\xaf", "FLI", 1},
    {4, 2, "\x12\xaf", "FLI", 1},
    {0, 4, "%!PS", "EPS", 1},
    {0, 2, "P7", "PAM", 0},
    {0, 2, "Pf", "PFM", 1},
    {0, 4, "RIFF", "a RIFF file that is no WebP", 0},
    {0, 4, "\x1a\x45\xdf\xa3", "WebM or Matroska video", 0},
    {0, 6, "\x93NUMPY", "NumPy array", 0},
    {0, 5, "%PDF-", "PDF", 0},
    {0, 4, "<svg", "SVG", 0},
    {0, 5, "<?xml", "XML or SVG", 0},
    {0, 9, "<!DOCTYPE", "HTML", 0},
    {0, 9, "<!doctype", "HTML", 0},
    {0, 5, "<html", "HTML", 0},
    {0, 4, "PK\3\4", "ZIP", 0},
    {4, 4, "moov", "QuickTime video", 0},
    {4, 4, "mdat", "QuickTime video", 0},
    {4, 4, "wide", "QuickTime video", 0},
};

/* TGA has no mark at its beginning: what Pillow asks of its 18 bytes. */
static int is_tga(const uint8_t *p, size_t n) {
    static const uint8_t types[] = {1, 2, 3, 9, 10, 11}, depths[] = {1, 8, 16, 24, 32};
    return n >= 18 && p[1] <= 1 && (p[12] || p[13]) && (p[14] || p[15]) &&
           memchr(types, p[2], sizeof types) && memchr(depths, p[16], sizeof depths);
}

static const format_entry *find_format(const uint8_t *p, size_t n, ds_image_info *info,
                                       char *reason) {
    enum ds_image_format format = sniff(p, n);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i].format == format)
            return &formats[i];
    info->verdict = DS_DECODE_BROKEN;
    if (n == 0) {
        ds_decode_fail(reason, "empty file");
        return NULL;
    }
    ds_decode_fail(reason, "unknown file type");
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        if (n < (size_t)(foreign[i].at + foreign[i].n) ||
            memcmp(p + foreign[i].at, foreign[i].bytes, (size_t)foreign[i].n))
            continue;
        info->verdict = foreign[i].pillow ? DS_DECODE_UNSUPPORTED : DS_DECODE_BROKEN;
        ds_decode_fail(reason, "unknown file type (%s is not supported)", foreign[i].name);
        return NULL;
    }
    if (is_tga(p, n)) {
        info->verdict = DS_DECODE_UNSUPPORTED;
        ds_decode_fail(reason, "unknown file type (TGA is not supported)");
    }
    return NULL;
}

static int header_of(const uint8_t *data, size_t size, const format_entry **format,
                     ds_image_info *info, char *reason) {
    *info = (ds_image_info){.orientation = 1, .verdict = DS_DECODE_BROKEN};
    const format_entry *f = *format = find_format(data, size, info, reason);
    if (!f)
        return -1;
    info->format = f->format;
    if (f->header(data, size, info, reason))
        return -1;
    if (info->width < 1 || info->height < 1)
        return ds_decode_fail(reason, "damaged: a side of zero pixels");
    info->notes |= info->orientation > 1 ? DS_NOTE_ORIENTATION : 0;
    info->verdict = DS_DECODED;
    return 0;
}

int ds_decode_header(const uint8_t *data, size_t size, ds_image_info *info,
                     char reason[DS_REASON_SIZE]) {
    const format_entry *f;
    if (header_of(data, size, &f, info, reason))
        return -1;
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

static int too_large(ds_image_info *info, int64_t w, int64_t h, int64_t limit, char *reason) {
    info->verdict = DS_DECODE_TOO_LARGE;
    return ds_decode_fail(reason, "too large: %lld x %lld pixels, the limit is %lld pixels",
                          (long long)w, (long long)h, (long long)limit);
}

static int decode_for_training(const uint8_t *data, size_t size, int64_t max_pixels,
                               ds_image_info *info, uint8_t **rgb, char *reason) {
    const format_entry *f;
    if (header_of(data, size, &f, info, reason))
        return -1;
    int w = info->width, h = info->height;
    if ((int64_t)w * h > max_pixels)
        return too_large(info, w, h, max_pixels, reason);
    info->verdict = DS_DECODE_BROKEN;
    if (f->pixels(data, size, w, h, rgb, reason))
        return -1;
    if (info->orientation > 1) {
        uint8_t *turned = orient(*rgb, w, h, info->orientation);
        if (!turned) {
            info->verdict = DS_DECODE_GAVE_UP;
            return ds_decode_fail(reason, "not enough memory to decode");
        }
        *rgb = turned;
    }
    if (info->orientation >= 5) {
        info->width = h;
        info->height = w;
    }
    info->verdict = DS_DECODED;
    return 0;
}

int ds_pillow_fail(ds_pillow *d, enum ds_decode_verdict verdict, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(d->reason, DS_REASON_SIZE, fmt, ap);
    va_end(ap);
    d->info->verdict = verdict;
    return -1;
}

int ds_pillow_room(ds_pillow *d, int64_t width, int64_t height) {
    if (width < 1 || height < 1)
        return ds_pillow_fail(d, DS_DECODE_BROKEN, "damaged: a side of zero pixels");
    if (width > d->max_pixels / height)
        return too_large(d->info, width, height, d->max_pixels, d->reason);
    d->info->width = (int)width;
    d->info->height = (int)height;
    d->rgb = calloc((size_t)width * (size_t)height, 3);
    return d->rgb ? 0 : ds_pillow_fail(d, DS_DECODE_GAVE_UP, "not enough memory to decode");
}

static int decode_as_pillow(const uint8_t *data, size_t size, int64_t max_pixels,
                            ds_image_info *info, uint8_t **rgb, char *reason) {
    *info = (ds_image_info){.orientation = 1, .verdict = DS_DECODE_BROKEN};
    const format_entry *f = find_format(data, size, info, reason);
    if (!f)
        return -1;
    info->format = f->format;
    ds_pillow d = {data, size, max_pixels, info, reason, NULL};
    int rc = f->pillow(&d);
    *rgb = d.rgb;
    if (!rc)
        info->verdict = DS_DECODED;
    return rc;
}

int ds_decode_rgb(enum ds_decode_use use, const uint8_t *data, size_t size, int64_t max_pixels,
                  ds_image_info *info, uint8_t **rgb, char reason[DS_REASON_SIZE]) {
    *rgb = NULL;
    max_pixels = max_pixels > DS_DECODE_MAX_PIXELS ? DS_DECODE_MAX_PIXELS : max_pixels;
    int rc = use == DS_DECODE_PILLOW
                 ? decode_as_pillow(data, size, max_pixels, info, rgb, reason)
                 : decode_for_training(data, size, max_pixels, info, rgb, reason);
    if (rc) {
        free(*rgb);
        *rgb = NULL;
    }
    return rc;
}
