/* tests/registry/test_registry_open.c - opening: lock, migrations, damage; what other programs see and may
 * do. */
#include "base/mem.h"
#include "base/rng.h"
#include "registry/core/db.h"
#include "registry/core/migrate.h"
#include "tests/fixtures/registry_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void db_path(const char *dir, char path[PATH_MAX]) {
    ds_fs_join(path, PATH_MAX, dir, "registry.db");
}

static void sql_on(const char *path, const char *sql) {
    sqlite3 *db;
    char *why = NULL;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, &why) == SQLITE_OK, "%s: %s", sql, why);
    sqlite3_close(db);
}

START_TEST(empty_to_latest) {
    const char *dir = fx_dir("empty");
    ds_registry *r = NULL;
    json_t *o = NULL;
    MUST(ds_registry_open(dir, &r, err));
    ck_assert_int_eq(ds_registry_schema(r), ds_migration_count);
    MUST(ds_registry_counts(r, &o, err));
    ck_assert(json_is_null(json_object_get(o, "base")));
    json_decref(o);
    MUST(ds_registry_check(r, err));
    MUST(ds_reconcile(r, NULL, err)); /* no base yet: nothing to train */
    ds_registry_close(r);
    MUST(ds_registry_open(dir, &r, err)); /* and again */
    ds_registry_close(r);
}
END_TEST

START_TEST(numbers_without_gaps) {
    ck_assert_int_ge(ds_migration_count, 1);
    for (int i = 0; i < ds_migration_count; i++) {
        ck_assert_int_eq(ds_migrations[i].number, i + 1);
        ck_assert(*ds_migrations[i].name && strchr(ds_migrations[i].sql, ';'));
    }
}
END_TEST

