/* tests/engine/test_engine_base.c - shapes that a base may have, files that are no base or a damaged one,
 * and adapters that cannot share a batch. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/diffusion/sampler.h"
#include "engine/model/net.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGES = 1, DEPTH = 1 };
#include "tests/fixtures/engine_small.h"

static const struct {
    const char *words;
    size_t at; /* of the member */
    int least, most;
} limits[] = {
#define LIMIT(name, least, most)                                                                   \
    { #name " is", offsetof(ds_dit_config, name), least, most }
    LIMIT(channels, 1, 64),      LIMIT(side, 1, 1024),           LIMIT(patch, 1, 64),
    LIMIT(width, 8, 8192),       LIMIT(depth, 1, 256),           LIMIT(heads, 1, 128),
    LIMIT(classes, 0, 10000000), LIMIT(mlp_ratio, 1, 16),        LIMIT(freq_dim, 2, 4096),
    LIMIT(learn_sigma, 0, 1),    LIMIT(train_steps, 2, 100000),  LIMIT(time_shift, 0, 1),
    LIMIT(pixel, 0, 1),          LIMIT(guidance_channels, 0, 3), LIMIT(norm2_eps_e6, 0, 1000000),
};

static void expect_shape(const ds_dit_config *c, const char *words) {
    ds_error err = {0};
    int rc = ds_dit_check(c, &err);
    ck_assert_msg((rc != 0) == (words != NULL), "%s: %s", words ? words : "good", err.message);
    if (rc) {
        ck_assert_int_eq(rc, DS_EINVAL);
        ck_assert_msg(strstr(err.message, words) != NULL, "'%s' has no '%s'", err.message, words);
    }
}

START_TEST(shapes_have_limits) {
    ds_dit_config c = config;
    int value;
    expect_shape(&c, NULL);
    for (int k = 0; k < 4; k++) {
        int outside = k / 2;
        value = k % 2 ? limits[_i].most + outside : limits[_i].least - outside;
        c = config;
        memcpy((char *)&c + limits[_i].at, &value, sizeof value);
        /* what must fit together follows */
        if (limits[_i].at == offsetof(ds_dit_config, patch) && value > 0)
            c.side = 2 * value;
        if (limits[_i].at == offsetof(ds_dit_config, side))
            c.patch = 1;
        if (limits[_i].at == offsetof(ds_dit_config, heads))
            c.width = 512;
        expect_shape(&c, outside ? limits[_i].words : NULL);
    }
}
END_TEST

START_TEST(numbers_of_a_shape_fit_together) {
    ds_dit_config c = config;
    c.patch = 3;
    expect_shape(&c, "side 8 is not a multiple of patch 3");
    c = config;
    c.heads = 3;
    expect_shape(&c, "of heads 3");
    c = config;
    c.width = 30; /* of 2 heads, but not of 4 */
    expect_shape(&c, "multiple of 4");
    c = config;
    c.freq_dim = 63;
    expect_shape(&c, "freq_dim 63 is odd");
    static const double scales[] = {-1, 1001, NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        c = config;
        c.latent_scale = scales[i];
        expect_shape(&c, "latent_scale");
    }
    c = config;
    c.latent_scale = 1000;
    expect_shape(&c, NULL);
    c = config;
    c.guidance_channels = 4;
    expect_shape(&c, "guidance_channels is 4, must be 0 to 3");
}
END_TEST

/* A copy of a good file with one thing changed. */
enum { WHOLE, NO_CONFIG, BAD_CONFIG, DROPPED, ADDED, INTEGER, SHORTER, NOT_FINITE, CHANGES };

static void write_changed(const char *from, const char *to, int how) {
    char *bytes, *out;
    size_t n, m;
    ds_st *st;
    static float numbers[1 << 16];
    ds_st_writer *w = ds_st_writer_new();
    ck_assert_int_eq(ds_fs_read(from, 1 << 26, &bytes, &n, NULL), 0);
    ck_assert_int_eq(ds_st_open_memory("base", bytes, n, &st, NULL), 0);
    for (size_t i = 0; i < ds_st_meta_count(st); i++) {
        const char *key = ds_st_meta_key(st, i);
        if (how == NO_CONFIG && !strcmp(key, "diffscaler.config"))
            continue;
        ds_st_writer_meta(w, key,
                          how == BAD_CONFIG && !strcmp(key, "diffscaler.config")
                              ? "{\"width\":-1}"
                              : ds_st_meta(st, key));
    }
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        int hit = !strcmp(t->name, "final_layer.linear.bias");
        int64_t shape[DS_ST_DIMS_MAX];
        memcpy(shape, t->shape, sizeof shape);
        if (hit && how == DROPPED)
            continue;
        shape[0] -= hit && how == SHORTER;
        ck_assert_int_eq(ds_st_read_f32(st, t, numbers, NULL), 0);
        if (hit && how == NOT_FINITE)
            numbers[0] = NAN;
        if (hit && how == INTEGER)
            ds_st_writer_add(w, t->name, DS_ST_I32, t->ndim, shape, t->data);
        else
            ds_st_writer_add_f32(w, t->name, t->dtype, t->ndim, shape, numbers);
    }
    if (how == ADDED)
        ds_st_writer_add_f32(w, "one.more", DS_ST_F32, 1, (int64_t[]){2}, numbers);
    ck_assert_int_eq(ds_st_writer_finish(w, &out, &m, NULL), 0);
    ck_assert_int_eq(ds_fs_write(to, out, m, NULL), 0);
    ds_st_writer_free(w);
    ds_st_free(st);
    free(out);
    free(bytes);
}

