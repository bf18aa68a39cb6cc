/* cli/start.h - programs that belong to this one: where they are, and diffscalerd in the
 * background.
 */
#ifndef DS_CLI_START_H
#define DS_CLI_START_H

#include "cli/cli.h"

/* The program `name` beside this executable, else in PATH; DS_ENOTFOUND, then out is "". */
int ds_find_program(const char *name, char out[PATH_MAX], ds_error *err);

/* diffscaler-worker: what DIFFSCALER_WORKER names, else as ds_find_program. */
int ds_find_worker(char out[PATH_MAX], ds_error *err);

/* Runs argv (argv[0] a path) for at most `seconds`, stdout and stderr into `out` (at most 64 KiB,
 * malloc'ed).  *status as from waitpid.  DS_ETIMEOUT: it was killed. */
int ds_run_program(char *const argv[], double seconds, char **out, int *status, ds_error *err);

/* Is /readyz 200?  0, or the error of the attempt. */
int ds_daemon_ready(ds_cli *c, ds_error *err);

/* diffscalerd with this state and socket, in a session of its own, its output appended to
 * STATE/diffscalerd.log; returns when /readyz answers.  A daemon that already runs is success. */
int ds_start_daemon(ds_cli *c, ds_error *err);

#endif
