/* tests/engine_files/test_engine_weights_parts.c - the parts of a PyTorch file: its zip, what came before
 * the zip, names in pickles. */
#include "tests/engine_files/weights_places.h"
#include "base/fs.h"
#include "engine/files/weights_internal.h"
#include "tests/harness.h"
#include "tests/engine_files/weights_files.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const pk_tensor_spec plain = {"FloatStorage", "0", 12, 0, 1, {12}, {1}};

/* ---------------------------------------------------------------- PyTorch's zip */

static void add_pickle(zip_maker *z, const char *name) {
    ds_buf p = {0};
    pk_model(&p, &plain, 0);
    zm_add(z, name, p.data, p.len);
    ds_buf_release(&p);
}

/* Writes and releases the maker; the file's path. */
static char *zip_file(zip_maker *z) {
    ds_buf f = zm_done(z);
    put(ds_test_tmpdir(), "made.pt", f.data, f.len);
    ds_buf_release(&f);
    return tmp("made.pt");
}

START_TEST(parts_of_a_zip) {
    static const struct {
        const char *pickle, *data, *order, *says; /* NULL: is right */
        int code;
    } cases[] = {
        {"a/data.pkl", "a/data/0", "little", NULL, 0},
        {"a/data.pkl", "a/data/0", NULL, NULL, 0}, /* older writers */
        {"data.pkl", "data/0", NULL, NULL, 0},
        {"a/b/data.pkl", "a/b/data/0", "little", NULL, 0},
        {"a/data.pkl", "data/0", "little", "lacks the data of a tensor", DS_EINTEGRITY},
        {"a/data.pkl", "a/data/0", "LITTLE", "big-endian", DS_EINVAL},
        {"a/data.pkl", "a/data/0", "big", "big-endian", DS_EINVAL},
        {"a/data.pkl", "a/data/0", "littler", "big-endian", DS_EINVAL},
        {"a/xdata.pkl", "a/data/0", "little", "no entry 'data.pkl'", DS_EINVAL},
        {"a/data.pkl.old", "a/data/0", "little", "no entry 'data.pkl'", DS_EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zip_maker z = {0};
        const char *slash = strrchr(cases[i].pickle, '/');
        char name[80];
        add_pickle(&z, cases[i].pickle);
        snprintf(name, sizeof name, "%.*sbyteorder", slash ? (int)(slash + 1 - cases[i].pickle) : 0,
                 cases[i].pickle);
        if (cases[i].order)
            zm_add(&z, name, cases[i].order, strlen(cases[i].order));
        zm_add(&z, cases[i].data, numbers, sizeof numbers);
        char *path = zip_file(&z);
        if (cases[i].says)
            refuses(path, cases[i].code, cases[i].says, cases[i].says);
        else {
            ds_weights *w = opens(path, NULL);
            float x[12];
            ck_assert_str_eq(ds_weights_format(w), "PyTorch zip");
            ck_assert_int_eq(ds_weights_read_f32(w, ds_weights_find(w, "w"), x, NULL), 0);
            ck_assert(!memcmp(x, numbers, sizeof x));
            ck_assert_ptr_null(ds_weights_meta(w, "diffscaler.config"));
            ds_weights_close(w);
        }
        free(path);
    }
}
END_TEST

/* What our own export puts beside the pickle: up to 64 kB of it are read; damage is said. */
START_TEST(configuration_in_a_zip) {
    char *text = ds_xcalloc(1, 70000);
    memset(text, 'c', 69999);
    for (int i = 0; i < 4; i++) {
        size_t n = i == 2 ? 65537 : i == 1 ? 65536 : 5;
        zip_maker z = {0};
        add_pickle(&z, "a/data.pkl");
        zm_add(&z, "a/data/0", numbers, sizeof numbers);
        zm_entry(&z, "a/extra/diffscaler.config", text, n, 0, 0, crc_of(text, n) + (i == 3),
                 (uint32_t)n, (uint32_t)n, 0);
        char *path = zip_file(&z);
        if (i == 3)
            refuses(path, DS_EINTEGRITY, "'a/extra/diffscaler.config' is damaged", "another CRC");
        else {
            ds_weights *w = opens(path, NULL);
            const char *got = ds_weights_meta(w, "diffscaler.config");
            ck_assert(i == 2 ? !got : got && strlen(got) == n && got[0] == 'c');
            ck_assert_ptr_null(ds_weights_meta(w, "format"));
            ds_weights_close(w);
        }
        free(path);
    }
    free(text);
}
END_TEST

/* Any entry that is needed may be packed in a way that PyTorch does not use: said, and no crash. */
START_TEST(entries_that_are_packed_otherwise) {
    static const char *const names[] = {"a/data.pkl", "a/byteorder", "a/data/0",
                                        "a/extra/diffscaler.config"};
    for (int odd = 0; odd < 4; odd++) {
        zip_maker z = {0};
        ds_buf p = {0};
        pk_model(&p, &plain, 0);
        const void *data[] = {p.data, "little", numbers, "{}"};
        const size_t size[] = {p.len, 6, sizeof numbers, 2};
        for (int i = 0; i < 4; i++)
            zm_entry(&z, names[i], data[i], size[i], i == odd ? 77 : 0, 0, crc_of(data[i], size[i]),
                     (uint32_t)size[i], (uint32_t)size[i], 0);
        char *path = zip_file(&z);
        refuses(path, DS_EINVAL, "is encrypted or packed in a way that PyTorch does not use",
                names[odd]);
        ds_buf_release(&p);
        free(path);
    }
}
END_TEST

/* Packed data of another length than the headers say: an end too soon is no data. */
START_TEST(packed_data_of_another_length) {
    for (int more = -4; more <= 4; more += 4) {
        char *path = tmp("packed.pt"), *bytes;
        size_t n;
        ds_buf p = {0};
        pk_tensor_spec t = plain;
        t.elements += more / 4;
        t.shape[0] += more / 4;
        pk_model(&p, &t, 0);
        zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
        zip_file_add(z, "a/data.pkl", zip_source_buffer(z, p.data, p.len, 0), 0);
        zip_file_add(z, "a/data/0", zip_source_buffer(z, numbers, sizeof numbers, 0), 0);
        zip_set_file_compression(z, 0, ZIP_CM_STORE, 0);
        zip_set_file_compression(z, 1, ZIP_CM_DEFLATE, 9);
        ck_assert_int_eq(zip_close(z), 0);
        ck_assert_int_eq(ds_fs_read(path, 1 << 16, &bytes, &n, NULL), 0);
        uint32_t size = (uint32_t)((int)sizeof numbers + more);
        for (size_t i = 0; i + 60 < n; i++) /* the sizes of "a/data/0" in both headers */
            if (!memcmp(bytes + i, "PK\3\4", 4) && !memcmp(bytes + i + 30, "a/data/0", 8))
                memcpy(bytes + i + 22, &size, 4);
            else if (!memcmp(bytes + i, "PK\1\2", 4) && !memcmp(bytes + i + 46, "a/data/0", 8))
                memcpy(bytes + i + 24, &size, 4);
        put(ds_test_tmpdir(), "packed.pt", bytes, n);
        ds_weights *w = NULL;
        ds_error err = {0};
        float x[13];
        int rc = ds_weights_open(&w, path, NULL, &err);
        if (!rc) {
            rc = ds_weights_read_f32(w, ds_weights_find(w, "w"), x, &err);
            ds_weights_close(w);
        }
        ck_assert_msg(rc == (more ? DS_EINTEGRITY : 0), "%d more: %d %s", more, rc, err.message);
        free(bytes);
        ds_buf_release(&p);
        free(path);
    }
}
END_TEST

/* ---------------------------------------------------------------- before the zip */

static char *legacy_file(const char *protocol, size_t np, const char *system, size_t ns,
                         const ds_buf *object, const char *keys, size_t nk, uint64_t count,
                         size_t n) {
    ds_buf b = {0};
    ds_buf_add(&b, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
    ds_buf_add(&b, protocol, np);
    ds_buf_add(&b, system, ns);
    ds_buf_add(&b, object->data, object->len);
    ds_buf_add(&b, keys, nk);
    number(&b, count, 8);
    ds_buf_add(&b, numbers, n);
    put(ds_test_tmpdir(), "legacy.pt", b.data, b.len);
    ds_buf_release(&b);
    return tmp("legacy.pt");
}

#define B(text) text, sizeof(text) - 1

START_TEST(parts_of_a_legacy_file) {
    static const struct {
        const char *protocol;
        size_t np;
        const char *system;
        size_t ns;
        const char *keys;
        size_t nk;
        uint64_t count;
        size_t n;
        const char *says;
        int code;
    } cases[] = {
#define PROTOCOL B("M\xe9\x03.")
#define SYSTEM B("}Vlittle_endian\n\x88s.")
#define KEYS B("](V0\ne.")
        {PROTOCOL, SYSTEM, KEYS, 12, 48, NULL, 0},
        {B("M\xe8\x03."), SYSTEM, KEYS, 12, 48, "unknown kind", DS_EINVAL},
        {B("G\x40\x8f\x48\0\0\0\0\0."), SYSTEM, KEYS, 12, 48, "unknown kind", DS_EINVAL},
        {PROTOCOL, B("}Vlittle_endian\n\x89s."), KEYS, 12, 48, "unknown kind", DS_EINVAL},
        {PROTOCOL, B("}Vlittle_endian\nK\1s."), KEYS, 12, 48, "unknown kind", DS_EINVAL},
        {PROTOCOL, B("}."), KEYS, 12, 48, "unknown kind", DS_EINVAL},
        {PROTOCOL, SYSTEM, B("(V0\nt."), 12, 48, "has no list of storages", DS_EINTEGRITY},
        {PROTOCOL, SYSTEM, B("](K\0e."), 12, 48, "that no tensor has", DS_EINTEGRITY},
        {PROTOCOL, SYSTEM, B("](V00\ne."), 12, 48, "that no tensor has", DS_EINTEGRITY},
        {PROTOCOL, SYSTEM, B("](V\ne."), 12, 48, "that no tensor has", DS_EINTEGRITY},
        {PROTOCOL, SYSTEM, B("](V0\nV0\ne."), 12, 48, "or twice", DS_EINTEGRITY},
        {PROTOCOL, SYSTEM, B("]."), 12, 48, "lacks the data of a storage", DS_EINTEGRITY},
        {PROTOCOL, SYSTEM, KEYS, 13, 48, "another size", DS_EINTEGRITY},
        {PROTOCOL, SYSTEM, KEYS, 12, 47, "cut off", DS_EINTEGRITY},
        {PROTOCOL, SYSTEM, KEYS, 12, 0, "cut off", DS_EINTEGRITY},
        {B("M\xe9."), SYSTEM, KEYS, 12, 48, "", DS_EINTEGRITY},
        {PROTOCOL, B("}Vlittle_endian"), KEYS, 12, 48, "", DS_EINTEGRITY},
    };
    ds_buf object = {0};
    pk_model(&object, &plain, 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = legacy_file(cases[i].protocol, cases[i].np, cases[i].system, cases[i].ns,
                                 &object, cases[i].keys, cases[i].nk, cases[i].count, cases[i].n);
        ds_weights *w = NULL;
        ds_error err = {0};
        int rc = ds_weights_open(&w, path, NULL, &err);
        ck_assert_msg(rc == cases[i].code, "case %zu: %d %s", i, rc, err.message);
        ck_assert_msg(!rc || strstr(err.message, cases[i].says), "case %zu: %s", i, err.message);
        if (!rc) {
            float x[12];
            ck_assert_str_eq(ds_weights_format(w), "PyTorch pickle");
            ck_assert_int_eq(ds_weights_read_f32(w, ds_weights_find(w, "w"), x, NULL), 0);
            ck_assert(!memcmp(x, numbers, sizeof x));
            ds_weights_close(w);
        }
        free(path);
    }
    ds_buf_release(&object);
}
END_TEST

/* Two storages of one name; and one that has no data. */
START_TEST(storages_of_a_legacy_file) {
    static const struct {
        pk_tensor_spec second;
        const char *says; /* NULL: is right */
        int code;
    } pairs[] = {
        {{"FloatStorage", "0", 12, 4, 1, {2}, {1}}, NULL, 0},
        {{"FloatStorage", "0", 11, 0, 1, {2}, {1}}, "two storages of one name", DS_EINTEGRITY},
        {{"IntStorage", "0", 12, 0, 1, {2}, {1}}, "two storages of one name", DS_EINTEGRITY},
        {{"NewStorage", "0", 12, 0, 1, {2}, {1}}, "two storages of one name", DS_EINTEGRITY},
        {{"FloatStorage", "1", 12, 0, 1, {2}, {1}}, "lacks the data", DS_EINTEGRITY}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        ds_buf p = {0};
        ds_buf_add(&p, "\x80\x02}(", 4);
        pk_text(&p, "w");
        pk_tensor(&p, &plain, 1);
        pk_text(&p, "v");
        pk_tensor(&p, &pairs[i].second, 1);
        ds_buf_add(&p, "u.", 2);
        char *path = legacy_file(PROTOCOL, SYSTEM, &p, KEYS, 12, 48);
        if (pairs[i].says)
            refuses(path, pairs[i].code, pairs[i].says, pairs[i].says);
        else {
            ds_weights *w = opens(path, NULL);
            float x[2];
            ck_assert_int_eq(ds_weights_read_f32(w, ds_weights_find(w, "v"), x, NULL), 0);
            ck_assert(x[0] == 5 && x[1] == 6);
            ds_weights_close(w);
        }
        ds_buf_release(&p);
        free(path);
    }
}
END_TEST

/* ---------------------------------------------------------------- names in pickles */

/* {name: tensor, ...} in a zip. */
static char *named(int count, const char *const *names) {
    ds_buf p = {0};
    zip_maker z = {0};
    ds_buf_add(&p, "\x80\x02}(", 4);
    for (int i = 0; i < count; i++) {
        pk_text(&p, names[i]);
        pk_tensor(&p, &plain, 0);
    }
    ds_buf_add(&p, "u.", 2);
    zm_add(&z, "a/data.pkl", p.data, p.len);
    zm_add(&z, "a/data/0", numbers, sizeof numbers);
    ds_buf_release(&p);
    return zip_file(&z);
}

START_TEST(names_of_tensors) {
    char long_name[258];
    memset(long_name, 'n', 257);
    long_name[257] = 0;
    const char *names[] = {"w", long_name + 1, long_name, "caf\xc3\xa9", "a\x7f", "a\x1f", "a b~"};
    char *path = named(7, names);
    ds_weights *w = opens(path, NULL);
    ck_assert_uint_eq(ds_weights_count(w), 3);
    ck_assert_uint_eq(w->odd_names, 4);
    ck_assert(ds_weights_find(w, "w") && ds_weights_find(w, "a b~") &&
              ds_weights_find(w, long_name + 1));
    ds_weights_close(w);
    free(path);
    path = named(2, (const char *[]){"w", "w"});
    refuses(path, DS_EINVAL, "two tensors that are both called 'w'", "one name twice");
    free(path);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, parts_of_a_zip);
    tcase_add_test(tc, configuration_in_a_zip);
    tcase_add_test(tc, entries_that_are_packed_otherwise);
    tcase_add_test(tc, packed_data_of_another_length);
    tcase_add_test(tc, parts_of_a_legacy_file);
    tcase_add_test(tc, storages_of_a_legacy_file);
    tcase_add_test(tc, names_of_tensors);
}

int main(void) { return ds_test_main("engine_weights_parts", register_cases); }
