/* SPDX-License-Identifier: Apache-2.0 */
/* lift.c - what a pruned variant learned, carried onto the rows and columns of the parent that it was cut from (LoRAM: Zhang et
 * al., "Train Small, Infer Large", 2025). Weights that no variant has keep their bits. */
#include "feedback/feedback.h"

static const ramet__option options[] = {{"scale", 1, 0, 10, "multiplies each lifted difference"}};

static ramet_status accept(const ramet__feed *f, const ramet__update *u) {
    if (u->lineage->n_layer == f->parent->h.n_layer && u->lineage->n_ff == f->parent->h.n_ff)
        return ramet__fail(RAMET_E_REFUSED, "%s: refused: it comes from a variant of the parent's own shape; task_arithmetic takes it", u->path);
    return RAMET_OK;
}

/* The weighted mean over the updates that reach an element, so that two variants that share it do not overshoot. */
static void merge(float *out, const float *const *delta, const double *weight, int32_t n, int64_t count, const double *option, float *scratch) {
    (void)scratch;
    for (int64_t i = 0; i < count; i++) {
        double sum = 0, total = 0;
        for (int32_t u = 0; u < n; u++)
            if (delta[u] && delta[u][i] != 0) { sum += weight[u] * delta[u][i]; total += weight[u]; }
        out[i] = total > 0 ? (float)(option[0] * sum / RAMET__MAX(total, 1)) : 0;
    }
}

static ramet_status step(ramet_model **out, ramet__feed *f) { return ramet__merge(out, f, merge); }

const ramet__method ramet__method_lift = {
    .name = "lift", .summary = "differences of pruned variants carried onto the parent through their lineage; option scale", .stable = 1,
    .needs = RAMET_UPDATE_DELTA, .options = options, .n_options = RAMET__COUNT(options), .accept = accept, .step = step,
};
