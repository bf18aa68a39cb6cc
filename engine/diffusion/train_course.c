/* engine/diffusion/train_course.c - when a run with patience or max_time lets its rate fall, and
 * when it ends. */
#include "base/mem.h"
#include "engine/diffusion/train_task.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const words[] = {"patience", "time"};
enum { PATIENCE, TIME, WORDS };

/* Of max_time: from the first share on the rate falls for a quarter of the steps so far, so that
 * the run takes about all of it; one whose steps became slower ends at the second. */
static const double FALL = 0.8, END = 1.1;

int ds_train_open_ended(const ds_train_options *o) { return o->patience > 0 || o->max_time > 0; }

void ds_train_course_begin(ds_train_course *c, const ds_train_options *o) {
    *c = (ds_train_course){.from = DS_FALL_BEGINS(o->steps), .last = o->steps, .best = INFINITY};
}

double ds_train_course_rate(const ds_train_course *c, const ds_train_options *o, int step) {
    double lr = o->lr;
    if (step < o->warmup)
        lr *= (double)(step + 1) / o->warmup;
    if (step >= c->last)
        return 0;
    if (step > c->from) /* also in the warm-up, where that is cut short */
        lr *= 0.5 * (1 + cos(3.14159265358979323846 * (step - c->from) / (c->last - c->from)));
    return lr;
}

static void fall(ds_train_course *c, const ds_train_options *o, int step, const char *why) {
    int last = step + (step / 4 > 1 ? step / 4 : 1);
    c->from = step;
    c->last = last < o->steps ? last : o->steps;
    c->ended = c->last < o->steps ? why : NULL;
}

int ds_train_course_look(ds_train_course *c, const ds_train_options *o, int step, double heldout) {
    if (o->patience <= 0 || step >= c->from)
        return 0;
    c->waited = heldout < c->best ? 0 : c->waited + 1;
    c->best = fmin(c->best, heldout);
    if (c->waited < o->patience)
        return 0;
    fall(c, o, step, words[PATIENCE]);
    return 1;
}

int ds_train_course_time(ds_train_course *c, const ds_train_options *o, int step, double seconds) {
    if (seconds < ds_train_course_deadline(c, o, step))
        return 0;
    if (step < c->from)
        fall(c, o, step, words[TIME]);
    if (seconds >= END * o->max_time) {
        c->last = step;
        c->ended = words[TIME];
    }
    return 1;
}

double ds_train_course_deadline(const ds_train_course *c, const ds_train_options *o, int step) {
    if (o->max_time <= 0 || step >= c->last)
        return INFINITY;
    return (step < c->from ? FALL : END) * o->max_time;
}

char *ds_train_course_print(const ds_train_course *c) {
    return ds_xasprintf("from=%d last=%d waited=%d best=%.17g ended=%s", c->from, c->last,
                        c->waited, c->best, c->ended ? c->ended : "steps");
}

int ds_train_course_read(ds_train_course *c, const ds_train_options *o, const char *text) {
    ds_train_course r = {0};
    char word[16] = "";
    if (!text || sscanf(text, "from=%d last=%d waited=%d best=%lg ended=%15s", &r.from, &r.last,
                        &r.waited, &r.best, word) != 5)
        return 0;
    for (int i = 0; i < WORDS; i++)
        if (!strcmp(word, words[i]))
            r.ended = words[i];
    if (r.from < 0 || r.last < r.from || r.last > o->steps || r.waited < 0)
        return 0;
    *c = r;
    return 1;
}
