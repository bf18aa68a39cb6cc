/* worker/images/latents.c - the file of encoded pictures (contract in latents.h). */
#include "worker/images/latents.h"
#include "base/fs.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are mapped as they are");

#define MAGIC "DSLAT001"
enum { HEADER = 4096, HEX = 64, RECORD_HEAD = 2 * HEX, SYNC_EVERY = 64, WAIT_US = 100000 };

struct ds_latents_map {
    void *map;
    size_t size;
    const float **of[2];
};

typedef struct {
    char magic[8], key[HEX];
    uint64_t floats;
    char vae[HEX]; /* in the key as well; here for who tidies caches (daemon/care/gc.c) */
} file_header;
_Static_assert(sizeof(file_header) == 144, "no padding");

typedef struct {
    const ds_latents_options *o;
    ds_latents *out;
    char *path;
    int fd;
    size_t floats, stride; /* of a record: numbers, bytes */
    int64_t records;
    const uint8_t *map; /* of the whole file, NULL while it has no record */
    size_t map_size;
    int64_t *table; /* open addressing by content: index of a record, -1 = empty */
    size_t slots;
    int64_t *index; /* (variants * n): record of each picture, -1 = missing */
    int64_t *first; /* (variants * n): first picture with the same pixels */
    char (*content)[HEX];
} store;

static uint8_t *record_at(const store *s, int64_t i) {
    return (uint8_t *)(uintptr_t)s->map + HEADER + (size_t)i * s->stride;
}

/* ---------------------------------------------------------------- the file */

static int map_file(store *s, ds_error *err) {
    if (s->map)
        munmap((void *)(uintptr_t)s->map, s->map_size);
    s->map = NULL;
    s->map_size = HEADER + (size_t)s->records * s->stride;
    if (!s->records)
        return 0;
    void *p = mmap(NULL, s->map_size, PROT_READ, MAP_SHARED, s->fd, 0);
    if (p == MAP_FAILED)
        return ds_fail_errno(err, "cannot map '%s'", s->path);
    s->map = p;
    return 0;
}

static int write_all(int fd, const void *data, size_t n, off_t at) {
    if (ds_fs_test_full()) {
        errno = ENOSPC;
        return -1;
    }
    return ds_fs_pwrite_all(fd, data, n, at);
}

/* Key of the file: all that the numbers depend on beside the pixels.  The VAE computes in f32
 * whatever the precision of the device, so the precision at the end of the class is left out. */
static void make_key(char key[DS_HEX_SIZE], const ds_latents_options *o) {
    char class[sizeof o->dev->device_class];
    snprintf(class, sizeof class, "%s", o->dev->device_class);
    char *dash = strrchr(class, '-');
    if (dash)
        *dash = 0;
    char *text = ds_xasprintf("latents/1 vae=%s channels=%d side=%d class=%s", o->vae_sha256,
                              o->channels, o->side, class);
    ds_digest(text, strlen(text), key);
    free(text);
}

