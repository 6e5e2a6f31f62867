/* SPDX-License-Identifier: Apache-2.0 */
/* gemm.c - the definition of the general fp32 products: one sum per output, in double, over k in order. */
#include "registry.h"

static void product(float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_k, int64_t b_col,
                    int64_t m, int64_t n, int64_t k, float alpha, int32_t accumulate) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double s = 0;
            for (int64_t l = 0; l < k; l++) s += (double)a[i * a_row + l * a_k] * (double)b[l * b_k + j * b_col];
            float *y = c + i * ldc + j;
            *y = (float)((double)alpha * s + (accumulate ? (double)*y : 0.0));
        }
}

void ramet__gemm_nt_ref(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k,
                        float alpha, int32_t accumulate) {
    product(c, ldc, a, lda, 1, b, 1, ldb, m, n, k, alpha, accumulate);
}

void ramet__gemm_nn_ref(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k,
                        float alpha, int32_t accumulate) {
    product(c, ldc, a, lda, 1, b, ldb, 1, m, n, k, alpha, accumulate);
}

void ramet__gemm_tn_ref(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k,
                        float alpha, int32_t accumulate) {
    product(c, ldc, a, 1, lda, b, ldb, 1, m, n, k, alpha, accumulate);
}
