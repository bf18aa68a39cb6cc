/* tests/kernels/test_kernels_reference.c - the reference device against results known without it: by hand,
 * from closed forms, or from an identity between ops.  (Its backward ops:
 * test_kernels_gradients.c.) */
#include "tests/fixtures/kernels_common.h"

/* Under ASan too, an allocation without room is NULL. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

static ds_device *dev;
static const struct ds_ops *ops;

static void open_ref(void) {
    ck_assert_int_eq(ds_device_open_ref(&dev, NULL, NULL), 0);
    ops = dev->ops;
}

static void close_ref(void) { ds_device_close(dev); }

static void expect_close(const char *what, int i, double got, double want, double tol) {
    EXPECT(fabs(got - want) <= tol, "%s[%d] is %.9g, not %.9g", what, i, got, want);
}

static void expect_all(const char *what, const float *got, const float *want, int n, double tol) {
    for (int i = 0; i < n; i++)
        expect_close(what, i, got[i], want[i], tol);
}

START_TEST(device) {
    ds_device *none = dev;
    ds_error err = {0};
    ds_device_options bf16 = {.kind = "ref", .precision = DS_PRECISION_BF16};
    EXPECT(ds_device_open_ref(&none, &bf16, &err) == DS_EINVAL && !none,
           "bf16 on the reference device");
    EXPECT(strstr(err.message, "f32"), "message: %s", err.message);
    EXPECT(!dev->alloc(dev, SIZE_MAX) && !dev->alloc(dev, SIZE_MAX / 2), "room for everything");
    float *p = dev->alloc(dev, 0), x[3] = {1, 2, 3}, y[3] = {0};
    EXPECT(p, "no room for nothing");
    dev->free(dev, p);
    p = dev->alloc(dev, sizeof x);
    EXPECT((uintptr_t)p % 64 == 0, "not aligned");
    dev->upload(dev, p, x, sizeof x);
    dev->download(dev, y, p, sizeof y);
    dev->sync(dev);
    EXPECT(!memcmp(x, y, sizeof x), "upload and download");
    EXPECT(dev->weight_bytes(dev, 5, 7, 0, 1) >= 35 * sizeof(float), "weight_bytes");
    EXPECT(ds_act_at(dev, test_act(p), 2) == test_act(p + 2), "ds_act_at");
    dev->weight_free(dev, NULL);
    dev->free(dev, p);
    ds_device_close(NULL);
}
END_TEST

/* Words for devices, and which device is opened for them. */
START_TEST(words_for_devices) {
    static const char *const good[] = {"auto", "cpu", "cuda", "cuda:0", "cuda:7", "ref"},
                             *const bad[] = {"",        "gpu", "cpu:0", "cuda:",     "cuda:x",
                                             "cuda:1x", "CPU", "refs",  "cuda:99999"};
    ds_error err = {0};
    for (int i = 0; i < (int)(sizeof good / sizeof *good); i++)
        EXPECT(!ds_device_kind_check(good[i], &err), "'%s': %s", good[i], err.message);
    for (int i = 0; i < (int)(sizeof bad / sizeof *bad); i++) {
        ds_device *one = NULL;
        ds_device_options o = {.kind = bad[i]};
        EXPECT(ds_device_kind_check(bad[i], &err) == DS_EINVAL, "'%s'", bad[i]);
        EXPECT(strstr(err.message, "is not known: use auto, cpu, cuda, cuda:N or ref"), "%s",
               err.message);
        EXPECT(ds_device_open(&one, &o, &err) == DS_EINVAL && !one, "'%s' is opened", bad[i]);
    }
    static const char *const precisions[] = {"f32", "bf16", "tf32"};
    enum ds_precision p = DS_PRECISION_F32;
    for (int i = 0; i < 3; i++) {
        EXPECT(!ds_precision_from_name(precisions[i], &p, &err) && (int)p == i, "%s",
               precisions[i]);
        EXPECT(!strcmp(ds_precision_names[i], precisions[i]), "%s", precisions[i]);
    }
    EXPECT(ds_precision_from_name("f16", &p, &err) == DS_EINVAL && strstr(err.message, "'f16'"),
           "f16");
    EXPECT(!ds_precision_names[3], "more than three");
    /* on a processor with AVX2: its kernels, not the plain ones; what it has not is not opened */
    ds_device *one;
    ds_device_options o = {.kind = "ref"};
    ck_assert_int_eq(ds_device_open(&one, &o, NULL), 0);
    EXPECT(!strcmp(one->name, "ref"), "%s", one->name);
    ds_device_close(one);
    o = (ds_device_options){.kind = "cpu", .precision = DS_PRECISION_TF32};
    EXPECT(ds_device_open(&one, &o, &err) == DS_EINVAL && strstr(err.message, "tf32"),
           "tf32 on the processor");
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return;
    ck_assert_int_eq(ds_device_open(&one, NULL, NULL), 0);
    EXPECT(!strcmp(one->name, "cpu"), "%s", one->name);
    ds_device_close(one);
    int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const struct {
        const char *isa;
        int there;
    } sets[] = {{"avx2", 1},
                {"avx512", wide},
                {"avx512bf16", wide && __builtin_cpu_supports("avx512bf16")}};
    for (int i = 0; i < 3; i++)
        for (int half = 0; half < 2; half++) {
            o = (ds_device_options){.kind = "cpu",
                                    .isa = sets[i].isa,
                                    .precision = half ? DS_PRECISION_BF16 : DS_PRECISION_F32};
            int rc = ds_device_open(&one, &o, &err);
            EXPECT(rc == (sets[i].there ? 0 : DS_ENOTFOUND), "%s: %d %s", sets[i].isa, rc,
                   err.message);
            if (rc)
                continue;
            char want[40]; /* bf16 has products of its own on the last of them only */
            snprintf(want, sizeof want, "cpu-%s-%s", (half ? i == 2 : i > 0) ? "avx512" : "avx2",
                     half ? "bf16" : "f32");
            EXPECT(!strncmp(one->device_class, want, 10), "%s is %s", sets[i].isa,
                   one->device_class);
            EXPECT(one->host_memory && one->act_size == (half ? 2 : 4), "%s", one->device_class);
            ds_device_close(one);
        }
}
END_TEST

