/* cli/table.c - tables, labelled fields, bars and colour. */
#include "base/mem.h"
#include "contract/job.h"
#include "cli/format.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COLUMNS = 16, MIN_SHRUNK = 12, GAP = 2, LABEL = 12 };

typedef struct {
    char *text;
    ds_style style;
} cell;

struct ds_table {
    int columns, right[MAX_COLUMNS], shrinks[MAX_COLUMNS];
    char *head[MAX_COLUMNS];
    cell *cells;
    size_t count, cap;
};

const char *ds_style_on(const ds_cli *c, ds_style s) {
    static const char *const seq[] = {
        [DS_PLAIN] = "",       [DS_BOLD] = "\033[1m",   [DS_DIM] = "\033[2m",
        [DS_RED] = "\033[31m", [DS_GREEN] = "\033[32m", [DS_YELLOW] = "\033[33m",
        [DS_BLUE] = "\033[34m"};
    return c->color ? seq[s] : "";
}

const char *ds_style_off(const ds_cli *c, ds_style s) {
    return c->color && s != DS_PLAIN ? "\033[0m" : "";
}

ds_style ds_style_of_state(const char *state) {
    static const struct {
        const char *state;
        ds_style style;
    } known[] = {{DS_WORD_QUEUED, DS_YELLOW},
                 {DS_WORD_RUNNING, DS_BLUE},
                 {DS_WORD_DONE, DS_GREEN},
                 {DS_WORD_REJECTED, DS_RED},
                 {DS_WORD_FAILED, DS_RED},
                 {DS_WORD_CANCELLED, DS_YELLOW},
                 /* of datasets, adapters, gates, findings */
                 {"scanning", DS_BLUE},
                 {"ready", DS_GREEN},
                 {"removed", DS_DIM},
                 {"published", DS_GREEN},
                 {"passed", DS_GREEN},
                 {"refused", DS_RED},
                 {"ok", DS_GREEN},
                 {"note", DS_BLUE},
                 {"warn", DS_YELLOW},
                 {"fail", DS_RED}};
    for (size_t i = 0; state && i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].state, state))
            return known[i].style;
    return DS_PLAIN;
}

ds_table *ds_table_new(const char *spec) {
    ds_table *t = ds_xcalloc(1, sizeof *t);
    while (*spec) {
        DS_ASSERT(t->columns < MAX_COLUMNS);
        size_t n = strcspn(spec, "|"), name = strcspn(spec, "|>~");
        t->head[t->columns] = ds_xasprintf("%.*s", (int)name, spec);
        t->right[t->columns] = memchr(spec, '>', n) != NULL;
        t->shrinks[t->columns] = memchr(spec, '~', n) != NULL;
        t->columns++;
        spec += n + (spec[n] == '|');
    }
    return t;
}

void ds_cell_styled(ds_table *t, ds_style style, const char *text) {
    if (t->count == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->cells = ds_xrealloc(t->cells, t->cap * sizeof *t->cells);
    }
    t->cells[t->count++] = (cell){ds_xstrdup(text && *text ? text : "-"), style};
}

void ds_cell(ds_table *t, const char *text) { ds_cell_styled(t, DS_PLAIN, text); }

static void measure(const ds_table *t, const ds_cli *c, int width[], int indent) {
    int sum = indent;
    for (int k = 0; k < t->columns; k++)
        width[k] = ds_width(t->head[k]);
    for (size_t i = 0; i < t->count; i++) {
        int w = ds_width(t->cells[i].text), k = (int)(i % (size_t)t->columns);
        width[k] = w > width[k] ? w : width[k];
    }
    for (int k = 0; k < t->columns; k++)
        sum += width[k] + (k ? GAP : 0);
    int limit = c->out_tty ? c->width : 0; /* a pipe gets everything */
    for (int k = 0; limit && k < t->columns && sum > limit; k++) {
        int least = width[k] < MIN_SHRUNK ? width[k] : MIN_SHRUNK, cut = sum - limit;
        if (!t->shrinks[k])
            continue;
        cut = cut > width[k] - least ? width[k] - least : cut;
        width[k] -= cut;
        sum -= cut;
    }
}

