/* tests/engine_files/test_engine_foreign_config.c - fields of other programs' configurations: used, harmless, or
 * refused by name. */
#include "base/fs.h"
#include "engine/files/foreign_config.h"
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    enum ds_foreign what;
    const char *doc, *says; /* NULL: is right */
} cases[] = {
    {DS_FOREIGN_DIT, "{'num_layers':28,'dropout':0.3,'norm_eps':1e-6,'_name_or_path':'x','_new':1}",
     NULL},
    {DS_FOREIGN_DIT, "{'out_channels':null,'interpolation_scale':null,'cross_attention_dim':null}",
     NULL},
    {DS_FOREIGN_DIT, "{'qk_norm':true}", "field 'qk_norm' is not known"},
    {DS_FOREIGN_DIT, "{'num_layers':'28'}", "num_layers is \"28\"; expected is a whole number"},
    {DS_FOREIGN_DIT, "{'num_layers':28.5}", "num_layers"},
    {DS_FOREIGN_DIT, "{'norm_eps':true}", "norm_eps is true; expected is a number"},
    {DS_FOREIGN_DIT, "{'norm_elementwise_affine':true}", "norm_elementwise_affine is true"},
    {DS_FOREIGN_DIT, "{'interpolation_scale':2}", "interpolation_scale is 2"},
    {DS_FOREIGN_DIT, "{'_class_name':'PixArtTransformer2DModel'}", "_class_name"},
    {DS_FOREIGN_SCHEDULER,
     "{'_class_name':'DDIMScheduler','beta_schedule':'linear','trained_betas':null}", NULL},
    {DS_FOREIGN_SCHEDULER,
     "{'timestep_spacing':'trailing','clip_sample':false,'thresholding':true}", NULL},
    {DS_FOREIGN_SCHEDULER,
     "{'variance_type':'learned_range','steps_offset':1,'use_karras_sigmas':true}", NULL},
    {DS_FOREIGN_SCHEDULER, "{'trained_betas':[0.1,0.2]}", "trained_betas is [0.1,0.2]"},
    {DS_FOREIGN_SCHEDULER, "{'rescale_betas_zero_snr':true}", "rescale_betas_zero_snr"},
    {DS_FOREIGN_SCHEDULER, "{'beta_schedule':'scaled_linear'}", "beta_schedule"},
    {DS_FOREIGN_SCHEDULER, "{'prediction_type':'sample'}", "prediction_type"},
    {DS_FOREIGN_SCHEDULER, "{'predict_epsilon':false}", "predict_epsilon"},
    {DS_FOREIGN_SCHEDULER, "{'use_flow_sigmas':true}", "use_flow_sigmas"},
    {DS_FOREIGN_SCHEDULER, "{'timestep_type':'continuous'}", "timestep_type"},
    {DS_FOREIGN_SCHEDULER, "{'_class_name':'FlowMatchEulerDiscreteScheduler'}", "_class_name"},
    {DS_FOREIGN_SCHEDULER, "{'snr_shift_scale':3.0}", "snr_shift_scale"},
    {DS_FOREIGN_FLOW,
     "{'_class_name':'FlowMatchEulerDiscreteScheduler','num_train_timesteps':1000,'shift':3.0,"
     "'use_dynamic_shifting':false,'base_shift':0.5,'invert_sigmas':false,'shift_terminal':null}",
     NULL},
    {DS_FOREIGN_FLOW, "{'invert_sigmas':true}", "invert_sigmas"},
    {DS_FOREIGN_FLOW, "{'shift':'x'}", "shift is \"x\"; expected is a number"},
    {DS_FOREIGN_FLOW, "{'num_train_timesteps':1000.5}", "num_train_timesteps"},
    {DS_FOREIGN_FLOW, "{'_class_name':'DDIMScheduler'}", "_class_name"},
    {DS_FOREIGN_FLOW, "{'beta_start':0.1}", "field 'beta_start' is not known"},
    {DS_FOREIGN_PIPELINE,
     "{'_class_name':'DiTPipeline','id2label':{},'vae':['diffusers','AutoencoderKL']}", NULL},
    {DS_FOREIGN_PIPELINE, "{'text_encoder':['transformers','T5']}", "text_encoder"},
    {DS_FOREIGN_PIPELINE, "{'id2label':[1]}", "id2label"},
    {DS_FOREIGN_VAE,
     "{'shift_factor':0.0,'latents_mean':[0,0.0],'latents_std':[1.0],'force_upcast':true}", NULL},
    {DS_FOREIGN_VAE,
     "{'shift_factor':null,'latents_mean':null,'down_block_types':['DownEncoderBlock2D']}", NULL},
    {DS_FOREIGN_VAE, "{'shift_factor':0.0609}", "shift_factor is 0.0609"},
    {DS_FOREIGN_VAE, "{'latents_mean':[0,0.5]}", "latents_mean"},
    {DS_FOREIGN_VAE, "{'use_quant_conv':false}", "use_quant_conv"},
    {DS_FOREIGN_VAE, "{'mid_block_add_attention':false}", "mid_block_add_attention"},
    {DS_FOREIGN_VAE, "{'down_block_types':['DownEncoderBlock2D','AttnDownEncoderBlock2D']}",
     "down_block_types"},
    {DS_FOREIGN_VAE, "{'act_fn':'gelu'}", "act_fn"},
    {DS_FOREIGN_VAE, "{'block_out_channels':[128,'x']}", "block_out_channels"},
    {DS_FOREIGN_VAE, "{'temporal_compression_ratio':4}", "temporal_compression_ratio"},
    {DS_FOREIGN_FACEBOOK, "{'num_heads':6,'hidden_size':384,'class_dropout_prob':0.1}", NULL},
    {DS_FOREIGN_FACEBOOK, "{'num_heads':6,'qk_norm':true}", "qk_norm"},
    {DS_FOREIGN_ARGS, "{'my_setting':1,'num_classes':10}", NULL},
    {DS_FOREIGN_ARGS, "{'predict_xstart':true}", "predict_xstart"},
    {DS_FOREIGN_ARGS, "{'noise_schedule':'cosine'}", "noise_schedule"},
    {DS_FOREIGN_ARGS, "{'beta_schedule':'linear','beta_end':0.01,'objective':[1,2]}", NULL},
    {DS_FOREIGN_ARGS, "{'beta_schedule':'scaled_linear'}", "beta_schedule"},
    {DS_FOREIGN_ARGS, "{'beta_end':'0.01'}", "beta_end"},
    {DS_FOREIGN_ARGS, "{'linear_start':0.0015}", "linear_start"},
    {DS_FOREIGN_ARGS, "{'v_prediction':true}", "v_prediction"},
    {DS_FOREIGN_ARGS, "{'flow_matching':true}", "flow_matching"},
    {DS_FOREIGN_ARGS, "{'zero_snr':true}", "zero_snr"},
    {DS_FOREIGN_ARGS, "{'a':{'b':{'noise_schedule':'cosine'}}}", "noise_schedule"},
    {DS_FOREIGN_ARGS, "{'num_heads':2,'args':{'num_heads':3},'(conflict)':'num_heads'}",
     "num_heads has two values"},
    {DS_FOREIGN_ARGS, "{'a':{'b':{'c':{'d':{'e':{'f':{'v_pred':true}}}}}}}", "v_pred"},
    {DS_FOREIGN_ARGS, "{'vae':{'num_heads':'x','num_classes':'y'}}", NULL},
    {DS_FOREIGN_DIT, "{'(conflict)':'num_heads'}", "field '(conflict)' is not known"},
    {DS_FOREIGN_DIT, "{'_class_name':null}", "_class_name is null"},
    {DS_FOREIGN_DIT, "{'interpolation_scale':1.0}", NULL},
    {DS_FOREIGN_DIT, "{'num_layers':null,'norm_eps':null}", NULL},
    {DS_FOREIGN_VAE, "{'block_out_channels':[128,256.0]}", NULL},
    {DS_FOREIGN_VAE, "{'block_out_channels':[128,256.5]}", "expected is a list of whole numbers"},
    {DS_FOREIGN_VAE, "{'block_out_channels':128}", "block_out_channels"},
    {DS_FOREIGN_VAE, "{'latents_std':[1,1,2]}", "supported is only [1]"},
    {DS_FOREIGN_PIPELINE, "{'id2label':7}", "expected is an object"},
    {DS_FOREIGN_ARGS, "{'prediction':7}", "expected is a text"},
    {DS_FOREIGN_ARGS, "{'objective':'pred_v'}", NULL},
    {DS_FOREIGN_ARGS, "{'a':{'beta_end':'x'}}", "beta_end is \"x\""},
    {DS_FOREIGN_ARGS, "{'a':{'class_dropout_prob':'x'}}", "class_dropout_prob"},
    {DS_FOREIGN_ARGS, "{'a':{'num_train_timesteps':1.5}}", "num_train_timesteps"},
    {DS_FOREIGN_ARGS, "{'a':{'lr':'x','objective':3}}", NULL},
};