START_TEST(files_that_are_no_base) {
    static const struct {
        int code;
        const char *words;
    } want[CHANGES] = {
        [WHOLE] = {0, ""},
        [NO_CONFIG] = {DS_EINVAL, "no 'diffscaler.config'"},
        [BAD_CONFIG] = {DS_EINVAL, ""},
        [DROPPED] = {DS_EINTEGRITY, ""},
        [ADDED] = {DS_EINTEGRITY, ""},
        [INTEGER] = {DS_EINTEGRITY, "final_layer.linear.bias"},
        [SHORTER] = {DS_EINTEGRITY, "final_layer.linear.bias"},
        [NOT_FINITE] = {0, ""}, /* asked of an import; a step that it spoils says so */
    };
    char good[PATH_MAX], path[PATH_MAX], sha[DS_HEX_SIZE];
    ds_base *b = base_without_zeros();
    ds_error err = {0};
    ds_fs_join(good, sizeof good, ds_test_tmpdir(), "good.safetensors");
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "changed.safetensors");
    ck_assert_int_eq(ds_base_save(b, good, 0, NULL, NULL), 0);
    ds_base_free(b);
    write_changed(good, path, _i);
    int rc = ds_base_open(&b, path, NULL, &err);
    ck_assert_msg(rc == want[_i].code, "change %d: %d, must be %d: %s", _i, rc, want[_i].code,
                  err.message);
    ck_assert_msg(strstr(err.message, want[_i].words) != NULL, "change %d: %s", _i, err.message);
    if (!rc)
        ds_base_free(b);
    if (_i)
        return;
    ck_assert_int_eq(ds_digest_file(good, sha, NULL), 0);
    ck_assert_int_eq(ds_base_open(&b, good, sha, &err), 0);
    ck_assert_str_eq(b->sha256, sha);
    ck_assert_int_eq(ds_dit_config_of(b)->width, config.width);
    ds_base_free(b);
    sha[0] = sha[0] == '0' ? '1' : '0';
    ck_assert_int_eq(ds_base_open(&b, good, sha, &err), DS_EINTEGRITY);
    ck_assert(strstr(err.message, sha) != NULL);
    ck_assert_int_eq(ds_base_open(&b, "/none/base", NULL, &err), DS_ENOTFOUND);
}
END_TEST

