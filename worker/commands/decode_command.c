/* worker/commands/decode_command.c - `diffscaler-worker decode`: the pixels of a picture file, or
 * why none. */
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "contract/args.h"
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
    const char *out;
    enum ds_fid_mode mode;
    int input; /* 1: what the network of that mode reads is written */
    ds_arg_rest files;
} options;

static int take_mode(void *to, const char *name, ds_error *err) {
    return ds_fid_mode_find(name, to, err);
}

/* 0: go on; -1: help was printed; else the exit status. */
static int parse(options *o, int argc, char **argv) {
    const char *as = "train";
    const ds_arg rows[] = {
        {"FILE", .type = DS_ARG_REST, .target = &o->files, .missing = "which files?"},
        {"--as", .metavar = "HOW", .type = DS_ARG_WORD, .target = &as, .words = "train|pillow",
         .help = "as training and its references see it, or as the modes of evaluate that are "
                 "named after a tool do (the pixels of Image.open(FILE).convert(\"RGB\") of Pillow "
                 "13)"},
        {"-o", .metavar = "OUT", .type = DS_ARG_STRING, .target = &o->out,
         .help = "also write the pixels of the one picture, as PPM"},
        {"--input", .metavar = "MODE", .type = DS_ARG_OWN, .target = &o->mode, .take = take_mode,
         .given = &o->input,
         .help = "write what the network of that mode of evaluate reads instead: 299 x 299 x 3 "
                 "numbers of 32 bits, little-endian"},
        {NULL}};
    const ds_args a = {
        .command = "diffscaler-worker decode",
        .usage = "[--as train|pillow] [-o OUT [--input MODE]] FILE...",
        .about = "Print a line of JSON for each picture file: size, SHA-256 of its pixels (8-bit\n"
                 "RGB), what was special about it, or why it has none.",
        .after = "Exits with 0 when all files have pixels, else 1.",
        .rows = rows};
    ds_error err;
    int rc = ds_args_parse(&a, argc, argv, &err);
    if (!rc && o->out && o->files.count > 1)
        rc = ds_fail(&err, DS_EINVAL, "-o takes one picture, not %d", o->files.count);
    if (!rc && o->input && !o->out)
        rc = ds_fail(&err, DS_EINVAL, "--input needs -o OUT");
    o->use = strcmp(as, "train") ? DS_DECODE_PILLOW : DS_DECODE_TRAIN;
    return rc == 1 ? -1 : rc ? ds_args_refuse(&a, &err) : 0;
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
        return ds_fail(err, DS_EINVAL,
                       "a side of the picture is longer than %d pixels: scale it down",
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
    o.files.items = ds_xcalloc((size_t)argc + 1, sizeof *o.files.items);
    int failed = 0, rc = parse(&o, argc, argv);
    if (rc) {
        free(o.files.items);
        return rc < 0 ? 0 : rc;
    }
    rc = ds_sandbox_open(&s, NULL, &err);
    for (int i = 0; !rc && i < o.files.count; i++)
        rc = decode_one(&o, s, o.files.items[i], &failed, &err);
    if (!rc && (fflush(stdout) || ferror(stdout)))
        rc = ds_fail_errno(&err, "cannot write the list");
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    ds_sandbox_close(s);
    free(o.files.items);
    return rc ? ds_error_exit(rc) : failed;
}
