/* cli/format.c - short texts for human eyes: sizes, counts, durations, times, and text width. */
#include "cli/format.h"
#include "base/log.h"
#include "base/mem.h"
#include "contract/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *ds_fmt_bytes(char out[DS_TEXT], double bytes) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    int u = 0;
    if (!(bytes >= 0))
        return snprintf(out, DS_TEXT, "-"), out;
    while (bytes >= 999.5 && u < 5) {
        bytes /= 1000;
        u++;
    }
    snprintf(out, DS_TEXT, u && bytes < 9.95 ? "%.1f %s" : "%.0f %s", bytes, unit[u]);
    return out;
}

const char *ds_fmt_method(char out[DS_TEXT], const json_t *adapter) {
    long long rank = (long long)ds_json_int(adapter, "rank", 0);
    int n = snprintf(out, DS_TEXT, "%.20s", ds_json_string(adapter, "method", "-"));
    if (rank) /* else it has no low-rank branch */
        snprintf(out + n, DS_TEXT - (size_t)n, ", rank %lld", rank);
    return out;
}

const char *ds_fmt_count(char out[DS_TEXT], int64_t n) {
    char digits[32];
    if (n < 0)
        return snprintf(out, DS_TEXT, "-"), out;
    int k = snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
    for (int i = 0; i < k; i++) {
        if (i && (k - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}

const char *ds_fmt_number(char out[DS_TEXT], double v) {
    double a = fabs(v);
    if (!isfinite(v))
        snprintf(out, DS_TEXT, "-");
    else if (a >= 1e7 || (a < 1e-4 && a > 0))
        snprintf(out, DS_TEXT, "%.2e", v);
    else
        snprintf(out, DS_TEXT, "%.*f", a >= 100 ? 0 : a >= 10 ? 1 : a >= 1 ? 2 : 4, v);
    return out;
}

const char *ds_fmt_seconds(char out[DS_TEXT], double seconds) {
    if (!(seconds >= 0) || seconds > 1e9)
        return snprintf(out, DS_TEXT, "-"), out;
    long long s = (long long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(out, DS_TEXT, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(out, DS_TEXT, "%lld:%02lld", s / 60, s % 60);
    return out;
}

const char *ds_fmt_duration(char out[DS_TEXT], double seconds) {
    if (!(seconds >= 0) || seconds > 1e12)
        return snprintf(out, DS_TEXT, "-"), out;
    long long s = (long long)(seconds + 0.5);
    if (seconds < 9.95)
        snprintf(out, DS_TEXT, "%.1f s", seconds);
    else if (s < 60)
        snprintf(out, DS_TEXT, "%lld s", s);
    else if (s < 3600)
        snprintf(out, DS_TEXT, "%lld min %lld s", s / 60, s % 60);
    else if (s < 48 * 3600)
        snprintf(out, DS_TEXT, "%lld h %lld min", s / 3600, s / 60 % 60);
    else
        snprintf(out, DS_TEXT, "%lld days", s / 86400);
    return out;
}

int64_t ds_time_parse(const char *rfc3339) {
    int64_t ms = -1;
    return ds_time_read(rfc3339, &ms) == DS_TIME_UTC ? ms : -1;
}

const char *ds_fmt_time(char out[DS_TEXT], const char *rfc3339) {
    int64_t ms = ds_time_parse(rfc3339);
    if (ms < 0)
        return snprintf(out, DS_TEXT, "-"), out;
    time_t then = (time_t)(ms / 1000), now = time(NULL);
    struct tm a, b;
    localtime_r(&then, &a);
    localtime_r(&now, &b);
    const char *form = a.tm_year != b.tm_year   ? "%Y-%m-%d"
                       : a.tm_yday != b.tm_yday ? "%b %e %H:%M"
                                                : "%H:%M:%S";
    strftime(out, DS_TEXT, form, &a);
    return out;
}

double ds_json_real(const json_t *obj, const char *key) {
    const json_t *v = json_object_get(obj, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* One code point of UTF-8 at s into *cp, its length as result; invalid bytes give U+FFFD, 1. */
static int decode(const char *s, uint32_t *cp) {
    const unsigned char *p = (const unsigned char *)s;
    int n = p[0] < 0x80                   ? 1
            : p[0] >= 0xC2 && p[0] < 0xE0 ? 2
            : p[0] >= 0xE0 && p[0] < 0xF0 ? 3
            : p[0] >= 0xF0 && p[0] < 0xF5 ? 4
                                          : 0;
    *cp = 0xFFFD;
    if (!n)
        return 1;
    uint32_t v = n == 1 ? p[0] : p[0] & (0x7Fu >> n);
    for (int i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80)
            return 1;
        v = v << 6 | (p[i] & 0x3F);
    }
    if ((n == 3 && (v < 0x800 || (v >= 0xD800 && v < 0xE000))) ||
        (n == 4 && (v < 0x10000 || v > 0x10FFFF)))
        return 1;
    *cp = v;
    return n;
}

static int in_ranges(uint32_t cp, const uint32_t (*r)[2], size_t n) {
    for (size_t i = 0; i < n; i++)
        if (cp >= r[i][0] && cp <= r[i][1])
            return 1;
    return 0;
}

/* Columns of a code point; the common ranges of Unicode's EastAsianWidth.txt and of the marks that
 * take no room (Mn, Me, Cf).  The C library's wcwidth would depend on the locale. */
static int columns_of(uint32_t cp) {
    static const uint32_t zero[][2] = {
        {0x0300, 0x036F}, {0x0483, 0x0489},   {0x0591, 0x05BD},  {0x0610, 0x061A}, {0x064B, 0x065F},
        {0x0900, 0x0902}, {0x093C, 0x093C},   {0x0941, 0x0948},  {0x094D, 0x094D}, {0x0E31, 0x0E31},
        {0x0E34, 0x0E3A}, {0x0E47, 0x0E4E},   {0x1AB0, 0x1AFF},  {0x1DC0, 0x1DFF}, {0x200B, 0x200F},
        {0x202A, 0x202E}, {0x2060, 0x2064},   {0x20D0, 0x20F0},  {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F},
        {0xFEFF, 0xFEFF}, {0x1F3FB, 0x1F3FF}, {0xE0100, 0xE01EF}};
    static const uint32_t wide[][2] = {
        {0x1100, 0x115F},   {0x231A, 0x231B},   {0x2329, 0x232A},   {0x23E9, 0x23EC},
        {0x25FD, 0x25FE},   {0x2614, 0x2615},   {0x2648, 0x2653},   {0x26A1, 0x26A1},
        {0x26AA, 0x26AB},   {0x26BD, 0x26BE},   {0x26C4, 0x26C5},   {0x2705, 0x2705},
        {0x270A, 0x270B},   {0x2728, 0x2728},   {0x274C, 0x274C},   {0x2753, 0x2755},
        {0x2795, 0x2797},   {0x2B1B, 0x2B1C},   {0x2B50, 0x2B50},   {0x2E80, 0x303E},
        {0x3041, 0x33FF},   {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xA000, 0xA4CF},
        {0xA960, 0xA97F},   {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},
        {0xFF00, 0xFF60},   {0xFFE0, 0xFFE6},   {0x16FE0, 0x18CFF}, {0x1B000, 0x1B2FF},
        {0x1F004, 0x1F004}, {0x1F0CF, 0x1F0CF}, {0x1F18E, 0x1F18E}, {0x1F191, 0x1F19A},
        {0x1F1E6, 0x1F320}, {0x1F32D, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F900, 0x1F9FF},
        {0x1FA70, 0x1FAFF}, {0x20000, 0x3FFFD}};
    if (in_ranges(cp, zero, sizeof zero / sizeof *zero))
        return 0;
    return in_ranges(cp, wide, sizeof wide / sizeof *wide) ? 2 : 1;
}

int ds_width(const char *s) {
    int w = 0;
    uint32_t cp;
    for (; *s; s += decode(s, &cp), w += columns_of(cp))
        ;
    return w;
}

void ds_clean(const ds_cli *c, ds_buf *out, const char *s, int columns) {
    int room = columns > 0 && ds_width(s) > columns ? columns - 1 : 1 << 30, w = 0;
    while (*s) {
        uint32_t cp;
        int n = decode(s, &cp), k = columns_of(cp);
        if (w + k > room)
            break;
        w += k;
        /* C0, DEL, C1, bidirectional overrides: nothing that a terminal would obey. */
        if (cp < 0x20 || (cp >= 0x7F && cp < 0xA0) || (cp >= 0x202A && cp <= 0x202E) ||
            (cp >= 0x2066 && cp <= 0x2069) || (cp == 0xFFFD && n == 1) || (cp > 0x7E && !c->utf8))
            ds_buf_add(out, "?", 1);
        else
            ds_buf_add(out, s, (size_t)n);
        s += n;
    }
    if (*s)
        ds_buf_addf(out, "%s", c->utf8 ? "…" : "~");
}

void ds_put_clean(const ds_cli *c, FILE *f, const char *s) {
    ds_buf b = {0};
    ds_clean(c, &b, s, 0);
    fputs(b.data ? b.data : "", f);
    ds_buf_release(&b);
}

const char *ds_fmt_net(char out[DS_TEXT], const json_t *a) {
    const json_t *net = json_object_get(a, "feature_net");
    const char *name = ds_json_string(net, "name", NULL);
    if (!json_is_object(net))
        return NULL;
    snprintf(out, DS_TEXT, "%.24s %.30s", name ? name : ds_json_string(net, "sha256", ""),
             ds_json_string(net, "preprocess", ""));
    return out;
}

int ds_several_nets(const json_t *items) {
    size_t i;
    const json_t *a, *first = NULL;
    json_array_foreach((json_t *)(uintptr_t)items, i, a) {
        const json_t *net = json_object_get(a, "feature_net");
        if (!json_is_object(net))
            continue;
        if (first && !json_equal(first, net))
            return 1;
        first = net;
    }
    return 0;
}

int ds_training_failed(const json_t *dataset) {
    const json_t *t = json_object_get(dataset, "training");
    return ds_job_state_parse(ds_json_string(t, "state", NULL)) == DS_JOB_FAILED;
}

void ds_training_words(ds_buf *out, const json_t *dataset) {
    const json_t *t = json_object_get(dataset, "training"), *e = json_object_get(t, "error");
    long long job = ds_json_int(t, "job", 0);
    if (ds_training_failed(dataset))
        ds_buf_addf(out,
                    "%s: its newest training failed (job %lld): %s; dsctl logs %lld; add-dataset "
                    "again tries it once more",
                    ds_json_string(dataset, "name", "?"), job,
                    ds_json_string(e, "message", "no reason recorded"), job);
}
