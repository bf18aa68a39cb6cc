/* worker/convert/export_card.c - files beside the tensors: JSON, the VAE, the model card. */
#include "base/fs.h"
#include "base/json.h"
#include "contract/methods.h"
#include "engine/diffusion/objective.h"
#include "engine/names/dit_layouts.h"
#include "worker/convert/export_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- diffusers */

static int write_json(const ds_exporter *x, const char *name, json_t *doc, ds_error *err) {
    char path[4352], *text = json_dumps(doc, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    json_decref(doc);
    if (!text)
        return ds_fail(err, DS_EFAILED, "cannot write '%s': a number of the model is not finite",
                       name);
    ds_export_path(x, name, path);
    size_t n = strlen(text);
    text = ds_xrealloc(text, n + 1);
    text[n] = '\n';
    int rc = ds_fs_write(path, text, n + 1, err);
    free(text);
    return rc;
}

static const char *class_name(const ds_exporter *x, int i) {
    if (x->adapter && x->adapter->class_names && i < x->adapter->spec.classes)
        return x->adapter->class_names[i];
    const char *name = json_string_value(json_array_get(x->names, (size_t)i));
    return name ? name : "";
}

static int is_flow(const ds_exporter *x) { return x->out.flow.path != DS_FLOW_NONE; }

static json_t *scheduler_config(const ds_exporter *x) {
    if (is_flow(x))
        return json_pack("{s:s, s:s, s:i, s:f}", "_class_name", "FlowMatchEulerDiscreteScheduler",
                         "_diffusers_version", "0.29.0", "num_train_timesteps",
                         (int)x->out.flow.scale, "shift", x->out.flow.shift);
    return json_pack("{s:s, s:s, s:f, s:f, s:s, s:b, s:i, s:s, s:b, s:i, s:n}", "_class_name",
                     "DDIMScheduler", "_diffusers_version", "0.18.0", "beta_start",
                     x->out.beta_start, "beta_end", x->out.beta_end, "beta_schedule", "linear",
                     "clip_sample", x->out.pixel, "num_train_timesteps", x->out.train_steps,
                     "prediction_type", "epsilon", "set_alpha_to_one", 1, "steps_offset", 0,
                     "trained_betas");
}

static json_t *pipeline_config(const ds_exporter *x) {
    json_t *labels = json_object();
    for (int i = 0; i < x->classes; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        json_t *name = json_string(class_name(x, i));
        json_object_set_new(labels, key, name ? name : json_string(""));
    }
    return json_pack("{s:s, s:s, s:o, s:[s,s], s:[s,s], s:[s,s]}", "_class_name", "DiTPipeline",
                     "_diffusers_version", "0.18.0", "id2label", labels, "scheduler", "diffusers",
                     "DDIMScheduler", "transformer", "diffusers", "DiTTransformer2DModel", "vae",
                     "diffusers", "AutoencoderKL");
}

/* The canonical VAE has diffusers' names already. */
static int write_vae(ds_exporter *x, ds_error *err) {
    const char *text = ds_st_meta(x->vae_file, "diffscaler.vae");
    char path[4352];
    json_t *c = NULL;
    if (!text)
        return ds_fail(err, DS_EINVAL, "'%s' is not a VAE of this program: no 'diffscaler.vae'",
                       x->o->vae);
    int rc = ds_json_parse(x->o->vae, text, strlen(text), &c, err);
    if (rc)
        return rc;
    size_t blocks = json_array_size(json_object_get(c, "block_out_channels"));
    json_t *down = json_array(), *up = json_array();
    for (size_t i = 0; i < blocks; i++) {
        json_array_append_new(down, json_string("DownEncoderBlock2D"));
        json_array_append_new(up, json_string("UpDecoderBlock2D"));
    }
    json_object_update_new(c, json_pack("{s:s, s:s, s:s, s:i, s:o, s:o}", "_class_name",
                                        "AutoencoderKL", "_diffusers_version", "0.18.0", "act_fn",
                                        "silu", "sample_size", 256, "down_block_types", down,
                                        "up_block_types", up));
    ds_export_path(x, "vae", path);
    if (!(rc = ds_fs_mkdirs(path, err)))
        rc = write_json(x, "vae/config.json", json_incref(c), err);
    json_decref(c);
    ds_export_path(x, "vae/diffusion_pytorch_model.safetensors", path);
    return rc ? rc : ds_fs_copy(x->o->vae, path, err);
}

int ds_export_configs(ds_exporter *x, ds_error *err) {
    char path[4352];
    int rc =
        write_json(x, "transformer/config.json", ds_layout_config(x->base, x->out.classes), err);
    ds_export_path(x, "scheduler", path);
    if (!rc)
        rc = ds_fs_mkdirs(path, err);
    if (!rc)
        rc = write_json(x, "scheduler/scheduler_config.json", scheduler_config(x), err);
    if (!rc && x->vae_file)
        rc = write_vae(x, err);
    if (!rc && x->vae_file && !is_flow(x)) /* DiTPipeline needs one, and takes no flow */
        rc = write_json(x, "model_index.json", pipeline_config(x), err);
    return rc;
}

/* ---------------------------------------------------------------- model card */

/* One line of text for Markdown and YAML: no control characters, no markup that changes meaning. */
static void clean(ds_buf *b, const char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 32 || *s == 127)
            ds_buf_addf(b, " ");
        else if (strchr("|<>`\"\\", *s))
            ds_buf_addf(b, "\\%c", *s);
        else
            ds_buf_add(b, s, 1);
}

