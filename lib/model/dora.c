/* SPDX-License-Identifier: Apache-2.0 */
/* dora.c - weight-decomposed adapters (DoRA, Liu et al. 2024, arXiv:2402.09353): each output has a magnitude m and the direction of
 * W + scale * B.A, so what a low-rank pair gives is multiplied by the gain m / |W + scale * B.A|, row by row. */
#include "model/model.h"
#include <math.h>

#define ROWS 16 /* of a piece */

typedef struct work { float *norm, *scratch; const ramet_runtime *rt; const ramet__lora *l; const ramet__weight *w; float scale; } work;

static ramet_status norm_rows(void *context, int64_t piece, int32_t worker) {
    const work *x = context;
    const ramet__lora *l = x->l;
    float *row = x->scratch + worker * l->k;
    for (int64_t r = piece * ROWS; r < RAMET__MIN(l->n, (piece + 1) * ROWS); r++) {
        ramet__weight_decode(row, x->w, r, r + 1);
        for (int32_t j = 0; x->scale != 0 && j < l->rank; j++) x->rt->kernels->axpy(row, x->scale * l->b[r * l->rank + j], l->a + j * l->k, l->k);
        x->norm[r] = (float)sqrt(x->rt->kernels->sumsq(row, l->k));
    }
    return RAMET_OK;
}

ramet_status ramet__lora_norms(float *norm, ramet_runtime *rt, const ramet__lora *l, float scale, const ramet__weight *w) {
    work x = {norm, ramet__alloc(rt->mem, (size_t)ramet__threads_count(rt->threads) * (size_t)l->k * sizeof(float)), rt, l, w, scale};
    if (!x.scratch) return ramet__alloc_status();
    const ramet_status st = ramet__parallel_for(rt->threads, (l->n + ROWS - 1) / ROWS, norm_rows, &x, NULL);
    ramet__free(x.scratch);
    return st;
}

static int64_t outputs_before(const ramet_adapter *a, const ramet__lora *l) {
    int64_t n = 0;
    for (const ramet__lora *x = a->lora; x < l; x++) n += x->n;
    return n;
}

ramet_status ramet__adapter_gains(float **out, const ramet_adapter *a, const ramet_model *model, float scale) {
    float *gain = NULL;
    ramet_status st = RAMET_OK;
    *out = NULL;
    if (!ramet__adapter_is_dora(a)) return RAMET_OK;
    RAMET__NEW(gain, ramet__alloc(model->rt->mem, (size_t)outputs_before(a, a->lora + a->n) * sizeof *gain));
    for (int64_t i = 0, at = 0; i < a->n; at += a->lora[i++].n) {
        const ramet__lora *l = &a->lora[i];
        RAMET__GO(ramet__adapter_check_shape(model, l->name, l->n, l->k));
        RAMET__GO(ramet__lora_norms(gain + at, model->rt, l, l->scale * scale, ramet__model_weight(model, l->name)));
        for (int64_t r = 0; r < l->n; r++) gain[at + r] = gain[at + r] > 0 ? l->m[r] / gain[at + r] : 0; /* a row of zeros has no direction */
    }
    *out = gain;
    gain = NULL;
out:
    ramet__free(gain);
    return st;
}

const float *ramet__adapter_gain(const float *gains, const ramet_adapter *a, const ramet__lora *l) { return gains ? gains + outputs_before(a, l) : NULL; }

ramet_status ramet__adapter_plain(const ramet_adapter *a, const char *what) {
    if (!ramet__adapter_is_dora(a)) return RAMET_OK;
    return ramet__fail(RAMET_E_UNSUPPORTED, "%s: a DoRA adapter is no difference of low rank; merge it into its model first", what);
}
