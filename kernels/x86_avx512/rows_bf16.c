/* SPDX-License-Identifier: Apache-2.0 */
/* rows_bf16.c - products of BF16 rows where they lie, activations rounded to bf16, fp32 sums: forward in 16 lanes over pairs of k folded
 * at the end, transposed by strips. */
#include "blocks.h"
#include "registry.h"
#include "x86_avx512/strip_bf16.h"

enum { FORWARD_ROWS = 6, OUTPUTS = 4 };

static uint64_t prepared_bytes(int64_t k) { return ramet__round64((uint64_t)k * 2); }
static void prepare(void *dst, const float *x, int64_t k) {
    memset(dst, 0, (size_t)prepared_bytes(k));
    round_row(dst, x, k);
}

INLINE void block(const int R, const ramet__product_args *a, int64_t row, int64_t n, const uint16_t *const w[OUTPUTS]) {
    __m512 sum[FORWARD_ROWS][OUTPUTS];
    const uint8_t *x = (const uint8_t *)a->x + row * a->x_stride;
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int o = 0; o < OUTPUTS; o++) sum[r][o] = vzero();
    for (int64_t i = 0; i < a->k; i += 32) {
        __mmask32 some = a->k - i >= 32 ? 0xffffffffu : (1u << (a->k - i)) - 1u;
        __m512bh v[OUTPUTS];
        UNROLL for (int o = 0; o < OUTPUTS; o++) v[o] = (__m512bh)_mm512_maskz_loadu_epi16(some, w[o] + i);
        UNROLL for (int r = 0; r < R; r++) {
            __m512bh u = (__m512bh)viload(x + r * a->x_stride + i * 2);
            UNROLL for (int o = 0; o < OUTPUTS; o++) sum[r][o] = _mm512_dpbf16_ps(sum[r][o], u, v[o]);
        }
    }
    int64_t outputs = a->to - n < OUTPUTS ? a->to - n : OUTPUTS;
    UNROLL for (int r = 0; r < R; r++) {
        float s[OUTPUTS], *y = a->y + (row + r) * a->y_stride + n;
        UNROLL for (int o = 0; o < OUTPUTS; o++) s[o] = vsum(sum[r][o]);
        for (int64_t o = 0; o < outputs; o++) {
            float v = a->bias ? s[o] + a->bias[n + o] : s[o];
            y[o] = a->accumulate ? v + y[o] : v;
        }
    }
}

static void forward(const ramet__product_args *a) {
    for (int64_t n = a->from; n < a->to; n += OUTPUTS) {
        const uint16_t *w[OUTPUTS];
        for (int64_t o = 0; o < OUTPUTS; o++) w[o] = (const uint16_t *)a->packed + (n + o < a->to ? n + o : a->to - 1) * a->k;
        int64_t r = 0;
        for (; r + FORWARD_ROWS <= a->m; r += FORWARD_ROWS) block(FORWARD_ROWS, a, r, n, w);
        for (; r < a->m; r++) block(1, a, r, n, w);
    }
}

static void decode_strip(uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k) {
    __mmask32 some = a->k - k >= 32 ? 0xffffffffu : (1u << (a->k - k)) - 1u;
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t o = 0; o < 16; o += 2) {
        const uint16_t *row = (const uint16_t *)a->packed + (n + o) * a->k + k;
        __m512i even = n + o < a->n ? _mm512_maskz_loadu_epi16(some, row) : viset(0), odd = n + o + 1 < a->n ? _mm512_maskz_loadu_epi16(some, row + a->k) : viset(0);
        vistore(dst + o / 2 * STRIP * 2, _mm512_permutex2var_epi16(even, low, odd));
        vistore(dst + o / 2 * STRIP * 2 + 32, _mm512_permutex2var_epi16(even, high, odd));
    }
}

static void transposed(const ramet__product_args *a) { strip_transposed(decode_strip, a); }

const ramet__product FN(product_rows_BF16_bf16) = {"rows_bf16", &ramet__packing_rows_BF16, 0, prepared_bytes, prepare, strip_scratch, forward, transposed, 128, 64};
