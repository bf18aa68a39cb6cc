#include "cli/client.h"
#include "cli/cli.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

struct ds_client {
    CURL *curl;
    char *socket, *state;
};

typedef int sink_fn(void *ud, const char *p, size_t n); /* non-zero: stop */

typedef struct {
    ds_client *h;
    sink_fn *sink; /* gets the body of a good answer */
    void *sink_ud;
    int stopped; /* the sink asked to stop */
    int cut;     /* the answer ended before its time */
    ds_buf error_body;
    ds_client_progress_fn *progress;
    void *progress_ud;
} exchange;

ds_client *ds_client_new(const char *socket, const char *state) {
    ds_client *h = ds_xcalloc(1, sizeof *h);
    h->socket = ds_xstrdup(socket);
    h->state = ds_xstrdup(state);
    return h;
}

void ds_client_free(ds_client *h) {
    if (!h)
        return;
    if (h->curl)
        curl_easy_cleanup(h->curl);
    free(h->socket);
    free(h->state);
    free(h);
}

void ds_url_segment(ds_buf *b, const char *s) {
    for (const unsigned char *p = (const unsigned char *)s; *p; p++) {
        int plain = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                    (*p >= '0' && *p <= '9') || strchr("-._~@:", *p);
        ds_buf_addf(b, plain ? "%c" : "%%%02X", *p);
    }
}

void ds_url_query(ds_buf *b, const char *key, const char *value) {
    ds_buf_addf(b, "%c%s=", b->data && strchr(b->data, '?') ? '&' : '?', key);
    ds_url_segment(b, value);
}

void ds_url_query_int(ds_buf *b, const char *key, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    ds_url_query(b, key, text);
}

static size_t on_body(char *p, size_t size, size_t n, void *ud) {
    exchange *x = ud;
    n *= size;
    long status = 0;
    curl_easy_getinfo(x->h->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status >= 400) {
        if (x->error_body.len < 65536)
            ds_buf_add(&x->error_body, p, n);
        return n;
    }
    if (x->sink && x->sink(x->sink_ud, p, n)) {
        x->stopped = 1;
        return 0;
    }
    return n;
}

static int on_progress(void *ud, curl_off_t total, curl_off_t now, curl_off_t ut, curl_off_t un) {
    exchange *x = ud;
    (void)ut, (void)un;
    if (x->progress)
        x->progress(x->progress_ud, (int64_t)now, (int64_t)total);
    return ds_cli_interrupted ? 1 : 0;
}

static int unreachable(ds_client *h, int os_error, ds_error *err) {
    if (os_error == EACCES || os_error == EPERM)
        return ds_fail(err, DS_EPERM,
                       "cannot open the socket '%s': permission denied; join the group that owns "
                       "it, or name your own with --socket or --state",
                       h->socket);
    return ds_fail(err, DS_EUNREACHABLE,
                   "cannot reach diffscalerd at '%s': %s; start it with: diffscalerd --state '%s' "
                   "(add-dataset --start does so)",
                   h->socket,
                   os_error == ENOENT         ? "no such socket"
                   : os_error == ECONNREFUSED ? "nobody listens there"
                                              : (os_error ? strerror(os_error) : "no connection"),
                   h->state);
}

static int transport_error(ds_client *h, CURLcode cc, const char *path, ds_error *err) {
    long os_error = 0;
    switch (cc) {
    case CURLE_COULDNT_CONNECT:
        curl_easy_getinfo(h->curl, CURLINFO_OS_ERRNO, &os_error);
        return unreachable(h, (int)os_error, err);
    case CURLE_ABORTED_BY_CALLBACK: return ds_fail(err, DS_ECANCELED, "interrupted");
    case CURLE_OPERATION_TIMEDOUT:
        return ds_fail(err, DS_ETIMEOUT, "diffscalerd did not answer %s in time; is it stopped?",
                       path);
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_PARTIAL_FILE:
        return ds_fail(err, DS_EUNREACHABLE,
                       "diffscalerd closed the connection during %s; see its log", path);
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_WEIRD_SERVER_REPLY:
        return ds_fail(err, DS_EFAILED,
                       "what listens at '%s' does not speak HTTP; is it diffscalerd?", h->socket);
    default:
        return ds_fail(err, DS_EFAILED,
                       "cannot ask diffscalerd at '%s' for %s: %s; see its log, and dsctl doctor",
                       h->socket, path, curl_easy_strerror(cc));
    }
}

static int code_of_status(long status) {
    switch (status) {
    case 400: return DS_EINVAL;
    case 401:
    case 403: return DS_EPERM;
    case 404: return DS_ENOTFOUND;
    case 409:
    case 412: return DS_ECONFLICT;
    case 422: return DS_EREFUSED;
    case 413: return DS_ELIMIT;
    case 503:
    case 507: return DS_EBUSY;
    case 504: return DS_ETIMEOUT;
    default: return DS_EFAILED;
    }
}

