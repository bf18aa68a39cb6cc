/* tests/worker/test_worker_decode.c - the parts of picture files byte by byte: marks of other formats,
 * EXIF's directory, JPEG's segments, PNG's chunks, PNM's headers; each bound from both sides, and
 * what is said. */
#include "tests/harness.h"
#include "tests/fixtures/picture_files.h"
#include "worker/decode/decode_internal.h"

#include <string.h>
#include <sys/mman.h>
#include <zlib.h>

static char reason[DS_REASON_SIZE];
static ds_image_info info;

#define B(text) text, sizeof(text) - 1

/* Bytes that end with their page; the next one cannot be read, so that one byte too many is a
 * crash in every build. */
enum { ROOM = 1 << 16 };

static uint8_t *exact(const void *p, size_t n) {
    ck_assert_uint_le(n, ROOM);
    char *room = mmap(NULL, 2 * ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(room != MAP_FAILED && !mprotect(room + ROOM, ROOM, PROT_NONE));
    memcpy(room + ROOM - n, p, n);
    return (uint8_t *)room + ROOM - n;
}

static void drop(uint8_t *p, size_t n) { munmap(p + n - ROOM, 2 * ROOM); }

static int header(const void *p, size_t n) {
    uint8_t *copy = exact(p, n);
    *reason = 0;
    int rc = ds_decode_header(copy, n, &info, reason);
    drop(copy, n);
    return rc;
}

static uint8_t *pixels(enum ds_decode_use use, const void *p, size_t n) {
    uint8_t *copy = exact(p, n), *rgb;
    *reason = 0;
    int rc = ds_decode_rgb(use, copy, n, 1 << 20, &info, &rgb, reason);
    ck_assert_msg(!rc == !!rgb && (rc || info.verdict == DS_DECODED), "%d %s", rc, reason);
    drop(copy, n);
    return rgb;
}

/* ---------------------------------------------------------------- marks */

/* TGA: id length, palette, type, ..., width, height (of 16 bits), depth. */
static const struct {
    const char *bytes;
    size_t n;
    const char *name; /* NULL: unknown */
    int pillow;       /* Pillow reads it */
} marks[] = {
    {B("\0\0\2\0\0\0\0\0\0\0\0\0\1\0\1\0\x18\0"), "TGA", 1},
    {B("\0\1\1\0\0\0\0\0\0\0\0\0\1\0\1\0\x08\0"), "TGA", 1},
    {B("\0\2\2\0\0\0\0\0\0\0\0\0\1\0\1\0\x18\0"), NULL, 0},
    {B("\0\0\0\0\0\0\0\0\0\0\0\0\1\0\1\0\x18\0"), NULL, 0},
    {B("\0\0\4\0\0\0\0\0\0\0\0\0\1\0\1\0\x18\0"), NULL, 0},
    {B("\0\0\x0b\0\0\0\0\0\0\0\0\0\0\1\0\1\x20\0"), "TGA", 1},
    {B("\0\0\2\0\0\0\0\0\0\0\0\0\0\0\1\0\x18\0"), NULL, 0},
    {B("\0\0\2\0\0\0\0\0\0\0\0\0\1\0\0\0\x18\0"), NULL, 0},
    {B("\0\0\2\0\0\0\0\0\0\0\0\0\1\0\1\0\x0f\0"), NULL, 0},
    {B("\0\0\2\0\0\0\0\0\0\0\0\0\1\0\1\0\x18"), NULL, 0}, /* 17 bytes */
    {B("GIF87a"), "GIF", 1},
    {B("GIF88a"), NULL, 0},
    {B("GIF89"), NULL, 0},
    {B("II*\0"), "TIFF", 1},
    {B("MM\0*"), "TIFF", 1},
    {B("II+\0"), "TIFF", 1},
    {B("BM"), "BMP", 1},
    {B("B"), NULL, 0},
    {B("0000ftypavis"), "AVIF", 1},
    {B("0000ftypmif1"), "HEIF or AVIF", 1},
    {B("0000ftypheix"), "HEIF", 0},
    {B("0000ftypcrx "), "Canon raw", 0},
    {B("0000ftyp"), "MP4 video", 0},
    {B("0000fty"), NULL, 0},
    {B("0000moov"), "QuickTime video", 0},
    {B("\0\0\0\x0cJXL \r\n\x87\n"), "JPEG XL", 0},
    {B("\0\0\0\x0cjP  \r\n\x87\n"), "JPEG 2000", 1},
    {B("\xff\x4f\xff\x51"), "JPEG 2000", 1},
    {B("qoif"), "QOI", 1},
    {B("8BPS"), "Photoshop", 1},
    {B("DDS "), "DDS", 1},
    {B("\0\0\1\0"), "ICO", 1},
    {B("icns"), "ICNS", 1},
    {B("\x0a\3"), "PCX", 1},
    {B("\x0a\1"), NULL, 0},
    {B("/* XPM */"), "XPM", 1},
    {B("P7"), "PAM", 0},
    {B("Pf"), "PFM", 1},
    {B("P6x2 2 255\n"), NULL, 0},
    {B("P0 2 2 255\n"), NULL, 0},
    {B("RIFF0000WAVE"), "a RIFF file that is no WebP", 0},
    {B("RIFF0000WEB"), "a RIFF file that is no WebP", 0},
    {B("\x93NUMPY"), "NumPy array", 0},
    {B("%PDF-"), "PDF", 0},
    {B("%!PS"), "EPS", 1},
    {B("<svg"), "SVG", 0},
    {B("<?xml"), "XML or SVG", 0},
    {B("<html"), "HTML", 0},
    {B("PK\3\4"), "ZIP", 0},
    {B("\xff\xd8"), NULL, 0},
    {B("\x89PNG\r\n\x1a"), NULL, 0},
};

START_TEST(files_of_other_kinds) {
    char want[100];
    snprintf(want, sizeof want,
             marks[_i].name ? "unknown file type (%s is not supported)" : "unknown file type",
             marks[_i].name);
    ck_assert_int_lt(header(marks[_i].bytes, marks[_i].n), 0);
    ck_assert_str_eq(reason, want);
    for (int use = DS_DECODE_TRAIN; use <= DS_DECODE_PILLOW; use++) {
        ck_assert_ptr_null(pixels((enum ds_decode_use)use, marks[_i].bytes, marks[_i].n));
        ck_assert_str_eq(reason, want);
        ck_assert_int_eq(info.verdict, marks[_i].pillow ? DS_DECODE_UNSUPPORTED : DS_DECODE_BROKEN);
        ck_assert_int_eq(info.format, DS_IMAGE_UNKNOWN);
    }
}
END_TEST

START_TEST(names_of_decoders_and_notes) {
    ck_assert_str_eq(ds_decode_id(DS_DECODE_TRAIN), "train-2");
    ck_assert_str_eq(ds_decode_id(DS_DECODE_PILLOW), "pillow-13");
    static const struct {
        unsigned note;
        const char *train, *pillow;
    } notes[] = {{DS_NOTE_ALPHA, "laid over white", "dropped"},
                 {DS_NOTE_ORIENTATION, ": turned", "left as stored"},
                 {DS_NOTE_DEEP, ": scaled", "cut off at 255"},
                 {DS_NOTE_CMYK, "CMYK", "CMYK"},
                 {DS_NOTE_ANIMATED, "default picture", "first frame"},
                 {DS_NOTE_DAMAGED, "passed over", "passed over"}};
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++) {
        ck_assert_ptr_nonnull(
            strstr(ds_decode_note_text(DS_DECODE_TRAIN, notes[i].note), notes[i].train));
        ck_assert_ptr_nonnull(
            strstr(ds_decode_note_text(DS_DECODE_PILLOW, notes[i].note), notes[i].pillow));
    }
    uint8_t p[12] = {10, 20, 30, 255, 10, 20, 30, 0, 10, 100, 200, 128};
    static const uint8_t want[9] = {10, 20, 30, 255, 255, 255, 132, 177, 227};
    ds_over_white(p, 3);
    ck_assert_mem_eq(p, want, 9);
}
END_TEST

