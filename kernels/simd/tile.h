/* SPDX-License-Identifier: Apache-2.0 */
/* tile.h - the register block of every fp32 product: R rows x NV vectors of sums, one FMA chain per sum over depth in order, so a
 * sum's bits do not depend on which rows or columns stand beside it. */
#ifndef RAMET__TILE_H
#define RAMET__TILE_H
#include "simd/vec.h"

#define TILE_NV 2              /* vectors across */
#ifdef RAMET__VEC512
#define TILE_R 12              /* 24 sums of 32 registers */
#else
#define TILE_R 6               /* 12 sums of 16 registers */
#endif
#define TILE_N (TILE_NV * VL)  /* columns of a tile */

/* What happens to the sums of a tile: c = alpha * sum + bias + old c. */
typedef struct tile_out {
    float alpha;
    const float *bias;  /* at the tile's first column, or NULL */
    int32_t add;        /* to what c holds */
    int32_t start;      /* the chain starts from c (an unfinished sum, or accumulation) instead of zero; then `add` is 0 */
    int64_t lines, a_line, b_line; /* the chain goes through `lines` products, so far apart; 0: one */
} tile_out;

/* c[m, cols] from all m rows of a against one tile of columns; b is [depth][ldb] with TILE_N readable columns (VL are enough when
 * cols <= VL). */
void FN_BASE(tile_rows)(float *c, int64_t ldc, int64_t m, int64_t cols, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb,
                   int64_t depth, const tile_out *t);
/* dst[depth][ldd], columns 0..rows = src[rows][depth] turned over. */
void FN_BASE(tile_turn)(float *dst, int64_t ldd, const float *src, int64_t lds, int64_t rows, int64_t depth);
#define tile_rows FN_BASE(tile_rows)
#define tile_turn FN_BASE(tile_turn)
#endif
