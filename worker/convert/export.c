/* worker/convert/export.c - an export: open, check what the layout can carry, write, rename. */
#include "worker/convert/export.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/zio.h"
#include "engine/diffusion/flow.h"
#include "engine/model/net.h"
#include "engine/names/dit_layouts.h"
#include "worker/convert/export_internal.h"
#include "worker/job/stop.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ADAPTER_MAX = 1 << 30 };
static const size_t FILE_MAX = (size_t)64 << 30;

static const char *const format_names[] = {"safetensors", "dit", "diffusers", "peft-like"};

int ds_export_format_from_name(const char *name, enum ds_export_format *out, ds_error *err) {
    for (int i = 0; i < 4; i++)
        if (!strcmp(name, format_names[i])) {
            *out = (enum ds_export_format)i;
            return 0;
        }
    return ds_fail(err, DS_EINVAL,
                   "unknown format '%.40s': use safetensors, dit, diffusers or peft-like", name);
}

/* ---------------------------------------------------------------- opening */

/* All of standard input. */
static int read_stdin(char **out, size_t *n, ds_error *err) {
    size_t room = 1 << 20;
    char *p = ds_xmalloc(room);
    *n = 0;
    for (size_t got; (got = fread(p + *n, 1, room - *n, stdin)) > 0;) {
        *n += got;
        if (*n > ADAPTER_MAX) {
            free(p);
            return ds_fail(err, DS_ELIMIT, "the adapter on standard input is larger than %d MiB",
                           ADAPTER_MAX >> 20);
        }
        if (*n == room)
            p = ds_xrealloc(p, room *= 2);
    }
    if (ferror(stdin)) {
        free(p);
        return ds_fail_errno(err, "cannot read standard input");
    }
    *out = p;
    return 0;
}

static int open_adapter(ds_exporter *x, ds_error *err) {
    const char *name = x->o->adapter;
    char *packed = NULL;
    size_t n;
    int rc;
    if (!strcmp(name, "-")) {
        name = "standard input";
        if (!(rc = read_stdin(&packed, &n, err))) {
            rc = ds_zio_decompress(name, packed, n, ADAPTER_MAX, &x->raw, &x->raw_bytes, err);
            free(packed);
        }
    } else
        rc = ds_zio_read_file(name, ADAPTER_MAX, &x->raw, &x->raw_bytes, err);
    return rc ? rc : ds_adapter_decode(&x->adapter, x->base, name, x->raw, x->raw_bytes, err);
}

static int open_all(ds_exporter *x, ds_error *err) {
    int rc = ds_base_open(&x->base, x->o->base, NULL, err);
    if (!rc)
        rc = ds_st_open_file(x->o->base, FILE_MAX, 1, &x->base_file, err);
    if (!rc && x->o->adapter)
        rc = open_adapter(x, err);
    if (!rc && x->o->vae)
        rc = ds_st_open_file(x->o->vae, FILE_MAX, 1, &x->vae_file, err);
    if (rc)
        return rc;
    const char *stated = ds_st_meta(x->base_file, "diffscaler.license"),
               *names = ds_st_meta(x->base_file, "diffscaler.classes");
    if (names)
        x->names = json_loads(names, 0, NULL);
    x->license = x->o->license ? x->o->license : stated ? stated : "";
    return 0;
}

/* ---------------------------------------------------------------- what a layout can carry */

/* A model for other programs? */
static int foreign(const ds_export_options *o) {
    return o->format == DS_EXPORT_DIT || o->format == DS_EXPORT_DIFFUSERS;
}

static int whole_model(const ds_export_options *o) { return foreign(o) || o->merge; }

static enum ds_layout layout_of(const ds_export_options *o) {
    return o->format == DS_EXPORT_DIFFUSERS ? DS_LAYOUT_DIFFUSERS : DS_LAYOUT_FACEBOOK;
}

static int branch_awake(const ds_adapter *a) {
    for (int i = 0; i < a->table.count; i++)
        if (a->table.items[i].kind == DS_PARAM_S && a->data[a->table.items[i].offset] != 0)
            return 1;
    return 0;
}

