/* tests/long/fixture.c - what the long tests run on, in a folder that is there already: a base of
 * 16x16 that trains in a second (base.safetensors), and pictures for it (ds/).  N of the pictures
 * are noise of 700 x 700, so that decoding takes a while.
 *
 *   fixture DIR [N]
 */
#include "tests/fixtures/worker_fixture.h"

static void make_noise(const char *dir, int n) {
    enum { SIZE = 700 };
    uint8_t *px = ds_xmalloc(SIZE * SIZE * 3);
    uint64_t x = 88172645463325252u;
    ds_error err;
    for (int k = 0; k < n; k++) {
        char *path = ds_xasprintf("%s/ds/warm/noise-%02d.png", dir, k);
        for (int i = 0; i < SIZE * SIZE * 3; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            px[i] = (uint8_t)x;
        }
        must(ds_png_write(path, px, SIZE, SIZE, &err), &err);
        free(path);
    }
    free(px);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return fprintf(stderr, "usage: fixture DIR [N]\n"), 2;
    char *base = ds_xasprintf("%s/base.safetensors", argv[1]), *ds = ds_xasprintf("%s/ds", argv[1]);
    make_base(base, 1);
    make_images(ds, 0);
    make_noise(argv[1], argc > 2 ? (int)strtol(argv[2], NULL, 10) : 0);
    free(base);
    free(ds);
    return 0;
}
