#include "worker/job/stop.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

static volatile sig_atomic_t asked, deferred;
static char cancel[PATH_MAX]; /* written before the handlers are there */

int ds_stop_status(void) {
    return cancel[0] && access(cancel, F_OK) == 0 ? DS_EXIT_CANCELLED : DS_EXIT_STOPPED;
}

/* Only async-signal-safe calls: access, _exit. */
static void on_signal(int number) {
    (void)number;
    asked = 1;
    if (!deferred)
        _exit(ds_stop_status());
}

int ds_stop_install(const char *dir, long parent, ds_error *err) {
    struct sigaction act = {.sa_handler = on_signal};
    if (dir && snprintf(cancel, sizeof cancel, "%s/" DS_FILE_CANCEL, dir) >= (int)sizeof cancel)
        return ds_fail(err, DS_EINVAL,
                       "the path of the job directory is too long: use a shorter one");
    sigemptyset(&act.sa_mask);
    if (sigaction(SIGTERM, &act, NULL) || sigaction(SIGINT, &act, NULL))
        return ds_fail_errno(err, "cannot install the signal handlers");
    signal(SIGPIPE, SIG_IGN);
    if (parent <= 0)
        return 0;
    if (prctl(PR_SET_PDEATHSIG, SIGTERM))
        return ds_fail_errno(err, "cannot ask to be told when process %ld ends", parent);
    /* It may have died before prctl; then we have another parent by now. */
    if (getppid() != (pid_t)parent)
        return ds_fail(err, DS_ECANCELED, "process %ld, which started this worker, is gone",
                       parent);
    return 0;
}

void ds_stop_defer(int on) {
    deferred = on;
    if (!on && asked)
        _exit(ds_stop_status());
}

int ds_stop_asked(void) { return asked; }
