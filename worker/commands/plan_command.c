/* worker/commands/plan_command.c - `diffscaler-worker plan`: what a training would take. */
#include "base/log.h"
#include "base/mem.h"
#include "contract/args.h"
#include "contract/options.h"
#include "engine/diffusion/sampler.h"
#include "worker/job/device.h"
#include "worker/measure/feature_net.h"
#include "worker/job/memory.h"
#include "worker/measure/measure.h"
#include "worker/measure/plan.h"
#include "worker/commands/worker.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRY_MAX = 1000 };

typedef struct {
    const char *base, *shape;
    const char *method, *precision, *device, *feature_net;
    int evaluate, batch, micro_batch, rank, steps, classes, images, threads, try_steps, try_sample;
    int memory_limit; /* MiB */
    int json, rank_given;
} plan_args;

static int parse(int argc, char **argv, plan_args *p, ds_error *err) {
    const ds_arg rows[] = {
        {"--base", .metavar = "FILE", .type = DS_ARG_STRING, .target = &p->base,
         .help = "a base of ours"},
        {"--shape", .metavar = "NAME", .type = DS_ARG_STRING, .target = &p->shape,
         .help = "S/2, B/2, L/2, XL/2 or tiny, without a file"},
        {"--batch", .type = DS_ARG_INT, .target = &p->batch, .option = "batch"},
        {"--micro-batch", .type = DS_ARG_INT, .target = &p->micro_batch, .option = "micro_batch",
         DS_ARG_RANGE(0, 65536), .shown = "batch"},
        {"--method", .metavar = "METHOD", .type = DS_ARG_WORD, .target = &p->method,
         .words = DS_WORDS(DS_METHODS), .help = "what is trained"},
        {"--rank", .type = DS_ARG_INT, .target = &p->rank, .option = "rank",
         .given = &p->rank_given},
        {"--steps", .type = DS_ARG_INT, .target = &p->steps, .option = "steps"},
        {"--classes", .metavar = "N", .type = DS_ARG_INT, .target = &p->classes,
         DS_ARG_RANGE(1, 100000), .help = "classes of the dataset"},
        {"--images", .metavar = "N", .type = DS_ARG_INT, .target = &p->images, DS_ARG_RANGE(1, 1e9),
         .help = ".. and its images"},
        {"--precision", .type = DS_ARG_WORD, .target = &p->precision, .option = "precision"},
        {"--threads", .type = DS_ARG_INT, .target = &p->threads, .option = "threads"},
        {"--device", .type = DS_ARG_DEVICE, .target = &p->device, .option = "device"},
        {"--memory-limit", .metavar = "MIB", .type = DS_ARG_INT, .target = &p->memory_limit,
         DS_ARG_RANGE(0, 1e9), .help = "memory that it may take; 0: what is free"},
        {"--feature-net", .metavar = "MODE", .type = DS_ARG_STRING, .target = &p->feature_net,
         .help = "bundled, pytorch-fid, torch-fidelity or clean: measures the result"},
        {"--evaluate", .metavar = "N", .type = DS_ARG_INT, .target = &p->evaluate,
         DS_ARG_RANGE(0, 100000),
         .help = "pictures of each of three sets that are measured: how long their features take; "
                 "0: not asked"},
        {"--try", .metavar = "N", .type = DS_ARG_INT, .target = &p->try_steps,
         DS_ARG_RANGE(2, TRY_MAX),
         .help = "then train N steps on noise, and say how right the plan was"},
        {"--try-sample", .metavar = "N", .type = DS_ARG_INT, .target = &p->try_sample,
         DS_ARG_RANGE(0, 1024), .shown = "", .help = "then sample N images in 20 steps"},
        {"--json", .type = DS_ARG_FLAG, .target = &p->json, .help = "one JSON object"},
        {NULL}};
    const ds_args a = {
        .command = "diffscaler-worker plan",
        .usage = "--base FILE | --shape S/2|B/2|L/2|XL/2|tiny  [OPTIONS]",
        .about = "Print what a training would take, in bytes by part and seconds per step, before\n"
                 "it starts.  The seconds come from a calibration of a few training steps.",
        .after = "example:\n"
                 "  diffscaler-worker plan --base DiT-XL-2.safetensors --batch 32 --micro-batch 4",
        .rows = rows};
    int rc = ds_args_parse(&a, argc, argv, err);
    if (rc)
        return rc;
    if (!p->base == !p->shape)
        return ds_fail(err, DS_EINVAL, "give --base FILE or --shape NAME; see --help");
    if (p->rank_given && !ds_preset_takes(ds_preset_find(p->method), "rank"))
        return ds_fail(err, DS_EINVAL, "--rank has no effect with --method %.20s", p->method);
    return 0;
}

