/* SPDX-License-Identifier: Apache-2.0 */
/* optimizers.c - the table that optimizers.def generates. */
#include <string.h>
#include "train/train.h"

static const ramet__optimizer *const table[] = {
#define RAMET__OPTIMIZER(NAME) &ramet__optimizer_##NAME,
#include "train/optimizers.def"
#undef RAMET__OPTIMIZER
};

const ramet__optimizer *ramet__optimizer_find(const char *name) {
    for (int32_t i = 0; i < RAMET__COUNT(table); i++)
        if (!strcmp(table[i]->name, name)) return table[i];
    return NULL;
}

int32_t ramet__optimizer_list(int32_t i, const char **name, const char **detail) {
    if (i < 0 || i >= RAMET__COUNT(table)) return 0;
    if (name) *name = table[i]->name;
    if (detail) *detail = table[i]->summary;
    return 1;
}
