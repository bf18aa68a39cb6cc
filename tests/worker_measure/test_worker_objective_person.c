/* tests/worker_measure/test_worker_objective_person.c - what a person says of a flow's base, beside what its file
 * says. */
#include "engine/model/base_model.h"
#include "tests/fixtures/worker_fixture.h"
#include "worker/convert/import.h"

typedef struct {
    ds_import_result r;
    ds_import_report *report;
    const char *said; /* of the report */
} imported;

static imported import(const char *source, const char *objective, int heads) {
    imported t = {.report = ds_import_report_new()};
    ds_error err;
    char *out = in_tmp("out");
    ds_import_options o = {.source = source,
                           .objective = objective,
                           .heads = heads,
                           .out_dir = out,
                           .report = t.report};
    must(ds_import_base(&o, &t.r, &err), &err);
    t.said = text_at(ds_import_report_json(t.report), "objective", "said");
    free(out);
    return t;
}

static void release(imported *t) {
    ds_import_result_release(&t->r);
    ds_import_report_free(t->report);
}

/* A flow's base as this program has it; foreign: another program's at first. */
static char *own_flow(const char *name, const ds_flow *flow, int foreign) {
    const ds_dit_config c = {.channels = 3,
                             .side = 16,
                             .patch = 4,
                             .width = 48,
                             .depth = 1,
                             .heads = 4,
                             .mlp_ratio = 4,
                             .classes = 3,
                             .freq_dim = 256,
                             .pixel = 1,
                             .flow = *flow};
    const char *const meta[] = {foreign ? "diffscaler.source_format" : NULL, "facebook DiT", NULL};
    ds_base *b;
    ds_error err;
    char *path = in_tmp(name);
    must(ds_dit_base_new(&b, &c, 5, &err), &err);
    must(ds_base_save(b, path, 0, meta, &err), &err);
    ds_base_free(b);
    return path;
}

/* What a person says has no shift of the levels: that of the file stays.  What the file says of the
 * rest is told where it is something else. */
START_TEST(a_person_about_a_flow) {
    static const struct {
        const char *word, *against; /* NULL: the same */
        int foreign;
        double shift;
    } cases[] = {{"noise-data-1000", NULL, 1, 5},
                 {"noise-data",
                  "diffscaler.config says velocity (noise - data), linear path, time 0 to 1000", 1,
                  5},
                 {"noise-data-gvp-1000", "diffscaler.config says velocity", 1, 5},
                 {"data-noise-1000", "diffscaler.config says velocity", 0, 5},
                 {"eps", "diffscaler.config says velocity", 0, 1}};
    const ds_flow flow = {.path = DS_FLOW_LINEAR, .scale = 1000, .shift = 5};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *path = own_flow("flow.safetensors", &flow, cases[i].foreign);
        imported t = import(path, cases[i].word, 4);
        const char *against = strstr(t.said, ", although ");
        ck_assert_msg(!against == !cases[i].against, "%zu: %s", i, t.said);
        ck_assert_msg(!against || strstr(against, cases[i].against), "%zu: %s", i, t.said);
        ck_assert(ds_json_number(t.r.config, "flow_shift", 1) == cases[i].shift);
        release(&t);
        free(path);
    }
}
END_TEST

/* .. and so does that of diffusers' scheduler beside the model. */
START_TEST(a_person_about_a_scheduler) {
    static const char *const words[] = {"noise-data-1000", "noise-data", "data-noise-gvp", "eps"};
    static const char scheduler[] = "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", "
                                    "\"num_train_timesteps\": 1000, \"shift\": 3.0}";
    static const char *const files[] = {"config.json", "diffusion_pytorch_model.bin"};
    char *dir = in_tmp("pipeline"), *model = ds_xasprintf("%s/transformer", dir),
         *beside = ds_xasprintf("%s/scheduler", dir), *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_mkdirs(model, &err), &err);
    must(ds_fs_mkdirs(beside, &err), &err);
    for (int i = 0; i < 2; i++) {
        char *from = ds_xasprintf("tests/golden/dit-parity/diffusers-bin/transformer/%s", files[i]),
             *to = ds_xasprintf("%s/%s", model, files[i]);
        must(ds_fs_read(from, 1 << 28, &bytes, &n, &err), &err);
        must(ds_fs_write(to, bytes, n, &err), &err);
        free(bytes);
        free(from);
        free(to);
    }
    char *path = ds_xasprintf("%s/scheduler_config.json", beside);
    must(ds_fs_write(path, scheduler, sizeof scheduler - 1, &err), &err);
    for (int i = 0; i < 4; i++) {
        imported t = import(dir, words[i], 0);
        ck_assert_msg(!strstr(t.said, "although scheduler_config.json") == !i, "%s", t.said);
        ck_assert(ds_json_number(t.r.config, "flow_shift", 1) == (i < 3 ? 3 : 1));
        release(&t);
    }
    free(path);
    free(beside);
    free(model);
    free(dir);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, a_person_about_a_flow);
    tcase_add_test(tc, a_person_about_a_scheduler);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_objective_person", register_cases);
}
