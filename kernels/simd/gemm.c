/* SPDX-License-Identifier: Apache-2.0 */
/* gemm.c - general fp32 products for adapters (rank 8 to 64) and weight gradients. Columns of b are laid out as a tile on the
 * stack, DEPTH of k at a time; each output is one FMA chain a part, parts are added in order: bits do not depend on m or n. */
#include "registry.h"
#include "simd/tile.h"

enum { DEPTH = 256, BLOCK = 48, NN, NT };

/* a element (i, l) at a[i * a_row + l * a_step]; b turned over (NT) or as it lies (NN) */
static void product(int kind, float *c, int64_t ldc, const float *a, int64_t a_row, int64_t a_step, const float *b, int64_t ldb, int64_t m, int64_t n,
                    int64_t k, float alpha, int32_t accumulate) {
    _Alignas(64) float tile[DEPTH * TILE_N];
    int64_t l = 0;
    do {
        int64_t depth = k - l < DEPTH ? k - l : DEPTH;
        tile_out t = {alpha, NULL, accumulate || l > 0, 0};
        for (int64_t j = 0; j < n; j += TILE_N) {
            int64_t cols = n - j < TILE_N ? n - j : TILE_N, ld = TILE_N;
            const float *from = tile;
            if (kind == NT) tile_turn(tile, TILE_N, b + j * ldb + l, ldb, cols, depth);
            else if (m < TILE_R && cols == TILE_N) from = b + l * ldb + j, ld = ldb;
            else
                for (int64_t i = 0; i < depth; i++)
                    for (int v = 0; v < TILE_N; v += VL) vstore(tile + i * TILE_N + v, vget(b + (l + i) * ldb + j + v, cols - v));
            tile_rows(c + j, ldc, m, cols, a + l * a_step, a_row, a_step, from, ld, depth, &t);
        }
        l += DEPTH;
    } while (l < k);
}

void FN(gemm_nt)(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, float alpha,
                 int32_t accumulate) {
    product(NT, c, ldc, a, lda, 1, b, ldb, m, n, k, alpha, accumulate);
}

void FN(gemm_nn)(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, float alpha,
                 int32_t accumulate) {
    product(NN, c, ldc, a, lda, 1, b, ldb, m, n, k, alpha, accumulate);
}

/* The rows of a^T are far apart in memory: BLOCK of them are copied side by side for all columns. */
void FN(gemm_tn)(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, float alpha,
                 int32_t accumulate) {
    enum { PART = DEPTH / 2 };
    _Alignas(64) float rows[PART * BLOCK], tile[PART * TILE_N];
    int64_t l = 0;
    do {
        int64_t depth = k - l < PART ? k - l : PART;
        tile_out t = {alpha, NULL, accumulate || l > 0, 0};
        for (int64_t i = 0; i < m; i += BLOCK) {
            int64_t block = m - i < BLOCK ? m - i : BLOCK;
            for (int64_t d = 0; d < depth; d++)
                for (int64_t r = 0; r < block; r += VL) vput(rows + d * BLOCK + r, vget(a + (l + d) * lda + i + r, block - r), block - r);
            for (int64_t j = 0; j < n; j += TILE_N) {
                int64_t cols = n - j < TILE_N ? n - j : TILE_N;
                for (int64_t d = 0; d < depth; d++)
                    for (int v = 0; v < TILE_N; v += VL) vstore(tile + d * TILE_N + v, vget(b + (l + d) * ldb + j + v, cols - v));
                tile_rows(c + i * ldc + j, ldc, block, cols, rows, 1, BLOCK, tile, TILE_N, depth, &t);
            }
        }
        l += PART;
    } while (l < k);
}