START_TEST(linear_by_hand) {
    float W[6] = {1, 2, 3, -1, 0, 1}, x[6] = {1, 1, 1, 2, 0, -1}, bias[2] = {0.5f, -2}, y[4], dx[6];
    ds_weight *w = dev->weight_new(dev, 2, 3, 0, 1);
    ops->weight_pack(dev, w, W, NULL);
    ops->linear_forward(dev, test_act(y), test_act(x), w, bias, 2);
    expect_all("y", y, (float[]){6.5f, -2, -0.5f, -5}, 4, 0);
    ops->linear_f32_forward(dev, y, test_act(x), w, NULL, 2);
    expect_all("y without bias", y, (float[]){6, 0, -1, -3}, 4, 0);
    float dy[4] = {1, 10, 0, 1}, dW[6] = {1, 1, 1, 1, 1, 1}, db[2] = {7, 7};
    ops->linear_backward_input(dev, test_act(dx), test_act(dy), w, 2);
    expect_all("dx", dx, (float[]){-9, 2, 13, -1, 0, 1}, 6, 0);
    ops->linear_backward_weight(dev, dW, db, test_act(dy), test_act(x), 2, 3, 2);
    expect_all("dW", dW, (float[]){2, 2, 2, 13, 11, 10}, 6, 0);
    expect_all("db", db, (float[]){8, 18}, 2, 0);
    dev->weight_free(dev, w);
}
END_TEST

START_TEST(gelu_and_silu_values) {
    /* gelu_tanh by its formula in 50 digits; silu(1) = 1 / (1 + 1/e) */
    float x[6] = {1, -1, 3, -3, 0.5f, 0}, y[6], ones[6] = {1, 1, 1, 1, 1, 1};
    ops->gelu_forward(dev, test_act(y), test_act(x), 6);
    expect_all(
        "gelu", y,
        (float[]){0.841191991f, -0.158808009f, 2.99636261f, -0.00363739208f, 0.345714010f, 0}, 6,
        2e-7);
    ops->gelu_backward(dev, test_act(y), test_act(ones), test_act(x), 6);
    expect_close("gelu'(0)", 5, y[5], 0.5, 0);
    expect_close("gelu'(1) + gelu'(-1)", 0, (double)y[0] + y[1], 1,
                 1e-7); /* gelu(u) - gelu(-u) = u */
    ops->silu_forward(dev, y, x, 6);
    expect_close("silu", 0, y[0], 0.7310585786300049, 1e-7);
    expect_close("silu", 1, y[1], -0.2689414213699951, 1e-7);
    ops->silu_backward(dev, y, ones, x, 6);
    expect_close("silu'(0)", 5, y[5], 0.5, 0);
}
END_TEST

