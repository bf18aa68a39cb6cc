/* tests/worker_files/test_worker_commands.c - commands of the worker that people call by hand: scan, montage,
 * pretrain.  What they print, what they write, and what is there when they fail. */
#include "tests/fixtures/picture_files.h"
#include "tests/fixtures/worker_fixture.h"
#include "contract/job.h"
#include "engine/model/base_model.h"
#include "worker/decode/decode.h"

#include <math.h>

typedef int command(int argc, char **argv);

static char said[100000]; /* by the last call: standard output, then the errors */

static void read_said(const char *out, const char *errors) {
    size_t at = 0;
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(i ? errors : out, "r");
        at += fread(said + at, 1, sizeof said - 1 - at, f);
        fclose(f);
    }
    said[at] = 0;
}

/* Starts the command in a child, on the words of a line; words in it are below TMP where they begin with
 * '@'. */
static pid_t start(command *run, const char *line) {
    static char words[8000];
    char *argv[80] = {NULL}, *save = NULL, *out = in_tmp("said"), *errors = in_tmp("errors");
    int argc = 0;
    size_t at = 0;
    for (const char *p = line; *p && at < sizeof words - 400; p++) {
        if (*p == '@')
            at += (size_t)sprintf(words + at, "%s/", ds_test_tmpdir());
        else
            words[at++] = *p;
    }
    words[at] = 0;
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen(out, "w", stdout) || !freopen(errors, "w", stderr))
            _exit(99);
        int rc = run(argc, argv);
        fflush(NULL);
        _exit(rc);
    }
    free(out), free(errors);
    return child;
}

