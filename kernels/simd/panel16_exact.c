/* SPDX-License-Identifier: Apache-2.0 */
/* panel16_exact.c - products of panel16 in fp32. Weights become floats (d * q + m, rounded once as the encoding defines), every
 * output is a sum of FMA chains, DEPTH of k each (forward) or CHUNK outputs each (transposed), in order: short chains keep rounding small
 * (one chain over a vocabulary of 49152 would be wrong by 1e-5), and an output's bits depend on nothing else in the call. */
#include "simd/panel16_exact.h"
#include "simd/tile.h"
#include "simd/panel16.h"

enum { PANELS = TILE_N / 16, STRIP = 64, DEPTH = 128, CHUNK = 256 }; /* panels a tile; columns of a transposed strip; lengths of chains */

static uint64_t prepared_bytes(int64_t k) { return ramet__round64((uint64_t)k * 4); }
static void prepare(void *dst, const float *x, int64_t k) { memcpy(dst, x, (size_t)k * 4); }
uint64_t FN(panel16_scratch)(int64_t m, int64_t n, int64_t k) {
    uint64_t forward = (uint64_t)k * TILE_N * 4, transposed = CHUNK * STRIP * 4;
    return forward > transposed ? forward : transposed;
}

/* Byte i of every dword of q, times d, plus m */
INLINE vf weight(vi q, int i, vf d, vf m) {
    vi byte = i == 0 ? q : i == 1 ? visrl(q, 8) : i == 2 ? visrl(q, 16) : visrl(q, 24);
    return vfma(d, vcvt(i < 3 ? viand(byte, viset(255)) : byte), m);
}

/* Up to FEW rows against `panels` of PAIR panels: VL weights at a time become floats, once for all rows; chains of two panels hide each other's latency. */
enum { FEW = 8, PAIR = 2 };
NOINLINE static void forward_few(int enc, int64_t bytes, const ramet__product_args *a, int64_t p, int64_t panels) {
    const int64_t blocks = a->k / 32, each = DEPTH / 32;
    const uint8_t *first = (const uint8_t *)a->packed + p * bytes;
    vf y[PAIR][FEW][HALVES];
    for (int64_t b = 0; b < blocks; b += each) {
        _Alignas(64) p16_block w[PAIR][DEPTH / 32];
        const int64_t end = b + each < blocks ? b + each : blocks;
        vf sum[PAIR][FEW][HALVES];
        for (int64_t c = 0; c < panels; c++) {
            FN(panel16_expand)(enc, w[c], first + c * bytes, b, end);
            const uint8_t *next = first + (end < blocks ? c * bytes + end * bytes / blocks : (c + panels) * bytes); /* two streams: hardware loses them */
            for (int64_t i = 0; i < each * bytes / blocks; i += 64) PREFETCH((uintptr_t)next + (uintptr_t)i, 2);
            for (int64_t r = 0; r < a->m; r++) UNROLL for (int h = 0; h < HALVES; h++) sum[c][r][h] = vzero();
        }
        for (int64_t i = 0; i < 32 * (end - b); i += VL)
            for (int64_t c = 0; c < panels; c++)
                UNROLL for (int h = 0; h < HALVES; h++) {
                    const p16_block *at = &w[c][i / 32];
                    const float *x = (const float *)a->x + 32 * b + i;
                    vf d = vload(at->d[i / 16 % 2] + h * VL), m = vload(at->m[i / 16 % 2] + h * VL), v[VL];
                    UNROLL for (int g = 0; g < VL / 4; g++) {
                        vi q = viload(at->q[i % 32 / 4 + g] + h * VL * 4);
                        UNROLL for (int j = 0; j < 4; j++) v[4 * g + j] = weight(q, j, d, m);
                    }
                    for (int64_t r = 0; r < a->m; r++, x += a->x_stride / 4) {
                        vf s = sum[c][r][h];
                        UNROLL for (int j = 0; j < VL; j++) s = vfma(vset(x[j]), v[j], s);
                        sum[c][r][h] = s;
                    }
                }
        for (int64_t c = 0; c < panels; c++)
            for (int64_t r = 0; r < a->m; r++)
                UNROLL for (int h = 0; h < HALVES; h++) {
                    const int64_t n = (p + c) * 16 + h * VL;
                    float *out = a->y + r * a->y_stride + n;
                    vf s = sum[c][r][h];
                    if (b) s = vadd(s, y[c][r][h]);
                    else if (a->bias) s = vadd(s, vget(a->bias + n, a->to - n));
                    if (!b && a->accumulate) s = vadd(s, vget(out, a->to - n));
                    if (end < blocks) y[c][r][h] = s;
                    else vput(out, s, a->to - n);
                }
    }
}