typedef struct {
    plan_args a;
    ds_device *dev;
    ds_base *base;
    ds_method_spec spec;
    ds_train_options o;
    ds_plan plan;
    enum ds_fid_mode mode; /* of the network that measures */
    double peak, step_seconds, step_cpu, sample_seconds, sample_cpu; /* measured; NaN */
} plan_run;

static int open_all(plan_run *r, ds_error *err) {
    const plan_args *a = &r->a;
    const ds_arch *arch = ds_arch_first();
    void *shape = ds_xcalloc(1, arch->config_size);
    ds_device_options d = {.kind = a->device ? a->device : "auto", .threads = a->threads};
    int rc = ds_precision_from_name(a->precision, &d.precision, err);
    if (!rc)
        rc = ds_fid_mode_find(a->feature_net, &r->mode, err);
    if (!rc)
        rc = ds_method_from_name(a->method, &r->spec.method, err);
    if (!rc)
        rc = ds_worker_device_open(&r->dev, &d, err);
    if (!rc && a->base)
        rc = ds_base_open(&r->base, a->base, NULL, err);
    if (!rc && a->shape && !(rc = arch->named(shape, a->shape, err)))
        rc = ds_base_new(&r->base, arch, shape, 1, err);
    free(shape);
    r->spec.rank = a->rank;
    r->spec.targets = ds_method_targets(r->spec.method);
    r->spec.classes = a->classes;
    r->spec.seed = 1;
    r->o = (ds_train_options){.steps = a->steps,
                              .batch = a->batch,
                              .micro_batch = a->micro_batch,
                              .lr = 1e-4,
                              .clip = 1,
                              .ema = 0.999,
                              .label_dropout = 0.1,
                              .vb_weight = 1,
                              .seed = 1};
    return rc ? rc : ds_train_options_check(&r->o, err);
}

