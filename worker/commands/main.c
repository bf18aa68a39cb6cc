/* worker/commands/main.c - diffscaler-worker: a job directory in, a result out. */
#include "base/fs.h"
#include "base/suggest.h"
#include "worker/decode/sandbox.h"
#include "worker/commands/worker.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int version(int argc, char **argv);
static int help(int argc, char **argv);

static const struct {
    const char *name;
    int (*run)(int argc, char **argv); /* gets what follows the name */
    const char *summary;               /* NULL: not listed */
} commands[] = {
    {"run", ds_worker_run, "do the job of a job directory"},
    {"scan", ds_worker_scan,
     "list the usable pictures of a folder, with the reason for the others"},
    {"pretrain", ds_worker_pretrain, "make a base from a folder of pictures"},
    {"import-base", ds_worker_import_base, "make a base from a DiT of another program"},
    {"montage", ds_worker_montage, "put pictures below each other"},
    {"export", ds_worker_export, "write an adapter or a merged model for other programs"},
    {"plan", ds_worker_plan, "say what a training would take: bytes by part, seconds per step"},
    {"import-feature-net", ds_worker_import_feature_net, "convert FID's network"},
    {"evaluate", ds_worker_evaluate, "FID and its relatives between folders of pictures"},
    {"decode", ds_worker_decode, "which pixels a picture file becomes, or why it has none"},
    {"devices", ds_worker_devices, "say which GPUs can be used, or why none"},
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

static int unknown(const char *word) {
    const char *words[COMMAND_COUNT];
    for (int i = 0; i < COMMAND_COUNT; i++)
        words[i] = commands[i].name;
    const char *near = ds_suggest(word, words, COMMAND_COUNT);
    if (near)
        fprintf(stderr, "error: unknown command '%s'; did you mean '%s'?\n", word, near);
    else
        fprintf(stderr, "error: unknown command '%s'; see diffscaler-worker --help\n", word);
    return 2;
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
        return unknown(argv[1]);
    help(0, NULL);
    return end(0);
}
