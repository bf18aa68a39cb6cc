/* cli/commands/cmd_compare.c - compare: two adapters in numbers, and in pictures from the same
 * noise. */
#include "base/fs.h"
#include "base/mem.h"
#include "base/png_write.h"
#include "cli/bars.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"
#include "cli/pictures.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELL = 96, NEAR = 2, APART = 10 }; /* pixels of the sheet: least side, gaps in and between */

/* ---- numbers ---- */

/* What is known of FD(b) - FD(a); better < 0: b, > 0: a, 0: neither can be told. */
typedef struct {
    double delta, half; /* NaN: not known */
    int paired, better;
    char why_not[200]; /* not comparable: the reason */
} verdict;

static double half_width(const json_t *a) {
    size_t i;
    const json_t *e;
    json_array_foreach(json_object_get(a, "evaluations"), i, e) {
        if (!strcmp(ds_json_string(e, "metric", ""), "fd") &&
            !strcmp(ds_json_string(e, "subject", ""), "adapter"))
            return (ds_json_real(e, "ci_high") - ds_json_real(e, "ci_low")) / 2;
    }
    return NAN;
}

static int differ(const json_t *a, const json_t *b, const char *key) {
    const json_t *x = json_object_get(a, key), *y = json_object_get(b, key);
    return !x || !y || !json_equal(x, y);
}

/* Distances to other pictures, by other networks or of other numbers of samples say nothing of each
 * other. */
