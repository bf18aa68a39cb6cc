/* kernels/cuda/lib/lib_runtime.cu - the CUDA runtime: choice of a device, memory, copies, graphs.
 * Contract in lib.h.  Source: CUDA Runtime API and CUDA C++ Programming Guide ("CUDA Graphs",
 * "CUDA Compatibility": a driver runs libraries of its own and of earlier major versions).
 */
#include "kernels/cuda/lib/handles.h"

#include <atomic>
#include <stdio.h>
#include <stdlib.h>

/* Below this much free memory nothing useful fits beside the libraries' own code and workspace. */
static const size_t LEAST_FREE = (size_t)1 << 30;
enum { LEAST_CAPABILITY = 80 }; /* Ampere: bf16 products */

static thread_local int entered = -1;

/* Bit i: device i was opened in this process.  Never cleared: its context stays. */
static std::atomic<unsigned long long> in_use;

void ds_lib_enter(ds_cuda *c) {
    if (entered == c->ordinal)
        return;
    ds_lib_must(cudaSetDevice(c->ordinal), "cudaSetDevice");
    entered = c->ordinal;
}

void ds_lib_must(cudaError_t status, const char *what) {
    if (status != cudaSuccess)
        ds_cuda_fatal(what, cudaGetErrorString(status));
}

/* The same for a call that takes memory. */
static void must_have_room(ds_cuda *c, cudaError_t status, const char *what) {
    if (status == cudaErrorMemoryAllocation)
        ds_cuda_no_room(c, what, 0);
    ds_lib_must(status, what);
}

void ds_cuda_check_launch(ds_cuda *c, const void *kernel) {
    cudaError_t status = cudaGetLastError();
    if (status == cudaSuccess)
        return;
    const char *name = NULL;
    if (cudaFuncGetName(&name, kernel) != cudaSuccess || !name)
        name = "a kernel";
    if (status == cudaErrorMemoryAllocation) /* its code is loaded when it first runs */
        ds_cuda_no_room(c, name, 0);
    ds_cuda_fatal(name, cudaGetErrorString(status));
}

/* ---------------------------------------------------------------- choice of the device */

static int check_driver(ds_error *err) {
    int driver = 0, built = CUDART_VERSION;
    cudaDriverGetVersion(&driver);
    if (driver == 0)
        return ds_fail(err, DS_ENOTFOUND,
                       "cannot open the cuda device: this machine has no NVIDIA driver (the CUDA "
                       "library needs one for CUDA %d.%d); use the device cpu",
                       built / 1000, built % 1000 / 10);
    if (driver / 1000 < built / 1000)
        return ds_fail(err, DS_ENOTFOUND,
                       "cannot open the cuda device: the NVIDIA driver is for CUDA %d.%d and the "
                       "CUDA library was built with %d.%d: update the driver, build with an "
                       "earlier CUDA toolkit, or use the device cpu",
                       driver / 1000, driver % 1000 / 10, built / 1000, built % 1000 / 10);
    return 0;
}

static size_t free_of(int ordinal) {
    size_t room = 0, all = 0;
    if (cudaSetDevice(ordinal) != cudaSuccess || cudaMemGetInfo(&room, &all) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return room;
}

/* The device with the most free memory.  Asking takes a context on each; those of the others are
 * given back, but not from under a device that is open. */
static int roomiest(int count) {
    int best = 0;
    size_t most = 0;
    for (int i = 0; i < count; i++) {
        size_t room = free_of(i);
        if (room > most) {
            most = room;
            best = i;
        }
    }
    for (int i = 0; i < count; i++)
        if (i != best && !(in_use >> (i % 64) & 1) && cudaSetDevice(i) == cudaSuccess)
            cudaDeviceReset();
    return best;
}

static int choose(int *ordinal, ds_error *err) {
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0)
        return ds_fail(err, DS_ENOTFOUND,
                       "cannot open the cuda device: %s; 'nvidia-smi' shows what the driver sees, "
                       "or use the device cpu",
                       status != cudaSuccess ? cudaGetErrorString(status) : "there is no GPU");
    if (*ordinal >= count)
        return ds_fail(err, DS_ENOTFOUND,
                       "cannot open cuda:%d: the driver shows %d of them, the last is cuda:%d",
                       *ordinal, count, count - 1);
    if (*ordinal < 0)
        *ordinal = count == 1 ? 0 : roomiest(count);
    return 0;
}

static __global__ void nothing() {}

/* Is there machine code for this device?  Only Hopper's is in the library; for others the driver
 * makes it from PTX, which one that is older than the toolkit does not read. */
static int check_code(const ds_cuda *c, ds_error *err) {
    cudaFuncAttributes a;
    cudaError_t status = cudaFuncGetAttributes(&a, nothing);
    if (status == cudaSuccess)
        return 0;
    cudaGetLastError();
    return ds_fail(err, DS_ENOTFOUND,
                   "cannot open cuda:%d: the CUDA library has no code that its driver takes for %s "
                   "(%s): update the NVIDIA driver, or use the device cpu",
                   c->ordinal, c->gpu, cudaGetErrorString(status));
}

