/* worker/montage.c - `diffscaler-worker montage`: pictures below each other on white. */
#include "base/fs.h"
#include "base/mem.h"
#include "worker/decode.h"
#include "worker/png_write.h"
#include "worker/worker.h"

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

static int stack(const picture *list, int count, const char *out, ds_error *err) {
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
    int rc = ds_png_write(out, sheet, width, height, err);
    free(sheet);
    return rc;
}

int ds_worker_montage(int argc, char **argv) {
    int asked = argc == 1 && (!strcmp(argv[0], "--help") || !strcmp(argv[0], "-h"));
    if (argc < 3 || strcmp(argv[0], "-o") || argc - 2 > MAX_PICTURES) {
        fprintf(
            asked ? stdout : stderr,
            "usage: diffscaler-worker montage -o OUT.png PICTURE...\n\n"
            "Put up to %d pictures below each other.\n\n"
            "example:\n  diffscaler-worker montage -o all.png jobs/2/grid.png jobs/4/grid.png\n",
            MAX_PICTURES);
        return asked ? 0 : 2;
    }
    picture list[MAX_PICTURES] = {0};
    ds_error err = {0};
    int rc = 0, count = argc - 2;
    for (int i = 0; !rc && i < count; i++)
        rc = load(argv[i + 2], &list[i], &err);
    if (!rc)
        rc = stack(list, count, argv[1], &err);
    if (rc)
        fprintf(stderr, "error: %s\n", err.message);
    for (int i = 0; i < count; i++)
        free(list[i].rgb);
    return ds_error_exit(rc);
}
