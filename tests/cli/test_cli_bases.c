/* tests/cli/test_cli_bases.c - commands about bases, feature networks and gc, against canned answers.
 */
#include "base/fs.h"
#include "tests/fixtures/cli_fake.h"

#include <sys/stat.h>

#define SHA "aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11aa11"
#define BASE(vae, missing)                                                                         \
    "{\"id\":2,\"name\":\"xl\",\"path\":\"/state/bases/x.safetensors\",\"sha256\":\"" SHA          \
    "\",\"config\":{\"side\":32,\"patch\":2,\"width\":1152,\"depth\":28,\"heads\":16,"             \
    "\"channels\":4,\"classes\":1000,\"pixel\":0},\"vae\":" vae                                    \
    ",\"latent\":true,\"predicts\":\"noise\",\"flow\":null,\"missing\":"                           \
    "[" missing "],\"feature_net\":{\"name\":\"inc\"},\"source\":\"/w/DiT-XL.pt\","                \
    "\"source_format\":\"facebook DiT\",\"source_sha256\":\"" SHA "\",\"license\":\"CC-BY-NC\","   \
    "\"parameters\":675129632,\"bytes\":2700000000,\"default\":true,\"removed\":false,"            \
    "\"datasets\":3,\"adapters\":4,\"created_at\":\"2001-02-03T04:05:06Z\"}"
#define REPORT                                                                                     \
    "{\"objective\":{\"prediction\":\"eps\",\"path\":\"ddpm\",\"how\":\"scheduler\",\"said\":"     \
    "\"scheduler_config.json says so\",\"not_measured\":null,\"measured\":{\"group\":\"photos\","  \
    "\"clear\":true,\"margin\":3.1,\"table\":[{\"prediction\":\"eps\",\"path\":\"ddpm\",\"time\":" \
    "\"t of 0..T-1\",\"loss\":0.041},{\"prediction\":\"noise-data\",\"path\":\"linear\",\"time\":" \
    "\"t, 1 is data\",\"loss\":0.127}]}},\"weights\":{\"taken\":\"ema.shadow\",\"how\":"           \
    "\"averaged "                                                                                  \
    "preferred\",\"others\":[{\"key\":\"model\",\"tensors\":9}]},\"fields\":[{\"file\":"           \
    "\"config.json\",\"field\":\"norm_eps\",\"value\":1e-5,\"use\":\"used\"},{\"file\":\"config."  \
    "json\","                                                                                      \
    "\"field\":\"dropout\",\"value\":0,\"use\":\"harmless\"}],\"assumed\":[{\"what\":"             \
    "\"scaling_factor\",\"value\":0.18215,\"why\":\"no config.json\"}],\"ignored\":[{\"tensors\":" \
    "\"n_averaged\",\"why\":\"no part of the model\"}],\"ignored_more\":7}"
#define XL BASE("{\"path\":\"/v\",\"sha256\":\"cafe\"}", "")
#define XL_WITHOUT BASE("null", "\"vae\"")
#define NET                                                                                        \
    "{\"id\":1,\"name\":\"fid\",\"path\":\"/n\",\"sha256\":\"" SHA                                 \
    "\",\"kind\":\"inception-fid\","                                                               \
    "\"license\":\"Apache-2.0\",\"bytes\":95000000,\"default\":true,\"mode\":\"clean\","           \
    "\"preprocessings\":[\"pytorch-fid\",\"torch-fidelity\",\"clean\"],\"datasets\":6,"            \
    "\"adapters\":7,"                                                                              \
    "\"created_at\":\"2001-02-03T04:05:06Z\"}"
#define JOB(kind, state, note)                                                                     \
    "{\"id\":5,\"kind\":\"import\",\"state\":\"" state "\",\"name\":\"xl\",\"attempts\":1,"        \
    "\"max_attempts\":3,\"error\":null,\"note\":" note ",\"result\":{\"what\":\"" kind             \
    "\",\"sha256\":\"" SHA "\"}}"
#define LIST(item) "{\"items\":[" item "],\"next\":null}"
#define GC                                                                                         \
    "{\"dry_run\":false,\"grace_seconds\":3600.0,\"blobs\":{\"removed\":2,\"bytes\":1000000,"      \
    "\"young\":1},\"caches\":{\"removed\":1,\"bytes\":500000,\"young\":0},\"models\":{\"removed\"" \
    ":0,\"bytes\":0,\"young\":0},\"importing\":false}"