/* Side in scales the shared input, method full replaces the weights: neither can be stacked. */
START_TEST(adapters_that_cannot_share_a_batch) {
    const ds_device_options f32 = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    const ds_method_spec specs[] = {
        {.method = DS_METHOD_AFFINER, .rank = 2, .targets = DS_TARGET_FC2, .classes = CLASSES},
        {.method = DS_METHOD_AFFINER,
         .rank = 2,
         .side_in = 1,
         .targets = DS_TARGET_FC2,
         .classes = CLASSES},
        {.method = DS_METHOD_FULL, .classes = CLASSES}};
    ds_device *dev;
    ds_model *model;
    ds_adapter *a[3];
    ds_net *net;
    ds_error err;
    ds_base *b = base_without_zeros();
    ck_assert_int_eq(ds_device_open(&dev, &f32, NULL), 0);
    ck_assert_int_eq(ds_model_new(&model, dev, b, NULL), 0);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(ds_adapter_new(&a[i], b, &specs[i], NULL), 0);
    for (int i = 0; i < 3; i++) {
        const ds_adapter *pair[] = {a[0], a[i]};
        static const enum ds_net_kind kinds[] = {DS_NET_STACKED, DS_NET_FOLDED};
        for (int k = 0; k < 2; k++) {
            int fits = i == 0 || (i == 1 && k == 1);
            int rc = ds_net_new(&net, model, kinds[k], pair, 2, 4, &err);
            ck_assert_msg((rc == 0) == fits, "adapter %d, kind %d: %d", i, k, rc);
            if (rc) {
                ck_assert_int_eq(rc, DS_EINVAL);
                ck_assert(strstr(err.message, "cannot share a batch") != NULL);
            } else
                ds_net_free(net);
        }
    }
    for (int i = 0; i < 3; i++)
        ds_adapter_free(a[i]);
    ds_model_free(model);
    ds_base_free(b);
    ds_device_close(dev);
}
END_TEST

/* The n-th allocation finds no room, of memory or of a weight: said, and nothing is left behind. */
static void *(*alloc)(ds_device *dev, size_t bytes);
static ds_weight *(*weight_new)(ds_device *dev, int m, int n, int f32, int grad);
static int calls, fails;
static void *failing_alloc(ds_device *dev, size_t bytes) {
    return ++calls == fails ? NULL : alloc(dev, bytes);
}
static ds_weight *failing_weight(ds_device *dev, int m, int n, int f32, int grad) {
    return ++calls == fails ? NULL : weight_new(dev, m, n, f32, grad);
}
static int failing_weights(ds_device *dev, int m, int n, int count, ds_weight **each,
                           ds_weight **all) {
    (void)dev, (void)m, (void)n, (void)count, (void)each, (void)all;
    return 1;
}

START_TEST(nets_without_room) {
    const ds_device_options f32 = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    const ds_method_spec spec = {
        .method = DS_METHOD_AFFINER, .rank = 2, .targets = DS_TARGET_FC2, .classes = CLASSES};
    ds_device *dev;
    ds_model *model;
    ds_adapter *a;
    ds_net *net;
    ds_error err;
    ds_base *b = base_without_zeros();
    ck_assert_int_eq(ds_device_open(&dev, &f32, NULL), 0);
    ck_assert_int_eq(ds_model_new(&model, dev, b, NULL), 0);
    ck_assert_int_eq(ds_adapter_new(&a, b, &spec, NULL), 0);
    const ds_adapter *pair[] = {a, a};
    alloc = dev->alloc;
    weight_new = dev->weight_new;
    dev->alloc = failing_alloc;
    dev->weight_new = failing_weight;
    static const struct {
        enum ds_net_kind kind;
        int count;
    } kinds[] = {{DS_NET_INFER, 0},
                 {DS_NET_INFER, 1},
                 {DS_NET_STACKED, 2},
                 {DS_NET_FOLDED, 2},
                 {DS_NET_TRAIN, 1}};
    for (int k = 0; k < 5; k++) {
        calls = fails = 0;
        ck_assert_int_eq(ds_net_new(&net, model, kinds[k].kind, pair, kinds[k].count, 2, &err), 0);
        ds_net_free(net);
        int most = calls;
        ck_assert_int_gt(most, 20); /* ten layers, two each */
        for (fails = 1; fails <= most; fails++) {
            calls = 0;
            ck_assert_msg(ds_net_new(&net, model, kinds[k].kind, pair, kinds[k].count, 2, &err) ==
                              DS_ENOMEM,
                          "kind %d, allocation %d of %d", k, fails, most);
            ck_assert_uint_gt(strlen(err.message), 20);
        }
    }
    fails = 0;
    dev->weights_new = failing_weights; /* one weight for all tasks */
    ck_assert_int_eq(ds_net_new(&net, model, DS_NET_FOLDED, pair, 2, 2, &err), DS_ENOMEM);
    ck_assert_msg(strstr(err.message, "of 2 tasks") != NULL, "%s", err.message);
    ck_assert_int_eq(ds_net_new(&net, model, DS_NET_FOLDED, pair, 1, 2, &err), 0); /* not of one */
    ds_net_free(net);
    dev->weights_new = NULL;
    dev->host_memory = 0; /* a device that needs a copy of the base */
    ds_model *copy;
    calls = 0;
    fails = 1;
    ck_assert_int_eq(ds_model_new(&copy, dev, b, &err), DS_ENOMEM);
    ck_assert_msg(strstr(err.message, "the base") != NULL, "%s", err.message);
    fails = 0;
    ck_assert_int_eq(ds_model_new(&copy, dev, b, &err), 0);
    ck_assert(!memcmp(copy->data, b->data, b->table.total * sizeof(float)));
    ds_model_free(copy);
    ds_adapter_free(a);
    ds_model_free(model);
    ds_base_free(b);
    ds_device_close(dev);
}
END_TEST

