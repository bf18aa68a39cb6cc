/* tests/system/test_system_gate.c - the gate through the daemon: what is changed behind its back is
 * refused with the name of the task and the amount, and repeated runs without a change never are.
 */
#include "tests/fixtures/system_rig.h"

#include "engine/model/base_model.h"
#include "engine/files/safetensors.h"
#include "registry/registry.h"
#include "registry/store/blobs.h"

#include <math.h>
#include <sqlite3.h>

enum { REPEATS = SYS_SLOW ? 1 : 3, FLIPS = SYS_SLOW ? 200 : 1000, PULLS = SYS_SLOW ? 8 : 32 };

enum { PROBE, FULL }; /* what is recorded of the base's own classes */

/* A rig of its own with copies of base and feature network, and two published adapters. */
static void gate_rig(rig *r, const char *name, int datasets, int own) {
    ds_error err;
    rig_open(r, name);
    r->full_base_task = own == FULL;
    char base[200];
    snprintf(base, sizeof base, "%s/base.safetensors", r->dir);
    must(ds_fs_copy(r->base, base, &err), &err);
    memcpy(r->base, base, sizeof base);
    char *net = ds_xasprintf("%s/net.safetensors.zst", r->dir);
    must(ds_fs_copy(r->net, net, &err), &err);
    snprintf(r->net, sizeof r->net, "%s", net);
    free(net);
    rig_start(r);
    char *tiles = folder("tiles"), *stripes = folder("stripes");
    EXPECT(r, 0, "add-dataset", tiles, "--wait", QUICK);
    if (datasets > 1)
        EXPECT(r, 0, "add-dataset", stripes, "--wait", QUICK);
    free(tiles);
    free(stripes);
}

/* "FD 70.58 -> 99.12" in a text; 0: nowhere. */
static int amount_in(const char *text, double *before, double *now) {
    char *end;
    while ((text = strstr(text, "FD "))) {
        text += 3;
        *before = strtod(text, &end);
        if (end == text || strncmp(end, " -> ", 4))
            continue;
        text = end + 4;
        *now = strtod(text, &end);
        if (end != text)
            return 1;
    }
    return 0;
}

/* An amount was said: the second is a number and not the first. */
static void expect_amount(void) {
    double before = NAN, now = NAN;
    ck_assert_msg(amount_in(said.err, &before, &now) || amount_in(said.out, &before, &now),
                  "no amount in\n%s\n%s", said.out, said.err);
    ck_assert_msg(before > 0 && now > 0 && fabs(now - before) > 0.005, "FD %g -> %g is no amount",
                  before, now);
}

static void expect_latest(const rig *r, const char *name, const char *ref) {
    EXPECT(r, 0, "show-adapter", name, "--json");
    json_t *doc = said_json();
    ck_assert_str_eq(ds_json_string(doc, "ref", ""), ref);
    json_decref(doc);
}

START_TEST(same_things_never_refused) {
    rig r;
    gate_rig(&r, "same", 2, PROBE);
    for (int k = 0; k < REPEATS; k++) {
        EXPECT(&r, 0, "verify", "--all");
        EXPECT(&r, 0, "verify", "--all", "--full");
        EXPECT_SAID("passed");
        if (k == 0) {
            rig_close(&r);
            rig_start(&r);
        }
    }
    char *blobs = folder("blobs");
    EXPECT(&r, 0, "add-dataset", blobs, "--wait", "--verify", "full", QUICK);
    EXPECT_SAID("tiles@v1");
    EXPECT_SAID("stripes@v1");
    rig_close(&r);
    free(blobs);
}
END_TEST

/* The base with every weight a little larger: another function of the same shape. */
static void scale_base(const char *path) {
    ds_base *b;
    ds_error err;
    const char *const meta[] = {"diffscaler.name", "micro", NULL};
    must(ds_base_open(&b, path, NULL, &err), &err);
    for (size_t i = 0; i < b->table.total; i++)
        b->data[i] *= 1.25f;
    must(ds_base_save(b, path, 0, meta, &err), &err);
    ds_base_free(b);
}

START_TEST(changed_base) {
    rig r;
    gate_rig(&r, "base", 1, FULL);
    char *kept = ds_xasprintf("%s.kept", r.base), *stripes = folder("stripes");
    ds_error err;
    must(ds_fs_copy(r.base, kept, &err), &err);
    scale_base(r.base);
    EXPECT(&r, 9, "add-dataset", stripes, "--wait", QUICK);
    EXPECT_SAID("task 'base'"); /* its own classes suffer too, and most */
    EXPECT_SAID("has changed");
    expect_amount();
    EXPECT(&r, 8, "verify", "--all");
    EXPECT_SAID("tiles@v1");
    expect_amount();
    must(ds_fs_copy(kept, r.base, &err), &err);
    EXPECT(&r, 0, "verify", "--all");
    EXPECT(&r, 0, "add-dataset", stripes, "--wait", QUICK);
    EXPECT_SAID("stripes@v1");
    rig_close(&r);
    free(kept);
    free(stripes);
}
END_TEST

