#include "registry/store/store.h"
#include "base/age.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/zio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

struct ds_store {
    char root[PATH_MAX];  /* DIR/blobs/sha256 */
    char tmp[PATH_MAX];   /* DIR/blobs/tmp */
    pthread_mutex_t lock; /* holds; renames into place against removals */
    struct held {
        char sha256[DS_HEX_SIZE];
        int count;
    } * held;
    size_t held_count, held_room;
};

#define CHUNK ((size_t)1 << 17)

static void empty_dir(const char *dir) {
    DIR *d = opendir(dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        char path[PATH_MAX];
        if (e->d_name[0] != '.' &&
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name) < (int)sizeof path)
            unlink(path);
    }
    closedir(d);
}

int ds_store_open_as_it_is(const char *state_dir, ds_store **out, ds_error *err) {
    if (strlen(state_dir) + 128 > PATH_MAX)
        return ds_fail(err, DS_EINVAL, "state folder '%.80s...' has too long a path", state_dir);
    ds_store *s = ds_xcalloc(1, sizeof *s);
    ds_fs_join(s->root, sizeof s->root, state_dir, "blobs/sha256");
    ds_fs_join(s->tmp, sizeof s->tmp, state_dir, "blobs/tmp");
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return 0;
}

int ds_store_open(const char *state_dir, ds_store **out, ds_error *err) {
    ds_store *s = NULL;
    int rc = ds_store_open_as_it_is(state_dir, &s, err);
    if (rc)
        return rc;
    rc = ds_fs_mkdirs(s->root, err);
    if (!rc)
        rc = ds_fs_mkdirs(s->tmp, err);
    /* A process that was killed may have made directories that it had no time to sync. */
    char blobs[PATH_MAX];
    ds_fs_join(blobs, sizeof blobs, state_dir, "blobs");
    if (!rc)
        rc = ds_fs_sync_dir(s->root, err);
    if (!rc)
        rc = ds_fs_sync_dir(blobs, err);
    if (!rc)
        rc = ds_fs_sync_dir(state_dir, err);
    if (rc) {
        ds_store_close(s);
        return rc;
    }
    empty_dir(s->tmp);
    *out = s;
    return 0;
}

void ds_store_close(ds_store *s) {
    if (!s)
        return;
    pthread_mutex_destroy(&s->lock);
    free(s->held);
    free(s);
}

int ds_store_path(const ds_store *s, const char *sha256, char out[PATH_MAX], ds_error *err) {
    if (!ds_digest_valid(sha256))
        return ds_fail(err, DS_EINVAL, "'%.80s' is not a sha256 digest (64 lower-case hex digits)",
                       sha256 ? sha256 : "");
    int n = snprintf(out, PATH_MAX, "%s/%.2s/%s.zst", s->root, sha256, sha256);
    DS_ASSERT(n > 0 && n < PATH_MAX);
    return 0;
}

/* Reading ------------------------------------------------------------------------------------- */

/* Where unpacked bytes go; mem NULL = nowhere. */
struct sink {
    char *mem;
    size_t at;
};

/* One pass over a stored file: unpack, hash the content and the file, optionally copy the file to
 * copy_fd.  Invariants checked: exactly one frame, its stated size, nothing after it. */
struct pass {
    const char *name;
    int fd, copy_fd;
    int64_t max;
    struct sink *sink;
    ds_sha256 *content, *file;
    int64_t raw, stored, declared;
};

static int feed(struct pass *p, ZSTD_DCtx *d, const char *in, size_t n, char *buf, int *ended,
                ds_error *err) {
    ZSTD_inBuffer zin = {in, n, 0};
    do {
        if (*ended && zin.pos < zin.size)
            return ds_fail(err, DS_EINTEGRITY, "'%s' has bytes after its zstd frame", p->name);
        ZSTD_outBuffer zout = {buf, CHUNK, 0};
        size_t left = ZSTD_decompressStream(d, &zout, &zin);
        ds_zio_memory(left);
        if (ZSTD_isError(left))
            return ds_fail(err, DS_EINTEGRITY, "'%s' is damaged: %s", p->name,
                           ZSTD_getErrorName(left));
        if (p->raw + (int64_t)zout.pos > p->declared)
            return ds_fail(err, DS_EINTEGRITY, "'%s' unpacks to more than the %lld bytes it states",
                           p->name, (long long)p->declared);
        ds_sha256_add(p->content, buf, zout.pos);
        if (p->sink && p->sink->mem)
            memcpy(p->sink->mem + p->sink->at, buf, zout.pos), p->sink->at += zout.pos;
        p->raw += (int64_t)zout.pos;
        *ended = left == 0;
        if (zin.pos == zin.size && (*ended || zout.pos < CHUNK))
            return 0;
    } while (1);
}

