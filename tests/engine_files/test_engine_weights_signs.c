/* tests/engine_files/test_engine_weights_signs.c - wrappers, averages and types: what else stands in a file of several models. */
#include "tests/engine_files/weights_models.h"
#include "base/fs.h"
#include "engine/files/weights.h"
#include "tests/harness.h"
#include "tests/engine_files/weights_files.h"
#include <stdio.h>
#include <stdlib.h>

/* ---------------------------------------------------------------- wrappers, signs, types */

START_TEST(wrappers_inside_names) {
    static const char *const wrappers[] = {
        "module",          "_orig_mod",  "_checkpoint_wrapped_module", "_fsdp_wrapped_module",
        "_forward_module", "_fpw_module"};
    for (size_t k = 0; k < sizeof wrappers / sizeof wrappers[0]; k++) {
        ds_st_writer *w = ds_st_writer_new();
        char name[128];
        snprintf(name, sizeof name, "a.%s.b.%s.w", wrappers[k], wrappers[k]);
        add(w, "ema.", name, '.', 0, AVERAGED);
        snprintf(name, sizeof name, "c.%s.w", wrappers[k]);
        add(w, "ema.", name, '.', 1, AVERAGED);
        add(w, "ema.", "pos_embed", '.', 2, AVERAGED);
        char *path = write_st(w, "wrapped.safetensors");
        ds_error err = {0};
        ck_assert_msg(taken(path, NULL, NULL, &err) == AVERAGED, "%s: %s", wrappers[k],
                      err.message);
        free(path);
    }
}
END_TEST

/* AveragedModel around wrappers: its counter is further out than the names say. */
START_TEST(averages_around_wrappers) {
    static const char *const prefixes[] = {"s.module.", "s.module.module.",
                                           "s.module._orig_mod.module."};
    for (size_t k = 0; k < sizeof prefixes / sizeof prefixes[0]; k++) {
        ds_st_writer *w = ds_st_writer_new();
        const int64_t count = 3;
        for (int i = 0; i < 3; i++) {
            add(w, "net.module.", names[i], '.', i, RAW);
            add(w, prefixes[k], names[i], '.', i, AVERAGED);
        }
        ds_st_writer_add(w, "s.n_averaged", DS_ST_I64, 0, NULL, &count);
        char *path = write_st(w, "counted.safetensors");
        ds_error err = {0};
        int got = taken(path, NULL, NULL, &err);
        ck_assert_msg(got == AVERAGED, "%s: %d %s", prefixes[k], got, err.message);
        free(path);
    }
}
END_TEST

/* Averaged weights of a part of the model, the last blocks missing: a smaller model, were it not
 * for the raw one beside it. */
START_TEST(averages_that_lack_some) {
    ds_st_writer *w = ds_st_writer_new();
    for (int i = 0; i < 3; i++)
        add(w, "model.", names[i], '.', i, RAW);
    add(w, "ema.", names[0], '.', 0, AVERAGED);
    char *path = write_st(w, "part.safetensors");
    static const char *const says[] = {"'ema' have none for 'c.w'", "no tensor 'c.w'"};
    for (int asked = 0; asked < 2; asked++) {
        ds_error err = {0};
        ck_assert_int_eq(taken(path, asked ? "ema" : NULL, NULL, &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, says[asked]) != NULL, "%s", err.message);
    }
    ck_assert_int_eq(taken(path, "model", NULL, NULL), RAW);
    free(path);
}
END_TEST

/* DeepSpeed's ZeRO-3 leaves a state_dict of empty tensors: that is what is said of it. */
START_TEST(tensors_without_numbers) {
    ds_st_writer *w = ds_st_writer_new();
    for (int i = 0; i < 3; i++)
        ds_st_writer_add(w, names[i], DS_ST_F32, 1, (int64_t[]){0}, "");
    char *path = write_st(w, "empty.safetensors");
    ds_error err = {0};
    ck_assert_int_eq(taken(path, NULL, NULL, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "has shape [0]") != NULL, "%s", err.message);
    free(path);
}
END_TEST

/* A tensor of a type that is not read: said when it is beside, refused by name when it is needed,
 * and neither is damage. */
