/* worker/commands/pretrain.c - `diffscaler-worker pretrain`: a base from a folder.
 *
 * The bundled base is made with this command (models/README.md).  Interrupting it (SIGINT, SIGTERM)
 * saves a checkpoint; the same command goes on from there. */
#include "base/fs.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "contract/args.h"
#include "contract/options.h"
#include "engine/diffusion/sampler.h"
#include "engine/diffusion/trainer.h"
#include "worker/job/device.h"
#include "worker/images/grid.h"
#include "worker/images/prepare.h"
#include "worker/commands/pretrain_init.h"
#include "worker/images/scan.h"
#include "worker/job/stop.h"
#include "worker/commands/worker.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *data, *out, *work, *name, *license, *init;
    const ds_arch *arch;
    void *shape; /* its configuration */
    ds_train_options train;
    ds_device_options device;
    int force; /* an existing --out is replaced */
    int every; /* steps between checkpoints and sample grids */
    ds_flow flow;
    int stop_at; /* end at this step of the schedule; 0: train.steps */
} ds_pretrain;

static int take_precision(void *options, const char *name, ds_error *err) {
    return ds_precision_from_name(name, &((ds_device_options *)options)->precision, err);
}

/* What the new base predicts. */
static int take_objective(void *options, const char *name, ds_error *err) {
    ds_flow *flow = options;
    static const struct {
        const char *name;
        ds_flow flow;
    } list[] = {{"noise", {DS_FLOW_NONE, 0, 0, 0}},
                {"flow", {DS_FLOW_LINEAR, 0, 1000, 0}},
                {"flow-gvp", {DS_FLOW_GVP, 0, 1000, 0}}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (!strcmp(name, list[i].name)) {
            flow->path = list[i].flow.path;
            flow->scale = list[i].flow.scale;
            return 0;
        }
    return ds_fail(err, DS_EINVAL, "unknown objective '%.20s': use noise, flow or flow-gvp", name);
}

/* Rows from n on; returns how many there are then, the last of them ends the table. */
static int add_rows(ds_arg *rows, int n, const ds_arg *more) {
    for (; more->name; more++) {
        DS_ASSERT(n < DS_ARGS_MAX);
        rows[n++] = *more;
    }
    rows[n] = *more;
    return n;
}

/* What a person may choose of the shape. */
static int add_sizes(ds_arg *rows, int n, const ds_pretrain *o) {
    for (const ds_arch_size *s = o->arch->sizes; s->option; s++) {
        const ds_arg row[] = {{s->option, .metavar = "N", .type = DS_ARG_INT,
                               .target = (char *)o->shape + s->offset, .least = s->low,
                               .most = s->high, .help = s->help},
                              {NULL}};
        n = add_rows(rows, n, row);
    }
    return n;
}

/* 0: go on; -1: help was printed; else the exit status. */
static int parse(ds_pretrain *o, int argc, char **argv) {
    const ds_arg first[] = {
        {"--data", .metavar = "DIR", .type = DS_ARG_STRING, .target = &o->data,
         .help = "the pictures, one sub-folder per class", .missing = "--data DIR is missing"},
        {"--out", .metavar = "FILE", .type = DS_ARG_STRING, .target = &o->out,
         .help = "the base that is written", .missing = "--out FILE is missing"},
        {"--name", .metavar = "NAME", .type = DS_ARG_TEXT, .target = &o->name,
         .help = "name of the base"},
        {"--license", .metavar = "TEXT", .type = DS_ARG_TEXT, .target = &o->license,
         .help = "stored with it"},
        {"--work", .metavar = "DIR", .type = DS_ARG_STRING, .target = &o->work,
         .shown = "FILE.work", .help = "cache, checkpoint, loss.csv, grids"},
        {"--init", .metavar = "FILE", .type = DS_ARG_STRING, .target = &o->init,
         .help = "start from this base (same shape; classes matched by name)"},
        {NULL}};
    const ds_arg last[] = {
        {"--steps", .type = DS_ARG_INT, .target = &o->train.steps, .option = "steps"},
        {"--batch", .type = DS_ARG_INT, .target = &o->train.batch, .option = "batch"},
        {"--micro-batch", .type = DS_ARG_INT, .target = &o->train.micro_batch,
         .option = "micro_batch"},
        {"--lr", .type = DS_ARG_NUM, .target = &o->train.lr, .option = "lr"},
        {"--warmup", .type = DS_ARG_INT, .target = &o->train.warmup, .option = "warmup"},
        {"--ema", .type = DS_ARG_NUM, .target = &o->train.ema, .option = "ema"},
        {"--dropout", .type = DS_ARG_NUM, .target = &o->train.label_dropout,
         .option = "label_dropout"},
        {"--weight-decay", .type = DS_ARG_NUM, .target = &o->train.weight_decay,
         .option = "weight_decay"},
        {"--flip", .type = DS_ARG_FLAG, .target = &o->train.flip, .option = "flip"},
        {"--seed", .type = DS_ARG_SEED, .target = &o->train.seed, .option = "seed"},
        {"--focus", .type = DS_ARG_NUM, .target = &o->train.focus, .option = "focus"},
        {"--focus-mean", .type = DS_ARG_NUM, .target = &o->train.focus_mean,
         .option = "focus_mean"},
        {"--objective", .metavar = "OBJECTIVE", .type = DS_ARG_OWN, .target = &o->flow,
         .take = take_objective, .shown = "noise",
         .help = "what it predicts: noise, or the velocity of a flow on the linear path or on "
                 "the variance-preserving one (noise, flow, flow-gvp)"},
        {"--shift", .metavar = "S", .type = DS_ARG_NUM, .target = &o->flow.shift,
         DS_ARG_RANGE(0.01, 100), .shown = "3",
         .help = "of a flow: the odds of its noise levels times S; more for smoother pictures"},
        {"--force", .type = DS_ARG_FLAG, .target = &o->force,
         .help = "replace FILE if it is there"},
        {"--every", .metavar = "N", .type = DS_ARG_INT, .target = &o->every,
         DS_ARG_RANGE(DS_RANGE_STEPS), .help = "steps between checkpoints and grids"},
        {"--stop-at", .metavar = "N", .type = DS_ARG_INT, .target = &o->stop_at,
         DS_ARG_RANGE(0, 1e8), .shown = "",
         .help = "end at step N of the schedule of --steps, and write the base"},
        {"--replan", .type = DS_ARG_FLAG, .target = &o->train.replan,
         .help = "go on from a checkpoint of another schedule (--steps, --lr, --warmup)"},
        {"--precision", .type = DS_ARG_OWN, .target = &o->device, .option = "precision",
         .take = take_precision, .shown = "bf16"},
        {"--device", .type = DS_ARG_DEVICE, .target = &o->device.kind, .option = "device"},
        {"--threads", .type = DS_ARG_INT, .target = &o->device.threads, .option = "threads"},
        {NULL}};
    ds_arg rows[DS_ARGS_MAX + 1];
    const ds_args a = {
        .command = "diffscaler-worker pretrain",
        .usage = "--data DIR --out FILE.safetensors [options]",
        .about = "Train a base DiT from scratch on a folder of images (one sub-folder per class).\n"
                 "Stopping it (Ctrl-C) saves a checkpoint in --work; the same command resumes.",
        .after = "example:\n"
                 "  diffscaler-worker pretrain --data ./emoji --out emoji-dit.safetensors \\\n"
                 "      --name emoji-dit --steps 20000",
        .rows = rows};
    ds_error err;
    int n = add_rows(rows, 0, first);
    n = add_sizes(rows, n, o);
    add_rows(rows, n, last);
    int rc = ds_args_parse(&a, argc, argv, &err);
    if (!rc && o->flow.path == DS_FLOW_NONE && o->flow.shift != 0)
        rc = ds_fail(&err, DS_EINVAL, "--shift is of a flow: use it with --objective flow");
    if (o->flow.shift == 0) /* not said */
        o->flow.shift = 3;
    return rc == 1 ? -1 : rc ? ds_args_refuse(&a, &err) : 0;
}

static int prepare(const ds_pretrain *o, ds_images **images, ds_error *err) {
    ds_facts facts;
    char manifest[PATH_MAX], cache[PATH_MAX];
    ds_fs_join(manifest, sizeof manifest, o->work, DS_FILE_MANIFEST);
    ds_fs_join(cache, sizeof cache, o->work, "cache");
    ds_scan_result scan;
    ds_scan_options so = {.root = o->data, .dataset = o->name, .program = "/proc/self/exe"};
    int rc = ds_fs_mkdirs(cache, err);
    if (rc)
        return rc;
    rc = ds_scan(&so, &scan, NULL, NULL, err);
    if (!rc)
        rc = ds_fs_write(manifest, scan.manifest, scan.manifest_size, err);
    if (!rc)
        printf("%lld images in %lld classes, %s\n", (long long)scan.images,
               (long long)scan.class_count, scan.tree_digest);
    ds_scan_release(&scan);
    o->arch->facts(o->shape, &facts);
    ds_prepare_options po = {.root = o->data,
                             .manifest = manifest,
                             .cache_dir = cache,
                             .program = "/proc/self/exe",
                             .side = facts.side,
                             .channels = 3};
    return rc ? rc : ds_prepare_open(images, &po, NULL, NULL, err);
}

/* A sheet of 16 x 16 samples, class after class, with guidance. */
static int write_grid(ds_trainer *t, const ds_model *model, const char *path, ds_error *err) {
    enum { COLUMNS = 16, N = COLUMNS * COLUMNS };
    const ds_facts *c = &model->base->facts;
    ds_adapter *a;
    ds_net *net = NULL;
    int rc = ds_trainer_result(t, &a, err);
    if (!rc)
        rc = ds_net_new(&net, model, DS_NET_INFER, (const ds_adapter *const[]){a}, 1, 128, err);
    ds_sample_options so = {.sampler = DS_SAMPLER_DPMPP2M,
                            .steps = 25,
                            .guide = ds_guidance_of(DS_GUIDANCE_CFG, 2),
                            .seed = 1};
    ds_sample_request q[N];
    for (int i = 0; i < N; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i, .label = i % c->classes, .base = 1};
    size_t one = (size_t)(c->side * c->side * 3);
    uint8_t *pixels = ds_xmalloc(N * one);
    if (!rc)
        rc = ds_sample(pixels, NULL, net, NULL, &so, q, N, NULL, NULL, err);
    if (!rc) {
        ds_grid *g = ds_grid_new(COLUMNS, COLUMNS, c->side, 2, 2, 255);
        for (int i = 0; i < N; i++)
            ds_grid_put(g, i / COLUMNS, i % COLUMNS, pixels + (size_t)i * one);
        rc = ds_grid_write(g, path, err);
        ds_grid_free(g);
    }
    free(pixels);
    ds_net_free(net);
    ds_adapter_free(a);
    return rc;
}

static int save_base(ds_trainer *t, const ds_pretrain *o, ds_base *base, const ds_images *images,
                     ds_error *err) {
    ds_adapter *a;
    int rc = ds_trainer_result(t, &a, err);
    if (rc)
        return rc;
    for (int i = 0; i < a->table.count; i++) {
        const ds_param *p = ds_params_find(&base->table, a->table.items[i].name);
        memcpy(base->data + p->offset, a->data + a->table.items[i].offset,
               p->count * sizeof(float));
    }
    ds_adapter_free(a);
    json_t *names = json_array();
    for (int i = 0; i < images->class_count; i++)
        json_array_append_new(names, json_string(images->class_names[i]));
    char *classes = ds_json_canonical(names), steps[16], seed[24];
    json_decref(names);
    snprintf(steps, sizeof steps, "%d", ds_trainer_done(t));
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)o->train.seed);
    const char *meta[] = {"diffscaler.name",
                          o->name,
                          "diffscaler.classes",
                          classes,
                          "diffscaler.license",
                          o->license,
                          "diffscaler.steps",
                          steps,
                          "diffscaler.seed",
                          seed,
                          "diffscaler.dataset",
                          images->manifest_digest,
                          "diffscaler.engine",
                          DS_VERSION,
                          "format",
                          "pt",
                          NULL};
    rc = ds_base_save(base, o->out, 1, meta, err);
    free(classes);
    return rc;
}