static int check(const ds_exporter *x, ds_error *err) {
    const ds_export_options *o = x->o;
    const ds_adapter *a = x->adapter;
    if (!a && !whole_model(o))
        return ds_fail(err, DS_EINVAL, "format %s is of an adapter: give one with --adapter",
                       format_names[o->format]);
    if (a && whole_model(o) && a->spec.phi_relu && branch_awake(a))
        return ds_fail(err, DS_EINVAL,
                       "this adapter has a branch with phi = relu, which cannot be folded into the "
                       "weights: format %s cannot hold it; use safetensors or peft-like",
                       format_names[o->format]);
    if (o->format == DS_EXPORT_PEFT &&
        (ds_method_parts(a->spec.method) & (DS_PART_BASE | DS_PART_BIASES)))
        return ds_fail(err, DS_EINVAL,
                       "an adapter of method %s has no factors: it replaces tensors of the base; "
                       "use safetensors, dit or diffusers",
                       ds_method_name(a->spec.method));
    return o->format == DS_EXPORT_SAFETENSORS ? 0 : ds_layout_check(x->base, layout_of(o), err);
}

/* Facts of the written model. */
static ds_facts written_facts(const ds_exporter *x) {
    ds_facts f = x->base->facts;
    if (x->adapter && x->adapter->spec.classes)
        f.classes = x->adapter->spec.classes;
    if (foreign(x->o) && f.classes < DS_EXPORT_ROWS)
        f.classes = DS_EXPORT_ROWS;
    return f;
}

/* ---------------------------------------------------------------- size of the effect */

enum { TRIED = 5, EACH = 2, LATENT_SEED = 11 };

static void forward_all(ds_net *net, ds_device *dev, const ds_facts *c, float *x_dev,
                        float *out_dev, float *out) {
    size_t px = ds_facts_in(c), outpx = ds_facts_out(c);
    float *x = ds_xmalloc(EACH * px * sizeof *x);
    for (int k = 0; k < TRIED; k++) {
        ds_net_sample cond[EACH];
        for (int i = 0; i < EACH; i++) {
            ds_rng_normal(x + (size_t)i * px, px, LATENT_SEED, DS_STREAM_SAMPLE, (uint32_t)k,
                          (uint64_t)i);
            cond[i] = (ds_net_sample){.t = c->flow.path != DS_FLOW_NONE
                                               ? ds_flow_time(&c->flow, (k + 0.5) / TRIED)
                                               : (float)((k + 0.5) / TRIED * c->train_steps),
                                      .row = -1,
                                      .base_row = c->classes};
        }
        dev->upload(dev, x_dev, x, EACH * px * sizeof *x);
        ds_net_forward(net, out_dev, &(ds_net_input){.x = x_dev, .samples = cond}, EACH);
        dev->download(dev, out + (size_t)k * EACH * outpx, out_dev, EACH * outpx * sizeof *out);
    }
    free(x);
}

/* Relative root mean square difference of what is predicted between the base's properties and
 * those that readers of the layout assume, over timesteps and noise; NaN: not measured. */
static double effect(ds_exporter *x) {
    const ds_facts *c = &x->base->facts;
    size_t px = ds_facts_in(c), outpx = ds_facts_out(c), n = TRIED * EACH * outpx;
    ds_device_options o = {.kind = "auto"};
    ds_device *dev = NULL;
    ds_model *model = NULL;
    ds_net *net = NULL;
    double diff = 0, norm = 0;
    if (ds_device_open(&dev, &o, NULL))
        return NAN;
    float *a = ds_xmalloc(n * sizeof *a), *b = ds_xmalloc(n * sizeof *b);
    float *x_dev = dev->alloc(dev, EACH * px * 4), *out_dev = dev->alloc(dev, EACH * outpx * 4);
    int ok = x_dev && out_dev && !ds_model_new(&model, dev, x->base, NULL) &&
             !ds_net_new(&net, model, DS_NET_INFER, (const ds_adapter *const *)&x->adapter,
                         x->adapter != NULL, EACH, NULL);
    if (ok) {
        forward_all(net, dev, c, x_dev, out_dev, a);
        ds_layout_properties was = ds_layout_assume(x->base, layout_of(x->o));
        ds_device_forget(dev, net); /* passes that were recorded with the base's own */
        forward_all(net, dev, c, x_dev, out_dev, b);
        ds_layout_undo(x->base, was);
    }
    for (size_t i = 0; ok && i < n; i++)
        if (i % outpx < px) {
            diff += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
            norm += (double)a[i] * a[i];
        }
    ds_net_free(net);
    ds_model_free(model);
    dev->free(dev, x_dev);
    dev->free(dev, out_dev);
    ds_device_close(dev);
    free(a);
    free(b);
    return ok && norm > 0 ? sqrt(diff / norm) : NAN;
}