START_TEST(broken_feature_net) {
    rig r;
    gate_rig(&r, "net", 1, FULL);
    char *kept = ds_xasprintf("%s.kept", r.net), *stripes = folder("stripes"), *bytes, *z;
    size_t n, zn;
    ds_error err;
    must(ds_fs_copy(r.net, kept, &err), &err);
    /* damaged: cannot even be unpacked */
    must(ds_fs_read(kept, 1 << 28, &bytes, &n, &err), &err);
    bytes[n / 2] ^= 0x10;
    spit(r.net, bytes, n);
    free(bytes);
    EXPECT(&r, 9, "add-dataset", stripes, "--wait", QUICK);
    EXPECT_SAID("task 'base'"); /* its own classes suffer too, and most */
    EXPECT_SAID("feature network");
    EXPECT(&r, 8, "verify", "--all");
    EXPECT_SAID("tiles@v1");
    /* another network of the same shape: the last convolution's numbers with other signs */
    must(ds_zio_read_file(kept, 1 << 28, &bytes, &n, &err), &err);
    for (size_t i = n - n / 8 + n % 2; i < n; i += 4)
        bytes[i + 1] ^= (char)0x80;
    must(ds_zio_compress(bytes, n, 1, &z, &zn, &err), &err);
    spit(r.net, z, zn);
    free(bytes);
    free(z);
    EXPECT(&r, 8, "verify", "--all");
    EXPECT_SAID("tiles@v1");
    expect_amount();
    must(ds_fs_copy(kept, r.net, &err), &err);
    EXPECT(&r, 0, "add-dataset", stripes, "--wait", QUICK);
    EXPECT(&r, 0, "verify", "--all", "--full");
    rig_close(&r);
    free(kept);
    free(stripes);
}
END_TEST

/* Another adapter of the same shape under the old one's name: every F32 number times 4. */
static void perturb_adapter(const char *path) {
    char *bytes, *z;
    size_t n, zn;
    ds_error err;
    uint64_t header;
    must(ds_zio_read_file(path, 1 << 28, &bytes, &n, &err), &err);
    memcpy(&header, bytes, 8);
    ck_assert(header + 8 < n);
    int wide = strstr(bytes + 8, "\"F32\"") != NULL;
    for (size_t i = 8 + header; i + 4 <= n; i += wide ? 4 : 2) {
        uint32_t bits = 0;
        float f;
        memcpy((char *)&bits + (wide ? 0 : 2), bytes + i, wide ? 4 : 2);
        memcpy(&f, &bits, 4);
        f *= 4;
        memcpy(&bits, &f, 4);
        memcpy(bytes + i, (char *)&bits + (wide ? 0 : 2), wide ? 4 : 2);
    }
    must(ds_zio_compress(bytes, n, 3, &z, &zn, &err), &err);
    spit(path, z, zn);
    free(bytes);
    free(z);
}

START_TEST(perturbed_adapter) {
    rig r;
    gate_rig(&r, "adapter", 1, PROBE);
    char sha[DS_HEX_SIZE], blob[PATH_MAX], *kept = ds_xasprintf("%s/kept", r.dir),
                                           *stripes = folder("stripes"), *out = in_tmp("x.zst");
    ds_error err;
    adapter_digest(&r, "tiles", sha);
    blob_path(&r, sha, blob);
    must(ds_fs_copy(blob, kept, &err), &err);
    chmod(blob, 0644);
    perturb_adapter(blob);
    EXPECT(&r, 9, "add-dataset", stripes, "--wait", QUICK);
    EXPECT_SAID("tiles");
    EXPECT_SAID("damaged");
    expect_amount();
    EXPECT(&r, 8, "verify", "tiles");
    expect_amount();
    EXPECT(&r, 9, "pull-adapter", "tiles", "-o", out);
    ck_assert_msg(!ds_fs_exists(out), "a damaged adapter was written to '%s'", out);
    EXPECT(&r, 9, "sample", "tiles", "-n", "2", "-o", out);
    spit(blob, "no frame", 8);
    EXPECT(&r, 8, "verify", "tiles");
    EXPECT_SAID("task 'tiles'");
    EXPECT(&r, 9, "add-dataset", stripes, "--wait", QUICK);
    EXPECT_SAID("tiles");
    must(ds_fs_copy(kept, blob, &err), &err);
    EXPECT(&r, 0, "verify", "--all");
    rig_close(&r);
    free(kept);
    free(stripes);
    free(out);
}
END_TEST

