/* tests/system/test_system_disk.c - a disk that is full while a job prepares, trains, evaluates or is
 * published: the job waits, goes on when there is space again, and ends with the adapter of a job
 * that nobody disturbed.  The disks are small file systems in memory, mounted in a name space of
 * our own. */
#include "tests/fixtures/system_rig.h"

#include "registry/registry.h"
#include "registry/store/blobs.h"

#include <ftw.h>
#include <sched.h>
#include <sys/mount.h>

enum when { NEVER, PREPARE, TRAIN, EVALUATE, PUBLISH, WHENS };
enum step { WAITING, STOPPED, FILLED, HOLDING, RELEASED, FINISHED };

static const char *const when_names[WHENS] = {"never", "prepare", "train", "evaluate", "publish"};

typedef struct {
    rig r;
    enum when when;
    enum step step;
    double since;
    char digest[DS_HEX_SIZE];
} victim;

/* ---------------------------------------------------------------- a disk of our own */

static int write_text(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* 1 when this process may mount from now on, without anybody else seeing it. */
static int own_mounts(void) {
    char map[64];
    uid_t uid = geteuid();
    gid_t gid = getegid();
    if (!uid)
        return !unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS))
        return 0;
    write_text("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %u 1", (unsigned)gid);
    write_text("/proc/self/gid_map", map);
    snprintf(map, sizeof map, "0 %u 1", (unsigned)uid);
    return write_text("/proc/self/uid_map", map) &&
           !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static int small_disk(const char *dir) {
    ds_error err;
    must(ds_fs_mkdirs(dir, &err), &err);
    return !mount("tmpfs", dir, "tmpfs", 0, "size=24m,mode=0755");
}

static void ballast_path(const rig *r, char out[256]) {
    snprintf(out, 256, "%s/ballast", r->state);
}

