/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_bf16.c - products of panel16 for CPUs with BF16 beside VNNI: forward in int8 (simd/panel16_int8.c), transposed with W
 * decoded to bf16 and dy rounded to bf16, fp32 sums. dx[m,k] = sum over pairs of outputs: rows n and n+1 of W interleaved are
 * what vdpbf16ps reads, so nothing is transposed but the bytes of a block. */
#include "simd/panel16_int8.h"
#include "simd/tile.h"
#include "simd/panel16.h"

enum { STRIP = 64, CHUNK = 1024, ROWS = 12, GROUP = 96 }; /* columns and outputs of a strip of W; rows of a tile; of dy rounded at a time */

static uint64_t scratch_bytes(int64_t m, int64_t n, int64_t k) { return CHUNK * STRIP * 2 + GROUP * CHUNK * 2; }

/* dst[8 pairs][STRIP][2]: 16 outputs x 32 inputs of block b */
INLINE void decode_strip(const int enc, uint16_t *dst, const uint8_t *panel, int64_t blocks, int64_t b) {
    uint8_t u8[16][32];
    float d[16], m[16];
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                                19, 3, 18, 2, 17, 1, 16, 0);
    p16_by_output(enc, u8, d, m, panel, blocks, b);
    UNROLL for (int o = 0; o < 16; o += 2)
        UNROLL for (int i = 0; i < 32; i += 16) {
            __m512 even = vfma(vset(d[o]), vu8(u8[o] + i), vset(m[o])), odd = vfma(vset(d[o + 1]), vu8(u8[o + 1] + i), vset(m[o + 1]));
            __m512i both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
            _mm512_storeu_si512(dst + (o / 2 * STRIP + i) * 2, _mm512_permutexvar_epi16(interleave, both));
        }
}

/* R rows x 32 columns over `pairs` pairs of outputs */
INLINE void tile(const int R, float *y, int64_t ldy, int start, const uint32_t *dy, const uint16_t *w, int64_t pairs) {
    vf sum[ROWS][2];
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < 2; v++) sum[r][v] = start ? vload(y + r * ldy + 16 * v) : vzero();
    for (int64_t i = 0; i < pairs; i++, w += 2 * STRIP) {
        __m512bh w0 = (__m512bh)viload(w), w1 = (__m512bh)viload(w + 32);
        UNROLL for (int r = 0; r < R; r++) {
            __m512bh x = (__m512bh)viset((int32_t)dy[r * (CHUNK / 2) + i]);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], x, w0);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], x, w1);
        }
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < 2; v++) vstore(y + r * ldy + 16 * v, sum[r][v]);
}

/* depth floats to bf16, an odd end filled with zero */
static void round_row(uint16_t *dst, const float *x, int64_t depth) {
    int64_t i = 0;
    for (; i + 16 <= depth; i += 16) _mm256_storeu_si256((__m256i *)(void *)(dst + i), (__m256i)_mm512_cvtneps_pbh(vload(x + i)));
    if (i < depth) _mm256_storeu_si256((__m256i *)(void *)(dst + i), (__m256i)_mm512_cvtneps_pbh(vload_n(x + i, depth - i)));
}

INLINE void transposed(const int enc, const ramet__product_args *a) {
    int64_t blocks = a->k / 32, bytes = p16_bytes(enc, a->k);
    uint16_t *w = a->scratch, *dy = w + CHUNK * STRIP;
    for (int64_t k = a->from; k < a->to; k += STRIP) {
        int64_t width = a->to - k < STRIP ? a->to - k : STRIP;
        for (int64_t n = 0; n < a->n; n += CHUNK) {
            int64_t depth = a->n - n < CHUNK ? a->n - n : CHUNK, pairs = (depth + 1) / 2;
            int start = n > 0 || a->accumulate;
            for (int64_t o = 0; o < depth; o += 16)
                for (int64_t i = 0; i < width; i += 32)
                    decode_strip(enc, w + (o / 2 * STRIP + i) * 2, (const uint8_t *)a->packed + (n + o) / 16 * bytes, blocks, (k + i) / 32);
            for (int64_t r0 = 0; r0 < a->m; r0 += GROUP) {
                int64_t rows = a->m - r0 < GROUP ? a->m - r0 : GROUP;
                for (int64_t r = 0; r < rows; r++) round_row(dy + r * CHUNK, (const float *)a->x + (r0 + r) * a->x_stride + n, depth);
                for (int64_t i = 0; i < width; i += 32) {
                    float *y = a->y + r0 * a->y_stride + k + i;
                    int64_t r = 0;
#define TILE(R) tile(R, y + r * a->y_stride, a->y_stride, start, (const uint32_t *)(const void *)(dy + r * CHUNK), w + 2 * i, pairs)
                    for (; r + ROWS <= rows; r += ROWS) TILE(ROWS);
                    for (; r + 4 <= rows; r += 4) TILE(4);
                    for (; r < rows; r++) TILE(1);
                }
            }
        }
    }
}

#define PRODUCT(ENC)                                                                                                                \
    static void transposed_##ENC(const ramet__product_args *a) { transposed(P16_##ENC, a); }                                        \
    const ramet__product FN(product_panel16_##ENC##_int8bf16) = {"panel16_int8_bf16", &ramet__packing_panel16_##ENC, 0,             \
                                                                 FN(int8_prepared_bytes), FN(int8_prepare), scratch_bytes,          \
                                                                 FN(panel16_int8_forward_##ENC), transposed_##ENC, 128, 64};
PRODUCT(Q4_0)
PRODUCT(Q4_1)
PRODUCT(Q5_0)
PRODUCT(Q8_0)