/* ---------------------------------------------------------------- EXIF */

#define LE(entries) "II*\0\x08\0\0\0" entries
#define BE(entries) "MM\0*\0\0\0\x08" entries
static const struct {
    const char *bytes;
    size_t n;
    int want;
} exifs[] = {
    {B(LE("\1\0\x12\1\3\0\1\0\0\0\6\0\0\0")), 6},
    {B(BE("\0\1\1\x12\0\3\0\0\0\1\0\6\0\0")), 6},
    {B("Exif\0\0" LE("\1\0\x12\1\3\0\1\0\0\0\6\0\0\0")), 6},
    {B("Exif\0\0Exif\0\0" LE("\1\0\x12\1\3\0\1\0\0\0\6\0\0\0")), 6},
    {B("Exif\0\0Exif\0\0Exif\0\0" LE("\1\0\x12\1\3\0\1\0\0\0\6\0\0\0")), 0},
    {B(LE("\1\0\x12\1\3\0\1\0\0\0\1\0\0\0")), 1},
    {B(LE("\1\0\x12\1\3\0\1\0\0\0\x08\0\0\0")), 8},
    {B(LE("\1\0\x12\1\3\0\1\0\0\0\x09\0\0\0")), 0},
    {B(LE("\1\0\x12\1\3\0\1\0\0\0\0\0\0\0")), 0},
    {B(LE("\1\0\x12\1\3\0\1\0\0\0\6\1\0\0")), 0}, /* 262 */
    {B(LE("\1\0\x12\1\4\0\1\0\0\0\6\0\0\0")), 6}, /* LONG */
    {B(LE("\1\0\x12\1\4\0\1\0\0\0\6\0\1\0")), 0},
    {B(BE("\0\1\1\x12\0\4\0\0\0\1\0\0\0\6")), 6},
    {B(BE("\0\1\1\x12\0\4\0\0\0\1\0\6\0\0")), 0},
    {B(LE("\1\0\x12\1\x08\0\1\0\0\0\6\0\0\0")), 6}, /* of either sign */
    {B(LE("\1\0\x12\1\x09\0\1\0\0\0\6\0\0\0")), 6},
    {B(LE("\1\0\x12\1\1\0\1\0\0\0\6\0\0\0")), 0}, /* BYTE */
    {B(LE("\1\0\x12\1\2\0\1\0\0\0\6\0\0\0")), 0},
    {B(LE("\1\0\x12\1\5\0\1\0\0\0\6\0\0\0")), 0},
    {B(LE("\1\0\x12\1\3\0\0\0\0\0\6\0\0\0")), 0},               /* no value */
    {B(LE("\1\0\x12\1\3\0\2\0\0\0\6\0\3\0")), 6},               /* two in place */
    {B(LE("\1\0\x12\1\3\0\3\0\0\0\x16\0\0\0\5\0\6\0\7\0")), 5}, /* three elsewhere */
    {B(LE("\1\0\x12\1\3\0\3\0\0\0\x16\0\0\0\5\0\6\0\7")), 0},   /* cut off */
    {B(LE("\1\0\x12\1\4\0\2\0\0\0\x16\0\0\0\5\0\0\0\6\0\0\0")), 5},
    {B(LE("\1\0\x12\1\4\0\2\0\0\0\x17\0\0\0\5\0\0\0\6\0\0\0")), 0},
    {B(LE("\1\0\x12\1\3\0\3\0\0\0\xff\xff\xff\xff\5\0\6\0\7\0")), 0},
    {B(LE("\2\0\x13\1\3\0\1\0\0\0\3\0\0\0\x12\1\3\0\1\0\0\0\6\0\0\0")), 6}, /* the second */
    {B(LE("\2\0\x12\1\3\0\1\0\0\0\3\0\0\0\x12\1\3\0\1\0\0\0\6\0\0\0")), 3}, /* the first of two */
    {B(LE("\1\0\x13\1\3\0\1\0\0\0\3\0\0\0\x12\1\3\0\1\0\0\0\6\0\0\0")), 0}, /* behind the end */
    {B(LE("\2\0\x13\1\3\0\1\0\0\0\3\0\0\0\x12\1\3\0\1\0\0\0\6\0\0")), 0},   /* cut off */
    {B(LE("\0\0\x12\1\3\0\1\0\0\0\6\0\0\0")), 0},
    {B("II*\0\x0a\0\0\0xx\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"), 6},
    {B("II*\0\x07\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"), 0},
    {B("II*\0\x07\0\0\0"), 0},
    {B("II*\0\x06\0\0\0"), 0},
    {B("II*\0\xff\xff\xff\xff"), 0},
    {B("II*\0\x08\0\0"), 0},
    {B("IM*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"), 0},
    {B("MM*\0\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0"), 0},
    {B(""), 0},
};

