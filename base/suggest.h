/* base/suggest.h - "did you mean": the nearest known word by edit distance.  Pure; any thread. */
#ifndef DS_BASE_SUGGEST_H
#define DS_BASE_SUGGEST_H

#include <stddef.h>

/* Nearest of `count` words, or NULL when none is near; never the word itself.  The result is one of
 * `words`. */
const char *ds_suggest(const char *word, const char *const *words, size_t count);

#endif
