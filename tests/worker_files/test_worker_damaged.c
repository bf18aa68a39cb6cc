/* tests/worker_files/test_worker_damaged.c - files on which Pillow ends: each segment of a JPEG, chunk of a PNG, part of a WebP
 * and number of a PNM at the length where it is one byte too short, and where it is just right. */
#include "tests/fixtures/picture_files.h"
#include "tests/harness.h"
#include "worker/decode/decode.h"

#include <zlib.h>

#define B(text) text, sizeof(text) - 1

static ds_image_info info;
static char reason[DS_REASON_SIZE];

/* says NULL: it is decoded, to width x height. */
static void expect(enum ds_decode_use use, const ds_buf *b, const char *says, const char *what) {
    uint8_t *rgb = NULL;
    *reason = 0;
    int rc = ds_decode_rgb(use, (const uint8_t *)b->data, b->len, 1 << 22, &info, &rgb, reason);
    ck_assert_msg(!rc == !says, "%s: %d %s", what, rc, reason);
    if (!says)
        ck_assert(rgb && info.width == 6 && info.height == 5);
    else {
        ck_assert_msg(!strcmp(reason, says), "%s: '%s', must be '%s'", what, reason, says);
        ck_assert_int_eq(info.verdict, DS_DECODE_BROKEN);
    }
    free(rgb);
}

/* ---------------------------------------------------------------- JPEG */

static const struct {
    const char *segment; /* after the start of the file, length and all */
    size_t n;
    const char *says;
} jpegs[] = {
    {B(""), NULL},
    {B("\xff\xe0\0\x08JFIF\0\1"), "damaged JPEG: JFIF segment is too short"},
    {B("\xff\xe0\0\x09JFIF\0\1\2"), NULL},
    {B("\xff\xe0\0\x05JFI"), NULL},
    {B("\xff\xee\0\x07"
       "Adobe"),
     "damaged JPEG: Adobe segment is too short"},
    {B("\xff\xee\0\x08"
       "Adobe\0"),
     "damaged JPEG: Adobe segment is too short"},
    {B("\xff\xee\0\x09"
       "Adobe\0\0"),
     NULL},
    {B("\xff\xed\0\x16Photoshop 3.0\0"
       "8BIM\0\1"),
     "damaged JPEG: Photoshop segment is cut off"},
    {B("\xff\xed\0\x15Photoshop 3.0\0"
       "8BIM\0"),
     NULL},
    {B("\xff\xed\0\x17Photoshop 3.0\0"
       "8BIM\0\1\0"),
     NULL},
    {B("\xff\xed\0\x22Photoshop 3.0\0"
       "8BIM\0\1\0\0\0\0\0\0"
       "8BIM\0\1"),
     "damaged JPEG: Photoshop segment is cut off"},
    {B("\xff\xed\0\x24Photoshop 3.0\0"
       "8BIM\0\1\0\0\0\0\0\1x\0"
       "8BIM\0\1"),
     "damaged JPEG: Photoshop segment is cut off"}, /* odd data are filled up */
    {B("\xff\xed\0\x24Photoshop 3.0\0"
       "8BIM\0\1\2ab\0\0\0\0\0"
       "8BIM\0\1"),
     "damaged JPEG: Photoshop segment is cut off"}, /* so are odd names */
    {B("\xff\xed\0\x22Photoshop 3.0\0"
       "8BIM\3\xed\0\0\0\0\0\0"
       "8BIM\0\1"),
     NULL}, /* ends there */
    {B("\xff\xe2\0\x0fICC_PROFILE\0\1"), "damaged JPEG: colour profile is cut off"},
    {B("\xff\xe2\0\x10ICC_PROFILE\0\1\1"), NULL},
    {B("\xff\xe2\0\x10ICC_PROFILE\0\1\1\xff\xe2\0\x0eICC_PROFILE\0"),
     "damaged JPEG: colour profile is cut off"},
    {B("\xff\xe2\0\x0eICC_PROFILE\0\xff\xe2\0\x10ICC_PROFILE\0\1\1"),
     "damaged JPEG: colour profile is cut off"},
    {B("\xff\xdb\0\x03\0"), "damaged JPEG: bad quantization table"},
    {B("\xff\xc0\0\x07\x08\0\5\0\6"), "damaged JPEG: frame header is too short"},
    {B("\xff\xc0\0\x09\x08\0\5\0\6\1\1"), "damaged JPEG: frame header is cut off"},
    {B("\xff\xc0\0\x0b\x0c\0\5\0\6\1\1\x11\0"), "JPEG of 12 bits a sample"},
    {B("\xff\xc0\0\x0e\x08\0\5\0\6\2\1\x11\0\2\x11\0"), "JPEG of 2 components"},
    {B("\xff\xda\0\x08\1\1\0\0\x3f\0"), "damaged JPEG: a scan before its frame"},
    {B("\xff\x10"), "damaged JPEG: no marker found"},
    {B("\xff\xc0\0\x0b\x08\0\7\0\6\1\1\x11\0"), "damaged JPEG: Unsupported marker type 0xc0"},
};

