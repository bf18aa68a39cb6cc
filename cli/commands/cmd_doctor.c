/* cli/commands/cmd_doctor.c - checks of an installation, each with the way out.
 *
 * What the daemon would use is asked of `diffscalerd --check-config`, so that doctor and daemon
 * cannot look in different places.
 */
#include "base/digest.h"
#include "base/fs.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/zio.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/list.h"
#include "cli/commands/fsck.h"
#include "cli/start.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* NOTE: nothing is wrong, but there is something that people may want. */
typedef enum { OK, NOTE, WARN, FAIL } grade;

typedef struct {
    ds_cli *c;
    json_t *checks;
    int worst;
    json_t *status; /* of a running daemon, else NULL */
    char worker[PATH_MAX], base[PATH_MAX], feature_net[PATH_MAX];
} doctor;

static const double GIB = 1024.0 * 1024 * 1024;
static const size_t MAX_MODEL = (size_t)4 << 30;

static void report(doctor *d, grade g, const char *name, const char *fix, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

static void report(doctor *d, grade g, const char *name, const char *fix, const char *fmt, ...) {
    static const char *const words[] = {"ok", "note", "warn", "fail"};
    char detail[1200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    d->worst = (int)g > d->worst ? (int)g : d->worst;
    json_t *check = json_object();
    json_object_set_new(check, "name", json_string(name));
    json_object_set_new(check, "status", json_string(words[g]));
    json_object_set_new(check, "detail", json_string(detail));
    json_object_set_new(check, "fix", g == OK ? json_null() : json_string(fix));
    json_array_append_new(d->checks, check);
    ds_cli *c = d->c;
    if (c->json || (c->quiet && g <= NOTE))
        return;
    ds_style style = ds_style_of_state(words[g]);
    fprintf(c->out, "%s%-4s%s  %-12s  ", ds_style_on(c, style), words[g], ds_style_off(c, style),
            name);
    ds_put_clean(c, c->out, detail);
    fputc('\n', c->out);
    if (g != OK && *fix) {
        fprintf(c->out, "%*s", 20, "");
        ds_put_clean(c, c->out, fix);
        fputc('\n', c->out);
    }
    fflush(c->out);
}

static void check_daemon(doctor *d) {
    ds_error err = {0};
    ds_cli *c = d->c;
    char fix[PATH_MAX + 200];
    int rc = ds_client_call(c->http, "GET", "/v1/status", NULL, &d->status, &err);
    snprintf(fix, sizeof fix, "start it: diffscalerd --state '%s' (or dsctl add-dataset --start)",
             c->state);
    if (rc == DS_EUNREACHABLE) {
        report(d, FAIL, "daemon", fix, "not running at '%s'", c->socket);
        return;
    }
    if (rc) {
        report(d, FAIL, "daemon", "see its log", "%s", err.message);
        return;
    }
    const char *version = ds_json_string(d->status, "version", "?");
    if (strcmp(version, DS_VERSION))
        report(d, WARN, "daemon", "restart diffscalerd after an update", "version %s, dsctl is %s",
               version, DS_VERSION);
    else if (ds_daemon_ready(c, &err))
        report(d, WARN, "daemon", "wait, or see its log", "running but not ready: %s", err.message);
    else
        report(d, OK, "daemon", "", "version %s, pid %lld", version,
               (long long)ds_json_int(d->status, "pid", 0));
}

static void check_socket(doctor *d) {
    struct stat st;
    const char *path = d->c->socket;
    if (stat(path, &st)) {
        report(d, d->status ? WARN : FAIL, "socket", "it appears when diffscalerd runs",
               "'%s' is not there", path);
    } else if (!S_ISSOCK(st.st_mode)) {
        report(d, FAIL, "socket", "move that file away or name another with --socket",
               "'%s' is not a socket", path);
    } else if (st.st_mode & S_IWOTH) {
        report(d, WARN, "socket", "restart diffscalerd, or: chmod o-rwx SOCKET",
               "'%s' lets every user in (mode %04o)", path, st.st_mode & 07777u);
    } else if (access(path, R_OK | W_OK)) {
        report(d, FAIL, "socket", "join the group that owns it", "'%s' does not let you in", path);
    } else {
        report(d, OK, "socket", "", "'%s', mode %04o", path, st.st_mode & 07777u);
    }
}

static void check_state(doctor *d) {
    struct stat st;
    const char *path = d->c->state;
    char room[DS_TEXT];
    double left = (double)ds_fs_free_bytes(path);
    ds_fmt_bytes(room, left);
    if (stat(path, &st))
        report(d, WARN, "state", "it is made when diffscalerd starts", "'%s' is not there yet",
               path);
    else if (!S_ISDIR(st.st_mode))
        report(d, FAIL, "state", "move it away or give --state", "'%s' is not a folder", path);
    else if (access(path, R_OK | W_OK | X_OK))
        /* A system daemon's folder is none of this user's business. */
        report(d, d->status ? OK : FAIL, "state", "give a folder of your own with --state",
               "'%s' is not writable for you%s", path, d->status ? "; diffscalerd uses it" : "");
    else if (left >= 0 && left < 0.1 * GIB)
        report(d, FAIL, "state", "make room: jobs wait until there is some", "only %s free in '%s'",
               room, path);
    else if (left >= 0 && left < GIB)
        report(d, WARN, "state", "make room soon", "%s free in '%s'", room, path);
    else
        report(d, OK, "state", "", "'%s', %s free", path, room);
}

static void take_setting(const char *text, const char *key, char out[PATH_MAX]) {
    size_t n = strlen(key);
    out[0] = 0;
    for (const char *p = text; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        if (!strncmp(p, key, n) && !strncmp(p + n, " = ", 3) && p[n + 3] != '(') {
            snprintf(out, PATH_MAX, "%.*s", (int)strcspn(p + n + 3, "\n"), p + n + 3);
            return;
        }
}

static void check_config(doctor *d) {
    char program[PATH_MAX], *text = NULL;
    int status = 0;
    ds_error err = {0};
    if (ds_find_program("diffscalerd", program, &err)) {
        report(d, d->status ? WARN : FAIL, "program",
               "install diffscalerd beside dsctl, or put its folder into PATH", "%s", err.message);
        return;
    }
    char *argv[] = {program, "--state", d->c->state, "--check-config", NULL};
    int rc = ds_run_program(argv, 10, &text, &status, &err);
    if (rc || !WIFEXITED(status) || WEXITSTATUS(status)) {
        if (text)
            text[strcspn(text, "\n")] = 0;
        report(d, FAIL, "program", "see diffscalerd --help", "%s --check-config: %s", program,
               rc ? err.message : text);
    } else {
        report(d, OK, "program", "", "%s", program);
    }
    take_setting(text, "worker", d->worker);
    take_setting(text, "base", d->base);
    take_setting(text, "feature-net", d->feature_net);
    free(text);
}

static void check_worker(doctor *d) {
    char *text = NULL;
    int status = 0;
    ds_error err = {0};
    const char *fix = "install diffscaler-worker beside diffscalerd, or set DIFFSCALER_WORKER";
    if (!*d->worker && ds_find_program("diffscaler-worker", d->worker, &err)) {
        report(d, FAIL, "worker", fix, "%s", err.message);
        return;
    }
    char *argv[] = {d->worker, "--version", NULL};
    int rc = ds_run_program(argv, 10, &text, &status, &err);
    if (text)
        text[strcspn(text, "\n")] = 0;
    if (rc || !WIFEXITED(status) || WEXITSTATUS(status))
        report(d, FAIL, "worker", fix, "'%s --version' fails: %s", d->worker,
               rc ? err.message : text);
    else
        report(d, OK, "worker", "", "%s: %s", d->worker, text);
    free(text);
}

/* Opening a GPU loads NVIDIA's libraries, hence the time. */
static void check_gpu(doctor *d) {
    char *text = NULL, *argv[] = {d->worker, "devices", NULL};
    int status = 0;
    ds_error err = {0};
    if (!*d->worker)
        return;
    int rc = ds_run_program(argv, 60, &text, &status, &err);
    if (text)
        text[strcspn(text, "\n")] = 0;
    if (rc || !WIFEXITED(status) || WEXITSTATUS(status))
        report(d, WARN, "gpu", "device cpu works without", "'%s devices' fails: %s", d->worker,
               rc ? err.message : text);
    else
        report(d, OK, "gpu", "", "%s", text);
    free(text);
}

/* The identity of a model file: of its uncompressed content when it ends in .zst. */
static int model_digest(const char *path, char hex[DS_HEX_SIZE], ds_error *err) {
    size_t n = strlen(path), size = 0;
    if (n < 4 || strcmp(path + n - 4, ".zst"))
        return ds_digest_file(path, hex, err);
    char *data = NULL;
    int rc = ds_zio_read_file(path, MAX_MODEL, &data, &size, err);
    if (!rc)
        ds_digest(data, size, hex);
    free(data);
    return rc;
}

/* Registered beside another default, because a person chose that one. */
static int is_registered(doctor *d, const char *hex) {
    char path[100];
    json_t *base = NULL;
    snprintf(path, sizeof path, "/v1/bases/%s", hex);
    int rc = ds_client_call(d->c->http, "GET", path, NULL, &base, NULL);
    int known = !rc && !ds_json_bool(base, "removed", 0);
    json_decref(base);
    return known;
}

/* The default base lies beside this file, so an earlier version came with it. */
static int is_older_bundled(const json_t *base, const char *path) {
    const char *slash = strrchr(path, '/'), *other = ds_json_string(base, "path", "");
    size_t n = slash ? (size_t)(slash - path) + 1 : 0;
    return n && !strncmp(other, path, n) && !strchr(other + n, '/');
}

static void say_registered(doctor *d, const char *name, const char *path, const char *hex,
                           const char *want) {
    const json_t *base = json_object_get(d->status, "base");
    if (is_older_bundled(base, path))
        report(d, NOTE, name,
               "dsctl add-dataset DIR --base NAME takes it for one dataset; dsctl set-default-base "
               "NAME for all that follow the default, which are then trained anew",
               "a newer one comes with this version, '%s', sha256:%.12s...; this state keeps '%s', "
               "sha256:%.12s...",
               path, hex, ds_json_string(base, "name", "?"), want);
    else
        report(d, OK, name, "",
               "'%s', sha256:%.12s...; the default is another one, sha256:%.12s...", path, hex,
               want);
}

static void check_model(doctor *d, const char *name, const char *path, const char *member) {
    const char *want = ds_json_string(json_object_get(d->status, member), "sha256", NULL);
    char hex[DS_HEX_SIZE];
    ds_error err = {0};
    if (!*path)
        report(d, FAIL, name,
               "install the models (make install puts them into share/diffscaler/models), or name "
               "the file with --base, --feature-net of diffscalerd",
               "none found");
    else if (model_digest(path, hex, &err))
        report(d, FAIL, name, "install it again", "%s", err.message);
    else if (want && strcmp(want, hex) && !strcmp(member, "base") && is_registered(d, hex))
        say_registered(d, name, path, hex, want);
    else if (want && strcmp(want, hex))
        report(d, WARN, name, "restart diffscalerd if the file was replaced on purpose",
               "'%s' is sha256:%.12s..., the daemon uses sha256:%.12s...", path, hex, want);
    else
        report(d, OK, name, "", "'%s', sha256:%.12s...%s", path, hex,
               want ? ", as the daemon has it" : "");
}

static const char vae_places[] =
    "people use sd-vae-ft-ema (stabilityai, MIT): dsctl add-base SRC --vae ./sd-vae-ft-ema, with "
    "the SRC of that base";
static const char dit_places[] =
    "people use DiT-XL-2-256x256.pt of facebookresearch/DiT (CC-BY-NC 4.0: non-commercial) with "
    "sd-vae-ft-ema (MIT): dsctl add-base ./DiT-XL-2-256x256.pt --vae ./sd-vae-ft-ema";
static const char fid_places[] =
    "for FID as published, people use pt_inception-2015-12-05-6726825d.pth of pytorch-fid "
    "(Apache-2.0): dsctl add-feature-net ./pt_inception-2015-12-05-6726825d.pth";

/* The weights that the program cannot bring along: which are here, which are not. */
static void check_weights(doctor *d) {
    json_t *bases = NULL, *nets = NULL, *m;
    char *next = NULL;
    size_t i;
    int lacking = 0, brought = 0, published = 0;
    if (!d->status || ds_fetch_list(d->c, "/v1/bases", 0, &bases, &next, NULL))
        return;
    free(next);
    json_array_foreach(bases, i, m) {
        brought += ds_json_string(m, "source", NULL) != NULL;
        if (!json_array_size(json_object_get(m, "missing")))
            continue;
        lacking++;
        report(d, WARN, "vae", vae_places, "base '%s' works on latents and has no VAE",
               ds_json_string(m, "name", "?"));
    }
    if (!brought)
        report(d, NOTE, "weights", dit_places, "only the base that comes with the program");
    else if (!lacking)
        report(d, OK, "weights", "", "%zu base%s, none lacks its VAE", json_array_size(bases),
               json_array_size(bases) == 1 ? "" : "s");
    json_decref(bases);
    if (ds_fetch_list(d->c, "/v1/feature_nets", 0, &nets, &next, NULL))
        return;
    free(next);
    json_array_foreach(nets, i, m) {
        const char *path = ds_json_string(m, "path", "");
        int64_t users = ds_json_int(m, "adapters", 0);
        published += !strcmp(ds_json_string(m, "kind", ""), "inception-fid");
        if (access(path, R_OK) && (users || ds_json_bool(m, "default", 0)))
            report(d, FAIL, "network file", "bring it back with dsctl add-feature-net FILE",
                   "feature network '%s' is not where it was, '%s'; %lld adapters are measured "
                   "with it",
                   ds_json_string(m, "name", "?"), path, (long long)users);
    }
    if (published)
        report(d, OK, "fid network", "", "the network of published FID values is here");
    else
        report(d, NOTE, "fid network", fid_places, "only the network that comes with the program");
    json_decref(nets);
}

/* Jobs that are tried again and again: what keeps them from running is not their fault. */
static void check_waiting(doctor *d) {
    size_t i;
    const json_t *job;
    json_array_foreach(json_object_get(d->status, "waiting"), i, job) {
        const json_t *e = json_object_get(job, "error");
        report(d, WARN, "jobs", "make room or free memory as it says; it is tried again by itself",
               "job %lld (%s %s) could not run %lld times in a row: %s",
               (long long)ds_json_int(job, "id", 0), ds_json_string(job, "kind", ""),
               ds_json_string(job, "name", ""), (long long)ds_json_int(job, "postponed", 0),
               ds_json_string(e, "message", "no reason recorded"));
    }
}

/* A dataset stays "ready" when its training fails, so it has to be said where people look. */
static void check_trainings(doctor *d) {
    const json_t *failed = json_object_get(d->status, "failed_trainings"), *f;
    json_t *items = json_object_get(failed, "items");
    size_t i;
    json_array_foreach(items, i, f) {
        report(d, WARN, "trainings", "dsctl logs JOB; add-dataset again tries it once more",
               "that of %s failed (job %lld): %s", ds_json_string(f, "dataset", "?"),
               (long long)ds_json_int(f, "job", 0),
               ds_json_string(json_object_get(f, "error"), "message", "no reason recorded"));
    }
    int64_t more = ds_json_int(failed, "count", 0) - (int64_t)json_array_size(items);
    if (more > 0)
        report(d, WARN, "trainings", "dsctl list-datasets shows them", "%lld more failed",
               (long long)more);
}

/* The quick part of fsck: what shows without reading the files. */
static void check_store(doctor *d) {
    json_t *doc = NULL, *f;
    ds_error err;
    size_t i;
    if (ds_fsck_ask(d->c, 1, 0, &doc, &err)) {
        if (err.code != DS_ENOTFOUND) /* nothing has been stored yet */
            report(d, WARN, "store", "see the message", "%s", err.message);
        return;
    }
    json_array_foreach(json_object_get(doc, "findings"), i, f) {
        if (ds_json_bool(f, "damage", 0))
            report(d, FAIL, "store", ds_json_string(f, "way_out", ""), "%s: %s",
                   ds_json_string(f, "thing", "?"), ds_json_string(f, "cause", "?"));
    }
    if (!ds_json_int(doc, "damage", 0))
        report(d, OK, "store", "", "%lld blobs and all rows fit together (dsctl fsck reads them)",
               (long long)ds_json_int(json_object_get(doc, "checked"), "blobs", 0));
    json_decref(doc);
}

/* Names from before some were reserved: they work, but are easily read as something else. */
static void check_names(doctor *d) {
    json_t *items = NULL, *item, *n;
    char *next = NULL;
    size_t i, k;
    if (!d->status || ds_fetch_list(d->c, "/v1/datasets", 0, &items, &next, NULL))
        return;
    json_array_foreach(items, i, item) {
        json_array_foreach(json_object_get(item, "notes"), k, n)
            if (json_is_string(n))
                report(d, NOTE, "datasets", "", "%s: %s", ds_json_string(item, "name", "?"),
                       json_string_value(n));
    }
    free(next);
    json_decref(items);
}

/* The flags line of the first processor, with a space at both ends; "" when there is none. */
static void cpu_flags(char *out, size_t size) {
    FILE *f = fopen("/proc/cpuinfo", "re");
    out[0] = 0;
    while (f && fgets(out, (int)size, f) && strncmp(out, "flags\t", 6))
        out[0] = 0;
    if (f)
        fclose(f);
    char *end = strchr(out, '\n');
    if (end)
        *end = ' ';
}

static void check_cpu(doctor *d) {
    static const struct {
        const char *flag, *name;
    } sets[] = {{" avx2 ", "AVX2"}, {" avx512bw ", "AVX-512"}, {" avx512_bf16 ", "AVX-512-BF16"}};
    char flags[8192] = "";
    ds_buf have = {0};
    cpu_flags(flags, sizeof flags);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (strstr(flags, sets[i].flag))
            ds_buf_addf(&have, ", %s", sets[i].name);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    if (have.len)
        report(d, OK, "cpu", "", "%ld processors%s", n, have.data);
    else
        report(d, WARN, "cpu", "training works, but many times slower than on a CPU with AVX2",
               "%ld processors, no AVX2", n);
    ds_buf_release(&have);
}

/* Of the daemon, whose workers inherit it; without one, of whoever would start it. */
static void check_memory_limit(doctor *d) {
    int64_t mib = ds_address_limit_mib(ds_json_int(d->status, "pid", 0));
    if (mib)
        report(d, FAIL, "memory limit",
               "start diffscalerd without that limit (ulimit -v unlimited; LimitAS= of its unit)",
               "the address space is limited to %lld MiB; decoding pictures needs %lld",
               (long long)mib, (long long)(DS_DECODER_MEMORY >> 20));
}

static long long limit_of(const char *name) {
    char path[128], text[64] = "";
    snprintf(path, sizeof path, "/proc/sys/fs/inotify/%s", name);
    FILE *f = fopen(path, "re");
    int read = f && fgets(text, sizeof text, f);
    if (f)
        fclose(f);
    return read ? strtoll(text, NULL, 10) : -1;
}

static void check_inotify(doctor *d) {
    long long watches = limit_of("max_user_watches"), queue = limit_of("max_queued_events");
    if (watches < 0)
        report(d, WARN, "inotify", "folders are still scanned every few minutes",
               "its limits cannot be read");
    else if (watches < 65536)
        report(d, WARN, "inotify",
               "sysctl fs.inotify.max_user_watches=524288 (needed: one per folder with images); "
               "without it folders are only scanned every few minutes",
               "max_user_watches is %lld", watches);
    else
        report(d, OK, "inotify", "", "%lld watches, %lld queued events", watches, queue);
}

int ds_cmd_doctor(ds_cli *c, ds_error *err) {
    doctor *d = ds_xcalloc(1, sizeof *d);
    d->c = c;
    d->checks = json_array();
    check_daemon(d);
    check_socket(d);
    check_state(d);
    check_config(d);
    check_worker(d);
    check_gpu(d);
    check_model(d, "base", d->base, "base");
    check_model(d, "feature net", d->feature_net, "feature_net");
    check_weights(d);
    check_waiting(d);
    check_trainings(d);
    check_names(d);
    check_store(d);
    check_memory_limit(d);
    check_cpu(d);
    check_inotify(d);
    int failed = d->worst == FAIL;
    if (c->json) {
        json_t *doc = json_object();
        json_object_set_new(doc, "ok", json_boolean(!failed));
        json_object_set(doc, "checks", d->checks);
        ds_print_json(c, "doctor", doc, 0);
        json_decref(doc);
    }
    json_decref(d->checks);
    json_decref(d->status);
    free(d);
    return failed ? ds_fail(err, DS_EFAILED, "a check failed") : 0;
}
