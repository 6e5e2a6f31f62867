/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c - products of the packing "rows" in fp32: encoded rows are read where they lie, a few at a time become floats in scratch (F32
 * rows are used as they are). Forward sums run in VL lanes over k and are folded at the end, so a result depends on its own row of x
 * and of W alone; transposed sums are FMA chains over CHUNK outputs. */
#include "blocks.h"
#include "registry.h"
#include "simd/tile.h"
#include "simd/int16.h"

#ifdef RAMET__VEC512
enum { ROWS = 6 };
#else
enum { ROWS = 3 };
#endif
enum { OUTPUTS = 4, STRIP = 64, CHUNK = 256 };

/* Elements k0.. of a row, filled up with zeros to a multiple of 16; k0 and, but at a row's end, count are multiples of 32. */
typedef void decoder(float *dst, const uint8_t *row, int64_t k0, int64_t count);

INLINE void fill_up(float *dst, int64_t count) { for (int64_t i = count; i % 16; i++) dst[i] = 0.0f; }

static void decode_F32(float *dst, const uint8_t *row, int64_t k0, int64_t count) {
    memcpy(dst, row + k0 * 4, (size_t)count * 4);
    fill_up(dst, count);
}
static void decode_F16(float *dst, const uint8_t *row, int64_t k0, int64_t count) {
    int64_t i = 0;
    row += k0 * 2;
    for (; i + VL <= count; i += VL) vstore(dst + i, vhalf(row + i * 2));
    ramet__decode_F16(dst + i, row + i * 2, count - i);
    fill_up(dst, count);
}
static void decode_BF16(float *dst, const uint8_t *row, int64_t k0, int64_t count) {
    int64_t i = 0;
    row += k0 * 2;
    for (; i + VL <= count; i += VL) vstore(dst + i, vbrain(row + i * 2));
    ramet__decode_BF16(dst + i, row + i * 2, count - i);
    fill_up(dst, count);
}
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

static const ramet__scheme scheme = {"rows_f32", RAMET__EXACT, prepared_bytes, prepare, scratch_bytes, 128, 64, NULL, NULL, NULL};
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

#ifdef RAMET__INT16
/* ---- by integers of 16 bits, both ways; a prepared row is its quants, then its scales ---- */
static int64_t quants16(int64_t k) { return (k + 31) / 32 * 64; }
static uint64_t prepared16_bytes(int64_t k) { return ramet__round64((uint64_t)(quants16(k) + (k + 31) / 32 * 4)); }
static void prepare16(void *dst, const float *x, int64_t k) { FN(int16_round)(dst, (float *)(void *)((uint8_t *)dst + quants16(k)), x, k); }

/* A stretch of weights as floats and as pairs; when transposed, of rows as well */
typedef struct room16 { float w[INT16_DEPTH * STRIP], w_d[INT16_DEPTH / 32 * INT16_COLS]; int32_t pairs[INT16_DEPTH / 2 * INT16_COLS]; } room16;
typedef struct row16 { float d[INT16_DEPTH / 32]; int16_t q[INT16_DEPTH]; } row16;
enum { ROWS16 = 192 }; /* of an outer product at a time */
static uint64_t scratch16_bytes(int64_t m, int64_t n, int64_t k) {
    (void)n, (void)k;
    return sizeof(room16) + (uint64_t)(m > ROWS16 ? m : ROWS16) * sizeof(row16);
}

NOINLINE static void forward16(decoder *decode, int64_t row_bytes, const ramet__product_args *a) {
    room16 *room = a->scratch;
    for (int64_t n = a->from; n < a->to; n += INT16_COLS)
        for (int64_t k = 0; k < a->k; k += INT16_DEPTH) {
            const int64_t depth = a->k - k < INT16_DEPTH ? a->k - k : INT16_DEPTH;
            const float *w[INT16_COLS];
            for (int64_t o = 0; o < INT16_COLS; o++) {
                w[o] = room->w + o * INT16_DEPTH;
                decode(room->w + o * INT16_DEPTH, (const uint8_t *)a->packed + (n + o < a->to ? n + o : a->to - 1) * row_bytes, k, depth);
            }
            FN(int16_outputs)(room->pairs, room->w_d, w, depth);
            const uint8_t *x = a->x;
            FN(int16_tile)(a->y + n, a->y_stride, a->m, a->to - n, (const int16_t *)(const void *)x + k, (const float *)(const void *)(x + quants16(a->k)) + k / 32, a->x_stride, a->x_stride,
                           room->pairs, room->w_d, (depth + 31) / 32, k || !a->bias ? NULL : a->bias + n, k || a->accumulate);
        }
}

