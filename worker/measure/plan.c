/* worker/measure/plan.c - bytes by part, and seconds per step from a calibration. */
#include "worker/measure/plan.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "worker/job/memory.h"
#include "worker/measure/serve.h"

#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double MIB = 1 << 20, GIB = 1 << 30;

/* ---------------------------------------------------------------- bytes */

/* Scratch of the kernels before anything has run; the calibration measures it.  A GPU: beside it
 * the libraries' workspaces. */
static double workspace_guess(const ds_device *dev, const ds_base *base, int rows) {
    return ds_base_workspace(base, dev, rows) + (dev->host_memory ? 4 : 192) * MIB;
}

double ds_plan_limit(double asked) {
    double available = ds_memory_available();
    if (asked > 0)
        return asked;
    return available > 0 ? ds_memory_now() + 0.85 * available : 0;
}

double ds_plan_most(double asked) {
    return asked > 0 ? asked : fmax(ds_plan_limit(0), 0.85 * ds_memory_total());
}

static void sum_up(ds_plan *p) {
    double host = p->program + p->base + p->images;
    double common = p->copy + p->workspace + p->libraries + (p->own ? 0 : host);
    double checkpoint = p->own ? 0 : p->checkpoint;
    p->train = common + p->t.weights + p->t.state + p->t.activations + p->t.batch + checkpoint;
    p->evaluate = common + p->sampling + p->features;
    p->peak = fmax(p->train, p->evaluate);
    p->host = p->own ? host + fmax(p->checkpoint, p->distance) : 0;
}

static int within(double need, double limit) { return limit <= 0 || need <= limit; }

static int fits(const ds_plan *p) {
    return within(p->peak, p->limit) && within(p->host, p->host_limit);
}

/* If nothing else ran. */
static int could_fit(const ds_plan *p) {
    return within(p->peak, p->most) && within(p->host, p->host_most);
}

static void plan_with(ds_plan *p, ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                      const ds_train_options *o) {
    p->t = ds_trainer_plan_of(dev, base, spec, o);
    p->recompute = o->recompute;
    p->micro_batch = o->micro_batch ? o->micro_batch : o->batch;
    sum_up(p);
}

/* The largest smaller micro-batch that fits, now or if nothing else ran; 0: none. */
static int smaller(const ds_plan *p, ds_device *dev, const ds_base *base,
                   const ds_method_spec *spec, const ds_train_options *o,
                   int (*good)(const ds_plan *), double *need) {
    ds_train_options t = *o;
    for (int m = p->micro_batch - 1; m >= 1; m--) {
        t.micro_batch = m;
        ds_plan q = *p;
        plan_with(&q, dev, base, spec, &t);
        *need = q.peak;
        if (o->batch % m == 0 && good(&q))
            return m;
    }
    return 0;
}

/* What is there, for a message. */
static void describe(const ds_plan *p, char *out, size_t size) {
    if (p->own)
        snprintf(out, size,
                 "the GPU (%s) can give it %.0f MiB (%.0f MiB are free of %.0f MiB in all)",
                 p->label, p->limit / MIB, p->free / MIB, p->total / MIB);
    else if (p->most > p->limit)
        snprintf(out, size, "only %.0f MiB of %.0f MiB are available", p->limit / MIB,
                 p->most / MIB);
    else
        snprintf(out, size, "only %.0f MiB are available", p->limit / MIB);
}

static int refuse(ds_plan *p, ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                  const ds_train_options *o, ds_error *err) {
    int later = could_fit(p);
    int code = later ? DS_ENOMEM : DS_EINVAL;
    p->never = !later && !within(p->peak, p->most);
    if (!within(p->host, p->host_limit) && (later || within(p->peak, p->most)))
        return ds_fail(err, code,
                       "beside the GPU training needs %.0f MiB of main memory and only %.0f MiB "
                       "are available%s",
                       p->host / MIB, p->host_limit / MIB,
                       later ? ": wait until other programs end" : "");
    char there[256], advice[160] = "";
    double need = 0;
    int m = within(p->evaluate, later ? p->limit : p->most)
                ? smaller(p, dev, base, spec, o, later ? fits : could_fit, &need)
                : 0;
    describe(p, there, sizeof there);
    if (m)
        snprintf(advice, sizeof advice, "micro_batch %d would need %.0f MiB", m, need / MIB);
    const char *wait = !later   ? ""
                       : p->own ? "wait for what else runs there to end ('nvidia-smi' shows it)"
                                : "wait until other programs end";
    const char *others = p->own && !later ? "a smaller batch or the device cpu may do" : "";
    return ds_fail(err, code, "training needs %.0f MiB and %s%s%s%s%s%s%s", p->peak / MIB, there,
                   *wait ? ": " : "", wait, *advice ? *wait ? "; " : ": " : "", advice,
                   *others ? *advice ? "; " : ": " : "", others);
}

