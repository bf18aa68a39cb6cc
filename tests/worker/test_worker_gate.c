/* tests/worker/test_worker_gate.c - the gate: its rule, and injected regressions in real jobs. */
#include "tests/fixtures/open_fails.h"
#include "tests/fixtures/worker_fixture.h"

#include "engine/model/adapter.h"
#include "engine/files/safetensors.h"
#include "worker/kinds/gate.h"

#include <math.h>

static char *blobs; /* directory of the finished job whose adapter is the old task */

/* ---------------------------------------------------------------- the rule */

static const ds_spec_gate rule = {.fd_tolerance = 0.02, .kid_tolerance_sigmas = 3};

START_TEST(rule_of_level_2) {
    static const struct {
        ds_gate_figures f;
        int refused;
        const char *reason;
    } cases[] = {
        {{12.31, 12.31, 0, 0.01, 0.01, 0.001}, 0, ""},
        {{12.31, 12.31 * 1.0199, 0, NAN, NAN, NAN}, 0, ""},
        {{12.31, 12.31 * 1.0201, 0, NAN, NAN, NAN}, 1, "FD 12.31 -> 12.56 (+2.0 %), tolerance 2 %"},
        {{12.31, 48.90, NAN, NAN, NAN, NAN}, 1, "FD 12.31 -> 48.90 (+297 %), tolerance 2 %"},
        {{12.31, 12.9, 0.2, NAN, NAN, NAN}, 0, ""},
        {{12.31, 13.0, 0.2, NAN, NAN, NAN}, 1, "and noise 0.40"},
        {{12.31, 2.0, 0, 0.01, 0.0, 0.001}, 0, ""},
        {{NAN, 2.0, 0, 0.01, 0.0129, 0.001}, 0, ""},
        {{NAN, 2.0, 0, 0.01, 0.0131, 0.001},
         1,
         "KID 0.01000 -> 0.01310 (+3.1 standard errors), tolerance 3"},
        {{12.31, NAN, 0, NAN, NAN, NAN}, 1, "FD 12.31 -> nan"},
        {{12.31, INFINITY, 0, NAN, NAN, NAN}, 1, "FD 12.31 -> inf"},
        {{0, 0, 0, NAN, NAN, NAN}, 0, ""},
        {{0, 1, 0, NAN, NAN, NAN}, 1, "FD 0.00 -> 1.00"},
        {{NAN, 1, 0, NAN, 1, 1}, 1, "nothing is recorded"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char reason[DS_GATE_REASON];
        int refused = ds_gate_judge(&cases[i].f, &rule, reason);
        ck_assert_msg(refused == cases[i].refused, "case %zu: %d '%s'", i, refused, reason);
        ck_assert_msg(strstr(reason, cases[i].reason) != NULL, "case %zu: '%s'", i, reason);
        ck_assert(refused == (reason[0] != 0));
    }
}
END_TEST

/* ---------------------------------------------------------------- damage */

/* A copy of the old task's entry whose file `what` ("adapter", "reference") is TMP/name. */
static json_t *task_with_file(const char *what, const char *name) {
    json_t *t = task_of(blobs, "blobs");
    char *path = in_tmp(name);
    json_object_set_new(json_object_get(t, what), "path", json_string(path));
    free(path);
    return t;
}

/* The old adapter with noise on all its numbers, as a whole and valid file; its digest. */
static void perturb_adapter(const char *to, float amount, char sha[DS_HEX_SIZE]) {
    char *base_path = in_tmp("base.safetensors"),
         *from = ds_xasprintf("%s/adapter.safetensors.zst", blobs), *bytes, *out = in_tmp(to);
    ds_base *base;
    ds_adapter *a;
    ds_error err;
    size_t n;
    must(ds_base_open(&base, base_path, NULL, &err), &err);
    must(ds_adapter_open(&a, base, from, NULL, &err), &err);
    float *noise = ds_xmalloc(a->table.total * sizeof *noise);
    ds_rng_normal(noise, a->table.total, 5, DS_STREAM_TEST, 0, 0);
    for (size_t i = 0; i < a->table.total; i++)
        a->data[i] += amount * noise[i];
    ds_params_round(&a->table, a->data);
    must(ds_adapter_encode(a, base, a->meta, &bytes, &n, &err), &err);
    must(ds_zio_write_file(out, bytes, n, 3, &err), &err);
    ds_digest(bytes, n, sha);
    free(bytes);
    free(noise);
    free(base_path);
    free(from);
    free(out);
    ds_adapter_free(a);
    ds_base_free(base);
}

static void flip_bit(const char *from, const char *to, size_t at_share) {
    char *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_read(from, 1 << 28, &bytes, &n, &err), &err);
    bytes[n * at_share / 100] ^= 16;
    must(ds_fs_write(to, bytes, n, &err), &err);
    free(bytes);
}

