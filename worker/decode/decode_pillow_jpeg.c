/* worker/decode/decode_pillow_jpeg.c - a JPEG as Pillow 13 reads it.
 *
 * Sources: JpegImagePlugin.py (markers up to the first scan), JpegDecode.c (the rest).  Pillow
 * walks the markers itself, passing over what is no marker, and then hands the whole file to
 * libjpeg in pieces of 64 kB through a source that can suspend: a file that ends too early is only
 * noticed when libjpeg asks for bytes that the picture still needs.  Warnings are ignored.  A
 * progressive picture whose last scans are lost may differ by one level: libjpeg smooths what is
 * missing, and version 3 (Pillow's) does it a little otherwise than 2.1.
 */
#include "worker/decode/decode_internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

enum { BLOCK = 65536 }; /* ImageFile.MAXBLOCK */

/* ---------------------------------------------------------------- markers */

typedef struct {
    ds_pillow *d;
    size_t at;
    int width, height, layers, lossless;
    int icc_count, icc_short; /* pieces of a profile; one of them ends before its number */
} walk;

static int broken(walk *w, const char *what) {
    return ds_pillow_fail(w->d, DS_DECODE_BROKEN, "damaged JPEG: %s", what);
}

/* Photoshop's blocks: running off the end between a block's header fields is an error that Pillow
 * passes over, except at the length of the name (an IndexError). */
static int photoshop_is_readable(const uint8_t *s, size_t n) {
    enum { RESOLUTION = 0x03ed, RESOLUTION_SIZE = 14 };
    size_t at = 14;
    while (at + 4 <= n && !memcmp(s + at, "8BIM", 4)) {
        at += 6;
        if (at > n)
            return 1;
        if (at == n)
            return 0;
        unsigned code = ds_be16(s + at - 2);
        at += 1u + s[at];
        at += at & 1;
        if (at + 4 > n)
            return 1;
        size_t size = ds_be32(s + at);
        at += 4;
        if (code == RESOLUTION && (size < RESOLUTION_SIZE || n - at < RESOLUTION_SIZE))
            return 1;
        at += size;
        at += at & 1;
    }
    return 1;
}

static int on_app(walk *w, unsigned marker, const uint8_t *s, size_t n) {
    if (marker == 0xe0 && n >= 4 && !memcmp(s, "JFIF", 4) && n < 7)
        return broken(w, "JFIF segment is too short");
    if (marker == 0xee && n >= 5 && !memcmp(s, "Adobe", 5) && n < 7)
        return broken(w, "Adobe segment is too short");
    if (marker == 0xed && n >= 14 && !memcmp(s, "Photoshop 3.0", 14) &&
        !photoshop_is_readable(s, n))
        return broken(w, "Photoshop segment is cut off");
    if (marker == 0xe2 && n >= 12 && !memcmp(s, "ICC_PROFILE", 12)) {
        w->icc_count++;
        w->icc_short |= n < 14;
    }
    if (marker == 0xe1 && ds_exif_orientation(s, n) > 1 && n >= 6 && !memcmp(s, "Exif\0\0", 6))
        w->d->info->notes |= DS_NOTE_ORIENTATION;
    return 0;
}

static int on_frame(walk *w, unsigned marker, const uint8_t *s, size_t n) {
    if (n < 6)
        return broken(w, "frame header is too short");
    if (s[0] != 8)
        return ds_pillow_fail(w->d, DS_DECODE_BROKEN, "JPEG of %d bits a sample", s[0]);
    w->height = (int)ds_be16(s + 1);
    w->width = (int)ds_be16(s + 3);
    w->layers = s[5];
    w->lossless = marker == 0xc3;
    if (w->layers != 1 && w->layers != 3 && w->layers != 4)
        return ds_pillow_fail(w->d, DS_DECODE_BROKEN, "JPEG of %d components", w->layers);
    if (w->icc_count && w->icc_short)
        return broken(w, "colour profile is cut off");
    w->icc_count = w->icc_short = 0;
    return (n - 6) % 3 ? broken(w, "frame header is cut off") : 0;
}

