/* tests/engine/test_engine_inception.c - the feature network against features computed in float64 by
 * another program (tests/golden/inception-golden.safetensors; tools/make_feature_net.py). */
#include "base/mem.h"
#include "engine/metrics/features.h"
#include "engine/metrics/inception.h"
#include "engine/metrics/resize.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NET_FILE "models/inception-v3-mixed6c.safetensors.zst"
#define GOLDEN_FILE "tests/golden/inception-golden.safetensors"
#define SIDE DS_INCEPTION_SIDE
#define PICTURES 4

/* A picture costs 3.6 G multiply-adds; sanitizer builds are 40 times slower and take fewer. */
#ifdef __SANITIZE_ADDRESS__
#define SLOW 1
#else
#define SLOW 0
#endif

typedef struct {
    uint8_t *images; /* (4,299,299,3) */
    float c5d[PICTURES * DS_INCEPTION_5D], c6c[PICTURES * DS_INCEPTION_6C];
} golden;

static void load_golden(golden *g) {
    ds_st *st;
    ds_error err = {0};
    const ds_st_tensor *t;
    int64_t image_shape[4] = {PICTURES, 3, SIDE, SIDE}, shape5[2] = {PICTURES, DS_INCEPTION_5D},
            shape6[2] = {PICTURES, DS_INCEPTION_6C};
    ck_assert_msg(!ds_st_open_file(GOLDEN_FILE, 4 << 20, 0, &st, &err), "%s", err.message);
    ck_assert_msg(!ds_st_need(st, "images", 4, image_shape, &t, &err), "%s", err.message);
    ck_assert_msg(!ds_st_need_f32(st, "Mixed_5d", 2, shape5, g->c5d, &err), "%s", err.message);
    ck_assert_msg(!ds_st_need_f32(st, "Mixed_6c", 2, shape6, g->c6c, &err), "%s", err.message);
    g->images = ds_xmalloc(t->bytes);
    const uint8_t *from = t->data; /* (4,3,299,299) */
    size_t plane = (size_t)SIDE * SIDE;
    for (size_t b = 0; b < PICTURES; b++)
        for (size_t i = 0; i < plane; i++)
            for (size_t c = 0; c < 3; c++)
                g->images[(b * plane + i) * 3 + c] = from[(b * 3 + c) * plane + i];
    ds_st_free(st);
}

static ds_device *device(const char *kind, int threads) {
    ds_device *dev;
    ds_error err = {0};
    ds_device_options opt = {.kind = kind, .precision = DS_PRECISION_F32, .threads = threads};
    ck_assert_msg(!ds_device_open(&dev, &opt, &err), "%s", err.message);
    return dev;
}

static ds_features *features(ds_device *dev) {
    ds_features *f;
    ds_error err = {0};
    ck_assert_msg(!ds_features_open(dev, NET_FILE, NULL, &f, &err), "%s", err.message);
    return f;
}

/* Relative L2 of one row, and the largest difference relative to the row's largest feature. */
static void check_row(const char *tap, int picture, const float *x, const float *want, int n) {
    double diff = 0, norm = 0, worst = 0, top = 0;
    for (int i = 0; i < n; i++) {
        double d = (double)x[i] - want[i];
        diff += d * d;
        norm += (double)want[i] * want[i];
        worst = fmax(worst, fabs(d));
        top = fmax(top, fabs(want[i]));
    }
    printf("  %s picture %d: relative L2 %.2e, max %.2e\n", tap, picture, sqrt(diff / norm),
           worst / top);
    ck_assert_double_lt(sqrt(diff / norm), 2e-6);
    ck_assert_double_lt(worst / top, 2e-6);
}

static void to_unit(float *out, const uint8_t *in, size_t n) {
    for (size_t i = 0; i < n; i++)
        out[i] = (float)in[i] / 255.0f;
}