/* All bytes are as registered, but the task is worse than what is recorded of it, as after a change
 * of device or engine: level 2 decides, the new adapter is kept as rejected, @latest stays. */
START_TEST(worse_than_recorded) {
    rig r;
    gate_rig(&r, "worse", 1, PROBE);
    char *stripes = folder("stripes"), file[256], *why = NULL;
    EXPECT(&r, 0, "add-dataset", stripes, "--wait", QUICK);
    rig_close(&r);
    snprintf(file, sizeof file, "%s/registry.db", r.state);
    sqlite3 *db;
    ck_assert_int_eq(sqlite3_open(file, &db), SQLITE_OK);
    sqlite3_stmt *q;
    ds_buf drop = {0};
    ck_assert_int_eq(sqlite3_prepare_v2(db,
                                        "SELECT name FROM sqlite_schema WHERE type = 'trigger' "
                                        "AND tbl_name IN ('adapter_versions', 'probes')",
                                        -1, &q, NULL),
                     SQLITE_OK);
    while (sqlite3_step(q) == SQLITE_ROW)
        ds_buf_addf(&drop, "DROP TRIGGER %s;", (const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    ds_buf_addf(&drop, "UPDATE adapter_versions SET fd = fd / 3 WHERE digest = (SELECT digest FROM "
                       "adapters_v1 WHERE ref = 'tiles@v1');"
                       "UPDATE probes SET sha256 = replace(sha256, substr(sha256, 1, 4), '0123');");
    ck_assert_msg(sqlite3_exec(db, drop.data, NULL, NULL, &why) == SQLITE_OK, "%s", why);
    sqlite3_close(db);
    ds_buf_release(&drop);
    rig_start(&r);
    EXPECT(&r, 8, "add-dataset", stripes, "--wait", "--seed", "2", QUICK);
    EXPECT_SAID("task 'tiles'");
    expect_amount();
    expect_latest(&r, "stripes", "stripes@v1");
    EXPECT(&r, 0, "list-adapters", "--status", "rejected");
    EXPECT_SAID("stripes@v2");
    EXPECT(&r, 0, "events", "--json");
    EXPECT_SAID("gate.refused");
    EXPECT(&r, 8, "verify", "tiles");
    rig_close(&r);
    free(stripes);
}
END_TEST

/* The gate protects a task from itself: a worse version is kept as rejected, with both numbers, a
 * force counts once, and the next version is judged by the best one again. */
#define GOOD "--steps", "60", "--lr", "0.005", MEASURED
#define BAD "--steps", "20", "--lr", "0.5", MEASURED
#define MEASURED "--batch", "8", "--n", "64", "--rank", "4", "--threads", "1"

START_TEST(worse_than_itself) {
    rig r;
    rig_open(&r, "itself");
    rig_start(&r);
    char *tiles = make_tiles("crowd", 2, 20); /* enough pictures for an interval */
    EXPECT(&r, 0, "add-dataset", tiles, "--wait", GOOD);
    EXPECT_SAID("published crowd@v1");
    EXPECT(&r, 0, "show-base");
    EXPECT_SAID("are recorded");
    EXPECT(&r, 8, "add-dataset", tiles, "--wait", BAD);
    EXPECT_SAID("crowd@v2 is worse than crowd@v1");
    EXPECT_SAID("--publish-worse");
    expect_amount();
    expect_latest(&r, "crowd", "crowd@v1");
    EXPECT(&r, 8, "add-dataset", tiles, "--wait"); /* the same again: the same answer */
    EXPECT_SAID("crowd@v2 is worse than crowd@v1");
    EXPECT(&r, 0, "add-dataset", tiles, "--wait", "--publish-worse");
    EXPECT_SAID("crowd@v3 was published by force");
    expect_latest(&r, "crowd", "crowd@v3");
    EXPECT(&r, 0, "events", "--json", "--type", "adapter.published");
    EXPECT_SAID("\"forced\": true");
    EXPECT_SAID("\"ref\": \"crowd@v1\"");
    EXPECT(&r, 0, "add-dataset", tiles, "--wait", "--publish-worse");
    EXPECT_SAID("nothing to force");
    /* the same adapter a third time: as good as @latest, and worse than the best one */
    EXPECT(&r, 8, "add-dataset", tiles, "--wait", "--verify", "full", BAD);
    EXPECT_SAID("crowd@v4 is worse than crowd@v1");
    EXPECT(&r, 0, "set-alias", "crowd", "latest", "v1");
    expect_latest(&r, "crowd", "crowd@v1");
    EXPECT(&r, 8, "set-alias", "crowd", "latest", "v2");
    EXPECT(&r, 0, "verify", "--all");
    EXPECT_SAID("base:");
    EXPECT(&r, 0, "report");
    EXPECT_SAID("do not degrade");
    rig_close(&r);
    free(tiles);
}
END_TEST

/* ---------------------------------------------------------------- flipped bits */

typedef struct {
    char sha[8][DS_HEX_SIZE];
    int n;
} blob_list;

static int collect_blob(void *ctx, const char *sha, int64_t age, int64_t bytes) {
    blob_list *l = ctx;
    (void)age, (void)bytes;
    if (l->n < 8)
        memcpy(l->sha[l->n++], sha, DS_HEX_SIZE);
    return 0;
}

static void flip(const char *path, size_t n, uint64_t which) {
    char byte;
    off_t at = (off_t)(which / 8 % n);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert(fd >= 0 && pread(fd, &byte, 1, at) == 1);
    byte = (char)(byte ^ (1 << which % 8));
    ck_assert(pwrite(fd, &byte, 1, at) == 1);
    close(fd);
}

static uint64_t some_bit(uint64_t seed, int i, size_t bytes) {
    return ds_rng_below((uint32_t)bytes * 8, seed, DS_STREAM_TEST, 0, (uint64_t)i, 0);
}

static size_t size_of(const char *path) {
    struct stat st;
    ck_assert_msg(!stat(path, &st), "no file '%s'", path);
    return (size_t)st.st_size;
}

/* Through the registry's own reading of every kind of blob that a job leaves. */
static void flips_in_store(const rig *r) {
    ds_registry *reg;
    ds_error err;
    blob_list list = {.n = 0};
    int refused = 0;
    must(ds_registry_open(r->state, &reg, &err), &err);
    must(ds_store_each(ds_registry_store(reg), collect_blob, &list, &err), &err);
    ck_assert_msg(list.n >= 3, "%d blobs: adapter, reference and manifest are expected", list.n);
    for (int i = 0; i < FLIPS; i++) {
        char path[PATH_MAX];
        blob_path(r, list.sha[i % list.n], path);
        size_t n = size_of(path);
        uint64_t which = some_bit(42, i, n);
        flip(path, n, which);
        int rc = ds_blob_check(reg, list.sha[i % list.n], &err);
        ck_assert_msg(rc == DS_EINTEGRITY, "blob %.12s with bit %llu flipped: %s",
                      list.sha[i % list.n], (unsigned long long)which,
                      rc ? err.message : "is accepted");
        flip(path, n, which);
        refused++;
    }
    must(ds_blobs_verify(reg, NULL, NULL, &err), &err);
    ds_registry_close(reg);
    printf("%d of %d flipped bits refused\n", refused, FLIPS);
}

START_TEST(flipped_bits) {
    rig r;
    gate_rig(&r, "flips", 1, PROBE);
    char sha[DS_HEX_SIZE], path[PATH_MAX], *out = in_tmp("flipped.zst");
    adapter_digest(&r, "tiles", sha);
    blob_path(&r, sha, path);
    chmod(path, 0644);
    size_t n = size_of(path);
    for (int i = 0; i < PULLS; i++) { /* the first bytes are the frame's header, where some bits do
                                         not change the content */
        uint64_t which = i % 4 ? some_bit(43, i, n) : 160 + some_bit(43, i, 2);
        flip(path, n, which);
        int got = dsctl(&r, "pull-adapter", "tiles", "-o", out, NULL);
        ck_assert_msg(got == 9 && !ds_fs_exists(out),
                      "pull with bit %llu of %zu flipped: exit %d\n%s", (unsigned long long)which,
                      n * 8, got, said.err);
        flip(path, n, which);
    }
    EXPECT(&r, 0, "pull-adapter", "tiles", "-o", out);
    rig_close(&r);
    flips_in_store(&r);
    free(out);
}
END_TEST

static void register_cases(TCase *tc) {
    feature_side = "171"; /* at which a bad training shows in the distance */
    system_fixture();
    free(make_tiles("tiles", 2, CLASS_IMAGES));
    tcase_add_test(tc, perturbed_adapter);
    if (SYS_SLOW) { /* the gate itself runs under sanitizers in test_worker_gate */
        ds_test_skip("system-gate",
                     "under sanitizers only perturbed_adapter: each other test is a minute");
        return;
    }
    tcase_add_test(tc, same_things_never_refused);
    tcase_add_test(tc, changed_base);
    tcase_add_test(tc, broken_feature_net);
    tcase_add_test(tc, worse_than_recorded);
    tcase_add_test(tc, worse_than_itself);
    tcase_add_test(tc, flipped_bits);
}

int main(int argc, char **argv) { return system_main(argc, argv, "system-gate", register_cases); }
