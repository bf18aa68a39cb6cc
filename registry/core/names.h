/* registry/core/names.h - what a dataset, adapter or alias may be called.
 *
 * 1 to 64 of [A-Za-z0-9._-], not beginning with '.' or '-': safe as a file name, in a URL and in a
 * shell, and free of '@', ':' and '/', which references use.  Names are compared without case.
 */
#ifndef DS_REGISTRY_CORE_NAMES_H
#define DS_REGISTRY_CORE_NAMES_H

#include "base/digest.h"
#include "base/error.h"

#include <stddef.h>

#define DS_NAME_SIZE 65 /* 64 characters and the final 0 */

/* `what` is "dataset", "alias", ... for the message.  DS_EINVAL naming the character at fault. */
int ds_name_check(const char *what, const char *name, ds_error *err);

enum ds_named { DS_NAMED_DATASET, DS_NAMED_BASE, DS_NAMED_FEATURE_NET };

/* Why nothing new of this kind may have the name, because where a name is expected it is read as
 * something else: "base" ("dsctl sample base"), "latest", "default", "v2", "bundled", 64 hex
 * digits; NULL: it may.  Case does not count.  What has such a name already keeps it (name@latest
 * is never ambiguous).  A constant. */
const char *ds_name_reserved(enum ds_named kind, const char *name);

/* As ds_name_check; refuses also "v<digits>", which would look like a version. */
int ds_alias_check(const char *alias, ds_error *err);

/* A name made from the last part of a path: other characters become '-', at most 64, "dataset" when
 * nothing is left.  Where it had to leave out letters (not of ASCII, or beyond the 64th) it ends in
 * eight hex digits of the path's digest, so that two paths do not get one name. */
void ds_name_from_path(const char *path, char out[DS_NAME_SIZE]);

#endif
