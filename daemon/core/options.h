/* daemon/core/options.h - command line and environment of diffscalerd.
 * Precedence: option, then environment, then built-in.  Paths are absolute afterwards. */
#ifndef DS_DAEMON_CORE_OPTIONS_H
#define DS_DAEMON_CORE_OPTIONS_H

#include "base/error.h"
#include "base/log.h"

#include <limits.h>

typedef struct {
    char state[PATH_MAX];
    char socket[PATH_MAX];
    char base[PATH_MAX];        /* "" = none found */
    char older_base[PATH_MAX];  /* the one that came with earlier versions; "" = none found */
    char feature_net[PATH_MAX]; /* "" = none found */
    char worker[PATH_MAX];
    char listen[128];          /* HOST:PORT; "" = only the socket */
    char token_file[PATH_MAX]; /* for it */
    char self[PATH_MAX];       /* this executable */
    int workers;               /* trainings at the same time */
    int nice;                  /* of workers */
    int settle_ms;
    int rescan_seconds;
    int keep_jobs_days, keep_folders_days, keep_events_days; /* 0 = for ever */
    int stall_seconds;                                       /* of silent workers; 0 = no limit */
    unsigned idle_seconds;                                   /* of HTTP clients */
    int base_probe_only; /* no distance of a base's own classes is recorded */
    enum ds_log_level log_level;
    int base_given, feature_net_given; /* named by the user: must exist */
    int check_config;
    char fsck[8]; /* quick, full, repair: nothing else is done; "" = no */
} ds_options;

/* 0; 1 when the program should exit with 0 (--help, --version: printed); negative: usage error. */
int ds_options_parse(int argc, char **argv, ds_options *o, ds_error *err);

void ds_options_print(const ds_options *o); /* --check-config: one "key = value" a line */

#endif
