/* cli/commands/cmd_pull.c - pull-adapter: a verified file or none at all.
 *
 * The reference is resolved once and the file is asked for by the adapter's own version, so an
 * alias that moves meanwhile cannot mix two adapters.  The bytes are read back from the file and
 * must hash to the adapter's digest (of the uncompressed content) before the file gets its name;
 * the file itself to its stored digest, because some bits of a zstd frame do not change its
 * content.
 */
#include "base/digest.h"
#include "base/fs.h"
#include "base/mem.h"
#include "base/zio.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

/* Hashes the file `in` and the unpacked content of its one frame, written to `out` if not NULL. */
static int unpack(FILE *in, FILE *out, int64_t limit, char packed[DS_HEX_SIZE],
                  char hex[DS_HEX_SIZE], ds_error *err) {
    enum { STEP = 1 << 17 };
    ZSTD_DCtx *d = ZSTD_createDCtx();
    ds_sha256 *h = ds_sha256_new(), *whole = ds_sha256_new();
    char *a = ds_xmalloc(STEP), *b = ds_xmalloc(STEP);
    size_t n, left = 1;
    int64_t total = 0;
    int rc = 0, ended = 0;
    ds_need(d);
    ZSTD_DCtx_setParameter(d, ZSTD_d_windowLogMax, DS_ZIO_WINDOW_LOG);
    while (!rc && (n = fread(a, 1, STEP, in)) > 0) {
        ZSTD_inBuffer src = {a, n, 0};
        ds_sha256_add(whole, a, n);
        while (!rc && src.pos < src.size) {
            ZSTD_outBuffer dst = {b, STEP, 0};
            if (ended) {
                rc = ds_fail(err, DS_EINTEGRITY, "there are bytes after the zstd frame");
                break;
            }
            left = ZSTD_decompressStream(d, &dst, &src);
            ended = left == 0;
            total += (int64_t)dst.pos;
            if (ZSTD_isError(left))
                rc = ds_fail(err, DS_EINTEGRITY, "%s", ZSTD_getErrorName(left));
            else if (total > limit)
                rc = ds_fail(err, DS_EINTEGRITY, "it unpacks to more than the %lld bytes it should",
                             (long long)limit);
            ds_sha256_add(h, b, dst.pos);
            if (!rc && out && fwrite(b, 1, dst.pos, out) != dst.pos)
                rc = ds_fail_errno(err, "cannot write the file");
        }
    }
    if (!rc && (ferror(in) || !ended))
        rc = ds_fail(err, DS_EINTEGRITY, "it ends early");
    ds_sha256_hex(h, hex);
    ds_sha256_hex(whole, packed);
    ds_sha256_free(h);
    ds_sha256_free(whole);
    ZSTD_freeDCtx(d);
    free(a);
    free(b);
    return rc;
}

/* A temporary file beside `target`, or an anonymous one when target is "-". */
static int open_temporary(const char *target, char path[PATH_MAX], FILE **f, ds_error *err) {
    path[0] = 0;
    if (!strcmp(target, "-")) {
        *f = tmpfile();
        return *f ? 0 : ds_fail_errno(err, "cannot make a temporary file");
    }
    if (snprintf(path, PATH_MAX, "%s.part-XXXXXX", target) >= PATH_MAX)
        return ds_fail(err, DS_EINVAL, "the path of the file is too long");
    int fd = mkstemp(path);
    if (fd < 0) {
        path[0] = 0;
        return ds_fail_errno(err, "cannot write '%s'", target);
    }
    mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask);
    *f = ds_need(fdopen(fd, "w+"));
    return 0;
}

static int copy_out(ds_cli *c, FILE *f, ds_error *err) {
    char part[65536];
    size_t n;
    rewind(f);
    while ((n = fread(part, 1, sizeof part, f)) > 0)
        if (fwrite(part, 1, n, c->out) != n)
            return ds_fail(err, DS_EIO, "cannot write to standard output: %s", strerror(errno));
    return 0;
}

static int commit(ds_cli *c, FILE *f, const char *temporary, const char *target, ds_error *err) {
    if (!*temporary)
        return copy_out(c, f, err);
    if (fflush(f) || fsync(fileno(f)))
        return ds_fail_errno(err, "cannot write '%s'", target);
    return ds_fs_output_rename(temporary, target, ds_opt_given(c, "force"), err);
}

static int verify(FILE *f, FILE *raw, const json_t *a, const char *header, ds_error *err) {
    const char *want = ds_json_string(a, "digest", ""),
               *stored = ds_json_string(a, "stored_digest", NULL);
    char got[DS_HEX_SIZE], packed[DS_HEX_SIZE];
    int64_t size = ds_json_int(a, "raw_bytes", -1);
    if (!ds_digest_valid(want))
        return ds_fail(err, DS_EFAILED, "diffscalerd gave no digest for it");
    if (*header && strcmp(header, want))
        return ds_fail(err, DS_EINTEGRITY,
                       "another file was sent: sha256:%.12s... for sha256:%.12s...", header, want);
    if (fflush(f))
        return ds_fail_errno(err, "cannot write the file");
    rewind(f);
    int rc = unpack(f, raw, size >= 0 ? size : INT64_C(1) << 40, packed, got, err);
    if (!rc && strcmp(got, want))
        rc = ds_fail(err, DS_EINTEGRITY, "its content is sha256:%.12s..., not sha256:%.12s...", got,
                     want);
    if (!rc && stored && strcmp(packed, stored))
        rc = ds_fail(err, DS_EINTEGRITY, "its file is sha256:%.12s..., not sha256:%.12s...", packed,
                     stored);
    return rc;
}