static int http_error(const exchange *x, long status, const char *path, ds_error *err) {
    json_t *doc =
        x->error_body.len ? json_loadb(x->error_body.data, x->error_body.len, 0, NULL) : NULL;
    int64_t status_exit = ds_json_int(doc, "exit", 0);
    int code = status_exit > 0 ? ds_error_from_exit((int)status_exit) : code_of_status(status);
    const char *detail = ds_json_string(doc, "detail", ds_json_string(doc, "title", NULL));
    if (detail)
        ds_fail(err, code, "%s", detail);
    else
        ds_fail(err, code, "diffscalerd answered %ld to %s; is it as new as dsctl (dsctl version)?",
                status, path);
    json_decref(doc);
    return code;
}

static void set_common(exchange *x, const char *path) {
    CURL *q = x->h->curl;
    curl_easy_reset(q);
    ds_buf url = {0};
    ds_buf_addf(&url, "http://diffscaler%s", path);
    curl_easy_setopt(q, CURLOPT_URL, url.data); /* copied by libcurl */
    ds_buf_release(&url);
    curl_easy_setopt(q, CURLOPT_UNIX_SOCKET_PATH, x->h->socket);
    curl_easy_setopt(q, CURLOPT_PROXY, "");
    curl_easy_setopt(q, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(q, CURLOPT_CONNECTTIMEOUT_MS, 5000L);
    curl_easy_setopt(q, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(q, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(q, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(q, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(q, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(q, CURLOPT_XFERINFODATA, x);
}

static int check_socket_path(const ds_client *h, ds_error *err) {
    size_t limit = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
    if (strlen(h->socket) <= limit)
        return 0;
    return ds_fail(err, DS_EINVAL,
                   "the socket path '%.80s...' has %zu bytes, the system allows %zu; give a "
                   "shorter one with --socket",
                   h->socket, strlen(h->socket), limit);
}

/* Runs one exchange; `timeout` in seconds, 0: none. */
static int perform(exchange *x, const char *method, const char *path, const char *const *headers,
                   const char *body, double timeout, ds_error *err) {
    int rc = check_socket_path(x->h, err);
    if (rc)
        return rc;
    if (!x->h->curl) {
        x->h->curl = ds_need(curl_easy_init());
    }
    set_common(x, path);
    CURL *q = x->h->curl;
    if (strcmp(method, "GET"))
        curl_easy_setopt(q, CURLOPT_CUSTOMREQUEST, method);
    if (body) {
        curl_easy_setopt(q, CURLOPT_POSTFIELDS, body);
    } else if (!strcmp(method, "POST")) {
        curl_easy_setopt(q, CURLOPT_POSTFIELDS, "");
        curl_easy_setopt(q, CURLOPT_POSTFIELDSIZE, 0L);
    }
    if (timeout > 0)
        curl_easy_setopt(q, CURLOPT_TIMEOUT_MS, (long)(timeout * 1000));
    struct curl_slist *list = NULL;
    for (; headers && *headers; headers++)
        list = curl_slist_append(list, *headers);
    curl_easy_setopt(q, CURLOPT_HTTPHEADER, list);
    CURLcode cc = curl_easy_perform(q);
    curl_easy_setopt(q, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(list);
    long status = 0;
    curl_easy_getinfo(q, CURLINFO_RESPONSE_CODE, &status);
    if (cc == CURLE_WRITE_ERROR && x->stopped)
        cc = CURLE_OK;
    x->cut = cc == CURLE_PARTIAL_FILE;
    if (cc)
        rc = transport_error(x->h, cc, path, err);
    else if (status >= 400)
        rc = http_error(x, status, path, err);
    ds_buf_release(&x->error_body);
    return rc;
}

/* A header of the last answer; NULL: it has none of that name. */
static const char *header_of(const ds_client *h, const char *name) {
    struct curl_header *header;
    return curl_easy_header(h->curl, name, 0, CURLH_HEADER, -1, &header) ? NULL : header->value;
}

static int sink_buf(void *ud, const char *p, size_t n) {
    ds_buf *b = ud;
    if (b->len + n > DS_CLIENT_MAX_BODY)
        return 1;
    ds_buf_add(b, p, n);
    return 0;
}

static int too_large(const char *path, ds_error *err) {
    return ds_fail(err, DS_ELIMIT,
                   "the answer to %s is larger than %u MiB: ask for less of it, with --limit", path,
                   DS_CLIENT_MAX_BODY >> 20);
}

int ds_client_call_with(ds_client *h, const char *method, const char *path, const char *header,
                        const json_t *body, json_t **answer, ds_error *err) {
    const char *headers[] = {"Accept: application/json",
                             body ? "Content-Type: application/json" : header, body ? header : NULL,
                             NULL};
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    ds_buf b = {0};
    exchange x = {.h = h, .sink = sink_buf, .sink_ud = &b};
    int rc = perform(&x, method, path, headers, text, 30, err);
    free(text);
    if (!rc && x.stopped)
        rc = too_large(path, err);
    if (!rc && answer) {
        json_t *doc = json_loadb(b.data ? b.data : "", b.len, JSON_REJECT_DUPLICATES, NULL);
        if (json_is_object(doc)) {
            *answer = doc;
        } else {
            json_decref(doc);
            rc = ds_fail(err, DS_EFAILED,
                         "the answer to %s is not a JSON object; is '%s' diffscalerd's socket?",
                         path, h->socket);
        }
    }
    ds_buf_release(&b);
    return rc;
}

int ds_client_call(ds_client *h, const char *method, const char *path, const json_t *body,
                   json_t **answer, ds_error *err) {
    return ds_client_call_with(h, method, path, NULL, body, answer, err);
}

int ds_client_text(ds_client *h, const char *path, ds_buf *out, int64_t *next_offset,
                   ds_error *err) {
    exchange x = {.h = h, .sink = sink_buf, .sink_ud = out};
    int rc = perform(&x, "GET", path, NULL, NULL, 30, err);
    if (!rc && x.stopped)
        rc = too_large(path, err);
    const char *offset = rc ? NULL : header_of(h, "X-Next-Offset");
    if (!rc && next_offset)
        *next_offset = offset ? strtoll(offset, NULL, 10) : -1;
    return rc;
}

typedef struct {
    ds_buf part; /* the last, unfinished line */
    ds_client_line_fn *fn;
    void *ud;
    int too_long;
} line_sink;

static int emit_line(line_sink *s) {
    size_t n = s->part.len;
    while (n && (s->part.data[n - 1] == '\r' || s->part.data[n - 1] == '\n'))
        s->part.data[--n] = 0;
    int stop = n ? s->fn(s->ud, s->part.data, n) : 0;
    s->part.len = 0;
    if (s->part.data)
        s->part.data[0] = 0;
    return stop;
}

static int sink_lines(void *ud, const char *p, size_t n) {
    line_sink *s = ud;
    while (n) {
        const char *nl = memchr(p, '\n', n);
        size_t k = nl ? (size_t)(nl - p) + 1 : n;
        if (s->part.len + k > DS_CLIENT_MAX_BODY)
            return s->too_long = 1;
        ds_buf_add(&s->part, p, k);
        p += k;
        n -= k;
        if (nl && emit_line(s))
            return 1;
    }
    return 0;
}

int ds_client_lines(ds_client *h, const char *path, const char *accept, ds_client_line_fn *fn,
                    void *ud, ds_error *err) {
    char header[128];
    snprintf(header, sizeof header, "Accept: %s", accept);
    const char *headers[] = {header, NULL};
    line_sink s = {.fn = fn, .ud = ud};
    exchange x = {.h = h, .sink = sink_lines, .sink_ud = &s};
    int rc = perform(&x, "GET", path, headers, NULL, 0, err);
    if (x.cut)
        rc = 0;
    if (!rc && s.too_long)
        rc = too_large(path, err);
    if (!rc && !x.stopped && s.part.len)
        emit_line(&s);
    ds_buf_release(&s.part);
    return rc;
}

typedef struct {
    FILE *f;
    int write_errno;
} file_sink;

static int sink_file(void *ud, const char *p, size_t n) {
    file_sink *s = ud;
    if (fwrite(p, 1, n, s->f) == n)
        return 0;
    s->write_errno = errno ? errno : EIO;
    return 1;
}

int ds_client_download(ds_client *h, const char *path, FILE *f, char digest[65],
                       ds_client_progress_fn *progress, void *ud, ds_error *err) {
    file_sink s = {.f = f};
    exchange x = {
        .h = h, .sink = sink_file, .sink_ud = &s, .progress = progress, .progress_ud = ud};
    int rc = perform(&x, "GET", path, NULL, NULL, 0, err);
    if (x.cut)
        rc = ds_fail(err, DS_EINTEGRITY, "the answer to %s ended early; try again", path);
    if (!rc && s.write_errno) {
        errno = s.write_errno;
        rc = ds_fail_errno(err, "cannot write what %s gave", path);
    }
    const char *said = rc ? NULL : header_of(h, "X-Diffscaler-Digest");
    if (said && !strncmp(said, "sha256:", 7))
        said += 7;
    if (!rc && digest)
        snprintf(digest, 65, "%s", said ? said : "");
    return rc;
}

typedef struct {
    ds_client_sink_fn *fn;
    void *ud;
} piece_sink;

static int sink_pieces(void *ud, const char *p, size_t n) {
    const piece_sink *s = ud;
    return s->fn(s->ud, p, n);
}

int ds_client_stream(ds_client *h, const char *path, ds_client_sink_fn *sink, void *sink_ud,
                     ds_client_progress_fn *progress, void *ud, ds_error *err) {
    piece_sink s = {sink, sink_ud};
    exchange x = {
        .h = h, .sink = sink_pieces, .sink_ud = &s, .progress = progress, .progress_ud = ud};
    int rc = perform(&x, "GET", path, NULL, NULL, 0, err);
    if (x.cut)
        rc = ds_fail(err, DS_EINTEGRITY, "the answer to %s ended early; try again", path);
    if (!rc && x.stopped)
        rc = ds_fail(err, DS_ECANCELED, "%s was not wanted to its end", path);
    return rc;
}