/* The base with noise on its numbers. */
static void change_base(const char *to) {
    char *from = in_tmp("base.safetensors");
    ds_base *b;
    ds_error err;
    must(ds_base_open(&b, from, NULL, &err), &err);
    float *noise = ds_xmalloc(b->table.total * sizeof *noise);
    ds_rng_normal(noise, b->table.total, 6, DS_STREAM_TEST, 0, 0);
    for (size_t i = 0; i < b->table.total; i++)
        b->data[i] += 1.0f * noise[i];
    must(ds_base_save(b, to, 0, NULL, &err), &err);
    free(noise);
    free(from);
    ds_base_free(b);
}

/* The feature network with the sign of every 5th weight of its convolutions turned. */
static void break_network(const char *to) {
    const char *net = fixture_net();
    char *bytes;
    size_t n;
    ds_st *st;
    ds_error err;
    must(ds_zio_read_file(net, 1 << 28, &bytes, &n, &err), &err);
    must(ds_st_open_memory("net", bytes, n, &st, &err), &err);
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        size_t size = t->count ? t->bytes / t->count : 0,
               at = (size_t)((const char *)t->data - bytes);
        for (size_t j = 0; strstr(t->name, "conv.weight") && j < t->count; j += 5)
            bytes[at + j * size + size - 1] = (char)(bytes[at + j * size + size - 1] ^ 0x80);
    }
    ds_st_free(st);
    must(ds_zio_write_file(to, bytes, n, 1, &err), &err);
    free(bytes);
}

/* ---------------------------------------------------------------- verdicts */

static json_t *verdict_of(const char *name, json_t *spec, int status) {
    char *dir = make_job(name, spec);
    run_expect(dir, status);
    json_t *r = read_json(dir, "result.json"), *gate = json_incref(json_object_get(r, "gate"));
    ck_assert_str_eq(text_at(gate, "verdict", NULL), status ? "refused" : "passed");
    json_decref(r);
    free(dir);
    return gate;
}

static const json_t *first_task(const json_t *gate) {
    return json_array_get(json_object_get(gate, "tasks"), 0);
}

static char *events_of(const char *name) {
    char *path = ds_xasprintf("%s/%s/events.ndjson", ds_test_tmpdir(), name), *text;
    size_t n;
    ds_error err;
    must(ds_fs_read(path, 1 << 22, &text, &n, &err), &err);
    free(path);
    return text;
}

static void expect_warning(const char *name, const char *words) {
    char *text = events_of(name);
    const char *hit = strstr(text, words);
    ck_assert_msg(hit != NULL, "no event of %s says '%s'", name, words);
    while (hit > text && hit[-1] != '\n')
        hit--;
    ck_assert(strstr(hit, "\"type\":\"warning\"") != NULL);
    free(text);
}

enum { AMOUNT, NO_AMOUNT };

