/* tests/base/test_base_args.c - a command line read by a table: what it takes, what it says of the rest, its help. */
#include "contract/args.h"
#include "contract/options.h"

#include "tests/harness.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *file, *word, *device, *out, *text;
    int over, micro, batch, plain, flag, unflag, given, own;
    int64_t wide;
    uint64_t seed;
    double rate;
    const char *items[8];
    ds_arg_rest rest;
} values;

static int take_even(void *to, const char *text, ds_error *err) {
    if (strlen(text) % 2)
        return ds_fail(err, DS_EINVAL, "'%s' is odd", text);
    *(int *)to = (int)strlen(text);
    return 0;
}

static int parse(values *v, ds_error *err, const char *line) {
    static char copy[4096];
    char *argv[32], *rest = NULL;
    int argc = 0;
    *v = (values){
        .word = "b", .batch = 64, .unflag = 1, .rate = 0.5, .rest = {.items = v->items, .most = 2}};
    const ds_arg rows[] = {
        {"FILE", .type = DS_ARG_STRING, .target = &v->file, .missing = "which file?"},
        {"MORE", .type = DS_ARG_REST, .target = &v->rest},
        {"-o", "--output", "OUT", DS_ARG_STRING, &v->out, .help = "where it goes"},
        {"--text", .metavar = "T", .type = DS_ARG_TEXT, .target = &v->text, .help = "any text"},
        {"--word", .metavar = "W", .type = DS_ARG_WORD, .target = &v->word, .words = "a|b|c",
         .help = "one of three"},
        {"--device", .type = DS_ARG_DEVICE, .target = &v->device, .option = "device"},
        {"--batch", .type = DS_ARG_INT, .target = &v->batch, .option = "batch", .given = &v->given},
        {"--plain", .metavar = "N", .type = DS_ARG_INT, .target = &v->plain, DS_ARG_RANGE(-3, 7),
         .shown = "none",
         .help = "a long text that has to be wrapped since it has more letters than a line can "
                 "hold at all"},
        {"--wide", .metavar = "N", .type = DS_ARG_INT64, .target = &v->wide, DS_ARG_RANGE(0, 1e12),
         .help = "wide"},
        {"--seed", .type = DS_ARG_SEED, .target = &v->seed, .option = "seed"},
        {"--rate", .metavar = "R", .type = DS_ARG_NUM, .target = &v->rate, DS_ARG_RANGE(0, 1),
         .help = "a share"},
        {"--own", .metavar = "X", .type = DS_ARG_OWN, .target = &v->own, .take = take_even,
         .help = "even"},
        {"--over", .type = DS_ARG_INT, .target = &v->over, .option = "batch", DS_ARG_RANGE(0, 7),
         .shown = ""},
        {"--micro", .type = DS_ARG_INT, .target = &v->micro, .option = "micro_batch",
         .help = "at a time"},
        {"--flag", .type = DS_ARG_FLAG, .target = &v->flag, .help = "on"},
        {"--no-flag", .type = DS_ARG_UNFLAG, .target = &v->unflag, .help = "off"},
        {"--longer-than-its-column", .metavar = "X", .type = DS_ARG_INT, .target = &v->own,
         DS_ARG_RANGE(1, 2), .shown = "", .help = "below its name"},
        {NULL}};
    const ds_args a = {.command = "tool do",
                       .usage = "FILE [MORE]\n--other",
                       .about = "Does it.",
                       .after = "example: x",
                       .extra = "three at most",
                       .rows = rows};
    snprintf(copy, sizeof copy, "%s", line);
    for (char *p = strtok_r(copy, " ", &rest); p; p = strtok_r(NULL, " ", &rest))
        argv[argc++] = !strcmp(p, "EMPTY") ? p + 5 : p;
    *err = (ds_error){0};
    return ds_args_parse(&a, argc, argv, err);
}

START_TEST(values_arrive) {
    values v;
    ds_error err;
    ck_assert_msg(!parse(&v, &err,
                         "in --batch 3 --plain=-3 one -o - --word c --device cuda:3 --wide 1e12 "
                         "--seed 9e15 --rate 1e-1 "
                         "--own abcd --flag --no-flag two --text EMPTY"),
                  "%s", err.message);
    ck_assert_str_eq(v.file, "in");
    ck_assert(v.rest.count == 2 && !strcmp(v.items[0], "one") && !strcmp(v.items[1], "two"));
    ck_assert_str_eq(v.out, "-");
    ck_assert_str_eq(v.word, "c");
    ck_assert_str_eq(v.device, "cuda:3");
    ck_assert_str_eq(v.text, "");
    ck_assert(v.batch == 3 && v.given == 1 && v.plain == -3 && v.flag == 1 && v.unflag == 0 &&
              v.own == 4);
    ck_assert(v.wide == INT64_C(1000000000000) && v.seed == UINT64_C(9000000000000000) &&
              v.rate == 0.1);
    ck_assert_msg(
        !parse(&v, &err, "in --output=a=b -o a=b --batch 5 --batch 5 --flag --flag -- --flag -h"),
        "%s", err.message);
    ck_assert_str_eq(v.out, "a=b");
    ck_assert(v.rest.count == 2 && !strcmp(v.items[0], "--flag") && !strcmp(v.items[1], "-h"));
    ck_assert_msg(!parse(&v, &err, "a --over 0 --over 0"), "%s",
                  err.message); /* its own range, not the option's */
    ck_assert_msg(!parse(&v, &err, "-"), "%s", err.message);
    ck_assert_str_eq(v.file, "-");
    ck_assert(v.batch == 64 && !v.given && v.unflag == 1);
}
END_TEST

