/* worker/decode/decode_pillow_png.c - a PNG as Pillow 13 reads it.
 *
 * Sources: PngImagePlugin.py (chunks), ZipDecode.c (rows), Unpack.c and Convert.c (pixels).  Pillow
 * has its own reader.  Chunks before the picture are checked in full, those after it are read but
 * their checksums are not, and the picture's own checksums never: rows are taken as they come, and
 * rows that are missing when the compressed data ends after a whole row stay black, and so do
 * palette entries that are missing.  An animated PNG gives its default picture.
 */
#include "worker/decode/decode_internal.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { BLOCK = 65536, TEXT_MAX = 1 << 20 }; /* ImageFile.MAXBLOCK, SAFEBLOCK */
enum colour { GREY = 0, RGB = 2, PALETTE = 3, GREY_ALPHA = 4, RGBA = 6 };

typedef struct {
    ds_pillow *d;
    size_t at; /* next byte of the file */
    int width, height, bits, colour, known, interlaced;
    uint8_t palette[256 * 3];
    size_t palette_size; /* bytes */
    int has_palette, single_transparent;
    int animated_known, default_image; /* acTL was valid; the IDAT is not the first frame */
    uint32_t frames;
    int64_t sequence; /* of APNG's frames, -1 before the first */
    int has_box;
    uint32_t box[4];  /* x, y, width, height of the frame in IDAT */
    size_t left;      /* of the data chunk that is being read */
    size_t text_size; /* of all texts: Pillow sets a limit to them */
} png;

static int broken(png *g, const char *what) {
    return ds_pillow_fail(g->d, DS_DECODE_BROKEN, "damaged PNG: %s", what);
}

static int is_word(const uint8_t *p) {
    for (int i = 0; i < 4; i++)
        if (!((p[i] >= '0' && p[i] <= '9') || ((p[i] | 0x20) >= 'a' && (p[i] | 0x20) <= 'z') ||
              p[i] == '_'))
            return 0;
    return 1;
}

/* ---------------------------------------------------------------- chunks */

typedef struct {
    const uint8_t *type, *data; /* data holds size bytes, unless it is a data chunk */
    size_t size;
} chunk;

/* ChunkStream.read; 0 when there is none. */
static int next_chunk(png *g, chunk *c) {
    if (g->d->n - g->at < 8 || !is_word(g->d->p + g->at + 4))
        return 0;
    *c = (chunk){g->d->p + g->at + 4, g->d->p + g->at + 8, ds_be32(g->d->p + g->at)};
    g->at += 8;
    return 1;
}

static int is(const chunk *c, const char *type) { return !memcmp(c->type, type, 4); }

static void skip(png *g, size_t n) { g->at += n < g->d->n - g->at ? n : g->d->n - g->at; }

/* Does the text unpack to at most TEXT_MAX bytes?  Damage counts as yes: Pillow passes it over. */
static int unpacks(const uint8_t *p, size_t n, size_t *size) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)p, .avail_in = (uInt)n};
    uint8_t *out = malloc(TEXT_MAX);
    int ok = 1;
    *size = 0;
    if (!out || inflateInit(&z) != Z_OK) {
        free(out);
        return 1;
    }
    z.next_out = out;
    z.avail_out = TEXT_MAX;
    int rc = inflate(&z, Z_SYNC_FLUSH);
    ok = !(rc == Z_OK && !z.avail_out && z.avail_in);
    *size = rc == Z_OK || rc == Z_STREAM_END ? TEXT_MAX - z.avail_out : 0;
    inflateEnd(&z);
    free(out);
    return ok;
}

static int add_text(png *g, size_t n) {
    g->text_size += n;
    return g->text_size > (size_t)64 * TEXT_MAX ? broken(g, "too much text") : 0;
}

static int on_packed(png *g, const uint8_t *p, const uint8_t *end, int is_text) {
    size_t size;
    if (!unpacks(p, (size_t)(end - p), &size))
        return broken(g, "a packed text or profile is larger than 1 MiB");
    return is_text ? add_text(g, size) : 0;
}

