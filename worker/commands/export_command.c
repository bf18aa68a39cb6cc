/* worker/commands/export_command.c - `diffscaler-worker export`. */
#include "worker/commands/worker.h"
#include "worker/convert/export.h"
#include "worker/job/stop.h"

#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: diffscaler-worker export --base FILE [--adapter FILE|-] --format FORMAT -o DIR\n"
    "                                [OPTIONS]\n"
    "\n"
    "Write an adapter, or the model that it makes of its base, for other programs.\n"
    "\n"
    "  --format safetensors   the adapter, unpacked; with --merge a base for dsctl add-base\n"
    "           dit           merged, facebookresearch/DiT: model.safetensors and model.pt\n"
    "           diffusers     merged, a folder for DiTTransformer2DModel or DiTPipeline\n"
    "           peft-like     LoRA factors, scale and shift; the PEFT library cannot load it\n"
    "  --adapter FILE|-       as dsctl pull-adapter gives it; - reads it from standard input;\n"
    "                         without it the base itself is exported\n"
    "  --vae FILE             goes into a diffusers folder\n"
    "  --license TEXT         of the base, for the model card\n"
    "  --dtype f32|bf16       of matrices (f32)\n"
    "  --merge                fold the adapter into the base (dit and diffusers always do)\n"
    "  --no-pt                dit: no model.pt\n"
    "  --no-measure           do not measure what the layout cannot carry\n"
    "  --force                replace DIR if an export wrote it\n"
    "\n"
    "example:\n"
    "  diffscaler-worker export --base base.safetensors --adapter digits.zst --format diffusers -o "
    "out\n";

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

static int parse(int argc, char **argv, ds_export_options *o, ds_error *err) {
    const char *format = NULL, *dtype = "f32";
    unsigned given = 0;
    const struct {
        const char *name;
        const char **value;
        int *flag, set;
    } options[] = {{"--base", &o->base, NULL, 0},
                   {"--adapter", &o->adapter, NULL, 0},
                   {"--vae", &o->vae, NULL, 0},
                   {"--license", &o->license, NULL, 0},
                   {"--format", &format, NULL, 0},
                   {"--dtype", &dtype, NULL, 0},
                   {"-o", &o->out_dir, NULL, 0},
                   {"--output", &o->out_dir, NULL, 0},
                   {"--merge", NULL, &o->merge, 1},
                   {"--no-pt", NULL, &o->no_pt, 1},
                   {"--no-measure", NULL, &o->measure, 0},
                   {"--force", NULL, &o->force, 1}};
    enum { OPTIONS = sizeof options / sizeof options[0] };
    for (int i = 0; i < argc; i++) {
        int k = 0;
        while (k < OPTIONS && strcmp(argv[i], options[k].name))
            k++;
        if (k == OPTIONS)
            return ds_fail(err, DS_EINVAL, "unknown argument '%.60s'; see --help", argv[i]);
        if (options[k].flag)
            *options[k].flag = options[k].set;
        else if (i + 1 == argc || !*argv[i + 1])
            return ds_fail(err, DS_EINVAL, "%s needs a value", argv[i]);
        else if (given & 1u << k && strcmp(*options[k].value, argv[i + 1]))
            return ds_fail(err, DS_EINVAL, "%s is given twice: '%.60s' and '%.60s'", argv[i],
                           *options[k].value, argv[i + 1]);
        else
            *options[k].value = argv[++i];
        given |= 1u << k;
    }
    if (!o->base || !format || !o->out_dir)
        return ds_fail(err, DS_EINVAL, "%s is missing; see --help",
                       !o->base  ? "--base FILE"
                       : !format ? "--format FORMAT"
                                 : "-o DIR");
    if (strcmp(dtype, "f32") && strcmp(dtype, "bf16"))
        return ds_fail(err, DS_EINVAL, "--dtype is '%.20s', must be f32 or bf16", dtype);
    o->bf16 = !strcmp(dtype, "bf16");
    int rc = ds_export_format_from_name(format, &o->format, err);
    return rc ? rc : check_together(o, err);
}

static void print_note(void *user, const char *line) {
    (void)user;
    fprintf(stderr, "warning: %s\n", line);
}

int ds_worker_export(int argc, char **argv) {
    ds_export_options o = {.measure = 1};
    ds_error err;
    if (argc == 1 && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h")))
        return fputs(usage, stdout), 0;
    int rc = parse(argc, argv, &o, &err);
    if (!rc)
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
