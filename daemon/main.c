/* daemon/main.c - diffscalerd.  Everything is in the library, so that tests can be a daemon too. */
#include "daemon/daemon.h"

int main(int argc, char **argv) { return ds_daemon_main(argc, argv); }
