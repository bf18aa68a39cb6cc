/* worker/images/hash_cache.c - open addressing in memory, one checked file on disk.
 *
 * File, all little-endian: "DSHASH01", u64 count, then per entry u64 dev, ino, size, i64 mtime_ns,
 * ctime_ns, 32 bytes sha256, u32 width, height, u8 format, orientation, ok, unused scans, u16
 * reason length, reason; then the SHA-256 (32 bytes) of all before it.
 */
#include "worker/images/hash_cache.h"
#include "base/fs.h"
#include "base/mem.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAGIC "DSHASH01"
#define FIXED 86 /* bytes of an entry before its reason */
#define FILE_LIMIT ((size_t)4 << 30)

typedef struct {
    uint64_t dev, ino, size;
    int64_t mtime_ns, ctime_ns;
    uint8_t sha256[32];
    uint32_t width, height;
    uint8_t format, orientation, ok, unused;
    uint8_t taken;
    char *reason; /* NULL when ok */
} entry;

/* Invariant: cap is a power of two, count <= cap * 3 / 4. */
struct ds_hash_cache {
    char *path;
    entry *slots;
    size_t count, cap;
    int changed, aged;
};

static uint64_t mix(uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}

/* The slot of (dev, ino), or the free one where it belongs. */
static entry *find_slot(entry *slots, size_t cap, uint64_t dev, uint64_t ino) {
    size_t i = (size_t)mix(ino ^ mix(dev)) & (cap - 1);
    while (slots[i].taken && (slots[i].dev != dev || slots[i].ino != ino))
        i = (i + 1) & (cap - 1);
    return &slots[i];
}

static void make_room(ds_hash_cache *c, size_t count) {
    size_t cap = c->cap ? c->cap : 64;
    while (count > cap / 4 * 3)
        cap *= 2;
    if (cap == c->cap)
        return;
    entry *slots = ds_xcalloc(cap, sizeof *slots);
    for (size_t i = 0; i < c->cap; i++)
        if (c->slots[i].taken)
            *find_slot(slots, cap, c->slots[i].dev, c->slots[i].ino) = c->slots[i];
    free(c->slots);
    c->slots = slots;
    c->cap = cap;
}

static void put_int(ds_buf *b, uint64_t v, int bytes) {
    uint8_t p[8];
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
    ds_buf_add(b, p, (size_t)bytes);
}

static uint64_t get_int(const uint8_t **p, int bytes) {
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)(*p)[i] << (8 * i);
    *p += bytes;
    return v;
}

static void hex_of(char out[DS_HEX_SIZE], const uint8_t raw[32]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        out[2 * i] = digits[raw[i] >> 4];
        out[2 * i + 1] = digits[raw[i] & 15];
    }
    out[64] = 0;
}

static void raw_of(uint8_t raw[32], const char *hex) {
    DS_ASSERT(ds_digest_valid(hex));
    for (int i = 0; i < 32; i++) {
        int hi = hex[2 * i], lo = hex[2 * i + 1];
        raw[i] = (uint8_t)((hi <= '9' ? hi - '0' : hi - 'a' + 10) << 4 |
                           (lo <= '9' ? lo - '0' : lo - 'a' + 10));
    }
}

/* One entry from *p; 0, or -1 when the bytes end. */
static int parse_entry(entry *e, const uint8_t **p, const uint8_t *end) {
    if (end - *p < FIXED)
        return -1;
    *e = (entry){.taken = 1};
    e->dev = get_int(p, 8);
    e->ino = get_int(p, 8);
    e->size = get_int(p, 8);
    e->mtime_ns = (int64_t)get_int(p, 8);
    e->ctime_ns = (int64_t)get_int(p, 8);
    memcpy(e->sha256, *p, 32);
    *p += 32;
    e->width = (uint32_t)get_int(p, 4);
    e->height = (uint32_t)get_int(p, 4);
    e->format = (uint8_t)get_int(p, 1);
    e->orientation = (uint8_t)get_int(p, 1);
    e->ok = (uint8_t)get_int(p, 1);
    e->unused = (uint8_t)get_int(p, 1);
    size_t n = (size_t)get_int(p, 2);
    if ((size_t)(end - *p) < n || n >= DS_REASON_SIZE || e->width > INT_MAX || e->height > INT_MAX)
        return -1;
    if (!e->ok) {
        e->reason = ds_xmalloc(n + 1);
        memcpy(e->reason, *p, n);
        e->reason[n] = 0;
    }
    *p += n;
    return 0;
}

static int parse(ds_hash_cache *c, const uint8_t *data, size_t n) {
    char stored[DS_HEX_SIZE], actual[DS_HEX_SIZE];
    if (n < 48 || memcmp(data, MAGIC, 8))
        return -1;
    hex_of(stored, data + n - 32);
    ds_digest(data, n - 32, actual);
    if (strcmp(stored, actual))
        return -1;
    const uint8_t *p = data + 8, *end = data + n - 32;
    uint64_t count = get_int(&p, 8);
    if (count > n / FIXED)
        return -1;
    make_room(c, (size_t)count);
    for (uint64_t i = 0; i < count; i++) {
        entry e;
        if (parse_entry(&e, &p, end))
            return -1;
        e.unused = e.unused < 255 ? (uint8_t)(e.unused + 1) : 255;
        entry *slot = find_slot(c->slots, c->cap, e.dev, e.ino);
        c->count += !slot->taken;
        free(slot->reason);
        *slot = e;
    }
    return 0;
}

