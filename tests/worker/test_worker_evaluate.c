/* tests/worker/test_worker_evaluate.c - the command as people run it: folders of files in, numbers out;
 * the import of FID's network; and what it says when something is wrong. */
#include "engine/metrics/npz.h"
#include "tests/fixtures/evaluate_fixture.h"
#include "worker/commands/evaluate_cmd.h"
#include "worker/convert/import_feature_net.h"
#include "worker/images/picture_stream.h"

#include <math.h>

#define GOLDEN_FILE "tests/golden/fid_net.safetensors"
enum { SMALL = SANITIZED ? 5 : 24 };

/* What every number must carry. */
static void check_rows(const json_t *doc, const char *preprocess, const char *decode, int seed) {
    size_t i;
    json_t *m;
    ck_assert_uint_gt(json_array_size(json_object_get(doc, "metrics")), 0);
    json_array_foreach(json_object_get(doc, "metrics"), i, m) {
        ck_assert(ds_digest_valid(ds_json_string(m, "feature_net", "")));
        ck_assert_str_eq(ds_json_string(m, "preprocess", ""), preprocess);
        ck_assert_str_eq(ds_json_string(m, "decode", ""), decode);
        ck_assert_str_eq(ds_json_string(m, "device_class", ""),
                         ds_json_string(doc, "device_class", "-"));
        ck_assert_int_eq(ds_json_int(m, "seed", -1), seed);
        ck_assert_int_gt(ds_json_int(m, "n", -1), 1);
        ck_assert(isfinite(ds_json_number(m, "value", NAN)));
    }
}

/* ---------------------------------------------------------------- bundled network */

START_TEST(bundled_folders) {
    char *a = make_folder("a", 0, SMALL, 40, 36), *b = make_folder("b", 500, SMALL, 48, 40);
    said s = run(a, "--against", b, "--feature-net", FEATURE_NET, "--json", "--seed", "5",
                 "--metrics", "fid,kid,pr", "--threads", "2", NULL);
    json_t *doc = document(&s);
    check_rows(doc, "pil-bicubic-1", "train-2", 5);
    double fd = ds_json_number(metric(doc, "fd768"), "value", 0);
    ck_assert_double_gt(fd, 0.1);
    ck_assert(strstr(ds_json_string(metric(doc, "fd768"), "name", ""), "FD-768"));
    ck_assert_ptr_nonnull(strstr(s.err, "pictures:")); /* progress as lines: not a terminal */
    ck_assert_ptr_nonnull(strstr(s.err, "computing FD-768"));
    ck_assert_ptr_null(strstr(s.err, "\r"));
    said_free(&s);
    if (!SANITIZED) { /* the same bytes with another team */
        said one = run(a, "--against", b, "--feature-net", FEATURE_NET, "--json", "--seed", "5",
                       "--metrics", "fid,kid,pr", "--threads", "1", "--quiet", NULL);
        json_t *again = document(&one);
        ck_assert_str_eq(one.err, "");
        ck_assert(json_equal(json_object_get(doc, "metrics"), json_object_get(again, "metrics")));
        json_decref(again);
        said_free(&one);
        said self = run(a, "--against", a, "--feature-net", FEATURE_NET, "--json", NULL);
        json_t *zero = document(&self);
        /* fd.h: error up to sqrt(eps) of the largest standard deviations, here 768 of them */
        ck_assert_double_lt(ds_json_number(metric(zero, "fd768"), "value", 1), 1e-4);
        json_decref(zero);
        said_free(&self);
    }
    json_decref(doc);
    free(a);
    free(b);
}
END_TEST

