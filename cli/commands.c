/* cli/commands.c - THE table of commands.  Parsing, --help, the man page and the completions are
 * all made from it, so they cannot disagree. */
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
    ONE_OF("objective", "WHAT", "eps|data-noise|noise-data|x0",
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
    TEXT("metrics", 0, "LIST", "of fid,kid,is,pr,sfid (default fid,kid; fid for statistics)"),
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

static const ds_opt remove_adapter_options[] = {
    FLAG("force", 'f', "remove the aliases that point to it as well"), END};
static const ds_opt stop_options[] = {
    TIME("timeout", "TIME", 0.1, "wait so long for its end (default 60s; then exit 7)"), END};

const ds_command ds_commands[] = {
    {"add-dataset", ds_cmd_add_dataset, "DIR", 1, 1, DS_ARG_DIR,
     "teach the base a folder of images",
     "Registers DIR and returns; diffscalerd scans it, trains an adapter, measures it, proves that "
     "the older tasks are unchanged and publishes it. One sub-folder per class, or flat for one "
     "class, or metadata.csv (file_name,label). Adding a folder again is never an error: it is "
     "scanned again and a new version is made only if its images changed. A version that is worse "
     "than the latest one, the best one or the base is kept as rejected (exit 8 with --wait), and "
     "the latest stays; --publish-worse publishes such a version once." DS_PRESETS(METHOD_HELP, ),
     add_options,
     "dsctl add-dataset ./celeba # register and return\n"
     "dsctl add-dataset ./digits --wait --steps 800 # follow the training\n"
     "dsctl add-dataset ./flags --name flags-2026 --start # start diffscalerd first if need be\n"},
    {"list-datasets", ds_cmd_list_datasets, "", 0, 0, DS_ARG_OTHER, "list the datasets",
     "One line per dataset: latest version, images, classes, state, adapter.", page_options,
     "dsctl list-datasets # as a table\n"
     "dsctl list-datasets --json | jq '.items[].name' # for a program\n"},
    {"show-dataset", ds_cmd_show_dataset, "NAME", 1, 1, DS_ARG_DATASET, "show one dataset",
     "Everything known about a dataset and its latest version.", show_dataset_options,
     "dsctl show-dataset digits # everything about it\n"
     "dsctl show-dataset digits --rejected # files left out, and why\n"
     "dsctl show-dataset digits --manifest | sha256sum # recompute its digest\n"},
    {"remove-dataset", ds_cmd_remove_dataset, "NAME", 1, 1, DS_ARG_DATASET, "forget a dataset",
     "The folder is no longer watched or trained on. Its images and its adapters stay.", NULL,
     "dsctl remove-dataset digits # adapters stay usable\n"},
    {"rescan-dataset", ds_cmd_rescan_dataset, "NAME", 1, 1, DS_ARG_DATASET,
     "look at a folder again now",
     "For file systems that do not report changes (NFS), or after --no-watch.", NULL,
     "dsctl rescan-dataset digits # a new version is made if images changed\n"},
    {"pause", ds_cmd_pause, "NAME", 1, 1, DS_ARG_DATASET, "let a dataset rest",
     "No scan and no training of it begins; a training that runs writes a checkpoint, stops, and "
     "goes on from there after 'dsctl resume NAME'. Its adapters stay usable.",
     NULL, "dsctl pause digits # the machine is needed for something else\n"},
    {"resume", ds_cmd_resume, "NAME", 1, 1, DS_ARG_DATASET, "go on with a paused dataset",
     "What was stopped goes on from its last checkpoint, with the same result as if it had never "
     "been stopped; changes of the folder meanwhile are looked at now.",
     NULL, "dsctl resume digits # go on\n"},
    {"add-base", ds_cmd_add_base, "SRC", 1, 1, DS_ARG_FILE, "bring in a base model",
     "SRC is a DiT: a PyTorch checkpoint (.pt, .pth, .bin), a safetensors file or folder, or a "
     "diffusers folder. It is read without running any code in it, converted, and kept by its "
     "digest. A base that works on latents needs its VAE: give --vae, or add the base again with "
     "it. What it predicts is read from the file or measured on a few pictures; what is no eps "
     "model is refused. The base becomes usable with add-dataset --base, or for all with "
     "set-default-base.",
     add_base_options,
     "dsctl add-base ./DiT-XL-2-256x256.pt --vae ./sd-vae-ft-ema --wait # facebookresearch/DiT\n"
     "dsctl add-base ./DiT-XL-2-512 --name xl512 --license 'CC-BY-NC 4.0' # a diffusers folder\n"},
    {"list-bases", ds_cmd_list_bases, "", 0, 0, DS_ARG_OTHER, "list the base models",
     "Newest first: size, whether its VAE is there, and how many datasets and adapters use it.",
     page_options,
     "dsctl list-bases # as a table\n"
     "dsctl list-bases --json | jq '.items[].sha256' # for a program\n"},
    {"show-base", ds_cmd_show_base, "[NAME]", 0, 1, DS_ARG_BASE, "show one base model",
     "NAME may be a name, 'default', or sha256:<hex>. Without NAME: the default base.", NULL,
     "dsctl show-base # the default\n"
     "dsctl show-base DiT-XL-2-256x256 --json # for a program\n"},
    {"set-default-base", ds_cmd_set_default_base, "NAME", 1, 1, DS_ARG_BASE,
     "choose the base that datasets are trained on",
     "Every dataset that was not added with --base is trained on it from now on; adapters made on "
     "other bases stay as they are. The choice outlives restarts.",
     NULL,
     "dsctl set-default-base DiT-XL-2-256x256 # from now on\n"
     "dsctl set-default-base emoji-dit # back to the one that comes with the program\n"},
    {"remove-base", ds_cmd_remove_base, "NAME", 1, 1, DS_ARG_BASE, "forget a base model",
     "Its imported file is deleted; the source is not touched. A base that is the default, or that "
     "datasets, adapters or jobs need, is kept (exit 4).",
     NULL, "dsctl remove-base old-dit # only when nothing needs it\n"},
    {"add-feature-net", ds_cmd_add_feature_net, "FILE", 1, 1, DS_ARG_FILE,
     "bring in the network of published FID values",
     "FILE is pytorch-fid's pt_inception-2015-12-05-6726825d.pth, or the same network as "
     "safetensors. dsctl evaluate uses it from now on; trainings and the gate measure with it when "
     "it is chosen with set-default-feature-net or add-dataset --feature-net.",
     add_net_options,
     "dsctl add-feature-net ./pt_inception-2015-12-05-6726825d.pth --name fid --wait # for "
     "evaluate\n"
     "dsctl set-default-feature-net fid # and for whatever is trained from now on\n"},
    {"list-feature-nets", ds_cmd_list_feature_nets, "", 0, 0, DS_ARG_OTHER,
     "list the feature networks",
     "Newest first: the default and its mode, the preprocessings each can be used with, and how "
     "many datasets and adapters are measured with it.",
     page_options,
     "dsctl list-feature-nets # as a table\n"
     "dsctl list-feature-nets --json | jq '.items[].sha256' # for a program\n"},
    {"set-default-feature-net", ds_cmd_set_default_feature_net, "NAME[:MODE]|bundled", 1, 1,
     DS_ARG_NET, "choose the network that trainings are measured with",
     "References, FD and KID of whatever is trained from now on are made with it, unless the "
     "dataset was added with --feature-net. MODE is the preprocessing: pytorch-fid (the default), "
     "torch-fidelity (what ADM and DiT publish) or clean. 'bundled' goes back to the network of "
     "the base. Adapters that exist keep their numbers, and the gate measures each with the "
     "network that its numbers were made with. The choice outlives restarts.",
     NULL,
     "dsctl set-default-feature-net fid # as pytorch-fid\n"
     "dsctl set-default-feature-net fid:torch-fidelity # as ADM and DiT publish\n"
     "dsctl set-default-feature-net bundled # back to the one that comes with the program\n"},
    {"remove-feature-net", ds_cmd_remove_feature_net, "NAME", 1, 1, DS_ARG_NET,
     "forget a feature network",
     "Its imported file is deleted; the source is not touched. A network that is the default, or "
     "that bases, datasets, adapters or jobs need, is kept, and they are named (exit 4).",
     NULL, "dsctl remove-feature-net fid # only when nothing needs it\n"},
    {"list-adapters", ds_cmd_list_adapters, "", 0, 0, DS_ARG_OTHER, "list the adapters",
     "Newest first. FD is the Frechet distance to the dataset, BASE that of the base alone; both "
     "are smaller when better. Distances of different networks or preprocessings cannot be "
     "compared: where there are several, NETWORK says which. BAR is the version it was measured "
     "against, where there was one; 'worse': refused, 'forced': published all the same.",
     list_adapters_options,
     "dsctl list-adapters # newest first\n"
     "dsctl list-adapters --max-fd 40 --since 7d # good ones of this week\n"
     "dsctl list-adapters -d digits --status rejected # what the gate refused\n"},
    {"show-adapter", ds_cmd_show_adapter, "REF", 1, 1, DS_ARG_REF, "show one adapter",
     "Identity, method, measurements, what it was measured against before it was published, and "
     "the "
     "verdict of the gate on each old task.",
     NULL,
     "dsctl show-adapter digits # the latest\n"
     "dsctl show-adapter digits@v2 --json # one version, for a program\n"},
    {"pull-adapter", ds_cmd_pull_adapter, "REF", 1, 1, DS_ARG_REF, "save an adapter as a file",
     "Writes the zstd-compressed safetensors file, or with --raw the unpacked one. The digest is "
     "verified before the file gets its name: either it is whole or it is not there (exit 9).",
     pull_options,
     "dsctl pull-adapter digits -o digits.safetensors.zst # open it with: zstd -d\n"
     "dsctl pull-adapter digits@v1 --raw -o digits.safetensors # for any safetensors reader\n"},
    {"remove-adapter", ds_cmd_remove_adapter, "REF", 1, 1, DS_ARG_REF, "remove a version for good",
     "The version is not listed, served, sampled from or verified any more; its file goes with the "
     "next gc. While aliases point to it, as 'latest' mostly does, it is kept (exit 4): move them "
     "first, or give --force. Its dataset is not trained anew by itself; add-dataset does so.",
     remove_adapter_options,
     "dsctl remove-adapter digits@v2 # an old version\n"
     "dsctl remove-adapter digits@v1 --force # the only one, and its alias latest\n"},
    {"evaluate", ds_cmd_evaluate, "FOLDER|SAMPLES.npz", 1, 1, DS_ARG_FILE,
     "measure images: FID, KID, IS, ...",
     "Compares the images of a folder, or of an .npz file as ADM and DiT write it (arr_0, uint8), "
     "with a dataset, another folder or file, or statistics of pytorch-fid or ADM (.npz). With "
     "FID's network (dsctl add-feature-net) the numbers are those of pytorch-fid, torch-fidelity "
     "(what ADM and DiT publish) or clean-fid, by --mode: it counts the files that the tool counts "
     "and decodes them as the tool does, says what was special about them, and ends where the tool "
     "ends (exit 1, with the names) unless --skip-broken is given. Without that network the "
     "bundled one's distance is given, which is not FID. Each number is printed with the network's "
     "digest, the preprocessing, N and the seed. A metric that cannot be had, for lack of images, "
     "loses only itself: the others are printed and the exit is 1. Needs no daemon when given "
     "paths.",
     evaluate_options,
     "dsctl evaluate ./samples --against ./photos # two folders\n"
     "dsctl evaluate ./samples --against digits --metrics fid,kid,pr # a dataset by name\n"
     "dsctl evaluate ./samples.npz --against VIRTUAL_imagenet256_labeled.npz --mode torch-fidelity "
     "--metrics fid,sfid,is,pr # as ADM and DiT publish\n"
     "dsctl evaluate ./photos --save-stats photos.npz # statistics for later\n"},
    {"export", ds_cmd_export, "REF|base", 1, 1, DS_ARG_REF, "write an adapter for other programs",
     "Writes a folder with a model card: the adapter merged into its base as facebookresearch/DiT "
     "(dit: safetensors and .pt) or as a diffusers folder with scheduler and VAE, or the adapter "
     "alone, as its file or as LoRA factors with scale and shift (peft-like; the PEFT library "
     "cannot load it). Says what a layout cannot carry, and by how much the output differs.",
     export_options,
     "dsctl export birds --format diffusers -o birds-dit # for DiTPipeline.from_pretrained\n"
     "dsctl export birds@v2 --format dit --dtype bf16 # model.safetensors and model.pt\n"
     "dsctl export base --format diffusers # the frozen base itself\n"},
    {"verify", ds_cmd_verify, "[REF|base]", 0, 1, DS_ARG_REF, "prove that adapters are unchanged",
     "Draws the probe samples of each adapter again and compares their digests with those "
     "recorded at publication; where they cannot agree, or with --full, compares Frechet "
     "distances. The base's own samples are a task too (base:NAME): recorded by the first job of "
     "that base, checked by all others. Exit 8 when a task is worse, 9 when stored data is "
     "damaged.",
     verify_options,
     "dsctl verify --all # every published adapter\n"
     "dsctl verify digits --full # measure it again\n"
     "dsctl verify base # the base's own samples alone\n"},
    {"sample", ds_cmd_sample, "REF|base", 1, 1, DS_ARG_REF, "draw images",
     "Draws images from an adapter, or from the base alone: a sheet in one PNG file (digits@v1 "
     "goes "
     "to digits-v1.png), a folder with a PNG each (00000-CLASS.png), or an .npz file with arr_0, "
     "uint8 (N, H, W, 3), as ADM and DiT write it. A sheet takes some thousands at most, by their "
     "size; folders and .npz files 50,000.",
     sample_options,
     "dsctl sample digits -n 16 -o grid.png # all classes in turn\n"
     "dsctl sample digits@v1 --class 7 --guidance 2 --seed 5 # one class\n"
     "dsctl sample digits -n 50000 -o samples/ # a file each, for evaluate or another program\n"
     "dsctl sample base -o base.png # the frozen base\n"},
    {"compare", ds_cmd_compare, "A B", 2, 2, DS_ARG_REF, "two adapters side by side",
     "FD, KID, sizes and settings of both, and which is better with the interval of the "
     "difference: "
     "of the same pictures and noise where one was measured against the other when it was made, "
     "else of the two intervals. Distances are compared only where they have the same reference, "
     "network and number of samples; it says where they have not. The sheet shows samples of both "
     "in pairs, A left and B right, each pair from the same noise, each adapter as it was "
     "evaluated.",
     compare_options,
     "dsctl compare digits@v1 digits@v2 # numbers, and digits-v1-digits-v2.png\n"
     "dsctl compare digits@prod digits --no-sheet --json # for a program\n"},
    {"list-jobs", ds_cmd_list_jobs, "", 0, 0, DS_ARG_OTHER, "list the jobs",
     "Newest first: scans, trainings, samples and verifications.", list_jobs_options,
     "dsctl list-jobs --status running # what happens now\n"
     "dsctl list-jobs -d digits --kind train # history of a dataset\n"},
    {"show-job", ds_cmd_show_job, "JOB", 1, 1, DS_ARG_JOB, "show one job",
     "State, progress, error, and the result when it is done.", NULL,
     "dsctl show-job 4 # how far it is\n"},
    {"logs", ds_cmd_logs, "JOB", 1, 1, DS_ARG_JOB, "print the log of a job",
     "What the worker wrote to its log.", logs_options,
     "dsctl logs 4 # so far\n"
     "dsctl logs 4 -f # until it ends\n"},
    {"cancel-job", ds_cmd_cancel_job, "JOB", 1, 1, DS_ARG_JOB, "stop a job for good",
     "The job ends as cancelled; it is not tried again. A finished job is a conflict (exit 4).",
     NULL, "dsctl cancel-job 4 # stop it\n"},
    {"watch", ds_cmd_watch, "", 0, 0, DS_ARG_OTHER, "live view of jobs and adapters",
     "Redraws running jobs, queue and latest adapters in place until Ctrl-C; when the output is "
     "not a terminal, prints a line for each change.",
     watch_options,
     "dsctl watch # live view\n"
     "dsctl watch --interval 5 > log.txt # a line per change\n"},
    {"list-evaluations", ds_cmd_list_evaluations, "", 0, 0, DS_ARG_OTHER, "list the measurements",
     "Every number with what it was measured with: N, seed, interval. Newest first.",
     evaluations_options,
     "dsctl list-evaluations --dataset digits --metric fd # history of a task\n"
     "dsctl list-evaluations --adapter digits@v1 --json # with feature net and resize ids\n"},
    {"events", ds_cmd_events, "", 0, 0, DS_ARG_OTHER, "print what happened",
     "Committed changes of the registry in order; each has a number to go on from. --follow "
     "without --since begins with the next one.",
     events_options,
     "dsctl events --since 2h # recent\n"
     "dsctl events --follow --json --since 120 # for a program, from a cursor\n"},
    {"set-alias", ds_cmd_set_alias, "NAME ALIAS VERSION", 3, 3, DS_ARG_DATASET,
     "point an alias at a version",
     "Afterwards NAME@ALIAS is that version; history is kept. The alias 'latest' goes back to an "
     "older version that was published: the next training is then measured against that one.",
     alias_options,
     "dsctl set-alias digits prod 2 # digits@prod is digits@v2\n"
     "dsctl set-alias digits latest v1 # back to an older version\n"
     "dsctl set-alias digits prod v3 --if-generation 1 # only if nobody moved it\n"},
    {"list-aliases", ds_cmd_list_aliases, "[NAME]", 0, 1, DS_ARG_DATASET, "list the aliases",
     "Which version each NAME@ALIAS is, how often it was moved, and since when it is there. "
     "Without "
     "NAME: of all adapters.",
     page_options,
     "dsctl list-aliases digits # of one adapter\n"
     "dsctl list-aliases --json | jq '.items[].alias' # for a program\n"},
    {"remove-alias", ds_cmd_remove_alias, "NAME ALIAS", 2, 2, DS_ARG_DATASET, "remove an alias",
     "NAME@ALIAS is no reference any more; the version stays. 'latest' is what NAME alone means "
     "and "
     "stays (exit 4): move it with set-alias.",
     alias_options, "dsctl remove-alias digits prod # digits@prod is no more\n"},
    {"report", ds_cmd_report, "", 0, 0, DS_ARG_OTHER, "show what each dataset became",
     "Per dataset: FD of the base and of the adapter, KID, size, what the gate found for every old "
     "task, and the version it was measured against where there was one. Then, for each base, "
     "whether its own classes are what they were.",
     report_options,
     "dsctl report # a table\n"
     "dsctl report -o report.json # for a program\n"},
    {"status", ds_cmd_status, "", 0, 0, DS_ARG_OTHER, "show how diffscalerd is doing",
     "Version, counts, base, device, running jobs, free space.", NULL,
     "dsctl status # at a glance\n"
     "dsctl status --json # for a program\n"},
    {"stop", ds_cmd_stop, "", 0, 0, DS_ARG_OTHER, "stop diffscalerd",
     "As SIGTERM does: workers write a checkpoint and stop, then the daemon ends. What was under "
     "way "
     "goes on at its next start. Under systemd use systemctl stop, or it may be started again.",
     stop_options,
     "dsctl stop # returns when it has ended\n"
     "dsctl --state /tmp/try stop # the one of another state folder\n"},
    {"gc", ds_cmd_gc, "", 0, 0, DS_ARG_OTHER, "free disk space that nothing needs",
     "Removes blobs that no adapter or dataset names, caches of images that no dataset has any "
     "more, and imported models that nothing names. What is younger than an hour stays. Nothing "
     "that can be asked for is ever removed.",
     gc_options,
     "dsctl gc --dry-run # what would go\n"
     "dsctl gc # let it go\n"},
    {"prune", ds_cmd_prune, "", 0, 0, DS_ARG_OTHER, "forget old jobs and events now",
     "Removes ended jobs that nothing refers to, folders and checkpoints of ended jobs, old events "
     "and left-over files. The daemon does it by itself once a day, with the ages of its options "
     "--keep-jobs, --keep-folders and --keep-events. Adapters, evaluations, gates, and the events "
     "of publications and gates stay for ever.",
     prune_options,
     "dsctl prune --dry-run # what would go\n"
     "dsctl prune --folders 48h # and logs of jobs that ended two days ago\n"},
    {"fsck", ds_cmd_fsck, "", 0, 0, DS_ARG_OTHER, "check everything that is stored",
     "Reads every blob, model and cache, and all rows of the registry; each finding says the "
     "thing, "
     "the cause and the way out. Works with and without a running daemon. What --repair moves away "
     "is in quarantine/ of the state folder. Exit 9 when there is damage.",
     fsck_options,
     "dsctl fsck # is all of it still what was stored?\n"
     "dsctl fsck --repair # mend what can be mended\n"},
    {"doctor", ds_cmd_doctor, "", 0, 0, DS_ARG_OTHER, "check this installation",
     "Checks the daemon, socket, state folder, worker, models, CPU and inotify limits; each line "
     "says ok, note, warn or fail and the way out, also which weights are missing and where people "
     "get them. Exit 1 when a check fails.",
     NULL, "dsctl doctor # what is wrong, and what to do\n"},
    {"version", ds_cmd_version, "", 0, 0, DS_ARG_OTHER, "print versions",
     "Version of dsctl, and of diffscalerd when it can be reached.", NULL,
     "dsctl version # program and daemon\n"},
    {"completion", ds_cmd_completion, "SHELL", 1, 1, DS_ARG_SHELL,
     "print a completion script for bash, zsh or fish",
     "The script completes commands, options, "
     "and names and references that diffscalerd knows.",
     NULL,
     "source <(dsctl completion bash) # in ~/.bashrc\n"
     "dsctl completion fish > ~/.config/fish/completions/dsctl.fish # fish\n"},
    {"help", ds_cmd_help, "[COMMAND]", 0, 1, DS_ARG_COMMAND, "explain a command",
     "Without COMMAND: the list of commands.", NULL, "dsctl help add-dataset # as --help\n"},
    {NULL, NULL, NULL, 0, 0, DS_ARG_OTHER, NULL, NULL, NULL, NULL}};

const ds_command *ds_command_find(const char *name) {
    for (const ds_command *k = ds_commands; k->name; k++)
        if (!strcmp(k->name, name))
            return k;
    return NULL;
}