static void append_hex(ds_buf *b, const char *bytes, size_t n, const char *digits) {
    for (size_t i = 0; i < n; i++)
        ds_buf_addf(b, "%c%c%s", digits[(uint8_t)bytes[i] >> 4], digits[bytes[i] & 15],
                    i % 36 == 35 ? "\n" : "");
}

START_TEST(orientation_in_exif) {
    uint8_t *p = exact(exifs[_i].bytes, exifs[_i].n);
    ck_assert_msg(ds_exif_orientation(p, exifs[_i].n) == exifs[_i].want, "case %d", _i);
    drop(p, exifs[_i].n);
    /* and the same as ImageMagick's text */
    for (int upper = 0; upper < 2; upper++) {
        ds_buf b = {0};
        ds_buf_addf(&b, "\nexif\n%8zu\n", exifs[_i].n);
        append_hex(&b, exifs[_i].bytes, exifs[_i].n,
                   upper ? "0123456789ABCDEF" : "0123456789abcdef");
        p = exact(b.data, b.len);
        ck_assert_msg(ds_exif_raw_profile((char *)p, b.len) == exifs[_i].want, "text %d", _i);
        drop(p, b.len);
        ds_buf_release(&b);
    }
}
END_TEST

START_TEST(text_that_is_no_profile) {
    static const char good[] = "49492a000800000001001201030001000000060000"
                               "00";
    static const struct {
        const char *before, *behind;
        int want;
    } cases[] = {{"\nexif\n26\n", "", 6},
                 {"a\nb\nc\n", "", 6},
                 {"\nexif\n", "", 0},
                 {"exif", "", 0},
                 {"", "", 0},
                 {"\nexif\n26\n\t ", "\r\n", 6},
                 {"\nexif\n26\n", "x", 0},
                 {"\nexif\n26\n", "g", 0},
                 {"\nexif\n26\n", "/", 0},
                 {"\nexif\n26\n", ":", 0},
                 {"\nexif\n26\n", "@", 0},
                 {"\nexif\n26\n", "`", 0},
                 {"\nexif\n26\n!", "", 0},
                 {"\nexif\n26\n", "0", 6}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = ds_xasprintf("%s%s%s", cases[i].before, good, cases[i].behind);
        ck_assert_msg(ds_exif_raw_profile(text, strlen(text)) == cases[i].want, "case %zu", i);
        free(text);
    }
    char zero[200];
    int n = snprintf(zero, sizeof zero, "\nexif\n26\n%s", good);
    ck_assert_int_eq(ds_exif_raw_profile(zero, (size_t)n + 1), 0); /* a 0 is no space */
}
END_TEST

