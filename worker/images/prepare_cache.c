/* worker/images/prepare_cache.c - writing and mapping the file of prepared images. */
#include "worker/images/prepare_internal.h"
#include "base/digest.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are mapped as they are");

#define MAGIC "DSIMG001"

typedef struct {
    char magic[8];
    uint64_t n, side, channels, meta_size, file_size;
    char key[64], rest[64], payload[64]; /* hexadecimal, without the 0 */
    char header[64];                     /* of everything above */
} file_header;

_Static_assert(sizeof(file_header) == 48 + 256, "no padding");

struct ds_images_map {
    void *map;
    size_t size;
    int32_t *labels;
    uint32_t *lines;
    json_t *meta;
};

static void digest_two(const void *a, size_t an, const void *b, size_t bn, char out[64]) {
    char hex[DS_HEX_SIZE];
    ds_sha256 *h = ds_sha256_new();
    ds_sha256_add(h, a, an);
    ds_sha256_add(h, b, bn);
    ds_sha256_hex(h, hex);
    ds_sha256_free(h);
    memcpy(out, hex, 64);
}

/* The lock tells a live file from one that a dead process left (prepare.c removes those).  A file
 * that was removed between its creation and its lock is made again. */
static int create_locked(ds_images_file *f) {
    char *const end = f->tmp + strlen(f->tmp) - strlen("XXXXXX.tmp");
    for (;;) {
        struct stat st;
        f->fd = mkostemps(f->tmp, 4, O_CLOEXEC);
        if (f->fd < 0)
            return -1;
        while (flock(f->fd, LOCK_EX) && errno == EINTR)
            ;
        if (fstat(f->fd, &st) || st.st_nlink > 0) /* a file system without locks will do */
            return 0;
        close(f->fd);
        f->fd = -1;
        memcpy(end, "XXXXXX", 6);
    }
}

