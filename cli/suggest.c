/* cli/suggest.c - "did you mean": the nearest known word by edit distance. */
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/follow.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_WORD = 64, MAX_NAMES = 4000 };

static int least(int a, int b) { return a < b ? a : b; }

/* Optimal string alignment distance: insertions, deletions, changes and swaps of neighbours. */
static int distance(const char *a, const char *b) {
    int n = (int)strlen(a), m = (int)strlen(b);
    int d[MAX_WORD + 1][MAX_WORD + 1];
    if (n > MAX_WORD || m > MAX_WORD)
        return MAX_WORD;
    for (int i = 0; i <= n; i++)
        for (int j = 0; j <= m; j++) {
            if (!i || !j) {
                d[i][j] = i + j;
                continue;
            }
            int change = a[i - 1] != b[j - 1];
            d[i][j] = least(d[i - 1][j - 1] + change, least(d[i - 1][j], d[i][j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[n][m];
}

const char *ds_suggest(const char *word, const char *const *words, size_t count) {
    const char *best = NULL;
    size_t n = strlen(word);
    int limit = n < 4 ? 2 : 3 + (int)n / 8, best_d = limit;
    for (size_t i = 0; i < count; i++) {
        int d = distance(word, words[i]);
        /* "list" or "adapters" for "list-adapters": a whole part of the name is near as well. */
        if (n >= 3 && d && strstr(words[i], word))
            d = least(d, limit - 1);
        if (d > 0 && d < best_d) {
            best = words[i];
            best_d = d;
        }
    }
    return best;
}

static void add_word(char **words, size_t *count, char *word) {
    if (*count < MAX_NAMES)
        words[(*count)++] = word;
    else
        free(word);
}

static void add_adapter(char **words, size_t *count, const json_t *a, int with_version) {
    const char *name = ds_json_string(a, "name", NULL), *ref = ds_json_string(a, "ref", NULL);
    if (!with_version) {
        if (name)
            add_word(words, count, ds_xstrdup(name));
        return;
    }
    if (ref)
        add_word(words, count, ds_xstrdup(ref));
    size_t i;
    json_t *alias;
    json_array_foreach(json_object_get(a, "aliases"), i, alias) {
        if (name && json_is_string(alias))
            add_word(words, count, ds_xasprintf("%s@%s", name, json_string_value(alias)));
    }
}

void ds_suggest_name(ds_cli *c, const char *given, int adapters, ds_error *err) {
    json_t *items = NULL;
    char *next = NULL;
    if (!err || err->code != DS_ENOTFOUND || !strncmp(given, "sha256:", 7) ||
        ds_fetch_list(c, adapters ? "/v1/adapters" : "/v1/datasets", 1000, &items, &next, NULL))
        return;
    char **words = ds_xcalloc(MAX_NAMES, sizeof *words);
    size_t count = 0, i;
    json_t *item;
    json_array_foreach(items, i, item) {
        if (adapters)
            add_adapter(words, &count, item, strchr(given, '@') != NULL);
        else
            add_word(words, &count, ds_xstrdup(ds_json_string(item, "name", "")));
    }
    const char *near = ds_suggest(given, (const char *const *)words, count);
    size_t n = strlen(err->message);
    if (near)
        snprintf(err->message + n, sizeof err->message - n, "; did you mean '%s'?", near);
    else if (!count)
        snprintf(err->message + n, sizeof err->message - n, "; there is none yet");
    for (i = 0; i < count; i++)
        free(words[i]);
    free(words);
    free(next);
    json_decref(items);
}