START_TEST(second_daemon_is_refused) {
    const char *dir = fx_dir("second");
    ds_registry *r = fx_open(dir), *other = NULL;
    char pid[64];
    snprintf(pid, sizeof pid, "in use by process %ld;", (long)getpid());
    FAILS(DS_ECONFLICT, pid, ds_registry_open(dir, &other, err));
    pid_t child = fork();
    if (child == 0) {
        ds_error e;
        _exit(ds_registry_open(dir, &other, &e) == DS_ECONFLICT && strstr(e.message, pid) ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    ck_assert_int_eq(status, 0);
    ds_registry_close(r);
    MUST(ds_registry_open(dir, &r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(newer_is_refused_untouched) {
    const char *dir = fx_dir("newer");
    char path[PATH_MAX], before[DS_HEX_SIZE], after[DS_HEX_SIZE];
    ds_registry *r = fx_open(dir);
    ds_registry_close(r);
    db_path(dir, path);
    /* a newer schema may use what this SQLite cannot parse */
    sql_on(path, "PRAGMA journal_mode=DELETE; PRAGMA user_version=1000; PRAGMA writable_schema=ON;"
                 "INSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql)"
                 " VALUES('view','n','n',0,'CREATE VIEW n FROM THE FUTURE')");
    MUST(ds_digest_file(path, before, err));
    FAILS(DS_ENEWER, "schema 1000, this program knows up to", ds_registry_open(dir, &r, err));
    ck_assert_int_eq(ds_error_exit(DS_ENEWER), 10);
    MUST(ds_digest_file(path, after, err));
    ck_assert_str_eq(before, after);
}
END_TEST

START_TEST(damage_is_found) {
    const char *dir = fx_dir("damage");
    char path[PATH_MAX], *good;
    size_t n;
    ds_registry_check_run go_on = DS_REGISTRY_CHECK_RUN, stopped = DS_REGISTRY_CHECK_RUN;
    ds_registry_check_stop(&stopped);
    ds_registry *r = fx_open(dir);
    for (int i = 0; i < 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "d%d", i);
        fx_add(r, name, "/a");
    }
    ds_registry_close(r);
    db_path(dir, path);
    MUST(ds_fs_read(path, 1 << 24, &good, &n, err));
    char *bad = ds_xmalloc(n);
    memcpy(bad, good, n);
    memset(bad, 'x', 100); /* the header */
    MUST(ds_fs_write(path, bad, n, err));
    FAILS(DS_EINTEGRITY, "restore a copy from backups/", ds_registry_open(dir, &r, err));
    MUST(ds_fs_write(path, good, n / 2, err)); /* cut */
    FAILS(DS_EINTEGRITY, "damaged", ds_registry_open(dir, &r, err));
    int found = 0;
    for (uint32_t i = 0; i < 40; i++) { /* a page of noise */
        size_t page = 1 + ds_rng_below((uint32_t)(n / 4096) - 1, 1, 1, i, 0, 0);
        memcpy(bad, good, n);
        for (size_t k = 0; k < 4096; k++)
            bad[page * 4096 + k] = (char)ds_rng_u32(1, 2, i, 0, (uint32_t)k);
        MUST(ds_fs_write(path, bad, n, err));
        ds_error e;
        int rc = ds_registry_open(dir, &r, &e);
        ck_assert_msg(rc == DS_EINTEGRITY, "page %zu: %s", page, rc ? e.message : "opened");
        rc = ds_registry_check_file(dir, &go_on, &e); /* as it is read beside a running daemon */
        ck_assert_msg(rc == DS_EINTEGRITY, "page %zu: %s", page, rc ? e.message : "not found");
        ck_assert_int_eq(ds_registry_check_file(dir, &stopped, &e), 0);
        found++;
    }
    ck_assert_int_eq(found, 40);
    MUST(ds_fs_write(path, good, n, err));
    MUST(ds_registry_check_file(dir, &go_on, err));
    MUST(ds_registry_open(dir, &r, err));
    ds_registry_close(r);
    free(good);
    free(bad);
}
END_TEST

typedef struct {
    const char *dir;
    ds_registry_check_run run;
    _Atomic int over;
    double cpu;
} reading;

static double thread_seconds(clockid_t clock) {
    struct timespec t;
    return clock_gettime(clock, &t) ? 0 : (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *read_file(void *arg) {
    reading *x = arg;
    ds_error e;
    int rc = ds_registry_check_file(x->dir, &x->run, &e);
    x->cpu = thread_seconds(CLOCK_THREAD_CPUTIME_ID);
    x->over = 1;
    return rc ? x : NULL;
}

/* Processor seconds of a reading that is stopped after so many of them; 0: before it begins. */
static double seconds_read(const char *dir, double stop_after) {
    reading x = {.dir = dir, .run = DS_REGISTRY_CHECK_RUN};
    pthread_t thread;
    clockid_t clock;
    void *failed;
    if (stop_after <= 0)
        ds_registry_check_stop(&x.run);
    ck_assert_int_eq(pthread_create(&thread, NULL, read_file, &x), 0);
    int runs = !pthread_getcpuclockid(thread, &clock); /* it may have ended */
    while (runs && !x.over && thread_seconds(clock) < stop_after)
        usleep(200);
    ds_registry_check_stop(&x.run);
    ck_assert_int_eq(pthread_join(thread, &failed), 0);
    ck_assert(!failed);
    return x.cpu;
}

/* One table is most of the file: a reading that is stopped does not read it to its end. */
START_TEST(reading_all_stops_within_a_table) {
    const char *dir = fx_dir("large");
    char path[PATH_MAX];
    ds_registry_close(fx_open(dir));
    db_path(dir, path);
    sql_on(path, "CREATE TABLE pad(x); INSERT INTO pad VALUES (zeroblob(150000000))");
    double all = seconds_read(dir, 1e9), least = all;
    for (int i = 0; i < 20 && least > all / 2; i++) { /* a loaded machine stops it late */
        double t = seconds_read(dir, all / 10);
        least = t < least ? t : least;
    }
    printf("registry_open: all read in %.3f s, stopped after %.3f s\n", all, least);
    ck_assert_double_lt(least, all / 2);
    ck_assert_double_lt(seconds_read(dir, 0), all / 2);
}
END_TEST

START_TEST(foreign_files_are_refused) {
    const char *dir = fx_dir("alien");
    char path[PATH_MAX];
    ds_registry *r;
    MUST(ds_fs_mkdirs(dir, err));
    db_path(dir, path);
    sql_on(path, "CREATE TABLE cats(name)");
    FAILS(DS_EINTEGRITY, "not a registry of this program", ds_registry_open(dir, &r, err));
    MUST(ds_fs_write(path, "just some text, not a database at all", 37, err));
    FAILS(DS_EINTEGRITY, "damaged", ds_registry_open(dir, &r, err));
    FAILS(DS_EINVAL, "is not a folder", ds_registry_open(path, &r, err));
}
END_TEST

/* Root may write anywhere, so this part runs as another user. */
START_TEST(read_only) {
    const char *dir = fx_dir("readonly");
    char path[PATH_MAX];
    ds_registry *r = fx_open(dir);
    ds_registry_close(r);
    db_path(dir, path);
    ck_assert(!chmod(path, 0444) && !chmod(ds_test_tmpdir(), 0755) && !chmod(dir, 0777));
    char lock[PATH_MAX];
    ds_fs_join(lock, sizeof lock, dir, "lock");
    ck_assert(!chmod(lock, 0666));
    pid_t child = fork();
    if (child == 0) {
        ds_error e;
        if (getuid() == 0 && (setgroups(0, NULL) || setgid(65534) || setuid(65534)))
            _exit(77);
        int rc = ds_registry_open(dir, &r, &e);
        _exit(rc == DS_EPERM && strstr(e.message, "not writable") ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        ds_test_skip("read_only", "cannot become another user here");
    else
        ck_assert_int_eq(status, 0);
}
END_TEST

/* A second migration on top of the shipped ones: backup first, all or nothing. */
START_TEST(upgrade) {
    const char *dir = fx_dir("upgrade");
    char path[PATH_MAX], backups[PATH_MAX];
    ds_registry *r = fx_open(dir);
    fx_add(r, "d", "/a");
    ds_registry_close(r);
    db_path(dir, path);
    ds_fs_join(backups, sizeof backups, dir, "backups");
    int count = ds_migration_count, version = 0;
    struct ds_migration *list = ds_xcalloc((size_t)count + 1, sizeof *list);
    memcpy(list, ds_migrations, (size_t)count * sizeof *list);
    sqlite3 *db;
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    list[count] = (struct ds_migration){count + 1, "broken",
                                        "CREATE TABLE more(x) STRICT; CREATE TABLE nonsense("};
    FAILS(DS_EFAILED, "(broken)", ds_migrate(db, path, backups, list, count + 1, &version, err));
    MUST(ds_migrate(db, path, backups, list, count, &version, err)); /* still the old one, whole */
    sqlite3_close(db);
    MUST(ds_registry_open(dir, &r, err));
    ds_registry_close(r);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    list[count] = (struct ds_migration){count + 1, "more", "CREATE TABLE more(x TEXT) STRICT;"};
    MUST(ds_migrate(db, path, backups, list, count + 1, &version, err));
    ck_assert_int_eq(version, count + 1);
    sqlite3_stmt *q;
    ck_assert_int_eq(
        sqlite3_prepare_v2(db, "SELECT backup FROM migrations ORDER BY version DESC", -1, &q, NULL),
        SQLITE_OK);
    ck_assert_int_eq(sqlite3_step(q), SQLITE_ROW);
    char backup[PATH_MAX];
    snprintf(backup, sizeof backup, "%s", (const char *)sqlite3_column_text(q, 0));
    sqlite3_finalize(q);
    sqlite3_close(db);
    FAILS(DS_ENEWER, "this program knows up to", ds_registry_open(dir, &r, err));
    const char *suffixes[] = {"-wal", "-shm"}; /* going back: put the backup in its place */
    for (int i = 0; i < 2; i++) {
        char side[PATH_MAX + 8];
        snprintf(side, sizeof side, "%s%s", path, suffixes[i]);
        MUST(ds_fs_remove(side, err));
    }
    MUST(ds_fs_rename(backup, path, err));
    MUST(ds_registry_open(dir, &r, err));
    json_t *o = NULL;
    MUST(ds_dataset_get(r, "d", &o, err));
    json_decref(o);
    ds_registry_close(r);
    free(list);
}
END_TEST

START_TEST(backup_opens) {
    const char *dir = fx_dir("backup");
    char copy[PATH_MAX], path[PATH_MAX];
    ds_registry *r = fx_open(dir);
    json_t *o = NULL;
    fx_add(r, "d", "/a");
    ds_fs_join(copy, sizeof copy, ds_test_tmpdir(), "copy.db");
    MUST(ds_registry_backup(r, copy, err));
    FAILS(DS_ECONFLICT, "exists", ds_registry_backup(r, copy, err));
    ds_registry_close(r);
    dir = fx_dir("restored");
    MUST(ds_fs_mkdirs(dir, err));
    db_path(dir, path);
    MUST(ds_fs_rename(copy, path, err));
    MUST(ds_registry_open(dir, &r, err));
    MUST(ds_dataset_get(r, "d", &o, err));
    json_decref(o);
    ds_registry_close(r);
}
END_TEST

/* A registry as version 1 wrote it (tests/golden/registry-v1.sql) opens with every later program.
 */
START_TEST(old_registries_open) {
    const char *dir = fx_dir("old");
    char path[PATH_MAX], *sql;
    size_t n;
    ds_registry *r;
    json_t *o = NULL;
    ds_error e;
    if (ds_fs_read("tests/golden/registry-v1.sql", 1 << 20, &sql, &n, &e)) {
        ds_test_skip("old_registries_open", "not run from the repository's root");
        return;
    }
    MUST(ds_fs_mkdirs(dir, err));
    db_path(dir, path);
    sql_on(path, sql);
    free(sql);
    MUST(ds_registry_open(dir, &r, err));
    MUST(ds_registry_check(r, err));
    MUST(ds_adapter_get(r, "digits", &o, err));
    ck_assert_str_eq(fx_string(o, "ref"), "digits@v1");
    ck_assert_int_eq((int)json_array_size(json_object_get(o, "evaluations")), 3);
    json_decref(o);
    ck_assert_int_eq(fx_count(r, "adapter.published"), 1);
    ds_registry_close(r);
}
END_TEST

/* Column names of the views are a promise: docs/registry.md. */
START_TEST(views) {
    static const struct {
        const char *view, *columns;
    } promised[] = {
        {"datasets_v1",
         "id,name,path,state,error,method,options,watch,created_at,version,tree_digest,"
         "images,classes,bytes,rejected,versions,adapter,base,feature_net,feature_mode,"
         "publish_worse"},
        {"adapters_v1",
         "id,ref,name,version,dataset,dataset_version,status,digest,stored_bytes,"
         "raw_bytes,parameters,method,rank,steps,seed,base,base_sha256,fd,fd_base,kid,n,"
         "images,classes,train_seconds,images_per_second,device_class,created_at,job,"
         "aliases,feature_net,preprocess,self,class_accuracy,class_real,class_chance"},
        {"evaluations_v1",
         "id,at,adapter,dataset,subject,metric,value,ci_low,ci_high,n_real,n_fake,"
         "seed,feature_net,resize,sample_digest,job"},
        {"jobs_v1", "id,kind,state,dataset,dataset_version,name,attempts,max_attempts,created_at,"
                    "started_at,finished_at,run_after,stage,done,total,error_code,error_message,"
                    "adapter,pid,postponed,base"},
        {"bases_v1", "id,name,sha256,path,config,vae_sha256,vae_path,source,source_format,"
                     "source_sha256,license,parameters,bytes,feature_net,is_default,created_at"},
        {"feature_nets_v1", "id,name,sha256,path,kind,source,source_format,source_sha256,license,"
                            "parameters,bytes,created_at,is_default"},
        {"events_v1", "seq,at,type,subject,payload"},
    };
    ds_registry *r = fx_open(fx_dir("views"));
    char path[PATH_MAX], sql[256];
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    db_path(ds_registry_dir(r), path);
    sqlite3 *db;
    ck_assert_int_eq(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    sqlite3_exec(db, "PRAGMA trusted_schema=OFF", NULL, NULL, NULL);
    for (size_t i = 0; i < sizeof promised / sizeof *promised; i++) {
        ds_buf have = {0};
        sqlite3_stmt *q;
        snprintf(sql, sizeof sql, "SELECT * FROM %s", promised[i].view);
        ck_assert_int_eq(sqlite3_prepare_v2(db, sql, -1, &q, NULL), SQLITE_OK);
        ck_assert_msg(sqlite3_step(q) == SQLITE_ROW, "%s is empty", promised[i].view);
        for (int c = 0; c < sqlite3_column_count(q); c++)
            ds_buf_addf(&have, "%s%s", c ? "," : "", sqlite3_column_name(q, c));
        sqlite3_finalize(q);
        ck_assert_str_eq(have.data, promised[i].columns);
        ds_buf_release(&have);
    }
    sqlite3_stmt *q;
    sqlite3_prepare_v2(db,
                       "SELECT adapter FROM datasets_v1 JOIN adapters_v1 a ON a.ref = adapter"
                       " WHERE a.aliases = 'latest' AND a.created_at GLOB '20*T*Z'",
                       -1, &q, NULL);
    ck_assert_int_eq(sqlite3_step(q), SQLITE_ROW);
    ck_assert_str_eq((const char *)sqlite3_column_text(q, 0), "d@v1");
    sqlite3_finalize(q);
    sqlite3_close(db);
    ds_registry_close(r);
}
END_TEST

START_TEST(foreign_row_becomes_work) {
    ds_registry *r = fx_open(fx_dir("foreign"));
    int made;
    json_t *o = NULL;
    ds_job j;
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(ds_registry_foreign_change(r), 0);
    ck_assert_int_eq(fx_foreign(r, "INSERT INTO datasets(name, source_path)"
                                   " VALUES ('theirs', '/data/theirs')"),
                     SQLITE_OK);
    ck_assert_int_eq(ds_registry_foreign_change(r), 1);
    ck_assert_int_eq(ds_registry_foreign_change(r), 0);
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 1);
    ck_assert_int_eq(fx_count(r, "dataset.added"), 1);
    MUST(ds_job_next(r, DS_KINDS_ALL, INT64_MAX, &j, NULL, err));
    ck_assert_int_eq(j.kind, DS_JOB_SCAN);
    ck_assert_str_eq(j.name, "theirs");
    MUST(ds_dataset_get(r, "theirs", &o, err));
    ck_assert_str_eq(fx_string(o, "method"), "affiner");
    ck_assert_str_eq(fx_string(o, "created_at") ? "set" : "unset", "set");
    ck_assert_int_eq(strncmp(fx_string(o, "created_at"), "20", 2), 0);
    json_decref(o);
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    /* they may also ask for a scan, and choose what is trained */
    ck_assert_int_eq(fx_foreign(r, "UPDATE datasets SET scan_wanted = scan_wanted + 1"), SQLITE_OK);
    fx_scan(r, "one");
    ck_assert_int_eq(fx_foreign(r, "UPDATE datasets SET options = '{\"rank\":4}'"), SQLITE_OK);
    MUST(ds_reconcile(r, &made, err));
    ck_assert_int_eq(made, 1);
    static const char *const refused[] = {
        "INSERT INTO datasets(name, source_path) VALUES ('a/b', '/a')",
        "INSERT INTO datasets(name, source_path) VALUES ('a@b', '/a')",
        "INSERT INTO datasets(name, source_path) VALUES ('', '/a')",
        "INSERT INTO datasets(name, source_path) VALUES ('.a', '/a')",
        "INSERT INTO datasets(name, source_path) VALUES ('a' || char(10), '/a')",
        "INSERT INTO datasets(name, source_path) VALUES ('a' || char(0) || 'b', '/a')",
        "INSERT INTO datasets(name, source_path) VALUES ('a', 'relative')",
        "INSERT INTO datasets(name, source_path) VALUES ('a', '/a' || char(7))",
        "INSERT INTO datasets(name, source_path) VALUES ('THEIRS', '/a')",
        "INSERT INTO datasets(name, source_path, options) VALUES ('a', '/a', 'rank=3')",
        "INSERT INTO datasets(name, source_path, watch) VALUES ('a', '/a', 'yes')",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        ck_assert_msg(fx_foreign(r, refused[i]) == SQLITE_CONSTRAINT, "accepted: %s", refused[i]);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

START_TEST(what_happened_cannot_be_changed) {
    ds_registry *r = fx_open(fx_dir("immutable"));
    fx_add(r, "d", "/a");
    fx_scan(r, "one");
    fx_train(r, 1, "one", NULL);
    static const char *const refused[] = {
        "UPDATE events SET type = 'x'",
        "DELETE FROM events",
        "INSERT OR REPLACE INTO events(seq, at, type, subject) VALUES (1, 0, 'x', 'x')",
        "UPDATE adapter_versions SET digest = tree_digest FROM dataset_versions",
        "UPDATE adapter_versions SET fd = 0",
        "UPDATE adapter_versions SET config = '{}'",
        "UPDATE adapter_versions SET version = 2",
        "DELETE FROM adapter_versions",
        "INSERT OR REPLACE INTO adapter_versions SELECT * FROM adapter_versions",
        "UPDATE adapter_versions SET status = 'good'",
        "UPDATE adapters SET last_version = 0",
        "DELETE FROM adapters",
        "UPDATE dataset_versions SET images = 4",
        "DELETE FROM dataset_versions",
        "DELETE FROM datasets",
        "UPDATE jobs SET state = 'running' WHERE state = 'done'",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        ck_assert_msg(fx_foreign(r, refused[i]) == SQLITE_CONSTRAINT, "accepted: %s", refused[i]);
    ck_assert_int_eq(fx_foreign(r, "UPDATE adapter_versions SET status = 'rejected'"), SQLITE_OK);
    ck_assert_int_eq(fx_foreign(r, "UPDATE adapter_versions SET status = 'published'"), SQLITE_OK);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

static int64_t told;
static void on_events(void *ctx, int64_t seq) {
    told = seq;
    ++*(int *)ctx;
}

START_TEST(events) {
    ds_registry *r = fx_open(fx_dir("events"));
    int calls = 0;
    int64_t before = ds_event_last_seq(r); /* of the base and the network */
    json_t *o = NULL;
    ds_registry_on_events(r, on_events, &calls);
    fx_add(r, "d", "/a");
    ck_assert_int_eq(calls, 1);
    ck_assert_int_eq(told, ds_event_last_seq(r));
    MUST(ds_event_add(r, "daemon.started", "daemon", NULL, err));
    ck_assert_int_eq(calls, 2);
    MUST(ds_events_list(r, before, NULL, 1, &o, err));
    ck_assert_int_eq((int)json_array_size(o), 1);
    int64_t seq = fx_int(json_array_get(o, 0), "seq");
    json_decref(o);
    MUST(ds_events_list(r, seq, NULL, 100, &o, err));
    ck_assert_int_eq((int)json_array_size(o), 1);
    ck_assert_str_eq(fx_string(json_array_get(o, 0), "type"), "daemon.started");
    ck_assert(json_is_object(json_object_get(json_array_get(o, 0), "payload")));
    json_decref(o);
    ck_assert_int_eq(fx_count(r, "daemon."), 1);
    ck_assert_int_eq(fx_count(r, "daemo"), 0);
    ds_registry_close(r);
}
END_TEST

START_TEST(disk_full) {
    ds_registry *r = fx_open(fx_dir("full"));
    ds_dataset_new d = {.name = "d", .path = "/a", .watch = -1};
    int64_t id, seq;
    int created, rc = 0;
    char name[16];
    /* SQLite reports what a full disk would: no page more than there are now. */
    ck_assert_int_eq(sqlite3_exec(r->db, "PRAGMA max_page_count=1", NULL, NULL, NULL), SQLITE_OK);
    for (int n = 0; !rc && n < 10000; n++) {
        ds_error e;
        snprintf(name, sizeof name, "d%d", n);
        d.name = name;
        rc = ds_dataset_add(r, &d, &id, &created, &seq, &e);
        if (rc)
            ck_assert_msg(rc == DS_ENOSPC && strstr(e.message, "no space left"), "%s", e.message);
    }
    ck_assert_int_eq(rc, DS_ENOSPC);
    MUST(ds_registry_check(r, err));
    ck_assert_int_eq(sqlite3_exec(r->db, "PRAGMA max_page_count=1000000", NULL, NULL, NULL),
                     SQLITE_OK);
    MUST(ds_dataset_add(r, &d, &id, &created, &seq, err)); /* goes on without a restart */
    ck_assert_int_eq(created, 1);
    MUST(ds_registry_check(r, err));
    ds_registry_close(r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, empty_to_latest);
    tcase_add_test(tc, reading_all_stops_within_a_table);
    tcase_add_test(tc, numbers_without_gaps);
    tcase_add_test(tc, second_daemon_is_refused);
    tcase_add_test(tc, newer_is_refused_untouched);
    tcase_add_test(tc, damage_is_found);
    tcase_add_test(tc, foreign_files_are_refused);
    tcase_add_test(tc, read_only);
    tcase_add_test(tc, upgrade);
    tcase_add_test(tc, backup_opens);
    tcase_add_test(tc, old_registries_open);
    tcase_add_test(tc, views);
    tcase_add_test(tc, foreign_row_becomes_work);
    tcase_add_test(tc, what_happened_cannot_be_changed);
    tcase_add_test(tc, events);
    tcase_add_test(tc, disk_full);
}

int main(void) {
    fx_fast_tmp();
    return ds_test_main("registry_open", cases);
}
