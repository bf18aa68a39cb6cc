/* tests/cli/test_cli_evaluate.c - dsctl evaluate: what names become, what the worker is given, and that
 * paths alone need no daemon.  The worker is a shell script that prints its arguments. */
#include "base/fs.h"
#include "tests/fixtures/cli_fake.h"

#include <sys/stat.h>

static const char *dir;

static void make_worker(const char *tail) {
    dir = ds_test_tmpdir();
    char *path = ds_xasprintf("%s/worker", dir);
    char *text = ds_xasprintf("#!/bin/sh\necho \"$*\"\n%s\n", tail);
    ck_assert_int_eq(ds_fs_write(path, text, strlen(text), NULL), 0);
    ck_assert_int_eq(chmod(path, 0700), 0);
    ck_assert_int_eq(setenv("DIFFSCALER_WORKER", path, 1), 0);
    free(path);
    free(text);
}

#define NETS                                                                                       \
    "{\"items\":[{\"name\":\"trunk\",\"kind\":\"\",\"path\":\"/s/t.zst\"},"                        \
    "{\"name\":\"fid\",\"kind\":\"inception-fid\",\"path\":\"/s/new.safetensors\"},"               \
    "{\"name\":\"old\",\"kind\":\"inception-fid\",\"path\":\"/s/old.safetensors\"}],"              \
    "\"next\":null}"

static const fake_route routes[] = {
    {.request = "GET /v1/feature_nets?limit=1000", .body = NETS},
    {.request = "GET /v1/feature_nets/old", .body = "{\"path\":\"/s/old.safetensors\"}"},
    {.request = "GET /v1/feature_nets/sha256:ab", .body = "{\"path\":\"/s/of-digest\"}"},
    {.request = "GET /v1/datasets/birds", .body = "{\"path\":\"/data/birds\"}"},
    {.request = NULL}};

static void expect(fake_server *s, int code, const char *line, const char *says) {
    cli_result r = cli_line(s ? s->socket : "/nonexistent/socket", line);
    ck_assert_msg(r.exit == code, "%s: exit %d: %s%s", line, r.exit, r.out, r.err);
    ck_assert_msg(strstr(code ? r.err : r.out, says) != NULL, "%s: %s%s", line, r.out, r.err);
    cli_free(&r);
}

START_TEST(names_become_paths) {
    fake_server s;
    make_worker("");
    fake_start(&s, routes);
    expect(&s, 0, "evaluate pics --against birds",
           "evaluate --against /data/birds --feature-net /s/new.safetensors -- pics\n");
    expect(&s, 0, "evaluate pics --against birds --mode bundled --json",
           "evaluate --against /data/birds --mode bundled --json -- pics\n");
    expect(&s, 0, "evaluate pics --against birds --feature-net old --mode clean -n 50 --seed 3",
           "--feature-net /s/old.safetensors --mode clean --n 50 --seed 3 -- pics\n");
    expect(&s, 0, "evaluate pics --against birds --feature-net old:clean",
           "--feature-net /s/old.safetensors --mode clean -- pics\n");
    expect(&s, 0, "evaluate pics --against birds --feature-net bundled",
           "evaluate --against /data/birds -- pics\n");
    expect(&s, 0, "evaluate pics --save-stats out.npz --metrics fid,sfid --threads 2 -q",
           "evaluate --feature-net /s/new.safetensors --metrics fid,sfid --save-stats out.npz "
           "--threads 2 --quiet -- pics\n");
    expect(&s, 0, "evaluate pics --against birds --device cuda:1 --precision tf32",
           "--device cuda:1 --precision tf32 -- pics\n");
    expect(&s, 0, "evaluate pics.npz --against birds --recursive --skip-broken --force --json",
           "evaluate --against /data/birds --feature-net /s/new.safetensors --recursive "
           "--skip-broken --force --json -- pics.npz\n");
    expect(&s, 0, "evaluate --against birds --mode bundled -- -pics", " -- -pics\n");
    expect(&s, 2, "evaluate pics --against birds --feature-net old:clean --mode pytorch-fid",
           "--feature-net old:clean and --mode pytorch-fid contradict each other");
    expect(&s, 0, "evaluate pics --against birds --feature-net ./none.pth",
           "--feature-net ./none.pth -- pics\n"); /* a path, whether it is there or not */
    expect(&s, 0, "evaluate pics --against birds --feature-net sha256:ab:clean",
           "--feature-net /s/of-digest --mode clean -- pics\n");
    expect(&s, 0, "evaluate pics --against birds --feature-net old:clean --mode clean",
           "--feature-net /s/old.safetensors --mode clean -- pics\n");
    char line[500], want[500]; /* statistics that were made with the bundled network */
    snprintf(want, sizeof want, "%s/stats.zst", dir);
    ck_assert_int_eq(ds_fs_write(want, "", 0, NULL), 0);
    snprintf(line, sizeof line, "evaluate pics --against %s/stats.zst", dir);
    snprintf(want, sizeof want, "evaluate --against %s/stats.zst -- pics\n", dir);
    expect(&s, 0, line, want);
    s.routes[0].status = 500;
    s.routes[0].body = "{\"detail\":\"it broke\",\"exit\":1}";
    expect(&s, 1, "evaluate pics --against birds", "it broke");
    s.routes[0].body = "{\"detail\":\"not yours\",\"exit\":6}"; /* then the bundled one will do */
    expect(&s, 0, "evaluate pics --against birds", "evaluate --against /data/birds -- pics\n");
    s.routes[0] = routes[0];
    expect(&s, 3, "evaluate pics --against cats", "no dataset has that name");
    expect(&s, 3, "evaluate pics --against ./cats", "cannot find './cats'");
    expect(&s, 3, "evaluate pics --against cats.npz", "cannot find 'cats.npz'");
    expect(&s, 2, "evaluate pics", "against what?");
    expect(&s, 2, "evaluate pics --against birds --mode fast", "--mode");
    fake_stop(&s);
}
END_TEST