/* dst[k][TILE_N]: the panel's 16 columns */
static void decode_panel(int enc, float *dst, const uint8_t *panel, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++) {
        _Alignas(64) p16_block w;
        FN(panel16_expand)(enc, &w, panel, b, b + 1);
        for (int g = 0; g < 8; g++, dst += 4 * TILE_N)
            UNROLL for (int h = 0; h < HALVES; h++) {
                vi q = viload(w.q[g] + h * VL * 4);
                vf d = vload(w.d[g / 4] + h * VL), m = vload(w.m[g / 4] + h * VL);
                UNROLL for (int i = 0; i < 4; i++) vstore(dst + i * TILE_N + h * VL, weight(q, i, d, m));
            }
    }
}

NOINLINE static void forward(int enc, int64_t bytes, const ramet__product_args *a) {
    int64_t p = a->from / 16, end = (a->to + 15) / 16;
    if (a->m <= FEW) {
        for (; p < end; p += PAIR) forward_few(enc, bytes, a, p, end - p < PAIR ? end - p : PAIR);
        return;
    }
    float *w = a->scratch;
    for (; p < end; p += PANELS) {
        for (int64_t i = 0; i < PANELS; i++) {
            if (p + i < end) decode_panel(enc, w + 16 * i, (const uint8_t *)a->packed + (p + i) * bytes, a->k / 32);
            else for (int64_t j = 0; j < a->k; j++) memset(w + j * TILE_N + 16 * i, 0, 64);
        }
        tile_out t = {1.0f, a->bias ? a->bias + p * 16 : NULL, a->accumulate, 0};
        for (int64_t i = 0; i < a->k; i += DEPTH, t = (tile_out){1.0f, NULL, 1, 0})
            tile_rows(a->y + p * 16, a->y_stride, a->m, a->to - p * 16, (const float *)a->x + i, a->x_stride / 4, 1, w + i * TILE_N, TILE_N,
                      a->k - i < DEPTH ? a->k - i : DEPTH, &t);
    }
}

NOINLINE static void transposed(int enc, int64_t bytes, const ramet__product_args *a) {
    float *w = a->scratch;
    for (int64_t k = a->from; k < a->to; k += STRIP) {
        int64_t width = a->to - k < STRIP ? a->to - k : STRIP;
        for (int64_t n = 0; n < a->n; n += CHUNK) {
            int64_t depth = a->n - n < CHUNK ? a->n - n : CHUNK;
            for (int64_t o = 0; o < depth; o += 16)
                for (int64_t i = 0; i < width; i += 32)
                    p16_strip(enc, w + o * STRIP + i, STRIP, (const uint8_t *)a->packed + (n + o) / 16 * bytes, (k + i) / 32);
            tile_out t = {1.0f, NULL, n > 0 || a->accumulate, 0};
            for (int64_t i = 0; i < width; i += TILE_N)
                tile_rows(a->y + k + i, a->y_stride, a->m, width - i, (const float *)a->x + n, a->x_stride, 1, w + i, STRIP, depth, &t);
        }
    }
}

static const ramet__scheme scheme = {"panel16_f32", RAMET__EXACT, prepared_bytes, prepare, FN(panel16_scratch), {{128, 64}, {128, 64}}, NULL, NULL, NULL};
#define PRODUCT_AS(ENC, AS) /* AS: the encoding whose panels it has */                                                                  \
    const ramet__product FN(product_panel16_##ENC##_exact) = {&scheme, &ramet__packing_panel16_##ENC, forward_##AS, FN(panel16_transposed_##AS)};
#define PRODUCT(ENC)                                                                                                                    \
    static void forward_##ENC(const ramet__product_args *a) { forward(P16_##ENC, p16_bytes(P16_##ENC, a->k), a); }                      \
    void FN(panel16_transposed_##ENC)(const ramet__product_args *a) { transposed(P16_##ENC, p16_bytes(P16_##ENC, a->k), a); }           \
    PRODUCT_AS(ENC, ENC)
PRODUCT(Q4_0)
PRODUCT(Q4_1)
PRODUCT(Q5_0)
PRODUCT(Q5_1)
PRODUCT(Q8_0)
PRODUCT(Q4_K)
PRODUCT(Q5_K)
PRODUCT(Q6_K)
PRODUCT_AS(IQ4_NL, Q8_0)