/* Refused, naming the task, the cause and the amount. */
static void expect_refusal(const char *name, json_t *spec, int status, const char *cause,
                           int amount) {
    json_t *gate = verdict_of(name, spec, status);
    const char *reason = text_at(gate, "reason", NULL);
    printf("%s: %s\n", name, reason);
    ck_assert_msg(strstr(reason, "task 'blobs': ") != NULL, "%s", reason);
    ck_assert_msg(strstr(reason, cause) != NULL, "%s", reason);
    ck_assert_msg(reason[strlen(reason) - 1] != ' ', "'%s'", reason); /* nothing was to follow */
    ck_assert_str_eq(text_at(gate, "worst_task", NULL), "blobs");
    const json_t *delta = json_object_get(gate, "delta"), *t = first_task(gate);
    ck_assert_str_eq(text_at(t, "verdict", NULL), "refused");
    if (amount == AMOUNT) {
        ck_assert_msg(json_number_value(delta) > 0.02, "%s", reason);
        ck_assert_msg(strstr(reason, " %)") != NULL, "%s", reason);
        ck_assert(json_number_value(json_object_get(t, "fd_now")) >
                  json_number_value(json_object_get(t, "fd_recorded")));
    } else {
        ck_assert(json_is_null(delta));
        ck_assert_msg(strstr(reason, "not measurable") != NULL, "%s", reason);
    }
    json_decref(gate);
}

static json_t *one(json_t *task) { return json_pack("[o]", task); }

START_TEST(second_task_leaves_the_first_alone) {
    json_t *spec = train_spec("stripes");
    json_object_set_new(spec, "old_tasks", one(task_of(blobs, "blobs")));
    json_t *gate = verdict_of("stripes-job", spec, 0);
    const json_t *t = first_task(gate);
    ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), 1);
    ck_assert(json_is_true(json_object_get(t, "unchanged")));
    ck_assert_str_eq(text_at(t, "probe_now", NULL), text_at(t, "probe_recorded", NULL));
    ck_assert(json_number_value(json_object_get(t, "fd_now")) ==
              json_number_value(json_object_get(t, "fd_recorded")));
    json_decref(gate);
}
END_TEST

/* The same adapter again and again, both levels, another precision: never refused; on the same
 * device class level 2 gives the recorded numbers bit for bit. */
START_TEST(same_against_same_never_refuses) {
    for (int i = 0; i < (SANITIZED ? 2 : 3); i++) {
        char name[32];
        snprintf(name, sizeof name, "aa-%d", i);
        json_t *spec = verify_spec(one(task_of(blobs, "blobs")), i ? "full" : "auto");
        if (i == 2)
            json_object_set_new(json_object_get(spec, "device"), "precision", json_string("bf16"));
        json_t *gate = verdict_of(name, spec, 0);
        const json_t *t = first_task(gate);
        double fd = json_number_value(json_object_get(t, "fd_recorded")),
               now = json_number_value(json_object_get(t, "fd_now"));
        ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), i ? 2 : 1);
        ck_assert(json_is_true(json_object_get(t, "unchanged")) == (i < 2));
        if (i < 2)
            ck_assert_msg(fd == now, "FD %.17g -> %.17g", fd, now);
        json_decref(gate);
    }
}
END_TEST

/* On a class of devices that nothing is known of, level 2 decides; the probe it reports is enough
 * the next time, and a wrong one is not. */
START_TEST(another_device_class_is_known_afterwards) {
    json_t *spec = verify_spec(one(task_of(blobs, "blobs")), "auto");
    json_object_set_new(json_object_get(spec, "device"), "precision", json_string("bf16"));
    json_t *gate = verdict_of("other-class", spec, 0), *probes;
    const json_t *t = first_task(gate);
    ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), 2);
    ck_assert(json_is_false(json_object_get(t, "unchanged")));
    ck_assert(strstr(text_at(t, "probe_class", NULL), "bf16") != NULL);
    probes = json_pack("[{s:s, s:s, s:O, s:O}]", "device_class", text_at(t, "probe_class", NULL),
                       "sha256", text_at(t, "probe_now", NULL), "n", json_object_get(t, "probe_n"),
                       "seed", json_object_get(t, "probe_seed"));
    ck_assert(probes != NULL);
    for (int wrong = 0; wrong < 2; wrong++) {
        json_t *task = task_of(blobs, "blobs");
        if (wrong)
            json_object_set(json_array_get(probes, 0), "sha256",
                            json_object_get(json_object_get(task, "adapter"), "sha256"));
        json_object_set(task, "probes", probes);
        spec = verify_spec(one(task), "auto");
        json_object_set_new(json_object_get(spec, "device"), "precision", json_string("bf16"));
        json_t *again = verdict_of(wrong ? "class-wrong" : "class-known", spec, 0);
        t = first_task(again);
        ck_assert_int_eq(json_integer_value(json_object_get(t, "level")), wrong ? 2 : 1);
        ck_assert(json_is_true(json_object_get(t, "unchanged")) == !wrong);
        json_decref(again);
    }
    json_decref(probes);
    json_decref(gate);
}
END_TEST

