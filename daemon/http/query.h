/* daemon/http/query.h - what a request may say: parameters of the query and members of the body, as
 * the table of routes names them (daemon/http/http.h, ds_route).  Thread: loop thread. */
#ifndef DS_DAEMON_HTTP_QUERY_H
#define DS_DAEMON_HTTP_QUERY_H

#include "base/error.h"

#include <jansson.h>

struct MHD_Connection;

/* Each parameter is in `known` ("limit|follow?"; NULL: none are), is there once, and has a value,
 * or, with a '?', is a flag: no value, 1, true, yes, 0, false, no.  Else DS_EINVAL that names it
 * and those that exist. */
int ds_query_check(struct MHD_Connection *connection, const char *known, ds_error *err);

/* A flag that passed the check. */
int ds_query_flag(struct MHD_Connection *connection, const char *key);

/* Each member is in `known` ("path|name"; NULL: none are). */
int ds_body_check(const json_t *body, const char *known, ds_error *err);

/* Is `word` one of "a|b|c"?  A '?' after a word there does not count. */
int ds_word_known(const char *known, const char *word);

/* What is wrong with the escapes of a text as it was sent: %00, or a '%' without two hex digits;
 * NULL: nothing.  A constant. */
const char *ds_query_bad_escape(const char *text);

#endif