static int frame_header(struct pass *p, const char *in, size_t n, ds_error *err) {
    unsigned long long size = ZSTD_getFrameContentSize(in, n);
    unsigned magic = n >= 4 ? (unsigned)(unsigned char)in[0] | (unsigned)(unsigned char)in[1] << 8 |
                                  (unsigned)(unsigned char)in[2] << 16 |
                                  (unsigned)(unsigned char)in[3] << 24
                            : 0;
    if (size == ZSTD_CONTENTSIZE_ERROR || magic != ZSTD_MAGICNUMBER)
        return ds_fail(err, DS_EINTEGRITY, "'%s' is not a zstd frame", p->name);
    if (size == ZSTD_CONTENTSIZE_UNKNOWN)
        return ds_fail(err, DS_EINTEGRITY, "'%s' does not state its content size", p->name);
    if (size > (unsigned long long)p->max)
        return ds_fail(err, DS_ELIMIT, "'%s' would unpack to %llu bytes, limit %lld", p->name, size,
                       (long long)p->max);
    p->declared = (int64_t)size;
    if (p->sink)
        p->sink->mem = ds_xmalloc((size_t)size + 1);
    return 0;
}

static int unpack_loop(struct pass *p, ZSTD_DCtx *d, char *in, char *buf, ds_error *err) {
    int ended = 0, rc = 0;
    while (!rc) {
        ssize_t n = read(p->fd, in, CHUNK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ds_fail_errno(err, "cannot read '%s'", p->name);
        if (n == 0)
            break;
        if (p->stored == 0 && (rc = frame_header(p, in, (size_t)n, err)))
            return rc;
        p->stored += n;
        ds_sha256_add(p->file, in, (size_t)n);
        if (p->copy_fd >= 0 && ds_fs_write_all(p->copy_fd, in, (size_t)n))
            return ds_fail_errno(err, "cannot store '%s'", p->name);
        rc = feed(p, d, in, (size_t)n, buf, &ended, err);
    }
    if (!rc && (!ended || p->raw != p->declared))
        rc = ds_fail(err, DS_EINTEGRITY, "'%s' is truncated", p->name);
    return rc;
}

static int unpack(struct pass *p, ds_blob *out, ds_error *err) {
    ZSTD_DCtx *d = ds_need(ZSTD_createDCtx());
    ZSTD_DCtx_setParameter(d, ZSTD_d_windowLogMax, DS_ZIO_WINDOW_LOG);
    char *in = ds_xmalloc(CHUNK), *buf = ds_xmalloc(CHUNK);
    p->content = ds_sha256_new();
    p->file = ds_sha256_new();
    int rc = unpack_loop(p, d, in, buf, err);
    if (!rc) {
        memset(out, 0, sizeof *out);
        ds_sha256_hex(p->content, out->sha256);
        ds_sha256_hex(p->file, out->stored_sha256);
        out->raw_bytes = p->raw;
        out->stored_bytes = p->stored;
    }
    ds_sha256_free(p->content);
    ds_sha256_free(p->file);
    ZSTD_freeDCtx(d);
    free(in);
    free(buf);
    return rc;
}

static int check_blob(ds_store *s, const char *sha256, int64_t max, struct sink *sink, ds_blob *out,
                      ds_error *err) {
    char path[PATH_MAX];
    int rc = ds_store_path(s, sha256, path, err);
    if (rc)
        return rc;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open blob '%s'", path);
    struct pass p = {.name = path, .fd = fd, .copy_fd = -1, .max = max, .sink = sink};
    rc = unpack(&p, out, err);
    close(fd);
    if (!rc && strcmp(out->sha256, sha256) != 0)
        rc = ds_fail(err, DS_EINTEGRITY, "blob '%s' is damaged: its content has sha256 %s", path,
                     out->sha256);
    return rc;
}

int ds_store_verify(ds_store *s, const char *sha256, ds_blob *out, ds_error *err) {
    ds_blob b;
    int rc = check_blob(s, sha256, DS_BLOB_MAX, NULL, &b, err);
    if (!rc && out)
        *out = b;
    return rc;
}

int ds_store_read(ds_store *s, const char *sha256, size_t max, char **data, size_t *n,
                  ds_error *err) {
    struct sink sink = {0};
    ds_blob b;
    int64_t limit = max < (size_t)DS_BLOB_MAX ? (int64_t)max : DS_BLOB_MAX;
    int rc = check_blob(s, sha256, limit, &sink, &b, err);
    if (rc) {
        free(sink.mem);
        return rc;
    }
    sink.mem[sink.at] = 0;
    *data = sink.mem;
    *n = sink.at;
    return 0;
}

/* Putting ------------------------------------------------------------------------------------- */

static int pack_loop(ZSTD_CCtx *c, int fd, const char *mem, size_t mem_n, int tmp_fd,
                     const char *name, char *in, char *buf, ds_sha256 *content, ds_sha256 *file,
                     ds_blob *out, ds_error *err) {
    for (;;) {
        const char *chunk = in;
        ssize_t n;
        if (mem) {
            n = (ssize_t)(mem_n < CHUNK ? mem_n : CHUNK);
            chunk = mem;
            mem += n;
            mem_n -= (size_t)n;
        } else if ((n = read(fd, in, CHUNK)) < 0) {
            if (errno == EINTR)
                continue;
            return ds_fail_errno(err, "cannot read '%s'", name);
        }
        ds_sha256_add(content, chunk, (size_t)n);
        out->raw_bytes += n;
        ZSTD_inBuffer zin = {chunk, (size_t)n, 0};
        ZSTD_EndDirective end = n == 0 ? ZSTD_e_end : ZSTD_e_continue;
        size_t left;
        do {
            ZSTD_outBuffer zout = {buf, CHUNK, 0};
            left = ZSTD_compressStream2(c, &zout, &zin, end);
            ds_zio_memory(left);
            if (ZSTD_isError(left)) /* most likely the file changed its size meanwhile */
                return ds_fail(err, DS_EIO, "cannot compress '%s': %s", name,
                               ZSTD_getErrorName(left));
            ds_sha256_add(file, buf, zout.pos);
            out->stored_bytes += (int64_t)zout.pos;
            if (ds_fs_write_all(tmp_fd, buf, zout.pos))
                return ds_fail_errno(err, "cannot store '%s'", name);
        } while (end == ZSTD_e_end ? left != 0 : zin.pos < zin.size);
        if (n == 0)
            return 0;
    }
}

/* Compress fd (or mem) into tmp_fd, hashing both sides. */
static int pack(int fd, const char *mem, int64_t size, int tmp_fd, const char *name, ds_blob *out,
                ds_error *err) {
    ZSTD_CCtx *c = ds_need(ZSTD_createCCtx());
    ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, 3);
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 1);
    ZSTD_CCtx_setPledgedSrcSize(c, (unsigned long long)size);
    char *in = ds_xmalloc(CHUNK), *buf = ds_xmalloc(CHUNK);
    ds_sha256 *content = ds_sha256_new(), *file = ds_sha256_new();
    memset(out, 0, sizeof *out);
    int rc = pack_loop(c, fd, mem, (size_t)size, tmp_fd, name, in, buf, content, file, out, err);
    if (!rc) {
        ds_sha256_hex(content, out->sha256);
        ds_sha256_hex(file, out->stored_sha256);
    }
    ds_sha256_free(content);
    ds_sha256_free(file);
    ZSTD_freeCCtx(c);
    free(in);
    free(buf);
    return rc;
}