/* Registered as it is, but not the one that was measured: level 1 fails, level 2 sees it. */
START_TEST(perturbed_adapter_is_measured) {
    char sha[DS_HEX_SIZE];
    perturb_adapter("perturbed.zst", 0.5f, sha);
    json_t *t = task_with_file("adapter", "perturbed.zst");
    json_object_set_new(json_object_get(t, "adapter"), "sha256", json_string(sha));
    expect_refusal("perturbed", verify_spec(one(t), "auto"), 8, "tolerance 2 %", AMOUNT);
}
END_TEST

START_TEST(exchanged_adapter_file_is_refused) {
    char sha[DS_HEX_SIZE];
    perturb_adapter("exchanged.zst", 0.5f, sha);
    expect_refusal("exchanged",
                   verify_spec(one(task_with_file("adapter", "exchanged.zst")), "auto"), 8,
                   "its adapter file", AMOUNT);
}
END_TEST

START_TEST(flipped_bit_in_adapter_is_refused) {
    char *from = ds_xasprintf("%s/adapter.safetensors.zst", blobs), *to = in_tmp("flipped.zst");
    flip_bit(from, to, 60);
    expect_refusal("flipped", verify_spec(one(task_with_file("adapter", "flipped.zst")), "auto"), 8,
                   "its adapter cannot be read", NO_AMOUNT);
    free(from);
    free(to);
}
END_TEST

START_TEST(damaged_reference_is_refused) {
    char *from = ds_xasprintf("%s/reference.safetensors.zst", blobs), *to = in_tmp("ref.zst");
    flip_bit(from, to, 50);
    expect_refusal("refdamage", verify_spec(one(task_with_file("reference", "ref.zst")), "auto"), 8,
                   "its reference features are damaged", NO_AMOUNT);
    free(from);
    free(to);
}
END_TEST

static json_t *with_path(json_t *spec, const char *what, const char *name) {
    char *path = in_tmp(name);
    json_object_set_new(json_object_get(spec, what), "path", json_string(path));
    free(path);
    return spec;
}

/* Another base under the registered digest: a training job stops before it trains, with 9, as there
 * is no adapter that could be rejected. */
START_TEST(changed_base_is_refused_before_training) {
    char *path = in_tmp("other-base.safetensors");
    change_base(path);
    json_t *spec = with_path(train_spec("stripes"), "base", "other-base.safetensors");
    json_object_set_new(spec, "old_tasks", one(task_of(blobs, "blobs")));
    expect_refusal("changed-base", spec, 9, "base file", AMOUNT);
    expect_warning("changed-base", "base file");
    char *dir = in_tmp("changed-base"), *checkpoints = ds_xasprintf("%s/checkpoints", dir);
    json_t *r = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(r, "status", NULL), "rejected");
    ck_assert(json_is_null(json_object_get(r, "adapter")));
    ck_assert(!ds_fs_exists(checkpoints));
    json_decref(r);
    free(checkpoints);
    free(dir);
    free(path);
}
END_TEST

START_TEST(truncated_base_is_refused) {
    char *from = in_tmp("base.safetensors"), *to = in_tmp("short-base.safetensors"), *bytes;
    size_t n;
    ds_error err;
    must(ds_fs_read(from, 1 << 28, &bytes, &n, &err), &err);
    must(ds_fs_write(to, bytes, n - 1000, &err), &err);
    free(bytes);
    expect_refusal("short-base",
                   with_path(verify_spec(one(task_of(blobs, "blobs")), "auto"), "base",
                             "short-base.safetensors"),
                   8, "base file", NO_AMOUNT);
    json_t *alone = with_path(train_spec("blobs"), "base", "short-base.safetensors");
    char *dir = make_job("short-base-alone", alone); /* nothing to measure: integrity */
    run_expect(dir, 9);
    free(dir);
    free(from);
    free(to);
}
END_TEST

