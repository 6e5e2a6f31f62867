/* SPDX-License-Identifier: Apache-2.0 */
/* int16.h - what int8 products take from int16.c: the transposed product of each encoding, for levels that have no bf16. */
#ifndef RAMET__INT16_H
#define RAMET__INT16_H
#include "kernels.h"
#include "simd/vec.h"

void FN(int16_round)(uint16_t *dst, const float *dy, int64_t n); /* `round` of its schemes */
uint64_t FN(panel16_transposed16_scratch)(int64_t m);
void FN(panel16_transposed16_Q4_0)(const ramet__product_args *a);
void FN(panel16_transposed16_Q4_1)(const ramet__product_args *a);
void FN(panel16_transposed16_Q5_0)(const ramet__product_args *a);
void FN(panel16_transposed16_Q5_1)(const ramet__product_args *a);
void FN(panel16_transposed16_Q8_0)(const ramet__product_args *a);
void FN(panel16_transposed16_Q4_K)(const ramet__product_args *a);
void FN(panel16_transposed16_Q5_K)(const ramet__product_args *a);
void FN(panel16_transposed16_Q6_K)(const ramet__product_args *a);
#endif