/* A configuration as text and back: every field, those that came later with what they mean where
 * they are not said. */
START_TEST(configurations_as_text) {
    static const char *const fields[] = {
        "channels",  "side",        "patch",       "width",    "depth",      "heads",
        "mlp_ratio", "classes",     "learn_sigma", "freq_dim", "time_shift", "guidance_channels",
        "pixel",     "train_steps", "beta_start",  "beta_end"};
    ds_dit_config c = config, back;
    ds_error err;
    c.latent_scale = 0.25;
    c.norm2_eps_e6 = 7;
    c.guidance_channels = 2;
    c.time_shift = 1;
    json_t *doc = ds_dit_config_to_json(&c);
    char *text = ds_json_canonical(doc);
    ck_assert_int_eq(ds_dit_config_from_json(&back, "a", text, &err), 0);
    ck_assert(!memcmp(&c, &back, sizeof c));
    free(text);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        json_t *less = json_deep_copy(doc);
        json_object_del(less, fields[i]);
        text = ds_json_canonical(less);
        ck_assert_msg(ds_dit_config_from_json(&back, "a.st", text, &err) != 0, "%s", fields[i]);
        ck_assert_msg(strstr(err.message, fields[i]) && !strncmp(err.message, "base 'a.st'", 11),
                      "%s", err.message);
        json_decref(less);
        free(text);
    }
    json_object_del(doc, "norm2_eps_e6");
    json_object_del(doc, "latent_scale");
    for (int pixel = 0; pixel < 2; pixel++) {
        json_object_set_new(doc, "pixel", json_integer(pixel));
        text = ds_json_canonical(doc);
        ck_assert_int_eq(ds_dit_config_from_json(&back, "a", text, &err), 0);
        ck_assert(back.norm2_eps_e6 == 1 && back.latent_scale == (pixel ? 0 : 0.18215));
        free(text);
    }
    json_object_set_new(doc, "classes", json_integer(1LL << 40));
    text = ds_json_canonical(doc);
    ck_assert_int_eq(ds_dit_config_from_json(&back, "a", text, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "classes is -1"));
    free(text);
    json_decref(doc);
    ck_assert_int_ne(ds_dit_config_from_json(&back, "a", "{", &err), 0);
}
END_TEST

