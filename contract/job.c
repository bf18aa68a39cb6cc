/* contract/job.c - see job.h. */
#include "contract/job.h"

#include <string.h>

#define X(name, word) [name] = word,
static const char *const kinds[] = {DS_JOB_KINDS(X)};
static const char *const states[] = {DS_JOB_STATES(X)};
#undef X

const char *ds_job_kind_name(enum ds_job_kind k) { return kinds[k]; }
const char *ds_job_state_name(enum ds_job_state s) { return states[s]; }

static int position(const char *const *names, int n, const char *s) {
    for (int i = 0; s && i < n; i++)
        if (strcmp(names[i], s) == 0)
            return i;
    return -1;
}

int ds_job_kind_parse(const char *s) { return position(kinds, DS_JOB_KIND_COUNT, s); }
int ds_job_state_parse(const char *s) { return position(states, DS_JOB_STATE_COUNT, s); }

int ds_job_state_over(int s) { return s > DS_JOB_RUNNING; }

int ds_exit_may_retry(int code) {
    return code != DS_EXIT_BAD && code != DS_EXIT_PERMISSION && code != DS_EXIT_INTEGRITY &&
           code != DS_EXIT_NEWER;
}
