/* SPDX-License-Identifier: Apache-2.0 */
/* rows_bf16.c - products of BF16 rows where they lie, activations rounded to bf16, fp32 sums: forward in 16 lanes over pairs of k folded
 * at the end, transposed by strips. Rows of F32 and F16 are rounded to bf16 on the way, a few at a time. */
#include "blocks.h"
#include "registry.h"
#include "x86_avx512/strip_bf16.h"
#include "simd/tile.h"

enum { FORWARD_ROWS = 6, OUTPUTS = 4 };


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

/* All rows, one copy for all encodings */
NOINLINE static void blocks(const ramet__product_args *a, int64_t n, const uint16_t *const w[OUTPUTS]) {
    int64_t r = 0;
    for (; r + FORWARD_ROWS <= a->m; r += FORWARD_ROWS) block(FORWARD_ROWS, a, r, n, w);
    for (; r < a->m; r++) block(1, a, r, n, w);
}

enum { BF16, F32, F16 };

/* 16 numbers of a row of F32 or F16, or the `n` that are left */
INLINE __m512 wide(const int enc, const void *row, int64_t i, int64_t n) {
    if (enc == F32) return vget((const float *)row + i, n);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(n >= 16 ? 0xffffu : n > 0 ? vmask(n) : 0, (const uint16_t *)row + i));
}

/* OUTPUTS rows, or what strips take */
static uint64_t rounded_scratch(int64_t m, int64_t n, int64_t k) {
    uint64_t rows = OUTPUTS * rounded_bytes(k), strip = strip_scratch(m, n, k);
    return rows > strip ? rows : strip;
}

/* 16 numbers of a row of any of them as bf16, beginning at an even one */
INLINE __m256i narrow(const int enc, const void *row, int64_t i, int64_t n) {
    if (enc == BF16) return _mm256_maskz_loadu_epi16(n >= 16 ? 0xffffu : vmask(n), (const uint16_t *)row + i);
    return (__m256i)_mm512_cvtneps_pbh(wide(enc, row, i, n));
}

/* Many rows: a strip of outputs is rounded and turned over once, and met by all of them. */
INLINE void forward_many(const int enc, strip_tiles *multiply, int64_t wide, const ramet__product_args *a) {
    uint16_t *w = a->scratch, *rows = w + CHUNK * wide;
    const int64_t chunk = chunk_of(a->k);
    for (int64_t n = a->from; n < a->to; n += wide) {
        int64_t width = a->to - n < wide ? a->to - n : wide;
        for (int64_t k = 0; k < a->k; k += chunk) {
            int64_t depth = a->k - k < chunk ? a->k - k : chunk, pairs = (depth + 1) / 2;
            for (int64_t strip = 0; strip < width; strip += STRIP) {
                int64_t columns = width - strip < STRIP ? width - strip : STRIP;
                for (int64_t o = 0; o < columns; o++) {
                    const char *row = (const char *)a->packed + ((n + strip + o) * a->k + k) * (enc == F32 ? 4 : 2);
                    for (int64_t i = 0; i < depth; i += 16) _mm256_storeu_si256((__m256i *)(void *)(rows + o * CHUNK + i), narrow(enc, row, i, depth - i));
                }
                tile_turn((float *)(void *)(w + strip / STRIP * strip_size(pairs)), STRIP, (const float *)(const void *)rows, CHUNK / 2, columns, pairs);
            }
            multiply(a->y + n, a->y_stride, a->m, width, k > 0 || a->accumulate, (const uint32_t *)a->x + k / 2, a->x_stride / 4, w, pairs);
        }
        add_bias(a, n, width);
    }
}

/* dst[32 pairs] = two rows of bf16, number beside number; n of them are left, a row that is NULL is zero */
INLINE void weave(uint16_t *dst, const uint16_t *a, const uint16_t *b, int64_t n) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    const __mmask32 some = n >= 32 ? 0xffffffffu : (1u << n) - 1u;
    const __m512i even = a ? _mm512_maskz_loadu_epi16(some, a) : viset(0), odd = b ? _mm512_maskz_loadu_epi16(some, b) : viset(0);
    vistore(dst, _mm512_permutex2var_epi16(even, low, odd));
    vistore(dst + 32, _mm512_permutex2var_epi16(even, high, odd));
}