START_TEST(broken_feature_network_is_refused) {
    const char *net = fixture_net();
    char *path = in_tmp("net.zst");
    break_network(path);
    json_t *spec = with_path(train_spec("stripes"), "feature_net", "net.zst");
    json_object_set_new(spec, "old_tasks", one(task_of(blobs, "blobs")));
    expect_refusal("broken-net", spec, 9, "feature network", AMOUNT);
    expect_warning("broken-net", "feature network");
    flip_bit(net, path, 50);
    spec = with_path(verify_spec(one(task_of(blobs, "blobs")), "auto"), "feature_net", "net.zst");
    expect_refusal("flipped-net", spec, 8, "feature network", NO_AMOUNT);
    free(path);
}
END_TEST

/* Of two old tasks the damaged one is named and the other is proven unchanged. */
START_TEST(the_right_task_is_named) {
    char sha[DS_HEX_SIZE];
    perturb_adapter("second.zst", 0.5f, sha);
    json_t *good = task_of(blobs, "blobs"), *bad = task_with_file("adapter", "second.zst");
    json_object_set_new(good, "name", json_string("innocent"));
    json_t *gate = verdict_of("two", verify_spec(json_pack("[o,o]", good, bad), "auto"), 8);
    ck_assert_str_eq(text_at(gate, "worst_task", NULL), "blobs");
    ck_assert_str_eq(text_at(first_task(gate), "verdict", NULL), "passed");
    ck_assert(json_is_true(json_object_get(first_task(gate), "unchanged")));
    json_decref(gate);
}
END_TEST

/* A training job whose gate refuses at the end keeps its adapter. */
START_TEST(rejected_adapter_is_kept) {
    char sha[DS_HEX_SIZE];
    perturb_adapter("late.zst", 0.5f, sha);
    json_t *t = task_with_file("adapter", "late.zst"), *spec = train_spec("stripes");
    json_object_set_new(json_object_get(t, "adapter"), "sha256", json_string(sha));
    json_object_set_new(spec, "old_tasks", one(t));
    expect_refusal("late", spec, 8, "tolerance 2 %", AMOUNT);
    char *dir = in_tmp("late"), *path = ds_xasprintf("%s/adapter.safetensors.zst", dir);
    json_t *r = read_json(dir, "result.json");
    ck_assert_str_eq(text_at(r, "status", NULL), "rejected");
    unpacked_digest(path, sha);
    ck_assert_str_eq(text_at(r, "adapter", "sha256"), sha);
    run_expect(dir, 8); /* asked again, it answers the same */
    json_decref(r);
    free(path);
    free(dir);
}
END_TEST

/* ---------------------------------------------------------------- around the judge */

static const char unknown_sha[] = "00000000000000000000000000000000"
                                  "00000000000000000000000000000000";

/* A task whose probe is another one and that cannot be measured is refused, with the reason; one
 * whose probe is the same is proven, also where everything should be measured. */
START_TEST(what_cannot_be_measured_is_refused) {
    static const char *const why[] = {"it has no usable reference features",
                                      "of another feature network than the registry says"};
    for (int i = 0; i < 4; i++) {
        json_t *t = task_of(blobs, "blobs");
        char name[32];
        int changed = i & 1, what = i >> 1;
        snprintf(name, sizeof name, "unmeasured-%d", i);
        if (what == 0)
            json_object_set_new(t, "reference", json_null());
        else
            json_object_set_new(t, "feature_net_sha256", json_string(unknown_sha));
        if (changed)
            json_object_set_new(json_object_get(t, "probe"), "sha256", json_string(unknown_sha));
        json_t *gate = verdict_of(name, verify_spec(one(t), "full"), changed ? 8 : 0);
        const json_t *task = first_task(gate);
        const char *reason = text_at(task, "reason", NULL);
        ck_assert_int_eq(json_integer_value(json_object_get(task, "level")), 1);
        ck_assert(json_is_true(json_object_get(task, "unchanged")) == !changed);
        ck_assert_msg(strstr(reason, "not measurable: ") && strstr(reason, why[what]), "%s",
                      reason);
        json_decref(gate);
    }
}
END_TEST

