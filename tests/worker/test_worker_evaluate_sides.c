/* tests/worker/test_worker_evaluate_sides.c - what `evaluate` takes on its two sides, what it refuses before
 * the first picture is read, and what remains when one metric cannot be had. */
#include "engine/metrics/npz.h"
#include "tests/fixtures/evaluate_fixture.h"
#include "worker/measure/reference.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

enum { N = SANITIZED ? 4 : 12 };

static double value(const json_t *doc, const char *name) {
    return ds_json_number(metric(doc, name), "value", NAN);
}

static int has_note(const json_t *doc, const char *text) {
    size_t i;
    json_t *n;
    int found = 0;
    json_array_foreach(json_object_get(doc, "notes"), i, n)
        found |= strstr(json_string_value(n), text) != NULL;
    return found;
}

/* Refused, and no picture was read: there is no progress. */
static void refused_at_once(said s, int exit, const char *says) {
    ck_assert_msg(s.exit == exit && strstr(s.err, says), "exit %d (want %d, '%s'): %s", s.exit,
                  exit, says, s.err);
    ck_assert_msg(!strstr(s.err, "/s\n") && !*s.out, "work was done: %s%s", s.err, s.out);
    said_free(&s);
}

#define BUNDLED "--feature-net", FEATURE_NET, "--threads", "2"

/* ---------------------------------------------------------------- samples in .npz files */

/* The same pixels from a folder and from a file are the same numbers, on either side. */
START_TEST(npz_is_like_a_folder) {
    char *a = make_folder("1-a", 0, N, 40, 36), *b = make_folder("1-b", 500, N, 40, 36);
    char *za = make_npz("1-a.npz", 0, N, 40, 36, 0, 0),
         *zb = make_npz("1-b.npz", 500, N, 40, 36, 0, 0);
    char *odd = make_npz("1-odd.npz", 501, N - 1, 40, 36, 0, 0); /* stored, the others deflated */
    said s = run(a, "--against", b, BUNDLED, "--json", NULL);
    json_t *want = document(&s);
    said_free(&s);
    const char *sides[][2] = {{za, b}, {a, zb}, {za, zb}};
    for (int i = 0; i < (SANITIZED ? 1 : 3); i++) {
        s = run(sides[i][0], "--against", sides[i][1], BUNDLED, "--json", NULL);
        json_t *doc = document(&s);
        ck_assert_double_eq(value(doc, "fd768"), value(want, "fd768"));
        ck_assert_double_eq(value(doc, "kd768"), value(want, "kd768"));
        ck_assert_int_eq(ds_json_int(metric(doc, "fd768"), "n", 0), N);
        ck_assert_str_eq(ds_json_string(metric(doc, "fd768"), "decode", ""),
                         i == 1 ? "train-2" : "rgb8-as-stored");
        ck_assert(!has_note(doc, "decoded as")); /* pixels as they are fit any decoding */
        json_decref(doc);
        said_free(&s);
    }
    if (SANITIZED) { /* a picture takes seconds there */
        json_decref(want);
        free(a), free(b), free(za), free(zb), free(odd);
        return;
    }
    /* --n takes the first, as DiT and ADM do: like a file that holds no more */
    s = run(za, "--against", zb, BUNDLED, "--json", "--n", "4", "--metrics", "fid", NULL);
    json_t *doc = document(&s);
    char *four = make_npz("1-four.npz", 0, 4, 40, 36, 0, 0);
    said t = run(four, "--against", zb, BUNDLED, "--json", "--metrics", "fid", NULL);
    json_t *again = document(&t);
    ck_assert_double_eq(value(doc, "fd768"), value(again, "fd768"));
    ck_assert(has_note(doc, "the first 4 of"));
    ck_assert_int_eq(ds_json_int(metric(doc, "fd768"), "n", 0), 4);
    said_free(&s), said_free(&t);
    json_decref(doc), json_decref(again), json_decref(want);
    s = run(odd, "--against", zb, BUNDLED, "--json", "--metrics", "fid", NULL);
    doc = document(&s);
    ck_assert_int_eq(ds_json_int(metric(doc, "fd768"), "n", 0), N - 1);
    json_decref(doc);
    said_free(&s);
    free(a), free(b), free(za), free(zb), free(odd), free(four);
}
END_TEST

