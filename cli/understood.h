/* cli/understood.h - what an import understood (docs/jobs.md, "import", key "report"), for people.
 *
 * Thread: the main one.
 */
#ifndef DS_CLI_UNDERSTOOD_H
#define DS_CLI_UNDERSTOOD_H

#include "cli/cli.h"

/* Lines below a model that was added or is shown.  report null: why there is none.  whole: with the
 * table of the objective and the harmless fields. */
void ds_show_understood(const ds_cli *c, const json_t *model, int whole);

#endif
