/* worker/images/metadata_csv.c - a small strict CSV reader. */
#include "worker/images/metadata_csv.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct {
    const char *name, *p, *end;
    int64_t line; /* of p, from 1 */
    ds_buf field;
    int quoted;
} reader;

enum token { FIELD, LAST_FIELD, END_OF_TEXT, BAD };

static void end_of_line(reader *r) {
    if (r->p < r->end && *r->p == '\r')
        r->p++;
    if (r->p < r->end && *r->p == '\n')
        r->p++;
    r->line++;
}

static int at_line_end(const reader *r) { return r->p == r->end || *r->p == '\r' || *r->p == '\n'; }

static enum token finish_field(reader *r) {
    if (at_line_end(r)) {
        end_of_line(r);
        return LAST_FIELD;
    }
    r->p++; /* the comma */
    return FIELD;
}

static int read_quoted(reader *r, ds_error *err) {
    int64_t start = r->line;
    r->p++;
    for (;;) {
        if (r->p == r->end)
            return ds_fail(err, DS_EINVAL, "'%s' line %lld: the quote is never closed", r->name,
                           (long long)start);
        if (*r->p == '"') {
            if (r->p + 1 == r->end || r->p[1] != '"')
                break;
            r->p++;
        }
        r->line += *r->p == '\n';
        ds_buf_add(&r->field, r->p++, 1);
    }
    r->p++;
    if (!at_line_end(r) && *r->p != ',')
        return ds_fail(err, DS_EINVAL, "'%s' line %lld: text after the closing quote", r->name,
                       (long long)r->line);
    return 0;
}

/* The next field into r->field. */
static enum token next_field(reader *r, ds_error *err) {
    r->field.len = 0;
    ds_buf_add(&r->field, "", 0);
    r->quoted = 0;
    if (r->p == r->end)
        return END_OF_TEXT;
    if (*r->p == '"') {
        r->quoted = 1;
        if (read_quoted(r, err))
            return BAD;
        return finish_field(r);
    }
    const char *start = r->p;
    while (!at_line_end(r) && *r->p != ',')
        r->p++;
    ds_buf_add(&r->field, start, (size_t)(r->p - start));
    return finish_field(r);
}

static int read_header(reader *r, int *path_column, int *label_column, ds_error *err) {
    *path_column = *label_column = -1;
    for (int column = 0;; column++) {
        enum token t = next_field(r, err);
        if (t == BAD)
            return err ? err->code : DS_EINVAL;
        if (t == END_OF_TEXT)
            break;
        if (!strcasecmp(r->field.data, "file_name"))
            *path_column = column;
        else if (!strcasecmp(r->field.data, "label"))
            *label_column = column;
        if (t == LAST_FIELD)
            break;
    }
    if (*path_column < 0 || *label_column < 0)
        return ds_fail(err, DS_EINVAL,
                       "'%s': the first line must name the columns file_name and label", r->name);
    return 0;
}

static const char *label_problem(const char *label) {
    if (!*label)
        return "empty label";
    if (strlen(label) > DS_LABEL_MAX)
        return "label longer than 255 bytes";
    return ds_name_problem(label) ? "label is not printable UTF-8" : NULL;
}

/* One row whose two fields are known; takes the strings. */
static void add_row(ds_csv_table *t, char *path, char *label, int64_t line,
                    ds_rejected_list *rejected) {
    const char *plain = !strncmp(path, "./", 2) ? path + 2 : path;
    const char *problem = ds_name_problem(plain);
    if (!problem && !ds_path_beneath(plain))
        problem = "path leaves the folder";
    if (!problem)
        problem = label_problem(label);
    if (problem) {
        ds_rejected_add(rejected, path, "%s (metadata.csv line %lld)", problem, (long long)line);
        free(path);
        free(label);
        return;
    }
    if (t->count == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 256;
        t->rows = ds_xrealloc(t->rows, (size_t)t->cap * sizeof *t->rows);
    }
    if (plain != path)
        memmove(path, plain, strlen(plain) + 1);
    t->rows[t->count++] = (ds_csv_row){path, label, line, 0};
}

