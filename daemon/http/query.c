/* daemon/http/query.c - see query.h. */
#include "daemon/http/query.h"

#include "base/suggest.h"

#include <ctype.h>
#include <microhttpd.h>
#include <stdio.h>
#include <string.h>

enum { MOST_WORDS = 16, WORD = 32 };

/* The place of a word in "a|b?|c", or NULL; *flag: it has a '?'. */
static const char *find(const char *known, const char *word, int *flag) {
    size_t n = strlen(word);
    for (const char *p = known; p && *p;) {
        size_t m = strcspn(p, "|"), name = m && p[m - 1] == '?' ? m - 1 : m;
        *flag = name != m;
        if (n && name == n && !memcmp(p, word, n))
            return p;
        p += m + (p[m] == '|');
    }
    return NULL;
}

int ds_word_known(const char *known, const char *word) {
    int flag;
    return find(known, word, &flag) != NULL;
}

/* "limit, cursor and state" into out; the words themselves into words, for suggestions. */
static size_t list(const char *known, char words[MOST_WORDS][WORD], char *out, size_t size) {
    size_t count = 0, at = 0;
    out[0] = 0;
    for (const char *p = known; p && *p && count < MOST_WORDS;) {
        size_t m = strcspn(p, "|");
        int last = p[m] != '|';
        snprintf(words[count], WORD, "%.*s", (int)(m && p[m - 1] == '?' ? m - 1 : m), p);
        int n = snprintf(out + at, size - at, "%s%s",
                         !count  ? ""
                         : !last ? ", "
                                 : " and ",
                         words[count]);
        at = n > 0 && at + (size_t)n < size ? at + (size_t)n : at;
        count++;
        p += m + (p[m] == '|');
    }
    return count;
}

static int unknown(const char *what, const char *known, const char *word, ds_error *err) {
    char words[MOST_WORDS][WORD], all[320];
    const char *list_of[MOST_WORDS];
    size_t n = list(known, words, all, sizeof all);
    for (size_t i = 0; i < n; i++)
        list_of[i] = words[i];
    const char *near = ds_suggest(word, list_of, n);
    if (!n)
        return ds_fail(err, DS_EINVAL, "%s '%.60s' is not known here: there are none", what, word);
    if (near)
        return ds_fail(err, DS_EINVAL,
                       "%s '%.60s' is not known here: did you mean '%s'? There are %s", what, word,
                       near, all);
    return ds_fail(err, DS_EINVAL, "%s '%.60s' is not known here: there are %s", what, word, all);
}

/* ---- the query ---- */

enum { MOST_SEEN = 32 };

typedef struct {
    const char *known;
    const char *seen[MOST_SEEN];
    int count, rc;
    ds_error *err;
} check;

static int flag_value(const char *v) {
    static const char *const yes[] = {"1", "true", "yes"}, *const no[] = {"0", "false", "no"};
    if (!v)
        return 1;
    for (int i = 0; i < 3; i++) {
        if (strcmp(v, yes[i]) == 0)
            return 1;
        if (strcmp(v, no[i]) == 0)
            return 0;
    }
    return *v ? -1 : 1;
}

static int check_one(check *c, const char *key, const char *value) {
    int flag;
    if (!find(c->known, key, &flag))
        return unknown("query parameter", c->known, key, c->err);
    for (int i = 0; i < c->count; i++)
        if (strcmp(c->seen[i], key) == 0)
            return ds_fail(c->err, DS_EINVAL, "query parameter '%s' is given twice", key);
    if (c->count < MOST_SEEN)
        c->seen[c->count++] = key;
    if (flag && flag_value(value) < 0)
        return ds_fail(c->err, DS_EINVAL, "query parameter '%s' is '%.40s', must be 1 or 0", key,
                       value);
    if (!flag && (!value || !*value))
        return ds_fail(c->err, DS_EINVAL,
                       "query parameter '%s' has no value: leave it out, or give one", key);
    return 0;
}

static enum MHD_Result on_parameter(void *cls, enum MHD_ValueKind kind, const char *key,
                                    const char *value) {
    (void)kind;
    check *c = cls;
    c->rc = check_one(c, key ? key : "", value);
    return c->rc ? MHD_NO : MHD_YES;
}

int ds_query_check(struct MHD_Connection *connection, const char *known, ds_error *err) {
    check c = {.known = known, .err = err};
    MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, on_parameter, &c);
    return c.rc;
}

/* MHD_lookup_connection_value gives NULL for "?follow" as it does for an absent one. */
typedef struct {
    const char *key;
    int is;
} flag_search;

static enum MHD_Result on_flag(void *cls, enum MHD_ValueKind kind, const char *key,
                               const char *value) {
    (void)kind;
    flag_search *f = cls;
    if (key && strcmp(key, f->key) == 0)
        f->is = flag_value(value) > 0;
    return MHD_YES;
}

int ds_query_flag(struct MHD_Connection *connection, const char *key) {
    flag_search f = {.key = key};
    MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, on_flag, &f);
    return f.is;
}

const char *ds_query_bad_escape(const char *s) {
    for (; *s; s++) {
        if (*s != '%')
            continue;
        if (!isxdigit((unsigned char)s[1]) || !isxdigit((unsigned char)s[2]))
            return "the URL has a '%' that two hex digits do not follow: write it as %25";
        if (s[1] == '0' && s[2] == '0')
            return "the URL has a zero byte (%00): no name has one";
    }
    return NULL;
}

/* ---- the body ---- */

int ds_body_check(const json_t *body, const char *known, ds_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)body, key, value) {
        if (!ds_word_known(known, key))
            return unknown("member", known, key, err);
    }
    return 0;
}