static json_t *doc_of(const char *text) {
    char *copy = strdup(text);
    for (char *p = copy; *p; p++)
        *p = *p == '\'' ? '"' : *p;
    json_t *doc = json_loads(copy, 0, NULL);
    ck_assert_ptr_nonnull(doc);
    free(copy);
    return doc;
}

START_TEST(fields) {
    ds_import_report *report = ds_import_report_new();
    ds_error err = {0};
    json_t *doc = doc_of(cases[_i].doc);
    int rc = ds_foreign_check(cases[_i].what, "a.json", doc, report, &err);
    ck_assert_msg(rc == (cases[_i].says ? DS_EINVAL : 0), "%s: %d %s", cases[_i].doc, rc,
                  err.message);
    if (rc)
        ck_assert_msg(strstr(err.message, cases[_i].says) && strstr(err.message, "a.json"), "%s",
                      err.message);
    else { /* every field is in the report, or among those that are said */
        const json_t *all = ds_import_report_json(report);
        size_t said = json_array_size(json_object_get(all, "fields")) +
                      json_array_size(json_object_get(all, "ignored"));
        ck_assert_uint_eq(said, json_object_size(doc));
    }
    json_decref(doc);
    ds_import_report_free(report);
}
END_TEST

START_TEST(report_of_fields) {
    ds_import_report *report = ds_import_report_new();
    json_t *doc = doc_of("{'beta_start':0.001,'clip_sample':true}");
    ck_assert_int_eq(ds_foreign_check(DS_FOREIGN_SCHEDULER, "s.json", doc, report, NULL), 0);
    const json_t *list = json_object_get(ds_import_report_json(report), "fields");
    ck_assert_str_eq(ds_json_string(json_array_get(list, 0), "use", ""), "used");
    ck_assert_str_eq(ds_json_string(json_array_get(list, 0), "field", ""), "beta_start");
    ck_assert_str_eq(ds_json_string(json_array_get(list, 1), "use", ""), "harmless");
    ck_assert_int_eq(ds_foreign_check(DS_FOREIGN_SCHEDULER, "s.json", doc, NULL, NULL),
                     0); /* no report */
    json_decref(doc);
    ds_import_report_free(report);
}
END_TEST

