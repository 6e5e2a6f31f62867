/* SPDX-License-Identifier: Apache-2.0 */
/* average.c - the uniform (or weighted) mean of the updates' differences: the baseline that the others have to beat. */
#include "feedback/feedback.h"

static void merge(float *out, const float *const *delta, const double *weight, int32_t n, int64_t count, const double *option, float *scratch) {
    double total = 0;
    (void)option, (void)scratch;
    for (int32_t u = 0; u < n; u++) total += weight[u];
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int32_t u = 0; u < n; u++) if (delta[u]) sum += weight[u] * delta[u][i];
        out[i] = total > 0 ? (float)(sum / total) : 0;
    }
}

static ramet_status step(ramet_model **out, ramet__feed *f) { return ramet__merge(out, f, merge); }

const ramet__method ramet__method_average = {
    .name = "average", .summary = "weighted mean of the updates' weight differences", .stable = 1, .needs = RAMET_UPDATE_DELTA, .step = step,
};