static int train(ds_trainer *t, const ds_pretrain *o, const ds_model *model, ds_error *err) {
    char log_path[PATH_MAX], grid[PATH_MAX], checkpoint[PATH_MAX];
    ds_fs_join(log_path, sizeof log_path, o->work, "loss.csv");
    ds_fs_join(checkpoint, sizeof checkpoint, o->work, "checkpoint");
    int rc = 0;
    if (ds_fs_exists(checkpoint) && !(rc = ds_trainer_load(t, checkpoint, err)))
        printf("resumed at step %d%s\n", ds_trainer_done(t),
               ds_trainer_moved(t) ? ", begun on another kind of device: from here on numbers are "
                                     "rounded as this one does"
                                   : "");
    FILE *log = rc ? NULL : fopen(log_path, "a");
    if (!rc && !log)
        return ds_fail_errno(err, "cannot open '%s'", log_path);
    double since = ds_monotonic(), mse = 0, vb = 0;
    int count = 0;
    int last = o->stop_at && o->stop_at < o->train.steps ? o->stop_at : o->train.steps;
    while (!rc && !ds_stop_asked() && ds_trainer_done(t) < last) {
        ds_train_report r;
        if ((rc = ds_trainer_step(t, &r, err)))
            break;
        mse += r.mse;
        vb += r.vb;
        count++;
        if (r.step % 100 == 0) {
            double now = ds_monotonic(), rate = count * o->train.batch / (now - since);
            printf("step %6d  mse %.4f  vb %.4f  norm %.2f  %.0f images/s\n", r.step, mse / count,
                   vb / count, r.grad_norm, rate);
            fprintf(log, "%d,%.6f,%.6f,%.4f,%.1f\n", r.step, mse / count, vb / count, r.grad_norm,
                    rate);
            fflush(stdout);
            fflush(log);
            since = now, mse = vb = count = 0;
        }
        if (r.step % o->every == 0 && !(rc = ds_trainer_save(t, checkpoint, err))) {
            snprintf(grid, sizeof grid, "%s/grid-%06d.png", o->work, r.step);
            rc = write_grid(t, model, grid, err);
        }
    }
    if (log)
        fclose(log);
    return rc ? rc : ds_trainer_save(t, checkpoint, err);
}

