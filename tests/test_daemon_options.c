/* tests/test_daemon_options.c - values of options that are words with a number in them. */
#include "daemon/defaults.h"
#include "tests/harness.h"

#include <jansson.h>
#include <string.h>

static int check(const char *option, const char *value, ds_error *err) {
    json_t *o = json_pack("{s:s}", option, value);
    int rc = ds_options_check("affiner", o, err);
    json_decref(o);
    return rc;
}

START_TEST(device) {
    static const char *const good[] = {"auto", "cpu", "ref", "cuda", "cuda:0", "cuda:15"};
    static const char *const bad[] = {"cuda:", "cuda:N",  "cuda:1x", "cuda:12345",
                                      "gpu",   "cuda:-1", ""};
    ds_error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(!check("device", good[i], &err), "'%s': %s", good[i], err.message);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_msg(check("device", bad[i], &err) == DS_EINVAL, "'%s'", bad[i]);
        ck_assert_msg(strstr(err.message, "auto|ref|cpu|cuda|cuda:N") != NULL, "%s", err.message);
    }
    ck_assert_int_eq(check("precision", "tf32", &err), 0);
    ck_assert_int_eq(check("precision", "f16", &err), DS_EINVAL);
}
END_TEST

static void register_cases(TCase *tc) { tcase_add_test(tc, device); }

int main(void) { return ds_test_main("daemon_options", register_cases); }
