/* tests/engine/test_engine_parity.c - files as PyTorch and diffusers write them, read by us, compute what
 * they compute there: output and the gradient of every adapter value.  Made by
 * tools/parity/make_dit_golden.py. */
#include "base/mem.h"
#include "engine/model/dit.h"
#include "engine/names/dit_names.h"
#include "engine/model/net.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANK = 2, ROWS = 3, B = 3, VARIANTS = 3 };

static const struct {
    const char *folder, *source, *format, *wrapper;
    int heads; /* given, as a person must for such a shape */
} cases[] = {
    {"facebook", "facebook/model.pt", "PyTorch zip", "ema", 2},
    {"facebook-old", "facebook-old/model.pth", "PyTorch pickle", "", 3},
    {"facebook-bf16", "facebook-bf16/model.bin", "PyTorch zip", "state_dict", 5},
    {"diffusers", "diffusers", "safetensors shards", "", 0},
    {"diffusers-bin", "diffusers-bin", "PyTorch zip", "", 0},
    {"diffusers-fp16", "diffusers-fp16/transformer", "safetensors", "", 0},
};
enum { CASES = sizeof cases / sizeof cases[0] };

static const char *const variants[VARIANTS] = {"out", "in", "relu"};

static ds_st *golden;

static float *need(const char *a, const char *b, const char *c, size_t count) {
    char key[200];
    snprintf(key, sizeof key, "%s%s%s", a, b, c);
    const ds_st_tensor *t = ds_st_find(golden, key);
    ck_assert_msg(t && t->count == count, "golden tensor %s of %zu values is missing", key, count);
    float *x = ds_xmalloc(count * sizeof *x);
    ck_assert_int_eq(ds_st_read_f32(golden, t, x, NULL), 0);
    return x;
}

static void in_golden(char out[512], const char *name) {
    snprintf(out, 512, "tests/golden/dit-parity/%s", name);
}

static void check_config(const ds_dit_config *c) {
    json_t *want;
    const char *text = ds_st_meta(golden, "config"), *key;
    const json_t *v;
    ck_assert_int_eq(ds_json_parse("golden", text, strlen(text), &want, NULL), 0);
    json_t *is = ds_dit_config_to_json(c);
    json_object_foreach(want, key, v)
        ck_assert_msg(json_integer_value(v) == json_integer_value(json_object_get(is, key)),
                      "%s is %lld, must be %lld", key,
                      (long long)json_integer_value(json_object_get(is, key)),
                      (long long)json_integer_value(v));
    ck_assert_int_eq(c->pixel, c->channels == 3);
    json_decref(want);
    json_decref(is);
}

/* A base from the file of another program. */
static ds_base *base_of(int which) {
    char path[512], file[512];
    ds_weights *w;
    ds_dit_names *d;
    ds_base *b;
    ds_error err;
    in_golden(path, cases[which].source);
    snprintf(file, sizeof file, "tests/golden/dit-parity/%s/golden.safetensors",
             cases[which].folder);
    ck_assert_msg(!ds_st_open_file(file, 1 << 24, 0, &golden, &err), "%s", err.message);
    ck_assert_msg(!ds_weights_open(&w, path, "transformer", &err), "%s", err.message);
    ck_assert_str_eq(ds_weights_format(w), cases[which].format);
    if (cases[which].heads) { /* it does not show in the shapes, and is not guessed */
        ck_assert_int_eq(ds_dit_names_open(&d, w, 0, &err), DS_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.message, "--heads"));
    }
    ck_assert_msg(!ds_dit_names_open(&d, w, cases[which].heads, &err), "%s", err.message);
    ck_assert_str_eq(ds_weights_wrapper(w), cases[which].wrapper);
    check_config(ds_dit_names_config(d));
    ck_assert_int_eq(ds_dit_base_new(&b, ds_dit_names_config(d), 1, NULL), 0);
    for (int i = 0; i < b->table.count; i++)
        ck_assert_msg(!ds_dit_names_read_f32(d, i, b->data + b->table.items[i].offset, &err), "%s",
                      err.message);
    ds_dit_names_free(d);
    ds_weights_close(w);
    return b;
}

