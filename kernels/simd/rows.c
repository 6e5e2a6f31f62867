/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c - products of the packing "rows" in fp32: encoded rows are read where they lie, a few at a time become floats in scratch (F32
 * rows are used as they are). Forward sums run in VL lanes over k and are folded at the end, so a result depends on its own row of x
 * and of W alone; transposed sums are FMA chains over CHUNK outputs. */
#include "blocks.h"
#include "registry.h"
#include "simd/tile.h"
#include "simd/rows.h"

#ifdef RAMET__VEC512
enum { ROWS = 6 };
#else
enum { ROWS = 3 };
#endif
enum { OUTPUTS = 4, STRIP = 64, CHUNK = 256 };

#ifndef RAMET__VEC512 /* AVX2's serve there too: decoding takes most of the time */
/* Elements k0.. of a row whose blocks can only be decoded whole, by the definition. */
static void decode_part(void (*decode)(float *, const void *, int64_t), int64_t block, int64_t bytes, float *dst, const uint8_t *row, int64_t k0,
                        int64_t count) {
    while (count > 0) {
        int64_t at = k0 % block, n = block - at < count ? block - at : count;
        const uint8_t *from = row + k0 / block * bytes;
        if (n == block) decode(dst, from, block);
        else {
            float whole[256];
            decode(whole, from, block);
            memcpy(dst, whole + at, (size_t)n * 4);
        }
        dst += n, k0 += n, count -= n;
    }
}
#define DECODE_PART(ENC, block, bytes) \
    static void decode_##ENC(float *dst, const uint8_t *row, int64_t k0, int64_t count) { decode_part(ramet__decode_##ENC, block, bytes, dst, row, k0, count); }
RAMET__LOW(DECODE_PART)
#endif

static uint64_t prepared_bytes(int64_t k) { return ramet__round64((uint64_t)k * 4); }
static void prepare(void *dst, const float *x, int64_t k) {
    memcpy(dst, x, (size_t)k * 4);
    fill_up(dst, k);
}
static uint64_t scratch_bytes(int64_t m, int64_t n, int64_t k) {
    uint64_t forward = OUTPUTS * prepared_bytes(k), transposed = CHUNK * STRIP * 4;
    return forward > transposed ? forward : transposed;
}

/* R rows of x against OUTPUTS rows of W, each padded to whole vectors but for the rows of an F32 weight: their last vector has `last`
 * elements. */
INLINE void block(const int R, const int whole, const ramet__product_args *a, int64_t row, int64_t n, const float *const w[OUTPUTS], int64_t last) {
    vf sum[ROWS][OUTPUTS];
    const uint8_t *x = (const uint8_t *)a->x + row * a->x_stride;
    int64_t k = (a->k - last) / VL * VL, i = 0;
    if (whole) k = (a->k + VL - 1) / VL * VL;
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int o = 0; o < OUTPUTS; o++) sum[r][o] = vzero();
    for (; i < k; i += VL) {
        vf v[OUTPUTS];
        UNROLL for (int o = 0; o < OUTPUTS; o++) v[o] = vload(w[o] + i);
        UNROLL for (int r = 0; r < R; r++) {
            vf u = vload((const float *)(const void *)(x + r * a->x_stride) + i);
            UNROLL for (int o = 0; o < OUTPUTS; o++) sum[r][o] = vfma(u, v[o], sum[r][o]);
        }
    }
    if (!whole && last)
        UNROLL for (int o = 0; o < OUTPUTS; o++) {
            vf v = vload_n(w[o] + i, last);
            UNROLL for (int r = 0; r < R; r++) sum[r][o] = vfma(vload((const float *)(const void *)(x + r * a->x_stride) + i), v, sum[r][o]);
        }
    int64_t outputs = a->to - n < OUTPUTS ? a->to - n : OUTPUTS;
    UNROLL for (int r = 0; r < R; r++) {
        float s[OUTPUTS], *y = a->y + (row + r) * a->y_stride + n;
        UNROLL for (int o = 0; o < OUTPUTS; o++) s[o] = vsum(sum[r][o]);
        for (int64_t o = 0; o < outputs; o++) {
            float v = s[o];
            if (a->bias) v += a->bias[n + o];
            y[o] = a->accumulate ? v + y[o] : v;
        }
    }
}

INLINE void forward(const int in_place, decoder *decode, int64_t row_bytes, const ramet__product_args *a) {
    int64_t pad = (int64_t)prepared_bytes(a->k) / 4, last = a->k % VL;
    float *scratch = a->scratch;
    for (int64_t n = a->from; n < a->to; n += OUTPUTS) {
        const float *w[OUTPUTS];
        for (int64_t o = 0; o < OUTPUTS; o++) {
            int64_t at = n + o < a->to ? n + o : a->to - 1; /* past the end: the last row again, its sums dropped */
            const uint8_t *row = (const uint8_t *)a->packed + at * row_bytes;
            if (in_place) w[o] = (const float *)(const void *)row;
            else {
                decode(scratch + o * pad, row, 0, a->k);
                w[o] = scratch + o * pad;
            }
        }
        int64_t r = 0;
        for (; r + ROWS <= a->m; r += ROWS) block(ROWS, !in_place, a, r, n, w, last);
        for (; r < a->m; r++) block(1, !in_place, a, r, n, w, last);
    }
}

/* one copy for all encodings that are decoded first */
NOINLINE static void forward_decoded(decoder *decode, int64_t row_bytes, const ramet__product_args *a) { forward(0, decode, row_bytes, a); }

NOINLINE static void transposed(decoder *decode, int64_t row_bytes, const ramet__product_args *a) {
    float *w = a->scratch;
    for (int64_t k = a->from; k < a->to; k += STRIP) {
        int64_t width = a->to - k < STRIP ? a->to - k : STRIP;
        for (int64_t n = 0; n < a->n; n += CHUNK) {
            int64_t depth = a->n - n < CHUNK ? a->n - n : CHUNK;
            for (int64_t o = 0; o < depth; o++) decode(w + o * STRIP, (const uint8_t *)a->packed + (n + o) * row_bytes, k, width);
            tile_out t = {1.0f, NULL, n > 0 || a->accumulate, 0};
            for (int64_t i = 0; i < width; i += TILE_N)
                tile_rows(a->y + k + i, a->y_stride, a->m, width - i, (const float *)a->x + n, a->x_stride, 1, w + i, STRIP, depth, &t);
        }
    }
}

static const ramet__scheme scheme = {"rows_f32", RAMET__EXACT, prepared_bytes, prepare, scratch_bytes, {{128, 64}, {128, 64}}, NULL, NULL, NULL};
#define FORWARD_1(decode, bytes, a) forward(1, decode, bytes, a)
#define FORWARD_0 forward_decoded
#define PRODUCT(ENC, in_place)                                                                                                              \
    static void forward_##ENC(const ramet__product_args *a) { FORWARD_##in_place(decode_##ENC, ramet__row_##ENC(a->k), a); }                 \
    static void transposed_##ENC(const ramet__product_args *a) { transposed(decode_##ENC, ramet__row_##ENC(a->k), a); }                   \
    const ramet__product FN(product_rows_##ENC##_exact) = {&scheme, &ramet__packing_rows_##ENC, forward_##ENC, transposed_##ENC};
PRODUCT(F32, 1)
PRODUCT(F16, 0)
PRODUCT(BF16, 0)
#ifndef RAMET__VEC512
#define PRODUCT_LOW(ENC, block, bytes) PRODUCT(ENC, 0)
RAMET__LOW(PRODUCT_LOW)
#endif
