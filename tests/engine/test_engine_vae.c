/* tests/engine/test_engine_vae.c - encode and decode against diffusers (tools/parity/make_vae_golden.py),
 * slicing, threads, memory, and files that are no VAE. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/vae/vae_internal.h"
#include "engine/names/vae_names.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define VAE "tests/golden/vae.safetensors"

#define IO "tests/golden/vae-io.safetensors"

enum { H = 24, W = 40, F = 4, L = 4 };

static ds_device *open_device(const char *kind, const char *isa, enum ds_precision p, int threads) {
    ds_device_options o = {.kind = kind, .precision = p, .threads = threads, .isa = isa};
    ds_device *dev = NULL;
    ds_error err = {0};
    int rc = ds_device_open(&dev, &o, &err);
    ck_assert_msg(!rc || rc == DS_ENOTFOUND, "%s", err.message);
    return dev;
}

static ds_vae *open_vae(ds_device *dev, int parts) {
    ds_vae *vae;
    ds_error err = {0};
    ck_assert_msg(!ds_vae_open(&vae, dev, VAE, NULL, parts, &err), "%s", err.message);
    return vae;
}

static float *golden(const char *name, size_t n) {
    ds_st *st;
    ds_error err = {0};
    const ds_st_tensor *t;
    float *x = ds_xmalloc(n * sizeof *x);
    ck_assert_msg(!ds_st_open_file(IO, 1 << 24, 0, &st, &err), "%s", err.message);
    t = ds_st_find(st, name);
    ck_assert(t && t->count == n && !ds_st_read_f32(st, t, x, &err));
    ds_st_free(st);
    return x;
}

/* Largest difference over the largest number. */
static double apart(const float *got, const float *want, size_t n) {
    double most = 0, top = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)got[i] - want[i]));
        top = fmax(top, fabs((double)want[i]));
        ck_assert(isfinite(got[i]));
    }
    return most / top;
}

enum { LATENTS = L * (H / F) * (W / F), PIXELS = H * W * 3 };

typedef struct {
    float mean[LATENTS], logvar[LATENTS], picture[PIXELS];
} result;

static void run(result *r, ds_device *dev) {
    ds_error err = {0};
    float *image = golden("image", PIXELS), *z = golden("z", LATENTS);
    ds_vae *vae = open_vae(dev, DS_VAE_ENCODER | DS_VAE_DECODER);
    ck_assert_msg(!ds_vae_encode(vae, image, H, W, r->mean, r->logvar, &err), "%s", err.message);
    ck_assert_msg(!ds_vae_decode(vae, z, H / F, W / F, r->picture, &err), "%s", err.message);
    ds_vae_free(vae);
    free(image);
    free(z);
}

/* Twenty layers of f32, each losing a few units of 2^-24 against the other order of its sums: 1e-5
 * leaves an order of magnitude below the 1e-4 that is promised. */
static const struct {
    const char *kind, *isa;
    enum ds_precision precision;
} devices[] = {{"ref", NULL, DS_PRECISION_F32},
               {"cpu", "avx2", DS_PRECISION_F32},
               {"cpu", "avx512", DS_PRECISION_F32},
               {"cpu", "avx2", DS_PRECISION_BF16},
               {"cpu", "avx512bf16", DS_PRECISION_BF16}};

START_TEST(as_diffusers) {
    ds_device *dev = open_device(devices[_i].kind, devices[_i].isa, devices[_i].precision, 2);
    if (!dev) {
        ds_test_skip("as_diffusers", "this processor has no such instructions");
        return;
    }
    result r;
    float *mean = golden("mean", LATENTS), *logvar = golden("logvar", LATENTS),
          *picture = golden("decoded", PIXELS);
    run(&r, dev);
    double e[3] = {apart(r.mean, mean, LATENTS), apart(r.logvar, logvar, LATENTS),
                   apart(r.picture, picture, PIXELS)};
    ck_assert_msg(e[0] < 1e-5 && e[1] < 1e-5 && e[2] < 1e-5, "mean %g, logvar %g, picture %g", e[0],
                  e[1], e[2]);
    free(mean);
    free(logvar);
    free(picture);
    ds_device_close(dev);
}
END_TEST

/* The same bytes: also on a bf16 device, where the VAE computes in f32. */
START_TEST(threads_and_precision_change_nothing) {
    static result want, got;
    ds_device *dev = open_device("cpu", NULL, DS_PRECISION_F32, 1);
    run(&want, dev);
    ds_device_close(dev);
    for (int i = 0; i < 2; i++) {
        dev = open_device("cpu", NULL, i ? DS_PRECISION_BF16 : DS_PRECISION_F32, 2);
        run(&got, dev);
        ck_assert(!memcmp(&want, &got, sizeof got));
        ds_device_close(dev);
    }
}
END_TEST

