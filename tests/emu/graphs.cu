/* tests/emu/graphs.cu - cuDNN itself reads the graphs of kernels/cuda/lib/dnn_graph.cu, without a GPU.
 *
 * cuDNN's graph library takes a description of a device instead of one (here an H100's).  So the
 * graphs are sealed, its heuristics look at them, and convolutions get a plan.  For attention the
 * engine has to load the driver to go on: that it gets so far shows that the pattern is known.
 * Built by the Makefile where nvcc and cuDNN are, run by tests/system/test_system_cuda.c; exit 0 = as
 * expected, else a line says what is not. */
#include "kernels/cuda/lib/dnn_graph.cu"
#include "kernels/cuda/lib/lib_dnn.cu"

static const char device[] =
    "{\"deviceVer\":900,\"driverVer\":13000,\"maxGridSize\":[2147483647,65535,65535],"
    "\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,\"multiProcessorCount\":132,"
    "\"smClockRateKHz\":1980000,\"memClockRateKHz\":2619000,\"l2CacheSize\":52428800,"
    "\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":232448,"
    "\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,\"pciDeviceId\":9008,"
    "\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":2048,\"isTccDriver\":0,"
    "\"supportCoopLaunch\":1,\"cudaDeviceId\":0,\"totalGlobalMem\":85899345920,"
    "\"deviceName\":\"NVIDIA H100 80GB HBM3\"}";

/* What lib_dnn.cu takes from the other files; nothing here runs anything. */
void ds_lib_enter(ds_cuda *) {}
void *ds_lib_alloc(ds_cuda *, size_t) { return NULL; }
void ds_lib_free(ds_cuda *, void *) {}
void ds_cuda_fatal(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

void ds_cuda_no_room(ds_cuda *, const char *what, size_t) { ds_cuda_fatal(what, "no room"); }

static dnn_graph *described(const dnn_key *k) {
    dnn_graph *g = ds_dnn_state(NULL, k);
    g->device = ds_dnn_make(g, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
    ds_dnn_put(g, g->device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
               strlen(device), device);
    ds_dnn_seal(g, g->device);
    return g;
}

/* "a plan (engine E, workspace of N bytes)". */
static const char *about(dnn_plan *p) {
    static char text[96];
    desc config = NULL, engine = NULL;
    int64_t got = 0, number = -1;
    if (get_list(p->graph, p->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG,
                 CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &config, 1) == 1 &&
        get_list(p->graph, config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR,
                 &engine, 1) == 1)
        cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &got,
                                 &number);
    snprintf(text, sizeof text, "a plan (engine %lld, workspace of %zu bytes)", (long long)number,
             take_workspace(p) ? p->workspace : 0);
    return text;
}

/* 0: cuDNN has a plan for the graph, or would have if there were a driver. */
static int look_at(const dnn_key *k, const char *name) {
    static char why[4096];
    dnn_plan p = {};
    dnn_key usual = *k;
    usual.B = k->kind == CONV ? CONV_BATCH : ATTENTION_BATCH;
    p.key = *k;
    p.graph = described(k);
    p.reference = described(&usual);
    int sealed = !p.graph->status && !p.reference->status;
    if (sealed) {
        find_engine(&p, CUDNN_HEUR_MODE_A);
        cudnnGetLastErrorString(why, sizeof why); /* also when it succeeds otherwise */
    }
    int known = p.plan || strstr(why, "RUNTIME_PREREQUISITE_MISSING");
    printf("%s: %s\n", name,
           !sealed  ? cudnnGetErrorString(p.graph->status)
           : p.plan ? about(&p)
           : known  ? "known, but for the driver"
                    : why);
    ds_dnn_graph_free(p.graph);
    ds_dnn_graph_free(p.reference);
    return sealed && known ? 0 : 1;
}

/* 0: a convolution in TF32 has a plan that keeps no partial sums in a workspace, whatever the
 * batch; how many tiles are left over at its end, and so which sums would be split, depends on it.
 */
static int is_whole(const dnn_key *k, const char *name) {
    static const int batches[] = {1, 2, 4, 7, 8, 24, 48, 64};
    size_t most = 0;
    int plans = 0;
    for (int batch : batches) {
        dnn_plan p = {};
        p.key = *k;
        p.key.B = CONV_BATCH;
        p.reference = described(&p.key);
        p.key.B = batch;
        p.graph = described(&p.key);
        find_engine(&p, CUDNN_HEUR_MODE_A);
        plans += p.plan && take_workspace(&p);
        most = p.workspace > most ? p.workspace : most;
        ds_dnn_graph_free(p.graph);
        ds_dnn_graph_free(p.reference);
    }
    int whole = plans == sizeof batches / sizeof *batches && most < 4096;
    printf("%s: %d plans, workspace of at most %zu bytes%s\n", name, plans, most,
           whole ? "" : ": sums are split");
    return !whole;
}

static dnn_key attention(enum kind kind, int inference, int B, int T, int D, int H) {
    dnn_key k;
    memset(&k, 0, sizeof k);
    k.kind = kind;
    k.inference = inference;
    k.B = B;
    k.T = T;
    k.D = D;
    k.H = H;
    return k;
}

int main() {
    int bad = 0;
    dnn_key k = attention(FORWARD, 0, 4, 256, 1152, 16);
    bad += look_at(&k, "attention, head 72");
    k = attention(FORWARD, 1, 7, 64, 192, 3);
    bad += look_at(&k, "attention, head 64, sampling");
    k = attention(BACKWARD, 0, 4, 256, 1152, 16);
    bad += look_at(&k, "its gradient, head 72");
    k = attention(BACKWARD, 0, 3, 64, 192, 3);
    bad += look_at(&k, "its gradient, head 64");
    memset(&k, 0, sizeof k);
    k.kind = CONV;
    k.B = 5;
    k.geo = ds_conv{0, 35, 35, 64, 96, 3, 3, 1, 1, 1};
    bad += look_at(&k, "convolution 3 x 3");
    k.geo = ds_conv{0, 17, 17, 768, 192, 1, 7, 1, 0, 3};
    bad += look_at(&k, "convolution 1 x 7");
    k.geo = ds_conv{0, 299, 299, 3, 32, 3, 3, 2, 0, 0};
    bad += look_at(&k, "convolution of a picture, stride 2");
    k.tf32 = 1;
    bad += look_at(&k, "the same in TF32");
    k.geo = ds_conv{0, 17, 17, 160, 160, 7, 1, 1, 3, 0};
    bad += look_at(&k, "convolution 7 x 1 in TF32");
    k.geo = ds_conv{0, 35, 35, 288, 384, 3, 3, 2, 0, 0};
    bad += is_whole(&k, "convolution 3 x 3, stride 2, in TF32");
    k.geo = ds_conv{0, 8, 8, 384, 384, 1, 3, 1, 0, 1};
    bad += is_whole(&k, "convolution 1 x 3 in TF32");
    return bad != 0;
}
