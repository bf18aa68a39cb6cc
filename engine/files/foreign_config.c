/* engine/files/foreign_config.c - the tables of fields, and the one check. */
#include "engine/files/foreign_config.h"
#include "base/fs.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum use {
    INT, /* used; null is as if it were not there */
    NUMBER,
    TEXT,
    WORD, /* used where it is a text, else it is about something else */
    INTS,
    OBJECT,
    ANY,  /* harmless at any value */
    ONLY, /* harmless, or right, at the values of the list only */
    EACH  /* a list, each member is one of the values */
};

typedef struct {
    const char *field;
    enum use use;
    const char *values; /* ONLY, EACH: a JSON list */
} row;

/* clang-format off */
static const row dit[] = {
    /* Transformer2DModel: the class's name before diffusers 0.28 */
    {"_class_name", ONLY, "[\"DiTTransformer2DModel\", \"Transformer2DModel\"]"},
    {"num_attention_heads", INT, 0}, {"attention_head_dim", INT, 0}, {"in_channels", INT, 0},
    {"out_channels", INT, 0},
    {"num_layers", INT, 0}, {"sample_size", INT, 0}, {"patch_size", INT, 0},
    {"num_embeds_ada_norm", INT, 0}, {"norm_eps", NUMBER, 0},
    {"activation_fn", ONLY, "[\"gelu-approximate\"]"},
    {"norm_type", ONLY, "[\"ada_norm_zero\"]"},
    {"attention_bias", ONLY, "[true]"},
    {"norm_elementwise_affine", ONLY, "[false]"},
    {"cross_attention_dim", ONLY, "[null]"},
    {"num_vector_embeds", ONLY, "[null]"},
    {"only_cross_attention", ONLY, "[false]"},
    {"double_self_attention", ONLY, "[false]"},
    {"attention_type", ONLY, "[\"default\"]"},
    {"caption_channels", ONLY, "[null]"},
    {"interpolation_scale", ONLY, "[null, 1]"},
    {"use_additional_conditions", ONLY, "[null, false]"},
    {"dropout", ANY, 0},               /* training of the base only */
    {"norm_num_groups", ANY, 0},       /* of inputs that are no patches */
    {"use_linear_projection", ANY, 0}, /* the same */
    {"upcast_attention", ANY, 0},      /* precision */
    /* of EMAModel.save_pretrained */
    {"decay", ANY, 0}, {"min_decay", ANY, 0}, {"optimization_step", ANY, 0}, {"power", ANY, 0},
    {"update_after_step", ANY, 0}, {"use_ema_warmup", ANY, 0}, {"inv_gamma", ANY, 0},
    {0}};

static const row facebook[] = {
    {"num_attention_heads", INT, 0}, {"num_heads", INT, 0}, {"hidden_size", INT, 0},
    {"depth", INT, 0}, {"patch_size", INT, 0},
    {"in_channels", INT, 0}, {"input_size", INT, 0}, {"mlp_ratio", NUMBER, 0},
    {"num_classes", INT, 0}, {"class_dropout_prob", NUMBER, 0},
    {"learn_sigma", ANY, 0}, /* the outputs say it */
    {"model_type", ANY, 0}, {"architectures", ANY, 0}, {"torch_dtype", ANY, 0},
    {"transformers_version", ANY, 0}, {"dtype", ANY, 0}, {"license", ANY, 0},
    {0}};