/* Strips of four rows give the bytes that whole layers give, and ask for less memory. */
START_TEST(strips_are_exact) {
    enum { BH = 40, BW = 56, BP = BH * BW * 3, BL = L * (BH / F) * (BW / F) };
    static float image[BP], mean[2][BL], logvar[2][BL], out[2][BP];
    ds_error err = {0};
    ds_device *dev = open_device("cpu", NULL, DS_PRECISION_F32, 2);
    size_t frame[2];
    for (int i = 0; i < BP; i++)
        image[i] = sinf((float)i * 0.013f) * cosf((float)(i % (BW * 3)) * 0.2f);
    for (int i = 0; i < 2; i++) {
        ds_vae *vae = open_vae(dev, DS_VAE_ENCODER | DS_VAE_DECODER);
        if (i)
            vae->frame_floats = 1;
        ck_assert(!ds_vae_encode(vae, image, BH, BW, mean[i], logvar[i], &err));
        ck_assert(!ds_vae_decode(vae, mean[0], BH / F, BW / F, out[i], &err));
        frame[i] = vae->have[VAE_FRAME];
        ds_vae_free(vae);
    }
    ds_device_close(dev);
    ck_assert(frame[1] < frame[0] / 4);
    ck_assert(!memcmp(mean[0], mean[1], sizeof mean[0]));
    ck_assert(!memcmp(logvar[0], logvar[1], sizeof logvar[0]));
    ck_assert(!memcmp(out[0], out[1], sizeof out[0]));
}
END_TEST

/* 8 bits: in as x / 127.5 - 1, out as clamp(127.5 x + 128) cut off. */
START_TEST(eight_bits) {
    ds_device *dev = open_device("cpu", NULL, DS_PRECISION_F32, 1);
    ds_vae *vae = open_vae(dev, DS_VAE_ENCODER | DS_VAE_DECODER);
    static uint8_t rgb[PIXELS];
    static float image[PIXELS], a[2][LATENTS], b[2][LATENTS];
    ds_error err = {0};
    for (int i = 0; i < PIXELS; i++) {
        rgb[i] = (uint8_t)(i * 37 % 256);
        image[i] = (float)rgb[i] / 127.5f - 1.0f;
    }
    ck_assert(!ds_vae_encode(vae, image, H, W, a[0], a[1], &err));
    ck_assert(!ds_vae_encode_u8(vae, rgb, H, W, b[0], b[1], &err));
    ck_assert(!memcmp(a, b, sizeof a));
    static const float far[3] = {-1, 0, 1}; /* so that both ends are reached */
    const ds_vae_list *l = vae->list[1];
    dev->upload(dev, l->steps[l->count - 1].conv[0].bias, far, sizeof far);
    ck_assert(!ds_vae_decode(vae, a[0], H / F, W / F, image, &err));
    ck_assert(!ds_vae_decode_u8(vae, a[0], H / F, W / F, rgb, &err));
    int low = 0, high = 0;
    for (int i = 0; i < PIXELS; i++) {
        double v = floor(127.5f * image[i] + 128.0f);
        ck_assert_int_eq(rgb[i], v < 0 ? 0 : v > 255 ? 255 : (int)v);
        low += v < 0;
        high += v > 255;
    }
    ck_assert(low > 0 && high > 0);
    ds_vae_free(vae);
    ds_device_close(dev);
}
END_TEST

START_TEST(sizes_are_checked) {
    ds_device *dev = open_device("cpu", NULL, DS_PRECISION_F32, 1);
    ds_vae *vae = open_vae(dev, DS_VAE_ENCODER | DS_VAE_DECODER);
    float x[16] = {0};
    ds_error err = {0};
    ck_assert_int_eq(ds_vae_encode(vae, x, 6, 8, x, x, &err), DS_EINVAL);
    ck_assert(strstr(err.message, "steps of 4, not 8x6"));
    ck_assert_int_eq(ds_vae_encode(vae, x, 8192, 8, x, x, &err), DS_EINVAL);
    ck_assert_int_eq(ds_vae_decode(vae, x, 0, 1, x, &err), DS_EINVAL);
    ck_assert_int_eq(ds_vae_decode(vae, x, 1 << 30, 1, x, &err), DS_EINVAL);
    ds_vae_free(vae);
    ds_device_close(dev);
}
END_TEST

