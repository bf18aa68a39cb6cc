/* tests/cli/test_cli_export.c - dsctl export: what the worker is given, what is said, how it fails. The
 * worker is a shell script that writes down its arguments. */
#include "base/digest.h"
#include "base/fs.h"
#include "base/zio.h"
#include "tests/fixtures/cli_fake.h"

#include <sys/stat.h>

static fake_server server;
static const char *dir;
static char *packed, adapter_json[1024];
static size_t packed_size;

/* Prints arguments and the adapter's first byte count into DIR/args, then `tail` runs. */
static void make_worker(const char *tail) {
    char *path = ds_xasprintf("%s/worker", dir),
         *text =
             ds_xasprintf("#!/bin/sh\nfor a; do echo \"$a\"; done > '%s/args'\n"
                          "while [ $# -gt 0 ]; do [ \"$1\" = --adapter ] && cp \"$2\" '%s/seen';"
                          " shift; done\n%s\n",
                          dir, dir, tail);
    ck_assert_int_eq(ds_fs_write(path, text, strlen(text), NULL), 0);
    ck_assert_int_eq(chmod(path, 0700), 0);
    ck_assert_int_eq(setenv("DIFFSCALER_WORKER", path, 1), 0);
    free(path);
    free(text);
}

static void make_adapter(void) {
    char raw[DS_HEX_SIZE], whole[DS_HEX_SIZE];
    ds_digest("adapter bytes", 13, raw);
    ck_assert_int_eq(ds_zio_compress("adapter bytes", 13, 3, &packed, &packed_size, NULL), 0);
    ds_digest(packed, packed_size, whole);
    snprintf(adapter_json, sizeof adapter_json,
             "{\"ref\":\"birds@v2\",\"name\":\"birds\",\"version\":2,\"digest\":\"%s\","
             "\"stored_digest\":\"%s\",\"raw_bytes\":13,\"stored_bytes\":%zu,"
             "\"base\":{\"name\":\"dit\",\"sha256\":\"%064d\"}}",
             raw, whole, packed_size, 7);
}

static const char base_json[] =
    "{\"name\":\"dit\",\"path\":\"/models/dit.safetensors\",\"license\":\"cc-by-nc-4.0\","
    "\"vae\":{\"path\":\"/models/vae.safetensors\",\"sha256\":\"x\"}}";

static void start(const char *tail) {
    static char base_route[160], digest[120];
    dir = ds_test_tmpdir();
    make_worker(tail);
    make_adapter();
    snprintf(base_route, sizeof base_route, "GET /v1/bases/sha256:%064d", 7);
    snprintf(digest, sizeof digest, "X-Diffscaler-Digest: sha256:%.64s\r\n",
             strstr(adapter_json, "\"digest\":\"") + 10);
    const fake_route routes[] = {{.request = "GET /v1/adapters/birds", .body = adapter_json},
                                 {.request = "GET /v1/adapters/birds@v2/file",
                                  .body = packed,
                                  .length = packed_size,
                                  .headers = digest},
                                 {.request = base_route, .body = base_json},
                                 {.request = "GET /v1/bases/default", .body = base_json},
                                 {0}};
    fake_start(&server, routes);
}

static char *slurp(const char *name) {
    char *path = ds_xasprintf("%s/%s", dir, name), *text;
    size_t n;
    ck_assert_int_eq(ds_fs_read(path, 1 << 20, &text, &n, NULL), 0);
    free(path);
    return text;
}

START_TEST(the_worker_gets_paths_and_the_adapter) {
    cli_result r;
    start("exit 0");
    ck_run(r, &server, 0, "export birds --format diffusers -o /tmp/x --dtype bf16");
    ck_has(r.err, "birds@v2 exported to /tmp/x");
    char *args = slurp("args"), *seen = slurp("seen");
    ck_has(args, "export\n--base\n/models/dit.safetensors\n--format\ndiffusers\n-o\n/tmp/x\n"
                 "--dtype\nbf16\n--adapter\n");
    ck_has(args, "--vae\n/models/vae.safetensors\n--license\ncc-by-nc-4.0\n");
    ck_assert(!memcmp(seen, packed, packed_size));
    free(args);
    free(seen);
    cli_free(&r);
    fake_stop(&server);
}
END_TEST

