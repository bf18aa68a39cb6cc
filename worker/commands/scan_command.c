/* worker/commands/scan_command.c - `diffscaler-worker scan`, and `devices`. */
#include "base/fs.h"
#include "base/mem.h"
#include "contract/args.h"
#include "worker/commands/worker.h"
#include "worker/images/scan.h"
#include "worker/job/device.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* 0: go on; -1: help was printed; else the exit status. */
static int parse(int argc, char **argv, const char **dir, const char **out, int *force) {
    const ds_arg rows[] = {
        {"DIR", .type = DS_ARG_STRING, .target = dir,
         .missing = "which folder?  diffscaler-worker scan DIR"},
        {"-o", .metavar = "MANIFEST", .type = DS_ARG_STRING, .target = out,
         .help = "also write the manifest"},
        {"--force", .type = DS_ARG_FLAG, .target = force, .help = ".. over an existing file"},
        {NULL}};
    const ds_args a = {.command = "diffscaler-worker scan",
                       .usage = "DIR [-o MANIFEST [--force]]",
                       .about = "Print what a scan job finds as JSON.",
                       .rows = rows};
    ds_error err;
    int rc = ds_args_parse(&a, argc, argv, &err);
    if (!rc && *force && !*out)
        rc = ds_fail(&err, DS_EINVAL, "--force needs -o MANIFEST");
    if (!rc && *out && !strcmp(*out, "-"))
        rc = ds_fail(&err, DS_EINVAL, "-o takes a file: standard output has the result");
    return rc == 1 ? -1 : rc ? ds_args_refuse(&a, &err) : 0;
}

int ds_worker_scan(int argc, char **argv) {
    const char *dir = NULL, *out = NULL;
    char full[PATH_MAX], *slash;
    int force = 0, rc = parse(argc, argv, &dir, &out, &force);
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

int ds_worker_devices(int argc, char **argv) {
    const ds_arg rows[] = {{NULL}};
    const ds_args a = {
        .command = "diffscaler-worker devices",
        .usage = "",
        .about = "Print a line for each GPU that --device cuda:N can take, or why there is none.",
        .rows = rows};
    ds_error err;
    int rc = ds_args_parse(&a, argc, argv, &err);
    if (rc)
        return rc == 1 ? 0 : ds_args_refuse(&a, &err);
    ds_worker_device_report();
    return 0;
}
