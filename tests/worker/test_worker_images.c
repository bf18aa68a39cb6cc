/* tests/worker/test_worker_images.c - decoding of every format, and the walls around it. */
#include "base/png_write.h"
#include "engine/metrics/resize.h"
#include "tests/harness.h"
#include "tests/fixtures/picture_files.h"
#include "worker/decode/decode.h"
#include "worker/images/grid.h"
#include "worker/decode/sandbox.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char reason[DS_REASON_SIZE];
static ds_image_info info;

static uint8_t *decode(const ds_buf *b) {
    uint8_t *rgb = NULL;
    ds_image_info header;
    int rc = ds_decode_rgb(DS_DECODE_TRAIN, (uint8_t *)b->data, b->len, DS_DECODE_MAX_PIXELS, &info,
                           &rgb, reason);
    if (rc)
        return NULL;
    ck_assert_int_eq(ds_decode_header((uint8_t *)b->data, b->len, &header, reason), 0);
    ck_assert_int_eq(header.format, info.format);
    ck_assert_int_eq(header.width, info.width);
    ck_assert_int_eq(header.height, info.height);
    ck_assert_int_eq(header.orientation, info.orientation);
    return rgb;
}

static int worst(const uint8_t *a, const uint8_t *b, size_t n) {
    int w = 0;
    for (size_t i = 0; i < n; i++)
        w = abs(a[i] - b[i]) > w ? abs(a[i] - b[i]) : w;
    return w;
}

/* ---------------------------------------------------------------- JPEG */

static void check_golden(const char *name) {
    char path[128], *jpg, *ppm;
    size_t jpg_n, ppm_n;
    snprintf(path, sizeof path, "tests/golden/images/%s.jpg", name);
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &jpg, &jpg_n, NULL), 0);
    snprintf(path, sizeof path, "tests/golden/images/%s.rgb", name);
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &ppm, &ppm_n, NULL), 0);
    ds_buf a = {jpg, jpg_n, 0}, b = {ppm, ppm_n, 0};
    uint8_t *want = decode(&b);
    ck_assert_msg(want != NULL, "%s", reason);
    int w = info.width, h = info.height;
    uint8_t *got = decode(&a);
    ck_assert_msg(got != NULL, "%s: %s", name, reason);
    ck_assert_int_eq(info.width, w);
    ck_assert_int_eq(info.height, h);
    ck_assert_msg(worst(got, want, (size_t)(w * h * 3)) == 0, "%s differs by %d from Pillow", name,
                  worst(got, want, (size_t)(w * h * 3)));
    free(got);
    free(want);
    free(jpg);
    free(ppm);
}

START_TEST(jpeg_agrees_with_pillow) {
    static const char *const names[] = {"grey", "ycc444", "ycc420", "progressive", "cmyk-adobe"};
    check_golden(names[_i]);
}
END_TEST

START_TEST(jpeg_orientation_is_applied) {
    char name[16];
    snprintf(name, sizeof name, "exif%d", _i);
    check_golden(name);
    ck_assert_int_eq(info.orientation, _i);
}
END_TEST

/* CMYK and YCCK, arithmetic coding: against the formula.  Inks are stored inverted, with Adobe's
 * marker and without, as Pillow and browsers take them. */