/* Matrices that stay in 16 bits: only bf16 is handed out as it lies there. */
START_TEST(matrices_in_16_bits) {
    static const enum ds_st_dtype types[] = {DS_ST_BF16, DS_ST_F16, DS_ST_F32};
    static float room[1 << 16];
    char path[PATH_MAX], *bytes;
    size_t n;
    ds_base *b, *is;
    ds_error err;
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "half.safetensors");
    for (int k = 0; k < 3; k++) {
        b = base_without_zeros();
        ds_st_writer *w = ds_st_writer_new();
        json_t *doc = ds_dit_config_to_json(&config);
        char *text = ds_json_canonical(doc);
        ds_st_writer_meta(w, "diffscaler.config", text);
        for (int i = 0; i < b->table.count; i++) {
            const ds_param *p = &b->table.items[i];
            int64_t shape[4] = {p->shape[0], p->shape[1], p->shape[2], p->shape[3]};
            ds_st_writer_add_f32(w, p->name, p->kind == DS_PARAM_WEIGHT ? types[k] : DS_ST_F32,
                                 p->ndim, shape, b->data + p->offset);
        }
        ck_assert_int_eq(ds_st_writer_finish(w, &bytes, &n, NULL), 0);
        ck_assert_int_eq(ds_fs_write(path, bytes, n, NULL), 0);
        for (int unpacked = 0; unpacked < 2; unpacked++) {
            ck_assert_msg(!ds_base_open_within(&is, path, NULL, unpacked ? SIZE_MAX : 0, &err),
                          "%s", err.message);
            for (int i = 0; i < is->table.count; i++) {
                const ds_param *p = &is->table.items[i];
                int stays = p->kind == DS_PARAM_WEIGHT && k < 2 && !unpacked;
                ck_assert_int_eq(ds_base_held(is, i) == NULL, stays);
                ck_assert_int_eq(ds_base_bf16(is, i) != NULL, stays && k == 0);
                const float *x = ds_base_values(is, i, room), *want = b->data + p->offset;
                for (size_t j = 0; j < p->count; j++) /* 8 bits of bf16, 11 of f16 */
                    ck_assert(fabsf(x[j] - want[j]) <= 0.004f * fabsf(want[j]) + 1e-6f);
            }
            ds_base_free(is);
        }
        ds_st_writer_free(w);
        json_decref(doc);
        free(text);
        free(bytes);
        ds_base_free(b);
    }
}
END_TEST

/* The spread that each tensor begins with: Xavier's for matrices, 0.02 for those of the time and for
 * the classes, nothing for biases and for what adaLN-Zero begins with. */
START_TEST(a_fresh_base) {
    ds_base *b;
    ck_assert_int_eq(ds_dit_base_new(&b, &config, 3, NULL), 0);
    int zero = 0, small = 0, xavier = 0;
    for (int i = 0; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i];
        if (p->kind == DS_PARAM_FIXED)
            continue;
        double sum = 0, out = p->shape[0], in = (double)p->count / out, want = 0;
        for (size_t j = 0; j < p->count; j++)
            sum += (double)b->data[p->offset + j] * (double)b->data[p->offset + j];
        const char *zeros[] = {"adaLN", "final_layer", "bias"}, *smalls[] = {"t_embedder", "y_emb"};
        int is_zero = 0, is_small = 0;
        for (int k = 0; k < 3; k++)
            is_zero |= strstr(p->name, zeros[k]) != NULL;
        for (int k = 0; k < 2; k++)
            is_small |= strstr(p->name, smalls[k]) != NULL;
        want = is_zero ? 0 : is_small ? 0.02 : sqrt(2 / (in + out));
        double is = sqrt(sum / (double)p->count), n = (double)p->count;
        /* the deviation of n draws: 1/sqrt(2n); 5 of them */
        ck_assert_msg(fabs(is - want) <= want * 5 / sqrt(2 * n), "%s: %g, not %g", p->name, is,
                      want);
        zero += is_zero, small += !is_zero && is_small, xavier += !is_zero && !is_small;
    }
    ck_assert_int_eq(small, 3);              /* two matrices of the time, the classes */
    ck_assert_int_eq(xavier, 1 + 4 * DEPTH); /* patches; qkv, proj, fc1, fc2 */
    ck_assert_int_gt(zero, 8);
    ds_base_free(b);
}
END_TEST

/* Stored in 16 bits: matrices, and nothing else. */
START_TEST(saved_in_16_bits) {
    char path[PATH_MAX];
    ds_error err;
    ds_st *st;
    ds_base *b = base_without_zeros();
    ds_fs_join(path, sizeof path, ds_test_tmpdir(), "saved.safetensors");
    for (int bf16 = 0; bf16 < 2; bf16++) {
        ck_assert_msg(!ds_base_save(b, path, bf16, NULL, &err), "%s", err.message);
        ck_assert_msg(!ds_st_open_file(path, 1 << 22, 0, &st, &err), "%s", err.message);
        for (int i = 0; i < b->table.count; i++) {
            const ds_param *p = &b->table.items[i];
            ck_assert_msg(ds_st_find(st, p->name)->dtype ==
                              (bf16 && p->kind == DS_PARAM_WEIGHT ? DS_ST_BF16 : DS_ST_F32),
                          "%s", p->name);
        }
        ds_st_free(st);
    }
    ds_base_free(b);
}
END_TEST