static int ended(pid_t child) {
    int status;
    char *out = in_tmp("said"), *errors = in_tmp("errors");
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    read_said(out, errors);
    free(out), free(errors);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void expect(command *run, int want, const char *words, const char *line) {
    int got = ended(start(run, line));
    ck_assert_msg(got == want, "%s: %d, must be %d: %s", line, got, want, said);
    ck_assert_msg(strstr(said, words) != NULL, "%s: no '%s' in: %s", line, words, said);
}

static int there(const char *name) {
    char *path = in_tmp(name);
    int is = ds_fs_exists(path);
    free(path);
    return is;
}

static char *bytes_of(const char *name, size_t *n) {
    char *path = in_tmp(name), *bytes = NULL;
    ds_error err = {0};
    must(ds_fs_read(path, 1 << 28, &bytes, n, &err), &err);
    free(path);
    return bytes;
}

static void has_text(const char *name, const char *text) {
    size_t n;
    char *bytes = bytes_of(name, &n);
    ck_assert_str_eq(bytes, text);
    free(bytes);
}

/* ---------------------------------------------------------------- montage */

static void picture(const char *name, int w, int h, int seed) {
    put_file(ds_test_tmpdir(), name, make_slope_png(w, h, seed));
}

/* Below each other on white, at the left, eight rows between. */
START_TEST(montage_of_two) {
    picture("a.png", 5, 3, 10);
    picture("b.png", 9, 4, 20);
    expect(ds_worker_montage, 0, "", "-o @m.png @a.png @b.png");
    size_t n;
    char *bytes = bytes_of("m.png", &n), reason[DS_REASON_SIZE];
    ds_image_info info;
    uint8_t *rgb, *a = make_slope(5, 3, 10), *b = make_slope(9, 4, 20);
    ck_assert_int_eq(ds_decode_rgb(DS_DECODE_TRAIN, (uint8_t *)bytes, n, 1000, &info, &rgb, reason),
                     0);
    ck_assert(info.width == 9 && info.height == 3 + 8 + 4);
    for (int y = 0; y < 15; y++)
        for (int x = 0; x < 9; x++) {
            static const uint8_t white[3] = {255, 255, 255};
            const uint8_t *want = y < 3 && x < 5 ? a + (y * 5 + x) * 3
                                  : y >= 11      ? b + ((y - 11) * 9 + x) * 3
                                                 : white;
            ck_assert_msg(!memcmp(rgb + (y * 9 + x) * 3, want, 3), "at %d, %d", x, y);
        }
    free(rgb), free(bytes);
    expect(ds_worker_montage, 0, "", "-o @w.png @b.png @a.png"); /* the wider one first */
    bytes = bytes_of("w.png", &n);
    ck_assert_int_eq(ds_decode_rgb(DS_DECODE_TRAIN, (uint8_t *)bytes, n, 1000, &info, &rgb, reason),
                     0);
    ck_assert(info.width == 9 && info.height == 15);
    ck_assert(!memcmp(rgb, b, 9 * 4 * 3) && !memcmp(rgb + 9 * 12 * 3, a, 15));
    free(rgb), free(a), free(b), free(bytes);
}
END_TEST

START_TEST(montage_refuses) {
    picture("a.png", 5, 3, 10);
    put_text(ds_test_tmpdir(), "text.png", "no picture");
    expect(ds_worker_montage, 3, "none.png", "-o @new.png @a.png @none.png");
    expect(ds_worker_montage, 2, "text.png': unknown file type", "-o @new.png @a.png @text.png");
    expect(ds_worker_montage, 2, "-o takes a file", "-o - @a.png");
    expect(ds_worker_montage, 2, "a picture is missing", "-o @new.png");
    expect(ds_worker_montage, 2, "-o OUT.png is missing", "@a.png");
    expect(ds_worker_montage, 3, "folder", "-o @none/new.png @a.png");
    ds_buf line = {0};
    ds_buf_addf(&line, "-o @new.png");
    for (int i = 0; i < 64; i++)
        ds_buf_addf(&line, " @a.png");
    expect(ds_worker_montage, 0, "", line.data);
    char *path = in_tmp("new.png");
    ck_assert_int_eq(unlink(path), 0);
    ds_buf_addf(&line, " @a.png");
    expect(ds_worker_montage, 2, "64 pictures at most", line.data);
    ds_buf_release(&line);
    ck_assert(!there("new.png"));
    put_text(ds_test_tmpdir(), "new.png", "mine");
    expect(ds_worker_montage, 4, "--force", "-o @new.png @a.png");
    has_text("new.png", "mine");
    expect(ds_worker_montage, 2, "text.png", "--force -o @new.png @text.png");
    has_text("new.png", "mine");
    expect(ds_worker_montage, 0, "", "--force -o @new.png @a.png");
    size_t n;
    char *bytes = bytes_of("new.png", &n);
    ck_assert(n > 8 && !memcmp(bytes, "\x89PNG", 4));
    free(bytes), free(path);
}
END_TEST

/* ---------------------------------------------------------------- scan */

START_TEST(scan_prints_and_writes) {
    put_file(ds_test_tmpdir(), "set/x/1.png", make_slope_png(20, 21, 1));
    put_file(ds_test_tmpdir(), "set/y/2.png", make_slope_png(22, 20, 2));
    put_text(ds_test_tmpdir(), "set/y/3.png", "no picture");
    expect(ds_worker_scan, 0, "\"images\": 2", "@set");
    json_t *doc = NULL;
    ck_assert_int_eq(ds_json_parse("said", said, strlen(said), &doc, NULL), 0);
    ck_assert_int_eq((int)ds_json_int(doc, "rejected_count", -1), 1);
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "classes")), 2);
    json_decref(doc);
    expect(ds_worker_scan, 0, "\"images\": 2", "@set -o @m.ndjson");
    size_t n;
    char *text = bytes_of("m.ndjson", &n);
    ck_assert(strstr(text, "\"x/1.png\"") && strstr(text, "\"y/2.png\"") && text[n - 1] == '\n');
    free(text);
    put_text(ds_test_tmpdir(), "m.ndjson", "mine");
    expect(ds_worker_scan, 4, "--force", "@set -o @m.ndjson");
    has_text("m.ndjson", "mine");
    expect(ds_worker_scan, 3, "cannot find '", "@none -o @new.ndjson");
    expect(ds_worker_scan, 2, "is not a folder", "@set/x/1.png -o @new.ndjson");
    expect(ds_worker_scan, 2, "--force needs -o MANIFEST", "@set --force");
    expect(ds_worker_scan, 2, "standard output has the result", "@set -o -");
    expect(ds_worker_scan, 2, "which folder?", "");
    ck_assert(!there("new.ndjson"));
    put_text(ds_test_tmpdir(), "rubbish/3.png", "no picture");
    expect(ds_worker_scan, 4, "--force", "@rubbish -o @m.ndjson"); /* before the work */
    expect(ds_worker_scan, 2, "has no usable image", "@rubbish --force -o @m.ndjson");
    has_text("m.ndjson", "mine");
    expect(ds_worker_scan, 0, "\"images\": 2", "@set -o @m.ndjson --force");
    text = bytes_of("m.ndjson", &n);
    ck_assert(strstr(text, "\"x/1.png\"") != NULL);
    free(text);
}
END_TEST