START_TEST(jpeg_four_components) {
    enum { W = 16, H = 16 };
    uint8_t ink[W * H * 4], stored[W * H * 4], want[W * H * 3];
    for (int i = 0; i < W * H; i++) {
        int x = i % W, y = i / W;
        uint8_t v[4] = {(uint8_t)(x * 8), (uint8_t)(y * 8), (uint8_t)(200 - x * 4),
                        (uint8_t)(y * 3)};
        for (int c = 0; c < 4; c++)
            ink[i * 4 + c] = v[c];
        for (int c = 0; c < 3; c++)
            want[i * 3 + c] = (uint8_t)((255 - v[c]) * (255 - v[3]) / 255);
    }
    int adobe = _i & 1, ycck = _i & 2;
    for (int i = 0; i < W * H * 4; i++)
        stored[i] = 255 - ink[i];
    jpeg_spec s = {W, H, 4, JCS_CMYK, ycck ? JCS_YCCK : JCS_CMYK, adobe, _i & 4, _i & 8, stored};
    if (ycck && !adobe) /* without the marker nothing says that it is YCCK */
        return;
    ds_buf b = make_jpeg(&s);
    uint8_t *got = decode(&b);
    ck_assert_msg(got != NULL, "%s", reason);
    /* quality 100 on a slope: a few levels of DCT and colour rounding */
    ck_assert_int_le(worst(got, want, sizeof want), 6);
    free(got);
    ds_buf_release(&b);
}
END_TEST

/* The last scan again and again: 500 scans are read, more are not begun. */
START_TEST(jpeg_scans_are_bounded) {
    char *jpg;
    size_t n, last = 0, scans = 0;
    ck_assert_int_eq(ds_fs_read("tests/golden/images/progressive.jpg", 1 << 20, &jpg, &n, NULL), 0);
    for (size_t i = 0; i + 1 < n; i++)
        if ((uint8_t)jpg[i] == 0xff && (uint8_t)jpg[i + 1] == 0xda)
            last = i, scans++;
    ds_buf b = {0};
    ds_buf_add(&b, jpg, n - 2);
    for (; scans < 500; scans++)
        ds_buf_add(&b, jpg + last, n - 2 - last);
    size_t fits = b.len;
    ds_buf_add(&b, "\xff\xd9", 2);
    ck_assert_int_eq(ds_decode_header((uint8_t *)b.data, b.len, &info, reason), 0);
    b.len = fits;
    ds_buf_add(&b, jpg + last, n - last);
    ck_assert_int_lt(ds_decode_header((uint8_t *)b.data, b.len, &info, reason), 0);
    ck_assert_msg(strstr(reason, "too much work: 501 scans of ") != NULL, "%s", reason);
    ds_buf_release(&b);
    free(jpg);
}
END_TEST

START_TEST(jpeg_cut_anywhere_is_an_error) {
    char *jpg;
    size_t n;
    ck_assert_int_eq(ds_fs_read("tests/golden/images/progressive.jpg", 1 << 20, &jpg, &n, NULL), 0);
    for (size_t cut = 0; cut < n; cut += 7) {
        uint8_t *copy = ds_xmalloc(cut + 1), *rgb = NULL; /* exact size: ASan sees over-reads */
        memcpy(copy, jpg, cut);
        uint8_t *exact = ds_xrealloc(copy, cut ? cut : 1);
        int rc =
            ds_decode_rgb(DS_DECODE_TRAIN, exact, cut, DS_DECODE_MAX_PIXELS, &info, &rgb, reason);
        if (!rc)
            ck_abort_msg("decoded after a cut at %zu", cut);
        free(exact);
    }
    free(jpg);
}
END_TEST

/* ---------------------------------------------------------------- PNG */

static unsigned sample_at(const uint8_t *row, int depth, int i) {
    if (depth == 16)
        return (unsigned)row[i * 2] << 8 | row[i * 2 + 1];
    if (depth == 8)
        return row[i];
    int per = 8 / depth;
    return (unsigned)row[i / per] >> (8 - depth * (i % per + 1)) & ((1u << depth) - 1);
}

static uint8_t to_8(unsigned v, int depth) {
    unsigned wide = depth == 16  ? (v * 255 + 32895) >> 16
                    : depth == 8 ? v
                                 : v * 255 / ((1u << depth) - 1);
    return (uint8_t)wide;
}

static uint8_t on_white(unsigned c, unsigned a) {
    return (uint8_t)((c * a + 255 * (255 - a) + 127) / 255);
}