/* Whose FID is its mu and sigma, and whose pictures are for the rest. */
START_TEST(adm_reference) {
    char *a = make_folder("2-a", 0, N, 40, 36),
         *adm = make_npz("2-adm.npz", 500, N, 40, 36, 768, 0.25),
         *st = make_npz("2-st.npz", 0, 0, 0, 0, 768, 0.25),
         *z = make_npz("2-z.npz", 500, N, 40, 36, 0, 0);
    said s = run(a, "--against", adm, BUNDLED, "--json", "--metrics", "fid,kid,pr", NULL);
    json_t *doc = document(&s);
    ck_assert(has_note(doc, "FID is against mu and sigma"));
    ck_assert(has_note(doc, "does not say its network"));
    ck_assert(json_is_null(json_object_get(metric(doc, "fd768"), "n_reference")));
    ck_assert_int_eq(ds_json_int(metric(doc, "kd768"), "n_reference", 0), N);
    said t = run(a, "--against", st, BUNDLED, "--json", "--metrics", "fid", NULL);
    json_t *by_stats = document(&t);
    ck_assert_double_eq(value(doc, "fd768"), value(by_stats, "fd768"));
    said u = run(a, "--against", z, BUNDLED, "--json", "--metrics", "kid,pr", NULL);
    json_t *by_pictures = document(&u);
    ck_assert_double_eq(value(doc, "kd768"), value(by_pictures, "kd768"));
    ck_assert_double_eq(value(doc, "precision"), value(by_pictures, "precision"));
    json_decref(doc), json_decref(by_stats), json_decref(by_pictures);
    said_free(&s), said_free(&t), said_free(&u);
    s = run(st, "--against", adm, BUNDLED, "--json", NULL); /* statistics on both sides */
    doc = document(&s);
    ck_assert_double_lt(value(doc, "fd768"), 1e-9);
    ck_assert_ptr_null(strstr(s.err, "/s\n")); /* no picture was needed */
    json_decref(doc);
    said_free(&s);
    s = run(adm, "--against", st, BUNDLED, "--json", "--metrics", "fid", NULL);
    doc = document(&s);
    ck_assert(has_note(doc, "FID is of mu and sigma"));
    json_decref(doc);
    said_free(&s);
    free(a), free(adm), free(st), free(z);
}
END_TEST

/* ---------------------------------------------------------------- before the work */