/* A picture of 3 x 2 of which each pixel is known, turned as the standard's drawing shows. */
START_TEST(turned_pictures) {
    static const char *const shown[] = {
        [1] = "abcdef", [2] = "cbafed", [3] = "fedcba", [4] = "defabc",
        [5] = "adbecf", [6] = "daebfc", [7] = "fcebda", [8] = "cfbead"};
    uint8_t rgb[18];
    for (int i = 0; i < 18; i++)
        rgb[i] = (uint8_t)("abcdef"[i / 3] + 20 * (i % 3));
    for (int o = 1; o <= 8; o++) {
        ds_buf b = make_rgb_png(3, 2, rgb), with = {0};
        char chunk[] = "\0\0\0\x1a"
                       "eXIfII*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0";
        chunk[26] = (char)o;
        uint32_t crc = (uint32_t)crc32(0, (const uint8_t *)chunk + 4, 30);
        ds_buf_add(&with, b.data, 33); /* behind IHDR */
        ds_buf_add(&with, chunk, 34);
        for (int i = 3; i >= 0; i--)
            ds_buf_add(&with, &(char){(char)(crc >> 8 * i)}, 1);
        ds_buf_add(&with, b.data + 33, b.len - 33);
        uint8_t *got = pixels(DS_DECODE_TRAIN, with.data, with.len);
        ck_assert_msg(got != NULL, "%s", reason);
        ck_assert_int_eq(info.orientation, o);
        ck_assert_int_eq(info.width, o >= 5 ? 2 : 3);
        ck_assert_int_eq(info.height, o >= 5 ? 3 : 2);
        ck_assert_int_eq(info.notes, o > 1 ? DS_NOTE_ORIENTATION : 0);
        for (int i = 0; i < 18; i++)
            ck_assert_msg(got[i] == (uint8_t)(shown[o][i / 3] + 20 * (i % 3)), "%d: pixel %d", o,
                          i / 3);
        free(got);
        ck_assert_int_eq(header(with.data, with.len), 0);
        ck_assert(info.width == (o >= 5 ? 2 : 3) && info.height == (o >= 5 ? 3 : 2));
        got = pixels(DS_DECODE_PILLOW, with.data, with.len); /* as stored */
        ck_assert(got && info.width == 3 && info.height == 2 && !memcmp(got, rgb, 18));
        free(got);
        ds_buf_release(&b);
        ds_buf_release(&with);
    }
}
END_TEST

/* ---------------------------------------------------------------- JPEG */

#define FRAME(h, w, components) "\xff\xc0\0\x0b\x08\0" h "\0" w components "\1\x11\0"
#define SCAN "\xff\xda\0\x08\1\1\0\0\x3f\0zz"
#define END "\xff\xd9"
#define EXIF(o)                                                                                    \
    "\xff\xe1\0\x1e"                                                                               \
    "Exif\0\0" LE("\1\0\x12\1\3\0\1\0\0\0" o "\0\0\0")
