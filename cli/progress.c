/* cli/progress.c - one line of progress: redrawn in place on a terminal, else a line now and then.
 */
#include "base/log.h"
#include "base/mem.h"
#include "cli/follow.h"
#include "cli/format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { BAR = 24, LEAST_BAR = 6, STAGE = 9 };
static const double LINE_EVERY = 30; /* seconds, when not a terminal */

static int silent(const ds_progress *p) { return p->c->quiet || p->c->json; }

void ds_progress_start(ds_progress *p, ds_cli *c) { *p = (ds_progress){.c = c, .last_tenth = -1}; }

void ds_progress_clear(ds_progress *p) {
    if (p->drawn)
        fprintf(p->c->err, "\r\033[J");
    p->drawn = 0;
}

void ds_progress_finish(ds_progress *p) {
    ds_progress_clear(p);
    if (!p->stage[0] || silent(p))
        return;
    char took[DS_TEXT], count[DS_TEXT];
    ds_cli *c = p->c;
    fprintf(c->err, "%s%-*s%s  %s", ds_style_on(c, DS_BOLD), STAGE, p->stage,
            ds_style_off(c, DS_BOLD), ds_fmt_duration(took, ds_monotonic() - p->stage_started));
    if (p->total > 0 && p->bytes)
        fprintf(c->err, "  (%s)", ds_fmt_bytes(count, (double)p->done));
    else if (p->total > 0)
        fprintf(c->err, "  (%s of %lld)", ds_fmt_count(count, p->done), (long long)p->total);
    fputc('\n', c->err);
    fflush(c->err);
    p->stage[0] = 0;
}

void ds_progress_stage(ds_progress *p, const char *stage) {
    if (!strncmp(p->stage, stage, sizeof p->stage - 1))
        return;
    ds_progress_finish(p);
    ds_buf b = {0};
    ds_clean(p->c, &b, stage, 0);
    snprintf(p->stage, sizeof p->stage, "%s", b.data ? b.data : "");
    ds_buf_release(&b);
    p->stage_started = p->last_line = ds_monotonic();
    p->last_tenth = -1;
    p->done = p->total = 0;
    if (p->c->err_tty)
        ds_progress_update(p, stage, NULL);
}

/* "360/800 steps  845 images/s  loss 0.310": what there is, the most telling first. */
static void details(const json_t *progress, ds_buf *out) {
    char a[DS_TEXT], b[DS_TEXT];
    int64_t done = ds_json_int(progress, "done", -1), total = ds_json_int(progress, "total", -1);
    const char *unit = ds_json_string(progress, "unit", "");
    int bytes = !strcmp(unit, "bytes");
    if (bytes && total > 0)
        ds_buf_addf(out, "%s of %s", ds_fmt_bytes(a, (double)done), ds_fmt_bytes(b, (double)total));
    else if (total > 0)
        ds_buf_addf(out, "%s/%s %s", ds_fmt_count(a, done), ds_fmt_count(b, total), unit);
    else if (done >= 0)
        ds_buf_addf(out, "%s %s", ds_fmt_count(a, done), unit);
    double rate = ds_json_real(progress, "rate"),
           images = ds_json_real(progress, "images_per_second"),
           loss = ds_json_real(progress, "loss");
    if (images > 0)
        ds_buf_addf(out, "  %.0f images/s", images);
    else if (rate > 0 && bytes)
        ds_buf_addf(out, "  %s/s", ds_fmt_bytes(a, rate));
    else if (rate > 0)
        ds_buf_addf(out, "  %s %s/s", ds_fmt_number(a, rate), unit);
    if (isfinite(loss))
        ds_buf_addf(out, "  loss %.4f", loss);
}

void ds_progress_text(const json_t *progress, ds_buf *out) {
    char a[DS_TEXT];
    double eta = ds_json_real(progress, "eta_seconds");
    details(progress, out);
    if (eta >= 0)
        ds_buf_addf(out, "  %s left", ds_fmt_seconds(a, eta));
}