static int on_text(png *g, const chunk *c) {
    const uint8_t *end = c->data + c->size, *zero = memchr(c->data, 0, c->size);
    if (is(c, "tEXt"))
        return add_text(g, zero ? (size_t)(end - zero) - 1 : 0);
    if (is(c, "zTXt") || is(c, "iCCP")) {
        /* without a separator iCCP's method is its first byte, zTXt has no text */
        if (is(c, "iCCP") && !zero)
            zero = c->data - 1;
        const uint8_t *method = zero ? zero + 1 : end;
        if (method >= end)
            return is(c, "iCCP") ? broken(g, "iCCP is cut off") : 0;
        if (*method)
            return broken(g, "unknown compression of a text or profile");
        return on_packed(g, method + 1, end, is(c, "zTXt"));
    }
    if (!zero || end - zero < 3) /* iTXt */
        return 0;
    int packed = zero[1], method = zero[2];
    const uint8_t *language = memchr(zero + 3, 0, (size_t)(end - zero - 3));
    const uint8_t *keyword =
        language ? memchr(language + 1, 0, (size_t)(end - language - 1)) : NULL;
    if (!keyword)
        return 0;
    if (packed)
        return method ? 0 : on_packed(g, keyword + 1, end, 1);
    return add_text(g, (size_t)(end - keyword) - 1);
}

static int on_header(png *g, const chunk *c) {
    static const uint8_t known[7][17] = {
        [GREY] = {[1] = 1, [2] = 1, [4] = 1, [8] = 1, [16] = 1},
        [RGB] = {[8] = 1, [16] = 1},
        [PALETTE] = {[1] = 1, [2] = 1, [4] = 1, [8] = 1},
        [GREY_ALPHA] = {[8] = 1, [16] = 1},
        [RGBA] = {[8] = 1, [16] = 1},
    };
    if (c->size < 13)
        return broken(g, "IHDR is cut off");
    uint32_t w = ds_be32(c->data), h = ds_be32(c->data + 4);
    if (w > INT32_MAX || h > INT32_MAX)
        return broken(g, "bad dimensions");
    g->width = (int)w;
    g->height = (int)h;
    if (c->data[9] < 7 && c->data[8] < 17 && known[c->data[9]][c->data[8]]) {
        g->bits = c->data[8];
        g->colour = c->data[9];
        g->known = 1;
    }
    g->interlaced |= c->data[12] != 0;
    return c->data[11] ? broken(g, "unknown filter category") : 0;
}

/* "\xff* 0 \xff*": one entry is wholly transparent.  Python's $ also matches before a last \n. */
static int is_single(const uint8_t *s, size_t n) {
    size_t i = 0;
    while (i < n && s[i] == 0xff)
        i++;
    if (i == n || s[i++])
        return 0;
    while (i < n && s[i] == 0xff)
        i++;
    return i == n || (i == n - 1 && s[i] == '\n');
}

static int on_transparency(png *g, const chunk *c) {
    g->d->info->notes |= g->known ? DS_NOTE_ALPHA : 0;
    if (!g->known || g->colour == GREY_ALPHA || g->colour == RGBA)
        return 0;
    if (g->colour == PALETTE)
        g->single_transparent = is_single(c->data, c->size);
    else if (c->size < (g->colour == RGB ? 6u : 2u))
        return broken(g, "tRNS is cut off");
    return 0;
}

static int on_animation(png *g, const chunk *c) {
    if (c->size < 8)
        return broken(g, "acTL is cut off");
    uint32_t n = ds_be32(c->data);
    /* a second one or an impossible number: not animated, and a warning */
    g->animated_known = !g->animated_known && n > 0 && n <= 0x80000000u;
    g->frames = n;
    return 0;
}

static int on_frame(png *g, const chunk *c) {
    if (c->size < 26)
        return broken(g, "fcTL is cut off");
    if ((int64_t)ds_be32(c->data) != g->sequence + 1)
        return broken(g, "frame sequence errors");
    g->sequence++;
    const uint8_t *s = c->data;
    uint32_t w = ds_be32(s + 4), h = ds_be32(s + 8), x = ds_be32(s + 12), y = ds_be32(s + 16);
    if ((uint64_t)x + w > (uint64_t)g->width || (uint64_t)y + h > (uint64_t)g->height)
        return broken(g, "a frame outside the picture");
    g->has_box = 1;
    g->box[0] = x, g->box[1] = y, g->box[2] = w, g->box[3] = h;
    return 0;
}

/* The number at the start of fdAT. */
static int on_frame_data(png *g, const chunk *c) {
    if (c->size < 4 || g->d->n - g->at < 4)
        return broken(g, "fdAT is cut off");
    if ((int64_t)ds_be32(c->data) != g->sequence + 1)
        return broken(g, "frame sequence errors");
    g->sequence++;
    g->at += 4;
    return 0;
}