START_TEST(types_that_are_not_read) {
    static const enum ds_st_dtype types[] = {DS_ST_F8_E4M3, DS_ST_F8_E5M2, DS_ST_U16,  DS_ST_U32,
                                             DS_ST_U64,     DS_ST_C64,     DS_ST_BOOL, DS_ST_I64};
    static const char zeros[64];
    for (size_t k = 0; k < 2 * sizeof types / sizeof types[0]; k++) {
        int needed = (int)(k % 2);
        enum ds_st_dtype type = types[k / 2];
        ds_st_writer *w = ds_st_writer_new();
        for (int i = 0; i < 3; i++)
            if (!needed || i != 1)
                add(w, "", names[i], '.', i, RAW);
        ds_st_writer_add(w, needed ? names[1] : "beside", type, 1, &shapes[1], zeros);
        char *path = write_st(w, "types.safetensors");
        ds_error err = {0};
        ds_import_report *report = ds_import_report_new();
        int got = taken(path, NULL, report, &err);
        ck_assert_msg(got == (needed ? DS_EINVAL : RAW), "%s: %d %s", ds_st_dtype_name(type), got,
                      err.message);
        if (needed)
            ck_assert_msg(strstr(err.message, "'c.w'") &&
                              strstr(err.message, ds_st_dtype_name(type)),
                          "%s", err.message);
        const json_t *said =
            json_array_get(json_object_get(ds_import_report_json(report), "ignored"), 0);
        ck_assert_str_eq(ds_json_string(said, "tensors", ""), needed ? "c.w" : "beside");
        ds_import_report_free(report);
        free(path);
    }
}
END_TEST

/* {"a.b.w": _rebuild_tensor_v2(..., metadata)}, the bits of a lazy negation and conjugation. */
static char *with_bits(const char *bits, size_t n, const char *type) {
    ds_buf p = {0};
    ds_buf_add(&p, "\x80\x02}", 3);
    pk_text(&p, "a.b.w");
    pk_global(&p, "torch._utils", "_rebuild_tensor_v2");
    ds_buf_add(&p, "((", 2);
    pk_text(&p, "storage");
    pk_global(&p, "torch", type);
    pk_text(&p, "0");
    pk_text(&p, "cpu");
    pk_int(&p, STORAGE);
    ds_buf_add(&p, "tQK\0(K\2t(K\1t\x89", 13);
    pk_global(&p, "collections", "OrderedDict");
    ds_buf_add(&p, ")R}", 3);
    ds_buf_add(&p, bits, n);
    ds_buf_add(&p, "tRs.", 4);
    ds_buf file = zip_of(&p, storage, sizeof storage);
    char *path = tmp("bits.pt");
    FILE *out = fopen(path, "wb");
    ck_assert(out && fwrite(file.data, 1, file.len, out) == file.len && !fclose(out));
    ds_buf_release(&p);
    ds_buf_release(&file);
    return path;
}

START_TEST(negative_and_conjugate_bits) {
    static const struct {
        const char *bits, *type;
        size_t n;
        float want; /* 0: refused */
    } cases[] = {{"", "FloatStorage", 0, RAW},
                 {"X\3\0\0\0neg\x88s", "FloatStorage", 10, -RAW},
                 {"X\3\0\0\0neg\x89s", "FloatStorage", 10, RAW},
                 {"X\4\0\0\0conj\x89s", "FloatStorage", 11, RAW},
                 {"X\4\0\0\0conj\x88s", "FloatStorage", 11, 0},
                 {"X\4\0\0\0zero\x88s", "FloatStorage", 11, 0},
                 {"X\3\0\0\0neg\x88s", "IntStorage", 10, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = with_bits(cases[i].bits, cases[i].n, cases[i].type);
        ds_weights *w;
        ds_error err = {0};
        const ds_weights_tensor *t;
        float x[2] = {0};
        ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "%s", err.message);
        int rc = ds_weights_need(w, "a.b.w", -1, NULL, &t, &err);
        rc = rc ? rc : ds_weights_read_f32(w, t, x, &err);
        ck_assert_msg(rc == (cases[i].want != 0 ? 0 : DS_EINVAL), "case %zu: %d %s", i, rc,
                      err.message);
        ck_assert_msg(x[0] == cases[i].want && x[1] == cases[i].want, "case %zu: %g", i,
                      (double)x[0]);
        ds_weights_close(w);
        free(path);
    }
}
END_TEST

