/* daemon/api/serve.c - stored files to clients: never a damaged one under its good digest.
 *
 * The size is compared each time, the digest of the file once for each file and start of the daemon
 * (registry/store/verified.h).  A small file is hashed at once; for a large one the request sleeps
 * while the pool does it, and is looked at again when it is done.
 */
#include "base/log.h"
#include "base/mem.h"
#include "daemon/api/api.h"
#include "daemon/core/damage.h"
#include "registry/store/blobs.h"
#include "registry/store/verified.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define AT_ONCE (1 << 20) /* bytes that the loop hashes itself: about a millisecond */
#define CHECKS 2          /* files that the pool hashes at the same time */

typedef struct ds_check {
    uv_work_t work;
    ds_daemon *d;
    struct ds_check *next;
    char stored_sha256[DS_HEX_SIZE];
    int fd, rc;
    ds_error err;
} check;

/* ---- on the pool ---- */

static void check_work(uv_work_t *work) {
    check *c = work->data;
    c->rc = ds_verified_hash(c->d->verified, c->stored_sha256, c->fd, &c->err);
}

static void check_done(uv_work_t *work, int status) {
    check *c = work->data, **p = &c->d->checks;
    (void)status;
    if (c->rc && c->rc != DS_EINTEGRITY)
        ds_log(DS_LOG_WARN, "cannot check a stored file: %s", c->err.message);
    while (*p != c)
        p = &(*p)->next;
    *p = c->next;
    ds_http_retry(c->d->http);
    ds_http_retry(c->d->tcp);
    close(c->fd);
    free(c);
}

/* Takes fd over.  The request is answered later, when this file, or one before it, is done. */
static int check_later(ds_request *rq, ds_daemon *d, const ds_blob *b, int fd, ds_error *err) {
    int n = 0;
    for (const check *c = d->checks; c; c = c->next, n++)
        if (!strcmp(c->stored_sha256, b->stored_sha256))
            n = CHECKS; /* somebody asked for it already */
    if (n >= CHECKS) {
        close(fd);
        return ds_request_wait(rq, err);
    }
    check *c = ds_xcalloc(1, sizeof *c);
    c->d = d;
    c->fd = fd;
    c->work.data = c;
    memcpy(c->stored_sha256, b->stored_sha256, DS_HEX_SIZE);
    c->next = d->checks;
    d->checks = c;
    uv_queue_work(&d->loop, &c->work, check_work, check_done);
    return ds_request_wait(rq, err);
}

/* ---- answering ---- */

/* An open file of this blob that may be handed out now; -1: see *rc (0 = later). */
static int open_good(ds_request *rq, ds_daemon *d, const ds_blob *b, int *rc, ds_error *err) {
    char path[PATH_MAX], why[200];
    struct stat st = {0};
    ds_error e = {0};
    if ((*rc = ds_store_path(ds_registry_store(d->registry), b->sha256, path, err)))
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st)) {
        int missing = fd < 0 && (errno == ENOENT || errno == ELOOP);
        *rc = missing ? ds_damage_found(d, b, &st, "its file is missing", err)
                      : ds_fail_errno(err, "cannot open blob '%s'", path);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    if (!S_ISREG(st.st_mode) || st.st_size != b->stored_bytes) {
        snprintf(why, sizeof why, "its file has %lld bytes, not %lld", (long long)st.st_size,
                 (long long)b->stored_bytes);
        *rc = ds_damage_found(d, b, &st, why, err);
        close(fd);
        return -1;
    }
    enum ds_verdict verdict = ds_verified_get(d->verified, b->stored_sha256, &st);
    if (verdict == DS_VERDICT_UNKNOWN && st.st_size > AT_ONCE) {
        *rc = check_later(rq, d, b, fd, err);
        return -1;
    }
    if (verdict == DS_VERDICT_UNKNOWN && ds_verified_hash(d->verified, b->stored_sha256, fd, &e)) {
        if (e.code != DS_EINTEGRITY) {
            *rc = ds_fail(err, e.code, "cannot read blob '%s': %s", path, e.message);
            close(fd);
            return -1;
        }
        verdict = DS_VERDICT_DAMAGED;
    }
    if (verdict == DS_VERDICT_DAMAGED || verdict == DS_VERDICT_TOLD) {
        *rc = ds_damage_found(d, b, &st, "its file has another digest", err);
        close(fd);
        return -1;
    }
    return fd;
}

int ds_api_send_blob(ds_request *rq, ds_daemon *d, const char *sha256, const char *type,
                     ds_error *err) {
    ds_blob b;
    int rc = ds_blob_get(d->registry, sha256, &b, err);
    if (rc)
        return rc;
    const char *known = ds_request_header(rq, "If-None-Match");
    int same = known && (strcmp(known, "*") == 0 || strstr(known, sha256)),
        fd = same ? -1 : open_good(rq, d, &b, &rc, err);
    if (!same && fd < 0)
        return rc;
    ds_reply_header(rq, "ETag", "\"%s\"", sha256);
    ds_reply_header(rq, "X-Diffscaler-Digest", "sha256:%s", sha256);
    return same ? ds_reply_bytes(rq, 304, type, "", 0)
                : ds_reply_fd(rq, type, fd, 0, b.stored_bytes);
}
