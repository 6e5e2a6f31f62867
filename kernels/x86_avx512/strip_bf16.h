/* SPDX-License-Identifier: Apache-2.0 */
/* strip_bf16.h - transposed products in bf16 with fp32 sums: a strip of W, 1024 outputs x 64 or 256 inputs, is decoded once to pairs of outputs
 * (rows n and n+1 interleaved are what vdpbf16ps reads) and met by all rows of dy, rounded 96 at a time. */
#ifndef RAMET__STRIP_BF16_H
#define RAMET__STRIP_BF16_H
#include "kernels.h"
#include "simd/vec.h"
#include "x86_avx512/pairs_bf16.h"
#include "x86_avx512/strip_tiles.h"

enum { CHUNK = 1024, ROWS = 12, GROUP = 96 }; /* outputs of a strip of W; rows of a tile; of dy rounded at a time */

/* Columns of W that are decoded at a time: AMX is fast enough to wait for what it writes, and pieces of rows of 1 KB are written best. */
enum { NARROW = STRIP, WIDE = 256 };
static uint64_t strip_scratch(int64_t m, int64_t n, int64_t k) { return CHUNK * NARROW * 2 + GROUP * CHUNK * 2; }
static uint64_t wide_scratch(int64_t m, int64_t n, int64_t k) { return CHUNK * WIDE * 2 + GROUP * CHUNK * 2; }
/* The depth of one pass, at most CHUNK and a multiple of 32, so that passes are alike */
static int64_t chunk_of(int64_t depth) {
    const int64_t passes = (depth + CHUNK - 1) / CHUNK;
    return passes > 1 ? (depth + passes * 32 - 1) / (passes * 32) * 32 : CHUNK;
}

/* R rows x 32 columns (or the `cols` that are left) over `pairs` pairs of outputs; pair i of row r is at x[r * ldx + i * step] */
INLINE void tile(const int R, float *y, int64_t ldy, int64_t cols, int start, const uint32_t *x, int64_t ldx, const int64_t step, const uint16_t *w, int64_t pairs) {
    vf sum[ROWS][2];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < 2; v++) sum[r][v] = start ? vget(y + r * ldy + 16 * v, cols - 16 * v) : vzero();
    for (int64_t i = 0; i < pairs; i++, w += 2 * STRIP) {
        __m512bh w0 = (__m512bh)viload(w), w1 = (__m512bh)viload(w + 32);
        UNROLL for (int r = 0; r < R; r++) {
            vi v = viset((int32_t)x[r * ldx + i * step]);
            SAME_PAIRS(v);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], (__m512bh)v, w0);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], (__m512bh)v, w1);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < 2; v++) vput(y + r * ldy + 16 * v, sum[r][v], cols - 16 * v);
}

INLINE void tiles_of(float *y, int64_t ldy, int64_t rows, int64_t width, int start, const uint32_t *x, int64_t ldx, const int64_t step, const uint16_t *w, int64_t pairs) {
    for (int64_t i = 0; i < width; i += 32) {
        int64_t r = 0;
#define TILE(R) tile(R, y + r * ldy + i, ldy, width - i, start, x + r * ldx, ldx, step, w + 2 * i, pairs)
        for (; r + ROWS <= rows; r += ROWS) TILE(ROWS);
        for (; r + 4 <= rows; r += 4) TILE(4);
        for (; r < rows; r++) TILE(1);
#undef TILE
    }
}
/* All rows of x (pairs, ldx of them a row) against a strip of `width` columns */
static __attribute__((noinline)) void tiles(float *y, int64_t ldy, int64_t rows, int64_t width, int start, const uint32_t *x, int64_t ldx, const uint16_t *w, int64_t pairs) {
    tiles_of(y, ldy, rows, width, start, x, ldx, 1, w, pairs); /* NARROW columns */
}

/* depth floats to bf16, an odd end filled with zero */
static void round_row(uint16_t *dst, const float *x, int64_t depth) {
    int64_t i = 0;
    for (; i + 16 <= depth; i += 16) _mm256_storeu_si256((__m256i *)(void *)(dst + i), (__m256i)_mm512_cvtneps_pbh(vload(x + i)));
    if (i < depth) _mm256_storeu_si256((__m256i *)(void *)(dst + i), (__m256i)_mm512_cvtneps_pbh(vload_n(x + i, depth - i)));
}

/* Bytes of a row of bf16; rows a multiple of 1 KB apart would share few of the cache's sets, and a tile is 16 of them */
static uint64_t rounded_bytes(int64_t k) {
    const uint64_t bytes = ramet__round64((uint64_t)k * 2);
    return bytes % 1024 ? bytes : bytes + 64;
}

/* A prepared row: rounded, then zeros */
static void prepare_row(void *dst, const float *x, int64_t k) {
    memset((char *)dst + k * 2, 0, (size_t)(rounded_bytes(k) - (uint64_t)k * 2));
    round_row(dst, x, k);
}

/* y of outputs n..n + width += their biases */
static void add_bias(const ramet__product_args *a, int64_t n, int64_t width) {
    for (int64_t r = 0; a->bias && r < a->m; r++) {
        float *y = a->y + r * a->y_stride + n;
        for (int64_t i = 0; i < width; i += 16) vput(y + i, vadd(vget(y + i, width - i), vget(a->bias + n + i, width - i)), width - i);
    }
}

/* Writes dst[8 pairs][STRIP][2]: outputs n..n+16 (zeros past the last) x inputs k..k+32 (anything past the last). */
typedef void strip_decoder(uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k);

NOINLINE static void strip_transposed(strip_decoder *decode, strip_tiles *multiply, int64_t wide, const ramet__product_args *a) {
    uint16_t *w = a->scratch, *dy = w + CHUNK * wide;
    const int64_t chunk = chunk_of(a->n);
    for (int64_t k = a->from; k < a->to; k += wide) {
        int64_t width = a->to - k < wide ? a->to - k : wide;
        for (int64_t n = 0; n < a->n; n += chunk) {
            int64_t depth = a->n - n < chunk ? a->n - n : chunk, pairs = (depth + 1) / 2;
            int start = n > 0 || a->accumulate;
            for (int64_t i = 0; i < width; i += 32)
                for (int64_t o = 0; o < depth; o += 16) decode(w + i / STRIP * strip_size(pairs) + (o / 2 * STRIP + i % STRIP) * 2, a, n + o, k + i);
            if (a->rounded) {
                multiply(a->y + k, a->y_stride, a->m, width, start, (const uint32_t *)a->x + n / 2, a->x_stride / 4, w, pairs);
                continue;
            }
            for (int64_t r0 = 0; r0 < a->m; r0 += GROUP) {
                int64_t rows = a->m - r0 < GROUP ? a->m - r0 : GROUP;
                for (int64_t r = 0; r < rows; r++) round_row(dy + r * CHUNK, (const float *)a->x + (r0 + r) * a->x_stride + n, depth);
                multiply(a->y + r0 * a->y_stride + k, a->y_stride, rows, width, start, (const uint32_t *)(const void *)dy, CHUNK / 2, w, pairs);
            }
        }
    }
}
#endif