static int at_least(png *g, const chunk *c, size_t n) {
    return c->size < n ? broken(g, "an ancillary chunk is cut off") : 0;
}

/* Any chunk but IDAT, IEND and fdAT; its data is there. */
static int on_chunk(png *g, const chunk *c) {
    if (is(c, "IHDR"))
        return on_header(g, c);
    if (is(c, "PLTE") && g->known && g->colour == PALETTE) {
        g->has_palette = 1;
        g->palette_size = c->size / 3 * 3;
        memcpy(g->palette, c->data,
               g->palette_size < sizeof g->palette ? g->palette_size : sizeof g->palette);
    }
    if (is(c, "tRNS"))
        return on_transparency(g, c);
    if (is(c, "tEXt") || is(c, "zTXt") || is(c, "iTXt") || is(c, "iCCP"))
        return on_text(g, c);
    if (is(c, "eXIf") && ds_exif_orientation(c->data, c->size) > 1)
        g->d->info->notes |= DS_NOTE_ORIENTATION;
    if (is(c, "acTL"))
        return on_animation(g, c);
    if (is(c, "fcTL"))
        return on_frame(g, c);
    return is(c, "gAMA")   ? at_least(g, c, 4)
           : is(c, "cHRM") ? at_least(g, c, 32)
           : is(c, "sRGB") ? at_least(g, c, 1)
           : is(c, "pHYs") ? at_least(g, c, 9)
                           : 0;
}

/* PngImageFile._open: up to the first data chunk, whose rest is then g->left. */
static int read_head(png *g) {
    chunk c;
    for (;;) {
        if (!next_chunk(g, &c))
            return broken(g, "a chunk is cut off or has no name");
        if (is(&c, "IEND"))
            return broken(g, "no picture in it");
        if (is(&c, "fdAT") && on_frame_data(g, &c))
            return -1;
        if (is(&c, "fdAT") || is(&c, "IDAT"))
            break;
        if (c.size > g->d->n - g->at)
            return broken(g, "a chunk is cut off");
        if (on_chunk(g, &c))
            return -1;
        g->at += c.size;
        if (g->d->n - g->at < 4 || ds_be32(g->d->p + g->at) != crc32(0, c.type, (uInt)(c.size + 4)))
            return broken(g, "bad checksum of a chunk before the picture");
        g->at += 4;
    }
    g->left = is(&c, "fdAT") ? c.size - 4 : c.size;
    g->default_image = g->animated_known && !g->has_box;
    return g->known ? 0 : broken(g, "unknown colour type or depth");
}

/* PngImageFile.load_read: the next piece of the picture's data; 0 when there is no more. */
static int read_piece(png *g, const uint8_t **piece, size_t *n) {
    chunk c;
    while (!g->left) {
        skip(g, 4); /* checksum */
        if (!next_chunk(g, &c) || (!is(&c, "IDAT") && !is(&c, "DDAT") && !is(&c, "fdAT")))
            return broken(g, "the data ends before the last row");
        if (is(&c, "fdAT") && on_frame_data(g, &c))
            return -1;
        g->left = is(&c, "fdAT") ? c.size - 4 : c.size;
    }
    size_t want = g->left < BLOCK ? g->left : BLOCK, have = g->d->n - g->at;
    g->left -= want;
    *piece = g->d->p + g->at;
    *n = want < have ? want : have;
    g->at += *n;
    return *n ? 0 : broken(g, "truncated: the data ends before the last row");
}

/* PngImageFile.load_end: what follows the picture.  A missing end is fine, a chunk that is cut off
 * or says nonsense is not. */
static int read_tail(png *g) {
    int64_t frames = (g->animated_known ? (int64_t)g->frames : 1) + g->default_image;
    chunk c;
    skip(g, g->left);
    for (;;) {
        skip(g, 4);
        if (!next_chunk(g, &c)) {
            g->d->info->notes |= DS_NOTE_DAMAGED;
            return 0;
        }
        if (is(&c, "IEND") || (is(&c, "fcTL") && frames > 1))
            return 0;
        size_t size = c.size;
        if (is(&c, "fdAT")) {
            if (on_frame_data(g, &c))
                return -1;
            size -= 4;
        }
        if (size > g->d->n - g->at)
            return broken(g, "a chunk after the picture is cut off");
        if (!is(&c, "fdAT") && !is(&c, "IDAT") && on_chunk(g, &c))
            return -1;
        g->at += size;
    }
}