/* The fused ops are the plain ones in a row. */
START_TEST(fused_is_plain) {
    enum { B = 2, T = 3, M = 5, N = 4, R = B * T, STRIDE = 7 };
    float *W = test_random(M * N, 1, 0), *x = test_random(R * N, 2, 0),
          *bias = test_random(M, 3, 0);
    float *gate = test_random(B * STRIDE, 4, 0), *res = test_random(R * M, 5, 0);
    float y[R * M], pre[R * M], g1[R * M], g2[R * M], r1[R * M], r2[R * M], y2[R * M];
    ds_weight *w = dev->weight_new(dev, M, N, 0, 1);
    ops->weight_pack(dev, w, W, NULL);
    ops->linear_forward(dev, test_act(y), test_act(x), w, bias, R);
    ops->linear_gelu_forward(dev, test_act(pre), test_act(g1), test_act(x), w, bias, R);
    ops->gelu_forward(dev, test_act(g2), test_act(y), R * M);
    expect_all("pre", pre, y, R * M, 0);
    expect_all("gelu", g1, g2, R * M, 2e-7);
    ops->linear_residual_forward(dev, test_act(y2), r1, res, gate, STRIDE, test_act(x), w, bias, B,
                                 T);
    ops->gate_forward(dev, r2, res, gate, STRIDE, test_act(y), B, T, M);
    expect_all("y", y2, y, R * M, 0);
    expect_all("residual", r1, r2, R * M, 5e-7);
    float dh[R * N], d1[R * N], d2[R * N], *p = test_random(R * N, 6, 1);
    ops->linear_backward_input(dev, test_act(dh), test_act(y), w, R);
    ops->gelu_backward(dev, test_act(d1), test_act(dh), test_act(p), R * N);
    ops->linear_gelu_backward_input(dev, test_act(d2), test_act(y), w, test_act(p), R);
    expect_all("dpre", d2, d1, R * N, 5e-7);
    dev->weight_free(dev, w);
    free(W), free(x), free(bias), free(gate), free(res), free(p);
}
END_TEST

/* A layer with its set unfolded is the folded layer, with ReLU too. */
START_TEST(unfolded_is_folded) {
    enum { M = 6, N = 5, R = 2, SEGS = 3, ROWS = 4 };
    for (int relu = 0; relu < 2; relu++) {
        float *W = test_random(M * N, 1, 0), *x = test_random(ROWS * N, 2, 0),
              *bias = test_random(M, 3, 0);
        float *a = test_random(M, 4, 0), *b = test_random(M, 5, 0), *s = test_random(SEGS, 6, 0);
        float *u = test_random(M * R, 7, 0), *v = test_random(SEGS * R * N, 8, 0), folded[M];
        float y[ROWS * M], y2[ROWS * M];
        int task[2] = {0, 0};
        ds_affiner ad = {M, N, R, SEGS, 0, relu, a, b, s, u, v};
        ds_weight *w = dev->weight_new(dev, M, N, 0, 0);
        ops->weight_pack(dev, w, W, NULL);
        ops->linear_forward(dev, test_act(y), test_act(x), w, NULL, ROWS);
        ops->affiner_rows_forward(dev, test_act(y), NULL, test_act(x), bias, &ad, task, 2,
                                  ROWS / 2);
        ops->weight_pack(dev, w, W, &ad);
        ops->bias_fold(dev, folded, bias, W, &ad);
        ops->linear_forward(dev, test_act(y2), test_act(x), w, folded, ROWS);
        if (relu)
            ops->lowrank_forward(dev, test_act(y2), test_act(x), &ad, ROWS);
        expect_all(relu ? "y with relu" : "y", y, y2, ROWS * M, 4e-6);
        dev->weight_free(dev, w);
        free(W), free(x), free(bias), free(a), free(b), free(s), free(u), free(v);
    }
}
END_TEST

START_TEST(adaln_by_hand) {
    float x[4] = {1, 3, 5, 5}, shift[4] = {0, 10, 7, -7}, scale[4] = {0, 1, 3, 3}, out[4], mean[2],
          rstd[2];
    ops->adaln_forward(dev, test_act(out), mean, rstd, x, shift, scale, 2, 1e-6f, 2, 1, 2);
    double unit = 1 / sqrt(1 + 1e-6);
    expect_close("out", 0, out[0], -unit, 1e-7);
    expect_close("out", 1, out[1], 10 + 2 * unit, 1e-6);
    expect_all("a constant row is the shift", out + 2, shift + 2, 2, 0);
    expect_close("mean", 0, mean[0], 2, 0);
    expect_close("1/sigma", 0, rstd[0], unit, 1e-7);
    expect_close("1/sigma of a constant row", 1, rstd[1], 1000, 1e-4);
}
END_TEST

