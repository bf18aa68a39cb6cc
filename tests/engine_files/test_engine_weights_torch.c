/* tests/engine_files/test_engine_weights_torch.c - what stands around the tensors of a PyTorch file: lists, objects with
 * slots, functions of PyTorch, nests, packed entries; and what a file of nothing says. */
#include "tests/engine_files/weights_places.h"

#define B(text) text, sizeof(text) - 1

static const pk_tensor_spec plain = {"FloatStorage", "0", 12, 0, 1, {12}, {1}};

/* A zip with this pickle and one storage, written to made.pt; its path. */
static char *file_of(const ds_buf *pickle) {
    ds_buf file = zip_of(pickle, numbers, sizeof numbers);
    put(ds_test_tmpdir(), "made.pt", file.data, file.len);
    ds_buf_release(&file);
    return tmp("made.pt");
}

/* before + tensor + after is a pickle. */
static ds_buf around(const char *before, size_t nb, const char *after, size_t na) {
    ds_buf p = {0};
    ds_buf_add(&p, before, nb);
    pk_tensor(&p, &plain, 0);
    ds_buf_add(&p, after, na);
    return p;
}

/* The tensor of a file is found under this name, whatever is around it. */
START_TEST(what_is_around_a_tensor) {
    static const struct {
        const char *before, *after;
        size_t nb, na;
        const char *name;
    } cases[] = {
#define CASE(before, after, name) {before, after, sizeof(before) - 1, sizeof(after) - 1, name}
        CASE("}Vw\n", "s.", "w"),
        CASE("]", "a.", "0"),                          /* a list of tensors */
        CASE("(I5\n", "t.", "1"),                      /* a tuple */
        CASE("(N}Vw\n", "st.", "1.w"),                 /* the second of a tuple is a model */
        CASE("cx\nY\n)R(N}Vw\n", "stb.", "w"),         /* an object of (state, slots) */
        CASE("cx\nY\n)R(}Vw\n", "sNtb.", "w"),         /* .. and of a state without slots */
        CASE("cx\nY\n)R}Vw\n", "sb.", "w"),            /* .. and of a state alone */
        CASE("}Vm\ncx\nY\n)R(N}Vw\n", "stbs.", "m.w"), /* .. as a member */
        CASE("}Vw\nctorch._utils\n_rebuild_parameter\n(", "\x88NtRs.", "w"),
        CASE("}Vw\nctorch._utils\n_rebuild_parameter_with_state\n(", "\x88N}tRs.", "w"),
        CASE("}(Vsize\nctorch\nSize\n((I3\nI4\nttRVw\n", "u.", "w"),
        CASE("}(Vx\nctorch.nn.parameter\nParameter\n)RVw\n", "u.", "w"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_buf p = around(cases[i].before, cases[i].nb, cases[i].after, cases[i].na);
        char *path = file_of(&p);
        ds_weights *w = NULL;
        ds_error err = {0};
        float x[12];
        ck_assert_msg(!ds_weights_open(&w, path, NULL, &err), "case %zu: %s", i, err.message);
        size_t tensors = 0;
        for (size_t k = 0; k < w->count; k++)
            tensors += !w->items[k].object;
        ck_assert_uint_eq(tensors, 1);
        const ds_weights_tensor *t = ds_weights_find(w, cases[i].name);
        ck_assert_msg(t != NULL, "case %zu: no '%s' but '%s'", i, cases[i].name,
                      ds_weights_at(w, 0)->name);
        ck_assert_int_eq(ds_weights_read_f32(w, t, x, NULL), 0);
        ck_assert(!memcmp(x, numbers, sizeof x));
        ds_weights_close(w);
        ds_buf_release(&p);
        free(path);
    }
}
END_TEST

/* A tensor of a class: plain ones are what they are, the others are named. */
START_TEST(tensors_of_a_class) {
    static const struct {
        const char *function, *class;
        const char *says; /* NULL: a tensor */
    } cases[] = {
        {"torch._utils\n_rebuild_tensor_v2", "torch.nn.parameter\nBuffer", NULL},
        {"torch._utils\n_rebuild_tensor_v2", "torch.nn.parameter\nParameter", NULL},
        {"torch._utils\n_rebuild_tensor_v2", "torch\nTensor", NULL},
        {"torch._utils\n_rebuild_tensor_v2", "x\nOwn", "'x.Own'"},
        {"torch._utils\n_rebuild_tensor_v2", "torch\nSize", "'torch.Size'"},
        {"torch._utils\n_rebuild_parameter", "torch\nTensor", "'torch.Tensor'"},
        {"x\nmake", "torch\nTensor", "'torch.Tensor'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_buf p = {0};
        ds_buf_addf(&p, "}Vw\nctorch._tensor\n_rebuild_from_type_v2\n(c%s\nc%s\n",
                    cases[i].function, cases[i].class);
        ds_buf_addf(&p, "((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI12\ntQI2\n(I3\nt(I1\nt");
        ds_buf_add(&p, B("\x89NtNtRs."));
        char *path = file_of(&p);
        if (cases[i].says) {
            refuses(path, DS_EINVAL, cases[i].says, cases[i].says);
            refuses(path, DS_EINVAL, "nothing in a file is run here", cases[i].says);
        } else {
            ds_weights *w = opens(path, NULL);
            float x[3];
            ck_assert_int_eq(ds_weights_read_f32(w, ds_weights_find(w, "w"), x, NULL), 0);
            ck_assert(x[0] == 3 && x[2] == 5);
            ds_weights_close(w);
        }
        ds_buf_release(&p);
        free(path);
    }
}
END_TEST

/* A file without a tensor says what it has, up to six keys. */
START_TEST(files_without_a_tensor) {
    static const struct {
        const char *pickle;
        size_t n;
        const char *says;
    } cases[] = {
        {B("}(Vepoch\nI1\nVa\x01"
           "b\nI2\nI3\nI4\nu."),
         "'model'; it has 'epoch', 'a?b', '?'"},
        {B("}(Va\nNVb\nNVc\nNVd\nNVe\nNVf\nNVg\nNu."), "it has 'a', 'b', 'c', 'd', 'e', 'f'"},
        {B("}Vabcdefghijklmnopqrstuvwxyz\nNs."), "it has 'abcdefghijklmnopqrs'"},
        {B("}."), "or a dict with 'ema', 'state_dict' or 'model'"},
        {B("]I1\na."), "or a dict with 'ema', 'state_dict' or 'model'"},
        {B("I1\n."), "or a dict with 'ema', 'state_dict' or 'model'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_buf p = {.data = (char *)(uintptr_t)cases[i].pickle, .len = cases[i].n};
        char *path = file_of(&p);
        ds_weights *w = NULL;
        ds_error err = {0};
        size_t n = strlen(cases[i].says);
        ck_assert_int_eq(ds_weights_open(&w, path, NULL, &err), DS_EINVAL);
        ck_assert_msg(strlen(err.message) > n &&
                          !strcmp(err.message + strlen(err.message) - n, cases[i].says),
                      "case %zu: %s", i, err.message);
        free(path);
    }
}
END_TEST

/* 63 dicts around a tensor are read, more are not looked into; and dicts that hold each other twice,
 * which would be walked for years, are refused. */
START_TEST(dicts_inside_dicts) {
    for (int around_it = 63; around_it <= 64; around_it++) {
        ds_buf p = {0};
        for (int i = 0; i < around_it; i++)
            ds_buf_add(&p, B("}Va\n"));
        ds_buf_add(&p, B("}(Vw\n"));
        pk_tensor(&p, &plain, 0);
        ds_buf_add(&p, B("u"));
        for (int i = 0; i < around_it; i++)
            ds_buf_add(&p, B("s"));
        ds_buf_add(&p, B("."));
        char *path = file_of(&p);
        if (around_it == 64)
            refuses(path, DS_EINVAL, "it has 'a'", "64 deep");
        else {
            ds_weights *w = opens(path, NULL);
            ck_assert_uint_eq(ds_weights_count(w), 1);
            ck_assert_uint_eq(strlen(ds_weights_at(w, 0)->name), 63 * 2 + 1);
            ds_weights_close(w);
        }
        ds_buf_release(&p);
        free(path);
    }
    ds_buf p = {0};
    ds_buf_add(&p, B("]\x94"));
    for (uint8_t i = 0; i < 60; i++) { /* each holds the one before twice */
        ds_buf_add(&p, B("]\x94(h"));
        ds_buf_add(&p, &i, 1);
        ds_buf_add(&p, B("h"));
        ds_buf_add(&p, &i, 1);
        ds_buf_add(&p, B("e"));
    }
    ds_buf_add(&p, B("."));
    char *path = file_of(&p);
    refuses(path, DS_ELIMIT, "has too many values inside each other", "twice each other");
    ds_buf_release(&p);
    free(path);
}
END_TEST

/* A storage whose name has a byte 0 would be that of another one. */
START_TEST(storages_with_a_cut_name) {
    ds_buf p = {0};
    ds_buf_addf(&p, "}Vw\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\n");
    ds_buf_add(&p, B("X\x03\0\0\0"
                     "0\0"
                     "1"));
    ds_buf_addf(&p, "Vcpu\nI12\ntQI0\n(I3\nt(I1\nt");
    ds_buf_add(&p, B("\x89NtRs."));
    char *path = file_of(&p);
    refuses(path, DS_EINTEGRITY, "has a storage with an unusable name", "cut name");
    ds_buf_release(&p);
    free(path);
}
END_TEST

/* Views of a packed entry: each is unpacked from its start, up to 64 MiB of it. */
START_TEST(views_of_a_packed_entry) {
    enum { MIB64 = 64 << 20, ALL = MIB64 / 4 + 3000 };
    float *data = ds_xcalloc(ALL, sizeof *data);
    for (int i = 0; i < 3000; i++)
        data[i] = (float)i, data[ALL - 3000 + i] = (float)(i + 1);
    static const struct {
        int64_t at;
        float first;
        int code;
    } cases[] = {{5, 5, 0}, {2500, 2500, 0}, {MIB64 / 4, 1, 0}, {MIB64 / 4 + 1, 2, DS_EINVAL}};
    uint8_t *filler = ds_xmalloc(1 << 20); /* as if the file were not packed a hundredfold */
    memset(filler, 'x', 1 << 20);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_buf p = {0};
        pk_tensor_spec t = {"FloatStorage", "0", ALL, cases[i].at, 1, {3}, {1}};
        char *path = tmp("views.pt");
        pk_model(&p, &t, 0);
        zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
        zip_file_add(z, "a/data.pkl", zip_source_buffer(z, p.data, p.len, 0), 0);
        zip_file_add(z, "a/data/0", zip_source_buffer(z, data, ALL * sizeof *data, 0), 0);
        zip_file_add(z, "a/filler", zip_source_buffer(z, filler, 1 << 20, 0), 0);
        zip_set_file_compression(z, 1, ZIP_CM_DEFLATE, 1);
        zip_set_file_compression(z, 2, ZIP_CM_STORE, 0);
        ck_assert_int_eq(zip_close(z), 0);
        ds_weights *w = opens(path, NULL);
        float x[3];
        ds_error err = {0};
        int rc = ds_weights_read_f32(w, ds_weights_find(w, "w"), x, &err);
        ck_assert_msg(rc == cases[i].code, "at %d: %d %s", (int)cases[i].at, rc, err.message);
        if (rc)
            ck_assert_ptr_nonnull(strstr(
                err.message, "'a/data/0' is packed and shared by tensors: save the file again"));
        else
            ck_assert(x[0] == cases[i].first && x[2] == cases[i].first + 2);
        ds_weights_close(w);
        ds_buf_release(&p);
        free(path);
    }
    free(filler);
    free(data);
}
END_TEST

/* The end of a zip with more entries than 16 bits count (APPNOTE.TXT 4.3.14 to 4.3.16). */
static ds_buf zm_done_large(zip_maker *z) {
    size_t at = z->file.len;
    ds_buf_add(&z->file, z->central.data, z->central.len);
    size_t end = z->file.len;
    number(&z->file, 0x06064b50u, 4);
    number(&z->file, 44, 8);
    number(&z->file, 45, 2);
    number(&z->file, 45, 2);
    number(&z->file, 0, 8);
    number(&z->file, z->count, 8);
    number(&z->file, z->count, 8);
    number(&z->file, z->central.len, 8);
    number(&z->file, at, 8);
    number(&z->file, 0x07064b50u, 4);
    number(&z->file, 0, 4);
    number(&z->file, end, 8);
    number(&z->file, 1, 4);
    number(&z->file, 0x06054b50u, 4);
    number(&z->file, 0, 4);
    number(&z->file, 0xffffffffu, 4);
    number(&z->file, 0xffffffffu, 4);
    number(&z->file, 0xffffffffu, 4);
    number(&z->file, 0, 2);
    ds_buf_release(&z->central);
    return z->file;
}

/* More entries than any file of weights has. */
START_TEST(too_many_entries) {
    for (int more = 0; more < 2; more++) {
        char *path = tmp("entries.pt");
        ds_buf p = {0};
        zip_maker z = {0};
        pk_model(&p, &plain, 0);
        zm_add(&z, "a/data.pkl", p.data, p.len);
        zm_add(&z, "a/data/0", numbers, sizeof numbers);
        for (int i = 2; i < 200000 + more; i++) {
            char name[20];
            snprintf(name, sizeof name, "a/%d", i);
            zm_add(&z, name, "", 0);
        }
        ds_buf file = zm_done_large(&z);
        put(ds_test_tmpdir(), "entries.pt", file.data, file.len);
        if (more)
            refuses(path, DS_ELIMIT, "has 200001 entries, limit 200000", "one more");
        else
            ds_weights_close(opens(path, NULL));
        ds_buf_release(&file);
        ds_buf_release(&p);
        free(path);
    }
}
END_TEST

/* A pickle that is too large is not read at all. */
START_TEST(pickles_that_are_too_large) {
    uint32_t size = (uint32_t)DS_WEIGHTS_PICKLE_MAX + 1;
    zip_maker z = {0};
    zm_entry(&z, "a/data.pkl", "", 0, 0, 0, 0, size, size, 0);
    size_t head = z.file.len;
    char *path = tmp("large.pt");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert(fd >= 0 && write(fd, z.file.data, head) == (ssize_t)head);
    ck_assert(!ftruncate(fd, (off_t)head + (off_t)size) && lseek(fd, 0, SEEK_END) > 0);
    ds_buf end = {0}; /* the data is a hole */
    ds_buf_add(&end, z.central.data, z.central.len);
    number(&end, 0x06054b50u, 4);
    number(&end, 0, 4);
    number(&end, 1, 2);
    number(&end, 1, 2);
    number(&end, z.central.len, 4);
    number(&end, head + size, 4);
    number(&end, 0, 2);
    ck_assert(write(fd, end.data, end.len) == (ssize_t)end.len && !close(fd));
    char says[80];
    snprintf(says, sizeof says, "its pickle has %u bytes, limit %u", size, size - 1);
    refuses(path, DS_ELIMIT, says, "large");
    ds_buf_release(&end);
    ds_buf_release(&z.file);
    ds_buf_release(&z.central);
    free(path);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, what_is_around_a_tensor);
    tcase_add_test(tc, tensors_of_a_class);
    tcase_add_test(tc, files_without_a_tensor);
    tcase_add_test(tc, dicts_inside_dicts);
    tcase_add_test(tc, storages_with_a_cut_name);
    tcase_add_test(tc, views_of_a_packed_entry);
    tcase_add_test(tc, too_many_entries);
    tcase_add_test(tc, pickles_that_are_too_large);
}

int main(void) { return ds_test_main("engine_weights_torch", register_cases); }