START_TEST(segments_that_are_cut) {
    uint8_t *rows = make_slope(6, 5, 3);
    jpeg_spec s = {
        .w = 6, .h = 5, .components = 3, .in = JCS_RGB, .stored = JCS_YCbCr, .rows = rows};
    ds_buf whole = make_jpeg(&s), b = {0};
    char what[20];
    snprintf(what, sizeof what, "case %d", _i);
    ds_buf_add(&b, whole.data, 2);
    if (jpegs[_i].n)
        ds_buf_add(&b, jpegs[_i].segment, jpegs[_i].n);
    ds_buf_add(&b, whole.data + 2, whole.len - 2);
    if (jpegs[_i].says && strstr(jpegs[_i].says, "Unsupported")) { /* libjpeg's own words */
        uint8_t *rgb = NULL;
        ck_assert_int_lt(
            ds_decode_rgb(DS_DECODE_PILLOW, (uint8_t *)b.data, b.len, 1 << 22, &info, &rgb, reason),
            0);
        ck_assert_msg(!strncmp(reason, "damaged JPEG: ", 14), "%s", reason);
        ck_assert_int_eq(info.verdict, DS_DECODE_BROKEN);
    } else
        expect(DS_DECODE_PILLOW, &b, jpegs[_i].says, what);
    ds_buf_release(&b);
    ds_buf_release(&whole);
    free(rows);
}
END_TEST

/* A table of 8 bits has 64 numbers, one of 16 twice as many. */
START_TEST(quantization_tables) {
    uint8_t *rows = make_slope(6, 5, 3);
    jpeg_spec s = {.w = 6,
                   .h = 5,
                   .components = 1,
                   .in = JCS_GRAYSCALE,
                   .stored = JCS_GRAYSCALE,
                   .rows = rows};
    ds_buf whole = make_jpeg(&s);
    for (int wide = 0; wide < 2; wide++)
        for (int cut = 0; cut < 2; cut++) {
            size_t n = 1 + 64 * (size_t)(1 + wide) - (size_t)cut;
            ds_buf b = {0};
            ds_buf_add(&b, whole.data, 2);
            ds_buf_add(
                &b, (char[]){(char)0xff, (char)0xdb, 0, (char)(n + 2), (char)(wide ? 0x13 : 3)}, 5);
            for (size_t i = 1; i < n; i++)
                ds_buf_add(&b, (char[]){1}, 1);
            ds_buf_add(&b, whole.data + 2, whole.len - 2);
            expect(DS_DECODE_PILLOW, &b, cut ? "damaged JPEG: bad quantization table" : NULL,
                   wide ? "wide" : "narrow");
            ds_buf_release(&b);
        }
    ds_buf_release(&whole);
    free(rows);
}
END_TEST

