/* worker/commands/main.c - diffscaler-worker: a job directory in, a result out. */
#include "base/fs.h"
#include "base/mem.h"
#include "worker/job/device.h"
#include "worker/decode/sandbox.h"
#include "worker/images/scan.h"
#include "worker/commands/worker.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int scan(int argc, char **argv);
static int version(int argc, char **argv);
static int help(int argc, char **argv);
static int devices(int argc, char **argv);

static const struct {
    const char *name;
    int (*run)(int argc, char **argv); /* gets what follows the name */
    const char *summary;               /* NULL: not listed */
} commands[] = {
    {"run", ds_worker_run, "do the job of a job directory"},
    {"scan", scan, "list the usable pictures of a folder, with the reason for the others"},
    {"pretrain", ds_worker_pretrain, "make a base from a folder of pictures"},
    {"import-base", ds_worker_import_base, "make a base from a DiT of another program"},
    {"montage", ds_worker_montage, "put pictures below each other"},
    {"export", ds_worker_export, "write an adapter or a merged model for other programs"},
    {"plan", ds_worker_plan, "say what a training would take: bytes by part, seconds per step"},
    {"import-feature-net", ds_worker_import_feature_net, "convert FID's network"},
    {"evaluate", ds_worker_evaluate, "FID and its relatives between folders of pictures"},
    {"decode", ds_worker_decode, "which pixels a picture file becomes, or why it has none"},
    {"devices", devices, "say which GPUs can be used, or why none"},
    {"--version", version, NULL},
    {"--help", help, NULL},
    {"-h", help, NULL},
    {"help", help, NULL},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static int version(int argc, char **argv) {
    (void)argc, (void)argv;
    puts("diffscaler-worker " DS_VERSION);
    return 0;
}

static int devices(int argc, char **argv) {
    if (argc && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h"))) {
        puts("usage: diffscaler-worker devices\n\n"
             "Print a line for each GPU that --device cuda:N can take, or why there is none.");
        return 0;
    }
    if (argc)
        return fprintf(stderr, "error: unexpected argument '%s'\n", argv[0]), 2;
    ds_worker_device_report();
    return 0;
}

static int help(int argc, char **argv) {
    (void)argc, (void)argv;
    puts("usage: diffscaler-worker COMMAND ...\n"
         "\n"
         "The program behind diffscalerd that touches pictures and models.  Usually the daemon\n"
         "starts it; by hand it is useful to look into a job.\n");
    for (int i = 0; i < COMMAND_COUNT; i++)
        if (commands[i].summary)
            printf("  %-18s %s\n", commands[i].name, commands[i].summary);
    puts("\n"
         "  --version, --help; every command has --help\n"
         "\n"
         "examples:\n"
         "  diffscaler-worker run ./jobs/12           do a job, or go on with it\n"
         "  diffscaler-worker scan ./photos           what would be trained on?\n"
         "  diffscaler-worker scan ./photos -o m.ndjson && sha256sum m.ndjson");
    return 0;
}

static int print_scan(const ds_scan_result *r, const char *out, int force) {
    ds_error err;
    if (out && ds_fs_output_write(out, r->manifest, r->manifest_size, force, &err))
        return fprintf(stderr, "error: %s\n", err.message), ds_error_exit(err.code);
    json_t *doc = ds_scan_result_json(r);
    char *text = ds_need(json_dumps(doc, JSON_INDENT(2)));
    puts(text);
    free(text);
    json_decref(doc);
    return 0;
}

static const char scan_usage[] =
    "usage: diffscaler-worker scan DIR [-o MANIFEST [--force]]\n\n"
    "Print what a scan job finds as JSON; -o also writes the manifest, over an existing file only\n"
    "with --force.\n";

/* 0, or 2 with a message, or -1 when help was asked for. */
static int parse_scan(int argc, char **argv, const char **dir, const char **out, int *force) {
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return fputs(scan_usage, stdout), -1;
        if (!strcmp(argv[i], "--force"))
            *force = 1;
        else if (!strcmp(argv[i], "-o") && i + 1 < argc && !*out)
            *out = argv[++i];
        else if (argv[i][0] == '-' || *dir)
            return fprintf(stderr, "error: unexpected argument '%s'\n%s", argv[i], scan_usage), 2;
        else
            *dir = argv[i];
    }
    if (!*dir)
        return fprintf(stderr, "error: which folder?  diffscaler-worker scan DIR\n"), 2;
    if (*force && !*out)
        return fprintf(stderr, "error: --force needs -o MANIFEST\n"), 2;
    if (*out && !strcmp(*out, "-"))
        return fprintf(stderr, "error: -o takes a file: standard output has the result\n"), 2;
    return 0;
}

static int scan(int argc, char **argv) {
    const char *dir = NULL, *out = NULL;
    char full[PATH_MAX], *slash;
    int force = 0, rc = parse_scan(argc, argv, &dir, &out, &force);
    if (rc)
        return rc < 0 ? 0 : rc;
    ds_error err;
    ds_scan_result r = {0};
    if (!realpath(dir, full))
        return fprintf(stderr, "error: cannot find '%s'\n", dir), 3;
    if (out && (rc = ds_fs_output_check(out, force, &err)))
        return fprintf(stderr, "error: %s\n", err.message), ds_error_exit(rc);
    slash = strrchr(full, '/');
    ds_scan_options o = {.root = full, .dataset = slash[1] ? slash + 1 : "dataset"};
    rc = ds_scan(&o, &r, NULL, NULL, &err);
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    rc = rc ? ds_error_exit(rc) : print_scan(&r, out, force);
    ds_scan_release(&r);
    return rc;
}

/* A result that did not arrive is no success: a full disk, a reader that went away. */
static int end(int status) {
    ds_error err;
    int rc = ds_fs_flush(stdout, "standard output", &err);
    if (!rc)
        return status;
    fprintf(stderr, "error: %s\n", err.message);
    return status ? status : 1;
}

/* Exit handlers of OpenBLAS can wait for its threads for ever; nothing of ours is left to be done.
 * The leak checker is an exit handler, too. */
static int leave(int status) {
#ifdef __SANITIZE_ADDRESS__
    return status;
#else
    _exit(status);
#endif
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], DS_SANDBOX_ARG)) /* before anything else */
        return ds_decode_child_main();
    for (int i = 0; argc > 1 && i < COMMAND_COUNT; i++)
        if (!strcmp(argv[1], commands[i].name))
            return leave(end(commands[i].run(argc - 2, argv + 2)));
    if (argc > 1)
        fprintf(stderr, "error: unknown command '%s'; see diffscaler-worker --help\n", argv[1]);
    else
        help(0, NULL);
    return argc > 1 ? 2 : end(0);
}