static const struct {
    const char *bytes;
    size_t n;
    int width, height, orientation, notes;
    const char *says; /* NULL: is whole */
} jpegs[] = {
    {B("\xff\xd8" FRAME("\2", "\3", "\1") SCAN END), 3, 2, 1, 0, NULL},
    {B("\xff\xd8" FRAME("\2", "\3", "\4") SCAN END), 3, 2, 1, DS_NOTE_CMYK, NULL},
    {B("\xff\xd8" FRAME("\2", "\3", "\1") FRAME("\7", "\7", "\4") SCAN END), 3, 2, 1, 0,
     NULL}, /* the first */
    {B("\xff\xd8" EXIF("\6") FRAME("\2", "\3", "\1") SCAN END), 2, 3, 6, DS_NOTE_ORIENTATION, NULL},
    {B("\xff\xd8" EXIF("\6") EXIF("\3") FRAME("\2", "\3", "\1") SCAN END), 2, 3, 6,
     DS_NOTE_ORIENTATION, NULL},
    {B("\xff\xd8" EXIF("\1") EXIF("\3") FRAME("\2", "\3", "\1") SCAN END), 3, 2, 3,
     DS_NOTE_ORIENTATION, NULL},
    {B("\xff\xd8" EXIF("\x09") FRAME("\2", "\3", "\1") SCAN END), 3, 2, 1, 0, NULL},
    {B("\xff\xd8\xff\xe1\0\7Exif\0" FRAME("\2", "\3", "\1") SCAN END), 3, 2, 1, 0, NULL},
    {B("\xff\xd8\xff\xff\xff" FRAME("\2", "\3", "\1") SCAN END), 3, 2, 1, 0, NULL}, /* fill bytes */
    {B("\xff\xd8\xff\xfe\0\2stray" FRAME("\2", "\3", "\1") SCAN END), 3, 2, 1, DS_NOTE_DAMAGED,
     NULL},
    {B("\xff\xd8\xff\0" FRAME("\2", "\3", "\1") SCAN END), 3, 2, 1, DS_NOTE_DAMAGED, NULL},
    {B("\xff\xd8\xff\x01\xff\xd0" FRAME("\2", "\3", "\1") SCAN END), 3, 2, 1, 0, NULL},
    {B("\xff\xd8" FRAME("\2", "\3", "\1") SCAN "\xff\0\xff\xd7z\xff\xd0\xff" END), 3, 2, 1, 0,
     NULL},
    {B("\xff\xd8" FRAME("\2", "\3", "\1") SCAN SCAN END), 3, 2, 1, 0, NULL},
    {B("\xff\xd8" FRAME("\2", "\3", "\1") END), 3, 2, 1, 0, "damaged JPEG: no picture in it"},
    {B("\xff\xd8" SCAN END), 0, 0, 1, 0, "damaged JPEG: no picture in it"},
    {B("\xff\xd8" FRAME("\2", "\0", "\1") SCAN END), 0, 2, 1, 0, "damaged JPEG: no picture in it"},
    {B("\xff\xd8" FRAME("\0", "\3", "\1") SCAN END), 3, 0, 1, 0, "damaged: a side of zero pixels"},
    {B("\xff\xd8\xff\xc4\0\x0b\x08\0\2\0\3\1\1\x11\0" SCAN END), 0, 0, 1, 0,
     "damaged JPEG: no picture in it"},
    {B("\xff\xd8\xff\xc8\0\x0b\x08\0\2\0\3\1\1\x11\0" SCAN END), 0, 0, 1, 0,
     "damaged JPEG: no picture in it"},
    {B("\xff\xd8\xff\xcc\0\x0b\x08\0\2\0\3\1\1\x11\0" SCAN END), 0, 0, 1, 0,
     "damaged JPEG: no picture in it"},
    {B("\xff\xd8\xff\xcf\0\x0b\x08\0\2\0\3\1\1\x11\0" SCAN END), 3, 2, 1, 0, NULL},
    {B("\xff\xd8\xff\xc0\0\x08\x08\0\2\0\3\1" SCAN END), 3, 2, 1, 0, NULL},
    {B("\xff\xd8\xff\xc0\0\7\x08\0\2\0\3" SCAN END), 0, 0, 1, 0,
     "damaged JPEG: bad segment length"},
    {B("\xff\xd8\xff\xfe\0\2" FRAME("\2", "\3", "\1") SCAN END), 3, 2, 1, 0, NULL},
    {B("\xff\xd8\xff\xfe\0\1" FRAME("\2", "\3", "\1") SCAN END), 0, 0, 1, 0,
     "damaged JPEG: bad segment length"},
    {B("\xff\xd8\xff\xfe\0\0" FRAME("\2", "\3", "\1") SCAN END), 0, 0, 1, 0,
     "damaged JPEG: bad segment length"},
    {B("\xff\xd8\xff"), 0, 0, 1, 0, "truncated: the JPEG data ends before"},
    {B("\xff\xd8" FRAME("\2", "\3", "\1") SCAN), 3, 2, 1, 0,
     "truncated: the JPEG data ends before its end marker"},
    {B("\xff\xd8" FRAME("\2", "\3", "\1") SCAN "\xff"), 3, 2, 1, 0,
     "truncated: the JPEG data ends before"},
    {B("\xff\xd8" FRAME("\2", "\3", "\1")), 3, 2, 1, 0, "truncated: the JPEG data ends before"},
    {B("\xff\xd8\xff\xfe\0"), 0, 0, 1, 0, "truncated: a JPEG segment is cut off"},
    {B("\xff\xd8\xff\xfe\0\3"), 0, 0, 1, 0, "truncated: a JPEG segment is cut off"},
    {B("\xff\xd8\xff\xfe"), 0, 0, 1, 0, "truncated: a JPEG segment is cut off"},
};

START_TEST(segments_of_a_jpeg) {
    int rc = header(jpegs[_i].bytes, jpegs[_i].n);
    ck_assert_msg(!rc == !jpegs[_i].says, "case %d: %d %s", _i, rc, reason);
    if (rc) {
        ck_assert_msg(strstr(reason, jpegs[_i].says) != NULL, "case %d: %s", _i, reason);
        ck_assert_int_eq(info.verdict, DS_DECODE_BROKEN);
    } else
        ck_assert_int_eq(info.notes, jpegs[_i].notes);
    ck_assert_msg(info.width == jpegs[_i].width && info.height == jpegs[_i].height &&
                      info.orientation == jpegs[_i].orientation,
                  "case %d: %d x %d, %d", _i, info.width, info.height, info.orientation);
}
END_TEST

/* ---------------------------------------------------------------- PNG */

/* The file of these chunks, CRCs not computed: only the header is read. */
typedef struct {
    const char *type, *data;
    size_t n;
} chunk;

static ds_buf png_of(const chunk *list, int count) {
    ds_buf b = {0};
    ds_buf_add(&b, "\x89PNG\r\n\x1a\n", 8);
    for (int i = 0; i < count; i++) {
        for (int k = 3; k >= 0; k--)
            ds_buf_add(&b, &(char){(char)(list[i].n >> 8 * k)}, 1);
        ds_buf_add(&b, list[i].type, 4);
        ds_buf_add(&b, list[i].data, list[i].n);
        ds_buf_add(&b, "crc.", 4);
    }
    return b;
}