/* Nothing is known of it: neither a probe nor a distance; and of a probe alone the reason says
 * that it has changed. */
START_TEST(nothing_to_compare_with_is_refused) {
    for (int probe = 0; probe < 2; probe++) {
        json_t *t = task_of(blobs, "blobs");
        json_object_set_new(t, "reference", json_null());
        json_object_set_new(t, "fd", json_null());
        json_object_set_new(t, "kid", json_null());
        if (probe)
            json_object_set_new(json_object_get(t, "probe"), "sha256", json_string(unknown_sha));
        else
            json_object_set_new(t, "probe", json_null());
        json_t *gate =
            verdict_of(probe ? "probe-alone" : "nothing", verify_spec(one(t), "auto"), 8);
        const char *reason = text_at(first_task(gate), "reason", NULL);
        ck_assert_msg((strstr(reason, "its probe has changed; ") != NULL) == probe, "%s", reason);
        ck_assert_msg(strstr(reason, "no usable reference") != NULL, "%s", reason);
        ck_assert(json_is_null(json_object_get(gate, "delta")));
        json_decref(gate);
    }
}
END_TEST

/* A task that knows its KID only is judged by that one. */
START_TEST(kid_alone_decides) {
    for (int worse = 0; worse < 2; worse++) {
        json_t *t = task_of(blobs, "blobs");
        double kid = json_number_value(json_object_get(t, "kid"));
        json_object_set_new(t, "fd", json_null());
        if (worse) /* it was so much better once */
            json_object_set_new(t, "kid", json_real(kid - 1000 * (1 + fabs(kid))));
        json_t *gate =
            verdict_of(worse ? "kid-worse" : "kid-same", verify_spec(one(t), "full"), worse * 8);
        const json_t *task = first_task(gate);
        const char *reason = text_at(task, "reason", NULL);
        ck_assert_int_eq(json_integer_value(json_object_get(task, "level")), 2);
        ck_assert(json_number_value(json_object_get(task, "kid_now")) == kid);
        ck_assert_msg(!worse || (strstr(reason, "'blobs': KID ") && !strstr(reason, "FD ")), "%s",
                      reason);
        json_decref(gate);
    }
}
END_TEST

/* Of two that fall the one that falls more is named, and the other is counted; one without an
 * amount is named only where no other has one. */
START_TEST(the_worst_of_several_is_named) {
    static const struct {
        double fd[2]; /* recorded; 0: as it is, negative: cannot be measured */
        int worst;
    } cases[] = {{{0.5, 0.25}, 1}, {{0.25, 0.5}, 0}, {{-1, 0.5}, 1}, {{0.5, -1}, 0}};
    for (int i = 0; i < 4; i++) {
        json_t *t[2];
        for (int k = 0; k < 2; k++) {
            t[k] = task_of(blobs, k ? "second" : "first");
            json_object_set_new(json_object_get(t[k], "probe"), "sha256", json_string(unknown_sha));
            if (cases[i].fd[k] < 0)
                json_object_set_new(t[k], "reference", json_null());
            else
                json_object_set_new(
                    t[k], "fd",
                    json_real(cases[i].fd[k] * json_number_value(json_object_get(t[k], "fd"))));
        }
        char name[32];
        snprintf(name, sizeof name, "worst-%d", i);
        json_t *gate = verdict_of(name, verify_spec(json_pack("[o,o]", t[0], t[1]), "auto"), 8);
        ck_assert_str_eq(text_at(gate, "worst_task", NULL), cases[i].worst ? "second" : "first");
        ck_assert(strstr(text_at(gate, "reason", NULL), " (and 1 more)") != NULL);
        double delta = json_number_value(json_object_get(gate, "delta"));
        ck_assert_msg(fabs(delta - (i < 2 ? 3 : 1)) < 1e-6, "delta %g", delta);
        json_decref(gate);
    }
}
END_TEST