static int on_tables(walk *w, const uint8_t *s, size_t n) {
    while (n) {
        size_t length = 1 + 64u * (s[0] / 16 ? 2 : 1);
        if (n < length)
            return broken(w, "bad quantization table");
        s += length;
        n -= length;
    }
    return 0;
}

static int is_frame(unsigned m) {
    return (m >= 0xc0 && m <= 0xcf && m != 0xc4 && m != 0xc8 && m != 0xcc) || m == 0xde;
}

static int has_segment(unsigned m) {
    return (m >= 0xc0 && m <= 0xcf && m != 0xc8) || (m >= 0xda && m <= 0xef) || m == 0xfe;
}

static int on_segment(walk *w, unsigned m) {
    const uint8_t *p = w->d->p;
    if (w->at + 2 > w->d->n)
        return broken(w, "a segment is cut off");
    size_t length = ds_be16(p + w->at), n = length > 2 ? length - 2 : 0;
    w->at += 2;
    if (n > w->d->n - w->at)
        return broken(w, "a segment is cut off");
    const uint8_t *s = p + w->at;
    w->at += n;
    if (m >= 0xe0 && m <= 0xef)
        return on_app(w, m, s, n);
    if (is_frame(m))
        return on_frame(w, m, s, n);
    return m == 0xdb ? on_tables(w, s, n) : 0;
}

/* JpegImageFile._open: up to the first scan. */
static int walk_markers(walk *w) {
    const uint8_t *p = w->d->p;
    size_t n = w->d->n;
    w->at = 2; /* at the 0xff of what follows SOI */
    while (w->at + 1 < n) {
        if (p[w->at] != 0xff) {
            w->d->info->notes |= DS_NOTE_DAMAGED;
            w->at++;
            continue;
        }
        unsigned m = p[w->at + 1];
        if (m == 0xff) {
            w->at++;
            continue;
        }
        w->at += 2;
        if (m == 0)
            continue;
        if (m < 0xc0)
            return broken(w, "no marker found");
        if (has_segment(m) && on_segment(w, m))
            return -1;
        if (m == 0xda)
            return w->width && w->height ? 0 : broken(w, "a scan before its frame");
    }
    return broken(w, "no picture in it");
}

/* ---------------------------------------------------------------- libjpeg */

typedef struct {
    struct jpeg_source_mgr base; /* first: libjpeg hands back a pointer to it */
    const uint8_t *file;
    size_t size, given; /* bytes that libjpeg may see so far */
    size_t skip;        /* still to be passed over when more is there */
} source;

typedef struct {
    struct jpeg_error_mgr base; /* first: libjpeg hands back a pointer to it */
    jmp_buf escape;
    ds_pillow *d;
} errors;

static void on_error(j_common_ptr c) {
    errors *e = (errors *)c->err;
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    ds_pillow_fail(e->d, DS_DECODE_BROKEN, "damaged JPEG: %.120s", text);
    longjmp(e->escape, 1);
}

static void on_message(j_common_ptr c, int level) {
    if (level < 0) {
        c->err->num_warnings++;
        ((errors *)c->err)->d->info->notes |= DS_NOTE_DAMAGED;
    }
}

static void discard(j_common_ptr c) { (void)c; }
static void nothing(j_decompress_ptr c) { (void)c; }
static boolean suspend(j_decompress_ptr c) { return (void)c, FALSE; }

static void skip_input(j_decompress_ptr c, long n) {
    source *s = (source *)c->src;
    size_t have = s->base.bytes_in_buffer, step = n < 0 ? 0 : (size_t)n;
    s->skip = step > have ? step - have : 0;
    step = step > have ? have : step;
    s->base.next_input_byte += step;
    s->base.bytes_in_buffer -= step;
}