NOINLINE static void transposed16(decoder *decode, int64_t row_bytes, const ramet__product_args *a) {
    room16 *room = a->scratch;
    row16 *rows = (void *)(room + 1);
    for (int64_t n = 0; n < a->n; n += INT16_DEPTH) {
        const int64_t depth = a->n - n < INT16_DEPTH ? a->n - n : INT16_DEPTH, whole = (depth + 31) / 32 * 32;
        for (int64_t r = 0; r < a->m; r++) FN(int16_round)(rows[r].q, rows[r].d, (const float *)a->x + r * a->x_stride + n, depth);
        for (int64_t k = a->from; k < a->to; k += STRIP) {
            const int64_t width = a->to - k < STRIP ? a->to - k : STRIP;
            memset(room->w + depth * STRIP, 0, (size_t)((whole - depth) * STRIP) * sizeof *room->w);
            for (int64_t o = 0; o < depth; o++) decode(room->w + o * STRIP, (const uint8_t *)a->packed + (n + o) * row_bytes, k, width);
            for (int64_t i = 0; i < width; i += INT16_COLS) {
                FN(int16_columns)(room->pairs, room->w_d, room->w + i, STRIP, whole);
                FN(int16_tile)(a->y + k + i, a->y_stride, a->m, width - i, rows->q, rows->d, sizeof *rows, sizeof *rows, room->pairs, room->w_d, whole / 32, NULL, n > 0 || a->accumulate);
            }
        }
    }
}

/* Columns of a become rows, ROWS16 at a time */
static void outer16(float *c, int64_t ldc, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k, int32_t accumulate, int32_t rounded, void *scratch) {
    room16 *room = scratch;
    row16 *rows = (void *)(room + 1);
    (void)rounded;
    for (int64_t at = 0; at < k; at += INT16_DEPTH, a += INT16_DEPTH * lda, b += INT16_DEPTH * ldb, accumulate = 1) {
        const int64_t depth = k - at < INT16_DEPTH ? k - at : INT16_DEPTH, whole = (depth + 31) / 32 * 32;
        for (int64_t from = 0; from < m; from += ROWS16) {
            const int64_t count = m - from < ROWS16 ? m - from : ROWS16;
            for (int64_t i = 0; i < count; i++) {
                if (i % STRIP == 0) tile_turn(room->w, INT16_DEPTH, a + from + i, lda, depth, count - i < STRIP ? count - i : STRIP);
                FN(int16_round)(rows[i].q, rows[i].d, room->w + i % STRIP * INT16_DEPTH, depth);
            }
            memset(room->w, 0, (size_t)(whole * INT16_COLS) * sizeof *room->w);
            for (int64_t j = 0; j < n; j += INT16_COLS) {
                for (int64_t i = 0; i < depth; i++) memcpy(room->w + i * INT16_COLS, b + i * ldb + j, (size_t)(n - j < INT16_COLS ? n - j : INT16_COLS) * sizeof *b);
                FN(int16_columns)(room->pairs, room->w_d, room->w, INT16_COLS, whole);
                FN(int16_tile)(c + from * ldc + j, ldc, count, n - j, rows->q, rows->d, sizeof *rows, sizeof *rows, room->pairs, room->w_d, whole / 32, NULL, accumulate);
            }
        }
    }
}

static const ramet__scheme scheme16 = {"rows_int16", RAMET__BRAIN, prepared16_bytes, prepare16, scratch16_bytes, 128, 128, outer16, NULL, NULL};
#define PRODUCT16(ENC)                                                                                                                      \
    static void forward16_##ENC(const ramet__product_args *a) { forward16(decode_##ENC, ramet__row_##ENC(a->k), a); }                       \
    static void transposed16_##ENC(const ramet__product_args *a) { transposed16(decode_##ENC, ramet__row_##ENC(a->k), a); }                 \
    const ramet__product FN(product_rows_##ENC##_int16) = {&scheme16, &ramet__packing_rows_##ENC, forward16_##ENC, transposed16_##ENC};
PRODUCT16(F32)
PRODUCT16(F16)
PRODUCT16(BF16)
#endif
