/* worker/commands/pixels_cmd.c - `diffscaler-worker decode`: the pixels of a picture file, or why
 * none. */
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/metrics/fid_net.h"
#include "worker/decode/sandbox.h"
#include "worker/commands/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const verdicts[] = {"decoded", "broken", "unsupported", "too large", "gave up"};
static const char *const notes[DS_NOTE_COUNT] = {"alpha", "orientation", "deep",
                                                 "cmyk",  "animated",    "damaged"};

typedef struct {
    enum ds_decode_use use;
    const char *out, *input;
    enum ds_fid_mode mode; /* when input is given */
    const char **files;
    int count;
} options;

static void usage(FILE *to) {
    fputs(
        "usage: diffscaler-worker decode [--as train|pillow] [-o FILE [--input MODE]] FILE...\n\n"
        "Print a line of JSON for each picture file: size, SHA-256 of its pixels (8-bit RGB), "
        "what\n"
        "was special about it, or why it has none.\n"
        "  --as train    as training and its references see it (the default)\n"
        "  --as pillow   as the modes of evaluate that are named after a tool see it: the pixels\n"
        "                of Image.open(FILE).convert(\"RGB\") of Pillow 13\n"
        "  -o FILE       also write the pixels of the one picture, as PPM\n"
        "  --input MODE  write what the network of that mode of evaluate reads instead: 299 x 299\n"
        "                x 3 numbers of 32 bits, little-endian\n\n"
        "Exits with 0 when all files have pixels, else 1.\n",
        to);
}

/* Nothing is overruled in silence. */
static int again(const char *option, const char *before, const char *value) {
    if (!before || !strcmp(before, value))
        return 0;
    fprintf(stderr, "error: %s is given twice, as '%s' and as '%s'\n", option, before, value);
    return 1;
}

/* 0 go on, 1 help was printed, negative a mistake. */
static int parse(options *o, int argc, char **argv) {
    o->files = ds_xcalloc((size_t)argc + 1, sizeof *o->files);
    const char *as = NULL;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            usage(stdout);
            return 1;
        }
        if (!strcmp(a, "--as") && value && (!strcmp(value, "train") || !strcmp(value, "pillow"))) {
            if (again(a, as, value))
                return -1;
            as = value;
            o->use = strcmp(value, "train") ? DS_DECODE_PILLOW : DS_DECODE_TRAIN;
            i++;
        } else if (!strcmp(a, "-o") && value) {
            if (again(a, o->out, value))
                return -1;
            o->out = value;
            i++;
        } else if (!strcmp(a, "--input") && value && !ds_fid_mode_find(value, &o->mode, NULL)) {
            if (again(a, o->input, value))
                return -1;
            o->input = value;
            i++;
        } else if (a[0] == '-') {
            fprintf(stderr, "error: bad option or value '%s'\n", a);
            return -1;
        } else {
            o->files[o->count++] = a;
        }
    }
    if (!o->count || (o->out && o->count > 1) || (o->input && !o->out)) {
        fprintf(stderr, "error: %s; see diffscaler-worker decode --help\n",
                !o->count                ? "which files?"
                : o->out && o->count > 1 ? "-o takes one picture"
                                         : "--input needs -o");
        return -1;
    }
    return 0;
}

/* The file's bytes in the sandbox; 0, or 1 with a reason. */
static int load(ds_sandbox *s, const char *path, size_t *size, char reason[DS_REASON_SIZE]) {
    struct stat st;
    char sha256[DS_HEX_SIZE];
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC), bad = 1;
    if (fd < 0 || fstat(fd, &st))
        snprintf(reason, DS_REASON_SIZE, "cannot be read: %s", strerror(errno));
    else if (!S_ISREG(st.st_mode))
        snprintf(reason, DS_REASON_SIZE, "not a regular file");
    else if (st.st_size > (off_t)DS_FILE_MAX)
        snprintf(reason, DS_REASON_SIZE, "larger than %u MiB", DS_FILE_MAX >> 20);
    else
        bad = ds_read_hashed(fd, ds_sandbox_input(s), (size_t)st.st_size, sha256, reason) != 0;
    if (fd >= 0)
        close(fd);
    *size = bad ? 0 : (size_t)st.st_size;
    return bad;
}

