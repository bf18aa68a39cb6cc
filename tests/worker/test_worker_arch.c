/* tests/worker/test_worker_arch.c - jobs on a base of another architecture (tests/fixtures/arch/mixer.h):
 * trained, published, sampled, verified; another task's training leaves it alone; what only DiTs can be
 * exported as is refused. */
#include "tests/fixtures/arch/mixer.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/commands/pretrain_init.h"
#include "worker/convert/export.h"
#include "worker/measure/serve.h"

static char *blobs; /* directory of the finished job */

static const mixer_config micro = {
    .channels = 3, .side = SIDE, .patch = 4, .width = 32, .depth = 2, .hidden = 48, .classes = 4};

static void make_mixer(const char *path) {
    const char *const meta[] = {"diffscaler.name", "micro", NULL};
    ds_base *b;
    ds_error err;
    must(mixer_base_new(&b, &micro, 1, &err), &err);
    must(ds_base_save(b, path, 0, meta, &err), &err);
    ds_base_free(b);
}

static json_t *spec_of(const char *dataset) {
    json_t *s = train_spec(dataset);
    json_object_set_new(json_object_get(s, "train"), "lr", json_real(0.01));
    json_object_set_new(s, "publish_worse", json_true());
    return s;
}

/* The probe of the published file, in a process that has trained nothing. */
static void probe(char out[DS_HEX_SIZE]) {
    json_t *r = read_json(blobs, "result.json");
    char *path = ds_xasprintf("%s/adapter.safetensors.zst", blobs),
         *file = in_tmp("base.safetensors");
    const ds_spec_sample how = {
        .sampler = DS_SAMPLER_DPMPP2M, .steps = 4, .guidance = 1.5, .mode = DS_GUIDANCE_CFG};
    const ds_device_options f32 = {.kind = "cpu", .threads = 2};
    ds_device *dev;
    ds_base *b;
    ds_model *m;
    ds_adapter *a;
    ds_error err;
    must(ds_device_open(&dev, &f32, &err), &err);
    must(ds_base_open(&b, file, NULL, &err), &err);
    ck_assert(b->arch == &mixer_arch);
    must(ds_model_new(&m, dev, b, &err), &err);
    must(ds_adapter_open(&a, b, path, text_at(r, "adapter", "sha256"), &err), &err);
    must(ds_probe(m, a, &how, 2, 11, out, &err), &err);
    ds_adapter_free(a);
    ds_model_free(m);
    ds_base_free(b);
    ds_device_close(dev);
    json_decref(r);
    free(path);
    free(file);
}

START_TEST(a_job_trains_and_publishes) {
    char digest[2][DS_HEX_SIZE];
    json_t *r = read_json(blobs, "result.json");
    expect_learned(r);
    ck_assert_str_eq(text_at(r, "gate", "verdict"), "passed");
    probe(digest[0]);
    probe(digest[1]);
    ck_assert_str_eq(digest[0], digest[1]);
    ck_assert_str_eq(digest[0], text_at(r, "probe", "sha256"));
    json_decref(r);
}
END_TEST

START_TEST(it_is_verified_and_sampled) { verify_and_sample(blobs, "blobs"); }
END_TEST

/* The gate looks at it beside a new task: the same digest, which is level 1. */
START_TEST(another_task_leaves_its_digest) {
    json_t *spec = spec_of("stripes");
    json_object_set_new(spec, "old_tasks", one_task(task_of(blobs, "blobs")));
    char *dir = make_job("stripes", spec), before[DS_HEX_SIZE], after[DS_HEX_SIZE];
    probe(before);
    run_expect(dir, 0);
    probe(after);
    json_t *r = read_json(dir, "result.json"),
           *t = json_array_get(json_object_get(json_object_get(r, "gate"), "tasks"), 0);
    ck_assert_str_eq(text_at(t, "verdict", NULL), "passed");
    ck_assert_int_eq(ds_json_int(t, "level", 0), 1);
    ck_assert_str_eq(before, after);
    json_decref(r);
    free(dir);
}
END_TEST

