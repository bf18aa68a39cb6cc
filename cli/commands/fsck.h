/* cli/commands/fsck.h - the check of a state folder, for fsck and doctor. */
#ifndef DS_CLI_COMMANDS_FSCK_H
#define DS_CLI_COMMANDS_FSCK_H

#include "cli/cli.h"

/* The answer of POST /v1/fsck (docs/api.md): the daemon's or, when none runs, of the folder. */
int ds_fsck_ask(ds_cli *c, int quick, int repair, json_t **out, ds_error *err);

#endif
