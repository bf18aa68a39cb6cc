/* base/limits.c - see limits.h. */
#include "base/limits.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int ds_device_word(const char *word) {
    static const char *const words[] = {"auto", "cpu", "cuda", "ref"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(word, words[i]))
            return 1;
    if (strncmp(word, "cuda:", 5))
        return 0;
    size_t digits = strspn(word + 5, "0123456789");
    return digits >= 1 && digits <= 4 && !word[5 + digits] &&
           strtol(word + 5, NULL, 10) < DS_DEVICE_ORDINALS;
}

int64_t ds_address_limit_mib(int64_t pid) {
    struct rlimit r;
    if (geteuid() == 0 || prlimit((pid_t)pid, RLIMIT_AS, NULL, &r) || r.rlim_max == RLIM_INFINITY ||
        r.rlim_max >= DS_DECODER_MEMORY)
        return 0;
    return (int64_t)(r.rlim_max >> 20);
}
