/* worker/job/spec_sample.c - what guides samples, and how they are made and measured as it is kept
 * with what it made. */
#include "worker/job/spec.h"

#include <stdio.h>
#include <string.h>

ds_guidance ds_spec_guidance(const ds_spec_sample *s, int own_base) {
    if (s->mode == DS_GUIDANCE_WEIGHTS)
        return (ds_guidance){.domain = own_base ? 1 : s->domain, .classes = s->classes};
    if (s->mode == DS_GUIDANCE_DOMAIN && own_base)
        return (ds_guidance){1, 1};
    return ds_guidance_of((enum ds_guidance_mode)s->mode, s->guidance);
}

int ds_spec_passes(const ds_spec_sample *s, const ds_facts *c, int own_base, int has_class,
                   double *passes, ds_error *err) {
    int evaluations = s->sampler == DS_SAMPLER_HEUN ? 2 : 1;
    const ds_guidance g = ds_spec_guidance(s, own_base);
    double guided = 0;
    int rc = ds_guidance_share(s->low, c, s->steps, &guided, err);
    *passes = evaluations * (1 + guided * (ds_guidance_passes(g, has_class) - 1));
    return rc;
}

void ds_spec_guidance_text(const ds_spec_sample *s, char out[DS_GUIDANCE_TEXT]) {
    if (s->mode == DS_GUIDANCE_WEIGHTS)
        snprintf(out, DS_GUIDANCE_TEXT, "guidance %g domain, %g class", s->domain, s->classes);
    else
        snprintf(out, DS_GUIDANCE_TEXT, "guidance %g %s", s->guidance,
                 ds_guidance_name((enum ds_guidance_mode)s->mode));
    size_t n = strlen(out);
    if (s->low > 0)
        snprintf(out + n, DS_GUIDANCE_TEXT - n, " above noise level %g", s->low);
}

json_t *ds_spec_sample_json(const ds_spec_sample *s) {
    const char *sampler = ds_sampler_name((enum ds_sampler)s->sampler);
    json_t *o = s->mode == DS_GUIDANCE_WEIGHTS
                    ? json_pack("{s:s, s:i, s:f, s:f}", "sampler", sampler, "steps", s->steps,
                                "guidance_domain", s->domain, "guidance_class", s->classes)
                    : json_pack("{s:s, s:i, s:f, s:s}", "sampler", sampler, "steps", s->steps,
                                "guidance", s->guidance, "guidance_mode",
                                ds_guidance_name((enum ds_guidance_mode)s->mode));
    if (s->low > 0) /* as it was written before there was any */
        json_object_set_new(o, "guidance_low", json_real(s->low));
    return o;
}

json_t *ds_spec_evaluate_json(const ds_spec_evaluate *e) {
    json_t *o = json_pack("{s:i, s:I, s:i, s:i}", "n", e->n, "seed", (json_int_t)e->seed,
                          "kid_subsets", e->kid_subsets, "kid_subset_size", e->kid_subset_size);
    if (e->neighbours) /* as it was written before there were any */
        json_object_set_new(o, "neighbours", json_integer(e->neighbours));
    return o;
}