/* Another block of the file; 0 when there is none: Pillow's "image file is truncated". */
static int more(source *s) {
    size_t step = s->size - s->given < BLOCK ? s->size - s->given : BLOCK;
    if (!step)
        return 0;
    s->given += step;
    s->base.bytes_in_buffer += step;
    if (s->skip) {
        size_t pass = s->skip < s->base.bytes_in_buffer ? s->skip : s->base.bytes_in_buffer;
        s->base.next_input_byte += pass;
        s->base.bytes_in_buffer -= pass;
        s->skip -= pass;
    }
    return 1;
}

/* Pillow decodes only when nothing is left to skip. */
static void feed(struct jpeg_decompress_struct *c, errors *e) {
    source *s = (source *)c->src;
    do {
        if (!more(s)) {
            ds_pillow_fail(e->d, DS_DECODE_BROKEN,
                           "truncated: the JPEG data ends before its last row");
            longjmp(e->escape, 1);
        }
    } while (s->skip);
}

static void read_rows(struct jpeg_decompress_struct *c, errors *e, uint8_t *rgb, int w, int h) {
    JSAMPARRAY line = NULL;
    if (c->output_components != 3)
        line = c->mem->alloc_sarray((j_common_ptr)c, JPOOL_IMAGE,
                                    c->output_width * (JDIMENSION)c->output_components, 1);
    for (int y = 0; y < h; y++) {
        uint8_t *out = rgb + (size_t)y * (size_t)w * 3;
        while (jpeg_read_scanlines(c, line ? line : &out, 1) != 1)
            feed(c, e);
        if (c->output_components == 4)
            ds_cmyk_row(out, line[0], w);
        else if (c->output_components == 1)
            ds_grey_row(out, line[0], w);
    }
}

static void check_frame(struct jpeg_decompress_struct *c, errors *e, const walk *w) {
    if ((int)c->image_width == w->width && (int)c->image_height == w->height &&
        c->num_components == w->layers)
        return;
    ds_pillow_fail(e->d, DS_DECODE_BROKEN, "damaged JPEG: two frames that differ");
    longjmp(e->escape, 1);
}

static int decode(ds_pillow *d, const walk *w) {
    struct jpeg_decompress_struct c;
    errors e = {.d = d};
    source s = {.file = d->p, .size = d->n};
    c.err = jpeg_std_error(&e.base);
    e.base.error_exit = on_error;
    e.base.emit_message = on_message;
    e.base.output_message = discard;
    s.base = (struct jpeg_source_mgr){.next_input_byte = d->p,
                                      .init_source = nothing,
                                      .fill_input_buffer = suspend,
                                      .skip_input_data = skip_input,
                                      .resync_to_restart = jpeg_resync_to_restart,
                                      .term_source = nothing};
    if (setjmp(e.escape)) {
        jpeg_destroy_decompress(&c);
        return -1;
    }
    jpeg_create_decompress(&c);
    c.src = &s.base;
    feed(&c, &e);
    int got;
    while ((got = jpeg_read_header(&c, FALSE)) != JPEG_HEADER_OK)
        if (got == JPEG_SUSPENDED)
            feed(&c, &e);
    check_frame(&c, &e, w);
    c.out_color_space = w->layers == 1 ? JCS_GRAYSCALE : w->layers == 4 ? JCS_CMYK : JCS_RGB;
    while (!jpeg_start_decompress(&c))
        feed(&c, &e);
    read_rows(&c, &e, d->rgb, w->width, w->height);
    if (!jpeg_finish_decompress(&c) && s.given == s.size) /* no end marker; all rows are there */
        d->info->notes |= DS_NOTE_DAMAGED;
    jpeg_destroy_decompress(&c);
    return 0;
}

int ds_jpeg_pillow(ds_pillow *d) {
    walk w = {.d = d};
    if (walk_markers(&w) || ds_pillow_room(d, w.width, w.height))
        return -1;
    if (w.layers == 4)
        d->info->notes |= DS_NOTE_CMYK;
    if (w.lossless) /* libjpeg-turbo 3, which Pillow brings along, reads it */
        return ds_pillow_fail(d, DS_DECODE_UNSUPPORTED, "lossless JPEG is not supported");
    return decode(d, &w);
}