#define HEAD                                                                                       \
    { "IHDR", B("\0\0\0\3\0\0\0\2\x08\2\0\0\0") }
#define DATA                                                                                       \
    { "IDAT", B("x") }
#define STOP                                                                                       \
    { "IEND", B("") }
#define EX(o)                                                                                      \
    { "eXIf", B(LE("\1\0\x12\1\3\0\1\0\0\0" o "\0\0\0")) }
#define PROFILE "Raw profile type exif\0"
#define HEX(o) "\nexif\n26\n49492a0008000000010012010300010000000" o "000000"
static const struct {
    chunk list[6];
    int orientation;
    const char *says; /* NULL: is whole */
} pngs[] = {
    {{HEAD, DATA, STOP}, 1, NULL},
    {{HEAD, EX("\6"), DATA, STOP}, 6, NULL},
    {{HEAD, DATA, EX("\6"), STOP}, 6, NULL},
    {{HEAD, EX("\3"), EX("\6"), DATA, STOP}, 6, NULL}, /* the last chunk */
    {{HEAD, {"tEXt", B(PROFILE HEX("6"))}, DATA, STOP}, 6, NULL},
    {{HEAD, {"tEXt", B(PROFILE HEX("6"))}, {"tEXt", B(PROFILE HEX("3"))}, DATA, STOP},
     6,
     NULL}, /* the first text */
    {{HEAD, {"tEXt", B(PROFILE HEX("6"))}, EX("\3"), DATA, STOP},
     3,
     NULL}, /* the chunk goes before */
    {{HEAD, EX("\3"), {"tEXt", B(PROFILE HEX("6"))}, DATA, STOP}, 3, NULL},
    {{HEAD, {"tEXt", B(PROFILE HEX("6"))}, {"eXIf", B("nonsense")}, DATA, STOP}, 1, NULL},
    {{HEAD, {"tEXt", B("Raw profile type exig\0" HEX("6"))}, DATA, STOP}, 1, NULL},
    {{HEAD, {"tEXt", B(PROFILE)}, DATA, STOP}, 1, NULL},
    {{HEAD, {"iTXt", B(PROFILE HEX("6"))}, DATA, STOP}, 1, NULL},
    {{HEAD, {"zTXt", B(PROFILE "\0not packed")}, DATA, STOP}, 1, NULL},
    {{HEAD, STOP}, 1, "damaged PNG: no picture in it"},
    {{DATA, STOP}, 1, "damaged PNG: does not start with IHDR"},
    {{{"IHDR", B("\0\0\0\3\0\0\0\2\x08\2\0\0")}, DATA, STOP}, 1, "does not start with IHDR"},
    {{{"IHDR", B("\x80\0\0\0\0\0\0\2\x08\2\0\0\0")}, DATA, STOP}, 1, "damaged PNG: bad dimensions"},
    {{{"IHDR", B("\0\0\0\3\x80\0\0\0\x08\2\0\0\0")}, DATA, STOP}, 1, "damaged PNG: bad dimensions"},
    {{{"IHDR", B("\0\0\0\0\0\0\0\2\x08\2\0\0\0")}, DATA, STOP}, 1, "a side of zero pixels"},
    {{HEAD, DATA}, 1, "truncated: the PNG data ends before its IEND chunk"},
};

START_TEST(chunks_of_a_png) {
    int n = 0;
    while (n < 6 && pngs[_i].list[n].type)
        n++;
    ds_buf b = png_of(pngs[_i].list, n);
    int rc = header(b.data, b.len);
    ck_assert_msg(!rc == !pngs[_i].says, "case %d: %d %s", _i, rc, reason);
    ck_assert_msg(!rc || strstr(reason, pngs[_i].says), "case %d: %s", _i, reason);
    ck_assert_msg(rc || info.orientation == pngs[_i].orientation, "case %d: %d", _i,
                  info.orientation);
    ck_assert(rc || (info.width == (info.orientation == 6 ? 2 : 3)));
    if (!rc)
        ck_assert_int_lt(header(b.data, b.len - 1), 0); /* the last CRC is cut off */
    ds_buf_release(&b);
}
END_TEST

/* The packed text: its zlib stream must end, and its method be 0. */
START_TEST(packed_text_of_a_png) {
    static const char text[] = HEX("6");
    char data[400], packed[300];
    uLongf n = sizeof packed;
    ck_assert_int_eq(compress((Bytef *)packed, &n, (const Bytef *)text, sizeof text - 1), Z_OK);
    for (int how = 0; how < 3; how++) { /* right, another method, cut off */
        size_t at = sizeof PROFILE - 1;
        memcpy(data, PROFILE, at);
        data[at++] = how == 1;
        memcpy(data + at, packed, n);
        at += n - (how == 2 ? 5 : 0);
        chunk list[4] = {HEAD, {"zTXt", data, at}, DATA, STOP};
        ds_buf b = png_of(list, 4);
        ck_assert_int_eq(header(b.data, b.len), 0);
        ck_assert_int_eq(info.orientation, how ? 1 : 6);
        ds_buf_release(&b);
    }
}
END_TEST