/* What training was, is used; how its samplers step is a choice of theirs, and we have our own. */
static const row scheduler[] = {
    {"_class_name", ONLY,
     "[\"DDPMScheduler\", \"DDPMParallelScheduler\", \"DDIMScheduler\", "
     "\"DDIMParallelScheduler\", \"DDIMInverseScheduler\", \"PNDMScheduler\", "
     "\"DPMSolverMultistepScheduler\", \"DPMSolverMultistepInverseScheduler\", "
     "\"DPMSolverSinglestepScheduler\", \"DPMSolverSDEScheduler\", "
     "\"DEISMultistepScheduler\", \"UniPCMultistepScheduler\", \"SASolverScheduler\", "
     "\"LMSDiscreteScheduler\", \"EulerDiscreteScheduler\", "
     "\"EulerAncestralDiscreteScheduler\", \"HeunDiscreteScheduler\", "
     "\"KDPM2DiscreteScheduler\", \"KDPM2AncestralDiscreteScheduler\"]"},
    {"beta_start", NUMBER, 0}, {"beta_end", NUMBER, 0}, {"num_train_timesteps", INT, 0},
    {"beta_schedule", ONLY, "[\"linear\"]"},
    {"prediction_type", ONLY, "[\"epsilon\"]"},
    {"trained_betas", ONLY, "[null]"},
    {"rescale_betas_zero_snr", ONLY, "[false]"},
    {"use_flow_sigmas", ONLY, "[false, null]"},
    {"use_dynamic_shifting", ONLY, "[false]"},
    {"shift_terminal", ONLY, "[null]"},
    {"timestep_type", ONLY, "[\"discrete\"]"},
    {"timestep_spacing", ANY, 0}, {"steps_offset", ANY, 0}, {"clip_sample", ANY, 0},
    {"clip_sample_range", ANY, 0},
    {"thresholding", ANY, 0}, {"dynamic_thresholding_ratio", ANY, 0},
    {"sample_max_value", ANY, 0}, {"variance_type", ANY, 0},
    {"set_alpha_to_one", ANY, 0}, {"set_alpha_to_zero", ANY, 0}, {"skip_prk_steps", ANY, 0},
    {"skip_type", ANY, 0},
    {"algorithm_type", ANY, 0}, {"solver_order", ANY, 0}, {"solver_type", ANY, 0},
    {"solver_p", ANY, 0}, {"predict_x0", ANY, 0},
    {"predict_epsilon", ONLY, "[true, null]"}, /* of diffusers before 0.3, for prediction_type */
    {"disable_corrector", ANY, 0}, {"predictor_order", ANY, 0}, {"corrector_order", ANY, 0},
    {"tau_func", ANY, 0},
    {"lower_order_final", ANY, 0}, {"euler_at_final", ANY, 0}, {"final_sigmas_type", ANY, 0},
    {"lambda_min_clipped", ANY, 0},
    {"use_karras_sigmas", ANY, 0}, {"use_exponential_sigmas", ANY, 0},
    {"use_beta_sigmas", ANY, 0}, {"use_lu_lambdas", ANY, 0},
    {"sigma_min", ANY, 0}, {"sigma_max", ANY, 0}, {"interpolation_type", ANY, 0},
    {"noise_sampler_seed", ANY, 0},
    {"flow_shift", ANY, 0}, {"time_shift_type", ANY, 0}, /* with use_flow_sigmas only */
    {0}};

/* Of a flow: the network is told num_train_timesteps times the noise level; shift moves the levels
 * of training and sampling.  A dynamic one depends on the size of the picture and is a choice of
 * its samplers. */
static const row flow[] = {
    {"_class_name", ONLY,
     "[\"FlowMatchEulerDiscreteScheduler\", \"FlowMatchHeunDiscreteScheduler\"]"},
    {"num_train_timesteps", INT, 0},
    {"invert_sigmas", ONLY, "[null, false]"},
    {"shift", NUMBER, 0}, {"use_dynamic_shifting", ANY, 0}, {"base_shift", ANY, 0},
    {"max_shift", ANY, 0}, {"base_image_seq_len", ANY, 0}, {"max_image_seq_len", ANY, 0},
    {"shift_terminal", ANY, 0}, {"time_shift_type", ANY, 0}, {"stochastic_sampling", ANY, 0},
    {"use_karras_sigmas", ANY, 0}, {"use_exponential_sigmas", ANY, 0},
    {"use_beta_sigmas", ANY, 0},
    {0}};

static const row pipeline[] = {
    {"_class_name", ONLY, "[\"DiTPipeline\"]"},
    {"id2label", OBJECT, 0},
    {"transformer", ANY, 0}, {"vae", ANY, 0},
    {"scheduler", ANY, 0}, /* the folders are looked at themselves */
    {0}};

static const row vae[] = {
    {"_class_name", ONLY, "[\"AutoencoderKL\"]"},
    {"in_channels", INT, 0}, {"out_channels", INT, 0}, {"latent_channels", INT, 0},
    {"layers_per_block", INT, 0},
    {"norm_num_groups", INT, 0}, {"block_out_channels", INTS, 0}, {"scaling_factor", NUMBER, 0},
    {"act_fn", ONLY, "[\"silu\", \"swish\"]"},
    {"down_block_types", EACH, "[\"DownEncoderBlock2D\"]"},
    {"up_block_types", EACH, "[\"UpDecoderBlock2D\"]"},
    {"shift_factor", ONLY, "[null, 0]"},
    {"latents_mean", EACH, "[0]"},
    {"latents_std", EACH, "[1]"},
    {"use_quant_conv", ONLY, "[true]"},
    {"use_post_quant_conv", ONLY, "[true]"},
    {"mid_block_add_attention", ONLY, "[true]"},
    {"sample_size", ANY, 0},  /* the side that it was trained at */
    {"force_upcast", ANY, 0}, /* precision */
    {0}};