/* What the plan of a small machine stands on: sd-vae-ft-ema, the decoder at 512 px below 900 MiB.
 */
START_TEST(memory_is_planned) {
    ds_vae_config c;
    ds_error err = {0};
    ck_assert(
        !ds_vae_config_parse(&c, "sd",
                             "{\"in_channels\":3,\"out_channels\":3,\"latent_channels\":4,"
                             "\"block_out_channels\":[128,256,512,512],\"layers_per_block\":2,"
                             "\"norm_num_groups\":32}",
                             &err));
    ck_assert_int_eq(ds_vae_factor(&c), 8);
    ck_assert(fabs(c.scaling_factor - 0.18215) < 1e-12);
    ds_device *dev = open_device("cpu", NULL, DS_PRECISION_F32, 1);
    size_t d256 = ds_vae_bytes(dev, &c, DS_VAE_DECODER, 256, 256) >> 20,
           d512 = ds_vae_bytes(dev, &c, DS_VAE_DECODER, 512, 512) >> 20,
           e256 = ds_vae_bytes(dev, &c, DS_VAE_ENCODER, 256, 256) >> 20,
           e512 = ds_vae_bytes(dev, &c, DS_VAE_ENCODER, 512, 512) >> 20;
    printf("sd-vae-ft-ema, MiB with weights: encode 256 px %zu, 512 px %zu; decode %zu, %zu\n",
           e256, e512, d256, d512);
    ck_assert(d256 < 420 && d512 < 900 && e256 < 320 && e512 < 700);
    ds_device_close(dev);
}
END_TEST

static void tensor_seen(void *user, const char *name, int ndim, const int64_t *shape) {
    size_t *total = user, n = 1;
    (void)name;
    for (int i = 0; i < ndim; i++)
        n *= (size_t)shape[i];
    total[0]++;
    total[1] += n;
}

/* 248 tensors with 83,653,863 numbers, as the published file. */
START_TEST(sd_has_its_tensors) {
    ds_vae_config c = {3, 3, 4, 4, {128, 256, 512, 512}, 2, 32, 0.18215};
    size_t total[2] = {0, 0};
    ds_vae_tensors(&c, tensor_seen, total);
    ck_assert_uint_eq(total[0], 248);
    ck_assert_uint_eq(total[1], 83653863);
}
END_TEST

static void refuse(const char *why, int (*change)(ds_st_writer *, const ds_st *), int code) {
    ds_st *st, *bad;
    ds_error err = {0};
    char *bytes;
    size_t n;
    ds_vae *vae = NULL;
    ds_st_writer *w = ds_st_writer_new();
    ck_assert(!ds_st_open_file(VAE, 1 << 24, 0, &st, &err));
    int keep_meta = change(w, st);
    if (keep_meta)
        ds_st_writer_meta(w, "diffscaler.vae", ds_st_meta(st, "diffscaler.vae"));
    ck_assert(!ds_st_writer_finish(w, &bytes, &n, &err));
    ck_assert(!ds_st_open_owned("changed", bytes, n, &bad, &err));
    ds_device *dev = open_device("cpu", NULL, DS_PRECISION_F32, 1);
    ck_assert_int_eq(ds_vae_new(&vae, dev, bad, DS_VAE_ENCODER | DS_VAE_DECODER, &err), code);
    ck_assert_msg(strstr(err.message, why), "'%s' is not in '%s'", why, err.message);
    ds_device_close(dev);
    ds_st_free(bad);
    ds_st_free(st);
    ds_st_writer_free(w);
}

static void copy(ds_st_writer *w, const ds_st *st, size_t from) {
    for (size_t i = from; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        ds_st_writer_add(w, t->name, t->dtype, t->ndim, t->shape, t->data);
    }
}

static int one_less(ds_st_writer *w, const ds_st *st) {
    copy(w, st, 1);
    return 1;
}

static int one_more(ds_st_writer *w, const ds_st *st) {
    copy(w, st, 0);
    static const float x[8] = {0};
    int64_t shape[1] = {8};
    ds_st_writer_add(w, "one_more", DS_ST_F32, 1, shape, x);
    return 1;
}

static int no_config(ds_st_writer *w, const ds_st *st) {
    copy(w, st, 0);
    return 0;
}

static int bad_config(ds_st_writer *w, const ds_st *st) {
    copy(w, st, 0);
    ds_st_writer_meta(w, "diffscaler.vae",
                      "{\"in_channels\":3,\"out_channels\":3,\"latent_channels\":4,"
                      "\"block_out_channels\":[8,9,16],\"layers_per_block\":1,"
                      "\"norm_num_groups\":4}");
    return 0;
}

