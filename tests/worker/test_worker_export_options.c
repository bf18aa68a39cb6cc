/* tests/worker/test_worker_export_options.c - `diffscaler-worker export`: what each option changes in the
 * files, what is refused before anything is written, what --force replaces, and that a full disk
 * leaves nothing. */
#include "tests/fixtures/durable.h"

#include "base/fs.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/zio.h"
#include "engine/model/adapter.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"
#include "worker/convert/export.h"
#include "worker/convert/import.h"
#include "worker/commands/worker.h"
#include "worker/decode/sandbox.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { IMAGES = 1, DEPTH = 1 };
#include "tests/fixtures/engine_small.h"

static char base_path[PATH_MAX], adapter_path[PATH_MAX], out[PATH_MAX];

static void in(char path[PATH_MAX], const char *name) {
    ds_fs_join(path, PATH_MAX, ds_test_tmpdir(), name);
}

/* As base_without_zeros, with what diffusers insists on. */
static ds_base *diffusers_base(void) {
    ds_dit_config c = config;
    ds_base *b;
    c.freq_dim = 256;
    ck_assert_int_eq(ds_dit_base_new(&b, &c, 3, NULL), 0);
    for (int i = 1; i < b->table.count; i++)
        ds_rng_normal(b->data + b->table.items[i].offset, b->table.items[i].count, 5,
                      DS_STREAM_TEST, (uint32_t)i, 0);
    return b;
}

static void make_world(void) {
    const ds_method_spec spec = {.method = DS_METHOD_AFFINER,
                                 .rank = 2,
                                 .targets = DS_TARGET_Q | DS_TARGET_FC2,
                                 .classes = CLASSES,
                                 .seed = 9};
    const char *const meta[] = {"diffscaler.name", "tiny", "diffscaler.license", "mit", NULL};
    ds_base *b = diffusers_base();
    ds_adapter *a;
    char *bytes;
    size_t n;
    label_images();
    in(base_path, "base.safetensors");
    in(adapter_path, "a.zst");
    in(out, "out");
    ck_assert_int_eq(ds_base_save(b, base_path, 0, meta, NULL), 0);
    ds_base_free(b);
    ck_assert_int_eq(ds_base_open(&b, base_path, NULL, NULL), 0);
    ck_assert_int_eq(ds_adapter_new(&a, b, &spec, NULL), 0);
    for (size_t i = 0; i < a->table.total; i++)
        a->data[i] += 0.25f;
    json_t *facts = json_pack("{ss}", "name", "birds");
    ck_assert_int_eq(ds_adapter_encode(a, b, facts, &bytes, &n, NULL), 0);
    ck_assert_int_eq(ds_zio_write_file(adapter_path, bytes, n, 3, NULL), 0);
    json_decref(facts);
    free(bytes);
    ds_adapter_free(a);
    ds_base_free(b);
}

static void begin(void) { ck_assert_int_eq(ds_fs_remove(out, NULL), 0); }

/* The command with words separated by blanks, in a process of its own: its exit; what it said is in
 * `said`.  BASE, ADAPTER and OUT stand for the paths. */
static char said[8192];

static int command(const char *line) {
    char *copy = ds_xstrdup(line), *argv[32], log[PATH_MAX];
    int argc = 0, status;
    char *rest = NULL;
    for (char *p = strtok_r(copy, " ", &rest); p; p = strtok_r(NULL, " ", &rest))
        argv[argc++] = !strcmp(p, "BASE")      ? base_path
                       : !strcmp(p, "ADAPTER") ? adapter_path
                       : !strcmp(p, "OUT")     ? out
                       : !strcmp(p, "EMPTY")   ? p + 5
                                               : p;
    in(log, "log");
    pid_t pid = fork();
    if (pid)
        free(copy);
    else {
        int fd = open(log, O_RDWR | O_CREAT | O_TRUNC, 0600);
        dup2(open(adapter_path, O_RDONLY), 0); /* for --adapter - */
        dup2(fd, 1);
        dup2(fd, 2);
        int rc = ds_worker_export(argc, argv);
        fflush(stdout);
        _exit(rc);
    }
    ck_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    int fd = open(log, O_RDONLY);
    ssize_t n = read(fd, said, sizeof said - 1);
    close(fd);
    said[n > 0 ? n : 0] = 0;
    return WEXITSTATUS(status);
}

