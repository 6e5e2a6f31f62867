/* SPDX-License-Identifier: Apache-2.0 */
/* adapter.c - low-rank changes to named weights (LoRA, Hu et al. 2022): W + scale * B.A, with A [rank, inputs] and
 * B [outputs, rank]. Made here for tuning, loaded and saved by adapter_gguf.c and adapter_peft.c. */
#include "base/rng.h"
#include "model/internal.h"
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#define MAX_RANK 4096

ramet_status ramet__adapter_alloc(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, const char *arch, float alpha, int64_t n) {
    ramet_adapter *a = ramet__calloc(rt->mem, 1, sizeof *a);
    if (!a) return ramet__alloc_status();
    a->rt = ramet__runtime_retain(rt);
    atomic_init(&a->refs, 1);
    a->alpha = alpha;
    if (model) a->h = model->h;
    a->arch = ramet__strdup(rt->mem, arch);
    a->lora = ramet__calloc(rt->mem, (size_t)RAMET__MAX(n, 1), sizeof *a->lora);
    if (!a->arch || !a->lora) {
        ramet_adapter_free(a);
        return ramet__alloc_status();
    }
    *out = a;
    return RAMET_OK;
}

ramet_status ramet__adapter_add(ramet_adapter *a, const char *name, int64_t n, int64_t k, int64_t rank, float scale) {
    ramet__lora *l = &a->lora[a->n];
    if (rank < 1 || rank > MAX_RANK)
        return ramet__fail(rank < 1 ? RAMET_E_INCONSISTENT : RAMET_E_LIMIT, "the adapter's rank for %s is %lld; 1 to %d are possible", name, (long long)rank, MAX_RANK);
    if (!isfinite(scale)) return ramet__fail(RAMET_E_INCONSISTENT, "the adapter's scale for %s is not finite; check its alpha", name);
    *l = (ramet__lora){.n = n, .k = k, .rank = (int32_t)rank, .scale = scale};
    l->name = ramet__strdup(a->rt->mem, name);
    l->a = ramet__calloc(a->rt->mem, (size_t)rank * (size_t)k, sizeof *l->a);
    l->b = ramet__calloc(a->rt->mem, (size_t)n * (size_t)rank, sizeof *l->b);
    a->n++; /* counted before the check so that free() finds what was made */
    return l->name && l->a && l->b ? RAMET_OK : ramet__alloc_status();
}

ramet_status ramet__adapter_finite(const ramet_adapter *a) {
    for (int64_t i = 0; i < a->n; i++) {
        const ramet__lora *l = &a->lora[i];
        if (!ramet__encoded_finite(RAMET__ENC_F32, l->a, l->rank * l->k) || !ramet__encoded_finite(RAMET__ENC_F32, l->b, l->rank * l->n) ||
            (l->m && !ramet__encoded_finite(RAMET__ENC_F32, l->m, l->n)))
            return ramet__fail(RAMET_E_INCONSISTENT, "the adapter for %s holds NaN or infinity", l->name);
    }
    return RAMET_OK;
}

ramet_status ramet__targets_check(const ramet__arch *arch, const char *targets, const char *also) {
    char one[RAMET__NAME_MAX];
    for (const char *p = targets; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
        size_t n = strcspn(p, ",");
        while (n && *p == ' ') p++, n--;
        while (n && p[n - 1] == ' ') n--;
        if (!n || n >= sizeof one) return ramet__fail(RAMET_E_ARGUMENT, "targets \"%s\": an empty or overlong name", targets);
        memcpy(one, p, n);
        one[n] = 0;
        int32_t known = also && !strcmp(also, one);
        for (int32_t i = 0; i < arch->n_specs; i++) known |= arch->specs[i].target && !strcmp(arch->specs[i].target, one);
        if (!known) return ramet__fail(RAMET_E_ARGUMENT, "targets: a %s model has no \"%s\"; for example \"q_proj,v_proj\"%s%s", arch->name, one, also ? ", or " : "", also ? also : "");
    }
    return RAMET_OK;
}