/* Python's json module writes these words for numbers. */
START_TEST(numbers_of_python) {
    static const char text[] = "{\"lambda_min_clipped\": -Infinity, \"a\": Infinity, \"b\": NaN,\n"
                               " \"c\": \"NaN \\\" -Infinity\", \"d\": 1}";
    char path[512];
    ds_error err = {0};
    json_t *doc;
    snprintf(path, sizeof path, "%s/python.json", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_write(path, text, sizeof text - 1, &err), 0);
    ck_assert_msg(!ds_foreign_read(path, 1 << 16, &doc, &err), "%s", err.message);
    ck_assert(json_is_null(json_object_get(doc, "lambda_min_clipped")) &&
              json_is_null(json_object_get(doc, "b")));
    ck_assert_str_eq(ds_json_string(doc, "c", ""), "NaN \" -Infinity");
    ck_assert_int_eq(ds_json_int(doc, "d", 0), 1);
    json_decref(doc);
    ck_assert_int_eq(ds_fs_write(path, "{\"a\": Inf}", 10, &err), 0);
    ck_assert_int_eq(ds_foreign_read(path, 1 << 16, &doc, &err), DS_EINVAL);
}
END_TEST

/* Which settings decide something, where they are found, and what agrees with a number. */
START_TEST(questions_about_settings) {
    static const struct {
        const char *field;
        enum ds_foreign_kind kind;
    } kinds[] = {{"num_heads", DS_FOREIGN_NUMBER}, {"beta_end", DS_FOREIGN_NUMBER},
                 {"prediction", DS_FOREIGN_OTHER}, {"noise_schedule", DS_FOREIGN_OTHER},
                 {"objective", DS_FOREIGN_OTHER},  {"lr", DS_FOREIGN_NO},
                 {"image_size", DS_FOREIGN_NO},    {"my_own", DS_FOREIGN_NO}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        ck_assert_msg(ds_foreign_decides(kinds[i].field) == kinds[i].kind, "%s", kinds[i].field);
    json_t *doc = doc_of("{'x':null,'a':{'x':5,'b':{'y':6}},'n':2,'f':2.0,'t':'2','z':null,"
                         "'1':{'2':{'3':{'4':{'5':{'6':{'7':{'8':{'9':{'deep':1}}}}}}}}}}");
    ck_assert_int_eq((int)json_integer_value(ds_foreign_find(doc, "x", 0)), 5); /* null is absent */
    ck_assert_int_eq((int)json_integer_value(ds_foreign_find(doc, "y", 0)), 6);
    ck_assert_ptr_null(ds_foreign_find(doc, "w", 0));
    ck_assert_int_eq((int)json_integer_value(ds_foreign_find(doc, "deep", 0)), 1);
    ck_assert_ptr_nonnull(ds_foreign_find(doc, "y", DS_FOREIGN_DEPTH - 2)); /* two inside */
    ck_assert_ptr_null(ds_foreign_find(doc, "y", DS_FOREIGN_DEPTH - 1));
    ck_assert(ds_foreign_agrees(doc, "n", 2) && !ds_foreign_agrees(doc, "n", 3));
    ck_assert(ds_foreign_agrees(doc, "f", 2) && !ds_foreign_agrees(doc, "t", 2));
    ck_assert(ds_foreign_agrees(doc, "z", 2) && ds_foreign_agrees(doc, "absent", 2));
    json_decref(doc);
    static const struct {
        const char *doc;
        int dit, facebook;
    } about[] = {{"{}", 0, 0},
                 {"{'num_layers':2}", 1, 0},
                 {"{'hidden_size':2}", 0, 1},
                 {"{'patch_size':2}", 1, 1},
                 {"{'_class_name':'x','dropout':1}", 0, 0}, /* of any program */
                 {"{'learn_sigma':true,'license':'mit'}", 0, 0}};
    for (size_t i = 0; i < sizeof about / sizeof about[0]; i++) {
        doc = doc_of(about[i].doc);
        ck_assert_msg(ds_foreign_is(DS_FOREIGN_DIT, doc) == about[i].dit, "%s", about[i].doc);
        ck_assert_msg(ds_foreign_is(DS_FOREIGN_FACEBOOK, doc) == about[i].facebook, "%s",
                      about[i].doc);
        json_decref(doc);
    }
}
END_TEST

/* Settings inside of others are in the report with their path; those that are not known, in one
 * line. */
START_TEST(report_of_nested_settings) {
    ds_import_report *report = ds_import_report_new();
    json_t *doc = doc_of("{'a':{'b':{'beta_end':0.01,'noise_schedule':'linear'}},'mine':1,'lr':1}");
    ck_assert_int_eq(ds_foreign_check(DS_FOREIGN_ARGS, "args", doc, report, NULL), 0);
    const json_t *list = json_object_get(ds_import_report_json(report), "fields"), *v;
    size_t i, seen = 0;
    json_array_foreach(list, i, v) {
        const char *name = ds_json_string(v, "field", ""), *use = ds_json_string(v, "use", "");
        seen += !strcmp(name, "a.b.beta_end") && !strcmp(use, "used");
        seen += !strcmp(name, "a.b.noise_schedule") && !strcmp(use, "harmless");
        seen += !strcmp(name, "lr") && !strcmp(use, "harmless");
    }
    ck_assert_uint_eq(seen, 3);
    const json_t *ignored =
        json_array_get(json_object_get(ds_import_report_json(report), "ignored"), 0);
    ck_assert_str_eq(ds_json_string(ignored, "tensors", ""), "a, mine");
    json_decref(doc);
    ds_import_report_free(report);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, questions_about_settings);
    tcase_add_test(tc, report_of_nested_settings);
    tcase_add_loop_test(tc, fields, 0, (int)(sizeof cases / sizeof cases[0]));
    tcase_add_test(tc, report_of_fields);
    tcase_add_test(tc, numbers_of_python);
}

int main(void) { return ds_test_main("engine_foreign_config", register_cases); }
