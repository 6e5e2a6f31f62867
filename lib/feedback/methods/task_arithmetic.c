/* SPDX-License-Identifier: Apache-2.0 */
/* task_arithmetic.c - parent + scale * weighted sum of differences (Ilharco et al., "Editing Models with Task Arithmetic", 2023). */
#include "feedback/feedback.h"

static const ramet__option options[] = {{"scale", .6, 0, 10, "multiplies the sum of the differences"}};

static void merge(float *out, const float *const *delta, const double *weight, int32_t n, int64_t count, const double *option, float *scratch) {
    (void)scratch;
    for (int64_t i = 0; i < count; i++) {
        double sum = 0;
        for (int32_t u = 0; u < n; u++) if (delta[u]) sum += weight[u] * delta[u][i];
        out[i] = (float)(option[0] * sum);
    }
}

static ramet_status step(ramet_model **out, ramet__feed *f) { return ramet__merge(out, f, merge); }

const ramet__method ramet__method_task_arithmetic = {
    .name = "task_arithmetic", .summary = "parent + scale * sum of weight differences; option scale", .stable = 1, .needs = RAMET_UPDATE_DELTA,
    .options = options, .n_options = RAMET__COUNT(options), .step = step,
};
