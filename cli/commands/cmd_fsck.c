/* cli/commands/cmd_fsck.c - fsck, by the daemon where one runs, else by `diffscalerd --fsck`, which
 * looks at the folder itself: a registry that is damaged keeps the daemon from starting. */
#include "base/json.h"
#include "base/mem.h"
#include "cli/client.h"
#include "cli/format.h"
#include "cli/commands/fsck.h"
#include "cli/start.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define WITHIN (12 * 3600.0)

static int offline(ds_cli *c, const char *how, json_t **out, ds_error *err) {
    char program[PATH_MAX], *text = NULL;
    int status = 0, rc = ds_find_program("diffscalerd", program, NULL);
    if (rc) /* what the daemon's absence was said with is the better message */
        return err->code;
    char *argv[] = {program, "--state", c->state, "--fsck", (char *)(uintptr_t)how, NULL};
    rc = ds_run_program(argv, WITHIN, &text, &status, err);
    int code = !rc && WIFEXITED(status) ? WEXITSTATUS(status) : 1;
    if (!rc && ds_json_parse("fsck", text, strlen(text), out, NULL)) {
        text[strcspn(text, "\n")] = 0;
        code = ds_error_from_exit(code);
        rc = ds_fail(err, code ? code : DS_EFAILED, "cannot check the state folder: %.400s",
                     *text ? text : "diffscalerd was killed");
    }
    free(text);
    return rc;
}

int ds_fsck_ask(ds_cli *c, int quick, int repair, json_t **out, ds_error *err) {
    json_t *body = json_pack("{sb sb}", "quick", quick, "repair", repair);
    int rc = ds_client_call(c->http, "POST", "/v1/fsck", body, out, err);
    json_decref(body);
    if (rc == DS_EUNREACHABLE)
        rc = offline(c, repair ? "repair" : quick ? "quick" : "full", out, err);
    const char *why = rc ? NULL : ds_json_string(*out, "error", NULL);
    if (why) {
        rc = ds_fail(err, DS_EFAILED, "cannot check the state folder: %.400s", why);
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

static void print(ds_cli *c, const json_t *f) {
    const char *repaired = ds_json_string(f, "repaired", NULL);
    int damage = ds_json_bool(f, "damage", 0);
    const char *word = repaired ? "mended" : damage ? "damage" : "note";
    ds_style style = ds_style_of_state(repaired ? "ok" : damage ? "fail" : "note");
    fprintf(c->out, "%s%-6s%s  ", ds_style_on(c, style), word, ds_style_off(c, style));
    ds_put_clean(c, c->out, ds_json_string(f, "thing", "?"));
    fprintf(c->out, ": ");
    ds_put_clean(c, c->out, ds_json_string(f, "cause", "?"));
    fprintf(c->out, "\n        ");
    ds_put_clean(c, c->out, repaired ? repaired : ds_json_string(f, "way_out", ""));
    fputc('\n', c->out);
}

int ds_cmd_fsck(ds_cli *c, ds_error *err) {
    json_t *doc = NULL, *f;
    size_t i;
    char blobs[DS_TEXT], bytes[DS_TEXT];
    int quick = ds_opt_given(c, "quick"), repair = ds_opt_given(c, "repair");
    if (quick && repair)
        return ds_fail(err, DS_EINVAL,
                       "--quick reads no file, so it cannot be with --repair: leave one out");
    int rc = ds_fsck_ask(c, quick, repair, &doc, err);
    if (rc)
        return rc;
    const json_t *seen = json_object_get(doc, "checked");
    int64_t damage = ds_json_int(doc, "damage", 0), more = ds_json_int(doc, "more", 0);
    if (c->json)
        ds_print_json(c, "fsck", doc, 0);
    else {
        json_array_foreach(json_object_get(doc, "findings"), i, f) {
            if (!c->quiet)
                print(c, f);
            else if (ds_json_bool(f, "damage", 0) && !ds_json_string(f, "repaired", NULL)) {
                ds_put_clean(c, c->out, ds_json_string(f, "thing", "?"));
                fputc('\n', c->out);
            }
        }
        if (more)
            ds_say(c, "and %lld findings more", (long long)more);
        ds_say(c, "%s blobs (%s), %lld models, %lld job folders, %lld caches looked at%s",
               ds_fmt_count(blobs, ds_json_int(seen, "blobs", 0)),
               ds_fmt_bytes(bytes, ds_json_number(seen, "bytes", 0)),
               (long long)ds_json_int(seen, "models", 0),
               (long long)ds_json_int(seen, "folders", 0),
               (long long)ds_json_int(seen, "caches", 0),
               damage  ? ""
               : quick ? "; no damage that shows without reading the files"
                       : "; no damage");
    }
    json_decref(doc);
    return damage ? ds_fail(err, DS_EINTEGRITY, "%lld finding%s of damage%s", (long long)damage,
                            damage == 1 ? "" : "s",
                            repair ? " could not be mended" : "; --repair does what loses nothing")
                  : 0;
}
