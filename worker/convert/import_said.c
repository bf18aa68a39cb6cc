/* worker/convert/import_said.c - what is said of what a base predicts: by a person, by this
 * program, by the settings, tensors or scheduler of another one. */
#include "base/fs.h"
#include "base/mem.h"
#include "engine/files/foreign_config.h"
#include "worker/convert/import_objective.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { SCHEDULER_MAX = 1 << 20 };

/* ---------------------------------------------------------------- words */

enum kind { UNSAID, NOISE, VELOCITY, OTHER };

/* Words for what a network predicts, of public programs: SiT, REPA, LDM, ADM, diffusers. */
static const struct {
    const char *word;
    enum kind kind;
    const char *means; /* OTHER */
} said_words[] = {{"eps", NOISE, NULL},
                  {"epsilon", NOISE, NULL},
                  {"noise", NOISE, NULL},
                  {"pred_noise", NOISE, NULL},
                  {"predict_noise", NOISE, NULL},
                  {"noise_prediction", NOISE, NULL},
                  {"pred_eps", NOISE, NULL},
                  {"pred_epsilon", NOISE, NULL},
                  {"eps_prediction", NOISE, NULL},
                  {"epsilon_prediction", NOISE, NULL},
                  {"velocity", VELOCITY, NULL},
                  {"v", VELOCITY, NULL},
                  {"velocity_prediction", VELOCITY, NULL},
                  {"flow_matching", VELOCITY, NULL},
                  {"rectified_flow", VELOCITY, NULL},
                  {"flow", VELOCITY, NULL},
                  {"flow_prediction", VELOCITY, NULL},
                  {"v_prediction", OTHER, "velocity with DDPM's schedule"},
                  {"pred_v", OTHER, "velocity with DDPM's schedule"},
                  {"v_pred", OTHER, "velocity with DDPM's schedule"},
                  {"vpred", OTHER, "velocity with DDPM's schedule"},
                  {"score", OTHER, "the score"},
                  {"x0", OTHER, "the clean picture (x0)"},
                  {"x", OTHER, "the clean picture (x0)"},
                  {"sample", OTHER, "the clean picture (x0)"},
                  {"pred_x0", OTHER, "the clean picture (x0)"},
                  {"x_start", OTHER, "the clean picture (x0)"},
                  {"pred_x_start", OTHER, "the clean picture (x0)"},
                  {"xstart", OTHER, "the clean picture (x0)"},
                  {"start_x", OTHER, "the clean picture (x0)"}};

/* Keys of settings that say it.  strict: another word than those is refused. */
static const struct {
    const char *key;
    int strict;
} said_keys[] = {{"prediction", 1},       {"prediction_type", 1}, {"pred_type", 1},
                 {"parameterization", 1}, {"objective", 0},       {"model_mean_type", 0}};

/* Of the key path_type: SiT's words, and REPA's, which calls the same cosine. */
static const struct {
    const char *word;
    enum ds_flow_path path;
} path_words[] = {{"linear", DS_FLOW_LINEAR}, {"gvp", DS_FLOW_GVP}, {"cosine", DS_FLOW_GVP}};

/* The same word: '-' for '_', any case, with the name of an enumeration in front or without. */
static int is_word(const char *said, const char *word) {
    const char *dot = strrchr(said, '.');
    size_t n = strlen(word);
    said = dot ? dot + 1 : said;
    for (size_t i = 0; i < n; i++)
        if (tolower((unsigned char)(said[i] == '-' ? '_' : said[i])) != word[i])
            return 0;
    return !said[n];
}

/* ---------------------------------------------------------------- settings */

/* What the settings of a training program say, all of them together. */
typedef struct {
    const char *source;
    enum kind prediction;
    enum ds_flow_path path;
    int sit; /* the path is spelled as SiT does */
    char prediction_where[160], path_where[160];
} settings;

static void note_where(char where[160], const char *place, const char *key, const json_t *v) {
    char *value = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(where, 160, "%.40s.%.40s is %.60s", place, key, value ? value : "?");
    ds_json_mend_text(where);
    free(value);
}

/* "args.path_type is "Linear", args.prediction is "velocity"" */
static void join_where(const settings *s, char where[160]) {
    snprintf(where, 160, "%.78s%s%.78s", s->path_where,
             *s->path_where && *s->prediction_where ? ", " : "", s->prediction_where);
    ds_json_mend_text(where);
}

static int refuse_said(const settings *s, const char *what, ds_error *err) {
    char where[160];
    join_where(s, where);
    return ds_fail(err, DS_EINVAL,
                   "'%.120s' predicts %s: %s; " DS_ONLY_USABLE " (if that is wrong: --objective)",
                   s->source, what, where);
}

