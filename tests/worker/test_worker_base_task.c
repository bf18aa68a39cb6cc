/* tests/worker/test_worker_base_task.c - task 0, the base's own classes: recorded once, then verified. */
#include "tests/fixtures/worker_fixture.h"

#include "worker/kinds/base_task.h"
#include "worker/measure/reference.h"

#include <math.h>

static json_t *record; /* "base_task" of result.json, of the fixture's base */
static char *recorded; /* directory of the job that made it */

static json_t *verify_of(json_t *base_task, const char *how) {
    json_t *s = verify_spec(json_array(), how);
    json_object_set_new(s, "base_task", base_task);
    return s;
}

/* The record as a spec has it again. */
static json_t *known(const char *dir, const json_t *r) {
    json_t *t = json_deep_copy(r), *spec = read_json(dir, "spec.json"),
           *net = json_object_get(t, "feature_net"), *ref = json_object_get(t, "reference");
    static const char *const not_there[] = {"n", "classes", "note"};
    for (int i = 0; i < 3; i++)
        json_object_del(t, not_there[i]);
    json_object_set_new(t, "name", json_string("base"));
    json_object_set_new(t, "ref", json_string("base:micro"));
    json_object_set_new(t, "base_sha256", json_string(text_at(spec, "base", "sha256")));
    json_object_set_new(t, "probes", json_pack("[O]", json_object_get(t, "probe")));
    if (json_is_object(net)) {
        json_object_set_new(t, "feature_net_sha256", json_string(text_at(net, "sha256", NULL)));
        json_object_set_new(net, "path", json_string(text_at(spec, "feature_net", "path")));
    }
    if (json_is_object(ref)) {
        char *path = ds_xasprintf("%s/%s", dir, DS_FILE_BASE_REFERENCE);
        json_object_set_new(t, "reference", file_json(NULL, path, text_at(ref, "sha256", NULL)));
        free(path);
    }
    json_decref(spec);
    return t;
}

static json_t *result_of(const char *name, json_t *spec, int status) {
    char *dir = make_job(name, spec);
    run_expect(dir, status);
    json_t *r = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(r, "gate", "verdict"), status ? "refused" : "passed");
    free(dir);
    return r;
}

static const json_t *first_task(const json_t *r) {
    const json_t *t = json_array_get(json_object_get(json_object_get(r, "gate"), "tasks"), 0);
    ck_assert_msg(t != NULL, "no task was verified");
    ck_assert_str_eq(text_at(t, "name", NULL), "base");
    ck_assert_str_eq(text_at(t, "ref", NULL), "base:micro");
    printf("level %d: %s\n", (int)json_integer_value(json_object_get(t, "level")),
           text_at(t, "reason", NULL));
    return t;
}

static void expect_task(const json_t *r, int level, int unchanged, const char *part) {
    const json_t *t = first_task(r);
    ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), level);
    ck_assert(json_is_true(json_object_get(t, "unchanged")) == unchanged);
    ck_assert_msg(strstr(text_at(t, "reason", NULL), part) != NULL, "%s",
                  text_at(t, "reason", NULL));
    ck_assert_msg(!json_object_get(r, "base_task"), "recorded again");
}

/* The digest of the probe with its first digit changed. */
static json_t *wrong_probe(json_t *task) {
    char sha[DS_HEX_SIZE];
    snprintf(sha, sizeof sha, "%s", text_at(task, "probe", "sha256"));
    sha[0] = sha[0] == '0' ? '1' : '0';
    json_object_set_new(json_object_get(task, "probe"), "sha256", json_string(sha));
    json_object_set_new(task, "probes", json_pack("[O]", json_object_get(task, "probe")));
    return task;
}

/* ---------------------------------------------------------------- a whole record */

START_TEST(the_record_is_whole) {
    char *path = ds_xasprintf("%s/%s", recorded, DS_FILE_BASE_REFERENCE);
    const json_t *ref = json_object_get(record, "reference");
    ds_reference r;
    ds_error err;
    ck_assert_str_eq(text_at(ref, "file", NULL), DS_FILE_BASE_REFERENCE);
    ck_assert_msg(!ds_reference_read(&r, path, text_at(ref, "sha256", NULL), &err), "%s",
                  err.message);
    ck_assert(r.n == DS_BASE_TASK_N && r.classes == 4 && r.counts[3] == 1);
    ck_assert_int_eq(json_integer_value(json_object_get(record, "classes")), 4);
    ck_assert_int_eq(json_integer_value(json_object_get(record, "n")), DS_BASE_TASK_N);
    ck_assert(json_number_value(json_object_get(record, "fd")) > 0);
    ck_assert(json_is_number(json_object_get(record, "kid")));
    ck_assert_str_eq(text_at(record, "note", NULL), "");
    ck_assert_str_eq(text_at(record, "feature_net", "mode"), "bundled");
    ds_reference_release(&r);
    free(path);
}
END_TEST

