/* worker/images/picture_stream.c - threads: decoders fill slots in the order of the list, the
 * caller empties them.  Slot of item i: i % slots.  Invariant, under `lock`: items [base, base +
 * slots) may be in work or ready, those before base are given back, those behind wait. */
#include "worker/images/picture_stream.h"
#include "base/mem.h"
#include "base/rng.h"
#include "worker/decode/sandbox.h"
#include "worker/images/scan_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILES_MAX = 10000000 };

enum state { WAITING, READY, REJECTED };

typedef struct {
    enum state state;
    float *image;
    unsigned notes; /* READY: ds_image_info.notes */
    int width, height;
    char sha256[DS_HEX_SIZE];
} slot;

typedef struct {
    int64_t count;
    const char *first; /* points into the list of files */
} noted;

struct ds_picture_stream {
    ds_picture_options o;
    int root_fd;
    ds_candidate_list files;
    uint32_t *chosen; /* NULL = all; else (total) positions in files, ascending */
    int64_t total;
    slot *slots;
    int slot_count;
    pthread_t threads[DS_PICTURE_DECODERS_MAX];
    int thread_count;
    pthread_mutex_t lock;
    pthread_cond_t ready, room;
    int64_t base, next, given; /* under lock; given: up to where the last call went */
    int stop;
    ds_error error;                    /* the first */
    ds_rejected_list rejected, broken; /* under lock */
    noted notes[DS_NOTE_COUNT], other_size;
    int width, height;        /* of the first picture given out */
    ds_sha256 *hash;          /* of an .npz: under npz_lock */
    pthread_mutex_t npz_lock; /* taken before `lock` */
};

static const ds_candidate *file_at(const ds_picture_stream *s, int64_t i) {
    return &s->files.items[s->chosen ? (int64_t)s->chosen[i] : i];
}

/* ---------------------------------------------------------------- decoding */

