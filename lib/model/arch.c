/* SPDX-License-Identifier: Apache-2.0 */
/* arch.c - the table of architectures and what every family shares: names of weights, sizes of dimensions, sane numbers. */
#include "model/model.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAMET__ARCH(name) extern const ramet__arch ramet__arch_##name;
#include "model/archs.def"
#undef RAMET__ARCH

static const ramet__arch *const archs[] = {
#define RAMET__ARCH(name) &ramet__arch_##name,
#include "model/archs.def"
#undef RAMET__ARCH
};

const ramet__arch *ramet__arch_find(const char *name) {
    for (int32_t i = 0; i < RAMET__COUNT(archs); i++)
        if (!strcmp(archs[i]->name, name)) return archs[i];
    return NULL;
}

int32_t ramet__arch_list(int32_t i, const char **name, const char **detail) {
    if (i < 0 || i >= RAMET__COUNT(archs)) return 0;
    *name = archs[i]->name;
    *detail = archs[i]->summary;
    return 1;
}

/* Put the layer's number where the pattern has %d. */
static void fill(char name[RAMET__NAME_MAX], const char *pattern, int32_t layer) {
    const char *at = strstr(pattern, "%d");
    if (!at) snprintf(name, RAMET__NAME_MAX, "%s", pattern);
    else snprintf(name, RAMET__NAME_MAX, "%.*s%d%s", (int)(at - pattern), pattern, layer, at + 2);
}

void ramet__spec_name(char name[RAMET__NAME_MAX], const ramet__weight_spec *spec, int32_t layer) { fill(name, spec->name, layer); }
void ramet__spec_hf_name(char name[RAMET__NAME_MAX], const ramet__weight_spec *spec, int32_t layer) { fill(name, spec->hf, layer); }

/* Does `name` follow the pattern? *layer: its number, -1 for a pattern without one. */
static int32_t follows(const char *pattern, const char *name, int32_t *layer) {
    const char *at = strstr(pattern, "%d");
    *layer = -1;
    if (!at) return !strcmp(pattern, name);
    size_t head = (size_t)(at - pattern);
    if (strncmp(pattern, name, head) || name[head] < '0' || name[head] > '9') return 0;
    if (name[head] == '0' && name[head + 1] >= '0' && name[head + 1] <= '9') return 0; /* "blk.00." is no second name of "blk.0." */
    char *end;
    long n = strtol(name + head, &end, 10);
    if (n > INT32_MAX || strcmp(end, at + 2)) return 0;
    *layer = (int32_t)n;
    return 1;
}

const ramet__weight_spec *ramet__arch_spec(const ramet__arch *arch, const char *name, int32_t hf, int32_t *layer) {
    int32_t found;
    for (int32_t i = 0; i < arch->n_specs; i++)
        if (follows(hf ? arch->specs[i].hf : arch->specs[i].name, name, &found)) {
            if (layer) *layer = found;
            return &arch->specs[i];
        }
    return NULL;
}

int32_t ramet__target_listed(const char *targets, const char *target) {
    if (!targets) return 1;
    size_t n = strlen(target);
    for (const char *p = targets; *p;) {
        const char *end = strchr(p, ',');
        size_t len = end ? (size_t)(end - p) : strlen(p);
        while (len && *p == ' ') p++, len--;
        while (len && p[len - 1] == ' ') len--;
        if (len == n && !memcmp(p, target, n)) return 1;
        if (!end) break;
        p = end + 1;
    }
    return 0;
}

int64_t ramet__dim_size(const ramet__hparams *h, ramet__dim dim) {
    switch (dim) {
    case RAMET__DIM_VOCAB: return h->n_vocab;
    case RAMET__DIM_EMBD: return h->n_embd;
    case RAMET__DIM_FF: return h->n_ff;
    case RAMET__DIM_Q: return (int64_t)h->n_head * h->head_dim;
    case RAMET__DIM_KV: return (int64_t)h->n_kv * h->head_dim;
    case RAMET__DIM_CONTEXT: return h->n_ctx;
    case RAMET__DIM_TYPES: return h->n_types;
    case RAMET__DIM_ONE: break;
    }
    return 1;
}

static ramet_status check_eps(const ramet__hparams *h, const char *where) {
    if (!isfinite(h->eps) || h->eps < 0 || h->eps > 1)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: the norm's epsilon is %g; it must be a small number >= 0", where, (double)h->eps);
    return RAMET_OK;
}

ramet_status ramet__hparams_check(const ramet__hparams *h, const char *where) {
    const struct { const char *what; int64_t value, limit; } counts[] = {
        {"layers", h->n_layer, 4096},     {"heads", h->n_head, 65536},          {"key-value heads", h->n_kv, 65536},
        {"head width", h->head_dim, 4096}, {"width", h->n_embd, 1 << 20},       {"feed-forward width", h->n_ff, 1 << 24},
        {"vocabulary", h->n_vocab, 1 << 24}, {"context", h->n_ctx, (int64_t)1 << 31},
    };
    for (int32_t i = 0; i < RAMET__COUNT(counts); i++) {
        if (counts[i].value <= 0)
            return ramet__fail(RAMET_E_INCONSISTENT, "%s: %s is %lld; it must be positive", where, counts[i].what, (long long)counts[i].value);
        if (counts[i].value > counts[i].limit)
            return ramet__fail(RAMET_E_LIMIT, "%s: %s is %lld; at most %lld are supported", where, counts[i].what, (long long)counts[i].value, (long long)counts[i].limit);
    }
    if (h->n_head % h->n_kv)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: %d heads cannot share %d key-value heads evenly", where, h->n_head, h->n_kv);
    if (h->n_types) return check_eps(h, where);
    if (h->rope_dim <= 0 || h->rope_dim % 2 || h->rope_dim > h->head_dim)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: %d rotary dimensions; must be even and at most the head width %d", where, h->rope_dim, h->head_dim);
    RAMET__TRY(check_eps(h, where));
    if (!isfinite(h->rope_base) || h->rope_base < 1)
        return ramet__fail(RAMET_E_INCONSISTENT, "%s: the rotary base is %g; it must be a number >= 1", where, (double)h->rope_base);
    return RAMET_OK;
}

int32_t ramet__weight_listed(const ramet_model *m, const ramet__weight *w, const char *targets) {
    const ramet__weight_spec *spec = ramet__model_spec(m, ramet__weight_name(w), NULL);
    const char *target = ramet__weight_shape(w)->rank == 1 ? "norms" : spec ? spec->target : NULL;
    return !targets || (target && ramet__target_listed(targets, target));
}