/* Of a device with memory of its own: what is free or held by this process is ours to take. */
static void measure_own(ds_plan *p, ds_device *dev, double held) {
    double ours = held + (double)dev->workspace_bytes(dev);
    p->free = (double)dev->free_bytes(dev);
    p->total = dev->total_bytes ? (double)dev->total_bytes(dev) : p->free + ours;
    p->limit = 0.95 * (p->free + ours);
    p->most = fmax(p->limit, 0.95 * p->total - GIB);
    p->libraries = 256 * MIB;
    snprintf(p->label, sizeof p->label, "%s", dev->label);
}

int ds_plan_memory(ds_plan *p, ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                   ds_train_options *o, const ds_plan_input *in, ds_error *err) {
    const int blocks = base->facts.blocks;
    double held = (double)ds_base_bytes(base), now = ds_memory_now();
    ds_params table = {0};
    int own = !dev->host_memory && dev->free_bytes;
    ds_adapter_table(&table, base, spec);
    *p = (ds_plan){.program = in->program > 0 ? in->program
                              : now > held    ? now - held
                                              : 0,
                   .base = held,
                   .copy = dev->host_memory ? 0 : (double)base->table.total * sizeof(float),
                   .images = in->images,
                   .features = in->features,
                   .limit = own ? 0 : in->limit,
                   .most = own ? 0 : fmax(in->most, in->limit),
                   .own = own,
                   .host_limit = own ? in->limit : 0,
                   .host_most = own ? fmax(in->most, in->limit) : 0,
                   .batch = o->batch,
                   .steps = o->steps,
                   .max_time = o->max_time,
                   .depth = blocks,
                   .threads = dev->threads,
                   .step_seconds = NAN};
    snprintf(p->device_class, sizeof p->device_class, "%s", dev->device_class);
    if (own)
        measure_own(p, dev, in->held);
    p->workspace = fmax(workspace_guess(dev, base, o->micro_batch ? o->micro_batch : o->batch),
                        (double)dev->workspace_bytes(dev));
    p->checkpoint = 32.0 * (double)table.total; /* host copies of the state, and the file */
    p->sampling = in->nets * ((double)ds_net_weight_bytes(dev, base, DS_NET_INFER) +
                              (double)ds_net_bytes(base, dev, DS_NET_INFER, DS_SERVE_BATCH) +
                              (double)ds_sample_table_bytes(base, dev, DS_SERVE_BATCH));
    if (own)
        p->distance = in->distance;
    else
        p->sampling = fmax(p->sampling, in->distance);
    ds_params_release(&table);
    for (plan_with(p, dev, base, spec, o); !fits(p) && o->recompute < blocks;) {
        o->recompute++;
        plan_with(p, dev, base, spec, o);
    }
    return fits(p) ? 0 : refuse(p, dev, base, spec, o, err);
}

/* ---------------------------------------------------------------- seconds */

enum { BLOCKS = 4, TRIES = 3 };
static const double WORK = 150e9; /* FLOP of one calibration step, at most if it can be */

typedef struct {
    ds_device *dev;
    const ds_base *like;
    const ds_method_spec *spec;
    const ds_train_options *o;
    int rows; /* of a micro-batch */
} calibration;

static double median(double *x, int n) {
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && x[j] < x[j - 1]; j--) {
            double t = x[j];
            x[j] = x[j - 1];
            x[j - 1] = t;
        }
    return x[n / 2];
}

