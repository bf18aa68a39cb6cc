/* worker/spec.c - tables of what a spec may hold, and one reader for all of them. */
#include "worker/spec.h"
#include "base/fs.h"
#include "base/limits.h"
#include "base/mem.h"
#include "worker/device.h"

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 4096, WHERE_MAX = 192 };

enum field_type {
    TEXT,   /* const char *; 1..TEXT_MAX bytes without control characters */
    EMPTY,  /* the same, may be "" */
    PATH,   /* const char *, absolute */
    HEX,    /* const char *, 64 hex digits */
    INT,    /* int */
    INT64,  /* int64_t */
    SEED,   /* uint64_t, 0 .. 2^63-1 */
    NUMBER, /* double */
    BOOL,   /* int */
    OBJECT, /* by the table `sub`, into the struct at `at` */
    CUSTOM, /* by `read` */
    KNOWN   /* any value; read elsewhere */
};

enum { OPTIONAL = 1, NULLABLE = 2 };

typedef struct field {
    const char *key;
    enum field_type type;
    size_t at;
    double least, most;
    int flags;
    const struct field *sub; /* ends with key NULL */
    int (*read)(const char *where, const json_t *v, void *out, ds_error *err);
} field;

static int complain(ds_error *err, const char *where, const char *what) {
    return ds_fail(err, DS_EINVAL, "%s %s", where, what);
}

static int text_ok(const char *s) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return 0;
    return n <= TEXT_MAX;
}

static int read_text(const char *where, const field *f, const json_t *v, void *at, ds_error *err) {
    const char *s = json_string_value(v);
    if (!s)
        return complain(err, where, "must be a string");
    if (!text_ok(s) || strlen(s) != json_string_length(v) || (!*s && f->type != EMPTY))
        return complain(err, where, "must be text of 1 to 4096 bytes without control characters");
    if (f->type == PATH && *s != '/')
        return complain(err, where, "must be an absolute path");
    if (f->type == HEX && !ds_digest_valid(s))
        return complain(err, where, "must be a SHA-256: 64 lower-case hex digits");
    *(const char **)at = s;
    return 0;
}

static int read_number(const char *where, const field *f, const json_t *v, void *at,
                       ds_error *err) {
    if (f->type == NUMBER ? !json_is_number(v) : !json_is_integer(v))
        return complain(err, where, f->type == NUMBER ? "must be a number" : "must be an integer");
    double x = json_number_value(v);
    if (!(x >= f->least && x <= f->most))
        return ds_fail(err, DS_EINVAL, "%s is %.12g, must be %.12g to %.12g", where, x, f->least,
                       f->most);
    if (f->type == NUMBER)
        *(double *)at = x;
    else if (f->type == INT)
        *(int *)at = (int)json_integer_value(v);
    else if (f->type == INT64)
        *(int64_t *)at = json_integer_value(v);
    else
        *(uint64_t *)at = (uint64_t)json_integer_value(v);
    return 0;
}

static int read_object(const char *where, const json_t *obj, const field *fields, void *out,
                       ds_error *err);

static int read_value(const char *where, const field *f, const json_t *v, void *out,
                      ds_error *err) {
    void *at = (char *)out + f->at;
    switch (f->type) {
    case TEXT:
    case EMPTY:
    case PATH:
    case HEX: return read_text(where, f, v, at, err);
    case INT:
    case INT64:
    case SEED:
    case NUMBER: return read_number(where, f, v, at, err);
    case BOOL:
        if (!json_is_boolean(v))
            return complain(err, where, "must be true or false");
        *(int *)at = json_is_true(v);
        return 0;
    case OBJECT: return read_object(where, v, f->sub, at, err);
    case CUSTOM: return f->read(where, v, at, err);
    case KNOWN: return 0;
    }
    return 0;
}

static const field *find_field(const field *fields, const char *key) {
    for (; fields->key; fields++)
        if (!strcmp(fields->key, key))
            return fields;
    return NULL;
}

