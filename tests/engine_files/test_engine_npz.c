/* tests/engine_files/test_engine_npz.c - statistics files of NumPy (tools/parity/make_npz_golden.py), ours, and
 * files that must be refused. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/metrics/features.h"
#include "engine/metrics/npz.h"
#include "tests/harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zip.h>

#define GOLDEN "tests/golden/npz/"

static void check_pair(const double *mu, const double *sigma, int n) {
    for (int i = 0; i < n; i++) {
        ck_assert_double_eq(mu[i], i / 8.0);
        for (int j = 0; j < n; j++)
            ck_assert_double_eq(sigma[i * n + j], (i == j) + 1 / 16.0);
    }
}

START_TEST(written_by_numpy) {
    static const struct {
        const char *name;
        int spatial;
    } files[] = {{"plain", 0},      {"packed", 3}, {"narrow", 0}, {"fortran", 0},
                 {"big-endian", 0}, {"half", 0},   {"adm", 3},    {"python2", 0}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        ds_npz_stats s;
        ds_error err = {0};
        snprintf(path, sizeof path, GOLDEN "%s.npz", files[i].name);
        ck_assert_msg(!ds_npz_read_stats(path, &s, &err), "%s", err.message);
        ck_assert_int_eq(s.dim, 6);
        ck_assert_int_eq(s.dim_s, files[i].spatial);
        ck_assert(!s.known && s.n == -1);
        check_pair(s.mu, s.sigma, 6);
        ck_assert_int_eq(s.mu_s != NULL, files[i].spatial > 0);
        if (s.mu_s)
            check_pair(s.mu_s, s.sigma_s, s.dim_s);
        ds_npz_stats_release(&s);
    }
}
END_TEST

static const struct {
    const char *name, *says;
    int unsupported; /* whole, but of another kind */
} refused[] = {{"bad-nan", "not finite", 0},
               {"bad-skew", "not symmetric", 0},
               {"bad-negative", "variance is negative", 0},
               {"bad-shape", "wrong shape", 1},
               {"bad-sizes", "wrong shape", 1},
               {"bad-type", "'<i8'", 1},
               {"bad-large", "above 1e100", 0},
               {"bad-missing", "'sigma.npy' is missing", 0},
               {"bad-no-mu", "no member 'mu.npy'", 1},
               {"bad-short", "shorter than its header", 0},
               {"bad-long", "longer than its header", 0},
               {"bad-pickle", "'|O'", 1},
               {"bad-structured", "numbers of type '[(", 1},
               {"bad-huge", "wrong shape", 1},
               {"bad-side", "shape", 1},
               {"bad-bomb", "longer than its header", 0},
               {"bad-members", "more than 64", 0},
               {"bad-magic", "not an .npy array", 0},
               {"bad-header", "cannot be read", 0},
               {"bad-twice", "cannot be read", 0},
               {"bad-cut", "not a whole .npz", 0},
               {"bad-text", "not a whole .npz", 0},
               {"bad-flip", "damaged", 0}};

START_TEST(refused_with_a_reason) {
    char path[128];
    ds_npz_stats s;
    ds_error err = {0};
    snprintf(path, sizeof path, GOLDEN "%s.npz", refused[_i].name);
    int rc = ds_npz_read_stats(path, &s, &err);
    ck_assert_msg(refused[_i].unsupported ? rc == DS_EINVAL
                                          : rc == DS_EINTEGRITY || rc == DS_ELIMIT,
                  "%s: %d %s", path, rc, err.message);
    ck_assert_msg(strstr(err.message, refused[_i].says) && strstr(err.message, refused[_i].name),
                  "%s: %s", path, err.message);
    ck_assert(!s.mu && !s.sigma && !s.mu_s);
}
END_TEST

