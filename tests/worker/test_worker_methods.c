/* tests/worker/test_worker_methods.c - jobs of a method that replaces tensors of the base (bitfit):
 * trained, published, verified, sampled; and adapters of a newer program, which no job takes. */
#include "tests/fixtures/worker_fixture.h"

#include "base/fs.h"
#include "base/zio.h"
#include "engine/model/adapter.h"
#include "worker/convert/export.h"

static char *blobs; /* directory of the finished job of method bitfit */

static json_t *bitfit_spec(void) {
    json_t *s = train_spec("blobs");
    json_object_set_new(json_object_get(s, "method"), "name", json_string("bitfit"));
    json_object_set_new(s, "publish_worse", json_true());
    return s;
}

/* The published file, against the base: each bias has moved, and what it counts is all there is. */
START_TEST(a_job_trains_biases) {
    json_t *r = read_json(blobs, "result.json");
    char *path = ds_xasprintf("%s/adapter.safetensors.zst", blobs),
         *base = in_tmp("base.safetensors");
    ds_base *b;
    ds_adapter *a;
    ds_error err;
    expect_learned(r);
    ck_assert_str_eq(text_at(r, "gate", "verdict"), "passed");
    must(ds_base_open(&b, base, NULL, &err), &err);
    must(ds_adapter_open(&a, b, path, text_at(r, "adapter", "sha256"), &err), &err);
    ck_assert_int_eq(a->spec.method, DS_METHOD_BITFIT);
    size_t count = 2 * (size_t)b->row_width;
    for (int i = 0; i < b->layer_count; i++) {
        const ds_param *p = ds_adapter_bias(&a->table, i);
        const float *was = ds_base_held(b, b->layers[i].bias);
        ck_assert_msg(memcmp(a->data + p->offset, was, p->count * sizeof *was) != 0, "%s", p->name);
        count += p->count;
    }
    ck_assert_uint_eq(a->table.total, count);
    ck_assert_int_eq(ds_json_int(json_object_get(r, "adapter"), "parameters", 0), (int64_t)count);
    ds_adapter_free(a);
    ds_base_free(b);
    json_decref(r);
    free(base);
    free(path);
}
END_TEST

START_TEST(it_is_verified_and_sampled) { verify_and_sample(blobs, "blobs"); }
END_TEST