START_TEST(attention_closed_forms) {
    enum { T = 4, D = 6, H = 2, HD = D / H };
    float qkv[T * 3 * D], out[T * D], lse[H * T];
    test_fill(qkv, T * 3 * D, 1, 0);
    for (int t = 0; t < T; t++)
        memset(qkv + t * 3 * D, 0, D * sizeof *qkv); /* q = 0: every token alike */
    ops->attention_forward(dev, test_act(out), lse, test_act(qkv), 1, T, D, H);
    for (int i = 0; i < T * D; i++) {
        double mean = 0;
        for (int t = 0; t < T; t++)
            mean += qkv[t * 3 * D + 2 * D + i % D] / (double)T;
        expect_close("mean of v", i, out[i], mean, 1e-7);
    }
    for (int i = 0; i < H * T; i++)
        expect_close("log T", i, lse[i], log(T), 1e-6);
    /* one key in line with all queries of head 1, the others at right angles: that token alone */
    for (int t = 0; t < T; t++) {
        float *q = qkv + t * 3 * D + HD, *k = q + D;
        q[0] = 30, q[1] = q[2] = 0;
        k[0] = t == 2 ? 30 : 0, k[1] = k[2] = 1;
    }
    ops->attention_forward(dev, test_act(out), lse, test_act(qkv), 1, T, D, H);
    for (int t = 0; t < T; t++) {
        expect_all("v of the one", out + t * D + HD, qkv + 2 * 3 * D + 2 * D + HD, HD, 1e-7);
        expect_close("score", t, lse[T + t], 900 / sqrt(HD), 1e-4);
    }
}
END_TEST

START_TEST(timestep_values) {
    float t[2] = {0, 7}, out[2 * 6];
    ops->timestep_embedding(dev, out, t, 2, 6, 10000, 0);
    expect_all("t = 0", out, (float[]){1, 1, 1, 0, 0, 0}, 6, 0);
    for (int i = 0; i < 3; i++) {
        double f = pow(10000, -i / 3.0);
        expect_close("cos", i, out[6 + i], cos(7 * f), 1e-7);
        expect_close("sin", i, out[9 + i], sin(7 * f), 1e-7);
    }
    ops->timestep_embedding(dev, out, t, 2, 6, 10000, 1);
    expect_close("last frequency of diffusers is 1/period", 0, out[11], sin(7e-4), 1e-9);
}
END_TEST

START_TEST(layout_by_hand) {
    /* channel c, row y, column x hold 100 c + 10 y + x */
    enum { C = 2, S = 4, P = 2 };
    float img[C * S * S], tokens[C * S * S], back[C * S * S], pos[4] = {1, 2, 3, 4}, x[8] = {0};
    for (int i = 0; i < C * S * S; i++)
        img[i] = (float)(100 * (i / 16) + 10 * (i / 4 % 4) + i % 4);
    ops->patchify(dev, test_act(tokens), img, 1, C, S, P);
    /* third token: lower left patch; inside: channel, row, column */
    expect_all("token", tokens + 2 * 8, (float[]){20, 21, 30, 31, 120, 121, 130, 131}, 8, 0);
    ops->unpatchify_backward(dev, test_act(tokens), img, 1, C, S, P);
    /* second token: upper right; inside: row, column, channel */
    expect_all("dtoken", tokens + 8, (float[]){2, 102, 3, 103, 12, 112, 13, 113}, 8, 0);
    ops->unpatchify(dev, back, tokens, 1, C, S, P);
    expect_all("there and back", back, img, C * S * S, 0);
    ops->add_position(dev, x, pos, 2, 2, 2);
    ops->add_position(dev, x, pos, 2, 2, 2);
    expect_all("positions", x, (float[]){2, 4, 6, 8, 2, 4, 6, 8}, 8, 0);
}
END_TEST