static void compare_with_golden(const char *kind, int pictures) {
    golden g;
    load_golden(&g);
    ds_device *dev = device(kind, 0);
    ds_st *st;
    ds_inception *net;
    ds_error err = {0};
    ck_assert_msg(
        !ds_st_open_zst(NET_FILE, DS_FEATURE_NET_MAX, DS_FEATURE_NET_SHA256, NULL, &st, &err), "%s",
        err.message);
    ck_assert_msg(!ds_inception_new(dev, st, pictures, &net, &err), "%s", err.message);
    ds_st_free(st);
    size_t floats = (size_t)pictures * SIDE * SIDE * 3;
    float *in = ds_xmalloc(floats * sizeof *in);
    static float x5[PICTURES * DS_INCEPTION_5D], x6[PICTURES * DS_INCEPTION_6C];
    to_unit(in, g.images, floats);
    ds_inception_forward(net, in, pictures, x5, x6);
    printf("device %s\n", dev->device_class);
    for (int i = 0; i < pictures; i++) {
        check_row("Mixed_5d", i, x5 + i * DS_INCEPTION_5D, g.c5d + i * DS_INCEPTION_5D,
                  DS_INCEPTION_5D);
        check_row("Mixed_6c", i, x6 + i * DS_INCEPTION_6C, g.c6c + i * DS_INCEPTION_6C,
                  DS_INCEPTION_6C);
    }
    free(in);
    free(g.images);
    ds_inception_free(net);
    ds_device_close(dev);
}

START_TEST(golden_auto) { compare_with_golden("auto", SLOW ? 2 : PICTURES); }
END_TEST

/* The specification in plain C: one picture takes seconds. */
START_TEST(golden_ref) {
    if (SLOW)
        ds_test_skip("golden_ref", "too slow under the address sanitizer");
    else
        compare_with_golden("ref", 1);
}
END_TEST

/* The same bytes alone, in a batch, at another place of the batch and with another team. */
START_TEST(batch_and_threads_do_not_matter) {
    golden g;
    load_golden(&g);
    enum { N = 3 };
    size_t bytes = (size_t)SIDE * SIDE * 3;
    uint8_t *images = ds_xmalloc(N * bytes); /* pictures 1, 2, 1 */
    memcpy(images, g.images + bytes, 2 * bytes);
    memcpy(images + 2 * bytes, g.images + bytes, bytes);
    static float one[DS_FEATURE_DIM], all[N * DS_FEATURE_DIM];
    ds_error err = {0};
    ds_device *dev = device("auto", 1);
    ds_features *f = features(dev);
    ck_assert(!ds_features_compute(f, images, 1, SIDE, SIDE, one, NULL, NULL, &err));
    ds_features_close(f);
    ds_device_close(dev);
    dev = device("auto", 2);
    f = features(dev);
    ck_assert(!ds_features_compute(f, images, N, SIDE, SIDE, all, NULL, NULL, &err));
    ck_assert(!memcmp(one, all, sizeof one));
    ck_assert(!memcmp(one, all + 2 * DS_FEATURE_DIM, sizeof one));
    ck_assert(memcmp(one, all + DS_FEATURE_DIM, sizeof one));
    ds_features_close(f);
    ds_device_close(dev);
    free(images);
    free(g.images);
}
END_TEST

typedef struct {
    int calls, stop_at;
    int64_t done, total;
} watcher;

static int watch(void *ud, double done, double total) {
    watcher *w = ud;
    ck_assert_int_gt((int64_t)done, w->done);
    w->done = (int64_t)done;
    w->total = (int64_t)total;
    return ++w->calls == w->stop_at;
}

