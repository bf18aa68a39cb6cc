/* cli/commands/cmd_watch.c - the live view: on a terminal a page redrawn in place, else a line per
 * change.
 */
#include "base/log.h"
#include "base/mem.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/format.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

enum { LATEST = 6, QUEUE = 5, FAILED = 3, BAR = 14, KNOWN = 64 }; /* fits 24 lines */
enum { SHORTEST = 19 }; /* columns of " 45 %  1:23:45 left" */

typedef struct {
    json_t *status, *jobs, *adapters;
} look;

/* What was printed last about a job (plain mode). */
typedef struct {
    int64_t id;
    char state[16], stage[24];
    int tenth;
    double said;
} known_job;

static int get_items(ds_cli *c, const char *path, json_t **items, ds_error *err) {
    json_t *page = NULL;
    int rc = ds_client_call(c->http, "GET", path, NULL, &page, err);
    if (!rc) {
        json_t *list = json_object_get(page, "items");
        *items = json_is_array(list) ? json_incref(list) : json_array();
    }
    json_decref(page);
    return rc;
}

static void look_release(look *l) {
    json_decref(l->status);
    json_decref(l->jobs);
    json_decref(l->adapters);
    *l = (look){0};
}

static int look_at(ds_cli *c, look *l, ds_error *err) {
    *l = (look){0};
    int rc = ds_client_call(c->http, "GET", "/v1/status", NULL, &l->status, err);
    if (!rc)
        rc = get_items(c, "/v1/jobs?limit=50", &l->jobs, err);
    if (!rc)
        rc = get_items(c, "/v1/adapters?limit=8", &l->adapters, err);
    return rc;
}

static const char *subject(const json_t *job) {
    return ds_json_string(job, "dataset", ds_json_string(job, "name", ""));
}

/* The subject is cut first: percent and time left are what a narrow window is looked at for. */
static void add_running(const ds_cli *c, const json_t *job, ds_buf *out) {
    char head[48];
    ds_buf name = {0};
    int columns = c->width > 1 ? c->width - 1 : 79, room;
    snprintf(head, sizeof head, "  %lld  %-6.8s ", (long long)ds_json_int(job, "id", 0),
             ds_json_string(job, "kind", ""));
    room = columns - (int)strlen(head) - SHORTEST - 2;
    ds_buf words = {0};
    ds_buf_addf(&words, "%s  %s", subject(job), ds_json_string(job, "stage", ""));
    ds_clean(c, &name, words.data, room > 6 ? room : 6);
    room = columns - (int)strlen(head) - ds_width(name.data) - 2;
    ds_buf_addf(out, "%s%s  ", head, name.data);
    ds_progress_numbers(c, json_object_get(job, "progress"), room, BAR, out);
    ds_buf_release(&words);
    ds_buf_release(&name);
}

/* Lines go into a page, since a window may be too short for all of them. */
static void put_line(ds_cli *c, ds_style style, ds_buf *line) {
    ds_buf cut = {0};
    ds_clean(c, &cut, line->data ? line->data : "", c->width > 1 ? c->width - 1 : 0);
    fprintf(c->out, "%s%s%s\n", ds_style_on(c, style), cut.data ? cut.data : "",
            ds_style_off(c, style));
    ds_buf_release(&cut);
    ds_buf_release(line);
}

static void draw_head(ds_cli *c, const json_t *status) {
    char free_text[DS_TEXT], now[16];
    time_t t = time(NULL);
    struct tm tm;
    localtime_r(&t, &tm);
    strftime(now, sizeof now, "%H:%M:%S", &tm);
    ds_buf line = {0};
    ds_buf_addf(&line, "diffscaler %s  datasets %lld  adapters %lld  %s free  %s",
                ds_json_string(status, "version", "?"),
                (long long)ds_json_int(status, "datasets", 0),
                (long long)ds_json_int(status, "adapters", 0),
                ds_fmt_bytes(free_text, ds_json_number(status, "disk_free_bytes", -1)), now);
    put_line(c, DS_BOLD, &line);
    put_line(c, DS_PLAIN, &line);
}