/* Not one more page. */
static void fill(const rig *r) {
    char path[256];
    static char block[65536];
    ballast_path(r, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert(fd >= 0);
    for (size_t n = sizeof block; n >= 1;) {
        ssize_t k = write(fd, block, n);
        if (k <= 0)
            n /= 2;
    }
    close(fd);
}

static void release(const rig *r) {
    char path[256];
    ballast_path(r, path);
    ck_assert(!unlink(path));
}

/* ---------------------------------------------------------------- the stages of a job */

static int said_in(const rig *r, const char *file, const char *text) {
    char dir[300], path[320];
    if (!train_dir(r, dir))
        return 0;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    char *content = slurp(path);
    int found = strstr(content, text) != NULL;
    free(content);
    return found;
}

static int has_result(const rig *r) {
    char dir[300], path[320];
    if (!train_dir(r, dir))
        return 0;
    snprintf(path, sizeof path, "%s/result.json", dir);
    return ds_fs_exists(path);
}

/* The moment to fill the disk has come. */
static int is_time(const victim *v) {
    char dir[300];
    switch (v->when) {
    case PREPARE: return train_dir(&v->r, dir);
    case TRAIN: return said_in(&v->r, "events.ndjson", "\"type\":\"checkpoint\"");
    case EVALUATE:
    case PUBLISH: return said_in(&v->r, "events.ndjson", "\"stage\":\"evaluate\"");
    default: return 0;
    }
}

/* The worker or the daemon has met the full disk. */
static int has_noticed(const rig *r) {
    char *log = slurp(r->log);
    int noticed = strstr(log, "o space left") || strstr(log, "is full");
    free(log);
    if (noticed)
        return 1;
    json_t *job = newest_job(r, "train", "tiles");
    noticed = !strcmp(ds_json_string(json_object_get(job, "error"), "code", ""), "DS_ENOSPC");
    json_decref(job);
    return noticed;
}

static void go(victim *v, enum step to) {
    v->step = to;
    v->since = ds_monotonic();
}

static void add_main(const rig *r) {
    char *tiles = folder("tiles"), body[1024];
    snprintf(
        body, sizeof body,
        "{\"path\":\"%s\",\"name\":\"tiles\",\"options\":{\"steps\":%d,\"batch\":8,\"lr\":0.005,"
        "\"checkpoint_every\":20,\"heldout_every\":500,\"n\":%s,\"rank\":4,\"threads\":1}}",
        tiles, SYS_SLOW ? 200 : 2000, QUICK_N);
    ck_assert_int_eq(call(r, "POST", "/v1/datasets", body, NULL), 201);
    free(tiles);
}

static void finish(victim *v) {
    json_t *job = newest_job(&v->r, "train", "tiles");
    const char *state = ds_json_string(job, "state", "");
    if (!strcmp(state, "done")) {
        adapter_digest(&v->r, "tiles@v1", v->digest);
        go(v, FINISHED);
    } else if (job && strcmp(state, "queued") && strcmp(state, "running")) { /* none: the scan */
        show_daemon_log(&v->r);
        ck_abort_msg("full while %s: the job is %s", when_names[v->when], state);
    }
    json_decref(job);
}

/* Reading must work on a full disk; what is acknowledged must be kept, the rest refused with 507.
 */
static void use_while_full(const victim *v) {
    char *blobs = folder("blobs");
    EXPECT(&v->r, 0, "list-datasets");
    EXPECT_SAID("tiles");
    int code = dsctl(&v->r, "add-dataset", blobs, "--name", "late", QUICK, NULL);
    ck_assert_msg(code == 0 || code == 75, "add-dataset on a full disk: exit %d\n%s%s", code,
                  said.out, said.err);
    if (code)
        EXPECT_SAID("no space left");
    int acknowledged = !code;
    EXPECT(&v->r, 0, "list-datasets");
    ck_assert_msg(!acknowledged || strstr(said.out, "late"), "the dataset 'late' is lost");
    free(blobs);
}

static void advance(victim *v) {
    switch (v->step) {
    case WAITING:
        if (v->when == NEVER)
            finish(v);
        else if (is_time(v)) {
            if (v->when == PUBLISH) {
                kill(v->r.pid, SIGSTOP);
                go(v, STOPPED);
            } else {
                fill(&v->r);
                go(v, FILLED);
            }
        }
        break;
    case STOPPED: /* the result is whole, the daemon has not looked at it yet */
        if (!has_result(&v->r) || find_worker(&v->r))
            break;
        fill(&v->r);
        kill(v->r.pid, SIGCONT);
        go(v, FILLED);
        break;
    case FILLED:
        if (has_noticed(&v->r))
            go(v, HOLDING);
        break;
    case HOLDING:
        if (ds_monotonic() - v->since < 1.5)
            break;
        if (v->when == TRAIN)
            use_while_full(v);
        release(&v->r);
        go(v, RELEASED);
        break;
    case RELEASED: finish(v); break;
    case FINISHED: break;
    }
}

/* ---------------------------------------------------------------- the test */

static char leftover[PATH_MAX];

static int look_for_leftovers(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    size_t n = strlen(path);
    (void)st, (void)ftw;
    if (flag == FTW_F && ((n > 4 && !strcmp(path + n - 4, ".tmp")) || strstr(path, "/blobs/tmp/")))
        snprintf(leftover, sizeof leftover, "%s", path);
    return 0;
}

static void check_after(const victim *v) {
    ds_registry *reg;
    ds_error err;
    nftw(v->r.state, look_for_leftovers, 16, FTW_PHYS);
    ck_assert_msg(!*leftover, "full while %s: '%s' is left", when_names[v->when], leftover);
    must(ds_registry_open(v->r.state, &reg, &err), &err);
    int rc = ds_registry_check(reg, &err);
    if (!rc)
        rc = ds_blobs_verify(reg, NULL, NULL, &err);
    ds_registry_close(reg);
    ck_assert_msg(!rc, "full while %s: %s", when_names[v->when], err.message);
}

static int all_finished(const victim *v) {
    for (int i = 0; i < WHENS; i++)
        if (v[i].step != FINISHED)
            return 0;
    return 1;
}

START_TEST(full_disks) {
    static victim victims[WHENS];
    if (!own_mounts()) {
        ds_test_skip("full_disks", "no private mount name space for this user");
        return;
    }
    for (int i = 0; i < WHENS; i++) {
        victim *v = &victims[i];
        v->when = (enum when)i;
        rig_open(&v->r, when_names[i]);
        if (!small_disk(v->r.state)) {
            ds_test_skip("full_disks", "no tmpfs can be mounted");
            return;
        }
        rig_start(&v->r);
    }
    /* all at once, and looked at from then on: a job takes two seconds, as starting the others may */
    for (int i = 0; i < WHENS; i++) {
        add_main(&victims[i].r);
        go(&victims[i], WAITING);
    }
    for (double end = ds_monotonic() + 250; !all_finished(victims); usleep(2000)) {
        for (int i = 0; i < WHENS; i++)
            advance(&victims[i]);
        if (ds_monotonic() < end)
            continue;
        for (int i = 0; i < WHENS; i++)
            if (victims[i].step != FINISHED) {
                show_daemon_log(&victims[i].r);
                ck_abort_msg("full while %s: stuck in step %d", when_names[i], victims[i].step);
            }
    }
    for (int i = 0; i < WHENS; i++) {
        ck_assert_msg(!strcmp(victims[i].digest, victims[NEVER].digest),
                      "full while %s: the adapter is %.12s, undisturbed it is %.12s", when_names[i],
                      victims[i].digest, victims[NEVER].digest);
        rig_close(&victims[i].r);
        check_after(&victims[i]);
    }
}
END_TEST

static void register_cases(TCase *tc) {
    system_fixture();
    free(make_tiles("tiles", 2, CLASS_IMAGES));
    tcase_add_test(tc, full_disks);
}

int main(int argc, char **argv) { return system_main(argc, argv, "system-disk", register_cases); }