/* dst[pairs of rows][ld][2] = src[depth][columns]; what is missing to the last pair is zero */
static void interleave(uint16_t *dst, int64_t ld, const float *src, int64_t lds, int64_t depth, int64_t columns) {
    for (int64_t l = 0; l < depth; l += 2, dst += 2 * ld, src += 2 * lds)
        for (int64_t i = 0; i < columns; i += 16)
            vistore(dst + 2 * i, pairs_of(vget(src + i, columns - i), l + 1 < depth ? vget(src + lds + i, columns - i) : vzero()));
}
static __attribute__((noinline)) void outer_tiles(float *c, int64_t ldc, int64_t rows, int64_t width, int start, const uint32_t *a, const uint16_t *w, int64_t pairs) {
    tiles_of(c, ldc, rows, width, start, a, 1, GROUP, w, pairs);
}
/* Columns of b as strips of pairs of its rows */
INLINE void strips_of(uint16_t *w, const float *b, int64_t ldb, int64_t depth, int64_t width, int32_t rounded) {
    for (int64_t t = 0; t < width; t += 32) {
        uint16_t *strip = w + t / STRIP * strip_size((depth + 1) / 2) + t % STRIP * 2;
        if (!rounded) interleave(strip, STRIP, b + t, ldb, depth, width - t < 32 ? width - t : 32);
        for (int64_t d = 0; rounded && d < depth; d += 2) {
            const uint16_t *row = (const uint16_t *)(const void *)(b + d * ldb) + t;
            weave(strip + d * STRIP, row, d + 1 < depth ? row + 2 * ldb : NULL, width - t);
        }
    }
}
/* Where a strip begins that starts at column j of b's rows, which may be rounded */
INLINE const float *column(const float *b, int64_t j, int32_t rounded) { return rounded ? (const float *)(const void *)((const uint16_t *)(const void *)b + j) : b + j; }
/* GROUP columns of a at a time, and strips of b, both rounded to pairs of rows */
static void outer(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, int32_t accumulate, int32_t rounded, void *scratch) {
    uint16_t *w = scratch, *pairs = w + CHUNK * NARROW;
    for (int64_t l = 0; l < k; l += CHUNK) {
        const int64_t depth = k - l < CHUNK ? k - l : CHUNK;
        for (int64_t i = 0; i < m; i += GROUP) {
            const int64_t rows = m - i < GROUP ? m - i : GROUP;
            interleave(pairs, GROUP, a + l * lda + i, lda, depth, rows);
            for (int64_t j = 0; j < n; j += NARROW) {
                const int64_t width = n - j < NARROW ? n - j : NARROW;
                strips_of(w, column(b + l * ldb, j, rounded), ldb, depth, width, rounded);
                outer_tiles(c + i * ldc + j, ldc, rows, width, l > 0 || accumulate, (const uint32_t *)(const void *)pairs, w, (depth + 1) / 2);
            }
        }
    }
}

INLINE void forward(const int enc, const ramet__product_args *a) {
    for (int64_t n = a->from; n < a->to; n += OUTPUTS) {
        const uint16_t *w[OUTPUTS];
        for (int64_t o = 0; o < OUTPUTS; o++) {
            int64_t at = (n + o < a->to ? n + o : a->to - 1) * a->k;
            if (enc == BF16) {
                w[o] = (const uint16_t *)a->packed + at;
                continue;
            }
            uint16_t *to = (uint16_t *)a->scratch + o * (int64_t)(rounded_bytes(a->k) / 2);
            const void *row = (const char *)a->packed + at * (enc == F32 ? 4 : 2);
            for (int64_t i = 0; i < a->k; i += 16) _mm256_storeu_si256((__m256i *)(void *)(to + i), (__m256i)_mm512_cvtneps_pbh(wide(enc, row, i, a->k - i)));
            w[o] = to;
        }
        blocks(a, n, w);
    }
}

static void decode_strip(uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k) {
    for (int64_t o = 0; o < 16; o += 2) {
        const uint16_t *row = (const uint16_t *)a->packed + (n + o) * a->k + k;
        weave(dst + o / 2 * STRIP * 2, n + o < a->n ? row : NULL, n + o + 1 < a->n ? row + a->k : NULL, a->k - k);
    }
}

INLINE void decode_wide(const int enc, uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k) {
    for (int64_t o = 0; o < 16; o += 2)
        for (int64_t i = 0; i < 32; i += 16) {
            const char *row = (const char *)a->packed + (n + o) * a->k * (enc == F32 ? 4 : 2);
            __m512 even = wide(enc, row, k + i, n + o < a->n ? a->k - k - i : 0);
            __m512 odd = wide(enc, row + a->k * (enc == F32 ? 4 : 2), k + i, n + o + 1 < a->n ? a->k - k - i : 0);
            vistore(dst + (o / 2 * STRIP + i) * 2, pairs_of(even, odd));
        }
}
static void decode_F32(uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k) { decode_wide(F32, dst, a, n, k); }
static void decode_F16(uint16_t *dst, const ramet__product_args *a, int64_t n, int64_t k) { decode_wide(F16, dst, a, n, k); }