START_TEST(it_is_verified_like_a_task) {
    json_t *r = result_of("level-1", verify_of(known(recorded, record), "auto"), 0);
    expect_task(r, 1, 1, "");
    json_decref(r);
    r = result_of("level-2", verify_of(known(recorded, record), "full"), 0);
    expect_task(r, 2, 1, "");
    ck_assert(json_number_value(json_object_get(first_task(r), "fd_now")) ==
              json_number_value(json_object_get(record, "fd")));
    json_decref(r);
}
END_TEST

/* The probe is another one, the pictures are as far from the reference as they were. */
START_TEST(another_probe_is_measured) {
    json_t *r =
        result_of("other-probe", verify_of(wrong_probe(known(recorded, record)), "auto"), 0);
    expect_task(r, 2, 0, "");
    json_decref(r);
}
END_TEST

START_TEST(a_damaged_reference_is_refused) {
    json_t *t = known(recorded, record), *ref = json_object_get(t, "reference");
    char *bytes, *to = in_tmp("ref.zst");
    size_t n;
    ds_error err;
    must(ds_fs_read(text_at(ref, "path", NULL), 1 << 28, &bytes, &n, &err), &err);
    bytes[n / 2] ^= 16;
    must(ds_fs_write(to, bytes, n, &err), &err);
    json_object_set_new(ref, "path", json_string(to));
    json_t *r = result_of("ref-damaged", verify_of(t, "auto"), 8);
    expect_task(r, 1, 1, "its reference features are damaged");
    json_decref(r);
    free(bytes), free(to);
}
END_TEST

/* The base with noise on its numbers, under the registered digest. */
START_TEST(a_changed_base_is_refused) {
    char *from = in_tmp("base.safetensors"), *to = in_tmp("noisy.safetensors");
    ds_base *b;
    ds_error err;
    must(ds_base_open(&b, from, NULL, &err), &err);
    float *noise = ds_xmalloc(b->table.total * sizeof *noise);
    ds_rng_normal(noise, b->table.total, 6, DS_STREAM_TEST, 0, 0);
    for (size_t i = 0; i < b->table.total; i++)
        b->data[i] += 0.5f * noise[i];
    must(ds_base_save(b, to, 0, NULL, &err), &err);
    json_t *s = verify_of(known(recorded, record), "auto");
    json_object_set_new(json_object_get(s, "base"), "path", json_string(to));
    json_t *r = result_of("noisy", s, 8);
    expect_task(r, 2, 0, "task 'base': FD ");
    ck_assert(json_number_value(json_object_get(first_task(r), "fd_now")) >
              json_number_value(json_object_get(record, "fd")));
    ck_assert_str_eq(text_at(r, "gate", "worst_task"), "base");
    json_decref(r);
    /* and nothing is recorded of it */
    s = verify_of(json_null(), "auto");
    json_object_set_new(json_object_get(s, "base"), "path", json_string(to));
    char *dir = make_job("noisy-record", s), *file = ds_xasprintf("%s/result.json", dir);
    run_expect(dir, 9);
    ck_assert(!ds_fs_exists(file));
    free(file), free(dir);
    free(noise), free(from), free(to);
    ds_base_free(b);
}
END_TEST

/* Where the reference cannot be written there is no record, and no result that says so. */
START_TEST(a_record_needs_its_reference) {
    json_t *s = verify_of(json_null(), "auto");
    char *dir = make_job("unwritable", s), *result = ds_xasprintf("%s/result.json", dir),
         *path = ds_xasprintf("%s/%s/x", dir, DS_FILE_BASE_REFERENCE);
    ds_error err;
    must(ds_fs_mkdirs(path, &err), &err);
    run_expect(dir, 1);
    ck_assert(!ds_fs_exists(result));
    free(dir), free(path), free(result);
}
END_TEST