/* ---------------------------------------------------------------- pretrain */

#define REST                                                                                       \
    "--side 8 --patch 4 --width 16 --heads 2 --batch 4 --every 2 --precision f32 --device cpu "    \
    "--threads 1 --warmup 1 "
#define RATED REST "--depth 1 " /* .. and the rate */
#define SMALL RATED "--lr 0.01 "

static void make_data(const char *name, const char *first, const char *second) {
    for (int c = 0; c < 2; c++)
        for (int i = 0; i < 6; i++) {
            char path[60];
            snprintf(path, sizeof path, "%s/%s/%d.png", name, c ? second : first, i);
            put_file(ds_test_tmpdir(), path, make_slope_png(9, 9, 40 * c + i));
        }
}

static ds_base *open_base(const char *name) {
    char *path = in_tmp(name);
    ds_base *b = NULL;
    ds_error err = {0};
    must(ds_base_open(&b, path, NULL, &err), &err);
    free(path);
    return b;
}

static void same_bytes(const char *a, const char *b) {
    size_t na, nb;
    char *x = bytes_of(a, &na), *y = bytes_of(b, &nb);
    ck_assert_msg(na == nb && !memcmp(x, y, na), "'%s' and '%s' differ", a, b);
    free(x), free(y);
}

static void expect_meta(const char *name, const char *key, const char *want) {
    char *path = in_tmp(name);
    ds_st *st;
    ds_error err = {0};
    must(ds_st_open_file(path, 1 << 28, 0, &st, &err), &err);
    const char *value = ds_st_meta(st, key);
    ck_assert_msg(value && !strcmp(value, want), "%s: %s", key, value ? value : "(none)");
    ds_st_free(st);
    free(path);
}

/* A base with what it is of; stopped on the way and gone on with it is the same. */
START_TEST(pretrain_makes_a_base) {
    make_data("data", "a", "b");
    expect(ds_worker_pretrain, 0, "12 images in 2 classes",
           SMALL
           "--steps 4 --seed 7 --data @data --out @one.safetensors --name mine --license free");
    ck_assert_ptr_nonnull(strstr(said, "mine: 0.0"));
    ds_base *b = open_base("one.safetensors");
    ck_assert(b->facts.classes == 2 && b->facts.side == 8 && b->facts.flow.path == DS_FLOW_NONE);
    ds_base_free(b);
    static const char *const meta[][2] = {{"diffscaler.name", "mine"},
                                          {"diffscaler.license", "free"},
                                          {"diffscaler.classes", "[\"a\",\"b\"]"},
                                          {"diffscaler.steps", "4"},
                                          {"diffscaler.seed", "7"},
                                          {"diffscaler.engine", DS_VERSION}};
    for (size_t i = 0; i < sizeof meta / sizeof *meta; i++)
        expect_meta("one.safetensors", meta[i][0], meta[i][1]);
    static const char *const beside[] = {
        "one.safetensors.work/checkpoint", "one.safetensors.work/loss.csv",
        "one.safetensors.work/grid-000002.png", "one.safetensors.work/grid-000004.png"};
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++)
        ck_assert_msg(there(beside[i]), "%s", beside[i]);
    ck_assert(!there("one.safetensors.work/grid-000003.png"));
    /* the same in two parts, in a folder that is named */