/* Says what the layout cannot carry, and what that changes. */
static void compare_properties(ds_exporter *x) {
    char *differ = foreign(x->o) ? ds_layout_differences(x->base, layout_of(x->o)) : NULL;
    if (!differ)
        return;
    ds_buf b = {0};
    ds_buf_addf(&b, "%s cannot represent this base exactly:%s", ds_layout_reader(layout_of(x->o)),
                differ);
    free(differ);
    double size = x->o->measure ? effect(x) : NAN;
    if (isfinite(size))
        ds_buf_addf(&b,
                    " Measured on noise at %d timesteps, the predicted %s differs by %.2g %% "
                    "(root mean square).",
                    TRIED, x->base->facts.flow.path != DS_FLOW_NONE ? "velocity" : "noise",
                    size * 100);
    else
        ds_buf_addf(&b, " How much that changes the output was not measured.");
    x->note(x->user, b.data);
    x->exact = b.data;
}

/* ---------------------------------------------------------------- writing */

static char *merged_config(const ds_exporter *x) {
    /* the base's own text with the classes replaced, so that every property stays */
    const char *text = ds_st_meta(x->base_file, "diffscaler.config");
    json_t *doc = NULL;
    DS_ASSERT(text && !ds_json_parse("config", text, strlen(text), &doc, NULL));
    json_object_set_new(doc, "classes", json_integer(x->out.classes));
    char *out = ds_json_canonical(doc);
    json_decref(doc);
    return out;
}

/* A base for add-base: named after the task, with its classes. */
static int write_base(ds_exporter *x, const ds_export_list *list, ds_error *err) {
    json_t *names = json_array();
    for (int i = 0; x->adapter && i < x->adapter->spec.classes; i++)
        json_array_append_new(names, json_string(x->adapter->class_names[i]));
    const char *was = ds_st_meta(x->base_file, "diffscaler.classes"),
               *task = ds_json_string(x->adapter ? x->adapter->meta : NULL, "name", "");
    char *config = merged_config(x), *classes = ds_json_canonical(names), name[192];
    snprintf(name, sizeof name, "%s%s%s", x->base->name, *task ? "-" : "", task);
    const char *meta[] = {"diffscaler.config",
                          config,
                          "diffscaler.name",
                          name,
                          "diffscaler.license",
                          x->license,
                          "diffscaler.source_format",
                          "diffscaler export",
                          "diffscaler.classes",
                          x->adapter || !was ? classes : was,
                          NULL};
    int rc = ds_export_write(x, list, "model.safetensors", meta, err);
    json_decref(names);
    free(config);
    free(classes);
    return rc;
}

/* The configuration goes along in places that other programs pass over, so that the files come back
 * in without questions (the number of heads is in no tensor). */
static int write_dit(ds_exporter *x, const ds_export_list *list, ds_error *err) {
    char *config = merged_config(x);
    const char *meta[] = {"format", "pt", "diffscaler.config", config, NULL};
    int rc = ds_export_write(x, list, "model.safetensors", meta, err);
    if (!rc && !x->o->no_pt)
        rc = ds_export_pt(x, "model.safetensors", "model.pt", err);
    free(config);
    return rc;
}

static int write_model(ds_exporter *x, ds_error *err) {
    static const char *const pt[] = {"format", "pt", NULL};
    ds_export_list list = {0};
    char path[4352];
    int rc = 0;
    if (x->o->format == DS_EXPORT_DIFFUSERS) {
        ds_export_list_diffusers(x, &list);
        ds_export_path(x, "transformer", path);
        if (!(rc = ds_fs_mkdirs(path, err)))
            rc = ds_export_write(x, &list, "transformer/diffusion_pytorch_model.safetensors", pt,
                                 err);
        if (!rc)
            rc = ds_export_configs(x, err);
    } else {
        ds_export_list_own(x, &list);
        rc = x->o->format == DS_EXPORT_DIT ? write_dit(x, &list, err) : write_base(x, &list, err);
    }
    free(list.items);
    return rc;
}

static int write_all(ds_exporter *x, ds_error *err) {
    char path[4352];
    int rc;
    if (whole_model(x->o))
        rc = write_model(x, err);
    else if (x->o->format == DS_EXPORT_PEFT)
        rc = ds_export_peft(x, err);
    else {
        ds_export_path(x, "adapter.safetensors", path);
        rc = ds_fs_write(path, x->raw, x->raw_bytes, err);
    }
    return rc ? rc : ds_export_card(x, err);
}

