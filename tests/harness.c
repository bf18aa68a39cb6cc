#include "tests/harness.h"

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

int ds_test_main(const char *name, void (*register_cases)(TCase *tc)) {
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
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner), run = srunner_ntests_run(runner);
    srunner_free(runner);
    printf("%s: %d passed, %d failed, %d skipped\n", name, run - failed - *skipped, failed,
           *skipped);
    return failed ? 1 : 0;
}
