/* cli/main.c - dsctl: signals and streams around ds_cli_run. */
#include "cli/cli.h"

#include <locale.h>

static void on_signal(int sig) { ds_cli_interrupted = sig; }

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, "");
    setlocale(LC_TIME, "");
    /* The first Ctrl-C ends a wait in order; a second one ends the program. */
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&sa.sa_mask);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    return ds_cli_run(argc, argv, stdout, stderr);
}
