/* worker/decode/decode_pnm.c - PNM, types P1 to P6, samples of 1 to 16 bit (source: netpbm's
 * pbm(5), pgm(5), ppm(5)). */
#include "worker/decode/decode_internal.h"

#include <stdlib.h>

typedef struct {
    const uint8_t *p, *end;
} pnm_reader;

static int is_space(int c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

static void skip_space(pnm_reader *r) {
    while (r->p < r->end) {
        if (*r->p == '#')
            while (r->p < r->end && *r->p != '\n')
                r->p++;
        else if (!is_space(*r->p))
            return;
        else
            r->p++;
    }
}

/* A decimal number up to max, -1 when there is none or it is larger. */
static int read_number(pnm_reader *r, int max) {
    skip_space(r);
    if (r->p == r->end || *r->p < '0' || *r->p > '9')
        return -1;
    int64_t v = 0;
    while (r->p < r->end && *r->p >= '0' && *r->p <= '9') {
        v = v * 10 + (*r->p++ - '0');
        if (v > max)
            return -1;
    }
    return (int)v;
}

/* Leaves r at the first sample. */
static int read_header(pnm_reader *r, int *type, int *w, int *h, int *maxval, char *reason) {
    *type = r->p[1] - '0';
    r->p += 2;
    *w = read_number(r, 1 << 30);
    *h = read_number(r, 1 << 30);
    *maxval = *type == 1 || *type == 4 ? 1 : read_number(r, 65535);
    if (*w < 0 || *h < 0 || *maxval < 1)
        return ds_decode_fail(reason, "damaged PNM header");
    if (*type >= 4) { /* exactly one white space before binary samples */
        if (r->p == r->end || !is_space(*r->p))
            return ds_decode_fail(reason, "damaged PNM header");
        r->p++;
    }
    return 0;
}

/* Bytes that a row of the binary types takes. */
static size_t row_bytes(int type, int w, int maxval) {
    if (type == 4)
        return ((size_t)w + 7) / 8;
    return (size_t)w * (type == 6 ? 3 : 1) * (maxval > 255 ? 2 : 1);
}

int ds_pnm_header(const uint8_t *p, size_t n, ds_image_info *info, char *reason) {
    pnm_reader r = {p, p + n};
    int type, maxval;
    if (read_header(&r, &type, &info->width, &info->height, &maxval, reason))
        return -1;
    size_t row = row_bytes(type, info->width, maxval);
    if (type >= 4 && row && (size_t)(r.end - r.p) / row < (size_t)info->height)
        return ds_decode_fail(reason, "truncated: the PNM data ends before its last row");
    return 0;
}

static int text_sample(pnm_reader *r, int type, int maxval) {
    if (type != 1)
        return read_number(r, maxval);
    skip_space(r); /* bits need no space between them */
    if (r->p == r->end || (*r->p != '0' && *r->p != '1'))
        return -1;
    return *r->p++ - '0';
}

static int binary_sample(const uint8_t *row, int type, int maxval, size_t i) {
    if (type == 4)
        return row[i / 8] >> (7 - i % 8) & 1;
    return maxval > 255 ? row[i * 2] << 8 | row[i * 2 + 1] : row[i];
}

static int read_samples(pnm_reader *r, int type, int maxval, int w, int h, uint8_t *out) {
    int colour = type == 3 || type == 6, bits = type == 1 || type == 4;
    size_t per_row = (size_t)w * (colour ? 3 : 1), row = row_bytes(type, w, maxval);
    for (int y = 0; y < h; y++) {
        for (size_t i = 0; i < per_row; i++) {
            int v = type <= 3 ? text_sample(r, type, maxval) : binary_sample(r->p, type, maxval, i);
            if (v < 0 || v > maxval)
                return -1;
            v = bits ? (v ? 0 : 255) : (v * 255 + maxval / 2) / maxval; /* bit 1 is black */
            for (int k = 0; k < (colour ? 1 : 3); k++)
                *out++ = (uint8_t)v;
        }
        if (type >= 4)
            r->p += row;
    }
    return 0;
}

int ds_pnm_pixels(const uint8_t *p, size_t n, int w, int h, uint8_t **rgb, char *reason) {
    pnm_reader r = {p, p + n};
    int type, maxval, w2, h2;
    if (read_header(&r, &type, &w2, &h2, &maxval, reason))
        return -1;
    uint8_t *pixels = malloc((size_t)w * (size_t)h * 3);
    if (!pixels)
        return ds_decode_fail(reason, "not enough memory to decode");
    if (read_samples(&r, type, maxval, w, h, pixels)) {
        free(pixels);
        return ds_decode_fail(reason, "damaged PNM: missing or too large sample");
    }
    *rgb = pixels;
    return 0;
}