/* Every byte changed, every length: refused, or the very same numbers. */
START_TEST(any_damage) {
    char *data, path[512];
    size_t n;
    ds_error err = {0};
    ds_npz_stats s;
    ck_assert(!ds_fs_read(GOLDEN "plain.npz", 1 << 20, &data, &n, &err));
    snprintf(path, sizeof path, "%s/damaged.npz", ds_test_tmpdir());
    int accepted = 0;
    for (size_t i = 0; i < 2 * n; i++) {
        size_t length = i < n ? n : i - n;
        if (i < n)
            data[i] ^= (char)(1 + i % 255);
        FILE *f = fopen(path, "wb");
        ck_assert(f && fwrite(data, 1, length, f) == length && !fclose(f));
        if (i < n)
            data[i] ^= (char)(1 + i % 255);
        if (!ds_npz_read_stats(path, &s, &err)) {
            check_pair(s.mu, s.sigma, 6);
            ds_npz_stats_release(&s);
            accepted++;
        }
    }
    printf("%d of %zu damaged files still hold the numbers\n", accepted, 2 * n);
    ck_assert_int_lt(accepted, (int)n / 8); /* times, versions, attributes */
    free(data);
}
END_TEST

START_TEST(round_trip) {
    enum { D = 70, S = 5 };
    static double mu[D], sigma[D * D], mu_s[S], sigma_s[S * S];
    char path[512], again[512];
    ds_error err = {0};
    ds_npz_stats got, s = {.mu = mu,
                           .sigma = sigma,
                           .dim = D,
                           .mu_s = mu_s,
                           .sigma_s = sigma_s,
                           .dim_s = S,
                           .known = 1,
                           .preprocess = "torch-bilinear/2x-1/1",
                           .decode = "rgb8-white-exif-1",
                           .n = 123,
                           .seed = 77};
    memset(s.net, 'a', 64);
    for (int i = 0; i < D; i++) {
        mu[i] = 1.0 / (i + 3);
        for (int j = 0; j < D; j++)
            sigma[i * D + j] = (i == j ? 2.0 : 0) + 1.0 / (i + j + 1);
    }
    for (int i = 0; i < S * S; i++)
        sigma_s[i] = i % (S + 1) ? 0 : 1 + i;
    snprintf(path, sizeof path, "%s/ours.npz", ds_test_tmpdir());
    snprintf(again, sizeof again, "%s/again.npz", ds_test_tmpdir());
    ck_assert_msg(!ds_npz_write_stats(path, &s, 0, &err), "%s", err.message);
    ck_assert_msg(!ds_npz_read_stats(path, &got, &err), "%s", err.message);
    ck_assert_mem_eq(got.mu, mu, sizeof mu);
    ck_assert_mem_eq(got.sigma, sigma, sizeof sigma);
    ck_assert_mem_eq(got.sigma_s, sigma_s, sizeof sigma_s);
    ck_assert(got.known && got.n == 123 && got.seed == 77 && got.dim == D && got.dim_s == S);
    ck_assert_str_eq(got.net, s.net);
    ck_assert_str_eq(got.preprocess, s.preprocess);
    ck_assert_str_eq(got.decode, s.decode);
    ck_assert(!ds_npz_write_stats(again, &got, 0, &err));
    char *a, *b;
    size_t na, nb;
    ck_assert(!ds_fs_read(path, 1 << 20, &a, &na, &err) &&
              !ds_fs_read(again, 1 << 20, &b, &nb, &err));
    ck_assert(na == nb && !memcmp(a, b, na)); /* equal statistics are equal files */
    free(a);
    free(b);
    ck_assert_int_eq(ds_npz_write_stats(path, &s, 0, &err), DS_ECONFLICT);
    ck_assert_int_eq(ds_npz_write_stats(path, &s, 1, &err), 0);
    ds_npz_stats_release(&got);
    ck_assert_int_eq(ds_npz_write_stats("/nonexistent/x.npz", &s, 0, &err), DS_ENOTFOUND);
    ck_assert_int_eq(ds_npz_read_stats("/nonexistent/x.npz", &got, &err), DS_ENOTFOUND);
}
END_TEST

