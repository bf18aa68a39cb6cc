/* daemon/start.c - diffscalerd from its arguments to its exit code. */
#include "base/fs.h"
#include "base/limits.h"
#include "base/log.h"
#include "daemon/jobs/local.h"
#include "daemon/daemon.h"
#include "daemon/folders/helper.h"
#include "daemon/care/fsck.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a person can do about a start that failed; the message already says what and why. */
static const char *way_out(const ds_options *o, const ds_error *err) {
    switch (err->code) {
    case DS_ENEWER: return "install a diffscaler at least as new as the one that made it";
    case DS_EPERM:
        if (*o->token_file && strstr(err->message, o->token_file))
            return NULL;
        return "run as the owner of the state folder, or give a --state you may write to";
    case DS_EINTEGRITY:
        return "restore the newest copy in STATE/backups, or move registry.db away to begin anew "
               "(blobs stay)";
    default: return NULL;
    }
}

static int fail(const ds_options *o, const ds_error *err) {
    const char *hint = way_out(o, err);
    fprintf(stderr, "diffscalerd: %s\n", err->message);
    if (hint)
        fprintf(stderr, "diffscalerd: %s\n", hint);
    return ds_error_exit(err->code);
}

int ds_daemon_main(int argc, char **argv) {
    ds_helper_main(argc, argv);
    ds_local_trampoline(argc, argv);
    static ds_daemon daemon; /* large: paths */
    static ds_options options;
    ds_error err = {0};
    umask(0027);
    int rc = ds_options_parse(argc, argv, &options, &err);
    if (rc < 0)
        return fail(&options, &err);
    if (rc == 0 && *options.fsck)
        return ds_fsck_main(options.state, options.fsck);
    if (rc == 0 && options.check_config) {
        ds_options_print(&options);
        rc = 1;
    }
    if (rc > 0) /* something was printed, and that is all */
        return ds_fs_flush(stdout, "standard output", &err) ? (fail(&options, &err), 1) : 0;
    ds_log_init("daemon", options.log_level);
    int64_t mib = ds_address_limit_mib(0);
    if (mib)
        ds_log(DS_LOG_WARN,
               "the address space is limited to %lld MiB (ulimit -v): no picture can be decoded "
               "with less than %lld, so scans and trainings will fail",
               (long long)mib, (long long)(DS_DECODER_MEMORY >> 20));
    rc = ds_daemon_open(&daemon, &options, &err);
    if (!rc)
        ds_daemon_run(&daemon);
    ds_daemon_close(&daemon);
    if (daemon.fatal.code) {
        fprintf(stderr, "diffscalerd: %s\n", daemon.fatal.message);
        return ds_error_exit(daemon.fatal.code);
    }
    return rc ? fail(&options, &err) : 0;
}
