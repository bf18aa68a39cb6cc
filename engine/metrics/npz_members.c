/* engine/metrics/npz_members.c - the zip around the arrays, and the text before their numbers. */
#include "engine/metrics/npz_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER_MAX = 4096, MEMBERS_MAX = 64 };

int ds_npz_open(npz_reader *r, const char *path, ds_error *err) {
    *r = (npz_reader){.path = path, .member = "", .err = err};
    int why = 0, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ds_fail_errno(err, "cannot open '%s'", path);
    close(fd);
    r->zip = zip_open(path, ZIP_RDONLY | ZIP_CHECKCONS, &why);
    if (!r->zip) {
        zip_error_t e;
        zip_error_init_with_code(&e, why);
        ds_fail(err, DS_EINTEGRITY, "'%.200s' is not a whole .npz file: %s", path,
                zip_error_strerror(&e));
        zip_error_fini(&e);
        return DS_EINTEGRITY;
    }
    if (zip_get_num_entries(r->zip, 0) > MEMBERS_MAX)
        return ds_fail(err, DS_ELIMIT, "'%.200s' has more than %d members", path, MEMBERS_MAX);
    return 0;
}

void ds_npz_close(npz_reader *r) {
    ds_npz_close_member(r);
    if (r->zip)
        zip_discard(r->zip);
    r->zip = NULL;
}

void ds_npz_close_member(npz_reader *r) {
    if (r->file)
        zip_fclose(r->file);
    r->file = NULL;
}

int ds_npz_bad(const npz_reader *r, const char *what) {
    return ds_fail(r->err, DS_EINTEGRITY, "'%.200s': member '%s' %s", r->path, r->member, what);
}

int ds_npz_take(const npz_reader *r, void *to, size_t n) {
    for (size_t got = 0; got < n;) {
        zip_int64_t k = zip_fread(r->file, (char *)to + got, n - got);
        if (k < 0)
            return ds_npz_bad(r, "is damaged");
        if (k == 0)
            return ds_npz_bad(r, "is shorter than its header says");
        got += (size_t)k;
    }
    return 0;
}

static const char *skip_spaces(const char *p) {
    while (*p == ' ')
        p++;
    return p;
}

/* p behind `word`, or NULL. */
static const char *expect(const char *p, const char *word) {
    p = skip_spaces(p);
    size_t n = strlen(word);
    return strncmp(p, word, n) ? NULL : p + n;
}

/* "(5,)", "(5, 5)", "()"; digits of at most 9 places. */
static const char *parse_shape(const char *p, npy_header *h) {
    h->ndim = 0;
    if (!(p = expect(p, "(")))
        return NULL;
    for (;;) {
        p = skip_spaces(p);
        if (*p == ')')
            return p + 1;
        int digits = 0;
        int64_t v = 0;
        for (; *p >= '0' && *p <= '9'; p++, digits++)
            v = digits < 9 ? v * 10 + (*p - '0') : v;
        if (digits && *p == 'L') /* a long of Python 2 */
            p++;
        if (!digits || digits > 9 || h->ndim == NPY_DIMS_MAX)
            return NULL;
        h->shape[h->ndim++] = v;
        p = skip_spaces(p);
        if (*p == ',')
            p++;
        else if (*p != ')')
            return NULL;
    }
}

/* A type in quotes, or the list of a structured one: as much as fits into out, NULL where it is
 * none. */
static const char *parse_type(const char *p, char *out, size_t size) {
    const char *from = p = skip_spaces(p), *end = NULL;
    if (*p == '\'')
        end = strchr(++from, '\'');
    for (int depth = 0; *p == '[' || depth; p++) {
        depth += *p == '[' ? 1 : *p == ']' ? -1 : 0;
        if (!*p)
            return NULL;
        end = depth ? end : p + 1;
    }
    if (!end)
        return NULL;
    snprintf(out, size, "%.*s", (int)(end - from), from);
    return *end == '\'' ? end + 1 : end;
}

/* {'descr': '<f8', 'fortran_order': False, 'shape': ..}: each once, in any order. */
static int parse_header(const char *p, npy_header *h) {
    int seen = 0;
    if (!(p = expect(p, "{")))
        return -1;
    for (;;) {
        const char *q;
        p = skip_spaces(p);
        if (*p == '}')
            break;
        if ((q = expect(p, "'descr':"))) {
            if (seen & 1 || !(p = parse_type(q, h->type, sizeof h->type)))
                return -1;
            seen |= 1;
        } else if ((q = expect(p, "'fortran_order':"))) {
            const char *no = expect(q, "False"), *yes = expect(q, "True");
            if ((!no && !yes) || seen & 2)
                return -1;
            h->fortran = yes != NULL;
            p = yes ? yes : no;
            seen |= 2;
        } else if ((q = expect(p, "'shape':"))) {
            if (seen & 4 || !(p = parse_shape(q, h)))
                return -1;
            seen |= 4;
        } else
            return -1;
        p = skip_spaces(p);
        if (*p == ',')
            p++;
        else if (*p != '}')
            return -1;
    }
    p = skip_spaces(p + 1);
    if (*p == '\n')
        p++;
    return seen == 7 && !*p ? 0 : -1;
}

int ds_npz_read_header(const npz_reader *r, npy_header *h) {
    unsigned char head[12];
    char text[HEADER_MAX + 1];
    *h = (npy_header){0};
    int rc = ds_npz_take(r, head, 10);
    if (rc)
        return rc;
    if (memcmp(head, "\x93NUMPY", 6) || head[6] < 1 || head[6] > 3 || head[7] != 0)
        return ds_npz_bad(r, "is not an .npy array of version 1 to 3");
    size_t n = head[8] | (size_t)head[9] << 8;
    if (head[6] >= 2) {
        if ((rc = ds_npz_take(r, head + 10, 2)))
            return rc;
        n |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
    }
    if (n > HEADER_MAX)
        return ds_npz_bad(r, "has too long a header");
    if ((rc = ds_npz_take(r, text, n)))
        return rc;
    text[n] = 0;
    if (strlen(text) != n || parse_header(text, h))
        return ds_npz_bad(r, "has a header that cannot be read");
    h->big = h->type[0] == '>';
    if (strchr("<>|=", h->type[0]) && h->type[1]) {
        char *end;
        long width = strtol(h->type + 2, &end, 10);
        h->kind = h->type[1];
        h->width = *end || width < 1 || width > 16 ? 0 : (int)width;
    }
    return 0;
}

int ds_npz_open_member(npz_reader *r, const char *name) {
    r->member = name;
    zip_int64_t at = zip_name_locate(r->zip, name, 0);
    if (at < 0)
        return 1;
    r->file = zip_fopen_index(r->zip, (zip_uint64_t)at, 0);
    return r->file ? 0
                   : ds_fail(r->err, DS_EINVAL,
                             "'%.200s': member '%s' is encrypted or packed in a way that is not "
                             "supported: pack it with numpy.savez or savez_compressed",
                             r->path, name);
}

int ds_npz_at_end(const npz_reader *r) {
    char more;
    zip_int64_t k = zip_fread(r->file, &more, 1);
    return k == 0  ? 0
           : k < 0 ? ds_npz_bad(r, "is damaged")
                   : ds_npz_bad(r, "is longer than its header says");
}