/* The default network comes before the newest, with its mode unless another one is asked for. */
START_TEST(the_default_network_is_used) {
    static const fake_route chosen[] = {
        {.request = "GET /v1/default-feature-net",
         .body = "{\"name\":\"old\",\"path\":\"/s/old.safetensors\",\"mode\":\"torch-fidelity\","
                 "\"bundled\":false}"},
        {.request = "GET /v1/feature_nets?limit=1000", .body = NETS},
        {.request = "GET /v1/datasets/birds", .body = "{\"path\":\"/data/birds\"}"},
        {.request = NULL}};
    fake_server s;
    make_worker("");
    fake_start(&s, chosen);
    expect(&s, 0, "evaluate pics --against birds",
           "--feature-net /s/old.safetensors --mode torch-fidelity -- pics\n");
    expect(&s, 0, "evaluate pics --against birds --mode clean",
           "--feature-net /s/old.safetensors --mode clean -- pics\n");
    fake_stop(&s);
}
END_TEST

START_TEST(paths_need_no_daemon) {
    char line[600], want[600];
    make_worker("");
    snprintf(line, sizeof line, "evaluate pics --against %s", dir);
    snprintf(want, sizeof want, "evaluate --against %s -- pics\n", dir);
    expect(NULL, 0, line, want);
    expect(NULL, 5, "evaluate pics --against birds", "start it with: diffscalerd");
    expect(NULL, 5, "evaluate pics --against birds", "'birds' is no file or folder here");
    snprintf(line, sizeof line, "evaluate pics --against %s --feature-net nwt.pth:clean", dir);
    expect(NULL, 5, line, "'nwt.pth' is no file or folder here");
}
END_TEST

START_TEST(the_workers_exit_is_ours) {
    char line[600];
    make_worker("exit 0");
    unsetenv("DIFFSCALER_WORKER");
    setenv("PATH", "/nonexistent", 1);
    snprintf(line, sizeof line, "evaluate pics --against %s", dir);
    expect(NULL, 3, line, "cannot find the program 'diffscaler-worker'");
    make_worker("exit 9");
    snprintf(line, sizeof line, "evaluate pics --against %s", dir);
    expect(NULL, 9, line, "evaluation failed");
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, names_become_paths);
    tcase_add_test(tc, the_default_network_is_used);
    tcase_add_test(tc, paths_need_no_daemon);
    tcase_add_test(tc, the_workers_exit_is_ours);
}

int main(void) { return ds_test_main("cli_evaluate", register_cases); }