static int check_device(ds_cuda *c, ds_error *err) {
    cudaDeviceProp p;
    cudaError_t status = cudaSetDevice(c->ordinal);
    size_t room = 0, all = 0;
    if (status == cudaSuccess)
        status = cudaGetDeviceProperties(&p, c->ordinal);
    if (status == cudaSuccess)
        status = cudaMemGetInfo(&room, &all);
    if (status != cudaSuccess)
        return ds_fail(err, DS_EBUSY, "cannot open cuda:%d: %s; try again, or use the device cpu",
                       c->ordinal, cudaGetErrorString(status));
    in_use |= 1ull << (c->ordinal % 64);
    c->sm = p.major * 10 + p.minor;
    c->sms = p.multiProcessorCount;
    snprintf(c->gpu, sizeof c->gpu, "%.60s", p.name);
    if (c->sm < LEAST_CAPABILITY)
        return ds_fail(err, DS_ENOTFOUND,
                       "cannot open cuda:%d: %s has compute capability %d.%d, and 8.0 (Ampere) or "
                       "later is needed; use the device cpu",
                       c->ordinal, c->gpu, p.major, p.minor);
    if (room < LEAST_FREE)
        return ds_fail(err, all < LEAST_FREE ? DS_ENOTFOUND : DS_ENOMEM,
                       "cannot open cuda:%d: %s has %zu MiB of %zu MiB free, and at least %zu MiB "
                       "are needed: end what else runs there ('nvidia-smi'), or use the device cpu",
                       c->ordinal, c->gpu, room >> 20, all >> 20, LEAST_FREE >> 20);
    return check_code(c, err);
}

static int open_stream(ds_cuda *c, ds_error *err) {
    ds_lib *lib = c->lib;
    cudaError_t status = cudaStreamCreateWithFlags(&lib->stream, cudaStreamNonBlocking);
    for (int i = 0; i < DS_STAGES && status == cudaSuccess; i++) {
        status = cudaHostAlloc(&lib->stage[i], DS_STAGE_BYTES, cudaHostAllocDefault);
        if (status == cudaSuccess)
            status = cudaEventCreateWithFlags(&lib->staged[i], cudaEventDisableTiming);
    }
    for (int i = 0; i < DS_FETCHES && status == cudaSuccess; i++) {
        status = cudaHostAlloc(&lib->fetch[i], DS_FETCH_BYTES, cudaHostAllocDefault);
        if (status == cudaSuccess)
            status = cudaEventCreateWithFlags(&lib->came[i], cudaEventDisableTiming);
    }
    c->stream = lib->stream;
    if (status != cudaSuccess)
        return ds_fail(err, DS_EBUSY, "cannot open cuda:%d: %s", c->ordinal,
                       cudaGetErrorString(status));
    return 0;
}

int ds_lib_open(ds_cuda *c, int ordinal, ds_error *err) {
    int rc = check_driver(err);
    entered = -1; /* the thread's device changes while they are looked at */
    if (rc == 0)
        rc = choose(&ordinal, err);
    if (rc)
        return rc;
    c->ordinal = ordinal;
    rc = check_device(c, err);
    if (rc)
        return rc;
    ds_lib_enter(c);
    c->lib = (ds_lib *)calloc(1, sizeof *c->lib);
    rc = open_stream(c, err);
    if (rc == 0)
        rc = ds_lib_blas_open(c, err);
    if (rc == 0)
        rc = ds_lib_dnn_open(c, err);
    if (rc)
        ds_lib_close(c);
    return rc;
}

void ds_lib_close(ds_cuda *c) {
    ds_lib *lib = c->lib;
    if (!lib)
        return;
    ds_lib_enter(c);
    if (lib->stream)
        cudaStreamSynchronize(lib->stream);
    ds_lib_dnn_close(c);
    ds_lib_blas_close(c);
    for (int i = 0; i < DS_STAGES; i++) {
        if (lib->staged[i])
            cudaEventDestroy(lib->staged[i]);
        if (lib->stage[i])
            cudaFreeHost(lib->stage[i]);
    }
    for (int i = 0; i < DS_FETCHES; i++) {
        if (lib->came[i])
            cudaEventDestroy(lib->came[i]);
        if (lib->fetch[i])
            cudaFreeHost(lib->fetch[i]);
    }
    if (lib->stream)
        cudaStreamDestroy(lib->stream);
    free(lib);
    c->lib = NULL;
}

/* ---------------------------------------------------------------- memory */

void *ds_lib_alloc(ds_cuda *c, size_t bytes) {
    void *p = NULL;
    ds_lib_enter(c);
    cudaError_t status = cudaMalloc(&p, bytes);
    if (status == cudaSuccess)
        return p;
    if (status != cudaErrorMemoryAllocation) /* an error of an earlier op that shows here */
        ds_cuda_fatal("cudaMalloc", cudaGetErrorString(status));
    cudaGetLastError();
    return NULL;
}

