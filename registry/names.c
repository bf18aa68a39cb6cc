#include "registry/names.h"

#include <string.h>

#define ALLOWED "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

int ds_name_check(const char *what, const char *name, ds_error *err) {
    size_t n = strlen(name), ok = strspn(name, ALLOWED);
    if (n == 0)
        return ds_fail(err, DS_EINVAL, "%s name is empty; give 1 to 64 of [A-Za-z0-9._-]", what);
    unsigned char bad = (unsigned char)name[ok];
    if (bad && (bad < 0x20 || bad == 0x7f))
        return ds_fail(err, DS_EINVAL,
                       "%s name has a control character (0x%02x) at position %zu; use only "
                       "[A-Za-z0-9._-]",
                       what, bad, ok + 1);
    if (bad >= 0x80)
        return ds_fail(err, DS_EINVAL,
                       "%s name has a character outside ASCII at position %zu; use only "
                       "[A-Za-z0-9._-]",
                       what, ok + 1);
    if (bad)
        return ds_fail(err, DS_EINVAL, "%s name '%.64s' has a '%c'; use only [A-Za-z0-9._-]", what,
                       name, bad);
    if (n >= DS_NAME_SIZE)
        return ds_fail(err, DS_EINVAL, "%s name '%.20s...' has %zu characters; at most %d", what,
                       name, n, DS_NAME_SIZE - 1);
    if (*name == '.' || *name == '-')
        return ds_fail(err, DS_EINVAL, "%s name '%s' begins with '%c'; begin with [A-Za-z0-9_]",
                       what, name, *name);
    return 0;
}

int ds_alias_check(const char *alias, ds_error *err) {
    int rc = ds_name_check("alias", alias, err);
    if (rc)
        return rc;
    size_t digits = strspn(alias + 1, "0123456789");
    if ((*alias == 'v' || *alias == 'V') && digits > 0 && !alias[1 + digits])
        return ds_fail(err, DS_EINVAL, "alias '%s' looks like a version; choose another", alias);
    return 0;
}

void ds_name_from_path(const char *path, char out[DS_NAME_SIZE]) {
    size_t end = strlen(path), n = 0;
    while (end > 0 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    for (size_t i = start; i < end && n < DS_NAME_SIZE - 1; i++) {
        char c = strchr(ALLOWED, path[i]) ? path[i] : '-';
        if (n == 0 && (c == '.' || c == '-'))
            continue; /* may not begin a name */
        if (c == '-' && n > 0 && out[n - 1] == '-')
            continue;
        out[n++] = c;
    }
    while (n > 0 && out[n - 1] == '-')
        n--;
    out[n] = 0;
    if (n == 0)
        memcpy(out, "dataset", sizeof "dataset");
}
