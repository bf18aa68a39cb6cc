/* tests/worker/test_worker_pixels.c - pixels of 350 kinds of files, for training and as Pillow has them.
 *
 * tests/golden/pixels: files, and in pillow.txt and train.txt the digests of their pixels, made by
 * tools/parity/pixels.py from Pillow 13 itself ("-": Pillow fails, training refuses).
 */
#include "base/digest.h"
#include "tests/harness.h"
#include "tests/fixtures/picture_files.h"
#include "worker/decode/decode.h"
#include "worker/images/picture_stream.h"
#include "worker/decode/sandbox.h"
#include "worker/commands/worker.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define FOLDER "tests/golden/pixels"

static char reason[DS_REASON_SIZE];
static ds_image_info info;

/* The file with nothing behind it, so that ASan sees over-reads. */
static uint8_t *load(const char *name, size_t *n) {
    char path[256], *text;
    snprintf(path, sizeof path, FOLDER "/%s", name);
    ck_assert_msg(!ds_fs_read(path, 1 << 20, &text, n, NULL), "no %s", path);
    uint8_t *exact = ds_xmalloc(*n ? *n : 1);
    memcpy(exact, text, *n);
    free(text);
    return exact;
}

typedef struct {
    char sha256[80], name[128];
    int width, height;
} golden;

static int read_golden(const char *list, golden **out) {
    char *text, *save = NULL;
    size_t n;
    int count = 0;
    ck_assert_int_eq(ds_fs_read(list, 1 << 20, &text, &n, NULL), 0);
    *out = ds_xcalloc(1000, sizeof **out);
    for (char *l = strtok_r(text, "\n", &save); l && count < 1000;
         l = strtok_r(NULL, "\n", &save)) {
        golden *g = &(*out)[count++];
        ck_assert_int_eq(sscanf(l, "%79s %d %d %127s", g->sha256, &g->width, &g->height, g->name),
                         4);
    }
    free(text);
    return count;
}

static int check(enum ds_decode_use use, const golden *g) {
    size_t n;
    uint8_t *data = load(g->name, &n), *rgb = NULL;
    char sha256[DS_HEX_SIZE] = "-";
    int rc = ds_decode_rgb(use, data, n, DS_DECODE_MAX_PIXELS, &info, &rgb, reason), bad = 0;
    if (!rc)
        ds_digest(rgb, (size_t)info.width * (size_t)info.height * 3, sha256);
    if (strcmp(sha256, g->sha256) || (!rc && info.verdict != DS_DECODED) ||
        (rc && (info.verdict == DS_DECODED || !*reason || rgb)) ||
        (!rc && (info.width != g->width || info.height != g->height))) {
        fprintf(stderr, "%s as %s: %s%s\n", g->name, ds_decode_id(use),
                rc ? "no pixels: " : "other pixels or size", rc ? reason : "");
        bad = 1;
    }
    free(rgb);
    free(data);
    return bad;
}

START_TEST(pixels_are_those_of_pillow) {
    golden *g;
    int n = read_golden(FOLDER "/pillow.txt", &g), bad = 0;
    ck_assert_int_ge(n, 350);
    for (int i = 0; i < n; i++)
        bad += check(DS_DECODE_PILLOW, &g[i]);
    free(g);
    ck_assert_int_eq(bad, 0);
}
END_TEST

START_TEST(training_sees_what_a_person_sees) {
    golden *g;
    int n = read_golden(FOLDER "/train.txt", &g), bad = 0;
    ck_assert_int_ge(n, 330);
    for (int i = 0; i < n; i++)
        bad += check(DS_DECODE_TRAIN, &g[i]);
    free(g);
    ck_assert_int_eq(bad, 0);
}
END_TEST

/* Cut anywhere: an answer, and no byte behind the end is read. */
START_TEST(cuts_are_answered) {
    golden *g;
    int count = read_golden(FOLDER "/pillow.txt", &g);
    for (int i = 0; i < count; i++) {
        size_t n;
        uint8_t *data = load(g[i].name, &n);
        for (size_t cut = 0; cut < n; cut += 1 + n / 24) {
            uint8_t *exact = ds_xmalloc(cut ? cut : 1), *rgb = NULL;
            memcpy(exact, data, cut);
            for (int use = DS_DECODE_TRAIN; use <= DS_DECODE_PILLOW; use++) {
                *reason = 0;
                if (ds_decode_rgb((enum ds_decode_use)use, exact, cut, 1 << 20, &info, &rgb,
                                  reason))
                    ck_assert(*reason && !rgb && info.verdict != DS_DECODED);
                free(rgb);
            }
            free(exact);
        }
        free(data);
    }
    free(g);
}
END_TEST

