/* worker/commands/montage.c - `diffscaler-worker montage`: pictures below each other on white. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/png_write.h"
#include "contract/args.h"
#include "worker/decode/decode.h"
#include "worker/commands/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 8, MAX_PICTURES = 64, MAX_BYTES = 64 << 20 };

typedef struct {
    uint8_t *rgb;
    int width, height;
} picture;

static int load(const char *path, picture *p, ds_error *err) {
    char *bytes;
    size_t n;
    ds_image_info info;
    char reason[DS_REASON_SIZE];
    int rc = ds_fs_read(path, MAX_BYTES, &bytes, &n, err);
    if (rc)
        return rc;
    if (ds_decode_rgb(DS_DECODE_TRAIN, (const uint8_t *)bytes, n, DS_DECODE_MAX_PIXELS, &info,
                      &p->rgb, reason))
        rc = ds_fail(err, DS_EINVAL, "cannot read picture '%s': %s", path, reason);
    free(bytes);
    p->width = info.width;
    p->height = info.height;
    return rc;
}

static int stack(const picture *list, int count, const char *out, int force, ds_error *err) {
    char *png = NULL;
    size_t size = 0;
    int width = 0, height = GAP * (count - 1), y = 0;
    for (int i = 0; i < count; i++) {
        width = list[i].width > width ? list[i].width : width;
        height += list[i].height;
    }
    uint8_t *sheet = ds_xmalloc((size_t)width * (size_t)height * 3);
    memset(sheet, 255, (size_t)width * (size_t)height * 3);
    for (int i = 0; i < count; i++, y += GAP)
        for (int row = 0; row < list[i].height; row++, y++)
            memcpy(sheet + (size_t)y * (size_t)width * 3,
                   list[i].rgb + (size_t)row * (size_t)list[i].width * 3,
                   (size_t)list[i].width * 3);
    int rc = ds_png_encode(sheet, width, height, &png, &size, err);
    if (!rc)
        rc = ds_fs_output_write(out, png, size, force, err);
    free(png);
    free(sheet);
    return rc;
}

typedef struct {
    const char *out, *pictures[MAX_PICTURES];
    int force;
    ds_arg_rest rest; /* the pictures */
} arguments;

_Static_assert(MAX_PICTURES == 64, "as the help says");

/* 0: go on; -1: help was printed; else the exit status. */
static int parse(int argc, char **argv, arguments *m) {
    m->rest = (ds_arg_rest){.items = m->pictures, .most = MAX_PICTURES};
    const ds_arg rows[] = {
        {"PICTURE", .type = DS_ARG_REST, .target = &m->rest, .missing = "a picture is missing"},
        {"-o", .metavar = "OUT.png", .type = DS_ARG_STRING, .target = &m->out,
         .help = "what is written", .missing = "-o OUT.png is missing"},
        {"--force", .type = DS_ARG_FLAG, .target = &m->force,
         .help = "replace an existing OUT.png"},
        {NULL}};
    const ds_args a = {.command = "diffscaler-worker montage",
                       .usage = "[--force] -o OUT.png PICTURE...",
                       .about = "Put up to 64 pictures below each other.",
                       .after =
                           "example:\n"
                           "  diffscaler-worker montage -o all.png jobs/2/grid.png jobs/4/grid.png",
                       .extra = "64 pictures at most",
                       .rows = rows};
    ds_error err;
    int rc = ds_args_parse(&a, argc, argv, &err);
    if (!rc && !strcmp(m->out, "-"))
        rc = ds_fail(&err, DS_EINVAL, "-o takes a file, which standard output is not");
    return rc == 1 ? -1 : rc ? ds_args_refuse(&a, &err) : 0;
}

int ds_worker_montage(int argc, char **argv) {
    arguments a = {0};
    picture list[MAX_PICTURES] = {0};
    ds_error err = {0};
    int rc = parse(argc, argv, &a);
    if (rc)
        return rc < 0 ? 0 : rc;
    rc = ds_png_output_check(a.out, a.force, &err);
    for (int i = 0; !rc && i < a.rest.count; i++)
        rc = load(a.pictures[i], &list[i], &err);
    if (!rc)
        rc = stack(list, a.rest.count, a.out, a.force, &err);
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    for (int i = 0; i < a.rest.count; i++)
        free(list[i].rgb);
    return ds_error_exit(rc);
}