/* Damage of an old task is found before anything is trained, and said. */
START_TEST(damage_is_found_before_training) {
    static const char *const said[] = {"task 'blobs': its adapter cannot be read",
                                       "task 'blobs': its reference features are damaged",
                                       "task 'blobs': it belongs to base 0000"};
    for (int i = 0; i < 3; i++) {
        char name[32], *from, *to = in_tmp("early.zst");
        const char *what = i ? "reference" : "adapter";
        snprintf(name, sizeof name, "early-%d", i);
        from = ds_xasprintf("%s/%s.safetensors.zst", blobs, what);
        flip_bit(from, to, 50);
        json_t *t = i < 2 ? task_with_file(what, "early.zst") : task_of(blobs, "blobs"),
               *spec = train_spec("stripes");
        if (i == 2)
            json_object_set_new(t, "base_sha256", json_string(unknown_sha));
        json_object_set_new(spec, "old_tasks", one(t));
        json_decref(verdict_of(name, spec, 9));
        expect_warning(name, said[i]);
        char *checkpoints = ds_xasprintf("%s/%s/checkpoints", ds_test_tmpdir(), name);
        ck_assert(!ds_fs_exists(checkpoints));
        free(checkpoints);
        free(from);
        free(to);
    }
}
END_TEST

/* A disk that is full is no verdict: the job waits, and comes to one later. */
START_TEST(a_full_disk_is_no_verdict) {
    char *dir = make_job("full", verify_spec(one(task_of(blobs, "blobs")), "auto")),
         *result = ds_xasprintf("%s/result.json", dir);
    setenv("DS_TEST_ENOSPC", "1", 1);
    run_expect(dir, 75);
    ck_assert(!ds_fs_exists(result));
    unsetenv("DS_TEST_ENOSPC");
    run_expect(dir, 0);
    ck_assert(ds_fs_exists(result));
    free(result);
    free(dir);
}
END_TEST

/* The job's own network is damaged, and the task was measured with another one: that is no matter
 * of the task. */
START_TEST(a_network_that_no_task_needs) {
    char *path = in_tmp("unneeded.zst");
    const char *net = fixture_net();
    flip_bit(net, path, 50);
    json_t *t = task_of(blobs, "blobs");
    json_object_set_new(t, "feature_net_sha256", json_string(unknown_sha));
    json_t *gate = verdict_of(
        "unneeded", with_path(verify_spec(one(t), "auto"), "feature_net", "unneeded.zst"), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(first_task(gate), "level")), 1);
    ck_assert_str_eq(text_at(first_task(gate), "reason", NULL), "");
    json_decref(gate);
    free(path);
}
END_TEST

/* Nothing is known of this class of devices, and nothing can be measured: nothing was done. */
START_TEST(an_unknown_class_alone_proves_nothing) {
    json_t *t = task_of(blobs, "blobs"), *spec;
    json_object_set_new(t, "reference", json_null());
    spec = verify_spec(one(t), "auto");
    json_object_set_new(json_object_get(spec, "device"), "precision", json_string("bf16"));
    json_t *gate = verdict_of("class-alone", spec, 8);
    const char *reason = text_at(first_task(gate), "reason", NULL);
    ck_assert_int_eq(json_integer_value(json_object_get(first_task(gate), "level")), 0);
    ck_assert_msg(!strstr(reason, "has changed"), "%s", reason);
    json_decref(gate);
}
END_TEST

/* What keeps the gate from a verdict ends the job, which has no result then. */
static void expect_no_verdict(const char *name, json_t *spec, int status, const char *words) {
    char *dir = make_job(name, spec), *result = ds_xasprintf("%s/result.json", dir);
    run_expect(dir, status);
    char *events = events_of(name);
    ck_assert_msg(strstr(events, words) != NULL, "%s", events);
    ck_assert(!ds_fs_exists(result));
    free(events);
    free(result);
    free(dir);
}

