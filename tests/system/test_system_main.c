/* tests/system/test_system_main.c - the main job from the command line to the file that anyone can open.
 */
#include "base/png_write.h"
#include "engine/metrics/npz.h"
#include "tests/fixtures/system_rig.h"

#include <math.h>
#include <sqlite3.h>

static rig r;

static void must_add(const char *name, const char *dir) {
    EXPECT(&r, 0, "add-dataset", dir, "--name", name, "--wait", QUICK);
}

/* Member of an item in a list of --json, found by another member. */
static json_t *item_of(json_t *doc, const char *key, const char *value) {
    json_t *item;
    size_t i;
    json_array_foreach(json_object_get(doc, "items"), i, item) {
        if (!strcmp(ds_json_string(item, key, ""), value))
            return item;
    }
    ck_abort_msg("no item with %s = %s in %s", key, value, said.out);
    return NULL;
}

static const char reader[] =
    "import json,struct,sys\n"
    "d=open(sys.argv[1],'rb').read()\n"
    "n=struct.unpack('<Q',d[:8])[0]\n"
    "h=json.loads(d[8:8+n])\n"
    "m=h.pop('__metadata__')\n"
    "assert all(isinstance(k,str) and isinstance(v,str) for k,v in m.items()),m\n"
    "size={'F32':4,'BF16':2,'F16':2}\n"
    "at=0\n"
    "for k,v in sorted(h.items(),key=lambda x:x[1]['data_offsets']):\n"
    "  b,e=v['data_offsets']\n"
    "  c=1\n"
    "  for s in v['shape']: c*=s\n"
    "  assert b==at and e-b==c*size[v['dtype']],(k,v,at)\n"
    "  at=e\n"
    "assert 8+n+at==len(d),(n,at,len(d))\n"
    "x=json.loads(m['diffscaler'])\n"
    "print(len(h),'tensors',x['name'],x['base']['sha256'] if isinstance(x['base'],dict) else "
    "x['base'])\n";

/* The pulled file is the registered one, and readers that know nothing of us open it. */
static void check_pulled(const char *ref) {
    char digest[DS_HEX_SIZE], sum[128], *file = in_tmp("pulled.zst"), *script = in_tmp("reader.py");
    adapter_digest(&r, ref, digest);
    ck_assert_msg(ds_digest_valid(digest), "%s has the digest '%s'", ref, digest);
    EXPECT(&r, 0, "pull-adapter", ref, "-o", file);
    if (!have_program("zstd")) {
        ds_test_skip("pulled adapter through zstd", "no program zstd");
        return;
    }
    EXPECT_SHELL(&r, "zstd -dc '%s' >'%s.raw' && sha256sum <'%s.raw'", file, file, file);
    snprintf(sum, sizeof sum, "%s  -\n", digest);
    ck_assert_str_eq(said.out, sum);
    if (!have_program("python3")) {
        ds_test_skip("pulled adapter through Python", "no program python3");
        return;
    }
    spit(script, reader, sizeof reader - 1);
    EXPECT_SHELL(&r, "python3 '%s' '%s.raw'", script, file);
    EXPECT_SAID("tensors tiles");
    free(file);
    free(script);
}