/* The same record, whatever job it is made in; before the tasks in the order of the gate. */
START_TEST(a_training_records_it_too) {
    json_t *s = train_spec("blobs");
    json_object_set_new(s, "base_task", json_null());
    json_t *r = result_of("train-record", s, 0);
    ck_assert(json_equal(json_object_get(r, "base_task"), record));
    json_decref(r);
    char *dir = in_tmp("train-record");
    s = train_spec("stripes");
    json_object_set_new(s, "base_task", known(recorded, record));
    json_object_set_new(s, "old_tasks", json_pack("[o]", task_of(dir, "blobs")));
    r = result_of("train-known", s, 0);
    expect_task(r, 1, 1, "");
    ck_assert_uint_eq(json_array_size(json_object_get(json_object_get(r, "gate"), "tasks")), 2);
    json_decref(r);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- a probe alone */

static json_t *without_network(json_t *spec) {
    json_object_set_new(spec, "feature_net", json_null());
    return spec;
}

START_TEST(without_a_network_it_is_the_probe) {
    json_t *r = result_of("bare", without_network(verify_of(json_null(), "auto")), 0),
           *t = json_incref(json_object_get(r, "base_task"));
    char *dir = in_tmp("bare"), *file = ds_xasprintf("%s/%s", dir, DS_FILE_BASE_REFERENCE);
    ck_assert_ptr_nonnull(strstr(text_at(t, "note", NULL), "the job had no feature network"));
    ck_assert(json_is_null(json_object_get(t, "reference")) && !ds_fs_exists(file));
    if (record) /* the same samples */
        ck_assert(json_equal(json_object_get(t, "probe"), json_object_get(record, "probe")));
    json_decref(r);
    r = result_of("bare-1", without_network(verify_of(known(dir, t), "full")), 0);
    expect_task(r, 1, 1, "");
    json_decref(r);
    r = result_of("bare-wrong", without_network(verify_of(wrong_probe(known(dir, t)), "auto")), 8);
    expect_task(r, 1, 0, "its probe has changed");
    json_decref(r);
    /* of another class of devices nothing is known: the base is the registered one */
    json_t *s = without_network(verify_of(known(dir, t), "auto"));
    json_object_set_new(json_object_get(s, "device"), "precision", json_string("bf16"));
    r = result_of("bare-class", s, 0);
    expect_task(r, 0, 0, "it has no usable reference features");
    json_decref(r);
    json_decref(t);
    free(file), free(dir);
}
END_TEST

/* The network is there and not asked. */
START_TEST(the_probe_alone_on_request) {
    json_t *s = verify_of(json_null(), "auto");
    json_object_set_new(s, "base_probe_only", json_true());
    json_t *r = result_of("asked", s, 0), *t = json_object_get(r, "base_task");
    ck_assert_ptr_nonnull(strstr(text_at(t, "note", NULL), "--base-task probe"));
    ck_assert(json_is_null(json_object_get(t, "fd")) && !ds_json_int(t, "n", 1));
    json_decref(r);
}
END_TEST

/* A spec of before neither asks for it nor has it. */
START_TEST(a_spec_of_before_records_nothing) {
    json_t *r = result_of("before", verify_spec(json_array(), "auto"), 0);
    ck_assert(!json_object_get(r, "base_task"));
    ck_assert_uint_eq(json_array_size(json_object_get(json_object_get(r, "gate"), "tasks")), 0);
    json_decref(r);
}
END_TEST

/* The rule that bounds the work is arithmetic: what it says of known bases. */
START_TEST(a_large_base_is_probed_only) {
    ds_dit_config c = {.channels = 3, .side = 32, .patch = 4};
    ds_base b = {.arch = &ds_dit_arch, .config = &c};
    b.table.total = 4200000; /* the bundled one */
    ck_assert(ds_base_task_flop(&b) < DS_BASE_TASK_FLOP);
    ck_assert(ds_base_task_flop(&b) ==
              2.0 * 4200000 * 64 * DS_BASE_TASK_STEPS * 2 * DS_BASE_TASK_N);
    b.table.total = 675129632; /* DiT-XL/2 at 256 */
    c.patch = 2;
    ck_assert(ds_base_task_flop(&b) > DS_BASE_TASK_FLOP);
}
END_TEST

static void register_cases(TCase *tc) {
    fixture_make();
    tcase_add_test(tc, without_a_network_it_is_the_probe);
    tcase_add_test(tc, the_probe_alone_on_request);
    tcase_add_test(tc, a_spec_of_before_records_nothing);
    tcase_add_test(tc, a_large_base_is_probed_only);
    if (SANITIZED) /* the network takes a second a picture, and there are hundreds */
        return;
    recorded = make_job("record-job", verify_of(json_null(), "auto"));
    if (run_job(recorded)) {
        show_log(recorded);
        exit(1);
    }
    char *path = ds_xasprintf("%s/result.json", recorded);
    json_t *r;
    ds_error err;
    must(ds_json_read_file(path, 1 << 24, &r, &err), &err);
    record = json_incref(json_object_get(r, "base_task"));
    json_decref(r);
    free(path);
    tcase_add_test(tc, the_record_is_whole);
    tcase_add_test(tc, it_is_verified_like_a_task);
    tcase_add_test(tc, another_probe_is_measured);
    tcase_add_test(tc, a_damaged_reference_is_refused);
    tcase_add_test(tc, a_changed_base_is_refused);
    tcase_add_test(tc, a_record_needs_its_reference);
    tcase_add_test(tc, a_training_records_it_too);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_base_task", register_cases);
}