/* ---------------------------------------------------------------- PNM */

static const struct {
    const char *bytes;
    size_t n;
    int first; /* the first sample as shown; -1: refused */
    const char *says;
} pnms[] = {
    {B("P5 1 1 255\n\x07"), 7, ""},
    {B("P5#c\n1 1 255\n\x07"), 7, ""},
    {B("P5\t1\r1\v255\f\x07"), 7, ""},
    {B("P5 1 1 255\n"), -1, "truncated: the PNM data ends before its last row"},
    {B("P5 1 1 255X\x07"), -1, "damaged PNM header"},
    {B("P5 1 1 255"), -1, "damaged PNM header"},
    {B("P5 1 1 0\n\0"), -1, "damaged PNM header"},
    {B("P5 1 1 1\n\1"), 255, ""},
    {B("P5 1 1 1\n\2"), -1, "damaged PNM: missing or too large sample"},
    {B("P5 1 1 100\n\x64"), 255, ""},
    {B("P5 1 1 100\n\x65"), -1, "missing or too large sample"},
    {B("P5 1 1 256\n\1\0"), 255, ""},
    {B("P5 1 1 256\n\1\1"), -1, "missing or too large sample"},
    {B("P5 1 1 256\n\1"), -1, "truncated"},
    {B("P5 1 1 65535\n\x80\0"), 128, ""},
    {B("P5 1 1 65536\n\x80\0"), -1, "damaged PNM header"},
    {B("P5 1 -1 255\n\x07"), -1, "damaged PNM header"},
    {B("P5 1 x 255\n\x07"), -1, "damaged PNM header"},
    {B("P5 1"), -1, "damaged PNM header"},
    {B("P5 1 0 255\n\x07"), -1, "damaged: a side of zero pixels"},
    {B("P5 1073741825 1 255\n\x07"), -1, "damaged PNM header"},
    {B("P5 1073741824 1 255\n\x07"), -1, "truncated"},
    {B("P2 1 1 100 50"), 128, ""},
    {B("P2 1 1 100 #c\n#d\n50"), 128, ""},
    {B("P2 1 1 100 100"), 255, ""},
    {B("P2 1 1 100 101"), -1, "missing or too large sample"},
    {B("P2 1 1 100 -1"), -1, "missing or too large sample"},
    {B("P2 1 1 100 "), -1, "missing or too large sample"},
    {B("P2 2 1 100 5"), -1, "missing or too large sample"},
    {B("P2 1 1 100 5 6"), 13, ""},
    {B("P2 1 1 200 99"), 126, ""}, /* 126.225 */
    {B("P2 1 1 200 98"), 125, ""}, /* 124.95 */
    {B("P1 1 1 0"), 255, ""},
    {B("P1 1 1 1"), 0, ""},
    {B("P1 1 1 2"), -1, "missing or too large sample"},
    {B("P1 1 1 "), -1, "missing or too large sample"},
    {B("P4 9 1 \0\x80"), 255, ""},
    {B("P4 9 1 \0"), -1, "truncated"},
    {B("P4 8 2 \x80\0"), 0, ""},
    {B("P3 1 1 255 1 2 3"), 1, ""},
    {B("P3 1 1 255 1 2"), -1, "missing or too large sample"},
    {B("P6 1 1 255 \5\6\7"), 5, ""},
    {B("P6 1 1 255 \5\6"), -1, "truncated"},
    {B("P6 1 2 255 \5\6\7\5\6"), -1, "truncated"},
    {B("P6 1 1 256 \0\x80\0\0\0\0"), 128, ""},
};

START_TEST(headers_and_samples_of_pnm) {
    uint8_t *rgb = pixels(DS_DECODE_TRAIN, pnms[_i].bytes, pnms[_i].n);
    ck_assert_msg(!rgb == (pnms[_i].first < 0), "case %d: %s", _i, reason);
    ck_assert_msg(strstr(reason, pnms[_i].says) != NULL, "case %d: %s", _i, reason);
    if (rgb)
        ck_assert_msg(rgb[0] == pnms[_i].first, "case %d: %d", _i, rgb[0]);
    else
        ck_assert_int_eq(info.verdict, DS_DECODE_BROKEN);
    free(rgb);
}
END_TEST

/* ---------------------------------------------------------------- WebP */

static void little(char *to, size_t v) {
    for (int i = 0; i < 4; i++)
        to[i] = (char)(v >> 8 * i);
}

/* A chunk behind the others, within the announced size. */
static void webp_chunk(ds_buf *b, const char *type, const char *data, size_t n, size_t says) {
    char size[4];
    little(size, says);
    ds_buf_add(b, type, 4);
    ds_buf_add(b, size, 4);
    ds_buf_add(b, data, n);
    little(b->data + 4, b->len - 8);
}