/* A new task beside it: the old one gives the same samples. */
START_TEST(another_task_leaves_it_alone) {
    json_t *spec = train_spec("stripes");
    json_object_set_new(spec, "old_tasks", one_task(task_of(blobs, "blobs")));
    json_object_set_new(spec, "publish_worse", json_true());
    char *dir = make_job("stripes", spec);
    run_expect(dir, 0);
    json_t *r = read_json(dir, "result.json"),
           *t = json_array_get(json_object_get(json_object_get(r, "gate"), "tasks"), 0);
    ck_assert_str_eq(text_at(t, "verdict", NULL), "passed");
    ck_assert_int_eq(ds_json_int(t, "level", 0), 1);
    json_decref(r);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- of a newer program */

/* {path, sha256} of the adapter with `from` in its metadata become `to`, as long. */
static json_t *rewritten(const char *from, const char *to) {
    char *path = ds_xasprintf("%s/adapter.safetensors.zst", blobs), *out = in_tmp("newer.zst"),
         *bytes, sha[DS_HEX_SIZE];
    size_t n;
    ds_error err;
    must(ds_zio_read_file(path, 1 << 28, &bytes, &n, &err), &err);
    char *at = memmem(bytes, n, from, strlen(from));
    ck_assert(at && strlen(from) == strlen(to));
    memcpy(at, to, strlen(to));
    must(ds_zio_write_file(out, bytes, n, 1, &err), &err);
    ds_digest(bytes, n, sha);
    json_t *file = file_json(NULL, out, sha);
    free(bytes);
    free(out);
    free(path);
    return file;
}

static json_t *newer_task(json_t *file) {
    json_t *t = task_of(blobs, "blobs");
    json_object_set(t, "adapter", file);
    return t;
}

static json_t *newer_job(int kind, json_t *file) {
    json_t *s = json_object();
    if (kind == 0)
        return json_decref(s), verify_spec(one_task(newer_task(file)), "auto");
    if (kind < 3) {
        json_decref(s);
        s = train_spec("stripes");
        json_t *t = newer_task(file);
        if (kind == 1)
            json_object_set_new(s, "old_tasks", one_task(json_deep_copy(t)));
        else
            json_object_set_new(
                s, "bars",
                one_task(json_pack("{s:s, s:s, s:O, s:O, s:O, s:n}", "role", "latest", "ref",
                                   "blobs@v1", "adapter", file, "base", json_object_get(s, "base"),
                                   "sample", json_object_get(t, "sample"), "fd")));
        json_decref(t);
        return s;
    }
    set_common(s, "sample");
    json_object_set(s, "adapter", file);
    json_object_set_new(s, "sample", sample_json());
    json_object_update_new(
        s, json_pack("{s:i, s:i, s:n, s:i}", "n", 3, "seed", 1, "class", "columns", 0));
    return s;
}

static void export_is_refused(void) {
    char *base = in_tmp("base.safetensors"), *file = in_tmp("newer.zst"), *out = in_tmp("exported");
    ds_export_options o = {.base = base, .adapter = file, .out_dir = out, .format = DS_EXPORT_DIT};
    ds_error err;
    ck_assert_int_eq(ds_export(&o, NULL, NULL, &err), DS_ENEWER);
    ck_assert(strstr(err.message, file) && !ds_fs_exists(out));
    free(base);
    free(file);
    free(out);
}

/* Exit 10, before anything is trained, with what it is, what this program reads, and the way out. */
START_TEST(a_newer_adapter_is_refused) {
    static const struct {
        const char *from, *to, *says;
    } cases[] = {{"diffscaler.adapter/2", "diffscaler.adapter/3",
                  "has schema diffscaler.adapter/3, this program reads diffscaler.adapter/1 to 2"},
                 {"bitfit", "tenfit", "its method 'tenfit' is not one of this program's"}};
    for (int i = 0; i < 2; i++) {
        char name[32];
        json_t *file = rewritten(cases[i].from, cases[i].to);
        snprintf(name, sizeof name, "newer-%d-%d", _i, i);
        char *dir = make_job(name, newer_job(_i, file)), *path, *text, *checkpoints;
        size_t n;
        run_expect(dir, 10);
        path = ds_xasprintf("%s/events.ndjson", dir);
        checkpoints = ds_xasprintf("%s/checkpoints", dir);
        ck_assert_int_eq(ds_fs_read(path, 1 << 22, &text, &n, NULL), 0);
        ck_assert_msg(strstr(text, "\"code\":\"DS_ENEWER\"") != NULL, "%s", text);
        ck_assert_msg(strstr(text, "newer.zst") && strstr(text, cases[i].says), "%s", text);
        ck_assert(strstr(text, "use a program at least as new as the one that made it") != NULL);
        ck_assert(!ds_fs_exists(checkpoints));
        export_is_refused();
        json_decref(file);
        free(text);
        free(path);
        free(checkpoints);
        free(dir);
    }
}
END_TEST

static void register_cases(TCase *tc) {
    fixture_make();
    blobs = make_job("blobs-job", bitfit_spec());
    if (run_job(blobs)) {
        show_log(blobs);
        exit(1);
    }
    tcase_add_test(tc, a_job_trains_biases);
    tcase_add_test(tc, it_is_verified_and_sampled);
    tcase_add_loop_test(tc, a_newer_adapter_is_refused, 0, 4);
    if (!SANITIZED)
        tcase_add_test(tc, another_task_leaves_it_alone);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_methods", register_cases);
}