ramet_status ramet__adapter_new(ramet_adapter **out, const ramet_model *model, const char *targets, int32_t rank, float alpha, uint64_t seed) {
    ramet_adapter *a = NULL;
    ramet_status st;
    if (rank < 1 || rank > MAX_RANK) return ramet__fail(RAMET_E_ARGUMENT, "rank is %d; 1 to %d are possible", rank, MAX_RANK);
    if (!isfinite(alpha) || alpha <= 0) return ramet__fail(RAMET_E_ARGUMENT, "alpha is %g; it must be a positive number", (double)alpha);
    RAMET__TRY(ramet__targets_check(model->arch, targets, NULL));
    const char *digest = ramet_model_digest(model);
    if (!digest) return ramet__alloc_status();
    RAMET__GO(ramet__adapter_alloc(&a, model->rt, model, model->arch->name, alpha, model->n_weights));
    memcpy(a->base_digest, digest, sizeof a->base_digest);
    for (int64_t i = 0; i < model->n_weights; i++) {
        const char *name = ramet__weight_name(model->weights[i]);
        const ramet__weight_spec *spec = ramet__model_spec(model, name, NULL);
        /* all: the layers' linear weights, not the output head, as PEFT's "all-linear" */
        if (!spec || !spec->target || (targets ? !ramet__target_listed(targets, spec->target) : !strstr(spec->name, "%d"))) continue;
        const ramet__shape *s = ramet__weight_shape(model->weights[i]);
        RAMET__GO(ramet__adapter_add(a, name, s->dim[0], s->dim[1], rank, alpha / (float)rank));
        ramet__lora *l = &a->lora[a->n - 1];
        const double bound = 1 / sqrt((double)l->k); /* Kaiming uniform with a = sqrt(5) */
        for (int64_t j = 0; j < rank * l->k; j++) l->a[j] = (float)(bound * (2 * ramet__rng_uniform(seed, (uint64_t)i, (uint64_t)j) - 1));
    }
    if (!a->n) {
        st = ramet__fail(RAMET_E_ARGUMENT, "targets \"%s\": the model has none of these weights", targets ? targets : "");
        goto out;
    }
    *out = a;
    return RAMET_OK;
out:
    ramet_adapter_free(a);
    return st;
}

ramet_adapter *ramet_adapter_retain(ramet_adapter *adapter) {
    if (adapter) atomic_fetch_add_explicit(&adapter->refs, 1, memory_order_relaxed);
    return adapter;
}

void ramet_adapter_free(ramet_adapter *adapter) {
    if (!adapter || atomic_fetch_sub(&adapter->refs, 1) > 1) return;
    ramet_runtime *rt = adapter->rt;
    for (int64_t i = 0; i < adapter->n; i++) {
        ramet__free(adapter->lora[i].name);
        ramet__free(adapter->lora[i].a);
        ramet__free(adapter->lora[i].b);
        ramet__free(adapter->lora[i].m);
    }
    ramet__free(adapter->lora);
    ramet__free(adapter->arch);
    ramet__free(adapter);
    ramet_runtime_free(rt);
}

const ramet__lora *ramet__adapter_find(const ramet_adapter *a, const char *name) {
    for (int64_t i = 0; i < a->n; i++)
        if (!strcmp(a->lora[i].name, name)) return &a->lora[i];
    return NULL;
}

void ramet__adapter_delta_rows(float *dst, const ramet_adapter *const *adapters, const float *scales, int32_t count, const ramet__weight *w, int64_t r0, int64_t r1) {
    const int64_t k = ramet__shape_cols(ramet__weight_shape(w));
    memset(dst, 0, (size_t)(r1 - r0) * (size_t)k * sizeof *dst);
    for (int32_t i = 0; i < count; i++) {
        const ramet__lora *l = ramet__adapter_find(adapters[i], ramet__weight_name(w));
        if (!l) continue;
        const float scale = l->scale * (scales ? scales[i] : 1);
        for (int64_t r = r0; r < r1; r++)
            for (int32_t j = 0; j < l->rank; j++) adapters[i]->rt->kernels->axpy(dst + (r - r0) * k, scale * l->b[r * l->rank + j], l->a + j * k, k);
    }
}

void ramet__adapter_delta(float *dst, const ramet_adapter *const *adapters, const float *scales, int32_t count, const ramet__weight *w) {
    ramet__adapter_delta_rows(dst, adapters, scales, count, w, 0, ramet__shape_rows(ramet__weight_shape(w)));
}