/* ---------------------------------------------------------------- pictures */

START_TEST(pictures_in_order) {
    static const char *const files[] = {"samples", "samples-packed"};
    for (size_t f = 0; f < 2; f++) {
        char path[128];
        uint8_t rgb[2 * 5 * 3];
        ds_npz_contents c;
        ds_npz_pictures *p;
        ds_error err = {0};
        snprintf(path, sizeof path, GOLDEN "%s.npz", files[f]);
        ck_assert_msg(!ds_npz_look(path, &c, &err), "%s", err.message);
        ck_assert(c.pictures == 4 && c.height == 2 && c.width == 5 && !c.stats && !c.spatial);
        ck_assert_msg(!ds_npz_pictures_open(path, &p, &err), "%s", err.message);
        ck_assert_int_eq(ds_npz_pictures_count(p), 4);
        ck_assert_int_eq(ds_npz_pictures_width(p), 5);
        ck_assert_int_eq(ds_npz_pictures_height(p), 2);
        for (int i = 0; i < 4; i++) {
            ck_assert_msg(!ds_npz_pictures_next(p, rgb, &err), "%s", err.message);
            for (int j = 0; j < 30; j++)
                ck_assert_int_eq(rgb[j], i * 30 + j);
        }
        ds_npz_pictures_close(p);
    }
    ds_npz_contents c;
    ck_assert_int_eq(ds_npz_look(GOLDEN "adm.npz", &c, NULL), 0);
    ck_assert(c.stats && c.spatial && c.pictures == 2 && c.width == 4);
    ck_assert_int_eq(ds_npz_look(GOLDEN "plain.npz", &c, NULL), 0);
    ck_assert(c.stats && !c.spatial && !c.pictures);
}
END_TEST

static const struct {
    const char *name;
    int code;
    const char *says;
} not_pictures[] = {{"samples-float", DS_EINVAL, "'<f4'"},
                    {"samples-nchw", DS_EINVAL, "shape"},
                    {"samples-rgba", DS_EINVAL, "shape"},
                    {"samples-flat", DS_EINVAL, "shape"},
                    {"samples-fortran", DS_EINVAL, "C order"},
                    {"samples-empty", DS_EINVAL, "no picture"},
                    {"samples-five", DS_EINVAL, "shape"},
                    {"plain", DS_EINVAL, "no pictures"},
                    {"samples-short", DS_EINTEGRITY, "shorter than its header"},
                    {"samples-long", DS_EINTEGRITY, "longer than its header"},
                    {"samples-flip", DS_EINTEGRITY, "damaged"}};

START_TEST(pictures_refused) {
    char path[128];
    uint8_t rgb[2 * 5 * 3];
    ds_npz_pictures *p = NULL;
    ds_error err = {0}, opening = {0}; /* what comes later is said to whoever asks later */
    snprintf(path, sizeof path, GOLDEN "%s.npz", not_pictures[_i].name);
    int rc = ds_npz_pictures_open(path, &p, &opening);
    if (rc)
        err = opening;
    for (int i = 0; !rc && i < 4; i++)
        rc = ds_npz_pictures_next(p, rgb, &err);
    ck_assert_msg(rc == not_pictures[_i].code && strstr(err.message, not_pictures[_i].says),
                  "%s: %d %s", path, rc, err.message);
    ds_npz_pictures_close(p);
}
END_TEST

/* ---------------------------------------------------------------- made here */

typedef struct {
    const char *name;
    ds_buf b;
} member;

