/* engine/model/arch.c - the lists of architectures and of adapter targets. */
#include "engine/model/arch.h"
#include "contract/options.h"

#include <string.h>

static const struct {
    unsigned bit;
    const char *name;
} targets[] = {
#define TARGET(bit, name) {bit, name},
    DS_TARGETS(TARGET)
#undef TARGET
    /* known in files; no option has them */
    {DS_TARGET_PATCH, "patch"},
    {DS_TARGET_TIME, "time"}};
enum { TARGETS = sizeof targets / sizeof targets[0] };

const char *ds_target_name(unsigned bit) {
    for (int i = 0; i < TARGETS; i++)
        if (targets[i].bit == bit)
            return targets[i].name;
    return NULL;
}

unsigned ds_target_bit(const char *name) {
    for (int i = 0; i < TARGETS; i++)
        if (!strcmp(targets[i].name, name))
            return targets[i].bit;
    return 0;
}

enum { ARCHS_MAX = 8 };
static const ds_arch *archs[ARCHS_MAX] = {&ds_dit_arch};

const ds_arch *ds_arch_find(const char *name) {
    for (int i = 0; i < ARCHS_MAX && archs[i]; i++)
        if (!strcmp(archs[i]->name, name))
            return archs[i];
    return NULL;
}

void ds_arch_register(const ds_arch *arch) {
    int i = 0;
    while (i < ARCHS_MAX && archs[i] && archs[i] != arch)
        i++;
    DS_ASSERT(i < ARCHS_MAX && (archs[i] == arch || !ds_arch_find(arch->name)));
    archs[i] = arch;
}