/* tmp is whole and synced: give it its name.  The directory is synced before anybody may refer to
 * the blob; a new shard directory also needs its parent synced. */
static int place(ds_store *s, const char *tmp, const ds_blob *b, ds_error *err) {
    char path[PATH_MAX], shard[PATH_MAX];
    int rc = ds_store_path(s, b->sha256, path, err);
    if (rc)
        return rc;
    int n = snprintf(shard, sizeof shard, "%s/%.2s", s->root, b->sha256);
    DS_ASSERT(n > 0 && n < (int)sizeof shard);
    if (!mkdir(shard, 0750))
        rc = ds_fs_sync_dir(s->root, err);
    else if (errno != EEXIST)
        rc = ds_fail_errno(err, "cannot create '%s'", shard);
    if (rc)
        return rc;
    pthread_mutex_lock(&s->lock);
    if (rename(tmp, path)) /* over an old one: whole for whole, and damage heals */
        rc = ds_fail_errno(err, "cannot rename '%s' to '%s'", tmp, path);
    pthread_mutex_unlock(&s->lock);
    return rc ? rc : ds_fs_sync_dir(shard, err);
}

static int put(ds_store *s, int fd, const char *mem, int64_t size, enum ds_store_input input,
               const char *name, const char *expected, ds_blob *out, ds_error *err) {
    char tmp[PATH_MAX];
    ds_fs_join(tmp, sizeof tmp, s->tmp, "put-XXXXXX");
    int tmp_fd = mkostemp(tmp, O_CLOEXEC), rc;
    if (tmp_fd < 0)
        return ds_fail_errno(err, "cannot create '%s'", tmp);
    if (ds_fs_test_full())
        rc = ds_fail_errno(err, "cannot store '%s'", name);
    else if (input == DS_STORE_ZSTD) {
        struct pass p = {.name = name, .fd = fd, .copy_fd = tmp_fd, .max = DS_BLOB_MAX};
        rc = unpack(&p, out, err);
    } else
        rc = pack(fd, mem, size, tmp_fd, name, out, err);
    if (!rc && expected && strcmp(out->sha256, expected) != 0)
        rc = ds_fail(err, DS_EINTEGRITY, "'%s' has sha256 %s, expected %s", name, out->sha256,
                     expected);
    if (!rc && (fchmod(tmp_fd, 0640) || fsync(tmp_fd)))
        rc = ds_fail_errno(err, "cannot store '%s'", name);
    close(tmp_fd);
    if (!rc)
        rc = place(s, tmp, out, err);
    if (rc)
        unlink(tmp);
    return rc;
}