/* An .npy: version and header as they are told, and the data. */
static member npy(const char *name, int version, const char *header, size_t n, const void *data,
                  size_t bytes) {
    member m = {.name = name};
    unsigned char head[12] = {0x93, 'N', 'U', 'M', 'P', 'Y', (unsigned char)version, 0};
    for (int i = 0; i < 4; i++)
        head[8 + i] = (unsigned char)(n >> 8 * i);
    ds_buf_add(&m.b, head, version >= 2 ? 12 : 10);
    ds_buf_add(&m.b, header, n);
    ds_buf_add(&m.b, data, bytes);
    return m;
}

/* The file of these members, which are released; method: as both headers of each entry say it. */
static const char *npz(member *list, int count, int method) {
    static char path[512];
    snprintf(path, sizeof path, "%s/made.npz", ds_test_tmpdir());
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    ck_assert_ptr_nonnull(z);
    for (int i = 0; i < count; i++) {
        zip_file_add(z, list[i].name, zip_source_buffer(z, list[i].b.data, list[i].b.len, 0), 0);
        zip_set_file_compression(z, (zip_uint64_t)i, ZIP_CM_STORE, 0);
    }
    ck_assert_int_eq(zip_close(z), 0);
    for (int i = 0; i < count; i++)
        ds_buf_release(&list[i].b);
    char *data;
    size_t n;
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &data, &n, NULL), 0);
    for (size_t i = 0; method && i + 12 < n; i++)
        if (!memcmp(data + i, "PK\3\4", 4))
            data[i + 8] = (char)method;
        else if (!memcmp(data + i, "PK\1\2", 4))
            data[i + 10] = (char)method;
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(data, 1, n, f) == n && !fclose(f));
    free(data);
    return path;
}

static const double six[36] = {1, 2, 3, 4, 5, 6};

/* Statistics whose mu has this header; sigma is all zeros. */
static int with_header(int version, const char *header, size_t n, ds_npz_stats *s, ds_error *err) {
    static const char square[] = "{'descr': '<f8', 'fortran_order': False, 'shape': (6, 6), }";
    static const double zeros[36];
    member list[2] = {npy("mu.npy", version, header, n, six, 48),
                      npy("sigma.npy", 1, square, sizeof square - 1, zeros, sizeof zeros)};
    return ds_npz_read_stats(npz(list, 2, 0), s, err);
}