static int read_object(const char *where, const json_t *obj, const field *fields, void *out,
                       ds_error *err) {
    if (!json_is_object(obj))
        return complain(err, where, "must be an object");
    const char *key, *dot = strchr(where, ' ') ? "." : " ";
    json_t *v;
    json_object_foreach(
        (json_t *)(uintptr_t)obj, key,
        v) if (!find_field(fields, key)) return ds_fail(err, DS_EINVAL,
                                                        "%s%s%.60s is not a known key", where, dot,
                                                        text_ok(key) ? key : "?");
    for (const field *f = fields; f->key; f++) {
        char name[WHERE_MAX];
        snprintf(name, sizeof name, "%s%s%s", where, dot, f->key);
        v = json_object_get(obj, f->key);
        if ((!v && (f->flags & OPTIONAL)) || (json_is_null(v) && (f->flags & NULLABLE)))
            continue;
        if (!v)
            return complain(err, name, "is missing");
        int rc = read_value(name, f, v, out, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---------------------------------------------------------------- words */

static int read_word(const char *where, const json_t *v, const char *const *words, int *out,
                     ds_error *err) {
    char list[120] = "";
    for (int i = 0; words[i]; i++) {
        if (json_is_string(v) && !strcmp(json_string_value(v), words[i])) {
            *out = i;
            return 0;
        }
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", words[i]);
    }
    return ds_fail(err, DS_EINVAL, "%s must be one of: %s", where, list);
}

#define WORD_READER(name, type, ...)                                                               \
    static int name(const char *where, const json_t *v, void *out, ds_error *err) {                \
        int i = 0, rc = read_word(where, v, (const char *const[]){__VA_ARGS__, NULL}, &i, err);    \
        if (!rc)                                                                                   \
            *(type *)out = (type)i;                                                                \
        return rc;                                                                                 \
    }
WORD_READER(read_sampler, enum ds_sampler, "ddpm", "ddim", "dpmpp2m")
WORD_READER(read_guidance, enum ds_guidance, "none", "cfg", "domain")
WORD_READER(read_method, enum ds_method, "affiner", "embedding", "full")
WORD_READER(read_side, int, "out", "in")
WORD_READER(read_phi, int, "identity", "relu")
WORD_READER(read_role, enum ds_bar_role, "latest", "best")
WORD_READER(read_verify, enum ds_verify, "auto", "full")
WORD_READER(read_what, int, "base", "feature_net")
WORD_READER(read_mode, enum ds_fid_mode, "pytorch-fid", "torch-fidelity", "clean", "bundled")
WORD_READER(read_kind, enum ds_job_kind, "scan", "train", "sample", "verify", "import")

static int read_precision(const char *where, const json_t *v, void *out, ds_error *err) {
    int i = 0, rc = read_word(where, v, ds_precision_names, &i, err);
    if (!rc)
        *(enum ds_precision *)out = (enum ds_precision)i;
    return rc;
}

static int read_device(const char *where, const json_t *v, void *out, ds_error *err) {
    const char *kind = json_string_value(v);
    if (!kind)
        return complain(err, where, "must be a text");
    int rc = ds_device_kind_check(kind, err);
    if (!rc)
        *(const char **)out = kind; /* the document is kept (ds_spec.doc) */
    return rc ? ds_error_prefix(err, "%s", where) : 0;
}

static int read_targets(const char *where, const json_t *v, void *out, ds_error *err) {
    unsigned bits = 0;
    size_t i;
    json_t *t;
    if (!json_is_array(v))
        return complain(err, where, "must be a list of names");
    json_array_foreach(v, i, t) {
        unsigned bit = json_is_string(t) ? ds_target_bit(json_string_value(t)) : 0;
        if (!bit)
            return ds_fail(err, DS_EINVAL, "%s[%zu] is not a target", where, i);
        bits |= bit;
    }
    *(unsigned *)out = bits;
    return 0;
}

/* ---------------------------------------------------------------- tables */

#define AT(type, member) offsetof(type, member)
#define END                                                                                        \
    { .key = NULL }

static const field device_fields[] = {
    {.key = "kind", CUSTOM, AT(ds_spec_device, kind), .read = read_device, .flags = OPTIONAL},
    {.key = "precision",
     CUSTOM,
     AT(ds_spec_device, precision),
     .read = read_precision,
     .flags = OPTIONAL},
    {.key = "threads", INT, AT(ds_spec_device, threads), DS_RANGE_THREADS, OPTIONAL},
    {.key = "memory_limit", NUMBER, AT(ds_spec_device, memory_limit), 0, 1e15, OPTIONAL},
    END};

/* Beside the base, so that `vae` is a member of its own in ds_spec. */
#define BESIDE_BASE(member) (offsetof(ds_spec, vae.member) - offsetof(ds_spec, base))
_Static_assert(offsetof(ds_spec, vae) > offsetof(ds_spec, base), "reached from the base");

static const field vae_fields[] = {
    {.key = "path", PATH, BESIDE_BASE(path)}, {.key = "sha256", HEX, BESIDE_BASE(sha256)}, END};

static const field model_fields[] = {
    {.key = "name", TEXT, AT(ds_spec_file, name)},
    {.key = "path", PATH, AT(ds_spec_file, path)},
    {.key = "sha256", HEX, AT(ds_spec_file, sha256)},
    {.key = "vae", OBJECT, 0, .sub = vae_fields, .flags = OPTIONAL | NULLABLE},
    END};

static const field blob_fields[] = {
    {.key = "name", TEXT, AT(ds_spec_file, name), .flags = OPTIONAL},
    {.key = "path", PATH, AT(ds_spec_file, path)},
    {.key = "sha256", HEX, AT(ds_spec_file, sha256)},
    END};

static const field dataset_fields[] = {
    {.key = "name", TEXT, AT(ds_spec_dataset, name)},
    {.key = "version", INT, AT(ds_spec_dataset, version), 1, 1e9},
    {.key = "root", PATH, AT(ds_spec_dataset, root)},
    {.key = "manifest", PATH, AT(ds_spec_dataset, manifest)},
    {.key = "tree_digest", HEX, AT(ds_spec_dataset, tree_digest)},
    END};

static const field method_fields[] = {
    {.key = "name", CUSTOM, AT(ds_method_spec, method), .read = read_method},
    {.key = "rank", INT, AT(ds_method_spec, rank), DS_RANGE_RANK},
    {.key = "side", CUSTOM, AT(ds_method_spec, side_in), .read = read_side},
    {.key = "phi", CUSTOM, AT(ds_method_spec, phi_relu), .read = read_phi},
    {.key = "freeze_v", BOOL, AT(ds_method_spec, freeze_v)},
    {.key = "targets", CUSTOM, AT(ds_method_spec, targets), .read = read_targets},
    END};

static const field train_fields[] = {
    {.key = "steps", INT, AT(ds_spec_train, o.steps), DS_RANGE_STEPS},
    {.key = "batch", INT, AT(ds_spec_train, o.batch), DS_RANGE_BATCH},
    {.key = "micro_batch", INT, AT(ds_spec_train, o.micro_batch), DS_RANGE_BATCH},
    {.key = "lr", NUMBER, AT(ds_spec_train, o.lr), DS_RANGE_LR},
    {.key = "warmup", NUMBER, AT(ds_spec_train, o.warmup), DS_RANGE_WARMUP},
    {.key = "cosine", BOOL, AT(ds_spec_train, o.cosine), .flags = OPTIONAL},
    {.key = "clip", NUMBER, AT(ds_spec_train, o.clip), DS_RANGE_CLIP},
    {.key = "weight_decay", NUMBER, AT(ds_spec_train, o.weight_decay), DS_RANGE_WEIGHT_DECAY},
    {.key = "ema", NUMBER, AT(ds_spec_train, o.ema), DS_RANGE_EMA},
    {.key = "label_dropout",
     NUMBER,
     AT(ds_spec_train, o.label_dropout),
     DS_RANGE_LABEL_DROPOUT,
     OPTIONAL},
    {.key = "flip", BOOL, AT(ds_spec_train, o.flip)},
    {.key = "seed", SEED, AT(ds_spec_train, o.seed), DS_RANGE_SEED},
    {.key = "vb_weight", NUMBER, AT(ds_spec_train, o.vb_weight), DS_RANGE_VB_WEIGHT},
    {.key = "focus", NUMBER, AT(ds_spec_train, o.focus), DS_RANGE_FOCUS, OPTIONAL},
    {.key = "focus_mean", NUMBER, AT(ds_spec_train, o.focus_mean), DS_RANGE_FOCUS_MEAN, OPTIONAL},
    {.key = "checkpoint_every", INT, AT(ds_spec_train, every), DS_RANGE_STEPS},
    {.key = "heldout_every", INT, AT(ds_spec_train, heldout_every), DS_RANGE_STEPS},
    {.key = "heldout", INT, AT(ds_spec_train, o.heldout), DS_RANGE_HELDOUT},
    END};

static const field sample_fields[] = {
    {.key = "sampler", CUSTOM, AT(ds_spec_sample, sampler), .read = read_sampler},
    {.key = "steps", INT, AT(ds_spec_sample, steps), DS_RANGE_SAMPLE_STEPS},
    {.key = "guidance", NUMBER, AT(ds_spec_sample, guidance), DS_RANGE_GUIDANCE},
    {.key = "guidance_mode", CUSTOM, AT(ds_spec_sample, mode), .read = read_guidance},
    END};

static const field evaluate_fields[] = {
    {.key = "n", INT, AT(ds_spec_evaluate, n), DS_RANGE_N},
    {.key = "seed", SEED, AT(ds_spec_evaluate, seed), DS_RANGE_SEED},
    {.key = "kid_subsets", INT, AT(ds_spec_evaluate, kid_subsets), DS_RANGE_KID_SUBSETS},
    {.key = "kid_subset_size",
     INT,
     AT(ds_spec_evaluate, kid_subset_size),
     DS_RANGE_KID_SUBSET_SIZE},
    END};

static const field probe_fields[] = {{.key = "n", INT, AT(ds_spec_probe, n), DS_RANGE_PROBE_N},
                                     {.key = "seed", SEED, AT(ds_spec_probe, seed), DS_RANGE_SEED},
                                     END};

static const field recorded_probe_fields[] = {
    {.key = "device_class", TEXT, AT(ds_spec_probe, device_class)},
    {.key = "sha256", HEX, AT(ds_spec_probe, sha256)},
    {.key = "n", INT, AT(ds_spec_probe, n), DS_RANGE_PROBE_N},
    {.key = "seed", SEED, AT(ds_spec_probe, seed), DS_RANGE_SEED},
    END};

static const field net_fields[] = {
    {.key = "name", TEXT, AT(ds_spec_net, name)},
    {.key = "path", PATH, AT(ds_spec_net, path)},
    {.key = "sha256", HEX, AT(ds_spec_net, sha256)},
    {.key = "mode", CUSTOM, AT(ds_spec_net, mode), .read = read_mode, .flags = OPTIONAL},
    END};

static const field task_net_fields[] = {
    {.key = "name", TEXT, AT(ds_spec_file, name)},
    {.key = "path", PATH, AT(ds_spec_file, path), .flags = NULLABLE},
    {.key = "sha256", HEX, AT(ds_spec_file, sha256)},
    {.key = "mode", KNOWN, 0, .flags = OPTIONAL}, /* the reference says how it was made */
    END};

/* Of an old task and of the base's own classes. */
#define TASK                                                                                       \
    {.key = "name", TEXT, AT(ds_spec_task, name)}, {.key = "ref", TEXT, AT(ds_spec_task, ref)},    \
        {.key = "probe",                                                                           \
         OBJECT,                                                                                   \
         AT(ds_spec_task, probe),                                                                  \
         .sub = recorded_probe_fields,                                                             \
         .flags = OPTIONAL | NULLABLE},                                                            \
        {.key = "probes", KNOWN, 0, .flags = OPTIONAL}, /* read_probes */                          \
        {.key = "reference",                                                                       \
         OBJECT,                                                                                   \
         AT(ds_spec_task, reference),                                                              \
         .sub = blob_fields,                                                                       \
         .flags = OPTIONAL | NULLABLE},                                                            \
        {.key = "sample", OBJECT, AT(ds_spec_task, sample), .sub = sample_fields},                 \
        {.key = "evaluate", OBJECT, AT(ds_spec_task, evaluate), .sub = evaluate_fields},           \
        {.key = "fd", NUMBER, AT(ds_spec_task, fd), 0, 1e12, OPTIONAL | NULLABLE},                 \
        {.key = "kid", NUMBER, AT(ds_spec_task, kid), -1e12, 1e12, OPTIONAL | NULLABLE},           \
        {.key = "base_sha256", HEX, AT(ds_spec_task, base_sha256)}, {                              \
        "feature_net", OBJECT, AT(ds_spec_task, feature_net), .sub = task_net_fields,              \
                                                              .flags = OPTIONAL | NULLABLE         \
    }

static const field task_fields[] = {
    TASK,
    {.key = "adapter", OBJECT, AT(ds_spec_task, adapter), .sub = blob_fields},
    {.key = "feature_net_sha256", HEX, AT(ds_spec_task, feature_net_sha256)},
    END};

static const field base_task_fields[] = {TASK,
                                         {.key = "feature_net_sha256",
                                          HEX,
                                          AT(ds_spec_task, feature_net_sha256),
                                          .flags = OPTIONAL | NULLABLE},
                                         END};

static const field bar_vae_fields[] = {
    {.key = "path", PATH, AT(ds_spec_bar, vae.path), .flags = OPTIONAL | NULLABLE},
    {.key = "sha256", HEX, AT(ds_spec_bar, vae.sha256)},
    END};

/* At the whole bar, so that the VAE can stand beside the base. */
static const field bar_base_fields[] = {
    {.key = "name", TEXT, AT(ds_spec_bar, base.name)},
    {.key = "path", PATH, AT(ds_spec_bar, base.path), .flags = NULLABLE},
    {.key = "sha256", HEX, AT(ds_spec_bar, base.sha256)},
    {.key = "vae", OBJECT, 0, .sub = bar_vae_fields, .flags = OPTIONAL | NULLABLE},
    END};

static const field bar_fields[] = {
    {.key = "role", CUSTOM, AT(ds_spec_bar, role), .read = read_role},
    {.key = "ref", TEXT, AT(ds_spec_bar, ref)},
    {.key = "adapter", OBJECT, AT(ds_spec_bar, adapter), .sub = blob_fields},
    {.key = "base", OBJECT, 0, .sub = bar_base_fields},
    {.key = "sample", OBJECT, AT(ds_spec_bar, sample), .sub = sample_fields},
    {.key = "fd", NUMBER, AT(ds_spec_bar, fd), 0, 1e12, OPTIONAL | NULLABLE},
    {.key = "kid", NUMBER, AT(ds_spec_bar, kid), -1e12, 1e12, OPTIONAL | NULLABLE},
    {.key = "feature_net_sha256",
     HEX,
     AT(ds_spec_bar, feature_net_sha256),
     .flags = OPTIONAL | NULLABLE},
    {.key = "tree_digest", HEX, AT(ds_spec_bar, tree_digest), .flags = OPTIONAL | NULLABLE},
    END};

static const field gate_fields[] = {
    {.key = "verify", CUSTOM, AT(ds_spec_gate, verify), .read = read_verify},
    {.key = "fd_tolerance", NUMBER, AT(ds_spec_gate, fd_tolerance), DS_RANGE_FD_TOLERANCE},
    {.key = "kid_tolerance_sigmas",
     NUMBER,
     AT(ds_spec_gate, kid_tolerance_sigmas),
     DS_RANGE_KID_SIGMAS},
    {.key = "worse_margin",
     NUMBER,
     AT(ds_spec_gate, worse_margin),
     DS_RANGE_WORSE_MARGIN,
     OPTIONAL},
    {.key = "worse_sigmas",
     NUMBER,
     AT(ds_spec_gate, worse_sigmas),
     DS_RANGE_WORSE_SIGMAS,
     OPTIONAL},
    END};

static const field cache_fields[] = {{.key = "cache", PATH, 0}, END};

#define COMMON                                                                                     \
    {.key = "schema", KNOWN, 0}, {.key = "kind", KNOWN, 0},                                        \
        {.key = "job", INT64, AT(ds_spec, job), 0, 9.2e18}, {                                      \
        "device", OBJECT, AT(ds_spec, device), .sub = device_fields, .flags = OPTIONAL             \
    }

static const field scan_spec[] = {
    COMMON,
    {.key = "dataset", TEXT, AT(ds_spec, scan.dataset)},
    {.key = "root", PATH, AT(ds_spec, scan.root)},
    {.key = "hash_cache", EMPTY, AT(ds_spec, scan.hash_cache)},
    {.key = "min_side", INT, AT(ds_spec, scan.min_side), 1, 1e6},
    {.key = "max_pixels", INT64, AT(ds_spec, scan.max_pixels), 1, 1e12},
    {.key = "max_classes", INT64, AT(ds_spec, scan.max_classes), 1, 1e9},
    {.key = "max_files", INT64, AT(ds_spec, scan.max_files), 1, 1e12},
    END};

static const field train_spec[] = {
    COMMON,
    {.key = "name", TEXT, AT(ds_spec, name)},
    {.key = "version", INT, AT(ds_spec, version), 1, 1e9},
    {.key = "base", OBJECT, AT(ds_spec, base), .sub = model_fields},
    {.key = "feature_net", OBJECT, AT(ds_spec, feature_net), .sub = net_fields},
    {.key = "dataset", OBJECT, AT(ds_spec, dataset), .sub = dataset_fields},
    {.key = "cache_dir", PATH, AT(ds_spec, cache_dir)},
    {.key = "method", OBJECT, AT(ds_spec, method), .sub = method_fields},
    {.key = "train", OBJECT, AT(ds_spec, train), .sub = train_fields},
    {.key = "sample", OBJECT, AT(ds_spec, sample), .sub = sample_fields},
    {.key = "evaluate", OBJECT, AT(ds_spec, evaluate), .sub = evaluate_fields},
    {.key = "probe", OBJECT, AT(ds_spec, probe), .sub = probe_fields},
    {.key = "base_reference", OBJECT, AT(ds_spec, base_cache), .sub = cache_fields},
    {.key = "old_tasks", KNOWN, 0},
    {.key = "base_task", KNOWN, 0, .flags = OPTIONAL}, /* read_base_task */
    {.key = "base_probe_only", BOOL, AT(ds_spec, base_probe_only), .flags = OPTIONAL},
    {.key = "bars", KNOWN, 0, .flags = OPTIONAL}, /* read_bars */
    {.key = "publish_worse", BOOL, AT(ds_spec, publish_worse), .flags = OPTIONAL},
    {.key = "gate", OBJECT, AT(ds_spec, gate), .sub = gate_fields},
    END};

static const field sample_spec[] = {
    COMMON,
    {.key = "base", OBJECT, AT(ds_spec, base), .sub = model_fields},
    {.key = "adapter", OBJECT, AT(ds_spec, adapter), .sub = blob_fields, .flags = NULLABLE},
    {.key = "sample", OBJECT, AT(ds_spec, sample), .sub = sample_fields},
    {.key = "n", INT, AT(ds_spec, n), DS_RANGE_SAMPLES},
    {.key = "seed", SEED, AT(ds_spec, seed), DS_RANGE_SEED},
    {.key = "class", TEXT, AT(ds_spec, class_name), .flags = NULLABLE | OPTIONAL},
    {.key = "columns", INT, AT(ds_spec, columns), DS_RANGE_COLUMNS, OPTIONAL},
    {.key = "sheet", BOOL, AT(ds_spec, sheet), .flags = OPTIONAL},
    END};

static const field verify_spec[] = {
    COMMON,
    {.key = "base", OBJECT, AT(ds_spec, base), .sub = model_fields},
    {.key = "feature_net",
     OBJECT,
     AT(ds_spec, feature_net),
     .sub = net_fields,
     .flags = OPTIONAL | NULLABLE},
    {.key = "cache_dir", PATH, AT(ds_spec, cache_dir)},
    {.key = "old_tasks", KNOWN, 0},
    {.key = "base_task", KNOWN, 0, .flags = OPTIONAL},
    {.key = "base_probe_only", BOOL, AT(ds_spec, base_probe_only), .flags = OPTIONAL},
    {.key = "gate", OBJECT, AT(ds_spec, gate), .sub = gate_fields},
    END};

static const field import_spec[] = {
    COMMON,
    {.key = "what", CUSTOM, AT(ds_spec, import.feature_net), .read = read_what},
    {.key = "source", PATH, AT(ds_spec, import.source)},
    {.key = "vae", PATH, AT(ds_spec, import.vae), .flags = NULLABLE},
    {.key = "name", EMPTY, AT(ds_spec, import.name)},
    {.key = "license", EMPTY, AT(ds_spec, import.license)},
    {.key = "out_dir", PATH, AT(ds_spec, import.out_dir)},
    {.key = "heads", INT, AT(ds_spec, import.heads), DS_RANGE_HEADS_OR_NONE, OPTIONAL},
    {.key = "weights", TEXT, AT(ds_spec, import.weights), .flags = OPTIONAL | NULLABLE},
    {.key = "objective", TEXT, AT(ds_spec, import.objective), .flags = OPTIONAL | NULLABLE},
    {.key = "probe", PATH, AT(ds_spec, import.probe), .flags = OPTIONAL | NULLABLE},
    END};

static const field *const spec_tables[] = {scan_spec, train_spec, sample_spec, verify_spec,
                                           import_spec};
static const char *const kind_names[] = {"scan", "train", "sample", "verify", "import"};

const char *ds_job_kind_name(enum ds_job_kind kind) { return kind_names[kind]; }

/* ---------------------------------------------------------------- the document */

static int read_probes(ds_spec_task *t, const char *where, const json_t *task, ds_error *err) {
    const json_t *list = json_object_get(task, "probes"), *v;
    size_t i, n = json_array_size(list);
    if (list && (!json_is_array(list) || n > DS_SPEC_PROBES_MAX))
        return ds_fail(err, DS_EINVAL, "%s.probes must be a list of at most %d", where,
                       DS_SPEC_PROBES_MAX);
    t->probes = ds_xcalloc(n + 1, sizeof *t->probes);
    json_array_foreach(list, i, v) {
        char place[96];
        snprintf(place, sizeof place, "%s.probes[%zu]", where, i);
        int rc = read_object(place, v, recorded_probe_fields, &t->probes[i], err);
        if (rc)
            return rc;
        t->probe_count++;
    }
    return 0;
}

static int read_task(ds_spec_task *t, const field *fields, const char *where, const json_t *v,
                     ds_error *err) {
    *t = (ds_spec_task){.fd = NAN, .kid = NAN};
    int rc = read_object(where, v, fields, t, err);
    if (!rc && t->feature_net.sha256 && t->feature_net_sha256 &&
        strcmp(t->feature_net.sha256, t->feature_net_sha256))
        rc = complain(err, where, "names two feature networks");
    return rc ? rc : read_probes(t, where, v, err);
}

static int read_base_task(ds_spec *s, ds_error *err) {
    const json_t *v = json_object_get(s->doc, "base_task");
    s->base_task_asked = v != NULL;
    if (!v || json_is_null(v))
        return 0;
    s->base_task_known = 1;
    int rc = read_task(&s->base_task, base_task_fields, "spec.json: base_task", v, err);
    if (!rc && s->base_task.reference.path && !s->base_task.feature_net_sha256)
        rc = complain(err, "spec.json: base_task", "has a reference and names no feature network");
    if (!s->base_task.feature_net_sha256)
        s->base_task.feature_net_sha256 = "";
    return rc;
}

static int read_bars(ds_spec *s, ds_error *err) {
    const json_t *list = json_object_get(s->doc, "bars"), *v;
    size_t i;
    if (list && (!json_is_array(list) || json_array_size(list) > DS_SPEC_BARS_MAX))
        return ds_fail(err, DS_EINVAL, "spec.json: bars must be a list of at most %d",
                       DS_SPEC_BARS_MAX);
    json_array_foreach(list, i, v) {
        char where[64];
        ds_spec_bar *b = &s->bars[s->bar_count++];
        *b = (ds_spec_bar){.fd = NAN, .kid = NAN};
        snprintf(where, sizeof where, "spec.json: bars[%zu]", i);
        int rc = read_object(where, v, bar_fields, b, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int read_tasks(ds_spec *s, ds_error *err) {
    const json_t *list = json_object_get(s->doc, "old_tasks"), *v;
    if (s->kind != DS_JOB_TRAIN && s->kind != DS_JOB_VERIFY)
        return 0;
    if (!json_is_array(list) || json_array_size(list) > DS_SPEC_TASKS_MAX)
        return ds_fail(err, DS_EINVAL, "spec.json: old_tasks must be a list of at most %d tasks",
                       DS_SPEC_TASKS_MAX);
    s->tasks = ds_xcalloc(json_array_size(list) + 1, sizeof *s->tasks);
    size_t i;
    json_array_foreach(list, i, v) {
        char where[64];
        snprintf(where, sizeof where, "spec.json: old_tasks[%zu]", i);
        int rc = read_task(&s->tasks[s->task_count++], task_fields, where, v, err);
        if (rc)
            return rc;
    }
    return read_base_task(s, err);
}

static void make_digest(ds_spec *s) {
    json_t *work = json_copy(s->doc);
    json_object_del(work, "job");
    json_object_del(work, "device");
    char *text = ds_json_canonical(work);
    ds_digest(text, strlen(text), s->digest);
    free(text);
    json_decref(work);
}

static int read_document(ds_spec *s, ds_error *err) {
    const char *schema = ds_json_string(s->doc, "schema", "");
    if (strcmp(schema, DS_SPEC_SCHEMA))
        return ds_fail(err, DS_EINVAL, "spec.json: schema must be '%s'", DS_SPEC_SCHEMA);
    int rc = read_kind("spec.json: kind", json_object_get(s->doc, "kind"), &s->kind, err);
    if (!rc)
        rc = read_object("spec.json:", s->doc, spec_tables[s->kind], s, err);
    if (!rc)
        rc = read_tasks(s, err);
    if (!rc && s->kind == DS_JOB_TRAIN)
        rc = read_bars(s, err);
    if (rc)
        return rc;
    s->train.dropout_given =
        json_object_get(json_object_get(s->doc, "train"), "label_dropout") != NULL;
    s->method.seed = s->train.o.seed;
    make_digest(s);
    return 0;
}

int ds_spec_parse(const char *name, const char *text, size_t n, ds_spec **out, ds_error *err) {
    ds_spec *s = ds_xcalloc(1, sizeof *s);
    s->device = (ds_spec_device){.kind = "auto", .precision = DS_PRECISION_BF16};
    s->feature_net.mode = DS_FID_BUNDLED;
    s->sheet = 1;
    s->gate.worse_margin = DS_SPEC_WORSE_MARGIN;
    s->gate.worse_sigmas = DS_SPEC_WORSE_SIGMAS;
    int rc = ds_json_parse(name, text, n, &s->doc, err);
    if (!rc)
        rc = read_document(s, err);
    if (rc)
        ds_spec_free(s);
    else
        *out = s;
    return rc;
}

int ds_spec_read(const char *path, ds_spec **out, ds_error *err) {
    char *text;
    size_t n;
    int rc = ds_fs_read(path, DS_SPEC_MAX, &text, &n, err);
    if (rc)
        return rc;
    rc = ds_spec_parse(path, text, n, out, err);
    free(text);
    return rc;
}

void ds_spec_free(ds_spec *s) {
    if (!s)
        return;
    for (int i = 0; i < s->task_count; i++)
        free(s->tasks[i].probes);
    free(s->tasks);
    free(s->base_task.probes);
    json_decref(s->doc);
    free(s);
}

json_t *ds_spec_sample_json(const ds_spec_sample *s) {
    return json_pack("{s:s, s:i, s:f, s:s}", "sampler", ds_sampler_name(s->sampler), "steps",
                     s->steps, "guidance", s->guidance, "guidance_mode", ds_guidance_name(s->mode));
}

json_t *ds_spec_evaluate_json(const ds_spec_evaluate *e) {
    return json_pack("{s:i, s:I, s:i, s:i}", "n", e->n, "seed", (json_int_t)e->seed, "kid_subsets",
                     e->kid_subsets, "kid_subset_size", e->kid_subset_size);
}
