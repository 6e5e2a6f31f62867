/* SPDX-License-Identifier: Apache-2.0 */
/* ties.c - trim, elect sign, disjoint merge (Yadav et al., "TIES-Merging", 2023): each difference keeps its largest `density`
 * of elements; an element's sign is that of the weighted sum; only differences of that sign count, as their weighted mean. */
#include "feedback/feedback.h"
#include <math.h>

static const ramet__option options[] = {{"density", .5, .01, 1, "fraction of each difference's elements kept, largest first"},
                                        {"scale", 1, 0, 10, "multiplies the merged difference"}};

/* The k-th largest of v[0..n) (k from 0), reordering v: Hoare's selection. */
static float kth_largest(float *v, int64_t n, int64_t k) {
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        float pivot = v[lo + (hi - lo) / 2];
        int64_t i = lo, j = hi;
        while (i <= j) {
            while (v[i] > pivot) i++;
            while (v[j] < pivot) j--;
            if (i <= j) { float t = v[i]; v[i++] = v[j]; v[j--] = t; }
        }
        if (k <= j) hi = j;
        else if (k >= i) lo = i;
        else break;
    }
    return v[k];
}

static void merge(float *out, const float *const *delta, const double *weight, int32_t n, int64_t count, const double *option, float *scratch) {
    float least[RAMET__MAX_UPDATES];
    int64_t keep = RAMET__MAX((int64_t)llround(option[0] * (double)count), 1);
    for (int32_t u = 0; u < n; u++) {
        if (!delta[u]) continue;
        for (int64_t i = 0; i < count; i++) scratch[i] = fabsf(delta[u][i]);
        least[u] = kth_largest(scratch, count, keep - 1);
    }
    for (int64_t i = 0; i < count; i++) {
        double sum = 0, agreed = 0, total = 0;
        for (int32_t u = 0; u < n; u++) if (delta[u] && fabsf(delta[u][i]) >= least[u]) sum += weight[u] * delta[u][i];
        for (int32_t u = 0; u < n; u++) {
            if (!delta[u] || fabsf(delta[u][i]) < least[u] || delta[u][i] == 0 || (delta[u][i] > 0) != (sum > 0)) continue;
            agreed += weight[u] * delta[u][i];
            total += weight[u];
        }
        out[i] = total > 0 ? (float)(option[1] * agreed / total) : 0;
    }
}

static ramet_status step(ramet_model **out, ramet__feed *f) { return ramet__merge(out, f, merge); }

const ramet__method ramet__method_ties = {
    .name = "ties", .summary = "trimmed differences, one elected sign an element, mean of those that agree; options density, scale", .stable = 1,
    .needs = RAMET_UPDATE_DELTA, .options = options, .n_options = RAMET__COUNT(options), .step = step,
};