START_TEST(files_left_out_and_n) {
    char *a = make_folder("mixed", 0, 6, 30, 30), *sub = in_tmp("mixed/deep"),
         *text = in_tmp("mixed/broken.png"), *in = in_tmp("mixed/deep/x.png");
    ds_error err;
    uint8_t rgb[20 * 10 * 3];
    must(ds_fs_write(text, "no picture", 10, &err), &err);
    must(ds_fs_mkdirs(sub, &err), &err);
    fid_picture(rgb, 99, 20, 10);
    must(ds_png_write(in, rgb, 20, 10, &err), &err);
    char *npz = in_tmp("stats.npz");
    said s = run(a, "--save-stats", npz, "--feature-net", FEATURE_NET, "--json", NULL);
    ck_assert_msg(s.exit == 0, "%s", s.err);
    ck_assert_ptr_nonnull(strstr(s.err, "1 file of"));
    ck_assert_ptr_nonnull(strstr(s.err, "broken.png"));
    said_free(&s);
    ds_npz_stats stats;
    char sha[DS_HEX_SIZE];
    unpacked_digest(FEATURE_NET, sha);
    must(ds_npz_read_stats(npz, &stats, &err), &err);
    ck_assert(stats.known && stats.n == 7 && stats.dim == DS_FEATURE_DIM);
    ck_assert_str_eq(stats.preprocess, "pil-bicubic-1");
    ck_assert_str_eq(stats.net, sha);
    ds_npz_stats_release(&stats);
    s = run(a, "--against", npz, "--feature-net", FEATURE_NET, "--json", "--n", "4", NULL);
    json_t *doc = document(&s);
    ck_assert_int_le(ds_json_int(metric(doc, "fd768"), "n", 0), 4);
    ck_assert_int_eq(ds_json_int(metric(doc, "fd768"), "n_reference", 0), 7);
    json_decref(doc);
    said_free(&s);
    free(a), free(sub), free(text), free(in), free(npz);
}
END_TEST

/* The list is the same whatever the number of decoders, and choosing does not depend on them. */
START_TEST(stream_order) {
    char *a = make_folder("order", 0, 9, 24, 20);
    ds_error err;
    char digest[2][DS_HEX_SIZE];
    for (int k = 0; k < 2; k++) {
        ds_picture_stream *s;
        ds_picture_options o = {.folder = a,
                                .mode = DS_FID_PYTORCH_FID,
                                .n = 5,
                                .seed = 3,
                                .batch = 2,
                                .decoders = 1 + 3 * k};
        const float *images[2];
        int64_t at[2], last = -1;
        int count, sum = 0;
        must(ds_picture_stream_open(&s, &o, &err), &err);
        ck_assert_int_eq(ds_picture_stream_total(s), 5);
        for (;;) {
            must(ds_picture_stream_next(s, images, at, &count, &err), &err);
            if (!count)
                break;
            for (int i = 0; i < count; i++) {
                ck_assert_int_gt(at[i], last);
                last = at[i];
                for (size_t j = 0; j < DS_INCEPTION_PIXELS; j += 97)
                    ck_assert(images[i][j] >= -1 && images[i][j] <= 1);
            }
            sum += count;
        }
        ck_assert_int_eq(sum, 5);
        ds_picture_stream_digest(s, digest[k]);
        ds_picture_stream_close(s);
        must(ds_picture_stream_open(&s, &o, &err), &err); /* closed in the middle */
        must(ds_picture_stream_next(s, images, at, &count, &err), &err);
        ds_picture_stream_close(s);
    }
    ck_assert_str_eq(digest[0], digest[1]);
    free(a);
}
END_TEST

/* ---------------------------------------------------------------- FID's network */

START_TEST(import_is_canonical) {
    char *file = write_net("net.safetensors", NULL, DS_INCEPTION_LOGITS), *nets = in_tmp("nets");
    ds_import_result r, again;
    ds_error err = {0};
    ck_assert_msg(
        !ds_import_feature_net(&(ds_import_options){.source = file, .out_dir = nets}, &r, &err),
        "%s", err.message);
    ck_assert_str_eq(r.name, "net");
    ck_assert_int_eq(r.parameters, 23885392);
    ck_assert_str_eq(ds_json_string(r.config, "kind", ""), DS_FID_NET_KIND);
    ck_assert_msg(!ds_import_feature_net(&(ds_import_options){.source = r.file, .out_dir = nets},
                                         &again, &err),
                  "%s", err.message);
    ck_assert_str_eq(again.sha256, r.sha256); /* importing an imported file changes nothing */
    ck_assert_str_eq(again.file, r.file);
    json_decref(again.config);
    json_decref(r.config);
    char *torchvision = write_net("tv.safetensors", NULL, 1000),
         *short_of = write_net("short.safetensors", "Mixed_7c.branch_pool.bn.bias", 1008);
    ck_assert_int_eq(ds_import_feature_net(
                         &(ds_import_options){.source = torchvision, .out_dir = nets}, &r, &err),
                     DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "1008"));
    ck_assert_int_eq(
        ds_import_feature_net(&(ds_import_options){.source = short_of, .out_dir = nets}, &r, &err),
        DS_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.message, "Mixed_7c.branch_pool.bn.bias"));
    ck_assert_int_eq(
        ds_import_feature_net(&(ds_import_options){.source = "/nonexistent.pth", .out_dir = nets},
                              &r, &err),
        DS_ENOTFOUND);
    free(torchvision), free(short_of), free(file), free(nets);
}
END_TEST