#define PARTS SMALL "--steps 4 --seed 7 --data @data --out @two.safetensors --work @w --name mine "
    expect(ds_worker_pretrain, 0, "12 images", PARTS "--license free --stop-at 3");
    expect_meta("two.safetensors", "diffscaler.steps", "3");
    ck_assert(there("w/grid-000002.png") && !there("w/grid-000004.png"));
    expect(ds_worker_pretrain, 4, "--force", PARTS);
    expect(ds_worker_pretrain, 0, "resumed at step 3\n", PARTS "--license free --force");
    same_bytes("one.safetensors", "two.safetensors");
    ck_assert(!there("two.safetensors.work"));
    /* a checkpoint of another schedule, or of other pictures, is not gone on with */
    static const char *const other[] = {"--lr 0.02 --steps 6 --seed 7 ",
                                        "--lr 0.01 --steps 4 --seed 8 "};
    for (int i = 0; i < 3; i++) { /* another seed is another training */
        char line[700];
        snprintf(line, sizeof line,
                 RATED "%s %s --data @data --out @two.safetensors --work @w --force", other[i % 2],
                 i ? "--replan" : "");
        expect(ds_worker_pretrain, i == 2 ? 0 : 9,
               (const char *[]){"another schedule (steps, rate, warm-up): it goes on with 'replan'",
                                "w/checkpoint' belongs to another run", "resumed at step 4\n"}[i],
               line);
        expect_meta("two.safetensors", "diffscaler.steps", i == 2 ? "6" : "4");
    }
}
END_TEST

/* What it predicts. */
START_TEST(pretrain_of_flows) {
    make_data("data", "a", "b");
    static const struct {
        const char *words;
        enum ds_flow_path path;
        double shift;
    } flows[] = {{"flow", DS_FLOW_LINEAR, 3},
                 {"flow --shift 2", DS_FLOW_LINEAR, 2},
                 {"flow-gvp", DS_FLOW_GVP, 3}};
    for (size_t i = 0; i < sizeof flows / sizeof *flows; i++) {
        char line[600];
        snprintf(line, sizeof line,
                 SMALL "--steps 1 --data @data --out @f%zu.safetensors --objective %s", i,
                 flows[i].words);
        expect(ds_worker_pretrain, 0, "base: 0.0", line);
        snprintf(line, sizeof line, "f%zu.safetensors", i);
        ds_base *b = open_base(line);
        const ds_flow *f = &b->facts.flow;
        ck_assert(f->path == flows[i].path && f->scale == 1000 && f->shift == flows[i].shift &&
                  !f->to_data);
        ds_base_free(b);
    }
#define NO SMALL "--steps 1 --data @data --out @no.safetensors "
    expect(ds_worker_pretrain, 2, "unknown objective 'x': use noise, flow or flow-gvp",
           NO "--objective x");
    expect(ds_worker_pretrain, 2, "--shift is of a flow: use it with --objective flow",
           NO "--shift 2");
    expect(ds_worker_pretrain, 2, "--shift is of a flow", NO "--shift 2 --objective noise");
    expect(ds_worker_pretrain, 3, "cannot open folder",
           SMALL "--steps 1 --data @none --out @no.safetensors");
    expect(ds_worker_pretrain, 3, "folder",
           SMALL "--steps 1 --data @data --out @none/no.safetensors");
    expect(ds_worker_pretrain, 2, "--data DIR is missing", "--out @no.safetensors");
    expect(ds_worker_pretrain, 2, "--out FILE is missing", "--data @data");
    ck_assert(!there("no.safetensors"));
}
END_TEST

