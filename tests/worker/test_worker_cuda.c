/* tests/worker/test_worker_cuda.c - a whole job on the CUDA device (emulated: tests/emu/emu.h): training,
 * sampling, features, gate and publication, killed on the way, as a real process. */
#include "tests/fixtures/worker_fixture.h"

static json_t *cuda_spec(void) {
    json_t *s = train_spec("blobs"), *train = json_object_get(s, "train");
    json_object_set_new(
        s, "device",
        json_pack("{s:s, s:s, s:i}", "kind", "cuda", "precision", "bf16", "threads", 1));
    json_object_set_new(train, "steps", json_integer(12));
    json_object_set_new(train, "checkpoint_every", json_integer(4));
    json_object_set_new(train, "heldout_every", json_integer(6));
    json_object_set_new(s, "evaluate", /* emulated: slow */
                        json_pack("{s:i, s:i, s:i, s:i}", "n", 4, "seed", 7, "kid_subsets", 2,
                                  "kid_subset_size", 2));
    return s;
}

/* What the emulated GPU has in all and what others have of it, in MiB (tests/emu/lib_emu.cc). */
static void set_memory(int all, int others) {
    char *path = in_tmp("memory"),
         *text = ds_xasprintf("%lld %lld\n", (long long)all << 20, (long long)others << 20);
    ds_error err;
    must(ds_fs_write(path, text, strlen(text), &err), &err);
    free(path);
    free(text);
}

static void wait_for(const char *dir, const char *words) {
    char *path = ds_xasprintf("%s/events.ndjson", dir), *text;
    size_t n;
    for (int i = 0; i < 1200; i++, usleep(20000)) {
        if (ds_fs_read(path, 1 << 24, &text, &n, NULL))
            continue;
        int found = strstr(text, words) != NULL;
        free(text);
        if (found) {
            free(path);
            return;
        }
    }
    ck_abort_msg("'%s' never said %s", path, words);
}

static void remove_events(const char *dir) {
    char *path = ds_xasprintf("%s/events.ndjson", dir);
    unlink(path);
    free(path);
}

/* Stopped while a step is under way, killed; then others have all the memory, before it starts and
 * while it runs: each time it is put off (75) with the reason, keeps its checkpoints, and ends with
 * the bytes of an undisturbed run.
 */
START_TEST(job) {
    if (SANITIZED) {
        ds_test_skip("job on the CUDA device", "minutes under the address sanitizer");
        return;
    }
    char *dir = make_job("cuda", cuda_spec()), *whole = make_job("whole", cuda_spec());
    set_memory(8192, 0);
    pid_t pid = start_job(dir, NULL, NULL);
    char *checkpoints = ds_xasprintf("%s/checkpoints", dir);
    wait_for(dir, "\"type\":\"checkpoint\"");
    kill(pid, SIGTERM); /* the step that has begun ends, and is in the checkpoint */
    ck_assert_int_eq(wait_job(pid), 143);
    wait_for(dir, "asked to stop; a checkpoint is saved");
    remove_events(dir);
    pid = start_job(dir, NULL, NULL);
    wait_for(dir, "\"type\":\"resumed\"");
    kill(pid, SIGKILL);
    wait_job(pid);
    remove_events(dir);
    set_memory(8192, 7900);
    run_expect(dir, 75);
    wait_for(dir, "DS_ENOMEM");
    wait_for(dir, "are free of 8192 MiB in all): wait for what else runs");
    ck_assert(ds_fs_exists(checkpoints));
    remove_events(dir);
    set_memory(8192, 0);
    pid = start_job(dir, NULL, NULL);
    wait_for(dir, "\"type\":\"resumed\"");
    set_memory(8192, 8192); /* the evaluation needs memory that the training had not */
    ck_assert_int_eq(wait_job(pid), 75);
    wait_for(dir, "DS_ENOMEM");
    set_memory(8192, 0);
    run_expect(dir, 0);
    run_expect(whole, 0);
    json_t *r = read_json(dir, "result.json"), *w = read_json(whole, "result.json");
    ck_assert_str_eq(text_at(r, "status", NULL), "ok");
    ck_assert_str_eq(text_at(r, "adapter", "sha256"), text_at(w, "adapter", "sha256"));
    json_decref(r);
    json_decref(w);
    /* no room for the feature network is no verdict on the task */
    json_t *verify = verify_spec(json_pack("[o]", task_of(whole, "blobs")), "full");
    json_object_set_new(verify, "device",
                        json_pack("{s:s, s:s}", "kind", "cuda", "precision", "bf16"));
    char *again = make_job("again", verify);
    set_memory(8192, 8192 - 32 - 16);
    run_expect(again, 75);
    wait_for(again, "not enough device memory for the feature network");
    set_memory(8192, 0);
    run_expect(again, 0);
    free(again);
    free(checkpoints);
    free(dir);
    free(whole);
}
END_TEST

