/* worker/commands/evaluate_options.c - the words of `diffscaler-worker evaluate`. */
#include "worker/commands/evaluate_cmd.h"
#include "worker/job/device.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: diffscaler-worker evaluate SAMPLES --against SAMPLES|STATS.npz|REFERENCE [options]\n"
    "       diffscaler-worker evaluate SAMPLES --save-stats FILE.npz [options]\n"
    "\n"
    "Measure pictures against others, or against statistics of pytorch-fid or ADM, or against the\n"
    "reference of an adapter (reference.safetensors.zst).  SAMPLES: a folder, or an .npz file "
    "with\n"
    "arr_0, uint8 (N,height,width,3), as ADM and DiT write them.\n"
    "\n"
    "  --feature-net FILE  FID's network: pt_inception-2015-12-05-6726825d.pth, or that imported\n"
    "                      (default: the bundled network, whose distance is not FID)\n"
    "  --mode MODE         pytorch-fid (default with --feature-net), torch-fidelity (what ADM and "
    "DiT\n"
    "                      publish), clean (clean-fid): the pixels, files and numbers of that "
    "tool;\n"
    "                      bundled\n"
    "  --metrics LIST      of fid,kid,is,pr,sfid (default: fid and kid, or fid for statistics)\n"
    "  --n N               take N pictures of the first SAMPLES: the first ones, in mode bundled\n"
    "                      those that the seed chooses (default: all)\n"
    "  --recursive         also look below folders in modes pytorch-fid and torch-fidelity\n"
    "  --skip-broken       leave out files that cannot be read, also those that end the tool\n"
    "  --seed S            of every random choice (default 0)\n"
    "  --save-stats F.npz  also save the statistics of SAMPLES, which pytorch-fid can read\n"
    "  --force             replace that file when it exists\n"
    "  --device KIND       auto, cpu, cuda or cuda:N (default: auto, a GPU where there is one)\n"
    "  --precision TYPE    of the network on a GPU: f32 (default), or tf32, as pytorch-fid has it\n"
    "                      there: faster, and FID within 0.1 %\n"
    "  --threads N         (default: as many as this process may use)\n"
    "  --json              print one JSON document;   --quiet  no progress, no notes\n"
    "\n"
    "Exit 0 when every metric was measured.  Where one cannot be had (too few pictures for it) "
    "the\n"
    "others are printed and the exit is 1.\n"
    "\n"
    "examples:\n"
    "  diffscaler-worker evaluate samples --against photos\n"
    "  diffscaler-worker evaluate samples.npz --against VIRTUAL_imagenet256_labeled.npz \\\n"
    "      --feature-net pt_inception-2015-12-05-6726825d.pth --mode torch-fidelity \\\n"
    "      --metrics fid,sfid,is,pr\n";

static int parse_count(const char *option, const char *text, double most, int64_t *out,
                       ds_error *err) {
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (errno || end == text || *end || !(v >= 0 && v <= most) || v != floor(v))
        return ds_fail(err, DS_EINVAL,
                       "option '--%s' takes a whole number from 0 to %.0f, not '%s'", option, most,
                       text);
    *out = (int64_t)v;
    return 0;
}

static int parse_metrics(ds_ev_options *o, const char *text, ds_error *err) {
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ","), i = 0;
        while (i < DS_EV_METRICS &&
               (strlen(ds_ev_metrics[i].word) != n || strncmp(p, ds_ev_metrics[i].word, n)))
            i++;
        if (i == DS_EV_METRICS)
            return ds_fail(err, DS_EINVAL, "no metric '%.*s'; there are fid, kid, is, pr and sfid",
                           (int)n, p);
        if (o->want & ds_ev_metrics[i].want)
            return ds_fail(err, DS_EINVAL, "option '--metrics' names %.*s twice", (int)n, p);
        o->want |= ds_ev_metrics[i].want;
        p += n + (p[n] == ',');
    }
    o->want_given = 1;
    return o->want ? 0 : ds_fail(err, DS_EINVAL, "option '--metrics' names none");
}

enum {
    AGAINST = 1,
    NET,
    MODE,
    METRIC,
    COUNT,
    SEED,
    SAVE,
    THREADS,
    JSON,
    QUIET,
    DEVICE,
    PRECISION,
    RECURSIVE,
    SKIP_BROKEN,
    FORCE,
    HELP
};

