/* base/suggest.c - see suggest.h. */
#include "base/suggest.h"

#include <string.h>

enum { MAX_WORD = 64 };

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