#define PRODUCT(ENC, decode, scratch, outer)                                                                                                       \
    NOINLINE static void many_##ENC(strip_tiles *multiply, int64_t wide, const ramet__product_args *a) { forward_many(ENC, multiply, wide, a); } \
    static void forward_##ENC(const ramet__product_args *a) {                                                                               \
        if (a->m >= ROWS) many_##ENC(tiles, NARROW, a);                                                                                             \
        else forward(ENC, a);                                                                                                               \
    }                                                                                                                                       \
    static void transposed_##ENC(const ramet__product_args *a) { strip_transposed(decode, tiles, NARROW, a); }                                      \
    static const ramet__scheme scheme_##ENC = {"rows_bf16", RAMET__REDUCED, rounded_bytes, prepare_row, scratch, {{256, 64}, {256, 64}, {192, 192}}, outer, round_row, NULL, 1};   \
    const ramet__product FN(product_rows_##ENC##_bf16) = {&scheme_##ENC, &ramet__packing_rows_##ENC, forward_##ENC, transposed_##ENC};
PRODUCT(BF16, decode_strip, strip_scratch, NULL)
PRODUCT(F32, decode_F32, rounded_scratch, outer)
PRODUCT(F16, decode_F16, rounded_scratch, NULL)

#ifdef RAMET__BUILD_AMX /* the same by AMX; its outer product wants rows of a, so that their columns' pairs are turned over, and wider strips, which are made first */
static uint64_t wide_rounded_scratch(int64_t m, int64_t n, int64_t k) {
    uint64_t rows = OUTPUTS * rounded_bytes(k), strip = wide_scratch(m, n, k);
    return rows > strip ? rows : strip;
}
static uint64_t turned_scratch(int64_t m, int64_t n, int64_t k) {
    uint64_t rows = wide_rounded_scratch(m, n, k), turned = wide_scratch(m, n, k) + GROUP * CHUNK * 2;
    return rows > turned ? rows : turned;
}
static void outer_amx(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, int32_t accumulate, int32_t rounded, void *scratch) {
    uint16_t *w = scratch, *pairs = w + CHUNK * WIDE, *turned = pairs + GROUP * CHUNK;
    for (int64_t l = 0; l < k; l += CHUNK) {
        const int64_t depth = k - l < CHUNK ? k - l : CHUNK;
        for (int64_t j = 0; j < n; j += WIDE) {
            const int64_t width = n - j < WIDE ? n - j : WIDE;
            strips_of(w, column(b + l * ldb, j, rounded), ldb, depth, width, rounded);
            for (int64_t i = 0; i < m; i += GROUP) {
                const int64_t rows = m - i < GROUP ? m - i : GROUP;
                interleave(pairs, GROUP, a + l * lda + i, lda, depth, rows);
                tile_turn((float *)(void *)turned, CHUNK / 2, (const float *)(const void *)pairs, GROUP, (depth + 1) / 2, rows);
                ramet__tiles_amx(c + i * ldc + j, ldc, rows, width, l > 0 || accumulate, (const uint32_t *)(const void *)turned, CHUNK / 2, w, (depth + 1) / 2);
            }
        }
    }
}
#define AMX_PRODUCT(ENC, decode, scratch, outer)                                                                                                   \
    static void amx_forward_##ENC(const ramet__product_args *a) {                                                                           \
        if (a->m >= ROWS) many_##ENC(ramet__tiles_amx, WIDE, a);                                                                                  \
        else forward_##ENC(a);                                                                                                              \
    }                                                                                                                                       \
    static void amx_transposed_##ENC(const ramet__product_args *a) { strip_transposed(decode, ramet__tiles_amx, WIDE, a); }                       \
    static const ramet__scheme amx_scheme_##ENC = {"rows_bf16", RAMET__REDUCED, rounded_bytes, prepare_row, scratch, {{256, WIDE}, {256, WIDE}, {384, 192}}, outer, round_row, NULL, 1}; \
    const ramet__product ramet__product_rows_##ENC##_bf16_amx = {&amx_scheme_##ENC, &ramet__packing_rows_##ENC, amx_forward_##ENC, amx_transposed_##ENC};
AMX_PRODUCT(BF16, decode_strip, wide_scratch, NULL)
AMX_PRODUCT(F32, decode_F32, turned_scratch, outer_amx)
AMX_PRODUCT(F16, decode_F16, wide_rounded_scratch, NULL)
#endif