/* A network that somebody saved in half precision measures something a little else. */
START_TEST(rounded_weights_are_said) {
    char *file = write_net("f32.safetensors", NULL, DS_INCEPTION_LOGITS),
         *half = in_tmp("f16.safetensors"), *nets = in_tmp("rounded"), *bytes;
    size_t n;
    ds_st *st;
    ds_import_result r;
    ds_error err;
    must(ds_st_open_file(file, 1 << 30, 0, &st, &err), &err);
    ds_st_writer *w = ds_st_writer_new();
    float bias[DS_INCEPTION_LOGITS];
    for (size_t i = 0; i < ds_st_count(st); i++) {
        const ds_st_tensor *t = ds_st_at(st, i);
        if (strcmp(t->name, "fc.bias")) {
            ds_st_writer_add(w, t->name, t->dtype, t->ndim, t->shape, t->data);
            continue;
        }
        must(ds_st_read_f32(st, t, bias, &err), &err);
        ds_st_writer_add_f32(w, t->name, DS_ST_F16, t->ndim, t->shape, bias);
    }
    must(ds_st_writer_finish(w, &bytes, &n, &err), &err);
    must(ds_fs_write(half, bytes, n, &err), &err);
    for (int i = 0; i < 2; i++) {
        ds_import_report *report = ds_import_report_new();
        ds_import_options o = {.source = i ? half : file, .out_dir = nets, .report = report};
        must(ds_import_feature_net(&o, &r, &err), &err);
        const json_t *list = json_object_get(ds_import_report_json(report), "assumed");
        ck_assert_str_eq(ds_json_string(json_array_get(list, 0), "value", ""), i ? "F16" : "");
        json_decref(r.config);
        ds_import_report_free(report);
    }
    ds_st_writer_free(w);
    ds_st_free(st);
    free(bytes), free(half), free(file), free(nets);
}
END_TEST

/* From files on a disk to the number that pytorch-fid gives for them. */
START_TEST(fid_end_to_end) {
    if (SANITIZED) {
        ds_test_skip("fid_end_to_end", "minutes under the address sanitizer");
        return;
    }
    char *file = write_net("whole.safetensors", NULL, DS_INCEPTION_LOGITS);
    char *a = make_folder("s", 1000, 24, 40, 36), *b = make_folder("r", 2000, 24, 40, 36);
    ds_st *golden;
    ds_error err;
    must(ds_st_open_file(GOLDEN_FILE, 4 << 20, 0, &golden, &err), &err);
    static const char *const modes[][2] = {{"pytorch-fid", "torch-bilinear/2x-1/1"},
                                           {"clean", "pil-bicubic-f32/128/1"}};
    for (int k = 0; k < 2; k++) {
        char name[64];
        double want;
        snprintf(name, sizeof name, "value.%s", modes[k][0]);
        memcpy(&want, ds_st_find(golden, name)->data, sizeof want);
        said s = run(a, "--against", b, "--feature-net", file, "--mode", modes[k][0], "--json",
                     "--quiet", "--metrics", k ? "fid" : "fid,is", NULL);
        json_t *doc = document(&s);
        check_rows(doc, modes[k][1], "pillow-13", 0);
        double fid = ds_json_number(metric(doc, "fid"), "value", 0);
        printf("%s: %.5f, the tool's %.5f\n", modes[k][0], fid, want);
        ck_assert_double_lt(fabs(fid - want), 0.01);
        json_decref(doc);
        said_free(&s);
    }
    ds_st_free(golden);
    free(file), free(a), free(b);
}
END_TEST

/* ---------------------------------------------------------------- wrong calls */