START_TEST(checked_before_the_work) {
    char *a = make_folder("3-a", 0, 8, 24, 20), *b = make_folder("3-b", 50, 8, 24, 20);
    char *taken = in_tmp("taken.npz"), *pipe = in_tmp("pipe.npz"), *link = in_tmp("link"),
         *nodir = in_tmp("nodir/x.npz"), *text = in_tmp("text.npz"), *dir = in_tmp("d.npz"),
         *full = in_tmp("full.npz");
    char *big = make_npz("3-big.npz", 0, 0, 0, 0, 768, 1e160),
         *wide = make_npz("3-wide.npz", 0, 0, 0, 0, 64, 0),
         *st = make_npz("3-st.npz", 0, 0, 0, 0, 768, 0);
    ds_error err;
    must(ds_fs_write(taken, "keep me", 7, &err), &err);
    must(ds_fs_write(text, "no zip", 6, &err), &err);
    must(ds_fs_mkdirs(dir, &err), &err);
    ck_assert(!mkfifo(pipe, 0600) && !symlink("/dev/null", link));
#define GO(...) run(__VA_ARGS__, BUNDLED, NULL)
    refused_at_once(GO("/nonexistent", "--against", b), 3, "cannot find '/nonexistent'");
    refused_at_once(GO(a, "--against", "/nonexistent"), 3, "cannot find '/nonexistent'");
    refused_at_once(GO(a, "--against", b, "--save-stats", nodir), 3, "nodir");
    refused_at_once(GO(a, "--against", b, "--save-stats", a), 2, "it is a folder");
    refused_at_once(GO(a, "--against", b, "--save-stats", pipe, "--force"), 2, "it is a pipe");
    refused_at_once(GO(a, "--against", b, "--save-stats", link, "--force"), 2, "it is a link");
    refused_at_once(GO(a, "--save-stats", taken), 4, "--force");
    refused_at_once(GO(a, "--against", big), 9, "above 1e100");
    refused_at_once(GO(a, "--against", wide), 2, "64 features");
    refused_at_once(GO(a, "--against", text), 2, "no folder, no .npz");
    refused_at_once(GO(a, "--against", dir), 2, "has no picture file");
    refused_at_once(GO(a, "--against", pipe), 2, "no folder, no .npz");
    refused_at_once(GO(a, "--against", st, "--metrics", "fid,kid"), 2, "statistics are not enough");
    refused_at_once(GO(st, "--against", b, "--save-stats", full), 2,
                    "no pictures whose statistics");
    refused_at_once(GO(a, "--against", b, "--n", "1"), 2, "too few pictures for FD-768");
    refused_at_once(GO(a, "--against", b, "--metrics", "kid,pr", "--n", "3"), 2, "too few");
    said s = run(a, "--against", b, "--feature-net", "/nonexistent.pth", NULL);
    refused_at_once(s, 3, "feature network '/nonexistent.pth'");
    s = run(a, "--against", b, "--feature-net", st, "--mode", "bundled", NULL);
    refused_at_once(s, 2, "mode 'bundled' is of the bundled network");
    char *linked = in_tmp("3-linked"), *inner = in_tmp("3-linked/a");
    must(ds_fs_mkdirs(linked, &err), &err);
    ck_assert(!symlink(a, inner));
    refused_at_once(GO(linked, "--against", b), 2, "'a' (link to a folder is not followed)");
    free(linked), free(inner);
#undef GO
    char *data;
    size_t n;
    must(ds_fs_read(taken, 100, &data, &n, &err), &err);
    ck_assert_str_eq(data, "keep me");
    free(data);
    s = run(a, "--save-stats", taken, "--force", BUNDLED, "--quiet", NULL);
    ck_assert_msg(s.exit == 0, "%s", s.err);
    said_free(&s);
    ds_npz_contents c;
    must(ds_npz_look(taken, &c, &err), &err);
    ck_assert(c.stats && !c.pictures);
    /* a disk that fills up later does not cost the numbers */
    ck_assert(!setenv("DS_TEST_ENOSPC", "1", 1));
    s = run(a, "--against", b, "--metrics", "fid", "--save-stats", full, BUNDLED, "--quiet", NULL);
    ck_assert(!unsetenv("DS_TEST_ENOSPC"));
    ck_assert_msg(s.exit == 75 && strstr(s.err, "full.npz") && strstr(s.out, "FD-768"), "%d %s%s",
                  s.exit, s.out, s.err);
    said_free(&s);
    /* what is left after broken files may be too little: the side is named */
    char *one = make_folder("3-one", 0, 1, 24, 20), *broken = ds_xasprintf("%s/z.png", one);
    must(ds_fs_write(broken, "x", 1, &err), &err);
    s = run(one, "--against", b, "--metrics", "fid", BUNDLED, "--quiet", NULL);
    ck_assert_msg(s.exit == 2 && strstr(s.err, "3-one': a covariance needs"), "%d %s", s.exit,
                  s.err);
    said_free(&s);
    free(one), free(broken);
    free(a), free(b), free(taken), free(pipe), free(link), free(nodir), free(text), free(dir);
    free(big), free(wide), free(st), free(full);
}
END_TEST

/* Three pictures are enough for a distance, not for KID. */
START_TEST(numbers_that_exist) {
    char *a = make_folder("4-a", 0, 3, 24, 20), *b = make_folder("4-b", 50, 5, 24, 20);
    said s = run(a, "--against", b, BUNDLED, "--json", NULL);
    json_t *doc = NULL;
    ds_error err;
    ck_assert_int_eq(s.exit, 1);
    ck_assert_ptr_nonnull(
        strstr(s.err, "note: too few pictures for KID on the same 768 features: 3, need 4"));
    must(ds_json_parse("out", s.out, strlen(s.out), &doc, &err), &err);
    ck_assert(isfinite(value(doc, "fd768")));
    ck_assert(json_is_null(json_object_get(metric(doc, "kid"), "value")));
    ck_assert_ptr_nonnull(strstr(ds_json_string(metric(doc, "kid"), "why", ""), "need 4"));
    json_decref(doc);
    said_free(&s);
    s = run(a, "--against", b, BUNDLED, "--quiet", NULL);
    ck_assert(s.exit == 1 && strstr(s.out, "FD-768") && strstr(s.out, "KID") &&
              strstr(s.out, "not measured: too few"));
    said_free(&s);
    s = run(a, "--against", b, BUNDLED, "--quiet", "--metrics", "fid", NULL);
    ck_assert(s.exit == 0);
    said_free(&s);
    free(a), free(b);
}
END_TEST