#define HEAD "{'descr': '<f8', 'fortran_order': False, 'shape': "
static const struct {
    const char *header, *says; /* NULL: is read */
} headers[] = {
    {HEAD "(6,), }\n", NULL},
    {HEAD "(6,), }", NULL},
    {HEAD "(6,)}", NULL},
    {HEAD "( 6 , ) , }  \n", NULL},
    {HEAD "(6,)}\n ", "cannot be read"}, /* a newline is the end */
    {HEAD "(6)}", NULL},
    {HEAD "(6L,)}", NULL},
    {"  {'shape':(6,),'fortran_order':True,'descr':'=f8'}", NULL},
    {"", "cannot be read"},
    {"x", "cannot be read"},
    {"{", "cannot be read"},
    {"{}", "cannot be read"},
    {HEAD "(6,)", "cannot be read"},
    {HEAD "(6,)}}", "cannot be read"},
    {HEAD "(6,)}\n\n", "cannot be read"},
    {HEAD "(6,), 'x': 1}", "cannot be read"},
    {HEAD "6}", "cannot be read"},
    {HEAD "(6", "cannot be read"},
    {HEAD "(6;)}", "cannot be read"},
    {HEAD "(,)}", "cannot be read"},
    {HEAD "(L,)}", "cannot be read"},
    {HEAD "(-6,)}", "cannot be read"},
    {HEAD "(1000000006,)}", "cannot be read"},
    {HEAD "(100000006,)}", "wrong shape"},
    {HEAD "(1,1,1,1,1,1,1,1,6)}", "cannot be read"},
    {HEAD "(1,1,1,1,1,1,1,6)}", "wrong shape"},
    {HEAD "()}", "wrong shape"},
    {HEAD "(0,)}", "wrong shape"},
    {HEAD "(7,)}", "shorter than its header"},
    {HEAD "(5,)}", "longer than its header"},
    {"{'fortran_order': False, 'shape': (6,)}", "cannot be read"},
    {"{'descr': '<f8', 'shape': (6,)}", "cannot be read"},
    {"{'descr': '<f8', 'fortran_order': False}", "cannot be read"},
    {"{'descr': '<f8', 'descr': '<f8', 'fortran_order': False, 'shape': (6,)}", "cannot be read"},
    {"{'fortran_order': False, 'descr': '<f8', 'fortran_order': False, 'shape': (6,)}",
     "cannot be read"},
    {HEAD "(6,), 'shape': (6,)}", "cannot be read"},
    {"{'descr': '<f8' 'fortran_order': False, 'shape': (6,)}", "cannot be read"},
    {"{'descr': '<f8', 'fortran_order': Maybe, 'shape': (6,)}", "cannot be read"},
    {"{'descr': <f8, 'fortran_order': False, 'shape': (6,)}", "cannot be read"},
    {"{'fortran_order': False, 'shape': (6,), 'descr': '<f8}", "cannot be read"},
    {"{'fortran_order': False, 'shape': (6,), 'descr': [('a', '<f8'}", "cannot be read"},
    {"{'descr': 'f8', 'fortran_order': False, 'shape': (6,)}", "type 'f8'"},
    {"{'descr': '<', 'fortran_order': False, 'shape': (6,)}", "type '<'"},
    {"{'descr': '<f', 'fortran_order': False, 'shape': (6,)}", "type '<f'"},
    {"{'descr': '<f3', 'fortran_order': False, 'shape': (6,)}", "type '<f3'"},
    {"{'descr': '<f16', 'fortran_order': False, 'shape': (6,)}", "type '<f16'"},
    {"{'descr': '<f8x', 'fortran_order': False, 'shape': (6,)}", "type '<f8x'"},
    {"{'descr': '<u8', 'fortran_order': False, 'shape': (6,)}", "type '<u8'"},
    {"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (6,)}", "type '[('a'"},
};

START_TEST(headers_of_members) {
    ds_npz_stats s;
    ds_error err = {0};
    int rc = with_header(1, headers[_i].header, strlen(headers[_i].header), &s, &err);
    ck_assert_msg(!rc == !headers[_i].says, "%s: %d %s", headers[_i].header, rc, err.message);
    if (rc)
        ck_assert_msg(strstr(err.message, headers[_i].says) && strstr(err.message, "'mu.npy'"),
                      "%s: %s", headers[_i].header, err.message);
    else
        ck_assert(s.dim == 6 && !memcmp(s.mu, six, 48));
    ds_npz_stats_release(&s);
}
END_TEST

START_TEST(versions_and_lengths_of_headers) {
    static const char good[] = HEAD "(6,), }";
    char text[5000];
    ds_npz_stats s;
    ds_error err = {0};
    for (int v = 0; v <= 4; v++) {
        int rc = with_header(v, good, sizeof good - 1, &s, &err);
        ck_assert_int_eq(rc, v >= 1 && v <= 3 ? 0 : DS_EINTEGRITY);
        ck_assert(!rc || strstr(err.message, "version 1 to 3"));
        ds_npz_stats_release(&s);
    }
    memset(text, ' ', sizeof text); /* spaces in front, as long as may be and one more */
    for (int more = 0; more < 2; more++)
        for (int v = 1; v <= 2; v++) {
            size_t n = 4096 + (size_t)more;
            memcpy(text + n - (sizeof good - 1), good, sizeof good - 1);
            int rc = with_header(v, text, n, &s, &err);
            ck_assert_msg(rc == (more ? DS_EINTEGRITY : 0), "%zu: %d %s", n, rc, err.message);
            ck_assert(!rc || strstr(err.message, "too long a header"));
            ds_npz_stats_release(&s);
        }
    memcpy(text, good, sizeof good); /* with its 0 */
    ck_assert_int_eq(with_header(1, text, sizeof good, &s, &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "cannot be read"));
}
END_TEST