static int read_prediction(settings *s, const char *place, const char *key, const json_t *v,
                           int strict, ds_error *err) {
    const char *word = json_string_value(v);
    for (size_t i = 0; i < sizeof said_words / sizeof said_words[0]; i++) {
        if (!is_word(word, said_words[i].word))
            continue;
        enum kind before = s->prediction;
        char was[160];
        snprintf(was, sizeof was, "%s", s->prediction_where);
        s->prediction = said_words[i].kind;
        note_where(s->prediction_where, place, key, v);
        if (s->prediction == OTHER)
            return refuse_said(s, said_words[i].means, err);
        if (before != UNSAID && before != s->prediction)
            return ds_fail(err, DS_EINVAL,
                           "'%.120s' says two things of what it predicts: %.120s, %.120s; give the "
                           "one that is right with --objective",
                           s->source, was, s->prediction_where);
        return 0;
    }
    if (!strict)
        return 0;
    note_where(s->prediction_where, place, key, v);
    return refuse_said(s, "something that is not known", err);
}

static int read_path(settings *s, const char *place, const char *key, const json_t *v,
                     ds_error *err) {
    const char *word = json_string_value(v);
    note_where(s->path_where, place, key, v);
    for (size_t i = 0; i < sizeof path_words / sizeof path_words[0]; i++)
        if (is_word(word, path_words[i].word)) {
            s->path = path_words[i].path;
            s->sit = isupper((unsigned char)*word) != 0;
            return 0;
        }
    return refuse_said(s, "along a path that is not known here", err);
}

/* One member: does it say what is predicted, or along which path? */
static int read_setting(settings *s, const char *place, const char *key, const json_t *v,
                        ds_error *err) {
    for (size_t k = 0; k < sizeof said_keys / sizeof said_keys[0]; k++)
        if (json_is_string(v) && !strcasecmp(key, said_keys[k].key))
            return read_prediction(s, place, key, v, said_keys[k].strict, err);
    if (!json_is_string(v) || (strcasecmp(key, "path_type") && strcasecmp(key, "path-type")))
        return 0;
    return read_path(s, place, key, v, err);
}

static int read_settings(settings *s, const char *place, const json_t *doc, int depth,
                         ds_error *err) {
    const char *key;
    json_t *v;
    int rc = 0;
    json_object_foreach((json_t *)(uintptr_t)doc, key, v) {
        if (rc)
            break;
        if (json_is_object(v) && depth < DS_FOREIGN_DEPTH)
            rc = read_settings(s, key, v, depth + 1, err);
        else
            rc = read_setting(s, place, key, v, err);
    }
    return rc;
}

/* REPA trains SiTs the other way round: its tensors or settings tell. */
static int is_repa(const ds_weights *w, const ds_dit_names *d) {
    const json_t *args = ds_weights_args(w);
    return ds_dit_names_repa(d) || (args && (ds_foreign_find(args, "proj_coeff", 0) ||
                                             ds_foreign_find(args, "enc_type", 0)));
}

/* Settings that are read, as a claim. */
static int claim_of(ds_objective_claim *claim, const settings *s, int repa, ds_error *err) {
    if (s->prediction == UNSAID && s->path == DS_FLOW_NONE && !repa)
        return 0;
    claim->by = DS_SAID_BY_SETTINGS;
    join_where(s, claim->where);
    if (s->prediction == NOISE && s->path != DS_FLOW_NONE)
        return refuse_said(s, "along a flow's path, not with DDPM's schedule", err);
    if (s->prediction == NOISE)
        return 0;
    if (!*claim->where) {
        claim->by = DS_SAID_BY_TENSORS;
        snprintf(claim->where, sizeof claim->where, "its projectors are those of REPA");
    }
    claim->path_open = s->path == DS_FLOW_NONE;
    claim->clock_open = 1;
    claim->way_unknown = !repa && !s->sit;
    claim->flow = (ds_flow){.path = claim->path_open ? DS_FLOW_LINEAR : s->path,
                            .to_data = !repa,
                            .scale = 1,
                            .shift = 1};
    return 0;
}

static int read_args(ds_objective_claim *claim, const ds_import_options *o, const ds_weights *w,
                     const ds_dit_names *d, ds_error *err) {
    settings s = {.source = o->source};
    const json_t *args = ds_weights_args(w);
    int rc = args ? read_settings(&s, "args", args, 0, err) : 0;
    join_where(&s, claim->where);
    return rc ? rc : claim_of(claim, &s, is_repa(w, d), err);
}

/* ---------------------------------------------------------------- who says it */

/* diffusers: the scheduler beside the model.  What is not eps there is refused where it is read,
 * and a flow is in the names' configuration. */