static const struct {
    const char *name;
    unsigned pillow;
} noted[] = {
    {"png-8bit-type2.png", 0},
    {"png-8bit-type6.png", DS_NOTE_ALPHA},
    {"png-trns-rgb.png", DS_NOTE_ALPHA},
    {"png-palette-trns-many.png", DS_NOTE_ALPHA},
    {"png-16bit-type0.png", DS_NOTE_DEEP},
    {"png-16bit-type6.png", DS_NOTE_DEEP | DS_NOTE_ALPHA},
    {"png-exif6-after.png", DS_NOTE_ORIENTATION},
    {"png-exif1.png", 0},
    {"png-missing-rows.png", DS_NOTE_DAMAGED},
    {"apng.png", DS_NOTE_ANIMATED},
    {"jpeg-exif6.jpg", DS_NOTE_ORIENTATION},
    {"jpeg-420-q75.jpg", 0},
    {"jpeg-cmyk-no-adobe.jpg", DS_NOTE_CMYK},
    {"jpeg-stray-bytes.jpg", DS_NOTE_DAMAGED},
    {"jpeg-wrong-restart.jpg", DS_NOTE_DAMAGED},
    {"webp-lossy-alpha.webp", DS_NOTE_ALPHA},
    {"webp-exif6.webp", DS_NOTE_ORIENTATION},
    {"webp-animated.webp", DS_NOTE_ANIMATED},
    {"pnm-p5-max65535.pgm", DS_NOTE_DEEP},
    {"pnm-p6.ppm", 0},
};

START_TEST(notes_say_what_was_special) {
    size_t n;
    uint8_t *data = load(noted[_i].name, &n), *rgb;
    ck_assert_msg(!ds_decode_rgb(DS_DECODE_PILLOW, data, n, 1 << 20, &info, &rgb, reason), "%s",
                  reason);
    ck_assert_msg(info.notes == noted[_i].pillow, "%s: notes %#x", noted[_i].name, info.notes);
    free(rgb);
    free(data);
    for (unsigned k = 0; k < DS_NOTE_COUNT; k++)
        ck_assert(*ds_decode_note_text(DS_DECODE_PILLOW, 1u << k) &&
                  *ds_decode_note_text(DS_DECODE_TRAIN, 1u << k));
}
END_TEST

static const struct {
    const char *bytes;
    size_t n;
    enum ds_decode_verdict verdict;
    const char *word;
} others[] = {
#define BYTES(s) s, sizeof s - 1
    {BYTES("GIF89a\1\0\1\0"), DS_DECODE_UNSUPPORTED, "GIF"},
    {BYTES("\0\0\0\x20"
           "ftypisom\0\0\2\0"),
     DS_DECODE_BROKEN, "MP4"},
    {BYTES("\0\0\0\x20"
           "ftypqt  \0\0\2\0"),
     DS_DECODE_BROKEN, "QuickTime"},
    {BYTES("\0\0\0\x20"
           "ftypavif\0\0\2\0"),
     DS_DECODE_UNSUPPORTED, "(AVIF"},
    {BYTES("\0\0\0\x20"
           "ftypheic\0\0\2\0"),
     DS_DECODE_BROKEN, "(HEIF"},
    {BYTES("\x0a\5\1\x08\0\0"), DS_DECODE_UNSUPPORTED, "(PCX"},
    {BYTES("#define x_width 8"), DS_DECODE_UNSUPPORTED, "(XBM"},
    {BYTES("\0\0\2\0\0\0\0\0\0\0\0\0\x08\0\x08\0\x18\0"), DS_DECODE_UNSUPPORTED, "(TGA"},
    {BYTES("\xff\x0a\1\1"), DS_DECODE_BROKEN, "(JPEG XL"},
    {BYTES("<!DOCTYPE html>"), DS_DECODE_BROKEN, "(HTML"},
    {BYTES("Some text"), DS_DECODE_BROKEN, "unknown file type"},
    {BYTES(""), DS_DECODE_BROKEN, "empty"},
};

START_TEST(other_files_are_named) {
    uint8_t *rgb;
    int rc = ds_decode_rgb(DS_DECODE_PILLOW, (const uint8_t *)others[_i].bytes, others[_i].n,
                           1 << 20, &info, &rgb, reason);
    ck_assert_int_lt(rc, 0);
    ck_assert_int_eq(info.verdict, others[_i].verdict);
    ck_assert_msg(strstr(reason, others[_i].word) != NULL, "%s", reason);
}
END_TEST