/* What needs no picture to be seen: a large folder is read for minutes. */
static int check_early(ds_pretrain *o, ds_error *err) {
    int rc = o->init && access(o->init, R_OK) ? ds_fail_errno(err, "cannot open '%s'", o->init) : 0;
    o->arch->set_classes(o->shape, 1);
    o->arch->set_flow(o->shape, &o->flow);
    rc = rc ? rc : o->arch->check(o->shape, err);
    return rc ? rc : ds_train_options_check(&o->train, err);
}

static int pretrain(ds_pretrain *o, ds_error *err) {
    ds_images *images = NULL;
    ds_base *base = NULL;
    ds_device *dev = NULL;
    ds_model *model = NULL;
    ds_trainer *t = NULL;
    int rc = check_early(o, err);
    if (!rc)
        rc = prepare(o, &images, err);
    if (!rc) {
        o->arch->set_classes(o->shape, images->class_count);
        o->arch->set_flow(o->shape, &o->flow);
        rc = ds_base_new(&base, o->arch, o->shape, o->train.seed, err);
    }
    if (!rc && o->init)
        rc = ds_pretrain_init(base, o->init, images, err);
    if (!rc && !(rc = ds_worker_device_open(&dev, &o->device, err)))
        rc = ds_model_new(&model, dev, base, err);
    if (!rc) {
        ds_image_set set = {.pixels = images->pixels,
                            .labels = images->labels,
                            .n = images->n,
                            .side = images->side,
                            .channels = images->channels,
                            .classes = images->class_count};
        ds_method_spec spec = {.method = DS_METHOD_FULL, .seed = o->train.seed};
        rc = ds_trainer_new(&t, model, &spec, &o->train, &set, err);
    }
    if (!rc) {
        printf("%s: %.2f M parameters, device %s, %d threads\n", o->name,
               (double)base->table.total / 1e6, dev->device_class, dev->threads);
        rc = train(t, o, model, err);
    }
    if (!rc && !ds_stop_asked())
        rc = save_base(t, o, base, images, err);
    ds_trainer_free(t);
    ds_model_free(model);
    ds_worker_device_close(dev);
    ds_base_free(base);
    ds_images_close(images);
    return rc;
}