START_TEST(embedding_rows) {
    float table[6] = {1, 2, 3, 4, 5, 6}, out[6] = {0}, grad[6] = {0}, g[6] = {1, 1, 2, 2, 4, 4};
    int idx[3] = {2, -1, 2};
    ops->embedding_forward(dev, out, table, idx, 3, 2);
    expect_all("out", out, (float[]){5, 6, 0, 0, 5, 6}, 6, 0);
    ops->embedding_backward(dev, grad, g, idx, 3, 2);
    expect_all("dtable", grad, (float[]){0, 0, 0, 0, 5, 5}, 6, 0);
    float taken[8];
    ops->embedding_take(dev, taken, (float[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, (int[]){2, 0},
                        2, 3, 2, 2);
    expect_all("taken", taken, (float[]){5, 6, 1, 2, 11, 12, 7, 8}, 8, 0);
}
END_TEST

START_TEST(velocity_loss_by_hand) {
    const float out[8] = {1, 2, 9, 9, 3, 0, 9, 9}, x0[4] = {1, 1, 0, 2}, e[4] = {0, 2, 1, 1};
    const float coef[16] = {-1, 1, 9, 9, 9, 9, 9, 1, 0.5f, 2, 9, 9, 9, 9, 9, 3};
    float mse[2], dout[8]; /* velocities -1, 1 and 2, 3 */
    ops->flow_loss(dev, mse, dout, out, x0, e, coef, 2, 2, 4);
    expect_all("mse", mse, (float[]){(4 + 1) / 2.0f, (1 + 9) / 2.0f}, 2, 1e-6);
    expect_all("dout", dout, (float[]){2, 1, 0, 0, 3, -9, 0, 0}, 8, 1e-6);
}
END_TEST

/* Perfect prediction with v = -1, where log sigma^2 is the posterior's: nothing to lose. */
START_TEST(loss_of_perfection) {
    enum { C = 1, N = 9 };
    float coef[8], x0[N], noise[N], xt[N], out[2 * N], dout[2 * N], mse, vb;
    test_fill(x0, N, 1, 0);
    test_fill(noise, N, 2, 1);
    test_schedule(coef, 400, 1);
    for (int i = 0; i < N; i++) {
        xt[i] = (x0[i] + coef[5] * noise[i]) / coef[4];
        out[i] = noise[i];
        out[N + i] = -1;
    }
    ops->diffusion_loss(dev, &mse, &vb, dout, out, x0, noise, xt, coef, 1, 1, 1, C, N);
    expect_close("mse", 0, mse, 0, 0);
    expect_close("vb", 0, vb, 0, 1e-6);
    /* a mean that is off by delta posterior deviations costs delta^2 / 2 nats, by its derivative
     * too: x0_hat moves by -recipm1 eps, the mean by coef1 of that */
    double delta = 0.5, shift = delta * exp(0.5 * (double)coef[1]) / ((double)coef[2] * coef[5]);
    for (int i = 0; i < N; i++)
        out[i] = (float)(noise[i] + shift);
    ops->diffusion_loss(dev, &mse, &vb, dout, out, x0, noise, xt, coef, 1, 1, 1, C, N);
    expect_close("mse of a shift", 0, mse, shift * shift, 1e-5 * shift * shift);
    expect_close("vb of a shift", 0, vb, delta * delta / 2 / log(2), 1e-4);
    expect_close("d mse", 0, dout[0], 2 * shift / N, 1e-5 * shift);
    double range =
        (double)coef[0] - coef[1]; /* d vb / d v at equal variances: -delta^2/2 of log p */
    expect_close("d vb", 0, dout[N], -delta * delta / 2 * range / 2 / log(2) / N,
                 1e-3 * fabs(range));
}
END_TEST

/* The discretised likelihood is a distribution: over the 256 levels it sums to one. */
START_TEST(likelihood_sums_to_one) {
    enum { LEVELS = 256 };
    static float coef[8 * LEVELS], x0[LEVELS], zero[LEVELS], out[2 * LEVELS], mse[LEVELS],
        vb[LEVELS];
    static float xt[LEVELS];
    static const float means[] = {0, 0.3f, -0.999f, 1.2f};
    for (int k = 0; k < 4; k++) {
        double sum = 0;
        for (int b = 0; b < LEVELS; b++) {
            test_schedule(coef + 8 * b, 0, 1);
            x0[b] = (float)(-1 + 2.0 * b / 255);
            xt[b] = means[k] / coef[8 * b + 4]; /* eps = 0: the mean is recip xt */
            out[2 * b] = 0;
            out[2 * b + 1] = 8; /* wide: log sigma^2 = log_beta + 3.5 (log_beta - clipped) */
        }
        ops->diffusion_loss(dev, mse, vb, NULL, out, x0, zero, xt, coef, 1, 1, LEVELS, 1, 1);
        for (int b = 0; b < LEVELS; b++)
            sum += exp2(-(double)vb[b]);
        expect_close("sum of probabilities", k, sum, 1, 1e-5);
    }
}
END_TEST

START_TEST(adamw_closed_forms) {
    /* a constant gradient: bias correction makes every step lr in its direction */
    float p[2] = {1, 1}, m[2] = {0}, v[2] = {0}, ema[2] = {1, 1}, g[2] = {0.3f, -5},
          mul[2] = {1, 0};
    for (int step = 1; step <= 4; step++)
        ops->adamw(dev, p, m, v, NULL, g, NULL, 2, 0.125f, 0.9f, 0.999f, 0, 0, 0, NULL, 0, step);
    expect_all("constant gradient", p, (float[]){0.5f, 1.5f}, 2, 1e-6);
    expect_close("m", 0, m[0], 0.3 * (1 - pow(0.9f, 4)), 1e-7);
    expect_close("v", 1, v[1], 25 * (1 - pow(0.999f, 4)), 1e-6);
    /* no gradient: decay alone; frozen entries keep their bits; ema follows */
    float q[2] = {2, 2}, m0[2] = {0}, v0[2] = {0}, none[2] = {0};
    ops->adamw(dev, q, m0, v0, ema, none, mul, 2, 0.5f, 0.9f, 0.999f, 1e-8f, 0.25f, 0, NULL, 0.75f,
               1);
    expect_all("decay", q, (float[]){1.75f, 2}, 2, 0);
    expect_all("ema", ema, (float[]){0.75f + 0.25f * 1.75f, 1.25f}, 2, 1e-7);
    /* clipping scales the gradient before the moments */
    float r[2] = {0}, m2[2] = {0}, v2[2] = {0};
    double four = 4, sum; /* a norm of 2 */
    ops->adamw(dev, r, m2, v2, NULL, g, NULL, 2, 0.1f, 0.5f, 0.5f, 1e-8f, 0, 1, &four, 0, 1);
    expect_all("m of clipped", m2, (float[]){0.075f, -1.25f}, 2, 1e-7);
    ops->sum_squares(dev, &sum, g, 2);
    expect_close("sum of squares", 0, sum, 25.09, 1e-6);
    /* a norm below the limit, or no limit: as it is; one that is no number: nothing happens */
    const double limits[] = {3, 2, 0, -1}, no_number[] = {NAN, INFINITY};
    for (int i = 0; i < 4; i++) {
        float p1[2] = {0}, m1[2] = {0}, v1[2] = {0};
        ops->adamw(dev, p1, m1, v1, NULL, g, NULL, 2, 0.1f, 0.5f, 0.5f, 1e-8f, 0, limits[i], &four,
                   0, 1);
        expect_all("m of not clipped", m1, (float[]){0.15f, -2.5f}, 2, 1e-7);
    }
    for (int i = 0; i < 2; i++) {
        float p1[2] = {1, 2}, m1[2] = {3, 4}, v1[2] = {5, 6}, e1[2] = {7, 8};
        ops->adamw(dev, p1, m1, v1, e1, g, NULL, 2, 0.1f, 0.5f, 0.5f, 1e-8f, 0.1f, 1, &no_number[i],
                   0.5f, 1);
        expect_all("p", p1, (float[]){1, 2}, 2, 0);
        expect_all("m", m1, (float[]){3, 4}, 2, 0);
        expect_all("v", v1, (float[]){5, 6}, 2, 0);
        expect_all("ema", e1, (float[]){7, 8}, 2, 0);
    }
}
END_TEST

START_TEST(convolution_by_hand) {
    /* kernel 1 high, 3 wide: difference of right and left neighbour; then stride, padding, gap */
    float x[12] = {1, 2, 4, 8, 16, 32, 0, 0, 1, 0, 0, 0}, W[3] = {-1, 0, 1}, y[24], bias = -1;
    ds_weight *w = dev->weight_new(dev, 1, 3, 1, 0);
    ds_conv geo = {1, 2, 6, 1, 1, 1, 3, 1, 0, 1};
    ops->weight_pack(dev, w, W, NULL);
    for (int i = 0; i < 24; i++)
        y[i] = 99;
    ops->conv_forward(dev, y, 2, x, w, NULL, 0, &geo);
    float want[12] = {2, 3, 6, 12, 24, -16, 0, 1, 0, -1, 0, 0};
    for (int i = 0; i < 12; i++) {
        expect_close("difference", i, y[2 * i], want[i], 0);
        expect_close("gap", i, y[2 * i + 1], 99, 0);
    }
    geo = (ds_conv){1, 2, 6, 1, 1, 1, 3, 2, 0, 0};
    ops->conv_forward(dev, y, 1, x, w, &bias, 1, &geo);
    expect_all("stride 2, no padding, relu", y, (float[]){2, 11, 3}, 3, 0); /* one row of two */
    dev->weight_free(dev, w);
}
END_TEST

START_TEST(pools_by_hand) {
    float x[9] = {-1, -2, -3, -4, -5, -6, -7, -8, -9}, y[9], mean;
    ds_conv geo = {1, 3, 3, 1, 0, 3, 3, 1, 1, 1};
    ops->pool_forward(dev, y, 1, x, 0, &geo);
    expect_all("max", y, (float[]){-1, -1, -2, -1, -1, -2, -4, -4, -5}, 9, 0);
    ops->pool_forward(dev, y, 1, x, 1, &geo); /* the mean of the cells inside */
    expect_all("average", y, (float[]){-3, -3.5f, -4, -4.5f, -5, -5.5f, -6, -6.5f, -7}, 9, 1e-6);
    ops->spatial_mean(dev, &mean, x, 1, 9, 1);
    expect_close("mean", 0, mean, -5, 0);
}
END_TEST

/* What guides, on three elements of which two are: the order of the sum is part of the definition. */
START_TEST(guidance_by_hand) {
    const float c[6] = {3, 0x1p24f, 5}, n[6] = {2, 1, 7}, u[6] = {1.5f, -1, 9};
    const struct {
        const float *null, *base;
        float want[3];
    } cases[] = {{NULL, NULL, {3, 0x1p24f, 5}},
                 {n, NULL, {2 + 4 * (3 - 2), 0x1p26f - 4, 5}},               /* 1 + 4 (2^24 - 1) */
                 {NULL, u, {1.5f + 2 * (3 - 1.5f), 0x1p25f, 5}},             /* -1 + 2 (2^24 + 1) */
                 {n, u, {1.5f + 2 * (2 - 1.5f) + 4 * (3 - 2), 0x1p26f, 5}}}; /* 3 + 4 (2^24 - 1) */
    ds_step s = {.kind = DS_STEP_DDIM, .limit = 2, .domain = 2, .classes = 4, .a = 1, .b_prev = 1};
    for (int i = 0; i < 4; i++) { /* x = eps */
        float x[3] = {9, 9, 9};
        ops->sampler_step(dev, x, NULL, NULL, c, cases[i].null, cases[i].base, NULL, &s, 1, 3, 6);
        expect_all("eps", x, cases[i].want, 3, 0);
    }
    /* the second sample's outputs are its own */
    const float c2[4] = {0, 0, 4, 0}, n2[4] = {0, 0, 3, 0}, u2[4] = {0, 0, 1, 0};
    float x[2] = {9, 9};
    s.limit = 1;
    ops->sampler_step(dev, x, NULL, NULL, c2, n2, u2, NULL, &s, 2, 1, 2);
    expect_all("eps of two", x, (float[]){0, 1 + 2 * 2 + 4 * 1}, 2, 0);
}
END_TEST

/* One step of each sampler on two elements, of which the first is guided: eps = 0.5 + 2 (1 - 0.5). */
START_TEST(sampler_steps_by_hand) {
    const float out[4] = {1, 1, 0, 0}, guide[4] = {0.5f, 7, 9, 9}, noise[2] = {1, -1};
    ds_step s = {.limit = 1, .domain = 2, .a = 0.5f, .b = 0.5f, .a_prev = 0.75f, .b_prev = 0.25f};
    float x[2] = {1, 1}, twin[2] = {0}, before[2] = {4, 4};
    s.kind = DS_STEP_DDIM; /* x0 = (x - b eps) / a: 0.5 and 1 */
    ops->sampler_step(dev, x, twin, NULL, out, NULL, guide, NULL, &s, 1, 2, 2);
    expect_all("ddim", x, (float[]){0.75f * 0.5f + 0.25f * 1.5f, 1}, 2, 1e-7);
    expect_all("twin", twin, x, 2, 0);
    s.kind = DS_STEP_DPMPP2M;
    s.ratio = 0.5;
    s.gain = 2;
    s.c_now = 1.5;
    s.c_before = -0.5;
    x[0] = x[1] = 1;
    ops->sampler_step(dev, x, NULL, before, out, NULL, guide, NULL, &s, 1, 2, 2);
    expect_all("dpmpp2m", x, (float[]){0.5f + 2 * (0.75f - 2), 0.5f + 2 * (1.5f - 2)}, 2, 1e-6);
    expect_all("x0", before, (float[]){0.5f, 1}, 2, 1e-7);
    s.last = 1;
    x[0] = x[1] = 1;
    ops->sampler_step(dev, x, NULL, before, out, NULL, guide, NULL, &s, 1, 2, 2);
    expect_all("last dpmpp2m", x, (float[]){0.5f, 1}, 2, 1e-7);
    s = (ds_step){.kind = DS_STEP_DDIM, /* a velocity: x0 = x - v/2, e = (x - x0/2) / (1/2) */
                  .velocity = 1,
                  .keep = 1,
                  .a = 0.5f,
                  .b = 0.5f,
                  .x0_x = 1,
                  .x0_v = -0.5f,
                  .a_prev = 0.75f,
                  .b_prev = 0.25f,
                  .spread = 2};
    x[0] = 2; /* v 1: x0 1.5, e 2.5 */
    x[1] = 1; /* v 1: x0 0.5, e 1.5 */
    ops->sampler_step(dev, x, NULL, before, out, NULL, NULL, noise, &s, 1, 2, 2);
    expect_all("euler", x, (float[]){1.125f + 0.625f + 2, 0.375f + 0.375f - 2}, 2, 1e-6);
    expect_all("kept", before, (float[]){2, 1}, 2, 0);
    s.kind = DS_STEP_HEUN;
    x[0] = 4; /* v 1: x0 3.5, e 4.5 */
    x[1] = 0; /* v 1: x0 -0.5, e 0.5 */
    s.a_prev = -0.5f;
    s.b_prev = 0.5f;
    ops->sampler_step(dev, x, NULL, before, out, NULL, NULL, NULL, &s, 1, 2, 2);
    expect_all("heun", x, (float[]){3 - 1.75f + 2.25f, 0.5f + 0.25f + 0.25f}, 2, 1e-6);
    s = (ds_step){.kind = DS_STEP_DDPM,
                  .pixel = 1,
                  .learned = 1,
                  .a = 0.5f,
                  .b = 0.5f,
                  .mean_x0 = 0.25,
                  .mean_xt = 0.5,
                  .log_beta = 2,
                  .log_variance = -2};
    x[0] = 3; /* x0 = 5 and -1 before it is cut off, f = 1/2: the variance is exp(0) */
    x[1] = 0;
    ops->sampler_step(dev, x, NULL, NULL, out, NULL, NULL, noise, &s, 1, 2, 4);
    expect_all("ddpm", x, (float[]){0.25f + 1.5f + 1, -0.25f - 1}, 2, 1e-6);
    s.last = 1;
    x[0] = 3;
    x[1] = 0;
    ops->sampler_step(dev, x, NULL, NULL, out, NULL, NULL, NULL, &s, 1, 2, 4);
    expect_all("last ddpm", x, (float[]){0.25f + 1.5f, -0.25f}, 2, 1e-6);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_checked_fixture(tc, open_ref, close_ref);
    tcase_add_test(tc, device);
    tcase_add_test(tc, words_for_devices);
    tcase_add_test(tc, guidance_by_hand);
    tcase_add_test(tc, sampler_steps_by_hand);
    tcase_add_test(tc, velocity_loss_by_hand);
    tcase_add_test(tc, linear_by_hand);
    tcase_add_test(tc, gelu_and_silu_values);
    tcase_add_test(tc, fused_is_plain);
    tcase_add_test(tc, unfolded_is_folded);
    tcase_add_test(tc, adaln_by_hand);
    tcase_add_test(tc, attention_closed_forms);
    tcase_add_test(tc, timestep_values);
    tcase_add_test(tc, layout_by_hand);
    tcase_add_test(tc, embedding_rows);
    tcase_add_test(tc, loss_of_perfection);
    tcase_add_test(tc, likelihood_sums_to_one);
    tcase_add_test(tc, adamw_closed_forms);
    tcase_add_test(tc, convolution_by_hand);
    tcase_add_test(tc, pools_by_hand);
}

int main(void) { return ds_test_main("kernels_reference", register_cases); }