START_TEST(wrong_calls) {
    char *a = make_folder("w", 0, 2, 16, 16), *empty = in_tmp("empty"),
         *one = make_folder("one", 0, 1, 16, 16), *stats = make_npz("w.npz", 0, 0, 0, 0, 768, 0);
    ds_error err;
    must(ds_fs_mkdirs(empty, &err), &err);
    const struct {
        const char *args[8];
        int exit;
        const char *says;
    } calls[] = {
        {{a}, 2, "against what?"},
        {{a, "--against", "/nonexistent"}, 3, "cannot find '/nonexistent'"},
        {{a, "--against", "Makefile"}, 2, "no folder, no .npz"},
        {{"--against", a}, 2, "which folder?"},
        {{a, a, "--against", a}, 2, "one folder at a time"},
        {{empty, "--against", a}, 2, "has no picture file"},
        {{one, "--against", a}, 2, "Mixed_6c): 1, need 2"},
        {{a, "--against", a, "--mode", "clean"}, 2, "pt_inception-2015-12-05-6726825d.pth"},
        {{a, "--against", a, "--metrics", "fid,cmmd"}, 2, "no metric 'cmmd'"},
        {{a, "--against", a, "--metrics", "kid,fid,kid"}, 2, "names kid twice"},
        {{a, "--against", a, "--metrics", "is"}, 2, "Inception Score"},
        {{a, "--against", stats, "--metrics", "kid"}, 2, "needs the pictures of both sides"},
        {{a, "--against", stats, "--metrics", "pr"}, 2, "needs the pictures of both sides"},
        {{stats, "--against", a, "--metrics", "kid"}, 2, "needs the pictures of both sides"},
        {{stats, "--save-stats", "y.npz"}, 2, "no pictures whose statistics"},
        {{a, "--save-stats", "y.npz", "--metrics", "kid"}, 2, "needs two sides"},
        {{a, "--against", "x.npz"}, 3, "x.npz"},
        {{a, "--against", a, "--n", "-3"}, 2, "--n"},
        {{a, "--against", a, "--seed", "1.5"}, 2, "whole number"},
        {{a, "--against", a, "--frobnicate"}, 2, "--frobnicate"},
        {{a, "--against", a, "--mode", "tensorflow"}, 2, "tensorflow"},
        {{a, "--against", a, "--device", "gpu"}, 2, "gpu"},
        {{a, "--against", a, "--threads", "257"}, 2, "from 0 to 256"},
        {{a, "--against", a, "--seed", "-1"}, 2, "from 0 to 9"},
        {{a, "--against", a, "--n", "1e99"}, 2, "--n"},
        {{a, "--against", a, "--n", ""}, 2, "--n"},
        {{a, "--against", a, "--n", "3x"}, 2, "'3x'"},
        {{a, "--against", a, "--metrics", ""}, 2, "names none"},
        {{a, "--against", a, "--metrics", "fi"}, 2, "no metric 'fi'"},
        {{a, "--against", a, "--seed", "1", "--seed", "2"}, 2, "--seed is given twice"},
        {{a, "--against"}, 2, "--against needs a value WHAT"},
        {{a, "--against", a, "--precision", "bf16"}, 2, "use f32 or tf32"},
        {{a, "--against", a, "--precision", "f64"}, 2, "'f64'"},
        {{a, "--against", a, "--device", "cpu", "--precision", "tf32"}, 2, "knows no tf32"},
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        const char *const *v = calls[i].args;
        int net = !strstr(calls[i].says, "pt_inception");
        said s =
            net ? run("--feature-net", FEATURE_NET, v[0], v[1], v[2], v[3], v[4], v[5], v[6], NULL)
                : run(v[0], v[1], v[2], v[3], v[4], NULL);
        ck_assert_msg(s.exit == calls[i].exit && strstr(s.err, calls[i].says), "%zu: exit %d: %s",
                      i, s.exit, s.err);
        ck_assert_str_eq(s.out, "");
        said_free(&s);
    }
    free(a), free(empty), free(one), free(stats);
}
END_TEST

START_TEST(help_is_printed) {
    static const char *const forms[] = {"--help", "-h"};
    for (int i = 0; i < 2; i++) {
        said s = run(forms[i], NULL);
        ck_assert_int_eq(s.exit, 0);
        ck_assert_str_eq(s.err, "");
        ck_assert_int_eq(strncmp(s.out, "usage: diffscaler-worker evaluate SAMPLES", 41), 0);
        ck_assert(strstr(s.out, "--save-stats") && strstr(s.out, "examples:"));
        said_free(&s);
    }
}
END_TEST