/* A device that records passes is told before the buffers that they use are gone or mean others. */
static const void *forgotten[8];
static int forgets;
static void note_forgotten(ds_device *dev, const void *owner) {
    (void)dev;
    forgotten[forgets++ % 8] = owner;
}

static size_t some_free;
static size_t free_now(ds_device *dev) {
    (void)dev;
    return some_free;
}

START_TEST(recorded_passes_are_forgotten) {
    const ds_device_options f32 = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    const ds_method_spec spec = {
        .method = DS_METHOD_AFFINER, .rank = 2, .targets = DS_TARGET_FC2, .classes = CLASSES};
    const ds_sample_options o = {
        .sampler = DS_SAMPLER_DDIM, .steps = 2, .guide = {2, 2}, .table_rows = -1};
    const ds_sample_request q = {.label = 1};
    uint8_t made[ONE];
    ds_device *dev;
    ds_model *model;
    ds_adapter *a;
    ds_net *net, *base;
    ds_error err;
    ds_base *b = base_without_zeros();
    ck_assert_int_eq(ds_device_open(&dev, &f32, NULL), 0);
    ck_assert_int_eq(ds_model_new(&model, dev, b, NULL), 0);
    ck_assert_int_eq(ds_adapter_new(&a, b, &spec, NULL), 0);
    const ds_adapter *one[] = {a};
    ck_assert_int_eq(ds_net_new(&net, model, DS_NET_INFER, one, 1, 2, &err), 0);
    ck_assert_int_eq(ds_net_new(&base, model, DS_NET_INFER, NULL, 0, 2, &err), 0);
    dev->forget = note_forgotten;
    ck_assert_msg(!ds_sample(made, NULL, net, base, &o, &q, 1, NULL, NULL, &err), "%s",
                  err.message);
    int own = 0, of_base = 0;
    for (int i = 0; i < forgets && i < 8; i++)
        own |= forgotten[i] == net, of_base |= forgotten[i] == base;
    ck_assert(own && of_base);
    /* half of what is free stays free */
    dev->free_bytes = free_now;
    size_t need = ds_net_table_bytes(b, dev, 3, ds_net_batch(net));
    ck_assert_uint_gt(need, 0);
    some_free = 2 * need - 2;
    ck_assert(ds_net_table_new(net, 3) == NULL);
    some_free = 2 * need;
    ds_net_table *t = ds_net_table_new(net, 3);
    ck_assert_ptr_nonnull(t);
    forgets = 0;
    ds_net_table_free(t);
    ck_assert(forgets == 1 && forgotten[0] == net);
    forgets = 0;
    ds_net_free(base);
    ck_assert(forgets == 1 && forgotten[0] == base);
    ds_net_free(net);
    ck_assert(forgets == 2 && forgotten[1] == net);
    dev->forget = NULL;
    dev->free_bytes = NULL;
    ds_adapter_free(a);
    ds_model_free(model);
    ds_base_free(b);
    ds_device_close(dev);
}
END_TEST

static void cases(TCase *tc) {
    label_images();
    tcase_add_test(tc, a_fresh_base);
    tcase_add_test(tc, saved_in_16_bits);
    tcase_add_test(tc, recorded_passes_are_forgotten);
    tcase_add_test(tc, matrices_in_16_bits);
    tcase_add_test(tc, nets_without_room);
    tcase_add_test(tc, configurations_as_text);
    tcase_add_loop_test(tc, shapes_have_limits, 0, (int)(sizeof limits / sizeof *limits));
    tcase_add_test(tc, numbers_of_a_shape_fit_together);
    tcase_add_loop_test(tc, files_that_are_no_base, 0, CHANGES);
    tcase_add_test(tc, adapters_that_cannot_share_a_batch);
}

int main(void) { return ds_test_main("engine_base", cases); }
