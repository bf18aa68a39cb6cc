#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static const char *component = "diffscaler";
static enum ds_log_level threshold = DS_LOG_INFO;
static int journal;

int64_t ds_now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

double ds_monotonic(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

double ds_processor_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void ds_time_rfc3339(char out[32], int64_t ms) {
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&s, &tm);
    char day[24];
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out, 32, "%s.%03dZ", day, (int)(ms % 1000));
}

enum ds_time_form ds_time_read(const char *text, int64_t *ms) {
    struct tm tm = {0};
    const char *end = text ? strptime(text, "%Y-%m-%d", &tm) : NULL;
    enum ds_time_form form = DS_TIME_DAY;
    int64_t fraction = 0;
    if (end && (*end == 'T' || *end == ' ')) {
        end = strptime(end + 1, "%H:%M:%S", &tm);
        if (end && *end == '.')
            for (int64_t scale = 100; *++end >= '0' && *end <= '9'; scale /= 10)
                fraction += (*end - '0') * scale;
        form = end && *end == 'Z' ? DS_TIME_UTC : DS_TIME_BARE;
        end += form == DS_TIME_UTC;
    }
    if (!end || *end)
        return DS_TIME_NONE;
    *ms = (int64_t)timegm(&tm) * 1000 + fraction;
    return form;
}

void ds_log_init(const char *comp, enum ds_log_level least) {
    component = comp;
    threshold = least;
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat st;
    char id[64];
    if (stream && fstat(2, &st) == 0) {
        snprintf(id, sizeof id, "%llu:%llu", (unsigned long long)st.st_dev,
                 (unsigned long long)st.st_ino);
        journal = strcmp(id, stream) == 0;
    }
}

void ds_log(enum ds_log_level level, const char *fmt, ...) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    static const int priority[] = {7, 6, 4, 3};
    if (level < threshold)
        return;
    char text[1024], line[2304], stamp[32];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t n;
    if (journal)
        n = (size_t)snprintf(line, 128, "<%d>level=%s comp=%s msg=\"", priority[level],
                             names[level], component);
    else {
        ds_time_rfc3339(stamp, ds_now_ms());
        n = (size_t)snprintf(line, 128, "ts=%s level=%s comp=%s msg=\"", stamp, names[level],
                             component);
    }
    for (const char *p = text; *p && n + 8 < sizeof line; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\') {
            line[n++] = '\\';
            line[n++] = (char)c;
        } else
            line[n++] = c < 32 || c == 127 ? ' ' : (char)c;
    }
    line[n++] = '"';
    line[n++] = '\n';
    fwrite(line, 1, n, stderr); /* one write: lines of several processes do not mix */
}
