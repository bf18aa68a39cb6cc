/* base/error.c - the list of errors as tables, and formatting of messages. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int code, http, exit_code;
    const char *name, *title;
} errors[] = {
#define X(code, value, http, exit_code, title) {code, http, exit_code, #code, title},
    DS_ERROR_MAP(X)
#undef X
};
enum { ERROR_COUNT = sizeof errors / sizeof errors[0] };

static int find(int code) {
    for (int i = 0; i < ERROR_COUNT; i++)
        if (errors[i].code == code)
            return i;
    return 0;
}

const char *ds_error_name(int code) { return code == 0 ? "DS_OK" : errors[find(code)].name; }
const char *ds_error_title(int code) { return code == 0 ? "ok" : errors[find(code)].title; }
int ds_error_http(int code) { return code == 0 ? 200 : errors[find(code)].http; }
int ds_error_exit(int code) { return code == 0 ? 0 : errors[find(code)].exit_code; }

int ds_error_from_exit(int exit_code) {
    if (exit_code == 0)
        return 0;
    for (int i = 0; i < ERROR_COUNT; i++)
        if (errors[i].exit_code == exit_code)
            return errors[i].code;
    return DS_EFAILED;
}

int ds_fail(ds_error *err, int code, const char *fmt, ...) {
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
    }
    return code;
}

static int code_of_errno(int e) {
    switch (e) {
    case ENOENT:
    case ENOTDIR: return DS_ENOTFOUND;
    case EACCES:
    case EPERM:
    case EROFS: return DS_EPERM;
    case ENOSPC:
    case EDQUOT: return DS_ENOSPC;
    case ENOMEM: return DS_ENOMEM;
    case EEXIST: return DS_ECONFLICT;
    default: return DS_EIO;
    }
}

int ds_fail_errno(ds_error *err, const char *fmt, ...) {
    int saved = errno, code = code_of_errno(saved);
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        err->code = code;
        int n = vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
        if (n >= 0 && (size_t)n < sizeof err->message)
            snprintf(err->message + n, sizeof err->message - (size_t)n, ": %s", strerror(saved));
    }
    errno = saved;
    return code;
}

int ds_error_prefix(ds_error *err, const char *fmt, ...) {
    if (!err)
        return DS_EFAILED;
    char old[sizeof err->message];
    memcpy(old, err->message, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n + 3 < sizeof err->message)
        snprintf(err->message + n, sizeof err->message - (size_t)n, ": %.*s",
                 (int)sizeof err->message - n - 3, old);
    return err->code;
}

void ds_assert_fail(const char *expr, const char *file, int line) {
    fprintf(stderr, "BUG: %s:%d: %s\n", file, line, expr);
    abort();
}