/* mu (2) and sigma (2,2). */
static int with_numbers(const double *mu, const double *sigma, ds_error *err) {
    static const char two[] = HEAD "(2,), }", square[] = HEAD "(2, 2), }";
    ds_npz_stats s;
    member list[2] = {npy("mu.npy", 1, two, sizeof two - 1, mu, 16),
                      npy("sigma.npy", 1, square, sizeof square - 1, sigma, 32)};
    int rc = ds_npz_read_stats(npz(list, 2, 0), &s, err);
    ds_npz_stats_release(&s);
    return rc;
}

START_TEST(numbers_at_the_bounds) {
    static const struct {
        double mu[2], sigma[4];
        const char *says;
    } cases[] = {{{1e100, -1e100}, {0, 0, 0, 0}, NULL},
                 {{1, 1.0001e100}, {1, 0, 0, 1}, "above 1e100"},
                 {{-1.0001e100, 1}, {1, 0, 0, 1}, "above 1e100"},
                 {{1, 1}, {1, 0, 0, -1e-300}, "'sigma.npy' is no covariance: a variance"},
                 {{1, 1}, {4, 1, 1 + 3.9e-5, 1}, NULL}, /* by the largest variance */
                 {{1, 1}, {1, 1, 1 + 4.1e-5, 4}, "not symmetric"},
                 {{1, 1}, {1, 1 + 4.1e-5, 1, 4}, "not symmetric"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ds_error err = {0};
        int rc = with_numbers(cases[i].mu, cases[i].sigma, &err);
        ck_assert_msg(rc == (cases[i].says ? DS_EINTEGRITY : 0), "case %zu: %d %s", i, rc,
                      err.message);
        ck_assert_msg(!rc || strstr(err.message, cases[i].says), "case %zu: %s", i, err.message);
    }
}
END_TEST

#define NET "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define FROM(n) "{\"feature_net\":\"" NET "\",\"preprocess\":\"p\",\"n\":" n "}"
static const struct {
    const char *type, *shape, *text; /* type NULL: |S and the text's length */
    const char *says;
} origins[] = {
    {NULL, "()", FROM("2"), NULL},
    {NULL, "()", FROM("1"), "does not say which network"},
    {NULL, "()", "{\"feature_net\":\"" NET "\",\"n\":5}", "does not say which network"},
    {NULL, "()", "{\"feature_net\":\"abc\",\"preprocess\":\"p\",\"n\":5}",
     "does not say which network"},
    {NULL, "()", "{\"preprocess\":\"p\",\"n\":5}", "does not say which network"},
    {NULL, "()", "{\"feature_net\":", "made.npz"},
    {NULL, "(1,)", FROM("2"), "is not a byte string"},
    {"|S", "()", FROM("2"), "is not a byte string"},
    {"|S9x", "()", FROM("2"), "is not a byte string"},
    {"|S0", "()", FROM("2"), "is not a byte string"},
    {"|S-5", "()", FROM("2"), "is not a byte string"},
    {"|S65537", "()", FROM("2"), "is not a byte string"},
    {"|S65536", "()", FROM("2"), "shorter than its header"},
    {"<U99", "()", FROM("2"), "is not a byte string"},
    {"|S20", "()", FROM("2"), "longer than its header"},
};

START_TEST(where_statistics_come_from) {
    static const char one[] = HEAD "(1,), }", square[] = HEAD "(1, 1), }";
    static const double x = 2;
    char type[32], header[128];
    const char *text = origins[_i].text;
    ds_npz_stats s;
    ds_error err = {0};
    snprintf(type, sizeof type, "|S%zu", strlen(text));
    snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
             origins[_i].type ? origins[_i].type : type, origins[_i].shape);
    member list[3] = {npy("mu.npy", 1, one, sizeof one - 1, &x, 8),
                      npy("sigma.npy", 1, square, sizeof square - 1, &x, 8),
                      npy("diffscaler.npy", 1, header, strlen(header), text, strlen(text))};
    int rc = ds_npz_read_stats(npz(list, 3, 0), &s, &err);
    ck_assert_msg(!rc == !origins[_i].says, "case %d: %d %s", _i, rc, err.message);
    if (rc)
        ck_assert_msg(strstr(err.message, origins[_i].says) != NULL, "case %d: %s", _i,
                      err.message);
    else
        ck_assert(s.known && s.n == 2 && !strcmp(s.net, NET) && !strcmp(s.preprocess, "p") &&
                  !*s.decode && !s.seed);
    ck_assert(!rc || (!s.mu && !s.sigma));
    ds_npz_stats_release(&s);
}
END_TEST