START_TEST(the_rest_is_refused) {
    static const struct {
        const char *line, *says;
    } wrong[] = {{"", "which file?  see tool do --help"},
                 {"--flag", "which file?  see"},
                 {"a --bach 3", "unexpected argument '--bach'; did you mean --batch?"},
                 {"a --outpt 3", "did you mean --output?"},
                 {"a --frobnicate=3", "unexpected argument '--frobnicate'; see tool do --help"},
                 {"a -x", "unexpected argument '-x'; see"},
                 {"a -o", "-o needs a value OUT"},
                 {"a --output", "--output needs a value OUT"},
                 {"a --batch", "--batch needs a value N"},
                 {"a --flag=1", "--flag takes no value"},
                 {"a -o EMPTY", "-o needs a value, not an empty one"},
                 {"EMPTY", "FILE needs a value"},
                 {"a b c d", "unexpected argument 'd'; three at most; see tool do --help"},
                 {"a --batch 3 --batch 4", "--batch is given twice, as '3' and as '4'"},
                 {"a --output x -o y", "-o is given twice, as 'x' and as 'y'"},
                 {"a --text \xff", "--text takes a text in UTF-8"},
                 {"a --word d", "--word is 'd', must be a, b or c"},
                 {"a --word a|b", "must be a, b or c"},
                 {"a --device gpu", "--device is 'gpu', must be auto, cpu, cuda, cuda:N or ref"},
                 {"a --batch 0", "--batch takes a number from 1 to 65536, not '0'"},
                 {"a --batch 65537", "from 1 to 65536, not '65537'"},
                 {"a --batch 1.5", "--batch takes a whole number from 1 to 65536, not '1.5'"},
                 {"a --batch 0x10", "not '0x10'"},
                 {"a --batch 2x", "not '2x'"},
                 {"a --batch EMPTY", "not ''"},
                 {"a --batch=", "not ''"},
                 {"a --over 8", "--over takes a number from 0 to 7"},
                 {"a --micro 0", "--micro takes a number from 1 to 65536"},
                 {"a --plain -4", "from -3 to 7"},
                 {"a --plain 8", "from -3 to 7"},
                 {"a --rate nan", "--rate takes a number from 0 to 1, not 'nan'"},
                 {"a --rate 1.01", "not '1.01'"},
                 {"a --seed -1", "--seed takes a number from 0 to 9e+15, not '-1'"},
                 {"a --own abc", "'abc' is odd"}};
    values v;
    ds_error err;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int rc = parse(&v, &err, wrong[i].line);
        ck_assert_msg(rc == DS_EINVAL && strstr(err.message, wrong[i].says),
                      "%s: %d '%s', not '%s'", wrong[i].line, rc, err.message, wrong[i].says);
    }
}
END_TEST

/* What `line` prints on fd, and what it returns. */
static int printed(int fd, const char *line, char text[4096]) {
    char path[400];
    values v;
    ds_error err;
    snprintf(path, sizeof path, "%s/out", ds_test_tmpdir());
    fflush(NULL);
    int was = dup(fd), to = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(to, fd);
    int rc = parse(&v, &err, line);
    if (rc < 0) {
        const ds_arg none[] = {{NULL}};
        rc = ds_args_refuse(
            &(ds_args){.command = "tool do", .usage = "FILE [MORE]\n--other", .rows = none}, &err);
    }
    fflush(NULL);
    dup2(was, fd);
    close(was);
    ssize_t n = pread(to, text, 4095, 0);
    text[n > 0 ? n : 0] = 0;
    close(to);
    return rc;
}

START_TEST(help_is_the_table) {
    static const char *const has[] = {
        "usage: tool do FILE [MORE]\n       tool do --other\n\nDoes it.\n\n",
        "\n  -o, --output OUT  where it goes\n",
        "\n  --word W          one of three: a, b or c (default b)\n",
        "\n  --batch N         images per step (default 64)\n",
        "\n  --plain N         a long text that has to be wrapped since it has more\n"
        "                    letters than a line can hold at all (default none)\n",
        "\n  --rate R          a share (default 0.5)\n",
        "\n  --seed N          seed of every random number (default 0)\n",
        "\n  --micro N         at a time\n", /* 0 is none that may be given */
        "\n  --flag            on\n",
        "\n  --longer-than-its-column X\n                    below its name\n",
        "\n\nexample: x\n"};
    static const char *const lines[] = {"--help", "-h", "a b c --flag --help --frob",
                                        "--batch 64 -h"};
    char text[4096];
    for (size_t k = 0; k < 4; k++) {
        ck_assert_int_eq(printed(1, lines[k], text), 1);
        for (size_t i = 0; i < sizeof has / sizeof *has; i++)
            ck_assert_msg(strstr(text, has[i]) != NULL, "no '%s' in\n%s", has[i], text);
        ck_assert(!strstr(text, "FILE  ") &&
                  !strstr(text, "--text T          any text (")); /* no help, no default */
    }
    ck_assert_int_eq(printed(2, "--frob", text), 2);
    ck_assert_str_eq(text, "error: unexpected argument '--frob'; see tool do --help\n"
                           "usage: tool do FILE [MORE]\n       tool do --other\n");
}
END_TEST

static void register_cases(TCase *tc) {
    tcase_add_test(tc, values_arrive);
    tcase_add_test(tc, the_rest_is_refused);
    tcase_add_test(tc, help_is_the_table);
}

int main(void) { return ds_test_main("base_args", register_cases); }