static void check_reading_commands(void) {
    EXPECT(&r, 0, "list-datasets", "--json");
    json_t *doc = said_json(), *d = item_of(doc, "name", "tiles");
    ck_assert_str_eq(ds_json_string(d, "state", ""), "ready");
    ck_assert_str_eq(ds_json_string(d, "adapter", ""), "tiles@v1");
    json_decref(doc);
    EXPECT(&r, 0, "show-dataset", "tiles", "--json");
    doc = said_json();
    const json_t *v = json_object_get(doc, "version");
    ck_assert_int_eq(ds_json_int(v, "images", 0), 2 * CLASS_IMAGES);
    ck_assert_int_eq(ds_json_int(v, "classes", 0), 2);
    char tree[DS_HEX_SIZE + 8];
    snprintf(tree, sizeof tree, "%s  -", ds_json_string(v, "tree_digest", "?"));
    json_decref(doc);
    EXPECT_SHELL(&r, "'%s' show-dataset tiles --manifest | sha256sum", program("dsctl"));
    EXPECT_SAID(tree);
    EXPECT(&r, 0, "list-adapters", "--json");
    doc = said_json();
    const json_t *a = item_of(doc, "ref", "tiles@v1");
    ck_assert_str_eq(ds_json_string(a, "status", ""), "published");
    double fd = ds_json_number(a, "fd", NAN), base = ds_json_number(a, "fd_base", NAN);
    ck_assert_msg(fd > 0 && base > 0, "FD of the adapter is %g, that of the base %g", fd, base);
    json_decref(doc);
    EXPECT(&r, 0, "list-adapters");
    EXPECT_SAID("tiles@v1");
    EXPECT(&r, 0, "show-adapter", "tiles");
    EXPECT(&r, 0, "list-evaluations", "--adapter", "tiles@v1", "--json");
    doc = said_json();
    double now = ds_json_number(item_of(doc, "metric", "heldout_loss"), "value", NAN),
           start = ds_json_number(item_of(doc, "metric", "heldout_loss_start"), "value", NAN);
    ck_assert_msg(now < 0.98 * start, "held-out loss %g -> %g: nothing was learnt", start, now);
    ck_assert_int_eq(ds_json_int(item_of(doc, "metric", "fd"), "n_fake", 0), SYS_SLOW ? 4 : 8);
    json_decref(doc);
    EXPECT(&r, 0, "list-jobs");
    EXPECT(&r, 0, "status");
    EXPECT(&r, 0, "events", "--json");
    EXPECT_SAID("adapter.published");
    EXPECT(&r, 3, "show-adapter", "bubbles");
    EXPECT_SAID("bubbles");
}

/* A folder and an .npz file of the same seed hold the same pictures. */
static void check_single_pictures(void) {
    char *dir = in_tmp("single/"), *npz = in_tmp("single.npz"), *png, *bytes;
    ds_npz_pictures *p;
    ds_error err;
    size_t n;
    static const int name_of[] = {0, 1, 0};
    EXPECT(&r, 0, "sample", "tiles", "-n", "3", "--steps", "2", "-o", dir);
    EXPECT(&r, 0, "sample", "tiles", "-n", "3", "--steps", "2", "-o", npz);
    must(ds_npz_pictures_open(npz, &p, &err), &err);
    ck_assert_int_eq(ds_npz_pictures_count(p), 3);
    int w = ds_npz_pictures_width(p), h = ds_npz_pictures_height(p);
    uint8_t *rgb = ds_xmalloc((size_t)w * (size_t)h * 3);
    for (int i = 0; i < 3; i++) {
        must(ds_npz_pictures_next(p, rgb, &err), &err);
        must(ds_png_encode(rgb, w, h, &png, &n, &err), &err);
        char *path = ds_xasprintf("%s0000%d-class-%d.png", dir, i, name_of[i]);
        bytes = slurp(path);
        ck_assert_msg(!memcmp(bytes, png, n), "'%s' is another picture", path);
        free(bytes);
        free(path);
        free(png);
    }
    ds_npz_pictures_close(p);
    EXPECT(&r, 4, "sample", "tiles", "-o", dir);
    EXPECT(&r, 4, "sample", "tiles", "-o", npz);
    free(rgb);
    free(dir);
    free(npz);
}