static void print_line(const options *o, const char *path, const ds_sandbox_reply *r,
                       const uint8_t *rgb) {
    char *name = ds_name_escape(path), sha256[DS_HEX_SIZE];
    json_t *list = json_array();
    for (int k = 0; k < DS_NOTE_COUNT; k++)
        if (r->info.notes & 1u << k)
            json_array_append_new(list, json_string(notes[k]));
    json_t *doc = json_pack("{s:s, s:s, s:s, s:o}", "path", name, "decode", ds_decode_id(o->use),
                            "verdict", verdicts[r->info.verdict], "notes", list);
    DS_ASSERT(doc);
    if (r->ok) {
        ds_digest(rgb, (size_t)r->info.width * (size_t)r->info.height * 3, sha256);
        json_object_set_new(doc, "width", json_integer(r->info.width));
        json_object_set_new(doc, "height", json_integer(r->info.height));
        json_object_set_new(doc, "sha256", json_string(sha256));
    } else {
        json_object_set_new(doc, "reason", json_string(r->reason));
    }
    char *text = ds_json_canonical(doc);
    puts(text);
    free(text);
    json_decref(doc);
    free(name);
}

static int write_ppm(const char *path, const ds_image_info *info, const uint8_t *rgb,
                     ds_error *err) {
    ds_buf b = {0};
    ds_buf_addf(&b, "P6\n%d %d\n255\n", info->width, info->height);
    ds_buf_add(&b, rgb, (size_t)info->width * (size_t)info->height * 3);
    int rc = ds_fs_write(path, b.data, b.len, err);
    free(b.data);
    return rc;
}

static int write_input(const options *o, const ds_image_info *info, const uint8_t *rgb,
                       ds_error *err) {
    if (info->width > DS_FID_PICTURE_SIDE_MAX || info->height > DS_FID_PICTURE_SIDE_MAX)
        return ds_fail(err, DS_EINVAL, "a side of the picture is longer than %d pixels",
                       DS_FID_PICTURE_SIDE_MAX);
    float *x = ds_xaligned(DS_INCEPTION_PIXELS * sizeof *x);
    ds_fid_preprocess(o->mode, DS_INCEPTION_SIDE, x, rgb, info->width, info->height);
    int rc = ds_fs_write(o->out, x, DS_INCEPTION_PIXELS * sizeof *x, err);
    free(x);
    return rc;
}

static int decode_one(const options *o, ds_sandbox *s, const char *path, int *failed,
                      ds_error *err) {
    ds_sandbox_reply r = {.info.verdict = DS_DECODE_BROKEN};
    size_t size;
    int rc = 0;
    if (!load(s, path, &size, r.reason))
        rc = ds_sandbox_run(s, DS_SANDBOX_FULL, o->use, size, 0, DS_DECODE_MAX_PIXELS, &r, err);
    if (rc)
        return ds_error_prefix(err, "'%s'", path);
    *failed |= !r.ok;
    print_line(o, path, &r, ds_sandbox_output(s));
    if (!r.ok || !o->out)
        return 0;
    return o->input ? write_input(o, &r.info, ds_sandbox_output(s), err)
                    : write_ppm(o->out, &r.info, ds_sandbox_output(s), err);
}

int ds_worker_decode(int argc, char **argv) {
    options o = {0};
    ds_sandbox *s = NULL;
    ds_error err = {0};
    int failed = 0, rc = parse(&o, argc, argv);
    if (rc) {
        free(o.files);
        return rc < 0 ? 2 : 0;
    }
    rc = ds_sandbox_open(&s, NULL, &err);
    for (int i = 0; !rc && i < o.count; i++)
        rc = decode_one(&o, s, o.files[i], &failed, &err);
    if (!rc && (fflush(stdout) || ferror(stdout)))
        rc = ds_fail_errno(&err, "cannot write the list");
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    ds_sandbox_close(s);
    free(o.files);
    return rc ? ds_error_exit(rc) : failed;
}