static const fake_route reading[] = {
    {.request = "GET /v1/bases?limit=100", .body = LIST(XL)},
    {.request = "GET /v1/bases/xl", .body = XL},
    {.request = "GET /v1/bases/bare", .body = XL_WITHOUT},
    {.request = "GET /v1/bases/told", .body = "{\"name\":\"xl\",\"report\":" REPORT "}"},
    {.request = "GET /v1/default-base", .body = XL},
    {.request = "GET /v1/feature_nets?limit=100", .body = LIST(NET)},
    {.request = "POST /v1/gc", .body = GC},
    {.request = NULL}};

START_TEST(prune) {
    static const fake_route routes[] = {
        {.request = "POST /v1/prune",
         .body = "{\"dry_run\":true,\"jobs\":1200,\"events\":1,\"folders\":0,\"checkpoints\":2,"
                 "\"files\":0,\"bytes\":1500000,\"error\":null}",
         .times = 3},
        {.request = "POST /v1/prune",
         .body = "{\"dry_run\":false,\"bytes\":0,\"error\":null}",
         .times = 1},
        {.request = "POST /v1/prune", .body = "{\"dry_run\":false,\"error\":\"no space\"}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "prune --dry-run --jobs 48h");
    ck_has(s.log.data, "{\"dry_run\":true,\"jobs_seconds\":172800.0}");
    ck_assert_str_eq(r.out, "1,200 jobs\n1 event\n2 checkpoints of ended jobs\n");
    ck_has(r.err, "1.5 MB would be freed; without --dry-run they go");
    cli_free(&r);
    ck_run(r, &s, 0, "prune -n --json");
    json_decref(cli_json(&r, "dsctl.v1/prune"));
    cli_free(&r);
    ck_run(r, &s, 0, "prune -n -q");
    ck_assert_str_eq(r.out, "1500000\n");
    cli_free(&r);
    ck_run(r, &s, 0, "prune");
    ck_has(r.err, "nothing has had its time");
    cli_free(&r);
    ck_run(r, &s, 1, "prune");
    ck_has(r.err, "not all of it could go: no space");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

#define FSCK(damage, findings)                                                                     \
    "{\"quick\":false,\"repair\":false,\"damage\":" damage ",\"findings\":[" findings              \
    "],\"more\":0,\"checked\":{\"blobs\":3,\"bytes\":1000,\"models\":2,\"folders\":1,\"caches\":"  \
    "4}}"
START_TEST(fsck) {
    static const fake_route good[] = {{.request = "POST /v1/fsck", .body = FSCK("0", "")},
                                      {.request = NULL}};
    static const fake_route bad[] = {
        {.request = "POST /v1/fsck",
         .body = FSCK("1", "{\"thing\":\"blob aa of d@v1\",\"cause\":\"its file is missing\","
                           "\"way_out\":\"restore it\",\"damage\":true,\"repaired\":null},"
                           "{\"thing\":\"cache/x\",\"cause\":\"it is damaged\",\"way_out\":\"w\","
                           "\"damage\":false,\"repaired\":\"removed\"}")},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, good);
    ck_run(r, &s, 0, "fsck");
    ck_has(r.err, "3 blobs (1.0 kB), 2 models, 1 job folders, 4 caches looked at; no damage");
    cli_free(&r);
    ck_run(r, &s, 2, "fsck --quick --repair");
    cli_free(&r);
    fake_stop(&s);
    fake_start(&s, bad);
    ck_run(r, &s, 9, "fsck");
    ck_has(r.out, "damage  blob aa of d@v1: its file is missing\n        restore it");
    ck_has(r.out, "mended  cache/x: it is damaged\n        removed");
    ck_has(r.err, "1 finding of damage; --repair does what loses nothing");
    cli_free(&r);
    ck_run(r, &s, 9, "fsck --repair --json");
    ck_has(s.log.data, "{\"quick\":false,\"repair\":true}");
    json_decref(cli_json(&r, "dsctl.v1/fsck"));
    cli_free(&r);
    ck_run(r, &s, 9, "fsck -q");
    ck_assert_str_eq(r.out, "blob aa of d@v1\n");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

static const struct {
    const char *line, *shows[6], *quiet, *schema;
} readers[] = {
    {"list-bases",
     {"NAME", "xl    default  latent  noise     yes", "675,129,632", "2.7 GB", "aa11aa11aa11",
      "CC-BY-NC"},
     "xl\n",
     "dsctl.v1/bases"},
    {"show-base xl",
     {"xl (default)", "sha256:" SHA, "width 1152, depth 28, 16 heads, patches of 2 on 32x32x4",
      "sha256:cafe", "3 datasets, 4 adapters", "/w/DiT-XL.pt"},
     "xl\n",
     "dsctl.v1/base"},
    {"show-base", {"xl (default)"}, "xl\n", "dsctl.v1/base"},
    {"show-base bare",
     {"missing", "report        imported before reports were kept"},
     "xl\n",
     "dsctl.v1/base"},
    {"show-base told",
     {"eps (scheduler_config.json says so; measured on photos: loss 0.041; next: noise-data, "
      "linear "
      "path, 0.127)",
      "noise-data  linear  t, 1 is data", "ema.shadow (averaged preferred); not taken: model",
      "config.json: norm_eps 1e-5", "scaling_factor 0.18215 (no config",
      "n_averaged (no part of the model)"},
     "xl\n",
     "dsctl.v1/base"},
    {"list-feature-nets",
     {"fid   clean    inception-fid  pytorch-fid,torch-fidelity,clean", "95 MB         6         7",
      "Apache-2.0", "aa11aa11aa11"},
     "fid\n",
     "dsctl.v1/feature-nets"},
    {"gc",
     {"blobs", "2 files, 1.0 MB; 1 too young to go", "1 file, 500 kB"},
     "1500000\n",
     "dsctl.v1/gc"},
};

START_TEST(reading_commands) {
    fake_server s;
    cli_result r;
    fake_start(&s, reading);
    ck_run(r, &s, 0, "%s", readers[_i].line);
    for (int k = 0; k < 6 && readers[_i].shows[k]; k++)
        ck_has(r.out, readers[_i].shows[k]);
    cli_free(&r);
    ck_run(r, &s, 0, "%s --json", readers[_i].line);
    json_decref(cli_json(&r, readers[_i].schema));
    cli_free(&r);
    ck_run(r, &s, 0, "%s -q", readers[_i].line);
    ck_assert_str_eq(r.out, readers[_i].quiet);
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(a_missing_vae_is_said) {
    fake_server s;
    cli_result r;
    fake_start(&s, reading);
    ck_run(r, &s, 0, "show-base bare");
    ck_has(r.err, "dsctl add-base /w/DiT-XL.pt --vae ./sd-vae-ft-ema");
    cli_free(&r);
    ck_run(r, &s, 0, "gc --dry-run --older-than 2h");
    ck_has(s.log.data, "{\"dry_run\":true,\"grace_seconds\":7200.0}");
    ck_has(r.err, "1.5 MB would be freed");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(adding_a_base) {
    static const fake_route routes[] = {
        {.request = "POST /v1/bases", .status = 202, .body = JOB("base", "queued", "\"NC\"")},
        {.request = "GET /v1/jobs/5", .body = JOB("base", "queued", "null"), .times = 1},
        {.request = "GET /v1/jobs/5", .body = JOB("base", "done", "null")},
        {.request = "GET /v1/jobs/5/events?since=*",
         .body = "{\"seq\":1,\"type\":\"progress\",\"stage\":\"convert\",\"done\":1350000000,"
                 "\"total\":2700000000,\"unit\":\"bytes\",\"rate\":300000000.0}\n"},
        {.request = "GET /v1/bases/" SHA, .body = XL},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    char file[300], want[800];
    snprintf(file, sizeof file, "%s/w.pt", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_write(file, "x", 1, NULL), 0);
    fake_start(&s, routes);
    ck_run(r, &s, 0, "add-base %s --vae %s --name xl --license MIT --heads 4 --weights ema", file,
           ds_test_tmpdir());
    ck_has(r.err, "note: NC");
    ck_has(r.err, "as xl: job 5");
    char *full = realpath(file, NULL), *dir = realpath(ds_test_tmpdir(), NULL);
    snprintf(want, sizeof want,
             "\"source\":\"%s\",\"vae\":\"%s\",\"name\":\"xl\",\"license\":\"MIT\",\"weights\":"
             "\"ema\",\"heads\":4}",
             full, dir);
    ck_has(s.log.data, want);
    free(full);
    free(dir);
    cli_free(&r);
    ck_run(r, &s, 0, "add-base %s --objective eps --probe %s", file, ds_test_tmpdir());
    ck_has(s.log.data, "\"objective\":\"eps\",\"probe\":\"/");
    cli_free(&r);
    ck_run(r, &s, 2, "add-base %s --objective velocity", file);
    ck_has(r.err, "eps");
    cli_free(&r);
    ck_run(r, &s, 0, "add-base %s -q", file);
    ck_assert_str_eq(r.out, "5\n");
    ck_assert_str_eq(r.err, ""); /* quiet says nothing */
    cli_free(&r);
    ck_run(r, &s, 0, "add-base %s --wait", file);
    ck_has(r.out, "added xl, 675,129,632 parameters, 2.7 GB, sha256:" SHA);
    ck_has(r.err, "dsctl add-dataset DIR --base xl");
    ck_has(r.err, "1.4 GB of 2.7 GB  300 MB/s");
    ck_has(r.err, "s  (1.4 GB)\n");
    cli_free(&r);
    ck_run(r, &s, 0, "add-base %s --wait --json", file);
    ck_assert_int_ge(cli_ndjson(&r, "dsctl.v1/"), 1);
    ck_has(r.out, "\"schema\":\"dsctl.v1/base\"");
    cli_free(&r);
    ck_run(r, &s, 0, "show-job 5");
    ck_has(r.out, "model         xl");
    ck_has(r.out, "sha256:" SHA);
    cli_free(&r);
    ck_run(r, &s, 3, "add-base /none/x.pt");
    ck_has(r.err, "cannot add '/none/x.pt'");
    cli_free(&r);
    ck_run(r, &s, 3, "add-base %s --probe /none/p", file);
    ck_has(r.err, "cannot add '/none/p'");
    cli_free(&r);
    ck_run(r, &s, 3, "add-base %s --vae /none/v", file);
    ck_has(r.err, "cannot add '/none/v'");
    cli_free(&r);
    ck_run(r, &s, 2, "add-base %s --timeout 3s", file);
    ck_has(r.err, "--timeout needs --wait");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

START_TEST(changing_commands) {
    static const fake_route routes[] = {
        {.request = "PUT /v1/default-base", .body = XL},
        {.request = "DELETE /v1/bases/xl", .body = XL},
        {.request = "DELETE /v1/bases/used",
         .status = 409,
         .body = "{\"title\":\"conflict\",\"detail\":\"base 'used' is in use\",\"exit\":4}"},
        {.request = "PUT /v1/default-feature-net",
         .body = "{\"name\":\"fid\",\"mode\":\"clean\",\"sha256\":\"" SHA "\",\"bundled\":false}"},
        {.request = "DELETE /v1/feature_nets/fid", .body = NET},
        {.request = "DELETE /v1/feature_nets/used",
         .status = 409,
         .body = "{\"title\":\"conflict\",\"detail\":\"2 datasets are measured with it: a, b\","
                 "\"exit\":4}"},
        {.request = "POST /v1/gc", .body = "{\"dry_run\":false,\"error\":\"cannot remove x\"}"},
        {.request = "POST /v1/samples",
         .status = 409,
         .body = "{\"title\":\"conflict\",\"detail\":\"adapter 'd@v1' belongs to base 'a'\","
                 "\"exit\":4}"},
        {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, routes);
    ck_run(r, &s, 0, "set-default-base xl");
    ck_has(r.err, "the default base is xl; 3 datasets train on it now");
    ck_has(s.log.data, "{\"base\":\"xl\"}");
    cli_free(&r);
    ck_run(r, &s, 0, "remove-base xl");
    ck_has(r.err, "removed xl (sha256:" SHA ")");
    cli_free(&r);
    ck_run(r, &s, 4, "remove-base used");
    cli_free(&r);
    ck_run(r, &s, 0, "set-default-feature-net fid:clean");
    ck_has(r.err, "measured with fid (clean) from now on");
    ck_has(s.log.data, "{\"feature_net\":\"fid:clean\"}");
    cli_free(&r);
    ck_run(r, &s, 0, "remove-feature-net fid");
    ck_has(r.err, "removed fid (sha256:" SHA ")");
    cli_free(&r);
    ck_run(r, &s, 4, "remove-feature-net used");
    ck_has(r.err, "a, b");
    cli_free(&r);
    ck_run(r, &s, 1, "gc");
    ck_has(r.err, "not all of it could be removed: cannot remove x");
    cli_free(&r);
    ck_run(r, &s, 4, "sample d --base b");
    ck_has(s.log.data, "\"base\":\"b\"");
    ck_has(r.err, "belongs to base 'a'");
    cli_free(&r);
    fake_stop(&s);
}
END_TEST

/* Runs doctor --json against a daemon with these answers; all details and fixes as one text. */
static fake_route store = {.request = "none"}; /* what it says of POST /v1/fsck */
static void doctor(const char *bases, const char *nets, const char *status, char out[8192]) {
    fake_route routes[] = {{.request = "GET /v1/status", .body = status},
                           store,
                           {.request = "GET /readyz", .body = "ok"},
                           {.request = "GET /v1/bases?limit=1000", .body = bases},
                           {.request = "GET /v1/feature_nets?limit=1000", .body = nets},
                           {.request = NULL}};
    fake_server s;
    size_t i, n = 0;
    json_t *check;
    fake_start(&s, routes);
    cli_result r = cli_run(&s, "--state %s doctor --json", ds_test_tmpdir());
    json_t *doc = cli_json(&r, "dsctl.v1/doctor");
    out[0] = 0;
    json_array_foreach(json_object_get(doc, "checks"), i, check)
        n +=
            (size_t)snprintf(out + n, n < 8192 ? 8192 - n : 0, "%s %s %s %s\n",
                             ds_json_string(check, "status", ""), ds_json_string(check, "name", ""),
                             ds_json_string(check, "detail", ""), ds_json_string(check, "fix", ""));
    json_decref(doc);
    cli_free(&r);
    fake_stop(&s);
}

#define STATUS(waiting) "{\"version\":\"" DS_VERSION "\",\"pid\":1,\"waiting\":[" waiting "]}"

START_TEST(doctor_names_missing_weights) {
    char out[8192];
    setenv("PATH", "/nonexistent", 1);
    doctor(LIST("{\"name\":\"emoji-dit\",\"missing\":[]}"), LIST(""), STATUS(""), out);
    ck_has(out, "note weights only the base that comes with the program");
    ck_has(out, "DiT-XL-2-256x256.pt of facebookresearch/DiT (CC-BY-NC 4.0: non-commercial)");
    ck_has(out, "note fid network");
    ck_has(out, "pt_inception-2015-12-05-6726825d.pth of pytorch-fid (Apache-2.0)");
    ck_has_not(out, " jobs ");
    doctor(LIST(XL_WITHOUT), LIST(NET),
           STATUS("{\"id\":4,\"kind\":\"train\",\"name\":\"d\",\"postponed\":12,"
                  "\"error\":{\"message\":\"no space left\"}}"),
           out);
    ck_has(out, "warn vae base 'xl' works on latents and has no VAE");
    ck_has(out, "sd-vae-ft-ema (stabilityai, MIT)");
    ck_has_not(out, "weights");
    ck_has(out, "fail network file feature network 'fid' is not where it was, '/n'; 7 adapters");
    ck_has(out, "ok fid network");
    ck_has(out, "warn jobs job 4 (train d) could not run 12 times in a row: no space left");
    doctor(LIST(XL), LIST(NET), STATUS(""), out);
    ck_has(out, "ok weights 1 base, none lacks its VAE");
}
END_TEST

/* The store, and a network that nothing was measured with yet but that is the default. */
START_TEST(doctor_looks_at_the_store) {
    char out[8192], path[300];
    setenv("PATH", "/nonexistent", 1);
    store = (fake_route){.request = "POST /v1/fsck",
                         .body = "{\"damage\":0,\"checked\":{\"blobs\":3},\"findings\":[{\"thing\":"
                                 "\"jobs/9\",\"cause\":\"nobody's\",\"damage\":false}]}"};
    doctor(LIST(XL), LIST("{\"name\":\"n\",\"path\":\"/none\",\"default\":true,\"adapters\":0}"),
           STATUS(""), out);
    ck_has(out, "ok store 3 blobs and all rows fit together");
    ck_has_not(out, "jobs/9");
    ck_has(out, "fail network file feature network 'n'");
    store.body = "{\"damage\":1,\"findings\":[{\"thing\":\"blob aa\",\"cause\":\"it is missing\","
                 "\"way_out\":\"restore it\",\"damage\":true}]}";
    doctor(LIST(XL), LIST("{\"name\":\"n\",\"path\":\"/none\",\"adapters\":0}"), STATUS(""), out);
    ck_has(out, "fail store blob aa: it is missing restore it");
    ck_has_not(out, "fit together");
    ck_has_not(out, "network file"); /* nobody needs it */
    store.status = 500;
    store.body = "{\"detail\":\"it broke\",\"exit\":1}";
    doctor(LIST(XL), LIST(NET), STATUS(""), out);
    ck_has(out, "warn store it broke see the message");
    doctor(LIST(XL), LIST(NET), "{\"version\":\"0.0\",\"pid\":1}", out);
    ck_has(out, "warn daemon version 0.0, dsctl is " DS_VERSION);
    /* what lies at the socket's place */
    fake_route broken[] = {{.request = "GET *", .status = 500, .body = "{\"detail\":\"hm\"}"},
                           {.request = NULL}};
    fake_server s;
    cli_result r;
    fake_start(&s, broken);
    chmod(s.socket, 0666);
    ck_run(r, &s, 1, "--state %s doctor", ds_test_tmpdir());
    ck_has(r.out, "fail  daemon        hm\n");
    ck_has(r.out, "see its log");
    ck_has(r.out, "lets every user in (mode 0666)");
    cli_free(&r);
    fake_stop(&s);
    snprintf(path, sizeof path, "%s/no-socket", ds_test_tmpdir());
    ck_assert_int_eq(ds_fs_write(path, "", 0, NULL), 0);
    r = cli_line(path, "doctor");
    ck_assert_int_eq(r.exit, 1);
    ck_has(r.out, "is not a socket");
    cli_free(&r);
}
END_TEST

/* The same finding is a warning beside a running daemon, and a failure without one. */
START_TEST(doctor_weighs_what_it_finds) {
    char out[8192], path[300], line[900];
    setenv("PATH", "/nonexistent", 1);
    doctor(LIST(XL), LIST(NET), STATUS(""), out);
    ck_has(out, "ok daemon version " DS_VERSION);
    ck_has(out, "warn program cannot find the program 'diffscalerd'");
    ck_has(out, "fail worker cannot find the program 'diffscaler-worker'");
    ck_has(out, "fail base none found");
    ck_has(out, "fail feature net none found");
    snprintf(path, sizeof path, "%s/state", ds_test_tmpdir());
    snprintf(line, sizeof line, "--state %s doctor", path);
    cli_result r = cli_line("/nonexistent/socket", line);
    ck_assert_int_eq(r.exit, 1);
    ck_has(r.out, "fail  daemon        not running at '/nonexistent/socket'\n");
    ck_has(r.out, "fail  socket        '/nonexistent/socket' is not there\n");
    ck_has(r.out, "fail  program       cannot find the program 'diffscalerd'");
    snprintf(line, sizeof line, "warn  state         '%s' is not there yet\n", path);
    ck_has(r.out, line);
    cli_free(&r);
    ck_assert_int_eq(ds_fs_write(path, "", 0, NULL), 0);
    snprintf(line, sizeof line, "--state %s doctor", path);
    r = cli_line("/nonexistent/socket", line);
    snprintf(line, sizeof line, "fail  state         '%s' is not a folder\n", path);
    ck_has(r.out, line);
    cli_free(&r);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, doctor_weighs_what_it_finds);
    tcase_add_test(tc, doctor_looks_at_the_store);
    tcase_add_test(tc, fsck);
    tcase_add_test(tc, prune);
    tcase_add_loop_test(tc, reading_commands, 0, sizeof readers / sizeof *readers);
    tcase_add_test(tc, a_missing_vae_is_said);
    tcase_add_test(tc, adding_a_base);
    tcase_add_test(tc, changing_commands);
    tcase_add_test(tc, doctor_names_missing_weights);
}

int main(void) {
    setenv("TZ", "UTC", 1);
    return ds_test_main("cli_bases", cases);
}
