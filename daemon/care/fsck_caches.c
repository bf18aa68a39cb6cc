/* daemon/care/fsck_caches.c - caches that cannot be read, left-over temporary files, and fsck as a
 * program of its own.
 *
 * A cache is only time: a damaged one is noticed by who uses it and made again, so it is no damage.
 * How they are laid out: worker/images/prepare_cache.c, hash_cache.c, feature_cache.c, latents.c.
 * */
#include "base/age.h"
#include "base/digest.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/zio.h"
#include "daemon/care/fsck_internal.h"
#include "registry/registry.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define CACHE_MAX ((size_t)4 << 30)
#define HEADER 4096 /* of image caches */
#define OLD_SECONDS 3600

/* ---- one file of each kind: NULL, or what is wrong ---- */

typedef struct { /* as worker/images/prepare_cache.c writes it */
    char magic[8];
    uint64_t n, side, channels, meta_size, file_size;
    char key[64], rest[64], payload[64], header[64];
} images_header;

static int hash_range(int fd, ds_sha256 *h, off_t from, off_t to) {
    char buf[65536];
    while (from < to) {
        size_t want = to - from > (off_t)sizeof buf ? sizeof buf : (size_t)(to - from);
        ssize_t n = pread(fd, buf, want, from);
        if (n <= 0)
            return -1;
        ds_sha256_add(h, buf, (size_t)n);
        from += n;
    }
    return 0;
}

static const char *images_wrong(const char *path, int quick) {
    images_header x;
    struct stat st;
    char hex[DS_HEX_SIZE];
    const char *wrong = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) || read(fd, &x, sizeof x) != (ssize_t)sizeof x ||
        memcmp(x.magic, "DSIMG001", 8) != 0)
        wrong = NULL; /* of another program version, perhaps */
    else {
        ds_digest(&x, offsetof(images_header, header), hex);
        uint64_t ints = 4 * x.n;
        if (memcmp(hex, x.header, 64) != 0)
            wrong = "its header is damaged";
        else if (x.file_size != (uint64_t)st.st_size || x.meta_size + 2 * ints > x.file_size)
            wrong = "it has another size than its header says";
        else if (!quick) {
            off_t tail = (off_t)(x.file_size - x.meta_size - 2 * ints);
            ds_sha256 *h = ds_sha256_new();
            if (hash_range(fd, h, tail, tail + (off_t)ints) || hash_range(fd, h, HEADER, tail))
                wrong = "it cannot be read";
            ds_sha256_hex(h, hex);
            ds_sha256_free(h);
            if (!wrong && memcmp(hex, x.payload, 64) != 0)
                wrong = "its pictures are damaged";
        }
    }
    close(fd);
    return wrong;
}

static const char *features_wrong(const char *path, int quick) {
    char *data = NULL;
    size_t n = 0;
    ds_error err;
    int rc = quick ? 0 : ds_zio_read_file(path, CACHE_MAX, &data, &n, &err);
    free(data);
    return rc == DS_EINTEGRITY ? "it is damaged" : NULL;
}

static const char *hashes_wrong(const char *path, int quick) {
    char *data = NULL, hex[DS_HEX_SIZE], have[DS_HEX_SIZE];
    size_t n = 0;
    if (quick || ds_fs_read(path, CACHE_MAX, &data, &n, NULL))
        return NULL;
    const char *wrong = NULL;
    if (n < 48 || memcmp(data, "DSHASH01", 8) != 0)
        wrong = n < 8 ? "it is cut" : NULL;
    else {
        ds_digest(data, n - 32, hex);
        for (int i = 0; i < 32; i++)
            snprintf(have + 2 * i, 3, "%02x", (unsigned char)data[n - 32 + (size_t)i]);
        if (strcmp(hex, have) != 0)
            wrong = "it is damaged";
    }
    free(data);
    return wrong;
}

/* ---- the folders ---- */

static void drop(fsck *k, const char *thing, const char *path, const char *cause) {
    int gone = k->o->repair && !unlink(path);
    fsck_tell(k, 0, gone ? "removed" : NULL, "it is made again by itself; --repair removes it",
              thing, cause);
}

