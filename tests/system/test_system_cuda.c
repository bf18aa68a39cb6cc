/* tests/system/test_system_cuda.c - the CUDA device as users meet it: words that choose it, messages where
 * it cannot be had, and the memory of a device of its own.  What it computes: test_kernels_*. */
#include "base/mem.h"
#include "engine/model/dit.h"
#include "tests/harness.h"
#include "worker/job/device.h"
#include "worker/measure/plan.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *build(void) {
    const char *b = getenv("DS_BUILD");
    return b ? b : "build/release";
}

static int has_driver(void) { return dlopen("libcuda.so.1", RTLD_LAZY) != NULL; }

/* The worker's exit status; what it says into out. */
static int worker(const char *environment, const char *arguments, char out[2048]) {
    char *command =
        ds_xasprintf("%s '%s/diffscaler-worker' %s 2>&1", environment, build(), arguments);
    FILE *f = popen(command, "r");
    ck_assert_ptr_nonnull(f);
    size_t n = fread(out, 1, 2047, f);
    out[n] = 0;
    int status = pclose(f);
    free(command);
    ck_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void has(const char *text, const char *part) {
    ck_assert_msg(strstr(text, part) != NULL, "'%s' does not say '%s'", text, part);
}

START_TEST(words) {
    static const char *const good[] = {"auto", "cpu", "ref", "cuda", "cuda:0", "cuda:12"};
    static const char *const bad[] = {"",        "gpu",     "cuda:",      "cuda:x",
                                      "cuda:-1", "cuda:1x", "cuda:99999", "CUDA"};
    enum ds_precision p;
    ds_error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(!ds_device_kind_check(good[i], &err), "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(ds_device_kind_check(bad[i], &err) == DS_EINVAL, "'%s'", bad[i]);
    ck_assert(!ds_precision_from_name("tf32", &p, &err) && p == DS_PRECISION_TF32);
    ck_assert_int_eq(ds_precision_from_name("f16", &p, &err), DS_EINVAL);
}
END_TEST

/* The real library on a machine without a driver: it loads, and says what is missing. */
START_TEST(library_without_driver) {
    char *library = ds_xasprintf("%s/libdiffscaler-cuda.so", build()), out[2048];
    if (access(library, R_OK) || has_driver()) {
        ds_test_skip("library_without_driver",
                     has_driver() ? "this machine has an NVIDIA driver"
                                  : "the CUDA library was not built (no nvcc, or sanitizers)");
        free(library);
        return;
    }
    char *environment = ds_xasprintf("DIFFSCALER_CUDA_LIBRARY='%s'", library);
    ck_assert_int_eq(worker(environment, "plan --shape tiny --device cuda:0", out), 3);
    has(out, "no NVIDIA driver (the CUDA library needs one for CUDA ");
    free(environment);
    free(library);
}
END_TEST

START_TEST(messages) {
    char out[2048];
    const char *file = "DIFFSCALER_CUDA_LIBRARY=/dev/null",
               *none = "DIFFSCALER_CUDA_LIBRARY=/none/x",
               *name = "DIFFSCALER_CUDA_LIBRARY=libc.so.6";
    ck_assert_int_eq(worker(none, "plan --shape tiny --device cuda", out), 3);
    has(out, "names '/none/x', which cannot be read");
    ck_assert_int_eq(worker(file, "plan --shape tiny --device cuda", out), 3);
    ck_assert_int_eq(worker(name, "plan --shape tiny --device cuda", out), 2);
    has(out, "must be the path of a file");
    ck_assert_int_eq(worker("", "plan --shape tiny --device gpu", out), 2);
    has(out, "must be auto, cpu, cuda, cuda:N or ref");
    if (!has_driver()) {
        ck_assert_int_eq(worker("", "plan --shape tiny --device cuda", out), 3);
        has(out, "no NVIDIA driver");
        ck_assert_int_eq(worker("", "devices", out), 0);
        has(out, "no NVIDIA driver");
        /* nobody insisted on a GPU, and none is there: not a word about it */
        ck_assert_int_eq(worker("", "plan --shape tiny --batch 2 --device auto", out), 0);
        ck_assert_ptr_null(strstr(out, "cuda"));
    }
}
END_TEST

/* A device with memory of its own: what is free decides now, what there is in all decides whether
 * to wait; all figures are said, and a micro-batch that fits; main memory is counted beside it. */
static size_t room, all;
static size_t room_of(ds_device *dev) {
    (void)dev;
    return room;
}
static size_t all_of(ds_device *dev) {
    (void)dev;
    return all;
}

typedef struct {
    ds_device *dev;
    ds_base *base;
    ds_plan p;
    ds_error err;
    double host, host_most, held;
} own;

static void open_own(own *w) {
    ds_dit_config c = {.channels = 3,
                       .side = 32,
                       .patch = 4,
                       .width = 96,
                       .depth = 3,
                       .heads = 3,
                       .mlp_ratio = 4,
                       .classes = 3,
                       .learn_sigma = 1,
                       .freq_dim = 64,
                       .pixel = 1,
                       .train_steps = 1000,
                       .beta_start = 1e-4,
                       .beta_end = 2e-2};
    ds_device_options cpu = {.kind = "ref"};
    *w = (own){0};
    ck_assert_int_eq(ds_device_open(&w->dev, &cpu, &w->err), 0);
    ck_assert_int_eq(ds_dit_base_new(&w->base, &c, 1, &w->err), 0);
    w->dev->host_memory = 0;
    w->dev->free_bytes = room_of;
    w->dev->total_bytes = all_of;
    room = all = (size_t)16 << 30;
}

static void close_own(own *w) {
    w->dev->host_memory = 1;
    ds_base_free(w->base);
    ds_device_close(w->dev);
}

static int plan_on(own *w) {
    ds_method_spec spec = {
        .method = DS_METHOD_AFFINER, .rank = 4, .targets = 255, .classes = 3, .seed = 1};
    ds_train_options o = {.steps = 10, .batch = 256, .micro_batch = 256, .lr = 1e-3, .ema = 0.9};
    ds_plan_input in = {.limit = w->host,
                        .most = w->host_most,
                        .program = 8 << 20,
                        .nets = 0 /* training is what counts here */,
                        .held = w->held};
    return ds_plan_memory(&w->p, w->dev, w->base, &spec, &o, &in, &w->err);
}

START_TEST(memory_of_its_own) {
    own w;
    open_own(&w);
    ck_assert_msg(!plan_on(&w), "%s", w.err.message);
    double most = w.p.peak;
    ck_assert(w.p.own && w.p.host > 0 && w.p.recompute == 0 && w.p.peak <= w.p.limit);
    room = (size_t)(w.p.peak * 0.98 / 0.95); /* less than it wants: blocks are recomputed */
    ck_assert_msg(!plan_on(&w), "%s", w.err.message);
    ck_assert(w.p.recompute > 0 && w.p.peak < most && w.p.peak <= w.p.limit);
    room = (size_t)16 << 30;
    w.host = 1 << 20; /* the user allows no more main memory */
    ck_assert_int_eq(plan_on(&w), DS_EINVAL);
    has(w.err.message, "main memory");
    ck_assert_int_eq(w.p.never, 0);
    w.host_most = 1 << 30; /* others have it at the moment */
    ck_assert_int_eq(plan_on(&w), DS_ENOMEM);
    has(w.err.message, "main memory and only 1 MiB are available: wait");
    close_own(&w);
}
END_TEST

START_TEST(full_now_or_too_small_for_ever) {
    own w;
    char text[80];
    open_own(&w);
    ck_assert_int_eq(plan_on(&w), 0);
    double need = w.p.peak, copy = w.p.copy, rest = w.p.workspace + w.p.libraries;
    ck_assert(copy > 0 && w.p.libraries >= 256 << 20 && rest < need);
    /* another process has nearly all of it: later */
    room = 100 << 20;
    ck_assert_int_eq(plan_on(&w), DS_ENOMEM);
    ck_assert_int_eq(w.p.never, 0);
    snprintf(text, sizeof text, "training needs %.0f MiB", w.p.peak / (1 << 20));
    has(w.err.message, text);
    has(w.err.message, "(100 MiB are free of 16384 MiB in all): wait");
    /* so much is free that fewer images at a time would fit: said */
    room = (size_t)((rest + 0.6 * (w.p.peak - rest)) / 0.95);
    ck_assert_int_eq(plan_on(&w), DS_ENOMEM);
    has(w.err.message, "micro_batch ");
    /* the whole GPU is too small: never, and what would do */
    all = room + (100 << 20);
    ck_assert_int_eq(plan_on(&w), DS_EINVAL);
    ck_assert_int_eq(w.p.never, 1);
    snprintf(text, sizeof text, "MiB are free of %.0f MiB in all): micro_batch ",
             (double)all / (1 << 20));
    has(w.err.message, text);
    has(w.err.message, "or the device cpu");
    ck_assert_ptr_null(strstr(w.err.message, "wait"));
    close_own(&w);
}
END_TEST

/* The base's copy is on the device before anything is planned: it counts once. */
START_TEST(what_is_held_counts_once) {
    own w;
    open_own(&w);
    ck_assert_int_eq(plan_on(&w), 0);
    double need = w.p.peak, copy = w.p.copy;
    room = (size_t)(need / 0.95) + 4096;
    ck_assert_int_eq(plan_on(&w), 0);
    ck_assert_int_eq(w.p.recompute, 0);
    room -= (size_t)copy;
    ck_assert(plan_on(&w) || w.p.recompute > 0);
    w.held = copy;
    ck_assert_int_eq(plan_on(&w), 0);
    ck_assert_int_eq(w.p.recompute, 0);
    close_own(&w);
}
END_TEST

START_TEST(no_room_says_all_figures) {
    own w;
    open_own(&w);
    room = (size_t)300 << 20;
    ck_assert_int_eq(ds_device_no_room(w.dev, (size_t)1 << 30, &w.err, "batch of %d", 7),
                     DS_ENOMEM);
    has(w.err.message, "batch of 7 needs 1024 MiB, and the GPU () has 16384 MiB in all, 300 MiB");
    ck_assert_int_eq(ds_device_no_room(w.dev, all + 1, &w.err, "it"), DS_EINVAL);
    has(w.err.message, "it needs 16385 MiB");
    close_own(&w);
}
END_TEST

/* tests/emu/graphs.cu: cuDNN knows the patterns of our graphs, and has plans for convolutions. */
START_TEST(graphs_of_cudnn) {
    char *program = ds_xasprintf("%s/tests/emu/graphs", build()), out[4096];
    if (access(program, X_OK)) {
        ds_test_skip("graphs_of_cudnn", "it was not built (no nvcc, no cuDNN, or sanitizers)");
        free(program);
        return;
    }
    FILE *f = popen(program, "r");
    ck_assert_ptr_nonnull(f);
    out[fread(out, 1, sizeof out - 1, f)] = 0;
    int status = pclose(f);
    ck_assert_msg(status == 0, "%s", out);
    free(program);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, graphs_of_cudnn);
    tcase_add_test(tc, words);
    tcase_add_test(tc, library_without_driver);
    tcase_add_test(tc, messages);
    tcase_add_test(tc, memory_of_its_own);
    tcase_add_test(tc, full_now_or_too_small_for_ever);
    tcase_add_test(tc, what_is_held_counts_once);
    tcase_add_test(tc, no_room_says_all_figures);
}

int main(void) { return ds_test_main("system_cuda", register_cases); }
