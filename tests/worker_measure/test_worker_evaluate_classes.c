/* tests/worker_measure/test_worker_evaluate_classes.c - `diffscaler-worker evaluate` on folders of classes: real
 * digits as samples, under their own names and under others. */
#include "tests/fixtures/evaluate_fixture.h"

#include <math.h>

enum { DIGITS = 3, REAL = SANITIZED ? 6 : 12, FAKE = SANITIZED ? 3 : 5 };

/* Digits first.. of class c of the example set, as class `as` of a folder. */
static void copy_digits(const char *name, const char *as, int c, int first, int count) {
    char *dir = ds_xasprintf("%s/%s/%s", ds_test_tmpdir(), name, as);
    ds_error err;
    must(ds_fs_mkdirs(dir, &err), &err);
    for (int i = first; i < first + count; i++) {
        char *from = ds_xasprintf("examples/digits/%d/%03d.png", c, i),
             *to = ds_xasprintf("%s/%03d.png", dir, i), *bytes;
        size_t n;
        must(ds_fs_read(from, 1 << 20, &bytes, &n, &err), &err);
        must(ds_fs_write(to, bytes, n, &err), &err);
        free(bytes), free(from), free(to);
    }
    free(dir);
}

static char *real, *right, *wrong;

static void make_folders(void) {
    static const char *const names[DIGITS] = {"nought", "one", "two"};
    for (int c = 0; c < DIGITS; c++) {
        copy_digits("real", names[c], c, 0, REAL);
        copy_digits("right", names[c], c, REAL, FAKE);
        copy_digits("wrong", names[(c + 1) % DIGITS], c, REAL, FAKE);
    }
    copy_digits("right", "three", 3, 0, 2); /* nothing stands for it */
    copy_digits("wrong", "three", 3, 0, 2);
    real = in_tmp("real"), right = in_tmp("right"), wrong = in_tmp("wrong");
}

static json_t *measured(const char *samples, const char *metrics) {
    said s = run(samples, "--against", real, "--feature-net", FEATURE_NET, "--json", "--quiet",
                 metrics ? "--metrics" : NULL, metrics, NULL);
    json_t *doc = document(&s);
    said_free(&s);
    return doc;
}

static double number(const json_t *row, const char *key) { return ds_json_number(row, key, NAN); }

START_TEST(folders_of_classes) {
    json_t *good = measured(right, NULL), *bad = measured(wrong, NULL);
    const json_t *a = metric(good, "class_accuracy"), *b = metric(bad, "class_accuracy");
    printf("right %.3f, wrong %.3f, real %.3f\n", number(a, "value"), number(b, "value"),
           number(a, "real"));
    ck_assert(number(a, "value") > 0.6 && number(b, "value") < 0.25);
    ck_assert(number(a, "real") > 0.6 && number(a, "real") == number(b, "real"));
    ck_assert(fabs(number(a, "chance") - 1.0 / DIGITS) < 1e-12);
    ck_assert(number(a, "n") == DIGITS * FAKE && number(a, "n_reference") == DIGITS * REAL);
    ck_assert(number(a, "n_available") == DIGITS * FAKE + 2 && number(a, "neighbours") == 5);
    ck_assert(number(a, "classes") == DIGITS && number(a, "std_error") >= 0);
    ck_assert_uint_eq(json_array_size(json_object_get(a, "by_class")), 0); /* too few of each */
    /* the same pictures: their distance sees nothing */
    ck_assert(fabs(number(metric(good, "fd768"), "value") / number(metric(bad, "fd768"), "value") -
                   1) < 1e-6);
    json_decref(good), json_decref(bad);
}
END_TEST

START_TEST(said_in_words) {
    said s = run(right, "--against", real, "--feature-net", FEATURE_NET, "--metrics", "class",
                 "--quiet", NULL);
    ck_assert_int_eq(s.exit, 0);
    ck_assert_msg(!strncmp(s.out, "class accuracy  ", 16) && strstr(s.out, " +- ") &&
                      strstr(s.out, "  real pictures ") &&
                      strstr(s.out, "  chance 0.333  network "),
                  "%s", s.out);
    said_free(&s);
}
END_TEST

/* Where there are none nobody asked for them; who asks is told why. */
START_TEST(folders_without_classes) {
    char *flat = make_folder("flat", 0, 6, 16, 16), *one = in_tmp("one"), *few = in_tmp("few");
    copy_digits("one", "nought", 0, 0, 8);
    copy_digits("few", "nought", 0, 0, 4);
    copy_digits("few", "one", 1, 0, 4);
    json_t *doc = measured(flat, NULL);
    ck_assert_uint_eq(json_array_size(json_object_get(doc, "metrics")), 2); /* FD and KID */
    json_decref(doc);
    const struct {
        const char *samples, *against, *says;
    } calls[] = {
        {flat, real, "both have; there are 0"},
        {one, real, "both have; there is 1"},
        {right, "tests/golden/fd.safetensors", "no folder"},
        {right, NULL, "class accuracy needs two sides"},
        {right, few, "8 real ones in 2 classes that both have, need 5 a class"},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        char *save = in_tmp("saved.npz");
        said s = run("--feature-net", FEATURE_NET, "--metrics", "class", calls[i].samples,
                     calls[i].against ? "--against" : "--save-stats",
                     calls[i].against ? calls[i].against : save, NULL);
        ck_assert_msg(s.exit && strstr(s.err, calls[i].says), "%zu: exit %d: %s", i, s.exit, s.err);
        said_free(&s);
        free(save);
    }
    free(flat), free(one), free(few);
}
END_TEST

/* .. and classes that cannot be had after all are no error where nobody asked for them. */
START_TEST(unasked_classes_are_no_error) {
    char *spoiled = in_tmp("spoiled"), *whole = in_tmp("whole"),
         *bad = in_tmp("spoiled/one/000.png");
    ds_error err;
    for (int c = 0; c < 2; c++) {
        copy_digits("spoiled", c ? "one" : "nought", c, 0, 5);
        copy_digits("whole", c ? "one" : "nought", c, 5, 5);
    }
    must(ds_fs_write(bad, "no picture", 10, &err), &err);
    const struct {
        const char *against, *n, *says;
    } calls[] = {{spoiled, "100", "class accuracy: 9 real ones in 2 classes that both have"},
                 {whole, "4", "too few pictures for class accuracy: 4, need 6"}};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        said s = run(right, "--against", calls[i].against, "--feature-net", FEATURE_NET, "--json",
                     "--skip-broken", "--n", calls[i].n, NULL);
        ck_assert_msg(s.exit == 0 && strstr(s.err, calls[i].says), "%zu: exit %d: %s", i, s.exit,
                      s.err);
        ck_assert(!strstr(strstr(s.err, calls[i].says) + 1, calls[i].says)); /* once */
        json_t *doc = document(&s);
        ck_assert_uint_eq(json_array_size(json_object_get(doc, "metrics")), 2); /* FD and KID */
        json_decref(doc);
        said_free(&s);
        s = run(right, "--against", calls[i].against, "--feature-net", FEATURE_NET, "--skip-broken",
                "--n", calls[i].n, "--metrics", "fid,class", NULL);
        ck_assert_int_eq(s.exit, 1);
        said_free(&s);
    }
    free(spoiled), free(whole), free(bad);
}
END_TEST

static void register_cases(TCase *tc) {
    feature_side = "171";
    make_folders();
    tcase_add_test(tc, folders_of_classes);
    tcase_add_test(tc, said_in_words);
    tcase_add_test(tc, folders_without_classes);
    tcase_add_test(tc, unasked_classes_are_no_error);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_evaluate_classes", register_cases);
}
