/* tests/worker/test_worker_feature_net.c - a whole job measured with FID's network: what is written says
 * so, and an old task is measured with the network that its numbers were made with, or not at all.
 */
#include "tests/fixtures/fid_fixture.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/measure/feature_net.h"
#include "worker/measure/reference.h"

#include <math.h>

static char *fid_job, *bundled_job, *fid_path, fid_sha[DS_HEX_SIZE];

static void make_net(void) {
    size_t n;
    ds_error err;
    char *bytes = fid_weights_file(DS_FID_NET_KIND, &n);
    fid_path = in_tmp("fid.safetensors");
    must(ds_fs_write(fid_path, bytes, n, &err), &err);
    ds_digest(bytes, n, fid_sha);
    free(bytes);
}

/* Few and small: the network takes most of the time. */
static json_t *few(json_t *spec) {
    json_object_set_new(json_object_get(spec, "train"), "steps", json_integer(4));
    json_object_set_new(json_object_get(spec, "evaluate"), "n", json_integer(4));
    return spec;
}

static json_t *net_json(const char *mode) {
    json_t *net = file_json("fid", fid_path, fid_sha);
    if (mode)
        json_object_set_new(net, "mode", json_string(mode));
    return net;
}

/* "feature_net" of an old task. */
static json_t *task_with_net(const char *dir, const char *name, json_t *net) {
    json_t *t = task_of(dir, name);
    json_object_set_new(t, "feature_net", net);
    return t;
}

static json_t *verdict(const char *name, json_t *spec, int status) {
    char *dir = make_job(name, spec);
    run_expect(dir, status);
    json_t *r = read_json(dir, "result.json"), *gate = json_incref(json_object_get(r, "gate"));
    json_decref(r);
    free(dir);
    return gate;
}

static const json_t *first_task(const json_t *gate) {
    return json_array_get(json_object_get(gate, "tasks"), 0);
}

static double number(const json_t *o, const char *key) {
    return json_number_value(json_object_get(o, key));
}

/* ---------------------------------------------------------------- what is written */

START_TEST(numbers_say_their_network) {
    static const char *const subjects[] = {"base", "adapter"};
    json_t *r = read_json(fid_job, "result.json");
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++) {
            const json_t *e = evaluation_of(r, subjects[i], k ? "kid" : "fd");
            ck_assert_str_eq(text_at(e, "feature_net", NULL), fid_sha);
            ck_assert_str_eq(text_at(e, "resize", NULL), "tf1-bilinear/128/1");
            ck_assert_int_eq(json_integer_value(json_object_get(e, "n_fake")), 4);
            ck_assert_int_eq(json_integer_value(json_object_get(e, "seed")), 7);
        }
    json_decref(r);
}
END_TEST

START_TEST(the_adapter_says_its_network) {
    char *path = ds_xasprintf("%s/adapter.safetensors.zst", fid_job);
    ds_st *st;
    ds_error err;
    json_t *doc;
    must(ds_st_open_zst(path, 1 << 26, NULL, NULL, &st, &err), &err);
    const char *text = ds_st_meta(st, "diffscaler");
    must(ds_json_parse(path, text, strlen(text), &doc, &err), &err);
    ck_assert_str_eq(text_at(doc, "feature_net", "sha256"), fid_sha);
    ck_assert_str_eq(text_at(doc, "feature_net", "metric"), DS_FID_METRIC_NAME);
    ck_assert_str_eq(text_at(doc, "resize", NULL), "tf1-bilinear/128/1");
    json_decref(doc);
    ds_st_free(st);
    free(path);
}
END_TEST