/* Largest difference relative to the largest value; `top` > 0 sets the scale. */
static double difference(const float *got, const float *want, size_t n, double top) {
    double worst = 0;
    for (size_t i = 0; i < n; i++)
        worst = fmax(worst, isfinite(got[i]) ? fabs((double)got[i] - want[i]) : INFINITY);
    if (top <= 0)
        for (size_t i = 0; i < n; i++)
            top = fmax(top, fabs((double)want[i]));
    return n ? worst / fmax(top, 1e-30) : 0;
}

/* The bias of the keys moves no score, so its gradient is zero but for rounding; a scalar s is one
 * number, a sum of many that may cancel.  Both get the scale of all values of their kind.  In bf16
 * all do: there the rounding of the gradient that flows stays where attention subtracts most of it
 * (dS = P (dP - sum)). */
static double scale_of(const ds_params *table, const ds_param *p, const char *variant, int bf16) {
    double top = 0;
    int kin = bf16 || p->kind == DS_PARAM_S || strstr(p->name, "attn.k.b") != NULL;
    for (int i = 0; kin && i < table->count; i++) {
        const ds_param *q = &table->items[i];
        if (q->kind != p->kind)
            continue;
        float *x = need(variant, ".grad.", q->name, q->count);
        for (size_t j = 0; j < q->count; j++)
            top = fmax(top, fabs((double)x[j]));
        free(x);
    }
    return top;
}

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_model *model;
    double tolerance;
    int bf16;
    const char *what;
} setup;

static void conditions(ds_net_sample cond[B], const ds_dit_config *c, int plain) {
    const int32_t *row = ds_st_find(golden, "row")->data,
                  *base_row = ds_st_find(golden, "base_row")->data;
    float *t = need("t", "", "", B);
    for (int i = 0; i < B; i++) {
        int32_t r, b;
        memcpy(&r, row + i, 4);
        memcpy(&b, base_row + i, 4);
        cond[i] =
            (ds_net_sample){.t = t[i], .row = plain ? -1 : r, .base_row = plain ? c->classes : b};
    }
    free(t);
}

static void expect(const setup *s, const char *name, const char *part, double d) {
    ck_assert_msg(d <= s->tolerance, "%s, %s: %s differs by %.3g of its scale, tolerance %.3g",
                  s->what, name, part, d, s->tolerance);
}

static void check_plain(const setup *s) {
    const ds_dit_config *c = ds_dit_config_of(s->base);
    size_t px = (size_t)(c->side * c->side), in = B * px * (size_t)c->channels,
           out = B * px * (size_t)ds_dit_out_channels(c);
    ds_net *net;
    ds_net_sample cond[B];
    conditions(cond, c, 1);
    ck_assert_int_eq(ds_net_new(&net, s->model, DS_NET_INFER, NULL, 0, B, NULL), 0);
    float *x = need("x", "", "", in), *want = need("plain", "", "", out),
          *y = s->dev->alloc(s->dev, out * 4), *dx = s->dev->alloc(s->dev, in * 4);
    s->dev->upload(s->dev, dx, x, in * 4);
    ds_net_forward(net, y, &(ds_net_input){.x = dx, .samples = cond}, B);
    s->dev->sync(s->dev);
    expect(s, "plain", "output", difference(y, want, out, 0));
    s->dev->free(s->dev, y);
    s->dev->free(s->dev, dx);
    free(x);
    free(want);
    ds_net_free(net);
}