/* Output that has not arrived is an error. */
START_TEST(full_output) {
    char *st = make_npz("5-st.npz", 0, 0, 0, 0, 768, 0);
    const char *const lines[][6] = {{st, "--against", st, "--feature-net", FEATURE_NET, NULL},
                                    {st, "--against", st, "--feature-net", FEATURE_NET, "--json"},
                                    {"--help", NULL, NULL, NULL, NULL, NULL}};
    if (access("/dev/full", W_OK)) {
        ds_test_skip("full_output", "no /dev/full");
        return;
    }
    for (int i = 0; i < 3; i++) {
        char *argv[8] = {0};
        int n = 0, status;
        for (; n < 6 && lines[i][n]; n++)
            argv[n] = (char *)(uintptr_t)lines[i][n];
        fflush(NULL);
        pid_t pid = fork();
        if (!pid) {
            if (!freopen("/dev/full", "w", stdout) || !freopen("/dev/null", "w", stderr))
                _exit(99);
            _exit(ds_worker_evaluate(n, argv));
        }
        ck_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        ck_assert_msg(WEXITSTATUS(status) == 75, "line %d: exit %d", i, WEXITSTATUS(status));
    }
    free(st);
}
END_TEST

/* Statistics of other pixels are compared, and it is said. */
START_TEST(another_decoding_is_said) {
    char *a = make_folder("6-a", 0, 3, 24, 20), *saved = in_tmp("saved.npz"),
         *old = in_tmp("old.npz");
    ds_npz_stats s;
    ds_error err;
    said r = run(a, "--save-stats", saved, BUNDLED, NULL);
    ck_assert_msg(r.exit == 0, "%s", r.err);
    said_free(&r);
    must(ds_npz_read_stats(saved, &s, &err), &err);
    ck_assert_str_eq(s.decode, "train-2");
    snprintf(s.decode, sizeof s.decode, "rgb8-white-exif-1");
    must(ds_npz_write_stats(old, &s, 0, &err), &err);
    for (int i = 0; i < 2; i++) { /* another network, another preparation: not compared at all */
        char *other = in_tmp(i ? "prepared.npz" : "network.npz");
        ds_npz_stats t = s;
        if (i)
            snprintf(t.preprocess, sizeof t.preprocess, "%s", ds_fid_mode_preprocess(DS_FID_CLEAN));
        else
            t.net[0] = t.net[0] == '0' ? '1' : '0';
        must(ds_npz_write_stats(other, &t, 0, &err), &err);
        refused_at_once(run(a, "--against", other, "--metrics", "fid", BUNDLED, NULL), 2,
                        i ? "was made with preprocessing '" : "was made with network ");
        free(other);
    }
    ds_npz_stats_release(&s);
    for (int k = 0; k < 2; k++) {
        r = run(a, "--against", k ? old : saved, BUNDLED, "--json", NULL);
        json_t *doc = document(&r);
        ck_assert_int_eq(has_note(doc, "decoded as 'train-2', the other as 'rgb8-white-exif-1'"),
                         k);
        ck_assert_str_eq(ds_json_string(metric(doc, "fd768"), "reference_decode", ""),
                         k ? "rgb8-white-exif-1" : "train-2");
        json_decref(doc);
        said_free(&r);
    }
    free(a), free(saved), free(old);
}
END_TEST

/* Most memory of a process that reads all pictures, in KiB. */
static long memory_of_reading(const char *path, int count, int side) {
    struct rusage use;
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        ds_npz_pictures *p;
        uint8_t *rgb = ds_xmalloc((size_t)side * (size_t)side * 3);
        int bad = ds_npz_pictures_open(path, &p, NULL) != 0;
        for (int i = 0; !bad && i < count; i++)
            bad = ds_npz_pictures_next(p, rgb, NULL) != 0;
        _exit(bad);
    }
    ck_assert(wait4(pid, &status, 0, &use) == pid && status == 0);
    return use.ru_maxrss;
}

/* A hundred times as many pictures take no more memory. */
START_TEST(large_files_are_streamed) {
    enum { SIDE_PX = 512, COUNT = 100 }; /* 75 MiB of pixels */
    if (SANITIZED) {
        ds_test_skip("large_files_are_streamed", "memory is another one under sanitizers");
        return;
    }
    for (int stored = 0; stored < 2; stored++) {
        char *one = make_npz("7-one.npz", stored, 1, SIDE_PX, SIDE_PX, 0, 0),
             *all = make_npz("7-all.npz", stored, COUNT, SIDE_PX, SIDE_PX, 0, 0);
        long few = memory_of_reading(one, 1, SIDE_PX),
             many = memory_of_reading(all, COUNT, SIDE_PX);
        printf("%s: %ld KiB for one picture, %ld KiB for %d\n", stored ? "stored" : "deflated", few,
               many, COUNT);
        ck_assert_int_lt(many - few, 8 << 10); /* KiB; the pixels are ten times that */
        free(one), free(all);
    }
}
END_TEST