static int comparable(const json_t *a, const json_t *b, verdict *v) {
    static const char *const keys[][2] = {
        {"reference_digest", "they were measured against different images"},
        {"feature_net", "they were measured with different networks or preprocessings"},
        {"n", "they were measured with different numbers of samples"}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (differ(a, b, keys[i][0])) {
            snprintf(v->why_not, sizeof v->why_not, "%s", keys[i][1]);
            return 0;
        }
    return 1;
}

/* `b` was measured against `a` before it was published: same pictures, noise and labels. */
static int paired(const json_t *a, const json_t *b, double sign, verdict *v) {
    const json_t *self = json_object_get(json_object_get(b, "gate"), "self"), *bar;
    size_t i;
    json_array_foreach(json_object_get(self, "bars"), i, bar) {
        double now = ds_json_real(bar, "fd_now"), then = ds_json_real(bar, "fd_bar"),
               se = ds_json_real(bar, "std_error");
        if (strcmp(ds_json_string(bar, "ref", ""), ds_json_string(a, "ref", "?")) ||
            !isfinite(now - then) || !isfinite(se))
            continue;
        v->delta = sign * (now - then);
        v->half = 2 * se;
        v->paired = 1;
        return 1;
    }
    return 0;
}

static verdict judge(const json_t *a, const json_t *b) {
    verdict v = {.delta = NAN, .half = NAN};
    if (!paired(a, b, 1, &v) && !paired(b, a, -1, &v) && comparable(a, b, &v)) {
        v.delta = ds_json_real(b, "fd") - ds_json_real(a, "fd");
        v.half = hypot(half_width(a), half_width(b));
    }
    if (isfinite(v.delta) && isfinite(v.half) && fabs(v.delta) > v.half)
        v.better = v.delta < 0 ? -1 : 1;
    return v;
}

static void row(ds_table *t, const char *what, const char *a, const char *b) {
    ds_cell(t, what);
    ds_cell(t, a);
    ds_cell(t, b);
}

static const char *fd_text(char out[DS_TEXT], const json_t *a) {
    char x[DS_TEXT], y[DS_TEXT];
    double h = half_width(a);
    snprintf(out, DS_TEXT, "%.20s%s%.20s", ds_fmt_number(x, ds_json_real(a, "fd")),
             isfinite(h) ? " +- " : "", isfinite(h) ? ds_fmt_number(y, h) : "");
    return out;
}

static const char *made_text(char out[DS_TEXT], const json_t *a) {
    char method[DS_TEXT];
    snprintf(out, DS_TEXT, "%.40s, seed %lld", ds_fmt_method(method, a),
             (long long)ds_json_int(a, "seed", 0));
    return out;
}

static const char *data_text(char out[DS_TEXT], const json_t *a) {
    snprintf(out, DS_TEXT, "%.30s v%lld", ds_json_string(a, "dataset", "-"),
             (long long)ds_json_int(a, "dataset_version", 0));
    return out;
}

static void print_numbers(ds_cli *c, const json_t *a, const json_t *b) {
    char x[DS_TEXT], y[DS_TEXT], head[200];
    snprintf(head, sizeof head, " |%.80s>|%.80s>", ds_json_string(a, "ref", "A"),
             ds_json_string(b, "ref", "B"));
    ds_table *t = ds_table_new(head);
#define NUMBER(what, key)                                                                          \
    row(t, what, ds_fmt_number(x, ds_json_real(a, key)), ds_fmt_number(y, ds_json_real(b, key)))
#define COUNT(what, key)                                                                           \
    row(t, what, ds_fmt_count(x, ds_json_int(a, key, -1)), ds_fmt_count(y, ds_json_int(b, key, -1)))
    row(t, "FD", fd_text(x, a), fd_text(y, b));
    NUMBER("FD of the base", "fd_base");
    NUMBER("KID", "kid");
    if (isfinite(ds_json_real(a, "class_accuracy")) || isfinite(ds_json_real(b, "class_accuracy")))
        row(t, "right class", ds_fmt_classes(x, a), ds_fmt_classes(y, b));
    COUNT("samples measured", "n");
    row(t, "status", ds_json_string(a, "status", NULL), ds_json_string(b, "status", NULL));
    row(t, "images", data_text(x, a), data_text(y, b));
    COUNT("  number", "images");
    COUNT("  classes", "classes");
    COUNT("steps", "steps");
    row(t, "method", made_text(x, a), made_text(y, b));
    COUNT("parameters", "parameters");
    row(t, "size", ds_fmt_bytes(x, ds_json_number(a, "stored_bytes", -1)),
        ds_fmt_bytes(y, ds_json_number(b, "stored_bytes", -1)));
    row(t, "training", ds_fmt_duration(x, ds_json_real(a, "train_seconds")),
        ds_fmt_duration(y, ds_json_real(b, "train_seconds")));
    row(t, "made", ds_fmt_time(x, ds_json_string(a, "created_at", NULL)),
        ds_fmt_time(y, ds_json_string(b, "created_at", NULL)));
#undef NUMBER
#undef COUNT
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

static void print_verdict(ds_cli *c, const json_t *a, const json_t *b, const verdict *v) {
    char x[DS_TEXT], lo[DS_TEXT], hi[DS_TEXT];
    ds_buf s = {0};
    double d = fabs(v->delta);
    const json_t *good = v->delta < 0 ? b : a;
    if (*v->why_not)
        ds_buf_addf(&s, "their FD cannot be compared: %s", v->why_not);
    else if (!isfinite(v->delta))
        ds_buf_addf(&s, "there is no FD to compare");
    else if (!isfinite(v->half))
        ds_buf_addf(&s, "%s has the smaller FD, by %s; without an interval it may be chance",
                    ds_json_string(good, "ref", "?"), ds_fmt_number(x, d));
    else
        ds_buf_addf(&s, "%s%s by FD %s (%s to %s, %s)",
                    v->better ? ds_json_string(good, "ref", "?") : "neither is better for sure: ",
                    v->better ? " is better" : "they differ", ds_fmt_number(x, d),
                    ds_fmt_number(lo, d - v->half), ds_fmt_number(hi, d + v->half),
                    v->paired ? "same pictures and noise" : "two measurements");
    ds_put_clean(c, c->out, s.data);
    fputc('\n', c->out);
    ds_buf_release(&s);
}

/* ---- pictures ---- */

typedef struct {
    uint8_t *px;
    int width, height;
    int64_t n;
} row_of_pictures;

static int keep(void *ud, int64_t index, const uint8_t *rgb, int width, int height, ds_error *err) {
    row_of_pictures *r = ud;
    size_t one = (size_t)width * (size_t)height * 3;
    (void)err;
    r->width = width;
    r->height = height;
    r->n = index + 1;
    r->px = ds_xrealloc(r->px, (size_t)r->n * one);
    memcpy(r->px + (size_t)index * one, rgb, one);
    return 0;
}

static int draw_one(ds_cli *c, const json_t *adapter, row_of_pictures *out, ds_error *err) {
    json_t *body = json_object(), *job = NULL;
    ds_pictures *p;
    int64_t n;
    json_object_set(body, "ref", json_object_get(adapter, "ref"));
    json_object_set_new(body, "n", json_integer((json_int_t)ds_opt_number(c, "n", 16)));
    json_object_set_new(body, "seed", json_integer((json_int_t)ds_opt_number(c, "seed", 1)));
    json_object_set_new(body, "sheet", json_false());
    if (ds_opt_given(c, "class"))
        json_object_set_new(body, "class", json_string(ds_opt_text(c, "class", "")));
    int rc = ds_post_and_follow(c, "/v1/samples", body, &job, err);
    json_decref(body);
    if (!rc)
        rc = ds_job_verdict(job, err);
    if (!rc) {
        ds_pictures_open_fn(&p, keep, out);
        rc = ds_pictures_fetch(p, c->http, ds_json_int(job, "id", 0), NULL, NULL, &n, err);
    }
    json_decref(job);
    return rc;
}

/* Picture i of r at (x0, y0), enlarged to a square of `cell` by repeating pixels. */
static void paste(uint8_t *sheet, int width, int x0, int y0, int cell, const row_of_pictures *r,
                  int64_t i) {
    const uint8_t *px = r->px + (size_t)i * (size_t)r->width * (size_t)r->height * 3;
    for (int y = 0; y < cell; y++)
        for (int x = 0; x < cell; x++)
            memcpy(sheet + ((size_t)(y0 + y) * (size_t)width + (size_t)(x0 + x)) * 3,
                   px + ((size_t)(y * r->height / cell) * (size_t)r->width +
                         (size_t)(x * r->width / cell)) *
                            3,
                   3);
}

static int write_sheet(const row_of_pictures *a, const row_of_pictures *b, const char *target,
                       int force, ds_error *err) {
    int side = a->width > b->width ? a->width : b->width, n = (int)a->n, columns = 1;
    int cell = side < CELL ? CELL / side * side : side;
    while (columns * columns < n)
        columns++;
    int rows = (n + columns - 1) / columns, pair = 2 * cell + NEAR;
    int width = columns * (pair + APART) + APART, height = rows * (cell + APART) + APART;
    size_t bytes = (size_t)width * (size_t)height * 3, size;
    uint8_t *sheet = ds_xmalloc(bytes);
    char *png;
    memset(sheet, 255, bytes);
    for (int i = 0; i < n; i++) {
        int x = APART + i % columns * (pair + APART), y = APART + i / columns * (cell + APART);
        paste(sheet, width, x, y, cell, a, i);
        paste(sheet, width, x + cell + NEAR, y, cell, b, i);
    }
    int rc = ds_png_encode(sheet, width, height, &png, &size, err);
    free(sheet);
    if (rc)
        return rc;
    rc = ds_fs_output_write(target, png, size, force, err);
    free(png);
    return rc;
}

static int make_sheet(ds_cli *c, const json_t *a, const json_t *b, const char *target,
                      ds_error *err) {
    row_of_pictures x = {0}, y = {0};
    int rc = draw_one(c, a, &x, err);
    if (!rc)
        rc = draw_one(c, b, &y, err);
    if (!rc && (x.n != y.n || !x.n))
        rc = ds_fail(err, DS_EINTEGRITY, "the two jobs gave %lld and %lld pictures", (long long)x.n,
                     (long long)y.n);
    if (!rc)
        rc = write_sheet(&x, &y, target, ds_opt_given(c, "force"), err);
    if (!rc && differ(a, b, "class_map"))
        ds_say(c, "note: their classes differ, so a pair has the same noise and, where names "
                  "differ, not the same class");
    free(x.px);
    free(y.px);
    return rc;
}

/* ---- the command ---- */

static int get(ds_cli *c, const char *ref, json_t **out, ds_error *err) {
    ds_buf path = {0};
    ds_buf_addf(&path, "/v1/adapters/");
    ds_url_segment(&path, ref);
    int rc = ds_client_call(c->http, "GET", path.data, NULL, out, err);
    ds_buf_release(&path);
    if (rc)
        ds_suggest_name(c, ref, 1, err);
    return rc;
}

static void sheet_name(const ds_cli *c, char out[PATH_MAX]) {
    const char *given = ds_opt_text(c, "output", NULL);
    if (given)
        snprintf(out, PATH_MAX, "%s", given);
    else
        snprintf(out, PATH_MAX, "%.200s-%.200s.png", c->args[0], c->args[1]);
    for (char *p = out; !given && *p; p++)
        if (strchr("/@:", *p))
            *p = '-';
}

static json_t *real_or_null(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *document(const json_t *a, const json_t *b, const verdict *v, const char *sheet) {
    json_t *doc = json_object(), *fd = json_object();
    json_object_set(doc, "a", (json_t *)(uintptr_t)a);
    json_object_set(doc, "b", (json_t *)(uintptr_t)b);
    json_object_set_new(fd, "difference", real_or_null(v->delta));
    json_object_set_new(fd, "ci_low", real_or_null(v->delta - v->half));
    json_object_set_new(fd, "ci_high", real_or_null(v->delta + v->half));
    json_object_set_new(fd, "paired", json_boolean(v->paired));
    json_object_set(fd, "better",
                    v->better ? json_object_get(v->better < 0 ? b : a, "ref") : json_null());
    json_object_set_new(fd, "reason", *v->why_not ? json_string(v->why_not) : json_null());
    json_object_set_new(doc, "fd", fd);
    json_object_set_new(doc, "sheet", sheet ? json_string(sheet) : json_null());
    return doc;
}

int ds_cmd_compare(ds_cli *c, ds_error *err) {
    char target[PATH_MAX];
    json_t *a = NULL, *b = NULL;
    int draw = !ds_opt_given(c, "no-sheet"), rc = 0;
    static const char *const of_sheet[] = {"output", "force", "n", "class", "seed", "timeout"};
    for (size_t i = 0; !draw && i < sizeof of_sheet / sizeof *of_sheet; i++)
        if (ds_opt_given(c, of_sheet[i]))
            return ds_fail(err, DS_EINVAL, "options --no-sheet and --%s exclude each other",
                           of_sheet[i]);
    sheet_name(c, target);
    if (draw && (rc = ds_png_output_check(target, ds_opt_given(c, "force"), err)))
        return rc;
    if (!(rc = get(c, c->args[0], &a, err)))
        rc = get(c, c->args[1], &b, err);
    verdict v = judge(a, b);
    if (!rc && !c->json && !c->quiet) { /* numbers that exist come before the long work */
        print_numbers(c, a, b);
        print_verdict(c, a, b, &v);
        fflush(c->out);
    }
    if (!rc && draw)
        rc = make_sheet(c, a, b, target, err);
    if (!rc && c->json) {
        json_t *doc = document(a, b, &v, draw ? target : NULL);
        ds_print_json(c, "compare", doc, 1);
        json_decref(doc);
    } else if (!rc && c->quiet)
        fprintf(c->out, "%s\n",
                v.better ? ds_json_string(v.better < 0 ? b : a, "ref", "") : "neither");
    else if (!rc && draw)
        ds_say(c, "pairs of the same noise, %s left and %s right, written to %s",
               ds_json_string(a, "ref", "A"), ds_json_string(b, "ref", "B"), target);
    json_decref(a);
    json_decref(b);
    return rc;
}