int ds_images_create(ds_images_file *f, const char *path, int64_t slots, size_t image_size,
                     ds_error *err) {
    *f = (ds_images_file){.path = ds_xstrdup(path),
                          .tmp = ds_xasprintf("%s.XXXXXX.tmp", path),
                          .fd = -1,
                          .slots = slots,
                          .image_size = image_size,
                          .map_size = DS_IMAGES_HEADER + (size_t)slots * image_size};
    if (create_locked(f))
        return ds_fail_errno(err, "cannot create '%s'", path);
    int e = ds_fs_test_full() ? ENOSPC : posix_fallocate(f->fd, 0, (off_t)f->map_size);
    if (e) {
        errno = e;
        return ds_fail_errno(err, "cannot reserve %zu bytes for '%s'", f->map_size, path);
    }
    void *p = mmap(NULL, f->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    if (p == MAP_FAILED)
        return ds_fail_errno(err, "cannot map '%s'", path);
    f->map = p;
    return 0;
}

uint8_t *ds_images_slot(ds_images_file *f, int64_t i) {
    DS_ASSERT(i >= 0 && i < f->slots);
    return f->map + DS_IMAGES_HEADER + (size_t)i * f->image_size;
}

int ds_images_finish(ds_images_file *f, const char key[DS_HEX_SIZE], int n, int side, int channels,
                     const int32_t *labels, const uint32_t *lines, const json_t *meta,
                     ds_error *err) {
    size_t pixels = (size_t)n * f->image_size, ints = (size_t)n * 4;
    off_t tail = (off_t)(DS_IMAGES_HEADER + pixels);
    char *text = ds_json_canonical(meta);
    size_t text_size = strlen(text);
    file_header h = {.n = (uint64_t)n,
                     .side = (uint64_t)side,
                     .channels = (uint64_t)channels,
                     .meta_size = text_size,
                     .file_size = (uint64_t)tail + 2 * ints + text_size};
    memcpy(h.magic, MAGIC, 8);
    memcpy(h.key, key, 64);
    digest_two(lines, ints, text, text_size, h.rest);
    digest_two(labels, ints, f->map + DS_IMAGES_HEADER, pixels, h.payload);
    digest_two(&h, offsetof(file_header, header), "", 0, h.header);
    memcpy(f->map, &h, sizeof h);
    int rc = 0;
    if (msync(f->map, f->map_size, MS_SYNC) || ftruncate(f->fd, tail) ||
        ds_fs_pwrite_all(f->fd, labels, ints, tail) ||
        ds_fs_pwrite_all(f->fd, lines, ints, tail + (off_t)ints) ||
        ds_fs_pwrite_all(f->fd, text, text_size, tail + 2 * (off_t)ints) || fchmod(f->fd, 0640) ||
        fsync(f->fd))
        rc = ds_fail_errno(err, "cannot write '%s'", f->path);
    free(text);
    if (!rc)
        rc = ds_fs_rename(f->tmp, f->path, err);
    if (!rc) {
        free(f->tmp);
        f->tmp = NULL;
    }
    return rc;
}

void ds_images_abandon(ds_images_file *f) {
    if (f->map)
        munmap(f->map, f->map_size);
    if (f->tmp && f->fd >= 0)
        unlink(f->tmp);
    if (f->fd >= 0)
        close(f->fd);
    free(f->tmp);
    free(f->path);
    *f = (ds_images_file){.fd = -1};
}

static int check(const uint8_t *map, size_t size, const char *key) {
    file_header h;
    char hex[64];
    if (size < DS_IMAGES_HEADER)
        return -1;
    memcpy(&h, map, sizeof h);
    digest_two(&h, offsetof(file_header, header), "", 0, hex);
    if (memcmp(h.magic, MAGIC, 8) || memcmp(h.header, hex, 64) || memcmp(h.key, key, 64))
        return -1;
    /* The header is what we wrote; its figures can be trusted, the rest is not yet. */
    uint64_t pixels = h.n * h.side * h.side * h.channels;
    if (h.file_size != size || size != DS_IMAGES_HEADER + pixels + 8 * h.n + h.meta_size)
        return -1;
    const uint8_t *labels = map + DS_IMAGES_HEADER + pixels;
    digest_two(labels, h.n * 4, map + DS_IMAGES_HEADER, pixels, hex);
    if (memcmp(h.payload, hex, 64))
        return -1;
    digest_two(labels + h.n * 4, h.n * 4, labels + h.n * 8, h.meta_size, hex);
    return memcmp(h.rest, hex, 64) ? -1 : 0;
}

static int fill(ds_images *im, const uint8_t *map, ds_error *err) {
    file_header h;
    memcpy(&h, map, sizeof h);
    size_t n = h.n, pixels = n * h.side * h.side * h.channels;
    const uint8_t *tail = map + DS_IMAGES_HEADER + pixels;
    struct ds_images_map *m = im->map;
    m->labels = ds_xmalloc(n * 4);
    m->lines = ds_xmalloc(n * 4);
    memcpy(m->labels, tail, n * 4);
    memcpy(m->lines, tail + n * 4, n * 4);
    int rc = ds_json_parse("image cache", (const char *)tail + n * 8, h.meta_size, &m->meta, err);
    if (rc)
        return rc;
    json_t *classes = json_object_get(m->meta, "classes");
    json_t *rejected = json_object_get(m->meta, "rejected");
    im->n = (int)n;
    im->side = (int)h.side;
    im->channels = (int)h.channels;
    im->class_count = (int)json_array_size(classes);
    im->pixels = map + DS_IMAGES_HEADER;
    im->labels = m->labels;
    im->lines = m->lines;
    im->class_names = ds_xcalloc((size_t)im->class_count + 1, sizeof *im->class_names);
    for (int i = 0; i < im->class_count; i++)
        im->class_names[i] = json_string_value(json_array_get(classes, (size_t)i));
    for (size_t i = 0; i < json_array_size(rejected); i++) {
        const json_t *r = json_array_get(rejected, i);
        ds_rejected_add(&im->rejected, ds_json_string(r, "path", ""), "%s",
                        ds_json_string(r, "reason", ""));
    }
    im->rejected.count = ds_json_int(m->meta, "rejected_count", im->rejected.count);
    snprintf(im->manifest_digest, DS_HEX_SIZE, "%s", ds_json_string(m->meta, "manifest", ""));
    memcpy(im->digest, h.payload, 64);
    im->digest[64] = 0;
    return 0;
}

int ds_images_open(ds_images **out, const char *path, const char key[DS_HEX_SIZE], ds_error *err) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    struct stat st;
    void *map = MAP_FAILED;
    if (!fstat(fd, &st) && st.st_size >= DS_IMAGES_HEADER)
        map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        return ds_fail(err, DS_EINTEGRITY, "'%s' is no image cache", path);
    ds_images *im = ds_xcalloc(1, sizeof *im);
    im->map = ds_xcalloc(1, sizeof *im->map);
    im->map->map = map;
    im->map->size = (size_t)st.st_size;
    if (check(map, im->map->size, key) || fill(im, map, NULL)) {
        ds_images_close(im);
        return ds_fail(err, DS_EINTEGRITY, "image cache '%s' is damaged", path);
    }
    *out = im;
    return 0;
}

void ds_images_close(ds_images *im) {
    if (!im)
        return;
    munmap(im->map->map, im->map->size);
    json_decref(im->map->meta);
    free(im->map->labels);
    free(im->map->lines);
    free(im->map);
    free(im->class_names);
    ds_rejected_release(&im->rejected);
    free(im);
}