/* A GPU that could never hold the training: final where it was asked for, else the processor. */
START_TEST(too_small_gpu) {
    if (SANITIZED) {
        ds_test_skip("a GPU that is too small", "minutes under the address sanitizer");
        return;
    }
    char *named = make_job("named", cuda_spec());
    json_t *spec = cuda_spec();
    json_object_set_new(json_object_get(spec, "device"), "kind", json_string("auto"));
    char *open = make_job("open", spec);
    set_memory(300, 0);
    run_expect(named, 2);
    wait_for(named, "MiB are free of 300 MiB in all)");
    run_expect(open, 0);
    wait_for(open, "the processor does it: training needs ");
    json_t *r = read_json(open, "result.json");
    ck_assert_int_eq(strncmp(text_at(r, "device_class", NULL), "cpu", 3), 0);
    json_decref(r);
    free(named);
    free(open);
}
END_TEST

/* Nobody insisted on the GPU, but the work so far is from there: it is not begun again elsewhere.
 */
START_TEST(checkpoint_waits_for_its_gpu) {
    if (SANITIZED) {
        ds_test_skip("a checkpoint of a GPU", "minutes under the address sanitizer");
        return;
    }
    json_t *spec = cuda_spec();
    json_object_set_new(json_object_get(spec, "device"), "kind", json_string("auto"));
    char *dir = make_job("away", spec), *library = ds_xstrdup(getenv("DIFFSCALER_CUDA_LIBRARY"));
    set_memory(8192, 0);
    pid_t pid = start_job(dir, NULL, NULL);
    wait_for(dir, "\"type\":\"checkpoint\"");
    kill(pid, SIGKILL);
    wait_job(pid);
    setenv("DIFFSCALER_CUDA_LIBRARY", "/none", 1);
    run_expect(dir, 75);
    wait_for(dir, "checkpoint was made on a GPU, which cannot be used now");
    char *checkpoint = ds_xasprintf("%s/checkpoints/step-00000004.safetensors", dir);
    ck_assert(ds_fs_exists(checkpoint));
    setenv("DIFFSCALER_CUDA_LIBRARY", library, 1);
    set_memory(300, 100); /* it fitted once */
    run_expect(dir, 75);
    ck_assert(ds_fs_exists(checkpoint));
    free(checkpoint);
    free(library);
    free(dir);
}
END_TEST

static ds_device *open_emulated(void) {
    ds_device_options o = {.kind = "cuda", .precision = DS_PRECISION_BF16};
    ds_device *dev;
    ds_error err;
    must(ds_device_open(&dev, &o, &err), &err);
    return dev;
}

/* Scratch, the output of a layer that nobody keeps, and the libraries' own: all of it is known. */
START_TEST(workspace_is_counted) {
    enum { ROWS = 512, D = 64, BIG = 1 << 20 };
    ds_device *dev = open_emulated();
    size_t before = dev->workspace_bytes(dev), room = dev->free_bytes(dev);
    ck_assert_uint_ge(before, 32 << 20);
    ck_assert_uint_ge(dev->total_bytes(dev), room + before);
    float *x = dev->alloc(dev, BIG * sizeof *x);
    ck_assert_ptr_nonnull(x);
    ck_assert_uint_eq(dev->free_bytes(dev), room - BIG * sizeof *x);
    dev->ops->fill(dev, x, 0, BIG);
    ds_weight *w = dev->weight_new(dev, D, D, 0, 0);
    dev->ops->weight_pack(dev, w, x, NULL);
    ds_act *in = dev->alloc(dev, ROWS * D * dev->act_size), *y = NULL;
    dev->ops->act_from_f32(dev, in, x, ROWS * D);
    size_t scratch = dev->workspace_bytes(dev);
    room = dev->free_bytes(dev);
    dev->ops->linear_residual_forward(dev, y, x, x, x, D, in, w, x, 2, ROWS / 2);
    dev->sync(dev);
    size_t grown = dev->workspace_bytes(dev) - scratch;
    ck_assert_uint_ge(grown, ROWS * D * dev->act_size);
    ck_assert_uint_eq(room - dev->free_bytes(dev), grown); /* nothing that is not counted */
    dev->weight_free(dev, w);
    dev->free(dev, in);
    dev->free(dev, x);
    ds_device_close(dev);
}
END_TEST

/* In the middle of an op there is no way back: the worker ends, to be run again. */
START_TEST(no_room_for_scratch) {
    set_memory(8192, 0);
    int status, fds[2];
    char text[1024];
    ck_assert_int_eq(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], 2);
        ds_device *dev = open_emulated();
        double sum;
        float *x = dev->alloc(dev, 4096);
        set_memory(8192, 8192 - 32);
        dev->ops->sum_squares(dev, &sum, x, 1024);
        _exit(0);
    }
    close(fds[1]);
    ssize_t n = read(fds[0], text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 75);
    ck_assert_msg(strstr(text, "scratch memory needs 1 MiB, and 0 MiB of 8192 MiB are free"), "%s",
                  text);
    close(fds[0]);
}
END_TEST

static void register_cases(TCase *tc) {
    if (!SANITIZED)
        fixture_make();
    char *memory = in_tmp("memory");
    ds_test_emulated_gpu();
    setenv("DS_EMU_MEMORY", memory, 1);
    tcase_set_timeout(tc, 900);
    tcase_add_test(tc, workspace_is_counted);
    tcase_add_test(tc, no_room_for_scratch);
    tcase_add_test(tc, job);
    tcase_add_test(tc, too_small_gpu);
    tcase_add_test(tc, checkpoint_waits_for_its_gpu);
    free(memory);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_cuda", register_cases);
}
