/* daemon/api/later.c - see later.h. */
#include "daemon/api/later.h"

#include <stdlib.h>

struct ds_later {
    ds_daemon *d;
    int done, gone; /* the work is done; the reader is gone */
    char *text;     /* the answer */
};

ds_later *ds_later_new(ds_daemon *d) {
    ds_later *l = ds_xcalloc(1, sizeof *l);
    l->d = d;
    return l;
}

void ds_later_drop(ds_later *l) {
    free(l->text);
    free(l);
}

static int fill(void *state, ds_buf *out) {
    ds_later *l = state;
    if (!l->done)
        return 0;
    ds_buf_addf(out, "%s\n", l->text ? l->text : "{}");
    return 1;
}

static void reader_gone(void *state) {
    ds_later *l = state;
    l->gone = 1;
    if (l->done)
        ds_later_drop(l);
}

int ds_later_reply(ds_later *l, ds_request *rq) {
    ds_stream_source src = {fill, reader_gone, l, NULL};
    return ds_reply_stream(rq, "application/json", &src);
}

void ds_later_tell(ds_later *l, json_t *doc) {
    l->text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
    json_decref(doc);
    l->done = 1;
    if (!l->d->stopping)
        ds_daemon_wake(l->d);
    if (l->gone)
        ds_later_drop(l);
}
