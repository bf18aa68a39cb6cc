/* tests/system/test_system_feature_net.c - FID's network through the real programs: evaluate against a
 * dataset by name, a job measured with it beside one measured with the bundled network, the gate
 * with both, and what is said when the file is gone.  Random weights: the way is proven, not FID.
 */
#include "tests/fixtures/fid_fixture.h"
#include "tests/fixtures/system_rig.h"

static char *net_file(void) {
    size_t n;
    char *bytes = fid_weights_file(NULL, &n), *path = in_tmp("pt_inception.safetensors");
    spit(path, bytes, n);
    free(bytes);
    return path;
}

/* The first row of what evaluate said; a new reference. */
static json_t *first_row(void) {
    json_t *doc = said_json(),
           *row = json_incref(json_array_get(json_object_get(doc, "metrics"), 0));
    json_decref(doc);
    ck_assert(ds_digest_valid(ds_json_string(row, "feature_net", "")));
    return row;
}

static void expect_net(const rig *r, const char *ref, const char *name, const char *preprocess) {
    EXPECT(r, 0, "show-adapter", ref, "--json");
    json_t *a = said_json(), *net = json_object_get(a, "feature_net"), *e;
    size_t i;
    ck_assert_str_eq(ds_json_string(net, "name", "?"), name);
    ck_assert_str_eq(ds_json_string(net, "preprocess", "?"), preprocess);
    json_array_foreach(json_object_get(a, "evaluations"), i, e) {
        ck_assert_str_eq(ds_json_string(e, "feature_net", ""), ds_json_string(net, "sha256", "?"));
        ck_assert_str_eq(ds_json_string(e, "resize", ""), preprocess);
        ck_assert(json_is_integer(json_object_get(e, "seed")));
    }
    json_decref(a);
}

/* A whole job and the gate with two networks. */
static void jobs_with_both(const rig *r, const char *blobs, const char *stripes) {
    EXPECT(r, 0, "set-default-feature-net", "fid:torch-fidelity");
    EXPECT(r, 0, "add-dataset", stripes, "--wait", QUICK);
    EXPECT_SAID("stripes@v1");
    expect_net(r, "stripes@v1", "fid", "tf1-bilinear/128/1");
    expect_net(r, "blobs@v1", "inception-v3-mixed6c", "pil-bicubic-1");
    EXPECT(r, 0, "verify", "--all", "--full"); /* each with its own */
    EXPECT_SAID("passed: 3 tasks checked");
    EXPECT(r, 0, "list-adapters");
    EXPECT_SAID("NETWORK");
    EXPECT(r, 4, "remove-feature-net", "fid");
    EXPECT_SAID("it is the default");
    EXPECT(r, 0, "set-default-feature-net", "bundled");
    EXPECT(r, 4, "remove-feature-net", "fid");
    EXPECT_SAID("stripes@v1");
    EXPECT(r, 2, "evaluate", stripes, "--against", "blobs", "--metrics", "fid");
    EXPECT_SAID("--recursive looks into the folders below"); /* as pytorch-fid: no picture */
    EXPECT(r, 0, "evaluate", stripes, "--against", "blobs", "--json", "--metrics", "fid",
           "--recursive");
    json_t *row = first_row();
    ck_assert_str_eq(ds_json_string(row, "preprocess", ""), "torch-bilinear/2x-1/1");
    json_decref(row);
    (void)blobs;
}

START_TEST(from_file_to_gate) {
    rig r;
    char *file = net_file(), *blobs = folder("blobs"), *stripes = folder("stripes");
    rig_open(&r, "net");
    rig_start(&r);
    EXPECT(&r, 0, "add-dataset", blobs, "--wait", QUICK);
    /* a dataset by its name, with what the daemon knows of it */
    EXPECT(&r, 0, "evaluate", stripes, "--against", "blobs", "--json");
    json_t *row = first_row();
    ck_assert_str_eq(ds_json_string(row, "metric", ""), "fd768");
    ck_assert_double_gt(ds_json_number(row, "value", 0), 0);
    json_decref(row);
    EXPECT(&r, 3, "evaluate", stripes, "--against", "nothing");
    EXPECT_SAID("no dataset has that name");
    EXPECT(&r, 0, "add-feature-net", file, "--name", "fid", "--wait");
    EXPECT_SAID("added fid");
    EXPECT(&r, 4, "add-feature-net", r.base, "--name", "fid"); /* taken: said at once */
    EXPECT_SAID("choose another --name");
    jobs_with_both(&r, blobs, stripes);
    rig_close(&r);
    /* gone by hand: what its probe proves passes, and it is said what cannot be measured */
    EXPECT_SHELL(&r, "rm %s/feature_nets/*.safetensors", r.state);
    rig_start(&r);
    EXPECT(&r, 0, "verify", "--all", "--full", "--json");
    EXPECT_SAID("feature network 'fid'");
    EXPECT_SAID("dsctl add-feature-net FILE --name fid");
    shell(&r, "%s doctor", program("dsctl"));
    EXPECT_SAID("feature network 'fid' is not where it was");
    EXPECT(&r, 0, "add-feature-net", file, "--name", "fid", "--wait");
    EXPECT(&r, 0, "verify", "stripes", "--full", "--json");
    ck_assert(!strstr(said.out, "not measurable"));
    rig_close(&r);
    free(file);
    free(blobs);
    free(stripes);
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_unchecked_fixture(tc, system_fixture, NULL);
    tcase_set_timeout(tc, 900);
    if (SYS_SLOW) {
        ds_test_skip("system-feature-net", "trainings measured with FID's network: minutes here");
        return;
    }
    tcase_add_test(tc, from_file_to_gate);
}

int main(int argc, char **argv) { return system_main(argc, argv, "system_feature_net", cases); }