/* A reference is of one network and one preparation: of another one it is refused. */
START_TEST(references_must_fit) {
    enum { ROWS = 20 };
    static float x[ROWS * DS_FEATURE_DIM];
    static const int64_t counts[] = {ROWS};
    char *a = make_folder("8-a", 0, 4, 24, 20), *path = in_tmp("8-reference.zst");
    ds_error err;
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        x[i] = ds_rng_uniform(3, DS_STREAM_TEST, 0, i, 0);
    for (int k = 0; k < 4; k++) { /* it fits; another network, preparation, number of features */
        ds_feature_set set = {.x = x, .n = ROWS, .dim = k == 3 ? 64 : DS_FEATURE_DIM};
        unpacked_digest(FEATURE_NET, set.net);
        set.net[0] = k == 1 ? (set.net[0] == '0' ? '1' : '0') : set.net[0];
        snprintf(set.resize, sizeof set.resize, "%s",
                 ds_fid_mode_preprocess(k == 2 ? DS_FID_CLEAN : DS_FID_BUNDLED));
        ds_reference r = {0};
        must(ds_reference_make_of(&r, counts, 1, ROWS, "p", "t", &set, "FD", &err), &err);
        must(ds_zio_write_file(path, r.bytes, r.size, 1, &err), &err);
        ds_reference_release(&r);
        said s = run(a, "--against", path, BUNDLED, "--mode", "bundled", "--json", "--metrics",
                     "fid", NULL);
        if (k)
            refused_at_once(s, 2, "was made with network");
        else {
            json_t *doc = document(&s);
            ck_assert_int_eq(ds_json_int(metric(doc, "fd768"), "n_reference", 0), ROWS);
            json_decref(doc);
            said_free(&s);
        }
    }
    free(a), free(path);
}
END_TEST

/* Asked to stop, it says how far it came. */
START_TEST(interrupted) {
#ifdef __SANITIZE_ADDRESS__
    ds_test_skip("interrupted", "a picture takes seconds there");
    return;
#endif
    char *a = make_folder("9-a", 0, 96, 24, 20), text[1000] = "";
    const char *args[] = {a, "--against", a, BUNDLED};
    char *argv[8] = {NULL};
    enum { ARGS = sizeof args / sizeof *args };
    for (int i = 0; i < ARGS; i++)
        argv[i] = (char *)(uintptr_t)args[i];
    int fd[2], status;
    size_t n = 0;
    ck_assert_int_eq(pipe(fd), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        dup2(fd[1], 2);
        close(fd[0]);
        close(fd[1]);
        _exit(ds_worker_evaluate(ARGS, argv));
    }
    close(fd[1]);
    for (ssize_t k; n < sizeof text - 1 && (k = read(fd[0], text + n, sizeof text - 1 - n)) > 0;) {
        text[n += (size_t)k] = 0;
        if (strstr(text, " of 96 pictures, "))
            kill(pid, SIGTERM);
    }
    close(fd[0]);
    ck_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
    const char *at = strstr(text, "error: interrupted after ");
    ck_assert_msg(at != NULL, "status %x: %s", (unsigned)status, text);
    int done = atoi(at + strlen("error: interrupted after "));
    ck_assert_msg(done > 0 && done < 96 && strstr(at, " of 96 pictures\n"), "%s", text);
    ck_assert_int_eq(WEXITSTATUS(status), 130);
    free(a);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, interrupted);
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, npz_is_like_a_folder);
    tcase_add_test(tc, adm_reference);
    tcase_add_test(tc, checked_before_the_work);
    tcase_add_test(tc, numbers_that_exist);
    tcase_add_test(tc, full_output);
    tcase_add_test(tc, another_decoding_is_said);
    tcase_add_test(tc, large_files_are_streamed);
    tcase_add_test(tc, references_must_fit);
}

int main(int argc, char **argv) {
    int rc = fixture_dispatch(argc, argv);
    return rc >= 0 ? rc : ds_test_main("worker_evaluate_sides", register_cases);
}