static void on_progress(void *ud, int64_t done, int64_t total) {
    ds_progress *p = ud;
    if (total < (1 << 20)) /* not worth a line */
        return;
    json_t *o = json_object();
    json_object_set_new(o, "done", json_integer(done >> 10));
    json_object_set_new(o, "total", json_integer(total >> 10));
    json_object_set_new(o, "unit", json_string("kB"));
    ds_progress_update(p, "download", o);
    json_decref(o);
}

static int fetch(ds_cli *c, const json_t *a, FILE *f, FILE *raw, ds_error *err) {
    ds_buf path = {0};
    char header[65] = "";
    ds_progress p;
    ds_progress_start(&p, c);
    ds_buf_addf(&path, "/v1/adapters/");
    ds_url_segment(&path, ds_json_string(a, "ref", c->args[0]));
    ds_buf_addf(&path, "/file");
    int rc = ds_client_download(c->http, path.data, f, header, on_progress, &p, err);
    ds_progress_clear(&p);
    ds_buf_release(&path);
    return rc ? rc : verify(f, raw, a, header, err);
}

int ds_pull_into(ds_cli *c, const json_t *a, FILE *f, ds_error *err) {
    int rc = fetch(c, a, f, NULL, err);
    return rc ? ds_error_prefix(err, "cannot pull '%s'", ds_json_string(a, "ref", c->args[0])) : 0;
}

static void default_target(const ds_cli *c, const json_t *a, char out[PATH_MAX]) {
    const char *given = ds_opt_text(c, "output", NULL);
    snprintf(out, PATH_MAX, "%s", given ? given : "");
    if (given)
        return;
    snprintf(out, PATH_MAX, "%s-v%lld.safetensors%s", ds_json_string(a, "name", "adapter"),
             (long long)ds_json_int(a, "version", 0), ds_opt_given(c, "raw") ? "" : ".zst");
    for (char *p = out; *p; p++) /* a name is not a path */
        if (*p == '/')
            *p = '_';
}

static int pull(ds_cli *c, const json_t *a, const char *target, ds_error *err) {
    char packed_path[PATH_MAX], raw_path[PATH_MAX] = "";
    FILE *packed = NULL, *raw = NULL;
    int want_raw = ds_opt_given(c, "raw");
    int rc = open_temporary(target, packed_path, &packed, err);
    if (!rc && want_raw)
        rc = open_temporary(target, raw_path, &raw, err);
    if (!rc && (rc = fetch(c, a, packed, raw, err)))
        ds_error_prefix(err, "cannot pull '%s'", ds_json_string(a, "ref", c->args[0]));
    if (!rc)
        rc = commit(c, want_raw ? raw : packed, want_raw ? raw_path : packed_path, target, err);
    if (packed)
        fclose(packed);
    if (raw)
        fclose(raw);
    if (*packed_path)
        unlink(packed_path); /* gone already when it was renamed */
    if (*raw_path)
        unlink(raw_path);
    return rc;
}

/* Can the file be written where it is to go?  Asked before anything is fetched. */
static int check_target(const ds_cli *c, const char *target, ds_error *err) {
    if (strcmp(target, "-"))
        return ds_fs_output_check(target, ds_opt_given(c, "force"), err);
    return c->json ? ds_fail(err, DS_EINVAL,
                             "-o - writes the adapter to standard output, where --json cannot go "
                             "as well: give -o FILE")
                   : 0;
}

int ds_cmd_pull_adapter(ds_cli *c, ds_error *err) {
    ds_buf path = {0};
    json_t *a = NULL;
    const char *given = ds_opt_text(c, "output", NULL);
    if (given && check_target(c, given, err))
        return err->code;
    ds_buf_addf(&path, "/v1/adapters/");
    ds_url_segment(&path, c->args[0]);
    int rc = ds_client_call(c->http, "GET", path.data, NULL, &a, err);
    ds_buf_release(&path);
    if (rc) {
        ds_suggest_name(c, c->args[0], 1, err);
        return rc;
    }
    char target[PATH_MAX], size[DS_TEXT];
    default_target(c, a, target);
    rc = given ? 0 : check_target(c, target, err);
    if (!rc)
        rc = pull(c, a, target, err);
    if (!rc && strcmp(target, "-")) {
        if (c->json) {
            json_object_set_new(a, "file", json_string(target));
            ds_print_json(c, "adapter", a, 0);
        } else if (c->quiet) {
            fprintf(c->out, "%s\n", target);
        } else {
            ds_say(c, "%s: %s written to %s, digest verified", ds_json_string(a, "ref", c->args[0]),
                   ds_fmt_bytes(size,
                                ds_json_number(
                                    a, ds_opt_given(c, "raw") ? "raw_bytes" : "stored_bytes", -1)),
                   target);
        }
    }
    json_decref(a);
    return rc;
}
