/* SPDX-License-Identifier: Apache-2.0 */
/* slot.c - the live model of a program: exchanged in one step while sessions keep the model that they opened. */
#include "feedback/feedback.h"
#include <pthread.h>

struct ramet_slot {
    ramet_runtime *rt;
    pthread_mutex_t lock;
    ramet_model *model;
};

ramet_status ramet_slot_create(ramet_slot **out, ramet_model *model) {
    if (!out || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_slot_create: out and model must not be NULL");
    RAMET__TRY(ramet__runtime_check(model->rt));
    ramet_slot *s = ramet__calloc(model->rt->mem, 1, sizeof *s);
    if (!s) return ramet__alloc_status();
    if (pthread_mutex_init(&s->lock, NULL)) {
        ramet__free(s);
        return ramet__fail(RAMET_E_MEMORY, "ramet_slot_create: the system has no room for a lock");
    }
    s->rt = ramet__runtime_retain(model->rt);
    s->model = ramet_model_retain(model);
    *out = s;
    return RAMET_OK;
}

ramet_status ramet_slot_get(ramet_model **model, ramet_slot *slot) {
    if (!model || !slot) return ramet__fail(RAMET_E_ARGUMENT, "ramet_slot_get: model and slot must not be NULL");
    RAMET__TRY(ramet__runtime_check(slot->rt));
    pthread_mutex_lock(&slot->lock);
    *model = ramet_model_retain(slot->model);
    pthread_mutex_unlock(&slot->lock);
    return RAMET_OK;
}

ramet_status ramet_slot_set(ramet_slot *slot, ramet_model *model) {
    if (!slot || !model) return ramet__fail(RAMET_E_ARGUMENT, "ramet_slot_set: slot and model must not be NULL");
    RAMET__TRY(ramet__runtime_check(slot->rt));
    ramet_model *old, *new_one = ramet_model_retain(model);
    pthread_mutex_lock(&slot->lock);
    old = slot->model;
    slot->model = new_one;
    pthread_mutex_unlock(&slot->lock);
    ramet_model_free(old);
    return RAMET_OK;
}

void ramet_slot_free(ramet_slot *slot) {
    if (!slot) return;
    ramet_runtime *rt = slot->rt;
    ramet_model_free(slot->model);
    pthread_mutex_destroy(&slot->lock);
    ramet__free(slot);
    ramet_runtime_free(rt);
}