static void put_cell(const ds_table *t, const ds_cli *c, FILE *f, int k, int width, ds_style style,
                     const char *text) {
    ds_buf b = {0};
    ds_clean(c, &b, text, width);
    int pad = width - ds_width(b.data ? b.data : ""), last = k == t->columns - 1;
    fprintf(f, "%*s%s%s%s%*s", (k ? GAP : 0) + (t->right[k] ? pad : 0), "", ds_style_on(c, style),
            b.data ? b.data : "", ds_style_off(c, style), t->right[k] || last ? 0 : pad, "");
    ds_buf_release(&b);
}

void ds_table_print(ds_table *t, const ds_cli *c, FILE *f, int indent) {
    int width[MAX_COLUMNS];
    measure(t, c, width, indent);
    fprintf(f, "%*s", indent, "");
    for (int k = 0; k < t->columns; k++)
        put_cell(t, c, f, k, width[k], DS_BOLD, t->head[k]);
    fputc('\n', f);
    DS_ASSERT(t->count % (size_t)t->columns == 0);
    for (size_t i = 0; i < t->count; i++) {
        int k = (int)(i % (size_t)t->columns);
        if (!k)
            fprintf(f, "%*s", indent, "");
        put_cell(t, c, f, k, width[k], t->cells[i].style, t->cells[i].text);
        if (k == t->columns - 1)
            fputc('\n', f);
    }
}

void ds_table_free(ds_table *t) {
    if (!t)
        return;
    for (size_t i = 0; i < t->count; i++)
        free(t->cells[i].text);
    for (int k = 0; k < t->columns; k++)
        free(t->head[k]);
    free(t->cells);
    free(t);
}

void ds_field(const ds_cli *c, const char *label, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *text = NULL;
    int n = vasprintf(&text, fmt, ap);
    va_end(ap);
    ds_need(n < 0 ? NULL : text);
    fprintf(c->out, "%s%-*s%s  ", ds_style_on(c, DS_DIM), LABEL, label, ds_style_off(c, DS_DIM));
    ds_put_clean(c, c->out, *text ? text : "-");
    fputc('\n', c->out);
    free(text);
}

void ds_bar(const ds_cli *c, ds_buf *out, double fraction, int columns) {
    /* Eighths of a cell: U+2588 full down to U+258F one eighth. */
    static const char *const part[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    fraction = fraction > 0 ? (fraction < 1 ? fraction : 1) : 0;
    int eighths = (int)lrint(fraction * columns * 8), full = eighths / 8, used = full;
    ds_buf_addf(out, "%s", c->utf8 ? "▕" : "[");
    for (int i = 0; i < full; i++)
        ds_buf_addf(out, "%s", c->utf8 ? "█" : "#");
    if (c->utf8 && eighths % 8) {
        ds_buf_addf(out, "%s", part[eighths % 8]);
        used++;
    }
    for (int i = used; i < columns; i++)
        ds_buf_addf(out, "%s", c->utf8 ? " " : "-");
    ds_buf_addf(out, "%s", c->utf8 ? "▏" : "]");
}

void ds_show_classes(ds_cli *c, const json_t *classes) {
    enum { SHOWN = 12 };
    ds_buf b = {0};
    size_t i, n = json_array_size(classes);
    const json_t *k;
    json_array_foreach((json_t *)(uintptr_t)classes, i, k) {
        char text[DS_TEXT];
        if (i == SHOWN)
            break;
        ds_buf_addf(&b, "%s%s (%s)", i ? ", " : "", ds_json_string(k, "name", "?"),
                    ds_fmt_count(text, ds_json_int(k, "images", -1)));
    }
    if (n > SHOWN)
        ds_buf_addf(&b, " and %zu more (--json has all)", n - SHOWN);
    if (n)
        ds_field(c, "class names", "%s", b.data);
    ds_buf_release(&b);
}
