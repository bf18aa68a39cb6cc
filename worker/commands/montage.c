/* worker/commands/montage.c - `diffscaler-worker montage`: pictures below each other on white. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/png_write.h"
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

static const char usage[] =
    "usage: diffscaler-worker montage [--force] -o OUT.png PICTURE...\n\n"
    "Put up to 64 pictures below each other.  --force replaces an existing OUT.png.\n\n"
    "example:\n  diffscaler-worker montage -o all.png jobs/2/grid.png jobs/4/grid.png\n";
_Static_assert(MAX_PICTURES == 64, "as the usage says");

typedef struct {
    const char *out, *pictures[MAX_PICTURES];
    int count, force;
} arguments;

static int parse(int argc, char **argv, arguments *a, ds_error *err) {
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (!strcmp(word, "--force"))
            a->force = 1;
        else if (!strcmp(word, "-o") && i + 1 < argc) {
            if (a->out && strcmp(a->out, argv[i + 1]))
                return ds_fail(err, DS_EINVAL, "-o is given twice: '%.100s' and '%.100s'", a->out,
                               argv[i + 1]);
            a->out = argv[++i];
        } else if (word[0] == '-' || a->count == MAX_PICTURES)
            return ds_fail(err, DS_EINVAL, "unexpected argument '%.100s'; see --help", word);
        else
            a->pictures[a->count++] = word;
    }
    if (!a->out || !a->count)
        return ds_fail(err, DS_EINVAL, "%s is missing; see --help",
                       a->out ? "a picture" : "-o OUT.png");
    if (!strcmp(a->out, "-"))
        return ds_fail(err, DS_EINVAL, "-o takes a file, which standard output is not");
    return 0;
}

int ds_worker_montage(int argc, char **argv) {
    if (argc == 1 && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h")))
        return fputs(usage, stdout), 0;
    arguments a = {0};
    picture list[MAX_PICTURES] = {0};
    ds_error err = {0};
    int rc = parse(argc, argv, &a, &err);
    if (!rc)
        rc = ds_fs_output_check(a.out, a.force, &err);
    for (int i = 0; !rc && i < a.count; i++)
        rc = load(a.pictures[i], &list[i], &err);
    if (!rc)
        rc = stack(list, a.count, a.out, a.force, &err);
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    for (int i = 0; i < a.count; i++)
        free(list[i].rgb);
    return ds_error_exit(rc);
}