static void check_variant(const setup *s, int v) {
    const ds_dit_config *c = ds_dit_config_of(s->base);
    ds_method_spec spec = {.method = DS_METHOD_AFFINER,
                           .rank = RANK,
                           .side_in = v == 1,
                           .phi_relu = v == 2,
                           .targets = 1023,
                           .classes = ROWS};
    size_t px = (size_t)(c->side * c->side), in = B * px * (size_t)c->channels,
           out = B * px * (size_t)ds_dit_out_channels(c);
    ds_adapter *a;
    ds_net *net;
    ds_net_sample cond[B];
    conditions(cond, c, 0);
    ck_assert_int_eq(ds_adapter_new(&a, s->base, &spec, NULL), 0);
    for (int i = 0; i < a->table.count; i++) {
        const ds_param *p = &a->table.items[i];
        float *x = need(variants[v], ".start.", p->name, p->count);
        memcpy(a->data + p->offset, x, p->count * sizeof *x);
        free(x);
    }
    size_t n = a->table.total;
    ck_assert_int_eq(
        ds_net_new(&net, s->model, DS_NET_TRAIN, (const ds_adapter *const[]){a}, 1, B, NULL), 0);
    float *p = s->dev->alloc(s->dev, n * 4), *g = s->dev->alloc(s->dev, n * 4),
          *x = need("x", "", "", in), *dout = need("dout", "", "", out),
          *want = need(variants[v], ".output", "", out), *y = s->dev->alloc(s->dev, out * 4);
    s->dev->upload(s->dev, p, a->data, n * 4);
    s->dev->ops->fill(s->dev, g, 0, n);
    ds_net_bind(net, p, g);
    ds_net_forward(net, y, &(ds_net_input){.x = x, .samples = cond}, B);
    ds_net_backward(net, dout, B);
    s->dev->sync(s->dev);
    expect(s, variants[v], "output", difference(y, want, out, 0));
    /* ReLU has a step in its derivative: with few tokens, one that bf16 moves across it changes a
     * gradient visibly. */
    for (int i = 0; i < a->table.count && !(s->bf16 && spec.phi_relu); i++) {
        const ds_param *q = &a->table.items[i];
        float *grad = need(variants[v], ".grad.", q->name, q->count);
        double scale = scale_of(&a->table, q, variants[v], s->bf16);
        expect(s, variants[v], q->name, difference(g + q->offset, grad, q->count, scale));
        free(grad);
    }
    s->dev->free(s->dev, p);
    s->dev->free(s->dev, g);
    s->dev->free(s->dev, y);
    free(x);
    free(dout);
    free(want);
    ds_net_free(net);
    ds_adapter_free(a);
}

static void check_case(int which, const ds_device_options *o, double tolerance) {
    setup s = {.tolerance = tolerance,
               .bf16 = o->precision == DS_PRECISION_BF16,
               .what = cases[which].folder};
    s.base = base_of(which);
    ck_assert_int_eq(ds_device_open(&s.dev, o, NULL), 0);
    ck_assert_int_eq(ds_model_new(&s.model, s.dev, s.base, NULL), 0);
    check_plain(&s);
    for (int v = 0; v < VARIANTS; v++)
        check_variant(&s, v);
    ds_model_free(s.model);
    ds_base_free(s.base);
    ds_device_close(s.dev);
    ds_st_free(golden);
}

/* The requirement; sums of f32 products in networks this small are right to 1e-6 of their scale. */
START_TEST(ref) { check_case(_i, &(ds_device_options){.kind = "ref"}, 1e-4); }
END_TEST

START_TEST(cpu_f32) {
    check_case(_i, &(ds_device_options){.kind = "cpu", .precision = DS_PRECISION_F32}, 1e-4);
}
END_TEST

/* The requirement; bf16 keeps 8 bits: 2^-9 at each rounding, a dozen of them in a row, 4 sigma of
 * many. */
START_TEST(cpu_bf16) {
    check_case(_i, &(ds_device_options){.kind = "cpu", .precision = DS_PRECISION_BF16}, 2e-2);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, ref, 0, CASES);
    tcase_add_loop_test(tc, cpu_f32, 0, CASES);
    tcase_add_loop_test(tc, cpu_bf16, 0, CASES);
}

int main(void) { return ds_test_main("engine_parity", register_cases); }