START_TEST(layouts_of_a_dit_are_refused) {
    static const enum ds_export_format formats[] = {DS_EXPORT_DIT, DS_EXPORT_DIFFUSERS,
                                                    DS_EXPORT_PEFT};
    char *base = in_tmp("base.safetensors"), *out = in_tmp("exported"),
         *file = ds_xasprintf("%s/adapter.safetensors.zst", blobs),
         *model = ds_xasprintf("%s/model.safetensors", out);
    ds_export_options o = {.base = base, .adapter = file, .out_dir = out};
    ds_base *b;
    ds_error err;
    for (int i = 0; i < 3; i++) {
        o.format = formats[i];
        ck_assert_int_eq(ds_export(&o, NULL, NULL, &err), DS_EINVAL);
        ck_assert_msg(strstr(err.message, "of the architecture mixer: use format safetensors") !=
                          NULL,
                      "%s", err.message);
        ck_assert(!ds_fs_exists(out));
    }
    o.format = DS_EXPORT_SAFETENSORS; /* merged: a base of its kind, with the task's classes */
    o.merge = 1;
    must(ds_export(&o, NULL, NULL, &err), &err);
    must(ds_base_open(&b, model, NULL, &err), &err);
    ck_assert(b->arch == &mixer_arch);
    ck_assert_int_eq(b->facts.classes, 2);
    ds_base_free(b);
    free(base);
    free(out);
    free(file);
    free(model);
}
END_TEST

/* A base for other classes begins with another one's weights: a class of the same name keeps its row,
 * a new one has that of no class. */
START_TEST(a_base_from_another_one) {
    mixer_config c = micro;
    static const char *const meta[] = {"diffscaler.name", "old", "diffscaler.classes",
                                       "[\"a\",\"b\",\"c\",\"d\"]", NULL};
    const char *names[] = {"d", "new", "a"};
    char *path = in_tmp("old.safetensors");
    static const int from[] = {3, 4, 0, 4}; /* the last: no class */
    const ds_images images = {.class_names = names, .class_count = 3};
    ds_base *old, *b;
    ds_error err;
    must(mixer_base_new(&old, &c, 1, &err), &err);
    must(ds_base_save(old, path, 0, meta, &err), &err);
    c.classes = 3;
    must(mixer_base_new(&b, &c, 2, &err), &err);
    must(ds_pretrain_init(b, path, &images, &err), &err);
    const size_t width = (size_t)b->row_width;
    for (int i = 0; i < b->table.count; i++) {
        const ds_param *p = &b->table.items[i], *q = ds_params_find(&old->table, p->name);
        const float *is = b->data + p->offset, *was = old->data + q->offset;
        if (i != b->classes_entry)
            ck_assert_msg(!memcmp(is, was, p->count * sizeof *is), "%s", p->name);
        for (size_t k = 0; i == b->classes_entry && k < 4; k++)
            ck_assert_msg(
                !memcmp(is + k * width, was + (size_t)from[k] * width, width * sizeof *is),
                "row %zu", k);
    }
    ds_base_free(b);
    c.width = 48;
    must(mixer_base_new(&b, &c, 2, &err), &err);
    ck_assert_int_eq(ds_pretrain_init(b, path, &images, &err), DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "has another shape"));
    ds_base_free(b);
    ds_base_free(old);
    free(path);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, a_base_from_another_one);
    char *base = in_tmp("base.safetensors");
    fixture_make();
    make_mixer(base);
    blobs = make_job("blobs-job", spec_of("blobs"));
    if (run_job(blobs)) {
        show_log(blobs);
        exit(1);
    }
    tcase_add_test(tc, a_job_trains_and_publishes);
    tcase_add_test(tc, it_is_verified_and_sampled);
    tcase_add_test(tc, layouts_of_a_dit_are_refused);
    if (!SANITIZED)
        tcase_add_test(tc, another_task_leaves_its_digest);
    free(base);
}

int main(int argc, char **argv) {
    ds_arch_register(&mixer_arch); /* in the jobs, too, which this program runs itself */
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_arch", register_cases);
}