/* ---------------------------------------------------------------- rows */

typedef struct {
    int x, y, w, h;        /* where in the picture */
    int bits, bpp;         /* of a pixel; bytes that filters look back */
    int pass, row;         /* row: of the picture, from y */
    size_t row_bytes, got; /* of this row; what has been unpacked of it, with its filter */
    uint8_t *line, *above; /* 1 + the longest row */
} rows;

static const int pass_first_x[] = {0, 4, 0, 2, 0, 1, 0}, pass_first_y[] = {0, 0, 4, 0, 2, 0, 1};
static const int pass_step_x[] = {8, 8, 4, 4, 2, 2, 1}, pass_step_y[] = {8, 8, 8, 4, 4, 2, 2};

static int pass_width(const rows *r, int pass) {
    return (r->w + pass_step_x[pass] - 1 - pass_first_x[pass]) / pass_step_x[pass];
}

static size_t bytes_of(const rows *r, int pixels) {
    return ((size_t)pixels * (size_t)r->bits + 7) / 8;
}

/* One pixel of the row, as 8-bit RGB. */
static void put_pixel(const png *g, uint8_t *out, const uint8_t *row, int i) {
    const uint8_t *p;
    unsigned v;
    switch (g->colour) {
    case RGB:
    case RGBA:
        p = row + (size_t)i * (size_t)(g->bits / 8) * (g->colour == RGB ? 3 : 4);
        for (int k = 0; k < 3; k++)
            out[k] = p[k * (g->bits / 8)]; /* of 16 bits the high byte */
        return;
    case GREY_ALPHA: v = row[(size_t)i * 2 * (size_t)(g->bits / 8)]; break;
    default: /* GREY, PALETTE */
        if (g->bits == 16) {
            v = row[(size_t)i * 2] ? 255 : row[(size_t)i * 2 + 1];
        } else if (g->bits == 8) {
            v = row[i];
        } else {
            int per = 8 / g->bits;
            v = (unsigned)row[i / per] >> (8 - g->bits * (i % per + 1)) & ((1u << g->bits) - 1);
            if (g->colour == GREY)
                v *= 255u / ((1u << g->bits) - 1);
        }
    }
    if (g->colour == PALETTE)
        memcpy(out, g->palette + v * 3, 3);
    else
        out[0] = out[1] = out[2] = (uint8_t)v;
}

static void put_row(const png *g, const rows *r) {
    uint8_t *out = g->d->rgb + (size_t)(r->y + r->row) * (size_t)g->width * 3;
    int n = g->interlaced ? pass_width(r, r->pass) : r->w;
    int x = g->interlaced ? pass_first_x[r->pass] : r->x;
    int step = g->interlaced ? pass_step_x[r->pass] : 1;
    for (int i = 0; i < n; i++, x += step)
        put_pixel(g, out + (size_t)x * 3, r->line + 1, i);
}

static uint8_t paeth(int a, int b, int c) {
    int pa = abs(b - c), pb = abs(a - c), pc = abs(a + b - 2 * c);
    return (uint8_t)(pa <= pb && pa <= pc ? a : pb <= pc ? b : c);
}

static int unfilter(rows *r) {
    uint8_t *line = r->line + 1, *above = r->above + 1;
    int bpp = r->bpp;
    size_t n = r->row_bytes;
    for (size_t i = 0; i < n; i++) {
        int left = i >= (size_t)bpp ? line[i - (size_t)bpp] : 0, up = above[i];
        int corner = i >= (size_t)bpp ? above[i - (size_t)bpp] : 0;
        switch (r->line[0]) {
        case 0: return 0;
        case 1: line[i] = (uint8_t)(line[i] + left); break;
        case 2: line[i] = (uint8_t)(line[i] + up); break;
        case 3: line[i] = (uint8_t)(line[i] + (left + up) / 2); break;
        case 4: line[i] = (uint8_t)(line[i] + paeth(left, up, corner)); break;
        default: return -1;
        }
    }
    return r->line[0] > 4 ? -1 : 0;
}