static const row args[] = {
    {"num_classes", INT, 0}, {"class_dropout_prob", NUMBER, 0}, {"class_dropout", NUMBER, 0},
    {"num_heads", INT, 0},
    {"noise_schedule", ONLY, "[null, \"linear\"]"},
    {"beta_schedule", ONLY, "[null, \"linear\"]"},
    {"beta_start", NUMBER, 0}, {"beta_end", NUMBER, 0}, {"num_train_timesteps", INT, 0},
    {"diffusion_steps", INT, 0}, {"num_diffusion_timesteps", INT, 0},
    {"linear_start", ONLY, "[null]"}, {"linear_end", ONLY, "[null]"}, /* LDM: of square roots */
    {"predict_xstart", ONLY, "[null, false]"}, {"predict_x0", ONLY, "[null, false]"},
    {"v_prediction", ONLY, "[null, false]"}, {"v_pred", ONLY, "[null, false]"},
    {"v_parameterization", ONLY, "[null, false]"}, {"predict_v", ONLY, "[null, false]"},
    {"predict_velocity", ONLY, "[null, false]"}, {"flow_matching", ONLY, "[null, false]"},
    {"use_flow_matching", ONLY, "[null, false]"}, {"rectified_flow", ONLY, "[null, false]"},
    {"use_rectified_flow", ONLY, "[null, false]"},
    {"rescale_learned_sigmas", ONLY, "[null, false]"},
    {"trained_betas", ONLY, "[null]"},
    {"rescale_betas_zero_snr", ONLY, "[null, false]"},
    {"rescale_zero_terminal_snr", ONLY, "[null, false]"},
    {"enforce_zero_terminal_snr", ONLY, "[null, false]"},
    {"zero_terminal_snr", ONLY, "[null, false]"}, {"zero_snr", ONLY, "[null, false]"},
    {"model", ANY, 0}, {"image_size", ANY, 0}, {"learn_sigma", ANY, 0}, {"data_path", ANY, 0},
    {"results_dir", ANY, 0}, {"epochs", ANY, 0},
    {"global_batch_size", ANY, 0}, {"global_seed", ANY, 0}, {"vae", ANY, 0},
    {"num_workers", ANY, 0}, {"log_every", ANY, 0},
    {"ckpt_every", ANY, 0}, {"feature_path", ANY, 0}, {"ckpt", ANY, 0}, {"resume", ANY, 0},
    {"lr", ANY, 0}, {"weight_decay", ANY, 0},
    {"seed", ANY, 0}, {"batch_size", ANY, 0}, {"ema_decay", ANY, 0}, {"wandb", ANY, 0},
    {"cfg_scale", ANY, 0}, {"sample_every", ANY, 0},
    {"max_steps", ANY, 0}, {"train_steps", ANY, 0}, {"output_dir", ANY, 0}, {"device", ANY, 0},
    {"local_rank", ANY, 0},
    {"gradient_checkpointing", ANY, 0}, {"mixed_precision", ANY, 0}, {"precision", ANY, 0},
    /* of SiT's train.py: read where the objective is found */
    {"prediction", TEXT, 0}, {"path_type", TEXT, 0}, {"loss_weight", ANY, 0},
    {"prediction_type", TEXT, 0}, {"pred_type", TEXT, 0}, {"parameterization", TEXT, 0},
    {"model_mean_type", TEXT, 0}, {"objective", WORD, 0}, /* of others, for prediction */
    {"sample_eps", ANY, 0}, {"train_eps", ANY, 0},
    {0}};
/* clang-format on */

static const row *const tables[] = {
    [DS_FOREIGN_DIT] = dit,   [DS_FOREIGN_FACEBOOK] = facebook, [DS_FOREIGN_SCHEDULER] = scheduler,
    [DS_FOREIGN_FLOW] = flow, [DS_FOREIGN_PIPELINE] = pipeline, [DS_FOREIGN_VAE] = vae,
    [DS_FOREIGN_ARGS] = args};

