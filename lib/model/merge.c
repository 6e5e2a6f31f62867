/* SPDX-License-Identifier: Apache-2.0 */
/* merge.c - a new model with adapters added into the weights they name: decode, add scale * B.A, encode, in parallel over rows.
 * Weights that no adapter names are shared with the old model. */
#include "model/internal.h"
#include <math.h>
#include <string.h>

#define ROWS 16 /* of a piece */

typedef struct work {
    const ramet__weight *from;
    const ramet_adapter *const *adapters;
    const float *scales;
    int32_t count;
    ramet__enc enc;
    uint8_t *to;
    float *scratch; /* 2 * ROWS * cols floats a worker */
    const ramet__lora *dora; /* the pair, when it has magnitudes */
} work;

static ramet_status merge_rows(void *context, int64_t piece, int32_t worker) {
    const work *w = context;
    const int64_t k = ramet__shape_cols(ramet__weight_shape(w->from)), n = ramet__shape_rows(ramet__weight_shape(w->from));
    const int64_t r0 = piece * ROWS, r1 = RAMET__MIN(r0 + ROWS, n), count = (r1 - r0) * k;
    const ramet__encoding *e = ramet__encoding_get(w->enc);
    float *sum = w->scratch + (int64_t)worker * 2 * ROWS * k, *delta = sum + ROWS * k;
    ramet__weight_decode(sum, w->from, r0, r1);
    ramet__adapter_delta_rows(delta, w->adapters, w->scales, w->count, w->from, r0, r1);
    for (int64_t i = 0; i < count; i++) sum[i] += delta[i];
    for (int64_t r = r0; w->dora && r < r1; r++) {
        const ramet__kernels *kernels = w->adapters[0]->rt->kernels;
        float *row = sum + (r - r0) * k;
        const float norm = (float)sqrt(kernels->sumsq(row, k));
        kernels->scale(row, norm > 0 ? w->dora->m[r] / norm : 0, row, k);
    }
    if (!ramet__encoded_finite(RAMET__ENC_F32, sum, count)) return RAMET_E_NUMERIC;
    uint8_t *to = w->to + (uint64_t)r0 * ramet__encoded_bytes(e, k);
    e->encode(to, sum, count);
    return ramet__encoded_finite(w->enc, to, count) ? RAMET_OK : RAMET_E_NUMERIC;
}

static ramet_status merged(ramet__weight **out, ramet_runtime *rt, work *w) {
    const ramet__shape *s = ramet__weight_shape(w->from);
    const char *name = ramet__weight_name(w->from);
    const ramet__encoding *e = ramet__encoding_get(w->enc);
    ramet__weight *to = NULL;
    ramet_status st;
    int64_t failed = 0;
    if (ramet__shape_cols(s) % e->block)
        return ramet__fail(RAMET_E_UNSUPPORTED, "the rows of %s have %lld elements, no multiple of %s's block of %d", name, (long long)ramet__shape_cols(s), e->name, e->block);
    RAMET__GO(ramet__weight_new(&to, rt, name, w->enc, s));
    w->to = ramet__weight_mutable(to);
    RAMET__NEW(w->scratch, ramet__alloc(rt->mem, (size_t)ramet__threads_count(rt->threads) * 2 * ROWS * (size_t)ramet__shape_cols(s) * sizeof *w->scratch));
    st = ramet__parallel_for(rt->threads, (ramet__shape_rows(s) + ROWS - 1) / ROWS, merge_rows, w, &failed);
    if (st == RAMET_E_NUMERIC) ramet__fail(st, "merging gives NaN, infinity or numbers beyond %s in rows %lld.. of %s; is the scale too large?", e->name, (long long)failed * ROWS, name);
    if (st) goto out;
    *out = to;
    to = NULL;
out:
    ramet__free(w->scratch);
    w->scratch = NULL;
    ramet__weight_free(to);
    return st;
}

static int32_t named(const work *w, const char *name) {
    for (int32_t i = 0; i < w->count; i++)
        if (ramet__adapter_find(w->adapters[i], name)) return 1;
    return 0;
}

static ramet_status check(const ramet_model *model, const ramet_adapter *const *adapters, const float *scales, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
        if (!adapters[i]) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_merge: adapter %d is NULL", i);
        if (scales && !isfinite(scales[i])) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_merge: scale %d is not finite", i);
        if (count > 1 && ramet__adapter_is_dora(adapters[i])) return ramet__fail(RAMET_E_UNSUPPORTED, "ramet_model_merge: adapter %d is a DoRA, which is merged alone", i);
        for (int64_t j = 0; j < adapters[i]->n; j++) RAMET__TRY(ramet__adapter_check_shape(model, adapters[i]->lora[j].name, adapters[i]->lora[j].n, adapters[i]->lora[j].k));
    }
    return RAMET_OK;
}

ramet_status ramet_model_merge(ramet_model **out, const ramet_model *model, const ramet_adapter *const *adapters, const float *scales, int32_t count, const char *encoding,
                               ramet_progress_fn progress, void *user) {
    if (!model || !out) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_merge: %s is NULL", out ? "model" : "out");
    RAMET__TRY(ramet__runtime_check(model->rt));
    if (count < 1 || !adapters) return ramet__fail(RAMET_E_ARGUMENT, "ramet_model_merge: no adapter was given");
    work w = {.adapters = adapters, .scales = scales, .count = count};
    ramet__weight **weights = NULL;
    ramet__lineage *lineage = NULL;
    ramet_status st;
    ramet__enc enc = RAMET__ENC_F32;
    if (encoding) RAMET__TRY(ramet__encoding_named(&enc, encoding, "ramet_model_merge"));
    RAMET__TRY(check(model, adapters, scales, count));
    RAMET__NEW(weights, ramet__calloc(model->rt->mem, (size_t)model->n_weights, sizeof(ramet__weight *)));
    for (int64_t i = 0; i < model->n_weights; i++) {
        RAMET__GO(ramet__progress(progress, user, (double)i / (double)model->n_weights, "merging"));
        w.from = model->weights[i];
        w.enc = encoding ? enc : ramet__encoding_to_write(ramet__weight_enc(w.from));
        w.dora = ramet__adapter_is_dora(adapters[0]) ? ramet__adapter_find(adapters[0], ramet__weight_name(w.from)) : NULL;
        if (named(&w, ramet__weight_name(w.from))) RAMET__GO(merged(&weights[i], model->rt, &w));
        else weights[i] = ramet__weight_retain(model->weights[i]);
    }
    RAMET__GO(ramet__lineage_copy(&lineage, model->rt->mem, model->lineage));
    RAMET__GO(ramet__progress(progress, user, 1, "merging"));
    st = ramet__model_derive(out, model, &model->h, weights, model->n_weights, lineage);
    if (!st) lineage = NULL;
out:
    for (int64_t i = 0; weights && i < model->n_weights; i++) ramet__weight_free(weights[i]);
    ramet__free(weights);
    ramet__lineage_free(lineage);
    return st;
}