static void line(ds_buf *b, const char *label, const char *value) {
    if (!value || !*value)
        return;
    ds_buf_addf(b, "- %s: ", label);
    clean(b, value);
    ds_buf_addf(b, "\n");
}

static const json_t *meta(const ds_exporter *x, const char *key) {
    return x->adapter ? json_object_get(x->adapter->meta, key) : NULL;
}

/* "license: ..." of the front matter must be one of the Hub's identifiers; others are "other" with
 * a name. */
static void front_matter(ds_buf *b, const ds_exporter *x) {
    static const char *const known[] = {
        "cc-by-nc-4.0", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit",
        "apache-2.0",   "openrail",  "bsd-3-clause", "gpl-3.0", "creativeml-openrail-m"};
    int hub = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        hub |= !strcmp(x->license, known[i]);
    ds_buf_addf(b, "---\n");
    if (hub)
        ds_buf_addf(b, "license: %s\n", x->license);
    else {
        ds_buf_addf(b, "license: other\nlicense_name: \"");
        clean(b, *x->license ? x->license : "not stated");
        ds_buf_addf(b, "\"\n");
    }
    ds_buf_addf(b, "base_model: \"");
    clean(b, x->base->name);
    ds_buf_addf(b,
                "\"\n%spipeline_tag: unconditional-image-generation\ntags:\n- diffscaler\n- dit\n",
                x->o->format == DS_EXPORT_DIFFUSERS ? "library_name: diffusers\n" : "");
    ds_buf_addf(b, "---\n\n");
}

static void title(ds_buf *b, const ds_exporter *x) {
    const char *name = ds_json_string(x->adapter ? x->adapter->meta : NULL, "name", "");
    ds_buf_addf(b, "# ");
    clean(b, *name ? name : x->base->name);
    if (*name) {
        ds_buf_addf(b, " on ");
        clean(b, x->base->name);
    }
    ds_buf_addf(b, "\n\n");
    switch (x->o->format) {
    case DS_EXPORT_SAFETENSORS:
        ds_buf_addf(b, x->o->merge
                           ? "`model.safetensors`: a Diffusion Transformer with the adapter "
                             "folded into its weights, as a base for `dsctl add-base`.\n\n"
                           : "`adapter.safetensors`: an adapter for the base below, as it "
                             "was published. It changes nothing without that base.\n\n");
        break;
    case DS_EXPORT_DIT:
        ds_buf_addf(b,
                    "A Diffusion Transformer in the layout of facebookresearch/DiT: "
                    "`model.safetensors`%s.\n\n",
                    x->o->no_pt ? "" : ", and the same tensors as `model.pt` for `torch.load`");
        break;
    case DS_EXPORT_DIFFUSERS:
        ds_buf_addf(b, "A Diffusion Transformer in the layout of diffusers.\n\n");
        break;
    case DS_EXPORT_PEFT:
        ds_buf_addf(b, "The adapter as low-rank factors (`lora_A`, `lora_B`) and scale and shift "
                       "vectors (`affiner_a`, `affiner_b`), named after diffusers' modules. "
                       "The PEFT library does not know this method and cannot load it.\n\n");
        break;
    }
}

