/* engine/diffusion/train_checkpoint.c - the state of a run in a file: a safetensors file of p, m, v
 * and ema, whose metadata names the step and the run, and behind it the digest of it all, so that
 * any damage is seen. */
#include "engine/diffusion/train_task.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/files/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The schedule of a run. */
static char *schedule_print(const ds_train_task *t) {
    const ds_train_options *o = &t->opt;
    ds_buf b = {0};
    ds_buf_addf(&b, "steps=%d lr=%.17g warmup=%d cosine=%d", o->steps, o->lr, o->warmup, o->cosine);
    if (ds_train_open_ended(o))
        ds_buf_addf(&b, " patience=%d max_time=%.17g heldout_every=%d", o->patience, o->max_time,
                    o->heldout_every);
    return b.data;
}

/* All else that must agree for a checkpoint to continue this run. */
static char *fingerprint(const ds_train_task *t) {
    const ds_train_options *o = &t->opt;
    const ds_method_spec *s = &t->spec;
    ds_buf b = {0};
    ds_buf_addf(&b,
                "base=%s class=%s method=%d rank=%d in=%d relu=%d freeze_v=%d targets=%u "
                "classes=%d init=%llu ",
                t->base->sha256, t->dev->device_class, (int)s->method, s->rank, s->side_in,
                s->phi_relu, s->freeze_v, s->targets, s->classes, (unsigned long long)s->seed);
    ds_buf_addf(&b,
                "batch=%d micro=%d clip=%.17g wd=%.17g ema=%.17g dropout=%.17g flip=%d vb=%.17g "
                "focus=%.17g,%.17g heldout=%d seed=%llu images=%d ",
                o->batch, o->micro_batch, o->clip, o->weight_decay, o->ema, o->label_dropout,
                o->flip, o->vb_weight, o->focus, o->focus_mean, o->heldout,
                (unsigned long long)o->seed, t->images.n);
    if (o->trained_guidance > 0)
        ds_buf_addf(&b, "guided=%.17g,%.17g ", o->trained_guidance, o->trained_guidance_low);
    const ds_flow *flow = &t->base->facts.flow;
    if (flow->path != DS_FLOW_NONE) /* a fresh base has no digest that would tell */
        ds_buf_addf(&b, "flow=%d to_data=%d scale=%.17g shift=%.17g ", (int)flow->path,
                    flow->to_data, flow->scale, flow->shift);
    if (t->images.latents[0]) {
        ds_buf_addf(&b, "latents=%s scale=%.17g", t->images.latents_digest, t->images.latent_scale);
        return b.data;
    }
    char sha[DS_HEX_SIZE];
    size_t one = (size_t)t->images.side * (size_t)t->images.side * (size_t)t->images.channels;
    ds_digest(t->images.pixels, one * (size_t)t->images.n, sha);
    ds_buf_addf(&b, "data=%s", sha);
    return b.data;
}

static const char *const state_names[] = {"p", "m", "v", "ema"};

int ds_train_task_save(const ds_train_task *t, const char *path, ds_error *err) {
    float *state[] = {t->p, t->m, t->v, t->ema}, *host[4];
    int64_t shape[1] = {(int64_t)t->table.total};
    char step[16], *print = fingerprint(t), *plan = schedule_print(t), *bytes = NULL;
    char *course = ds_train_open_ended(&t->opt) ? ds_train_course_print(&t->course) : NULL;
    size_t n = 0;
    ds_st_writer *w = ds_st_writer_new();
    for (int i = 0; i < 4; i++) {
        host[i] = ds_xmalloc((t->table.total + 1) * sizeof(float));
        t->dev->download(t->dev, host[i], state[i], t->table.total * sizeof(float));
        ds_st_writer_add(w, state_names[i], DS_ST_F32, 1, shape, host[i]);
    }
    snprintf(step, sizeof step, "%d", t->step);
    ds_st_writer_meta(w, "step", step);
    ds_st_writer_meta(w, "run", print);
    ds_st_writer_meta(w, "schedule", plan);
    if (course)
        ds_st_writer_meta(w, "course", course);
    int rc = ds_st_writer_finish(w, &bytes, &n, err);
    if (!rc) { /* the digest of the whole file follows it, so that any damage is seen */
        char sha[DS_HEX_SIZE];
        ds_digest(bytes, n, sha);
        bytes = ds_xrealloc(bytes, n + 64);
        memcpy(bytes + n, sha, 64);
        rc = ds_fs_write(path, bytes, n + 64, err);
    }
    for (int i = 0; i < 4; i++)
        free(host[i]);
    ds_st_writer_free(w);
    free(print);
    free(plan);
    free(course);
    free(bytes);
    return rc;
}