/* text without the words that are no JSON. */
static void replace_words(const char *text, size_t n, ds_buf *out) {
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};
    int in_text = 0;
    for (size_t i = 0; i < n;) {
        size_t k = 0, m = 0;
        while (!in_text && k < 3 &&
               (m = strlen(words[k]), n - i < m || memcmp(text + i, words[k], m)))
            k++;
        if (!in_text && k < 3) {
            ds_buf_add(out, "null", 4);
            i += m;
            continue;
        }
        if (text[i] == '"')
            in_text = !in_text;
        if (in_text && text[i] == '\\' && i + 1 < n)
            ds_buf_add(out, text + i++, 1);
        ds_buf_add(out, text + i++, 1);
    }
}

int ds_foreign_read(const char *path, size_t max, json_t **out, ds_error *err) {
    char *text;
    size_t n;
    int rc = ds_fs_read(path, max, &text, &n, err);
    if (rc)
        return rc;
    ds_buf clean = {0};
    replace_words(text, n, &clean);
    rc = ds_json_parse(path, clean.data ? clean.data : "", clean.len, out, err);
    ds_buf_release(&clean);
    free(text);
    return rc;
}

static const row *find(enum ds_foreign what, const char *field) {
    const row *r = tables[what];
    while (r->field && strcmp(r->field, field))
        r++;
    return r->field ? r : NULL;
}

/* 0 and 0.0 are the same. */
static int same(const json_t *a, const json_t *b) {
    return json_is_number(a) && json_is_number(b) ? json_number_value(a) == json_number_value(b)
                                                  : json_equal(a, b);
}

static int one_of(const json_t *v, const json_t *values) {
    for (size_t i = 0; i < json_array_size(values); i++)
        if (same(v, json_array_get(values, i)))
            return 1;
    return 0;
}

static int all_of(const json_t *v, const json_t *values, int (*is)(const json_t *)) {
    int ok = json_is_null(v) || json_is_array(v);
    for (size_t i = 0; ok && i < json_array_size(v); i++)
        ok = values ? one_of(json_array_get(v, i), values) : is(json_array_get(v, i));
    return ok;
}

static int is_whole(const json_t *v) {
    return json_is_integer(v) ||
           (json_is_real(v) && floor(json_real_value(v)) == json_real_value(v));
}

static int right(const row *r, const json_t *v) {
    json_t *values = r->values ? json_loads(r->values, 0, NULL) : NULL;
    int ok = json_is_null(v);
    switch (r->use) {
    case INT: ok |= json_is_integer(v); break;
    case NUMBER: ok |= json_is_number(v); break;
    case TEXT: ok |= json_is_string(v); break;
    case OBJECT: ok |= json_is_object(v); break;
    case INTS: ok = all_of(v, NULL, is_whole); break;
    case WORD:
    case ANY: ok = 1; break;
    case ONLY: ok = one_of(v, values); break;
    case EACH: ok = all_of(v, values, NULL); break;
    }
    json_decref(values);
    return ok;
}

static int wrong_value(const row *r, const char *file, const json_t *v, ds_error *err) {
    static const char *const wants[] = {[INT] = "a whole number",
                                        [NUMBER] = "a number",
                                        [TEXT] = "a text",
                                        [INTS] = "a list of whole numbers",
                                        [OBJECT] = "an object"};
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
    int values = r->use == ONLY || r->use == EACH;
    int rc = ds_fail(err, DS_EINVAL, "'%.160s': %s is %.60s; %s%.150s", file, r->field,
                     text ? text : "?", values ? "supported is only " : "expected is ",
                     values ? r->values : wants[r->use]);
    free(text);
    return rc;
}

/* Fields of a checkpoint's settings that are not in the table, in one line. */
static void say_unknown(const char *file, const json_t *doc, ds_import_report *report) {
    char names[200] = "";
    size_t len = 0, more = 0;
    const char *field;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)doc, field, v) {
        if (find(DS_FOREIGN_ARGS, field))
            continue;
        if (len + strlen(field) + 4 < sizeof names)
            len +=
                (size_t)snprintf(names + len, sizeof names - len, "%s%s", len ? ", " : "", field);
        else
            more++;
    }
    if (!len)
        return;
    char why[80];
    snprintf(why, sizeof why, "settings that are not known here%s", more ? ", and more" : "");
    ds_import_report_ignored(report, names, why);
    (void)file;
}

