/* tests/registry/test_registry_names.c - what things may be called, and the name that a path gives. */
#include "registry/core/names.h"
#include "tests/harness.h"

#include <stdio.h>
#include <string.h>

#define N64 "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ._"

static const struct {
    const char *name, *says; /* NULL: it may be one */
} names[] = {{"a", NULL},
             {"0", NULL},
             {"_", NULL},
             {"a-b.c_D9", NULL},
             {N64, NULL},
             {N64 "x", "has 65 characters; at most 64"},
             {"", "thing name is empty; give 1 to 64"},
             {".a", "begins with '.'"},
             {"-a", "begins with '-'"},
             {"a.", NULL},
             {"a b", "thing name 'a b' has a ' '"},
             {"a@1", "has a '@'"},
             {"a\x1f", "control character (0x1f) at position 2"},
             {"\x7f", "control character (0x7f) at position 1"},
             {"ab\x80", "outside ASCII at position 3"}};

START_TEST(what_may_be_a_name) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ds_error err = {0};
        int rc = ds_name_check("thing", names[i].name, &err);
        ck_assert_msg(rc == (names[i].says ? (int)DS_EINVAL : 0) &&
                          (!rc || strstr(err.message, names[i].says)),
                      "'%s': %d %s", names[i].name, rc, err.message);
    }
    static const char *const versions[] = {"v1", "V12"}, *const others[] = {"v", "v1a", "w1", "1"};
    ds_error err;
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(ds_alias_check(versions[i], &err), DS_EINVAL);
        ck_assert(strstr(err.message, "looks like a version"));
    }
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(ds_alias_check(others[i], &err), 0);
    ck_assert_int_eq(ds_alias_check("a b", &err), DS_EINVAL);
}
END_TEST

#define HEX "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

START_TEST(what_is_reserved) {
    static const struct {
        enum ds_named kind;
        const char *name, *says;
    } list[] = {{DS_NAMED_DATASET, "Base", "the frozen base"},
                {DS_NAMED_DATASET, "LATEST", "the newest version"},
                {DS_NAMED_DATASET, "v2", "looks like a version"},
                {DS_NAMED_DATASET, "Default", "chosen for all"},
                {DS_NAMED_DATASET, "bundled", NULL},
                {DS_NAMED_DATASET, HEX, NULL},
                {DS_NAMED_DATASET, "digits", NULL},
                {DS_NAMED_BASE, "base", NULL},
                {DS_NAMED_BASE, "latest", NULL},
                {DS_NAMED_BASE, "v2", NULL},
                {DS_NAMED_BASE, HEX, "looks like a digest"},
                {DS_NAMED_BASE, "default", "chosen for all"},
                {DS_NAMED_BASE, "bundled", NULL},
                {DS_NAMED_FEATURE_NET, "Bundled", "the network of the base"},
                {DS_NAMED_FEATURE_NET, HEX, "looks like a digest"},
                {DS_NAMED_FEATURE_NET, "default", "chosen for all"},
                {DS_NAMED_FEATURE_NET, "fid", NULL}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const char *why = ds_name_reserved(list[i].kind, list[i].name);
        ck_assert_msg(list[i].says ? why && strstr(why, list[i].says) : !why, "%s: %s",
                      list[i].name, why ? why : "(free)");
    }
}
END_TEST

/* '#' at the end: eight digits of the path's digest, without the slashes at its end. */
START_TEST(names_of_paths) {
    static const struct {
        const char *path, *name;
    } list[] = {{"/data/digits", "digits"},
                {"/data/digits///", "digits"},
                {"digits", "digits"},
                {"/a/My Photos (2024)/", "My-Photos-2024"},
                {"/a/--x--y--", "x-y"},
                {"/a/..hidden", "hidden"},
                {"/a/ x", "x"},
                {"/", "dataset"},
                {"", "dataset"},
                {"/a/ - ", "dataset"},
                {"/a/" N64, N64},
                {"/a/" N64 "x", "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRS-#"},
                {"/a/caf\xc3\xa9", "caf-#"},
                {"/a/caf\xc3\xa9/", "caf-#"},
                {"/a/\xc3\xa9", "dataset-#"}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        char name[DS_NAME_SIZE], want[DS_NAME_SIZE + 8], hex[DS_HEX_SIZE];
        size_t n = strlen(list[i].path);
        while (n && list[i].path[n - 1] == '/')
            n--;
        ds_digest(list[i].path, n, hex);
        size_t k = strcspn(list[i].name, "#");
        snprintf(want, sizeof want, "%.*s%.8s", (int)k, list[i].name, list[i].name[k] ? hex : "");
        ds_name_from_path(list[i].path, name);
        ck_assert_str_eq(name, want);
        ck_assert_int_eq(ds_name_check("x", name, NULL), 0);
    }
}
END_TEST

static void cases(TCase *tc) {
    tcase_add_test(tc, what_may_be_a_name);
    tcase_add_test(tc, what_is_reserved);
    tcase_add_test(tc, names_of_paths);
}

int main(void) { return ds_test_main("registry_names", cases); }