static void runs(int want, const char *line, const char *words) {
    int is = command(line);
    ck_assert_msg(is == want, "%s: exit %d, not %d: %s", line, is, want, said);
    ck_assert_msg(strstr(said, words) != NULL, "%s: '%s' has no '%s'", line, said, words);
}

static ds_st *file(const char *name) {
    char path[PATH_MAX];
    ds_st *st;
    ds_error err;
    ds_fs_join(path, sizeof path, out, name);
    ck_assert_msg(!ds_st_open_file(path, 1 << 26, 0, &st, &err), "%s", err.message);
    return st;
}

static int there(const char *name) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, out, name);
    return ds_fs_exists(path);
}

static char *card(void) {
    char path[PATH_MAX], *text;
    size_t n;
    ds_fs_join(path, sizeof path, out, "README.md");
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &text, &n, NULL), 0);
    return text;
}

#define VAE " --vae tests/golden/vae.safetensors"
#define COMMON "--base BASE --adapter ADAPTER -o OUT "

START_TEST(dtype_is_of_the_matrices) {
    static const char *const forms[] = {COMMON "--no-measure --format dit",
                                        COMMON "--no-measure --format dit --dtype f32",
                                        COMMON "--no-measure --format dit --dtype bf16",
                                        COMMON "--no-measure --format diffusers --dtype bf16",
                                        COMMON "--format safetensors --merge --dtype bf16"};
    int matrices = 0, wrong = 0;
    begin();
    runs(0, forms[_i], "wrote ");
    ds_st *st =
        file(_i == 3 ? "transformer/diffusion_pytorch_model.safetensors" : "model.safetensors");
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        if (!strstr(t->name, "attn") || t->ndim != 2)
            continue;
        matrices++;
        wrong += t->dtype != (_i < 2 ? DS_ST_F32 : DS_ST_BF16);
    }
    ck_assert(matrices >= 2 && wrong == 0);
    ds_st_free(st);
}
END_TEST

START_TEST(options_change_the_files) {
    char *text;
    begin();
    runs(0, COMMON "--no-measure --format dit", "wrote ");
    ck_assert(there("model.safetensors") && there("model.pt") && there("README.md"));
    text = card();
    ck_assert_ptr_nonnull(strstr(text, "license: mit"));
    free(text);
    char zip[PATH_MAX], *bytes;
    size_t n;
    ds_fs_join(zip, sizeof zip, out, "model.pt"); /* no date of today: the same bytes each time */
    ck_assert_int_eq(ds_fs_read(zip, 1 << 26, &bytes, &n, NULL), 0);
    ck_assert(n > 30 && !memcmp(bytes, "PK\3\4", 4) && bytes[13] >> 1 == 0); /* the year 1980 */
    free(bytes);
    begin();
    runs(0, COMMON "--no-measure --format dit --no-pt --license cc0-1.0", "wrote ");
    ck_assert(there("model.safetensors") && !there("model.pt"));
    text = card();
    ck_assert_ptr_nonnull(strstr(text, "license: cc0-1.0"));
    ck_assert_ptr_null(strstr(text, "license: mit"));
    free(text);
    begin();
    runs(0, "--base BASE --no-measure --format dit --no-pt --output OUT --format dit", "wrote ");
    ds_st *st = file("model.safetensors");
    float first[2][32 * 1001];
    int64_t shape[2] = {1001, 32}; /* classes, copies of the null row, the null row */
    const char *table = "y_embedder.embedding_table.weight";
    ck_assert_int_eq(ds_st_need_f32(st, table, 2, shape, first[0], NULL), 0);
    ds_st_free(st);
    begin();
    runs(0, COMMON "--no-measure --format dit --no-pt", "wrote ");
    st = file("model.safetensors");
    ck_assert_int_eq(ds_st_need_f32(st, table, 2, shape, first[1], NULL), 0);
    ds_st_free(st);
    ck_assert(memcmp(first[0], first[1], 32 * 4)); /* class 0 of the base, of the adapter */
    ck_assert(!memcmp(first[0] + 32000, first[1] + 32000, 32 * 4));
    ck_assert(!memcmp(first[1] + 3 * 32, first[1] + 32000, 32 * 4)); /* from the 4th on */
    begin();
    runs(0, COMMON "--format safetensors", "wrote ");
    ck_assert(there("adapter.safetensors") && !there("model.safetensors"));
    begin();
    runs(0, COMMON "--format safetensors --merge --license mine", "wrote ");
    ck_assert(there("model.safetensors") && !there("adapter.safetensors"));
    st = file("model.safetensors");
    ck_assert_str_eq(ds_st_meta(st, "diffscaler.license"), "mine");
    ck_assert_str_eq(ds_st_meta(st, "diffscaler.name"), "tiny-birds");
    ck_assert_ptr_nonnull(strstr(ds_st_meta(st, "diffscaler.config"), "\"classes\":3"));
    ds_st_free(st);
    begin();
    runs(0, COMMON "--format peft-like", "wrote ");
    ck_assert(!there("model.safetensors"));
    st = file("adapter_model.safetensors");
    ck_assert_str_eq(ds_st_meta(st, "format"), "pt");
    ds_st_free(st);
}
END_TEST