/* The reference holds what the network itself gives for a picture of the dataset. */
START_TEST(the_reference_is_of_that_network) {
    char *path = ds_xasprintf("%s/reference.safetensors.zst", fid_job);
    ds_reference ref;
    ds_device *dev;
    ds_feature_net *net, *other;
    ds_device_options o = {.kind = "cpu", .precision = DS_PRECISION_F32, .threads = 1};
    ds_error err;
    must(ds_reference_read(&ref, path, NULL, &err), &err);
    ck_assert_int_eq(ref.dim, DS_INCEPTION_POOL);
    ck_assert_str_eq(ref.net, fid_sha);
    ck_assert_str_eq(ref.resize, "tf1-bilinear/128/1");
    must(ds_device_open(&dev, &o, &err), &err);
    must(ds_feature_net_open(dev, DS_FID_TORCH_FIDELITY, fid_path, fid_sha, &net, &err), &err);
    ck_assert_str_eq(ds_feature_net_sha256(net), fid_sha);
    /* another digest, another kind of file: refused */
    ck_assert_int_eq(ds_feature_net_open(dev, DS_FID_CLEAN, fid_path, ref.sha256, &other, &err),
                     DS_EINTEGRITY);
    ck_assert(ds_feature_net_open(dev, DS_FID_BUNDLED, fid_path, fid_sha, &other, &err));
    uint8_t grey[SIDE * SIDE * 3];
    float *x = ds_xmalloc(sizeof *x * 2 * DS_INCEPTION_POOL),
          *prepared = ds_xmalloc(sizeof *prepared * DS_INCEPTION_PIXELS);
    for (size_t i = 0; i < sizeof grey; i++)
        grey[i] = (uint8_t)(i * 7);
    must(ds_feature_net_compute(net, grey, 1, SIDE, x, &err), &err);
    ds_feature_net_close(net);
    ds_fid_net *plain;
    must(ds_fid_net_open(dev, DS_FID_TORCH_FIDELITY, fid_path, 8, &plain, &err), &err);
    ds_fid_preprocess(DS_FID_TORCH_FIDELITY, DS_INCEPTION_SIDE, prepared, grey, SIDE, SIDE);
    const float *at = prepared;
    ds_fid_net_run(plain, &at, 1, x + DS_INCEPTION_POOL, NULL, NULL);
    ck_assert_mem_eq(x, x + DS_INCEPTION_POOL, DS_INCEPTION_POOL * sizeof *x);
    ds_fid_net_close(plain);
    ds_device_close(dev);
    ds_reference_release(&ref);
    free(prepared);
    free(path);
    free(x);
}
END_TEST

/* ---------------------------------------------------------------- the gate */

/* The job's network is the bundled one; the task's numbers come back bit for bit through its own.
 */
START_TEST(an_old_task_keeps_its_network) {
    json_t *task = task_with_net(fid_job, "blobs", net_json(NULL));
    json_t *gate = verdict("keeps", verify_spec(json_pack("[o]", task), "full"), 0);
    const json_t *t = first_task(gate);
    ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), 2);
    ck_assert_msg(number(t, "fd_now") == number(t, "fd_recorded"), "FD %.17g -> %.17g",
                  number(t, "fd_recorded"), number(t, "fd_now"));
    ck_assert(number(t, "kid_now") == number(t, "kid_recorded"));
    json_decref(gate);
}
END_TEST

/* FID's network with other weights, as the job's own in the task's very mode. */
START_TEST(another_file_is_another_network) {
    char *path = in_tmp("second.safetensors"), *bytes, sha[DS_HEX_SIZE];
    size_t n;
    ds_error err;
    must(ds_fs_read(fid_path, DS_FID_NET_MAX, &bytes, &n, &err), &err);
    bytes[n / 2] ^= 1;
    must(ds_fs_write(path, bytes, n, &err), &err);
    ds_digest(bytes, n, sha);
    free(bytes);
    json_t *task = task_with_net(fid_job, "blobs", net_json(NULL)), *net, *spec;
    spec = verify_spec(json_pack("[o]", task), "full");
    net = file_json("second", path, sha);
    json_object_set_new(net, "mode", json_string("torch-fidelity"));
    json_object_set_new(spec, "feature_net", net);
    json_t *gate = verdict("second", spec, 0);
    const json_t *t = first_task(gate);
    ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), 2);
    ck_assert(number(t, "fd_now") == number(t, "fd_recorded"));
    json_decref(gate);
    free(path);
}
END_TEST

/* The other way round, and the same file with another preprocessing: both tasks in one job. */
START_TEST(networks_are_not_mixed_up) {
    json_t *a = task_with_net(fid_job, "blobs", net_json(NULL)),
           *b = task_of(bundled_job, "stripes"), *spec;
    const char *net = fixture_net();
    char sha[DS_HEX_SIZE];
    unpacked_digest(net, sha);
    json_object_set_new(b, "feature_net", file_json("inception", net, sha));
    spec = verify_spec(json_pack("[o,o]", a, b), "full");
    json_object_set_new(spec, "feature_net", net_json("clean"));
    json_t *gate = verdict("mixed", spec, 0);
    for (size_t i = 0; i < 2; i++) {
        const json_t *t = json_array_get(json_object_get(gate, "tasks"), i);
        ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), 2);
        ck_assert_msg(number(t, "fd_now") == number(t, "fd_recorded"), "%zu: FD %.17g -> %.17g", i,
                      number(t, "fd_recorded"), number(t, "fd_now"));
    }
    json_decref(gate);
}
END_TEST