/* Small pictures go through the resampler; progress is told, and can stop the work. */
START_TEST(resize_progress_and_cancel) {
    enum { N = SLOW ? 2 : 9, H = 20, W = 32 }; /* 9: two batches */
    static uint8_t images[N * H * W * 3], scaled[SIDE * SIDE * 3];
    static float x[N * DS_FEATURE_DIM], one[DS_FEATURE_DIM];
    ds_error err = {0};
    ds_device *dev = device("auto", 0);
    ds_features *f = features(dev);
    for (size_t i = 0; i < sizeof images; i++)
        images[i] = (uint8_t)((i * 2654435761u) >> 13);
    watcher w = {0};
    ck_assert(!ds_features_compute(f, images, N, H, W, x, watch, &w, &err));
    ck_assert_int_eq(w.done, N);
    ck_assert_int_eq(w.total, N);
    ck_assert_int_eq(w.calls, SLOW ? 1 : 2);
    size_t last = (size_t)(N - 1) * H * W * 3;
    ds_resize_bicubic(scaled, SIDE, SIDE, images + last, W, H, (size_t)W * 3, 3);
    ck_assert(!ds_features_compute(f, scaled, 1, SIDE, SIDE, one, NULL, NULL, &err));
    ck_assert(!memcmp(one, x + (N - 1) * DS_FEATURE_DIM, sizeof one));
    w = (watcher){.stop_at = 1};
    ck_assert_int_eq(ds_features_compute(f, images, N, H, W, x, watch, &w, &err), DS_ECANCELED);
    ck_assert_int_eq(ds_features_compute(f, images, 1, 513, 32, x, NULL, NULL, &err), DS_EINVAL);
    ck_assert_int_eq(ds_features_compute(f, images, 1, 32, 0, x, NULL, NULL, &err), DS_EINVAL);
    for (int more = 0; more < 2; more++) {
        int64_t n = more ? DS_FEATURE_ROWS_MAX + 1 : -1;
        ck_assert_int_eq(ds_features_compute(f, images, n, H, W, x, NULL, NULL, &err), DS_ELIMIT);
        ck_assert_ptr_nonnull(
            strstr(err.message, more ? "of 10000001 pictures, limit 10000000" : "-1"));
    }
    ck_assert(!ds_features_compute(f, images, 0, H, W, x, NULL, NULL, &err));
    ds_feature_set set;
    ds_features_describe(f, x, N, &set);
    ck_assert_str_eq(set.net, DS_FEATURE_NET_SHA256);
    ck_assert_str_eq(set.resize, DS_RESIZE_ID);
    ds_features_close(f);
    ds_device_close(dev);
}
END_TEST

/* ---------------------------------------------------------------- what a device may record */

/* The processor, which looks on: what is not allowed while a device records, and which runs are
 * told to be the same. */
static struct {
    ds_device plain;
    int recording, runs, forgotten;
    ds_segment last;
} seen;

static void *seen_alloc(ds_device *dev, size_t bytes) {
    ck_assert(!seen.recording);
    return seen.plain.alloc(dev, bytes);
}

static void seen_upload(ds_device *dev, void *dst, const void *src, size_t bytes) {
    ck_assert(!seen.recording);
    seen.plain.upload(dev, dst, src, bytes);
}

static void seen_download(ds_device *dev, void *dst, const void *src, size_t bytes) {
    ck_assert(!seen.recording);
    seen.plain.download(dev, dst, src, bytes);
}

static int seen_replay(ds_device *dev, const ds_segment *key) {
    (void)dev;
    seen.recording = 1;
    seen.runs++;
    seen.last = *key;
    return 0;
}

static void seen_end(ds_device *dev) {
    (void)dev;
    ck_assert(seen.recording);
    seen.recording = 0;
}

static void seen_forget(ds_device *dev, const void *owner) {
    (void)dev;
    seen.forgotten += owner == seen.last.owner;
}

START_TEST(the_network_is_one_segment) {
    ds_st *st;
    ds_inception *net;
    ds_error err = {0};
    ds_device *dev = device("auto", 0);
    seen.plain = *dev;
    dev->alloc = seen_alloc;
    dev->upload = seen_upload;
    dev->download = seen_download;
    dev->replay = seen_replay;
    dev->segment_end = seen_end;
    dev->forget = seen_forget;
    ck_assert(
        !ds_st_open_zst(NET_FILE, DS_FEATURE_NET_MAX, DS_FEATURE_NET_SHA256, NULL, &st, &err));
    ck_assert(!ds_inception_new(dev, st, 1, &net, &err));
    ds_st_free(st);
    float *in = ds_xcalloc(DS_INCEPTION_PIXELS, sizeof *in);
    static float a[DS_INCEPTION_6C], b[DS_INCEPTION_6C], low[DS_INCEPTION_5D];
    in[5000] = 1;
    ds_inception_forward(net, in, 1, NULL, a);
    ds_segment first = seen.last;
    in[5000] = 0.5f; /* other pictures, the same run */
    ds_inception_forward(net, in, 1, NULL, b);
    ck_assert_int_eq(seen.runs, 2);
    ck_assert(!memcmp(&first, &seen.last, sizeof first));
    ck_assert_ptr_nonnull(first.owner);
    ck_assert_int_eq(first.batch, 1);
    ck_assert(memcmp(a, b, sizeof a));
    if (!SLOW) { /* one more thing to be computed: another run */
        ds_inception_forward(net, in, 1, low, b);
        ck_assert_int_ne(first.kind, seen.last.kind);
    }
    ds_inception_free(net);
    ck_assert_int_eq(seen.forgotten, 1); /* before its buffers are freed */
    free(in);
    ds_device_close(dev);
}
END_TEST

