/* cli/commands.c - the rows of commands.def as a table, and the options that they have. */
#include "base/limits.h"
#include "cli/cli.h"
#include "contract/job.h"
#include "contract/options.h"

#include <string.h>

#define FLAG(name, letter, help)                                                                   \
    { name, letter, DS_OPT_FLAG, NULL, help, NULL, 0, 0 }
#define TEXT(name, letter, metavar, help)                                                          \
    { name, letter, DS_OPT_STRING, metavar, help, NULL, 0, 0 }
#define PATH(name, letter, metavar, help)                                                          \
    { name, letter, DS_OPT_FILE, metavar, help, NULL, 0, 0 }
#define INT(name, letter, metavar, lo, hi, help)                                                   \
    { name, letter, DS_OPT_INT, metavar, help, NULL, lo, hi }
#define NUM(name, letter, metavar, lo, hi, help)                                                   \
    { name, letter, DS_OPT_NUMBER, metavar, help, NULL, lo, hi }
/* range: one of base/limits.h or contract/options.h */
#define INT_OF(name, letter, metavar, range, help)                                                 \
    { name, letter, DS_OPT_INT, metavar, help, NULL, range }
#define NUM_OF(name, letter, metavar, range, help)                                                 \
    { name, letter, DS_OPT_NUMBER, metavar, help, NULL, range }
/* least seconds */
#define TIME(name, metavar, least, help)                                                           \
    { name, 0, DS_OPT_DURATION, metavar, help, NULL, least, 1e9 }
#define ON_DEVICE(help)                                                                            \
    { "device", 0, DS_OPT_DEVICE, "KIND", help, NULL, 0, 0 }
#define WHEN(name, metavar, help)                                                                  \
    { name, 0, DS_OPT_WHEN, metavar, help, NULL, 0, 0 }
#define ONE_OF(name, metavar, choices, help)                                                       \
    { name, 0, DS_OPT_CHOICE, metavar, help, choices, 0, 0 }
#define FORCE FLAG("force", 'f', "replace an existing file")
#define END                                                                                        \
    { NULL, 0, DS_OPT_FLAG, NULL, NULL, NULL, 0, 0 }
#define OPTIONS(...)                                                                               \
    (const ds_opt[]) { __VA_ARGS__, END }
#define PAGE                                                                                       \
    INT("limit", 'l', "N", 1, 1000000, "show at most N (default 100)"),                            \
        FLAG("all", 'a', "show all of them")

#define STATES DS_WORDS(DS_JOB_STATES)
#define METHOD_HELP(W, value, word, parts, targets, help) " --method " word " trains " help "."

const ds_opt ds_global_options[] = {
    PATH("socket", 0, "PATH", "socket of diffscalerd (default: socket in the state folder)"),
    PATH("state", 0, "DIR", "state folder of diffscalerd"),
    FLAG("json", 0, "print JSON; with --wait or --follow one document a line"),
    FLAG("quiet", 'q', "print names and ids only"),
    ONE_OF("color", "WHEN", "auto|always|never", "when to use colour; auto is on a terminal"),
    FLAG("help", 'h', "explain the command and exit"),
    FLAG("version", 'V', "print the version and exit"),
    END};

