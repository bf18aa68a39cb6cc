#include "registry/store/verified.h"
#include "base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOTS 8192 /* a power of two; of the digest's first bits */
#define CHUNK ((size_t)1 << 17)

struct entry {
    unsigned char sha256[32];
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec mtime, ctime;
    enum ds_verdict verdict; /* 0: the entry is empty */
};
struct ds_verified {
    pthread_mutex_t lock;
    struct entry table[SLOTS];
};

ds_verified *ds_verified_new(void) {
    ds_verified *v = ds_xcalloc(1, sizeof *v);
    pthread_mutex_init(&v->lock, NULL);
    return v;
}

void ds_verified_free(ds_verified *v) {
    if (!v)
        return;
    pthread_mutex_destroy(&v->lock);
    free(v);
}

static unsigned nibble(char c) { return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10); }

static struct entry make(const char *sha256, const struct stat *st, enum ds_verdict verdict) {
    struct entry e = {.dev = st->st_dev,
                      .ino = st->st_ino,
                      .size = st->st_size,
                      .mtime = st->st_mtim,
                      .ctime = st->st_ctim,
                      .verdict = verdict};
    DS_ASSERT(ds_digest_valid(sha256));
    for (int i = 0; i < 32; i++)
        e.sha256[i] = (unsigned char)(nibble(sha256[2 * i]) << 4 | nibble(sha256[2 * i + 1]));
    return e;
}

static int same_time(const struct timespec *a, const struct timespec *b) {
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static struct entry *slot_of(ds_verified *v, const struct entry *e) {
    return &v->table[(e->sha256[0] << 8 | e->sha256[1]) & (SLOTS - 1)];
}

enum ds_verdict ds_verified_get(ds_verified *v, const char *sha256, const struct stat *st) {
    struct entry want = make(sha256, st, DS_VERDICT_UNKNOWN);
    pthread_mutex_lock(&v->lock);
    const struct entry *e = slot_of(v, &want);
    enum ds_verdict verdict = e->verdict;
    if (memcmp(e->sha256, want.sha256, sizeof want.sha256) != 0 || e->dev != want.dev ||
        e->ino != want.ino || e->size != want.size || !same_time(&e->mtime, &want.mtime) ||
        !same_time(&e->ctime, &want.ctime))
        verdict = DS_VERDICT_UNKNOWN;
    pthread_mutex_unlock(&v->lock);
    return verdict;
}

void ds_verified_put(ds_verified *v, const char *sha256, const struct stat *st,
                     enum ds_verdict verdict) {
    struct entry e = make(sha256, st, verdict);
    pthread_mutex_lock(&v->lock);
    *slot_of(v, &e) = e;
    pthread_mutex_unlock(&v->lock);
}

static int hash(int fd, char out[DS_HEX_SIZE], ds_error *err) {
    ds_sha256 *h = ds_sha256_new();
    char *buf = ds_xmalloc(CHUNK);
    off_t at = 0;
    ssize_t n;
    while ((n = pread(fd, buf, CHUNK, at)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0) {
            ds_sha256_add(h, buf, (size_t)n);
            at += n;
        }
    int rc = n < 0 ? ds_fail_errno(err, "cannot read a stored file") : 0;
    ds_sha256_hex(h, out);
    ds_sha256_free(h);
    free(buf);
    return rc;
}

int ds_verified_hash(ds_verified *v, const char *sha256, int fd, ds_error *err) {
    struct stat before, after;
    char have[DS_HEX_SIZE];
    if (fstat(fd, &before))
        return ds_fail_errno(err, "cannot read a stored file");
    int rc = hash(fd, have, err);
    if (!rc && fstat(fd, &after))
        rc = ds_fail_errno(err, "cannot read a stored file");
    if (rc)
        return rc;
    int good = strcmp(have, sha256) == 0;
    ds_verified_put(v, sha256, &before, good ? DS_VERDICT_GOOD : DS_VERDICT_DAMAGED);
    if (good && ds_verified_get(v, sha256, &after) != DS_VERDICT_GOOD)
        return ds_fail(err, DS_EINTEGRITY, "the file changed while it was read");
    return good ? 0
                : ds_fail(err, DS_EINTEGRITY, "the file has sha256 %s, expected %s", have, sha256);
}
