/* worker/decode/decode_pillow_pnm.c - a PNM (P1 to P6) as Pillow 13 reads it.
 *
 * Source: PpmImagePlugin.py.  Differs from netpbm's own description: a number in the header may be
 * interrupted by a comment, grey of more than 8 bits becomes 16 bits and is then cut off at 255.
 */
#include "worker/decode/decode_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKEN_MAX = 10, BLOCK = 1 << 20 }; /* BLOCK: ImageFile.SAFEBLOCK */

typedef struct {
    ds_pillow *d;
    size_t at;
    int type; /* 1 to 6 */
    long maxval;
    int width, height;
} pnm;

static int broken(ds_pillow *d, const char *what) {
    return ds_pillow_fail(d, DS_DECODE_BROKEN, "damaged PNM: %s", what);
}

static int is_space(int c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Python's int() of at most TOKEN_MAX bytes; -1 for what it refuses, and for negative numbers,
 * which are refused later. */
static long number_of(const uint8_t *s, size_t n) {
    long v = 0;
    size_t i = 0;
    if (n && (s[0] == '+' || s[0] == '-'))
        i = 1;
    if (i == n)
        return -1;
    for (int after_digit = 0; i < n; i++) {
        if (s[i] == '_' && after_digit && i + 1 < n) {
            after_digit = 0;
            continue;
        }
        if (s[i] < '0' || s[i] > '9')
            return -1;
        v = v * 10 + (s[i] - '0');
        after_digit = 1;
    }
    return s[0] == '-' && v ? -1 : v;
}

/* The next number of the header; -1 when there is none. */
static long header_number(pnm *m) {
    const uint8_t *p = m->d->p;
    uint8_t token[TOKEN_MAX + 1];
    size_t n = 0;
    while (n <= TOKEN_MAX && m->at < m->d->n) {
        uint8_t c = p[m->at++];
        if (is_space(c)) {
            if (n)
                break;
        } else if (c == '#') {
            while (m->at < m->d->n && p[m->at] != '\n' && p[m->at] != '\r')
                m->at++;
            m->at += m->at < m->d->n;
        } else {
            token[n++] = c;
        }
    }
    return n && n <= TOKEN_MAX ? number_of(token, n) : -1;
}

static int read_head(pnm *m) {
    const uint8_t *p = m->d->p;
    if (m->d->n > 2 && !is_space(p[2]))
        return broken(m->d, "unknown type");
    m->type = p[1] - '0';
    m->at = m->d->n > 2 ? 3 : 2;
    long w = header_number(m), h = header_number(m);
    m->maxval = m->type == 1 || m->type == 4 ? 1 : header_number(m);
    if (w < 1 || h < 1 || w > INT32_MAX || h > INT32_MAX)
        return broken(m->d, "bad dimensions");
    if (m->maxval < 1 || m->maxval > 65535)
        return broken(m->d, "bad largest value");
    m->width = (int)w;
    m->height = (int)h;
    return 0;
}

static int is_grey(const pnm *m) { return m->type == 2 || m->type == 5; }

/* A sample as Pillow's picture has it after convert("RGB"). */
static uint8_t scaled(const pnm *m, long v) {
    if (m->type == 1 || m->type == 4)
        return v ? 0 : 255;
    long top = m->maxval > 255 && is_grey(m) ? 65535 : 255;
    double x = nearbyint((double)v / (double)m->maxval * (double)top); /* half to even, as Python */
    return (uint8_t)(x < 255 ? x : 255);
}

static void put(uint8_t **out, int colour, uint8_t v) {
    for (int k = 0; k < (colour ? 1 : 3); k++)
        *(*out)++ = v;
}

static int binary_samples(pnm *m) {
    const uint8_t *p = m->d->p + m->at;
    int colour = m->type == 6;
    size_t per_row = (size_t)m->width * (colour ? 3 : 1), deep = m->maxval > 255 ? 2 : 1;
    size_t row = m->type == 4 ? (per_row + 7) / 8 : per_row * deep;
    uint8_t *out = m->d->rgb;
    if ((m->d->n - m->at) / row < (size_t)m->height)
        return broken(m->d, "truncated: the data ends before the last row");
    for (int y = 0; y < m->height; y++, p += row) {
        for (size_t i = 0; i < per_row; i++) {
            long v = m->type == 4 ? p[i / 8] >> (7 - i % 8) & 1
                     : deep == 2  ? (long)ds_be16(p + i * 2)
                                  : p[i];
            put(&out, colour, scaled(m, v));
        }
    }
    return 0;
}

/* The text without its comments, each with the end of its line: "1#c\n2" is 12. */
static size_t strip_comments(const uint8_t *p, size_t n, uint8_t *out) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] != '#') {
            out[kept++] = p[i];
            continue;
        }
        while (i < n && p[i] != '\n' && p[i] != '\r')
            i++;
    }
    return kept;
}

static int bits_of_text(pnm *m, const uint8_t *text, size_t n) {
    size_t want = (size_t)m->width * (size_t)m->height, got = 0;
    uint8_t *out = m->d->rgb;
    for (size_t i = 0; i < n; i++) {
        if (is_space(text[i]))
            continue;
        if (text[i] != '0' && text[i] != '1')
            return broken(m->d, "a bit that is neither 0 nor 1");
        if (got++ < want)
            put(&out, 0, text[i] == '0' ? 255 : 0);
    }
    return got < want ? broken(m->d, "truncated: missing samples") : 0;
}

/* Pillow looks at the last token of a block before it knows whether it needs it. */
static int last_is_too_long(const uint8_t *text, size_t n) {
    size_t start = n;
    while (start && n - start <= TOKEN_MAX && !is_space(text[start - 1]))
        start--;
    return n <= BLOCK && n - start > TOKEN_MAX;
}

static int numbers_of_text(pnm *m, const uint8_t *text, size_t n) {
    int colour = m->type == 3;
    size_t want = (size_t)m->width * (size_t)m->height * (colour ? 3 : 1), got = 0;
    uint8_t *out = m->d->rgb;
    if (last_is_too_long(text, n))
        return broken(m->d, "a sample that is no number or too large");
    for (size_t i = 0; i < n && got < want;) {
        if (is_space(text[i])) {
            i++;
            continue;
        }
        size_t start = i;
        while (i < n && !is_space(text[i]))
            i++;
        long v = i - start > TOKEN_MAX ? -1 : number_of(text + start, i - start);
        if (v < 0 || v > m->maxval)
            return broken(m->d, "a sample that is no number or too large");
        put(&out, colour, scaled(m, v));
        got++;
    }
    return got < want ? broken(m->d, "truncated: missing samples") : 0;
}

static int text_samples(pnm *m) {
    size_t n = m->d->n - m->at;
    uint8_t *text = malloc(n + 1);
    if (!text)
        return ds_pillow_fail(m->d, DS_DECODE_GAVE_UP, "not enough memory to decode");
    n = strip_comments(m->d->p + m->at, n, text);
    int rc = m->type == 1 ? bits_of_text(m, text, n) : numbers_of_text(m, text, n);
    free(text);
    return rc;
}

int ds_pnm_pillow(ds_pillow *d) {
    pnm m = {.d = d};
    if (read_head(&m) || ds_pillow_room(d, m.width, m.height))
        return -1;
    if (m.maxval > 255)
        d->info->notes |= DS_NOTE_DEEP;
    return m.type >= 4 ? binary_samples(&m) : text_samples(&m);
}