/* A row of contract/options.def as an option; its help says the default. */
#define RANGE(...) RANGE_(__VA_ARGS__)
#define RANGE_(least, most) .min = least, .max = most
#define WORDS(list) .choices = DS_WORDS(list)
#define ANY .choices = NULL
#define IS(value) " (default " value ")"
#define OFF ""
#define ON ""
#define ALL " (default all)"
#define BY(says) " (default: " says ")"
#define LEFT_OUT(value) IS(value)
#define SINCE(value, default_) default_
#define UNLESS(default_) default_
#define TYPE_INT DS_OPT_INT
#define TYPE_SEED DS_OPT_INT
#define TYPE_NUM DS_OPT_NUMBER
#define TYPE_BOOL DS_OPT_FLAG
#define TYPE_ENUM DS_OPT_CHOICE
#define TYPE_LIST DS_OPT_LIST
#define TYPE_DEVICE DS_OPT_DEVICE
#define OPTION(section_, name_, flag_, key_, member_, type_, metavar_, help_, default_, ...)       \
    {.name = flag_, .type = TYPE_##type_, .metavar = metavar_, .help = help_ default_, __VA_ARGS__},

static const ds_opt add_options[] = {
    TEXT("name", 0, "NAME", "name of the dataset (default: that of the folder)"),
    FLAG("wait", 'w', "follow the training and show its outcome; exit 8 when it is refused"),
    TIME("timeout", "TIME", 0.1,
         "with --wait: stop waiting after 90, 10m, 2h (exit 7, the job goes on; default: never)"),
    TEXT("base", 'b', "NAME", "train on this base; 'default' follows the default base"),
    TEXT("feature-net", 0, "NAME[:MODE]",
         "measure with this network (list-feature-nets); 'bundled'; 'default' follows the default"),
    FLAG("start", 0, "start diffscalerd in the background when it does not run"),
    FLAG("no-watch", 0, "do not train again when the folder changes"),
    FLAG("publish-worse", 0,
         "publish the next version even if it is worse than what there is; counts once"),
    ONE_OF("method", "METHOD", DS_WORDS(DS_METHODS),
           "what is trained (default " DS_METHOD_OTHERWISE ")"),
#include "contract/options.def"
    END};
static const ds_opt add_base_options[] = {
    PATH("vae", 0, "SRC", "its VAE: a file, or a diffusers folder such as sd-vae-ft-ema"),
    TEXT("name", 0, "NAME", "name of the base (default: that of the file or folder)"),
    TEXT("license", 0, "TEXT", "its licence, kept with it and named in exports"),
    INT_OF("heads", 0, "N", DS_RANGE_HEADS,
           "attention heads, where neither sizes nor config.json tell"),
    TEXT("weights", 0, "WHICH",
         "of a file with several models: ema (the default), model (raw), or a key"),
    ONE_OF("objective", "WHAT", DS_OBJECTIVES,
           "what it predicts, where that is known; otherwise read or measured"),
    PATH("probe", 0, "DIR", ".. on pictures of this folder, like those it was trained on"),
    FLAG("wait", 'w', "follow the import and show what was added"),
    TIME("timeout", "TIME", 0.1,
         "with --wait: stop waiting after this time (exit 7, the job goes on; default: never)"),
    END};
static const ds_opt add_net_options[] = {
    TEXT("name", 0, "NAME", "name of the network (default: that of the file)"),
    TEXT("license", 0, "TEXT", "its licence"),
    TEXT("weights", 0, "WHICH",
         "of a file with several models: ema (the default), model (raw), or a key"),
    FLAG("wait", 'w', "follow the import and show what was added"),
    TIME("timeout", "TIME", 0.1,
         "with --wait: stop waiting after this time (exit 7, the job goes on; default: never)"),
    END};
static const ds_opt gc_options[] = {
    FLAG("dry-run", 'n', "only say what would go"),
    TIME("older-than", "TIME", 60,
         "only what is older than 90s, 10m, 2h (default 1h, 1m at least)"),
    END};
static const ds_opt prune_options[] = {
    FLAG("dry-run", 'n', "only say what would go"),
    TIME("jobs", "TIME", 60, "ended jobs older than this (default: the daemon's, 90 days)"),
    TIME("folders", "TIME", 60, "folders of ended jobs older than this (30 days)"),
    TIME("events", "TIME", 60, "events older than this (365 days)"), END};
static const ds_opt fsck_options[] = {
    FLAG("repair", 0, "also do what loses nothing: put blobs anew from copies, drop bad caches"),
    FLAG("quick", 0, "only what shows without reading the files"), END};
static const ds_opt show_dataset_options[] = {
    FLAG("rejected", 0, "list the files that are left out, each with its reason"),
    FLAG("manifest", 0, "print the manifest: path, size, sha256, class, one JSON object a line"),
    INT("dataset-version", 0, "N", 1, 1000000000,
        "with --manifest: that version instead of the latest"),
    END};
static const ds_opt page_options[] = {PAGE, END};
static const ds_opt list_adapters_options[] = {
    TEXT("dataset", 'd', "NAME", "only those of this dataset"),
    NUM("max-fd", 0, "FD", 0, 1e12,
        "only those with at most this Frechet distance, of whichever network"),
    ONE_OF("status", "STATUS", "published|rejected", "only those of this status"),
    WHEN("since", "WHEN", "only those made since 2026-01-31, or in the last 2h, 3d"),
    PAGE,
    END};
static const ds_opt report_options[] = {
    PATH("output", 'o', "FILE", "also write the report as JSON to FILE"), FORCE, END};

static const ds_opt pull_options[] = {
    PATH("output", 'o', "FILE",
         "file to write; '-': standard output (default NAME-vN.safetensors.zst)"),
    FORCE, FLAG("raw", 0, "write the unpacked safetensors file"), END};
static const ds_opt evaluate_options[] = {
    PATH("against", 0, "WHAT", "a dataset's name, a folder, an .npz file, or a reference"),
    PATH("feature-net", 0, "FILE",
         "a file, NAME[:MODE] or 'bundled' (default: the default, else the newest)"),
    ONE_OF("mode", "MODE", "pytorch-fid|torch-fidelity|clean|bundled",
           "whose pixels, files and numbers (default pytorch-fid)"),
    TEXT("metrics", 0, "LIST",
         "of fid,kid,is,pr,sfid,class (default fid,kid, with class for sub-folders; fid for "
         "statistics)"),
    INT("n", 'n', "N", 2, 10000000,
        "take the first N (mode bundled: N drawn by the seed; default: all)"),
    FLAG("recursive", 0, "look below folders in modes pytorch-fid and torch-fidelity"),
    FLAG("skip-broken", 0, "leave out files that cannot be read, also those that end the tool"),
    INT("seed", 0, "N", 0, 9e15, "of every random choice (default 0)"),
    PATH("save-stats", 0, "FILE", "also write the statistics as .npz"),
    FORCE,
    ON_DEVICE("auto (a GPU where there is one; the default), cpu, cuda or cuda:N"),
    ONE_OF("precision", "TYPE", "f32|tf32",
           "of the network on a GPU (default f32; tf32 is faster)"),
    INT("threads", 0, "N", 0, 256, "threads; 0: as many as it may use (the default)"),
    END};
static const ds_opt export_options[] = {
    ONE_OF("format", "FORMAT", "safetensors|dit|diffusers|peft-like",
           "adapter file, facebookresearch/DiT, diffusers folder, or LoRA factors"),
    PATH("output", 'o', "DIR", "folder to write (default NAME-vN-FORMAT)"),
    FLAG("force", 'f', "replace a folder that an export wrote"),
    ONE_OF("dtype", "TYPE", "f32|bf16", "numbers of the matrices (default f32)"),
    FLAG("merge", 0, "with safetensors: a base with the adapter folded in, for add-base"),
    FLAG("no-pt", 0, "with dit: model.safetensors without model.pt"),
    END};
static const ds_opt verify_options[] = {
    FLAG("all", 'a', "check every published adapter (default without REF)"),
    FLAG("full", 0, "measure Frechet distances even where probe digests agree"),
    TEXT("base", 'b', "NAME", "the adapters of this base (default: the default base, or REF's)"),
    TIME("timeout", "TIME", 0.1,
         "stop waiting after this time (exit 7, the job goes on; default: never)"),
    END};
static const ds_opt sample_options[] = {
    INT_OF("n", 'n', "N", DS_RANGE_SAMPLES, "number of images (default 16)"),
    PATH("output", 'o', "FILE|DIR/",
         "PNG sheet, .npz, or DIR/: a PNG each; '-': standard output (default: REF.png)"),
    FLAG("force", 'f', "replace an existing file, or a folder of samples"),
    TEXT("class", 'c', "CLASS", "one class (default: all in turn)"),
    TEXT("base", 'b', "NAME",
         "draw from this base (default: REF's, or the default base); another one's REF is refused"),
    INT_OF("steps", 0, "N", DS_RANGE_SAMPLE_STEPS,
           "steps of the sampler (default: as it was evaluated)"),
    NUM_OF("guidance", 0, "W", DS_RANGE_GUIDANCE,
           "strength of the guidance; 1 is none (default: as it was evaluated)"),
    ONE_OF("guidance-mode", "MODE", DS_WORDS(DS_GUIDANCES),
           "classifier-free, or away from the frozen base (default: as it was evaluated)"),
    NUM_OF(
        "guidance-domain", 0, "W", DS_RANGE_GUIDANCE,
        "instead of these two: weight of the adapter against the frozen base (default: as it was "
        "evaluated)"),
    NUM_OF("guidance-class", 0, "W", DS_RANGE_GUIDANCE,
           ".. and of the class against none; 1 and 1 is none (default: as it was evaluated)"),
    NUM_OF("guidance-low", 0, "LEVEL", DS_RANGE_GUIDANCE_LOW,
           "noise level, from 0 to 1, below which nothing guides (default: as it was evaluated)"),
    ONE_OF("sampler", "SAMPLER", DS_WORDS(DS_SAMPLERS),
           "how noise becomes an image (default: as it was evaluated)"),
    INT_OF("seed", 0, "N", DS_RANGE_SEED, "seed (default 1)"),
    TIME("timeout", "TIME", 0.1, "stop waiting after this time (exit 7; default: never)"),
    END};
static const ds_opt compare_options[] = {
    INT("n", 'n', "N", 1, 256, "pairs of images (default 16)"),
    PATH("output", 'o', "FILE", "PNG sheet to write (default A-B.png, as digits-v1-digits-v2.png)"),
    FORCE,
    FLAG("no-sheet", 0, "numbers only: nothing is drawn"),
    TEXT("class", 'c', "CLASS", "one class of both (default: all in turn)"),
    INT_OF("seed", 0, "N", DS_RANGE_SEED, "seed (default 1)"),
    TIME("timeout", "TIME", 0.1, "stop waiting after this time (exit 7; default: never)"),
    END};
static const ds_opt list_jobs_options[] = {
    ONE_OF("status", "STATE", STATES, "only those in this state"),
    ONE_OF("kind", "KIND", DS_WORDS(DS_JOB_KINDS), "only those of this kind"),
    TEXT("dataset", 'd', "NAME", "only those of this dataset"), PAGE, END};
static const ds_opt logs_options[] = {FLAG("follow", 'f', "go on until the job ends"), END};
static const ds_opt watch_options[] = {
    NUM("interval", 'i', "SECONDS", 0.1, 3600, "time between two looks (default 0.5)"),
    INT("count", 0, "N", 1, 1000000, "stop after N looks (default: go on until Ctrl-C)"), END};
static const ds_opt evaluations_options[] = {
    TEXT("adapter", 0, "REF", "only those of this adapter"),
    TEXT("dataset", 'd', "NAME", "only those of this dataset"),
    TEXT("metric", 'm', "METRIC", "only this metric: fd, kid, heldout_loss, ..."), PAGE, END};
static const ds_opt events_options[] = {
    FLAG("follow", 'f', "go on with new events as they happen"),
    TEXT("since", 0, "SEQ|WHEN",
         "after this event number, date (2026-01-31) or time ago (2h; default: all, or what is "
         "new)"),
    TEXT("type", 't', "TYPE", "only this type, for example adapter.published"), END};
static const ds_opt alias_options[] = {
    INT("if-generation", 0, "N", 0, 1e15, "only if the alias is at generation N (else exit 4)"),
    END};

const ds_command ds_commands[] = {
#define COMMAND(...) {__VA_ARGS__},
#include "cli/commands.def"
    {NULL, NULL, NULL, 0, 0, DS_ARG_OTHER, NULL, NULL, NULL, NULL}};

const ds_command *ds_command_find(const char *name) {
    for (const ds_command *k = ds_commands; k->name; k++)
        if (!strcmp(k->name, name))
            return k;
    return NULL;
}
