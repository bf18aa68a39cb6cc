/* worker/commands/import_command.c - `diffscaler-worker import-base` and `import-feature-net`. */
#include "base/fs.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker/commands/worker.h"
#include "worker/convert/import.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---------------------------------------------------------------- import-base */

static const char base_usage[] =
    "usage: diffscaler-worker import-base SRC [--vae SRC] [--name NAME] [--license TEXT]\n"
    "                                     [--heads N] [--weights WHICH] [--objective eps]\n"
    "                                     [--probe DIR] -o DIR\n"
    "\n"
    "Write a DiT that another program trained as a base of ours, DIR/<sha256>.safetensors, and "
    "its\n"
    "VAE beside it.  SRC is a PyTorch checkpoint (.pt, .pth, .bin), safetensors, or a diffusers\n"
    "folder.  Prints what it found as JSON.  Nothing inside a checkpoint is executed.\n"
    "\n"
    "  --vae SRC       the autoencoder of a latent DiT (a folder's own vae/ is found by itself)\n"
    "  --name NAME     otherwise from the name of SRC\n"
    "  --license TEXT  is kept with the base and shown with it\n"
    "  --heads N       for a DiT that is none of S, B, L, XL and has no config.json\n"
    "  --weights WHICH ema, model (the raw ones), or a key: of a file that holds several models\n"
    "  --objective eps what it predicts is known; otherwise the file says it, or it is measured\n"
    "  --probe DIR     .. on pictures of this folder, like those it was trained on\n"
    "\n"
    "example:\n"
    "  diffscaler-worker import-base ./DiT-XL-2-256x256.pt --vae ./sd-vae-ft-ema -o ./bases\n";

typedef struct {
    const char *stage;
    double last; /* seconds; when a line was written */
} terminal;

static int on_terminal(void *user, const char *stage, uint64_t done, uint64_t total) {
    terminal *t = user;
    if (ds_monotonic() - t->last < 0.2 && done < total)
        return 0;
    t->last = ds_monotonic();
    t->stage = stage;
    int pictures = !strcmp(stage, "objective");
    unsigned long long unit = pictures ? 1 : 1000000;
    fprintf(stderr, "\r%s %llu / %llu %s%s", stage, (unsigned long long)done / unit,
            (unsigned long long)total / unit, pictures ? "pictures" : "MB",
            done == total ? "\n" : "  ");
    return 0;
}

static int parse(int argc, char **argv, ds_import_options *o) {
    const struct {
        const char *name, **to;
    } texts[] = {
        {"--vae", &o->vae},         {"--name", &o->name},           {"--license", &o->license},
        {"--weights", &o->weights}, {"--objective", &o->objective}, {"--probe", &o->probe},
        {"-o", &o->out_dir}};
    enum { TEXTS = sizeof texts / sizeof texts[0] };
    for (int i = 0; i < argc; i++) {
        size_t k = 0;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return 1;
        while (k < TEXTS && strcmp(argv[i], texts[k].name))
            k++;
        if (k < TEXTS && i + 1 < argc) {
            i++;
            if (!ds_json_is_text(argv[i])) /* what is printed names it */
                return fprintf(stderr, "error: %s takes a text in UTF-8\n", texts[k].name), 2;
            if (*texts[k].to && strcmp(*texts[k].to, argv[i]))
                return fprintf(stderr, "error: %s is given twice, as '%s' and as '%s'\n",
                               texts[k].name, *texts[k].to, argv[i]),
                       2;
            *texts[k].to = argv[i];
        } else if (!strcmp(argv[i], "--heads") && i + 1 < argc) {
            char *end;
            long n = strtol(argv[++i], &end, 10);
            if (*end || n < 1 || n > 128)
                return fprintf(stderr, "error: --heads takes a number from 1 to 128\n"), 2;
            if (o->heads && o->heads != (int)n)
                return fprintf(stderr, "error: --heads is given twice, as '%d' and as '%ld'\n",
                               o->heads, n),
                       2;
            o->heads = (int)n;
        } else if (argv[i][0] == '-' || o->source)
            return fprintf(stderr, "error: unexpected argument '%s'\n%s", argv[i], base_usage), 2;
        else
            o->source = argv[i];
    }
    if (!o->source || !o->out_dir)
        return fprintf(stderr, "error: %s\n%s", o->source ? "where to?  -o DIR" : "which model?",
                       base_usage),
               2;
    return 0;
}

static void say_line(void *user, int warning, const char *text) {
    (void)user;
    fprintf(stderr, "%s: %s\n", warning ? "warning" : "note", text);
}

int ds_worker_import_base(int argc, char **argv) {
    terminal t = {0};
    ds_import_options o = {0};
    ds_import_result r = {0};
    ds_error err;
    int rc = parse(argc, argv, &o);
    if (rc)
        return rc == 1 ? (fputs(base_usage, stdout), 0) : rc;
    if (isatty(STDERR_FILENO))
        o.progress = (ds_import_progress){on_terminal, &t};
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

static const char net_usage[] =
    "usage: diffscaler-worker import-feature-net FILE OUT_DIR [--weights WHICH]\n\n"
    "Convert pt_inception-2015-12-05-6726825d.pth (or the same tensors as\n"
    "safetensors) to OUT_DIR/<sha256>.safetensors and print that path.\n\n"
    "  --weights WHICH  ema, model (the raw ones), or a key: of a file that holds several "
    "models\n\n"
    "example:\n"
    "  diffscaler-worker import-feature-net pt_inception-2015-12-05-6726825d.pth nets\n";

int ds_worker_import_feature_net(int argc, char **argv) {
    int asked = argc == 1 && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h"));
    int which = argc == 4 && !strcmp(argv[2], "--weights");
    if ((argc != 2 && !which) || argv[0][0] == '-') {
        fputs(net_usage, asked ? stdout : stderr);
        return asked ? 0 : 2;
    }
    ds_import_result r;
    ds_error err = {0};
    ds_import_options o = {.source = argv[0],
                           .out_dir = argv[1],
                           .weights = which ? argv[3] : NULL,
                           .report = ds_import_report_new()};
    int rc = ds_import_feature_net(&o, &r, &err);
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
