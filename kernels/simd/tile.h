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

/* sum[r][v] += a[r * a_row + i * a_step] * b[i * ldb + v * VL] for i in 0..depth */
INLINE void tile_fma(const int R, vf sum[TILE_R][TILE_NV], const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb, int64_t depth) {
    for (int64_t i = 0; i < depth; i++, a += a_step, b += ldb) {
        vf w[TILE_NV];
        UNROLL for (int v = 0; v < TILE_NV; v++) w[v] = vload(b + v * VL);
        UNROLL for (int r = 0; r < R; r++) {
            vf x = vset(a[r * a_row]);
            UNROLL for (int v = 0; v < TILE_NV; v++) sum[r][v] = vfma(x, w[v], sum[r][v]);
        }
    }
}

/* What happens to the sums of a tile: c = alpha * sum + bias + old c. */
typedef struct tile_out {
    float alpha;
    const float *bias;  /* at the tile's first column, or NULL */
    int32_t add;        /* to what c holds */
    int32_t start;      /* the chain starts from c (an unfinished sum, or accumulation) instead of zero; then `add` is 0 */
} tile_out;

INLINE vf tile_get(const float *p, int64_t n) { return n >= VL ? vload(p) : n > 0 ? vload_n(p, n) : vzero(); }
INLINE void tile_put(float *p, vf x, int64_t n) { if (n >= VL) vstore(p, x); else if (n > 0) vstore_n(p, x, n); }

INLINE void tile_run(const int R, float *c, int64_t ldc, int64_t cols, const float *a, int64_t a_row, int64_t a_step, const float *b,
                     int64_t ldb, int64_t depth, const tile_out *t) {
    vf sum[TILE_R][TILE_NV];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < TILE_NV; v++) sum[r][v] = t->start ? tile_get(c + r * ldc + v * VL, cols - v * VL) : vzero();
    tile_fma(R, sum, a, a_row, a_step, b, ldb, depth);
    UNROLL for (int v = 0; v < TILE_NV; v++) {
        int64_t left = cols - v * VL;
        vf bias = t->bias ? tile_get(t->bias + v * VL, left) : vzero();
        UNROLL for (int r = 0; r < R; r++) {
            vf y = sum[r][v];
            if (t->alpha != 1.0f) y = vmul(y, vset(t->alpha));
            if (t->bias) y = vadd(y, bias);
            if (t->add) y = vadd(y, tile_get(c + r * ldc + v * VL, left));
            tile_put(c + r * ldc + v * VL, y, left);
        }
    }
}

/* All m rows against one tile of columns; b is [depth][ldb] with at least TILE_N readable columns. */
static inline void tile_rows(float *c, int64_t ldc, int64_t m, int64_t cols, const float *a, int64_t a_row, int64_t a_step, const float *b,
                             int64_t ldb, int64_t depth, const tile_out *t) {
    int64_t r = 0;
    for (; r + TILE_R <= m; r += TILE_R) tile_run(TILE_R, c + r * ldc, ldc, cols, a + r * a_row, a_row, a_step, b, ldb, depth, t);
#ifdef RAMET__VEC512
    for (; r + 4 <= m; r += 4) tile_run(4, c + r * ldc, ldc, cols, a + r * a_row, a_row, a_step, b, ldb, depth, t);
#endif
    for (; r + 2 <= m; r += 2) tile_run(2, c + r * ldc, ldc, cols, a + r * a_row, a_row, a_step, b, ldb, depth, t);
    for (; r < m; r++) tile_run(1, c + r * ldc, ldc, cols, a + r * a_row, a_row, a_step, b, ldb, depth, t);
}
#endif