static void section_base(ds_buf *b, const ds_exporter *x) {
    ds_buf_addf(b, "## Base\n\n");
    line(b, "name", x->base->name);
    line(b, "sha256", x->base->sha256);
    line(b, "imported from", ds_st_meta(x->base_file, "diffscaler.source_format"));
    line(b, "sha256 of what was imported", ds_st_meta(x->base_file, "diffscaler.source_sha256"));
    line(b, "licence, as stated by the user who added it",
         *x->license ? x->license : "not stated: find out before you pass this on");
    const ds_facts *c = &x->base->facts;
    char *shape = x->base->arch->words(x->base->config);
    ds_buf_addf(b, "- shape: %s, %dx%dx%d %s\n\n", shape, c->channels, c->side, c->side,
                c->pixel ? "pixels" : "latents");
    free(shape);
}

/* The method, and of its options those that are kept with it. */
static void method_words(ds_buf *b, const ds_method_spec *s, const json_t *m) {
    const ds_preset *p = &ds_preset_table[s->method];
    ds_buf_addf(b, "- %s", p->name);
    if (ds_preset_keeps(p, "rank"))
        ds_buf_addf(b, ", rank %d", s->rank);
    if (ds_preset_keeps(p, "side"))
        ds_buf_addf(b, ", side %s", ds_json_string(m, "side", "out"));
    if (ds_preset_keeps(p, "phi"))
        ds_buf_addf(b, ", phi %s", ds_json_string(m, "phi", "identity"));
}

static void section_adapter(ds_buf *b, const ds_exporter *x) {
    if (!x->adapter)
        return;
    const json_t *d = meta(x, "dataset"), *t = meta(x, "train");
    ds_buf_addf(b, "## Data\n\n");
    line(b, "dataset", ds_json_string(d, "name", NULL));
    long long images = ds_json_int(d, "images", 0);
    int classes = x->adapter->spec.classes;
    ds_buf_addf(b, "- %lld image%s in %d class%s\n", images, images == 1 ? "" : "s", classes,
                classes == 1 ? "" : "es");
    line(b, "sha256 of its manifest", ds_json_string(d, "tree_digest", NULL));
    ds_buf_addf(b, "\n## Method\n\n");
    method_words(b, &x->adapter->spec, meta(x, "method"));
    ds_buf_addf(b, ", %zu trained parameters\n", ds_params_trained(&x->adapter->table));
    ds_buf_addf(b, "- %lld steps of %lld images, learning rate %g, seed %lld\n",
                (long long)json_integer_value(meta(x, "steps")),
                (long long)ds_json_int(t, "batch", 0), ds_json_number(t, "lr", 0),
                (long long)ds_json_int(t, "seed", 0));
    line(b, "sha256 of the adapter", x->adapter->sha256);
    ds_buf_addf(b, "\n");
}

static void number(ds_buf *b, const json_t *row, const char *key) {
    const json_t *v = json_object_get(row, key);
    if (json_is_integer(v))
        ds_buf_addf(b, " %lld |", (long long)json_integer_value(v));
    else if (json_is_number(v))
        ds_buf_addf(b, " %.6g |", json_number_value(v));
    else
        ds_buf_addf(b, " - |");
}

/* More of it when sampling would guide twice. */
static double trained_guidance(const ds_exporter *x) {
    return ds_json_number(meta(x, "train"), "trained_guidance", 0);
}

