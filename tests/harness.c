#include "tests/harness.h"
#include "base/fs.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int *skipped; /* shared with forked tests */
static char dir[256];
static pid_t owner;

void ds_test_skip(const char *test, const char *reason) {
    printf("SKIPPED %s: %s\n", test, reason);
    fflush(stdout);
    if (skipped)
        (*skipped)++;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

static void cleanup(void) {
    if (dir[0] && getpid() == owner)
        nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *ds_test_emulated_gpu(void) {
    static char path[512];
    const char *build = getenv("DS_BUILD");
    snprintf(path, sizeof path, "%s/tests/emu/libdiffscaler-cuda.so",
             build ? build : "build/release");
    setenv("DIFFSCALER_CUDA_LIBRARY", path, 1);
    return path;
}

const char *ds_test_tmpdir(void) { return dir; }

static char only[1000]; /* names of tests, between commas; "": all */
static int added;

#undef _tcase_add_test
void ds_tcase_add_test(TCase *tc, const TTest *test, int signal, int exit_value, int start,
                       int end) {
    char word[200];
    snprintf(word, sizeof word, ",%s,", test->name);
    if (*only && !strstr(only, word))
        return;
    added++;
    _tcase_add_test(tc, test, signal, exit_value, start, end);
}

int ds_test_main(const char *name, void (*register_cases)(TCase *tc)) {
    const char *wanted = getenv("CK_RUN_CASE");
    if (wanted && *wanted)
        snprintf(only, sizeof only, ",%s,", wanted);
    unsetenv("CK_RUN_CASE"); /* to Check it is the name of all tests together */
    skipped =
        mmap(NULL, sizeof *skipped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/ds-%s-XXXXXX", tmp ? tmp : "/tmp", name);
    owner = getpid();
    if (!mkdtemp(dir)) {
        perror("cannot make a temporary directory");
        return 1;
    }
    atexit(cleanup);
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    tcase_set_timeout(tc, 900);
    register_cases(tc);
    if (!added) {
        fprintf(stderr, "%s: no test is called '%s'\n", name, wanted ? wanted : "");
        return 1;
    }
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner), run = srunner_ntests_run(runner);
    srunner_free(runner);
    printf("%s: %d passed, %d failed, %d skipped\n", name, run - failed - *skipped, failed,
           *skipped);
    return failed ? 1 : 0;
}

void ds_test_golden(const char *file, char *said) {
    char *want;
    size_t n;
    ds_error err;
    if (getenv("DS_TEST_WRITE"))
        ck_assert_msg(!ds_fs_write(file, said, strlen(said), &err), "%s", err.message);
    ck_assert_msg(!ds_fs_read(file, 1 << 24, &want, &n, &err), "%s", err.message);
    for (char *a = said, *b = want; *a || *b;) {
        size_t la = strcspn(a, "\n"), lb = strcspn(b, "\n"), same = 0;
        while (same < la && same < lb && a[same] == b[same])
            same++;
        size_t from = same > 60 ? same - 60 : 0;
        ck_assert_msg(la == lb && same == la, "%.100s: ...%.160s\nnot ...%.160s", a, a + from,
                      b + from);
        a += la + (a[la] == '\n');
        b += lb + (b[lb] == '\n');
    }
    free(want);
}