/* A program in a folder of its own: its network is where an installation has it, or is named. */
START_TEST(the_bundled_network_is_found) {
    char *a = make_folder("own", 0, 3, 16, 16), *bin = in_tmp("prefix/lib/bin"),
         *program = in_tmp("prefix/lib/bin/program"), *out = in_tmp("found.npz"), full[PATH_MAX];
    static const char *const places[] = {
        NULL, "prefix/models", "prefix/lib/share/diffscaler/models", "prefix/lib/bin/models"};
    ds_error err;
    ck_assert_ptr_nonnull(realpath("models", full));
    must(ds_fs_mkdirs(bin, &err), &err);
    must(ds_fs_copy("/proc/self/exe", program, &err), &err);
    ck_assert(!chmod(program, 0755));
    for (int i = 0; i < 4; i++) {
        char *place = places[i] ? in_tmp(places[i]) : NULL, *slash = place;
        if (place) {
            slash = strrchr(place, '/');
            *slash = 0;
            must(ds_fs_mkdirs(place, &err), &err);
            *slash = '/';
            ck_assert(!symlink(full, place));
        }
        char *log = in_tmp("err.txt");
        fflush(NULL);
        pid_t pid = fork();
        if (!pid) {
            if (!freopen(log, "w", stderr))
                _exit(99);
            execl(program, "program", "evaluate", a, "--save-stats", out, "--force", "--quiet",
                  (char *)NULL);
            _exit(98);
        }
        char *text;
        ck_assert_int_eq(wait_job(pid), places[i] ? 0 : 3);
        text = slurp(log);
        ck_assert_msg(!places[i] == !!strstr(text, "cannot find the bundled network"), "%s", text);
        if (place)
            ck_assert(!unlink(place));
        free(text);
        free(log);
        free(place);
    }
    free(a), free(bin), free(program), free(out);
}
END_TEST

/* A number that is none is no row of the result; the reason says which. */
START_TEST(numbers_that_are_none) {
    enum { DIM = 2 };
    static double mu[2][DIM], sigma[DIM * DIM] = {1, 0, 0, 1};
    for (int bad = 0; bad < 2; bad++) {
        ds_device dev = {.device_class = "cpu-x"};
        ds_ev_run e = {.dev = &dev, .rows = json_array()};
        ds_error err = {0};
        ds_npz_stats st = {.mu = mu[0], .sigma = sigma, .dim = DIM, .n = 9};
        e.fake.stats = e.real.stats = st;
        e.real.stats.mu = mu[1];
        mu[1][0] = bad ? 1e200 : 3; /* whose square is no number */
        e.fake.from_stats = e.real.from_stats = e.o.want = DS_FID_WANT_FID;
        e.o.against = "x";
        e.o.quiet = 1;
        e.o.mode = DS_FID_CLEAN;
        e.notes = json_array();
        int rc = ds_ev_metrics[0].add(&e, &err);
        ck_assert_int_eq(!rc, !bad);
        ck_assert_uint_eq(json_array_size(e.rows), !bad);
        if (bad)
            ck_assert_msg(strstr(err.message, "finite") != NULL, "%s", err.message);
        else {
            const json_t *r = json_array_get(e.rows, 0);
            ck_assert_double_eq_tol(ds_json_number(r, "value", 0), 9, 1e-9);
            ck_assert_int_eq(ds_json_int(r, "n", 0), 9);
            ck_assert_int_eq(ds_json_int(r, "n_reference", 0), 9);
            ck_assert_str_eq(ds_json_string(r, "metric", ""), "fid");
            ck_assert_str_eq(ds_json_string(r, "name", ""), "FID");
        }
        json_decref(e.rows);
        json_decref(e.notes);
    }
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, bundled_folders);
    tcase_add_test(tc, files_left_out_and_n);
    tcase_add_test(tc, stream_order);
    tcase_add_test(tc, import_is_canonical);
    tcase_add_test(tc, rounded_weights_are_said);
    tcase_add_test(tc, fid_end_to_end);
    tcase_add_test(tc, wrong_calls);
    tcase_add_test(tc, help_is_printed);
    tcase_add_test(tc, the_bundled_network_is_found);
    tcase_add_test(tc, numbers_that_are_none);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "evaluate"))
        return ds_worker_evaluate(argc - 2, argv + 2);
    int rc = fixture_dispatch(argc, argv);
    return rc >= 0 ? rc : ds_test_main("worker_evaluate", register_cases);
}