/* As any program would: through links, wherever they lead. */
static int open_anywhere(int root_fd, const char *path, struct stat *st,
                         char reason[DS_REASON_SIZE]) {
    int fd = openat(root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    int why = fd < 0 || fstat(fd, st) ? errno : 0;
    if (!why && S_ISREG(st->st_mode))
        return fd;
    if (why)
        snprintf(reason, DS_REASON_SIZE, "cannot be read: %s", strerror(why));
    else
        snprintf(reason, DS_REASON_SIZE, "not a regular file");
    if (fd >= 0)
        close(fd);
    errno = why;
    return -1;
}

/* The file decoded and preprocessed into the slot; 0, or 1 with a reason and a verdict.  Negative:
 * cannot go on. */
static int decode(ds_picture_stream *s, ds_sandbox *box, const ds_candidate *file, slot *to,
                  enum ds_decode_verdict *verdict, char reason[DS_REASON_SIZE], ds_error *err) {
    struct stat st;
    ds_sandbox_reply reply;
    int fd = s->o.follow_links ? open_anywhere(s->root_fd, file->path, &st, reason)
                               : ds_open_beneath(s->root_fd, file->path, &st, reason);
    *verdict = DS_DECODE_BROKEN; /* also a file that no program can read */
    if (fd < 0)
        return ds_machine_fails(file->path, err) ? err->code : 1;
    int bad = 1, rc = 0;
    if (st.st_size < 1 || st.st_size > (off_t)DS_FILE_MAX)
        snprintf(reason, DS_REASON_SIZE, "%s", st.st_size < 1 ? "empty" : "larger than 128 MiB");
    else
        bad = ds_read_hashed(fd, ds_sandbox_input(box), (size_t)st.st_size, to->sha256, reason) !=
                  0 &&
              !(rc = ds_machine_fails(file->path, err));
    close(fd);
    if (rc)
        return rc;
    if (bad) {
        *verdict = st.st_size > (off_t)DS_FILE_MAX ? DS_DECODE_TOO_LARGE : DS_DECODE_BROKEN;
        return 1;
    }
    rc = ds_sandbox_run(box, DS_SANDBOX_FULL, s->o.use, (size_t)st.st_size, 0, DS_DECODE_MAX_PIXELS,
                        &reply, err);
    if (rc)
        return ds_error_prefix(err, "'%s'", file->path);
    if (!reply.ok || reply.info.width > DS_FID_PICTURE_SIDE_MAX ||
        reply.info.height > DS_FID_PICTURE_SIDE_MAX) {
        snprintf(reason, DS_REASON_SIZE, "%s", reply.ok ? "too long a side" : reply.reason);
        *verdict = reply.ok ? DS_DECODE_TOO_LARGE : reply.info.verdict;
        return 1;
    }
    to->notes = reply.info.notes;
    to->width = reply.info.width;
    to->height = reply.info.height;
    ds_fid_preprocess(s->o.mode, s->o.side, to->image, ds_sandbox_output(box), reply.info.width,
                      reply.info.height);
    return 0;
}

static void fail_all(ds_picture_stream *s, const ds_error *err) {
    pthread_mutex_lock(&s->lock);
    if (!s->error.code)
        s->error = *err;
    s->stop = 1;
    pthread_cond_broadcast(&s->ready);
    pthread_cond_broadcast(&s->room);
    pthread_mutex_unlock(&s->lock);
}

/* The next item to decode, when its slot is free; -1 = nothing more to do. */
static int64_t take_item(ds_picture_stream *s) {
    int64_t i = -1;
    pthread_mutex_lock(&s->lock);
    if (!s->stop && s->next < s->total) {
        i = s->next++;
        while (!s->stop && i >= s->base + s->slot_count)
            pthread_cond_wait(&s->room, &s->lock);
        if (s->stop)
            i = -1;
    }
    pthread_mutex_unlock(&s->lock);
    return i;
}

static void *decoder(void *arg) {
    ds_picture_stream *s = arg;
    ds_sandbox *box = NULL;
    ds_sandbox_options so = {.program = s->o.program};
    ds_error err = {0};
    int64_t i;
    int rc = ds_sandbox_open(&box, &so, &err);
    while (rc >= 0 && (i = take_item(s)) >= 0) {
        slot *to = &s->slots[i % s->slot_count];
        const ds_candidate *file = file_at(s, i);
        char reason[DS_REASON_SIZE] = "";
        enum ds_decode_verdict verdict;
        rc = decode(s, box, file, to, &verdict, reason, &err);
        if (rc < 0)
            break;
        pthread_mutex_lock(&s->lock);
        to->state = rc ? REJECTED : READY;
        if (rc)
            ds_rejected_add(&s->rejected, file->path, "%s", reason);
        if (rc && verdict == DS_DECODE_BROKEN)
            ds_rejected_add(&s->broken, file->path, "%s", reason);
        pthread_cond_broadcast(&s->ready);
        pthread_mutex_unlock(&s->lock);
    }
    if (rc < 0)
        fail_all(s, &err);
    ds_sandbox_close(box);
    return NULL;
}

/* The next picture of the .npz into rgb; -1 = nothing more, or an error.  The order of reading is
 * that of the items. */
static int64_t take_from_npz(ds_picture_stream *s, uint8_t *rgb, size_t size, ds_error *err) {
    pthread_mutex_lock(&s->npz_lock);
    int64_t i = take_item(s);
    int rc = i < 0 ? 0 : ds_npz_pictures_next(s->o.npz, rgb, err);
    if (i >= 0 && !rc)
        ds_sha256_add(s->hash, rgb, size);
    pthread_mutex_unlock(&s->npz_lock);
    if (rc)
        fail_all(s, err);
    return rc ? -1 : i;
}

static void *npz_reader(void *arg) {
    ds_picture_stream *s = arg;
    ds_error err = {0};
    int w = ds_npz_pictures_width(s->o.npz), h = ds_npz_pictures_height(s->o.npz);
    size_t size = (size_t)w * (size_t)h * 3;
    uint8_t *rgb = ds_xmalloc(size);
    int64_t i;
    while ((i = take_from_npz(s, rgb, size, &err)) >= 0) {
        slot *to = &s->slots[i % s->slot_count];
        ds_fid_preprocess(s->o.mode, s->o.side, to->image, rgb, w, h);
        pthread_mutex_lock(&s->lock);
        to->state = READY;
        to->width = w;
        to->height = h;
        pthread_cond_broadcast(&s->ready);
        pthread_mutex_unlock(&s->lock);
    }
    free(rgb);
    return NULL;
}

/* ---------------------------------------------------------------- the list */

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void choose(ds_picture_stream *s) {
    uint32_t all = (uint32_t)s->files.count;
    s->total = s->files.count;
    if (!s->o.n || s->o.n >= s->total)
        return;
    s->total = s->o.n;
    if (s->o.first_n)
        return;
    s->chosen = ds_xmalloc(all * sizeof *s->chosen);
    ds_rng_permutation(s->chosen, all, s->o.seed, DS_STREAM_SPLIT, 2);
    qsort(s->chosen, (size_t)s->total, sizeof *s->chosen, ascending);
}

static void take_files(ds_picture_stream *s) {
    s->files.items = ds_xcalloc((size_t)s->o.file_count + 1, sizeof *s->files.items);
    for (; s->files.count < s->o.file_count; s->files.count++)
        s->files.items[s->files.count].path = ds_xstrdup(s->o.files[s->files.count]);
}

static int list_npz(ds_picture_stream *s, ds_error *err) {
    int64_t side = ds_npz_pictures_width(s->o.npz);
    s->total = ds_npz_pictures_count(s->o.npz);
    if (s->o.n && s->o.n < s->total)
        s->total = s->o.n;
    if (side * ds_npz_pictures_height(s->o.npz) > DS_DECODE_MAX_PIXELS)
        return ds_fail(err, DS_ELIMIT, "pictures of %lld x %d: more than %lld pixels",
                       (long long)side, ds_npz_pictures_height(s->o.npz),
                       (long long)DS_DECODE_MAX_PIXELS);
    return 0;
}

static int list_files(ds_picture_stream *s, ds_error *err) {
    if (s->o.npz)
        return list_npz(s, err);
    s->root_fd = open(s->o.folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->root_fd < 0)
        return ds_fail_errno(err, "cannot open folder '%.300s'", s->o.folder);
    int rc = 0;
    if (s->o.files)
        take_files(s);
    else
        rc = ds_walk(s->root_fd, FILES_MAX, &s->files, &s->rejected, NULL, NULL, err);
    if (!rc && !s->files.count)
        rc = ds_fail(err, DS_EINVAL, "'%.300s' has no picture file", s->o.folder);
    if (!rc)
        choose(s);
    return rc;
}

int ds_picture_stream_open(ds_picture_stream **out, const ds_picture_options *o, ds_error *err) {
    DS_ASSERT(o->batch >= 1 && o->decoders >= 1 && o->decoders <= DS_PICTURE_DECODERS_MAX &&
              o->n >= 0);
    ds_picture_stream *s = ds_xcalloc(1, sizeof *s);
    s->o = *o;
    s->o.side = o->side ? o->side : DS_INCEPTION_SIDE;
    s->root_fd = -1;
    s->hash = ds_sha256_new();
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->npz_lock, NULL);
    pthread_cond_init(&s->ready, NULL);
    pthread_cond_init(&s->room, NULL);
    int rc = list_files(s, err);
    if (rc) {
        ds_picture_stream_close(s);
        return rc;
    }
    s->slot_count = 2 * o->batch + o->decoders;
    s->slots = ds_xcalloc((size_t)s->slot_count, sizeof *s->slots);
    for (int i = 0; i < s->slot_count; i++)
        s->slots[i].image = ds_xaligned((size_t)s->o.side * (size_t)s->o.side * 3 * sizeof(float));
    for (int i = 0; i < o->decoders && i < s->total; i++) {
        if (pthread_create(&s->threads[i], NULL, o->npz ? npz_reader : decoder, s)) {
            ds_picture_stream_close(s);
            return ds_fail(err, DS_EFAILED, "cannot start a decoding thread");
        }
        s->thread_count++;
    }
    *out = s;
    return 0;
}

