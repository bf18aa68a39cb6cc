/* kernels/cuda/lib/dnn_graph.cu - stating graphs for cuDNN.
 *
 * Source: cuDNN backend API (graph library); the patterns are those of its documentation of scaled
 * dot product attention, with natural-logarithm statistics, stats = max + log sum exp.
 */
#include "kernels/cuda/lib/handles.h"

#ifndef DS_NO_CUDNN

#include "kernels/cuda/lib/dnn_graph.h"

#include <stdlib.h>

/* ---------------------------------------------------------------- stating a graph */

desc ds_dnn_make(dnn_graph *g, cudnnBackendDescriptorType_t type) {
    desc d = NULL;
    if (g->status == CUDNN_STATUS_SUCCESS && g->count == MAX_DESCRIPTORS)
        g->status = CUDNN_STATUS_NOT_SUPPORTED;
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = cudnnBackendCreateDescriptor(type, &d);
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->all[g->count++] = d;
    return d;
}

void ds_dnn_put(dnn_graph *g, desc d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values) {
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = cudnnBackendSetAttribute(d, name, type, count, values);
}

void ds_dnn_put_desc(dnn_graph *g, desc d, cudnnBackendAttributeName_t name, desc value) {
    ds_dnn_put(g, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static void put_type(dnn_graph *g, desc d, cudnnBackendAttributeName_t name,
                     cudnnDataType_t value) {
    ds_dnn_put(g, d, name, CUDNN_TYPE_DATA_TYPE, 1, &value);
}

void ds_dnn_seal(dnn_graph *g, desc d) {
    if (g->status == CUDNN_STATUS_SUCCESS)
        g->status = cudnnBackendFinalize(d);
}

static void seal_node(dnn_graph *g, desc d) {
    ds_dnn_seal(g, d);
    if (g->nodes == MAX_NODES)
        g->status = CUDNN_STATUS_NOT_SUPPORTED;
    else
        g->node[g->nodes++] = d;
}

struct place {
    int64_t size[4], stride[4];
};

static place packed(int64_t a, int64_t b, int64_t c, int64_t d) {
    return place{{a, b, c, d}, {b * c * d, c * d, d, 1}};
}

/* The same numbers with the last two dimensions exchanged. */
static place turned(place p) {
    return place{{p.size[0], p.size[1], p.size[3], p.size[2]},
                 {p.stride[0], p.stride[1], p.stride[3], p.stride[2]}};
}

static desc tensor(dnn_graph *g, int64_t name, cudnnDataType_t type, const place &p) {
    const int64_t alignment = 16;
    bool is_virtual = name >= VIRTUAL, by_value = name == SCALE || name == ONE;
    desc d = ds_dnn_make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    put_type(g, d, CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    ds_dnn_put(g, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, p.size);
    ds_dnn_put(g, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, p.stride);
    ds_dnn_put(g, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &name);
    ds_dnn_put(g, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (is_virtual)
        ds_dnn_put(g, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    if (by_value)
        ds_dnn_put(g, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    ds_dnn_seal(g, d);
    return d;
}

static desc between(dnn_graph *g, cudnnDataType_t type, const place &p) {
    return tensor(g, g->next++, type, p);
}

/* y (=) x mode b; b NULL for modes of one operand. */
static desc pointwise(dnn_graph *g, desc y, cudnnPointwiseMode_t mode, desc x, desc b) {
    desc how = ds_dnn_make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    ds_dnn_put(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    put_type(g, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
    ds_dnn_seal(g, how);
    desc node = ds_dnn_make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b)
        ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    seal_node(g, node);
    return y;
}

static desc reduce(dnn_graph *g, desc y, cudnnReduceTensorOp_t op, desc x) {
    desc how = ds_dnn_make(g, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
    ds_dnn_put(g, how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &op);
    put_type(g, how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    ds_dnn_seal(g, how);
    desc node = ds_dnn_make(g, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    seal_node(g, node);
    return y;
}

static desc matmul(dnn_graph *g, desc y, desc a, desc b) {
    desc how = ds_dnn_make(g, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    put_type(g, how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
    ds_dnn_seal(g, how);
    desc node = ds_dnn_make(g, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_MATMUL_CDESC, y);
    seal_node(g, node);
    return y;
}

static desc reshape(dnn_graph *g, desc y, desc x) {
    desc node = ds_dnn_make(g, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y);
    seal_node(g, node);
    return y;
}

/* ---------------------------------------------------------------- attention
 * qkv (B,T,3,H,hd): Q, K, V begin at 0, D, 2D; so do dQ, dK, dV in dqkv. */

static const cudnnDataType_t F32 = CUDNN_DATA_FLOAT, BF16 = CUDNN_DATA_BFLOAT16;

struct attention_places {
    place part, out, scores, row, one; /* Q, K, V;  O;  (T,T);  one a row;  a scalar */
};

static attention_places places_of(const dnn_key *k) {
    int64_t B = k->B, T = k->T, D = k->D, H = k->H, hd = D / H;
    attention_places p;
    p.part = place{{B, H, T, hd}, {3 * T * D, hd, 3 * D, 1}};
    p.out = place{{B, H, T, hd}, {T * D, hd, D, 1}};
    p.scores = packed(B, H, T, T);
    p.row = place{{B, H, T, 1}, {H * T, T, 1, 1}};
    p.one = packed(1, 1, 1, 1);
    return p;
}

/* O = softmax(scale Q K^T) V;  STATS = max + log sum exp, kept for the backward pass. */
static void state_forward(dnn_graph *g, const dnn_key *k) {
    attention_places p = places_of(k);
    desc s = matmul(g, between(g, F32, p.scores), tensor(g, Q, BF16, p.part),
                    tensor(g, K, BF16, turned(p.part)));
    s = pointwise(g, between(g, F32, p.scores), CUDNN_POINTWISE_MUL, s,
                  tensor(g, SCALE, F32, p.one));
    desc top = reduce(g, between(g, F32, p.row), CUDNN_REDUCE_TENSOR_MAX, s);
    s = pointwise(g, between(g, F32, p.scores), CUDNN_POINTWISE_SUB, s, top);
    s = pointwise(g, between(g, F32, p.scores), CUDNN_POINTWISE_EXP, s, NULL);
    desc sum = reduce(g, between(g, F32, p.row), CUDNN_REDUCE_TENSOR_ADD, s);
    desc log = pointwise(g, between(g, F32, p.row), CUDNN_POINTWISE_LOG, sum, NULL);
    desc stats = k->inference ? between(g, F32, p.row) : tensor(g, STATS, F32, p.row);
    pointwise(g, stats, CUDNN_POINTWISE_ADD, top, log);
    s = pointwise(g, between(g, BF16, p.scores), CUDNN_POINTWISE_DIV, s, sum);
    matmul(g, tensor(g, O, BF16, p.out), s, tensor(g, V, BF16, p.part));
}

/* P = exp(scale Q K^T - STATS);  dV = P^T dO;  dS = scale P (dO V^T - sum dO O);  dK = dS^T Q;
 * dQ = dS K as one product: its sum over keys has a fixed order (the form that accumulates dQ in
 * memory has not). */
static void state_backward(dnn_graph *g, const dnn_key *k) {
    attention_places p = places_of(k);
    desc q = tensor(g, Q, BF16, p.part), kt = tensor(g, K, BF16, turned(p.part));
    desc vt = tensor(g, V, BF16, turned(p.part)), dout = tensor(g, DO, BF16, p.out);
    desc scale = tensor(g, SCALE, F32, p.one);
    place wide = packed(k->B, k->H, k->T, k->D / k->H);
    desc sum =
        pointwise(g, between(g, F32, wide), CUDNN_POINTWISE_MUL, dout, tensor(g, O, BF16, p.out));
    sum = reduce(g, between(g, F32, p.row), CUDNN_REDUCE_TENSOR_ADD, sum);
    sum = pointwise(g, tensor(g, SUM, F32, p.row), CUDNN_POINTWISE_MUL, sum,
                    tensor(g, ONE, F32, p.one));
    desc s = matmul(g, between(g, F32, p.scores), q, kt);
    s = pointwise(g, between(g, F32, p.scores), CUDNN_POINTWISE_MUL, s, scale);
    s = pointwise(g, between(g, F32, p.scores), CUDNN_POINTWISE_SUB, s,
                  tensor(g, STATS, F32, p.row));
    desc P = pointwise(g, between(g, F32, p.scores), CUDNN_POINTWISE_EXP, s, NULL);
    matmul(g, tensor(g, DV, BF16, p.part), reshape(g, between(g, BF16, turned(p.scores)), P), dout);
    s = matmul(g, between(g, F32, p.scores), dout, vt);
    s = pointwise(g, between(g, F32, p.scores), CUDNN_POINTWISE_SUB, s, sum);
    s = pointwise(g, between(g, F32, p.scores), CUDNN_POINTWISE_MUL, s, P);
    s = pointwise(g, between(g, F32, p.scores), CUDNN_POINTWISE_MUL, s, scale);
    matmul(g, tensor(g, DK, BF16, p.part), reshape(g, between(g, BF16, turned(p.scores)), s), q);
    matmul(g, tensor(g, DQ, BF16, p.part), s, reshape(g, between(g, BF16, p.part), kt));
}

/* ---------------------------------------------------------------- convolution */

static place channels_last(int64_t B, int64_t C, int64_t h, int64_t w) {
    return place{{B, C, h, w}, {h * w * C, 1, w * C, C}};
}

static void state_conv(dnn_graph *g, const dnn_key *k) {
    const ds_conv *geo = &k->geo;
    int64_t oh = (geo->height + 2 * geo->pad_h - geo->kernel_h) / geo->stride + 1;
    int64_t ow = (geo->width + 2 * geo->pad_w - geo->kernel_w) / geo->stride + 1;
    int64_t pads[2] = {geo->pad_h, geo->pad_w}, strides[2] = {geo->stride, geo->stride};
    int64_t dilations[2] = {1, 1}, spatial = 2;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    float one = 1, zero = 0;
    desc how = ds_dnn_make(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    put_type(g, how, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, F32);
    ds_dnn_put(g, how, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    ds_dnn_put(g, how, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &spatial);
    ds_dnn_put(g, how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pads);
    ds_dnn_put(g, how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, pads);
    ds_dnn_put(g, how, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilations);
    ds_dnn_put(g, how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides);
    ds_dnn_seal(g, how);
    desc x = tensor(g, X, F32, channels_last(k->B, geo->in_channels, geo->height, geo->width));
    desc w =
        tensor(g, W, F32,
               channels_last(geo->out_channels, geo->in_channels, geo->kernel_h, geo->kernel_w));
    desc y = tensor(g, Y, F32, channels_last(k->B, geo->out_channels, oh, ow));
    desc node = ds_dnn_make(g, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, how);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
    ds_dnn_put_desc(g, node, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    ds_dnn_put(g, node, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_FLOAT, 1, &one);
    ds_dnn_put(g, node, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_FLOAT, 1, &zero);
    seal_node(g, node);
}

void ds_dnn_graph_free(dnn_graph *g) {
    if (!g)
        return;
    while (g->count)
        cudnnBackendDestroyDescriptor(g->all[--g->count]);
    free(g);
}

dnn_graph *ds_dnn_state(cudnnHandle_t handle, const dnn_key *k) {
    dnn_graph *g = (dnn_graph *)ds_xcalloc(1, sizeof *g);
    g->handle = handle;
    g->next = VIRTUAL;
    if (k->kind == FORWARD)
        state_forward(g, k);
    else if (k->kind == BACKWARD)
        state_backward(g, k);
    else
        state_conv(g, k);
    g->whole = ds_dnn_make(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    if (g->handle)
        ds_dnn_put(g, g->whole, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->handle);
    ds_dnn_put(g, g->whole, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->nodes,
               g->node);
    ds_dnn_seal(g, g->whole);
    return g;
}

#endif