int ds_store_put_file(ds_store *s, const char *path, enum ds_store_input input,
                      const char *expected, ds_blob *out, ds_error *err) {
    if (expected && !ds_digest_valid(expected))
        return ds_fail(err, DS_EINVAL, "'%.80s' is not a sha256 digest", expected);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW), rc;
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    struct stat st;
    if (fstat(fd, &st))
        rc = ds_fail_errno(err, "cannot stat '%s'", path);
    else if (!S_ISREG(st.st_mode))
        rc = ds_fail(err, DS_EINVAL, "cannot store '%s': not a regular file", path);
    else if (st.st_size > DS_BLOB_MAX)
        rc = ds_fail(err, DS_ELIMIT, "cannot store '%s': %lld bytes, limit %lld", path,
                     (long long)st.st_size, (long long)DS_BLOB_MAX);
    else
        rc = put(s, fd, NULL, st.st_size, input, path, expected, out, err);
    close(fd);
    return rc;
}

int ds_store_put_bytes(ds_store *s, const void *data, size_t n, ds_blob *out, ds_error *err) {
    if (n > (size_t)DS_BLOB_MAX)
        return ds_fail(err, DS_ELIMIT, "cannot store %zu bytes, limit %lld", n,
                       (long long)DS_BLOB_MAX);
    return put(s, -1, data ? data : "", (int64_t)n, DS_STORE_RAW, "bytes", NULL, out, err);
}

/* Removing ------------------------------------------------------------------------------------ */

static int64_t age_ms(const struct stat *st) { return ds_age_ms(st->st_mtim); }

/* With the lock taken; NULL: nobody holds it. */
static struct held *find_held(ds_store *s, const char *sha256) {
    for (size_t i = 0; i < s->held_count; i++)
        if (!strcmp(s->held[i].sha256, sha256))
            return &s->held[i];
    return NULL;
}

void ds_store_hold(ds_store *s, const char *sha256) {
    DS_ASSERT(ds_digest_valid(sha256));
    pthread_mutex_lock(&s->lock);
    struct held *h = find_held(s, sha256);
    if (!h) {
        if (s->held_count == s->held_room) {
            s->held_room = s->held_room ? 2 * s->held_room : 16;
            s->held = ds_xrealloc(s->held, s->held_room * sizeof *s->held);
        }
        h = &s->held[s->held_count++];
        *h = (struct held){.count = 0};
        memcpy(h->sha256, sha256, DS_HEX_SIZE);
    }
    h->count++;
    pthread_mutex_unlock(&s->lock);
}