static const struct {
    int type, depth;
} png_types[] = {
    {PNG_COLOR_TYPE_GRAY, 1},        {PNG_COLOR_TYPE_GRAY, 2},      {PNG_COLOR_TYPE_GRAY, 4},
    {PNG_COLOR_TYPE_GRAY, 8},        {PNG_COLOR_TYPE_GRAY, 16},     {PNG_COLOR_TYPE_RGB, 8},
    {PNG_COLOR_TYPE_RGB, 16},        {PNG_COLOR_TYPE_PALETTE, 1},   {PNG_COLOR_TYPE_PALETTE, 2},
    {PNG_COLOR_TYPE_PALETTE, 4},     {PNG_COLOR_TYPE_PALETTE, 8},   {PNG_COLOR_TYPE_GRAY_ALPHA, 8},
    {PNG_COLOR_TYPE_GRAY_ALPHA, 16}, {PNG_COLOR_TYPE_RGB_ALPHA, 8}, {PNG_COLOR_TYPE_RGB_ALPHA, 16},
};
enum { PNG_TYPES = sizeof png_types / sizeof *png_types };

/* _i: type x interlaced x tRNS */
START_TEST(png_of_every_type) {
    enum { W = 19, H = 11 };
    int type = png_types[_i % PNG_TYPES].type, depth = png_types[_i % PNG_TYPES].depth;
    int interlaced = _i / PNG_TYPES % 2, with_trns = _i / PNG_TYPES / 2;
    int channels = type == PNG_COLOR_TYPE_GRAY_ALPHA  ? 2
                   : type == PNG_COLOR_TYPE_RGB       ? 3
                   : type == PNG_COLOR_TYPE_RGB_ALPHA ? 4
                                                      : 1;
    int alpha = type & PNG_COLOR_MASK_ALPHA, is_palette = type == PNG_COLOR_TYPE_PALETTE;
    if (alpha && with_trns)
        return;
    size_t row = ((size_t)W * (size_t)(channels * depth) + 7) / 8;
    uint8_t *rows = ds_xmalloc(row * H), palette_alpha[256], want[W * H * 3];
    png_color palette[256];
    for (size_t i = 0; i < row * H; i++)
        rows[i] = (uint8_t)(i * 37 + i * i / 5);
    for (int i = 0; i < 256; i++) {
        palette[i] = (png_color){(uint8_t)(i * 7), (uint8_t)(255 - i), (uint8_t)(i * 91)};
        palette_alpha[i] = (uint8_t)(i * 13);
    }
    /* one transparent colour: that of the first pixel */
    png_color_16 clear = {0};
    clear.gray = (png_uint_16)sample_at(rows, depth, 0);
    clear.red = clear.gray;
    clear.green = (png_uint_16)(channels == 3 ? sample_at(rows, depth, 1) : 0);
    clear.blue = (png_uint_16)(channels == 3 ? sample_at(rows, depth, 2) : 0);
    for (int i = 0; i < W * H; i++) {
        const uint8_t *r = rows + (size_t)(i / W) * row;
        unsigned v[4] = {0};
        for (int c = 0; c < channels; c++)
            v[c] = sample_at(r, depth, i % W * channels + c);
        uint8_t rgb[3], a = 255;
        for (int c = 0; c < 3; c++)
            rgb[c] = to_8(v[channels >= 3 ? c : 0], depth);
        if (is_palette) {
            rgb[0] = palette[v[0]].red;
            rgb[1] = palette[v[0]].green;
            rgb[2] = palette[v[0]].blue;
            a = with_trns ? palette_alpha[v[0]] : 255;
        } else if (alpha) {
            a = to_8(v[channels - 1], depth);
        } else if (with_trns) {
            int same = channels == 1
                           ? v[0] == clear.gray
                           : v[0] == clear.red && v[1] == clear.green && v[2] == clear.blue;
            a = same ? 0 : 255;
        }
        for (int c = 0; c < 3; c++)
            want[i * 3 + c] = on_white(rgb[c], a);
    }
    png_spec s = {W,
                  H,
                  type,
                  depth,
                  interlaced,
                  rows,
                  row,
                  is_palette ? palette : NULL,
                  is_palette ? 1 << depth : 0,
                  is_palette && with_trns ? palette_alpha : NULL,
                  !is_palette && with_trns ? &clear : NULL};
    ds_buf b = make_png(&s);
    uint8_t *got = decode(&b);
    ck_assert_msg(got != NULL, "%s", reason);
    ck_assert_int_eq(info.format, DS_IMAGE_PNG);
    ck_assert_int_eq(worst(got, want, sizeof want), 0);
    free(got);
    free(rows);
    ds_buf_release(&b);
}
END_TEST

