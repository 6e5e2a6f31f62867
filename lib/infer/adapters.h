/* SPDX-License-Identifier: Apache-2.0 */
/* adapters.h - the adapters of a plan with slots: a table of pointers that runs read, so that nothing is planned again. */
#ifndef RAMET__ADAPTERS_H
#define RAMET__ADAPTERS_H
#include "model/model.h"

typedef struct ramet__attached { ramet_adapter *adapter; ramet__slot_entry *entries; float *gains; } ramet__attached; /* entries: one a slot of the plan; gains: DoRA's */

typedef struct ramet__adapters {
    const ramet_model *model;  /* borrowed */
    int32_t max_rank, dora;
    int32_t *slot_of;          /* plan's slot of each weight of the model, -1: none */
    int32_t n_slots;
    ramet__attached *list; int64_t n, room;
    const ramet__slot_entry **table; int64_t table_room; /* list[i].entries, as a run wants them */
    ramet__slot_entry *empty;  /* no change anywhere: what a detached index points at */
} ramet__adapters;

/* Of a graph built from the model. Free it in any case. */
ramet_status ramet__adapters_init(ramet__adapters *a, const ramet_model *model, const ramet__graph *g, int32_t max_rank, int32_t dora);
void ramet__adapters_free(ramet__adapters *a);
/* function: the public call, which errors name. An index that is given must be attached. */
ramet_status ramet__adapters_attach(int32_t *index, ramet__adapters *a, ramet_adapter *adapter, float scale, const char *function);
void ramet__adapters_detach(ramet__adapters *a, int32_t index);
int32_t ramet__adapters_has(const ramet__adapters *a, int32_t index);
ramet_status ramet__adapters_check(const ramet__adapters *a, int32_t index, const char *function); /* E_ARGUMENT: not attached */
#endif
