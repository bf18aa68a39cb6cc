/* tests/test_base_mem.c - allocation that does not fail, and the growing buffer. */
#include "base/mem.h"

#include "tests/harness.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Under ASan too, an allocation without room is NULL. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

START_TEST(allocations) {
    char *p = ds_xmalloc(0), *q = ds_xmalloc(0);
    ck_assert_msg(p && q && p != q, "nothing is not unique");
    p = ds_xrealloc(p, 100);
    memset(p, 7, 100);
    p = ds_xrealloc(p, 10000);
    ck_assert_int_eq(p[99], 7);
    free(p);
    free(q);
    unsigned char *z = ds_xcalloc(33, 7);
    for (int i = 0; i < 33 * 7; i++)
        ck_assert_msg(z[i] == 0, "not zeroed");
    free(z);
    for (size_t n = 0; n < 300; n += 13) {
        char *a = ds_xaligned(n);
        ck_assert_msg((uintptr_t)a % 64 == 0, "%zu bytes are not aligned", n);
        memset(a, 1, n);
        free(a);
    }
    char *s = ds_xstrdup("four"), *t = ds_xasprintf("%s and %d", s, 5), *u = ds_xasprintf("%s", "");
    ck_assert_str_eq(t, "four and 5");
    ck_assert_str_eq(u, "");
    free(s);
    free(t);
    free(u);
}
END_TEST

/* data[len] == 0 after every addition, over many growths. */
START_TEST(buffer) {
    ds_buf b = {0};
    ds_buf_add(&b, NULL, 0);
    ck_assert_msg(b.data && b.len == 0 && b.data[0] == 0, "adding nothing");
    size_t want = 0;
    for (int i = 0; i < 2000; i++) {
        char piece[4] = {(char)i, 0, 'x', (char)(i >> 8)};
        ds_buf_add(&b, piece, 4); /* zeros inside are data */
        ck_assert_msg(b.len == want + 4 && b.cap > b.len, "no room for the last zero at %d", i);
        ds_buf_addf(&b, "%d", i % 10);
        want += 5;
        ck_assert_msg(b.len == want && b.cap > b.len && b.data[b.len] == 0, "after %d", i);
    }
    for (int i = 0; i < 2000; i++) {
        ck_assert_msg(b.data[5 * i] == (char)i && b.data[5 * i + 1] == 0, "byte of %d", i);
        ck_assert_msg(b.data[5 * i + 4] == '0' + i % 10, "digit of %d", i);
    }
    ds_buf_addf(&b, "%s", "");
    ck_assert_uint_eq(b.len, want);
    char *longer = ds_xmalloc(100001);
    memset(longer, 'a', 100000);
    longer[100000] = 0;
    ds_buf_addf(&b, "<%s>", longer);
    ck_assert_uint_eq(b.len, want + 100002);
    ck_assert_int_eq(b.data[b.len - 1], '>');
    free(longer);
    ds_buf_release(&b);
    ck_assert_msg(!b.data && !b.len && !b.cap, "not zeroed");
    ds_buf_release(&b);
}
END_TEST

/* Whether call(size) in a child dies of SIGABRT instead of returning. */
static int aborts(void *(*call)(size_t), size_t size) {
    int status;
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 2);
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        _exit(call(size) ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

static void *overflow(size_t n) { return ds_xcalloc(n, 4); }
static void *shrink(size_t n) { return ds_xrealloc(NULL, n); }

START_TEST(exhaustion_aborts) {
    ck_assert_msg(aborts(ds_xmalloc, SIZE_MAX / 2), "malloc of everything returns");
    ck_assert_msg(aborts(ds_xaligned, SIZE_MAX - 3), "an aligned size that overflows returns");
    ck_assert_msg(aborts(overflow, SIZE_MAX / 2), "a product that overflows returns");
    ck_assert_msg(aborts(shrink, SIZE_MAX / 2), "realloc of everything returns");
    ck_assert_msg(!aborts(ds_xmalloc, 10), "ten bytes abort");
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, allocations);
    tcase_add_test(tc, buffer);
    tcase_add_test(tc, exhaustion_aborts);
}

int main(void) { return ds_test_main("base_mem", register_cases); }