/* Rows of settings that mean the same wherever they stand: no other part of a program has them. */
static const row *nested_row(const char *field) {
    static const char *const also[] = {"class_dropout_prob", "beta_start",
                                       "beta_end",           "num_train_timesteps",
                                       "diffusion_steps",    "num_diffusion_timesteps"};
    const row *r = find(DS_FOREIGN_ARGS, field);
    for (size_t i = 0; r && r->use != ONLY && i < sizeof also / sizeof also[0]; i++)
        if (!strcmp(also[i], field))
            return r;
    return r && r->use == ONLY ? r : NULL;
}

static int check_nested(const char *file, const char *path, const json_t *doc, int depth,
                        ds_import_report *report, ds_error *err) {
    const char *field;
    json_t *v;
    int rc = 0;
    json_object_foreach((json_t *)(uintptr_t)doc, field, v) {
        char name[160];
        snprintf(name, sizeof name, "%.100s%s%.50s", path, *path ? "." : "", field);
        const row *r = depth ? nested_row(field) : NULL;
        if (!rc && r && !right(r, v))
            rc = wrong_value(r, file, v, err);
        else if (!rc && r)
            ds_import_report_field(report, file, name, v, r->use == ONLY ? "harmless" : "used");
        if (!rc && json_is_object(v) && depth < DS_FOREIGN_DEPTH)
            rc = check_nested(file, name, v, depth + 1, report, err);
    }
    return rc;
}

const json_t *ds_foreign_find(const json_t *doc, const char *field, int depth) {
    const json_t *hit = json_object_get(doc, field);
    const char *key;
    json_t *v;
    if (hit && !json_is_null(hit))
        return hit;
    json_object_foreach((json_t *)(uintptr_t)doc, key, v) {
        if (json_is_object(v) && depth < DS_FOREIGN_DEPTH &&
            (hit = ds_foreign_find(v, field, depth + 1)))
            return hit;
    }
    return NULL;
}

enum ds_foreign_kind ds_foreign_decides(const char *field) {
    const row *r = find(DS_FOREIGN_ARGS, field);
    if (!r || r->use == ANY)
        return DS_FOREIGN_NO;
    return r->use == INT || r->use == NUMBER ? DS_FOREIGN_NUMBER : DS_FOREIGN_OTHER;
}

int ds_foreign_check(enum ds_foreign what, const char *file, const json_t *doc,
                     ds_import_report *report, ds_error *err) {
    const char *field = ds_json_string(doc, DS_FOREIGN_CONFLICT, NULL);
    json_t *v;
    if (what == DS_FOREIGN_ARGS && field)
        return ds_fail(err, DS_EINVAL,
                       "'%.160s': %.80s has two values, in different places: save the checkpoint "
                       "with the one that is right",
                       file, field);
    json_object_foreach((json_t *)(uintptr_t)doc, field, v) {
        const row *r = find(what, field);
        if (!r && what == DS_FOREIGN_ARGS)
            continue;
        static const row hidden = {"_", ANY, 0}; /* diffusers passes over names with '_' in front */
        if (!r && field[0] == '_')
            r = &hidden;
        if (!r)
            return ds_fail(err, DS_EINVAL,
                           "'%.160s': the field '%.80s' is not known here: what it changes could "
                           "not be followed; if it changes nothing, remove it",
                           file, field);
        if (!right(r, v))
            return wrong_value(r, file, v, err);
        int used = r->use == INT || r->use == NUMBER || r->use == TEXT || r->use == INTS ||
                   r->use == OBJECT || (r->use == WORD && json_is_string(v));
        ds_import_report_field(report, file, field, v,
                               used && !json_is_null(v) ? "used" : "harmless");
    }
    if (what != DS_FOREIGN_ARGS)
        return 0;
    say_unknown(file, doc, report);
    return check_nested(file, "", doc, 0, report, err);
}

int ds_foreign_is(enum ds_foreign what, const json_t *doc) {
    const char *field;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)doc, field, v)
        if (field[0] != '_' && find(what, field) && find(what, field)->use != ANY)
            return 1;
    return 0;
}

int ds_foreign_agrees(const json_t *doc, const char *field, double is) {
    const json_t *v = json_object_get(doc, field);
    return !v || json_is_null(v) || (json_is_number(v) && json_number_value(v) == is);
}
