/* tests/daemon/test_daemon_documents.c - every answer of the API in full: a life of a daemon is lived, one
 * request after the other, and status and body of each must be what tests/golden/daemon_documents.txt
 * says; times, process numbers, sizes of the machine apart.  Digests and places have names, so that one
 * in the place of another is seen.
 *
 * DS_TEST_WRITE=1 writes that file anew; read the difference before it is committed. */
#include "tests/fixtures/daemon_rig.h"

#define GOLDEN "tests/golden/daemon_documents.txt"

static rig r;
static ds_buf said;
static char digests[400][DS_HEX_SIZE]; /* in the order in which they are met */
static int digest_count;

/* Of the machine or of the moment, or as this version of zstd packs it.  A model of the fake worker
 * is its source's place: as long as the name of a temporary folder. */
static int unsteady(const json_t *of, const char *key, const char *parent) {
    static const char *const keys[] = {"pid", "uptime_seconds", "disk_free_bytes", "schema",
                                       "stored_bytes"};
    if (strcmp(key, "bytes") == 0)
        return json_object_get(of, "source_sha256") || strcmp(parent, "blobs") == 0 ||
               strcmp(parent, "checked") == 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(key, keys[i]) == 0)
            return 1;
    return 0;
}

static int is_hex(const char *s, size_t n) { return strspn(s, "0123456789abcdef") >= n; }

static int digest_number(const char *s) {
    for (int i = 0; i < digest_count; i++)
        if (strncmp(digests[i], s, DS_HEX_SIZE - 1) == 0)
            return i;
    ck_assert_int_lt(digest_count, 400);
    snprintf(digests[digest_count], DS_HEX_SIZE, "%.64s", s);
    return digest_count++;
}

/* Places, digests and times in a text. */
static void plain_text(ds_buf *b, const char *s) {
    while (*s) {
        if (strncmp(s, r.dir, strlen(r.dir)) == 0) {
            ds_buf_addf(b, "RIG");
            s += strlen(r.dir);
        } else if (is_hex(s, 64)) {
            ds_buf_addf(b, "D%d", digest_number(s));
            s += 64;
        } else if (strlen(s) >= 24 && s[4] == '-' && s[10] == 'T' && s[23] == 'Z') {
            ds_buf_addf(b, "TIME");
            s += 24;
        } else
            ds_buf_addf(b, "%c", *s++);
    }
}

static json_t *plain_string(const char *s) {
    ds_buf b = {0};
    plain_text(&b, s);
    json_t *v = json_string(b.data ? b.data : "");
    ds_buf_release(&b);
    return v;
}

static json_t *plain(const json_t *v, const char *parent) {
    json_t *o, *e;
    const char *key;
    size_t i;
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        o = json_object();
        json_object_foreach((json_t *)(uintptr_t)v, key, e) {
            json_t *name = plain_string(key);
            json_object_set_new(o, json_string_value(name),
                                unsteady(v, key, parent) && !json_is_null(e) ? json_string("...")
                                                                             : plain(e, key));
            json_decref(name);
        }
        return o;
    case JSON_ARRAY:
        o = json_array();
        json_array_foreach(v, i, e) {
            json_array_append_new(o, plain(e, parent));
        }
        return o;
    case JSON_STRING: return plain_string(json_string_value(v));
    default: return json_deep_copy(v);
    }
}

/* RIG in a path or body is the folder of this test. */
static char *with_places(const char *s) {
    ds_buf b = {0};
    for (; s && *s; s++)
        if (strncmp(s, "RIG", 3) == 0) {
            ds_buf_addf(&b, "%s", r.dir);
            s += 2;
        } else
            ds_buf_addf(&b, "%c", *s);
    return b.data;
}

