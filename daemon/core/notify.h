/* daemon/core/notify.h - the sd_notify protocol: one datagram to $NOTIFY_SOCKET.
 * Without that variable nothing happens.  Source: sd_notify(3). */
#ifndef DS_DAEMON_CORE_NOTIFY_H
#define DS_DAEMON_CORE_NOTIFY_H

void ds_notify(const char *state); /* e.g. "READY=1\nSTATUS=..." */
/* Half of WatchdogSec in ms if the service manager wants a keep-alive from this process, else 0. */
unsigned ds_notify_watchdog_ms(void);

#endif