int ds_export_stopped(ds_error *err) {
    return ds_fail(err, DS_ECANCELED, "stopped before it was complete; nothing of it is left");
}

/* What --force may replace: its model card says who wrote it. */
static int is_export(const char *dir) {
    char path[4352], *text = NULL;
    size_t n = 0;
    ds_fs_join(path, sizeof path, dir, "README.md");
    int found = !ds_fs_read(path, 1 << 20, &text, &n, NULL) &&
                strstr(text, "Written by Diffscaler ") != NULL;
    free(text);
    return found;
}

static int target_free(const char *path, int force, ds_error *err) {
    int rc = ds_fs_output_dir_check(path, force, err), taken;
    if (rc || !force)
        return rc;
    ds_error why;
    taken = ds_fs_output_dir_check(path, 0, &why);
    return !taken || is_export(path)
               ? 0
               : ds_fail(err, DS_ECONFLICT,
                         "'%s' exists and is no export: --force does not replace it; give another "
                         "name",
                         path);
}

/* Over an empty folder, or an earlier export, which goes when the new one is in its place. */
static int put_in_place(const char *from, const char *target, int force, ds_error *err) {
    char old[4096];
    int rc = target_free(target, force, err);
    if (rc || !force || !ds_fs_exists(target))
        return rc ? rc : ds_fs_rename(from, target, err);
    snprintf(old, sizeof old, "%s.old-%ld", target, (long)getpid());
    rc = ds_fs_rename(target, old, err);
    if (!rc && (rc = ds_fs_rename(from, target, err)))
        ds_fs_rename(old, target, NULL);
    else if (!rc)
        ds_fs_remove(old, NULL);
    return rc;
}

/* TARGET.part-PID of processes that are gone: killed while they wrote. */
static void remove_leftovers(const char *target) {
    const char *slash = strrchr(target, '/'), *name = slash ? slash + 1 : target;
    size_t n = strlen(name);
    char dir[4096], path[4400];
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - target) + 1 : 2, slash ? target : "./");
    DIR *list = opendir(dir);
    for (struct dirent *e; list && (e = readdir(list));) {
        const char *digits = e->d_name + n + 6;
        if (strncmp(e->d_name, name, n) || strncmp(e->d_name + n, ".part-", 6) || !*digits ||
            strlen(digits) > 9 || digits[strspn(digits, "0123456789")])
            continue;
        pid_t pid = (pid_t)strtol(digits, NULL, 10);
        if (pid < 1 || (pid != getpid() && (!kill(pid, 0) || errno != ESRCH)))
            continue; /* it may be at work */
        snprintf(path, sizeof path, "%s%s", dir, e->d_name);
        ds_fs_remove(path, NULL);
    }
    if (list)
        closedir(list);
}

int ds_export(const ds_export_options *o, ds_export_note *note, void *user, ds_error *err) {
    ds_exporter x = {.o = o, .note = note, .user = user, .entry = -1};
    char target[4000];
    size_t n = strlen(o->out_dir);
    while (n > 1 && o->out_dir[n - 1] == '/')
        n--;
    if (n == 0 || n + 16 > sizeof target)
        return ds_fail(
            err, DS_EINVAL,
            "the path of the folder is empty or has more than %zu bytes: give another one",
            sizeof target - 16);
    snprintf(target, sizeof target, "%.*s", (int)n, o->out_dir);
    int rc = target_free(target, o->force, err);
    if (!rc)
        rc = open_all(&x, err);
    if (!rc)
        rc = check(&x, err);
    if (!rc) {
        x.out = written_facts(&x);
        x.classes =
            x.adapter && x.adapter->spec.classes ? x.adapter->spec.classes : x.base->facts.classes;
        compare_properties(&x);
        remove_leftovers(target);
        snprintf(x.dir, sizeof x.dir, "%s.part-%ld", target, (long)getpid());
        if (!(rc = ds_fs_mkdirs(x.dir, err)))
            rc = write_all(&x, err);
        if (!rc && ds_stop_asked())
            rc = ds_export_stopped(err);
        if (!rc)
            rc = put_in_place(x.dir, target, o->force, err);
        if (rc)
            ds_fs_remove(x.dir, NULL);
    }
    free(x.values);
    free(x.exact);
    free(x.raw);
    json_decref(x.names);
    ds_adapter_free(x.adapter);
    ds_st_free(x.vae_file);
    ds_st_free(x.base_file);
    ds_base_free(x.base);
    return rc;
}
