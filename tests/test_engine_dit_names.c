/* tests/test_engine_dit_names.c - the published sizes of DiT, at 256 and 512 px, known from the
 * shapes alone.  The files have a header and a hole where 2.7 GB of numbers would be. */
#include "base/mem.h"
#include "engine/dit_names.h"
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Parameters at 256 px as counted from facebookresearch/DiT: patch 2, 4, 8. */
static const struct {
    const char *name;
    int depth, width, heads;
    size_t parameters[3];
} sizes[] = {{"S", 12, 384, 6, {32963360, 32945024, 33148160}},
             {"B", 12, 768, 12, {130512416, 130475648, 130881536}},
             {"L", 24, 1024, 16, {458102816, 458053760, 458594816}},
             {"XL", 28, 1152, 16, {675129632, 675074432, 675683072}}};

/* A file of that shape: every tensor of the table with zeros. */
static char *hollow_file(const ds_dit_config *c, const char *prefix) {
    ds_params table = {0};
    ds_dit_tensors(&table, c);
    ds_st_writer *w = ds_st_writer_new();
    for (int i = 0; i < table.count; i++) {
        const ds_param *p = &table.items[i];
        int64_t shape[4];
        char name[160];
        for (int d = 0; d < p->ndim; d++)
            shape[d] = p->shape[d];
        snprintf(name, sizeof name, "%s%s", prefix, p->name);
        ds_st_writer_add(w, name, DS_ST_F32, p->ndim, shape, NULL);
    }
    ds_buf header = {0};
    size_t bytes;
    ck_assert_int_eq(ds_st_writer_header(w, &header, &bytes, NULL), 0);
    char *path = ds_xasprintf("%s/hollow.safetensors", ds_test_tmpdir());
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(header.data, 1, header.len, f) == header.len && !fflush(f));
    ck_assert_int_eq(ftruncate(fileno(f), (off_t)(header.len + bytes)), 0);
    fclose(f);
    ds_buf_release(&header);
    ds_st_writer_free(w);
    ds_params_release(&table);
    return path;
}

START_TEST(published_sizes) {
    static const char *const prefixes[] = {"", "module.", "ema."};
    int size = _i / 3, k = _i % 3;
    for (int side = 32; side <= 64; side *= 2) {
        ds_dit_config c = {.channels = 4,
                           .side = side,
                           .patch = 2 << k,
                           .width = sizes[size].width,
                           .depth = sizes[size].depth,
                           .heads = sizes[size].heads,
                           .mlp_ratio = 4,
                           .classes = 1000,
                           .learn_sigma = 1,
                           .freq_dim = 256,
                           .train_steps = 1000};
        char *path = hollow_file(&c, prefixes[k]);
        ds_weights *w;
        ds_dit_names *d;
        ds_error err;
        ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "%s", err.message);
        ck_assert_int_eq(ds_dit_names_open(&d, w, sizes[size].heads + 1, &err), DS_EINVAL);
        ck_assert_msg(!ds_dit_names_open(&d, w, 0, &err), "%s", err.message);
        const ds_dit_config *is = ds_dit_names_config(d);
        ck_assert_msg(is->side == side && is->patch == c.patch && is->width == c.width &&
                          is->depth == c.depth && is->heads == c.heads && is->classes == 1000 &&
                          is->learn_sigma && is->mlp_ratio == 4 && is->channels == 4 &&
                          is->freq_dim == 256,
                      "%s/%d at %d", sizes[size].name, c.patch, side * 8);
        ck_assert(!is->time_shift && is->norm2_eps_e6 == 1 && is->guidance_channels == 3 &&
                  !is->pixel && is->latent_scale == 0.18215 && is->train_steps == 1000 &&
                  is->beta_start == 1e-4 && is->beta_end == 2e-2);
        if (side == 32)
            ck_assert_uint_eq(ds_dit_names_table(d)->total, sizes[size].parameters[k]);
        ds_dit_names_free(d);
        ds_weights_close(w);
        unlink(path);
        free(path);
    }
}
END_TEST

static void register_cases(TCase *tc) { tcase_add_loop_test(tc, published_sizes, 0, 12); }

int main(void) { return ds_test_main("engine_dit_names", register_cases); }