/* What Python would have to make: beside the model it does not matter, as a tensor of the model it
 * is refused by its class. */
START_TEST(objects_beside_and_inside) {
    for (int needed = 0; needed < 2; needed++) {
        ds_buf p = {0};
        ds_buf_add(&p, "\x80\x02}(", 4);
        for (int i = 0; i < 3; i++)
            if (!needed || i != 1) {
                key(&p, names[i]);
                tensor(&p, i, RAW);
            }
        key(&p, needed ? "c.w" : "best_loss");
        pk_global(&p, "numpy._core.multiarray", "scalar");
        ds_buf_add(&p, ")Ru.", 4);
        ds_buf file = zip_of(&p, storage, sizeof storage);
        char *path = tmp("objects.pt");
        FILE *out = fopen(path, "wb");
        ck_assert(out && fwrite(file.data, 1, file.len, out) == file.len && !fclose(out));
        ds_error err = {0};
        int got = taken(path, NULL, NULL, &err);
        ck_assert_msg(got == (needed ? DS_EINVAL : RAW), "%d: %d %s", needed, got, err.message);
        if (needed)
            ck_assert_msg(strstr(err.message, "'c.w'") &&
                              strstr(err.message, "numpy._core.multiarray.scalar"),
                          "%s", err.message);
        ds_buf_release(&p);
        ds_buf_release(&file);
        free(path);
    }
}
END_TEST

/* A name that is as long as a mark, part by part, is none. */
START_TEST(names_as_long_as_a_mark) {
    static const char *const beside[] = {"d.e.w", "a.b.x", "a.c.w", "b.b.w"};
    for (size_t k = 0; k < sizeof beside / sizeof beside[0]; k++) {
        ds_st_writer *w = ds_st_writer_new();
        for (int i = 0; i < 3; i++)
            add(w, "model.", names[i], '.', i, RAW);
        add(w, "other.", beside[k], '.', 0, OTHER);
        char *path = write_st(w, "beside.safetensors");
        ds_error err = {0};
        int got = taken(path, NULL, NULL, &err);
        ck_assert_msg(got == RAW, "%s: %d %s", beside[k], got, err.message);
        free(path);
    }
}
END_TEST

/* A list fits one of two models, whichever is larger. */
START_TEST(a_list_beside_two_models) {
    for (int first = 0; first < 2; first++) { /* the large one comes before, or behind */
        ds_buf p = {0};
        ds_buf_add(&p, "\x80\x02}(", 4);
        key(&p, "model");
        model_dict(&p, RAW, "", 1);
        key(&p, first ? "a_large" : "z_large");
        model_dict(&p, OTHER, "", 1);
        for (int i = 0; i < 9; i++) {
            char name[16];
            snprintf(name, sizeof name, "x%d", i);
            key(&p, name);
            tensor(&p, 0, OTHER);
            ds_buf_add(&p, "s", 1);
        }
        key(&p, "ema");
        ds_buf_add(&p, "}", 1);
        key(&p, "shadow_params");
        model_list(&p, AVERAGED, 1);
        ds_buf_add(&p, "su.", 3);
        ds_buf file = zip_of(&p, storage, sizeof storage);
        char *path = tmp("two.pt");
        FILE *out = fopen(path, "wb");
        ck_assert(out && fwrite(file.data, 1, file.len, out) == file.len && !fclose(out));
        ds_error err = {0};
        ds_import_report *report = ds_import_report_new();
        int got = taken(path, NULL, report, &err);
        ck_assert_msg(got == AVERAGED, "%d: %d %s", first, got, err.message);
        ck_assert_int_eq(taken(path, "model", NULL, NULL), RAW);
        ck_assert_int_eq(taken(path, "ema", NULL, NULL), AVERAGED);
        const json_t *others =
            json_object_get(json_object_get(ds_import_report_json(report), "weights"), "others");
        ck_assert_int_eq((int)json_array_size(others), 2);
        for (size_t i = 0; i < 2; i++) {
            const json_t *o = json_array_get(others, i);
            int large = strstr(ds_json_string(o, "key", ""), "large") != NULL;
            ck_assert_int_eq(ds_json_int(o, "tensors", 0), large ? 12 : 3);
        }
        ds_import_report_free(report);
        ds_buf_release(&p);
        ds_buf_release(&file);
        free(path);
    }
}
END_TEST

