/* kernels/cuda/load.c - finds and opens the CUDA library.
 *
 * Searched: $DIFFSCALER_CUDA_LIBRARY, the program's folder, ../lib/diffscaler beside it. */
#include "kernels/cuda/entry.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int beside(char *path, size_t size, const char *middle) {
    char exe[512];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0)
        return -1;
    exe[n] = 0;
    char *slash = strrchr(exe, '/');
    if (!slash)
        return -1;
    *slash = 0;
    int need = snprintf(path, size, "%s/%s%s", exe, middle, DS_CUDA_LIBRARY);
    return need > 0 && (size_t)need < size && access(path, R_OK) == 0 ? 0 : -1;
}

int ds_device_cuda_driver(void) {
    static void *driver; /* never closed; the second thread that asks opens the same */
    if (!driver)
        driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    return driver != NULL;
}

/* A name without a folder would be looked for on the path of libraries instead. */
static int named_library(char *path, size_t size, const char *named, ds_error *err) {
    struct stat st;
    int need = snprintf(path, size, "%s", named);
    if (need < 0 || (size_t)need >= size || !strchr(named, '/'))
        return ds_fail(err, DS_EINVAL,
                       "cannot open the cuda device: $DIFFSCALER_CUDA_LIBRARY is '%.200s', must be "
                       "the path of a file",
                       named);
    if (stat(path, &st) || !S_ISREG(st.st_mode) || access(path, R_OK))
        return ds_fail(err, DS_ENOTFOUND,
                       "cannot open the cuda device: $DIFFSCALER_CUDA_LIBRARY names '%s', "
                       "which cannot be read",
                       named);
    return 0;
}

static int find_library(char *path, size_t size, ds_error *err) {
    const char *named = secure_getenv("DIFFSCALER_CUDA_LIBRARY");
    if (named && *named)
        return named_library(path, size, named, err);
    /* Before a library of hundreds of megabytes is mapped for nothing. */
    if (!ds_device_cuda_driver())
        return ds_fail(err, DS_ENOTFOUND,
                       "cannot open the cuda device: this machine has no NVIDIA driver "
                       "(libcuda.so.1); use the device cpu");
    if (beside(path, size, "") == 0 || beside(path, size, "../lib/diffscaler/") == 0)
        return 0;
    return ds_fail(err, DS_ENOTFOUND,
                   "cannot open the cuda device: %s is not there; build on a machine with nvcc "
                   "('make'), or use the device cpu",
                   DS_CUDA_LIBRARY);
}

int ds_device_open_cuda(ds_device **out, const ds_device_options *opt, ds_error *err) {
    static const ds_cuda_abi abi = DS_CUDA_ABI;
    static const ds_device_options plain = {.precision = DS_PRECISION_BF16};
    char path[640];
    *out = NULL;
    int rc = find_library(path, sizeof path, err);
    if (rc)
        return rc;
    /* Never closed: the driver keeps threads of its own. */
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return ds_fail(err, DS_ENOTFOUND,
                       "cannot open the cuda device: %s; install NVIDIA's libraries that it was "
                       "built with, or use the device cpu",
                       dlerror());
    ds_cuda_device_open_fn *open;
    *(void **)&open = dlsym(library, "ds_cuda_device_open");
    if (!open)
        return ds_fail(err, DS_EINVAL, "'%s' is not the CUDA library of diffscaler", path);
    return open(out, opt ? opt : &plain, &abi, err);
}