/* A camera's 20 million pixels, through the sandbox. */
START_TEST(large_pictures_pass) {
    enum { W = 5000, H = 4000 };
    ds_sandbox *s;
    ds_sandbox_reply r;
    ds_error err;
    uint8_t *rows = ds_xcalloc(W / 8, H);
    png_spec spec = {.w = W, .h = H, .depth = 1, .rows = rows, .row_bytes = W / 8};
    memset(rows, 0xff, (size_t)W / 8 * (H - 1));
    ds_buf b = make_png(&spec);
    ck_assert_int_eq(ds_sandbox_open(&s, NULL, &err), 0);
    for (int use = DS_DECODE_TRAIN; use <= DS_DECODE_PILLOW; use++) {
        memcpy(ds_sandbox_input(s), b.data, b.len);
        ck_assert_int_eq(ds_sandbox_run(s, DS_SANDBOX_FULL, (enum ds_decode_use)use, b.len, 0,
                                        DS_DECODE_MAX_PIXELS, &r, &err),
                         0);
        ck_assert_msg(r.ok, "%s", r.reason);
        ck_assert_int_eq(ds_sandbox_output(s)[0], 255);
        ck_assert_int_eq(ds_sandbox_output(s)[(size_t)W * H * 3 - 1], 0);
    }
    ds_sandbox_close(s);
    ds_buf_release(&b);
    free(rows);
}
END_TEST

/* A list of files in its order, the first n, notes, and what the tool itself would fail on. */
START_TEST(stream_tells_notes_and_broken_files) {
    static const char *const files[] = {"png-exif6-after.png", "pnm-p6-short.ppm",  "apng.png",
                                        "png-8bit-type6.png",  "pillow.txt",        "missing.png",
                                        "jpeg-exif3.jpg",      "png-8bit-type2.png"};
    ds_picture_options o = {.folder = FOLDER,
                            .mode = DS_FID_PYTORCH_FID,
                            .use = DS_DECODE_PILLOW,
                            .files = files,
                            .file_count = 8,
                            .follow_links = 1,
                            .n = 7,
                            .first_n = 1,
                            .batch = 3,
                            .decoders = 2};
    ds_picture_stream *s;
    ds_error err;
    const float *images[3];
    int64_t at[3], seen = 0, last = -1;
    int count;
    const char *first;
    ck_assert_int_eq(ds_picture_stream_open(&s, &o, &err), 0);
    ck_assert_int_eq(ds_picture_stream_total(s), 7);
    while (!ds_picture_stream_next(s, images, at, &count, &err) && count)
        for (int i = 0; i < count; i++, seen++) {
            ck_assert_int_gt(at[i], last);
            last = at[i];
        }
    ck_assert_int_eq(seen, 4);
    ck_assert_int_eq(last, 6);
    ck_assert_int_eq(ds_picture_stream_noted(s, DS_NOTE_ORIENTATION, &first), 2);
    ck_assert_str_eq(first, "png-exif6-after.png");
    ck_assert_int_eq(ds_picture_stream_noted(s, DS_NOTE_ANIMATED, &first), 1);
    ck_assert_int_eq(ds_picture_stream_noted(s, DS_NOTE_CMYK, &first), 0);
    ck_assert(!first);
    ck_assert_int_eq(ds_picture_stream_rejected(s)->count, 3);
    ck_assert_int_eq(ds_picture_stream_broken(s)->count, 3);
    ds_picture_stream_close(s);
}
END_TEST

/* The tools follow links to files, a training does not. */
START_TEST(links_are_followed_where_asked) {
    static const char *const files[] = {"a.png"};
    char dir[300], link[320], *to = realpath(FOLDER "/png-8bit-type2.png", NULL);
    snprintf(dir, sizeof dir, "%s/links", ds_test_tmpdir());
    snprintf(link, sizeof link, "%s/a.png", dir);
    ck_assert(to && !mkdir(dir, 0700) && !symlink(to, link));
    for (int follow = 0; follow < 2; follow++) {
        ds_picture_options o = {.folder = dir,
                                .mode = DS_FID_PYTORCH_FID,
                                .use = DS_DECODE_PILLOW,
                                .files = files,
                                .file_count = 1,
                                .follow_links = follow,
                                .batch = 1,
                                .decoders = 1};
        ds_picture_stream *s;
        ds_error err;
        const float *images[1];
        int64_t at[1];
        int count = 0, seen = 0;
        ck_assert_int_eq(ds_picture_stream_open(&s, &o, &err), 0);
        while (!ds_picture_stream_next(s, images, at, &count, &err) && count)
            seen += count;
        ck_assert_int_eq(seen, follow);
        ck_assert_int_eq(ds_picture_stream_rejected(s)->count, !follow);
        ds_picture_stream_close(s);
    }
    free(to);
}
END_TEST