/* Averaged numbers in a form that is not known, under an own key: from half to twice as many as the
 * model has, or objects for half of its tensors, are refused by their name; less is beside it. */
START_TEST(averages_of_an_unknown_form) {
    static const struct {
        int numbers, refused; /* the model has six */
    } flat_ones[] = {{2, 0}, {3, 1}, {6, 1}, {12, 1}, {13, 0}};
    float x[16] = {0};
    ds_error err = {0};
    for (size_t k = 0; k < sizeof flat_ones / sizeof *flat_ones; k++) {
        ds_st_writer *w = ds_st_writer_new();
        for (int i = 0; i < 3; i++)
            add(w, "model.", names[i], '.', i, RAW);
        ds_st_writer_add_f32(w, "ema.all", DS_ST_F32, 1, (int64_t[]){flat_ones[k].numbers}, x);
        char *path = write_st(w, "unknown.safetensors");
        int got = taken(path, NULL, NULL, &err);
        ck_assert_msg(got == (flat_ones[k].refused ? DS_EINVAL : RAW), "%d numbers: %d",
                      flat_ones[k].numbers, got);
        if (flat_ones[k].refused)
            ck_assert_msg(
                strstr(err.message,
                       "holds 'model' and averaged weights in a form that is not known, as "
                       "'ema.all'; --weights model takes the former"),
                "%s", err.message);
        ck_assert_int_eq(taken(path, "model", NULL, NULL), RAW);
        free(path);
    }
    for (int objects = 0; objects <= 2; objects++)
        for (int more = 0; more < 2; more++) { /* of three tensors one is enough, of four two */
            ds_buf p = {0};
            ds_buf_add(&p, "\x80\x02}(", 4);
            key(&p, "model");
            model_dict(&p, RAW, "", 1);
            if (more) {
                key(&p, "more");
                tensor(&p, 0, RAW);
                ds_buf_add(&p, "s", 1);
            }
            key(&p, "ema");
            ds_buf_add(&p, "}", 1);
            for (int i = 0; i < objects; i++) {
                key(&p, names[i]);
                pk_global(&p, "numpy", "array");
                ds_buf_add(&p, ")Rs", 3);
            }
            ds_buf_add(&p, "u.", 2);
            ds_buf file = zip_of(&p, storage, sizeof storage);
            char *path = tmp("unknown.pt");
            FILE *out = fopen(path, "wb");
            ck_assert(out && fwrite(file.data, 1, file.len, out) == file.len && !fclose(out));
            ds_weights *w;
            ck_assert_int_eq(ds_weights_open(&w, path, NULL, &err), 0);
            int rc = ds_weights_choose(w, marks, &err), enough = objects > more;
            ck_assert_msg(rc == (enough ? DS_EINVAL : 0), "%d objects, %d more: %d", objects, more,
                          rc);
            ck_assert(!rc || strstr(err.message, objects == 1 ? "as 'ema.a.b.w'" : "as 'ema.c.w'"));
            ds_weights_close(w);
            ds_buf_release(&p);
            ds_buf_release(&file);
            free(path);
        }
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, averages_of_an_unknown_form);
    tcase_add_test(tc, names_as_long_as_a_mark);
    tcase_add_test(tc, a_list_beside_two_models);
    tcase_add_test(tc, wrappers_inside_names);
    tcase_add_test(tc, averages_around_wrappers);
    tcase_add_test(tc, averages_that_lack_some);
    tcase_add_test(tc, tensors_without_numbers);
    tcase_add_test(tc, types_that_are_not_read);
    tcase_add_test(tc, negative_and_conjugate_bits);
    tcase_add_test(tc, objects_beside_and_inside);
}

int main(void) { return ds_test_main("engine_weights_signs", register_cases); }
