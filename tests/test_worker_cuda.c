/* tests/test_worker_cuda.c - a whole job on the CUDA device (emulated: tests/emu/emu.h): training,
 * sampling, features, gate and publication, killed on the way, as a real process. */
#include "tests/worker_fixture.h"

static json_t *cuda_spec(void) {
    json_t *s = train_spec("blobs"), *train = json_object_get(s, "train");
    json_object_set_new(
        s, "device",
        json_pack("{s:s, s:s, s:i}", "kind", "cuda", "precision", "bf16", "threads", 1));
    json_object_set_new(train, "steps", json_integer(12));
    json_object_set_new(train, "checkpoint_every", json_integer(4));
    json_object_set_new(train, "heldout_every", json_integer(6));
    json_object_set_new(s, "evaluate", /* the emulated feature network takes a second a picture */
                        json_pack("{s:i, s:i, s:i, s:i}", "n", 4, "seed", 7, "kid_subsets", 2,
                                  "kid_subset_size", 2));
    return s;
}

START_TEST(job) {
    if (SANITIZED) {
        ds_test_skip("job on the CUDA device", "minutes under the address sanitizer");
        return;
    }
    char *dir = make_job("cuda", cuda_spec()), *whole = make_job("whole", cuda_spec());
    pid_t pid = start_job(dir, NULL, NULL);
    char *checkpoints = ds_xasprintf("%s/checkpoints", dir);
    for (int i = 0; i < 600 && !ds_fs_exists(checkpoints); i++)
        usleep(50000);
    kill(pid, SIGKILL);
    wait_job(pid);
    run_expect(dir, 0);
    run_expect(whole, 0);
    json_t *r = read_json(dir, "result.json"), *w = read_json(whole, "result.json");
    ck_assert_str_eq(text_at(r, "status", NULL), "ok");
    ck_assert_str_eq(text_at(r, "adapter", "sha256"), text_at(w, "adapter", "sha256"));
    json_decref(r);
    json_decref(w);
    free(checkpoints);
    free(dir);
    free(whole);
}
END_TEST

static void register_cases(TCase *tc) {
    const char *build = getenv("DS_BUILD");
    char *library =
        ds_xasprintf("%s/tests/emu/libdiffscaler-cuda.so", build ? build : "build/release");
    if (!SANITIZED)
        fixture_make();
    setenv("DIFFSCALER_CUDA_LIBRARY", library, 1);
    tcase_add_test(tc, job);
    free(library);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_cuda", register_cases);
}