/* `diffscaler-worker decode`: exit codes, and the pixels that it writes. */
START_TEST(command_writes_pixels) {
    char out[400], *text;
    size_t n;
    snprintf(out, sizeof out, "%s/out.ppm", ds_test_tmpdir());
    char *good[] = {"--as", "pillow", "-o", out, FOLDER "/png-8bit-type2.png"};
    ck_assert_int_eq(ds_worker_decode(5, good), 0);
    ck_assert_int_eq(ds_fs_read(out, 1 << 20, &text, &n, NULL), 0);
    ck_assert_uint_eq(n, 13 + 21 * 13 * 3);
    uint8_t *rgb, *png = load("png-8bit-type2.png", &n);
    ck_assert(!ds_decode_rgb(DS_DECODE_PILLOW, png, n, 1 << 20, &info, &rgb, reason));
    ck_assert_mem_eq(text + 13, rgb, 21 * 13 * 3);
    free(png), free(rgb), free(text);
    char *input[] = {"--as", "pillow", "--input", "clean", "-o", out, FOLDER "/png-8bit-type2.png"};
    ck_assert_int_eq(ds_worker_decode(7, input), 0);
    ck_assert_int_eq(ds_fs_read(out, 1 << 21, &text, &n, NULL), 0);
    ck_assert_uint_eq(n, 299 * 299 * 3 * sizeof(float));
    free(text);
    char *bad[] = {FOLDER "/pnm-p6-short.ppm", FOLDER "/png-8bit-type2.png", FOLDER "/missing"};
    ck_assert_int_eq(ds_worker_decode(3, bad), 1);
    char *wrong[] = {"--as", "nothing", FOLDER "/png-8bit-type2.png"};
    ck_assert_int_eq(ds_worker_decode(3, wrong), 2);
    ck_assert_int_eq(ds_worker_decode(0, NULL), 2);
}
END_TEST

/* A child that runs on as the program that started it would start the next one, without end. */
START_TEST(a_child_starts_no_child) {
    ds_sandbox *s;
    ds_error err;
    setenv("DIFFSCALER_DECODE_CHILD", "1", 1);
    ck_assert_int_eq(ds_sandbox_open(&s, NULL, &err), DS_EFAILED);
    ck_assert_msg(strstr(err.message, "is itself an image decoder") != NULL, "%s", err.message);
    unsetenv("DIFFSCALER_DECODE_CHILD");
    ck_assert_int_eq(ds_sandbox_open(&s, NULL, &err), 0);
    ds_sandbox_close(s);
}
END_TEST

/* ---------------------------------------------------------------- chunks of PNG */