static void draw_jobs(ds_cli *c, const json_t *jobs) {
    size_t i;
    const json_t *job;
    int running = 0, queued = 0;
    ds_buf line = {0};
    json_array_foreach((json_t *)(uintptr_t)jobs, i, job) {
        if (!ds_job_is(job, DS_JOB_RUNNING))
            continue;
        if (!running++)
            ds_buf_addf(&line, "Running"), put_line(c, DS_BOLD, &line);
        add_running(c, job, &line);
        put_line(c, DS_PLAIN, &line);
    }
    if (!running)
        ds_buf_addf(&line, "Nothing is running"), put_line(c, DS_DIM, &line);
    for (i = json_array_size(jobs); i-- > 0;) {
        job = json_array_get(jobs, i);
        if (!ds_job_is(job, DS_JOB_QUEUED) || queued++ >= QUEUE)
            continue;
        if (queued == 1)
            ds_buf_addf(&line, "Waiting"), put_line(c, DS_BOLD, &line);
        ds_buf_addf(&line, "  %lld  %-6s %s", (long long)ds_json_int(job, "id", 0),
                    ds_json_string(job, "kind", ""), subject(job));
        put_line(c, DS_YELLOW, &line);
    }
    if (queued > QUEUE)
        ds_buf_addf(&line, "  and %d more", queued - QUEUE), put_line(c, DS_YELLOW, &line);
    put_line(c, DS_PLAIN, &line);
}

/* The newest that failed: they are no adapter, and nobody would see them in a list of what runs. */
static void draw_failed(ds_cli *c, const json_t *jobs) {
    size_t i;
    const json_t *job;
    int n = 0;
    ds_buf line = {0};
    json_array_foreach((json_t *)(uintptr_t)jobs, i, job) {
        char when[DS_TEXT];
        if (!ds_job_is(job, DS_JOB_FAILED) || n++ >= FAILED)
            continue;
        if (n == 1)
            ds_buf_addf(&line, "Failed"), put_line(c, DS_BOLD, &line);
        ds_buf_addf(&line, "  %lld  %-6s %s  %s  %s", (long long)ds_json_int(job, "id", 0),
                    ds_json_string(job, "kind", ""), subject(job),
                    ds_fmt_time(when, ds_json_string(job, "finished_at", NULL)),
                    ds_json_string(json_object_get(job, "error"), "message", ""));
        put_line(c, DS_RED, &line);
    }
    if (n)
        put_line(c, DS_PLAIN, &line);
}

static void draw_adapters(ds_cli *c, const json_t *adapters) {
    size_t i;
    const json_t *a;
    char text[DS_TEXT];
    if (!json_array_size(adapters))
        return;
    ds_table *t = ds_table_new("LATEST ADAPTERS~|STATUS|FD>|BASE>|SIZE>|MADE");
    json_array_foreach((json_t *)(uintptr_t)adapters, i, a) {
        const char *status = ds_json_string(a, "status", "");
        ds_cell(t, ds_json_string(a, "ref", NULL));
        ds_cell_styled(t, ds_style_of_state(status), status);
        ds_cell(t, ds_fmt_number(text, ds_json_real(a, "fd")));
        ds_cell(t, ds_fmt_number(text, ds_json_real(a, "fd_base")));
        ds_cell(t, ds_fmt_bytes(text, ds_json_number(a, "stored_bytes", -1)));
        ds_cell(t, ds_fmt_time(text, ds_json_string(a, "created_at", NULL)));
        if (i + 1 == LATEST)
            break;
    }
    ds_table_print(t, c, c->out, 0);
    ds_table_free(t);
}

/* The page from its top, as many lines as the window has; what a longer line or page of the last
 * look left behind is erased. */
static void put_page(const ds_cli *c, const char *page, int rows) {
    int lines = 0, shown = 0;
    for (const char *p = page; *p; p++)
        lines += *p == '\n';
    int most = lines;
    if (rows && lines > rows - 1) /* a row for the note, one for the cursor; the first always */
        most = rows > 3 ? rows - 2 : 1;
    fputs("\033[H", c->out);
    for (const char *p = page; shown < most && *p; shown++) {
        size_t n = strcspn(p, "\n");
        fprintf(c->out, "%.*s\033[K\n", (int)n, p);
        p += n + (p[n] == '\n');
    }
    if (shown < lines && rows > 2)
        fprintf(c->out, "%d more lines: make the window higher\033[K\n", lines - shown);
    fputs("\033[J", c->out);
    fflush(c->out);
}

static void draw(ds_cli *c, const look *l, const char *trouble) {
    struct winsize ws;
    ds_buf line = {0};
    int rows = 0;
    if (!ioctl(fileno(c->out), TIOCGWINSZ, &ws)) {
        c->width = ws.ws_col;
        rows = ws.ws_row;
    }
    char *page = NULL;
    size_t n = 0;
    FILE *terminal = c->out;
    c->out = ds_need(open_memstream(&page, &n));
    if (trouble) {
        ds_buf_addf(&line, "%s", trouble);
        put_line(c, DS_RED, &line);
    } else {
        draw_head(c, l->status);
        draw_jobs(c, l->jobs);
        draw_failed(c, l->jobs);
        draw_adapters(c, l->adapters);
    }
    put_line(c, DS_PLAIN, &line);
    ds_buf_addf(&line, "Ctrl-C ends this view; jobs go on");
    put_line(c, DS_DIM, &line);
    fclose(c->out);
    c->out = terminal;
    put_page(c, page, rows);
    free(page);
}