START_TEST(png_damage_is_an_error) {
    ds_buf b = make_slope_png(40, 30, 3);
    size_t n = b.len;
    int accepted = 0;
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *rgb, *exact = ds_xmalloc(cut ? cut : 1);
        memcpy(exact, b.data, cut);
        accepted +=
            !ds_decode_rgb(DS_DECODE_TRAIN, exact, cut, DS_DECODE_MAX_PIXELS, &info, &rgb, reason);
        free(exact);
    }
    ck_assert_int_eq(accepted, 0);
    for (size_t i = 33; i < n - 12; i++) { /* every flipped bit after the header breaks a CRC */
        uint8_t *rgb = NULL;
        b.data[i] ^= 1;
        accepted += !ds_decode_rgb(DS_DECODE_TRAIN, (uint8_t *)b.data, n, DS_DECODE_MAX_PIXELS,
                                   &info, &rgb, reason);
        free(rgb);
        b.data[i] ^= 1;
    }
    ck_assert_int_eq(accepted, 0);
    ds_buf_release(&b);
}
END_TEST

/* ---------------------------------------------------------------- WebP, PNM, others */

START_TEST(webp_with_alpha) {
    enum { W = 14, H = 9 };
    uint8_t rgba[W * H * 4], want[W * H * 3];
    for (int i = 0; i < W * H; i++) {
        uint8_t v[4] = {(uint8_t)(i * 3), (uint8_t)(i * 11), (uint8_t)(255 - i),
                        (uint8_t)(i * 5 | 1)};
        memcpy(rgba + i * 4, v, 4);
        for (int c = 0; c < 3; c++)
            want[i * 3 + c] = on_white(v[c], v[3]);
    }
    ds_buf b = make_webp(W, H, rgba);
    uint8_t *got = decode(&b);
    ck_assert_msg(got != NULL, "%s", reason);
    ck_assert_int_eq(worst(got, want, sizeof want), 0);
    free(got);
    for (size_t cut = 12; cut < b.len; cut += 3) {
        ds_buf part = {b.data, cut, 0};
        ck_assert_ptr_null(decode(&part));
    }
    ds_buf_release(&b);
}
END_TEST

START_TEST(webp_animated_is_named) {
    /* RIFF, VP8X with the animation flag, 8 x 8, ANIM */
    static const uint8_t bytes[] = "RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x07\0\0\x07\0\0"
                                   "ANIM\x06\0\0\0\xff\xff\xff\xff\0\0";
    ck_assert_int_lt(ds_decode_header(bytes, sizeof bytes - 1, &info, reason), 0);
    ck_assert_str_eq(reason, "animated WebP is not supported");
}
END_TEST

