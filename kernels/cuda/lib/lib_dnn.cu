/* kernels/cuda/lib/lib_dnn.cu - fused attention and convolution by cuDNN's graph API.
 *
 * An operation is stated as a graph (dnn_graph.h); cuDNN knows the patterns of flash attention and
 * runs each as one kernel, so scores never reach memory.  A plan is made once for a shape and kept.
 *  Which engine serves a shape is asked for at a fixed batch size and then used for every one, so
 * that a sample's bytes do not depend on those beside it.  When cuDNN has no plan for a shape, that
 * is remembered and our own kernels run.
 *
 * Source: cuDNN backend API (graph library); the patterns are those of its documentation of scaled
 * dot product attention, with natural-logarithm statistics, stats = max + log sum exp.
 */
#include "kernels/cuda/lib/handles.h"

#ifdef DS_NO_CUDNN

int ds_lib_dnn_open(ds_cuda *, ds_error *) { return 0; }
void ds_lib_dnn_close(ds_cuda *) {}
int ds_lib_attention_forward(ds_cuda *, void *, float *, const void *, int, int, int, int) {
    return 1;
}
int ds_lib_attention_backward(ds_cuda *, void *, const void *, const void *, const float *,
                              const void *, int, int, int, int) {
    return 1;
}
int ds_lib_conv(ds_cuda *, float *, const float *, const float *, const ds_conv *, int) {
    return 1;
}

#else

#include "kernels/cuda/lib/dnn_graph.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_CONFIGS = 128, MAX_KNOBS = 32, MAX_BOUND = 12 };
enum { ATTENTION_BATCH = 64, CONV_BATCH = 64 }; /* at which engines are chosen */

struct dnn_plan {
    dnn_key key;
    dnn_graph *graph, *reference; /* own what the plan was made of */
    desc plan;                    /* NULL: cuDNN has none for this shape */
    size_t workspace;
};

struct ds_lib_dnn {
    cudnnHandle_t handle;
    dnn_plan *plans;
    int count, room;
    void *workspace; /* of every plan, in turn; behind it what a backward pass keeps */
    size_t workspace_bytes;
};

int ds_lib_dnn_open(ds_cuda *c, ds_error *err) {
    ds_lib_dnn *dnn = (ds_lib_dnn *)calloc(1, sizeof *dnn);
    c->lib->dnn = dnn;
    cudnnStatus_t status = cudnnCreate(&dnn->handle);
    if (status == CUDNN_STATUS_SUCCESS)
        status = cudnnSetStream(dnn->handle, c->lib->stream);
    if (status != CUDNN_STATUS_SUCCESS)
        return ds_fail(err, DS_EBUSY, "cannot open cuda:%d: cuDNN: %s", c->ordinal,
                       cudnnGetErrorString(status));
    return 0;
}

/* ---------------------------------------------------------------- engines and plans */

/* Fills list with descriptors that belong to g; returns how many. */
static int get_list(dnn_graph *g, desc from, cudnnBackendAttributeName_t name,
                    cudnnBackendDescriptorType_t type, desc *list, int most) {
    int64_t count = 0;
    for (int i = 0; i < most; i++)
        list[i] = ds_dnn_make(g, type);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status =
            cudnnBackendGetAttribute(from, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &count, list);
    if (g->status != CUDNN_STATUS_SUCCESS)
        return 0;
    return count < most ? (int)count : most;
}

/* May this engine be used?  Results do not depend on the clock.  Convolutions besides: sums of f32
 * products, no transforms; TF32 (which is what a tensor core makes of f32) where it is asked for.
 */
static bool fits(desc engine, const dnn_key *key) {
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t count = 0;
    if (cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                 CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &count,
                                 notes) != CUDNN_STATUS_SUCCESS)
        return false;
    for (int64_t i = 0; i < count && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++)
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC ||
            (key->kind == CONV && notes[i] != CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP &&
             !(key->tf32 && notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE)))
            return false;
    return true;
}

/* The knobs of a configuration, made anew for another graph.  One is set for convolutions: with it
 * at 0 engine 67 (TF32) shares tiles that do not fill the GPU out along their sums, through a
 * workspace, and which tiles these are depends on the batch; at 1 it never does.  Not documented:
 * seen in the workspaces of plans for an H100 (tests/emu/graphs.cu). */