/* ---------------------------------------------------------------- PNG */

static void number(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void put_chunk(ds_buf *b, const char *type, const void *data, size_t n) {
    uint8_t four[4];
    number(four, (uint32_t)n);
    ds_buf_add(b, four, 4);
    size_t at = b->len;
    ds_buf_add(b, type, 4);
    if (n)
        ds_buf_add(b, data, n);
    number(four, (uint32_t)crc32(0, (const uint8_t *)b->data + at, (uInt)(n + 4)));
    ds_buf_add(b, four, 4);
}

enum { BEFORE = 8 + 25 }; /* signature and IHDR */

/* A picture with these bytes behind its header. */
static ds_buf png_with(const ds_buf *chunks) {
    ds_buf whole = make_slope_png(6, 5, 3), b = {0};
    ds_buf_add(&b, whole.data, BEFORE);
    if (chunks->len)
        ds_buf_add(&b, chunks->data, chunks->len);
    ds_buf_add(&b, whole.data + BEFORE, whole.len - BEFORE);
    ds_buf_release(&whole);
    return b;
}

static const struct {
    const char *type, *data;
    size_t n;
    const char *says;
} chunks[] = {
    {"tEXt", B("k\0text"), NULL},
    {"tEXt", B("no zero"), NULL},
    {"iCCP", B(""), "damaged PNG: iCCP is cut off"},
    {"iCCP", B("n\0"), "damaged PNG: iCCP is cut off"},
    {"iCCP", B("n\0\1x"), "damaged PNG: unknown compression of a text or profile"},
    {"iCCP", B("n\0\0nonsense"), NULL},
    {"iCCP", B("n"), "damaged PNG: unknown compression of a text or profile"},
    {"iCCP", B("name"), "damaged PNG: unknown compression of a text or profile"},
    {"zTXt", B("k\0"), NULL},
    {"zTXt", B("k"), NULL},
    {"zTXt", B("k\0\1x"), "damaged PNG: unknown compression of a text or profile"},
    {"zTXt", B("k\0\0nonsense"), NULL},
    {"iTXt", B("k\0\1\1l\0w\0x"), NULL}, /* of another compression: passed over */
    {"iTXt", B("k\0\1\0l\0w\0nonsense"), NULL},
    {"iTXt", B("k\0\1\0l\0w"), NULL},
    {"IHDR", B("\0\0\0\6\0\0\0\5\x08\2\0\0"), "damaged PNG: IHDR is cut off"},
    {"IHDR", B("\x80\0\0\0\0\0\0\5\x08\2\0\0\0"), "damaged PNG: bad dimensions"},
    {"IHDR", B("\0\0\0\6\x80\0\0\0\x08\2\0\0\0"), "damaged PNG: bad dimensions"},
    {"IHDR", B("\0\0\0\6\0\0\0\5\x08\2\0\0\0"), NULL},
    {"fcTL",
     B("\0\0\0\1"
       "\0\0\0\6\0\0\0\5"
       "\0\0\0\0\0\0\0\0"
       "\0\0\0\0\0\0"),
     "damaged PNG: frame sequence errors"},
    {"fcTL",
     B("\0\0\0\0"
       "\0\0\0\6\0\0\0\5"
       "\0\0\0\1\0\0\0\0"
       "\0\0\0\0\0\0"),
     "damaged PNG: a frame outside the picture"},
    {"fcTL",
     B("\0\0\0\0"
       "\0\0\0\6\0\0\0\5"
       "\0\0\0\0\0\0\0\1"
       "\0\0\0\0\0\0"),
     "damaged PNG: a frame outside the picture"},
    {"fcTL",
     B("\0\0\0\0"
       "\0\0\0\0\0\0\0\5"
       "\0\0\0\0\0\0\0\0"
       "\0\0\0\0\0\0"),
     "damaged PNG: a frame without pixels"},
    {"fcTL",
     B("\0\0\0\0"
       "\0\0\0\6\0\0\0\0"
       "\0\0\0\0\0\0\0\0"
       "\0\0\0\0\0\0"),
     "damaged PNG: a frame without pixels"},
    {"fcTL",
     B("\0\0\0\0"
       "\0\0\0\6\0\0\0\5"
       "\0\0\0\0\0\0\0\0"
       "\0\0\0\0\0\0"),
     NULL},
    {"fdAT", B("\0\0\0"), "damaged PNG: fdAT is cut off"},
    {"fdAT", B("\0\0\0\1x"), "damaged PNG: frame sequence errors"},
    {"IEND", B(""), "damaged PNG: no picture in it"},
    {"a\0zz", B(""), "damaged PNG: a chunk is cut off or has no name"},
};

START_TEST(chunks_of_a_png) {
    ds_buf before = {0};
    char what[40];
    snprintf(what, sizeof what, "case %d, %.4s", _i, chunks[_i].type);
    put_chunk(&before, chunks[_i].type, chunks[_i].data, chunks[_i].n);
    ds_buf b = png_with(&before);
    expect(DS_DECODE_PILLOW, &b, chunks[_i].says, what);
    ds_buf_release(&before);
    ds_buf_release(&b);
}
END_TEST

/* `head`, then `size` letters packed, as a chunk. */
static void packed(ds_buf *b, const char *type, const char *head, size_t n, size_t size) {
    uint8_t *text = ds_xmalloc(size);
    memset(text, 'a', size);
    uLongf room = compressBound(size);
    uint8_t *data = ds_xmalloc(n + room);
    memcpy(data, head, n);
    ck_assert_int_eq(compress(data + n, &room, text, size), Z_OK);
    put_chunk(b, type, data, n + room);
    free(text), free(data);
}

/* 1 MiB a text and 64 in all; profiles do not count as text. */
START_TEST(large_texts_of_a_png) {
    static const char large[] = "damaged PNG: a packed text or profile is larger than 1 MiB";
    static const struct {
        const char *type, *head;
        size_t n;
    } kinds[] = {{"zTXt", B("k\0\0")}, {"iTXt", B("k\0\1\0l\0w\0")}, {"iCCP", B("n\0\0")}};
    enum { MIB = 1 << 20 };
    ds_buf other = {0}; /* of another compression: nothing is unpacked */
    packed(&other, "iTXt", B("k\0\1\1l\0w\0"), 2 * MIB);
    ds_buf passed = png_with(&other);
    expect(DS_DECODE_PILLOW, &passed, NULL, "another compression");
    ds_buf_release(&other);
    ds_buf_release(&passed);
    for (int i = 0; i < 3; i++) {
        for (int more = 0; more < 2; more++) {
            ds_buf before = {0};
            packed(&before, kinds[i].type, kinds[i].head, kinds[i].n, (size_t)(MIB + 1000 * more));
            ds_buf b = png_with(&before);
            expect(DS_DECODE_PILLOW, &b, more ? large : NULL, kinds[i].type);
            ds_buf_release(&before);
            ds_buf_release(&b);
        }
        for (int more = 0; more < 2; more++) {
            ds_buf before = {0};
            for (int k = 0; k < 64; k++)
                packed(&before, kinds[i].type, kinds[i].head, kinds[i].n, MIB);
            if (more)
                put_chunk(&before, "tEXt", "k\0x", 3);
            ds_buf b = png_with(&before);
            expect(DS_DECODE_PILLOW, &b, more && i < 2 ? "damaged PNG: too much text" : NULL,
                   kinds[i].type);
            ds_buf_release(&before);
            ds_buf_release(&b);
        }
    }
}
END_TEST

/* ---------------------------------------------------------------- WebP, PNM */

/* Whatever is damaged or cut: said, by both ways of decoding, and never a picture of nothing. */
START_TEST(damaged_webp) {
    uint8_t rgba[6 * 5 * 4];
    for (size_t i = 0; i < sizeof rgba; i++)
        rgba[i] = i % 4 == 3 ? 255 : (uint8_t)(i * 37 + i * i);
    ds_buf whole = make_webp(6, 5, rgba);
    expect(DS_DECODE_TRAIN, &whole, NULL, "whole");
    expect(DS_DECODE_PILLOW, &whole, NULL, "whole");
    int opened = 0, refused = 0;
    for (size_t n = 20; n < whole.len - 1; n++) { /* cut, and the announced sizes with it */
        ds_buf b = {0};
        ds_buf_add(&b, whole.data, n);
        b.data[4] = (char)(n - 8);
        b.data[16] = (char)(n - 20);
        expect(DS_DECODE_TRAIN, &b,
               n < 25 ? "truncated: the WebP header is cut off" : "damaged WebP data", "cut");
        uint8_t *rgb = NULL;
        ck_assert_int_lt(
            ds_decode_rgb(DS_DECODE_PILLOW, (uint8_t *)b.data, n, 1 << 20, &info, &rgb, reason), 0);
        ck_assert_int_eq(info.verdict, DS_DECODE_BROKEN);
        opened += !strcmp(reason, "damaged WebP data");
        refused += !strcmp(reason, "damaged or truncated WebP data");
        ds_buf_release(&b);
    }
    ck_assert(whole.len < 128 && opened + refused == (int)whole.len - 21 && opened > 9 &&
              refused > 9);
    ds_buf b = {0};
    ds_buf_add(&b, whole.data, whole.len);
    memset(b.data + 25, 0xff, whole.len - 25); /* the codes behind the header */
    expect(DS_DECODE_TRAIN, &b, "damaged WebP data", "codes");
    b.data[12] = 'X';
    expect(DS_DECODE_PILLOW, &b, "damaged WebP header", "another kind");
    ds_buf_release(&b);
    ds_buf_release(&whole);
}
END_TEST

/* Numbers of ten digits are read, longer ones are none, also behind the last that is needed. */
START_TEST(numbers_of_a_pnm) {
    static const struct {
        const char *last, *says;
    } cases[] = {{" 7", NULL},
                 {" 0000000007", NULL},
                 {" 00000000007", "damaged PNM: a sample that is no number or too large"},
                 {" 7 0000000007", NULL},
                 {" 7 00000000007", "damaged PNM: a sample that is no number or too large"},
                 {" 7 00000000007 ", NULL},
                 {" 7 nonsense", NULL},
                 {" 00000000007 0", "damaged PNM: a sample that is no number or too large"},
                 {" 10", "damaged PNM: a sample that is no number or too large"},
                 {" -1", "damaged PNM: a sample that is no number or too large"},
                 {" x", "damaged PNM: a sample that is no number or too large"},
                 {"", "damaged PNM: truncated: missing samples"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_buf b = {0};
        ds_buf_addf(&b, "P2 6 5 9\n");
        for (int k = 0; k < 29; k++)
            ds_buf_addf(&b, " %d", k % 10);
        ds_buf_addf(&b, "%s", cases[i].last);
        expect(DS_DECODE_PILLOW, &b, cases[i].says, cases[i].last);
        ds_buf_release(&b);
    }
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, segments_that_are_cut, 0, (int)(sizeof jpegs / sizeof *jpegs));
    tcase_add_test(tc, quantization_tables);
    tcase_add_loop_test(tc, chunks_of_a_png, 0, (int)(sizeof chunks / sizeof *chunks));
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, large_texts_of_a_png);
    tcase_add_test(tc, damaged_webp);
    tcase_add_test(tc, numbers_of_a_pnm);
}

int main(void) { return ds_test_main("worker_damaged", register_cases); }
