/* daemon/api/later.h - an answer that comes when work of the pool is done (gc, prune, fsck).
 *
 * It is a stream that says nothing until then, so nobody is held up.  The work goes on when the
 * reader is gone.  Thread: loop thread.  Ownership: freed by itself when the answer is there and
 * the reader has gone, whichever is last; ds_later_drop before there is a reader. */
#ifndef DS_DAEMON_API_LATER_H
#define DS_DAEMON_API_LATER_H

#include "daemon/core/shared.h"
#include "daemon/http/http.h"

typedef struct ds_later ds_later;

ds_later *ds_later_new(ds_daemon *d);
void ds_later_drop(ds_later *l);
/* From here the request waits for the answer. */
int ds_later_reply(ds_later *l, ds_request *rq);
/* The answer, once; takes doc (NULL: {}). */
void ds_later_tell(ds_later *l, json_t *doc);

#endif