static void check_sample(void) {
    char *png = in_tmp("grid.png");
    EXPECT(&r, 0, "sample", "tiles", "-n", "4", "--class", "class-1", "--steps", "5", "-o", png);
    char *bytes = slurp(png);
    ck_assert_msg(!memcmp(bytes, "\x89PNG\r\n\x1a\n", 8), "sample wrote no PNG");
    free(bytes);
    check_single_pictures();
    EXPECT(&r, 0, "sample", "base", "-n", "2", "--steps", "3", "-f", "-o", png);
    EXPECT(&r, 2, "sample", "tiles", "-n", "4", "--class", "hot", "-f", "-o", png);
    EXPECT_SAID("hot");
    free(png);
}

static void check_report(void) {
    char *file = in_tmp("report.json");
    EXPECT(&r, 0, "report", "-o", file);
    json_t *doc = NULL, *row, *task;
    ds_error err;
    must(ds_json_read_file(file, 1 << 20, &doc, &err), &err);
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "datasets")), 2);
    row = json_array_get(json_object_get(doc, "datasets"), 1);
    ck_assert_str_eq(ds_json_string(row, "name", ""), "stripes");
    static const char *const numbers[] = {
        "images",           "classes",       "steps",       "fd_base",   "n",
        "fd_adapter",       "train_seconds", "kid_adapter", "raw_bytes", "stored_bytes",
        "images_per_second"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        ck_assert_msg(json_is_number(json_object_get(row, numbers[i])), "report: no number '%s'",
                      numbers[i]);
    task = json_array_get(json_object_get(row, "old_tasks"), 0); /* the base's own samples */
    ck_assert_str_eq(ds_json_string(task, "name", ""), "base");
    ck_assert_int_eq(ds_json_int(task, "level", 0), 1);
    task = json_array_get(json_object_get(row, "old_tasks"), 1);
    ck_assert_str_eq(ds_json_string(task, "name", ""), "tiles");
    ck_assert_int_eq(ds_json_int(task, "level", 0), 1);
    ck_assert(json_is_true(json_object_get(task, "unchanged")));
    ck_assert(ds_json_number(task, "fd_now", -1) == ds_json_number(task, "fd_recorded", -2));
    json_decref(doc);
    free(file);
}

/* Either signal ends what follows in order, not by the signal itself. */
static void check_interrupts(void) {
    static const char *const signals[] = {"TERM", "INT"};
    char *out = in_tmp("followed");
    for (int i = 0; i < 2; i++) {
        int code = shell(&r,
                         "rm -f '%s'; %s events --follow --since 0 >'%s' & p=$!; n=0; while "
                         "! test -s '%s' && test $n -lt 1000; do sleep 0.05; n=$((n + 1)); done; "
                         "kill -%s $p; wait $p",
                         out, program("dsctl"), out, out, signals[i]);
        ck_assert_msg(code == 130, "SIG%s: %d %s", signals[i], code, said.err);
    }
    free(out);
}

START_TEST(from_folder_to_file) {
    char *tiles = make_tiles("tiles", 2, CLASS_IMAGES), *stripes = folder("stripes");
    must_add("tiles", tiles);
    EXPECT_SAID("published tiles@v1");
    check_reading_commands();
    check_interrupts();
    check_pulled("tiles@v1");
    check_sample();
    char before[DS_HEX_SIZE], after[DS_HEX_SIZE];
    adapter_digest(&r, "tiles@v1", before);
    must_add("stripes", stripes);
    EXPECT_SAID("published stripes@v1");
    EXPECT_SAID("2 of 2 old tasks unchanged: same probe digests");
    check_report();
    EXPECT(&r, 0, "verify", "--all");
    EXPECT(&r, 0, "verify", "stripes", "--full");
    adapter_digest(&r, "tiles", after);
    ck_assert_str_eq(after, before);
    rig_close(&r);
    free(tiles);
    free(stripes);
}
END_TEST

static char *fresh_images(const char *name, int which) {
    char *dir = folder(name);
    make_set(dir, which);
    return dir;
}

