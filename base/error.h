/* base/error.h - error values: one list of codes, and a message made where the facts are.
 *
 * Functions return 0 or a negative code and fill a ds_error (which may be NULL).  A message names
 * the thing, the cause and the way out, in git's grammar: no capital, no full stop, "cannot open
 * 'x': ...". A broken invariant is not an error value: DS_ASSERT aborts, in every build.
 */
#ifndef DS_BASE_ERROR_H
#define DS_BASE_ERROR_H

/*       code            value  http  dsctl exit  title */
#define DS_ERROR_MAP(X)                                                                            \
    X(DS_EFAILED, -1, 500, 1, "operation failed")                                                  \
    X(DS_EINVAL, -2, 400, 2, "invalid argument")                                                   \
    X(DS_ENOTFOUND, -3, 404, 3, "not found")                                                       \
    X(DS_ECONFLICT, -4, 409, 4, "conflict")                                                        \
    X(DS_EUNREACHABLE, -5, 502, 5, "daemon not reachable")                                         \
    X(DS_EPERM, -6, 403, 6, "permission denied")                                                   \
    X(DS_ETIMEOUT, -7, 504, 7, "timed out")                                                        \
    X(DS_EREFUSED, -8, 422, 8, "refused by the gate")                                              \
    X(DS_EINTEGRITY, -9, 500, 9, "stored data is damaged")                                         \
    X(DS_ENEWER, -10, 500, 10, "registry or file newer than program")                              \
    X(DS_ELIMIT, -11, 413, 1, "limit exceeded")                                                    \
    X(DS_EBUSY, -12, 503, 75, "try again")                                                         \
    X(DS_ENOMEM, -13, 507, 1, "not enough memory")                                                 \
    X(DS_EIO, -14, 500, 1, "input or output failed")                                               \
    X(DS_ENOSPC, -15, 507, 75, "no space left")                                                    \
    X(DS_ECANCELED, -16, 409, 130, "cancelled")

enum ds_error_code {
#define X(code, value, http, exit_code, title) code = value,
    DS_ERROR_MAP(X)
#undef X
};

typedef struct {
    int code;
    char message[512];
} ds_error;

/* Fill err (if not NULL) and return code.  Use: return ds_fail(err, DS_ENOTFOUND, "..."). */
int ds_fail(ds_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same with ": strerror(errno)" at the end; ENOSPC, EDQUOT, EACCES, EPERM and ENOENT choose
 * their own codes, all else DS_EIO. */
int ds_fail_errno(ds_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put "prefix: " before the message that is already there; returns err->code. */
int ds_error_prefix(ds_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

const char *ds_error_name(int code);  /* "DS_ENOTFOUND"; "DS_OK" for 0 */
const char *ds_error_title(int code); /* "not found" */
int ds_error_http(int code);
int ds_error_exit(int code);
int ds_error_from_exit(int exit_code); /* inverse of ds_error_exit (first match) */

void ds_assert_fail(const char *expr, const char *file, int line) __attribute__((noreturn));
#define DS_ASSERT(x) ((x) ? (void)0 : ds_assert_fail(#x, __FILE__, __LINE__))

#endif
