/* registry/names.h - what a dataset, adapter or alias may be called.
 *
 * 1 to 64 of [A-Za-z0-9._-], not beginning with '.' or '-': safe as a file name, in a URL and in a
 * shell, and free of '@', ':' and '/', which references use.  Names are compared without case.
 */
#ifndef DS_REGISTRY_NAMES_H
#define DS_REGISTRY_NAMES_H

#include "base/error.h"

#include <stddef.h>

#define DS_NAME_SIZE 65 /* 64 characters and the final 0 */

/* `what` is "dataset", "alias", ... for the message.  DS_EINVAL naming the character at fault. */
int ds_name_check(const char *what, const char *name, ds_error *err);

/* As ds_name_check; refuses also "v<digits>", which would look like a version. */
int ds_alias_check(const char *alias, ds_error *err);

/* A name made from the last part of a path: other characters become '-', at most 64, "dataset" when
 * nothing is left. */
void ds_name_from_path(const char *path, char out[DS_NAME_SIZE]);

#endif