/* Labels and noise as far as the time of a step may depend on them. */
static void fill(uint8_t *pixels, int *labels, int n, size_t one, int classes) {
    for (size_t i = 0; i < (size_t)n * one; i++)
        pixels[i] = (uint8_t)(i * 2654435761u >> 24);
    for (int i = 0; i < n; i++)
        labels[i] = i % classes;
}

/* Two clocks: what a person waits for, and the processor time of all threads, which other programs
 * disturb less. */
enum { WALL, CPU, CLOCKS };
typedef struct {
    double s[CLOCKS];
} spent;

static spent clocks(void) { return (spent){{ds_monotonic(), ds_processor_time()}}; }

static int time_steps(const calibration *k, const ds_model *model, int micro_batches, int recompute,
                      spent *out, ds_error *err) {
    const ds_facts *c = &model->base->facts;
    size_t one = (size_t)c->side * (size_t)c->side * (size_t)c->channels;
    int n = k->rows * micro_batches, classes = k->spec->classes ? k->spec->classes : c->classes;
    ds_train_options o = *k->o;
    o.batch = n;
    o.micro_batch = k->rows;
    o.recompute = recompute;
    o.heldout = 0;
    o.steps = TRIES + 1;
    o.warmup = o.patience = 0;
    o.max_time = 0;
    o.lr = 1e-6; /* it takes as long, and noise must not drive it out of range */
    uint8_t *pixels = ds_xmalloc((size_t)n * one);
    int *labels = ds_xmalloc((size_t)n * sizeof *labels);
    fill(pixels, labels, n, one, classes);
    ds_image_set set = {.pixels = pixels,
                        .labels = labels,
                        .n = n,
                        .side = c->side,
                        .channels = c->channels,
                        .classes = classes};
    ds_trainer *t = NULL;
    ds_train_report r;
    double times[CLOCKS][TRIES];
    int rc = ds_trainer_new(&t, model, k->spec, &o, &set, err);
    for (int i = -1; !rc && i < TRIES; i++) { /* the first one warms up */
        spent start = clocks(), end;
        rc = ds_trainer_step(t, &r, err);
        end = clocks();
        for (int j = 0; i >= 0 && j < CLOCKS; j++)
            times[j][i] = end.s[j] - start.s[j];
    }
    ds_trainer_free(t);
    free(pixels);
    free(labels);
    for (int j = 0; !rc && j < CLOCKS; j++)
        out->s[j] = median(times[j], TRIES);
    return rc;
}

/* A model of `depth` blocks: step of one and of two micro-batches (the same where `single`), and of
 * one that recomputes. */
typedef struct {
    int depth;
    spent one, two, again;
} timing;

static int time_depth(const calibration *k, int depth, int single, timing *t, ds_error *err) {
    ds_base *small = NULL;
    ds_model *model = NULL;
    int rc = depth < k->like->facts.blocks ? ds_base_new_blocks(&small, k->like, depth, 1, err) : 0;
    t->depth = depth;
    if (!rc)
        rc = ds_model_new(&model, k->dev, small ? small : k->like, err);
    if (!rc)
        rc = time_steps(k, model, 1, 0, &t->one, err);
    t->two = t->again = t->one;
    if (!rc && !single)
        rc = time_steps(k, model, 2, 0, &t->two, err);
    if (!rc && depth > 1 && k->o->recompute > 1)
        rc = time_steps(k, model, 1, depth, &t->again, err);
    ds_model_free(model);
    ds_base_free(small);
    return rc;
}

/* Images at a time: the micro-batch, unless that takes too long or, without recomputation, more
 * memory than the training will have for its activations. */
static int calibration_rows(const ds_plan *p, const ds_device *dev, const ds_base *base,
                            double work, int blocks) {
    int rows = p->micro_batch;
    while (rows > 1 && (work * blocks * rows > WORK ||
                        (double)ds_net_blocks_bytes(base, blocks, dev, rows) > p->t.activations))
        rows = (rows + 1) / 2;
    return rows;
}

