/* contract/methods.c - the rows of DS_PRESETS as a table. */
#include "contract/methods.h"

#include <string.h>

#define PRESET(W, value_, word_, parts_, targets_, help_)                                          \
    [value_] = {.name = word_, .parts = parts_, .help = help_},
const ds_preset ds_preset_table[] = {DS_PRESETS(PRESET, ){.name = NULL}};

const ds_preset *ds_preset_find(const char *name) {
    for (const ds_preset *p = ds_preset_table; p->name; p++)
        if (strcmp(p->name, name) == 0)
            return p;
    return NULL;
}

int ds_preset_takes(const ds_preset *p, const char *option) {
    static const struct {
        const char *option;
        unsigned parts;
    } needs[] = {{"rank", DS_PART_LOWRANK},
                 {"phi", DS_PART_LOWRANK},
                 {"freeze_v", DS_PART_LOWRANK},
                 {"side", DS_PART_SCALE | DS_PART_SHIFT},
                 {"targets", DS_PARTS_AFFINER}};
    for (size_t i = 0; p && i < sizeof needs / sizeof needs[0]; i++)
        if (strcmp(needs[i].option, option) == 0)
            return (p->parts & needs[i].parts) != 0;
    return 0;
}

int ds_preset_schema(const ds_preset *p) {
    return p <= &ds_preset_table[DS_METHOD_FULL] ? 1 : DS_ADAPTER_SCHEMA_PARTS;
}

int ds_preset_keeps(const ds_preset *p, const char *option) {
    return !p || ds_preset_schema(p) == 1 || ds_preset_takes(p, option);
}
