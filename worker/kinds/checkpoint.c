#include "worker/kinds/checkpoint.h"
#include "base/fs.h"
#include "base/mem.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FOUND_MAX = 1024 };

static char *path_of(const ds_work *job, int step, const char *end) {
    return ds_xasprintf("%s/" DS_DIR_CHECKPOINTS "/step-%08d.%s", job->dir, step, end);
}

static int descending(const void *a, const void *b) { return *(const int *)b - *(const int *)a; }

/* Steps of the checkpoints that are there, newest first. */
static int list(const ds_work *job, int steps[FOUND_MAX]) {
    char *dir = ds_job_path(job, DS_DIR_CHECKPOINTS);
    DIR *d = opendir(dir);
    int n = 0, step, used;
    free(dir);
    for (struct dirent *e; d && n < FOUND_MAX && (e = readdir(d));) {
        used = 0;
        if (sscanf(e->d_name, "step-%9d.safetensors%n", &step, &used) == 1 && used > 0 &&
            !e->d_name[used] && step > 0)
            steps[n++] = step;
    }
    if (d)
        closedir(d);
    qsort(steps, (size_t)n, sizeof *steps, descending);
    return n;
}

static void remove_step(const ds_work *job, int step) {
    static const char *const ends[] = {"safetensors", "json"};
    for (int i = 0; i < 2; i++) {
        char *path = path_of(job, step, ends[i]);
        ds_fs_remove(path, NULL); /* a left-over is found again next time */
        free(path);
    }
}

/* Members of the record, as they are spelt in the file. */
#define RECORD_FIELDS(X)                                                                           \
    X(seconds) X(step_seconds) X(first_loss) X(loss) X(heldout_start) X(heldout)

static void read_record(const ds_work *job, int step, ds_train_record *r) {
    char *path = path_of(job, step, "json");
    json_t *doc = NULL;
    *r = (ds_train_record){.first_loss = NAN, .loss = NAN, .heldout_start = NAN, .heldout = NAN};
    if (!ds_json_read_file(path, 1 << 16, &doc, NULL)) {
#define X(field) r->field = ds_json_number(doc, #field, r->field);
        RECORD_FIELDS(X)
#undef X
        r->heldout_images = (int)ds_json_int(doc, "heldout_images", 0);
        snprintf(r->device_class, sizeof r->device_class, "%s",
                 ds_json_string(doc, "device_class", ""));
    }
    json_decref(doc);
    free(path);
}

static int write_record(const ds_work *job, int step, const ds_train_record *r, ds_error *err) {
    char *path = path_of(job, step, "json");
    json_t *doc = json_object();
#define X(field) json_object_set_new(doc, #field, ds_json_real(r->field));
    RECORD_FIELDS(X)
#undef X
    json_object_set_new(doc, "heldout_images", json_integer(r->heldout_images));
    json_object_set_new(doc, "device_class", json_string(r->device_class));
    int rc = ds_json_write_file(path, doc, err);
    json_decref(doc);
    free(path);
    return rc;
}

void ds_checkpoint_device(const ds_work *job, char device_class[48]) {
    int steps[FOUND_MAX];
    ds_train_record r = {0};
    if (list(job, steps))
        read_record(job, steps[0], &r);
    snprintf(device_class, 48, "%s", r.device_class);
}

int ds_checkpoint_resume(const ds_work *job, ds_trainer *t, ds_train_record *r, ds_error *err) {
    int steps[FOUND_MAX], n = list(job, steps);
    for (int i = 0; i < n; i++) {
        ds_error e;
        char *path = path_of(job, steps[i], "safetensors");
        int rc = ds_trainer_load(t, path, &e);
        free(path);
        if (!rc) {
            read_record(job, steps[i], r);
            ds_events_resumed(job->events, ds_trainer_done(t));
            return 0;
        }
        if (rc != DS_EINTEGRITY && rc != DS_ELIMIT && rc != DS_EINVAL)
            return ds_fail(err, rc, "%s", e.message);
        ds_events_warning(job->events, "%s; trying the one before it", e.message);
        remove_step(job, steps[i]);
    }
    return 0;
}

int ds_checkpoint_save(const ds_work *job, ds_trainer *t, const ds_train_record *r, ds_error *err) {
    int steps[FOUND_MAX], step = ds_trainer_done(t);
    char *dir = ds_job_path(job, DS_DIR_CHECKPOINTS), *path = path_of(job, step, "safetensors");
    int rc = ds_fs_mkdirs(dir, err);
    if (!rc)
        rc = write_record(job, step, r, err);
    if (!rc)
        rc = ds_trainer_save(t, path, err);
    if (!rc) {
        ds_events_checkpoint(job->events, step);
        for (int n = list(job, steps), i = DS_CHECKPOINTS_KEPT; i < n; i++)
            remove_step(job, steps[i]);
    }
    free(dir);
    free(path);
    return rc;
}