START_TEST(the_base_alone_needs_no_adapter) {
    cli_result r;
    start("exit 0");
    server.routes[3].body = "{\"name\":\"d/t\",\"path\":\"/m/d\",\"license\":null,\"vae\":null}";
    ck_run(r, &server, 0, "export base --format diffusers -q");
    ck_assert_str_eq(r.out, "d_t-diffusers\n");
    cli_free(&r);
    char *bare = slurp("args");
    ck_has_not(bare, "--license");
    ck_has_not(bare, "--vae");
    free(bare);
    server.routes[3].body = base_json;
    ck_run(r, &server, 0, "export base --format dit --no-pt");
    ck_has(r.err, "the base exported to dit-dit");
    char *args = slurp("args");
    ck_has_not(args, "--adapter");
    ck_has(args, "--no-pt");
    free(args);
    cli_free(&r);
    fake_stop(&server);
}
END_TEST

START_TEST(warnings_and_errors_come_through) {
    cli_result r;
    start("echo 'warning: not the same' >&2; exit 0");
    ck_run(r, &server, 0, "export birds --format dit --json");
    json_t *doc = cli_json(&r, "dsctl.v1/export");
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(doc, "warnings"), 0)),
                     "not the same");
    ck_assert_str_eq(ds_json_string(doc, "dir", ""), "birds-v2-dit");
    json_decref(doc);
    cli_free(&r);
    make_worker("echo 'error: a relu cannot be folded' >&2; exit 2");
    ck_run(r, &server, 2, "export birds --format dit");
    ck_has(r.err, "cannot export 'birds': a relu cannot be folded");
    cli_free(&r);
    make_worker("echo 'error: adapter x has schema 3' >&2; exit 10");
    ck_run(r, &server, 10, "export birds --format dit");
    ck_has(r.err, "adapter x has schema 3");
    cli_free(&r);
    make_worker("kill -9 $$");
    ck_run(r, &server, 1, "export birds --format dit");
    ck_has(r.err, "the worker was killed");
    cli_free(&r);
    ck_run(r, &server, 3, "export nothing --format dit");
    cli_free(&r);
    ck_run(r, &server, 2, "export birds");
    ck_has(r.err, "--format");
    cli_free(&r);
    ck_run(r, &server, 2, "export birds --format onnx");
    cli_free(&r);
    fake_stop(&server);
}
END_TEST

/* Flags reach the worker; words without a mark count where there is no error line; no copy of the
 * adapter is left. */
START_TEST(what_is_passed_on_and_left) {
    cli_result r;
    start("echo some words; echo last words; exit 3");
    char *place = ds_xasprintf("%s/tmp", dir);
    ck_assert_int_eq(mkdir(place, 0700), 0);
    setenv("TMPDIR", place, 1);
    ck_run(r, &server, 3, "export birds --format dit");
    ck_has(r.err, "cannot export 'birds': last words\n");
    cli_free(&r);
    make_worker("exit 0");
    ck_run(r, &server, 0, "export birds --format safetensors --merge --force -q");
    char *args = slurp("args");
    ck_has(args, "\n--merge\n--force\n");
    free(args);
    cli_free(&r);
    ck_run(r, &server, 0, "export birds --format safetensors -q");
    args = slurp("args");
    ck_has_not(args, "--merge");
    ck_has_not(args, "--force");
    free(args);
    cli_free(&r);
    ck_assert_int_eq(rmdir(place), 0); /* it is empty */
    ck_run(r, &server, 3, "export birds --format dit");
    ck_has(r.err, "cannot make a temporary file in '");
    ck_has(r.err, "/tmp': No such file or directory");
    cli_free(&r);
    setenv("TMPDIR", "", 1);
    ck_run(r, &server, 0, "export birds --format dit -q");
    args = slurp("args");
    ck_has(args, "\n--adapter\n/tmp/dsctl-export-");
    free(args);
    cli_free(&r);
    unsetenv("DIFFSCALER_WORKER");
    setenv("PATH", "/nonexistent", 1);
    ck_run(r, &server, 3, "export birds --format dit");
    ck_has(r.err, "cannot find the program 'diffscaler-worker'");
    cli_free(&r);
    free(place);
    fake_stop(&server);
}
END_TEST

START_TEST(a_damaged_adapter_reaches_no_worker) {
    cli_result r;
    start("exit 0");
    packed[packed_size - 6] ^= 1;
    ck_run(r, &server, 9, "export birds --format dit");
    char *args = ds_xasprintf("%s/args", dir);
    ck_assert_int_eq(ds_fs_exists(args), 0);
    free(args);
    cli_free(&r);
    fake_stop(&server);
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, a_damaged_adapter_reaches_no_worker); /* first: nobody has left args yet */
    tcase_add_test(tc, the_worker_gets_paths_and_the_adapter);
    tcase_add_test(tc, what_is_passed_on_and_left);
    tcase_add_test(tc, the_base_alone_needs_no_adapter);
    tcase_add_test(tc, warnings_and_errors_come_through);
}

int main(void) { return ds_test_main("cli_export", register_cases); }