void ds_lib_free(ds_cuda *c, void *p) {
    if (!p)
        return;
    ds_lib_sync(c);
    ds_lib_must(cudaFree(p), "cudaFree");
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* The next stage, when its last copy is over. */
static int take_stage(ds_lib *lib) {
    int at = lib->turn;
    lib->turn = (at + 1) % DS_STAGES;
    ds_lib_must(cudaEventSynchronize(lib->staged[at]), "waiting for a copy");
    return at;
}

void ds_lib_upload(ds_cuda *c, void *dst, const void *src_host, size_t bytes) {
    ds_lib *lib = c->lib;
    ds_lib_enter(c);
    for (size_t done = 0; done < bytes; done += DS_STAGE_BYTES) {
        size_t part = least(bytes - done, DS_STAGE_BYTES);
        int at = take_stage(lib);
        memcpy(lib->stage[at], (const char *)src_host + done, part);
        ds_lib_must(cudaMemcpyAsync((char *)dst + done, lib->stage[at], part,
                                    cudaMemcpyHostToDevice, lib->stream),
                    "an upload");
        ds_lib_must(cudaEventRecord(lib->staged[at], lib->stream), "an upload");
    }
}

void ds_lib_download(ds_cuda *c, void *dst_host, const void *src, size_t bytes) {
    ds_lib *lib = c->lib;
    size_t parts = (bytes + DS_STAGE_BYTES - 1) / DS_STAGE_BYTES;
    int at[DS_STAGES];
    ds_lib_enter(c);
    for (size_t i = 0; i < parts + 1; i++) { /* part i sets off, part i - 1 is taken */
        if (i < parts) {
            int stage = at[i % DS_STAGES] = take_stage(lib);
            size_t skip = i * DS_STAGE_BYTES;
            ds_lib_must(cudaMemcpyAsync(lib->stage[stage], (const char *)src + skip,
                                        least(bytes - skip, DS_STAGE_BYTES), cudaMemcpyDeviceToHost,
                                        lib->stream),
                        "a download");
            ds_lib_must(cudaEventRecord(lib->staged[stage], lib->stream), "a download");
        }
        if (i == 0)
            continue;
        int stage = at[(i - 1) % DS_STAGES];
        size_t skip = (i - 1) * DS_STAGE_BYTES;
        ds_lib_must(cudaEventSynchronize(lib->staged[stage]), "a download");
        memcpy((char *)dst_host + skip, lib->stage[stage], least(bytes - skip, DS_STAGE_BYTES));
    }
}

void ds_lib_fetch(ds_cuda *c, int slot, const void *src, size_t bytes) {
    ds_lib *lib = c->lib;
    ds_lib_enter(c);
    ds_lib_must(cudaMemcpyAsync(lib->fetch[slot], src, bytes, cudaMemcpyDeviceToHost, lib->stream),
                "a download");
    ds_lib_must(cudaEventRecord(lib->came[slot], lib->stream), "a download");
}

void ds_lib_fetched(ds_cuda *c, int slot, void *dst_host, size_t bytes) {
    ds_lib_enter(c);
    ds_lib_must(cudaEventSynchronize(c->lib->came[slot]), "a download");
    memcpy(dst_host, c->lib->fetch[slot], bytes);
}

void ds_lib_sync(ds_cuda *c) {
    ds_lib_enter(c);
    ds_lib_must(cudaStreamSynchronize(c->lib->stream), "waiting for the GPU");
}

static size_t memory_of(ds_cuda *c, int total) {
    size_t room = 0, all = 0;
    ds_lib_enter(c);
    ds_lib_must(cudaMemGetInfo(&room, &all), "cudaMemGetInfo");
    return total ? all : room;
}

size_t ds_lib_free_bytes(ds_cuda *c) { return memory_of(c, 0); }
size_t ds_lib_total_bytes(ds_cuda *c) { return memory_of(c, 1); }
size_t ds_lib_workspace_bytes(ds_cuda *c) { return c->lib->workspace_bytes; }

/* ---------------------------------------------------------------- recording */

/* Relaxed: the libraries may ask the driver for something meanwhile; what an op needs was made when
 * it ran for the first time. */
int ds_lib_record_begin(ds_cuda *c) {
    ds_lib_enter(c);
    cudaError_t status = cudaStreamBeginCapture(c->lib->stream, cudaStreamCaptureModeRelaxed);
    if (status != cudaSuccess)
        cudaGetLastError();
    return status != cudaSuccess;
}

void *ds_lib_record_end(ds_cuda *c) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready = NULL;
    ds_lib_must(cudaStreamEndCapture(c->lib->stream, &graph), "recording a graph");
    must_have_room(c, cudaGraphInstantiate(&ready, graph, 0), "a recorded graph");
    ds_lib_must(cudaGraphDestroy(graph), "making a graph");
    return ready;
}

void ds_lib_graph_launch(ds_cuda *c, void *graph) {
    ds_lib_enter(c);
    must_have_room(c, cudaGraphLaunch((cudaGraphExec_t)graph, c->lib->stream), "running a graph");
}

void ds_lib_graph_free(ds_cuda *c, void *graph) {
    ds_lib_sync(c);
    ds_lib_must(cudaGraphExecDestroy((cudaGraphExec_t)graph), "freeing a graph");
}