/* What a line above the body says, but for the length of what is unsteady. */
static void tell_heads(char *heads) {
    static const char *const leave[] = {
        "HTTP/", "Date:", "Content-Length:", "Connection:", "Transfer-Encoding:"};
    char *rest = NULL;
    for (char *line = heads ? strtok_r(heads, "\r\n", &rest) : NULL; line;
         line = strtok_r(NULL, "\r\n", &rest)) {
        int left = 0;
        for (size_t i = 0; i < sizeof leave / sizeof *leave; i++)
            left |= strncasecmp(line, leave[i], strlen(leave[i])) == 0;
        if (left)
            continue;
        ds_buf_addf(&said, "[");
        plain_text(&said, line);
        ds_buf_addf(&said, "] ");
    }
}

static void tell_document(const json_t *doc) {
    json_t *o = plain(doc, "");
    char *out =
        json_dumps(o, JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    ds_buf_addf(&said, "%s\n", out);
    free(out);
    json_decref(o);
}

/* A metric keeps its name alone, if its value is of the machine or of the moment. */
static void steady_part(char *line) {
    static const char *const names[] = {"process_",
                                        "diffscaler_job_duration_seconds_sum",
                                        "diffscaler_blob_bytes",
                                        "diffscaler_reconciles_total",
                                        "diffscaler_http_requests_total",
                                        "diffscaler_work_",
                                        "diffscaler_loop_",
                                        "diffscaler_build_info"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(line, names[i], strlen(names[i])) == 0)
            line[strcspn(line, "{ ")] = 0;
}

/* Each is a document, or a text. */
static void tell_lines(char *text) {
    char *rest = NULL;
    ds_buf_addf(&said, "\n");
    for (char *line = strtok_r(text, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest)) {
        json_t *doc = json_loads(line, 0, NULL);
        ds_buf_addf(&said, "  ");
        if (doc)
            tell_document(doc);
        else {
            steady_part(line);
            plain_text(&said, line);
            ds_buf_addf(&said, "\n");
        }
        json_decref(doc);
    }
}

static void ask(const char *method, const char *path, const char *body) {
    int status;
    char *to = with_places(path), *sent = with_places(body);
    ds_buf heads = {0};
    char *text = rig_text_and_heads(&r, method, to, NULL, sent, &status, &heads);
    json_t *doc = json_loads(text, JSON_DECODE_ANY, NULL);
    ds_buf_addf(&said, "%s %s%s%s: %d ", method, path, body ? " " : "", body ? body : "", status);
    tell_heads(heads.data);
    ds_buf_release(&heads);
    if (doc)
        tell_document(doc);
    else
        tell_lines(text);
    json_decref(doc);
    free(text);
    free(sent);
    free(to);
}

static void lived(void) {
    static const struct {
        const char *verb, *a, *b;
    } life[] = {
#include "tests/daemon/documents.def"
    };
    char where[400], *to;
    for (size_t i = 0; i < sizeof life / sizeof *life; i++) {
        const char *verb = life[i].verb, *a = life[i].a, *b = life[i].b;
        if (strcmp(verb, "FAKE") == 0)
            rig_fake(&r, a, b);
        else if (strcmp(verb, "PICTURES") == 0)
            rig_images(&r, a, (int)strtol(b, NULL, 10), where);
        else if (strcmp(verb, "FILE") == 0)
            rig_write(to = with_places(a), b), free(to);
        else if (strncmp(verb, "WAIT ", 5) == 0)
            rig_wait_job(&r, verb + 5, a, b, 10000);
        else
            ask(verb, a, b);
    }
}

START_TEST(every_document_in_full) {
    rig_open(&r, "documents");
    rig_start(&r, NULL);
    lived();
    ds_test_golden(GOLDEN, said.data);
    ds_buf_release(&said);
    ck_assert_int_eq(rig_stop(&r, SIGTERM), 0);
}
END_TEST

static void cases(TCase *tc) { tcase_add_test(tc, every_document_in_full); }

int main(int argc, char **argv) {
    rig_main(argc, argv);
    return ds_test_main("daemon_documents", cases);
}