/* To the next row that exists; 0 when that was the last. */
static int advance(const png *g, rows *r) {
    uint8_t *swap = r->line;
    r->line = r->above;
    r->above = swap;
    r->got = 0;
    if (!g->interlaced)
        return ++r->row < r->h;
    r->row += pass_step_y[r->pass];
    while (r->row >= r->h || !r->row_bytes) {
        if (++r->pass == 7)
            return 0;
        r->row = pass_first_y[r->pass];
        r->row_bytes = bytes_of(r, pass_width(r, r->pass));
        memset(r->above, 0, 1 + bytes_of(r, r->w));
    }
    return 1;
}

/* ImagingZipDecode on one piece: 1 the picture is complete (or its data ended after a whole row), 0
 * more is needed. */
static int unpack_piece(png *g, rows *r, z_stream *z, const uint8_t *piece, size_t n) {
    z->next_in = (Bytef *)(uintptr_t)piece;
    z->avail_in = (uInt)n;
    while (z->avail_in) {
        z->next_out = r->line + r->got;
        z->avail_out = (uInt)(r->row_bytes + 1 - r->got);
        int rc = inflate(z, Z_NO_FLUSH);
        if (rc < 0)
            return broken(g, z->msg ? z->msg : "the data cannot be unpacked");
        r->got = r->row_bytes + 1 - z->avail_out;
        if (z->avail_out)
            return 0;
        if (unfilter(r))
            return broken(g, "unknown filter");
        put_row(g, r);
        int last = !advance(g, r);
        if (!last && rc == Z_STREAM_END)
            g->d->info->notes |= DS_NOTE_DAMAGED; /* rows are missing */
        if (last || rc == Z_STREAM_END)
            return 1;
    }
    return 0;
}

static int read_rows(png *g, rows *r) {
    z_stream z = {0};
    const uint8_t *piece = NULL;
    size_t n = 0;
    int rc = inflateInit(&z) == Z_OK ? 0 : ds_pillow_fail(g->d, DS_DECODE_GAVE_UP, "no memory");
    while (rc == 0) {
        rc = read_piece(g, &piece, &n);
        if (!rc)
            rc = unpack_piece(g, r, &z, piece, n);
    }
    inflateEnd(&z);
    return rc < 0 ? -1 : 0;
}

static int read_picture(png *g) {
    static const int channels[] = {
        [GREY] = 1, [RGB] = 3, [PALETTE] = 1, [GREY_ALPHA] = 2, [RGBA] = 4};
    rows r = {.w = g->width, .h = g->height, .bits = g->bits * channels[g->colour]};
    if (g->has_box) {
        if (!g->box[2] || !g->box[3])
            return broken(g, "a frame without pixels");
        r.x = (int)g->box[0], r.y = (int)g->box[1];
        r.w = (int)g->box[2], r.h = (int)g->box[3];
    }
    if (g->interlaced) /* ZipDecode.c knows no frames there */
        r.x = r.y = 0;
    r.bpp = (r.bits + 7) / 8;
    r.row_bytes = bytes_of(&r, g->interlaced ? pass_width(&r, 0) : r.w);
    r.line = calloc(1, bytes_of(&r, r.w) + 1);
    r.above = calloc(1, bytes_of(&r, r.w) + 1);
    int rc = r.line && r.above
                 ? read_rows(g, &r)
                 : ds_pillow_fail(g->d, DS_DECODE_GAVE_UP, "not enough memory to decode");
    free(r.line);
    free(r.above);
    return rc;
}

int ds_png_pillow(ds_pillow *d) {
    png g = {.d = d, .at = 8, .sequence = -1};
    if (read_head(&g) || ds_pillow_room(d, g.width, g.height))
        return -1;
    if (g.has_palette && g.palette_size / 3 > 256)
        return broken(&g, "more than 256 colours");
    if (g.bits == 16)
        d->info->notes |= DS_NOTE_DEEP;
    if (g.colour == GREY_ALPHA || g.colour == RGBA)
        d->info->notes |= DS_NOTE_ALPHA;
    if (g.animated_known && g.frames + (unsigned)g.default_image > 1)
        d->info->notes |= DS_NOTE_ANIMATED;
    if (read_picture(&g) || read_tail(&g))
        return -1;
    /* convert() asks the palette for the transparent colour */
    if (g.single_transparent && g.colour == PALETTE && !g.has_palette)
        return broken(&g, "a transparent entry without a palette");
    return 0;
}
