/* SPDX-License-Identifier: Apache-2.0 */
/* adapters.c - see adapters.h. Errors begin with the public call. */
#include "infer/adapters.h"

ramet_status ramet__adapters_init(ramet__adapters *a, const ramet_model *model, const ramet__graph *g, int32_t max_rank, int32_t dora) {
    ramet_status st;
    ramet__mem *mem = model->rt->mem;
    a->model = model;
    a->max_rank = max_rank;
    a->dora = dora;
    RAMET__NEW(a->slot_of, ramet__alloc(mem, (size_t)model->n_weights * sizeof *a->slot_of));
    a->n_slots = ramet__graph_slot_count(g);
    RAMET__NEW(a->empty, ramet__calloc(mem, (size_t)a->n_slots + 1, sizeof *a->empty));
    for (int64_t i = 0; i < model->n_weights; i++) a->slot_of[i] = ramet__graph_slot_index(g, ramet__weight_name(model->weights[i]));
    return RAMET_OK;
out:
    return st;
}

static void drop(ramet__attached *one) {
    ramet_adapter_free(one->adapter);
    ramet__free(one->entries);
    ramet__free(one->gains);
    *one = (ramet__attached){0};
}

void ramet__adapters_free(ramet__adapters *a) {
    for (int64_t i = 0; i < a->n; i++) drop(&a->list[i]);
    ramet__free(a->list);
    ramet__free(a->table);
    ramet__free(a->empty);
    ramet__free(a->slot_of);
    *a = (ramet__adapters){0};
}

static ramet_status fill(ramet__slot_entry *entries, const float *gains, const ramet__adapters *to, const ramet_adapter *a, float scale, const char *function) {
    const ramet_model *m = to->model;
    int64_t found = 0;
    for (int64_t i = 0; i < m->n_weights; i++) {
        const ramet__lora *l = ramet__adapter_find(a, ramet__weight_name(m->weights[i]));
        if (!l) continue;
        const ramet__shape *shape = ramet__weight_shape(m->weights[i]);
        if (to->slot_of[i] < 0) return ramet__fail(RAMET_E_UNSUPPORTED, "%s: %s takes no adapter", function, l->name);
        if (shape->dim[0] != l->n || shape->dim[1] != l->k)
            return ramet__fail(RAMET_E_INCONSISTENT, "%s: the adapter's %s is for [%lld, %lld]; the model's is [%lld, %lld]", function, l->name, (long long)l->n, (long long)l->k,
                               (long long)shape->dim[0], (long long)shape->dim[1]);
        if (l->rank > to->max_rank)
            return ramet__fail(RAMET_E_LIMIT, "%s: the adapter's rank is %d, max_rank is %d; create what it is attached to with a larger one", function, l->rank, to->max_rank);
        entries[to->slot_of[i]] = (ramet__slot_entry){l->a, l->b, l->scale * scale, l->rank, ramet__adapter_gain(gains, a, l)};
        found++;
    }
    if (found != a->n) return ramet__fail(RAMET_E_INCONSISTENT, "%s: the adapter changes weights that the model does not have", function);
    return RAMET_OK;
}

ramet_status ramet__adapters_attach(int32_t *index, ramet__adapters *a, ramet_adapter *adapter, float scale, const char *function) {
    ramet__attached one = {0};
    ramet_status st;
    int64_t at = 0;
    if (!index || !adapter) return ramet__fail(RAMET_E_ARGUMENT, "%s: %s is NULL", function, index ? "adapter" : "index");
    if (scale != scale || scale - scale != 0) return ramet__fail(RAMET_E_ARGUMENT, "%s: scale is not finite", function);
    if (a->max_rank == 0) return ramet__fail(RAMET_E_STATE, "%s: nothing can be attached with max_rank 0", function);
    if (ramet__adapter_is_dora(adapter) && !a->dora)
        return ramet__fail(RAMET_E_STATE, "%s: this is a DoRA adapter; create what it is attached to with dora = 1", function);
    ramet__mem *mem = a->model->rt->mem;
    RAMET__NEW(one.entries, ramet__calloc(mem, (size_t)RAMET__MAX(a->n_slots, 1), sizeof *one.entries));
    RAMET__GO(ramet__adapter_gains(&one.gains, adapter, a->model, scale));
    RAMET__GO(fill(one.entries, one.gains, a, adapter, scale, function));
    while (at < a->n && a->list[at].adapter) at++;
    if (at == INT32_MAX) {
        st = ramet__fail(RAMET_E_LIMIT, "%s: too many adapters", function);
        goto out;
    }
    RAMET__GO(ramet__grow(mem, &a->list, &a->room, at + 1, sizeof *a->list));
    RAMET__GO(ramet__grow(mem, &a->table, &a->table_room, at + 1, sizeof *a->table));
    one.adapter = ramet_adapter_retain(adapter);
    a->list[at] = one;
    a->table[at] = one.entries;
    a->n = RAMET__MAX(a->n, at + 1);
    *index = (int32_t)at;
    return RAMET_OK;
out:
    ramet__free(one.entries);
    ramet__free(one.gains);
    return st;
}

int32_t ramet__adapters_has(const ramet__adapters *a, int32_t index) { return index >= 0 && index < a->n && a->list[index].adapter; }

ramet_status ramet__adapters_check(const ramet__adapters *a, int32_t index, const char *function) {
    return ramet__adapters_has(a, index) ? RAMET_OK : ramet__fail(RAMET_E_ARGUMENT, "%s: no adapter is attached as %d", function, index);
}

void ramet__adapters_detach(ramet__adapters *a, int32_t index) {
    drop(&a->list[index]);
    a->table[index] = a->empty;
}