/* Which members there are: of mu_s without sigma_s nothing can be made. */
START_TEST(members_that_are_missing) {
    static const char one[] = HEAD "(1,), }", square[] = HEAD "(1, 1), }";
    static const double x = 2;
    ds_npz_contents c;
    ds_npz_stats s;
    ds_error err = {0};
    for (int without = 0; without < 4; without++) {
        static const char *const names[] = {"mu.npy", "sigma.npy", "mu_s.npy", "sigma_s.npy"};
        member list[4];
        int n = 0;
        for (int i = 0; i < 4; i++)
            if (i != without)
                list[n++] = i % 2 ? npy(names[i], 1, square, sizeof square - 1, &x, 8)
                                  : npy(names[i], 1, one, sizeof one - 1, &x, 8);
        const char *path = npz(list, n, 0);
        int rc = ds_npz_look(path, &c, &err);
        ck_assert_int_eq(rc, without < 2 ? DS_EINVAL : 0);
        ck_assert(without < 2 || (c.stats && !c.spatial));
        ck_assert(!rc || strstr(err.message, "neither statistics"));
        rc = ds_npz_read_stats(path, &s, &err);
        static const char *const says[] = {"no member 'mu.npy'", "'sigma.npy' is missing", "",
                                           "'sigma_s.npy' is missing"};
        ck_assert_msg(!rc == (without == 2), "without %s: %d", names[without], rc);
        ck_assert(!rc || strstr(err.message, says[without]));
        ck_assert(rc || (!s.mu_s && !s.dim_s));
        ds_npz_stats_release(&s);
    }
    /* a way of packing that nobody reads */
    member packed[1] = {npy("mu.npy", 1, one, sizeof one - 1, &x, 8)};
    ck_assert_int_eq(ds_npz_read_stats(npz(packed, 1, 77), &s, &err), DS_EINVAL);
    ck_assert_msg(strstr(err.message, "packed in a way") != NULL, "%s", err.message);
}
END_TEST