static int misshapen(ds_st_writer *w, const ds_st *st) {
    copy(w, st, 1);
    static const float x[8] = {0};
    int64_t shape[1] = {8};
    ds_st_writer_add(w, "one_more", DS_ST_F32, 1, shape, x);
    return 1;
}

START_TEST(other_files_are_refused) {
    refuse("tensors; its configuration needs", one_less, DS_EINTEGRITY);
    refuse("tensors; its configuration needs", one_more, DS_EINTEGRITY);
    refuse("has no 'diffscaler.vae'", no_config, DS_EINTEGRITY);
    refuse("block_out_channels[1] is 9", bad_config, DS_EINVAL);
    refuse("bias", misshapen, DS_EINTEGRITY);
}
END_TEST

START_TEST(digest_is_checked) {
    ds_device *dev = open_device("cpu", NULL, DS_PRECISION_F32, 1);
    ds_vae *vae = NULL;
    ds_error err = {0};
    char zeros[DS_HEX_SIZE];
    memset(zeros, '0', 64);
    zeros[64] = 0;
    ck_assert_int_eq(ds_vae_open(&vae, dev, VAE, zeros, DS_VAE_DECODER, &err), DS_EINTEGRITY);
    ck_assert(strstr(err.message, "has changed"));
    char sha[DS_HEX_SIZE];
    ck_assert(!ds_digest_file(VAE, sha, &err));
    ck_assert(!ds_vae_open(&vae, dev, VAE, sha, DS_VAE_DECODER, &err));
    ck_assert_str_eq(ds_vae_sha256(vae), sha);
    ds_vae_free(vae);
    ds_device_close(dev);
}
END_TEST

/* ---------------------------------------------------------------- bounds, and no room */

START_TEST(bounds_of_pictures) {
    ds_device *dev = open_device("cpu", NULL, DS_PRECISION_F32, 1);
    ds_vae *vae = open_vae(dev, DS_VAE_ENCODER | DS_VAE_DECODER);
    static float x[4 * 4 * 3], a[L], b[L];
    static uint8_t rgb[4 * 4 * 3];
    static const int sides[][2] = {{3, 4}, {4, 3},    {0, 4},    {4, 0},
                                   {4, 6}, {4100, 4}, {4, 4100}, {-4, 4}};
    ds_error err = {0};
    for (size_t i = 0; i < sizeof sides / sizeof *sides; i++) {
        ck_assert_int_eq(ds_vae_encode(vae, x, sides[i][0], sides[i][1], a, b, &err), DS_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.message, "of 4 to 4096 pixels a side in steps of 4"));
        ck_assert_int_eq(ds_vae_encode_u8(vae, rgb, sides[i][0], sides[i][1], a, b, &err),
                         DS_EINVAL);
    }
    static const int latents[][2] = {{0, 1}, {1, 0}, {1025, 1}, {1, 1025}, {-1, 1}};
    for (size_t i = 0; i < sizeof latents / sizeof *latents; i++) {
        ck_assert_int_eq(ds_vae_decode(vae, x, latents[i][0], latents[i][1], x, &err), DS_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.message, "latents of 1 to 1024 a side"));
    }
    ck_assert_int_eq(ds_vae_encode(vae, x, 4, 4, a, b, &err), 0);
    ck_assert_int_eq(ds_vae_decode(vae, a, 1, 1, x, &err), 0);
    ck_assert_int_eq(ds_vae_decode_u8(vae, a, 1, 1, rgb, &err), 0);
    memset(rgb, 7, sizeof rgb);
    ck_assert_int_eq(ds_vae_decode_u8(vae, a, 1025, 0, rgb, &err), DS_EINVAL);
    ck_assert_int_eq(rgb[0], 7);
    /* log variances stay in [-30, 20] */
    float bias[2 * L] = {0, 0, 0, 0, -1000, 1000, -29, 19};
    const ds_vae_list *l = vae->list[0];
    dev->upload(dev, l->steps[l->count - 1].conv[0].bias, bias, sizeof bias);
    ck_assert_int_eq(ds_vae_encode(vae, x, 4, 4, a, b, &err), 0);
    ck_assert(b[0] == -30 && b[1] == 20 && b[2] > -30 && b[2] < 20 && b[3] > -30 && b[3] < 20);
    ds_vae_free(vae);
    ds_device_close(dev);
}
END_TEST