/* The same run; anywhere: on this device class or another.  The class is the second word. */
static int same_run(const char *a, const char *b, int anywhere) {
    if (!anywhere)
        return !strcmp(a, b);
    const char *word[] = {strchr(a, ' '), strchr(b, ' ')}, *rest[2];
    for (int i = 0; i < 2; i++)
        if (!word[i] || !(rest[i] = strchr(word[i] + 1, ' ')))
            return 0;
    return word[0] - a == word[1] - b && !strncmp(a, b, (size_t)(word[0] - a)) &&
           !strcmp(rest[0], rest[1]);
}

static int restore(ds_train_task *t, const ds_st *st, ds_error *err) {
    char *print = fingerprint(t), *plan = schedule_print(t);
    const char *run = ds_st_meta(st, "run"), *step = ds_st_meta(st, "step");
    const char *schedule = ds_st_meta(st, "schedule");
    float *host[4] = {0}, *state[] = {t->p, t->m, t->v, t->ema};
    int64_t shape[1] = {(int64_t)t->table.total};
    ds_train_course course;
    ds_train_course_begin(&course, &t->opt);
    int rc = 0;
    if (!run || !step || !schedule || !same_run(run, print, t->opt.anywhere))
        rc = ds_fail(err, DS_EINTEGRITY, "checkpoint '%s' belongs to another run",
                     ds_st_file_name(st));
    else if (!t->opt.replan && strcmp(schedule, plan))
        rc = ds_fail(err, DS_EINTEGRITY,
                     "checkpoint '%s' belongs to a run of another schedule (steps, rate, warm-up): "
                     "it goes on with 'replan' alone",
                     ds_st_file_name(st));
    if (!rc && ds_train_open_ended(&t->opt) && !strcmp(schedule, plan) &&
        !ds_train_course_read(&course, &t->opt, ds_st_meta(st, "course")))
        rc = ds_fail(err, DS_EINTEGRITY, "checkpoint '%s' does not say when its run ends",
                     ds_st_file_name(st));
    for (int i = 0; !rc && i < 4; i++) {
        host[i] = ds_xmalloc((t->table.total + 1) * sizeof(float));
        rc = ds_st_need_f32(st, state_names[i], 1, shape, host[i], err);
    }
    for (int i = 0; i < 4; i++) {
        if (!rc)
            t->dev->upload(t->dev, state[i], host[i], t->table.total * sizeof(float));
        free(host[i]);
    }
    if (!rc) {
        t->step = (int)strtol(step, NULL, 10);
        t->course = course;
        t->moved = strcmp(run, print) != 0;
    }
    free(print);
    free(plan);
    return rc;
}

int ds_train_task_load(ds_train_task *t, const char *path, ds_error *err) {
    char *bytes, sha[DS_HEX_SIZE];
    size_t n;
    int rc = ds_fs_read(path, (size_t)64 << 30, &bytes, &n, err);
    if (rc)
        return rc;
    if (n > 64)
        ds_digest(bytes, n - 64, sha);
    if (n <= 64 || memcmp(sha, bytes + n - 64, 64))
        rc = ds_fail(err, DS_EINTEGRITY, "checkpoint '%s' is damaged", path);
    ds_st *st = NULL;
    if (!rc && !(rc = ds_st_open_memory(path, bytes, n - 64, &st, err)))
        rc = restore(t, st, err);
    ds_st_free(st);
    free(bytes);
    return rc;
}