/* Reads one row; 1 a row, 0 end, negative an error. */
static int read_row(reader *r, ds_csv_table *t, int path_column, int label_column,
                    ds_rejected_list *rejected, ds_error *err) {
    char *path = NULL, *label = NULL;
    int64_t line = r->line;
    int column = 0, blank = 0;
    for (;; column++) {
        enum token k = next_field(r, err);
        if (k == BAD || k == END_OF_TEXT) {
            int rc = k == BAD ? (err ? err->code : DS_EINVAL) : 0;
            if (k == END_OF_TEXT && column == 0)
                return 0;
            if (k == END_OF_TEXT) /* "a," at the very end: an empty last field */
                k = LAST_FIELD;
            else {
                free(path);
                free(label);
                return rc;
            }
        }
        if (column == path_column)
            path = ds_xstrdup(r->field.data);
        else if (column == label_column)
            label = ds_xstrdup(r->field.data);
        blank = column == 0 && !r->field.len && !r->quoted;
        if (strlen(r->field.data) != r->field.len)
            break; /* a zero byte */
        if (k == LAST_FIELD)
            break;
    }
    if (path && label && strlen(r->field.data) == r->field.len) {
        add_row(t, path, label, line, rejected);
        return 1;
    }
    free(path);
    free(label);
    if (blank)
        return 1;
    return ds_fail(err, DS_EINVAL,
                   "'%s' line %lld: too few columns: it has no file_name or no label", r->name,
                   (long long)line);
}

static int by_path(const void *a, const void *b) {
    const ds_csv_row *x = a, *y = b;
    int d = strcmp(x->path, y->path);
    return d ? d : (x->line > y->line) - (x->line < y->line);
}

/* Sort; equal rows become one; a file with two labels is rejected. */
static void make_unique(ds_csv_table *t, ds_rejected_list *rejected) {
    if (t->count)
        qsort(t->rows, (size_t)t->count, sizeof *t->rows, by_path);
    int64_t kept = 0;
    for (int64_t i = 0; i < t->count;) {
        int64_t next = i + 1;
        int differs = 0;
        while (next < t->count && !strcmp(t->rows[next].path, t->rows[i].path)) {
            differs |= strcmp(t->rows[next].label, t->rows[i].label) != 0;
            free(t->rows[next].path);
            free(t->rows[next].label);
            next++;
        }
        if (differs) {
            ds_rejected_add(rejected, t->rows[i].path,
                            "metadata.csv gives it two different labels");
            free(t->rows[i].path);
            free(t->rows[i].label);
        } else {
            t->rows[kept++] = t->rows[i];
        }
        i = next;
    }
    t->count = kept;
}

int ds_csv_parse(ds_csv_table *out, const char *name, const char *text, size_t n, int64_t max_rows,
                 ds_rejected_list *rejected, ds_error *err) {
    *out = (ds_csv_table){0};
    reader r = {.name = name, .p = text, .end = text + n, .line = 1};
    if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
        r.p += 3;
    ds_error local = {0};
    int path_column, label_column;
    int rc = read_header(&r, &path_column, &label_column, &local);
    int more = rc == 0;
    while (more) {
        rc = read_row(&r, out, path_column, label_column, rejected, &local);
        more = rc > 0;
        if (out->count > max_rows) {
            rc = ds_fail(&local, DS_EINVAL,
                         "'%s' has more than %lld rows, the limit: make several data sets of it",
                         name, (long long)max_rows);
            more = 0;
        }
    }
    ds_buf_release(&r.field);
    if (rc < 0) {
        ds_csv_release(out);
        return ds_fail(err, local.code, "%s", local.message);
    }
    make_unique(out, rejected);
    return 0;
}

ds_csv_row *ds_csv_find(const ds_csv_table *t, const char *path) {
    int64_t lo = 0, hi = t->count;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int d = strcmp(t->rows[mid].path, path);
        if (!d)
            return &t->rows[mid];
        if (d < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

void ds_csv_release(ds_csv_table *t) {
    for (int64_t i = 0; i < t->count; i++) {
        free(t->rows[i].path);
        free(t->rows[i].label);
    }
    free(t->rows);
    *t = (ds_csv_table){0};
}
