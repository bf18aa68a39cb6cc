/* worker/commands/export_command.c - `diffscaler-worker export`. */
#include "contract/args.h"
#include "worker/commands/worker.h"
#include "worker/convert/export.h"
#include "worker/job/stop.h"

#include <stdio.h>
#include <string.h>

/* What the format would not use is refused: nothing that was asked for is left out in silence. */
static int check_together(const ds_export_options *o, ds_error *err) {
    if (!strcmp(o->out_dir, "-"))
        return ds_fail(err, DS_EINVAL, "-o takes a folder, which standard output is not");
    if (o->no_pt && o->format != DS_EXPORT_DIT)
        return ds_fail(err, DS_EINVAL, "--no-pt is for --format dit: no other writes model.pt");
    if (o->merge && o->format == DS_EXPORT_PEFT)
        return ds_fail(err, DS_EINVAL,
                       "--merge cannot be with --format peft-like, which is the adapter alone");
    if (o->bf16 && o->format == DS_EXPORT_SAFETENSORS && !o->merge)
        return ds_fail(err, DS_EINVAL,
                       "--dtype bf16 is for matrices that are written anew: the adapter is "
                       "written as it is (with --merge there are some)");
    return 0;
}

static int parse(int argc, char **argv, ds_export_options *o) {
    const char *format = NULL, *dtype = "f32";
    const ds_arg rows[] = {
        {"--base", .metavar = "FILE", .type = DS_ARG_STRING, .target = &o->base,
         .help = "canonical base file", .missing = "--base FILE is missing"},
        {"--format", .metavar = "FORMAT", .type = DS_ARG_WORD, .target = &format,
         .words = "safetensors|dit|diffusers|peft-like", .help = "see above",
         .missing = "--format FORMAT is missing"},
        {"-o", "--output", "DIR", DS_ARG_STRING, &o->out_dir, .help = "the folder that is written",
         .missing = "-o DIR is missing"},
        {"--adapter", .metavar = "FILE|-", .type = DS_ARG_STRING, .target = &o->adapter,
         .help = "as dsctl pull-adapter gives it; - reads it from standard input; without it the "
                 "base itself is exported"},
        {"--vae", .metavar = "FILE", .type = DS_ARG_STRING, .target = &o->vae,
         .help = "goes into a diffusers folder"},
        {"--license", .metavar = "TEXT", .type = DS_ARG_STRING, .target = &o->license,
         .help = "of the base, for the model card"},
        {"--dtype", .metavar = "TYPE", .type = DS_ARG_WORD, .target = &dtype, .words = "f32|bf16",
         .help = "of matrices"},
        {"--merge", .type = DS_ARG_FLAG, .target = &o->merge,
         .help = "fold the adapter into the base (dit and diffusers always do)"},
        {"--no-pt", .type = DS_ARG_FLAG, .target = &o->no_pt, .help = "dit: no model.pt"},
        {"--no-measure", .type = DS_ARG_UNFLAG, .target = &o->measure,
         .help = "do not measure what the layout cannot carry"},
        {"--force", .type = DS_ARG_FLAG, .target = &o->force,
         .help = "replace DIR if an export wrote it"},
        {NULL}};
    const ds_args a = {
        .command = "diffscaler-worker export",
        .usage = "--base FILE [--adapter FILE|-] --format FORMAT -o DIR [OPTIONS]",
        .about = "Write an adapter, or the model that it makes of its base, for other programs.\n"
                 "\n"
                 "  safetensors   the adapter, unpacked; with --merge a base for dsctl add-base\n"
                 "  dit           merged, facebookresearch/DiT: model.safetensors and model.pt\n"
                 "  diffusers     merged, a folder for DiTTransformer2DModel or DiTPipeline\n"
                 "  peft-like     LoRA factors, scale and shift; the PEFT library cannot load it",
        .after = "example:\n"
                 "  diffscaler-worker export --base base.safetensors --adapter digits.zst \\\n"
                 "      --format diffusers -o out",
        .rows = rows};
    ds_error err;
    int rc = ds_args_parse(&a, argc, argv, &err);
    if (rc == 1)
        return -1;
    o->bf16 = !strcmp(dtype, "bf16");
    rc = rc ? rc : ds_export_format_from_name(format, &o->format, &err);
    rc = rc ? rc : check_together(o, &err);
    return rc ? ds_args_refuse(&a, &err) : 0;
}

static void print_note(void *user, const char *line) {
    (void)user;
    fprintf(stderr, "warning: %s\n", line);
}

int ds_worker_export(int argc, char **argv) {
    ds_export_options o = {.measure = 1};
    ds_error err;
    int rc = parse(argc, argv, &o);
    if (rc)
        return rc < 0 ? 0 : rc;
    rc = ds_stop_install(NULL, 0, &err);
    ds_stop_defer(1); /* what is half written is removed first */
    if (!rc)
        rc = ds_export(&o, print_note, NULL, &err);
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    else
        printf("wrote %s\n", o.out_dir);
    return ds_error_exit(rc);
}