static void section_metrics(ds_buf *b, const ds_exporter *x) {
    const json_t *rows = meta(x, "metrics"), *net = meta(x, "feature_net"), *s = meta(x, "sample"),
                 *row;
    size_t i;
    if (!json_array_size(rows))
        return;
    ds_buf_addf(b, "## Measurements\n\n| of | metric | value | real images | samples | seed |\n"
                   "|---|---|---|---|---|---|\n");
    json_array_foreach(rows, i, row) {
        ds_buf_addf(b, "| ");
        clean(b, ds_json_string(row, "subject", ""));
        ds_buf_addf(b, " | ");
        clean(b, ds_json_string(row, "metric", ""));
        ds_buf_addf(b, " |");
        number(b, row, "value");
        number(b, row, "n_real");
        number(b, row, "n_fake");
        number(b, row, "seed");
        ds_buf_addf(b, "\n");
    }
    ds_buf_addf(b, "\n");
    line(b, "features", ds_json_string(net, "name", NULL));
    line(b, "sha256 of the network", ds_json_string(net, "sha256", NULL));
    const json_t *resize = meta(x, "resize");
    line(b, "resampling", json_string_value(resize));
    if (json_object_get(s, "guidance_domain"))
        ds_buf_addf(b, "- sampled with %s, %lld steps, guidance %g (domain) and %g (class)",
                    ds_json_string(s, "sampler", "?"), (long long)ds_json_int(s, "steps", 0),
                    ds_json_number(s, "guidance_domain", 1),
                    ds_json_number(s, "guidance_class", 1));
    else if (!strcmp(ds_json_string(s, "guidance_mode", ""), "none"))
        ds_buf_addf(b, "- sampled with %s, %lld steps, no guidance",
                    ds_json_string(s, "sampler", "?"), (long long)ds_json_int(s, "steps", 0));
    else if (json_is_object(s))
        ds_buf_addf(b, "- sampled with %s, %lld steps, guidance %g (%s)",
                    ds_json_string(s, "sampler", "?"), (long long)ds_json_int(s, "steps", 0),
                    ds_json_number(s, "guidance", 1), ds_json_string(s, "guidance_mode", "?"));
    if (ds_json_number(s, "guidance_low", 0) > 0 &&
        strcmp(ds_json_string(s, "guidance_mode", ""), "none"))
        ds_buf_addf(b, " above noise level %g", ds_json_number(s, "guidance_low", 0));
    if (trained_guidance(x) > 0)
        ds_buf_addf(b, "; guidance %g is trained in", trained_guidance(x));
    ds_buf_addf(b,
                "%s- numbers of another network, resampling or number of images cannot be "
                "compared with these\n\n",
                json_is_object(s) ? "\n" : "");
}

static int merged(const ds_exporter *x) {
    return x->o->format == DS_EXPORT_DIT || x->o->format == DS_EXPORT_DIFFUSERS || x->o->merge;
}

static void section_classes(ds_buf *b, const ds_exporter *x) {
    if (!x->adapter && !merged(x))
        return;
    ds_buf_addf(b, "## Classes\n\n");
    if (merged(x)) {
        ds_buf_addf(b, "Rows 0 to %d of the class table are the classes", x->classes - 1);
        if (x->out.classes > x->classes)
            ds_buf_addf(b, ", rows %d to %d are copies of the unconditional row (not used)",
                        x->classes, x->out.classes - 1);
        ds_buf_addf(b, ", row %d is unconditional (no class).\n\n", x->out.classes);
    }
    for (int i = 0; *class_name(x, i) && i < x->classes && i < 1000; i++) {
        ds_buf_addf(b, "%d. ", i);
        clean(b, class_name(x, i));
        ds_buf_addf(b, "\n");
    }
    ds_buf_addf(b, "%s\n", x->classes > 1000 ? "...\n" : "");
}

/* diffusers has no pipeline for a DiT that predicts a velocity. */
static void use_flow(ds_buf *b, const ds_facts *c) {
    ds_buf_addf(b,
                "```python\nimport torch\n"
                "from diffusers import DiTTransformer2DModel, FlowMatchEulerDiscreteScheduler\n"
                "model = DiTTransformer2DModel.from_pretrained(\"THIS FOLDER\", "
                "subfolder=\"transformer\")\n"
                "scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(\"THIS FOLDER\", "
                "subfolder=\"scheduler\")\n"
                "n = 50  # set_timesteps(n) would shift the least levels twice\n"
                "scheduler.set_timesteps(sigmas=[(n - i) / n for i in range(n)])\n"
                "labels = torch.tensor([0])\n"
                "x = torch.randn(1, %d, %d, %d)\n"
                "with torch.no_grad():\n"
                "    for t in scheduler.timesteps:\n"
                "        v = model(x, timestep=t.expand(1), class_labels=labels).sample[:, :%d]\n"
                "        x = scheduler.step(v, t, x).prev_sample\n```\n\n%s\n\n",
                c->channels, c->side, c->side, c->channels,
                c->pixel
                    ? "x is the picture, in [-1,1]."
                    : "x divided by the scale of the latents is what the autoencoder decodes.");
}

