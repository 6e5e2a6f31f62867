/* SPDX-License-Identifier: Apache-2.0 */
/* rebase.c - the loop's second turn: a variant's shape cut from a newer parent, and an adapter carried from a variant to the
 * parent through the variant's lineage (the way back of Zhang et al., "Train Small, Infer Large", 2025). */
#include "shrink/shrink.h"
#include <string.h>

static ramet__enc like_variant(const char *name, const ramet__weight *source, void *user) {
    const ramet__weight *w = ramet__model_weight(user, name);
    return w ? ramet__weight_enc(w) : ramet__weight_enc(source);
}

void ramet_rebase_options_init(ramet_rebase_options *options, uint32_t struct_size) {
    const ramet_rebase_options o = {.struct_size = struct_size};
    ramet__options_init(options, struct_size, &o, sizeof o);
}

ramet_status ramet_rebase(ramet_model **out, const ramet_model *variant, ramet_model *new_parent, const ramet_rebase_options *options) {
    ramet_rebase_options o;
    if (!out || !variant || !new_parent) return ramet__fail(RAMET_E_ARGUMENT, "ramet_rebase: out, variant and new_parent must not be NULL");
    RAMET__TRY(ramet__runtime_check(new_parent->rt));
    ramet_rebase_options_init(&o, sizeof o);
    RAMET__TRY(ramet__options(&o, sizeof o, options, "ramet_rebase"));
    ramet__calibration text = {o.ids, o.count, o.window, o.progress, o.progress_user};
    if (o.ids) RAMET__TRY(ramet__calibration_check(&text, new_parent, "ramet_rebase"));
    const ramet__lineage *l = variant->lineage;
    if (!l || !l->parent_digest) return ramet__fail(RAMET_E_INCONSISTENT, "%s: has no lineage, so it cannot be made again from another parent", variant->name);
    ramet__mem *mem = new_parent->rt->mem;
    ramet__lineage *record = NULL;
    ramet_status st;
    const char *digest = ramet_model_digest(new_parent);
    if (!digest) return ramet__alloc_status();
    RAMET__TRY(ramet__lineage_compose(&record, mem, NULL, l));
    ramet__free(record->parent_digest);
    record->parent_digest = NULL;
    RAMET__NEW(record->parent_digest, ramet__strdup(mem, digest));
    RAMET__GO(ramet__lineage_step(record, mem, "{\"step\":\"rebase\"}"));
    RAMET__GO(ramet__lineage_apply(out, new_parent, l, record, like_variant, (void *)(uintptr_t)variant, &text));
    record = NULL;
out:
    ramet__lineage_free(record);
    return st;
}

/* The parent's layer and, for FFN dimensions, its channel for each of the variant's; NULL channels: the same numbers. */
static const int32_t *channels(const ramet__lineage *l, const ramet__weight_spec *s, ramet__dim dim, int32_t layer) {
    return dim == RAMET__DIM_FF && l->ff && strchr(s->name, '%') ? l->ff + (int64_t)layer * l->n_ff : NULL;
}

static ramet_status lift_one(ramet_adapter *dst, const ramet__lora *src, const ramet__lineage *l, const char *variant, const ramet_model *parent) {
    int32_t layer = 0;
    char name[RAMET__NAME_MAX];
    const ramet__weight_spec *s = ramet__model_spec(parent, src->name, &layer); /* names are the family's: a variant has the parent's, and fewer layers */
    if (!s || layer >= l->n_layer) return ramet__fail(RAMET_E_INCONSISTENT, "adapter names %s, which %s does not have", src->name, variant);
    ramet__spec_name(name, s, layer >= 0 && l->layer ? l->layer[layer] : layer);
    const ramet__weight *w = ramet__model_weight(parent, name);
    if (!w) return ramet__fail(RAMET_E_INCONSISTENT, "%s: has no %s, where the lineage of %s points", parent->name, name, variant);
    const int32_t *rows = channels(l, s, s->rows, layer), *cols = channels(l, s, s->cols, layer);
    int64_t n = ramet__shape_rows(ramet__weight_shape(w)), k = ramet__shape_cols(ramet__weight_shape(w));
    if ((!rows && n != src->n) || (!cols && k != src->k) || (rows && src->n != l->n_ff) || (cols && src->k != l->n_ff))
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: %s is %lldx%lld, the adapter's is %lldx%lld and the lineage does not say how they map", parent->name, name,
                           (long long)n, (long long)k, (long long)src->n, (long long)src->k);
    RAMET__TRY(ramet__adapter_add(dst, name, n, k, src->rank, src->scale));
    ramet__lora *to = &dst->lora[dst->n - 1];
    for (int32_t r = 0; r < src->rank; r++)
        for (int64_t c = 0; c < src->k; c++) to->a[r * k + (cols ? cols[c] : c)] = src->a[r * src->k + c];
    for (int64_t r = 0; r < src->n; r++) memcpy(to->b + (rows ? rows[r] : r) * src->rank, src->b + r * src->rank, (size_t)src->rank * sizeof(float));
    return RAMET_OK;
}

ramet_status ramet__lift(ramet_adapter **out, const ramet_adapter *adapter, const ramet__lineage *l, const char *variant, const ramet_model *parent) {
    ramet_adapter *a = NULL;
    ramet_status st;
    for (int32_t i = 0; l->layer && i < l->n_layer; i++)
        if (l->layer[i] < 0 || l->layer[i] >= parent->h.n_layer)
            return ramet__fail(RAMET_E_INCONSISTENT, "lineage of %s names layer %d; %s has %d", variant, l->layer[i], parent->name, parent->h.n_layer);
    for (int64_t i = 0; l->ff && i < l->n_layer * l->n_ff; i++)
        if (l->ff[i] < 0 || l->ff[i] >= parent->h.n_ff)
            return ramet__fail(RAMET_E_INCONSISTENT, "lineage of %s names channel %d; %s has %lld", variant, l->ff[i], parent->name, (long long)parent->h.n_ff);
    RAMET__TRY(ramet__adapter_alloc(&a, parent->rt, parent, parent->arch->name, adapter->alpha, adapter->n));
    for (int64_t i = 0; i < adapter->n; i++) RAMET__GO(lift_one(a, &adapter->lora[i], l, variant, parent));
    *out = a;
    return RAMET_OK;
out:
    ramet_adapter_free(a);
    return st;
}

ramet_status ramet_adapter_lift(ramet_adapter **out, const ramet_adapter *adapter, const ramet_model *variant, const ramet_model *parent) {
    if (!out || !adapter || !variant || !parent) return ramet__fail(RAMET_E_ARGUMENT, "ramet_adapter_lift: no argument may be NULL");
    RAMET__TRY(ramet__runtime_check(parent->rt));
    if (!variant->lineage || !variant->lineage->parent_digest)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: has no lineage, so nothing says where its weights come from", variant->name);
    RAMET__TRY(ramet__adapter_plain(adapter, "ramet_adapter_lift"));
    return ramet__lift(out, adapter, variant->lineage, variant->name, parent);
}
