/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_exact.h - what products of other arithmetics take from the fp32 one: the transposed product, in fp32. */
#ifndef RAMET__PANEL16_EXACT_H
#define RAMET__PANEL16_EXACT_H
#include "kernels.h"
#include "simd/vec.h"
uint64_t FN_BASE(panel16_scratch)(int64_t m, int64_t n, int64_t k);
void FN_BASE(panel16_transposed_Q4_0)(const ramet__product_args *a);
void FN_BASE(panel16_transposed_Q4_1)(const ramet__product_args *a);
void FN_BASE(panel16_transposed_Q5_0)(const ramet__product_args *a);
void FN_BASE(panel16_transposed_Q5_1)(const ramet__product_args *a);
void FN_BASE(panel16_transposed_Q8_0)(const ramet__product_args *a);
void FN_BASE(panel16_transposed_Q4_K)(const ramet__product_args *a);
void FN_BASE(panel16_transposed_Q5_K)(const ramet__product_args *a);
void FN_BASE(panel16_transposed_Q6_K)(const ramet__product_args *a);
#endif
