/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_int8.h - activations in blocks of 32 as int8 with a scale, prepared once and read by every panel16 product. */
#ifndef RAMET__PANEL16_INT8_H
#define RAMET__PANEL16_INT8_H
#include "simd/panel16_exact.h"

/* A prepared row is two of the following: x rounded, then what rounding left of it in the blocks that stand out (d is 0 in the others).
 * int8 q[k], padded to 64; then per block, each an array of k/32: float d, x = d * q; float s = d * sum(q); int32 -8, -16 and -128 times sum(q), where
 * the sum of an encoding with that offset starts, and -32 times the sums of the first and the second 16 of q. */
typedef struct int8_row { const int8_t *q; const float *d, *s; const int32_t *start[5]; } int8_row;
static inline int8_row int8_row_at(const void *prepared, int64_t k) {
    int64_t b = k / 32;
    const int8_t *q = prepared;
    const float *d = (const float *)(const void *)(q + (k + 63) / 64 * 64);
    const int32_t *i = (const int32_t *)(const void *)(d + 2 * b);
    return (int8_row){q, d, d + b, {i, i + b, i + 2 * b, i + 3 * b, i + 4 * b}};
}
/* A level that multiplies many rows of its own way takes the rest from another. */
#ifdef RAMET__FEW_ROWS
#define FN_FEW(name) RAMET__PASTE(ramet__##name##_, RAMET__FEW_ROWS)
#else
#define FN_FEW FN
#endif
uint64_t FN_FEW(int8_prepared_bytes)(int64_t k);
void FN_FEW(int8_prepare)(void *dst, const float *x, int64_t k);
void FN_FEW(int8_prepare_fast)(void *dst, const float *x, int64_t k);
void FN_FEW(panel16_int8_forward_Q4_0)(const ramet__product_args *a);
void FN_FEW(panel16_int8_forward_Q4_1)(const ramet__product_args *a);
void FN_FEW(panel16_int8_forward_Q5_0)(const ramet__product_args *a);
void FN_FEW(panel16_int8_forward_Q5_1)(const ramet__product_args *a);
void FN_FEW(panel16_int8_forward_Q8_0)(const ramet__product_args *a);
void FN_FEW(panel16_int8_forward_Q4_K)(const ramet__product_args *a);
void FN_FEW(panel16_int8_forward_Q5_K)(const ramet__product_args *a);
void FN_FEW(panel16_int8_forward_Q6_K)(const ramet__product_args *a);
#endif