static void expect_reason(const char *name, json_t *task, const char *a, const char *b) {
    json_t *gate = verdict(name, verify_spec(json_pack("[o]", task), "full"), 0);
    const json_t *t = first_task(gate);
    const char *reason = text_at(t, "reason", NULL);
    ck_assert_msg(strstr(reason, a) && strstr(reason, b), "%s", reason);
    ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), 1);
    json_decref(gate);
}

/* Proven by its probe it passes, and says why it was not measured; else it is refused. */
START_TEST(a_missing_network_is_named) {
    json_t *gone = json_pack("{s:s, s:n, s:s}", "name", "fid", "path", "sha256", fid_sha), *t;
    char *nowhere = in_tmp("nowhere.safetensors");
    expect_reason("gone", task_with_net(fid_job, "blobs", json_deep_copy(gone)),
                  "feature network 'fid'", "dsctl add-feature-net FILE --name fid");
    expect_reason("deleted", task_with_net(fid_job, "blobs", file_json("fid", nowhere, fid_sha)),
                  "torch-fidelity", "dsctl add-feature-net");
    t = task_with_net(fid_job, "blobs", gone);
    json_object_set_new(json_object_get(t, "probe"), "sha256", json_string(fid_sha));
    json_t *gate = verdict("unproven", verify_spec(json_pack("[o]", t), "auto"), 8);
    const char *reason = text_at(gate, "reason", NULL);
    ck_assert_msg(strstr(reason, "feature network 'fid'") != NULL, "%s", reason);
    ck_assert_msg(strstr(reason, fid_sha) != NULL, "%s", reason);
    ck_assert_msg(strstr(reason, "add-feature-net") != NULL, "%s", reason);
    json_decref(gate);
    free(nowhere);
}
END_TEST

/* A damaged network of an old task: it cannot be measured, and nothing else is put in its place. */
START_TEST(a_damaged_network_is_not_used) {
    char *path = in_tmp("damaged.safetensors"), *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_read(fid_path, DS_FID_NET_MAX, &bytes, &n, &err), &err);
    bytes[n / 2] ^= 0x40;
    must(ds_fs_write(path, bytes, n, &err), &err);
    free(bytes);
    json_t *task = task_with_net(fid_job, "blobs", file_json("fid", path, fid_sha));
    expect_reason("damaged", task, "feature network 'fid'", "the registered one is");
    free(path);
}
END_TEST

static void refuse_spec(const char *name, json_t *spec, const char *why) {
    char *dir = make_job(name, spec);
    run_expect(dir, 2);
    char *path = ds_xasprintf("%s/events.ndjson", dir), *text;
    size_t n;
    ds_error err;
    must(ds_fs_read(path, 1 << 20, &text, &n, &err), &err);
    ck_assert_msg(strstr(text, why) != NULL, "%s", text);
    free(text);
    free(path);
    free(dir);
}

START_TEST(specs_are_checked) {
    json_t *spec = train_spec("blobs"), *t;
    json_object_set_new(spec, "feature_net", net_json("tensorflow"));
    refuse_spec("mode", spec, "feature_net.mode must be one of: pytorch-fid");
    spec = train_spec("blobs"); /* FID's file in the bundled mode */
    json_object_set_new(spec, "feature_net", net_json(NULL));
    char *dir = make_job("kind", few(spec));
    ck_assert_int_ne(run_job(dir), 0);
    free(dir);
    t = task_with_net(bundled_job, "stripes", net_json(NULL));
    refuse_spec("two-nets", verify_spec(json_pack("[o]", t), "auto"), "two feature networks");
}
END_TEST

static void register_cases(TCase *tc) {
    fixture_make();
    make_net();
    json_t *spec = few(train_spec("blobs"));
    json_object_set_new(spec, "feature_net", net_json("torch-fidelity"));
    fid_job = make_job("fid-job", spec);
    bundled_job = make_job("bundled-job", few(train_spec("stripes")));
    if (run_job(fid_job) || run_job(bundled_job)) {
        show_log(fid_job);
        exit(1);
    }
    tcase_add_test(tc, numbers_say_their_network);
    tcase_add_test(tc, the_adapter_says_its_network);
    tcase_add_test(tc, the_reference_is_of_that_network);
    tcase_add_test(tc, a_missing_network_is_named);
    tcase_add_test(tc, specs_are_checked);
    if (SANITIZED)
        return; /* the same ways again, minutes each */
    tcase_add_test(tc, an_old_task_keeps_its_network);
    tcase_add_test(tc, another_file_is_another_network);
    tcase_add_test(tc, networks_are_not_mixed_up);
    tcase_add_test(tc, a_damaged_network_is_not_used);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_feature_net", register_cases);
}