static const struct {
    const char *line, *words;
} wrong[] = {
    {"", "--base FILE is missing"},
    {"--base BASE -o OUT", "--format FORMAT is missing"},
    {"--base BASE --format dit", "-o DIR is missing"},
    {"--format dit -o OUT", "--base FILE is missing"},
    {"--base BASE -o OUT --format onnx", "onnx"},
    {"--base BASE -o OUT --format dit --dtype f16", "must be f32 or bf16"},
    {"--base BASE -o OUT --format dit --nonsense", "unexpected argument '--nonsense'"},
    {"--base BASE -o OUT --format", "--format needs a value"},
    {"--base BASE -o EMPTY --format dit", "needs a value"},
    {"--base BASE -o OUT --format dit --format diffusers", "given twice"},
    {"--base BASE -o OUT --format safetensors", "give one with --adapter"},
    {"--base BASE -o OUT --format peft-like", "give one with --adapter"},
    {COMMON "--format safetensors --dtype bf16", "--merge"},
    {COMMON "--format diffusers --no-pt", "--no-pt"},
    {COMMON "--format peft-like --merge", "--merge cannot be"},
    {"--base BASE -o - --format dit", "standard output is not"},
};

START_TEST(wrong_words_write_nothing) {
    begin();
    runs(2, wrong[_i].line, wrong[_i].words);
    ck_assert(!ds_fs_exists(out));
}
END_TEST

/* What an export wrote may be replaced where that is asked; nothing else. */
START_TEST(force_replaces_an_export_only) {
    char path[PATH_MAX];
    begin();
    runs(0, COMMON "--no-measure --format dit --no-pt", "wrote ");
    runs(4, COMMON "--format safetensors", "exists");
    ck_assert(there("model.safetensors"));
    runs(0, COMMON "--format safetensors --force", "wrote ");
    ck_assert(there("adapter.safetensors") && !there("model.safetensors")); /* all of it went */
    ds_fs_join(path, sizeof path, out, "README.md");
    ck_assert_int_eq(ds_fs_write(path, "mine", 4, NULL), 0);
    runs(4, COMMON "--format safetensors --force", "is no export");
    ck_assert_int_eq(unlink(path), 0);
    runs(4, COMMON "--format safetensors --force", "is no export");
    ck_assert(there("adapter.safetensors"));
    begin();
    ck_assert_int_eq(mkdir(out, 0755), 0); /* empty */
    runs(0, COMMON "--format safetensors --force", "wrote ");
    begin();
    runs(0, COMMON "--format safetensors --force", "wrote "); /* nothing is there */
}
END_TEST

