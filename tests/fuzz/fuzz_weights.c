/* tests/fuzz/fuzz_weights.c - libFuzzer target: weight files (make fuzz FUZZ=weights).
 *
 * The first byte says what the rest is: a file as it stands; or the pickle of a zip or of a file
 * from before the zip, which is put around it (a checksum in the way of every change would hide
 * what is behind it).  Then everything that reads tensors and names goes over it.
 *
 * Invariant: what is accepted reads whole, with sizes that agree, or says why not.
 */
#include "engine/names/dit_names.h"
#include "engine/names/vae_names.h"
#include "tests/engine_files/weights_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { READ_MAX = 1 << 22 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_all(ds_weights *w) {
    ds_error err = {0};
    for (size_t i = 0; i < ds_weights_count(w); i++) {
        const ds_weights_tensor *t = ds_weights_at(w, i);
        DS_ASSERT(t->bytes == t->count * ds_st_dtype_size(t->dtype) &&
                  ds_weights_find(w, t->name) == t);
        if (t->bytes > READ_MAX)
            continue;
        void *x = malloc(t->bytes + 1);
        float *f = malloc(t->count * sizeof *f + 1);
        int rc = ds_weights_read(w, t, x, &err);
        DS_ASSERT(!rc || *err.message);
        rc = ds_weights_read_f32(w, t, f, &err);
        DS_ASSERT(!rc || *err.message);
        free(x);
        free(f);
    }
}

static void read_as_models(ds_weights *w) {
    ds_error err = {0};
    ds_dit_names *d;
    ds_vae_config c;
    const char *spelling;
    if (!ds_dit_names_open(&d, w, 1, &err)) {
        DS_ASSERT(!ds_dit_check(ds_dit_names_config(d), NULL));
        for (int i = 0; i < ds_dit_names_table(d)->count; i++) {
            size_t count = ds_dit_names_table(d)->items[i].count;
            float *x = count < READ_MAX ? malloc(count * sizeof *x) : NULL;
            if (x)
                ds_dit_names_read(d, i, x, &err);
            free(x);
        }
        ds_dit_names_free(d);
    } else
        DS_ASSERT(*err.message);
    ds_vae_names_open(w, &c, &spelling, &err);
}

static void open_bytes(const void *data, size_t n) {
    char path[40];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    DS_ASSERT(fd >= 0 && write(fd, data, n) == (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ds_weights *w;
    ds_error err = {0};
    if (!ds_weights_open(&w, path, NULL, &err)) {
        read_all(w);
        read_as_models(w);
        ds_weights_close(w);
    } else
        DS_ASSERT(err.code < 0 && *err.message);
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const float numbers[64];
    if (!n)
        return 0;
    ds_buf p = {0}, f = {0};
    ds_buf_add(&p, data + 1, n - 1);
    if (data[0] == 'Z')
        f = zip_of(&p, numbers, sizeof numbers);
    else if (data[0] == 'L')
        f = legacy_of(&p, "0", 64, numbers, sizeof numbers);
    else
        ds_buf_add(&f, data + 1, n - 1);
    if (f.data)
        open_bytes(f.data, f.len);
    ds_buf_release(&p);
    ds_buf_release(&f);
    return 0;
}