/* ---------------------------------------------------------------- files that must be refused */

/* The file without `drop`, or with `replace` as its last number, and with this side in its metadata
 * (NULL: none); *keep (may be NULL) takes the network. */
static int open_with(ds_device *dev, const char *drop, float replace, const char *side,
                     ds_inception **keep, ds_error *err) {
    ds_st *st, *changed;
    ck_assert(!ds_st_open_zst(NET_FILE, DS_FEATURE_NET_MAX, NULL, NULL, &st, err));
    ds_st_writer *w = ds_st_writer_new();
    float *copy = NULL;
    if (side)
        ds_st_writer_meta(w, DS_INCEPTION_SIDE_KEY, side);
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        const void *data = t->data;
        if (!strcmp(t->name, drop) && replace == 0)
            continue;
        if (!strcmp(t->name, drop)) {
            copy = ds_xmalloc(t->bytes);
            memcpy(copy, t->data, t->bytes);
            copy[t->count - 1] = replace;
            data = copy;
        }
        ds_st_writer_add(w, t->name, t->dtype, t->ndim, t->shape, data);
    }
    char *bytes;
    size_t n;
    ck_assert(!ds_st_writer_finish(w, &bytes, &n, err));
    ck_assert(!ds_st_open_owned("changed", bytes, n, &changed, err));
    ds_inception *net = NULL;
    int rc = ds_inception_new(dev, changed, 1, &net, err);
    if (keep)
        *keep = net;
    else
        ds_inception_free(net);
    ds_st_free(changed);
    ds_st_free(st);
    ds_st_writer_free(w);
    free(copy);
    return rc;
}

static int open_changed(ds_device *dev, const char *drop, float replace, ds_error *err) {
    return open_with(dev, drop, replace, NULL, NULL, err);
}

/* A file that states a side: its maps are smaller, and it reads pictures of that side. */
START_TEST(a_file_states_its_side) {
    static const struct {
        const char *text;
        int ok;
    } cases[] = {{"75", 1}, {"299", 1}, {"74", 0},   {"300", 0},
                 {"", 0},   {"75x", 0}, {"0x60", 0}, {"-75", 0}};
    enum { S = 75 };
    ds_device *dev = device("cpu", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_error err = {0};
        int rc = open_with(dev, "", 0, cases[i].text, NULL, &err);
        ck_assert_msg(rc == (cases[i].ok ? 0 : DS_EINTEGRITY), "%s: %s", cases[i].text,
                      err.message);
        ck_assert(cases[i].ok || strstr(err.message, "diffscaler.side"));
    }
    ds_error err = {0};
    ds_inception *net;
    ck_assert_msg(!open_with(dev, "", 0, "75", &net, &err), "%s", err.message);
    ck_assert_int_eq(ds_inception_side(net), S);
    float *in = ds_xcalloc((size_t)S * S * 3, sizeof *in), *out = ds_xcalloc(2 * 768, sizeof *out);
    for (int i = 0; i < S * S * 3;
         i++) /* one bright corner pixel tells that the last row is read */
        in[i] = 0.5f;
    ds_inception_forward(net, in, 1, NULL, out);
    for (int c = 0; c < 3; c++)
        in[((S - 3) * S + S - 3) * 3 + c] = 1;
    ds_inception_forward(net, in, 1, NULL, out + 768);
    ck_assert(memcmp(out, out + 768, 768 * sizeof *out) != 0);
    free(in), free(out);
    ds_inception_free(net);
    ds_device_close(dev);
}
END_TEST

