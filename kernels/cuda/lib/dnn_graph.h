/* kernels/cuda/lib/dnn_graph.h - operations stated as graphs of cuDNN's backend API: attention, its
 * gradient, convolution.
 *
 * A graph is tensors and nodes (matmul, pointwise, reduction, reshape).  The first failure stays in
 * its status, and what follows does nothing.  Ownership: the graph owns every descriptor that was
 * made for it.  Only where cuDNN is.  Thread: as the device.
 */
#ifndef DS_KERNELS_CUDA_LIB_DNN_GRAPH_H
#define DS_KERNELS_CUDA_LIB_DNN_GRAPH_H

#include "kernels/device.h"

#include <cudnn.h>

typedef cudnnBackendDescriptor_t desc;

enum { MAX_DESCRIPTORS = 320, MAX_NODES = 24 };
enum kind { FORWARD, BACKWARD, CONV };

/* Numbers that name the tensors of a graph; virtual ones (never in memory) count on from VIRTUAL.
 */
enum name { Q = 1, K, V, O, STATS, DO, DQ, DK, DV, SUM, SCALE, ONE, X, W, Y, VIRTUAL = 100 };

/* A graph that is being stated; the first failure stays in status and stops what follows. */
struct dnn_graph {
    cudnnHandle_t handle;
    desc all[MAX_DESCRIPTORS];
    int count;
    desc node[MAX_NODES];
    int nodes;
    int64_t next; /* virtual name */
    desc device;  /* description of a device, instead of a handle (tests) */
    desc whole;   /* the graph, sealed */
    cudnnStatus_t status;
};

/* A shape; compared as bytes. */
struct dnn_key {
    int kind, inference, tf32;
    int B, T, D, H;
    ds_conv geo;
};

/* The whole operation, sealed; handle NULL: for a described device (tests). */
dnn_graph *ds_dnn_state(cudnnHandle_t handle, const dnn_key *k);
void ds_dnn_graph_free(dnn_graph *g); /* NULL is fine */

/* A descriptor of the graph; NULL after a failure. */
desc ds_dnn_make(dnn_graph *g, cudnnBackendDescriptorType_t type);
void ds_dnn_put(dnn_graph *g, desc d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *values);
void ds_dnn_put_desc(dnn_graph *g, desc d, cudnnBackendAttributeName_t name, desc value);
void ds_dnn_seal(dnn_graph *g, desc d);

#endif