int ds_worker_pretrain(int argc, char **argv) {
    ds_pretrain o = {.name = "base",
                     .license = "",
                     .every = 1000,
                     .arch = ds_arch_first(),
                     .train = {.steps = 20000,
                               .batch = 128,
                               .lr = 1e-3,
                               .warmup = 500,
                               .cosine = 1,
                               .clip = 1.0,
                               .ema = 0.999,
                               .label_dropout = 0.1,
                               .vb_weight = 1.0,
                               .seed = 1,
                               .anywhere = 1},
                     .device = {.kind = "auto", .precision = DS_PRECISION_BF16}};
    o.shape = ds_xcalloc(1, o.arch->config_size);
    o.arch->fresh(o.shape);
    int rc = parse(&o, argc, argv);
    if (rc) {
        free(o.shape);
        return rc < 0 ? 0 : rc;
    }
    char *work = ds_xasprintf("%s.work", o.out);
    if (!o.work)
        o.work = work;
    ds_error err = {0};
    rc = ds_fs_output_check(o.out, o.force, &err); /* hours before it is written */
    if (!rc)
        rc = ds_stop_install(NULL, 0, &err);
    ds_stop_defer(1); /* a checkpoint first */
    if (rc || (rc = pretrain(&o, &err)))
        fprintf(stderr, "error: %s\n", err.message);
    free(work);
    free(o.shape);
    return rc ? ds_error_exit(rc) : (ds_stop_asked() ? DS_EXIT_STOPPED : 0);
}