START_TEST(parts_of_a_webp) {
    static const char animated[] = "RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x07\0\0\x07\0\0"
                                   "ANIM\x06\0\0\0\xff\xff\xff\xff\0\0";
    static const char turned[] = LE("\1\0\x12\1\3\0\1\0\0\0\6\0\0\0");
    uint8_t rgba[3 * 2 * 4];
    ck_assert_ptr_null(pixels(DS_DECODE_TRAIN, animated, sizeof animated - 1));
    ck_assert_int_eq(info.verdict, DS_DECODE_UNSUPPORTED);
    ck_assert_str_eq(reason, "animated WebP is not supported");
    for (int alpha = 0; alpha < 2; alpha++) {
        memset(rgba, 255, sizeof rgba);
        rgba[0] = 10;
        rgba[3] = alpha ? 100 : 255;
        ds_buf b = make_webp(3, 2, rgba);
        uint8_t *got = pixels(DS_DECODE_TRAIN, b.data, b.len);
        ck_assert(got && info.width == 3 && info.height == 2 && info.orientation == 1);
        ck_assert_int_eq(info.notes, alpha ? DS_NOTE_ALPHA : 0);
        ck_assert_int_eq(got[0], alpha ? (10 * 100 + 255 * 155 + 127) / 255 : 10);
        free(got);
        ck_assert_int_lt(header(b.data, b.len - 1), 0);
        ck_assert_str_eq(reason, "truncated: the WebP data ends before its announced size");
        ck_assert_int_eq(info.verdict, DS_DECODE_BROKEN);
        ck_assert_int_lt(header(b.data, 20), 0);
        size_t whole = b.len;
        webp_chunk(&b, "XMP ", "odd\0", 4, 3); /* and a byte that fills it up */
        webp_chunk(&b, "EXIF", turned, sizeof turned - 1, sizeof turned - 1);
        got = pixels(DS_DECODE_TRAIN, b.data, b.len);
        ck_assert(got && info.width == 2 && info.height == 3 && info.orientation == 6);
        ck_assert_int_eq(info.notes, DS_NOTE_ORIENTATION | (alpha ? DS_NOTE_ALPHA : 0));
        free(got);
        got = pixels(DS_DECODE_PILLOW, b.data, b.len); /* as stored, and said */
        ck_assert(got && info.width == 3 && info.height == 2 && got[0] == 10);
        ck_assert_int_eq(info.notes, DS_NOTE_ORIENTATION | (alpha ? DS_NOTE_ALPHA : 0));
        free(got);
        little(b.data + 4, whole - 8); /* what is behind the announced size is not looked at */
        ck_assert(!header(b.data, b.len) && info.orientation == 1);
        b.len = whole;
        webp_chunk(&b, "EXIF", turned, sizeof turned - 1, sizeof turned); /* longer than the file */
        ck_assert(!header(b.data, b.len) && info.orientation == 1);
        b.len = whole;
        webp_chunk(&b, "EXIF", "II*\0nonsense", 12, 12);
        ck_assert(!header(b.data, b.len) && info.orientation == 1);
        ds_buf_release(&b);
    }
}
END_TEST

/* As many pixels as are allowed, and one less. */
START_TEST(as_many_pixels_as_allowed) {
    ds_buf files[3] = {make_slope_png(7, 3, 1), {0}, {0}};
    uint8_t *slope = make_slope(7, 3, 1), rgba[7 * 3 * 4];
    jpeg_spec j = {7, 3, 3, JCS_RGB, JCS_YCbCr, 0, 0, 0, slope};
    memset(rgba, 200, sizeof rgba);
    files[1] = make_jpeg(&j);
    files[2] = make_webp(7, 3, rgba);
    for (int f = 0; f < 3; f++)
        for (int use = DS_DECODE_TRAIN; use <= DS_DECODE_PILLOW; use++)
            for (int limit = 20; limit <= 21; limit++) {
                uint8_t *rgb;
                int rc = ds_decode_rgb((enum ds_decode_use)use, (uint8_t *)files[f].data,
                                       files[f].len, limit, &info, &rgb, reason);
                ck_assert_int_eq(rc, limit == 21 ? 0 : -1);
                ck_assert_int_eq(info.verdict, rc ? DS_DECODE_TOO_LARGE : DS_DECODED);
                ck_assert(!rc ||
                          !strcmp(reason, "too large: 7 x 3 pixels, the limit is 20 pixels"));
                free(rgb);
            }
    for (int f = 0; f < 3; f++)
        ds_buf_release(&files[f]);
    free(slope);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, files_of_other_kinds, 0, (int)(sizeof marks / sizeof *marks));
    tcase_add_test(tc, names_of_decoders_and_notes);
    tcase_add_loop_test(tc, orientation_in_exif, 0, (int)(sizeof exifs / sizeof *exifs));
    tcase_add_test(tc, text_that_is_no_profile);
    tcase_add_test(tc, turned_pictures);
    tcase_add_loop_test(tc, segments_of_a_jpeg, 0, (int)(sizeof jpegs / sizeof *jpegs));
    tcase_add_loop_test(tc, chunks_of_a_png, 0, (int)(sizeof pngs / sizeof *pngs));
    tcase_add_test(tc, packed_text_of_a_png);
    tcase_add_loop_test(tc, headers_and_samples_of_pnm, 0, (int)(sizeof pnms / sizeof *pnms));
    tcase_add_test(tc, parts_of_a_webp);
    tcase_add_test(tc, as_many_pixels_as_allowed);
}

int main(void) { return ds_test_main("worker_decode", cases); }
