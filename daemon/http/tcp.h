/* daemon/http/tcp.h - the optional TCP listener and its token (diffscalerd --listen, --token-file).
 *
 * Whoever has the token may do all that the socket's owner may, and there is no encryption: listen
 * on the loopback, or behind something that adds TLS (docs/api.md).  Thread: loop thread.
 */
#ifndef DS_DAEMON_HTTP_TCP_H
#define DS_DAEMON_HTTP_TCP_H

#include "base/digest.h"
#include "base/error.h"

#define DS_TCP_NAME 80 /* room for "[address]:port" */

/* "127.0.0.1:7777", "[::1]:7777", "localhost:0"; port 0 = any.  bound: where it is, in numbers. */
int ds_tcp_listen(const char *where, int *fd, char bound[DS_TCP_NAME], ds_error *err);

/* Is it written like one of these?  Before anything is opened. */
int ds_tcp_check(const char *where, ds_error *err);

/* Reads a token of 16 to 512 printable characters (one final newline is not part of it) from a file
 * that nobody but its owner can read; gives its digest, which is all that is kept. */
int ds_token_read(const char *path, char digest[DS_HEX_SIZE], ds_error *err);

/* Is this "Bearer <token>"?  Takes the same time whatever is different.  header may be NULL. */
int ds_token_good(const char *digest, const char *header);

#endif