static void *(*alloc)(ds_device *dev, size_t bytes);

static int alloc_calls, alloc_fails;

static void *failing_alloc(ds_device *dev, size_t bytes) {
    return ++alloc_calls == alloc_fails ? NULL : alloc(dev, bytes);
}

/* The n-th allocation of an opening, and of the first picture, finds no room. */
START_TEST(no_room_is_said) {
    ds_device *dev = open_device("cpu", NULL, DS_PRECISION_F32, 1);
    static float x[8 * 8 * 3], z[2][4 * L];
    ds_error err = {0};
    ds_vae *vae;
    alloc = dev->alloc;
    dev->alloc = failing_alloc;
    ds_vae_free(open_vae(dev, DS_VAE_ENCODER));
    int calls = alloc_calls;
    ck_assert_int_gt(calls, 20);
    for (int n = 1; n <= calls; n++) {
        alloc_calls = 0;
        alloc_fails = n;
        ck_assert_int_eq(ds_vae_open(&vae, dev, VAE, NULL, DS_VAE_ENCODER, &err), DS_ENOMEM);
        ck_assert_str_eq(err.message, "not enough device memory for the weights of the VAE");
    }
    alloc_fails = 0;
    vae = open_vae(dev, DS_VAE_ENCODER);
    for (int n = 1;; n++) {
        alloc_calls = 0;
        alloc_fails = n;
        int rc = ds_vae_encode(vae, x, 8, 8, z[0], z[1], &err);
        if (!rc)
            break;
        ck_assert_int_eq(rc, DS_ENOMEM);
        ck_assert_ptr_nonnull(strstr(err.message, "not enough device memory for a 8x8 picture"));
        ck_assert_int_lt(n, 20);
    }
    static float big[16 * 16 * 3], wide[2][16 * L]; /* no room for more: what fitted still does */
    for (int n = 1;; n++) {
        alloc_calls = 0;
        alloc_fails = n;
        if (!ds_vae_encode(vae, big, 16, 16, wide[0], wide[1], &err))
            break;
        alloc_fails = 0;
        ck_assert_int_eq(ds_vae_encode(vae, x, 8, 8, z[0], z[1], &err), 0);
        ck_assert_int_lt(n, 20);
    }
    ds_vae_free(vae);
    static uint8_t rgb[8 * 8 * 3];
    alloc_fails = 0;
    vae = open_vae(dev, DS_VAE_ENCODER | DS_VAE_DECODER);
    alloc_calls = 0;
    alloc_fails = 1;
    ck_assert_int_eq(ds_vae_encode_u8(vae, rgb, 8, 8, z[0], z[1], &err), DS_ENOMEM);
    alloc_calls = 0;
    ck_assert_int_eq(ds_vae_decode_u8(vae, z[0], 2, 2, rgb, &err), DS_ENOMEM);
    ds_vae_free(vae);
    dev->alloc = alloc;
    ds_device_close(dev);
}
END_TEST

static int not_finite(ds_st_writer *w, const ds_st *st) {
    float x[64] = {0, 0, NAN};
    copy(w, st, 1);
    const ds_st_tensor *t = ds_st_at(st, 0);
    ck_assert(t->count > 2 && t->count <= 64);
    ds_st_writer_add_f32(w, t->name, DS_ST_F32, t->ndim, t->shape, x);
    return 1;
}

static int broken_config(ds_st_writer *w, const ds_st *st) {
    copy(w, st, 0);
    ds_st_writer_meta(w, "diffscaler.vae", "{");
    return 0;
}

START_TEST(numbers_of_a_vae_are_finite) {
    refuse("has numbers that are not finite", not_finite, DS_EINTEGRITY);
    refuse("changed", broken_config, DS_EINVAL);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, bounds_of_pictures);
    tcase_add_test(tc, no_room_is_said);
    tcase_add_test(tc, numbers_of_a_vae_are_finite);
    tcase_add_loop_test(tc, as_diffusers, 0, sizeof devices / sizeof devices[0]);
    tcase_add_test(tc, threads_and_precision_change_nothing);
    tcase_add_test(tc, strips_are_exact);
    tcase_add_test(tc, eight_bits);
    tcase_add_test(tc, sizes_are_checked);
    tcase_add_test(tc, memory_is_planned);
    tcase_add_test(tc, sd_has_its_tensors);
    tcase_add_test(tc, other_files_are_refused);
    tcase_add_test(tc, digest_is_checked);
}

int main(void) { return ds_test_main("engine_vae", register_cases); }
