/* worker/job/spec.c - tables of what a spec may hold, and one reader for all of them. */
#include "worker/job/spec.h"
#include "base/fs.h"
#include "base/limits.h"
#include "base/mem.h"
#include "contract/job.h"
#include "contract/options.h"
#include "worker/job/device.h"

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
    WORD,   /* int, the value of one of `words` */
    SOME,   /* unsigned, the sum of the values of some of `words`, a list */
    KIND,   /* const char *, of a device */
    OBJECT, /* by the table `sub`, into the struct at `at` */
    KNOWN   /* any value; read elsewhere */
};

enum { OPTIONAL = 1, NULLABLE = 2 };

typedef struct {
    const char *word; /* NULL ends a list */
    int value;
} word;

typedef struct field {
    const char *key;
    enum field_type type;
    size_t at;
    double least, most;
    int flags;
    const word *words;
    const char *absent;      /* OPTIONAL: the value where the key is missing; NULL: it stays */
    const struct field *sub; /* ends with key NULL */
    /* Of the row with key NULL: looks at the members together, when they are read. */
    int (*then)(const char *where, const json_t *obj, void *out, ds_error *err);
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

static const word *find_word(const word *words, const json_t *v) {
    for (; words->word; words++)
        if (json_is_string(v) && !strcmp(json_string_value(v), words->word))
            return words;
    return NULL;
}

static int read_word(const char *where, const word *words, const json_t *v, int *out,
                     ds_error *err) {
    char list[120] = "";
    const word *w = find_word(words, v);
    if (w) {
        *out = w->value;
        return 0;
    }
    for (; words->word; words++) {
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", words->word);
    }
    return ds_fail(err, DS_EINVAL, "%s must be one of: %s", where, list);
}

static int read_words(const char *where, const field *f, const json_t *v, unsigned *out,
                      ds_error *err) {
    size_t i;
    json_t *item;
    if (!json_is_array(v) || !json_array_size(v))
        return complain(err, where, "must be a list of names");
    *out = 0;
    json_array_foreach((json_t *)(uintptr_t)v, i, item) {
        const word *w = find_word(f->words, item);
        if (!w)
            return ds_fail(err, DS_EINVAL, "%s[%zu] is not a %.*s", where, i,
                           (int)strlen(f->key) - 1, f->key);
        *out |= (unsigned)w->value;
    }
    return 0;
}

static int read_kind_of_device(const char *where, const json_t *v, const char **out,
                               ds_error *err) {
    const char *kind = json_string_value(v);
    if (!kind)
        return complain(err, where, "must be a text");
    int rc = ds_device_kind_check(kind, err);
    if (!rc)
        *out = kind; /* the document is kept (ds_spec.doc) */
    return rc ? ds_error_prefix(err, "%s", where) : 0;
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
    case WORD: return read_word(where, f->words, v, at, err);
    case SOME: return read_words(where, f, v, at, err);
    case KIND: return read_kind_of_device(where, v, at, err);
    case OBJECT: return read_object(where, v, f->sub, at, err);
    case KNOWN: return 0;
    }
    return 0;
}

/* The value of an option that an earlier program's spec has not (contract/options.def). */
static void take_absent(const field *f, void *out) {
    void *at = (char *)out + f->at;
    if (f->type == KIND) {
        *(const char **)at = f->absent;
        return;
    }
    json_t *v =
        f->type == WORD ? json_string(f->absent) : json_loads(f->absent, JSON_DECODE_ANY, NULL);
    int rc = read_value(f->key, f, v, out, NULL);
    DS_ASSERT(!rc);
    json_decref(v);
}

static void take_all_absent(const field *fields, void *out) {
    for (; fields->key; fields++)
        if (fields->absent)
            take_absent(fields, out);
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
    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
        if (!find_field(fields, key))
            return ds_fail(err, DS_EINVAL, "%s%s%.60s is not a known key", where, dot,
                           text_ok(key) ? key : "?");
    const field *f = fields;
    for (; f->key; f++) {
        char name[WHERE_MAX];
        snprintf(name, sizeof name, "%s%s%s", where, dot, f->key);
        v = json_object_get(obj, f->key);
        if (!v && f->absent) {
            take_absent(f, out);
            continue;
        }
        if ((!v && (f->flags & OPTIONAL)) || (json_is_null(v) && (f->flags & NULLABLE)))
            continue;
        if (!v)
            return complain(err, name, "is missing");
        int rc = read_value(name, f, v, out, err);
        if (rc)
            return rc;
    }
    return f->then ? f->then(where, obj, out, err) : 0;
}

/* ---------------------------------------------------------------- words */

#define PAIR(value_, word_) {.word = word_, .value = value_},
#define LIST_OF(list)                                                                              \
    (const word[]) {                                                                               \
        list(PAIR) { .word = NULL }                                                                \
    }
#define ROLES(W) W(DS_BAR_LATEST, "latest") W(DS_BAR_BEST, "best")
#define WHATS(W) W(0, "base") W(1, "feature_net")
#define FID_MODE(id, name, preprocess, part, dim) PAIR(DS_FID_##id, name)
static const word fid_modes[] = {DS_FID_MODE_MAP(FID_MODE){.word = NULL}};
static const word kinds[] = {DS_JOB_KINDS(PAIR){.word = NULL}};