void ds_picture_stream_close(ds_picture_stream *s) {
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = 1;
    pthread_cond_broadcast(&s->room);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->thread_count; i++)
        pthread_join(s->threads[i], NULL);
    for (int i = 0; i < s->slot_count; i++)
        free(s->slots[i].image);
    if (s->root_fd >= 0)
        close(s->root_fd);
    free(s->slots);
    free(s->chosen);
    ds_candidates_release(&s->files);
    ds_rejected_release(&s->rejected);
    ds_rejected_release(&s->broken);
    ds_sha256_free(s->hash);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->npz_lock);
    pthread_cond_destroy(&s->ready);
    pthread_cond_destroy(&s->room);
    free(s);
}

int64_t ds_picture_stream_total(const ds_picture_stream *s) { return s->total; }
int64_t ds_picture_stream_done(const ds_picture_stream *s) { return s->given; }
int64_t ds_picture_stream_left_out(ds_picture_stream *s) {
    pthread_mutex_lock(&s->lock);
    int64_t n = s->rejected.count;
    pthread_mutex_unlock(&s->lock);
    return n;
}
const ds_rejected_list *ds_picture_stream_rejected(const ds_picture_stream *s) {
    return &s->rejected;
}
const ds_rejected_list *ds_picture_stream_broken(const ds_picture_stream *s) { return &s->broken; }