void ds_store_drop(ds_store *s, const char *sha256) {
    pthread_mutex_lock(&s->lock);
    struct held *h = find_held(s, sha256);
    DS_ASSERT(h);
    if (--h->count == 0)
        *h = s->held[--s->held_count];
    pthread_mutex_unlock(&s->lock);
}

/* Where a blob waits that was taken away. */
static void aside(const ds_store *s, const char *sha256, char out[PATH_MAX]) {
    int n = snprintf(out, PATH_MAX, "%s/gone-%s", s->tmp, sha256);
    DS_ASSERT(n > 0 && n < PATH_MAX);
}

/* With the lock taken: *yes = the file may go, or is not there. */
static int may_go(ds_store *s, const char *sha256, const char *path, int64_t grace_ms, int *yes,
                  ds_error *err) {
    struct stat st;
    *yes = 0;
    if (find_held(s, sha256))
        return 0;
    if (lstat(path, &st)) {
        *yes = errno == ENOENT;
        return *yes ? 0 : ds_fail_errno(err, "cannot stat '%s'", path);
    }
    *yes = age_ms(&st) >= grace_ms;
    return 0;
}

int ds_store_may_go(ds_store *s, const char *sha256, int64_t grace_ms, int *yes, ds_error *err) {
    char path[PATH_MAX];
    int rc = ds_store_path(s, sha256, path, err);
    *yes = 0;
    if (rc)
        return rc;
    pthread_mutex_lock(&s->lock);
    rc = may_go(s, sha256, path, grace_ms, yes, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int ds_store_take_away(ds_store *s, const char *sha256, int64_t grace_ms, int *taken,
                       ds_error *err) {
    char path[PATH_MAX], to[PATH_MAX];
    int rc = ds_store_path(s, sha256, path, err);
    *taken = 0;
    if (rc)
        return rc;
    aside(s, sha256, to);
    pthread_mutex_lock(&s->lock); /* so that a put between stat and rename is not undone */
    rc = may_go(s, sha256, path, grace_ms, taken, err);
    if (!rc && *taken && rename(path, to) && errno != ENOENT) {
        rc = ds_fail_errno(err, "cannot remove '%s'", path);
        *taken = 0;
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int ds_store_bring_back(ds_store *s, const char *sha256, ds_error *err) {
    char path[PATH_MAX], from[PATH_MAX];
    int rc = ds_store_path(s, sha256, path, err);
    if (rc)
        return rc;
    aside(s, sha256, from);
    pthread_mutex_lock(&s->lock);
    if (ds_fs_exists(path)) /* put meanwhile: that one is younger */
        unlink(from);
    else if (rename(from, path) && errno != ENOENT)
        rc = ds_fail_errno(err, "cannot bring back '%s'", path);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int ds_store_discard(ds_store *s, const char *sha256, ds_error *err) {
    char path[PATH_MAX];
    aside(s, sha256, path);
    return unlink(path) && errno != ENOENT ? ds_fail_errno(err, "cannot remove '%s'", path) : 0;
}

static int each_in_shard(const char *shard, int (*fn)(void *, const char *, int64_t, int64_t),
                         void *ctx, ds_error *err) {
    DIR *d = opendir(shard);
    if (!d)
        return errno == ENOTDIR || errno == ENOENT ? 0
                                                   : ds_fail_errno(err, "cannot read '%s'", shard);
    int rc = 0;
    for (struct dirent *e; !rc && (e = readdir(d));) {
        char hex[DS_HEX_SIZE];
        struct stat st;
        if (strlen(e->d_name) != 68 || strcmp(e->d_name + 64, ".zst") != 0)
            continue; /* not ours */
        memcpy(hex, e->d_name, 64);
        hex[64] = 0;
        if (ds_digest_valid(hex) && !fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
            rc = fn(ctx, hex, age_ms(&st), st.st_size);
    }
    closedir(d);
    return rc;
}

int ds_store_each(ds_store *s, int (*fn)(void *, const char *, int64_t, int64_t), void *ctx,
                  ds_error *err) {
    int rc = 0;
    for (int i = 0; !rc && i < 256; i++) {
        char shard[PATH_MAX];
        int n = snprintf(shard, sizeof shard, "%s/%02x", s->root, (unsigned)i);
        DS_ASSERT(n > 0 && n < (int)sizeof shard);
        rc = each_in_shard(shard, fn, ctx, err);
    }
    return rc;
}