static int take_lock(store *s, ds_progress *progress, void *user, ds_error *err) {
    while (flock(s->fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return ds_fail_errno(err, "cannot lock '%s'", s->path);
        if (progress && progress(user, 0, 0))
            return ds_fail(err, DS_ECANCELED, "encoding images was cancelled");
        usleep(WAIT_US);
    }
    return 0;
}

/* Open or create; a file that is none of ours is begun anew; a record cut off at the end goes. */
static int open_file(store *s, const char *key, ds_progress *progress, void *user, ds_error *err) {
    file_header h = {.floats = s->floats}, there = {.floats = 0};
    memcpy(h.magic, MAGIC, 8);
    memcpy(h.key, key, HEX);
    memcpy(h.vae, s->o->vae_sha256, strnlen(s->o->vae_sha256, HEX));
    s->fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (s->fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", s->path);
    int rc = take_lock(s, progress, user, err);
    if (rc)
        return rc;
    struct stat st;
    if (fstat(s->fd, &st))
        return ds_fail_errno(err, "cannot look at '%s'", s->path);
    if (st.st_size < HEADER || pread(s->fd, &there, sizeof there, 0) != sizeof there ||
        memcmp(&there, &h, sizeof h)) {
        uint8_t page[HEADER] = {0};
        memcpy(page, &h, sizeof h);
        st.st_size = HEADER;
        if (ftruncate(s->fd, 0) || write_all(s->fd, page, HEADER, 0))
            return ds_fail_errno(err, "cannot write '%s'", s->path);
    }
    s->records = (int64_t)(((size_t)st.st_size - HEADER) / s->stride);
    off_t whole = (off_t)(HEADER + (size_t)s->records * s->stride);
    if (st.st_size != whole && ftruncate(s->fd, whole))
        return ds_fail_errno(err, "cannot write '%s'", s->path);
    return map_file(s, err);
}

/* ---------------------------------------------------------------- records by content */

static size_t slot_of(size_t slots, const char *content) {
    uint64_t h = 0; /* a digest: any of its digits will do */
    for (int i = 0; i < 16; i++)
        h = h << 4 | (uint64_t)(content[i] <= '9' ? content[i] - '0' : content[i] - 'a' + 10);
    return (size_t)(h % slots);
}

/* The slot that holds the content, or the empty one where it would go. */
static size_t find_slot(const store *s, const char *content) {
    size_t at = slot_of(s->slots, content);
    while (s->table[at] >= 0 && memcmp(record_at(s, s->table[at]), content, HEX))
        at = (at + 1) % s->slots;
    return at;
}

/* All records there are; of two with one content the later counts, as the earlier was damaged. */
static void build_table(store *s) {
    s->slots = 2 * (size_t)s->records + 64;
    s->table = ds_xmalloc(s->slots * sizeof *s->table);
    for (size_t i = 0; i < s->slots; i++)
        s->table[i] = -1;
    for (int64_t i = 0; i < s->records; i++)
        s->table[find_slot(s, (const char *)record_at(s, i))] = i;
}

static void record_hash(const store *s, const uint8_t *record, char hex[DS_HEX_SIZE]) {
    ds_sha256 *h = ds_sha256_new();
    ds_sha256_add(h, record, HEX);
    ds_sha256_add(h, record + RECORD_HEAD, s->floats * sizeof(float));
    ds_sha256_hex(h, hex);
    ds_sha256_free(h);
}

static int record_good(const store *s, int64_t i) {
    char hex[DS_HEX_SIZE];
    record_hash(s, record_at(s, i), hex);
    return !memcmp(hex, record_at(s, i) + HEX, HEX);
}

/* ---------------------------------------------------------------- pictures */

static size_t picture_bytes(const ds_images *im) {
    return (size_t)im->side * (size_t)im->side * (size_t)im->channels;
}

/* Pixels of picture i; mirrored ones are made in `scratch`. */
static const uint8_t *picture(const store *s, int64_t i, uint8_t *scratch) {
    const ds_images *im = s->o->images;
    size_t one = picture_bytes(im), C = (size_t)im->channels, S = (size_t)im->side;
    const uint8_t *from = im->pixels + (size_t)(i % im->n) * one;
    if (i < im->n)
        return from;
    for (size_t y = 0; y < S; y++)
        for (size_t x = 0; x < S; x++)
            memcpy(scratch + (y * S + x) * C, from + (y * S + S - 1 - x) * C, C);
    return scratch;
}

/* Pictures with the same pixels are encoded once. */
static void find_twins(store *s, int64_t pictures) {
    size_t slots = 2 * (size_t)pictures + 1;
    int64_t *table = ds_xmalloc(slots * sizeof *table);
    for (size_t i = 0; i < slots; i++)
        table[i] = -1;
    for (int64_t i = 0; i < pictures; i++) {
        size_t at = slot_of(slots, s->content[i]);
        while (table[at] >= 0 && memcmp(s->content[table[at]], s->content[i], HEX))
            at = (at + 1) % slots;
        if (table[at] < 0)
            table[at] = i;
        s->first[i] = table[at];
    }
    free(table);
}

/* Content of every picture, and the record it has; how many are to be encoded. */
static int64_t look_up(store *s, int64_t pictures) {
    const ds_images *im = s->o->images;
    uint8_t *scratch = ds_xmalloc(picture_bytes(im));
    int64_t missing = 0;
    for (int64_t i = 0; i < pictures; i++) {
        char hex[DS_HEX_SIZE];
        ds_digest(picture(s, i, scratch), picture_bytes(im), hex);
        memcpy(s->content[i], hex, HEX);
    }
    free(scratch);
    find_twins(s, pictures);
    for (int64_t i = 0; i < pictures; i++) {
        if (s->first[i] != i)
            continue;
        s->index[i] = s->table[find_slot(s, s->content[i])];
        if (s->index[i] >= 0 && !record_good(s, s->index[i])) {
            s->index[i] = -1;
            s->out->damaged++;
        }
        missing += s->index[i] < 0;
    }
    return missing;
}

static int encode_one(store *s, ds_vae *vae, int64_t i, uint8_t *record, uint8_t *scratch,
                      ds_error *err) {
    const ds_images *im = s->o->images;
    float *numbers = ds_xmalloc(s->floats * sizeof *numbers);
    int rc = ds_vae_encode_u8(vae, picture(s, i, scratch), im->side, im->side, numbers,
                              numbers + s->floats / 2, err);
    for (size_t k = 0; !rc && k < s->floats; k++)
        if (!isfinite(numbers[k]))
            rc = ds_fail(err, DS_EFAILED, "the VAE gives no finite numbers for image %lld",
                         (long long)(i % im->n));
    memset(record, 0, s->stride);
    memcpy(record, s->content[i], HEX);
    memcpy(record + RECORD_HEAD, numbers, s->floats * sizeof *numbers);
    free(numbers);
    if (!rc) {
        char hex[DS_HEX_SIZE];
        record_hash(s, record, hex);
        memcpy(record + HEX, hex, HEX);
        if (write_all(s->fd, record, s->stride, (off_t)(HEADER + (size_t)s->records * s->stride))) {
            rc = ds_fail_errno(err, "cannot write '%s'", s->path);
            if (ftruncate(s->fd, (off_t)(HEADER + (size_t)s->records * s->stride)))
                return rc; /* the next opening does it */
        }
    }
    return rc;
}

static int encode_missing(store *s, int64_t pictures, int64_t missing, ds_progress *progress,
                          void *user, ds_error *err) {
    ds_vae *vae;
    int rc = ds_vae_open(&vae, s->o->dev, s->o->vae_path, s->o->vae_sha256, DS_VAE_ENCODER, err);
    if (rc)
        return rc;
    uint8_t *record = ds_xmalloc(s->stride), *scratch = ds_xmalloc(picture_bytes(s->o->images));
    int64_t done = 0;
    for (int64_t i = 0; !rc && i < pictures; i++) {
        if (s->first[i] != i || s->index[i] >= 0)
            continue;
        if (ds_progress_say(progress, user, done, missing)) {
            rc = ds_fail(err, DS_ECANCELED, "encoding images was cancelled");
            break;
        }
        rc = encode_one(s, vae, i, record, scratch, err);
        if (!rc) {
            s->index[i] = s->records++;
            s->out->encoded++;
            done++;
        }
        if (!rc && done % SYNC_EVERY == 0 && fdatasync(s->fd))
            rc = ds_fail_errno(err, "cannot write '%s'", s->path);
    }
    if (!rc && fdatasync(s->fd))
        rc = ds_fail_errno(err, "cannot write '%s'", s->path);
    if (!rc)
        ds_progress_say(progress, user, missing, missing);
    free(record);
    free(scratch);
    ds_vae_free(vae);
    return rc ? rc : map_file(s, err);
}

/* ---------------------------------------------------------------- the whole */

static void point(store *s, int64_t pictures) {
    ds_latents *l = s->out;
    int n = s->o->images->n;
    ds_sha256 *h = ds_sha256_new();
    for (int64_t i = 0; i < pictures; i++) {
        const uint8_t *r = record_at(s, s->index[s->first[i]]);
        int v = i >= n;
        if (!l->map->of[v])
            l->map->of[v] = ds_xmalloc((size_t)n * sizeof *l->map->of[v]);
        l->map->of[v][i % n] = (const float *)(const void *)(r + RECORD_HEAD);
        ds_sha256_add(h, r + HEX, HEX);
    }
    ds_sha256_hex(h, l->digest);
    ds_sha256_free(h);
    l->n = n;
    l->of[0] = l->map->of[0];
    l->of[1] = l->map->of[1];
    l->map->map = (void *)(uintptr_t)s->map;
    l->map->size = s->map_size;
    s->map = NULL;
}

static int fill(store *s, const char *key, ds_progress *progress, void *user, ds_error *err) {
    int64_t pictures = (int64_t)s->o->images->n * (s->o->mirrored ? 2 : 1), missing;
    int rc = open_file(s, key, progress, user, err);
    if (rc)
        return rc;
    build_table(s);
    s->index = ds_xmalloc((size_t)pictures * sizeof *s->index);
    s->first = ds_xmalloc((size_t)pictures * sizeof *s->first);
    s->content = ds_xmalloc((size_t)pictures * sizeof *s->content);
    missing = look_up(s, pictures);
    if (missing)
        rc = encode_missing(s, pictures, missing, progress, user, err);
    if (!rc)
        point(s, pictures);
    return rc;
}

int ds_latents_open(ds_latents **out, const ds_latents_options *o, ds_progress *progress,
                    void *user, ds_error *err) {
    char key[DS_HEX_SIZE];
    size_t floats = 2 * (size_t)o->channels * (size_t)o->side * (size_t)o->side;
    int rc = ds_fs_mkdirs(o->cache_dir, err);
    if (rc)
        return rc;
    make_key(key, o);
    ds_latents *l = ds_xcalloc(1, sizeof *l);
    l->map = ds_xcalloc(1, sizeof *l->map);
    store s = {.o = o,
               .out = l,
               .path = ds_xasprintf("%s/latents-%.32s.bin", o->cache_dir, key),
               .fd = -1,
               .floats = floats,
               .stride = (RECORD_HEAD + floats * sizeof(float) + 63) / 64 * 64};
    rc = fill(&s, key, progress, user, err);
    if (s.map)
        munmap((void *)(uintptr_t)s.map, s.map_size);
    if (s.fd >= 0)
        close(s.fd); /* and the lock with it */
    free(s.path);
    free(s.table);
    free(s.index);
    free(s.first);
    free(s.content);
    if (rc)
        ds_latents_close(l);
    else
        *out = l;
    return rc;
}

void ds_latents_close(ds_latents *l) {
    if (!l)
        return;
    if (l->map->map)
        munmap(l->map->map, l->map->size);
    free(l->map->of[0]);
    free(l->map->of[1]);
    free(l->map);
    free(l);
}
