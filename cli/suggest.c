/* cli/suggest.c - "did you mean" for names that diffscalerd knows. */
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/list.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = 4000 };

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
        strstr(err->message, "did you mean") ||
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