static void put_number(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void put_chunk(ds_buf *b, const char *type, const void *data, size_t n) {
    uint8_t number[4];
    put_number(number, (uint32_t)n);
    ds_buf_add(b, number, 4);
    size_t at = b->len;
    ds_buf_add(b, type, 4);
    if (n)
        ds_buf_add(b, data, n);
    put_number(number, (uint32_t)crc32(0, (const uint8_t *)b->data + at, (uInt)(n + 4)));
    ds_buf_add(b, number, 4);
}

typedef struct {
    const uint8_t *header, *data; /* of IHDR, of the one IDAT */
    size_t n;
} picture;

static picture chunks_of(const uint8_t *png, size_t n) {
    picture p = {0};
    for (size_t at = 8; at + 12 <= n;) {
        size_t size = (size_t)png[at] << 24 | (size_t)png[at + 1] << 16 | (size_t)png[at + 2] << 8 |
                      png[at + 3];
        if (!memcmp(png + at + 4, "IHDR", 4))
            p.header = png + at + 8;
        if (!memcmp(png + at + 4, "IDAT", 4)) {
            ck_assert(!p.data);
            p.data = png + at + 8;
            p.n = size;
        }
        at += size + 12;
    }
    ck_assert(p.header && p.data);
    return p;
}

/* The picture's first bytes, then `before`, the data in `pieces` of fdAT (0: as it is), `after`. */
static int decoded(const picture *p, const ds_buf *before, int pieces, const ds_buf *after,
                   char sha256[DS_HEX_SIZE]) {
    ds_buf b = {0};
    uint8_t *rgb = NULL, *part = ds_xmalloc(p->n + 4);
    ds_buf_add(&b, "\x89PNG\r\n\x1a\n", 8);
    put_chunk(&b, "IHDR", p->header, 13);
    if (before->len)
        ds_buf_add(&b, before->data, before->len);
    for (int i = 0; i < pieces; i++) {
        size_t from = p->n * (size_t)i / (size_t)pieces,
               to = p->n * (size_t)(i + 1) / (size_t)pieces;
        put_number(part, (uint32_t)i + 1);
        memcpy(part + 4, p->data + from, to - from);
        put_chunk(&b, "fdAT", part, to - from + 4);
    }
    if (!pieces)
        put_chunk(&b, "IDAT", p->data, p->n);
    if (after->len)
        ds_buf_add(&b, after->data, after->len);
    put_chunk(&b, "IEND", NULL, 0);
    int rc =
        ds_decode_rgb(DS_DECODE_PILLOW, (uint8_t *)b.data, b.len, 1 << 20, &info, &rgb, reason);
    if (!rc)
        ds_digest(rgb, (size_t)info.width * (size_t)info.height * 3, sha256);
    free(rgb);
    free(part);
    ds_buf_release(&b);
    return rc;
}

/* A frame's data is one stream, in however many chunks it comes. */
START_TEST(frames_in_pieces) {
    size_t n;
    uint8_t *png = load("png-8bit-type2.png", &n), animation[8] = {0, 0, 0, 1}, frame[26] = {0};
    const picture p = chunks_of(png, n);
    char want[DS_HEX_SIZE], got[DS_HEX_SIZE];
    ds_buf none = {0}, before = {0};
    ck_assert_msg(!decoded(&p, &none, 0, &none, want), "%s", reason);
    memcpy(frame + 4, p.header, 8); /* all of it, at 0, 0 */
    put_chunk(&before, "acTL", animation, 8);
    put_chunk(&before, "fcTL", frame, 26);
    for (int pieces = 1; pieces < 6; pieces += 2) {
        ck_assert_msg(!decoded(&p, &before, pieces, &none, got), "%d: %s", pieces, reason);
        ck_assert_str_eq(got, want);
    }
    ds_buf_release(&before);
    free(png);
}
END_TEST

/* Chunks beside the picture: long enough, or the file is refused, before it and behind it. */
START_TEST(chunks_that_are_cut) {
    static const struct {
        const char *type;
        size_t least;
    } chunks[] = {{"gAMA", 4}, {"cHRM", 32}, {"sRGB", 1}, {"pHYs", 9},
                  {"tRNS", 6}, {"acTL", 8},  {"fcTL", 26}};
    size_t n;
    uint8_t *png = load("png-8bit-type2.png", &n);
    const picture p = chunks_of(png, n);
    char sha256[DS_HEX_SIZE];
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
        for (int behind = 0; behind < 2; behind++)
            for (int cut = 0; cut < 2; cut++) {
                const uint8_t data[32] = {[7] = 1, [11] = 1}; /* a frame of a pixel */
                ds_buf b = {0}, none = {0};
                put_chunk(&b, chunks[i].type, data, chunks[i].least - (size_t)cut);
                int rc = decoded(&p, behind ? &none : &b, 0, behind ? &b : &none, sha256);
                ck_assert_msg((rc != 0) == cut, "%s of %zu, %s: %d %s", chunks[i].type,
                              chunks[i].least - (size_t)cut, behind ? "behind" : "before", rc,
                              reason);
                ds_buf_release(&b);
            }
    free(png);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, links_are_followed_where_asked);
    tcase_add_test(tc, frames_in_pieces);
    tcase_add_test(tc, chunks_that_are_cut);
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, pixels_are_those_of_pillow);
    tcase_add_test(tc, training_sees_what_a_person_sees);
    tcase_add_test(tc, a_child_starts_no_child);
    tcase_add_test(tc, cuts_are_answered);
    tcase_add_loop_test(tc, notes_say_what_was_special, 0, (int)(sizeof noted / sizeof *noted));
    tcase_add_loop_test(tc, other_files_are_named, 0, (int)(sizeof others / sizeof *others));
    tcase_add_test(tc, large_pictures_pass);
    tcase_add_test(tc, command_writes_pixels);
    tcase_add_test(tc, stream_tells_notes_and_broken_files);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], DS_SANDBOX_ARG))
        return ds_decode_child_main();
    return ds_test_main("worker_pixels", cases);
}
