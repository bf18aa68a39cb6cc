/* base/digest.h - SHA-256 (libcrypto): the identity of everything that is stored. */
#ifndef DS_BASE_DIGEST_H
#define DS_BASE_DIGEST_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define DS_HEX_SIZE 65 /* 64 hex digits and the final 0 */

typedef struct ds_sha256 ds_sha256; /* a running hash */

ds_sha256 *ds_sha256_new(void);
void ds_sha256_add(ds_sha256 *h, const void *p, size_t n);
void ds_sha256_hex(ds_sha256 *h, char out[DS_HEX_SIZE]); /* finishes; free it afterwards */
void ds_sha256_free(ds_sha256 *h);                       /* NULL is fine */

void ds_digest(const void *p, size_t n, char out[DS_HEX_SIZE]);
int ds_digest_file(const char *path, char out[DS_HEX_SIZE], ds_error *err);

/* 1 if s is exactly 64 lower-case hex digits: check before it touches a path. */
int ds_digest_valid(const char *s);

#endif
