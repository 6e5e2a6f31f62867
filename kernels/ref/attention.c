/* SPDX-License-Identifier: Apache-2.0 */
/* attention.c - the definition of attention over blocks of keys and of its gradient. Plain: scores are computed again in
 * each pass, sums are in double. o = sum_j softmax(scale q.k_j) v_j; lse = log sum_j exp(scale q.k_j). */
#include "blocks.h"
#include "registry.h"
#include <math.h>

/* element i of key (or, keys 0, of value) j */
static double at(const void *const *table, int32_t layout, int keys, int64_t j, int64_t i, int64_t hd, int64_t kv_row, int64_t block) {
    int64_t r = j % block, e = layout == RAMET__KV_ROWS ? r * kv_row + i : keys ? i * block + r : r * hd + i;
    const void *b = table[j / block];
    if (layout == RAMET__KV_CACHE_INT8) return (double)((const int8_t *)b)[e] * (double)((const float *)(const void *)((const char *)b + ramet__kv_scales(block * hd)))[r];
    return layout == RAMET__KV_CACHE_F16 ? (double)ramet__half_f32(((const uint16_t *)b)[e]) : (double)((const float *)b)[e];
}

static double score(const float *q, const float *k, int64_t hd, float scale) {
    double s = 0;
    for (int64_t i = 0; i < hd; i++) s += (double)q[i] * (double)k[i];
    return s * (double)scale;
}

uint64_t ramet__attention_scratch_ref(int64_t rows, int64_t group, int64_t hd, int64_t block) {
    return ((uint64_t)hd * sizeof(double) + 63u) & ~(uint64_t)63u;
}

void ramet__attention_ref(float *o, int64_t o_row, float *lse, int64_t lse_row, const float *q, int64_t q_row, int64_t rows, int64_t group,
                          int64_t hd, const void *const *k_block, const void *const *v_block, int32_t layout, int64_t kv_row, int64_t block,
                          const int32_t *limit, float scale, void *scratch) {
    double *sum = scratch;
#define SCORE(s, j) double s = 0; for (int64_t i = 0; i < hd; i++) s += (double)qh[i] * at(k_block, layout, 1, j, i, hd, kv_row, block); s *= (double)scale
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < group; h++) {
            const float *qh = q + r * q_row + h * hd;
            double top = -(double)INFINITY, total = 0;
            for (int64_t j = 0; j < limit[r]; j++) {
                SCORE(s, j);
                top = fmax(top, s);
            }
            for (int64_t i = 0; i < hd; i++) sum[i] = 0;
            for (int64_t j = 0; j < limit[r]; j++) {
                SCORE(s, j);
                double p = exp(s - top);
                total += p;
                for (int64_t i = 0; i < hd; i++) sum[i] += p * at(v_block, layout, 0, j, i, hd, kv_row, block);
            }
            for (int64_t i = 0; i < hd; i++) o[r * o_row + h * hd + i] = limit[r] > 0 ? (float)(sum[i] / total) : 0.0f;
            if (lse) lse[r * lse_row + h] = limit[r] > 0 ? (float)(top + log(total)) : -INFINITY;
        }
}

uint64_t ramet__attention_grad_scratch_ref(int64_t rows, int64_t group, int64_t hd) {
    return ((uint64_t)(2 * rows + 1) * (uint64_t)hd * sizeof(double) + 63u) & ~(uint64_t)63u;
}

/* p = exp(s - lse); dv += p do; ds = p (do.v - do.o) scale; dq += ds k; dk += ds q. */
void ramet__attention_grad_ref(float *dq, float *dk, float *dv, const float *q, const float *k, const float *v, const float *o, const float *d_o,
                               const float *lse, int64_t lse_row, int64_t q_row, int64_t kv_row, int64_t rows, int64_t group, int64_t hd,
                               int32_t causal, float scale, void *scratch) {
    double *sk = scratch, *sv = sk + rows * hd, *sq = sv + rows * hd;
    for (int64_t i = 0; i < 2 * rows * hd; i++) sk[i] = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < group; h++) {
            int64_t at = r * q_row + h * hd;
            double d = score(d_o + at, o + at, hd, 1.0f);
            for (int64_t i = 0; i < hd; i++) sq[i] = 0;
            for (int64_t j = 0; j < (causal ? r + 1 : rows); j++) {
                double p = exp(score(q + at, k + j * kv_row, hd, scale) - (double)lse[r * lse_row + h]);
                double ds = p * (score(d_o + at, v + j * kv_row, hd, 1.0f) - d) * (double)scale;
                for (int64_t i = 0; i < hd; i++) {
                    sv[j * hd + i] += p * (double)d_o[at + i];
                    sk[j * hd + i] += ds * (double)q[at + i];
                    sq[i] += ds * (double)k[j * kv_row + i];
                }
            }
            for (int64_t i = 0; i < hd; i++) dq[at + i] = (float)sq[i];
        }
    for (int64_t j = 0; j < rows; j++)
        for (int64_t i = 0; i < hd; i++) {
            dk[j * kv_row + i] = (float)sk[j * hd + i];
            dv[j * kv_row + i] = (float)sv[j * hd + i];
        }
}