START_TEST(sides_and_counts_of_pictures) {
    static const struct {
        const char *type;
        int64_t n, height, width;
        int code;
        const char *says;
    } cases[] = {{"|u1", 1, 1, 65535, 0, ""},
                 {"|u1", 1, 65535, 1, 0, ""},
                 {"<u1", DS_FEATURE_ROWS_MAX, 2, 3, 0, ""},
                 {"|u1", 1, 1, 65536, DS_EINVAL, "pictures of 65536 x 1, want 1 to 65535 a side"},
                 {"|u1", 1, 65536, 1, DS_EINVAL, "pictures of 1 x 65536"},
                 {"|u1", 1, 0, 1, DS_EINVAL, "pictures of 1 x 0"},
                 {"|u1", 1, 1, 0, DS_EINVAL, "pictures of 0 x 1"},
                 {"|u1", DS_FEATURE_ROWS_MAX + 1, 2, 3, DS_ELIMIT, "pictures, at most"},
                 {"|u1", 0, 2, 3, DS_EINVAL, "has no picture"},
                 {"|u2", 1, 2, 3, DS_EINVAL, "type '|u2'"},
                 {"|i1", 1, 2, 3, DS_EINVAL, "type '|i1'"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char header[200];
        ds_npz_contents c;
        ds_npz_pictures *p = NULL;
        ds_error err = {0};
        snprintf(header, sizeof header,
                 "{'descr': '%s', 'fortran_order': False, 'shape': (%lld, %lld, %lld, 3), }",
                 cases[i].type, (long long)cases[i].n, (long long)cases[i].height,
                 (long long)cases[i].width);
        member list[1] = {npy("arr_0.npy", 1, header, strlen(header), six, sizeof six)};
        const char *path = npz(list, 1, 0);
        int rc = ds_npz_look(path, &c, &err);
        ck_assert_msg(rc == cases[i].code && strstr(err.message, cases[i].says), "case %zu: %d %s",
                      i, rc, err.message);
        ck_assert(rc || (c.pictures == cases[i].n && c.height == cases[i].height &&
                         c.width == cases[i].width && !c.stats));
        ck_assert_int_eq(ds_npz_pictures_open(path, &p, &err), rc);
        ds_npz_pictures_close(p);
    }
}
END_TEST

/* Where there is no room nothing is left, and what was there stays. */
START_TEST(no_room_for_statistics) {
    static double mu[2] = {1, 2}, sigma[4] = {1, 0, 0, 1};
    char dir[400], path[512], *text;
    size_t n;
    ds_npz_stats s = {.dim = 2, .mu = mu, .sigma = sigma, .known = 1, .n = 5};
    ds_error err = {0};
    struct rlimit was, small;
    snprintf(dir, sizeof dir, "%s/full", ds_test_tmpdir());
    snprintf(path, sizeof path, "%s/s.npz", dir);
    ck_assert_int_eq(ds_fs_mkdirs(dir, NULL), 0);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &was);
    for (int there = 0; there < 2; there++) {
        if (there)
            ck_assert_int_eq(ds_fs_write(path, "old", 3, NULL), 0);
        small = was;
        small.rlim_cur = 100;
        setrlimit(RLIMIT_FSIZE, &small);
        int rc = ds_npz_write_stats(path, &s, 1, &err);
        setrlimit(RLIMIT_FSIZE, &was);
        ck_assert(rc && strstr(err.message, "cannot write '") && strstr(err.message, path));
        if (there) {
            ck_assert_int_eq(ds_fs_read(path, 99, &text, &n, NULL), 0);
            ck_assert(n == 3 && !memcmp(text, "old", 3));
            free(text);
            unlink(path);
        }
        ck_assert_msg(!rmdir(dir), "something is left");
        ck_assert_int_eq(ds_fs_mkdirs(dir, NULL), 0);
    }
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, headers_of_members, 0, sizeof headers / sizeof *headers);
    tcase_add_test(tc, versions_and_lengths_of_headers);
    tcase_add_test(tc, numbers_at_the_bounds);
    tcase_add_loop_test(tc, where_statistics_come_from, 0, sizeof origins / sizeof *origins);
    tcase_add_test(tc, members_that_are_missing);
    tcase_add_test(tc, sides_and_counts_of_pictures);
    tcase_add_test(tc, no_room_for_statistics);
    tcase_add_test(tc, pictures_in_order);
    tcase_add_loop_test(tc, pictures_refused, 0, sizeof not_pictures / sizeof *not_pictures);
    tcase_add_test(tc, written_by_numpy);
    tcase_add_loop_test(tc, refused_with_a_reason, 0, sizeof refused / sizeof *refused);
    tcase_add_test(tc, any_damage);
    tcase_add_test(tc, round_trip);
}

int main(void) { return ds_test_main("engine_npz", register_cases); }