ramet_status ramet_adapter_number(double *out, const ramet_adapter *adapter, const char *name) {
    if (!out || !adapter || !name) return ramet__fail(RAMET_E_ARGUMENT, "ramet_adapter_number: %s is NULL", !out ? "out" : !adapter ? "adapter" : "name");
    int64_t parameters = 0;
    int32_t rank = 0;
    for (int64_t i = 0; i < adapter->n; i++) {
        rank = RAMET__MAX(rank, adapter->lora[i].rank);
        parameters += adapter->lora[i].rank * (adapter->lora[i].n + adapter->lora[i].k) + (adapter->lora[i].m ? adapter->lora[i].n : 0);
    }
    const struct { const char *name; double value; } numbers[] = {
        {"rank", rank}, {"alpha", adapter->alpha}, {"targets", (double)adapter->n}, {"parameters", (double)parameters}, {"bytes", 4.0 * (double)parameters}, {"dora", ramet__adapter_is_dora(adapter)},
    };
    for (int32_t i = 0; i < RAMET__COUNT(numbers); i++)
        if (!strcmp(numbers[i].name, name)) {
            *out = numbers[i].value;
            return RAMET_OK;
        }
    return ramet__fail(RAMET_E_NOT_FOUND, "ramet_adapter_number: no number is called \"%s\"; see ramet/model.h for the list", name);
}

/* ---- files ---- */

/* The files store one alpha and a rank a target; other scales go into B. */
float ramet__adapter_fold(const ramet_adapter *a, const ramet__lora *l) {
    const float nominal = a->alpha > 0 ? a->alpha / (float)l->rank : 1;
    return l->scale / nominal;
}

ramet_status ramet__adapter_check_base(const ramet_model *model, const char *digest) {
    if (!model || !digest || !*digest) return RAMET_OK;
    const char *have = ramet_model_digest(model);
    if (!have) return ramet__alloc_status();
    if (!strcmp(have, digest)) return RAMET_OK;
    return ramet__fail(RAMET_E_INCONSISTENT, "the adapter was made for the model with digest %.12s..., this is %.12s...; load it with its own model", digest, have);
}

ramet_status ramet__adapter_check_shape(const ramet_model *model, const char *name, int64_t n, int64_t k) {
    const ramet__weight *w = ramet__model_weight(model, name);
    const ramet__weight_spec *spec = w ? ramet__model_spec(model, name, NULL) : NULL;
    if (!w) return ramet__fail(RAMET_E_INCONSISTENT, "the adapter changes %s, which %s does not have; is it for another model?", name, model->name);
    if (!spec || !spec->target) return ramet__fail(RAMET_E_UNSUPPORTED, "the adapter changes %s, which takes no adapter", name);
    const ramet__shape *s = ramet__weight_shape(w);
    if (s->dim[0] == n && s->dim[1] == k) return RAMET_OK;
    return ramet__fail(RAMET_E_INCONSISTENT, "the adapter's %s is for [%lld, %lld], the model's is [%lld, %lld]; is it for another model?", name, (long long)n, (long long)k,
                       (long long)s->dim[0], (long long)s->dim[1]);
}

static int32_t is_gguf(ramet__reader *reader) {
    char magic[4];
    return ramet__reader_size(reader) >= 4 && !ramet__reader_read(reader, magic, 0, 4) && !memcmp(magic, "GGUF", 4);
}

ramet_status ramet__adapter_load(ramet_adapter **out, ramet_runtime *rt, const ramet_model *model, const char *path) {
    ramet_source source;
    ramet__reader *reader = NULL;
    ramet_status st;
    if (ramet__path_kind(path) == 2) return ramet__name_file(ramet__adapter_load_peft(out, rt, model, path), path);
    ramet_source_from_path(&source, sizeof source, path);
    RAMET__TRY(ramet__reader_open(&reader, rt->mem, &source));
    st = is_gguf(reader) ? ramet__adapter_load_gguf(out, rt, model, reader) : ramet__adapter_load_peft(out, rt, model, path);
    ramet__reader_free(reader);
    return ramet__name_file(st, path);
}

ramet_status ramet_adapter_load(ramet_adapter **out, const ramet_model *model, const char *path) {
    if (!out || !model || !path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_adapter_load: %s is NULL", !out ? "out" : !model ? "model" : "path");
    RAMET__TRY(ramet__runtime_check(model->rt));
    return ramet__adapter_load(out, model->rt, model, path);
}

ramet_status ramet_adapter_save(const ramet_adapter *adapter, const char *path) {
    if (!adapter || !path) return ramet__fail(RAMET_E_ARGUMENT, "ramet_adapter_save: %s is NULL", adapter ? "path" : "adapter");
    RAMET__TRY(ramet__runtime_check(adapter->rt));
    size_t n = strlen(path);
    return n >= 5 && !strcmp(path + n - 5, ".gguf") ? ramet__adapter_save_gguf(adapter, path) : ramet__adapter_save_peft(adapter, path);
}
