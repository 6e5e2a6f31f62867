/* SPDX-License-Identifier: Apache-2.0 */
/* int16.h - products of floats by integers of 16 bits, for CPUs whose pairs of such multiply twice as fast as floats do and that have no bf16.
 * Both sides are rounded in blocks of 32 along the sum to 13 bits and a sign, so that a block's sum fits 32 bits: 32 * 8191 * 8191 < 2^31. The error is
 * below 2^-13 of the block's largest number, less than bf16's. Blocks are added in fp32. int16.c */
#ifndef RAMET__INT16_H
#define RAMET__INT16_H
#include <stdint.h>
#include "simd/vec.h"

enum { INT16_DEPTH = 256, INT16_COLS = 16 }; /* lengths of a stretch of the sum and columns of a tile */

/* GCC would add at the end, with every product kept in memory until then */
#ifdef __GNUC__
#define HERE(v) __asm__("" : "+x"(v))
#else
#define HERE(v) (void)(v)
#endif

/* n numbers along the sum, filled up with zeros to whole blocks: x = d * q */
void FN(int16_round)(int16_t *q, float *d, const float *x, int64_t n);
/* INT16_COLS columns of w[depth][ld], depth a multiple of 32 up to INT16_DEPTH: pairs[depth / 2][column], d[depth / 32][column] */
void FN(int16_columns)(int32_t *pairs, float *d, const float *w, int64_t ld, int64_t depth);
/* The same of INT16_COLS rows w[.][n], each a column of pairs; n up to INT16_DEPTH */
void FN(int16_outputs)(int32_t *pairs, float *d, const float *const w[INT16_COLS], int64_t n);
/* y[m, cols] = (add: y +) (bias +) the sum of `blocks` blocks; q, d: of row 0, the next ones so many bytes on */
void FN(int16_tile)(float *y, int64_t y_stride, int64_t m, int64_t cols, const int16_t *q, const float *d, int64_t q_bytes, int64_t d_bytes, const int32_t *pairs, const float *w_d,
                    int64_t blocks, const float *bias, int32_t add);
#endif