START_TEST(wrong_files_are_refused) {
    ds_error err = {0};
    ds_device *dev = device("auto", 1);
    ds_features *f;
    char other[DS_HEX_SIZE];
    memset(other, 'a', 64);
    other[64] = 0;
    ck_assert_int_eq(ds_features_open(dev, NET_FILE, other, &f, &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "expected aaaaaaaaaaaa"));
    ck_assert_int_eq(ds_features_open(dev, "models/none.zst", NULL, &f, &err), DS_ENOTFOUND);
    ck_assert_int_eq(open_changed(dev, "Mixed_6b.branch_pool.bn.bias", 0, &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "Mixed_6b.branch_pool.bn.bias"));
    ck_assert_int_eq(open_changed(dev, "Mixed_5b.branch1x1.conv.weight", NAN, &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "Mixed_5b.branch1x1"));
    static const char *const vectors[] = {"weight", "bias", "running_mean", "running_var"};
    for (int i = 0; i < 4; i++) {
        char name[60];
        snprintf(name, sizeof name, "Mixed_5b.branch1x1.bn.%s", vectors[i]);
        ck_assert_int_eq(open_changed(dev, name, NAN, &err), DS_EINTEGRITY);
    }
    ck_assert_int_eq(open_changed(dev, "Conv2d_1a_3x3.bn.running_var", -1.0f, &err), DS_EINTEGRITY);
    ck_assert_int_eq(open_changed(dev, "Mixed_6c.branch_pool.bn.weight", 2.0f, &err), 0);
    ds_device_close(dev);
}
END_TEST

/* One flipped bit anywhere in the stored file. */
START_TEST(flipped_bits_are_refused) {
    ds_error err = {0};
    char *data;
    size_t n;
    FILE *in = fopen(NET_FILE, "rb");
    ck_assert_ptr_nonnull(in);
    data = ds_xmalloc(8 << 20);
    n = fread(data, 1, 8 << 20, in);
    fclose(in);
    char path[512];
    snprintf(path, sizeof path, "%s/net.zst", ds_test_tmpdir());
    ds_device *dev = device("auto", 1);
    for (size_t k = 0; k < 6; k++) {
        size_t at = k ? (n - 1) * k / 5 : 7;
        data[at] ^= (char)(1 << k);
        FILE *out = fopen(path, "wb");
        ck_assert_uint_eq(fwrite(data, 1, n, out), n);
        fclose(out);
        data[at] ^= (char)(1 << k);
        ds_features *f;
        int rc = ds_features_open(dev, path, NULL, &f, &err);
        ck_assert_msg(rc == DS_EINTEGRITY || rc == DS_ELIMIT, "byte %zu: %d %s", at, rc,
                      rc ? err.message : "");
    }
    free(data);
    ds_device_close(dev);
}
END_TEST

/* The network has the 50 units of the file, no more and no fewer. */
START_TEST(units_and_tensors_agree) {
    ds_st *st;
    ds_error err = {0};
    char unit[64], name[96];
    ck_assert(!ds_st_open_zst(NET_FILE, DS_FEATURE_NET_MAX, NULL, NULL, &st, &err));
    int units = 0;
    for (; ds_inception_unit(units, unit); units++) {
        snprintf(name, sizeof name, "%s.conv.weight", unit);
        ck_assert_msg(ds_st_find(st, name) != NULL, "%s", name);
    }
    ck_assert_int_eq(units, 50);
    ck_assert_uint_eq(ds_st_count(st), 250);
    ck_assert_str_eq(ds_st_meta(st, "bn_eps"), "0.001");
    ds_st_free(st);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, units_and_tensors_agree);
    tcase_add_test(tc, golden_auto);
    tcase_add_test(tc, golden_ref);
    tcase_add_test(tc, batch_and_threads_do_not_matter);
    tcase_add_test(tc, resize_progress_and_cancel);
    tcase_add_test(tc, the_network_is_one_segment);
    tcase_add_test(tc, wrong_files_are_refused);
    tcase_add_test(tc, a_file_states_its_side);
    tcase_add_test(tc, flipped_bits_are_refused);
}

int main(void) { return ds_test_main("engine_inception", register_cases); }
