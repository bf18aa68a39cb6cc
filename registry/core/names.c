#include "registry/core/names.h"

#include <string.h>
#include <strings.h>

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

static int looks_like_version(const char *name) {
    size_t digits = strspn(name + 1, "0123456789");
    return (*name == 'v' || *name == 'V') && digits > 0 && !name[1 + digits];
}

const char *ds_name_reserved(enum ds_named kind, const char *name) {
    if (kind == DS_NAMED_DATASET) {
        if (!strcasecmp(name, "base"))
            return "'base' is the frozen base (dsctl sample base)";
        if (!strcasecmp(name, "latest"))
            return "'latest' is the newest version of a name (digits@latest)";
        if (looks_like_version(name))
            return "it looks like a version (digits@v2)";
    } else if (ds_digest_valid(name))
        return "it looks like a digest";
    if (kind == DS_NAMED_FEATURE_NET && !strcasecmp(name, "bundled"))
        return "'bundled' is the network of the base";
    return strcasecmp(name, "default") ? NULL : "'default' is the one that was chosen for all";
}

int ds_alias_check(const char *alias, ds_error *err) {
    int rc = ds_name_check("alias", alias, err);
    if (rc)
        return rc;
    if (looks_like_version(alias))
        return ds_fail(err, DS_EINVAL, "alias '%s' looks like a version; choose another", alias);
    return 0;
}

/* name -> name-3f2a91c4 */
static void add_digest(const char *path, size_t n, char out[DS_NAME_SIZE]) {
    enum { DIGITS = 8 };
    char hex[DS_HEX_SIZE];
    size_t at = strlen(out), most = DS_NAME_SIZE - 1 - (DIGITS + 1);
    ds_digest(path, n, hex);
    at = at < most ? at : most;
    while (at > 1 && out[at - 1] == '-')
        at--;
    out[at++] = '-';
    memcpy(out + at, hex, DIGITS);
    out[at + DIGITS] = 0;
}

void ds_name_from_path(const char *path, char out[DS_NAME_SIZE]) {
    size_t end = strlen(path), n = 0;
    while (end > 0 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    int lost = end - start > DS_NAME_SIZE - 1;
    for (size_t i = start; i < end && n < DS_NAME_SIZE - 1; i++) {
        char c = strchr(ALLOWED, path[i]) ? path[i] : '-';
        lost |= (unsigned char)path[i] >= 0x80;
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
    if (lost)
        add_digest(path, end, out);
}
