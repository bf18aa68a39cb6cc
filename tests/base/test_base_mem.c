/* tests/base/test_base_mem.c - allocation that does not fail, and the growing buffer. */
#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"

#include "tests/harness.h"

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

enum { SAID = 4096 };

/* The exit status of call(size) in a child that may look for room later; 0 when it returns. */
static int end_of(void *(*call)(size_t), size_t size, char said[SAID]) {
    int status, fds[2];
    ck_assert_int_eq(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(fds[1], 2);
        ds_memory_status(75);
        _exit(call(size) ? 0 : 99);
    }
    close(fds[1]);
    size_t at = 0;
    for (ssize_t n; at < SAID - 1 && (n = read(fds[0], said + at, SAID - 1 - at)) > 0;)
        at += (size_t)n;
    said[at] = 0;
    close(fds[0]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void *overflow(size_t n) { return ds_xcalloc(n, 4); }
static void *shrink(size_t n) { return ds_xrealloc(NULL, n); }
static char something;
static void *of_a_library(size_t n) { return ds_need(n ? &something : NULL); }
#ifndef __SANITIZE_ADDRESS__ /* which cannot limit the address space */
static void *text_of_json(size_t n) {
    setrlimit(RLIMIT_AS, &(struct rlimit){(rlim_t)64 << 20, (rlim_t)64 << 20});
    json_t *doc = json_array();
    for (size_t i = 0; i < n; i++)
        if (!doc || json_array_append_new(doc, json_string("a piece of text")))
            return NULL; /* it would go on with what it has */
    return ds_json_canonical(doc);
}
#endif

/* No signal, one line, and the status that says whether waiting may help. */
START_TEST(exhaustion_ends_the_program) {
    char said[SAID];
    ck_assert_int_eq(end_of(ds_xmalloc, SIZE_MAX / 2, said), 1);
    ck_assert_msg(strstr(said, "out of memory: cannot get 9223372036854775807 bytes\n") != NULL,
                  "%s", said); /* the sanitizer has its say before */
    ck_assert_int_eq(end_of(ds_xaligned, SIZE_MAX - 3, said), 1);
    ck_assert_int_eq(end_of(overflow, SIZE_MAX / 2, said), 1);
    ck_assert_int_eq(end_of(shrink, SIZE_MAX / 2, said), 1);
    ck_assert_int_eq(end_of(of_a_library, 0, said), 75);
    ck_assert_int_eq(end_of(of_a_library, 1, said), 0);
    ck_assert_int_eq(end_of(ds_xmalloc, 10, said), 0);
#ifdef __SANITIZE_ADDRESS__
    ds_test_skip("exhaustion of jansson", "address space cannot be limited under ASan");
#else
    ck_assert_int_eq(end_of(text_of_json, 10000000, said), 75);
#endif
}
END_TEST

/* A hard limit below what decoding needs is told to those who cannot raise it. */
START_TEST(address_limit_is_seen) {
    ck_assert_int_eq(ds_address_limit_mib(0), 0);
    pid_t pid = fork();
    if (!pid) {
        struct rlimit r = {(rlim_t)1024 << 20, (rlim_t)1024 << 20};
        int root = geteuid() == 0;
        int unseen = setrlimit(RLIMIT_AS, &r) || (root && ds_address_limit_mib(0));
        _exit(unseen || (root && seteuid(65534)) || ds_address_limit_mib(0) != 1024);
    }
    int status = 1;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, allocations);
    tcase_add_test(tc, buffer);
    tcase_add_test(tc, exhaustion_ends_the_program);
    tcase_add_test(tc, address_limit_is_seen);
}

int main(void) { return ds_test_main("base_mem", register_cases); }