static void section_use(ds_buf *b, const ds_exporter *x) {
    const ds_facts *c = &x->out;
    if (!merged(x))
        return;
    ds_buf_addf(b, "## Use\n\n");
    if (x->o->format == DS_EXPORT_DIFFUSERS && is_flow(x))
        use_flow(b, c);
    else if (x->o->format == DS_EXPORT_DIFFUSERS && x->vae_file)
        ds_buf_addf(b,
                    "```python\nfrom diffusers import DiTPipeline\npipe = "
                    "DiTPipeline.from_pretrained(\"THIS FOLDER\")\nimages = "
                    "pipe(class_labels=[0], guidance_scale=%s, "
                    "num_inference_steps=50).images\n```\n\n",
                    trained_guidance(x) > 0 ? "1.0" : "1.5");
    else if (x->o->format == DS_EXPORT_DIFFUSERS)
        ds_buf_addf(b,
                    "```python\nfrom diffusers import DDIMScheduler, DiTTransformer2DModel\n"
                    "model = DiTTransformer2DModel.from_pretrained(\"THIS FOLDER\", "
                    "subfolder=\"transformer\")\nscheduler = DDIMScheduler.from_pretrained("
                    "\"THIS FOLDER\", subfolder=\"scheduler\")\n```\n\n%s\n\n",
                    c->pixel ? "The model works on pixels in [-1,1], so `DiTPipeline`, which wants "
                               "an autoencoder, is not for it."
                             : "There is no autoencoder here; add one (`vae/`) and a "
                               "`model_index.json` for `DiTPipeline`.");
    else if (x->o->format == DS_EXPORT_DIT) {
        /* SiT's network takes the same arguments, and its samplers its own path and clock only */
        const int sit = is_flow(x) && c->flow.to_data && c->flow.scale == 1;
        char *call = ds_layout_constructor(x->base, c->classes);
        ds_buf_addf(b,
                    "```python\nimport torch\nfrom models import %s\n"
                    "model = %s%s\n"
                    "model.load_state_dict(torch.load(\"model.pt\", weights_only=True))\n```\n\n",
                    sit ? "SiT  # willisma/SiT" : "DiT  # facebookresearch/DiT",
                    sit ? "SiT" : "DiT", strchr(call, '('));
        free(call);
    } else
        ds_buf_addf(b, "    dsctl add-base model.safetensors\n\n");
}

static void section_predicts(ds_buf *b, const ds_exporter *x) {
    const ds_facts *c = &x->out;
    char words[100];
    if (!is_flow(x)) {
        ds_buf_addf(b, "Noise schedule: linear, %g to %g in %d steps%s. ", c->beta_start,
                    c->beta_end, c->train_steps, c->learn_sigma ? ", learned variance" : "");
        return;
    }
    ds_objective_words(&c->flow, words, sizeof words);
    ds_buf_addf(b, "It predicts: %s. At the noise level u, 0 data and 1 noise, a picture is %s. ",
                words,
                c->flow.path == DS_FLOW_LINEAR ? "(1 - u) data + u noise"
                                               : "cos(pi u / 2) data + sin(pi u / 2) noise");
    ds_buf_addf(b,
                "It is sampled at the levels u = s v / (1 + (s - 1) v) at even v, with the shift "
                "s = %g. ",
                c->flow.shift);
    if (c->learn_sigma)
        ds_buf_addf(b, "Of its output the first half of the channels is used. ");
}

int ds_export_card(ds_exporter *x, ds_error *err) {
    ds_buf b = {0};
    char path[4352];
    front_matter(&b, x);
    title(&b, x);
    if (x->exact)
        ds_buf_addf(&b, "> **Not the same output.** %s\n\n", x->exact);
    section_base(&b, x);
    section_adapter(&b, x);
    section_metrics(&b, x);
    section_classes(&b, x);
    section_use(&b, x);
    if (merged(x))
        section_predicts(&b, x);
    if (merged(x))
        ds_buf_addf(&b, "Guidance acted on %d of %d channels. Weights in %s.\n\n",
                    x->out.guidance_channels ? x->out.guidance_channels : x->out.channels,
                    x->out.channels, x->o->bf16 ? "BF16" : "F32");
    ds_buf_addf(&b, "Written by Diffscaler %s.\n", DS_VERSION);
    ds_export_path(x, "README.md", path);
    int rc = ds_fs_write(path, b.data, b.len, err);
    ds_buf_release(&b);
    return rc;
}
