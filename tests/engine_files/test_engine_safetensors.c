/* tests/engine_files/test_engine_safetensors.c - round trips, number formats, and files that must be refused. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/zio.h"
#include "engine/files/safetensors.h"
#include "tests/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file made of header text and a data section of `bytes` bytes; malloc'ed. */
static char *file_of(const char *header, size_t header_n, size_t bytes, size_t *n) {
    char *p = ds_xcalloc(1, 8 + header_n + bytes);
    uint64_t size = header_n;
    memcpy(p, &size, 8);
    memcpy(p + 8, header, header_n);
    for (size_t i = 0; i < bytes; i++)
        p[8 + header_n + i] = (char)i;
    *n = 8 + header_n + bytes;
    return p;
}

static int try_header(const char *header, size_t bytes, ds_error *err) {
    size_t n;
    char *p = file_of(header, strlen(header), bytes, &n);
    ds_st *st = NULL;
    int rc = ds_st_open_owned("f.safetensors", p, n, &st, err);
    ds_st_free(st);
    return rc;
}

/* ---------------------------------------------------------------- hostile headers */

#define T(dtype, shape, offsets)                                                                   \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *what, *header;
    size_t bytes;
    const char *message; /* must be in it; NULL = the file is good */
} headers[] = {
    {"nothing", "{}", 0, NULL},
    {"spaces after", "{}      ", 0, NULL},
    {"one tensor", "{\"a\":" T("F32", "[2]", "[0,8]") "}", 8, NULL},
    {"scalar", "{\"a\":" T("F64", "[]", "[0,8]") "}", 8, NULL},
    {"empty tensors", "{\"a\":" T("F32", "[0,5]", "[4,4]") ",\"b\":" T("U8", "[4]", "[0,4]") "}", 4,
     NULL},
    {"empty in front", "{\"z\":" T("U8", "[4]", "[0,4]") ",\"a\":" T("F32", "[0]", "[0,0]") "}", 4,
     NULL},
    {"any order", "{\"b\":" T("U8", "[2]", "[2,4]") ",\"a\":" T("U8", "[2]", "[0,2]") "}", 4, NULL},
    {"metadata", "{\"__metadata__\":{\"k\":\"v [{[{[{ \\\" [\"}}", 0, NULL},
    {"not an object", "[]", 0, "does not begin with '{'"},
    {"leading space", " {}", 0, "does not begin with '{'"},
    {"cut JSON", "{\"a\":{\"dtype\":\"F32\"", 0, "not a valid"},
    {"two documents", "{}{}", 0, "not a valid"},
    {"duplicate tensor", "{\"a\":" T("U8", "[1]", "[0,1]") ",\"a\":" T("U8", "[1]", "[0,1]") "}", 1,
     "duplicate"},
    {"duplicate member",
     "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
     "duplicate"},
    {"metadata number", "{\"__metadata__\":{\"k\":1}}", 0, "metadata 'k'"},
    {"metadata list", "{\"__metadata__\":[]}", 0, "metadata is not an object"},
    {"no dtype", "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8, "no dtype"},
    {"extra member", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1,
     "only"},
    {"tensor is text", "{\"a\":\"x\"}", 0, "only"},
    {"negative size", "{\"a\":" T("F32", "[-2]", "[0,8]") "}", 8, "whole number"},
    {"real size", "{\"a\":" T("F32", "[2.0]", "[0,8]") "}", 8, "whole number"},
    {"text size", "{\"a\":" T("F32", "[\"2\"]", "[0,8]") "}", 8, "whole number"},
    {"2^60 numbers", "{\"a\":" T("F32", "[1152921504606846976]", "[0,8]") "}", 8, "do not match"},
    {"2^64 bytes", "{\"a\":" T("F64", "[2305843009213693952]", "[0,0]") "}", 0, "impossible"},
    {"product wraps", "{\"a\":" T("U8", "[4294967296,4294967296,4294967296]", "[0,0]") "}", 0,
     "impossible"},
    {"product wraps to zero", "{\"a\":" T("U8", "[4294967296,4294967296]", "[0,0]") "}", 0,
     "impossible"},
    {"too big integer", "{\"a\":" T("U8", "[99999999999999999999]", "[0,0]") "}", 0, "not a valid"},
    /* whole files with what is not read here: not damaged */
    {"a type of later years", "{\"a\":" T("F4_X", "[3]", "[0,8]") "}", 8, NULL},
    {"types that are carried",
     "{\"a\":" T("U16", "[1]", "[0,2]") ",\"b\":" T("F8_E4M3", "[2]", "[2,4]") ",\"c\":" T(
         "C64", "[1]", "[4,12]") "}",
     12, NULL},
    {"nine dimensions", "{\"a\":" T("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, NULL},
    {"no metadata", "{\"__metadata__\":null,\"a\":" T("U8", "[1]", "[0,1]") "}", 1, NULL},
    {"a known type of another size", "{\"a\":" T("U16", "[2]", "[0,2]") "}", 2, "match its shape"},
    {"shape is a number", "{\"a\":" T("U8", "1", "[0,1]") "}", 1, "no shape"},
    {"one offset", "{\"a\":" T("U8", "[1]", "[1]") "}", 1, "no data_offsets"},
    {"real offsets", "{\"a\":" T("U8", "[1]", "[0.0,1.0]") "}", 1, "whole numbers"},
    {"negative offset", "{\"a\":" T("U8", "[1]", "[-1,0]") "}", 1, "outside"},
    {"offsets backwards", "{\"a\":" T("U8", "[1]", "[1,0]") "}", 1, "outside"},
    {"beyond the file", "{\"a\":" T("U8", "[2]", "[0,2]") "}", 1, "outside"},
    {"far beyond", "{\"a\":" T("U8", "[1]", "[9223372036854775806,9223372036854775807]") "}", 1,
     "outside"},
    {"size differs", "{\"a\":" T("F32", "[2]", "[0,4]") "}", 8, "do not match"},
    {"overlap", "{\"a\":" T("U8", "[3]", "[0,3]") ",\"b\":" T("U8", "[2]", "[2,4]") "}", 4,
     "overlaps"},
    {"same place", "{\"a\":" T("U8", "[4]", "[0,4]") ",\"b\":" T("U8", "[4]", "[0,4]") "}", 4,
     "overlaps"},
    {"hole", "{\"a\":" T("U8", "[1]", "[0,1]") ",\"b\":" T("U8", "[2]", "[2,4]") "}", 4, "hole"},
    {"hole at the start", "{\"a\":" T("U8", "[3]", "[1,4]") "}", 4, "hole"},
    {"bytes after the last", "{\"a\":" T("U8", "[3]", "[0,3]") "}", 4, "1 bytes after"},
    {"bytes of nobody", "{}", 4, "4 bytes after"},
    {"control character", "{\"a\\u001b[2J\":" T("U8", "[1]", "[0,1]") "}", 1, "control"},
    {"zero in a name", "{\"a\\u0000b\":" T("U8", "[1]", "[0,1]") "}", 1, "not a valid"},
    {"not UTF-8", "{\"a\xff\":" T("U8", "[1]", "[0,1]") "}", 1, "not a valid"},
};

START_TEST(header_cases) {
    ds_error err = {0};
    int rc = try_header(headers[_i].header, headers[_i].bytes, &err);
    if (!headers[_i].message) {
        ck_assert_msg(rc == 0, "%s: %s", headers[_i].what, err.message);
        return;
    }
    ck_assert_msg(rc == DS_EINTEGRITY, "%s: %d", headers[_i].what, rc);
    ck_assert_msg(strstr(err.message, headers[_i].message) != NULL, "%s: %s", headers[_i].what,
                  err.message);
    ck_assert_msg(strstr(err.message, "f.safetensors") != NULL, "%s", err.message);
}
END_TEST

/* Headers that would make a parser recurse or allocate without limit. */
static int repeated(const char *head, const char *unit, size_t times, const char *tail,
                    ds_error *e) {
    ds_buf b = {0};
    ds_buf_addf(&b, "%s", head);
    for (size_t i = 0; i < times; i++)
        ds_buf_addf(&b, "%s", unit);
    ds_buf_addf(&b, "%s", tail);
    int rc = try_header(b.data, 0, e);
    ds_buf_release(&b);
    return rc;
}

START_TEST(bloated_headers) {
    ds_error err = {0};
    ck_assert_int_eq(repeated("{\"a\":", "[", 1000000, "", &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "too deeply"));
    ck_assert_int_eq(repeated("{", "\"a\":{", 100000, "", &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "too deeply"));
    ck_assert_int_eq(repeated("{\"a\":[1", ",1", 2000000, "]}", &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "too many values"));
    ds_buf b = {0};
    ds_buf_addf(&b, "{");
    for (int i = 0; i <= DS_ST_TENSORS_MAX; i++)
        ds_buf_addf(&b, "%s\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                    i ? "," : "", i);
    ds_buf_addf(&b, "}");
    ck_assert_int_eq(try_header(b.data, 0, &err), DS_ELIMIT);
    ck_assert_ptr_nonnull(strstr(err.message, "limit 100000"));
    ds_buf_release(&b);
}
END_TEST

START_TEST(length_field) {
    ds_error err = {0};
    ds_st *st = NULL;
    char buffer[32] = {0};
    static const uint64_t sizes[] = {
        0, 1, 25, UINT64_MAX, UINT64_MAX - 7, 1ull << 60, 1u << 24, (1u << 24) + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        memcpy(buffer, &sizes[i], 8);
        memcpy(buffer + 8, "{}", 2);
        for (size_t n = 0; n <= sizeof buffer; n++)
            ck_assert_int_eq(ds_st_open_memory("f", buffer, n, &st, &err), DS_EINTEGRITY);
    }
    size_t n = DS_ST_HEADER_MAX + 64;
    char *big = ds_xmalloc(n);
    memset(big, ' ', n);
    uint64_t size = DS_ST_HEADER_MAX + 1;
    memcpy(big, &size, 8);
    memcpy(big + 8, "{}", 2);
    ck_assert_int_eq(ds_st_open_memory("f", big, n, &st, &err), DS_ELIMIT);
    ck_assert_ptr_nonnull(strstr(err.message, "limit"));
    free(big);
}
END_TEST

/* ---------------------------------------------------------------- round trip */

static const double doubles[3] = {1.0, -2.5, 1e300};
static const float floats[6] = {0, 1, -1, 3.14159265f, 65504, 1e-8f};
static const uint8_t bytes[3] = {1, 2, 255};

static ds_st_writer *sample_writer(int reversed) {
    ds_st_writer *w = ds_st_writer_new();
    static const char *const meta[][2] = {{"zeta", "last"},
                                          {"alpha", "a \"quoted\" \\ line\n\ttab"},
                                          {"M\xc3\xbcnchen", "\xe2\x98\x83"}};
    for (int i = 0; i < 3; i++) {
        int k = reversed ? 2 - i : i;
        ds_st_writer_meta(w, meta[k][0], meta[k][1]);
    }
    ds_st_writer_add(w, "bytes", DS_ST_U8, 1, (int64_t[]){3}, bytes);
    ds_st_writer_add(w, "doubles", DS_ST_F64, 2, (int64_t[]){3, 1}, doubles);
    ds_st_writer_add(w, "empty", DS_ST_I64, 2, (int64_t[]){0, 7}, NULL);
    ds_st_writer_add_f32(w, "f32", DS_ST_F32, 2, (int64_t[]){2, 3}, floats);
    ds_st_writer_add_f32(w, "f16", DS_ST_F16, 1, (int64_t[]){6}, floats);
    ds_st_writer_add_f32(w, "bf16", DS_ST_BF16, 3, (int64_t[]){1, 2, 3}, floats);
    ds_st_writer_add_f32(w, "scalar", DS_ST_F32, 0, NULL, floats + 3);
    return w;
}

static void finish(ds_st_writer *w, char **p, size_t *n) {
    ds_error err = {0};
    ck_assert_msg(!ds_st_writer_finish(w, p, n, &err), "%s", err.message);
    ds_st_writer_free(w);
}

START_TEST(round_trip) {
    char *p, *q;
    size_t n, m;
    finish(sample_writer(0), &p, &n);
    finish(sample_writer(1), &q, &m);
    ck_assert_uint_eq(n, m); /* metadata is sorted: the order of adding it does not matter */
    ck_assert(!memcmp(p, q, n));
    free(q);
    uint64_t header;
    memcpy(&header, p, 8);
    ck_assert_uint_eq(header % 8, 0);
    static const char sorted[] =
        "{\"__metadata__\":{\"M\xc3\xbcnchen\":\"\xe2\x98\x83\",\"alpha\":";
    ck_assert(!memcmp(p + 8, sorted, sizeof sorted - 1)); /* by bytes */
    ds_st *st;
    ds_error err = {0};
    ck_assert_msg(!ds_st_open_owned("x", p, n, &st, &err), "%s", err.message);
    ck_assert_uint_eq(ds_st_count(st), 7);
    ck_assert_str_eq(ds_st_at(st, 0)->name, "bytes");
    ck_assert_uint_eq(ds_st_meta_count(st), 3);
    ck_assert_str_eq(ds_st_meta_key(st, 0), "M\xc3\xbcnchen");
    ck_assert_str_eq(ds_st_meta(st, "alpha"), "a \"quoted\" \\ line\n\ttab");
    ck_assert_ptr_null(ds_st_meta(st, "beta"));
    ck_assert_ptr_null(ds_st_find(st, "none"));
    float x[6];
    ck_assert(!ds_st_need_f32(st, "f32", 2, (int64_t[]){2, 3}, x, &err));
    ck_assert(!memcmp(x, floats, sizeof x));
    ck_assert(!ds_st_need_f32(st, "doubles", 2, (int64_t[]){3, 1}, x, &err));
    ck_assert(x[1] == -2.5f && isinf(x[2]));
    ck_assert(!ds_st_need_f32(st, "scalar", 0, NULL, x, &err));
    ck_assert(x[0] == floats[3]);
    ck_assert(!ds_st_need_f32(st, "f16", 1, (int64_t[]){6}, x, &err));
    ck_assert(x[2] == -1 && x[4] == 65504 && x[3] == 3.140625f);
    ck_assert(!ds_st_need_f32(st, "bf16", 3, (int64_t[]){1, 2, 3}, x, &err));
    ck_assert(x[2] == -1 && x[3] == 3.140625f && x[4] == 65536);
    ck_assert_int_eq(ds_st_need_f32(st, "bytes", 1, (int64_t[]){3}, x, &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "type U8"));
    ck_assert_int_eq(ds_st_need_f32(st, "f32", 2, (int64_t[]){3, 2}, x, &err), DS_EINTEGRITY);
    ck_assert_ptr_nonnull(strstr(err.message, "[2,3], expected [3,2]"));
    ck_assert_int_eq(ds_st_need_f32(st, "nope", 0, NULL, x, &err), DS_EINTEGRITY);
    ds_st_free(st);
}
END_TEST

/* Every prefix of a good file is refused, and so is the file with one byte more. */
START_TEST(truncations) {
    char *p;
    size_t n;
    ds_st *st;
    finish(sample_writer(0), &p, &n);
    for (size_t i = 0; i < n; i++) {
        char *cut = ds_xmalloc(i); /* exact size: the address sanitizer sees a read beyond it */
        memcpy(cut, p, i);
        ck_assert_int_eq(ds_st_open_owned("cut", cut, i, &st, NULL), DS_EINTEGRITY);
    }
    char *longer = ds_xcalloc(1, n + 1);
    memcpy(longer, p, n);
    ck_assert_int_eq(ds_st_open_owned("long", longer, n + 1, &st, NULL), DS_EINTEGRITY);
    free(p);
}
END_TEST

/* Any single changed byte of the header is either refused or gives a file that is still sound. */
START_TEST(changed_bytes) {
    char *p;
    size_t n, accepted = 0;
    ds_st *st;
    finish(sample_writer(0), &p, &n);
    for (size_t i = 0; i < n; i++)
        for (int bit = 0; bit < 8; bit++) {
            p[i] ^= (char)(1 << bit);
            if (!ds_st_open_memory("x", p, n, &st, NULL)) {
                size_t sum = 0;
                for (size_t k = 0; k < ds_st_count(st); k++)
                    sum += ds_st_at(st, k)->bytes;
                ck_assert_uint_lt(sum, n);
                accepted++;
                ds_st_free(st);
            }
            p[i] ^= (char)(1 << bit);
        }
    ck_assert_uint_gt(accepted, 0);
    free(p);
}
END_TEST

START_TEST(writer_refuses) {
    char *p = NULL;
    size_t n;
    ds_error err = {0};
    for (int k = 0; k < 5; k++) {
        ds_st_writer *w = ds_st_writer_new();
        ds_st_writer_add(w, k == 4 ? "__metadata__" : "a", DS_ST_U8, 1, (int64_t[]){1}, bytes);
        if (k == 0)
            ds_st_writer_add(w, "a", DS_ST_U8, 1, (int64_t[]){1}, bytes);
        ds_st_writer_meta(w, "k", k == 1 ? "\xff" : "v");
        if (k == 2)
            ds_st_writer_meta(w, "k", "w");
        if (k == 3)
            ds_st_writer_add(w, "b\n", DS_ST_U8, 1, (int64_t[]){1}, bytes);
        ck_assert_int_eq(ds_st_writer_finish(w, &p, &n, &err), DS_EINVAL);
        ds_st_writer_free(w);
    }
    ck_assert_ptr_null(p);
}
END_TEST

/* ---------------------------------------------------------------- files */

/* Bytes of files in this process's memory. */
static size_t mapped_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long all, resident, shared;
    ck_assert(f && fscanf(f, "%lu %lu %lu", &all, &resident, &shared) == 3);
    fclose(f);
    return shared * (size_t)sysconf(_SC_PAGESIZE);
}

START_TEST(a_dropped_tensor_takes_no_memory) {
    enum { N = 4 << 20 };
    const int64_t shape[] = {N};
    float *x = ds_xcalloc(N, sizeof *x), sum = 0;
    char *p, path[512];
    size_t n;
    ds_st *st;
    ds_error err = {0};
    ds_st_writer *w = ds_st_writer_new();
    ds_st_writer_add(w, "x", DS_ST_F32, 1, shape, x);
    finish(w, &p, &n);
    snprintf(path, sizeof path, "%s/large.safetensors", ds_test_tmpdir());
    ck_assert(!ds_fs_write(path, p, n, &err));
    free(p);
    ck_assert_msg(!ds_st_open_file(path, n, 1, &st, &err), "%s", err.message);
    const ds_st_tensor *t = ds_st_find(st, "x");
    size_t before = mapped_bytes();
    ds_st_read_f32(st, t, x, NULL);
    ck_assert_uint_ge(mapped_bytes(), before + (size_t)N * 3);
    ds_st_drop(st, t);
    ck_assert_uint_le(mapped_bytes(), before + (size_t)N / 4);
    for (int i = 0; i < N; i += 4096)
        sum += ((const float *)t->data)[i];
    ck_assert_float_eq(sum, 0);
    ds_st_free(st);
    free(x);
}
END_TEST

START_TEST(files_and_frames) {
    char *p, path[512], digest[DS_HEX_SIZE], got[DS_HEX_SIZE];
    size_t n;
    ds_st *st;
    ds_error err = {0};
    finish(sample_writer(0), &p, &n);
    ds_digest(p, n, digest);
    snprintf(path, sizeof path, "%s/a.safetensors", ds_test_tmpdir());
    ck_assert(!ds_fs_write(path, p, n, &err));
    for (int use_mmap = 0; use_mmap < 2; use_mmap++) {
        ck_assert_msg(!ds_st_open_file(path, n, use_mmap, &st, &err), "%s", err.message);
        ck_assert_uint_eq(ds_st_count(st), 7);
        ck_assert(!memcmp(ds_st_find(st, "bytes")->data, bytes, 3));
        ds_st_drop(st, ds_st_find(st, "bytes"));
        ds_st_drop(st, NULL);
        ck_assert(!memcmp(ds_st_find(st, "bytes")->data, bytes, 3)); /* it is still there */
        ds_st_free(st);
        ck_assert_int_eq(ds_st_open_file(path, n - 1, use_mmap, &st, &err), DS_ELIMIT);
        ck_assert_int_eq(ds_st_open_file("/nonexistent/x", n, use_mmap, &st, &err), DS_ENOTFOUND);
        ck_assert_int_ne(ds_st_open_file(ds_test_tmpdir(), n, use_mmap, &st, &err), 0);
        ck_assert_int_ne(ds_st_open_file("/dev/null", n, use_mmap, &st, &err), 0);
    }
    snprintf(path, sizeof path, "%s/a.zst", ds_test_tmpdir());
    ck_assert(!ds_zio_write_file(path, p, n, 0, &err));
    ck_assert_msg(!ds_st_open_zst(path, n, digest, got, &st, &err), "%s", err.message);
    ck_assert_str_eq(digest, got);
    ds_st_free(st);
    ck_assert_int_eq(ds_st_open_zst(path, n - 1, digest, got, &st, &err), DS_ELIMIT);
    digest[0] = digest[0] == '0' ? '1' : '0';
    ck_assert_int_eq(ds_st_open_zst(path, n, digest, got, &st, &err), DS_EINTEGRITY);
    free(p);
}
END_TEST

/* ---------------------------------------------------------------- number formats */

START_TEST(half_formats) {
    for (uint32_t h = 0; h < 65536; h++) { /* every value survives the way there and back */
        float a = ds_f16_to_f32((uint16_t)h), b = ds_bf16_to_f32((uint16_t)h);
        if (isnan(a))
            ck_assert(isnan(ds_f16_to_f32(ds_f16_from_f32(a))));
        else
            ck_assert_uint_eq(ds_f16_from_f32(a), h);
        if (isnan(b))
            ck_assert(isnan(ds_bf16_to_f32(ds_bf16_from_f32(b))));
        else
            ck_assert_uint_eq(ds_bf16_from_f32(b), h);
    }
    static const struct {
        float x;
        uint16_t f16, bf16;
    } cases[] = {
        {1.0f + 0x1p-11f, 0x3c00, 0x3f80},     /* f16 tie goes to even */
        {1.0f + 3 * 0x1p-11f, 0x3c02, 0x3f80}, /* the other way */
        {1.0f + 0x1p-8f, 0x3c04, 0x3f80},      /* bf16 tie to even */
        {1.0f + 3 * 0x1p-8f, 0x3c0c, 0x3f82},  /* and up */
        {65519.99f, 0x7bff, 0x4780},           /* largest that stays finite */
        {65520.0f, 0x7c00, 0x4780},            /* half: infinity */
        {0x1p-25f, 0x0000, 0x3300},            /* tie with zero */
        {0x1.8p-25f, 0x0001, 0x3340},          /* smallest subnormal */
        {0x1.ffcp-15f, 0x0400, 0x3880},        /* subnormal that rounds to normal */
        {-0.0f, 0x8000, 0x8000},
        {3.4e38f, 0x7c00, 0x7f80},
        {-INFINITY, 0xfc00, 0xff80},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_msg(ds_f16_from_f32(cases[i].x) == cases[i].f16, "%a: %04x", (double)cases[i].x,
                      ds_f16_from_f32(cases[i].x));
        ck_assert_msg(ds_bf16_from_f32(cases[i].x) == cases[i].bf16, "%a: %04x", (double)cases[i].x,
                      ds_bf16_from_f32(cases[i].x));
    }
}
END_TEST

/* ---------------------------------------------------------------- another reader */

static const char reader[] =
    "import json, struct, sys\n"
    "d = open(sys.argv[1], 'rb').read()\n"
    "n = struct.unpack('<Q', d[:8])[0]\n"
    "h = json.loads(d[8:8 + n].decode('utf-8'))\n"
    "assert h.pop('__metadata__') == {'zeta': 'last', 'alpha': 'a \"quoted\" \\\\ line\\n\\ttab',\n"
    "                                 'M\\u00fcnchen': '\\u2603'}\n"
    "assert list(h) == ['bytes', 'doubles', 'empty', 'f32', 'f16', 'bf16', 'scalar']\n"
    "size = {'U8': 1, 'F64': 8, 'I64': 8, 'F32': 4, 'F16': 2, 'BF16': 2}\n"
    "at = 0\n"
    "for t in h.values():\n"
    "    count = 1\n"
    "    for s in t['shape']: count *= s\n"
    "    b, e = t['data_offsets']\n"
    "    assert b == at and e - b == count * size[t['dtype']], t\n"
    "    at = e\n"
    "assert 8 + n + at == len(d) and n % 8 == 0\n"
    "def get(k, f):\n"
    "    b, e = h[k]['data_offsets']\n"
    "    return struct.unpack('<' + f, d[8 + n + b:8 + n + e])\n"
    "assert get('bytes', '3B') == (1, 2, 255)\n"
    "assert get('doubles', '3d') == (1.0, -2.5, 1e300)\n"
    "assert get('f16', '6e')[:5] == (0.0, 1.0, -1.0, 3.140625, 65504.0)\n"
    "assert h['scalar']['shape'] == [] and abs(get('scalar', 'f')[0] - 3.14159265) < 1e-6\n";

START_TEST(python_reads_it) {
    char *p, path[512], command[1200];
    size_t n;
    if (system("command -v python3 >/dev/null 2>&1")) {
        ds_test_skip("python_reads_it", "no python3 here");
        return;
    }
    finish(sample_writer(0), &p, &n);
    snprintf(path, sizeof path, "%s/p.safetensors", ds_test_tmpdir());
    ck_assert(!ds_fs_write(path, p, n, NULL));
    char script[512];
    snprintf(script, sizeof script, "%s/p.py", ds_test_tmpdir());
    ck_assert(!ds_fs_write(script, reader, sizeof reader - 1, NULL));
    snprintf(command, sizeof command, "python3 '%s' '%s'", script, path);
    ck_assert_int_eq(system(command), 0);
    free(p);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_loop_test(tc, header_cases, 0, (int)(sizeof headers / sizeof *headers));
    tcase_add_test(tc, bloated_headers);
    tcase_add_test(tc, length_field);
    tcase_add_test(tc, round_trip);
    tcase_add_test(tc, truncations);
    tcase_add_test(tc, changed_bytes);
    tcase_add_test(tc, writer_refuses);
    tcase_add_test(tc, files_and_frames);
    tcase_add_test(tc, a_dropped_tensor_takes_no_memory);
    tcase_add_test(tc, half_formats);
    tcase_add_test(tc, python_reads_it);
}

int main(void) { return ds_test_main("engine_safetensors", register_cases); }