/* What unpacking the matrices of a base in 16 bits adds to a step. */
static spent unpack_seconds(ds_device *dev, const ds_base *base) {
    int widest = -1;
    size_t total = 0;
    for (int i = 0; i < base->table.count; i++)
        if (!ds_base_held(base, i)) {
            total += base->table.items[i].count;
            if (widest < 0 || base->table.items[i].count > base->table.items[widest].count)
                widest = i;
        }
    spent out = {{0}};
    if (widest < 0)
        return out;
    size_t n = base->table.items[widest].count;
    float *room = ds_xmalloc(n * sizeof *room);
    ds_model_unpack(dev, base, widest, room);
    spent start = clocks(), end;
    for (int i = 0; i < TRIES; i++)
        ds_model_unpack(dev, base, widest, room);
    end = clocks();
    for (int j = 0; j < CLOCKS; j++)
        out.s[j] = (end.s[j] - start.s[j]) / TRIES * (double)total / (double)n;
    free(room);
    return out;
}

/* From the model of few blocks (NULL: the other one has all) and the one of more to a step of n
 * micro-batches, `scale` times as large, on all blocks. */
static double extrapolate(int clock, const timing *few, const timing *more, int depth,
                          int recompute, double scale, int n) {
    /* per micro-batch and per step */
    double micro = more->two.s[clock] - more->one.s[clock], step = more->one.s[clock] - micro;
    if (few) {
        double less = few->two.s[clock] - few->one.s[clock];
        double blocks = more->depth - few->depth, rest = (depth - more->depth) / blocks;
        step += (step - (few->one.s[clock] - less)) * rest;
        micro += (micro - less) * rest;
    }
    if (recompute > 1 && more->depth > 1)
        micro += (more->again.s[clock] - more->one.s[clock]) / (more->depth - 1) * (recompute - 1);
    return fmax(step, 0) + n * scale * fmax(micro, 0);
}

int ds_plan_time(ds_plan *p, ds_device *dev, const ds_base *base, const ds_method_spec *spec,
                 ds_train_options *o, ds_error *err) {
    const int depth = base->facts.blocks, mb = o->micro_batch ? o->micro_batch : o->batch,
              n = o->batch / mb;
    double begin = ds_monotonic(),
           work = ds_base_block_flop(base, (ds_method_parts(spec->method) & DS_PART_BASE) != 0);
    double before = (double)dev->workspace_bytes(dev);
    calibration k = {.dev = dev, .like = base, .spec = spec, .o = o};
    int whole = depth <= BLOCKS || work * depth * mb * 3 <= WORK, most = whole ? depth : BLOCKS;
    k.rows = calibration_rows(p, dev, base, work, most);
    timing few, more;
    double scale = (double)mb / k.rows, seconds[CLOCKS];
    /* a step that can be run as it is needs no model */
    int single = whole && n == 1 && k.rows == mb && o->recompute <= 1;
    int rc = time_depth(&k, most, single, &more, err);
    if (!rc && !whole)
        rc = time_depth(&k, 1, 0, &few, err);
    if (rc)
        return rc;
    spent unpack = whole ? (spent){{0}} : unpack_seconds(dev, base); /* whole: it was done */
    for (int j = 0; j < CLOCKS; j++)
        seconds[j] =
            extrapolate(j, whole ? NULL : &few, &more, depth, o->recompute, scale, n) + unpack.s[j];
    p->step_seconds = seconds[WALL];
    p->step_cpu_seconds = seconds[CPU];
    double grown = (double)dev->workspace_bytes(dev) - before;
    if (p->own) /* it grows with the images at a time */
        p->workspace = fmax(p->workspace, before + grown * scale);
    else
        p->workspace = fmax(p->workspace / 8, before + grown);
    malloc_trim(0); /* what the calibration took is free again */
    p->calibrate_seconds = ds_monotonic() - begin;
    for (sum_up(p); !fits(p) && o->recompute < depth;) {
        o->recompute++;
        plan_with(p, dev, base, spec, o);
    }
    return fits(p) ? 0 : refuse(p, dev, base, spec, o, err);
}

/* ---------------------------------------------------------------- output */

typedef struct {
    const char *key, *label;
    double bytes;
} part;
enum { PARTS = 12 };