static int parse_precision(ds_ev_options *o, const char *name, ds_error *err) {
    int rc = ds_precision_from_name(name, &o->precision, err);
    if (!rc && o->precision == DS_PRECISION_BF16)
        rc = ds_fail(err, DS_EINVAL, "features are not computed in bf16: use f32 or tf32");
    return rc;
}

static int set_option(ds_ev_options *o, int c, const char *v, ds_error *err) {
    int64_t number = 0;
    int rc = 0;
    switch (c) {
    case AGAINST: o->against = v; break;
    case NET: o->net = v; break;
    case SAVE: o->save = v; break;
    case JSON: o->json = 1; break;
    case QUIET: o->quiet = 1; break;
    case RECURSIVE: o->recursive = 1; break;
    case SKIP_BROKEN: o->skip_broken = 1; break;
    case FORCE: o->force = 1; break;
    case METRIC: rc = parse_metrics(o, v, err); break;
    case COUNT: rc = parse_count("n", v, DS_FEATURE_ROWS_MAX, &o->n, err); break;
    case MODE:
        rc = ds_fid_mode_find(v, &o->mode, err);
        o->mode_given = 1;
        break;
    case SEED:
        rc = parse_count("seed", v, 9e15, &number, err);
        o->seed = (uint64_t)number;
        break;
    case THREADS:
        rc = parse_count("threads", v, 256, &number, err);
        o->threads = (int)number;
        break;
    case PRECISION: rc = parse_precision(o, v, err); break;
    case DEVICE:
        o->device = v;
        rc = ds_device_kind_check(v, err);
        break;
    default: rc = ds_fail(err, DS_EINVAL, "wrong option; see diffscaler-worker evaluate --help");
    }
    return rc;
}

int ds_ev_parse(ds_ev_options *o, int argc, char **argv, ds_error *err) {
    static const struct option list[] = {{"against", 1, 0, AGAINST},
                                         {"feature-net", 1, 0, NET},
                                         {"mode", 1, 0, MODE},
                                         {"metrics", 1, 0, METRIC},
                                         {"n", 1, 0, COUNT},
                                         {"seed", 1, 0, SEED},
                                         {"save-stats", 1, 0, SAVE},
                                         {"threads", 1, 0, THREADS},
                                         {"json", 0, 0, JSON},
                                         {"quiet", 0, 0, QUIET},
                                         {"device", 1, 0, DEVICE},
                                         {"precision", 1, 0, PRECISION},
                                         {"recursive", 0, 0, RECURSIVE},
                                         {"force", 0, 0, FORCE},
                                         {"skip-broken", 0, 0, SKIP_BROKEN},
                                         {"help", 0, 0, HELP},
                                         {0, 0, 0, 0}};
    const char *given[HELP] = {NULL};
    int c, k = 0, rc = 0;
    optind = 1;
    opterr = 0;
    while (!rc && (c = getopt_long(argc, argv, "h", list, &k)) != -1)
        if (c == HELP || c == 'h') {
            fputs(usage, stdout);
            return 1;
        } else if (c == '?')
            rc = ds_fail(err, DS_EINVAL,
                         "option '%s' is not known or has no value; see diffscaler-worker evaluate "
                         "--help",
                         argv[optind - 1]);
        else if (optarg && given[c] && strcmp(given[c], optarg))
            rc = ds_fail(err, DS_EINVAL, "--%s is given twice, as '%.60s' and as '%.60s'",
                         list[k].name, given[c], optarg);
        else {
            given[c] = optarg;
            rc = set_option(o, c, optarg, err);
        }
    if (rc)
        return rc;
    if (argc - optind != 1)
        return ds_fail(err, DS_EINVAL, "%s; see diffscaler-worker evaluate --help",
                       argc == optind ? "which folder?" : "one folder at a time");
    o->folder = argv[optind];
    if (!o->against && !o->save)
        return ds_fail(err, DS_EINVAL,
                       "against what?  give --against FOLDER, STATS.npz or REFERENCE, or "
                       "--save-stats FILE.npz");
    return 0;
}
