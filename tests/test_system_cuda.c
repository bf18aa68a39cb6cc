/* tests/test_system_cuda.c - the CUDA device as users meet it: words that choose it, messages where
 * it cannot be had, and the memory of a device of its own.  What it computes: test_kernels_*. */
#include "base/mem.h"
#include "engine/linalg.h"
#include "tests/harness.h"
#include "worker/device.h"
#include "worker/plan.h"

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
    has(out, "use auto, cpu, cuda, cuda:N or ref");
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

/* A device with memory of its own: its room decides, both figures are said, and a micro-batch that
 * fits; main memory is counted beside it. */
static size_t room;
static size_t room_of(ds_device *dev) {
    (void)dev;
    return room;
}

static int plan_on(ds_plan *p, ds_device *dev, const ds_base *base, double limit, ds_error *err) {
    ds_method_spec spec = {
        .method = DS_METHOD_AFFINER, .rank = 4, .targets = 255, .classes = 3, .seed = 1};
    ds_train_options o = {.steps = 10, .batch = 64, .micro_batch = 64, .lr = 1e-3, .ema = 0.9};
    ds_plan_input in = {.limit = limit, .program = 8 << 20, .nets = 1};
    return ds_plan_memory(p, dev, base, &spec, &o, &in, err);
}

START_TEST(memory_of_its_own) {
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
    ds_device *dev;
    ds_base *base;
    ds_plan p;
    ds_error err = {0};
    ck_assert_int_eq(ds_device_open(&dev, &cpu, &err), 0);
    ck_assert_int_eq(ds_base_new(&base, &c, 1, &err), 0);
    dev->host_memory = 0;
    dev->free_bytes = room_of;
    room = (size_t)8 << 30;
    ck_assert_msg(!plan_on(&p, dev, base, 0, &err), "%s", err.message);
    double most = p.peak;
    ck_assert(p.own && p.host > 0 && p.recompute == 0 && p.peak <= p.limit);
    room = (size_t)(p.evaluate * 1.02 / 0.95); /* less than training wants: blocks are recomputed */
    int rc = plan_on(&p, dev, base, 0, &err);
    ck_assert(p.recompute > 0 && p.peak < most && (rc == 0) == (p.peak <= p.limit));
    room = 1 << 20;
    ck_assert_int_eq(plan_on(&p, dev, base, 0, &err), DS_EINVAL);
    has(err.message, "MiB");
    room = (size_t)8 << 30;
    ck_assert_int_eq(plan_on(&p, dev, base, 1 << 20, &err), DS_EINVAL);
    has(err.message, "main memory");
    dev->host_memory = 1;
    ds_base_free(base);
    ds_device_close(dev);
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

/* Large problems without vectors go to the device; one that refuses leaves them to LAPACK. */
static int asked, refuses;
static int eigenvalues(ds_device *dev, double *w, double *a, int n) {
    (void)dev, (void)a;
    asked++;
    for (int i = 0; !refuses && i < n; i++)
        w[i] = 7;
    return refuses;
}

START_TEST(eigenvalues_by_the_device) {
    enum { N = 256 };
    ds_device dev = {.eigenvalues = eigenvalues};
    double *a = ds_xmalloc(N * N * sizeof *a), w[N];
    for (int round = 0; round < 4; round++) { /* done, refused, with vectors, no device */
        for (int i = 0; i < N * N; i++)
            a[i] = i % (N + 1) ? 0 : i / (N + 1) + 1;
        asked = 0;
        refuses = round == 1;
        ds_linalg_use(round == 3 ? NULL : &dev);
        ck_assert_int_eq(ds_eigen_symmetric(a, w, N, round == 2, NULL), 0);
        ck_assert_int_eq(asked, round < 2);
        ck_assert_double_eq_tol(w[N - 1], round ? N : 7, 1e-10);
    }
    ds_linalg_use(NULL);
    free(a);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, eigenvalues_by_the_device);
    tcase_add_test(tc, graphs_of_cudnn);
    tcase_add_test(tc, words);
    tcase_add_test(tc, library_without_driver);
    tcase_add_test(tc, messages);
    tcase_add_test(tc, memory_of_its_own);
}

int main(void) { return ds_test_main("system_cuda", register_cases); }
