/* worker/commands/evaluate_options.c - the words of `diffscaler-worker evaluate`. */
#include "contract/args.h"
#include "contract/options.h"
#include "worker/commands/evaluate_cmd.h"

#include <string.h>

static int take_mode(void *options, const char *name, ds_error *err) {
    return ds_fid_mode_find(name, &((ds_ev_options *)options)->mode, err);
}

static int take_metrics(void *options, const char *text, ds_error *err) {
    ds_ev_options *o = options;
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ","), i = 0;
        while (i < DS_EV_METRICS &&
               (strlen(ds_ev_metrics[i].word) != n || strncmp(p, ds_ev_metrics[i].word, n)))
            i++;
        if (i == DS_EV_METRICS)
            return ds_fail(err, DS_EINVAL,
                           "no metric '%.*s'; there are fid, kid, is, pr, sfid and class", (int)n,
                           p);
        if (o->want & ds_ev_metrics[i].want)
            return ds_fail(err, DS_EINVAL, "option '--metrics' names %.*s twice", (int)n, p);
        o->want |= ds_ev_metrics[i].want;
        p += n + (p[n] == ',');
    }
    o->want_given = 1;
    return o->want ? 0 : ds_fail(err, DS_EINVAL, "option '--metrics' names none");
}

static int take_precision(void *options, const char *name, ds_error *err) {
    ds_ev_options *o = options;
    int rc = ds_precision_from_name(name, &o->precision, err);
    if (!rc && o->precision == DS_PRECISION_BF16)
        rc = ds_fail(err, DS_EINVAL, "features are not computed in bf16: use f32 or tf32");
    return rc;
}

int ds_ev_parse(ds_ev_options *o, int argc, char **argv, ds_error *err) {
    const ds_arg rows[] = {
        {"SAMPLES", .type = DS_ARG_STRING, .target = &o->folder, .missing = "which folder?"},
        {"--against", .metavar = "WHAT", .type = DS_ARG_STRING, .target = &o->against,
         .help = "a folder, an .npz file, or the reference of an adapter"},
        {"--feature-net", .metavar = "FILE", .type = DS_ARG_STRING, .target = &o->net,
         .help = "FID's network: pt_inception-2015-12-05-6726825d.pth, or that imported (without "
                 "it the bundled network, whose distance is not FID)"},
        {"--mode", .metavar = "MODE", .type = DS_ARG_OWN, .target = o, .take = take_mode,
         .given = &o->mode_given,
         .help = "pytorch-fid (default with --feature-net), torch-fidelity (what ADM and DiT "
                 "publish), clean (clean-fid): the pixels, files and numbers of that tool; "
                 "bundled"},
        {"--metrics", .metavar = "LIST", .type = DS_ARG_OWN, .target = o, .take = take_metrics,
         .help =
             "of fid,kid,is,pr,sfid,class (without it fid and kid, and class where both sides have "
             "the same sub-folders; fid for statistics)"},
        {"--n", .metavar = "N", .type = DS_ARG_INT64, .target = &o->n, .most = DS_FEATURE_ROWS_MAX,
         .shown = "all",
         .help = "take N pictures of the first SAMPLES: the first ones, in mode bundled those "
                 "that the seed chooses"},
        {"--recursive", .type = DS_ARG_FLAG, .target = &o->recursive,
         .help = "also look below folders in modes pytorch-fid and torch-fidelity"},
        {"--skip-broken", .type = DS_ARG_FLAG, .target = &o->skip_broken,
         .help = "leave out files that cannot be read, also those that end the tool"},
        {"--seed", .metavar = "S", .type = DS_ARG_SEED, .target = &o->seed,
         DS_ARG_RANGE(DS_RANGE_SEED), .help = "of every random choice"},
        {"--save-stats", .metavar = "F.npz", .type = DS_ARG_STRING, .target = &o->save,
         .help = "also save the statistics of SAMPLES, which pytorch-fid can read"},
        {"--force", .type = DS_ARG_FLAG, .target = &o->force,
         .help = "replace that file when it exists"},
        {"--device", .metavar = "KIND", .type = DS_ARG_DEVICE, .target = &o->device,
         .shown = "auto, a GPU where there is one", .help = "auto, cpu, cuda or cuda:N"},
        {"--precision", .metavar = "TYPE", .type = DS_ARG_OWN, .target = o, .take = take_precision,
         .shown = "f32",
         .help = "of the network on a GPU: f32, or tf32, as pytorch-fid has it there: faster, and "
                 "FID within 0.1 %"},
        {"--threads", .metavar = "N", .type = DS_ARG_INT, .target = &o->threads, .most = 256,
         .shown = "as many as this process may use", .help = "threads"},
        {"--json", .type = DS_ARG_FLAG, .target = &o->json, .help = "print one JSON document"},
        {"--quiet", .type = DS_ARG_FLAG, .target = &o->quiet, .help = "no progress, no notes"},
        {NULL}};
    const ds_args a = {
        .command = "diffscaler-worker evaluate",
        .usage = "SAMPLES --against SAMPLES|STATS.npz|REFERENCE [options]\n"
                 "SAMPLES --save-stats FILE.npz [options]",
        .about = "Measure pictures against others, or against statistics of pytorch-fid or ADM, or "
                 "against the\n"
                 "reference of an adapter (reference.safetensors.zst).  SAMPLES: a folder, or an "
                 ".npz file with\n"
                 "arr_0, uint8 (N,height,width,3), as ADM and DiT write them.",
        .after = "Exit 0 when every metric was measured.  Where one cannot be had (too few "
                 "pictures for it) the\n"
                 "others are printed and the exit is 1.\n"
                 "\n"
                 "examples:\n"
                 "  diffscaler-worker evaluate samples --against photos\n"
                 "  diffscaler-worker evaluate samples.npz --against "
                 "VIRTUAL_imagenet256_labeled.npz \\\n"
                 "      --feature-net pt_inception-2015-12-05-6726825d.pth --mode torch-fidelity "
                 "\\\n"
                 "      --metrics fid,sfid,is,pr",
        .extra = "one folder at a time",
        .rows = rows};
    int rc = ds_args_parse(&a, argc, argv, err);
    if (!rc && !o->against && !o->save)
        rc = ds_fail(err, DS_EINVAL,
                     "against what?  give --against FOLDER, STATS.npz or REFERENCE, or "
                     "--save-stats FILE.npz");
    return rc;
}