START_TEST(again_and_changed) {
    char *dir = fresh_images("changing", 0), *path = ds_xasprintf("%s/warm/new.png", dir),
         *broken = ds_xasprintf("%s/cool/broken.png", dir);
    must_add("changing", dir);
    EXPECT(&r, 0, "add-dataset", dir);
    EXPECT_SAID("changing: unchanged (v1)");
    EXPECT(&r, 0, "add-dataset", dir, "--wait");
    EXPECT_SAID("changing@v1");
    spit(broken, "\x89PNG\r\n\x1a\nnothing", 15);
    uint8_t px[24 * 24 * 3];
    ds_error err;
    pattern(px, 24, 1, 0, 3);
    must(ds_png_write(path, px, 24, 24, &err), &err);
    EXPECT(&r, 0, "add-dataset", dir, "--wait");
    EXPECT_SAID("changing@v2");
    EXPECT(&r, 0, "show-dataset", "changing", "--rejected");
    EXPECT_SAID("cool/broken.png");
    EXPECT(&r, 0, "show-dataset", "changing", "--json");
    json_t *doc = said_json(), *v = json_object_get(doc, "version");
    ck_assert_int_eq(ds_json_int(v, "version", 0), 2);
    ck_assert_int_eq(ds_json_int(v, "images", 0), 2 * CLASS_IMAGES + 1);
    ck_assert_int_eq(ds_json_int(v, "rejected", 0), 1);
    json_decref(doc);
    unlink(path); /* nobody says a word to dsctl this time: the folder is watched */
    unlink(broken);
    for (double end = ds_monotonic() + PATIENCE; ds_monotonic() < end; usleep(50000)) {
        json_t *event;
        EXPECT(&r, 0, "show-dataset", "changing", "--json");
        event = said_json();
        int64_t now = ds_json_int(json_object_get(event, "version"), "images", 0);
        json_decref(event);
        if (now == 2 * CLASS_IMAGES)
            break;
    }
    EXPECT(&r, 0, "add-dataset", dir);
    EXPECT_SAID("changing: unchanged (v1)"); /* the old content is the old version */
    rig_close(&r);
    free(dir);
    free(path);
    free(broken);
}
END_TEST

START_TEST(row_of_another_program) {
    char *dir = fresh_images("foreign", 1), file[256], sql[1024];
    sqlite3 *db;
    snprintf(file, sizeof file, "%s/registry.db", r.state);
    snprintf(sql, sizeof sql,
             "PRAGMA wal_autocheckpoint=0; INSERT INTO datasets(name, source_path, options) VALUES "
             "('foreign', '%s', '{\"steps\":10,\"batch\":4,\"n\":8,\"rank\":2}')",
             dir);
    ck_assert_int_eq(sqlite3_open(file, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    char *why = NULL;
    double begin = ds_monotonic();
    ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, &why) == SQLITE_OK, "%s", why);
    sqlite3_close(db);
    json_t *job = wait_state(&r, "scan", "foreign", "|queued|running|done|");
    printf("a row of another program is work after %.1f s\n", ds_monotonic() - begin);
    json_decref(job);
    job = wait_state(&r, "train", "foreign", "|done|failed|rejected|");
    ck_assert_str_eq(ds_json_string(job, "state", ""), "done");
    ck_assert_str_eq(ds_json_string(job, "adapter", ""), "foreign@v1");
    json_decref(job);
    rig_close(&r);
    free(dir);
}
END_TEST

static void each_start(void) {
    char name[32];
    snprintf(name, sizeof name, "main-%d", (int)getpid());
    rig_open(&r, name);
    rig_start(&r);
}

static void register_cases(TCase *tc) {
    system_fixture();
    tcase_add_checked_fixture(tc, each_start, NULL);
    tcase_add_test(tc, from_folder_to_file);
    tcase_add_test(tc, again_and_changed);
    tcase_add_test(tc, row_of_another_program);
}

int main(int argc, char **argv) { return system_main(argc, argv, "system-main", register_cases); }