static int copy_knobs(dnn_graph *from, desc config, dnn_graph *to, desc *knobs,
                      const dnn_key *key) {
    desc old[MAX_KNOBS];
    int count = get_list(from, config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                         CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, old, MAX_KNOBS);
    for (int i = 0; i < count; i++) {
        cudnnBackendKnobType_t type;
        int64_t value = 0, got = 0;
        if (cudnnBackendGetAttribute(old[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE,
                                     1, &got, &type) != CUDNN_STATUS_SUCCESS ||
            cudnnBackendGetAttribute(old[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1,
                                     &got, &value) != CUDNN_STATUS_SUCCESS) {
            to->status = CUDNN_STATUS_NOT_SUPPORTED;
            return 0;
        }
        if (key->kind == CONV && type == CUDNN_KNOB_TYPE_WORKSPACE)
            value = 1;
        knobs[i] = ds_dnn_make(to, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        ds_dnn_put(to, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
        ds_dnn_put(to, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &value);
        ds_dnn_seal(to, knobs[i]);
    }
    return count;
}

/* A plan for `to` with the engine and the knobs of a configuration that was found for `from`; NULL
 * if there is none.  Descriptors made on the way belong to the graphs. */
static desc plan_with(dnn_graph *from, desc config, dnn_graph *to, const dnn_key *key) {
    desc knobs[MAX_KNOBS], old;
    int64_t index = -1, got = 0;
    if (get_list(from, config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &old,
                 1) != 1 ||
        !fits(old, key) ||
        cudnnBackendGetAttribute(old, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &got,
                                 &index) != CUDNN_STATUS_SUCCESS)
        return NULL;
    desc engine = ds_dnn_make(to, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    ds_dnn_put_desc(to, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, to->whole);
    ds_dnn_put(to, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &index);
    if (to->device)
        ds_dnn_put_desc(to, engine, CUDNN_ATTR_ENGINE_DEVICEPROP, to->device);
    ds_dnn_seal(to, engine);
    int count = copy_knobs(from, config, to, knobs, key);
    desc mine = ds_dnn_make(to, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    ds_dnn_put_desc(to, mine, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    if (count)
        ds_dnn_put(to, mine, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                   count, knobs);
    ds_dnn_seal(to, mine);
    desc plan = ds_dnn_make(to, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (to->device)
        ds_dnn_put_desc(to, plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, to->device);
    else
        ds_dnn_put(to, plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &to->handle);
    ds_dnn_put_desc(to, plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, mine);
    ds_dnn_seal(to, plan);
    bool whole = from->status == CUDNN_STATUS_SUCCESS; /* with all its knobs */
    return whole && to->status == CUDNN_STATUS_SUCCESS ? plan : NULL;
}

/* Back to `kept` descriptors, without the failure of what came after them. */
static void back_to(dnn_graph *g, int kept) {
    while (g->count > kept)
        cudnnBackendDestroyDescriptor(g->all[--g->count]);
    g->status = CUDNN_STATUS_SUCCESS;
}

/* The first configuration of the list of `mode` that works for the graph of this batch. */
static void find_engine(dnn_plan *p, cudnnBackendHeurMode_t mode) {
    desc configs[MAX_CONFIGS];
    dnn_graph *from = p->reference, *to = p->graph;
    if (p->plan)
        return;
    int start = from->count;
    desc ask = ds_dnn_make(from, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    ds_dnn_put_desc(from, ask, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, from->whole);
    ds_dnn_put(from, ask, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (from->device)
        ds_dnn_put_desc(from, ask, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, from->device);
    ds_dnn_seal(from, ask);
    int count = get_list(from, ask, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                         CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, configs, MAX_CONFIGS);
    int kept = from->count, kept_to = to->count;
    for (int i = 0; i < count && !p->plan; i++) {
        p->plan = plan_with(from, configs[i], to, &p->key);
        if (p->plan)
            return;
        back_to(from, kept);
        back_to(to, kept_to);
    }
    back_to(from, start);
}

static bool take_workspace(dnn_plan *p) {
    int64_t got = 0, bytes = 0;
    cudnnStatus_t status = cudnnBackendGetAttribute(
        p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &got, &bytes);
    p->workspace = (size_t)bytes;
    return status == CUDNN_STATUS_SUCCESS;
}

/* From now on our own kernels do it. */
static void give_up(dnn_plan *p) {
    static const char *const names[] = {"attention", "the gradient of attention", "a convolution"};
    char why[256] = "";
    cudnnGetLastErrorString(why, sizeof why);
    if (getenv("DIFFSCALER_CUDA_VERBOSE")) /* for those who tune: slower, but not wrong */
        fprintf(stderr, "cuDNN has no plan for %s of this shape (%s): own kernels do it\n",
                names[p->key.kind], why[0] ? why : "no engine fits");
    ds_dnn_graph_free(p->graph);
    ds_dnn_graph_free(p->reference);
    p->graph = p->reference = NULL;
    p->plan = NULL;
}

static void make_plan(dnn_plan *p, ds_lib_dnn *dnn) {
    dnn_key usual = p->key;
    usual.B = usual.kind == CONV ? CONV_BATCH : ATTENTION_BATCH;
    p->graph = ds_dnn_state(dnn->handle, &p->key);
    p->reference = ds_dnn_state(dnn->handle, &usual);
    if (p->graph->status == CUDNN_STATUS_SUCCESS && p->reference->status == CUDNN_STATUS_SUCCESS) {
        find_engine(p, CUDNN_HEUR_MODE_A);
        find_engine(p, CUDNN_HEUR_MODE_FALLBACK);
    }
    if (!p->plan || !take_workspace(p))
        give_up(p);
}

static dnn_plan *plan_of(ds_cuda *c, const dnn_key *key) {
    ds_lib_dnn *dnn = c->lib->dnn;
    for (int i = 0; i < dnn->count; i++)
        if (memcmp(&dnn->plans[i].key, key, sizeof *key) == 0)
            return &dnn->plans[i];
    if (c->recording) /* plans are made when an op runs for the first time */
        ds_cuda_fatal("cuDNN", "a new shape while a graph was recorded (a bug)");
    if (dnn->count == dnn->room) {
        dnn->room = dnn->room ? 2 * dnn->room : 32;
        dnn->plans = (dnn_plan *)ds_xrealloc(dnn->plans, (size_t)dnn->room * sizeof *dnn->plans);
    }
    dnn_plan *p = &dnn->plans[dnn->count++];
    memset(p, 0, sizeof *p);
    p->key = *key;
    make_plan(p, dnn);
    return p;
}

void ds_lib_dnn_close(ds_cuda *c) {
    ds_lib_dnn *dnn = c->lib->dnn;
    if (!dnn)
        return;
    for (int i = 0; i < dnn->count; i++) {
        ds_dnn_graph_free(dnn->plans[i].graph);
        ds_dnn_graph_free(dnn->plans[i].reference);
    }
    ds_lib_free(c, dnn->workspace);
    if (dnn->handle)
        cudnnDestroy(dnn->handle);
    free(dnn->plans);
    free(dnn);
    c->lib->dnn = NULL;
}

/* ---------------------------------------------------------------- running */

static void *workspace(ds_cuda *c, size_t bytes) {
    ds_lib_dnn *dnn = c->lib->dnn;
    if (bytes <= dnn->workspace_bytes)
        return dnn->workspace;
    if (c->recording)
        ds_cuda_fatal("cuDNN", "its workspace grew while a graph was recorded (a bug)");
    ds_lib_free(c, dnn->workspace);
    c->lib->workspace_bytes -= dnn->workspace_bytes;
    dnn->workspace_bytes = 0;
    dnn->workspace = ds_lib_alloc(c, bytes);
    if (!dnn->workspace)
        ds_cuda_no_room(c, "cuDNN's workspace", bytes);
    dnn->workspace_bytes = bytes;
    c->lib->workspace_bytes += bytes;
    c->generation++;
    return dnn->workspace;
}

struct binding {
    int64_t name[MAX_BOUND];
    void *at[MAX_BOUND];
    int count;
    bool aligned;
};

static void bind(binding *b, int64_t name, const void *at) {
    b->name[b->count] = name;
    b->at[b->count++] = (void *)(uintptr_t)at;
    if (name != SCALE && name != ONE && (uintptr_t)at % 16)
        b->aligned = false;
}

/* Did a call say no before it began?  Source: cuDNN API, cudnnStatus_t: 2000 are bad parameters,
 * 3000 what is not supported. */
static bool refused(cudnnStatus_t status) { return status / 1000 == 2 || status / 1000 == 3; }

/* 0 = done; not 0 = cuDNN refuses its own plan. */
static int run(ds_cuda *c, dnn_plan *p, const binding *b, void *room) {
    dnn_graph pack = {};
    desc v = ds_dnn_make(&pack, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    ds_dnn_put(&pack, v, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, b->count, b->name);
    ds_dnn_put(&pack, v, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, b->count,
               b->at);
    ds_dnn_put(&pack, v, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &room);
    ds_dnn_seal(&pack, v);
    if (pack.status == CUDNN_STATUS_SUCCESS)
        pack.status = cudnnBackendExecute(c->lib->dnn->handle, p->plan, v);
    if (v)
        cudnnBackendDestroyDescriptor(v);
    if (pack.status == CUDNN_STATUS_ALLOC_FAILED ||
        pack.status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)
        ds_cuda_no_room(c, "cuDNN", 0);
    if (refused(pack.status) && !c->recording)
        give_up(p);
    else if (pack.status != CUDNN_STATUS_SUCCESS)
        ds_cuda_fatal("cuDNN", cudnnGetErrorString(pack.status));
    return pack.status != CUDNN_STATUS_SUCCESS;
}

/* Where cuDNN is not asked.  Versions whose attention gives wrong results: 9.10.0 and 9.10.1;
 * before 9.15.1 backward, where the last tile of keys is not full.  Backward of a single token: no
 * version supports it, but 9.19 makes a plan.  Blackwell backward: the order of its sums is fixed
 * there only with an engine chosen by number.  Source: what the library's own front end
 * declines, masks or pins (github.com/NVIDIA/cudnn-frontend, sdpa_support_surface.h,
 * CompositeSDPABackwardNode); cuDNN's release notes, known issues. */
static bool avoided(const ds_cuda *c, enum kind kind, int T) {
    size_t version = cudnnGetVersion();
    if (version == 91000 || version == 91001)
        return true;
    return kind == BACKWARD && (T == 1 || (T % 128 != 0 && version <= 91500) || c->sm >= 100);
}

static dnn_plan *attention_plan(ds_cuda *c, enum kind kind, int inference, int B, int T, int D,
                                int H) {
    dnn_key key;
    int hd = D / H;
    if (hd % 8 || hd > 128 || B < 1 || T < 1 || avoided(c, kind, T))
        return NULL;
    memset(&key, 0, sizeof key);
    key.kind = kind;
    key.inference = inference;
    key.B = B;
    key.T = T;
    key.D = D;
    key.H = H;
    dnn_plan *p = plan_of(c, &key);
    return p->plan ? p : NULL;
}

static const char *part_of(const void *qkv, int D, int part) {
    return (const char *)qkv + (size_t)part * (size_t)D * sizeof(ds_bf16);
}

int ds_lib_attention_forward(ds_cuda *c, void *out, float *lse, const void *qkv, int B, int T,
                             int D, int H) {
    binding b = {};
    float scale = 1 / sqrtf((float)(D / H));
    ds_lib_enter(c);
    dnn_plan *p = attention_plan(c, FORWARD, lse == NULL, B, T, D, H);
    b.aligned = true;
    bind(&b, Q, qkv);
    bind(&b, K, part_of(qkv, D, 1));
    bind(&b, V, part_of(qkv, D, 2));
    bind(&b, O, out);
    bind(&b, SCALE, &scale);
    if (lse)
        bind(&b, STATS, lse);
    if (!p || !b.aligned)
        return 1;
    return run(c, p, &b, workspace(c, p->workspace));
}

int ds_lib_attention_backward(ds_cuda *c, void *dqkv, const void *dout, const void *out,
                              const float *lse, const void *qkv, int B, int T, int D, int H) {
    binding b = {};
    float scale = 1 / sqrtf((float)(D / H)), one = 1;
    ds_lib_enter(c);
    dnn_plan *p = attention_plan(c, BACKWARD, 0, B, T, D, H);
    b.aligned = true;
    bind(&b, Q, qkv);
    bind(&b, K, part_of(qkv, D, 1));
    bind(&b, V, part_of(qkv, D, 2));
    bind(&b, O, out);
    bind(&b, STATS, lse);
    bind(&b, DO, dout);
    bind(&b, DQ, dqkv);
    bind(&b, DK, part_of(dqkv, D, 1));
    bind(&b, DV, part_of(dqkv, D, 2));
    bind(&b, SCALE, &scale);
    bind(&b, ONE, &one);
    if (!p || !b.aligned)
        return 1;
    size_t sums = (p->workspace + 255) & ~(size_t)255, rows = (size_t)B * (size_t)H * (size_t)T;
    void *room = workspace(c, sums + rows * sizeof(float));
    bind(&b, SUM, (char *)room + sums);
    return run(c, p, &b, room);
}

int ds_lib_conv(ds_cuda *c, float *y, const float *x, const float *w, const ds_conv *geo,
                int tf32) {
    binding b = {};
    dnn_key key;
    ds_lib_enter(c);
    memset(&key, 0, sizeof key);
    key.kind = CONV;
    key.tf32 = tf32;
    key.B = geo->batch;
    key.geo = *geo;
    key.geo.batch = 0;
    dnn_plan *p = plan_of(c, &key);
    b.aligned = true;
    bind(&b, X, x);
    bind(&b, W, w);
    bind(&b, Y, y);
    if (!p->plan || !b.aligned)
        return 1;
    return run(c, p, &b, workspace(c, p->workspace));
}

#endif