/* ---------------------------------------------------------------- tables */

#define AT(type, member) offsetof(type, member)
#define END                                                                                        \
    { .key = NULL }

/* Rows of contract/options.def as fields of a struct. */
#define ROW(struct_, key_, member_, type_, ...)                                                    \
    {.key = #key_, .type = ROW_##type_, .at = offsetof(struct_, member_), __VA_ARGS__},
#define ROW_INT INT
#define ROW_SEED SEED
#define ROW_NUM NUMBER
#define ROW_BOOL BOOL
#define ROW_ENUM WORD
#define ROW_LIST SOME
#define ROW_DEVICE KIND
#define RANGE(...) RANGE_(__VA_ARGS__)
#define RANGE_(a, b) .least = a, .most = b
#define WORDS(list) .words = LIST_OF(list)
#define ANY .words = NULL
#define IS(value) .absent = NULL
#define BY(says) .absent = NULL
#define OFF .absent = NULL
#define ON .absent = NULL
#define ALL .absent = NULL
#define LEFT_OUT(value) .absent = value
#define SINCE(value, default_) .absent = value
#define UNLESS(default_) .flags = OPTIONAL

static const field device_fields[] = {
#define DEVICE(name_, flag_, key_, member_, type_, metavar_, help_, ...)                           \
    ROW(ds_spec_device, key_, member_, type_, __VA_ARGS__)
#include "contract/options.def"
    {.key = "memory_limit", NUMBER, AT(ds_spec_device, memory_limit), 0, 1e15, OPTIONAL}, END};

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
    {.key = "name", WORD, AT(ds_method_spec, method), .words = LIST_OF(DS_METHODS)},
#define METHOD(name_, flag_, key_, member_, type_, metavar_, help_, ...)                           \
    ROW(ds_method_spec, key_, member_, type_, __VA_ARGS__)
#include "contract/options.def"
    END};

static const field train_fields[] = {
#define TRAIN(name_, flag_, key_, member_, type_, metavar_, help_, ...)                            \
    ROW(ds_train_options, key_, member_, type_, __VA_ARGS__)
#include "contract/options.def"
    END};

/* One form of guidance, and all of it. */
static int read_guidance(const char *where, const json_t *obj, void *out, ds_error *err) {
    static const char *const forms[2][2] = {{"guidance", "guidance_mode"},
                                            {"guidance_domain", "guidance_class"}};
    ds_spec_sample *s = out;
    const char *has[2][2] = {0};
    for (int i = 0; i < 4; i++)
        has[i / 2][i % 2] = json_object_get(obj, forms[i / 2][i % 2]) ? forms[i / 2][i % 2] : NULL;
    const int weights = has[1][0] || has[1][1];
    if (weights && (has[0][0] || has[0][1]))
        return ds_fail(err, DS_EINVAL, "%s has %s and %s, which exclude each other", where,
                       has[0][0] ? has[0][0] : has[0][1], has[1][0] ? has[1][0] : has[1][1]);
    for (int i = 0; i < 2; i++)
        if (!has[weights][i])
            return ds_fail(err, DS_EINVAL, "%s.%s is missing", where, forms[weights][i]);
    if (weights)
        s->mode = DS_GUIDANCE_WEIGHTS;
    return 0;
}

static const field sample_fields[] = {
#define SAMPLE(name_, flag_, key_, member_, type_, metavar_, help_, ...)                           \
    ROW(ds_spec_sample, key_, member_, type_, __VA_ARGS__)
#include "contract/options.def"
    {.key = NULL, .then = read_guidance}};

static const field evaluate_fields[] = {
#define EVALUATE(name_, flag_, key_, member_, type_, metavar_, help_, ...)                         \
    ROW(ds_spec_evaluate, key_, member_, type_, __VA_ARGS__)
#include "contract/options.def"
    END};

static const field probe_fields[] = {
#define PROBE(name_, flag_, key_, member_, type_, metavar_, help_, ...)                            \
    ROW(ds_spec_probe, key_, member_, type_, __VA_ARGS__)
#include "contract/options.def"
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
    {.key = "mode", WORD, AT(ds_spec_net, mode), .words = fid_modes, .flags = OPTIONAL},
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
    {.key = "role", WORD, AT(ds_spec_bar, role), .words = LIST_OF(ROLES)},
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
#define GATE(name_, flag_, key_, member_, type_, metavar_, help_, ...)                             \
    ROW(ds_spec_gate, key_, member_, type_, __VA_ARGS__)
#include "contract/options.def"
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
    {.key = "train", OBJECT, AT(ds_spec, train.o), .sub = train_fields},
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
    {.key = "what", WORD, AT(ds_spec, import.feature_net), .words = LIST_OF(WHATS)},
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
    if (strcmp(schema, DS_SCHEMA_JOB))
        return ds_fail(err, DS_EINVAL, "spec.json: schema must be '%s'", DS_SCHEMA_JOB);
    int kind = 0,
        rc = read_word("spec.json: kind", kinds, json_object_get(s->doc, "kind"), &kind, err);
    s->kind = (enum ds_job_kind)kind;
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
    take_all_absent(device_fields, &s->device);
    s->feature_net.mode = DS_FID_BUNDLED;
    s->sheet = 1;
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