static const struct {
    const char *text;
    size_t n;
    uint8_t want[12]; /* 2 x 2 */
} pnms[] = {
#define T(s) s, sizeof(s) - 1
    {T("P1\n# c\n2 2\n0110"), {255, 255, 255, 0, 0, 0, 0, 0, 0, 255, 255, 255}},
    {T("P2 2 2 100\n0 50\n# half\n100 25"), {0, 0, 0, 128, 128, 128, 255, 255, 255, 64, 64, 64}},
    {T("P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12"), {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
    {T("P4\n2 2\n\x40\x80"), {255, 255, 255, 0, 0, 0, 0, 0, 0, 255, 255, 255}},
    {T("P5 2 2 65535\n\x00\x00\x80\x00\xff\xff\x40\x00"),
     {0, 0, 0, 128, 128, 128, 255, 255, 255, 64, 64, 64}},
    {T("P6 2 2 255\n\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c"),
     {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}},
#undef T
};

START_TEST(pnm_of_every_type) {
    ds_buf b = {(char *)(uintptr_t)pnms[_i].text, pnms[_i].n, 0};
    uint8_t *got = decode(&b);
    ck_assert_msg(got != NULL, "%s", reason);
    ck_assert_mem_eq(got, pnms[_i].want, 12);
    free(got);
    b.len--;
    if (_i != 2) { /* "12" without its last digit is still a number */
        uint8_t *cut = decode(&b);
        ck_assert(!cut || _i == 1);
        free(cut);
    }
}
END_TEST

static const struct {
    const char *bytes;
    size_t n;
    const char *reason;
} refused[] = {
#define T(s) s, sizeof(s) - 1
    {T(""), "empty file"},
    {T("hello"), "unknown file type"},
    {T("GIF89a\0\0\0\0\0\0"), "unknown file type (GIF is not supported)"},
    {T("\xff\x0a\1\1"), "unknown file type (JPEG XL is not supported)"},
    {T("<!DOCTYPE html>"), "unknown file type (HTML is not supported)"},
    {T("\0\0\0\x14wide\0\0\0\0mdat"), "unknown file type (QuickTime video is not supported)"},
    {T("\x0a\5\1\x08\0\0"), "unknown file type (PCX is not supported)"},
    {T("#define x_width 8"), "unknown file type (XBM is not supported)"},
    {T("\0\0\2\0\0\0\0\0\0\0\0\0\x08\0\x08\0\x18\0\1\2\3"),
     "unknown file type (TGA is not supported)"},
    {T("\0\0\2\0\0\0\0\0\0\0\0\0\0\0\x08\0\x18\0\1\2\3"), "unknown file type"},
    {T("P6 2 2 70000\nxxxxxxxxxxxx"), "damaged PNM header"},
    {T("P6 99999999999 2 255\nx"), "damaged PNM header"},
    {T("P6 0 2 255\nx"), "damaged: a side of zero pixels"},
    {T("P5 30000 30000 255\nxx"), "truncated: the PNM data ends before its last row"},
    {T("\xff\xd8\xff\xd9"), "damaged JPEG: no picture in it"},
    {T("\xff\xd8\xff\xe1\xff\xff"
       "Exif"),
     "truncated: a JPEG segment is cut off"},
    {T("\x89PNG\r\n\x1a\n"), "truncated: the PNG data ends before its IEND chunk"},
#undef T
};

START_TEST(refusals_say_why) {
    int rc = ds_decode_header((const uint8_t *)refused[_i].bytes, refused[_i].n, &info, reason);
    ck_assert_int_lt(rc, 0);
    ck_assert_str_eq(reason, refused[_i].reason);
}
END_TEST

/* A picture of 30000 x 30000 announces itself in a few bytes and is refused before allocation. */
START_TEST(giants_are_refused_before_allocation) {
    ds_buf b = make_slope_png(8, 8, 1);
    uint8_t *rgb, big[4] = {0, 0, 0x75, 0x30};
    memcpy(b.data + 16, big, 4);
    memcpy(b.data + 20, big, 4);
    ck_assert_int_eq(ds_decode_header((uint8_t *)b.data, b.len, &info, reason), 0);
    ck_assert_int_eq(info.width, 30000);
    ck_assert_int_lt(
        ds_decode_rgb(DS_DECODE_TRAIN, (uint8_t *)b.data, b.len, INT64_MAX, &info, &rgb, reason),
        0);
    ck_assert_str_eq(reason, "too large: 30000 x 30000 pixels, the limit is 67108864 pixels");
    ds_buf_release(&b);
}
END_TEST

/* ---------------------------------------------------------------- sandbox */

static ds_sandbox *open_sandbox(int cpu_ms, int patience_ms) {
    ds_sandbox_options o = {.cpu_ms = cpu_ms, .patience_ms = patience_ms};
    ds_sandbox *s;
    ds_error err = {0};
    ck_assert_msg(!ds_sandbox_open(&s, &o, &err), "%s", err.message);
    return s;
}

static ds_sandbox_reply ask(ds_sandbox *s, enum ds_sandbox_op op, const ds_buf *b, int side) {
    ds_sandbox_reply reply;
    ds_error err = {0};
    if (b)
        memcpy(ds_sandbox_input(s), b->data, b->len);
    ck_assert_msg(!ds_sandbox_run(s, op, DS_DECODE_TRAIN, b ? b->len : 0, side,
                                  DS_DECODE_MAX_PIXELS, &reply, &err),
                  "%s", err.message);
    return reply;
}

START_TEST(sandbox_decodes_as_we_do) {
    ds_sandbox *s = open_sandbox(0, 0);
    ds_buf b = make_slope_png(50, 40, 9);
    uint8_t *rgb = decode(&b), want[32 * 32 * 3];
    ds_sandbox_reply r = ask(s, DS_SANDBOX_FULL, &b, 0);
    ck_assert_msg(r.ok, "%s", r.reason);
    ck_assert_int_eq(r.info.width, 50);
    ck_assert_mem_eq(ds_sandbox_output(s), rgb, 50 * 40 * 3);
    r = ask(s, DS_SANDBOX_SQUARE, &b, 32);
    ds_resize_square(want, 32, rgb, 50, 40, 3);
    ck_assert_mem_eq(ds_sandbox_output(s), want, sizeof want);
    r = ask(s, DS_SANDBOX_HEADER, &b, 0);
    ck_assert(r.ok && r.info.height == 40 && r.info.format == DS_IMAGE_PNG);
    b.len /= 2;
    r = ask(s, DS_SANDBOX_SQUARE, &b, 32);
    ck_assert(!r.ok);
    ck_assert_str_eq(r.reason, "truncated: the PNG data ends before its IEND chunk");
    ck_assert_int_eq(ds_sandbox_restarts(s), 0);
    free(rgb);
    ds_buf_release(&b);
    ds_sandbox_close(s);
}
END_TEST

START_TEST(sandbox_has_walls) {
    static const enum ds_sandbox_op forbidden[] = {
        DS_SANDBOX_TRY_OPEN, DS_SANDBOX_TRY_SOCKET,      DS_SANDBOX_TRY_EXEC,
        DS_SANDBOX_TRY_FORK, DS_SANDBOX_TRY_WRITE_INPUT, DS_SANDBOX_TRY_MEMORY};
#ifdef __SANITIZE_ADDRESS__
    if (forbidden[_i] == DS_SANDBOX_TRY_MEMORY) {
        ds_test_skip("sandbox_has_walls memory", "address space cannot be limited under ASan");
        return;
    }
#endif
    ds_sandbox *s = open_sandbox(0, 0);
    ds_sandbox_reply r = ask(s, forbidden[_i], NULL, 0);
    ck_assert_msg(!r.ok && r.reason[0], "operation %d: %s", forbidden[_i], r.reason);
    if (_i < 4) /* by the filter, not by chance: limits alone would say something else */
        ck_assert_str_eq(r.reason, "Operation not permitted");
    ck_assert_str_ne(r.reason, "allowed");
    ck_assert_int_eq(ds_sandbox_restarts(s), 0);
    ds_sandbox_close(s);
}
END_TEST

START_TEST(crash_costs_one_picture) {
    ds_sandbox *s = open_sandbox(0, 0);
    ds_buf b = make_slope_png(20, 20, 4);
    ck_assert(ask(s, DS_SANDBOX_SQUARE, &b, 16).ok);
    ds_sandbox_reply r = ask(s, DS_SANDBOX_CRASH, NULL, 0);
    ck_assert(!r.ok);
    ck_assert_msg(strstr(r.reason, "crashed") != NULL, "%s", r.reason);
    ck_assert(ask(s, DS_SANDBOX_SQUARE, &b, 16).ok);
    ck_assert_int_eq(ds_sandbox_restarts(s), 2); /* a crash is tried twice */
    ds_buf_release(&b);
    ds_sandbox_close(s);
}
END_TEST

/* An operation without a verdict: the job ends with an error, no picture is rejected. */
static void ask_in_vain(ds_sandbox *s, enum ds_sandbox_op op, int code, const char *part,
                        int children) {
    ds_sandbox_reply r;
    ds_error err = {0};
    int before = ds_sandbox_restarts(s);
    ck_assert_int_eq(ds_sandbox_run(s, op, DS_DECODE_TRAIN, 0, 0, 0, &r, &err), code);
    ck_assert_msg(strstr(err.message, part) != NULL, "%s", err.message);
    ck_assert_int_eq(ds_sandbox_restarts(s) - before, children);
}

static void *kill_each(void *sandbox) {
    pid_t last = -1;
    for (int killed = 0; killed < 5;) {
        pid_t pid = ds_sandbox_pid(sandbox); /* a late look costs a turn of this loop */
        usleep(10000);
        if (pid < 0 || pid == last || pid != ds_sandbox_pid(sandbox))
            continue;
        kill(pid, SIGKILL);
        last = pid;
        killed++;
    }
    return NULL;
}

START_TEST(being_killed_is_no_verdict) {
    ds_sandbox *s = open_sandbox(0, 0);
    pthread_t t;
    ck_assert_int_eq(pthread_create(&t, NULL, kill_each, s), 0);
    ask_in_vain(s, DS_SANDBOX_STOPPED, DS_EBUSY, "killed or stood still 5 times", 5);
    pthread_join(t, NULL);
    ds_sandbox_close(s);
}
END_TEST

START_TEST(time_is_no_verdict) {
    ds_sandbox *s = open_sandbox(200, 0);
    ds_buf b = make_slope_png(20, 20, 4);
    ask_in_vain(s, DS_SANDBOX_HANG, DS_EFAILED, "more than 200 ms of processor time", 2);
    ck_assert(ask(s, DS_SANDBOX_SQUARE, &b, 16).ok);
    ds_sandbox_close(s);
    s = open_sandbox(0, 200);
    ask_in_vain(s, DS_SANDBOX_STOPPED, DS_EBUSY, "stood still 5 times", 5);
    ds_buf_release(&b);
    ds_sandbox_close(s);
}
END_TEST

typedef struct {
    pid_t pid;
    int signal, ms;
} later;

static void *signal_later(void *arg) {
    const later *l = arg;
    usleep((useconds_t)l->ms * 1000);
    kill(l->pid, l->signal);
    return NULL;
}

/* A child that stands still for longer than it may compute answers when it goes on; one that is
 * killed from outside is replaced.  Neither costs the picture. */
START_TEST(pause_and_kill_cost_nothing) {
    ds_sandbox *s = open_sandbox(200, 30000);
    ds_buf b = make_slope_png(20, 20, 4);
    later l[2] = {{ds_sandbox_pid(s), SIGCONT, 700}, {ds_sandbox_pid(s), SIGKILL, 200}};
    for (int i = 0; i < 2; i++) {
        pthread_t t;
        ck_assert_int_eq(kill(l[i].pid, SIGSTOP), 0);
        ck_assert_int_eq(pthread_create(&t, NULL, signal_later, &l[i]), 0);
        ds_sandbox_reply r = ask(s, DS_SANDBOX_SQUARE, &b, 16);
        ck_assert_msg(r.ok, "%s", r.reason);
        pthread_join(t, NULL);
        ck_assert_int_eq(ds_sandbox_restarts(s), i);
    }
    ds_buf_release(&b);
    ds_sandbox_close(s);
}
END_TEST

START_TEST(sandbox_that_cannot_start_is_an_error) {
    ds_sandbox_options o = {.program = "/nonexistent/worker"};
    ds_sandbox *s;
    ds_error err = {0};
    ck_assert_int_eq(ds_sandbox_open(&s, &o, &err), DS_EFAILED);
    ck_assert_ptr_nonnull(strstr(err.message, "/nonexistent/worker"));
    o.program = "/bin/true"; /* starts, but is no decoder */
    ck_assert_int_eq(ds_sandbox_open(&s, &o, &err), DS_EFAILED);
}
END_TEST

/* ---------------------------------------------------------------- grids */

START_TEST(grid_round_trip) {
    ds_grid *g = ds_grid_new(2, 3, 4, 2, 1, 255);
    uint8_t *cell = make_slope(4, 4, 50);
    float f[48] = {-1.0f, 1.0f, 0.0f, -2.0f, 2.0f, 0.5f};
    char *png;
    size_t n;
    ck_assert_int_eq(g->width, 3 * 8 + 4);
    ck_assert_int_eq(g->height, 2 * 8 + 3);
    ds_grid_put(g, 0, 0, cell);
    ds_grid_put_f32(g, 1, 2, f, 0);
    ck_assert_int_eq(ds_png_encode(g->rgb, g->width, g->height, &png, &n, NULL), 0);
    ds_buf b = {png, n, 0};
    uint8_t *back = decode(&b);
    ck_assert_mem_eq(back, g->rgb, (size_t)(g->width * g->height * 3));
    ck_assert_mem_eq(back + (2 * 28 + 2) * 3, cell, 3); /* second of two magnified pixels */
    ck_assert_mem_eq(back + (3 * 28 + 3) * 3, cell + 15, 3);
    static const uint8_t want[6] = {0, 255, 128, 0, 255, 191};
    ck_assert_mem_eq(back + (10 * 28 + 19) * 3, want, 3);
    ck_assert_mem_eq(back + (10 * 28 + 21) * 3, want + 3, 3);
    ck_assert_int_eq(back[0], 255);
    ck_assert_int_eq(ds_grid_columns(1), 1);
    ck_assert_int_eq(ds_grid_columns(16), 4);
    ck_assert_int_eq(ds_grid_columns(17), 5);
    free(back);
    free(cell);
    free(png);
    ds_grid_free(g);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_loop_test(tc, jpeg_agrees_with_pillow, 0, 5);
    tcase_add_loop_test(tc, jpeg_orientation_is_applied, 1, 9);
    tcase_add_loop_test(tc, jpeg_four_components, 0, 16);
    tcase_add_test(tc, jpeg_cut_anywhere_is_an_error);
    tcase_add_test(tc, jpeg_scans_are_bounded);
    tcase_add_loop_test(tc, png_of_every_type, 0, PNG_TYPES * 4);
    tcase_add_test(tc, png_damage_is_an_error);
    tcase_add_test(tc, webp_with_alpha);
    tcase_add_test(tc, webp_animated_is_named);
    tcase_add_loop_test(tc, pnm_of_every_type, 0, 6);
    tcase_add_loop_test(tc, refusals_say_why, 0, (int)(sizeof refused / sizeof *refused));
    tcase_add_test(tc, giants_are_refused_before_allocation);
    tcase_add_test(tc, sandbox_decodes_as_we_do);
    tcase_add_loop_test(tc, sandbox_has_walls, 0, 6);
    tcase_add_test(tc, crash_costs_one_picture);
    tcase_add_test(tc, being_killed_is_no_verdict);
    tcase_add_test(tc, time_is_no_verdict);
    tcase_add_test(tc, pause_and_kill_cost_nothing);
    tcase_add_test(tc, sandbox_that_cannot_start_is_an_error);
    tcase_add_test(tc, grid_round_trip);
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], DS_SANDBOX_ARG))
        return ds_decode_child_main();
    return ds_test_main("worker_images", cases);
}