/* A whole and registered reference that cannot be this task's. */
START_TEST(a_reference_of_other_classes_is_no_verdict) {
    static const int64_t counts[] = {1, 2, 3};
    char *from = ds_xasprintf("%s/reference.safetensors.zst", blobs), *to = in_tmp("three.zst");
    ds_reference was, three = {0};
    ds_error err;
    must(ds_reference_read(&was, from, NULL, &err), &err);
    ds_feature_set set = ds_reference_set(&was);
    must(ds_reference_make_of(&three, counts, 3, 6, "p", was.tree_digest, &set, "FD", &err), &err);
    must(ds_zio_write_file(to, three.bytes, three.size, 1, &err), &err);
    json_t *t = task_with_file("reference", "three.zst");
    json_object_set_new(json_object_get(t, "reference"), "sha256", json_string(three.sha256));
    expect_no_verdict("three", verify_spec(one(t), "full"), 9,
                      "verifying task 'blobs': the reference has 3 classes, the adapter 2");
    ds_reference_release(&was);
    ds_reference_release(&three);
    free(from);
    free(to);
}
END_TEST

/* Memory that is short while a file is opened. */
START_TEST(a_file_that_cannot_be_opened_now_is_no_verdict) {
    static const struct {
        int from; /* the network is only looked at the first time */
        const char *file;
    } cases[] = {{2, "inception-v3-mixed6c"}, {1, "blobs-job/adapter"}, {1, "blobs-job/reference"}};
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "no-memory-%d", i);
        json_t *spec = verify_spec(one(task_of(blobs, "blobs")), "full");
        open_fails(ENOMEM, cases[i].from, cases[i].file);
        expect_no_verdict(name, spec, 75, "DS_ENOMEM");
        open_fails(0, 0, NULL);
    }
    /* nor is it taken for damage before a training, which goes on until it needs the file */
    json_t *spec = train_spec("blobs");
    json_object_set_new(json_object_get(spec, "train"), "steps", json_integer(1));
    json_object_set_new(spec, "old_tasks", one(task_of(blobs, "blobs")));
    open_fails(ENOMEM, 1, "blobs-job/adapter");
    expect_no_verdict("no-memory-train", spec, 75, "verifying task 'blobs'");
    open_fails(0, 0, NULL);
}
END_TEST

static void register_cases(TCase *tc) {
    feature_side = "171"; /* as in test_worker_bars.c: damage must show in the distance */
    fixture_make();
    blobs = make_job("blobs-job", train_spec("blobs"));
    if (run_job(blobs)) {
        show_log(blobs);
        exit(1);
    }
    tcase_add_test(tc, rule_of_level_2);
    tcase_add_test(tc, same_against_same_never_refuses);
    tcase_add_test(tc, another_device_class_is_known_afterwards);
    tcase_add_test(tc, flipped_bit_in_adapter_is_refused);
    tcase_add_test(tc, damaged_reference_is_refused);
    tcase_add_test(tc, truncated_base_is_refused);
    tcase_add_test(tc, nothing_to_compare_with_is_refused);
    tcase_add_test(tc, damage_is_found_before_training);
    tcase_add_test(tc, a_full_disk_is_no_verdict);
    tcase_add_test(tc, a_network_that_no_task_needs);
    tcase_add_test(tc, an_unknown_class_alone_proves_nothing);
    tcase_add_test(tc, a_reference_of_other_classes_is_no_verdict);
    tcase_add_test(tc, a_file_that_cannot_be_opened_now_is_no_verdict);
    if (SANITIZED) /* too few pictures to measure by, and each of these evaluates again */
        return;
    tcase_add_test(tc, second_task_leaves_the_first_alone);
    tcase_add_test(tc, perturbed_adapter_is_measured);
    tcase_add_test(tc, exchanged_adapter_file_is_refused);
    tcase_add_test(tc, changed_base_is_refused_before_training);
    tcase_add_test(tc, broken_feature_network_is_refused);
    tcase_add_test(tc, the_right_task_is_named);
    tcase_add_test(tc, rejected_adapter_is_kept);
    tcase_add_test(tc, what_cannot_be_measured_is_refused);
    tcase_add_test(tc, kid_alone_decides);
    tcase_add_test(tc, the_worst_of_several_is_named);
}

int main(int argc, char **argv) {
    int status = fixture_dispatch(argc, argv);
    return status >= 0 ? status : ds_test_main("worker_gate", register_cases);
}