static void each(fsck *k, const char *folder, const char *begin, const char *end,
                 const char *(*wrong)(const char *path, int quick)) {
    char dir[PATH_MAX], path[PATH_MAX], thing[400];
    size_t m = strlen(end);
    ds_fs_join(dir, sizeof dir, k->o->state, folder);
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat st;
        size_t n = strlen(e->d_name);
        if (strncmp(e->d_name, begin, strlen(begin)) != 0 || n < m ||
            strcmp(e->d_name + n - m, end) != 0)
            continue;
        ds_fs_join(path, sizeof path, dir, e->d_name);
        if (lstat(path, &st) || !S_ISREG(st.st_mode))
            continue;
        snprintf(thing, sizeof thing, "%s/%s", folder, e->d_name);
        int temporary = n > 4 && !strcmp(e->d_name + n - 4, ".tmp");
        if (temporary && ds_age_ms(st.st_mtim) > OLD_SECONDS * 1000)
            drop(k, thing, path, "left by a program that was killed");
        if (temporary || !wrong)
            continue;
        k->out->caches++;
        const char *cause = wrong(path, k->o->quick);
        if (cause)
            drop(k, thing, path, cause);
    }
    if (d)
        closedir(d);
}

void fsck_caches(fsck *k) {
    each(k, "cache", "images-", ".bin", images_wrong);
    each(k, "cache", "features-", ".zst", features_wrong);
    each(k, "cache/base", "features-", ".zst", features_wrong);
    each(k, "cache/hashes", "", "", hashes_wrong);
    static const char *const others[] = {"cache", "cache/base", "bases", "feature_nets", "backups"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        each(k, others[i], "", ".tmp", NULL);
}

/* ---- as a program ---- */

/* Nobody else may be at work: a running daemon has to be asked instead. */
static int lock_folder(const char *state, int *fd, ds_error *err) {
    char path[PATH_MAX];
    ds_fs_join(path, sizeof path, state, "lock");
    *fd = open(path, O_RDWR | O_CLOEXEC);
    if (*fd >= 0 && flock(*fd, LOCK_EX | LOCK_NB)) {
        close(*fd);
        return ds_fail(err, DS_ECONFLICT, "a daemon has the state folder '%s': ask it (dsctl fsck)",
                       state);
    }
    return 0;
}

/* Rows that are owed need the registry itself, and its lock. */
static int add_rows(const char *state, ds_fsck_result *f, int *lock, ds_error *err) {
    ds_registry *r = NULL;
    if (!f->put_count)
        return 0;
    if (*lock >= 0)
        close(*lock);
    *lock = -1;
    int rc = ds_registry_open(state, &r, err);
    if (!rc)
        rc = ds_fsck_rows(r, f, err);
    ds_registry_close(r);
    return rc;
}

int ds_fsck_main(const char *state, const char *how) {
    ds_store *store = NULL;
    ds_fsck_result f = {0};
    ds_error err = {0};
    int lock = -1, rc = lock_folder(state, &lock, &err);
    if (!rc)
        rc = ds_store_open_as_it_is(state, &store, &err);
    ds_fsck_options o = {state, store, !strcmp(how, "quick"), !strcmp(how, "repair")};
    if (!rc)
        rc = ds_fsck_run(&o, &f, &err);
    if (!rc)
        rc = add_rows(state, &f, &lock, &err);
    if (!rc) {
        json_t *doc = ds_fsck_json(&f, o.quick, o.repair);
        json_dumpf(doc, stdout, JSON_COMPACT);
        fputc('\n', stdout);
        json_decref(doc);
        rc = ds_fs_flush(stdout, "standard output", &err);
    }
    int damage = f.damage > 0;
    ds_fsck_release(&f, store);
    ds_store_close(store);
    if (lock >= 0)
        close(lock);
    if (rc)
        fprintf(stderr, "diffscalerd: %s\n", err.message);
    return rc ? ds_error_exit(rc) : damage ? ds_error_exit(DS_EINTEGRITY) : 0;
}