static void parts_of(const ds_plan *p, part out[PARTS]) {
    const part list[PARTS] = {
        {"program", "program and libraries", p->program},
        {"base", "base, as it lies in memory", p->base},
        {"base_copy", "its copy on the device", p->copy},
        {"weights", "weights packed for products", p->t.weights},
        {"state", "parameters, gradients, optimiser", p->t.state},
        {"activations", "activations", p->t.activations},
        {"batch", "micro-batch", p->t.batch},
        {"images", "training set", p->images},
        {"workspace", "workspace of the kernels", p->workspace},
        {"libraries", "graphs and libraries (allowance)", p->libraries},
        {"checkpoint", "a checkpoint being written", p->checkpoint},
        {"evaluation", "evaluation instead of training", p->sampling + p->features},
    };
    memcpy(out, list, sizeof list);
}

/* Of all steps, or of as many as there is time for. */
static double train_seconds(const ds_plan *p) {
    double all = p->step_seconds * p->steps;
    return p->max_time > 0 ? fmin(all, p->max_time) : all;
}

json_t *ds_plan_json(const ds_plan *p) {
    part list[PARTS];
    json_t *bytes = json_object();
    parts_of(p, list);
    for (int i = 0; i < PARTS; i++)
        json_object_set_new(bytes, list[i].key, json_integer((json_int_t)list[i].bytes));
    json_object_set_new(bytes, "train", json_integer((json_int_t)p->train));
    json_object_set_new(bytes, "evaluate", json_integer((json_int_t)p->evaluate));
    json_object_set_new(bytes, "peak", json_integer((json_int_t)p->peak));
    json_object_set_new(bytes, "limit",
                        p->limit > 0 ? json_integer((json_int_t)p->limit) : json_null());
    json_object_set_new(bytes, "most",
                        p->most > 0 ? json_integer((json_int_t)p->most) : json_null());
    int timed = isfinite(p->step_seconds);
    return json_pack(
        "{s:o, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:o, s:f, s:s, s:i, s:o}", "bytes", bytes,
        "batch", p->batch, "micro_batch", p->micro_batch, "steps", p->steps, "depth", p->depth,
        "recompute", p->recompute, "step_seconds", timed ? json_real(p->step_seconds) : json_null(),
        "step_cpu_seconds", timed ? json_real(p->step_cpu_seconds) : json_null(), "train_seconds",
        timed ? json_real(train_seconds(p)) : json_null(), "calibrate_seconds",
        p->calibrate_seconds, "device_class", p->device_class, "threads", p->threads,
        "feature_seconds", p->feature_seconds > 0 ? json_real(p->feature_seconds) : json_null());
}

static void print_time(FILE *f, double s) {
    if (s < 100)
        fprintf(f, "%.3g s", s);
    else if (s < 5400)
        fprintf(f, "%.0f min", s / 60);
    else
        fprintf(f, "%.1f h", s / 3600);
}

void ds_plan_print(FILE *f, const ds_plan *p) {
    part list[PARTS];
    parts_of(p, list);
    fprintf(f, "plan for %s, %d thread%s: batch %d in micro-batches of %d\n", p->device_class,
            p->threads, p->threads == 1 ? "" : "s", p->batch, p->micro_batch);
    for (int i = 0; i < PARTS; i++)
        if (list[i].bytes >= 0.05 * MIB)
            fprintf(f, "  %-34s %9.1f MiB\n", list[i].label, list[i].bytes / MIB);
    fprintf(f, "  %-34s %9.1f MiB", "peak", p->peak / MIB);
    if (p->limit > 0)
        fprintf(f, " of %.0f", p->limit / MIB);
    fprintf(f, "\n");
    if (p->recompute > 1)
        fprintf(f,
                "  memory is short: activations of %d of %d blocks are computed again in the "
                "backward pass\n",
                p->recompute, p->depth);
    if (isfinite(p->step_seconds)) {
        fprintf(f, "  a step takes %.3g s, %d steps ", p->step_seconds, p->steps);
        print_time(f, p->step_seconds * p->steps);
        if (train_seconds(p) < p->step_seconds * p->steps) {
            fprintf(f, ", of which max_time leaves about ");
            print_time(f, p->max_time);
        }
        fprintf(f, "; processor time %.3g s a step (calibrated in %.1f s)\n", p->step_cpu_seconds,
                p->calibrate_seconds);
    }
    if (p->feature_seconds > 0) {
        fprintf(f, "  the features of its evaluation take ");
        print_time(f, p->feature_seconds);
        fprintf(f, " more\n");
    }
}
