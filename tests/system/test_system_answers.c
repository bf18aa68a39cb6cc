/* tests/system/test_system_answers.c - what diffscaler-worker says to people, command by command: the file
 * tests/golden/worker/answers.txt has the command lines, and below each what comes of it.
 *
 *   % CMD    is run by sh in the folder of the test and says nothing; TREE is the source tree
 *   & CMD    likewise, and what it says stands below
 *   $ ARGS   arguments of diffscaler-worker, by sh; below it
 *   | TEXT   .. its standard output, ! TEXT .. its standard error, = N .. its exit status, where not 0
 *
 * Places, the time and what the machine is have names.  DS_TEST_WRITE=1 writes the file anew; read the
 * difference before it is committed. */
#include "base/fs.h"
#include "base/mem.h"
#include "tests/harness.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define GOLDEN "tests/golden/worker/answers.txt"

static char work[300], tree[PATH_MAX], worker[PATH_MAX];

/* What stands for a place in the file, and the place. */
static char *with(const char *s, const char *from, const char *to) {
    ds_buf b = {0};
    size_t n = strlen(from);
    for (; *s; s++)
        if (strncmp(s, from, n) == 0) {
            ds_buf_addf(&b, "%s", to);
            s += n - 1;
        } else
            ds_buf_addf(&b, "%c", *s);
    return b.data ? b.data : ds_xstrdup("");
}

/* The number that ends or begins at `at` becomes N. */
static void hide_number(char *line, char *at) {
    static const char digits[] = "0123456789.";
    while (at > line && strchr(digits, at[-1]))
        at--;
    size_t n = strspn(at, digits);
    if (n) {
        memmove(at + 1, at + n, strlen(at + n) + 1);
        *at = 'N';
    }
}

/* Of the machine are seconds, what is so much a second, and the class of the device; and the last
 * digits of what it computes. */
static void hide_machine(char *line) {
    char *at = strstr(line, "\"seconds\": ");
    if (at)
        hide_number(line, at + 11);
    if ((at = strstr(line, "/s")) && at[2] == 0)
        hide_number(line, at);
    if ((at = strstr(line, "  device cpu-"))) {
        char *end = at + 9 + strcspn(at + 9, " ");
        memmove(at + 9, end, strlen(end) + 1);
    }
    if (strncmp(line, "FD-768 ", 7) && strncmp(line, "KID ", 4))
        return;
    for (at = line; (at = strpbrk(at, "0123456789")); at += strspn(at, "0123456789."))
        if (at[1] == '.' || (at[2] == '.' && at[-1] == ' '))
            memmove(at + 3, at + strspn(at, "0123456789."),
                    strlen(at + strspn(at, "0123456789.")) + 1);
}

static int in_shell(const char *command, const char *out, const char *err) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (chdir(work) || !freopen("/dev/null", "r", stdin) || !freopen(out, "w", stdout) ||
            !freopen(err, "w", stderr))
            _exit(99);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(98);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void add_lines(ds_buf *said, char mark, const char *path) {
    char *text, *rest = NULL;
    size_t n;
    ds_error err;
    ck_assert_int_eq(ds_fs_read(path, 1 << 22, &text, &n, &err), 0);
    char *plain = with(text, work, "WORK"), *plainer = with(plain, tree, "TREE");
    for (char *line = strtok_r(plainer, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        hide_machine(line);
        if (strstr(line, " pictures, N/s")) /* how often that is said is a matter of speed */
            continue;
        ds_buf_addf(said, "%c %s\n", mark, line);
    }
    free(plainer);
    free(plain);
    free(text);
}

static void answer(ds_buf *said, const char *line) {
    char out[400], err[400];
    snprintf(out, sizeof out, "%s.out", work);
    snprintf(err, sizeof err, "%s.err", work);
    char *places = with(line + 2, "TREE", tree);
    if (*line == '%') {
        ck_assert_msg(in_shell(places, out, err) == 0, "%s", line);
    } else {
        char *command = *line == '&' ? ds_xstrdup(places) : ds_xasprintf("'%s' %s", worker, places);
        int status = in_shell(command, out, err);
        add_lines(said, '|', out);
        add_lines(said, '!', err);
        if (status)
            ds_buf_addf(said, "= %d\n", status);
        free(command);
    }
    free(places);
}

static void compare(const char *a, const char *b) {
    const char *of = a;
    while (*a || *b) {
        size_t la = strcspn(a, "\n"), lb = strcspn(b, "\n");
        if (*b == '$' || *b == '&')
            of = b;
        ck_assert_msg(la == lb && strncmp(a, b, la) == 0, "%.*s\nsays   %.*s\nnot    %.*s",
                      (int)strcspn(of, "\n"), of, (int)la, a, (int)lb, b);
        a += la + (a[la] == '\n');
        b += lb + (b[lb] == '\n');
    }
}

START_TEST(what_each_command_says) {
    ds_buf said = {0};
    ds_error err;
    char *text, *copy, *rest = NULL;
    size_t n;
    snprintf(work, sizeof work, "%s/answers", ds_test_tmpdir());
    snprintf(worker, sizeof worker, "%s",
             getenv("DS_BUILD") ? getenv("DS_BUILD") : "build/release");
    ck_assert(realpath(".", tree) && ds_fs_mkdirs(work, &err) == 0);
    char *built = ds_xasprintf("%s/diffscaler-worker", worker);
    ck_assert(realpath(built, worker) != NULL);
    free(built);
    setenv("LC_ALL", "C", 1);
    setenv("COLUMNS", "80", 1);
    ck_assert_int_eq(ds_fs_read(GOLDEN, 1 << 22, &text, &n, &err), 0);
    copy = ds_xstrdup(text);
    for (char *line = strtok_r(copy, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (*line == '|' || *line == '!' || *line == '=')
            continue;
        ds_buf_addf(&said, "%s\n", line);
        if (strchr("%&$", *line))
            answer(&said, line);
    }
    if (getenv("DS_TEST_WRITE"))
        ck_assert_int_eq(ds_fs_write(GOLDEN, said.data, said.len, &err), 0);
    else
        compare(said.data, text);
    free(copy);
    free(text);
    ds_buf_release(&said);
}
END_TEST

static void cases(TCase *tc) { tcase_add_test(tc, what_each_command_says); }

int main(void) { return ds_test_main("system_answers", cases); }
