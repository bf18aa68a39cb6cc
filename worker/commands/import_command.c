/* worker/commands/import_command.c - `diffscaler-worker import-base` and `import-feature-net`. */
#include "base/fs.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "contract/args.h"
#include "worker/commands/worker.h"
#include "worker/convert/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *stage;
    double last; /* seconds; when a line was written */
} terminal;

static void on_stage(void *user, const char *stage) { ((terminal *)user)->stage = stage; }

static int on_step(void *user, double done, double total) {
    terminal *t = user;
    if (ds_monotonic() - t->last < 0.2 && done < total)
        return 0;
    t->last = ds_monotonic();
    int pictures = !strcmp(t->stage, "objective");
    unsigned long long unit = pictures ? 1 : 1000000;
    fprintf(stderr, "\r%s %llu / %llu %s%s", t->stage, (unsigned long long)done / unit,
            (unsigned long long)total / unit, pictures ? "pictures" : "MB",
            done >= total ? "\n" : "  ");
    return 0;
}

static void say_line(void *user, int warning, const char *text) {
    (void)user;
    fprintf(stderr, "%s: %s\n", warning ? "warning" : "note", text);
}

/* ---------------------------------------------------------------- import-base */

/* 0, or the exit status that ends the command; < 0: help was printed. */
static int parse_base(int argc, char **argv, ds_import_options *o) {
    const ds_arg rows[] = {
        {"SRC", .type = DS_ARG_TEXT, .target = &o->source, .missing = "which model?"},
        {"-o", .metavar = "DIR", .type = DS_ARG_TEXT, .target = &o->out_dir,
         .help = "where the base is written", .missing = "where to?  -o DIR"},
        {"--vae", .metavar = "SRC", .type = DS_ARG_TEXT, .target = &o->vae,
         .help = "the autoencoder of a latent DiT (a folder's own vae/ is found by itself)"},
        {"--name", .metavar = "NAME", .type = DS_ARG_TEXT, .target = &o->name,
         .help = "otherwise from the name of SRC"},
        {"--license", .metavar = "TEXT", .type = DS_ARG_TEXT, .target = &o->license,
         .help = "is kept with the base and shown with it"},
        {"--heads", .metavar = "N", .type = DS_ARG_INT, .target = &o->heads,
         DS_ARG_RANGE(DS_RANGE_HEADS),
         .help = "for a DiT that is none of S, B, L, XL and has no config.json"},
        {"--weights", .metavar = "WHICH", .type = DS_ARG_TEXT, .target = &o->weights,
         .help = "ema, model (the raw ones), or a key: of a file that holds several models"},
        {"--objective", .metavar = "WHAT", .type = DS_ARG_TEXT, .target = &o->objective,
         .help =
             "what it predicts, where that is known: eps, or the velocity of a flow, data-noise "
             "(SiT) or noise-data (REPA), each with -gvp behind it on that path and -1000 where "
             "its time is 0 to 1000; otherwise the file says it, or it is measured"},
        {"--probe", .metavar = "DIR", .type = DS_ARG_TEXT, .target = &o->probe,
         .help = ".. on pictures of this folder, like those it was trained on"},
        {NULL}};
    const ds_args a = {
        .command = "diffscaler-worker import-base",
        .usage = "SRC -o DIR [OPTIONS]",
        .about =
            "Write a DiT that another program trained as a base of ours, DIR/<sha256>.safetensors, "
            "and\n"
            "its VAE beside it.  SRC is a PyTorch checkpoint (.pt, .pth, .bin), safetensors, or a\n"
            "diffusers folder.  Prints what it found as JSON.  Nothing inside a checkpoint is "
            "executed.",
        .after = "example:\n"
                 "  diffscaler-worker import-base ./DiT-XL-2-256x256.pt --vae ./sd-vae-ft-ema -o "
                 "./bases",
        .rows = rows};
    ds_error err;
    int rc = ds_args_parse(&a, argc, argv, &err);
    return rc == 1 ? -1 : rc ? ds_args_refuse(&a, &err) : 0;
}

int ds_worker_import_base(int argc, char **argv) {
    terminal t = {0};
    ds_import_options o = {0};
    ds_import_result r = {0};
    ds_error err;
    int rc = parse_base(argc, argv, &o);
    if (rc)
        return rc < 0 ? 0 : rc;
    if (isatty(STDERR_FILENO))
        o.progress = (ds_import_progress){on_stage, on_step, &t};
    o.report = ds_import_report_new();
    rc = ds_import_base(&o, &r, &err);
    ds_import_report_lines(o.report, say_line, NULL);
    if (rc) {
        ds_import_report_free(o.report);
        return fprintf(stderr, "error: %s\n", err.message), ds_error_exit(rc);
    }
    json_t *doc = ds_import_result_json("base", &r, o.report);
    ds_import_report_free(o.report);
    char *text = ds_need(json_dumps(doc, JSON_INDENT(2)));
    puts(text);
    free(text);
    json_decref(doc);
    ds_import_result_release(&r);
    return 0;
}

/* ---------------------------------------------------------------- import-feature-net */

static int parse_net(int argc, char **argv, ds_import_options *o) {
    const ds_arg rows[] = {
        {"FILE", .type = DS_ARG_STRING, .target = &o->source, .missing = "which file?"},
        {"OUT_DIR", .type = DS_ARG_STRING, .target = &o->out_dir, .missing = "where to?  OUT_DIR"},
        {"--weights", .metavar = "WHICH", .type = DS_ARG_STRING, .target = &o->weights,
         .help = "ema, model (the raw ones), or a key: of a file that holds several models"},
        {NULL}};
    const ds_args a = {
        .command = "diffscaler-worker import-feature-net",
        .usage = "FILE OUT_DIR [--weights WHICH]",
        .about = "Convert pt_inception-2015-12-05-6726825d.pth (or the same tensors as\n"
                 "safetensors) to OUT_DIR/<sha256>.safetensors and print that path.",
        .after = "example:\n"
                 "  diffscaler-worker import-feature-net pt_inception-2015-12-05-6726825d.pth nets",
        .rows = rows};
    ds_error err;
    int rc = ds_args_parse(&a, argc, argv, &err);
    return rc == 1 ? -1 : rc ? ds_args_refuse(&a, &err) : 0;
}

int ds_worker_import_feature_net(int argc, char **argv) {
    ds_import_result r;
    ds_error err = {0};
    ds_import_options o = {0};
    int rc = parse_net(argc, argv, &o);
    if (rc)
        return rc < 0 ? 0 : rc;
    o.report = ds_import_report_new();
    rc = ds_import_feature_net(&o, &r, &err);
    ds_import_report_lines(o.report, say_line, NULL);
    ds_import_report_free(o.report);
    if (rc) {
        fprintf(stderr, "error: %s\n", err.message);
        return ds_error_exit(rc);
    }
    printf("%s\n", r.file);
    json_decref(r.config);
    return 0;
}