static void clear(ds_hash_cache *c) {
    for (size_t i = 0; i < c->cap; i++)
        free(c->slots[i].reason);
    free(c->slots);
    c->slots = NULL;
    c->count = c->cap = 0;
    make_room(c, 0);
}

ds_hash_cache *ds_hash_cache_open(const char *path, int *damaged) {
    ds_hash_cache *c = ds_xcalloc(1, sizeof *c);
    int bad = 0;
    make_room(c, 0);
    if (path && *path) {
        c->path = ds_xstrdup(path);
        char *data;
        size_t n;
        if (ds_fs_exists(path)) {
            if (ds_fs_read(path, FILE_LIMIT, &data, &n, NULL)) {
                bad = 1;
            } else {
                bad = parse(c, (const uint8_t *)data, n) != 0;
                free(data);
            }
            if (bad)
                clear(c);
        }
    }
    if (damaged)
        *damaged = bad;
    return c;
}

static int64_t ns_of(struct timespec t) { return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }

int ds_hash_cache_find(ds_hash_cache *c, const struct stat *st, ds_file_facts *facts) {
    entry *e = find_slot(c->slots, c->cap, (uint64_t)st->st_dev, (uint64_t)st->st_ino);
    if (!e->taken || e->size != (uint64_t)st->st_size || e->mtime_ns != ns_of(st->st_mtim) ||
        e->ctime_ns != ns_of(st->st_ctim))
        return 0;
    c->aged |= e->unused > 1;
    e->unused = 0;
    hex_of(facts->sha256, e->sha256);
    facts->ok = e->ok;
    facts->info = (ds_image_info){.format = (enum ds_image_format)e->format,
                                  .width = (int)e->width,
                                  .height = (int)e->height,
                                  .orientation = e->orientation};
    facts->reason[0] = 0;
    if (e->reason)
        snprintf(facts->reason, sizeof facts->reason, "%s", e->reason);
    return 1;
}

int64_t ds_hash_cache_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return ns_of(now);
}

void ds_hash_cache_put(ds_hash_cache *c, const struct stat *st, const ds_file_facts *facts,
                       int64_t read_at_ns) {
    int64_t changed = ns_of(st->st_ctim);
    if (read_at_ns - changed < DS_HASH_CACHE_RACY_NS)
        return;
    make_room(c, c->count + 1);
    entry *e = find_slot(c->slots, c->cap, (uint64_t)st->st_dev, (uint64_t)st->st_ino);
    c->count += !e->taken;
    free(e->reason);
    *e = (entry){.dev = (uint64_t)st->st_dev,
                 .ino = (uint64_t)st->st_ino,
                 .size = (uint64_t)st->st_size,
                 .mtime_ns = ns_of(st->st_mtim),
                 .ctime_ns = changed,
                 .width = (uint32_t)facts->info.width,
                 .height = (uint32_t)facts->info.height,
                 .format = (uint8_t)facts->info.format,
                 .orientation = (uint8_t)facts->info.orientation,
                 .ok = facts->ok != 0,
                 .taken = 1,
                 .reason = facts->ok ? NULL : ds_xstrdup(facts->reason)};
    raw_of(e->sha256, facts->sha256);
    c->changed = 1;
}

static void write_entry(ds_buf *b, const entry *e) {
    size_t n = e->reason ? strlen(e->reason) : 0;
    put_int(b, e->dev, 8);
    put_int(b, e->ino, 8);
    put_int(b, e->size, 8);
    put_int(b, (uint64_t)e->mtime_ns, 8);
    put_int(b, (uint64_t)e->ctime_ns, 8);
    ds_buf_add(b, e->sha256, 32);
    put_int(b, e->width, 4);
    put_int(b, e->height, 4);
    put_int(b, e->format, 1);
    put_int(b, e->orientation, 1);
    put_int(b, e->ok, 1);
    put_int(b, e->unused, 1);
    put_int(b, n, 2);
    if (n)
        ds_buf_add(b, e->reason, n);
}

int ds_hash_cache_save(ds_hash_cache *c, ds_error *err) {
    if (!c->path || (!c->changed && !c->aged))
        return 0;
    ds_buf b = {0};
    size_t kept = 0;
    for (size_t i = 0; i < c->cap; i++)
        kept += c->slots[i].taken && c->slots[i].unused <= DS_HASH_CACHE_KEEP;
    ds_buf_add(&b, MAGIC, 8);
    put_int(&b, kept, 8);
    for (size_t i = 0; i < c->cap; i++)
        if (c->slots[i].taken && c->slots[i].unused <= DS_HASH_CACHE_KEEP)
            write_entry(&b, &c->slots[i]);
    char hex[DS_HEX_SIZE];
    uint8_t raw[32];
    ds_digest(b.data, b.len, hex);
    raw_of(raw, hex);
    ds_buf_add(&b, raw, 32);
    int rc = ds_fs_write(c->path, b.data, b.len, err);
    ds_buf_release(&b);
    c->changed = c->aged = c->changed && rc;
    return rc;
}

void ds_hash_cache_close(ds_hash_cache *c) {
    if (!c)
        return;
    clear(c);
    free(c->slots);
    free(c->path);
    free(c);
}
