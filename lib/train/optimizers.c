/* SPDX-License-Identifier: Apache-2.0 */
/* optimizers.c - the table that optimizers.def generates; names of a table for messages. */
#include <stdio.h>
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

const char *ramet__names(char room[128], int32_t (*list)(int32_t i, const char **name, const char **detail)) {
    const char *name;
    size_t at = 0;
    room[0] = 0;
    for (int32_t i = 0; at < 127 && list(i, &name, NULL); i++) at += (size_t)snprintf(room + at, 128 - at, "%s%s", i ? ", " : "", name);
    return room;
}
