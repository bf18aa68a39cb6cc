/* worker/decode/decode_exif.c - the one tag of EXIF that pixels depend on.
 *
 * Taken as ImageOps.exif_transpose of Pillow 13 takes it: tag 0x0112 of the first directory, a
 * whole number of 16 or 32 bits, 1 to 8 (of several the first).  Whatever else is there is no
 * orientation; XMP, where Pillow also looks, is not read.
 */
#include "worker/decode/decode_internal.h"

#include <stdlib.h>
#include <string.h>

enum { TAG_ORIENTATION = 0x0112, EXIF_MAX = 1 << 20 };

static unsigned get16(const uint8_t *p, int big) {
    return big ? ds_be16(p) : (unsigned)p[1] << 8 | p[0];
}

static uint32_t get32(const uint8_t *p, int big) {
    return big ? ds_be32(p) : (uint32_t)get16(p + 2, 0) << 16 | get16(p, 0);
}

/* First value of the directory entry at p + at: SHORT, LONG and their signed kin. */
static int value_of(const uint8_t *p, size_t n, size_t at, int big) {
    enum { SHORT = 3, LONG = 4, SSHORT = 8, SLONG = 9 };
    unsigned type = get16(p + at + 2, big);
    uint64_t count = get32(p + at + 4, big);
    uint64_t width = type == SHORT || type == SSHORT ? 2 : type == LONG || type == SLONG ? 4 : 0;
    if (!width || !count)
        return 0;
    at += 8;
    if (width * count > 4) /* then the entry says where the values are */
        at = get32(p + at, big);
    if (at > n || width * count > n - at)
        return 0;
    uint32_t v = width == 2 ? get16(p + at, big) : get32(p + at, big);
    return v >= 1 && v <= 8 ? (int)v : 0;
}

int ds_exif_orientation(const uint8_t *p, size_t n) {
    for (int i = 0; i < 2 && n >= 6 && !memcmp(p, "Exif\0\0", 6); i++)
        p += 6, n -= 6;
    if (n < 8 || (memcmp(p, "II*\0", 4) && memcmp(p, "MM\0*", 4)))
        return 0;
    int big = p[0] == 'M';
    size_t at = get32(p + 4, big);
    if (at > n - 2)
        return 0;
    unsigned count = get16(p + at, big);
    at += 2;
    for (unsigned i = 0; i < count && at + 12 <= n; i++, at += 12)
        if (get16(p + at, big) == TAG_ORIENTATION)
            return value_of(p, n, at, big);
    return 0;
}

static int digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int ds_exif_raw_profile(const char *text, size_t n) {
    const char *end = text + n;
    for (int line = 0; line < 3; line++) {
        text = memchr(text, '\n', (size_t)(end - text));
        if (!text)
            return 0;
        text++;
    }
    n = (size_t)(end - text);
    uint8_t *bytes = n <= EXIF_MAX ? malloc(n / 2 + 1) : NULL;
    size_t digits = 0;
    if (!bytes)
        return 0;
    for (size_t i = 0; i < n; i++) {
        int d = digit(text[i]);
        if (d >= 0) {
            bytes[digits / 2] = (uint8_t)(digits % 2 ? bytes[digits / 2] << 4 | d : d);
            digits++;
        } else if (!strchr(" \t\r\n", text[i]) || !text[i]) {
            digits = 0; /* no hexadecimal text */
            break;
        }
    }
    int o = ds_exif_orientation(bytes, digits / 2);
    free(bytes);
    return o;
}