static int entries(void) {
    DIR *d = opendir(ds_test_tmpdir());
    int n = 0;
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* The disk is full at any of its writes. */
START_TEST(a_full_disk_leaves_nothing) {
    static const char *const forms[] = {COMMON "--no-measure --format dit",
                                        COMMON "--no-measure --format diffusers",
                                        COMMON "--format safetensors", COMMON "--format peft-like",
                                        COMMON "--format safetensors --merge"};
    char n[16];
    int failed = 0, rc = 1;
    begin();
    runs(0, forms[_i], "wrote ");
    begin();
    int before = entries();
    for (int at = 1; at < 12; at++) {
        int over = !rc; /* there were no more writes */
        snprintf(n, sizeof n, "%d", at);
        setenv("DS_TEST_ENOSPC", n, 1);
        rc = command(forms[_i]);
        unsetenv("DS_TEST_ENOSPC");
        ck_assert_msg(!over || !rc, "write %d failed, the one before it was not looked at", at);
        failed += rc != 0;
        if (!rc) {
            begin();
            continue;
        }
        ck_assert_msg(rc == 75 && strstr(said, "No space left"), "exit %d: %s", rc, said);
        ck_assert_msg(!ds_fs_exists(out), "write %d", at);
        ck_assert_int_eq(entries(), before);
    }
    ck_assert_int_ge(failed, 1);
}
END_TEST

static void note(void *user, const char *line) { (void)user, (void)line; }

static int by_hand(enum ds_export_format format, int force, ds_error *err) {
    ds_export_options o = {.base = base_path,
                           .adapter = adapter_path,
                           .out_dir = out,
                           .format = format,
                           .force = force};
    return ds_export(&o, note, NULL, err);
}

/* Each file was synced before the folder got its name; a sync that fails is said, and leaves
 * nothing. */
START_TEST(an_export_is_synced) {
    static const struct {
        enum ds_export_format format;
        const char *file;
    } forms[] = {{DS_EXPORT_DIT, "/model.safetensors"},
                 {DS_EXPORT_DIFFUSERS, "/diffusion_pytorch_model.safetensors"},
                 {DS_EXPORT_SAFETENSORS, "/adapter.safetensors"},
                 {DS_EXPORT_PEFT, "/adapter_model.safetensors"}};
    ds_error err;
    begin();
    durable_begin();
    ck_assert_int_eq(by_hand(forms[_i].format, 0, &err), 0);
    if (_i < 2) /* the adapter is written under another name, and gets its own then */
        ck_assert_int_ge(durable_syncs_of(forms[_i].file), 1);
    int named = 0, syncs = 0;
    for (int i = 0; i < durable_count; i++) {
        syncs += durable_log[i].what == 's';
        named |= durable_log[i].what == 'r' && !strcmp(durable_log[i].to, out);
        ck_assert(!named || strcmp(durable_log[i].from, forms[_i].file));
    }
    ck_assert(named);
    for (int n = 1; n < syncs; n++) { /* the last one is of the folder that holds it */
        begin();
        durable_begin();
        durable_fail = n;
        ck_assert_int_eq(by_hand(forms[_i].format, 0, &err), DS_EIO);
        ck_assert_msg(!ds_fs_exists(out), "sync %d", n);
    }
}
END_TEST

/* A rename that fails: what was there is there. */
START_TEST(a_rename_that_fails_loses_nothing) {
    ds_error err;
    begin();
    durable_begin();
    ck_assert_int_eq(by_hand(DS_EXPORT_DIT, 0, &err), 0);
    int before = entries();
    for (int n = 1; n <= 8; n++) {
        durable_begin();
        ck_assert_int_eq(by_hand(DS_EXPORT_SAFETENSORS, 0, &err), DS_ECONFLICT);
        durable_fail_rename = n;
        int rc = by_hand(DS_EXPORT_SAFETENSORS, 1, &err);
        durable_begin();
        if (!rc)
            break;
        ck_assert_int_eq(rc, DS_EIO);
        ck_assert_msg(there("model.safetensors") && !there("adapter.safetensors"), "rename %d", n);
        ck_assert_int_eq(entries(), before);
    }
    ck_assert(there("adapter.safetensors") && !there("model.safetensors"));
    ck_assert_int_eq(entries(), before);
}
END_TEST

START_TEST(inputs_that_do_not_fit) {
    char path[PATH_MAX], line[3 * PATH_MAX], *bytes;
    size_t n;
    begin();
    in(path, "damaged.zst");
    ck_assert_int_eq(ds_fs_read(adapter_path, 1 << 20, &bytes, &n, NULL), 0);
    bytes[n / 2] ^= 1;
    ck_assert_int_eq(ds_fs_write(path, bytes, n, NULL), 0);
    snprintf(line, sizeof line, "--base BASE --adapter %s -o OUT --format dit", path);
    runs(9, line, "damaged");
    free(bytes);
    in(path, "other.safetensors");
    ds_base *b = diffusers_base();
    b->data[b->table.items[1].offset] += 1;
    ck_assert_int_eq(ds_base_save(b, path, 0, NULL, NULL), 0);
    ds_base_free(b);
    snprintf(line, sizeof line, "--base %s --adapter ADAPTER -o OUT --format dit", path);
    runs(9, line, "belongs to base");
    b = diffusers_base();
    b->data[b->table.items[0].offset] += 1; /* positions of its own */
    ck_assert_int_eq(ds_base_save(b, path, 0, NULL, NULL), 0);
    ds_base_free(b);
    snprintf(line, sizeof line, "--base %s -o OUT --format diffusers", path);
    runs(2, line, "position");
    runs(3, "--base /none/base --adapter ADAPTER -o OUT --format dit", "/none/base");
    runs(3, "--base BASE --adapter /none/a -o OUT --format dit", "/none/a");
    runs(3, COMMON "--format diffusers --vae /none/vae", "/none/vae");
    ck_assert(!ds_fs_exists(out));
}
END_TEST

/* A base as the test wants it, in place of the common one: the export's exit and words. */
static void of_base(ds_base *b, const char *format, int want, const char *words) {
    char path[PATH_MAX], line[2 * PATH_MAX];
    in(path, "own.safetensors");
    ck_assert_int_eq(ds_base_save(b, path, 0, NULL, NULL), 0);
    ds_base_free(b);
    begin();
    snprintf(line, sizeof line, "--base %s --no-measure -o OUT --format %s", path, format);
    runs(want, line, words);
    ck_assert_int_eq(ds_fs_exists(out), !want);
}

/* What diffusers cannot have: other features of time, another width of the MLP, other positions. */
START_TEST(bases_that_a_layout_cannot_hold) {
    ds_dit_config c = config;
    ds_base *b;
    ck_assert_int_eq(ds_dit_base_new(&b, &c, 3, NULL), 0);
    of_base(b, "diffusers", 2,
            "diffusers knows freq_dim 256 and mlp_ratio 4 only; this base has 64 and 4");
    c.freq_dim = 256;
    c.mlp_ratio = 2;
    ck_assert_int_eq(ds_dit_base_new(&b, &c, 3, NULL), 0);
    of_base(b, "diffusers", 2, "this base has 256 and 2: use format dit or safetensors");
    ck_assert_int_eq(ds_dit_base_new(&b, &c, 3, NULL), 0);
    of_base(b, "dit", 0, "wrote ");
    for (int i = 0; i < 4; i++) { /* positions on both sides of 1e-4 */
        static const float by[] = {5e-5f, -5e-5f, 2e-4f, -2e-4f};
        b = diffusers_base();
        b->data[b->table.items[0].offset + 7] += by[i];
        of_base(b, "diffusers", i < 2 ? 0 : 2,
                i < 2 ? "wrote " : "computes position embeddings itself");
    }
}
END_TEST

/* What was exported, imported, in a process of its own: devices of this one would be forked with
 * their threads missing.  0: its flow is this one. */
static int import_flow(const ds_flow *flow, const char *source) {
    char dir[PATH_MAX];
    ds_import_result r;
    ds_base *b;
    ds_error err;
    in(dir, "back");
    ds_import_options o = {.source = source, .out_dir = dir, .heads = config.heads};
    if (ds_import_base(&o, &r, &err) || ds_base_open(&b, r.file, NULL, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    const ds_flow *is = &b->facts.flow;
    return is->path != flow->path || is->to_data != flow->to_data || is->scale != flow->scale ||
           is->shift != flow->shift || b->facts.train_steps != 0;
}

static void comes_back_as(const ds_flow *flow, const char *file) {
    char source[PATH_MAX];
    int status;
    ds_fs_join(source, sizeof source, out, file);
    pid_t pid = fork();
    if (!pid)
        _exit(import_flow(flow, source));
    ck_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    ck_assert_msg(!WEXITSTATUS(status), "%s", source);
}

/* A base that predicts a velocity: every layout brings back what it is or refuses it, and the card
 * says it. */
START_TEST(a_flow_comes_back) {
    static const struct {
        ds_flow flow;
        const char *card, *refused;
    } cases[] = {
        {{DS_FLOW_LINEAR, 0, 1000, 1},
         "velocity (noise - data), linear path, time 0 to 1000",
         NULL},
        {{DS_FLOW_LINEAR, 0, 500, 3}, "linear path, time 0 to 500, 500 is noise", NULL},
        {{DS_FLOW_LINEAR, 0, 1, 1},
         "(1 - u) data + u noise",
         "linear path, noise - data and a time"},
        {{DS_FLOW_LINEAR, 1, 1, 1},
         "from models import SiT  # willisma/SiT\nmodel = SiT(input",
         "linear path, data - noise and a time of 0 to 1: use format dit"},
        {{DS_FLOW_LINEAR, 1, 1000, 1}, "from models import DiT  #", "data - noise"},
        {{DS_FLOW_GVP, 0, 1000, 1}, "cos(pi u / 2) data + sin(pi u / 2) noise", "the gvp path"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int k = 0; k < 3; k++) {
            static const char *const formats[] = {"dit", "safetensors --merge", "diffusers"},
                                     *const files[] = {"model.pt", "model.safetensors", ""};
            ds_base *b = diffusers_base();
            ds_dit_config *c = ds_dit_config_of(b);
            c->flow = cases[i].flow;
            c->train_steps = 0;
            c->beta_start = c->beta_end = 0;
            int refused = k == 2 && cases[i].refused;
            of_base(b, formats[k], refused ? 2 : 0, refused ? cases[i].refused : "wrote ");
            if (refused)
                continue;
            char *text = card();
            ck_assert_msg(k || strstr(text, cases[i].card), "%s", text);
            char shift[80];
            snprintf(shift, sizeof shift,
                     "u = s v / (1 + (s - 1) v) at even v, with the shift s = %g.",
                     cases[i].flow.shift);
            ck_assert_msg(strstr(text, shift) != NULL, "%s", text);
            ck_assert_ptr_null(strstr(text, "Noise schedule"));
            if (k == 2)
                ck_assert(strstr(text, "FlowMatchEulerDiscreteScheduler") &&
                          there("scheduler/scheduler_config.json") && !there("model_index.json"));
            free(text);
            comes_back_as(&cases[i].flow, files[k]);
        }
    }
}
END_TEST

/* A folder is a pipeline with an autoencoder and for noise only; the card shows what can be run. */
START_TEST(what_diffusers_can_run) {
    static const struct {
        int pixel, flow;
        const char *vae, *has, *has_not;
    } cases[] = {
        {1, 0, "", "is not for it.", "from diffusers import DiTPipeline"},
        {0, 0, "", "There is no autoencoder here; add one", "from diffusers import DiTPipeline"},
        {0, 0, VAE, "from diffusers import DiTPipeline", "DDIMScheduler"},
        {1, 1, "", "x is the picture, in [-1,1]", "DiTPipeline"},
        {0, 1, "", "x divided by the scale of the latents", "DiTPipeline"},
        {0, 1, VAE, "x divided by the scale of the latents", "DiTPipeline"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_dit_config c = config;
        ds_base *b;
        char format[100];
        c.freq_dim = 256;
        c.pixel = cases[i].pixel;
        c.channels = c.pixel ? 3 : 4;
        c.latent_scale = c.pixel ? 0 : 0.25;
        if (cases[i].flow) {
            c.flow = (ds_flow){DS_FLOW_LINEAR, 0, 1000, 1};
            c.train_steps = 0;
            c.beta_start = c.beta_end = 0;
        }
        ck_assert_int_eq(ds_dit_base_new(&b, &c, 3, NULL), 0);
        snprintf(format, sizeof format, "diffusers%s", cases[i].vae);
        of_base(b, format, 0, "wrote ");
        char *text = card();
        ck_assert_msg(strstr(text, cases[i].has) && !strstr(text, cases[i].has_not), "%zu: %s", i,
                      text);
        ck_assert_int_eq(there("vae/config.json"), *cases[i].vae != 0);
        ck_assert_int_eq(there("model_index.json"), *cases[i].vae && !cases[i].flow);
        ck_assert(there("scheduler/scheduler_config.json") && there("transformer/config.json"));
        free(text);
    }
}
END_TEST

/* How much what diffusers cannot hold changes is measured over the levels of the flow. */
START_TEST(the_effect_on_a_flow_is_measured) {
    char path[PATH_MAX], line[PATH_MAX + 64];
    ds_base *b = diffusers_base();
    ds_dit_config *c = ds_dit_config_of(b);
    c->flow = (ds_flow){DS_FLOW_LINEAR, 0, 1000, 1};
    c->train_steps = 0;
    c->beta_start = c->beta_end = 0;
    begin();
    in(path, "flow.safetensors");
    ck_assert_int_eq(ds_base_save(b, path, 0, NULL, NULL), 0);
    ds_base_free(b);
    snprintf(line, sizeof line, "--base %s -o OUT --format diffusers", path);
    runs(0, line, "the predicted velocity differs by ");
    double percent = strtod(strstr(said, "differs by ") + 11, NULL);
    ck_assert_msg(percent > 0.01 && percent < 200, "%g", percent);
}
END_TEST

START_TEST(numbers_that_are_not_finite) {
    static const char *const formats[] = {"dit", "dit --no-pt", "diffusers", "safetensors --merge",
                                          "dit --dtype bf16"};
    for (int i = 0; i < 5; i++) {
        ds_base *b = diffusers_base();
        b->data[b->table.items[i == 4 ? b->table.count - 2 : 3].offset] = i % 2 ? INFINITY : NAN;
        of_base(b, formats[i], 9, "holds a value that is not finite");
    }
}
END_TEST

/* From standard input it is the same adapter. */
START_TEST(an_adapter_from_standard_input) {
    char one[DS_HEX_SIZE], two[DS_HEX_SIZE], path[PATH_MAX];
    ds_fs_join(path, sizeof path, out, "adapter.safetensors");
    begin();
    runs(0, COMMON "--format safetensors", "wrote ");
    ck_assert_int_eq(ds_digest_file(path, one, NULL), 0);
    begin();
    runs(0, "--base BASE --adapter - -o OUT --format safetensors", "wrote ");
    ck_assert_int_eq(ds_digest_file(path, two, NULL), 0);
    ck_assert_str_eq(one, two);
    runs(0, "--help", "usage: diffscaler-worker export");
    runs(0, "-h", "--no-measure");
    runs(0, "--force --help --nonsense", "usage: diffscaler-worker export");
    runs(2, "--nonsense --help", "unexpected argument '--nonsense'");
}
END_TEST

/* What the peft-like folder says of itself. */
START_TEST(description_of_the_factors) {
    char path[PATH_MAX];
    json_t *doc;
    begin();
    runs(0, COMMON "--format peft-like", "wrote ");
    ds_fs_join(path, sizeof path, out, "adapter_config.json");
    ck_assert_int_eq(ds_json_read_file(path, 1 << 20, &doc, NULL), 0);
    ck_assert_str_eq(ds_json_string(doc, "peft_type", ""), "DIFFSCALER_AFFINER");
    ck_assert_str_eq(ds_json_string(doc, "base_model_name_or_path", ""), "tiny");
    ck_assert_str_eq(ds_json_string(doc, "side", ""), "out");
    ck_assert_str_eq(ds_json_string(doc, "phi", ""), "identity");
    ck_assert_str_eq(ds_json_string(doc, "formula", ""), "y = a * (W x) + bias + b + B phi(A x)");
    ck_assert(ds_json_int(doc, "r", 0) == 2 && ds_json_int(doc, "lora_alpha", 0) == 2 &&
              ds_json_int(doc, "null_row", 0) == 4);
    json_t *modules = json_object_get(doc, "target_modules");
    ck_assert_int_eq((int)json_array_size(modules), 2); /* q of the one block, and fc2 */
    ck_assert_str_eq(json_string_value(json_array_get(modules, 0)),
                     "transformer_blocks.0.attn1.to_q");
    ck_assert_str_eq(json_string_value(json_array_get(modules, 1)),
                     "transformer_blocks.0.ff.net.2");
    ck_assert_int_eq((int)json_array_size(json_object_get(doc, "classes")), CLASSES);
    json_decref(doc);
    ds_st *st = file("adapter_model.safetensors");
    static const struct {
        const char *name;
        int ndim;
        int64_t shape[2];
    } parts[] = {{"transformer_blocks.0.attn1.to_q.lora_A.weight", 2, {2, 32}},
                 {"transformer_blocks.0.attn1.to_q.lora_B.weight", 2, {32, 2}},
                 {"transformer_blocks.0.attn1.to_q.affiner_a", 1, {32}},
                 {"transformer_blocks.0.ff.net.2.lora_A.weight", 2, {2, 128}},
                 {"transformer_blocks.0.ff.net.2.affiner_b", 1, {32}},
                 {"class_embedder.rows", 2, {CLASSES, 32}}};
    const ds_st_tensor *t;
    for (int i = 0; i < 6; i++) {
        char name[120];
        ds_error err = {0};
        snprintf(name, sizeof name, "base_model.model.%s", parts[i].name);
        ck_assert_msg(!ds_st_need(st, name, parts[i].ndim, parts[i].shape, &t, &err), "%s",
                      err.message);
    }
    ck_assert_uint_eq(ds_st_count(st), 9); /* of each layer four, and the rows */
    ds_st_free(st);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_unchecked_fixture(tc, make_world, NULL);
    tcase_add_loop_test(tc, dtype_is_of_the_matrices, 0, 5);
    tcase_add_test(tc, options_change_the_files);
    tcase_add_loop_test(tc, wrong_words_write_nothing, 0, (int)(sizeof wrong / sizeof *wrong));
    tcase_add_test(tc, force_replaces_an_export_only);
    tcase_add_loop_test(tc, a_full_disk_leaves_nothing, 0, 5);
    tcase_add_loop_test(tc, an_export_is_synced, 0, 4);
    tcase_add_test(tc, a_rename_that_fails_loses_nothing);
    tcase_add_test(tc, inputs_that_do_not_fit);
    tcase_add_test(tc, bases_that_a_layout_cannot_hold);
    tcase_add_test(tc, a_flow_comes_back);
    tcase_add_test(tc, the_effect_on_a_flow_is_measured);
    tcase_add_test(tc, what_diffusers_can_run);
    tcase_add_test(tc, numbers_that_are_not_finite);
    tcase_add_test(tc, an_adapter_from_standard_input);
    tcase_add_test(tc, description_of_the_factors);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], DS_SANDBOX_ARG)) /* an import looks at pictures */
        return ds_decode_child_main();
    return ds_test_main("worker_export_options", cases);
}
