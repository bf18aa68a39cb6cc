#include "base/digest.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct ds_sha256 {
    EVP_MD_CTX *ctx;
};

static void *lead_malloc(size_t n, const char *file, int line) {
    (void)file, (void)line;
    return ds_xmalloc(n);
}
static void *lead_realloc(void *p, size_t n, const char *file, int line) {
    (void)file, (void)line;
    return ds_xrealloc(p, n);
}
static void lead_free(void *p, const char *file, int line) {
    (void)file, (void)line;
    free(p);
}

/* OpenSSL that gets no memory while it is being set up runs into a null pointer later. */
__attribute__((constructor)) static void lead_memory(void) {
    CRYPTO_set_mem_functions(lead_malloc, lead_realloc, lead_free);
}

ds_sha256 *ds_sha256_new(void) {
    ds_sha256 *h = ds_xmalloc(sizeof *h);
    h->ctx = ds_need(EVP_MD_CTX_new());
    if (EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1) /* it allocates, and cannot else fail */
        ds_out_of_memory(0);
    return h;
}

void ds_sha256_add(ds_sha256 *h, const void *p, size_t n) {
    DS_ASSERT(EVP_DigestUpdate(h->ctx, p, n) == 1);
}

void ds_sha256_hex(ds_sha256 *h, char out[DS_HEX_SIZE]) {
    unsigned char d[32];
    DS_ASSERT(EVP_DigestFinal_ex(h->ctx, d, NULL) == 1);
    for (int i = 0; i < 32; i++) {
        out[2 * i] = "0123456789abcdef"[d[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[d[i] & 15];
    }
    out[64] = 0;
}

void ds_sha256_free(ds_sha256 *h) {
    if (!h)
        return;
    EVP_MD_CTX_free(h->ctx);
    free(h);
}

void ds_digest(const void *p, size_t n, char out[DS_HEX_SIZE]) {
    ds_sha256 *h = ds_sha256_new();
    ds_sha256_add(h, p, n);
    ds_sha256_hex(h, out);
    ds_sha256_free(h);
}

int ds_digest_file(const char *path, char out[DS_HEX_SIZE], ds_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return ds_fail(err, DS_EINVAL, "cannot read '%s': not a regular file", path);
    }
    ds_sha256 *h = ds_sha256_new();
    char *buf = ds_xmalloc(1 << 17);
    ssize_t r;
    while ((r = read(fd, buf, 1 << 17)) > 0 || (r < 0 && errno == EINTR))
        if (r > 0)
            ds_sha256_add(h, buf, (size_t)r);
    int rc = r < 0 ? ds_fail_errno(err, "cannot read '%s'", path) : 0;
    if (!rc)
        ds_sha256_hex(h, out);
    ds_sha256_free(h);
    free(buf);
    close(fd);
    return rc;
}

int ds_digest_valid(const char *s) {
    return s && strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64;
}