/* From another base: known classes keep their rows, the others begin as no class. */
START_TEST(pretrain_from_a_base) {
    make_data("data", "a", "b");
    make_data("other", "b", "c");
    expect(ds_worker_pretrain, 0, "",
           SMALL "--steps 2 --data @data --out @old.safetensors --name old");
    expect(ds_worker_pretrain, 0, "starting from old: 1 of 2 classes known",
           RATED "--lr 1e-9 --seed 5 --steps 1 --data @other --init @old.safetensors --out "
                 "@new.safetensors");
    ds_base *old = open_base("old.safetensors"), *new = open_base("new.safetensors");
    size_t width = (size_t)old->row_width;
    const float *was = ds_base_held(old, old->classes_entry),
                *is = ds_base_held(new, new->classes_entry);
    static const int from[] = {1, 2, 2}; /* b; c and none: none */
    for (size_t r = 0; r < 3; r++)
        for (size_t i = 0; i < width; i++)
            ck_assert_msg(fabsf(is[r * width + i] - was[(size_t)from[r] * width + i]) < 1e-6f,
                          "row %zu", r);
    for (int e = 0; e < old->table.count; e++) {
        size_t n = old->table.items[e].count;
        float *x = ds_xmalloc(n * sizeof *x), *y = ds_xmalloc(n * sizeof *y);
        const float *p = ds_base_values(old, e, x), *q = ds_base_values(new, e, y);
        for (size_t i = 0; e != old->classes_entry && i < n; i++)
            ck_assert_msg(fabsf(p[i] - q[i]) <= 1e-6f, "%s", old->table.items[e].name);
        free(x), free(y);
    }
    ds_base_free(old);
    ds_base_free(new);
    expect(ds_worker_pretrain, 2,
           "has another shape than the options ask for: give the same --side",
           REST "--depth 2 --steps 1 --data @other --init @old.safetensors --out @no.safetensors");
    expect(ds_worker_pretrain, 3, "none.safetensors",
           SMALL "--steps 1 --data @other --init @none.safetensors --out @no.safetensors");
    ck_assert(!there("no.safetensors"));
}
END_TEST

/* Interrupted it saves, writes no base, and goes on from there. */
START_TEST(pretrain_is_interrupted) {
    make_data("data", "a", "b");
#define LONG SMALL "--data @data --out @i.safetensors --steps 1000000 "
    pid_t child = start(ds_worker_pretrain, LONG);
    for (int i = 0; i < 3000 && !there("i.safetensors.work/grid-000002.png"); i++)
        usleep(10000);
    ck_assert_int_eq(kill(child, SIGINT), 0);
    ck_assert_int_eq(ended(child), DS_EXIT_STOPPED);
    ck_assert(there("i.safetensors.work/checkpoint") && !there("i.safetensors"));
    child = start(ds_worker_pretrain, LONG);
    usleep(300000);
    kill(child, SIGTERM);
    ck_assert_int_eq(ended(child), DS_EXIT_STOPPED);
    ck_assert_msg(strstr(said, "resumed at step ") != NULL, "%s", said);
    ck_assert(!there("i.safetensors"));
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, montage_of_two);
    tcase_add_test(tc, montage_refuses);
    tcase_add_test(tc, scan_prints_and_writes);
    tcase_add_test(tc, pretrain_makes_a_base);
    tcase_add_test(tc, pretrain_of_flows);
    tcase_add_test(tc, pretrain_from_a_base);
    tcase_add_test(tc, pretrain_is_interrupted);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_commands", register_cases);
}