/* Leaves out the last field ("  loss 0.31") until the text fits; what cannot fit goes. */
static void fit_fields(ds_buf *text, int columns) {
    while (text->len && ds_width(text->data) > columns) {
        size_t n = text->len;
        while (n && !(text->data[n - 1] == ' ' && n > 1 && text->data[n - 2] == ' '))
            n--;
        text->len = n > 2 ? n - 2 : 0;
        text->data[text->len] = 0;
    }
}

void ds_progress_numbers(const ds_cli *c, const json_t *progress, int columns, int widest,
                         ds_buf *out) {
    double done = ds_json_real(progress, "done"), total = ds_json_real(progress, "total"),
           eta = ds_json_real(progress, "eta_seconds");
    char left[DS_TEXT] = "", percent[16] = "", a[DS_TEXT];
    ds_buf rest = {0};
    if (total > 0 && done >= 0)
        snprintf(percent, sizeof percent, "%3.0f %%", 100 * done / total);
    if (eta >= 0)
        snprintf(left, sizeof left, "%s%s left", *percent ? "  " : "", ds_fmt_seconds(a, eta));
    details(progress, &rest);
    int room = columns - (int)(strlen(percent) + strlen(left));
    fit_fields(&rest, room - 2);
    room -= rest.len ? 2 + ds_width(rest.data) : 0;
    int bar = room - 4 < widest ? room - 4 : widest; /* two ends, two spaces */
    if (*percent && bar >= LEAST_BAR) {
        ds_bar(c, out, done / total, bar);
        ds_buf_addf(out, "  ");
    }
    ds_buf_addf(out, "%s%s%s%s", percent, left, (*percent || *left) && rest.len ? "  " : "",
                rest.data ? rest.data : "");
    ds_buf_release(&rest);
}

/* The width is asked for each time: a window that became narrower would break the line in two.
 * The cursor rests at the start of the line, where a terminal that reflows keeps it, so what is
 * erased next is all of the line however it was broken. */
static void draw(ds_progress *p, const json_t *progress) {
    ds_cli *c = p->c;
    struct winsize ws;
    ds_buf line = {0}, cut = {0};
    if (!ioctl(fileno(c->err), TIOCGWINSZ, &ws) && ws.ws_col)
        c->width = ws.ws_col;
    int columns = c->width > 1 ? c->width - 1 : 79,
        stage = STAGE < columns / 3 ? STAGE : columns / 3;
    ds_buf_addf(&line, "%-*.*s  ", stage, stage, p->stage);
    ds_progress_numbers(c, progress, columns - stage - 2, BAR, &line);
    ds_clean(c, &cut, line.data, columns);
    fprintf(c->err, "\r\033[J%s\r", cut.data);
    fflush(c->err);
    p->drawn = 1;
    ds_buf_release(&line);
    ds_buf_release(&cut);
}

void ds_progress_update(ds_progress *p, const char *stage, const json_t *progress) {
    ds_progress_stage(p, stage);
    if (progress) {
        p->done = ds_json_int(progress, "done", p->done);
        p->total = ds_json_int(progress, "total", p->total);
        p->bytes = !strcmp(ds_json_string(progress, "unit", ""), "bytes");
    }
    if (silent(p))
        return;
    double fraction = p->total > 0 ? (double)p->done / (double)p->total : -1, now = ds_monotonic();
    ds_buf text = {0};
    ds_progress_text(progress, &text);
    int tenth = fraction >= 0 ? (int)(10 * fraction) : -1;
    if (p->c->err_tty) {
        draw(p, progress);
    } else if (progress && (tenth > p->last_tenth || now - p->last_line > LINE_EVERY)) {
        fprintf(p->c->err, "%-*s ", STAGE, p->stage);
        if (fraction >= 0)
            fprintf(p->c->err, " %3.0f %% ", 100 * fraction);
        fputc(' ', p->c->err);
        ds_put_clean(p->c, p->c->err, text.data ? text.data : "");
        fputc('\n', p->c->err);
        fflush(p->c->err);
        p->last_tenth = tenth;
        p->last_line = now;
    }
    ds_buf_release(&text);
}