static int read_scheduler(ds_objective_claim *claim, const ds_weights *w, const ds_flow *flow,
                          ds_error *err) {
    char *path = ds_xasprintf("%s/../scheduler/scheduler_config.json", ds_weights_dir(w));
    json_t *doc = NULL;
    int rc = ds_fs_exists(path) ? ds_foreign_read(path, SCHEDULER_MAX, &doc, err) : 0;
    if (!rc && doc) {
        claim->by = DS_SAID_BY_SCHEDULER;
        claim->flow = *flow;
        if (flow->path != DS_FLOW_NONE)
            snprintf(claim->where, sizeof claim->where, "scheduler_config.json: it is a %.100s",
                     ds_json_string(doc, "_class_name", ""));
        else
            snprintf(claim->where, sizeof claim->where,
                     "scheduler_config.json: prediction_type is %s%s",
                     ds_json_string(doc, "prediction_type", "epsilon"),
                     json_object_get(doc, "prediction_type") ? "" : " (diffusers' default)");
    }
    json_decref(doc);
    free(path);
    return rc;
}

/* What the file says, and what lies beside it. */
static int said_by_file(ds_objective_claim *claim, const ds_import_options *o, const ds_weights *w,
                        const ds_dit_names *d, ds_error *err) {
    const ds_flow flow = ds_dit_names_facts(d).flow;
    /* pretrain's own file: a configuration, and no other program's format that it came from */
    int ours = ds_weights_meta(w, "diffscaler.config") != NULL;
    if (ours && !ds_weights_meta(w, "diffscaler.source_format")) {
        claim->by = DS_SAID_BY_PRETRAIN;
        claim->flow = flow;
        snprintf(claim->where, sizeof claim->where,
                 "its metadata: diffscaler.config and no source of another program");
        return 0;
    }
    if (ours && flow.path != DS_FLOW_NONE) {
        claim->by = DS_SAID_BY_CONFIG;
        claim->flow = flow;
        snprintf(claim->where, sizeof claim->where, "its metadata: diffscaler.config");
        return 0;
    }
    int rc = read_args(claim, o, w, d, err);
    if (!rc && claim->by == DS_SAID_BY_NOBODY && !strncmp(ds_dit_names_layout(d), "diffusers", 9))
        rc = read_scheduler(claim, w, &flow, err);
    return rc;
}

/* Does a file say this too, as far as it says it? */
static int says_too(const ds_objective_claim *file, const ds_flow *flow) {
    const ds_flow *a = &file->flow;
    if (file->by == DS_SAID_BY_NOBODY)
        return 1;
    if (a->path == DS_FLOW_NONE || flow->path == DS_FLOW_NONE)
        return a->path == flow->path;
    return (a->path == flow->path || file->path_open) &&
           (a->to_data == flow->to_data || file->way_unknown) &&
           (a->scale == flow->scale || file->clock_open);
}

/* A person is believed against the file, but not in silence. */
static void note_against(ds_objective_claim *claim, const ds_import_options *o, const ds_weights *w,
                         const ds_dit_names *d) {
    ds_objective_claim file = {.by = DS_SAID_BY_NOBODY};
    ds_error ignored;
    char words[100];
    if (!said_by_file(&file, o, w, d, &ignored) && says_too(&file, &claim->flow))
        return;
    size_t n = strlen(claim->where);
    ds_objective_words(&file.flow, words, sizeof words);
    if (file.by == DS_SAID_BY_PRETRAIN || file.by == DS_SAID_BY_CONFIG)
        snprintf(claim->where + n, sizeof claim->where - n, ", although diffscaler.config says %s",
                 words);
    else
        snprintf(claim->where + n, sizeof claim->where - n, ", although %.100s", file.where);
    claim->against = 1;
}

static int said_by_person(ds_objective_claim *claim, const ds_import_options *o,
                          const ds_weights *w, const ds_dit_names *d, ds_error *err) {
    const ds_flow of_file = ds_dit_names_facts(d).flow;
    enum ds_prediction p;
    int rc = ds_objective_from_name(o->objective, &p, &claim->flow, err);
    claim->by = DS_SAID_BY_PERSON;
    snprintf(claim->where, sizeof claim->where, "--objective %.40s", o->objective);
    if (rc)
        return rc;
    if (claim->flow.path != DS_FLOW_NONE && of_file.path != DS_FLOW_NONE)
        claim->flow.shift = of_file.shift; /* which --objective does not say */
    note_against(claim, o, w, d);
    return p != DS_PREDICT_X0
               ? 0
               : ds_fail(err, DS_EINVAL, "a base that predicts %s cannot be added: " DS_ONLY_USABLE,
                         ds_prediction_words(p));
}

int ds_import_objective_said(ds_objective_claim *claim, const ds_import_options *o,
                             const ds_weights *w, const ds_dit_names *d, ds_error *err) {
    *claim = (ds_objective_claim){.by = DS_SAID_BY_NOBODY};
    int rc = o->objective && *o->objective ? said_by_person(claim, o, w, d, err)
                                           : said_by_file(claim, o, w, d, err);
    ds_json_mend_text(claim->where); /* it quotes what is foreign, and may be cut */
    return rc;
}