int64_t ds_picture_stream_noted(const ds_picture_stream *s, unsigned note, const char **first) {
    DS_ASSERT(note && !(note & (note - 1)) && note < 1u << DS_NOTE_COUNT);
    const noted *n = &s->notes[__builtin_ctz(note)];
    *first = n->first;
    return n->count;
}

int64_t ds_picture_stream_other_sizes(const ds_picture_stream *s, const char **path) {
    *path = s->other_size.first;
    return s->other_size.count;
}

const char *ds_picture_stream_path(const ds_picture_stream *s, int64_t i) {
    return s->o.npz ? "" : file_at(s, i)->path;
}

/* ---------------------------------------------------------------- giving out */

/* Slots of the last call become free.  Under lock. */
static void give_back(ds_picture_stream *s) {
    for (; s->base < s->given; s->base++)
        s->slots[s->base % s->slot_count].state = WAITING;
    pthread_cond_broadcast(&s->room);
}

static void add_notes(ds_picture_stream *s, int64_t i) {
    const slot *at = &s->slots[i % s->slot_count];
    unsigned notes = at->notes;
    if (!s->width) {
        s->width = at->width;
        s->height = at->height;
    } else if ((at->width != s->width || at->height != s->height) && !s->other_size.count++)
        s->other_size.first = file_at(s, i)->path;
    for (int k = 0; k < DS_NOTE_COUNT; k++) {
        if (!(notes & 1u << k))
            continue;
        if (!s->notes[k].count++)
            s->notes[k].first = file_at(s, i)->path;
    }
}

static void add_to_digest(ds_picture_stream *s, int64_t i) {
    const char *path = file_at(s, i)->path;
    ds_sha256_add(s->hash, s->slots[i % s->slot_count].sha256, DS_HEX_SIZE - 1);
    ds_sha256_add(s->hash, "  ", 2);
    ds_sha256_add(s->hash, path, strlen(path));
    ds_sha256_add(s->hash, "\n", 1);
}

int ds_picture_stream_next(ds_picture_stream *s, const float **images, int64_t *indices, int *count,
                           ds_error *err) {
    *count = 0;
    pthread_mutex_lock(&s->lock);
    give_back(s);
    while (*count < s->o.batch && s->given < s->total && s->given < s->base + s->slot_count) {
        const slot *at = &s->slots[s->given % s->slot_count];
        while (!s->stop && at->state == WAITING)
            pthread_cond_wait(&s->ready, &s->lock);
        if (s->stop)
            break;
        if (at->state == READY) {
            images[*count] = at->image;
            indices[(*count)++] = s->given;
            if (!s->o.npz)
                add_to_digest(s, s->given);
            add_notes(s, s->given);
        }
        s->given++;
        if (!*count) /* a long run of rejected files must not fill the ring */
            give_back(s);
    }
    int rc = s->stop ? ds_fail(err, s->error.code, "%s", s->error.message) : 0;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void ds_picture_stream_digest(ds_picture_stream *s, char out[DS_HEX_SIZE]) {
    ds_sha256_hex(s->hash, out);
}