static known_job *remember(known_job *known, int64_t id) {
    known_job *oldest = known;
    for (int i = 0; i < KNOWN; i++) {
        if (known[i].id == id)
            return &known[i];
        if (known[i].id < oldest->id)
            oldest = &known[i];
    }
    *oldest = (known_job){.id = id, .tenth = -1};
    return oldest;
}

/* A line when the state, the stage or the tenth of a stage has changed. */
static void say_job(ds_cli *c, known_job *k, const json_t *job, int first) {
    const json_t *p = json_object_get(job, "progress");
    const char *state = ds_json_string(job, "state", ""), *stage = ds_json_string(job, "stage", "");
    double done = ds_json_number(p, "done", 0), total = ds_json_number(p, "total", 0);
    int running = ds_job_is(job, DS_JOB_RUNNING), tenth = total > 0 ? (int)(10 * done / total) : -1;
    if (!strcmp(state, k->state) &&
        (!running || (!strncmp(stage, k->stage, sizeof k->stage - 1) && tenth == k->tenth)))
        return;
    snprintf(k->state, sizeof k->state, "%s", state);
    snprintf(k->stage, sizeof k->stage, "%s", stage);
    k->tenth = tenth;
    if (first && ds_job_finished(job))
        return; /* history: list-jobs has it */
    ds_buf line = {0};
    ds_buf_addf(&line, "job %lld %s %s %s", (long long)k->id, ds_json_string(job, "kind", ""),
                subject(job), state);
    if (running && *stage) {
        ds_buf_addf(&line, " %s", stage);
        if (total > 0)
            ds_buf_addf(&line, " %.0f %%  ", 100 * done / total);
        ds_progress_text(p, &line);
    }
    const char *message = ds_json_string(json_object_get(job, "error"), "message", NULL);
    const char *ref = ds_json_string(job, "adapter", NULL);
    if (ds_job_finished(job) && (ref || message))
        ds_buf_addf(&line, ": %s", ref ? ref : message);
    ds_put_clean(c, c->out, line.data);
    fputc('\n', c->out);
    fflush(c->out);
    ds_buf_release(&line);
}

static void say_changes(ds_cli *c, known_job *known, const look *l, int first) {
    for (size_t i = json_array_size(l->jobs); i-- > 0;) {
        const json_t *job = json_array_get(l->jobs, i);
        say_job(c, remember(known, ds_json_int(job, "id", 0)), job, first);
    }
}

static void show_look(ds_cli *c, known_job *known, const look *l, const char *trouble, int first) {
    if (c->json) {
        json_t *doc = json_object();
        json_object_set(doc, "status", l->status);
        json_object_set(doc, "jobs", l->jobs);
        json_object_set(doc, "adapters", l->adapters);
        if (!trouble)
            ds_print_json(c, "watch", doc, 1);
        json_decref(doc);
    } else if (c->out_tty) {
        draw(c, l, trouble);
    } else if (!trouble) {
        say_changes(c, known, l, first);
    }
}

int ds_cmd_watch(ds_cli *c, ds_error *err) {
    double interval = ds_opt_number(c, "interval", 0.5);
    int64_t count = (int64_t)ds_opt_number(c, "count", 0);
    known_job *known = ds_xcalloc(KNOWN, sizeof *known);
    int page = c->out_tty && !c->json, rc = 0, lost = 0;
    for (int64_t i = 0; !ds_cli_interrupted; i++) {
        look l;
        rc = look_at(c, &l, err);
        if (rc && (!i || rc != DS_EUNREACHABLE)) {
            look_release(&l);
            break;
        }
        if (!i && page)
            fputs("\033[?1049h\033[?25l", c->out); /* a screen of its own, no cursor */
        if (rc && !lost && !page)
            ds_say(c, "diffscalerd is not reachable; waiting for it");
        lost = rc != 0;
        show_look(c, known, &l, rc ? "diffscalerd is not reachable; waiting for it" : NULL, !i);
        rc = 0;
        look_release(&l);
        if (i + 1 == count || ferror(c->out) || ds_cli_sleep(interval, NULL))
            break; /* output that does not arrive is said at the end */
    }
    if (page) {
        fputs("\033[?25h\033[?1049l", c->out);
        fflush(c->out);
    }
    free(known);
    if (!rc && ds_cli_interrupted)
        rc = ds_fail(err, DS_ECANCELED, "interrupted"); /* a script must see it: exit 130 */
    return rc;
}