static int make_plan(plan_run *r, ds_error *err) {
    const ds_facts *c = &r->base->facts;
    const plan_args *a = &r->a;
    double one = (double)c->side * c->side * c->channels;
    ds_plan_input in = {.images =
                            a->images * one * (c->pixel ? 1 : 8), /* latents: mean, deviation */
                        .features = (double)ds_feature_net_bytes(r->dev, r->mode),
                        .distance = (double)ds_measure_distance_bytes(r->mode),
                        .limit = ds_plan_limit((double)a->memory_limit * (1 << 20)),
                        .most = ds_plan_most((double)a->memory_limit * (1 << 20)),
                        .nets = 1};
    if (a->try_steps > 0 || a->try_sample > 0) { /* what is tried is what is planned */
        in.images = a->try_steps > 0 ? a->batch * one : 0;
        in.features = in.distance = 0;
        in.nets = a->try_sample > 0;
    }
    int rc = ds_plan_memory(&r->plan, r->dev, r->base, &r->spec, &r->o, &in, err);
    if (!rc)
        rc = ds_plan_time(&r->plan, r->dev, r->base, &r->spec, &r->o, err);
    double each = 0;
    if (!rc && a->evaluate > 0 && !a->try_steps && !a->try_sample)
        rc = ds_feature_net_seconds(r->dev, r->mode, &each, err);
    r->plan.feature_seconds = 3 * each * a->evaluate; /* base, adapter, dataset */
    return rc;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Train on noise. */
static int try_training(plan_run *r, const ds_model *model, ds_error *err) {
    const ds_facts *c = &r->base->facts;
    size_t one = (size_t)(c->side * c->side * c->channels), n = (size_t)r->o.batch;
    int steps = r->a.try_steps, rc;
    uint8_t *pixels = ds_xmalloc(n * one);
    int *labels = ds_xcalloc(n, sizeof *labels);
    double *times = ds_xcalloc((size_t)steps, sizeof *times), cpu = 0;
    for (size_t i = 0; i < n * one; i++)
        pixels[i] = (uint8_t)(i * 2654435761u >> 24);
    ds_image_set set = {.pixels = pixels,
                        .labels = labels,
                        .n = (int)n,
                        .side = c->side,
                        .channels = c->channels,
                        .classes = r->spec.classes};
    ds_trainer *t = NULL;
    ds_train_report report;
    rc = ds_trainer_new(&t, model, &r->spec, &r->o, &set, err);
    for (int i = 0; !rc && i < steps; i++) {
        double start = ds_monotonic();
        rc = ds_trainer_step(t, &report, err);
        times[i] = ds_monotonic() - start;
        if (i == 0) /* pages are touched for the first time */
            cpu = ds_processor_time();
        if (!r->a.json && times[i] > 1)
            fprintf(stderr, "step %d of %d: %.2f s\n", i + 1, steps, times[i]);
    }
    if (!rc) {
        qsort(times, (size_t)steps, sizeof *times, compare);
        r->step_seconds = times[steps / 2];
        r->step_cpu = steps > 1 ? (ds_processor_time() - cpu) / (steps - 1) : NAN;
    }
    ds_trainer_free(t);
    free(pixels);
    free(labels);
    free(times);
    return rc;
}

static int try_sampling(plan_run *r, const ds_model *model, ds_error *err) {
    const ds_facts *c = &r->base->facts;
    size_t one = (size_t)(c->side * c->side * c->channels);
    int n = r->a.try_sample;
    ds_sample_options o = {.sampler = DS_SAMPLER_DPMPP2M,
                           .steps = 20,
                           .guide = ds_guidance_of(DS_GUIDANCE_CFG, 1.5),
                           .seed = 1};
    ds_sample_request *q = ds_xcalloc((size_t)n, sizeof *q);
    float *raw = ds_xmalloc((size_t)n * one * sizeof *raw);
    for (int i = 0; i < n; i++)
        q[i] = (ds_sample_request){.index = (uint64_t)i, .label = 0};
    ds_adapter *a = NULL;
    ds_net *net = NULL;
    int rc = ds_adapter_new(&a, r->base, &r->spec, err);
    if (!rc)
        rc = ds_net_new(&net, model, DS_NET_INFER, (const ds_adapter *const[]){a}, 1,
                        n < 32 ? 2 * n : 64, err);
    double start = ds_monotonic(), cpu = ds_processor_time();
    if (!rc)
        rc = ds_sample(NULL, raw, net, NULL, &o, q, n, NULL, NULL, err);
    r->sample_seconds = ds_monotonic() - start;
    r->sample_cpu = ds_processor_time() - cpu;
    ds_net_free(net);
    ds_adapter_free(a);
    free(q);
    free(raw);
    return rc;
}

static int try_out(plan_run *r, ds_error *err) {
    ds_model *model = NULL;
    int rc = ds_model_new(&model, r->dev, r->base, err);
    if (!rc && r->a.try_steps > 0)
        rc = try_training(r, model, err);
    r->peak = ds_memory_peak();
    if (!rc && r->a.try_sample > 0)
        rc = try_sampling(r, model, err);
    ds_model_free(model);
    return rc;
}

static void print(const plan_run *r) {
    const double mib = 1 << 20;
    if (r->a.json) {
        json_t *doc = ds_plan_json(&r->plan);
        if (isfinite(r->step_seconds))
            json_object_set_new(doc, "tried",
                                json_pack("{s:f, s:f, s:I}", "step_seconds", r->step_seconds,
                                          "step_cpu_seconds", r->step_cpu, "peak",
                                          (json_int_t)r->peak));
        if (isfinite(r->sample_seconds))
            json_object_set_new(doc, "sample_seconds", json_real(r->sample_seconds));
        char *text = ds_need(json_dumps(doc, JSON_INDENT(2)));
        puts(text);
        free(text);
        json_decref(doc);
        return;
    }
    if (isfinite(r->step_seconds)) {
        double planned = r->plan.train - r->plan.checkpoint;
        printf("tried: a step takes %.3g s (plan %+.1f %%) and %.3g s of processor time (plan "
               "%+.1f %%), peak %.1f MiB (plan without a checkpoint %+.1f %%)\n",
               r->step_seconds, (r->plan.step_seconds / r->step_seconds - 1) * 100, r->step_cpu,
               (r->plan.step_cpu_seconds / r->step_cpu - 1) * 100, r->peak / mib,
               (planned / r->peak - 1) * 100);
    }
    if (isfinite(r->sample_seconds))
        printf("tried: %d images in 20 steps with guidance take %.3g s and %.3g s of processor "
               "time; peak so far %.1f MiB\n",
               r->a.try_sample, r->sample_seconds, r->sample_cpu, ds_memory_peak() / mib);
}

int ds_worker_plan(int argc, char **argv) {
    plan_run r = {.a = {.method = DS_METHOD_OTHERWISE,
                        .precision = "bf16",
                        .batch = 64,
                        .rank = 8,
                        .steps = 800,
                        .classes = 1,
                        .images = 1000,
                        .feature_net = "bundled",
                        .evaluate = 512},
                  .step_seconds = NAN,
                  .step_cpu = NAN,
                  .sample_seconds = NAN};
    ds_error err;
    int rc = parse(argc, argv, &r.a, &err);
    if (rc == 1)
        return 0;
    if (!rc)
        rc = open_all(&r, &err);
    if (!rc)
        rc = make_plan(&r, &err);
    if (!rc && !r.a.json) { /* the plan comes before what is planned */
        ds_plan_print(stdout, &r.plan);
        fflush(stdout);
    }
    if (!rc && (r.a.try_steps > 0 || r.a.try_sample > 0))
        rc = try_out(&r, &err);
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    else
        print(&r);
    ds_base_free(r.base);
    ds_worker_device_close(r.dev);
    return ds_error_exit(rc);
}
