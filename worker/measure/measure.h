/* worker/measure/measure.h - how far a task's samples are from its real pictures.
 *
 * One function for publication and for the gate: with the same adapter, reference and settings on
 * the same device class it gives the same numbers.  Thread: the main one.
 */
#ifndef DS_WORKER_MEASURE_MEASURE_H
#define DS_WORKER_MEASURE_MEASURE_H

#include "engine/metrics/fd.h"
#include "engine/metrics/kid.h"
#include "worker/measure/feature_net.h"
#include "worker/measure/reference.h"
#include "worker/measure/serve.h"

/* Groups of the interval of FD when there are pictures enough. */
#define DS_MEASURE_GROUPS 8

/* Memory for planning, in bytes: a distance between the features of a mode's network, which is
 * computed when nothing samples. */
size_t ds_measure_distance_bytes(enum ds_fid_mode mode);

typedef struct {
    ds_fd_result fd;
    ds_kid_result kid;
    char sample_digest[DS_HEX_SIZE]; /* of the 8-bit pictures */
} ds_measure;

/* Compare n features (n, dim) with the reference: FD with interval when `interval`, KID.  progress
 * (NULL is fine) hears of the distance's parts and may stop it. */
int ds_measure_features(ds_measure *out, const ds_reference *ref, const ds_feature_set *fake,
                        const ds_spec_evaluate *e, int interval, ds_progress *progress, void *user,
                        ds_error *err);

/* Is shown every picture in turn: number i of them, 8-bit RGB. */
typedef void ds_measure_keep(void *user, int i, const uint8_t *rgb);

/* The label of a picture that is not made: the others keep their places in the row, so their
 * noise, and their features follow each other in x. */
#define DS_LABEL_SKIPPED (-2)

/* Make n pictures with these labels and compute their features x (n, dim of the network), in
 * portions, so that memory does not grow with n.  digest: of all the pictures.  keep may be NULL.
 * progress counts pictures: made and looked at, 2 n in all. */
typedef struct {
    ds_serve *serve;
    ds_feature_net *features;
    int side;
    size_t one; /* bytes of a picture */
    uint64_t seed;
    ds_measure_keep *keep;
    void *keep_user;
    ds_progress *progress;
    void *user;
} ds_measure_source;
int ds_measure_pictures(const ds_measure_source *s, const int *labels, int n, float *x,
                        char digest[DS_HEX_SIZE], ds_error *err);

/* A task and how it is measured. */
typedef struct {
    const ds_model *model;
    const ds_adapter *adapter; /* NULL: the base's own classes, without a label where it has none */
    ds_feature_net *features;
    const ds_reference *reference; /* of its real pictures; labels are in its proportions */
    const ds_spec_sample *sample;
    const ds_spec_evaluate *evaluate;
    int any_net;           /* 1: the network counts as that of the reference */
    float *x;              /* room for the features (n, dim), or NULL */
    ds_measure_keep *keep; /* or NULL */
    void *keep_user;
    ds_progress *progress; /* of the pictures .. */
    ds_progress *distance; /* .. and of what follows */
    void *user;            /* of both */
} ds_measure_input;
int ds_measure_task(ds_measure *out, const ds_measure_input *t, ds_error *err);

#endif
